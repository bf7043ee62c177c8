"""How cars drive on from some place, learnt from pictures in a row."""

from __future__ import annotations

import math
from types import SimpleNamespace

import cv2
import numpy as np
import pytest
import torch

from seg2vid_cli.camera import FOCAL
from seg2vid_cli.networks.ego_flow import TURN_UNIT, USUAL_PACE, EgoFlow, class_shares, mirror
from seg2vid_cli.training.data import Pair, to_planes
from seg2vid_cli.training.habits import Observed, between_stills, learn_habits, neighbours
from seg2vid_cli.training.motion import MOTION

H, W = 256, 512
BUILDING, TREE = 2, 8
FAR, NEAR = 20.0, 8.0  # a wall, and a board before it
BOARD = np.s_[60:150, 280:400]


def texture(seed: int) -> np.ndarray:
    rng = np.random.default_rng(seed)
    coarse = rng.integers(0, 255, (H // 4, W // 4, 3), dtype=np.uint8)
    return cv2.resize(coarse, (W, H), interpolation=cv2.INTER_CUBIC)


def views(ahead: float, degrees: float) -> list[np.ndarray]:
    """A wall and a board before it, and both again after a way straight on and a turn right."""
    focal = FOCAL * W / 2
    lens = np.array([[focal, 0, W / 2], [0, focal, H / 2], [0, 0, 1]])
    angle = math.radians(degrees)
    turn = np.array(
        [[math.cos(angle), 0, -math.sin(angle)], [0, 1, 0], [math.sin(angle), 0, math.cos(angle)]]
    )
    wall, board = texture(0), texture(1)
    there = np.zeros((H, W), np.uint8)
    there[BOARD] = 255
    seen = []
    for way, rotation in ((0.0, np.eye(3)), (ahead, turn)):
        picture = None
        for colours, mask, away in ((wall, np.full_like(there, 255), FAR), (board, there, NEAR)):
            moved = lens @ rotation @ np.diag([1, 1, 1 - way / away]) @ np.linalg.inv(lens)
            layer, covers = (cv2.warpPerspective(x, moved, (W, H)) for x in (colours, mask))
            if picture is None:
                picture = layer
            picture = np.where(covers[..., None] > 127, layer, picture)
        seen.append(picture)
    return seen


class KnowsDepth:
    """Stands in for a network that sees the wall and the board."""

    def __init__(self) -> None:
        self.speeds = torch.zeros(1)

    def read(self, frame, planes):
        assert frame.shape[-2:] == planes.shape[-2:] == (H // 2, W // 2)
        nearness = torch.full((1, 1, H, W), 1 / FAR)
        nearness[0, 0][BOARD] = 1 / NEAR
        return SimpleNamespace(nearness=nearness[..., ::2, ::2])


def pairs(pictures, names):
    ids = np.full((H, W), BUILDING, np.uint8)
    return [
        Pair(name=name, picture=picture, train_ids=ids)
        for name, picture in zip(names, pictures, strict=True)
    ]


def compare(stills):
    return between_stills(neighbours(stills, fps=30), KnowsDepth())


class TestStills:
    @pytest.mark.parametrize(("ahead", "degrees"), [(2.0, 5.0), (1.5, -3.0), (3.0, 0.0)])
    def test_speed_and_turn_are_found_between_two_stills(self, ahead, degrees):
        row = pairs(views(ahead, degrees), ("a_f00090", "a_f00120L"))
        (found,) = compare(row)
        assert found.speed == pytest.approx(ahead / 15, rel=0.1)
        assert 15 * math.degrees(found.turn) == pytest.approx(degrees, abs=0.5)
        assert found.train_ids.shape == (H, W)

    @pytest.mark.parametrize(
        "names",
        [("a_10", "b_40"), ("a_10", "a_100"), ("a_10", "a_10"), ("a_10", "a_20"), ("a", "b")],
    )
    def test_only_neighbours_of_one_drive_are_compared(self, names):
        assert not compare(pairs(views(2.0, 5.0), names))

    def test_names_count_the_frames_of_a_drive(self):
        names = [
            *("0006R0_f00960", "0006R0_f00930", "0006R0_f00945", "0006R0_f00935"),
            *("aachen_000000_000019_leftImg8bit", "aachen_000000_000049_leftImg8bit"),
            *("0001TP_006690", "0001TP_006750L"),
        ]
        picture = np.zeros((H, W, 3), np.uint8)
        found = neighbours(pairs([picture] * len(names), names), fps=30)
        assert [(here.name, there.name, seconds) for here, there, seconds in found] == [
            ("0006R0_f00930", "0006R0_f00945", 0.5),
            ("0006R0_f00945", "0006R0_f00960", 0.5),
            ("aachen_000000_000019_leftImg8bit", "aachen_000000_000049_leftImg8bit", 1.0),
        ]

    def test_pictures_that_do_not_match_are_left_out(self):
        others = [texture(2), texture(3)]
        plain = [np.full((H, W, 3), 90, np.uint8)] * 2
        for pictures in (others, plain):
            assert not compare(pairs(pictures, ("a_0", "a_30")))

    def test_who_stands_does_not_drive(self):
        assert not compare(pairs(views(0.2, 0.0), ("a_0", "a_30")))


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
