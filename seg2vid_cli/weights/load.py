"""A bundle's folder to networks: read safetensors, build from the configuration, load strictly.

A bundle is a folder with `bundle.json` (name, label set, native size, frame rate, and for every
stage its family, file and network configuration), the `.safetensors` files it names, and a model
card.
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import dataclass, fields
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError
from safetensors.torch import load_file
from torch import Tensor, nn

from seg2vid_cli.errors import CheckpointError, InputError, WeightsError
from seg2vid_cli.label_sets import NUM_CLASSES
from seg2vid_cli.networks.label_unet import LabelUNet, LabelUNetConfig
from seg2vid_cli.networks.seg2vid_flow import FlowConfig, Seg2VidFlow
from seg2vid_cli.networks.seg2vid_refine import RefineConfig, Seg2VidRefine
from seg2vid_cli.weights.registry import file_sha256, find_weights, read_registry, verify_files

BUNDLE_FILE = "bundle.json"
LABEL_SET = "cityscapes-20"
# The families that fit a stage, and which options it takes.
STAGES: Mapping[str, tuple[str, Mapping[str, type[int]]]] = {
    "first_frame": ("label-unet", {}),
    "motion": ("seg2vid-flow", {"downscale": int}),
    "refine": ("seg2vid-refine", {"keep_visible": bool}),
}
FAMILIES: Mapping[str, tuple[type[Any], type[nn.Module]]] = {
    "label-unet": (LabelUNetConfig, LabelUNet),
    "seg2vid-flow": (FlowConfig, Seg2VidFlow),
    "seg2vid-refine": (RefineConfig, Seg2VidRefine),
}


@dataclass(frozen=True, kw_only=True)
class StageSpec:
    """One stage of a bundle.

    Args:
        family: A key of `FAMILIES`.
        file: Name of its safetensors file.
        config: Configuration of its network.
        options: How the stage uses the network (see the stage's module).
    """

    family: str
    file: str
    config: Any
    options: Mapping[str, Any]


@dataclass(frozen=True, kw_only=True)
class Bundle:
    """Weights for the whole path, not yet loaded.

    Args:
        name: For reports.
        path: Folder.
        labels: The label set it expects.
        size_hw: Native working size.
        fps: Frame rate of the clips its motion was learnt from.
        stages: By name.
    """

    name: str
    path: Path
    labels: str
    size_hw: tuple[int, int]
    fps: float
    stages: Mapping[str, StageSpec]

    def sha256(self) -> dict[str, str]:
        """Hash of every stage's file, by stage, and of the description."""
        files = {name: stage.file for name, stage in self.stages.items()}
        files["bundle"] = BUNDLE_FILE
        return {name: file_sha256(self.path / file) for name, file in files.items()}

    def network(self, stage: str) -> nn.Module:
        """Build and load one stage's network, float32 on the CPU, ready to run.

        Raises:
            CheckpointError: The file is damaged or is not what the configuration needs.
            WeightsError: No network can be built from the configuration.
        """
        spec = self.stages[stage]
        try:
            with torch.random.fork_rng(devices=[]):  # building draws numbers that loading discards
                network = FAMILIES[spec.family][1](spec.config)
        except (TypeError, ValueError, RuntimeError) as error:
            raise WeightsError(f"{self.path / BUNDLE_FILE}: {stage}: {error}") from error
        load_strictly(network, self.path / spec.file)
        return network.eval().requires_grad_(False)


def open_bundle(name_or_folder: str) -> Bundle:
    """Find a bundle by registry name, or in a folder, and check it.

    Args:
        name_or_folder: A name from `weights.toml` (its files are hashed), or a bundle's folder.

    Raises:
        InputError: Neither a known name nor a folder with a bundle.
        WeightsError: The files are damaged or the description is malformed.
    """
    folder = Path(name_or_folder)
    if name_or_folder not in read_registry() and folder.is_dir():
        return read_bundle(folder)
    spec = find_weights(name_or_folder)
    verify_files(spec)
    return read_bundle(spec.path)


def read_bundle(folder: Path) -> Bundle:
    """Read a bundle's description, strictly.

    Raises:
        InputError: No `bundle.json` there.
        WeightsError: The description is malformed.
    """
    path = folder / BUNDLE_FILE
    try:
        text = path.read_bytes()  # json.loads decodes it
    except OSError as error:
        raise InputError(
            f"{path}: cannot be read: {error.strerror}",
            hint=f"a weights folder holds {BUNDLE_FILE}",
        ) from error
    try:
        data = json.loads(text)
        if set(data["stages"]) != set(STAGES):
            raise ValueError(f"stages must be {', '.join(STAGES)}, not {', '.join(data['stages'])}")
        stages = {name: _stage(folder, name, stage) for name, stage in data["stages"].items()}
        height, width = data["size_hw"]
        if data["labels"] != LABEL_SET:
            raise ValueError(f"label set '{data['labels']}', not '{LABEL_SET}'")
        if min(height, width) < 32:
            raise ValueError(f"size_hw {height}, {width}")
        if not 0 < float(data["fps"]) < 1000:
            raise ValueError(f"fps {data['fps']}")
        bundle = Bundle(
            name=data["name"],
            path=folder,
            labels=data["labels"],
            size_hw=(int(height), int(width)),
            fps=float(data["fps"]),
            stages=stages,
        )
    except (KeyError, TypeError, ValueError, AttributeError) as error:
        what = f"missing {error}" if isinstance(error, KeyError) else str(error)
        raise WeightsError(f"{path}: malformed: {what}") from error
    return bundle


def _stage(folder: Path, name: str, data: Mapping[str, Any]) -> StageSpec:
    family, (wanted, known_options) = data["family"], STAGES[name]
    if family != wanted:
        raise ValueError(f"{name}: unknown family '{family}', known: {wanted}")
    file = data["file"]
    if Path(file).name != file or not (folder / file).is_file():
        raise ValueError(f"file '{file}' is not in the folder")
    config = config_from_dict(FAMILIES[family][0], data["config"])
    if getattr(config, "label_planes", NUM_CLASSES) != NUM_CLASSES:
        raise ValueError(f"{name}: {config.label_planes} label planes, not {NUM_CLASSES}")
    options = data.get("options", {})
    if not isinstance(options, dict):
        raise ValueError(f"{name}: options must be a table")
    for option, value in options.items():
        if type(value) is not known_options.get(option) or (option == "downscale" and value < 1):
            raise ValueError(f"{name}: option {option} = {value!r} is not understood")
    return StageSpec(family=family, file=file, config=config, options=options)


def config_from_dict(kind: type[Any], values: Mapping[str, Any]) -> Any:
    """Build a network configuration; lists become tuples, every field must be given, none more.

    Raises:
        ValueError: A field is missing or unknown, or a number where a list should be.
    """
    known = {field.name for field in fields(kind)}
    if known != set(values):
        missing, unknown = sorted(known - set(values)), sorted(set(values) - known)
        raise ValueError(f"{kind.__name__}: missing {missing}, unknown {unknown}")
    for field in fields(kind):
        if str(field.type).startswith("tuple") != isinstance(values[field.name], (list, tuple)):
            raise ValueError(f"{kind.__name__}: {field.name} = {values[field.name]!r}")
    return kind(**{k: tuple(v) if isinstance(v, list) else v for k, v in values.items()})


def load_strictly(network: nn.Module, path: Path) -> None:
    """Fill a network from a safetensors file, which must hold exactly its tensors.

    Raises:
        CheckpointError: Damaged file, missing or extra tensors, wrong shapes, or values that are no
            finite numbers; the message counts them and names the first.
    """
    try:
        tensors = load_file(path)
    except (SafetensorError, OSError) as error:
        raise CheckpointError(f"{path}: not a readable safetensors file: {error}") from error
    wanted = network.state_dict()
    for problem, names in (
        ("missing", [n for n in wanted if n not in tensors]),
        ("not expected", [n for n in tensors if n not in wanted]),
        (
            "of another shape",
            [n for n in wanted if n in tensors and wanted[n].shape != tensors[n].shape],
        ),
        ("not finite", [n for n, t in tensors.items() if not _finite(t)]),
    ):
        if names:
            raise CheckpointError(f"{path}: {len(names)} tensors {problem}, first {names[0]}")
    network.load_state_dict({name: t.to(wanted[name].dtype) for name, t in tensors.items()})


def _finite(tensor: Tensor) -> bool:
    return not tensor.dtype.is_floating_point or bool(torch.isfinite(tensor).all())
