"""Training the generator that is guided by edges: its start, its losses, its steps, its export."""

from __future__ import annotations

import json
import math
from contextlib import nullcontext
from copy import deepcopy
from dataclasses import replace
from itertools import repeat
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pytest
import torch
from PIL import Image
from torch import nn
from torch.nn import functional as F

pytest.importorskip("cv2")

from conftest import LABEL_UNET, lively
from test_cli_generate import refused, seg2vid

from seg2vid_cli.cli import train as train_command
from seg2vid_cli.edges import laplacian_edges
from seg2vid_cli.errors import InputError
from seg2vid_cli.networks.edge_detector import EdgeDetectorConfig
from seg2vid_cli.networks.label_unet import LabelUNet, LabelUNetConfig
from seg2vid_cli.pipeline import Pipeline
from seg2vid_cli.training import data, evaluate_translation, loop, sflow
from seg2vid_cli.training.clips import DriveClip
from seg2vid_cli.training.evaluate_translation import paint_labels, translation_scores
from seg2vid_cli.training.export import export_sflow
from seg2vid_cli.training.segmenter import SegmenterTask
from seg2vid_cli.training.sflow import (
    SFlow,
    SFlowTask,
    as_rendered,
    collate,
    draw_two,
    flow_losses,
    lucas_kanade_step,
    start_from_labels,
)
from seg2vid_cli.video import open_video
from seg2vid_cli.warp import backward_warp
from seg2vid_cli.weights.load import read_bundle

SIZE = (64, 64)
EDGES = EdgeDetectorConfig(channels=(3, 4, 4, 4, 4), convolutions=(1, 1, 1, 1, 1), threshold=0.08)


def tiny_generator(size_hw: tuple[int, int]) -> LabelUNetConfig:
    return LabelUNetConfig(
        size_hw=size_hw,
        label_planes=20,
        style_size=sflow.STYLE_SIZE,
        channels=(4, 6, 8),
        middle_blocks=1,
        up_blocks=1,
    )


@pytest.fixture
def tiny_networks(monkeypatch):
    """Let the task make networks of a few channels."""
    monkeypatch.setattr(sflow, "generator_config", tiny_generator)
    monkeypatch.setattr(sflow, "EDGES", EDGES)


@pytest.fixture(scope="module")
def pairs():
    rng = np.random.default_rng(0)
    made = []
    for index in range(2):
        ids = np.full((96, 96), 10, np.uint8)
        ids[40:] = 0
        ids[30:60, 20 + 20 * index : 50 + 20 * index] = 13
        picture = (ids[..., None] * np.array([9, 5, 12])).astype(np.uint8)
        picture += rng.integers(0, 12, picture.shape, dtype=np.uint8)
        made.append(data.Pair(name=f"p{index}", picture=picture, train_ids=ids))
    return made


def a_drive(size: tuple[int, int] = SIZE, frames: int = 6, right: int = 2) -> DriveClip:
    """A textured street that slides to the left, `right` pixels a frame."""
    rng = np.random.default_rng(1)
    height, width = size
    cells = rng.integers(0, 255, (height // 4, (width + right * frames) // 4 + 1, 3))
    wide = np.kron(cells, np.ones((4, 4, 1))).astype(np.uint8)
    shown = np.stack([wide[:, right * t : right * t + width] for t in range(frames)])
    ids = np.zeros((frames, height, width), np.uint8)
    ids[:, : height // 3] = 2
    return DriveClip(name="drive", frames=shown, train_ids=ids)


@pytest.fixture(scope="module")
def drive() -> DriveClip:
    return a_drive()


def a_task(pairs, drive, **settings) -> SFlowTask:
    return SFlowTask(pairs, [drive], **{"size_hw": SIZE, "batch": 4, **settings})


@pytest.fixture
def task(tiny_networks, pairs, drive):
    made = a_task(pairs, drive)
    batches = made.batches
    yield made
    batches.close()


def planes(batch: int = 1, size: tuple[int, int] = SIZE) -> torch.Tensor:
    ids = torch.randint(20, (batch, *size))
    return F.one_hot(ids, 20).permute(0, 3, 1, 2).float()


# ---- the start -----------------------------------------------------------------------------------


def both_generators() -> tuple[LabelUNet, LabelUNet]:
    """A trained one without edges, and a fresh one with."""
    config = tiny_generator(SIZE)
    start = lively(LabelUNet(config), 3)
    with torch.no_grad():
        for name, buffer in start.named_buffers():
            if buffer.dtype.is_floating_point:
                buffer += 0.1 * torch.rand_like(buffer) if "mean" in name else 0.5
        for weight in (*start.up_gains, *start.noise_strength):
            weight.fill_(0.3)
    return start, LabelUNet(replace(config, edge_planes=1)).eval()


@torch.no_grad()
def test_a_generator_starts_with_what_the_old_one_paints_without_noise():
    start, generator = both_generators()
    labels, style = planes(2), torch.randn(2, sflow.STYLE_SIZE)
    expected = start(labels, style, torch.zeros_like(labels[:, :1]))
    assert expected.std() > 0.05
    start_from_labels(generator, start)
    for edges in (torch.zeros(2, 1, *SIZE), torch.ones(2, 1, *SIZE), torch.rand(2, 1, *SIZE)):
        painted = generator(torch.cat([labels, edges], 1), style)
        torch.testing.assert_close(painted, expected, rtol=1e-4, atol=1e-5)


def test_the_edge_plane_learns_from_the_first_step_on():
    start, generator = both_generators()
    start_from_labels(generator, start)
    generator.requires_grad_(True).train()
    style = torch.randn(2, sflow.STYLE_SIZE)
    generator(torch.cat([planes(2), torch.rand(2, 1, *SIZE)], 1), style).sum().backward()
    assert generator.stem.weight.grad[:, 20].abs().max() > 0
    for layer in generator.up:
        assert layer.conv.weight.grad[:, -1].abs().max() > 0
        assert (layer.conv.weight[:, -1] == 0).all()


def test_a_guided_generator_may_go_on_as_it_is():
    config = replace(tiny_generator(SIZE), edge_planes=1)
    start, generator = lively(LabelUNet(config), 3), LabelUNet(config)
    start_from_labels(generator, start)
    for name, weight in generator.state_dict().items():
        assert torch.equal(weight, start.state_dict()[name]), name


def test_a_generator_that_was_told_colours_does_without_them():
    start = lively(LabelUNet(replace(tiny_generator(SIZE), colour_planes=3)), 3)
    generator = LabelUNet(replace(tiny_generator(SIZE), edge_planes=1))
    start_from_labels(generator, start)
    theirs = start.state_dict()
    for name, weight in generator.state_dict().items():
        if weight.dim() == 4 and weight.shape != theirs[name].shape:
            assert torch.equal(weight[:, :-1], theirs[name][:, :-3]), name
            assert (weight[:, -1] == 0).all()
        else:
            assert torch.equal(weight, theirs[name]), name


def test_the_old_generator_stays_as_it_was():
    start, generator = both_generators()
    before = deepcopy(start.state_dict())
    start_from_labels(generator, start)
    with torch.no_grad():
        for weight in generator.parameters():
            weight.add_(1)
    assert all(torch.equal(before[name], weight) for name, weight in start.state_dict().items())


# ---- the flow that is left -----------------------------------------------------------------------


def waves(
    right: float = 0.0,
    down: float = 0.0,
    size: tuple[int, int] = (48, 64),
    strength: float = 1.0,
) -> torch.Tensor:
    """A smooth picture `(1, 1, H, W)` in [0, 1], what it shows moved by so many pixels."""
    y, x = (axis.astype(float) for axis in np.mgrid[: size[0], : size[1]])
    x, y = x - right, y - down
    shown = np.sin(x / 3 + 1) * np.cos(y / 4) + 0.6 * np.sin((x + 2 * y) / 5) + 0.4 * np.cos(y / 3)
    return torch.from_numpy(0.5 + 0.25 * strength * shown).float()[None, None]


INNER = np.s_[..., 6:-6, 6:-6]


@pytest.fixture
def exact(monkeypatch):
    """Nothing on the diagonal, which otherwise makes steps shorter."""
    monkeypatch.setattr(sflow, "FLOW_REGULARISER", 1e-7)


@pytest.mark.usefixtures("exact")
@pytest.mark.parametrize(
    ("right", "down"), [(0.4, 0.0), (-0.4, 0.0), (0.0, 0.3), (0.0, -0.3), (0.25, -0.2), (0.0, 0.0)]
)
def test_a_step_finds_a_small_shift_with_its_sign_and_axes(right, down):
    """What has moved right lies, seen from the later picture, further left in the former."""
    step = lucas_kanade_step(waves(), waves(right, down))[INNER]
    assert step.shape[1] == 2
    for found, moved in zip(step[0], (right, down), strict=True):
        assert found.median().item() == pytest.approx(-moved, abs=0.03)
        assert (found + moved).abs().quantile(0.9) < 0.1


@pytest.mark.usefixtures("exact")
def test_a_step_leads_where_warping_makes_both_equal():
    former, later = waves(), waves(0.5, -0.3)
    warped = backward_warp(former, lucas_kanade_step(former, later))
    before, after = ((x - later)[INNER].abs().mean() for x in (former, warped))
    assert after < 0.15 * before


def test_a_step_agrees_with_least_squares_in_one_window():
    former, later = waves(), waves(0.3, 0.2)
    y, x, reach = 20, 30, sflow.FLOW_WINDOW // 2
    mean, change = ((former + later) / 2)[0, 0].double(), (later - former)[0, 0].double()
    window = np.s_[y - reach : y + reach + 1, x - reach : x + reach + 1]
    across = (mean.roll(-1, 1) - mean.roll(1, 1))[window].flatten() / 2
    down = (mean.roll(-1, 0) - mean.roll(1, 0))[window].flatten() / 2
    system = torch.stack([across, down], 1)
    count = len(across)
    # Means over the window, and a little on the diagonal.
    normal = system.T @ system / count + sflow.FLOW_REGULARISER * torch.eye(2)
    expected = torch.linalg.solve(normal, system.T @ change[window].flatten() / count)
    found = lucas_kanade_step(former, later)[0, :, y, x]
    torch.testing.assert_close(found, expected.float(), rtol=1e-3, atol=1e-4)


@pytest.mark.parametrize("strength", [0.25, 0.4])
def test_a_step_is_as_long_in_pictures_of_little_contrast(strength):
    former, later = (waves(right, strength=strength) for right in (0.0, 0.5))
    assert 1e-4 < (former[..., 1:] - former[..., :-1]).square().mean() < 2e-3
    found = lucas_kanade_step(former, later)[INNER][:, 0].median().item()
    assert found == pytest.approx(-0.5, abs=0.1)


def test_flat_pictures_do_not_move_even_where_their_light_changes():
    step = lucas_kanade_step(torch.full((1, 1, 20, 20), 0.3), torch.full((1, 1, 20, 20), 0.8))
    assert step.abs().max() == 0
    assert torch.isfinite(step).all()


# ---- the losses of a pair ------------------------------------------------------------------------


def colours(grey: torch.Tensor) -> torch.Tensor:
    return torch.cat([grey, 0.8 * grey + 0.1, 0.9 * grey], dim=1)


def moved(right: float = 0.0, down: float = 0.0) -> torch.Tensor:
    return colours(waves(right, down))


def flow_of(right: float, down: float = 0.0, size: tuple[int, int] = (48, 64)) -> torch.Tensor:
    """Where the later frame's pixels are in the former, if all has moved by so much."""
    return torch.tensor([-right, -down]).view(1, 2, 1, 1).expand(1, 2, *size).contiguous()


def losses_of(painted_right: float, real_right: float = 3.0) -> tuple[float, float]:
    """Of two painted frames that move by so much while the real ones move by so much."""
    real = torch.cat([moved(), moved(real_right)])
    painted = torch.cat([moved(9.0, 4.0), moved(9.0 + painted_right, 4.0)])
    flow, warp = flow_losses(real, painted, flow_of(real_right))
    return flow.item(), warp.item()


def test_painted_frames_that_move_as_the_real_ones_cost_nothing():
    for right in (3.0, -2.0, 0.0):
        flow, warp = losses_of(right, right)
        assert flow < 0.15  # see the next test
        assert warp < 0.001
    assert losses_of(0.0, 0.0)[0] == pytest.approx(1e-3, abs=1e-4)  # the root of 1e-6


@pytest.mark.parametrize("right", [3.0, -2.0])
def test_places_that_do_not_count_do_not_count_in_windows_either(right):
    assert losses_of(right, right)[0] < 0.01


@pytest.mark.usefixtures("exact")
@pytest.mark.parametrize("sign", [1, -1])
def test_the_flow_loss_grows_with_what_is_left_to_move(sign):
    found = [losses_of(sign * shift, 0.0) for shift in (0.0, 0.2, 0.4, 0.6)]
    for shift, (flow, _) in zip((0.2, 0.4, 0.6), found[1:], strict=True):
        assert flow == pytest.approx(shift, rel=0.25)
    for which in (0, 1):
        values = [losses[which] for losses in found]
        assert values == sorted(values)
    assert found[2][1] == pytest.approx(2 * found[1][1], rel=0.1)  # colours: so far linear
    onto_others = [losses_of(3.0 + sign * shift)[0] for shift in (0.0, 0.3, 0.6)]
    assert onto_others == sorted(onto_others)


def test_what_moves_the_other_way_costs_more_than_what_stands_still():
    assert losses_of(0.7, 0.7)[0] < losses_of(0.0, 0.7)[0] < losses_of(-0.5, 0.7)[0]


def test_a_step_far_away_counts_no_more_than_the_limit():
    real = torch.cat([moved(), moved()])
    painted = torch.rand(2, 3, 48, 64)
    flow, _ = flow_losses(real, painted, flow_of(0.0))
    assert flow <= sflow.FLOW_LIMIT_PX


def test_places_that_show_something_else_in_the_real_frames_do_not_count():
    real = torch.cat([moved(), moved(3.0)])
    real[1, :, 10:30, 10:40] = -1.0  # something stands there all of a sudden
    painted = torch.cat([moved(), moved(3.0)])
    before = [x.item() for x in flow_losses(real, painted, flow_of(3.0))]
    painted[1, :, 14:26, 14:36] = 0.5
    after = [x.item() for x in flow_losses(real, painted, flow_of(3.0))]
    assert after == pytest.approx(before, abs=0.02)
    flat = torch.cat([torch.zeros(1, 3, 48, 64), torch.ones(1, 3, 48, 64)])
    flow, warp = flow_losses(flat, painted, flow_of(3.0))  # nothing shows the same
    assert (flow.item(), warp.item()) == (0, 0)


def test_places_that_come_from_outside_do_not_count():
    real = torch.zeros(2, 3, 48, 64)  # alike everywhere, outside too
    painted = torch.zeros(2, 3, 48, 64)
    painted[1, ..., :6] = 1.0  # what has come in
    _, warp = flow_losses(real, painted, flow_of(8.0))
    assert warp == 0
    painted[1, ..., 20:26] = 1.0
    assert flow_losses(real, painted, flow_of(8.0))[1] > 0


def test_each_pair_is_compared_with_itself():
    """First all former frames, then all later ones."""
    real = torch.cat([moved(), moved(0, 5), moved(3.0), moved(0, 7)])
    flows = torch.cat([flow_of(3.0), flow_of(0.0, 2.0)])
    _, warp = flow_losses(real, real.clone(), flows)
    assert warp < 0.001
    assert flow_losses(real, real[[1, 0, 2, 3]], flows)[1] > 0.05


def test_the_losses_pull_both_painted_frames():
    real = torch.cat([moved(), moved(1.0)])
    painted = torch.cat([moved(), moved(1.4)]).requires_grad_()
    for loss in flow_losses(real, painted, flow_of(1.0)):
        (gradient,) = torch.autograd.grad(loss, painted, retain_graph=True)
        assert torch.isfinite(gradient).all()
        assert gradient.abs().amax(dim=(1, 2, 3)).min() > 0


def test_side_losses_weigh_fine_scales_most_and_the_mix_once():
    true_edges = (torch.rand(2, 1, 8, 8) < 0.3).float()
    sides, fused = torch.randn(2, 5, 8, 8), torch.randn(2, 1, 8, 8)

    def entropy(logits: torch.Tensor) -> float:
        chance = torch.sigmoid(logits.double())
        right = torch.where(true_edges[:, 0] > 0, chance, 1 - chance)
        return -right.log().mean().item()

    expected = sum(w * entropy(sides[:, i]) for i, w in enumerate((1.0, 0.8, 0.6, 0.4, 0.3)))
    found = sflow._side_losses(sides, fused, true_edges).item()
    assert found == pytest.approx(expected + entropy(fused[:, 0]), rel=1e-4)


# ---- what stands in for a rendering --------------------------------------------------------------


def test_a_rendering_has_firm_borders_but_no_fine_detail():
    rng = np.random.default_rng(0)
    picture = np.full((60, 80, 3), 60, np.uint8)
    picture[:, 40:] = 190
    noisy = (picture + rng.integers(-25, 26, picture.shape)).astype(np.uint8)
    made = as_rendered(noisy)
    assert (made.shape, made.dtype) == (noisy.shape, np.uint8)
    inside = np.s_[5:-5, 5:30]
    assert made[inside].std() < 0.35 * noisy[inside].std()
    across = made[10:50].astype(float).mean((0, 2))
    assert across[42] - across[37] > 110  # as firm as before
    true, rough = (laplacian_edges(data.to_tensor([p]), 0.08)[0, 0] for p in (noisy, made))
    assert rough[5:-5, 38:42].mean() > 0.4
    assert rough[5:-5, 5:30].mean() < 0.1 < true[5:-5, 5:30].mean()


def test_a_rendering_is_repeatable_and_of_several_kinds():
    picture = np.random.default_rng(0).integers(0, 256, (40, 40, 3), dtype=np.uint8)
    before = picture.copy()
    np.testing.assert_array_equal(as_rendered(picture), as_rendered(picture))
    kinds = [as_rendered(picture, np.random.default_rng(seed)) for seed in range(6)]
    again = as_rendered(picture, np.random.default_rng(3))
    np.testing.assert_array_equal(kinds[3], again)
    assert len({kind.tobytes() for kind in kinds}) > 3
    np.testing.assert_array_equal(picture, before)
    flat = np.full((20, 20, 3), 77, np.uint8)
    np.testing.assert_array_equal(as_rendered(flat), flat)
    as_rendered(picture[:, ::-1])  # flipped


# ---- batches -------------------------------------------------------------------------------------


def test_two_frames_are_one_window_and_the_flow_leads_from_the_later_to_the_former():
    """In steps of 3 px to the left: the later frame's pixels lie 3 px further right before."""
    wide = a_drive((160, 288), frames=3, right=3)
    signs = set()
    for seed in range(6):
        frames, ids, flow = draw_two(wide, 2, np.random.default_rng(seed))
        assert [f.shape for f in frames] == [(128, 256, 3)] * 2
        assert [i.shape for i in ids] == [(128, 256)] * 2
        assert flow.shape == (2, 128, 256)
        across = np.median(flow[0])
        assert abs(across) == pytest.approx(3, abs=0.3)
        assert np.median(flow[1]) == pytest.approx(0, abs=0.3)
        signs.add(math.copysign(1, across))
        former, later = (data.to_tensor([frame]) for frame in frames)
        warped = backward_warp(former, torch.from_numpy(flow)[None])
        gap = (warped - later).abs().mean(1)[0, 10:-10, 10:-10]
        still = (former - later).abs().mean(1)[0, 10:-10, 10:-10]
        assert gap.mean() < 0.2 * still.mean()
        np.testing.assert_array_equal(ids[0], ids[1])  # nothing but the street moves
    assert signs == {1, -1}  # flipped, and not


def test_the_former_frame_is_the_one_before():
    wide = a_drive((160, 288), frames=4)
    wide.frames[...] = np.arange(4)[:, None, None, None]
    frames, _, _ = draw_two(wide, 3, np.random.default_rng(0))
    assert [int(frame[0, 0, 0]) for frame in frames] == [2, 3]


def a_batch(size: tuple[int, int] = (32, 32)) -> sflow.SFlowBatch:
    """Two pictures and two pairs: all of one grey each, the labels likewise."""
    rng = np.random.default_rng(0)

    def flat(value: int) -> tuple[np.ndarray, np.ndarray]:
        return np.full((*size, 3), value, np.uint8), np.full(size, value % 20, np.uint8)

    pictures = [flat(10), flat(30)]
    two = []
    for former, later in ((100, 120), (140, 160)):
        (a, ids_a), (b, ids_b) = flat(former), flat(later)
        two.append(([a, b], [ids_a, ids_b], np.full((2, *size), former, np.float32)))
    return collate(pictures, two, rng)


def test_pictures_come_first_then_all_former_frames_then_all_later_ones():
    batch = a_batch()
    order = [10, 30, 100, 140, 120, 160]
    assert (batch.frames[:, 0, 0, 0] * 255).round().tolist() == order
    assert (batch.rendered[:, 0, 0, 0] * 255).round().tolist() == order
    assert batch.planes.shape == (6, 20, 32, 32)
    assert (batch.planes.sum(1) == 1).all()
    assert batch.flow_px[:, 0, 0, 0].tolist() == [100, 140]
    moved_on = batch.to(torch.device("cpu"))
    assert torch.equal(moved_on.frames, batch.frames)


def test_both_frames_of_a_pair_lose_the_same_detail():
    picture = np.random.default_rng(0).integers(0, 256, (32, 32, 3), dtype=np.uint8)
    ids = np.zeros((32, 32), np.uint8)
    two = ([picture, picture], [ids, ids], np.zeros((2, 32, 32), np.float32))
    kinds = set()
    for seed in range(5):
        batch = collate([(picture, ids)], [two, two], np.random.default_rng(seed))
        assert torch.equal(batch.rendered[1:3], batch.rendered[3:5])
        kinds |= {one.numpy().tobytes() for one in batch.rendered}
    assert len(kinds) > 5


def test_look_alikes_are_for_single_pictures_not_for_one_frame_of_a_pair():
    ids = np.full((48, 48), 2, np.uint8)
    ids[30:], ids[20:34, 8:24], ids[20:34, 30:40] = 8, 13, 11
    picture = np.zeros((48, 48, 3), np.uint8)
    two = ([picture, picture], [ids, ids], np.zeros((2, 48, 48), np.float32))
    changed = 0
    for seed in range(20):
        batch = collate([(picture, ids)], [two], np.random.default_rng(seed))
        assert torch.equal(batch.planes[1], data.to_planes([ids])[0])
        assert torch.equal(batch.planes[2], batch.planes[1])
        changed += not torch.equal(batch.planes[0], batch.planes[1])
    assert 0 < changed < 20


# ---- the task ------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("batch", "singles", "two"), [(1, 1, 1), (2, 1, 1), (4, 2, 1), (8, 4, 2), (9, 5, 2)]
)
def test_half_of_a_batch_are_pairs(tiny_networks, pairs, drive, batch, singles, two):
    task = a_task(pairs, drive, batch=batch)
    drawn = next(task.batches)
    task.batches.close()
    assert drawn.frames.shape == drawn.rendered.shape == (singles + 2 * two, 3, *SIZE)
    assert drawn.flow_px.shape == (two, 2, *SIZE)


@pytest.mark.parametrize("size_hw", [(32, 64), (100, 64), (64, 48)], ids=str)
def test_a_size_that_cannot_be_trained_at_is_refused(pairs, drive, size_hw):
    with pytest.raises(InputError, match="cannot be trained at"):
        a_task(pairs, drive, size_hw=size_hw)


@pytest.mark.parametrize("progress", [0.0, 0.3, 0.9])
def test_a_step_teaches_generator_detector_style_and_judge(task, progress):
    task.progress = progress
    parts = {
        "generator": task.network.generator,
        "edges": task.network.edges,
        "style": task.helpers["style"],
        "judge": task.helpers["judge"],
    }
    before = {name: [p.detach().clone() for p in part.parameters()] for name, part in parts.items()}
    values = task.step()
    assert all(math.isfinite(value) for value in values.values()), values
    assert set(values) >= {"detector", "flow_px", "warp", "laplacian", "colour", "discriminator"}
    for name, part in parts.items():
        assert any(
            not torch.equal(new, old)
            for new, old in zip(part.parameters(), before[name], strict=True)
        ), name
    assert not torch.equal(task.network.edges.mix, before["edges"][-1]) or progress == 0


def test_the_mix_of_side_outputs_is_learnt(task):
    before = task.network.edges.mix.detach().clone()
    task.step()
    assert (task.network.edges.mix != before).all()


def test_a_trained_generator_rests_at_first(tiny_networks, pairs, drive):
    start = lively(LabelUNet(tiny_generator(SIZE)), 3)
    task = a_task(pairs, drive, start=start)
    for progress, moves in ((0.0, False), (0.2, True)):
        before = [p.detach().clone() for p in task.network.generator.parameters()]
        task.progress = progress
        task.step()
        changed = [
            not torch.equal(new, old)
            for new, old in zip(task.network.generator.parameters(), before, strict=True)
        ]
        assert any(changed) == moves
    task.batches.close()


class Listener:
    """Notes what detector and generator are given."""

    def __init__(self, task: SFlowTask, monkeypatch: pytest.MonkeyPatch) -> None:
        self.read: list[torch.Tensor] = []
        self.painted_from: list[torch.Tensor] = []
        self.styles: list[torch.Tensor] = []
        detector, forward = task.network.edges, task.network.forward
        side_logits = detector.side_logits

        def listen(edges: torch.Tensor) -> torch.Tensor:
            self.read.append(edges.detach())
            return side_logits(edges)

        def paint(planes: torch.Tensor, edges: torch.Tensor, style: torch.Tensor) -> torch.Tensor:
            self.painted_from.append(edges)
            self.styles.append(style.detach())
            return forward(planes, edges, style)

        monkeypatch.setattr(detector, "side_logits", listen)
        monkeypatch.setattr(task.network, "forward", paint)


def test_at_first_the_generator_paints_from_true_edges_later_from_detected_ones(task, monkeypatch):
    heard = Listener(task, monkeypatch)
    for task.progress in (0.0, 0.39, 0.41, 0.9):
        task.step()
        true_edges = laplacian_edges(task.last.frames, EDGES.threshold)
        given = heard.painted_from[-1]
        if task.progress < 0.4:
            assert torch.equal(given, true_edges)
        else:
            assert not torch.equal(given, true_edges)
            assert given.requires_grad  # the detector hears what the picture lacks
            assert 0 < given.min() < given.max() < 1


def test_the_detector_reads_rendered_edges_and_now_and_then_true_ones(task, monkeypatch):
    heard, kinds = Listener(task, monkeypatch), []
    for _ in range(8):
        task.step()
        choices = [
            laplacian_edges(x, EDGES.threshold) for x in (task.last.rendered, task.last.frames)
        ]
        for i, read in enumerate(heard.read[-1]):
            kinds.append([torch.equal(read, choice[i]) for choice in choices])
    assert all(any(kind) for kind in kinds)
    rendered = sum(kind[0] for kind in kinds) / len(kinds)
    assert 0.45 < rendered < 0.95


def test_both_frames_of_a_pair_are_painted_in_one_light(task, monkeypatch):
    heard = Listener(task, monkeypatch)
    task.progress = 0.9
    task.step()
    (style,) = heard.styles
    assert torch.equal(style[2], style[3])
    assert not torch.equal(style[0], style[1])
    assert not torch.equal(style[1], style[2])
    assert torch.equal(*task._draw_mix(4, 5)[2:])


def test_both_frames_of_a_pair_are_read_in_the_same_way(task, monkeypatch):
    heard = Listener(task, monkeypatch)
    task.progress = 0.9
    for _ in range(12):
        task.step()
        choices = [
            laplacian_edges(x, EDGES.threshold) for x in (task.last.rendered, task.last.frames)
        ]
        kinds = [[torch.equal(heard.read[-1][i], choice[i]) for choice in choices] for i in (2, 3)]
        assert kinds[0] == kinds[1]


def test_a_step_compares_the_flow_of_the_pairs_alone(task, monkeypatch):
    given, made = [], []
    forward = task.network.forward
    monkeypatch.setattr(task.network, "forward", lambda *a: made.append(forward(*a)) or made[-1])
    monkeypatch.setattr(sflow, "flow_losses", lambda *a: given.append(a) or flow_losses(*a))
    task.step()
    ((real, painted, flow_px),) = given
    assert torch.equal(real, task.last.frames[2:])
    assert torch.equal(painted, made[0][2:].float())
    assert torch.equal(flow_px, task.last.flow_px)


def test_a_still_pair_costs_no_flow(tiny_networks, pairs, monkeypatch):
    """Two equal frames are painted alike, whatever the generator knows."""
    still = a_drive(right=0)
    monkeypatch.setattr(data, "LOOKALIKE_PROBABILITY", 0.0)
    monkeypatch.setattr(torch, "autocast", lambda *_, **__: nullcontext())
    task = a_task(pairs, still)
    task.progress = 0.3  # from true edges
    values = task.step()
    task.batches.close()
    assert values["flow_px"] == pytest.approx(1e-3, abs=2e-3)
    assert values["warp"] == pytest.approx(0, abs=1e-3)


def test_steps_lessen_the_losses_of_one_batch(task):
    batch = next(task.batches)
    task.batches.close()
    task.batches = repeat(batch)
    for group in task.optimizers["generator"].param_groups:
        group["lr"] = 0.01
    losses = [task.step() for _ in range(10)]
    for name in ("detector", "colour"):
        assert losses[-1][name] < 0.95 * losses[0][name]


def test_the_finish_measures_statistics_with_edges_detected_in_renderings(task, monkeypatch):
    monkeypatch.setattr(sflow, "STATISTICS_BATCHES", 2)
    network = deepcopy(task.network)
    norm = network.generator.down[0].norm
    norm.running_mean.fill_(77.0)
    before = {name: p.detach().clone() for name, p in network.named_parameters()}
    monkeypatch.setattr(sflow, "RICH", 0.0)
    batches, given = [next(task.batches) for _ in range(4)], []
    task.batches.close()
    task.batches = iter(batches)
    network.generator.register_forward_pre_hook(lambda _, arguments: given.append(arguments[0]))
    task.finish(network)
    assert norm.running_mean.abs().max() < 10
    assert norm.num_batches_tracked == 2
    assert not network.training
    changed = {n for n, p in network.named_parameters() if not torch.equal(p, before[n])}
    assert changed == {name for name in before if ".style." in name}
    for batch, planes_and_edges in zip(batches[2:], given, strict=True):
        edges = network.edges(laplacian_edges(batch.rendered, EDGES.threshold))
        torch.testing.assert_close(planes_and_edges, torch.cat([batch.planes, edges], 1))


def test_a_sheet_has_seven_rows(task):
    task.step()
    sheet = task.sample_sheet(task.network)
    assert sheet.size == (4 * SIZE[1], 7 * SIZE[0])


def test_a_clip_is_not_followed_over_its_end(tiny_networks, pairs):
    """No pair is made of the last frame of one clip and the first of another."""
    clips = [a_drive(frames=2), a_drive(frames=2)]
    clips[0].frames[...] = np.array([10, 12], np.uint8)[:, None, None, None]
    clips[1].frames[...] = np.array([200, 202], np.uint8)[:, None, None, None]
    task = SFlowTask(pairs, clips, size_hw=SIZE, batch=8)
    for _ in range(4):
        batch = next(task.batches)
        former, later = (batch.frames[4:, 0, 0, 0] * 255).round().chunk(2)
        assert (later - former).tolist() == [2, 2]
    task.batches.close()


# ---- the whole way -------------------------------------------------------------------------------


@pytest.fixture
def by_steps(monkeypatch):
    """A clock that goes on by a second with every look at it: time is steps."""
    ticks = iter(range(10**6))
    clock = SimpleNamespace(monotonic=lambda: float(next(ticks)))
    monkeypatch.setattr(loop, "time", clock)
    monkeypatch.setattr(sflow, "STATISTICS_BATCHES", 2)


def test_training_goes_on_where_it_stopped(tiny_networks, by_steps, pairs, drive, tmp_path):
    progress = []

    def run(minutes: float) -> nn.Module:
        task = a_task(pairs, drive)
        step = task.step
        task.step = lambda: progress.append(task.progress) or step()
        return loop.train(task, out=tmp_path, minutes=minutes)

    run(0.2)
    state = loop.load_checkpoint(tmp_path / "sflow")
    first = state["step"]
    assert first == len(progress) > 2
    average = run(0.4)
    again = loop.load_checkpoint(tmp_path / "sflow")
    assert again["step"] == len(progress) > first
    assert progress[first] == pytest.approx(0.5, abs=0.15)  # half of the time had passed
    assert progress[first:] == sorted(progress[first:])
    assert again["config"]["edges"]["channels"] == EDGES.channels
    for name, tensor in average.state_dict().items():
        assert torch.equal(tensor, again["average"][name])
    assert not torch.equal(
        state["average"]["generator.stem.weight"], again["average"]["generator.stem.weight"]
    )
    assert list((tmp_path / "sflow").glob("sheet-*.png"))


def test_a_run_of_another_size_is_not_gone_on_with(tiny_networks, by_steps, pairs, drive, tmp_path):
    loop.train(a_task(pairs, drive), out=tmp_path, minutes=0.05)
    other = a_task(pairs, a_drive((64, 96)), size_hw=(64, 96))
    with pytest.raises(InputError, match="another configuration"):
        loop.train(other, out=tmp_path, minutes=1)
    other.batches.close()


def test_what_was_trained_is_exported_opens_and_paints(
    tiny_networks, by_steps, pairs, drive, tmp_path, labels
):
    average = loop.train(a_task(pairs, drive), out=tmp_path, minutes=0.1)
    entry = export_sflow(tmp_path, tmp_path / "bundle", name="mine")
    assert entry.count("sha256") == 3  # two networks and the description
    bundle = read_bundle(tmp_path / "bundle")
    assert [*bundle.stages] == ["edges", "first_frame"]
    assert (bundle.name, bundle.size_hw, bundle.fps) == ("mine", SIZE, None)
    assert bundle.stages["edges"].config == EDGES
    assert bundle.stages["first_frame"].config == replace(tiny_generator(SIZE), edge_planes=1)
    for stage, network in (("edges", average.edges), ("first_frame", average.generator)):
        stored = bundle.network(stage).state_dict()
        for name, tensor in network.state_dict().items():
            torch.testing.assert_close(
                stored[name], tensor, rtol=2e-3, atol=1e-4, check_dtype=False
            )
    pipeline = Pipeline.open(str(tmp_path / "bundle"), device="cpu", precision="fp32")
    edges = np.zeros(SIZE, np.bool_)
    edges[::5] = True
    frames = [
        next(iter(pipeline.generate(labels, frames=1, size_hw=SIZE, fit="stretch", edges=e))).frame
        for e in (edges, ~edges)
    ]
    assert frames[0].shape == (*SIZE, 3)
    assert (frames[0] != frames[1]).any()


def test_what_was_not_trained_is_said(tmp_path):
    with pytest.raises(InputError, match="sflow has not been trained") as caught:
        export_sflow(tmp_path, tmp_path / "bundle", name="mine")
    assert caught.value.hint == "seg2vid train sflow"
    assert not (tmp_path / "bundle").exists()


def test_the_full_networks_fit_together():
    config = sflow.sflow_config((256, 512))
    assert config.generator.edge_planes == 1
    assert len(config.edges.channels) == len(config.edges.convolutions) == len(sflow.SIDE_WEIGHTS)
    assert 32 % config.edges.multiple == 0  # sides that can be trained at are multiples of 32
    with torch.device("meta"):
        painted = SFlow(config)(
            torch.zeros(1, 20, 64, 64), torch.zeros(1, 1, 64, 64), torch.zeros(1, sflow.STYLE_SIZE)
        )
    assert painted.shape == (1, 3, 64, 64)


# ---- from the shell ------------------------------------------------------------------------------


@pytest.fixture
def shell(tmp_path, monkeypatch, pairs, drive, tiny_networks):
    """Pictures, labels, a drive and a segmenter that knows nothing."""
    monkeypatch.chdir(tmp_path)
    train_command._pairs.cache_clear()
    for folder in ("pictures", "labels", "runs/segmenter"):
        Path(folder).mkdir(parents=True)
    for pair in pairs:
        Image.fromarray(pair.picture).save(f"pictures/{pair.name}.png")
        Image.fromarray(pair.train_ids).save(f"labels/{pair.name}.png")
    with open_video(Path("drive.mp4"), size_hw=SIZE, fps=15) as video:
        for frame in a_drive(frames=9).frames:
            video.write(frame)
    return (
        *("train", "sflow", "--pictures", "pictures", "--labels", "labels", "--size", "64x64"),
        *("--encoding", "train-ids", "--clip", "drive.mp4", "--minutes", 0.001, "--batch", 2),
    )


@pytest.fixture
def segmenter(shell, pairs):
    task = SegmenterTask(pairs, batch=1, size_hw=(32, 64))
    task.batches.close()
    loop.save_checkpoint(Path("runs/segmenter"), loop._state(task, task.network, 1, 1.0))


@pytest.mark.usefixtures("segmenter")
def test_from_pictures_and_a_drive_to_a_translation(shell, monkeypatch):
    monkeypatch.setattr(sflow, "STATISTICS_BATCHES", 2)
    done = seg2vid(*shell)
    assert (done.code, done.out) == (0, ""), done.err
    assert json.loads(Path("runs/sflow/done.json").read_text())["steps"] >= 1
    done = seg2vid("train", "export", "--sflow", "-o", "bundle", "--name", "mine")
    assert done.code == 0, done.err
    assert all(f"{stage}.safetensors" in done.out for stage in ("edges", "first_frame"))
    words = ("labels", "--edges", "pictures", "-o", "out.gif", "--encoding", "train-ids")
    done = seg2vid("translate", *words, "--weights", "bundle", "--device", "cpu")
    assert done.code == 0, done.err
    assert Path("out.gif").stat().st_size > 1000


@pytest.mark.parametrize(
    ("change", "says"),
    [
        ("--size 100x64", "size 100x64 cannot be trained at"),
        ("--size big", "size 'big' is not understood"),
        ("--batch 0", "batch 0 is out of range"),
        ("--clip none.mp4", "none.mp4: there is no such clip"),
        ("--clip drive.mp4:0-3", "drive.mp4:0-3: 3 frames are too few"),
        ("--pictures none", "none: there is no such folder"),
        ("--device nope", "nope"),
        ("--start nowhere", "weights 'nowhere' are not known"),
        ("--out empty", "no segmenter"),
    ],
)
def test_what_cannot_be_trained_on_is_named(shell, change, says):
    refused(*shell, *change.split(), says=(says, "hint: "))


def test_weights_to_start_from_must_paint(shell, motion_bundle):
    says = ("weights 'mover' have no first-frame stage", "hint: ")
    refused(*shell, "--start", motion_bundle, says=says)


@pytest.mark.parametrize("name", ["tiny_bundle", "painter_bundle"])
@pytest.mark.usefixtures("segmenter")
def test_weights_of_another_configuration_are_nothing_to_begin_with(shell, name, request):
    refused(*shell, "--start", request.getfixturevalue(name), says=("configuration", "hint: "))


def test_an_export_of_the_guided_generator_takes_no_base(shell, tiny_bundle):
    words = ("train", "export", "--sflow", "-o", "bundle", "--name", "mine")
    refused(*words, "--base", tiny_bundle, says=("--base is of no use with --sflow", "hint: "))
    refused(*words, says=("sflow has not been trained", "hint: seg2vid train sflow"))


# ---- figures -------------------------------------------------------------------------------------


def scores_of(monkeypatch, clip: DriveClip, painted: list[np.ndarray]) -> dict[str, float]:
    """Figures of a pipeline that paints what is given."""
    order = iter(painted)
    monkeypatch.setattr(evaluate_translation, "paint_labels", lambda *a, **k: next(order))
    return translation_scores(SimpleNamespace(), clip)


def test_perfect_frames_get_the_figures_of_the_real_ones(monkeypatch):
    clip = a_drive((96, 160), frames=4)
    figures = scores_of(monkeypatch, clip, list(clip.frames))
    assert figures["frames"] == 4
    assert figures["warping_error"] == figures["warping_error_real"] < 0.06
    assert figures["flow_error_px"] == 0
    assert figures["sharpness_of_real"] == 1


def test_frames_that_flicker_or_stand_still_are_told_from_those_that_move(monkeypatch):
    clip = a_drive((96, 160), frames=4)
    good = scores_of(monkeypatch, clip, [255 - frame for frame in clip.frames])
    assert good["flow_error_px"] < 0.3
    still = scores_of(monkeypatch, clip, [clip.frames[0]] * 4)
    assert still["flow_error_px"] == pytest.approx(2, abs=0.3)  # as far as the street moves
    light = [np.clip(f.astype(int) + 60 * (i % 2), 0, 255) for i, f in enumerate(clip.frames)]
    flickering = scores_of(monkeypatch, clip, [frame.astype(np.uint8) for frame in light])
    assert flickering["warping_error"] > good["warping_error"] + 0.1
    blurred = [
        np.asarray(Image.fromarray(f).resize((20, 12)).resize((160, 96))) for f in clip.frames
    ]
    assert scores_of(monkeypatch, clip, blurred)["sharpness_of_real"] < 0.5


def test_labels_are_painted_at_their_own_size_from_edges_where_there_are(pipeline, labels):
    guide = np.zeros((16, 32, 3), np.uint8)
    with pytest.raises(InputError, match="size 32x16"):
        paint_labels(pipeline, labels.train_ids, guide=guide, seed=0)
    ids = np.kron(labels.train_ids, np.ones((3, 3), np.uint8))[:46]
    frame = paint_labels(pipeline, ids, guide=np.zeros((46, 96, 3), np.uint8), seed=2)
    assert frame.shape == (46, 96, 3)
    assert LABEL_UNET.edge_planes == 0
