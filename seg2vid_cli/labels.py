"""Stage 1: one label map, from a file or an array, to a `LabelMap` of 20 classes.

Three steps: open the file without trusting it, take its pixels as ids or as colours (a *reading*),
and find the encoding in which every id or colour has a meaning.

Where several encodings fit, this rule decides. Colours that all belong to a known palette come
before ids. Among ids, each reading gets a score, the mean log of how common its classes are in the
upper, middle and lower third of a street picture (`STREET_LAYOUT`), and the highest score wins.
Scores closer than `NEAR_TIE` are decided by the order of `ENCODINGS`.
"""

from __future__ import annotations

import hashlib
import warnings
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from functools import cached_property
from itertools import pairwise
from pathlib import Path
from typing import Any, BinaryIO

import numpy as np
from numpy.typing import NDArray
from PIL import Image, UnidentifiedImageError

from seg2vid_cli.errors import LabelMapError, ShapeError
from seg2vid_cli.label_sets import (
    CLASSES,
    ENCODINGS,
    NUM_CLASSES,
    TRAIN_ID_OF_LABEL,
    UNLABELLED,
    Encoding,
    load_encoding,
    pack,
    unpack,
)

MIN_SIDE_PX = 16
MAX_PIXELS = 64 * 1024 * 1024
STRIP_CELLS = 200_000  # output pixels that vote at once; bounds the memory
PHOTO_VALUES = 256  # a label map has a few dozen colours; a photo has thousands
PHOTO_UNKNOWN_IDS = 32  # a grey photo has some 200 levels, most of them beyond every table
STEPPED_BORDERS = 0.25  # share of interpolated borders; intact maps stay below 0.17
NEAR_TIE = 0.1  # of the score, a mean natural log
DOUBTFUL_LEAD = 0.5  # a smaller lead over the next reading is worth a look by a person
UNSTREETLIKE = -2.2  # so is a lower score: whole street scenes lie between -2.1 and -1.1

# Typical percent of the upper, middle and lower third of a street picture taken from a car.
# Written by hand and round on purpose: it only has to tell a street from nonsense.
STREET_LAYOUT: NDArray[np.float64] = np.array(
    [
        (0.3, 15, 60),  # road
        (0.3, 6, 10),  # sidewalk
        (38, 24, 3),  # building
        (0.6, 1, 0.5),  # wall
        (0.8, 1.5, 0.5),  # fence
        (2, 1.5, 0.3),  # pole
        (0.5, 0.3, 0.03),  # traffic light
        (0.7, 0.6, 0.05),  # traffic sign
        (25, 16, 3),  # vegetation
        (0.2, 2, 3),  # terrain
        (24, 2, 0.03),  # sky
        (0.4, 2, 1),  # person
        (0.1, 0.4, 0.2),  # rider
        (0.5, 10, 6),  # car
        (0.4, 0.8, 0.3),  # truck
        (0.4, 0.8, 0.3),  # bus
        (0.2, 0.3, 0.1),  # train
        (0.03, 0.3, 0.2),  # motorcycle
        (0.1, 0.6, 0.5),  # bicycle
        (3, 3, 6),  # unlabelled
    ]
).T
LABEL_EXTENSIONS = (".png", ".tif", ".tiff", ".bmp", ".webp", ".npy")
# Votes of one pixel when a map shrinks: thin things count twice, or poles would vanish.
_THIN = (5, 6, 7, 11, 12, 17, 18)
_VOTES: NDArray[np.int64] = np.array([2 if c in _THIN else 1 for c in range(NUM_CLASSES)])


@dataclass(frozen=True, kw_only=True, eq=False)
class LabelMap:
    """One scene, as classes.

    Attributes:
        train_ids: `(H, W)`, 0..18, 19 = unlabelled.
        label_ids: `(H, W)` Cityscapes label ids 0..33; 34 = licence plate, unlabelled = 0.
        instances: `(H, W)` object numbers, where the file or `--instances` gave them.
        instances_given: True where they came from a map of their own (`--instances`).
        encoding: Name of the encoding it was read in.
        reason: One sentence on why this encoding.
        alternatives: Other encodings in which every id or colour has a meaning.
        doubtful: True where the choice may well be wrong and a person should look.
        path: The file, if it was one.
    """

    train_ids: NDArray[np.uint8]
    label_ids: NDArray[np.uint8]
    instances: NDArray[np.int32] | None = None
    instances_given: bool = False
    encoding: str = "train-ids"
    reason: str = ""
    alternatives: tuple[str, ...] = ()
    doubtful: bool = False
    path: Path | None = None

    @property
    def size_hw(self) -> tuple[int, int]:
        """Height and width in pixels."""
        height, width = self.train_ids.shape
        return height, width

    @cached_property
    def sha256(self) -> str:
        """Hash of the size and the train ids, and of instances given apart.

        The same scene has the same hash in every encoding.
        """
        digest = hashlib.sha256(f"{self.size_hw}".encode())
        digest.update(np.ascontiguousarray(self.train_ids).tobytes())
        if self.instances is not None and self.instances_given:
            digest.update(np.ascontiguousarray(self.instances, np.int32).tobytes())
        return digest.hexdigest()


def read_labels(
    path: str | Path, *, encoding: str = "auto", instances: str | Path | None = None
) -> LabelMap:
    """Read a label map from PNG, TIFF, BMP, lossless WebP or NPY.

    Args:
        path: The file.
        encoding: `auto`, a name in `ENCODINGS`, or a TOML file (see `load_encoding`).
        instances: A map of the same size that numbers the objects; ids or colours.
    Returns:
        The map as classes, with what was decided and why.
    Raises:
        LabelMapError: The file is missing, not a label map, or has ids that have no meaning.
    """
    file = Path(path)
    chosen = None if encoding == "auto" else load_encoding(encoding)
    labels = _decode(_read_pixels(file), chosen, name=str(file))
    labels = replace(labels, path=file)
    if instances is None:
        return labels
    numbers = _read_instances(Path(instances))
    if numbers.shape != labels.size_hw:
        raise LabelMapError(
            f"{instances}: is {_size(numbers.shape)}, but {file} is {_size(labels.size_hw)}",
            hint="give an instance map of the same size",
        )
    return replace(labels, instances=numbers, instances_given=True)


def labels_from_array(array: NDArray[Any], *, encoding: str = "auto") -> LabelMap:
    """Do what `read_labels` does with pixels that are already in memory.

    Args:
        array: `(H, W)` integer ids, or uint8 `(H, W, 3)` or `(H, W, 4)` colours.
        encoding: As in `read_labels`.
    Returns:
        The map as classes.
    Raises:
        LabelMapError: Wrong shape or dtype, or ids that have no meaning.
    """
    name, array = "array", np.asarray(array)
    chosen = None if encoding == "auto" else load_encoding(encoding)
    _check_array(array.shape, array.dtype, name)
    return _decode(_pixels_of_array(array, name), chosen, name=name)


# ---------------------------------------------------------------------------------------------
# Files


@dataclass(frozen=True, kw_only=True)
class _Pixels:
    """What a file holds: ids, colours packed as `0xRRGGBB`, or both. `(H, W)` each."""

    ids: NDArray[Any] | None = None
    colours: NDArray[np.int32] | None = None
    ids_are: str = "ids"  # or "palette indices", "grey levels", "red values"


def _read_pixels(path: Path) -> _Pixels:
    name = str(path)
    try:
        if path.is_dir():
            raise LabelMapError(f"{name}: is a folder", hint="give one file")
        if path.exists() and not path.is_file():  # a pipe cannot be read twice
            raise LabelMapError(f"{name}: is not a file", hint="save the map to a file first")
        with path.open("rb") as file:
            head = file.read(32)
            file.seek(0)
            if head.startswith(b"\x93NUMPY"):
                return _pixels_of_array(_read_npy(file, name), name)
            return _read_image(file, head, name)
    except FileNotFoundError as error:
        raise LabelMapError(f"{name}: there is no such file", hint="check the path") from error
    except (OSError, ValueError) as error:  # ValueError: a name with a null character
        reason = getattr(error, "strerror", None) or str(error)
        raise LabelMapError(
            f"{name}: cannot be read: {reason}", hint="check the path and its permissions"
        ) from error


def _read_npy(file: BinaryIO, name: str) -> NDArray[Any]:
    try:
        version = np.lib.format.read_magic(file)
        if version == (1, 0):
            shape, _, dtype = np.lib.format.read_array_header_1_0(file)
        elif version == (2, 0):
            shape, _, dtype = np.lib.format.read_array_header_2_0(file)
        else:
            raise ValueError(f"NPY version {version[0]}.{version[1]} is for named fields")
    except Exception as error:  # numpy lets errors of Python's tokenizer through
        raise LabelMapError(
            f"{name}: the NPY header is damaged: {error}", hint="save the array again"
        ) from error
    _check_array(shape, dtype, name)
    file.seek(0)
    try:
        array: NDArray[Any] = np.load(file, allow_pickle=False)
    except (ValueError, EOFError) as error:
        raise LabelMapError(
            f"{name}: the file is truncated or damaged: {error}", hint="save the array again"
        ) from error
    return array


def _check_array(shape: tuple[int, ...], dtype: np.dtype[Any], name: str) -> None:
    """Refuse what cannot be a label map, from the header alone."""
    if dtype.kind not in "iu":
        kinds = {"f": "floating-point numbers", "O": "Python objects", "b": "true and false"}
        raise LabelMapError(
            f"{name}: holds {kinds.get(dtype.kind, str(dtype))} ({dtype}), not integer class ids",
            hint="if every value is a class id, save array.astype('uint8'); scores need an argmax",
        )
    colours = len(shape) == 3 and shape[2] in (3, 4) and dtype == np.uint8
    if len(shape) != 2 and not colours:
        raise LabelMapError(
            f"{name}: has shape {shape} and dtype {dtype}, not (H, W) ids or uint8 (H, W, 3)",
            hint="drop the extra axis, for example array[0]; one-hot planes need an argmax",
        )
    _check_size(shape[0], shape[1], name)


def _check_size(height: int, width: int, name: str) -> None:
    if min(height, width) < MIN_SIDE_PX:
        raise LabelMapError(
            f"{name}: is {_size((height, width))}, too small (at least {MIN_SIDE_PX} each way)",
            hint="give the label map in its full size",
        )
    if height * width > MAX_PIXELS:
        raise LabelMapError(
            f"{name}: is {_size((height, width))}, too large (at most {MAX_PIXELS:,} pixels)",
            hint="resize it with nearest-neighbour interpolation",
        )


def _read_image(file: BinaryIO, head: bytes, name: str) -> _Pixels:
    _refuse_lossy(file, head, name)
    try:
        with warnings.catch_warnings():
            # Pillow warns of large pictures; _check_size below is stricter than the warning.
            warnings.simplefilter("ignore")
            with Image.open(file, formats=("PNG", "TIFF", "BMP", "WEBP")) as image:
                _check_image(image, name)
                image.load()
    except UnidentifiedImageError as error:
        raise LabelMapError(
            f"{name}: is not a PNG, TIFF, BMP, WebP or NPY file, or is damaged",
            hint="save the label map as PNG",
        ) from error
    except Image.DecompressionBombError as error:
        raise LabelMapError(
            f"{name}: too large (at most {MAX_PIXELS:,} pixels)",
            hint="resize it with nearest-neighbour interpolation",
        ) from error
    except LabelMapError:
        raise
    except Exception as error:  # a damaged file makes decoders raise nearly anything
        raise LabelMapError(
            f"{name}: the file is truncated or damaged: {error}", hint="copy or save it again"
        ) from error
    return _pixels_of_image(image, _grey_step(head), name)


def _refuse_lossy(file: BinaryIO, head: bytes, name: str) -> None:
    """Say why a map cannot come from a lossy format; by content, whatever the file is called."""
    if not head:
        raise LabelMapError(f"{name}: the file is empty", hint="copy or save it again")
    lossy = None
    if head.startswith(b"\xff\xd8\xff"):
        lossy = "JPEG"
    elif head[:4] == b"RIFF" and head[8:12] == b"WEBP" and b"VP8 " in _webp_chunks(file):
        lossy = "lossy WebP"
    if lossy:
        raise LabelMapError(
            f"{name}: is a {lossy}, which changes pixel values, so classes cannot be read back",
            hint="save the label map as PNG, or give the original; a photo is not a label map",
        )


def _webp_chunks(file: BinaryIO) -> list[bytes]:
    """Names of a WebP's top-level chunks: `VP8 ` is lossy, `VP8L` lossless."""
    names: list[bytes] = []
    file.seek(12)
    while len(names) < 100 and len(header := file.read(8)) == 8:
        names.append(header[:4])
        size = int.from_bytes(header[4:], "little")
        file.seek(size + size % 2, 1)
    file.seek(0)
    return names


def _check_image(image: Image.Image, name: str) -> None:
    _check_size(image.height, image.width, name)
    frames = int(getattr(image, "n_frames", 1))
    if frames > 1:
        raise LabelMapError(
            f"{name}: holds {frames} pictures; a label map is one", hint="save one as PNG"
        )
    if "jpeg" in str(image.info.get("compression", "")):
        raise LabelMapError(
            f"{name}: is compressed as JPEG, which changes pixel values, so classes cannot be read",
            hint="save the label map without loss (LZW, deflate or PNG)",
        )


def _grey_step(head: bytes) -> int:
    """How far Pillow spreads neighbouring grey levels: it stretches 2- and 4-bit PNG to 0..255."""
    is_grey_png = head.startswith(b"\x89PNG") and len(head) > 25 and head[25] == 0
    return {2: 85, 4: 17}.get(head[24], 1) if is_grey_png else 1


def _pixels_of_image(image: Image.Image, grey_step: int, name: str) -> _Pixels:
    mode = image.mode
    if mode == "P" or mode == "PA":
        indices = np.asarray(image if mode == "P" else image.getchannel(0))
        colours = _packed(np.asarray(image.convert("RGBA").convert("RGB")))
        return _Pixels(ids=indices, colours=colours, ids_are="palette indices")
    if mode in ("L", "I", "I;16", "I;16B", "I;16L"):
        return _Pixels(ids=np.asarray(image) // grey_step)
    if mode == "LA":
        return _pixels_of_array(np.asarray(image.convert("RGBA")), name)
    if mode in ("RGB", "RGBA"):
        return _pixels_of_array(np.asarray(image), name)
    what = {"F": "floating-point numbers", "1": "only black and white"}
    raise LabelMapError(
        f"{name}: holds {what.get(mode, f'{mode} colours')}, not class ids or class colours",
        hint="save the label map as 8-bit grey or RGB PNG",
    )


def _pixels_of_array(array: NDArray[Any], name: str) -> _Pixels:
    if array.ndim == 2:
        return _Pixels(ids=array)
    if array.shape[2] == 4 and (alpha := array[..., 3]).min() != alpha.max():
        raise LabelMapError(
            f"{name}: is partly transparent ({_share(np.mean(alpha < 255))} of the pixels)",
            hint="save the label map without transparency",
        )
    colours = _packed(array)
    red, green, blue = array[..., 0], array[..., 1], array[..., 2]
    if np.array_equal(red, green) and np.array_equal(red, blue):
        return _Pixels(ids=red, colours=colours, ids_are="grey levels")
    if not green.any() and not blue.any():
        return _Pixels(ids=red, colours=colours, ids_are="red values")
    return _Pixels(colours=colours)


def _packed(array: NDArray[np.uint8]) -> NDArray[np.int32]:
    packed = array[..., 0].astype(np.int32)
    for channel in (1, 2):
        packed <<= 8
        packed |= array[..., channel]
    return packed


def _read_instances(path: Path) -> NDArray[np.int32]:
    pixels = _read_pixels(path)
    numbers = pixels.colours if pixels.ids is None else pixels.ids
    assert numbers is not None  # _read_pixels gives at least one of the two
    if int(numbers.max()) > np.iinfo(np.int32).max:
        raise LabelMapError(
            f"{path}: object number {numbers.max()} is too large", hint="use 32-bit numbers"
        )
    return numbers.astype(np.int32)


# ---------------------------------------------------------------------------------------------
# From pixels to classes


@dataclass(frozen=True, kw_only=True)
class _Reading:
    """Pixels as a short list of distinct values.

    Attributes:
        index: `(H, W)`, place of each pixel's value in `values`.
        values: `(N,)` ids or packed colours, ascending.
        thirds: `(3, N)` pixels of each value in the upper, middle and lower third.
        what: "colours", or what the ids are in the file.
    """

    index: NDArray[np.int32]
    values: NDArray[np.int64]
    thirds: NDArray[np.int64]
    what: str

    @property
    def counts(self) -> NDArray[np.int64]:
        counts: NDArray[np.int64] = self.thirds.sum(axis=0)
        return counts

    def label_ids(self, encoding: Encoding) -> NDArray[np.int16]:
        """Label id of each value; -1 where the encoding does not know it."""
        keys, labels = encoding.table
        place = np.minimum(np.searchsorted(keys, self.values), len(keys) - 1)
        return np.where(keys[place] == self.values, labels[place].astype(np.int16), np.int16(-1))

    def fits(self, encoding: Encoding) -> bool:
        """Whether every value has a meaning and some pixel has a class."""
        labels = self.label_ids(encoding)
        return labels.min() >= 0 and bool((TRAIN_ID_OF_LABEL[labels] != UNLABELLED).any())

    def known_pixels(self, encoding: Encoding) -> int:
        return int(self.counts[self.label_ids(encoding) >= 0].sum())

    def street_score(self, encoding: Encoding) -> float:
        """Mean natural log of how common each pixel's class is in its third of a street."""
        train_ids = TRAIN_ID_OF_LABEL[self.label_ids(encoding)]
        shares = STREET_LAYOUT / STREET_LAYOUT.sum(axis=1, keepdims=True)
        return float((np.log(shares)[:, train_ids] * self.thirds).sum() / self.thirds.sum())


def _reading(pixels: NDArray[Any], what: str) -> _Reading:
    low, high = int(pixels.min()), int(pixels.max())
    if low >= 0 and high < 1 << 24:  # counting is far quicker than sorting
        values = np.flatnonzero(np.bincount(pixels.ravel())).astype(np.int64)
        place = np.zeros(high + 1, np.int32)
        place[values] = np.arange(len(values))
        index = place[pixels]
    else:
        values = np.unique(pixels).astype(np.int64)
        index = np.searchsorted(values, pixels.astype(np.int64)).astype(np.int32)
    height = len(index)
    bounds = (0, height // 3, height - height // 3, height)
    thirds = [
        np.bincount(index[top:bottom].ravel(), minlength=len(values))
        for top, bottom in pairwise(bounds)
    ]
    return _Reading(index=index, values=values, thirds=np.array(thirds, np.int64), what=what)


def _decode(pixels: _Pixels, encoding: Encoding | None, *, name: str) -> LabelMap:
    by_colour = None if pixels.colours is None else _reading(pixels.colours, "colours")
    by_id = None if pixels.ids is None else _reading(pixels.ids, pixels.ids_are)
    if encoding is not None:
        return _decode_as(encoding, by_colour, by_id, name)
    candidates = list(_candidates(by_colour, by_id))
    fitting = [(reading, e) for reading, e in candidates if reading.fits(e)]
    if not fitting:
        raise _explain(candidates, name)
    reading, chosen, reason, doubtful = _choose(fitting)
    if reading is by_id and _is_interpolated(reading):
        raise LabelMapError(
            f"{name}: between neighbouring regions the {len(reading.values)} {reading.what} pass "
            "through values in between, as after smoothing or resizing with interpolation; such "
            f"ids would be false classes ({_list(reading, chosen)})",
            hint="resize the original with nearest neighbour; if the map is right as it is, name "
            f"its encoding: --encoding {chosen.name}",
        )
    others = tuple(dict.fromkeys(e.name for _, e in fitting if e is not chosen))
    return _label_map(reading, chosen, reason=reason, alternatives=others, doubtful=doubtful)


def _decode_as(
    encoding: Encoding, by_colour: _Reading | None, by_id: _Reading | None, name: str
) -> LabelMap:
    reading = by_colour if encoding.kind == "colours" else by_id
    if reading is None:
        has = "colours" if by_id is None else "ids in one channel"
        raise LabelMapError(
            f"{name}: {encoding.name} is written as {encoding.kind}, but the file holds {has}",
            hint="leave out --encoding, or name one of that kind",
        )
    if not reading.fits(encoding):
        fitting = [e.name for r, e in _candidates(by_colour, by_id) if r.fits(e)]
        error = _explain([(reading, encoding)], name, asked=True)
        if fitting:
            error.hint = f"it can be read with --encoding {' or '.join(fitting)}"
        raise error
    reason, stepped = (
        f"{encoding.title}: asked for.",
        reading is by_id and _is_interpolated(reading),
    )
    if stepped:
        reason = f"{reason[:-1]}, but borders look interpolated: look at the class histogram."
    return _label_map(reading, encoding, reason=reason, doubtful=stepped)


def _is_interpolated(reading: _Reading) -> bool:
    """Whether ids change in steps at borders: 7, 15, 23 instead of 7, 23.

    Interpolated ids can all have a meaning, so only their arrangement gives them away.
    """
    changes = steps = pairs = 0
    for line in (reading.index[:2048, :2048], reading.index[:2048, :2048].T):
        up, down = line[:, 1:] > line[:, :-1], line[:, 1:] < line[:, :-1]
        changes += int(up.sum()) + int(down.sum())
        steps += int((up[:, 1:] & up[:, :-1]).sum()) + int((down[:, 1:] & down[:, :-1]).sum())
        pairs += up.size
    # Noise changes nearly everywhere; with a handful of borders chance decides.
    return 200 <= changes < pairs / 2 and steps > STEPPED_BORDERS * changes


def _candidates(
    by_colour: _Reading | None, by_id: _Reading | None
) -> Iterator[tuple[_Reading, Encoding]]:
    """Every reading in every encoding of its kind, in the order that decides near ties."""
    for encoding in ENCODINGS.values():
        if encoding.kind == "colours" and by_colour is not None:
            yield by_colour, encoding
        if encoding.kind == "colours" or by_id is None:
            continue
        if encoding.kind == "instances" and by_id.values[-1] < 1000:
            continue  # then they are label ids
        if by_id.what == "red values" and not encoding.name.startswith("carla"):
            continue  # only CARLA writes ids into the red channel
        yield by_id, encoding


def _choose(
    fitting: Sequence[tuple[_Reading, Encoding]],
) -> tuple[_Reading, Encoding, str, bool]:
    """Apply the rule at the top of this module; with one sentence on it, and whether to look."""
    coloured = [(r, e) for r, e in fitting if e.kind == "colours"]
    ranked = coloured or _rank(fitting)
    reading, best = ranked[0]
    values = f"the {len(reading.values)} {reading.what}"
    rivals = [e for r, e in ranked[1:] if not _same(reading, best, e)]
    twins = [e for r, e in ranked[1:] if _same(reading, best, e)]
    if coloured:
        reason = f"{best.title}: {values} are all in this palette."
        if rivals:
            reason = (
                f"{reason[:-1]}; also in {_names(rivals)}, which come later in the fixed order."
            )
        elif twins:
            reason = f"{reason[:-1]}; {_names(twins)} would give the same classes."
        return reading, best, reason, bool(rivals)
    scores = {e.name: r.street_score(e) for r, e in ranked}
    doubtful = scores[best.name] < UNSTREETLIKE
    if not rivals:
        reason = f"{best.title}: no other known encoding gives {values} another meaning."
    else:
        rival = max(rivals, key=lambda e: scores[e.name])
        lead = scores[best.name] - scores[rival.name]
        near = lead < NEAR_TIE
        how = "comes first in the fixed order" if near else "looks most like a street"
        reason = (
            f"{best.title}: {values} also fit {_names(rivals)}; this reading {how} "
            f"({scores[best.name]:.1f} against {scores[rival.name]:.1f})."
        )
        doubtful = doubtful or lead < DOUBTFUL_LEAD
    if doubtful:
        reason = f"{reason[:-1]}, but this is not certain: look at the class histogram."
    return reading, best, reason, doubtful


def _rank(fitting: Sequence[tuple[_Reading, Encoding]]) -> list[tuple[_Reading, Encoding]]:
    """The winner first; the rest stay in the fixed order."""
    top = max(reading.street_score(e) for reading, e in fitting)
    winner = next(pair for pair in fitting if top - pair[0].street_score(pair[1]) < NEAR_TIE)
    return [winner, *(pair for pair in fitting if pair is not winner)]


def _same(reading: _Reading, one: Encoding, other: Encoding) -> bool:
    a, b = reading.label_ids(one), reading.label_ids(other)
    return np.array_equal(TRAIN_ID_OF_LABEL[a], TRAIN_ID_OF_LABEL[b])


def _names(encodings: Sequence[Encoding]) -> str:
    *first, last = (e.name for e in encodings)
    return f"{', '.join(first)} and {last}" if first else last


def _label_map(
    reading: _Reading,
    encoding: Encoding,
    *,
    reason: str,
    alternatives: tuple[str, ...] = (),
    doubtful: bool = False,
) -> LabelMap:
    of_value = reading.label_ids(encoding).astype(np.uint8)
    label_ids = of_value[reading.index]
    instances = None
    if encoding.kind == "instances":
        instances = reading.values.astype(np.int32)[reading.index]
    return LabelMap(
        train_ids=TRAIN_ID_OF_LABEL[label_ids],
        label_ids=label_ids,
        instances=instances,
        encoding=encoding.name,
        reason=reason,
        alternatives=alternatives,
        doubtful=doubtful,
    )


def blank_labels(size_hw: tuple[int, int]) -> LabelMap:
    """A map without any class, for weights that read none.

    Args:
        size_hw: Height and width in pixels.
    Returns:
        Unlabelled everywhere.
    """
    return LabelMap(
        train_ids=np.full(size_hw, UNLABELLED, np.uint8),
        label_ids=np.zeros(size_hw, np.uint8),
        encoding="none",
        reason="No label map: these weights read none.",
    )


def _explain(
    candidates: Sequence[tuple[_Reading, Encoding]], name: str, *, asked: bool = False
) -> LabelMapError:
    """Say what is wrong with a map that no encoding fits, by the one that comes closest."""
    reading, encoding = max(candidates, key=lambda pair: pair[0].known_pixels(pair[1]))
    total = int(reading.counts.sum())
    known = reading.known_pixels(encoding) / total
    if known == 1:
        return LabelMapError(
            f"{name}: every pixel is unlabelled in {encoding.name} ({_list(reading, encoding)})",
            hint="check the file, or name another encoding: --encoding NAME or my.toml",
        )
    hint = "if they are classes of your own, describe them in a file with [classes] and lines such "
    hint += 'as 3 = "road" or "128,64,128" = "road", and give --encoding my.toml'
    if swapped := _fits_swapped(candidates):
        return LabelMapError(
            f"{name}: red and blue are swapped: {_list(reading, encoding)}; with blue first, all "
            f"are {swapped.title}",
            hint="save it in RGB order (OpenCV and CARLA's raw data have blue first)",
        )
    unknown = int((reading.label_ids(encoding) < 0).sum())
    many_colours = encoding.kind == "colours" and len(reading.values) > PHOTO_VALUES
    if (known < 0.5 and many_colours) or (encoding.kind == "ids" and unknown > PHOTO_UNKNOWN_IDS):
        return LabelMapError(
            f"{name}: looks like a photo (or depth or scores), not a label map: "
            f"{len(reading.values):,} different {reading.what}, of which {encoding.name} "
            f"knows {len(reading.values) - unknown} (most common unknown: "
            f"{_list(reading, encoding)})",
            hint="give a map with one id or colour per class, such as a --encoding of "
            f"{', '.join(ENCODINGS)}, or of my.toml",
        )
    message = (
        f"{name}: {unknown:,} of {len(reading.values):,} {reading.what} have no meaning in "
        f"{encoding.name}{'' if asked else ', the closest encoding'} ({_share(known)} of the "
        f"pixels are known): {_list(reading, encoding)}"
    )
    if known > 0.5 and reading.what == "colours" and unknown > 1:
        message += "; stray colours come from smoothing or from resizing with interpolation"
        hint = f"save it again without smoothing and resize with nearest neighbour; {hint}"
    return LabelMapError(message, hint=hint)


def _fits_swapped(candidates: Sequence[tuple[_Reading, Encoding]]) -> Encoding | None:
    for reading, encoding in candidates:
        if encoding.kind == "colours":
            v = reading.values
            swapped = replace(reading, values=(v & 255) << 16 | (v & 0xFF00) | v >> 16)
            if swapped.fits(encoding):
                return encoding
    return None


def _list(reading: _Reading, encoding: Encoding, limit: int = 5) -> str:
    """The most common values without meaning (or all), with pixels and the nearest known one."""
    unknown = reading.label_ids(encoding) < 0
    places = np.flatnonzero(unknown if unknown.any() else ~unknown)
    places = places[np.argsort(-reading.counts[places], kind="stable")]
    coloured = encoding.kind == "colours"
    parts = []
    for place in places[:limit]:
        value, pixels = int(reading.values[place]), int(reading.counts[place])
        text = f"{unpack(value) if coloured else value} {pixels:,} px"
        if unknown.any():
            near = min(encoding.key_names, key=lambda key: _distance(value, pack(key), coloured))
            text += f", nearest {near} {encoding.key_names[near]}"
        parts.append(text)
    more = [f"and {len(places) - limit:,} more"] if len(places) > limit else []
    return "; ".join([*parts, *more])


def _distance(a: int, b: int, coloured: bool) -> int:
    if not coloured:
        return abs(a - b)
    return sum((x - y) ** 2 for x, y in zip(unpack(a), unpack(b), strict=True))


def _size(shape: Sequence[int]) -> str:
    return f"{shape[1]}x{shape[0]}"


def _share(share: float | np.floating[Any]) -> str:
    """A share in percent that says neither 0 nor 100 unless it is."""
    percent = f"{100 * share:.1f}"
    if (percent == "100.0" and share < 1) or (percent == "0.0" and share > 0):
        percent = ">99.9" if share > 0.5 else "<0.1"
    return f"{percent} %"


# ---------------------------------------------------------------------------------------------
# What the stages after this one do with a map


def resize_labels(labels: LabelMap, size_hw: tuple[int, int]) -> LabelMap:
    """Resize a map; the result depends on nothing but the map and the size.

    An axis that grows takes the nearest pixel. Where the map shrinks, the pixels under an output
    pixel vote for the class, and thin things (pole, traffic light and sign, person, rider,
    motorcycle, bicycle) have two votes each, or they would vanish; a tie goes to the lower train
    id. Label id and instance come from a pixel of the winning class: the one in the middle where
    that is of the class, else the first.

    Args:
        labels: The map.
        size_hw: New height and width in pixels.
    Returns:
        The resized map.
    Raises:
        ShapeError: A side below 1.
    """
    if min(size_hw) < 1:
        raise ShapeError(f"cannot resize a label map to {_size(size_hw)}")
    if size_hw == labels.size_hw:
        return labels
    rows, columns = (
        ((2 * np.arange(max(new, old)) + 1) * old) // (2 * max(new, old))
        for new, old in zip(size_hw, labels.size_hw, strict=True)
    )
    return _shrink(_take(labels, rows, columns), size_hw)


def _take(labels: LabelMap, rows: NDArray[np.intp], columns: NDArray[np.intp]) -> LabelMap:
    grid = np.ix_(rows, columns)
    instances = None if labels.instances is None else labels.instances[grid]
    return replace(
        labels,
        train_ids=labels.train_ids[grid],
        label_ids=labels.label_ids[grid],
        instances=instances,
    )


def _shrink(labels: LabelMap, size_hw: tuple[int, int]) -> LabelMap:
    (old_height, old_width), (height, width) = labels.size_hw, size_hw
    if size_hw == labels.size_hw:
        return labels
    row_cell = ((2 * np.arange(old_height) + 1) * height) // (2 * old_height)
    column_cell = ((2 * np.arange(old_width) + 1) * width) // (2 * old_width)
    middle_row = ((2 * np.arange(height) + 1) * old_height) // (2 * height)
    middle_column = ((2 * np.arange(width) + 1) * old_width) // (2 * width)
    picked = np.empty(size_hw, np.int64)  # flat place of the pixel that stands for each cell
    strip = max(1, STRIP_CELLS // width)
    for top in range(0, height, strip):
        bottom = min(top + strip, height)
        first, last = np.searchsorted(row_cell, (top, bottom))
        train_ids = labels.train_ids[first:last]
        cell = ((row_cell[first:last] - top) * width)[:, None] + column_cell
        votes = np.bincount(
            (cell * NUM_CLASSES + train_ids).ravel(), minlength=(bottom - top) * width * NUM_CLASSES
        )
        winner = np.argmax(votes.reshape(-1, NUM_CLASSES) * _VOTES, axis=1).astype(np.uint8)
        place = np.arange(first * old_width, last * old_width).reshape(train_ids.shape)
        votes_for_winner = winner[cell] == train_ids
        pick = np.empty(len(winner), np.int64)
        # Of several pixels written to one cell the last one stays: reversed, the first.
        pick[cell[votes_for_winner][::-1]] = place[votes_for_winner][::-1]
        middle = (middle_row[top:bottom, None] * old_width + middle_column).ravel()
        agrees = labels.train_ids.ravel()[middle] == winner
        picked[top:bottom] = np.where(agrees, middle, pick).reshape(-1, width)
    instances = None if labels.instances is None else labels.instances.ravel()[picked]
    return replace(
        labels,
        train_ids=labels.train_ids.ravel()[picked],
        label_ids=labels.label_ids.ravel()[picked],
        instances=instances,
    )


def padded_size(size_hw: tuple[int, int], *, multiple: int, smallest: int) -> tuple[int, int]:
    """The size that a network takes: both sides multiples, and not below the smallest.

    Args:
        size_hw: Height and width in pixels.
        multiple: Of both sides.
        smallest: Least side in pixels.
    Returns:
        Height and width, not below `size_hw`.
    """
    height, width = (-(-max(smallest, side) // multiple) * multiple for side in size_hw)
    return height, width


def pad_labels(labels: LabelMap, size_hw: tuple[int, int]) -> tuple[LabelMap, tuple[int, int]]:
    """Put a map in the middle of a larger one and repeat its border outwards.

    Args:
        labels: The map.
        size_hw: Height and width in pixels, not below the map's.
    Returns:
        The padded map, and the top and left border in pixels.
    Raises:
        ShapeError: The size is smaller than the map.
    """
    (height, width), (new_height, new_width) = labels.size_hw, size_hw
    if new_height < height or new_width < width:
        raise ShapeError(f"cannot pad {_size(labels.size_hw)} to {_size(size_hw)}")
    top, left = (new_height - height) // 2, (new_width - width) // 2
    rows = np.clip(np.arange(new_height) - top, 0, height - 1)
    columns = np.clip(np.arange(new_width) - left, 0, width - 1)
    return _take(labels, rows, columns), (top, left)


def crop_labels(labels: LabelMap, box: tuple[int, int, int, int]) -> LabelMap:
    """Cut a box out of a map.

    Args:
        labels: The map.
        box: Top, left, height and width in pixels.
    Returns:
        The part inside the box.
    Raises:
        ShapeError: The box is empty or leaves the map.
    """
    top, left, height, width = box
    inside = top >= 0 and left >= 0 and height > 0 and width > 0
    if not inside or top + height > labels.size_hw[0] or left + width > labels.size_hw[1]:
        raise ShapeError(f"box {box} is not inside a map of {_size(labels.size_hw)}")
    return _take(labels, top + np.arange(height), left + np.arange(width))


def one_hot(train_ids: NDArray[np.uint8]) -> NDArray[np.float32]:
    """Turn `(H, W)` train ids into `(20, H, W)` planes of 0 and 1."""
    planes = np.arange(NUM_CLASSES, dtype=np.uint8)[:, None, None]
    hot: NDArray[np.float32] = (train_ids[None] == planes).astype(np.float32)
    return hot


def instance_edges(labels: LabelMap) -> NDArray[np.bool_]:
    """Mark the pixels whose object differs from that of one of their 4 neighbours.

    An object is a label id together with an instance number. Without instances, it is a connected
    piece of one label id, whose border is wherever that changes. Taking the label id as well keeps
    the borders between road and sidewalk in an instance map that numbers objects only.

    Returns:
        `(H, W)`, True on both sides of a border.
    Source: NVIDIA/pix2pixHD, models/pix2pixHD_model.py, `get_edges`.
    """
    edges = np.zeros(labels.size_hw, np.bool_)
    for ids in (labels.label_ids, labels.instances):
        if ids is None:
            continue
        across, down = ids[:, 1:] != ids[:, :-1], ids[1:] != ids[:-1]
        edges[:, 1:] |= across
        edges[:, :-1] |= across
        edges[1:] |= down
        edges[:-1] |= down
    return edges


def class_histogram(labels: LabelMap) -> list[tuple[int, int, float]]:
    """Count the pixels of each class that is there.

    Returns:
        Train id, pixels and share of the map, the largest class first.
    """
    counts = np.bincount(labels.train_ids.ravel(), minlength=NUM_CLASSES)
    present = sorted((c.train_id for c in CLASSES if counts[c.train_id]), key=lambda c: -counts[c])
    return [(c, int(counts[c]), float(counts[c] / labels.train_ids.size)) for c in present]
