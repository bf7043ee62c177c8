"""Original checkpoints to this package's files: one module per upstream layout.

Nothing else in the package opens a pickle. This module loads no torch, so that `--help` can list
the kinds.
"""

from __future__ import annotations

from collections.abc import Mapping
from types import MappingProxyType
from typing import Literal

Kind = Literal[
    "seg2vid-two-path",
    "seg2vid-one-path",
    "seg2vid-no-labels",
    "pix2pixhd-global",
    "pix2pixhd-local",
    "salgan",
    "salbce",
    "salema",
]
KINDS: Mapping[Kind, str] = MappingProxyType(
    {
        "seg2vid-two-path": "seg2vid with labels, camera and objects apart (Cityscapes)",
        "seg2vid-one-path": "seg2vid with labels, one latent for all motion (Cityscapes)",
        "seg2vid-no-labels": "seg2vid without labels (UCF-101, KTH)",
        "pix2pixhd-global": "pix2pixHD's global generator (Cityscapes label ids and borders)",
        "pix2pixhd-local": "pix2pixHD's local enhancer, 1024p (Cityscapes label ids and borders)",
        "salgan": "SalGAN's generator, a Lasagne archive (.npz): where people look in a picture",
        "salbce": "SalBCE, SalGAN's generator in PyTorch: where people look in a picture",
        "salema": "SalEMA: where people look in a video",
    }
)
# Kinds that are NumPy archives; the others are PyTorch checkpoints.
ARCHIVES: frozenset[Kind] = frozenset({"salgan"})
