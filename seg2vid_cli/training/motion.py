"""Train the motion network: depth, the camera's path and the objects' own motion from clips.

A classical flow is the teacher. For every clip camera and depth that explain it best are found by
least squares, from the depth that the network sees, see `structure`; how far that is from them,
and what it leaves unexplained, is the network's error. Objects are left out of that, and their own
motion goes through a small conditional VAE. At the end it is measured how cars drive, so that new
cameras can be drawn, see `habits`.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import replace
from typing import Any

import numpy as np
import torch
from PIL import Image
from torch import Tensor, nn
from torch.nn import functional as F

from seg2vid_cli.camera import FOCAL, camera_flow, move, slopes
from seg2vid_cli.device import mixed_precision
from seg2vid_cli.label_sets import NUM_CLASSES
from seg2vid_cli.networks.efficientnet import EfficientNetLite
from seg2vid_cli.networks.ego_flow import (
    EgoFlow,
    EgoFlowConfig,
    Plan,
    Scene,
    class_shares,
    gain,
)
from seg2vid_cli.networks.layers import ConvBlock
from seg2vid_cli.networks.layout import BACKDROP, FLAT, LEAST_FLAT, LEAST_NEARNESS, among
from seg2vid_cli.networks.segmenter import LiteSegmenter
from seg2vid_cli.training import data
from seg2vid_cli.training.clips import (
    FPS,
    NUM_FRAMES,
    WORK_HW,
    MotionBatch,
    MotionClips,
    collate,
)
from seg2vid_cli.training.habits import Observed, between_stills, is_drive, learn_habits
from seg2vid_cli.training.loop import check_start, grid_picture
from seg2vid_cli.training.losses import (
    dissimilarity,
    edge_aware_smoothness,
    kl_to_normal,
    masked_mean,
)
from seg2vid_cli.training.scenes import MixedClips
from seg2vid_cli.training.stereo import Match, StereoStills, StillBatch, measure_depth
from seg2vid_cli.training.structure import (
    Found,
    find_camera,
    length,
    mean_speed,
    mean_turn,
    to_px,
    weighted_median,
    without_unit,
)
from seg2vid_cli.visualize import flow_to_colour
from seg2vid_cli.warp import backward_warp, half_images_to_px

MOTION = EgoFlowConfig(
    size_hw=WORK_HW,
    image_channels=3,
    label_planes=NUM_CLASSES,
    num_frames=NUM_FRAMES,
    channels=(24, 40, 64, 96, 128),
    full_channels=16,
    background_latents=16,
    foreground_latents=16,
    latent_channels=16,
    speeds=33,
    places=True,
)

LITE_STAGES = 5  # down to a sixteenth, a quarter of all weights
PHOTOMETRIC_WEIGHT = 0.3
SMOOTH_WEIGHT = 0.03
SLOPE_WEIGHT = 0.5
LEVEL_WEIGHT = 1.0
STILLS_WEIGHT = 3.0
FOCUS_WEIGHT = 5.0
MOST_WRONG = 1.0  # natural logarithm: beyond, the place was mistaken for another one
LEAST_DROP = 0.03  # slope from where the camera drives to down to the middle of the road
PLANE_WEIGHT = 1.0
LEAST = 0.05
ENOUGH = 0.05  # share of the pixels of a frame
DEPTH_WEIGHT = 2.0
FEET_WEIGHT = 1.0
FAR_FOOT = 0.03  # nearness: of farther feet a row is too much
OBJECT_WEIGHT = 0.6
USUAL_WEIGHT = 0.2
KL_WEIGHT = 3e-3
FAST = 0.075  # a pixel of error in a flow of so many (one over it) counts half
PARKED_PX = 4.0  # error of what may move by itself that still teaches depth
RUNAWAY_PX = 16.0  # an error of objects of so many pixels counts half

MEASURED_BATCHES = 60
ROLL = 0.35  # of a turn to the side of so much: how far it moves what is seen, on average
UNUSUAL = 2.0  # times the median size: larger sways are brought down to that
UNDERSTOOD = 0.8  # share of the clips whose camera is believed
BELIEVED = 0.5  # of the size of sways: what is found wavers by itself
TRIMMED = 0.05  # share of either end that is not drawn again: sharper bends cannot be painted


def sight_of(segmenter: nn.Module) -> EfficientNetLite | None:
    """The stages of a segmentation network that the motion network sees with, too.

    Args:
        segmenter: Any.

    Returns:
        A copy; None where it does not read by EfficientNet-Lite0.
    """
    if not isinstance(segmenter, LiteSegmenter):
        return None
    sight = EfficientNetLite(min(LITE_STAGES, len(segmenter.encoder.stages)))
    theirs = segmenter.encoder.state_dict()
    sight.load_state_dict({name: theirs[name] for name in sight.state_dict()})
    return sight


def check_motion_start(start: nn.Module) -> None:
    """Make sure that a trained network can be begun with.

    Raises:
        InputError: It has another configuration.
    """
    stages = getattr(start.config, "lite_stages", 0)
    check_start(start, EgoFlow(replace(MOTION, lite_stages=stages)))


class ObjectEncoder(nn.Module):
    """How objects moved in a real clip, to mean and log variance of the foreground latent."""

    def __init__(self, config: EgoFlowConfig) -> None:
        super().__init__()
        height, width = (side // 32 for side in config.size_hw)
        self.layers = nn.Sequential(
            ConvBlock(5, 16, kernel=4, stride=2, norm=False),
            ConvBlock(16, 32, kernel=4, stride=2, bias=False),
            ConvBlock(32, 32, kernel=4, stride=2, bias=False),
            ConvBlock(32, 32, kernel=4, stride=2, bias=False),
            nn.Flatten(),
        )
        self.out = nn.Linear(32 * height * width, 2 * config.foreground_latents)

    def forward(self, left_over: Tensor, objects: Tensor) -> tuple[Tensor, Tensor]:
        """Left-over flows `(B, T, 2, H/2, W/2)` in pixels, objects `(B, 1, H/2, W/2)`."""
        frames = left_over[:, [left_over.shape[1] // 2 - 1, -1]].flatten(1, 2) * objects
        mean, log_variance = self.out(self.layers(torch.cat([frames / 4, objects], 1))).chunk(2, 1)
        return mean.float(), log_variance.float().clamp(-8, 4)


class MotionTask:
    """Motion network with an encoder for the objects' part of the latent.

    Args:
        clips: Training clips with teacher flows, real or mixed with moved stills.
        held_out: Clips for the sample sheet.
        seed: Of weights, augmentation and latents.
        batch: Clips per step.
        device: Where to train.
        matches: Labelled pictures that drives took in a row, see `match_stills`.
        sight: What reads pictures beside the network, see `sight_of`; it is not trained.
        start: The trained network that this one begins with, if any; one without sight does.

    Raises:
        InputError: `start` has another configuration.
    """

    name = "motion"
    learning_rate = 2e-3

    def __init__(
        self,
        clips: MotionClips | MixedClips,
        held_out: MotionBatch,
        *,
        seed: int = 0,
        batch: int = 8,
        device: str = "cpu",
        matches: Sequence[Match] = (),
        sight: EfficientNetLite | None = None,
        start: nn.Module | None = None,
    ) -> None:
        torch.manual_seed(seed)
        self.device, self.matches = torch.device(device), matches
        self.held_out = held_out.to(self.device)
        network = EgoFlow(replace(MOTION, lite_stages=0 if sight is None else len(sight.stages)))
        if network.known is not None and sight is not None:
            network.known.load_state_dict(sight.state_dict())
        if start is not None:
            check_start(start, network, may_lack=("known.", "adapters."))
            network.load_state_dict(start.state_dict(), strict=False)
        self.network: nn.Module = network.to(self.device)
        self.network.to(memory_format=torch.channels_last)  # type: ignore[call-overload]
        self.helpers = nn.ModuleDict({"objects": ObjectEncoder(MOTION)}).to(self.device)
        everything = [*self.network.parameters(), *self.helpers.parameters()]
        self.optimizers: dict[str, torch.optim.Optimizer] = {
            "network": torch.optim.Adam(everything, self.learning_rate)
        }
        self.progress = 0.0
        self.settings: Mapping[str, Any] = {}
        self.real, self.batch = clips.clips if isinstance(clips, MixedClips) else clips, batch
        depths = measure_depth(matches)
        stills = StereoStills(depths) if depths else None

        def draw(rng: np.random.Generator) -> tuple[MotionBatch, StillBatch | None]:
            return clips.batch(rng, batch), stills.batch(rng, batch) if stills else None

        self.batches = data.prefetch(draw, seed)

    def step(self) -> Mapping[str, float]:
        """One step on a batch of clips."""
        batch, stills = next(self.batches)
        batch = batch.to(self.device)
        self.network.train()
        self.helpers.train()
        pictures, planes = batch.frames[:, 0], batch.planes
        if stills is not None:  # one after the other, norms would see other pictures each time
            stills = stills.to(self.device)
            pictures = torch.cat([pictures, stills.pictures])
            planes = torch.cat([planes, stills.planes])
        with mixed_precision(self.device):
            seen = self.network.read(pictures, planes)  # type: ignore[operator]
        scene = seen.rows(slice(len(batch.planes)))
        found = find_camera(scene, batch)
        parts = depth_losses(batch, found) | shape_losses(seen, pictures, planes)
        if stills is not None:
            those = seen.rows(slice(len(batch.planes), None))
            parts["stills"] = still_error(those.nearness, stills)
            parts["focus"] = (those.focus - stills.focus).abs().mean()
        left_over = (batch.flow_px - found.flow_px).detach() * batch.known
        with mixed_precision(self.device):
            mean, log_variance = self.helpers["objects"](left_over, found.objects)
            latents = mean + torch.randn_like(mean) * (0.5 * log_variance).exp()
        # Without being told, objects are to move as they usually do in such a place.
        parts["objects"] = self._objects_error(latents, batch, scene, found)
        parts["usual"] = self._objects_error(torch.zeros_like(latents), batch, scene, found)
        parts["kl"] = kl_to_normal(mean, log_variance)
        loss = (
            parts["teacher"]
            + DEPTH_WEIGHT * parts["depth"]
            + FEET_WEIGHT * parts["feet"]
            + PHOTOMETRIC_WEIGHT * parts["photometric"]
            + SMOOTH_WEIGHT * parts["smooth"]
            + SLOPE_WEIGHT * parts["slope"]
            + LEVEL_WEIGHT * parts["level"]
            + PLANE_WEIGHT * parts["plane"]
            + OBJECT_WEIGHT * parts["objects"]
            + USUAL_WEIGHT * parts["usual"]
            + KL_WEIGHT * min(3 * self.progress, 1.0) * parts["kl"]
            + STILLS_WEIGHT * parts.get("stills", 0.0)
            + FOCUS_WEIGHT * parts.get("focus", 0.0)
        )
        self.optimizers["network"].zero_grad()
        loss.backward()
        nn.utils.clip_grad_norm_(self.network.parameters(), 1.0)
        self.optimizers["network"].step()
        return {"loss": loss.item(), **{name: value.item() for name, value in parts.items()}}

    def _objects_error(
        self, latents: Tensor, batch: MotionBatch, scene: Scene, found: Found
    ) -> Tensor:
        """How far objects are from where the teacher sees them, less where they are far off."""
        with mixed_precision(self.device):
            velocity = self.network.own_velocity(  # type: ignore[operator]
                scene, mean_speed(found.path), latents
            )
        near, camera = found.nearness.detach(), found.camera.detach()
        moved_px = to_px(camera_flow(near, camera, F.avg_pool2d(velocity, 2)))
        error = length(moved_px - batch.flow_px)
        # A car thought to be parked is far off, and still learns.
        error = error / (1 + error / RUNAWAY_PX) / 2
        where = batch.known * found.objects[:, None]
        return masked_mean(error, where / (1 + FAST * length(batch.flow_px)))

    @torch.no_grad()
    def finish(self, network: nn.Module) -> None:
        """Measure how cars drive in real clips and between stills, so that `network` can draw new
        cameras.
        """
        assert isinstance(network, EgoFlow)
        network.eval()
        rng = np.random.default_rng(0)
        cut = (self.real.batch(rng, self.batch) for _ in range(MEASURED_BATCHES))
        path, shares, good = self._find(network, cut)
        places = torch.linspace(TRIMMED, 1 - TRIMMED, network.config.speeds, device=self.device)
        if observed := self._watch(network):
            for name, value in vars(learn_habits(observed, places.cpu())).items():
                getattr(network, name).copy_(value)
        if good.any():
            pace, _ = network.expect(shares[good])
            sways, amounts = measure_sways(path[good], pace, places, sways=len(network.sways))
            network.sways.copy_(sways)
            network.amounts.copy_(amounts)

    def _watch(self, network: EgoFlow) -> list[Observed]:
        """How cars drove: between stills, and about once in every second of the real clips."""
        observed = between_stills(self.matches, network)
        clips = self.real
        rows = [r for r, (c, s) in enumerate(clips.starts) if not s % int(FPS * clips.strides[c])]
        drawn = [clips.draw(row, None) for row in rows]
        path, _, good = self._find(network, (collate([clip]) for clip in drawn))
        for row, (_, ids, _), understood, *found in zip(
            rows, drawn, good, mean_speed(path), mean_turn(path), strict=True
        ):
            speed, turn = (float(value) for value in found)
            if understood and is_drive(speed, turn):
                drive = clips.clips[clips.starts[row][0]].name
                observed.append(Observed(train_ids=ids, speed=speed, turn=turn, drive=drive))
        return observed

    def _find(
        self, network: EgoFlow, batches: Iterable[MotionBatch]
    ) -> tuple[Tensor, Tensor, Tensor]:
        """The cameras of clips: paths `(N, T, 4)`, class shares `(N, F)`, and whether they explain
        what the teacher sees, `(N,)`.
        """
        measured: list[tuple[Tensor, ...]] = []
        for batch in (batch.to(self.device) for batch in batches):
            found = find_camera(network.read(batch.frames[:, 0], batch.planes), batch)
            still = found.still
            missed = length(found.flow_px - batch.flow_px) / (1 + FAST * length(batch.flow_px))
            error = (missed * still).flatten(1).sum(1) / still.flatten(1).sum(1).clamp_min(1)
            measured.append((found.path, class_shares(batch.planes), error, enough(still).all(1)))
        path, shares, error, seen = (torch.cat(parts) for parts in zip(*measured, strict=True))
        good = seen & (error <= error[seen].quantile(UNDERSTOOD)) if seen.any() else seen
        return path, shares, good

    @torch.no_grad()
    def follow(self, batch: MotionBatch) -> tuple[Tensor, Tensor]:
        """Move the first frames of real clips as these moved, with the objects' mean latents.

        Returns:
            Where later frames' pixels come from, `(B * T, 2, H, W)` in pixels, and visibility
            `(B * T, 1, H, W)`.
        """
        network = self.network
        assert isinstance(network, EgoFlow)
        scene = network.read(batch.frames[:, 0], batch.planes)
        found = find_camera(scene, batch)
        left_over = (batch.flow_px - found.flow_px) * batch.known
        mean, _ = self.helpers["objects"](left_over, found.objects)
        velocity = network.own_velocity(scene, mean_speed(found.path), mean)
        output = move(Plan(nearness=scene.nearness, camera=found.camera, velocity=velocity))
        flow_px = half_images_to_px(output.flow).transpose(1, 2)
        return flow_px.flatten(0, 1), output.visibility.flatten(0, 1)[:, None]

    @torch.no_grad()
    def sample_sheet(self, network: nn.Module) -> Image.Image:
        """Two samples a clip: first and last real frame, warped frame, flow, what is visible and
        how near everything is.
        """
        assert isinstance(network, EgoFlow)
        network.eval()
        generator = torch.Generator().manual_seed(1)
        rows, batch = [], self.held_out
        encoded = network.encode(batch.frames[:, 0], batch.planes)
        for _ in range(2):
            latents = torch.randn(
                (len(batch.frames), 1, MOTION.latent_size), generator=generator
            ).to(self.device)
            output = move(network.plan(encoded, latents))
            flow_px = half_images_to_px(output.flow)[:, :, -1]
            warped = backward_warp(batch.frames[:, 0], flow_px)
            for b in range(len(latents)):
                seen = output.visibility[b, -1:]
                colours = torch.from_numpy(flow_to_colour(flow_px[b].cpu().numpy(), max_px=24.0))
                near = encoded[0][b] / encoded[0][b].amax()
                rows.append(
                    [
                        batch.frames[b, 0],
                        batch.frames[b, -1],
                        warped[b] * seen,
                        colours.permute(2, 0, 1) / 255,
                        seen.expand(3, -1, -1),
                        near.sqrt().expand(3, -1, -1),
                    ]
                )
        return grid_picture(rows)


def depth_losses(batch: MotionBatch, found: Found) -> dict[str, Tensor]:
    """Losses of how camera and depth explain clips, unweighted."""
    flow_px = found.flow_px
    error = length(flow_px - batch.flow_px)
    may_move = found.objects[:, None] >= 0.5
    error = torch.where(may_move, error.clamp(max=PARKED_PX) / 2, error) / 2
    teacher = masked_mean(error, batch.known / (1 + FAST * length(batch.flow_px)))

    first, count = batch.frames[:, 0], flow_px.shape[1]
    later = int(torch.randint(count // 4, count, ()))
    full_px = F.interpolate(
        flow_px[:, later], scale_factor=2.0, mode="bilinear", align_corners=False
    )
    looks = dissimilarity(backward_warp(batch.frames[:, later + 1], full_px), first)
    inside = backward_warp(torch.ones_like(first[:, :1]), full_px.detach()) > 0.99
    seen = F.interpolate(found.still[:, later], scale_factor=2.0) * inside
    wrong = (found.nearness.clamp_min(LEAST_NEARNESS).log() - found.explained.log()).abs()
    return {
        "teacher": teacher,
        "depth": masked_mean(wrong, found.sure),
        "photometric": masked_mean(looks, seen),
    }


def shape_losses(scene: Scene, pictures: Tensor, planes: Tensor) -> dict[str, Tensor]:
    """Losses of what labels say about depth, unweighted.

    Args:
        scene: Read from these pictures.
        pictures: `(B, 3, H, W)` in [0, 1].
        planes: `(B, 20, H, W)` label planes.
    """
    # The unit of distance is the camera's height: then road comes nearer by as much as it lies
    # lower in the picture, and would end where the camera drives to.
    road = planes[:, :1]
    slope, count_px, unevenness = road_slope(scene.nearness, road)
    has_road = (count_px > LEAST_FLAT * road[0].numel()).float()
    level = road_level(scene.nearness, road, scene.focus.detach())
    relative = scene.nearness / scene.nearness.detach().mean((1, 2, 3), keepdim=True)
    small = without_unit(F.avg_pool2d(scene.nearness, 2))
    return {
        "feet": feet_error(small, scene.classes),
        "smooth": edge_aware_smoothness((relative + 0.3).log(), pictures),
        "slope": (_far_from_one(slope) * has_road).mean(),
        "level": (_far_from_one(level) * has_road).mean(),
        "plane": (unevenness * has_road).mean(),
    }


def still_error(nearness: Tensor, stills: StillBatch) -> Tensor:
    """How far depth is from that of stills, whose units are their own: a ratio's mean logarithm.

    Args:
        nearness: `(B, 1, H, W)`, of their pictures.
        stills: With the depth of some places.
    """
    near = F.avg_pool2d(nearness, 2).clamp_min(LEAST_NEARNESS).log()
    apart = near - stills.nearness.log()
    unit = weighted_median(apart.detach(), stills.sure)
    wrong = (apart - unit.view(-1, 1, 1, 1)).abs().clamp(max=MOST_WRONG)
    return masked_mean(wrong, stills.sure)


def feet_error(nearness: Tensor, classes: Tensor) -> Tensor:
    """How far houses and plants are from standing on the ground: the mean of a ratio's logarithm.

    Flows say nothing of the unit of distance, and a classical one nothing of the road, whose slope
    says it. So the two have to be tied to each other.

    Args:
        nearness: `(B, 1, H/2, W/2)`.
        classes: `(B, 1, H, W)`, see `Scene`.
    """
    small = classes[..., ::2, ::2]
    stands, ground = (among(small, kind) for kind in (BACKDROP, FLAT))
    row = 2 / (FOCAL * small.shape[-1])  # by so much the ground comes nearer
    there = nearness[..., 2:, :] - 1.5 * row
    foot = stands[..., :-2, :] & ground[..., 1:-1, :] & ground[..., 2:, :] & (there > FAR_FOOT)
    apart = (nearness[..., :-2, :].clamp_min(LEAST_NEARNESS) / there.clamp_min(FAR_FOOT)).log()
    return masked_mean(apart.abs(), foot.to(apart.dtype))


def road_slope(nearness: Tensor, road: Tensor) -> tuple[Tensor, Tensor, Tensor]:
    """By how much nearness grows per slope down on road, by least squares.

    Args:
        nearness: `(B, 1, H, W)`.
        road: `(B, 1, H, W)`, 1 on road.

    Returns:
        That, the road's size in pixels, and how far it is from a plane as a share of its mean; all
        `(B,)`.
    """
    height, width = road.shape[-2:]
    count = road.sum((1, 2, 3))
    down = slopes(height, width, road.device)[1]
    middle, mean = (
        ((value * road).sum((1, 2, 3)) / count.clamp_min(1)).view(-1, 1, 1, 1)
        for value in (down, nearness)
    )
    both = ((down - middle) * (nearness - mean) * road).sum((1, 2, 3))
    own = ((down - middle).square() * road).sum((1, 2, 3))
    slope = both / own.clamp_min(1e-6)
    plane = mean + slope.view(-1, 1, 1, 1) * (down - middle)
    uneven = ((nearness - plane).abs() * road).sum((1, 2, 3)) / count.clamp_min(1)
    return slope, count, uneven / mean.detach().flatten().clamp_min(1e-3)


def road_level(nearness: Tensor, road: Tensor, focus: Tensor) -> Tensor:
    """How near road is, as a share of a level one's nearness, `(B,)`.

    Args:
        nearness: `(B, 1, H, W)`.
        road: `(B, 1, H, W)`, 1 on road.
        focus: `(B, 2)`, see `Scene`.
    """
    count = road.sum((1, 2, 3)).clamp_min(1)
    down = (slopes(road.shape[-2], road.shape[-1], road.device)[1] * road).sum((1, 2, 3)) / count
    drop = (down - focus[:, 1]).clamp_min(LEAST_DROP)
    out: Tensor = (nearness * road).sum((1, 2, 3)) / count / drop
    return out


def enough(known: Tensor) -> Tensor:
    """Whether frames `(B, T, 1, H, W)` have enough known pixels to find a camera, `(B, T)`."""
    return known.mean((2, 3, 4)) > ENOUGH


def measure_sways(
    path: Tensor, pace: Tensor, places: Tensor, *, sways: int
) -> tuple[Tensor, Tensor]:
    """How paths of real clips leave an even arc, to what new ones are drawn from.

    Args:
        path: `(N, T, 4)`, see `steer`.
        pace: `(N, 1)`, how fast they were expected to be.
        places: `(K,)` in [0, 1], which quantiles to return.
        sways: L.

    Returns:
        The L main ways in which they do, `(L, T, 4)`, each times what is believed of its standard
        deviation; and quantiles of how much, `(L, K)`.
    """
    num_frames = path.shape[1]
    frames = torch.arange(1.0, num_frames + 1, device=path.device)
    # Not of the way ahead: a classical flow falls behind what moves far, and cameras that are found
    # seem to brake.
    rest = path[..., 1:].clone()
    rest[..., 0] -= mean_turn(path) * frames
    rest = rest / gain(mean_speed(path).clamp_min(0), pace)
    # Left and right are alike: a mirrored clip turns and rolls the other way.
    rest = torch.cat([rest, rest * rest.new_tensor([-1, 1, -1])])
    weight = rest.new_tensor([1.0, 1.0, ROLL])
    rows = (rest * weight).flatten(1)
    size = rows.norm(dim=1, keepdim=True)
    rows = rows * (UNUSUAL * size.median() / size.clamp_min(1e-9)).clamp(max=1.0)
    amount, deviation, ways = torch.linalg.svd(rows, full_matrices=False)
    found = min(sways, len(ways))
    deviation = BELIEVED * deviation / len(rows) ** 0.5
    out = rest.new_zeros(sways, num_frames, 4)
    main = (deviation[:found, None] * ways[:found]).view(found, num_frames, 3)
    out[:found, :, 1:] = main / weight
    amounts = rest.new_zeros(sways, len(places))
    amounts[:found] = torch.quantile(amount[:, :found] * len(rows) ** 0.5, places, dim=0).T
    return out, amounts


def _far_from_one(values: Tensor) -> Tensor:
    """Size of the logarithm, which goes on straight from `LEAST` down."""
    above = values.clamp_min(LEAST)
    return above.log().abs() + (above - values) / LEAST
