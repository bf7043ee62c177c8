"""`seg2vid saliency`: what it reads, writes, reports and refuses."""

from __future__ import annotations

import json
import shutil
import subprocess
from dataclasses import asdict
from pathlib import Path

import numpy as np
import pytest
import torch
from conftest import lively, write_bundle
from imageio_ffmpeg import get_ffmpeg_exe
from PIL import Image
from safetensors.torch import load_file
from test_cli_generate import facts, listing, refused, save, scene, seg2vid

from seg2vid_cli.device import resolve_compute
from seg2vid_cli.networks.salgan import Salema, SalemaConfig, Salgan, SalganConfig
from seg2vid_cli.saliency import SaliencyModel, overlay, saliency_to_grey
from seg2vid_cli.saliency_metrics import FixationPool, auc_judd, correlation, shuffled_auc
from seg2vid_cli.video import open_video, probe_video, read_frames, read_metadata
from seg2vid_cli.weights.registry import find_weights

TINY = SalganConfig(
    size_hw=(32, 48), encoder_channels=(2, 3, 3, 4, 4), decoder_channels=(4, 4, 3, 2, 2)
)
TINY_EMA = SalemaConfig(**asdict(TINY), ema_layer=30, ema_weight=0.4)
FRAMES = 6
SIZE = (32, 64)  # height and width
CPU = ("--device", "cpu")


@pytest.fixture(autouse=True)
def _fp32(monkeypatch: pytest.MonkeyPatch) -> None:
    """The same number format on every processor."""
    monkeypatch.setattr("seg2vid_cli.device._cpu_computes_bf16", lambda: False)


@pytest.fixture(autouse=True)
def _here(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "here").mkdir()
    monkeypatch.chdir(tmp_path / "here")


@pytest.fixture(scope="session")
def folders(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    """One bundle for pictures and one with memory, of the same weights."""
    root = tmp_path_factory.mktemp("seers")
    plain = lively(Salgan(TINY), 3)
    plain.layers[0].weight.mul_(0.01)
    remembering = Salema(TINY_EMA)
    remembering.load_state_dict(plain.state_dict())
    made = {}
    for name, network in (("plain", plain), ("remembering", remembering)):
        made[name] = write_bundle(
            root / name,
            {"saliency": network.eval()},
            labels="none",
            size_hw=(32, 48),
            fps=None,
            options={"saliency": {"normalise": name == "remembering", "blur": name == "plain"}},
        )
    return made


@pytest.fixture
def plain(folders: dict[str, Path]) -> tuple[object, ...]:
    return ("--weights", folders["plain"], *CPU)


@pytest.fixture
def remembering(folders: dict[str, Path]) -> tuple[object, ...]:
    return ("--weights", folders["remembering"], *CPU)


def model(options: tuple[object, ...]) -> SaliencyModel:
    return SaliencyModel.open(str(options[1]), device="cpu", precision="fp32")


def frames(count: int = FRAMES, height: int = SIZE[0], width: int = SIZE[1]) -> list[np.ndarray]:
    """A bright patch that moves over waves."""
    y, x = np.mgrid[:height, :width]
    made = []
    for i in range(count):
        waves = 90 + 40 * np.sin(x / 5 + i) * np.cos(y / 7)
        frame = np.stack([waves, 0.8 * waves, 200 - waves], axis=2)
        frame[6:18, 4 + 7 * i : 16 + 7 * i] = (250, 240, 30)
        made.append(frame.astype(np.uint8))
    return made


def a_video(name: str = "clip.webp", count: int = FRAMES, fps: float = 10) -> str:
    """WebP is read without starting a program."""
    with open_video(Path(name), size_hw=SIZE, fps=fps, quality=10) as video:
        for frame in frames(count):
            video.write(frame)
    return name


def a_folder(name: str = "pictures", names: tuple[str, ...] = ("a", "b", "c")) -> Path:
    Path(name).mkdir()
    for stem, frame in zip(names, frames(len(names)), strict=True):
        Image.fromarray(frame).save(Path(name, f"{stem}.png"))
    return Path(name)


def a_picture(name: str = "photo.png") -> str:
    Image.fromarray(frames(1)[0]).save(name)
    return name


def pixels(path: Path | str) -> np.ndarray:
    with Image.open(path) as image:
        return np.asarray(image)


def looked_at(*places: tuple[int, int], size: tuple[int, int] = SIZE) -> np.ndarray:
    fixated = np.zeros(size, bool)
    for row, column in places:
        fixated[row, column] = True
    return fixated


# ---- videos --------------------------------------------------------------------------------------


def test_a_video_gets_maps_with_memory_and_an_overlay(remembering):
    source = a_video("clip.mp4")
    done = seg2vid("saliency", source, "-o", "out.mp4", "--save-maps", "maps", *remembering)
    assert (done.code, done.err) == (0, "")
    info = probe_video(Path("out.mp4"))
    assert (info.frames, info.size_hw, round(info.fps, 3)) == (FRAMES, SIZE, 10)
    expected = list(model(remembering).watch(read_frames(Path(source))))
    assert [p.name for p in sorted(Path("maps").iterdir())] == [
        f"saliency_{i:05d}.png" for i in range(FRAMES)
    ]
    for seen, shown in zip(expected, read_frames(Path("out.mp4")), strict=True):
        written = pixels(f"maps/saliency_{seen.index:05d}.png")
        assert (written == saliency_to_grey(seen.saliency)).all()
        painted = overlay(seen.frame, seen.saliency)
        gap = np.abs(shown.astype(int) - painted).mean()
        assert gap < 8  # colours are stored at half the size
        assert gap < 0.5 * np.abs(shown.astype(int) - seen.frame).mean()
    report = facts(done.out)
    assert report["video"] == "clip.mp4, 6 frames of 64x32"
    assert report["memory"] == "of the frames before"
    assert report["weights"] == "remembering"
    assert report["wrote"] == "out.mp4\nmaps"
    assert read_metadata(Path("out.mp4"))["tool"] == "seg2vid saliency"


def test_memory_can_be_left_out(remembering, plain):
    source = a_video()
    for name, options in (("a", remembering), ("b", (*remembering, "--pictures")), ("c", plain)):
        assert seg2vid("saliency", source, "--save-maps", name, "-q", *options).code == 0
    last = f"saliency_{FRAMES - 1:05d}.png"
    assert (pixels(f"a/{last}") != pixels(f"b/{last}")).any()
    frame = list(read_frames(Path(source)))[-1]
    assert (pixels(f"b/{last}") == saliency_to_grey(model(remembering).look(frame))).all()
    assert (pixels(f"c/{last}") == saliency_to_grey(model(plain).look(frame))).all()
    report = facts(seg2vid("saliency", source, "-o", "out.gif", "--pictures", *remembering).out)
    assert report["memory"] == "none, each stands alone"


@pytest.mark.parametrize("style", ["overlay", "map", "both"])
def test_styles(plain, style):
    source = a_picture()
    assert seg2vid("saliency", source, "-o", "out.png", "--style", style, *plain).code == 0
    frame = pixels(source)
    saliency = model(plain).look(frame)
    painted, grey = overlay(frame, saliency), saliency_to_grey(saliency)
    found = pixels("out.png")
    if style == "map":
        assert (found == grey).all()
    elif style == "overlay":
        assert (found == painted).all()
    else:
        assert (found[:, : SIZE[1]] == painted).all()
        assert (found[:, SIZE[1] :] == grey[..., None]).all()


def test_both_side_by_side_in_a_video(plain):
    assert seg2vid("saliency", a_video(), "-o", "o.gif", "--style", "both", *plain).code == 0
    assert probe_video(Path("o.gif")).size_hw == (SIZE[0], 2 * SIZE[1])


def test_the_same_command_gives_the_same_bytes(remembering):
    source = a_video()
    for name in ("a.mp4", "b.mp4"):
        assert seg2vid("saliency", source, "-o", name, "-q", *remembering).code == 0
    assert Path("a.mp4").read_bytes() == Path("b.mp4").read_bytes()
    assert Path("a.mp4").stat().st_size > 1000


# ---- pictures and folders ------------------------------------------------------------------------


def test_a_folder_gives_one_picture_for_each(remembering):
    folder = a_folder()
    (folder / "notes.txt").write_text("mine")
    done = seg2vid("saliency", folder, "-o", "seen", "--save-maps", "maps", *remembering)
    assert done.code == 0
    for written in ("seen", "maps"):
        assert sorted(p.name for p in Path(written).iterdir()) == ["a.png", "b.png", "c.png"]
    for name in "abc":  # each on its own, though the weights could remember
        saliency = model(remembering).look(pixels(folder / f"{name}.png"))
        assert (pixels(f"maps/{name}.png") == saliency_to_grey(saliency)).all()
    assert facts(done.out)["memory"] == "none, each stands alone"
    assert facts(done.out)["folder"] == "pictures, 3 pictures of 64x32"


def test_a_folder_of_frames_becomes_a_video_in_the_order_of_counting(remembering):
    folder = a_folder(names=("f10", "f9", "f1"))
    words = ("saliency", folder, *remembering)
    assert seg2vid(*words, "-o", "out.mp4", "--fps", 4, "--save-maps", "maps").code == 0
    assert round(probe_video(Path("out.mp4")).fps, 3) == 4
    ordered = [pixels(folder / f"{name}.png") for name in ("f1", "f9", "f10")]
    expected = list(model(remembering).watch(ordered))
    assert (pixels("maps/f10.png") == saliency_to_grey(expected[2].saliency)).all()
    assert seg2vid(*words, "--clip", "-o", "stills").code == 0
    assert (pixels("stills/f10.png") == overlay(ordered[2], expected[2].saliency)).all()
    for rate, given in ((15, None), (25, '{"fps": 25.0}')):
        if given:
            (folder / "clip.json").write_text(given)
        assert seg2vid(*words, "-o", "again.webp").code == 0
        assert probe_video(Path("again.webp")).fps == pytest.approx(rate, abs=0.1)


def test_pictures_of_several_sizes_and_formats(plain):
    folder = a_folder()
    Image.fromarray(frames(1, 40, 21)[0]).save(folder / "tall.jpg")
    Image.fromarray(frames(1)[0]).convert("L").save(folder / "grey.webp")
    assert seg2vid("saliency", folder, "-o", "seen", "-q", *plain).code == 0
    assert pixels("seen/tall.png").shape == (40, 21, 3)
    assert len(list(Path("seen").iterdir())) == 5
    says = ("pictures of 64x32 and of 21x40", "a video has one size")
    refused("saliency", folder, "-o", "out.mp4", *plain, says=says)


# ---- attention by class --------------------------------------------------------------------------


def shares_by_hand(saliency: np.ndarray, ids: np.ndarray) -> dict[int, float]:
    return {int(i): float(saliency[ids == i].sum() / saliency.sum()) for i in np.unique(ids)}


def test_attention_by_class_for_one_label_map(plain):
    ids = scene(*SIZE)
    save("labels.png", ids)
    done = seg2vid("saliency", a_picture(), "--labels", "labels.png", "--json", *plain)
    assert (done.code, done.err) == (0, "")
    result = json.loads(done.out)
    expected = shares_by_hand(model(plain).look(pixels("photo.png")), ids)
    found = {row["class"]: (row["attention"], row["area"]) for row in result["attention"]}
    names = {"road": 7, "building": 11, "sky": 23, "car": 26}
    assert set(found) == set(names)
    for name, label in names.items():
        share = (expected[label], (ids == label).mean())
        assert found[name] == pytest.approx(share, abs=1e-4)
    assert sum(share for share, _ in found.values()) == pytest.approx(1, abs=1e-3)
    shares = [row["attention"] for row in result["attention"]]
    assert shares == sorted(shares, reverse=True)
    assert result["encodings"] == ["label-ids"]
    assert result["outputs"] == []
    done = seg2vid("saliency", "photo.png", "--labels", "labels.png", *plain)
    first = result["attention"][0]
    start = f"{first['class']} {100 * first['attention']:.1f} % ({100 * first['area']:.1f} % of"
    assert facts(done.out)["attention on"].startswith(start)


def test_one_label_map_for_each_frame(plain):
    source = a_video(count=3)
    Path("labels").mkdir()
    flat = np.full(SIZE, 7, np.uint8)
    for i, ids in enumerate((scene(*SIZE), flat, scene(*SIZE))):
        save(f"labels/{i}.png", ids)
    words = ("saliency", source, "--labels", "labels", "--encoding", "label-ids", *plain)
    result = json.loads(seg2vid(*words, "--json").out)
    maps = [seen.saliency for seen in model(plain).watch(read_frames(Path(source)))]
    cars = [shares_by_hand(m, scene(*SIZE))[26] for m in (maps[0], maps[2])]
    found = {row["class"]: row["attention"] for row in result["attention"]}
    assert found["car"] == pytest.approx(sum(cars) / 3, abs=1e-4)
    assert seg2vid(*words).err == ""


def test_one_label_map_for_a_whole_clip_is_pointed_out(plain):
    save("labels.png", scene())
    done = seg2vid("saliency", a_video(), "--labels", "labels.png", "-o", "a.gif", *plain)
    assert done.code == 0
    assert done.err == (
        "note: one label map for 6 frames: the shares hold as far as nothing moves\n"
    )


def test_several_encodings_are_pointed_out(plain):
    folder = a_folder(names=("a", "b"))
    Path("labels").mkdir()
    save("labels/a.labelIds.png", scene(*SIZE))
    colours = np.zeros((*SIZE, 3), np.uint8)
    colours[:10], colours[10:] = (70, 130, 180), (128, 64, 128)  # sky and road
    Image.fromarray(colours).save("labels/b.png")
    done = seg2vid("saliency", folder, "--labels", "labels", *plain)
    assert done.code == 0
    assert "read as label-ids and cityscapes-colours: give --encoding" in done.err


# ---- scores --------------------------------------------------------------------------------------

PLACES = {"a": [(3, 5), (20, 40), (30, 2)], "b": [(9, 9)], "c": [(31, 63), (0, 0)]}


def fixation_folder(name: str, places: dict[str, list[tuple[int, int]]], ending: str = "") -> str:
    Path(name).mkdir()
    for stem, spots in places.items():
        save(f"{name}/{stem}{ending}.png", looked_at(*spots).astype(np.uint8))
    return name


def test_scores_are_means_over_pictures(plain):
    folder, fixations = a_folder(), fixation_folder("fixations", PLACES)
    Path("densities").mkdir()
    waves = {stem: frames(3)[i][..., 0] for i, stem in enumerate("abc")}
    for stem, wave in waves.items():
        save(f"densities/{stem}.png", wave)
    words = ("saliency", folder, "--score", fixations, *plain)
    result = json.loads(seg2vid(*words, "--densities", "densities", "--json").out)
    maps = {stem: model(plain).look(pixels(folder / f"{stem}.png")) for stem in "abc"}
    pool = FixationPool()
    for spots in PLACES.values():
        pool.add(looked_at(*spots))
    judd, shuffled, cc = [], [], []
    for stem, spots in PLACES.items():
        fixated = looked_at(*spots)
        judd.append(auc_judd(maps[stem], fixated))
        shuffled.append(shuffled_auc(maps[stem], fixated, pool.counts(SIZE, without=fixated)))
        cc.append(correlation(maps[stem], waves[stem].astype(float)))
    assert list(result["scores"]) == ["AUC-J", "s-AUC", "NSS", "CC", "SIM"]
    assert result["scores"]["AUC-J"] == pytest.approx(np.mean(judd), abs=1e-4)
    assert result["scores"]["s-AUC"] == pytest.approx(np.mean(shuffled), abs=1e-4)
    assert result["scores"]["CC"] == pytest.approx(np.mean(cc), abs=1e-4)
    assert (result["scored"], result["without fixations"]) == (3, 0)
    done = seg2vid(*words)
    assert done.err == ""
    values = result["scores"]
    assert facts(done.out)["score"] == (
        f"AUC-J {values['AUC-J']:.3f}, s-AUC {values['s-AUC']:.3f}, NSS {values['NSS']:.3f} "
        "(mean of 3)"
    )


def test_a_clip_s_own_frames_are_no_others(remembering):
    """People look at the same place in the next frame: that is no bias of all pictures."""
    source = a_video(count=3)
    fixations = fixation_folder("fixations", {"1": [(3, 4)], "2": [], "10": [(8, 9), (1, 1)]})
    words = ("saliency", source, "--score", fixations, *remembering)
    done = seg2vid(*words, "--json")
    result = json.loads(done.out)
    assert list(result["scores"]) == ["AUC-J", "NSS"]
    assert (result["scored"], result["without fixations"]) == (2, 1)
    maps = [seen.saliency for seen in model(remembering).watch(read_frames(Path(source)))]
    expected = [auc_judd(maps[0], looked_at((3, 4))), auc_judd(maps[2], looked_at((8, 9), (1, 1)))]
    assert result["scores"]["AUC-J"] == pytest.approx(np.mean(expected), abs=1e-4)
    notes = seg2vid(*words).err.splitlines()
    assert notes == [
        "note: 1 were not scored: nobody looked anywhere",
        "note: s-AUC needs fixations on other pictures: --others DIR",
    ]
    others = fixation_folder("others", {"x": [(16, 32), (8, 9)]})
    result = json.loads(seg2vid(*words, "--others", others, "--json").out)
    elsewhere = looked_at((16, 32), (8, 9)).astype(int)
    expected = [
        shuffled_auc(maps[0], looked_at((3, 4)), elsewhere),
        shuffled_auc(maps[2], looked_at((8, 9), (1, 1)), elsewhere),
    ]
    assert result["scores"]["s-AUC"] == pytest.approx(np.mean(expected), abs=1e-4)


def test_fixations_of_another_size_bring_the_map_to_theirs(plain):
    a_picture()
    save("fixated.png", looked_at((40, 90), size=(64, 128)).astype(np.uint8) * 255)
    done = seg2vid("saliency", "photo.png", "--score", "fixated.png", "--json", *plain)
    assert done.code == 0
    assert 0 < json.loads(done.out)["scores"]["AUC-J"] <= 1


@pytest.mark.parametrize("mode", ["1", "L", "P", "RGB", "I;16"])
def test_fixation_maps_of_other_kinds_mean_the_same(plain, mode):
    a_picture()
    fixated = looked_at((3, 5), (20, 40))
    if mode == "I;16":
        image = Image.fromarray(fixated.astype(np.uint16))
    else:
        image = Image.fromarray(fixated.astype(np.uint8) * 255)
        image = image.convert("RGB").convert(mode)
    image.save("fixated.png")
    done = seg2vid("saliency", "photo.png", "--score", "fixated.png", "--json", *plain)
    expected = auc_judd(model(plain).look(pixels("photo.png")), fixated)
    assert json.loads(done.out)["scores"]["AUC-J"] == pytest.approx(expected, abs=1e-4)


# ---- refusals ------------------------------------------------------------------------------------


def test_without_weights_the_command_says_where_they_are():
    name = "salema-dhf1k"
    words = ("saliency", a_video(), "-o", "out.mp4", *CPU)
    done = refused(*words, says=(f"weights '{name}'",), code=1)
    spec = find_weights(name)
    assert f"1. download the checkpoint by hand from {spec.download}\n" in done.err
    assert f"2. seg2vid weights import CHECKPOINT --as salema -o {name}\n" in done.err
    done = refused("weights", "pull", "salgan-salicon", code=1)
    assert "--as salgan -o salgan-salicon" in done.err


def test_imported_weights_stand_for_the_authors(folders, tmp_path):
    """The steps that the error tells of, from the authors' checkpoint on."""
    tensors = load_file(folders["remembering"] / "saliency.safetensors")
    data = {f"salgan.{n.removeprefix('layers.')}": t for n, t in tensors.items()}
    torch.save({"epoch": 1, "state_dict": data}, "SalEMA30.pt")
    words = ("SalEMA30.pt", "--as", "salema", "-o", "salema-dhf1k")
    assert seg2vid("weights", "import", *words).code == 0
    done = seg2vid("saliency", a_picture(), "-o", "out.png", *CPU)
    assert (done.code, facts(done.out)["weights"]) == (0, "salema-dhf1k")


def test_other_weights_are_no_saliency_and_these_no_clip(plain, folders, tiny_bundle):
    a_picture()
    words = ("saliency", "photo.png", "-o", "out.png", *CPU)
    says = ("no saliency stage", "seg2vid weights list")
    refused(*words, "--weights", tiny_bundle, says=says)
    save("street.png", scene())
    words = ("generate", "street.png", "-o", "out.mp4", "--size", "64x32")
    says = ("no first-frame stage, only saliency", "they are for seg2vid saliency")
    refused(*words, "--weights", folders["plain"], *CPU, says=says)
    refused(*words, "--motion-weights", folders["plain"], says=("no motion stage, only saliency",))


@pytest.mark.parametrize(
    ("words", "says"),
    [
        ("none.mp4 -o out.mp4", ("none.mp4", "is not a file")),
        ("none -o out.mp4", ("no such file or folder",)),
        ("none.png -o out.png", ("No such file",)),
        ("text.png -o out.png", ("not a picture",)),
        ("text.mp4 -o out.mp4", ("cannot read text.mp4",)),
        ("text.txt -o out.png", ("not a picture",)),
        ("empty -o out.mp4", ("holds no pictures",)),
        ("dot.png -o out.png", ("dot.png: 8x8 is too small",)),
        ("photo.png", ("nothing to do", "add -o FILE")),
        ("photo.png -o out.jpg", (".png",)),
        ("photo.png -o out.mp4", ("unknown file extension '.mp4'", ".png")),
        ("clip.webp -o out.png", ("out.png: cannot be written", ".mp4, .gif, .webp")),
        ("clip.webp -o seen", ("seen: cannot be written",)),
        ("pictures -o out.png", ("or a folder",)),
        ("photo.png -o photo.png", ("is also an input",)),
        ("pictures -o pictures", ("is also an input",)),
        ("clip.webp -o clip.webp", ("is also an input",)),
        ("photo.png -o out.png --save-maps .", ("photo.png: lies in ., where files are replaced",)),
        ("pictures -o seen --save-maps seen", ("is named twice",)),
        ("clip.webp -o none/out.mp4", ("does not exist",)),
        ("photo.png -o out.png --style heat", ("style 'heat'", "overlay, map, both")),
        ("clip.webp -o out.mp4 --fps 3", ("leave --fps out",)),
        ("pictures -o seen --fps 3", ("leave --fps out",)),
        ("pictures -o out.gif --fps 80", ("80 frames per second",)),
        ("pictures -o out.mp4 --fps 0.001", ("0.001 frames per second",)),
        ("twins -o seen", ("two pictures are named a",)),
        ("photo.png -o out.png --labels none.png", ("no such file",)),
        ("photo.png -o out.png --labels photo.png", ("have no meaning",)),
        ("photo.png -o out.png --labels wide.png", ("another aspect ratio",)),
        ("photo.png -o out.png --labels map.png --encoding x", ("'x'",)),
        ("clip.webp -o out.mp4 --labels maps", ("1 files", "for 6 frames")),
        ("pictures -o seen --labels maps", ("has no label map for a.png",)),
        ("pictures -o seen --labels map.png", ("is one label map for 3",)),
        ("photo.png --score none.png", ("no such file",)),
        ("photo.png --score black.png", ("nobody looked anywhere",)),
        ("photo.png --score photo.jpg", ("lossless",)),
        ("photo.png --score text.png", ("not a picture",)),
        ("photo.png --score wide.png", ("another aspect ratio",)),
        ("clip.webp --score fixated.png", ("is one fixation map for 6",)),
        ("photo.png --score fixated.png --others maps/map.png", ("no folder with fixation",)),
        ("photo.png --score fixated.png --densities wide.png", ("another aspect ratio",)),
        ("photo.png -o out.png --densities fixated.png", ("--densities is for scoring",)),
        ("photo.png -o out.png --others maps", ("--others is for scoring",)),
        ("photo.png -o out.png --device abacus", ("device 'abacus'",)),
        ("photo.png -o out.png --weights none", ("weights 'none' are not known",)),
    ],
)
def test_what_cannot_be_used_is_refused_before_any_work(plain, monkeypatch, inputs, words, says):
    given = words.split()
    options = () if "--weights" in given else plain[:2]
    watch = "seg2vid_cli.saliency.SaliencyModel.watch"
    monkeypatch.setattr(watch, lambda *_, **__: pytest.fail("it went to work"))
    refused("saliency", *given, *options, says=says)


@pytest.fixture
def inputs(_here: None, ready: Path) -> None:
    shutil.copytree(ready, ".", dirs_exist_ok=True)


@pytest.fixture(scope="module")
def ready(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Good and bad inputs."""
    folder = tmp_path_factory.mktemp("inputs")
    with pytest.MonkeyPatch.context() as patch:
        patch.chdir(folder)
        a_video()
        a_folder()
        a_picture()
        Image.fromarray(frames(1)[0]).save("photo.jpg")
        for name in ("text.png", "text.mp4", "text.txt"):
            Path(name).write_text("no picture")
        for name in ("empty", "maps", "twins"):
            Path(name).mkdir()
        for name in ("a.png", "a.jpg"):
            Image.fromarray(frames(1)[0]).save(Path("twins", name))
        Image.new("RGB", (8, 8)).save("dot.png")
        save("map.png", scene(*SIZE))
        save("maps/map.png", scene(*SIZE))
        save("wide.png", scene(32, 128))
        save("black.png", np.zeros(SIZE, np.uint8))
        save("fixated.png", looked_at((3, 4)).astype(np.uint8))
    return folder


def test_a_failure_on_the_way_leaves_nothing(plain, monkeypatch):
    source = a_video()
    Path("out.mp4").write_bytes(b"mine")
    before = listing()
    watch = SaliencyModel.watch

    def failing(self, *args, **options):
        for seen in watch(self, *args, **options):
            if seen.index == 3:
                raise KeyboardInterrupt
            yield seen

    monkeypatch.setattr(SaliencyModel, "watch", failing)
    done = seg2vid("saliency", source, "-o", "out.mp4", "--save-maps", "maps", *plain)
    assert (done.code, done.out) == (130, "")
    assert listing() == before


def test_a_video_of_a_varying_frame_rate_keeps_its_length(plain):
    """As phones record."""
    a_video("clip.mp4", count=12)
    choose = ("-vf", "select='not(mod(n,3))+not(mod(n,4))'", "-fps_mode", "vfr")
    command = (get_ffmpeg_exe(), "-loglevel", "error", "-i", "clip.mp4", *choose, "in.mp4")
    subprocess.run(command, check=True)
    assert probe_video(Path("in.mp4")).frames < 12
    assert seg2vid("saliency", "in.mp4", "-o", "out.mp4", *plain).code == 0
    length = probe_video(Path("in.mp4")).duration_s
    assert probe_video(Path("out.mp4")).duration_s == pytest.approx(length, abs=0.11)


def test_the_help_names_what_can_be_given():
    done = seg2vid("saliency", "--help")
    assert done.code == 0
    for text in ("VIDEO|IMAGE|FOLDER", "--style", "--save-maps", "--labels", "--score", "--others"):
        assert text in done.out


def test_the_compute_is_reported(plain):
    report = facts(seg2vid("saliency", a_picture(), "-o", "out.png", *plain).out)
    assert report["ran on"] == f"cpu, fp32 ({resolve_compute('cpu').reason})"
