"""How well saliency maps predict where people looked: AUC-Judd, shuffled AUC, NSS, CC and SIM.

All are deterministic: no value is jittered and nothing is drawn at random. A *fixation map* is a
boolean picture that is true where somebody looked; a pixel counts once, however often it was looked
at. A *density* is a continuous map of fixations, most often a fixation map blurred by the eye's
resolution; what blur is right depends on how the data were recorded, so none is applied here.

Source: Bylinskii et al., "What do different evaluation metrics tell us about saliency models?",
TPAMI 2019, whose benchmark code (cvzoya/saliency) the definitions follow where the paper leaves a
choice.
"""

from __future__ import annotations

from dataclasses import dataclass, field

import numpy as np
from numpy.typing import NDArray

from seg2vid_cli.errors import InputError, ShapeError

NAMES = ("AUC-J", "s-AUC", "NSS", "CC", "SIM")


def auc_judd(saliency: NDArray[np.floating], fixated: NDArray[np.bool_]) -> float:
    """Area under the ROC curve that tells fixated pixels from all others.

    The thresholds are the values at fixated pixels; the points of the curve are joined by straight
    lines. Equal values are one threshold, so a constant map gives 0.5.

    Args:
        saliency: `(H, W)`, any finite values; only their order matters.
        fixated: `(H, W)`, true where somebody looked.
    Returns:
        Up to 1; 0.5 is chance. The least is half of one over the number of fixations, not 0, for
        the lines are straight.
    Raises:
        ShapeError: Shapes differ, or are not `(H, W)`.
        InputError: No pixel is fixated, or all are, or a value is not finite.
    Source: Judd et al., "Learning to Predict Where Humans Look", ICCV 2009; the benchmark code's
        `AUC_Judd.m` without its jitter, which exists to break ties.
    """
    values, hits = _check(saliency, fixated)
    if hits.all():
        raise InputError("every pixel is fixated, so there is nothing to tell apart")
    others = values.size - int(hits.sum())
    ordered, at_fixations = np.sort(values), np.sort(values[hits])
    thresholds = np.unique(at_fixations)[::-1]
    above = values.size - np.searchsorted(ordered, thresholds)
    hit = at_fixations.size - np.searchsorted(at_fixations, thresholds)
    true_rate = np.concatenate([[0.0], hit / at_fixations.size, [1.0]])
    false_rate = np.concatenate([[0.0], (above - hit) / others, [1.0]])
    return float((np.diff(false_rate) * (true_rate[1:] + true_rate[:-1])).sum() / 2)


def shuffled_auc(
    saliency: NDArray[np.floating], fixated: NDArray[np.bool_], elsewhere: NDArray[np.integer]
) -> float:
    """Area under the ROC curve that tells this picture's fixations from those on other pictures.

    People look at the middle of any picture; what is common to all pictures earns nothing here.
    Benchmark code draws as many of the others' fixations as this picture has, a hundred times, and
    averages; this is the mean over all draws, worked out exactly: the chance that a fixation of
    this picture has a higher value than one of the others', equal values counting half.

    Args:
        saliency: `(H, W)`, any finite values; only their order matters.
        fixated: `(H, W)`, true where somebody looked.
        elsewhere: `(H, W)`, how many other pictures were looked at there. Places that are fixated
            in this picture too stay in.
    Returns:
        From 0 to 1; 0.5 is chance, also for a constant map.
    Raises:
        ShapeError: Shapes differ, or are not `(H, W)`.
        InputError: No pixel is fixated here, or none elsewhere, or a value is not finite.
    Source: Zhang et al., "SUN: A Bayesian framework for saliency using natural statistics", JOV
        2008; the benchmark code's `AUC_shuffled.m`.
    """
    values, hits = _check(saliency, fixated)
    if elsewhere.shape != saliency.shape:
        raise ShapeError(f"fixations elsewhere are {elsewhere.shape}, the map {saliency.shape}")
    counts = elsewhere.ravel()
    there = counts > 0
    if not there.any():
        raise InputError("no pixel is fixated in the other pictures")
    order = np.argsort(values[there], kind="stable")
    levels = values[there][order]
    weight_below = np.concatenate([[0.0], np.cumsum(counts[there][order], dtype=np.float64)])
    lower = weight_below[np.searchsorted(levels, values[hits], side="left")]
    lower_or_equal = weight_below[np.searchsorted(levels, values[hits], side="right")]
    return float((lower + lower_or_equal).mean() / (2 * weight_below[-1]))


def nss(saliency: NDArray[np.floating], fixated: NDArray[np.bool_]) -> float:
    """Normalized scanpath saliency: the mean at fixations, in standard deviations above the map's.

    Args:
        saliency: `(H, W)`, any finite values.
        fixated: `(H, W)`, true where somebody looked.
    Returns:
        0 is chance, which a constant map is taken to be. The deviation is that of all pixels
        (divided by their number, not by one less).
    Raises:
        ShapeError: Shapes differ, or are not `(H, W)`.
        InputError: No pixel is fixated, or a value is not finite.
    Source: Peters et al., "Components of bottom-up gaze allocation in natural images", Vision
        Research 2005.
    """
    values, hits = _check(saliency, fixated)
    if values.min() == values.max():
        return 0.0
    return float((values[hits].mean() - values.mean()) / values.std())


def correlation(saliency: NDArray[np.floating], density: NDArray[np.floating]) -> float:
    """CC: Pearson's linear correlation of two maps over all pixels.

    Args:
        saliency: `(H, W)`, any finite values.
        density: `(H, W)`, where people looked.
    Returns:
        From -1 to 1; 0 where one of the two is constant and so has no correlation.
    Raises:
        ShapeError: Shapes differ, or are not `(H, W)`.
        InputError: A value is not finite.
    Source: Bylinskii et al., as above.
    """
    first, second = _check_pair(saliency, density)
    if first.min() == first.max() or second.min() == second.max():
        return 0.0
    first, second = first - first.mean(), second - second.mean()
    return float((first * second).sum() / np.sqrt((first**2).sum() * (second**2).sum()))


def similarity(saliency: NDArray[np.floating], density: NDArray[np.floating]) -> float:
    """SIM: what two maps have in common when each is a distribution.

    Each map is lowered so that its least value is 0 and then divided by its sum, as the benchmark
    code does; without the first step a uniform floor under a map would count as likeness. A
    constant map is taken to be the uniform distribution.

    Args:
        saliency: `(H, W)`, any finite values.
        density: `(H, W)`, where people looked.
    Returns:
        From 0 (nothing in common) to 1 (the same).
    Raises:
        ShapeError: Shapes differ, or are not `(H, W)`.
        InputError: A value is not finite.
    Source: Judd et al., "A benchmark of computational models of saliency to predict human
        fixations", 2012; the benchmark code's `similarity.m`.
    """
    first, second = _check_pair(saliency, density)
    return float(np.minimum(_distribution(first), _distribution(second)).sum())


def _distribution(values: NDArray[np.float64]) -> NDArray[np.float64]:
    above = values - values.min()
    total = above.sum()
    return above / total if total > 0 else np.full(values.shape, 1 / values.size)


def _check(
    saliency: NDArray[np.floating], fixated: NDArray[np.bool_]
) -> tuple[NDArray[np.float64], NDArray[np.bool_]]:
    if saliency.ndim != 2 or saliency.shape != fixated.shape or fixated.dtype != np.bool_:
        raise ShapeError(
            f"expected a map and boolean fixations of one shape (H, W), got {saliency.shape} and "
            f"{fixated.dtype} {fixated.shape}"
        )
    if not fixated.any():
        raise InputError("no pixel is fixated")
    return _finite(saliency), fixated.ravel()


def _check_pair(
    saliency: NDArray[np.floating], density: NDArray[np.floating]
) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
    if saliency.ndim != 2 or saliency.shape != density.shape or not saliency.size:
        raise ShapeError(
            f"expected two maps of one shape (H, W), got {saliency.shape} and {density.shape}"
        )
    return _finite(saliency), _finite(density)


def _finite(values: NDArray[np.floating]) -> NDArray[np.float64]:
    flat = values.astype(np.float64).ravel()
    if not np.isfinite(flat).all():
        raise InputError("a map holds values that are no finite numbers")
    return flat


class FixationPool:
    """Where people looked in many pictures, for the shuffled AUC.

    It holds one picture of counts for every size that occurs, so memory does not grow with the
    number of pictures.
    """

    def __init__(self) -> None:
        self._counts: dict[tuple[int, int], NDArray[np.int64]] = {}
        self._sums: dict[tuple[int, int], NDArray[np.int64]] = {}

    def add(self, fixated: NDArray[np.bool_]) -> None:
        """Add a picture's fixation map, `(H, W)`."""
        height, width = fixated.shape
        self._counts.setdefault((height, width), np.zeros((height, width), np.int64))
        self._counts[height, width] += fixated
        self._sums.clear()

    def counts(
        self, size_hw: tuple[int, int], *, without: NDArray[np.bool_] | None = None
    ) -> NDArray[np.int64]:
        """Count in how many pictures each place was looked at.

        Args:
            size_hw: Size of the picture to be scored. Fixations in pictures of other sizes lie at
                the same share of width and height.
            without: Fixation map of that picture itself, where it is in the pool.
        Returns:
            `(H, W)`.
        """
        if size_hw not in self._sums:
            self._sums[size_hw] = self._sum(size_hw)
        total = self._sums[size_hw]
        return total if without is None else total - without

    def _sum(self, size_hw: tuple[int, int]) -> NDArray[np.int64]:
        total = np.zeros(size_hw, np.int64)
        for (height, width), counts in self._counts.items():
            rows, columns = np.nonzero(counts)
            # The pixel in which the middle of the other picture's pixel lies.
            row = (2 * rows + 1) * size_hw[0] // (2 * height)
            column = (2 * columns + 1) * size_hw[1] // (2 * width)
            np.add.at(total, (row, column), counts[rows, columns])
        return total


@dataclass
class Score:
    """Means of the metrics over pictures; each picture counts the same.

    Attributes:
        pictures: How many were scored.
        unfixated: How many were left out, since nobody looked anywhere.
    """

    pictures: int = 0
    unfixated: int = 0
    _sums: dict[str, tuple[float, int]] = field(default_factory=dict)

    def add(
        self,
        saliency: NDArray[np.floating],
        fixated: NDArray[np.bool_],
        *,
        density: NDArray[np.floating] | None = None,
        elsewhere: NDArray[np.integer] | None = None,
    ) -> None:
        """Score one picture.

        Args:
            saliency: `(H, W)`.
            fixated: `(H, W)`; with no pixel set, the picture is left out altogether.
            density: `(H, W)`, for CC and SIM.
            elsewhere: `(H, W)`, for the shuffled AUC, see there; left out where no pixel is set.
        Raises:
            ShapeError: Shapes differ.
            InputError: See the metrics.
        """
        if not fixated.any():
            self.unfixated += 1
            return
        self.pictures += 1
        found = {"AUC-J": auc_judd(saliency, fixated), "NSS": nss(saliency, fixated)}
        if elsewhere is not None and elsewhere.any():
            found["s-AUC"] = shuffled_auc(saliency, fixated, elsewhere)
        if density is not None:
            found["CC"] = correlation(saliency, density)
            found["SIM"] = similarity(saliency, density)
        for name, value in found.items():
            total, count = self._sums.get(name, (0.0, 0))
            self._sums[name] = (total + value, count + 1)

    def means(self) -> dict[str, float]:
        """Mean of each metric that could be worked out, by its usual name, in the usual order."""
        return {n: self._sums[n][0] / self._sums[n][1] for n in NAMES if n in self._sums}
