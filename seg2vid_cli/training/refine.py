"""Train the refinement network: repaint what the motion network hides, on real clips."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import torch
from PIL import Image
from torch import Tensor, nn
from torch.nn import functional as F

from seg2vid_cli.errors import InputError
from seg2vid_cli.networks.seg2vid_refine import RefineConfig, Seg2VidRefine
from seg2vid_cli.training import data
from seg2vid_cli.training.clips import MotionBatch, MotionClips
from seg2vid_cli.training.loop import grid_picture
from seg2vid_cli.training.losses import dissimilarity, masked_mean
from seg2vid_cli.training.motion import DOWNSCALE, MOTION, MotionTask, masked_flow_px, shrink
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
    if factor < DOWNSCALE or size_hw != (factor * height, factor * width):
        raise InputError(
            f"size {size_hw[1]}x{size_hw[0]} cannot be trained at",
            hint=f"the motion network's {width}x{height} times {DOWNSCALE}, 3, 4 ...",
        )


class RefineTask:
    """Refinement network behind a trained motion network that no longer changes.

    Args:
        motion: A task with trained network and posterior encoders.
        clips: Training clips, 2, 3 ... times as large as the motion network's frames.
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
        self.motion, self.held_out = motion, held_out.to(self.device)
        for module in (motion.network, motion.helpers):
            module.eval().requires_grad_(False)
        self.network: nn.Module = Seg2VidRefine(REFINE).to(self.device)
        self.network.to(memory_format=torch.channels_last)  # type: ignore[call-overload]
        self.helpers = nn.ModuleDict()
        self.optimizers: dict[str, torch.optim.Optimizer] = {
            "network": torch.optim.Adam(self.network.parameters(), self.learning_rate)
        }
        self.generator = torch.Generator().manual_seed(seed)
        self.batches = data.prefetch(lambda rng: clips.batch(rng, batch), seed)

    @torch.no_grad()
    def _damage(self, batch: MotionBatch, generator: torch.Generator) -> tuple[Tensor, ...]:
        """Warp the first frame as the real clip moved.

        Returns:
            Warped frames `(N, 3, H, W)`, visibility `(N, 1, H, W)` and real frames.
        """
        size = batch.frames.shape[-2:]
        factor = size[1] // MOTION.size_hw[1]
        small = shrink(batch, factor)
        mean, _ = self.motion.posterior(small)
        output = self.motion.network(small.frames[:, 0], small.planes, mean)
        num_frames = batch.frames.shape[1] - 1
        chosen = torch.randint(num_frames, (len(mean), FRAMES_PER_CLIP), generator=generator)
        rows = (chosen + num_frames * torch.arange(len(mean))[:, None]).flatten()
        flow = masked_flow_px(output.flow, output.visibility)[rows]
        visible = output.visibility.flatten(0, 1)[rows, None]
        step_px = [(n - 1) / (n / factor - 1) for n in (size[1], size[0])]
        flow = _stretch(flow, size) * flow.new_tensor(step_px).view(1, 2, 1, 1)
        first = batch.frames[:, 0].repeat_interleave(FRAMES_PER_CLIP, dim=0)
        real = batch.frames[:, 1:].flatten(0, 1)[rows]
        return backward_warp(first, flow), _stretch(visible, size), real

    def _repair(
        self, network: nn.Module, warped: Tensor, visible: Tensor, generator: torch.Generator
    ) -> Tensor:
        noise = torch.randn(warped.shape, generator=generator).to(self.device)
        damaged = warped * visible + noise * (1 - visible)
        repaired: Tensor = network(damaged.contiguous(memory_format=torch.channels_last))
        return repaired

    def step(self) -> Mapping[str, float]:
        """One step; hidden pixels weigh more than visible ones."""
        batch = next(self.batches).to(self.device)
        self.network.train()
        warped, visible, real = self._damage(batch, self.generator)
        with torch.autocast(self.device.type, torch.bfloat16):
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


def _stretch(x: Tensor, size: torch.Size) -> Tensor:
    return F.interpolate(x, size=size, mode="bilinear", align_corners=True)
