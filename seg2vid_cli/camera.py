"""How camera and objects move to the flows that are seen: geometry of a pinhole camera, no weights.

Always in float32. Flows are continuous in time, and what hides what is known at every moment.
"""

from __future__ import annotations

import math
from collections.abc import Sequence

import torch
from torch import Tensor
from torch.nn import functional as F

from seg2vid_cli.networks.ego_flow import Plan
from seg2vid_cli.networks.seg2vid_flow import FlowOutput
from seg2vid_cli.warp import backward_warp, px_to_half_images

FOCAL = 1.9  # focal length in half widths: 55 degrees from left to right
CLOSEST = 0.15  # of a place's distance: nearer than that nothing comes, it would fill the picture
SPLATS = 3  # points per pixel and side that are carried along, so that growing things do not tear
SAME_SURFACE_PX = 0.5
SAME_NEARNESS = 0.1
LOOKS = 3
CRUMB_PX = 2  # half the width of gaps that are closed where most around them is known
FILL_LEVELS = 5  # halvings that holes are filled from


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
    with torch.autocast(camera.device.type, enabled=False):
        forward = camera_flow(plan.nearness, camera, velocity, moments)
        forward_px = forward * (FOCAL * forward.shape[-1] / 2)
        growth = camera_growth(plan.nearness, camera, velocity, moments)
        flow_px, visible, visible_back = carry(forward_px, plan.nearness, growth)
    videos = forward.shape[:2]
    return FlowOutput(
        flow=px_to_half_images(flow_px.unflatten(0, videos).transpose(1, 2)),
        flow_back=px_to_half_images(forward_px.transpose(1, 2)) if both_ways else None,
        visibility=visible.unflatten(0, videos)[:, :, 0],
        visibility_back=visible_back.unflatten(0, videos)[:, :, 0],
    )


def slopes(height: int, width: int, device: torch.device | None = None) -> Tensor:
    """Direction of every pixel, `(2, H, W)`: right and down for one ahead."""
    x = (torch.arange(width, device=device) + 0.5 - width / 2) / (FOCAL * width / 2)
    y = (torch.arange(height, device=device) + 0.5 - height / 2) / (FOCAL * width / 2)
    return torch.stack([x.expand(height, width), y[:, None].expand(height, width)])


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
    pairs = [_carry(*pair) for pair in zip(forward_px, nearness, strict=True)]
    flow, known, back = (torch.stack(parts) for parts in zip(*pairs, strict=True))
    flow = _fill(flow, known, FILL_LEVELS)
    closer, found = _look_closer(flow, forward_px, growth)
    nearby = (closer - flow).abs().amax(1, keepdim=True) < SAME_SURFACE_PX * 2
    flow = torch.where((found > 0) & ((known == 0) | nearby), closer, flow)
    known = torch.maximum(known, found)
    for _ in range(2):  # crumbs are not worth repainting: the flow goes on across them
        around = F.avg_pool2d(known, 2 * CRUMB_PX + 1, 1, CRUMB_PX, count_include_pad=False)
        known = torch.maximum(known, (around > 0.5).float())
    exact = -backward_warp(forward_px, flow)  # between pixels too, on the same surface
    same = (exact - flow).abs().amax(1, keepdim=True) < SAME_SURFACE_PX
    return torch.where(same, exact, flow), known, back


def _look_closer(flow: Tensor, forward_px: Tensor, growth: Tensor) -> tuple[Tensor, Tensor]:
    """Correct where later pixels come from by where that goes.

    Returns:
        Flow `(N, 2, H, W)`, and 1 where what lies there comes as close as its size allows,
        `(N, 1, H, W)`.
    """
    height, width = flow.shape[-2:]
    x = torch.arange(width, device=flow.device).expand(height, width)
    y = torch.arange(height, device=flow.device)[:, None].expand(height, width)
    pixels = torch.stack([x, y])
    # Ground and walls that run towards the camera grow as the square along the way.
    steps = [
        F.pad(torch.diff(forward_px[:, :1], dim=3), (0, 1, 0, 0), mode="replicate"),
        F.pad(torch.diff(forward_px[:, 1:], dim=2), (0, 0, 0, 1), mode="replicate"),
    ]
    times = [torch.minimum(torch.maximum(1 + step, growth), growth**2) for step in steps]
    values = torch.cat([forward_px, *times], dim=1).flatten(2)
    found = torch.zeros_like(growth)
    for _ in range(LOOKS):
        source = (pixels + flow).round()
        place = _place(source[:, 0], source[:, 1])
        inside = (place < height * width)[:, None]
        index = place.clamp(max=height * width - 1).flatten(1)[:, None].expand(-1, 4, -1)
        there = values.gather(2, index).view(-1, 4, height, width)
        missed, apart = pixels - source - there[:, :2], there[:, 2:]
        near = (missed.abs() <= 0.5 + 0.5 * apart).all(1, keepdim=True)
        found = (inside & near).float()
        flow = torch.where(inside, source + missed / apart - pixels, flow)
    return flow, found


def _carry(forward_px: Tensor, nearness: Tensor) -> tuple[Tensor, Tensor, Tensor]:
    """`carry` for one frame, without what comes into sight; a frame at a time needs less memory."""
    height, width = nearness.shape[-2:]
    device = forward_px.device
    x, y = torch.arange(width, device=device), torch.arange(height, device=device)[:, None]
    new_x, new_y = forward_px[0] + x, forward_px[1] + y
    # Of the points that come to one pixel the nearest has the largest number; in its lower half is
    # the place that it came from.
    order = (nearness[0] * 2**24).long().clamp(0, 2**30) * 2**32 + (y * width + x)
    winners = torch.full((height * width + 1,), -1, dtype=torch.int64, device=device)
    parts = [(part + 0.5) / SPLATS - 0.5 for part in range(SPLATS)]
    for right in parts:
        for down in parts:
            target = _place(new_x + right, new_y + down)
            winners.scatter_reduce_(0, target.flatten(), order.flatten(), "amax")
    winners = winners[:-1]
    known = (winners >= 0).view(1, height, width)
    came_from = (winners % 2**32).clamp(0, height * width - 1)
    flow = -forward_px.flatten(1)[:, came_from].view_as(forward_px)
    best = F.pad((winners // 2**32).clamp_min(0).float() / 2**24, (0, 1), value=math.inf)
    back = nearness[0] >= (1 - SAME_NEARNESS) * best[_place(new_x, new_y)]
    return torch.where(known, flow, 0.0), known.float(), back.float()[None]


def _place(x: Tensor, y: Tensor) -> Tensor:
    """Number of the pixel at `(..., H, W)` coordinates of such a picture; H * W outside it."""
    height, width = x.shape[-2:]
    column, row = x.round().long(), y.round().long()
    inside = (column >= 0) & (column < width) & (row >= 0) & (row < height)
    return torch.where(inside, row * width + column, height * width)


def _fill(values: Tensor, known: Tensor, levels: int) -> Tensor:
    """Means of what is known around it for what is not, from coarser and coarser pictures.

    Args:
        values: `(N, C, H, W)`.
        known: `(N, 1, H, W)`, 1 or 0.
        levels: How many times to halve the size.
    """
    if not levels:
        return values
    share = F.avg_pool2d(known, 2)
    means = F.avg_pool2d(values * known, 2) / share.clamp_min(1e-6)
    coarse = _fill(means, (share > 0).float(), levels - 1)
    larger = F.interpolate(coarse, scale_factor=2.0, mode="bilinear", align_corners=False)
    return torch.where(known > 0, values, larger)
