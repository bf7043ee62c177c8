"""Class sets: the 20 planes used inside, and every encoding a label map may come in.

Each encoding maps an id or a colour to a Cityscapes *label id* (0..33, 34 = licence plate). The
*train id* (0..18, 19 = unlabelled) follows from the label id, so all encodings meet in one table.
"""

from __future__ import annotations

import sys
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from types import MappingProxyType
from typing import Any, Literal

import numpy as np
from numpy.typing import NDArray

from seg2vid_cli.errors import LabelMapError

if sys.version_info >= (3, 11):
    import tomllib
else:
    import tomli as tomllib  # type: ignore[import-not-found,unused-ignore]

Colour = tuple[int, int, int]
Key = int | Colour
Kind = Literal["ids", "colours", "instances"]

NUM_CLASSES = 20
NUM_BACKGROUND = 11
NUM_FOREGROUND_WITH_UNLABELLED = 9
UNLABELLED = 19
NUM_LABEL_IDS = 35
LICENCE_PLATE = 34  # label id -1, which has no plane of its own; pix2pixHD gives it the 35th

# Label id, name, train id (19 where Cityscapes says 255 or -1), colour.
# Source: mcordts/cityscapesScripts, cityscapesscripts/helpers/labels.py, `labels`.
_LABELS: tuple[tuple[int, str, int, Colour], ...] = (
    (0, "unlabelled", 19, (0, 0, 0)),
    (1, "ego vehicle", 19, (0, 0, 0)),
    (2, "rectification border", 19, (0, 0, 0)),
    (3, "out of roi", 19, (0, 0, 0)),
    (4, "static", 19, (0, 0, 0)),
    (5, "dynamic", 19, (111, 74, 0)),
    (6, "ground", 19, (81, 0, 81)),
    (7, "road", 0, (128, 64, 128)),
    (8, "sidewalk", 1, (244, 35, 232)),
    (9, "parking", 19, (250, 170, 160)),
    (10, "rail track", 19, (230, 150, 140)),
    (11, "building", 2, (70, 70, 70)),
    (12, "wall", 3, (102, 102, 156)),
    (13, "fence", 4, (190, 153, 153)),
    (14, "guard rail", 19, (180, 165, 180)),
    (15, "bridge", 19, (150, 100, 100)),
    (16, "tunnel", 19, (150, 120, 90)),
    (17, "pole", 5, (153, 153, 153)),
    (18, "polegroup", 19, (153, 153, 153)),
    (19, "traffic light", 6, (250, 170, 30)),
    (20, "traffic sign", 7, (220, 220, 0)),
    (21, "vegetation", 8, (107, 142, 35)),
    (22, "terrain", 9, (152, 251, 152)),
    (23, "sky", 10, (70, 130, 180)),
    (24, "person", 11, (220, 20, 60)),
    (25, "rider", 12, (255, 0, 0)),
    (26, "car", 13, (0, 0, 142)),
    (27, "truck", 14, (0, 0, 70)),
    (28, "bus", 15, (0, 60, 100)),
    (29, "caravan", 19, (0, 0, 90)),
    (30, "trailer", 19, (0, 0, 110)),
    (31, "train", 16, (0, 80, 100)),
    (32, "motorcycle", 17, (0, 0, 230)),
    (33, "bicycle", 18, (119, 11, 32)),
    (LICENCE_PLATE, "licence plate", 19, (0, 0, 142)),
)
LABEL_NAMES: tuple[str, ...] = tuple(name for _, name, _, _ in _LABELS)
_FIRST_INSTANCE_LABEL = 24  # person; only label ids 24..33 are counted one by one

# Train id of every label id: (35,) uint8.
TRAIN_ID_OF_LABEL: NDArray[np.uint8] = np.array([row[2] for row in _LABELS], np.uint8)
TRAIN_ID_OF_LABEL.setflags(write=False)


@dataclass(frozen=True, kw_only=True)
class ClassInfo:
    """One of the 20 planes.

    Attributes:
        train_id: Index of the plane, 0..19.
        name: The Cityscapes name.
        colour: RGB, 0..255.
        is_foreground: True for the objects that move by themselves (train ids 11..18).
    """

    train_id: int
    name: str
    colour: Colour
    is_foreground: bool


def _classes() -> tuple[ClassInfo, ...]:
    rows = sorted((train, name, colour) for _, name, train, colour in _LABELS if train < UNLABELLED)
    rows.append((UNLABELLED, "unlabelled", (0, 0, 0)))
    return tuple(
        ClassInfo(train_id=t, name=n, colour=c, is_foreground=NUM_BACKGROUND <= t < UNLABELLED)
        for t, n, c in rows
    )


CLASSES: tuple[ClassInfo, ...] = _classes()

# CARLA since 0.9.14. Tag = position; name, colour, Cityscapes label id.
# Own classes keep the Cityscapes reading of their name (ground, bridge, rail track, guard rail:
# unlabelled), so that a picture valid in both palettes means the same in both.
# Source: carla-simulator/carla, LibCarla/source/carla/image/CityScapesPalette.h and
# LibCarla/source/carla/rpc/ObjectLabel.h (0.9.14).
_CARLA: tuple[tuple[str, Colour, int], ...] = (
    ("unlabelled", (0, 0, 0), 0),
    ("road", (128, 64, 128), 7),
    ("sidewalk", (244, 35, 232), 8),
    ("building", (70, 70, 70), 11),
    ("wall", (102, 102, 156), 12),
    ("fence", (190, 153, 153), 13),
    ("pole", (153, 153, 153), 17),
    ("traffic light", (250, 170, 30), 19),
    ("traffic sign", (220, 220, 0), 20),
    ("vegetation", (107, 142, 35), 21),
    ("terrain", (152, 251, 152), 22),
    ("sky", (70, 130, 180), 23),
    ("pedestrian", (220, 20, 60), 24),
    ("rider", (255, 0, 0), 25),
    ("car", (0, 0, 142), 26),
    ("truck", (0, 0, 70), 27),
    ("bus", (0, 60, 100), 28),
    ("train", (0, 80, 100), 31),
    ("motorcycle", (0, 0, 230), 32),
    ("bicycle", (119, 11, 32), 33),
    ("static", (110, 190, 160), 4),
    ("dynamic", (170, 120, 50), 5),
    ("other", (55, 90, 80), 0),
    ("water", (45, 60, 150), 0),
    ("road line", (157, 234, 50), 7),
    ("ground", (81, 0, 81), 6),
    ("bridge", (150, 100, 100), 15),
    ("rail track", (230, 150, 140), 10),
    ("guard rail", (180, 165, 180), 14),
)

# CARLA 0.9.0 to 0.9.13; tags above 12 came with 0.9.10. One tag for all vehicles: car.
# Source: the same file, 0.9.10 to 0.9.13.
_CARLA_LEGACY: tuple[tuple[str, Colour, int], ...] = (
    ("unlabelled", (0, 0, 0), 0),
    ("building", (70, 70, 70), 11),
    ("fence", (100, 40, 40), 13),
    ("other", (55, 90, 80), 0),
    ("pedestrian", (220, 20, 60), 24),
    ("pole", (153, 153, 153), 17),
    ("road line", (157, 234, 50), 7),
    ("road", (128, 64, 128), 7),
    ("sidewalk", (244, 35, 232), 8),
    ("vegetation", (107, 142, 35), 21),
    ("vehicle", (0, 0, 142), 26),
    ("wall", (102, 102, 156), 12),
    ("traffic sign", (220, 220, 0), 20),
    ("sky", (70, 130, 180), 23),
    ("ground", (81, 0, 81), 6),
    ("bridge", (150, 100, 100), 15),
    ("rail track", (230, 150, 140), 10),
    ("guard rail", (180, 165, 180), 14),
    ("traffic light", (250, 170, 30), 19),
    ("static", (110, 190, 160), 4),
    ("dynamic", (170, 120, 50), 5),
    ("water", (45, 60, 150), 0),
    ("terrain", (145, 170, 100), 22),
)
# Before 0.9.10 two of these had other colours (the same file, 0.9.9).
_CARLA_LEGACY_OLD_COLOURS: tuple[tuple[Colour, str, int], ...] = (
    ((190, 153, 153), "fence", 13),
    ((250, 170, 160), "other", 0),
)

# CamVid's 32 classes: name, colour, nearest Cityscapes label id. Archway, bridge and tunnel are
# built things; parking block and road shoulder are kerbside; a bicyclist is one region of rider
# and bicycle, read as bicycle. Animal, cart, cone and other moving things have no near class.
# Source: CamVid, label_colors.txt.
_CAMVID: tuple[tuple[str, Colour, int], ...] = (
    ("Animal", (64, 128, 64), 5),
    ("Archway", (192, 0, 128), 11),
    ("Bicyclist", (0, 128, 192), 33),
    ("Bridge", (0, 128, 64), 11),
    ("Building", (128, 0, 0), 11),
    ("Car", (64, 0, 128), 26),
    ("CartLuggagePram", (64, 0, 192), 5),
    ("Child", (192, 128, 64), 24),
    ("Column_Pole", (192, 192, 128), 17),
    ("Fence", (64, 64, 128), 13),
    ("LaneMkgsDriv", (128, 0, 192), 7),
    ("LaneMkgsNonDriv", (192, 0, 64), 7),
    ("Misc_Text", (128, 128, 64), 20),
    ("MotorcycleScooter", (192, 0, 192), 32),
    ("OtherMoving", (128, 64, 64), 5),
    ("ParkingBlock", (64, 192, 128), 8),
    ("Pedestrian", (64, 64, 0), 24),
    ("Road", (128, 64, 128), 7),
    ("RoadShoulder", (128, 128, 192), 8),
    ("Sidewalk", (0, 0, 192), 8),
    ("SignSymbol", (192, 128, 128), 20),
    ("Sky", (128, 128, 128), 23),
    ("SUVPickupTruck", (64, 128, 192), 26),
    ("TrafficCone", (0, 0, 64), 4),
    ("TrafficLight", (0, 64, 64), 19),
    ("Train", (192, 64, 128), 31),
    ("Tree", (128, 128, 0), 21),
    ("Truck_Bus", (192, 128, 192), 27),
    ("Tunnel", (64, 0, 64), 11),
    ("VegetationMisc", (192, 192, 0), 21),
    ("Void", (0, 0, 0), 0),
    ("Wall", (64, 192, 0), 12),
)


def pack(key: Key) -> int:
    """Turn an id (unchanged) or a colour (`0xRRGGBB`) into the number that maps are searched by."""
    return key if isinstance(key, int) else key[0] << 16 | key[1] << 8 | key[2]


def unpack(value: int) -> Colour:
    """Turn `0xRRGGBB` back into a colour."""
    return value >> 16 & 255, value >> 8 & 255, value & 255


@dataclass(frozen=True, kw_only=True)
class Encoding:
    """How a file says which class a pixel has.

    Attributes:
        name: What `--encoding` calls it.
        title: What it is, for people.
        kind: `ids` in one channel, `colours`, or `instances` (ids that also tell objects apart).
        to_label_id: Id or RGB colour to Cityscapes label id, 0..34.
        key_names: Id or colour to the name that the encoding itself gives it.
    """

    name: str
    title: str
    kind: Kind
    to_label_id: Mapping[Key, int]
    key_names: Mapping[Key, str]

    @cached_property
    def to_train_id(self) -> Mapping[Key, int]:
        """Id or RGB colour to train id, 0..19."""
        return {key: int(TRAIN_ID_OF_LABEL[label]) for key, label in self.to_label_id.items()}

    @cached_property
    def table(self) -> tuple[NDArray[np.int64], NDArray[np.uint8]]:
        """The same as two arrays: packed keys in ascending order, and their label ids."""
        rows = sorted((pack(key), label) for key, label in self.to_label_id.items())
        return (
            np.array([key for key, _ in rows], np.int64),
            np.array([label for _, label in rows], np.uint8),
        )


Row = tuple[Key, str, int]


def _encoding(name: str, title: str, kind: Kind, rows: Iterable[Row]) -> Encoding:
    labels: dict[Key, int] = {}
    names: dict[Key, str] = {}
    for key, key_name, label in rows:  # of two classes with one colour, the first one stands
        labels.setdefault(key, label)
        names.setdefault(key, key_name)
    return Encoding(
        name=name,
        title=title,
        kind=kind,
        to_label_id=MappingProxyType(labels),
        key_names=MappingProxyType(names),
    )


def _label_rows() -> list[Row]:
    """Label ids; -1 is the licence plate, and an 8-bit file stores -1 as 255."""
    rows: list[Row] = [(i, name, i) for i, name, _, _ in _LABELS if i != LICENCE_PLATE]
    return [*rows, (-1, "licence plate", LICENCE_PLATE), (255, "licence plate", LICENCE_PLATE)]


def _train_rows() -> list[Row]:
    rows: list[Row] = [(train, name, i) for i, name, train, _ in _LABELS if train < UNLABELLED]
    return [*rows, (UNLABELLED, "unlabelled", 0), (255, "unlabelled", 0)]


def _instance_rows() -> list[Row]:
    """Ids below 1000 are label ids; from 1000 on, `label id * 1000 + object`."""
    rows: list[Row] = [(i, name, i) for i, name, _, _ in _LABELS if i != LICENCE_PLATE]
    for label in range(_FIRST_INSTANCE_LABEL, LICENCE_PLATE):
        rows += [(label * 1000 + n, LABEL_NAMES[label], label) for n in range(1000)]
    return rows


def _tag_rows(table: tuple[tuple[str, Colour, int], ...]) -> list[Row]:
    return [(tag, name, label) for tag, (name, _, label) in enumerate(table)]


def _colour_rows(table: tuple[tuple[str, Colour, int], ...]) -> list[Row]:
    return [(colour, name, label) for name, colour, label in table]


# In the order in which near ties are decided.
ENCODINGS: Mapping[str, Encoding] = MappingProxyType(
    {
        e.name: e
        for e in (
            _encoding("label-ids", "Cityscapes label ids (0-33)", "ids", _label_rows()),
            _encoding("train-ids", "Cityscapes train ids (0-18, 255)", "ids", _train_rows()),
            _encoding("instance-ids", "Cityscapes instance ids", "instances", _instance_rows()),
            _encoding("carla-ids", "CARLA tags since 0.9.14", "ids", _tag_rows(_CARLA)),
            _encoding("carla-legacy-ids", "CARLA tags to 0.9.13", "ids", _tag_rows(_CARLA_LEGACY)),
            _encoding(
                "cityscapes-colours",
                "Cityscapes colours",
                "colours",
                [(colour, name, i) for i, name, _, colour in _LABELS],
            ),
            _encoding("camvid-colours", "CamVid's 32 colours", "colours", _colour_rows(_CAMVID)),
            _encoding(
                "carla-colours", "CARLA colours since 0.9.14", "colours", _colour_rows(_CARLA)
            ),
            _encoding(
                "carla-legacy-colours",
                "CARLA colours to 0.9.13",
                "colours",
                [*_colour_rows(_CARLA_LEGACY), *_CARLA_LEGACY_OLD_COLOURS],
            ),
        )
    }
)

_CLASS_NAMES: Mapping[str, int] = {
    **{name: i for i, name in enumerate(LABEL_NAMES)},
    "unlabeled": 0,
    "void": 0,
    "ignore": 0,
    "license plate": LICENCE_PLATE,
}
_TOML_EXAMPLE = '[classes] with lines such as 3 = "road" or "128,64,128" = "road"'


def load_encoding(name_or_toml: str) -> Encoding:
    """Return the encoding with this name, or read one from a TOML file.

    The file has one table, `[classes]`, from an id (`3 = "road"`) or a colour (`"128,64,128"` or
    `"#804080"`) to a Cityscapes class name; and may have a `name`. A class without a Cityscapes
    counterpart is `"unlabelled"`.

    Args:
        name_or_toml: A key of `ENCODINGS`, or the path of a `.toml` file.
    Returns:
        The encoding.
    Raises:
        LabelMapError: Unknown name, or a file that is missing or does not say what it should.
    """
    if name_or_toml in ENCODINGS:
        return ENCODINGS[name_or_toml]
    if not name_or_toml.lower().endswith(".toml"):
        raise LabelMapError(
            f"unknown encoding {name_or_toml!r}",
            hint=f"use auto, {', '.join(ENCODINGS)}, or the path of a .toml file",
        )
    path = Path(name_or_toml)
    try:
        content: dict[str, Any] = tomllib.loads(path.read_text(encoding="utf-8"))
    except (OSError, UnicodeDecodeError, tomllib.TOMLDecodeError) as error:
        reason = error.strerror if isinstance(error, OSError) else str(error)
        raise LabelMapError(
            f"{path}: the encoding cannot be read: {reason}", hint=f"write {_TOML_EXAMPLE}"
        ) from error
    return _encoding_of_toml(path, content)


def _encoding_of_toml(path: Path, content: dict[str, Any]) -> Encoding:
    unknown = sorted(set(content) - {"name", "classes"})
    if unknown:
        raise LabelMapError(
            f"{path}: unknown setting {', '.join(unknown)}", hint=f"write {_TOML_EXAMPLE}"
        )
    classes, name = content.get("classes"), content.get("name", path.stem)
    if not isinstance(classes, dict) or not classes or not isinstance(name, str):
        raise LabelMapError(f"{path}: there is no table of classes", hint=f"write {_TOML_EXAMPLE}")
    rows: list[Row] = [
        (_toml_key(path, key), str(value), _toml_label(path, key, value))
        for key, value in classes.items()
    ]
    keys = [key for key, _, _ in rows]
    if len({isinstance(key, int) for key in keys}) > 1:
        raise LabelMapError(f"{path}: ids and colours are mixed", hint="give one kind of key")
    twice = next((key for key in keys if keys.count(key) > 1), None)
    if twice is not None:
        raise LabelMapError(f"{path}: {twice} is given twice", hint="give every key once")
    kind: Kind = "ids" if isinstance(keys[0], int) else "colours"
    return _encoding(name, f"{path.name} ({len(rows)} {kind})", kind, rows)


def _toml_key(path: Path, text: str) -> Key:
    bare = text.strip()
    try:
        if bare.startswith("#") and len(bare) == 7:
            return unpack(int(bare[1:], 16))
        numbers = [int(part) for part in bare.split(",")]
    except ValueError:
        numbers = []
    if len(numbers) == 1:
        return numbers[0]
    if len(numbers) == 3 and all(0 <= n <= 255 for n in numbers):
        return numbers[0], numbers[1], numbers[2]
    raise LabelMapError(
        f"{path}: {text!r} is neither an id nor a colour",
        hint='write an id as 3, a colour as "128,64,128" or "#804080"',
    )


def _toml_label(path: Path, key: str, value: object) -> int:
    label = _CLASS_NAMES.get(value.strip().lower()) if isinstance(value, str) else None
    if label is None:
        raise LabelMapError(
            f"{path}: {key} = {value!r} is not a class", hint=f"classes: {', '.join(_CLASS_NAMES)}"
        )
    return label
