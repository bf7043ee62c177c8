"""Warped frame with noise where nothing is visible, to a repaired frame.

Source: "Video Generation from Single Semantic Label Map" (Pan et al., CVPR 2019), STVIR/seg2vid.
"""

from __future__ import annotations

from dataclasses import dataclass
from itertools import pairwise

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from seg2vid_cli.networks.layers import LEAK, ConvBlock


@dataclass(frozen=True, kw_only=True)
class RefineConfig:
    """Widths of the refinement network.

    Args:
        image_channels: 3 for RGB, 1 for grey.
        channels: Widths at 1/1 to 1/16 of the size (paper: 64, 128, 256, 512, 512).
        bottleneck: Width of the narrowest place (paper: 1024).
    """

    image_channels: int
    channels: tuple[int, int, int, int, int]
    bottleneck: int


def _blocks(*widths: int) -> nn.Sequential:
    pairs = pairwise(widths)
    return nn.Sequential(*(ConvBlock(a, b) for a, b in pairs))


class Seg2VidRefine(nn.Module):
    """A VGG-shaped U-Net that paints over what a warp could not bring."""

    multiple = 32
    smallest = 128  # the 4x4 convolution at 1/32 of the size has no padding

    def __init__(self, config: RefineConfig) -> None:
        super().__init__()
        self.config = config
        image = config.image_channels
        c1, c2, c3, c4, c5 = config.channels
        self.down = nn.ModuleList(
            [
                _blocks(image, c1, c1),
                _blocks(c1, c2, c2),
                _blocks(c2, c3, c3, c3),
                _blocks(c3, c4, c4, c4),
                _blocks(c4, c5, c5, c5),
            ]
        )
        self.narrow = nn.Sequential(
            nn.Conv2d(c5, config.bottleneck, 4), nn.BatchNorm2d(config.bottleneck), nn.Tanh()
        )
        self.widen = nn.Sequential(
            nn.ConvTranspose2d(config.bottleneck, c5, 4), nn.BatchNorm2d(c5), nn.LeakyReLU(LEAK)
        )
        self.up = nn.ModuleList(
            [
                _blocks(2 * c5, c5, c5, c4),
                _blocks(2 * c4, c4, c4, c3),
                _blocks(2 * c3, c3, c3, c2),
                _blocks(2 * c2, c2, c1),
                _blocks(2 * c1, c1),
            ]
        )
        self.out = nn.ConvTranspose2d(c1, image, 3, padding=1)

    def forward(self, damaged: Tensor) -> Tensor:
        """Repaint frames.

        Args:
            damaged: `(B, C, H, W)`; H and W multiples of 32 and at least 128.

        Returns:
            `(B, C, H, W)` in [0, 1].
        """
        x, skips = damaged, []
        for index, stage in enumerate(self.down):
            x = stage(F.max_pool2d(x, 2) if index else x)
            skips.append(x)
        x = self.widen(self.narrow(F.max_pool2d(x, 2)))
        for stage, skip in zip(self.up, reversed(skips), strict=True):
            x = F.interpolate(x, scale_factor=2.0, mode="bilinear", align_corners=False)
            x = stage(torch.cat([x, skip], dim=1))
        return torch.sigmoid(self.out(x))
