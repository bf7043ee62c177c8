"""Camera and depth of clips, found by least squares."""

from __future__ import annotations

import pytest
import torch
from torch.nn.functional import avg_pool2d

pytest.importorskip("cv2")

from seg2vid_cli.camera import camera_flow, slopes
from seg2vid_cli.networks.ego_flow import Scene, steer
from seg2vid_cli.training.clips import MotionBatch
from seg2vid_cli.training.structure import (
    explain,
    find_camera,
    fit_path,
    length,
    to_px,
    without_unit,
)

H, W, T = 64, 128, 3
FOCUS = torch.tensor([[0.05, -0.025]])


def car(frames=T):
    """A path to `FOCUS` that turns, nods and rolls."""
    per_frame = torch.tensor([[[0.4, 0.01, -0.006, 0.004]]])
    return per_frame * torch.arange(1, frames + 1)[:, None]


def wall(nearness):
    return torch.full((1, 1, H, W), nearness)


def street():
    nearness = 0.02 + 0.2 * slopes(H, W)[1].clamp_min(0)[None, None]
    nearness[..., :40, :30] = 0.15  # a house
    return nearness


def test_the_path_is_found_again():
    flow = to_px(camera_flow(street(), steer(car(8), FOCUS)))
    found = fit_path(street(), flow, torch.ones(1, 8, 1, H, W), FOCUS)
    torch.testing.assert_close(found, car(8), rtol=0.04, atol=2e-3)
    error = (to_px(camera_flow(street(), steer(found, FOCUS))) - flow).abs()
    assert error.max() < 0.4  # of 40 px
    assert flow.abs().max() > 10


def test_wrong_depths_are_not_explained_by_going_sideways():
    """A street with houses on its left only, taken for a plain wall."""
    nearness = wall(0.05)
    nearness[..., : W // 2] = 0.2
    flow = to_px(camera_flow(nearness, steer(car(), FOCUS)))
    camera = steer(fit_path(wall(0.1), flow, torch.ones(1, T, 1, H, W), FOCUS), FOCUS)
    aside = camera[..., 0] - FOCUS[:, :1] * camera[..., 2]
    assert (aside.abs() <= 1e-6 + (camera[..., 3] * camera[..., 2]).abs()).all()
    assert (camera[..., 2] > 0.3).all()


def test_outliers_and_what_has_no_weight_do_not_count():
    flow = to_px(camera_flow(street(), steer(car(), FOCUS)))
    weight = torch.ones(1, T, 1, H, W)
    clean = fit_path(street(), flow, weight, FOCUS)
    flow[..., 50:60, 60:80] += 30  # a truck
    spoilt = fit_path(street(), flow, weight, FOCUS)
    torch.testing.assert_close(spoilt, clean, rtol=0.1, atol=0.01)
    weight[..., 50:60, 60:80] = 0
    flow[..., 50:60, 60:80] += 1e4
    torch.testing.assert_close(fit_path(street(), flow, weight, FOCUS), clean, rtol=0.02, atol=2e-3)


def test_nothing_known_is_no_motion():
    nothing = torch.zeros(1, T, 2, H, W), torch.zeros(1, T, 1, H, W)
    assert fit_path(street(), *nothing, FOCUS).abs().max() == 0


def test_where_a_camera_drives_to_is_learnt_from_what_it_sees():
    half = avg_pool2d(street(), 2)
    batch = MotionBatch(
        frames=torch.rand(1, T + 1, 3, H, W),
        planes=torch.zeros(1, 20, H, W),
        flow_px=to_px(camera_flow(half, steer(car(), FOCUS))),
        known=torch.ones(1, T, 1, H // 2, W // 2),
    )
    focus = torch.zeros(1, 2, requires_grad=True)
    scene = Scene(
        nearness=street(),
        focus=focus,
        pace=torch.ones(1, 1),
        bend=torch.zeros(1, 1),
        features=torch.zeros(1, 1, H // 8, W // 8),
        objects=torch.zeros(1, 1, H, W),
        classes=torch.zeros(1, 1, H, W, dtype=torch.long),
        owners=torch.zeros(1, 1, H * W, dtype=torch.long),
    )
    optimizer = torch.optim.Adam([focus], 5e-3)
    for _ in range(40):
        found = find_camera(scene, batch)
        loss = (found.flow_px - batch.flow_px).abs().mean()
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
    torch.testing.assert_close(focus.detach(), FOCUS, rtol=0.2, atol=5e-3)


class TestExplain:
    """A street whose house on the left is twice as near as thought, and much else is not."""

    def found(self, truth, guess, weight=None, frames=8, **options):
        flow = to_px(camera_flow(truth, steer(car(frames), FOCUS)))
        weight = torch.ones(1, frames, 1, H, W) if weight is None else weight
        path, nearness, sure = explain(guess, flow, weight, FOCUS, **options)
        left_over = to_px(camera_flow(nearness, steer(path, FOCUS))) - flow
        before = fit_path(guess, flow, weight, FOCUS)
        was = to_px(camera_flow(guess, steer(before, FOCUS))) - flow
        return path, nearness, sure, length(left_over), length(was)

    def test_depth_and_camera_are_found_together(self):
        guess = street()
        guess[..., :40, :30] = 0.08
        path, nearness, sure, left_over, was = self.found(street(), guess, turns=6)
        unit = (nearness / street())[..., 10:, 40:].median()  # that is free
        assert (nearness[..., 4:36, 4:26] / unit - 0.15).abs().max() < 0.01
        assert sure[..., 4:36, 4:26].min() > 0.9
        assert left_over.mean() < 0.15 * was.mean()
        torch.testing.assert_close(path[..., 0] * unit, car(8)[..., 0], rtol=0.05, atol=0)
        torch.testing.assert_close(path[..., 1:], car(8)[..., 1:], rtol=0.05, atol=2e-3)

    def test_the_unit_of_distance_stays(self):
        """Twice as far at twice the speed looks the same, so the first guess decides."""
        path, nearness, *_ = self.found(street(), street() / 2)
        assert (nearness / street()).median() == pytest.approx(0.5, rel=0.05)
        assert (path[..., 0] / car(8)[..., 0]).median() == pytest.approx(2, rel=0.05)

    def test_half_of_the_places_come_nearer_and_half_do_not(self):
        """So that what learns from it is not pulled one way, however skewed the errors are."""
        guess = street()
        guess[..., :40, 60:] = 0.06  # another third is nearer than thought
        _, nearness, sure, *_ = self.found(street(), guess)
        nearer = (nearness > guess) * sure
        assert 0.4 < float(nearer.sum() / sure.sum()) < 0.6

    def test_where_nothing_is_known_the_guess_stays(self):
        weight = torch.ones(1, 8, 1, H, W)
        weight[..., :40, :30] = 0
        guess = street()
        guess[..., :40, :30] = 0.05
        _, nearness, sure, *_ = self.found(street(), guess, weight)
        torch.testing.assert_close(nearness[..., :36, :26], guess[..., :36, :26])
        assert sure[..., :36, :26].max() == 0

    def test_what_does_not_move_says_nothing_of_its_depth(self):
        flow, weight = torch.zeros(1, T, 2, H, W), torch.ones(1, T, 1, H, W)
        path, nearness, sure = explain(street(), flow, weight, FOCUS)
        assert path.abs().max() < 1e-4
        torch.testing.assert_close(nearness, street(), rtol=1e-3, atol=0)
        assert sure.max() < 0.01


def test_depth_is_not_learnt_from_ground_and_objects():
    batch = MotionBatch(
        frames=torch.rand(1, T + 1, 3, H, W),
        planes=torch.zeros(1, 20, H, W),
        flow_px=to_px(camera_flow(torch.full((1, 1, H // 2, W // 2), 0.1), steer(car(), FOCUS))),
        known=torch.ones(1, T, 1, H // 2, W // 2),
    )
    classes = torch.full((1, 1, H, W), 2)
    classes[..., 40:, :], classes[..., 20:40, 60:80] = 0, 13
    scene = Scene(
        nearness=wall(0.1),
        focus=FOCUS,
        pace=torch.ones(1, 1),
        bend=torch.zeros(1, 1),
        features=torch.zeros(1, 1, H // 8, W // 8),
        objects=(classes == 13).float(),
        classes=classes,
        owners=torch.zeros(1, 1, H * W, dtype=torch.long),
    )
    sure = find_camera(scene, batch).sure
    assert sure[..., 20:, :].max() == 0
    assert sure[..., 12:18, 32:38].max() < 0.9 * sure[..., :8, :20].min()
    assert sure[..., :8, :20].min() > 0.5


def test_no_gradient_goes_to_the_unit_of_distance():
    nearness = street().requires_grad_()
    made = without_unit(nearness)
    torch.testing.assert_close(made, street())
    (made * torch.rand(H, W)).sum().backward()
    assert nearness.grad is not None
    assert nearness.grad.abs().max() > 0.1
    along = (nearness.grad * nearness).sum()  # everything nearer by the same factor
    assert abs(float(along.detach())) < 1e-3
