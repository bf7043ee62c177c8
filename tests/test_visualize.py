"""Pictures of flows and maps, against facts worked out by hand."""

from __future__ import annotations

import struct

import numpy as np
import pytest
from PIL import Image

from seg2vid_cli.errors import InputError, ShapeError
from seg2vid_cli.visualize import (
    choose_frames,
    compose_panel,
    contact_sheet,
    encode_flo,
    encode_png,
    flow_to_colour,
    read_flo,
    visibility_to_grey,
    write_flo,
    write_png,
)


def colour_of(right: float, down: float, *, max_px: float | None = 1.0) -> tuple[int, ...]:
    flow = np.array([[[right]], [[down]]], np.float32)
    return tuple(flow_to_colour(flow, max_px=max_px)[0, 0].tolist())


# ---- the colour wheel ----------------------------------------------------------------------------


def test_no_motion_is_white():
    assert colour_of(0, 0) == (255, 255, 255)
    assert colour_of(0, 0, max_px=None) == (255, 255, 255)


def test_directions_have_their_middlebury_hues():
    # Place on the wheel of 55: (atan2(-down, -right) / pi + 1) / 2 * 54.
    assert colour_of(1, 0) == (255, 0, 0)  # place 0: the red where the wheel starts
    # Down: place 13.5, between the red-to-yellow steps 13 and 14: floor(255 * 13 / 15) = 221
    # and floor(255 * 14 / 15) = 238 of green; their middle is 229.5.
    assert colour_of(0, 1) == (255, 229, 0)
    # Left: place 27: 2 steps of 11 from cyan to blue: 255 - floor(255 * 2 / 11) of green.
    assert colour_of(-1, 0) == (0, 209, 255)
    # Up: place 40.5: steps 4 and 5 of 13 from blue to magenta: (78 + 98) / 2 of red.
    assert colour_of(0, -1) == (88, 0, 255)


def test_length_is_saturation():
    assert colour_of(0.5, 0) == (255, 127, 127)
    assert colour_of(2, 0) == (191, 0, 0)  # longer than max_px: three quarters as bright
    assert colour_of(3, 0, max_px=6) == (255, 127, 127)
    assert colour_of(7, 0, max_px=None) == (255, 0, 0)


def test_the_longest_sets_the_scale():
    flow = np.zeros((2, 1, 3), np.float32)
    flow[0, 0] = (-4, 0, 2)
    assert flow_to_colour(flow)[0].tolist() == [[0, 209, 255], [255, 255, 255], [255, 127, 127]]


def test_opposite_directions_differ_and_turning_keeps_the_length():
    angles = np.linspace(0, 2 * np.pi, 16, endpoint=False)
    flow = np.stack([np.cos(angles), np.sin(angles)])[:, None].astype(np.float32)
    full = flow_to_colour(flow, max_px=1.001)[0].astype(int)
    assert (np.abs(full - np.roll(full, 8, axis=0)).max(axis=1) > 150).all()
    assert (full.min(axis=1) <= 1).all()  # fully saturated all around
    half = flow_to_colour(flow / 2, max_px=1.001)[0].astype(int)
    assert (np.abs(half.min(axis=1) - 127) <= 1).all()


def test_unknown_flow_is_black_and_does_not_set_the_scale():
    flow = np.array([[[1, np.nan, 1e10]], [[0, 0, 0]]], np.float32)
    assert flow_to_colour(flow)[0].tolist() == [[255, 0, 0], [0, 0, 0], [0, 0, 0]]


@pytest.mark.parametrize("shape", [(2, 4), (3, 4, 4), (4, 4, 2)])
def test_flow_shapes(shape):
    with pytest.raises(ShapeError, match="2, H, W"):
        flow_to_colour(np.zeros(shape, np.float32))
    with pytest.raises(ShapeError, match="2, H, W"):
        encode_flo(np.zeros(shape, np.float32))


# ---- .flo ----------------------------------------------------------------------------------------

FLOW = np.array([[[1, 2, 3]], [[-4, 5.5, 0]]], np.float32)  # 1 high, 3 wide


def test_flo_bytes_by_hand():
    expected = b"PIEH" + struct.pack("<ii", 3, 1) + struct.pack("<6f", 1, -4, 2, 5.5, 3, 0)
    assert encode_flo(FLOW) == expected
    assert encode_flo(FLOW.astype(">f4")) == expected


def test_flo_round_trip(tmp_path):
    flow = np.random.default_rng(0).normal(size=(2, 5, 7)).astype(np.float32)
    write_flo(tmp_path / "flow.flo", flow)
    back = read_flo(tmp_path / "flow.flo")
    assert back.dtype == np.float32
    assert np.array_equal(back, flow)


def test_flo_damaged(tmp_path):
    path = tmp_path / "flow.flo"
    with pytest.raises(InputError, match=r"cannot read .*flow\.flo"):
        read_flo(path)
    for data, match in (
        (b"PIEH", "not a .flo"),
        (b"HEIP" + encode_flo(FLOW)[4:], "not a .flo"),
        (encode_flo(FLOW)[:-1], "35 bytes do not hold a flow of 3x1"),
        (b"PIEH" + struct.pack("<ii", -3, -1) + bytes(24), "do not hold"),
    ):
        path.write_bytes(data)
        with pytest.raises(InputError, match=match):
            read_flo(path)


# ---- pictures ------------------------------------------------------------------------------------


def test_visible_is_white():
    visibility = np.array([[0, 1, 0.5, -0.1, 1.1]], np.float32)
    assert visibility_to_grey(visibility).tolist() == [[0, 255, 128, 0, 255]]
    assert visibility_to_grey(visibility[None]).shape == (1, 5)
    with pytest.raises(ShapeError, match="H, W"):
        visibility_to_grey(np.zeros((2, 4, 4), np.float32))


def test_png(tmp_path):
    picture = np.arange(24, dtype=np.uint8).reshape(2, 4, 3)
    write_png(tmp_path / "a.png", picture)
    with Image.open(tmp_path / "a.png") as image:
        assert np.array_equal(np.asarray(image), picture)
    assert (tmp_path / "a.png").read_bytes() == encode_png(Image.fromarray(picture))


@pytest.mark.parametrize("size_hw", [(32, 64), (33, 65), (1, 1), (128, 255)])
@pytest.mark.parametrize("count", [1, 2, 5])
def test_panel_sides_are_even(size_hw, count):
    tiles = [(f"tile {i}", np.full((*size_hw, 3), 10 * i, np.uint8)) for i in range(count)]
    height, width, channels = compose_panel(tiles).shape
    assert (height % 2, width % 2, channels) == (0, 0, 3)
    assert height > size_hw[0]
    assert width > count * size_hw[1]


def test_panel_shows_its_tiles_in_order_below_their_captions():
    red = np.full((40, 60, 3), (255, 0, 0), np.uint8)
    grey = np.full((40, 60), 90, np.uint8)
    panel = compose_panel([("red", red), ("", grey)])
    reds = np.argwhere((panel == (255, 0, 0)).all(axis=-1))
    greys = np.argwhere((panel == 90).all(axis=-1))
    assert (len(reds), len(greys)) == (2400, 2400)  # pixels are copied, not rescaled
    assert reds[:, 1].max() < greys[:, 1].min()
    strip = panel[: reds[:, 0].min()].astype(int)
    assert (strip[:, :64] > 150).any()  # the caption's letters
    assert not (strip[:, 64:] > 150).any()  # no caption, no letters


def test_panel_size_does_not_depend_on_captions():
    tile = np.zeros((32, 64, 3), np.uint8)
    assert compose_panel([("a", tile)]).shape == compose_panel([("result 100/240", tile)]).shape


def test_panel_of_nothing_or_of_several_sizes():
    with pytest.raises(ShapeError, match="one size"):
        compose_panel([])
    with pytest.raises(ShapeError, match="one size"):
        compose_panel([("a", np.zeros((4, 4), np.uint8)), ("b", np.zeros((4, 6), np.uint8))])


def test_contact_sheet_goes_row_by_row():
    frames = [np.full((20, 30, 3), 60 + 40 * i, np.uint8) for i in range(5)]
    sheet = np.asarray(contact_sheet(frames, [""] * 5, columns=3))
    corners = [np.argwhere((sheet == 60 + 40 * i).all(axis=-1)).min(axis=0) for i in range(5)]
    rows, columns = zip(*corners, strict=True)
    assert rows[0] == rows[1] == rows[2] < rows[3] == rows[4]
    assert columns[0] == columns[3] < columns[1] == columns[4] < columns[2]


def test_contact_sheet_needs_a_caption_for_each_frame():
    with pytest.raises(ShapeError, match="1 pictures, 2 captions"):
        contact_sheet([np.zeros((4, 4), np.uint8)], ["a", "b"], columns=2)


@pytest.mark.parametrize(
    ("num_frames", "count", "chosen"),
    [
        (24, 1, [0]),
        (24, 2, [0, 23]),
        (25, 4, [0, 8, 16, 24]),
        (6, 3, [0, 3, 5]),  # 2.5 rounds up
        (3, 8, [0, 1, 2]),
        (1, 1, [0]),
    ],
)
def test_choose_frames(num_frames, count, chosen):
    assert choose_frames(num_frames, count) == chosen


def test_choose_frames_never_repeats():
    for num_frames in range(2, 30):
        for count in range(2, num_frames + 1):
            chosen = choose_frames(num_frames, count)
            assert len(set(chosen)) == count
            assert (chosen[0], chosen[-1]) == (0, num_frames - 1)


@pytest.mark.parametrize(("num_frames", "count"), [(0, 1), (1, 0)])
def test_choose_frames_of_nothing(num_frames, count):
    with pytest.raises(InputError, match="cannot choose"):
        choose_frames(num_frames, count)
