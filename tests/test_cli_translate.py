"""`seg2vid translate` from the shell's side: what it reports, writes and refuses."""

from __future__ import annotations

import json
import re
from pathlib import Path

import numpy as np
import pytest
from PIL import Image
from test_cli_generate import facts, listing, refused, seg2vid
from test_edges import lines, write_guided_bundle
from test_translate import FRAMES, SIZE, a_sequence, frames_of, pixels, rendered, save, scene

from seg2vid_cli.pipeline import Pipeline
from seg2vid_cli.video import probe_video, read_metadata
from seg2vid_cli.weights import registry

IN_AND_OUT = ("labels", "--edges", "cg", "-o", "out.mp4")
OPTIONS = (
    *("--edges", "--edges-are", "--edge-variety", "--encoding", "--glob", "--allow-gaps"),
    *("--seed", "--variant", "--fps", "--size", "--fit", "--quality", "--save-frames", "--panel"),
    *("--preview", "--json", "--quiet", "--weights", "--device", "--precision"),
)


@pytest.fixture(autouse=True)
def _here(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "here").mkdir()
    monkeypatch.chdir(tmp_path / "here")
    monkeypatch.setattr("seg2vid_cli.device._cpu_computes_bf16", lambda: False)


@pytest.fixture(scope="module")
def guided_bundle(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_guided_bundle(tmp_path_factory.mktemp("bundles") / "guided")


@pytest.fixture
def weights(guided_bundle: Path) -> tuple[object, ...]:
    return ("--weights", guided_bundle, "--device", "cpu")


# ---- help ----------------------------------------------------------------------------------------


def test_help_names_every_option():
    done = seg2vid("translate", "--help")
    assert (done.code, done.err) == (0, "")
    assert [name for name in OPTIONS if name not in done.out] == []
    for panel in ("Input", "Sample", "Output", "Running"):
        assert re.search(rf"─ {panel} ─", done.out)
    assert "Exit codes: 0 done" in done.out
    assert "translate" in seg2vid("--help").out


@pytest.mark.parametrize(
    "arguments",
    [
        "",
        "labels",
        "-o out.mp4",
        "labels -o",
        "labels cg -o out.mp4",
        "labels -o out.mp4 --seed x",
        "labels -o out.mp4 --fps fast",
        "labels -o out.mp4 --edge-variety much",
        "labels -o out.mp4 --frames 3",
        "labels -o out.mp4 --nonsense",
    ],
)
def test_wrong_usage_is_2(arguments):
    a_sequence()
    before = listing()
    assert seg2vid("translate", *arguments.split()).code == 2
    assert listing() == before


# ---- what it does --------------------------------------------------------------------------------


def test_a_sequence_becomes_a_video_and_a_report(weights):
    a_sequence()
    done = seg2vid("translate", *IN_AND_OUT, *weights, "--seed", 3)
    assert (done.code, done.err) == (0, "")
    info = probe_video(Path("out.mp4"))
    assert (info.frames, info.size_hw, round(info.fps, 3)) == (FRAMES, SIZE, 15)
    report = facts(done.out)
    assert report.pop("took").endswith(" s")
    assert report == {
        "label maps": "labels, frame_0000.png to frame_0003.png",
        "read as": "label-ids",
        "edges": "of cg, taken for pictures",
        "weights": "guided",
        "seed": "3, variant 0",
        "size": "64x32",
        "length": "4 frames at 15 fps: 0.3 s",
        "ran on": "cpu, fp32 (device asked for, precision by device)",
        "wrote": "out.mp4",
    }
    assert sorted(path.name for path in Path().iterdir()) == ["cg", "labels", "out.mp4"]


def test_everything_can_be_written_at_once(weights):
    a_sequence()
    more = ("--save-frames", "frames", "--panel", "panel.webp", "--preview", "sheet.png")
    done = seg2vid("translate", *IN_AND_OUT, *weights, *more, "--edge-variety", 0.5)
    assert (done.code, done.err) == (0, "")
    report = facts(done.out)
    assert report["edges"] == "of cg, taken for pictures, variety 0.5"
    assert report["wrote"] == "out.mp4\nframes\npanel.webp\nsheet.png"
    assert len(frames_of("frames")) == FRAMES
    assert probe_video(Path("panel.webp")).frames == FRAMES
    assert pixels("sheet.png").shape[1] > FRAMES * SIZE[1]


def test_json_and_quiet(weights):
    a_sequence()
    done = seg2vid("translate", *IN_AND_OUT, *weights, "--json", "--variant", 2, "--fps", 8)
    assert (done.code, done.err) == (0, "")
    found = json.loads(done.out)
    assert found["outputs"] == {"video": "out.mp4"}
    chosen = {name: found[name] for name in ("edges", "frames", "fps", "size", "variant")}
    assert chosen == {
        "edges": {"folder": "cg", "kind": "picture"},
        "frames": 4,
        "fps": 8,
        "size": [64, 32],
        "variant": 2,
    }
    done = seg2vid("translate", *IN_AND_OUT, *weights, "--quiet")
    assert (done.code, done.out, done.err) == (0, "", "")


@pytest.mark.parametrize("name", ["out.gif", "out.webp", "OUT.MP4", "straße [1].gif", "a b.webp"])
def test_every_format_and_name_is_written(weights, name):
    a_sequence(2)
    done = seg2vid("translate", "labels", "--edges", "cg", "-o", name, *weights)
    assert done.code == 0, done.err
    assert facts(done.out)["wrote"] == name
    assert probe_video(Path(name)).frames == 2
    assert read_metadata(Path(name))["tool"] == "seg2vid translate"


def test_the_same_command_gives_the_same_bytes(weights):
    a_sequence(2)
    made = []
    for settings in ((), (), ("--seed", 1), ("--variant", 1), ("--edge-variety", 1)):
        assert seg2vid("translate", *IN_AND_OUT, *weights, *settings, "-q").code == 0
        made.append(Path("out.mp4").read_bytes())
    assert made[0] == made[1]
    assert len(set(made)) == 4


def test_time_may_jump_and_frames_may_be_stretched_if_asked_for(weights):
    a_sequence()
    for folder in ("labels", "cg"):
        Path(folder, "frame_0002.png").unlink()
    says = ("frame 2 is missing between frame_0001.png and frame_0003.png", "hint: ")
    refused("translate", *IN_AND_OUT, *weights, says=says)
    words = (*IN_AND_OUT, *weights, "--allow-gaps", "--size", "64x64")
    assert facts(seg2vid("translate", *words).out)["size"] == "64x32"
    report = facts(seg2vid("translate", *words, "--fit", "stretch").out)
    assert (report["size"], report["length"]) == ("64x64", "3 frames at 15 fps: 0.2 s")
    assert probe_video(Path("out.mp4")).size_hw == (64, 64)


def test_one_frame_painted_alone_is_the_one_in_the_sequence(weights):
    a_sequence()
    for folder, more in (("all", ()), ("one", ("--glob", "*_0002.png"))):
        words = (*IN_AND_OUT, *weights, "--save-frames", folder, *more, "--edge-variety", 1)
        assert seg2vid("translate", *words).code == 0
    np.testing.assert_array_equal(frames_of("one")[0], frames_of("all")[2])


def test_numbers_in_other_names_belong_together(weights):
    for i in range(3):
        save(f"labels/semantic_{i:05d}.png", scene(i))
        Image.fromarray(rendered(i)).resize((128, 64)).save(save(f"cg/rgb-{i}.jpg", rendered(i)))
    assert seg2vid("translate", *IN_AND_OUT, *weights).code == 0
    Path("cg/rgb-1.jpg").unlink()
    says = ("cg: no edge picture for frame semantic_00001.png", "hint: add semantic_00001.png")
    refused("translate", *IN_AND_OUT, *weights, says=says)


@pytest.mark.parametrize("stem", ["[bold]", "straße ", "-", "日本😀", ":smile:", "%05d "])
def test_names_are_shown_as_they_are(weights, stem):
    for i in range(2):
        save(f"labels/{stem}{i}.png", scene(i))
        save(f"cg/{stem}{i}.png", rendered(i))
    done = seg2vid("translate", *IN_AND_OUT, *weights, "--json")
    assert json.loads(done.out)["labels"]["first"] == f"{stem}0.png"
    Path(f"cg/{stem}1.png").unlink()
    refused("translate", *IN_AND_OUT, *weights, says=(f"for frame {stem}1.png",))


def test_a_doubtful_encoding_is_noted():
    a_sequence(2)
    for i in range(2):
        save(f"labels/frame_{i:04d}.png", np.full((32, 64), 26, np.uint8))
    words = ("labels", "-o", "out.gif", "--size", "64x32", "--device", "cpu")
    done = seg2vid("translate", *words)
    assert done.code == 0
    assert done.err.startswith("note: the encoding is uncertain")
    assert seg2vid("translate", *words, "--encoding", "label-ids").err == ""


# ---- weights -------------------------------------------------------------------------------------


def test_without_a_name_the_weights_are_the_usual_ones(guided_bundle, monkeypatch):
    monkeypatch.setattr(registry, "DEFAULT_WEIGHTS", str(guided_bundle))
    a_sequence(2)
    for edges, said in (((), "none"), (("--edges", "cg"), "of cg, taken for pictures")):
        done = seg2vid("translate", "labels", "-o", "out.gif", *edges)
        assert done.code == 0, done.err
        report = facts(done.out)
        assert (report["weights"], report["edges"]) == ("guided", said)


def test_weights_without_edges_take_none_and_guided_ones_do_without(tiny_bundle, weights):
    a_sequence()
    refused(
        *("translate", *IN_AND_OUT, "--weights", tiny_bundle),
        says=("weights 'tiny' paint from labels alone and take no edges", "hint: "),
    )
    done = seg2vid("translate", "labels", "-o", "out.mp4", *weights)
    assert done.code == 0, done.err
    assert facts(done.out)["edges"] == "none"


def test_the_hint_for_weights_without_edges_can_be_followed(tiny_bundle):
    a_sequence()
    done = refused("translate", *IN_AND_OUT, "--weights", tiny_bundle)
    options = re.findall(r"--[a-z-]+", done.err)
    assert options
    assert set(options) <= set(OPTIONS)


def test_unknown_weights_and_folders_without_any_are_named():
    a_sequence()
    says = ("weights 'nowhere' are not known", "hint: known weights: ")
    refused("translate", *IN_AND_OUT, "--weights", "nowhere", says=says)
    says = ("bundle.json: cannot be read", "hint: ")
    refused("translate", *IN_AND_OUT, "--weights", "cg", says=says)


def test_damaged_weights_leave_nothing(guided_bundle):
    a_sequence()
    for file in guided_bundle.iterdir():
        Path("weights").mkdir(exist_ok=True)
        Path("weights", file.name).write_bytes(file.read_bytes())
    Path("weights/edges.safetensors").write_bytes(b"no tensors")
    words = (*IN_AND_OUT, "--weights", "weights", "--save-frames", "frames", "--panel", "p.gif")
    refused("translate", *words, says=("edges.safetensors",), code=1)


# ---- what is refused -----------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("change", "says"),
    [
        ("--fps 0", "0 frames per second is out of range"),
        ("--fps 1e9", "1e+09 frames per second is out of range"),
        ("--fps nan", "nan frames per second is out of range"),
        ("--fps inf", "inf frames per second is out of range"),
        ("--quality 11", "quality 11 is out of range"),
        ("--size 31x64", "size 31x64 is out of range"),
        ("--size 65x64", "size 65x64 is odd"),
        ("--size big", "size 'big' is not understood"),
        ("--fit crop", "fit 'crop' is not known"),
        ("--seed -1", "seed -1 is out of range"),
        ("--variant -1", "variant -1 is out of range"),
        ("--edge-variety 2.1", "edge variety 2.1 is out of range"),
        ("--edge-variety -1", "edge variety -1 is out of range"),
        ("--edge-variety nan", "edge variety nan is out of range"),
        ("--edges-are lines", "edges of kind 'lines' are not known"),
        ("--edges-are map", "cg/frame_0000.png: not an edge map"),
        ("--encoding nope", "unknown encoding 'nope'"),
        ("--encoding none.toml", "none.toml"),
        ("--device nope", "device 'nope' is not known"),
        ("--precision nope", "precision 'nope' is not known"),
        ("--edges none", "none: there is no such folder"),
        ("--edges labels/frame_0000.png", "labels/frame_0000.png"),
        ("--glob *.tif", "that fit '*.tif'"),
        ("-o out.avi", "out.avi: unknown file extension '.avi'"),
        ("-o out", "out: unknown file extension ''"),
        ("-o none/out.mp4", "does not exist"),
        ("-o labels", "unknown file extension"),
        ("-o out.gif --fps 60", "out.gif: cannot play 60 frames per second"),
        ("--panel panel.gif --fps 60", "panel.gif: cannot play 60 frames per second"),
        ("--panel out.mp4", "out.mp4: is also the output"),
        ("--preview labels/frame_0000.png", "is also an input"),
        ("--preview cg/frame_0000.png", "is also an input"),
        ("--save-frames labels", "labels: holds files that are read"),
        ("--save-frames cg", "cg: holds files that are read"),
    ],
    ids=str,
)
def test_what_cannot_be_is_one_error_and_writes_nothing(guided_bundle, change, says):
    a_sequence()
    words = (*IN_AND_OUT, "--weights", guided_bundle, *change.split())
    refused("translate", *words, says=(says, "hint: "))


@pytest.mark.parametrize(
    ("damage", "says"),
    [
        (lambda: Path("labels/frame_0002.png").unlink(), "frame 2 is missing between frame_0001"),
        (lambda: Path("cg/frame_0002.png").unlink(), "no edge picture for frame frame_0002.png"),
        (lambda: save("cg/frame_0002.bmp", rendered()), "both fit frame_0002.png"),
        (lambda: save("labels/frame_0002.png", scene(2, 64, 128)), "labels/frame_0002.png: is 128"),
        (lambda: save("cg/frame_0002.png", rendered(2, 64, 64)), "cg/frame_0002.png: the picture"),
        (lambda: save("labels/frame_0002.png", rendered(2)), "labels/frame_0002.png: "),
        (lambda: Path("labels/frame_0002.png").write_bytes(b""), "labels/frame_0002.png: the file"),
        (lambda: Path("cg/frame_0002.png").write_bytes(b""), "cg/frame_0002.png: not a picture"),
        (
            lambda: save("cg/frame_0002.png", np.where(lines(), 255, 0).astype(np.uint8)),
            "cg/frame_0002.png: looks like an edge map",
        ),
        (
            lambda: save("cg/frame_0002.png", np.where(lines(16, 32), 255, 0).astype(np.uint8)),
            "cg/frame_0002.png: the edge map is 32x16, the label map 64x32",
        ),
    ],
)
def test_a_frame_that_does_not_fit_is_named_before_weights_are_opened(monkeypatch, damage, says):
    monkeypatch.setattr(Pipeline, "open", lambda *a, **k: pytest.fail("weights were opened"))
    a_sequence()
    damage()
    outputs = ("--save-frames", "frames", "--panel", "panel.mp4", "--preview", "sheet.png")
    refused("translate", *IN_AND_OUT, *outputs, says=(says, "hint: "))


@pytest.mark.parametrize(
    "change",
    ["--edge-variety 3", "-o out.gif --fps 60", "--device nope", "--precision nope"],
)
def test_an_option_that_cannot_be_is_refused_before_anything_is_read(monkeypatch, change):
    a_sequence()
    monkeypatch.setattr(Pipeline, "open", lambda *a, **k: pytest.fail("weights were opened"))
    monkeypatch.setattr(
        "seg2vid_cli.translate.read_labels", lambda *a, **k: pytest.fail("label maps were read")
    )
    refused("translate", *IN_AND_OUT, *change.split())


def test_a_kind_of_edges_is_of_no_use_without_edges(tiny_bundle):
    a_sequence(2)
    words = ("labels", "-o", "out.gif", "--weights", tiny_bundle, "--edges-are", "lines")
    refused("translate", *words, says=("--edges-are is for --edges",))


def test_an_empty_pattern_is_refused(weights):
    a_sequence()
    refused("translate", *IN_AND_OUT, *weights, "--glob", "", says=("hint: ",))


@pytest.mark.parametrize("name", ["labels", "labels/frame_0000.png", "none"])
def test_label_maps_come_from_a_folder(weights, name):
    a_sequence(1)
    if name == "labels":
        Path("labels/frame_0000.png").unlink()
    refused("translate", name, "-o", "out.mp4", *weights, says=(f"{name}: ", "hint: "))


def test_an_interruption_leaves_nothing(weights, monkeypatch):
    a_sequence()
    generate, asked = Pipeline.generate, []

    def interrupted(self, *arguments, **settings):
        asked.append(1)
        if len(asked) == 3:
            raise KeyboardInterrupt
        return generate(self, *arguments, **settings)

    monkeypatch.setattr(Pipeline, "generate", interrupted)
    Path("out.mp4").write_bytes(b"older")
    before = listing()
    outputs = ("--save-frames", "frames", "--panel", "panel.mp4", "--preview", "sheet.png")
    done = seg2vid("translate", *IN_AND_OUT, *weights, *outputs)
    assert (done.code, done.out) == (130, "")
    assert listing() == before
