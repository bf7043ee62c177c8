"""Train the motion network: a conditional VAE on driving clips.

The paper's losses (photometric inside the masks, smoothness, forward-backward consistency, KL,
price of hiding) with a classical flow as an extra teacher, strong at first and weaker later.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import torch
from PIL import Image
from torch import Tensor, nn
from torch.nn import functional as F

from seg2vid_cli.label_sets import NUM_BACKGROUND, NUM_CLASSES, UNLABELLED
from seg2vid_cli.networks.layers import ConvBlock
from seg2vid_cli.networks.seg2vid_flow import FlowConfig, FlowOutput, Seg2VidFlow
from seg2vid_cli.training import data
from seg2vid_cli.training.clips import NUM_FRAMES, MotionBatch, MotionClips
from seg2vid_cli.training.loop import grid_picture
from seg2vid_cli.training.losses import (
    dissimilarity,
    edge_aware_smoothness,
    kl_to_normal,
    masked_mean,
)
from seg2vid_cli.training.scenes import MixedClips
from seg2vid_cli.visualize import flow_to_colour
from seg2vid_cli.warp import backward_warp, half_images_to_px

MOTION = FlowConfig(
    size_hw=(64, 128),
    image_channels=3,
    label_planes=NUM_CLASSES,
    num_frames=NUM_FRAMES,
    channels=(32, 64, 96, 128),
    background_latents=32,
    foreground_latents=32,
    latent_row=1024,
    latent_channels=32,
    frame_channels=16,
    head_channels=8,
    upsampling="bilinear",
)

DOWNSCALE = 2  # of the pictures; flows and visibility are stretched back to the full size

WARM_UP = 0.4  # share of the training time
KL_WEIGHT = 1e-3
TEACHER_WEIGHT = (0.2, 0.1)  # at the start, after the warm-up; per pixel of error
SMOOTH_WEIGHT = 0.02
CONSISTENCY_WEIGHT = 0.02
HIDDEN_WEIGHT = 0.1
APART_WEIGHT = 0.2  # per pixel that another foreground latent moves the background by
APART_PX = 4  # around objects, where either may move


class PosteriorEncoder(nn.Module):
    """Motion of a real clip to mean and log variance of one half of the latent.

    Source: STVIR/seg2vid, `motion_net_bg` and `motion_net_fg`, at half the width.
    """

    def __init__(self, config: FlowConfig, *, planes: int, latents: int) -> None:
        super().__init__()
        self.config = config
        inputs = config.image_channels * (config.num_frames + 1) + planes
        self.layers = nn.Sequential(
            ConvBlock(inputs, 16, kernel=4, stride=2, norm=False),
            ConvBlock(16, 32, kernel=4, stride=2, bias=False),
            ConvBlock(32, 32, bias=False),
            ConvBlock(32, 64, kernel=4, stride=2, bias=False),
            ConvBlock(64, 64, bias=False),
            nn.Conv2d(64, config.latent_channels, 4, 2, 1, bias=False),
        )
        self.mean = nn.Linear(config.latent_row, latents)
        self.log_variance = nn.Linear(config.latent_row, latents)

    def forward(self, frames: Tensor, planes: Tensor) -> tuple[Tensor, Tensor]:
        """Frames `(B, T + 1, C, H, W)`, planes `(B, k, H, W)` to two `(B, rows, latents)`."""
        first, later = frames[:, :1], frames[:, 1:]
        changes = torch.cat([first, later - first], dim=1).flatten(1, 2)
        x = self.layers(torch.cat([changes, planes], dim=1))
        rows = x.reshape(len(x), -1, self.config.latent_row)
        return self.mean(rows), self.log_variance(rows)


def shrink(batch: MotionBatch, factor: int = DOWNSCALE) -> MotionBatch:
    """Bring pictures to the motion network's size, `factor` times smaller.

    A teacher's flow, if there is one, is that of pictures `DOWNSCALE` times as large.
    """
    assert factor == DOWNSCALE or not batch.flow_px.numel()
    frames, camera_frames, object_frames = (
        F.avg_pool2d(clip.flatten(0, 1), factor).unflatten(0, clip.shape[:2])
        for clip in (batch.frames, batch.camera_frames, batch.object_frames)
    )
    return MotionBatch(
        frames=frames,
        planes=F.avg_pool2d(batch.planes, factor),
        flow_px=batch.flow_px / DOWNSCALE,
        flow_back_px=batch.flow_back_px / DOWNSCALE,
        camera_frames=camera_frames,
        object_frames=object_frames,
    )


def masked_flow_px(flow: Tensor, visibility: Tensor) -> Tensor:
    """The offset that is really used: flow times visibility, in pixels, frames folded time-last.

    Args:
        flow: `(B, 2, T, H, W)` in half-images.
        visibility: `(B, T, H, W)`.

    Returns:
        `(B * T, 2, H, W)` in pixels.
    """
    offset = half_images_to_px(flow.float() * visibility.float()[:, None])
    return offset.transpose(1, 2).flatten(0, 1)


class MotionTask:
    """Flow network with two posterior encoders, one per half of the latent.

    Args:
        clips: Training clips with teacher flows, real or mixed with moved stills.
        held_out: Clips for the sample sheet.
        seed: Of weights, augmentation and latents.
        batch: Clips per step.
        device: Where to train.
    """

    name = "motion"
    learning_rate = 1e-3

    def __init__(
        self,
        clips: MotionClips | MixedClips,
        held_out: MotionBatch,
        *,
        seed: int = 0,
        batch: int = 4,
        device: str = "cpu",
    ) -> None:
        torch.manual_seed(seed)
        self.device = torch.device(device)
        self.held_out = shrink(held_out).to(self.device)
        config, foreground = MOTION, NUM_CLASSES - NUM_BACKGROUND
        self.network: nn.Module = Seg2VidFlow(config).to(self.device)
        self.helpers = nn.ModuleDict(
            {
                "background": PosteriorEncoder(
                    config, planes=NUM_BACKGROUND, latents=config.background_latents
                ),
                "foreground": PosteriorEncoder(
                    config, planes=foreground, latents=config.foreground_latents
                ),
            }
        ).to(self.device)
        everything = [*self.network.parameters(), *self.helpers.parameters()]
        self.optimizers: dict[str, torch.optim.Optimizer] = {
            "network": torch.optim.Adam(everything, self.learning_rate)
        }
        self.progress = 0.0
        self.settings: Mapping[str, Any] = {}
        self.batches = data.prefetch(lambda rng: shrink(clips.batch(rng, batch)), seed)

    def posterior(self, batch: MotionBatch) -> tuple[Tensor, Tensor]:
        """Mean and log variance `(B, rows, latent_size)`, background part first."""
        planes = batch.planes.split([NUM_BACKGROUND, NUM_CLASSES - NUM_BACKGROUND], dim=1)
        halves = [
            self.helpers["background"](batch.camera_frames, planes[0]),
            self.helpers["foreground"](batch.object_frames, planes[1]),
        ]
        mean, log_variance = (
            torch.cat(parts, dim=-1).float() for parts in zip(*halves, strict=True)
        )
        return mean, log_variance

    def step(self) -> Mapping[str, float]:
        """One step on a batch of clips."""
        batch = next(self.batches).to(self.device)
        self.network.train()
        self.helpers.train()
        first = batch.frames[:, 0]
        with torch.autocast(self.device.type, torch.bfloat16):
            mean, log_variance = self.posterior(batch)
            latents = mean + torch.randn_like(mean) * (0.5 * log_variance).exp()
            output = self.network(first, batch.planes, latents)
            other = latents.detach().clone()
            other[..., MOTION.background_latents :].normal_()
            elsewhere = self.network(first, batch.planes, other)
        progress = min(self.progress / WARM_UP, 1.0)
        parts = motion_losses(output, batch)
        parts["apart"] = background_change(output, elsewhere, batch.planes)
        parts["kl"] = kl_to_normal(mean, log_variance)
        start, end = TEACHER_WEIGHT
        loss = (
            parts["photometric"]
            + (start + (end - start) * progress) * parts["teacher"]
            + SMOOTH_WEIGHT * parts["smooth"]
            + CONSISTENCY_WEIGHT * parts["consistency"]
            + HIDDEN_WEIGHT * parts["hidden"]
            + 0.2 * parts["visibility"]
            + APART_WEIGHT * parts["apart"]
            + KL_WEIGHT * min(2 * progress, 1.0) * parts["kl"]
        )
        self.optimizers["network"].zero_grad()
        loss.backward()
        nn.utils.clip_grad_norm_(self.network.parameters(), 1.0)
        self.optimizers["network"].step()
        return {"loss": loss.item(), **{name: value.item() for name, value in parts.items()}}

    def finish(self, network: nn.Module) -> None:
        """Nothing to do: averaged statistics serve."""

    @torch.no_grad()
    def sample_sheet(self, network: nn.Module) -> Image.Image:
        """Two samples a clip: first and last real frame, warped frame, flow and visibility."""
        network.eval()
        generator = torch.Generator().manual_seed(1)
        rows, batch = [], self.held_out
        shape = (len(batch.frames), MOTION.latent_rows, MOTION.latent_size)
        for _ in range(2):
            latents = torch.randn(shape, generator=generator).to(self.device)
            output = network(batch.frames[:, 0], batch.planes, latents)
            flow = masked_flow_px(output.flow, output.visibility).unflatten(0, (len(latents), -1))
            for b in range(len(latents)):
                warped = backward_warp(batch.frames[b, :1], flow[b, -1:])[0]
                colours = torch.from_numpy(flow_to_colour(flow[b, -1].cpu().numpy(), max_px=12.0))
                rows.append(
                    [
                        batch.frames[b, 0],
                        batch.frames[b, -1],
                        warped,
                        colours.permute(2, 0, 1) / 255,
                        output.visibility[b, -1:].expand(3, -1, -1),
                    ]
                )
        return grid_picture(rows)


def motion_losses(output: FlowOutput, batch: MotionBatch) -> dict[str, Tensor]:
    """All losses of one batch but the KL, unweighted."""
    frames_later = batch.frames[:, 1:].flatten(0, 1)
    num_frames = batch.frames.shape[1] - 1
    assert output.flow_back is not None
    first = batch.frames[:, 0].repeat_interleave(num_frames, dim=0)
    flow = masked_flow_px(output.flow, output.visibility)
    back = masked_flow_px(output.flow_back, output.visibility_back)
    visible = output.visibility.float().flatten(0, 1)[:, None]
    visible_back = output.visibility_back.float().flatten(0, 1)[:, None]
    warped, warped_back = backward_warp(first, flow), backward_warp(frames_later, back)
    photometric = masked_mean(dissimilarity(warped, frames_later), visible) + masked_mean(
        dissimilarity(warped_back, first), visible_back
    )
    # A place in frame t, taken to the first frame and back, should come home.
    home = flow + backward_warp(back, flow)
    consistency = masked_mean(home.abs(), visible.detach()).clamp(max=20)

    teacher, teacher_back = batch.flow_px.flatten(0, 1), batch.flow_back_px.flatten(0, 1)
    seen, seen_back = _agree(teacher, teacher_back), _agree(teacher_back, teacher)
    error = masked_mean((flow - teacher).abs(), seen) + masked_mean(
        (back - teacher_back).abs(), seen_back
    )
    eps = 1e-4
    guess = torch.cat([visible, visible_back]).clamp(eps, 1 - eps)
    # Flat places are visible although no flow is sure of them: what looks right counts as seen.
    target = torch.cat(
        [
            torch.maximum(seen, _looks_right(first, teacher, frames_later)),
            torch.maximum(seen_back, _looks_right(frames_later, teacher_back, first)),
        ]
    )
    return {
        "photometric": photometric,
        "teacher": error,
        "smooth": edge_aware_smoothness(flow, frames_later) + edge_aware_smoothness(back, first),
        "consistency": consistency,
        "hidden": (1 - visible).mean() + (1 - visible_back).mean(),
        "visibility": F.binary_cross_entropy(guess, target),
    }


def background_change(output: FlowOutput, other: FlowOutput, planes: Tensor) -> Tensor:
    """How far two outputs differ away from objects, in pixels.

    Args:
        output: What the first frame's own latents give; not changed by this loss.
        other: With another foreground latent.
        planes: `(B, 20, H, W)` label planes of the first frame.
    """
    objects = planes[:, NUM_BACKGROUND:UNLABELLED].sum(1, keepdim=True)
    near = F.max_pool2d(objects, 2 * APART_PX + 1, 1, APART_PX) > 0
    away = (~near).to(planes.dtype).repeat_interleave(output.flow.shape[2], dim=0)
    assert output.flow_back is not None
    assert other.flow_back is not None
    changes = [
        masked_flow_px(mine, seen).detach() - masked_flow_px(theirs, theirs_seen)
        for mine, seen, theirs, theirs_seen in (
            (output.flow, output.visibility, other.flow, other.visibility),
            (output.flow_back, output.visibility_back, other.flow_back, other.visibility_back),
        )
    ]
    return torch.stack([masked_mean(change.abs(), away) for change in changes]).sum()


@torch.no_grad()
def _looks_right(source: Tensor, flow: Tensor, real: Tensor) -> Tensor:
    """1 where a warp lands inside and within 5 % of the real colours, `(N, 1, H, W)`."""
    error = F.avg_pool2d((backward_warp(source, flow) - real).abs().mean(1, keepdim=True), 3, 1, 1)
    inside = backward_warp(torch.ones_like(error), flow) > 0.99
    right: Tensor = ((error < 0.05) & inside).float()
    return right


@torch.no_grad()
def _agree(flow: Tensor, back: Tensor) -> Tensor:
    """1 where two opposite flows agree within half a pixel and a tenth, `(N, 1, H, W)`."""
    gap = (flow + backward_warp(back, flow)).norm(dim=1, keepdim=True)
    inside = backward_warp(torch.ones_like(gap), flow) > 0.99
    agree: Tensor = ((gap < 0.5 + 0.1 * flow.norm(dim=1, keepdim=True)) & inside).float()
    return agree
