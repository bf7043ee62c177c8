"""A sequence of label maps to a video, frame by frame: what `seg2vid translate` does.

Nothing is handed on from one frame to the next, so errors do not build up; frames are alike because
one look is drawn for all of them, and because weights that are guided by edges were trained so that
what they paint moves as the real pictures do.

`plan_translation` finds out before any heavy work whether everything can be read and written;
`translate` then does it, one frame after the other.

Source: "S-Flow GAN" (Miron and Coscas, 2019).
"""

from __future__ import annotations

import time
from collections import Counter
from collections.abc import Callable, Iterator, Sequence
from contextlib import ExitStack
from dataclasses import dataclass
from fnmatch import fnmatch
from itertools import pairwise
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from seg2vid_cli import __version__
from seg2vid_cli.edges import Guide, GuideKind, check_kind, check_variety, read_guide
from seg2vid_cli.errors import InputError
from seg2vid_cli.first_frame import PICTURE_EXTENSIONS
from seg2vid_cli.label_view import colour_picture
from seg2vid_cli.labels import LABEL_EXTENSIONS, LabelMap, read_labels
from seg2vid_cli.numbered import find_gap, list_files, match_files
from seg2vid_cli.pipeline import Fit, Pipeline, Progress, check_settings, plan_size
from seg2vid_cli.sample import Sample
from seg2vid_cli.video import (
    DEFAULT_QUALITY,
    FRAME_PATTERN,
    VIDEO_EXTENSIONS,
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
    encode_png,
    write_png,
)

TOOL = "seg2vid translate"
DEFAULT_FPS = 15.0  # of weights that do not say
PREVIEW_FRAMES = 12
PREVIEW_COLUMNS = 4


@dataclass(frozen=True, kw_only=True)
class TranslationPlan:
    """What will be read and written; made and checked by `plan_translation`.

    Args:
        labels: Label map of every frame, in order.
        encoding: In which all of them are read.
        doubtful: Whether that is uncertain.
        size_hw: Height and width of the label maps.
        guides: Rendered picture or edge map of every frame; empty without.
        guide_kind: What all of them are.
        output: Video.
        frames: Folder for the frames as PNG.
        panel: Video of label map, edges and result side by side.
        preview: PNG contact sheet.
    """

    labels: tuple[Path, ...]
    encoding: str
    doubtful: bool
    size_hw: tuple[int, int]
    guides: tuple[Path, ...] = ()
    guide_kind: GuideKind = "auto"
    output: Path
    frames: Path | None = None
    panel: Path | None = None
    preview: Path | None = None

    def __len__(self) -> int:
        return len(self.labels)

    def read(self, index: int) -> tuple[LabelMap, Guide | None]:
        """Label map and guide of a frame.

        Raises:
            InputError: A file cannot be read, or has another size than before.
        """
        labels = read_labels(self.labels[index], encoding=self.encoding)
        if labels.size_hw != self.size_hw:
            raise _other_size(self.labels[index], labels.size_hw, self.size_hw)
        if not self.guides:
            return labels, None
        return labels, read_guide(self.guides[index], labels_hw=self.size_hw, kind=self.guide_kind)


@dataclass(frozen=True, kw_only=True)
class TranslationReport:
    """What `translate` did.

    Args:
        plan: What was asked for.
        weights: Name of the weights that painted.
        size_hw: Height and width of the video.
        fps: Frames per second.
        sample: What the look was drawn from.
        edge_variety: How far the mix of detected edges was from the learnt one, 0 to 2.
        device: Kind of device.
        precision: Number format.
        seconds: Wall time.
    """

    plan: TranslationPlan
    weights: str
    size_hw: tuple[int, int]
    fps: float
    sample: Sample
    edge_variety: float
    device: str
    precision: str
    seconds: float

    def to_dict(self) -> dict[str, Any]:
        """As plain values, for `--json`."""
        plan = self.plan
        outputs = {
            "video": plan.output,
            "frames": plan.frames,
            "panel": plan.panel,
            "preview": plan.preview,
        }
        return {
            "outputs": {name: str(path) for name, path in outputs.items() if path},
            "labels": {
                "folder": str(plan.labels[0].parent),
                "first": plan.labels[0].name,
                "last": plan.labels[-1].name,
                "encoding": plan.encoding,
                "doubtful": plan.doubtful,
            },
            "edges": {"folder": str(plan.guides[0].parent), "kind": plan.guide_kind}
            if plan.guides
            else None,
            "frames": len(plan),
            "fps": self.fps,
            "size": [self.size_hw[1], self.size_hw[0]],
            "weights": self.weights,
            "seed": self.sample.seed,
            "variant": self.sample.variant,
            "edge_variety": self.edge_variety,
            "light": self.sample.light,
            "device": self.device,
            "precision": self.precision,
            "seconds": round(self.seconds, 3),
        }


def plan_translation(
    labels: Path,
    output: Path,
    *,
    edges: Path | None = None,
    guide_kind: GuideKind = "auto",
    encoding: str = "auto",
    globs: Sequence[str] = (),
    allow_gaps: bool = False,
    frames: Path | None = None,
    panel: Path | None = None,
    preview: Path | None = None,
    progress: Progress = lambda stage, done, total: None,
) -> TranslationPlan:
    """Read every file once, and find out whether everything can be written.

    Args:
        labels: Folder of label maps; their order is that in which a person counts.
        output: `.mp4`, `.gif` or `.webp`.
        edges: Folder of rendered pictures or edge maps, see `match_files`.
        guide_kind: What they are; see `read_guide`.
        encoding: Of all label maps. `auto` takes the one that most of them are read in.
        globs: Only label maps whose name fits one of these patterns.
        allow_gaps: Go on where numbers are missing.
        frames: Folder for the frames as PNG.
        panel: Video of label map, edges and result side by side.
        preview: PNG contact sheet.
        progress: Called with stage, files read and files in all.

    Raises:
        InputError: A file or a frame is missing, cannot be read or written, or has another size;
            names it.
    """
    check_kind(guide_kind)
    _check_folders(labels, edges)
    files = _frames(labels, globs)
    if not allow_gaps and (gap := find_gap(files)):
        former, later, number, count = gap
        raise InputError(
            f"{labels}: frame {number} is missing between {former.name} and {later.name}"
            + (f", and {count - 1} more" if count > 1 else ""),
            hint="add it, or let time jump there with --allow-gaps",
        )
    guides: tuple[Path, ...] = ()
    if edges is not None:
        guides = match_files(files, edges, PICTURE_EXTENSIONS, what="edge picture")
    _check_outputs(
        {"output": output, "panel": panel, "preview": preview, "frames": frames},
        inputs=(*files, *guides),
    )
    read, size_hw = _choose_encoding(files, encoding, progress)
    return TranslationPlan(
        labels=files,
        encoding=read[0],
        doubtful=read[1],
        size_hw=size_hw,
        guides=guides,
        guide_kind=_kind_of_all(guides, size_hw, guide_kind, progress),
        output=output,
        frames=frames,
        panel=panel,
        preview=preview,
    )


def _check_folders(labels: Path, edges: Path | None) -> None:
    if not labels.is_dir():
        hint = "seg2vid generate makes a clip from one label map" if labels.is_file() else None
        raise InputError(
            f"{labels}: {'is a file' if labels.is_file() else 'there is no such folder'}",
            hint=hint or "name a folder of label maps, one for each frame",
        )
    if edges is None:
        return
    if not edges.is_dir():
        raise InputError(
            f"{edges}: {'is a file' if edges.is_file() else 'there is no such folder'}",
            hint="name a folder with one rendered picture, or edge map, for each frame",
        )
    if edges.resolve() == labels.resolve():
        raise InputError(
            f"{edges}: is the folder of label maps", hint="name the folder of rendered pictures"
        )


def _frames(labels: Path, globs: Sequence[str]) -> tuple[Path, ...]:
    """Label maps of a folder in order, one for each frame."""
    files = list_files(labels, LABEL_EXTENSIONS)
    if globs:
        files = tuple(file for file in files if any(fnmatch(file.name, glob) for glob in globs))
    if not files:
        fitting = f" that fit {', '.join(map(repr, globs))}" if globs else ""
        lossy = not globs and bool(list_files(labels, (".jpg", ".jpeg")))
        raise InputError(
            f"{labels}: no label maps ({', '.join(LABEL_EXTENSIONS)}){fitting}",
            hint="JPEG changes ids and colours: write the label maps as PNG"
            if lossy
            else "name the folder that holds them itself",
        )
    for former, later in pairwise(files):
        if former.stem == later.stem:
            raise InputError(
                f"{labels}: {former.name} and {later.name} are the same frame",
                hint="leave one of them, or pick some with --glob",
            )
    return files


def _kind_of_all(
    guides: Sequence[Path], labels_hw: tuple[int, int], kind: GuideKind, progress: Progress
) -> GuideKind:
    """Whether all guides are pictures or all are edge maps; black ones may be either."""
    kinds: dict[GuideKind, Path] = {}
    for done, path in enumerate(guides, 1):
        progress("check edges", done, len(guides))
        guide = read_guide(path, labels_hw=labels_hw, kind=kind)
        if guide.pixels.any() or kind != "auto":
            kinds.setdefault(guide.kind, path)
    if len(kinds) > 1:
        raise InputError(
            f"{kinds['map']}: looks like an edge map, but {kinds['picture'].name} like a picture",
            hint="say what all of them are with --edges-are picture, or map",
        )
    return next(iter(kinds), "map" if kind == "auto" else kind)


def _choose_encoding(
    files: Sequence[Path], encoding: str, progress: Progress
) -> tuple[tuple[str, bool], tuple[int, int]]:
    """The encoding of all maps and whether it is uncertain, and their size.

    One frame alone can be misread, since it may have few classes; the sequence decides. Of the
    encodings that frames are read in, one that reads all of them is taken, one that is beyond doubt
    for some frame before others, then the commonest.
    """
    found: Counter[str] = Counter()
    sure: dict[str, bool] = {}
    size_hw: tuple[int, int] | None = None
    for done, file in enumerate(files, 1):
        progress("check labels", done, len(files))
        labels = read_labels(file, encoding=encoding)
        size_hw = size_hw or labels.size_hw
        if labels.size_hw != size_hw:
            raise _other_size(file, labels.size_hw, size_hw)
        found[labels.encoding] += 1
        sure[labels.encoding] = sure.get(labels.encoding, False) or not labels.doubtful
    assert size_hw is not None
    if encoding != "auto":
        return (encoding, False), size_hw
    ranked = sorted(found, key=lambda name: (sure[name], found[name]), reverse=True)
    problems = []
    for name in ranked:
        problem = _problem(files, name) if len(ranked) > 1 else None
        if problem is None:
            return (name, not sure[name]), size_hw
        problems.append(problem)
    file, error = problems[0]
    raise InputError(
        f"{file}: is not read as {ranked[0]}, as other label maps of the folder are: "
        f"{error.message}",
        hint="give --encoding if all are of one, or --glob to leave others out",
    ) from error


def _problem(files: Sequence[Path], encoding: str) -> tuple[Path, InputError] | None:
    """The first file that an encoding does not read, and why."""
    for file in files:
        try:
            read_labels(file, encoding=encoding)
        except InputError as error:
            return file, error
    return None


def _other_size(file: Path, size_hw: tuple[int, int], wanted: tuple[int, int]) -> InputError:
    return InputError(
        f"{file}: is {size_hw[1]}x{size_hw[0]}, the frames before are {wanted[1]}x{wanted[0]}",
        hint="give label maps of one size, or pick some with --glob",
    )


def _check_outputs(paths: dict[str, Path | None], *, inputs: Sequence[Path]) -> None:
    taken: dict[Path, str] = {path.resolve(): "an input" for path in inputs}
    frames = paths["frames"]
    for name, path in paths.items():
        if path is None:
            continue
        if path.resolve() in taken:
            raise InputError(
                f"{path}: is also {taken[path.resolve()]}", hint="give every file its own name"
            )
        taken[path.resolve()] = f"the {name}"
        if name == "frames":
            check_folder(path)
            folders = {file.resolve().parent for file in inputs}
            folders |= {file.parent.resolve() for file in inputs}  # links lie elsewhere
            if path.resolve() in folders:
                raise InputError(
                    f"{path}: holds files that are read, and frames would be replaced there",
                    hint="name another folder to write into",
                )
            continue
        check_output(path, extensions=(".png",) if name == "preview" else VIDEO_EXTENSIONS)
        folder = inputs[0].parent.resolve()
        if path.resolve().parent == folder and path.suffix.lower() in LABEL_EXTENSIONS:
            raise InputError(
                f"{path}: would be taken for a label map the next time",
                hint="name another place for it",
            )
        if frames is not None and path.resolve().parent == frames.resolve():
            raise InputError(
                f"{path}: lies in the folder for the frames", hint="name another place for it"
            )


def translate(
    plan: TranslationPlan,
    pipeline: Pipeline,
    *,
    sample: Sample | None = None,
    fps: float | None = None,
    size_hw: tuple[int, int] | None = None,
    fit: Fit = "keep",
    quality: float = DEFAULT_QUALITY,
    edge_variety: float = 0.0,
    progress: Progress = lambda stage, done, total: None,
) -> TranslationReport:
    """Paint every frame and write what was asked for; memory does not grow with their number.

    Args:
        plan: What to do.
        pipeline: Opened weights.
        sample: Decides the look, one for all frames.
        fps: Frames per second; that of the weights if not given.
        size_hw: Room for the frames; the area of the weights' own size if not given.
        fit: See `Pipeline.generate`.
        quality: Of video files; see `open_video`.
        edge_variety: See `Pipeline.generate`.
        progress: Called with stage, steps done and steps in all.

    Raises:
        InputError: A number out of range, weights that do not fit, or a file that has changed since
            the plan was made.
        VideoError: A file could not be written. Every file is complete or as it was before.
    """
    start = time.monotonic()
    sample = sample or Sample()
    check_settings(frames=len(plan), fps=fps, quality=quality, size_hw=size_hw, fit=fit)
    check_variety(edge_variety)
    if "first_frame" not in pipeline.bundle.stages:
        raise InputError(
            f"weights '{pipeline.bundle.name}' have no first-frame stage",
            hint="name others with --weights; seg2vid weights list shows the stages",
        )
    pipeline.check_edges(bool(plan.guides), option="--weights")
    pipeline.check_light(sample.light)
    edge_variety = edge_variety if plan.guides else 0.0
    rate = fps or pipeline.bundle.fps or DEFAULT_FPS
    for path in (plan.output, plan.panel):
        if path is not None:
            check_fps(path, rate)
    size = plan_size(plan.size_hw, pipeline.bundle.size_hw, room_hw=size_hw, fit=fit)
    metadata = {
        "tool": TOOL,
        "version": __version__,
        "weights": pipeline.painted_by,
        "weights_sha256": pipeline.weights_sha256,
        "seed": sample.seed,
        "variant": sample.variant,
        "edges": bool(plan.guides),
        "edge_variety": edge_variety,
        "light": sample.light,
    }
    shown = set(choose_frames(len(plan), PREVIEW_FRAMES)) if plan.preview else set()
    sheet: list[tuple[int, NDArray[np.uint8]]] = []
    with ExitStack() as stack:
        sinks = list(_sinks(plan, size, rate, quality, metadata, stack))
        for index in range(len(plan)):
            labels, guide = plan.read(index)
            edges = None if guide is None else guide.edges(size, pipeline.edge_threshold)
            clip = pipeline.generate(
                labels,
                sample=sample,
                frames=1,
                fps=rate,
                size_hw=size,
                exact=True,
                edges=edges,
                edge_variety=edge_variety,
                various=False,
            )
            frame = next(iter(clip)).frame
            for sink in sinks:
                sink(index, frame, clip.labels, edges)
            if index in shown:
                sheet.append((index, frame))
            progress("frames", index + 1, len(plan))
    if plan.preview is not None:
        captions = [f"{plan.labels[i].stem}  {i / rate:.2f} s" for i, _ in sheet]
        pictures = [frame for _, frame in sheet]
        write_png(plan.preview, contact_sheet(pictures, captions, columns=PREVIEW_COLUMNS))
    return TranslationReport(
        plan=plan,
        weights=pipeline.painted_by,
        size_hw=size,
        fps=rate,
        sample=sample,
        edge_variety=edge_variety,
        device=pipeline.compute.device.type,
        precision=pipeline.compute.precision,
        seconds=time.monotonic() - start,
    )


Sink = Callable[[int, NDArray[np.uint8], LabelMap, NDArray[np.bool_] | None], None]


def _sinks(
    plan: TranslationPlan,
    size_hw: tuple[int, int],
    fps: float,
    quality: float,
    metadata: dict[str, Any],
    stack: ExitStack,
) -> Iterator[Sink]:
    """What happens to every frame; the files are finished with the stack."""
    if plan.frames is not None:
        folder = stack.enter_context(open_folder(plan.frames, metadata=metadata))
        yield lambda i, frame, _l, _e: folder.write(FRAME_PATTERN % i, encode_png(frame))
    if plan.panel is not None:
        blank = np.zeros((*size_hw, 3), np.uint8)
        guided = np.zeros(size_hw, np.bool_) if plan.guides else None
        height, width = _panel(0, blank, blank, guided).shape[:2]
        panel = stack.enter_context(
            open_video(
                plan.panel, size_hw=(height, width), fps=fps, quality=quality, metadata=metadata
            )
        )
        yield lambda i, frame, labels, edges: panel.write(
            _panel(i, frame, colour_picture(labels.train_ids), edges)
        )
    # Entered last, so finished first: an encoder is likelier to fail than moving ready files.
    video = stack.enter_context(
        open_video(plan.output, size_hw=size_hw, fps=fps, quality=quality, metadata=metadata)
    )
    yield lambda _i, frame, _l, _e: video.write(frame)


def _panel(
    index: int,
    frame: NDArray[np.uint8],
    labels: NDArray[np.uint8],
    edges: NDArray[np.bool_] | None,
) -> NDArray[np.uint8]:
    tiles = [("label map", labels)]
    if edges is not None:
        tiles.append(("edges", np.where(edges, 255, 0).astype(np.uint8)))
    return compose_panel([*tiles, (f"frame {index}", frame)])
