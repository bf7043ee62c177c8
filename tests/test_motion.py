"""Motion: what a latent is drawn from, and units, signs and sizes of the flows."""

from __future__ import annotations

from dataclasses import replace
from fractions import Fraction

import pytest
import torch
from conftest import FLOW, lively

from seg2vid_cli.device import RowLimit, resolve_compute
from seg2vid_cli.motion import Motion, predict_motion, sample_latents
from seg2vid_cli.networks.seg2vid_flow import FlowOutput, Seg2VidFlow
from seg2vid_cli.sample import Sample
from seg2vid_cli.warp import backward_warp

CPU = resolve_compute("cpu", "fp32")


class Network:
    """Predicts what it was told to, and remembers what it was shown."""

    def __init__(self, *, flow=(0.0, 0.0), back=(0.0, 0.0), visible=1.0, visible_back=1.0):
        self.flow, self.back = flow, back
        self.visible, self.visible_back = visible, visible_back

    def encode(self, frame, planes):
        self.seen = frame, planes
        return [frame]

    def decode(self, encoded, latents, *, both_ways=True):
        self.shown = *self.seen, latents
        frames, size = FLOW.num_frames, encoded[0].shape[-2:]

        def flow(value):
            return torch.tensor(value).reshape(1, 2, 1, 1, 1).expand(1, 2, frames, *size)

        def seen(value):
            return torch.as_tensor(value).expand(1, frames, *size)

        return FlowOutput(
            flow=flow(self.flow),
            flow_back=flow(self.back) if both_ways else None,
            visibility=seen(self.visible),
            visibility_back=seen(self.visible_back),
        )


def predict(network, size_hw=(32, 64), *, downscale=1, compute=CPU, frame=None):
    frame = torch.rand(1, 3, *size_hw) if frame is None else frame
    planes = torch.rand(1, 20, *frame.shape[-2:])
    latents = sample_latents(FLOW, Sample(seed=0, variant=0))
    (motion,) = predict_motion(
        network, frame, planes, latents, downscale=downscale, compute=compute
    )
    return motion


# ---- latents -------------------------------------------------------------------------------------


def test_a_latent_is_one_row_repeated():
    latents = sample_latents(FLOW, Sample(seed=0, variant=0))
    assert latents.shape == (1, 4, 8)
    assert torch.equal(latents, latents[:, :1].expand(-1, 4, -1))


def test_seed_and_variant_change_both_parts():
    one = sample_latents(FLOW, Sample(seed=0, variant=0))
    assert torch.equal(sample_latents(FLOW, Sample(seed=0, variant=0)), one)
    for seed, variant in ((1, 0), (0, 1)):
        other = sample_latents(FLOW, Sample(seed=seed, variant=variant))
        assert (one[..., :3] != other[..., :3]).all()
        assert (one[..., 3:] != other[..., 3:]).all()


def test_the_two_parts_are_drawn_apart():
    """The camera's part does not depend on how long the objects' part is, and the reverse."""
    one = sample_latents(FLOW, Sample(seed=5, variant=2))
    longer = sample_latents(replace(FLOW, foreground_latents=7), Sample(seed=5, variant=2))
    assert torch.equal(longer[..., :3], one[..., :3])
    shorter = sample_latents(replace(FLOW, background_latents=1), Sample(seed=5, variant=2))
    assert torch.equal(shorter[..., 1:], one[..., 3:])
    alike = sample_latents(replace(FLOW, foreground_latents=3), Sample(seed=5, variant=2))
    assert (alike[..., :3] != alike[..., 3:]).all()


def test_frames_and_size_do_not_change_the_latent():
    one = sample_latents(FLOW, Sample(seed=0, variant=0))
    other = sample_latents(replace(FLOW, num_frames=9, latent_row=16), Sample(seed=0, variant=0))
    assert torch.equal(other, one[:, :2])


def test_a_part_of_the_latent_may_be_another_samples():
    one, other = (sample_latents(FLOW, Sample(seed=5, variant=v)) for v in (0, 3))
    mixed = sample_latents(FLOW, Sample(seed=5, variants={"foreground": 3, "appearance": 9}))
    assert torch.equal(mixed, torch.cat([one[..., :3], other[..., 3:]], dim=-1))
    between = sample_latents(FLOW, Sample(seed=5, to_seed=6, shares={"background": 1.0}))
    ends = [sample_latents(FLOW, Sample(seed=seed)) for seed in (6, 5)]
    assert torch.equal(between, torch.cat([ends[0][..., :3], ends[1][..., 3:]], dim=-1))


# ---- flows ---------------------------------------------------------------------------------------


@pytest.mark.parametrize("downscale", [1, 2])
@pytest.mark.parametrize("size_hw", [(32, 64), (64, 96)], ids=str)
def test_flows_are_pixels_of_the_full_size_with_the_opposite_sign(size_hw, downscale):
    height, width = size_hw
    motion = predict(Network(flow=(0.5, -0.25), back=(-1.0, 0.125)), size_hw, downscale=downscale)
    assert motion.flow_px.shape == motion.forward_flow_px.shape == (2, 2, *size_hw)
    # Half an image is (size - 1) / 2 pixels, and the network's flow is subtracted from the grid.
    for flow, (x, y) in (
        (motion.flow_px, (-0.5 * (width - 1) / 2, 0.25 * (height - 1) / 2)),
        (motion.forward_flow_px, (1.0 * (width - 1) / 2, -0.125 * (height - 1) / 2)),
    ):
        torch.testing.assert_close(flow[:, 0], torch.full((2, *size_hw), x))
        torch.testing.assert_close(flow[:, 1], torch.full((2, *size_hw), y))


def test_a_picture_that_moves_right_has_a_backward_flow_to_the_left():
    """grid - flow: with +2 / 63 half images, frame t shows what the source has a pixel left."""
    frame = torch.rand(1, 3, 32, 64)
    motion = predict(Network(flow=(2 / 63, 0.0)), frame=frame)
    warped = backward_warp(frame, motion.flow_px[:1])
    torch.testing.assert_close(warped[..., 1:], frame[..., :-1], rtol=0, atol=1e-4)


@pytest.mark.parametrize("downscale", [1, 2])
def test_visibility_multiplies_the_flow(downscale):
    """A hidden place is read from where it lies."""
    network = Network(flow=(1.0, 1.0), back=(1.0, 1.0), visible=0.25, visible_back=0.0)
    motion = predict(network, downscale=downscale)
    torch.testing.assert_close(motion.flow_px[:, 0], torch.full((2, 32, 64), -0.25 * 63 / 2))
    torch.testing.assert_close(motion.flow_px[:, 1], torch.full((2, 32, 64), -0.25 * 31 / 2))
    assert not motion.forward_flow_px.any()
    torch.testing.assert_close(motion.visibility, torch.full((2, 32, 64), 0.25))


def test_visibility_multiplies_pixel_by_pixel_and_frame_by_frame():
    seen = torch.ones(2, 32, 64)
    seen[0, :, :32] = 0
    seen[1, 16:] = 0
    motion = predict(Network(flow=(1.0, 0.0), visible=seen))
    assert torch.equal(motion.visibility, seen)
    assert torch.equal(motion.flow_px[:, 0], -31.5 * seen)


def test_corners_stay_corners_when_a_flow_is_stretched():
    ramp = torch.linspace(0, 1, 32).expand(2, 16, 32)  # at half of 32x64
    motion = predict(Network(visible=ramp), downscale=2)
    row = motion.visibility[1, 7]
    torch.testing.assert_close(row, torch.linspace(0, 1, 64))


def test_the_network_sees_smaller_pictures():
    network = Network()
    frame = torch.rand(1, 3, 32, 64)
    predict(network, downscale=2, frame=frame)
    small, planes, latents = network.shown
    assert small.shape == (1, 3, 16, 32)
    assert planes.shape == (1, 20, 16, 32)
    assert latents.shape == (1, 4, 8)
    torch.testing.assert_close(small[0, 1, 3, 5], frame[0, 1, 6:8, 10:12].mean())
    predict(network, downscale=1, frame=frame)
    assert torch.equal(network.shown[0], frame)


@pytest.mark.parametrize("downscale", [1, 2])
def test_frames_stay_in_order(downscale):
    class Counting(Network):
        def decode(self, encoded, latents, *, both_ways=True):
            out = super().decode(encoded, latents, both_ways=both_ways)
            t = torch.arange(1.0, FLOW.num_frames + 1)
            return replace(out, flow=out.flow * t[:, None, None])

    motion = predict(Counting(flow=(-2 / 63, -4 / 31)), downscale=downscale)
    for t, factor in enumerate((1, 2)):
        torch.testing.assert_close(motion.flow_px[t, 0], torch.full((32, 64), 1.0 * factor))
        torch.testing.assert_close(motion.flow_px[t, 1], torch.full((32, 64), 2.0 * factor))


@pytest.mark.parametrize("precision", ["fp32", "bf16"])
def test_motion_is_float32_in_every_precision(precision):
    compute = resolve_compute("cpu", precision)
    motion = predict(lively(Seg2VidFlow(FLOW)), compute=compute)
    for value in (motion.flow_px, motion.forward_flow_px, motion.visibility):
        assert value.dtype == torch.float32
    assert motion.flow_px.shape == (2, 2, 32, 64)
    assert motion.visibility.shape == (2, 32, 64)


def test_bf16_changes_the_motion_only_a_little():
    network, frame = lively(Seg2VidFlow(FLOW)), torch.rand(1, 3, 32, 64)
    torch.manual_seed(1)
    exact = predict(network, frame=frame)
    torch.manual_seed(1)
    rough = predict(network, frame=frame, compute=resolve_compute("cpu", "bf16"))
    difference = (exact.flow_px - rough.flow_px).abs().max() / exact.flow_px.abs().max()
    assert 0 < difference < 0.1


# ---- several latents -----------------------------------------------------------------------------


def same_motion(one, other, *, forward_flow=True):
    assert torch.equal(one.flow_px, other.flow_px)
    assert torch.equal(one.visibility, other.visibility)
    if forward_flow:
        assert torch.equal(one.forward_flow_px, other.forward_flow_px)
    return True


@pytest.mark.parametrize("own_frames", [True, False])
@pytest.mark.parametrize("limit", [None, 1, 2])
def test_every_latent_gets_the_motion_that_it_has_alone(own_frames, limit):
    network, count = lively(Seg2VidFlow(FLOW)), 3
    frames, planes = torch.rand(count, 3, 32, 64), torch.rand(count, 20, 32, 64)
    if not own_frames:
        frames, planes = frames[:1], planes[:1]
    latents = torch.cat([sample_latents(FLOW, Sample(variant=v)) for v in range(count)])

    def predict_all(frames, planes, latents, rows=None):
        return predict_motion(network, frames, planes, latents, downscale=2, compute=CPU, rows=rows)

    motions = predict_all(frames, planes, latents, RowLimit(limit))
    assert len(motions) == count
    for b, motion in enumerate(motions):
        row = slice(b, b + 1) if own_frames else slice(0, 1)
        (alone,) = predict_all(frames[row], planes[row], latents[b : b + 1])
        for name in ("flow_px", "forward_flow_px", "visibility"):
            difference = getattr(motion, name) - getattr(alone, name)
            assert difference.abs().max() < 1e-4
    for b in (1, 2):
        assert (motions[b].flow_px - motions[0].flow_px).abs().max() > 1e-3


def test_one_frame_is_read_once_for_all_latents(monkeypatch):
    network, read = lively(Seg2VidFlow(FLOW)), []
    encode = network.encode
    monkeypatch.setattr(network, "encode", lambda *x: read.append(len(x[0])) or encode(*x))
    latents = torch.cat([sample_latents(FLOW, Sample(variant=v)) for v in range(3)])
    inputs = torch.rand(1, 3, 32, 64), torch.rand(1, 20, 32, 64), latents
    predict_motion(network, *inputs, downscale=1, compute=CPU, rows=RowLimit(1))
    assert read == [1]


def test_flows_from_the_source_frame_may_be_left_out():
    network = lively(Seg2VidFlow(FLOW))
    latents = sample_latents(FLOW, Sample())
    inputs = torch.rand(1, 3, 32, 64), torch.rand(1, 20, 32, 64), latents
    both, one = (
        predict_motion(network, *inputs, downscale=2, compute=CPU, forward_flow=way)[0]
        for way in (True, False)
    )
    assert both.forward_flow_px is not None
    assert one.forward_flow_px is None
    assert same_motion(one, both, forward_flow=False)
    halves = one.at([Fraction(1, 2)]).scaled(2)
    assert halves.forward_flow_px is None
    assert one.at([Fraction(1)]).forward_flow_px is None


# ---- other moments -------------------------------------------------------------------------------


def some_motion(frames=3):
    return Motion(
        flow_px=torch.randn(frames, 2, 4, 6),
        forward_flow_px=torch.randn(frames, 2, 4, 6),
        visibility=torch.rand(frames, 4, 6),
    )


def at(motion, *times):
    return motion.at([Fraction(time) for time in times])


@pytest.mark.parametrize("count", [1, 2, 3])
def test_at_whole_steps_nothing_is_computed_and_nothing_copied(count):
    motion = some_motion()
    same = at(motion, *range(1, count + 1))
    for name in ("flow_px", "forward_flow_px", "visibility"):
        before, after = getattr(motion, name), getattr(same, name)
        assert torch.equal(after, before[:count])
        assert after.data_ptr() == before.data_ptr()


def test_whole_steps_among_others_stay_as_they_are_to_the_last_bit():
    motion = some_motion()
    for times, places in ((("1/2", 1, "3/2", 2), (1, 3)), ((2,), (0,)), ((3, 1), (0, 1))):
        whole = [int(Fraction(times[place])) - 1 for place in places]
        other = at(motion, *times)
        assert len(other.flow_px) == len(other.visibility) == len(times)
        for name in ("flow_px", "forward_flow_px", "visibility"):
            found = getattr(other, name)[list(places)]
            assert torch.equal(found, getattr(motion, name)[whole])


def test_half_way_between_two_frames_is_their_mean():
    motion = some_motion()
    other = at(motion, "3/2", "5/2")
    for name in ("flow_px", "forward_flow_px", "visibility"):
        value = getattr(motion, name)
        torch.testing.assert_close(getattr(other, name), (value[:-1] + value[1:]) / 2)
    later = at(motion, "7/4")
    torch.testing.assert_close(
        later.flow_px, 0.25 * motion.flow_px[:1] + 0.75 * motion.flow_px[1:2]
    )


def test_before_the_first_frame_motion_begins_at_rest_and_all_is_visible():
    motion = some_motion()
    early = at(motion, "1/4", "1/2", "99/100")
    for position, share in enumerate((0.25, 0.5, 0.99)):
        for name in ("flow_px", "forward_flow_px"):
            torch.testing.assert_close(
                getattr(early, name)[position], share * getattr(motion, name)[0]
            )
        torch.testing.assert_close(
            early.visibility[position], 1 - share * (1 - motion.visibility[0])
        )


def test_a_scaled_motion_goes_as_many_times_as_far_and_shows_the_same():
    motion = some_motion()
    assert motion.scaled(1) is motion
    for factor in (0.0, 0.5, 4.0):
        other = motion.scaled(factor)
        assert torch.equal(other.flow_px, factor * motion.flow_px)
        assert torch.equal(other.forward_flow_px, factor * motion.forward_flow_px)
        assert other.visibility is motion.visibility


# ---- objects apart from everything else ----------------------------------------------------------


class Halves(Network):
    """Moves everything by the first number of the latents, in half-images to the right."""

    def encode(self, frame, planes):
        self.shown = frame, planes
        return [frame]

    def decode(self, encoded, latents, *, both_ways=True):
        height, width = encoded[0].shape[-2:]
        shape = len(latents), 2, FLOW.num_frames, height, width
        flow = torch.zeros(shape)
        flow[:, 0] = latents[:, 0, 0].view(-1, 1, 1, 1)
        ones = torch.ones(shape)[:, 0]
        back = -flow if both_ways else None
        return FlowOutput(flow=flow, flow_back=back, visibility=ones, visibility_back=ones)


def apart(moving, still, car, *, size_hw=(32, 64)):
    """A car at `car` that moves so many pixels to the right, everything else so many."""
    planes = torch.zeros(1, 20, *size_hw)
    planes[:, 2] = 1
    planes[:, 2, car[0], car[1]] = 0
    planes[:, 13, car[0], car[1]] = 1
    half = (size_hw[1] - 1) / 2
    latents, camera = (torch.full((1, 4, 8), pixels / half) for pixels in (moving, still))
    (motion,) = predict_motion(
        Halves(),
        torch.rand(1, 3, *size_hw),
        planes,
        latents,
        downscale=1,
        compute=CPU,
        camera_latents=camera,
    )
    return motion


def test_objects_move_by_their_own_latents_and_all_else_by_the_cameras():
    car = slice(10, 20), slice(20, 30)
    motion = apart(moving=6, still=1, car=car)
    there = motion.forward_flow_px[-1, 0]
    assert there[12:18, 22:28].sub(6).abs().max() < 1e-4
    assert there[:, 40:].sub(1).abs().max() < 1e-4
    back = motion.flow_px[-1, 0]  # in the later frame, the car is 6 px further right
    assert back[12:18, 28:34].add(6).abs().max() < 1e-4
    assert back[:, 45:].add(1).abs().max() < 1e-4
    assert back[:, :15].add(1).abs().max() < 1e-4


def test_an_object_is_not_seen_twice():
    motion = apart(moving=12, still=0, car=(slice(10, 20), slice(20, 30)))
    seen = motion.visibility[-1]
    assert seen[12:18, 21:29].max() < 1e-4  # where it was, something hidden comes to light
    assert seen[12:18, 34:40].min() > 1 - 1e-4  # where it is
    assert seen[:, 50:].min() > 1 - 1e-4


def test_without_objects_only_the_camera_counts():
    motion = apart(moving=9, still=2, car=(slice(0), slice(0)))
    assert motion.flow_px[:, 0].add(2).abs().max() < 1e-4
    assert motion.visibility.min() == 1


def test_the_cameras_latents_depend_on_the_background_alone():
    plain = sample_latents(FLOW, Sample(), camera_only=True)
    other_objects = Sample(variants={"foreground": 5})
    other_camera = Sample(variants={"background": 5})
    assert torch.equal(sample_latents(FLOW, other_objects, camera_only=True), plain)
    changed = sample_latents(FLOW, other_camera, camera_only=True)
    cut = FLOW.background_latents
    assert (changed[..., :cut] != plain[..., :cut]).all()
    assert (changed[..., cut:] != plain[..., cut:]).all()
    both = sample_latents(FLOW, Sample())
    assert torch.equal(both[..., :cut], plain[..., :cut])
    assert (both[..., cut:] != plain[..., cut:]).all()
