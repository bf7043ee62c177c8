"""The wheel: what is in it, and that it runs away from the checkout and off the network."""

from __future__ import annotations

import importlib.util
import os
import subprocess
import sys
import zipfile
from dataclasses import dataclass
from email.parser import Parser
from pathlib import Path

import pytest
from PIL import Image
from test_cli_generate import facts, read_back, scene

from seg2vid_cli import __version__
from seg2vid_cli.weights.registry import file_sha256, read_registry

ROOT = Path(__file__).resolve().parent.parent
STREET = read_registry()["street"]
MISSING = [name for name in ("pip", "hatchling") if importlib.util.find_spec(name) is None]
pytestmark = pytest.mark.skipif(bool(MISSING), reason=f"building a wheel needs {MISSING}")


@dataclass(frozen=True)
class Installed:
    wheel: Path
    target: Path
    away: Path

    def run(self, *command: str) -> subprocess.CompletedProcess[str]:
        """Run a command with the installed package, in a folder of its own, without a network."""
        dead = "http://127.0.0.1:9"
        environment = {
            **os.environ,
            **dict.fromkeys(("http_proxy", "https_proxy", "HTTP_PROXY", "HTTPS_PROXY"), dead),
            "HF_HUB_OFFLINE": "1",
            "HF_HOME": str(self.away / "cache"),
            "PYTHONPATH": str(self.target),
            "OMP_NUM_THREADS": "1",
            "COLUMNS": "200",
        }
        return subprocess.run(
            command, cwd=self.away, env=environment, capture_output=True, text=True
        )


def pip(*arguments: str) -> None:
    quiet = ("--quiet", "--disable-pip-version-check", "--no-index", "--no-deps")
    command = [sys.executable, "-m", "pip", arguments[0], *quiet, *arguments[1:]]
    done = subprocess.run(command, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr


@pytest.fixture(scope="module")
def installed(tmp_path_factory: pytest.TempPathFactory) -> Installed:
    """A wheel built from this checkout, and the folder it is installed into."""
    wheels, target, away = (tmp_path_factory.mktemp(n) for n in ("wheels", "target", "away"))
    pip("wheel", "--no-build-isolation", "--wheel-dir", str(wheels), str(ROOT))
    (wheel,) = wheels.iterdir()
    pip("install", "--no-compile", "--target", str(target), str(wheel))
    Image.fromarray(scene()).save(away / "street.png")
    return Installed(wheel, target, away)


def test_the_wheel_holds_the_package_and_its_weights_and_nothing_else(installed):
    with zipfile.ZipFile(installed.wheel) as archive:
        sizes = {entry.filename: entry.file_size for entry in archive.infolist()}
    files = {file.name for file in STREET.files} | {"bundle.json", "README.md"}
    assert len([name for name in files if name.endswith(".safetensors")]) == 4
    wanted = {f"seg2vid_cli/weights/{STREET.folder}/{name}" for name in files}
    wanted |= {"seg2vid_cli/weights.toml", "seg2vid_cli/py.typed"}
    assert wanted - set(sizes) == set()
    assert {name.split("/")[0] for name in sizes} == {
        "seg2vid_cli",
        f"seg2vid_cli-{__version__}.dist-info",
    }
    assert [name for name in sizes if "test" in name or "__pycache__" in name] == []
    modules = {str(p.relative_to(ROOT)) for p in (ROOT / "seg2vid_cli").rglob("*.py")}
    assert modules - set(sizes) == set()


def test_the_wheel_stays_small(installed):
    assert installed.wheel.stat().st_size < 40 * 2**20


def test_the_wheel_s_metadata_are_those_of_the_project(installed):
    (info,) = installed.target.glob("*.dist-info")
    about = Parser().parsestr((info / "METADATA").read_text(encoding="utf-8"))
    assert (about["Name"], about["Version"]) == ("seg2vid-cli", __version__)
    assert about["Requires-Python"] == ">=3.10"
    assert {"train", "test"} <= set(about.get_all("Provides-Extra"))
    assert "seg2vid = seg2vid_cli.cli:main" in (info / "entry_points.txt").read_text()
    assert [*info.rglob("LICENSE")]


def test_the_installed_weights_are_whole(installed):
    folder = installed.target / "seg2vid_cli" / "weights" / STREET.folder
    assert {file.name: file_sha256(folder / file.name) for file in STREET.files} == {
        file.name: file.sha256 for file in STREET.files
    }


def test_the_installed_package_makes_a_clip_off_the_network(installed):
    where = installed.run(sys.executable, "-c", "import seg2vid_cli; print(seg2vid_cli.__file__)")
    assert Path(where.stdout.strip()) == installed.target / "seg2vid_cli" / "__init__.py"
    command = "-m seg2vid_cli generate street.png --size 64x32 --frames 4 --device cpu"
    done = installed.run(sys.executable, *command.split())
    assert (done.returncode, done.stderr) == (0, "")
    assert facts(done.stdout)["weights"] == "street (default)"
    video = read_back(installed.away / "street.mp4")
    assert (video.codec, video.fps) == ("h264", STREET.fps)
    assert video.frames.shape == (4, 32, 64, 3)


def test_the_installed_command_runs_and_finds_everything_in_order(installed):
    script = installed.target / ("bin/seg2vid" if os.name == "posix" else "Scripts/seg2vid.exe")
    done = installed.run(str(script), "doctor")
    assert (done.returncode, done.stderr) == (0, "")
    report = facts(done.stdout)
    assert report["seg2vid"] == __version__
    assert report["weights street"].endswith("all stages load")
