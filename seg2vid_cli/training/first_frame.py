"""Train the label-map-to-picture generator: least-squares GAN, feature matching, L1, a style code.

A style encoder sees the real picture, so the generator need not guess light and colours and can be
asked for them later; its code is kept near a standard normal, from which generation draws.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from itertools import pairwise

import numpy as np
import torch
from PIL import Image
from torch import Tensor, nn
from torch.nn import functional as F

from seg2vid_cli.label_sets import CLASSES, NUM_CLASSES
from seg2vid_cli.networks.label_unet import LabelUNet, LabelUNetConfig
from seg2vid_cli.training import data
from seg2vid_cli.training.loop import grid_picture
from seg2vid_cli.training.losses import kl_to_normal

GENERATOR = LabelUNetConfig(
    size_hw=(128, 256),
    label_planes=NUM_CLASSES,
    style_size=16,
    channels=(32, 64, 128, 192, 256),
    middle_blocks=2,
)
FEATURE_WEIGHT = 10.0
L1_WEIGHT = 5.0
KL_WEIGHT = 0.02
STATISTICS_BATCHES = 60


class PatchDiscriminator(nn.Module):
    """Judge patches of a picture given its label planes, keeping all features for matching."""

    def __init__(self, in_channels: int, width: int = 48) -> None:
        super().__init__()
        widths = (in_channels, width, 2 * width, 4 * width)
        self.layers = nn.ModuleList(nn.Conv2d(a, b, 4, 2, 1) for a, b in pairwise(widths))
        self.layers.append(nn.Conv2d(4 * width, 4 * width, 3, 1, 1))
        self.head = nn.Conv2d(4 * width, 1, 3, 1, 1)

    def forward(self, x: Tensor) -> list[Tensor]:
        """`(B, C, H, W)` to the features of every layer, the verdict last."""
        features = []
        for index, layer in enumerate(self.layers):
            x = layer(x)
            x = F.leaky_relu(F.instance_norm(x) if index else x, 0.2)
            features.append(x)
        return [*features, self.head(x)]


class StyleEncoder(nn.Module):
    """Picture to mean and log variance of its style code."""

    def __init__(self, style_size: int) -> None:
        super().__init__()
        widths = (3, 32, 64, 96, 128)
        self.layers = nn.ModuleList(nn.Conv2d(a, b, 3, 2, 1) for a, b in pairwise(widths))
        self.head = nn.Linear(widths[-1], 2 * style_size)

    def forward(self, frame: Tensor) -> tuple[Tensor, Tensor]:
        """`(B, 3, H, W)` to two `(B, style_size)`."""
        x = F.avg_pool2d(frame, 2) - 0.5
        for layer in self.layers:
            x = F.leaky_relu(layer(x), 0.2)
        mean, log_variance = self.head(x.mean(dim=(2, 3))).chunk(2, dim=1)
        return mean, log_variance


class FirstFrameTask:
    """Generator against two patch discriminators (full and half size).

    Args:
        pairs: Training pairs.
        seed: Of weights and augmentation.
        batch: Pictures per step.
        device: Where to train.
    """

    name = "first-frame"
    progress = 0.0
    learning_rate = 3e-4

    def __init__(
        self, pairs: Sequence[data.Pair], *, seed: int = 0, batch: int = 8, device: str = "cpu"
    ) -> None:
        torch.manual_seed(seed)
        self.device = torch.device(device)
        self.network: nn.Module = LabelUNet(GENERATOR)
        planes = 3 + NUM_CLASSES
        self.helpers = nn.ModuleDict(
            {
                "style": StyleEncoder(GENERATOR.style_size),
                "judge_full": PatchDiscriminator(planes),
                "judge_half": PatchDiscriminator(planes),
            }
        )
        for module in (self.network, self.helpers):
            module.to(self.device).to(memory_format=torch.channels_last)  # type: ignore[call-overload]
        judges = [
            *self.helpers["judge_full"].parameters(),
            *self.helpers["judge_half"].parameters(),
        ]
        makers = [*self.network.parameters(), *self.helpers["style"].parameters()]
        self.optimizers: dict[str, torch.optim.Optimizer] = {
            "generator": torch.optim.Adam(makers, self.learning_rate, betas=(0.5, 0.99)),
            "discriminator": torch.optim.Adam(judges, self.learning_rate, betas=(0.5, 0.99)),
        }

        def make(rng: np.random.Generator) -> tuple[Tensor, Tensor]:
            crops = [
                data.crop_pair(pairs[i], GENERATOR.size_hw, rng, zoom=(0.7, 1.0))
                for i in rng.integers(len(pairs), size=batch)
            ]
            ids = [data.diversify_classes(ids, rng) for _, ids in crops]
            return data.to_tensor([picture for picture, _ in crops]), data.to_planes(ids)

        self.batches = data.prefetch(make, seed)

    def _judge(self, frame: Tensor, planes: Tensor) -> list[list[Tensor]]:
        x = torch.cat([frame.bfloat16(), planes.bfloat16()], dim=1)
        return [self.helpers["judge_full"](x), self.helpers["judge_half"](F.avg_pool2d(x, 2))]

    def step(self) -> Mapping[str, float]:
        """One step of the generator and one of the discriminators, on the same pictures."""
        real, planes = (
            x.to(self.device, memory_format=torch.channels_last) for x in next(self.batches)
        )
        self.last = real, planes
        self.network.train()
        self.helpers.requires_grad_(True)
        with torch.autocast(self.device.type, torch.bfloat16):
            mean, log_variance = self.helpers["style"](real)
            style = mean + torch.randn_like(mean) * (0.5 * log_variance).exp()
            fake = self.network(planes, style, torch.randn_like(planes[:, :1]))
            for name in ("judge_full", "judge_half"):
                self.helpers[name].requires_grad_(False)
            on_fake = self._judge(fake, planes)
            with torch.no_grad():
                on_real = self._judge(real, planes)
        adversarial = torch.stack([((f[-1].float() - 1) ** 2).mean() for f in on_fake]).mean()
        matching = torch.stack(
            [
                F.l1_loss(a.float(), b.float())
                for f, r in zip(on_fake, on_real, strict=True)
                for a, b in zip(f[:-1], r[:-1], strict=True)
            ]
        ).mean()
        l1 = F.l1_loss(fake.float(), real)
        kl = kl_to_normal(mean.float(), log_variance.float())
        loss = adversarial + FEATURE_WEIGHT * matching + L1_WEIGHT * l1 + KL_WEIGHT * kl
        self.optimizers["generator"].zero_grad()
        loss.backward()
        self.optimizers["generator"].step()

        for name in ("judge_full", "judge_half"):
            self.helpers[name].requires_grad_(True)
        with torch.autocast(self.device.type, torch.bfloat16):
            verdicts = self._judge(
                torch.cat([fake.detach().to(real.dtype), real]), torch.cat([planes, planes])
            )
        judged: Tensor = torch.zeros((), device=self.device)
        for features in verdicts:
            on_made, on_true = features[-1].float().chunk(2)
            judged = judged + ((on_made**2).mean() + ((on_true - 1) ** 2).mean()) / 4
        self.optimizers["discriminator"].zero_grad()
        judged.backward()
        self.optimizers["discriminator"].step()
        return {
            "adversarial": adversarial.item(),
            "matching": matching.item(),
            "l1": l1.item(),
            "kl": kl.item(),
            "discriminator": judged.item(),
        }

    @torch.no_grad()
    def finish(self, network: nn.Module) -> None:
        """Measure the batch norms' statistics anew, with averaged weights and drawn styles.

        During training they belong to other weights, and to styles read from real pictures.
        """
        norms = [m for m in network.modules() if isinstance(m, nn.BatchNorm2d)]
        for norm in norms:
            norm.reset_running_stats()
            norm.momentum = None  # plain mean over all batches
        network.train()
        for _ in range(STATISTICS_BATCHES):
            _, planes = next(self.batches)
            planes = planes.to(self.device)
            style = torch.randn(len(planes), GENERATOR.style_size, device=self.device)
            network(planes, style, torch.randn_like(planes[:, :1]))
        network.eval()

    @torch.no_grad()
    def sample_sheet(self, network: nn.Module) -> Image.Image:
        """Rows: label maps, real pictures, two samples."""
        colours = torch.tensor([c.colour for c in CLASSES], device=self.device) / 255
        real, planes = (x[:4] for x in self.last)
        maps = colours[planes.argmax(1)].permute(0, 3, 1, 2)
        generator = torch.Generator().manual_seed(1)
        shape = (2, 1, GENERATOR.style_size)
        styles = torch.randn(shape, generator=generator).to(self.device)
        noise = torch.randn(planes[:, :1].shape, generator=generator).to(self.device)
        samples = [list(network(planes, style.expand(len(planes), -1), noise)) for style in styles]
        return grid_picture([list(maps), list(real), *samples])
