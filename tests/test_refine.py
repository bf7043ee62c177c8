"""Refinement: what the network is shown, and which pixels are its own."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from conftest import REFINE, lively

from seg2vid_cli.device import RowLimit, resolve_compute
from seg2vid_cli.networks.seg2vid_refine import Seg2VidRefine
from seg2vid_cli.refine import BORDER_PX, COARSE_PX, fill_hidden, refine_frames

CPU = resolve_compute("cpu", "fp32")
SIZE = (6, 10)


class Painter:
    """Paints everything in one grey, and remembers what it was shown."""

    def __call__(self, damaged):
        self.shown = damaged
        return torch.full_like(damaged, 0.375)


def refine(warped, visibility, noise, *, keep_visible, compute=CPU, network=None):
    network = network or Painter()
    refined = refine_frames(
        network, warped, visibility, noise, keep_visible=keep_visible, compute=compute
    )
    return refined, network


def some_frames(size_hw=SIZE):
    """Two warped frames; in the first the left half is hidden, in the second the top."""
    height, width = size_hw
    visibility = torch.ones(2, height, width)
    visibility[0, :, : width // 2] = 0
    visibility[1, : height // 2] = 0
    return torch.rand(2, 3, *size_hw), visibility, torch.randn(1, 3, *size_hw)


def test_keep_visible_keeps_visible_pixels_bit_for_bit():
    warped, visibility, noise = some_frames()
    refined, _ = refine(warped, visibility, noise, keep_visible=True)
    seen = (visibility == 1)[:, None].expand_as(warped)
    assert torch.equal(refined[seen], warped[seen])
    assert (refined[~seen] == 0.375).all()


def test_otherwise_every_pixel_is_the_networks():
    refined, _ = refine(*some_frames(), keep_visible=False)
    assert (refined == 0.375).all()


def test_half_visible_pixels_are_half_of_each():
    warped = torch.full((1, 3, *SIZE), 0.875)
    refined, network = refine(
        warped, torch.full((1, *SIZE), 0.5), torch.full((1, 3, *SIZE), 0.25), keep_visible=True
    )
    assert torch.equal(network.shown, torch.full((1, 3, *SIZE), 0.5625))  # (0.875 + 0.25) / 2
    assert torch.equal(refined, torch.full((1, 3, *SIZE), 0.625))  # (0.875 + 0.375) / 2


@pytest.mark.parametrize("keep_visible", [True, False])
def test_noise_is_only_where_nothing_is_visible(keep_visible):
    warped, visibility, noise = some_frames()
    _, network = refine(warped, visibility, noise, keep_visible=keep_visible)
    hidden = (visibility == 0)[:, None].expand_as(warped)
    assert torch.equal(network.shown[hidden], noise.expand_as(warped)[hidden])
    assert torch.equal(network.shown[~hidden], warped[~hidden])


@pytest.mark.parametrize("keep_visible", [True, False])
@pytest.mark.parametrize("precision", ["fp32", "bf16"])
def test_refined_frames_are_float32_in_every_precision(precision, keep_visible):
    warped, visibility, noise = some_frames((128, 128))
    network = lively(Seg2VidRefine(REFINE))
    compute = resolve_compute("cpu", precision)
    refined, _ = refine(
        warped, visibility, noise, keep_visible=keep_visible, compute=compute, network=network
    )
    assert refined.dtype == torch.float32
    assert refined.shape == warped.shape
    seen = (visibility == 1)[:, None].expand_as(warped)
    assert torch.equal(refined[seen], warped[seen]) == keep_visible
    assert refined.min() >= 0
    assert refined.max() <= 1


@pytest.mark.parametrize("limit", [1, 2, 3])
def test_rows_are_refined_in_pieces_and_stay_in_order(limit):
    pieces = []

    class Doubler:
        def __call__(self, damaged):
            pieces.append(len(damaged))
            return 2 * damaged

    warped = torch.arange(5.0)[:, None, None, None].expand(5, 3, *SIZE)
    refined = refine_frames(
        Doubler(),
        warped,
        torch.ones(5, *SIZE),
        torch.zeros(1, 3, *SIZE),
        keep_visible=False,
        compute=CPU,
        rows=RowLimit(limit),
    )
    assert torch.equal(refined, 2 * warped)
    assert pieces == {1: [1] * 5, 2: [2, 2, 1], 3: [3, 2]}[limit]


def test_every_frame_may_have_noise_of_its_own():
    warped, visibility, _ = some_frames()
    noise = torch.randn(2, 3, *SIZE)
    _, network = refine(warped, visibility, noise, keep_visible=True)
    hidden = (visibility == 0)[:, None].expand_as(warped)
    assert torch.equal(network.shown[hidden], noise[hidden])


class TestFilling:
    """Where depth is known, hidden places take the colours of what is behind things."""

    SIZE = (64, 128)

    def frame(self):
        warped = torch.full((1, 3, *self.SIZE), 0.25)
        warped[..., 64:] = 0.75
        things = torch.zeros(1, 2, *self.SIZE)
        things[:, 1, 20:44, 20:30] = 1
        warped[..., 20:44, 20:30] = 0.0  # a dark person ...
        visibility = torch.ones(1, *self.SIZE)
        visibility[:, 20:44, 30:40] = 0  # ... that was here a moment ago
        return warped, visibility, things

    def none(self, warped):
        return torch.zeros(1, 1, *warped.shape[-2:])

    def test_behind_a_person_is_more_of_the_bus_and_behind_the_bus_is_none(self):
        warped, visibility, things = self.frame()
        warped[..., 10:50, :20] = warped[..., 10:50, 30:60] = 0.75  # a bus
        things[:, 0, 10:50, :20] = things[:, 0, 10:50, 30:60] = 1
        hole = np.s_[..., 22:42, 31:39]
        stood = fill_hidden(warped, visibility, things, self.none(warped))[hole]
        assert stood.min() > 0.55
        drove = fill_hidden(warped, visibility, things, things[:, :1] * 0 + 1)[hole]
        assert drove.max() < 0.5

    def test_what_is_hidden_gets_colours_from_around_but_not_of_the_person(self):
        warped, visibility, things = self.frame()
        filled = fill_hidden(warped, visibility, things, self.none(warped))
        hole = filled[..., 20:44, 30:40]
        assert hole.min() > 0.2
        assert hole.max() < 0.45
        assert torch.equal(filled[..., 60, 100], warped[..., 60, 100])

    def test_a_frame_that_shows_nothing_is_no_trouble(self):
        warped, visibility, things = self.frame()
        filled = fill_hidden(warped, torch.zeros_like(visibility), things, self.none(warped))
        assert filled.abs().max() == 0

    @pytest.mark.parametrize("size_hw", [(160, 224), (96, 320), (256, 512)])
    def test_wide_holes_are_filled_at_any_size(self, size_hw):
        warped, visibility = torch.full((2, 3, *size_hw), 0.6), torch.ones(2, *size_hw)
        visibility[..., : size_hw[1] // 2] = 0
        filled = fill_hidden(
            warped * visibility[:, None],
            visibility,
            torch.zeros(2, 2, *size_hw),
            self.none(warped),
        )
        assert filled.shape == warped.shape
        torch.testing.assert_close(filled, warped)

    def refined(self, network, warped, visibility, things):
        filled = fill_hidden(warped, visibility, things, self.none(warped))
        noise = torch.zeros(1, 3, *warped.shape[-2:])
        refined = refine_frames(
            network, warped, visibility, noise, keep_visible=True, compute=CPU, filled=filled
        )
        seen = visibility[:, None].expand_as(warped) == 1
        assert torch.equal(refined[seen], warped[seen])
        return filled, refined

    def test_colours_come_from_around_and_texture_from_the_network(self):
        warped, visibility, things = self.frame()
        visibility[:, 10:54, 30:80] = 0
        stripes = torch.zeros(self.SIZE)
        stripes[:, ::2] = 0.1

        def network(damaged):
            return torch.full_like(damaged, 0.9) - stripes  # the wrong colour, with a texture

        filled, refined = self.refined(network, warped, visibility, things)
        hole = np.s_[..., 10 + 2 * BORDER_PX : 54 - 2 * BORDER_PX, 50:60]
        assert (refined[hole].mean() - filled[hole].mean()).abs() < 0.02
        assert (refined - filled)[hole].diff(dim=-1).abs().min() > 0.06
        assert (refined - filled)[..., 30, 31:33].abs().max() < 0.03  # near the border hardly any

    def test_cracks_are_not_worth_a_look_of_the_network(self):
        warped, visibility, things = self.frame()
        visibility[:, :, 38:] = 1  # eight pixels are left

        def network(damaged):
            raise AssertionError("it was asked")

        filled, refined = self.refined(network, warped, visibility, things)
        hidden = visibility[:, None].expand_as(warped) == 0
        assert torch.equal(refined[hidden], filled[hidden])

    @pytest.mark.parametrize("size_hw", [(256, 512), (288, 416), (128, 160)])
    def test_tiles_of_a_large_frame_fit_together(self, size_hw):
        """A network that looks at one pixel at a time does not notice them."""
        torch.manual_seed(0)
        warped = torch.nn.functional.interpolate(torch.rand(2, 3, 32, 52), size=size_hw)
        visibility = torch.ones(2, *size_hw)
        visibility[0, 20:110, 70:180] = 0
        visibility[1, -40:] = 0
        windows = []

        def network(damaged):
            windows.append(tuple(damaged.shape))
            rows = damaged.mean(1, keepdim=True).expand_as(damaged)
            return (40 * rows).sin() / 2 + 0.5

        filled, refined = self.refined(network, warped, visibility, torch.zeros(2, 2, *size_hw))
        tile = tuple(min(side, 192) for side in size_hw)  # the first frame needs two of them
        assert {window[2:] for window in windows} == {tile, size_hw}
        mask = visibility[:, None]
        whole = network(warped * mask + filled * (1 - mask))
        size, border = 2 * COARSE_PX + 1, COARSE_PX
        coarse = torch.nn.functional.avg_pool2d(whole, size, 1, border, count_include_pad=False)
        inside = np.s_[..., 40:90, 90:140]  # far from the borders of frame and hole
        wanted = (filled + whole - coarse).clamp(0, 1)
        if size_hw[1] > 160:
            torch.testing.assert_close(refined[0][inside], wanted[0][inside], rtol=0, atol=1e-5)
            assert (refined - filled)[0][inside].std() > 0.02
