"""What the layouts share: rename tables by layer, strict renaming, and sizes read off tensors."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from typing import Any

import torch
from torch import Tensor, nn

from seg2vid_cli.errors import CheckpointError
from seg2vid_cli.weights.importers.checkpoint import StateDict

# A layer's row in a table: its original path, its path here, and the tensors it has.
Row = tuple[str, str, tuple[str, ...]]
Renames = Mapping[str, str]

CONV = ("weight", "bias")
CONV_ONLY = ("weight",)
COUNTER = "num_batches_tracked"
NORM = ("weight", "bias", "running_mean", "running_var", COUNTER)


@dataclass(frozen=True, kw_only=True)
class Conversion:
    """A checkpoint in this package's names.

    Args:
        tensors: By stage and name.
        dropped: Original names that are not needed, with the reason.
        filled: Counters of batch norm that the file lacks, by original name.
    """

    tensors: Mapping[str, StateDict]
    dropped: Mapping[str, str]
    filled: tuple[str, ...] = ()


@dataclass(frozen=True, kw_only=True)
class Part:
    """One stage's network as a checkpoint describes it.

    Args:
        family: Key of `weights.load.FAMILIES`.
        network: The network's class.
        config: Its configuration.
        options: How the stage uses it.
        renames: The stage's table, original name to name here.
    """

    family: str
    network: type[nn.Module]
    config: Any
    options: Mapping[str, Any] = field(default_factory=dict)
    renames: Renames


def table(rows: Iterable[Row]) -> Renames:
    """Spell out the tensors of every layer: original name to name here."""
    return {f"{old}.{leaf}": f"{new}.{leaf}" for old, new, leaves in rows for leaf in leaves}


def rename(
    source: StateDict, tables: Mapping[str, Renames], dropped: Mapping[str, str]
) -> Conversion:
    """Rename every tensor, strictly.

    Args:
        source: Tensors by original name.
        tables: Original name to name here, by stage.
        dropped: What is not needed, with the reason; a key that ends in a dot stands for every name
            that starts with it.

    Returns:
        The same tensors, not copied. Batch norm's counters, which files from before PyTorch 0.4.1
        lack altogether and inference does not use, are filled in as 0.

    Raises:
        CheckpointError: A name in neither table, or one of the tables' names is not there.
    """
    known = {old for names in tables.values() for old in names}
    reasons = {name: _reason(name, dropped) for name in source if name not in known}
    if unknown := [name for name, reason in reasons.items() if reason is None]:
        raise CheckpointError(f"{len(unknown)} tensors are not known, first {unknown[0]}")
    has_counters = any(name in known and name.endswith(COUNTER) for name in source)
    missing = [
        old
        for names in tables.values()
        for old in names
        if old not in source and (has_counters or not old.endswith(COUNTER))
    ]
    if missing:
        raise CheckpointError(f"{len(missing)} tensors are missing, first {missing[0]}")
    zero = torch.zeros((), dtype=torch.int64)
    return Conversion(
        tensors={
            stage: {new: source.get(old, zero) for old, new in names.items()}
            for stage, names in tables.items()
        },
        dropped={name: reason for name, reason in reasons.items() if reason is not None},
        filled=tuple(old for names in tables.values() for old in names if old not in source),
    )


def _reason(name: str, dropped: Mapping[str, str]) -> str | None:
    for key, reason in dropped.items():
        if name == key or (key.endswith(".") and name.startswith(key)):
            return reason
    return None


def size(source: StateDict, name: str, dim: int) -> int:
    """Read a width off a weight; `dim` 0 is what the layer gives, 1 what it takes.

    Raises:
        CheckpointError: It is no weight of a layer.
    """
    shape = source[name].shape
    if len(shape) < 2:
        raise CheckpointError(f"{name} has shape {tuple(shape)}, which is no layer's weight")
    return int(shape[dim])


def positive(**sizes: int) -> None:
    """Check widths that were worked out from several tensors.

    Raises:
        CheckpointError: One is not positive.
    """
    for name, value in sizes.items():
        if value < 1:
            raise CheckpointError(f"the shapes do not fit together: {name} would be {value}")


def check_shapes(source: StateDict, part: Part) -> None:
    """Compare every tensor's shape with what the network of this configuration needs.

    Raises:
        CheckpointError: A shape differs; names the tensor as the checkpoint does.
    """
    with torch.device("meta"):  # shapes without memory
        wanted: dict[str, Tensor] = part.network(part.config).state_dict()
    for old, new in part.renames.items():
        if old in source and source[old].shape != wanted[new].shape:
            raise CheckpointError(
                f"{old} has shape {tuple(source[old].shape)}, the network needs "
                f"{tuple(wanted[new].shape)}"
            )
