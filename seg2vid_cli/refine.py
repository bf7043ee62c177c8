"""Warped frames and visibility to repaired frames."""

from __future__ import annotations

import torch
from torch import Tensor
from torch.nn import functional as F

from seg2vid_cli.camera import fill_gaps
from seg2vid_cli.device import Compute, RowLimit
from seg2vid_cli.networks.seg2vid_refine import Seg2VidRefine

FRINGE_PX = 3  # things are painted a little larger than their labels
SEEN = 0.9
THING = 0.1
FILL_LEVELS = 6
COARSE_PX = 8


def fill_hidden(warped: Tensor, visibility: Tensor, things: Tensor) -> Tensor:
    """Colours of what lies around hidden places and is no upright thing.

    Behind a person that walks on there is more of the road and the houses beside it.

    Args:
        warped: `(T, C, H, W)` in [0, 1].
        visibility: `(T, H, W)`.
        things: `(T, 1, H, W)` in [0, 1], share of things.

    Returns:
        `(T, C, H, W)`: means of what is nearest, from coarser and coarser pictures; black where a
        whole frame shows nothing.
    """
    around = F.max_pool2d(things, 2 * FRINGE_PX + 1, 1, FRINGE_PX)
    known = ((visibility[:, None] > SEEN) & (around < THING)).to(warped.dtype)
    height, width = warped.shape[-2:]
    borders = (0, -width % 2**FILL_LEVELS, 0, -height % 2**FILL_LEVELS)
    filled = fill_gaps(F.pad(warped, borders), F.pad(known, borders), FILL_LEVELS)
    return filled[..., :height, :width]


def refine_frames(
    network: Seg2VidRefine,
    warped: Tensor,
    visibility: Tensor,
    noise: Tensor,
    *,
    keep_visible: bool,
    compute: Compute,
    rows: RowLimit | None = None,
    filled: Tensor | None = None,
) -> Tensor:
    """Repaint what the source frame could not bring.

    Args:
        network: The refinement network.
        warped: `(T, C, H, W)` in [0, 1].
        visibility: `(T, H, W)`; 1 = visible in the source frame.
        noise: `(T, C, H, W)` standard normal, put where nothing is visible, or one for all frames.
        filled: `(T, C, H, W)` from `fill_hidden`, instead of noise: hidden places get these
            colours, and from the network only what is finer.
        keep_visible: True keeps warped pixels where they are visible, so that they stay sharp;
            False takes every pixel from the network, as the paper does.
        compute: Where to run.
        rows: How many frames at once; all of them if not given.

    Returns:
        `(T, C, H, W)` float32 in [0, 1].
    """
    mask = visibility[:, None]
    hidden = noise if filled is None else filled
    damaged = compute.lay_out(warped * mask + hidden * (1 - mask))

    def repaint(first: int, last: int) -> list[Tensor]:
        with compute.run():
            return list(network(damaged[first:last]).float())

    refined = torch.stack((rows or RowLimit()).run(len(damaged), repaint))
    if filled is not None:
        coarse = refined
        for along in ((1, 0), (0, 1)):  # a square in two steps, which is much less work
            size, pad = (
                tuple(2 * COARSE_PX * n + 1 for n in along),
                tuple(COARSE_PX * n for n in along),
            )
            coarse = F.avg_pool2d(coarse, size, 1, pad, count_include_pad=False)
        refined = (filled + refined - coarse).clamp(0, 1)
    return warped * mask + refined * (1 - mask) if keep_visible else refined
