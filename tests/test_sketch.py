"""Edges drawn into a label map by rules."""

from __future__ import annotations

import numpy as np
import pytest

from seg2vid_cli.sample import Sample
from seg2vid_cli.sketch import (
    ACROSS,
    BUILDING,
    EYE_HEIGHT,
    FENCE,
    ROAD,
    connected_parts,
    draw_houses,
    draw_lane,
    draw_vehicles,
    find_vanishing_point,
    find_walls,
    outline,
    sketch_edges,
    smooth_noise,
)

SKY, TREES, PERSON, CAR, UNLABELLED = 10, 8, 11, 13, 19


def rng(seed: int = 0) -> np.random.Generator:
    return np.random.default_rng(seed)


def street(height: int = 128, width: int = 256) -> np.ndarray:
    """Sky above, houses at the left, trees at the right, a road that narrows to the middle."""
    y, x = np.mgrid[:height, :width]
    y, x = y / height, x / width
    ids = np.where(x < 0.5, BUILDING, TREES)
    ids[y < 0.2] = SKY
    ids[(y > 0.5) & (np.abs(x - 0.5) < y - 0.5)] = ROAD
    return ids.astype(np.uint8)


@pytest.mark.parametrize("size", [(32, 64), (33, 47), (256, 512), (300, 100), (1, 1), (1, 40)])
def test_any_map_has_a_sketch_of_its_size(size):
    ids = rng().integers(0, 20, size, dtype=np.uint8)
    edges = sketch_edges(ids, rng(1))
    assert edges.shape == size
    assert edges.dtype == np.bool_


@pytest.mark.parametrize("train_id", range(20))
def test_a_map_of_one_class_can_be_drawn(train_id):
    edges = sketch_edges(np.full((64, 128), train_id, np.uint8), rng())
    assert edges.any() == (train_id not in (SKY, UNLABELLED))


def test_the_numbers_decide():
    ids = street()
    edges = sketch_edges(ids, rng(3))
    assert np.array_equal(edges, sketch_edges(ids, rng(3)))
    assert (edges != sketch_edges(ids, rng(4))).mean() > 0.05


def test_trees_are_busy_the_road_is_calm_and_the_sky_is_empty():
    ids = street(256, 512)
    edges = sketch_edges(ids, rng())
    inside = ids == np.roll(ids, 2, 0)
    inside &= (ids == np.roll(ids, 2, 1)) & (ids == np.roll(ids, -2, 1))
    shares = [edges[inside & (ids == c)].mean() for c in (SKY, ROAD, BUILDING, TREES)]
    assert shares[0] == 0
    assert shares == sorted(shares)
    assert 0.25 < shares[3] < 0.6


def test_borders_are_mostly_edges():
    ids = np.full((100, 200), UNLABELLED, np.uint8)
    ids[:, 100:] = SKY
    edges = sketch_edges(ids, rng())
    assert 0.5 < edges[:, 100].mean() < 1
    assert edges.sum() == edges[:, 100].sum()


# ---- perspective ---------------------------------------------------------------------------------


def test_the_street_goes_to_the_far_end_of_the_road():
    y, x = find_vanishing_point(street(200, 400))
    assert y == pytest.approx(100, abs=6)
    assert x == pytest.approx(200, abs=4)
    shifted = np.roll(street(200, 400), 60, axis=1)
    assert find_vanishing_point(shifted)[1] == pytest.approx(260, abs=4)


@pytest.mark.parametrize("train_id", [SKY, BUILDING])
def test_without_a_road_the_street_goes_to_the_middle(train_id):
    ids = np.full((100, 200), train_id, np.uint8)
    ids[99, :20] = ROAD  # too little to tell
    assert find_vanishing_point(ids) == (45, 100)


def test_a_road_that_starts_low_keeps_the_horizon_in_the_picture():
    ids = np.zeros((100, 200), np.uint8)
    ids[:95] = BUILDING
    assert find_vanishing_point(ids)[0] < 65


def draw_along(shape, centre, seed, grain=1.0):
    """Houses along a street, with nothing in the map that would say how deep they are."""
    walls = find_walls(np.full(shape, TREES, np.uint8), centre)
    return draw_houses(shape, centre, walls, rng(seed), np.full(shape, grain))


def test_houses_are_the_same_at_twice_the_size():
    small, large = (draw_along((k * 128, k * 256), (k * 60.0, k * 128.0), 2) for k in (2, 4))
    halved = large.reshape(256, 2, 512, 2).any((1, 3))
    near = np.zeros_like(halved)
    for dy in (-1, 0, 1):
        for dx in (-1, 0, 1):
            near |= np.roll(halved, (dy, dx), (0, 1))
    beside = np.abs(np.arange(512) - 256) > 100  # further off, more is drawn in the larger one
    assert small[:, beside].mean() > 0.02
    assert near[:, beside][small[:, beside]].mean() > 0.95


def test_the_edges_between_storeys_run_to_the_vanishing_point():
    """Along a ray from there, what is drawn of storeys stays; across rays, it changes."""
    centre = (100.0, 256.0)
    edges = draw_along((256, 512), centre, 1)
    angles = np.linspace(0.2, 0.9, 300)
    columns = np.arange(390, 510)  # where windows are large
    rows = np.round(centre[0] - angles[:, None] * (columns - centre[1])).astype(int)
    seen = np.where(rows >= 0, edges[np.maximum(rows, 0), columns[None]], False)
    along = seen.sum(1) / np.maximum((rows >= 0).sum(1), 1)
    assert along.max() > 0.35  # a line, but for the walls between windows
    assert np.median(along) < 0.15


def test_far_houses_are_grain():
    shape, centre = (256, 512), (100.0, 256.0)
    bare, full = (draw_along(shape, centre, 0, grain) for grain in (1.0, 0.0))
    differ = bare != full
    assert differ[:, 250:256].all()
    assert not differ[:, :60].any()


def end_of_a_street(foot: int) -> np.ndarray:
    """Houses at both sides down to the ground, and one across, whose foot is in a given row."""
    y, x = np.mgrid[:256, :512]
    ids = np.full((256, 512), BUILDING, np.uint8)
    ids[y - 100 > EYE_HEIGHT * np.abs(x - 256)] = ROAD
    ids[(y < foot) & (np.abs(x - 256) < 80)] = BUILDING
    ids[:20] = SKY
    return ids


@pytest.mark.parametrize("foot", [140, 180])
def test_a_wall_across_the_street_faces_the_camera(foot):
    ids = end_of_a_street(foot)
    walls = find_walls(ids, (100.0, 256.0))
    plain = find_walls(np.full_like(ids, TREES), (100.0, 256.0))
    widest = min(80, (foot - 100) / EYE_HEIGHT / ACROSS)
    assert np.count_nonzero(walls.faces) == pytest.approx(2 * widest, abs=4)
    assert walls.faces[256]
    front = walls.faces
    assert walls.depth[front] == pytest.approx(EYE_HEIGHT * 256 / (foot - 100))
    assert np.diff(walls.along[front]) == pytest.approx(1 / walls.px_along[front][0])
    for name in ("depth", "along", "px_along"):
        assert np.array_equal(getattr(walls, name)[~front], getattr(plain, name)[~front])


def test_windows_of_a_wall_across_are_level_and_upright():
    edges = draw_houses(
        (256, 512),
        (100.0, 256.0),
        find_walls(end_of_a_street(180), (100.0, 256.0)),
        rng(3),
        np.ones((256, 512)),
    )[:100, 190:320]
    rows, columns = edges.mean(1), edges.mean(0)
    assert max(rows.max(), columns.max()) > 0.3
    assert np.median(rows) < 0.1
    assert edges.mean() > 0.02


def test_behind_what_hides_its_foot_a_wall_goes_on():
    ids = end_of_a_street(180)
    seen = find_walls(ids, (100.0, 256.0))
    ids[150:200, 230:270] = CAR
    hidden = find_walls(ids, (100.0, 256.0))
    assert np.array_equal(hidden.faces, seen.faces)
    assert np.array_equal(hidden.along, seen.along)
    ids[150:200, :] = CAR
    assert not find_walls(ids, (100.0, 256.0)).faces.any()


def test_a_post_is_no_wall_across():
    ids = end_of_a_street(100)
    ids[100:180, 250:260] = BUILDING
    assert not find_walls(ids, (100.0, 256.0)).faces.any()


def test_dashes_narrow_with_the_distance():
    edges = draw_lane((256, 512), (100.0, 256.0), rng(5))
    assert not edges[:100].any()
    rows = [np.ptp(np.flatnonzero(row)) for row in edges if row.any()]
    assert max(rows[-10:]) > 2 * max(rows[:5])


# ---- parts ---------------------------------------------------------------------------------------


def test_every_vehicle_has_a_rear_of_its_own():
    mask = np.zeros((128, 256), bool)
    mask[64:104, 20:80] = mask[60:120, 150:250] = True
    edges = draw_vehicles(mask)
    assert not edges[:, 84:146].any()
    one, other = edges[64:104, 20:80], edges[60:120, 150:250]
    for view in (one, other):
        assert 0.02 < view.mean() < 0.4
        upper, lower = np.array_split(view, 2)
        assert upper.any()
        assert lower.any()


def test_a_long_part_is_a_row_of_cars():
    mask = np.zeros((128, 256), bool)
    mask[64:96, 20:212] = True  # 6 times as wide as high
    one, row = draw_vehicles(mask, longest=99.0), draw_vehicles(mask, longest=3.2)
    assert row.sum() > one.sum()
    rears = np.split(row[64:96, 20:212], 3, axis=1)
    assert np.array_equal(rears[0], rears[1])
    assert np.array_equal(one, draw_vehicles(mask, longest=6.0))


def test_a_bus_from_the_side_has_panes_and_a_car_has_none():
    mask = np.zeros((128, 256), bool)
    mask[40:100, 40:220] = True  # 3 times as wide as high
    bus, car = draw_vehicles(mask)[40:100, 40:220], draw_vehicles(mask, longest=3.2)[40:100, 40:220]
    posts = [view[20:24].all(0).sum() for view in (bus, car)]
    assert posts[0] >= 8 > posts[1]
    assert not np.array_equal(bus[:, :60], bus[:, 60:120])  # not a row of them


def test_parts_hang_together_by_their_sides():
    mask = np.zeros((7, 9), bool)
    mask[1:3, 1:3] = mask[3:5, 3:5] = True  # touch at a corner
    mask[0, 8] = mask[6, :] = True
    parts = connected_parts(mask)
    assert (parts > 0).sum() == mask.sum()
    assert not parts[~mask].any()
    assert len(np.unique(parts[mask])) == 4
    assert len(np.unique(parts[6])) == 1
    assert parts[2, 2] != parts[3, 3]


def test_smooth_noise_is_bilinear_between_its_corners():
    coarse = smooth_noise((9, 13), 4.0, rng(7))
    assert coarse.shape == (9, 13)
    assert 0 <= coarse.min() < coarse.max() <= 1
    np.testing.assert_allclose(coarse[2], (coarse[0] + coarse[4]) / 2)
    np.testing.assert_allclose(coarse[:, 5], 0.75 * coarse[:, 4] + 0.25 * coarse[:, 8])


def test_an_outline_is_where_something_begins_or_has_ended():
    inside = np.zeros((5, 6), bool)
    inside[1:3, 2:4] = True
    expected = np.zeros((5, 6), bool)
    expected[1:3, [2, 4]] = expected[[1, 3], 2:4] = True
    assert np.array_equal(outline(inside), expected)


def test_bars_of_a_fence_are_upright():
    edges = sketch_edges(np.full((256, 512), FENCE, np.uint8), rng())
    columns = edges.mean(0)
    assert (columns > 0.6).any()
    assert (columns < 0.3).any()


# ---- samples -------------------------------------------------------------------------------------


def drawn(sample: Sample) -> float:
    return float(sample.generator(part="appearance", purpose="sketch").random())


def test_a_sketch_belongs_to_the_appearance():
    base = drawn(Sample(seed=1))
    assert drawn(Sample(seed=1)) == base
    assert drawn(Sample(seed=2)) != base
    assert drawn(Sample(seed=1, variant=1)) != base
    assert drawn(Sample(seed=1, variant=1, variants={"appearance": 0})) == base
    assert Sample(seed=1).generator(part="appearance", purpose="other").random() != base


@pytest.mark.parametrize(("share", "seed"), [(0.0, 1), (0.4, 1), (0.5, 2), (1.0, 2)])
def test_between_two_seeds_it_is_the_nearer_one_s(share, seed):
    between = Sample(seed=1, to_seed=2, shares={"appearance": share})
    assert drawn(between) == drawn(Sample(seed=seed))
