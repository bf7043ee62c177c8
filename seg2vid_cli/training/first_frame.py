"""Train the label-map-to-picture generator against a segmentation network that knows fakes.

The discriminator names the class of every pixel of a real picture and calls every pixel of a
painted one painted; the generator wants its pixels named by the label map. That needs no network
trained elsewhere, gives every class its due, and judges layout and texture at once. A style encoder
sees the real picture, so the generator need not guess light and colours and can be asked for them
later; its code is kept near a standard normal, from which generation draws.

Source: "You Only Need Adversarial Supervision for Semantic Image Synthesis" (Schoenfeld et al.,
ICLR 2021), for the discriminator, its balanced losses and the mixed pictures.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from itertools import pairwise

import numpy as np
import torch
from PIL import Image
from torch import Tensor, nn
from torch.nn import functional as F
from torch.nn.utils.parametrizations import spectral_norm

from seg2vid_cli.errors import InputError
from seg2vid_cli.label_sets import CLASSES, NUM_CLASSES, UNLABELLED
from seg2vid_cli.networks.label_unet import LabelUNet, LabelUNetConfig
from seg2vid_cli.training import data
from seg2vid_cli.training.loop import grid_picture
from seg2vid_cli.training.losses import kl_to_normal

DEFAULT_SIZE_HW = (128, 256)
STYLE_SIZE = 16
PAINTED = NUM_CLASSES  # the class of every pixel that the generator made
FEATURE_WEIGHT = 5.0
L1_WEIGHT = 3.0
KL_WEIGHT = 0.02
MIX_WEIGHT = 10.0
MIX_EVERY = 2  # steps
RAREST_WEIGHT = 10.0  # of a rare class against a common one
STATISTICS_BATCHES = 60
# Unlabelled, sky, road, building, vegetation ... people and two-wheelers.
COMMON_TO_RARE = (19, 10, 0, 2, 8, 1, 9, 3, 4, 13, 14, 15, 16, 5, 7, 6, 11, 12, 17, 18)
SIDE_MULTIPLE = 32


def generator_config(size_hw: tuple[int, int]) -> LabelUNetConfig:
    """Widths for a working size: five scales up to 256 pixels of width, six from there on."""
    channels = (32, 64, 128, 192, 256) if size_hw[1] <= 256 else (24, 48, 96, 160, 224, 256)
    return LabelUNetConfig(
        size_hw=size_hw,
        label_planes=NUM_CLASSES,
        style_size=STYLE_SIZE,
        channels=channels,
        middle_blocks=2,
    )


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


class DiscriminatorBlock(nn.Module):
    """Two convolutions with a shortcut, at one size."""

    def __init__(self, in_channels: int, out_channels: int) -> None:
        super().__init__()
        self.first = spectral_norm(nn.Conv2d(in_channels, out_channels, 3, padding=1))
        self.second = spectral_norm(nn.Conv2d(out_channels, out_channels, 3, padding=1))
        self.shortcut = spectral_norm(nn.Conv2d(in_channels, out_channels, 1, bias=False))

    def forward(self, x: Tensor) -> Tensor:
        """`(B, in, H, W)` to `(B, out, H, W)`."""
        y = self.second(F.leaky_relu(self.first(F.leaky_relu(x, 0.2)), 0.2))
        out: Tensor = self.shortcut(x) + y
        return out


class SegmentationDiscriminator(nn.Module):
    """Name the class of every pixel, or that it is painted."""

    def __init__(self, widths: Sequence[int] = (32, 64, 128, 128, 128)) -> None:
        super().__init__()
        self.stem = spectral_norm(nn.Conv2d(3, widths[0], 3, padding=1))
        self.down = nn.ModuleList(
            DiscriminatorBlock(a, b) for a, b in pairwise((widths[0], *widths))
        )
        self.up = nn.ModuleList(
            DiscriminatorBlock(deep + skip, skip)
            for deep, skip in zip(widths[:0:-1], widths[-2::-1], strict=True)
        )
        self.head = nn.Conv2d(widths[0], NUM_CLASSES + 1, 1)

    def forward(self, frame: Tensor) -> tuple[Tensor, list[Tensor]]:
        """`(B, 3, H, W)` in [0, 1] to logits `(B, 21, H / 2, W / 2)` and the encoder's features."""
        x = self.stem(2 * frame - 1)
        skips = []
        for block in self.down:
            x = F.avg_pool2d(block(x), 2)
            skips.append(x)
        for block, skip in zip(self.up, skips[-2::-1], strict=True):
            x = F.interpolate(x, scale_factor=2.0, mode="nearest")
            x = block(torch.cat([x, skip], dim=1))
        return self.head(F.leaky_relu(x, 0.2)), skips


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


class FirstFrameTask:
    """Generator against a segmentation discriminator.

    Args:
        pairs: Training pairs.
        size_hw: Working size of the generator.
        seed: Of weights and augmentation.
        batch: Pictures per step.
        device: Where to train.
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
    ) -> None:
        check_size(size_hw)
        torch.manual_seed(seed)
        self.device = torch.device(device)
        self.network: nn.Module = LabelUNet(generator_config(size_hw))
        self.helpers = nn.ModuleDict(
            {"style": StyleEncoder(STYLE_SIZE), "judge": SegmentationDiscriminator()}
        )
        for module in (self.network, self.helpers):
            module.to(self.device).to(memory_format=torch.channels_last)  # type: ignore[call-overload]
        makers = [*self.network.parameters(), *self.helpers["style"].parameters()]
        judges = self.helpers["judge"].parameters()
        self.optimizers: dict[str, torch.optim.Optimizer] = {
            "generator": torch.optim.Adam(makers, self.learning_rate, betas=(0.0, 0.99)),
            "discriminator": torch.optim.Adam(judges, self.learning_rate, betas=(0.0, 0.99)),
        }
        self.steps = 0

        def make(rng: np.random.Generator) -> tuple[Tensor, Tensor]:
            crops = [
                data.crop_pair(pairs[i], size_hw, rng, zoom=(0.6, 1.0))
                for i in rng.integers(len(pairs), size=batch)
            ]
            ids = [data.diversify_classes(ids, rng) for _, ids in crops]
            return data.to_tensor([picture for picture, _ in crops]), data.to_planes(ids)

        self.batches = data.prefetch(make, seed)

    def step(self) -> Mapping[str, float]:
        """One step of the generator and one of the discriminator, on the same pictures."""
        real, planes = (
            x.to(self.device, memory_format=torch.channels_last) for x in next(self.batches)
        )
        self.last = real, planes
        ids = halve(planes)
        weights = class_weights(ids)
        change = draw_colour_change(len(real), self.device)
        judge = self.helpers["judge"]
        self.network.train()
        judge.requires_grad_(False)
        with torch.autocast(self.device.type, torch.bfloat16):
            mean, log_variance = self.helpers["style"](real)
            style = mean + torch.randn_like(mean) * (0.5 * log_variance).exp()
            fake = self.network(planes, style, torch.randn_like(planes[:, :1]))
            named, on_fake = judge(change(fake))
            with torch.no_grad():
                _, on_real = judge(change(real))
        adversarial = F.cross_entropy(named.float(), ids, weights, ignore_index=UNLABELLED)
        matching = torch.stack(
            [F.l1_loss(a.float(), b.float()) for a, b in zip(on_fake, on_real, strict=True)]
        ).mean()
        l1 = F.l1_loss(fake.float(), real)
        kl = kl_to_normal(mean.float(), log_variance.float())
        loss = adversarial + FEATURE_WEIGHT * matching + L1_WEIGHT * l1 + KL_WEIGHT * kl
        self.optimizers["generator"].zero_grad()
        loss.backward()
        self.optimizers["generator"].step()

        judge.requires_grad_(True)
        made = fake.detach().to(real.dtype)
        self.steps += 1
        mix = self.steps % MIX_EVERY == 0
        with torch.autocast(self.device.type, torch.bfloat16):
            pictures = [made, real]
            if mix:
                keep, small = label_mask(planes, ids)
                pictures.append(keep * real + (1 - keep) * made)
            logits = judge(change(torch.cat(pictures)))[0].float().split(len(real))
        on_made, on_true = logits[0], logits[1]
        painted = torch.full_like(ids, PAINTED)
        judged = F.cross_entropy(on_made, painted) + F.cross_entropy(
            on_true, ids, weights, ignore_index=UNLABELLED
        )
        if mix:
            wanted = small * on_true + (1 - small) * on_made
            judged = judged + MIX_WEIGHT * F.mse_loss(logits[2], wanted.detach())
        self.optimizers["discriminator"].zero_grad()
        judged.backward()
        self.optimizers["discriminator"].step()
        return {
            "adversarial": adversarial.item(),
            "matching": matching.item(),
            "l1": l1.item(),
            "kl": kl.item(),
            "discriminator": judged.item(),
        }

    @torch.no_grad()
    def finish(self, network: nn.Module) -> None:
        """Measure the batch norms' statistics anew, with averaged weights and drawn styles.

        During training they belong to other weights, and to styles read from real pictures.
        """
        norms = [m for m in network.modules() if isinstance(m, nn.BatchNorm2d)]
        for norm in norms:
            norm.reset_running_stats()
            norm.momentum = None  # plain mean over all batches
        network.train()
        for _ in range(STATISTICS_BATCHES):
            _, planes = next(self.batches)
            planes = planes.to(self.device)
            style = torch.randn(len(planes), STYLE_SIZE, device=self.device)
            network(planes, style, torch.randn_like(planes[:, :1]))
        network.eval()

    @torch.no_grad()
    def sample_sheet(self, network: nn.Module) -> Image.Image:
        """Rows: label maps, real pictures, two samples."""
        colours = torch.tensor([c.colour for c in CLASSES], device=self.device) / 255
        real, planes = (x[:4] for x in self.last)
        maps = colours[planes.argmax(1)].permute(0, 3, 1, 2)
        generator = torch.Generator().manual_seed(1)
        shape = (2, 1, STYLE_SIZE)
        styles = torch.randn(shape, generator=generator).to(self.device)
        noise = torch.randn(planes[:, :1].shape, generator=generator).to(self.device)
        samples = [list(network(planes, style.expand(len(planes), -1), noise)) for style in styles]
        return grid_picture([list(maps), list(real), *samples])


def halve(planes: Tensor) -> Tensor:
    """Name the class of every 2x2 cell, the rarer and thinner one where there are several.

    Args:
        planes: `(B, 20, H, W)` one-hot.

    Returns:
        `(B, H / 2, W / 2)`, the size of the discriminator's answer.
    """
    rank = torch.empty(NUM_CLASSES, device=planes.device)
    rank[list(COMMON_TO_RARE)] = torch.arange(1.0, NUM_CLASSES + 1, device=planes.device)
    return F.max_pool2d(planes * rank[:, None, None], 2).argmax(1)


def class_weights(ids: Tensor) -> Tensor:
    """Weights that give every class in a batch the same say, within limits, `(21,)`."""
    counts = torch.bincount(ids.flatten(), minlength=NUM_CLASSES + 1).float()
    counts[UNLABELLED] = 0
    present = counts > 0
    weights = counts.sum() / (present.sum() * counts.clamp_min(1.0))
    weights = torch.where(present, weights.clamp(max=RAREST_WEIGHT), torch.zeros_like(weights))
    weights[PAINTED] = 1.0
    return weights


def label_mask(planes: Tensor, ids: Tensor) -> tuple[Tensor, Tensor]:
    """Whole classes from the real picture, the others painted.

    Args:
        planes: `(B, 20, H, W)` one-hot.
        ids: `(B, H / 2, W / 2)` classes.

    Returns:
        1 = real, `(B, 1, H, W)` and `(B, 1, H / 2, W / 2)`.
    """
    chosen = (torch.rand(len(planes), NUM_CLASSES, device=planes.device) < 0.5).to(planes.dtype)
    full = (planes * chosen[:, :, None, None]).sum(1, keepdim=True)
    small = chosen.gather(1, ids.flatten(1)).view_as(ids)[:, None]
    return full, small


class ColourChange:
    """Brightness, contrast and saturation, the same for real and painted pictures of a place.

    Args:
        factors: `(3, B, 1, 1, 1)`.
    """

    def __init__(self, factors: Tensor) -> None:
        self.factors = factors

    def __call__(self, frame: Tensor) -> Tensor:
        """`(n * B, 3, H, W)`, n pictures of each place, to the same shape."""
        brightness, contrast, saturation = (
            f.repeat(len(frame) // f.shape[0], 1, 1, 1).to(frame.dtype) for f in self.factors
        )
        grey = frame.mean(1, keepdim=True)
        frame = grey + (frame - grey) * (1 + saturation)
        middle = frame.mean((1, 2, 3), keepdim=True)
        changed: Tensor = middle + (frame - middle) * (1 + contrast) + brightness
        return changed


def draw_colour_change(count: int, device: torch.device) -> ColourChange:
    """Draw changes for `count` places, so that few pictures teach no colours by heart."""
    factors = (torch.rand(3, count, 1, 1, 1, device=device) - 0.5) * 2
    strength = factors.new_tensor([0.2, 0.4, 0.6])
    return ColourChange(factors * strength.view(3, 1, 1, 1, 1))
