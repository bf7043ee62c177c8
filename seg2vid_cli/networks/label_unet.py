"""Label map to picture: a compact U-Net whose normalisation carries the look of the scene.

A style vector sets scale and shift of every normalisation layer (light, colours, weather), and the
label planes enter at every scale of the decoder, with an edge map beside them if one guides it.
Discriminators and the style encoder belong to `seg2vid_cli.training`.
"""

from __future__ import annotations

from dataclasses import dataclass
from itertools import pairwise
from typing import Literal

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from seg2vid_cli.networks.layers import LEAK, quantiles, share_below


@dataclass(frozen=True, kw_only=True)
class LabelUNetConfig:
    """Widths of the generator.

    Args:
        size_hw: Height and width it was trained at.
        label_planes: One-hot planes it reads.
        style_size: Length of the style vector.
        channels: Feature channels from full size down; each further entry halves the size.
        middle_blocks: Residual blocks at the coarsest size.
        up_blocks: Residual convolutions after every step up but the last.
        edge_planes: Edge maps it reads beside the labels, 0 or 1. Edges give textures something to
            hold on to, so a generator with them is given no noise.
        colour_planes: Planes with the colour of every place, which it reads behind those: 0, or 3
            for RGB.
        palette: Whether every place is given a colour that is drawn for it; always so where the
            network reads these colours.
        upsampling: Before every convolution on the way up. The nearest cell leaves its corners in
            the picture, as a weave.
        noise: Where noise enters: on the way up, or in the middle blocks too. Only from there can
            it make what is larger than a texture, like windows on a façade.
    """

    size_hw: tuple[int, int]
    label_planes: int
    style_size: int
    channels: tuple[int, ...]
    middle_blocks: int
    up_blocks: int = 0
    edge_planes: int = 0
    colour_planes: int = 0
    palette: bool = False
    upsampling: Literal["nearest", "bilinear"] = "nearest"
    noise: Literal["up", "middle"] = "up"

    @property
    def multiple(self) -> int:
        """Height and width must be multiples of this."""
        return int(2 ** (len(self.channels) - 1))


DARKEST = 0.05  # added to colours before their logarithm is taken
MOST_UNUSUAL = 1.5  # standard deviations
LOOKS, SHADES = 32, 32  # points of the curves
MIDDLE_NOISE = 0.5  # at the start of a training


class StyledConv(nn.Module):
    """Convolution 3x3, noise, batch norm with scale and shift from the style, leaky ReLU."""

    def __init__(
        self, in_channels: int, out_channels: int, style_size: int, stride: int = 1
    ) -> None:
        super().__init__()
        self.conv = nn.Conv2d(in_channels, out_channels, 3, stride, 1, bias=False)
        self.norm = nn.BatchNorm2d(out_channels, affine=False)
        self.style = nn.Linear(style_size, 2 * out_channels)

    def forward(self, x: Tensor, style: Tensor, noise: Tensor | None = None) -> Tensor:
        """`(B, in, H, W)`, `(B, style_size)`, noise of the output's shape: `(B, out, H', W')`."""
        scale, shift = self.style(style)[:, :, None, None].chunk(2, dim=1)
        x = self.conv(x)
        x = self.norm(x if noise is None else x + noise.to(x.dtype))
        return F.leaky_relu(x * (1 + scale) + shift, LEAK)


class Palette(nn.Module):
    """Draws light and style of a picture and the colours of its places, as measured on real ones.

    Real light is no normal distribution: there is day and there is dusk. So one number says how
    light a picture is among all, and styles and usual colours are looked up along that. A place
    differs from the usual colour of its class in the same way: how light it is among all of them,
    then what varies beside that. Colours are counted in logarithms.

    Args:
        classes: K.
        style_size: Length of the style vector.
    """

    def __init__(self, classes: int, style_size: int) -> None:
        super().__init__()
        self.register_buffer("known", torch.zeros(classes))
        self.register_buffer("looks", torch.zeros(LOOKS, style_size))
        self.register_buffer("around", torch.eye(style_size))
        self.register_buffer("usual", torch.full((LOOKS, classes, 3), DARKEST).add(0.5).log())
        self.register_buffer("by_style", torch.zeros(classes, 3, style_size))
        self.register_buffer("common", torch.zeros(3, 3))
        self.register_buffer("shades", torch.zeros(SHADES, classes, 3))
        self.register_buffer("spreads", torch.zeros(classes, 3, 3))

    known: Tensor
    looks: Tensor  # styles, from the darkest picture to the lightest
    around: Tensor  # what standard normal numbers are multiplied with, to be added to those
    usual: Tensor  # colours, from the darkest picture to the lightest
    by_style: Tensor  # how colours go with what styles have beside those
    common: Tensor  # what all places of a picture have in common beside all that
    shades: Tensor  # of a class, from the darkest place to the lightest
    spreads: Tensor  # of places beside those

    def draw_style(self, light: Tensor, draws: Tensor) -> Tensor:
        """Styles of pictures.

        Args:
            light: `(B,)`, standard normal: how light they are among all.
            draws: `(B, style_size)`, standard normal.

        Returns:
            `(B, style_size)`.
        """
        return along(self.looks.float(), share_below(light)) + self._beside(draws)

    def _beside(self, draws: Tensor) -> Tensor:
        """What styles have beside those of their light, `(B, style_size)`."""
        return draws.float() @ self.around.float().T

    def forward(self, light: Tensor, draws: Tensor, classes: Tensor, unusual: Tensor) -> Tensor:
        """Colours of a picture's places.

        Args:
            light: `(1,)`, as for its style.
            draws: `(1, style_size)`, as for its style.
            classes: `(P,)`, of the places.
            unusual: `(P + 1, 4)`, standard normal, the first row for the whole picture; 0 for the
                usual colour of such a place.

        Returns:
            `(P, 3)` RGB in [0, 1]; NaN for classes that were not measured.
        """
        unusual = unusual.clamp(-MOST_UNUSUAL, MOST_UNUSUAL)
        usual = along(self.usual.float(), share_below(light))[0]
        usual = usual + torch.einsum("kcs,s->kc", self.by_style.float(), self._beside(draws)[0])
        shade = along(self.shades.float(), share_below(unusual[1:, 0]))
        shade = shade[torch.arange(len(classes), device=classes.device), classes]
        own = torch.einsum("pij,pj->pi", self.spreads.float()[classes], unusual[1:, 1:])
        drawn = usual[classes] + self.common.float() @ unusual[0, 1:] + shade + own
        drawn = (drawn.exp() - DARKEST).clamp(0, 1)
        return torch.where(self.known[classes][:, None] > 0, drawn, torch.nan)

    def measure(self, colours: Tensor) -> Tensor:
        """RGB in [0, 1] as this network counts colours: their logarithms, from a little above 0."""
        return (colours + DARKEST).log()


def along(curve: Tensor, shares: Tensor) -> Tensor:
    """Look up a curve of quantiles.

    Args:
        curve: `(N, ...)`, evenly spread from the smallest of all to the largest.
        shares: `(B,)` in [0, 1].

    Returns:
        `(B, ...)`.
    """
    tables = curve.flatten(1).T
    found: Tensor = quantiles(tables, shares[:, None].expand(-1, len(tables)))
    return found.view(len(shares), *curve.shape[1:])


class LabelUNet(nn.Module):
    """Paint a picture of a label map."""

    def __init__(self, config: LabelUNetConfig) -> None:
        super().__init__()
        self.config = config
        widths, style = config.channels, config.style_size
        planes = config.label_planes + config.edge_planes + config.colour_planes
        self.stem = nn.Conv2d(planes, widths[0], 5, padding=2)
        self.down = nn.ModuleList(StyledConv(a, b, style, stride=2) for a, b in pairwise(widths))
        self.middle = nn.ModuleList(
            StyledConv(widths[-1], widths[-1], style) for _ in range(2 * config.middle_blocks)
        )
        self.up = nn.ModuleList(
            StyledConv(deep + skip + planes, skip, style)
            for deep, skip in zip(widths[:0:-1], widths[-2::-1], strict=True)
        )
        self.up_blocks = nn.ModuleList(
            StyledConv(width, width, style)
            for width in widths[-2:0:-1]
            for _ in range(config.up_blocks)
        )
        self.up_gains = nn.ParameterList(
            torch.zeros(1, width, 1, 1)
            for width in widths[-2:0:-1]
            for _ in range(config.up_blocks)
        )
        self.to_rgb = nn.Conv2d(widths[0], 3, 5, padding=2)
        self.noise_strength = nn.ParameterList(
            torch.zeros(1, width, 1, 1) for width in widths[-2::-1] if not config.edge_planes
        )
        deep = len(self.middle) if config.noise == "middle" and not config.edge_planes else 0
        self.middle_noise = nn.ParameterList(
            torch.full((1, widths[-1], 1, 1), MIDDLE_NOISE) for _ in range(deep)
        )

        self.palette = None
        if config.palette or config.colour_planes:
            self.palette = Palette(config.label_planes, config.style_size)

    def forward(self, planes: Tensor, style: Tensor, noise: Tensor | None = None) -> Tensor:
        """Paint label planes in a given style.

        Args:
            planes: `(B, K, H, W)` one-hot, behind them the edge map and the colours of places, as
                far as it reads them; H and W multiples of `config.multiple`.
            style: `(B, style_size)`, standard normal: light, colours, weather.
            noise: `(B, 1, H, W)`, standard normal: without it, the inside of a large region would
                have nothing to make a texture from. None with an edge map.

        Returns:
            `(B, 3, H, W)` in [0, 1].
        """
        x = F.leaky_relu(self.stem(planes), LEAK)
        planes = planes.to(x.dtype)  # under autocast: keep the concatenations in half precision
        skips = [x]
        for layer in self.down:
            x = layer(x, style)
            skips.append(x)
        inside: list[Tensor | None] = [None] * len(self.middle)
        if noise is not None:
            inside[: len(self.middle_noise)] = [
                strength * _grain(noise, x.shape[-1]) for strength in self.middle_noise
            ]
        for index in range(0, len(self.middle), 2):
            y = self.middle[index](x, style, inside[index])
            x = x + self.middle[index + 1](y, style, inside[index + 1])
        gains, count = iter(self.up_gains), self.config.up_blocks
        for scale, (layer, skip) in enumerate(zip(self.up, skips[-2::-1], strict=True)):
            grain = None
            if noise is not None:
                grain = self.noise_strength[scale] * _grain(noise, skip.shape[-1])
            x = self._enlarge(x)
            # Class shares of each cell rather than one sampled class: thin poles survive.
            shares = F.adaptive_avg_pool2d(planes, (skip.shape[-2], skip.shape[-1]))
            x = layer(torch.cat([x, skip, shares], dim=1), style, grain)
            for block in self.up_blocks[scale * count : (scale + 1) * count]:
                x = x + next(gains).to(x.dtype) * block(x, style)
        return torch.sigmoid(self.to_rgb(x))

    def _enlarge(self, x: Tensor) -> Tensor:
        if self.config.upsampling == "nearest":
            return F.interpolate(x, scale_factor=2.0, mode="nearest")
        return F.interpolate(x, scale_factor=2.0, mode="bilinear", align_corners=False)


def _grain(noise: Tensor, width: int) -> Tensor:
    """Noise at a smaller width, of unit variance again."""
    factor = noise.shape[-1] // width
    return F.avg_pool2d(noise, factor) * factor
