"""Clips to files: the video, and on request frames, flows, visibility, saliency, panel, preview.

Each clip is written by a thread of its own, which encodes while the next frames are made.
"""

from __future__ import annotations

import hashlib
import json
import math
import queue
import threading
import time
from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import ExitStack, suppress
from dataclasses import dataclass, fields, replace
from itertools import count as counting
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray
from PIL import Image

from seg2vid_cli.edges import Guide, read_guide
from seg2vid_cli.errors import InputError
from seg2vid_cli.first_frame import picture_size, read_picture
from seg2vid_cli.label_view import colour_picture
from seg2vid_cli.labels import LabelMap, blank_labels, read_labels
from seg2vid_cli.page import PAGE_EXTENSIONS, PageClip, write_page
from seg2vid_cli.pipeline import Clip, ClipFrame, Fit, Pipeline, Progress, plan_size
from seg2vid_cli.saliency import (
    DEFAULT_WEIGHTS,
    AttentionByClass,
    ClassAttention,
    SaliencyModel,
    SalientFrame,
    Viewer,
    overlay,
    saliency_to_grey,
)
from seg2vid_cli.saliency_files import MAP_PATTERN, OVERLAY_PATTERN, attention_rows
from seg2vid_cli.sample import Sample
from seg2vid_cli.video import (
    FRAME_PATTERN,
    FolderWriter,
    VideoWriter,
    check_folder,
    check_fps,
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
from seg2vid_cli.weights.load import open_bundle

PREVIEW_FRAMES = 11  # and the label map in front: three rows of four
PREVIEW_COLUMNS = 4
TOGETHER = 8  # clips that are made at the same time, if they are small
PIXELS_TOGETHER = 2**20
MOST_PIXELS_IN_A_GRID = 5 * 2**20
MOST_IN_A_GRID = 36
ROW = 9  # clips between two seeds that a grid shows in one row
QUEUED_FRAMES = 16
GRID_TOOL = "seg2vid grid"  # so that nobody takes it for a clip that can be repeated
FLOW_FULL_COLOUR = (
    0.06  # of the width: motion from the source frame that is painted at full strength
)
FLOW_PATTERNS = tuple(
    f"{name}_%05d.{end}" for name in ("backward", "forward") for end in ("flo", "png")
)
VISIBILITY_PATTERN = "visibility_%05d.png"

_Item = tuple[ClipFrame, SalientFrame | None]  # a frame on its way to the files


@dataclass(frozen=True, kw_only=True)
class Outputs:
    """Files to write.

    Args:
        video: `.mp4`, `.gif` or `.webp`.
        frames: Folder for PNG frames.
        flow: Folder for `.flo` files and colour-wheel PNGs, in both directions.
        visibility: Folder for 8-bit PNGs, white = visible in the source frame.
        saliency: Folder for 8-bit PNGs, white = most salient, and PNGs of these over the frames.
        panel: Video of label map, edges if any, first frame, flow, visibility and result.
        preview: PNG contact sheet.
    """

    video: Path
    frames: Path | None = None
    flow: Path | None = None
    visibility: Path | None = None
    saliency: Path | None = None
    panel: Path | None = None
    preview: Path | None = None

    def numbered(self, number: int, count: int) -> Outputs:
        """Files of one of several samples: `out.mp4` becomes `out-001.mp4`, folders likewise.

        Args:
            number: From 1.
            count: Samples in all; one alone keeps the names.
        """
        if count == 1:
            return self
        digits = max(3, len(str(count)))
        paths: dict[str, Path | None] = {f.name: getattr(self, f.name) for f in fields(self)}
        return Outputs(
            **{  # type: ignore[arg-type]
                name: path and path.with_name(f"{path.stem}-{number:0{digits}d}{path.suffix}")
                for name, path in paths.items()
            }
        )

    def check(self, *, inputs: tuple[Path, ...] = (), taken: dict[Path, str] | None = None) -> None:
        """Find out before any work whether everything can be written.

        Args:
            inputs: Files that must not be overwritten.
            taken: What other outputs of the same run have taken; added to.

        Raises:
            InputError: A path that cannot be written, or named twice, or an input.
        """
        taken = {} if taken is None else taken
        taken |= {path.resolve(): "an input" for path in inputs}
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
                    folders = input_path.resolve().parent, input_path.parent.resolve()
                    if path.resolve() in folders:  # a link may lie there, too
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
        saliency_weights: Name of the weights of the saliency network; None where none ran.
        attention: Shares of attention by class in the first frame, the one that the label map
            shows, the largest first; None without saliency or label map.
        guide: What guided the first frame; None without edges.
    """

    clip: Clip
    labels: LabelMap
    outputs: Outputs
    seconds: float
    saliency_weights: str | None = None
    attention: Sequence[ClassAttention] | None = None
    guide: Guide | None = None

    def to_dict(self) -> dict[str, Any]:
        """As plain values, for `--json`."""
        recipe = self.clip.recipe.to_dict()
        del recipe["labels_png"], recipe["edges_png"]
        paths = {f.name: getattr(self.outputs, f.name) for f in fields(self.outputs)}
        saliency: dict[str, Any] = {}
        if self.saliency_weights is not None:
            saliency["weights"] = self.saliency_weights
        if self.attention is not None:
            saliency["first_frame_attention"] = attention_rows(self.attention)
        return {
            "outputs": {name: str(path) for name, path in paths.items() if path},
            "labels": {
                "file": str(self.labels.path) if self.labels.path else None,
                "encoding": self.labels.encoding,
                "reason": self.labels.reason,
                "alternatives": list(self.labels.alternatives),
                "doubtful": self.labels.doubtful,
            },
            "edges": self.guide
            and {
                "file": str(self.guide.path),
                "kind": self.guide.kind,
                "reason": self.guide.reason,
            },
            "recipe": recipe,
            **({"saliency": saliency} if saliency else {}),
            "seconds": round(self.seconds, 3),
        }


def generate_file(
    labels: LabelMap | str | Path | None,
    video: str | Path,
    *,
    pipeline: Pipeline | None = None,
    outputs: Outputs | None = None,
    first_frame: str | Path | None = None,
    edges: Guide | str | Path | None = None,
    saliency: SaliencyModel | None = None,
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
        edges: Rendered picture or edge map of the scene, to guide the first frame; needs a label
            map.
        saliency: Network for `outputs.saliency`; SalEMA with the default weights if not given.
        progress: Called with stage, steps done and steps in all.
        **settings: `seed`, `variant`, `sample`, `frames`, `fps`, `quality`, `size_hw`, `fit`,
            `edge_variety`; see `Pipeline.generate`.

    Raises:
        InputError: Something given cannot be used; nothing has been written.
        WeightsError: Saliency weights are wanted that are not here; nothing has been written.
        VideoError: A file could not be written; see `write_clip`.
    """
    sample = settings.pop("sample", None) or Sample(
        seed=settings.pop("seed", 0), variant=settings.pop("variant", 0)
    )
    (report,) = generate_samples(
        labels,
        video,
        samples=[sample],
        pipeline=pipeline,
        outputs=outputs,
        first_frame=first_frame,
        edges=edges,
        saliency=saliency,
        progress=progress,
        **settings,
    )
    return report


def generate_samples(
    labels: LabelMap | str | Path | None,
    video: str | Path,
    *,
    samples: Sequence[Sample],
    pipeline: Pipeline | None = None,
    outputs: Outputs | None = None,
    first_frame: str | Path | None = None,
    edges: Guide | str | Path | None = None,
    saliency: SaliencyModel | None = None,
    grid: bool = False,
    page: Path | None = None,
    progress: Progress = lambda stage, done, total: None,
    **settings: Any,
) -> list[Report]:
    """Make several clips from one label map: what is the same in all of them is done once.

    Args:
        labels: As in `generate_file`.
        video: `out.mp4` stands for `out-001.mp4`, `out-002.mp4` ... where there are several.
        samples: What each clip is drawn from; see `seg2vid_cli.sample.plan_samples`.
        pipeline: Opened weights; the embedded ones if not given.
        outputs: More files to write, numbered in the same way. The preview is one for all.
        first_frame: A picture to start from instead of painting.
        edges: As in `generate_file`.
        saliency: As in `generate_file`; one network for all clips, with a memory for each.
        grid: Write one video with all clips side by side instead.
        page: HTML page with all clips in it, to look through them.
        progress: Called with stage, steps done and steps in all.
        **settings: As in `generate_file`.

    Returns:
        A report for every clip; one for all of them with `grid`.

    Raises:
        InputError: Something given cannot be used; nothing has been written.
        WeightsError: Saliency weights are wanted that are not here; nothing has been written.
        VideoError: A file could not be written. Clips that were finished before stay.
    """
    start = time.monotonic()
    wanted = replace(outputs or Outputs(video=Path(video)), video=Path(video))
    picture_path = None if first_frame is None else Path(first_frame)
    if labels is not None and not isinstance(labels, LabelMap):
        labels = read_labels(labels)
    inputs = [labels.path] if labels is not None and labels.path else []
    if picture_path:
        inputs.append(picture_path)
    if edges is not None:
        if labels is None:
            raise InputError("edges go with a label map", hint="give the scene's label map too")
        if not isinstance(edges, Guide):
            edges = read_guide(edges, labels_hw=labels.size_hw)
        inputs.append(edges.path)
    if not samples:
        raise InputError("no samples asked for", hint="use 1 or more")
    alone = len(samples) == 1
    targets = check_targets(wanted, len(samples), grid=grid, page=page, inputs=tuple(inputs))
    if pipeline is None:
        pipeline = Pipeline.open()
    pipeline.check_edges(edges is not None, starts_from_picture=picture_path is not None)
    saliency = _saliency_model(saliency, targets, pipeline)
    no_map = labels is None or labels.encoding == "none"  # the picture is all there is
    if labels is None:
        labels = _no_labels(pipeline, picture_path)
    room = settings.get("size_hw")
    fit: Fit = "stretch" if settings.get("exact") else settings.get("fit", "keep")
    size = plan_size(labels.size_hw, pipeline.bundle.size_hw, room_hw=room, fit=fit)
    picture = picture_sha256 = None
    if picture_path:
        picture = read_picture(picture_path, size_hw=size, any_aspect=no_map)
        picture_sha256 = hashlib.sha256(picture_path.read_bytes()).hexdigest()
        samples = [replace(sample, light=None) for sample in samples]  # that of a painted one
    first_clip = pipeline.generate(
        labels,
        sample=samples[0],
        picture=picture,
        picture_sha256=picture_sha256,
        edges=None if edges is None else edges.edges(size, pipeline.edge_threshold),
        progress=progress if alone else _silent,
        **settings,
    )
    clips = [
        replace(first_clip, recipe=replace(first_clip.recipe, **vars(sample))) for sample in samples
    ]
    _check_clips(clips, targets, grid=grid)
    keep = PREVIEW_COLUMNS if wanted.preview and (grid or not alone) else 0
    attention: list[Sequence[ClassAttention] | None]
    if grid:
        kept = _write_grid(clips, wanted.video, progress, keep=keep)
        clips, attention = clips[:1], [None]
    else:
        written: list[Written] = []
        together = max(1, min(TOGETHER, PIXELS_TOGETHER // math.prod(first_clip.size_hw)))
        done, total = counting(1), len(clips) * len(first_clip)
        for first in range(0, len(clips), together):
            group = slice(first, first + together)
            written += write_clips(
                clips[group],
                targets[group],
                saliency=saliency,
                keep=keep,
                made=(lambda: None) if alone else lambda: progress("frames", next(done), total),
            )
        kept = [one.frames for one in written]
        attention = [one.attention for one in written]
    if keep:
        assert wanted.preview is not None
        write_png(wanted.preview, _preview_of_samples(clips[0], samples, kept))
    if page is not None:
        entries = zip(clips, targets, samples, strict=True)
        write_page(
            page,
            [_page_clip(clip, target, sample) for clip, target, sample in entries],
            title=f"Clips of {labels.path.name if labels.path else 'one label map'}",
            picture=colour_picture(clips[0].labels.train_ids),
        )
    seconds = time.monotonic() - start
    return [
        Report(
            clip=clip,
            labels=labels,
            outputs=target,
            seconds=seconds,
            saliency_weights=saliency.name if saliency is not None and target.saliency else None,
            attention=shares,
            guide=edges,
        )
        for clip, target, shares in zip(clips, targets, attention, strict=True)
    ]


def check_targets(
    wanted: Outputs, count: int, *, grid: bool, page: Path | None, inputs: tuple[Path, ...]
) -> list[Outputs]:
    """Find out before any work whether all files of several samples can be written.

    Args:
        wanted: As for one clip.
        count: Samples.
        grid: Whether one video shows all of them.
        page: HTML page, if wanted.
        inputs: Files that must not be overwritten.

    Returns:
        The files of each sample; the preview, one for all, is not among them. With `grid` `wanted`.

    Raises:
        InputError: They cannot, or do not go together.
    """
    others = [f.name for f in fields(wanted) if f.name not in ("video", "preview")]
    if grid and (page is not None or any(getattr(wanted, name) for name in others)):
        raise InputError(
            "a grid is one video of all clips",
            hint="leave out --grid to get frames, flow, visibility, saliency, panels or a page of "
            "each",
        )
    if grid and count > MOST_IN_A_GRID:
        raise InputError(
            f"{count} clips are too many for one grid", hint=f"use {MOST_IN_A_GRID} or fewer"
        )
    taken: dict[Path, str] = {}
    targets = [wanted]
    if not grid and count > 1:
        for path in (getattr(wanted, field.name) for field in fields(wanted)):
            if path is not None and path.name in ("", ".."):
                raise InputError(f"{path}: has no name to number", hint="name a file or folder")
        alone = replace(wanted, preview=None)
        targets = [alone.numbered(number, count) for number in range(1, count + 1)]
        if wanted.preview:
            check_output(wanted.preview, extensions=(".png",))
            taken[wanted.preview.resolve()] = "the preview output"
    for target in targets:
        target.check(inputs=inputs, taken=taken)
    if page is not None:
        if page.resolve() in taken:
            raise InputError(
                f"{page}: is also {taken[page.resolve()]}", hint="give every file its own name"
            )
        check_output(page, extensions=PAGE_EXTENSIONS)
    return targets


def _check_clips(clips: Sequence[Clip], targets: Sequence[Outputs], *, grid: bool) -> None:
    """Refuse what only the planned clips show, before any network runs.

    Raises:
        InputError: A rate that a format cannot play, looks that cannot differ, a grid too large.
    """
    first = clips[0]
    for target in targets:
        for path in (target.video, target.panel):
            if path is not None:
                check_fps(path, first.recipe.fps)
    looks = {clip.recipe.sample.key("appearance") for clip in clips}
    if len(looks) > 1 and (first.picture is not None or first.scene is not None):
        why = (
            "it starts from a picture" if first.scene is None else "these weights paint in one way"
        )
        raise InputError(f"the look cannot vary: {why}", hint="use --vary motion")
    if grid and len(clips) * math.prod(first.size_hw) > MOST_PIXELS_IN_A_GRID:
        width, height = first.recipe.size
        raise InputError(
            f"{len(clips)} clips of {width}x{height} are too large for one grid",
            hint="use fewer samples, or a smaller --size",
        )


def _silent(stage: str, done: int, total: int) -> None:
    """Several clips are counted, not each one's frames."""


def _no_labels(pipeline: Pipeline, picture: Path | None) -> LabelMap:
    """A blank map of the picture's size, where the motion reads no labels."""
    pipeline.bundle.require("motion")
    if picture is None or pipeline.bundle.stages["motion"].config.label_planes:
        raise InputError(
            "no label map given",
            hint="only weights without labels do without, and then from a --first-frame",
        )
    return blank_labels(picture_size(picture))


def _saliency_model(
    model: SaliencyModel | None, outputs: Sequence[Outputs], pipeline: Pipeline
) -> SaliencyModel | None:
    """The given one; that of the default weights where none is given but needed."""
    if model is None and any(target.saliency for target in outputs):
        return SaliencyModel.of_bundle(open_bundle(DEFAULT_WEIGHTS), pipeline.compute)
    return model


def write_clip(clip: Clip, outputs: Outputs, *, saliency: SaliencyModel | None = None) -> None:
    """Make a clip and write every wanted file; memory does not grow with the number of frames.

    Args:
        clip: The clip.
        outputs: What to write.
        saliency: As in `generate_file`.

    Raises:
        WeightsError: Saliency weights are wanted that are not here; nothing has been written.
        VideoError: A file could not be written. Every file is complete or as it was before; where
            the video fails, no other file has changed.
    """
    write_clips([clip], [outputs], saliency=saliency)


@dataclass(frozen=True, kw_only=True)
class Written:
    """What `write_clips` found in a clip.

    Args:
        frames: A few frames, uint8 `(H, W, 3)` RGB, evenly spaced.
        attention: As in `Report`.
    """

    frames: list[NDArray[np.uint8]]
    attention: Sequence[ClassAttention] | None = None


def write_clips(
    clips: Sequence[Clip],
    outputs: Sequence[Outputs],
    *,
    saliency: SaliencyModel | None = None,
    keep: int = 0,
    made: Callable[[], None] = lambda: None,
) -> list[Written]:
    """Make clips together and write them, each in a thread of its own; see `write_clip`.

    Args:
        clips: Of one pipeline, size, length and frame rate.
        outputs: For each clip.
        saliency: As in `generate_samples`.
        keep: How many frames of each to return.
        made: Told after every frame.

    Returns:
        For each clip what was found in it.
    """
    saliency = _saliency_model(saliency, outputs, clips[0].pipeline)
    writers = [
        # A GPU encodes one film at a time, so that every film is encoded in the same way.
        ClipWriter(clip, target, saliency=saliency, keep=keep, gpu=len(clips) == 1)
        for clip, target in zip(clips, outputs, strict=True)
    ]
    with ExitStack() as stack:
        for writer in writers:
            stack.enter_context(writer)
        try:
            forward = any(target.flow for target in outputs)
            for number, frame in clips[0].pipeline.make(clips, forward_flow=forward):
                writers[number].add(frame)
                made()
            for writer in writers:
                writer.end()
            return [Written(frames=w.result(), attention=w.attention) for w in writers]
        finally:
            for writer in writers:  # all of them, before the first is waited for
                writer.cancel()


class ClipWriter:
    """Writes one clip in a thread: encoding and compressing go on while frames are made.

    Used in a `with` block: `add` every frame, `end`, then ask for the `result`. Leaving the block
    earlier leaves every file as it was.

    Args:
        clip: The clip, for its size and recipe.
        outputs: What to write.
        saliency: Network for `outputs.saliency`, which needs it.
        keep: How many frames `result` gives.
        gpu: Whether a GPU that made the frames may encode them too.

    Attributes:
        attention: As in `Report`; known once the first frame has been added.

    Raises:
        ValueError: `outputs.saliency` without a network.
    """

    def __init__(
        self,
        clip: Clip,
        outputs: Outputs,
        *,
        saliency: SaliencyModel | None = None,
        keep: int = 0,
        gpu: bool = False,
    ) -> None:
        if outputs.saliency and saliency is None:
            raise ValueError(f"{outputs.saliency}: no saliency network given")
        self.attention: Sequence[ClassAttention] | None = None
        self._clip, self._outputs = clip, outputs
        self._keep, self._gpu = keep, gpu and clip.recipe.device == "cuda"
        self._viewer = Viewer(saliency) if outputs.saliency and saliency is not None else None
        self._queue: queue.Queue[_Item | None] = queue.Queue(QUEUED_FRAMES)
        self._cancelled = False
        self._thread = threading.Thread(target=self._work, daemon=True)
        self._error: BaseException | None = None
        self._kept: list[NDArray[np.uint8]] = []

    def __enter__(self) -> ClipWriter:
        self._thread.start()
        return self

    def __exit__(self, *unused: object) -> None:
        self.cancel()
        self._put(None)
        self._thread.join()

    def cancel(self) -> None:
        """Write no more; of no effect once everything is written."""
        self._cancelled = True

    def add(self, frame: ClipFrame) -> None:
        """Hand over the next frame; where saliency is wanted, it is looked at first.

        Raises:
            VideoError: Writing has failed.
        """
        # Here and not in the thread: one network runs at a time.
        self._put((frame, None if self._viewer is None else self._look(self._viewer, frame)))
        if self._error is not None:
            raise self._error

    def end(self) -> None:
        """Say that this was the last frame."""
        self._put(None)

    def result(self) -> list[NDArray[np.uint8]]:
        """Wait until every file is complete.

        Returns:
            A few frames, evenly spaced.

        Raises:
            VideoError: Writing has failed.
        """
        self._thread.join()
        if self._error is not None:
            raise self._error
        return self._kept

    def _look(self, viewer: Viewer, frame: ClipFrame) -> SalientFrame:
        seen, labels = viewer.see(frame.frame), self._clip.labels
        if seen.index == 0 and labels.encoding != "none":
            by_class = AttentionByClass()
            by_class.add(seen.saliency, labels)
            self.attention = by_class.shares()
        return seen

    def _put(self, item: _Item | None) -> None:
        while self._thread.is_alive():
            with suppress(queue.Full):
                self._queue.put(item, timeout=0.2)
                return

    def _work(self) -> None:
        try:
            self._kept = _write(
                self._clip, self._outputs, self._frames(), keep=self._keep, gpu=self._gpu
            )
        except BaseException as error:
            self._error = None if self._cancelled else error

    def _frames(self) -> Iterator[_Item]:
        while (item := self._queue.get()) is not None:
            if self._cancelled:
                break
            yield item
        if self._cancelled:
            raise InterruptedError


def _write(
    clip: Clip, outputs: Outputs, frames: Iterable[_Item], *, keep: int, gpu: bool
) -> list[NDArray[np.uint8]]:
    recipe = clip.recipe
    metadata = recipe.to_dict()
    keep = PREVIEW_FRAMES if outputs.preview else keep
    chosen = set(choose_frames(len(clip), keep)) if keep else set()
    kept: list[tuple[int, NDArray[np.uint8]]] = []  # no ClipFrame: its views hold a whole pass
    sinks: list[Callable[[ClipFrame], None]] = []
    sinks.append(lambda f: kept.append((f.index, f.frame)) if f.index in chosen else None)

    def film(path: Path, size_hw: tuple[int, int], *, gpu: bool = False) -> VideoWriter:
        return open_video(
            path,
            size_hw=size_hw,
            fps=recipe.fps,
            quality=recipe.quality,
            metadata=metadata,
            gpu=gpu,
        )

    with ExitStack() as stack:
        if outputs.frames:
            folder = stack.enter_context(open_folder(outputs.frames, metadata=metadata))
            sinks.append(lambda f: folder.write(FRAME_PATTERN % f.index, encode_png(f.frame)))
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
        maps: FolderWriter | None = None
        if outputs.saliency:
            patterns = (MAP_PATTERN, OVERLAY_PATTERN)
            maps = stack.enter_context(
                open_folder(outputs.saliency, patterns=patterns, metadata=metadata)
            )
        if outputs.panel:
            compose = _Panel(colour_picture(clip.labels.train_ids), clip.edges)
            panel = stack.enter_context(film(outputs.panel, compose.size_hw))
            sinks.append(lambda f: panel.write(compose(f)))
        # Entered last, so finished first: an encoder is likelier to fail than moving ready files,
        # and then none of them appears.
        video = stack.enter_context(film(outputs.video, clip.size_hw, gpu=gpu))
        sinks.append(lambda f: video.write(f.frame))
        for frame, seen in frames:
            for sink in sinks:
                sink(frame)
            if maps is not None and seen is not None:
                _write_all(maps, _saliency_files(seen))
    if outputs.preview:
        write_png(outputs.preview, _preview(clip, kept))
    return [frame for _, frame in kept]


def _write_grid(
    clips: Sequence[Clip], video: Path, progress: Progress, *, keep: int
) -> list[list[NDArray[np.uint8]]]:
    """All clips side by side in one video, captioned with what they are drawn from."""
    recipe, count = clips[0].recipe, len(clips)
    columns = count if recipe.to_seed is not None and count <= ROW else math.ceil(math.sqrt(count))
    captions = [clip.recipe.sample.describe() for clip in clips]
    chosen = set(choose_frames(len(clips[0]), keep)) if keep else set()
    kept: list[list[NDArray[np.uint8]]] = [[] for _ in clips]

    def compose(frames: Sequence[NDArray[np.uint8]]) -> NDArray[np.uint8]:
        tiles = list(zip(captions, frames, strict=True))
        return compose_panel(tiles, columns=columns)

    height, width = compose([np.zeros((*clips[0].size_hw, 3), np.uint8)] * count).shape[:2]
    metadata = recipe.to_dict() | {"tool": GRID_TOOL, "captions": captions}
    row: list[NDArray[np.uint8]] = []
    with open_video(
        video,
        size_hw=(height, width),
        fps=recipe.fps,
        quality=recipe.quality,
        metadata=metadata,
        gpu=recipe.device == "cuda",
    ) as film:
        for number, frame in clips[0].pipeline.make(clips, forward_flow=False):
            row.append(frame.frame)
            if frame.index in chosen:
                kept[number].append(frame.frame)
            if len(row) == count:
                film.write(compose(row))
                row = []
                progress("frames", frame.index + 1, len(clips[0]))
    return kept


def _page_clip(clip: Clip, target: Outputs, sample: Sample) -> PageClip:
    recipe = clip.recipe
    return PageClip(
        path=target.video,
        title=target.video.name,
        caption=sample.describe(),
        facts={
            "seed": str(recipe.seed),
            "variant": str(recipe.variant),
            **{f"{part} of variant": str(number) for part, number in recipe.variants.items()},
            **{
                f"{part} towards seed {recipe.to_seed}": f"{100 * share:.0f} %"
                for part, share in recipe.shares.items()
            },
            "motion scale": f"{recipe.motion_scale:g}",
            **({} if recipe.light is None else {"light": f"{recipe.light:g}"}),
            "size": f"{recipe.size[0]}x{recipe.size[1]}",
            "length": f"{recipe.frames} frames at {recipe.fps:g} fps",
            "weights": recipe.weights,
            **({"first frame": recipe.first_frame_weights} if recipe.first_frame_weights else {}),
        },
    )


def _preview_of_samples(
    clip: Clip, samples: Sequence[Sample], kept: Sequence[list[NDArray[np.uint8]]]
) -> Image.Image:
    """One row per sample: label map, then frames."""
    picture = colour_picture(clip.labels.train_ids)
    pictures, captions = [], []
    shown = choose_frames(len(kept[0]), PREVIEW_COLUMNS)
    for sample, frames in zip(samples, kept, strict=True):
        pictures += [picture, *(frames[index] for index in shown)]
        captions += [sample.describe(), *("" for _ in shown)]
    return contact_sheet(pictures, captions, columns=1 + len(shown))


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


def _saliency_files(seen: SalientFrame) -> list[tuple[str, bytes]]:
    return [
        (MAP_PATTERN % seen.index, encode_png(saliency_to_grey(seen.saliency))),
        (OVERLAY_PATTERN % seen.index, encode_png(overlay(seen.frame, seen.saliency))),
    ]


class _Panel:
    """Puts label map, edges if any, first frame, flow, visibility and result side by side."""

    def __init__(self, labels: NDArray[np.uint8], edges: NDArray[np.bool_] | None) -> None:
        self._scene = [("label map", labels)]
        if edges is not None:
            self._scene.append(("edges", np.where(edges, 255, 0).astype(np.uint8)))
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
                *self._scene,
                ("first frame", first),
                (f"flow from frame {frame.source:.4g}", flow),
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


def reports_json(reports: Sequence[Report]) -> str:
    """The machine-readable result of a run that made several clips."""
    return json.dumps({"samples": [report.to_dict() for report in reports]}, indent=2)
