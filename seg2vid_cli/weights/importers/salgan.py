"""SalGAN's generator as a Lasagne archive, and its PyTorch descendants SalBCE and SalEMA.

Mirrors imatge-upc/salgan at 0d14f5ded8ba, scripts/models/generator.py with vgg16.py as its encoder
(`gen_modelWeights0090.npz`), and Linardos/SalEMA at 0c61faa45eb1, src/model/SalEMA.py
(`SalEMA30.pt`). The archive has no names, only numbers: weight and bias of every convolution, in
the order of the layers.

Theano's convolution turns its kernels round. VGG-16 came from Caffe, so the encoder was built with
`flip_filters=False` and its kernels are those of PyTorch; the decoder was not, so its kernels have
to be turned round here.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import replace
from itertools import accumulate

import torch
from torch import Tensor

from seg2vid_cli.errors import CheckpointError
from seg2vid_cli.networks.salgan import (
    DECODER_CONVS,
    ENCODER_CONVS,
    Salema,
    SalemaConfig,
    Salgan,
    SalganConfig,
    conv_numbers,
)
from seg2vid_cli.weights.importers import Kind
from seg2vid_cli.weights.importers.checkpoint import StateDict
from seg2vid_cli.weights.importers.layout import (
    CONV,
    Conversion,
    Part,
    Renames,
    rename,
    size,
    table,
)

SIZE_HW = (192, 256)
EMA_LAYER = 30
ALPHA = 0.1  # before the sigmoid; the authors' command line gives it
ALPHA_NAME = "alpha"  # where it was learnt, it is a tensor

_ENCODER, _DECODER = conv_numbers()
_CONVS = (*_ENCODER, *_DECODER)
_LEAVES = [f"layers.{number}.{leaf}" for number in _CONVS for leaf in CONV]
LASAGNE: Renames = {f"arr_{place}": name for place, name in enumerate(_LEAVES)}
_TURNED = frozenset(f"layers.{number}.weight" for number in _DECODER)


def torch_table(prefix: str) -> Renames:
    """Names in a PyTorch checkpoint; `prefix` is `salgan.`, or empty for a bare Sequential's."""
    return table((f"{prefix}{number}", f"layers.{number}", CONV) for number in _CONVS)


def _prefix(source: Iterable[str]) -> str:
    return "salgan." if any(name.startswith("salgan.") for name in source) else ""


def convert_archive(source: StateDict) -> Conversion:
    """Rename the archive's arrays and turn the decoder's kernels round.

    Raises:
        CheckpointError: An array that this layout does not have, or one that is missing.
    """
    named = rename(source, {"saliency": LASAGNE}, {})
    tensors = {n: _turn(t) if n in _TURNED else t for n, t in named.tensors["saliency"].items()}
    return replace(named, tensors={"saliency": tensors})


def _turn(kernel: Tensor) -> Tensor:
    return torch.flip(kernel, (2, 3)) if kernel.dim() == 4 else kernel  # shapes are checked later


def convert_torch(source: StateDict) -> Conversion:
    """Rename SalBCE's tensors into the stage `saliency`.

    Raises:
        CheckpointError: A tensor that this layout does not have, or one that is missing.
    """
    return rename(source, {"saliency": torch_table(_prefix(source))}, {})


def convert_salema(source: StateDict) -> Conversion:
    """Rename SalEMA's tensors into the stage `saliency`; a learnt alpha is used by `describe`.

    Raises:
        CheckpointError: A tensor that this layout does not have, or one that is missing.
    """
    used: Mapping[str, str] = {ALPHA_NAME: "it is in the network's configuration"}
    return rename(source, {"saliency": torch_table(_prefix(source))}, used)


def describe(source: StateDict, kind: Kind) -> tuple[dict[str, Part], tuple[str, ...]]:
    """Work out the configuration: widths from the shapes, the size from the authors' code.

    Args:
        source: Tensors by original name; the kind's `convert` accepts them.
        kind: One of the saliency kinds.

    Returns:
        The stage, and remarks on what had to be assumed.

    Raises:
        CheckpointError: The shapes do not fit together, or alpha is no single number.
    """
    renames = LASAGNE if kind == "salgan" else torch_table(_prefix(source))
    original = {new: old for old, new in renames.items()}

    def widths(numbers: tuple[int, ...], counts: tuple[int, ...]) -> tuple[int, ...]:
        firsts = (0, *accumulate(counts[:-1]))
        return tuple(size(source, original[f"layers.{numbers[i]}.weight"], 0) for i in firsts)

    shape = SalganConfig(
        size_hw=SIZE_HW,
        encoder_channels=widths(_ENCODER, ENCODER_CONVS),
        decoder_channels=widths(_DECODER, DECODER_CONVS),
    )
    if kind != "salema":
        part = Part(
            family="salgan",
            network=Salgan,
            config=shape,
            options={"normalise": False, "blur": True},
            renames=renames,
        )
        return {"saliency": part}, ()
    alpha, remarks = _alpha(source)
    part = Part(
        family="salema",
        network=Salema,
        config=SalemaConfig(
            size_hw=shape.size_hw,
            encoder_channels=shape.encoder_channels,
            decoder_channels=shape.decoder_channels,
            ema_layer=EMA_LAYER,
            ema_weight=torch.sigmoid(torch.tensor(alpha, dtype=torch.float64)).item(),
        ),
        options={"normalise": True, "blur": False},
        renames=renames,
    )
    return {"saliency": part}, remarks


def _alpha(source: StateDict) -> tuple[float, tuple[str, ...]]:
    if ALPHA_NAME not in source:
        remark = (
            f"the weight of a new frame is not in the file and taken to be sigmoid({ALPHA}), as in "
            "the authors' command"
        )
        return ALPHA, (remark,)
    alpha = source[ALPHA_NAME]
    if alpha.numel() != 1 or not torch.isfinite(alpha).all():
        raise CheckpointError(f"{ALPHA_NAME} of shape {tuple(alpha.shape)} is no single number")
    return float(alpha), ()
