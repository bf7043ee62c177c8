"""Flat ground, and what stands upright on it, by labels."""

from __future__ import annotations

import pytest
import torch

from seg2vid_cli.camera import slopes
from seg2vid_cli.networks.layout import (
    lie_flat,
    move_as_one,
    places,
    put_on_ground,
    sit_upright,
    stand_upright,
    which_vehicle,
    who_is_who,
)

H, W = 64, 128


class TestUpright:
    def test_things_are_as_near_at_the_top_as_at_the_foot(self):
        ids = torch.zeros(1, H, W, dtype=torch.long)
        ids[:, 10:30, 5:9], ids[:, 30:34, 5:9], ids[:, 10:20, 40:44] = 11, 13, 10
        nearness = torch.rand(1, 2, H, W)
        made = stand_upright(nearness, ids[:, None])
        for rows in (slice(10, 30), slice(30, 34)):
            wanted = nearness[..., rows, 5:9].mean((2, 3), keepdim=True)
            torch.testing.assert_close(made[..., rows, 5:9], wanted.expand_as(made[..., rows, 5:9]))
        made[..., 10:34, 5:9] = nearness[..., 10:34, 5:9]
        assert torch.equal(made, nearness)  # neither road nor sky

    def test_legs_stay_with_the_body(self):
        classes = torch.zeros(1, 1, H, W, dtype=torch.long)
        classes[..., 10:20, 40:46] = classes[..., 20:30, 40:42] = classes[..., 20:30, 44:46] = 11
        nearness = 0.2 + torch.zeros(1, 1, H, W)
        nearness[..., 20:30, 40:42] = 0.4
        person = stand_upright(nearness, classes)[classes == 11]
        assert person.min() > 0.22
        assert person.max() < 1.1 * person.min()

    def people(self):
        """Somebody with legs apart, somebody else, and a rider on a bicycle."""
        classes = torch.zeros(1, 1, H, W, dtype=torch.long)
        classes[..., 10:20, 40:46] = classes[..., 20:30, 38:41] = classes[..., 20:30, 46:49] = 11
        classes[..., 10:30, 70:74] = 11
        classes[..., 20:30, 100:106], classes[..., 30:40, 96:110] = 12, 18
        places = torch.arange(W).expand(1, 1, H, W)
        walker, other = (classes == 11) & (places < 60), (classes == 11) & (places > 60)
        return classes, (walker, other, (classes == 12) | (classes == 18))

    def test_everybody_goes_as_a_whole(self):
        classes, everybody = self.people()
        classes[..., 40:60, 20:30] = classes[..., 30:50, 30:34] = 13
        values = torch.rand(1, 2, H, W)
        owners = which_vehicle(torch.full((1, 1, H, W), 0.2), classes, who_is_who(classes))
        made = move_as_one(values, classes, owners)
        for one in (*everybody, classes == 13):
            mine, was = (v[one.expand_as(v)].view(2, -1) for v in (made, values))
            torch.testing.assert_close(mine, was.mean(1, keepdim=True).expand_as(mine))
            made[one.expand_as(made)] = values[one.expand_as(values)]
        assert torch.equal(made, values)

    def test_everybody_learns_as_a_whole(self):
        classes, (walker, *_) = self.people()
        values = torch.rand(2, 2, H, W, requires_grad=True)
        both = torch.cat([classes, torch.zeros_like(classes)])
        owners = who_is_who(both)
        made = move_as_one(values, both, owners)
        torch.testing.assert_close(made.detach(), move_as_one(values.detach(), both, owners))
        made[0, 0, 15, 42].backward()
        gradient = values.grad[0, 0][walker[0, 0]]
        torch.testing.assert_close(gradient, torch.full_like(gradient, 1 / len(gradient)))

    def test_cars_that_touch_but_are_not_equally_near_go_their_own_ways(self):
        classes = torch.zeros(2, 1, H, W, dtype=torch.long)
        classes[..., 20:40, 20:60] = 13
        classes[..., 20:45, 50:60] = 14  # a lorry
        classes[1, ..., 20:40, 90:100] = 13  # and one that touches neither
        nearness = 0.2 + 0.002 * torch.arange(W).expand(2, 1, H, W)  # seen from its corner
        nearness = torch.where(torch.arange(W) < 35, 0.5 * nearness, nearness)
        owners = which_vehicle(nearness, classes, who_is_who(classes)).view(2, H, W)
        groups = [owners[0, 30, 20:35], owners[0, 30, 35:50], owners[0, 20:45, 50:60].flatten()]
        assert all(len(group.unique()) == 1 for group in groups)
        assert len(torch.cat(groups).unique()) == 3
        assert len(owners[1, 20:45][classes[1, 0, 20:45] != 0].unique()) == 4

    def test_a_rider_is_as_near_as_the_bicycle(self):
        classes, _ = self.people()
        nearness = 0.1 + 0.1 * torch.rand(1, 1, H, W)
        nearness[classes == 18] = 0.3
        made = sit_upright(nearness, classes, who_is_who(classes))
        assert (made[classes == 12] == 0.3).all()
        assert torch.equal(made[classes != 12], nearness[classes != 12])

    def test_parked_bicycles_in_a_row_are_not_all_as_near_as_the_first(self):
        classes, nearness = torch.full((1, 1, H, W), 18), torch.rand(1, 1, H, W)
        assert torch.equal(sit_upright(nearness, classes, who_is_who(classes)), nearness)

    def test_nobody_is_no_trouble(self):
        values, classes = torch.rand(2, 1, H, W), torch.full((2, 1, H, W), 2)
        owners = which_vehicle(values, classes, who_is_who(classes))
        assert torch.equal(move_as_one(values, classes, owners), values)
        assert torch.equal(sit_upright(values, classes, owners), values)

    def test_far_parts_of_a_row_of_cars_keep_their_distance(self):
        classes = torch.full((1, 1, H, W), 13)
        nearness = torch.linspace(0.1, 0.3, W).expand(1, 1, H, W)
        made = stand_upright(nearness, classes)
        torch.testing.assert_close(made[..., 10:-10], nearness[..., 10:-10])

    def test_a_person_is_as_near_as_the_ground_under_the_nearest_foot(self):
        nearness = slopes(H, W)[1].clamp_min(0)[None, None].clone()
        classes = torch.where(nearness > 0, 0, 10)
        classes[..., 30:40, 40:46] = classes[..., 40:50, 40:42] = classes[..., 40:48, 44:46] = 11
        classes[..., 10:30, 90:94] = 11  # in the sky
        made = put_on_ground(nearness, classes)
        person = made[..., 30:50, 40:46][classes[..., 30:50, 40:46] == 11]
        assert (person == nearness[0, 0, 51, 0]).all()
        made[classes == 11] = nearness[classes == 11]
        assert torch.equal(made, nearness)

    def test_who_stands_nowhere_stays(self):
        nearness, classes = torch.rand(1, 1, H, W), torch.full((1, 1, H, W), 10)
        classes[..., 10:30, 90:94] = 11
        classes[..., 50:, 10:20] = 13  # down to the border
        assert torch.equal(put_on_ground(nearness, classes), nearness)

    def test_the_same_class_farther_up_is_another_thing(self):
        classes = torch.zeros(1, 1, H, W, dtype=torch.long)
        classes[:, :, 10:20] = classes[:, :, 30:40] = 11
        nearness = torch.zeros(1, 1, H, W)
        nearness[..., 30:40, :] = 1
        assert torch.equal(stand_upright(nearness, classes), nearness)

    def test_legs_and_body_are_equally_near(self):
        """A person with legs apart: only the front foot says how near it is."""
        ids = torch.zeros(1, 1, H, W, dtype=torch.long)
        ids[..., 10:30, 40:52] = 11
        ids[..., 30:44, 40:43] = 11  # one foot lower than the other
        ids[..., 30:40, 49:52] = 11
        nearness = 0.02 + 0.01 * torch.arange(H).view(1, 1, H, 1).expand(1, 1, H, W).clone()
        made = put_on_ground(nearness, ids)
        person = made[ids == 11]
        assert person.max() == person.min()
        assert float(person[0]) == pytest.approx(0.02 + 0.01 * 45, abs=0.011)
        assert torch.equal(made[ids == 0], nearness[ids == 0])

    def test_a_row_of_parked_cars_is_not_all_as_near_as_the_first(self):
        ids = torch.zeros(1, 1, H, W, dtype=torch.long)
        for x in range(20, 80):  # each column's foot is a little higher than the one before
            ids[..., 5 : 50 - (x - 20) // 2, x] = 13
        nearness = 0.02 + 0.01 * torch.arange(H).view(1, 1, H, 1).expand(1, 1, H, W).clone()
        made = put_on_ground(nearness, ids)
        assert made[0, 0, 10, 20] > 1.6 * made[0, 0, 10, 79]

    def test_a_house_is_as_near_all_the_way_up(self):
        """And farther to the right, where its wall runs away from the camera."""
        nearness = torch.linspace(0.3, 0.1, W).expand(1, 1, H, W) * (0.8 + 0.4 * torch.rand(H, 1))
        made = stand_upright(nearness, torch.full((1, 1, H, W), 2))
        assert (made - made[..., :1, :]).abs().max() < 1e-6
        inner = slice(10, -10)
        wanted = nearness.mean(2, keepdim=True).expand_as(made)
        torch.testing.assert_close(made[..., inner], wanted[..., inner])


class TestFlat:
    def ground(self):
        """Road and pavement below the horizon, a car on it, sky above."""
        plane = slopes(H, W)[1].clamp_min(0.01)[None, None] + 0.02 * slopes(H, W)[0]
        classes = torch.full((1, 1, H, W), 10)
        classes[..., 36:, :], classes[..., 36:, 90:], classes[..., 50:60, 50:70] = 0, 1, 13
        return plane, classes

    def test_waves_are_taken_out(self):
        plane, classes = self.ground()
        waves = plane * (1 + 0.1 * torch.sin(torch.arange(W) / 3.0))
        made = lie_flat(waves, classes)
        on = classes < 2
        assert (made / plane - 1)[on].abs().max() < 0.04
        assert torch.equal(made[~on], waves[~on])

    def test_what_is_no_plane_does_not_become_one(self):
        """A tenth of it lies twice as near; the rest is nearly as before."""
        plane, classes = self.ground()
        step = plane.clone()
        step[..., :13] *= 2
        made = lie_flat(step, classes)
        on = classes < 2
        assert (made / plane - 1)[..., 13:][on[..., 13:]].abs().max() < 0.06
        assert (made / plane)[..., :13][on[..., :13]].min() > 1.6

    def test_a_little_ground_says_nothing(self):
        plane, classes = self.ground()
        classes[..., 36:, :] = 10
        classes[..., 60:, :8] = 0
        waves = plane * (1 + 0.1 * torch.rand(H, W))
        assert torch.equal(lie_flat(waves, classes), waves)

    def test_gradients_are_numbers(self):
        plane, classes = self.ground()
        for each in (classes, torch.full_like(classes, 10), torch.zeros_like(classes)):
            nearness = torch.zeros_like(plane).requires_grad_()
            (lie_flat(nearness, each) + lie_flat(plane + nearness, each)).sum().backward()
            assert nearness.grad.isfinite().all()


class TestPlaces:
    def test_every_pixel_knows_where_what_it_shows_begins_and_ends(self):
        rows = torch.linspace(-1, 1, H)
        classes = torch.full((1, 1, H, W), 10)
        classes[..., 20:40, :] = 2
        classes[..., 40:, :] = 0
        classes[..., 30:50, 10:20] = 13  # hides the foot of the house
        told = places(classes)
        assert told.abs().max() <= 1
        x, y, top, foot, ground = told[0]
        torch.testing.assert_close(x[5], torch.linspace(-1, 1, W))
        torch.testing.assert_close(y[:, 5], rows)
        for values, seen, hidden in ((top, 20, 20), (foot, 39, 29), (ground, 40, 50)):
            assert (values[20:30, 30:] == rows[seen]).all()
            assert (values[20:30, 10:20] == rows[hidden]).all()
        assert (top[45, :10] == rows[40]).all()
        assert (foot[45, :10] == rows[-1]).all()
        assert (ground[45, :10] == rows[45]).all()
        assert (places(torch.full((1, 1, H, W), 2))[0, 4] == 1).all()  # no ground
