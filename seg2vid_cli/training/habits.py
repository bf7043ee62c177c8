"""How fast cars drive in such a place, and how they turn: from clips, and from stills in a row.

A clip of a minute shows few bends. Stills that a drive took one second apart tell as much of its
way, see `stereo`; how far the car has come is in what is triangulated, next to the depth that the
network sees there.
"""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor
from torch.nn import functional as F

from seg2vid_cli.networks.ego_flow import (
    MOST_BEND,
    TURN_UNIT,
    USUAL_PACE,
    EgoFlow,
    class_shares,
    gain,
    mirror,
)
from seg2vid_cli.training.clips import FPS
from seg2vid_cli.training.data import Pair, diversify_classes, to_planes, to_tensor
from seg2vid_cli.training.stereo import Match, place_in_drive

LEAST_PLACES = 6  # whose depth is compared
COMPARED = (0.01, 0.5)  # nearness
MOST_TURN = math.radians(40)  # per second; what is found to be faster is a wrong match
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
        drive: Name of the drive; every drive counts as much as any other.
    """

    train_ids: NDArray[np.uint8]
    speed: float
    turn: float
    drive: str = ""


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


def between_stills(matches: Sequence[Match], network: EgoFlow) -> list[Observed]:
    """How cars drove between labelled pictures and the next ones of their drives.

    Args:
        matches: From `match_stills`.
        network: Says how near places are.

    Returns:
        What may be a drive, in their order.
    """
    found = [_compare(match, network) for match in matches]
    return [observed for observed in found if observed is not None]


def is_drive(speed: float, turn: float) -> bool:
    """Whether a car may have gone so fast, and turned so, per frame at 15 Hz."""
    return STANDS < speed < FASTEST and abs(turn) * FPS <= MOST_TURN


def _compare(match: Match, network: EgoFlow) -> Observed | None:
    """How a car came from one view to the next; None where it hardly did."""
    still, frames = match.stills[0], match.seconds * FPS
    turn = match.turn / frames
    # Distances are in lengths of the way, and the network's in camera heights.
    near = _nearness(still, network)[tuple((match.places.T[::-1] / 2).astype(int))]
    good = (match.away > 0) & (near > COMPARED[0]) & (near < COMPARED[1])
    if good.sum() < LEAST_PLACES:
        return None
    speed = float(np.median(1 / (near[good] * match.away[good]))) / frames
    if not is_drive(speed, turn):
        return None
    drive, _ = place_in_drive(still.name)
    return Observed(train_ids=still.train_ids, speed=speed, turn=turn, drive=drive)


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
    drives = Counter(o.drive for o in observed)
    weight = torch.tensor([1 / drives[o.drive] for o in observed]).double()
    weight = weight / weight.mean()
    middle = (weight[:, None] * even.mean(1)).mean(0)
    even = even - middle

    speed = torch.tensor([o.speed for o in observed]).double()
    pace = (speed / USUAL_PACE).log()
    usual = (weight * pace).mean()
    of_pace, expected = _regress(even, pace - usual, weight)
    faster = pace - usual - expected

    # Who is slow turns less.
    expected = USUAL_PACE * (usual + even.mean(1) @ of_pace).exp()
    turn = torch.tensor([o.turn for o in observed]).double()
    turn = turn / gain(speed[:, None], expected[:, None])[:, 0, 0]
    bend = torch.asinh(turn / TURN_UNIT)
    of_bend, expected = _regress(sided, bend, weight)
    left = bend - expected.clamp(-MOST_BEND, MOST_BEND)
    left = torch.cat([left, -left])  # left and right are alike

    return Habits(
        habit_weights=torch.stack([of_pace, of_bend]).float(),
        habit_bias=torch.stack([usual - middle @ of_pace, torch.zeros_like(usual)]).float(),
        speeds=_quantiles(faster.exp(), weight, places).float(),
        turns=_quantiles(left, weight.repeat(2), places).float(),
    )


def _quantiles(values: Tensor, weight: Tensor, places: Tensor) -> Tensor:
    """Quantiles of `(N,)` values, each as often there as its weight says."""
    rows, order = values.sort()
    share = weight[order].cumsum(0) - weight[order] / 2
    share, places = share / weight.sum(), places.double()
    after = torch.searchsorted(share, places).clamp(1, len(rows) - 1)
    low, high = share[after - 1], share[after]
    between = ((places - low) / (high - low).clamp_min(1e-12)).clamp(0, 1)
    return torch.lerp(rows[after - 1], rows[after], between)


def _regress(features: Tensor, values: Tensor, weight: Tensor) -> tuple[Tensor, Tensor]:
    """Weights `(F,)` from features `(N, L, F)` to values `(N,)` that count by `weight`, and what
    the others predict of each stretch of them, `(N,)`.
    """
    blocks = torch.arange(len(values)) * min(BLOCKS, len(values)) // len(values)

    def fit(chosen: Tensor, ridge: float) -> Tensor:
        x = features[chosen].flatten(0, 1)
        y = values[chosen].repeat_interleave(features.shape[1])
        counts = weight[chosen].repeat_interleave(features.shape[1])[:, None]
        penalty = ridge * features.shape[1] * torch.eye(x.shape[1], dtype=x.dtype)
        out: Tensor = torch.linalg.solve(x.T @ (counts * x) + penalty, x.T @ (counts[:, 0] * y))
        return out

    best: tuple[float, float, Tensor] | None = None
    for ridge in RIDGES:
        held_out = torch.zeros_like(values)
        for block in blocks.unique():
            chosen = blocks != block
            held_out[~chosen] = features[~chosen].mean(1) @ fit(chosen, ridge)
        error = float((weight * (held_out - values).square()).mean())
        if best is None or error < best[0]:
            best = error, ridge, held_out
    assert best is not None
    return fit(torch.ones_like(blocks, dtype=torch.bool), best[1]), best[2]
