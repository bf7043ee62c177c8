"""Figures of weights: distances and scores against facts worked out by hand."""

from __future__ import annotations

import numpy as np
import pytest
import torch

pytest.importorskip("cv2")

from seg2vid_cli.pipeline import Pipeline
from seg2vid_cli.training import evaluate, evaluate_motion
from seg2vid_cli.training.clips import DriveClip
from seg2vid_cli.training.data import Pair
from seg2vid_cli.training.segmenter import SegmenterTask


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
    monkeypatch.setattr(evaluate, "load_segmenter", lambda runs: task.network.eval())
    windows = {p.name: evaluate.wide_window(p, pipeline.bundle.size_hw).picture for p in pairs}
    order = iter(windows.values())
    monkeypatch.setattr(evaluate, "paint_pair", lambda *a, **k: next(order))
    figures = evaluate.first_frame_scores(pipeline, pairs, runs=None)
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
            flow[:, :, 50:90] = latents[0, 0, cut:].sum() * 10  # objects follow their half
            flow[:, :, :50] = latents[0, 0, :cut].sum()
            self.flow_px, self.forward_flow_px = flow, -flow
            self.visibility = torch.ones(2, 128, 256)

    def predict(_, pair, latents):
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


def test_long_clips_are_compared_with_their_second_frame(pairs, pipeline, monkeypatch):
    monkeypatch.setattr(evaluate_motion, "LONG_CLIP", 27)
    figures = evaluate_motion.sharpness_scores(pipeline, pairs[:1])
    assert figures["frames"] == [8, 16, 24, 26]
    assert all(value > 0 for value in figures["sharpness_of_frame_1"])


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
