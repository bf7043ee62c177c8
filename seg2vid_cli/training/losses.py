"""Losses of the motion and refinement networks."""

from __future__ import annotations

import torch
from torch import Tensor
from torch.nn import functional as F

SSIM_SHARE = 0.85  # 0.85 x (1 - SSIM) / 2 + 0.15 x L1, as in the paper


def kl_to_normal(mean: Tensor, log_variance: Tensor) -> Tensor:
    """Kullback-Leibler distance to N(0, I): summed over the code, averaged over the batch."""
    return 0.5 * (mean**2 + log_variance.exp() - 1 - log_variance).flatten(1).sum(1).mean()


def dissimilarity(a: Tensor, b: Tensor) -> Tensor:
    """Mix of structural dissimilarity (3x3 windows) and L1, per pixel.

    Args:
        a: `(B, 3, H, W)` in [0, 1].
        b: The same shape.

    Returns:
        `(B, 1, H, W)`, 0 = equal.
    """
    mean_a, mean_b = _blur(a), _blur(b)
    var_a = _blur(a * a) - mean_a**2
    var_b = _blur(b * b) - mean_b**2
    cov = _blur(a * b) - mean_a * mean_b
    c1, c2 = 0.01**2, 0.03**2
    ssim = ((2 * mean_a * mean_b + c1) * (2 * cov + c2)) / (
        (mean_a**2 + mean_b**2 + c1) * (var_a + var_b + c2)
    )
    mixed = SSIM_SHARE * ((1 - ssim) / 2).clamp(0, 1) + (1 - SSIM_SHARE) * (a - b).abs()
    return mixed.mean(1, keepdim=True)


def _blur(x: Tensor) -> Tensor:
    return F.avg_pool2d(F.pad(x, (1, 1, 1, 1), mode="reflect"), 3, 1)


def masked_mean(x: Tensor, mask: Tensor) -> Tensor:
    """Mean of `x` where `mask` is 1; shapes broadcast."""
    mask = mask.expand_as(x)
    return (x * mask).sum() / mask.sum().clamp_min(1.0)


def edge_aware_smoothness(values: Tensor, picture: Tensor) -> Tensor:
    """Second differences, cheaper where the picture has an edge.

    Args:
        values: `(B, C, H, W)`.
        picture: `(B, 3, H, W)` in [0, 1].
    """
    total = values.new_zeros(())
    for dim in (2, 3):
        size = values.shape[dim]
        left, middle, right = (values.narrow(dim, start, size - 2) for start in range(3))
        edges = (picture.narrow(dim, 2, size - 2) - picture.narrow(dim, 0, size - 2)).abs()
        weight = torch.exp(-10 * edges.mean(1, keepdim=True))
        total = total + (weight * (left - 2 * middle + right).abs()).mean()
    return total
