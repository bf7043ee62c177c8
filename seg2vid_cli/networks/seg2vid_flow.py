"""First frame, label planes and a latent to flows and visibility of T future frames.

The sampling half of the paper's conditional VAE at any width.

Source: "Video Generation from Single Semantic Label Map" (Pan et al., CVPR 2019), STVIR/seg2vid.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from seg2vid_cli.networks.layers import LEAK, ConvBlock

ENCODER_STRIDE = 16


@dataclass(frozen=True, kw_only=True)
class FlowConfig:
    """Everything that a checkpoint decides.

    Args:
        size_hw: Height and width it was trained at; multiples of 16.
        image_channels: 3 for RGB, 1 for grey.
        label_planes: One-hot planes it reads; 0 without labels.
        num_frames: T, the frames predicted in one pass (the paper counts the first frame too).
        channels: Encoder widths at 1/2, 1/4, 1/8 and 1/16 of the size (paper: 32, 64, 128, 256).
        background_latents: Length of the camera's part of the latent.
        foreground_latents: Length of the objects' part.
        latent_row: Length of one row that the latent is mapped to (paper: 1024).
        latent_channels: Channels of the latent map (paper: 64).
        frame_channels: Channels of the latent map that each future frame gets (paper: 16).
        head_channels: Width of the last block of each head (paper: 16).
        upsampling: Published models with labels use bilinear, those without labels nearest.
    """

    size_hw: tuple[int, int]
    image_channels: int
    label_planes: int
    num_frames: int
    channels: tuple[int, int, int, int]
    background_latents: int
    foreground_latents: int
    latent_row: int
    latent_channels: int
    frame_channels: int
    head_channels: int
    upsampling: Literal["bilinear", "nearest"]

    @property
    def latent_grid(self) -> tuple[int, int]:
        """Height and width of the latent map at the native size."""
        return self.size_hw[0] // ENCODER_STRIDE, self.size_hw[1] // ENCODER_STRIDE

    @property
    def latent_size(self) -> int:
        """Length of one latent, background part first."""
        return self.background_latents + self.foreground_latents

    @property
    def latent_rows(self) -> int:
        """Rows that make up the latent map of one clip."""
        height, width = self.latent_grid
        rows, rest = divmod(self.latent_channels * height * width, self.latent_row)
        if rest or not rows:
            raise ValueError(
                f"latent map {self.latent_channels}x{height}x{width} is not whole rows"
            )
        return rows


@dataclass(frozen=True, kw_only=True)
class FlowOutput:
    """What the network predicts, in the units it was trained in.

    Args:
        flow: `(B, 2, T, H, W)`, half-images, channel 0 = x; future frame t shows at `grid` what the
            first frame has at `grid - flow`.
        flow_back: The same with the roles of the two frames exchanged; None where not asked for.
        visibility: `(B, T, H, W)`, 1 = the place in frame t is visible in the first frame.
        visibility_back: `(B, T, H, W)`, 1 = the place in the first frame is visible in frame t.
    """

    flow: Tensor
    flow_back: Tensor | None
    visibility: Tensor
    visibility_back: Tensor


class UpBlock(nn.Module):
    """Two convolution blocks (a to 2b to b), then twice the size."""

    def __init__(
        self, in_channels: int, out_channels: int, *, kernel: int, upsampling: str
    ) -> None:
        super().__init__()
        pad = kernel // 2
        self.upsampling = upsampling
        self.first = ConvBlock(in_channels, 2 * out_channels, kernel=kernel, padding=pad)
        self.second = ConvBlock(2 * out_channels, out_channels, kernel=kernel, padding=pad)

    def forward(self, x: Tensor) -> Tensor:
        """`(B, in, H, W)` to `(B, out, 2H, 2W)`."""
        x = self.second(self.first(x))
        if self.upsampling == "nearest":
            return F.interpolate(x, scale_factor=2.0, mode="nearest")
        return F.interpolate(x, scale_factor=2.0, mode="bilinear", align_corners=False)


class GateConv(nn.Module):
    """3-D convolution over time: frames are unfolded from the batch, mixed and folded back."""

    def __init__(self, channels: int, num_frames: int) -> None:
        super().__init__()
        self.num_frames = num_frames
        self.conv = nn.Conv3d(channels, channels, 3, padding=1)
        self.bn = nn.BatchNorm3d(channels)

    def forward(self, x: Tensor) -> Tensor:
        """`(T * B, C, H, W)`, time-major, to the same shape."""
        video = x.unflatten(0, (self.num_frames, -1)).permute(1, 2, 0, 3, 4)
        video = F.leaky_relu(self.bn(self.conv(video)), LEAK)
        return video.permute(2, 0, 1, 3, 4).flatten(0, 1)


class Head(nn.Module):
    """Up block and a last 5x5 convolution to two planes."""

    def __init__(self, in_channels: int, channels: int, *, upsampling: str) -> None:
        super().__init__()
        self.up = UpBlock(in_channels, channels, kernel=5, upsampling=upsampling)
        self.out = nn.Conv2d(channels, 2, 5, padding=2)

    def forward(self, x: Tensor) -> Tensor:
        """`(N, C, H, W)` to `(N, 2, 2H, 2W)`."""
        out: Tensor = self.out(self.up(x))
        return out


class Seg2VidFlow(nn.Module):
    """Predict motion from a picture, its labels and a latent."""

    multiple = ENCODER_STRIDE

    def __init__(self, config: FlowConfig) -> None:
        super().__init__()
        self.config = config
        c1, c2, c3, c4 = config.channels
        up, frames = config.upsampling, config.num_frames
        inputs = config.image_channels + config.label_planes
        self.encoder = nn.ModuleList(
            [
                ConvBlock(inputs, c1, kernel=4, stride=2, norm=False),
                ConvBlock(c1, c2, kernel=4, stride=2, bias=False),
                ConvBlock(c2, c3, kernel=4, stride=2, bias=False),
                ConvBlock(c3, c4, kernel=4, stride=2, bias=False),
            ]
        )
        self.latent_fc = nn.Linear(config.latent_size, config.latent_row)
        self.latent_conv = ConvBlock(
            config.latent_channels + c4, config.frame_channels * frames, norm=False
        )
        self.merge = ConvBlock(c4 + config.frame_channels, c4, bias=False)
        self.up1 = UpBlock(c4, c3, kernel=3, upsampling=up)
        self.up2 = UpBlock(2 * c3, c2, kernel=3, upsampling=up)
        self.gate1 = GateConv(c2, frames)
        self.up3 = UpBlock(2 * c2, c1, kernel=3, upsampling=up)
        self.gate2 = GateConv(c1, frames)
        self.flow_head = Head(2 * c1, config.head_channels, upsampling=up)
        self.flow_back_head = Head(2 * c1, config.head_channels, upsampling=up)
        self.visibility_head = Head(2 * c1, config.head_channels, upsampling=up)

    def forward(self, frame: Tensor, planes: Tensor, latents: Tensor) -> FlowOutput:
        """Predict T flows and visibility maps, each relative to `frame`.

        Args:
            frame: `(B, C, H, W)` in [0, 1]; H and W multiples of 16.
            planes: `(B, K, H, W)` label planes, one-hot or warped (fractional).
            latents: `(B, latent_rows, latent_size)`; when sampling, one latent repeated.

        Returns:
            Flows and visibility of all T frames.
        """
        return self.decode(self.encode(frame, planes), latents)

    def encode(self, frame: Tensor, planes: Tensor) -> list[Tensor]:
        """Read pictures and labels, as in `forward`.

        Returns:
            Features at 1/2, 1/4, 1/8 and 1/16 of the size.
        """
        x = torch.cat([frame, planes], dim=1)
        features = []
        for layer in self.encoder:
            x = layer(x)
            features.append(x)
        return features

    def decode(
        self, encoded: Sequence[Tensor], latents: Tensor, *, both_ways: bool = True
    ) -> FlowOutput:
        """Predict motion from what `encode` gave.

        Args:
            encoded: Features of B pictures, or of one for all latents.
            latents: `(B, latent_rows, latent_size)`.
            both_ways: Whether `flow_back` is wanted.
        """
        skips = [x.expand(len(latents), -1, -1, -1) for x in encoded]
        features = skips[-1]
        latent_map = self._latent_map(latents, features.shape[-2:])
        per_frame = self.latent_conv(torch.cat([latent_map, features], dim=1))
        pieces = per_frame.chunk(self.config.num_frames, dim=1)
        x = torch.cat([torch.cat([features, piece], dim=1) for piece in pieces])  # (T * B, ...)
        half, quarter, eighth = (s.repeat(self.config.num_frames, 1, 1, 1) for s in skips[:3])

        x = self.up1(self.merge(x))
        x = self.gate1(self.up2(torch.cat([x, eighth], dim=1)))
        x = self.gate2(self.up3(torch.cat([x, quarter], dim=1)))
        x = torch.cat([x, half], dim=1)
        flow = self._unfold(self.flow_head(x))
        flow_back = self._unfold(self.flow_back_head(x)) if both_ways else None
        visibility = torch.sigmoid(self._unfold(self.visibility_head(x)))
        return FlowOutput(
            flow=flow,
            flow_back=flow_back,
            visibility=visibility[:, 0],
            visibility_back=visibility[:, 1],
        )

    def _latent_map(self, latents: Tensor, size_hw: torch.Size) -> Tensor:
        # The linear layer writes a picture of the native grid row by row; at another size that
        # picture is stretched, since cutting the rows elsewhere would scramble it.
        rows: Tensor = self.latent_fc(latents)
        shape = (len(latents), self.config.latent_channels, *self.config.latent_grid)
        latent_map = rows.reshape(shape)
        if latent_map.shape[-2:] == size_hw:
            return latent_map
        return F.interpolate(latent_map, size=size_hw, mode="bilinear", align_corners=False)

    def _unfold(self, x: Tensor) -> Tensor:
        video: Tensor = x.unflatten(0, (self.config.num_frames, -1)).permute(1, 2, 0, 3, 4)
        return video
