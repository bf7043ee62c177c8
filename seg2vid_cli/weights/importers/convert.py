"""An original checkpoint to files of this package: safetensors and a description per stage."""

from __future__ import annotations

import json
from collections import Counter
from collections.abc import Callable, Mapping
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any

import torch
from safetensors.torch import save_file
from torch import Tensor, nn

from seg2vid_cli.errors import CheckpointError, InputError
from seg2vid_cli.weights.importers import KINDS, Kind, pix2pixhd, seg2vid
from seg2vid_cli.weights.importers.checkpoint import StateDict, open_checkpoint
from seg2vid_cli.weights.importers.layout import COUNTER, Conversion, Part, check_shapes
from seg2vid_cli.weights.load import load_strictly

_Describe = Callable[[StateDict, Kind], tuple[dict[str, Part], tuple[str, ...]]]
_LAYOUTS: Mapping[Kind, tuple[Callable[[StateDict], Conversion], _Describe]] = {
    "seg2vid-two-path": (seg2vid.convert, seg2vid.describe),
    "seg2vid-one-path": (seg2vid.convert, seg2vid.describe),
    "seg2vid-no-labels": (seg2vid.convert, seg2vid.describe),
    "pix2pixhd-global": (pix2pixhd.convert_global, pix2pixhd.describe),
    "pix2pixhd-local": (pix2pixhd.convert_local, pix2pixhd.describe),
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
        lines = [f"{name}: {len(stage.tensors)} tensors" for name, stage in self.stages.items()]
        lines += [f"dropped {n}: {why}" for why, n in Counter(self.dropped.values()).items()]
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


def import_checkpoint(path: Path, kind: Kind, folder: Path) -> Import:
    """Convert an original checkpoint into `STAGE.safetensors` and `STAGE.json`.

    `STAGE.json` is the stage's entry for a bundle's `bundle.json`. Every written file is read back
    strictly before it takes its name.

    Args:
        path: The checkpoint, as its authors published it.
        kind: Its layout, a key of `KINDS`.
        folder: Where to; made if needed.

    Raises:
        InputError: Unknown kind, or a file that cannot be read or written.
        CheckpointError: See `open_checkpoint` and `import_tensors`.
    """
    if kind not in KINDS:
        raise InputError(f"kind '{kind}' is not known", hint=f"use one of {', '.join(KINDS)}")
    checkpoint = open_checkpoint(path)
    try:
        result = import_tensors(checkpoint.tensors, kind)
    except CheckpointError as error:
        raise CheckpointError(f"{path}: {error.message}", hint=error.hint) from error
    try:
        folder.mkdir(parents=True, exist_ok=True)
        for name, stage in result.stages.items():
            _write(stage, name, folder, kind)
    except OSError as error:
        raise InputError(f"{folder}: cannot be written: {error.strerror or error}") from error
    return replace(result, dropped={**checkpoint.dropped, **result.dropped})


def _write(stage: ImportedStage, name: str, folder: Path, kind: Kind) -> None:
    final = folder / f"{name}.safetensors"
    part = folder / f"{name}.safetensors.part"
    try:
        save_file(dict(stage.tensors), part, metadata={"imported": kind, "stage": name})
        part.chmod(0o644)  # safetensors makes files that only their owner can read
        load_strictly(stage.part.network(stage.part.config), part)
        part.replace(final)
    finally:
        part.unlink(missing_ok=True)
    text = json.dumps(stage.description(final.name), indent=2) + "\n"
    (folder / f"{name}.json").write_text(text, encoding="utf-8")


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
    )
    found = next((other for mark, other in marks if mark in source), None)
    if (
        found is None
        or found == kind
        or (found.startswith("seg2vid") and kind.startswith("seg2vid"))
    ):
        return None
    return f"it looks like {found}"
