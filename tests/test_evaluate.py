"""Figures of weights: distances and scores against facts worked out by hand."""

from __future__ import annotations

from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pytest
import torch
from PIL import Image

pytest.importorskip("cv2")

from seg2vid_cli.errors import InputError
from seg2vid_cli.motion import sample_latents
from seg2vid_cli.pipeline import Pipeline
from seg2vid_cli.training import evaluate, evaluate_motion
from seg2vid_cli.training.clips import DriveClip
from seg2vid_cli.training.data import Pair, wide_window
from seg2vid_cli.training.segmenter import SegmenterTask
from seg2vid_cli.video import open_video


def normal(mean, spread, count=4000, dims=3, seed=0):
    return np.random.default_rng(seed).normal(mean, spread, (count, dims))


class TestFrechet:
    def test_it_is_the_distance_of_two_normal_distributions(self):
        a, b = normal(0.0, 1.0), normal(2.0, 3.0, seed=1)
        expected = 3 * 2.0**2 + 3 * (1 + 9 - 2 * 3)
        assert evaluate.frechet_distance(a, b) == pytest.approx(expected, rel=0.05)
        assert evaluate.frechet_distance(a, b) == pytest.approx(evaluate.frechet_distance(b, a))

    def test_it_sees_what_goes_together(self):
        a = normal(0.0, 1.0, dims=2)
        b = a @ np.array([[1.0, 0.9], [0.0, np.sqrt(1 - 0.81)]])  # the same spread, correlated
        assert evaluate.frechet_distance(a, a) == pytest.approx(0, abs=1e-9)
        assert evaluate.frechet_distance(a, b) > 0.1

    def test_fewer_samples_than_features_do_no_harm(self):
        a, b = normal(0.0, 1.0, count=10, dims=30), normal(0.0, 1.0, count=12, dims=30, seed=2)
        assert 0 < evaluate.frechet_distance(a, b) < 1000

    def test_the_floor_is_real_against_real(self):
        real = normal(0.0, 1.0, count=200, dims=4)
        same = evaluate._frechet_scores(real, real)
        other = evaluate._frechet_scores(real, real + 3)
        assert same["times_floor"] == pytest.approx(1.0, abs=0.01)
        assert other["distance"] == pytest.approx(same["floor"] + 36, rel=0.05)


@pytest.fixture(scope="module")
def pairs():
    made = []
    for index in range(4):
        ids = np.full((128, 256), 10, np.uint8)
        ids[60:] = 0
        ids[50:90, 20 + 40 * index : 90 + 40 * index] = 13
        picture = (ids[..., None] * np.array([9, 5, 12])).astype(np.uint8)
        name = f"{'east' if index % 2 else 'west'}_{index}"
        made.append(Pair(name=name, picture=picture, train_ids=ids))
    return made


@pytest.fixture
def pipeline(tiny_bundle):
    return Pipeline.open(str(tiny_bundle), device="cpu", precision="fp32")


def test_a_reader_that_sees_no_difference_gives_equal_scores(pairs, pipeline, monkeypatch):
    task = SegmenterTask(pairs, batch=2, size_hw=(64, 128))
    for _ in range(10):
        task.step()
    windows = {p.name: wide_window(p, pipeline.bundle.size_hw).picture for p in pairs}
    order = iter(windows.values())
    monkeypatch.setattr(evaluate, "paint_labels", lambda *a, **k: next(order))
    figures = evaluate.first_frame_scores(pipeline, pairs, task.network.eval())
    assert figures["share_of_real"] == {"pixel_accuracy": 1.0, "mean_iou": 1.0}
    assert set(figures["drives"]) == {"east", "west"}
    assert figures["frechet"]["times_floor"] == pytest.approx(1.0, abs=0.01)
    assert figures["pictures"] == 4


def test_each_half_of_the_latent_is_changed_alone(pairs, pipeline, monkeypatch):
    config, asked = pipeline.motion.config, []

    class Moved:
        def __init__(self, latents):
            cut = config.background_latents
            flow = torch.zeros(2, 2, 128, 256)
            flow[:, 0, 50:90] = latents[0, 0, cut:].sum() * 10  # objects follow their half
            flow[:, 0, :50] = latents[0, 0, :cut].sum()
            self.flow_px, self.forward_flow_px = flow, -flow
            self.visibility = torch.ones(2, 128, 256)

    def predict(_, pair, sample):
        latents = sample_latents(config, sample)
        asked.append(latents)
        return Moved(latents)

    monkeypatch.setattr(evaluate_motion, "_predict", predict)
    figures = evaluate_motion.latent_scores(pipeline, pairs)
    cut = config.background_latents
    first = asked[: evaluate_motion.LATENTS_PER_PICTURE]
    assert len({tuple(z[0, 0, cut:].tolist()) for z in first}) == 1
    assert len({tuple(z[0, 0, :cut].tolist()) for z in first}) == len(first)
    by_objects = figures["flow_px_by_foreground_latent"]
    assert by_objects["objects"] > by_objects["elsewhere"] > 0
    by_camera = figures["flow_px_by_background_latent"]
    assert by_camera["objects"] == 0 < by_camera["elsewhere"]
    assert figures["pictures_with_objects"] == 4


def test_objects_that_go_elsewhere_take_their_place_along(pairs, pipeline, monkeypatch):
    """What an object does to the flow where it has gone is not held against the background."""
    config = pipeline.motion.config

    def predict(_, pair, sample):
        away = int(10 * sample_latents(config, sample)[0, 0, config.background_latents :].sum())
        there = torch.from_numpy(pair.train_ids == 13).roll(away, 1)
        there &= torch.arange(256) - away < 256
        there &= torch.arange(256) - away >= 0
        flow = torch.zeros(1, 2, 128, 256)
        flow[0, 0] = -away * there
        return SimpleNamespace(
            flow_px=flow, forward_flow_px=-flow, visibility=torch.ones(1, 128, 256)
        )

    monkeypatch.setattr(evaluate_motion, "_predict", predict)
    by_objects = evaluate_motion.latent_scores(pipeline, pairs)["flow_px_by_foreground_latent"]
    assert by_objects["objects"] > 1
    assert by_objects["elsewhere"] == 0


def test_long_clips_are_compared_with_their_second_frame(pairs, pipeline, monkeypatch):
    monkeypatch.setattr(evaluate_motion, "LONG_CLIP", 27)
    figures = evaluate_motion.sharpness_scores(pipeline, pairs[:1])
    assert figures["frames"] == [8, 16, 24, 26]
    assert all(value > 0 for value in figures["sharpness_of_frame_1"])


class Film:
    """A pipeline that gives frames which are already made."""

    def __init__(self, frames, every=8):
        self.motion = SimpleNamespace(config=SimpleNamespace(num_frames=every))
        self.frames, self.asked = frames, []

    def generate(self, labels, *, seed, frames):
        self.asked.append((labels.size_hw, seed, frames))
        assert frames == len(self.frames)
        return [SimpleNamespace(frame=frame) for frame in self.frames]


def stripes(blurs):
    """Upright stripes two pixels wide; every blur halves their contrast."""
    line = np.tile([28.0, 28.0, 228.0, 228.0], 16)
    for _ in range(blurs):
        line = 0.25 * np.roll(line, 1) + 0.5 * line + 0.25 * np.roll(line, -1)
    return np.broadcast_to(line[:, None], (32, 64, 3)).round().astype(np.uint8)


def test_blurred_frames_have_their_share_of_sharpness(pairs, monkeypatch):
    monkeypatch.setattr(evaluate_motion, "LONG_CLIP", 33)
    blurs = {0: 3, **dict.fromkeys(range(16, 24), 1), **dict.fromkeys(range(24, 33), 2)}
    film = Film([stripes(blurs.get(t, 0)) for t in range(33)])
    figures = evaluate_motion.sharpness_scores(film, pairs[:2])
    assert figures["frames"] == [8, 16, 24, 32]
    assert figures["sharpness_of_frame_1"] == pytest.approx([1.0, 0.5, 0.25, 0.25], abs=0.01)
    assert film.asked == [((128, 256), 0, 33), ((128, 256), 1, 33)]


@pytest.mark.parametrize(("place", "expected"), [(None, 1.0), (1, 5.0), (0, None), (2, None)])
def test_a_jump_where_a_pass_begins_is_seen(pairs, monkeypatch, place, expected):
    monkeypatch.setattr(evaluate_motion, "LONG_CLIP", 33)
    grey, frames, every = 10, [], 8
    for t in range(33):
        # A pass begins with frame 1, 9, 17 and so on; each frame is one brighter, or five.
        grey += 5 if place is not None and t > 1 and t % every == place else 1
        frames.append(np.full((32, 64, 3), grey, np.uint8) + stripes(0) // 4)
    figure = evaluate_motion.sharpness_scores(Film(frames, every), pairs[:1])
    if expected is None:
        assert figure["change_where_a_pass_begins"] < 1
    else:
        assert figure["change_where_a_pass_begins"] == expected


def test_short_sequences_are_refused_before_any_figure(pairs, monkeypatch):
    monkeypatch.setattr(evaluate.Pipeline, "open", lambda *_: pytest.fail("weights were opened"))
    arguments = {"pairs": pairs, "clips": [], "runs": Path("none")}
    many = [pairs[0]] * evaluate_motion.HORIZONS[-1]
    with pytest.raises(InputError) as caught:
        evaluate.evaluate_bundle("street", sequence=many, **arguments)
    assert caught.value.message == "--sequence: 8 pictures are too few"
    assert caught.value.hint == "more than 8"
    for enough in ([*many, pairs[0]], []):
        with pytest.raises(pytest.fail.Exception, match="weights were opened"):
            evaluate.evaluate_bundle("street", sequence=enough, **arguments)


def test_short_clips_are_refused_before_any_figure(pairs, tmp_path, monkeypatch):
    monkeypatch.setattr(evaluate.Pipeline, "open", lambda *_: pytest.fail("weights were opened"))
    with open_video(tmp_path / "c.mp4", size_hw=(32, 64), fps=15) as video:
        for _ in range(12):
            video.write(np.zeros((32, 64, 3), np.uint8))
    clip = f"{tmp_path / 'c.mp4'}:4-12"
    with pytest.raises(InputError, match=r"c\.mp4:4-12: 8 frames are too few"):
        evaluate.evaluate_bundle("street", pairs=pairs, sequence=[], clips=[clip], runs=tmp_path)


@pytest.mark.parametrize(("width", "factor"), [(64, 1), (256, 1), (300, 1), (512, 2), (1024, 4)])
def test_wide_frames_are_compared_at_256_pixels(width, factor):
    frames = np.random.default_rng(0).integers(0, 255, (2, 16, width, 3), dtype=np.uint8)
    shape = (2, 16 // factor, factor, width // factor, factor, 3)
    expected = frames.reshape(shape).mean((2, 4)).transpose(0, 3, 1, 2) / 255
    got = evaluate_motion._compared([*frames])
    assert got.shape == (2, 3, 16 // factor, width // factor)
    np.testing.assert_allclose(got.numpy(), expected, atol=1e-6)


def test_real_frames_that_only_slide_have_hardly_a_warping_error():
    rng = np.random.default_rng(1)
    wide = np.kron(rng.integers(0, 255, (32, 84, 3), dtype=np.uint8), np.ones((4, 4, 1), np.uint8))
    frames = [wide[:, 2 * t : 2 * t + 256] for t in range(4)]
    other = [np.roll(f, 37 * t, axis=0)[::-1] for t, f in enumerate(frames)]
    assert evaluate_motion._warping_error(frames) < 0.02
    assert evaluate_motion._warping_error(other) > 0.05


def test_coherence_is_measured_on_what_the_command_would_make(pipeline, monkeypatch):
    monkeypatch.setattr(evaluate_motion, "STARTS_PER_CLIP", 1)
    frames = np.random.default_rng(0).integers(0, 255, (12, 128, 256, 3), dtype=np.uint8)
    clip = DriveClip(name="d", frames=frames, train_ids=np.zeros((12, 128, 256), np.uint8))
    figures = evaluate_motion.coherence_scores(pipeline, clip, 1)
    assert figures["warping_error"] < figures["warping_error_real"]  # noise never fits


def test_a_sheet_shows_two_seeds_of_every_map(tiny_bundle, pairs):
    pipeline = Pipeline.open(str(tiny_bundle), precision="fp32")
    sheet = evaluate.sample_sheet(pipeline, pairs)
    one = evaluate.sample_sheet(pipeline, pairs[:1])
    assert sheet.width == one.width >= 4 * 64 // 2
    assert sheet.height > (len(pairs) - 1) * one.height * 0.9
    frames = np.asarray(one, np.int64)
    first, other = frames[:32, :32], frames[:32, 2 * one.width // 4 :][:, :32]
    assert np.abs(first - other).mean() > 1  # another seed


def test_the_sheet_is_all_that_is_made(tiny_bundle, tmp_path, monkeypatch):
    from test_cli_generate import refused, seg2vid
    from test_cli_train import pictures_and_labels

    monkeypatch.chdir(tmp_path)
    inputs = ("evaluate", *pictures_and_labels(), "--weights", tiny_bundle)
    done = seg2vid("train", *inputs, "--sheet", "sheet.png")
    assert (done.code, done.out) == (0, "")
    with Image.open("sheet.png") as sheet:
        assert sheet.width > 100
    refused("train", *inputs, "--sheet", "sheet.bmp", says=("sheet.bmp", ".png"))
    refused("train", *inputs[:-1], "street-edges", "--sheet", "a.png", says=("no motion stage",))
    assert not Path("a.png").exists()
