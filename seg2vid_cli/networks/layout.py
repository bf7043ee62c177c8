"""What labels say about the shape of a scene: the ground is flat, and what stands on it is upright.

A network says how near every pixel is, with small errors that bend houses and kerbs as the camera
comes nearer. Here they are taken out, class by class.
"""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor
from torch.nn import functional as F

# Of the 20 planes.
OBJECTS = slice(11, 19)
UPRIGHT = (5, 6, 7, *range(11, 19))  # poles, lights, signs and objects
BACKDROP = (2, 3, 4, 8)  # houses, walls, fences and plants
STANDING = (*BACKDROP, *UPRIGHT)
VEHICLES = (13, 14, 15, 16)
PERSON, RIDER = 11, 12
RIDDEN = (RIDER, 17, 18)  # with motorcycle and bicycle
FLAT = (0, 1)  # road and pavement
GROUND = (*FLAT, 9)
SKY = 10
NO_CLASS = 19
FOOT_PX = 2  # below a thing the ground is really seen
BESIDE_PX = 4
WIDEST_PX = 24  # from a foot to what stands on it
REACH_STEPS = 24  # of `BESIDE_PX` to either side: as wide as anybody; a crowd need not be one
ROW_STEP = 1.25  # how many times nearer a part of a vehicle may be than the ground below it says
ONE_VEHICLE = 0.1  # share by which its parts may be nearer than each other, in `BESIDE_PX`
LEVELLED = 2  # times that neighbours in a thing come nearer to each other
LEAST_FLAT = 0.015  # share of the picture: less of it says nothing
EVEN = 0.15  # natural logarithm of how far flat ground may be from a plane
FAR = 0.03  # nearness; how wrong that of farther places is, is no matter of shares any more
FITS = 3
LEAST_NEARNESS = 1e-4
FIXED_POINT = 2**24
PLACES = 5


def lie_flat(nearness: Tensor, classes: Tensor) -> Tensor:
    """Make road and pavement one plane, or kerbs and lane marks would bend on the way.

    What is farther from that plane than `EVEN` stays as far from it beyond that: a road may go
    uphill, and labels may be wrong.

    Args:
        nearness: `(B, 1, H, W)`.
        classes: `(B, 1, H, W)`, whole numbers.
    """
    flat = among(classes, FLAT)
    x, y = _across_and_down(classes)
    share = flat / (nearness.detach() + FAR) ** 2
    weight = share
    for _ in range(FITS):
        plane = _fit_plane(nearness, weight, x, y).clamp_min(LEAST_NEARNESS)
        apart = (nearness.clamp_min(LEAST_NEARNESS) / plane).log()
        weight = share / (1 + (apart.detach() / EVEN) ** 2)
    uneven = (apart - apart.clamp(-EVEN, EVEN)).exp() * plane
    enough = flat.to(nearness.dtype).mean((1, 2, 3), keepdim=True) > LEAST_FLAT
    return torch.where(flat & enough, uneven, nearness)


def _across_and_down(classes: Tensor) -> tuple[Tensor, Tensor]:
    """Where the pixels of `(B, 1, H, W)` are, from -1 to 1; both of that shape."""
    height, width = classes.shape[-2:]
    x = torch.linspace(-1, 1, width, device=classes.device).expand(classes.shape)
    y = torch.linspace(-1, 1, height, device=classes.device)[:, None].expand(classes.shape)
    return x, y


def _fit_plane(values: Tensor, weight: Tensor, x: Tensor, y: Tensor) -> Tensor:
    """The plane over `x` and `y` that is next to values by weighted squares; all `(B, 1, H, W)`."""

    def along(a: Tensor, b: Tensor) -> Tensor:
        return (weight * a * b).sum((2, 3), keepdim=True)

    plane, axes = torch.zeros_like(values), list[Tensor]()
    for axis in (torch.ones_like(x), x, y):
        for other in axes:
            axis = axis - other * along(axis, other) / along(other, other).clamp_min(1e-9)
        plane = plane + axis * along(values, axis) / along(axis, axis).clamp_min(1e-9)
        axes.append(axis)
    return plane


def stand_upright(values: Tensor, classes: Tensor) -> Tensor:
    """Make what stands on the ground as near at its top as at its foot, and as fast.

    Every column's run of pixels of one class gets its mean: an upright wall, whichever way it
    faces, is equally near all the way up. Neighbours come nearer to each other, so that legs stay
    with their bodies.

    Args:
        values: `(B, C, H, W)`.
        classes: `(B, 1, H, W)`, whole numbers.
    """
    runs = _runs(classes).expand_as(values)
    counts = torch.zeros_like(values).scatter_add(2, runs, torch.ones_like(values)).clamp_min(1)
    alike = [same.to(values.dtype) for same in _alike(classes)]
    share = torch.stack(alike).sum(0)

    def level(values: Tensor) -> Tensor:
        return (_sums(values, runs) / counts).gather(2, runs)

    made = level(values)
    for _ in range(LEVELLED):
        shifted = zip(_shifted(made), alike, strict=True)
        made = level(sum((there * same for there, same in shifted), torch.zeros_like(made)) / share)
    return torch.where(among(classes, STANDING), made, values)


def move_as_one(values: Tensor, classes: Tensor, owners: Tensor) -> Tensor:
    """Let everybody go as a whole, and riders with what they ride, or legs would part in the end.

    Vehicles too, which would be stretched.

    Args:
        values: `(B, C, H, W)`.
        classes: `(B, 1, H, W)`, whole numbers.
        owners: From `who_is_who` and `which_vehicle`.

    Returns:
        `values`, but for objects the mean of each one, or of a group that touches.
    """
    whole = objects(classes)
    counts = torch.zeros_like(values[:, :1]).flatten(2)
    counts = counts.scatter_add(2, owners, whole.flatten(2).to(values.dtype)).clamp_min(1)
    owners = owners.expand(-1, values.shape[1], -1)
    means = (_sums((values * whole).flatten(2), owners) / counts).gather(2, owners)
    return torch.where(whole, means.view_as(values), values)


def sit_upright(nearness: Tensor, classes: Tensor, owners: Tensor) -> Tensor:
    """Make riders as near as the nearest of what they touch and ride: its wheels are on the ground.

    Args:
        nearness: `(B, 1, H, W)`.
        classes: `(B, 1, H, W)`, whole numbers.
        owners: From `who_is_who`.
    """
    ridden = among(classes, RIDDEN)
    own = (nearness * ridden).flatten(2)
    nearest = _largest(own, owners)
    return torch.where(classes == RIDER, nearest.view_as(nearness), nearness)


def who_is_who(classes: Tensor) -> Tensor:
    """Whose pixels those of people are, and those of riders and what they ride.

    Args:
        classes: `(B, 1, H, W)`, whole numbers.

    Returns:
        For all pixels in a row, `(B, 1, H * W)`: the place of one that stands for all that are
        connected, across small gaps too, as far as `REACH_STEPS` go.
    """
    ridden = among(classes, RIDDEN)
    those = ridden | (classes == PERSON)
    masks = torch.cat([those & ~ridden, ridden], dim=1)
    runs = _runs(torch.where(those, ridden.long(), -1))
    number = torch.arange(1.0, those[0].numel() + 1, device=classes.device).view_as(those[0])
    number = number * those
    for _ in range(REACH_STEPS if those.any() else 0):  # the largest number of all spreads
        spread = F.max_pool2d(number * masks, (1, 2 * BESIDE_PX + 1), 1, (0, BESIDE_PX))
        spread = F.max_pool2d(spread, (3, 1), 1, (1, 0)) * masks
        larger = spread.sum(1, keepdim=True)
        larger = _largest(larger, runs) * those
        if torch.equal(larger, number):
            break
        number = larger
    return (number - 1).clamp_min(0).long().flatten(2)


def which_vehicle(nearness: Tensor, classes: Tensor, owners: Tensor) -> Tensor:
    """Whose pixels those of vehicles are: what touches and is equally near is one.

    Args:
        nearness: `(B, 1, H, W)`, the same in every column's run of a vehicle.
        classes: `(B, 1, H, W)`, whole numbers.
        owners: From `who_is_who`.

    Returns:
        As `owners`, for vehicles too.
    """
    vehicles, runs = among(classes, VEHICLES), _runs(classes)
    number = torch.arange(1.0, vehicles[0].numel() + 1, device=classes.device)
    number = number.view_as(vehicles[0]) * vehicles
    alike = [
        same & vehicles & ((there - nearness).abs() < ONE_VEHICLE * nearness)
        for same, there in zip(_alike(classes), _shifted(nearness), strict=True)
    ]
    for _ in range(classes.shape[-1] if vehicles.any() else 0):  # the largest number of all spreads
        larger = torch.maximum(number, _spread(number, runs, alike))
        if torch.equal(larger, number):
            break
        number = larger
    own = (number - 1).clamp_min(0).long().flatten(2)
    return torch.where(vehicles.flatten(2), own, owners)


def put_on_ground(nearness: Tensor, classes: Tensor) -> Tensor:
    """Make things as near as the ground they stand on, where it is seen below them.

    No gradient goes to the ground through what stands on it.

    Args:
        nearness: `(B, 1, H, W)`.
        classes: `(B, 1, H, W)`, whole numbers.
    """
    upright, runs = things(classes), _runs(classes)
    below = F.pad(classes[:, :, 1:], (0, 0, 0, 1), value=NO_CLASS)
    foot = (upright & among(below, GROUND)).to(nearness.dtype)
    there = F.pad(nearness.detach()[:, :, FOOT_PX:], (0, 0, 0, FOOT_PX), mode="replicate")
    # One foot a run at most, so that the order of sums does not matter.
    own = torch.zeros_like(there).scatter_add(2, runs, foot * there).gather(2, runs) * upright
    # A thing is where its nearest foot is: a leg that is lifted, or a bumper between two wheels,
    # meets the ground behind it. What may be a row of things is not brought much nearer.
    row = (own > 0) & among(classes, VEHICLES)
    most = torch.where(row, own * ROW_STEP, torch.inf)
    nearest, alike = own, [same & upright for same in _alike(classes)]
    for _ in range(WIDEST_PX // BESIDE_PX if own.any() else 0):
        grown = _spread(nearest, runs, alike)
        nearest = torch.maximum(nearest, torch.minimum(grown, most) * upright)
    return torch.where(nearest > 0, nearest, nearness)


def places(classes: Tensor) -> Tensor:
    """Where pixels are, and what they belong to, which says most of how near that is.

    Args:
        classes: `(B, 1, H, W)`, whole numbers.

    Returns:
        `(B, PLACES, H, W)` in [-1, 1]: the place across and down; the top and the foot of the run
        of pixels of one class in its column; and the next ground at or below it, 1 without any.
    """
    x, y = _across_and_down(classes)
    runs = _runs(classes)
    top, foot = (
        torch.full_like(y, start).scatter_reduce(2, runs, y, how).gather(2, runs)
        for start, how in ((1.0, "amin"), (-1.0, "amax"))
    )
    ground = torch.where(among(classes, GROUND), y, 1.0).flip(2).cummin(2).values.flip(2)
    return torch.cat([x, y, top, foot, ground], dim=1)


def _sums(values: Tensor, index: Tensor) -> Tensor:
    """Sums along dimension 2 of what has the same index."""
    if values.requires_grad:
        return torch.zeros_like(values).scatter_add(2, index, values)
    whole = (values * FIXED_POINT).round().long()  # whole numbers add up the same in any order
    return torch.zeros_like(whole).scatter_add(2, index, whole).to(values.dtype) / FIXED_POINT


def _largest(values: Tensor, index: Tensor) -> Tensor:
    """The largest along dimension 2 of what has the same index, at least 0; of `index`'s shape."""
    return torch.zeros_like(values).scatter_reduce(2, index, values, "amax").gather(2, index)


def _spread(values: Tensor, runs: Tensor, alike: Sequence[Tensor]) -> Tensor:
    """The largest of what lies a little to the left and right, then of every run.

    Args:
        values: `(B, 1, H, W)`, not negative.
        runs: From `_runs`.
        alike: Bool, which of `_shifted` count.
    """
    beside = torch.zeros_like(values)
    for value, same in zip(_shifted(values), alike, strict=True):
        beside = torch.maximum(beside, value * same)
    return _largest(beside, runs)


def _runs(classes: Tensor) -> Tensor:
    """Number of each pixel's run of one class in its column, from the top, `(B, 1, H, W)`."""
    starts = F.pad((classes[:, :, 1:] != classes[:, :, :-1]).long(), (0, 0, 1, 0))
    return starts.cumsum(2)


def among(classes: Tensor, kinds: Sequence[int]) -> Tensor:
    """Which pixels of whole numbers `(..., H, W)` are of one of some classes."""
    return torch.isin(classes, classes.new_tensor(kinds))


def things(classes: Tensor) -> Tensor:
    """Which pixels belong to poles, lights, signs and objects, `(B, 1, H, W)`."""
    return among(classes, UPRIGHT)


def objects(classes: Tensor) -> Tensor:
    """Which pixels belong to what may move by itself, `(B, 1, H, W)`."""
    return among(classes, range(OBJECTS.start, OBJECTS.stop))


def _alike(classes: Tensor) -> list[Tensor]:
    """Whether pixels a little to the left and right are of the same class; see `_shifted`."""
    return [there == classes for there in _shifted(classes, outside=-1)]


def _shifted(values: Tensor, outside: int = 0) -> list[Tensor]:
    """`(B, C, H, W)` as seen from places a little to the right to a little to the left of it."""
    padded = F.pad(values, (BESIDE_PX, BESIDE_PX), value=outside)
    return [padded[..., x : x + values.shape[-1]] for x in range(2 * BESIDE_PX + 1)]
