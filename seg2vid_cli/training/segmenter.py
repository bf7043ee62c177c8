"""Train the segmentation network that labels driving clips, and a small one for photos.

The small one learns from the large one as well: soft scores say more than hard labels, and are to
be had for frames that nobody labelled. Both can
begin with what EfficientNet-Lite0 learnt of ImageNet, which other towns than the training's need.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch
from PIL import Image
from torch import Tensor, nn
from torch.nn import functional as F

from seg2vid_cli.device import mixed_precision
from seg2vid_cli.label_sets import CLASSES, UNLABELLED
from seg2vid_cli.networks.segmenter import (
    LiteSegmenter,
    LiteSegmenterConfig,
    SegmentationNetwork,
    Segmenter,
    SegmenterConfig,
)
from seg2vid_cli.training import data
from seg2vid_cli.training.imagenet import load_imagenet
from seg2vid_cli.training.loop import OWN_RATE, grid_picture
from seg2vid_cli.weights.load import config_from_dict

SEGMENTER = SegmenterConfig(classes=19, channels=(32, 64, 128, 192, 256), blocks=(0, 2, 3, 3, 2))
SMALL_SEGMENTER = SegmenterConfig(
    classes=19, channels=(16, 40, 80, 112, 128), blocks=(0, 1, 2, 2, 2)
)
LITE_SEGMENTER = LiteSegmenterConfig(classes=19, stages=6, channels=(32, 48, 64, 112))
SMALL_LITE_SEGMENTER = LiteSegmenterConfig(classes=19, stages=5, channels=(24, 32, 48))
TEACHER_WEIGHT = 1.0
CROP_HW = (160, 320)
LITE_CROP_HW = (256, 384)  # ImageNet's things are large
ENCODER_RATE = 0.25  # of the learning rate, for what has learnt already


def build_segmenter(config: Mapping[str, Any]) -> SegmentationNetwork:
    """The network that a run trained, by its configuration."""
    if "stages" in config:
        return LiteSegmenter(config_from_dict(LiteSegmenterConfig, config))
    return Segmenter(config_from_dict(SegmenterConfig, config))


def begin_with_imagenet(config: LiteSegmenterConfig, path: Path) -> LiteSegmenter:
    """A network whose encoder knows ImageNet.

    Args:
        config: Its size.
        path: See `load_imagenet`.

    Raises:
        InputError: The file is missing or holds something else.
    """
    network = LiteSegmenter(config)
    load_imagenet(network.encoder, path)
    return network


class SegmenterTask:
    """Cross-entropy, classes weighted by the inverse root of their share, strong colour changes.

    So rare classes are learnt, but would be seen everywhere. The weights' logarithms are added to
    the scores in training alone: without them the network says every class as often as it occurs.

    Args:
        pairs: Training pairs. Of those without any label a teacher has the only say.
        build: Makes the network to train, whose `config` is a dataclass.
        teacher: A trained network whose scores the new one learns as well.
        name: Of the run.
        seed: Of weights and augmentation.
        batch: Pictures per step.
        size_hw: Size of the crops.
        device: Where to train.
    """

    name = "segmenter"
    small_name = "small-segmenter"
    progress = 0.0
    learning_rate = 2e-3

    def __init__(
        self,
        pairs: Sequence[data.Pair],
        *,
        build: Callable[[], nn.Module] = lambda: Segmenter(SEGMENTER),
        teacher: nn.Module | None = None,
        name: str = name,
        seed: int = 0,
        batch: int = 8,
        size_hw: tuple[int, int] = CROP_HW,
        device: str = "cpu",
    ) -> None:
        torch.manual_seed(seed)
        self.device = torch.device(device)
        self.name = name
        self.settings: Mapping[str, Any] = {}
        self.network = build().to(self.device)
        self.network.to(memory_format=torch.channels_last)  # type: ignore[call-overload]
        self.teacher = None if teacher is None else teacher.to(self.device).requires_grad_(False)
        self.helpers = nn.ModuleDict()
        groups: list[dict[str, Any]] = [{"params": self.network.parameters()}]
        if isinstance(self.network, LiteSegmenter):
            learnt = list(self.network.encoder.parameters())
            groups = [
                {"params": [p for p in groups[0]["params"] if all(p is not q for q in learnt)]},
                {"params": learnt, OWN_RATE: ENCODER_RATE},
            ]
        self.optimizers: dict[str, torch.optim.Optimizer] = {
            "network": torch.optim.AdamW(groups, self.learning_rate)
        }
        shares = [np.bincount(p.train_ids.ravel(), minlength=20)[:19] for p in pairs]
        counts = np.sum(shares, axis=0) + 1.0
        weights = np.where(counts > 1, (counts / counts.sum()) ** -0.5, 0)
        weights /= max((weights * counts).sum() / counts.sum(), 1e-9)
        self.class_weights = torch.tensor(weights, dtype=torch.float32, device=self.device)
        known = self.class_weights > 0
        self.favour = torch.where(known, self.class_weights, 1.0).log()[:, None, None]

        def make(rng: np.random.Generator) -> tuple[Tensor, Tensor, Tensor]:
            crops = [
                data.crop_pair(pairs[i], size_hw, rng, zoom=(0.55, 1.0))
                for i in rng.integers(len(pairs), size=batch)
            ]
            pictures = [data.jitter_colours(picture, rng, 1.0) for picture, _ in crops]
            ids = torch.from_numpy(np.stack([ids for _, ids in crops])).long()
            return data.to_tensor(pictures), ids, data.to_tensor([p for p, _ in crops])

        self.batches = data.prefetch(make, seed)

    def step(self) -> Mapping[str, float]:
        """One step of weighted cross-entropy; unlabelled pixels are left out."""
        frames, ids, plain = (x.to(self.device) for x in next(self.batches))
        frames = frames.contiguous(memory_format=torch.channels_last)
        self.last = frames
        self.network.train()
        with mixed_precision(self.device):
            logits = self.network(frames)
        keep = ids != UNLABELLED
        wrong = F.cross_entropy(
            logits.float() + self.favour,
            ids,
            self.class_weights,
            ignore_index=UNLABELLED,
            reduction="sum",
        )
        loss = wrong / self.class_weights[ids[keep]].sum().clamp_min(1.0)
        if self.teacher is not None:
            self.teacher.eval()
            with torch.no_grad(), mixed_precision(self.device):
                wanted = self.teacher(plain.contiguous(memory_format=torch.channels_last))
            guess = F.log_softmax(logits.float(), dim=1)
            wanted = F.softmax(wanted.float(), dim=1)
            loss = loss - TEACHER_WEIGHT * (wanted * guess).sum(1).mean()
        self.optimizers["network"].zero_grad()
        loss.backward()
        self.optimizers["network"].step()
        accuracy = (logits.argmax(1) == ids)[keep].float().sum() / keep.sum().clamp_min(1)
        return {"loss": loss.item(), "accuracy": accuracy.item()}

    def finish(self, network: nn.Module) -> None:
        """Nothing to do: averaged statistics serve."""

    def sample_sheet(self, network: nn.Module) -> Image.Image:
        """Pictures above, their labels below."""
        colours = torch.tensor([c.colour for c in CLASSES], device=self.device) / 255
        network.eval()
        with torch.no_grad():
            ids = network(self.last[:4]).argmax(1)
        return grid_picture([list(self.last[:4]), list(colours[ids].permute(0, 3, 1, 2))])


def unlabelled_pairs(frames: Sequence[np.ndarray], name: str) -> list[data.Pair]:
    """Frames uint8 `(H, W, 3)` as pairs for a network with a teacher."""
    return [
        data.Pair(
            name=f"{name} {index}",
            picture=frame,
            train_ids=np.full(frame.shape[:2], UNLABELLED, np.uint8),
        )
        for index, frame in enumerate(frames)
    ]


@torch.inference_mode()
def label_frames(network: nn.Module, frames: np.ndarray, *, batch: int = 8) -> np.ndarray:
    """Label uint8 `(N, H, W, 3)` frames: uint8 `(N, H, W)` train ids. H and W multiples of 32."""
    device = next(network.parameters()).device
    network.eval()
    labelled = []
    for start in range(0, len(frames), batch):
        x = data.to_tensor(list(frames[start : start + batch]))
        x = x.to(device, memory_format=torch.channels_last)
        with mixed_precision(device):
            labelled.append(network(x).argmax(1).byte().cpu().numpy())
    return np.concatenate(labelled)


@torch.inference_mode()
def score(network: nn.Module, pairs: Sequence[data.Pair]) -> dict[str, Any]:
    """Pixel accuracy and mean IoU over the classes that occur, at full picture size."""
    confusion = np.zeros((19, 19), dtype=np.int64)
    for pair in pairs:
        height, width = pair.train_ids.shape
        padded = np.pad(pair.picture, ((0, -height % 32), (0, -width % 32), (0, 0)), mode="edge")
        guess = label_frames(network, padded[None])[0, :height, :width]
        confusion += count_confusion(pair.train_ids, guess)
    return segmentation_scores(confusion)


def count_confusion(train_ids: np.ndarray, guess: np.ndarray) -> np.ndarray:
    """Pixels by true and guessed class, `(19, 19)`; unlabelled pixels are left out."""
    keep = train_ids != UNLABELLED
    cells = train_ids[keep].astype(np.int64) * 19 + guess[keep]
    return np.bincount(cells, minlength=361).reshape(19, 19)


def segmentation_scores(confusion: np.ndarray) -> dict[str, Any]:
    """Pixel accuracy, and IoU of the classes that occur: their mean, number and each by name."""
    hits, present = np.diag(confusion), confusion.sum(1) > 0
    iou = hits / np.maximum(confusion.sum(0) + confusion.sum(1) - hits, 1)
    return {
        "pixel_accuracy": round(float(hits.sum() / confusion.sum()), 4),
        "mean_iou": round(float(iou[present].mean()), 4),
        "classes": int(present.sum()),
        "iou": {CLASSES[i].name: round(float(iou[i]), 3) for i in np.flatnonzero(present)},
    }
