"""EfficientNet-Lite0 without its classifier: picture to features of five sizes.

Where few pictures are labelled, begin with weights that have seen the million of ImageNet; see
`seg2vid_cli.training.imagenet`.

Sources: "EfficientNet: Rethinking Model Scaling for Convolutional Neural Networks" (Tan and Le,
ICML 2019), and its Lite variants of 2020, which have no squeeze-and-excitation and ReLU6 for swish.
"""

from __future__ import annotations

from dataclasses import dataclass

from torch import Tensor, nn
from torch.nn import functional as F

NORM_EPS = 1e-3
NORM_MOMENTUM = 0.01  # the statistics are good ones, and batches small
STEM_CHANNELS = 32


@dataclass(frozen=True, kw_only=True)
class StageConfig:
    """Blocks of one width.

    Args:
        expansion: Channels inside a block for each one that enters.
        channels: Of the stage.
        kernel: Of its depthwise convolutions.
        stride: Of its first block.
        blocks: How many.
    """

    expansion: int
    channels: int
    kernel: int
    stride: int
    blocks: int


LITE0 = (
    StageConfig(expansion=1, channels=16, kernel=3, stride=1, blocks=1),
    StageConfig(expansion=6, channels=24, kernel=3, stride=2, blocks=2),
    StageConfig(expansion=6, channels=40, kernel=5, stride=2, blocks=2),
    StageConfig(expansion=6, channels=80, kernel=3, stride=2, blocks=3),
    StageConfig(expansion=6, channels=112, kernel=5, stride=1, blocks=3),
    StageConfig(expansion=6, channels=192, kernel=5, stride=2, blocks=4),
    StageConfig(expansion=6, channels=320, kernel=3, stride=1, blocks=1),
)


class ConvNorm(nn.Module):
    """Convolution, batch norm and ReLU6, halving the size or not: `(B, in, H, W)`, both even."""

    def __init__(
        self,
        in_channels: int,
        out_channels: int,
        *,
        kernel: int = 1,
        stride: int = 1,
        groups: int = 1,
        bounded: bool = True,
    ) -> None:
        super().__init__()
        # A step of two starts as far to the upper left as TensorFlow's does.
        self.before, self.after = (kernel - stride) // 2, (kernel - 1) // 2
        self.conv = nn.Conv2d(in_channels, out_channels, kernel, stride, groups=groups, bias=False)
        self.bn = nn.BatchNorm2d(out_channels, eps=NORM_EPS, momentum=NORM_MOMENTUM)
        self.bounded = bounded

    def forward(self, x: Tensor) -> Tensor:
        """Apply the layers."""
        x = self.bn(self.conv(F.pad(x, (self.before, self.after) * 2)))
        return F.relu6(x) if self.bounded else x


class InvertedResidual(nn.Module):
    """More channels, a depthwise convolution, fewer channels; around it a shortcut that fits."""

    def __init__(self, in_channels: int, stage: StageConfig, *, stride: int) -> None:
        super().__init__()
        inside = in_channels * stage.expansion
        self.expand = ConvNorm(in_channels, inside) if stage.expansion > 1 else nn.Identity()
        self.depthwise = ConvNorm(inside, inside, kernel=stage.kernel, stride=stride, groups=inside)
        self.project = ConvNorm(inside, stage.channels, bounded=False)
        self.shortcut = stride == 1 and in_channels == stage.channels

    def forward(self, x: Tensor) -> Tensor:
        """`(B, in, H, W)` to `(B, channels, H / stride, W / stride)`."""
        y: Tensor = self.project(self.depthwise(self.expand(x)))
        return x + y if self.shortcut else y


class EfficientNetLite(nn.Module):
    """The first stages of EfficientNet-Lite0."""

    def __init__(self, stages: int) -> None:
        """Args: stages: How many of `LITE0`."""
        super().__init__()
        if not 1 <= stages <= len(LITE0):
            raise ValueError(f"{stages} stages are out of range, 1 to {len(LITE0)}")
        self.stem = ConvNorm(3, STEM_CHANNELS, kernel=3, stride=2)
        self.stages = nn.ModuleList()
        width = STEM_CHANNELS
        for stage in LITE0[:stages]:
            blocks = []
            for index in range(stage.blocks):
                stride = 1 if index else stage.stride
                blocks.append(InvertedResidual(width, stage, stride=stride))
                width = stage.channels
            self.stages.append(nn.Sequential(*blocks))

    def forward(self, frame: Tensor) -> list[Tensor]:
        """Read pictures.

        Args:
            frame: `(B, 3, H, W)` in [0, 1]; H and W multiples of `2 ** len(lite_widths(stages))`.

        Returns:
            The last features of each size, from 1/2 down: 16, 24, 40, 112 and 320 channels of all
            stages, 192 without the last one.
        """
        x = self.stem((frame * 255 - 127) / 128)
        kept: list[Tensor] = []
        for stage in self.stages:
            x = stage(x)
            if kept and kept[-1].shape[-1] == x.shape[-1]:
                kept.pop()
            kept.append(x)
        return kept


def lite_widths(stages: int) -> tuple[int, ...]:
    """Channels of what `EfficientNetLite(stages)` returns."""
    out: list[int] = []
    for stage in LITE0[:stages]:
        if out and stage.stride == 1:
            out.pop()
        out.append(stage.channels)
    return tuple(out)
