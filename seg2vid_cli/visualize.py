"""Pictures of what happens on the way: flow, visibility, panels of both, contact sheets."""

from __future__ import annotations

import io
import struct
from collections.abc import Sequence
from functools import lru_cache
from pathlib import Path

import numpy as np
from numpy.typing import NDArray
from PIL import Image, ImageDraw, ImageFont

from seg2vid_cli.errors import InputError, ShapeError
from seg2vid_cli.video import write_file

_FLO_MAGIC = struct.pack("<f", 202021.25)  # reads "PIEH"
_UNKNOWN_FLOW = 1e9  # Middlebury: anything larger, and NaN, is "not known"

_BACKGROUND = (24, 24, 27)
_TEXT = (236, 236, 238)
_GAP = 4


# ---- optical flow --------------------------------------------------------------------------------


def flow_to_colour(
    flow_px: NDArray[np.float32], *, max_px: float | None = None
) -> NDArray[np.uint8]:
    """Paint a flow with the Middlebury colour wheel: hue is direction, saturation is length.

    Right is red, down yellow, left cyan-blue, up violet; no motion is white.

    Args:
        flow_px: `(2, H, W)` in pixels; channel 0 right, channel 1 down.
        max_px: The length that gets full saturation; longer ones are darkened. None: the longest
            in this flow. Give one number to keep the frames of a clip comparable.
    Returns:
        `uint8 (H, W, 3)` RGB; black where the flow is not known (NaN, or above 1e9).
    Raises:
        ShapeError: Not `(2, H, W)`.
    Source: Baker et al., "A Database and Evaluation Methodology for Optical Flow", IJCV 2011;
        the authors' `colorcode.cpp`.
    """
    _check_flow(flow_px)
    known: NDArray[np.bool_] = np.max(np.abs(flow_px), axis=0) <= _UNKNOWN_FLOW  # false for NaN
    right, down = np.where(known, flow_px, 0).astype(np.float64)
    length = np.hypot(right, down)
    longest = float(length.max(initial=0.0)) if max_px is None else max_px
    length = (length / longest if longest > 0 else length)[..., None]

    wheel = _colour_wheel()
    place = (np.arctan2(-down, -right) / np.pi + 1) / 2 * (len(wheel) - 1)
    lower = np.floor(place).astype(np.intp)
    upper = (lower + 1) % len(wheel)
    part = (place - lower)[..., None]
    hue = (1 - part) * wheel[lower] + part * wheel[upper]  # (H, W, 3)

    colour = np.where(length <= 1, 1 - length * (1 - hue), 0.75 * hue)
    return np.where(known[..., None], np.floor(255 * colour), 0).astype(np.uint8)


@lru_cache(maxsize=1)
def _colour_wheel() -> NDArray[np.float64]:
    """The 55 hues in [0, 1]: red -> yellow -> green -> cyan -> blue -> magenta -> red."""
    corners = ((1, 0, 0), (1, 1, 0), (0, 1, 0), (0, 1, 1), (0, 0, 1), (1, 0, 1), (1, 0, 0))
    steps = (15, 6, 4, 11, 13, 6)  # more hues where the eye tells more apart
    hues = []
    for count, start, stop in zip(steps, corners[:-1], corners[1:], strict=True):
        rise = np.floor(255 * np.arange(count) / count)[:, None]  # whole numbers, as in the source
        hues.append(255 * np.array(start) + rise * (np.array(stop) - start))
    return np.concatenate(hues) / 255


def encode_flo(flow_px: NDArray[np.float32]) -> bytes:
    """The bytes of a Middlebury `.flo` file.

    Args:
        flow_px: `(2, H, W)` in pixels; channel 0 right, channel 1 down.
    Raises:
        ShapeError: Not `(2, H, W)`.
    """
    _check_flow(flow_px)
    _, height, width = flow_px.shape
    values = np.ascontiguousarray(flow_px.transpose(1, 2, 0), dtype="<f4")
    return _FLO_MAGIC + struct.pack("<ii", width, height) + values.tobytes()


def write_flo(path: Path, flow_px: NDArray[np.float32]) -> None:
    """Write a Middlebury `.flo` file; see `encode_flo`."""
    write_file(path, encode_flo(flow_px))


def read_flo(path: Path) -> NDArray[np.float32]:
    """Read a Middlebury `.flo` file.

    Returns:
        `(2, H, W)` in pixels; channel 0 right, channel 1 down.
    Raises:
        InputError: The file is missing or is no `.flo` file.
    """
    try:
        data = path.read_bytes()
    except OSError as error:
        raise InputError(f"cannot read {path}: {error.strerror}", hint="check the name") from error
    if len(data) < 12 or data[:4] != _FLO_MAGIC:
        raise InputError(f"{path} is not a .flo file", hint="give a Middlebury optical flow file")
    width, height = struct.unpack("<ii", data[4:12])
    if width < 1 or height < 1 or len(data) != 12 + 8 * width * height:
        raise InputError(
            f"{path}: {len(data)} bytes do not hold a flow of {width}x{height}",
            hint="the file is damaged; make it again",
        )
    values = np.frombuffer(data, "<f4", offset=12).reshape(height, width, 2)
    return np.ascontiguousarray(values.transpose(2, 0, 1), dtype=np.float32)


def _check_flow(flow_px: NDArray[np.float32]) -> None:
    if flow_px.ndim != 3 or flow_px.shape[0] != 2:
        raise ShapeError(f"expected a flow of shape (2, H, W), got {flow_px.shape}")


# ---- pictures ------------------------------------------------------------------------------------


def visibility_to_grey(visibility: NDArray[np.float32]) -> NDArray[np.uint8]:
    """Paint a visibility map.

    Args:
        visibility: `(H, W)` or `(1, H, W)` in [0, 1]; 1 = visible.
    Returns:
        `uint8 (H, W)`; 255 (white) = visible.
    Raises:
        ShapeError: Another shape.
    """
    if visibility.ndim == 3 and visibility.shape[0] == 1:
        visibility = visibility[0]
    if visibility.ndim != 2:
        raise ShapeError(f"expected a visibility of shape (H, W), got {visibility.shape}")
    return np.rint(np.clip(visibility, 0, 1) * 255).astype(np.uint8)


def encode_png(picture: NDArray[np.uint8] | Image.Image) -> bytes:
    """The bytes of a PNG file.

    Args:
        picture: `uint8 (H, W, 3)` RGB or `(H, W)` grey, or a Pillow image.
    """
    image = picture if isinstance(picture, Image.Image) else Image.fromarray(picture)
    buffer = io.BytesIO()
    image.save(buffer, "PNG")
    return buffer.getvalue()


def write_png(path: Path, picture: NDArray[np.uint8] | Image.Image) -> None:
    """Write a PNG file, complete or not at all; see `encode_png`.

    Raises:
        InputError: The folder is not writable.
        VideoError: The disk is full.
    """
    write_file(path, encode_png(picture))


def compose_panel(
    tiles: Sequence[tuple[str, NDArray[np.uint8]]], *, columns: int | None = None
) -> NDArray[np.uint8]:
    """Put pictures side by side, each under its caption: one frame of a panel video.

    Args:
        tiles: Captions and pictures, `uint8 (H, W, 3)` RGB or `(H, W)` grey, of one size.
        columns: Pictures in one row; all of them if not given.
    Returns:
        `uint8 (H', W', 3)` RGB; both sides even; they depend on the tiles' size and number only.
    Raises:
        ShapeError: No tiles, or tiles of several sizes.
    """
    captions = [caption for caption, _ in tiles]
    pictures = [picture for _, picture in tiles]
    sheet = _grid(pictures, captions, columns=columns or len(tiles), above=True)
    return np.asarray(sheet)


def contact_sheet(
    frames: Sequence[NDArray[np.uint8]], captions: Sequence[str], *, columns: int
) -> Image.Image:
    """Put frames on one sheet, row by row, each above its caption.

    Args:
        frames: `uint8 (H, W, 3)` RGB or `(H, W)` grey, of one size. A label map may come first.
        captions: One for each frame, for example "frame 12  0.80 s".
        columns: Frames in one row.
    Raises:
        ShapeError: No frames, frames of several sizes, or another number of captions.
    """
    return _grid(frames, captions, columns=columns, above=False)


def choose_frames(num_frames: int, count: int) -> list[int]:
    """Choose evenly spaced frames, the first and the last among them.

    Returns:
        `count` rising indices; all of them where there are no more than `count`.
    Raises:
        InputError: Either number is below 1.
    """
    if num_frames < 1 or count < 1:
        raise InputError(
            f"cannot choose {count} of {num_frames} frames", hint="both must be 1 or more"
        )
    if count >= num_frames:
        return list(range(num_frames))
    if count == 1:
        return [0]
    last, steps = num_frames - 1, count - 1
    return [(2 * i * last + steps) // (2 * steps) for i in range(count)]  # rounds halves up


def _grid(
    pictures: Sequence[NDArray[np.uint8]], captions: Sequence[str], *, columns: int, above: bool
) -> Image.Image:
    sizes = {picture.shape[:2] for picture in pictures}
    if len(sizes) != 1:
        raise ShapeError(f"expected pictures of one size, got {sorted(sizes) or 'none'}")
    if len(captions) != len(pictures) or columns < 1:
        raise ShapeError(
            f"{len(pictures)} pictures, {len(captions)} captions, {columns} columns do not fit"
        )
    ((height, width),) = sizes
    columns = min(columns, len(pictures))
    rows = -(-len(pictures) // columns)
    font_size = max(10, min(28, height // 9))
    strip = sum(_font(font_size).getmetrics()) + _GAP
    while font_size > 6 and max(map(_font(font_size).getlength, captions)) > width:
        font_size -= 1
    font = _font(font_size)

    def place(index: int) -> tuple[int, int]:
        row, column = divmod(index, columns)
        return _GAP + column * (width + _GAP), _GAP + row * (height + strip + _GAP)

    size = (_GAP + columns * (width + _GAP), _GAP + rows * (height + strip + _GAP))
    sheet = Image.new("RGB", (size[0] + size[0] % 2, size[1] + size[1] % 2), _BACKGROUND)
    draw = ImageDraw.Draw(sheet)
    for index, (picture, caption) in enumerate(zip(pictures, captions, strict=True)):
        x, y = place(index)
        sheet.paste(Image.fromarray(picture).convert("RGB"), (x, y + strip if above else y))
        middle = (x + width // 2, y + strip // 2 + (0 if above else height))
        draw.text(middle, caption, fill=_TEXT, font=font, anchor="mm")
    return sheet


@lru_cache(maxsize=32)
def _font(size: int) -> ImageFont.FreeTypeFont:
    font = ImageFont.load_default(size)
    assert isinstance(font, ImageFont.FreeTypeFont)  # Pillow's wheels come with FreeType
    return font
