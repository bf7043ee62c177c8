"""Blocks that two or more networks use."""

from __future__ import annotations

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
