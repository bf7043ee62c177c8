"""How a clip was made: stored in the file, shown by `inspect`, repeated by `generate --like`."""

from __future__ import annotations

import base64
import io
from collections.abc import Mapping
from dataclasses import asdict, dataclass, fields
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray
from PIL import Image

from seg2vid_cli.errors import InputError, Seg2VidError
from seg2vid_cli.labels import LabelMap, labels_from_array
from seg2vid_cli.video import read_metadata

TOOL = "seg2vid"


@dataclass(frozen=True, kw_only=True)
class Recipe:
    """Everything that decides the pixels of a clip.

    Neither file names nor the label map's encoding are in it, so one scene gives one recipe.

    Args:
        tool: Always `seg2vid`.
        version: Version of this package.
        torch: Version of torch.
        weights: Name of the bundle.
        weights_sha256: Hash of every stage's file.
        device: Kind of device (`cpu`, `cuda`, `mps`).
        precision: `fp32`, `bf16` or `fp16`.
        seed: The seed.
        variant: Number of the sample under this seed.
        frames: Frames in the clip.
        fps: Frames per second.
        quality: Of the video file.
        size: Width and height of the frames in pixels.
        fit: `keep` or `stretch`.
        labels_sha256: Hash of the label map at the clip's size.
        labels_png: The label map at the clip's size, train ids as PNG in base64.
        first_frame_sha256: Hash of the user's picture; None where the first frame was painted.
    """

    tool: str
    version: str
    torch: str
    weights: str
    weights_sha256: Mapping[str, str]
    device: str
    precision: str
    seed: int
    variant: int
    frames: int
    fps: float
    quality: float
    size: tuple[int, int]
    fit: str
    labels_sha256: str
    labels_png: str
    first_frame_sha256: str | None

    def to_dict(self) -> dict[str, Any]:
        """As plain values for a file's metadata."""
        return asdict(self)

    def labels(self) -> LabelMap:
        """The label map that the clip was made from, at the clip's size.

        Raises:
            InputError: The stored map is damaged.
        """
        try:
            with Image.open(io.BytesIO(base64.b64decode(self.labels_png, validate=True))) as image:
                ids = np.asarray(image.convert("L"))
        except (OSError, ValueError, SyntaxError, Image.DecompressionBombError) as error:
            raise InputError("the label map stored in the clip is damaged") from error
        return labels_from_array(ids, encoding="train-ids")


def encode_labels(train_ids: NDArray[np.uint8]) -> str:
    """Pack `(H, W)` train ids into a PNG in base64."""
    buffer = io.BytesIO()
    Image.fromarray(train_ids).save(buffer, "PNG", optimize=True)
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
    if set(data) != {field.name for field in fields(Recipe)}:
        raise InputError(
            f"{path}: made by seg2vid {data.get('version', '?')}, of no use to this version",
            hint="give label map and options again",
        )
    recipe = Recipe(**{**data, "size": tuple(data["size"])}) if _has_types(data) else None
    if recipe is None:
        raise InputError(f"{path}: the note on how it was made is damaged")
    return recipe


def _has_types(data: Mapping[str, Any]) -> bool:
    size, hashes = data["size"], data["weights_sha256"]
    texts = ("version", "torch", "weights", "device", "precision", "fit", "labels_sha256")
    return (
        all(isinstance(data[name], str) for name in (*texts, "labels_png"))
        and all(type(data[name]) is int for name in ("seed", "variant", "frames"))
        and all(type(data[name]) in (int, float) for name in ("fps", "quality"))
        and isinstance(size, list)
        and [type(side) for side in size] == [int, int]
        and isinstance(hashes, dict)
        and all(isinstance(value, str) for value in hashes.values())
        and isinstance(data["first_frame_sha256"], (str, type(None)))
    )
