"""Blocks and functions that two or more networks use."""

from __future__ import annotations

import math

import torch
from torch import Tensor, nn

LEAK = 0.2


class ConvBlock(nn.Module):
    """Convolution, optional batch norm, leaky ReLU 0.2: `(B, in, H, W)` to `(B, out, H', W')`.

    The layers sit in a Sequential called `main`, as in the paper's code, so that names line up.
    """

    def __init__(
        self,
        in_channels: int,
        out_channels: int,
        *,
        kernel: int = 3,
        stride: int = 1,
        padding: int = 1,
        bias: bool = True,
        norm: bool = True,
    ) -> None:
        super().__init__()
        layers: list[nn.Module] = [
            nn.Conv2d(in_channels, out_channels, kernel, stride, padding, bias=bias)
        ]
        if norm:
            layers.append(nn.BatchNorm2d(out_channels))
        layers.append(nn.LeakyReLU(LEAK))
        self.main = nn.Sequential(*layers)

    def forward(self, x: Tensor) -> Tensor:
        """Apply the block."""
        out: Tensor = self.main(x)
        return out


def conv_norm_relu(
    in_channels: int, out_channels: int, *, stride: int = 1, dilation: int = 1
) -> nn.Sequential:
    """Convolution 3x3 without bias, batch norm, ReLU: `(B, in, H, W)` to `(B, out, H', W')`."""
    return nn.Sequential(
        nn.Conv2d(in_channels, out_channels, 3, stride, dilation, dilation, bias=False),
        nn.BatchNorm2d(out_channels),
        nn.ReLU(),
    )


def share_below(numbers: Tensor) -> Tensor:
    """Share of standard normal numbers that are smaller than these."""
    return 0.5 * (1 + torch.erf(numbers / math.sqrt(2)))


def quantiles(tables: Tensor, shares: Tensor) -> Tensor:
    """Read tables of evenly spaced quantiles `(L, K)` at shares `(B, L)` in [0, 1]."""
    last = tables.shape[1] - 1
    place = shares.clamp(0, 1) * last
    low = place.floor().clamp(max=last - 1).long()
    rows = torch.arange(len(tables), device=tables.device)
    return torch.lerp(tables[rows, low], tables[rows, low + 1], place - low)
