"""`seg2vid batch --engine ray` on a real cluster of this machine: two worker processes and more."""

from __future__ import annotations

import os
import signal
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from test_batch import Batch, a_map, counts, files

import seg2vid_cli.batch.run as run_module
from seg2vid_cli.batch.deal import Dealer
from seg2vid_cli.batch.folders import UrlFolder
from seg2vid_cli.batch.jobs import WorkSpec
from seg2vid_cli.errors import InputError, WeightsError
from seg2vid_cli.video import probe_video
from seg2vid_cli.weights.load import read_bundle

ray = pytest.importorskip("ray")
psutil = pytest.importorskip("psutil")  # comes with Ray

pytestmark = [
    pytest.mark.slow,
    pytest.mark.filterwarnings("ignore"),  # Ray's own
]


@pytest.fixture(scope="module")
def cluster(tmp_path_factory: pytest.TempPathFactory) -> Iterator[None]:
    """Two workers of a CPU each, which find the package and see no other settings."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("PYTHONPATH", str(Path(run_module.__file__).parents[2]))
        patch.setenv("RAY_USAGE_STATS_ENABLED", "0")
        patch.setenv("OMP_NUM_THREADS", "1")
        patch.delenv("RAY_ADDRESS", raising=False)
        ray.init(num_cpus=2, include_dashboard=False, log_to_driver=False, logging_level="error")
        yield
        ray.shutdown()


@pytest.fixture
def batch(
    tiny_bundle: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, cluster: None
) -> Batch:
    monkeypatch.chdir(tmp_path)
    spec = WorkSpec(
        weights=str(tiny_bundle),
        encoding="label-ids",
        settings={"frames": 2},
        extension=".gif",
    )
    batch = Batch(spec)
    batch.options = replace(batch.options, engine="ray", workers=2)
    return batch


def worker_pids() -> list[int]:
    found = []
    for process in psutil.Process().children(recursive=True):
        name = " ".join(process.cmdline()) if process.is_running() else ""
        if name.startswith("ray::_Actor"):
            found.append(process.pid)
    return found


def test_the_same_work_on_a_cluster(batch):
    for number in range(9):
        a_map(f"maps/{number % 2}/{number}.png", number)
    Path("maps/bad.png").write_bytes(b"no picture")
    summary = batch()
    assert counts(summary) == (10, 9, 0, 1)
    made = {name: Path("out", name).read_bytes() for name in files() if name.endswith(".gif")}
    assert len(made) == 9
    local = Batch(batch.spec, out="local")
    assert counts(local()) == (10, 9, 0, 1)
    assert all(Path("local", name).read_bytes() == data for name, data in made.items())
    assert counts(batch()) == (10, 0, 9, 1)


def test_a_worker_that_is_killed_is_retried_by_ray_and_nothing_is_lost_or_noted_twice(
    batch, monkeypatch
):
    ours: list[Any] = []  # a second try of our own, for what Ray has given up
    monkeypatch.setattr(Dealer, "died", lambda *arguments, **options: ours.append(arguments) or [])
    for number in range(30):
        a_map(f"maps/{number:02d}.png", number)
    killed: list[int] = []
    seen: list[int] = []

    def kill(event: dict[str, Any]) -> None:
        if event["event"] == "done":
            seen.append(1)
            if len(seen) == 5:
                killed.append(worker_pids()[0])
                os.kill(killed[0], signal.SIGKILL)

    summary = batch(kill)
    assert (len(killed), ours) == (1, [])
    assert counts(summary) == (30, 30, 0, 0)
    lines = [record["input"] for record in batch.records()]
    assert len(lines) == len(set(lines)) == 30
    assert len(batch.inputs("done")) == 30
    assert files() == [f"{number:02d}.gif" for number in range(30)]
    assert {probe_video(Path("out", name)).frames for name in files()} == {2}


def test_maps_are_made_together_at_every_worker_behind_urls_too(batch, tmp_path):
    for number in range(8):
        a_map(f"maps/{number}.png", number)
    batch.spec = replace(batch.spec, batch=3, extras=("frames",))
    maps, out = UrlFolder(f"file://{tmp_path}/maps"), UrlFolder(f"file://{tmp_path}/out")
    assert counts(batch(maps=maps, out=out, workers=1)) == (8, 8, 0, 0)
    assert len([name for name in files() if name.endswith("frame_00001.png")]) == 8
    assert not [name for name in files() if ".seg2vid-" in name]


def test_other_weights_on_a_machine_of_the_cluster_are_refused(batch, monkeypatch):
    a_map("maps/x.png")
    hashes = read_bundle(Path(batch.spec.weights)).sha256()
    bundle = type("Bundle", (), {"size_hw": (32, 64), "fps": 10.0})()
    bundle.sha256 = lambda: {**hashes, "motion": "of another file"}
    monkeypatch.setattr(run_module, "_open", lambda spec, before_pull: bundle)
    with pytest.raises(WeightsError, match="not those that the batch was started with"):
        batch()


def test_watching_with_a_cluster_ends_when_idle(batch, monkeypatch):
    monkeypatch.setattr(run_module, "POLL_S", 0.1)
    monkeypatch.setattr(run_module, "SETTLED_S", 0.3)
    a_map("maps/0.png")

    def more(event: dict[str, Any]) -> None:
        if event["event"] == "done" and not Path("maps/1.png").exists():
            a_map("maps/1.png", 1)

    assert counts(batch(more, watch=True, idle_s=1)) == (2, 2, 0, 0)


def test_an_interruption_leaves_no_worker(batch):
    for number in range(20):
        a_map(f"maps/{number:02d}.png", number)

    def interrupt(event: dict[str, Any]) -> None:
        if event["event"] == "done":
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        batch(interrupt)
    assert worker_pids() == []
    assert [name for name in files() if ".seg2vid-" in name] == []
    batch()
    assert len(files()) == 20


def test_no_cluster_at_the_address(batch, monkeypatch):
    a_map("maps/x.png")
    monkeypatch.setattr(ray, "is_initialized", lambda: False)

    def init(**options: Any) -> None:
        raise ConnectionError("Could not connect to 10.0.0.1:6379\nmore")

    monkeypatch.setattr(ray, "init", init)
    with pytest.raises(InputError, match=r"no Ray cluster at 10\.0\.0\.1:6379: Could not connect"):
        batch(address="10.0.0.1:6379")
