"""Judges of painted pictures, which the first-frame generator learns against.

- `PatchJudge`: conditional patch discriminators at three scales, with least squares in which rare
  classes count more. They teach texture soon and layout late; the ones to take where steps are few.
- `SegmentationDiscriminator`: names the class of every pixel of a real picture and calls every
  pixel of a painted one painted; the generator wants its pixels named by the label map. It judges
  layout and texture at once and gives every class its due, but has to learn to read first.
- `FeatureJudge`: small discriminators on the features of a frozen VGG16, beside either of them.

Source: "Image-to-Image Translation with Conditional Adversarial Networks" (Isola et al., CVPR 2017)
and pix2pixHD (Wang et al., CVPR 2018) for patches and matched features; "You Only Need Adversarial
Supervision for Semantic Image Synthesis" (Schoenfeld et al., ICLR 2021) for classes, the balanced
losses and the mixed pictures; "Enhancing Photorealism Enhancement" (Richter et al., PAMI 2022) for
discriminators on VGG16's features, which labels take part in by projection.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from itertools import pairwise
from typing import Literal, get_args

import torch
from torch import Tensor, nn
from torch.nn import functional as F
from torch.nn.utils.parametrizations import spectral_norm

from seg2vid_cli.label_sets import NUM_CLASSES, UNLABELLED
from seg2vid_cli.training.losses import compare
from seg2vid_cli.training.perceptual import Seen
from seg2vid_cli.training.vgg import CHANNELS

PAINTED = NUM_CLASSES  # the class of every pixel that the generator made
JudgeKind = Literal["patches", "classes"]
JUDGES: tuple[JudgeKind, ...] = get_args(JudgeKind)
FEATURE_WEIGHT: Mapping[str, float] = {"patches": 5.0, "classes": 5.0}
PATCH_SCALES = 3
FIRST_JUDGED = 1  # of the sizes in which VGG16 sees a picture; patches judge the finest
MIX_WEIGHT = 10.0
RAREST_WEIGHT = 10.0  # of a rare class against a common one
# Unlabelled, sky, road, building, vegetation ... people and two-wheelers.
COMMON_TO_RARE = (19, 10, 0, 2, 8, 1, 9, 3, 4, 13, 14, 15, 16, 5, 7, 6, 11, 12, 17, 18)


@dataclass(frozen=True, kw_only=True)
class Scene:
    """What judges know of the places in a batch.

    Args:
        planes: `(B, 20, H, W)` one-hot.
        ids: `(B, H / 2, W / 2)` classes.
        weights: `(21,)`, from `class_weights`.
        change: Change of colours, the same for real and painted pictures.
        mix: Whether mixed pictures are judged too.
        follows: bool `(B,)`, whether a painted picture should be the real one pixel by pixel.
    """

    planes: Tensor
    ids: Tensor
    weights: Tensor
    change: ColourChange
    mix: bool
    follows: Tensor


class PatchDiscriminator(nn.Module):
    """Judge patches of a picture given its label planes, keeping all features for matching."""

    def __init__(self, in_channels: int, width: int = 48) -> None:
        super().__init__()
        widths = (in_channels, width, 2 * width, 4 * width)
        self.layers = nn.ModuleList(nn.Conv2d(a, b, 4, 2, 1) for a, b in pairwise(widths))
        self.layers.append(nn.Conv2d(4 * width, 4 * width, 3, 1, 1))
        self.head = nn.Conv2d(4 * width, 1, 3, 1, 1)

    def forward(self, x: Tensor) -> list[Tensor]:
        """`(B, C, H, W)` to the features of every layer, the verdict last."""
        features = []
        for index, layer in enumerate(self.layers):
            x = layer(x)
            x = F.leaky_relu(F.instance_norm(x) if index else x, 0.2)
            features.append(x)
        return [*features, self.head(x)]


class PatchJudge(nn.Module):
    """Patch discriminators at full size, half of it, and so on.

    Args:
        planes: Planes that a picture is judged by.
        scales: Number of sizes.
    """

    def __init__(self, planes: int = NUM_CLASSES, scales: int = PATCH_SCALES) -> None:
        super().__init__()
        self.scales = nn.ModuleList(PatchDiscriminator(3 + planes) for _ in range(scales))

    def losses(self, made: Tensor, real: Tensor, scene: Scene) -> tuple[Tensor, Tensor]:
        """What the generator should lessen, and what these networks should; see `Scene`."""
        planes, worth = scene.planes.to(made.dtype), worth_of_places(scene.planes)
        x = torch.cat([torch.cat([made, real.to(made.dtype)]), torch.cat([planes, planes])], dim=1)
        asked, caught, matching = [], [], []
        for scale in self.scales:
            *features, verdict = scale(x)
            ask, catch = _least_squares(verdict, worth)
            asked.append(ask)
            caught.append(catch)
            matching.append(_matching([f.chunk(2) for f in features], scene))
            x = F.avg_pool2d(x, 2)
        match = torch.stack(matching).mean()
        return (
            torch.stack(asked).mean() + FEATURE_WEIGHT["patches"] * match,
            torch.stack(caught).sum() / 2,
        )

    def knowledge(self, made: Tensor, real: Tensor, scene: Scene) -> Tensor:
        """What to learn before the generator listens: to tell its pictures from real ones."""
        return self.losses(made.detach(), real, scene)[1]


class FeatureJudge(nn.Module):
    """Tell painted from real pictures, cell by cell, by what a VGG16 sees in both.

    Its features say at once what the patch discriminators would have to learn from few pictures.
    Labels take part by projection: every class asks for something of its own.
    """

    def __init__(self, planes: int = NUM_CLASSES, width: int = 128) -> None:
        super().__init__()
        channels = CHANNELS[FIRST_JUDGED:]
        self.enter = nn.ModuleList(spectral_norm(nn.Conv2d(c, width, 1)) for c in channels)
        self.layers = nn.ModuleList(
            spectral_norm(nn.Conv2d(width, width, 3, padding=1)) for _ in channels
        )
        self.heads = nn.ModuleList(nn.Conv2d(width, 1, 1) for _ in channels)
        self.wishes = nn.ModuleList(nn.Conv2d(planes, width, 1, bias=False) for _ in channels)

    def losses(self, seen: Seen, planes: Tensor) -> tuple[Tensor, Tensor]:
        """What the generator should lessen, and what this network should.

        Args:
            seen: By a `VggReader`.
            planes: `(B, 20, H, W)` one-hot.
        """
        asked, caught = [], []
        worth = worth_of_places(planes)
        first = 1 + FIRST_JUDGED  # behind the pictures themselves
        parts = zip(
            seen.made[first:],
            seen.real[first:],
            self.enter,
            self.layers,
            self.heads,
            self.wishes,
            strict=True,
        )
        for made, real, enter, layer, head, wish in parts:
            size = real.float().mean().clamp_min(1e-3)
            x = torch.cat([made, real]) / size.to(made.dtype)
            x = F.leaky_relu(enter(x), 0.2)
            x = F.leaky_relu(layer(x), 0.2)
            shares = F.adaptive_avg_pool2d(planes, (x.shape[-2], x.shape[-1])).to(x.dtype)
            wished = (wish(shares).repeat(2, 1, 1, 1) * x).mean(1, keepdim=True)
            ask, catch = _least_squares(head(x) + wished, worth)
            asked.append(ask)
            caught.append(catch)
        return torch.stack(asked).mean(), torch.stack(caught).sum() / 2


def _least_squares(verdict: Tensor, worth: Tensor) -> tuple[Tensor, Tensor]:
    """What generator and discriminator should lessen.

    Args:
        verdict: `(2 * B, 1, h, w)`, on painted pictures, then on real ones.
        worth: `(B, 1, H, W)`, see `worth_of_places`.
    """
    on_made, on_real = verdict.float().chunk(2)
    worth = F.adaptive_avg_pool2d(worth, (verdict.shape[-2], verdict.shape[-1]))
    worth = worth / worth.sum()
    caught = ((worth * on_made**2).sum() + (worth * (on_real - 1) ** 2).sum()) / 2
    return (worth * (on_made - 1) ** 2).sum(), caught


def _matching(features: Sequence[Sequence[Tensor]], scene: Scene) -> Tensor:
    """How far features of painted pictures are from those of real ones: mean of layers, pictures.

    Args:
        features: `(B, C, h, w)` of painted and of real pictures.
        scene: Says which painted pictures follow the real ones pixel by pixel.
    """
    layers = [
        compare(made.float(), true.detach().float(), scene.planes, scene.follows).mean()
        for made, true in features
    ]
    return torch.stack(layers).mean()


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
    """Name the class of every 2x2 cell, or that it is painted."""

    def __init__(self, widths: Sequence[int] = (32, 64, 128, 192, 192)) -> None:
        super().__init__()
        self.stem = spectral_norm(nn.Conv2d(12, widths[0], 3, padding=1))
        self.down = nn.ModuleList(
            DiscriminatorBlock(a, b) for a, b in pairwise((widths[0], *widths))
        )
        self.up = nn.ModuleList(
            DiscriminatorBlock(deep + skip, skip)
            for deep, skip in zip(widths[:0:-1], widths[-2::-1], strict=True)
        )
        self.head = nn.Conv2d(widths[0], NUM_CLASSES + 1, 1)

    def losses(self, made: Tensor, real: Tensor, scene: Scene) -> tuple[Tensor, Tensor]:
        """What the generator should lessen, and what this network should.

        Args:
            made: `(B, 3, H, W)` in [0, 1].
            real: The same places.
            scene: Their labels.
        """
        pictures = [made, real.to(made.dtype)]
        if scene.mix:
            keep, small = label_mask(scene.planes, scene.ids)
            pictures.append((keep * real + (1 - keep) * made.detach()).to(made.dtype))
        logits, features = self(scene.change(torch.cat(pictures)))
        on_made, on_real, *on_mixed = logits.float().split(len(real))
        asked = F.cross_entropy(on_made, scene.ids, scene.weights, ignore_index=UNLABELLED)
        matching = _matching([f.split(len(real))[:2] for f in features], scene)
        painted = torch.full_like(scene.ids, PAINTED)
        caught = F.cross_entropy(on_made, painted) + F.cross_entropy(
            on_real, scene.ids, scene.weights, ignore_index=UNLABELLED
        )
        if scene.mix:
            wanted = small * on_real + (1 - small) * on_made
            caught = caught + MIX_WEIGHT * F.mse_loss(on_mixed[0], wanted.detach())
        return asked + FEATURE_WEIGHT["classes"] * matching, caught

    def knowledge(self, made: Tensor, real: Tensor, scene: Scene) -> Tensor:
        """What to learn before the generator listens: to name classes."""
        named, _ = self(scene.change(real))
        return F.cross_entropy(named.float(), scene.ids, scene.weights, ignore_index=UNLABELLED)

    def forward(self, frame: Tensor) -> tuple[Tensor, list[Tensor]]:
        """`(B, 3, H, W)` in [0, 1] to logits `(B, 21, H / 2, W / 2)` and the encoder's features."""
        x = self.stem(F.pixel_unshuffle(2 * frame - 1, 2))  # all detail, at a quarter of the cost
        skips: list[Tensor] = []
        for block in self.down:
            x = block(F.avg_pool2d(x, 2) if skips else x)
            skips.append(x)
        for block, skip in zip(self.up, skips[-2::-1], strict=True):
            x = F.interpolate(x, scale_factor=2.0, mode="nearest")
            x = block(torch.cat([x, skip], dim=1))
        return self.head(F.leaky_relu(x, 0.2)), skips


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


def worth_of_places(planes: Tensor) -> Tensor:
    """How much verdicts on places count: the less, the more of a batch their class covers.

    Otherwise people and signs, which are small, would hardly be looked at.

    Args:
        planes: `(B, 20, H, W)` one-hot, others may follow.

    Returns:
        `(B, 1, H, W)`: a class of a share `s` of a batch counts `s ** 0.5` in all.
    """
    classes = planes[:, :NUM_CLASSES].float()
    shares = classes.mean((0, 2, 3)).clamp_min(1e-6)
    return torch.einsum("bkhw,k->bhw", classes, shares.rsqrt())[:, None]


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
