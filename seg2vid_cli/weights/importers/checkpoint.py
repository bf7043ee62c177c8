"""An original checkpoint's file to its tensors, without running anything that is in it.

PyTorch checkpoints are opened as weights only, NumPy archives without pickles.
"""

from __future__ import annotations

import pickle
import re
import warnings
import zipfile
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
from torch import Tensor

from seg2vid_cli.errors import CheckpointError, InputError

StateDict = Mapping[str, Tensor]

WRAPPERS = ("vae", "state_dict")  # seg2vid's training script; the PyTorch ImageNet example
BESIDE_WEIGHTS = "state of the training run"
_TRAINING_STATE = ("optimizer", "optimizer_state_dict", "scheduler", "lr_scheduler")
_PARALLEL = "module."  # nn.DataParallel
_FORBIDDEN = re.compile(r"GLOBAL ([\w.]+)")  # in torch's own message
_ARRAY = re.compile(r"arr_\d{1,4}")  # what NumPy calls arrays that were saved without names


@dataclass(frozen=True, kw_only=True)
class Checkpoint:
    """The tensors of a checkpoint by their original names.

    Args:
        tensors: On the CPU, in the file's own number format.
        dropped: What lay beside them in the file, with the reason why it is not needed.
    """

    tensors: StateDict
    dropped: Mapping[str, str]


def open_checkpoint(path: Path) -> Checkpoint:
    """Read an original checkpoint (`.pth`, `.pt`, `.pth.tar`), old or new format.

    Only tensors, plain numbers, strings and containers are read. A file that names anything else is
    refused; there is no other way in.

    Raises:
        InputError: The file cannot be read at all.
        CheckpointError: Not a checkpoint, damaged, or it holds more than tensors.
    """
    _check_head(path)
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # an odd pickle shows in what follows
            data = torch.load(path, map_location="cpu", weights_only=True)
    except pickle.UnpicklingError as error:
        raise _refused(path, error) from error
    except MemoryError as error:
        raise CheckpointError(f"{path}: does not fit into memory") from error
    except Exception as error:  # a damaged pickle can fail in any way
        raise _damaged(path, error) from error
    try:
        return unwrap(data)
    except CheckpointError as error:
        raise CheckpointError(f"{path}: {error.message}", hint=error.hint) from error


def open_archive(path: Path) -> Checkpoint:
    """Read a NumPy archive (`.npz`) of arrays without names, `arr_0`, `arr_1` and so on.

    Raises:
        InputError: The file cannot be read at all.
        CheckpointError: Not such an archive, damaged, or it holds more than floating-point numbers.
    """
    try:
        with path.open("rb") as file:
            head = file.read(4)
    except OSError as error:
        raise InputError(f"{path}: cannot be read: {error.strerror}") from error
    if head != b"PK\x03\x04" or not _is_npz(path):
        raise CheckpointError(
            f"{path}: is not a NumPy archive, or is incomplete",
            hint="give the authors' .npz file; .pt files are imported with --as salbce or salema",
        )
    try:
        with np.load(path, allow_pickle=False) as archive:
            if strange := [name for name in archive.files if not _ARRAY.fullmatch(name)]:
                raise CheckpointError(
                    f"{path}: {len(strange)} arrays are not known, first {strange[0]!r}"
                )
            return Checkpoint(
                tensors={name: _tensor(name, archive[name], path) for name in archive.files},
                dropped={},
            )
    except CheckpointError:
        raise
    except MemoryError as error:
        raise CheckpointError(f"{path}: does not fit into memory") from error
    except Exception as error:  # a damaged archive can fail in any way
        if "allow_pickle" in str(error):
            raise CheckpointError(
                f"{path}: refused, nothing in it was run: it holds Python objects, and loading "
                "them could run any program",
                hint="give the .npz file as its authors published it",
            ) from error
        raise _damaged(path, error) from error


def _tensor(name: str, array: object, path: Path) -> Tensor:
    if not isinstance(array, np.ndarray) or array.dtype.kind != "f" or array.dtype.itemsize > 8:
        raise CheckpointError(f"{path}: '{name}' holds no floating-point numbers of up to 64 bits")
    return torch.from_numpy(np.array(array, array.dtype.newbyteorder("="), order="C"))


def unwrap(data: object) -> Checkpoint:
    """Take the tensors out of `{'vae': ...}` or `{'state_dict': ...}` and off `module.` prefixes.

    Raises:
        CheckpointError: No tensors by name, or something beside them that is not known.
    """
    dropped: dict[str, str] = {}
    while wrapper := next((w for w in WRAPPERS if _holds_mapping(data, w)), None):
        assert isinstance(data, Mapping)
        for name, value in data.items():
            if name == wrapper:
                continue
            if name not in _TRAINING_STATE and not isinstance(value, (int, float, str, type(None))):
                raise CheckpointError(f"'{name}' lies beside '{wrapper}' and is not known")
            dropped[str(name)] = BESIDE_WEIGHTS
        data = data[wrapper]
    if not isinstance(data, Mapping) or not data:
        raise CheckpointError(f"holds no tensors by name, but a {type(data).__name__}")
    if all(isinstance(name, str) and name.startswith(_PARALLEL) for name in data):
        data = {name[len(_PARALLEL) :]: value for name, value in data.items()}
    for name, value in data.items():
        if not isinstance(name, str) or not name.isprintable():
            raise CheckpointError(f"{name!r} is not a name")
        if not isinstance(value, Tensor):
            raise CheckpointError(f"'{name}' holds a {type(value).__name__} instead of a tensor")
        if value.device.type != "cpu" or value.layout != torch.strided or value.is_quantized:
            raise CheckpointError(f"'{name}' is not a plain tensor")
        if not value.dtype.is_floating_point and value.dtype != torch.int64:
            raise CheckpointError(f"'{name}' holds {value.dtype}, not weights")
    return Checkpoint(tensors=data, dropped=dropped)


def _holds_mapping(data: object, name: str) -> bool:
    return isinstance(data, Mapping) and isinstance(data.get(name), Mapping)


def _check_head(path: Path) -> None:
    """Name the files that are given by mistake; torch's own words on them do not help."""
    try:
        with path.open("rb") as file:
            head = file.read(512)
    except OSError as error:
        raise InputError(f"{path}: cannot be read: {error.strerror}") from error
    what, hint = None, "an original checkpoint is a .pth, .pt or .pth.tar file saved by PyTorch"
    if not head:
        what = "is empty"
    elif head[8:9] == b"{" and int.from_bytes(head[:8], "little") < 1 << 32:
        what, hint = "is a safetensors file", "it needs no import: put it into a bundle's folder"
    elif head[:2] == b"\x1f\x8b" or head[257:262] == b"ustar":
        what, hint = "is an archive", "unpack it and give the checkpoint in it"
    elif head[:4] == b"PK\x03\x04" and _is_npz(path):
        what, hint = "is a NumPy archive", "SalGAN's is one: import it with --as salgan"
    elif head[:4] != b"PK\x03\x04" and head[:1] != b"\x80":
        what = "is not a PyTorch checkpoint"
    if what:
        raise CheckpointError(f"{path}: {what}", hint=hint)


def _is_npz(path: Path) -> bool:
    try:
        with zipfile.ZipFile(path) as archive:
            return all(name.endswith(".npy") for name in archive.namelist())
    except (OSError, zipfile.BadZipFile):
        return False


def _refused(path: Path, error: pickle.UnpicklingError) -> CheckpointError:
    named = _FORBIDDEN.search(str(error))
    if not named:
        return CheckpointError(
            f"{path}: damaged, or not a PyTorch checkpoint", hint="download the file again"
        )
    return CheckpointError(
        f"{path}: refused, nothing in it was run: besides tensors it wants {named[1]}, and loading "
        "that could run any program",
        hint="where you trust the file, save its state_dict alone with torch.save and import that",
    )


def _damaged(path: Path, error: Exception) -> CheckpointError:
    text = str(error)
    if "TorchScript" in text:
        return CheckpointError(
            f"{path}: is a TorchScript program, not a checkpoint",
            hint="give the file that the program was made from",
        )
    first = re.split(r"\.\s|\n", text, maxsplit=1)[0] or type(error).__name__
    return CheckpointError(
        f"{path}: damaged or incomplete: {first[:160]}", hint="download the file again"
    )
