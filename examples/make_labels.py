"""Draw the example label maps: four invented street scenes, in several encodings.

Nothing here is copied from a data set. Every scene is a list of things that stand on a flat ground
in front of a pinhole camera; the things are painted from far to near as an annotator would have
outlined them: one class each, no windows, no texture, outlines that wobble by about a pixel.

    python examples/make_labels.py          # rewrites everything under examples/labels/

(needs the package installed; `python -m examples.make_labels` in a checkout does not).

World coordinates are metres: `x` to the right, `y` up from the road, `z` ahead of the camera.
Picture coordinates are pixels, `y` downwards, pixel centres at .5. All randomness comes from fixed
seeds, so a second run writes the same bytes (with another Pillow: at least the same pixels).
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass, field
from itertools import pairwise
from pathlib import Path
from random import Random
from typing import Protocol

import numpy as np
import numpy.typing as npt
from PIL import Image

from seg2vid_cli.label_sets import CLASSES, ENCODINGS, Encoding, pack

HERE = Path(__file__).resolve().parent
LABELS = HERE / "labels"

Array = npt.NDArray[np.float64]
Mask = npt.NDArray[np.bool_]
Point = tuple[float, float, float]
Box = tuple[float, float, float, float]

# Cityscapes train ids, in their order.
ROAD, SIDEWALK, BUILDING, WALL, FENCE, POLE, LIGHT, SIGN, VEGETATION, TERRAIN = range(10)
SKY, PERSON, RIDER, CAR, TRUCK, BUS, TRAIN, MOTORCYCLE, BICYCLE, UNLABELLED = range(10, 20)
LANE_MARKING = 20  # Part of the road, but some encodings tell it apart.

NEAR = 0.4  # Metres: nothing closer than this is drawn.
FAR_AWAY = 1e6  # Depth of the ground and the sky, painted first.


# --- noise -------------------------------------------------------------------------------------


def _lattice(x: npt.NDArray[np.int64], y: npt.NDArray[np.int64], seed: int) -> Array:
    """A fixed pseudo-random number in [-1, 1] for every whole-numbered point."""
    mask = np.int64(0xFFFFFFFF)
    h = (x * 374761393 + y * 668265263 + seed * 2246822519) & mask
    h = ((h ^ (h >> 13)) * 1274126177) & mask
    h = ((h ^ (h >> 16)) * 668265263) & mask
    return np.asarray(((h ^ (h >> 15)) & mask) / float(0x7FFFFFFF) - 1.0)


def noise(x: Array, y: Array, seed: int) -> Array:
    """Smooth noise in [-1, 1] that changes over a distance of about 1."""
    x0, y0 = np.floor(x), np.floor(y)
    fx, fy = x - x0, y - y0
    fx, fy = fx * fx * (3 - 2 * fx), fy * fy * (3 - 2 * fy)
    ix, iy = x0.astype(np.int64), y0.astype(np.int64)
    top = _lattice(ix, iy, seed) * (1 - fx) + _lattice(ix + 1, iy, seed) * fx
    bottom = _lattice(ix, iy + 1, seed) * (1 - fx) + _lattice(ix + 1, iy + 1, seed) * fx
    return top * (1 - fy) + bottom * fy


def rough_noise(x: Array, y: Array, seed: int) -> Array:
    """Noise with finer and finer detail, as the edge of a tree has it."""
    total = noise(x, y, seed)
    for octave in (1, 2, 3):
        total = total + 0.6**octave * noise(x * 2**octave, y * 2**octave, seed + octave)
    return total / 1.6


# --- shapes in the picture ---------------------------------------------------------------------


class Shape(Protocol):
    """A part of an outline: where it is, and which points of the picture it covers."""

    bounds: Box

    def contains(self, x: Array, y: Array) -> Mask: ...


class Hull:
    """The convex hull of some points, in pixels."""

    def __init__(self, points: Iterable[tuple[float, float]]) -> None:
        self.corners = _convex_hull(list(points))
        xs, ys = zip(*self.corners, strict=True)
        self.bounds: Box = (min(xs), min(ys), max(xs), max(ys))

    def contains(self, x: Array, y: Array) -> Mask:
        inside = np.ones(x.shape, dtype=bool)
        for (ax, ay), (bx, by) in zip(
            self.corners, self.corners[1:] + self.corners[:1], strict=True
        ):
            inside &= (bx - ax) * (y - ay) - (by - ay) * (x - ax) >= 0
        return inside


def _convex_hull(points: list[tuple[float, float]]) -> list[tuple[float, float]]:
    """Corners of the convex hull, all turning the same way (Andrew's monotone chain)."""
    points = sorted(set(points))
    if len(points) < 3:
        return points

    def half(sequence: Iterable[tuple[float, float]]) -> list[tuple[float, float]]:
        chain: list[tuple[float, float]] = []
        for p in sequence:
            while len(chain) > 1 and (
                (chain[-1][0] - chain[-2][0]) * (p[1] - chain[-2][1])
                - (chain[-1][1] - chain[-2][1]) * (p[0] - chain[-2][0])
                <= 0
            ):
                chain.pop()
            chain.append(p)
        return chain[:-1]

    return half(points) + half(reversed(points))


class Limb:
    """A stroke with round ends whose radius changes from one end to the other, in pixels."""

    def __init__(
        self, a: tuple[float, float], b: tuple[float, float], ra: float, rb: float
    ) -> None:
        self.a, self.b, self.ra, self.rb = a, b, ra, rb
        r = max(ra, rb)
        self.bounds: Box = (
            min(a[0], b[0]) - r,
            min(a[1], b[1]) - r,
            max(a[0], b[0]) + r,
            max(a[1], b[1]) + r,
        )

    def contains(self, x: Array, y: Array) -> Mask:
        dx, dy = self.b[0] - self.a[0], self.b[1] - self.a[1]
        t = ((x - self.a[0]) * dx + (y - self.a[1]) * dy) / (dx * dx + dy * dy + 1e-9)
        t = np.clip(t, 0.0, 1.0)
        radius = self.ra + (self.rb - self.ra) * t
        return np.asarray(np.hypot(x - self.a[0] - t * dx, y - self.a[1] - t * dy) <= radius)


class Foliage:
    """A ragged union of ellipses, in pixels, cut off at the ground.

    Args:
        blobs: Centre and half axes of each ellipse.
        grain: Size of one bunch of leaves in pixels.
        ragged: How far the edge wanders, as a share of an ellipse's radius.
        floor: Nothing is drawn below this row.
        seed: Of the edge.
    """

    def __init__(
        self,
        blobs: Sequence[tuple[float, float, float, float]],
        *,
        grain: float,
        ragged: float,
        floor: float,
        seed: int,
    ) -> None:
        self.blobs, self.grain, self.ragged = blobs, max(grain, 2.0), ragged
        self.floor, self.seed = floor, seed
        grow = 1.0 + 1.3 * ragged
        self.bounds: Box = (
            min(x - grow * rx for x, _, rx, _ in blobs),
            min(y - grow * ry for _, y, _, ry in blobs),
            max(x + grow * rx for x, _, rx, _ in blobs),
            min(floor, max(y + grow * ry for _, y, _, ry in blobs)),
        )

    def contains(self, x: Array, y: Array) -> Mask:
        depth = np.full(x.shape, np.inf)
        for bx, by, rx, ry in self.blobs:
            depth = np.minimum(depth, np.hypot((x - bx) / rx, (y - by) / ry))
        edge = rough_noise(x / self.grain, y / self.grain, self.seed)
        gaps = rough_noise(x / self.grain * 0.8, y / self.grain * 0.8, self.seed + 50)
        leaves = (depth + self.ragged * edge < 1.0) & ~((gaps > 0.75) & (depth > 0.72))
        return np.asarray(leaves & (y <= self.floor))


# --- camera and scene --------------------------------------------------------------------------


@dataclass(frozen=True)
class Camera:
    """A level pinhole camera.

    Args:
        width: Of the picture in pixels.
        height: Of the picture in pixels.
        focal: Focal length in pixels.
        vanish_x: Column in which the direction straight ahead vanishes.
        horizon: Row of the horizon.
        eye: Height above the road in metres.
    """

    width: int
    height: int
    focal: float
    vanish_x: float
    horizon: float
    eye: float = 1.3

    def at(self, x: float, y: float, z: float) -> tuple[float, float]:
        """The pixel at which a point in front of the camera appears."""
        return (
            self.vanish_x + self.focal * x / z,
            self.horizon + self.focal * (self.eye - y) / z,
        )

    def scale(self, z: float) -> float:
        """Pixels per metre at a distance."""
        return self.focal / z

    def solid(self, points: Iterable[Point]) -> Hull | None:
        """Outline of the convex body spanned by `points`; none if it lies behind the camera."""
        points = list(points)
        front = [p for p in points if p[2] >= NEAR]
        behind = [p for p in points if p[2] < NEAR]
        cut = []
        for a in front:
            for b in behind:
                t = (a[2] - NEAR) / (a[2] - b[2])
                cut.append((a[0] + t * (b[0] - a[0]), a[1] + t * (b[1] - a[1]), NEAR))
        corners = {self.at(*p) for p in front + cut}
        return Hull(corners) if len(corners) > 2 else None


@dataclass(frozen=True)
class Thing:
    """One thing of one class: its shapes, how far away it is and how shaky its outline is."""

    label: int
    depth: float
    shapes: tuple[Shape, ...]
    wobble: float
    seed: int


@dataclass(frozen=True)
class Painting:
    """A finished scene.

    Args:
        labels: uint8 `(H, W)`, train ids with 19 for unlabelled.
        numbers: int64 `(H, W)`, 0, 1, ... for the things of each class that is counted (person to
            bicycle), the farthest first; -1 elsewhere.
        markings: bool `(H, W)`, where the road is painted.
    """

    labels: npt.NDArray[np.uint8]
    numbers: npt.NDArray[np.int64]
    markings: Mask


@dataclass
class Scene:
    """What stands where. `bend` is the road's curvature: it moves sideways by `bend * z**2`."""

    camera: Camera
    seed: int
    bend: float = 0.0
    things: list[Thing] = field(default_factory=list)

    def __post_init__(self) -> None:
        self.random = Random(self.seed)

    def lane(self, side: float, z: float) -> float:
        """World `x` of a line that runs along the road, `side` metres from the camera's."""
        return side + self.bend * z * abs(z)

    def heading(self, z: float) -> float:
        """Direction of the road at `z`, in radians from straight ahead."""
        return math.atan(2 * self.bend * abs(z))

    def add(
        self, label: int, depth: float, shapes: Iterable[Shape | None], *, wobble: float = 0.9
    ) -> None:
        """Put a thing of one class into the scene."""
        kept = tuple(shape for shape in shapes if shape is not None)
        if kept:
            seed = self.seed * 1000 + len(self.things)
            self.things.append(Thing(label, depth, kept, wobble, seed))

    def add_solids(
        self, label: int, depth: float, solids: Iterable[Iterable[Point]], *, wobble: float = 0.9
    ) -> None:
        """Put a thing made of convex bodies into the scene."""
        self.add(label, depth, [self.camera.solid(s) for s in solids], wobble=wobble)

    def paint(self) -> Painting:
        """Draw everything, far things first."""
        labels = np.full((self.camera.height, self.camera.width), SKY, dtype=np.uint8)
        owner = np.zeros(labels.shape, dtype=np.int64)
        order = sorted(self.things, key=lambda thing: -thing.depth)
        for number, thing in enumerate(order):
            for window, mask in self._masks(thing):
                labels[window][mask] = thing.label
                owner[window][mask] = number
        numbers = np.full(labels.shape, -1, dtype=np.int64)
        counts: dict[int, int] = {}
        for number, thing in enumerate(order):
            seen = owner == number
            if PERSON <= thing.label <= BICYCLE and seen.any():
                numbers[seen] = counts.get(thing.label, 0)
                counts[thing.label] = counts.get(thing.label, 0) + 1
        markings = labels == LANE_MARKING
        labels[markings] = ROAD
        return Painting(labels, numbers, markings)

    def _masks(self, thing: Thing) -> Iterator[tuple[tuple[slice, slice], Mask]]:
        """Which pixels each shape of a thing covers, with the window they lie in."""
        margin = thing.wobble + 1
        for shape in thing.shapes:
            left, top, right, bottom = shape.bounds
            x0, x1 = max(0, int(left - margin)), min(self.camera.width, int(right + margin) + 1)
            y0, y1 = max(0, int(top - margin)), min(self.camera.height, int(bottom + margin) + 1)
            if x0 >= x1 or y0 >= y1:
                continue
            y, x = np.mgrid[y0:y1, x0:x1] + 0.5
            # The hand that drew the outline was not quite steady: look a little beside the pixel.
            dx = noise(x / 11, y / 11, thing.seed) + 0.5 * noise(x / 4, y / 4, thing.seed + 7)
            dy = noise(x / 11, y / 11, thing.seed + 3) + 0.5 * noise(x / 4, y / 4, thing.seed + 9)
            mask = shape.contains(x + thing.wobble * dx, y + 0.7 * thing.wobble * dy)
            yield (slice(y0, y1), slice(x0, x1)), mask


# --- ground ------------------------------------------------------------------------------------


def ground(scene: Scene, label: int, outline: Iterable[tuple[float, float]]) -> None:
    """A convex piece of flat ground, given by its `(x, z)` corners."""
    scene.add_solids(label, FAR_AWAY, [[(x, 0.0, z) for x, z in outline]], wobble=0.7)


def strip(
    scene: Scene,
    label: int,
    inner: float,
    outer: float,
    *,
    start: float = 0.0,
    end: float = 400.0,
    raised: float = 0.0,
) -> None:
    """A band of ground along the road; `raised` lifts all but its inner edge (a kerb)."""
    # Cut finely enough for a bend to look smooth, coarsely in the distance.
    cuts = [start]
    while cuts[-1] < end:
        cuts.append(min(end, cuts[-1] + max(1.5, 0.15 * cuts[-1])))
    lip = inner + 0.02 * (1 if outer > inner else -1)
    pieces = []
    for a, b in pairwise(cuts):
        pieces.append([(scene.lane(s, z), 0.0, z) for s in (inner, outer) for z in (a, b)])
        if raised:
            pieces[-1] += [(scene.lane(s, z), raised, z) for s in (lip, outer) for z in (a, b)]
    scene.add_solids(label, FAR_AWAY, pieces, wobble=0.7)


def line(
    scene: Scene,
    side: float,
    start: float,
    end: float,
    *,
    dash: float = 3.0,
    gap: float = 0.0,
    wide: float = 0.13,
) -> None:
    """A line painted on the road, broken if there is a `gap`."""
    z = start
    while z < end:
        stop = min(end, z + dash)
        corners = [(scene.lane(side + w, a), 0.0, a) for w in (0, wide) for a in (z, stop)]
        scene.add_solids(LANE_MARKING, FAR_AWAY, [corners], wobble=0.3)
        z = stop + gap


def whole_ground(scene: Scene, label: int) -> None:
    """Ground everywhere below the horizon."""
    camera = scene.camera
    corners = [(-9.0, camera.horizon + 0.5), (camera.width + 9.0, camera.horizon + 0.5)]
    corners += [(x, camera.height + 9.0) for x, _ in corners]
    scene.add(label, FAR_AWAY, [Hull(corners)], wobble=0.0)


# --- vehicles ----------------------------------------------------------------------------------

# Cross-sections from the rear bumper to the front one: metres from the rear, height of the
# underside, of the belt line and of the top, and half the width at these three heights.
Section = tuple[float, float, float, float, float, float, float]

HATCHBACK: list[Section] = [
    (0.00, 0.38, 0.52, 0.66, 0.66, 0.72, 0.68),
    (0.10, 0.26, 0.88, 0.98, 0.80, 0.85, 0.74),
    (0.28, 0.22, 0.92, 1.26, 0.84, 0.88, 0.64),
    (0.60, 0.20, 0.92, 1.44, 0.85, 0.89, 0.59),
    (1.30, 0.20, 0.92, 1.49, 0.85, 0.89, 0.60),
    (2.10, 0.20, 0.92, 1.46, 0.85, 0.89, 0.60),
    (2.45, 0.20, 0.93, 1.37, 0.85, 0.89, 0.60),
    (3.15, 0.20, 0.90, 0.99, 0.85, 0.88, 0.74),
    (3.75, 0.22, 0.78, 0.87, 0.82, 0.86, 0.68),
    (3.98, 0.28, 0.60, 0.73, 0.74, 0.78, 0.66),
    (4.05, 0.38, 0.50, 0.58, 0.62, 0.66, 0.60),
]
SALOON: list[Section] = [
    (0.00, 0.38, 0.55, 0.70, 0.66, 0.74, 0.68),
    (0.10, 0.28, 0.85, 0.97, 0.80, 0.86, 0.72),
    (0.80, 0.20, 0.92, 1.04, 0.85, 0.90, 0.72),
    (1.35, 0.20, 0.93, 1.37, 0.85, 0.90, 0.58),
    (1.85, 0.20, 0.93, 1.43, 0.85, 0.90, 0.58),
    (2.50, 0.20, 0.93, 1.42, 0.85, 0.90, 0.59),
    (2.85, 0.20, 0.93, 1.32, 0.85, 0.90, 0.60),
    (3.55, 0.20, 0.90, 0.98, 0.85, 0.89, 0.74),
    (4.30, 0.22, 0.74, 0.84, 0.82, 0.87, 0.68),
    (4.52, 0.28, 0.58, 0.68, 0.74, 0.78, 0.66),
    (4.60, 0.38, 0.48, 0.56, 0.62, 0.66, 0.60),
]
ESTATE: list[Section] = [
    (0.00, 0.38, 0.55, 0.70, 0.66, 0.74, 0.70),
    (0.10, 0.28, 0.92, 1.06, 0.80, 0.87, 0.76),
    (0.45, 0.22, 0.94, 1.36, 0.85, 0.90, 0.63),
    (0.75, 0.20, 0.94, 1.44, 0.86, 0.90, 0.60),
    (2.55, 0.20, 0.94, 1.47, 0.86, 0.90, 0.60),
    (2.90, 0.20, 0.94, 1.36, 0.86, 0.90, 0.61),
    (3.60, 0.20, 0.91, 0.99, 0.86, 0.89, 0.74),
    (4.35, 0.22, 0.76, 0.86, 0.82, 0.87, 0.68),
    (4.55, 0.28, 0.60, 0.70, 0.74, 0.78, 0.66),
    (4.62, 0.38, 0.50, 0.58, 0.62, 0.66, 0.60),
]
OFF_ROADER: list[Section] = [
    (0.00, 0.42, 0.62, 0.76, 0.72, 0.78, 0.74),
    (0.10, 0.32, 1.02, 1.18, 0.84, 0.92, 0.80),
    (0.30, 0.28, 1.06, 1.52, 0.88, 0.94, 0.68),
    (0.65, 0.26, 1.06, 1.66, 0.88, 0.94, 0.64),
    (2.55, 0.26, 1.06, 1.68, 0.88, 0.94, 0.65),
    (2.90, 0.26, 1.06, 1.56, 0.88, 0.94, 0.66),
    (3.50, 0.26, 1.04, 1.14, 0.88, 0.93, 0.80),
    (4.20, 0.28, 0.92, 1.02, 0.85, 0.91, 0.76),
    (4.45, 0.34, 0.70, 0.86, 0.78, 0.84, 0.74),
    (4.52, 0.44, 0.58, 0.66, 0.68, 0.72, 0.66),
]
MINIVAN: list[Section] = [
    (0.00, 0.38, 0.60, 0.76, 0.72, 0.78, 0.74),
    (0.08, 0.28, 1.00, 1.40, 0.84, 0.92, 0.76),
    (0.25, 0.24, 1.02, 1.76, 0.86, 0.93, 0.70),
    (0.60, 0.22, 1.02, 1.84, 0.86, 0.93, 0.69),
    (2.60, 0.22, 1.02, 1.85, 0.86, 0.93, 0.69),
    (3.05, 0.22, 1.02, 1.72, 0.86, 0.93, 0.68),
    (3.75, 0.22, 1.00, 1.14, 0.86, 0.92, 0.78),
    (4.25, 0.26, 0.84, 0.98, 0.82, 0.88, 0.72),
    (4.42, 0.36, 0.56, 0.70, 0.70, 0.76, 0.68),
]
CITY_BUS: list[Section] = [
    (0.00, 0.40, 1.20, 2.80, 1.16, 1.20, 1.14),
    (0.15, 0.34, 1.30, 2.95, 1.24, 1.26, 1.18),
    (2.50, 0.32, 1.30, 3.02, 1.25, 1.27, 1.19),
    (2.60, 0.32, 1.30, 3.16, 1.25, 1.27, 1.10),
    (6.20, 0.32, 1.30, 3.16, 1.25, 1.27, 1.10),
    (6.30, 0.32, 1.30, 3.02, 1.25, 1.27, 1.19),
    (11.65, 0.32, 1.30, 3.00, 1.25, 1.27, 1.19),
    (11.90, 0.34, 1.20, 2.86, 1.22, 1.24, 1.14),
    (12.00, 0.42, 1.00, 2.60, 1.12, 1.16, 1.08),
]
BOX_TRUCK: list[Section] = [
    (0.00, 0.55, 1.40, 3.20, 1.10, 1.15, 1.15),
    (0.10, 0.50, 1.40, 3.25, 1.10, 1.18, 1.16),
    (5.40, 0.50, 1.40, 3.25, 1.10, 1.18, 1.16),
    (5.50, 0.45, 1.30, 2.50, 1.00, 1.06, 0.98),
    (6.70, 0.40, 1.30, 2.45, 1.00, 1.06, 0.94),
    (7.20, 0.40, 1.20, 1.60, 0.98, 1.04, 0.94),
    (7.35, 0.50, 0.90, 1.20, 0.92, 0.98, 0.90),
]
CARS: tuple[list[Section], ...] = (HATCHBACK, SALOON, ESTATE, OFF_ROADER, MINIVAN)


def vehicle(
    scene: Scene,
    label: int,
    body: list[Section],
    x: float,
    z: float,
    heading: float,
    *,
    ground: float = 0.0,
) -> None:
    """A vehicle whose middle stands at `(x, z)`.

    Args:
        scene: To put it into.
        label: Its class.
        body: Its cross-sections.
        x: Metres to the right.
        z: Metres ahead.
        heading: Where it faces: 0 away from the camera, pi towards it, pi/2 to the right.
        ground: Height of what it stands on.
    """
    length, wide = body[-1][0], max(s[5] for s in body)
    sin, cos = math.sin(heading), math.cos(heading)

    def world(along: float, across: float, up: float) -> Point:
        along -= length / 2
        return (x + along * sin + across * cos, up + ground, z + along * cos - across * sin)

    def ring(s: Section) -> list[Point]:
        return [
            world(s[0], w * h, s[y]) for y, w in ((1, s[4]), (2, s[5]), (3, s[6])) for h in (-1, 1)
        ]

    solids = [ring(a) + ring(b) for a, b in pairwise(body)]
    radius = 0.48 if length > 7 else 0.36 if body is OFF_ROADER else 0.32
    axles = (
        (0.24 * length, length - 0.21 * length) if length > 7 else (0.19 * length, 0.80 * length)
    )
    for axle in axles:
        for side in (-1, 1):
            solids.append(
                [
                    world(
                        axle + radius * math.cos(a),
                        side * (wide - inset),
                        radius + radius * math.sin(a),
                    )
                    for a in (k * math.pi / 8 for k in range(16))
                    for inset in (0.03, 0.26)
                ]
            )
    # Door mirrors.
    along, up, reach = (length - 0.1, 2.3, 0.3) if length > 7 else (0.66 * length, body[4][2], 0.15)
    for side in (-1, 1):
        solids.append(
            [
                world(along + a, side * (wide - 0.08 + b), up + c)
                for a in (0, 0.12)
                for b in (0, reach + 0.08)
                for c in (0.0, 0.14 if length < 7 else 0.4)
            ]
        )
    scene.add_solids(label, z, solids, wobble=0.7)


def any_car(scene: Scene, side: float, z: float, *, towards: bool = False) -> float:
    """A parked or driving car that follows the road; gives back its length."""
    body = scene.random.choice(CARS)
    slant = scene.random.uniform(-0.02, 0.02) + (math.pi if towards else 0.0)
    length = body[-1][0]
    middle = z + length / 2
    vehicle(scene, CAR, body, scene.lane(side, middle), middle, scene.heading(middle) + slant)
    return length


# --- people ------------------------------------------------------------------------------------


class Figure:
    """Draws strokes in the metres of an upright card that faces the camera at `(x, z)`."""

    def __init__(self, scene: Scene, x: float, z: float, *, ground: float, flip: bool) -> None:
        self.camera, self.z, self.x, self.ground = scene.camera, z, x, ground
        self.sign = -1 if flip else 1

    def stroke(
        self, a: tuple[float, float], b: tuple[float, float], ra: float, rb: float | None = None
    ) -> Limb:
        """A limb from `a` to `b`, `(across, up)` in metres, with a radius at each end."""
        scale = self.camera.scale(self.z)
        ends = [self.camera.at(self.x + self.sign * u, self.ground + v, self.z) for u, v in (a, b)]
        thin = 0.55  # Pixels: anything thinner would vanish between pixel centres.
        return Limb(
            ends[0],
            ends[1],
            max(thin, ra * scale),
            max(thin, (ra if rb is None else rb) * scale),
        )


def person(
    scene: Scene,
    x: float,
    z: float,
    *,
    height: float = 1.74,
    stride: float = 0.0,
    flip: bool = False,
    coat: bool = False,
    bag: bool = False,
    ground: float = 0.0,
) -> None:
    """Somebody on foot. `stride` 0 stands facing the camera, 1 walks sideways with long steps."""
    f = Figure(scene, x, z, ground=ground, flip=flip)
    k = height / 1.74

    def part(
        a: tuple[float, float], b: tuple[float, float], ra: float, rb: float | None = None
    ) -> Limb:
        return f.stroke(
            (a[0] * k, a[1] * k), (b[0] * k, b[1] * k), ra * k, None if rb is None else rb * k
        )

    lean, half = 0.05 * stride, 0.13 - 0.07 * stride
    step, arm = 0.23 * stride, 0.20 * stride
    parts = [
        part((lean, 1.59), (1.3 * lean, 1.635), 0.095, 0.1),
        part((lean, 1.42), (lean, 1.56), 0.065),
        part((lean - half, 1.36), (lean + half, 1.36), 0.085),
        part((lean, 1.28), (0, 0.92), half + 0.075, half + 0.06),
    ]
    hip = 0.085 - 0.05 * stride
    for side in (-1, 1):
        knee = (side * (hip + 0.01 + 0.5 * step) + 0.06 * stride, 0.49)
        foot = (side * (hip + 0.03 + step), 0.06 if side > 0 or stride < 0.3 else 0.11)
        toe = 0.13 * max(stride, 0.25 * side)
        parts += [
            part((side * hip, 0.90), knee, 0.095, 0.068),
            part(knee, foot, 0.068, 0.048),
            part((foot[0], 0.045), (foot[0] + toe, 0.035), 0.045, 0.035),
        ]
        shoulder = (lean + side * (half + 0.03), 1.35)
        elbow = (lean + side * (half + 0.09) - side * 0.4 * arm, 1.09)
        hand = (elbow[0] - side * arm + 0.05 * stride, 0.84 + 0.3 * arm)
        parts += [part(shoulder, elbow, 0.06, 0.05), part(elbow, hand, 0.05, 0.04)]
    if coat:
        parts.append(part((0, 1.05), (0, 0.62), 0.19, 0.22 + 0.05 * stride))
    if bag:
        parts.append(part((-half - 0.12, 0.80), (-half - 0.14, 0.62), 0.10, 0.13))
    scene.add(PERSON, z, parts, wobble=0.45)


def cyclist(scene: Scene, x: float, z: float, *, sideways: bool, flip: bool = False) -> None:
    """Somebody on a bicycle, seen from behind or from the side."""
    f = Figure(scene, x, z, ground=0.0, flip=flip)
    s = f.stroke
    if sideways:
        bike = [
            s((-0.53, 0.34), (-0.53, 0.34), 0.34),
            s((0.53, 0.34), (0.53, 0.34), 0.34),
            s((-0.53, 0.34), (-0.05, 0.32), 0.03),
            s((-0.05, 0.32), (-0.2, 0.86), 0.03),
            s((-0.05, 0.32), (0.38, 0.78), 0.035),
            s((-0.16, 0.74), (0.36, 0.82), 0.03),
            s((0.53, 0.34), (0.36, 0.98), 0.03),
            s((0.36, 0.98), (0.48, 1.0), 0.03),
            s((-0.32, 0.90), (-0.08, 0.91), 0.04),
        ]
        rider = [
            s((-0.18, 0.95), (0.06, 1.42), 0.17, 0.16),
            s((0.06, 1.40), (0.16, 1.58), 0.08, 0.07),
            s((0.17, 1.64), (0.20, 1.70), 0.11),
            s((0.06, 1.38), (0.24, 1.14), 0.065, 0.05),
            s((0.24, 1.14), (0.43, 1.03), 0.05, 0.045),
            s((-0.17, 0.92), (0.18, 0.72), 0.11, 0.08),
            s((0.18, 0.72), (0.02, 0.22), 0.075, 0.05),
            s((0.0, 0.18), (0.16, 0.15), 0.05, 0.04),
            s((-0.17, 0.92), (0.10, 0.58), 0.11, 0.08),
            s((0.10, 0.58), (-0.14, 0.42), 0.07, 0.05),
        ]
    else:
        bike = [
            s((0.0, 0.05), (0.0, 0.66), 0.05),
            s((-0.05, 0.66), (0.05, 0.9), 0.06, 0.09),
            s((-0.29, 1.02), (0.29, 1.02), 0.025),
        ]
        rider = [
            s((0.0, 0.98), (0.01, 1.36), 0.18, 0.17),
            s((-0.13, 1.38), (0.15, 1.38), 0.09),
            s((0.02, 1.42), (0.02, 1.56), 0.07),
            s((0.02, 1.62), (0.02, 1.69), 0.115, 0.105),
            s((-0.19, 1.36), (-0.29, 1.08), 0.065, 0.05),
            s((0.21, 1.36), (0.30, 1.08), 0.065, 0.05),
            s((-0.10, 0.92), (-0.16, 0.58), 0.10, 0.07),
            s((-0.16, 0.58), (-0.15, 0.26), 0.065, 0.05),
            s((0.10, 0.92), (0.19, 0.72), 0.10, 0.075),
            s((0.19, 0.72), (0.15, 0.46), 0.065, 0.05),
        ]
    scene.add(BICYCLE, z + 0.01, bike, wobble=0.4)
    scene.add(RIDER, z, rider, wobble=0.45)


# --- street furniture --------------------------------------------------------------------------


def post(
    scene: Scene,
    x: float,
    z: float,
    height: float,
    *,
    thick: float = 0.07,
    base: float = 0.0,
    depth: float | None = None,
) -> None:
    """A thin upright post; `thick` is its radius at the foot."""
    f = Figure(scene, x, z, ground=base, flip=False)
    shape = f.stroke((0, 0), (0, height), thick, 0.7 * thick)
    scene.add(POLE, z if depth is None else depth, [shape], wobble=0.25)


def lamp(scene: Scene, x: float, z: float, reach: float, *, height: float = 7.5) -> None:
    """A street lamp whose arm reaches `reach` metres to the right (negative: left)."""
    f = Figure(scene, x, z, ground=0.1, flip=False)
    sign = math.copysign(1.0, reach)
    shapes = [
        f.stroke((0, 0), (0, 1.1), 0.10, 0.09),
        f.stroke((0, 1.1), (0, height - 0.6), 0.075, 0.055),
        f.stroke((0, height - 0.6), (0.25 * sign, height), 0.06, 0.05),
        f.stroke((0.25 * sign, height), (reach, height + 0.18), 0.05, 0.05),
        f.stroke((reach, height + 0.17), (reach + 0.55 * sign, height + 0.2), 0.1, 0.08),
    ]
    scene.add(POLE, z, shapes, wobble=0.2)


def sign(
    scene: Scene, x: float, z: float, kind: str, *, up: float = 2.3, base: float = 0.1
) -> None:
    """A traffic sign on a post: `disc`, `triangle`, `plate` or `diamond`."""
    post(scene, x, z, up + 0.3, thick=0.04, base=base, depth=z + 0.01)
    scale = scene.camera.scale(z)
    cx, cy = scene.camera.at(x, base + up, z)
    shape: Shape
    if kind == "disc":
        shape = Limb((cx, cy), (cx, cy), 0.33 * scale, 0.33 * scale)
    else:
        corners = {
            "triangle": [(-0.45, 0.3), (0.45, 0.3), (0, -0.48)],
            "plate": [(-0.32, 0.45), (0.32, 0.45), (0.32, -0.45), (-0.32, -0.45)],
            "diamond": [(-0.45, 0), (0, 0.45), (0.45, 0), (0, -0.45)],
        }[kind]
        shape = Hull((cx + u * scale, cy + v * scale) for u, v in corners)
    scene.add(SIGN, z, [shape], wobble=0.4)


def traffic_light(
    scene: Scene, x: float, z: float, *, up: float = 2.4, base: float = 0.1, reach: float = 0.0
) -> None:
    """A traffic light on a post; with `reach` a second one hangs over the road from an arm."""
    heads = [(0.0, up)]
    f = Figure(scene, x, z, ground=base, flip=False)
    if reach:
        top = up + 3.2
        arm = f.stroke((0, top - 0.3), (reach, top), 0.08, 0.06)
        scene.add(POLE, z + 0.01, [f.stroke((0, 0), (0, top), 0.11, 0.09), arm], wobble=0.3)
        heads.append((reach * 0.93, top - 0.75))
    else:
        post(scene, x, z, up + 0.75, thick=0.06, base=base, depth=z + 0.01)
    for u, v in heads:
        solids = [
            [(x + u + a, base + v + b, z) for a in (-0.19, 0.19) for b in (0.0, 0.92)],
        ]
        scene.add_solids(LIGHT, z, solids, wobble=0.4)


def litter_bin(scene: Scene, x: float, z: float, *, base: float = 0.1) -> None:
    """Something at the roadside that no class fits: left unlabelled."""
    points = [
        (x + s * w, base + y, z + s * w) for y, w in ((0.0, 0.22), (0.95, 0.27)) for s in (-1, 1)
    ]
    scene.add_solids(
        UNLABELLED, z, [points, [(x + a, base + b, z) for a in (-0.24, 0.24) for b in (0, 1.08)]]
    )


def fence(
    scene: Scene,
    side: float,
    start: float,
    end: float,
    *,
    height: float = 1.1,
    label: int = FENCE,
    step: float = 1.6,
) -> None:
    """A fence or wall along the road, in panels whose tops are not quite level."""
    z = start
    while z < end - 0.1:
        stop = min(end, z + step)
        tall = height * scene.random.uniform(0.98, 1.03)
        panel = [
            (scene.lane(side + t, at), up, at)
            for t in (0, 0.06 if label == FENCE else 0.3)
            for at in (z, stop)
            for up in (0.0, tall)
        ]
        solids = [panel]
        if label == FENCE:
            solids.append(
                [
                    (scene.lane(side + t, at), up, at)
                    for t in (-0.02, 0.08)
                    for at in (z, z + 0.1)
                    for up in (0.0, tall + 0.06)
                ]
            )
        scene.add_solids(label, (z + stop) / 2, solids, wobble=0.6)
        z = stop


# --- plants ------------------------------------------------------------------------------------


def tree(
    scene: Scene,
    x: float,
    z: float,
    height: float,
    *,
    spread: float | None = None,
    clear: float | None = None,
    trunk: float = 0.16,
    base: float = 0.0,
    ragged: float = 0.3,
) -> None:
    """A tree: a trunk and a ragged crown.

    Args:
        scene: To put it into.
        x: Metres to the right.
        z: Metres ahead.
        height: Of the top in metres.
        spread: Half the width of the crown.
        clear: Height at which the crown begins.
        trunk: Radius of the trunk.
        base: Height of the ground.
        ragged: How far the edge of the crown wanders.
    """
    r = scene.random
    spread = 0.32 * height if spread is None else spread
    clear = 0.28 * height if clear is None else clear
    camera, scale = scene.camera, scene.camera.scale(z)
    middle, half = base + (height + clear) / 2, (height - clear) / 2
    cx, cy = camera.at(x, middle, z)
    blobs = [(cx, cy, 0.72 * spread * scale, 0.82 * half * scale)]
    for k in range(9):
        angle = 2 * math.pi * k / 9 + r.uniform(-0.3, 0.3)
        size = r.uniform(0.3, 0.5)
        away = r.uniform(0.52, 0.72)
        blobs.append(
            (
                cx + away * spread * math.cos(angle) * scale,
                cy - away * half * math.sin(angle) * scale,
                size * spread * scale,
                size * half * r.uniform(0.8, 1.1) * scale,
            )
        )
    floor = camera.at(x, base, z)[1]
    leaves = Foliage(blobs, grain=0.8 * scale, ragged=ragged, floor=floor, seed=r.randrange(10**6))
    f = Figure(scene, x, z, ground=base, flip=False)
    low, fork = max(clear, 0.5), clear + 0.35 * (height - clear)
    bole: list[Shape] = [
        Hull(
            camera.at(x + u * trunk, base + v, z)
            for u, v in ((-1.5, 0), (1.5, 0), (-1, 0.5), (1, 0.5))
        ),
        f.stroke((0, 0.4), (r.uniform(-0.15, 0.15), fork), trunk, 0.65 * trunk),
        f.stroke((0, 0.8 * low), (0.4 * spread, fork), 0.6 * trunk, 0.3 * trunk),
        f.stroke((0, 0.75 * low), (-0.4 * spread, fork), 0.6 * trunk, 0.3 * trunk),
    ]
    scene.add(VEGETATION, z, [*bole, leaves], wobble=0.7)


def bush(
    scene: Scene, x: float, z: float, height: float, *, spread: float = 1.0, base: float = 0.0
) -> None:
    """A bush that stands on the ground without a trunk."""
    r = scene.random
    camera, scale = scene.camera, scene.camera.scale(z)
    blobs = []
    for k in range(5):
        u = (k - 2) / 2
        tall = height * (1.0 - 0.35 * abs(u)) * r.uniform(0.85, 1.0)
        cx, cy = camera.at(x + 0.65 * spread * u, base + 0.33 * tall, z)
        blobs.append((cx, cy, 0.5 * spread * scale, 0.67 * tall * scale))
    floor = camera.at(x, base, z)[1]
    leaves = Foliage(blobs, grain=0.4 * scale, ragged=0.22, floor=floor, seed=r.randrange(10**6))
    scene.add(VEGETATION, z, [leaves], wobble=0.7)


def hedge(
    scene: Scene, side: float, start: float, end: float, height: float, *, step: float = 1.1
) -> None:
    """A row of bushes along the road."""
    z = start
    while z < end:
        tall = height * scene.random.uniform(0.85, 1.12)
        bush(scene, scene.lane(side, z), z, tall, spread=0.9 * step)
        z += step * max(0.6, z / 25)


def woods(
    scene: Scene, left: float, right: float, z: float, height: float, *, step: float = 5.0
) -> None:
    """A row of far trees whose crowns reach the ground, from `left` to `right` at `z`."""
    x = left
    while x < right:
        tall = height * scene.random.uniform(0.65, 1.15)
        away = z * scene.random.uniform(0.95, 1.05)
        tree(scene, x, away, tall, spread=0.42 * tall, clear=-0.25 * tall, ragged=0.2)
        x += step * scene.random.uniform(0.6, 1.2)


# --- buildings ---------------------------------------------------------------------------------


def terrace(
    scene: Scene,
    side: float,
    start: float,
    end: float,
    height: float,
    roof: str,
    *,
    deep: float = 11.0,
) -> None:
    """A town house in a closed row along the road, its front at `side` metres.

    Args:
        scene: To put it into.
        side: Where the front stands; negative: left of the camera.
        start: Metres ahead at which it begins.
        end: Metres ahead at which it ends.
        height: Of the front.
        roof: `flat`, `pitched`, `gable` or `attic`.
        deep: Metres from the front to the back.
    """
    r = scene.random
    out = math.copysign(1.0, side)

    def block(
        near: float, far: float, low: float, high: float, a: float = start, b: float = end
    ) -> list[Point]:
        return [
            (scene.lane(side + out * d, z), y, z)
            for d in (near, far)
            for y in (low, high)
            for z in (a, b)
        ]

    solids = [block(0, deep, 0, height)]
    long = end - start
    if roof == "flat":
        solids.append(block(-0.35, deep, height - 0.35, height + 0.25))
        if r.random() < 0.7:
            a = start + r.uniform(0.2, 0.5) * long
            solids.append(block(2.5, 7, height, height + r.uniform(1.6, 2.8), a, a + 0.3 * long))
    elif roof == "attic":
        solids.append(block(-0.3, deep, height - 0.3, height + 0.1))
        solids.append(block(1.6, deep, height, height + 2.7, start + 0.6, end - 0.6))
    elif roof == "pitched":
        rise = r.uniform(2.6, 4.0)
        ridge = [(scene.lane(side + out * 5, z), height + rise, z) for z in (start, end)]
        solids.append(block(-0.3, deep, height, height + 0.05) + ridge)
        for share in (0.25, 0.62):
            if r.random() < 0.75:
                a = start + share * long
                solids.append(block(0.9, 3.5, height, height + 1.7, a, a + 1.5))
        for z in (start + 0.1, end - 0.9):
            if r.random() < 0.8:
                top = height + rise + r.uniform(0.5, 1.3)
                solids.append(block(4.3, 5.7, height, top, z, z + 0.8))
    elif roof == "gable":
        peak = [
            (scene.lane(side + out * d, (start + end) / 2), height + 0.42 * long, (start + end) / 2)
            for d in (0, deep)
        ]
        solids.append(block(-0.15, deep, height, height + 0.05) + peak)
    # Bays, a shop front, the odd balcony: what makes a front uneven.
    if r.random() < 0.6:
        a = start + r.uniform(0.1, 0.5) * long
        low = r.choice((0.0, 3.3))
        solids.append(block(-0.7, 0, low, height * r.uniform(0.6, 0.9), a, a + 2.2))
    if r.random() < 0.5:
        solids.append(block(-0.9, 0, 2.7, 3.1, start + 0.5, end - 0.5))
    scene.add_solids(BUILDING, end + 2, solids)


def terrace_row(
    scene: Scene,
    side: float,
    start: float,
    end: float,
    heights: tuple[float, float],
    *,
    roofs: Sequence[str] = ("flat", "pitched", "pitched", "attic", "gable"),
) -> None:
    """Town houses wall to wall along the road."""
    z, r = start, scene.random
    while z < end:
        long = r.uniform(8, 15)
        terrace(scene, side, z, z + long, r.uniform(*heights), r.choice(roofs))
        z += long


def house(
    scene: Scene,
    x: float,
    z: float,
    *,
    wide: float = 9.0,
    deep: float = 8.0,
    height: float = 5.2,
    rise: float = 3.6,
    gable_front: bool = False,
    garage: float = 0.0,
) -> None:
    """A detached house with its near front at `z`; `garage` sets one beside it (its side)."""

    def block(x0: float, x1: float, y0: float, y1: float, z0: float, z1: float) -> list[Point]:
        return [(a, b, c) for a in (x0, x1) for b in (y0, y1) for c in (z0, z1)]

    left, right, back = x - wide / 2, x + wide / 2, z + deep
    eaves = block(left - 0.4, right + 0.4, height - 0.1, height + 0.05, z - 0.4, back + 0.4)
    if gable_front:
        ridge = [(x, height + rise, z - 0.3), (x, height + rise, back + 0.3)]
    else:
        middle = z + deep / 2
        ridge = [(left - 0.3, height + rise, middle), (right + 0.3, height + rise, middle)]
    chimney = x + 0.22 * wide
    solids = [
        block(left, right, 0, height, z, back),
        eaves + ridge,
        block(chimney, chimney + 0.9, height, height + rise + 0.7, z + 3, z + 3.8),
    ]
    if garage:
        edge = x + math.copysign(wide / 2, garage)
        solids.append(block(edge, edge + math.copysign(3.4, garage), 0, 2.6, z + 1, z + 7))
    scene.add_solids(BUILDING, z + deep, solids)


# --- the four scenes ---------------------------------------------------------------------------


def parked_row(
    scene: Scene,
    side: float,
    start: float,
    end: float,
    *,
    towards: bool = False,
    gaps: Sequence[tuple[float, float]] = (),
) -> None:
    """Cars parked along a kerb from `start` to `end`, none of them within `gaps`."""
    z = start
    while z < end:
        blocked = [stop for begin, stop in gaps if begin - 5.5 < z < stop]
        if blocked:
            z = blocked[0]
        z += any_car(scene, side, z, towards=towards) + scene.random.uniform(0.8, 1.7)


def city_street() -> Scene:
    """A street of town houses, cars parked on both sides, one car ahead."""
    scene = Scene(Camera(1024, 512, 700, 524, 236), seed=11, bend=-0.0007)
    r = scene.random
    whole_ground(scene, SIDEWALK)
    left, right = -6.8, 4.1  # The kerbs.
    strip(scene, ROAD, left, right)
    strip(scene, SIDEWALK, right, 9.5, raised=0.12)
    strip(scene, SIDEWALK, left, -12.0, raised=0.12)

    terrace_row(scene, 8.6, -12.0, 150, (7.5, 12.5))
    terrace_row(scene, -11.2, -10.0, 150, (7, 12))
    for k in range(8):  # What closes the view at the end of the bend.
        x = -62 + 11 * k
        house(scene, x, 150 + r.uniform(0, 25), wide=12, height=r.uniform(7, 12), rise=3)
    woods(scene, -40, 16, 140, 9, step=7)

    line(scene, -1.4, 2, 140, gap=4.5)
    parked_row(scene, right - 1.1, 9.6, 100, gaps=[(15.2, 19), (36, 42), (64, 72)])
    parked_row(scene, left + 1.1, 8.6, 105, towards=True, gaps=[(20, 25), (46, 54)])
    vehicle(scene, CAR, SALOON, scene.lane(0.1, 15.5), 15.5, scene.heading(15.5))
    vehicle(scene, CAR, ESTATE, scene.lane(-3.2, 41), 41, scene.heading(41) + math.pi)
    vehicle(scene, CAR, HATCHBACK, scene.lane(0.0, 58), 58, scene.heading(58))

    for z in (17.5, 44, 70, 98):
        lamp(scene, scene.lane(4.7, z), z, -1.7)
    for z in (12.5, 34, 57, 84):
        lamp(scene, scene.lane(-7.4, z), z, 1.7)
    for z, tall in ((30, 7.0), (37, 7.6), (54, 7.4), (62, 8.0), (80, 8)):
        tree(scene, scene.lane(5.1, z), z, tall, base=0.1, clear=2.6)
    for z, tall in ((22, 6.6), (40, 7.4), (50, 7.2), (66, 7.9), (78, 8)):
        tree(scene, scene.lane(-8.0, z), z, tall, base=0.1, clear=2.7)
    sign(scene, scene.lane(4.7, 14), 14, "disc")
    sign(scene, scene.lane(4.6, 25), 25, "triangle")
    sign(scene, scene.lane(4.6, 46), 46, "plate")
    sign(scene, scene.lane(-7.4, 18.3), 18.3, "plate")
    sign(scene, scene.lane(-7.4, 33), 33, "diamond")
    fence(scene, 8.0, 11.6, 19.0, height=1.0, step=1.2)
    fence(scene, -7.3, 24, 30, height=1.0, step=1.5)

    litter_bin(scene, scene.lane(7.3, 14.0), 14.0)
    litter_bin(scene, scene.lane(-7.5, 44.0), 44.0)

    walkers = [
        (6.9, 10.2, 1.80, 0.15, False, True, True),
        (6.1, 16.4, 1.66, 0.5, True, False, True),
        (6.8, 16.9, 1.78, 0.2, False, False, False),
        (6.0, 27.0, 1.74, 0.4, False, False, False),
        (5.8, 38.0, 1.72, 0.3, True, True, False),
        (-9.0, 11.2, 1.76, 0.55, False, False, False),
        (-9.8, 11.6, 1.64, 0.35, False, True, True),
        (-8.6, 21.5, 1.82, 0.3, True, False, False),
        (-9.3, 29.0, 1.70, 0.6, False, False, True),
        (-8.9, 48.0, 1.75, 0.3, False, True, False),
    ]
    for side, z, tall, stride, flip, coat, bag in walkers:
        person(
            scene,
            scene.lane(side, z),
            z,
            height=tall,
            stride=stride,
            flip=flip,
            coat=coat,
            bag=bag,
            ground=0.12,
        )
    return scene


def suburb() -> Scene:
    """Detached houses behind fences and hedges, front gardens, a cyclist ahead."""
    scene = Scene(Camera(1024, 512, 640, 505, 232), seed=23, bend=0.0009)
    r = scene.random
    whole_ground(scene, TERRAIN)
    left, right = -5.0, 3.4
    strip(scene, ROAD, left - 0.2, right + 0.2)
    strip(scene, SIDEWALK, right + 1.2, right + 3.0, raised=0.06)
    strip(scene, SIDEWALK, left, left - 2.0, raised=0.1)
    strip(scene, TERRAIN, right, right + 1.3, raised=0.1)
    for z in (15.0, 33.0, 57.0):  # Drives.
        outline = [(scene.lane(s, at), at) for s in (right, 13) for at in (z, z + 3.2)]
        ground(scene, SIDEWALK, outline)
    ground(scene, SIDEWALK, [(scene.lane(s, z), z) for s in (left, -15) for z in (24.0, 27.0)])

    house(scene, 20.5, 14, wide=11, height=4.6, rise=3.4, gable_front=True, garage=-1)
    house(scene, 19, 29, wide=10, height=5.0, rise=3.4, garage=-1)
    house(scene, 21, 50, wide=10, height=5.4, rise=3.6, gable_front=True)
    house(scene, 26, 78, wide=11, height=5.2, rise=3.4)
    house(scene, -19, 18, wide=10, height=5.4, rise=3.4, garage=1)
    house(scene, -17, 36, wide=10, height=4.8, rise=3.8, gable_front=True)
    house(scene, -15, 58, wide=10, height=5.4, rise=3.3)
    house(scene, -10, 88, wide=11, height=5.2, rise=3.6)
    woods(scene, -110, 150, 130, 13, step=7)
    woods(scene, -70, -22, 70, 11, step=7)
    woods(scene, 38, 90, 75, 11, step=7)

    fence(scene, 7.2, 2, 14.6, height=1.1)
    fence(scene, 7.2, 18.4, 32, height=1.15)
    hedge(scene, 7.4, 37, 56, 1.5)
    fence(scene, 7.2, 61, 90, height=1.2, step=4)
    hedge(scene, -7.9, 6, 23, 1.35)
    fence(scene, -7.5, 28, 55, height=1.2)
    hedge(scene, -7.8, 56, 90, 1.6)

    trees = [
        (11.5, 21.5, 7.0),
        (9.5, 42.0, 8.5),
        (12.0, 58.0, 9.5),
        (10.0, 72.0, 9.0),
        (-10.0, 13.0, 6.2),
        (-11.0, 30.5, 8.8),
        (-10.0, 47.0, 8.0),
        (-11.0, 70.0, 10.0),
        (-10.0, 84.0, 10.0),
    ]
    for side, z, tall in trees:
        tree(scene, scene.lane(side, z), z, tall, clear=0.2 * tall, trunk=0.2)
    for z in (25.0, 38.0, 52.0, 66.0):  # Young trees on the verge.
        tree(scene, scene.lane(4.1, z), z, r.uniform(4.2, 5.4), trunk=0.09, base=0.08)
    for side, z in ((10.6, 13.5), (9.9, 24.0), (9.6, 29.0), (-9.4, 33.0), (-9.0, 40.0)):
        bush(scene, scene.lane(side, z), z, r.uniform(0.9, 1.6), spread=r.uniform(0.8, 1.4))

    vehicle(scene, CAR, ESTATE, scene.lane(left + 1.05, 14.5), 14.5, math.pi + 0.03)
    vehicle(scene, CAR, HATCHBACK, scene.lane(left + 1.05, 20.6), 20.6, math.pi)
    vehicle(scene, CAR, MINIVAN, scene.lane(left + 1.05, 37), 37, math.pi + scene.heading(37))
    vehicle(scene, CAR, OFF_ROADER, scene.lane(right - 1.05, 29), 29, scene.heading(29))
    vehicle(scene, CAR, SALOON, scene.lane(right - 1.05, 47), 47, scene.heading(47))
    vehicle(scene, CAR, HATCHBACK, scene.lane(9.6, 16.8), 16.8, math.pi / 2)
    vehicle(scene, CAR, SALOON, scene.lane(-0.2, 62), 62, scene.heading(62))
    cyclist(scene, scene.lane(1.6, 9.8), 9.8, sideways=False)

    for z in (16.5, 46.0, 78.0):
        lamp(scene, scene.lane(-5.5, z), z, 1.3, height=6.0)
    sign(scene, scene.lane(3.9, 13.2), 13.2, "disc", up=2.1)
    sign(scene, scene.lane(-5.4, 31.0), 31.0, "triangle", up=2.2)
    litter_bin(scene, scene.lane(6.9, 19.2), 19.2, base=0.0)
    person(scene, scene.lane(-6.2, 25.0), 25.0, stride=0.4, ground=0.1)
    person(scene, scene.lane(5.6, 31.0), 31.0, stride=0.3, height=1.66, flip=True, coat=True)
    person(scene, scene.lane(6.2, 31.2), 31.2, stride=0.3, height=1.2, flip=True)
    return scene


def corner(scene: Scene, x: float, z: float, *, right: bool, beyond: bool) -> None:
    """A street corner: pavement with a rounded kerb at `(x, z)`, away from the crossing."""
    sx, sz, radius = (1 if right else -1), (1 if beyond else -1), 3.0
    middle = (x + sx * radius, z + sz * radius)
    kerb = []
    for k in range(7):
        angle = k * math.pi / 12
        kerb.append(
            (
                middle[0] - sx * radius * math.cos(angle),
                middle[1] - sz * radius * math.sin(angle),
            )
        )
    far = (x + sx * 90, z + sz * 90)
    outline = [*kerb, (far[0], z), far, (x, far[1])]
    scene.add_solids(
        SIDEWALK, FAR_AWAY, [[(a, y, b) for a, b in outline for y in (0.0, 0.12)]], wobble=0.7
    )


def crossing() -> Scene:
    """Waiting at a red light: people on the crossing, a bus and cars from the side."""
    scene = Scene(Camera(1024, 512, 690, 500, 232), seed=31)
    r = scene.random
    whole_ground(scene, ROAD)
    left, right, near, far = -6.8, 4.2, 10.2, 25.0  # Kerbs of the two roads.
    for side in (False, True):
        corner(scene, right if side else left, near, right=side, beyond=False)
        corner(scene, right if side else left, far, right=side, beyond=True)
    scene.add_solids(  # An island in our road beyond the crossing.
        SIDEWALK,
        FAR_AWAY,
        [[(x, y, z) for x in (-2.2, -0.9) for z in (27.0, 42.0) for y in (0.0, 0.12)]],
    )

    # The near corners are open to the left and built up to the right; the far ones are built up.
    terrace(scene, 9.0, -8, near - 4.5, 14, "flat", deep=30)
    terrace_row(scene, 8.6, far + 4.5, 150, (9, 14))
    terrace_row(scene, -11.4, far + 4.0, 150, (8, 12))
    x = 19.0
    while x < 70:  # Fronts along the far side of the road that crosses.
        long = r.uniform(9, 14)
        tall = r.uniform(8, 13)
        house(scene, x + long / 2, far + 5, wide=long, height=tall, rise=r.uniform(0.3, 3))
        x += long
    x = -22.0
    while x > -90:
        long = r.uniform(10, 15)
        tall = r.uniform(6, 11)
        house(scene, x - long / 2, far + 4.5, wide=long, height=tall, rise=r.uniform(0.3, 3))
        x -= long
    woods(scene, -12, 10, 160, 10)
    for k in range(7):
        house(scene, -36 + 12 * k, 165, wide=12, height=r.uniform(8, 15), rise=2)
    for x, z, tall in ((-15, 30.0, 8.5), (-21.5, 30.2, 7.6), (-30, 30.0, 8.8), (14, 30.3, 6.5)):
        tree(scene, x, z, tall, base=0.1, clear=2.4)
    for z in (42.0, 56.0, 70.0):
        tree(scene, -9.4, z, r.uniform(6.5, 8), base=0.1, clear=2.6)

    # Traffic from the side, in two lanes each way.
    vehicle(scene, BUS, CITY_BUS, -8.4, 22.0, -math.pi / 2)
    vehicle(scene, CAR, SALOON, 4.6, 22.0, -math.pi / 2 + 0.02)
    vehicle(scene, CAR, HATCHBACK, 15.8, 22.1, -math.pi / 2)
    vehicle(scene, CAR, OFF_ROADER, 9.6, 14.8, math.pi / 2 - 0.03)
    vehicle(scene, CAR, MINIVAN, -10.4, 14.6, math.pi / 2)
    # Traffic that waits on the far side, and what drives away in front.
    vehicle(scene, CAR, ESTATE, -3.9, 33.0, math.pi)
    vehicle(scene, CAR, HATCHBACK, -4.0, 38.8, math.pi)
    vehicle(scene, TRUCK, BOX_TRUCK, -4.0, 47.0, math.pi)
    vehicle(scene, CAR, SALOON, 1.0, 44.0, 0.0)
    parked_row(scene, right - 1.0, 48, 110)
    cyclist(scene, 0.2, 19.4, sideways=True)

    traffic_light(scene, right + 1.1, near - 1.1)
    traffic_light(scene, right + 1.0, far + 1.0, up=2.5, reach=-4.4)
    traffic_light(scene, left - 1.0, far + 1.0, up=2.5)
    traffic_light(scene, -1.5, 29.2, up=2.4)
    sign(scene, -1.55, 28.8, "disc", up=1.2)
    sign(scene, right + 2.3, 9.4, "plate", up=2.5)
    sign(scene, left - 1.8, far + 1.6, "diamond")
    sign(scene, 7.0, far + 3.2, "disc")
    lamp(scene, right + 1.0, 38.0, -1.8, height=8)
    lamp(scene, left - 1.0, 33.0, 1.8, height=8)
    lamp(scene, right + 1.0, 66.0, -1.8, height=8)
    fence(scene, 5.0, 28.0, 36.0, height=1.0, step=2)

    walkers = [  # On the crossing in front of us.
        (-4.9, 8.3, 1.80, 0.9, False, False, False),
        (-3.9, 7.8, 1.66, 0.7, False, True, True),
        (-1.3, 8.6, 1.74, 0.8, True, False, True),
        (2.2, 7.9, 1.78, 0.95, True, False, False),
        (2.9, 8.4, 1.22, 0.7, True, False, False),
    ]
    for x, z, tall, stride, flip, coat, bag in walkers:
        person(scene, x, z, height=tall, stride=stride, flip=flip, coat=coat, bag=bag)
    bystanders = [
        (5.7, 8.6, 1.76, 0.1),
        (-8.1, 26.6, 1.74, 0.0),
        (-9.2, 27.0, 1.65, 0.4),
        (5.6, 26.6, 1.80, 0.1),
        (7.6, 26.9, 1.62, 0.2),
        (-1.9, 29.8, 1.70, 0.0),
    ]
    for x, z, tall, stride in bystanders:
        coat = r.random() < 0.5
        person(scene, x, z, height=tall, stride=stride, coat=coat, flip=x > 0, ground=0.12)
    return scene


def country_road() -> Scene:
    """A bend between meadows and trees, one car coming the other way."""
    scene = Scene(Camera(960, 720, 760, 470, 330), seed=47, bend=0.0014)
    r = scene.random
    whole_ground(scene, TERRAIN)
    left, right = -4.7, 1.9
    strip(scene, ROAD, left, right, end=160)

    line(scene, left + 0.25, 1, 150)
    line(scene, right - 0.4, 1, 150)
    line(scene, -1.5, 2, 120, dash=4, gap=8)

    woods(scene, -190, -20, 210, 15, step=9)
    woods(scene, -10, 240, 190, 17, step=9)
    woods(scene, 24, 70, 85, 12, step=6)
    woods(scene, -100, -52, 115, 11, step=8)
    for side, z, tall in (
        (-10.5, 21.0, 8.0),
        (-9.5, 46.0, 8.5),
        (-10.5, 58.0, 9.5),
        (-9.0, 90.0, 9.0),
        (6.4, 33.0, 8.0),
        (8.5, 62.0, 10.5),
        (7.5, 80.0, 9.5),
        (8.0, 100.0, 10.0),
    ):
        tree(scene, scene.lane(side, z), z, tall, clear=0.18 * tall, trunk=0.22)
    tree(scene, 26, 44, 11, clear=1.6, trunk=0.3)
    tree(scene, -38, 74, 10, clear=1.6, trunk=0.3)
    hedge(scene, 6.5, 44, 90, 1.6)
    for side, z in ((-7.2, 20.0), (-7.4, 27.0), (-7.4, 29.5), (5.2, 29.0), (14.0, 34.0)):
        bush(scene, scene.lane(side, z), z, r.uniform(1.1, 1.9), spread=r.uniform(0.9, 1.5))
    fence(scene, 7.0, 10, 34, height=0.95, step=2.4)
    house(scene, -32, 82, wide=14, deep=9, height=4.4, rise=4.4, garage=1)

    vehicle(scene, CAR, ESTATE, scene.lane(-3.0, 24), 24, math.pi + scene.heading(24))
    for z in (9.0, 24.0, 39.0, 54.0, 69.0):
        post(scene, scene.lane(2.7, z), z, 1.0, thick=0.06)
        post(scene, scene.lane(-5.5, z + 4), z + 4, 1.0, thick=0.06)
    sign(scene, scene.lane(3.0, 20), 20, "triangle", base=0.0)
    for k in range(5):  # Telegraph poles across the meadow.
        z = 14.0 + 20 * k
        post(scene, scene.lane(9.5, z), z, 7.0, thick=0.13)
    return scene


SCENES: dict[str, Callable[[], Scene]] = {
    "city-street": city_street,
    "suburb": suburb,
    "crossing": crossing,
    "country-road": country_road,
}


# --- files -------------------------------------------------------------------------------------

# What an encoding calls a class where that is not the Cityscapes name.
CARLA_NAMES = {"person": "pedestrian", "lane marking": "road line"}
CAMVID_NAMES = {
    "unlabelled": "Void",
    "road": "Road",
    "lane marking": "LaneMkgsDriv",
    "sidewalk": "Sidewalk",
    "building": "Building",
    "fence": "Fence",
    "pole": "Column_Pole",
    "traffic sign": "SignSymbol",
    "vegetation": "Tree",
    "sky": "Sky",
    "person": "Pedestrian",
    "car": "Car",
}
# The ids of an invented simulator, far from those of every known encoding.
SIMULATOR_IDS = {
    "unlabelled": 40,
    "sky": 50,
    "road": 60,
    "lane marking": 61,
    "sidewalk": 62,
    "building": 70,
    "fence": 75,
    "pole": 80,
    "traffic sign": 81,
    "vegetation": 90,
    "car": 200,
    "person": 210,
}


def simulator_toml() -> str:
    """The text that explains `SIMULATOR_IDS` to `--encoding`."""
    lines = ["# Ids of an invented simulator: id = Cityscapes class.", 'name = "my-simulator"', ""]
    lines.append("[classes]")
    for name, number in SIMULATOR_IDS.items():
        known = "road" if name == "lane marking" else name
        lines.append(f'{number} = "{known}"' + ("  # lane marking" if known != name else ""))
    return "\n".join(lines) + "\n"


def own_keys(encoding: Encoding, names: dict[str, str]) -> dict[str, int]:
    """What an encoding writes for each class, by Cityscapes name; colours as 0xRRGGBB.

    Args:
        encoding: The encoding.
        names: What it calls a class where that is not the Cityscapes name. An encoding that has
            no name for lane markings takes them as road.
    """
    keys = {name: pack(key) for key, name in encoding.key_names.items()}
    wanted = [info.name for info in CLASSES]
    found = {name: keys.get(names.get(name, name)) for name in wanted}
    found["lane marking"] = keys.get(names.get("lane marking", "road"))
    return {name: key for name, key in found.items() if key is not None}


def encode(painting: Painting, keys: dict[str, int]) -> npt.NDArray[np.int64]:
    """The scene with the key of its class in every pixel: `(H, W)`."""
    names = [*(info.name for info in CLASSES), "lane marking"]
    labels = np.where(painting.markings, LANE_MARKING, painting.labels)
    table = np.full(len(names), -1, dtype=np.int64)
    for label in np.unique(labels):
        table[label] = keys[names[label]]
    return table[labels]


def as_ids(painting: Painting, name: str, names: dict[str, str] | None = None) -> Image.Image:
    """The scene as an 8-bit grey picture of ids."""
    values = encode(painting, own_keys(ENCODINGS[name], names or {}))
    return Image.fromarray(values.astype(np.uint8))


def as_colours(painting: Painting, name: str, names: dict[str, str] | None = None) -> Image.Image:
    """The scene as an RGB picture."""
    values = encode(painting, own_keys(ENCODINGS[name], names or {}))
    planes = [values >> shift & 255 for shift in (16, 8, 0)]
    return Image.fromarray(np.stack(planes, axis=-1).astype(np.uint8))


def as_palette(painting: Painting) -> Image.Image:
    """The scene in Cityscapes colours, as train ids with a palette."""
    image = Image.fromarray(painting.labels)
    image.putpalette([channel for info in CLASSES for channel in info.colour])
    return image


def as_instances(painting: Painting) -> Image.Image:
    """The scene as 16-bit instance ids: `label id * 1000 + number` for things that are counted."""
    labels = encode(painting, own_keys(ENCODINGS["label-ids"], {}))
    values = np.where(painting.numbers < 0, labels, labels * 1000 + painting.numbers)
    return Image.fromarray(values.astype(np.uint16))


def save(image: Image.Image, path: Path) -> None:
    """Write a picture as a small PNG."""
    path.parent.mkdir(parents=True, exist_ok=True)
    image.save(path, optimize=True)


def main() -> None:
    """Draw the scenes and write all files."""
    painted = {name: make().paint() for name, make in SCENES.items()}
    save(as_ids(painted["suburb"], "train-ids"), LABELS / "suburb.trainIds.png")
    save(as_colours(painted["crossing"], "cityscapes-colours"), LABELS / "crossing.colours.png")
    save(
        as_ids(painted["country-road"], "carla-ids", CARLA_NAMES),
        LABELS / "country-road.carla.png",
    )

    city = painted["city-street"]
    save(as_ids(city, "label-ids"), LABELS / "city-street.labelIds.png")
    simulator = encode(city, SIMULATOR_IDS).astype(np.uint8)
    pictures = {
        "labelIds": as_ids(city, "label-ids"),
        "trainIds": as_ids(city, "train-ids"),
        "instanceIds": as_instances(city),
        "cityscapes-colours": as_colours(city, "cityscapes-colours"),
        "cityscapes-palette": as_palette(city),
        "carla-ids": as_ids(city, "carla-ids", CARLA_NAMES),
        "carla-colours": as_colours(city, "carla-colours", CARLA_NAMES),
        "camvid-colours": as_colours(city, "camvid-colours", CAMVID_NAMES),
        "my-simulator": Image.fromarray(simulator),
    }
    for name, image in pictures.items():
        save(image, LABELS / "encodings" / f"city-street.{name}.png")
    toml = LABELS / "encodings" / "my-simulator.toml"
    toml.write_text(simulator_toml(), encoding="utf-8", newline="\n")


if __name__ == "__main__":
    main()
