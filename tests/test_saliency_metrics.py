"""Saliency metrics against values worked out by hand and against slow, literal definitions."""

from __future__ import annotations

from itertools import pairwise

import numpy as np
import pytest

from seg2vid_cli.errors import InputError, ShapeError
from seg2vid_cli.saliency_metrics import (
    FixationPool,
    Score,
    auc_judd,
    correlation,
    nss,
    shuffled_auc,
    similarity,
)

MAP = np.array([[4.0, 3.0], [2.0, 1.0]])
LOOKED = np.array([[True, False], [True, False]])  # at 4 and 2


def case(seed, *, levels=None, shape=(9, 13), share=0.1):
    """A random map (of few levels, so that values repeat), fixations here and counts elsewhere."""
    draw = np.random.default_rng(seed)
    saliency = draw.random(shape)
    if levels:
        saliency = np.floor(saliency * levels) / levels
    fixated = draw.random(shape) < share
    fixated[0, 0] = True
    elsewhere = draw.poisson(0.4, shape)
    elsewhere[-1, -1] = 1
    return saliency, fixated, elsewhere


# ---- AUC-Judd ------------------------------------------------------------------------------------


def slow_auc_judd(saliency, fixated):
    """One threshold after the other, pixel by pixel."""
    hits = sorted({saliency[p] for p in zip(*np.nonzero(fixated), strict=True)}, reverse=True)
    curve = [(0.0, 0.0)]
    for threshold in hits:
        right = wrong = 0
        for place, value in np.ndenumerate(saliency):
            if value >= threshold:
                right += bool(fixated[place])
                wrong += not fixated[place]
        curve.append((wrong / (~fixated).sum(), right / fixated.sum()))
    curve.append((1.0, 1.0))
    area = 0.0
    for (x0, y0), (x1, y1) in pairwise(curve):
        area += (x1 - x0) * (y0 + y1) / 2
    return area


def test_auc_judd_by_hand():
    # At 4: half of the fixations, nothing else. At 2: all of them, and 3 of {3, 1}.
    assert auc_judd(MAP, LOOKED) == pytest.approx(0.5 * 0.75 + 0.5 * 1)
    assert auc_judd(-MAP, LOOKED) == pytest.approx(0.5 * 0.25 + 0.5 * 0.75)
    assert auc_judd(MAP, MAP > 2) == 1.0
    assert auc_judd(MAP, MAP < 3) == 1 / (2 * 2)  # the worst, for two fixations


@pytest.mark.parametrize("levels", [None, 5, 2])
@pytest.mark.parametrize("seed", range(5))
def test_auc_judd_is_the_slow_definition(seed, levels):
    saliency, fixated, _ = case(seed, levels=levels)
    assert auc_judd(saliency, fixated) == pytest.approx(slow_auc_judd(saliency, fixated), abs=1e-12)


def test_auc_judd_of_a_constant_map_is_chance_and_only_the_order_counts():
    saliency, fixated, _ = case(1)
    assert auc_judd(np.full((9, 13), 0.3), fixated) == 0.5
    assert auc_judd(np.exp(9 * saliency), fixated) == pytest.approx(auc_judd(saliency, fixated))
    assert auc_judd(saliency.astype(np.float32) * 7 - 3, fixated) == pytest.approx(
        auc_judd(saliency, fixated)
    )


# ---- shuffled AUC --------------------------------------------------------------------------------


def slow_shuffled_auc(saliency, fixated, elsewhere):
    """Every fixation against every fixation of the others."""
    won = total = 0.0
    for here in zip(*np.nonzero(fixated), strict=True):
        for there, count in np.ndenumerate(elsewhere):
            won += count * (
                (saliency[here] > saliency[there]) + (saliency[here] == saliency[there]) / 2
            )
            total += count
    return won / total


def test_shuffled_auc_by_hand():
    saliency, fixated = np.array([[3.0, 1.0, 2.0]]), np.array([[True, True, False]])
    elsewhere = np.array([[1, 0, 3]])  # 3 once and 2 three times
    # 3 beats three and ties with one; 1 beats none.
    assert shuffled_auc(saliency, fixated, elsewhere) == pytest.approx((3.5 / 4 + 0) / 2)


@pytest.mark.parametrize("levels", [None, 4])
@pytest.mark.parametrize("seed", range(5))
def test_shuffled_auc_is_the_slow_definition(seed, levels):
    found = shuffled_auc(*case(seed, levels=levels))
    assert found == pytest.approx(slow_shuffled_auc(*case(seed, levels=levels)), abs=1e-12)


def test_shuffled_auc_gives_nothing_for_what_all_pictures_share():
    _, fixated, _ = case(3)
    saliency = np.random.default_rng(3).random(fixated.shape)
    assert shuffled_auc(saliency, fixated, 7 * fixated.astype(np.int64)) == pytest.approx(0.5)
    assert shuffled_auc(np.ones(fixated.shape), *case(3)[1:]) == 0.5
    assert auc_judd(np.where(fixated, 1.0, saliency), fixated) > 0.9


def test_shuffled_auc_is_the_mean_of_random_draws():
    saliency, fixated, elsewhere = case(4, share=0.2)
    draw = np.random.default_rng(0)
    others = np.repeat(saliency.ravel(), elsewhere.ravel())
    own = saliency[fixated]
    wins = [
        (own[:, None] > draw.choice(others, len(own))[None]).mean() for _ in range(3000)
    ]  # no value repeats
    ties = (own[:, None] == others[None]).mean() / 2
    assert np.mean(wins) + ties == pytest.approx(
        shuffled_auc(saliency, fixated, elsewhere), abs=0.01
    )


# ---- NSS, CC, SIM --------------------------------------------------------------------------------


def test_nss_by_hand():
    saliency = np.array([[1.0, 2.0], [3.0, 6.0]])  # mean 3, variance (4 + 1 + 0 + 9) / 4
    assert nss(saliency, saliency == 6) == pytest.approx(3 / np.sqrt(3.5))
    assert nss(saliency, saliency > 2) == pytest.approx(1.5 / np.sqrt(3.5))
    assert nss(5 * saliency - 2, saliency == 6) == pytest.approx(3 / np.sqrt(3.5))
    assert nss(saliency, np.ones((2, 2), bool)) == pytest.approx(0)
    assert nss(np.full((2, 2), 0.1), LOOKED) == 0


def test_correlation_by_hand_and_as_numpy_has_it():
    first, second = np.array([[1.0, 2.0, 3.0]]), np.array([[1.0, 3.0, 2.0]])
    assert correlation(first, second) == pytest.approx(0.5)
    assert correlation(first, -2 * first + 1) == pytest.approx(-1)
    saliency, _, elsewhere = case(0)
    expected = np.corrcoef(saliency.ravel(), elsewhere.ravel())[0, 1]
    assert correlation(saliency, elsewhere.astype(float)) == pytest.approx(expected)
    assert correlation(np.full((2, 2), 0.1), MAP) == correlation(MAP, np.zeros((2, 2))) == 0


def test_similarity_by_hand():
    first, second = np.array([[0.0, 1.0, 3.0]]), np.array([[0.0, 3.0, 1.0]])
    assert similarity(first, second) == pytest.approx(0.25 + 0.25)
    assert similarity(5 + 2 * first, second) == pytest.approx(0.5)  # a floor and a scale
    assert similarity(first, first) == pytest.approx(1)
    assert similarity(np.array([[0.0, 1.0]]), np.array([[1.0, 0.0]])) == 0
    # A constant map is uniform: a third each, against 0, 1/4, 3/4.
    assert similarity(np.full((1, 3), 0.7), first) == pytest.approx(1 / 4 + 1 / 3)


@pytest.mark.parametrize("dtype", [np.float32, np.uint8])
def test_the_number_format_of_the_maps_does_not_matter(dtype):
    draw = np.random.default_rng(0)
    saliency = draw.integers(0, 256, (20, 30)).astype(dtype)
    density = draw.integers(0, 256, (20, 30)).astype(dtype)
    fixated, exact = density > 220, saliency.astype(np.float64)
    for metric in (auc_judd, nss):
        assert metric(saliency, fixated) == pytest.approx(metric(exact, fixated))
    for metric in (correlation, similarity):
        assert metric(saliency, density) == pytest.approx(metric(exact, density.astype(float)))


# ---- what cannot be scored -----------------------------------------------------------------------


def test_what_cannot_be_scored_is_an_error():
    nobody, everybody = np.zeros((2, 2), bool), np.ones((2, 2), bool)
    for metric in (auc_judd, nss):
        with pytest.raises(InputError, match="no pixel is fixated"):
            metric(MAP, nobody)
        with pytest.raises(ShapeError):
            metric(MAP, np.ones((2, 3), bool))
        with pytest.raises(ShapeError):
            metric(MAP, np.ones((2, 2)))
        with pytest.raises(InputError, match="finite"):
            metric(np.array([[1, np.nan], [0, 0]]), LOOKED)
    with pytest.raises(InputError, match="every pixel"):
        auc_judd(MAP, everybody)
    with pytest.raises(InputError, match="other pictures"):
        shuffled_auc(MAP, LOOKED, np.zeros((2, 2), int))
    with pytest.raises(ShapeError):
        shuffled_auc(MAP, LOOKED, np.ones((2, 3), int))
    for metric in (correlation, similarity):
        with pytest.raises(ShapeError):
            metric(MAP, np.ones((3, 2)))
        with pytest.raises(InputError, match="finite"):
            metric(MAP, np.full((2, 2), np.inf))


# ---- pool and means ------------------------------------------------------------------------------


def test_the_pool_counts_the_others_only():
    pool = FixationPool()
    first, second = np.zeros((4, 6), bool), np.zeros((4, 6), bool)
    first[0, 0] = first[3, 5] = second[3, 5] = True
    for fixated in (first, second):
        pool.add(fixated)
    assert pool.counts((4, 6))[3, 5] == 2
    assert (pool.counts((4, 6), without=first) == second).all()
    pool.add(second)
    assert (pool.counts((4, 6), without=second) == first.astype(int) + second).all()


def test_fixations_of_other_sizes_lie_at_the_same_place_of_the_picture():
    pool = FixationPool()
    small = np.zeros((2, 3), bool)
    small[1, 2] = small[0, 0] = True
    pool.add(small)
    large = pool.counts((8, 12))
    assert [tuple(map(int, place)) for place in np.argwhere(large)] == [(2, 2), (6, 10)]
    big = np.zeros((8, 12), bool)
    big[4:8, 8:12] = True
    pool.add(big)
    assert pool.counts((2, 3)).tolist() == [[1, 0, 0], [0, 0, 1 + 16]]
    assert pool.counts((8, 12)).sum() == 2 + 16


def test_means_are_over_pictures_and_leave_out_what_cannot_be_worked_out():
    score = Score()
    assert score.means() == {}
    score.add(MAP, LOOKED)
    score.add(-MAP, LOOKED, density=MAP, elsewhere=np.zeros((2, 2), int))
    score.add(MAP, np.zeros((2, 2), bool), density=MAP)
    assert (score.pictures, score.unfixated) == (2, 1)
    means = score.means()
    assert list(means) == ["AUC-J", "NSS", "CC", "SIM"]
    assert means["AUC-J"] == pytest.approx((0.875 + 0.5) / 2)
    assert means["NSS"] == pytest.approx(0)
    assert means["CC"] == pytest.approx(-1)  # of the only picture with a density
    score.add(MAP, LOOKED, elsewhere=np.ones((2, 2), int))
    assert list(score.means()) == ["AUC-J", "s-AUC", "NSS", "CC", "SIM"]
