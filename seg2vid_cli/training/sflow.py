"""Train a generator that is guided by edges, and the detector that makes them look real.

- For the first part of the time the generator paints from the Laplacian edges of the real picture,
  while the detector learns by itself; then both learn together, and the generator sees what the
  detector makes, in random mixes of its side outputs.
- No rendered pictures belong to real ones. A real picture without its fine detail stands in for
  one: its edges are what the detector reads, and the edges of the real picture what it should say.
- Of every batch, half are two consecutive frames of a driving clip. The flow between the two
  pictures painted of them should be the flow between the two real ones.

Source: "S-Flow GAN" (Miron and Coscas, 2019). What differs: no perceptual loss of an ImageNet
network, but the Laplacian of the painted picture compared with the real one's, in every channel;
and the flow of the painted pictures is not estimated from scratch, but one Lucas-Kanade step away
from the real one's, which is zero where both are the same.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any, cast

import cv2
import numpy as np
import torch
from numpy.typing import NDArray
from PIL import Image
from torch import Tensor, nn
from torch.nn import functional as F

from seg2vid_cli.device import mixed_precision
from seg2vid_cli.edges import laplacian, laplacian_edges, mix_factors
from seg2vid_cli.errors import InputError
from seg2vid_cli.label_sets import CLASSES, NUM_CLASSES
from seg2vid_cli.networks.edge_detector import EdgeDetector, EdgeDetectorConfig
from seg2vid_cli.networks.label_unet import LabelUNet, LabelUNetConfig
from seg2vid_cli.training import data
from seg2vid_cli.training.clips import DriveClip, classical_flow
from seg2vid_cli.training.first_frame import (
    BETAS,
    COLOUR_WEIGHT,
    KL_WEIGHT,
    STATISTICS_BATCHES,
    STYLE_SIZE,
    WARM_UP,
    ZOOM,
    StyleEncoder,
    check_size,
    cut_window,
    draw_style,
    forget_statistics,
    generator_config,
    match_styles,
)
from seg2vid_cli.training.judges import (
    PatchJudge,
    Scene,
    class_weights,
    draw_colour_change,
    halve,
)
from seg2vid_cli.training.loop import grid_picture
from seg2vid_cli.training.losses import kl_to_normal, masked_mean
from seg2vid_cli.warp import backward_warp

EDGES = EdgeDetectorConfig(
    channels=(16, 32, 64, 96, 128), convolutions=(2, 2, 3, 3, 3), threshold=0.08
)
RICH = 0.3  # share of pictures whose true edges the detector reads
ALONE = 0.4  # share of the time before generator and detector learn together
SIDE_WEIGHTS = (1.0, 0.8, 0.6, 0.4, 0.3)  # of the scales in the detector's loss, finest first
LAPLACIAN_WEIGHT = 10.0
DETECTOR_WEIGHT = 1.0
FLOW_WEIGHT = 1.0
WARP_WEIGHT = 5.0
FLOW_WINDOW = 7  # pixels, of the Lucas-Kanade step
FLOW_REGULARISER = 1e-5  # added to squared gradients of pictures in [0, 1]
FLOW_LIMIT_PX = 2.0  # further away the step means nothing
SAME = 0.06  # of two real frames, pixels that differ by less after warping show the same


@dataclass(frozen=True, kw_only=True)
class SFlowConfig:
    """Of the two networks that are trained together."""

    generator: LabelUNetConfig
    edges: EdgeDetectorConfig


class SFlow(nn.Module):
    """Generator and edge detector."""

    def __init__(self, config: SFlowConfig) -> None:
        super().__init__()
        self.config = config
        self.generator = LabelUNet(config.generator)
        self.edges = EdgeDetector(config.edges)

    def forward(self, planes: Tensor, edges: Tensor, style: Tensor) -> Tensor:
        """Labels `(B, 20, H, W)`, edges `(B, 1, H, W)` from the detector, and style to picture."""
        painted: Tensor = self.generator(torch.cat([planes, edges.to(planes.dtype)], 1), style)
        return painted


def sflow_config(size_hw: tuple[int, int]) -> SFlowConfig:
    """The networks for a working size."""
    return SFlowConfig(generator=replace(generator_config(size_hw), edge_planes=1), edges=EDGES)


def check_start(start: nn.Module) -> None:
    """Make sure that a generator without edges can be begun with.

    Raises:
        InputError: It is another network.
    """
    config = getattr(start, "config", None)
    wanted = generator_config((0, 0))
    if not isinstance(config, LabelUNetConfig) or wanted != replace(
        config,
        size_hw=(0, 0),
        upsampling=wanted.upsampling,
        noise=wanted.noise,
        colour_planes=0,
        palette=False,
    ):
        raise InputError(
            f"the weights to start from have another configuration: {config}",
            hint="leave --start out, or give weights from seg2vid train first-frame",
        )


def start_from_labels(generator: LabelUNet, start: LabelUNet) -> None:
    """Take over the weights of a generator without edges; the edge plane begins without a say.

    One that was told colours has to do without them here: these pictures follow each other.

    Args:
        generator: To be filled.
        start: Of the same widths.
    """
    theirs = start.state_dict()
    with torch.no_grad():
        for name, weight in generator.state_dict().items():
            old = theirs[name]
            if old.shape == weight.shape:
                weight.copy_(old)
            else:  # a convolution that reads the planes, which are its last inputs or all of them
                known = old.shape[1] - start.config.colour_planes
                weight.zero_()
                weight[:, :known] = old[:, :known]


@dataclass(frozen=True, kw_only=True)
class SFlowBatch:
    """Single pictures, then pairs of consecutive frames: first all former, then all later ones.

    Args:
        frames: `(B + 2 * P, 3, H, W)` in [0, 1].
        rendered: The same without fine detail, as a rendering might be.
        planes: `(B + 2 * P, 20, H, W)` one-hot.
        flow_px: `(P, 2, H, W)`: where the later frame's pixels are in the former.
    """

    frames: Tensor
    rendered: Tensor
    planes: Tensor
    flow_px: Tensor

    def to(self, device: torch.device) -> SFlowBatch:
        """Copy to a device."""
        kept = torch.channels_last
        return SFlowBatch(
            **{
                k: v.to(device, non_blocking=True, memory_format=kept)
                for k, v in vars(self).items()
            }
        )


class SFlowTask:
    """Generator and edge detector against one judge.

    Args:
        pairs: Labelled pictures.
        clips: Driving clips, every frame one step after the one before; at the working size.
        size_hw: Working size.
        seed: Of weights and augmentation.
        batch: Pictures per step, 3 at least; about half of them are pairs of frames.
        device: Where to train.
        start: A generator without edges to begin with.
    """

    name = "sflow"
    progress = 0.0
    learning_rate = 4e-4

    def __init__(
        self,
        pairs: Sequence[data.Pair],
        clips: Sequence[DriveClip],
        *,
        size_hw: tuple[int, int],
        seed: int = 0,
        batch: int = 4,
        device: str = "cpu",
        start: nn.Module | None = None,
    ) -> None:
        check_size(size_hw)
        torch.manual_seed(seed)
        self.device = torch.device(device)
        self.network: nn.Module = SFlow(sflow_config(size_hw))
        self._started = start is not None
        self.settings: Mapping[str, Any] = {}
        if start is not None:
            check_start(start)
            start_from_labels(self.network.generator, cast("LabelUNet", start))
        self.helpers = nn.ModuleDict(
            {
                "style": StyleEncoder(STYLE_SIZE),
                "judge": PatchJudge(NUM_CLASSES + 1, scales=1),
            }
        )
        for module in (self.network, self.helpers):
            module.to(self.device).to(memory_format=torch.channels_last)  # type: ignore[call-overload]
        makers = [*self.network.parameters(), *self.helpers["style"].parameters()]
        judges = self.helpers["judge"].parameters()
        self.optimizers: dict[str, torch.optim.Optimizer] = {
            "generator": torch.optim.Adam(makers, self.learning_rate, betas=BETAS),
            "discriminator": torch.optim.Adam(judges, self.learning_rate, betas=BETAS),
        }
        self._num_pairs = max(1, batch // 4)
        self._singles = max(1, batch - 2 * self._num_pairs)
        follow = [(clip, i) for clip in clips for i in range(1, len(clip.frames))]

        def make(rng: np.random.Generator) -> SFlowBatch:
            chosen = rng.integers(len(pairs), size=self._singles)
            pictures = [
                cut_window(*data.crop_pair(pairs[i], size_hw, rng, zoom=ZOOM), rng) for i in chosen
            ]
            later = [follow[i] for i in rng.integers(len(follow), size=self._num_pairs)]
            return collate(pictures, [draw_two(clip, i, rng) for clip, i in later], rng)

        self.batches = data.prefetch(make, seed)

    def step(self) -> Mapping[str, float]:
        """One step of generator, detector and judge, on the same pictures."""
        batch = next(self.batches).to(self.device)
        network = cast("SFlow", self.network)
        real, planes, singles = batch.frames, batch.planes, self._singles
        self.last = batch
        threshold = network.config.edges.threshold
        true_edges = laplacian_edges(real, threshold)
        rough_edges = laplacian_edges(batch.rendered, threshold)
        together = self.progress >= ALONE
        warming = self.progress < WARM_UP
        network.generator.requires_grad_(not (warming and self._started))
        network.train()
        with mixed_precision(self.device):
            read = torch.where(self._rich(len(real)), true_edges, rough_edges)
            sides = network.edges.side_logits(read).float()
        mix = self._draw_mix(len(real), sides.shape[1])
        fused = (sides * network.edges.mix[:, None, None]).sum(1, keepdim=True)
        detector = _side_losses(sides, fused, true_edges)
        edges = true_edges
        if together:
            weights = network.edges.mix * mix
            edges = torch.sigmoid((sides * weights[:, :, None, None]).sum(1, keepdim=True))
        scene = Scene(
            planes=torch.cat([planes, edges.detach()], 1),
            ids=(ids := halve(planes)),
            weights=class_weights(ids),
            change=draw_colour_change(len(real), self.device),
            mix=False,
            follows=torch.ones(len(real), dtype=torch.bool, device=self.device),
        )
        judge = cast("PatchJudge", self.helpers["judge"])
        with mixed_precision(self.device):
            mean, log_variance = self.helpers["style"](real)
            style = self._alike(draw_style(mean, log_variance))
            fake = network(planes, edges, style)
            judged = fake.detach().requires_grad_()
            if warming:
                asked = judged.sum() * 0
                caught = judge.knowledge(judged, real, scene)
            else:
                asked, caught = judge.losses(judged, real, scene)
        (wish,) = torch.autograd.grad(asked, [judged], retain_graph=True)
        painted = fake.float()
        colour = F.l1_loss(painted, real)
        lines = F.l1_loss(laplacian(painted), laplacian(real))
        kl = kl_to_normal(mean.float(), log_variance.float())
        flow, warp = flow_losses(real[singles:], painted[singles:], batch.flow_px)
        loss = (
            COLOUR_WEIGHT * colour
            + LAPLACIAN_WEIGHT * lines
            + KL_WEIGHT * kl
            + DETECTOR_WEIGHT * detector
            + FLOW_WEIGHT * flow
            + WARP_WEIGHT * warp
        )
        for optimizer in self.optimizers.values():
            optimizer.zero_grad()
        torch.autograd.backward([fake, loss], [wish, torch.ones_like(loss)])
        caught.backward(inputs=list(judge.parameters()))
        for optimizer in self.optimizers.values():
            optimizer.step()
        losses = {
            "asked": asked,
            "colour": colour,
            "laplacian": lines,
            "kl": kl,
            "detector": detector,
            "flow_px": flow,
            "warp": warp,
            "discriminator": caught,
        }
        return {name: value.item() for name, value in losses.items()}

    def _rich(self, count: int) -> Tensor:
        """Which pictures give the detector their true edges, bool `(count, 1, 1, 1)`.

        What a user gives may be as rich as these.
        """
        return self._alike(torch.rand(count, 1, 1, 1, device=self.device) < RICH)

    def _draw_mix(self, count: int, scales: int) -> Tensor:
        """Factors on the weights of the side outputs, `(count, scales)`; one for both of a pair."""
        noise = torch.randn(count, scales, device=self.device)
        return self._alike(mix_factors(noise, variety=1.0))

    def _alike(self, x: Tensor) -> Tensor:
        """The later frame of a pair has what the former has."""
        former = x[self._singles : self._singles + self._num_pairs]
        return torch.cat([x[: self._singles], former, former])

    @torch.no_grad()
    def finish(self, network: nn.Module) -> None:
        """Let normal draws give real pictures' styles, and measure the batch norms anew.

        Their statistics of the training belong to other weights.
        """
        encoder = self.helpers["style"]
        pictures = (next(self.batches).frames.to(self.device) for _ in range(STATISTICS_BATCHES))
        match_styles(network, torch.cat([draw_style(*encoder(x)) for x in pictures]))
        forget_statistics(network)
        network.train()
        for _ in range(STATISTICS_BATCHES):
            batch = next(self.batches).to(self.device)
            style = torch.randn(len(batch.planes), STYLE_SIZE, device=self.device)
            frames = torch.where(self._rich(len(style)), batch.frames, batch.rendered)
            network(batch.planes, self._detect(network, frames), style)
        network.eval()

    def _detect(self, network: nn.Module, frame: Tensor) -> Tensor:
        detector = cast("SFlow", network).edges
        edges: Tensor = detector(laplacian_edges(frame, detector.config.threshold))
        return edges

    @torch.no_grad()
    def sample_sheet(self, network: nn.Module) -> Image.Image:
        """Rows: labels, real pictures, their edges, those of the rendering, detected, two looks."""
        network.eval()
        colours = torch.tensor([c.colour for c in CLASSES], device=self.device) / 255
        real, planes, rendered = self.last.frames, self.last.planes, self.last.rendered
        maps = colours[planes.argmax(1)].permute(0, 3, 1, 2)
        edges = self._detect(network, rendered)
        lines = [laplacian_edges(x, EDGES.threshold) for x in (real, rendered)]
        generator = torch.Generator().manual_seed(1)
        styles = torch.randn((2, 1, STYLE_SIZE), generator=generator).to(self.device)
        looks = [list(network(planes, edges, s.expand(len(planes), -1))) for s in styles]
        black_and_white = [list(x.expand(-1, 3, -1, -1)) for x in (*lines, edges)]
        return grid_picture([list(maps), list(real), *black_and_white, *looks])


def _side_losses(sides: Tensor, fused: Tensor, true_edges: Tensor) -> Tensor:
    """Cross-entropy of every side output and of their mix, weighted per scale."""
    losses = [
        weight * F.binary_cross_entropy_with_logits(side, true_edges)
        for weight, side in zip(SIDE_WEIGHTS, sides.split(1, dim=1), strict=True)
    ]
    return torch.stack(losses).sum() + F.binary_cross_entropy_with_logits(fused, true_edges)


def flow_losses(real: Tensor, painted: Tensor, flow_px: Tensor) -> tuple[Tensor, Tensor]:
    """How far the flow between painted frames is from that between the real ones.

    The real flow warps the former painted frame; what is left to move is found by one step of
    Lucas and Kanade's method, in windows. Only pixels count that show the same in both real frames.

    Args:
        real: `(2 * P, 3, H, W)`, former frames first.
        painted: The same shape.
        flow_px: `(P, 2, H, W)`: where the later frame's pixels are in the former.

    Returns:
        Mean length of the step in pixels, and mean difference of colours.
    """
    former, later = painted.chunk(2)
    real_former, real_later = real.chunk(2)
    inside = backward_warp(torch.ones_like(real_former[:, :1]), flow_px) > 0.99
    change = (backward_warp(real_former, flow_px) - real_later).abs().mean(1, keepdim=True)
    same = (inside & (change < SAME)).to(real.dtype)
    warped = backward_warp(former, flow_px)
    grey = [picture.mean(1, keepdim=True) for picture in (warped, later)]
    step = lucas_kanade_step(grey[0], grey[1], same)
    length = (step.square().sum(1, keepdim=True) + 1e-6).sqrt().clamp(max=FLOW_LIMIT_PX)
    return masked_mean(length, same), masked_mean((warped - later).abs(), same)


def lucas_kanade_step(former: Tensor, later: Tensor, counts: Tensor | None = None) -> Tensor:
    """Small motion between two grey pictures: least squares in windows.

    Args:
        former: `(P, 1, H, W)` in [0, 1].
        later: The same shape.
        counts: The same shape; pixels that are 0 here say nothing in any window.

    Returns:
        `(P, 2, H, W)` in pixels: where the later picture's pixels are in the former. Where there
        are no gradients, near zero.
    """
    mean = ((former + later) / 2).detach()
    dx = F.pad((mean[..., 2:] - mean[..., :-2]) / 2, (1, 1, 0, 0))
    dy = F.pad((mean[..., 2:, :] - mean[..., :-2, :]) / 2, (0, 0, 1, 1))
    dt = later - former

    def window(x: Tensor) -> Tensor:
        x = x if counts is None else x * counts
        return F.avg_pool2d(x, FLOW_WINDOW, 1, FLOW_WINDOW // 2)

    xx, yy = window(dx * dx) + FLOW_REGULARISER, window(dy * dy) + FLOW_REGULARISER
    xy, xt, yt = window(dx * dy), window(dx * dt), window(dy * dt)
    det = xx * yy - xy * xy
    return torch.cat([(yy * xt - xy * yt) / det, (xx * yt - xy * xt) / det], dim=1)


def as_rendered(
    picture: NDArray[np.uint8], rng: np.random.Generator | None = None
) -> NDArray[np.uint8]:
    """A real picture without its fine detail: smooth areas, firm borders, as in a rendering.

    Args:
        picture: `(H, W, 3)`.
        rng: Decides how much is lost; without, the middle.
    """
    size, spread = (5, 30.0)
    if rng is not None:
        size, spread = int(rng.choice([3, 5, 7])), float(rng.uniform(15, 50))
    smooth = cv2.medianBlur(np.ascontiguousarray(picture), size)
    smooth = cv2.bilateralFilter(smooth, 9, spread, 5)
    # Renderings have crisp borders.
    blurred = cv2.GaussianBlur(smooth, (0, 0), 1.0)
    crisp: NDArray[np.uint8] = cv2.addWeighted(smooth, 1.6, blurred, -0.6, 0).astype(np.uint8)
    return crisp


def draw_two(
    clip: DriveClip, index: int, rng: np.random.Generator
) -> tuple[list[NDArray[np.uint8]], list[NDArray[np.uint8]], NDArray[np.float32]]:
    """The same window of a frame and the one before it, flipped half of the time.

    Returns:
        Former and later frame, their labels, and where the later one's pixels are in the former.
    """
    place = int(rng.integers(2**31))
    cuts = [
        cut_window(clip.frames[i], clip.train_ids[i], np.random.default_rng(place))
        for i in (index - 1, index)
    ]
    if rng.random() < 0.5:
        cuts = [(frame[:, ::-1], ids[:, ::-1]) for frame, ids in cuts]
    grey = [cv2.cvtColor(np.ascontiguousarray(frame), cv2.COLOR_RGB2GRAY) for frame, _ in cuts]
    estimator = cv2.DISOpticalFlow_create(cv2.DISOPTICAL_FLOW_PRESET_MEDIUM)
    flow = classical_flow(grey[1], grey[0], estimator)
    return [frame for frame, _ in cuts], [ids for _, ids in cuts], flow


def collate(
    pictures: Sequence[tuple[NDArray[np.uint8], NDArray[np.uint8]]],
    pairs: Sequence[tuple[list[NDArray[np.uint8]], list[NDArray[np.uint8]], NDArray[np.float32]]],
    rng: np.random.Generator,
) -> SFlowBatch:
    """Stack pictures and what `draw_two` gives."""
    frames = [p for p, _ in pictures]
    ids = [data.diversify_classes(i, rng) for _, i in pictures]
    for which in (0, 1):
        frames += [two[which] for two, _, _ in pairs]
        ids += [labels[which] for _, labels, _ in pairs]
    # Both frames of a pair lose the same kind of detail.
    kinds = [int(k) for k in rng.integers(2**31, size=len(pictures) + len(pairs))]
    kinds += kinds[len(pictures) :]
    rendered = [
        as_rendered(f, np.random.default_rng(k)) for f, k in zip(frames, kinds, strict=True)
    ]
    return SFlowBatch(
        frames=data.to_tensor(frames),
        rendered=data.to_tensor(rendered),
        planes=data.to_planes(ids),
        flow_px=torch.from_numpy(np.stack([flow for _, _, flow in pairs])),
    )
