"""Device, number format and seeds: resolved once, before any work."""

from __future__ import annotations

import hashlib
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Literal

import torch
from torch import Tensor

from seg2vid_cli.errors import DeviceError

Precision = Literal["auto", "fp32", "bf16", "fp16"]
PRECISIONS: tuple[Precision, ...] = ("auto", "fp32", "bf16", "fp16")
_DTYPES = {"fp32": torch.float32, "bf16": torch.bfloat16, "fp16": torch.float16}


@dataclass(frozen=True, kw_only=True)
class Compute:
    """Where and in which number format networks run.

    Args:
        device: The torch device.
        precision: `fp32`, `bf16` or `fp16`; of the networks' arithmetic, never of warping.
        reason: One phrase on how both were chosen.
    """

    device: torch.device
    precision: str
    reason: str

    @contextmanager
    def run(self) -> Iterator[None]:
        """Run networks here: no gradients, the chosen number format, repeatable kernels."""
        deterministic = torch.backends.cudnn.deterministic
        torch.backends.cudnn.deterministic = True
        dtype, mixed = _DTYPES[self.precision], self.precision != "fp32"
        try:
            with torch.inference_mode(), torch.autocast(self.device.type, dtype, enabled=mixed):
                yield
        finally:
            torch.backends.cudnn.deterministic = deterministic


def resolve_compute(device: str = "auto", precision: Precision = "auto") -> Compute:
    """Pick a device (cuda, mps, cpu in this order) and a number format.

    `auto` precision is bf16 on GPUs that have it, fp16 on older CUDA GPUs, and fp32 elsewhere.

    Raises:
        DeviceError: This machine, or this build of torch, does not have what was asked for.
    """
    chosen = _best_device() if device == "auto" else _named_device(device)
    how = "found" if device == "auto" else "asked for"
    if precision not in PRECISIONS:
        raise DeviceError(
            f"precision '{precision}' is not known", hint=f"use one of {', '.join(PRECISIONS)}"
        )
    if precision != "auto":
        return Compute(
            device=chosen, precision=precision, reason=f"device {how}, precision asked for"
        )
    picked = "fp32"
    if chosen.type == "cuda":
        picked = "bf16" if torch.cuda.is_bf16_supported(including_emulation=False) else "fp16"
    return Compute(device=chosen, precision=picked, reason=f"device {how}, precision by device")


def _best_device() -> torch.device:
    if torch.cuda.is_available():
        return torch.device("cuda")
    if torch.backends.mps.is_available():
        return torch.device("mps")
    return torch.device("cpu")


def _named_device(name: str) -> torch.device:
    hint = "use --device auto, cpu, cuda, cuda:N or mps"
    try:
        device = torch.device(name)
    except RuntimeError as error:
        raise DeviceError(f"device '{name}' is not known", hint=hint) from error
    if device.type == "cuda":
        count = torch.cuda.device_count() if torch.cuda.is_available() else 0
        if (device.index or 0) >= count:
            raise DeviceError(
                f"device '{name}': this machine has {count} usable CUDA GPUs", hint=hint
            )
    elif device.type == "mps":
        if not torch.backends.mps.is_available():
            raise DeviceError("device 'mps': not available on this machine", hint=hint)
    elif device.type != "cpu":
        raise DeviceError(f"device '{name}' is not supported", hint=hint)
    return device


def draw_normal(shape: tuple[int, ...], *, seed: int, variant: int, purpose: str) -> Tensor:
    """Standard normal numbers that depend on nothing but the arguments.

    They are drawn on the CPU, so that neither device nor batch size changes a sample.

    Args:
        shape: Shape to return.
        seed: The user's seed.
        variant: Number of the sample under this seed.
        purpose: What the numbers are for; different purposes are independent.

    Returns:
        float32 on the CPU.
    """
    digest = hashlib.sha256(f"{seed}/{variant}/{purpose}".encode()).digest()
    generator = torch.Generator().manual_seed(int.from_bytes(digest[:8], "little") >> 1)
    return torch.randn(shape, generator=generator)
