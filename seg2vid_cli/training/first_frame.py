"""Train the label-map-to-picture generator against discriminators.

The judges are chosen with `--judge`: see `seg2vid_cli.training.judges`.

A perceptual network, if there is one, adds what a frozen reader of real pictures makes of painted
ones: see `seg2vid_cli.training.perceptual`.

A generator that is guided by edges is mostly given a sketch later, whose edges are where no real
picture has them. So part of the pictures are painted along sketches: what was painted there is
compared with the real picture by textures class by class and by large colours, not by pixels.

What colour each house or car has, a label map does not say either, so the generator is told the
mean colour of every place, and what it paints is brought to that before it is judged: see
`seg2vid_cli.palette`. At the end the colours of real places are measured, for others to be drawn.

A style encoder sees the real picture, so the generator need not guess light and colours and can be
asked for them later; its code is kept near a standard normal, from which generation draws.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from copy import deepcopy
from dataclasses import dataclass, replace
from itertools import pairwise
from typing import Any, cast

import numpy as np
import torch
from numpy.typing import NDArray
from PIL import Image
from torch import Tensor, nn
from torch.nn import functional as F

from seg2vid_cli.device import mixed_precision
from seg2vid_cli.edges import laplacian_edges
from seg2vid_cli.errors import InputError
from seg2vid_cli.first_frame import match_colours, place_means
from seg2vid_cli.label_sets import CLASSES, NUM_CLASSES
from seg2vid_cli.networks.edge_detector import EdgeDetector
from seg2vid_cli.networks.label_unet import LabelUNet, LabelUNetConfig, Palette, StyledConv
from seg2vid_cli.palette import find_places, mean_colours
from seg2vid_cli.sketch import sketch_edges
from seg2vid_cli.training import data, perceptual
from seg2vid_cli.training.judges import (
    FeatureJudge,
    JudgeKind,
    PatchJudge,
    Scene,
    SegmentationDiscriminator,
    class_weights,
    draw_colour_change,
    halve,
)
from seg2vid_cli.training.loop import check_start, grid_picture
from seg2vid_cli.training.losses import kl_to_normal
from seg2vid_cli.training.palette import CELL_PX, measure_palette
from seg2vid_cli.training.perceptual import (
    PerceptualNetwork,
    VggReader,
    look_at,
    perceptual_losses,
)

DEFAULT_SIZE_HW = (128, 256)
STYLE_SIZE = 16
COLOURS = 3  # planes, RGB
COLOUR_WEIGHT = 5.0
# Patches leave the large to L1. A segmentation network knows detail, so colours need be right only
# in cells of so many pixels.
COLOUR_CELL: Mapping[str, int] = {"patches": 1, "classes": 8}
SKETCHED = 0.6  # of the pictures, where sketches are taught
SKETCHED_COLOUR_CELL = 16
KL_WEIGHT = 0.02
WARM_UP = 0.06  # share of the time in which generator and discriminator learn apart
MIX_EVERY = 4  # steps
ZOOM = (0.7, 1.0)
WINDOW_HW = (128, 256)  # of larger pictures, training sees windows of this size
AROUND_RARE = 0.5  # of the windows
RARE = (4, 5, 6, 7, 11, 12, 13, 14, 15, 16, 17, 18)  # fences, poles, signs, people, vehicles
STATISTICS_BATCHES = 60
BETAS = (0.5, 0.99)
SIDE_MULTIPLE = 32


def generator_config(size_hw: tuple[int, int]) -> LabelUNetConfig:
    """The generator for a working size. Widths are the same for all, so one can start another."""
    return LabelUNetConfig(
        size_hw=size_hw,
        label_planes=NUM_CLASSES,
        style_size=STYLE_SIZE,
        channels=(32, 64, 128, 192, 256),
        middle_blocks=2,
        up_blocks=1,
        upsampling="bilinear",
        noise="middle",
    )


def take_over(generator: LabelUNet, start: nn.Module) -> None:
    """Begin with a trained generator; one that lacks noise in the middle, colours, or blocks on the
    way up does as well: new blocks add nothing at first.

    Args:
        generator: To be filled.
        start: Of the same widths.

    Raises:
        InputError: It is another network.
    """
    hint = "leave --start out, or give weights from seg2vid train first-frame"
    if isinstance(start, LabelUNet) and generator.config.colour_planes > start.config.colour_planes:
        start = _with_colours(start, generator.config.colour_planes)
    if isinstance(start, LabelUNet) and start.config.palette and generator.palette is None:
        plain = LabelUNet(replace(start.config, palette=False))
        plain.load_state_dict(start.state_dict(), strict=False)
        start = plain
    may_lack = ("middle_noise.", "palette.", "up_blocks.", "up_gains.")
    check_start(start, generator, may_lack=may_lack, hint=hint)
    generator.load_state_dict(start.state_dict(), strict=False)


def _with_colours(generator: LabelUNet, colour_planes: int) -> LabelUNet:
    """The same generator with planes for colours, which it pays no heed to yet."""
    larger = LabelUNet(replace(generator.config, colour_planes=colour_planes))
    wanted, state = larger.state_dict(), generator.state_dict()
    more = colour_planes - generator.config.colour_planes
    for name, weight in state.items():
        if weight.shape != wanted[name].shape:  # planes come last wherever they are read
            state[name] = F.pad(weight, (0, 0, 0, 0, 0, more))
    larger.load_state_dict(state, strict=False)
    return larger


def check_size(size_hw: tuple[int, int]) -> None:
    """Make sure that all scales of the networks fit into a working size.

    Raises:
        InputError: They do not.
    """
    if min(size_hw) < 2 * SIDE_MULTIPLE or any(side % SIDE_MULTIPLE for side in size_hw):
        raise InputError(
            f"size {size_hw[1]}x{size_hw[0]} cannot be trained at",
            hint=f"both sides must be multiples of {SIDE_MULTIPLE}, from {2 * SIDE_MULTIPLE} on",
        )


@dataclass(frozen=True, kw_only=True)
class Batch:
    """Labelled pictures to paint.

    Args:
        real: `(B, 3, H, W)` in [0, 1].
        planes: `(B, 20, H, W)` one-hot.
        colours: `(B, 3, H, W)` with the mean colour of every place, or `(B, 0, H, W)`.
        sketches: `(B, 1, H, W)`, 1 = edge, where a picture is painted along a sketch.
        sketched: bool `(B,)`, which ones are.
        known: `(B, H / 2, W / 2)` classes, before any were given the names of look-alikes.
    """

    real: Tensor
    planes: Tensor
    colours: Tensor
    sketches: Tensor
    sketched: Tensor
    known: Tensor

    def to(self, device: torch.device) -> Batch:
        """Copy to a device, pictures with channels last."""
        return Batch(
            **{
                name: x.to(device, memory_format=torch.channels_last)
                if x.ndim == 4
                else x.to(device)
                for name, x in vars(self).items()
            }
        )


class StyleEncoder(nn.Module):
    """Picture to mean and log variance of its style code."""

    def __init__(self, style_size: int) -> None:
        super().__init__()
        widths = (3, 32, 64, 96, 128)
        self.layers = nn.ModuleList(nn.Conv2d(a, b, 3, 2, 1) for a, b in pairwise(widths))
        self.head = nn.Linear(widths[-1], 2 * style_size)

    def forward(self, frame: Tensor) -> tuple[Tensor, Tensor]:
        """`(B, 3, H, W)` to two `(B, style_size)`."""
        x = F.avg_pool2d(frame, 2) - 0.5
        for layer in self.layers:
            x = F.leaky_relu(layer(x), 0.2)
        mean, log_variance = self.head(x.mean(dim=(2, 3))).chunk(2, dim=1)
        return mean, log_variance


def draw_style(mean: Tensor, log_variance: Tensor) -> Tensor:
    """One style per picture from what `StyleEncoder` says of it, `(B, style_size)`."""
    return mean + torch.randn_like(mean) * (0.5 * log_variance).exp()


@torch.no_grad()
def match_styles(network: nn.Module, styles: Tensor) -> Tensor:
    """Change a generator so that standard normal draws give the styles of real pictures.

    Each picture's styles are held near a standard normal, but not tightly; all of them together
    have another mean and covariance, and draws from outside them have garish colours. The layers
    that read the style take over the linear map from one to the other.

    Args:
        network: A generator, or a network that holds one.
        styles: `(N, style_size)`, drawn for many real pictures.

    Returns:
        What the styles are called now, with mean 0 and covariance 1.
    """
    mean = styles.float().mean(0)
    factor = torch.linalg.cholesky(
        torch.cov(styles.float().T) + 1e-4 * torch.eye(len(mean)).to(mean)
    )
    for module in network.modules():
        if isinstance(module, StyledConv):
            weight = module.style.weight
            module.style.bias.add_(weight @ mean)
            weight.copy_(weight @ factor)
    matched: Tensor = torch.linalg.solve_triangular(
        factor, (styles.float() - mean).T, upper=False
    ).T
    return matched


def forget_statistics(network: nn.Module) -> None:
    """Make batch norms measure anew, as a plain mean over all batches that follow."""
    for module in network.modules():
        if isinstance(module, nn.BatchNorm2d):
            module.reset_running_stats()
            module.momentum = None


class FirstFrameTask:
    """Generator against its judges.

    Args:
        pairs: Training pairs.
        size_hw: Working size of the generator.
        seed: Of weights and augmentation.
        batch: Pictures per step.
        device: Where to train.
        start: The trained generator that this one begins with, if any.
        keep: Share of `start` in the weights that are kept in the end. The mean of two trainings of
            one generator is often better than either.
        judge: `patches` or `classes`.
        teacher: Perceptual network, trained and frozen, or None to do without.
        detector: Edge detector, trained and frozen: the generator is guided by the edges of the
            real pictures. None for one that paints from labels alone.
        colours: Whether the generator is told what colour every place has.
        sketches: Whether it follows sketches in part of the pictures; with a detector only.
    """

    name = "first-frame"
    progress = 0.0
    learning_rate = 4e-4

    def __init__(
        self,
        pairs: Sequence[data.Pair],
        *,
        size_hw: tuple[int, int] = DEFAULT_SIZE_HW,
        seed: int = 0,
        batch: int = 8,
        device: str = "cpu",
        start: nn.Module | None = None,
        keep: float = 0.0,
        judge: JudgeKind = "patches",
        teacher: PerceptualNetwork | VggReader | None = None,
        detector: EdgeDetector | None = None,
        colours: bool = False,
        sketches: bool = False,
    ) -> None:
        check_size(size_hw)
        assert detector is not None or not sketches
        torch.manual_seed(seed)
        self.device = torch.device(device)
        config = generator_config(size_hw)
        if detector is not None:
            config = replace(config, edge_planes=1)
            detector.to(self.device)
        if colours:
            config = replace(config, colour_planes=COLOURS)
        self._detector = detector
        generator = LabelUNet(config)
        if start is not None:
            take_over(generator, start)
            start = deepcopy(generator)
        self.network: nn.Module = generator
        self.helpers = nn.ModuleDict(
            {
                "style": StyleEncoder(STYLE_SIZE),
                "judge": PatchJudge() if judge == "patches" else SegmentationDiscriminator(),
            }
        )
        if isinstance(teacher, VggReader):
            self.helpers["features"] = FeatureJudge()
        self._kind = judge
        self.settings: Mapping[str, Any] = {
            "judge": judge,
            "perceptual": teacher is not None,
            "vgg": isinstance(teacher, VggReader),
            "sketches": sketches,
        }
        for module in (self.network, self.helpers):
            module.to(self.device).to(memory_format=torch.channels_last)  # type: ignore[call-overload]
        makers = [*self.network.parameters(), *self.helpers["style"].parameters()]
        judges = [p for name, m in self.helpers.items() if name != "style" for p in m.parameters()]
        self.optimizers: dict[str, torch.optim.Optimizer] = {
            "generator": torch.optim.Adam(makers, self.learning_rate, betas=BETAS),
            "discriminator": torch.optim.Adam(judges, self.learning_rate, betas=BETAS),
        }
        self.steps = 0
        self._start, self._keep = start, keep
        self._perceptual = teacher
        if teacher is not None:
            teacher.to(self.device).to(memory_format=torch.channels_last)  # type: ignore[call-overload]

        def make(rng: np.random.Generator) -> Batch:
            pairs_drawn = [pairs[i] for i in rng.integers(len(pairs), size=batch)]
            sketched = rng.random(batch) < (SKETCHED if sketches else 0)
            crops = []
            for pair, along_sketch in zip(pairs_drawn, sketched, strict=True):
                picture, ids = data.crop_pair(pair, size_hw, rng, zoom=ZOOM)
                given = data.diversify_classes(ids, rng)
                # Of whole pictures: a window may show half a house.
                told = tell(picture, given, rng, colours=colours, sketch=along_sketch)
                crops.append(
                    cut_window(np.dstack([told, ids]), given, rng, near=draw_rare(ids, rng))
                )
            pictures = data.to_tensor([told[..., :-1] for told, _ in crops])
            last = pictures.shape[1] - 1
            return Batch(
                real=pictures[:, :3],
                planes=data.to_planes([given for _, given in crops]),
                colours=pictures[:, 3:last],
                sketches=pictures[:, last:],
                sketched=torch.from_numpy(sketched),
                # What a place is called in the data, for a network that knows no other names.
                known=halve(data.to_planes([told[..., -1] for told, _ in crops])),
            )

        self.batches = data.prefetch(make, seed)

    def step(self) -> Mapping[str, float]:
        """One step of generator and discriminator together, on the same pictures.

        Both losses are read from one pass of the discriminator, each driving its own network.
        """
        self.last = batch = next(self.batches).to(self.device)
        real, planes = batch.real, batch.planes
        follows = ~batch.sketched
        self.steps += 1
        ids = halve(planes)
        scene = Scene(
            planes=planes,
            ids=ids,
            weights=class_weights(ids),
            change=draw_colour_change(len(real), self.device),
            mix=self.steps % MIX_EVERY == 0,
            follows=follows,
        )
        judge = cast("PatchJudge | SegmentationDiscriminator", self.helpers["judge"])
        warming = self.progress < WARM_UP
        # An ignorant judge would only lead astray: until it knows something, the generator learns
        # mean colours alone, and one that has been trained before nothing at all.
        self.network.requires_grad_(not (warming and self._start is not None))
        self.network.train()
        with mixed_precision(self.device):
            mean, log_variance = self.helpers["style"](real)
            style = draw_style(mean, log_variance)
            fake = self._paint(self.network, batch, style)
            judged = fake.detach().requires_grad_()
            if warming:
                asked = judged.sum() * 0
                caught = judge.knowledge(judged, real, scene)
            else:
                asked, caught = judge.losses(judged, real, scene)
            apart = read = judged.new_zeros(())
            teacher, by_features = self._perceptual, "features" in self.helpers
            if teacher is not None and (by_features or not warming):
                seen = look_at(teacher, judged, real)
            if by_features:
                feature_judge = cast("FeatureJudge", self.helpers["features"])
                pleased, noticed = feature_judge.losses(seen, planes)
                caught = caught + noticed
                asked = asked if warming else asked + pleased
            if teacher is not None and not warming:
                weights = class_weights(batch.known).sqrt()
                apart, read = perceptual_losses(
                    seen, batch.known, weights, planes=planes, follows=follows
                )
                asked = asked + perceptual.FEATURE_WEIGHT * apart + perceptual.READ_WEIGHT * read
        (wish,) = torch.autograd.grad(asked, [judged], retain_graph=True)
        colour = torch.zeros_like(batch.real[:, 0, 0, 0])
        for some, cell in ((follows, COLOUR_CELL[self._kind]), (~follows, SKETCHED_COLOUR_CELL)):
            mine, theirs = (F.avg_pool2d(x.float(), 1 if warming else cell) for x in (fake, real))
            colour = torch.where(some, (mine - theirs).abs().mean((1, 2, 3)), colour)
        colour = colour.mean()
        kl = kl_to_normal(mean.float(), log_variance.float())
        for optimizer in self.optimizers.values():
            optimizer.zero_grad()
        torch.autograd.backward(
            [fake, COLOUR_WEIGHT * colour + KL_WEIGHT * kl], [wish, torch.ones_like(kl)]
        )
        caught.backward(inputs=self.optimizers["discriminator"].param_groups[0]["params"])
        for optimizer in self.optimizers.values():
            optimizer.step()
        values = {"asked": asked, "colour": colour, "kl": kl, "discriminator": caught}
        if teacher is not None:
            values |= {"apart": apart, "read": read}
        if by_features:
            values |= {"pleased": pleased, "noticed": noticed}
        return {name: value.item() for name, value in values.items()}

    @torch.no_grad()
    def finish(self, network: nn.Module) -> None:
        """Let normal draws give real pictures' styles, and measure the batch norms anew.

        Their statistics of the training belong to other weights. Starting weights are mixed in
        between, which have had all this done to them before.
        """
        encoder = self.helpers["style"]
        palette = network.palette if isinstance(network, LabelUNet) else None
        styles, places = [], []
        for _ in range(STATISTICS_BATCHES):
            batch = next(self.batches)
            styles.append(draw_style(*encoder(batch.real.to(self.device))))
            if palette is not None:
                places.append([F.avg_pool2d(x, CELL_PX) for x in (batch.planes, batch.colours)])
        matched = match_styles(network, torch.cat(styles)).cpu()
        if palette is not None:
            measured = Palette(NUM_CLASSES, STYLE_SIZE)
            planes, colours = (torch.cat(parts) for parts in zip(*places, strict=True))
            measure_palette(measured, planes, colours, matched)
            palette.load_state_dict(measured.state_dict())
        if self._start is not None and self._keep:
            before = dict(self._start.named_parameters())
            for name, weight in network.named_parameters():
                if name in before:
                    weight.lerp_(before[name].to(weight), self._keep)
        forget_statistics(network)
        network.train()
        for _ in range(STATISTICS_BATCHES):
            batch = next(self.batches).to(self.device)
            style = torch.randn(len(batch.planes), STYLE_SIZE, device=self.device)
            if palette is not None:
                style = palette.draw_style(torch.randn(len(style), device=self.device), style)
            self._paint(network, batch, style)
        network.eval()

    @torch.no_grad()
    def _edges(self, batch: Batch) -> Tensor | None:
        """What the detector finds in real pictures or sketches, `(B, 1, H, W)`."""
        if self._detector is None:
            return None
        seen = laplacian_edges(batch.real, self._detector.config.threshold)
        along_sketch = batch.sketched[:, None, None, None]
        found: Tensor = self._detector(torch.where(along_sketch, batch.sketches.to(seen), seen))
        return found

    def _paint(self, network: nn.Module, batch: Batch, style: Tensor) -> Tensor:
        """Paint with noise, or with edges instead of it, and with colours as far as there are."""
        planes, edges = batch.planes, self._edges(batch)
        if edges is None:
            told = torch.cat([planes, batch.colours], dim=1)
            painted: Tensor = network(told, style, torch.randn_like(planes[:, :1]))
        else:
            told = torch.cat([planes, edges.to(planes.dtype), batch.colours], dim=1)
            painted = network(told, style)
        return bring_colours(painted.float(), batch) if batch.colours.shape[1] else painted

    @torch.no_grad()
    def sample_sheet(self, network: nn.Module) -> Image.Image:
        """Rows: label maps, real pictures, two samples."""
        colours = torch.tensor([c.colour for c in CLASSES], device=self.device) / 255
        batch = Batch(**{name: tensor[:4] for name, tensor in vars(self.last).items()})
        maps = colours[batch.planes.argmax(1)].permute(0, 3, 1, 2)
        generator = torch.Generator().manual_seed(1)
        styles = torch.randn((2, 1, STYLE_SIZE), generator=generator).to(self.device)
        samples = [
            list(self._paint(network, batch, style.expand(len(batch.planes), -1)))
            for style in styles
        ]
        return grid_picture([list(maps), list(batch.real), *samples])


def bring_colours(painted: Tensor, batch: Batch) -> Tensor:
    """Bring places to the colours that they have in the real pictures, as far as these show them.

    Later they are brought to colours that are drawn, so judges should see what this makes of them.

    Args:
        painted: `(B, 3, H, W)` in [0, 1].
        batch: What was painted, with the colours of its places.
    """
    red, green, blue = (batch.colours * 255).round().long().unbind(1)
    brought = []
    # A place is what is of one class and was told one colour.
    keys = ((batch.planes.argmax(1) * 256 + red) * 256 + green) * 256 + blue
    for frame, real, key in zip(painted.split(1), batch.real.split(1), keys, strict=True):
        kinds, places = key.unique(return_inverse=True)
        colours = place_means(real, places, len(kinds))
        brought.append(match_colours(frame, places, colours))
    return torch.cat(brought)


def tell(
    picture: NDArray[np.uint8],
    train_ids: NDArray[np.uint8],
    rng: np.random.Generator,
    *,
    colours: bool,
    sketch: bool,
) -> NDArray[np.uint8]:
    """A picture with what the generator is told of it behind.

    Args:
        picture: `(H, W, 3)`.
        train_ids: `(H, W)`.
        rng: Decides where houses begin, the same ones for colours and sketch.
        colours: Whether the mean colours of its places are.
        sketch: Whether there is a sketch; else that plane is empty.

    Returns:
        `(H, W, 4)` or `(H, W, 7)`, the sketch last, 255 where an edge is.
    """
    seed = int(rng.integers(2**63))
    planes = [picture]
    if colours:
        places = find_places(train_ids, np.random.default_rng(seed))
        planes.append(mean_colours(picture, places))
    edges = np.zeros(train_ids.shape, np.bool_)
    if sketch:
        edges = sketch_edges(train_ids, np.random.default_rng(seed))
    return np.dstack([*planes, edges.astype(np.uint8) * 255])


def draw_rare(train_ids: NDArray[np.uint8], rng: np.random.Generator) -> tuple[int, int] | None:
    """Draw a pixel of something small and rare, which random windows seldom show.

    Args:
        train_ids: `(H, W)`.
        rng: Source of the choice: a class that is there, then one of its pixels.

    Returns:
        Row and column; None for the other pictures, and where there is nothing of that kind.
    """
    if rng.random() >= AROUND_RARE:
        return None
    there = np.intersect1d(train_ids, RARE)
    if not there.size:
        return None
    rows, columns = np.nonzero(train_ids == rng.choice(there))
    pixel = int(rng.integers(rows.size))
    return int(rows[pixel]), int(columns[pixel])


def cut_window(
    picture: NDArray[np.uint8],
    train_ids: NDArray[np.uint8],
    rng: np.random.Generator,
    *,
    near: tuple[int, int] | None = None,
) -> tuple[NDArray[np.uint8], NDArray[np.uint8]]:
    """Cut a random window out of a large picture: steps cost less, so there are more of them.

    Args:
        picture: `(H, W, C)`.
        train_ids: `(H, W)`.
        rng: Source of the place.
        near: Row and column of what the window has to show, if anything.

    Returns:
        Both, no larger than `WINDOW_HW`.
    """
    window = []
    for axis, (side, limit) in enumerate(zip(train_ids.shape, WINDOW_HW, strict=True)):
        length = min(side, limit)
        first, last = 0, side - length
        if near is not None:
            first, last = max(first, near[axis] - length + 1), min(last, near[axis])
        start = int(rng.integers(first, last + 1))
        window.append(slice(start, start + length))
    return picture[window[0], window[1]], train_ids[window[0], window[1]]
