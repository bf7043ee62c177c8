"""Motion by way of depth: geometry, what hides what, and its training."""

from __future__ import annotations

import math
from copy import deepcopy
from dataclasses import replace
from fractions import Fraction

import numpy as np
import pytest
import torch
from conftest import lively, sliding_wall

pytest.importorskip("cv2")

import seg2vid_cli.training.clips as training_clips
import seg2vid_cli.training.motion as training_motion
from seg2vid_cli.camera import (
    FOCAL,
    STOPS_AT,
    _rotation,
    camera_flow,
    camera_growth,
    carry,
    enlarge,
    join,
    keep_distance,
    move,
    path_at,
    see,
    slopes,
)
from seg2vid_cli.device import resolve_compute
from seg2vid_cli.errors import InputError
from seg2vid_cli.motion import Memory, fitting_downscale, predict_motion, see_from
from seg2vid_cli.networks.efficientnet import EfficientNetLite
from seg2vid_cli.networks.ego_flow import (
    FASTEST_TURN,
    MOST_ACCELERATION,
    STRAIGHTER,
    TAKEN,
    EgoFlow,
    EgoFlowConfig,
    Plan,
    class_shares,
    gain,
    go_on,
    steer,
    straight_on,
    take_rims,
)
from seg2vid_cli.networks.layers import quantiles
from seg2vid_cli.networks.layout import PLACES
from seg2vid_cli.networks.segmenter import LiteSegmenter, LiteSegmenterConfig
from seg2vid_cli.training.clips import WORK_HW, DriveClip, MotionClips, collate
from seg2vid_cli.training.data import to_planes
from seg2vid_cli.training.habits import Observed
from seg2vid_cli.training.motion import (
    BELIEVED,
    LITE_STAGES,
    MotionTask,
    check_motion_start,
    feet_error,
    measure_sways,
    road_level,
    road_slope,
    sight_of,
    still_error,
)
from seg2vid_cli.training.stereo import Depth, StillBatch
from seg2vid_cli.training.structure import fit_path, mean_speed, to_px
from seg2vid_cli.warp import backward_warp, half_images_to_px

CAR = 13
H, W, T = 64, 128, 3
CPU = resolve_compute("cpu", "fp32")
CONFIG = EgoFlowConfig(
    size_hw=(H, W),
    image_channels=3,
    label_planes=20,
    num_frames=T,
    channels=(4, 5, 6, 7, 8),
    full_channels=4,
    background_latents=4,
    foreground_latents=3,
    latent_channels=2,
    speeds=5,
)
PATH = torch.tensor([[0.02, -0.01, 0.4, 0.01, -0.006, 0.004]])  # per frame
FOCUS = torch.tensor([[0.05, -0.025]])


def cameras(per_frame=PATH, frames=T):
    return per_frame[:, None] * torch.arange(1, frames + 1)[:, None]


def car(frames=T):
    """A path to `FOCUS`."""
    return cameras(PATH, frames)[..., 2:]


def network(**changes):
    made = lively(EgoFlow(replace(CONFIG, **changes)))
    made.speeds.copy_(torch.linspace(0.2, 2, CONFIG.speeds))
    made.turns.copy_(torch.linspace(-2, 2, CONFIG.speeds))
    made.sways.normal_(0, 0.01)
    made.amounts.copy_(torch.linspace(-1.5, 1.5, CONFIG.speeds))
    return made


def street(ids=0):
    planes = torch.zeros(1, 20, H, W)
    planes[:, ids] = 1
    return torch.rand(1, 3, H, W, generator=torch.Generator().manual_seed(0)), planes


def wall(nearness=0.2):
    return torch.full((1, 1, H, W), nearness)


class TestCameraFlow:
    def test_a_standing_camera_sees_no_flow(self):
        flow = camera_flow(torch.rand(1, 1, H, W), torch.zeros(1, T, 6))
        assert flow.shape == (1, T, 2, H, W)
        assert flow.abs().max() < 1e-6

    def test_points_go_where_a_pinhole_camera_sees_them(self):
        nearness = 0.05 + 0.3 * torch.rand(1, 1, H, W)
        camera = cameras()
        flow = camera_flow(nearness, camera)
        across, down = slopes(H, W)
        points = torch.stack([across, down, torch.ones(H, W)]).double() / nearness[0].double()
        for t in range(T):
            x, y, z, yaw, pitch, roll = (float(v) for v in camera[0, t])
            seen = points - torch.tensor([x, y, z]).view(3, 1, 1)
            turns = [
                [[math.cos(yaw), 0, -math.sin(yaw)], [0, 1, 0], [math.sin(yaw), 0, math.cos(yaw)]],
                [
                    [1, 0, 0],
                    [0, math.cos(pitch), -math.sin(pitch)],
                    [0, math.sin(pitch), math.cos(pitch)],
                ],
                [
                    [math.cos(roll), math.sin(roll), 0],
                    [-math.sin(roll), math.cos(roll), 0],
                    [0, 0, 1],
                ],
            ]
            for turn in turns:
                seen = torch.einsum("ij,jhw->ihw", torch.tensor(turn).double(), seen)
            wanted = seen[:2] / seen[2] - torch.stack([across, down])
            torch.testing.assert_close(flow[0, t], wanted.float(), rtol=1e-4, atol=1e-5)

    @pytest.mark.parametrize(
        ("index", "channel", "sign"),
        [(0, 0, -1), (1, 1, -1), (3, 0, -1), (4, 1, -1)],
        ids=["shift right", "shift down", "turn right", "turn down"],
    )
    def test_the_picture_goes_the_other_way(self, index, channel, sign):
        camera = torch.zeros(1, 1, 6)
        camera[..., index] = 0.05
        flow = camera_flow(wall(), camera)[0, 0]
        assert (sign * flow[channel] > 0).all()

    def test_a_camera_that_rolls_clockwise_sees_things_roll_the_other_way(self):
        camera = torch.zeros(1, 1, 6)
        camera[..., 5] = 0.05
        flow = camera_flow(wall(), camera)[0, 0]
        assert flow[1, H // 2, -1] < 0  # the right side rises
        assert flow[0, 0, W // 2] < 0  # the upper side goes left

    def test_driving_ahead_everything_flees_from_the_focus(self):
        focus = torch.tensor([[0.1, -0.05]])
        camera = steer(straight_on(torch.tensor([[0.5]]), T), focus)
        assert camera.shape == (1, T, 6)
        flow, away = camera_flow(wall(), camera)[0, -1], slopes(H, W) - focus.view(2, 1, 1)
        cosine = torch.nn.functional.cosine_similarity(flow, away, dim=0)
        assert cosine.min() > 0.9999

    def test_a_car_goes_round_a_bend_on_an_arc(self):
        """Its tyres roll: every step goes where it points by then."""
        frames = 200
        path = torch.zeros(1, frames, 4)
        path[0, :, 0] = 0.5 * torch.arange(1.0, frames + 1)
        path[0, :, 1] = 0.001 * torch.arange(1.0, frames + 1)
        camera = steer(path, torch.zeros(1, 2))
        heading = path[0, :, 1] - 0.0005
        torch.testing.assert_close(
            camera[0, :, 0], (0.5 * heading.sin()).cumsum(0), rtol=0.02, atol=1e-3
        )
        assert camera[..., 1].abs().max() == 0
        assert torch.equal(camera[..., 2:], path)

    def test_what_moves_along_with_the_camera_stays_as_it_is(self):
        speed = torch.tensor([[0.5]])
        velocity = torch.tensor([0.0, 0.5]).view(1, 2, 1, 1).expand(1, 2, H, W)
        camera = steer(straight_on(speed, T), torch.zeros(1, 2))
        assert camera_flow(wall(), camera, velocity).abs().max() < 1e-6
        torch.testing.assert_close(
            camera_growth(wall(), camera, velocity), torch.ones(1, T, 1, H, W)
        )

    def test_the_sky_does_not_come_nearer_and_nothing_comes_behind_the_camera(self):
        camera = steer(straight_on(torch.tensor([[100.0]]), T), torch.zeros(1, 2))
        assert camera_flow(wall(0.0), camera).abs().max() < 1e-6
        assert torch.isfinite(camera_flow(wall(0.5), camera)).all()
        assert camera_growth(wall(0.5), camera).max() <= 1 / 0.15 + 1e-4


class TestCarry:
    def shifted_box(self):
        """A near box of 8x8 px that goes 10 px to the right in front of a wall that stands."""
        nearness = wall(0.1)
        nearness[..., 20:28, 30:38] = 0.5
        flow = torch.zeros(1, 1, 2, H, W)
        flow[:, :, 0, 20:28, 30:38] = 10
        return flow, nearness, torch.ones(1, 1, 1, H, W)

    def test_the_near_hides_the_far(self):
        forward, nearness, growth = self.shifted_box()
        flow, visible, back = carry(forward, nearness, growth)
        assert (flow[0, 0, 20:28, 40:48] == -10).all()
        assert (flow[0, 0, 20:28, 50:] == 0).all()
        hidden = visible[0, 0] == 0
        assert hidden[21:27, 31:37].all()  # what comes into sight behind it
        assert not hidden[:19].any()
        assert hidden.sum() <= 64
        lost = back[0, 0] == 0
        assert lost[20:28, 40:48].all()  # the wall behind the box
        assert lost.sum() == 64

    def test_a_far_thing_goes_behind(self):
        forward, nearness, growth = self.shifted_box()
        nearness[..., 20:28, 30:38] = 0.02
        flow, _, back = carry(forward, nearness, growth)
        assert (flow[0, 0, 20:28, 40:48] == 0).all()
        assert (back[0, 0, 20:28, 30:38] == 0).all()

    def test_flow_goes_on_into_what_comes_into_sight(self):
        forward, nearness, growth = self.shifted_box()
        flow, visible, _ = carry(forward + 0.5, nearness, growth)
        assert (visible[0, 0, 22:26, 32:36] == 0).all()
        assert (flow[0, :, 22:26, 32:36] <= 0).all()
        assert (flow[0, 1, 22:26, 32:36] < 0).all()

    @pytest.mark.parametrize("times", [2, 6])
    def test_growing_surfaces_have_no_cracks(self, times):
        """Seen from half the distance, everything is twice as large."""
        nearness = wall(0.1)
        camera = torch.tensor([[[0.0, 0.0, 10 - 10 / times, 0.0, 0.0, 0.0]]])
        forward = camera_flow(nearness, camera) * (FOCAL * W / 2)
        flow, visible, back = carry(forward, nearness, camera_growth(nearness, camera))
        assert visible.min() == 1
        x = torch.arange(W) + 0.5 - W / 2
        torch.testing.assert_close(flow[0, 0, H // 2], x / times - x, rtol=0, atol=0.3)
        half_h, half_w = H // 2 // times, W // 2 // times
        inner = np.s_[H // 2 - half_h + 1 : H // 2 + half_h - 1, W // 2 - half_w + 1 : W // 2]
        assert back[0, 0][inner].min() == 1
        assert back[0, 0, : H // 2 - half_h - 1].max() == 0  # outside the later frame

    def test_there_and_back_again(self):
        nearness = 0.05 + 0.1 * slopes(H, W)[1].clamp_min(0)[None, None]
        camera = cameras()[:, :1]
        forward = camera_flow(nearness, camera) * (FOCAL * W / 2)
        flow, visible, _ = carry(forward, nearness, camera_growth(nearness, camera))
        home = flow + backward_warp(forward[0], flow)
        assert visible[..., 4:-4, 4:-4].min() == 1
        assert home[..., 4:-4, 4:-4].abs().max() < 0.05


class TestNetwork:
    def test_shapes_and_ranges(self):
        output = move(network()(*street(), torch.randn(1, 1, CONFIG.latent_size)))
        assert output.flow.shape == output.flow_back.shape == (1, 2, T, H, W)
        for visible in (output.visibility, output.visibility_back):
            assert visible.shape == (1, T, H, W)
            assert visible.min() >= 0
            assert visible.max() <= 1

    def test_one_picture_serves_many_latents(self):
        made, (frame, planes) = network(), street(13)
        latents = torch.randn(3, 1, CONFIG.latent_size)
        encoded = made.encode(frame, planes)
        together = move(made.plan(encoded, latents))
        for row in range(3):
            alone = move(made.plan(encoded, latents[row : row + 1]))
            torch.testing.assert_close(together.flow[row : row + 1], alone.flow, rtol=0, atol=1e-3)
        assert move(made.plan(encoded, latents), both_ways=False).flow_back is None

    @pytest.mark.parametrize("size_hw", [(32, 32), (64, 160), (96, 64)])
    def test_any_size_of_whole_cells(self, size_hw):
        planes = torch.zeros(1, 20, *size_hw)
        output = move(network()(torch.rand(1, 3, *size_hw), planes, torch.randn(1, 1, 7)))
        assert output.flow.shape == (1, 2, T, *size_hw)

    def test_the_foreground_latent_moves_objects_only(self):
        made, (frame, planes) = network(), street()
        planes[:, 0, 20:40, 30:60], planes[:, 13, 20:40, 30:60] = 0, 1
        latents = torch.randn(1, 1, CONFIG.latent_size).repeat(2, 1, 1)
        latents[1, :, CONFIG.background_latents :].normal_()
        plan = made(frame.expand(2, -1, -1, -1), planes.expand(2, -1, -1, -1), latents)
        one, other = move(plan).flow_back
        change = (one - other).abs().amax((0, 1))
        assert change[20:40, 30:60].mean() > 1e-4
        change[20:40, 30:60] = 0
        assert change.max() == 0

    @pytest.mark.parametrize("train_id", [11, CAR])
    def test_borders_of_objects_go_with_them(self, train_id):
        """A cell at a border shows something else too, and yet the object stays in one piece."""
        made, (frame, planes) = network(), street()
        planes[:, 0, 20:40, 30:60], planes[:, train_id, 20:40, 30:60] = 0, 1
        planes[:, 0, 20:40, 57:60], planes[:, train_id, 20:40, 57:60] = 0.4, 0.6
        planes[:, 0, 20:40, 60:62], planes[:, train_id, 20:40, 60:62] = 0.6, 0.4
        velocity = made(frame, planes, torch.randn(1, 1, CONFIG.latent_size)).velocity
        mine = velocity[..., 20:40, 30:60].flatten(2)
        assert mine.abs().min() > 1e-5
        torch.testing.assert_close(mine, mine[..., :1].expand_as(mine))
        velocity[..., 20:40, 30:60] = 0
        assert velocity.abs().max() == 0

    def test_the_first_latent_is_the_speed(self):
        made, (frame, planes) = network(), street()
        scene = made.read(frame.expand(3, -1, -1, -1), planes.expand(3, -1, -1, -1))
        latents = torch.zeros(3, CONFIG.background_latents)
        latents[:, 0] = torch.tensor([-9.0, 0.0, 9.0])
        speed, camera = made.drive(latents, scene)
        torch.testing.assert_close(speed[:, 0] / scene.pace[:, 0], torch.tensor([0.2, 1.1, 2.0]))
        torch.testing.assert_close(mean_speed(camera[..., 2:]), speed)

    def test_quantiles_are_read_between_their_places(self):
        tables = torch.tensor([[0.0, 1.0, 4.0], [0.0, 10.0, 20.0]])
        share = torch.tensor([-1.0, 0.0, 0.25, 0.5, 0.75, 1.0, 2.0])
        first, second = quantiles(tables, torch.stack([share, share], dim=1)).T
        assert first.tolist() == [0, 0, 0.5, 1, 2.5, 4, 4]
        assert second.tolist() == [0, 0, 5, 10, 15, 20, 20]

    def predict(self, made, latents, downscale=2):
        frame, planes = street(13)
        frame = torch.nn.functional.interpolate(frame, scale_factor=float(downscale))
        planes = planes.repeat_interleave(downscale, 2).repeat_interleave(downscale, 3)
        return predict_motion(made, frame, planes, latents, downscale=downscale, compute=CPU)

    @pytest.mark.parametrize(
        ("size", "wanted"),
        [
            ((H, W), 1),
            ((2 * H, 2 * W), 2),
            ((4 * H, 4 * W), 4),
            ((H // 2, W // 2), 1),
            ((4 * H, 3 * W), 2),  # 3 would fit its width better, but does not go into its height
        ],
    )
    def test_things_are_as_large_as_the_network_learnt_them(self, size, wanted):
        assert fitting_downscale(size, network()) == wanted

    def test_the_command_moves_frames_with_it(self):
        made, latents = network(), torch.randn(2, 1, CONFIG.latent_size)
        motions = self.predict(made, latents)
        assert len(motions) == 2
        output = move(made(*street(13), latents[:1]))
        for motion in motions:
            assert motion.flow_px.shape == (T, 2, 2 * H, 2 * W)
            hidden = (motion.visibility == 0)[:, None].expand_as(motion.flow_px)
            assert (motion.flow_px[hidden] == 0).all()  # read from where it lies
        assert output.visibility.shape == (1, T, H, W)

    def test_a_place_is_to_be_seen_or_not(self):
        """Half visible would mean half of the way: that would be somebody else's colour."""
        made = network()
        made.sways.zero_()
        made.sways[:, :, 1] = 0.05 * torch.arange(1.0, T + 1)  # turns: a side comes into sight
        latents = torch.ones(1, 1, CONFIG.latent_size)
        (motion,) = self.predict(made, latents)
        assert motion.visibility.unique().tolist() == [0, 1]

    def test_no_pixel_goes_half_with_one_thing_and_half_with_what_is_behind(self):
        nearness = wall(0.05)
        nearness[..., 20:28, 30:38] = 0.5
        velocity = torch.zeros(1, 2, H, W)
        velocity[:, 0, 20:28, 30:38] = 10 / (0.5 * FOCAL * W / 2)
        plan = Plan(nearness=nearness, camera=torch.zeros(1, 1, 6), velocity=velocity)
        flow, forward, *_ = see_from(plan, plan.camera, torch.ones(1), scale=1.0, forward_flow=True)
        for across in (-flow[:, 0], forward[:, 0]):
            off = torch.minimum(across.abs(), (across - 10).abs())
            assert off.max() < 0.5
            assert (across > 1).sum() == pytest.approx(8 * 8, rel=0.2)

    def test_a_finer_map_says_where_a_thing_ends(self):
        """A box of 5 fine pixels, in cells of 2, before ground that comes nearer downwards."""
        ground = (torch.arange(8.0) * 0.01 + 0.1)[None, None, :, None].expand(1, 1, 8, 10).clone()
        cells = torch.zeros(1, 1, 8, 10, dtype=torch.long)
        cells[..., 2:5, 3:5] = CAR
        ground[..., 2:5, 3:5] = 0.9
        values = torch.cat([ground, (cells == CAR).float()], 1)
        fine = torch.zeros(1, 1, 16, 20, dtype=torch.long)
        fine[..., 4:9, 6:11] = CAR
        large = enlarge(values, cells, fine)
        car = fine == CAR
        assert torch.equal(large[:, 1:] > 0.5, car)
        assert large[:, :1][car].tolist() == pytest.approx([0.9] * 25)
        rows = (torch.arange(16.0) + 0.5) / 2 - 0.5  # of cells
        beside = large[0, 0, :, 14:]
        wanted = (rows.clamp(0, 7) * 0.01 + 0.1)[:, None].expand_as(beside)
        torch.testing.assert_close(beside, wanted)

    def test_what_the_small_map_has_lost_is_as_near_as_its_cell(self):
        nearness = torch.rand(1, 1, 4, 4)
        cells = torch.zeros(1, 1, 4, 4, dtype=torch.long)
        fine = torch.zeros(1, 1, 8, 8, dtype=torch.long)
        fine[..., 3, 5] = 5  # a pole of one pixel
        large = enlarge(torch.cat([nearness] * 2, 1), cells, fine)
        step = 2 / (FOCAL * 4 / 2)
        assert abs(float(large[0, 0, 3, 5] - nearness[0, 0, 1, 2])) < step + 0.1
        assert torch.equal(large[:, 0], large[:, 1])
        assert enlarge(nearness, cells, cells) is nearness

    @pytest.mark.parametrize("apart", [False, True])
    def test_surfaces_of_one_class_do_not_mix(self, apart):
        nearness = torch.full((1, 1, 32, 64), 0.3)
        nearness[..., 32:] = 0.9 if apart else 0.31
        cells = torch.full((1, 1, 32, 64), CAR)
        fine = cells.repeat_interleave(2, 2).repeat_interleave(2, 3)
        values = set(enlarge(nearness, cells, fine).unique().tolist())
        assert (len(values) == 2) == apart

    def test_the_objects_half_of_a_latent_leaves_the_camera_alone(self):
        """Even where it brakes for objects: what is far from any moves as before."""
        made = network()
        frame, planes = street(2)
        planes[:, :, 20:44, 56:72] = 0
        planes[:, 13, 20:44, 56:72] = 1
        with torch.no_grad():
            made.nearness.bias.fill_(1.5)  # near enough to brake for
        one = torch.randn(1, 1, CONFIG.latent_size)
        other = one.clone()
        other[..., CONFIG.background_latents :] = torch.randn(CONFIG.foreground_latents)
        paths = []
        for latents in (one, other):
            (motion,) = predict_motion(made, frame, planes, latents, downscale=1, compute=CPU)
            paths.append(motion.course.plan)
        assert torch.equal(paths[0].camera, paths[1].camera)
        assert not torch.equal(paths[0].velocity, paths[1].velocity)
        drawn = made.plan(made.encode(frame, planes), one).camera
        assert paths[0].camera[0, -1, 2] < drawn[0, -1, 2]

    def test_half_of_the_way_is_not_the_mean_of_flows(self):
        """A near box goes 10 px a frame: at 1.5 it is seen at 15 px, and nowhere else."""
        nearness = wall(0.05)
        nearness[..., 20:28, 30:38] = 0.5
        velocity = torch.zeros(1, 2, H, W)
        velocity[:, 0, 20:28, 30:38] = 10 / (0.5 * FOCAL * W / 2)
        plan = Plan(nearness=nearness, camera=torch.zeros(1, T, 6), velocity=velocity)
        for times, scale, at in (
            ((1.0,), 1, 40),
            ((1.5,), 1, 45),
            ((1.0,), 0.5, 35),
            ((3.0,), 0, 30),
        ):
            output = move(plan, times=times, scale=scale)
            across = -output.flow[0, 0, 0, 24] * (W - 1) / 2
            assert across[at : at + 8].tolist() == pytest.approx([30 - at] * 8, abs=0.01)
            assert across[:at].abs()[output.visibility[0, 0, 24, :at] > 0].max() < 0.01
            assert across[at + 8 :].abs().max() < 0.01

    def test_other_times_and_distances_are_computed_anew(self):
        made, latents = network(), torch.randn(1, 1, CONFIG.latent_size)
        (motion,) = self.predict(made, latents, downscale=1)
        still = motion.scaled(0)
        assert still.flow_px.abs().max() < 1e-4
        assert still.visibility.min() == 1
        between = [Fraction(1, 2), Fraction(3, 2)]
        plan = made.plan(made.encode(*street(13)), latents)
        focus = made.read(*street(13)).focus
        arc = steer(0.7 * plan.camera[..., 2:], focus)  # a smaller turn, and less to the side
        slower = replace(plan, camera=arc, velocity=0.7 * plan.velocity)
        wanted = move(slower, times=[0.5, 1.5], scale=1)
        found = motion.at(between).scaled(0.7)
        forward = half_images_to_px(wanted.flow_back)[0].transpose(0, 1)
        seen = wanted.visibility_back[0, :, None] > 0
        torch.testing.assert_close(found.forward_flow_px, forward * seen, rtol=0, atol=1e-3)
        assert motion.at([1, 2]).times == (1, 2)
        assert motion.at([1, 2]).scaled(0.5).flow_px.shape == (2, 2, H, W)

    def test_a_path_is_straight_between_its_frames(self):
        camera = torch.tensor([[[1.0] * 6, [3.0] * 6]])
        times = torch.tensor([0.25, 1.0, 1.5, 2.0])
        assert path_at(camera, times)[0, :, 2].tolist() == [0.25, 1.0, 2.0, 3.0]

    @pytest.mark.parametrize(
        "changes", [{"channels": (4, 5)}, {"speeds": 1}, {"num_frames": 0}, {"size_hw": (16, 32)}]
    )
    def test_what_cannot_be_built_is_refused(self, changes):
        with pytest.raises(ValueError, match=r"no ego-flow network|whole 32 pixels"):
            EgoFlow(replace(CONFIG, **changes))


class TestWays:
    def test_one_way_after_another_is_a_way(self):
        generator = torch.Generator().manual_seed(0)
        first = 0.2 * torch.randn(1, 6, generator=generator)
        then = 0.2 * torch.randn(1, T, 6, generator=generator)
        nearness = 0.02 + 0.1 * torch.rand(1, 1, H, W, generator=generator)
        whole = join(first, then)
        # A point, moved by one camera and then by the other.
        flow = camera_flow(nearness, first[:, None])[:, 0]
        middle = 1 / camera_growth(nearness, first[:, None])[:, 0]
        across, down = slopes(H, W)
        points = torch.stack([across, down, torch.ones(H, W)]) / nearness[0]
        one = points.flatten(1) - first[0, :3, None]
        one = _rotation(first[:, 3:])[0] @ one
        torch.testing.assert_close(
            (one[:2] / one[2]).view(2, H, W), flow[0] + torch.stack([across, down])
        )
        assert middle.min() > 0
        seen = camera_flow(nearness, whole)
        for t in range(T):
            two = _rotation(then[0, t, None, 3:])[0] @ (one - then[0, t, :3, None])
            wanted = (two[:2] / two[2]).view(2, H, W) - torch.stack([across, down])
            torch.testing.assert_close(seen[0, t], wanted, rtol=1e-4, atol=1e-5)

    def test_a_camera_sways_back_until_it_is_level(self):
        path = torch.randn(2, T, 4, generator=torch.Generator().manual_seed(0)).cumsum(1)
        assert torch.equal(go_on(path, 0), path)
        back, again = go_on(path, 1), go_on(path, 2)
        steps = [torch.diff(p, dim=1, prepend=torch.zeros(2, 1, 4)) for p in (path, back)]
        torch.testing.assert_close(steps[0][:, -1, 0], steps[1][:, 0, 0])  # no jerk
        torch.testing.assert_close(back[:, -1, 0], path[:, -1, 0])
        torch.testing.assert_close(back[:, -1, 2:], -path[:, -1, 2:])
        torch.testing.assert_close(again[..., [0, 2, 3]], path[..., [0, 2, 3]])

    def test_a_bend_straightens_out(self):
        arc = torch.zeros(1, T, 4)
        arc[..., 1] = 0.02 * torch.arange(1.0, T + 1)
        yaw = torch.cat([go_on(arc, passes)[..., 1].diff(dim=1)[0] for passes in range(1, 9)])
        assert (yaw > 0).all()
        assert (yaw.diff() < 0).all()
        assert yaw[0] == pytest.approx(0.02 * STRAIGHTER**2, rel=1e-4)
        assert yaw[-1] < 0.02 * 0.3

    def memory(self, passes, bend=0.0):
        """Of nothing but how the camera goes on."""
        return Memory(
            nearness=wall(),
            velocity=torch.zeros(1, 2, H, W),
            known=torch.zeros(1, 1, H, W, dtype=torch.bool),
            focus=torch.zeros(1, 2),
            pace=torch.ones(1, 1),
            bend=torch.full((1, 1), bend),
            passes=passes,
        )

    def test_every_other_pass_sways_back(self):
        made, (frame, planes) = network(), street(2)
        latents = torch.randn(1, 1, CONFIG.latent_size)
        drawn = made.plan(made.encode(frame, planes), latents).camera
        for passes in (0, 1, 2):
            memory = self.memory(passes)
            (motion,) = predict_motion(
                made, frame, planes, latents, downscale=1, compute=CPU, memories=[memory]
            )
            assert motion.course.passes == passes
            level = motion.course.plan.camera[0, -1, 4:] * drawn[0, -1, 4:]
            assert ((level < 0) == (passes == 1)).all()

    def test_a_camera_goes_on_turning_as_it_began(self):
        """Whatever the second picture says of the road ahead."""
        made, (frame, planes) = network(), street(2)
        with torch.no_grad():
            made.habit_bias[1] = -2.0
        latents = torch.zeros(1, 1, CONFIG.latent_size)
        memory = self.memory(1, bend=2.0)
        turns = []
        for memories in ([], [memory]):
            (motion,) = predict_motion(
                made, frame, planes, latents, downscale=1, compute=CPU, memories=memories
            )
            turns.append(float(motion.course.plan.camera[0, -1, 3]))
        assert turns[0] < 0 < turns[1]

    def plan(self, away, velocity=0.0, speed=0.5, frames=8):
        camera = cameras(torch.tensor([[0.0, 0, speed, 0, 0, 0]]), frames)
        own = torch.zeros(1, 2, H, W)
        own[:, 1] = velocity
        return Plan(nearness=wall(1 / away), camera=camera, velocity=own)

    def classes(self, train_id, place=np.s_[24:40, 40:56]):
        ids = torch.full((1, 1, H, W), 10)
        ids[0, 0][place] = train_id
        return ids

    def test_a_camera_does_not_run_into_what_is_ahead(self):
        straight = torch.zeros(1, 2)
        for away, wanted in ((100.0, 0.5), (6.0, 0.3), (STOPS_AT, 0.0), (1.0, 0.0)):
            slower = keep_distance(self.plan(away), self.classes(13), straight)
            assert float(slower.camera[0, -1, 2]) == pytest.approx(8 * wanted, abs=1e-4)

    def test_it_follows_a_car_that_drives_along(self):
        plan = self.plan(6.0, velocity=0.4)
        assert keep_distance(plan, self.classes(13), torch.zeros(1, 2)) is plan

    @pytest.mark.parametrize(
        ("train_id", "place"),
        [
            (0, np.s_[24:40, 40:56]),  # road
            (10, np.s_[24:40, 40:56]),  # sky
            (19, np.s_[24:40, 40:56]),  # nothing known
            (13, np.s_[24:40, 80:96]),  # beside the way
            (7, np.s_[0:10, 40:56]),  # above it
            (13, np.s_[30:31, 48:49]),  # a single pixel
        ],
    )
    def test_what_is_not_in_the_way_slows_nobody(self, train_id, place):
        plan = self.plan(6.0)
        assert keep_distance(plan, self.classes(train_id, place), torch.zeros(1, 2)) is plan

    @pytest.mark.parametrize("side", [-1, 1])
    def test_in_a_bend_it_is_the_arc_that_has_to_be_free(self, side):
        plan = self.plan(20.0, speed=1.9)
        turning = plan.camera.clone()
        turning[..., 3] = side * 0.045 * torch.arange(1, 9)  # at 20 it is 4.7 to the side
        turning = replace(plan, camera=turning)
        beside = np.s_[24:40, 86:100] if side > 0 else np.s_[24:40, 28:42]
        ahead, straight = self.classes(13, np.s_[24:40, 60:68]), torch.zeros(1, 2)
        assert keep_distance(turning, ahead, straight) is turning
        assert keep_distance(plan, ahead, straight) is not plan
        assert keep_distance(turning, self.classes(13, beside), straight) is not turning
        assert keep_distance(plan, self.classes(13, beside), straight) is plan

    def test_pixels_around_a_thing_go_with_it(self):
        plan = self.plan(10.0)
        nearness, velocity = plan.nearness.clone(), plan.velocity.clone()
        nearness[..., 24:40, 40:56], velocity[:, 0, 24:40, 40:56] = 0.5, 0.2
        made = take_rims(replace(plan, nearness=nearness, velocity=velocity), self.classes(11))
        px = max(1, round(TAKEN * H))
        wider = np.s_[24 - px : 40 + px, 40 - px : 56 + px]
        assert (made.nearness[0, 0][wider] == 0.5).all()
        assert torch.allclose(made.velocity[0, 0][wider], torch.tensor(0.2))
        above = 23 - px
        assert made.nearness[..., above, 45] == plan.nearness[..., above, 45]
        assert (made.velocity[:, 0, above] == 0).all()

    def test_the_ground_at_the_feet_goes_with_them_and_a_wall_in_front_does_not(self):
        plan = self.plan(10.0)
        nearness, velocity = plan.nearness.clone(), plan.velocity.clone()
        nearness[..., 24:40, 40:56], velocity[:, 0, 24:40, 40:56] = 0.5, 0.2
        px = max(1, round(TAKEN * H))
        nearness[..., 40:, :], nearness[..., 24:40, 56:] = 0.52, 0.7
        made = take_rims(replace(plan, nearness=nearness, velocity=velocity), self.classes(11))
        assert (made.velocity[0, 0, 40 : 40 + px, 40:56] == 0.2).all()
        assert (made.velocity[0, 0, 24:40, 56:] == 0).all()
        assert (made.nearness[0, 0, 24:40, 56:] == 0.7).all()

    @pytest.mark.parametrize("steps", [1, 2, 4])
    def test_what_grows_does_not_tear(self, steps):
        nearness = wall(0.02)
        nearness[..., H // 2 - 4 : H // 2 + 4, W // 2 - 4 : W // 2 + 4] = 0.2
        camera = cameras(torch.tensor([[0.0, 0, 0.9, 0, 0, 0]]), 4)[:, steps - 1 : steps]
        output = see(nearness, camera, torch.zeros(1, 2, H, W), torch.tensor([float(steps)]))
        growth = 1 / (1 - 0.2 * 0.9 * steps)
        half = 4 * growth - 1
        rows = slice(int(H / 2 - half), int(H / 2 + half))
        columns = slice(int(W / 2 - half), int(W / 2 + half))
        assert output.visibility[0, 0, rows, columns].min() == 1
        px = half_images_to_px(output.flow)[0, :, 0, rows, columns]
        x = torch.arange(columns.start, columns.stop) + 0.5 - W / 2
        wanted = (x / growth - x).expand(px.shape[1:])
        assert (px[0] - wanted).abs().max() < 0.6


class TestDrives:
    def test_sways_that_were_measured_are_drawn_again(self):
        torch.manual_seed(0)
        count, frames = 400, 8
        places = torch.linspace(0.03, 0.97, 9)
        speed = 0.2 + 0.6 * torch.rand(count, 1)
        pace = torch.full((count, 1), 0.5)
        nod = torch.randn(count, 1)
        path = straight_on(speed, frames)
        path[..., 1] += 0.05 * torch.randn(count, 1) * torch.arange(1, frames + 1)  # even turns
        path[..., 2] += 0.01 * nod * gain(speed, pace)[:, 0] * torch.arange(1, frames + 1)
        sways, amounts = measure_sways(path, pace, places, sways=5)
        assert amounts.shape == (5, 9)
        way = sways[0, -1, 2].sign()
        most = 2 * nod.abs().median()  # larger ones are brought down to that
        usual = nod.clamp(-most, most)
        drawn = torch.quantile(usual / usual.square().mean().sqrt(), places)
        torch.testing.assert_close((way * amounts[0]).sort().values, drawn, rtol=0.1, atol=0.1)
        assert sways.shape == (5, frames, 4)
        wanted = BELIEVED * 0.01 * usual.std() * torch.arange(1.0, frames + 1)
        torch.testing.assert_close(sways[0, :, 2].abs(), wanted, rtol=0.2, atol=0)
        others = sways.clone()
        others[0, :, 2] = 0
        assert others.abs().max() < 1e-3

    def test_clips_and_their_mirror_images_sway_alike(self):
        torch.manual_seed(0)
        frames = torch.arange(1.0, T + 1)[:, None]
        path = torch.randn(50, 1, 4) * frames + torch.randn(50, 1, 4) * frames**2
        pace, mirrored = torch.ones(50, 1), torch.tensor([1, -1, 1, -1])
        found = [
            measure_sways(each, pace, torch.linspace(0, 1, 3), sways=12)[0]
            for each in (path, path * mirrored)
        ]
        spreads = [(sways**2).sum(0).sqrt() for sways in found]
        torch.testing.assert_close(*spreads, rtol=1e-3, atol=1e-4)
        both = torch.einsum("ktc,ktd->tcd", found[0], found[0])
        assert both[:, 1, 2].abs().max() < 1e-3  # a turn to the side says nothing of one down

    @pytest.mark.parametrize("turn", [-9.0, 0.0, 9.0])
    def test_nobody_takes_a_bend_too_fast(self, turn):
        made, (frame, planes) = network(), street()
        made.sways.zero_()
        made.turns.mul_(2)
        latents = torch.tensor([[0.0, turn, 0, 0]])
        scene = replace(made.read(frame, planes), pace=torch.ones(1, 1))
        speed, camera = made.drive(latents, scene)
        yaw = camera[0, -1, 3] / T
        assert yaw.sign() == math.copysign(1, turn) * (turn != 0)
        assert float(speed) == pytest.approx(
            min(1.1, MOST_ACCELERATION / max(float(yaw.abs()), 1e-6)), rel=1e-4
        )
        assert (float(speed) < 1) == (turn != 0)
        assert yaw.abs() <= FASTEST_TURN * 1.0001
        torch.testing.assert_close(camera[0, -1, 2], T * speed[0, 0])


def test_it_may_be_told_where_every_pixel_is():
    """Then the same house is farther where its foot is higher up."""
    made = EgoFlow(replace(CONFIG, places=True)).eval()
    planes = torch.zeros(2, 20, H, W)
    planes[0, 2, :40], planes[0, 0, 40:] = 1, 1
    planes[1, 2, :50], planes[1, 0, 50:] = 1, 1
    seen = []
    made.encoder[0].register_forward_pre_hook(lambda _, inputs: seen.append(inputs[0]))
    made.read(torch.rand(2, 3, H, W), planes)
    assert seen[0].shape[1] == 3 + 20 + PLACES
    foot = seen[0][:, -2, 10, 10]
    assert foot.tolist() == pytest.approx([2 * 39 / 63 - 1, 2 * 49 / 63 - 1])


def one_hot_planes():
    planes = torch.zeros(2, 20, H, W)
    planes[:, 2, :40], planes[:, 0, 40:] = 1, 1
    return planes


class TestLite:
    """A frozen EfficientNet-Lite0 may read the picture beside it."""

    @pytest.fixture
    def both(self):
        plain = lively(EgoFlow(CONFIG)).eval()
        made = EgoFlow(replace(CONFIG, lite_stages=4)).eval()
        left_out = made.load_state_dict(plain.state_dict(), strict=False)
        assert not left_out.unexpected_keys
        assert {name.split(".")[0] for name in left_out.missing_keys} == {"known", "adapters"}
        return plain, made

    def test_at_first_it_has_no_say(self, both):
        frame, planes = torch.rand(2, 3, H, W), one_hot_planes()
        for one, other in zip(*(network.encode(frame, planes) for network in both), strict=True):
            torch.testing.assert_close(one, other)
        with torch.no_grad():
            both[1].adapters[2].weight.fill_(0.1)
        near = [network.read(frame, planes).nearness for network in both]
        assert not torch.allclose(*near)

    def test_what_it_knows_is_not_trained(self, both):
        network = both[1].train()
        before = {n: t.clone() for n, t in network.known.state_dict().items()}
        network.read(torch.rand(2, 3, H, W), one_hot_planes()).nearness.sum().backward()
        assert not any(p.requires_grad for p in network.known.parameters())
        assert all(torch.equal(t, before[n]) for n, t in network.known.state_dict().items())
        assert all(adapter.weight.grad.abs().sum() > 0 for adapter in network.adapters)
        assert network.encoder[1].training

    def test_it_sees_with_what_labels_the_clips(self):
        config = LiteSegmenterConfig(classes=19, stages=6, channels=(4, 4, 4, 4))
        segmenter = lively(LiteSegmenter(config))
        sight = sight_of(segmenter)
        assert len(sight.stages) == LITE_STAGES
        theirs = segmenter.encoder.state_dict()
        assert all(torch.equal(t, theirs[name]) for name, t in sight.state_dict().items())
        assert sight_of(torch.nn.Identity()) is None

    def test_training_begins_with_one_that_has_none(self, clips):
        shown = collate([clips.draw(0, None)])
        plain = MotionTask(clips, shown, batch=1)
        sight = lively(EfficientNetLite(3))
        task = MotionTask(clips, shown, batch=1, sight=sight, start=plain.network)
        assert task.network.config.lite_stages == 3
        assert torch.equal(task.network.nearness.bias, plain.network.nearness.bias)
        check_motion_start(task.network)
        with pytest.raises(InputError, match="another configuration"):
            MotionTask(clips, shown, batch=1, start=task.network)
        before = deepcopy(task.network.state_dict())
        task.network.nearness.weight.data.add_(0.1)  # a new one says the same of every pixel
        assert all(math.isfinite(value) for value in task.step().values())
        after = task.network.state_dict()
        assert all(torch.equal(after[n], t) for n, t in before.items() if n.startswith("known."))
        assert any(not torch.equal(after[n], t) for n, t in before.items() if "adapters" in n)
        for each in (plain, task):
            each.batches.close()

    @pytest.mark.parametrize("stages", [8, 99])
    def test_there_are_only_so_many_stages(self, stages):
        with pytest.raises(ValueError, match="stages"):
            EgoFlow(replace(CONFIG, lite_stages=stages))


class TestTraining:
    def test_the_slope_of_a_road_is_that_of_a_plane_one_camera_height_below(self):
        nearness = slopes(H, W)[1].clamp_min(0).expand(2, 1, H, W).clone()
        road = torch.zeros(2, 1, H, W)
        road[:, :, 40:, 20:90] = 1
        slope, count, uneven = road_slope(nearness, road)
        torch.testing.assert_close(slope, torch.ones(2))
        assert uneven.max() < 1e-4
        assert count.tolist() == [24 * 70] * 2
        nearness[..., 40, :] = 0  # a dark line at its far end is not worth much
        slope, _, uneven = road_slope(nearness, road)
        assert (slope < 1.15).all()
        assert (uneven > 0.01).all()
        assert (road_slope(nearness, 0 * road)[0] == 0).all()

    def test_a_level_road_would_end_where_the_camera_drives_to(self):
        road = torch.zeros(1, 1, H, W)
        road[:, :, 40:, 20:90] = 1
        focus = torch.tensor([[0.1, 0.05]])
        down = slopes(H, W)[1].expand(1, 1, H, W)
        level = road_level((down - 0.05).clamp_min(0), road, focus)
        torch.testing.assert_close(level, torch.ones(1))
        assert road_level(0.5 * (down - 0.05), road, focus) == pytest.approx(0.5, abs=1e-4)
        assert road_level((down + 0.1).clamp_min(0), road, focus) > 1.5  # same slope, and nearer
        assert road_level(down, 0 * road, focus) == 0

    def test_feet_are_as_near_as_the_ground_they_stand_on(self):
        down = slopes(H, W)[1].expand(1, 1, H, W)
        ground = torch.arange(H)[:, None].expand(1, 1, H, W) >= 40
        classes = torch.where(ground, 0, 2)
        classes[..., 30:40, 60:70] = 13  # cars are known to stand on it
        foot = float(down[0, 0, 40, 0]) - 0.5 / (0.95 * W)
        for times in (1.0, 2.0):
            nearness = torch.where(ground, down, times * foot)
            nearness[..., 30:40, 60:70] = 0.5
            error = feet_error(torch.nn.functional.avg_pool2d(nearness, 2), classes)
            assert float(error) == pytest.approx(math.log(times), abs=1e-3)
        in_the_sky = torch.where(ground, 10, classes)
        assert feet_error(torch.nn.functional.avg_pool2d(nearness, 2), in_the_sky) == 0

    def test_depth_of_stills_is_compared_whatever_its_unit(self):
        near = torch.linspace(0.05, 1, W // 2).expand(2, 1, H // 2, W // 2).clone()
        sure = torch.zeros_like(near)
        sure[..., 10:50] = 1
        stills = StillBatch(
            pictures=torch.zeros(2, 3, H, W),
            planes=torch.zeros(2, 20, H, W),
            nearness=near * torch.tensor([0.2, 7.0]).view(2, 1, 1, 1),
            sure=sure,
            focus=torch.zeros(2, 2),
        )
        full = near.repeat_interleave(2, 2).repeat_interleave(2, 3)
        assert still_error(full, stills) < 1e-5
        full[..., :20] = 1  # nobody knows
        assert still_error(full, stills) < 1e-5
        full[..., 20:40] *= 1.5  # a quarter of what is known
        assert float(still_error(full, stills)) == pytest.approx(math.log(1.5) / 4, abs=1e-4)
        full[..., 20:40] *= 100  # is not worth more than a gross mistake
        assert float(still_error(full, stills)) == pytest.approx(1 / 4, abs=1e-4)
        full.requires_grad_(True)
        still_error(full, stills).backward()
        assert full.grad is not None
        assert full.grad[..., :20].abs().max() == 0

    def test_it_learns_how_near_a_wall_is(self):
        """Two walls side by side, one nearer: from flows alone the network finds which."""
        torch.manual_seed(0)
        made = EgoFlow(CONFIG)
        frame = torch.rand(4, 3, H, W)
        planes = torch.zeros(4, 20, H, W)
        planes[:, 2, :, : W // 2] = planes[:, 8, :, W // 2 :] = 1
        truth = torch.full((4, 1, H // 2, W // 2), 0.05)
        truth[..., W // 4 :] = 0.2
        focus = torch.tensor([[0.5, 0.0], [0.0, 0.25], [0.0, 0.0], [0.05, -0.025]])
        paths = 0.4 * torch.arange(1.0, T + 1)[None, :, None] * torch.tensor([1.0, 0, 0, 0])
        flow = to_px(camera_flow(truth, steer(paths.expand(4, -1, -1), focus)))
        optimizer = torch.optim.Adam(made.parameters(), 3e-3)
        for _ in range(40):
            nearness = torch.nn.functional.avg_pool2d(made.read(frame, planes).nearness, 2)
            path = fit_path(nearness.detach(), flow, torch.ones(4, T, 1, H // 2, W // 2), focus)
            loss = (to_px(camera_flow(nearness, steer(path, focus))) - flow).abs().mean()
            optimizer.zero_grad()
            loss.backward()
            optimizer.step()
        with torch.no_grad():
            nearness = made.eval().read(frame, planes).nearness
        left, right = nearness[..., : W // 2 - 8].mean(), nearness[..., W // 2 + 8 :].mean()
        assert right > 1.5 * left


@pytest.fixture(scope="module")
def clips():
    """A textured wall that slides 2 px to the left with every frame."""
    ids = np.full((12, 128, 256), 2, np.uint8)
    ids[:, 60:100, 100:150] = 13
    drive = DriveClip(name="drive", frames=sliding_wall(12), train_ids=ids)
    return MotionClips([drive], strides=[1], num_frames=8)


class TestClips:
    @pytest.fixture
    def task(self, clips):
        made = MotionTask(clips, collate([clips.draw(0, None)]), batch=2)
        yield made
        made.batches.close()

    def test_a_clip_is_brought_to_another_size(self, clips):
        (drive,) = clips.clips
        small = training_clips.resize_clip(drive, (64, 128))
        assert small.frames.shape == (12, 64, 128, 3)
        assert small.frames.mean() == pytest.approx(drive.frames.mean(), abs=0.5)
        assert (small.train_ids == drive.train_ids[:, ::2, ::2]).mean() > 0.99
        assert set(np.unique(small.train_ids)) == {2, 13}

    def test_a_part_of_a_clip_moves_as_much_faster_as_it_is_enlarged(self, clips, monkeypatch):
        frames, ids, teacher = clips.draw(0, None)
        monkeypatch.setattr(training_clips, "ZOOM", (0.5, 0.5))
        rng = np.random.default_rng(0)
        parts = [training_clips.zoom_clip(frames, ids, teacher, rng) for _ in range(4)]
        for part, part_ids, flow in parts:
            assert part.shape == frames.shape
            assert part_ids.shape == ids.shape
            assert flow.shape == teacher.shape
            assert np.median(flow[2, 0]) == pytest.approx(-12, abs=0.5)
            assert set(np.unique(flow[:, 2])) <= {0, 1}
        assert len({part[0].tobytes() for part, _, _ in parts}) > 1

    def test_what_leaves_the_part_but_not_the_frame_is_known(self, clips, monkeypatch):
        monkeypatch.setattr(training_clips, "ZOOM", (0.5, 0.5))
        rng = np.random.default_rng(0)
        clip = clips.draw(0, None)
        assert clip[2][2, 2, :, :2].max() == 0
        flows = [training_clips.zoom_clip(*clip, rng)[2] for _ in range(9)]
        assert max(flow[2, 2, :, :2].mean() for flow in flows) > 0.9

    def test_a_real_clip_is_followed(self, task, clips):
        batch = collate([clips.draw(0, None)])
        flow, visible = (part[2] for part in task.follow(batch))
        assert flow[0, :, :200].median() == pytest.approx(6, abs=0.5)
        assert flow[1].abs().median() < 0.5
        assert visible[0, 8:-8, :246].mean() > 0.99
        assert visible[0, 8:-8, 252:].mean() < 0.2  # what has come in at the right

    def test_at_the_end_cameras_are_measured(self, task, monkeypatch):
        monkeypatch.setattr(training_motion, "MEASURED_BATCHES", 2)
        before = {name: value.clone() for name, value in task.network.named_parameters()}
        left = np.full((H, W), 8, np.uint8)
        left[:, : W // 2] = 2  # a house to the left, and the road goes to the right
        drives = [
            Observed(train_ids=left if turn > 0 else left[:, ::-1], speed=0.3, turn=0.002 * turn)
            for turn in (-8, 7, -6, 5, -4, 3, -2, 1)
        ]
        asked = []
        monkeypatch.setattr(
            training_motion, "between_stills", lambda matches, _: asked.append(matches) or drives
        )
        task.matches = ["two stills"]
        assert task.network.sways.abs().max() == task.network.turns.abs().max() == 0
        task.finish(task.network)
        assert asked == [task.matches]
        assert task.network.sways.abs().max() > 0
        assert task.network.sways[..., 0].abs().max() == 0  # no changes of speed
        assert task.network.turns.max() > 0.5
        pace, bend = task.network.expect(class_shares(to_planes([left])))
        assert float(pace) == pytest.approx(0.3, rel=0.1)
        assert float(bend) > 1
        assert all(torch.equal(v, before[k]) for k, v in task.network.named_parameters())

    def test_a_flow_on_road_is_not_believed(self):
        ids = np.full((12, 128, 256), 2, np.uint8)
        ids[:, 80:, 101:] = 0
        drive = DriveClip(name="drive", frames=sliding_wall(12), train_ids=ids)
        known = MotionClips([drive], strides=[1], num_frames=8).draw(0, None)[2][:, 2]
        assert known[:, 40:, 50:].max() == 0
        assert known[:2, 4:38, 8:120].mean() > 0.95
        assert known[:2, 44:60, 8:46].mean() > 0.95

    @pytest.mark.parametrize("stills", [0, 3])
    def test_steps_change_network_and_encoder(self, clips, monkeypatch, stills):
        columns = np.linspace(0.1, 1, WORK_HW[1], dtype=np.float32)
        depth = Depth(
            picture=np.full((*WORK_HW, 3), 90, np.uint8),
            train_ids=np.full(WORK_HW, 2, np.uint8),
            nearness=columns * np.ones((WORK_HW[0], 1), np.float32),
            sure=np.ones(WORK_HW, np.bool_),
            focus=np.zeros(2, np.float32),
        )
        monkeypatch.setattr(training_motion, "measure_depth", lambda matches: [depth] * stills)
        task = MotionTask(clips, collate([clips.draw(0, None)]), batch=2)
        both = task.network, task.helpers
        before = [[p.clone() for p in module.parameters()] for module in both]
        for _ in range(2):  # the objects' velocity is 0 at first
            losses = task.step()
            assert all(math.isfinite(value) for value in losses.values())
            assert ({"stills", "focus"} <= losses.keys()) == bool(stills)
        for module, old in zip(both, before, strict=True):
            assert any(not torch.equal(*two) for two in zip(module.parameters(), old, strict=True))
        task.batches.close()


def test_nearness_keeps_its_digits_in_any_format():
    """In bf16 a road would be stairs, and cracks would open between the steps."""
    made, (frame, planes) = network(), street()
    exact = made.read(frame, planes).nearness
    compute = resolve_compute("cpu", "bf16")
    compute.prepare(made)
    with compute.run(made):
        assert (made.read(frame, planes).nearness - exact).abs().max() < 1e-5
    assert {weight.dtype for weight in made.parameters()} == {torch.float32}
