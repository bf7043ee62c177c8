"""How near things are in stills that a drive took in a row, about a second apart.

Matched features give the essential matrix of two views (Nister, "An Efficient Solution to the
Five-Point Relative Pose Problem", PAMI 2004, as in OpenCV). A plane sweep (Collins, "A Space-Sweep
Approach to True Multi-Image Matching", CVPR 1996) then finds the nearness of every place with
texture. The unit is one over the way between the views, which they do not say.
"""

from __future__ import annotations

import math
import os
import re
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from typing import Any

import cv2
import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from seg2vid_cli.camera import FOCAL, slopes
from seg2vid_cli.networks.layout import FLAT, OBJECTS, SKY
from seg2vid_cli.training import data
from seg2vid_cli.training.clips import WORK_HW, ZOOMED, draw_part
from seg2vid_cli.training.data import Pair

SHORTEST_GAP_S, LONGEST_GAP_S = 0.5, 1.5  # between two stills
FEATURES = 3000
RATIO = 0.8  # of the distances of the nearest and the second nearest feature, see Lowe
FARTHEST = 1000.0  # of the way between two views; places beyond say nothing of it
LEAST_MATCHES = 15
MOST_TILT = math.radians(8)
STRAIGHT = 0.9  # share of the way that leads ahead; cars do not go sideways

LEAST_LEVEL, MOST_LEVEL, LEVEL_STEP = 0.01, 4.0, 0.05  # nearness, and ratio from one to the next
WINDOW_PX = 7
NOISE = 4.0  # grey levels: what varies less looks plain
LEAST_ALIKE = 0.6  # correlation of two windows
CLEAR = 0.05  # by so much more alike than at any other depth
BESIDE = 4  # levels that are the same depth
LEAST_PARALLAX_PX = 0.5  # by a tenth more or less nearness
LEAST_ALONG = 0.05  # share of its distance: what comes nearer is beside the other camera
MOST_APART = 0.15  # logarithm of nearness, found from either view
LEAST_SURE = 0.01  # share of a still's pixels; fewer teach nothing
# Infinitely far, moving by themselves, or plain: what is found on a road wavers by a fifth.
UNKNOWN = (SKY, *range(OBJECTS.start, OBJECTS.stop), *FLAT)


@dataclass(frozen=True, kw_only=True)
class Match:
    """Two views of a street.

    Args:
        stills: Windows of both at twice `WORK_HW`.
        seconds: Between them.
        rotation: `(3, 3)`, takes directions of the first view to those of the second.
        way: `(3,)`, of length 1; with `rotation` it takes places right, down and ahead of the first
            camera to where they are from the second.
        places: `(N, 2)`, matched features in the first window, right and down in pixels.
        away: `(N,)`, how far ahead they are, in lengths of the way; below 0 or nan where wrong.
    """

    stills: tuple[Pair, Pair]
    seconds: float
    rotation: NDArray[np.float64]
    way: NDArray[np.float64]
    places: NDArray[np.float64]
    away: NDArray[np.float64]

    @property
    def turn(self) -> float:
        """By how much the car turned to the right, in radians."""
        # Places turn the other way.
        return -math.atan2(self.rotation[0, 2], self.rotation[2, 2])


@dataclass(frozen=True, kw_only=True)
class Depth:
    """What is known of the depth of a still, at `WORK_HW`.

    Args:
        picture: uint8 `(H, W, 3)`.
        train_ids: uint8 `(H, W)`.
        nearness: float32 `(H, W)`, above 0, in a unit of its own.
        sure: bool `(H, W)`, where that is known.
        focus: float32 `(2,)`, slopes right and down of the direction that the car drives in.
    """

    picture: NDArray[np.uint8]
    train_ids: NDArray[np.uint8]
    nearness: NDArray[np.float32]
    sure: NDArray[np.bool_]
    focus: NDArray[np.float32]


@dataclass(frozen=True, kw_only=True)
class StillBatch(data.Tensors):
    """Some stills.

    Args:
        pictures: `(B, 3, H, W)` in [0, 1].
        planes: `(B, 20, H, W)` label planes.
        nearness: `(B, 1, H/2, W/2)`, above 0, each in a unit of its own.
        sure: `(B, 1, H/2, W/2)`, 1 where that is known.
        focus: `(B, 2)`, slopes right and down of the direction that the cars drive in.
    """

    pictures: Tensor
    planes: Tensor
    nearness: Tensor
    sure: Tensor
    focus: Tensor


@dataclass(frozen=True, kw_only=True)
class _View:
    """A still at twice `WORK_HW`, and its features: where they are, right and down, `(N, 2)`."""

    pair: Pair
    places: NDArray[np.float64]
    features: NDArray[np.float32] | None


def neighbours(pairs: Sequence[Pair], *, fps: float) -> list[tuple[Pair, Pair, float]]:
    """Stills that a drive took 0.5 to 1.5 s apart, in the order of their names.

    Args:
        pairs: Pictures whose names have numbers of frames in them: the longest one, the last of
            several that are as long.
        fps: Rate of these frames.

    Returns:
        Two stills and the seconds between them, as often as there are.
    """
    found: list[tuple[Pair, Pair, float]] = []
    before: tuple[str, int, Pair] | None = None
    for drive, frame, pair in sorted(
        ((*place_in_drive(pair.name), pair) for pair in pairs), key=lambda row: row[:2]
    ):
        if before is not None and before[0] == drive:
            seconds = (frame - before[1]) / fps
            if seconds < SHORTEST_GAP_S:
                continue  # too short a way to measure anything
            if seconds <= LONGEST_GAP_S:
                found.append((before[2], pair, seconds))
        before = drive, frame, pair
    return found


def place_in_drive(name: str) -> tuple[str, int]:
    """A drive and a frame: `0006R0_f00930` to `0006R0_f` and 930; -1 where there is no number."""
    numbers = list(re.finditer(r"\d+", name))
    if not numbers:
        return name, -1
    number = max(numbers, key=lambda match: (len(match[0]), match.start()))
    return name[: number.start()], int(number[0])


def match_stills(stills: Sequence[tuple[Pair, Pair, float]]) -> list[Match]:
    """Find out from where labelled pictures and the next ones of their drives were taken.

    Args:
        stills: From `neighbours`.

    Returns:
        What could be matched, in their order.
    """
    sift = cv2.SIFT_create(FEATURES)

    def look(pair: Pair) -> _View:
        window = data.wide_window(pair, (2 * WORK_HW[0], 2 * WORK_HW[1]))
        points, features = sift.detectAndCompute(_grey(window.picture), None)
        places = np.array([point.pt for point in points], np.float64).reshape(-1, 2)
        return _View(pair=window, places=places, features=features)

    found, last = [], None
    for pair, following, seconds in stills:
        # Usually the one that followed before.
        view = last[1] if last is not None and last[0] is pair else look(pair)
        last = following, look(following)
        found.append(_match(view, last[1], seconds))
    return [match for match in found if match is not None]


def measure_depth(matches: Sequence[Match]) -> list[Depth]:
    """How near both views of every match are, where enough can be known."""
    ahead = [match for match in matches if min(_ways(match)[:, 2]) > STRAIGHT]
    with ThreadPoolExecutor(os.cpu_count()) as workers:  # OpenCV lets go of the lock
        pairs = list(workers.map(_measure_both, ahead))
    return [depth for pair in pairs for depth in pair if depth.sure.mean() > LEAST_SURE]


def lens(size_hw: tuple[int, int]) -> NDArray[np.float64]:
    """Camera matrix of pictures of a size, `(3, 3)`."""
    height, width = size_hw
    focal = FOCAL * width / 2
    return np.array([[focal, 0, width / 2], [0, focal, height / 2], [0, 0, 1]])


class StereoStills:
    """Stills with depth to learn from.

    Args:
        depths: From `measure_depth`.
    """

    def __init__(self, depths: Sequence[Depth]) -> None:
        self.depths = depths

    def batch(self, rng: np.random.Generator, size: int) -> StillBatch:
        """Draw stills at random: zoomed, flipped, recoloured, with look-alike classes exchanged."""
        drawn = rng.integers(len(self.depths), size=size)
        return collate_stills([_vary(self.depths[int(row)], rng) for row in drawn])


def collate_stills(depths: Sequence[Depth]) -> StillBatch:
    """Stack stills, their depth at half size."""
    halves = [_halve(depth) for depth in depths]
    nearness, sure = (torch.from_numpy(np.stack(x))[:, None] for x in zip(*halves, strict=True))
    return StillBatch(
        pictures=data.to_tensor([depth.picture for depth in depths]),
        planes=data.to_planes([depth.train_ids for depth in depths]),
        nearness=nearness,
        sure=sure,
        focus=torch.from_numpy(np.stack([depth.focus for depth in depths])),
    )


def _grey(picture: NDArray[np.uint8]) -> NDArray[np.uint8]:
    return np.asarray(cv2.cvtColor(picture, cv2.COLOR_RGB2GRAY), np.uint8)


def _match(view: _View, following: _View, seconds: float) -> Match | None:
    """From where two views were taken; None where they do not match."""
    if any(v.features is None or len(v.features) < LEAST_MATCHES for v in (view, following)):
        return None
    matches = [
        best
        for best, second in cv2.BFMatcher().knnMatch(view.features, following.features, k=2)
        if best.distance < RATIO * second.distance
    ]
    if len(matches) < LEAST_MATCHES:
        return None
    here = view.places[[match.queryIdx for match in matches]]
    there = following.places[[match.trainIdx for match in matches]]
    camera = lens(view.pair.train_ids.shape)
    cv2.setRNGSeed(0)
    essential, inliers = cv2.findEssentialMat(here, there, camera, cv2.RANSAC, 0.999, 1.0)
    if essential is None or essential.shape != (3, 3):
        return None
    count, rotation, way, inliers, points = cv2.recoverPose(
        essential, here, there, camera, distanceThresh=FARTHEST, mask=inliers
    )
    tilt = math.asin(max(-1.0, min(1.0, float(rotation[1, 2]))))
    if count < LEAST_MATCHES or abs(tilt) > MOST_TILT:
        return None
    good = inliers[:, 0] > 0
    return Match(
        stills=(view.pair, following.pair),
        seconds=seconds,
        rotation=rotation,
        way=way[:, 0],
        places=here[good],
        away=(points[2] / points[3])[good],
    )


def _ways(match: Match) -> NDArray[np.float64]:
    """The way from the first view to the second as either sees it: right, down and ahead."""
    return np.stack([-match.rotation.T @ match.way, -match.way])


def _measure_both(match: Match) -> list[Depth]:
    """Depth of both views of a match, where one agrees with the other."""
    rows = []
    for still in match.stills:
        size = WORK_HW[::-1]
        picture = np.asarray(cv2.resize(still.picture, size, interpolation=cv2.INTER_AREA))
        rows.append((picture, still.train_ids[::2, ::2], _grey(picture).astype(np.float32)))
    chords = _ways(match)
    # What takes places of either view to the other one's: directions, and one over the distance.
    rays = _rays(match.rotation), _rays(match.rotation.T)
    ways = -chords[1], chords[0]
    found = [_sweep(rows[i][2], rows[1 - i][2], rays[i], ways[i]) for i in (0, 1)]
    half = match.turn / 2
    out = []
    for i, chord in enumerate(chords):
        # On an arc the way leads half as far to the side as the car turns.
        focus = chord[:2] / chord[2] + (-half, half)[i] * np.array([1, 0])
        nearness, sure = found[i]
        x, y, along = _seen_at(nearness, rays[i], ways[i])
        other = cv2.remap(found[1 - i][0], x, y, cv2.INTER_NEAREST, borderValue=LEAST_LEVEL)
        agree = np.abs(np.log(other * along / nearness)) < MOST_APART
        known = ~np.isin(rows[i][1], UNKNOWN)
        out.append(
            Depth(
                picture=rows[i][0],
                train_ids=rows[i][1],
                nearness=nearness,
                sure=sure & agree & known,
                focus=focus.astype(np.float32),
            )
        )
    return out


def _rays(rotation: NDArray[np.float64]) -> NDArray[np.float64]:
    """Directions of the pixels of a view as one that is turned by `rotation` sees them."""
    across, down = slopes(*WORK_HW).double().numpy()
    out: NDArray[np.float64] = np.stack([across, down, np.ones_like(across)], -1) @ rotation.T
    return out


def _seen_at(
    nearness: NDArray[np.float32] | float, rays: NDArray[np.float64], way: NDArray[np.float64]
) -> tuple[NDArray[np.float32], NDArray[np.float32], NDArray[np.float32]]:
    """Where another view sees every pixel of one that is as near as that.

    Args:
        nearness: `(H, W)`, or of all pixels.
        rays: `(H, W, 3)`, from `_rays`.
        way: `(3,)`, see `Match`.

    Returns:
        Right and down in pixels, and how far ahead as a share of how far it was, above 0; all
        `(H, W)`.
    """
    camera = lens(WORK_HW)
    there = rays + np.asarray(nearness)[..., None] * way
    along = np.maximum(there[..., 2], LEAST_ALONG)
    u, v = (there[..., k] / along * camera[k, k] + camera[k, 2] - 0.5 for k in (0, 1))
    return u.astype(np.float32), v.astype(np.float32), along.astype(np.float32)


def _sweep(
    here: NDArray[np.float32],
    there: NDArray[np.float32],
    rays: NDArray[np.float64],
    way: NDArray[np.float64],
) -> tuple[NDArray[np.float32], NDArray[np.bool_]]:
    """How near a grey view is, by how alike another one is at that depth; see `_seen_at`.

    Returns:
        Nearness in one over the length of the way, and where it is sure; `(H, W)`.
    """
    levels = np.exp(np.arange(math.log(LEAST_LEVEL), math.log(MOST_LEVEL), LEVEL_STEP))
    if way[2] < 0:  # places come nearer, and levels are how much larger they get
        levels = levels / (1 + levels)
    height, width = here.shape
    alike = np.empty((len(levels), height, width), np.float32)
    for i, level in enumerate(levels):
        x, y, along = _seen_at(float(level), rays, way)
        inside = (along > LEAST_ALONG) & (x >= 0) & (x <= width - 1) & (y >= 0) & (y <= height - 1)
        seen = cv2.remap(there, x, y, cv2.INTER_LINEAR, borderMode=cv2.BORDER_REPLICATE)
        alike[i] = _correlation(here, seen, inside.astype(np.float32))
    best, most = alike.argmax(0), alike.max(0)
    apart = np.abs(np.arange(len(levels))[:, None, None] - best) > BESIDE
    others = np.where(apart, alike, -1).max(0)
    nearness = levels[best].astype(np.float32)
    ends = [_seen_at(nearness * share, rays, way)[:2] for share in (1 / 1.1, 1.1)]
    parallax = np.hypot(ends[1][0] - ends[0][0], ends[1][1] - ends[0][1])
    within = (best > 0) & (best < len(levels) - 1)
    clear = (most > LEAST_ALIKE) & (most - others > CLEAR) & (parallax > LEAST_PARALLAX_PX)
    return nearness, within & clear


def _correlation(
    a: NDArray[np.float32], b: NDArray[np.float32], inside: NDArray[np.float32]
) -> NDArray[np.float32]:
    """Normalised correlation of windows around every pixel; -1 where they reach outside."""

    def mean(values: NDArray[np.float32]) -> NDArray[np.float32]:
        return np.asarray(cv2.boxFilter(values, -1, (WINDOW_PX, WINDOW_PX)), np.float32)

    mean_a, mean_b = mean(a), mean(b)
    both = mean(a * b) - mean_a * mean_b
    spread = np.maximum(mean(a * a) - mean_a**2, 0) * np.maximum(mean(b * b) - mean_b**2, 0)
    out = both / np.sqrt(spread + NOISE**4)
    return np.where(mean(inside) > 0.99, out, -1).astype(np.float32)


def _vary(depth: Depth, rng: np.random.Generator) -> Depth:
    """Cut out a part and enlarge it, recolour, exchange look-alike classes, and mirror."""
    height, width = depth.train_ids.shape
    layers: list[NDArray[Any]] = [
        depth.picture,
        depth.train_ids,
        depth.nearness,
        depth.sure.astype(np.uint8),
    ]
    focus: NDArray[Any] = depth.focus
    if rng.random() < ZOOMED:
        y, x, part_h, part_w = draw_part((height, width), rng)
        part = np.s_[y : y + part_h, x : x + part_w]
        how = (cv2.INTER_LINEAR, *[cv2.INTER_NEAREST] * 3)
        layers = [
            cv2.resize(np.ascontiguousarray(layer[part]), (width, height), interpolation=kind)
            for layer, kind in zip(layers, how, strict=True)
        ]
        centre = np.array([x + part_w / 2 - width / 2, y + part_h / 2 - height / 2])
        focus = (focus - centre / lens((height, width))[0, 0]) * [width / part_w, height / part_h]
    layers[0] = data.jitter_colours(layers[0], rng, 0.6)
    layers[1] = data.diversify_classes(layers[1], rng)
    if rng.random() < 0.5:
        layers, focus = [layer[:, ::-1] for layer in layers], focus * [-1, 1]
    picture, train_ids, nearness, sure = layers
    return Depth(
        picture=picture,
        train_ids=train_ids,
        nearness=nearness,
        sure=sure > 0,
        focus=np.asarray(focus, np.float32),
    )


def _halve(depth: Depth) -> tuple[NDArray[np.float32], NDArray[np.float32]]:
    """Nearness and where it is sure, of cells of two by two pixels."""
    height, width = depth.sure.shape

    def cells(values: NDArray[Any]) -> NDArray[np.float32]:
        rows = values.reshape(height // 2, 2, width // 2, 2)
        return np.asarray(rows.mean((1, 3)), np.float32)

    share = cells(depth.sure)
    logarithm = cells(np.where(depth.sure, np.log(depth.nearness), 0)) / np.maximum(share, 0.25)
    return np.exp(logarithm), (share >= 0.5).astype(np.float32)
