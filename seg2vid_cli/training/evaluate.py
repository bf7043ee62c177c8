"""Measure weights on data that no training saw."""

from __future__ import annotations

import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import cv2
import numpy as np
import torch
from numpy.typing import NDArray
from PIL import Image
from torch import Tensor
from torch.nn import functional as F

from seg2vid_cli.device import draw_normal
from seg2vid_cli.label_sets import CLASSES
from seg2vid_cli.labels import labels_from_array, resize_labels
from seg2vid_cli.motion import predict_motion, sample_latents
from seg2vid_cli.pipeline import Pipeline
from seg2vid_cli.refine import refine_frames
from seg2vid_cli.training.clips import (
    DriveClip,
    classical_flow,
    load_segmenter,
    read_clips,
)
from seg2vid_cli.training.data import Pair, to_planes, to_tensor
from seg2vid_cli.training.losses import dissimilarity
from seg2vid_cli.training.segmenter import count_confusion, label_frames, segmentation_scores
from seg2vid_cli.warp import backward_warp

HORIZONS = (1, 2, 4, 8)
SAMPLES = 20
STARTS_PER_CLIP = 10


def evaluate_bundle(
    weights: str,
    *,
    pairs: Sequence[Pair],
    sequence: Sequence[Pair],
    clips: Sequence[str],
    runs: Path,
) -> dict[str, Any]:
    """All figures of the model card.

    Args:
        weights: Name or folder of a bundle.
        pairs: Labelled pictures that no training saw.
        sequence: Labelled pictures at 15 Hz, in order, that no training saw; may be empty.
        clips: Held-out driving clips, `VIDEO:FIRST-LAST`.
        runs: Folder with the trained segmenter: it reads pictures and labels clips.
    """
    pipeline = Pipeline.open(weights)
    figures: dict[str, Any] = {"first_frame": first_frame_scores(pipeline, pairs, runs)}
    drives, strides = read_clips(clips, runs) if clips else ([], [])
    if sequence:
        drives.append(_sequence_clip(sequence, pipeline.bundle.size_hw))
        strides.append(1)
    for drive, stride in zip(drives, strides, strict=True):
        figures[drive.name] = motion_scores(pipeline, drive, stride)
    return figures


def wide_window(pair: Pair, size_hw: tuple[int, int]) -> Pair:
    """The upper 2:1 part of a labelled picture at the working size.

    The window starts an eighth of the picture's spare height from the top, so that a bonnet at the
    bottom stays out.
    """
    height, width = pair.train_ids.shape
    window = min(height, width * size_hw[0] // size_hw[1])
    top = (height - window) // 8
    picture = pair.picture[top : top + window]
    labels = labels_from_array(pair.train_ids[top : top + window], encoding="train-ids")
    small = cv2.resize(picture, size_hw[::-1], interpolation=cv2.INTER_AREA)
    return Pair(
        name=pair.name,
        picture=np.asarray(small, np.uint8),
        train_ids=resize_labels(labels, size_hw).train_ids,
    )


def paint_pair(pipeline: Pipeline, pair: Pair, *, seed: int) -> NDArray[np.uint8]:
    """Paint a pair's label map at its own size: uint8 `(H, W, 3)`."""
    labels = labels_from_array(pair.train_ids, encoding="train-ids")
    height, width = labels.size_hw
    clip = pipeline.generate(labels, seed=seed, frames=1, size_hw=(height, width), fit="stretch")
    return next(iter(clip)).frame


def first_frame_scores(pipeline: Pipeline, pairs: Sequence[Pair], runs: Path) -> dict[str, Any]:
    """How well a segmentation network reads painted pictures, against the real ones.

    The reader was trained on real pictures only and takes no part in any loss of the generator.
    Both kinds are shown to it at the working size, doubled.
    """
    reader = load_segmenter(runs)
    confusion = {kind: np.zeros((19, 19), np.int64) for kind in ("real", "painted")}
    for index, pair in enumerate(wide_window(p, pipeline.bundle.size_hw) for p in pairs):
        painted = paint_pair(pipeline, pair, seed=index)
        for kind, picture in (("real", pair.picture), ("painted", painted)):
            small = to_tensor([picture])
            large = F.interpolate(small, scale_factor=2.0, mode="bilinear", align_corners=False)
            pixels = (large[0].permute(1, 2, 0) * 255).round().byte().numpy()
            guess = label_frames(reader, pixels[None])[0, ::2, ::2]
            confusion[kind] += count_confusion(pair.train_ids, guess)
    scores = {kind: segmentation_scores(c) for kind, c in confusion.items()}
    share = {
        key: round(scores["painted"][key] / scores["real"][key], 3)
        for key in ("pixel_accuracy", "mean_iou")
    }
    return {"pictures": len(pairs), **scores, "share_of_real": share}


def motion_scores(pipeline: Pipeline, clip: DriveClip, stride: int) -> dict[str, Any]:
    """PSNR and SSIM of sampled futures, between repeating and a classical flow that saw the answer.

    For each of some evenly spaced starts, 20 samples are compared with the real next frames; `best`
    is the best of them, `mean` their mean.
    """
    furthest = HORIZONS[-1] * stride
    starts = np.linspace(0, len(clip.frames) - furthest - 1, STARTS_PER_CLIP).astype(int)
    dis = cv2.DISOpticalFlow_create(cv2.DISOPTICAL_FLOW_PRESET_MEDIUM)
    rows: dict[str, list[list[float]]] = {k: [] for k in ("repeat", "best", "mean", "dis", "ssim")}
    spread, began = [], time.monotonic()
    for start in starts:
        first = to_tensor([clip.frames[start]])
        real = to_tensor([clip.frames[start + h * stride] for h in HORIZONS])
        planes = to_planes([clip.train_ids[start]])
        grey = [
            cv2.cvtColor(clip.frames[start + h * stride], cv2.COLOR_RGB2GRAY)
            for h in (0, *HORIZONS)
        ]
        answer = torch.cat(
            [
                backward_warp(first, torch.from_numpy(classical_flow(g, grey[0], dis))[None])
                for g in grey[1:]
            ]
        )
        samples = torch.stack([_sample(pipeline, first, planes, seed) for seed in range(SAMPLES)])
        scores = np.array([_psnr(sample, real) for sample in samples])
        similar = np.array([1 - _dssim(sample, real) for sample in samples])
        rows["repeat"].append(_psnr(first.expand_as(real), real))
        rows["dis"].append(_psnr(answer, real))
        rows["best"].append(list(scores.max(0)))
        rows["mean"].append(list(scores.mean(0)))
        rows["ssim"].append(list(similar.max(0)))
        spread.append(float(samples[:, -1].std(0).mean()))
    table = {key: np.array(values).mean(0) for key, values in rows.items()}
    gap = (table["best"] - table["repeat"]) / (table["dis"] - table["repeat"])
    return {
        "starts": len(starts),
        "samples": SAMPLES,
        "after_frames": list(HORIZONS),
        "psnr_repeat_first_frame": table["repeat"].round(2).tolist(),
        "psnr_best_sample": table["best"].round(2).tolist(),
        "psnr_mean_sample": table["mean"].round(2).tolist(),
        "psnr_classical_flow": table["dis"].round(2).tolist(),
        "best_share_of_gap": gap.round(3).tolist(),
        "ssim_best_sample": table["ssim"].round(3).tolist(),
        "spread_of_samples": round(float(np.mean(spread)), 4),
        "seconds": round(time.monotonic() - began, 1),
    }


def _sample(pipeline: Pipeline, first: Tensor, planes: Tensor, seed: int) -> Tensor:
    """One sampled future at the horizons: `(len(HORIZONS), 3, H, W)`."""
    bundle, compute = pipeline.bundle, pipeline.compute
    latents = sample_latents(pipeline.motion.config, seed=seed, variant=0)
    first, planes = first.to(compute.device), planes.to(compute.device)
    motion = predict_motion(
        pipeline.motion,
        first,
        planes,
        latents,
        downscale=bundle.stages["motion"].options.get("downscale", 1),
        compute=compute,
    )
    rows = [h - 1 for h in HORIZONS]
    warped = backward_warp(first.expand(len(rows), -1, -1, -1), motion.flow_px[rows])
    noise = draw_normal(tuple(first.shape), seed=seed, variant=0, purpose="refine/1")
    return refine_frames(
        pipeline.refiner,
        warped,
        motion.visibility[rows],
        noise.to(compute.device),
        keep_visible=bundle.stages["refine"].options.get("keep_visible", False),
        compute=compute,
    ).cpu()


def _psnr(a: Tensor, b: Tensor) -> list[float]:
    return [float(v) for v in -10 * torch.log10(((a - b) ** 2).mean((1, 2, 3)).clamp_min(1e-10))]


def _dssim(a: Tensor, b: Tensor) -> NDArray[np.float64]:
    """Mean of 1 - SSIM per picture, from the training's dissimilarity."""
    l1 = (a - b).abs().mean((1, 2, 3))
    mixed = dissimilarity(a, b).mean((1, 2, 3))
    dssim: NDArray[np.float64] = ((mixed - 0.15 * l1) / 0.85 * 2).double().numpy()
    return dssim


def _sequence_clip(sequence: Sequence[Pair], size_hw: tuple[int, int]) -> DriveClip:
    pairs = [wide_window(pair, size_hw) for pair in sequence]
    return DriveClip(
        name=f"{pairs[0].name} to {pairs[-1].name}",
        frames=np.stack([p.picture for p in pairs]),
        train_ids=np.stack([p.train_ids for p in pairs]),
    )


def sample_sheet(pipeline: Pipeline, pairs: Sequence[Pair], seeds: Sequence[int]) -> Image.Image:
    """Rows of label map, real picture and painted pictures, one per seed."""
    colours = np.array([c.colour for c in CLASSES], np.uint8)
    rows = []
    for pair in (wide_window(p, pipeline.bundle.size_hw) for p in pairs):
        tiles = [paint_pair(pipeline, pair, seed=seed) for seed in seeds]
        rows.append(np.hstack([colours[pair.train_ids], pair.picture, *tiles]))
    return Image.fromarray(np.vstack(rows))
