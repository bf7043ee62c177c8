"""The wheel: what is in it, and that it runs away from the checkout, without a network."""

from __future__ import annotations

import os
import subprocess
import sys
import zipfile
from pathlib import Path

import pytest

from seg2vid_cli.video import probe_video

pytest.importorskip("hatchling", reason="building the wheel needs hatchling (extra `test`)")

ROOT = Path(__file__).resolve().parent.parent


def pip(*arguments: str) -> None:
    command = [sys.executable, "-m", "pip", "--disable-pip-version-check", *arguments]
    result = subprocess.run(command, capture_output=True, text=True, cwd=ROOT)
    assert result.returncode == 0, result.stderr


@pytest.fixture(scope="module")
def wheel(tmp_path_factory):
    folder = tmp_path_factory.mktemp("wheel")
    pip("wheel", "--no-deps", "--no-build-isolation", "--no-index", "-w", str(folder), str(ROOT))
    (path,) = folder.glob("*.whl")
    return path


@pytest.fixture(scope="module")
def installed(wheel, tmp_path_factory):
    folder = tmp_path_factory.mktemp("site")
    pip("install", "--no-deps", "--no-index", "--target", str(folder), str(wheel))
    return folder


def run(installed: Path, cwd: Path, *arguments: str) -> subprocess.CompletedProcess[str]:
    dead_end = "http://127.0.0.1:9"
    environment = {
        **os.environ,
        "PYTHONPATH": str(installed),
        "HF_HUB_OFFLINE": "1",
        "OMP_NUM_THREADS": "1",
        **dict.fromkeys(("http_proxy", "https_proxy", "HTTP_PROXY", "HTTPS_PROXY"), dead_end),
    }
    command = [sys.executable, "-m", *arguments]
    return subprocess.run(command, cwd=cwd, env=environment, capture_output=True, text=True)


def test_the_wheel_holds_the_weights_their_card_and_the_registry(wheel):
    names = set(zipfile.ZipFile(wheel).namelist())
    street = "seg2vid_cli/weights/street/"
    stages = {f"{street}{stage}.safetensors" for stage in ("first_frame", "motion", "refine")}
    assert stages <= names
    assert {f"{street}bundle.json", f"{street}README.md"} <= names
    assert {"seg2vid_cli/weights.toml", "seg2vid_cli/py.typed"} <= names
    assert not [name for name in names if name.startswith(("tests/", "examples/"))]


def test_the_wheel_stays_small(wheel):
    assert wheel.stat().st_size < 40 * 2**20


def test_it_runs_from_the_wheel_offline(installed, tmp_path):
    code = "import seg2vid_cli; print(seg2vid_cli.__file__)"
    environment = {**os.environ, "PYTHONPATH": str(installed)}
    found = subprocess.run(
        [sys.executable, "-c", code], cwd=tmp_path, env=environment, capture_output=True, text=True
    )
    assert found.stdout.startswith(str(installed))
    labels = ROOT / "examples" / "labels" / "city-street.labelIds.png"
    result = run(
        installed,
        tmp_path,
        *("seg2vid_cli", "generate", str(labels), "-o", "out.mp4", "--frames", "3"),
    )
    assert result.returncode == 0, result.stderr
    assert "street (default)" in result.stdout
    info = probe_video(tmp_path / "out.mp4")
    assert (info.frames, info.size_hw) == (3, (128, 256))


def test_doctor_is_content(installed, tmp_path):
    result = run(installed, tmp_path, "seg2vid_cli", "doctor")
    assert result.returncode == 0, result.stderr
    assert "hashes match" in result.stdout
