"""Label map to first frame: painted by a network, or a picture of the user's.

`LabelUNet` paints at the clip's size, in a look drawn from the seed. pix2pixHD's generators paint
Cityscapes label ids and object borders at their own, larger size, always in the same way; the
picture is then made smaller, as the paper does.
"""

from __future__ import annotations

import math
from pathlib import Path

import numpy as np
import torch
from numpy.typing import NDArray
from PIL import Image, ImageOps
from torch import Tensor
from torch.nn import functional as F

from seg2vid_cli.device import Compute
from seg2vid_cli.errors import InputError
from seg2vid_cli.label_sets import NUM_CLASSES
from seg2vid_cli.labels import LabelMap, instance_edges, pad_labels, padded_size
from seg2vid_cli.networks.label_unet import LabelUNet, LabelUNetConfig
from seg2vid_cli.networks.pix2pixhd import (
    GlobalConfig,
    GlobalGenerator,
    LocalConfig,
    LocalEnhancer,
)
from seg2vid_cli.palette import classes_of
from seg2vid_cli.sample import Sample

MAX_PIXELS = 64 * 1024 * 1024
ASPECT_TOLERANCE = 0.02
PICTURE_EXTENSIONS = (".png", ".jpg", ".jpeg", ".bmp", ".tif", ".tiff", ".webp")
LUMA = (0.299, 0.587, 0.114)  # ITU-R BT.601
AREA_TOLERANCE = 0.02
MIDDLE = 0.5  # of colours, where none is known
LEAST_SHARE = 1e-3  # of pictures that are darker, so that the number stays finite
FAINT = 0.03  # colours are compared as if all were so much brighter
MOST_GAIN, LEAST_GAIN = 2.0, 1 / 3  # much stronger, and dark textures become white ones
SHOULDER = 0.8  # brighter than that, colours are pressed together instead of cut off

FirstFrameNetwork = LabelUNet | GlobalGenerator | LocalEnhancer


def paint_first_frame(
    network: LabelUNet,
    planes: Tensor,
    *,
    sample: Sample,
    compute: Compute,
    edges: Tensor | None = None,
    places: NDArray[np.intp] | None = None,
    various: bool = True,
) -> Tensor:
    """Paint label planes in a look drawn from a sample.

    Args:
        network: The generator.
        planes: `(1, K, H, W)` one-hot, on the compute device; sides multiples of `config.multiple`.
        sample: Its appearance decides light and colours.
        compute: Where to run.
        edges: `(1, 1, H, W)` in [0, 1], for a generator that is guided by them.
        places: `(H, W)`, from `seg2vid_cli.palette.find_places`, for a generator with a palette.
        various: Whether places of one class differ in colour.

    Returns:
        `(1, 3, H, W)` float32 in [0, 1].
    """
    style = sample.draw((1, network.config.style_size), part="appearance", purpose="appearance")
    noise = None
    if edges is None:
        noise = sample.draw((1, 1, *planes.shape[-2:]), part="appearance", purpose="texture")
        noise = noise.to(compute.device)
    else:
        planes = torch.cat([planes, edges], dim=1)
    palette = network.palette
    if palette is None:
        with compute.run():
            plain: Tensor = network(planes, style.to(compute.device), noise).float()
        return plain
    assert places is not None
    where = torch.from_numpy(places).to(compute.device)
    light = _light(sample).to(compute.device)
    style = style.to(compute.device)
    ids = planes[0, :NUM_CLASSES].argmax(0).cpu().numpy().astype(np.uint8)
    classes = torch.from_numpy(classes_of(places, ids).astype(np.int64)).to(compute.device)
    unusual = sample.draw((len(classes) + 1, 4), part="appearance", purpose="colours")
    if not various:
        unusual[1:] = 0
    colours = palette(light, style, classes, unusual.to(compute.device))
    if network.config.colour_planes:
        told = colours[where].permute(2, 0, 1)[None].nan_to_num(MIDDLE)
        planes = torch.cat([planes, told.to(planes.dtype)], dim=1)
    with compute.run():
        frame: Tensor = network(planes, palette.draw_style(light, style), noise).float()
    return match_colours(frame, where, colours)


def _light(sample: Sample) -> Tensor:
    """How light a picture is among all, as a standard normal number: chosen, or drawn."""
    if sample.light is None:
        return sample.draw((1,), part="appearance", purpose="light")
    share = torch.tensor([sample.light]).clamp(LEAST_SHARE, 1 - LEAST_SHARE)
    chosen: Tensor = torch.special.ndtri(share)
    return chosen


def check_light(light: float | None, config: object, name: str) -> None:
    """Make sure that a generator can be told how light its picture should be.

    Args:
        light: As in `Sample`.
        config: Of its network.
        name: Of the weights, for the message.

    Raises:
        InputError: It cannot.
    """
    knows = isinstance(config, LabelUNetConfig) and (config.palette or config.colour_planes)
    if light is not None and not knows:
        raise InputError(
            f"weights '{name}' cannot be told how light a picture should be",
            hint="leave out --light, or use other weights, such as street",
        )


def match_colours(frame: Tensor, places: Tensor, colours: Tensor) -> Tensor:
    """Bring the mean colour of every place to what was drawn for it, as far as it is not there yet.

    Args:
        frame: `(1, 3, H, W)` in [0, 1].
        places: `(H, W)`, numbers of the places.
        colours: `(P, 3)`, their colours in [0, 1]; NaN leaves a place as it is.

    Returns:
        `(1, 3, H, W)` in [0, 1].
    """
    means = place_means(frame, places, len(colours))
    gains = (colours.cpu().double() + FAINT) / (means + FAINT)
    gains = gains * (MOST_GAIN / gains.amax(1, keepdim=True)).clamp_max(1)  # in the same hue
    gains = gains.clamp_min(LEAST_GAIN).nan_to_num(1.0).float().to(frame.device)
    brought = frame * gains[places].permute(2, 0, 1)[None]
    bright = SHOULDER + (1 - SHOULDER) * ((brought - SHOULDER) / (1 - SHOULDER)).tanh()
    return torch.where(brought > SHOULDER, bright, brought)


def place_means(frame: Tensor, places: Tensor, count: int) -> Tensor:
    """Mean colour of every place.

    Args:
        frame: `(1, 3, H, W)`.
        places: `(H, W)`, numbers of the places.
        count: P.

    Returns:
        `(P, 3)` float64, on the CPU; 0 for places that are not there.
    """
    # On the CPU, which adds in order, and so twice alike; and not every GPU knows double precision.
    flat, pixels = places.flatten().cpu(), frame[0].flatten(1).T.cpu().double()
    sums = torch.zeros(count, 3, dtype=pixels.dtype).index_add(0, flat, pixels)
    return sums / torch.bincount(flat, minlength=count).clamp_min(1)[:, None]


def paint_scene(
    network: GlobalGenerator | LocalEnhancer,
    labels: LabelMap,
    *,
    size_hw: tuple[int, int],
    compute: Compute,
) -> Tensor:
    """Paint label ids and object borders with pix2pixHD, then make the picture smaller.

    Args:
        network: The generator.
        labels: The scene at `scene_size`.
        size_hw: Size to return; bilinear without a filter, as in the paper's code.
        compute: Where to run.

    Returns:
        `(1, 3, H, W)` float32 in [0, 1].
    """
    config, (height, width) = network.config, labels.size_hw
    size = padded_size(labels.size_hw, multiple=config.multiple, smallest=config.smallest)
    padded, (top, left) = pad_labels(labels, size)
    ids = torch.from_numpy(padded.label_ids.astype(np.int64)).to(compute.device)
    planes = torch.zeros((1, config.label_planes, *ids.shape), device=ids.device)
    planes.scatter_(1, ids[None, None], 1.0)
    edges = torch.from_numpy(instance_edges(padded)).to(planes)[None, None]
    with compute.run():
        picture: Tensor = network(torch.cat([planes, edges], dim=1)).float()
    picture = (picture[..., top : top + height, left : left + width] + 1) / 2
    return F.interpolate(picture, size=size_hw, mode="bilinear", align_corners=False).clamp(0, 1)


def scene_size(config: GlobalConfig | LocalConfig, labels_hw: tuple[int, int]) -> tuple[int, int]:
    """Size at which pix2pixHD paints a label map: the area it was trained at, the map's aspect.

    Args:
        config: Of the generator.
        labels_hw: Size of the label map; kept where its area is that of the training.

    Returns:
        Height and width.
    """
    height, width = labels_hw
    area = config.size_hw[0] * config.size_hw[1]
    rounded = (height - 0.5) * (width - 0.5) <= area <= (height + 0.5) * (width + 0.5)
    if rounded or abs(height * width / area - 1) < AREA_TOLERANCE:
        return labels_hw
    scale = math.sqrt(area / (height * width))
    return max(1, round(height * scale)), max(1, round(width * scale))


def picture_size(path: Path) -> tuple[int, int]:
    """Height and width of a photo, turned upright.

    Raises:
        InputError: See `read_picture`.
    """
    picture = open_picture(path)
    return picture.height, picture.width


def read_picture(
    path: Path, *, size_hw: tuple[int, int], any_aspect: bool = False
) -> NDArray[np.uint8]:
    """Read a photo to start a clip from, and scale it to the working size.

    Args:
        path: Any picture that Pillow reads.
        size_hw: Working size; the photo must have its aspect ratio within 2 %.
        any_aspect: True where there is no label map that the photo has to fit.

    Returns:
        uint8 `(H, W, 3)`.

    Raises:
        InputError: Missing, not a picture, too large, or of another aspect ratio.
    """
    height, width = size_hw
    picture = open_picture(path)
    stretch = (picture.width / picture.height) / (width / height)
    if not any_aspect and abs(stretch - 1) > ASPECT_TOLERANCE:
        raise InputError(
            f"{path}: {picture.width}x{picture.height} has another aspect ratio than the clip "
            f"({width}x{height})",
            hint="crop the photo so that it shows what the label map shows",
        )
    return np.asarray(picture.resize((width, height), Image.Resampling.LANCZOS))


def open_picture(path: Path) -> Image.Image:
    """Open a photo, turned upright, as RGB.

    Raises:
        InputError: Missing, not a picture, or too large.
    """
    try:
        with Image.open(path) as image:
            if image.width * image.height > MAX_PIXELS:
                raise InputError(f"{path}: {image.width}x{image.height} is more than 64 megapixels")
            if image.mode.startswith(("I", "F")):
                raise InputError(
                    f"{path}: more than 8 bits per channel", hint="save the picture with 8 bits"
                )
            # By way of RGBA: Pillow warns of palettes with transparency otherwise.
            return ImageOps.exif_transpose(image).convert("RGBA").convert("RGB")
    except (OSError, ValueError, SyntaxError, Image.DecompressionBombError) as error:
        reason = getattr(error, "strerror", None) or "not a picture that can be read"
        raise InputError(f"{path}: {reason}", hint="give a photo, PNG or JPEG") from error


def to_grey(frame: Tensor) -> Tensor:
    """`(B, 3, H, W)` RGB to `(B, 1, H, W)` grey, as Pillow and OpenCV do it."""
    return (frame * frame.new_tensor(LUMA)[:, None, None]).sum(1, keepdim=True)


def picture_to_tensor(picture: NDArray[np.uint8]) -> Tensor:
    """uint8 `(H, W, 3)` to float32 `(1, 3, H, W)` in [0, 1]."""
    return torch.from_numpy(picture.copy()).permute(2, 0, 1)[None].float() / 255
