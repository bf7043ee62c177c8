"""Train the refinement network: repaint what the motion network hides, on real clips."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import numpy as np
import torch
from PIL import Image
from torch import Tensor, nn
from torch.nn import functional as F

from seg2vid_cli.device import mixed_precision
from seg2vid_cli.errors import InputError
from seg2vid_cli.networks.seg2vid_refine import RefineConfig, Seg2VidRefine
from seg2vid_cli.training import data
from seg2vid_cli.training.clips import MotionBatch, MotionClips, ask_classical
from seg2vid_cli.training.loop import grid_picture
from seg2vid_cli.training.losses import dissimilarity, masked_mean
from seg2vid_cli.training.motion import MOTION, MotionTask
from seg2vid_cli.warp import backward_warp

REFINE = RefineConfig(image_channels=3, channels=(16, 32, 64, 96, 96), bottleneck=192)
FRAMES_PER_CLIP = 2
HIDDEN_WEIGHT = 3.0


def check_size(size_hw: tuple[int, int]) -> None:
    """Make sure that frames of this size can be warped by the motion network's flows.

    Raises:
        InputError: They cannot.
    """
    height, width = MOTION.size_hw
    factor = size_hw[1] // width
    if factor < 1 or size_hw != (factor * height, factor * width):
        raise InputError(
            f"size {size_hw[1]}x{size_hw[0]} cannot be trained at",
            hint=f"the motion network's {width}x{height} times 1, 2, 3 ...",
        )


class RefineTask:
    """Refinement network behind a trained motion network that no longer changes.

    Args:
        motion: A task with trained network and encoder.
        clips: Training clips, 1, 2, 3 ... times as large as the motion network's frames.
        held_out: Clips for the sample sheet.
        seed: Of weights, augmentation and noise.
        batch: Clips per step; two frames of each are repainted.
        device: Where to train.
    """

    name = "refine"
    progress = 0.0
    learning_rate = 1e-3

    def __init__(
        self,
        motion: MotionTask,
        clips: MotionClips,
        held_out: MotionBatch,
        *,
        seed: int = 0,
        batch: int = 4,
        device: str = "cpu",
    ) -> None:
        torch.manual_seed(seed)
        self.device = torch.device(device)
        self.settings: Mapping[str, Any] = {"size_hw": list(held_out.frames.shape[-2:])}
        self.motion, self.held_out = motion, with_teacher(held_out)
        for module in (motion.network, motion.helpers):
            module.eval().requires_grad_(False)
        self.network: nn.Module = Seg2VidRefine(REFINE).to(self.device)
        self.network.to(memory_format=torch.channels_last)  # type: ignore[call-overload]
        self.helpers = nn.ModuleDict()
        self.optimizers: dict[str, torch.optim.Optimizer] = {
            "network": torch.optim.Adam(self.network.parameters(), self.learning_rate)
        }
        self.generator = torch.Generator().manual_seed(seed)
        self.batches = data.prefetch(lambda rng: with_teacher(clips.batch(rng, batch)), seed)

    @torch.no_grad()
    def _damage(
        self, pair: tuple[MotionBatch, MotionBatch], generator: torch.Generator
    ) -> tuple[Tensor, ...]:
        """Warp the first frame as the real clip moved.

        Args:
            pair: From `with_teacher`.
            generator: Chooses the later frames.

        Returns:
            Warped frames `(N, 3, H, W)`, visibility `(N, 1, H, W)` and real frames.
        """
        batch, small = (each.to(self.device) for each in pair)
        size = batch.frames.shape[-2:]
        factor = size[1] // MOTION.size_hw[1]
        flow, visible = self.motion.follow(small)
        num_clips, num_frames = len(batch.frames), batch.frames.shape[1] - 1
        chosen = torch.randint(num_frames, (num_clips, FRAMES_PER_CLIP), generator=generator)
        rows = (chosen + num_frames * torch.arange(num_clips)[:, None]).flatten()
        flow, visible = flow[rows], visible[rows]
        step_px = [(n - 1) / (n / factor - 1) for n in (size[1], size[0])]
        flow = _stretch(flow, size) * flow.new_tensor(step_px).view(1, 2, 1, 1)
        first = batch.frames[:, 0].repeat_interleave(FRAMES_PER_CLIP, dim=0)
        real = batch.frames[:, 1:].flatten(0, 1)[rows]
        visible = _stretch(visible, size)
        return backward_warp(first, flow * (visible > 0)), visible, real

    def _repair(
        self, network: nn.Module, warped: Tensor, visible: Tensor, generator: torch.Generator
    ) -> Tensor:
        noise = torch.randn(warped.shape, generator=generator).to(self.device)
        damaged = warped * visible + noise * (1 - visible)
        repaired: Tensor = network(damaged.contiguous(memory_format=torch.channels_last))
        return repaired

    def step(self) -> Mapping[str, float]:
        """One step; hidden pixels weigh more than visible ones."""
        self.network.train()
        warped, visible, real = self._damage(next(self.batches), self.generator)
        with mixed_precision(self.device):
            repaired = self._repair(self.network, warped, visible, self.generator).float()
        everywhere = dissimilarity(repaired, real)
        composed = visible * warped + (1 - visible) * repaired
        hidden = masked_mean(everywhere, 1 - visible)
        result = dissimilarity(composed, real).mean()
        loss = everywhere.mean() + HIDDEN_WEIGHT * hidden + result
        self.optimizers["network"].zero_grad()
        loss.backward()
        self.optimizers["network"].step()
        return {
            "everywhere": everywhere.mean().item(),
            "hidden": hidden.item(),
            "result": result.item(),
        }

    def finish(self, network: nn.Module) -> None:
        """Nothing to do: averaged statistics serve."""

    @torch.no_grad()
    def sample_sheet(self, network: nn.Module) -> Image.Image:
        """Held-out frames: warped, visibility, repainted, composed, real."""
        network.eval()
        generator = torch.Generator().manual_seed(1)
        warped, visible, real = self._damage(self.held_out, generator)
        repaired = self._repair(network, warped, visible, generator)
        composed = visible * warped + (1 - visible) * repaired
        columns = (warped, visible.expand_as(warped), repaired, composed, real)
        return grid_picture([list(row) for row in zip(*columns, strict=True)])


def with_teacher(batch: MotionBatch) -> tuple[MotionBatch, MotionBatch]:
    """Clips, and the same at the motion network's size with a classical flow's teacher."""
    factor = batch.frames.shape[-1] // MOTION.size_hw[1]
    frames = F.avg_pool2d(batch.frames.flatten(0, 1), factor)
    frames = frames.unflatten(0, batch.frames.shape[:2])
    pictures = (frames * 255).round().byte().permute(0, 1, 3, 4, 2).numpy()
    flows = torch.from_numpy(np.stack([ask_classical(clip) for clip in pictures])).float()
    small = MotionBatch(
        frames=frames,
        planes=F.avg_pool2d(batch.planes, factor),
        flow_px=flows[:, :, :2],
        known=flows[:, :, 2:],
    )
    return batch, small


def _stretch(x: Tensor, size: torch.Size) -> Tensor:
    return F.interpolate(x, size=size, mode="bilinear", align_corners=True)
