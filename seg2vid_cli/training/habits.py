"""How fast cars drive in such a place, and how they turn: from clips, and from stills in a row.

A clip of a minute shows few bends. Stills that a drive took one second apart tell as much of its
way: their features are matched, and give the essential matrix of the two views (Nister, "An
Efficient Solution to the Five-Point Relative Pose Problem", PAMI 2004, as in OpenCV); how far the
car has come is in what is triangulated, next to the depth that the network sees there.
"""

from __future__ import annotations

import math
import re
from collections.abc import Sequence
from dataclasses import dataclass

import cv2
import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor
from torch.nn import functional as F

from seg2vid_cli.camera import FOCAL
from seg2vid_cli.networks.ego_flow import (
    MOST_BEND,
    TURN_UNIT,
    USUAL_PACE,
    EgoFlow,
    class_shares,
    gain,
    mirror,
)
from seg2vid_cli.training.clips import FPS, WORK_HW
from seg2vid_cli.training.data import Pair, diversify_classes, to_planes, to_tensor, wide_window

SHORTEST_GAP_S, LONGEST_GAP_S = 0.5, 1.5  # between two stills
FEATURES = 3000
RATIO = 0.8  # of the distances of the nearest and the second nearest feature, see Lowe
FARTHEST = 1000.0  # of the way between two views; places beyond say nothing of it
LEAST_MATCHES = 15
LEAST_PLACES = 6  # whose depth is compared
COMPARED = (0.01, 0.5)  # nearness
MOST_TURN = math.radians(40)  # per second; what is found to be faster is a wrong match
MOST_TILT = math.radians(8)
STANDS = 0.05  # camera heights per frame: slower is no drive
FASTEST = 3.0
LOOKS = 4  # of each label map, with look-alike classes exchanged
BLOCKS = 8  # neighbours look alike, so whole stretches are held out
RIDGES = (1.0, 3.0, 10.0, 30.0, 100.0, 300.0, 1000.0)


@dataclass(frozen=True, kw_only=True)
class Observed:
    """How a car drove on from somewhere.

    Args:
        train_ids: uint8 `(H, W)`, at `WORK_HW`'s aspect: what was ahead.
        speed: Camera heights per frame at 15 Hz.
        turn: To the right, in radians per frame.
    """

    train_ids: NDArray[np.uint8]
    speed: float
    turn: float


@dataclass(frozen=True, kw_only=True)
class Habits:
    """What `learn_habits` found; the fields are buffers of an `EgoFlow`.

    Args:
        habit_weights: `(2, F)`, of the pace and the bend.
        habit_bias: `(2,)`.
        speeds: `(K,)`.
        turns: `(K,)`.
    """

    habit_weights: Tensor
    habit_bias: Tensor
    speeds: Tensor
    turns: Tensor


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
        ((*_place(pair.name), pair) for pair in pairs), key=lambda row: row[:2]
    ):
        if before is not None and before[0] == drive:
            seconds = (frame - before[1]) / fps
            if seconds < SHORTEST_GAP_S:
                continue  # too short a way to measure anything
            if seconds <= LONGEST_GAP_S:
                found.append((before[2], pair, seconds))
        before = drive, frame, pair
    return found


def between_stills(stills: Sequence[tuple[Pair, Pair, float]], network: EgoFlow) -> list[Observed]:
    """Compare labelled pictures with the next ones of their drives.

    Args:
        stills: From `neighbours`.
        network: Says how near places are.

    Returns:
        What could be matched, in their order.
    """
    sift = cv2.SIFT_create(FEATURES)

    def look(pair: Pair) -> _View:
        window = wide_window(pair, (2 * WORK_HW[0], 2 * WORK_HW[1]))
        grey = cv2.cvtColor(window.picture, cv2.COLOR_RGB2GRAY)
        points, features = sift.detectAndCompute(grey, None)
        places = np.array([point.pt for point in points], np.float64).reshape(-1, 2)
        return _View(pair=window, places=places, features=features)

    found, last = [], None
    for pair, following, seconds in stills:
        # Usually the one that followed before.
        view = last[1] if last is not None and last[0] is pair else look(pair)
        last = following, look(following)
        found.append(_compare(view, last[1], seconds, network))
    return [observed for observed in found if observed is not None]


def _place(name: str) -> tuple[str, int]:
    """A drive and a frame: `0006R0_f00930` to `0006R0_f` and 930; -1 where there is no number."""
    numbers = list(re.finditer(r"\d+", name))
    if not numbers:
        return name, -1
    number = max(numbers, key=lambda match: (len(match[0]), match.start()))
    return name[: number.start()], int(number[0])


def is_drive(speed: float, turn: float) -> bool:
    """Whether a car may have gone so fast, and turned so, per frame at 15 Hz."""
    return STANDS < speed < FASTEST and abs(turn) * FPS <= MOST_TURN


def _compare(view: _View, following: _View, seconds: float, network: EgoFlow) -> Observed | None:
    """How a car came from one view to the next; None where they do not match."""
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
    height, width = view.pair.train_ids.shape
    focal = FOCAL * width / 2
    lens = np.array([[focal, 0, width / 2], [0, focal, height / 2], [0, 0, 1]])
    cv2.setRNGSeed(0)
    essential, inliers = cv2.findEssentialMat(here, there, lens, cv2.RANSAC, 0.999, 1.0)
    if essential is None or essential.shape != (3, 3):
        return None
    # It takes places of the first view to the next one's: where the car turns right, to the left.
    count, rotation, _, inliers, points = cv2.recoverPose(
        essential, here, there, lens, distanceThresh=FARTHEST, mask=inliers
    )
    turn = -math.atan2(rotation[0, 2], rotation[2, 2])
    tilt = math.asin(max(-1.0, min(1.0, float(rotation[1, 2]))))
    if count < LEAST_MATCHES or abs(tilt) > MOST_TILT:
        return None
    # Distances are in lengths of the way, and the network's in camera heights.
    away = points[2] / points[3]
    near = _nearness(view.pair, network)[tuple((here.T[::-1] / 2).astype(int))]
    good = (inliers[:, 0] > 0) & (away > 0) & (near > COMPARED[0]) & (near < COMPARED[1])
    if good.sum() < LEAST_PLACES:
        return None
    frames = seconds * FPS
    speed, turn = float(np.median(1 / (near[good] * away[good]))) / frames, turn / frames
    if not is_drive(speed, turn):
        return None
    return Observed(train_ids=view.pair.train_ids, speed=speed, turn=turn)


@torch.no_grad()
def _nearness(pair: Pair, network: EgoFlow) -> NDArray[np.float32]:
    device = network.speeds.device
    small = F.avg_pool2d(to_tensor([pair.picture]), 2), to_planes([pair.train_ids[::2, ::2]])
    nearness = network.read(*(x.to(device) for x in small)).nearness
    out: NDArray[np.float32] = nearness[0, 0].cpu().numpy()
    return out


def learn_habits(observed: Sequence[Observed], places: Tensor) -> Habits:
    """Fit speeds and turns by where classes are in the picture; see `EgoFlow`.

    Linear regressions on the classes' shares in the cells of a grid, by least squares with a
    penalty that predicts best whole stretches that were held out. What is left is how it is missed
    there.

    Args:
        observed: In the order of time.
        places: `(K,)` in [0, 1], which quantiles to return.
    """
    rng = np.random.default_rng(0)
    looks = [[diversify_classes(o.train_ids, rng) for _ in range(LOOKS)] for o in observed]
    shares = torch.stack([class_shares(to_planes(look)).double() for look in looks])
    sided, even = (shares - mirror(shares)) / 2, (shares + mirror(shares)) / 2
    middle = even.mean((0, 1))
    even = even - middle

    speed = torch.tensor([o.speed for o in observed]).double()
    pace = (speed / USUAL_PACE).log()
    usual = pace.mean()
    of_pace, expected = _regress(even, pace - usual)
    faster = pace - usual - expected

    # Who is slow turns less.
    expected = USUAL_PACE * (usual + even.mean(1) @ of_pace).exp()
    turn = torch.tensor([o.turn for o in observed]).double()
    turn = turn / gain(speed[:, None], expected[:, None])[:, 0, 0]
    bend = torch.asinh(turn / TURN_UNIT)
    of_bend, expected = _regress(sided, bend)
    left = bend - expected.clamp(-MOST_BEND, MOST_BEND)
    left = torch.cat([left, -left])  # left and right are alike

    straight = torch.zeros_like(usual)
    quantiles = [torch.quantile(values, places.double()) for values in (faster.exp(), left)]
    return Habits(
        habit_weights=torch.stack([of_pace, of_bend]).float(),
        habit_bias=torch.stack([usual - middle @ of_pace, straight]).float(),
        speeds=quantiles[0].float(),
        turns=quantiles[1].float(),
    )


def _regress(features: Tensor, values: Tensor) -> tuple[Tensor, Tensor]:
    """Weights `(F,)` from features `(N, L, F)` to values `(N,)`, and what the others predict of
    each stretch of them, `(N,)`.
    """
    blocks = torch.arange(len(values)) * min(BLOCKS, len(values)) // len(values)

    def fit(chosen: Tensor, ridge: float) -> Tensor:
        x = features[chosen].flatten(0, 1)
        y = values[chosen].repeat_interleave(features.shape[1])
        penalty = ridge * features.shape[1] * torch.eye(x.shape[1], dtype=x.dtype)
        out: Tensor = torch.linalg.solve(x.T @ x + penalty, x.T @ y)
        return out

    best: tuple[float, float, Tensor] | None = None
    for ridge in RIDGES:
        held_out = torch.zeros_like(values)
        for block in blocks.unique():
            chosen = blocks != block
            held_out[~chosen] = features[~chosen].mean(1) @ fit(chosen, ridge)
        error = float((held_out - values).square().mean())
        if best is None or error < best[0]:
            best = error, ridge, held_out
    assert best is not None
    return fit(torch.ones_like(blocks, dtype=torch.bool), best[1]), best[2]
