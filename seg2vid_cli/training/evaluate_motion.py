"""Measure motion on data that no training saw: against real clips, and by itself."""

from __future__ import annotations

import time
from collections.abc import Sequence
from itertools import pairwise
from typing import Any

import cv2
import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor
from torch.nn import functional as F

from seg2vid_cli.label_sets import NUM_BACKGROUND, UNLABELLED
from seg2vid_cli.labels import labels_from_array
from seg2vid_cli.motion import Motion, predict_motion, sample_latents
from seg2vid_cli.pipeline import Pipeline
from seg2vid_cli.sample import Sample
from seg2vid_cli.training.clips import DriveClip, classical_flow
from seg2vid_cli.training.data import Pair, to_planes, to_tensor
from seg2vid_cli.training.losses import dissimilarity
from seg2vid_cli.warp import backward_warp

HORIZONS = (1, 2, 4, 8)
SAMPLES = 20
STARTS_PER_CLIP = 10
LONG_CLIP = 49
LATENTS_PER_PICTURE = 6
AGREE_PX = 1.0
COMPARED_WIDTH_PX = 256


def motion_scores(pipeline: Pipeline, clip: DriveClip, stride: int) -> dict[str, Any]:
    """PSNR and SSIM of sampled futures, between repeating and a classical flow that saw the answer.

    For each of some evenly spaced starts, 20 samples, variants of one seed, are compared with the
    real next frames, at 256x128; `best` is the best of them at each horizon, `mean` their mean.
    """
    furthest = HORIZONS[-1] * stride
    starts = np.linspace(0, len(clip.frames) - furthest - 1, STARTS_PER_CLIP).astype(int)
    dis = cv2.DISOpticalFlow_create(cv2.DISOPTICAL_FLOW_PRESET_MEDIUM)
    rows: dict[str, list[list[float]]] = {k: [] for k in ("repeat", "best", "mean", "dis", "ssim")}
    spread, began = [], time.monotonic()
    for seed, start in enumerate(starts):
        first, ids = clip.frames[start], clip.train_ids[start]
        real = _compared([clip.frames[start + h * stride] for h in HORIZONS])
        grey = [
            cv2.cvtColor(clip.frames[start + h * stride], cv2.COLOR_RGB2GRAY)
            for h in (0, *HORIZONS)
        ]
        answer = torch.cat(
            [
                backward_warp(
                    to_tensor([first]), torch.from_numpy(classical_flow(g, grey[0], dis))[None]
                )
                for g in grey[1:]
            ]
        )
        futures = (_continue(pipeline, first, ids, seed, variant) for variant in range(SAMPLES))
        samples = torch.stack([_compared([f[h] for h in HORIZONS]) for f in futures])
        scores = np.array([_psnr(sample, real) for sample in samples])
        similar = np.array([1 - _dssim(sample, real) for sample in samples])
        rows["repeat"].append(_psnr(_compared([first]).expand_as(real), real))
        rows["dis"].append(_psnr(_shrunk(answer), real))
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


def coherence_scores(pipeline: Pipeline, clip: DriveClip, stride: int) -> dict[str, Any]:
    """Warping error between consecutive frames, sampled and real, along a classical flow.

    Blurred or slow frames have a low one too, so lower than the real clip's is not better.
    """
    count = HORIZONS[-1]
    starts = np.linspace(0, len(clip.frames) - count * stride - 1, STARTS_PER_CLIP).astype(int)
    made, real = [], []
    for start in starts:
        frames = _continue(pipeline, clip.frames[start], clip.train_ids[start], seed=int(start))
        made.append(_warping_error(frames))
        real.append(_warping_error(list(clip.frames[start : start + count * stride + 1 : stride])))
    return {
        "warping_error": round(float(np.mean(made)), 4),
        "warping_error_real": round(float(np.mean(real)), 4),
    }


def latent_scores(pipeline: Pipeline, pairs: Sequence[Pair]) -> dict[str, Any]:
    """What each half of the latent moves, and whether the two directions of flow agree.

    Flows are those of the last frame of a pass. Of some samples that differ in one half of the
    latent only, the standard deviation of the flow is taken at every pixel, and averaged inside and
    outside object classes: where an object is seen in that frame in one of the samples at least,
    and elsewhere.
    """
    moved: dict[str, list[tuple[float, float]]] = {"background": [], "foreground": []}
    agree = []
    for index, pair in enumerate(pairs):
        objects = torch.from_numpy(
            (pair.train_ids >= NUM_BACKGROUND) & (pair.train_ids < UNLABELLED)
        ).float()
        if not 0.01 < float(objects.mean()) < 0.99:
            continue
        for half, shares in moved.items():
            flows, inside = [], torch.zeros_like(objects, dtype=torch.bool)
            for variant in range(LATENTS_PER_PICTURE):
                motion = _predict(pipeline, pair, Sample(seed=index, variants={half: variant}))
                flows.append(motion.flow_px[-1])
                there = backward_warp(objects[None, None], motion.flow_px[-1:])
                inside |= (there[0, 0] > 0) & (motion.visibility[-1] > 0)
                if half == "background":
                    assert motion.forward_flow_px is not None
                    gap = motion.flow_px[-1:] + backward_warp(
                        motion.forward_flow_px[-1:], motion.flow_px[-1:]
                    )
                    seen = motion.visibility[-1] > 0.5
                    agree.append(float((gap.norm(dim=1)[0] < AGREE_PX)[seen].float().mean()))
            if inside.all() or not inside.any():
                continue  # all of it, or nothing, is seen of objects by then
            spread = torch.stack(flows).std(0).norm(dim=0)
            shares.append((float(spread[inside].mean()), float(spread[~inside].mean())))
    (bg_in, bg_out), (fg_in, fg_out) = (
        np.array(shares or [(np.nan, np.nan)]).mean(0) for shares in moved.values()
    )
    return {
        "pictures_with_objects": len(moved["background"]),
        "flow_px_by_foreground_latent": {"objects": round(fg_in, 3), "elsewhere": round(fg_out, 3)},
        "flow_px_by_background_latent": {"objects": round(bg_in, 3), "elsewhere": round(bg_out, 3)},
        "foreground_ratio": round(float(fg_in / max(fg_out, 1e-9)), 2),
        "background_ratio": round(float(bg_out / max(bg_in, 1e-9)), 2),
        "forward_and_backward_flow_agree": round(float(np.mean(agree or [np.nan])), 3),
    }


def sharpness_scores(pipeline: Pipeline, pairs: Sequence[Pair]) -> dict[str, Any]:
    """Mean gradient of later frames as a share of frame 1's, and jumps where a pass begins."""
    shares, jumps = [], []
    every = pipeline.motion.config.num_frames
    for index, pair in enumerate(pairs):
        labels = labels_from_array(pair.train_ids, encoding="train-ids")
        frames = [f.frame for f in pipeline.generate(labels, seed=index, frames=LONG_CLIP)]
        sharp = [mean_gradient(frame) for frame in frames]
        shares.append([sharp[i] / sharp[1] for i in (8, 16, 24, LONG_CLIP - 1)])
        change = np.array([np.abs(b.astype(np.float32) - a).mean() for a, b in pairwise(frames)])
        begins = np.arange(len(change)) % every == 0
        begins[0] = False
        others = ~begins
        others[:every] = False
        jumps.append(float(change[begins].mean() / change[others].mean()))
    return {
        "frames": [8, 16, 24, LONG_CLIP - 1],
        "sharpness_of_frame_1": [round(float(v), 3) for v in np.mean(shares, axis=0)],
        "change_where_a_pass_begins": round(float(np.mean(jumps)), 3),
    }


def _continue(
    pipeline: Pipeline,
    first: NDArray[np.uint8],
    train_ids: NDArray[np.uint8],
    seed: int,
    variant: int = 0,
) -> list[NDArray[np.uint8]]:
    """One sampled future of a real frame, as the command would make it, the frame in front."""
    height, width = train_ids.shape
    clip = pipeline.generate(
        labels_from_array(train_ids, encoding="train-ids"),
        seed=seed,
        variant=variant,
        frames=HORIZONS[-1] + 1,
        size_hw=(height, width),
        fit="stretch",
        picture=first,
    )
    return [moment.frame for moment in clip]


def _predict(pipeline: Pipeline, pair: Pair, sample: Sample) -> Motion:
    device, config = pipeline.compute.device, pipeline.motion.config
    height, width = pair.train_ids.shape
    options = pipeline.bundle.stages["motion"].options
    camera = None
    if options.get("objects_apart", False):
        camera = sample_latents(config, sample, camera_only=True)
    (motion,) = predict_motion(
        pipeline.motion,
        to_tensor([pair.picture]).to(device),
        to_planes([pair.train_ids]).to(device),
        sample_latents(config, sample),
        downscale=pipeline.motion_downscale((height, width)),
        compute=pipeline.compute,
        camera_latents=camera,
    )
    assert motion.forward_flow_px is not None
    return Motion(
        flow_px=motion.flow_px.cpu(),
        forward_flow_px=motion.forward_flow_px.cpu(),
        visibility=motion.visibility.cpu(),
    )


def _warping_error(frames: Sequence[NDArray[np.uint8]]) -> float:
    """Mean absolute difference of colours in [0, 1] after warping each frame to the next."""
    dis = cv2.DISOpticalFlow_create(cv2.DISOPTICAL_FLOW_PRESET_MEDIUM)
    grey = [cv2.cvtColor(frame, cv2.COLOR_RGB2GRAY) for frame in frames]
    errors = []
    for t in range(1, len(frames)):
        flow = torch.from_numpy(classical_flow(grey[t], grey[t - 1], dis))[None]
        before, after = to_tensor([frames[t - 1]]), to_tensor([frames[t]])
        inside = backward_warp(torch.ones_like(before[:, :1]), flow) > 0.99
        gap = (backward_warp(before, flow) - after).abs().mean(1, keepdim=True)
        errors.append(float(gap[inside].mean()))
    return float(np.mean(errors))


def mean_gradient(frame: NDArray[np.uint8]) -> float:
    """Mean size of the steps between neighbours, both ways, in grey values; `(H, W, 3)`."""
    grey = frame.astype(np.float32).mean(-1)
    return float(np.abs(np.diff(grey, axis=0)).mean() + np.abs(np.diff(grey, axis=1)).mean())


def _compared(frames: Sequence[NDArray[np.uint8]]) -> Tensor:
    return _shrunk(to_tensor(list(frames)))


def _shrunk(frames: Tensor) -> Tensor:
    """Larger frames to the size that figures are given at."""
    factor = max(1, frames.shape[-1] // COMPARED_WIDTH_PX)
    return F.avg_pool2d(frames, factor) if factor > 1 else frames


def _psnr(a: Tensor, b: Tensor) -> list[float]:
    return [float(v) for v in -10 * torch.log10(((a - b) ** 2).mean((1, 2, 3)).clamp_min(1e-10))]


def _dssim(a: Tensor, b: Tensor) -> NDArray[np.float64]:
    """Mean of 1 - SSIM per picture, from the training's dissimilarity."""
    l1 = (a - b).abs().mean((1, 2, 3))
    mixed = dissimilarity(a, b).mean((1, 2, 3))
    dssim: NDArray[np.float64] = ((mixed - 0.15 * l1) / 0.85 * 2).double().numpy()
    return dssim
