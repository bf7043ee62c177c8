"""Label map to places that have a colour of their own: each house, each vehicle, each sign.

A label map does not say what colour a car is. A generator that is left to guess paints the mean of
all cars; one that is told paints this one. While training, a place has the mean colour that it has
in the real picture; afterwards colours are drawn, see `seg2vid_cli.networks.label_unet.Palette`.

Source: the instance-wise features of "High-Resolution Image Synthesis and Semantic Manipulation
with Conditional GANs" (Wang et al., CVPR 2018), with the mean colour in place of learnt features.
"""

from __future__ import annotations

from itertools import pairwise

import numpy as np
from numpy.typing import NDArray

from seg2vid_cli.sketch import (
    CAR,
    HOUSES,
    LONGEST_CAR,
    connected_parts,
    find_vanishing_point,
    find_walls,
    house_numbers,
    house_starts,
    sources,
)

BOTH_SIDES = (4, 8)  # fence, vegetation: one place on each side of the street
APART = (5, 6, 7, *range(11, 19))  # poles, lights, signs, objects: every connected part
NUM_SIDES = 2
SMALLEST = 2e-4  # share of the map; smaller parts of a class share one place
NARROWEST = 5 / 256  # of the height: houses farther away than that share one place


def find_places(train_ids: NDArray[np.uint8], rng: np.random.Generator) -> NDArray[np.intp]:
    """Number the places of a label map that have a colour of their own.

    Args:
        train_ids: uint8 `(H, W)`, 0-18 and 19 = unlabelled.
        rng: Decides where houses begin; as for `seg2vid_cli.sketch.sketch_edges`, so that both draw
            the same houses.

    Returns:
        `(H, W)`, from 0 on without gaps, each inside one class; in order of the classes.
    """
    height, width = shape = train_ids.shape
    centre = find_vanishing_point(train_ids)
    walls = find_walls(train_ids, centre)
    right = np.broadcast_to(walls.right, shape)
    within = np.zeros(shape, np.intp)
    starts = house_starts(sources(rng)[0])
    houses = house_numbers(walls, starts)
    for side in range(NUM_SIDES):
        # Where a house is so many pixels wide, the farther ones go on with its number.
        edges_px = width / 2 / np.maximum(starts[side], 1e-3)
        last = int(np.count_nonzero(-np.diff(edges_px) >= NARROWEST * height))
        number = np.where(walls.faces, houses, np.minimum(houses, last))
        mine = np.isin(train_ids, HOUSES) & (right == bool(side))
        within[mine] = NUM_SIDES * np.broadcast_to(number, shape)[mine] + side
    sides = np.isin(train_ids, BOTH_SIDES)
    within[sides] = right[sides]
    for train_id in APART:
        mask = train_ids == train_id
        if mask.any():
            within[mask] = _things(mask, LONGEST_CAR if train_id == CAR else np.inf)[mask]
    return _without_gaps(train_ids.astype(np.intp) * (int(within.max()) + 1) + within)


def one_place_a_class(train_ids: NDArray[np.uint8]) -> NDArray[np.intp]:
    """Number classes as `find_places` numbers places, for sequences: houses come and go there."""
    return _without_gaps(train_ids.astype(np.intp))


def _without_gaps(numbers: NDArray[np.intp]) -> NDArray[np.intp]:
    there = np.bincount(numbers.ravel()) > 0
    without: NDArray[np.intp] = (np.cumsum(there) - 1)[numbers]
    return without


def _things(mask: NDArray[np.bool_], longest: float) -> NDArray[np.intp]:
    """Number every connected part of a class, from 1 on; 0 for all small ones together."""
    parts = connected_parts(mask)
    large = np.bincount(parts.ravel()) >= SMALLEST * mask.size
    large[0] = False
    things = np.where(large, np.cumsum(large), 0)[parts]
    following = int(things.max()) + 1
    for number in range(1, following):
        rows, columns = np.nonzero(things == number)
        wide, high = np.ptp(columns) + 1, np.ptp(rows) + 1
        if wide > longest * high:  # a row of vehicles, as the sketch draws it
            count = round(1.4 * wide / (longest * high))
            borders = np.linspace(columns.min(), columns.max() + 1, count + 1).astype(int)
            for start, end in pairwise(borders[1:]):
                things[:, start:end][things[:, start:end] == number] = following
                following += 1
    return things


def classes_of(places: NDArray[np.intp], train_ids: NDArray[np.uint8]) -> NDArray[np.uint8]:
    """Class of every place, `(P,)`."""
    classes = np.zeros(int(places.max()) + 1, np.uint8)
    classes[places.ravel()] = train_ids.ravel()
    return classes


def mean_colours(picture: NDArray[np.uint8], places: NDArray[np.intp]) -> NDArray[np.uint8]:
    """Give every pixel the mean colour of its place, uint8 `(H, W, 3)` to the same."""
    flat = places.ravel()
    counts = np.bincount(flat)
    sums = [np.bincount(flat, weights=picture[..., c].ravel()) for c in range(3)]
    means = np.stack(sums, axis=1) / np.maximum(counts, 1)[:, None]
    colours: NDArray[np.uint8] = means.round().astype(np.uint8)[places]
    return colours
