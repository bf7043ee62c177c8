"""Whatever is wrong with an input or an option: exit code 2, one error, a hint, nothing written."""

from __future__ import annotations

import base64
import os
import re
import struct
import zlib
from dataclasses import asdict
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image
from test_cli_generate import SMALL, listing, photo, refused, save, scene, seg2vid

from seg2vid_cli.label_sets import ENCODINGS
from seg2vid_cli.recipe import read_recipe
from seg2vid_cli.video import open_video
from seg2vid_cli.weights.registry import read_registry


def forbid(name: str, mode: int) -> None:
    Path(name).chmod(mode)
    if os.access(name, os.R_OK | os.W_OK):
        pytest.skip("nothing is forbidden to this user")


@pytest.fixture(autouse=True)
def _here(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    save("street.png", scene())


def colours() -> np.ndarray:
    """The scene in Cityscapes colours."""
    table = np.zeros((256, 3), np.uint8)
    for colour, label in ENCODINGS["cityscapes-colours"].to_label_id.items():
        table[label] = colour
    return table[scene()]


# ---- label maps ----------------------------------------------------------------------------------


def a_photo(name):
    photo(96, 64).save(name)


def a_grey_photo(name):
    photo(96, 64).convert("L").save(name)


def a_jpeg(name):
    Image.fromarray(colours()).save(name, "JPEG")


def a_lossy_webp(name):
    Image.fromarray(colours()).save(name, "WEBP", quality=90)


def unknown_ids(name):
    save(name, np.where(scene() == 26, np.uint8(77), scene()))


def unknown_colours(name):
    picture = colours()
    picture[10:20, 10:30] = (130, 60, 130)
    save(name, picture)


def stray_colours(name):
    Image.fromarray(colours()).resize((96, 48), Image.Resampling.BILINEAR).save(name)


def swapped_colours(name):
    save(name, colours()[..., ::-1])


def see_through(name):
    alpha = np.where(scene() == 7, np.uint8(0), np.uint8(255))
    save(name, np.dstack([colours(), alpha]))


def nothing_known(name):
    save(name, np.full((32, 64), 255, np.uint8))


def one_pixel(name):
    save(name, np.full((1, 1), 7, np.uint8))


def empty(name):
    Path(name).touch()


def text(name):
    Path(name).write_text("road, sky\n")


def truncated(name):
    save(name, np.random.default_rng(0).choice([7, 11, 23], (64, 64)).astype(np.uint8))
    data = Path(name).read_bytes()
    Path(name).write_bytes(data[: len(data) // 2])


def absurd_png(name):
    def chunk(kind: bytes, data: bytes) -> bytes:
        return (
            struct.pack(">I", len(data)) + kind + data + struct.pack(">I", zlib.crc32(kind + data))
        )

    header = struct.pack(">IIBBBBB", 2**20, 2**20, 8, 0, 0, 0, 0)
    data = chunk(b"IHDR", header) + chunk(b"IDAT", zlib.compress(b"")) + chunk(b"IEND", b"")
    Path(name).write_bytes(b"\x89PNG\r\n\x1a\n" + data)


def absurd_npy(name):
    with Path(name).open("wb") as file:
        header = {"descr": "|u1", "fortran_order": False, "shape": (2**20, 2**20)}
        np.lib.format.write_array_header_1_0(file, header)


def an_npy_of_objects(name):
    np.save(name, np.full((32, 64), None, object), allow_pickle=True)


def an_npy_of_floats(name):
    np.save(name, scene().astype(np.float32))


def a_truncated_npy(name):
    np.save(name, scene())
    Path(name).write_bytes(Path(name).read_bytes()[:-9])


def an_npy_of_planes(name):
    np.save(name, np.zeros((20, 32, 64), np.uint8))


def a_folder(name):
    Path(name).mkdir()


def missing(name):
    pass


def several_pages(name):
    page = Image.fromarray(scene())
    page.save(name, save_all=True, append_images=[page])


BAD_MAPS = [
    (a_photo, "photo.png", "looks like a photo"),
    (a_grey_photo, "grey.png", "looks like a photo"),
    (a_jpeg, "map.jpg", "is a JPEG"),
    (a_jpeg, "map.png", "is a JPEG"),
    (a_lossy_webp, "map.webp", "lossy WebP"),
    (unknown_ids, "map.png", "77 "),
    (unknown_colours, "map.png", "(130, 60, 130) 200 px, nearest (128, 64, 128) road"),
    (stray_colours, "map.png", "resizing with interpolation"),
    (swapped_colours, "map.png", "red and blue are swapped"),
    (see_through, "map.png", "transparent"),
    (nothing_known, "map.png", "unlabelled"),
    (one_pixel, "map.png", "1x1, too small"),
    (empty, "map.png", "empty"),
    (empty, "map.npy", "empty"),
    (text, "map.png", "not a PNG"),
    (truncated, "map.png", "truncated"),
    (absurd_png, "map.png", "too large"),
    (absurd_npy, "map.npy", "too large"),
    (an_npy_of_objects, "map.npy", "Python objects"),
    (an_npy_of_floats, "map.npy", "floating-point"),
    (a_truncated_npy, "map.npy", "truncated"),
    (an_npy_of_planes, "map.npy", "(20, 32, 64)"),
    (a_folder, "maps", "folder"),
    (missing, "map.png", "no such file"),
    (missing, "none/map.png", "no such file"),
    (several_pages, "map.tiff", "2 pictures"),
]
IDS = [f"{make.__name__}-{Path(name).suffix}" for make, name, _ in BAD_MAPS]


@pytest.mark.parametrize("command", ["generate", "inspect"])
@pytest.mark.parametrize(("make", "name", "says"), BAD_MAPS, ids=IDS)
def test_a_bad_label_map(make, name, says, command):
    make(name)
    done = refused(command, name, "-o", "clip.mp4" if command == "generate" else "view.png")
    message, hint = done.err.splitlines()
    assert message.startswith(f"error: {name}: ")
    assert says in message
    assert hint.startswith("hint: ")


@pytest.mark.parametrize(
    "command",
    [
        "generate street.png",
        "generate other.png --instances street.png",
        "generate other.png --first-frame street.png",
        "generate -o a.mp4 --like clip.mp4",
        "inspect street.png",
        "inspect clip.mp4",
    ],
)
def test_an_input_without_permission(command):
    save("other.png", scene())
    a_foreign_clip("clip.mp4")
    name = "clip.mp4" if "clip.mp4" in command else "street.png"
    forbid(name, 0)
    before = listing()
    done = seg2vid(*command.split())
    assert (done.code, done.out) == (2, "")
    assert re.search(rf"{name}.*(ermission denied|not readable)", done.err)
    assert listing() == before


@pytest.mark.parametrize("command", ["generate", "inspect"])
@pytest.mark.parametrize(
    ("toml", "says"),
    [
        (None, "mine.toml: "),
        ("[classes\n", "mine.toml: "),
        ("", "mine.toml: "),
        ('[classes]\n7 = "no such class"\n', "no such class"),
        ('[classes]\n"1,2" = "road"\n', "1,2"),
        ("\x00\xff", "mine.toml: "),
    ],
)
def test_a_bad_encoding_file(toml, says, command):
    if toml is not None:
        Path("mine.toml").write_bytes(toml.encode("latin-1"))
    done = refused(command, "street.png", "--encoding", "mine.toml", says=(says, "hint: "))
    assert len(done.err.splitlines()) == 2


@pytest.mark.parametrize("command", ["generate", "inspect"])
def test_an_unknown_encoding_lists_the_known(command):
    refused(command, "street.png", "--encoding", "nope", says=("'nope'", *ENCODINGS))


def test_ids_that_the_asked_for_encoding_does_not_know():
    save("map.png", np.full((32, 64), 33, np.uint8))
    refused("generate", "map.png", "--encoding", "train-ids", says=("33 2,048 px", "train-ids"))


@pytest.mark.parametrize("command", ["generate", "inspect"])
def test_an_instance_map_of_another_size(command):
    save("objects.png", scene(32, 66))
    says = ("objects.png: is 66x32", "street.png is 64x32", "hint: ")
    refused(command, "street.png", "--instances", "objects.png", says=says)


@pytest.mark.parametrize("name", ["none.png", "text.png", "."])
def test_an_instance_map_that_cannot_be_read(name):
    text("text.png")
    refused("generate", "street.png", "--instances", name, says=(f"error: {name}: ", "hint: "))


# ---- pictures and clips --------------------------------------------------------------------------


def a_torn_photo(name):
    photo(64, 32).save(name, "PNG")
    data = Path(name).read_bytes()
    Path(name).write_bytes(data[: len(data) // 2])


@pytest.mark.parametrize(
    ("make", "name"),
    [(missing, "p.jpg"), (text, "p.jpg"), (empty, "p.jpg"), (a_folder, "p"), (a_torn_photo, "p")],
)
def test_a_bad_first_frame(make, name):
    make(name)
    refused("generate", "street.png", *SMALL, "--first-frame", name, says=(f"{name}: ", "hint: "))


def test_a_first_frame_beyond_all_measure():
    absurd_png("p.png")
    refused("generate", "street.png", *SMALL, "--first-frame", "p.png", says=("p.png: ",))


def a_foreign_clip(name):
    with open_video(Path(name), size_hw=(32, 64), fps=10) as video:
        video.write(np.zeros((32, 64, 3), np.uint8))


def a_torn_clip(name):
    a_foreign_clip(name)
    Path(name).write_bytes(Path(name).read_bytes()[:600])


def a_clip_of_another_version(name):
    note = {"tool": "seg2vid", "version": "99.0", "seed": 1}
    with open_video(Path(name), size_hw=(32, 64), fps=10, metadata=note) as video:
        video.write(np.zeros((32, 64, 3), np.uint8))


@pytest.mark.parametrize(
    ("make", "name", "says"),
    [
        (missing, "c.mp4", "c.mp4"),
        (a_folder, "c.mp4", "c.mp4"),
        (empty, "c.mp4", "c.mp4"),
        (empty, "c.gif", "c.gif"),
        (text, "c.mp4", "c.mp4"),
        (text, "c.webp", "c.webp"),
        (text, "c.txt", "c.txt"),
        (a_torn_clip, "c.mp4", "c.mp4"),
        (a_foreign_clip, "c.mp4", "does not say how it was made"),
        (a_foreign_clip, "c.gif", "does not say how it was made"),
        (a_clip_of_another_version, "c.mp4", "99.0"),
    ],
)
def test_a_clip_that_cannot_be_repeated(make, name, says):
    make(name)
    refused("generate", "--like", name, "-o", "again.mp4", says=(says, name, "hint: "))


def a_bomb() -> str:
    absurd_png("bomb.png")
    return base64.b64encode(Path("bomb.png").read_bytes()).decode()


@pytest.mark.parametrize(
    "wrong",
    [
        {"seed": "x"},
        {"frames": None},
        {"size": 3},
        {"quality": []},
        {"labels_png": None},
        {"labels_png": "%"},
        {"labels_png": base64.b64encode(b"no picture").decode()},
        pytest.param({"labels_png": a_bomb}, id="a bomb"),
        {"fit": "crop"},
        {"frames": 0},
        {"size": [1, 1]},
        {"weights": "nope"},
    ],
    ids=str,
)
def test_a_clip_with_nonsense_in_its_note(wrong):
    assert seg2vid("generate", "street.png", *SMALL, "--frames", 1, "-o", "made.mp4").code == 0
    note = {**asdict(read_recipe(Path("made.mp4"))), **wrong}
    note = {key: value() if callable(value) else value for key, value in note.items()}
    with open_video(Path("c.mp4"), size_hw=(32, 64), fps=10, metadata=note) as video:
        video.write(np.zeros((32, 64, 3), np.uint8))
    refused("generate", "--like", "c.mp4", "-o", "again.mp4")


def test_like_alone_needs_an_output():
    a_foreign_clip("c.mp4")
    refused("generate", "--like", "c.mp4", says=("no output", "-o"))


def test_a_label_map_is_needed():
    refused("generate", "-o", "a.mp4", says=("no label map", "hint: "))


# ---- outputs -------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("arguments", "says"),
    [
        ("-o clip.avi", "clip.avi: unknown file extension"),
        ("-o clip", "clip: unknown file extension"),
        ("-o none/clip.mp4", "folder"),
        ("-o street.png/clip.mp4", "folder"),
        ("-o folder.mp4", "folder.mp4 is a folder"),
        ("-o map.webp", "map.webp: is also an input"),
        ("-o ./maps/../map.webp", "is also an input"),
        ("--panel street.png", "street.png: is also an input"),
        ("--preview street.png", "street.png: is also an input"),
        ("--instances objects.png --preview objects.png", "objects.png: is also an input"),
        ("--preview sheet.jpg", "sheet.jpg: unknown file extension"),
        ("--panel none/panel.mp4", "folder"),
        ("--panel same.mp4 -o same.mp4", "same.mp4: is also"),
        ("--save-frames street.png", "street.png"),
        ("--save-frames none/frames", "folder"),
        ("--save-frames a --save-flow a", "a: is also"),
        ("--save-visibility maps --save-flow ./maps", "maps: is also"),
    ],
)
def test_an_output_that_cannot_be_written(arguments, says):
    Path("folder.mp4").mkdir()
    Path("maps").mkdir()
    Image.fromarray(scene()).save("map.webp", lossless=True)
    save("objects.png", scene())
    labels = "map.webp" if "map.webp" in arguments else "street.png"
    refused("generate", labels, *arguments.split(), says=(says, "hint: "))


def test_saved_frames_leave_the_label_map_alone():
    save("frame_00000.png", scene())
    command = ("generate", "frame_00000.png", *SMALL, "-o", "a.mp4", "--save-frames", ".")
    refused(*command, says=("frame_00000.png",))


@pytest.mark.parametrize(
    "option",
    ["-o locked/a.mp4", "--save-frames locked", "--save-flow locked/f", "--panel locked/p.gif"],
)
def test_a_folder_without_permission(option):
    Path("locked").mkdir()
    forbid("locked", 0o500)
    refused("generate", "street.png", *option.split(), says=("locked", "hint: "))


@pytest.mark.parametrize("options", [(), ("--size", "512x512")], ids=str)
def test_a_ribbon_has_no_size_that_fits(options):
    save("ribbon.png", scene(16, 2400))
    refused("generate", "ribbon.png", *options, says=("32", "hint: "))


# ---- options -------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("arguments", "says"),
    [
        ("--size 0x0", "0x0"),
        ("--size 31x31", "31x31"),
        ("--size 33x33", "33x33"),
        ("--size 64", "'64'"),
        ("--size abc", "'abc'"),
        ("--size -64x32", "'-64x32'"),
        ("--size 64x32x3", "'64x32x3'"),
        ("--size 9999x9999", "9999x9999"),
        ("--size 99999999x99999999", "99999999x99999999"),
        ("--fit crop", "'crop'"),
        ("--frames 0", "frames 0"),
        ("--frames -1", "frames -1"),
        ("--frames 100001", "frames 100001"),
        ("--fps 0", "0 frames per second"),
        ("--fps -1", "-1 "),
        ("--fps nan", "nan "),
        ("--fps inf", "inf "),
        ("--fps 51 -o a.gif", "51 frames per second"),
        ("--quality 11", "quality 11"),
        ("--quality -1", "quality -1"),
        ("--quality nan", "quality nan"),
        ("--seed -1", "seed -1"),
        ("--seed 9223372036854775808", "seed 9223372036854775808"),
        ("--variant -1", "variant -1"),
        ("--device nope", "'nope'"),
        ("--device meta", "'meta'"),
        ("--device cuda:99", "'cuda:99'"),
        pytest.param(
            *("--device cuda", "'cuda'"),
            marks=pytest.mark.skipif(torch.cuda.is_available(), reason="there is a CUDA GPU"),
        ),
        ("--precision nope", "'nope'"),
        ("--precision fp64", "'fp64'"),
        ("--weights nope", "'nope'"),
        ("--weights .", "bundle.json"),
        ("--weights street.png", "street.png"),
    ],
)
def test_an_option_out_of_range(arguments, says):
    done = refused("generate", "street.png", *arguments.split(), "--save-frames", "frames")
    message, hint = done.err.splitlines()
    assert says in message
    assert hint.startswith("hint: ")


def test_unknown_weights_list_the_known():
    refused("generate", "street.png", "--weights", "nope", says=("known", *read_registry()))
