"""Trained networks to a bundle that `seg2vid generate --weights FOLDER` runs."""

from __future__ import annotations

import json
from dataclasses import asdict
from pathlib import Path
from typing import Any

import torch
from safetensors.torch import save_file
from torch import nn

from seg2vid_cli.errors import InputError, WeightsError
from seg2vid_cli.networks.edge_detector import EdgeDetectorConfig
from seg2vid_cli.networks.label_unet import LabelUNetConfig
from seg2vid_cli.training import palette
from seg2vid_cli.training.clips import FPS
from seg2vid_cli.training.first_frame import FirstFrameTask
from seg2vid_cli.training.loop import load_checkpoint
from seg2vid_cli.training.motion import MotionTask
from seg2vid_cli.training.refine import RefineTask
from seg2vid_cli.training.segmenter import SegmenterTask, build_segmenter
from seg2vid_cli.training.sflow import SFlow, SFlowConfig, SFlowTask
from seg2vid_cli.weights.load import BUNDLE_FILE, FAMILIES, Bundle, config_from_dict
from seg2vid_cli.weights.registry import check_name, describe_file, format_files

KEYFRAMES = 6  # of 8 frames each: what the camera has left behind is not needed for longer

FAMILY_OF = {network: family for family, (_, network) in FAMILIES.items()}


def export_runs(runs: Path, folder: Path, *, name: str, base: Bundle | None = None) -> str:
    """Export the averaged networks of finished runs; see `export_bundle`.

    Args:
        runs: Folder of the runs.
        folder: Where to.
        name: Name of the bundle.
        base: Gives the stages that have not been trained in `runs`.

    Raises:
        InputError: A stage has not been trained yet.
    """
    tasks = {
        "first_frame": (FirstFrameTask.name, "label-unet"),
        "motion": (MotionTask.name, "ego-flow"),
        "refine": (RefineTask.name, "seg2vid-refine"),
        "segmenter": (SegmenterTask.small_name, None),
    }
    networks: dict[str, nn.Module] = {}
    options: dict[str, dict[str, Any]] = {
        "motion": {},
        "refine": {"keep_visible": True, "keyframes": KEYFRAMES},
    }
    for stage, (run, family) in tasks.items():
        state = load_checkpoint(runs / run)
        if stage == "first_frame":
            state = _with_palette(runs, state)
        if stage == "segmenter" and state is None:
            state = _lite_segmenter(runs)
        if state is not None:
            try:
                if family is None:
                    networks[stage] = build_segmenter(state["config"])
                else:
                    config, network = FAMILIES[family]
                    networks[stage] = network(config_from_dict(config, state["config"]))
                networks[stage].load_state_dict(state["average"])
            except (ValueError, RuntimeError) as error:
                raise InputError(
                    f"{runs}: {run} is of another version: {error}",
                    hint=f"train it again: seg2vid train {run}",
                ) from error
        elif base is not None and stage in base.stages:
            networks[stage] = base.network(stage)
            options[stage] = dict(base.stages[stage].options)
        elif stage != "segmenter":  # a clip needs none
            raise InputError(f"{runs}: {run} has not been trained", hint=f"seg2vid train {run}")
    if networks["first_frame"].config.edge_planes:  # type: ignore[union-attr]
        if base is None or "edges" not in base.stages:
            raise InputError(
                f"{runs}: the first frame is guided by edges",
                hint="give the weights with their edge detector with --base",
            )
        networks["edges"] = base.network("edges")
    height, width = networks["first_frame"].config.size_hw  # type: ignore[union-attr,misc]
    of_motion = networks["motion"].config.size_hw  # type: ignore[union-attr]
    options["motion"]["downscale"] = max(1, height // of_motion[0])  # type: ignore[index]
    return export_bundle(
        folder, name=name, size_hw=(height, width), fps=FPS, networks=networks, options=options
    )


def _lite_segmenter(runs: Path) -> dict[str, Any] | None:
    """The large segmenter's state where it is small enough for photos: one that began with
    ImageNet.
    """
    state = load_checkpoint(runs / SegmenterTask.name)
    return state if state is not None and "stages" in state["config"] else None


def _with_palette(runs: Path, state: dict[str, Any] | None) -> dict[str, Any] | None:
    """The generator's state, with the palette that was measured for it, if there is one.

    Raises:
        InputError: The generator has been trained since.
    """
    measured = load_checkpoint(runs / palette.NAME)
    if measured is None:
        return state
    if state is not None and state["step"] != measured["step"]:
        raise InputError(
            f"{runs}: the palette is not of the generator as it is now",
            hint="run seg2vid train palette again",
        )
    return measured


def export_sflow(runs: Path, folder: Path, *, name: str) -> str:
    """Export generator and edge detector of a finished run; see `export_bundle`.

    Args:
        runs: Folder of the runs.
        folder: Where to.
        name: Name of the bundle.

    Raises:
        InputError: They have not been trained yet.
    """
    state = load_checkpoint(runs / SFlowTask.name)
    if state is None:
        raise InputError(
            f"{runs}: {SFlowTask.name} has not been trained", hint=f"seg2vid train {SFlowTask.name}"
        )
    config = state["config"]
    network = SFlow(
        SFlowConfig(
            generator=config_from_dict(LabelUNetConfig, config["generator"]),
            edges=config_from_dict(EdgeDetectorConfig, config["edges"]),
        )
    )
    network.load_state_dict(state["average"])
    height, width = network.config.generator.size_hw
    return export_bundle(
        folder,
        name=name,
        size_hw=(height, width),
        fps=None,
        networks={"edges": network.edges, "first_frame": network.generator},
        options={},
    )


def export_bundle(
    folder: Path,
    *,
    name: str,
    size_hw: tuple[int, int],
    fps: float | None,
    networks: dict[str, nn.Module],
    options: dict[str, dict[str, Any]],
) -> str:
    """Write networks as fp16 safetensors with their description.

    Args:
        folder: Where to; made if needed.
        name: Name of the bundle.
        size_hw: Native working size.
        fps: Frame rate of the clips the motion was learnt from; None without motion.
        networks: By stage.
        options: How each stage uses its network, by stage.

    Returns:
        The `files` entry for `weights.toml`.
    """
    check_name(name)
    folder.mkdir(parents=True, exist_ok=True)
    stages, paths = {}, [folder / BUNDLE_FILE]
    for stage, network in networks.items():
        path = folder / f"{stage}.safetensors"
        tensors = {
            key: (t.half() if t.dtype.is_floating_point else t).contiguous().clone()
            for key, t in network.state_dict().items()
        }
        bad = [key for key, t in tensors.items() if not torch.isfinite(t).all()]
        if bad:
            raise WeightsError(f"{stage}: {bad[0]} does not fit into fp16", hint="train again")
        save_file(tensors, path, metadata={"stage": stage})
        path.chmod(0o644)  # safetensors makes files that only their owner can read
        stages[stage] = {
            "family": FAMILY_OF[type(network)],
            "file": path.name,
            "config": asdict(network.config),  # type: ignore[call-overload]
            "options": options.get(stage, {}),
        }
        paths.append(path)
    description = {
        "name": name,
        "labels": "cityscapes-20",
        "size_hw": list(size_hw),
        "fps": fps,
        "stages": stages,
    }
    (folder / BUNDLE_FILE).write_text(json.dumps(description, indent=2) + "\n")
    return format_files(map(describe_file, paths))
