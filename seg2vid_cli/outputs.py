"""A clip to files: the video, and on request frames, flows, visibility, a panel and a preview."""

from __future__ import annotations

import hashlib
import json
import time
from collections.abc import Callable
from contextlib import ExitStack
from dataclasses import dataclass, fields, replace
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray
from PIL import Image

from seg2vid_cli.errors import InputError
from seg2vid_cli.first_frame import picture_size, read_picture
from seg2vid_cli.label_view import colour_picture
from seg2vid_cli.labels import LabelMap, blank_labels, read_labels
from seg2vid_cli.pipeline import Clip, ClipFrame, Fit, Pipeline, Progress, plan_size
from seg2vid_cli.video import (
    FRAME_PATTERN,
    FolderWriter,
    VideoWriter,
    check_folder,
    check_output,
    open_folder,
    open_video,
)
from seg2vid_cli.visualize import (
    choose_frames,
    compose_panel,
    contact_sheet,
    encode_flo,
    encode_png,
    flow_to_colour,
    visibility_to_grey,
    write_png,
)

PREVIEW_FRAMES = 11  # and the label map in front: three rows of four
PREVIEW_COLUMNS = 4
FLOW_FULL_COLOUR = (
    0.06  # of the width: motion from the source frame that is painted at full strength
)
FLOW_PATTERNS = tuple(
    f"{name}_%05d.{end}" for name in ("backward", "forward") for end in ("flo", "png")
)
VISIBILITY_PATTERN = "visibility_%05d.png"


@dataclass(frozen=True, kw_only=True)
class Outputs:
    """Files to write.

    Args:
        video: `.mp4`, `.gif` or `.webp`.
        frames: Folder for PNG frames.
        flow: Folder for `.flo` files and colour-wheel PNGs, in both directions.
        visibility: Folder for 8-bit PNGs, white = visible in the source frame.
        panel: Video of label map, first frame, flow, visibility and result side by side.
        preview: PNG contact sheet.
    """

    video: Path
    frames: Path | None = None
    flow: Path | None = None
    visibility: Path | None = None
    panel: Path | None = None
    preview: Path | None = None

    def check(self, *, inputs: tuple[Path, ...] = ()) -> None:
        """Find out before any work whether everything can be written.

        Args:
            inputs: Files that must not be overwritten.

        Raises:
            InputError: A path that cannot be written, or named twice, or an input.
        """
        taken = {path.resolve(): "an input" for path in inputs}
        for field in fields(self):
            path: Path | None = getattr(self, field.name)
            if path is None:
                continue
            if path.resolve() in taken:
                raise InputError(
                    f"{path}: is also {taken[path.resolve()]}", hint="give every file its own name"
                )
            taken[path.resolve()] = f"the {field.name} output"
            if field.name in {"video", "panel"}:
                check_output(path)
            elif field.name == "preview":
                check_output(path, extensions=(".png",))
            else:
                check_folder(path)
                for input_path in inputs:
                    if input_path.resolve().parent == path.resolve():
                        raise InputError(
                            f"{input_path}: lies in {path}, where files are replaced",
                            hint="name another folder to write into",
                        )


@dataclass(frozen=True, kw_only=True)
class Report:
    """What `generate_file` did.

    Args:
        clip: The clip, with its recipe.
        labels: The label map as read.
        outputs: What was written.
        seconds: Wall time from label map to finished files.
    """

    clip: Clip
    labels: LabelMap
    outputs: Outputs
    seconds: float

    def to_dict(self) -> dict[str, Any]:
        """As plain values, for `--json`."""
        recipe = self.clip.recipe.to_dict()
        del recipe["labels_png"]
        paths = {f.name: getattr(self.outputs, f.name) for f in fields(self.outputs)}
        return {
            "outputs": {name: str(path) for name, path in paths.items() if path},
            "labels": {
                "file": str(self.labels.path) if self.labels.path else None,
                "encoding": self.labels.encoding,
                "reason": self.labels.reason,
                "alternatives": list(self.labels.alternatives),
                "doubtful": self.labels.doubtful,
            },
            "recipe": recipe,
            "seconds": round(self.seconds, 3),
        }


def generate_file(
    labels: LabelMap | str | Path | None,
    video: str | Path,
    *,
    pipeline: Pipeline | None = None,
    outputs: Outputs | None = None,
    first_frame: str | Path | None = None,
    progress: Progress = lambda stage, done, total: None,
    **settings: Any,
) -> Report:
    """Make a clip from a label map and write it: what `seg2vid generate` does.

    Args:
        labels: A label map or its file; None for weights that read no labels, with `first_frame`.
        video: `.mp4`, `.gif` or `.webp`.
        pipeline: Opened weights; the embedded ones if not given.
        outputs: More files to write; its `video` is replaced by `video`.
        first_frame: A picture to start from instead of painting.
        progress: Called with stage, steps done and steps in all.
        **settings: `seed`, `variant`, `frames`, `fps`, `quality`, `size_hw`, `fit`; see
            `Pipeline.generate`.

    Raises:
        InputError: Something given cannot be used; nothing has been written.
        VideoError: A file could not be written; see `write_clip`.
    """
    start = time.monotonic()
    wanted = replace(outputs or Outputs(video=Path(video)), video=Path(video))
    picture_path = None if first_frame is None else Path(first_frame)
    if labels is not None and not isinstance(labels, LabelMap):
        labels = read_labels(labels)
    inputs = [labels.path] if labels is not None and labels.path else []
    if picture_path:
        inputs.append(picture_path)
    wanted.check(inputs=tuple(inputs))
    pipeline = pipeline or Pipeline.open()
    alone = labels is None or labels.encoding == "none"  # the picture is all there is
    if labels is None:
        labels = _no_labels(pipeline, picture_path)
    picture = picture_sha256 = None
    if picture_path:
        room = settings.get("size_hw")
        fit: Fit = "stretch" if settings.get("exact") else settings.get("fit", "keep")
        size = plan_size(labels.size_hw, pipeline.bundle.size_hw, room_hw=room, fit=fit)
        picture = read_picture(picture_path, size_hw=size, any_aspect=alone)
        picture_sha256 = hashlib.sha256(picture_path.read_bytes()).hexdigest()
    clip = pipeline.generate(
        labels, picture=picture, picture_sha256=picture_sha256, progress=progress, **settings
    )
    write_clip(clip, wanted)
    return Report(clip=clip, labels=labels, outputs=wanted, seconds=time.monotonic() - start)


def _no_labels(pipeline: Pipeline, picture: Path | None) -> LabelMap:
    """A blank map of the picture's size, where the motion reads no labels."""
    pipeline.bundle.require("motion")
    if picture is None or pipeline.bundle.stages["motion"].config.label_planes:
        raise InputError(
            "no label map given",
            hint="only weights without labels do without, and then from a --first-frame",
        )
    return blank_labels(picture_size(picture))


def write_clip(clip: Clip, outputs: Outputs) -> None:
    """Make a clip and write every wanted file; memory does not grow with the number of frames.

    Raises:
        VideoError: A file could not be written. Every file is complete or as it was before; where
            the video fails, no other file has changed.
    """
    recipe = clip.recipe
    metadata = recipe.to_dict()
    chosen = set(choose_frames(len(clip), PREVIEW_FRAMES)) if outputs.preview else set()
    kept: list[tuple[int, NDArray[np.uint8]]] = []  # no ClipFrame: its views hold a whole pass
    sinks: list[Callable[[ClipFrame], None]] = []
    sinks.append(lambda f: kept.append((f.index, f.frame)) if f.index in chosen else None)

    def film(path: Path, size_hw: tuple[int, int]) -> VideoWriter:
        return open_video(
            path, size_hw=size_hw, fps=recipe.fps, quality=recipe.quality, metadata=metadata
        )

    with ExitStack() as stack:
        if outputs.frames:
            frames = stack.enter_context(open_folder(outputs.frames, metadata=metadata))
            sinks.append(lambda f: frames.write(FRAME_PATTERN % f.index, encode_png(f.frame)))
        if outputs.flow:
            flows = stack.enter_context(
                open_folder(outputs.flow, patterns=FLOW_PATTERNS, metadata=metadata)
            )
            sinks.append(lambda f: _write_all(flows, _flow_files(f)))
        if outputs.visibility:
            masks = stack.enter_context(
                open_folder(outputs.visibility, patterns=(VISIBILITY_PATTERN,), metadata=metadata)
            )
            sinks.append(lambda f: _write_all(masks, _visibility_files(f)))
        if outputs.panel:
            compose = _Panel(colour_picture(clip.labels.train_ids))
            panel = stack.enter_context(film(outputs.panel, compose.size_hw))
            sinks.append(lambda f: panel.write(compose(f)))
        # Entered last, so finished first: an encoder is likelier to fail than moving ready files,
        # and then none of them appears.
        video = stack.enter_context(film(outputs.video, clip.size_hw))
        sinks.append(lambda f: video.write(f.frame))
        for frame in clip:
            for sink in sinks:
                sink(frame)
    if outputs.preview:
        write_png(outputs.preview, _preview(clip, kept))


def flow_colours(flow_px: NDArray[np.float32]) -> NDArray[np.uint8]:
    """Middlebury colours at one scale for a whole clip: full strength at 6 % of the width."""
    return flow_to_colour(flow_px, max_px=FLOW_FULL_COLOUR * flow_px.shape[2])


def _write_all(folder: FolderWriter, files: list[tuple[str, bytes]]) -> None:
    for name, data in files:
        folder.write(name, data)


def _flow_files(frame: ClipFrame) -> list[tuple[str, bytes]]:
    files = []
    for name, flow in (("backward", frame.flow_px), ("forward", frame.forward_flow_px)):
        if flow is not None:
            files.append((f"{name}_{frame.index:05d}.flo", encode_flo(flow)))
            files.append((f"{name}_{frame.index:05d}.png", encode_png(flow_colours(flow))))
    return files


def _visibility_files(frame: ClipFrame) -> list[tuple[str, bytes]]:
    if frame.visibility is None:
        return []
    return [(VISIBILITY_PATTERN % frame.index, encode_png(visibility_to_grey(frame.visibility)))]


class _Panel:
    """Puts label map, first frame, flow, visibility and result of a moment side by side."""

    def __init__(self, labels: NDArray[np.uint8]) -> None:
        self._labels = labels
        self._first: NDArray[np.uint8] | None = None
        blank = ClipFrame(index=0, source=0, frame=np.zeros_like(labels))
        height, width = self._compose(blank, blank.frame).shape[:2]
        self.size_hw = (height, width)

    def __call__(self, frame: ClipFrame) -> NDArray[np.uint8]:
        if self._first is None:
            self._first = frame.frame
        return self._compose(frame, self._first)

    def _compose(self, frame: ClipFrame, first: NDArray[np.uint8]) -> NDArray[np.uint8]:
        flow, seen = np.full_like(first, 255), np.full_like(first, 255)
        if frame.flow_px is not None and frame.visibility is not None:
            flow = flow_colours(frame.flow_px)
            seen = visibility_to_grey(frame.visibility)
        return compose_panel(
            [
                ("label map", self._labels),
                ("first frame", first),
                (f"flow from frame {frame.source}", flow),
                ("visibility", seen),
                (f"frame {frame.index}", frame.frame),
            ]
        )


def _preview(clip: Clip, frames: list[tuple[int, NDArray[np.uint8]]]) -> Image.Image:
    pictures = [colour_picture(clip.labels.train_ids), *(frame for _, frame in frames)]
    times = [f"frame {index}  {index / clip.recipe.fps:.2f} s" for index, _ in frames]
    return contact_sheet(pictures, ["label map", *times], columns=PREVIEW_COLUMNS)


def report_json(report: Report) -> str:
    """The machine-readable result of one run."""
    return json.dumps(report.to_dict(), indent=2)
