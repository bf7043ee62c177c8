"""Long clips without copies of copies: every pixel is sampled from the sharpest frame that has it.

The paper's iterative scheme starts each pass from the last frame of the one before, so that after
some passes everything has been resampled many times. Here the first frame and the last frame of
every pass stay at hand as keyframes, with flows composed all the way back to each of them. A pixel
is taken from the oldest keyframe that still shows its place; only what none of them shows is
painted anew.
"""

from __future__ import annotations

from dataclasses import dataclass, replace

import torch
from torch import Tensor

from seg2vid_cli.warp import backward_warp

# Visibility is soft, and a mix of two sources is blurred: between these bounds it is made steep.
HIDDEN_BELOW, SEEN_ABOVE = 0.05, 0.45
WHOLLY = 0.999  # of a warped 1: all four pixels that were mixed lie inside
LEAST_SHARE = 0.002  # of the picture that a keyframe must still give


@dataclass(frozen=True, kw_only=True, eq=False)
class Keyframe:
    """A finished frame, and where the current source frame finds it.

    Args:
        picture: `(1, C, H, W)` in [0, 1].
        planes: `(1, K, H, W)`, its label planes; K may be 0.
        flow_px: `(1, 2, H, W)`: this pixel of the source frame is that far right and down in
            `picture`.
        visible: `(1, 1, H, W)`: 1 = this place of the source frame is in `picture`.
    """

    picture: Tensor
    planes: Tensor
    flow_px: Tensor
    visible: Tensor


@dataclass(frozen=True, kw_only=True, eq=False)
class Composite:
    """Frames put together from keyframes.

    Args:
        pictures: `(T, C, H, W)`: the mean of what keyframes give, black where that is nothing.
        planes: `(1, K, H, W)`, label planes of the last frame.
        seen: `(T, 1, H, W)`: 1 = found in a keyframe.
        keyframes: The keyframes as the last frame finds them, by what they give it.
    """

    pictures: Tensor
    planes: Tensor
    seen: Tensor
    keyframes: tuple[tuple[Keyframe, float], ...]


def start_keyframes(picture: Tensor, planes: Tensor) -> tuple[Keyframe, ...]:
    """Begin with a frame that is its own source.

    Args:
        picture: `(1, C, H, W)` in [0, 1].
        planes: `(1, K, H, W)`.
    """
    flow = picture.new_zeros((1, 2, *picture.shape[-2:]))
    keyframe = Keyframe(
        picture=picture, planes=planes, flow_px=flow, visible=torch.ones_like(flow[:, :1])
    )
    return (keyframe,)


def compose(keyframes: tuple[Keyframe, ...], flow_px: Tensor, visibility: Tensor) -> Composite:
    """Build the frames of a pass from keyframes, the oldest first.

    Args:
        keyframes: Oldest first.
        flow_px: `(T, 2, H, W)`, from each frame to the source frame, as `backward_warp` takes it.
        visibility: `(T, H, W)`; 1 = visible in the source frame.

    Returns:
        The frames, and the keyframes as the last one finds them.
    """
    count = len(flow_px)
    inside = backward_warp(torch.ones_like(visibility)[:, None], flow_px) > WHOLLY
    shown = steepen(visibility)[:, None] * inside
    pictures = flow_px.new_zeros((count, *keyframes[0].picture.shape[1:]))
    planes = torch.zeros_like(keyframes[0].planes)
    left = torch.ones_like(shown)  # what no keyframe has given yet
    found = []
    for keyframe in keyframes:
        # Outside the source frame the flow is unknown, and nothing is `shown`.
        flow = flow_px + backward_warp(keyframe.flow_px.expand(count, -1, -1, -1), flow_px)
        # Around a half, so that holes neither grow nor heal when they are sampled between pixels.
        carried = backward_warp(_many(keyframe.visible, count), flow_px)
        visible = shown * ((carried - 0.25) / 0.5).clamp(0, 1)
        visible = visible * (backward_warp(torch.ones_like(visible), flow) > WHOLLY)
        share = visible * left
        left = left - share
        pictures = pictures + share * backward_warp(_many(keyframe.picture, count), flow)
        if planes.shape[1]:
            planes = planes + share[-1:] * backward_warp(keyframe.planes, flow[-1:])
        # Copies, or every keyframe would hold the flows of a whole pass.
        moved = replace(keyframe, flow_px=flow[-1:].clone(), visible=visible[-1:].clone())
        found.append((moved, float(share[-1:].mean())))
    if planes.shape[1]:  # a place that no keyframe has keeps the labels that the source frame gives
        planes = planes + left[-1:] * backward_warp(keyframes[-1].planes, flow_px[-1:])
    seen = 1 - left
    pictures = pictures / seen.clamp_min(1e-3)
    return Composite(pictures=pictures, planes=planes, seen=seen, keyframes=tuple(found))


def next_keyframes(composite: Composite, picture: Tensor, *, limit: int) -> tuple[Keyframe, ...]:
    """Make the last frame of a pass a keyframe and let go of those that hardly give anything.

    Args:
        composite: Of the pass.
        picture: Its last frame, repaired, `(1, C, H, W)`.
        limit: Keyframes to hold, the new one included.
    """
    useful = [pair for pair in composite.keyframes if pair[1] >= LEAST_SHARE]
    while len(useful) >= limit:
        useful.remove(min(useful, key=lambda pair: pair[1]))
    kept = tuple(keyframe for keyframe, _ in useful)
    return (*kept, *start_keyframes(picture.clone(), composite.planes))


def steepen(visibility: Tensor) -> Tensor:
    """Decide where visibility is nearly decided, with a short slope between."""
    return ((visibility - HIDDEN_BELOW) / (SEEN_ABOVE - HIDDEN_BELOW)).clamp(0, 1)


def _many(x: Tensor, count: int) -> Tensor:
    return x.expand(count, -1, -1, -1)
