"""Frames -> MP4, GIF, WebP or a folder of files; and back.

Everything is written into a hidden temporary folder next to the target, read back, and renamed
into place: the target is the old file or the complete new one, never half of one. Frames go
straight to the encoder (GIF and WebP too, one encoded frame after the other), so memory does not
grow with their number.

The facts about how a clip was made travel inside it as one JSON object: MP4 `comment` tag, GIF
comment, WebP EXIF image description, and `clip.json` in a folder. The JSON is plain ASCII (other
characters are `\\u` escapes), so no player or file system can garble it.
"""

from __future__ import annotations

import contextlib
import io
import json
import math
import os
import re
import struct
import subprocess
import tempfile
import threading
from collections import deque
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from fractions import Fraction
from functools import lru_cache
from pathlib import Path
from types import TracebackType
from typing import Any, BinaryIO, Protocol

import imageio_ffmpeg
import numpy as np
from numpy.typing import NDArray
from PIL import Image

from seg2vid_cli.errors import InputError, ShapeError, VideoError

VIDEO_EXTENSIONS = (".mp4", ".gif", ".webp")
FRAME_PATTERN = "frame_%05d.png"
METADATA_FILE = "clip.json"
DEFAULT_QUALITY = 8.0
NVENC_PROBE_S = 20.0

# GIF delays under 20 ms and WebP ones under 11 ms are played at 100 ms by browsers.
_MAX_FPS = {".mp4": 1000.0, ".gif": 50.0, ".webp": 90.0}
_EXIF_IMAGE_DESCRIPTION = 0x010E

# RGB is full range. Chroma is averaged over every pixel (full_chroma), not picked from every other.
_SCALE_FLAGS = "flags=bicubic+accurate_rnd+full_chroma_int+full_chroma_inp+bitexact"
_TO_BT709 = (
    f"scale=in_range=full:out_range=limited:out_color_matrix=bt709:{_SCALE_FLAGS},format=yuv420p,"
    "setparams=range=limited:color_primaries=bt709:color_trc=bt709:colorspace=bt709"
)
_TAGS = (
    *("-color_range", "tv", "-color_primaries", "bt709", "-color_trc", "bt709"),
    *("-colorspace", "bt709", "-movflags", "+faststart+write_colr"),
)
# x264's result depends on its number of threads, which it otherwise takes from the machine.
_REPRODUCIBLE = ("-threads", "4", "-flags:v", "+bitexact", "-fflags", "+bitexact")


@dataclass(frozen=True, kw_only=True)
class VideoInfo:
    """What a video file holds, from decoding all of it.

    `colour_range` is "tv" (limited) or "pc" (full); `colour_space` is "bt709" where matrix,
    primaries and transfer all are, else "matrix/primaries/transfer". None where not known.
    """

    frames: int
    size_hw: tuple[int, int]
    fps: float
    duration_s: float
    codec: str
    pixel_format: str | None = None
    colour_range: str | None = None
    colour_space: str | None = None


# ---- checks before any work ----------------------------------------------------------------------


def check_output(
    path: Path,
    *,
    extensions: Sequence[str] = VIDEO_EXTENSIONS,
    size_hw: tuple[int, int] | None = None,
) -> None:
    """Make sure that `path` can be written, before any heavy work.

    Args:
        path: The file to be written; it may exist.
        extensions: Which endings are known, in lower case with the dot.
        size_hw: Size of the frames, where it is known already.
    Raises:
        InputError: Unknown extension, a folder, a missing or unwritable parent, an odd MP4 size.
    """
    if path.suffix.lower() not in extensions:
        raise InputError(
            f"{path}: unknown file extension {path.suffix!r}",
            hint=f"use one of {', '.join(extensions)}",
        )
    if path.is_dir():
        raise InputError(f"{path} is a folder", hint="name a file, for example clip.mp4")
    _check_parent(path)
    if size_hw is not None:
        _check_size(path, size_hw)


def check_folder(folder: Path) -> None:
    """Make sure that `folder` can be made, or written into, before any heavy work.

    Raises:
        InputError: It is a file, it is unwritable, or it has to be made and its parent is missing
            or unwritable.
    """
    if folder.exists() and not folder.is_dir():
        raise InputError(f"{folder} is a file, not a folder", hint="name another folder")
    if folder.is_dir():
        _temporary_folder(folder).cleanup()
    else:
        _check_parent(folder)


def _check_parent(path: Path) -> None:
    parent = _resolve(path).parent
    if not parent.is_dir():
        raise InputError(
            f"{path}: the folder {parent} does not exist", hint=f"create it: mkdir -p '{parent}'"
        )
    _temporary_folder(parent).cleanup()


def _check_size(path: Path, size_hw: tuple[int, int]) -> None:
    height, width = size_hw
    if height < 1 or width < 1:
        raise InputError(f"{path}: frames of {width}x{height} cannot be written")
    if path.suffix.lower() == ".mp4" and (height % 2 or width % 2):
        raise InputError(
            f"{path}: an MP4 needs an even width and height, not {width}x{height}",
            hint="choose an even size, or write a .gif or .webp",
        )


def check_fps(path: Path, fps: float) -> None:
    """Make sure that a format can play a rate.

    Raises:
        InputError: It cannot.
    """
    limit = _MAX_FPS[path.suffix.lower()]
    if not (math.isfinite(fps) and 0.01 <= fps <= limit):
        raise InputError(
            f"{path}: cannot play {fps:g} frames per second",
            hint=f"{path.suffix.lower()} files take 0.01 to {limit:g}",
        )


def _check_quality(quality: float) -> None:
    if not 0 <= quality <= 10:  # also false for NaN
        raise InputError(f"quality {quality:g} is out of range", hint="use 0 (worst) to 10 (best)")


def _resolve(path: Path) -> Path:
    """Follow links, so that a link given as the target is kept and its file replaced."""
    return Path(os.path.realpath(path))


def _temporary_folder(parent: Path) -> tempfile.TemporaryDirectory[str]:
    try:
        return tempfile.TemporaryDirectory(prefix=".seg2vid-", dir=parent)
    except OSError as error:
        raise InputError(
            f"cannot write into {parent}: {error.strerror}",
            hint="choose another folder, or make this one writable",
        ) from error


@contextlib.contextmanager
def _writing(path: Path) -> Iterator[None]:
    try:
        yield
    except OSError as error:
        raise VideoError(
            f"cannot write {path}: {error.strerror or error}",
            hint="check the free disk space and the rights of the folder",
        ) from error


# ---- writing -------------------------------------------------------------------------------------


@dataclass(frozen=True, kw_only=True)
class _Job:
    path: Path  # as the user named it, for messages
    target: Path  # the temporary file
    size_hw: tuple[int, int]
    fps: float
    quality: float
    metadata: str
    gpu: bool


class _Encoder(Protocol):
    def add(self, frame: NDArray[np.uint8]) -> None: ...

    def close(self) -> None:
        """Complete the file."""

    def stop(self) -> None:
        """Let go of files and processes, whatever has happened before."""


class VideoWriter:
    """Writes one clip; made by `open_video` and used in a `with` block."""

    def __init__(
        self,
        path: Path,
        *,
        size_hw: tuple[int, int],
        fps: float,
        quality: float,
        metadata: str,
        gpu: bool = False,
    ) -> None:
        self._gpu = gpu
        self.path = path
        self.size_hw = size_hw
        self.fps = fps
        self._quality = quality
        self.frames_written = 0
        self._metadata = metadata

    def __enter__(self) -> VideoWriter:
        self._folder = _temporary_folder(_resolve(self.path).parent)
        suffix = self.path.suffix.lower()
        self._target = Path(self._folder.name) / f"clip{suffix}"
        job = _Job(
            path=self.path,
            target=self._target,
            size_hw=self.size_hw,
            fps=self.fps,
            quality=self._quality,
            metadata=self._metadata,
            gpu=self._gpu,
        )
        try:
            with _writing(self.path):
                self._encoder = _ENCODERS[suffix](job)
        except BaseException:
            self._folder.cleanup()
            raise
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        try:
            if kind is None:
                self._finish()
        finally:
            self._encoder.stop()
            self._folder.cleanup()

    def write(self, frame: NDArray[np.uint8]) -> None:
        """Add one frame.

        Args:
            frame: `uint8 (H, W, 3)` RGB.
        Raises:
            ShapeError: Another size or type than the writer was opened for.
            VideoError: The encoder failed, or the disk is full.
        """
        if frame.shape != (*self.size_hw, 3) or frame.dtype != np.uint8:
            raise ShapeError(
                f"{self.path}: expected uint8 frames of shape {(*self.size_hw, 3)}, "
                f"got {frame.dtype} {frame.shape}"
            )
        with _writing(self.path):
            self._encoder.add(np.ascontiguousarray(frame))
        self.frames_written += 1

    def _finish(self) -> None:
        if not self.frames_written:
            raise VideoError(f"{self.path}: no frames were written", hint="make at least one frame")
        with _writing(self.path):
            self._encoder.close()
        try:
            info = probe_video(self._target)
        except (InputError, VideoError) as error:
            raise VideoError(
                f"{self.path} could not be read back: {error.message}",
                hint="check the free disk space and try again",
            ) from error
        if (info.frames, info.size_hw) != (self.frames_written, self.size_hw):
            raise VideoError(
                f"{self.path} reads back as {info.frames} frames of {info.size_hw}, but "
                f"{self.frames_written} of {self.size_hw} were written",
                hint="check the free disk space and try again",
            )
        with _writing(self.path):
            self._target.replace(_resolve(self.path))


def open_video(
    path: Path,
    *,
    size_hw: tuple[int, int],
    fps: float,
    quality: float = DEFAULT_QUALITY,
    metadata: Mapping[str, object] | None = None,
    gpu: bool = False,
) -> VideoWriter:
    """Prepare to write a clip; the format follows the extension.

    ```python
    with open_video(Path("clip.mp4"), size_hw=(128, 256), fps=15) as video:
        for frame in frames:
            video.write(frame)
    ```
    Leaving the block by any exception keeps an older file as it was and leaves nothing behind.
    The same frames give the same bytes on the same machine. MP4 is H.264, yuv420p, BT.709 limited
    range, converted and tagged so.

    Args:
        path: `.mp4`, `.gif` or `.webp`.
        size_hw: Height and width of every frame; even for MP4.
        fps: Frames per second; GIF rounds each delay to 10 ms and WebP to 1 ms, without drift.
        quality: 0 (small) to 10 (best). MP4: CRF 40 to 12 (8 is CRF 17.6, visually lossless).
            WebP: ten times this. GIF: no effect (256 colours per frame).
        metadata: JSON-able facts to store in the file; see `read_metadata`.
        gpu: Let an NVIDIA GPU encode MP4, where it can; x264 else.
    Raises:
        InputError: A path, size, rate or quality that cannot be used.
    """
    check_output(path, size_hw=size_hw)
    check_fps(path, fps)
    _check_quality(quality)
    text = "" if metadata is None else json.dumps(dict(metadata), allow_nan=False)
    return VideoWriter(path, size_hw=size_hw, fps=fps, quality=quality, metadata=text, gpu=gpu)


class _Mp4Encoder:
    """Feeds raw frames to ffmpeg.

    Not `imageio_ffmpeg.write_frames`: it neither shows ffmpeg's exit code nor what ffmpeg said.
    """

    def __init__(self, job: _Job) -> None:
        self._path = job.path
        folder = job.target.parent
        height, width = job.size_hw
        fps = Fraction(job.fps).limit_denominator(1001)
        facts = folder / "metadata.txt"  # a file, because a command line has a length limit
        escaped = re.sub(r"([=;#\\\n])", r"\\\1", job.metadata)
        facts.write_text(f";FFMETADATA1\ncomment={escaped}\n" if escaped else ";FFMETADATA1\n")
        command = [
            *(_ffmpeg(), "-hide_banner", "-loglevel", "error", "-y"),
            *("-f", "rawvideo", "-pix_fmt", "rgb24", "-s", f"{width}x{height}", "-r", str(fps)),
            *("-i", "pipe:0", "-f", "ffmetadata", "-i", str(facts), "-map", "0:v"),
            *("-map_metadata", "1", "-vf", _TO_BT709, *_codec(job), *_TAGS, *_REPRODUCIBLE),
            str(job.target),
        ]
        # A session of its own: Ctrl-C reaches only this program, which then ends ffmpeg.
        self._process = subprocess.Popen(
            command,
            stdin=subprocess.PIPE,
            stdout=subprocess.DEVNULL,
            stderr=subprocess.PIPE,
            start_new_session=True,
        )
        # The last lines ffmpeg says are kept in memory: the disk may be full.
        self._said: deque[bytes] = deque(maxlen=4)
        assert self._process.stderr is not None
        self._listener = threading.Thread(
            target=self._said.extend, args=(self._process.stderr,), daemon=True
        )
        self._listener.start()

    def add(self, frame: NDArray[np.uint8]) -> None:
        assert self._process.stdin is not None
        try:
            self._process.stdin.write(frame.data)
        except OSError as error:  # ffmpeg has gone
            raise self._failure() from error

    def close(self) -> None:
        assert self._process.stdin is not None
        with contextlib.suppress(OSError):  # the exit code tells more
            self._process.stdin.close()
        if self._process.wait():
            raise self._failure()

    def stop(self) -> None:
        assert self._process.stdin is not None
        assert self._process.stderr is not None
        if self._process.poll() is None:
            self._process.kill()
        with contextlib.suppress(OSError):
            self._process.stdin.close()
        self._process.wait()
        self._listener.join()
        self._process.stderr.close()

    def _failure(self) -> VideoError:
        code = self._process.wait()
        self._listener.join()
        said = _last_lines(b"".join(self._said))
        return VideoError(
            f"cannot write {self._path}: ffmpeg stopped with code {code}{said}",
            hint="check the free disk space and the rights of the folder, then try again",
        )


def _codec(job: _Job) -> tuple[str, ...]:
    crf = f"{40 - 2.8 * job.quality:.1f}"
    if job.gpu and nvenc_works(job.size_hw):
        return ("-c:v", "h264_nvenc", "-preset", "p5", "-rc", "vbr", "-cq", crf, "-b:v", "0")
    return ("-c:v", "libx264", "-preset", "medium", "-crf", crf)


@lru_cache(maxsize=8)
def nvenc_works(size_hw: tuple[int, int]) -> bool:
    """Whether an NVIDIA GPU encodes H.264 at a size here: found out by encoding one frame.

    Cards differ in what they encode, data-centre ones may lack the encoder, and small frames are
    refused.
    """
    size = f"{size_hw[1]}x{size_hw[0]}"
    command = [
        *(_ffmpeg(), "-hide_banner", "-nostdin", "-loglevel", "error", "-f", "lavfi"),
        *("-i", f"color=size={size}", "-frames:v", "1", "-pix_fmt", "yuv420p"),
        *("-c:v", "h264_nvenc", "-f", "null", "-"),
    ]
    try:
        done = subprocess.run(command, capture_output=True, timeout=NVENC_PROBE_S, check=False)
    except (OSError, subprocess.TimeoutExpired):
        return False
    return done.returncode == 0


def _ffmpeg() -> str:
    try:
        return str(imageio_ffmpeg.get_ffmpeg_exe())
    except RuntimeError as error:
        raise VideoError(
            f"no ffmpeg was found: {error}",
            hint="reinstall imageio-ffmpeg, or point IMAGEIO_FFMPEG_EXE at an ffmpeg",
        ) from error


def _last_lines(said: bytes, count: int = 4) -> str:
    lines = said.decode("utf-8", "replace").strip().splitlines()[-count:]
    return "".join(f"\n  {line.strip()}" for line in lines)


class _Delays:
    """Whole-tick delays whose sum stays within half a tick of the true time."""

    def __init__(self, fps: float, ticks_per_second: int) -> None:
        self._ticks_per_frame = ticks_per_second / Fraction(fps).limit_denominator(1001)
        self._count = 0

    def next(self) -> int:
        start = round(self._count * self._ticks_per_frame)
        self._count += 1
        return round(self._count * self._ticks_per_frame) - start


class _GifEncoder:
    """Appends Pillow's still GIFs as frames, each with its own palette.

    Pillow's own animations drop repeated frames and hold all of them in memory.
    """

    def __init__(self, job: _Job) -> None:
        height, width = job.size_hw
        self._delays = _Delays(job.fps, 100)
        self._file: BinaryIO = job.target.open("wb")
        self._file.write(b"GIF89a" + struct.pack("<HHBBB", width, height, 0x70, 0, 0))
        self._file.write(b"!\xff\x0bNETSCAPE2.0\x03\x01\x00\x00\x00")  # repeat for ever
        text = job.metadata.encode("ascii")
        if text:
            parts = [text[i : i + 255] for i in range(0, len(text), 255)]
            self._file.write(b"!\xfe" + b"".join(bytes([len(p)]) + p for p in parts) + b"\0")

    def add(self, frame: NDArray[np.uint8]) -> None:
        buffer = io.BytesIO()
        image = Image.fromarray(frame)
        # Median cut greys small bright lights and is 20 times slower; dithering keeps skies smooth.
        palette = image.quantize(256, method=Image.Quantize.FASTOCTREE)
        image.quantize(palette=palette).save(buffer, "GIF", interlace=False)
        still = buffer.getvalue()
        table_bits = still[10] & 7
        table_end = 13 + 3 * 2 ** (table_bits + 1)
        if still[table_end : table_end + 1] != b",":
            raise VideoError("this version of Pillow writes GIF files that are not understood")
        control = b"!\xf9\x04\x04" + struct.pack("<HBB", self._delays.next(), 0, 0)
        descriptor = still[table_end : table_end + 9] + bytes([0x80 | table_bits])
        self._file.write(control + descriptor + still[13:table_end] + still[table_end + 10 : -1])

    def close(self) -> None:
        self._file.write(b";")
        self._file.close()

    def stop(self) -> None:
        with contextlib.suppress(OSError):
            self._file.close()


class _WebpEncoder:
    """Appends Pillow's still WebPs as frames of one animation (RIFF container of the format).

    Pillow's own animations drop repeated frames and need all of them at once.
    """

    def __init__(self, job: _Job) -> None:
        height, width = job.size_hw
        self._size = _u24(width - 1) + _u24(height - 1)
        self._quality = round(10 * job.quality)
        self._delays = _Delays(job.fps, 1000)
        self._metadata = job.metadata
        self._file: BinaryIO = job.target.open("wb")
        flags = 0x02 | (0x08 if self._metadata else 0)  # animation, EXIF
        self._file.write(b"RIFF\0\0\0\0WEBP")
        self._chunk(b"VP8X", bytes([flags, 0, 0, 0]) + self._size)
        self._chunk(b"ANIM", b"\xff\xff\xff\xff\0\0")  # white background, repeat for ever

    def add(self, frame: NDArray[np.uint8]) -> None:
        buffer = io.BytesIO()
        Image.fromarray(frame).save(buffer, "WEBP", quality=self._quality, method=4)
        still = buffer.getvalue()
        if still[12:16] not in (b"VP8 ", b"VP8L"):
            raise VideoError("this version of Pillow writes WebP files that are not understood")
        head = bytes(6) + self._size + _u24(self._delays.next()) + b"\x02"  # at 0, 0; no blending
        self._chunk(b"ANMF", head + still[12:])

    def close(self) -> None:
        if self._metadata:
            exif = Image.Exif()
            exif[_EXIF_IMAGE_DESCRIPTION] = self._metadata
            self._chunk(b"EXIF", exif.tobytes().removeprefix(b"Exif\0\0"))
        size = self._file.tell()
        self._file.seek(4)
        self._file.write(struct.pack("<I", size - 8))
        self._file.close()

    def stop(self) -> None:
        with contextlib.suppress(OSError):
            self._file.close()

    def _chunk(self, name: bytes, data: bytes) -> None:
        self._file.write(name + struct.pack("<I", len(data)) + data + b"\0" * (len(data) % 2))


_ENCODERS: dict[str, Callable[[_Job], _Encoder]] = {
    ".mp4": _Mp4Encoder,
    ".gif": _GifEncoder,
    ".webp": _WebpEncoder,
}


def _u24(value: int) -> bytes:
    return value.to_bytes(3, "little")


# ---- folders and single files --------------------------------------------------------------------


class FolderWriter:
    """Writes numbered files into a folder; made by `open_folder`, used in a `with` block."""

    def __init__(self, folder: Path, *, patterns: Sequence[str], metadata: str) -> None:
        self.folder = folder
        self.files_written = 0
        self._patterns = [_pattern(pattern) for pattern in patterns]
        self._metadata = metadata

    def __enter__(self) -> FolderWriter:
        folder = _resolve(self.folder)  # an existing one may be another file system than its parent
        self._temporary = _temporary_folder(folder if folder.is_dir() else folder.parent)
        self._files = Path(self._temporary.name) / "files"
        self._files.mkdir()
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        try:
            if kind is None:
                with _writing(self.folder):
                    self._finish()
        finally:
            self._temporary.cleanup()

    def write(self, name: str, data: bytes) -> None:
        """Add one file.

        Args:
            name: A file name that fits one of the patterns.
            data: Its contents.
        Raises:
            ValueError: A name that fits no pattern.
            VideoError: The disk is full.
        """
        if not self._owns(name):
            raise ValueError(f"{name!r} fits none of the patterns of {self.folder}")
        with _writing(self.folder / name):
            (self._files / name).write_bytes(data)
        self.files_written += 1

    def _owns(self, name: str) -> bool:
        return any(pattern.fullmatch(name) for pattern in self._patterns)

    def _finish(self) -> None:
        if self._metadata:
            (self._files / METADATA_FILE).write_text(self._metadata + "\n")
        folder = _resolve(self.folder)
        if not folder.exists():
            self._files.replace(folder)
            return
        new = {file.name for file in self._files.iterdir()}
        for name in sorted(new):
            (self._files / name).replace(folder / name)
        for file in folder.iterdir():
            if file.name not in new and self._owns(file.name) and not file.is_dir():
                file.unlink()


def open_folder(
    folder: Path,
    *,
    patterns: Sequence[str] = (FRAME_PATTERN,),
    metadata: Mapping[str, object] | None = None,
) -> FolderWriter:
    """Prepare to write numbered files into a folder.

    The files are gathered in a hidden temporary folder (beside the folder, or in it where it
    exists) and moved into place at the end. A folder that exists is kept: files of the same
    patterns from an earlier run go, all other files stay.

    Args:
        folder: Made where it does not exist; its parent must.
        patterns: Which file names belong to this writer, with one `%0Nd` for the number (N or more
            digits), for example `("flow_%05d.flo", "flow_%05d.png")`.
        metadata: JSON-able facts, stored as `clip.json` in the folder.
    Raises:
        InputError: A folder that cannot be made or written into.
    """
    check_folder(folder)
    text = "" if metadata is None else json.dumps(dict(metadata), allow_nan=False, indent=1)
    return FolderWriter(folder, patterns=patterns, metadata=text)


def _pattern(pattern: str) -> re.Pattern[str]:
    match = re.fullmatch(r"([^%/\\]*)%0(\d+)d([^%/\\]*)", pattern)
    if match is None:
        raise ValueError(f"{pattern!r} needs one number, like {FRAME_PATTERN}")
    before, digits, after = match.groups()
    return re.compile(rf"{re.escape(before)}\d{{{digits},}}{re.escape(after)}")


def write_file(path: Path, data: bytes) -> None:
    """Write a file beside its target and rename it: the target is never half a file.

    Raises:
        InputError: The folder is not writable.
        VideoError: The disk is full.
    """
    target = _resolve(path)
    with _temporary_folder(target.parent) as folder, _writing(path):
        temporary = Path(folder) / "file"
        temporary.write_bytes(data)
        temporary.replace(target)


# ---- reading -------------------------------------------------------------------------------------


def probe_video(path: Path) -> VideoInfo:
    """Decode a whole video and tell what is in it.

    Raises:
        InputError: The file is missing or of an unknown kind.
        VideoError: It cannot be decoded to its end.
    """
    return _probe_mp4(path) if _kind(path) == ".mp4" else _probe_animation(path)


def read_frames(path: Path) -> Iterator[NDArray[np.uint8]]:
    """Decode a video frame by frame, honouring the colour tags of an MP4.

    Returns:
        Frames, `uint8 (H, W, 3)` RGB.
    Raises:
        InputError: The file is missing or of an unknown kind.
        VideoError: It cannot be decoded to its end.
    """
    return _frames_of_mp4(path) if _kind(path) == ".mp4" else _frames_of_animation(path)


def read_metadata(path: Path) -> dict[str, Any] | None:
    """Read how a clip was made, as stored by `open_video` or `open_folder`.

    Returns:
        The JSON object; None where the file has none.
    Raises:
        InputError: The file is missing or of an unknown kind.
        VideoError: The file is damaged.
    """
    if path.is_dir():
        facts = path / METADATA_FILE
        text = facts.read_text("utf-8", "replace") if facts.is_file() else ""
    elif _kind(path) == ".mp4":
        text = _mp4_comment(path).decode("utf-8", "replace")
    else:
        text = _animation_comment(path)
    try:
        found = json.loads(text)
    except ValueError:
        return None
    return found if isinstance(found, dict) else None


def _kind(path: Path) -> str:
    suffix = path.suffix.lower()
    if not path.is_file():
        raise InputError(f"{path} is not a file", hint="check the name")
    if suffix not in VIDEO_EXTENSIONS:
        raise InputError(
            f"{path}: unknown file extension {path.suffix!r}",
            hint=f"known are {', '.join(VIDEO_EXTENSIONS)}",
        )
    return suffix


_STREAM = re.compile(r"Stream #\S+ Video: (\w+).*?, (\w+)(?:\(([^)]*)\))?, (\d+)x(\d+)")


def _run_ffmpeg(path: Path, *output: str) -> tuple[str, str]:
    """Run ffmpeg over a file; returns what it wrote to stdout and to stderr."""
    command = [_ffmpeg(), "-hide_banner", "-nostdin", "-i", str(_resolve(path)), *output]
    done = subprocess.run(command, capture_output=True, check=False)
    said = done.stderr.decode("utf-8", "replace")
    if done.returncode or _STREAM.search(said) is None:
        raise VideoError(
            f"cannot read {path} as a video{_last_lines(done.stderr)}", hint="make the clip again"
        )
    return done.stdout.decode("ascii", "replace"), said


def _probe_mp4(path: Path) -> VideoInfo:
    # -xerror: a damaged frame is a failure, not a concealed one.
    table, said = _run_ffmpeg(path, "-xerror", "-map", "0:v:0", "-f", "framecrc", "-")
    stream = _STREAM.search(said)
    time_base = re.search(r"#tb 0: (\d+)/(\d+)", table)
    rows = [row.split(",") for row in table.splitlines() if not row.startswith("#")]
    if stream is None or time_base is None or not rows:
        raise VideoError(f"{path} has no frames", hint="make the clip again")
    # Each row: stream, decoding time, presentation time, duration, size, checksum.
    seconds = Fraction(int(time_base[1]), int(time_base[2])) * sum(int(row[3]) for row in rows)
    codec, pixel_format, details, width, height = stream.groups()
    notes = [] if details is None else details.split(", ")
    return VideoInfo(
        frames=len(rows),
        size_hw=(int(height), int(width)),
        fps=float(len(rows) / seconds) if seconds else 0.0,
        duration_s=float(seconds),
        codec=codec,
        pixel_format=pixel_format,
        colour_range=next((note for note in notes if note in ("tv", "pc")), None),
        colour_space=next((note for note in notes if re.search(r"\d", note)), None),
    )


def _frames_of_mp4(path: Path) -> Iterator[NDArray[np.uint8]]:
    _, said = _run_ffmpeg(path, "-map", "0:v:0", "-frames:v", "1", "-f", "null", "-")
    stream = _STREAM.search(said)
    assert stream is not None
    shape = (int(stream[5]), int(stream[4]), 3)
    command = [
        *(_ffmpeg(), "-hide_banner", "-nostdin", "-loglevel", "error", "-xerror"),
        *(
            "-i",
            str(_resolve(path)),
            "-map",
            "0:v:0",
            "-vf",
            f"scale=out_range=full:{_SCALE_FLAGS}",
        ),
        *("-f", "rawvideo", "-pix_fmt", "rgb24", "-"),
    ]
    with subprocess.Popen(
        command, stdout=subprocess.PIPE, stderr=subprocess.DEVNULL, start_new_session=True
    ) as process:
        assert process.stdout is not None
        try:
            while data := process.stdout.read(math.prod(shape)):
                if len(data) < math.prod(shape):
                    break
                yield np.frombuffer(data, np.uint8).reshape(shape)
            if process.wait():
                raise VideoError(f"cannot read {path} to its end", hint="make the clip again")
        finally:
            process.kill()


# What Pillow raises for damaged files.
_DAMAGED = (OSError, EOFError, SyntaxError, ValueError, IndexError, struct.error)


@contextlib.contextmanager
def _animation(path: Path) -> Iterator[Image.Image]:
    try:
        with Image.open(path, formats=("GIF", "WEBP")) as image:
            yield image
    except _DAMAGED as error:
        raise VideoError(f"cannot read {path}: {error}", hint="make the clip again") from error


def _probe_animation(path: Path) -> VideoInfo:
    with _animation(path) as image:
        frames = getattr(image, "n_frames", 1)
        duration_ms = 0.0
        for index in range(frames):
            image.seek(index)
            image.load()
            duration_ms += image.info.get("duration", 0)
        return VideoInfo(
            frames=frames,
            size_hw=(image.height, image.width),
            fps=1000 * frames / duration_ms if duration_ms else 0.0,
            duration_s=duration_ms / 1000,
            codec=(image.format or "").lower(),
        )


def _frames_of_animation(path: Path) -> Iterator[NDArray[np.uint8]]:
    with _animation(path) as image:
        for index in range(getattr(image, "n_frames", 1)):
            image.seek(index)
            yield np.asarray(image.convert("RGB"))


def _animation_comment(path: Path) -> str:
    with _animation(path) as image:
        found = image.info.get("comment") or image.getexif().get(_EXIF_IMAGE_DESCRIPTION, "")
    return found.decode("utf-8", "replace") if isinstance(found, bytes) else str(found)


def _mp4_comment(path: Path) -> bytes:
    """The `comment` tag: moov / udta / meta / ilst / ©cmt / data, in ISO 14496-12 boxes."""
    with path.open("rb") as file:
        begin, end = 0, path.stat().st_size
        # What stands before the boxes inside: `meta` has version and flags; `data` type and locale.
        for name, skip in ((b"moov", 0), (b"udta", 0), (b"meta", 4), (b"ilst", 0), (b"\xa9cmt", 0)):
            found = _find_box(file, name, begin, end)
            if found is None:
                return b""
            begin, end = found[0] + skip, found[1]
        found = _find_box(file, b"data", begin, end)
        if found is None:
            return b""
        file.seek(found[0] + 8)
        return file.read(found[1] - found[0] - 8)


def _find_box(file: BinaryIO, name: bytes, begin: int, end: int) -> tuple[int, int] | None:
    """Where the contents of the first box called `name` begin and end."""
    while begin + 8 <= end:
        file.seek(begin)
        header = file.read(16)
        size, head = struct.unpack(">I", header[:4])[0], 8
        if size == 1 and len(header) == 16:
            size, head = struct.unpack(">Q", header[8:])[0], 16
        elif size == 0:  # to the end
            size = end - begin
        if size < head or begin + size > end:
            raise VideoError(f"{file.name}: damaged at byte {begin}", hint="make the clip again")
        if header[4:8] == name:
            return begin + head, begin + size
        begin += size
    return None
