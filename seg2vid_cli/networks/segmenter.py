"""Picture to label map: a small residual encoder-decoder, and one around EfficientNet-Lite0."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from seg2vid_cli.networks.efficientnet import EfficientNetLite, lite_widths
from seg2vid_cli.networks.layers import conv_norm_relu


@dataclass(frozen=True, kw_only=True)
class SegmenterConfig:
    """Widths of the segmentation network.

    Args:
        classes: Output planes.
        channels: Feature channels at 1/2, 1/4, 1/8 ... of the picture's size.
        blocks: Residual blocks at each of these sizes.
    """

    classes: int
    channels: tuple[int, ...]
    blocks: tuple[int, ...]


@dataclass(frozen=True, kw_only=True)
class LiteSegmenterConfig:
    """Size of the segmentation network around EfficientNet-Lite0.

    Args:
        classes: Output planes.
        stages: Of `seg2vid_cli.networks.efficientnet.LITE0`.
        channels: Decoder channels at 1/2, 1/4, 1/8 ... of the picture's size.
    """

    classes: int
    stages: int
    channels: tuple[int, ...]


class ResidualBlock(nn.Module):
    """Two 3x3 convolutions around a shortcut, same size in and out."""

    def __init__(self, channels: int) -> None:
        super().__init__()
        self.first = conv_norm_relu(channels, channels)
        self.second = nn.Sequential(
            nn.Conv2d(channels, channels, 3, padding=1, bias=False), nn.BatchNorm2d(channels)
        )

    def forward(self, x: Tensor) -> Tensor:
        """`(B, C, H, W)` to the same shape."""
        return F.relu(x + self.second(self.first(x)))


class SegmentationNetwork(nn.Module):
    """What encoders with a decoder of their own sizes have in common."""

    decoder: nn.ModuleList
    head: nn.Conv2d

    @property
    def multiple(self) -> int:
        """Of what number the sides of a picture have to be multiples."""
        return 1 << (len(self.decoder) + 1)

    def forward(self, frame: Tensor) -> Tensor:
        """Score every class.

        Args:
            frame: `(B, 3, H, W)` in [0, 1]; H and W multiples of `multiple`.

        Returns:
            `(B, classes, H, W)` logits.
        """
        return self.decode(self.encode(frame))

    def encode(self, frame: Tensor) -> list[Tensor]:
        """Pictures to features at 1/2, 1/4 ... of their size."""
        raise NotImplementedError

    def decode(self, features: list[Tensor]) -> Tensor:
        """What `encode` gives to logits at the picture's size."""
        *skips, x = features
        for layer, skip in zip(self.decoder, reversed(skips), strict=True):
            x = F.interpolate(x, scale_factor=2.0, mode="bilinear", align_corners=False)
            x = layer(torch.cat([x, skip], dim=1))
        x = self.head(x)
        return F.interpolate(x, scale_factor=2.0, mode="bilinear", align_corners=False)


class Segmenter(SegmentationNetwork):
    """Name the class of every pixel of a street picture."""

    def __init__(self, config: SegmenterConfig) -> None:
        super().__init__()
        self.config = config
        widths = config.channels
        self.encoder = nn.ModuleList()
        for before, width, count in zip((3, *widths), widths, config.blocks, strict=False):
            blocks = [ResidualBlock(width) for _ in range(count)]
            self.encoder.append(nn.Sequential(conv_norm_relu(before, width, stride=2), *blocks))
        self.decoder = nn.ModuleList(
            conv_norm_relu(deep + skip, skip)
            for deep, skip in zip(widths[:0:-1], widths[-2::-1], strict=True)
        )
        self.head = nn.Conv2d(widths[0], config.classes, 3, padding=1)

    def encode(self, frame: Tensor) -> list[Tensor]:
        """Pictures to features at 1/2, 1/4 ... of their size."""
        x, kept = frame - 0.5, []
        for stage in self.encoder:
            x = stage(x)
            kept.append(x)
        return kept


class LiteSegmenter(SegmentationNetwork):
    """The same, reading pictures by the first stages of EfficientNet-Lite0."""

    def __init__(self, config: LiteSegmenterConfig) -> None:
        super().__init__()
        self.config = config
        self.encoder = EfficientNetLite(config.stages)
        *skips, deepest = lite_widths(config.stages)
        self.whole = nn.Linear(deepest, deepest)
        widths = config.channels
        self.decoder = nn.ModuleList(
            conv_norm_relu(deep + skip, width)
            for deep, skip, width in zip(
                (deepest, *widths[:0:-1]), skips[::-1], widths[::-1], strict=True
            )
        )
        self.head = nn.Conv2d(widths[0], config.classes, 3, padding=1)

    def encode(self, frame: Tensor) -> list[Tensor]:
        """Pictures to features at 1/2, 1/4 ... of their size; the last know the whole picture."""
        *kept, deepest = self.encoder(frame)
        return [*kept, deepest + self.whole(deepest.mean((2, 3)))[..., None, None]]
