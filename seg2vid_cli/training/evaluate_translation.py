"""Measure how frames that are painted one by one hang together, on a labelled clip."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import cv2
import numpy as np
import torch
from numpy.typing import NDArray

from seg2vid_cli.edges import Guide
from seg2vid_cli.labels import labels_from_array
from seg2vid_cli.pipeline import Pipeline
from seg2vid_cli.training.clips import DriveClip, classical_flow
from seg2vid_cli.training.data import to_tensor
from seg2vid_cli.training.evaluate_motion import mean_gradient
from seg2vid_cli.training.sflow import SAME
from seg2vid_cli.warp import backward_warp


def translation_scores(
    pipeline: Pipeline,
    clip: DriveClip,
    *,
    guides: NDArray[np.uint8] | None = None,
    seed: int = 0,
) -> dict[str, Any]:
    """Paint every frame of a labelled clip by itself, and compare what moves with the real clip.

    Both errors are taken where two real frames show the same, after warping along the classical
    flow between them: `warping_error` is the mean difference of colours in [0, 1] when the former
    painted frame is warped along that flow to the later one; `flow_error_px` how far the classical
    flow between the painted frames is from that between the real ones. Blur lowers both, so
    `sharpness_of_real` stands beside them: the mean gradient as a share of the real frames'.

    Args:
        pipeline: Opened weights.
        clip: Labelled frames one step apart, at the working size.
        guides: uint8 `(N, H, W, 3)` whose edges guide the painting, for weights that take edges.
        seed: Decides the look of all frames.
    """
    dis = cv2.DISOpticalFlow_create(cv2.DISOPTICAL_FLOW_PRESET_MEDIUM)
    painted = [
        paint_labels(
            pipeline, ids, guide=None if guides is None else guides[t], seed=seed, various=False
        )
        for t, ids in enumerate(clip.train_ids)
    ]
    warping: list[float] = []
    warping_real: list[float] = []
    flows: list[float] = []
    for t in range(1, len(painted)):
        real_flow = _flow(clip.frames[t], clip.frames[t - 1], dis)
        inside = backward_warp(torch.ones(1, 1, *real_flow.shape[-2:]), real_flow)[0, 0] > 0.99
        real_gap = _gap(clip.frames[t - 1], clip.frames[t], real_flow)
        same = inside & (real_gap < SAME)
        warping.append(float(_gap(painted[t - 1], painted[t], real_flow)[same].mean()))
        warping_real.append(float(real_gap[same].mean()))
        apart = (_flow(painted[t], painted[t - 1], dis) - real_flow)[0].norm(dim=0)
        flows.append(float(apart[same].mean()))
    sharp, sharp_real = (
        float(np.mean([mean_gradient(frame) for frame in frames]))
        for frames in (painted, clip.frames)
    )
    return {
        "frames": len(painted),
        "warping_error": round(float(np.mean(warping)), 4),
        "warping_error_real": round(float(np.mean(warping_real)), 4),
        "flow_error_px": round(float(np.mean(flows)), 3),
        "sharpness_of_real": round(sharp / sharp_real, 3),
    }


def paint_labels(
    pipeline: Pipeline,
    train_ids: NDArray[np.uint8],
    *,
    guide: NDArray[np.uint8] | None,
    seed: int,
    various: bool = True,
) -> NDArray[np.uint8]:
    """Paint a label map at its own size: uint8 `(H, W, 3)`.

    Args:
        pipeline: Opened weights.
        train_ids: uint8 `(H, W)`.
        guide: uint8 `(H, W, 3)` whose edges guide the painting, for weights that take edges.
        seed: Decides the look.
        various: Whether places of one class differ in colour; not where frames follow each other.
    """
    labels = labels_from_array(train_ids, encoding="train-ids")
    size = labels.size_hw
    edges = None
    if guide is not None and pipeline.guided:
        source = Guide(path=Path(), kind="picture", reason="", pixels=guide)
        edges = source.edges(size, pipeline.edge_threshold)
    clip = pipeline.generate(
        labels,
        seed=seed,
        frames=1,
        size_hw=size,
        fit="stretch",
        edges=edges,
        various=various,
    )
    return next(iter(clip)).frame


def _flow(
    source: NDArray[np.uint8], target: NDArray[np.uint8], dis: cv2.DISOpticalFlow
) -> torch.Tensor:
    grey = [cv2.cvtColor(frame, cv2.COLOR_RGB2GRAY) for frame in (source, target)]
    return torch.from_numpy(classical_flow(grey[0], grey[1], dis))[None]


def _gap(
    former: NDArray[np.uint8], later: NDArray[np.uint8], flow_px: torch.Tensor
) -> torch.Tensor:
    """Mean difference of colours at every pixel, `(H, W)`."""
    warped = backward_warp(to_tensor([former]), flow_px)
    return (warped - to_tensor([later])).abs().mean(1)[0]
