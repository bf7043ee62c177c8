"""Several samples of one label map: files, grid, sheet and page, as the command makes them."""

from __future__ import annotations

import json
import time
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from seg2vid_cli.errors import InputError
from seg2vid_cli.outputs import Outputs, check_targets, generate_samples
from seg2vid_cli.sample import Sample, plan_samples
from seg2vid_cli.video import probe_video, read_frames, read_metadata

FRAMES = 3


def frames_of(path):
    return np.stack(list(read_frames(path)))


def read_picture(path):
    with Image.open(path) as image:
        return np.asarray(image)


@pytest.fixture
def make(tmp_path, pipeline, labels):
    def make(samples, name="v.mp4", **settings):
        return generate_samples(
            labels, tmp_path / name, samples=samples, pipeline=pipeline, frames=FRAMES, **settings
        )

    return make


def test_samples_are_numbered_and_share_the_first_frame(tmp_path, make):
    reports = make(
        plan_samples(3), outputs=Outputs(video=tmp_path / "x.mp4", frames=tmp_path / "f")
    )
    assert [r.outputs.video.name for r in reports] == ["v-001.mp4", "v-002.mp4", "v-003.mp4"]
    assert sorted(p.name for p in tmp_path.iterdir()) == [
        *("f-001", "f-002", "f-003"),
        *("v-001.mp4", "v-002.mp4", "v-003.mp4"),
    ]
    shown = [
        [read_picture(tmp_path / f"f-00{n}" / f"frame_{t:05d}.png") for t in (0, 2)]
        for n in (1, 2, 3)
    ]
    assert all((first == shown[0][0]).all() for first, _ in shown)
    assert (shown[0][1] != shown[1][1]).any()
    assert (shown[1][1] != shown[2][1]).any()


def test_a_sample_is_what_is_made_alone(tmp_path, make):
    make(plan_samples(2, seed=4))
    make([Sample(seed=4)], "alone.mp4")
    assert (tmp_path / "alone.mp4").read_bytes() == (tmp_path / "v-001.mp4").read_bytes()


def test_the_looks_differ_when_they_are_to_vary(tmp_path, make):
    make(plan_samples(2, vary="appearance"))
    one, other = (frames_of(tmp_path / f"v-00{n}.mp4") for n in (1, 2))
    assert (one[0] != other[0]).any()


def test_more_samples_than_are_made_together(tmp_path, make, monkeypatch):
    monkeypatch.setattr("seg2vid_cli.outputs.TOGETHER", 2)
    told = []
    reports = make(plan_samples(5), progress=lambda *step: told.append(step))
    assert len(reports) == len(list(tmp_path.glob("v-*.mp4"))) == 5
    assert told == [("frames", done, 5 * FRAMES) for done in range(1, 5 * FRAMES + 1)]


def test_a_grid_is_one_video_of_all(tmp_path, make):
    (report,) = make(plan_samples(3), grid=True)
    info = probe_video(tmp_path / "v.mp4")
    width, height = report.clip.recipe.size
    assert info.frames == FRAMES
    assert info.size_hw[0] > 2 * height
    assert info.size_hw[1] > 2 * width
    note = read_metadata(tmp_path / "v.mp4")
    assert note["captions"] == ["seed 0", "seed 0, variant 1", "seed 0, variant 2"]
    assert note["tool"] != "seg2vid"  # cannot be repeated with --like


def test_samples_between_two_seeds_stand_in_a_row(tmp_path, make):
    make(plan_samples(3, seed=1, to_seed=2), grid=True)
    info = probe_video(tmp_path / "v.mp4")
    assert info.size_hw[1] > 2 * info.size_hw[0]
    captions = read_metadata(tmp_path / "v.mp4")["captions"]
    assert captions == ["seed 1 to 2: 0 %", "seed 1 to 2: 50 %", "seed 1 to 2: 100 %"]


def test_one_sheet_and_one_page_for_all(tmp_path, make):
    page = tmp_path / "v.html"
    outputs = Outputs(video=tmp_path / "x.mp4", preview=tmp_path / "v.png")
    make(plan_samples(2), outputs=outputs, page=page)
    assert sorted(p.name for p in tmp_path.iterdir()) == [
        *("v-001.mp4", "v-002.mp4"),
        *("v.html", "v.png"),
    ]
    text = page.read_text()
    assert "v-001.mp4" in text
    assert "v-002.mp4" in text
    with Image.open(tmp_path / "v.png") as sheet:
        assert sheet.height > 2 * 32


@pytest.mark.parametrize(
    ("changes", "says"),
    [
        ({"grid": True, "page": "p.html"}, "a grid is one video"),
        ({"grid": True, "frames": "f"}, "a grid is one video"),
        ({"grid": True, "count": 37}, "37 clips are too many"),
        ({"page": "v-002.mp4"}, "v-002.mp4: is also"),
        ({"page": "p.txt"}, "p.txt"),
        ({"preview": "v-002.mp4"}, "v-002.mp4"),
    ],
    ids=str,
)
def test_what_does_not_go_together_is_refused_before_any_work(tmp_path, changes, says):
    paths = {k: tmp_path / v for k, v in changes.items() if k in ("frames", "preview")}
    page = changes.get("page")
    with pytest.raises(InputError, match=says):
        check_targets(
            Outputs(video=tmp_path / "v.mp4", **paths),
            changes.get("count", 3),
            grid=changes.get("grid", False),
            page=page and tmp_path / page,
            inputs=(),
        )
    assert list(tmp_path.iterdir()) == []


def test_an_input_among_the_samples_is_not_overwritten(tmp_path):
    taken = tmp_path / "v-002.mp4"
    taken.write_bytes(b"mine")
    with pytest.raises(InputError, match=r"v-002\.mp4: is also an input"):
        check_targets(Outputs(video=tmp_path / "v.mp4"), 3, grid=False, page=None, inputs=(taken,))


def test_a_writer_that_fails_stops_all_and_leaves_nothing(tmp_path, make, monkeypatch):
    from seg2vid_cli import video

    def full(self, frame):
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(video._Mp4Encoder, "add", full)
    with pytest.raises(video.VideoError, match="No space left"):
        make(plan_samples(2))
    assert list(tmp_path.iterdir()) == []


def test_reports_as_json(make):
    from seg2vid_cli.outputs import reports_json

    data = json.loads(reports_json(make(plan_samples(2, motion_scale=0.5))))
    assert [s["recipe"]["variant"] for s in data["samples"]] == [0, 1]
    assert data["samples"][1]["recipe"]["variants"] == {"appearance": 0}
    assert data["samples"][1]["recipe"]["motion_scale"] == 0.5


def test_a_grid_of_one_still_has_its_sheet(tmp_path, make):
    make([Sample()], outputs=Outputs(video=tmp_path / "x", preview=tmp_path / "p.png"), grid=True)
    assert sorted(p.name for p in tmp_path.iterdir()) == ["p.png", "v.mp4"]


def test_looks_that_cannot_differ_are_refused(tmp_path, make, labels):
    height, width = labels.size_hw
    Image.new("RGB", (width, height)).save(tmp_path / "p.png")
    with pytest.raises(InputError, match="the look cannot vary: it starts from a picture"):
        make(plan_samples(2, vary="both"), first_frame=tmp_path / "p.png")


def test_a_rate_that_the_format_cannot_play_is_refused_before_painting(tmp_path, make, pipeline):
    with pytest.raises(InputError, match="cannot play 60 frames per second"):
        make([Sample()], "v.gif", fps=60)
    assert "generator" not in vars(pipeline)
    assert list(tmp_path.iterdir()) == []


def test_no_samples_and_folders_without_a_name_are_refused(tmp_path, make):
    with pytest.raises(InputError, match="no samples asked for"):
        make([])
    with pytest.raises(InputError, match="has no name to number"):
        make(plan_samples(2), outputs=Outputs(video=tmp_path / "x.mp4", frames=Path("..")))


def test_clips_of_a_base_keep_what_does_not_vary():
    base = Sample(seed=3, variant=2, variants={"appearance": 0, "foreground": 7}, motion_scale=2)
    first, second = plan_samples(2, base=base, vary_motion="background")
    assert [s.variant_of("background") for s in (first, second)] == [2, 3]
    assert {s.key(p) for s in (first, second) for p in ("appearance",)} == {base.key("appearance")}
    assert second.variant_of("foreground") == 7
    assert second.motion_scale == 2


def test_leaving_early_does_not_wait_for_queued_frames(tmp_path, pipeline, labels, monkeypatch):
    from seg2vid_cli import outputs, video

    begun = []

    def slow(self, frame):
        begun.append(frame)
        time.sleep(0.2)

    monkeypatch.setattr(video._Mp4Encoder, "add", slow)
    clip = pipeline.generate(labels, frames=12)

    def leave():
        with outputs.ClipWriter(clip, Outputs(video=tmp_path / "v.mp4")) as writer:
            for frame in clip:
                writer.add(frame)
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        leave()
    assert len(begun) < 6
    assert list(tmp_path.iterdir()) == []
