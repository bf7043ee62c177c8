"""A sequence of label maps to a video: what is read, refused before any work, and painted."""

from __future__ import annotations

import json
from dataclasses import replace
from itertools import pairwise
from pathlib import Path

import numpy as np
import pytest
from conftest import lively, write_bundle
from PIL import Image
from test_edges import lines, write_guided_bundle

from seg2vid_cli.errors import InputError, VideoError
from seg2vid_cli.label_view import colour_picture
from seg2vid_cli.labels import labels_from_array, read_labels
from seg2vid_cli.networks.salgan import Salgan, SalganConfig
from seg2vid_cli.pipeline import Pipeline
from seg2vid_cli.sample import Sample
from seg2vid_cli.translate import TranslationPlan, plan_translation, translate
from seg2vid_cli.video import probe_video, read_frames, read_metadata
from seg2vid_cli.visualize import choose_frames, compose_panel, contact_sheet

SIZE = (32, 64)
FRAMES = 4
ROAD, BUILDING, SKY, CAR = 7, 11, 23, 26  # Cityscapes label ids


@pytest.fixture(autouse=True)
def _here(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)


@pytest.fixture(scope="module")
def guided_bundle(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_guided_bundle(tmp_path_factory.mktemp("bundles") / "guided")


@pytest.fixture
def guided(guided_bundle: Path) -> Pipeline:
    return Pipeline.open(str(guided_bundle), device="cpu", precision="fp32")


def scene(step: int = 0, height: int = 32, width: int = 64, car: int = CAR) -> np.ndarray:
    """A street as label ids, with a car that drives on."""
    ids = np.full((height, width), BUILDING, np.uint8)
    ids[: height // 4] = SKY
    ids[height * 5 // 8 :] = ROAD
    ids[height // 2 : height * 3 // 4, 4 * step + 4 : 4 * step + 20] = car
    return ids


def rendered(step: int = 0, height: int = 32, width: int = 64) -> np.ndarray:
    """What a simulator might make of it."""
    ids = scene(step, height, width).astype(int)
    return np.stack([ids * 9 % 256, ids * 23 % 256, 250 - ids * 5], axis=2).astype(np.uint8)


def save(path: Path | str, pixels: np.ndarray) -> Path:
    Path(path).parent.mkdir(exist_ok=True)
    Image.fromarray(pixels).save(path)
    return Path(path)


def a_sequence(count: int = FRAMES, *, first: int = 0, step: int = 1) -> tuple[Path, Path]:
    """Folders labels/ and cg/ with `frame_0000.png` and so on."""
    for i in range(count):
        save(f"labels/frame_{first + i * step:04d}.png", scene(i))
        save(f"cg/frame_{first + i * step:04d}.png", rendered(i))
    return Path("labels"), Path("cg")


def plan(**settings) -> TranslationPlan:
    """Of what `a_sequence` makes."""
    return plan_translation(Path("labels"), Path("out.mp4"), **settings)


def refused(*says: str, hint: str = "", **settings) -> None:
    before = sorted(Path().rglob("*"))
    with pytest.raises(InputError) as caught:
        plan(**settings)
    for text in says:
        assert text in caught.value.message
    assert caught.value.hint
    assert hint in caught.value.hint
    assert sorted(Path().rglob("*")) == before


def pixels(path: Path | str) -> np.ndarray:
    with Image.open(path) as image:
        return np.asarray(image)


def frames_of(folder: Path | str) -> list[np.ndarray]:
    return [pixels(path) for path in sorted(Path(folder).glob("frame_*.png"))]


# ---- the plan ------------------------------------------------------------------------------------


def test_a_plan_holds_every_frame_in_order():
    a_sequence(12, first=2)
    made = plan(edges=Path("cg"))
    names = [f"frame_{i:04d}.png" for i in range(2, 14)]
    assert [path.name for path in made.labels] == names
    assert [path.name for path in made.guides] == names
    assert {path.parent for path in made.guides} == {Path("cg")}
    assert (len(made), made.encoding, made.doubtful, made.size_hw) == (12, "label-ids", False, SIZE)
    labels, guide = made.read(3)
    np.testing.assert_array_equal(labels.label_ids, scene(3))
    assert guide.kind == "picture"
    np.testing.assert_array_equal(guide.pixels, rendered(3))
    assert plan().guides == ()
    assert plan().read(0)[1] is None


def test_frames_are_counted_as_a_person_does():
    for i, name in enumerate(["f8", "f9", "f10", "f11"]):
        save(f"labels/{name}.png", scene(i))
    assert [path.stem for path in plan().labels] == ["f8", "f9", "f10", "f11"]


def test_other_files_are_left_alone():
    a_sequence()
    for name in ("notes.txt", "Thumbs.db", ".hidden.png", "clip.json", "photo.jpg"):
        Path("labels", name).write_text("x")
    Path("labels/frame_9999.png").mkdir()
    a_sequence_inside = save("labels/cg/frame_0000.png", rendered())
    assert len(plan()) == FRAMES
    Path("cg/frame_0000.png").unlink()
    refused("cg: no edge picture for frame frame_0000.png", edges=Path("cg"))
    assert plan(edges=Path("labels/cg"), globs=("*_0000.png",)).guides == (a_sequence_inside,)


def test_patterns_choose_label_maps():
    a_sequence(6)
    for i in range(6):
        save(f"labels/frame_{i:04d}_colour.png", rendered(i))
    refused("frame_0000_colour.png")
    made = plan(globs=("frame_????.png",))
    assert len(made) == 6
    two = plan(globs=("*_0001.png", "*_0002.png"), edges=Path("cg"))
    assert [path.stem for path in two.guides] == ["frame_0001", "frame_0002"]
    refused("labels: no label maps (.png, ", "that fit '*.tif', 'x*'", globs=("*.tif", "x*"))


@pytest.mark.parametrize("glob", ["", "."])
def test_a_pattern_that_is_none_is_refused(glob):
    a_sequence()
    refused(globs=(glob,))


@pytest.mark.parametrize("name", [".tif", ".bmp", ".webp", ".npy", ".PNG"])
def test_every_kind_of_label_map_may_be_in_a_sequence(name):
    Path("labels").mkdir()
    for i in range(3):
        path = Path(f"labels/frame_{i}{name}")
        if name == ".npy":
            np.save(path, scene(i))
        else:
            options = {"lossless": True} if name == ".webp" else {}
            Image.fromarray(scene(i)).save(path, **options)
    for i, path in enumerate(plan().labels):
        np.testing.assert_array_equal(read_labels(path).label_ids, scene(i))


def test_two_files_of_one_frame_are_named():
    a_sequence()
    np.save("labels/frame_0001.npy", scene(1))
    refused("frame_0001.npy", "frame_0001.png")


# ---- folders -------------------------------------------------------------------------------------


def test_folders_that_are_none_are_named():
    labels, cg = a_sequence()
    file = labels / "frame_0000.png"
    for path, says in ((Path("none"), "there is no such folder"), (file, "is a file")):
        with pytest.raises(InputError, match=f"{path}: {says}") as caught:
            plan_translation(path, Path("out.mp4"))
        assert caught.value.hint
    with pytest.raises(InputError, match="none: there is no such folder"):
        plan_translation(labels, Path("out.mp4"), edges=Path("none"))
    with pytest.raises(InputError, match=r"cg/frame_0000\.png: "):
        plan_translation(labels, Path("out.mp4"), edges=cg / "frame_0000.png")


def test_folders_without_frames_are_named():
    Path("labels").mkdir()
    Path("cg").mkdir()
    refused("labels: no label maps (.png, .tif, .tiff, .bmp, .webp, .npy)")
    save("labels/frame_0.png", scene())
    refused("cg: no edge pictures (.png, .jpg", edges=Path("cg"))


def test_a_folder_of_jpegs_is_told_why_they_are_no_label_maps():
    Path("labels").mkdir()
    for i in range(3):
        Image.fromarray(rendered(i)).save(f"labels/{i}.jpg")
    refused("labels: no label maps", hint="JPEG")


# ---- gaps ----------------------------------------------------------------------------------------


def test_a_missing_frame_is_named():
    a_sequence(6)
    Path("labels/frame_0003.png").unlink()
    refused("frame 3 is missing between frame_0002.png and frame_0004.png", hint="--allow-gaps")
    assert len(plan(allow_gaps=True)) == 5
    Path("labels/frame_0002.png").unlink()
    refused("frame 2 is missing between frame_0001.png and frame_0004.png, and 1 more")


def test_every_second_frame_is_no_gap():
    a_sequence(5, first=7959, step=2)
    assert len(plan()) == 5
    Path("labels/frame_7963.png").unlink()
    refused("frame 7963 is missing between frame_7961.png and frame_7965.png")


def test_only_chosen_frames_count():
    a_sequence(6)
    Path("labels/frame_0003.png").unlink()
    assert len(plan(globs=("frame_000[0-2].png",))) == 3


def test_a_missing_edge_picture_is_named_by_its_frame():
    a_sequence()
    Path("cg/frame_0002.png").unlink()
    refused("cg: no edge picture for frame frame_0002.png", edges=Path("cg"))


def test_two_edge_pictures_of_one_frame_are_named():
    a_sequence()
    save("cg/frame_0002.bmp", rendered(2))
    refused("cg: ", "frame_0002.bmp and frame_0002.png", "frame_0002.png", edges=Path("cg"))


# ---- sizes ---------------------------------------------------------------------------------------


def test_a_label_map_of_another_size_is_named():
    a_sequence()
    save("labels/frame_0002.png", scene(2, 64, 128))
    refused("labels/frame_0002.png: is 128x64, the frames before are 64x32", hint="one size")


def test_an_edge_map_of_another_size_is_named():
    a_sequence()
    for i in range(FRAMES):
        save(f"cg/frame_{i:04d}.png", np.where(lines(), 255, 0).astype(np.uint8))
    assert len(plan(edges=Path("cg"))) == FRAMES
    save("cg/frame_0001.png", np.where(lines(64, 128), 255, 0).astype(np.uint8))
    refused("cg/frame_0001.png: the edge map is 128x64, the label map 64x32", edges=Path("cg"))


def test_a_picture_of_another_aspect_ratio_is_named_and_one_of_another_size_is_not():
    a_sequence()
    save("cg/frame_0001.png", rendered(1, 64, 128))
    assert len(plan(edges=Path("cg"))) == FRAMES
    save("cg/frame_0003.png", rendered(3, 64, 64))
    refused(
        "cg/frame_0003.png: the picture is 64x64, which is another aspect ratio",
        "64x32",
        edges=Path("cg"),
    )


# ---- encodings -----------------------------------------------------------------------------------


def test_the_sequence_decides_where_one_frame_is_in_doubt():
    """A car that fills the picture might be anything, but not among the others."""
    a_sequence()
    filled = np.full((32, 64), CAR, np.uint8)
    alone = labels_from_array(filled)
    assert alone.doubtful
    save("labels/frame_0000.png", filled)
    made = plan()
    assert (made.encoding, made.doubtful) == ("label-ids", False)
    np.testing.assert_array_equal(made.read(0)[0].label_ids, filled)


def test_one_sure_frame_counts_more_than_many_that_are_in_doubt():
    a_sequence(5)
    filled = np.full((32, 64), 13, np.uint8)  # a car among train ids, a fence among label ids
    alone = labels_from_array(filled)
    assert (alone.encoding, alone.doubtful) == ("train-ids", True)
    for i in range(4):
        save(f"labels/frame_{i:04d}.png", filled)
    made = plan()
    assert (made.encoding, made.doubtful) == ("label-ids", False)
    assert (made.read(0)[0].train_ids == 4).all()


def test_a_sequence_that_is_in_doubt_says_so():
    for i in range(2):
        save(f"labels/{i}.png", np.full((32, 64), CAR, np.uint8))
    assert plan().doubtful
    made = plan(encoding="label-ids")
    assert (made.encoding, made.doubtful) == ("label-ids", False)


def test_a_frame_in_another_encoding_is_named():
    a_sequence()
    save("labels/frame_0002.png", colour_picture(labels_from_array(scene(2)).train_ids))
    refused(
        "labels/frame_0002.png: is not read as label-ids, as other label maps of the folder are",
        hint="--encoding",
    )


def test_instance_maps_of_which_most_show_no_object_are_read_as_what_they_are():
    for i in range(5):
        ids = scene(i, car=ROAD).astype(np.uint16)
        if i == 3:
            ids[16:24, 10:30] = 26001
        save(f"labels/{i}.png", ids)
    assert plan(encoding="instance-ids").encoding == "instance-ids"  # it reads all of them
    assert plan().encoding == "instance-ids"


def test_a_table_of_one_s_own_is_read_and_a_class_it_lacks_is_named():
    Path("my.toml").write_text('[classes]\n3 = "road"\n5 = "car"\n')
    for i in range(3):
        save(f"labels/{i}.png", np.where(scene(i) == CAR, 5, 3).astype(np.uint8))
    made = plan(encoding="my.toml")
    assert set(np.unique(made.read(0)[0].train_ids)) == {0, 13}
    save("labels/1.png", np.full((32, 64), 4, np.uint8))
    refused("labels/1.png: ", encoding="my.toml")


@pytest.mark.parametrize(
    ("data", "says"),
    [
        (b"", "is empty"),
        (b"no picture", "is not a PNG"),
        (None, "is a JPEG, which changes pixel values"),
    ],
    ids=["empty", "text", "jpeg"],
)
def test_a_label_map_that_cannot_be_read_is_named(data, says):
    a_sequence()
    path = Path("labels/frame_0002.png")
    if data is None:
        Image.fromarray(scene(2)).save(path, "JPEG")
    else:
        path.write_bytes(data)
    refused(f"{path}: ", says)


def test_an_edge_picture_that_cannot_be_read_is_named():
    a_sequence()
    Path("cg/frame_0002.png").write_bytes(b"no picture")
    refused("cg/frame_0002.png: not a picture that can be read", edges=Path("cg"))


# ---- kinds of guides -----------------------------------------------------------------------------


def test_maps_among_pictures_are_named():
    a_sequence()
    save("cg/frame_0001.png", np.where(lines(), 255, 0).astype(np.uint8))
    refused(
        "cg/frame_0001.png: looks like an edge map, but frame_0000.png like a picture",
        hint="--edges-are",
        edges=Path("cg"),
    )
    made = plan(edges=Path("cg"), guide_kind="picture")
    assert made.read(1)[1].kind == "picture"
    refused("cg/frame_0000.png: not an edge map", edges=Path("cg"), guide_kind="map")


@pytest.mark.parametrize("kind", ["auto", "map"])
def test_an_edge_map_without_an_edge_is_one_among_others(kind):
    a_sequence()
    for i in range(FRAMES):
        save(f"cg/frame_{i:04d}.png", np.where(lines() & (i != 2), 255, 0).astype(np.uint8))
    made = plan(edges=Path("cg"), guide_kind=kind)
    assert not made.read(2)[1].pixels.any()


def test_an_unknown_kind_is_refused():
    a_sequence()
    refused("edges of kind 'lines' are not known", edges=Path("cg"), guide_kind="lines")


# ---- outputs -------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("outputs", "says"),
    [
        ({"preview": "labels/frame_0001.png"}, "labels/frame_0001.png: is also an input"),
        ({"preview": "cg/frame_0001.png"}, "cg/frame_0001.png: is also an input"),
        ({"preview": "link.png"}, "link.png: is also an input"),
        ({"panel": "./out.mp4"}, "out.mp4: is also the output"),
        ({"panel": "sub/../out.mp4"}, "is also the output"),
        ({"frames": "labels"}, "labels: holds files that are read"),
        ({"frames": "cg"}, "cg: holds files that are read"),
        ({"frames": "here/labels"}, "labels: holds files that are read"),
        ({"panel": "panel.avi"}, "panel.avi: unknown file extension '.avi'"),
        ({"panel": "panel.png"}, "panel.png: unknown file extension '.png'"),
        ({"preview": "sheet.mp4"}, "sheet.mp4: unknown file extension '.mp4'"),
        ({"preview": "none/sheet.png"}, "does not exist"),
        ({"frames": "none/frames"}, "does not exist"),
        ({"frames": "file.txt"}, "file.txt is a file, not a folder"),
        ({"preview": "sub.png"}, "sub.png is a folder"),
    ],
    ids=str,
)
def test_outputs_that_cannot_be_written_are_named(outputs, says):
    a_sequence()
    Path("link.png").symlink_to("labels/frame_0002.png")
    Path("here").symlink_to(".")
    Path("sub").mkdir()
    Path("sub.png").mkdir()
    Path("file.txt").touch()
    refused(says, edges=Path("cg"), **{name: Path(path) for name, path in outputs.items()})


def test_the_video_is_no_input():
    Path("labels").mkdir()
    for i in range(3):
        Image.fromarray(scene(i)).save(f"labels/{i}.webp", lossless=True)
    with pytest.raises(InputError, match=r"labels/1\.webp: is also an input"):
        plan_translation(Path("labels"), Path("labels/1.webp"))
    assert pixels("labels/1.webp").shape[:2] == SIZE


def test_frames_do_not_replace_links_that_are_read():
    a_sequence()
    Path("linked").mkdir()
    for i in range(FRAMES):
        target = Path("labels", f"frame_{i:04d}.png").resolve()
        Path(f"linked/frame_{i:05d}.png").symlink_to(target)
    with pytest.raises(InputError, match="linked: holds files that are read"):
        plan_translation(Path("linked"), Path("out.mp4"), frames=Path("linked"))


def test_a_preview_is_no_frame():
    a_sequence()
    Path("frames").mkdir()
    refused("frame_00001.png", frames=Path("frames"), preview=Path("frames/frame_00001.png"))


def test_outputs_are_checked_before_label_maps_are_read():
    a_sequence()
    Path("labels/frame_0000.png").write_bytes(b"no picture")
    with pytest.raises(InputError, match="unknown file extension"):
        plan_translation(Path("labels"), Path("out.avi"))


# ---- translating ---------------------------------------------------------------------------------


def one_frame(pipeline: Pipeline, step: int, **settings) -> np.ndarray:
    """Frame `step` of the sequence by itself, by way of the library."""
    labels = labels_from_array(scene(step), encoding="label-ids")
    return next(iter(pipeline.generate(labels, frames=1, **settings))).frame


def test_every_frame_is_what_it_is_by_itself(guided):
    a_sequence()
    made = plan(edges=Path("cg"), frames=Path("frames"))
    report = translate(made, guided, sample=Sample(seed=7))
    frames = frames_of("frames")
    assert len(frames) == len(made) == FRAMES
    for i, frame in enumerate(frames):
        edges = made.read(i)[1].edges(SIZE, guided.edge_threshold)
        np.testing.assert_array_equal(frame, one_frame(guided, i, seed=7, edges=edges))
    assert all((one != other).any() for one, other in pairwise(frames))
    assert (report.size_hw, report.fps, report.weights) == (SIZE, 15.0, "guided")
    info = probe_video(Path("out.mp4"))
    assert (info.frames, info.size_hw, round(info.fps, 3)) == (FRAMES, SIZE, 15)
    alone = plan(edges=Path("cg"), frames=Path("alone"), globs=("*_0002.png",))
    translate(alone, guided, sample=Sample(seed=7))
    np.testing.assert_array_equal(frames_of("alone")[0], frames[2])


def test_equal_frames_in_one_sequence_are_painted_alike(guided):
    for i, step in enumerate((0, 2, 0)):
        save(f"labels/{i}.png", scene(step))
        save(f"cg/{i}.png", rendered(step))
    translate(plan(edges=Path("cg"), frames=Path("frames")), guided, edge_variety=1.0)
    first, other, again = frames_of("frames")
    np.testing.assert_array_equal(first, again)
    assert (first != other).any()


def test_weights_without_edges_paint_from_labels_alone(pipeline):
    a_sequence()
    report = translate(plan(frames=Path("frames")), pipeline, sample=Sample(seed=3))
    for i, frame in enumerate(frames_of("frames")):
        np.testing.assert_array_equal(frame, one_frame(pipeline, i, seed=3))
    assert report.fps == 10  # of the weights
    assert round(probe_video(Path("out.mp4")).fps, 3) == 10


def test_pix2pixhd_paints_label_ids(painter_bundle):
    a_sequence(2)
    pipeline = Pipeline.open(str(painter_bundle), device="cpu", precision="fp32")
    report = translate(plan(frames=Path("frames")), pipeline)
    for i, frame in enumerate(frames_of("frames")):
        np.testing.assert_array_equal(frame, one_frame(pipeline, i))
    assert report.fps == 15


def test_edge_maps_guide_as_the_pictures_they_come_from(guided):
    a_sequence()
    translate(plan(edges=Path("cg"), frames=Path("a")), guided)
    for i in range(FRAMES):
        edges = plan(edges=Path("cg")).read(i)[1].edges(SIZE, guided.edge_threshold)
        save(f"maps/frame_{i:04d}.png", np.where(edges, 255, 0).astype(np.uint8))
    made = plan(edges=Path("maps"), frames=Path("b"))
    assert made.read(0)[1].kind == "map"
    translate(made, guided)
    for one, other in zip(frames_of("a"), frames_of("b"), strict=True):
        np.testing.assert_array_equal(one, other)


def test_the_same_settings_give_the_same_bytes_and_others_do_not(guided):
    a_sequence(2)

    def made(**settings) -> bytes:
        translate(plan(edges=Path("cg")), guided, **settings)
        return Path("out.mp4").read_bytes()

    plain = made()
    assert plain == made() == made(sample=Sample())
    ones = [made(sample=Sample(seed=1)), made(sample=Sample(variant=1)), made(edge_variety=1.0)]
    assert len({plain, *ones}) == 4
    assert ones[2] == made(edge_variety=1.0) != made(edge_variety=2.0)


def test_all_frames_have_one_look_and_one_mix_of_edges(guided, monkeypatch):
    a_sequence()
    keys = []
    generate = guided.generate

    def watched(labels, **settings):
        keys.append((settings["sample"], settings["edge_variety"], settings["size_hw"]))
        return generate(labels, **settings)

    monkeypatch.setattr(guided, "generate", watched)
    sample = Sample(seed=4, variant=2)
    translate(plan(edges=Path("cg")), guided, sample=sample, edge_variety=0.5)
    assert keys == [(sample, 0.5, SIZE)] * FRAMES


@pytest.mark.parametrize(
    ("settings", "size"),
    [({}, (32, 64)), ({"size_hw": (64, 64)}, (32, 64)), ({"size_hw": (48, 80)}, (40, 80))],
    ids=str,
)
def test_sizes_are_those_of_generate(guided, settings, size):
    a_sequence(2)
    assert translate(plan(edges=Path("cg")), guided, **settings).size_hw == size
    assert probe_video(Path("out.mp4")).size_hw == size


def test_frames_may_be_stretched(guided):
    a_sequence(2)
    settings = {"size_hw": (64, 64), "fit": "stretch"}
    made = plan(edges=Path("cg"), frames=Path("frames"))
    assert translate(made, guided, **settings).size_hw == (64, 64)
    edges = made.read(1)[1].edges((64, 64), guided.edge_threshold)
    expected = one_frame(guided, 1, edges=edges, **settings)
    np.testing.assert_array_equal(frames_of("frames")[1], expected)


@pytest.mark.parametrize("extension", ["gif", "webp", "mp4"])
def test_every_format_holds_all_frames_and_how_they_were_made(guided, extension):
    a_sequence()
    path = Path(f"out.{extension}")
    made = plan_translation(Path("labels"), path, edges=Path("cg"))
    translate(made, guided, sample=Sample(seed=5), fps=12.5, edge_variety=0.5)
    assert len(list(read_frames(path))) == FRAMES
    assert round(probe_video(path).fps, 2) == 12.5
    facts = read_metadata(path)
    assert facts["tool"] == "seg2vid translate"
    expected = {"seed": 5, "variant": 0, "edges": True, "edge_variety": 0.5, "weights": "guided"}
    assert {name: facts[name] for name in expected} == expected
    assert set(facts["weights_sha256"]) == {"edges", "first_frame", "bundle"}


def test_one_frame_is_a_video_too(guided):
    a_sequence(1)
    report = translate(plan(edges=Path("cg"), preview=Path("sheet.png")), guided, fps=1000)
    assert (report.to_dict()["frames"], probe_video(Path("out.mp4")).frames) == (1, 1)


def test_a_panel_shows_labels_edges_and_result(guided, pipeline):
    a_sequence(2)
    # The format that loses least.
    made = plan(edges=Path("cg"), panel=Path("panel.webp"), frames=Path("frames"))
    translate(made, guided, quality=10)
    shown, frame = list(read_frames(Path("panel.webp")))[1], frames_of("frames")[1]
    edges = made.read(1)[1].edges(SIZE, guided.edge_threshold)
    expected = compose_panel(
        [
            ("label map", colour_picture(labels_from_array(scene(1)).train_ids)),
            ("edges", np.where(edges, 255, 0).astype(np.uint8)),
            ("frame 1", frame),
        ]
    )
    assert shown.shape == expected.shape
    assert np.abs(shown.astype(int) - expected).mean() < 6
    translate(plan(panel=Path("panel.webp")), pipeline, quality=10)
    (first, *_), two = read_frames(Path("panel.webp")), shown.shape[1]
    assert first.shape[1] < two  # no tile for edges


def test_a_preview_shows_frames_with_their_names_and_times(guided):
    a_sequence(3, first=5)
    translate(
        plan(edges=Path("cg"), preview=Path("sheet.png"), frames=Path("frames")), guided, fps=10
    )
    captions = ["frame_0005  0.00 s", "frame_0006  0.10 s", "frame_0007  0.20 s"]
    expected = contact_sheet(frames_of("frames"), captions, columns=4)
    np.testing.assert_array_equal(pixels("sheet.png"), np.asarray(expected))


def test_a_preview_of_many_frames_shows_twelve(pipeline):
    a_sequence(14)
    report = translate(plan(preview=Path("sheet.png"), frames=Path("frames")), pipeline)
    frames = frames_of("frames")
    assert len(frames) == report.to_dict()["frames"] == 14
    chosen = choose_frames(14, 12)
    captions = [f"frame_{i:04d}  {i / 10:.2f} s" for i in chosen]
    expected = contact_sheet([frames[i] for i in chosen], captions, columns=4)
    np.testing.assert_array_equal(pixels("sheet.png"), np.asarray(expected))


@pytest.mark.parametrize("stem", ["straße 1", "日本😀", "[bold]", "a\nb", "x" * 150], ids=ascii)
def test_names_of_any_kind_are_read_and_shown(guided, stem):
    for i in range(2):
        save(f"labels/{stem}{i}.png", scene(i))
        save(f"cg/{stem}{i}.png", rendered(i))
    report = translate(plan(edges=Path("cg"), preview=Path("sheet.png")), guided)
    assert report.to_dict()["labels"]["last"] == f"{stem}1.png"
    assert pixels("sheet.png").ndim == 3


def test_progress_is_told_frame_by_frame(pipeline):
    a_sequence()
    told = []
    checked = plan(edges=Path("cg"), progress=lambda *what: told.append(what))
    assert told == [
        (stage, i, FRAMES)
        for stage in ("check labels", "check edges")
        for i in range(1, FRAMES + 1)
    ]
    told.clear()
    checked = replace(checked, guides=())
    translate(checked, pipeline, progress=lambda *what: told.append(what))
    assert told == [("frames", i, FRAMES) for i in range(1, FRAMES + 1)]


def test_a_report_says_what_was_done(guided):
    a_sequence()
    outputs = {"frames": Path("frames"), "panel": Path("p.gif"), "preview": Path("s.png")}
    report = translate(
        plan(edges=Path("cg"), **outputs), guided, sample=Sample(seed=2, variant=1), fps=20
    )
    found = report.to_dict()
    assert found.pop("seconds") > 0
    assert json.loads(json.dumps(found)) == {
        "outputs": {"video": "out.mp4", "frames": "frames", "panel": "p.gif", "preview": "s.png"},
        "labels": {
            "folder": "labels",
            "first": "frame_0000.png",
            "last": "frame_0003.png",
            "encoding": "label-ids",
            "doubtful": False,
        },
        "edges": {"folder": "cg", "kind": "picture"},
        "frames": FRAMES,
        "fps": 20,
        "size": [64, 32],
        "weights": "guided",
        "seed": 2,
        "variant": 1,
        "edge_variety": 0.0,
        "light": None,
        "device": "cpu",
        "precision": "fp32",
    }


def test_without_edges_there_is_no_variety(pipeline):
    a_sequence(2)
    report = translate(plan(), pipeline, edge_variety=1.0)
    assert read_metadata(Path("out.mp4"))["edge_variety"] == 0
    assert report.to_dict()["edge_variety"] == 0


# ---- what does not fit, and what fails on the way ------------------------------------------------


def fails(
    error: type[Exception], *says: str, plan: TranslationPlan, pipeline: Pipeline, **settings
):
    """The translation must end with an error and leave every file as it was."""
    before = {path: path.stat().st_mtime_ns for path in Path().rglob("*") if path.is_file()}
    with pytest.raises(error) as caught:
        translate(plan, pipeline, **settings)
    for text in says:
        assert text in str(caught.value)
    after = {path: path.stat().st_mtime_ns for path in Path().rglob("*") if path.is_file()}
    assert after == before
    return caught.value


def everything(**settings) -> TranslationPlan:
    """A plan of all outputs, in place of older ones."""
    for name in ("out.mp4", "panel.mp4", "sheet.png"):
        Path(name).write_bytes(b"older")
    Path("frames").mkdir()
    Path("frames/frame_00000.png").write_bytes(b"older")
    outputs = {"frames": "frames", "panel": "panel.mp4", "preview": "sheet.png"}
    return plan(**{name: Path(path) for name, path in outputs.items()}, **settings)


def test_weights_without_edges_take_none(pipeline):
    a_sequence()
    error = fails(
        InputError,
        "weights 'tiny' paint from labels alone and take no edges",
        plan=everything(edges=Path("cg")),
        pipeline=pipeline,
    )
    assert error.hint


def test_guided_weights_do_without_edges(guided):
    a_sequence()
    report = translate(plan(), guided)
    assert report.to_dict()["edges"] is None
    assert Path("out.mp4").stat().st_size > 0


def test_hints_name_options_that_translate_has(pipeline, motion_bundle):
    a_sequence()
    mover = Pipeline.open(str(motion_bundle), device="cpu", precision="fp32")
    errors = [
        fails(InputError, plan=plan(edges=Path("cg")), pipeline=pipeline),
        fails(InputError, "no first-frame stage", plan=plan(), pipeline=mover),
    ]
    assert ["--first-frame" in error.hint for error in errors] == [False, False]


def test_weights_that_make_no_pictures_are_named(tmp_path):
    a_sequence()
    config = SalganConfig(
        size_hw=(32, 48), encoder_channels=(2, 3, 3, 4, 4), decoder_channels=(4, 4, 3, 2, 2)
    )
    networks = {"saliency": lively(Salgan(config))}
    folder = write_bundle(tmp_path / "seer", networks, labels="none", fps=None)
    seer = Pipeline.open(str(folder), device="cpu", precision="fp32")
    fails(InputError, "weights 'seer' have no first-frame stage", plan=plan(), pipeline=seer)


@pytest.mark.parametrize(
    ("settings", "says"),
    [
        ({"fps": 0}, "0 frames per second is out of range"),
        ({"fps": 1001}, "1001 frames per second"),
        ({"fps": float("nan")}, "nan frames per second"),
        ({"quality": 11}, "quality 11 is out of range"),
        ({"size_hw": (31, 64)}, "size 64x31 is out of range"),
        ({"size_hw": (33, 64)}, "size 64x33 is odd"),
        ({"fit": "crop"}, "fit 'crop' is not known"),
        ({"edge_variety": -0.1}, "edge variety -0.1 is out of range"),
        ({"edge_variety": 2.1}, "edge variety 2.1 is out of range"),
        ({"edge_variety": float("nan")}, "edge variety nan"),
    ],
    ids=str,
)
def test_numbers_out_of_range_are_refused(guided, settings, says):
    a_sequence()
    fails(InputError, says, plan=everything(edges=Path("cg")), pipeline=guided, **settings)


@pytest.mark.parametrize("name", ["output", "panel"])
def test_a_rate_that_a_format_cannot_play_is_refused(guided, name):
    a_sequence()
    made = replace(plan(edges=Path("cg")), **{name: Path("slow.gif")})
    says = "slow.gif: cannot play 60 frames per second"
    fails(InputError, says, plan=made, pipeline=guided, fps=60)


def test_a_ribbon_that_fits_into_no_room_is_refused(pipeline):
    for i in range(2):
        save(f"labels/{i}.png", scene(i, 32, 1024))
    fails(InputError, "is out of range", plan=plan(), pipeline=pipeline)


class StopError(Exception):
    """Of a network in the middle of the work."""


@pytest.mark.parametrize("after", range(FRAMES))
def test_a_failure_on_the_way_leaves_everything_as_it_was(guided, monkeypatch, after):
    a_sequence()
    generate, left = guided.generate, iter(range(after))

    def failing(labels, **settings):
        if next(left, None) is None:
            raise StopError
        return generate(labels, **settings)

    monkeypatch.setattr(guided, "generate", failing)
    fails(StopError, plan=everything(edges=Path("cg")), pipeline=guided)


def test_ctrl_c_leaves_nothing(pipeline):
    a_sequence()

    def interrupt(stage, done, total):
        if done == 2:
            raise KeyboardInterrupt

    made = plan(frames=Path("frames"), panel=Path("panel.gif"))
    before = sorted(Path().rglob("*"))
    with pytest.raises(KeyboardInterrupt):
        translate(made, pipeline, progress=interrupt)
    assert sorted(Path().rglob("*")) == before


@pytest.mark.parametrize(
    ("path", "pixels", "says"),
    [
        ("labels/frame_0002.png", scene(2, 64, 128), "is 128x64, the frames before are 64x32"),
        ("labels/frame_0002.png", rendered(2), "label-ids"),
        ("cg/frame_0002.png", rendered(2, 64, 64), "another aspect ratio"),
        ("cg/frame_0002.png", None, "No such file"),
        ("labels/frame_0002.png", None, "there is no such file"),
    ],
    ids=str,
)
def test_a_file_that_changes_after_the_plan_is_named_and_nothing_is_left(
    guided, path, pixels, says
):
    a_sequence()
    made = everything(edges=Path("cg"))
    if pixels is None:
        Path(path).unlink()
    else:
        save(path, pixels)
    fails(InputError, f"{path}: ", says, plan=made, pipeline=guided)


def test_a_video_that_cannot_be_finished_leaves_everything_as_it_was(guided, monkeypatch):
    a_sequence()
    made = everything(edges=Path("cg"))

    def full(self, *arguments):
        raise OSError(28, "No space left on device")

    monkeypatch.setattr("seg2vid_cli.video._Mp4Encoder.close", full)
    fails(VideoError, "cannot write ", "No space left", plan=made, pipeline=guided)


def test_older_frames_go_with_the_new_ones_and_other_files_stay(guided):
    a_sequence(2)
    Path("frames").mkdir()
    for name in ("frame_00007.png", "notes.txt"):
        Path("frames", name).write_bytes(b"older")
    translate(plan(edges=Path("cg"), frames=Path("frames")), guided)
    assert sorted(path.name for path in Path("frames").iterdir()) == [
        "clip.json",
        "frame_00000.png",
        "frame_00001.png",
        "notes.txt",
    ]
    assert read_metadata(Path("frames"))["tool"] == "seg2vid translate"


def test_frames_are_read_one_at_a_time(guided, monkeypatch):
    """Memory does not grow with their number: each is written before the next is read."""
    a_sequence()
    order = []
    read = TranslationPlan.read
    monkeypatch.setattr(
        TranslationPlan, "read", lambda self, i: order.append(("read", i)) or read(self, i)
    )
    monkeypatch.setattr(
        "seg2vid_cli.translate.encode_png", lambda frame: order.append("write") or b"png"
    )
    translate(plan(edges=Path("cg"), frames=Path("frames")), guided)
    assert order == [step for i in range(FRAMES) for step in (("read", i), "write")]
