"""Driving clips for motion: frames, machine-made labels and a classical flow as teacher."""

from __future__ import annotations

import os
import re
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, replace
from itertools import islice
from pathlib import Path
from typing import Any, cast

import cv2
import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn
from torch.nn import functional as F

from seg2vid_cli.errors import InputError, Seg2VidError
from seg2vid_cli.networks.segmenter import SegmentationNetwork
from seg2vid_cli.sketch import ROAD
from seg2vid_cli.training import data
from seg2vid_cli.training.loop import load_trained
from seg2vid_cli.training.segmenter import SegmenterTask, build_segmenter, label_frames
from seg2vid_cli.video import probe_video, read_frames
from seg2vid_cli.warp import backward_warp
from seg2vid_cli.weights.load import open_bundle

WORK_HW = (128, 256)
FPS = 15.0
NUM_FRAMES = 8
ZOOMED = 0.5  # of the clips with a teacher
ZOOM = (0.6, 1.0)  # share of the frame


@dataclass(frozen=True, kw_only=True)
class DriveClip:
    """Consecutive driving frames with machine-made label maps.

    Args:
        name: File name.
        frames: uint8 `(N, H, W, 3)`, already at the working size and step.
        train_ids: uint8 `(N, H, W)`.
    """

    name: str
    frames: NDArray[np.uint8]
    train_ids: NDArray[np.uint8]


@dataclass(frozen=True, kw_only=True)
class MotionBatch(data.Tensors):
    """Some short clips.

    Args:
        frames: `(B, T + 1, 3, H, W)` in [0, 1], the first frame in front.
        planes: `(B, 20, H, W)` label planes of the first frame.
        flow_px: `(B, T, 2, H/2, W/2)`, means of two by two pixels at full size: where the first
            frame's pixels are in frame t, as a teacher sees it. `(B, T, 2, 0, 0)` without one.
        known: `(B, T, 1, H/2, W/2)`, 1 where the teacher can be believed.
    """

    frames: Tensor
    planes: Tensor
    flow_px: Tensor
    known: Tensor


def read_clip(
    path: Path,
    segmenter: nn.Module,
    *,
    size_hw: tuple[int, int],
    first: int = 0,
    last: int | None = None,
    step: int = 1,
) -> DriveClip:
    """Decode frames `first` to `last` of a video, label them at the video's own size, scale down.

    Args:
        path: An MP4; width and height multiples of 32.
        segmenter: Names the class of every pixel.
        size_hw: Working size.
        first: First frame.
        last: One past the last frame; all of them otherwise.
        step: Keep every `step`-th frame; `first` and `last` count all of them.
    """
    full = np.stack(list(islice(read_frames(path), first, last, step)))
    clip = DriveClip(name=path.name, frames=full, train_ids=label_frames(segmenter, full))
    return resize_clip(clip, size_hw)


def read_glimpses(text: str) -> list[NDArray[np.uint8]]:
    """About one frame of every second of a clip, see `parse_clip`: uint8 `(H, W, 3)` each."""
    path, first, last = parse_clip(text)
    every = max(1, round(probe_video(path).fps))
    return list(islice(read_frames(path), first, last, every))


def resize_clip(clip: DriveClip, size_hw: tuple[int, int]) -> DriveClip:
    """Bring a clip to another size."""
    size, (height, width) = size_hw[::-1], clip.train_ids.shape[1:]
    # An area filter enlarges by repeating pixels, which networks learn to paint.
    larger = size_hw[0] > height or size_hw[1] > width
    how = cv2.INTER_CUBIC if larger else cv2.INTER_AREA
    frames = np.stack([cv2.resize(f, size, interpolation=how) for f in clip.frames])
    ids = np.stack([cv2.resize(i, size, interpolation=cv2.INTER_NEAREST) for i in clip.train_ids])
    return replace(clip, frames=frames, train_ids=ids)


def parse_clip(text: str) -> tuple[Path, int, int | None]:
    """`VIDEO` or `VIDEO:FIRST-LAST` to path and frames.

    Raises:
        InputError: No such file.
    """
    match = re.fullmatch(r"(.+?)(?::(\d+)-(\d+))?", text)
    assert match is not None
    path = Path(match[1])
    if not path.is_file():
        raise InputError(f"{path}: there is no such clip", hint="give VIDEO or VIDEO:FIRST-LAST")
    return path, int(match[2] or 0), int(match[3]) if match[3] else None


def check_clip(text: str) -> None:
    """Make sure that a clip can be read and is long enough for one start.

    Raises:
        InputError: It cannot, or is not.
    """
    path, first, last = parse_clip(text)
    try:
        info = probe_video(path)
    except Seg2VidError as error:
        raise InputError(error.message, hint=error.hint) from error
    if any(side % 32 for side in info.size_hw):
        raise InputError(
            f"{path}: {info.size_hw[1]}x{info.size_hw[0]}, sides must be multiples of 32",
            hint="scale the clip first: ffmpeg -i IN -vf scale=512:256 OUT",
        )
    count = (info.frames if last is None else min(last, info.frames)) - first
    needed = NUM_FRAMES * clip_stride(info.fps) + 1
    if count < needed:
        raise InputError(
            f"{text}: {max(count, 0)} frames are too few", hint=f"at least {needed} are needed"
        )


def clip_stride(fps: float) -> int:
    """Frames of a clip that make one step of about 1/15 s."""
    return max(1, round(fps / FPS))


def load_segmenter(runs: Path, weights: str | None = None) -> SegmentationNetwork:
    """The segmentation network trained in a folder of runs, or that of some weights.

    Args:
        runs: Folder of the runs.
        weights: Name or folder of a bundle to take it from instead, such as `street-labels`.

    Raises:
        InputError: There is none.
    """
    if weights is not None:
        bundle = open_bundle(weights)
        bundle.require("segmenter")
        return cast(SegmentationNetwork, bundle.network("segmenter")).eval()
    state = load_trained(runs, SegmenterTask.name, what="segmenter", command="segmenter")
    network = build_segmenter(state["config"])
    network.load_state_dict(state["average"])
    return network.eval()


def read_clips(
    texts: Sequence[str],
    runs: Path,
    *,
    size_hw: tuple[int, int] = WORK_HW,
    device: str = "cpu",
    thin: bool = False,
    labels_by: str | None = None,
) -> tuple[list[DriveClip], list[int]]:
    """Read and label clips.

    Args:
        texts: `VIDEO` or `VIDEO:FIRST-LAST`, see `parse_clip`.
        runs: Folder with a trained segmenter.
        size_hw: Working size.
        device: Where the segmenter runs.
        thin: Keep only frames that are one step apart.
        labels_by: Weights that label them, instead of the segmenter in `runs`.

    Returns:
        The clips, named as in `texts`, and for each how many of its frames make one step of
        about 1/15 s.
    """
    for text in texts:
        check_clip(text)
    segmenter = load_segmenter(runs, labels_by).to(device)
    clips, strides = [], []
    for text in texts:
        path, first, last = parse_clip(text)
        stride = clip_stride(probe_video(path).fps)
        clip = read_clip(
            path, segmenter, size_hw=size_hw, first=first, last=last, step=stride if thin else 1
        )
        clips.append(replace(clip, name=text.rpartition("/")[2]))
        strides.append(1 if thin else stride)
    return clips, strides


def classical_flow(
    source: NDArray[np.uint8], target: NDArray[np.uint8], estimator: cv2.DISOpticalFlow
) -> NDArray[np.float32]:
    """DIS flow between two grey pictures `(H, W)`: where `source` pixels are in `target`.

    Returns:
        float32 `(2, H, W)` in pixels.
    """
    flow: NDArray[np.float32] = estimator.calc(source, target, None)
    return np.ascontiguousarray(flow.transpose(2, 0, 1))


def ask_classical(frames: NDArray[np.uint8]) -> NDArray[np.float16]:
    """Flows of a clip as a teacher gives them.

    Args:
        frames: `(T + 1, H, W, 3)`.

    Returns:
        `(T, 3, H/2, W/2)`, means of two by two pixels: where the first frame's pixels are in frame
        t, right and down in pixels, and 1 where the flow from there leads back.
    """
    estimator = cv2.DISOpticalFlow_create(cv2.DISOPTICAL_FLOW_PRESET_MEDIUM)
    first, *later = (cv2.cvtColor(frame, cv2.COLOR_RGB2GRAY) for frame in frames)
    there, back = (
        F.avg_pool2d(torch.from_numpy(np.stack([classical_flow(*p, estimator) for p in pairs])), 2)
        for pairs in ([(first, grey) for grey in later], [(grey, first) for grey in later])
    )
    return torch.cat([there, agreement(there / 2, back / 2)], dim=1).numpy().astype(np.float16)


def _not_road(train_ids: NDArray[np.uint8]) -> NDArray[np.bool_]:
    """False where cells of two by two pixels have road in them, `(H/2, W/2)`.

    A classical flow sees plain road stand still, and lane marks, which run along the way; its two
    directions agree about that.
    """
    height, width = train_ids.shape
    cells = train_ids.reshape(height // 2, 2, width // 2, 2)
    out: NDArray[np.bool_] = (cells != ROAD).all((1, 3))
    return out


def agreement(flow: Tensor, back: Tensor) -> Tensor:
    """1 where two opposite flows agree within half a pixel and a tenth.

    Args:
        flow: `(N, 2, H, W)` in pixels.
        back: The same with the roles of the two frames exchanged.

    Returns:
        `(N, 1, H, W)`.
    """
    gap = flow + backward_warp(back, flow)
    inside = backward_warp(torch.ones_like(gap[:, :1]), flow) > 0.99
    size, apart = (v.square().sum(1, keepdim=True).sqrt() for v in (flow, gap))
    return ((apart < 0.5 + 0.1 * size) & inside).float()


class MotionClips:
    """Short clips cut from drives, every start once with its teacher flows, not believed on road.

    Args:
        clips: The drives.
        strides: Frames of each drive to step for one predicted frame.
        num_frames: T.
        every: Use each `every`-th frame as a start.
        taught: Whether to ask the teacher; its flows have no pixels otherwise.
    """

    def __init__(
        self,
        clips: Sequence[DriveClip],
        *,
        strides: Sequence[int],
        num_frames: int,
        every: int = 1,
        taught: bool = True,
    ) -> None:
        self.clips, self.strides, self.num_frames = clips, strides, num_frames
        self.starts = [
            (c, s)
            for c, (clip, stride) in enumerate(zip(clips, strides, strict=True))
            for s in range(0, len(clip.frames) - stride * num_frames, every)
        ]
        height, width = clips[0].frames.shape[1:3] if taught else (0, 0)
        shape = (len(self.starts), num_frames, 3, height // 2, width // 2)
        self.teacher = np.empty(shape, np.float16)
        if not taught:
            return

        def ask_teacher(row: int) -> None:
            c, s = self.starts[row]
            stop = s + strides[c] * num_frames + 1
            self.teacher[row] = ask_classical(clips[c].frames[s : stop : strides[c]])
            self.teacher[row, :, 2] *= _not_road(clips[c].train_ids[s])

        with ThreadPoolExecutor(os.cpu_count()) as workers:  # OpenCV lets go of the lock
            list(workers.map(ask_teacher, range(len(self.starts))))

    def batch(self, rng: np.random.Generator, size: int) -> MotionBatch:
        """Draw clips at random: zoomed, flipped, recoloured, with look-alike classes exchanged."""
        return collate(
            [self.draw(int(row), rng) for row in rng.integers(len(self.starts), size=size)]
        )

    def spread(self, count: int) -> list[int]:
        """Evenly spaced rows for `draw`."""
        return [int(row) for row in np.linspace(0, len(self.starts) - 1, count)]

    def draw(self, row: int, rng: np.random.Generator | None) -> tuple[NDArray[Any], ...]:
        """One clip: frames `(T + 1, H, W, 3)`, labels `(H, W)`, teacher `(T, 3, H/2, W/2)`, or
        `(T, 3, 0, 0)` without one.
        """
        c, s = self.starts[row]
        stop = s + self.strides[c] * self.num_frames + 1
        frames = self.clips[c].frames[s : stop : self.strides[c]]
        ids, teacher = self.clips[c].train_ids[s], self.teacher[row]
        if rng is None:
            return frames, ids, teacher
        if teacher.size and rng.random() < ZOOMED:
            frames, ids, teacher = zoom_clip(frames, ids, teacher, rng)
        return vary_clip(frames, ids, teacher, rng)


def collate(samples: Sequence[tuple[NDArray[Any], ...]]) -> MotionBatch:
    """Stack what `MotionClips.draw` or `MovedStills.draw` gives."""
    frames, ids, teacher = zip(*samples, strict=True)
    flows = torch.from_numpy(np.stack(teacher)).float()
    return MotionBatch(
        frames=torch.from_numpy(np.stack(frames)).permute(0, 1, 4, 2, 3).float() / 255,
        planes=data.to_planes(ids),
        flow_px=flows[:, :, :2],
        known=flows[:, :, 2:],
    )


def vary_clip(
    frames: NDArray[np.uint8],
    train_ids: NDArray[np.uint8],
    teacher: NDArray[np.float16],
    rng: np.random.Generator,
) -> tuple[NDArray[np.uint8], NDArray[np.uint8], NDArray[np.float16]]:
    """Recolour all frames alike, exchange look-alike classes, and mirror half of the clips.

    Shapes are as for `zoom_clip`.
    """
    train_ids = data.diversify_classes(train_ids, rng)
    rows = data.jitter_colours(frames.reshape(-1, *frames.shape[2:]), rng, 0.6)
    frames = rows.reshape(frames.shape)
    mirrored = rng.random() < 0.5
    return mirror_clip(frames, train_ids, teacher) if mirrored else (frames, train_ids, teacher)


def mirror_clip(
    frames: NDArray[np.uint8], train_ids: NDArray[np.uint8], teacher: NDArray[np.float16]
) -> tuple[NDArray[np.uint8], NDArray[np.uint8], NDArray[np.float16]]:
    """Exchange left and right; shapes as for `zoom_clip`."""
    sign = np.array([-1, 1, 1], np.float16)[:, None, None]
    return frames[:, :, ::-1], train_ids[:, ::-1], teacher[..., ::-1] * sign


def draw_part(size_hw: tuple[int, int], rng: np.random.Generator) -> tuple[int, int, int, int]:
    """Choose a part of a frame to enlarge: its top, left, height and width in pixels."""
    height, width = size_hw
    share = rng.uniform(*ZOOM)
    part_h, part_w = round(height * share), round(width * share)
    y, x = (int(rng.integers(n - part + 1)) for n, part in ((height, part_h), (width, part_w)))
    return y, x, part_h, part_w


def zoom_clip(
    frames: NDArray[np.uint8],
    train_ids: NDArray[np.uint8],
    teacher: NDArray[np.float16],
    rng: np.random.Generator,
) -> tuple[NDArray[np.uint8], NDArray[np.uint8], NDArray[np.float16]]:
    """Cut out a part and enlarge it: other cameras have their horizon elsewhere.

    Args:
        frames: `(T + 1, H, W, 3)`.
        train_ids: `(H, W)`.
        teacher: `(T, 3, H/2, W/2)`, see `ask_classical`.
        rng: Source of place and size.
    """
    height, width = teacher.shape[-2:]
    y, x, part_h, part_w = draw_part((height, width), rng)
    full = np.s_[2 * y : 2 * (y + part_h), 2 * x : 2 * (x + part_w)]
    size = (2 * width, 2 * height)
    part = teacher[..., y : y + part_h, x : x + part_w].transpose(0, 2, 3, 1).astype(np.float32)
    larger = np.stack([cv2.resize(flow, (width, height)) for flow in part]).transpose(0, 3, 1, 2)
    larger[:, 0] *= width / part_w
    larger[:, 1] *= height / part_h
    larger[:, 2] = larger[:, 2] > 0.99
    return (
        np.stack([cv2.resize(frame[full], size) for frame in frames]),
        cv2.resize(np.ascontiguousarray(train_ids[full]), size, interpolation=cv2.INTER_NEAREST),
        larger.astype(np.float16),
    )
