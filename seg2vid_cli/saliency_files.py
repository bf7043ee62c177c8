"""Videos, pictures and folders of pictures to saliency files: what `seg2vid saliency` does.

`plan_saliency` finds out before any heavy work whether everything can be read and written;
`run_saliency` then does it, one frame after the other. Label maps, fixation maps and densities
belong to pictures by name, and to the frames of a video in the order of their names.
"""

from __future__ import annotations

import json
import time
from collections import Counter
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import ExitStack
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Literal

import numpy as np
from numpy.typing import NDArray
from PIL import Image

from seg2vid_cli import __version__
from seg2vid_cli.errors import InputError, VideoError
from seg2vid_cli.first_frame import ASPECT_TOLERANCE, PICTURE_EXTENSIONS, open_picture
from seg2vid_cli.label_sets import CLASSES
from seg2vid_cli.label_view import share_text
from seg2vid_cli.labels import LABEL_EXTENSIONS, LabelMap, read_labels
from seg2vid_cli.numbered import list_files
from seg2vid_cli.saliency import (
    AttentionByClass,
    ClassAttention,
    SaliencyModel,
    SalientFrame,
    overlay,
    resize_map,
    saliency_to_grey,
)
from seg2vid_cli.saliency_metrics import FixationPool, Score
from seg2vid_cli.video import (
    VIDEO_EXTENSIONS,
    check_folder,
    check_output,
    open_folder,
    open_video,
    probe_video,
    read_frames,
    read_metadata,
)
from seg2vid_cli.visualize import encode_png, write_png

FIXATION_EXTENSIONS = (".png", ".bmp", ".tif", ".tiff")  # lossless: a pixel is fixated or not
DENSITY_EXTENSIONS = (".png", ".jpg", ".jpeg", ".bmp", ".tif", ".tiff")
MAP_PATTERN = "saliency_%05d.png"
OVERLAY_PATTERN = "overlay_%05d.png"
DEFAULT_FPS = 15.0  # of a folder that does not say
MIN_SIDE_PX = 16
SHOWN_CLASSES = 8

Style = Literal["overlay", "map", "both"]
STYLES: tuple[Style, ...] = ("overlay", "map", "both")
SourceKind = Literal["video", "picture", "folder"]
Progress = Callable[[str, int, int], None]  # stage, steps done, steps in all


@dataclass(frozen=True, kw_only=True)
class Source:
    """What is looked at.

    Args:
        path: As given.
        kind: A video, one picture, or a folder of pictures.
        files: The video, or every picture in the order of their names.
        sizes_hw: Height and width of every frame or picture.
        fps: Frames per second, where the source says.
    """

    path: Path
    kind: SourceKind
    files: tuple[Path, ...]
    sizes_hw: tuple[tuple[int, int], ...]
    fps: float | None = None

    def __len__(self) -> int:
        return len(self.sizes_hw)

    def frames(self) -> Iterator[NDArray[np.uint8]]:
        """Read uint8 `(H, W, 3)` RGB, one after the other."""
        if self.kind == "video":
            yield from read_frames(self.files[0])
        else:
            for file in self.files:
                yield np.asarray(open_picture(file))


@dataclass(frozen=True, kw_only=True)
class SaliencyPlan:
    """What will be read and written; made and checked by `plan_saliency`.

    Args:
        source: What is looked at.
        clip: True where the frames follow each other, so that SalEMA remembers.
        output: Video, picture or folder; None writes none.
        style: What it shows.
        maps: Folder for the maps as 8-bit PNGs.
        fps: Of a video output.
        labels: One label map per frame, or one for all; empty without.
        encoding: How they are read.
        fixations: One fixation map per frame; empty without.
        densities: One density per frame; empty without.
        elsewhere: Fixation maps of other pictures, for the shuffled AUC.
    """

    source: Source
    clip: bool
    output: Path | None = None
    style: Style = "overlay"
    maps: Path | None = None
    fps: float = DEFAULT_FPS
    labels: tuple[Path, ...] = ()
    encoding: str = "auto"
    fixations: tuple[Path, ...] = ()
    densities: tuple[Path, ...] = ()
    elsewhere: tuple[Path, ...] = ()


@dataclass(frozen=True, kw_only=True)
class SaliencyReport:
    """What `run_saliency` did.

    Args:
        plan: What was asked for.
        weights: Name of the weights.
        remembered: Whether a frame's map depends on the frames before.
        attention: Shares by class, the largest first; None without label maps.
        blank: Frames without any saliency, which have no shares.
        encodings: In which encodings the label maps were read.
        scores: Mean of each metric; None without fixation maps.
        scored: Pictures that were scored.
        unfixated: Pictures that were not, since nobody looked anywhere.
        written: Files and folders.
        seconds: Wall time.
    """

    plan: SaliencyPlan
    weights: str
    remembered: bool
    attention: Sequence[ClassAttention] | None
    blank: int
    encodings: tuple[str, ...]
    scores: Mapping[str, float] | None
    scored: int
    unfixated: int
    written: tuple[Path, ...]
    seconds: float

    def to_dict(self) -> dict[str, Any]:
        """As plain values, for `--json`."""
        source = self.plan.source
        sizes = sorted({f"{width}x{height}" for height, width in source.sizes_hw})
        facts: dict[str, Any] = {
            "source": str(source.path),
            "kind": source.kind,
            "frames": len(source),
            "sizes": sizes,
            "weights": self.weights,
            "memory": self.remembered,
            "outputs": [str(path) for path in self.written],
        }
        if self.attention is not None:
            facts["attention"] = attention_rows(self.attention)
            facts["frames without saliency"] = self.blank
            facts["encodings"] = list(self.encodings)
        if self.scores is not None:
            facts["scores"] = {name: round(value, 5) for name, value in self.scores.items()}
            facts["scored"] = self.scored
            facts["without fixations"] = self.unfixated
        return {**facts, "seconds": round(self.seconds, 3)}

    def to_json(self) -> str:
        """The machine-readable result."""
        return json.dumps(self.to_dict(), indent=2)


def attention_rows(shares: Iterable[ClassAttention]) -> list[dict[str, Any]]:
    """Shares by class as plain values, for `--json`."""
    return [
        {
            "class": CLASSES[share.train_id].name,
            "train id": share.train_id,
            "attention": round(share.attention, 5),
            "area": round(share.area, 5),
        }
        for share in shares
    ]


def attention_text(shares: Sequence[ClassAttention]) -> str:
    """Shares of the first few classes, for a report."""
    if not shares:
        return "nothing: every map is black"
    return ", ".join(
        f"{CLASSES[share.train_id].name} {share_text(share.attention)} "
        f"({share_text(share.area)} of the area)"
        for share in shares[:SHOWN_CLASSES]
    )


# ---- what there is -------------------------------------------------------------------------------


def open_source(path: Path) -> Source:
    """Find out what a path holds; every frame or picture is decoded once.

    Raises:
        InputError: Missing, of an unknown kind, damaged, empty or too small.
    """
    if path.is_dir():
        files = list_files(path, PICTURE_EXTENSIONS)
        if not files:
            raise InputError(
                f"{path}: holds no pictures",
                hint=f"known are {', '.join(PICTURE_EXTENSIONS)}",
            )
        sizes = tuple(_size_of(file) for file in files)
        source = Source(
            path=path, kind="folder", files=files, sizes_hw=sizes, fps=_fps_of_folder(path)
        )
    elif path.suffix.lower() in VIDEO_EXTENSIONS:
        source = _open_video(path)
    elif path.suffix.lower() in PICTURE_EXTENSIONS or path.is_file():
        source = Source(path=path, kind="picture", files=(path,), sizes_hw=(_size_of(path),))
    else:
        raise InputError(
            f"{path}: there is no such file or folder",
            hint=f"give a video ({', '.join(VIDEO_EXTENSIONS)}), a picture or a folder of pictures",
        )
    for (height, width), file in zip(source.sizes_hw, _each(source), strict=True):
        if min(height, width) < MIN_SIDE_PX:
            raise InputError(
                f"{file}: {width}x{height} is too small, at least {MIN_SIDE_PX} each way"
            )
    return source


def _open_video(path: Path) -> Source:
    """A video, or an animation with one frame, which is a picture."""
    try:
        info = probe_video(path)
        # Where the frame rate varies, frames are repeated to make up a steady one.
        frames = sum(1 for _ in read_frames(path))
    except VideoError as error:
        raise InputError(error.message, hint="give a video that plays to its end") from error
    moving = frames > 1 or path.suffix.lower() == ".mp4"
    return Source(
        path=path,
        kind="video" if moving else "picture",
        files=(path,),
        sizes_hw=(info.size_hw,) * frames,
        fps=frames / info.duration_s if moving and info.duration_s > 0 else None,
    )


def _each(source: Source) -> Iterator[Path]:
    return iter(source.files * len(source) if source.kind == "video" else source.files)


def _size_of(path: Path) -> tuple[int, int]:
    picture = open_picture(path)
    return picture.height, picture.width


def _fps_of_folder(folder: Path) -> float | None:
    """The rate that `seg2vid generate --save-frames` notes in the folder."""
    fps = (read_metadata(folder) or {}).get("fps")
    return float(fps) if isinstance(fps, (int, float)) and 0 < fps < 1000 else None


def _matched(
    path: Path | None, source: Source, extensions: Sequence[str], what: str, *, one_for_all: bool
) -> tuple[Path, ...]:
    """Files that belong to the source's frames, in their order.

    Raises:
        InputError: One is missing, or there are more or fewer than the frames of a video.
    """
    if path is None:
        return ()
    if not path.is_dir():
        if not path.is_file():
            raise InputError(f"{path}: there is no such file or folder", hint=f"give {what}s")
        if len(source) > 1 and not one_for_all:
            raise InputError(
                f"{path}: is one {what} for {len(source)} frames or pictures",
                hint=f"give a folder with one {what} for each",
            )
        return (path,)
    files = list_files(path, extensions)
    if source.kind == "video":
        if len(files) != len(source):
            raise InputError(
                f"{path}: {len(files)} files ({', '.join(extensions)}) for {len(source)} frames",
                hint=f"give one {what} for each frame; they are taken in the order of their names",
            )
        return files
    by_stem = {file.stem: file for file in files}
    by_start: dict[str, list[Path]] = {}
    for file in files:
        by_start.setdefault(file.name.split(".")[0], []).append(file)
    found = []
    for picture in source.files:
        candidates = by_start.get(picture.name.split(".")[0], [])
        match = by_stem.get(picture.stem) or (candidates[0] if len(candidates) == 1 else None)
        if match is None:
            raise InputError(
                f"{path}: has no {what} for {picture.name}",
                hint=f"name it {picture.stem}{extensions[0]}",
            )
        found.append(match)
    return tuple(found)


def read_fixations(path: Path) -> NDArray[np.bool_]:
    """Read a fixation map: a pixel that is not 0 (black) was looked at.

    Returns:
        `(H, W)`.

    Raises:
        InputError: Not a lossless picture, or damaged.
    """
    if path.suffix.lower() not in FIXATION_EXTENSIONS:
        raise InputError(
            f"{path}: a fixation map is a lossless picture",
            hint=f"save it as one of {', '.join(FIXATION_EXTENSIONS)}",
        )
    fixated: NDArray[np.bool_] = _read_grey(path) > 0
    return fixated


def read_density(path: Path) -> NDArray[np.float64]:
    """Read a density map: grey, any scale; more is denser.

    Returns:
        `(H, W)`.

    Raises:
        InputError: Not a picture, or damaged.
    """
    return _read_grey(path).astype(np.float64)


def _read_grey(path: Path) -> NDArray[Any]:
    try:
        with Image.open(path) as image:
            if image.mode in ("L", "F") or image.mode.startswith("I"):
                return np.asarray(image)
            brightest: NDArray[np.uint8] = np.asarray(image.convert("RGBA").convert("RGB")).max(2)
            return brightest
    except (OSError, ValueError, SyntaxError, Image.DecompressionBombError) as error:
        reason = getattr(error, "strerror", None) or "not a picture that can be read"
        raise InputError(f"{path}: {reason}", hint="save it as a grey PNG") from error


# ---- checks before any work ----------------------------------------------------------------------


def plan_saliency(
    path: Path,
    *,
    output: Path | None = None,
    style: str = "overlay",
    maps: Path | None = None,
    clip: bool | None = None,
    fps: float | None = None,
    labels: Path | None = None,
    encoding: str = "auto",
    fixations: Path | None = None,
    densities: Path | None = None,
    elsewhere: Path | None = None,
) -> SaliencyPlan:
    """Check everything that is to be read and written, before a network is loaded.

    Args:
        path: A video, a picture, or a folder of pictures.
        output: `.mp4`, `.gif` or `.webp` for a video or a folder, `.png` for a picture, a folder
            (one PNG for each picture, of the same name) for a folder.
        style: `overlay`, `map`, or `both` side by side.
        maps: Folder for the maps as 8-bit PNGs.
        clip: Whether a folder's pictures, or a video's frames, follow each other. By default a
            video's do, and a folder's where the output is a video.
        fps: Of a video made from a folder; else what the source says.
        labels: A label map for all frames, or a folder with one for each.
        encoding: How they are read, see `labels.read_labels`.
        fixations: A fixation map, or a folder with one for each; see `read_fixations`.
        densities: A density, or a folder with one for each; see `read_density`.
        elsewhere: Folder of fixation maps of other pictures, for the shuffled AUC.

    Raises:
        InputError: Something given cannot be used; nothing has been written.
    """
    if style not in STYLES:
        raise InputError(f"style '{style}' is not known", hint=f"use one of {', '.join(STYLES)}")
    if not any((output, maps, labels, fixations)):
        raise InputError(
            "nothing to do", hint="add -o FILE, --save-maps DIR, --labels FILE|DIR or --score DIR"
        )
    for other, name in ((densities, "--densities"), (elsewhere, "--others")):
        if other is not None and fixations is None:
            raise InputError(f"{name} is for scoring", hint="add --score FIXATIONS")
    source = open_source(path)
    is_video = output is not None and output.suffix.lower() in VIDEO_EXTENSIONS
    if clip is None:
        clip = source.kind == "video" or (source.kind == "folder" and is_video)
    plan = SaliencyPlan(
        source=source,
        clip=clip and source.kind != "picture",
        output=output,
        style=next(known for known in STYLES if known == style),
        maps=maps,
        fps=_fps(source, fps, is_video=is_video),
        labels=_matched(labels, source, LABEL_EXTENSIONS, "label map", one_for_all=clip),
        encoding=encoding,
        fixations=_matched(
            fixations, source, FIXATION_EXTENSIONS, "fixation map", one_for_all=False
        ),
        densities=_matched(densities, source, DENSITY_EXTENSIONS, "density", one_for_all=False),
        elsewhere=_folder_of_fixations(elsewhere),
    )
    _check_outputs(plan, folders=(labels, fixations, densities, elsewhere))
    _check_guides(plan)
    return plan


def _fps(source: Source, fps: float | None, *, is_video: bool) -> float:
    if fps is not None and (source.kind != "folder" or not is_video):
        raise InputError(
            "--fps is for a video made from a folder of pictures", hint="leave --fps out"
        )
    return fps or source.fps or DEFAULT_FPS


def _folder_of_fixations(folder: Path | None) -> tuple[Path, ...]:
    if folder is None:
        return ()
    files = list_files(folder, FIXATION_EXTENSIONS) if folder.is_dir() else ()
    if not files:
        raise InputError(
            f"{folder}: is no folder with fixation maps",
            hint=f"known are {', '.join(FIXATION_EXTENSIONS)}",
        )
    return files


def _check_outputs(plan: SaliencyPlan, *, folders: Sequence[Path | None]) -> None:
    source, output, maps = plan.source, plan.output, plan.maps
    inputs = {file.resolve() for file in (*source.files, *plan.labels, *plan.fixations)}
    inputs |= {file.resolve() for file in (*plan.densities, *plan.elsewhere)}
    taken = {path.resolve() for path in (source.path, *folders) if path is not None} | inputs
    for path in (output, maps):
        if path is not None and path.resolve() in taken:
            raise InputError(f"{path}: is also an input", hint="name another to write to")
    if output is not None and maps is not None and output.resolve() == maps.resolve():
        raise InputError(f"{output}: is named twice", hint="give every output its own name")
    if source.kind != "video":
        stems = Counter(file.stem for file in source.files)
        if twice := next((stem for stem, count in stems.items() if count > 1), None):
            raise InputError(
                f"{source.path}: two pictures are named {twice}", hint="rename one of them"
            )
    if maps is not None:
        _check_target_folder(maps, inputs)
    if output is None:
        return
    if source.kind == "picture":
        check_output(output, extensions=(".png",))
    elif output.suffix.lower() in VIDEO_EXTENSIONS:
        first = source.sizes_hw[0]
        if other := next((size for size in source.sizes_hw if size != first), None):
            raise InputError(
                f"{source.path}: holds pictures of {_size(first)} and of {_size(other)}, and a "
                "video has one size",
                hint="give a folder with -o to write one picture for each",
            )
        size = _shown_size(first, plan.style)
        check_output(output, size_hw=size)
        open_video(output, size_hw=size, fps=plan.fps)
    elif source.kind == "folder" and (output.is_dir() or not output.suffix):
        _check_target_folder(output, inputs)
    else:
        known = ", ".join(VIDEO_EXTENSIONS)
        also = ", or a folder (a name without extension)" if source.kind == "folder" else ""
        raise InputError(f"{output}: cannot be written", hint=f"give one of {known}{also}")


def _check_target_folder(folder: Path, inputs: set[Path]) -> None:
    check_folder(folder)
    lying = next((path for path in inputs if path.parent == folder.resolve()), None)
    if lying is not None:
        raise InputError(
            f"{lying}: lies in {folder}, where files are replaced",
            hint="name another folder to write into",
        )


def _check_guides(plan: SaliencyPlan) -> None:
    """Read all label maps, fixation maps and densities once."""
    sizes = plan.source.sizes_hw
    for place, path in enumerate(plan.labels):
        found = read_labels(path, encoding=plan.encoding).size_hw
        _check_aspect(path, found, sizes[place])
    fixated = 0
    for path, size in zip(plan.fixations, sizes, strict=False):
        fixations = read_fixations(path)
        _check_aspect(path, fixations.shape, size)
        fixated += bool(fixations.any())
    if plan.fixations and not fixated:
        raise InputError(
            f"{plan.fixations[0].parent}: nobody looked anywhere: every fixation map is black",
            hint="pixels that were looked at must not be 0",
        )
    for path, density_of, size in zip(plan.densities, plan.fixations, sizes, strict=False):
        shape = read_density(path).shape
        if shape != read_fixations(density_of).shape:
            _check_aspect(path, shape, size)
    for path in plan.elsewhere:
        read_fixations(path)


def _check_aspect(path: Path, found: tuple[int, ...], wanted: tuple[int, int]) -> None:
    height, width = found
    stretched = (width / height) / (wanted[1] / wanted[0])
    if abs(stretched - 1) > ASPECT_TOLERANCE:
        raise InputError(
            f"{path}: {width}x{height} has another aspect ratio than its picture ({_size(wanted)})",
            hint="give a map that shows what the picture shows",
        )


def _size(size_hw: tuple[int, int]) -> str:
    return f"{size_hw[1]}x{size_hw[0]}"


def _shown_size(size_hw: tuple[int, int], style: Style) -> tuple[int, int]:
    return size_hw[0], size_hw[1] * (2 if style == "both" else 1)


# ---- the work ------------------------------------------------------------------------------------


def render(seen: SalientFrame, style: Style) -> NDArray[np.uint8]:
    """Paint a frame and its map.

    Args:
        seen: The frame.
        style: `overlay` (map over frame), `map` (grey), `both` (side by side).

    Returns:
        uint8 `(H, W, 3)` RGB; twice as wide for `both`.
    """
    grey = np.repeat(saliency_to_grey(seen.saliency)[..., None], 3, axis=2)
    if style == "map":
        return grey
    painted = overlay(seen.frame, seen.saliency)
    return painted if style == "overlay" else np.concatenate([painted, grey], axis=1)


@dataclass
class _Judge:
    """Scores frames as they come."""

    plan: SaliencyPlan
    score: Score = field(default_factory=Score)
    pool: FixationPool | None = None

    def __post_init__(self) -> None:
        plan = self.plan
        # Neighbouring frames are looked at alike, so they are no measure of what is common to all.
        files = plan.elsewhere or (() if plan.clip else plan.fixations)
        if plan.fixations and (plan.elsewhere or len(files) > 1):
            self.pool = FixationPool()
            for path in files:
                self.pool.add(read_fixations(path))

    def add(self, seen: SalientFrame) -> None:
        if not self.plan.fixations:
            return
        fixated = read_fixations(self.plan.fixations[seen.index])
        height, width = fixated.shape
        saliency = resize_map(seen.saliency, (height, width))
        density: NDArray[np.floating] | None = None
        elsewhere = None
        if self.plan.densities:
            density = read_density(self.plan.densities[seen.index])
            if density.shape != fixated.shape:
                density = resize_map(density.astype(np.float32), (height, width))
        if self.pool is not None:
            own = None if self.plan.elsewhere else fixated
            elsewhere = self.pool.counts((height, width), without=own)
        self.score.add(saliency, fixated, density=density, elsewhere=elsewhere)


class _ByClass:
    """Adds up attention by class as frames come; one map for all frames is read once."""

    def __init__(self, plan: SaliencyPlan) -> None:
        self.plan = plan
        self.attention = AttentionByClass()
        self.encodings: dict[str, None] = {}  # in the order in which they occur
        self._only: LabelMap | None = None

    def add(self, seen: SalientFrame) -> None:
        paths = self.plan.labels
        if not paths:
            return
        if len(paths) > 1 or self._only is None:
            self._only = read_labels(
                paths[min(seen.index, len(paths) - 1)], encoding=self.plan.encoding
            )
            self.encodings[self._only.encoding] = None
        self.attention.add(seen.saliency, self._only)


def run_saliency(
    plan: SaliencyPlan,
    model: SaliencyModel,
    *,
    progress: Progress = lambda stage, done, total: None,
) -> SaliencyReport:
    """Look at every frame and write what was asked for; memory does not grow with their number.

    Args:
        plan: What to do.
        model: The network.
        progress: Called with stage, steps done and steps in all.

    Raises:
        InputError: A file has changed since the plan was made.
        VideoError: A file could not be written. Every file is complete or as it was before.
    """
    start = time.monotonic()
    judge, by_class = _Judge(plan), _ByClass(plan)
    with ExitStack() as stack:
        sinks = [judge.add, by_class.add, *_sinks(plan, model, stack)]
        count = 0
        for seen in model.watch(plan.source.frames(), remember=plan.clip):
            count += 1
            if count > len(plan.source):
                raise _changed(plan.source)
            for sink in sinks:
                sink(seen)
            progress("saliency", count, len(plan.source))
        if count != len(plan.source):
            raise _changed(plan.source)
    return SaliencyReport(
        plan=plan,
        weights=model.name,
        remembered=model.remembers and plan.clip,
        attention=by_class.attention.shares() if plan.labels else None,
        blank=by_class.attention.blank,
        encodings=tuple(by_class.encodings),
        scores=judge.score.means() if plan.fixations else None,
        scored=judge.score.pictures,
        unfixated=judge.score.unfixated,
        written=tuple(path for path in (plan.output, plan.maps) if path is not None),
        seconds=time.monotonic() - start,
    )


def _changed(source: Source) -> InputError:
    return InputError(f"{source.path}: has changed in the meantime", hint="start again")


def _sinks(
    plan: SaliencyPlan, model: SaliencyModel, stack: ExitStack
) -> Iterator[Callable[[SalientFrame], None]]:
    """What happens to every frame; files that span several frames are closed with the stack."""
    source, output, style = plan.source, plan.output, plan.style
    metadata = {"tool": "seg2vid saliency", "version": __version__, "weights": model.name}
    if plan.maps is not None:
        if source.kind == "video":
            maps = stack.enter_context(open_folder(plan.maps, patterns=(MAP_PATTERN,)))
            yield lambda seen: maps.write(
                MAP_PATTERN % seen.index, encode_png(saliency_to_grey(seen.saliency))
            )
        else:
            yield _OnePicture(plan.maps, source, lambda seen: saliency_to_grey(seen.saliency))
    if output is None:
        return
    if output.suffix.lower() in VIDEO_EXTENSIONS:
        size = _shown_size(source.sizes_hw[0], style)
        video = stack.enter_context(
            open_video(output, size_hw=size, fps=plan.fps, metadata=metadata)
        )
        yield lambda seen: video.write(render(seen, style))
    elif source.kind == "picture":
        yield lambda seen: write_png(output, _still(seen, style))
    else:
        yield _OnePicture(output, source, lambda seen: _still(seen, style))


def _still(seen: SalientFrame, style: Style) -> NDArray[np.uint8]:
    return saliency_to_grey(seen.saliency) if style == "map" else render(seen, style)


@dataclass(frozen=True)
class _OnePicture:
    """Writes one PNG for each picture, of the same name, into a folder that it makes if needed."""

    folder: Path
    source: Source
    paint: Callable[[SalientFrame], NDArray[np.uint8]]

    def __call__(self, seen: SalientFrame) -> None:
        try:
            self.folder.mkdir(exist_ok=True)
        except OSError as error:
            raise InputError(f"{self.folder}: cannot be made: {error.strerror}") from error
        write_png(self.folder / f"{self.source.files[seen.index].stem}.png", self.paint(seen))
