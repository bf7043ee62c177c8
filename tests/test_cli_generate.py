"""`seg2vid generate` from the shell's side, and what all commands share: help, codes, signals."""

from __future__ import annotations

import hashlib
import io
import json
import os
import pickle
import re
import shutil
import signal
import struct
import subprocess
import sys
import threading
import time
from collections.abc import Callable
from contextlib import redirect_stderr, redirect_stdout
from dataclasses import dataclass
from pathlib import Path
from typing import TextIO

import imageio_ffmpeg
import numpy as np
import pytest
import torch
from PIL import Image
from safetensors.torch import load_file, save_file
from typer.main import get_command

import seg2vid_cli
from seg2vid_cli import Outputs, Pipeline, generate_file, read_recipe
from seg2vid_cli.cli import console
from seg2vid_cli.cli.app import app
from seg2vid_cli.device import resolve_compute
from seg2vid_cli.video import read_metadata
from seg2vid_cli.weights.registry import read_registry

torch.set_num_threads(1)

STREET = read_registry()["street"]
STREET_FOLDER = STREET.local_folder()
BUNDLE = json.loads((STREET_FOLDER / "bundle.json").read_text(encoding="utf-8"))
SIZE, FRAMES = (64, 32), 3
SMALL = ("--size", "64x32", "--frames", FRAMES, "--device", "cpu")
EXTRAS = (
    *("--save-frames", "frames", "--save-flow", "flow", "--save-visibility", "seen"),
    *("--panel", "panel.mp4", "--preview", "sheet.png"),
)
ENVIRONMENT = {
    **{name: os.environ[name] for name in os.environ if name not in ("FORCE_COLOR", "PY_COLORS")},
    "OMP_NUM_THREADS": "1",
    "COLUMNS": "200",
    "PYTHONPATH": str(Path(seg2vid_cli.__file__).parent.parent),
}
LITERAL_NAMES = [
    "my street",
    "[bold]street[/bold]",
    "[/]",
    "straße 街",
    "-dash",
    ":smile:",
    r"a\[b]",
]


@dataclass(frozen=True)
class Done:
    code: int
    out: str
    err: str


def seg2vid(*arguments: object, screen: TextIO | None = None) -> Done:
    """Run the command line in this process: stdout is no terminal, stderr only if given."""
    out, err = io.StringIO(), io.StringIO()
    words, before = [str(word) for word in arguments], signal.getsignal(signal.SIGTERM)
    with (
        pytest.MonkeyPatch.context() as patch,
        redirect_stdout(out),
        redirect_stderr(screen or err),
    ):
        for name in ("FORCE_COLOR", "NO_COLOR", "TTY_COMPATIBLE", "TTY_INTERACTIVE"):
            patch.delenv(name, raising=False)
        for name, value in (("TERM", "xterm"), ("COLUMNS", "200"), ("LINES", "50")):
            patch.setenv(name, value)
        if screen:  # found out once, when the console is made
            patch.setattr(console.err, "is_interactive", True)
        try:
            code = console.run(lambda: app(words, prog_name="seg2vid"))
        finally:
            signal.signal(signal.SIGTERM, before)
    return Done(code, out.getvalue(), err.getvalue())


def listing(folder: Path | str = ".") -> dict[str, tuple[int, int] | None]:
    """Everything below a folder, hidden things too, with size and time of change."""
    found = {}
    for path in sorted(Path(folder).rglob("*")):
        stat = path.lstat()
        found[str(path)] = None if path.is_dir() else (stat.st_size, stat.st_mtime_ns)
    return found


def refused(*arguments: object, says: tuple[str, ...] = (), code: int = 2) -> Done:
    """Run a command that must end with one `error:` line, and write nothing."""
    before = listing()
    done = seg2vid(*arguments)
    assert (done.code, done.out) == (code, ""), done.err
    assert done.err.startswith("error: ")
    assert done.err.count("error: ") == 1
    for text in says:
        assert text in done.err
    assert listing() == before
    return done


def facts(report: str) -> dict[str, str]:
    """The two columns of a report; a row without a name belongs to the one above."""
    found: dict[str, str] = {}
    name = ""
    for line in report.splitlines():
        first, value = re.fullmatch(r"(.*?)  +(.*)", line.rstrip()).groups()
        name = first or name
        found[name] = f"{found[name]}\n{value}" if name in found else value
    return found


def scene(height: int = 32, width: int = 64) -> np.ndarray:
    """Sky, houses, a road and a car, as Cityscapes label ids."""
    ids = np.full((height, width), 11, np.uint8)
    ids[: height // 4] = 23
    ids[height * 5 // 8 :] = 7
    ids[height // 2 : height * 3 // 4, width // 3 : width // 2] = 26
    return ids


def photo(width: int, height: int) -> Image.Image:
    noise = np.random.default_rng(0).integers(0, 256, (4, 8, 3), dtype=np.uint8)
    return Image.fromarray(noise).resize((width, height), Image.Resampling.BICUBIC)


def save(name: str, ids: np.ndarray) -> str:
    Image.fromarray(ids).save(name)
    return name


@dataclass(frozen=True)
class Video:
    codec: str
    pixels: str
    fps: float
    frames: np.ndarray

    @property
    def size(self) -> tuple[int, int]:
        return self.frames.shape[2], self.frames.shape[1]


def read_back(path: Path | str) -> Video:
    """What ffmpeg says of a video, and its frames."""
    command = [imageio_ffmpeg.get_ffmpeg_exe(), "-hide_banner", "-i", str(Path(path).resolve())]
    command += ["-fps_mode", "passthrough", "-f", "rawvideo", "-pix_fmt", "rgb24", "-"]
    done = subprocess.run(command, stdin=subprocess.DEVNULL, capture_output=True, check=True)
    pattern = rb"Video: (\w+).*?, (\w+).*?, (\d+)x(\d+).*?, ([\d.]+) fps"
    codec, pixels, width, height, fps = re.search(pattern, done.stderr).groups()
    frames = np.frombuffer(done.stdout, np.uint8).reshape(-1, int(height), int(width), 3)
    return Video(codec.decode(), pixels.decode(), float(fps), frames)


def picture(path: Path | str) -> Image.Image:
    with Image.open(path) as image:
        image.load()
        return image


@pytest.fixture(autouse=True)
def _here(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    save("street.png", scene())


@pytest.fixture(scope="module")
def made(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with `clip.mp4` and every other output, and the report as `report.txt`."""
    folder = tmp_path_factory.mktemp("made")
    with pytest.MonkeyPatch.context() as patch:
        patch.chdir(folder)
        save("street.png", scene())
        done = seg2vid("generate", "street.png", "-o", "clip.mp4", *SMALL, "--seed", 5, *EXTRAS)
    assert (done.code, done.err) == (0, "")
    (folder / "report.txt").write_text(done.out)
    return folder


# ---- help ----------------------------------------------------------------------------------------


def started(code: str, *arguments: str) -> tuple[str, float]:
    """Run Python code in a process of its own: its stderr, and its CPU time in seconds."""
    before = os.times()
    done = subprocess.run(
        [sys.executable, "-c", code, *arguments], env=ENVIRONMENT, capture_output=True, text=True
    )
    after = os.times()
    spent = after.children_user + after.children_system
    return done.stderr, spent - before.children_user - before.children_system


@pytest.mark.skipif(sys.platform == "win32", reason="needs the CPU time of child processes")
def test_help_never_loads_torch_and_is_quick():
    helped = (
        "import sys; from seg2vid_cli.cli import main\n"
        "try: main()\n"
        "finally: print(*sorted({'torch', 'cv2'} & set(sys.modules)), file=sys.stderr)"
    )
    bare = "import typer, rich.console, rich.table, rich.progress"
    for command in ([], ["generate"], ["inspect"], ["doctor"], ["train"], ["train", "motion"]):
        # As a ratio of two that run side by side: on busy machines the processor's time for the
        # same work grows, and not evenly. Torch alone would be ten times the bare imports.
        ratios = []
        while len(ratios) < 5 and min(ratios, default=9.0) >= 4.5:
            (loaded, seconds), (_, least) = started(helped, *command, "--help"), started(bare)
            assert loaded.split() == [], command
            ratios.append(seconds / least)
        assert min(ratios) < 4.5, (command, ratios)


def test_help_of_generate_has_panels_and_exit_codes():
    done = seg2vid("generate", "--help")
    assert done.code == 0
    for panel in ("Input", "Sample", "Output", "Running"):
        assert re.search(rf"─ {panel} ─", done.out)


@pytest.mark.parametrize("command", [[], ["generate"], ["inspect"], ["doctor"]], ids=str)
def test_help_names_the_exit_codes(command):
    done = seg2vid(*command, "--help")
    assert re.search(r"Exit codes: 0 \w+.*\b1 \w+.*\b2 \w+.*\b130 \w+", done.out)


def test_every_command_and_option_has_help_text():
    commands, bare = [get_command(app)], []
    while commands:
        command = commands.pop()
        commands += getattr(command, "commands", {}).values()
        bare += [] if command.help else [command.name]
        bare += [f"{command.name} {p.name}" for p in command.params if not getattr(p, "help", None)]
    assert bare == []


def test_shell_completion_can_be_installed_and_knows_the_commands(monkeypatch):
    assert {"--install-completion", "--show-completion"} <= set(seg2vid("--help").out.split())
    monkeypatch.setenv("_SEG2VID_COMPLETE", "complete_bash")
    monkeypatch.setenv("COMP_WORDS", "seg2vid gen")
    monkeypatch.setenv("COMP_CWORD", "1")
    assert seg2vid().out.split() == ["generate"]


def test_the_version_is_the_package_s():
    assert seg2vid("--version").out == f"seg2vid {seg2vid_cli.__version__}\n"


# ---- exit codes ----------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "arguments",
    [
        "",
        "nonsense",
        "--nonsense",
        "generate street.png --nonsense",
        "generate street.png --seed x",
        "generate street.png --seed 1.5",
        "generate street.png --frames many",
        "generate street.png --fps fast",
        "generate street.png other.png",
        "generate street.png --seed",
        "generate",
        "inspect",
    ],
)
def test_wrong_usage_is_2(arguments):
    before = listing()
    assert seg2vid(*arguments.split()).code == 2
    assert listing() == before


def damage_file(folder: Path) -> None:
    (folder / "motion.safetensors").write_bytes(b"no tensors in here")


def damage_nothing_left(folder: Path) -> None:
    shutil.copy(folder / "refine.safetensors", folder / "motion.safetensors")


def damage_missing(folder: Path) -> None:
    (folder / "motion.safetensors").unlink()


def damage_json(folder: Path) -> None:
    (folder / "bundle.json").write_text("{")


def damage_fact(folder: Path) -> None:
    bundle = json.loads((folder / "bundle.json").read_text())
    del bundle["fps"]
    (folder / "bundle.json").write_text(json.dumps(bundle))


def damage_header_length(folder: Path) -> None:
    data = (folder / "motion.safetensors").read_bytes()
    (folder / "motion.safetensors").write_bytes(struct.pack("<Q", 7) + data[8:])


def damage_header_size(folder: Path) -> None:
    data = (folder / "motion.safetensors").read_bytes()
    (folder / "motion.safetensors").write_bytes(struct.pack("<Q", 1 << 40) + data[8:])


def damage_offsets(folder: Path) -> None:
    path = folder / "motion.safetensors"
    data = path.read_bytes()
    (length,) = struct.unpack("<Q", data[:8])
    header = json.loads(data[8 : 8 + length])
    offsets = [header[name]["data_offsets"] for name in header if name != "__metadata__"]
    offsets[1][:] = [offsets[0][0], offsets[0][0] + offsets[1][1] - offsets[1][0]]
    text = json.dumps(header).encode()
    path.write_bytes(struct.pack("<Q", len(text)) + text + data[8 + length :])


def damage_end(folder: Path) -> None:
    path = folder / "motion.safetensors"
    path.write_bytes(path.read_bytes()[:-1])


def change_tensors(folder: Path, change: Callable[[dict[str, torch.Tensor]], object]) -> None:
    tensors = load_file(folder / "motion.safetensors")
    change(tensors)
    save_file(tensors, folder / "motion.safetensors")


def damage_dtype(folder: Path) -> None:
    name = "merge.main.0.weight"
    change_tensors(folder, lambda t: t.update({name: t[name].int()}))


def damage_fp8(folder: Path) -> None:
    name, dtype = "merge.main.0.weight", torch.float8_e4m3fn
    change_tensors(folder, lambda t: t.update({name: t[name].to(dtype)}))


def damage_shape(folder: Path) -> None:
    change_tensors(folder, lambda t: t.update({"latent_fc.bias": t["latent_fc.bias"][:-1].clone()}))


def damage_key(folder: Path) -> None:
    change_tensors(folder, lambda t: t.pop("latent_fc.bias"))


def damage_more_keys(folder: Path) -> None:
    change_tensors(folder, lambda t: t.update({"posterior.bias": torch.zeros(3)}))


def damage_nan(folder: Path) -> None:
    change_tensors(folder, lambda t: t["latent_fc.bias"].fill_(float("nan")))


class Dangerous:
    """Would be run by anything that unpickles it."""

    def __reduce__(self) -> tuple[object, ...]:
        return (Path.touch, (Path("was-run"),))


def damage_pickle(folder: Path) -> None:
    (folder / "motion.safetensors").write_bytes(pickle.dumps(Dangerous()))


def damage_torch_pickle(folder: Path) -> None:
    torch.save(Dangerous(), folder / "motion.safetensors")


@pytest.mark.parametrize(
    ("damage", "where"),
    [
        (damage_file, "motion.safetensors"),
        (damage_nothing_left, "motion.safetensors"),
        (damage_header_length, "motion.safetensors"),
        (damage_header_size, "motion.safetensors"),
        (damage_offsets, "motion.safetensors"),
        (damage_end, "motion.safetensors"),
        (damage_dtype, "motion.safetensors"),
        (damage_fp8, "motion.safetensors"),
        (damage_shape, "motion.safetensors"),
        (damage_key, "motion.safetensors"),
        (damage_more_keys, "motion.safetensors"),
        (damage_nan, "motion.safetensors"),
        (damage_pickle, "motion.safetensors"),
        (damage_torch_pickle, "motion.safetensors"),
        (damage_missing, "motion.safetensors"),
        (damage_json, "bundle.json"),
        (damage_fact, "bundle.json"),
    ],
)
def test_damaged_weights_are_1(damage, where, tiny_bundle):
    shutil.copytree(tiny_bundle, "weights")
    damage(Path("weights"))
    Path("out.mp4").write_bytes(b"old")
    command = ("generate", "street.png", "-o", "out.mp4", *SMALL, "--weights", "weights")
    refused(*command, "--save-frames", "frames", says=(where,), code=1)


@pytest.mark.skipif(sys.platform == "win32", reason="needs a shell script in the place of ffmpeg")
@pytest.mark.parametrize(
    ("script", "says"),
    [
        ("exit 1", "code 1"),
        ("head -c 99 >/dev/null; echo No space left >&2; exit 28", "No space left"),
        ("cat >/dev/null", "read back"),
    ],
    ids=["at once", "in the middle", "without a file"],
)
def test_an_encoder_that_cannot_write_is_1(script, says, monkeypatch):
    ffmpeg = Path("ffmpeg.sh").resolve()
    ffmpeg.write_text(f"#!/bin/sh\n{script}\n")
    ffmpeg.chmod(0o755)
    Path("out.mp4").write_bytes(b"old")
    monkeypatch.setenv("IMAGEIO_FFMPEG_EXE", str(ffmpeg))
    command = ("generate", "street.png", "-o", "out.mp4", *SMALL, "--save-frames", "frames")
    refused(*command, says=("out.mp4", says), code=1)


@pytest.mark.skipif(sys.platform == "win32", reason="needs POSIX signals")
@pytest.mark.parametrize(("sent", "code"), [(signal.SIGINT, 130), (signal.SIGTERM, 143)], ids=str)
def test_a_signal_in_the_middle_leaves_everything_as_it_was(sent, code):
    Path("out.mp4").write_bytes(b"old")
    before = listing()
    # A shell that starts tests in the background has them ignore SIGINT.
    program = (
        "import signal; signal.signal(signal.SIGINT, signal.default_int_handler)\n"
        "from seg2vid_cli.cli import main; main()"
    )
    command = ["generate", "street.png", "-o", "out.mp4", "--size", "64x32", "--frames", "9999"]
    process = subprocess.Popen(
        [sys.executable, "-c", program, *command, "--save-frames", "frames"],
        env=ENVIRONMENT,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    )
    with process:
        try:
            end = time.monotonic() + 60
            while not [*Path().glob(".seg2vid-*/files/frame_00009.png")]:
                assert process.poll() is None, process.communicate()[1]
                assert time.monotonic() < end
                time.sleep(0.05)
            process.send_signal(sent)
            out, err = process.communicate(timeout=60)
        finally:
            process.kill()
    assert (process.returncode, out) == (code, "")
    assert "Traceback" not in err
    assert listing() == before


# ---- the clip, the report ------------------------------------------------------------------------


def test_the_mp4_reads_back_as_asked_for(made):
    video = read_back(made / "clip.mp4")
    assert (video.codec, video.pixels, video.fps) == ("h264", "yuv420p", BUNDLE["fps"])
    assert (video.size, len(video.frames)) == (SIZE, FRAMES)


def test_the_report_says_what_was_done_and_where_each_choice_came_from(made):
    report = facts((made / "report.txt").read_text())
    assert report["label map"] == "street.png"
    assert re.fullmatch(r"label-ids\. Cityscapes label ids.*carla-ids.*\.", report["read as"])
    assert report["classes"].startswith("road 3")
    assert report["weights"] == "street (default)"
    assert report["seed"] == "5 (option)"
    assert report["variant"] == "0 (default)"
    assert report["size"] == "64x32 (option, keep default)"
    assert report["length"] == f"3 frames (option) at {BUNDLE['fps']:g} fps (weights): 0.2 s"
    precision = resolve_compute("cpu").precision  # bf16 where this CPU computes in it
    assert re.fullmatch(rf"cpu, {precision} \(device asked for.*\)", report["ran on"])
    written = report["wrote"].splitlines()
    assert written == ["clip.mp4", "frames", "flow", "seen", "panel.mp4", "sheet.png"]


def test_without_options_the_report_names_defaults_and_weights():
    report = facts(seg2vid("generate", "street.png", "--frames", 1).out)
    assert report["seed"] == "0 (default)"
    assert report["size"] == f"{STREET.native_size} (weights, keep default)"
    assert "device found" in report["ran on"]


def test_json_is_all_there_is_on_stdout():
    done = seg2vid("generate", "street.png", *SMALL, "--seed", 5, "--json")
    result = json.loads(done.out)
    assert (done.code, done.err) == (0, "")
    assert result["outputs"] == {"video": "street.mp4"}
    assert result["labels"]["encoding"] == "label-ids"
    assert result["labels"]["reason"]
    recipe = result["recipe"]
    assert (recipe["weights"], recipe["seed"], recipe["size"]) == ("street", 5, [64, 32])
    hashes = {Path(f.name).stem: f.sha256 for f in STREET.files}
    assert recipe["weights_sha256"] == hashes


def test_quiet_prints_nothing(capfd):
    done = seg2vid("generate", "street.png", *SMALL, "--quiet")
    assert done == Done(0, "", "")
    assert tuple(capfd.readouterr()) == ("", "")
    assert Path("street.mp4").is_file()


@pytest.mark.skipif(sys.platform == "win32", reason="needs pseudo-terminals")
@pytest.mark.parametrize(
    ("option", "shown"), [((), True), (("--quiet",), False), (("--json",), False)], ids=str
)
def test_progress_is_for_terminals(option, shown):
    controller, terminal = os.openpty()
    seen: list[bytes] = []

    def watch() -> None:
        try:
            while data := os.read(controller, 4096):
                seen.append(data)
        except OSError:  # the other side has closed
            pass

    watcher = threading.Thread(target=watch)
    watcher.start()
    with os.fdopen(terminal, "w") as screen:
        done = seg2vid("generate", "street.png", *SMALL, *option, screen=screen)
    watcher.join()
    os.close(controller)
    assert done.code == 0
    assert "\x1b" not in done.out
    assert [stage in b"".join(seen) for stage in (b"first frame", b"motion")] == [shown, shown]


@pytest.mark.parametrize("labels", ["street.png", "maps/street.labelIds.png"])
def test_the_default_output_is_here_and_named_like_the_label_map(labels):
    Path("maps").mkdir()
    save(labels, scene())
    before = listing()
    assert seg2vid("generate", labels, *SMALL, "--frames", 1).code == 0
    assert set(listing()) - set(before) == {"street.mp4"}


# ---- every output --------------------------------------------------------------------------------


def test_saved_frames_are_those_of_the_video(made):
    shown = read_back(made / "clip.mp4").frames
    files = sorted((made / "frames").glob("*.png"))
    assert [file.name for file in files] == [f"frame_{i:05d}.png" for i in range(FRAMES)]
    for file, frame in zip(files, shown, strict=True):
        saved = np.asarray(picture(file))
        assert saved.shape == frame.shape
        blocks = (saved.astype(float) - frame).reshape(4, 8, 8, 8, 3).mean(axis=(1, 3))
        assert abs(blocks).mean() < 8  # compression, and colours at half the size


def test_saved_flows_are_middlebury_files_and_pictures_in_both_directions(made):
    names = {
        f"{way}_{i:05d}.{end}"
        for way in ("backward", "forward")
        for i in range(1, FRAMES)
        for end in ("flo", "png")
    }
    assert {file.name for file in (made / "flow").iterdir()} == names | {"clip.json"}
    for file in (made / "flow").glob("*.flo"):
        data = file.read_bytes()
        assert struct.unpack("<fii", data[:12]) == (202021.25, 64, 32)
        assert np.isfinite(np.frombuffer(data[12:], "<f4").reshape(32, 64, 2)).all()
        assert picture(file.with_suffix(".png")).size == SIZE


def test_saved_visibility_is_grey_pictures(made):
    files = sorted((made / "seen").glob("*.png"))
    assert [file.name for file in files] == [f"visibility_{i:05d}.png" for i in range(1, FRAMES)]
    assert {(picture(file).mode, picture(file).size) for file in files} == {("L", SIZE)}


def test_the_panel_is_a_video_with_five_pictures_side_by_side(made):
    panel = read_back(made / "panel.mp4")
    assert len(panel.frames) == FRAMES
    assert panel.size[0] > 5 * 64
    assert panel.size[1] > 32


def test_the_preview_holds_label_map_and_frames(made):
    sheet = picture(made / "sheet.png")
    assert sheet.format == "PNG"
    assert sheet.width >= 4 * 64


def test_every_output_knows_the_recipe(made):
    recipe = read_metadata(made / "clip.mp4")
    assert recipe["seed"] == 5
    for name in ("panel.mp4", "frames", "flow", "seen"):
        assert read_metadata(made / name) == recipe


@pytest.mark.parametrize(("name", "format"), [("a.gif", "GIF"), ("A.WEBP", "WEBP")])
def test_gif_and_webp_are_animations(name, format):
    assert seg2vid("generate", "street.png", *SMALL, "-o", name, "--fps", 10).code == 0
    with Image.open(name) as image:
        assert (image.format, image.size, image.n_frames) == (format, SIZE, FRAMES)
        image.seek(1)
        image.load()
        assert image.info["duration"] == 100
    assert read_recipe(Path(name)).fps == 10


# ---- samples: length, rate, size, first frame ----------------------------------------------------


def test_one_frame_is_a_video_too():
    assert seg2vid("generate", "street.png", *SMALL, "--frames", 1, *EXTRAS).code == 0
    assert read_back("street.mp4").frames.shape == (1, 32, 64, 3)
    assert [path.name for path in Path("frames").glob("*.png")] == ["frame_00000.png"]
    assert [path.name for path in Path("flow").iterdir()] == ["clip.json"]


def test_a_clip_may_be_longer_than_two_passes():
    frames = 2 * BUNDLE["stages"]["motion"]["config"]["num_frames"] + 3
    command = ("generate", "street.png", *SMALL, "--frames", frames, "--save-flow", "flow")
    assert seg2vid(*command).code == 0
    assert len(read_back("street.mp4").frames) == frames
    assert len([*Path("flow").glob("backward_*.flo")]) == frames - 1


@pytest.mark.parametrize("fps", [0.5, 7.5, 60])
def test_the_rate_is_the_one_asked_for(fps):
    assert seg2vid("generate", "street.png", *SMALL, "--fps", fps).code == 0
    assert read_back("street.mp4").fps == fps


@pytest.mark.parametrize(
    ("shape", "options", "size"),
    [
        ((32, 64), "--size 64x64", (64, 32)),
        ((32, 64), "--size 64x64 --fit keep", (64, 32)),
        ((32, 64), "--size 64x64 --fit stretch", (64, 64)),
        ((32, 64), "--size 36X34 --fit stretch", (36, 34)),
        ((31, 47), "--size 64x64", (64, 42)),
        ((47, 31), "--size 64x64", (42, 64)),
        ((47, 31), "--size 98x34 --fit stretch", (98, 34)),
        ((500, 20), "--size 64x800", (32, 800)),
    ],
)
def test_the_size_is_room_to_keep_inside_or_to_fill(shape, options, size):
    save("map.png", scene(*shape))
    assert seg2vid("generate", "map.png", "--frames", 2, *options.split()).code == 0
    assert read_back("map.mp4").size == size


@pytest.mark.parametrize("shape", [(31, 47), (333, 100), (17, 401)], ids=str)
def test_without_a_size_the_aspect_is_the_map_s_and_the_area_the_weights(shape):
    save("map.png", scene(*shape))
    assert seg2vid("generate", "map.png", "--frames", 1).code == 0
    width, height = read_back("map.mp4").size
    native = BUNDLE["size_hw"][0] * BUNDLE["size_hw"][1]
    assert width * height == pytest.approx(native, rel=0.05)
    assert width / height == pytest.approx(shape[1] / shape[0], rel=0.05)


def test_a_photo_becomes_the_first_frame():
    photo(256, 128).save("photo.png")
    command = ("generate", "street.png", *SMALL, "--first-frame", "photo.png")
    assert seg2vid(*command, "--save-frames", "frames").code == 0
    expected = photo(256, 128).resize(SIZE, Image.Resampling.LANCZOS)
    first = np.asarray(picture("frames/frame_00000.png"))
    assert np.array_equal(first, np.asarray(expected))
    digest = hashlib.sha256(Path("photo.png").read_bytes()).hexdigest()
    assert read_recipe(Path("street.mp4")).first_frame_sha256 == digest


def test_a_photo_of_another_aspect_is_refused():
    photo(100, 100).save("photo.png")
    command = ("generate", "street.png", *SMALL, "--first-frame", "photo.png")
    refused(*command, says=("photo.png: 100x100", "64x32", "hint: crop"))


# ---- --like --------------------------------------------------------------------------------------


def test_like_alone_gives_the_same_bytes_and_says_where_from(made):
    done = seg2vid("generate", "--like", made / "clip.mp4", "-o", "again.mp4")
    assert (done.code, done.err) == (0, "")
    assert Path("again.mp4").read_bytes() == (made / "clip.mp4").read_bytes()
    report = facts(done.out)
    assert report["label map"] == "stored in the clip"
    assert report["seed"] == "5 (--like)"
    assert report["size"] == "64x32 (--like, keep --like)"
    assert report["weights"] == "street (--like)"


def test_like_with_the_same_label_map_gives_the_same_bytes(made):
    done = seg2vid("generate", "street.png", "--like", made / "clip.mp4", "-o", "again.mp4")
    assert (done.code, done.err) == (0, "")
    assert Path("again.mp4").read_bytes() == (made / "clip.mp4").read_bytes()


@pytest.mark.parametrize("name", ["a.gif", "a.webp"])
def test_like_works_with_animations(name):
    options = "--variant 3 --fps 10 --quality 5 --size 64x48 --fit stretch --precision fp32"
    assert seg2vid("generate", "street.png", *SMALL, "-o", name, *options.split()).code == 0
    assert seg2vid("generate", "--like", name, "-o", f"again-{name}").code == 0
    assert Path(f"again-{name}").read_bytes() == Path(name).read_bytes()


def test_an_option_beats_like(made):
    done = seg2vid("generate", "--like", made / "clip.mp4", "-o", "other.mp4", "--seed", 0)
    assert done.code == 0
    report = facts(done.out)
    assert report["seed"] == "0 (option)"
    assert report["length"].startswith("3 frames (--like)")
    old, new = read_recipe(made / "clip.mp4"), read_recipe(Path("other.mp4"))
    changed = {name for name in vars(old) if getattr(old, name) != getattr(new, name)}
    assert changed == {"seed"}


def test_like_takes_another_label_map(made):
    save("other.png", scene()[:, ::-1])
    done = seg2vid("generate", "other.png", "--like", made / "clip.mp4")
    assert done.code == 0
    assert "the label map differs" in done.err
    old, new = read_recipe(made / "clip.mp4"), read_recipe(Path("other.mp4"))
    changed = {name for name in vars(old) if getattr(old, name) != getattr(new, name)}
    assert changed == {"labels_sha256", "labels_png"}


def test_the_clip_to_repeat_is_not_overwritten(made):
    shutil.copy(made / "clip.mp4", "clip.mp4")
    refused("generate", "--like", "clip.mp4", "-o", "clip.mp4", says=("clip.mp4", "also an input"))


def test_like_with_the_same_map_of_an_odd_aspect_gives_the_same_bytes():
    save("odd.png", scene(333, 1000))
    assert seg2vid("generate", "odd.png", "--frames", 1).code == 0
    assert seg2vid("generate", "odd.png", "--like", "odd.mp4", "-o", "again.mp4").code == 0
    assert Path("again.mp4").read_bytes() == Path("odd.mp4").read_bytes()


def test_like_of_a_clip_made_from_a_picture_needs_the_picture():
    photo(64, 32).save("photo.png")
    photo(64, 32).rotate(180).save("other.png")
    command = ("generate", "street.png", *SMALL, "--first-frame", "photo.png", "-o", "clip.mp4")
    assert seg2vid(*command).code == 0
    again = ("generate", "--like", "clip.mp4", "-o", "again.mp4")
    refused(*again, says=("picture", "--first-frame"))
    assert seg2vid(*again, "--first-frame", "photo.png").code == 0
    assert Path("again.mp4").read_bytes() == Path("clip.mp4").read_bytes()
    assert "picture differs" in seg2vid(*again, "--first-frame", "other.png").err


# ---- weights that lack stages, labels or colours -------------------------------------------------


def objects(height: int = 32, width: int = 64) -> np.ndarray:
    """The scene as a Cityscapes instance map: its car is two, one in front of the other."""
    ids = scene(height, width).astype(np.int32)
    cars = ids == 26
    ids[cars] = 26_000
    ids[:, : width * 5 // 12][cars[:, : width * 5 // 12]] = 26_001
    return ids


def save_objects(name: str, ids: np.ndarray) -> str:
    Image.fromarray(ids.astype(np.uint16)).save(name)
    return name


def generated(*arguments: object) -> Done:
    done = seg2vid("generate", *arguments, "--device", "cpu")
    assert (done.code, done.err) == (0, ""), done.err
    return done


def same_bytes(one: str, other: str) -> bool:
    return Path(one).read_bytes() == Path(other).read_bytes()


MIXED = ("--weights", "mover", "--first-frame-weights", "enhancer", "--frames", 3)


@pytest.mark.usefixtures("named_bundles")
@pytest.mark.parametrize("shape", [(32, 64), (31, 47), (100, 70)], ids=str)
@pytest.mark.parametrize("kind", ["ids", "instance ids", "ids and instances"])
def test_like_repeats_what_pix2pixhd_painted(shape, kind):
    maps = [save("ids.png", scene(*shape))]
    if kind == "instance ids":
        maps = [save_objects("objects.png", objects(*shape))]
    elif kind == "ids and instances":
        maps += ["--instances", save_objects("objects.png", objects(*shape))]
    generated(*maps, *MIXED, "-o", "clip.mp4")
    done = generated("--like", "clip.mp4", "-o", "alone.mp4")
    assert same_bytes("alone.mp4", "clip.mp4")
    report = facts(done.out)
    assert report["weights"] == "mover (--like)\nfirst frame  enhancer (--like)"
    generated(*maps, "--like", "clip.mp4", "-o", "again.mp4")
    assert same_bytes("again.mp4", "clip.mp4")


@pytest.mark.usefixtures("named_bundles")
@pytest.mark.parametrize("shape", [(482, 277), (273, 798)], ids=str)
def test_like_alone_keeps_the_size_that_was_fitted_into_room(shape):
    """A stored scene has sides of its own, so its aspect ratio is not quite that of the map."""
    command = ("--weights", "mover", "--first-frame-weights", "painter", "--frames", 1)
    save("map.png", scene(*shape))
    generated("map.png", *command, "--size", "512x256", "-o", "clip.mp4")
    generated("--like", "clip.mp4", "-o", "alone.mp4")
    assert read_recipe(Path("alone.mp4")).size == read_recipe(Path("clip.mp4")).size
    assert same_bytes("alone.mp4", "clip.mp4")


@pytest.mark.usefixtures("named_bundles")
def test_instances_change_what_pix2pixhd_paints():
    save_objects("objects.png", objects())
    generated("street.png", *MIXED, "-o", "plain.mp4")
    generated("street.png", "--instances", "objects.png", *MIXED, "-o", "apart.mp4")
    generated("objects.png", *MIXED, "-o", "both.mp4")
    assert same_bytes("apart.mp4", "both.mp4")
    assert not same_bytes("apart.mp4", "plain.mp4")
    done = seg2vid("generate", "objects.png", "--like", "plain.mp4", "-o", "other.mp4")
    assert (done.code, "the label map differs" in done.err) == (0, True)


@pytest.mark.usefixtures("named_bundles")
def test_label_ids_beyond_the_classes_reach_pix2pixhd():
    """A bridge and a parking lot are no classes: to LabelUNet they are the same."""
    for name, label in (("bridge.png", 15), ("parking.png", 9)):
        ids = scene()
        ids[4:20, 4:40] = label
        save(name, ids)
        generated(name, *MIXED, "-o", f"{name}.gif")
        generated(name, "--weights", "tiny", "--frames", 2, "-o", f"{name}.webp")
    recipes = {end: read_recipe(Path(f"bridge.png.{end}")) for end in ("gif", "webp")}
    others = {end: read_recipe(Path(f"parking.png.{end}")) for end in ("gif", "webp")}
    assert recipes["webp"] == others["webp"]
    assert recipes["gif"] != others["gif"]
    assert set(np.unique(recipes["gif"].labels().label_ids)) == {7, 11, 15, 23, 26}
    assert not same_bytes("bridge.png.gif", "parking.png.gif")


@pytest.mark.usefixtures("named_bundles")
def test_a_generator_alone_makes_a_clip_of_one_frame():
    save("square.png", scene(90, 90))
    done = generated("square.png", "--weights", "painter", "--frames", 1, "-o", "one.mp4")
    assert read_back("one.mp4").frames.shape == (1, 46, 46, 3)
    assert "1 frames (option) at 1 fps (weights)" in facts(done.out)["length"]
    generated("--like", "one.mp4", "-o", "again.mp4")
    assert same_bytes("again.mp4", "one.mp4")
    refused(
        *("generate", "square.png", "--weights", "painter"),
        says=("'painter' have no motion stage, only first frame", "--motion-weights"),
    )


@pytest.mark.usefixtures("named_bundles")
def test_motion_alone_needs_a_first_frame():
    command = ("generate", "street.png", "--weights", "mover", "--frames", 2, "-o", "a.mp4")
    refused(*command, says=("'mover' have no first-frame stage", "--first-frame-weights"))
    photo(64, 32).save("photo.png")
    generated(*command[1:], "--first-frame", "photo.png")
    assert read_back("a.mp4").fps == 12
    generated(*command[1:], "--first-frame-weights", "tiny")
    assert read_recipe(Path("a.mp4")).first_frame_weights == "tiny"


@pytest.mark.usefixtures("named_bundles")
def test_mixed_weights_are_reported_and_known_again():
    command = ("street.png", "--weights", "tiny", "--motion-weights", "mover", "--frames", 2)
    report = facts(generated(*command, "-o", "a.mp4", "--first-frame-weights", "painter").out)
    assert report["weights"].splitlines() == [
        "tiny (option)",
        "first frame  painter (option)",
        "motion       mover (option)",
    ]
    recipe = read_recipe(Path("a.mp4"))
    assert list(recipe.weights_sha256) == [
        *("first_frame", "motion", "refine"),
        *("bundle", "first_frame_bundle", "motion_bundle"),
    ]
    assert facts(generated("street.png", "--frames", 1).out)["weights"] == "street (default)"


@pytest.mark.usefixtures("named_bundles")
def test_naming_weights_means_all_of_them():
    generated("street.png", *MIXED, "--motion-weights", "mover", "-o", "mixed.mp4")
    like = ("--like", "mixed.mp4", "-o")

    def weights(*options: str) -> tuple[str | None, ...]:
        done = seg2vid("generate", *like, "again.mp4", *options)
        assert done.code == 0, done.err
        recipe = read_recipe(Path("again.mp4"))
        return recipe.weights, recipe.first_frame_weights, recipe.motion_weights

    assert weights() == ("mover", "enhancer", "mover")
    assert weights("--weights", "tiny") == ("tiny", None, None)
    assert weights("--first-frame-weights", "painter") == ("mover", "painter", "mover")
    assert weights("--motion-weights", "tiny") == ("mover", "enhancer", "tiny")
    both = ("--weights", "tiny", "--first-frame-weights", "painter")
    assert weights(*both) == ("tiny", "painter", None)
    done = seg2vid("generate", *like, "again.mp4", "--weights", "tiny")
    assert "the weights differs" in done.err or "the weights differ" in done.err


@pytest.mark.usefixtures("named_bundles")
@pytest.mark.parametrize("weights", ["blind", "grey"])
def test_weights_without_labels_need_only_a_picture(weights):
    photo(98, 64).save("photo.png")
    command = ("--weights", weights, "--first-frame", "photo.png", "--frames", 5)
    report = facts(generated(*command, "-o", "a.mp4", "--save-frames", "frames").out)
    # sqrt(2048 * 64 / 98) = 36.57, and 56.00 of that
    assert read_back("a.mp4").frames.shape == (5, 36, 56, 3)
    assert report["label map"] == "none, these weights read none"
    assert "classes" not in report
    first = picture("frames/frame_00000.png")
    expected = photo(98, 64).resize((56, 36), Image.Resampling.LANCZOS)
    if weights == "grey":
        for number in range(5):
            pixels = np.asarray(picture(f"frames/frame_{number:05d}.png"))
            assert np.array_equal(pixels, np.repeat(pixels[..., :1], 3, axis=-1))
        assert np.abs(np.asarray(first, int)[..., 0] - np.asarray(expected.convert("L"))).max() <= 1
    else:
        assert np.array_equal(np.asarray(first), np.asarray(expected))
    generated("--like", "a.mp4", "--first-frame", "photo.png", "-o", "again.mp4")
    assert same_bytes("again.mp4", "a.mp4")
    # With a label map the same, but for the map itself.
    save("map.png", scene(64, 98))
    generated("map.png", *command, "-o", "b.mp4", "--save-frames", "others")
    for number in range(5):
        assert same_bytes(f"frames/frame_{number:05d}.png", f"others/frame_{number:05d}.png")
    result = json.loads(generated(*command, "-o", "a.mp4", "--json").out)
    assert result["labels"]["file"] is None


@pytest.mark.usefixtures("named_bundles")
@pytest.mark.parametrize("size", [(60, 40), (640, 400)], ids=str)
def test_a_picture_alone_shows_what_it_shows(size):
    """Rounding to even sides is no reason to call its aspect ratio another."""
    photo(*size).save("photo.png")
    generated("--weights", "blind", "--first-frame", "photo.png", "--frames", 1, "-o", "a.mp4")


@pytest.mark.usefixtures("named_bundles")
@pytest.mark.parametrize("weights", [(), ("--weights", "mover"), ("--weights", "painter")], ids=str)
def test_other_weights_need_a_label_map(weights):
    photo(64, 32).save("photo.png")
    command = ("generate", "--first-frame", "photo.png", "-o", "a.mp4", *weights)
    refused(*command, says=("painter" if "painter" in weights else "no label map given", "hint: "))
    refused(*command[:3], says=("no output given", "-o FILE.mp4"))


# ---- the library, names, memory ------------------------------------------------------------------


def test_the_library_gives_the_same_bytes(made):
    report = generate_file(
        "street.png",
        "clip.mp4",
        pipeline=Pipeline.open(device="cpu"),
        outputs=Outputs(video=Path("clip.mp4"), panel=Path("panel.mp4")),
        size_hw=SIZE[::-1],
        frames=FRAMES,
        seed=5,
    )
    assert report.clip.recipe == read_recipe(made / "clip.mp4")
    for name in ("clip.mp4", "panel.mp4"):
        assert Path(name).read_bytes() == (made / name).read_bytes()


@pytest.mark.parametrize("stem", [name for name in LITERAL_NAMES if "/" not in name])
def test_file_names_are_shown_literally(stem):
    save(f"{stem}.png", scene())
    small = ("generate", "--size", "64x32", "--frames", 1)
    report = facts(seg2vid(*small, "-o", f"{stem}.gif", "--", f"{stem}.png").out)
    assert (report["label map"], report["wrote"]) == (f"{stem}.png", f"{stem}.gif")
    result = json.loads(seg2vid(*small, "--json", "--", f"{stem}.png").out)
    assert result["labels"]["file"] == f"{stem}.png"
    assert result["outputs"]["video"] == f"{stem}.mp4"
    assert Path(f"{stem}.mp4").is_file()


@pytest.mark.parametrize("name", LITERAL_NAMES)
def test_file_names_in_errors_are_shown_literally(name):
    refused("generate", "--", name, says=(f"error: {name}: ",))
    refused("generate", "-o", f"{name}.avi", "street.png", says=(f"error: {name}.avi: ",))


@pytest.mark.skipif(not Path("/proc/self/status").exists(), reason="needs Linux")
@pytest.mark.slow
def test_four_times_the_frames_take_the_same_memory():
    # VmHWM, because what getrusage says of a child begins with what its parent had.
    program = (
        "import sys; from seg2vid_cli.cli import main\n"
        "try: main()\n"
        "finally: print(*(l.split()[1] for l in open('/proc/self/status') if 'VmHWM' in l))"
    )
    # Without these, glibc keeps freed blocks by chance, and two equal runs differ by 8 %.
    steady = {f"MALLOC_{name}_THRESHOLD_": "131072" for name in ("MMAP", "TRIM")}
    steady["MALLOC_ARENA_MAX"] = "1"
    peak_kib = {}
    for frames in (12, 24, 48):
        command = ["generate", "street.png", "-o", "a.mp4", "--quiet", "--device", "cpu"]
        done = subprocess.run(
            [sys.executable, "-c", program, *command, "--frames", str(frames)],
            env={**ENVIRONMENT, **steady},
            capture_output=True,
            text=True,
            check=True,
        )
        peak_kib[frames] = int(done.stdout)
    assert peak_kib[48] <= 1.1 * peak_kib[12]
    assert peak_kib[48] <= 1.03 * peak_kib[24]  # from three full passes on, nothing grows
