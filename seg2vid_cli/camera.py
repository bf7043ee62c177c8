"""How camera and objects move to the flows that are seen: geometry of a pinhole camera, no weights.

Always in float32. Flows are continuous in time, and what hides what is known at every moment.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import replace
from itertools import product

import torch
from torch import Tensor
from torch.nn import functional as F

from seg2vid_cli.networks.ego_flow import Plan
from seg2vid_cli.networks.layout import GROUND, NO_CLASS, SKY, among
from seg2vid_cli.networks.seg2vid_flow import FlowOutput
from seg2vid_cli.warp import backward_warp, px_to_half_images

FOCAL = 1.9  # focal length in half widths: 55 degrees from left to right
CLOSEST = 0.15  # of a place's distance: nearer than that nothing comes, it would fill the picture
# Points per pixel and side that are carried along, so that what grows up to so many times does not
# tear; nothing grows much more, see CLOSEST.
SPLATS = (2, 3, 7)
SAME_SURFACE_PX = 0.5
SAME_NEARNESS = 0.1
LOOKS = 3
FOREIGN = 1e-3  # less than any cell of the same class is worth
CRUMB_PX = 2  # half the width of gaps that are closed where most around them is known
FILL_LEVELS = 5  # halvings that holes are filled from

# Camera heights, about 1.5 m; frames.
HALF_CAR = 0.7  # what the camera needs on either side
OVERHEAD = 0.3  # what is higher than that above the camera is not in its way
STOPS_AT = 3.0  # before what is in its way
HEADWAY = 10.0  # at an even pace it would be there not before so many frames
CRUMBS = 5e-4  # share of the picture that may be in the way unnoticed


def move(
    plan: Plan,
    *,
    times: Sequence[float] | None = None,
    scale: float = 1.0,
    both_ways: bool = True,
) -> FlowOutput:
    """What is seen at some moments.

    Args:
        plan: From the network.
        times: Moments in frames, above 0 and up to T; 1 to T if not given.
        scale: How many times as far everything goes.
        both_ways: Whether `flow_back` is wanted.

    Returns:
        As many frames as there are times; `flow` goes on where nothing is visible.
    """
    frames = range(1, plan.camera.shape[1] + 1) if times is None else times
    moments = plan.camera.new_tensor([float(time) for time in frames])
    camera, velocity = scale * path_at(plan.camera, moments), scale * plan.velocity
    return see(plan.nearness, camera, velocity, moments, both_ways=both_ways)


def see(
    nearness: Tensor,
    camera: Tensor,
    velocity: Tensor,
    times: Tensor,
    *,
    both_ways: bool = True,
) -> FlowOutput:
    """What some cameras see of a picture with depth; arguments as for `camera_flow`.

    Args:
        nearness: `(B, 1, H, W)`.
        camera: `(B, T, 6)`.
        velocity: `(B, 2, H, W)`.
        times: `(T,)`.
        both_ways: Whether `flow_back` is wanted.

    Returns:
        As `move`.
    """
    with torch.autocast(camera.device.type, enabled=False):
        forward = camera_flow(nearness, camera, velocity, times)
        forward_px = slopes_to_px(forward)
        growth = camera_growth(nearness, camera, velocity, times)
        flow_px, visible, visible_back = carry(forward_px, nearness, growth)
    videos = forward.shape[:2]
    return FlowOutput(
        flow=px_to_half_images(flow_px.unflatten(0, videos).transpose(1, 2)),
        flow_back=px_to_half_images(forward_px.transpose(1, 2)) if both_ways else None,
        visibility=visible.unflatten(0, videos)[:, :, 0],
        visibility_back=visible_back.unflatten(0, videos)[:, :, 0],
    )


def keep_distance(plan: Plan, classes: Tensor, focus: Tensor) -> Plan:
    """Let the camera drive more slowly where it would run into something.

    Args:
        plan: Of one picture.
        classes: `(1, 1, H, W)`, the class of every place.
        focus: `(1, 2)`, slopes of the direction that the camera drives in.

    Returns:
        The plan, its camera's path shortened as far as needed.
    """
    height, width = classes.shape[-2:]
    across, down = slopes(height, width, classes.device)
    away = 1 / plan.nearness[0, 0].clamp_min(1e-4)
    clear = among(classes[0, 0], (*GROUND, SKY, NO_CLASS))
    frames = plan.camera.shape[1]
    ahead, turn = plan.camera[0, -1, 2], plan.camera[0, -1, 3]
    bend = turn / ahead.clamp_min(1e-4) * away / 2  # on its arc it is so far to the right there
    aside = (across - focus[0, 0] - bend.clamp(-1, 1)) * away
    in_way = ~clear & aside.abs().lt(HALF_CAR) & (down * away > -OVERHEAD)
    speed = ahead / frames
    fastest = ((away - STOPS_AT) / HEADWAY + plan.velocity[0, 1])[in_way].sort().values
    unnoticed = int(CRUMBS * in_way.numel())
    if len(fastest) <= unnoticed or speed <= 0 or fastest[unnoticed] >= speed:
        return plan
    return replace(plan, camera=plan.camera * (fastest[unnoticed] / speed).clamp_min(0))


def slopes(height: int, width: int, device: torch.device | None = None) -> Tensor:
    """Direction of every pixel, `(2, H, W)`: right and down for one ahead."""
    x = (torch.arange(width, device=device) + 0.5 - width / 2) / (FOCAL * width / 2)
    y = (torch.arange(height, device=device) + 0.5 - height / 2) / (FOCAL * width / 2)
    return torch.stack([x.expand(height, width), y[:, None].expand(height, width)])


def join(first: Tensor, then: Tensor) -> Tensor:
    """Cameras seen from the start of a way that leads to where they are counted from.

    Args:
        first: `(B, 6)`, see `camera_flow`: the way.
        then: `(B, T, 6)`, from its end.

    Returns:
        `(B, T, 6)`, from its start.
    """
    turned, more = _rotation(first[:, None, 3:]), _rotation(then[..., 3:])
    # R2 (R1 (x - s1) - s2) = R2 R1 (x - (s1 + R1' s2))
    shift = first[:, None, :3] + (turned.transpose(-1, -2) @ then[..., :3, None])[..., 0]
    both = more @ turned
    yaw = torch.atan2(both[..., 2, 0], both[..., 2, 2])
    pitch = both[..., 2, 1].clamp(-1, 1).asin()
    roll = torch.atan2(both[..., 0, 1], both[..., 1, 1])
    return torch.cat([shift, torch.stack([yaw, pitch, roll], dim=-1)], dim=-1)


def _rotation(turns: Tensor) -> Tensor:
    """Turns `(..., 3)` to the right, down and clockwise, one after the other: `(..., 3, 3)`."""
    (yaw_c, pitch_c, roll_c), (yaw_s, pitch_s, roll_s) = (
        turns.cos().unbind(-1),
        turns.sin().unbind(-1),
    )
    no, one = torch.zeros_like(yaw_c), torch.ones_like(yaw_c)
    yaw, pitch, roll = (
        torch.stack(numbers, dim=-1).unflatten(-1, (3, 3))
        for numbers in (
            (yaw_c, no, -yaw_s, no, one, no, yaw_s, no, yaw_c),
            (one, no, no, no, pitch_c, -pitch_s, no, pitch_s, pitch_c),
            (roll_c, roll_s, no, -roll_s, roll_c, no, no, no, one),
        )
    )
    out: Tensor = roll @ pitch @ yaw
    return out


def slopes_to_px(flow: Tensor) -> Tensor:
    """Slopes `(..., H, W)` to pixels."""
    return flow * (FOCAL * flow.shape[-1] / 2)


def enlarge(values: Tensor, classes: Tensor, fine_classes: Tensor) -> Tensor:
    """Bring what is known of places to a finer picture, whose labels tell where surfaces end.

    Every pixel mixes the cells around it that are of its class and on the surface of the nearest of
    these; where there is none of its class, it takes those of the surface of its own cell.

    Args:
        values: `(1, C, h, w)`, nearness first.
        classes: `(1, 1, h, w)`, whole numbers.
        fine_classes: `(1, 1, H, W)`, H / h = W / w a whole number.

    Returns:
        `(1, C, H, W)`.
    """
    factor = fine_classes.shape[-1] // classes.shape[-1]
    if factor == 1:
        return values
    height, width = fine_classes.shape[-2:]
    place = (torch.arange(factor, device=values.device) + 0.5) / factor - 0.5  # in its cell
    down, across = place.repeat(height // factor)[:, None], place.repeat(width // factor)
    table = F.pad(torch.cat([values, classes.to(values.dtype)], dim=1), (1, 1, 1, 1), "replicate")
    cells = []
    for y, x in sorted(product((-1, 0, 1), repeat=2), key=lambda step: (step != (0, 0), step)):
        there = table[..., 1 + y : 1 + y + height // factor, 1 + x : 1 + x + width // factor]
        there = there.repeat_interleave(factor, 2).repeat_interleave(factor, 3)
        apart = (down - y).abs(), (across - x).abs()
        weight = (1 - apart[0]).clamp_min(0) * (1 - apart[1]).clamp_min(0)
        close = 1 / (1 + apart[0] ** 2 + apart[1] ** 2)
        cells.append((there, weight, close * (there[:, -1:] == fine_classes)))
    best, closest = cells[0][0], cells[0][2].clamp_min(FOREIGN)
    for there, _, close in cells[1:]:
        best = torch.where(close > closest, there, best)
        closest = torch.maximum(close, closest)
    # From cell to cell, ground and walls beside the camera come nearer by at most so much.
    step = SAME_NEARNESS * best[:, :1] + 2 / (FOCAL * width / factor / 2)
    total, whole = torch.zeros_like(best), torch.zeros_like(closest)
    for there, weight, _ in cells:
        same = (there[:, -1:] == best[:, -1:]) & ((there[:, :1] - best[:, :1]).abs() < step)
        total = total + weight * same * there
        whole = whole + weight * same
    mixed = torch.where(whole > 0, total / whole.clamp_min(FOREIGN), best)
    return mixed[:, :-1]


def path_at(camera: Tensor, times: Tensor) -> Tensor:
    """Cameras `(B, T, 6)` at moments `(N,)` in frames, along straight lines: `(B, N, 6)`."""
    path = F.pad(camera, (0, 0, 1, 0))
    before = (times.ceil().long() - 1).clamp(0, camera.shape[1] - 1)
    share = (times - before)[:, None]
    return path[:, before] * (1 - share) + path[:, before + 1] * share


def _shifts(
    camera: Tensor, velocity: Tensor | None, times: Tensor | None
) -> tuple[Tensor, Tensor, Tensor]:
    x, y, z = camera[:, :, :3, None, None].unbind(2)
    if velocity is None:
        return x, y, z
    if times is None:
        times = torch.arange(1.0, camera.shape[1] + 1, device=camera.device)
    frames = times.view(1, -1, 1, 1)
    return x - velocity[:, :1] * frames, y, z - velocity[:, 1:] * frames


def camera_growth(
    nearness: Tensor,
    camera: Tensor,
    velocity: Tensor | None = None,
    times: Tensor | None = None,
) -> Tensor:
    """How much larger the first frame's places are seen in later frames, `(B, T, 1, H, W)`.

    Args:
        nearness: `(B, 1, H, W)`.
        camera: `(B, T, 6)`.
        velocity: `(B, 2, H, W)`; see `camera_flow`.
        times: `(T,)`; see `camera_flow`.
    """
    ahead = 1 - _shifts(camera, velocity, times)[2] * nearness
    return (1 / ahead.clamp_min(CLOSEST))[:, :, None]


def camera_flow(
    nearness: Tensor,
    camera: Tensor,
    velocity: Tensor | None = None,
    times: Tensor | None = None,
) -> Tensor:
    """Where the first frame's places are seen in later frames.

    Args:
        nearness: `(B, 1, H, W)`, one over the distance along the first frame's axis.
        camera: `(B, T, 6)`: the camera's shift right, down and ahead since the first frame, in the
            unit of distance, and its turns to the right, down and clockwise, in radians.
        velocity: `(B, 2, H, W)`, own motion of the places right and ahead, per frame.
        times: `(T,)`, moments of the cameras in frames; 1 to T if not given.

    Returns:
        `(B, T, 2, H, W)` slopes: times `FOCAL` and half the width they are pixels.
    """
    height, width = nearness.shape[-2:]
    across, down = slopes(height, width, nearness.device)
    shift_x, shift_y, shift_z = _shifts(camera, velocity, times)
    yaw, pitch, roll = camera[:, :, 3:, None, None].unbind(2)
    x, y, z = across - shift_x * nearness, down - shift_y * nearness, 1 - shift_z * nearness
    x, z = yaw.cos() * x - yaw.sin() * z, yaw.sin() * x + yaw.cos() * z
    y, z = pitch.cos() * y - pitch.sin() * z, pitch.sin() * y + pitch.cos() * z
    z = z.clamp_min(CLOSEST)
    x, y = x / z, y / z
    x, y = roll.cos() * x + roll.sin() * y, roll.cos() * y - roll.sin() * x
    return torch.stack([x - across, y - down], dim=2)


def carry(forward_px: Tensor, nearness: Tensor, growth: Tensor) -> tuple[Tensor, Tensor, Tensor]:
    """Turn flows round, the nearer in front of the farther.

    Args:
        forward_px: `(B, T, 2, H, W)`, where places of the first frame go; sides multiples of 32.
        nearness: `(B, 1, H, W)`, of these places in the first frame.
        growth: `(B, T, 1, H, W)`, see `camera_growth`.

    Returns:
        Where pixels of the later frames come from, `(B * T, 2, H, W)`, continued into what the
        first frame does not show; 1 where it shows them, `(B * T, 1, H, W)`; and 1 where the later
        frame shows the first frame's pixels, `(B * T, 1, H, W)`.
    """
    device = forward_px.device
    if device.type == "mps":  # it cannot take the largest of whole numbers
        parts = carry(forward_px.cpu(), nearness.cpu(), growth.cpu())
        return parts[0].to(device), parts[1].to(device), parts[2].to(device)
    nearness = (nearness[:, None] * growth).flatten(0, 1)
    forward_px, growth = forward_px.flatten(0, 1), growth.flatten(0, 1)
    steps = _steps(forward_px, growth)
    pairs = [_carry(*parts) for parts in zip(forward_px, nearness, steps, strict=True)]
    flow, begin, known, back = (torch.stack(parts) for parts in zip(*pairs, strict=True))
    flow = fill_gaps(flow, known, FILL_LEVELS)
    begin = torch.where(known > 0, begin, flow)
    closer, found, size_px = _look_closer(begin, forward_px, steps)
    apart = (closer - flow).abs() / size_px.clamp_min(1)
    nearby = apart.amax(1, keepdim=True) < SAME_SURFACE_PX * 2
    flow = torch.where((found > 0) & ((known == 0) | nearby), closer, flow)
    known = torch.maximum(known, found)
    for _ in range(2):  # crumbs are not worth repainting: the flow goes on across them
        around = F.avg_pool2d(known, 2 * CRUMB_PX + 1, 1, CRUMB_PX, count_include_pad=False)
        known = torch.maximum(known, (around > 0.5).float())
    exact = -backward_warp(forward_px, flow)  # between pixels too, on the same surface
    same = (exact - flow).abs().amax(1, keepdim=True) < SAME_SURFACE_PX
    return torch.where(same, exact, flow), known, back


def _steps(forward_px: Tensor, growth: Tensor) -> Tensor:
    """How large pixels become, right and down: `(N, 2, H, W)`.

    Ground and walls that run towards the camera grow as the square along the way.
    """
    steps = [
        F.pad(torch.diff(forward_px[:, :1], dim=3), (0, 1, 0, 0), mode="replicate"),
        F.pad(torch.diff(forward_px[:, 1:], dim=2), (0, 0, 0, 1), mode="replicate"),
    ]
    times = [torch.minimum(torch.maximum(1 + step, growth), growth**2) for step in steps]
    return torch.cat(times, dim=1)


def _look_closer(flow: Tensor, forward_px: Tensor, steps: Tensor) -> tuple[Tensor, Tensor, Tensor]:
    """Correct where later pixels come from by where that goes.

    Returns:
        Flow `(N, 2, H, W)`; 1 where what lies there comes as close as its size allows,
        `(N, 1, H, W)`; and that size in pixels, right and down, `(N, 2, H, W)`.
    """
    height, width = flow.shape[-2:]
    x = torch.arange(width, device=flow.device).expand(height, width)
    y = torch.arange(height, device=flow.device)[:, None].expand(height, width)
    pixels = torch.stack([x, y])
    values = torch.cat([forward_px, steps], dim=1).flatten(2)
    found, size_px, closer = torch.zeros_like(flow[:, :1]), torch.ones_like(flow), flow
    for _ in range(LOOKS):
        source = (pixels + flow).round()
        place = _place(source[:, 0], source[:, 1])
        inside = (place < height * width)[:, None]
        index = place.clamp(max=height * width - 1).flatten(1)[:, None].expand(-1, 4, -1)
        there = values.gather(2, index).view(-1, 4, height, width)
        missed, apart = pixels - source - there[:, :2], there[:, 2:]
        near = inside & (missed.abs() <= 0.5 + 0.5 * apart).all(1, keepdim=True)
        flow = torch.where(inside, source + missed / apart - pixels, flow)
        # At a border the next look may be at what lies behind.
        closer, size_px = torch.where(near, flow, closer), torch.where(near, apart, size_px)
        found = torch.maximum(found, near.float())
    return closer, found, size_px


def _carry(forward_px: Tensor, nearness: Tensor, steps: Tensor) -> tuple[Tensor, ...]:
    """`carry` for one frame, without what comes into sight; a frame at a time needs less memory.

    Beside the flow there is the way to the very pixel that came there.
    """
    height, width = nearness.shape[-2:]
    device = forward_px.device
    x, y = torch.arange(width, device=device), torch.arange(height, device=device)[:, None]
    new_x, new_y = forward_px[0] + x, forward_px[1] + y
    # Of the points that come to one pixel the nearest has the largest number; in its lower half is
    # the place that it came from.
    order = (nearness[0] * 2**24).long().clamp(0, 2**30) * 2**32 + (y * width + x)
    winners = torch.full((height * width + 1,), -1, dtype=torch.int64, device=device)
    wide, high = steps.clamp(1, SPLATS[-1])
    larger, below = torch.maximum(wide, high), 0
    for splats in SPLATS:
        those, below = (larger > below) & (larger <= splats), splats
        at_x, at_y, numbers, w, h = (v[those] for v in (new_x, new_y, order, wide, high))
        parts = [(part + 0.5) / splats - 0.5 for part in range(splats)] if len(numbers) else []
        for right in parts:
            for down in parts:
                places = (at_x + right * w).round(), (at_y + down * h).round()
                winners.scatter_reduce_(0, _number(*places, height, width), numbers, "amax")
    winners = winners[:-1]
    known = (winners >= 0).view(1, height, width)
    came_from = (winners % 2**32).clamp(0, height * width - 1)
    flow = -forward_px.flatten(1)[:, came_from].view_as(forward_px)
    best = F.pad((winners // 2**32).clamp_min(0).float() / 2**24, (0, 1), value=math.inf)
    back = nearness[0] >= (1 - SAME_NEARNESS) * best[_place(new_x, new_y)]
    begin = torch.stack(
        [
            came_from % width - x.expand(height, -1).flatten(),
            came_from // width - y.expand(-1, width).flatten(),
        ]
    )
    begin = begin.view_as(flow).to(flow.dtype)
    return torch.where(known, flow, 0.0), begin, known.float(), back.float()[None]


def _place(x: Tensor, y: Tensor) -> Tensor:
    """Number of the pixel at `(..., H, W)` coordinates of such a picture; H * W outside it."""
    height, width = x.shape[-2:]
    return _number(x.round(), y.round(), height, width)


def _number(x: Tensor, y: Tensor, height: int, width: int) -> Tensor:
    column, row = x.long(), y.long()
    inside = (column >= 0) & (column < width) & (row >= 0) & (row < height)
    return torch.where(inside, row * width + column, height * width)


def fill_gaps(values: Tensor, known: Tensor, levels: int) -> Tensor:
    """Means of what is known around it for what is not, from coarser and coarser pictures.

    Args:
        values: `(N, C, H, W)`.
        known: `(N, 1, H, W)`, 1 or 0.
        levels: How many times to halve the size.
    """
    if not levels:  # what is left is as its neighbours are
        for _ in range(max(values.shape[-2:])):
            share = F.avg_pool2d(known, 3, 1, 1)
            means = F.avg_pool2d(values * known, 3, 1, 1) / share.clamp_min(1e-6)
            values = torch.where(known > 0, values, means)
            known = (share > 0).to(known.dtype)
        return values
    share = F.avg_pool2d(known, 2)
    means = F.avg_pool2d(values * known, 2) / share.clamp_min(1e-6)
    coarse = fill_gaps(means, (share > 0).float(), levels - 1)
    larger = F.interpolate(coarse, scale_factor=2.0, mode="bilinear", align_corners=False)
    return torch.where(known > 0, values, larger)
