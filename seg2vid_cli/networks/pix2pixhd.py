"""Label planes and object borders to a picture, in the layout of the published Cityscapes models.

Instance norm has no weights of its own and takes its statistics from the one picture, so a batch
gives what each of its members gives alone.

Source: "High-Resolution Image Synthesis and Semantic Manipulation with Conditional GANs" (Wang et
al., CVPR 2018), NVIDIA/pix2pixHD, models/networks.py, `GlobalGenerator` and `LocalEnhancer`.
"""

from __future__ import annotations

from dataclasses import dataclass
from itertools import pairwise

import torch
from torch import Tensor, nn
from torch.nn import functional as F

NORM_EPS = 1e-5


@dataclass(frozen=True, kw_only=True)
class GlobalConfig:
    """Widths of the global generator.

    Args:
        size_hw: Height and width it was trained at (label2city: 512, 1024).
        label_planes: One-hot planes it reads (Cityscapes label ids: 35); the edge plane comes on
            top.
        channels: Widths from full size down; each further entry halves the size (published: 64,
            128, 256, 512, 1024).
        blocks: Residual blocks at the coarsest size (published: 9).
    """

    size_hw: tuple[int, int]
    label_planes: int
    channels: tuple[int, ...]
    blocks: int

    @property
    def multiple(self) -> int:
        """Height and width must be multiples of this, or the picture has another size."""
        return int(2 ** (len(self.channels) - 1))

    @property
    def smallest(self) -> int:
        """Smallest height and width: mirroring needs two pixels at the coarsest size."""
        return 2 * self.multiple


@dataclass(frozen=True, kw_only=True)
class LocalConfig:
    """Widths of the local enhancer around a global generator at half the size.

    Args:
        size_hw: Height and width it was trained at (label2city: 1024, 2048).
        label_planes: One-hot planes it reads; the edge plane comes on top.
        channels: Widths of the global generator, from half size down.
        blocks: Residual blocks of the global generator.
        detail_channels: Widths of the enhancer at full and at half size; the last equals the first
            of `channels`, for the two are added (published: 32, 64).
        detail_blocks: Residual blocks of the enhancer, at half size (published: 3).
    """

    size_hw: tuple[int, int]
    label_planes: int
    channels: tuple[int, ...]
    blocks: int
    detail_channels: tuple[int, int]
    detail_blocks: int

    @property
    def multiple(self) -> int:
        """Height and width must be multiples of this, or the two sizes do not fit together."""
        return int(2 ** len(self.channels))

    @property
    def smallest(self) -> int:
        """Smallest height and width: mirroring needs two pixels at the coarsest size."""
        return 2 * self.multiple


def _norm_relu(x: Tensor) -> Tensor:
    return F.relu(F.instance_norm(x, eps=NORM_EPS))


def _mirrored(in_channels: int, out_channels: int, kernel: int) -> nn.Conv2d:
    return nn.Conv2d(in_channels, out_channels, kernel, padding=kernel // 2, padding_mode="reflect")


class ResidualBlock(nn.Module):
    """Two mirrored 3x3 convolutions whose result is added to what came in."""

    def __init__(self, channels: int) -> None:
        super().__init__()
        self.first = _mirrored(channels, channels, 3)
        self.second = _mirrored(channels, channels, 3)

    def forward(self, x: Tensor) -> Tensor:
        """`(B, C, H, W)` to the same shape."""
        return x + F.instance_norm(self.second(_norm_relu(self.first(x))), eps=NORM_EPS)


class Trunk(nn.Module):
    """What both generators are made of: down by halves, residual blocks, up again."""

    def __init__(self, planes: int, channels: tuple[int, ...], blocks: int) -> None:
        super().__init__()
        self.stem = _mirrored(planes, channels[0], 7)
        self.down = nn.ModuleList(
            nn.Conv2d(a, b, 3, stride=2, padding=1) for a, b in pairwise(channels)
        )
        self.middle = nn.ModuleList(ResidualBlock(channels[-1]) for _ in range(blocks))
        self.up = nn.ModuleList(
            nn.ConvTranspose2d(a, b, 3, stride=2, padding=1, output_padding=1)
            for a, b in pairwise(reversed(channels))
        )

    def encode(self, planes: Tensor) -> Tensor:
        """`(B, K, H, W)` to the last width at the coarsest size."""
        x = _norm_relu(self.stem(planes))
        for layer in self.down:
            x = _norm_relu(layer(x))
        return x

    def decode(self, x: Tensor) -> Tensor:
        """What `encode` returns to the first width at full size."""
        for block in self.middle:
            x = block(x)
        for layer in self.up:
            x = _norm_relu(layer(x))
        return x


class GlobalGenerator(nn.Module):
    """Paint a picture of a label map at one size."""

    def __init__(self, config: GlobalConfig) -> None:
        super().__init__()
        self.config = config
        self.trunk = Trunk(config.label_planes + 1, config.channels, config.blocks)
        self.to_rgb = _mirrored(config.channels[0], 3, 7)

    def forward(self, planes: Tensor) -> Tensor:
        """Paint label planes.

        Args:
            planes: `(B, K + 1, H, W)`: one-hot label ids, then 1 on the borders of objects; H and W
                multiples of `config.multiple` and at least `config.smallest`.

        Returns:
            `(B, 3, H, W)` in [-1, 1].
        """
        return torch.tanh(self.to_rgb(self.trunk.decode(self.trunk.encode(planes))))


class LocalEnhancer(nn.Module):
    """Paint at half size, then add what only the full size shows."""

    def __init__(self, config: LocalConfig) -> None:
        super().__init__()
        self.config = config
        planes = config.label_planes + 1
        self.coarse = Trunk(planes, config.channels, config.blocks)
        self.detail = Trunk(planes, config.detail_channels, config.detail_blocks)
        self.to_rgb = _mirrored(config.detail_channels[0], 3, 7)

    def forward(self, planes: Tensor) -> Tensor:
        """Paint label planes.

        Args:
            planes: `(B, K + 1, H, W)`: one-hot label ids, then 1 on the borders of objects; H and W
                multiples of `config.multiple` and at least `config.smallest`.

        Returns:
            `(B, 3, H, W)` in [-1, 1].
        """
        half = F.avg_pool2d(planes, 3, stride=2, padding=1, count_include_pad=False)
        coarse = self.coarse.decode(self.coarse.encode(half))
        return torch.tanh(self.to_rgb(self.detail.decode(self.detail.encode(planes) + coarse)))
