"""What a clip is drawn from: a seed, and for look, camera and objects a number each under it."""

from __future__ import annotations

import hashlib
import math
from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from typing import TYPE_CHECKING, Any, Literal, get_args

import numpy as np

from seg2vid_cli.errors import InputError

if TYPE_CHECKING:
    from torch import Tensor

Part = Literal["appearance", "background", "foreground"]
PARTS: tuple[Part, ...] = get_args(Part)
MOTION: tuple[Part, ...] = ("background", "foreground")
Vary = Literal["motion", "appearance", "both"]
VARIES: tuple[Vary, ...] = get_args(Vary)
VaryMotion = Literal["background", "foreground", "both"]
VARIES_MOTION: tuple[VaryMotion, ...] = get_args(VaryMotion)
MAX_SEED, MAX_VARIANT = 2**63 - 1, 2**31 - 1
MAX_MOTION_SCALE = 4.0


@dataclass(frozen=True, kw_only=True)
class Sample:
    """Where the random numbers of one clip come from.

    Args:
        seed: The user's seed.
        variant: Number of the sample under this seed.
        variants: For parts that are another sample's: its number.
        to_seed: Seed at the other end, where the sample lies between two seeds.
        shares: For each part how far it is on the way to `to_seed`, from 0 to 1.
        motion_scale: Factor on the length of all flows.
        light: How light the first frame is among those that its weights learnt from, from 0 to 1;
            None to draw it.

    Raises:
        InputError: A number out of range.
    """

    seed: int = 0
    variant: int = 0
    variants: Mapping[str, int] = field(default_factory=dict)
    to_seed: int | None = None
    shares: Mapping[str, float] = field(default_factory=dict)
    motion_scale: float = 1.0
    light: float | None = None

    def __post_init__(self) -> None:
        numbers: list[tuple[str, Any, int]] = [
            ("seed", self.seed, MAX_SEED),
            ("variant", self.variant, MAX_VARIANT),
            *(
                (f"variant of {part}", number, MAX_VARIANT)
                for part, number in self.variants.items()
            ),
        ]
        if self.to_seed is not None:
            numbers.append(("the seed at the other end", self.to_seed, MAX_SEED))
        for name, value, high in numbers:
            if type(value) is not int or not 0 <= value <= high:
                raise InputError(
                    f"{name} {value} is out of range", hint=f"a whole number from 0 to {high}"
                )
        for share in self.shares.values():
            if not 0 <= share <= 1:
                raise InputError(f"share {share} is out of range", hint="a number from 0 to 1")
        if not 0 <= self.motion_scale <= MAX_MOTION_SCALE:  # also false for NaN
            raise InputError(
                f"motion scale {self.motion_scale:g} is out of range",
                hint=f"a number from 0 to {MAX_MOTION_SCALE:g}; 1 leaves the motion as it is",
            )
        if self.light is not None and not 0 <= self.light <= 1:
            raise InputError(
                f"light {self.light:g} is out of range",
                hint="a number from 0, as dark as any, to 1, as light as any",
            )
        unknown = {*self.variants, *self.shares} - set(PARTS)
        if unknown:
            raise InputError(f"{min(unknown)}: no part of a sample", hint=f"use {', '.join(PARTS)}")

    def variant_of(self, part: Part) -> int:
        """Number of the sample that a part is taken from."""
        return self.variants.get(part, self.variant)

    def share_of(self, part: Part) -> float:
        """How far a part is on the way to `to_seed`; 0 without one."""
        return 0.0 if self.to_seed is None else self.shares.get(part, 0.0)

    def key(self, part: Part) -> tuple[object, ...]:
        """Two samples with equal keys draw the same numbers for this part."""
        share = self.share_of(part)
        light = self.light if part == "appearance" else None
        return self.seed, self.variant_of(part), share, self.to_seed if share else None, light

    def draw(self, shape: tuple[int, ...], *, part: Part, purpose: str, even: int = 0) -> Tensor:
        """Standard normal numbers for a part, float32 on the CPU; see `draw_normal`.

        Between two seeds they move along a quarter of a circle, so that they stay standard normal
        all the way.

        Args:
            shape: Shape to return.
            part: Whose variant decides.
            purpose: What the numbers are for; different purposes are independent.
            even: So many numbers, the first along the last axis, are spread evenly over the
                variants of a seed, so that few variants show much; see `draw_evenly`.
        """
        from seg2vid_cli.device import draw_evenly, draw_normal  # torch, which recipes do without

        variant, share = self.variant_of(part), self.share_of(part)

        def numbers(seed: int) -> Tensor:
            drawn = draw_normal(shape, seed=seed, variant=variant, purpose=purpose)
            if even:
                first = draw_normal(shape, seed=seed, variant=0, purpose=purpose)[..., :even]
                drawn[..., :even] = draw_evenly(first, variant)
            return drawn

        start = numbers(self.seed)
        if not share:
            return start
        assert self.to_seed is not None
        end = numbers(self.to_seed)
        if share == 1:
            return end
        angle = share * math.pi / 2
        return math.cos(angle) * start + math.sin(angle) * end

    def generator(self, *, part: Part, purpose: str) -> np.random.Generator:
        """Source of numbers for a part that cannot lie between two seeds: the nearer one's."""
        seed = self.seed
        if self.share_of(part) >= 0.5:
            assert self.to_seed is not None
            seed = self.to_seed
        text = f"{seed}/{self.variant_of(part)}/{purpose}"
        return np.random.default_rng(list(hashlib.sha256(text.encode()).digest()))

    def describe(self) -> str:
        """Short, for captions: `seed 3`, `seed 3, variant 2`, `seed 3 to 9: 50 %`."""
        if self.to_seed is not None:
            share = max(self.share_of(part) for part in PARTS)
            return f"seed {self.seed} to {self.to_seed}: {100 * share:.0f} %"
        return f"seed {self.seed}" + (f", variant {self.variant}" if self.variant else "")


def plan_samples(
    count: int,
    *,
    seed: int = 0,
    variant: int = 0,
    vary: Vary = "motion",
    vary_motion: VaryMotion = "both",
    to_seed: int | None = None,
    motion_scale: float = 1.0,
    light: float | None = None,
    base: Sample | None = None,
) -> list[Sample]:
    """Plan samples that share what does not vary.

    Args:
        count: How many.
        seed: The user's seed.
        variant: Number of the first sample; what does not vary is always this one's.
        vary: Whether motion, look or both differ.
        vary_motion: Where motion varies: the camera's part, the objects', or both.
        to_seed: Go from `seed` to this one in equal steps, instead of counting variants.
        motion_scale: See `Sample`.
        light: See `Sample`.
        base: The first sample, instead of `seed`, `variant`, `motion_scale` and `light`.

    Raises:
        InputError: A number out of range, or words that are unknown or do not go together.
    """
    for word, words in ((vary, VARIES), (vary_motion, VARIES_MOTION)):
        if word not in words:
            raise InputError(f"'{word}' is not known", hint=f"use one of {', '.join(words)}")
    if vary == "appearance" and vary_motion != "both":
        raise InputError(
            "whose motion varies is of no use where only the look does", hint="use --vary motion"
        )
    base = base or Sample(seed=seed, variant=variant, motion_scale=motion_scale, light=light)
    most = MAX_VARIANT - base.variant + 1
    if not 1 <= count <= most:
        raise InputError(f"{count} samples are out of range", hint=f"use 1 to {most}")
    if to_seed is not None and count < 2:
        raise InputError("one sample cannot lie between two seeds", hint="use --samples 2 or more")
    varied: set[Part] = {"appearance"} if vary in ("appearance", "both") else set()
    if vary in ("motion", "both"):
        varied |= set(MOTION) if vary_motion == "both" else {vary_motion}
    samples = []
    for index in range(count):
        if to_seed is None:
            number = base.variant + index
            fixed = [(part, base.variant_of(part)) for part in PARTS if part not in varied]
            kept: dict[str, int] = {part: own for part, own in fixed if own != number}
            samples.append(replace(base, variant=number, variants=kept))
        else:
            shares: dict[str, float] = {p: index / (count - 1) for p in PARTS if p in varied}
            samples.append(replace(base, to_seed=to_seed, shares=shares))
    return samples
