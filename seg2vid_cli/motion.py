"""First frame, labels and a seed to the motion of the next frames."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor
from torch.nn import functional as F

from seg2vid_cli.device import Compute, draw_normal
from seg2vid_cli.networks.seg2vid_flow import FlowConfig, Seg2VidFlow
from seg2vid_cli.warp import half_images_to_px


@dataclass(frozen=True, kw_only=True)
class Motion:
    """Motion of T frames relative to one source frame.

    Args:
        flow_px: `(T, 2, H, W)` in pixels, channel 0 right, 1 down: frame t shows at a pixel what
            the source frame has at that pixel plus `flow_px`. This is the offset the warp uses.
        forward_flow_px: `(T, 2, H, W)` in pixels: where each pixel of the source frame goes.
        visibility: `(T, H, W)` in [0, 1]; 1 = this place of frame t is visible in the source frame.
    """

    flow_px: Tensor
    forward_flow_px: Tensor
    visibility: Tensor


def sample_latents(config: FlowConfig, *, seed: int, variant: int) -> Tensor:
    """Draw one motion: the camera's and the objects' part apart, repeated for every row.

    Returns:
        `(1, latent_rows, latent_size)` on the CPU, background part first.
    """
    parts = [
        draw_normal((1, 1, size), seed=seed, variant=variant, purpose=f"motion/{half}")
        for half, size in (
            ("background", config.background_latents),
            ("foreground", config.foreground_latents),
        )
    ]
    return torch.cat(parts, dim=-1).expand(-1, config.latent_rows, -1)


def predict_motion(
    network: Seg2VidFlow,
    frame: Tensor,
    planes: Tensor,
    latents: Tensor,
    *,
    downscale: int,
    compute: Compute,
) -> Motion:
    """Predict how T frames move away from `frame`.

    Args:
        network: The motion network.
        frame: `(1, C, H, W)` in [0, 1]; sides multiples of `downscale` times 16.
        planes: `(1, K, H, W)` label planes, one-hot or warped.
        latents: From `sample_latents`.
        downscale: The network sees pictures this many times smaller; its flows are stretched.
        compute: Where to run.

    Returns:
        Motion at the size of `frame`, float32.
    """
    with compute.run():
        small, small_planes = (_shrink(x, downscale) for x in (frame, planes))
        output = network(small, small_planes, latents.to(compute.device))
    # The paper multiplies the offset by the mask, so a hidden place is read from where it lies.
    visibility, visibility_back = output.visibility.float(), output.visibility_back.float()
    flow = output.flow.float() * visibility[:, None]
    flow_back = output.flow_back.float() * visibility_back[:, None]
    size = (frame.shape[-2], frame.shape[-1])
    return Motion(
        flow_px=half_images_to_px(_stretch(flow, size))[0].transpose(0, 1),
        forward_flow_px=half_images_to_px(_stretch(flow_back, size))[0].transpose(0, 1),
        visibility=_stretch(visibility[:, None], size)[0, 0],
    )


def _shrink(x: Tensor, factor: int) -> Tensor:
    if factor == 1 or not x.shape[1]:  # pooling takes no picture without channels
        return x[..., ::factor, ::factor]
    return F.avg_pool2d(x, factor)


def _stretch(x: Tensor, size_hw: tuple[int, int]) -> Tensor:
    """Enlarge `(1, c, T, h, w)`; corners stay corners, as in the flow's half-image coordinates."""
    if tuple(x.shape[-2:]) == size_hw:
        return x
    frames = x[0].transpose(0, 1)
    frames = F.interpolate(frames, size=size_hw, mode="bilinear", align_corners=True)
    return frames.transpose(0, 1)[None]
