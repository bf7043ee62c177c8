"""How cars drive on from some place, learnt from pictures in a row."""

from __future__ import annotations

import math
from types import SimpleNamespace

import numpy as np
import pytest
import torch

from seg2vid_cli.networks.ego_flow import TURN_UNIT, USUAL_PACE, EgoFlow, class_shares, mirror
from seg2vid_cli.training.data import Pair, to_planes
from seg2vid_cli.training.habits import Observed, _quantiles, between_stills, learn_habits
from seg2vid_cli.training.motion import MOTION
from seg2vid_cli.training.stereo import Match

H, W = 256, 512
BUILDING, TREE = 2, 8
FAR, NEAR = 20.0, 8.0  # a wall, and a board before it
BOARD = np.s_[60:150, 280:400]


class KnowsDepth:
    """Stands in for a network that sees the wall and the board."""

    def __init__(self) -> None:
        self.speeds = torch.zeros(1)

    def read(self, frame, planes):
        assert frame.shape[-2:] == planes.shape[-2:] == (H // 2, W // 2)
        nearness = torch.full((1, 1, H, W), 1 / FAR)
        nearness[0, 0][BOARD] = 1 / NEAR
        return SimpleNamespace(nearness=nearness[..., ::2, ::2])


def match(ahead, degrees, *, seconds=1.0, wrong=0):
    """Two views of wall and board, the second after a way straight on and a turn right."""
    angle = math.radians(degrees)
    cos, sin = math.cos(angle), math.sin(angle)
    rotation = np.array([[cos, 0, -sin], [0, 1, 0], [sin, 0, cos]])
    x, y = np.meshgrid(np.arange(8, W, 16), np.arange(8, H, 16))
    nearness = KnowsDepth().read(torch.zeros(1, 3, H // 2, W // 2), torch.zeros(H // 2, W // 2))
    away = 1 / (ahead * nearness.nearness[0, 0].numpy()[y // 2, x // 2])
    away.ravel()[:wrong] *= -1
    still = Pair(
        name="a_0",
        picture=np.zeros((H, W, 3), np.uint8),
        train_ids=np.full((H, W), BUILDING, np.uint8),
    )
    return Match(
        stills=(still, still),
        seconds=seconds,
        rotation=rotation,
        way=rotation @ [0, 0, -1.0],
        places=np.stack([x.ravel(), y.ravel()], axis=1).astype(np.float64),
        away=away.ravel(),
    )


class TestStills:
    @pytest.mark.parametrize(("ahead", "degrees"), [(2.0, 5.0), (1.5, -3.0), (3.0, 0.0)])
    @pytest.mark.parametrize("seconds", [1.0, 0.5])
    def test_speed_and_turn_are_found_between_two_stills(self, ahead, degrees, seconds):
        (found,) = between_stills([match(ahead, degrees, seconds=seconds)], KnowsDepth())
        assert found.speed * seconds == pytest.approx(ahead / 15, rel=0.01)
        assert 15 * math.degrees(found.turn) * seconds == pytest.approx(degrees, abs=0.01)
        assert found.train_ids.shape == (H, W)

    def test_wrong_places_do_not_count(self):
        (found,) = between_stills([match(2.0, 0.0, wrong=200)], KnowsDepth())
        assert found.speed == pytest.approx(2 / 15, rel=0.01)
        assert not between_stills([match(2.0, 0.0, wrong=512 - 5)], KnowsDepth())

    @pytest.mark.parametrize(("ahead", "degrees"), [(0.2, 0.0), (2.0, 50.0), (60.0, 0.0)])
    def test_who_stands_or_flies_does_not_drive(self, ahead, degrees):
        assert not between_stills([match(ahead, degrees)], KnowsDepth())


def observed(count=64, *, seed=0):
    """A house to the left means a bend to the right, trees above a higher speed."""
    rng = np.random.default_rng(seed)
    out = []
    for _ in range(count):
        ids = np.full((32, 64), 10, np.uint8)
        left, fast = rng.random(2) < 0.5
        ids[8:24, slice(0, 32) if left else slice(32, 64)] = BUILDING
        ids[:8] = TREE if fast else 10
        side = (2.0 if left else -2.0) + 0.3 * rng.normal()
        speed = (0.6 if fast else 0.3) * math.exp(0.1 * rng.normal())
        out.append(Observed(train_ids=ids, speed=speed, turn=TURN_UNIT * math.sinh(side)))
    return out


@pytest.fixture(scope="module")
def network():
    made = EgoFlow(MOTION)
    for name, value in vars(learn_habits(observed(), torch.linspace(0.03, 0.97, 33))).items():
        assert getattr(made, name).shape == value.shape
        getattr(made, name).copy_(value)
    return made


class TestHabits:
    def test_a_place_says_how_fast_and_which_way(self, network):
        new = observed(seed=1)
        pace, bend = network.expect(class_shares(to_planes([o.train_ids for o in new])))
        turns = torch.tensor([math.asinh(o.turn / TURN_UNIT) for o in new])
        speeds = torch.tensor([o.speed for o in new])
        assert (bend[:, 0] - turns).abs().mean() < 0.5
        assert (pace[:, 0] / speeds).log().abs().mean() < 0.15
        assert network.turns[0] == pytest.approx(-float(network.turns[-1]), abs=1e-4)
        assert network.speeds[16] == pytest.approx(1, abs=0.1)
        assert (network.speeds.diff() >= 0).all()

    def test_a_mirror_image_bends_the_other_way(self, network):
        (one,) = observed(1, seed=3)
        shares = class_shares(to_planes([one.train_ids, one.train_ids[:, ::-1]]))
        torch.testing.assert_close(mirror(shares[:1]), shares[1:])
        pace, bend = network.expect(shares)
        assert pace[0] == pytest.approx(float(pace[1]), rel=1e-4)
        assert float(bend[0, 0]) == pytest.approx(-float(bend[1, 0]), abs=1e-4)

    def test_what_a_place_does_not_say_is_left_open(self):
        rng = np.random.default_rng(0)
        ids = rng.integers(0, 19, (240, 8, 16), dtype=np.uint8).repeat(4, 1).repeat(4, 2)
        speeds, turns = 0.4 * np.exp(0.5 * rng.normal(size=240)), 0.01 * rng.normal(size=240)
        seen = [
            Observed(train_ids=i, speed=float(s), turn=float(t))
            for i, s, t in zip(ids, speeds, turns, strict=True)
        ]
        learnt = learn_habits(seen, torch.linspace(0.03, 0.97, 33))
        made = EgoFlow(MOTION)
        made.habit_weights.copy_(learnt.habit_weights)
        made.habit_bias.copy_(learnt.habit_bias)
        pace, bend = made.expect(class_shares(to_planes(list(ids))))
        assert (pace / USUAL_PACE).log().abs().mean() < 0.25
        assert bend.abs().mean() < 0.5
        assert learnt.speeds[-1] / learnt.speeds[0] > 3

    def test_every_drive_counts_as_much_as_any_other(self):
        """Of a long slow drive and a short fast one, half of the speeds are fast."""
        ids = np.full((8, 16), 10, np.uint8)
        seen = [
            Observed(train_ids=ids, speed=speed, turn=0.0, drive=drive)
            for drive, count, speed in (("long", 60, 0.2), ("short", 12, 0.6))
            for _ in range(count)
        ]
        learnt = learn_habits(seen, torch.tensor([0.05, 0.25, 0.75, 0.95]))
        assert learnt.speeds[2] / learnt.speeds[1] == pytest.approx(3, rel=0.1)
        pace, _ = expect(learnt, ids)
        assert pace == pytest.approx(math.sqrt(0.2 * 0.6), rel=0.1)


def expect(learnt, ids):
    """Pace and bend that habits expect of a label map."""
    made = EgoFlow(MOTION)
    made.habit_weights.copy_(learnt.habit_weights)
    made.habit_bias.copy_(learnt.habit_bias)
    return (float(x) for x in made.expect(class_shares(to_planes([ids]))))


def test_quantiles_count_by_weight():
    values, places = torch.tensor([3.0, 1.0, 2.0]).double(), torch.tensor([0.0, 0.5, 1.0])
    even = _quantiles(values, torch.ones(3).double(), places)
    assert even.tolist() == [1, 2, 3]
    heavy = _quantiles(values, torch.tensor([1.0, 8.0, 1.0]).double(), places)
    assert heavy[1] == pytest.approx(1 + 0.1 / 0.45)
    assert heavy[0] == 1
    assert heavy[2] == 3
