"""Warped frames and visibility to repaired frames."""

from __future__ import annotations

import torch
from torch import Tensor

from seg2vid_cli.device import Compute, RowLimit
from seg2vid_cli.networks.seg2vid_refine import Seg2VidRefine


def refine_frames(
    network: Seg2VidRefine,
    warped: Tensor,
    visibility: Tensor,
    noise: Tensor,
    *,
    keep_visible: bool,
    compute: Compute,
    rows: RowLimit | None = None,
) -> Tensor:
    """Repaint what the source frame could not bring.

    Args:
        network: The refinement network.
        warped: `(T, C, H, W)` in [0, 1].
        visibility: `(T, H, W)`; 1 = visible in the source frame.
        noise: `(T, C, H, W)` standard normal, put where nothing is visible, or one for all frames.
        keep_visible: True keeps warped pixels where they are visible, so that they stay sharp;
            False takes every pixel from the network, as the paper does.
        compute: Where to run.
        rows: How many frames at once; all of them if not given.

    Returns:
        `(T, C, H, W)` float32 in [0, 1].
    """
    mask = visibility[:, None]
    damaged = compute.lay_out(warped * mask + noise * (1 - mask))

    def repaint(first: int, last: int) -> list[Tensor]:
        with compute.run():
            return list(network(damaged[first:last]).float())

    refined = torch.stack((rows or RowLimit()).run(len(damaged), repaint))
    return warped * mask + refined * (1 - mask) if keep_visible else refined
