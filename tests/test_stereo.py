"""Two views of a street: from where they were taken, and how near everything is."""

from __future__ import annotations

import dataclasses
import math

import cv2
import numpy as np
import pytest
import torch

from seg2vid_cli.training import stereo
from seg2vid_cli.training.data import Pair
from seg2vid_cli.training.stereo import (
    Depth,
    StereoStills,
    collate_stills,
    lens,
    match_stills,
    measure_depth,
    neighbours,
)

H, W = 256, 512
BUILDING, SKY, CAR = 2, 10, 13
FAR, NEAR = 20.0, 8.0  # a wall, and a board before it
BOARD = np.s_[60:150, 280:400]


def texture(seed: int) -> np.ndarray:
    rng = np.random.default_rng(seed)
    coarse = rng.integers(0, 255, (H // 4, W // 4, 3), dtype=np.uint8)
    return cv2.resize(coarse, (W, H), interpolation=cv2.INTER_CUBIC)


def views(ahead: float, degrees: float) -> list[np.ndarray]:
    """A wall and a board before it, and both again after a way straight on and a turn right."""
    camera = lens((H, W))
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
            moved = camera @ rotation @ np.diag([1, 1, 1 - way / away]) @ np.linalg.inv(camera)
            layer, covers = (cv2.warpPerspective(x, moved, (W, H)) for x in (colours, mask))
            if picture is None:
                picture = layer
            picture = np.where(covers[..., None] > 127, layer, picture)
        seen.append(picture)
    return seen


def pairs(pictures, names, *, ids=None):
    ids = np.full((H, W), BUILDING, np.uint8) if ids is None else ids
    return [
        Pair(name=name, picture=picture, train_ids=ids)
        for name, picture in zip(names, pictures, strict=True)
    ]


def matched(pictures, names=("a_0", "a_30"), **more):
    return match_stills(neighbours(pairs(pictures, names, **more), fps=30))


class TestNeighbours:
    @pytest.mark.parametrize(
        "names",
        [("a_10", "b_40"), ("a_10", "a_100"), ("a_10", "a_10"), ("a_10", "a_20"), ("a", "b")],
    )
    def test_only_those_of_one_drive(self, names):
        assert not neighbours(pairs(views(2.0, 5.0), names), fps=30)

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


class TestMatches:
    @pytest.mark.parametrize(("ahead", "degrees"), [(2.0, 5.0), (1.5, -3.0), (3.0, 0.0)])
    def test_the_way_is_found(self, ahead, degrees):
        (match,) = matched(views(ahead, degrees))
        assert math.degrees(match.turn) == pytest.approx(degrees, abs=0.5)
        came = -match.rotation.T @ match.way
        assert came == pytest.approx([0, 0, 1], abs=0.05)
        x, y = match.places.T.astype(int)
        board = np.zeros((H, W), np.bool_)
        board[BOARD] = True
        away = np.where(board[y, x], NEAR, FAR) / ahead
        good = match.away > 0
        assert good.mean() > 0.9
        assert np.median(np.abs(np.log(match.away[good] / away[good]))) < 0.1

    def test_pictures_that_do_not_match_are_left_out(self):
        others = [texture(2), texture(3)]
        plain = [np.full((H, W, 3), 90, np.uint8)] * 2
        for pictures in (others, plain):
            assert not matched(pictures)


class TestDepth:
    @pytest.mark.parametrize(("ahead", "degrees"), [(3.0, 4.0), (4.0, 0.0)])
    def test_both_views_are_measured(self, ahead, degrees):
        first, second = measure_depth(matched(views(ahead, degrees)))
        assert first.picture.shape == (H // 2, W // 2, 3)
        assert first.nearness.shape == first.sure.shape == first.train_ids.shape == (H // 2, W // 2)
        board = np.zeros((H // 2, W // 2), np.bool_)
        board[34:71, 144:196] = True  # without its border
        wall = np.ones_like(board)
        wall[26:80, 130:210] = False
        for part, away in ((board, NEAR), (wall, FAR)):
            sure = first.sure & part
            assert sure.sum() > 0.4 * part.sum()
            wrong = np.log(first.nearness[sure] * away / ahead)
            assert abs(np.median(wrong)) < 0.1
            assert np.mean(np.abs(wrong) < 0.2) > 0.9
        # From the second view both are nearer, by as much as the camera came.
        middle = np.s_[44:60, 160:180]
        there = np.median(second.nearness[middle][second.sure[middle]])
        assert there == pytest.approx(ahead / (NEAR - ahead), rel=0.2)

    @pytest.mark.parametrize("degrees", [0.0, 8.0, -8.0])
    def test_the_focus_is_where_the_car_points(self, degrees):
        """On an arc the way leads half as far to the side as the car turns."""
        (match,) = matched(views(3.0, degrees))
        half = math.radians(degrees) / 2
        came = np.array([math.sin(half) + 0.05 * math.cos(half), 0.1, math.cos(half)])
        came /= np.linalg.norm(came)
        arc = dataclasses.replace(match, way=-match.rotation @ came)
        for depth in stereo._measure_both(arc):
            assert depth.focus == pytest.approx([0.05, 0.1], abs=0.015)

    def test_who_goes_sideways_is_no_car(self):
        (match,) = matched(views(3.0, 0.0))
        aside = dataclasses.replace(match, way=np.array([0.8, 0.0, -0.6]))
        assert not measure_depth([aside])

    def test_nothing_is_known_of_what_may_move_and_of_the_sky(self):
        ids = np.full((H, W), BUILDING, np.uint8)
        ids[:, 100:200], ids[:, 300:400] = CAR, SKY
        for depth in measure_depth(matched(views(3.0, 0.0), ids=ids)):
            assert not depth.sure[:, 50:100].any()
            assert not depth.sure[:, 150:200].any()
            assert depth.sure[:, 10:45].mean() > 0.3

    def test_who_stands_learns_nothing(self):
        assert not measure_depth(matched(views(0.01, 0.0)))

    def test_what_hides_in_one_view_is_not_sure(self, monkeypatch):
        """As long as both views have to agree about it."""
        (match,) = matched(views(4.0, 0.0))
        agreed, _ = measure_depth([match])
        monkeypatch.setattr(stereo, "MOST_APART", math.inf)
        alone, _ = measure_depth([match])
        assert agreed.sure.sum() < alone.sure.sum()
        assert (alone.sure | ~agreed.sure).all()


@pytest.fixture
def still():
    rng = np.random.default_rng(0)
    columns = np.linspace(0.1, 1, 256, dtype=np.float32) * np.ones((128, 1), np.float32)
    return Depth(
        picture=rng.integers(60, 200, (128, 256, 3), dtype=np.uint8),
        train_ids=np.full((128, 256), BUILDING, np.uint8),
        nearness=columns,
        sure=np.arange(256) >= 128 * np.ones((128, 1)),
        focus=np.array([0.1, 0.05], np.float32),
    )


class TestBatches:
    def test_cells_are_sure_where_half_of_them_is(self, still):
        batch = collate_stills([still])
        assert batch.pictures.shape == (1, 3, 128, 256)
        assert batch.planes.shape == (1, 20, 128, 256)
        assert batch.nearness.shape == batch.sure.shape == (1, 1, 64, 128)
        assert batch.focus.tolist() == [pytest.approx([0.1, 0.05])]
        assert (batch.sure[..., 64:] == 1).all()
        assert (batch.sure[..., :64] == 0).all()
        cells = torch.from_numpy(still.nearness[::2]).log().unflatten(1, (-1, 2)).mean(-1).exp()
        torch.testing.assert_close(batch.nearness[0, 0, :, 64:], cells[:, 64:])
        assert (batch.nearness > 0).all()

    def test_depth_goes_with_its_picture(self, still, monkeypatch):
        monkeypatch.setattr(stereo.data, "jitter_colours", lambda picture, *_: picture)
        ids = still.train_ids.copy()
        ids[:, 128:] = 8
        picture = np.repeat((still.nearness * 255).astype(np.uint8)[..., None], 3, axis=2)
        same = dataclasses.replace(still, picture=picture, train_ids=ids)
        batch = StereoStills([same]).batch(np.random.default_rng(0), 24)
        shown = torch.nn.functional.avg_pool2d(batch.pictures, 2)[:, :1]
        wrong = (shown - batch.nearness).abs() * batch.sure
        assert wrong.max() < 0.02
        plants = batch.planes[:, 8:10].sum(1, keepdim=True)
        assert ((torch.nn.functional.avg_pool2d(plants, 2) >= 0.5) == (batch.sure > 0)).all()
        right = batch.sure[..., -1].mean((1, 2)) > batch.sure[..., 0].mean((1, 2))
        assert 0 < right.sum() < 24  # mirrored half of the time
        assert len(set(batch.sure.mean((1, 2, 3)).tolist())) > 3  # zoomed

    def test_focus_stays_where_it_is_in_the_picture(self, still, monkeypatch):
        monkeypatch.setattr(stereo.data, "jitter_colours", lambda picture, *_: picture)
        camera = lens((128, 256))
        x, y = (camera[k, k] * still.focus[k] + camera[k, 2] for k in (0, 1))
        picture = np.zeros_like(still.picture)
        picture[int(y) - 3 : int(y) + 4, int(x) - 3 : int(x) + 4] = 255
        dot = dataclasses.replace(still, picture=picture)
        batch = StereoStills([dot]).batch(np.random.default_rng(1), 16)
        seen = 0
        for shown, focus in zip(batch.pictures[:, 0].numpy(), batch.focus.numpy(), strict=True):
            rows, columns = np.nonzero(shown > 0.5)
            inside = len(rows) and rows.min() > 0 and rows.max() < 127 and columns.max() < 255
            if not inside or not columns.min():
                continue
            seen += 1
            there = [camera[k, k] * focus[k] + camera[k, 2] for k in (0, 1)]
            assert there == pytest.approx([columns.mean() + 0.5, rows.mean() + 0.5], abs=1.6)
        assert seen > 8
