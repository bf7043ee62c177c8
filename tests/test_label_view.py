"""Pictures and tables of a label map."""

import numpy as np
import pytest

from seg2vid_cli.label_sets import CLASSES
from seg2vid_cli.label_view import class_table, colour_picture, legend_picture, share_text
from seg2vid_cli.labels import LabelMap


def bands(height, width):
    """All 20 classes, one band each."""
    train_ids = (np.arange(height) * 20 // height).astype(np.uint8)[:, None].repeat(width, axis=1)
    return LabelMap(train_ids=train_ids, label_ids=train_ids, encoding="train-ids")


def test_colours():
    picture = colour_picture(np.array([[0, 13], [10, 19]], np.uint8))
    assert picture.dtype == np.uint8
    expected = [[(128, 64, 128), (0, 0, 142)], [(70, 130, 180), (0, 0, 0)]]
    np.testing.assert_array_equal(picture, expected)


def test_table():
    train_ids = np.zeros((50, 100), np.uint8)
    train_ids[0, 0], train_ids[:10] = 13, 10
    train_ids[0, 0] = 13
    rows = class_table(LabelMap(train_ids=train_ids, label_ids=train_ids))
    assert rows == [("road", "4,000", "80.0 %"), ("sky", "999", "20.0 %"), ("car", "1", "<0.1 %")]


@pytest.mark.parametrize(
    ("share", "text"), [(0.0, "0.0 %"), (0.0004, "<0.1 %"), (0.0005, "0.1 %"), (1.0, "100.0 %")]
)
def test_shares(share, text):
    assert share_text(share) == text


@pytest.mark.parametrize("size_hw", [(16, 16), (20, 400), (400, 20), (360, 480), (1024, 2048)])
def test_legend_is_readable_at_any_size(size_hw):
    train_ids = np.zeros(size_hw, np.uint8)
    train_ids[0, 0] = 13
    sheet = legend_picture(LabelMap(train_ids=train_ids, label_ids=train_ids))
    assert sheet.mode == "RGB"
    assert 640 <= sheet.width <= 1600
    assert sheet.height <= 1300
    legend = np.asarray(sheet)[-96:]  # a title and one row of two classes, with margins
    for colour in ((128, 64, 128), (0, 0, 142)):
        assert 400 < (legend == colour).all(axis=2).sum() < 700  # a swatch of 28 x 20


def test_legend_has_room_for_every_class():
    sheet = np.asarray(legend_picture(bands(40, 40)))  # two columns of ten under 640 x 640
    assert sheet.shape == (640 + 2 * 16 + 11 * 32, 640, 3)
    columns = np.concatenate([sheet[640 + 16 + 32 :, left : left + 20] for left in (20, 320)])
    shown = {tuple(colour) for colour in columns.reshape(-1, 3).tolist()}
    assert {c.colour for c in CLASSES} <= shown


def test_small_map_is_enlarged_with_hard_edges():
    sheet = np.asarray(legend_picture(bands(20, 40)))
    assert (sheet[:16, :640] == CLASSES[0].colour).all()
    assert (sheet[16:32, :640] == CLASSES[1].colour).all()
