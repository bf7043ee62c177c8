"""`seg2vid batch` from the shell's side: reports, events, exit codes, and being killed."""

from __future__ import annotations

import json
import os
import re
import signal
import subprocess
import sys
import time
from pathlib import Path
from typing import IO, Any

import pytest
import torch
from test_batch import POSIX, a_map, files
from test_cli_generate import ENVIRONMENT, facts, refused, seg2vid

from seg2vid_cli.batch.worker import DeviceLostError
from seg2vid_cli.cli.batch import duration
from seg2vid_cli.recipe import read_recipe
from seg2vid_cli.video import probe_video

torch.set_num_threads(1)


@pytest.fixture(autouse=True)
def _here(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)


@pytest.fixture
def quick(tiny_bundle: Path) -> tuple[str, ...]:
    """Options for GIFs of two frames on the CPU."""
    where = ("--weights", str(tiny_bundle), "--devices", "cpu")
    return (*where, "--encoding", "label-ids", "--frames", "2", "--format", "gif")


def events(text: str) -> list[dict[str, Any]]:
    return [json.loads(line) for line in text.splitlines()]


# ---- reports -------------------------------------------------------------------------------------


def test_the_report_counts_and_lists_what_failed(quick):
    a_map("maps/a.png")
    a_map("maps/b [bold].png", 1)
    Path("maps/bad :smile:.png").write_bytes(b"no picture")
    done = seg2vid("batch", "maps", "-o", "out", *quick)
    assert done.code == 3
    report = facts(done.out)
    assert {n: report[n] for n in ("label maps", "made", "made before", "failed")} == {
        "label maps": "3",
        "made": "2",
        "made before": "0",
        "failed": "1",
    }
    assert report["wrote"] == "out, and manifest.jsonl there"
    lines = done.err.splitlines()
    assert lines[0].startswith("error: bad :smile:.png: ")
    assert lines[-1] == "note: failed: bad :smile:.png"
    assert files() == ["a.gif", "b [bold].gif"]
    assert facts(seg2vid("batch", "maps", "-o", "out", *quick).out)["made before"] == "2"
    Path("maps/bad :smile:.png").unlink()
    done = seg2vid("batch", "maps", "-o", "out", *quick, "--quiet")
    assert (done.code, done.out, done.err) == (0, "", "")


def test_events_are_one_object_per_line_and_all_there_is(quick):
    a_map("maps/a\nü.png")
    Path("maps/bad.png").write_bytes(b"no picture")
    done = seg2vid("batch", "maps", "-o", "out", *quick, "--json")
    assert (done.code, done.err) == (3, "")
    told = events(done.out)
    kinds = [event["event"] for event in told]
    assert (kinds[:2], sorted(kinds[2:4]), kinds[4:]) == (
        ["start", "found"],
        ["done", "failed"],
        ["end"],
    )
    made = next(event for event in told if event["event"] == "done")
    assert (made["input"], made["outputs"]) == ("a\nü.png", ["a\nü.gif"])
    end = told[-1]
    assert (end["found"], end["done"], end["failed"], end["skipped"]) == (2, 1, 1, 0)
    told = events(seg2vid("batch", "maps", "-o", "out", *quick, "--json", "--dry-run").out)
    assert [e["event"] for e in told] == ["found", "skipped", "would", "end"]


def test_options_are_those_of_generate(quick):
    a_map("maps/x.png")
    look = ("--seed", 7, "--variant", 2, "--samples", 2, "--motion-scale", 1.5, "--fps", 20)
    size = ("--size", "80x48", "--fit", "stretch", "--quality", 5)
    extras = ("--preview", "--save-frames", "--panel", "--save-flow", "--save-visibility")
    done = seg2vid("batch", "maps", "-o", "out", *quick, *look, *size, *extras)
    assert done.code == 0, done.err
    recipe = read_recipe(Path("out/x-002.gif"))
    assert (recipe.seed, recipe.variant, recipe.motion_scale) == (7, 3, 1.5)
    assert (recipe.size, recipe.fit, recipe.fps) == ((80, 48), "stretch", 20)
    kinds = ("frames", "flow", "visibility", "panel.gif", "preview.png")
    assert [Path(f"out/x-001.{kind}").exists() for kind in kinds] == [True] * 5
    generated = ("generate", "maps/x.png", "--like", "out/x-002.gif", "-o", "again.gif")
    assert seg2vid(*generated, *quick[:2], "--device", "cpu").code == 0
    assert Path("again.gif").read_bytes() == Path("out/x-002.gif").read_bytes()


def test_a_dry_run_lists_and_estimates(quick):
    for number in range(3):
        a_map(f"maps/{number}.png", number)
    done = seg2vid("batch", "maps", "-o", "out", *quick, "--dry-run")
    assert done.code == 0
    assert done.out.splitlines()[:3] == [f"{n}.png -> {n}.gif" for n in range(3)]
    assert "takes        unknown until some are made" in done.out
    assert not Path("out").exists()
    seg2vid("batch", "maps", "-o", "out", *quick, "--glob", "0.*")
    done = seg2vid("batch", "maps", "-o", "out", *quick, "--dry-run")
    assert re.search(r"^takes +about [\d.]+ s$", done.out, re.MULTILINE)
    assert [duration(s) for s in (3.14, 119, 300, 3600, 27000)] == [
        "3.1 s",
        "119.0 s",
        "5 min",
        "60 min",
        "7 h 30 min",
    ]


def test_file_urls(quick, tmp_path):
    a_map("maps/x.png")
    done = seg2vid("batch", f"file://{tmp_path}/maps", "-o", f"local://{tmp_path}/out", *quick)
    assert (done.code, files()) == (0, ["x.gif"])


@pytest.mark.parametrize(
    ("arguments", "says"),
    [
        (("nowhere", "-o", "out"), ("nowhere: there is no such folder", "check the path")),
        (("x.png", "-o", "out"), ("x.png is a file", "seg2vid generate")),
        (("", "-o", "out"), ("name is empty",)),
        (("empty", "-o", "out"), ("empty: no label maps there", ".png, .tif")),
        (("maps", "-o", "maps"), ("is the folder of label maps",)),
        (("maps", "-o", "x.png"), ("x.png: is a file",)),
        (("maps", "-o", "x.png", "--dry-run"), ("x.png: is a file",)),
        (("maps", "-o", "out", "--format", "avi"), ("format 'avi'", "mp4, gif, webp")),
        (("maps", "-o", "out", "--devices", ","), ("no device",)),
        (("maps", "-o", "out", "--devices", "cpu,gpu"), ("device 'gpu' is not known",)),
        (("maps", "-o", "out", "--batch", "0"), ("batch 0 is out of range",)),
        (("maps", "-o", "out", "--idle", "3"), ("--idle is for --watch",)),
        (("maps", "-o", "out", "--samples", "0"), ("0 samples",)),
        (("maps", "-o", "out", "--vary", "speed"), ("'speed' is not known",)),
        (("maps", "-o", "out", "--size", "big"), ("size 'big'",)),
        (("maps", "-o", "out", "--weights", "nothing"), ("nothing",)),
        (("maps", "-o", "out", "--workers", "2"), ("for --engine ray",)),
        (("maps", "-o", "ftp2://x/y"), ("Protocol not known: ftp2",)),
    ],
    ids=" ".join,
)
def test_mistakes_are_one_line_and_a_hint_and_write_nothing(arguments, says):
    a_map("maps/x.png")
    a_map("x.png")
    Path("empty/.hidden").mkdir(parents=True)
    done = refused("batch", *arguments, says=says)
    assert "hint: " in done.err


def test_without_ray_its_engine_says_what_to_install(monkeypatch):
    a_map("maps/x.png")
    monkeypatch.setitem(sys.modules, "ray", None)
    for arguments in (("--workers", "2"), ("--devices", "cpu")):
        refused("batch", "maps", "-o", "out", "--engine", "ray", *arguments, says=("[ray]",))


def test_a_device_that_fails_in_the_middle_is_an_error(quick, monkeypatch):
    a_map("maps/x.png")

    def fails(*arguments, **options):
        raise DeviceLostError("cuda:0 has failed", hint="run again")

    monkeypatch.setattr("seg2vid_cli.batch.worker.Worker.run", fails)
    done = seg2vid("batch", "maps", "-o", "out", *quick)
    assert (done.code, done.err) == (1, "error: cuda:0 has failed\nhint: run again\n")


# ---- being killed --------------------------------------------------------------------------------


def start(*arguments: object) -> subprocess.Popen[str]:
    """The real command, in a session of its own, with events on stdout."""
    # A shell that starts tests in the background has them ignore SIGINT.
    program = (
        "if __name__ == '__main__':\n"
        " import signal; signal.signal(signal.SIGINT, signal.default_int_handler)\n"
        " from seg2vid_cli.cli import main; main()"
    )
    Path("program.py").write_text(program)
    command = [sys.executable, "program.py", "batch", *map(str, arguments), "--json"]
    return subprocess.Popen(
        command,
        env=ENVIRONMENT,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        start_new_session=True,
    )


def wait_for(stdout: IO[str], kind: str, count: int) -> None:
    for line in stdout:
        count -= json.loads(line)["event"] == kind
        if not count:
            return
    raise AssertionError(f"too few {kind}")


def in_session(session: int) -> list[str]:
    """Processes that were started by a command and still run, or are zombies."""
    found = []
    for stat in Path("/proc").glob("[0-9]*/stat"):
        try:
            text = stat.read_text()
        except OSError:
            continue
        after = text.rpartition(")")[2].split()
        if int(after[3]) == session:
            found.append(text)
    return found


def check_after_a_kill(quick: tuple[str, ...], count: int, least: int) -> None:
    """Lines are whole, what they name is there, and the next run makes the rest."""
    data = Path("out/manifest.jsonl").read_bytes()
    records = [json.loads(line) for line in data.splitlines()]
    assert least <= len(records) < count
    assert data.endswith(b"\n")
    for record in records:
        for output in record["outputs"]:
            assert Path("out", output["path"]).stat().st_size == output["bytes"]
    for path in Path("out").glob("*.mp4"):  # also of those not noted yet
        assert probe_video(path).frames == 2
    done = seg2vid("batch", "maps", "-o", "out", *quick, "--json")
    assert done.code == 0, done.err
    told = events(done.out)
    assert (told[-1]["done"], told[-1]["skipped"]) == (count - len(records), len(records))
    assert files() == [f"{number:02d}.mp4" for number in range(count)]
    lines = events(Path("out/manifest.jsonl").read_text())
    assert sorted(line["input"] for line in lines) == [f"{n:02d}.png" for n in range(count)]


@POSIX
def test_kill_9_loses_only_what_was_in_flight(quick):
    for number in range(10):
        a_map(f"maps/{number:02d}.png", number)
    quick = (*quick[:-2], "--format", "mp4")
    with start("maps", "-o", "out", *quick) as process:
        try:
            wait_for(process.stdout, "done", 1)
            done = seg2vid("batch", "maps", "-o", "out", *quick)  # a second one meanwhile
            assert (done.code, done.err.splitlines()[0]) == (
                2,
                "error: out: another run is writing here",
            )
        finally:
            process.kill()
    assert process.returncode == -signal.SIGKILL
    check_after_a_kill(quick, 10, 1)


@POSIX
@pytest.mark.slow
@pytest.mark.skipif(not Path("/proc/self/stat").exists(), reason="needs /proc")
@pytest.mark.parametrize(
    ("sent", "to_all", "code"),
    [
        (signal.SIGINT, False, 130),
        (signal.SIGINT, True, 130),  # Ctrl-C in a terminal
        (signal.SIGTERM, False, 143),
        (signal.SIGKILL, False, -signal.SIGKILL),
    ],
    ids=str,
)
@pytest.mark.parametrize("devices", ["cpu", "cpu,cpu"])
def test_no_process_outlives_the_command(quick, sent, to_all, code, devices):
    for number in range(40):
        a_map(f"maps/{number:02d}.png", number)
    quick = (*quick[:-2], "--format", "mp4")
    with start("maps", "-o", "out", *quick, "--devices", devices) as process:
        try:
            wait_for(process.stdout, "done", 2)
            (os.killpg if to_all else os.kill)(process.pid, sent)
            process.wait(60)
            err = process.stderr.read()
        finally:
            process.kill()
    assert process.returncode == code
    assert "Traceback" not in err
    end = time.monotonic() + 20
    while left := in_session(process.pid):
        assert time.monotonic() < end, left
        time.sleep(0.1)
    if sent != signal.SIGKILL:
        assert [name for name in files() if ".seg2vid-" in name] == []
    check_after_a_kill(quick, 40, 2)


@POSIX
@pytest.mark.slow
def test_ctrl_c_while_processes_start_shows_no_traceback(quick):
    a_map("maps/x.png")
    with start("maps", "-o", "out", *quick, "--devices", "cpu,cpu") as process:
        try:
            wait_for(process.stdout, "start", 1)
            time.sleep(0.5)
            os.killpg(process.pid, signal.SIGINT)
            process.wait(60)
            err = process.stderr.read()
        finally:
            process.kill()
    assert (process.returncode, "Traceback" in err) == (130, False), err
