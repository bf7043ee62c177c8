"""Every file of a clip: names, contents, all or nothing, and no file of the user's is lost."""

from __future__ import annotations

import hashlib
import json
import shutil
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from conftest import EXAMPLES
from PIL import Image

from seg2vid_cli import outputs as outputs_module
from seg2vid_cli.errors import InputError, LabelMapError
from seg2vid_cli.label_view import colour_picture
from seg2vid_cli.labels import read_labels
from seg2vid_cli.outputs import (
    Outputs,
    Report,
    flow_colours,
    generate_file,
    report_json,
    write_clip,
)
from seg2vid_cli.pipeline import Clip, ClipFrame, Pipeline
from seg2vid_cli.recipe import read_recipe
from seg2vid_cli.video import probe_video, read_frames, read_metadata
from seg2vid_cli.visualize import flow_to_colour, read_flo

SIZE = (32, 64)
GAP = 4


def picture(path):
    return np.asarray(Image.open(path))


def names(folder):
    return sorted(path.name for path in folder.iterdir())


def digest(path):
    return hashlib.sha256(path.read_bytes()).hexdigest()


def save_labels(path, labels):
    Image.fromarray(labels.train_ids).save(path)
    return path


def everything(folder):
    return Outputs(
        video=folder / "clip.mp4",
        frames=folder / "frames",
        flow=folder / "flow",
        visibility=folder / "visibility",
        panel=folder / "panel.mp4",
        preview=folder / "preview.png",
    )


def plain_frame(index, source, colour, *, flow=(0, 0), visibility=1.0):
    """One colour everywhere, one motion everywhere."""
    frame = np.full((*SIZE, 3), colour, np.uint8)
    if not index:
        return ClipFrame(index=0, source=0, frame=frame)
    flow_px = np.empty((2, *SIZE), np.float32)
    flow_px[0], flow_px[1] = flow
    return ClipFrame(
        index=index,
        source=source,
        frame=frame,
        flow_px=flow_px,
        forward_flow_px=-flow_px,
        visibility=np.full(SIZE, visibility, np.float32),
    )


FRAMES = (
    plain_frame(0, 0, (200, 40, 40)),
    plain_frame(1, 0, (40, 200, 40), flow=(0.06 * 64, 0)),  # right, at full strength: red
    plain_frame(2, 0, (40, 40, 200), flow=(0.5, -0.25), visibility=0.4),
    plain_frame(3, 2, (90, 90, 90), flow=(0, 0), visibility=0.0),
)


class Film:
    """A pipeline whose frames are already made; an error among them is raised in its place."""

    def __init__(self, frames):
        self.frames = frames

    def make(self, clips, *, forward_flow=True):
        assert len(clips) == 1
        for frame in self.frames:
            if isinstance(frame, BaseException):
                raise frame
            yield 0, frame


def filmed(clip, frames):
    """The same clip, of other frames."""
    assert isinstance(clip, Clip)
    return replace(clip, pipeline=Film(frames))


@pytest.fixture
def clip(pipeline, labels):
    """Four plain frames, without any network."""
    return filmed(pipeline.generate(labels, frames=len(FRAMES)), FRAMES)


# ---- what is written -----------------------------------------------------------------------------


def test_only_what_is_wanted_is_written(tmp_path, clip):
    write_clip(clip, Outputs(video=tmp_path / "clip.mp4"))
    assert names(tmp_path) == ["clip.mp4"]


def test_every_output_has_its_files(tmp_path, clip):
    write_clip(clip, everything(tmp_path))
    assert names(tmp_path) == [
        "clip.mp4",
        "flow",
        "frames",
        "panel.mp4",
        "preview.png",
        "visibility",
    ]
    assert names(tmp_path / "frames") == [
        "clip.json",
        "frame_00000.png",
        "frame_00001.png",
        "frame_00002.png",
        "frame_00003.png",
    ]
    assert names(tmp_path / "flow") == [  # the first frame has come from nowhere
        "backward_00001.flo",
        "backward_00001.png",
        "backward_00002.flo",
        "backward_00002.png",
        "backward_00003.flo",
        "backward_00003.png",
        "clip.json",
        "forward_00001.flo",
        "forward_00001.png",
        "forward_00002.flo",
        "forward_00002.png",
        "forward_00003.flo",
        "forward_00003.png",
    ]
    assert names(tmp_path / "visibility") == [
        "clip.json",
        "visibility_00001.png",
        "visibility_00002.png",
        "visibility_00003.png",
    ]


@pytest.mark.parametrize("name", ["clip.mp4", "clip.gif", "clip.webp"])
def test_the_video_has_size_length_and_rate_of_the_clip(tmp_path, clip, name):
    path = tmp_path / name
    write_clip(clip, Outputs(video=path))
    info = probe_video(path)
    assert (info.frames, info.size_hw, round(info.fps, 2)) == (4, SIZE, 10.0)
    for shown, made in zip(read_frames(path), FRAMES, strict=True):
        assert np.abs(shown.astype(int) - made.frame).max() <= 8


def test_frames_are_written_without_loss(tmp_path, pipeline, labels):
    clip = pipeline.generate(labels, frames=3)
    write_clip(clip, Outputs(video=tmp_path / "clip.mp4", frames=tmp_path / "frames"))
    for frame in clip:
        written = picture(tmp_path / "frames" / f"frame_{frame.index:05d}.png")
        np.testing.assert_array_equal(written, frame.frame)


def test_flow_files_hold_the_flow_in_pixels(tmp_path, pipeline, labels):
    clip = pipeline.generate(labels, frames=4)
    write_clip(clip, Outputs(video=tmp_path / "clip.mp4", flow=tmp_path / "flow"))
    for frame in list(clip)[1:]:
        for name, flow in (("backward", frame.flow_px), ("forward", frame.forward_flow_px)):
            stem = tmp_path / "flow" / f"{name}_{frame.index:05d}"
            np.testing.assert_array_equal(read_flo(stem.with_suffix(".flo")), flow)
            np.testing.assert_array_equal(
                picture(stem.with_suffix(".png")), flow_to_colour(flow, max_px=0.06 * 64)
            )


def test_all_flows_of_a_clip_are_painted_at_one_scale(tmp_path, clip):
    write_clip(clip, Outputs(video=tmp_path / "clip.mp4", flow=tmp_path / "flow"))
    colours = [
        picture(tmp_path / "flow" / f"backward_0000{i}.png")[5, 5].tolist() for i in (1, 2, 3)
    ]
    assert colours[0] == [255, 0, 0]  # 6 % of the width to the right
    assert colours[1] == flow_colours(FRAMES[2].flow_px)[0, 0].tolist()
    assert min(colours[1]) > 200  # a seventh of that length
    assert colours[2] == [255, 255, 255]  # no motion


def test_visibility_is_white_where_the_source_is_seen(tmp_path, clip):
    write_clip(clip, Outputs(video=tmp_path / "clip.mp4", visibility=tmp_path / "seen"))
    for index, grey in ((1, 255), (2, 102), (3, 0)):
        written = picture(tmp_path / "seen" / f"visibility_{index:05d}.png")
        assert written.shape == SIZE
        assert (written == grey).all()


def test_a_clip_of_one_frame_has_no_motion_to_write(tmp_path, pipeline, labels):
    write_clip(pipeline.generate(labels, frames=1), everything(tmp_path))
    assert names(tmp_path / "frames") == ["clip.json", "frame_00000.png"]
    assert names(tmp_path / "flow") == names(tmp_path / "visibility") == ["clip.json"]
    for name in ("clip.mp4", "panel.mp4"):
        assert probe_video(tmp_path / name).frames == 1


def test_every_output_says_how_it_was_made(tmp_path, clip):
    write_clip(clip, everything(tmp_path))
    recipe = json.loads(json.dumps(clip.recipe.to_dict()))
    for name in ("clip.mp4", "panel.mp4", "frames", "flow", "visibility"):
        assert read_metadata(tmp_path / name) == recipe, name
    assert read_recipe(tmp_path / "clip.mp4") == clip.recipe


# ---- the panel and the preview -------------------------------------------------------------------


def tile_middles(panel, count, size_hw=SIZE):
    """The colour in the middle of every tile of a one-row sheet with captions above."""
    height, width = size_hw
    assert panel.shape[1] == GAP + count * (width + GAP)
    below = panel.shape[0] - GAP - height // 2
    return [panel[below, GAP + i * (width + GAP) + width // 2] for i in range(count)]


def test_the_panel_shows_five_tiles_side_by_side(tmp_path, clip):
    write_clip(clip, Outputs(video=tmp_path / "clip.mp4", panel=tmp_path / "panel.mp4"))
    frames = list(read_frames(tmp_path / "panel.mp4"))
    assert len(frames) == 4
    labels = colour_picture(clip.labels.train_ids)[16, 32]
    white, grey, black = (255, 255, 255), (102, 102, 102), (0, 0, 0)
    first = (200, 40, 40)
    expected = [
        (labels, first, white, white, first),  # before there is a motion
        (labels, first, (255, 0, 0), white, (40, 200, 40)),
        (labels, first, flow_colours(FRAMES[2].flow_px)[0, 0], grey, (40, 40, 200)),
        (labels, first, white, black, (90, 90, 90)),
    ]
    for shown, colours in zip(frames, expected, strict=True):
        for tile, (found, wanted) in enumerate(zip(tile_middles(shown, 5), colours, strict=True)):
            assert np.abs(found.astype(int) - wanted).max() <= 10, tile


def test_the_captions_name_the_source_frame(tmp_path, clip, monkeypatch):
    compose, seen = outputs_module.compose_panel, []

    def remember(tiles):
        seen.append([caption for caption, _ in tiles])
        return compose(tiles)

    monkeypatch.setattr(outputs_module, "compose_panel", remember)
    write_clip(clip, Outputs(video=tmp_path / "clip.mp4", panel=tmp_path / "panel.mp4"))
    assert seen[1:] == [  # the first is a blank one, to know the size
        ["label map", "first frame", f"flow from frame {source}", "visibility", f"frame {index}"]
        for index, source in ((0, 0), (1, 0), (2, 0), (3, 2))
    ]


def test_the_preview_shows_the_labels_and_all_of_a_short_clip(tmp_path, clip):
    write_clip(clip, Outputs(video=tmp_path / "clip.mp4", preview=tmp_path / "preview.png"))
    sheet = picture(tmp_path / "preview.png")
    height, width = SIZE
    strip = (sheet.shape[0] - GAP) // 2 - height - GAP  # two rows of four
    assert sheet.shape[1] == GAP + 4 * (width + GAP)
    shown = [
        sheet[
            GAP + row * (height + strip + GAP) + height // 2,
            GAP + column * (width + GAP) + width // 2,
        ].tolist()
        for row in (0, 1)
        for column in range(4)
    ]
    labels = colour_picture(clip.labels.train_ids)[16, 32].tolist()
    background = [24, 24, 27]
    assert shown == [labels, *([f.frame[0, 0].tolist() for f in FRAMES]), *[background] * 3]


def test_the_preview_of_a_long_clip_has_eleven_frames_and_their_times(
    tmp_path, pipeline, labels, monkeypatch
):
    planned = pipeline.generate(labels, frames=101)
    frames = [plain_frame(i, 0, (2 * i, 0, 0)) for i in range(101)]
    make, seen = outputs_module.contact_sheet, []

    def remember(pictures, captions, *, columns):
        seen.append((captions, [int(p[0, 0, 0]) for p in pictures[1:]], columns))
        return make(pictures, captions, columns=columns)

    monkeypatch.setattr(outputs_module, "contact_sheet", remember)
    clip = filmed(planned, frames)
    write_clip(clip, Outputs(video=tmp_path / "clip.gif", preview=tmp_path / "preview.png"))
    ((captions, reds, columns),) = seen
    assert columns == 4
    assert reds == [20 * i for i in range(11)]  # every tenth frame, first and last among them
    assert captions[:3] == ["label map", "frame 0  0.00 s", "frame 10  1.00 s"]
    assert captions[-1] == "frame 100  10.00 s"


# ---- all or nothing ------------------------------------------------------------------------------


def failing(clip, error):
    """The same clip, but after two frames something happens."""
    return filmed(clip, [*FRAMES[:2], error])


ERRORS = pytest.mark.parametrize("error", [RuntimeError("out of memory"), KeyboardInterrupt()])


@ERRORS
def test_nothing_is_left_behind_when_a_clip_fails(tmp_path, clip, error):
    with pytest.raises(type(error)):
        write_clip(failing(clip, error), everything(tmp_path))
    assert names(tmp_path) == []


@ERRORS
def test_older_files_are_as_they_were_when_a_clip_fails(tmp_path, clip, error):
    write_clip(clip, everything(tmp_path))
    (tmp_path / "frames" / "notes.txt").write_text("mine")
    before = {path: digest(path) for path in tmp_path.rglob("*") if path.is_file()}
    with pytest.raises(type(error)):
        write_clip(failing(clip, error), everything(tmp_path))
    assert {path: digest(path) for path in tmp_path.rglob("*") if path.is_file()} == before


def test_a_shorter_clip_replaces_a_longer_one(tmp_path, clip, pipeline, labels):
    write_clip(clip, everything(tmp_path))
    (tmp_path / "frames" / "notes.txt").write_text("mine")
    planned = pipeline.generate(labels, frames=2)
    write_clip(filmed(planned, FRAMES[:2]), everything(tmp_path))
    assert names(tmp_path / "frames") == [
        "clip.json",
        "frame_00000.png",
        "frame_00001.png",
        "notes.txt",
    ]
    assert len(names(tmp_path / "flow")) == 1 + 4
    assert probe_video(tmp_path / "clip.mp4").frames == 2


# ---- checks before any work ----------------------------------------------------------------------


@pytest.fixture
def no_work(monkeypatch):
    """Whoever opens weights or makes a clip has started to work."""
    monkeypatch.setattr(Pipeline, "open", lambda *a, **k: pytest.fail("opened weights"))
    monkeypatch.setattr(Pipeline, "generate", lambda *a, **k: pytest.fail("made a clip"))


@pytest.mark.usefixtures("no_work")
@pytest.mark.parametrize(
    ("change", "problem"),
    [
        ({"panel": "clip.mp4"}, r"clip\.mp4: is also the video output"),
        ({"flow": "frames"}, "frames: is also the frames output"),
        ({"visibility": "sub/../frames"}, "frames: is also the frames output"),
        ({"preview": "labels.png"}, r"labels\.png: is also an input"),
        ({"preview": "photo.png"}, r"photo\.png: is also an input"),
        ({"preview": "link.png"}, r"link\.png: is also an input"),
        ({"preview": "preview.jpg"}, "unknown file extension '.jpg'"),
        ({"panel": "panel.avi"}, "unknown file extension '.avi'"),
        ({"panel": "none/panel.mp4"}, "none does not exist"),
        ({"frames": "labels.png"}, "is also an input"),
        ({"flow": "notes.txt"}, r"notes\.txt is a file, not a folder"),
        ({"flow": "none/flow"}, "none does not exist"),
    ],
)
def test_outputs_that_cannot_be_are_refused_before_any_work(tmp_path, labels, change, problem):
    source = save_labels(tmp_path / "labels.png", labels)
    photo = save_labels(tmp_path / "photo.png", labels)
    (tmp_path / "link.png").symlink_to(source)
    (tmp_path / "notes.txt").write_text("mine")
    (tmp_path / "sub").mkdir()
    before = {path: digest(path) for path in tmp_path.rglob("*") if path.is_file()}
    wanted = {"frames": "frames", **change}
    outputs = Outputs(
        video=tmp_path / "clip.mp4", **{name: tmp_path / path for name, path in wanted.items()}
    )
    with pytest.raises(InputError, match=problem) as caught:
        generate_file(source, tmp_path / "clip.mp4", outputs=outputs, first_frame=photo)
    assert caught.value.hint
    assert {path: digest(path) for path in tmp_path.rglob("*") if path.is_file()} == before
    assert not (tmp_path / "frames").exists()


@pytest.mark.usefixtures("no_work")
@pytest.mark.parametrize("name", ["clip.avi", "clip", "none/clip.mp4"])
def test_a_video_that_cannot_be_written_is_refused_before_any_work(tmp_path, labels, name):
    with pytest.raises(InputError):
        generate_file(labels, tmp_path / name)
    assert names(tmp_path) == []


@pytest.mark.usefixtures("no_work")
def test_a_label_map_that_cannot_be_read_is_refused_before_any_work(tmp_path):
    with pytest.raises(LabelMapError, match="no such file"):
        generate_file(tmp_path / "none.png", tmp_path / "clip.mp4")


@pytest.mark.parametrize(
    "settings",
    [
        {"frames": 0},
        {"fps": 0.0},
        {"fps": float("nan")},
        {"quality": 11},
        {"size_hw": (33, 64)},
        {"fit": "crop"},
        {"seed": -1},
    ],
    ids=str,
)
def test_a_setting_out_of_range_leaves_nothing_behind(tmp_path, pipeline, labels, settings):
    pipeline.generator = None  # calling it would fail
    outputs = everything(tmp_path)
    with pytest.raises(InputError):
        generate_file(labels, outputs.video, pipeline=pipeline, outputs=outputs, **settings)
    assert names(tmp_path) == []


def test_a_picture_of_another_aspect_ratio_leaves_nothing_behind(tmp_path, pipeline, labels):
    photo = tmp_path / "photo.png"
    Image.new("RGB", (64, 64)).save(photo)
    with pytest.raises(InputError, match="another aspect ratio"):
        generate_file(labels, tmp_path / "clip.mp4", pipeline=pipeline, first_frame=photo)
    assert names(tmp_path) == ["photo.png"]


# ---- generate_file -------------------------------------------------------------------------------


@pytest.mark.parametrize("name", ["clip.mp4", "clip.gif", "clip.webp"])
def test_a_second_call_writes_the_same_bytes(tmp_path, pipeline, labels, name):
    for folder in ("one", "two"):
        (tmp_path / folder).mkdir()
        outputs = Outputs(
            video=tmp_path / folder / name,
            frames=tmp_path / folder / "frames",
            flow=tmp_path / folder / "flow",
            visibility=tmp_path / folder / "visibility",
            preview=tmp_path / folder / "preview.png",
        )
        generate_file(labels, outputs.video, pipeline=pipeline, outputs=outputs, seed=3, frames=3)
    files = [path for path in (tmp_path / "one").rglob("*") if path.is_file()]
    assert len(files) == 1 + 4 + 9 + 3 + 1
    for path in files:
        other = tmp_path / "two" / path.relative_to(tmp_path / "one")
        assert digest(path) == digest(other), path.name


ENCODINGS = (
    ("labelIds", "label-ids"),
    ("trainIds", "train-ids"),
    ("instanceIds", "instance-ids"),
    ("cityscapes-colours", "cityscapes-colours"),
    ("cityscapes-palette", "cityscapes-colours"),
    ("carla-ids", "carla-ids"),
    ("carla-colours", "carla-colours"),
    ("camvid-colours", "camvid-colours"),
    ("my-simulator", "my-simulator"),
)


def test_one_scene_in_every_encoding_gives_one_video(tmp_path, pipeline):
    folder = EXAMPLES / "encodings"
    videos, found = set(), []
    for name, _ in ENCODINGS:
        own = str(folder / "my-simulator.toml") if name == "my-simulator" else "auto"
        labels = read_labels(folder / f"city-street.{name}.png", encoding=own)
        found.append(labels.encoding)
        path = tmp_path / f"{name}.mp4"
        generate_file(labels, path, pipeline=pipeline, seed=3, frames=2)
        videos.add(path.read_bytes())
    assert found == [encoding for _, encoding in ENCODINGS]
    assert len(videos) == 1


def test_another_seed_gives_another_video(tmp_path, pipeline, labels):
    for seed in (0, 1):
        generate_file(labels, tmp_path / f"{seed}.mp4", pipeline=pipeline, seed=seed, frames=1)
    one, two = (list(read_frames(tmp_path / f"{seed}.mp4")) for seed in (0, 1))
    assert np.abs(one[0].astype(int) - two[0]).max() > 20


def test_the_embedded_weights_are_used_unless_others_are_given(tmp_path, labels):
    report = generate_file(labels, str(tmp_path / "clip.mp4"), frames=1, size_hw=(32, 64))
    assert report.clip.recipe.weights == "street"
    assert read_recipe(tmp_path / "clip.mp4") == report.clip.recipe


def test_a_users_picture_is_the_first_frame_and_is_in_the_recipe(tmp_path, pipeline, labels):
    photo = tmp_path / "photo.png"
    Image.fromarray(np.random.randint(0, 256, (*SIZE, 3), np.uint8)).save(photo)
    report = generate_file(
        labels,
        tmp_path / "clip.mp4",
        pipeline=pipeline,
        outputs=Outputs(video=tmp_path / "other.mp4", frames=tmp_path / "frames"),
        first_frame=photo,
        frames=2,
    )
    np.testing.assert_array_equal(picture(tmp_path / "frames/frame_00000.png"), picture(photo))
    assert report.clip.recipe.first_frame_sha256 == digest(photo)
    assert names(tmp_path) == ["clip.mp4", "frames", "photo.png"]


def test_the_picture_is_read_at_the_size_that_was_asked_for(tmp_path, pipeline, labels):
    photo = tmp_path / "photo.png"
    Image.fromarray(np.random.randint(0, 256, (40, 100, 3), np.uint8)).save(photo)
    report = generate_file(
        labels,
        tmp_path / "clip.mp4",
        pipeline=pipeline,
        first_frame=str(photo),
        frames=1,
        size_hw=(40, 100),
        fit="stretch",
    )
    (frame,) = report.clip
    np.testing.assert_array_equal(frame.frame, picture(photo))


def test_progress_reaches_the_caller(tmp_path, pipeline, labels):
    calls = []
    generate_file(
        labels,
        tmp_path / "clip.mp4",
        pipeline=pipeline,
        frames=2,
        progress=lambda *call: calls.append(call),
    )
    assert calls == [("first frame", 0, 1), ("first frame", 1, 1), ("motion", 1, 1)]


# ---- the report ----------------------------------------------------------------------------------


def test_the_report_tells_files_label_map_and_recipe(tmp_path, pipeline, labels):
    source = save_labels(tmp_path / "labels.png", labels)
    outputs = Outputs(video=tmp_path / "x.mp4", flow=tmp_path / "flow")
    report = generate_file(
        source, tmp_path / "clip.mp4", pipeline=pipeline, outputs=outputs, seed=9, frames=2
    )
    told = report.to_dict()
    assert told["outputs"] == {"video": str(tmp_path / "clip.mp4"), "flow": str(tmp_path / "flow")}
    read = read_labels(source)
    assert told["labels"] == {
        "file": str(source),
        "encoding": read.encoding,
        "reason": read.reason,
        "alternatives": list(read.alternatives),
        "doubtful": read.doubtful,
    }
    recipe = report.clip.recipe.to_dict()
    del recipe["labels_png"], recipe["edges_png"]  # long, and in the file
    assert told["recipe"] == recipe
    assert told["recipe"]["seed"] == 9
    assert 0 < told["seconds"] < 600
    assert json.loads(report_json(report)) == json.loads(json.dumps(told))


def test_the_report_of_a_label_map_in_memory_names_no_file(clip, labels):
    outputs = Outputs(video=Path("clip.mp4"))
    report = Report(clip=clip, labels=labels, outputs=outputs, seconds=1.23456)
    told = report.to_dict()
    assert told["labels"]["file"] is None
    assert told["labels"]["encoding"] == "train-ids"
    assert told["outputs"] == {"video": "clip.mp4"}
    assert told["seconds"] == 1.235


def test_an_input_can_be_read_from_anywhere_and_stays(tmp_path, pipeline):
    source = shutil.copy(EXAMPLES / "city-street.labelIds.png", tmp_path / "labels.png")
    before = digest(source)
    generate_file(str(source), str(tmp_path / "clip.gif"), pipeline=pipeline, frames=1)
    assert digest(source) == before
    assert names(tmp_path) == ["clip.gif", "labels.png"]
