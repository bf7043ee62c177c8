"""Device, number format and seeds: resolved once, before any work."""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any, Literal, TypeVar

import torch
from torch import Tensor, nn
from torch.nn.utils.fusion import fuse_conv_bn_eval

from seg2vid_cli.errors import DeviceError

T = TypeVar("T")
Precision = Literal["auto", "fp32", "bf16", "fp16"]
PRECISIONS: tuple[Precision, ...] = ("auto", "fp32", "bf16", "fp16")
_NORMS = (nn.BatchNorm2d, nn.BatchNorm3d)
_CONVOLUTIONS = (nn.Conv2d, nn.Conv3d, nn.ConvTranspose2d)
_CHANNELS_LAST = {4: torch.channels_last, 5: torch.channels_last_3d}
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

    def prepare(self, network: nn.Module) -> nn.Module:
        """Make a network fast to run here: norms folded, channels last, the number format fixed.

        Args:
            network: In evaluation mode; changed, and not to be trained again. One that is `precise`
                stays float32.
        """
        fold_norms(network)
        dtype = torch.float32 if is_precise(network) else _DTYPES[self.precision]
        for module in network.modules():  # norms that are left keep their statistics in float32
            if not isinstance(module, _NORMS):
                for parameter in module.parameters(recurse=False):
                    parameter.data = parameter.data.to(dtype)
        network.to(self.device)
        for parameter in network.parameters():
            if parameter.dim() in _CHANNELS_LAST:
                parameter.data = parameter.data.contiguous(
                    memory_format=_CHANNELS_LAST[parameter.dim()]
                )
        return network

    def lay_out(self, x: Tensor) -> Tensor:
        """Bring a network's input `(B, C, H, W)` into the memory layout of prepared weights."""
        return x.contiguous(memory_format=torch.channels_last)

    @contextmanager
    def run(self, network: nn.Module | None = None) -> Iterator[None]:
        """Run networks here: no gradients, the chosen number format, repeatable kernels.

        Args:
            network: The one that runs; float32 if it is `precise`.
        """
        deterministic = torch.backends.cudnn.deterministic
        torch.backends.cudnn.deterministic = True
        dtype = _DTYPES[self.precision]
        mixed = self.precision != "fp32" and not (network is not None and is_precise(network))
        try:
            with torch.inference_mode(), torch.autocast(self.device.type, dtype, enabled=mixed):
                yield
        finally:
            torch.backends.cudnn.deterministic = deterministic


def is_precise(network: nn.Module) -> bool:
    """Whether a network says of itself that eight binary digits are too few for it."""
    return getattr(network, "precise", False)


class RowLimit:
    """How many rows of a batch a network takes at once; halved for good when a GPU is full.

    Args:
        limit: Rows at first; no limit if not given.
    """

    def __init__(self, limit: int | None = None) -> None:
        self.limit = limit

    def run(self, count: int, work: Callable[[int, int], Sequence[T]]) -> list[T]:
        """Do `count` rows in pieces.

        Args:
            count: Rows in all.
            work: From the first row and one past the last to one result per row.

        Raises:
            torch.OutOfMemoryError: Not even one row fits.
        """
        done: list[T] = []
        while len(done) < count:
            first = len(done)
            last = min(count, first + (self.limit or count))
            try:
                done += work(first, last)
                continue
            except torch.OutOfMemoryError:
                if last - first == 1:
                    raise
            # Outside the handler, whose traceback holds on to what did not fit.
            self.limit = (last - first) // 2
            torch.cuda.empty_cache()
        return done


def resolve_compute(device: str = "auto", precision: Precision = "auto") -> Compute:
    """Pick a device (cuda, mps, cpu in this order) and a number format.

    `auto` precision is bf16 on GPUs and CPUs that compute in it, fp16 on older CUDA GPUs, and fp32
    elsewhere.

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
    elif chosen.type == "cpu" and _cpu_computes_bf16():
        picked = "bf16"
    return Compute(device=chosen, precision=picked, reason=f"device {how}, precision by device")


def mixed_precision(device: torch.device) -> torch.autocast:
    """Train with matrix products in bf16 where the device computes in it, else all in fp32.

    In emulation bf16 is slower than fp32, and fp16 would need its losses scaled.
    """
    fast = resolve_compute(str(device)).precision == "bf16"
    return torch.autocast(device.type, torch.bfloat16, enabled=fast)


def _cpu_computes_bf16() -> bool:
    """Whether convolutions run in bf16 units, and not in emulation, which is slower than fp32."""
    return bool(torch.cpu._is_avx512_bf16_supported() or torch.cpu._is_amx_tile_supported())


def fold_norms(network: nn.Module) -> None:
    """Put batch norms that directly follow a convolution into its weights, in place.

    Args:
        network: In evaluation mode.
    """
    for module in network.modules():
        if isinstance(module, nn.Sequential):
            for index in range(len(module) - 1):
                layer, norm = module[index], module[index + 1]
                module[index], module[index + 1] = _folded(layer, norm)
        elif isinstance(getattr(module, "bn", None), _NORMS):
            module.conv, module.bn = _folded(module.conv, module.bn)


def _folded(layer: Any, norm: Any) -> tuple[Any, Any]:
    if not isinstance(layer, _CONVOLUTIONS) or not isinstance(norm, _NORMS):
        return layer, norm
    transpose = isinstance(layer, nn.ConvTranspose2d)
    return fuse_conv_bn_eval(layer, norm, transpose=transpose), nn.Identity()


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


def draw_evenly(first: Tensor, number: int) -> Tensor:
    """Standard normal numbers that together leave no large gaps, unlike ones drawn one by one.

    A Kronecker sequence of the generalised golden ratio (Roberts, "The Unreasonable Effectiveness
    of Quasirandom Sequences", 2018), begun at random.

    Args:
        first: `(..., D)`, standard normal: number 0.
        number: Which one.

    Returns:
        As `first`, which is standard normal too.
    """
    if not number:
        return first
    size = first.shape[-1]
    ratio = 2.0
    for _ in range(64):  # the root of x ** (D + 1) = x + 1
        ratio = (1 + ratio) ** (1 / (size + 1))
    # Whole steps are dropped before they cost precision.
    steps = torch.tensor([number * ratio**-k % 1 for k in range(1, size + 1)], dtype=torch.float64)
    shares = (torch.special.ndtr(first.double()) + steps) % 1
    out: Tensor = torch.special.ndtri(shares.clamp(1e-7, 1 - 1e-7)).to(first.dtype)
    return out
