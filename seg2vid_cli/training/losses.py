"""Losses that several trainings share."""

from __future__ import annotations

import math

import torch
from torch import Tensor
from torch.nn import functional as F

FEWEST_CELLS = 8.0
MOST_CELLS = 8192
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


def compare(made: Tensor, true: Tensor, planes: Tensor, follows: Tensor) -> Tensor:
    """How far features of painted pictures are from those of real ones.

    Args:
        made: `(B, C, h, w)`.
        true: The same shape.
        planes: `(B, 20, H, W)` one-hot labels.
        follows: bool `(B,)`: whether a painted picture should be the real one place by place, or
            only have its textures.

    Returns:
        `(B,)`.
    """
    if bool(follows.all()):
        return (made - true).abs().mean((1, 2, 3))
    apart = ~follows
    gaps = made.new_zeros(len(made))
    gaps[follows] = (made[follows] - true[follows]).abs().mean((1, 2, 3))
    gaps[apart] = texture_gap(made[apart], true[apart], planes[apart])
    return gaps


def texture_gap(made: Tensor, true: Tensor, planes: Tensor) -> Tensor:
    """Difference of the features' means and standard deviations inside each class.

    The same is asked of as many random mixtures of the features, drawn anew every time: how strong
    they are together is what a texture is, and deviations of single features do not say it.
    Classes weigh as the root of their area; those of less than `FEWEST_CELLS` do not count. Of more
    than `MOST_CELLS`, a regular grid of about so many is looked at, placed anew every time.

    Args:
        made: `(B, C, h, w)`.
        true: The same shape.
        planes: `(B, 20, H, W)` one-hot labels, H / h = W / w a whole number; the last is unlabelled
            and does not count.

    Returns:
        `(B,)`; 0 where no class counts.
    """
    with torch.autocast(made.device.type, enabled=False):  # bf16 loses faint textures
        return _texture_gap(made.float(), true.float(), planes.float())


def _texture_gap(made: Tensor, true: Tensor, planes: Tensor) -> Tensor:
    channels = made.shape[1]
    mixtures = F.normalize(torch.randn(channels, channels, device=made.device), dim=1)
    shares = F.avg_pool2d(planes[:, :-1], planes.shape[-1] // made.shape[-1])
    every = math.ceil(math.sqrt(made.shape[-2] * made.shape[-1] / MOST_CELLS))
    row, column = torch.randint(every, (2,)).tolist()
    shares = shares[..., row::every, column::every].flatten(2)
    area = shares.sum(2)
    shares = shares / area.clamp_min(1.0)[..., None]
    weights = torch.where(area >= FEWEST_CELLS, area.sqrt(), torch.zeros_like(area))
    weights = weights / weights.sum(1, keepdim=True).clamp_min(1.0)
    gaps = torch.zeros_like(weights)
    moments = []
    for features in (made, true):
        cells = features[..., row::every, column::every].permute(0, 2, 3, 1).flatten(1, 2)
        cells = torch.cat([cells, cells @ mixtures.T], dim=2)
        mean, square = shares @ cells, shares @ (cells * cells)
        moments.append((mean, (square - mean**2).clamp_min(1e-6).sqrt()))
    for mine, theirs in zip(*moments, strict=True):
        gaps = gaps + (mine - theirs).abs().mean(2)
    return (gaps * weights).sum(1)


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
