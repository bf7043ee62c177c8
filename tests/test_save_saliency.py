"""`seg2vid generate --save-saliency`: maps and overlays of clips while they are made."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
from conftest import lively, write_bundle
from test_cli_generate import facts, listing, photo, refused, save, scene, seg2vid
from test_cli_saliency import TINY, TINY_EMA, pixels, shares_by_hand

from seg2vid_cli.errors import WeightsError
from seg2vid_cli.labels import read_labels, resize_labels
from seg2vid_cli.networks.salgan import Salema, Salgan
from seg2vid_cli.outputs import (
    ClipWriter,
    Outputs,
    generate_file,
    generate_samples,
    write_clip,
)
from seg2vid_cli.pipeline import Pipeline
from seg2vid_cli.recipe import read_recipe
from seg2vid_cli.saliency import SaliencyModel, Viewer, overlay, saliency_to_grey
from seg2vid_cli.sample import plan_samples

FRAMES, SIZE = 3, (64, 128)  # height and width
SMALL = ("--size", f"{SIZE[1]}x{SIZE[0]}", "--frames", FRAMES, "--device", "cpu")
MADE = [
    "clip.json",
    *(f"overlay_{i:05d}.png" for i in range(FRAMES)),
    *(f"saliency_{i:05d}.png" for i in range(FRAMES)),
]


@pytest.fixture(autouse=True)
def _here(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "here").mkdir()
    monkeypatch.chdir(tmp_path / "here")
    monkeypatch.setattr("seg2vid_cli.device._cpu_computes_bf16", lambda: False)
    save("street.png", scene(*SIZE))


@pytest.fixture(scope="module")
def folders(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    """Bundles of one network: for pictures, with memory, and one that sees the same everywhere."""
    root = tmp_path_factory.mktemp("seers")
    plain = lively(Salgan(TINY), 3)
    plain.layers[0].weight.mul_(0.01)
    remembering, blank = Salema(replace(TINY_EMA, ema_weight=0.1)), Salgan(TINY)
    remembering.load_state_dict(plain.state_dict())
    torch.nn.init.zeros_(blank.layers[-2].weight)
    networks = {"plain": plain, "remembering": remembering, "blank": blank}
    return {
        name: write_bundle(
            root / name,
            {"saliency": network.eval()},
            labels="none",
            size_hw=(32, 48),
            fps=None,
            options={"saliency": {"normalise": name != "plain", "blur": name == "plain"}},
        )
        for name, network in networks.items()
    }


@pytest.fixture
def words(tiny_bundle: Path, folders: dict[str, Path]) -> tuple[object, ...]:
    weights = ("--weights", tiny_bundle, "--saliency-weights", folders["remembering"])
    return ("generate", "street.png", "-o", "out.mp4", *SMALL, *weights)


@pytest.fixture
def model(folders: dict[str, Path]) -> SaliencyModel:
    return SaliencyModel.open(str(folders["remembering"]), device="cpu", precision="fp32")


def names(folder: Path | str) -> list[str]:
    return sorted(path.name for path in Path(folder).iterdir())


def frames_in(folder: Path | str) -> list[np.ndarray]:
    return [pixels(path) for path in sorted(Path(folder).glob("frame_*.png"))]


def same_maps(folder: Path | str, expected: list[np.ndarray]) -> bool:
    """Up to a rounding: frames that go through a network together differ in the last digits."""
    written = [pixels(path) for path in sorted(Path(folder).glob("saliency_*.png"))]
    assert [grey.shape for grey in written] == [saliency.shape for saliency in expected]
    return all(
        np.abs(grey.astype(int) - saliency_to_grey(saliency)).max() <= 1
        for grey, saliency in zip(written, expected, strict=True)
    )


# ---- viewers -------------------------------------------------------------------------------------


def test_viewers_of_clips_made_together_have_memories_of_their_own(model):
    draw = np.random.default_rng(0)
    clips = draw.integers(0, 256, (2, 6, 20, 36, 3), dtype=np.uint8)
    viewers = [Viewer(model) for _ in clips]
    for i in range(6):
        for viewer, clip in zip(viewers, clips, strict=True):
            seen = viewer.see(clip[i])
            alone = list(model.watch(clip[: i + 1]))[-1]
            assert seen.index == alone.index == i
            assert (seen.frame == clip[i]).all()
            assert np.abs(seen.saliency - alone.saliency).max() < 1e-5


# ---- what is written -----------------------------------------------------------------------------


def test_a_clip_gets_maps_with_memory_and_overlays(words, model, folders):
    done = seg2vid(*words, "--save-frames", "frames", "--save-saliency", "seen")
    assert (done.code, done.err) == (0, "")
    assert names("seen") == MADE
    frames = frames_in("frames")
    expected = [seen.saliency for seen in model.watch(frames)]
    assert same_maps("seen", expected)
    assert not same_maps("seen", [seen.saliency for seen in model.watch(frames, remember=False)])
    for i, frame in enumerate(frames):
        painted = pixels(f"seen/overlay_{i:05d}.png").astype(int)
        assert painted.shape == (*SIZE, 3)
        assert np.abs(painted - overlay(frame, expected[i])).max() <= 6  # of a level of the map
        assert np.abs(painted - frame).mean() > 6
    assert read_recipe(Path("seen")) == read_recipe(Path("out.mp4"))
    report = facts(done.out)
    assert report["wrote"] == "out.mp4\nframes\nseen"
    assert report["saliency"] == "remembering"
    assert report["attention"].startswith("in the first frame on ")


def test_the_clip_is_the_same_with_and_without(words):
    assert seg2vid(*words, "--save-saliency", "seen", "-q").code == 0
    with_saliency = Path("out.mp4").read_bytes()
    assert seg2vid(*words[:-2], "-q").code == 0
    assert Path("out.mp4").read_bytes() == with_saliency


def test_the_result_tells_attention_in_the_first_frame(words, model):
    options = ("--save-frames", "frames", "--save-saliency", "seen")
    done = seg2vid(*words, *options, "--json")
    assert (done.code, done.err) == (0, "")
    result = json.loads(done.out)
    assert result["outputs"]["saliency"] == "seen"
    assert set(result["saliency"]) == {"weights", "first_frame_attention"}
    assert result["saliency"]["weights"] == "remembering"
    ids = resize_labels(read_labels("street.png"), SIZE).label_ids
    expected = shares_by_hand(model.look(frames_in("frames")[0]), ids)
    rows = result["saliency"]["first_frame_attention"]
    found = {row["class"]: (row["attention"], row["area"]) for row in rows}
    labels = {"road": 7, "building": 11, "sky": 23, "car": 26}
    assert set(found) == set(labels)
    for name, label in labels.items():
        assert found[name] == pytest.approx((expected[label], (ids == label).mean()), abs=1e-4)
    shares = [row["attention"] for row in rows]
    assert shares == sorted(shares, reverse=True)
    row, told = rows[0], facts(seg2vid(*words, *options).out)["attention"]
    start = f"{row['class']} {100 * row['attention']:.1f} % ({100 * row['area']:.1f} % of the area)"
    assert told.startswith(f"in the first frame on {start}, ")


def test_without_the_option_nothing_is_said_of_saliency(words):
    done = seg2vid(*words[:-2], "--json")
    assert done.code == 0
    result = json.loads(done.out)
    assert "saliency" not in result
    assert set(result["outputs"]) == {"video"}


def test_black_maps_have_no_shares(words, folders):
    options = (*words[:-1], folders["blank"], "--save-saliency", "seen")
    done = seg2vid(*options)
    assert done.code == 0
    assert facts(done.out)["attention"] == "in the first frame on nothing: every map is black"
    assert not pixels("seen/saliency_00002.png").any()
    assert json.loads(seg2vid(*options, "--json").out)["saliency"]["first_frame_attention"] == []


def test_without_a_label_map_there_are_maps_but_no_shares(unlabelled_bundle, folders):
    photo(64, 32).save("photo.png")
    weights = ("--weights", unlabelled_bundle, "--saliency-weights", folders["plain"])
    words = ("generate", "--first-frame", "photo.png", "-o", "out.mp4", "--device", "cpu")
    done = seg2vid(*words, "--frames", FRAMES, *weights, "--save-saliency", "seen", "--json")
    assert done.code == 0
    assert names("seen") == MADE
    assert json.loads(done.out)["saliency"] == {"weights": "plain"}


def test_a_shorter_clip_replaces_a_longer_one(pipeline, labels, model):
    outputs = Outputs(video=Path("v.mp4"), saliency=Path("seen"))
    write_clip(pipeline.generate(labels, frames=3), outputs, saliency=model)
    Path("seen/notes.txt").write_text("mine")
    write_clip(pipeline.generate(labels, frames=1), outputs, saliency=model)
    assert names("seen") == ["clip.json", "notes.txt", "overlay_00000.png", "saliency_00000.png"]


# ---- several samples -----------------------------------------------------------------------------


def test_each_sample_has_its_folder_and_its_memory(words, model, monkeypatch):
    opened, of_bundle = [], SaliencyModel.of_bundle
    monkeypatch.setattr(
        SaliencyModel, "of_bundle", lambda *given: opened.append(given) or of_bundle(*given)
    )
    options = ("--samples", 2, "--vary", "appearance", "--json")
    done = seg2vid(*words, *options, "--save-frames", "frames", "--save-saliency", "seen")
    assert done.code == 0
    assert len(opened) == 1
    results = json.loads(done.out)["samples"]
    assert [result["outputs"]["saliency"] for result in results] == ["seen-001", "seen-002"]
    maps = []
    for number in ("001", "002"):
        assert names(f"seen-{number}") == MADE
        maps.append([seen.saliency for seen in model.watch(frames_in(f"frames-{number}"))])
        assert same_maps(f"seen-{number}", maps[-1])
    assert not same_maps("seen-001", maps[1])
    one, other = (result["saliency"]["first_frame_attention"] for result in results)
    assert one != other
    assert facts(seg2vid(*words, "--samples", 2, "--save-saliency", "seen").out)["wrote"] == (
        "out-001.mp4\nseen-001\nout-002.mp4\nseen-002"
    )


def test_more_samples_than_are_made_together(pipeline, labels, model, monkeypatch):
    monkeypatch.setattr("seg2vid_cli.outputs.TOGETHER", 2)
    reports = generate_samples(
        labels,
        "v.mp4",
        samples=plan_samples(3),
        pipeline=pipeline,
        outputs=Outputs(video=Path("v.mp4"), saliency=Path("seen")),
        saliency=model,
        frames=2,
    )
    assert [report.saliency_weights for report in reports] == ["remembering"] * 3
    assert [report.attention for report in reports] == [reports[0].attention] * 3  # one first frame
    assert len(list(Path().glob("seen-*/saliency_*.png"))) == 3 * 2


# ---- refusals ------------------------------------------------------------------------------------


@pytest.fixture
def no_work(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(Pipeline, "open", lambda *a, **k: pytest.fail("opened weights"))
    monkeypatch.setattr(Pipeline, "generate", lambda *a, **k: pytest.fail("made a clip"))


@pytest.mark.usefixtures("no_work")
def test_without_weights_the_command_says_where_they_are(words):
    options = ("--save-saliency", "seen")
    done = refused(*words[:-2], *options, says=("weights 'salema-dhf1k'",), code=1)
    assert "2. seg2vid weights import CHECKPOINT --as salema -o salema-dhf1k\n" in done.err
    photo(64, 32).save("photo.png")
    assert done.err == refused("saliency", "photo.png", "-o", "seen.png", code=1).err
    salgan = ("--saliency-weights", "salgan-salicon")
    refused(*words[:-2], *options, *salgan, says=("--as salgan -o salgan-salicon",), code=1)


@pytest.mark.usefixtures("no_work")
def test_options_that_do_not_go_together(words, tiny_bundle):
    says = ("--saliency-weights is for --save-saliency", "add --save-saliency DIR")
    refused(*words, says=says)
    save_it = ("--save-saliency", "seen")
    refused(*words[:-1], tiny_bundle, *save_it, says=("no saliency stage",))
    refused(*words[:-1], "nowhere", *save_it, says=("nowhere",))
    refused(*words, *save_it, "--samples", 2, "--grid", says=("a grid is one video", "saliency"))
    refused(*words, *save_it, "--save-frames", "seen", says=("seen: is also",))
    refused(*words, "--save-saliency", ".", says=("lies in .,",))
    refused(*words, "--save-saliency", "none/seen", says=("none does not exist",))


def test_the_default_weights_are_asked_for_before_any_work(pipeline, labels, monkeypatch):
    clip, outputs = pipeline.generate(labels), Outputs(video=Path("v.mp4"), saliency=Path("seen"))
    monkeypatch.setattr(Pipeline, "generate", lambda *a, **k: pytest.fail("made a clip"))
    monkeypatch.setattr(Pipeline, "make", lambda *a, **k: pytest.fail("made frames"))
    before = listing()
    with pytest.raises(WeightsError, match="salema-dhf1k"):
        generate_file(labels, "v.mp4", pipeline=pipeline, outputs=outputs)
    with pytest.raises(WeightsError, match="salema-dhf1k"):
        write_clip(clip, outputs)
    with pytest.raises(ValueError, match="no saliency network"):
        ClipWriter(clip, outputs)
    assert listing() == before


# ---- all or nothing ------------------------------------------------------------------------------


@pytest.mark.parametrize("older", [False, True], ids=["new", "older"])
def test_a_failure_on_the_way_leaves_nothing(words, monkeypatch, older):
    options = (*words, "--save-saliency", "seen", "--samples", 2)
    if older:
        assert seg2vid(*options, "--seed", 3).code == 0
    before, see = listing(), Viewer.see

    def failing(self: Viewer, frame: np.ndarray) -> object:
        seen = see(self, frame)
        if seen.index == 2:
            raise KeyboardInterrupt
        return seen

    monkeypatch.setattr(Viewer, "see", failing)
    done = seg2vid(*options)
    assert (done.code, done.out) == (130, "")
    assert listing() == before


def test_where_the_files_cannot_be_written_nothing_appears(words, monkeypatch):
    def failing(*unused: object) -> list[tuple[str, bytes]]:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr("seg2vid_cli.outputs._saliency_files", failing)
    before = listing()
    with pytest.raises(OSError, match="No space"):
        seg2vid(*words, "--save-saliency", "seen")
    assert listing() == before


def test_the_help_names_both_options():
    done = seg2vid("generate", "--help")
    assert "--save-saliency" in done.out
    assert "--saliency-weights" in done.out
