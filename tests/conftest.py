"""What every test gets: no network, fixed seeds, a 16x32 label map and a tiny bundle."""

from __future__ import annotations

import random
import socket
from pathlib import Path

import numpy as np
import pytest
import torch
from torch import nn

from seg2vid_cli.labels import LabelMap, labels_from_array
from seg2vid_cli.networks.label_unet import LabelUNet, LabelUNetConfig
from seg2vid_cli.networks.seg2vid_flow import FlowConfig, Seg2VidFlow
from seg2vid_cli.networks.seg2vid_refine import RefineConfig, Seg2VidRefine
from seg2vid_cli.pipeline import Pipeline

torch.set_num_threads(1)

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
