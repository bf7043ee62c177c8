"""Pictures and tables of a label map, for people: does the tool see what I see?"""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray
from PIL import Image, ImageDraw, ImageFont

from seg2vid_cli.label_sets import CLASSES
from seg2vid_cli.labels import LabelMap, class_histogram

_PALETTE: NDArray[np.uint8] = np.array([c.colour for c in CLASSES], np.uint8)
_PICTURE_WIDTH_PX = (640, 1600)  # the map is enlarged or reduced to lie between these
_MAX_PICTURE_HEIGHT_PX = 1200
_TEXT_PX = 20
_ROW_PX = 32
_COLUMN_PX = 300
_MARGIN_PX = 16
_PAPER = (255, 255, 255)
_INK = (32, 32, 32)


def colour_picture(train_ids: NDArray[np.uint8]) -> NDArray[np.uint8]:
    """Paint `(H, W)` train ids in Cityscapes colours.

    Returns:
        `(H, W, 3)` uint8 RGB; unlabelled is black.
    """
    picture: NDArray[np.uint8] = _PALETTE[train_ids]
    return picture


def class_table(labels: LabelMap) -> list[tuple[str, str, str]]:
    """List the classes of a map, the largest first.

    Returns:
        Name, pixels and share, ready to print.
    """
    return [
        (CLASSES[train_id].name, f"{pixels:,}", share_text(share))
        for train_id, pixels, share in class_histogram(labels)
    ]


def share_text(share: float) -> str:
    """Write a share in percent; one that is not nothing does not read `0.0 %`."""
    return "<0.1 %" if 0 < share < 0.0005 else f"{100 * share:.1f} %"


def legend_picture(labels: LabelMap) -> Image.Image:
    """Paint a map in Cityscapes colours over a legend of its classes.

    A small map is enlarged, with hard edges, until the text under it can be read.

    Returns:
        An RGB picture: the map, its encoding and size, and a swatch, name and share per class.
    """
    picture = _fit(Image.fromarray(colour_picture(labels.train_ids)))
    font = ImageFont.load_default(size=_TEXT_PX)
    entries = class_histogram(labels)
    columns = max(1, (picture.width - _MARGIN_PX) // _COLUMN_PX)
    rows = -(-len(entries) // columns)
    height = picture.height + 2 * _MARGIN_PX + _ROW_PX * (rows + 1)
    sheet = Image.new("RGB", (picture.width, height), _PAPER)
    sheet.paste(picture, (0, 0))
    draw = ImageDraw.Draw(sheet)
    top = picture.height + _MARGIN_PX
    map_height, map_width = labels.size_hw
    title = f"{map_width} x {map_height} pixels, read as {labels.encoding}"
    draw.text((_MARGIN_PX, top + _ROW_PX // 2), title, fill=_INK, font=font, anchor="lm")
    for place, (train_id, _, share) in enumerate(entries):
        column, row = divmod(place, rows)  # down each column first, as a table is read
        left, middle = _MARGIN_PX + column * _COLUMN_PX, top + _ROW_PX * (row + 1) + _ROW_PX // 2
        swatch = (left, middle - 10, left + 28, middle + 10)
        draw.rectangle(swatch, fill=CLASSES[train_id].colour, outline=_INK)
        draw.text((left + 40, middle), CLASSES[train_id].name, fill=_INK, font=font, anchor="lm")
        right = left + _COLUMN_PX - 2 * _MARGIN_PX
        draw.text((right, middle), share_text(share), fill=_INK, font=font, anchor="rm")
    return sheet


def _fit(picture: Image.Image) -> Image.Image:
    """Scale to a width that leaves room for a legend; by a whole factor when enlarging."""
    low, high = _PICTURE_WIDTH_PX
    if picture.width < low:
        factor = -(-low // picture.width)
        factor = max(1, min(factor, _MAX_PICTURE_HEIGHT_PX // picture.height))
        picture = picture.resize(
            (picture.width * factor, picture.height * factor), Image.Resampling.NEAREST
        )
    scale = min(1.0, high / picture.width, _MAX_PICTURE_HEIGHT_PX / picture.height)
    if scale < 1:
        size = max(1, round(picture.width * scale)), max(1, round(picture.height * scale))
        picture = picture.resize(size, Image.Resampling.BOX)
    if picture.width < low:  # a tall map: centre it over the legend
        wide = Image.new("RGB", (low, picture.height), _PAPER)
        wide.paste(picture, ((low - picture.width) // 2, 0))
        return wide
    return picture
