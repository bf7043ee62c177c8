"""Pictures, label maps and clips: decoded once, kept in memory as uint8, augmented per sample."""

from __future__ import annotations

import queue
import threading
from collections.abc import Callable, Generator, Sequence
from contextlib import suppress
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TypeVar

import cv2
import numpy as np
import torch
from numpy.typing import NDArray
from PIL import Image
from torch import Tensor

from seg2vid_cli.errors import InputError
from seg2vid_cli.label_sets import NUM_CLASSES
from seg2vid_cli.labels import labels_from_array, read_labels, resize_labels

# A data set with few classes must still teach the planes it lacks: now and then an object is handed
# over under the name of a class that looks alike.
LOOKALIKES: dict[int, tuple[int, ...]] = {
    13: (14, 15, 16),  # car: truck, bus, train
    18: (12, 17),  # bicycle: rider, motorcycle
    11: (12,),  # person: rider
    8: (9,),  # vegetation: terrain
    4: (3,),  # fence: wall
    2: (3,),  # building: wall
    7: (6,),  # traffic sign: traffic light
}
LOOKALIKE_PROBABILITY = 0.15
MOST_ENLARGED = 1.25  # beyond, a window would teach blur


@dataclass(frozen=True, kw_only=True)
class Pair:
    """One labelled picture.

    Args:
        name: File name without ending.
        picture: uint8 `(H, W, 3)`.
        train_ids: uint8 `(H, W)`, 0-18 and 19 = unlabelled.
    """

    name: str
    picture: NDArray[np.uint8]
    train_ids: NDArray[np.uint8]


def read_pairs(
    pictures: Path, labels: Path, *, encoding: str = "auto", names: Sequence[str] | None = None
) -> list[Pair]:
    """Read pictures with the label maps of the same name.

    Args:
        pictures: Folder of `.jpg` or `.png` pictures.
        labels: Folder of label maps, `NAME.png` each.
        encoding: Of all label maps; see `seg2vid_cli.labels.read_labels`.
        names: Only these, without ending; all of them otherwise.

    Raises:
        InputError: A picture has no label map or another size.
    """
    for folder in (pictures, labels):
        if not folder.is_dir():
            raise InputError(f"{folder}: there is no such folder", hint="check the path")
    files = {f.stem: f for f in sorted(pictures.iterdir()) if f.suffix in {".jpg", ".png"}}
    pairs = []
    for name in names or list(files):
        label_file = labels / f"{name}.png"
        if name not in files or not label_file.exists():
            raise InputError(
                f"{name}: needs a picture in {pictures} and {label_file}",
                hint="every picture needs a label map of its name; --names picks some",
            )
        try:
            picture = np.asarray(Image.open(files[name]).convert("RGB"))
        except OSError as error:
            raise InputError(
                f"{files[name]}: not a picture that can be read", hint="remove it, or leave it out"
            ) from error
        train_ids = read_labels(label_file, encoding=encoding).train_ids
        if picture.shape[:2] != train_ids.shape:
            raise InputError(f"{label_file}: not of the same size as its picture")
        pairs.append(Pair(name=name, picture=picture, train_ids=train_ids))
    if not pairs:
        raise InputError(f"{pictures}: no .jpg or .png pictures", hint="check the path")
    return pairs


def diversify_classes(train_ids: NDArray[np.uint8], rng: np.random.Generator) -> NDArray[np.uint8]:
    """Rename some connected regions to a look-alike class: uint8 `(H, W)` to the same."""
    out: NDArray[np.uint8] = np.array(train_ids, np.uint8)
    for known, others in LOOKALIKES.items():
        mask = train_ids == known
        if not mask.any():
            continue
        count, regions = cv2.connectedComponents(mask.astype(np.uint8))
        for region in range(1, count):
            if rng.random() < LOOKALIKE_PROBABILITY:
                out[regions == region] = rng.choice(others)
    return out


def crop_pair(
    pair: Pair, size_hw: tuple[int, int], rng: np.random.Generator, *, zoom: tuple[float, float]
) -> tuple[NDArray[np.uint8], NDArray[np.uint8]]:
    """Cut a random window of the wanted aspect and scale it; flipped half of the time.

    Args:
        pair: The labelled picture.
        size_hw: Size to return.
        rng: Source of the choices.
        zoom: Least and largest window width as a share of the widest that fits. Windows are larger
            where they would have to be enlarged by more than `MOST_ENLARGED`.

    Returns:
        Picture uint8 `(h, w, 3)` and train ids uint8 `(h, w)`.
    """
    height, width = pair.train_ids.shape
    out_h, out_w = size_hw
    widest = min(width, height * out_w / out_h)
    window_w = max(widest * rng.uniform(*zoom), min(widest, out_w / MOST_ENLARGED))
    window_h = window_w * out_h / out_w
    left, top = rng.uniform(0, width - window_w), rng.uniform(0, height - window_h)
    box = (left, top, left + window_w, top + window_h)
    # Not a box filter: it enlarges by repeating rows and columns, which generators learn to paint.
    picture = Image.fromarray(pair.picture).resize((out_w, out_h), Image.Resampling.BICUBIC, box)
    labels = Image.fromarray(pair.train_ids).resize((out_w, out_h), Image.Resampling.NEAREST, box)
    x, y = np.asarray(picture), np.asarray(labels)
    return (x[:, ::-1], y[:, ::-1]) if rng.random() < 0.5 else (x, y)


def wide_window(pair: Pair, size_hw: tuple[int, int]) -> Pair:
    """The upper 2:1 part of a labelled picture at the working size.

    The window starts an eighth of the picture's spare height from the top, so that a bonnet at the
    bottom stays out.
    """
    height, width = pair.train_ids.shape
    window = min(height, width * size_hw[0] // size_hw[1])
    top = (height - window) // 8
    picture = pair.picture[top : top + window]
    labels = labels_from_array(pair.train_ids[top : top + window], encoding="train-ids")
    small = cv2.resize(picture, size_hw[::-1], interpolation=cv2.INTER_AREA)
    return Pair(
        name=pair.name,
        picture=np.asarray(small, np.uint8),
        train_ids=resize_labels(labels, size_hw).train_ids,
    )


def jitter_colours(
    picture: NDArray[np.uint8], rng: np.random.Generator, strength: float
) -> NDArray[np.uint8]:
    """Change brightness, contrast, gamma and the balance of the channels at random."""
    levels = np.linspace(0, 1, 256) ** np.exp(rng.normal(0, 0.35 * strength))
    mean = np.average(levels, weights=np.bincount(picture.ravel(), minlength=256))
    levels = (levels - mean) * np.exp(rng.normal(0, 0.3 * strength)) + mean
    gains = np.exp(rng.normal(0, 0.25 * strength)) * np.exp(rng.normal(0, 0.12 * strength, 3))
    table = (np.clip(levels[:, None] * gains, 0, 1) * 255).astype(np.uint8)
    changed = cv2.LUT(np.ascontiguousarray(picture), table[None])
    if rng.random() < 0.3 * strength:
        changed = cv2.GaussianBlur(changed, (0, 0), rng.uniform(0.3, 1.2))
    return np.asarray(changed, np.uint8)


def to_tensor(pictures: Sequence[NDArray[np.uint8]]) -> Tensor:
    """uint8 `(h, w, 3)` pictures to float32 `(B, 3, h, w)` in [0, 1]."""
    stacked = torch.from_numpy(np.ascontiguousarray(np.stack(pictures)))
    return stacked.permute(0, 3, 1, 2).float() / 255


def to_planes(train_ids: Sequence[NDArray[np.uint8]]) -> Tensor:
    """uint8 `(h, w)` maps to one-hot float32 `(B, 20, h, w)`."""
    ids = torch.from_numpy(np.ascontiguousarray(np.stack(train_ids))).long()
    return torch.nn.functional.one_hot(ids, NUM_CLASSES).permute(0, 3, 1, 2).float()


Some = TypeVar("Some", bound="Tensors")


@dataclass(frozen=True, kw_only=True)
class Tensors:
    """What data classes of tensors have in common."""

    def to(self: Some, device: torch.device) -> Some:
        """Copy to a device."""
        return replace(self, **{k: v.to(device, non_blocking=True) for k, v in vars(self).items()})


Batch = TypeVar("Batch")


def prefetch(
    make: Callable[[np.random.Generator], Batch], seed: int, *, ahead: int = 3
) -> Generator[Batch, None, None]:
    """Yield batches for ever, the next ones made in a background thread.

    Raises:
        Exception: Whatever `make` raised, where the batch would have come.
    """
    ready: queue.Queue[Batch | BaseException] = queue.Queue(maxsize=ahead)
    stopped = threading.Event()

    def hand_over(item: Batch | BaseException) -> None:
        while not stopped.is_set():
            with suppress(queue.Full):
                ready.put(item, timeout=0.5)
                return

    def work() -> None:
        rng = np.random.default_rng(seed)
        while not stopped.is_set():
            try:
                hand_over(make(rng))
            except BaseException as error:
                hand_over(error)
                return

    threading.Thread(target=work, daemon=True).start()
    try:
        while True:
            item = ready.get()
            if isinstance(item, BaseException):
                raise item
            yield item
    finally:
        stopped.set()  # so that a finished training lets go of its data
