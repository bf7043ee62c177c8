"""Draw the example drive: label maps and rendered pictures of one invented street.

This is a plain simulator. The street is a list of flat faces, round rods and tufts of leaves, each
with a colour and a class. A camera drives through it, and every frame is drawn once with a depth
buffer, at three times the size:

- the picture is that drawing, reduced with a box filter;
- the label map is the class of what covers the middle of each pixel.

So the two agree, and what is painted on a wall moves with the wall.

    python examples/make_drive.py           # rewrites everything under examples/drive/

(needs the package installed). World coordinates are metres: `x` to the right, `y` up from the road,
`z` along the street from where the drive starts. All randomness comes from fixed seeds, so a second
run writes the same bytes (with another Pillow: at least the same pixels).
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field
from itertools import pairwise
from pathlib import Path
from random import Random

import numpy as np
import numpy.typing as npt
from make_labels import (
    ESTATE,
    HATCHBACK,
    MINIVAN,
    NEAR,
    OFF_ROADER,
    SALOON,
    Array,
    Box,
    Camera,
    Mask,
    Point,
    Section,
    save,
)
from PIL import Image

from seg2vid_cli.label_sets import ENCODINGS

DRIVE = Path(__file__).resolve().parent / "drive"
FRAMES, FPS = 24, 15
SPEED = 8.0  # Of the camera, in metres per second.
WIDTH, HEIGHT = 512, 256
FINE = 3  # Drawn this much larger; odd, so that a pixel's middle is the middle of a fine one.
CAMERA = Camera(FINE * WIDTH, FINE * HEIGHT, FINE * 390.0, FINE * 262.0, FINE * 118.0)
LIFT = 0.002  # A face on layer n is drawn as if it were nearer by n times this share.

Colour = tuple[int, int, int]
Span = tuple[float, float]
Edge = tuple[Point, Point]

LIGHT_FROM = (-0.60, 0.66, -0.45)  # Left, above, behind the camera.
AMBIENT, SUN = 0.60, 0.46
ZENITH, HAZE = (118, 158, 208), (214, 224, 232)

ASPHALT, PAINT, KERB, PAVING = (94, 95, 96), (226, 226, 220), (196, 195, 192), (150, 148, 145)
WHITE, GLASS, DARK, STEEL = (236, 235, 230), (58, 72, 88), (38, 38, 42), (112, 116, 118)
BRICK, PLASTER, CLAY, CHALK = (164, 92, 74), (222, 205, 168), (190, 128, 98), (206, 208, 204)
RUSSET, SAND, MINT, ROSE = (140, 82, 70), (214, 184, 136), (176, 190, 186), (196, 150, 128)
WALLS = (BRICK, PLASTER, CLAY, CHALK, RUSSET, SAND, MINT, ROSE)
ROOFS = ((122, 66, 54), (88, 86, 92), (140, 82, 62), (74, 78, 86))
DOORS = ((86, 48, 38), (44, 74, 60), (50, 60, 96), (120, 40, 40))
LEAVES = ((40, 66, 32), (66, 100, 44), (96, 134, 58), (134, 168, 80))  # From dark to light.

# Lines along the street, at these `x`.
LEFT_FRONT, LEFT_KERB, MIDDLE, RIGHT_KERB, RIGHT_FRONT = -10.2, -7.1, -1.65, 3.8, 7.0
PAVED = 0.12  # Height of the sidewalk.
STOREY = 3.2
OPENING, CLOSING = 33.0, 41.0  # Where a side street opens to the left.
GARDEN, GARDEN_END = 29.0, 46.0  # On the right.
END = 150.0


# --- what the street is made of ----------------------------------------------------------------


@dataclass(frozen=True)
class Face:
    """A flat convex polygon; on one plane, those of a higher `layer` cover those below."""

    points: tuple[Point, ...]
    colour: Colour
    label: str
    layer: int
    glows: bool


@dataclass(frozen=True)
class Rod:
    """A round limb from `a` to `b` with a radius at each end."""

    a: Point
    b: Point
    ra: float
    rb: float
    colour: Colour
    label: str


@dataclass(frozen=True)
class Tuft:
    """A ragged ball of leaves; `edge` is its radius all around."""

    centre: Point
    edge: tuple[float, ...]
    colour: Colour


@dataclass
class World:
    """What stands where. Labels are names of Cityscapes classes."""

    seed: int
    parts: list[Face | Rod | Tuft] = field(default_factory=list)

    def __post_init__(self) -> None:
        self.random = Random(self.seed)

    def face(
        self,
        colour: Colour,
        label: str,
        points: Iterable[Point],
        layer: int = 0,
        glows: bool = False,
    ) -> None:
        """Add a flat convex polygon."""
        self.parts.append(Face(tuple(points), colour, label, layer, glows))

    def floor(
        self, colour: Colour, label: str, x: Span, z: Span, *, y: float = 0.0, layer: int = 0
    ) -> None:
        """Add a level rectangle."""
        corners = [(x[0], y, z[0]), (x[1], y, z[0]), (x[1], y, z[1]), (x[0], y, z[1])]
        self.face(colour, label, corners, layer)

    def block(self, colour: Colour, label: str, x: Span, y: Span, z: Span) -> None:
        """Add a box without the far side, which the camera never sees."""
        for up in y:
            self.floor(colour, label, x, z, y=up)
        for a, b, far in ((x[0], x[0], z[1]), (x[1], x[1], z[1]), (x[0], x[1], z[0])):
            corners = [(a, y[0], z[0]), (a, y[1], z[0]), (b, y[1], far), (b, y[0], far)]
            self.face(colour, label, corners)

    def rod(
        self, colour: Colour, label: str, a: Point, b: Point, ra: float, rb: float | None = None
    ) -> None:
        """Add a round limb."""
        self.parts.append(Rod(a, b, ra, ra if rb is None else rb, colour, label))

    def tuft(self, centre: Point, radius: float, light: float) -> None:
        """Add a tuft of leaves, from dark (0) to light (1)."""
        edge = tuple(radius * self.random.uniform(0.65, 1.15) for _ in range(15))
        shade = max(0, min(len(LEAVES) - 1, int(light * len(LEAVES))))
        self.parts.append(Tuft(centre, edge, LEAVES[shade]))


def shaded(colour: Colour, light: float) -> Colour:
    """A colour under more or less light."""
    r, g, b = (max(0, min(255, round(channel * light))) for channel in colour)
    return r, g, b


def between(a: Point, b: Point, share: float) -> Point:
    """A point on the way from `a` to `b`."""
    x, y, z = (p + share * (q - p) for p, q in zip(a, b, strict=True))
    return x, y, z


def inset(bottom: Edge, top: Edge, along: Span, up: Span) -> list[Point]:
    """A piece of the face between two edges, by its shares of the way along and up."""
    corners = [(along[0], up[0]), (along[1], up[0]), (along[1], up[1]), (along[0], up[1])]
    return [between(between(*bottom, s), between(*top, s), t) for s, t in corners]


def dot(a: Point, b: Point) -> float:
    """Scalar product."""
    return a[0] * b[0] + a[1] * b[1] + a[2] * b[2]


def turns(count: int) -> list[float]:
    """Angles all around a circle."""
    return [2 * math.pi * k / count for k in range(count)]


# --- drawing -----------------------------------------------------------------------------------


def normal_of(points: Sequence[Point]) -> Point:
    """Unit normal of a flat polygon, on the side of the camera at the origin (Newell)."""
    n = [0.0, 0.0, 0.0]
    for p, q in zip(points, [*points[1:], points[0]], strict=True):
        for i, j, k in ((0, 1, 2), (1, 2, 0), (2, 0, 1)):
            n[i] += (p[j] - q[j]) * (p[k] + q[k])
    size = math.sqrt(sum(c * c for c in n)) or 1.0
    size = -size if sum(dot((n[0], n[1], n[2]), p) for p in points) > 0 else size
    return n[0] / size, n[1] / size, n[2] / size


def in_front(points: Sequence[Point]) -> list[Point]:
    """The part of a polygon that lies in front of the camera."""
    kept = []
    for a, b in zip(points, [*points[1:], points[0]], strict=True):
        if a[2] >= NEAR:
            kept.append(a)
        if (a[2] < NEAR) != (b[2] < NEAR):
            kept.append(between(a, b, (NEAR - a[2]) / (b[2] - a[2])))
    return kept


class Canvas:
    """One frame: which part is nearest in every fine pixel.

    Args:
        z: How far along the street the camera is.
    """

    def __init__(self, z: float) -> None:
        self.z = z
        shape = CAMERA.height, CAMERA.width
        self.closeness = np.zeros(shape)  # 1 / distance
        self.number = np.zeros(shape, np.int32)  # Into the two lists; 0 is the sky.
        self.colours: list[Colour] = [HAZE]
        self.labels = ["sky"]

    def draw(self, part: Face | Rod | Tuft) -> None:
        """Draw a part wherever nothing is nearer."""
        if isinstance(part, Face):
            self._face(part)
        elif isinstance(part, Rod):
            self._rod(part)
        else:
            self._tuft(part)

    def picture(self) -> Image.Image:
        """The frame as a picture."""
        fine = np.asarray(self.colours, np.uint8)[self.number]
        share = np.clip((np.arange(CAMERA.height) + 0.5) / CAMERA.horizon, 0, 1)[:, None] ** 1.5
        sky = np.round(np.asarray(ZENITH) * (1 - share) + np.asarray(HAZE) * share)
        fine = np.where((self.number == 0)[..., None], sky[:, None].astype(np.uint8), fine)
        small = np.asarray(Image.fromarray(fine).reduce(FINE))
        return Image.fromarray(small & 0xFC | 2)  # Steps of 4 make a much smaller file.

    def label_map(self) -> Image.Image:
        """The frame as Cityscapes label ids."""
        own = {name: key for key, name in ENCODINGS["label-ids"].key_names.items()}
        ids = np.asarray([own[label] for label in self.labels], np.uint8)
        return Image.fromarray(ids[self.number[FINE // 2 :: FINE, FINE // 2 :: FINE]])

    def _seen(self, points: Iterable[Point]) -> list[Point]:
        """Points as the camera sees them: it is at the origin."""
        return [(x, y - CAMERA.eye, z - self.z) for x, y, z in points]

    @staticmethod
    def _at(seen: Point) -> tuple[float, float]:
        return CAMERA.at(seen[0], seen[1] + CAMERA.eye, seen[2])

    @staticmethod
    def _centres(bounds: Box) -> tuple[Array, Array]:
        """Middles of the pixels within bounds: `x` as a row, `y` as a column."""
        left, right = max(0, math.floor(bounds[0])), min(CAMERA.width, math.ceil(bounds[2]) + 1)
        top, bottom = max(0, math.floor(bounds[1])), min(CAMERA.height, math.ceil(bounds[3]) + 1)
        x = np.arange(left, right, dtype=np.float64)
        y = np.arange(top, bottom, dtype=np.float64)
        return x[None] + 0.5, y[:, None] + 0.5

    def _put(
        self,
        x: Array,
        y: Array,
        mask: Mask,
        closeness: Array | float,
        label: str,
        colours: Sequence[Colour],
        tone: npt.NDArray[np.int32] | int = 0,
    ) -> None:
        """Fill what `mask` covers; `tone` chooses among several colours."""
        if mask.size:
            window = np.s_[int(y[0, 0]) : int(y[-1, 0]) + 1, int(x[0, 0]) : int(x[0, -1]) + 1]
            mask = mask & (closeness > self.closeness[window])
            np.copyto(self.closeness[window], closeness, where=mask)
            np.copyto(self.number[window], np.int32(len(self.colours)) + tone, where=mask)
            self.colours.extend(colours)
            self.labels.extend([label] * len(colours))

    def _face(self, face: Face) -> None:
        seen = self._seen(face.points)
        normal = normal_of(seen)
        away = sum(dot(normal, p) for p in seen) / len(seen)
        corners = [self._at(p) for p in in_front(seen)]
        if len(corners) < 3 or away > -1e-9:  # Behind the camera, or seen from its very edge.
            return
        xs, ys = zip(*corners, strict=True)
        x, y = self._centres((min(xs), min(ys), max(xs), max(ys)))
        left, right = np.full(y.shape, np.inf), np.full(y.shape, -np.inf)
        for (ax, ay), (bx, by) in zip(corners, [*corners[1:], corners[0]], strict=True):
            if ay != by:
                t = (y - ay) / (by - ay)
                side = np.where((t >= 0) & (t <= 1), ax + t * (bx - ax), np.nan)
                left, right = np.fmin(left, side), np.fmax(right, side)
        # On a plane, 1 / z is linear in the picture.
        across, up = (x - CAMERA.vanish_x) / CAMERA.focal, (CAMERA.horizon - y) / CAMERA.focal
        closeness = (normal[0] * across + normal[1] * up + normal[2]) / away
        closeness = closeness * (1 + LIFT * face.layer)
        light = 1.0 if face.glows else AMBIENT + SUN * max(0.0, dot(normal, LIGHT_FROM))
        mask = (x >= left) & (x < right)
        self._put(x, y, mask, closeness, face.label, [shaded(face.colour, light)])

    def _rod(self, rod: Rod) -> None:
        a, b = self._seen((rod.a, rod.b))
        if min(a[2], b[2]) < NEAR:
            return
        (ax, ay), (bx, by) = self._at(a), self._at(b)
        thin = 0.55 * FINE  # Anything thinner would vanish between the middles of pixels.
        ra = max(thin, rod.ra * CAMERA.scale(a[2]))
        rb = max(thin, rod.rb * CAMERA.scale(b[2]))
        r = max(ra, rb)
        x, y = self._centres((min(ax, bx) - r, min(ay, by) - r, max(ax, bx) + r, max(ay, by) + r))
        dx, dy = bx - ax, by - ay
        t = np.clip(((x - ax) * dx + (y - ay) * dy) / (dx * dx + dy * dy + 1e-9), 0.0, 1.0)
        radius = ra + (rb - ra) * t
        u, v = (x - ax - t * dx) / radius, (y - ay - t * dy) / radius
        beside = u * u + v * v
        bulge = radius / CAMERA.focal * np.sqrt(np.clip(1 - beside, 0, 1))
        closeness = (1 / a[2] + (1 / b[2] - 1 / a[2]) * t) / (1 - bulge)
        tone = np.digitize(u * LIGHT_FROM[0] - v * LIGHT_FROM[1], [-0.3, 0.35]).astype(np.int32)
        colours = [shaded(rod.colour, light) for light in (0.66, 0.82, 0.98)]
        self._put(x, y, beside <= 1, closeness, rod.label, colours, tone)

    def _tuft(self, tuft: Tuft) -> None:
        (centre,) = self._seen([tuft.centre])
        if centre[2] < NEAR:
            return
        cx, cy = self._at(centre)
        scale, count = CAMERA.scale(centre[2]), len(tuft.edge)
        r = scale * max(tuft.edge)
        x, y = self._centres((cx - r, cy - r, cx + r, cy + r))
        turn = np.arctan2(y - cy, x - cx) / (2 * math.pi) * count
        edge = np.interp(turn % count, range(count + 1), [*tuft.edge, tuft.edge[0]])
        mask = np.hypot(x - cx, y - cy) <= scale * edge
        self._put(x, y, mask, 1 / centre[2], "vegetation", [tuft.colour])


# --- ground ------------------------------------------------------------------------------------


def sidewalk(world: World, kerb: float, front: float, start: float, end: float) -> None:
    """A raised sidewalk with a kerb and a gutter, from the road to the fronts of the houses."""
    out = math.copysign(1.0, front - kerb)
    stone, middle = kerb + 0.22 * out, (kerb + front) / 2
    joint = shaded(PAVING, 0.84)

    def top(colour: Colour, x: Span, z: Span, layer: int) -> None:
        world.floor(colour, "sidewalk", x, z, y=PAVED, layer=layer)

    world.block(shaded(KERB, 0.62), "sidewalk", (kerb, front + out), (0, PAVED), (start, end))
    top(PAVING, (stone, front + out), (start + 0.22, end), 1)
    top(KERB, (kerb, stone), (start, end), 1)
    top(joint, (middle, middle + 0.05), (start, end), 2)
    for z in range(math.ceil(start), min(round(end), 60), 2):
        top(joint, (stone, front), (z, z + 0.05), 2)
    world.floor(shaded(ASPHALT, 0.68), "road", (kerb - 0.35 * out, kerb), (start, end), layer=1)


def ground(world: World) -> None:
    """The road with its markings, and the sidewalks."""

    def mark(x: Span, z: Span, colour: Colour = PAINT, layer: int = 2) -> None:
        world.floor(colour, "road", x, z, layer=layer)

    mark((-300, 300), (-20, 600), ASPHALT, 0)
    sidewalk(world, RIGHT_KERB, RIGHT_FRONT, -20, END)
    sidewalk(world, LEFT_KERB, LEFT_FRONT, -20, OPENING)
    sidewalk(world, LEFT_KERB, LEFT_FRONT, CLOSING, END)

    for x, z in (((0.3, 1.5), (11, 19)), ((-4.2, -2.2), (24, 29))):  # Mended asphalt.
        mark(x, z, shaded(ASPHALT, 0.87), 1)
    for across, along in ((-0.4, 23.0), (0.5, 8.0), (-3.4, 15.0)):  # Manhole covers.
        rim = [(across + 0.34 * math.cos(t), 0, along + 0.34 * math.sin(t)) for t in turns(12)]
        world.face((58, 58, 62), "road", rim, 2)
    for line, half, dash in (
        (MIDDLE, 0.08, 3.0),
        (LEFT_KERB + 2.15, 0.05, 4.6),
        (RIGHT_KERB - 2.15, 0.05, 4.6),
    ):
        for start in range(-8, 130, 6):
            if not OPENING - 9 < start < CLOSING + 3:
                mark((line - half, line + half), (start, start + dash))
    mark((MIDDLE - 0.08, MIDDLE + 0.08), (OPENING - 6.5, OPENING - 3.6))
    mark((MIDDLE + 0.2, RIGHT_KERB - 0.5), (OPENING - 4.2, OPENING - 3.8))
    for k in range(10):  # A crossing before the side street.
        mark((LEFT_KERB + 0.6 + k, LEFT_KERB + 1.1 + k), (OPENING - 3.2, OPENING - 0.4))


# --- houses ------------------------------------------------------------------------------------


@dataclass(frozen=True)
class Wall:
    """A flat side of a house, painted in metres along and up from its lower left corner."""

    world: World
    corner: Point
    along: Point
    up: Point = (0.0, 1.0, 0.0)

    def at(self, along: float, up: float) -> Point:
        """A point of the wall."""
        x, y, z = (
            c + along * a + up * u for c, a, u in zip(self.corner, self.along, self.up, strict=True)
        )
        return x, y, z

    def patch(self, colour: Colour, along: Span, up: Span, layer: int = 0) -> None:
        """A rectangle."""
        corners = [self.at(a, up[0]) for a in along] + [self.at(a, up[1]) for a in along[::-1]]
        self.world.face(colour, "building", corners, layer)

    def window(self, middle: float, low: float, high: float, trim: Colour) -> None:
        """A window with trim, frame, panes and sill."""
        left, right, top, split = middle - 0.57, middle + 0.57, low + high, low + 0.64 * high
        self.patch(trim, (left - 0.14, right + 0.14), (low, top + 0.2), 1)
        self.patch(WHITE, (left, right), (low, top), 2)
        glass = shaded(GLASS, self.world.random.choice((0.8, 1.0, 1.0, 1.25)))
        for pane in ((left + 0.08, middle - 0.04), (middle + 0.04, right - 0.08)):
            self.patch(glass, pane, (low + 0.08, split - 0.04), 3)
            self.patch(shaded(glass, 0.8), pane, (split + 0.04, top - 0.08), 3)
        self.patch(shaded(trim, 1.1), (left - 0.22, right + 0.22), (low - 0.14, low), 3)

    def door(self, middle: float, trim: Colour) -> None:
        """A front door with two panels, a step, and a pane above it."""
        colour = self.world.random.choice(DOORS)

        def part(colour: Colour, half: float, up: Span, layer: int) -> None:
            self.patch(colour, (middle - half, middle + half), up, layer)

        part(trim, 0.75, (0, 2.95), 1)
        part(colour, 0.52, (0.15, 2.25), 2)
        part(GLASS, 0.52, (2.33, 2.75), 2)
        part(shaded(colour, 1.35), 0.34, (0.35, 1.05), 3)
        part(shaded(colour, 1.35), 0.34, (1.2, 2.05), 3)
        part(KERB, 0.75, (0, 0.15), 3)

    def shop(self, start: float, end: float) -> None:
        """A shop front: large panes under a sign board."""
        colour = self.world.random.choice(DOORS)
        self.patch(shaded(colour, 0.8), (start, end), (0, 2.75), 2)
        self.patch(colour, (start, end), (2.75, 3.35), 2)
        count = max(2, round((end - start) / 2.2))
        pitch = (end - start) / count
        for k in range(count):  # One of them is the entrance.
            pane = start + k * pitch + 0.12, start + (k + 1) * pitch - 0.12
            self.patch(shaded(GLASS, 1.5), pane, (0.15 if k == 1 else 0.6, 2.6), 3)

    def fill(self, colour: Colour, long: float, storeys: int, *, entrance: bool) -> None:
        """Rows of windows, string courses, a base, and at the street a door or a shop."""
        trim = shaded(colour, 1.45 if min(colour) < 100 else 1.3 if min(colour) < 140 else 0.75)
        random = self.world.random
        columns = max(2, round(long / 2.7))
        sells = entrance and long > 9 and random.random() < 0.4
        entry = random.randrange(columns) if entrance and not sells else -1
        self.patch(colour, (0, long), (-PAVED, STOREY * storeys + 0.4))
        self.patch((112, 108, 104), (0, long), (0, 0.5), 1)
        for storey in range(1, storeys):
            self.patch(trim, (0, long), (STOREY * storey + 0.2, STOREY * storey + 0.42), 1)
        if sells:
            self.shop(0.4, long - 0.4)
        for k in range(columns):
            middle = (k + 0.5) * long / columns
            for storey in range(1 if sells else 0, storeys):
                if storey == 0 and k == entry:
                    self.door(middle, trim)
                else:
                    high = 1.65 if storey < storeys - 1 else 1.4
                    self.window(middle, STOREY * storey + 1.15, high, trim)


def house(
    world: World,
    front: float,
    start: float,
    end: float,
    storeys: int,
    colour: Colour,
    roof: Colour | None,
) -> None:
    """A house along the street, its front at `x = front`; flat if there is no colour of a roof."""
    out, long, deep = math.copysign(1.0, front), end - start, 10.0
    eaves, ridge, back = (front + away * out for away in (-0.4, 0.5 * deep, deep))
    tall = PAVED + STOREY * storeys + 0.4
    Wall(world, (front, PAVED, start), (0, 0, 1)).fill(colour, long, storeys, entrance=True)
    Wall(world, (front, PAVED, start), (out, 0, 0)).fill(colour, deep, storeys, entrance=False)

    def block(colour: Colour, x: Span, y: Span, z: Span) -> None:
        world.block(colour, "building", x, y, z)

    if roof is None:
        trim = shaded(colour, 0.75)
        block(trim, (eaves, back), (tall - 0.1, tall + 0.35), (start - 0.2, end))
        return
    block(WHITE, (eaves, front), (tall - 0.3, tall), (start - 0.15, end))
    top = tall + 0.48 * deep + world.random.uniform(0, 1)
    gable = [(front, tall, start), (ridge, top, start), (back, tall, start)]
    world.face(colour, "building", gable)
    slope = Wall(world, (eaves, tall, start - 0.15), (0, 0, 1), (ridge - eaves, top - tall, 0))
    slope.patch(roof, (0, long + 0.15), (0, 1), 1)
    for k in range(1, 7):  # Rows of tiles.
        slope.patch(shaded(roof, 0.8), (0, long + 0.15), (k / 7, k / 7 + 0.025), 2)
    z = start + world.random.uniform(0.15, 0.8) * long
    block(colour, (ridge - 0.4, ridge + 0.4), (tall, top + 0.8), (z, z + 0.9))  # The chimney.
    x, dormers = front + 1.2 * out, round(long / 5) if world.random.random() < 0.7 else 0
    for k in range(dormers):
        z = start + (k + 0.5) * long / dormers
        block(shaded(roof, 1.15), (x, ridge), (tall, tall + 1.75), (z - 0.85, z + 0.85))
        Wall(world, (x, tall, z), (0, 0, 1)).window(0.0, 0.5, 1.05, WHITE)


def row(
    world: World, front: float, start: float, houses: Iterable[tuple[float, int]], first: int
) -> None:
    """Houses wall to wall, given by length and storeys; `first` chooses their colours."""
    for k, (long, storeys) in enumerate(houses, first):
        colour, roof = WALLS[k % len(WALLS)], ROOFS[k % len(ROOFS)]
        house(world, front, start, start + long, storeys, colour, None if k % 4 == 2 else roof)
        start += long


def house_across(world: World, left: float, right: float, z: float, storeys: int) -> None:
    """A house that faces the camera from the end of the street."""
    tall = PAVED + STOREY * storeys + 0.4
    wall = Wall(world, (left, PAVED, z), (1, 0, 0))
    wall.fill(world.random.choice(WALLS), right - left, storeys, entrance=True)
    roof = Wall(world, (left, tall, z), (1, 0, 0), (0, 3.4, 5))
    roof.patch(ROOFS[storeys % len(ROOFS)], (0, right - left), (0, 1))


# --- cars --------------------------------------------------------------------------------------


def car(
    world: World, body: list[Section], x: float, z: float, paint: Colour, *, towards: bool
) -> None:
    """A car whose middle is at `(x, z)`, facing away from the camera or towards it."""
    length, wide = body[-1][0], max(section[5] for section in body)
    ahead = -1 if towards else 1

    def panel(colour: Colour, points: Iterable[Point], layer: int = 0, glows: bool = False) -> None:
        """A face, its points given by metres from the rear, to the right, and up."""
        placed = [(x + ahead * a, up, z + ahead * (s - length / 2)) for s, a, up in points]
        world.face(colour, "car", placed, layer, glows)

    def plate(colour: Colour, along: float, across: Span, up: Span, *, glows: bool = False) -> None:
        """An upright rectangle at one of the ends."""
        (a, b), (low, high) = across, up
        corners = [(along, a, low), (along, b, low), (along, b, high), (along, a, high)]
        panel(colour, corners, 3, glows)

    def level(section: Section, k: int, side: int) -> Point:
        """Underside (0), belt line (1) or top (2) of a cross-section."""
        return section[0], side * section[4 + k], section[1 + k]

    for a, b in pairwise(body):
        glazed = max(a[3] - a[2], b[3] - b[2]) > 0.3
        for side in (-1, 1):
            low, belt, top = ((level(a, k, side), level(b, k, side)) for k in range(3))
            panel(paint, [*low, *belt[::-1]])
            panel(paint, [*belt, *top[::-1]])
            if glazed:
                panel(GLASS, inset(belt, top, (0.05, 0.95), (0.12, 0.86)), 2)
            if glazed and b[0] - a[0] > 0.6:  # The seam of a door.
                panel(shaded(paint, 0.6), inset(low, belt, (0.94, 1.0), (0.0, 1.0)), 1)
        left, right = ((level(a, 2, side), level(b, 2, side)) for side in (-1, 1))
        panel(paint, [*left, *right[::-1]])
        if glazed and abs(a[3] - b[3]) > 0.2 * (b[0] - a[0]):  # Windscreen or rear window.
            clear = max(a[2], b[2]) + 0.05
            first, last = (max(0.0, clear - s[3]) / abs(a[3] - b[3]) for s in (a, b))
            panel(GLASS, inset(left, right, (first, 1 - last), (0.08, 0.92)), 2)

    for cap in (body[0], body[-1]):
        for k in (0, 1):
            lower, upper = ((level(cap, n, -1), level(cap, n, 1)) for n in (k, k + 1))
            panel(paint, [*lower, *upper[::-1]])
    rear, nose = (0.66 * body[2][2], 0.86 * body[2][2]), (0.62 * body[-3][2], 0.86 * body[-3][2])
    for side in (-1, 1):
        lamps = 0.62 * side * wide, 0.93 * side * wide
        plate((122, 14, 18), 0.02, lamps, rear)
        plate((246, 244, 226), length - 0.08, lamps, nose, glows=True)
    plate(DARK, length + 0.01, (-0.5, 0.5), nose)
    for end, number in ((-0.01, (0.52, 0.64)), (length + 0.02, (0.31, 0.42))):
        plate(shaded(paint, 0.55), end, (-0.8 * wide, 0.8 * wide), (0.3, 0.44))
        plate(WHITE, end + math.copysign(0.02, end), (-0.27, 0.27), number)

    radius = 0.37 if body is OFF_ROADER else 0.32
    for axle in (0.19 * length, 0.80 * length):
        for side in (-1, 1):

            def rim(
                size: float, inwards: float, axle: float = axle, side: int = side
            ) -> list[Point]:
                across = side * (wide + 0.01 - inwards)
                return [
                    (axle + size * math.cos(t), across, radius + size * math.sin(t))
                    for t in turns(14)
                ]

            panel(shaded(paint, 0.5), [p for p in rim(radius + 0.07, 0.01) if p[2] > 0.2], 2)
            panel(DARK, rim(radius, 0), 3)
            panel(KERB, rim(0.6 * radius, 0), 4)
            outer, inner = rim(radius, 0), rim(radius, 0.23)
            for k in range(14):
                panel(DARK, [outer[k - 1], outer[k], inner[k], inner[k - 1]])
    under = (x - wide - 0.1, x + wide + 0.35), (z - length / 2 - 0.15, z + length / 2)
    world.floor(shaded(ASPHALT, 0.55), "road", *under, layer=3)


# --- plants, people, street furniture ----------------------------------------------------------


def tree(world: World, x: float, z: float, tall: float) -> None:
    """A street tree, its crown lighter where the light falls on it."""
    bark, random, count = (88, 72, 58), world.random, 100
    world.rod(bark, "vegetation", (x, PAVED, z), (x, 0.6 * tall, z), 0.15, 0.1)
    for side in (-1, 1):
        branch = (x, 0.32 * tall, z), (x + 0.12 * side * tall, 0.6 * tall, z)
        world.rod(bark, "vegetation", *branch, 0.08, 0.05)
    middle, wide, high = (x, 0.68 * tall, z), 0.25 * tall, 0.34 * tall
    world.tuft(between(middle, (x, tall, z + tall), 0.1), 0.8 * wide, 0.1)
    for k in range(count):  # Evenly over a ball, by the golden angle.
        up = 1 - 2 * (k + 0.5) / count
        flat, turn = math.sqrt(1 - up * up), 2.39996 * k + random.uniform(-0.3, 0.3)
        way = flat * math.cos(turn), up, flat * math.sin(turn)
        light = 0.46 + 0.42 * dot(way, LIGHT_FROM) + random.uniform(-0.14, 0.14)
        away = random.uniform(0.62, 0.84)
        centre = (x + away * wide * way[0], middle[1] + away * high * up, z + away * wide * way[2])
        world.tuft(centre, random.uniform(0.21, 0.34) * wide, light)


def hedge(world: World, x: float, start: float, end: float, tall: float) -> None:
    """A hedge along the street."""
    for k in range(round((end - start) / (0.32 * tall))):
        for up in (0.25, 0.6, 0.85):
            centre = x + world.random.uniform(-0.1, 0.1), PAVED + up * tall, start + 0.32 * tall * k
            world.tuft(centre, 0.36 * tall, 0.9 * up + world.random.uniform(-0.25, 0.25))


def walker(
    world: World, x: float, z: float, time: float, coat: Colour, trousers: Colour, *, towards: bool
) -> None:
    """Somebody who walks along the street; `time` decides how arms and legs swing."""
    ahead = -1 if towards else 1
    swing = math.sin(2 * math.pi * 0.95 * time)
    skin, hair = (208, 164, 138), (70, 50, 38)

    def limb(colour: Colour, a: Point, b: Point, ra: float, rb: float) -> None:
        """A limb between two points given by metres to the right, up and ahead."""
        p, q = ((x + side, PAVED + up, z + ahead * far) for side, up, far in (a, b))
        world.rod(colour, "person", p, q, ra, rb)

    for side in (-1, 1):
        step, bent = side * swing, max(0.0, -side * swing)
        knee = 0.1 * side, 0.48 + 0.05 * bent, 0.2 * step + 0.06
        foot = 0.1 * side, 0.07 + 0.16 * bent, 0.36 * step
        limb(trousers, (0.09 * side, 0.9, 0), knee, 0.095, 0.075)
        limb(trousers, knee, foot, 0.075, 0.055)
        limb(DARK, foot, (foot[0], foot[1] - 0.02, foot[2] + 0.1), 0.055, 0.045)
        elbow = 0.25 * side, 1.1, -0.12 * step
        hand = 0.26 * side, 0.86 + 0.04 * abs(step), 0.06 - 0.26 * step
        limb(coat, (0.2 * side, 1.38, 0), elbow, 0.065, 0.055)
        limb(coat, elbow, hand, 0.055, 0.045)
        limb(skin, hand, hand, 0.05, 0.05)
    limb(coat, (0, 1.32, 0), (0, 0.92, 0), 0.2, 0.17)
    limb(coat, (-0.12, 1.38, 0), (0.12, 1.38, 0), 0.085, 0.085)
    limb(skin, (0, 1.45, 0), (0, 1.52, 0), 0.06, 0.06)
    limb(hair, (0, 1.62, -0.03), (0, 1.67, -0.03), 0.105, 0.1)
    limb(skin, (0, 1.58, 0.03), (0, 1.63, 0.03), 0.095, 0.09)


def lamp(world: World, x: float, z: float, reach: float) -> None:
    """A street lamp whose arm reaches over the road."""
    bend, tip = x + 0.18 * reach, x + reach
    for a, b, ra, rb in (
        ((x, PAVED), (x, 1.1), 0.11, 0.1),
        ((x, 1.1), (x, 6.6), 0.075, 0.06),
        ((x, 6.6), (bend, 7.1), 0.06, 0.05),
        ((bend, 7.1), (tip, 7.2), 0.05, 0.05),
        ((tip, 7.2), (tip + 0.3 * reach, 7.22), 0.1, 0.08),
    ):
        world.rod(STEEL, "pole", (*a, z), (*b, z), ra, rb)


def disc(
    world: World,
    colour: Colour,
    label: str,
    centre: Point,
    radius: float,
    layer: int,
    *,
    corners: int = 18,
) -> None:
    """A round plate that faces the camera, or one of few corners, the first of them on top."""
    x, y, z = centre
    rim = [(x + radius * math.sin(t), y + radius * math.cos(t), z) for t in turns(corners)]
    world.face(colour, label, rim, layer, glows=label == "traffic light")


def sign(world: World, x: float, z: float, *, corners: int = 18) -> None:
    """A white traffic sign with a red border: round, or a triangle with three corners."""
    up, front, size = 2.5, z - 0.08, 0.48 if corners == 3 else 0.36
    world.rod(STEEL, "pole", (x, PAVED, z), (x, 2.75, z), 0.04)
    disc(world, (196, 40, 40), "traffic sign", (x, up, front), size, 1, corners=corners)
    disc(world, WHITE, "traffic sign", (x, up, front), 0.66 * size, 2, corners=corners)
    for middle in (-0.07, 0.07) if corners > 3 else (0.0,):
        a, b = x + middle - 0.03, x + middle + 0.03
        bar = [
            (a, up - 0.11, front),
            (b, up - 0.11, front),
            (b, up + 0.11, front),
            (a, up + 0.11, front),
        ]
        world.face(DARK, "traffic sign", bar, 3)


def traffic_light(world: World, x: float, z: float, *, arm: float = 0.0) -> None:
    """A traffic light on a post, which shows green; `arm` hangs a second one over the road."""
    top = 5.7 if arm else 3.3
    world.rod(STEEL, "pole", (x, PAVED, z), (x, top, z), 0.09, 0.075)
    heads = [(x, 2.5)]
    if arm:
        world.rod(STEEL, "pole", (x, top - 0.2, z), (x + arm, top, z), 0.075, 0.06)
        heads.append((x + 0.94 * arm, top - 0.75))
    for across, low in heads:
        box = (across - 0.2, across + 0.2), (low, low + 1.0), (z - 0.35, z - 0.1)
        world.block((44, 48, 46), "traffic light", *box)
        for k, colour in enumerate(((96, 220, 130), (92, 72, 30), (96, 32, 30))):
            centre = across, low + 0.18 + 0.32 * k, z - 0.36
            disc(world, colour, "traffic light", centre, 0.12, 1)


def railing(world: World, x: float, start: float, end: float) -> None:
    """A low wall with an iron fence on it, before a garden."""
    world.block((172, 160, 142), "fence", (x, x + 0.25), (PAVED, PAVED + 0.25), (start, end))
    x += 0.12
    for k in range(int((end - start) / 0.8)):
        z = start + 0.1 + 0.8 * k
        world.rod(DARK, "fence", (x, 0.3, z), (x, 1.3, z), 0.025)
    for up in (0.55, 1.2):
        world.rod(DARK, "fence", (x, up, start), (x, up, end), 0.025)


# --- the drive ---------------------------------------------------------------------------------


def street() -> World:
    """Everything that stands still."""
    world = World(seed=5)
    ground(world)
    row(world, LEFT_FRONT, 0, [(10, 3), (11, 2), (12, 3)], first=0)
    left = [(12, 3), (10, 3), (12, 2), (10, 3), (11, 2), (12, 3), (11, 2), (12, 3), (9, 2), (10, 3)]
    row(world, LEFT_FRONT, CLOSING, left, first=5)
    row(world, RIGHT_FRONT, 0, [(9, 2), (11, 3), (GARDEN - 20, 2)], first=3)
    right = [(11, 3), (12, 2), (10, 3), (12, 3), (11, 2), (12, 3), (10, 2), (11, 3), (12, 2)]
    row(world, RIGHT_FRONT, GARDEN_END, right, first=2)
    for k in range(5):  # The end of the street.
        house_across(world, -42 + 16 * k, -26 + 16 * k, END + 10, 3 - k % 2)

    lawn = (RIGHT_FRONT, 40.0), (GARDEN, GARDEN_END)
    world.floor((104, 138, 72), "terrain", *lawn, y=PAVED, layer=3)
    railing(world, RIGHT_FRONT, GARDEN + 0.2, GARDEN_END - 0.2)
    hedge(world, RIGHT_FRONT + 4.0, GARDEN + 0.6, GARDEN_END - 0.4, 1.5)
    for z, tall in ((38.5, 7.8), (44.0, 8.4)):
        tree(world, RIGHT_FRONT + 2.5, z, tall)

    for z, tall in ((15.5, 6.4), (24, 7.2), (50, 7.4), (66, 7), (84, 7.6), (106, 7.6), (146, 9)):
        tree(world, LEFT_KERB - 0.8, z, tall)
    for z, tall in ((34.5, 6.8), (58, 7.4), (76, 7.2), (100, 7.6), (148, 8)):
        tree(world, RIGHT_KERB + 0.8, z, tall)
    for z in (13.5, 44.0, 72.0, 98.0):
        lamp(world, RIGHT_KERB + 0.5, z, -1.7)
    for z in (28.0, 60.0, 86.0):
        lamp(world, LEFT_KERB - 0.5, z, 1.7)
    traffic_light(world, RIGHT_KERB + 0.5, OPENING - 3.4, arm=-3.6)
    traffic_light(world, LEFT_KERB - 0.5, CLOSING + 1.0)
    sign(world, RIGHT_KERB + 0.5, 24.6)
    sign(world, LEFT_KERB - 0.5, 21.5, corners=3)
    sign(world, RIGHT_KERB + 0.5, 50.0, corners=3)

    red, navy, cream, blue = (176, 44, 40), (52, 62, 78), (208, 206, 196), (64, 104, 148)
    green, silver, ochre = (66, 84, 66), (196, 200, 204), (182, 150, 92)
    for z, body, paint in (
        (23.4, HATCHBACK, red),
        (46.0, SALOON, navy),
        (53.0, MINIVAN, cream),
        (66.0, HATCHBACK, blue),
    ):
        car(world, body, RIGHT_KERB - 1.1, z, paint, towards=False)
    for z, body, paint in (
        (12.6, OFF_ROADER, green),
        (28.2, SALOON, silver),
        (49.0, ESTATE, ochre),
        (55.4, HATCHBACK, cream),
        (72.0, SALOON, red),
    ):
        car(world, body, LEFT_KERB + 1.1, z, paint, towards=True)
    return world


def traffic(time: float) -> World:
    """Everything that moves, some seconds after the first frame."""
    world = World(seed=6)
    red, green, blue, black = (184, 60, 48), (64, 92, 80), (52, 60, 84), (44, 42, 46)
    car(world, SALOON, MIDDLE - 1.7, 46.0 - 9.0 * time, (46, 92, 150), towards=True)
    walker(world, RIGHT_KERB + 1.7, 20.0 + 1.4 * time, time, red, blue, towards=False)
    walker(world, LEFT_KERB - 1.5, 31.0 - 1.3 * time, time + 0.3, green, black, towards=True)
    return world


def main() -> None:
    """Draw the frames and write all files."""
    still = street()
    for frame in range(FRAMES):
        time = frame / FPS
        canvas = Canvas(SPEED * time)
        for part in (*still.parts, *traffic(time).parts):
            canvas.draw(part)
        save(canvas.label_map(), DRIVE / "labels" / f"{frame:05d}.png")
        save(canvas.picture(), DRIVE / "rendered" / f"{frame:05d}.png")


if __name__ == "__main__":
    main()
