"""How a clip was made: stored in the file, shown by `inspect`, repeated by `generate --like`."""

from __future__ import annotations

import base64
import hashlib
import io
from collections.abc import Mapping
from dataclasses import asdict, dataclass, fields, replace
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray
from PIL import Image

from seg2vid_cli.errors import InputError, Seg2VidError
from seg2vid_cli.label_sets import LICENCE_PLATE, TRAIN_ID_OF_LABEL, UNLABELLED
from seg2vid_cli.labels import LabelMap, blank_labels, labels_from_array
from seg2vid_cli.sample import Sample
from seg2vid_cli.video import read_metadata

TOOL = "seg2vid"
# What clips of early versions do not say.
OF_FIRST_CLIPS: Mapping[str, Any] = {
    "first_frame_weights": None,
    "motion_weights": None,
    "variants": {},
    "to_seed": None,
    "shares": {},
    "motion_scale": 1.0,
    "edges_png": None,
    "edge_variety": 0.0,
    "light": None,
}
_PLACES = np.array([1 << 16, 1 << 8, 1], np.int32)


@dataclass(frozen=True, kw_only=True)
class Recipe:
    """Everything that decides the pixels of a clip.

    Neither file names nor the label map's encoding are in it, so one scene gives one recipe.

    Args:
        tool: Always `seg2vid`.
        version: Version of this package.
        torch: Version of torch.
        weights: Name of the bundle.
        first_frame_weights: Name of the bundle that the first frame is from, where it is another.
        motion_weights: Name of the bundle that the motion is from, where it is another.
        weights_sha256: Hash of every stage's file and of the bundles' descriptions.
        device: Kind of device (`cpu`, `cuda`, `mps`).
        precision: `fp32`, `bf16` or `fp16`.
        seed: The seed.
        variant: Number of the sample under this seed.
        variants: For look, camera or objects that are another sample's: its number.
        to_seed: Seed at the other end, where the clip lies between two.
        shares: How far each part is on the way there.
        motion_scale: Factor on the length of all flows.
        frames: Frames in the clip.
        fps: Frames per second.
        quality: Of the video file.
        size: Width and height of the frames in pixels.
        fit: `keep` or `stretch`.
        labels_sha256: Hash of what `labels_png` holds.
        labels_png: The label map as PNG in base64: train ids at the clip's size, or, where the
            first frame was painted from more than that, label ids and instances at that size.
        first_frame_sha256: Hash of the user's picture; None where the first frame was painted.
        edges_png: Edges that guided the first frame, as PNG in base64 at the clip's size; None
            without.
        edge_variety: How far the mix of detected edges was from the learnt one, 0 to 2.
        light: How light the first frame was asked to be, 0 to 1; None where it was drawn.
    """

    tool: str
    version: str
    torch: str
    weights: str
    first_frame_weights: str | None
    motion_weights: str | None
    weights_sha256: Mapping[str, str]
    device: str
    precision: str
    seed: int
    variant: int
    variants: Mapping[str, int]
    to_seed: int | None
    shares: Mapping[str, float]
    motion_scale: float
    frames: int
    fps: float
    quality: float
    size: tuple[int, int]
    fit: str
    labels_sha256: str
    labels_png: str
    first_frame_sha256: str | None
    edges_png: str | None = None
    edge_variety: float = 0.0
    light: float | None = None

    @property
    def sample(self) -> Sample:
        """What the clip is drawn from."""
        return Sample(**{field.name: getattr(self, field.name) for field in fields(Sample)})

    def to_dict(self) -> dict[str, Any]:
        """As plain values for a file's metadata."""
        return asdict(replace(self, variants=dict(self.variants), shares=dict(self.shares)))

    def labels(self) -> LabelMap:
        """The label map that the clip was made from.

        Raises:
            InputError: The stored map is damaged.
        """
        try:
            with Image.open(io.BytesIO(base64.b64decode(self.labels_png, validate=True))) as image:
                pixels = np.asarray(image if image.mode == "RGBA" else image.convert("L"))
        except (OSError, ValueError, SyntaxError, Image.DecompressionBombError) as error:
            raise InputError("the label map stored in the clip is damaged") from error
        if pixels.ndim == 3:
            return _unpack_scene(pixels)
        if (pixels == UNLABELLED).all():
            return blank_labels((pixels.shape[0], pixels.shape[1]))
        return labels_from_array(pixels, encoding="train-ids")

    def edges(self) -> NDArray[np.bool_] | None:
        """The edges that guided the first frame, `(H, W)`; None without.

        Raises:
            InputError: The stored edges are damaged.
        """
        if self.edges_png is None:
            return None
        try:
            with Image.open(io.BytesIO(base64.b64decode(self.edges_png, validate=True))) as image:
                edges = np.asarray(image.convert("1"))
        except (OSError, ValueError, SyntaxError, Image.DecompressionBombError) as error:
            raise InputError("the edges stored in the clip are damaged") from error
        return np.asarray(edges, np.bool_)


def encode_edges(edges: NDArray[np.bool_]) -> str:
    """Pack `(H, W)` edges into a PNG in base64, one bit a pixel."""
    return _pack(edges)


def encode_labels(train_ids: NDArray[np.uint8]) -> str:
    """Pack `(H, W)` train ids into a PNG in base64."""
    return _pack(train_ids)


def encode_scene(labels: LabelMap) -> str:
    """Pack label ids and instances into a PNG in base64: red, and green to alpha as one number.

    Instances are counted from 1 in the order of their numbers, and 0 everywhere says that the map
    has none; so what is read back packs to the same.
    """
    height, width = labels.size_hw
    numbers = np.zeros(height * width, np.int32)
    if labels.instances is not None:
        numbers = np.unique(labels.instances, return_inverse=True)[1].ravel().astype(np.int32) + 1
    pixels = np.stack([labels.label_ids.ravel(), *((numbers // p) % 256 for p in _PLACES)], axis=1)
    return _pack(pixels.astype(np.uint8).reshape(height, width, 4))


def scene_sha256(packed: str) -> str:
    """Hash of the pixels that `encode_scene` packed, whatever the packing."""
    with Image.open(io.BytesIO(base64.b64decode(packed))) as image:
        return hashlib.sha256(f"{image.size}".encode() + image.tobytes()).hexdigest()


def _unpack_scene(pixels: NDArray[np.uint8]) -> LabelMap:
    label_ids = pixels[..., 0]
    if label_ids.max() > LICENCE_PLATE:
        raise InputError("the label map stored in the clip is damaged")
    numbers = pixels[..., 1:].astype(np.int32) @ _PLACES
    return LabelMap(
        train_ids=TRAIN_ID_OF_LABEL[label_ids],
        label_ids=label_ids,
        instances=numbers if numbers.any() else None,
        encoding="label-ids",
        reason="Stored in the clip.",
    )


def _pack(pixels: NDArray[np.uint8] | NDArray[np.bool_]) -> str:
    buffer = io.BytesIO()
    Image.fromarray(pixels).save(buffer, "PNG", optimize=True)
    return base64.b64encode(buffer.getvalue()).decode("ascii")


def read_recipe(path: Path) -> Recipe | None:
    """Read how a clip was made.

    Returns:
        None where the file is a readable clip that does not say.

    Raises:
        InputError: Missing or no clip, or the note in it is of another version and cannot be used.
    """
    try:
        data = read_metadata(path)
    except Seg2VidError as error:
        raise InputError(error.message, hint=error.hint) from error
    if not data or data.get("tool") != TOOL:
        return None
    data = {**OF_FIRST_CLIPS, **data}
    if set(data) != {field.name for field in fields(Recipe)}:
        raise InputError(
            f"{path}: made by seg2vid {data.get('version', '?')}, of no use to this version",
            hint="give label map and options again",
        )
    recipe = Recipe(**{**data, "size": tuple(data["size"])}) if _has_types(data) else None
    if recipe is None:
        raise InputError(f"{path}: the note on how it was made is damaged")
    try:
        _ = recipe.sample
    except InputError as error:
        raise InputError(f"{path}: the note on how it was made is damaged: {error}") from error
    return recipe


def _has_types(data: Mapping[str, Any]) -> bool:
    size, hashes = data["size"], data["weights_sha256"]
    texts = ("version", "torch", "weights", "device", "precision", "fit", "labels_sha256")
    return (
        all(isinstance(data[name], str) for name in (*texts, "labels_png"))
        and all(type(data[name]) is int for name in ("seed", "variant", "frames"))
        and all(
            type(data[name]) in (int, float)
            for name in ("fps", "quality", "motion_scale", "edge_variety")
        )
        and type(data["to_seed"]) in (int, type(None))
        and type(data["light"]) in (int, float, type(None))
        and all(
            isinstance(data[name], dict) and all(type(v) in kinds for v in data[name].values())
            for name, kinds in (("variants", (int,)), ("shares", (int, float)))
        )
        and isinstance(size, list)
        and [type(side) for side in size] == [int, int]
        and isinstance(hashes, dict)
        and all(isinstance(value, str) for value in hashes.values())
        and all(
            isinstance(data[name], (str, type(None)))
            for name in ("first_frame_sha256", "first_frame_weights", "motion_weights", "edges_png")
        )
    )
