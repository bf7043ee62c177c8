"""Warp pictures along flows: pure functions, no weights, always in float32."""

from __future__ import annotations

import torch
from torch import Tensor
from torch.nn import functional as F

from seg2vid_cli.errors import ShapeError


def backward_warp(picture: Tensor, flow_px: Tensor, *, sharp: bool = False) -> Tensor:
    """Build each output pixel from the place in `picture` that `flow_px` points to.

    A zero flow returns the picture exactly.

    Args:
        picture: `(B, C, H, W)`, any float type.
        flow_px: `(B, 2, H, W)` in pixels; channel 0 right, channel 1 down.
        sharp: Between pixels by cubic convolution instead of linearly, which takes what is finest
            away; for pictures in [0, 1].

    Returns:
        `(B, C, H, W)` float32; what lies outside the picture counts as 0, or, where `sharp`, as
        the border does.

    Raises:
        ShapeError: B, H or W differ, or the flow has not two channels.
    Source: STVIR/seg2vid, src/utils/ops.py, `flowwrapper` (opposite sign, half-images).
    """
    size = (picture.shape[0], 2, *picture.shape[-2:])
    if tuple(flow_px.shape) != size:
        raise ShapeError(f"flow is {tuple(flow_px.shape)}, the picture needs {size}")
    if sharp and picture.device.type == "mps":  # it cannot sample so
        return backward_warp(picture.cpu(), flow_px.cpu(), sharp=True).to(picture.device)
    height, width = picture.shape[-2:]
    # Zeros to the right and below, up to 2**k + 1: then scaling whole pixel numbers to [-1, 1] and
    # back, as grid_sample does, loses nothing, and a zero flow is the identity to the last bit.
    full_h, full_w = _sampling_size(height), _sampling_size(width)
    with torch.autocast(picture.device.type, enabled=False):
        flow = flow_px.float()
        x = torch.arange(width, device=flow.device, dtype=torch.float32) + flow[:, 0]
        y = torch.arange(height, device=flow.device, dtype=torch.float32)[:, None] + flow[:, 1]
        grid = torch.stack([x * (2 / (full_w - 1)) - 1, y * (2 / (full_h - 1)) - 1], dim=-1)
        mode, beyond, outside = (
            ("bicubic", "replicate", "border") if sharp else ("bilinear", "constant", "zeros")
        )
        padded = F.pad(picture.float(), (0, full_w - width, 0, full_h - height), mode=beyond)
        found = F.grid_sample(padded, grid, mode=mode, padding_mode=outside, align_corners=True)
        return found.clamp(0, 1) if sharp else found


def nearest_warp(values: Tensor, flow_px: Tensor) -> tuple[Tensor, Tensor]:
    """As `backward_warp`, from the nearest pixel instead of between pixels.

    Args:
        values: `(B, C, H, W)`.
        flow_px: `(B, 2, H, W)` in pixels.

    Returns:
        `(B, C, H, W)`, the nearest pixel of the border where the place lies outside, and bool
        `(B, 1, H, W)`, whether it lies inside.
    """
    height, width = values.shape[-2:]
    x = (torch.arange(width, device=flow_px.device) + flow_px[:, 0]).round().long()
    y = (torch.arange(height, device=flow_px.device)[:, None] + flow_px[:, 1]).round().long()
    column, row = x.clamp(0, width - 1), y.clamp(0, height - 1)
    inside = ((x == column) & (y == row))[:, None]
    places = (row * width + column).flatten(1)[:, None].expand(-1, values.shape[1], -1)
    return values.flatten(2).gather(2, places).view_as(values), inside


def _sampling_size(size: int) -> int:
    return int(2 ** max(1, (size - 2).bit_length()) + 1) if size > 1 else 3


def half_images_to_px(flow: Tensor) -> Tensor:
    """Turn the networks' flow into the pixels that `backward_warp` wants.

    Args:
        flow: `(..., 2, *, H, W)` with the two channels at dimension 1, in half-images, subtracted
            from the grid.

    Returns:
        The same shape in pixels, added to the grid.
    """
    return flow.float() * _half_image_px(flow)


def px_to_half_images(flow: Tensor) -> Tensor:
    """Undo `half_images_to_px`, for flow that was found in pixels."""
    return flow.float() / _half_image_px(flow)


def _half_image_px(flow: Tensor) -> Tensor:
    height, width = flow.shape[-2:]
    scale = flow.new_tensor([-(width - 1) / 2, -(height - 1) / 2], dtype=torch.float32)
    shape = [1] * flow.dim()
    shape[1] = 2
    return scale.view(shape)
