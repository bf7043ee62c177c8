"""Places that have a colour of their own, and the colours that are drawn for them."""

from __future__ import annotations

import numpy as np
import pytest
import torch

from seg2vid_cli import Pipeline, first_frame
from seg2vid_cli.device import resolve_compute
from seg2vid_cli.first_frame import match_colours, paint_first_frame
from seg2vid_cli.labels import labels_from_array
from seg2vid_cli.networks.label_unet import DARKEST, LabelUNet, LabelUNetConfig, Palette
from seg2vid_cli.palette import classes_of, find_places, mean_colours, one_place_a_class
from seg2vid_cli.sample import Sample
from seg2vid_cli.sketch import sketch_edges
from seg2vid_cli.training.data import Pair
from seg2vid_cli.training.first_frame import tell
from seg2vid_cli.training.palette import LEAST_PICTURES, give_palette, measure_palette

ROAD, BUILDING, FENCE, TREE, SIGN, CAR, NOTHING = 0, 2, 4, 8, 7, 13, 19


def rng(seed=0):
    return np.random.default_rng(seed)


def street():
    ids = np.full((128, 256), BUILDING, np.uint8)
    ids[:30] = 10
    ids[70:] = ROAD
    ids[60:70, :100] = FENCE
    ids[60:70, 160:] = FENCE
    ids[75:90, 30:55] = CAR
    ids[75:90, 200:225] = CAR
    ids[100, 100] = CAR  # a crumb
    return ids


def tiny_generator(**planes):
    config = LabelUNetConfig(
        size_hw=(64, 128),
        label_planes=20,
        style_size=4,
        channels=(4, 6, 8),
        middle_blocks=0,
        **planes,
    )
    return LabelUNet(config).eval()


def numbers(places, ids, train_id):
    return np.unique(places[ids == train_id])


def test_in_a_sequence_a_class_is_one_place():
    ids = street()
    places = one_place_a_class(ids)
    there = np.unique(ids)
    assert np.array_equal(np.unique(places), np.arange(len(there)))
    assert np.array_equal(there[places], ids)
    assert np.array_equal(classes_of(places, ids), there)


def test_every_place_is_inside_one_class_and_numbers_have_no_gaps():
    ids = street()
    places = find_places(ids, rng())
    assert places.shape == ids.shape
    assert np.array_equal(np.unique(places), np.arange(places.max() + 1))
    classes = classes_of(places, ids)
    assert np.array_equal(classes[places], ids)
    assert (np.diff(classes.astype(int)) >= 0).all()


def test_a_road_is_one_place_a_fence_two_and_each_car_its_own():
    ids = street()
    places = find_places(ids, rng())
    assert len(numbers(places, ids, ROAD)) == 1
    assert len(numbers(places, ids, FENCE)) == 2
    assert len(numbers(places, ids, CAR)) == 3
    assert places[80, 40] != places[80, 210]
    assert np.ptp(places[75:90, 30:55]) == 0


def test_houses_stand_along_both_sides_and_are_drawn_by_the_generator_of_numbers():
    ids = street()
    places = find_places(ids, rng(1))
    houses = numbers(places, ids, BUILDING)
    assert 4 < len(houses) < 60
    left, right = (
        np.unique(p[ids[:, s] == BUILDING])
        for p, s in ((places[:, :120], np.s_[:120]), (places[:, 140:], np.s_[140:]))
    )
    assert not set(left) & set(right)
    widths = [np.ptp(np.nonzero(places == n)[1]) for n in houses]
    assert min(widths) >= 1
    assert np.array_equal(places, find_places(ids, rng(1)))
    assert not np.array_equal(places, find_places(ids, rng(2)))


def test_a_row_of_cars_is_several_places():
    ids = np.zeros((128, 256), np.uint8)
    ids[64:84, 20:220] = CAR
    assert len(numbers(find_places(ids, rng()), ids, CAR)) == 4
    ids[ids == CAR] = 15  # a bus is as long as it is
    assert len(numbers(find_places(ids, rng()), ids, 15)) == 1


@pytest.mark.parametrize("train_id", range(20))
def test_any_map_has_places(train_id):
    places = find_places(np.full((32, 64), train_id, np.uint8), rng())
    assert places.min() == 0


def test_places_have_their_mean_colour():
    picture = rng().integers(256, size=(128, 256, 3), dtype=np.uint8)
    ids = street()
    places = find_places(ids, rng())
    colours = mean_colours(picture, places)
    here = places == places[80, 40]
    wanted = picture[here].mean(0)
    assert np.abs(colours[here] - wanted).max() <= 0.5


@pytest.mark.parametrize("sketch", [False, True])
def test_a_generator_is_told_colours_and_sketch_of_the_same_houses(sketch):
    picture = rng().integers(256, size=(128, 256, 3), dtype=np.uint8)
    ids = street()
    seed = int(rng().integers(2**63))
    told = tell(picture, ids, rng(), colours=True, sketch=sketch)
    assert np.array_equal(told[..., :3], picture)
    places = find_places(ids, np.random.default_rng(seed))
    assert np.array_equal(told[..., 3:6], mean_colours(picture, places))
    edges = sketch_edges(ids, np.random.default_rng(seed)) * 255
    assert np.array_equal(told[..., 6], edges if sketch else 0 * edges)
    plain = tell(picture, ids, rng(), colours=False, sketch=sketch)
    assert np.array_equal(plain, told[..., [0, 1, 2, 6]])


def draws(count, seed=0):
    return torch.randn(count, 4, generator=torch.Generator().manual_seed(seed))


class TestPalette:
    def test_colours_are_in_range_and_of_their_class(self):
        palette = Palette(20, 3)
        palette.usual[:, CAR] = palette.measure(torch.tensor([0.8, 0.1, 0.2]))
        palette.spreads[CAR] = torch.eye(3) * 0.5
        palette.known[[CAR, ROAD]] = 1
        classes = torch.tensor([CAR] * 200 + [ROAD])
        light, plain = torch.zeros(1), torch.zeros(1, 3)
        colours = palette(light, plain, classes, draws(202))
        assert colours.min() >= 0
        assert colours.max() <= 1
        assert colours[:200].std(0).min() > 0.03
        torch.testing.assert_close(colours[200], torch.full((3,), 0.5))
        usual = palette(light, plain, classes, torch.zeros(202, 4))
        torch.testing.assert_close(usual[0], torch.tensor([0.8, 0.1, 0.2]))

    def test_light_is_drawn_as_often_as_it_was_seen(self):
        """A fifth of the pictures are of dusk, and no picture is of what lies between."""
        count, size = 200, (4, 48)
        dusk = torch.arange(count) % 5 == 0
        styles = torch.randn(count, 2, generator=torch.Generator().manual_seed(1))
        styles[:, 0] += 4.0 * dusk
        planes = torch.zeros(count, 20, *size)
        planes[:, ROAD] = 1
        grey = torch.where(dusk, 0.1, 0.5)[:, None, None, None].expand(-1, 3, *size)
        palette = Palette(20, 2)
        measure_palette(palette, planes, grey, styles)
        generator = torch.Generator().manual_seed(2)
        light = torch.randn(1000, generator=generator)
        drawn = palette.draw_style(light, torch.randn(1000, 2, generator=generator))
        assert (drawn[:, 0] > 2).float().mean() == pytest.approx(0.2, abs=0.04)
        plain = torch.zeros(1, 2), torch.tensor([ROAD]), torch.zeros(2, 4)
        greys = torch.cat([palette(one[None], *plain) for one in light])[:, 0]
        assert (greys < 0.15).float().mean() == pytest.approx(0.2, abs=0.05)
        assert (greys > 0.45).float().mean() == pytest.approx(0.8, abs=0.06)
        apart = drawn[greys < 0.15, 0].mean() - drawn[greys > 0.45, 0].mean()
        assert apart == pytest.approx(4, abs=0.5)  # both go together

    def test_small_changes_of_the_draws_change_little(self):
        """So that pictures between two seeds lie between them."""
        palette = Palette(20, 2)
        generator = torch.Generator().manual_seed(3)
        for table in (palette.looks, palette.usual, palette.shades):
            table.copy_(torch.randn(table.shape, generator=generator).cumsum(0) / 10)
        palette.known[:] = 1
        numbers = torch.linspace(-3, 3, 6001)
        styles = palette.draw_style(numbers, torch.zeros(6001, 2))
        assert styles.diff(dim=0).abs().max() < 0.01
        assert (styles[-1] - styles[0]).abs().max() > 0.05
        classes = torch.full((6001,), CAR)
        unusual = torch.zeros(6002, 4)
        unusual[1:, 0] = numbers
        colours = palette(torch.zeros(1), torch.zeros(1, 2), classes, unusual)
        assert colours.diff(dim=0).abs().max() < 0.01

    def test_what_was_measured_is_drawn_again(self):
        """Cars are as bright as the first number of the style says, and differ among themselves."""
        generator = torch.Generator().manual_seed(1)
        count, size = 600, (4, 48)
        styles = torch.randn(count, 2, generator=generator)
        planes = torch.zeros(count, 20, *size)
        planes[:, CAR] = 1
        own = 0.2 * torch.randn(count, 1, 1, 3, generator=generator)  # each picture shows one car
        logs = torch.log(torch.tensor([0.3, 0.2, 0.25])) + 0.4 * styles[:, None, None, :1] + own
        colours = (logs.exp() - DARKEST).clamp(0, 1).expand(-1, *size, -1).permute(0, 3, 1, 2)
        palette = Palette(20, 2)
        measure_palette(palette, planes, colours, styles)
        lights = torch.randn(2000, generator=generator)
        beside = torch.randn(2000, 2, generator=generator)
        drawn = palette.draw_style(lights, beside)
        cars = torch.cat(
            [
                palette(light[None], few[None], torch.tensor([CAR]), draws(2, index))
                for index, (light, few) in enumerate(zip(lights, beside, strict=True))
            ]
        )
        seen, made = (torch.log(x + DARKEST) for x in (colours[:, :, 0, 0], cars))
        torch.testing.assert_close(made.mean(0), seen.mean(0), rtol=0, atol=0.05)
        torch.testing.assert_close(torch.cov(made.T), torch.cov(seen.T), rtol=0, atol=0.04)
        both = [torch.cat([a, b], 1) for a, b in ((drawn, made), (styles, seen))]
        torch.testing.assert_close(*(torch.cov(x.T)[0, 2:] for x in both), rtol=0, atol=0.06)
        assert palette.spreads[CAR].abs().max() < 0.02  # a picture has only one

    def test_places_differ_as_those_that_were_seen(self):
        """Nine in ten people wear black, one white; nobody is seen in grey."""
        generator = torch.Generator().manual_seed(4)
        count, size = 100, (4, 40)
        planes = torch.zeros(count, 20, *size)
        planes[:, 11, :, :20] = planes[:, ROAD, :, 20:] = 1
        colours = torch.full((count, 3, *size), 0.5)
        white = torch.rand(count, 1, 4, 20, generator=generator) < 0.1
        colours[..., :20] = torch.where(white, 0.9, 0.1)
        palette = Palette(20, 2)
        planes, colours = (x.repeat_interleave(2, 3) for x in (planes, colours))
        measure_palette(palette, planes, colours, torch.zeros(count, 2))
        classes = torch.full((1000,), 11)
        drawn = palette(torch.zeros(1), torch.zeros(1, 2), classes, draws(1001))[:, 0]
        assert (drawn < 0.2).float().mean() == pytest.approx(0.9, abs=0.06)
        assert (drawn > 0.7).float().mean() == pytest.approx(0.1, abs=0.06)

    def test_what_classes_have_in_common_is_told_from_what_is_their_own(self):
        generator = torch.Generator().manual_seed(2)
        count, size = 400, (4, 60)
        classes = (0, 2, 8, 10, CAR)
        planes = torch.zeros(count, 20, *size)
        logs = torch.full((count, 3, *size), -1.0)
        light = 0.3 * torch.randn(count, 1, 1, 1, generator=generator)
        for place, train_id in enumerate(classes):
            columns = slice(12 * place, 12 * place + 12)
            planes[:, train_id, :, columns] = 1
            logs[..., columns] += 0.1 * torch.randn(count, 3, 1, 1, generator=generator)
        logs = logs + light
        palette = Palette(20, 2)
        planes, logs = (x.repeat_interleave(2, 2) for x in (planes, logs))
        measure_palette(palette, planes, logs.exp() - DARKEST, torch.zeros(count, 2))
        # Light goes along the curves, of all classes alike; what is left in common is little.
        for train_id in classes:
            curve = palette.usual[:, train_id]
            assert (curve[-4] - curve[3]).min() > 0.6
        assert (palette.common @ palette.common.T).diagonal().max() < 0.006
        shades = palette.shades[:, CAR].std(0).square()
        own = (palette.spreads[CAR] @ palette.spreads[CAR].T).diagonal() + shades
        torch.testing.assert_close(own, torch.full((3,), 0.008), rtol=0.3, atol=0)

    @pytest.mark.parametrize("count", [1, 2, 12])
    def test_few_pictures_give_numbers_too(self, count):
        planes = torch.zeros(count, 20, 8, 16)
        planes[:, CAR] = 1
        palette = Palette(20, 2)
        measure_palette(palette, planes, torch.rand(count, 3, 8, 16), torch.randn(count, 2))
        assert all(table.isfinite().all() for table in palette.state_dict().values())
        assert palette.known[CAR] == (count >= LEAST_PICTURES)

    def test_classes_that_were_never_seen_take_after_those_that_look_alike(self):
        planes = torch.zeros(20, 20, 8, 16)
        planes[:, CAR] = 1
        palette = Palette(20, 2)
        measure_palette(palette, planes, torch.rand(20, 3, 8, 16), torch.randn(20, 2))
        assert torch.equal(palette.usual[:, 15], palette.usual[:, CAR])
        assert torch.equal(palette.shades[:, 16], palette.shades[:, CAR])
        assert torch.equal(palette.spreads[14], palette.spreads[CAR])
        assert palette.known.tolist() == [float(k in (CAR, 14, 15, 16)) for k in range(20)]

    def test_places_of_a_class_that_was_not_measured_stay_as_they_were_painted(self):
        palette = Palette(20, 2)
        palette.known[CAR] = 1
        classes, plain = torch.tensor([CAR, ROAD]), torch.zeros(1, 2)
        drawn = palette(torch.zeros(1), plain, classes, torch.zeros(3, 4))
        assert drawn[0].isfinite().all()
        assert drawn[1].isnan().all()
        frame, places = torch.full((1, 3, 4, 8), 0.3), torch.zeros(4, 8, dtype=torch.long)
        places[:, 4:] = 1
        matched = match_colours(frame, places, drawn)
        assert torch.equal(matched[..., 4:], frame[..., 4:])
        assert (matched[..., :4] - 0.5).abs().max() < 0.05


class TestMatching:
    def places(self):
        where = torch.zeros(8, 16, dtype=torch.long)
        where[:, 8:] = 1
        return where

    def test_places_get_the_mean_that_was_drawn(self):
        frame = 0.2 + 0.2 * torch.rand(1, 3, 8, 16)
        colours = torch.tensor([[0.4, 0.3, 0.2], [0.25, 0.3, 0.5]])
        matched = match_colours(frame, self.places(), colours)
        for place, colour in enumerate(colours):
            mean = matched[0, :, self.places() == place].mean(1)
            torch.testing.assert_close(mean, colour, rtol=0, atol=0.025)
        again = match_colours(frame, self.places(), colours)
        assert torch.equal(matched, again)

    def test_what_is_much_too_dark_is_brightened_in_its_hue_as_far_as_its_texture_bears(self):
        frame = torch.full((1, 3, 8, 16), 0.07)
        colours = torch.tensor([[0.67, 0.57, 0.37], [0.02, 0.02, 0.02]])
        matched = match_colours(frame, self.places(), colours)
        torch.testing.assert_close(matched[0, :, 0, 0], 0.14 * colours[0].add(0.03) / 0.7)
        torch.testing.assert_close(matched[0, :, 0, 15], torch.full((3,), 0.035))

    def test_nothing_is_cut_off_or_made_out_of_nothing(self):
        frame = torch.rand(1, 3, 8, 16)
        matched = match_colours(frame, self.places(), torch.ones(2, 3))
        assert matched.max() < 1
        assert len(matched.unique()) > 0.9 * len(frame.unique())
        black = match_colours(torch.zeros(1, 3, 8, 16), self.places(), torch.ones(2, 3))
        assert black.abs().max() == 0

    def test_a_picture_that_has_its_colours_stays(self):
        frame = torch.full((1, 3, 8, 16), 0.5)
        frame[..., 8:] = 0.25
        colours = torch.tensor([[0.5] * 3, [0.25] * 3])
        torch.testing.assert_close(match_colours(frame, self.places(), colours), frame)


def test_a_generator_that_reads_colours_paints_them():
    network = tiny_generator(colour_planes=3)
    network.palette.spreads[CAR] = 0.6 * torch.eye(3)
    network.palette.known[:] = 1
    ids = np.zeros((64, 128), np.uint8)
    ids[20:40, 10:30] = ids[20:40, 60:80] = CAR
    planes = torch.nn.functional.one_hot(torch.from_numpy(ids).long(), 20)
    planes = planes.permute(2, 0, 1)[None].float()
    places = find_places(ids, rng())
    paint = {"compute": resolve_compute("cpu", "fp32"), "places": places}
    first = paint_first_frame(network, planes, sample=Sample(seed=1), **paint)
    assert torch.equal(first, paint_first_frame(network, planes, sample=Sample(seed=1), **paint))
    one, other = (first[0, :, 20:40, x : x + 20].mean((1, 2)) for x in (10, 60))
    assert (one - other).abs().max() > 0.05
    alike = paint_first_frame(network, planes, sample=Sample(seed=1), various=False, **paint)
    one, other = (alike[0, :, 20:40, x : x + 20].mean((1, 2)) for x in (10, 60))
    assert (one - other).abs().max() < 0.05


def test_in_a_sequence_all_of_a_class_is_brought_to_its_colour_by_one_gain(monkeypatch):
    """Houses come and go there, and what they are multiplied with would jump."""
    labels = labels_from_array(street(), encoding="train-ids")
    pipeline = Pipeline.open("street", device="cpu", precision="fp32")
    asked = []

    def match(frame, places, colours):
        asked.append(len(colours))
        return match_colours(frame, places, colours)

    monkeypatch.setattr(first_frame, "match_colours", match)
    for various in (True, False):
        next(iter(pipeline.generate(labels, frames=1, various=various)))
    assert asked[0] > asked[1] == len(np.unique(street()))


@pytest.mark.parametrize("edge_planes", [0, 1])
def test_a_trained_generator_is_given_a_palette(edge_planes):
    start = tiny_generator(edge_planes=edge_planes)
    noise = rng(5)
    pairs = []
    for index in range(14):
        ids = street()
        ids[75:105, 10:90] = ids[75:105, 150:230] = CAR
        picture = np.full((128, 256, 3), 60, np.uint8)
        picture[ids == ROAD] = (120, 110, 100)
        picture[75:105, 10:90] = noise.integers(30, 220, 3)  # cars of any colour
        picture[75:105, 150:230] = noise.integers(30, 220, 3)
        pairs.append(Pair(name=str(index), picture=picture, train_ids=ids))
    detector = torch.nn.Identity() if edge_planes else None
    network = give_palette(start, pairs, detector=detector)
    assert network.config.palette
    assert network.config.colour_planes == 0
    for name, weight in start.state_dict().items():
        assert torch.equal(network.state_dict()[name], weight), name
    palette = network.palette
    plain = torch.zeros(1), torch.zeros(1, 4)
    road = palette(*plain, torch.tensor([ROAD]), torch.zeros(2, 4))[0]
    assert (road - torch.tensor([120, 110, 100]) / 255).abs().max() < 0.06
    unusual = draws(301)
    unusual[0] = 0  # in one picture
    cars, roads = (palette(*plain, torch.full((300,), k), unusual) for k in (CAR, ROAD))
    assert cars.std(0).min() > 2 * roads.std(0).max()
