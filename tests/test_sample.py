"""What a clip is drawn from: which parts vary, what lies between two seeds, and what is refused."""

from __future__ import annotations

import math
from itertools import product

import pytest
import torch

from seg2vid_cli.device import draw_evenly, draw_normal
from seg2vid_cli.errors import InputError
from seg2vid_cli.sample import (
    MAX_MOTION_SCALE,
    MAX_SEED,
    MAX_VARIANT,
    PARTS,
    VARIES,
    VARIES_MOTION,
    Sample,
    plan_samples,
)

SHAPE = (1, 64)


def draw(sample, part="appearance", shape=SHAPE, purpose="texture"):
    return sample.draw(shape, part=part, purpose=purpose)


def numbers(seed=0, variant=0, shape=SHAPE, purpose="texture"):
    return draw_normal(shape, seed=seed, variant=variant, purpose=purpose)


def alike(one, other):
    """Parts for which two samples draw the same numbers."""
    return {part for part in PARTS if torch.equal(draw(one, part), draw(other, part))}


def correlation(one, other):
    return float((one * other).mean() / (one.std() * other.std()))


# ---- samples -------------------------------------------------------------------------------------


@pytest.mark.parametrize("part", PARTS)
def test_a_plain_sample_draws_what_its_seed_and_variant_stand_for(part):
    assert torch.equal(draw(Sample(), part), numbers())
    assert torch.equal(draw(Sample(seed=7, variant=3), part), numbers(7, 3))
    largest = Sample(seed=MAX_SEED, variant=MAX_VARIANT)
    assert torch.equal(draw(largest, part), numbers(2**63 - 1, 2**31 - 1))


def test_even_numbers_are_spread_over_the_variants_of_a_seed():
    """Every variant by itself is as likely as before, and together they leave no large gap."""
    apart = {"even": [], "one by one": []}
    for seed in range(60):
        rows = [
            Sample(seed=seed, variant=v).draw(SHAPE, part="background", purpose="drive", even=2)
            for v in range(20)
        ]
        assert torch.equal(rows[0], numbers(seed, purpose="drive"))
        assert torch.equal(rows[5][:, 2:], numbers(seed, 5, purpose="drive")[:, 2:])
        for name, points in (
            ("even", torch.cat(rows)[:, :2]),
            ("one by one", torch.cat([numbers(seed, v)[:, :2] for v in range(20)])),
        ):
            shares = torch.special.ndtr(points.double())
            gaps = (torch.rand(200, 1, 2).double() - shares).norm(dim=-1).amin(1)
            apart[name].append(float(gaps.mean()))
    assert sum(apart["even"]) < 0.85 * sum(apart["one by one"])
    fifth = torch.cat(
        [
            Sample(seed=s, variant=5).draw((1, 3), part="background", purpose="drive", even=3)
            for s in range(2000)
        ]
    )
    assert fifth.mean(0).abs().max() < 0.1
    assert (fifth.std(0) - 1).abs().max() < 0.1
    assert (torch.corrcoef(fifth.T) - torch.eye(3)).abs().max() < 0.1


@pytest.mark.parametrize("variant", [1, 10**6, MAX_VARIANT])
def test_even_numbers_of_late_variants_are_exact(variant):
    """Steps of the golden ratio, in whole numbers of a hundred digits."""
    first = torch.tensor([[0.0]])
    golden = (math.isqrt(5 * 10**200) - 10**100) * variant // 2 % 10**100
    wanted = (0.5 + golden / 10**100) % 1
    found = torch.special.ndtr(draw_evenly(first, variant).double())
    assert float(found) == pytest.approx(wanted, abs=2e-6)


def test_purpose_and_shape_are_the_callers():
    sample = Sample(seed=1, to_seed=2, shares={"appearance": 0.5})
    assert draw(sample, shape=(2, 3, 4)).shape == (2, 3, 4)
    assert not torch.equal(draw(sample), draw(sample, purpose="appearance"))
    assert draw(sample).dtype == torch.float32


def test_a_part_may_be_another_samples():
    sample = Sample(seed=7, variant=3, variants={"background": 0, "foreground": 5})
    assert [sample.variant_of(part) for part in PARTS] == [3, 0, 5]
    for part, variant in zip(PARTS, (3, 0, 5), strict=True):
        assert torch.equal(draw(sample, part), numbers(7, variant))


@pytest.mark.parametrize("part", PARTS)
@pytest.mark.parametrize("variant", [0, 4])
def test_the_ends_between_two_seeds_are_those_seeds_exactly(part, variant):
    for share, seed in ((0, 2), (0.0, 2), (1, 9), (1.0, 9)):
        sample = Sample(seed=2, variant=variant, to_seed=9, shares={part: share})
        assert torch.equal(draw(sample, part), numbers(seed, variant))


def test_parts_without_a_share_stay_at_the_first_seed():
    sample = Sample(seed=2, to_seed=9, shares={"background": 1.0})
    assert [sample.share_of(part) for part in PARTS] == [0, 1, 0]
    assert alike(sample, Sample(seed=2)) == {"appearance", "foreground"}
    assert alike(sample, Sample(seed=9)) == {"background"}


def test_shares_mean_nothing_without_another_seed():
    sample = Sample(seed=2, shares=dict.fromkeys(PARTS, 0.5))
    assert alike(sample, Sample(seed=2)) == set(PARTS)


@pytest.mark.parametrize("share", [0.25, 1 / 3, 0.5, 0.9])
def test_between_two_seeds_numbers_stay_standard_normal(share):
    shape = (400, 400)
    sample = Sample(seed=2, variant=1, to_seed=9, shares={"foreground": share})
    between = draw(sample, "foreground", shape)
    start, end = numbers(2, 1, shape), numbers(9, 1, shape)
    assert abs(between.mean()) < 0.01
    assert abs(between.std() - 1) < 0.01
    # A quarter of a circle, in equal steps.
    assert correlation(between, start) == pytest.approx(math.cos(share * math.pi / 2), abs=0.01)
    assert correlation(between, end) == pytest.approx(math.sin(share * math.pi / 2), abs=0.01)


def test_half_way_both_seeds_count_the_same():
    there = Sample(seed=2, to_seed=9, shares={"appearance": 0.5})
    back = Sample(seed=9, to_seed=2, shares={"appearance": 0.5})
    torch.testing.assert_close(draw(there), draw(back))
    torch.testing.assert_close(draw(there), (numbers(2) + numbers(9)) / math.sqrt(2))


def test_a_key_tells_which_parts_are_drawn_alike():
    samples = [
        Sample(seed=seed, variant=variant, variants=variants, to_seed=to_seed, shares=shares)
        for seed, variant, variants, (to_seed, shares) in product(
            (0, 1),
            (0, 2),
            ({}, {"appearance": 2}, {"background": 0, "foreground": 1}),
            (
                (None, {}),
                (None, {"appearance": 0.5}),
                (5, {}),
                (5, {"appearance": 0.5, "background": 0.25}),
                (6, {"appearance": 0.5, "foreground": 0.5}),
            ),
        )
    ]
    drawn = [{part: draw(sample, part, (1, 4)) for part in PARTS} for sample in samples]
    same = 0
    for (one, first), (other, second) in product(zip(samples, drawn, strict=True), repeat=2):
        for part in PARTS:
            equal = one.key(part) == other.key(part)
            assert torch.equal(first[part], second[part]) is equal
            same += equal
    assert same > 3 * len(samples)  # more than each with itself
    assert len({Sample(motion_scale=scale).key("background") for scale in (0, 1, 2)}) == 1


@pytest.mark.parametrize(
    ("sample", "caption"),
    [
        (Sample(), "seed 0"),
        (Sample(seed=3), "seed 3"),
        (Sample(seed=3, variant=2), "seed 3, variant 2"),
        (Sample(seed=3, variant=2, variants={"appearance": 0}), "seed 3, variant 2"),
        (Sample(seed=3, to_seed=9), "seed 3 to 9: 0 %"),
        (Sample(seed=3, to_seed=9, shares={"background": 0.5}), "seed 3 to 9: 50 %"),
        (Sample(seed=3, to_seed=9, shares={"appearance": 1.0}), "seed 3 to 9: 100 %"),
        (Sample(seed=3, to_seed=9, shares={"foreground": 1 / 3}), "seed 3 to 9: 33 %"),
    ],
    ids=lambda value: value if isinstance(value, str) else "",
)
def test_a_caption_is_short(sample, caption):
    assert sample.describe() == caption


@pytest.mark.parametrize("value", [-1, 2**63, 1.0, "1", True, float("nan")], ids=repr)
def test_a_seed_out_of_range_is_refused(value):
    for name, what in (("seed", "seed"), ("to_seed", "the seed at the other end")):
        with pytest.raises(InputError, match=f"^{what} {value} is out of range") as caught:
            Sample(**{name: value})
        assert caught.value.hint == f"a whole number from 0 to {2**63 - 1}"


@pytest.mark.parametrize("value", [-1, 2**31, 1.0, "1", False], ids=repr)
def test_a_variant_out_of_range_is_refused(value):
    with pytest.raises(InputError, match=f"^variant {value} is out of range") as caught:
        Sample(variant=value)
    assert caught.value.hint == f"a whole number from 0 to {2**31 - 1}"
    with pytest.raises(InputError, match=f"^variant of background {value} is out of range"):
        Sample(variants={"background": value})


@pytest.mark.parametrize("share", [-0.01, 1.01, float("nan"), float("inf")])
def test_a_share_out_of_range_is_refused(share):
    with pytest.raises(InputError, match=f"share {share} is out of range") as caught:
        Sample(to_seed=1, shares={"appearance": share})
    assert caught.value.hint == "a number from 0 to 1"


@pytest.mark.parametrize("scale", [-0.01, 4.01, float("nan"), float("inf")])
def test_a_motion_scale_out_of_range_is_refused(scale):
    with pytest.raises(InputError, match=f"motion scale {scale:g} is out of range") as caught:
        Sample(motion_scale=scale)
    assert caught.value.hint == "a number from 0 to 4; 1 leaves the motion as it is"
    for good in (0, 0.0, 1, MAX_MOTION_SCALE):
        assert Sample(motion_scale=good).motion_scale == good


@pytest.mark.parametrize("light", [-0.01, 1.01, float("nan"), float("inf")])
def test_light_out_of_range_is_refused(light):
    with pytest.raises(InputError, match=f"light {light:g} is out of range") as caught:
        Sample(light=light)
    assert caught.value.hint == "a number from 0, as dark as any, to 1, as light as any"


def test_light_is_part_of_the_look_alone():
    dark, light = Sample(light=0.0), Sample(light=1)
    assert dark.key("appearance") != light.key("appearance") != Sample().key("appearance")
    assert dark.key("background") == Sample().key("background")
    assert [s.light for s in plan_samples(3, light=0.25)] == [0.25] * 3


@pytest.mark.parametrize("values", [{"variants": {"sound": 1}}, {"shares": {"sound": 1}}], ids=str)
def test_a_sample_has_three_parts(values):
    with pytest.raises(InputError, match="sound: no part of a sample") as caught:
        Sample(**values)
    assert caught.value.hint == "use appearance, background, foreground"


# ---- plans ---------------------------------------------------------------------------------------

VARIED = {
    ("motion", "both"): {"background", "foreground"},
    ("motion", "background"): {"background"},
    ("motion", "foreground"): {"foreground"},
    ("appearance", "both"): {"appearance"},
    ("both", "both"): set(PARTS),
    ("both", "background"): {"appearance", "background"},
    ("both", "foreground"): {"appearance", "foreground"},
}
# Names that are the same in every process, as the order of a set is not.
PLANS = pytest.mark.parametrize(
    ("words", "varied"), VARIED.items(), ids=lambda value: "-".join(sorted(value))
)


def plan(count, words, **settings):
    vary, vary_motion = words
    return plan_samples(count, vary=vary, vary_motion=vary_motion, **settings)


def test_every_way_to_vary_is_tested():
    useless = {("appearance", "background"), ("appearance", "foreground")}
    assert set(VARIED) == set(product(VARIES, VARIES_MOTION)) - useless
    for vary, vary_motion in useless:
        with pytest.raises(InputError, match="of no use where only the look does"):
            plan_samples(2, vary=vary, vary_motion=vary_motion)


@PLANS
@pytest.mark.parametrize("variant", [0, 4])
def test_what_varies_is_new_in_every_sample_and_the_rest_stays(words, varied, variant):
    samples = plan(4, words, seed=7, variant=variant)
    assert samples[0] == Sample(seed=7, variant=variant)
    assert [sample.variant for sample in samples] == [*range(variant, variant + 4)]
    for index, sample in enumerate(samples):
        for other in samples[:index]:
            assert alike(sample, other) == set(PARTS) - varied
        # A part that varies is that of the plain sample of this number.
        assert alike(sample, Sample(seed=7, variant=variant + index)) >= varied


@PLANS
def test_between_two_seeds_only_what_varies_moves(words, varied):
    samples = plan(5, words, seed=7, variant=4, to_seed=1)
    assert {sample.variant for sample in samples} == {4}
    for sample, share in zip(samples, (0, 0.25, 0.5, 0.75, 1), strict=True):
        assert {part: sample.share_of(part) for part in varied} == dict.fromkeys(varied, share)
        assert alike(sample, samples[0]) >= set(PARTS) - varied
    assert alike(samples[0], Sample(seed=7, variant=4)) == set(PARTS)
    assert alike(samples[-1], Sample(seed=1, variant=4)) == varied
    assert alike(samples[2], Sample(seed=1, variant=4)) == set()


def test_a_plan_varies_all_motion_of_seed_0_unless_told_otherwise():
    assert plan_samples(3) == plan(3, ("motion", "both"), seed=0, variant=0, motion_scale=1.0)
    assert plan_samples(1) == [Sample()]


def test_a_plan_scales_the_motion_of_all_samples():
    for settings in ({}, {"to_seed": 3}):
        samples = plan_samples(3, motion_scale=0.5, **settings)
        assert [sample.motion_scale for sample in samples] == [0.5] * 3


@pytest.mark.parametrize(
    ("settings", "problem", "hint"),
    [
        ({"vary": "seed"}, "'seed' is not known", "use one of motion, appearance, both"),
        ({"vary_motion": "x"}, "'x' is not known", "use one of background, foreground, both"),
        ({"count": 0}, "0 samples are out of range", "use 1 to 2147483648"),
        ({"count": -2}, "-2 samples are out of range", "use 1 to 2147483648"),
        ({"variant": MAX_VARIANT - 1}, "3 samples are out of range", None),
        ({"count": 1, "to_seed": 5}, "one sample cannot lie between two seeds", None),
        ({"seed": -1}, "seed -1 is out of range", None),
        ({"to_seed": 2**63}, f"the seed at the other end {2**63} is", None),
        ({"motion_scale": 5}, "motion scale 5 is out of range", None),
    ],
    ids=str,
)
def test_a_plan_that_cannot_be_is_refused(settings, problem, hint):
    with pytest.raises(InputError, match=problem) as caught:
        plan_samples(**{"count": 3, **settings})
    assert caught.value.hint == hint or hint is None
    assert caught.value.hint


def test_a_plan_may_end_with_the_last_variant():
    assert plan_samples(3, variant=MAX_VARIANT - 2)[-1].variant == MAX_VARIANT
