"""Folders of label maps to folders of clips: names, manifest, what is made again, threads."""

from __future__ import annotations

import hashlib
import json
import multiprocessing
import os
import pickle
import signal
import sys
import threading
import time
from collections.abc import Callable
from contextlib import ExitStack
from dataclasses import replace
from pathlib import Path
from typing import Any

import fsspec
import numpy as np
import pytest
import torch
from PIL import Image

import seg2vid_cli.batch.run as run_module
import seg2vid_cli.batch.worker as worker_module
from seg2vid_cli.batch import BatchOptions, run_batch
from seg2vid_cli.batch.cluster import plan_workers
from seg2vid_cli.batch.deal import Dealer, Hand
from seg2vid_cli.batch.folders import (
    LOCK_FILE,
    LocalFolder,
    UrlFolder,
    matches,
    open_folder,
    path_within,
)
from seg2vid_cli.batch.jobs import Job, Result, Stems, WorkSpec, output_names
from seg2vid_cli.batch.manifest import Manifest, options_key
from seg2vid_cli.batch.threads import Line, StoppedError, Threads
from seg2vid_cli.batch.worker import AHEAD, UNFINISHED, DeviceLostError, Worker
from seg2vid_cli.errors import InputError, Seg2VidError, WeightsError
from seg2vid_cli.outputs import TOGETHER, generate_file
from seg2vid_cli.pipeline import Pipeline
from seg2vid_cli.sample import Sample, plan_samples
from seg2vid_cli.video import probe_video

POSIX = pytest.mark.skipif(sys.platform == "win32", reason="needs POSIX")
SETTINGS = {"frames": 2}
ROAD, BUILDING, SKY, CAR = 7, 11, 23, 26  # Cityscapes label ids


def a_map(name: str | Path, seed: int = 0, size: tuple[int, int] = (64, 32)) -> Path:
    """A label map of random blocks under a sky."""
    path = Path(name)
    path.parent.mkdir(parents=True, exist_ok=True)
    width, height = size
    blocks = np.random.default_rng(seed).choice([ROAD, BUILDING, CAR], (height // 8, width // 8))
    blocks[0] = SKY
    ids = np.kron(blocks, np.ones((8, 8))).astype(np.uint8)
    if path.suffix == ".npy":
        np.save(path, ids)
    else:
        Image.fromarray(ids).save(path)
    return path


@pytest.fixture(autouse=True)
def _here(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    memory = fsspec.filesystem("memory")
    memory.store.clear()
    memory.pseudo_dirs[:] = [""]


@pytest.fixture
def spec(tiny_bundle: Path) -> WorkSpec:
    """GIFs of two frames: nothing is quicker."""
    return WorkSpec(
        weights=str(tiny_bundle), encoding="label-ids", settings=SETTINGS, extension=".gif"
    )


class Batch:
    """Runs batches from `maps` to `out` and keeps what was told."""

    def __init__(self, spec: WorkSpec, maps: str = "maps", out: str = "out") -> None:
        self.spec = spec
        self.options = BatchOptions(maps=open_folder(maps), out=open_folder(out), devices=("cpu",))
        self.events: list[dict[str, Any]] = []

    def __call__(self, tell: Callable[[dict[str, Any]], None] | None = None, **options: Any):
        self.events = []

        def told(event: dict[str, Any]) -> None:
            self.events.append(event)
            if tell:
                tell(event)

        return run_batch(replace(self.options, **options), self.spec, tell=told)

    def inputs(self, kind: str) -> list[str]:
        return sorted(event["input"] for event in self.events if event["event"] == kind)

    def records(self) -> list[dict[str, Any]]:
        data = self.options.out.read("manifest.jsonl")
        return [json.loads(line) for line in data.decode().splitlines()]


@pytest.fixture
def batch(spec: WorkSpec) -> Batch:
    return Batch(spec)


def files(folder: str | Path = "out") -> list[str]:
    """Everything in a folder but the lock and the manifest, folders with a slash."""
    paths = sorted(Path(folder).rglob("*"))
    found = [f"{p.relative_to(folder).as_posix()}{'/' * p.is_dir()}" for p in paths]
    return [name for name in found if name not in (LOCK_FILE, "manifest.jsonl")]


def counts(summary: Any) -> tuple[int, int, int, int]:
    return summary.found, summary.done, summary.skipped, summary.failed


# ---- folders -------------------------------------------------------------------------------------


def names(folder: str = "maps", **options: Any) -> list[str]:
    return [found.name for found in open_folder(folder).find(**options)]


def test_maps_are_found_in_all_folders_by_their_ending():
    for name in ("b.PNG", "a.tif", "c.bmp", "d/e.npy", "d/f.webp", "d/deep/g.tiff"):
        Path("maps", name).parent.mkdir(parents=True, exist_ok=True)
        Path("maps", name).touch()
    for name in ("notes.txt", "photo.jpg", ".hidden.png", "d/.cache/x.png", "d/._x.png"):
        Path("maps", name).parent.mkdir(parents=True, exist_ok=True)
        Path("maps", name).touch()
    expected = ["a.tif", "b.PNG", "c.bmp", "d/e.npy", "d/f.webp", "d/deep/g.tiff"]
    assert names() == expected
    memory = fsspec.filesystem("memory")
    memory.put("maps", "/maps", recursive=True)
    assert sorted(names("memory://maps")) == sorted(expected)


def test_one_folder_and_folders_of_other_batches_are_left_out():
    for name in ("x.png", "out/x.png", "out/deep/x.png", "outer/x.png", "older/x.png"):
        a_map(f"maps/{name}")
    Path("maps/older", LOCK_FILE).touch()
    assert names(leave_out=open_folder("maps/out")) == ["x.png", "outer/x.png"]
    assert names(leave_out=open_folder("file://" + str(Path("maps/out").resolve()))) == [
        "x.png",
        "outer/x.png",
    ]
    Path("maps", LOCK_FILE).touch()  # the folder itself may have been written into
    assert len(names()) == 4
    fsspec.filesystem("memory").put("maps", "/maps", recursive=True)
    found = names("memory://maps", leave_out=open_folder("memory://maps/out"))
    assert sorted(found) == ["outer/x.png", "x.png"]


@POSIX
def test_links_are_followed_but_not_in_circles():
    a_map("elsewhere/x.png")
    a_map("maps/own.png")
    Path("maps/link").symlink_to(Path("elsewhere").resolve())
    Path("maps/link.png").symlink_to(Path("elsewhere/x.png").resolve())
    Path("maps/up").symlink_to("..")
    Path("maps/everything").symlink_to("/")
    Path("maps/self.png").symlink_to("self.png")
    Path("elsewhere/back").symlink_to(Path("maps").resolve())
    Path("maps/broken.png").symlink_to("nowhere.png")
    os.mkfifo("maps/pipe.png")
    found = {one.name: one.problem for one in open_folder("maps").find()}
    assert {name for name, problem in found.items() if problem is None} == {
        "own.png",
        "link.png",
        "link/x.png",
    }
    assert found["broken.png"] == "a link: No such file or directory"
    assert found["pipe.png"] == "is not a file"
    assert "self.png" in found


def test_a_folder_that_cannot_be_listed_is_reported(monkeypatch):
    a_map("maps/open/x.png")
    a_map("maps/shut/x.png")
    scandir = os.scandir

    def guarded(path):
        if Path(path).name == "shut":
            raise PermissionError(13, "Permission denied")
        return scandir(path)

    monkeypatch.setattr(os, "scandir", guarded)
    found = {one.name: one.problem for one in open_folder("maps").find()}
    assert found == {"open/x.png": None, "shut/": "Permission denied"}


@pytest.mark.parametrize(
    ("folder", "says"),
    [
        ("nowhere", "nowhere: there is no such folder"),
        ("x.png", "x.png is a file, not a folder"),
        ("memory://nowhere", "memory://nowhere: there is no such folder"),
        ("memory://x.png", "memory://x.png is a file, not a folder"),
        ("carrier-pigeon://x", "carrier-pigeon://x: Protocol not known: carrier-pigeon"),
    ],
)
def test_what_is_no_folder_is_refused(folder, says):
    a_map("x.png")
    fsspec.filesystem("memory").pipe_file("/x.png", b"x")
    with pytest.raises(InputError) as refused:
        open_folder(folder).check_readable()
    assert refused.value.message == says
    assert refused.value.hint


def test_an_empty_name_is_refused():
    for text in ("", " "):
        with pytest.raises(InputError, match="name is empty"):
            open_folder(text)


def test_urls_of_this_file_system_are_folders_of_it(tmp_path):
    for scheme in ("file", "local"):
        folder = open_folder(f"{scheme}://{tmp_path}/maps")
        assert isinstance(folder, LocalFolder)
        assert folder.path == tmp_path / "maps"
    assert isinstance(open_folder("memory://maps"), UrlFolder)
    assert open_folder("maps").absolute().path == tmp_path / "maps"


def test_where_folders_lie_in_each_other():
    Path("a/b").mkdir(parents=True)
    Path("link").symlink_to("a/b")

    def within(inner: str, outer: str) -> str | None:
        return path_within(open_folder(inner), open_folder(outer))

    assert within("a/b", "a") == "b"
    assert within("link", "a") == "b"
    assert within("a", "./a/b/..") == ""
    assert within("a", "a/b") is None
    assert within("ab", "a") is None
    assert within("memory://a/b", "memory://a/") == "b"
    assert within("memory://a", "a") is None


def test_leftovers_go_but_not_those_of_a_batch_further_in():
    for name in (".seg2vid-x/clip.mp4", "a/.seg2vid-y/files/f.png", "b/c/.seg2vid-z/clip.mp4"):
        Path("out", name).parent.mkdir(parents=True)
        Path("out", name).touch()
    Path("out/b", LOCK_FILE).touch()
    Path("out/.keep").mkdir()
    open_folder("out").clean_up()
    assert [name for name in files() if not name.endswith("/")] == [
        "b/.seg2vid.lock",
        "b/c/.seg2vid-z/clip.mp4",
    ]
    assert Path("out/.keep").is_dir()


@pytest.mark.parametrize("kind", ["memory", "renaming"])
def test_a_folder_behind_a_url(kind, tmp_path):
    folder = UrlFolder("memory://out" if kind == "memory" else f"file://{tmp_path}/out")
    folder.prepare()
    assert folder.read("manifest.jsonl") is None
    folder.write("manifest.jsonl", b"one")
    folder.write("manifest.jsonl", b"two!")
    assert folder.read("manifest.jsonl") == b"two!"
    with folder.writing("a b/clip.mp4") as path:
        path.write_bytes(b"clip")
    for length in (3, 2):
        with folder.writing("a b/frames") as path:
            path.mkdir()
            for number in range(length):
                (path / f"frame_{number:05d}.png").write_bytes(b"frame")
            (path / "clip.json").write_bytes(b"{}")
    assert folder.size("a b/clip.mp4") == 4
    assert folder.size("a b/frames") == 12
    assert folder.size("nothing") is None
    with ExitStack() as stack:
        stack.enter_context(pytest.raises(RuntimeError))
        stack.enter_context(folder.writing("a b/broken.mp4")).write_bytes(b"half")
        raise RuntimeError
    assert folder.size("a b/broken.mp4") is None
    assert [f.name for f in folder.find()] == [
        "a b/frames/frame_00000.png",
        "a b/frames/frame_00001.png",
    ]
    again = pickle.loads(pickle.dumps(folder))
    with again.reading("a b/clip.mp4") as path:
        assert (path.name, path.read_bytes()) == ("clip.mp4", b"clip")
    assert again.sha256("a b/clip.mp4") == hashlib.sha256(b"clip").hexdigest()
    if kind == "renaming":
        (tmp_path / "out/a b/.seg2vid-1234").write_bytes(b"half an upload")
        folder.clean_up()
        assert files("out") == [
            "a b/",
            "a b/clip.mp4",
            "a b/frames/",
            "a b/frames/clip.json",
            "a b/frames/frame_00000.png",
            "a b/frames/frame_00001.png",
        ]


def test_what_happens_behind_a_url_is_told_in_one_line():
    class Broken(fsspec.AbstractFileSystem):
        protocol = "broken"

        def _open(self, *arguments, **options):
            raise PermissionError("Access Denied\nRequestId: 7")

        def info(self, path, **options):
            return {"name": path, "size": 0, "type": "directory"}

        def ls(self, path, detail=True, **options):
            raise PermissionError("Access Denied\nRequestId: 7")

    fsspec.register_implementation("broken", Broken, clobber=True)
    folder = UrlFolder("broken://bucket/maps")
    for act in (
        lambda: folder.read("manifest.jsonl"),
        lambda: folder.write("manifest.jsonl", b""),
        folder.prepare,
        folder.check_readable,
    ):
        with pytest.raises(InputError) as refused:
            act()
        assert refused.value.message == "broken://bucket/maps: Access Denied"


def test_patterns_fit_the_path_or_the_name():
    assert matches("a/x_labelIds.png", ["*_labelIds.png"])
    assert matches("val/a/x.png", ["val/*"])
    assert matches("x.png", ["a*", "x.*"])
    assert not matches("a/x.png", ["y*", "x"])


# ---- jobs ----------------------------------------------------------------------------------------


def claimed(*inputs: str, before: dict[str, str] | None = None) -> list[str]:
    stems = Stems(before or {})
    return [stems.claim(name) for name in inputs]


def test_names_of_clips_mirror_those_of_maps():
    assert claimed("a/x.png", "b/x.png", "x.y.png") == ["a/x", "b/x", "x.y"]
    assert claimed("x.png", "x.tif", "x.npy") == ["x", "x.tif", "x.npy"]
    assert claimed("x.tif", "x.png", "x.tif") == ["x", "x.png", "x"]


def test_names_of_clips_stay_whoever_comes_first_later():
    before = {"x.tif": "x", "a/y.png": "a/y.png"}
    assert claimed("x.png", "x.tif", "a/y.png", before=before) == ["x.png", "x", "a/y.png"]


def test_names_that_some_file_systems_take_for_one_differ():
    assert claimed("X.png", "x.png", "é.png", "e\u0301.png") == [
        "X",
        "x.png",
        "é",
        "e\u0301.png",
    ]


def test_no_clip_has_the_name_of_another_s_extra_output(spec):
    inputs = ["x.png", "x.panel.png", "x.preview.tif", "x.frames.png", "x.frames/y.png"]
    inputs += ["x.frames_/y.png", "x.Flow/y.png", "x.png.npy", "x.panel.png.bmp", "x.panel.webp"]
    stems = claimed(*inputs)
    for samples in (1, 3):
        full = replace(
            spec,
            extras=("frames", "flow", "visibility", "panel", "preview"),
            samples=tuple(plan_samples(samples)),
        )
        paths = [p for s in stems for one in output_names(s, full) for p in one.values()]
        assert len({path.lower() for path in paths}) == len(paths) == len(inputs) * samples * 6
        folders = {path for path in paths if path.endswith(("frames", "flow", "visibility"))}
        assert not any(p.startswith(f"{folder}/") for p in paths for folder in folders)


def test_outputs_are_named_after_the_clip(spec):
    full = replace(spec, extension=".mp4", extras=("frames", "panel", "preview"))
    assert output_names("a/x.y", full) == [
        {
            "video": "a/x.y.mp4",
            "frames": "a/x.y.frames",
            "panel": "a/x.y.panel.mp4",
            "preview": "a/x.y.preview.png",
        }
    ]
    several = replace(spec, samples=tuple(plan_samples(2)), extras=("preview",))
    assert output_names("x", several) == [
        {"video": "x-001.gif", "preview": "x-001.preview.png"},
        {"video": "x-002.gif", "preview": "x-002.preview.png"},
    ]
    many = replace(spec, samples=tuple(plan_samples(1000)))
    assert output_names("x", many)[0] == {"video": "x-0001.gif"}


@pytest.mark.parametrize(
    "change",
    [
        {"precision": "bf16"},
        {"encoding": "train-ids"},
        {"encoding_sha256": "1"},
        {"samples": (Sample(seed=1),)},
        {"samples": tuple(plan_samples(2))},
        {"settings": {"frames": 3}},
        {"settings": {"frames": 2, "size_hw": (32, 64)}},
        {"extension": ".mp4"},
        {"extras": ("preview",)},
        {"weights_sha256": {"motion": "1"}},
    ],
    ids=str,
)
def test_whatever_changes_a_clip_changes_its_key(spec, change):
    assert replace(spec, **change).key("1") != spec.key("1")
    assert options_key(replace(spec, **change)) != options_key(spec)


def test_nothing_else_changes_the_key(spec):
    same = replace(spec, batch=4, compile=True, weights="the same elsewhere")
    assert same.key("1") == spec.key("1") != spec.key("2")
    toml = [replace(spec, encoding=name, encoding_sha256="1") for name in ("a.toml", "b.toml")]
    assert toml[0].key("1") == toml[1].key("1")


# ---- the manifest --------------------------------------------------------------------------------


def a_result(name: str, spec: WorkSpec, **changes: Any) -> Result:
    job = Job(input=name, input_sha256="1", key=spec.key("1"), stem=Path(name).stem)
    return Result(**{"job": job, "size": (64, 32), "seconds": 2.0, **changes})


FACTS = {"options": "", "samples": 1, "frames": 2}


@pytest.fixture
def manifest() -> Manifest:
    folder = open_folder("out")
    folder.prepare()
    return Manifest(folder)


def test_every_line_is_there_when_it_was_added(manifest, spec):
    with manifest.writing():
        for name in ("a.png", "b \n\udcff.png"):
            manifest.add(a_result(name, spec), FACTS)
            lines = Path("out/manifest.jsonl").read_bytes().splitlines()
            assert json.loads(lines[-1])["input"] == name
        assert len(lines) == 2


def test_later_lines_replace_earlier_ones(manifest, spec):
    with manifest.writing():
        manifest.add(a_result("a.png", spec), FACTS)
        manifest.add(a_result("b.png", spec), FACTS)
        manifest.add(a_result("a.png", spec, reason="a.png: broken"), FACTS)
        assert len(Path("out/manifest.jsonl").read_text().splitlines()) == 3
    lines = Path("out/manifest.jsonl").read_text().splitlines()
    assert [json.loads(line)["input"] for line in lines] == ["a.png", "b.png"]
    assert manifest.record("a.png")["reason"] == "a.png: broken"


@pytest.mark.parametrize("kept", [1, 20, -3, -1])
def test_a_line_that_was_cut_off_is_dropped(manifest, spec, kept):
    with manifest.writing():
        manifest.add(a_result("a.png", spec), FACTS)
        whole = Path("out/manifest.jsonl").read_bytes()
        manifest.add(a_result("b.png", spec), FACTS)
        second = Path("out/manifest.jsonl").read_bytes()[len(whole) :]
    Path("out/manifest.jsonl").write_bytes(whole + second[:kept])
    with manifest.writing():
        complete = kept == -1  # all but the end of the line
        assert Path("out/manifest.jsonl").read_bytes() == whole + second * complete
        manifest.add(a_result("b.png", spec), FACTS)
    assert [record["input"] for record in manifest.records()] == ["a.png", "b.png"]


@pytest.mark.parametrize(
    "line",
    ['{"input": "x"}', "notes", "[]", "7", '{"input": ["x"]}', '{"image": "x.png", "key": "k"}'],
)
def test_another_s_manifest_is_left_alone(manifest, line):
    Path("out/manifest.jsonl").write_text(f"{line}\n")
    with pytest.raises(InputError, match=r"manifest\.jsonl: line 1 is not"), manifest.writing():
        pass
    assert Path("out/manifest.jsonl").read_text() == f"{line}\n"


def test_done_is_what_was_made_of_the_same_and_is_still_whole(manifest, spec):
    Path("out/frames").mkdir()
    Path("out/frames/frame_00000.png").write_bytes(b"12345")
    Path("out/a.gif").write_bytes(b"123")
    outputs = (("a.gif", 3), ("frames", 5))
    with manifest.writing():
        manifest.add(a_result("a.png", spec, outputs=outputs), FACTS)
        manifest.add(a_result("b.png", spec, reason="broken"), FACTS)
    assert manifest.is_done("a.png", spec.key("1"))
    assert not manifest.is_done("a.png", spec.key("2"))
    assert not manifest.is_done("b.png", spec.key("1"))
    assert not manifest.is_done("c.png", spec.key("1"))
    Path("out/frames/.DS_Store").write_bytes(b"a file manager's")
    assert manifest.is_done("a.png", spec.key("1"))
    Path("out/frames/frame_00000.png").write_bytes(b"123")
    assert not manifest.is_done("a.png", spec.key("1"))
    Path("out/frames/frame_00000.png").write_bytes(b"12345")
    Path("out/a.gif").unlink()
    assert not manifest.is_done("a.png", spec.key("1"))


def test_files_that_will_be_made_again_no_longer_count(manifest, spec):
    Path("out/a.gif").write_bytes(b"123")
    result = a_result("a.png", spec, outputs=(("a.gif", 3),))
    with manifest.writing():
        manifest.add(result, FACTS)
        manifest.supersede(result.job)
    manifest = Manifest(manifest.folder)  # after a kill, say
    manifest.load()
    assert not manifest.is_done("a.png", spec.key("1"))
    assert manifest.stems() == {"a.png": "a"}


@POSIX
def test_two_runs_cannot_write_at_the_same_time(manifest):
    other = Manifest(manifest.folder)
    refused = pytest.raises(InputError, match="out: another run is writing here")
    with manifest.writing(), refused, other.writing():
        pass
    with other.writing():
        pass


def test_a_run_sees_what_another_has_just_added(manifest, spec):
    late = Manifest(manifest.folder)
    late.load()
    with manifest.writing():
        manifest.add(a_result("a.png", spec), FACTS)
    with late.writing():
        assert late.stems() == {"a.png": "a"}
    assert late.record("a.png")


@POSIX
def test_a_full_disk_ends_the_run_and_leaves_whole_lines(manifest, spec, monkeypatch):
    with manifest.writing():
        manifest.add(a_result("a.png", spec), FACTS)
        file = manifest._file

        class Full:
            def write(self, data: bytes) -> int:
                return file.write(data[:7])

            def close(self) -> None:
                file.close()

        monkeypatch.setattr(manifest, "_file", Full())
        with pytest.raises(Seg2VidError, match="cannot be written: No space left"):
            manifest.add(a_result("b.png", spec), FACTS)
        before = Path("out/manifest.jsonl").read_bytes()
    assert before.endswith(b'\n{"input')
    manifest = Manifest(manifest.folder)
    manifest.load()
    assert {"a.png"} <= set(manifest.stems())


def test_behind_a_url_the_manifest_is_uploaded_soon_and_at_the_end(spec, monkeypatch):
    monkeypatch.setattr("seg2vid_cli.batch.manifest.UPLOAD_EVERY_S", 0.05)
    manifest = Manifest(open_folder("memory://out"))

    def there() -> int:
        return (manifest.folder.read("manifest.jsonl") or b"").count(b"\n")

    with manifest.writing():
        for number in range(1, 4):
            manifest.add(a_result(f"{number}.png", spec), FACTS)
            until(lambda number=number: there() == number)
        monkeypatch.setattr("seg2vid_cli.batch.manifest.UPLOAD_EVERY_S", 60)
        manifest.add(a_result("4.png", spec), FACTS)
        manifest.add(a_result("5.png", spec), FACTS)
    assert there() == 5


def until(there: Callable[[], Any], seconds: float = 30) -> None:
    end = time.monotonic() + seconds
    while not there():
        assert time.monotonic() < end
        time.sleep(0.01)


def test_the_time_to_expect_is_that_of_the_same_options_or_by_frames_and_pixels(manifest, spec):
    def expected(**changes: Any) -> float | None:
        return manifest.expected_seconds(replace(spec, **changes), native_hw=(32, 64))

    assert expected() is None
    same = {**FACTS, "options": options_key(spec)}
    with manifest.writing():
        for number, seconds in enumerate((9.0, 2.0, 2.5)):  # networks are loaded for the first
            manifest.add(a_result(f"{number}.png", spec, seconds=seconds), same)
        manifest.add(a_result("x.png", spec, reason="broken", seconds=0.1), same)
    assert expected() == 2.5
    assert expected(settings={"frames": 20}) == pytest.approx(25)
    assert expected(samples=tuple(plan_samples(4))) == pytest.approx(10)
    assert expected(settings={"frames": 2, "size_hw": (64, 128)}) == pytest.approx(10)


# ---- whole batches -------------------------------------------------------------------------------


def test_clips_mirror_the_folders_and_are_those_of_generate(batch, tiny_bundle):
    for seed, name in enumerate(("a/x.png", "b/x.png", "b/x.tif", "c d/ü\nz.npy", "-n.png")):
        a_map(f"maps/{name}", seed)
    summary = batch()
    assert counts(summary) == (5, 5, 0, 0)
    clips = ["-n.gif", "a/x.gif", "b/x.gif", "b/x.tif.gif", "c d/ü\nz.gif"]
    assert [name for name in files() if not name.endswith("/")] == clips
    pipeline = Pipeline.open(str(tiny_bundle), device="cpu")
    generate_file("maps/b/x.png", "one.gif", pipeline=pipeline, **SETTINGS)
    assert Path("one.gif").read_bytes() == Path("out/b/x.gif").read_bytes()
    kinds = [event["event"] for event in batch.events]
    assert (kinds[:2], kinds[-1], kinds.count("done")) == (["start", "found"], "end", 5)
    record = next(r for r in batch.records() if r["input"] == "b/x.tif")
    assert record["outputs"] == [{"path": "b/x.tif.gif", "bytes": size("out/b/x.tif.gif")}]
    assert (record["status"], record["size"], record["frames"]) == ("done", [64, 32], 2)
    assert sum(r["seconds"] for r in batch.records()) <= summary.seconds


def size(path: str) -> int:
    return Path(path).stat().st_size


def test_a_second_run_makes_only_what_is_missing_or_changed(batch, painter_bundle):
    for number in range(4):
        a_map(f"maps/{number}.png", number)
    batch()
    before = {name: Path("out", name).read_bytes() for name in files()}
    assert counts(batch()) == (4, 0, 4, 0)
    Path("out/0.gif").unlink()
    Path("out/1.gif").write_bytes(before["1.gif"][:-1])
    a_map("maps/2.png", 9)
    a_map("maps/4.png", 4)
    summary = batch()
    assert counts(summary) == (5, 4, 1, 0)
    assert batch.inputs("skipped") == ["3.png"]
    after = {name: Path("out", name).read_bytes() for name in files()}
    assert [after[n] == before[n] for n in before] == [True, True, False, True]
    assert sorted(r["input"] for r in batch.records()) == [f"{n}.png" for n in range(5)]
    assert counts(batch(overwrite=True)) == (5, 5, 0, 0)
    batch.spec = replace(batch.spec, settings={"frames": 1})
    assert counts(batch(globs=("[34].png",))) == (2, 2, 0, 0)
    batch.spec = replace(batch.spec, first_frame_weights=str(painter_bundle))
    assert counts(batch(exclude=("[0123]*",))) == (1, 1, 0, 0)
    assert {r["status"] for r in batch.records()} == {"done"}


def test_another_encoding_file_is_another_option(batch):
    names = dict(zip((ROAD, BUILDING, SKY, CAR), ("road", "building", "sky", "car"), strict=True))
    for car in ("car", "bus"):
        names[CAR] = car
        Path("my.toml").write_text(
            "[classes]\n" + "".join(f'{number} = "{name}"\n' for number, name in names.items())
        )
        a_map("maps/x.png")
        batch.spec = replace(batch.spec, encoding="my.toml", settings={"frames": 1})
        assert counts(batch()) == (1, 1, 0, 0)
    assert counts(batch()) == (1, 0, 1, 0)


def test_all_outputs_of_several_samples(batch):
    a_map("maps/a/x.png")
    extras = ("frames", "flow", "visibility", "panel", "preview")
    batch.spec = replace(batch.spec, samples=tuple(plan_samples(2)), extras=extras)
    batch()
    for clip in ("a/x-001", "a/x-002"):
        assert probe_video(Path(f"out/{clip}.gif")).frames == 2
        for kind in ("frames", "flow", "visibility"):
            assert Path(f"out/{clip}.{kind}/clip.json").is_file()
        assert Path(f"out/{clip}.panel.gif").is_file()
        assert Path(f"out/{clip}.preview.png").is_file()
    (record,) = batch.records()
    assert len(record["outputs"]) == 12
    assert counts(batch()) == (1, 0, 1, 0)
    next(Path("out/a/x-002.flow").glob("*.flo")).unlink()
    assert counts(batch()) == (1, 1, 0, 0)


def test_bad_maps_are_listed_and_the_others_made(batch):
    a_map("maps/a.png")
    Path("maps/b.png").write_bytes(b"no picture")
    Path("maps/c.npy").touch()
    np.save("maps/d.npy", np.full((32, 64), 99, np.uint8))
    a_map("maps/e.png", 1)
    Path("out/a.gif").mkdir(parents=True)  # in the way
    Path("maps/f.png").symlink_to("nowhere")
    assert counts(batch()) == (6, 1, 0, 5)
    failed = {r["input"]: r for r in batch.records() if r["status"] == "failed"}
    assert sorted(failed) == ["a.png", "b.png", "c.npy", "d.npy", "f.png"]
    for name in ("b.png", "c.npy", "d.npy", "f.png"):
        assert failed[name]["reason"].startswith(f"{name}: ")  # as the manifest calls it
        assert "\n" not in failed[name]["reason"]
    assert "out/a.gif is a folder" in failed["a.png"]["reason"]
    assert failed["d.npy"]["hint"]
    Path("out/a.gif").rmdir()
    Path("maps/f.png").unlink()
    assert counts(batch()) == (5, 1, 1, 3)  # what failed is tried again
    assert "f.png" not in {record["input"] for record in batch.records()}


def test_no_label_maps_at_all_is_a_mistake(batch):
    Path("maps").mkdir()
    for options in ({}, {"dry_run": True}):
        with pytest.raises(InputError, match="maps: no label maps there"):
            batch(**options)
    a_map("maps/x.png")
    with pytest.raises(InputError, match="no label maps there that fit"):
        batch(globs=("*_labelIds.png",))
    assert not Path("out").exists()


def test_out_inside_the_maps_is_not_read(batch):
    a_map("maps/x.png")
    batch.spec = replace(batch.spec, extras=("preview", "frames"))
    for done in (1, 0):
        assert counts(batch(out=open_folder("maps/out"))) == (1, done, 1 - done, 0)
    assert counts(batch(out=open_folder("maps/out2")))[:2] == (1, 1)
    with pytest.raises(InputError, match="is the folder of label maps"):
        batch(out=open_folder("maps/../maps"))


def test_maps_inside_out_never_get_company(batch):
    a_map("data/maps/x.png")
    a_map("data/maps/maps/y.png")
    options = {"maps": open_folder("data/maps"), "out": open_folder("data")}
    assert counts(batch(**options)) == (2, 1, 0, 1)
    assert batch.inputs("failed") == ["maps/y.png"]
    assert files("data") == ["maps/", "maps/maps/", "maps/maps/y.png", "maps/x.png", "x.gif"]


def test_a_dry_run_says_what_would_be_made_and_how_long(batch):
    for number in range(3):
        a_map(f"maps/{number}.png", number)
    summary = batch(dry_run=True)
    assert (summary.found, summary.todo, summary.expected_seconds) == (3, 3, None)
    assert not Path("out").exists()
    batch(globs=("0*",))
    before = files(".")
    summary = batch(dry_run=True)
    assert (summary.todo, summary.skipped) == (2, 1)
    (record,) = batch.records()
    assert summary.expected_seconds == pytest.approx(2 * record["seconds"])
    assert [e["outputs"] for e in batch.events if e["event"] == "would"] == [["1.gif"], ["2.gif"]]
    assert batch(dry_run=True, devices=("cpu", "cpu")).expected_seconds == pytest.approx(
        record["seconds"]
    )
    assert files(".") == before


@pytest.mark.parametrize(
    ("options", "changes", "says"),
    [
        ({"idle_s": 1.0}, {}, "--idle is for --watch"),
        ({"idle_s": -1.0, "watch": True}, {}, "idle -1 is out of range"),
        ({"watch": True, "dry_run": True}, {}, "does not wait"),
        ({"workers": 2}, {}, "are for --engine ray"),
        ({"engine": "slurm"}, {}, "engine 'slurm' is not known"),
        ({"engine": "ray", "devices": ("cuda:0", "cuda:1")}, {}, "every worker has one device"),
        ({"engine": "ray", "workers": 0}, {}, "workers 0 is out of range"),
        ({}, {"batch": 0}, "batch 0 is out of range"),
        ({}, {"extension": ".avi"}, "format 'avi' is not known"),
        ({}, {"extras": ("sound",)}, "output 'sound' is not known"),
        ({}, {"encoding": "cityscape"}, "unknown encoding"),
        ({}, {"encoding": "missing.toml"}, "cannot be read"),
        ({}, {"settings": {"frames": 0}}, "frames 0 is out of range"),
        ({}, {"weights": "nothing"}, "nothing"),
        ({}, {"settings": {"frames": 2, "fps": 60}}, "^cannot play 60 frames per second$"),
    ],
    ids=str,
)
def test_what_cannot_work_is_refused_before_anything_is_made(batch, options, changes, says):
    a_map("maps/x.png")
    batch.spec = replace(batch.spec, **changes)
    with pytest.raises(InputError, match=says) as refused:
        batch(**options)
    assert refused.value.hint
    assert batch.events == []
    assert not Path("out").exists()


def test_weights_without_motion_make_pictures_only(batch, painter_bundle):
    a_map("maps/x.png")
    batch.spec = replace(batch.spec, weights=str(painter_bundle))
    with pytest.raises(InputError, match="have no motion stage"):
        batch()
    batch.spec = replace(batch.spec, settings={"frames": 1})
    assert counts(batch()) == (1, 1, 0, 0)


def test_other_weights_than_the_batch_started_with_are_refused(spec):
    spec = replace(spec, weights_sha256={"motion": "1"})
    with pytest.raises(WeightsError, match="not those that the batch was started with"):
        Worker(spec, open_folder("maps"), open_folder("out"), device="cpu")


def test_folders_behind_urls(batch):
    for number in range(2):
        a_map(f"maps/a/{number}.png", number)
    Path("maps/a/bad.png").write_bytes(b"no picture")
    fsspec.filesystem("memory").put("maps", "/data/maps", recursive=True)
    batch.options = replace(
        batch.options,
        maps=open_folder("memory://data/maps"),
        out=open_folder("memory://data/maps/clips"),
    )
    batch.spec = replace(batch.spec, extras=("preview", "frames"))
    assert counts(batch()) == (3, 2, 0, 1)
    (failed,) = (r for r in batch.records() if r["status"] == "failed")
    assert failed["reason"].startswith("a/bad.png: ")
    assert counts(batch()) == (3, 0, 2, 1)
    memory = fsspec.filesystem("memory")
    memory.rm("/data/maps/clips/a/0.frames/frame_00001.png")
    memory.pipe_file("/data/maps/clips/a/1.gif", b"cut off")
    assert counts(batch()) == (3, 2, 0, 1)
    with pytest.raises(InputError, match="is the folder of label maps"):
        batch(out=open_folder("memory://data/maps/"))
    batch.options = replace(batch.options, out=open_folder("out"))  # one end is enough
    assert counts(batch()) == (3, 2, 0, 1)


# ---- the worker's threads ------------------------------------------------------------------------


@pytest.fixture
def made_together(monkeypatch: pytest.MonkeyPatch) -> list[int]:
    """How many clips each call of `Pipeline.make` was given."""
    calls = []
    make = Pipeline.make

    def counted(self, clips, **options):
        calls.append(len(clips))
        return make(self, clips, **options)

    monkeypatch.setattr(Pipeline, "make", counted)
    return calls


def test_maps_of_one_size_are_made_together(batch, made_together):
    sizes = [(64, 32), (32, 64)]
    for number in range(8):
        a_map(f"maps/{number}.png", number, sizes[number % 2])
    Path("maps/3b.png").write_bytes(b"no picture")
    batch.spec = replace(batch.spec, batch=2)
    assert counts(batch()) == (9, 8, 0, 1)
    assert made_together == [2, 2, 2, 2]


def test_maps_of_many_sizes_do_not_wait_for_ever(batch, made_together):
    for number in range(6):
        a_map(f"maps/{number}.png", number, (64, 32 + 8 * number))
    batch.spec = replace(batch.spec, batch=2, settings={"frames": 1})
    assert counts(batch()) == (6, 6, 0, 0)
    assert sorted(made_together) == [1] * 6


def test_many_samples_are_made_a_few_at_a_time(batch, made_together):
    a_map("maps/x.png")
    samples = tuple(plan_samples(TOGETHER + 2, vary="both"))
    batch.spec = replace(batch.spec, samples=samples, settings={"frames": 1})
    assert counts(batch()) == (1, 1, 0, 0)
    assert made_together == [TOGETHER, 2]
    assert len(batch.records()[0]["outputs"]) == TOGETHER + 2


def test_a_clip_that_cannot_be_written_takes_no_other_with_it(batch, made_together):
    for number in range(4):
        a_map(f"maps/{number}.png", number)
    Path("out/2.gif").mkdir(parents=True)
    batch.spec = replace(batch.spec, batch=4)
    assert counts(batch()) == (4, 3, 0, 1)
    assert batch.inputs("failed") == ["2.png"]


def test_reading_making_and_writing_overlap(batch, monkeypatch):
    """Every stage waits for something that only happens if the others go on meanwhile."""
    for number in range(3):
        a_map(f"maps/{number}.png", number)
    read, noted = threading.Semaphore(0), threading.Event()
    make, read_map, begun = Pipeline.make, Worker.read, []

    def reading(self, job):
        item = read_map(self, job)
        read.release()
        return item

    def making(self, clips, **options):
        begun.append(len(clips))
        if len(begun) == 1:
            for _ in range(3):  # all are read while the first is made
                assert read.acquire(timeout=30)
        if len(begun) == 3:  # the first is finished and noted while the last is made
            assert noted.wait(30)
        return make(self, clips, **options)

    monkeypatch.setattr(Worker, "read", reading)
    monkeypatch.setattr(Pipeline, "make", making)

    def tell(event):
        if event["event"] == "done":
            noted.set()

    assert counts(batch(tell)) == (3, 3, 0, 0)


@pytest.mark.parametrize("slow", ["networks", "writing"])
def test_nothing_runs_far_ahead(spec, monkeypatch, slow):
    """With thousands of maps only a few are in memory, whatever is slowest."""
    count, asked, go, done = 12, [], threading.Event(), []
    for number in range(count):
        a_map(f"maps/{number:02d}.png", number)
    make, complete = Pipeline.make, worker_module._complete

    def making(self, clips, **options):
        assert slow == "writing" or go.wait(30)
        return make(self, clips, **options)

    def completing(clip):
        assert slow == "networks" or go.wait(30)
        complete(clip)

    def jobs():
        for number in range(count):
            asked.append(number)
            name = f"{number:02d}.png"
            yield Job(input=name, input_sha256=worker.maps.sha256(name), key="", stem=str(number))

    monkeypatch.setattr(Pipeline, "make", making)
    monkeypatch.setattr(worker_module, "_complete", completing)
    spec = replace(spec, settings={"frames": 1})
    worker = Worker(spec, open_folder("maps"), open_folder("out"), device="cpu")
    thread = threading.Thread(target=lambda: done.extend(worker.run(jobs())))
    thread.start()
    most = AHEAD + 2 + (UNFINISHED + 1 if slow == "writing" else 0)
    until(lambda: len(asked) == most)
    time.sleep(0.1)
    assert (len(asked), done) == (most, [])
    go.set()
    thread.join(30)
    assert [result.reason for result in done] == [None] * count


def test_a_map_that_changes_after_it_was_found_is_not_noted_as_what_it_was(batch, monkeypatch):
    a_map("maps/x.png")
    plan = Worker._plan

    def late(self, path, job):
        a_map("maps/x.png", 5)
        return plan(self, path, job)

    monkeypatch.setattr(Worker, "_plan", late)
    assert counts(batch()) == (1, 0, 0, 1)
    assert batch.records()[0]["reason"] == "x.png: has changed since it was found"
    assert files() == []


def test_an_interruption_leaves_whole_files_and_no_threads(batch):
    for number in range(8):
        a_map(f"maps/{number:02d}.png", number)
    before = threading.active_count()

    def interrupt(event):
        if event["event"] == "done":
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        batch(interrupt)
    assert threading.active_count() == before
    assert [record["status"] for record in batch.records()] == ["done"]
    assert not [name for name in files() if ".seg2vid-" in name]
    for name in files():
        assert probe_video(Path("out", name)).frames == 2
    summary = batch()
    assert counts(summary)[::3] == (8, 0)
    assert summary.skipped == 1


def test_a_gpu_that_fails_ends_the_run_and_blames_no_map(batch, monkeypatch):
    for number in range(3):
        a_map(f"maps/{number}.png", number)

    def fails(self, clips, **options):
        raise torch.AcceleratorError("CUDA error: an illegal memory access\nmore")

    monkeypatch.setattr(Pipeline, "make", fails)
    with pytest.raises(DeviceLostError, match=r"^cpu has failed: CUDA error: an illegal memory"):
        batch()
    assert batch.records() == []


# ---- watching ------------------------------------------------------------------------------------


@pytest.fixture
def quick(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(run_module, "POLL_S", 0.02)
    monkeypatch.setattr(run_module, "SETTLED_S", 0.25)


def test_watching_goes_on_with_what_arrives_and_waits_until_it_is_whole(batch, quick):
    a_map("maps/a.png")
    whole = a_map("whole.png", 1).read_bytes()
    noted = threading.Event()
    half_way = []

    def arrive():
        noted.wait(30)  # the first is noted without waiting for the next
        with Path("maps/b.png").open("wb") as file:
            for first in range(0, len(whole), 8):
                file.write(whole[first : first + 8])
                file.flush()
                time.sleep(0.02)
        half_way.extend(batch.inputs("done"))
        a_map("maps/deep/c.png", 2)

    def tell(event):
        if event["event"] == "done":
            noted.set()

    thread = threading.Thread(target=arrive)
    thread.start()
    summary = batch(tell, watch=True, idle_s=0.6)
    thread.join()
    assert counts(summary) == (3, 3, 0, 0)
    assert half_way == ["a.png"]
    assert batch.inputs("done") == ["a.png", "b.png", "deep/c.png"]


def test_watching_an_empty_folder_ends_when_idle(batch, quick):
    Path("maps").mkdir()
    assert counts(batch(watch=True, idle_s=0)) == (0, 0, 0, 0)


def test_watching_never_ends_before_what_is_there_is_made(batch, quick):
    a_map("maps/a.png")
    Path("maps/empty.png").touch()
    Path("maps/link.png").symlink_to("nowhere")
    summary = batch(watch=True, idle_s=0)
    assert counts(summary) == (3, 1, 0, 2)
    assert batch.inputs("failed") == ["empty.png", "link.png"]


def test_a_watched_map_that_is_written_again_is_made_again(batch, quick):
    Path("maps").mkdir()
    Path("maps/a.png").write_bytes(a_map("whole.png", 1).read_bytes()[:60])  # stalled

    def tell(event):
        if event["event"] == "failed":
            a_map("maps/a.png", 1)
        if event["event"] == "done" and len(batch.inputs("done")) == 1:
            a_map("maps/a.png", 2)

    summary = batch(tell, watch=True, idle_s=0.3)
    assert counts(summary) == (1, 1, 0, 0)
    assert [e["event"] for e in batch.events if "input" in e] == ["failed", "done", "done"]
    assert counts(batch()) == (1, 0, 1, 0)


def test_an_interruption_does_not_wait_for_the_next_look(batch, quick, monkeypatch):
    a_map("maps/a.png")

    def interrupt(event):
        if event["event"] == "done":
            monkeypatch.setattr(run_module, "POLL_S", 60)
            time.sleep(0.1)
            raise KeyboardInterrupt

    began = time.monotonic()
    with pytest.raises(KeyboardInterrupt):
        batch(interrupt, watch=True)
    assert time.monotonic() - began < 30


# ---- several processes ---------------------------------------------------------------------------


def some_jobs(count: int) -> list[Job]:
    return [Job(input=str(n), input_sha256="", key="", stem=str(n)) for n in range(count)]


def dealt(dealer: Dealer, hands: list[Hand], count: int) -> list[str]:
    """So many jobs are dealt out, and no more for a while; their inputs."""
    found: list[str] = []

    def enough() -> bool:
        found.extend(job.input for _, job in dealer.deal(hands))
        return len(found) >= count

    until(enough)
    time.sleep(0.05)
    enough()
    assert len(found) == count
    return found


def test_jobs_go_to_those_that_are_ready_and_have_least_to_do():
    hands = [Hand(ready=True), Hand(ready=True), Hand()]
    depth = hands[0].depth
    with Dealer([*some_jobs(16), None]) as dealer:
        found = dealt(dealer, hands, 2 * depth)
        assert [len(hand.jobs) for hand in hands] == [depth, depth, 0]
        hands[2].ready = True
        found += dealt(dealer, hands, depth)
        assert [len(hand.jobs) for hand in hands] == [depth] * 3
        job = next(iter(hands[1].jobs.values()))
        assert dealer.answered(hands[1], Result(job=job))
        assert not dealer.answered(hands[1], Result(job=job))  # twice
        found += dealt(dealer, hands, 1)
        assert len(hands[1].jobs) == depth
        for hand in hands:
            hand.jobs.clear()
        found += dealt(dealer, hands, 3)
        until(lambda: not list(dealer.deal(hands)) and not dealer.more)
        assert sorted(found, key=int) == [job.input for job in some_jobs(16)]


def test_jobs_of_a_dead_process_are_tried_once_more_each_alone():
    hands = [Hand(ready=True), Hand(ready=True)]
    depth = hands[0].depth
    with Dealer(some_jobs(2 * depth)) as dealer:
        dealt(dealer, hands, 2 * depth)
        lost, others = list(hands[0].jobs), list(hands[1].jobs)
        assert dealer.died(hands[0], "died") == []
        assert dealt(dealer, hands, 1) == lost[:1]  # the rest waits
        assert hands[0].alone
        (failed,) = dealer.died(hands[0], "its process died with code -9")
        assert failed.job.input == lost[0]
        assert failed.reason == f"{lost[0]}: its process died with code -9"
        for name in lost[1:]:
            assert dealt(dealer, hands, 1) == [name]
            assert list(hands[0].jobs) == [name]
            assert dealer.answered(hands[0], Result(job=hands[0].jobs[name]))
        assert list(hands[1].jobs) == others  # which goes on meanwhile
        until(lambda: not list(dealer.deal(hands)) and not dealer.more)


def test_what_goes_wrong_while_looking_for_jobs_is_raised():
    def jobs():
        yield some_jobs(1)[0]
        raise InputError("the folder has gone")

    hands = [Hand(ready=True)]
    with pytest.raises(InputError, match="has gone"), Dealer(jobs()) as dealer:
        until(lambda: list(dealer.deal(hands)) and False)


def test_threads_stop_together():
    failures: list[BaseException] = []
    threads = Threads(failed=failures.append)
    line: Line[int] = Line(1, threads.stopped)
    threads.start(lambda: [line.put(number) for number in range(9)])
    threads.start(lambda: threads.stopped.wait(30))
    assert (line.get(), line.get()) == (0, 1)
    threads.stop()
    assert failures == []
    with pytest.raises(StoppedError):
        line.get()


@POSIX
def test_a_process_that_is_killed_is_replaced_and_nothing_is_lost_or_made_twice(batch, monkeypatch):
    for number in range(8):
        a_map(f"maps/{number:02d}.png", number)
    Path("maps/bad.png").write_bytes(b"no picture")
    killed = []

    def kill(event):
        if event["event"] == "done" and not killed:
            killed.extend(child.pid for child in multiprocessing.active_children()[:1])
            os.kill(killed[0], signal.SIGKILL)

    monkeypatch.setenv("PYTHONPATH", str(Path(run_module.__file__).parents[2]))
    summary = batch(kill, devices=("cpu", "cpu"))
    assert killed
    assert counts(summary) == (9, 8, 0, 1)
    lines = [record["input"] for record in batch.records()]
    assert len(lines) == len(set(lines)) == 9
    assert len(batch.inputs("done")) == len(set(batch.inputs("done"))) == 8
    assert not multiprocessing.active_children()
    assert [name for name in files() if ".seg2vid-" in name] == []
    assert counts(batch()) == (9, 0, 8, 1)


def test_ray_workers_fit_on_their_machines():
    def plan(*cpus: int, gpus: tuple[int, ...] = (), wanted: int | None = None):
        nodes = [{"CPU": float(cpu)} for cpu in cpus]
        for node, gpu in zip(nodes, gpus, strict=False):
            node["GPU"] = float(gpu)
        return plan_workers(nodes, on_gpu=bool(gpus), wanted=wanted)

    assert plan(2) == (1, 2)
    assert plan(3, 3) == (2, 3)  # not three workers, of which one would wait for ever
    assert plan(8, 8) == (8, 2)
    assert plan(1) == (1, 1)
    assert plan(1, 1) == (2, 1)
    assert plan(64, wanted=1) == (1, 64)
    assert plan(2, wanted=2) == (2, 1)
    assert plan(2, wanted=8) == (8, 2)  # more machines may come
    assert plan(0) == (1, 2)
    assert plan(16, 16, gpus=(8, 8)) == (16, 1)
    assert plan(2, gpus=(4,)) == (4, 0)
    assert plan(8, 8, gpus=(1, 1), wanted=4) == (4, 1)
