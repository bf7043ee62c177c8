"""Rendered picture to edges, and to edges as a real picture of the scene might have them.

The first are found by a threshold on the Laplacian; `EdgeDetector` turns them into the second. The
weights of its side outputs are drawn from the sample's appearance where variety is wanted.

Source: "S-Flow GAN" (Miron and Coscas, 2019).
"""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Literal, get_args

import numpy as np
import torch
from numpy.typing import NDArray
from PIL import Image
from torch import Tensor
from torch.nn import functional as F

from seg2vid_cli.device import Compute
from seg2vid_cli.errors import InputError
from seg2vid_cli.first_frame import ASPECT_TOLERANCE, open_picture, picture_to_tensor, to_grey
from seg2vid_cli.networks.edge_detector import EdgeDetector
from seg2vid_cli.sample import Sample

GuideKind = Literal["auto", "picture", "map"]
GUIDE_KINDS: tuple[GuideKind, ...] = get_args(GuideKind)
MAX_VARIETY = 2.0
MIX_SPREAD = 0.5  # standard deviation of the logarithm of a side output's factor, at variety 1
BLACK, WHITE = 32, 223  # grey values of an edge map are no further inside than these
STRAY = 0.001  # of its pixels may be


@dataclass(frozen=True, kw_only=True)
class Guide:
    """What a first frame is to be guided by.

    Args:
        path: Where it was read from.
        kind: `picture`: a rendering, whose edges are yet to be found. `map`: edges.
        reason: How it was told which of the two it is.
        pixels: uint8 `(H, W, 3)` picture, or bool `(H, W)` edges.
    """

    path: Path
    kind: Literal["picture", "map"]
    reason: str
    pixels: NDArray[np.uint8] | NDArray[np.bool_]

    @property
    def size_hw(self) -> tuple[int, int]:
        """Height and width."""
        return self.pixels.shape[0], self.pixels.shape[1]

    def edges(self, size_hw: tuple[int, int], threshold: float) -> NDArray[np.bool_]:
        """Edges at a clip's size.

        A picture is made smaller before its edges are found, but never larger, which would smooth
        them away. Edges that shrink are all kept; where they grow, the nearest pixel counts.

        Args:
            size_hw: Height and width of the clip.
            threshold: Of the Laplacian; see `EdgeDetectorConfig`.

        Returns:
            bool `(H, W)`.
        """
        if self.kind == "picture":
            height, width = (min(n, old) for n, old in zip(size_hw, self.size_hw, strict=True))
            picture = Image.fromarray(np.asarray(self.pixels, np.uint8))
            small = np.asarray(picture.resize((width, height), Image.Resampling.BICUBIC))
            given = laplacian_edges(picture_to_tensor(small), threshold)
        else:
            given = torch.from_numpy(self.pixels.astype(np.float32))[None, None]
        larger = [max(n, old) for n, old in zip(size_hw, given.shape[-2:], strict=True)]
        grown = F.interpolate(given, size=larger, mode="nearest-exact")
        return np.asarray(F.adaptive_max_pool2d(grown, size_hw)[0, 0] > 0.5, np.bool_)


def read_guide(path: str | Path, *, labels_hw: tuple[int, int], kind: GuideKind = "auto") -> Guide:
    """Read a rendered picture, or an edge map, of a label map's scene.

    Args:
        path: Any picture that Pillow reads.
        labels_hw: Size of the label map. A picture must have its aspect ratio within 2 %, an edge
            map its very size.
        kind: What the file holds. `auto`: an edge map if it is grey and nearly all of it black or
            white, with some of each, or black throughout and of the label map's size.

    Returns:
        The guide, at its own size.

    Raises:
        InputError: Missing, not a picture, too large, of another size or aspect ratio, or not an
            edge map though said to be one.
    """
    file = Path(path)
    check_kind(kind)
    picture = np.asarray(open_picture(file))
    grey = picture.max(2)
    coloured = int((grey - picture.min(2)).max()) > WHITE - 2 * BLACK  # JPEG tints grey a little
    between = float(((grey > BLACK) & (grey < WHITE)).mean())
    white = float((grey >= WHITE).mean())
    problem = None
    if coloured or between > STRAY:
        problem = "it is coloured" if coloured else f"{between:.1%} of it is grey"
    elif white == 1:
        problem = "all of it is white"
    elif not white and grey.any():
        problem = f"nothing in it is white, the brightest pixel is {grey.max()} of 255"
    if kind == "map" and problem:
        raise InputError(
            f"{file}: not an edge map: {problem}",
            hint="an edge map is black, and white where there are edges; a picture goes with "
            "--edges-are picture",
        )
    fits = white > 0 or picture.shape[:2] == labels_hw  # a black one may be either
    is_map = kind == "map" or (kind == "auto" and not problem and fits)
    _check_shape(file, picture.shape[:2], labels_hw, is_map=is_map)
    reason = "As asked for."
    if kind == "auto":
        reason = (
            "Grey, and black or white everywhere."
            if is_map
            else f"For an edge map, {problem or 'it has another size'}."
        )
    if is_map:
        return Guide(path=file, kind="map", reason=reason, pixels=grey >= WHITE)
    return Guide(path=file, kind="picture", reason=reason, pixels=picture)


def _check_shape(
    file: Path, size_hw: tuple[int, ...], labels_hw: tuple[int, int], *, is_map: bool
) -> None:
    (height, width), (rows, columns) = size_hw, labels_hw
    sizes = f"{width}x{height}", f"{columns}x{rows}"
    if is_map and size_hw != labels_hw:
        raise InputError(
            f"{file}: the edge map is {sizes[0]}, the label map {sizes[1]}",
            hint="give an edge map of the label map's size, or the rendered picture itself",
        )
    if abs(width / height / (columns / rows) - 1) > ASPECT_TOLERANCE:
        raise InputError(
            f"{file}: the picture is {sizes[0]}, which is another aspect ratio than the label "
            f"map's {sizes[1]}",
            hint="render picture and label map with the same camera, or crop one of them",
        )


def check_kind(kind: str) -> None:
    """Make sure that a kind of guides is one of `GUIDE_KINDS`.

    Raises:
        InputError: It is not.
    """
    if kind not in GUIDE_KINDS:
        raise InputError(
            f"edges of kind '{kind}' are not known", hint=f"use one of {', '.join(GUIDE_KINDS)}"
        )


def check_variety(variety: float) -> None:
    """Make sure that a variety is in range.

    Raises:
        InputError: It is not.
    """
    if not 0 <= variety <= MAX_VARIETY:  # also false for NaN
        raise InputError(
            f"edge variety {variety:g} is out of range",
            hint=f"a number from 0 (none) to {MAX_VARIETY:g}; 1 is what training had",
        )


def laplacian(frame: Tensor) -> Tensor:
    """Spatial Laplacian of every channel, four neighbours, borders repeated.

    Args:
        frame: `(B, C, H, W)` in [0, 1].

    Returns:
        The same shape, in [-4, 4].
    """
    channels = frame.shape[1]
    kernel = frame.new_tensor([[0.0, 1.0, 0.0], [1.0, -4.0, 1.0], [0.0, 1.0, 0.0]])
    padded = F.pad(frame, (1, 1, 1, 1), mode="replicate")
    return F.conv2d(padded, kernel.expand(channels, 1, 3, 3), groups=channels)


def laplacian_edges(frame: Tensor, threshold: float) -> Tensor:
    """Where the Laplacian of the grey picture is at least `threshold` in size: 1, else 0.

    Args:
        frame: `(B, 3, H, W)` in [0, 1].
        threshold: In the same unit; see `EdgeDetectorConfig`.

    Returns:
        `(B, 1, H, W)`.
    """
    return (laplacian(to_grey(frame)).abs() >= threshold).to(frame.dtype)


def mix_factors(noise: Tensor, variety: float) -> Tensor:
    """Factors on the weights of side outputs.

    Args:
        noise: Standard normal, of any shape.
        variety: 0 gives 1 everywhere.

    Returns:
        Of the same shape, around 1.
    """
    return (variety * MIX_SPREAD * noise).exp()


def detect_edges(
    detector: EdgeDetector, edges: Tensor, *, sample: Sample, variety: float, compute: Compute
) -> Tensor:
    """Edges as a real picture of the scene might have them.

    Args:
        detector: The network.
        edges: `(1, 1, H, W)`, 1 = edge, on the compute device; sides multiples of
            `config.multiple`.
        sample: Its appearance decides the mix of the side outputs.
        variety: How far that mix is from the learnt one; see `check_variety`.
        compute: Where to run.

    Returns:
        `(1, 1, H, W)` float32 in [0, 1].
    """
    noise = sample.draw((1, len(detector.sides)), part="appearance", purpose="edges")
    with compute.run():
        mix = detector.mix.float() * mix_factors(noise, variety).to(compute.device)
        found: Tensor = detector(compute.lay_out(edges), mix).float()
    return found
