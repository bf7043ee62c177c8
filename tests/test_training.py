"""Training: data, losses, the loop, one step of every task, export. Needs the extra `train`."""

from __future__ import annotations

import csv
import inspect
import math
import threading
from contextlib import nullcontext
from copy import deepcopy
from dataclasses import dataclass, replace
from functools import partial
from itertools import count, pairwise
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pytest
import torch
from conftest import lively, sliding_wall
from PIL import Image
from test_edges import write_guided_bundle
from torch import nn
from torch.nn import functional as F

pytest.importorskip("cv2")

from seg2vid_cli.edges import laplacian_edges
from seg2vid_cli.errors import InputError
from seg2vid_cli.networks.edge_detector import EdgeDetector, EdgeDetectorConfig
from seg2vid_cli.networks.label_unet import MIDDLE_NOISE, LabelUNet, LabelUNetConfig
from seg2vid_cli.networks.segmenter import Segmenter, SegmenterConfig
from seg2vid_cli.pipeline import Pipeline
from seg2vid_cli.training import data, first_frame, judges, loop, losses, refine
from seg2vid_cli.training.clips import (
    DriveClip,
    MotionClips,
    check_clip,
    classical_flow,
    clip_stride,
    collate,
    load_segmenter,
    parse_clip,
    read_clips,
    read_glimpses,
)
from seg2vid_cli.training.evaluate_motion import motion_scores
from seg2vid_cli.training.export import export_runs
from seg2vid_cli.training.first_frame import FirstFrameTask
from seg2vid_cli.training.motion import MotionTask
from seg2vid_cli.training.refine import RefineTask
from seg2vid_cli.training.segmenter import (
    SegmenterTask,
    label_frames,
    score,
    unlabelled_pairs,
)
from seg2vid_cli.training.sflow import check_start
from seg2vid_cli.video import open_video, read_frames
from seg2vid_cli.weights.load import mix_bundles, read_bundle

TINY = SegmenterConfig(classes=19, channels=(4, 6), blocks=(0, 1))


def tiny_segmenter() -> Segmenter:
    return Segmenter(TINY)


@pytest.fixture(autouse=True)
def one_thread():
    before = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(before)


@pytest.fixture(scope="module")
def pairs():
    rng = np.random.default_rng(0)
    made = []
    for index in range(3):
        train_ids = np.full((144, 192), 10, np.uint8)
        train_ids[60:] = 0
        train_ids[50:90, 20 + 40 * index : 70 + 40 * index] = 13
        picture = (train_ids[..., None] * np.array([9, 5, 12])).astype(np.uint8)
        noise = rng.integers(0, 30, picture.shape, dtype=np.uint8)
        made.append(data.Pair(name=f"p{index}", picture=picture + noise, train_ids=train_ids))
    return made


@pytest.fixture(scope="module")
def drive():
    """A textured wall that slides 2 px to the left with every frame."""
    ids = np.full((20, 128, 256), 2, np.uint8)
    return DriveClip(name="drive", frames=sliding_wall(20), train_ids=ids)


@pytest.fixture(scope="module")
def clips(drive):
    return MotionClips([drive], strides=[1], num_frames=8, every=4)


def a_clip(path, frames, fps):
    """A video of changing greys; its name as text."""
    with open_video(path, size_hw=(32, 64), fps=fps) as video:
        for t in range(frames):
            video.write(np.full((32, 64, 3), 8 * t % 256, np.uint8))
    return str(path)


class TestData:
    def test_pairs_are_read_through_the_label_encodings(self, tmp_path):
        Image.new("RGB", (32, 16), (9, 9, 9)).save(tmp_path / "a.png")
        (tmp_path / "labels").mkdir()
        ids = np.full((16, 32), 3, np.uint8)
        Image.fromarray(ids).save(tmp_path / "labels" / "a.png")
        toml = tmp_path / "mine.toml"
        toml.write_text('[classes]\n3 = "road"\n')
        (pair,) = data.read_pairs(tmp_path, tmp_path / "labels", encoding=str(toml))
        assert (pair.train_ids == 0).all()
        assert pair.picture.shape == (16, 32, 3)

    def test_a_picture_without_label_map_is_named(self, tmp_path):
        Image.new("RGB", (32, 16)).save(tmp_path / "a.png")
        (tmp_path / "labels").mkdir()
        with pytest.raises(InputError, match="a: needs a picture"):
            data.read_pairs(tmp_path, tmp_path / "labels")

    def test_only_whole_regions_change_and_only_to_look_alikes(self):
        ids = np.zeros((40, 60), np.uint8)
        ids[5:10, 5:10], ids[20:30, 30:50] = 13, 13
        rng = np.random.default_rng(0)
        seen = set()
        for _ in range(100):
            out = data.diversify_classes(ids, rng)
            assert (out[ids == 0] == 0).all()
            for region in (out[5:10, 5:10], out[20:30, 30:50]):
                assert len(np.unique(region)) == 1
                seen.add(int(region[0, 0]))
        assert seen == {13, 14, 15, 16}

    def test_a_crop_keeps_labels_and_picture_together(self, pairs):
        rng = np.random.default_rng(3)
        for _ in range(10):
            picture, ids = data.crop_pair(pairs[0], (32, 64), rng, zoom=(0.5, 1.0))
            assert picture.shape == (32, 64, 3)
            assert ids.shape == (32, 64)
            means = [picture[ids == i].mean() for i in (0, 10) if (ids == i).any()]
            assert means == sorted(means)  # road is darker than sky in these pictures

    def test_colours_change_as_the_arithmetic_says(self):
        picture = np.random.default_rng(4).integers(0, 256, (40, 50, 3), dtype=np.uint8)
        sharp = 0
        for seed in range(12):
            found = data.jitter_colours(picture, np.random.default_rng(seed), 1.0)
            rng = np.random.default_rng(seed)
            x = (picture / 255) ** np.exp(rng.normal(0, 0.35))
            x = (x - x.mean()) * np.exp(rng.normal(0, 0.3)) + x.mean()
            x = x * np.exp(rng.normal(0, 0.25)) * np.exp(rng.normal(0, 0.12, 3))
            wanted = np.clip(x, 0, 1) * 255
            if rng.random() < 0.3:  # blurred: only its mean is known
                np.testing.assert_allclose(found.mean((0, 1)), wanted.mean((0, 1)), atol=2)
            else:
                np.testing.assert_allclose(found, np.floor(wanted), atol=1)
                sharp += 1
        assert 0 < sharp < 12

    def test_an_error_in_the_background_thread_comes_out(self):
        def broken(rng):
            raise ValueError("no such picture")

        with pytest.raises(ValueError, match="no such picture"):
            next(data.prefetch(broken, 0))

    def test_the_same_seed_gives_the_same_batches(self):
        first, again, other = (
            [next(batches) for _ in range(3)]
            for batches in (data.prefetch(lambda rng: rng.integers(1000), s) for s in (1, 1, 2))
        )
        assert first == again != other

    @pytest.mark.parametrize("taken", [1, 4])
    def test_the_background_thread_ends_with_its_batches(self, taken):
        before = set(threading.enumerate())
        batches = data.prefetch(lambda rng: rng.integers(1000), 0)
        for _ in range(taken):
            next(batches)
        (worker,) = set(threading.enumerate()) - before
        assert worker.daemon  # an interrupted training does not wait for it
        batches.close()
        worker.join(5)
        assert worker not in threading.enumerate()
        assert next(batches, None) is None

    def test_a_thread_that_is_still_at_work_ends_too(self):
        go_on, before = threading.Event(), set(threading.enumerate())

        def slow(rng):
            if rng.integers(2**31) != first:
                go_on.wait(20)
            return 1

        first = np.random.default_rng(3).integers(2**31)
        batches = data.prefetch(slow, 3)
        assert next(batches) == 1
        (worker,) = set(threading.enumerate()) - before
        batches.close()  # does not wait for it
        assert worker.is_alive()
        go_on.set()
        worker.join(5)
        assert not worker.is_alive()


class TestLosses:
    def test_equal_pictures_do_not_differ(self):
        x = torch.rand(2, 3, 8, 9)
        assert losses.dissimilarity(x, x).abs().max() < 1e-5

    def test_textures_are_means_and_deviations_inside_each_class(self):
        """Against a loop over pictures, classes and channels, and as many mixtures of channels."""
        made, true = torch.rand(2, 3, 6, 8), torch.rand(2, 3, 6, 8)
        torch.manual_seed(3)
        mixtures = F.normalize(torch.randn(3, 3), dim=1)
        torch.manual_seed(3)
        ids = torch.full((2, 12, 16), 19)
        ids[0, :6], ids[0, 6:, :8], ids[1, :, :10] = 3, 5, 7
        ids[0, 11, 15] = 2  # too small to count
        planes = F.one_hot(ids, 20).permute(0, 3, 1, 2).float()
        wanted = []
        for picture, classes in enumerate(((3, 5), (7,))):
            gap = weight = 0.0
            for name in classes:
                cells = ids[picture, ::2, ::2] == name
                root = math.sqrt(cells.sum())
                for weights in (*torch.eye(3), *mixtures):
                    a, b = (weights @ x[picture][:, cells] for x in (made, true))
                    moments = abs(a.mean() - b.mean()) + abs(a.std(False) - b.std(False))
                    gap += root * moments / 6
                weight += root
            wanted.append(gap / weight)
        torch.testing.assert_close(losses.texture_gap(made, true, planes), torch.stack(wanted))
        follows = torch.tensor([True, False])
        torch.manual_seed(3)
        both = losses.compare(made, true, planes, follows)
        torch.testing.assert_close(both, torch.stack([(made - true)[0].abs().mean(), wanted[1]]))

    def test_large_pictures_have_about_the_textures_that_a_grid_shows(self, monkeypatch):
        planes = F.one_hot(torch.full((1, 64, 64), 3), 20).permute(0, 3, 1, 2).float()
        made, true = torch.rand(1, 3, 64, 64), 0.5 * torch.rand(1, 3, 64, 64)
        gaps = []
        for most in (64 * 64, 32 * 32):
            monkeypatch.setattr(losses, "MOST_CELLS", most)
            torch.manual_seed(3)
            gaps.append(losses.texture_gap(made, true, planes).item())
        assert gaps[0] != gaps[1] == pytest.approx(gaps[0], rel=0.1)

    def test_faint_textures_are_told_apart_in_mixed_precision(self):
        planes = F.one_hot(torch.full((1, 64, 64), 3), 20).permute(0, 3, 1, 2).float()
        made = 0.6 + 0.01 * torch.randn(1, 3, 64, 64)
        true = made.mean((2, 3), keepdim=True) + 2 * (made - made.mean((2, 3), keepdim=True))
        torch.manual_seed(3)
        wanted = losses.texture_gap(made, true, planes)
        with torch.autocast("cpu", torch.bfloat16):
            torch.manual_seed(3)
            gap = losses.texture_gap(made, true, planes)
        assert wanted.item() == pytest.approx(0.01, rel=0.5)
        torch.testing.assert_close(gap, wanted)

    def test_a_picture_without_labels_has_no_textures(self):
        planes = F.one_hot(torch.full((1, 8, 8), 19), 20).permute(0, 3, 1, 2).float()
        made = torch.rand(1, 3, 8, 8).requires_grad_()
        gap = losses.texture_gap(made, torch.rand(1, 3, 8, 8), planes)
        assert gap.item() == 0
        assert torch.autograd.grad(gap.sum(), made)[0].abs().max() == 0

    def test_flat_pictures_differ_by_luminance_and_l1(self):
        a, b = torch.full((1, 3, 8, 8), 0.5), torch.full((1, 3, 8, 8), 0.7)
        luminance = (2 * 0.5 * 0.7 + 1e-4) / (0.25 + 0.49 + 1e-4)
        expected = 0.85 * (1 - luminance) / 2 + 0.15 * 0.2
        assert losses.dissimilarity(a, b).mean().item() == pytest.approx(expected, abs=1e-4)

    def test_a_linear_flow_is_smooth_and_a_bend_is_not(self):
        flow = torch.arange(8.0).expand(1, 2, 6, 8)
        flat = torch.zeros(1, 3, 6, 8)
        assert losses.edge_aware_smoothness(flow, flat).item() == 0
        assert losses.edge_aware_smoothness(flow**2, flat).item() == pytest.approx(2)

    def test_masked_mean_counts_only_the_mask(self):
        x = torch.tensor([[1.0, 5.0]])
        assert losses.masked_mean(x, torch.tensor([[1.0, 0.0]])).item() == 1
        assert losses.masked_mean(x, torch.zeros(1, 2)).item() == 0

    def test_kl_of_a_shifted_normal_is_half_its_square(self):
        mean = torch.tensor([[[3.0, 4.0]]])
        assert losses.kl_to_normal(mean, torch.zeros_like(mean)).item() == pytest.approx(12.5)


@dataclass(frozen=True)
class _LineConfig:
    width: int = 1


class _Line:
    """Learns that y = 2 x."""

    name, learning_rate, progress = "line", 0.1, 0.0

    def __init__(self, width=1, **settings):
        torch.manual_seed(0)
        self.settings = settings
        self.network = nn.Linear(1, 1)
        self.network.config = _LineConfig(width)
        self.helpers = nn.ModuleDict({"extra": nn.Linear(1, 1)})
        self.optimizers = {"sgd": torch.optim.SGD(self.network.parameters(), 0.1)}
        self.batches = (torch.randn(16, 1) for _ in count())

    def step(self):
        x = next(self.batches)
        loss = ((self.network(x) - 2 * x) ** 2).mean()
        self.optimizers["sgd"].zero_grad()
        loss.backward()
        self.optimizers["sgd"].step()
        return {"loss": loss.item()}

    def sample_sheet(self, network):
        return Image.new("RGB", (4, 4))

    def finish(self, network):
        self.finished = True


class TestLoop:
    @pytest.fixture(autouse=True)
    def clock(self, monkeypatch):
        """A look at it takes a millisecond, whatever else the machine has to do."""
        looks = count()
        clock = SimpleNamespace(monotonic=lambda: next(looks) / 1000)
        monkeypatch.setattr(loop, "time", clock)

    def test_it_learns_stops_in_time_and_resumes(self, tmp_path, monkeypatch):
        average = loop.train(_Line(), out=tmp_path, minutes=0.01)
        assert abs(average.weight.item() - 2) < 0.5
        folder = tmp_path / "line"
        state = loop.load_checkpoint(folder)
        assert state["seconds"] < 1.0
        steps = state["step"]
        loop.train(_Line(), out=tmp_path, minutes=0.02)
        assert loop.load_checkpoint(folder)["step"] > steps
        assert list(folder.glob("sheet-*.png"))

    def test_the_batches_of_a_task_are_closed_at_the_end(self, tmp_path):
        for minutes in (0.002, 0.001):  # the second finds that it has had its time
            task = _Line()
            loop.train(task, out=tmp_path, minutes=minutes)
            assert inspect.getgeneratorstate(task.batches) == inspect.GEN_CLOSED

    def test_weights_of_another_configuration_are_nothing_to_begin_with(self, tmp_path):
        start = nn.Linear(2, 1)
        start.config = _LineConfig(2)
        with pytest.raises(InputError) as caught:
            loop.train(_Line(), out=tmp_path, minutes=0.001, start_from=start)
        assert str(start.config) in caught.value.message
        assert str(_LineConfig(1)) in caught.value.message
        assert "--start" in caught.value.hint
        assert not list(tmp_path.rglob("state.*"))

    def test_time_already_spent_counts(self, tmp_path):
        loop.train(_Line(), out=tmp_path, minutes=0.01)
        steps = loop.load_checkpoint(tmp_path / "line")["step"]
        loop.train(_Line(), out=tmp_path, minutes=0.005)
        assert loop.load_checkpoint(tmp_path / "line")["step"] == steps

    def test_a_run_of_another_configuration_is_not_gone_on_with(self, tmp_path):
        loop.train(_Line(), out=tmp_path, minutes=0.001)
        with pytest.raises(InputError, match="another configuration") as caught:
            loop.train(_Line(width=2), out=tmp_path, minutes=0.01)
        assert "--out" in caught.value.hint

    def test_a_run_of_other_settings_is_not_gone_on_with(self, tmp_path):
        loop.train(_Line(judge="patches"), out=tmp_path, minutes=0.001)
        with pytest.raises(InputError, match="another configuration") as caught:
            loop.train(_Line(judge="classes"), out=tmp_path, minutes=0.002)
        assert str(tmp_path / "line") in caught.value.message
        assert "'judge': 'patches'" in caught.value.message
        state = loop.load_checkpoint(tmp_path / "line")
        del state["settings"]  # as written by versions that had none
        loop.save_checkpoint(tmp_path / "line", state)
        loop.train(_Line(judge="classes"), out=tmp_path, minutes=0.002)

    def test_it_begins_with_given_weights_but_only_where_nothing_was_done(self, tmp_path):
        start = nn.Linear(1, 1)
        nn.init.constant_(start.weight, 5.0)
        average = loop.train(_Line(), out=tmp_path, minutes=0.0, start_from=start)
        assert average.weight.item() == 5.0
        loop.train(_Line(), out=tmp_path, minutes=0.01)
        again = loop.train(_Line(), out=tmp_path, minutes=0.01, start_from=start)
        assert again.weight.item() != 5.0

    def test_a_state_is_cut_into_small_pieces(self, tmp_path, monkeypatch):
        monkeypatch.setattr(loop, "PIECE_BYTES", 1000)
        state = {"x": torch.arange(2000.0)}
        loop.save_checkpoint(tmp_path, state)
        pieces = sorted(tmp_path.glob("state.*"))
        assert len(pieces) > 5
        assert all(piece.stat().st_size <= 1000 for piece in pieces)
        assert torch.equal(loop.load_checkpoint(tmp_path)["x"], state["x"])
        loop.save_checkpoint(tmp_path, {"x": torch.zeros(1)})
        assert loop.load_checkpoint(tmp_path)["x"].shape == (1,)

    def test_nothing_there_is_no_state(self, tmp_path):
        assert loop.load_checkpoint(tmp_path) is None

    def test_metrics_are_rows_of_a_csv(self, tmp_path):
        path = tmp_path / "m.csv"
        loop._write_row(path, 1, 2.0, {"a": 0.5})
        loop._write_row(path, 2, 3.0, {"a": 0.25})
        rows = list(csv.reader(path.read_text().splitlines()))
        assert rows == [["step", "seconds", "a"], ["1", "2", "0.50000"], ["2", "3", "0.25000"]]

    def test_the_average_follows_the_network(self):
        average, network = nn.Linear(1, 1), nn.Linear(1, 1)
        before, target = average.weight.item(), network.weight.item()
        loop.update_average(average, network, 0)
        decay = 0.1  # (1 + 0) / (10 + 0)
        assert average.weight.item() == pytest.approx(decay * before + (1 - decay) * target)


class TestClips:
    def test_without_a_teacher_everything_else_is_the_same(self, drive, clips):
        plain = MotionClips([drive], strides=[1], num_frames=8, every=4, taught=False)
        assert plain.starts == clips.starts
        one, other = (collate([c.draw(1, None)]) for c in (plain, clips))
        assert one.flow_px.shape == (1, 8, 2, 0, 0)
        assert one.known.shape == (1, 8, 1, 0, 0)
        torch.testing.assert_close(one.frames, other.frames)
        torch.testing.assert_close(one.planes, other.planes)

    def test_the_teacher_finds_the_slide(self, drive, clips):
        import cv2

        grey = [cv2.cvtColor(frame, cv2.COLOR_RGB2GRAY) for frame in drive.frames]
        dis = cv2.DISOpticalFlow_create(cv2.DISOPTICAL_FLOW_PRESET_MEDIUM)
        flow = classical_flow(grey[3], grey[0], dis)  # 6 px to the left since frame 0
        assert np.median(flow[0]) == pytest.approx(6, abs=0.3)
        assert np.median(flow[1]) == pytest.approx(0, abs=0.3)
        assert np.median(clips.teacher[0, 2, 0]) == pytest.approx(-6, abs=0.3)
        known = clips.teacher[0, 2, 2]
        assert known[:, 8:].mean() > 0.95
        assert known[:, :2].max() == 0  # what leaves the picture

    def test_flipping_turns_the_flow_round(self, clips):
        rng = np.random.default_rng(0)
        signs = {np.sign(np.median(clips.draw(0, rng)[2][7, 0])) for _ in range(20)}
        assert signs == {-1.0, 1.0}

    def test_a_clip_may_be_cut(self, tmp_path):
        path = tmp_path / "a clip.mp4"
        path.touch()
        assert parse_clip(str(path)) == (path, 0, None)
        assert parse_clip(f"{path}:10-20") == (path, 10, 20)
        with pytest.raises(InputError, match="there is no such clip"):
            parse_clip(str(tmp_path / "none.mp4"))

    @pytest.mark.parametrize(
        ("fps", "frames", "part", "count"),
        [
            (15, 8, "", 8),  # one start needs a frame and eight steps
            (30, 16, "", 16),  # of two frames each
            (15, 20, ":0-8", 8),
            (15, 20, ":12-20", 8),
            (15, 20, ":12-99", 8),
            (15, 20, ":30-50", 0),
            (15, 20, ":9-3", 0),
        ],
    )
    def test_a_clip_of_too_few_frames_is_refused(self, tmp_path, fps, frames, part, count):
        text = a_clip(tmp_path / "drive.mp4", frames, fps) + part
        with pytest.raises(InputError) as caught:
            check_clip(text)
        assert caught.value.message == f"{text}: {count} frames are too few"
        assert caught.value.hint == f"at least {17 if fps == 30 else 9} are needed"

    @pytest.mark.parametrize(
        ("fps", "frames", "part"),
        [(15, 9, ""), (30, 17, ""), (15, 20, ":11-20"), (15, 20, ":11-99"), (5, 9, "")],
    )
    def test_a_clip_that_just_gives_a_start_is_taken(self, tmp_path, fps, frames, part):
        text = a_clip(tmp_path / "drive.mp4", frames, fps) + part
        check_clip(text)
        path, first, last = parse_clip(text)
        full = np.stack([*read_frames(path)][first:last])
        clip = DriveClip(name="d", frames=full, train_ids=np.zeros(full.shape[:3], np.uint8))
        assert len(MotionClips([clip], strides=[clip_stride(fps)], num_frames=8).starts) == 1

    @pytest.mark.parametrize(
        "damage",
        [
            lambda data: b"no video at all",
            lambda data: b"",
            lambda data: data[: len(data) // 2],
        ],
        ids=["text", "empty", "half"],
    )
    def test_a_clip_that_cannot_be_read_is_an_error_of_the_input(self, tmp_path, damage):
        path = Path(a_clip(tmp_path / "drive.mp4", 12, 15))
        path.write_bytes(damage(path.read_bytes()))
        with pytest.raises(InputError, match=r"drive\.mp4") as caught:
            check_clip(str(path))
        assert caught.value.hint

    def test_weights_may_label_the_clips(self, tmp_path):
        segmenter = load_segmenter(tmp_path / "no runs", "street-labels")
        assert not segmenter.training
        text = a_clip(tmp_path / "drive.mp4", 9, 15)
        clips, strides = read_clips(
            [text], tmp_path / "no runs", size_hw=(32, 64), labels_by="street-labels"
        )
        assert strides == [1]
        assert clips[0].train_ids.shape == (9, 32, 64)
        with pytest.raises(InputError, match="segmenter"):
            load_segmenter(tmp_path, "street-edges")

    def test_glimpses_are_a_second_apart(self, tmp_path):
        text = a_clip(tmp_path / "drive.mp4", 24, fps=8)
        seen = read_glimpses(f"{text}:4-24")
        assert [round(float(frame.mean()) / 8) for frame in seen] == [4, 12, 20]
        assert seen[0].shape == (32, 64, 3)

    def test_clips_are_checked_before_the_segmenter_is_looked_for(self, tmp_path):
        text = a_clip(tmp_path / "drive.mp4", 3, 15)
        with pytest.raises(InputError, match="3 frames are too few"):
            read_clips([text], tmp_path / "no runs")


PLANES = torch.eye(20)


def planes_of(ids):
    """`(H, W)` train ids to `(1, 20, H, W)`."""
    return PLANES[torch.as_tensor(ids, dtype=torch.long)].permute(2, 0, 1)[None]


class TestHalving:
    @pytest.mark.parametrize(
        ("thin", "wide"),
        [(5, 2), (11, 0), (18, 2), (7, 8), (6, 10), (12, 13), (5, 10), (17, 1), (13, 0)],
    )
    @pytest.mark.parametrize("place", [6, 7])
    @pytest.mark.parametrize("turned", [False, True])
    def test_what_is_one_pixel_thin_survives(self, thin, wide, place, turned):
        ids = np.full((16, 16), wide)
        ids[:, place] = thin
        expected = np.full((8, 8), wide)
        expected[:, 3] = thin
        halved = judges.halve(planes_of(ids.T if turned else ids))
        assert halved[0].tolist() == (expected.T if turned else expected).tolist()

    def test_a_person_that_stands_over_the_road_stays_a_person(self):
        ids = np.zeros((12, 12), int)
        ids[3:8, 5:6] = 11
        expected = np.zeros((6, 6), int)
        expected[1:4, 2] = 11
        assert judges.halve(planes_of(ids))[0].tolist() == expected.tolist()

    @pytest.mark.parametrize("ids", range(20))
    def test_a_map_of_one_class_stays_so(self, ids):
        assert (judges.halve(planes_of(np.full((4, 6), ids))) == ids).all()

    def test_every_class_has_its_place_in_the_order(self):
        assert sorted(judges.COMMON_TO_RARE) == list(range(20))
        order = judges.COMMON_TO_RARE
        for wide, thin in pairwise(order):
            ids = np.array([[wide, wide], [thin, wide]])
            assert judges.halve(planes_of(ids)).item() == thin
        ids = np.array([[10, 2], [5, 18]])
        assert judges.halve(planes_of(ids)).item() == 18

    def test_the_discriminator_is_taught_thin_things(self, pairs, monkeypatch):
        ids = np.full((128, 256), 2, np.uint8)
        ids[:, 8::16] = 5
        thin = data.Pair(name="thin", picture=np.zeros((128, 256, 3), np.uint8), train_ids=ids)
        task, taught = FirstFrameTask([thin], batch=1), []
        task.batches.close()
        task.progress = 0.5
        planes = data.to_planes([thin.train_ids])
        picture = data.to_tensor([thin.picture])
        batch = first_frame.Batch(
            real=picture,
            planes=planes,
            colours=picture[:, 3:],
            sketches=picture[:, :1],
            sketched=torch.zeros(len(picture), dtype=torch.bool),
            known=judges.halve(planes),
        )
        task.batches = iter([batch])
        weigh = judges.class_weights
        monkeypatch.setattr(
            first_frame, "class_weights", lambda ids: taught.append(ids.clone()) or weigh(ids)
        )
        task.step()
        assert taught[0].shape == (1, 64, 128)
        assert (taught[0] == 5).sum() == 64 * 16


class TestWindows:
    def test_a_window_of_a_large_picture_keeps_picture_and_labels_aligned(self):
        height, width = first_frame.WINDOW_HW
        rows, columns = np.mgrid[: height + 2, : width + 2]
        picture = np.stack([rows, columns % 256, columns // 256], -1).astype(np.uint8)
        rng, places = np.random.default_rng(0), set()
        for _ in range(60):
            window, ids = first_frame.cut_window(picture, (7 * rows + columns) % 19, rng)
            assert window.shape == (height, width, 3)
            y, x = window[..., 0].astype(int), window[..., 1] + 256 * window[..., 2].astype(int)
            assert (y == y[0, 0] + np.arange(height)[:, None]).all()
            assert (x == x[0, 0] + np.arange(width)).all()
            assert np.array_equal(ids, (7 * y + x) % 19)
            places.add((int(y[0, 0]), int(x[0, 0])))
        assert places == {(y, x) for y in range(3) for x in range(3)}  # up to all borders

    @pytest.mark.parametrize("more_hw", [(0, 0), (-64, -192), (-64, 32), (32, -192)], ids=str)
    def test_a_side_that_fits_stays_whole(self, more_hw):
        size = [side + more for side, more in zip(first_frame.WINDOW_HW, more_hw, strict=True)]
        rng = np.random.default_rng(0)
        picture = rng.integers(0, 255, (*size, 3), dtype=np.uint8)
        window, ids = first_frame.cut_window(picture, picture[..., 0], rng)
        assert ids.shape == tuple(map(min, size, first_frame.WINDOW_HW))
        assert np.array_equal(window[..., 0], ids)
        if max(more_hw) <= 0:
            assert np.array_equal(window, picture)

    def test_a_window_can_be_asked_to_show_a_place(self):
        picture = np.zeros((200, 400, 1), np.uint8)
        rng = np.random.default_rng(0)
        for near in ((0, 0), (199, 399), (90, 311)):
            picture[:] = 0
            picture[near] = 1
            cuts = [
                first_frame.cut_window(picture, picture[..., 0], rng, near=near) for _ in range(30)
            ]
            assert all(ids.shape == first_frame.WINDOW_HW and ids.sum() == 1 for _, ids in cuts)
            assert near != (90, 311) or len({ids.tobytes() for _, ids in cuts}) > 20

    def test_half_of_the_windows_are_cut_around_what_is_rare(self):
        rng = np.random.default_rng(0)
        ids = np.zeros((50, 60), np.uint8)
        assert not any(first_frame.draw_rare(ids, rng) for _ in range(20))
        ids[:20, :20], ids[7, 31] = 13, 7
        drawn = [first_frame.draw_rare(ids, rng) for _ in range(400)]
        assert 0.4 < np.mean([place is not None for place in drawn]) < 0.6
        found = [place for place in drawn if place is not None]
        assert 0.3 < np.mean([place == (7, 31) for place in found]) < 0.7  # not by its area
        cars = {place for place in found if place != (7, 31)}
        assert all(max(place) < 20 for place in cars)
        assert len(cars) > 50

    def test_training_sees_windows_of_large_pictures(self, tiny_first_frame, pairs):
        task = FirstFrameTask(pairs, size_hw=(160, 288), batch=2)
        batch = next(task.batches)
        assert batch.colours.shape[1] == 0
        assert not batch.sketched.any()
        task.batches.close()
        assert batch.real.shape == (2, 3, *first_frame.WINDOW_HW)
        assert batch.planes.shape == (2, 20, *first_frame.WINDOW_HW)
        assert task.network.config.size_hw == (160, 288)


@pytest.fixture
def tiny_first_frame(monkeypatch):
    """Let the first-frame task make networks of a few channels."""
    monkeypatch.setattr(
        first_frame,
        "generator_config",
        lambda size_hw: LabelUNetConfig(
            size_hw=size_hw,
            label_planes=20,
            style_size=first_frame.STYLE_SIZE,
            channels=(4, 6, 8),
            middle_blocks=0,
            up_blocks=1,
        ),
    )
    judge = partial(judges.SegmentationDiscriminator, widths=(4, 6, 8))
    monkeypatch.setattr(first_frame, "SegmentationDiscriminator", judge)


def painted(task, real, planes):
    """Copies of a first-frame task's networks, their painting, and what its style costs."""
    network, style, judge = (
        deepcopy(module) for module in (task.network, task.helpers["style"], task.helpers["judge"])
    )
    mean, log_variance = style(real)
    code = mean + torch.randn_like(mean) * (0.5 * log_variance).exp()
    fake = network(planes, code, torch.randn_like(planes[:, :1]))
    makers = [*network.parameters(), *style.parameters()]
    return makers, judge, fake, losses.kl_to_normal(mean, log_variance)


def naming(ids):
    """The cross entropy that gives every class its due."""
    return partial(F.cross_entropy, weight=judges.class_weights(ids), ignore_index=19)


def two_passes(task, real, planes, change, mask):
    """Both losses of the first-frame task, each with passes of its own through the judge.

    Returns:
        The losses by name, and the gradients of makers and judge.
    """
    makers, judge, fake, kl = painted(task, real, planes)
    ids = judges.halve(planes)
    named = naming(ids)

    on_fake, made = judge(change(fake))
    with torch.no_grad():
        _, true = judge(change(real))
    cells = (x.unflatten(3, (-1, 8)).unflatten(2, (-1, 8)).mean((3, 5)) for x in (fake, real))
    matching = sum(F.l1_loss(a, b) for a, b in zip(made, true, strict=True)) / len(made)
    losses_by_name = {
        "asked": named(on_fake, ids) + judges.FEATURE_WEIGHT["classes"] * matching,
        "colour": F.l1_loss(*cells),
        "kl": kl,
    }
    factors = 1.0, first_frame.COLOUR_WEIGHT, first_frame.KL_WEIGHT
    loss = sum(f * value for f, value in zip(factors, losses_by_name.values(), strict=True))
    of_makers = torch.autograd.grad(loss, makers)

    on_fake, on_real = judge(change(fake.detach()))[0], judge(change(real))[0]
    caught = F.cross_entropy(on_fake, torch.full_like(ids, 20)) + named(on_real, ids)
    if mask:
        keep, small = mask
        mixed = judge(change(torch.where(keep > 0, real, fake.detach())))[0]
        wanted = torch.where(small > 0, on_real, on_fake).detach()
        caught = caught + judges.MIX_WEIGHT * F.mse_loss(mixed, wanted)
    losses_by_name["discriminator"] = caught
    values = {name: value.item() for name, value in losses_by_name.items()}
    return values, of_makers, torch.autograd.grad(caught, [*judge.parameters()])


class TestJointStep:
    @pytest.fixture
    def task(self, tiny_first_frame, pairs, monkeypatch):
        """A task without chance, in full precision, with one batch; weights change by gradients."""
        task = FirstFrameTask(pairs, size_hw=(64, 64), batch=2, judge="classes")
        batch = next(task.batches)
        self.real, self.planes = batch.real, batch.planes
        task.batches.close()
        task.batches = iter([batch])
        task.progress = 0.5
        task.helpers["judge"].eval()  # its spectral norms stay as they are
        with torch.no_grad():
            for weight in (*task.network.up_gains, *task.network.noise_strength):
                weight.fill_(0.5)
        self.change = judges.draw_colour_change(2, torch.device("cpu"))
        self.mask = judges.label_mask(self.planes, judges.halve(self.planes))
        assert 0 < self.mask[0].mean() < 1
        monkeypatch.setattr(first_frame, "draw_colour_change", lambda *_: self.change)
        monkeypatch.setattr(judges, "label_mask", lambda *_: self.mask)
        monkeypatch.setattr(torch, "autocast", lambda *_, **__: nullcontext())
        monkeypatch.setattr(
            torch, "randn_like", lambda x: torch.linspace(-7, 8, x.numel()).sin().view_as(x)
        )
        for optimizer in task.optimizers.values():
            for weight in optimizer.param_groups[0]["params"]:
                weight.grad = torch.full_like(weight, 9.0)  # left over from the last step
        return task

    def assert_gradients(self, task, *expected):
        """Compare what a step has left with gradients of makers and judge."""
        sides = nn.ModuleList([task.network, task.helpers["style"]]), task.helpers["judge"]
        for side, gradients in zip(sides, expected, strict=True):
            assert max(gradient.abs().max() for gradient in gradients) > 1e-3
            for weight, gradient in zip(side.parameters(), gradients, strict=True):
                torch.testing.assert_close(weight.grad, gradient, rtol=1e-3, atol=1e-6)

    @pytest.mark.parametrize("mix", [False, True])
    def test_each_side_learns_from_its_own_loss_alone(self, task, mix):
        task.steps = first_frame.MIX_EVERY - 1 if mix else 0
        mask = self.mask if mix else None
        values, *gradients = two_passes(task, self.real, self.planes, self.change, mask)
        assert task.step() == pytest.approx(values, rel=1e-4)
        self.assert_gradients(task, *gradients)

    def test_at_first_neither_side_hears_of_the_other(self, task):
        task.progress = 0.9 * first_frame.WARM_UP
        makers, judge, fake, kl = painted(task, self.real, self.planes)
        colour, ids = F.l1_loss(fake, self.real), judges.halve(self.planes)
        known = naming(ids)(judge(self.change(self.real))[0], ids)
        loss = first_frame.COLOUR_WEIGHT * colour + first_frame.KL_WEIGHT * kl
        values = task.step()
        assert values["colour"] == pytest.approx(colour.item(), rel=1e-4)
        assert values["discriminator"] == pytest.approx(known.item(), rel=1e-4)
        of_judge = torch.autograd.grad(known, [*judge.parameters()])
        self.assert_gradients(task, torch.autograd.grad(loss, makers), of_judge)

    def test_a_trained_generator_rests_at_first(self, tiny_first_frame, pairs):
        begin = LabelUNet(first_frame.generator_config((64, 64)))
        task = FirstFrameTask(pairs, size_hw=(64, 64), batch=2, start=begin)
        parts = task.network, task.helpers["style"], task.helpers["judge"]
        for progress, moved in ((0.0, (False, True, True)), (0.5, (True, True, True))):
            before = [[*deepcopy(part).parameters()] for part in parts]
            task.progress = progress
            task.step()
            for part, old, wanted in zip(parts, before, moved, strict=True):
                changed = (
                    not torch.equal(*two) for two in zip(part.parameters(), old, strict=True)
                )
                assert any(changed) == wanted
        task.batches.close()

    def test_patches_are_judged_at_every_scale_and_matched(self, task):
        """Against plain least squares and matching, one scale and one layer after the other."""
        judge = judges.PatchJudge()
        made = torch.rand_like(self.real).requires_grad_()
        scene = SimpleNamespace(planes=self.planes, follows=torch.ones(2, dtype=torch.bool))
        asked, caught = judge.losses(made, self.real, scene)
        wanted, known = torch.zeros(()), torch.zeros(())
        pictures, planes = (made, self.real), self.planes
        shares = self.planes.mean((0, 2, 3))
        there = shares > 0
        worth = self.planes[:, there].mul(shares[there].rsqrt()[:, None, None]).sum(1, keepdim=True)
        assert len(worth.unique()) > 1

        def mean(squares):
            weights = F.interpolate(worth, size=squares.shape[-2:], mode="area")
            return (weights * squares).sum() / weights.sum()

        for scale in judge.scales:
            fake, true = (scale(torch.cat([picture, planes], 1)) for picture in pictures)
            gaps = [F.l1_loss(a, b.detach()) for a, b in zip(fake[:-1], true[:-1], strict=True)]
            matching = judges.FEATURE_WEIGHT["patches"] * sum(gaps) / len(gaps)
            wanted = wanted + (mean((fake[-1] - 1) ** 2) + matching) / len(judge.scales)
            known = known + (mean(fake[-1] ** 2) + mean((true[-1] - 1) ** 2)) / 4
            pictures = [F.avg_pool2d(picture, 2) for picture in pictures]
            planes = F.avg_pool2d(planes, 2)
        torch.testing.assert_close(asked, wanted)
        torch.testing.assert_close(caught, known)
        ours, theirs = (torch.autograd.grad(x, made, retain_graph=True)[0] for x in (asked, wanted))
        torch.testing.assert_close(ours, theirs, rtol=1e-3, atol=1e-7)

    def test_a_rare_class_counts_as_the_root_of_its_share(self):
        ids = torch.zeros(2, 8, 8, dtype=torch.long)
        ids[0, 0, :2] = 11
        planes = F.one_hot(ids, 20).permute(0, 3, 1, 2)
        worth = judges.worth_of_places(planes)
        assert worth.shape == (2, 1, 8, 8)
        rare, common = worth[0, 0, 0, :2].sum(), worth.sum() - worth[0, 0, 0, :2].sum()
        assert (rare / common).item() == pytest.approx(math.sqrt(2 / 126))
        more = torch.cat([planes, torch.rand(2, 1, 8, 8)], 1)  # edges behind the classes
        torch.testing.assert_close(judges.worth_of_places(more), worth)

    def test_the_starting_weights_are_mixed_in_before_statistics(
        self, tiny_first_frame, pairs, monkeypatch
    ):
        begin = LabelUNet(first_frame.generator_config((64, 64)))
        task = FirstFrameTask(pairs, size_hw=(64, 64), batch=1, start=begin, keep=0.25)
        average = deepcopy(task.network).requires_grad_(False)
        monkeypatch.setattr(first_frame, "match_styles", lambda network, styles: styles)
        before = [weight.clone() for weight in average.parameters()]
        task.finish(average)
        task.batches.close()
        for new, mine, old in zip(average.parameters(), before, begin.parameters(), strict=True):
            torch.testing.assert_close(new, 0.75 * mine + 0.25 * old)

    def test_a_generator_from_before_there_was_noise_in_the_middle_may_begin(self, pairs):
        config = replace(first_frame.generator_config((64, 64)), channels=(4, 6, 8), style_size=3)
        old = LabelUNet(replace(config, upsampling="nearest", noise="up"))
        new = LabelUNet(config)
        first_frame.take_over(new, old)
        theirs = old.state_dict()
        for name, weight in new.state_dict().items():
            if name.startswith("middle_noise."):
                assert (weight == MIDDLE_NOISE).all()
            else:
                assert torch.equal(weight, theirs[name]), name
        for other in (replace(config, channels=(4, 6, 9)), replace(config, up_blocks=2)):
            with pytest.raises(InputError, match="another configuration"):
                first_frame.take_over(new, LabelUNet(other))

    def test_blocks_on_the_way_up_change_nothing_at_first(self):
        config = replace(first_frame.generator_config((64, 64)), channels=(4, 6, 8))
        old, new = LabelUNet(replace(config, up_blocks=0)).eval(), LabelUNet(config).eval()
        first_frame.take_over(new, old)
        assert len(new.up_blocks) == 1
        planes, style = torch.rand(1, 20, 64, 64), torch.randn(1, 16)
        with torch.no_grad():
            assert torch.equal(new(planes, style), old(planes, style))

    @pytest.mark.parametrize("edge_planes", [0, 1])
    def test_a_generator_that_knew_no_colours_pays_no_heed_to_them_yet(self, edge_planes):
        config = replace(first_frame.generator_config((64, 64)), channels=(4, 6, 8))
        old = LabelUNet(replace(config, edge_planes=edge_planes)).eval()
        new = LabelUNet(replace(config, edge_planes=edge_planes, colour_planes=3)).eval()
        first_frame.take_over(new, old)
        planes, style = torch.rand(1, 20 + edge_planes, 64, 64), torch.randn(1, 16)
        with torch.no_grad():
            wanted = old(planes, style)
            for colours in torch.rand(2, 1, 3, 64, 64):
                found = new(torch.cat([planes, colours], dim=1), style)
                torch.testing.assert_close(found, wanted)

    def test_a_generator_with_a_palette_may_begin_one_without(self):
        config = replace(first_frame.generator_config((64, 64)), channels=(4, 6, 8))
        old, new = LabelUNet(replace(config, palette=True)), LabelUNet(config)
        first_frame.take_over(new, old)
        for name, weight in new.state_dict().items():
            assert torch.equal(weight, old.state_dict()[name]), name
        check_start(LabelUNet(replace(first_frame.generator_config((64, 64)), palette=True)))

    def test_colours_of_places_are_told_and_measured(self, tiny_first_frame, pairs):
        begin = LabelUNet(first_frame.generator_config((64, 64)))
        task = FirstFrameTask(
            pairs, size_hw=(64, 64), batch=2, start=begin, keep=0.25, colours=True
        )
        assert task.network.config.colour_planes == 3
        task.progress = 0.5
        before = deepcopy(task.network.stem.weight)
        task.step()
        told = task.network.stem.weight[:, -3:] - before[:, -3:]
        assert told.abs().max() > 0
        batch = next(task.batches)
        real, colours = batch.real, batch.colours
        assert real.shape == colours.shape == (2, 3, 64, 64)
        assert batch.planes.shape == (2, 20, 64, 64)
        assert batch.known.shape == (2, 32, 32)
        assert (colours - real).abs().mean() < (real - real.mean((2, 3), keepdim=True)).abs().mean()
        assert task.sample_sheet(task.network).size == (2 * 64, 4 * 64)
        average = deepcopy(task.network).requires_grad_(False)
        assert average.palette.spreads.abs().max() == 0
        task.finish(average)
        task.batches.close()
        assert average.palette.spreads.abs().max() > 0

    def test_places_are_brought_to_the_colours_of_the_real_ones_before_they_are_judged(self):
        """Two houses, two cars: the mean colour is the real one's, the texture what was painted."""
        torch.manual_seed(0)
        ids = torch.zeros(1, 16, 16, dtype=torch.long)
        ids[:, 8:] = 13
        told = torch.full((1, 3, 16, 16), 0.2)
        told[..., 8:] = 0.6
        real = told * 0.9 + 0.05 * torch.rand(1, 3, 16, 16)  # a part of the place that is darker
        batch = first_frame.Batch(
            real=real,
            planes=F.one_hot(ids, 20).permute(0, 3, 1, 2).float(),
            colours=told,
            sketches=torch.zeros(1, 1, 16, 16),
            sketched=torch.zeros(1, dtype=torch.bool),
            known=ids[:, ::2, ::2],
        )
        painted = 0.3 + 0.1 * torch.rand(1, 3, 16, 16)
        painted[..., :8, :8] += 0.1
        painted.requires_grad_()
        brought = first_frame.bring_colours(painted, batch)
        for rows in (slice(8), slice(8, 16)):
            for columns in (slice(8), slice(8, 16)):
                mine, wanted, before = (
                    x[0, :, rows, columns].flatten(1) for x in (brought, real, painted)
                )
                assert (mine.mean(1) / wanted.mean(1) - 1).abs().max() < 0.08
                gain = mine / before
                torch.testing.assert_close(gain, gain[:, :1].expand_as(gain))
        (gradient,) = torch.autograd.grad((brought * torch.rand_like(brought)).sum(), painted)
        # Brighter everywhere is brought back, so it is not asked for.
        changes = gradient * painted.detach()
        assert abs(float(changes.sum())) < 0.2 * float(changes.abs().sum())

    def test_normal_draws_give_the_styles_of_real_pictures(self, tiny_first_frame):
        torch.manual_seed(0)
        generator = LabelUNet(first_frame.generator_config((64, 64))).eval()
        size = generator.config.style_size
        spread = torch.randn(size, size)
        styles = 0.5 + torch.randn(500, size) @ spread.T
        planes, noise = torch.rand(2, 20, 64, 64), torch.randn(2, 1, 64, 64)
        factor = torch.linalg.cholesky(torch.cov(styles.T) + 1e-4 * torch.eye(size))
        drawn = torch.randn(2, size)
        with torch.no_grad():
            wanted = generator(planes, styles.mean(0) + drawn @ factor.T, noise)
            plain = generator(planes, drawn, noise)
            first_frame.match_styles(generator, styles)
            found = generator(planes, drawn, noise)
        torch.testing.assert_close(found, wanted, rtol=1e-3, atol=1e-4)
        assert (found - plain).abs().max() > 1e-3

    @pytest.mark.parametrize("judge", judges.JUDGES)
    def test_both_kinds_of_judges_teach_both_sides(self, tiny_first_frame, pairs, judge):
        task = FirstFrameTask(pairs, size_hw=(64, 64), batch=2, judge=judge)
        task.progress = 0.5
        sides = task.network, task.helpers["judge"]
        before = [[*deepcopy(side).parameters()] for side in sides]
        task.step()
        task.batches.close()
        for side, old in zip(sides, before, strict=True):
            assert any(not torch.equal(*two) for two in zip(side.parameters(), old, strict=True))

    @pytest.mark.parametrize("still", ["generator", "discriminator"])
    def test_each_side_moves_by_its_own_optimizer_alone(self, task, monkeypatch, still):
        sides = {
            "generator": nn.ModuleList([task.network, task.helpers["style"]]),
            "discriminator": task.helpers["judge"],
        }
        before = {name: [*deepcopy(side).parameters()] for name, side in sides.items()}
        monkeypatch.setattr(task.optimizers[still], "step", lambda: None)
        task.step()
        for name, side in sides.items():
            same = [torch.equal(*two) for two in zip(side.parameters(), before[name], strict=True)]
            assert all(same) if name == still else not any(same), name


class TestTasks:
    @pytest.mark.parametrize(
        "size_hw", [(100, 256), (128, 250), (32, 64), (64, 32), (0, 0), (-64, 128), (128, 255)]
    )
    def test_a_size_that_the_networks_cannot_halve_is_refused(self, pairs, size_hw):
        before = set(threading.enumerate())
        with pytest.raises(InputError, match="cannot be trained at") as caught:
            FirstFrameTask(pairs, size_hw=size_hw)
        assert f"{size_hw[1]}x{size_hw[0]}" in caught.value.message
        assert "multiples of 32, from 64 on" in caught.value.hint
        assert set(threading.enumerate()) == before

    def test_the_smallest_size_can_be_trained_at(self, pairs):
        task = FirstFrameTask(pairs, size_hw=(64, 64), batch=1)
        for task.progress in (0.0, 0.5):
            assert all(math.isfinite(value) for value in task.step().values())
        task.batches.close()

    def test_every_task_takes_a_step_and_the_runs_export(self, pairs, clips, tmp_path):
        shown = collate([clips.draw(0, None)])
        motion = MotionTask(clips, shown, batch=1)
        painter = FirstFrameTask(pairs, batch=1)
        painter.progress = 0.5  # past the warm-up
        makers = [
            lambda: SegmenterTask(pairs, batch=2, size_hw=(32, 64)),
            lambda: painter,
            lambda: motion,
            lambda: RefineTask(motion, clips, shown, batch=1),  # freezes the motion network
        ]
        for make in makers:
            task = make()
            values = task.step()
            assert all(math.isfinite(value) for value in values.values()), (task.name, values)
            assert task.sample_sheet(task.network).size[0] > 0
            (tmp_path / task.name).mkdir()
            state = loop._state(task, task.network, 1, 1.0)
            loop.save_checkpoint(tmp_path / task.name, state)

        entry = export_runs(tmp_path, tmp_path / "bundle", name="tiny")
        assert entry.count("sha256") == 4  # three stages and the description
        pipeline = Pipeline.open(str(tmp_path / "bundle"), precision="fp32")
        assert pipeline.motion.config.num_frames == 8
        stored = pipeline.generator.state_dict()
        for name, tensor in painter.network.state_dict().items():
            if tensor.dtype.is_floating_point:
                torch.testing.assert_close(stored[name], tensor, rtol=2e-3, atol=1e-4)

    def test_stages_that_were_not_trained_come_from_a_base(self, pairs, tmp_path, tiny_bundle):
        task = SegmenterTask(
            pairs, build=tiny_segmenter, name=SegmenterTask.small_name, size_hw=(32, 64)
        )
        (tmp_path / task.name).mkdir()
        loop.save_checkpoint(tmp_path / task.name, loop._state(task, task.network, 1, 1.0))
        base = read_bundle(tiny_bundle)
        export_runs(tmp_path, tmp_path / "bundle", name="more", base=base)
        made = read_bundle(tmp_path / "bundle")
        assert list(made.stages) == ["first_frame", "motion", "refine", "segmenter"]
        assert made.stages["motion"].family == base.stages["motion"].family
        assert made.stages["motion"].options == {**base.stages["motion"].options, "downscale": 1}
        old, new = (bundle.network("refine").state_dict() for bundle in (base, made))
        assert all(torch.equal(old[name], new[name]) for name in old)

    @pytest.fixture
    def detector(self):
        config = EdgeDetectorConfig(
            channels=(3, 4, 4, 4, 4), convolutions=(1, 1, 1, 1, 1), threshold=0.08
        )
        return lively(EdgeDetector(config), 5)

    def test_a_generator_may_follow_the_edges_of_real_pictures(
        self, tiny_first_frame, pairs, detector
    ):
        task = FirstFrameTask(pairs, size_hw=(64, 64), batch=2, detector=detector)
        before = deepcopy(detector.state_dict())
        seen = []
        task.network.register_forward_pre_hook(lambda _, arguments: seen.append(arguments))
        task.progress = 0.5
        assert all(math.isfinite(value) for value in task.step().values())
        [(planes, style)] = seen  # and no noise
        real, labels = task.last.real, task.last.planes
        with torch.no_grad():
            found = detector(laplacian_edges(real, 0.08))
        assert planes.shape == (2, 21, 64, 64)
        assert torch.equal(planes[:, :20], labels)
        torch.testing.assert_close(
            planes[:, 20:], found.to(planes.dtype), rtol=0, atol=0.05
        )  # bf16
        assert style.shape == (2, first_frame.STYLE_SIZE)
        assert task.network.config.edge_planes == 1
        task.finish(task.network)
        assert task.sample_sheet(task.network).size[0] > 0
        task.batches.close()
        assert all(
            torch.equal(value, before[name]) for name, value in detector.state_dict().items()
        )

    def test_part_of_the_pictures_follow_sketches(
        self, tiny_first_frame, pairs, detector, monkeypatch
    ):
        monkeypatch.setattr(first_frame, "SKETCHED", 0.5)
        task = FirstFrameTask(pairs, size_hw=(64, 64), batch=8, detector=detector, sketches=True)
        seen, judged = [], []
        task.network.register_forward_pre_hook(lambda _, arguments: seen.append(arguments[0]))
        judge = task.helpers["judge"]
        losses = judge.losses
        monkeypatch.setattr(judge, "losses", lambda *a: judged.append(a[2]) or losses(*a))
        task.progress = 0.5
        assert all(math.isfinite(value) for value in task.step().values())
        batch = task.last
        task.batches.close()
        assert 0 < batch.sketched.sum() < 8
        assert torch.equal(judged[0].follows, ~batch.sketched)
        drawn = batch.sketches.flatten(1).sum(1) > 0
        assert torch.equal(drawn, batch.sketched)
        with torch.no_grad():
            of_real = detector(laplacian_edges(batch.real, 0.08))
            of_sketch = detector(batch.sketches)
        for index, along_sketch in enumerate(batch.sketched.tolist()):
            wanted = (of_sketch if along_sketch else of_real)[index]
            torch.testing.assert_close(seen[0][index, 20:], wanted, rtol=0, atol=0.05)  # bf16
        assert (of_real - of_sketch).abs().max() > 0.1

    def test_a_sketched_picture_is_free_in_detail_but_not_in_large_colours(
        self, tiny_first_frame, pairs, detector, monkeypatch
    ):
        """The colours a generator is asked for, told by its loss for pictures it might paint."""
        noise = (torch.rand(64, 64) - 0.5) * 0.2
        noise = noise - F.avg_pool2d(noise[None], 16).repeat_interleave(16, 1).repeat_interleave(
            16, 2
        )
        values = {}
        for sketches in (False, True):
            monkeypatch.setattr(first_frame, "SKETCHED", float(sketches))
            for name, change in (("grain", noise), ("light", 0.1)):
                task = FirstFrameTask(
                    pairs, size_hw=(64, 64), batch=2, detector=detector, sketches=sketches
                )
                task.progress = 0.5
                monkeypatch.setattr(
                    task,
                    "_paint",
                    lambda network, batch, style, change=change: (
                        batch.real + change + 0 * style.sum() + 0 * network.stem.weight.sum()
                    ),
                )
                values[sketches, name] = task.step()["colour"]
                task.batches.close()
        assert values[False, "light"] == pytest.approx(0.1, abs=1e-3)
        assert values[True, "light"] == pytest.approx(0.1, abs=1e-3)
        assert values[False, "grain"] > 0.03
        assert values[True, "grain"] < 1e-3

    def test_a_guided_generator_is_exported_with_the_detector_of_its_base(
        self, tiny_first_frame, pairs, detector, tmp_path, tiny_bundle
    ):
        task = FirstFrameTask(pairs, size_hw=(64, 64), batch=1, detector=detector)
        task.batches.close()
        (tmp_path / task.name).mkdir()
        loop.save_checkpoint(tmp_path / task.name, loop._state(task, task.network, 1, 1.0))
        tiny = read_bundle(tiny_bundle)
        with pytest.raises(InputError, match="guided by edges") as caught:
            export_runs(tmp_path, tmp_path / "bundle", name="more", base=tiny)
        assert "--base" in caught.value.hint
        (tmp_path / "guided").mkdir()
        guided = write_guided_bundle(tmp_path / "guided")
        base = mix_bundles(tiny, first_frame=read_bundle(guided))
        export_runs(tmp_path, tmp_path / "bundle", name="more", base=base)
        made = read_bundle(tmp_path / "bundle")
        assert [*made.stages] == ["edges", "first_frame", "motion", "refine"]
        assert made.stages["first_frame"].config == task.network.config
        old, new = (bundle.network("edges").state_dict() for bundle in (base, made))
        for name, value in old.items():
            torch.testing.assert_close(new[name], value, rtol=2e-3, atol=1e-4)

    def test_a_small_segmenter_learns_from_a_large_one(self, pairs):
        teacher = SegmenterTask(pairs, build=tiny_segmenter, size_hw=(32, 64)).network
        with torch.no_grad():
            for weight in teacher.head.parameters():
                weight.zero_()
            teacher.head.bias[7] = 50.0  # whatever it sees
        task = SegmenterTask(
            pairs, build=tiny_segmenter, teacher=teacher, batch=2, size_hw=(32, 64)
        )
        plain = SegmenterTask(pairs, build=tiny_segmenter, batch=2, size_hw=(32, 64))
        for _ in range(25):
            task.step()
            plain.step()
        frames = next(task.batches)[0]
        share = [t.network.eval()(frames).softmax(1)[:, 7].mean().item() for t in (task, plain)]
        assert share[0] > 2 * share[1]

    def test_frames_without_labels_are_learnt_from_a_teacher_alone(self, pairs):
        frames = unlabelled_pairs([pair.picture for pair in pairs], "drive.mp4")
        assert [frame.name for frame in frames] == ["drive.mp4 0", "drive.mp4 1", "drive.mp4 2"]
        options = {"build": tiny_segmenter, "batch": 2, "size_hw": (32, 64)}
        plain = SegmenterTask(frames, **options)
        assert plain.step() == {"loss": 0.0, "accuracy": 0.0}
        taught = SegmenterTask(frames, teacher=tiny_segmenter(), **options)
        before = deepcopy(taught.network.state_dict())
        assert 0 < taught.step()["loss"] < 10
        assert not torch.equal(taught.network.head.weight, before["head.weight"])
        for task in (plain, taught):
            task.batches.close()

    def test_rare_classes_are_learnt_but_not_said_more_often_than_they_occur(self):
        class Blind(torch.nn.Module):
            """Says the same of every pixel."""

            config = TINY

            def __init__(self):
                super().__init__()
                self.scores = torch.nn.Parameter(torch.zeros(19))

            def forward(self, frame):
                return self.scores[:, None, None].expand(len(frame), 19, *frame.shape[-2:])

        ids = np.full((64, 64), 2, np.uint8)
        ids[::8, ::4] = 13  # one in 32, wherever one looks
        pair = data.Pair(name="a", picture=np.zeros((64, 64, 3), np.uint8), train_ids=ids)
        task = SegmenterTask([pair], build=Blind, batch=4, size_hw=(64, 64))
        assert task.class_weights[13] > 5 * task.class_weights[2]
        task.optimizers["network"].param_groups[0]["lr"] = 0.2
        for _ in range(100):
            task.step()
        task.batches.close()
        said = task.network.scores.detach().softmax(0)
        assert said[13] == pytest.approx(1 / 32, abs=0.02)

    def test_rare_classes_weigh_more_and_unlabelled_pixels_nothing(self):
        ids = torch.zeros(1, 10, 10, dtype=torch.long)
        ids[0, 0, :4], ids[0, 1] = 13, 19
        weights = judges.class_weights(ids)
        assert weights[0] == pytest.approx(90 / (2 * 86))
        assert weights[13] == judges.RAREST_WEIGHT
        assert weights[[19, 5]].tolist() == [0.0, 0.0]
        assert weights[judges.PAINTED] == 1.0

    def test_whole_classes_are_mixed(self):
        ids = torch.zeros(2, 8, 8, dtype=torch.long)
        ids[:, 4:] = 10
        full = ids.repeat_interleave(2, 1).repeat_interleave(2, 2)
        planes = torch.nn.functional.one_hot(full, 20).permute(0, 3, 1, 2).float()
        seen = set()
        for _ in range(30):
            mask, small = judges.label_mask(planes, ids)
            assert torch.equal(mask[:, :, ::2, ::2], small)
            for b in range(2):
                halves = small[b, 0, :4].unique().tolist(), small[b, 0, 4:].unique().tolist()
                assert len(halves[0]) == len(halves[1]) == 1
                seen.add((*halves[0], *halves[1]))
        assert len(seen) == 4

    def test_colours_change_alike_for_both_pictures_of_a_place(self):
        change = judges.draw_colour_change(3, torch.device("cpu"))
        frame = torch.rand(3, 3, 4, 4)
        once, both = change(frame), change(torch.cat([frame, frame]))
        assert torch.allclose(both, torch.cat([once, once]))
        assert not torch.allclose(once, frame)

    def test_the_discriminator_names_classes_at_half_size(self):
        judge = judges.SegmentationDiscriminator(widths=(4, 6, 8))
        logits, features = judge(torch.rand(2, 3, 32, 64))
        assert logits.shape == (2, 21, 16, 32)
        assert [f.shape[1:] for f in features] == [(4, 16, 32), (6, 8, 16), (8, 4, 8)]

    @torch.no_grad()
    def test_the_discriminator_sees_every_pixel_where_it_lies(self):
        judge = judges.SegmentationDiscriminator(widths=(4, 6, 8)).eval()
        frame = torch.rand(1, 3, 32, 64)
        before, seen = judge(frame)[0], []
        for y, x in ((10, 20), (10, 21), (11, 20), (11, 21)):
            changed = frame.clone()
            changed[..., y, x] += 1
            seen.append((judge(changed)[0] - before).abs().sum(1)[0])
            assert seen[-1][5, 10] > 10 * seen[-1].median()
        for one, other in pairwise(seen):  # nor are the four of a cell averaged
            assert (one - other).abs().max() > 1e-4

    @pytest.mark.parametrize(
        "size_hw", [(64, 128), (128, 128), (160, 320), (129, 256), (192, 256), (0, 0)]
    )
    def test_a_size_that_flows_do_not_fit_is_refused(self, size_hw):
        with pytest.raises(InputError, match="cannot be trained at") as caught:
            refine.check_size(size_hw)
        assert "256x128 times 1, 2, 3" in caught.value.hint

    def test_frames_of_any_fitting_size_are_damaged_alike(self, drive, clips, monkeypatch):
        """A flow of a quarter of the width moves pixels by a quarter, at 256x128 and 512x256."""
        large = np.kron(drive.frames, np.ones((1, 2, 2, 1), np.uint8))
        ids = np.zeros((20, 256, 512), np.uint8)
        other = DriveClip(name="large", frames=large, train_ids=ids)
        large_clips = MotionClips([other], strides=[1], num_frames=8, taught=False)
        for some, size_hw in ((clips, (128, 256)), (large_clips, (256, 512))):
            refine.check_size(size_hw)
            shown = collate([some.draw(0, None)])
            motion = MotionTask(clips, collate([clips.draw(0, None)]), batch=1)
            task = RefineTask(motion, some, shown, batch=1)

            def slide(small):
                assert small.frames.shape[-2:] == (128, 256)
                assert small.known.shape == (1, 8, 1, 64, 128)
                flow = torch.zeros(8, 2, 128, 256)
                flow[:, 0] = 255 / 4  # a quarter of the width
                return flow, torch.ones(8, 1, 128, 256)

            monkeypatch.setattr(motion, "follow", slide)
            shown = refine.with_teacher(shown)
            warped, visible, real = task._damage(shown, torch.Generator().manual_seed(0))
            for made in (motion, task):
                made.batches.close()
            assert warped.shape == real.shape == (2, 3, *size_hw)
            assert visible.min() == 1
            moved = (size_hw[1] - 1) / 4
            at, left = int(moved), size_hw[1] // 2
            first = shown[0].frames[0, 0]
            share = moved - at
            wanted = (1 - share) * first[..., at : at + left]
            wanted += share * first[..., at + 1 : at + 1 + left]
            torch.testing.assert_close(warped[0, ..., :left], wanted, rtol=0, atol=2e-3)

    def test_refinement_needs_no_teacher(self, drive, clips):
        plain = MotionClips([drive], strides=[1], num_frames=8, taught=False)
        shown = collate([plain.draw(0, None)])
        motion = MotionTask(clips, collate([clips.draw(0, None)]), batch=1)
        task = RefineTask(motion, plain, shown, batch=2)
        values = [task.step() for _ in range(2)]  # flipped ones among them
        for made in (motion, task):
            made.batches.close()
        assert all(math.isfinite(value) for step in values for value in step.values())

    def test_nothing_trained_is_said(self, tmp_path):
        with pytest.raises(InputError, match="first-frame has not been trained"):
            export_runs(tmp_path, tmp_path / "bundle", name="x")

    def test_statistics_are_measured_anew_with_the_final_weights(self, pairs, monkeypatch):
        monkeypatch.setattr(first_frame, "STATISTICS_BATCHES", 2)
        task = FirstFrameTask(pairs, batch=2)
        norm = task.network.down[0].norm
        norm.running_mean.fill_(77.0)
        task.finish(task.network)
        assert norm.running_mean.abs().max() < 10
        assert norm.num_batches_tracked == 2
        assert not task.network.training

    def test_a_segmenter_learns_three_pictures(self, pairs):
        task = SegmenterTask(pairs, batch=3, size_hw=(64, 128))
        first = task.step()["loss"]
        for _ in range(12):
            last = task.step()["loss"]
        assert last < 0.7 * first
        scores = score(task.network, pairs)
        assert scores["classes"] == 3
        assert 0 < scores["pixel_accuracy"] <= 1
        assert label_frames(task.network, np.zeros((2, 32, 64, 3), np.uint8)).shape == (2, 32, 64)


class TestEvaluate:
    def test_the_window_is_wide_and_from_the_upper_part(self, pairs):
        window = data.wide_window(pairs[0], (48, 96))
        assert window.picture.shape == (48, 96, 3)
        assert window.train_ids.shape == (48, 96)
        assert (window.train_ids[0] == 10).all()

    def test_motion_figures_are_complete(self, drive, monkeypatch):
        from seg2vid_cli.training import evaluate_motion as evaluate

        monkeypatch.setattr(evaluate, "SAMPLES", 2)
        monkeypatch.setattr(evaluate, "STARTS_PER_CLIP", 1)
        figures = motion_scores(Pipeline.open(device="cpu"), drive, 1)
        assert len(figures["psnr_best_sample"]) == len(figures["after_frames"]) == 4
        for best, mean in zip(
            figures["psnr_best_sample"], figures["psnr_mean_sample"], strict=True
        ):
            assert best >= mean
        assert figures["psnr_classical_flow"][0] > figures["psnr_repeat_first_frame"][0]
