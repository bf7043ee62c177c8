"""A bundle's folder to networks: read safetensors, build from the configuration, load strictly.

A bundle is a folder with `bundle.json` (name, label set, native size, frame rate, and for every
stage its family, file and network configuration), the `.safetensors` files it names, and a model
card. It may lack stages; `mix_bundles` takes them from several.
"""

from __future__ import annotations

import json
import math
from collections.abc import Callable, Iterable, Mapping
from dataclasses import MISSING, dataclass, field, fields, replace
from pathlib import Path
from typing import Any, Literal, get_args, get_origin, get_type_hints

import torch
from safetensors import SafetensorError
from safetensors.torch import load_file
from torch import Tensor, nn

from seg2vid_cli.errors import CheckpointError, InputError, WeightsError
from seg2vid_cli.label_sets import NUM_CLASSES
from seg2vid_cli.networks.edge_detector import EdgeDetector, EdgeDetectorConfig
from seg2vid_cli.networks.ego_flow import EgoFlow, EgoFlowConfig
from seg2vid_cli.networks.label_unet import LabelUNet, LabelUNetConfig
from seg2vid_cli.networks.pix2pixhd import (
    GlobalConfig,
    GlobalGenerator,
    LocalConfig,
    LocalEnhancer,
)
from seg2vid_cli.networks.salgan import Salema, SalemaConfig, Salgan, SalganConfig
from seg2vid_cli.networks.seg2vid_flow import FlowConfig, Seg2VidFlow
from seg2vid_cli.networks.seg2vid_refine import RefineConfig, Seg2VidRefine
from seg2vid_cli.networks.segmenter import (
    LiteSegmenter,
    LiteSegmenterConfig,
    Segmenter,
    SegmenterConfig,
)
from seg2vid_cli.weights.hub import fetch_weights
from seg2vid_cli.weights.registry import (
    WeightSpec,
    file_sha256,
    find_weights,
    read_registry,
)

BUNDLE_FILE = "bundle.json"
# One-hot planes of a label set. `none`: the networks read no labels.
LABEL_SETS: Mapping[str, int] = {"cityscapes-20": NUM_CLASSES, "cityscapes-35": 35, "none": 0}
# The families that fit a stage, and which options it takes.
STAGES: Mapping[str, tuple[tuple[str, ...], Mapping[str, type[int]]]] = {
    "edges": (("edge-detector",), {}),  # with a first frame that is guided by edges
    "first_frame": (("label-unet", "pix2pixhd-global", "pix2pixhd-local"), {}),
    "motion": (("seg2vid-flow", "ego-flow"), {"downscale": int, "objects_apart": bool}),
    "refine": (("seg2vid-refine",), {"keep_visible": bool, "keyframes": int}),
    "segmenter": (("segmenter", "lite-segmenter"), {}),  # photo to label map: no part of a clip
    "saliency": (("salgan", "salema"), {"normalise": bool, "blur": bool}),  # nor is this
}
PAINTING = ("edges", "first_frame")  # stages that make the first frame
OF_NO_CLIP = ("segmenter", "saliency")
FAMILIES: Mapping[str, tuple[type[Any], type[nn.Module]]] = {
    "edge-detector": (EdgeDetectorConfig, EdgeDetector),
    "label-unet": (LabelUNetConfig, LabelUNet),
    "pix2pixhd-global": (GlobalConfig, GlobalGenerator),
    "pix2pixhd-local": (LocalConfig, LocalEnhancer),
    "seg2vid-flow": (FlowConfig, Seg2VidFlow),
    "ego-flow": (EgoFlowConfig, EgoFlow),
    "seg2vid-refine": (RefineConfig, Seg2VidRefine),
    "segmenter": (SegmenterConfig, Segmenter),
    "lite-segmenter": (LiteSegmenterConfig, LiteSegmenter),
    "salgan": (SalganConfig, Salgan),
    "salema": (SalemaConfig, Salema),
}
# Label planes that the pipeline can give a family.
PLANES: Mapping[str, tuple[int, ...]] = {
    "label-unet": (NUM_CLASSES,),
    "pix2pixhd-global": (35,),
    "pix2pixhd-local": (35,),
    "seg2vid-flow": (NUM_CLASSES, 0),
    "ego-flow": (NUM_CLASSES,),
}


@dataclass(frozen=True, kw_only=True)
class StageSpec:
    """One stage of a bundle.

    Args:
        family: A key of `FAMILIES`.
        path: Its safetensors file.
        config: Configuration of its network.
        options: How the stage uses the network (see the stage's module).
    """

    family: str
    path: Path
    config: Any
    options: Mapping[str, Any]


@dataclass(frozen=True, kw_only=True)
class Bundle:
    """Weights, not yet loaded.

    Args:
        name: For reports.
        labels: The label set it reads, a key of `LABEL_SETS`.
        size_hw: Size of the clips: what the motion was trained at, else the first stage's size.
        fps: Frame rate of the clips its motion was learnt from; None without a motion stage.
        stages: By name, in the order of the path.
        descriptions: The `bundle.json` that the stages come from; more than one when mixed.
        hashes: Files whose hash is known, since it has just been checked.
    """

    name: str
    labels: str
    size_hw: tuple[int, int]
    fps: float | None
    stages: Mapping[str, StageSpec]
    descriptions: Mapping[str, Path]
    hashes: Mapping[Path, str] = field(default_factory=dict)

    def sha256(self) -> dict[str, str]:
        """Hash of the files of all stages that make a clip, by stage, and of the descriptions."""
        files = {n: s.path for n, s in self.stages.items() if n not in OF_NO_CLIP}
        files |= self.descriptions
        return {name: self.hashes.get(path) or file_sha256(path) for name, path in files.items()}

    def require(self, *stages: str) -> None:
        """Make sure that stages are there.

        Raises:
            InputError: One is missing; says how to bring it along.
        """
        hints = {
            "first_frame": "add --first-frame-weights NAME|DIR, or start from a picture with "
            "--first-frame",
            **dict.fromkeys(
                OF_NO_CLIP, "give weights with one; seg2vid weights list shows the stages"
            ),
        }
        if all(stage in OF_NO_CLIP for stage in self.stages):
            uses = {"segmenter": "seg2vid label", "saliency": "seg2vid saliency"}
            use = " and ".join(uses[stage] for stage in self.stages)
            no_clip = f"they make no clip, they are for {use}; give others"
            hints |= {stage: no_clip for stage in STAGES if stage not in OF_NO_CLIP}
        for stage in stages:
            if stage not in self.stages:
                what = {"first_frame": "first-frame", "refine": "refinement"}.get(stage, stage)
                raise InputError(
                    f"weights '{self.name}' have no {what} stage, only "
                    f"{' and '.join(name.replace('_', ' ') for name in self.stages)}",
                    hint=hints.get(stage, "add --motion-weights NAME|DIR"),
                )

    def network(self, stage: str) -> nn.Module:
        """Build and load one stage's network, float32 on the CPU, ready to run.

        Raises:
            CheckpointError: The file is damaged or is not what the configuration needs.
            WeightsError: No network can be built from the configuration.
        """
        spec = self.stages[stage]
        try:
            with torch.device("meta"):  # no start values: every one is replaced
                network = FAMILIES[spec.family][1](spec.config)
        except (TypeError, ValueError, RuntimeError) as error:
            raise WeightsError(f"{spec.path.parent / BUNDLE_FILE}: {stage}: {error}") from error
        load_strictly(network, spec.path)
        return network.eval().requires_grad_(False)


def open_bundle(
    name_or_folder: str, *, before_pull: Callable[[WeightSpec], None] | None = None
) -> Bundle:
    """Find a bundle by registry name, or in a folder, and check it.

    Args:
        name_or_folder: A name from `weights.toml` or the user's own registry (downloaded at first
            use, and checked against the hashes there), or a bundle's folder.
        before_pull: Told which weights are about to be downloaded; the download is silent without.

    Raises:
        InputError: Neither a known name nor a folder with a bundle.
        WeightsError: The files are damaged, cannot be downloaded, or the description is malformed.
    """
    folder, known = Path(name_or_folder), read_registry().get(name_or_folder)
    if folder.is_dir() and (known is None or known.origin == "authors"):
        return read_bundle(folder)
    spec = find_weights(name_or_folder)
    files = fetch_weights(spec, before_pull=before_pull)
    bundle = read_bundle(next(path.parent for path in files))
    for path in (*bundle.descriptions.values(), *(s.path for s in bundle.stages.values())):
        if path not in files:
            raise WeightsError(
                f"weights '{spec.name}': {path.name} is not among the registry's files",
                hint="the entry has to list every file with its hash",
            )
    families = {name: stage.family for name, stage in bundle.stages.items()}
    if families != dict(spec.stages):
        raise WeightsError(
            f"weights '{spec.name}': the registry promises {dict(spec.stages)}, the files hold "
            f"{families}"
        )
    return replace(bundle, name=spec.name, hashes=files)


def open_mixed(
    weights: str,
    *,
    first_frame_weights: str | None = None,
    motion_weights: str | None = None,
    before_pull: Callable[[WeightSpec], None] | None = None,
) -> tuple[Bundle, str | None, str | None]:
    """Open weights, and take stages from others where they are named; see `mix_bundles`.

    Args:
        weights: Name or folder; see `open_bundle`.
        first_frame_weights: Name or folder for the first frame.
        motion_weights: Name or folder for the motion.
        before_pull: See `open_bundle`.

    Returns:
        The bundle, and the names of those that first frame and motion come from.

    Raises:
        InputError: Unknown weights, or weights that do not fit together.
        WeightsError: Damaged weights, or a download that failed.
    """
    base = open_bundle(weights, before_pull=before_pull)
    first_frame, motion = (
        None if name is None else open_bundle(name, before_pull=before_pull)
        for name in (first_frame_weights, motion_weights)
    )
    return (
        mix_bundles(base, first_frame=first_frame, motion=motion),
        first_frame.name if first_frame else None,
        motion.name if motion else None,
    )


def mix_bundles(
    base: Bundle, *, first_frame: Bundle | None = None, motion: Bundle | None = None
) -> Bundle:
    """Take stages from several bundles.

    Args:
        base: Gives what the others do not.
        first_frame: Gives the first frame.
        motion: Gives motion, size and frame rate, and refinement where it has it.

    Raises:
        InputError: A bundle lacks the stage it is taken for, or stages do not fit together.
    """
    stages, descriptions = dict(base.stages), dict(base.descriptions)
    hashes = dict(base.hashes)
    if first_frame is not None:
        first_frame.require("first_frame")
        stages.pop("edges", None)  # of the generator that is replaced
        stages |= {n: first_frame.stages[n] for n in PAINTING if n in first_frame.stages}
    if motion is not None:
        motion.require("motion")
        stages |= {
            name: motion.stages[name] for name in ("motion", "refine") if name in motion.stages
        }
    for role, other in (("first_frame", first_frame), ("motion", motion)):
        if other is not None:
            descriptions[f"{role}_bundle"] = other.descriptions["bundle"]
            hashes |= other.hashes
    try:
        _check_channels(stages)
    except ValueError as error:
        raise InputError(
            f"motion and refinement do not fit together: {error}",
            hint="take both from the same weights",
        ) from error
    clip = motion or base
    return Bundle(
        name=base.name,
        labels=clip.labels,
        size_hw=clip.size_hw,
        fps=clip.fps,
        stages={name: stages[name] for name in STAGES if name in stages},
        descriptions=descriptions,
        hashes=hashes,
    )


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
        try:
            data = json.loads(text)
        except RecursionError as error:
            raise ValueError("nested too deeply") from error
        given = data["stages"]
        if not given or set(given) - set(STAGES):
            raise ValueError(f"stages must be of {', '.join(STAGES)}, not {', '.join(given)}")
        if data["labels"] not in LABEL_SETS:
            raise ValueError(
                f"label set '{data['labels']}' is not one of {', '.join(map(repr, LABEL_SETS))}"
            )
        planes = LABEL_SETS[data["labels"]]
        stages = {
            name: _stage(folder, name, given[name], planes) for name in STAGES if name in given
        }
        height, width = data["size_hw"]
        if min(height, width) < 32:
            raise ValueError(f"size_hw {height}, {width}")
        fps = data["fps"]
        if "motion" in stages or fps is not None:
            fps = float(fps)
            if not 0 < fps < 1000:
                raise ValueError(f"fps {fps}")
        _check_channels(stages)
        _check_edges(stages)
        bundle = Bundle(
            name=str(data["name"]),
            labels=data["labels"],
            size_hw=(int(height), int(width)),
            fps=fps,
            stages=stages,
            descriptions={"bundle": path},
        )
    except (LookupError, TypeError, ValueError, AttributeError, ArithmeticError) as error:
        what = f"missing {error}" if isinstance(error, KeyError) else str(error)
        raise WeightsError(f"{path}: malformed: {what}") from error
    return bundle


def _check_edges(stages: Mapping[str, StageSpec]) -> None:
    painter = stages.get("first_frame")
    planes = 0 if painter is None else getattr(painter.config, "edge_planes", 0)
    if planes > 1 or bool(planes) != ("edges" in stages):
        raise ValueError(f"first_frame reads {planes} edge planes, the edges stage gives one")


def _check_channels(stages: Mapping[str, StageSpec]) -> None:
    moving = ("motion", "refine")
    channels = {n: stages[n].config.image_channels for n in moving if n in stages}
    if len(set(channels.values())) > 1 or not set(channels.values()) <= {1, 3}:
        raise ValueError(f"pictures of {channels} channels")


def _stage(folder: Path, name: str, data: Mapping[str, Any], planes: int) -> StageSpec:
    family, (wanted, known_options) = data["family"], STAGES[name]
    if family not in wanted:
        raise ValueError(f"{name}: unknown family '{family}', known: {', '.join(wanted)}")
    file = data["file"]
    if Path(file).name != file or not (folder / file).is_file():
        raise ValueError(f"file '{file}' is not in the folder")
    config = config_from_dict(FAMILIES[family][0], data["config"])
    if getattr(config, "label_planes", planes) != planes:
        raise ValueError(f"{name}: {config.label_planes} label planes, not {planes}")
    if planes not in PLANES.get(family, (planes,)):
        raise ValueError(f"{name}: {family} with {planes} label planes is not known")
    options = data.get("options", {})
    if not isinstance(options, dict):
        raise ValueError(f"{name}: options must be a table")
    for option, value in options.items():
        if (
            type(value) is not known_options.get(option)
            or value < 0
            or (option == "downscale" and value < 1)
        ):
            raise ValueError(f"{name}: option {option} = {value!r} is not understood")
    return StageSpec(family=family, path=folder / file, config=config, options=options)


def config_from_dict(kind: type[Any], values: Mapping[str, Any]) -> Any:
    """Build a network configuration; lists become tuples.

    Every field without a default must be given, and none that is unknown.

    Raises:
        ValueError: A field is missing or unknown, or has a value that cannot be.
    """
    hints = get_type_hints(kind)
    needed = {known_field.name for known_field in fields(kind) if known_field.default is MISSING}
    missing, unknown = sorted(needed - set(values)), sorted(set(values) - set(hints))
    if missing or unknown:
        raise ValueError(f"{kind.__name__}: missing {missing}, unknown {unknown}")
    for name, value in values.items():
        if not _suits(hints[name], value):
            raise ValueError(f"{kind.__name__}: {name} = {value!r}")
    return kind(**{k: tuple(v) if isinstance(v, list) else v for k, v in values.items()})


def _suits(hint: Any, value: Any) -> bool:
    """Whether a configuration's field can have a value.

    Fields are a size, several sizes, one of some words, yes or no, or a number that is not
    negative.
    """
    if get_origin(hint) is tuple:
        whole = isinstance(value, (list, tuple)) and len(value) > 0
        return whole and all(type(item) is int and item >= 0 for item in value)
    if get_origin(hint) is Literal:
        return value in get_args(hint)
    if hint is bool:
        return type(value) is bool
    if hint is float:
        return type(value) in (int, float) and math.isfinite(value) and value >= 0
    return type(value) is int and value >= 0


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
    problems: tuple[tuple[str, Iterable[str]], ...] = (
        ("missing", [n for n in wanted if n not in tensors]),
        ("not expected", [n for n in tensors if n not in wanted]),
        (
            "of another shape",
            [n for n in wanted if n in tensors and wanted[n].shape != tensors[n].shape],
        ),
        (
            "of another number format",
            [n for n in wanted if n in tensors and not _same_kind(wanted[n], tensors[n])],
        ),
        ("not finite", (n for n, t in tensors.items() if not _finite(t))),  # only of known formats
    )
    for problem, found in problems:
        if names := list(found):
            raise CheckpointError(f"{path}: {len(names)} tensors {problem}, first {names[0]}")
    # Copies, since what was read is the mapped file itself, which may change under the network.
    tensors = {name: t.to(wanted[name].dtype, copy=True) for name, t in tensors.items()}
    network.load_state_dict(tensors, assign=True)


def _same_kind(wanted: Tensor, given: Tensor) -> bool:
    if wanted.dtype.is_floating_point:
        return given.dtype in (torch.float16, torch.bfloat16, torch.float32)
    return given.dtype == wanted.dtype


def _finite(tensor: Tensor) -> bool:
    return not tensor.dtype.is_floating_point or bool(torch.isfinite(tensor).all())
