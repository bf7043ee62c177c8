"""Keyframes: composed flows lead back to the sharpest frame, and new content is kept."""

from __future__ import annotations

import json
import shutil
import weakref
from pathlib import Path

import numpy as np
import pytest
import torch
from conftest import FLOW
from test_cli_generate import save, scene, seg2vid
from test_pipeline import with_stubs

from seg2vid_cli import keyframes
from seg2vid_cli.camera import FOCAL, path_at
from seg2vid_cli.keyframes import (
    HANDED_ON,
    HIDDEN_BELOW,
    SEEN_ABOVE,
    compose,
    next_keyframes,
    start_keyframes,
    steepen,
)
from seg2vid_cli.motion import Course, Motion, see_from
from seg2vid_cli.networks.ego_flow import Plan
from seg2vid_cli.pipeline import Pipeline
from seg2vid_cli.video import read_frames
from seg2vid_cli.warp import backward_warp

SIZE = (24, 40)


@pytest.fixture
def picture():
    return torch.rand(1, 3, *SIZE, generator=torch.Generator().manual_seed(1))


def planes_of(count=2):
    return torch.rand(1, count, *SIZE)


def shift(right, count=1):
    flow = torch.zeros(count, 2, *SIZE)
    flow[:, 0] = right
    return flow


def everything(count=1):
    return torch.ones(count, *SIZE)


def moved(flow, visibility):
    return Motion(flow_px=flow, forward_flow_px=None, visibility=visibility)


def passes(keyframes, number, *, flow, visibility=None, limit=10):
    """Several passes of one frame each; what is not seen is painted in white."""
    for _ in range(number):
        seen = everything() if visibility is None else visibility
        composite = compose(keyframes, moved(flow, seen))
        frame = composite.pictures * composite.seen + (1 - composite.seen)
        keyframes = next_keyframes(composite, frame, limit=limit)
    return frame, keyframes, composite


def test_without_motion_the_first_frame_stays_as_it_is(picture):
    frame, _, composite = passes(start_keyframes(picture, planes_of()), 5, flow=shift(0.0))
    assert torch.equal(frame, picture)
    assert composite.seen.min() == 1


def test_four_half_pixels_are_two_whole_ones_without_any_blur(picture):
    frame, keyframes, _ = passes(start_keyframes(picture, planes_of()), 4, flow=shift(0.5))
    assert torch.allclose(frame[..., :-4], picture[..., 2:-2], atol=1e-5)
    copied = picture  # a copy of a copy of a copy
    for _ in range(4):
        copied = (copied + copied.roll(-1, -1)) / 2
    assert (copied[..., :-4] - picture[..., 2:-2]).abs().mean() > 0.05
    assert keyframes[0].picture is picture
    assert torch.allclose(keyframes[0].flow_px[:, 0, :, :-4], torch.tensor(2.0))


def test_labels_move_with_the_pixels(picture):
    planes = planes_of(3)
    _, keyframes, _ = passes(start_keyframes(picture, planes), 2, flow=shift(1.0))
    assert torch.allclose(keyframes[-1].planes[..., :-2], planes[..., 2:], atol=1e-6)


def test_no_labels_are_no_trouble(picture):
    frame, keyframes, _ = passes(start_keyframes(picture, planes_of(0)), 2, flow=shift(1.0))
    assert keyframes[-1].planes.shape == (1, 0, *SIZE)
    assert torch.equal(frame[..., :-2], picture[..., 2:])


def test_what_comes_from_outside_is_not_seen_and_once_painted_comes_from_its_own_keyframe(picture):
    keyframes = start_keyframes(picture, planes_of())
    composite = compose(keyframes, moved(shift(4.0), everything()))
    assert composite.seen[..., :-4].min() == 1
    assert composite.seen[..., -4:].max() == 0
    frame, keyframes, _ = passes(keyframes, 2, flow=shift(4.0))
    assert (frame[..., -8:] == 1).all()  # painted in white, then carried on
    again = compose(keyframes, moved(shift(-8.0), everything()))
    assert torch.equal(again.pictures[..., 8:], picture[..., 8:])  # and back to the start


def test_a_hidden_place_is_painted_once_and_then_moves_with_the_others(picture):
    visibility = everything()
    visibility[:, 5:10, 5:10] = 0
    keyframes = start_keyframes(picture, planes_of())
    composite = compose(keyframes, moved(shift(0.0), visibility))
    assert composite.seen[:, 0, 5:10, 5:10].max() == 0
    painted = picture.clone()
    painted[..., 5:10, 5:10] = 0.25
    keyframes = next_keyframes(composite, painted, limit=5)
    later = compose(keyframes, moved(shift(1.0), everything()))
    assert torch.allclose(later.pictures[..., :-1], painted[..., 1:], atol=1e-6)


def test_frames_of_a_pass_are_what_each_is_alone(picture):
    flow = torch.cat([shift(0.3), shift(1.7)])
    seen = torch.rand(2, *SIZE)
    keyframes = start_keyframes(picture, planes_of())
    both = compose(keyframes, moved(flow, seen))
    for t in range(2):
        alone = compose(keyframes, moved(flow[t : t + 1], seen[t : t + 1]))
        assert torch.equal(both.pictures[t], alone.pictures[0])
        assert torch.equal(both.seen[t], alone.seen[0])


def test_only_so_many_are_held_and_the_least_useful_goes_first(picture):
    _, keyframes, _ = passes(start_keyframes(picture, planes_of()), 9, flow=shift(2.0), limit=3)
    assert len(keyframes) == 3
    assert keyframes[0].picture is picture  # still gives more than any of the narrow strips
    _, keyframes, _ = passes(keyframes, 20, flow=shift(2.0), limit=3)
    assert keyframes[0].picture is not picture  # long out of sight


def test_visibility_is_made_steep():
    values = torch.tensor([0.0, HIDDEN_BELOW, (HIDDEN_BELOW + SEEN_ABOVE) / 2, SEEN_ABOVE, 1.0])
    assert torch.allclose(steepen(values), torch.tensor([0.0, 0.0, 0.5, 1.0, 1.0]), atol=1e-6)


@pytest.mark.parametrize("right", [0.3, 0.5, 0.8])
def test_a_hole_neither_grows_nor_heals_between_pixels(right):
    wall, occluder, painted = 0.6, 1.0, 0.1
    picture = torch.full((1, 3, *SIZE), wall)
    picture[..., 7:17, 15:25] = occluder
    visibility = everything()
    visibility[:, 7:17, 15:25] = 0
    composite = compose(start_keyframes(picture, planes_of()), moved(shift(0.0), visibility))
    assert composite.seen[0, 0, 7:17, 15:25].max() == 0
    picture[..., 7:17, 15:25] = painted
    keyframes = next_keyframes(
        composite, picture * (1 - composite.seen) + composite.pictures * composite.seen, limit=6
    )
    start = keyframes[0].picture
    rings = []
    for number in range(12):
        composite = compose(keyframes, moved(shift(-right if number % 2 else right), everything()))
        frame = composite.pictures * composite.seen + wall * (1 - composite.seen)
        keyframes = next_keyframes(composite, frame, limit=6)
        assert keyframes[0].picture is start
        hidden = 1 - keyframes[0].visible[0, 0, 2:-2, 4:-4]
        assert hidden.sum().item() == pytest.approx(100, abs=0.5)
        # Half-way between two pixels the painted columns are nine, and two are a mix.
        assert (frame[0, :, 7:17, 16:24] - painted).abs().max() < 1e-4
        rings.append(frame[0, :, 5:19, 13:27].max().item() - wall)
        if number % 2:  # back at the start
            assert (frame[0, :, 7:17, 15:25] - painted).abs().max() < 1e-4
            assert abs(rings[-1]) < 1e-4
    assert max(rings) < 0.3 * (occluder - wall)  # one mix of two pixels at the rim ...
    assert rings[-2] < rings[0] + 0.02  # ... that does not add up


def test_no_place_with_a_wrong_flow_counts_as_seen(picture):
    composite = compose(start_keyframes(picture, planes_of()), moved(shift(-8.0), everything()))
    assert composite.seen[..., :8].max() == 0
    frame = composite.pictures * composite.seen + (1 - composite.seen)
    keyframes = next_keyframes(composite, frame, limit=5)
    composite = compose(keyframes, moved(shift(0.5), everything()))
    assert composite.seen[..., -1].max() == 0  # half of it lies outside of the source frame
    right = [-7.5, 0.5]
    for (keyframe, given), expected in zip(composite.keyframes, right, strict=True):
        seen = keyframe.visible[:, 0] > 0
        assert given > 0
        assert seen.any()
        assert (keyframe.flow_px[:, 0][seen] - expected).abs().max() < 1e-4
        assert keyframe.flow_px[:, 1][seen].abs().max() < 1e-4


def with_keyframes(bundle, folder, number):
    shutil.copytree(bundle, folder)
    path = folder / "bundle.json"
    data = json.loads(path.read_text())
    data["stages"]["refine"]["options"]["keyframes"] = number
    path.write_text(json.dumps(data))
    return Pipeline.open(str(folder), device="cpu", precision="fp32")


def test_a_bundle_s_option_switches_them_on(tiny_bundle, tmp_path, labels):
    plain = Pipeline.open(str(tiny_bundle), device="cpu", precision="fp32")
    kept = with_keyframes(tiny_bundle, tmp_path / "kept", 4)
    off = with_keyframes(tiny_bundle, tmp_path / "off", 0)
    frames = [[f.frame for f in p.generate(labels, frames=9)] for p in (plain, off, kept)]
    assert all((a == b).all() for a, b in zip(frames[0], frames[1], strict=True))
    assert not (frames[0][-1] == frames[2][-1]).all()
    again = [f.frame for f in kept.generate(labels, frames=5)]  # two passes of two frames
    assert all((a == b).all() for a, b in zip(again, frames[2], strict=False))


def test_visibility_is_what_was_taken_from_earlier_frames(tiny_bundle, tmp_path, labels):
    kept = with_stubs(with_keyframes(tiny_bundle, tmp_path / "kept", 4), right=3)
    kept.refiner.grey = 1.0
    frames = list(kept.generate(labels, frames=3 * FLOW.num_frames + 1, size_hw=(128, 256)))
    for moment in frames[1:]:
        steps = moment.index - moment.source
        assert (moment.visibility[:, : -3 * steps] == 1).all()
        assert (moment.visibility[:, -3 * steps :] == 0).all()
        assert (moment.frame[:, -3 * steps :] == 255).all()  # painted anew
    kept = with_stubs(with_keyframes(tiny_bundle, tmp_path / "soft", 4), visible=0.6)
    assert (next(reversed([*kept.generate(labels, frames=2)])).visibility == 1).all()


def test_a_long_clip_holds_no_more_than_a_short_one(tiny_bundle, tmp_path, labels, monkeypatch):
    limit, held, alive = 3, [], []
    kept = with_stubs(with_keyframes(tiny_bundle, tmp_path / "kept", limit), right=1)
    pictures = []

    def watch(*arguments, **options):
        keyframes = next_keyframes(*arguments, **options)
        pictures.append(weakref.ref(keyframes[-1].picture))
        tensors = [
            value
            for keyframe in keyframes
            for value in vars(keyframe).values()
            if isinstance(value, torch.Tensor)
        ]
        storages = {t.untyped_storage().data_ptr(): t.untyped_storage().nbytes() for t in tensors}
        held.append((len(keyframes), sum(storages.values())))
        alive.append(sum(picture() is not None for picture in pictures))
        return keyframes

    monkeypatch.setattr("seg2vid_cli.pipeline.next_keyframes", watch)
    for _ in kept.generate(labels, frames=40):
        pass
    assert len(held) == 39 // FLOW.num_frames + 1  # passes
    assert [number for number, _ in held[:3]] == [2, 3, 3]
    assert max(number for number, _ in held) == limit
    full = [size for _, size in held[limit - 1 : -1]]  # the last pass is a shorter one
    assert max(full) == full[0]
    assert max(alive) <= limit + 1  # those of the pass before may live until the next is made
    assert alive[-1] <= limit


def test_like_of_a_clip_made_with_keyframes_gives_the_same_bytes(
    tiny_bundle, tmp_path, monkeypatch
):
    monkeypatch.chdir(tmp_path)
    with_keyframes(tiny_bundle, tmp_path / "kept", 3)
    assert seg2vid("weights", "add", "kept", "--name", "kept").code == 0
    save("street.png", scene())
    made = ("--size", "64x32", "--frames", 9, "--device", "cpu", "--seed", 3)
    for weights, name in (("kept", "a.mp4"), (str(tiny_bundle), "plain.mp4")):
        done = seg2vid("generate", "street.png", "-o", name, *made, "--weights", weights)
        assert done.code == 0, done.err
    done = seg2vid("generate", "--like", "a.mp4", "-o", "again.mp4", "--device", "cpu")
    assert done.code == 0, done.err
    assert Path("again.mp4").read_bytes() == Path("a.mp4").read_bytes()
    frames = [np.stack([*read_frames(Path(name))]) for name in ("a.mp4", "plain.mp4")]
    assert (frames[0] != frames[1]).any()  # so keyframes were at work


class TestTravel:
    """Keyframes with depth: a wall 10 camera heights away, a post before it at 4."""

    SIZE = (64, 96)
    FRAMES = 4

    def planes(self):
        ids = torch.full(self.SIZE, 2)
        ids[16:48, 40:46] = 5
        return torch.nn.functional.one_hot(ids, 20).permute(2, 0, 1)[None].float()

    def plan(self, per_frame, velocity=0.0):
        nearness = torch.full((1, 1, *self.SIZE), 0.1)
        nearness[..., 16:48, 40:46] = 0.25
        own = torch.zeros(1, 2, *self.SIZE)
        own[:, 0, 16:48, 40:46] = velocity
        frames = torch.arange(1.0, self.FRAMES + 1)
        camera = torch.tensor(per_frame) * frames[:, None]
        return Plan(nearness=nearness, camera=camera[None], velocity=own)

    def motion(self, plan, times=range(1, FRAMES + 1), scale=1.0):
        times = tuple(times)
        at = torch.tensor([float(t) for t in times])
        camera = scale * path_at(plan.camera, at)
        flow, back, visible, _ = see_from(plan, camera, at, scale=scale, forward_flow=True)
        course = Course(
            plan=plan,
            focus=torch.zeros(1, 2),
            pace=torch.ones(1, 1),
            bend=torch.zeros(1, 1),
            scale=scale,
        )
        return Motion(
            flow_px=flow, forward_flow_px=back, visibility=visible, times=times, course=course
        )

    def drive(self, plans, picture, painted=1.0, scale=1.0):
        keyframes, composites = start_keyframes(picture, self.planes()), []
        for plan in plans:
            composite = compose(keyframes, self.motion(plan, scale=scale))
            frame = composite.pictures * composite.seen + painted * (1 - composite.seen)
            keyframes = next_keyframes(composite, frame[-1:], limit=6)
            composites.append(composite)
        return composites, keyframes

    @pytest.fixture
    def picture(self):
        return torch.rand(1, 3, *self.SIZE, generator=torch.Generator().manual_seed(2))

    STEP = (0.05, 0.0, 0.1, 0.004, 0.002, 0.003)

    def test_two_passes_of_one_way_show_what_one_long_pass_does(self, picture):
        # Smooth, since between pixels the two are not sampled alike.
        picture = torch.nn.functional.interpolate(
            picture[..., ::4, ::4], size=self.SIZE, mode="bicubic", align_corners=False
        ).clamp(0, 1)
        plan = self.plan(self.STEP)
        (_, second), _ = self.drive([plan, plan], picture)
        frames = torch.arange(1.0, self.FRAMES + 1)[:, None]
        first = torch.tensor(self.STEP) * self.FRAMES
        # The second pass goes on in the camera's own direction, so this holds but for small turns.
        camera = first + torch.tensor(self.STEP) * frames
        at = self.FRAMES + frames[:, 0]
        flow, _, visible, _ = see_from(plan, camera[None], at, scale=1.0, forward_flow=False)
        keyframes = start_keyframes(picture, self.planes())
        alone = compose(keyframes, moved(flow, visible))
        both = ((alone.seen > 0.99) & (second.seen > 0.99)).expand_as(alone.pictures)
        assert both.float().mean() > 0.7
        assert (alone.pictures - second.pictures)[both].abs().median() < 0.02

    def test_a_thing_stays_whole_however_many_passes(self, picture):
        picture = picture * 0.2
        picture[..., 16:48, 40:46] = 1.0  # a white post before a dark wall
        plan = self.plan((0.0, 0.0, 0.12, 0.0, 0.0, 0.0))
        composites, _ = self.drive([plan] * 4, picture, painted=0.1)
        white = (composites[-1].pictures[-1].mean(0) > 0.8) & (composites[-1].seen[-1, 0] > 0.5)
        rows, columns = torch.nonzero(white, as_tuple=True)
        growth = 1 / (1 - 0.25 * 0.12 * 16)
        assert growth > 1.9
        area = float((rows.max() - rows.min() + 1) * (columns.max() - columns.min() + 1))
        assert float(white.sum()) > 0.9 * area
        assert float(rows.max() - rows.min() + 1) == pytest.approx(32 * growth, abs=4)
        assert float(columns.max() - columns.min() + 1) == pytest.approx(6 * growth, abs=4)

    def test_what_was_painted_goes_on_from_there(self, picture):
        to_the_right = (0.3, 0.0, 0.0, 0.0, 0.0, 0.0)
        (first, second), keyframes = self.drive([self.plan(to_the_right)] * 2, picture)
        hidden = first.seen[-1, 0] < 0.01
        assert hidden.float().mean() > 0.02
        assert len(keyframes) == 3
        assert keyframes[1].own[0, 0][hidden].mean() > 0.5
        white = (second.pictures[-1] > 0.99).all(0) & (second.seen[-1, 0] > 0.99)
        assert white.float().mean() > 0.01

    def test_crumbs_in_what_is_hidden_are_hidden(self, picture):
        plan = self.plan((0.0,) * 6)
        motion = self.motion(plan)
        motion.visibility[:, 20:40, 60:80] = 0
        motion.visibility[:, 30, 70:73] = 1  # not worth keeping
        motion.visibility[:, 50:60, 20:22] = 0  # a crack beside what is seen
        (keyframe,) = start_keyframes(picture, self.planes())
        composite = compose((keyframe,), motion)
        seen = composite.seen[:, 0]
        assert seen[:, 22:38, 62:78].max() == 0
        assert composite.pictures[..., 22:38, 62:78].max() == 0
        torch.testing.assert_close(composite.planes, keyframe.planes)  # each place counts once
        assert seen[:, 50:60, 22:].min() == 1
        assert seen[:, :18].min() == 1

    def test_flows_lead_to_the_source_frame_and_back(self, picture):
        plan = self.plan((0.05, 0.0, 0.1, 0.0, 0.0, 0.0))
        (_, second), _ = self.drive([plan, plan], picture)
        alone = self.motion(plan)  # the same way, from a source with the same depth nearly
        seen = (second.seen[:, 0] > 0.99) & (alone.visibility > 0.99)
        gap = (second.flow_px - alone.flow_px).norm(dim=1)[seen]
        assert gap.median() < 0.35
        there = second.forward_flow_px
        assert there is not None
        assert (there - alone.forward_flow_px).norm(dim=1).median() < 0.35
        wall = (1 / (1 - 0.1 * 0.4) - 1 / 1) * 0.05 * FOCAL  # it has come nearer meanwhile
        assert wall < 0.01

    def test_depth_is_remembered(self, picture):
        plan = self.plan((0.0, 0.0, 0.25, 0.0, 0.0, 0.0))
        (composite,), _ = self.drive([plan], picture)
        memory = composite.memory
        assert memory is not None
        assert memory.known.float().mean() > 0.9
        # Four steps of a quarter: one camera height nearer.
        far = memory.nearness[0, 0, 4, 4]
        assert float(far) == pytest.approx(1 / 9, rel=0.02)
        assert float(memory.nearness[0, 0, 32, 43]) == pytest.approx(1 / 3, rel=0.02)

    def test_all_goes_so_many_times_as_far(self, picture):
        plan = self.plan((0.0, 0.0, 0.2, 0.0, 0.0, 0.0))
        still, _ = self.drive([plan, plan], picture, scale=0.0)
        torch.testing.assert_close(
            still[1].pictures, picture.expand(self.FRAMES, -1, -1, -1), rtol=0, atol=1e-4
        )

    def test_what_has_become_large_is_handed_on(self, picture):
        plan = self.plan((0.0, 0.0, 0.4, 0.0, 0.0, 0.0))  # the post is twice and a half as large
        _, keyframes = self.drive([plan], picture)
        old, new = keyframes
        assert old.own[..., 20:44, 41:45].max() == 0
        assert old.own[..., 4, 4] == 1
        middle = new.own[0, 0, 24:40, 38:44]
        assert middle.mean() > 0.8


def test_pictures_are_sampled_sharply_where_they_are_seen_larger():
    picture = torch.rand(1, 3, 16, 24, generator=torch.Generator().manual_seed(5))
    flow = torch.full((2, 2, 16, 24), 0.5)
    growth = torch.ones(2, 1, 16, 24)
    growth[..., 12:] = HANDED_ON
    made = keyframes._sample(picture, flow, growth)
    both = picture.expand(2, -1, -1, -1)
    plain, sharp = (backward_warp(both, flow, sharp=kind) for kind in (False, True))
    inside = np.s_[..., 1:-1, :]
    torch.testing.assert_close(made[inside][..., :11], plain[inside][..., :11])
    torch.testing.assert_close(made[inside][..., 12:-1], sharp[inside][..., 12:-1])
    still = torch.zeros_like(flow)
    assert torch.equal(keyframes._sample(picture, still, growth), both)
