"""Edges that a scene might have, drawn from its label map alone.

A generator that is guided by edges paints what a label map does not say, such as windows, leaves
and lane marks, where edges ask for it. Where nobody gives it any, these do: houses with windows
along both sides of the street, in perspective, and seen from the front where a street ends or
another one crosses; leaves; lane marks; panes, lights and wheels of vehicles; the outlines of
things. They are a drawing by rules, with nothing learnt in it.

All lengths are in shares of the frame, so that a sketch is the same at any size, its grain apart.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from itertools import pairwise

import numpy as np
from numpy.typing import NDArray

Bools = NDArray[np.bool_]
Floats = NDArray[np.float64]

ROAD, SIDEWALK, BUILDING, WALL, FENCE = 0, 1, 2, 3, 4
HOUSES = (BUILDING, WALL)
PLANTS = (8, 9)
VEHICLES = (CAR, TRUCK, BUS, TRAIN) = (13, 14, 15, 16)
LONGEST_CAR = 3.2  # times its height, from the side
LONG = 1.6  # times its height
# Poles, traffic lights and signs, people and two-wheelers: the share of their pixels on an edge.
GRAIN: Mapping[int, float] = {5: 0.1, 6: 0.15, 7: 0.12, 11: 0.05, 12: 0.08, 17: 0.25, 18: 0.3}
OUTLINES = 0.75  # of the border between two classes
HORIZON, CENTRE = 0.45, 0.5  # of height and width, where there is no road to tell
LOWEST_HORIZON = 0.62
MOST_HOUSES = 60  # on either side
FINEST_BARS = 22 / 256  # of the height; windows closer together have none
FINEST_HOUSE = 4 / 256  # of the height; narrower houses are drawn as grain
FAR_BAY = 7 / 256  # of the height; houses have fewer bays where they would be narrower
EYE_HEIGHT = 0.33  # of the camera above the ground, in distances from the walls beside it
GROUND = (ROAD, SIDEWALK, 9)  # what a wall can be seen to stand on
ACROSS = 2.0  # a wall that stands so many times nearer than one beside the street faces the camera
LOWEST_FOOT = 10 / 256  # of the height, below the vanishing point, for that to be told
NARROWEST_FRONT = 16 / 256  # of the height
REFERENCE_HEIGHT = 256


def sketch_edges(train_ids: NDArray[np.uint8], rng: np.random.Generator) -> Bools:
    """Draw edges into a label map.

    Args:
        train_ids: uint8 `(H, W)`, 0-18 and 19 = unlabelled.
        rng: Decides the sizes of houses and windows, and all grain.

    Returns:
        bool `(H, W)`, as from `seg2vid_cli.edges.Guide.edges`.
    """
    shape = train_ids.shape
    of_houses, of_lane, of_leaves, of_grain = sources(rng)
    grain = of_grain.random(shape)
    centre = find_vanishing_point(train_ids)
    edges = np.zeros(shape, np.bool_)
    houses = np.isin(train_ids, HOUSES)
    if houses.any():
        walls = find_walls(train_ids, centre)
        edges |= houses & (draw_houses(shape, centre, walls, of_houses, grain) | (grain < 0.015))
    unit = shape[0] / REFERENCE_HEIGHT
    leaves = 0.6 * smooth_noise(shape, 18 * unit, of_leaves)
    leaves += 0.4 * smooth_noise(shape, 7 * unit, of_leaves)
    edges |= np.isin(train_ids, PLANTS) & (grain < np.clip(1.9 * (leaves - 0.28), 0.05, 0.8))
    bars = np.arange(shape[1]) // max(2, round(3 * unit)) % 2 == 0
    bars = outline(np.broadcast_to(bars, shape))
    edges |= (train_ids == FENCE) & ((bars & (grain < 0.8)) | (grain < 0.1))
    edges |= (train_ids == ROAD) & draw_lane(shape, centre, of_lane)
    edges |= (train_ids == SIDEWALK) & (grain < 0.01)
    for train_id, share in GRAIN.items():
        edges |= (train_ids == train_id) & (grain < share)
    for train_id in VEHICLES:
        vehicles = train_ids == train_id
        if vehicles.any():
            rows = draw_vehicles(vehicles, longest=LONGEST_CAR if train_id == CAR else np.inf)
            edges |= vehicles & (rows | (grain < 0.03))
    return edges | (outline(train_ids) & (of_grain.random(shape) < OUTLINES))


def sources(rng: np.random.Generator) -> list[np.random.Generator]:
    """For houses, lane marks, leaves and grain; only the last is asked for more by larger maps."""
    return [np.random.default_rng(int(seed)) for seed in rng.integers(2**63, size=4)]


def house_starts(rng: np.random.Generator) -> Floats:
    """Draw at which depths houses begin to the left and right of a street, `(2, N)`."""
    lengths = rng.uniform(0.25, 0.7, (2, MOST_HOUSES))
    starts = np.pad(np.cumsum(lengths, axis=1), ((0, 0), (1, 0)))
    drawn: Floats = starts + rng.uniform(0, 0.2, (2, 1))
    return drawn


@dataclass(frozen=True, kw_only=True)
class Walls:
    """The wall of houses in every column of a map: beside the street, or facing the camera.

    Lengths are in distances of the camera from the walls beside it: such a wall is as deep as it
    is far from the vanishing point in half widths of the frame, turned over.

    Args:
        right: bool `(W,)`, which side of the vanishing point it is on.
        faces: bool `(W,)`, whether it faces the camera.
        depth: `(W,)`.
        along: `(W,)`, place along the wall: its depth beside the street; on from there where it
            turns to face the camera.
        px_along: `(W,)`, pixels to a unit along the wall.
    """

    right: Bools
    faces: Bools
    depth: Floats
    along: Floats
    px_along: Floats


def find_walls(train_ids: NDArray[np.uint8], centre: tuple[float, float]) -> Walls:
    """Tell walls beside the street from such as face the camera, by what they stand on.

    Where the foot of a wall is seen, it says how deep the wall is; one that stands much nearer than
    a wall beside the street would in that column faces the camera. Behind what hides its foot, a
    wall goes on as it is on both sides.

    Args:
        train_ids: uint8 `(H, W)`.
        centre: Vanishing point, `(y, x)` in pixels.
    """
    height, width = train_ids.shape
    offset = np.arange(width, dtype=np.float64) - centre[1]
    away = np.maximum(np.abs(offset), 1.0)
    depth = width / 2 / away
    along, px_along = depth.copy(), away**2 / (width / 2)
    houses = np.isin(train_ids, HOUSES)
    foot = np.where(houses.any(0), height - 1 - houses[::-1].argmax(0), -1)
    below = np.minimum(foot + 1, height - 1)
    seen = (foot == height - 1) | np.isin(train_ids[below, np.arange(width)], GROUND)
    seen &= foot >= 0
    low = foot + 1 - centre[0]
    faces = seen & (low > np.maximum(EYE_HEIGHT * away * ACROSS, LOWEST_FOOT * height))
    if seen.any():
        known = np.flatnonzero(seen)
        told = faces[known].astype(float)
        faces = np.interp(np.arange(width), known, told, left=0, right=0) == 1
    begins = np.flatnonzero(np.diff(faces, prepend=False, append=False)).reshape(-1, 2)
    for start, end in begins:
        front = np.s_[start:end]
        if end - start < NARROWEST_FRONT * height:
            faces[front] = False
            continue
        depth[front] = EYE_HEIGHT * width / 2 / np.median(low[front][seen[front]])
        px_along[front] = width / 2 / depth[front]
        along[front] = depth[front] + (np.arange(start, end) - start) / px_along[front]
    return Walls(right=offset > 0, faces=faces, depth=depth, along=along, px_along=px_along)


def house_numbers(walls: Walls, starts: Floats) -> NDArray[np.intp]:
    """Number of the house in every column, from the camera on, `(W,)`.

    Args:
        walls: Where they stand.
        starts: `(2, N)`, from `house_starts`.
    """
    both = np.stack([np.searchsorted(row, walls.along) for row in starts])
    numbers: NDArray[np.intp] = np.where(walls.right, both[1], both[0])
    return np.clip(numbers, 0, MOST_HOUSES)


def find_vanishing_point(train_ids: NDArray[np.uint8]) -> tuple[float, float]:
    """Where the street goes to: the far end of the road, `(y, x)` in pixels."""
    height, width = train_ids.shape
    road = train_ids == ROAD
    rows = np.flatnonzero(road.sum(1) > 0.01 * width)
    if road.mean() < 0.01 or not len(rows):
        return HORIZON * height, CENTRE * width
    top = int(rows[0])
    columns = np.nonzero(road[top : top + max(2, height // 24)])[1]
    return min(top, LOWEST_HORIZON * height) - 0.01 * height, float(np.median(columns))


def draw_houses(
    shape: tuple[int, ...],
    centre: tuple[float, float],
    walls: Walls,
    rng: np.random.Generator,
    grain: Floats,
) -> Bools:
    """Two rows of houses along the street, seen in perspective from its middle.

    The height above the eye is the offset upwards from the vanishing point times the depth.

    Args:
        shape: Height and width.
        centre: Vanishing point.
        walls: Where they stand.
        rng: Decides lengths, storeys and windows.
        grain: `(H, W)` in [0, 1], for what is too far away to be drawn.
    """
    height, width = shape
    edges = np.zeros((height, width), np.bool_)
    above = -(np.arange(height)[:, None] - centre[0]) * walls.depth / (width / 2)
    both = house_starts(rng)
    house = house_numbers(walls, both)
    borders = np.zeros(width, np.bool_)
    borders[1:] = house[1:] != house[:-1]
    for right, starts in zip((False, True), both, strict=True):
        front = np.concatenate([[0.0], starts])[house]
        length = np.concatenate([[1.0], np.diff(starts), [0.5]])[house]

        def each(low: float, high: float) -> Floats:
            drawn: Floats = rng.uniform(low, high, MOST_HOUSES + 1)[house]
            return drawn

        bays, storey = rng.integers(2, 4, MOST_HOUSES + 1)[house], each(0.22, 0.36)
        house_px = length * walls.px_along
        bays = np.clip(house_px / (FAR_BAY * height), 1, bays).astype(int)
        across = np.mod((walls.along - front) / np.maximum(length, 0.05) * bays, 1)
        up = np.mod(above / storey + each(0, 1), 1)
        left, right_end, bottom, top = (
            each(0.22, 0.34),
            each(0.62, 0.78),
            each(0.15, 0.28),
            each(0.66, 0.82),
        )
        bare = each(0, 1) < 0.15
        window = (across > left) & (across < right_end) & (up > bottom) & (up < top) & ~bare
        bars = window & (
            (np.abs(across - (left + right_end) / 2) < 0.03)
            | (np.abs(up - (bottom + top) / 2) < 0.03)
        )
        shop = (across > 0.12) & (across < 0.88) & (above > -EYE_HEIGHT) & (above < -0.02) & ~bare
        drawn = outline(np.where(above < 0.02, shop, window))
        drawn |= outline(bars) & (house_px / bays > FINEST_BARS * height) & (above > 0.02)
        drawn |= outline(np.mod(above / storey, 1) < 0.5) & (each(0, 1) < 0.25)
        drawn |= borders
        near = house_px > FINEST_HOUSE * height
        edges |= (walls.right == right) & np.where(near, drawn, grain < 0.3)
    return edges


def draw_lane(
    shape: tuple[int, ...], centre: tuple[float, float], rng: np.random.Generator
) -> Bools:
    """A dashed line on the ground, along the street.

    Args:
        shape: Height and width.
        centre: Vanishing point.
        rng: Decides where it runs and how long the dashes are.
    """
    y, x = (axis.astype(np.float64) for axis in np.mgrid[: shape[0], : shape[1]])
    below = np.maximum(y - centre[0], 1.0)
    aside, depth = (x - centre[1]) / below, shape[0] / below
    place, period = rng.uniform(-0.4, 0.4), rng.uniform(0.5, 1.0)
    dashes = (np.abs(aside - place) < 0.035) & (np.mod(depth, period) < period / 2)
    edges: Bools = outline(dashes) & (below > 6 / REFERENCE_HEIGHT * shape[0])
    return edges


def draw_vehicles(mask: Bools, *, longest: float = np.inf) -> Bools:
    """Draw a rear view into the box around every connected part of a mask, or a side with panes.

    Args:
        mask: bool `(H, W)`.
        longest: A part that is more times as wide as high is taken for a row of vehicles. Without a
            limit, one that is `LONG` is a bus or the like, seen from the side.
    """
    edges = np.zeros(mask.shape, np.bool_)
    step = max(1, round(4 * mask.shape[0] / REFERENCE_HEIGHT))
    parts = connected_parts(mask[step // 2 :: step, step // 2 :: step])
    for number in np.unique(parts[parts > 0]):
        rows, columns = np.nonzero(parts == number)
        top, left = rows.min() * step, columns.min() * step
        bottom, right = (int(n.max() + 1) * step for n in (rows, columns))
        bottom, right = min(bottom, mask.shape[0]), min(right, mask.shape[1])
        wide, high = right - left, bottom - top
        count = 1 if wide <= longest * high else round(1.4 * wide / (longest * high))
        for start, end in pairwise(np.linspace(left, right, count + 1).astype(int)):
            place = np.s_[top:bottom, start:end]
            long = longest == np.inf and wide > LONG * high
            edges[place] |= (_side_view if long else _rear_view)(edges[place].shape)
    return edges


def _rear_view(shape: tuple[int, ...]) -> Bools:
    y, x = (axis.astype(np.float64) for axis in np.mgrid[: shape[0], : shape[1]])
    y, x = (y + 0.5) / shape[0], (x + 0.5) / shape[1]
    pane = (y > 0.12) & (y < 0.42)
    pane &= (x > 0.16 + 0.25 * (0.42 - y)) & (x < 0.84 - 0.25 * (0.42 - y))
    edges = outline(pane)
    for middle in (0.2, 0.8):
        edges |= outline(((x - middle) / 0.1) ** 2 + ((y - 0.88) / 0.16) ** 2 < 1)  # wheel
        edges |= outline(((x - middle) / 0.09) ** 2 + ((y - 0.58) / 0.06) ** 2 < 1)  # light
    edges |= outline((x > 0.38) & (x < 0.62) & (y > 0.66) & (y < 0.76))  # number plate
    edges |= outline(y < 0.5) & (x > 0.05) & (x < 0.95)
    edges |= outline(y < 0.82) & (x > 0.1) & (x < 0.9)
    return edges


def _side_view(shape: tuple[int, ...]) -> Bools:
    y, x = (axis.astype(np.float64) for axis in np.mgrid[: shape[0], : shape[1]])
    y, x = (y + 0.5) / shape[0], (x + 0.5) / shape[0]  # both in heights
    long = shape[1] / shape[0]
    ends = (x > 0.1) & (x < long - 0.1)
    edges = outline((y > 0.18) & (y < 0.52) & (np.mod(x, 0.55) > 0.06) & ends)
    for middle in (0.2 * long, 0.75 * long):
        edges |= outline(((x - middle) / 0.13) ** 2 + ((y - 0.88) / 0.13) ** 2 < 1)  # wheel
    edges |= outline(y < 0.66) & ends
    return edges


def outline(areas: Bools | NDArray[np.uint8]) -> Bools:
    """Pixels that differ from the one to the left or above: bool or ids `(H, W)` to bool."""
    edges = np.zeros(areas.shape, np.bool_)
    edges[:, 1:] |= areas[:, 1:] != areas[:, :-1]
    edges[1:] |= areas[1:] != areas[:-1]
    return edges


def smooth_noise(shape: tuple[int, ...], cell_px: float, rng: np.random.Generator) -> Floats:
    """Noise in [0, 1], bilinear between the corners of square cells, `(H, W)`."""
    y, x = (np.arange(side) / cell_px for side in shape)
    top, left = y.astype(int), x.astype(int)
    corners = rng.random((top[-1] + 2, left[-1] + 2))
    down, right = (y - top)[:, None], (x - left)[None]
    upper, lower = (
        corners[row][:, left] * (1 - right) + corners[row][:, left + 1] * right
        for row in (top, top + 1)
    )
    noise: Floats = upper * (1 - down) + lower * down
    return noise


def connected_parts(mask: Bools) -> NDArray[np.intp]:
    """Number every part of a mask that hangs together by its sides; 0 outside, `(H, W)`."""
    parts = np.where(mask, np.arange(1, mask.size + 1).reshape(mask.shape), 0)
    while True:
        grown = _largest_in_runs(_largest_in_runs(parts, mask).T, mask.T).T
        if (grown == parts).all():
            return parts
        parts = grown


def _largest_in_runs(parts: NDArray[np.intp], mask: Bools) -> NDArray[np.intp]:
    """Give every run of a mask along a row the largest number in it."""
    begins = np.ones(mask.shape, np.bool_)
    begins[:, 1:] = mask[:, 1:] != mask[:, :-1]
    starts = np.flatnonzero(begins)
    largest = np.maximum.reduceat(parts.ravel(), starts)
    lengths = np.diff(starts, append=mask.size)
    spread: NDArray[np.intp] = np.repeat(largest, lengths).reshape(mask.shape)
    return spread
