"""What every test gets: no network, fixed seeds, a 16x32 label map and tiny bundles.

No test sees weights that a user has added on this machine.
"""

from __future__ import annotations

import json
import os
import random
import socket
import tempfile
from collections.abc import Iterator
from dataclasses import asdict, replace
from itertools import count
from pathlib import Path

import numpy as np
import pytest
import torch
from numpy.typing import NDArray
from safetensors.torch import save_file
from torch import nn

from seg2vid_cli.labels import LabelMap, labels_from_array
from seg2vid_cli.networks.label_unet import LabelUNet, LabelUNetConfig
from seg2vid_cli.networks.pix2pixhd import GlobalConfig, GlobalGenerator, LocalConfig, LocalEnhancer
from seg2vid_cli.networks.seg2vid_flow import FlowConfig, Seg2VidFlow
from seg2vid_cli.networks.seg2vid_refine import RefineConfig, Seg2VidRefine
from seg2vid_cli.pipeline import Pipeline
from seg2vid_cli.weights.load import FAMILIES, read_bundle
from seg2vid_cli.weights.registry import (
    WeightSpec,
    add_entries,
    describe_file,
    format_entry,
    read_registry,
)

torch.set_num_threads(1)
os.environ["COLUMNS"] = "200"  # or reports are folded to the terminal that tests are started from
# While tests are collected; each of them gets a folder of its own. Nothing is made here.
os.environ["SEG2VID_CONFIG_DIR"] = str(Path(tempfile.gettempdir()) / f"seg2vid-none-{os.getpid()}")

EXAMPLES = Path(__file__).resolve().parent.parent / "examples" / "labels"
ROAD, BUILDING, SKY, CAR = 0, 2, 10, 13

LABEL_UNET = LabelUNetConfig(
    size_hw=(32, 64), label_planes=20, style_size=4, channels=(4, 6), middle_blocks=1
)
FLOW = FlowConfig(  # two frames per pass; a latent map of 4x2x4 in 4 rows of 8
    size_hw=(32, 64),
    image_channels=3,
    label_planes=20,
    num_frames=2,
    channels=(4, 4, 4, 4),
    background_latents=3,
    foreground_latents=5,
    latent_row=8,
    latent_channels=4,
    frame_channels=2,
    head_channels=2,
    upsampling="bilinear",
)
REFINE = RefineConfig(image_channels=3, channels=(2, 2, 2, 2, 2), bottleneck=4)
GLOBAL = GlobalConfig(size_hw=(32, 64), label_planes=35, channels=(3, 4), blocks=1)
LOCAL = LocalConfig(
    size_hw=(64, 128),
    label_planes=35,
    channels=(3, 4),
    blocks=1,
    detail_channels=(2, 3),
    detail_blocks=1,
)


def sliding_wall(count: int) -> NDArray[np.uint8]:
    """Frames `(count, 128, 256, 3)` of a texture that slides 2 px to the left with each."""
    rng = np.random.default_rng(1)
    wide = np.kron(rng.integers(0, 255, (32, 84, 3), dtype=np.uint8), np.ones((4, 4, 1), np.uint8))
    return np.stack([wide[:, 2 * t : 2 * t + 256] for t in range(count)])


def lively(network: nn.Module, seed: int = 0) -> nn.Module:
    """Fill a network with weights that let differences through, ready to run.

    PyTorch's own start values make every layer a little weaker than the one before.
    """
    generator = torch.Generator().manual_seed(seed)
    for name, weight in network.named_parameters():
        if weight.dim() > 1:
            nn.init.kaiming_normal_(weight, generator=generator)
        else:  # of a norm, or a bias
            mean = 1.0 if name.endswith("weight") else 0.0
            nn.init.normal_(weight, mean, 0.1, generator=generator)
    return network.eval().requires_grad_(False)


@pytest.fixture(autouse=True)
def _no_network(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> None:
    """Let no test reach another machine, except those that are there to download weights."""
    if request.node.get_closest_marker("weights"):
        return
    connect, connect_ex = socket.socket.connect, socket.socket.connect_ex
    look_up = socket.getaddrinfo

    def check(host: object) -> None:
        if host not in ("127.0.0.1", "::1", "localhost", "", None):
            raise AssertionError(f"a test wants to reach {host} over the network")

    def checked(real):
        def connect(self, address):
            if self.family in (socket.AF_INET, socket.AF_INET6):
                check(address[0])
            return real(self, address)

        return connect

    def checked_look_up(host, *args, **kwargs):
        check(host)
        return look_up(host, *args, **kwargs)

    monkeypatch.setattr(socket.socket, "connect", checked(connect))
    monkeypatch.setattr(socket.socket, "connect_ex", checked(connect_ex))
    monkeypatch.setattr(socket, "getaddrinfo", checked_look_up)


@pytest.fixture(scope="session")
def _config_folders(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Path]:
    root = tmp_path_factory.mktemp("config")
    return (root / str(number) for number in count())


@pytest.fixture(autouse=True)
def config_folder(_config_folders: Iterator[Path], monkeypatch: pytest.MonkeyPatch) -> Path:
    """An empty folder for the user's own registry."""
    folder = next(_config_folders)
    folder.mkdir()
    monkeypatch.setenv("SEG2VID_CONFIG_DIR", str(folder))
    read_registry.cache_clear()
    return folder


@pytest.fixture(autouse=True)
def _seeds() -> None:
    """Start every test from the same random numbers, whatever ran before."""
    random.seed(0)
    np.random.seed(0)
    torch.manual_seed(0)


@pytest.fixture
def labels() -> LabelMap:
    """16x32: sky, houses, a road, and a car on it."""
    ids = np.full((16, 32), BUILDING, np.uint8)
    ids[:4] = SKY
    ids[10:] = ROAD
    ids[8:12, 20:26] = CAR
    return labels_from_array(ids, encoding="train-ids")


@pytest.fixture(scope="session")
def tiny_bundle(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A bundle's folder: two frames per pass, native size 64x32, 10 fps, downscale 2."""
    from seg2vid_cli.training.export import export_bundle

    folder = tmp_path_factory.mktemp("bundles") / "tiny"
    export_bundle(
        folder,
        name="tiny",
        size_hw=(32, 64),
        fps=10.0,
        networks={
            "first_frame": lively(LabelUNet(LABEL_UNET), 1),
            "motion": lively(Seg2VidFlow(FLOW), 2),
            "refine": lively(Seg2VidRefine(REFINE), 3),
        },
        options={"motion": {"downscale": 2}, "refine": {"keep_visible": True}},
    )
    return folder


@pytest.fixture
def pipeline(tiny_bundle: Path) -> Pipeline:
    """The tiny bundle on the CPU; its networks may be replaced."""
    return Pipeline.open(str(tiny_bundle), device="cpu", precision="fp32")


def write_bundle(
    folder: Path,
    networks: dict[str, nn.Module],
    *,
    labels: str = "cityscapes-20",
    size_hw: tuple[int, int] = (32, 64),
    fps: float | None = 12.0,
    options: dict[str, dict[str, object]] | None = None,
) -> Path:
    """Write a bundle named like its folder, float32, of any stages."""
    folder.mkdir()
    family_of = {network: family for family, (_, network) in FAMILIES.items()}
    stages = {}
    for stage, network in networks.items():
        save_file(network.state_dict(), folder / f"{stage}.safetensors")
        stages[stage] = {
            "family": family_of[type(network)],
            "file": f"{stage}.safetensors",
            "config": asdict(network.config),
            "options": (options or {}).get(stage, {}),
        }
    description = {
        "name": folder.name,
        "labels": labels,
        "size_hw": size_hw,
        "fps": fps,
        "stages": stages,
    }
    (folder / "bundle.json").write_text(json.dumps(description))
    return folder


@pytest.fixture(scope="session")
def painter_bundle(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """pix2pixHD's global generator alone, native size 64x32."""
    networks = {"first_frame": lively(GlobalGenerator(GLOBAL), 4)}
    folder = tmp_path_factory.mktemp("bundles") / "painter"
    return write_bundle(folder, networks, labels="cityscapes-35", fps=None)


@pytest.fixture(scope="session")
def enhancer_bundle(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """pix2pixHD's local enhancer alone, native size 128x64."""
    networks = {"first_frame": lively(LocalEnhancer(LOCAL), 5)}
    folder = tmp_path_factory.mktemp("bundles") / "enhancer"
    return write_bundle(folder, networks, labels="cityscapes-35", size_hw=(64, 128), fps=None)


@pytest.fixture(scope="session")
def motion_bundle(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Motion and refinement with labels but no first frame, as the paper's Cityscapes models."""
    networks = {
        "motion": lively(Seg2VidFlow(FLOW), 6),
        "refine": lively(Seg2VidRefine(REFINE), 7),
    }
    return write_bundle(tmp_path_factory.mktemp("bundles") / "mover", networks)


@pytest.fixture(scope="session")
def unlabelled_bundle(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Motion and refinement that read no labels, as the paper's UCF-101 model."""
    networks = {
        "motion": lively(Seg2VidFlow(replace(FLOW, label_planes=0, upsampling="nearest")), 8),
        "refine": lively(Seg2VidRefine(REFINE), 9),
    }
    return write_bundle(tmp_path_factory.mktemp("bundles") / "blind", networks, labels="none")


@pytest.fixture(scope="session")
def grey_bundle(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The same for grey pictures, three frames per pass, as the paper's KTH model."""
    flow = replace(FLOW, label_planes=0, upsampling="nearest", image_channels=1, num_frames=3)
    networks = {
        "motion": lively(Seg2VidFlow(flow), 10),
        "refine": lively(Seg2VidRefine(replace(REFINE, image_channels=1)), 11),
    }
    return write_bundle(tmp_path_factory.mktemp("bundles") / "grey", networks, labels="none")


@pytest.fixture
def named_bundles(
    config_folder: Path,
    tiny_bundle: Path,
    painter_bundle: Path,
    enhancer_bundle: Path,
    motion_bundle: Path,
    unlabelled_bundle: Path,
    grey_bundle: Path,
) -> None:
    """All of them in the user's registry: tiny, painter, enhancer, mover, blind and grey."""
    folders = (tiny_bundle, painter_bundle, enhancer_bundle)
    for folder in (*folders, motion_bundle, unlabelled_bundle, grey_bundle):
        bundle = read_bundle(folder)
        spec = WeightSpec(
            name=bundle.name,
            title="For tests",
            stages={name: stage.family for name, stage in bundle.stages.items()},
            labels=bundle.labels,
            native_size=f"{bundle.size_hw[1]}x{bundle.size_hw[0]}",
            license="CC0-1.0",
            source="chance",
            origin="folder",
            fps=bundle.fps,
            files=tuple(describe_file(path) for path in sorted(folder.iterdir())),
            path=str(folder),
        )
        add_entries(format_entry(spec), name=bundle.name)
