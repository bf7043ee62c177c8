"""Label map to first frame: painted by a network, or a picture of the user's."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import torch
from numpy.typing import NDArray
from PIL import Image, ImageOps
from torch import Tensor

from seg2vid_cli.device import Compute, draw_normal
from seg2vid_cli.errors import InputError
from seg2vid_cli.networks.label_unet import LabelUNet

MAX_PIXELS = 64 * 1024 * 1024
ASPECT_TOLERANCE = 0.02


def paint_first_frame(
    network: LabelUNet, planes: Tensor, *, seed: int, variant: int, compute: Compute
) -> Tensor:
    """Paint label planes in a look drawn from the seed.

    Args:
        network: The generator.
        planes: `(1, K, H, W)` one-hot, on the compute device; sides multiples of `config.multiple`.
        seed: Decides light and colours.
        variant: Number of the sample under this seed.
        compute: Where to run.

    Returns:
        `(1, 3, H, W)` float32 in [0, 1].
    """
    seeds = {"seed": seed, "variant": variant}
    style = draw_normal((1, network.config.style_size), purpose="appearance", **seeds)
    noise = draw_normal((1, 1, *planes.shape[-2:]), purpose="texture", **seeds)
    with compute.run():
        frame: Tensor = network(planes, style.to(compute.device), noise.to(compute.device)).float()
    return frame


def read_picture(path: Path, *, size_hw: tuple[int, int]) -> NDArray[np.uint8]:
    """Read a photo to start a clip from, and scale it to the working size.

    Args:
        path: Any picture that Pillow reads.
        size_hw: Working size; the photo must have its aspect ratio within 2 %.

    Returns:
        uint8 `(H, W, 3)`.

    Raises:
        InputError: Missing, not a picture, too large, or of another aspect ratio.
    """
    height, width = size_hw
    try:
        with Image.open(path) as image:
            if image.width * image.height > MAX_PIXELS:
                raise InputError(f"{path}: {image.width}x{image.height} is more than 64 megapixels")
            if image.mode.startswith(("I", "F")):
                raise InputError(
                    f"{path}: more than 8 bits per channel", hint="save the picture with 8 bits"
                )
            # By way of RGBA: Pillow warns of palettes with transparency otherwise.
            picture = ImageOps.exif_transpose(image).convert("RGBA").convert("RGB")
    except (OSError, ValueError, SyntaxError, Image.DecompressionBombError) as error:
        reason = getattr(error, "strerror", None) or "not a picture that can be read"
        raise InputError(
            f"{path}: {reason}", hint="--first-frame takes a photo, PNG or JPEG"
        ) from error
    stretch = (picture.width / picture.height) / (width / height)
    if abs(stretch - 1) > ASPECT_TOLERANCE:
        raise InputError(
            f"{path}: {picture.width}x{picture.height} has another aspect ratio than the clip "
            f"({width}x{height})",
            hint="crop the photo so that it shows what the label map shows",
        )
    return np.asarray(picture.resize((width, height), Image.Resampling.LANCZOS))


def picture_to_tensor(picture: NDArray[np.uint8]) -> Tensor:
    """uint8 `(H, W, 3)` to float32 `(1, 3, H, W)` in [0, 1]."""
    return torch.from_numpy(picture.copy()).permute(2, 0, 1)[None].float() / 255
