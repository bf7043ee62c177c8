"""Moved stills: depth from labels and exact flow, against projection worked out by hand."""

from __future__ import annotations

import numpy as np
import pytest

cv2 = pytest.importorskip("cv2")

from seg2vid_cli.training import data, scenes  # noqa: E402
from seg2vid_cli.training.clips import DriveClip, MotionClips, mirror_clip  # noqa: E402

H, W = 64, 128
HORIZON = 20.0
ROAD, BUILDING, SKY, CAR = 0, 2, 10, 13


class Fixed:
    """A source of numbers that always gives the middle, or what it is told."""

    def __init__(self, **values):
        self.values = values

    def uniform(self, low, high):
        return self.values.get("uniform", (low + high) / 2)

    def normal(self, mean, spread, size=None):
        return mean if size is None else np.full(size, mean)

    def random(self):
        return self.values.get("random", 0.99)

    def integers(self, low, high=None):
        return low


def street():
    """Road below, sky above, a house in the left half and a car on the road."""
    ids = np.full((H, W), SKY, np.uint8)
    ids[24:] = ROAD
    ids[4:30, :50] = BUILDING
    ids[30:40, 70:90] = CAR
    return ids


def picture():
    return np.random.default_rng(0).integers(0, 255, (H, W, 3), dtype=np.uint8)


@pytest.fixture
def scene():
    built = scenes.build_scene(picture(), street(), Fixed())
    return built


def drive_through(scene, num_frames, rng):
    """Draw a drive and velocities, and move."""
    drive = scenes.draw_drive(num_frames, scenes._room_ahead(scene), rng)
    return scenes.move(scene, drive, scenes.draw_velocities(scene, drive, rng), rng)


def test_ground_lies_below_the_horizon_and_houses_and_cars_stand_on_it(scene):
    horizon, focal = scene.horizon_px, scene.focal_px
    assert 24 - 0.06 * H <= horizon <= 24

    def ground(row):
        return focal / (row + 0.5 - horizon)

    assert scene.depth[60, 10] == pytest.approx(ground(60), rel=1e-4)
    assert scene.depth[45, 80] == pytest.approx(ground(45), rel=1e-4)
    assert scene.depth[10, 10] == pytest.approx(ground(30), rel=1e-4)  # touches the road at 30
    assert np.ptp(scene.depth[4:30, 10]) < 1e-3  # upright
    assert scene.depth[32, 75] == pytest.approx(ground(39), rel=1e-4)
    assert scene.depth[2, 100] == scenes.AT_INFINITY
    assert (scene.objects > 0).sum() == 200


def test_driving_straight_ahead_moves_points_as_projection_says(scene):
    rng = Fixed(uniform=0.1)
    frames, teacher = drive_through(scene, 2, rng)
    assert frames.shape == (3, H, W, 3)
    assert teacher.shape == (2, 2, 2, H // 2, W // 2)
    path = 0.1 * 2
    for row, column in ((56, 20), (50, 100), (10, 10)):  # means of two by two pixels
        z = scene.depth[row : row + 2, column].astype(float)
        grow = z / (z - path)
        right = ((column + 1 - W / 2) * (grow - 1)).mean()
        down = ((np.array([row, row + 1]) + 0.5 - scene.horizon_px) * (grow - 1)).mean()
        got = teacher[1, 1, :, row // 2, column // 2].astype(float)
        assert got == pytest.approx([right, down], abs=0.005)


def test_there_and_back_again_where_it_is_visible(scene):
    frames, teacher = drive_through(scene, 4, Fixed(uniform=0.12))
    back, there = (teacher[i, 3].astype(np.float32).repeat(2, 1).repeat(2, 2) for i in (0, 1))
    y, x = np.mgrid[:H, :W].astype(np.float32)
    at = [cv2.remap(c, x + back[0], y + back[1], cv2.INTER_LINEAR) for c in there]
    gap = np.hypot(at[0] + back[0], at[1] + back[1])
    assert np.median(gap) < 0.3
    assert (gap < 1.0).mean() > 0.85
    assert (frames[4] != frames[0]).any()


def test_a_standing_camera_sees_only_objects_move(scene):
    rng = Fixed(random=0.0)  # stands; the car drives away
    _, teacher = drive_through(scene, 3, rng)
    car = np.zeros((H // 2, W // 2), bool)
    car[15:20, 35:45] = True
    size = np.hypot(*teacher[1, 2].astype(float))
    assert size[~car].max() < 0.05
    assert size[car].max() > 0.3


def test_what_comes_into_sight_is_not_in_the_first_frame(monkeypatch):
    """A camera that only turns: a strip at the right comes into sight, whatever the depth."""
    heading, colour = 0.1, (255, 0, 0)
    y, x = np.mgrid[:H, :W].astype(np.float32)
    smooth = np.stack([0 * x, 100 + 0.5 * x, 120 + y], axis=-1).astype(np.uint8)
    built = scenes.build_scene(smooth, street(), Fixed())
    turn = [(np.zeros(3, np.float32), heading * t, 0.0) for t in (0.5, 1.0)]
    still = np.zeros((built.objects.max() + 1, 3), np.float32)
    monkeypatch.setattr(scenes, "_other_content", lambda p, _: np.full_like(p, colour))
    frames, teacher = scenes.move(built, turn, still, Fixed())
    assert (frames[0] == smooth).all()
    for t, (_, angle, _) in enumerate(turn, 1):
        # Where in the still a pixel of frame t lies: back along the turn, by the pinhole camera.
        right, down = (x + 0.5 - W / 2) / built.focal_px, (y + 0.5 - built.horizon_px)
        ahead = np.cos(angle) - np.sin(angle) * right
        old_x = (np.sin(angle) + np.cos(angle) * right) / ahead * built.focal_px + W / 2 - 0.5
        old_y = down / ahead + built.horizon_px - 0.5
        beyond = np.maximum(
            np.abs(old_x - (W - 1) / 2) - W / 2, np.abs(old_y - (H - 1) / 2) - H / 2
        )
        new = (frames[t] == colour).all(-1)
        assert (beyond[:, -6:] > 0).all()
        sure = beyond > 1  # the border itself may fall either way
        sure[[0, -1]] = False  # and a single row at the edge is closed like a crack
        assert new[sure].all()
        assert not new[beyond < -1].any()
        grid = old_x.astype(np.float32), old_y.astype(np.float32)
        old = cv2.remap(smooth, *grid, cv2.INTER_LINEAR).astype(int)
        inside = beyond < -1
        assert np.abs(frames[t][inside] - old[inside]).max() <= 2
        strip = new[:, : W // 2].sum(), new[:, W // 2 :].sum()
        assert strip[1] > 10 * strip[0]
        assert abs(new[H // 2].sum() - (beyond[H // 2] > 0).sum()) <= 1
        there = teacher[1, t - 1].astype(np.float32)
        back_x = built.focal_px * np.tan(np.arctan(right) - angle) + W / 2 - 0.5
        gap = there[0] - (back_x - x).reshape(H // 2, 2, W // 2, 2).mean((1, 3))
        assert np.abs(gap).max() < 0.02


def test_riders_go_with_their_bicycles():
    ids = np.full((H, W), ROAD, np.uint8)
    ids[20:30, 20:26], ids[30:36, 18:28] = 12, 18  # a rider on a bicycle
    ids[20:36, 60:64] = 11
    numbers = scenes._number_objects(ids)
    assert len(np.unique(numbers[ids == 12])) == 1
    assert numbers[25, 22] == numbers[33, 20] != numbers[25, 61]
    assert (numbers[ids == ROAD] == 0).all()


@pytest.mark.parametrize("ids", [np.full((H, W), SKY, np.uint8), np.full((H, W), 19, np.uint8)])
def test_maps_without_ground_do_no_harm(ids):
    rng = np.random.default_rng(0)
    built = scenes.build_scene(picture(), ids, rng)
    frames, teacher = drive_through(built, 2, rng)
    assert np.isfinite(built.depth).all()
    assert np.isfinite(teacher.astype(np.float32)).all()
    assert frames.dtype == np.uint8


def large_pair():
    """The street three times as large, with a person besides, as a labelled picture."""
    ids = street()
    ids[34:46, 108:114] = 11
    large = (x.repeat(3, 0).repeat(3, 1) for x in (picture(), ids))
    return data.Pair(name="p", **dict(zip(("picture", "train_ids"), large, strict=True)))


def test_a_drawn_clip_has_its_exact_flow(monkeypatch):
    made, move = [], scenes.move

    def watched(*arguments):
        made.append(move(*arguments))
        return made[-1]

    monkeypatch.setattr(scenes, "move", watched)
    stills = scenes.MovedStills([large_pair()], num_frames=3, size_hw=(H, W))
    frames, ids, teacher = stills.draw(np.random.default_rng(2))  # is not mirrored
    [(moved, flows)] = made
    assert frames.shape == moved.shape
    assert ids.shape == (H, W)
    assert teacher.shape == (3, 3, H // 2, W // 2)
    assert (teacher[:, :2] == flows[1]).all()  # from the first frame to the later ones
    x = np.arange(0, W, 2) + teacher[:, 0].astype(float)
    known = teacher[:, 2] == 1
    assert known[(x > -0.1 * W) & (x < 1.1 * W)].mean() > 0.9  # of what leaves the picture too
    assert not known[(x < -0.3 * W) | (x > 1.3 * W)].any()


def test_stills_are_moved_anew_now_and_then():
    """And else drawn again, in other colours and mirrored."""
    stills = scenes.MovedStills([large_pair()], num_frames=3, size_hw=(H, W), kept=2, new=0.0)
    rng = np.random.default_rng(0)
    clips = [stills.draw(rng) for _ in range(12)]
    speeds = {float(abs(teacher[:, 0].astype(float)).sum()) for _, _, teacher in clips}
    assert len(speeds) == 2
    assert len({frames.tobytes() for frames, _, _ in clips}) == 12
    for clip in clips:
        mirrored = mirror_clip(*clip)
        assert (mirrored[1] == clip[1][:, ::-1]).all()
        assert (mirrored[2][:, 0] == -clip[2][:, 0, :, ::-1]).all()
        assert (mirrored[2][:, 1:] == clip[2][:, 1:, :, ::-1]).all()
    assert len({ids[34:46, : W // 2].tobytes() for _, ids, _ in clips}) > 2  # some are mirrored
    only = scenes.MovedStills([large_pair()], num_frames=3, size_hw=(H, W), kept=2, new=1.0)
    assert len({float(abs(only.draw(rng)[2][:, 0].astype(float)).sum()) for _ in range(5)}) == 5


def test_batches_mix_real_clips_and_moved_stills():
    frames = np.random.default_rng(1).integers(0, 255, (12, 128, 256, 3), dtype=np.uint8)
    drive = DriveClip(name="d", frames=frames, train_ids=np.full((12, 128, 256), 2, np.uint8))
    clips = MotionClips([drive], strides=[1], num_frames=8, every=2)
    pair = large_pair()
    mixed = scenes.MixedClips(clips, scenes.MovedStills([pair]), share=0.5)
    batch = mixed.batch(np.random.default_rng(0), 4)
    assert batch.frames.shape == (4, 9, 3, 128, 256)
    assert batch.flow_px.shape == (4, 8, 2, 64, 128)
    assert batch.planes.shape == (4, 20, 128, 256)
    assert batch.known.shape == (4, 8, 1, 64, 128)
    # Real clips are noise here, which no flow explains; of moved stills some leaves the picture.
    assert batch.known[:2].mean() < 0.2
    assert batch.known[2:].mean() > 0.6
    only = scenes.MixedClips(clips, scenes.MovedStills([pair]), share=1.0)
    assert only.batch(np.random.default_rng(0), 2).planes[:, SKY].sum() > 0  # drives have no sky
