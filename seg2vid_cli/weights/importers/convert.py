"""An original checkpoint to a bundle of this package: safetensors, description, model card."""

from __future__ import annotations

import json
import os
import shutil
from collections import Counter
from collections.abc import Callable, Mapping
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError
from safetensors.torch import save_file
from torch import Tensor, nn

from seg2vid_cli.errors import CheckpointError, InputError
from seg2vid_cli.weights.importers import ARCHIVES, KINDS, Kind, pix2pixhd, salgan, seg2vid
from seg2vid_cli.weights.importers.card import write_card
from seg2vid_cli.weights.importers.checkpoint import StateDict, open_archive, open_checkpoint
from seg2vid_cli.weights.importers.layout import COUNTER, Conversion, Part, check_shapes
from seg2vid_cli.weights.load import BUNDLE_FILE, LABEL_SETS, PLANES, load_strictly, read_bundle
from seg2vid_cli.weights.registry import CARD_FILE, check_name

# Frame rates of the data sets: Cityscapes 17 Hz, UCF-101 and KTH 25 Hz; the authors' lists take
# consecutive frames.
LABELLED_FPS, UNLABELLED_FPS = 17.0, 25.0

_Describe = Callable[[StateDict, Kind], tuple[dict[str, Part], tuple[str, ...]]]
_LAYOUTS: Mapping[Kind, tuple[Callable[[StateDict], Conversion], _Describe]] = {
    "seg2vid-two-path": (seg2vid.convert, seg2vid.describe),
    "seg2vid-one-path": (seg2vid.convert, seg2vid.describe),
    "seg2vid-no-labels": (seg2vid.convert, seg2vid.describe),
    "pix2pixhd-global": (pix2pixhd.convert_global, pix2pixhd.describe),
    "pix2pixhd-local": (pix2pixhd.convert_local, pix2pixhd.describe),
    "salgan": (salgan.convert_archive, salgan.describe),
    "salbce": (salgan.convert_torch, salgan.describe),
    "salema": (salgan.convert_salema, salgan.describe),
}


@dataclass(frozen=True, kw_only=True)
class ImportedStage:
    """One stage of a checkpoint, ready to be written or run.

    Args:
        part: Its network, configuration and options.
        tensors: float32 (counters int64), by the network's own names.
    """

    part: Part
    tensors: StateDict

    def network(self) -> nn.Module:
        """Build and fill the network, float32 on the CPU, ready to run."""
        with torch.device("meta"):  # no start values: every one is replaced
            network = self.part.network(self.part.config)
        network.load_state_dict(self.tensors, strict=True, assign=True)
        return network.eval().requires_grad_(False)

    def description(self, file: str) -> dict[str, Any]:
        """The stage's entry for `bundle.json`."""
        return {
            "family": self.part.family,
            "file": file,
            "config": asdict(self.part.config),
            "options": dict(self.part.options),
        }


@dataclass(frozen=True, kw_only=True)
class Import:
    """A whole checkpoint in this package's terms.

    Args:
        kind: Its layout.
        stages: By name.
        size_hw: Size the networks were trained at.
        dropped: What the checkpoint holds and no stage needs, with the reason.
        remarks: What had to be assumed.
    """

    kind: Kind
    stages: Mapping[str, ImportedStage]
    size_hw: tuple[int, int]
    dropped: Mapping[str, str]
    remarks: tuple[str, ...]

    def report(self) -> list[str]:
        """Lines for the user: tensors kept, tensors dropped and why, what was assumed."""
        lines = [f"kept {len(s.tensors)} tensors for {name}" for name, s in self.stages.items()]
        for why, count in Counter(self.dropped.values()).items():
            first = next(name for name, reason in self.dropped.items() if reason == why)
            lines.append(f"dropped {count}, first {first}: {why}")
        return [*lines, *self.remarks]


def import_tensors(source: StateDict, kind: Kind) -> Import:
    """Convert a checkpoint's tensors.

    Args:
        source: Tensors by original name.
        kind: Its layout.

    Raises:
        CheckpointError: Tensors are missing, not known, of another shape or not finite.
    """
    convert, describe = _LAYOUTS[kind]
    try:
        conversion = convert(source)
    except CheckpointError as error:
        raise CheckpointError(error.message, hint=error.hint or _hint(source, kind)) from error
    parts, remarks = describe(source, kind)
    stages = {}
    for name, part in parts.items():
        check_shapes(source, part)
        tensors = conversion.tensors[name]
        tensors = {new: _plain(tensors[new], old) for old, new in part.renames.items()}
        stages[name] = ImportedStage(part=part, tensors=tensors)
    if conversion.filled:
        remarks = (*remarks, f"{len(conversion.filled)} counters of batch norm filled in as 0")
    return Import(
        kind=kind,
        stages=stages,
        size_hw=next(iter(parts.values())).config.size_hw,
        dropped=conversion.dropped,
        remarks=remarks,
    )


def import_checkpoint(
    path: Path,
    kind: str,
    folder: Path,
    *,
    name: str | None = None,
    fps: float | None = None,
    license_name: str | None = None,
) -> Import:
    """Convert an original checkpoint into a bundle: safetensors, description and model card.

    Every written file is read back strictly. The folder appears when it is complete.

    Args:
        path: The checkpoint, as its authors published it.
        kind: Its layout, a key of `KINDS`.
        folder: Where to; must not exist yet, or be empty.
        name: Name of the bundle; the folder's if not given.
        fps: Frame rate of the clips it was trained on; that of the data set if not given.
        license_name: Licence of the weights, for the model card.

    Raises:
        InputError: Unknown kind, or a file that cannot be read or written.
        CheckpointError: See `open_checkpoint`, `open_archive` and `import_tensors`.
    """
    if kind not in KINDS:
        raise InputError(f"kind '{kind}' is not known", hint=f"use one of {', '.join(KINDS)}")
    if fps is not None and not 0 < fps < 1000:
        raise InputError(f"{fps:g} frames per second is out of range", hint="above 0, below 1000")
    folder = folder.resolve()
    name = name or folder.name
    check_name(name)
    _check_empty(folder)
    known: Kind = kind  # type: ignore[assignment]  # mypy does not narrow by a mapping's keys
    checkpoint = open_archive(path) if known in ARCHIVES else open_checkpoint(path)
    try:
        result = import_tensors(checkpoint.tensors, known)
        description = _describe(result, name, fps)
    except CheckpointError as error:
        raise CheckpointError(f"{path}: {error.message}", hint=error.hint) from error
    remarks = result.remarks
    if fps is None and description["fps"] is not None:
        remarks = (
            *remarks,
            f"frame rate taken to be {description['fps']:g}, that of the data set; --fps sets it",
        )
    dropped = {**checkpoint.dropped, **result.dropped}
    result = replace(result, dropped=dropped, remarks=remarks)
    card = write_card(
        result.report(), description, path=path, kind=known, license_name=license_name
    )
    part = folder.with_name(f".{folder.name}.{os.getpid()}.part")
    try:
        part.mkdir(parents=True)
        try:
            for stage_name, stage in result.stages.items():
                _write(stage, stage_name, part, known)
            text = json.dumps(description, indent=2) + "\n"
            (part / BUNDLE_FILE).write_text(text, encoding="utf-8")
            (part / CARD_FILE).write_text(card, encoding="utf-8")
            read_bundle(part)
            part.replace(folder)
        finally:
            shutil.rmtree(part, ignore_errors=True)
    except (OSError, SafetensorError) as error:
        why = getattr(error, "strerror", None) or error
        raise InputError(f"{folder}: cannot be written: {why}") from error
    return result


def _check_empty(folder: Path) -> None:
    try:
        taken = folder.exists() and (not folder.is_dir() or any(folder.iterdir()))
    except OSError as error:
        raise InputError(f"{folder}: cannot be read: {error.strerror}") from error
    if taken:
        raise InputError(f"{folder}: exists already", hint="name a new folder with -o")


def _describe(result: Import, name: str, fps: float | None) -> dict[str, Any]:
    """The contents of `bundle.json`."""
    (first, *_) = result.stages.values()
    planes = getattr(first.part.config, "label_planes", 0)  # those for saliency read no labels
    known = PLANES.get(first.part.family, (planes,))
    if planes not in known:
        counts = " or ".join(map(str, known))
        raise CheckpointError(
            f"reads {planes} label planes, and {first.part.family} is run with {counts} only"
        )
    (label_set,) = (name for name, count in LABEL_SETS.items() if count == planes)
    if "motion" not in result.stages:
        if fps is not None:
            raise InputError(
                f"{result.kind} has no motion, so no frame rate", hint="leave --fps out"
            )
        rate = None
    else:
        rate = fps or (LABELLED_FPS if planes else UNLABELLED_FPS)
    return {
        "name": name,
        "labels": label_set,
        "size_hw": list(result.size_hw),
        "fps": rate,
        "stages": {
            stage_name: stage.description(f"{stage_name}.safetensors")
            for stage_name, stage in result.stages.items()
        },
    }


def _write(stage: ImportedStage, name: str, folder: Path, kind: Kind) -> None:
    path = folder / f"{name}.safetensors"
    save_file(dict(stage.tensors), path, metadata={"imported": kind, "stage": name})
    path.chmod(0o644)  # safetensors makes files that only their owner can read
    with torch.device("meta"):
        network = stage.part.network(stage.part.config)
    load_strictly(network, path)


def _plain(tensor: Tensor, old: str) -> Tensor:
    if not torch.isfinite(tensor).all():
        raise CheckpointError(f"{old} holds values that are no finite numbers")
    dtype = torch.int64 if old.endswith(COUNTER) else torch.float32
    return tensor.detach().to(dtype, memory_format=torch.contiguous_format, copy=True)


def _hint(source: StateDict, kind: Kind) -> str | None:
    marks: tuple[tuple[str, Kind], ...] = (
        ("model1_1.1.weight", "pix2pixhd-local"),
        ("model.1.weight", "pix2pixhd-global"),
        ("encoder.econv1.main.0.weight", "seg2vid-two-path"),
        ("arr_0", "salgan"),
        ("salgan.0.weight", "salema"),
        ("0.weight", "salbce"),
    )
    found = next((other for mark, other in marks if mark in source), None)
    if (
        found is None
        or found == kind
        or (found.startswith("seg2vid") and kind.startswith("seg2vid"))
    ):
        return None
    return f"it looks like {found}"
