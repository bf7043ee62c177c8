"""`seg2vid inspect` and `seg2vid doctor`: what a label map or a clip is, and whether all works."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest
from PIL import Image
from test_cli_generate import LITERAL_NAMES, SMALL, facts, picture, refused, save, scene, seg2vid

import seg2vid_cli
from seg2vid_cli import read_recipe
from seg2vid_cli.label_sets import CLASSES
from seg2vid_cli.video import open_video
from seg2vid_cli.weights.registry import read_registry

EXAMPLES = Path(__file__).resolve().parent.parent / "examples" / "labels"
CITY = EXAMPLES / "encodings"
ENCODING_OF = {
    "labelIds": "label-ids",
    "trainIds": "train-ids",
    "instanceIds": "instance-ids",
    "cityscapes-colours": "cityscapes-colours",
    "cityscapes-palette": "cityscapes-colours",
    "camvid-colours": "camvid-colours",
    "carla-ids": "carla-ids",
    "carla-colours": "carla-colours",
}


@pytest.fixture(autouse=True)
def _here(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    save("street.png", scene())


def as_json(*arguments: object) -> dict:
    done = seg2vid("inspect", *arguments, "--json")
    assert (done.code, done.err) == (0, "")
    return json.loads(done.out)


def a_clip(name: str, **metadata: object) -> str:
    with open_video(Path(name), size_hw=(32, 64), fps=10, metadata=metadata or None) as video:
        for grey in (0, 90, 180):
            video.write(np.full((32, 64, 3), grey, np.uint8))
    return name


# ---- label maps ----------------------------------------------------------------------------------


def test_a_label_map_is_shown_with_encoding_reason_and_classes():
    done = seg2vid("inspect", "street.png")
    assert (done.code, done.err) == (0, "")
    about, _, classes = done.out.partition("      class")
    report = facts(about)
    assert (report["file"], report["kind"]) == ("street.png", "label map")
    assert (report["size"], report["encoding"]) == ("64x32", "label-ids")
    assert report["why"].startswith("Cityscapes label ids (0-33): the 4 ids also fit carla-ids")
    assert report["doubtful"] == "no"
    rows = [row.split() for row in classes.splitlines()[1:]]
    ids = scene()
    expected = [
        [name, f"{(ids == i).sum():,}", f"{100 * (ids == i).mean():.1f}", "%"]
        for name, i in (("road", 7), ("building", 11), ("sky", 23), ("car", 26))
    ]
    assert rows == sorted(expected, key=lambda row: -float(row[2]))


@pytest.mark.parametrize("kind", ENCODING_OF)
def test_json_finds_the_encoding_of_the_examples(kind):
    result = as_json(CITY / f"city-street.{kind}.png")
    assert (result["kind"], result["size"]) == ("label map", "1024x512")
    assert (result["encoding"], result["doubtful"]) == (ENCODING_OF[kind], False)
    assert result["instances"] is (kind == "instanceIds")
    assert sum(row["pixels"] for row in result["classes"]) == 1024 * 512
    assert result["sha256"] == as_json(CITY / "city-street.labelIds.png")["sha256"]


def test_an_encoding_file_explains_ids_of_one_s_own():
    result = as_json(
        CITY / "city-street.my-simulator.png", "--encoding", CITY / "my-simulator.toml"
    )
    assert result["sha256"] == as_json(CITY / "city-street.labelIds.png")["sha256"]
    assert "my-simulator" in result["encoding"]


def test_instances_of_another_file_are_noticed():
    result = as_json("street.png", "--instances", "street.png")
    assert result["instances"] is True
    assert result["sha256"] != as_json("street.png")["sha256"]


def test_an_uncertain_encoding_is_said_to_be():
    ids = np.random.default_rng(0).integers(0, 19, (32, 64)).astype(np.uint8)  # fits four
    done = seg2vid("inspect", save("map.png", ids))
    assert done.code == 0
    assert done.err.startswith("note: the encoding is uncertain")
    assert facts(done.out.partition("      class")[0])["doubtful"] == "yes"
    result = json.loads(seg2vid("inspect", "map.png", "--json").out)
    assert result["doubtful"] is True
    assert {"label-ids", "train-ids", "carla-ids"} - {result["encoding"]} <= {
        *result["other readings"]
    }
    done = seg2vid("generate", "map.png", *SMALL, "--frames", 1)
    assert done.err.startswith("note: the encoding is uncertain")


def test_a_view_is_a_coloured_picture_with_a_legend():
    done = seg2vid("inspect", "street.png", "-o", "view.png")
    assert done.code == 0
    assert facts(done.out.partition("      class")[0])["view"] == "view.png"
    view = picture("view.png")
    assert view.format == "PNG"
    seen = {colour for _, colour in view.convert("RGB").getcolors(1 << 24)}
    assert {c.colour for c in CLASSES if c.name in ("road", "building", "sky", "car")} <= seen


@pytest.mark.parametrize("name", ["view.jpg", "none/view.png", "folder.png"])
def test_a_view_that_cannot_be_written(name):
    Path("folder.png").mkdir()
    refused("inspect", "street.png", "-o", name, says=(name, "hint: "))


def test_the_view_does_not_replace_the_label_map():
    refused("inspect", "street.png", "-o", "street.png", says=("street.png",))


# ---- clips ---------------------------------------------------------------------------------------


@pytest.mark.parametrize("name", ["clip.mp4", "clip.gif", "clip.webp"])
def test_a_clip_is_shown_with_how_it_was_made(name):
    command = ("generate", "street.png", *SMALL, "--seed", 7, "--fps", 10, "-o", name)
    assert seg2vid(*command).code == 0
    result = as_json(name)
    assert (result["file"], result["kind"]) == (name, "clip")
    assert (result["size"], result["frames"], result["fps"]) == ("64x32", 3, 10)
    made, recipe = result["how it was made"], read_recipe(Path(name))
    assert made.pop("size") == [64, 32]
    assert made == {key: getattr(recipe, key) for key in made}
    assert {"weights", "weights_sha256", "labels_sha256", "seed", "version"} <= set(made)
    done = seg2vid("inspect", name, "-o", "view.png")
    report = facts(done.out.partition("      class")[0])
    assert (report["seed"], report["weights"]) == ("7", "street")
    assert picture("view.png").format == "PNG"


def test_a_clip_s_label_map_can_be_seen():
    assert seg2vid("generate", "street.png", *SMALL).code == 0
    assert " road " in seg2vid("inspect", "street.mp4").out


def test_a_foreign_clip_is_said_not_to_know():
    result = as_json(a_clip("foreign.mp4"))
    assert (result["size"], result["frames"], result["fps"]) == ("64x32", 3, 10)
    assert result["made by"].startswith("not by seg2vid")
    assert facts(seg2vid("inspect", "foreign.mp4").out)["kind"] == "clip"


def test_a_webp_may_be_a_label_map_or_a_clip():
    Image.fromarray(scene()).save("map.webp", lossless=True)
    assert as_json("map.webp")["kind"] == "label map"
    assert seg2vid("generate", "map.webp", *SMALL, "-o", "clip.webp").code == 0
    assert as_json("clip.webp")["kind"] == "clip"
    refused("inspect", a_clip("foreign.webp"), says=("foreign.webp", "hint: "))


@pytest.mark.parametrize("name", ["clip.mp4", "clip.gif", "clip.webp"])
@pytest.mark.parametrize(
    "damage", [lambda data: b"", lambda data: b"text", lambda data: data[: len(data) * 2 // 3]]
)
def test_a_damaged_clip_is_refused(name, damage):
    path = Path(a_clip(name))
    path.write_bytes(damage(path.read_bytes()))
    refused("inspect", name, says=(name, "hint: "))


@pytest.mark.parametrize("name", ["none.mp4", "none.webp", "none.png", "none"])
def test_a_missing_file_is_refused(name):
    refused("inspect", name, says=(f"error: {name}", "hint: "))


# ---- names, doctor -------------------------------------------------------------------------------


@pytest.mark.parametrize("stem", [name for name in LITERAL_NAMES if "/" not in name])
def test_file_names_are_shown_literally(stem):
    save(f"{stem}.png", scene())
    report = seg2vid("inspect", "-o", f"{stem}.view.png", "--", f"{stem}.png").out
    report = facts(report.partition("      class")[0])
    assert (report["file"], report["view"]) == (f"{stem}.png", f"{stem}.view.png")
    assert (
        json.loads(seg2vid("inspect", "--json", "--", f"{stem}.png").out)["file"] == f"{stem}.png"
    )


@pytest.mark.parametrize("name", LITERAL_NAMES)
def test_file_names_in_errors_are_shown_literally(name):
    refused("inspect", "--", name, says=(f"error: {name}: ",))


def test_the_doctor_names_versions_devices_encoder_and_weights():
    done = seg2vid("doctor")
    assert (done.code, done.err) == (0, "")
    report = facts(done.out)
    assert report["seg2vid"] == seg2vid_cli.__version__
    assert report["would run on"].split(",")[0] in ("cpu", "mps", "cuda")
    assert " at " in report["ffmpeg"]
    assert "MiB, hashes match, all stages load" in report["weights street"]
    here = [name for name, spec in read_registry().items() if spec.local_folder()]
    assert [key for key in report if key.startswith("weights ")] == [f"weights {n}" for n in here]


@pytest.mark.parametrize("program", ["none", "street.png"])
def test_the_doctor_sees_a_useless_encoder(program, monkeypatch):
    monkeypatch.setenv("IMAGEIO_FFMPEG_EXE", str(Path(program).resolve()))
    done = seg2vid("doctor")
    assert done.code == 1
    assert "error: " in done.err
