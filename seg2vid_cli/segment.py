"""Photo to label map, for those who have no label map yet."""

from __future__ import annotations

import math
from pathlib import Path

import numpy as np
import torch
from numpy.typing import NDArray
from PIL import Image
from torch.nn import functional as F

from seg2vid_cli.device import Compute
from seg2vid_cli.labels import LabelMap, labels_from_array
from seg2vid_cli.networks.segmenter import SegmentationNetwork
from seg2vid_cli.visualize import write_png

WORK_AREA_PX = 480 * 360  # what the network was trained at
SHARPEN = 2  # scores are enlarged before classes are named, so that borders are smooth


def label_photo(
    network: SegmentationNetwork, photo: NDArray[np.uint8], *, compute: Compute
) -> LabelMap:
    """Name the class of every pixel of a street photo.

    Args:
        network: The segmentation network.
        photo: uint8 `(H, W, 3)`, any size.
        compute: Where to run.

    Returns:
        A map of the photo's size; which classes can occur depends on what the network has seen.
    """
    height, width = photo.shape[:2]
    scale = math.sqrt(WORK_AREA_PX / (height * width))
    work_h, work_w = (max(1, round(side * scale)) for side in (height, width))
    small = Image.fromarray(photo).resize((work_w, work_h), Image.Resampling.LANCZOS)
    borders = [(0, -side % network.multiple) for side in (work_h, work_w)]
    padded = np.pad(np.asarray(small), [*borders, (0, 0)], mode="edge")
    frame = torch.from_numpy(padded).permute(2, 0, 1)[None].float() / 255
    with compute.run():
        scores = network(compute.lay_out(frame.to(compute.device))).float()[..., :work_h, :work_w]
    size = (min(SHARPEN * work_h, height), min(SHARPEN * work_w, width))
    scores = F.interpolate(scores, size=size, mode="bilinear", align_corners=False)
    ids = scores.argmax(1)[0].byte().cpu().numpy()
    full = Image.fromarray(ids).resize((width, height), Image.Resampling.NEAREST)
    return labels_from_array(np.asarray(full), encoding="train-ids")


def write_label_map(path: Path, labels: LabelMap) -> None:
    """Write a map as an 8-bit PNG of Cityscapes label ids, complete or not at all.

    Raises:
        InputError: The folder is not writable.
        VideoError: The disk is full.
    """
    write_png(path, Image.fromarray(labels.label_ids))
