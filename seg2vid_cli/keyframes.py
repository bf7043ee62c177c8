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
from torch.nn import functional as F

from seg2vid_cli.camera import (
    CRUMB_PX,
    SAME_NEARNESS,
    camera_flow,
    camera_growth,
    join,
    slopes_to_px,
)
from seg2vid_cli.motion import Course, Memory, Motion, see_from
from seg2vid_cli.networks.ego_flow import Plan
from seg2vid_cli.networks.layout import UPRIGHT, VEHICLES
from seg2vid_cli.warp import backward_warp, nearest_warp

# Visibility is soft, and a mix of two sources is blurred: between these bounds it is made steep.
HIDDEN_BELOW, SEEN_ABOVE = 0.05, 0.45
WHOLLY = 0.999  # of a warped 1: all four pixels that were mixed lie inside
HANDED_ON = 1.6  # times as large as in a keyframe
FRINGE_PX = 3  # things are painted a little larger than their labels
HALF = 0.5
OVERLAP_PX = 2  # of what keyframes give, so that no cracks open between them
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
        own: `(1, 1, H, W)`: 1 = `picture` shows this place, and no older keyframe does.
        plan: Depth of `picture`, where the motion network knows it; see `_travel`.
        camera: `(1, 6)`, that of the source frame as seen from `picture`, with `plan`.
        age: Frames of the network from `picture` to the source frame, with `plan`.
    """

    picture: Tensor
    planes: Tensor
    flow_px: Tensor
    visible: Tensor
    own: Tensor
    plan: Plan | None = None
    camera: Tensor | None = None
    age: float = 0.0


@dataclass(frozen=True, kw_only=True, eq=False)
class Composite:
    """Frames put together from keyframes.

    Args:
        pictures: `(T, C, H, W)`: the mean of what keyframes give, black where that is nothing.
        planes: `(1, K, H, W)`, label planes of the last frame.
        seen: `(T, 1, H, W)`: 1 = found in a keyframe.
        keyframes: The keyframes as the last frame finds them, by what they give it.
        flow_px: `(T, 2, H, W)`, to the source frame.
        forward_flow_px: `(T, 2, H, W)`, from it; None where it was not asked for.
        things: `(T, 2, H, W)`, share of vehicles and of other upright things; this and what
            follows where the motion network knows depth.
        vehicles: `(1, 1, H, W)`, share of vehicles in the source frame.
        memory: What is known of the last frame's depth.
    """

    pictures: Tensor
    planes: Tensor
    seen: Tensor
    keyframes: tuple[tuple[Keyframe, float], ...]
    flow_px: Tensor
    forward_flow_px: Tensor | None
    things: Tensor | None = None
    vehicles: Tensor | None = None
    memory: Memory | None = None


def start_keyframes(picture: Tensor, planes: Tensor) -> tuple[Keyframe, ...]:
    """Begin with a frame that is its own source.

    Args:
        picture: `(1, C, H, W)` in [0, 1].
        planes: `(1, K, H, W)`.
    """
    flow = picture.new_zeros((1, 2, *picture.shape[-2:]))
    everything = torch.ones_like(flow[:, :1])
    keyframe = Keyframe(
        picture=picture, planes=planes, flow_px=flow, visible=everything, own=everything
    )
    return (keyframe,)


def compose(keyframes: tuple[Keyframe, ...], motion: Motion) -> Composite:
    """Build the frames of a pass from keyframes, the oldest first.

    Args:
        keyframes: Oldest first.
        motion: From the source frame, the last of them.

    Returns:
        The frames, and the keyframes as the last one finds them.
    """
    if motion.course is not None:
        return _travel(keyframes, motion, motion.course)
    flow_px, visibility = motion.flow_px, motion.visibility
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
    return _composite(pictures, planes, left, keyframes[-1], found, motion)


def _composite(
    pictures: Tensor,
    planes: Tensor,
    left: Tensor,
    source: Keyframe,
    found: list[tuple[Keyframe, float]],
    motion: Motion,
) -> Composite:
    """Put together what keyframes gave: sums by their shares, and what share is left."""
    if planes.shape[1]:  # a place that no keyframe has keeps the labels that the source frame gives
        planes = planes + left[-1:] * backward_warp(source.planes, motion.flow_px[-1:])
    seen = 1 - left
    pictures = pictures / seen.clamp_min(1e-3)
    return Composite(
        pictures=pictures,
        planes=planes,
        seen=seen,
        keyframes=tuple(found),
        flow_px=motion.flow_px,
        forward_flow_px=motion.forward_flow_px,
    )


def _travel(keyframes: tuple[Keyframe, ...], motion: Motion, course: Course) -> Composite:
    """`compose` where depth is known: each keyframe is moved as a whole, by its own depth.

    Flows that are composed pass by pass take a thin thing apart. A keyframe with depth stays one
    scene for as long as it is held, and gives what no older one has: its `own`.
    """
    count = len(motion.flow_px)
    times = course.plan.camera.new_tensor([float(time) for time in motion.times])
    way = course.camera_at(times)
    source = replace(keyframes[-1], plan=course.plan, camera=torch.zeros_like(way[:, 0]), age=0.0)
    pictures = motion.flow_px.new_zeros((count, *source.picture.shape[1:]))
    planes = torch.zeros_like(source.planes)
    left = torch.ones_like(motion.visibility)[:, None]
    things = torch.zeros_like(motion.flow_px)
    to_source, from_source = torch.zeros_like(motion.flow_px), torch.zeros_like(motion.flow_px)
    found: list[tuple[Keyframe, float]] = []
    memory: Memory | None = None
    for keyframe in (*keyframes[:-1], source):
        assert keyframe.plan is not None
        assert keyframe.camera is not None
        cameras, moments = join(keyframe.camera, way), keyframe.age + times
        flow, forward, visibility = motion.flow_px, motion.forward_flow_px, motion.visibility
        staying = torch.ones_like(left)
        if keyframe is not source:
            flow, forward, visibility, staying = see_from(
                keyframe.plan,
                cameras,
                moments,
                scale=course.scale,
                forward_flow=forward is not None,
            )
        inside = backward_warp(torch.ones_like(left), flow) > WHOLLY
        carried = backward_warp(_many(keyframe.own, count), flow)
        visible = steepen(visibility)[:, None] * inside * ((carried - 0.25) / 0.5).clamp(0, 1)
        share = visible * left
        left = left - share
        plan, moving = keyframe.plan, course.scale * keyframe.plan.velocity
        growths = camera_growth(plan.nearness, cameras, moving, moments)[0]
        pictures = pictures + share * _sample(keyframe.picture, flow, growths)
        if planes.shape[1]:
            planes = planes + share[-1:] * backward_warp(keyframe.planes, flow[-1:])
            own = _many(_things(keyframe.planes), count)
            things = things + share * backward_warp(own, flow)
        if len(keyframes) > 1:
            leads = _lead(keyframe, course.scale).expand(count, -1, -1, -1)
            to_source = to_source + share * (flow + backward_warp(leads, flow))
            if forward is not None:
                begins = keyframe.flow_px.expand(count, -1, -1, -1)
                there = begins + backward_warp(forward, begins)
                stays = backward_warp(staying, begins) > HALF  # else it is nowhere to be seen
                from_source = from_source + keyframe.visible * stays * there
        growth = growths[-1:]
        memory = _both(memory, _remember(plan, growth, cameras[:, -1], flow, share, course))
        # What has become much larger goes on from a newer picture, which has been repaired.
        fine = (growth < HANDED_ON).float()
        moved = replace(
            keyframe,
            flow_px=flow[-1:].clone(),
            visible=share[-1:] * (backward_warp(fine, flow[-1:]) > HALF),
            own=keyframe.own * fine,
            camera=cameras[:, -1].clone(),
            age=float(moments[-1]),
        )
        found.append((moved, float(moved.visible.mean())))
    # What is left of something in the midst of what is hidden is worth less than the whole anew.
    around = F.avg_pool2d(1 - left, 2 * CRUMB_PX + 1, 1, CRUMB_PX, count_include_pad=False)
    whole = (around >= HALF).to(left.dtype)
    left = 1 - (1 - left) * whole
    pictures, things, planes = pictures * whole, things * whole, planes * whole[-1:]
    if len(keyframes) > 1:
        seen = 1 - left
        to_source = torch.where(seen > HIDDEN_BELOW, to_source / seen.clamp_min(1e-3), 0.0)
        back = None if motion.forward_flow_px is None else from_source
        motion = replace(motion, flow_px=to_source, forward_flow_px=back)
    return replace(
        _composite(pictures, planes, left, source, found, motion),
        things=things,
        vehicles=_things(source.planes)[:, :1],
        memory=memory,
    )


def _sample(picture: Tensor, flow_px: Tensor, growth: Tensor) -> Tensor:
    """A keyframe's picture along flows, sharply where it is seen larger than it is.

    Where it is not, sharp sampling would only make its noise stand out.

    Args:
        picture: `(1, C, H, W)`.
        flow_px: `(T, 2, H, W)`.
        growth: `(T, 1, H, W)`, how many times as large its places are seen.
    """
    pictures = _many(picture, len(flow_px))
    plain = backward_warp(pictures, flow_px)
    larger = (backward_warp(growth, flow_px) - 1) / (HANDED_ON - 1)
    return plain.lerp(backward_warp(pictures, flow_px, sharp=True), larger.clamp(0, 1))


def _lead(keyframe: Keyframe, scale: float) -> Tensor:
    """How far each pixel of a keyframe has moved in the source frame, `(1, 2, H, W)` in pixels."""
    assert keyframe.plan is not None
    assert keyframe.camera is not None
    plan = keyframe.plan
    age = keyframe.camera.new_tensor([keyframe.age])
    flow = camera_flow(plan.nearness, keyframe.camera[:, None], scale * plan.velocity, age)
    return slopes_to_px(flow[:, 0])


def _remember(
    plan: Plan, growth: Tensor, camera: Tensor, flow_px: Tensor, share: Tensor, course: Course
) -> Memory:
    """What a keyframe says of depth in the last frame of a pass; see `Memory`."""
    nearness = plan.nearness * growth
    there, inside = nearest_warp(torch.cat([nearness, plan.velocity], dim=1), flow_px[-1:])
    smooth = backward_warp(nearness, flow_px[-1:])
    # Between pixels only on one surface: half-way from a car to a house there is nothing.
    same = (smooth - there[:, :1]).abs() < SAME_NEARNESS * there[:, :1]
    yaw = camera[:, 3].view(-1, 1, 1, 1)
    right, ahead = there[:, 1:2], there[:, 2:]
    turned = yaw.cos() * right - yaw.sin() * ahead, yaw.sin() * right + yaw.cos() * ahead
    return Memory(
        nearness=torch.where(same, smooth, there[:, :1]),
        velocity=torch.cat(turned, dim=1),
        known=inside & (share[-1:] > HALF),
        focus=course.focus,
        pace=course.pace,
        bend=course.bend,
        passes=course.passes + 1,
    )


def _both(older: Memory | None, newer: Memory) -> Memory:
    """What is known by one or the other."""
    if older is None:
        return newer
    known = older.known
    return replace(
        older,
        nearness=torch.where(known, older.nearness, newer.nearness),
        velocity=torch.where(known, older.velocity, newer.velocity),
        known=known | newer.known,
    )


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
    (new,) = start_keyframes(picture.clone(), composite.planes)
    if kept and all(keyframe.plan is not None for keyframe in kept):  # and go on to give it
        given = sum((keyframe.visible for keyframe in kept), torch.zeros_like(new.own))
        own = F.max_pool2d((1 - given).clamp(0, 1), 2 * OVERLAP_PX + 1, 1, OVERLAP_PX)
        if composite.planes.shape[1]:
            own = own * (1 - _around_things(composite.planes))
        new = replace(new, own=own, visible=(1 - given).clamp(0, 1))
    return (*kept, new)


def _around_things(planes: Tensor) -> Tensor:
    """1 close beside upright things, which colours may run into, `(1, 1, H, W)`."""
    things = _things(planes).sum(1, keepdim=True)
    return ((close_to(things) > HALF) & (things < HALF)).to(planes.dtype)


def close_to(share: Tensor) -> Tensor:
    """The largest share at each pixel and where colours of what is there run to."""
    return F.max_pool2d(share, 2 * FRINGE_PX + 1, 1, FRINGE_PX)


def _things(planes: Tensor) -> Tensor:
    """Share of vehicles and of other upright things, `(B, 2, H, W)`; 0 without labels."""
    if not planes.shape[1]:
        return planes.new_zeros((len(planes), 2, *planes.shape[-2:]))
    others = [train_id for train_id in UPRIGHT if train_id not in VEHICLES]
    return torch.stack([planes[:, list(ids)].sum(1) for ids in (VEHICLES, others)], dim=1)


def steepen(visibility: Tensor) -> Tensor:
    """Decide where visibility is nearly decided, with a short slope between."""
    return ((visibility - HIDDEN_BELOW) / (SEEN_ABOVE - HIDDEN_BELOW)).clamp(0, 1)


def _many(x: Tensor, count: int) -> Tensor:
    return x.expand(count, -1, -1, -1)
