"""Keyframes: composed flows lead back to the sharpest frame, and new content is kept."""

from __future__ import annotations

import json
import shutil

import pytest
import torch

from seg2vid_cli.keyframes import (
    HIDDEN_BELOW,
    SEEN_ABOVE,
    compose,
    next_keyframes,
    start_keyframes,
    steepen,
)
from seg2vid_cli.pipeline import Pipeline

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


def passes(keyframes, number, *, flow, visibility=None, limit=10):
    """Several passes of one frame each; what is not seen is painted in white."""
    for _ in range(number):
        seen = everything() if visibility is None else visibility
        composite = compose(keyframes, flow, seen)
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
    composite = compose(keyframes, shift(4.0), everything())
    assert composite.seen[..., :-4].min() == 1
    assert composite.seen[..., -4:].max() == 0
    frame, keyframes, _ = passes(keyframes, 2, flow=shift(4.0))
    assert (frame[..., -8:] == 1).all()  # painted in white, then carried on
    again = compose(keyframes, shift(-8.0), everything())
    assert torch.equal(again.pictures[..., 8:], picture[..., 8:])  # and back to the start


def test_a_hidden_place_is_painted_once_and_then_moves_with_the_others(picture):
    visibility = everything()
    visibility[:, 5:10, 5:10] = 0
    keyframes = start_keyframes(picture, planes_of())
    composite = compose(keyframes, shift(0.0), visibility)
    assert composite.seen[:, 0, 5:10, 5:10].max() == 0
    painted = picture.clone()
    painted[..., 5:10, 5:10] = 0.25
    keyframes = next_keyframes(composite, painted, limit=5)
    later = compose(keyframes, shift(1.0), everything())
    assert torch.allclose(later.pictures[..., :-1], painted[..., 1:], atol=1e-6)


def test_frames_of_a_pass_are_what_each_is_alone(picture):
    flow = torch.cat([shift(0.3), shift(1.7)])
    seen = torch.rand(2, *SIZE)
    keyframes = start_keyframes(picture, planes_of())
    both = compose(keyframes, flow, seen)
    for t in range(2):
        alone = compose(keyframes, flow[t : t + 1], seen[t : t + 1])
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
