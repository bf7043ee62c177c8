"""First frame, label planes and a latent to how near everything is and how it moves.

What a camera then sees, and what hides what, is geometry; see `seg2vid_cli.camera`. The background
part of the latent is the camera's path, the foreground part the objects' motion.

Flow out of depth and camera motion as in "Unsupervised Learning of Depth and Ego-Motion from Video"
(Zhou et al., CVPR 2017); the two parts of the latent as in the paper of `seg2vid_flow`.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass, replace

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from seg2vid_cli.networks.layers import ConvBlock

ENCODER_LEVELS = 5
EIGHTH = 2  # of the encoder's features, the one that objects are read from
NEARNESS_SCALE = 0.1
FOCUS_SCALE = 0.3  # slope of one unit: where the camera drives to, from the middle
USUAL_PACE = 0.4  # camera heights per frame, about 30 km/h at 15 frames per second
PACES = 3.0  # natural logarithm of how far from that it may be
SLOW = 0.25  # of the usual speed: what sways even a standing camera
RIM = 2  # pixels at the border where the network sees too little

# Of the 20 planes.
OBJECTS = slice(11, 19)
UPRIGHT = (5, 6, 7, *range(11, 19))  # poles, lights, signs and objects
SINGLE = [n for n, c in enumerate(UPRIGHT) if not 13 <= c <= 16]  # all but vehicles
GROUND = (0, 1, 9)
SKY = 10
NO_CLASS = 19
FOOT_PX = 2  # below a thing the ground is really seen
BESIDE_PX = 4
WIDEST_PX = 24  # from a foot to what stands on it
RIM_STEP = 1.1  # times nearer than what is beside it: a thing before it
ROW_STEP = 1.25  # how many times nearer a part of a vehicle may be than the ground below it says
LEVELLED = 2  # times that neighbours in a thing come nearer to each other
FIXED_POINT = 2**24


@dataclass(frozen=True, kw_only=True)
class EgoFlowConfig:
    """Everything that a checkpoint decides.

    Args:
        size_hw: Height and width it was trained at; multiples of 32.
        image_channels: 3 for RGB.
        label_planes: One-hot planes it reads.
        num_frames: T, the frames predicted in one pass.
        channels: Encoder widths at 1/2, 1/4, 1/8, 1/16 and 1/32 of the size.
        full_channels: Width at full size.
        background_latents: Length of the camera's part of the latent: speed, then sway.
        foreground_latents: Length of the objects' part.
        latent_channels: Channels of the map that the objects' part becomes.
        speeds: How many quantiles of the speed are kept.
    """

    size_hw: tuple[int, int]
    image_channels: int
    label_planes: int
    num_frames: int
    channels: tuple[int, int, int, int, int]
    full_channels: int
    background_latents: int
    foreground_latents: int
    latent_channels: int
    speeds: int

    @property
    def latent_size(self) -> int:
        """Length of one latent, background part first."""
        return self.background_latents + self.foreground_latents

    @property
    def latent_rows(self) -> int:
        """One row per clip."""
        return 1


@dataclass(frozen=True, kw_only=True)
class Scene:
    """What the network reads off a picture.

    Args:
        nearness: `(B, 1, H, W)`, one over the distance, in camera heights; 0 = as far as the sky.
        focus: `(B, 2)`, slopes right and down of the direction that the camera drives in.
        pace: `(B, 1)`, usual speed in such a place, camera heights per frame.
        features: `(B, C, H/8, W/8)`, for the objects.
        objects: `(B, 1, H, W)` in [0, 1], share of object classes.
        classes: `(B, 1, H, W)`, the class that has the largest share.
    """

    nearness: Tensor
    focus: Tensor
    pace: Tensor
    features: Tensor
    objects: Tensor
    classes: Tensor

    @classmethod
    def of(cls, encoded: Sequence[Tensor]) -> Scene:
        """From its fields in order, as `EgoFlow.encode` gives them."""
        return cls(**dict(zip(cls.__dataclass_fields__, encoded, strict=True)))


@dataclass(frozen=True, kw_only=True)
class Plan:
    """How camera and objects move through a picture.

    Args:
        nearness: `(B, 1, H, W)`, see `Scene`.
        camera: `(B, T, 6)`: the camera's shift right, down and ahead since the first frame, in
            camera heights, and its turns to the right, down and clockwise, in radians.
        velocity: `(B, 2, H, W)`, own motion of the places right and ahead, in camera heights per
            frame.
    """

    nearness: Tensor
    camera: Tensor
    velocity: Tensor

    def row(self, row: int) -> Plan:
        """That of one picture."""
        return Plan(**{name: value[row : row + 1] for name, value in vars(self).items()})


class UpBlock(nn.Module):
    """Twice the size, beside the encoder's features of that size, through one block."""

    def __init__(self, in_channels: int, skip_channels: int, out_channels: int) -> None:
        super().__init__()
        self.block = ConvBlock(in_channels + skip_channels, out_channels, bias=False)

    def forward(self, x: Tensor, skip: Tensor) -> Tensor:
        """`(B, in, H, W)` and `(B, skip, 2H, 2W)` to `(B, out, 2H, 2W)`."""
        x = F.interpolate(x, scale_factor=2.0, mode="bilinear", align_corners=False)
        out: Tensor = self.block(torch.cat([x, skip], dim=1))
        return out


class EgoFlow(nn.Module):
    """Predict motion from a picture, its labels and a latent, by way of depth."""

    multiple = 32
    precise = True  # steps in nearness would be steps in the flow

    def __init__(self, config: EgoFlowConfig) -> None:
        super().__init__()
        self.config = config
        if len(config.channels) != ENCODER_LEVELS or config.speeds < 2 or not config.num_frames:
            raise ValueError(f"{config} is no ego-flow network")
        if any(side % self.multiple or not side for side in config.size_hw):
            raise ValueError(f"size {config.size_hw} is not in whole {self.multiple} pixels")
        inputs = config.image_channels + config.label_planes
        widths = config.channels
        before = (inputs, *widths[:-1])
        self.encoder = nn.ModuleList(
            [
                ConvBlock(i, o, kernel=4, stride=2, norm=level > 0, bias=level == 0)
                for level, (i, o) in enumerate(zip(before, widths, strict=True))
            ]
        )
        self.middle = ConvBlock(widths[-1], widths[-1], bias=False)
        self.up_blocks = nn.ModuleList(
            [
                UpBlock(widths[k], widths[k - 1], widths[k - 1])
                for k in range(len(widths) - 1, 0, -1)
            ]
        )
        self.last = UpBlock(widths[0], inputs, config.full_channels)
        self.nearness = nn.Conv2d(config.full_channels, 1, 3, padding=1)
        self.way = nn.Linear(widths[-1], 3)

        height, width = (side // self.multiple for side in config.size_hw)
        self.latent_fc = nn.Linear(
            config.foreground_latents, config.latent_channels * height * width
        )
        self.object_blocks = nn.Sequential(
            ConvBlock(widths[EIGHTH] + config.latent_channels + 1, widths[EIGHTH], bias=False),
            ConvBlock(widths[EIGHTH], widths[EIGHTH], bias=False),
        )
        self.velocity = nn.Conv2d(widths[EIGHTH], 2, 3, padding=1)

        # How real cameras move, measured after training: quantiles of the speed; by what they leave
        # the straight even path, in shifts and turns of each frame; and quantiles of how much. Most
        # drive straight on most of the time, so that is no normal distribution.
        sways = config.background_latents - 1
        self.register_buffer("speeds", torch.linspace(0, 1, config.speeds))
        self.register_buffer("sways", torch.zeros(sways, config.num_frames, 6))
        self.register_buffer("amounts", torch.zeros(sways, config.speeds))
        for layer in (self.nearness, self.way, self.velocity):
            nn.init.zeros_(layer.weight)
            assert layer.bias is not None
            nn.init.zeros_(layer.bias)

    speeds: Tensor
    sways: Tensor
    amounts: Tensor

    def forward(self, frame: Tensor, planes: Tensor, latents: Tensor) -> Plan:
        """Predict how camera and objects move through a picture.

        Args:
            frame: `(B, C, H, W)` in [0, 1]; H and W multiples of 32.
            planes: `(B, K, H, W)` label planes, one-hot or warped (fractional).
            latents: `(B, 1, latent_size)`.

        Returns:
            What `seg2vid_cli.camera.move` makes flows of.
        """
        return self.plan(self.encode(frame, planes), latents)

    def encode(self, frame: Tensor, planes: Tensor) -> list[Tensor]:
        """Read pictures and labels, as in `forward`.

        Returns:
            The fields of a `Scene`.
        """
        return list(vars(self.read(frame, planes)).values())

    def read(self, frame: Tensor, planes: Tensor) -> Scene:
        """Read pictures and labels, as in `forward`."""
        inputs = torch.cat([frame, planes], dim=1)
        skips, x = [], inputs
        for layer in self.encoder:
            x = layer(x)
            skips.append(x)
        x = self.middle(x)
        focus, pace = self.way(x.mean((2, 3))).split([2, 1], dim=-1)
        features = x
        for up, skip in zip(self.up_blocks, skips[-2::-1], strict=True):
            x = up(x, skip)
            if skip is skips[EIGHTH]:
                features = x
        nearness = NEARNESS_SCALE * F.softplus(self.nearness(self.last(x, inputs)).float())
        nearness = F.pad(nearness[..., RIM:-RIM, RIM:-RIM], (RIM,) * 4, mode="replicate")
        classes = planes.argmax(1, keepdim=True)
        nearness = stand_upright(put_on_ground(nearness, classes), classes)
        objects = planes[:, OBJECTS].sum(1, keepdim=True).float()
        return Scene(
            nearness=nearness,
            focus=FOCUS_SCALE * focus,
            pace=USUAL_PACE * pace.clamp(-PACES, PACES).exp(),
            features=features,
            objects=objects,
            classes=classes,
        )

    def plan(self, encoded: Sequence[Tensor], latents: Tensor) -> Plan:
        """Predict motion from what `encode` gave.

        Args:
            encoded: The fields of a `Scene`, of B pictures or of one for all latents.
            latents: `(B, 1, latent_size)`.
        """
        scene = Scene.of([x.expand(len(latents), *x.shape[1:]) for x in encoded])
        background, foreground = latents[:, 0].split(
            [self.config.background_latents, self.config.foreground_latents], dim=-1
        )
        speed, camera = self.drive(background.float(), scene)
        velocity = self.own_velocity(scene, speed, foreground).float()
        return Plan(nearness=scene.nearness, camera=camera, velocity=velocity)

    def drive(self, latents: Tensor, scene: Scene) -> tuple[Tensor, Tensor]:
        """The background part of latents to camera paths.

        Args:
            latents: `(B, background_latents)`, standard normal.
            scene: Of B pictures.

        Returns:
            Speeds `(B, 1)` in camera heights per frame, and cameras `(B, T, 6)`, see `Plan`.
        """
        shares = 0.5 * (1 + torch.erf(latents / math.sqrt(2)))
        tables = torch.cat([self.speeds[None], self.amounts]).float()
        share, *amounts = quantiles(tables, shares).split(1, dim=1)
        speed = scene.pace * share
        sway = torch.einsum("bk,ktc->btc", torch.cat(amounts, dim=1), self.sways.float())
        return speed, straight_on(speed, scene.focus, self.config.num_frames) + gain(
            speed, scene.pace
        ) * sway

    def own_velocity(self, scene: Scene, speed: Tensor, latents: Tensor) -> Tensor:
        """How objects move by themselves.

        Args:
            scene: Of B pictures.
            speed: `(B, 1)`, of the camera.
            latents: `(B, foreground_latents)`.

        Returns:
            `(B, 2, H, W)` to the right and ahead, in camera heights per frame; 0 outside objects.
        """
        size = tuple(scene.features.shape[-2:])
        grid = [side // self.multiple for side in self.config.size_hw]
        latent_map = self.latent_fc(latents).unflatten(1, (-1, *grid))
        latent_map = F.interpolate(latent_map, size=size, mode="bilinear", align_corners=False)
        speeds = speed.view(-1, 1, 1, 1).expand(-1, -1, *size)
        x = torch.cat([scene.features, latent_map, speeds.to(latent_map.dtype)], dim=1)
        velocity = self.velocity(self.object_blocks(x))
        full = F.interpolate(
            velocity, size=scene.objects.shape[-2:], mode="bilinear", align_corners=False
        )
        return stand_upright(full.float(), scene.classes) * scene.objects


def straight_on(speed: Tensor, focus: Tensor, num_frames: int) -> Tensor:
    """Cameras `(B, T, 6)` that drive evenly to `focus` `(B, 2)` at `speed` `(B, 1)`."""
    way = torch.cat([focus, torch.ones_like(speed), focus.new_zeros(len(focus), 3)], dim=-1)
    frames = torch.arange(1, num_frames + 1, device=focus.device)
    out: Tensor = frames[:, None] * (speed * way)[:, None]
    return out


def gain(speed: Tensor, pace: Tensor) -> Tensor:
    """How much a camera at `speed` leaves the straight even path, `(B, 1, 1)`, 1 at `pace`."""
    return ((speed / pace + SLOW) / (1 + SLOW))[:, :, None]


def quantiles(tables: Tensor, shares: Tensor) -> Tensor:
    """Read tables of evenly spaced quantiles `(L, K)` at shares `(B, L)` in [0, 1]."""
    last = tables.shape[1] - 1
    place = shares.clamp(0, 1) * last
    low = place.floor().clamp(max=last - 1).long()
    rows = torch.arange(len(tables), device=tables.device)
    return torch.lerp(tables[rows, low], tables[rows, low + 1], place - low)


def stand_upright(values: Tensor, classes: Tensor) -> Tensor:
    """Make things as near at their top as at their foot, and as fast.

    Every column's run of pixels of one class of thing gets its mean, and neighbours come nearer to
    each other, so that legs stay with their bodies.

    Args:
        values: `(B, C, H, W)`.
        classes: `(B, 1, H, W)`, whole numbers.
    """
    runs = _runs(classes).expand_as(values)
    counts = torch.zeros_like(values).scatter_add(2, runs, torch.ones_like(values)).clamp_min(1)
    things = _things(classes)
    shares = _beside(things.to(values.dtype)).clamp_min(1e-6)

    def level(values: Tensor) -> Tensor:
        if values.requires_grad:
            sums = torch.zeros_like(values).scatter_add(2, runs, values)
        else:  # sums of whole numbers are the same in any order
            whole = (values * FIXED_POINT).round().long()
            sums = torch.zeros_like(whole).scatter_add(2, runs, whole).to(values.dtype)
            sums = sums / FIXED_POINT
        return (sums / counts).gather(2, runs)

    made = level(values)
    for _ in range(LEVELLED):
        beside = torch.stack(
            [
                (_beside(made[:, c : c + 1] * things) / shares * things).sum(1)
                for c in range(made.shape[1])
            ],
            dim=1,
        )
        made = level(beside)
    return torch.where(things.any(1, keepdim=True), made, values)


def take_rims(plan: Plan, classes: Tensor) -> Plan:
    """Let the pixels around a thing go with it: its picture is a little larger than its label.

    Args:
        plan: Of B pictures.
        classes: `(B, 1, H, W)`, whole numbers.
    """
    thing = _things(classes).any(1, keepdim=True)
    near, place = F.max_pool2d(plan.nearness * thing, 3, 1, 1, return_indices=True)
    taken = ~thing & (near > RIM_STEP * plan.nearness)
    places = place.flatten(2).expand(-1, plan.velocity.shape[1], -1)
    velocity = plan.velocity.flatten(2).gather(2, places).view_as(plan.velocity)
    return replace(
        plan,
        nearness=torch.where(taken, near, plan.nearness),
        velocity=torch.where(taken, velocity, plan.velocity),
    )


def put_on_ground(nearness: Tensor, classes: Tensor) -> Tensor:
    """Make things as near as the ground they stand on, where it is seen below them.

    Args:
        nearness: `(B, 1, H, W)`.
        classes: `(B, 1, H, W)`, whole numbers.
    """
    things, runs = _things(classes), _runs(classes)
    below = F.pad(classes[:, :, 1:], (0, 0, 0, 1), value=NO_CLASS)
    ground = torch.isin(below, torch.tensor(GROUND, device=classes.device))
    foot = (things.any(1, keepdim=True) & ground).to(nearness.dtype)
    there = F.pad(nearness[:, :, FOOT_PX:], (0, 0, 0, FOOT_PX), mode="replicate")
    # One foot a run at most, so that the order of sums does not matter.
    feet = torch.zeros_like(nearness).scatter_add(2, runs, foot * there).gather(2, runs)
    own = feet * things
    # A thing is where its nearest foot is: a leg that is lifted, or a bumper between two wheels,
    # meets the ground behind it. What may be a row of things is not brought much nearer.
    most = torch.where(own > 0, own * ROW_STEP, torch.inf)
    most[:, SINGLE] = torch.inf
    nearest = own
    for _ in range(WIDEST_PX // BESIDE_PX):
        if not (grown := _nearest_beside(nearest, runs, things)).any():
            break
        nearest = torch.maximum(nearest, torch.minimum(grown, most) * things)
    nearest = nearest.sum(1, keepdim=True)
    return torch.where(nearest > 0, nearest, nearness)


def _nearest_beside(values: Tensor, runs: Tensor, things: Tensor) -> Tensor:
    """The largest value a little to the left or right, in all of a run, `(B, K, H, W)`."""
    size = (1, 2 * BESIDE_PX + 1)
    beside = F.max_pool2d(values, size, 1, (0, BESIDE_PX)) * things
    index = runs.expand_as(beside)
    return torch.zeros_like(beside).scatter_reduce(2, index, beside, "amax").gather(2, index)


def _runs(classes: Tensor) -> Tensor:
    """Number of each pixel's run of one class in its column, from the top, `(B, 1, H, W)`."""
    starts = F.pad((classes[:, :, 1:] != classes[:, :, :-1]).long(), (0, 0, 1, 0))
    return starts.cumsum(2)


def _things(classes: Tensor) -> Tensor:
    """Which pixels belong to each of the upright classes, `(B, K, H, W)`."""
    return classes == torch.tensor(UPRIGHT, device=classes.device).view(1, -1, 1, 1)


def _beside(values: Tensor) -> Tensor:
    """Means of what is a little to the left and to the right, `(B, K, H, W)`."""
    return F.avg_pool2d(values, (1, 2 * BESIDE_PX + 1), 1, (0, BESIDE_PX))
