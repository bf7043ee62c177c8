"""Warping and units, by hand."""

from __future__ import annotations

import pytest
import torch

from seg2vid_cli.errors import Seg2VidError, ShapeError
from seg2vid_cli.warp import backward_warp, half_images_to_px


def shift(size_hw, right, down, *, batch=1):
    """A flow that is the same everywhere."""
    flow = torch.empty(batch, 2, *size_hw)
    flow[:, 0], flow[:, 1] = right, down
    return flow


@pytest.mark.parametrize(
    "shape",
    [(1, 1, 1, 1), (1, 3, 1, 7), (1, 3, 2, 2), (1, 2, 3, 5), (1, 3, 97, 131), (3, 3, 128, 256)],
    ids=str,
)
def test_zero_flow_returns_the_picture_bit_for_bit(shape):
    picture = torch.rand(shape)
    flow = torch.zeros(shape[0], 2, *shape[2:])
    assert torch.equal(backward_warp(picture, flow), picture)
    assert torch.equal(backward_warp(picture, -flow), picture)


@pytest.mark.parametrize("size_hw", [(5, 7), (97, 131)], ids=str)
@pytest.mark.parametrize(("right", "down"), [(3, 0), (-3, 0), (0, 3), (0, -3), (2, -1)], ids=str)
def test_whole_pixels_are_moved_exactly_and_outside_is_zero(size_hw, right, down):
    picture = torch.rand(1, 3, *size_hw) + 0.5
    warped = backward_warp(picture, shift(size_hw, right, down))
    height, width = size_hw
    for y in range(0, height, max(1, height // 11)):
        for x in range(0, width, max(1, width // 11)):
            from_y, from_x = y + down, x + right
            inside = 0 <= from_y < height and 0 <= from_x < width
            expected = picture[0, :, from_y, from_x] if inside else torch.zeros(3)
            assert torch.equal(warped[0, :, y, x], expected), (y, x)


def test_a_positive_flow_points_right_and_down():
    picture = torch.arange(12.0).reshape(1, 1, 3, 4)
    right = backward_warp(picture, shift((3, 4), 1, 0))[0, 0].tolist()
    assert right == [[1, 2, 3, 0], [5, 6, 7, 0], [9, 10, 11, 0]]
    down = backward_warp(picture, shift((3, 4), 0, 1))[0, 0].tolist()
    assert down == [[4, 5, 6, 7], [8, 9, 10, 11], [0, 0, 0, 0]]


def test_half_a_pixel_is_the_average_of_its_neighbours():
    picture = torch.tensor([[[[1.0, 3.0, 9.0], [5.0, 7.0, 1.0]]]])
    # Half a pixel beyond the border: half of the last value and half of zero.
    assert backward_warp(picture, shift((2, 3), 0.5, 0))[0, 0].tolist() == [
        [2.0, 6.0, 4.5],
        [6.0, 4.0, 0.5],
    ]
    assert backward_warp(picture, shift((2, 3), 0, -0.5))[0, 0].tolist() == [
        [0.5, 1.5, 4.5],
        [3.0, 5.0, 5.0],
    ]
    # All four neighbours: (1 + 3 + 5 + 7) / 4 and (3 + 9 + 7 + 1) / 4.
    assert backward_warp(picture, shift((2, 3), 0.5, 0.5))[0, 0, 0, :2].tolist() == [4.0, 5.0]


def test_a_quarter_pixel_weighs_three_to_one():
    picture = torch.tensor([[[[0.0, 4.0, 8.0]]]])
    warped = backward_warp(picture, shift((1, 3), 0.25, 0))
    assert warped[0, 0, 0].tolist() == [1.0, 5.0, 6.0]


def test_every_pixel_and_every_picture_follows_its_own_flow():
    picture = torch.rand(2, 1, 4, 6)
    flow = torch.zeros(2, 2, 4, 6)
    flow[0, 0, 1, 2] = 3  # the first picture takes row 1, column 5 at column 2
    flow[1, 1, 0, 4] = 2  # the second takes row 2, column 4 at row 0
    expected = picture.clone()
    expected[0, 0, 1, 2] = picture[0, 0, 1, 5]
    expected[1, 0, 0, 4] = picture[1, 0, 2, 4]
    assert torch.equal(backward_warp(picture, flow), expected)


def test_places_far_outside_are_zero():
    picture = torch.ones(1, 1, 5, 9)
    for far in (9.0, -9.0, 1e6, -1e6):
        assert not backward_warp(picture, shift((5, 9), far, 0)).any()


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16], ids=str)
def test_half_precision_and_autocast_give_float32(dtype):
    picture = torch.rand(1, 3, 33, 65).to(dtype)
    with torch.autocast("cpu", torch.bfloat16):
        still = backward_warp(picture, torch.zeros(1, 2, 33, 65, dtype=dtype))
        moved = backward_warp(picture, shift((33, 65), 3, 0).to(dtype))
    assert still.dtype == moved.dtype == torch.float32
    assert torch.equal(still, picture.float())
    assert torch.equal(moved[..., :-3], picture[..., 3:].float())


@pytest.mark.parametrize(
    "flow",
    [
        torch.zeros(2, 2, 4, 6),
        torch.zeros(1, 2, 5, 6),
        torch.zeros(1, 2, 4, 7),
        torch.zeros(1, 3, 4, 6),
        torch.zeros(2, 4, 6),
    ],
    ids=["batch", "height", "width", "channels", "dimensions"],
)
def test_a_flow_of_another_shape_is_refused(flow):
    with pytest.raises(ShapeError, match=r"the picture needs \(1, 2, 4, 6\)") as caught:
        backward_warp(torch.zeros(1, 3, 4, 6), flow)
    assert isinstance(caught.value, Seg2VidError)
    assert isinstance(caught.value, ValueError)


def test_half_images_become_pixels_with_the_opposite_sign():
    flow = torch.zeros(1, 2, 3, 9)  # half an image is 4 pixels across and 1 pixel down
    flow[:, 0], flow[:, 1] = 1.0, 1.0
    px = half_images_to_px(flow)
    assert torch.equal(px[:, 0], torch.full((1, 3, 9), -4.0))
    assert torch.equal(px[:, 1], torch.full((1, 3, 9), -1.0))
    assert torch.equal(half_images_to_px(-0.5 * flow), -0.5 * px)
    assert not half_images_to_px(torch.zeros(1, 2, 3, 9)).any()


def test_frames_may_stand_between_channels_and_pixels():
    flow = torch.rand(2, 2, 4, 5, 7)
    px = half_images_to_px(flow)
    assert px.shape == flow.shape
    assert torch.allclose(px[:, 0], -3 * flow[:, 0])
    assert torch.allclose(px[:, 1], -2 * flow[:, 1])


def test_half_images_in_half_precision_become_float32_pixels():
    px = half_images_to_px(torch.ones(1, 2, 3, 9, dtype=torch.bfloat16))
    assert px.dtype == torch.float32
    assert px[0, :, 0, 0].tolist() == [-4.0, -1.0]


def test_one_half_image_brings_the_middle_to_the_border():
    """The network's flow is subtracted: +1 half image shows at the right edge the middle."""
    picture = torch.arange(9.0).reshape(1, 1, 1, 9).expand(1, 1, 3, 9)
    flow = torch.zeros(1, 2, 3, 9)
    flow[:, 0] = 1.0
    warped = backward_warp(picture, half_images_to_px(flow))
    assert warped[0, 0, 1].tolist() == [0, 0, 0, 0, 0, 1, 2, 3, 4]


# ---- sharp --------------------------------------------------------------------------------------


@pytest.mark.parametrize("size", [(1, 1), (5, 7), (16, 33)])
def test_a_sharp_warp_by_nothing_is_the_picture(size):
    picture = torch.rand(2, 3, *size)
    assert torch.equal(backward_warp(picture, torch.zeros(2, 2, *size), sharp=True), picture)


def test_a_sharp_warp_by_whole_pixels_moves_them_and_goes_on_with_the_border():
    picture = torch.rand(1, 3, 12, 20)
    flow = torch.zeros(1, 2, 12, 20)
    flow[:, 0], flow[:, 1] = 3, -2
    warped = backward_warp(picture, flow, sharp=True)
    torch.testing.assert_close(warped[..., 2:, :-3], picture[..., :-2, 3:])
    torch.testing.assert_close(warped[..., 2:, -1], picture[..., :-2, -1])
    torch.testing.assert_close(warped[..., 0, :-3], picture[..., 0, 3:])


def test_a_sharp_warp_keeps_more_of_what_is_fine():
    x = torch.arange(64.0)
    picture = (0.5 + 0.4 * torch.sin(2 * torch.pi * x / 4)).expand(1, 3, 8, 64)
    flow = torch.zeros(1, 2, 8, 64)
    flow[:, 0] = 0.5
    wanted = 0.5 + 0.4 * torch.sin(2 * torch.pi * (x + 0.5) / 4)
    plain, sharp = (backward_warp(picture, flow, sharp=kind) for kind in (False, True))
    errors = [(w[0, 0, 4, 8:-8] - wanted[8:-8]).abs().max() for w in (plain, sharp)]
    assert errors[1] < 0.5 * errors[0]


def test_a_sharp_warp_stays_in_range():
    picture = (torch.rand(1, 3, 16, 16) > 0.5).float()
    warped = backward_warp(picture, torch.rand(1, 2, 16, 16), sharp=True)
    assert warped.min() >= 0
    assert warped.max() <= 1
