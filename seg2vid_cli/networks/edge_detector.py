"""Edge map to edge map: the "deep neural edge detector" (DNED) of S-Flow GAN, after HED.

It reads the edges of a rendered picture and returns edges as real pictures have them: more in
foliage and brickwork, where a rendering is smooth. Every scale has a side output; how they are
mixed decides what the picture painted from them looks like.

Source: "S-Flow GAN" (Miron and Coscas, 2019) and "Holistically-Nested Edge Detection" (Xie and Tu,
ICCV 2015).
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor, nn
from torch.nn import functional as F


@dataclass(frozen=True, kw_only=True)
class EdgeDetectorConfig:
    """Widths of the edge detector, and which edges it reads.

    Args:
        channels: Feature channels from full size down; each further entry halves the size.
        convolutions: Convolutions at each of these sizes.
        threshold: Size of the Laplacian of a grey picture in [0, 1] from which on there is an edge.
    """

    channels: tuple[int, ...]
    convolutions: tuple[int, ...]
    threshold: float

    @property
    def multiple(self) -> int:
        """Height and width must be multiples of this."""
        return int(2 ** (len(self.channels) - 1))


class EdgeDetector(nn.Module):
    """VGG-like encoder with a side output at every scale and a mix of them."""

    def __init__(self, config: EdgeDetectorConfig) -> None:
        super().__init__()
        self.config = config
        self.stages = nn.ModuleList()
        before = 1
        for width, count in zip(config.channels, config.convolutions, strict=True):
            layers: list[nn.Module] = []
            for _ in range(count):
                layers += [nn.Conv2d(before, width, 3, padding=1), nn.ReLU()]
                before = width
            self.stages.append(nn.Sequential(*layers))
        self.sides = nn.ModuleList(nn.Conv2d(width, 1, 1) for width in config.channels)
        scales = len(config.channels)
        self.mix = nn.Parameter(torch.full((scales,), 1 / scales))

    def side_logits(self, edges: Tensor) -> Tensor:
        """Side outputs of all scales, enlarged to full size.

        Args:
            edges: `(B, 1, H, W)`, 1 = edge; H and W multiples of `config.multiple`.

        Returns:
            `(B, scales, H, W)` logits, the finest scale first.
        """
        x, sides = edges, []
        for scale, (stage, side) in enumerate(zip(self.stages, self.sides, strict=True)):
            x = stage(F.max_pool2d(x, 2) if scale else x)
            size = (edges.shape[-2], edges.shape[-1])
            sides.append(F.interpolate(side(x), size=size, mode="bilinear", align_corners=False))
        return torch.cat(sides, dim=1)

    def forward(self, edges: Tensor, mix: Tensor | None = None) -> Tensor:
        """Edges as a real picture of the scene might have them.

        Args:
            edges: `(B, 1, H, W)`, 1 = edge; H and W multiples of `config.multiple`.
            mix: `(B, scales)` weights of the side outputs; the learnt ones if not given.

        Returns:
            `(B, 1, H, W)`, probability of an edge.
        """
        logits = self.side_logits(edges)
        weights = self.mix.expand(len(edges), -1) if mix is None else mix.to(logits.dtype)
        return torch.sigmoid((logits * weights[:, :, None, None]).sum(1, keepdim=True))
