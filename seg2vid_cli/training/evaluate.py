"""Measure weights on data that no training saw: the command, and the first frame."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from PIL import Image
from torch.nn import functional as F

from seg2vid_cli.errors import InputError
from seg2vid_cli.labels import labels_from_array
from seg2vid_cli.networks.segmenter import SegmentationNetwork
from seg2vid_cli.pipeline import Pipeline
from seg2vid_cli.training.clips import (
    WORK_HW,
    DriveClip,
    check_clip,
    load_segmenter,
    read_clips,
    resize_clip,
)
from seg2vid_cli.training.data import Pair, to_tensor, wide_window
from seg2vid_cli.training.evaluate_motion import (
    HORIZONS,
    coherence_scores,
    latent_scores,
    motion_scores,
    sharpness_scores,
)
from seg2vid_cli.training.evaluate_translation import paint_labels, translation_scores
from seg2vid_cli.training.segmenter import count_confusion, segmentation_scores
from seg2vid_cli.training.sflow import as_rendered
from seg2vid_cli.visualize import contact_sheet

READ_WIDTH_PX = 512  # the reader sees real and painted pictures enlarged to this
FRECHET_SPLITS = 6
LATENT_PICTURES = 24
SHEET_MAPS = 12
SHEET_SEEDS = (0, 1)
SHEET_FRAMES = (0, 16)
# What the pictures are whose edges are given to weights that take some.
GUIDES: Mapping[str, Callable[[NDArray[np.uint8]], NDArray[np.uint8]]] = {
    "photographs": lambda picture: picture,
    "renderings": as_rendered,
}


def evaluate_bundle(
    weights: str,
    *,
    pairs: Sequence[Pair],
    sequence: Sequence[Pair],
    clips: Sequence[str],
    runs: Path,
    labels_by: str | None = None,
) -> dict[str, Any]:
    """All figures of the model card.

    Weights without motion are judged by their first frames and by what they make of a sequence of
    label maps. Weights that are guided by edges are judged without any, then with those of the real
    pictures, and once more with those of pictures without fine detail, as renderings are.

    Args:
        weights: Name or folder of a bundle.
        pairs: Labelled pictures that no training saw.
        sequence: Labelled pictures at 15 Hz, in order, that no training saw; may be empty.
        clips: Held-out driving clips, `VIDEO:FIRST-LAST`.
        runs: Folder with the trained segmenter: it reads pictures and labels clips.
        labels_by: Weights whose segmenter does so instead.
    """
    for text in clips:
        check_clip(text)
    if sequence and len(sequence) <= HORIZONS[-1]:
        raise InputError(
            f"--sequence: {len(sequence)} pictures are too few", hint=f"more than {HORIZONS[-1]}"
        )
    pipeline = Pipeline.open(weights)
    reader = load_segmenter(runs, labels_by)
    figures: dict[str, Any] = {"first_frame": first_frame_scores(pipeline, pairs, reader)}
    size = pipeline.bundle.size_hw
    if pipeline.guided:
        for kind, guide_by in GUIDES.items():
            figures[f"first_frame_of_{kind}"] = first_frame_scores(
                pipeline, pairs, reader, guide_by=guide_by
            )
    drive = _sequence_clip(sequence, size) if sequence else None
    if drive is not None:
        figures["translation"] = translation_scores(pipeline, drive)
        if pipeline.guided:
            for kind, guide_by in GUIDES.items():
                guides = np.stack([guide_by(frame) for frame in drive.frames])
                figures[f"translation_of_{kind}"] = translation_scores(
                    pipeline, drive, guides=guides
                )
    if "motion" not in pipeline.bundle.stages:
        return figures
    some = [wide_window(pairs[i], size) for i in _spread(len(pairs), LATENT_PICTURES)]
    figures["latents"] = latent_scores(pipeline, some)
    figures["long_clips"] = sharpness_scores(pipeline, some[::8])
    drives: list[DriveClip] = []
    strides: list[int] = []
    if clips:
        drives, strides = read_clips(clips, runs, size_hw=size, labels_by=labels_by)
    if drive is not None:
        drives.append(drive)
        strides.append(1)
    for drive, stride in zip(drives, strides, strict=True):
        figures[drive.name] = coherence_scores(pipeline, drive, stride)
        small = WORK_HW[1] * size[0] // size[1], WORK_HW[1]
        for height, width in sorted({small, size}):
            sized = resize_clip(drive, (height, width))
            figures[drive.name][f"at_{width}x{height}"] = motion_scores(pipeline, sized, stride)
    return figures


def sample_sheet(pipeline: Pipeline, pairs: Sequence[Pair]) -> Image.Image:
    """Clips of some label maps to look at: a map in every row, two seeds, two frames of each.

    Args:
        pipeline: With motion.
        pairs: Label maps to choose from.
    """
    frames, captions = [], []
    for row in _spread(len(pairs), SHEET_MAPS):
        ids = wide_window(pairs[row], pipeline.bundle.size_hw).train_ids
        labels = labels_from_array(ids, encoding="train-ids")
        for seed in SHEET_SEEDS:
            clip = pipeline.generate(labels, seed=seed, frames=SHEET_FRAMES[-1] + 1)
            shown = [moment.frame for moment in clip]
            frames += [shown[number] for number in SHEET_FRAMES]
            captions += [f"map {row + 1}, seed {seed}, frame {number}" for number in SHEET_FRAMES]
    columns = len(SHEET_SEEDS) * len(SHEET_FRAMES)
    return contact_sheet(frames, captions, columns=columns).reduce(2)


def _spread(count: int, wanted: int) -> list[int]:
    return sorted({int(i) for i in np.linspace(0, count - 1, min(wanted, count))})


def first_frame_scores(
    pipeline: Pipeline,
    pairs: Sequence[Pair],
    reader: SegmentationNetwork,
    *,
    guide_by: Callable[[NDArray[np.uint8]], NDArray[np.uint8]] | None = None,
) -> dict[str, Any]:
    """How well a segmentation network reads painted pictures, and how far they are from real ones.

    The reader was trained on real pictures only and takes no part in any loss of the generator.
    Real and painted pictures are shown to it at the same size. Figures are given for all pictures
    and for each drive, which is the part of a name before its first underscore. For weights that
    take edges, `guide_by` makes of a real picture the one whose edges are taken.
    """
    drives: dict[str, dict[str, NDArray[np.int64]]] = {}
    features: dict[str, list[NDArray[np.float64]]] = {"real": [], "painted": []}
    for index, pair in enumerate(wide_window(p, pipeline.bundle.size_hw) for p in pairs):
        drive = drives.setdefault(
            pair.name.split("_")[0],
            {kind: np.zeros((19, 19), np.int64) for kind in ("real", "painted")},
        )
        guide = None if guide_by is None else guide_by(pair.picture)
        painted = paint_labels(pipeline, pair.train_ids, guide=guide, seed=index)
        for kind, picture in (("real", pair.picture), ("painted", painted)):
            guess, seen = _read(reader, picture)
            drive[kind] += count_confusion(pair.train_ids, guess)
            features[kind].append(seen)
    whole = {k: sum(d[k] for d in drives.values()) for k in ("real", "painted")}
    return {
        "pictures": len(pairs),
        **_compare(whole),
        "drives": {name: _compare(counts) for name, counts in drives.items()},
        "frechet": _frechet_scores(np.stack(features["real"]), np.stack(features["painted"])),
    }


def _compare(confusion: dict[str, Any]) -> dict[str, Any]:
    scores = {kind: segmentation_scores(counts) for kind, counts in confusion.items()}
    share = {
        key: round(scores["painted"][key] / max(scores["real"][key], 1e-9), 3)
        for key in ("pixel_accuracy", "mean_iou")
    }
    return {**scores, "share_of_real": share}


@torch.inference_mode()
def _read(
    reader: SegmentationNetwork, picture: NDArray[np.uint8]
) -> tuple[NDArray[np.uint8], NDArray[np.float64]]:
    """Classes of a picture at its own size, and the reader's coarsest features, averaged."""
    height, width = picture.shape[:2]
    size = (height * READ_WIDTH_PX // width // 32 * 32, READ_WIDTH_PX)
    frame = F.interpolate(to_tensor([picture]), size=size, mode="bilinear", align_corners=False)
    seen = reader.encode(frame)
    scores = reader.decode(seen)
    small = F.interpolate(scores, size=(height, width), mode="bilinear", align_corners=False)
    return small.argmax(1)[0].byte().numpy(), seen[-1].mean((0, 2, 3)).double().numpy()


def _frechet_scores(real: NDArray[np.float64], painted: NDArray[np.float64]) -> dict[str, float]:
    """Distance of painted halves to the other real halves; the floor is real against real.

    Pictures of a drive look like their neighbours, so the floor of random halves is a low one.
    """
    rng = np.random.default_rng(0)
    floor, distance = [], []
    for _ in range(FRECHET_SPLITS):
        one, other = np.array_split(rng.permutation(len(real)), 2)
        floor.append(frechet_distance(real[one], real[other]))
        distance.append(frechet_distance(painted[one], real[other]))
    below, found = float(np.mean(floor)), float(np.mean(distance))
    return {
        "distance": round(found, 4),
        "floor": round(below, 4),
        "times_floor": round(found / max(below, 1e-12), 2),
    }


def frechet_distance(a: NDArray[np.float64], b: NDArray[np.float64]) -> float:
    """Frechet distance of two sets of features, each taken for a normal distribution.

    Args:
        a: `(N, D)`.
        b: `(M, D)`.
    """
    mean = float(((a.mean(0) - b.mean(0)) ** 2).sum())
    one, other = np.cov(a, rowvar=False), np.cov(b, rowvar=False)
    values, vectors = np.linalg.eigh(np.atleast_2d(one))
    root = (vectors * np.sqrt(values.clip(0))) @ vectors.T
    product = np.linalg.eigvalsh(root @ np.atleast_2d(other) @ root).clip(0)
    return mean + float(np.trace(np.atleast_2d(one + other)) - 2 * np.sqrt(product).sum())


def _sequence_clip(sequence: Sequence[Pair], size_hw: tuple[int, int]) -> DriveClip:
    pairs = [wide_window(pair, size_hw) for pair in sequence]
    return DriveClip(
        name=f"{pairs[0].name} to {pairs[-1].name}",
        frames=np.stack([p.picture for p in pairs]),
        train_ids=np.stack([p.train_ids for p in pairs]),
    )
