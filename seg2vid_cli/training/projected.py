"""Judge pictures by what a network that knows ImageNet sees in them.

A discriminator that learns from a few hundred pictures soon knows them by heart. One that looks at
features of a frozen network need not learn to see first: small judges at every size tell real from
painted ones, each of features mixed at random over channels and sizes, so that none can keep to a
few of them. What the features of painted pictures lack beside real ones is compared directly, too.

Source: "Projected GANs Converge Faster" (Sauer, Chitta, Müller and Geiger, NeurIPS 2021).
"""

from __future__ import annotations

from itertools import pairwise
from pathlib import Path
from typing import TYPE_CHECKING

import torch
from torch import Tensor, nn
from torch.nn import functional as F
from torch.nn.utils.parametrizations import spectral_norm

from seg2vid_cli.label_sets import NUM_CLASSES
from seg2vid_cli.networks.efficientnet import EfficientNetLite, lite_widths
from seg2vid_cli.training.imagenet import load_imagenet
from seg2vid_cli.training.losses import compare

if TYPE_CHECKING:
    from seg2vid_cli.training.first_frame import Scene

STAGES = 7
MIXED = (24, 48, 64, 96, 128)  # channels at 1/2, 1/4 ... after mixing
JUDGE_WIDTH = 64
MATCH_WEIGHT = 5.0
LEAK = 0.2


def imagenet_encoder(path: Path) -> EfficientNetLite:
    """The network whose features are judged, see `load_imagenet`."""
    encoder = EfficientNetLite(STAGES)
    load_imagenet(encoder, path)
    return encoder


class Head(nn.Module):
    """Judge the places of one size, given their classes."""

    def __init__(self, in_channels: int, planes: int) -> None:
        super().__init__()
        self.layers = nn.ModuleList(
            [
                spectral_norm(nn.Conv2d(in_channels + planes, JUDGE_WIDTH, 3, padding=1)),
                spectral_norm(nn.Conv2d(JUDGE_WIDTH, JUDGE_WIDTH, 4, stride=2, padding=1)),
                spectral_norm(nn.Conv2d(JUDGE_WIDTH, 1, 3, padding=1)),
            ]
        )

    def forward(self, features: Tensor, planes: Tensor) -> Tensor:
        """`(B, C, h, w)` and `(B, K, h, w)` to verdicts `(B, 1, h / 2, w / 2)`, high = real."""
        x = torch.cat([features, planes], dim=1)
        for index, layer in enumerate(self.layers):
            x = layer(F.leaky_relu(x, LEAK) if index else x)
        return x


class ProjectedJudge(nn.Module):
    """Small discriminators on the features of a frozen network.

    Args:
        encoder: Knows ImageNet.
        planes: Planes that a picture is judged by.
    """

    def __init__(self, encoder: EfficientNetLite, planes: int = NUM_CLASSES) -> None:
        super().__init__()
        self.encoder = encoder
        widths = lite_widths(len(encoder.stages))
        mixed = MIXED[: len(widths)]
        self.across = nn.ModuleList(nn.Conv2d(a, b, 1) for a, b in zip(widths, mixed, strict=True))
        self.down = nn.ModuleList(
            nn.Conv2d(deep, fine, 3, padding=1) for fine, deep in pairwise(mixed)
        )
        self.heads = nn.ModuleList(Head(width, planes) for width in mixed)
        for part in (self.encoder, self.across, self.down):
            part.requires_grad_(False)
        for layer in (*self.across, *self.down):
            nn.init.kaiming_normal_(layer.weight)
        self.train()

    def train(self, mode: bool = True) -> ProjectedJudge:
        """As always, but the encoder stays as it is."""
        super().train(mode)
        self.encoder.eval()
        return self

    def forward(self, frame: Tensor, planes: Tensor) -> tuple[list[Tensor], list[Tensor]]:
        """Judge pictures.

        Args:
            frame: `(B, 3, H, W)` in [0, 1], sides multiples of 32.
            planes: `(B, K, H, W)`.

        Returns:
            Verdicts and the encoder's features, each from 1/2 of the size down.
        """
        seen: list[Tensor] = self.encoder(frame)
        mixed = [layer(x) for layer, x in zip(self.across, seen, strict=True)]
        for fine in range(len(mixed) - 2, -1, -1):
            deep = F.interpolate(
                mixed[fine + 1], scale_factor=2.0, mode="bilinear", align_corners=False
            )
            mixed[fine] = (mixed[fine] + self.down[fine](deep)) / 2**0.5
        verdicts = []
        for head, x in zip(self.heads, mixed, strict=True):
            planes = F.avg_pool2d(planes, 2)
            verdicts.append(head(x / x.detach().std().clamp_min(1e-6), planes))
        return verdicts, seen

    def losses(self, made: Tensor, real: Tensor, scene: Scene) -> tuple[Tensor, Tensor]:
        """What the generator should lessen, and what the heads should; see `first_frame.Scene`."""
        pictures = scene.change(torch.cat([made, real.to(made.dtype)])).clamp(0, 1)
        planes = scene.planes.to(made.dtype)
        verdicts, seen = self(pictures, torch.cat([planes, planes]))
        asked, caught, apart = [], [], []
        for verdict in verdicts:
            on_made, on_real = verdict.float().chunk(2)
            asked.append(-on_made.mean())
            caught.append((F.relu(1 + on_made).mean() + F.relu(1 - on_real).mean()) / 2)
        for features in seen:
            mine, true = features.float().chunk(2)
            true = true.detach()
            gap = compare(mine, true, scene.planes, scene.follows).mean()
            apart.append(gap / true.abs().mean().clamp_min(1e-3))
        match = torch.stack(apart).mean()
        return torch.stack(asked).mean() + MATCH_WEIGHT * match, torch.stack(caught).sum()

    def knowledge(self, made: Tensor, real: Tensor, scene: Scene) -> Tensor:
        """What to learn before the generator listens: to tell its pictures from real ones."""
        return self.losses(made.detach(), real, scene)[1]
