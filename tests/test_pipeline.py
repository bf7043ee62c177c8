"""The whole path: sizes, seeds, padding, and the scheme that continues a clip."""

from __future__ import annotations

import math
from dataclasses import replace
from itertools import islice

import numpy as np
import pytest
import torch
from conftest import CAR, EXAMPLES, FLOW, ROAD, SKY

from seg2vid_cli.device import resolve_compute
from seg2vid_cli.errors import DeviceError, InputError, ShapeError, WeightsError
from seg2vid_cli.first_frame import LUMA, paint_scene
from seg2vid_cli.labels import (
    blank_labels,
    labels_from_array,
    one_hot,
    pad_labels,
    read_labels,
    resize_labels,
)
from seg2vid_cli.motion import sample_latents
from seg2vid_cli.networks.seg2vid_flow import FlowOutput
from seg2vid_cli.pipeline import Clip, Pipeline, plan_size, to_uint8
from seg2vid_cli.sample import Sample, plan_samples
from seg2vid_cli.weights.load import open_bundle

NATIVE = (128, 256)
T = FLOW.num_frames


class Mover:
    """Predicts one motion, given in pixels of the full size, and remembers what it was shown.

    Frame t of a pass shows what the source has `t + 1` times `right` and `down` further on.
    """

    def __init__(self, right=0.0, down=0.0, visible=1.0):
        self.config, self.right, self.down, self.visible = FLOW, right, down, visible
        self.shown = []

    def encode(self, frame, planes):
        return [frame.clone(), planes.clone()]

    def decode(self, encoded, latents, *, both_ways=True):
        frame, planes = encoded
        self.shown.append((frame, planes, latents.clone()))
        height, width = frame.shape[-2:]  # half of the full size
        steps = torch.arange(1.0, T + 1)[:, None, None].expand(T, height, width)
        flow = torch.stack(
            [-steps * 2 * self.right / (2 * width - 1), -steps * 2 * self.down / (2 * height - 1)]
        )[None]
        seen = torch.full((1, T, height, width), self.visible)
        return FlowOutput(
            flow=flow,
            flow_back=-flow if both_ways else None,
            visibility=seen,
            visibility_back=torch.ones_like(seen),
        )


class Repairer:
    """Paints everything in one grey, and remembers what it was shown."""

    def __init__(self, grey=0.5):
        self.grey, self.shown = grey, []

    def __call__(self, damaged):
        self.shown.append(damaged.clone())
        return torch.full_like(damaged, self.grey)


def with_stubs(pipeline, **motion):
    pipeline.motion, pipeline.refiner = Mover(**motion), Repairer()
    return pipeline


def with_options(pipeline, **options):
    """The same networks, used in another way."""
    stages = {
        name: replace(stage, options=options.get(name, stage.options))
        for name, stage in pipeline.bundle.stages.items()
    }
    return Pipeline(replace(pipeline.bundle, stages=stages), pipeline.compute)


def gradient(height, width):
    y, x = np.mgrid[:height, :width]
    return np.stack([3 * x % 256, 5 * y % 256, (x + y) % 256], -1).astype(np.uint8)


def same(one, other):
    return np.array_equal(one.frame, other.frame)


# ---- sizes ---------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("labels_hw", "expected"),
    [
        ((512, 1024), (128, 256)),  # 2:1, as the weights
        ((16, 32), (128, 256)),
        ((128, 256), (128, 256)),
        # sqrt(128 * 256 * 3 / 4) = 156.8 and 4 / 3 of it = 209.02, to the nearest even numbers
        ((720, 960), (156, 210)),
        ((1024, 512), (256, 128)),  # upright
        ((300, 300), (182, 182)),  # sqrt(32768) = 181.02
        ((32, 640), (40, 810)),  # 20:1: sqrt(1638.4) = 40.48, and 809.5
    ],
    ids=str,
)
def test_without_a_size_the_area_is_the_native_one(labels_hw, expected):
    assert plan_size(labels_hw, NATIVE) == expected


@pytest.mark.parametrize(
    ("labels_hw", "room_hw", "expected"),
    [
        ((512, 1024), (256, 512), (256, 512)),
        ((512, 1024), (512, 512), (256, 512)),  # as wide as the room
        ((512, 1024), (128, 1024), (128, 256)),  # as high as the room
        ((720, 960), (128, 256), (128, 170)),  # 170.67: the nearest even number
        ((1024, 512), (128, 256), (128, 64)),
        ((16, 32), (256, 256), (128, 256)),  # small maps grow
        ((101, 99), (64, 64), (64, 62)),  # 62.7
        ((1000, 1001), (64, 64), (64, 64)),  # 63.94, but no more than the room
    ],
    ids=str,
)
def test_keep_stays_inside_the_room_in_the_maps_aspect_ratio(labels_hw, room_hw, expected):
    assert plan_size(labels_hw, NATIVE, room_hw=room_hw) == expected


def test_keep_is_never_larger_than_the_room_never_odd_and_nearly_in_proportion():
    rng = np.random.default_rng(0)
    for _ in range(500):
        labels_hw = tuple(int(n) for n in rng.integers(200, 2000, 2))
        room_hw = tuple(2 * int(n) for n in rng.integers(150, 1000, 2))
        height, width = plan_size(labels_hw, NATIVE, room_hw=room_hw)
        assert height <= room_hw[0]
        assert width <= room_hw[1]
        assert height % 2 == width % 2 == 0
        assert height == room_hw[0] or width == room_hw[1]
        exact = min(room_hw[0] / labels_hw[0], room_hw[1] / labels_hw[1])
        assert abs(height - exact * labels_hw[0]) <= 1
        assert abs(width - exact * labels_hw[1]) <= 1


def test_stretch_fills_the_room():
    assert plan_size((720, 960), NATIVE, room_hw=(64, 400), fit="stretch") == (64, 400)


@pytest.mark.parametrize("fit", ["keep", "stretch"])
@pytest.mark.parametrize("room_hw", [(127, 256), (128, 255), (33, 33)], ids=str)
def test_an_odd_room_is_refused(room_hw, fit):
    with pytest.raises(InputError, match=rf"size {room_hw[1]}x{room_hw[0]} is odd") as caught:
        plan_size((512, 1024), NATIVE, room_hw=room_hw, fit=fit)
    assert caught.value.hint == "video needs even sides"


@pytest.mark.parametrize("room_hw", [(30, 64), (64, 30), (4098, 64), (64, 4098), (0, 0)], ids=str)
def test_a_room_out_of_range_is_refused(room_hw):
    with pytest.raises(InputError, match="is out of range") as caught:
        plan_size((512, 1024), NATIVE, room_hw=room_hw)
    assert caught.value.hint == "both sides from 32 to 4096 pixels"
    assert plan_size((512, 1024), NATIVE, room_hw=(32, 4096), fit="stretch") == (32, 4096)


@pytest.mark.parametrize("labels_hw", [(16, 1024), (1024, 16)], ids=str)
def test_a_ribbon_has_no_size_of_its_own(labels_hw):
    """64:1 at the native area would be 22 pixels high."""
    with pytest.raises(InputError, match="is out of range"):
        plan_size(labels_hw, NATIVE)


def test_an_unknown_fit_lists_the_known_ones(pipeline, labels):
    with pytest.raises(InputError, match="fit 'crop' is not known") as caught:
        pipeline.generate(labels, fit="crop")
    assert caught.value.hint == "use one of keep, stretch"


# ---- opening and settings ------------------------------------------------------------------------


def test_the_embedded_weights_make_a_clip():
    pipeline = Pipeline.open(device="cpu")
    assert pipeline.compute == resolve_compute("cpu")
    labels = read_labels(EXAMPLES / "city-street.labelIds.png")
    frames = list(pipeline.generate(labels, frames=3, size_hw=(64, 128)))
    assert [f.frame.shape for f in frames] == [(64, 128, 3)] * 3
    assert all(f.frame.dtype == np.uint8 for f in frames)
    for frame in frames[1:]:
        assert np.isfinite(frame.flow_px).all()
        assert np.isfinite(frame.forward_flow_px).all()
        assert frame.visibility.min() >= 0
        assert frame.visibility.max() <= 1
    again = list(Pipeline.open(device="cpu").generate(labels, frames=3, size_hw=(64, 128)))
    assert all(map(same, frames, again))


def test_what_cannot_be_opened_is_refused(tiny_bundle):
    with pytest.raises(InputError, match="weights 'nope' are not known"):
        Pipeline.open("nope")
    with pytest.raises(DeviceError, match="device 'toaster' is not known"):
        Pipeline.open(str(tiny_bundle), device="toaster")
    with pytest.raises(DeviceError, match="precision 'fp8' is not known"):
        Pipeline.open(str(tiny_bundle), device="cpu", precision="fp8")


def test_a_network_is_loaded_when_it_is_needed(pipeline, labels, monkeypatch):
    loaded = []
    monkeypatch.setattr(pipeline, "_load", lambda stage: loaded.append(stage) or load(stage))
    load = pipeline.bundle.network
    clip = pipeline.generate(labels, frames=2)
    assert loaded == []
    list(clip)
    assert loaded == ["first_frame", "motion", "refine"]
    list(clip)
    assert len(loaded) == 3


@pytest.mark.parametrize(
    ("name", "value"),
    [
        ("frames", 0),
        ("frames", -1),
        ("frames", 100_001),
        ("seed", -1),
        ("seed", 2**63),
        ("variant", -1),
        ("variant", 2**31),
        ("frames", float("nan")),
    ],
)
def test_a_number_out_of_range_is_refused(pipeline, labels, name, value):
    with pytest.raises(InputError, match=f"{name} {value} is out of range"):
        pipeline.generate(labels, **{name: value})


@pytest.mark.parametrize("fps", [0, 0.0, 0.09, -1, 1000.5, float("nan"), float("inf")])
def test_a_rate_out_of_range_is_refused(pipeline, labels, fps):
    with pytest.raises(InputError, match=f"{fps:g} frames per second is out of range") as caught:
        pipeline.generate(labels, fps=fps)
    assert caught.value.hint == "a number from 0.1 to 1000"


@pytest.mark.parametrize("quality", [-0.1, 10.1, float("nan")])
def test_a_quality_out_of_range_is_refused(pipeline, labels, quality):
    with pytest.raises(InputError, match=f"quality {quality:g} is out of range") as caught:
        pipeline.generate(labels, quality=quality)
    assert caught.value.hint == "a number from 0 to 10"


@pytest.mark.parametrize("exact", [True, False])
@pytest.mark.parametrize(
    ("size_hw", "problem"), [((33, 64), "is odd"), ((32, 5000), "is out of range")], ids=str
)
def test_a_size_that_cannot_be_is_refused(pipeline, labels, size_hw, problem, exact):
    with pytest.raises(InputError, match=f"size {size_hw[1]}x{size_hw[0]} {problem}"):
        pipeline.generate(labels, size_hw=size_hw, exact=exact)


def test_the_largest_seed_and_variant_work(pipeline, labels):
    (frame,) = pipeline.generate(labels, seed=2**63 - 1, variant=2**31 - 1, frames=1)
    assert frame.frame.shape == (32, 64, 3)


def test_a_clip_knows_its_size_length_and_rate(pipeline, labels):
    clip = pipeline.generate(labels, frames=4)
    assert (clip.size_hw, len(clip), clip.recipe.fps) == ((32, 64), 4, 10.0)
    assert clip.labels.size_hw == (32, 64)
    assert clip.recipe.size == (64, 32)
    assert pipeline.generate(labels, fps=24.0).recipe.fps == 24.0
    assert len(pipeline.generate(labels)) == 25


# ---- seeds ---------------------------------------------------------------------------------------


def test_the_same_seed_gives_the_same_clip_bit_for_bit(pipeline, labels, tiny_bundle):
    settings = {"seed": 7, "variant": 3, "frames": 2 * T + 2}
    first = list(pipeline.generate(labels, **settings))
    torch.manual_seed(99)
    other = Pipeline.open(str(tiny_bundle), device="cpu", precision="fp32")
    for one, two in zip(first, other.generate(labels, **settings), strict=True):
        np.testing.assert_array_equal(one.frame, two.frame)
        if one.index:
            np.testing.assert_array_equal(one.flow_px, two.flow_px)
            np.testing.assert_array_equal(one.forward_flow_px, two.forward_flow_px)
            np.testing.assert_array_equal(one.visibility, two.visibility)


@pytest.mark.parametrize("other", [{"seed": 1}, {"variant": 1}], ids=str)
def test_another_seed_or_variant_gives_other_frames_and_motion(pipeline, labels, other):
    pairs = zip(
        pipeline.generate(labels, frames=T + 2),
        pipeline.generate(labels, frames=T + 2, **other),
        strict=True,
    )
    for one, two in pairs:
        assert not same(one, two)
        if one.index:
            assert np.abs(one.flow_px - two.flow_px).max() > 0.1


def test_making_a_clip_leaves_the_global_generator_alone(pipeline, labels):
    clip = pipeline.generate(labels, frames=3)
    list(clip)  # networks are built with random numbers before they are filled
    state = torch.get_rng_state()
    list(clip)
    assert torch.equal(torch.get_rng_state(), state)


def test_a_clip_can_be_read_twice(pipeline, labels):
    clip = pipeline.generate(labels, frames=T + 2)
    started = iter(clip)
    next(started)
    assert all(map(same, list(clip), list(clip)))
    assert all(map(same, started, list(clip)[1:]))


def test_a_longer_clip_begins_like_a_shorter_one(pipeline, labels):
    long = list(pipeline.generate(labels, frames=3 * T))
    for frames in (1, 2, T + 2):
        for one, other in zip(pipeline.generate(labels, frames=frames), long, strict=False):
            # Passes cut short run in smaller batches, whose sums may round differently.
            assert np.abs(one.frame.astype(int) - other.frame).max() <= 1


def test_half_precision_gives_nearly_the_same_clip(pipeline, labels):
    rough = Pipeline(pipeline.bundle, resolve_compute("cpu", "bf16"))
    clip = rough.generate(labels, frames=1)
    assert clip.recipe.precision == "bf16"
    (one,), (two,) = clip, pipeline.generate(labels, frames=1)
    assert np.abs(one.frame.astype(int) - two.frame).max() <= 8
    for frame in rough.generate(labels, frames=3):
        assert frame.frame.dtype == np.uint8
        if frame.index:
            assert frame.flow_px.dtype == frame.visibility.dtype == np.float32


# ---- the scheme ----------------------------------------------------------------------------------


@pytest.mark.parametrize("frames", [1, 2, T + 1, T + 2, 3 * T])
def test_every_pass_starts_from_the_last_frame_of_the_one_before(pipeline, labels, frames):
    made = list(pipeline.generate(labels, frames=frames))
    assert [f.index for f in made] == list(range(frames))
    assert [f.source for f in made] == [0, *(T * ((i - 1) // T) for i in range(1, frames))]


def test_only_the_first_frame_has_no_motion(pipeline, labels):
    first, *others = pipeline.generate(labels, frames=4)
    assert first.flow_px is first.forward_flow_px is first.visibility is None
    for frame in others:
        assert frame.flow_px.shape == frame.forward_flow_px.shape == (2, 32, 64)
        assert frame.visibility.shape == (32, 64)
        assert frame.flow_px.dtype == frame.visibility.dtype == np.float32


def test_motion_networks_run_once_per_pass(pipeline, labels):
    for frames, passes in ((1, 0), (2, 1), (T + 1, 1), (T + 2, 2), (3 * T, 3)):
        with_stubs(pipeline)
        list(pipeline.generate(labels, frames=frames))
        assert len(pipeline.motion.shown) == len(pipeline.refiner.shown) == passes
        if frames == T + 2:  # the rest of a pass is not refined
            assert [len(x) for x in pipeline.refiner.shown] == [T, 1]


def test_the_picture_and_the_labels_of_a_pass_are_those_of_the_frame_it_starts_from(
    pipeline, labels
):
    with_stubs(pipeline, right=2, down=-4)  # the second and last frame of a pass: 4 and -8
    picture = gradient(32, 64)
    list(pipeline.generate(labels, frames=2 * T + 1, picture=picture))
    (first, planes, _), (second, planes_later, _) = pipeline.motion.shown
    # Seen at half the size, 4 and -8 pixels are 2 and -4: row y shows row y - 4. From outside come
    # no labels, and no picture: there the refinement network paints, which here paints 0.5.
    for before, after, outside in ((first, second, 0.5), (planes, planes_later, 0.0)):
        torch.testing.assert_close(after[..., 4:, :-2], before[..., :-4, 2:], rtol=0, atol=1e-3)
        assert (after[..., :4, :] - outside).abs().max() < 1e-3
        assert (after[..., -2:] - outside).abs().max() < 1e-3


def test_the_first_pass_sees_the_padded_label_map(pipeline, labels):
    with_stubs(pipeline)
    list(pipeline.generate(labels, frames=2))
    padded, _ = pad_labels(resize_labels(labels, (32, 64)), (128, 128))
    full = torch.from_numpy(one_hot(padded.train_ids))[None]
    _, planes, latents = pipeline.motion.shown[0]
    torch.testing.assert_close(planes, torch.nn.functional.avg_pool2d(full, 2))
    assert torch.equal(latents, sample_latents(FLOW, Sample(seed=0, variant=0)))


def test_all_passes_of_a_clip_share_one_latent(pipeline, labels):
    with_stubs(pipeline)
    list(pipeline.generate(labels, frames=3 * T, seed=4))
    first, *others = (latents for _, _, latents in pipeline.motion.shown)
    assert len(others) == 2
    assert all(torch.equal(latents, first) for latents in others)


def test_frames_are_the_source_warped_where_visible(pipeline, labels):
    with_stubs(pipeline, right=3)
    picture = gradient(32, 64)
    frames = list(pipeline.generate(labels, frames=T + 2, picture=picture))
    for frame, source in ((1, 0), (2, 0), (3, 2)):
        shift = 3 * (frame - source)
        made, old = frames[frame].frame.astype(int), frames[source].frame.astype(int)
        assert np.abs(made[:, :-shift] - old[:, shift:]).max() <= 1
        np.testing.assert_allclose(frames[frame].flow_px[0], shift, atol=1e-3)
        np.testing.assert_allclose(frames[frame].flow_px[1], 0, atol=1e-3)
        np.testing.assert_allclose(frames[frame].forward_flow_px[0], -shift, atol=1e-3)
        assert (frames[frame].visibility == 1).all()


def test_what_lies_outside_of_the_source_frame_is_not_visible(pipeline, labels):
    with_stubs(pipeline, right=3)
    for moment in list(pipeline.generate(labels, frames=T + 2, size_hw=NATIVE))[1:]:
        shift = 3 * (moment.index - moment.source)
        assert (moment.visibility[:, :-shift] == 1).all()
        assert (moment.visibility[:, -shift:] == 0).all()
        assert (moment.frame[:, -shift:] == 128).all()  # painted anew


def test_hidden_places_are_painted(pipeline, labels):
    with_stubs(pipeline, right=3, visible=0.0)
    frames = list(pipeline.generate(labels, frames=2))
    assert (frames[1].frame == 128).all()  # 0.5 * 255, rounded half to even
    assert not frames[1].flow_px.any()
    assert not frames[1].visibility.any()


def test_noise_is_shared_in_a_pass_and_new_in_the_next(pipeline, labels):
    with_stubs(pipeline, visible=0.0)
    list(pipeline.generate(labels, frames=2 * T + 1))
    first, second = pipeline.refiner.shown
    assert torch.equal(first[0], first[1])
    assert abs(first[0].std() - 1) < 0.05
    assert (first[0] - second[0]).abs().mean() > 0.5


def test_what_is_visible_is_repainted_only_if_the_weights_say_so(pipeline, labels):
    picture = gradient(32, 64)
    whole = with_stubs(with_options(pipeline, refine={}))
    _, frame = whole.generate(labels, frames=2, picture=picture)
    assert (frame.frame == 128).all()
    _, frame = with_stubs(pipeline).generate(labels, frames=2, picture=picture)
    np.testing.assert_array_equal(frame.frame, picture)


@pytest.mark.parametrize("downscale", [1, 2, 3, 4])
def test_every_downscale_gets_sides_that_it_divides(pipeline, labels, downscale):
    pipeline = with_options(pipeline, motion={"downscale": downscale})
    frames = list(pipeline.generate(labels, frames=2))
    assert frames[1].flow_px.shape == (2, 32, 64)


# ---- other frame rates ---------------------------------------------------------------------------


def with_rate(pipeline, fps):
    """The same networks, taken for learnt from clips of another rate."""
    return Pipeline(replace(pipeline.bundle, fps=fps), pipeline.compute)


@pytest.mark.parametrize(
    "refine", [{"keep_visible": True}, {"keep_visible": True, "keyframes": 3}], ids=str
)
def test_clips_at_other_rates_show_the_same_frames_at_the_same_times(pipeline, labels, refine):
    """At 8 of 12 frames a second every other frame lies between two predicted ones."""
    pipeline = with_rate(with_options(pipeline, motion={"downscale": 2}, refine=refine), 12.0)
    native = list(pipeline.generate(labels, frames=7))
    fast = list(pipeline.generate(labels, frames=13, fps=24))
    slow = list(pipeline.generate(labels, frames=5, fps=8.0))
    for one, other in (
        *zip(native, fast[::2], strict=True),
        *zip(native[::3], slow[::2], strict=True),
    ):
        np.testing.assert_array_equal(one.frame, other.frame)
        if one.index:
            np.testing.assert_array_equal(one.flow_px, other.flow_px)
            np.testing.assert_array_equal(one.forward_flow_px, other.forward_flow_px)
            np.testing.assert_array_equal(one.visibility, other.visibility)
    for frame, before in ((fast[7], native[3]), (fast[7], native[4]), (slow[1], native[1])):
        assert not same(frame, before)
    assert not same(native[-1], native[-2])


@pytest.mark.parametrize("fps", [2.5, 7.5, 10, 15.0, 1000])
def test_motion_is_as_fast_at_any_rate(pipeline, labels, fps):
    """The native rate is 10; all that moves is 3 pixels further on in a tenth of a second."""
    with_stubs(pipeline, right=3)
    frames = list(pipeline.generate(labels, frames=9, fps=fps))
    assert len(frames) == 9
    for frame in frames[1:]:
        begin = T * (-(-frame.index * 10 // (fps * T)) - 1)  # where its pass began
        np.testing.assert_allclose(
            frame.flow_px[0], 3 * (frame.index * 10 / fps - begin), atol=1e-3
        )
        np.testing.assert_allclose(frame.flow_px[1], 0, atol=1e-3)
        np.testing.assert_allclose(frame.forward_flow_px, -frame.flow_px, atol=1e-3)
        assert frame.visibility[:, :32].min() == 1


@pytest.mark.parametrize(
    ("fps", "frames", "rows"),
    [
        (10, 2 * T + 1, [T, T]),
        (20, 2 * T + 1, [T, T]),  # half as long a time, in pieces of T frames
        (20, 2 * T + 2, [T, T, 1]),
        (15, 4, [2, 1]),  # 2/3, 4/3 and 2
        (15, 3, [2]),  # the last pass is cut short
        (5, 3, [1, 1]),  # 2 and 4
        (2.5, 3, [1] * 4),  # 4 and 8: every other pass is not shown, but needed
        (7.5, 4, [2, 2]),  # 4/3 and the end; 8/3 and 4
        (7.5, 3, [2, 1]),
    ],
)
def test_passes_follow_the_time_not_the_frames(pipeline, labels, fps, frames, rows):
    with_stubs(pipeline)
    made = list(pipeline.generate(labels, frames=frames, fps=fps))
    assert [frame.index for frame in made] == [*range(frames)]
    assert [len(x) for x in pipeline.refiner.shown] == rows
    assert len(pipeline.motion.shown) == math.ceil((frames - 1) * 10 / fps / T)


def test_a_pass_starts_from_the_end_of_the_one_before_even_if_that_is_not_shown(pipeline, labels):
    with_stubs(pipeline, right=2)
    picture = gradient(32, 64)
    frames = list(pipeline.generate(labels, frames=4, fps=7.5, picture=picture))  # 4/3, 8/3 and 4
    (first, *_), (second, *_) = pipeline.motion.shown
    torch.testing.assert_close(second[..., :-2], first[..., 2:], rtol=0, atol=1e-3)  # at half size
    old, last = picture.astype(int), frames[-1].frame.astype(int)
    assert np.abs(last[:, :-8] - old[:, 8:]).max() <= 1  # 4 steps of 2 pixels


def test_frames_in_between_are_warped_along_flows_in_between(pipeline, labels):
    native = list(pipeline.generate(labels, frames=T + 1))
    fast = list(pipeline.generate(labels, frames=2 * T + 1, fps=20))
    for name in ("flow_px", "forward_flow_px"):
        predicted = [getattr(frame, name) for frame in native[1:]]
        found = [getattr(frame, name) for frame in fast[1:]]
        np.testing.assert_allclose(found[0], predicted[0] / 2, atol=1e-4)
        np.testing.assert_allclose(found[2], (predicted[0] + predicted[1]) / 2, atol=1e-4)


# ---- samples -------------------------------------------------------------------------------------


def test_a_sample_takes_the_place_of_seed_and_variant(pipeline, labels):
    plain = pipeline.generate(labels, seed=4, variant=2, frames=3)
    sample = pipeline.generate(labels, sample=Sample(seed=4, variant=2), frames=3)
    assert sample.recipe == plain.recipe
    assert all(map(same, sample, plain))


def test_look_and_motion_are_drawn_apart(pipeline, labels):
    plain, *others = (
        list(pipeline.generate(labels, sample=sample, frames=2))
        for sample in (
            Sample(variant=1),
            Sample(variant=1, variants={"appearance": 0}),
            Sample(variant=1, variants={"background": 0}),
            Sample(variant=1, variants={"foreground": 0}),
        )
    )
    assert [same(plain[0], other[0]) for other in others] == [False, True, True]
    for other in others[1:]:
        assert np.abs(plain[1].flow_px - other[1].flow_px).max() > 1e-3


@pytest.mark.parametrize("scale", [0.0, 0.5, 2.0])
def test_motion_is_scaled(pipeline, labels, scale):
    with_stubs(pipeline, right=2)
    sample = Sample(motion_scale=scale)
    frames = list(pipeline.generate(labels, sample=sample, frames=T + 2))
    for frame in frames[1:]:
        shift = scale * 2 * (frame.index - frame.source)
        np.testing.assert_allclose(frame.flow_px[0], shift, atol=1e-3)
        np.testing.assert_allclose(frame.forward_flow_px[0], -shift, atol=1e-3)
    if scale == 0:
        assert all(same(frame, frames[0]) for frame in frames)


# ---- several clips together ----------------------------------------------------------------------


def mirrored(labels):
    return labels_from_array(labels.train_ids[:, ::-1].copy(), encoding="train-ids")


def together(pipeline, clips, **options):
    """What `make` gives, clip by clip."""
    made = [[] for _ in clips]
    for number, frame in pipeline.make(clips, **options):
        assert frame.index == len(made[number])
        made[number].append(frame)
    return made


def assert_equal_frames(one, other):
    assert (one.index, one.source) == (other.index, other.source)
    for name in ("frame", "flow_px", "forward_flow_px", "visibility"):
        np.testing.assert_array_equal(getattr(one, name), getattr(other, name), err_msg=name)


@pytest.mark.parametrize(
    "refine", [{"keep_visible": True}, {"keep_visible": True, "keyframes": 3}], ids=str
)
def test_clips_made_together_are_to_the_last_bit_those_made_alone(pipeline, labels, refine):
    pipeline = with_options(pipeline, motion={"downscale": 2}, refine=refine)
    samples = [
        *plan_samples(2, seed=4),  # one first frame
        *plan_samples(2, seed=4, vary="appearance")[1:],  # another look
        Sample(seed=4, motion_scale=0.5),
        *plan_samples(3, seed=4, vary="both", to_seed=9)[1:2],
    ]
    maps = [labels] * len(samples) + [mirrored(labels)]
    samples.append(Sample(seed=4))
    clips = [
        pipeline.generate(map_, sample=sample, frames=5, fps=15)  # the last in a second pass
        for map_, sample in zip(maps, samples, strict=True)
    ]
    made = together(pipeline, clips)
    for clip, frames in zip(clips, made, strict=True):
        for one, other in zip(clip, frames, strict=True):
            assert_equal_frames(one, other)
    firsts = [frames[0] for frames in made]
    assert [same(first, firsts[0]) for first in firsts] == [True, True, False, True, False, False]
    for i, frames in enumerate(made):  # and no two are the same clip
        assert not any(same(frames[-1], other[-1]) for other in made[:i])


def test_frames_come_moment_by_moment_and_progress_goes_to_its_own_clip(pipeline, labels):
    calls = []
    clips = [
        pipeline.generate(
            labels,
            variant=number,
            frames=4,
            progress=lambda *call, number=number: calls.append((number, *call)),
        )
        for number in range(2)
    ]
    order = [(number, frame.index) for number, frame in pipeline.make(clips)]
    assert order == [(number, index) for index in range(4) for number in range(2)]
    for number in range(2):
        assert [call[1:] for call in calls if call[0] == number] == [
            ("first frame", 0, 1),
            ("first frame", 1, 1),
            *(("motion", index, 3) for index in (1, 2, 3)),
        ]


def test_what_clips_share_is_done_once(pipeline, labels, monkeypatch):
    painted, read = [], []
    paint, encode = pipeline.generator.forward, pipeline.motion.encode
    monkeypatch.setattr(
        pipeline.generator, "forward", lambda *x: painted.append(len(x[0])) or paint(*x)
    )
    monkeypatch.setattr(pipeline.motion, "encode", lambda *x: read.append(len(x[0])) or encode(*x))
    clips = [pipeline.generate(labels, sample=s, frames=T + 2) for s in plan_samples(3)]
    together(pipeline, clips)
    assert painted == [1]
    assert read == [1, 1, 1, 1]  # after the first pass each has a picture of its own
    together(pipeline, [pipeline.generate(mirrored(labels), frames=1)])
    assert painted == [1, 1]


def test_one_look_on_two_maps_is_painted_twice(pipeline, labels):
    clips = [pipeline.generate(x, frames=1) for x in (labels, mirrored(labels), labels)]
    (one,), (other,), (again,) = together(pipeline, clips)
    assert same(one, again)
    assert not same(one, other)


def test_clips_from_one_picture_start_alike_and_from_two_apart(pipeline, labels):
    pictures = [gradient(32, 64), 255 - gradient(32, 64)]
    clips = [
        pipeline.generate(labels, sample=Sample(variant=variant), frames=3, picture=picture)
        for picture in pictures
        for variant in (0, 1)
    ]
    for clip, frames, picture in zip(
        clips, together(pipeline, clips), np.repeat(pictures, 2, axis=0), strict=True
    ):
        np.testing.assert_array_equal(frames[0].frame, picture)
        for one, other in zip(clip, frames, strict=True):
            assert_equal_frames(one, other)


def test_forward_flow_may_be_left_out(pipeline, labels):
    clip = pipeline.generate(labels, frames=T + 2)
    (frames,) = together(pipeline, [clip], forward_flow=False)
    for one, other in zip(clip, frames, strict=True):
        assert other.forward_flow_px is None
        assert same(one, other)
        np.testing.assert_array_equal(one.flow_px, other.flow_px)
        np.testing.assert_array_equal(one.visibility, other.visibility)


@pytest.mark.parametrize("other", [{"frames": 3}, {"fps": 20}, {"size_hw": (64, 128)}], ids=str)
def test_clips_of_different_size_length_or_rate_are_not_made_together(pipeline, labels, other):
    with_stubs(pipeline)
    clips = [pipeline.generate(labels, **{"frames": 2, **o}) for o in ({}, {}, other)]
    with pytest.raises(ShapeError, match="must have one size, length and frame rate"):
        next(pipeline.make(clips))
    assert pipeline.motion.shown == []
    assert "generator" not in vars(pipeline)


# ---- padding and pictures ------------------------------------------------------------------------


@pytest.mark.parametrize("size_hw", [(34, 50), (130, 162), (32, 300)], ids=str)
def test_a_clip_has_exactly_the_size_that_was_asked_for(pipeline, labels, size_hw):
    for frame in pipeline.generate(labels, frames=2, size_hw=size_hw, fit="stretch"):
        assert frame.frame.shape == (*size_hw, 3)
        if frame.index:
            assert frame.flow_px.shape == frame.forward_flow_px.shape == (2, *size_hw)
            assert frame.visibility.shape == size_hw


@pytest.mark.parametrize("size_hw", [(34, 50), (130, 162), (128, 128)], ids=str)
def test_a_given_picture_is_the_first_frame_exactly(pipeline, labels, size_hw):
    picture = np.random.randint(0, 256, (*size_hw, 3), np.uint8)
    clip = with_stubs(pipeline).generate(
        labels, frames=3, size_hw=size_hw, fit="stretch", picture=picture, picture_sha256="ab"
    )
    for frame in clip:  # nothing moves and all is visible: every frame is the picture
        np.testing.assert_array_equal(frame.frame, picture)
    assert clip.recipe.first_frame_sha256 == "ab"
    assert "generator" not in vars(pipeline)  # the painter has not even been loaded


def test_the_picture_is_padded_by_its_border(pipeline, labels):
    picture = 255 - gradient(34, 50)
    list(
        with_stubs(pipeline).generate(
            labels, frames=2, size_hw=(34, 50), fit="stretch", picture=picture
        )
    )
    frame, planes, _ = pipeline.motion.shown[0]
    assert frame.shape == (1, 3, 64, 64)
    # 34x50 lies in the middle of 128x128, from row 47 and column 39; outside, its border goes on.
    corner = torch.from_numpy(picture[0, 0]) / 255
    torch.testing.assert_close(frame[0, :, 0, 0], corner)
    torch.testing.assert_close(frame[0, :, 22, 10], corner)
    assert planes[0, SKY, 0, 0] == 1  # the labels are padded alike
    assert planes[0, ROAD, 63, 0] == 1


def test_labels_lie_under_the_picture(pipeline, labels):
    """The class of the middle of the car is seen in the middle of the car, at half the size."""
    with_stubs(pipeline)
    list(pipeline.generate(labels, frames=2, size_hw=(128, 256), picture=gradient(128, 256)))
    _, planes, _ = pipeline.motion.shown[0]
    assert planes.shape == (1, 20, 64, 128)
    assert planes[0, CAR, 40, 92] == 1  # row 10 of 16 and column 23 of 32
    assert planes[0, :, 40, 92].sum() == 1


# ---- progress ------------------------------------------------------------------------------------


def test_progress_is_told_step_by_step(pipeline, labels):
    calls = []
    clip = pipeline.generate(labels, frames=4, progress=lambda *call: calls.append(call))
    assert calls == []
    frames = iter(clip)
    next(frames)
    assert calls == [("first frame", 0, 1), ("first frame", 1, 1)]
    list(frames)
    assert calls[2:] == [("motion", 1, 3), ("motion", 2, 3), ("motion", 3, 3)]


def test_a_clip_is_made_while_it_is_read(pipeline, labels):
    clip = with_stubs(pipeline).generate(labels, frames=100_000)
    assert isinstance(clip, Clip)
    assert [f.index for f in islice(clip, 4)] == [0, 1, 2, 3]
    assert len(pipeline.motion.shown) == 2


# ---- pictures of tensors -------------------------------------------------------------------------


def test_pixels_are_rounded_and_kept_in_range():
    values = torch.tensor([-0.5, 0.0, 0.4 / 255, 0.6 / 255, 127 / 255, 1.0, 2.0])
    frame = values.expand(3, 2, 7)
    assert to_uint8(frame)[1, :, 2].tolist() == [0, 0, 0, 1, 127, 255, 255]
    assert to_uint8(frame).shape == (2, 7, 3)


def test_channels_keep_their_places():
    frame = torch.zeros(3, 4, 5)
    frame[0, 1, 2], frame[1, 1, 2], frame[2, 1, 2] = 1.0, 0.2, 0.4
    assert to_uint8(frame)[1, 2].tolist() == [255, 51, 102]


def test_damaged_weights_are_refused_when_they_are_needed(tiny_bundle, tmp_path, labels):
    folder = tmp_path / "bundle"
    folder.mkdir()
    for file in tiny_bundle.iterdir():
        (folder / file.name).write_bytes(file.read_bytes())
    (folder / "refine.safetensors").write_bytes(b"")
    pipeline = Pipeline(open_bundle(str(folder)), resolve_compute("cpu"))
    with pytest.raises(WeightsError, match=r"refine\.safetensors"):
        list(pipeline.generate(labels, frames=2))
    assert len(list(pipeline.generate(labels, frames=1))) == 1


# ---- weights that lack stages, labels or colours -------------------------------------------------


def opened(*folders, **other):
    weights, *rest = (str(folder) for folder in folders)
    assert not rest
    options = {name: str(folder) for name, folder in other.items()}
    return Pipeline.open(weights, device="cpu", precision="fp32", **options)


def instance_map(height=32, width=64):
    """Two cars touch, and a bus that has no number of its own; a bridge is no class."""
    ids = np.full((height, width), 11_000, np.int32)
    ids[height // 2 :] = 7
    ids[height // 4 : height // 2, : width // 4] = 15
    ids[height // 2 :, width // 4 : width // 2] = 26_000
    ids[height // 2 :, width // 2 : 3 * width // 4] = 26_001
    ids[ids == 11_000] = 11
    return labels_from_array(ids, encoding="instance-ids")


def test_a_generator_alone_paints_one_frame(painter_bundle):
    pipeline, labels = opened(painter_bundle), instance_map()
    clip = pipeline.generate(labels, frames=1)
    (frame,) = clip
    painted = paint_scene(pipeline.generator, labels, size_hw=(32, 64), compute=pipeline.compute)
    np.testing.assert_array_equal(frame.frame, to_uint8(painted[0]))
    assert frame.flow_px is frame.forward_flow_px is frame.visibility is None
    assert (clip.size_hw, clip.recipe.fps) == ((32, 64), 1.0)
    with pytest.raises(InputError, match="'painter' have no motion stage"):
        pipeline.generate(labels, frames=2)


def test_a_generator_always_paints_the_same(painter_bundle):
    pipeline, labels = opened(painter_bundle), instance_map()
    (one,), (other,) = (pipeline.generate(labels, frames=1, seed=seed) for seed in (0, 1))
    assert same(one, other)


@pytest.mark.parametrize("frames", [1, 2])
def test_a_picture_may_take_the_place_of_a_first_frame_stage(motion_bundle, labels, frames):
    pipeline, picture = opened(motion_bundle), gradient(32, 64)
    clip = pipeline.generate(labels, frames=frames, picture=picture)
    np.testing.assert_array_equal(next(iter(clip)).frame, picture)
    assert clip.recipe.fps == 12.0
    assert len(list(clip)) == frames
    with pytest.raises(InputError, match="'mover' have no first-frame stage") as caught:
        pipeline.generate(labels, frames=frames)
    assert "--first-frame" in caught.value.hint


def test_a_first_frame_of_pix2pixhd_is_moved_by_seg2vid(motion_bundle, enhancer_bundle):
    """The clip's size is the motion's, the scene's that of the generator."""
    pipeline, labels = opened(motion_bundle, first_frame_weights=enhancer_bundle), instance_map()
    clip = pipeline.generate(labels, frames=T + 2)
    frames = list(clip)
    assert [f.frame.shape for f in frames] == [(32, 64, 3)] * (T + 2)
    scene = resize_labels(labels, (64, 128))
    painted = paint_scene(pipeline.generator, scene, size_hw=(32, 64), compute=pipeline.compute)
    np.testing.assert_array_equal(frames[0].frame, to_uint8(painted[0]))
    assert not same(frames[0], frames[1])
    assert clip.recipe.weights == "mover"
    assert (clip.recipe.first_frame_weights, clip.recipe.motion_weights) == ("enhancer", None)
    # The other way round: whose motion it is decides.
    other = opened(enhancer_bundle, motion_weights=motion_bundle).generate(labels, frames=T + 2)
    assert all(map(same, other, frames))
    assert (other.recipe.weights, other.recipe.motion_weights) == ("enhancer", "mover")
    assert other.recipe.first_frame_weights is None


def test_the_motion_sees_what_was_painted(motion_bundle, painter_bundle):
    pipeline = with_stubs(opened(motion_bundle, first_frame_weights=painter_bundle))
    labels = instance_map(128, 128)
    frames = list(pipeline.generate(labels, frames=2, size_hw=(128, 128)))
    frame, planes, _ = pipeline.motion.shown[0]
    seen = torch.from_numpy(frames[0].frame.copy()).permute(2, 0, 1)[None] / 255
    torch.testing.assert_close(frame, seen)
    small = resize_labels(resize_labels(labels, (45, 45)), (128, 128))  # 45 * 45 is near 32 * 64
    assert torch.equal(planes[0], torch.from_numpy(one_hot(small.train_ids)))


def test_a_map_of_just_the_native_area_is_painted_as_it_is(painter_bundle, monkeypatch):
    pipeline = opened(painter_bundle)
    seen = []
    real = pipeline.generator.forward
    monkeypatch.setattr(
        pipeline.generator, "forward", lambda planes: seen.append(planes) or real(planes)
    )
    for size_hw, painted_hw in (
        ((64, 32), (64, 32)),
        ((46, 44), (46, 44)),
        ((45, 45), (46, 46)),  # padded to even sides
        ((90, 90), (46, 46)),  # made smaller to 45x45, then padded
        ((24, 120), (20, 102)),  # 2880 pixels: times 0.8433 are 20.2 and 101.2
    ):
        labels = instance_map(*size_hw)
        list(pipeline.generate(labels, frames=1, size_hw=(32, 64), fit="stretch"))
        assert seen[-1].shape == (1, 36, *painted_hw)
        assert torch.equal(seen[-1][:, :35].sum(1), torch.ones(1, *painted_hw))
        assert seen[-1][0, 15].any()  # a bridge
    labels = instance_map(64, 32)
    list(pipeline.generate(labels, frames=1, size_hw=(32, 64), fit="stretch"))
    np.testing.assert_array_equal(seen[-1][0, :35].argmax(0).numpy(), labels.label_ids)


@pytest.mark.parametrize("shape", [(31, 47), (47, 131), (300, 100)], ids=str)
def test_a_scene_of_odd_size_gives_a_clip_of_the_size_asked_for(
    motion_bundle, enhancer_bundle, shape
):
    pipeline = opened(motion_bundle, first_frame_weights=enhancer_bundle)
    frames = list(
        pipeline.generate(instance_map(*shape), frames=2, size_hw=(34, 50), fit="stretch")
    )
    assert [f.frame.shape for f in frames] == [(34, 50, 3)] * 2


def test_instances_change_what_pix2pixhd_paints_and_nothing_else(
    motion_bundle, painter_bundle, pipeline
):
    labels = instance_map()
    plain = replace(labels, instances=None)
    painter = opened(motion_bundle, first_frame_weights=painter_bundle)
    one, other = (painter.generate(x, frames=1) for x in (labels, plain))
    assert np.abs(next(iter(one)).frame.astype(int) - next(iter(other)).frame).max() > 10
    assert one.recipe.labels_sha256 != other.recipe.labels_sha256
    one, other = (pipeline.generate(x, frames=1) for x in (labels, plain))
    assert same(next(iter(one)), next(iter(other)))
    assert one.recipe == other.recipe


def test_numbers_of_objects_do_not_matter_only_which_are_equal(painter_bundle):
    labels, pipeline = instance_map(), opened(painter_bundle)
    other = replace(labels, instances=3 * labels.instances - 7)
    assert pipeline.generate(other, frames=1).recipe == pipeline.generate(labels, frames=1).recipe


@pytest.mark.parametrize("instances", [True, False])
@pytest.mark.parametrize("shape", [(32, 64), (31, 47), (100, 70)], ids=str)
def test_a_clip_of_pix2pixhd_is_made_again_from_its_recipe(
    motion_bundle, enhancer_bundle, shape, instances
):
    pipeline = opened(motion_bundle, first_frame_weights=enhancer_bundle)
    labels = instance_map(*shape)
    labels = labels if instances else replace(labels, instances=None)
    clip = pipeline.generate(labels, frames=2, seed=3)
    stored = clip.recipe.labels()
    assert (stored.instances is not None) == instances
    size_hw = clip.recipe.size[::-1]
    again = pipeline.generate(stored, frames=2, seed=3, size_hw=size_hw, fit=clip.recipe.fit)
    assert again.recipe == clip.recipe
    assert all(map(same, again, clip))


@pytest.mark.parametrize("downscale", [1, 2])
def test_weights_without_labels_move_a_picture(unlabelled_bundle, labels, downscale):
    pipeline = with_options(opened(unlabelled_bundle), motion={"downscale": downscale})
    picture = gradient(32, 64)
    frames = list(pipeline.generate(blank_labels((32, 64)), frames=T + 2, picture=picture))
    assert [f.frame.shape for f in frames] == [(32, 64, 3)] * (T + 2)
    np.testing.assert_array_equal(frames[0].frame, picture)
    assert np.abs(frames[-1].flow_px).max() > 0.1
    # A label map is of no consequence to them.
    labelled = pipeline.generate(labels, frames=T + 2, picture=picture)
    assert all(map(same, labelled, frames))
    for _, planes, _ in with_stubs_shown(pipeline, labels, picture):
        assert planes.shape[1] == 0


def with_stubs_shown(pipeline, labels, picture):
    config = pipeline.bundle.stages["motion"].config
    with_stubs(pipeline)
    pipeline.motion.config = config
    list(pipeline.generate(labels, frames=T + 2, picture=picture))
    assert len(pipeline.motion.shown) == 2
    return pipeline.motion.shown


def test_a_painted_frame_may_be_moved_without_labels(tiny_bundle, unlabelled_bundle, labels):
    pipeline = opened(tiny_bundle, motion_weights=unlabelled_bundle)
    (painted,) = opened(tiny_bundle).generate(labels, frames=1)
    first, second = pipeline.generate(labels, frames=2)
    assert same(first, painted)
    assert not same(first, second)
    with pytest.raises(InputError, match="'blind' have no first-frame stage"):
        opened(unlabelled_bundle).generate(labels, frames=2)


def is_grey(frame):
    return np.array_equal(frame, np.repeat(frame[..., :1], 3, axis=-1))


@pytest.mark.parametrize("frames", [1, 5])  # three to a pass
def test_grey_weights_give_grey_clips(grey_bundle, labels, frames):
    pipeline, picture = opened(grey_bundle), gradient(32, 64)
    made = list(pipeline.generate(labels, frames=frames, picture=picture))
    assert len(made) == frames
    assert all(f.frame.shape == (32, 64, 3) and is_grey(f.frame) for f in made)
    luma = picture.astype(float) @ np.array([0.299, 0.587, 0.114])
    assert np.abs(made[0].frame[..., 0] - luma).max() <= 0.51
    assert LUMA == (0.299, 0.587, 0.114)
    assert frames == 1 or not same(made[0], made[-1])


def test_a_painted_frame_is_turned_grey_for_grey_motion(tiny_bundle, grey_bundle, labels):
    (painted,) = opened(tiny_bundle).generate(labels, frames=1)
    assert not is_grey(painted.frame)
    made = list(opened(tiny_bundle, motion_weights=grey_bundle).generate(labels, frames=2))
    luma = painted.frame.astype(float) @ np.array(LUMA)
    assert np.abs(made[0].frame[..., 0] - luma).max() <= 1.01
    assert all(is_grey(f.frame) for f in made)


def test_grey_pictures_of_one_channel_become_rgb():
    assert to_uint8(torch.full((1, 2, 3), 0.2)).tolist() == [[[51] * 3] * 3] * 2
