"""Warped frames and visibility to repaired frames."""

from __future__ import annotations

from collections.abc import Callable

import torch
from torch import Tensor
from torch.nn import functional as F

from seg2vid_cli.camera import fill_gaps
from seg2vid_cli.device import Compute, RowLimit
from seg2vid_cli.keyframes import close_to
from seg2vid_cli.networks.seg2vid_refine import Seg2VidRefine

SEEN = 0.9
THING = 0.1
FILL_LEVELS = 6
COARSE_PX = 8
BORDER_PX = 8
TILE_PX, MARGIN_PX = 128, 32  # multiples of what the network needs


def fill_hidden(warped: Tensor, visibility: Tensor, things: Tensor, vehicles: Tensor) -> Tensor:
    """Colours of what lies around hidden places and is not what hid them.

    Behind a person that walks on there is more of the road, of the houses and of the cars beside
    it; behind a car that drives on there is no more of the car.

    Args:
        warped: `(T, C, H, W)` in [0, 1].
        visibility: `(T, H, W)`.
        things: `(T, 2, H, W)` in [0, 1], share of vehicles and of other upright things.
        vehicles: `(1, 1, H, W)` in [0, 1], where vehicles were before: there they hid something.

    Returns:
        `(T, C, H, W)`: means of what is nearest, from coarser and coarser pictures; black where a
        whole frame shows nothing.
    """
    height, width = warped.shape[-2:]
    borders = (0, -width % 2**FILL_LEVELS, 0, -height % 2**FILL_LEVELS)

    def fill(left_out: Tensor) -> Tensor:
        around = close_to(left_out)
        known = ((visibility[:, None] > SEEN) & (around < THING)).to(warped.dtype)
        filled = fill_gaps(F.pad(warped, borders), F.pad(known, borders), FILL_LEVELS)
        return filled[..., :height, :width]

    filled = fill(things.sum(1, keepdim=True))
    if not things[:, :1].any():
        return filled
    return torch.where(close_to(vehicles) < THING, fill(things[:, 1:]), filled)


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
            colours, and from the network, where they are wide enough, only what is finer.
        keep_visible: True keeps warped pixels where they are visible, so that they stay sharp;
            False takes every pixel from the network, as the paper does.
        compute: Where to run.
        rows: How many frames at once; all of them if not given.

    Returns:
        `(T, C, H, W)` float32 in [0, 1].
    """
    mask = visibility[:, None]
    hidden = noise if filled is None else filled
    damaged = warped * mask + hidden * (1 - mask)

    def repaint(damaged: Tensor) -> Tensor:
        damaged = compute.lay_out(damaged)

        def piece(first: int, last: int) -> list[Tensor]:
            with compute.run():
                return list(network(damaged[first:last]).float())

        return torch.stack((rows or RowLimit()).run(len(damaged), piece))

    if filled is None:
        refined = repaint(damaged)
    else:
        # Texture belongs where there is room for it: at borders, and in cracks along them, the
        # network has more to say of what it stood beside than of what is hidden.
        room = (2 * _around(1 - mask, BORDER_PX) - 1).clamp(0, 1)
        refined = (filled + room * _textures(repaint, damaged, room)).clamp(0, 1)
    return warped * mask + refined * (1 - mask) if keep_visible else refined


def _textures(repaint: Callable[[Tensor], Tensor], damaged: Tensor, room: Tensor) -> Tensor:
    """What the network paints that is finer than its surroundings, where there is room for it.

    Mostly that is a small part of a frame, so the network sees windows around tiles of it; all of
    the frame where that is less.
    """
    height, width = damaged.shape[-2:]
    window = [min(side, TILE_PX + 2 * MARGIN_PX) for side in (height, width)]
    whole, tiles = [], []
    for row in range(len(damaged)):
        own = [
            (row, y, x)
            for y in range(0, height, TILE_PX)
            for x in range(0, width, TILE_PX)
            if room[row, :, y : y + TILE_PX, x : x + TILE_PX].any()
        ]
        if len(own) * window[0] * window[1] < height * width:
            tiles += own
        else:
            whole.append(row)
    textures = torch.zeros_like(damaged)
    if whole:
        textures[whole] = _fine(repaint(damaged[whole]))
    if tiles:
        begins = [
            [
                max(0, min(at - MARGIN_PX, side - part))
                for at, side, part in zip(tile[1:], (height, width), window, strict=True)
            ]
            for tile in tiles
        ]
        shown = [
            damaged[row, :, top : top + window[0], left : left + window[1]]
            for (row, _, _), (top, left) in zip(tiles, begins, strict=True)
        ]
        fine = _fine(repaint(torch.stack(shown)))
        for (row, y, x), (top, left), part in zip(tiles, begins, fine, strict=True):
            tile = part[:, y - top : y - top + TILE_PX, x - left : x - left + TILE_PX]
            textures[row, :, y : y + TILE_PX, x : x + TILE_PX] = tile
    return textures


def _fine(picture: Tensor) -> Tensor:
    return picture - _around(picture, COARSE_PX)


def _around(x: Tensor, radius: int) -> Tensor:
    """Mean of the square around each pixel of `(T, C, H, W)`, in two steps: that is less work."""
    for along in ((1, 0), (0, 1)):
        size = tuple(2 * radius * n + 1 for n in along)
        x = F.avg_pool2d(x, size, 1, tuple(radius * n for n in along), count_include_pad=False)
    return x
