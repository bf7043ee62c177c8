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

from seg2vid_cli.networks.efficientnet import EfficientNetLite, lite_widths
from seg2vid_cli.networks.layers import ConvBlock, quantiles, share_below
from seg2vid_cli.networks.layout import (
    OBJECTS,
    PLACES,
    lie_flat,
    move_as_one,
    objects,
    places,
    put_on_ground,
    sit_upright,
    stand_upright,
    things,
    which_vehicle,
    who_is_who,
)

ENCODER_LEVELS = 5
EIGHTH = 2  # of the encoder's features, the one that objects are read from
NEARNESS_SCALE = 0.1
FOCUS_SCALE = 0.3  # slope of one unit: where the camera drives to, from the middle
USUAL_PACE = 0.4  # camera heights per frame, about 30 km/h at 15 frames per second
PACES = 3.0  # natural logarithm of how far from that it may be
SLOW = 0.25  # of the usual speed: what sways even a standing camera
RIM = 2  # pixels at the border where the network sees too little
TAKEN = 3 / 256  # of the height, around a thing: what its colours run into
RIM_STEP = 0.85  # what is beside a thing lies before it where the thing is not as near as that
GRID = (4, 8)  # cells that a picture's classes are counted in, to say how one drives there
TURN_UNIT = math.radians(1) / 15  # per frame: turns are alike up to about one degree a second
MOST_BEND = math.asinh(8)  # inverse hyperbolic sine of such units, expected of a picture
FASTEST_TURN = math.radians(30) / 15  # radians per frame
# Lateral acceleration that nobody exceeds in a bend: 3 m/s^2, in camera heights per frame squared.
MOST_ACCELERATION = 3 / (1.5 * 15**2)
STRAIGHTER = 0.95  # per frame, once a pass is over


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
        background_latents: Length of the camera's part of the latent: speed, turn, then sways.
        foreground_latents: Length of the objects' part.
        latent_channels: Channels of the map that the objects' part becomes.
        speeds: How many quantiles of speed, turn and sways are kept.
        places: Whether it is told where every pixel is, and from where to where what it shows
            reaches, see `layout.places`.
        lite_stages: How many stages of `efficientnet.LITE0` read the picture beside it; what these
            know is not trained.
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
    places: bool = False
    lite_stages: int = 0

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
        bend: `(B, 1)`, how far to the right cars turn in such a place, see `turn_rate`.
        features: `(B, C, H/8, W/8)`, for the objects.
        objects: `(B, 1, H, W)` in [0, 1], share of object classes.
        classes: `(B, 1, H, W)`, the class that has the largest share.
        owners: `(B, 1, H * W)`, whose pixels those of objects are, see `who_is_who` and
            `which_vehicle`.
    """

    nearness: Tensor
    focus: Tensor
    pace: Tensor
    bend: Tensor
    features: Tensor
    objects: Tensor
    classes: Tensor
    owners: Tensor

    @classmethod
    def of(cls, encoded: Sequence[Tensor]) -> Scene:
        """From its fields in order, as `EgoFlow.encode` gives them."""
        return cls(**dict(zip(cls.__dataclass_fields__, encoded, strict=True)))

    def rows(self, rows: slice) -> Scene:
        """Those of some of the pictures."""
        return Scene(**{name: value[rows] for name, value in vars(self).items()})


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
        if (
            len(config.channels) != ENCODER_LEVELS
            or config.speeds < 2
            or config.background_latents < 3
            or not config.num_frames
        ):
            raise ValueError(f"{config} is no ego-flow network")
        if any(side % self.multiple or not side for side in config.size_hw):
            raise ValueError(f"size {config.size_hw} is not in whole {self.multiple} pixels")
        inputs = config.image_channels + config.label_planes + PLACES * config.places
        widths = config.channels
        before = (inputs, *widths[:-1])
        self.encoder = nn.ModuleList(
            [
                ConvBlock(i, o, kernel=4, stride=2, norm=level > 0, bias=level == 0)
                for level, (i, o) in enumerate(zip(before, widths, strict=True))
            ]
        )
        self.known: EfficientNetLite | None = None
        self.adapters = nn.ModuleList()
        if config.lite_stages:
            self.known = EfficientNetLite(config.lite_stages).requires_grad_(False)
            for theirs, ours in zip(lite_widths(config.lite_stages), widths, strict=False):
                adapter = nn.Conv2d(theirs, ours, 1, bias=False)
                nn.init.zeros_(adapter.weight)
                self.adapters.append(adapter)
        self.middle = ConvBlock(widths[-1], widths[-1], bias=False)
        self.up_blocks = nn.ModuleList(
            [
                UpBlock(widths[k], widths[k - 1], widths[k - 1])
                for k in range(len(widths) - 1, 0, -1)
            ]
        )
        self.last = UpBlock(widths[0], inputs, config.full_channels)
        self.nearness = nn.Conv2d(config.full_channels, 1, 3, padding=1)
        self.way = nn.Linear(3 * widths[-1], 2)

        height, width = (side // self.multiple for side in config.size_hw)
        self.latent_fc = nn.Linear(
            config.foreground_latents, config.latent_channels * height * width
        )
        self.object_blocks = nn.Sequential(
            ConvBlock(widths[EIGHTH] + config.latent_channels + 1, widths[EIGHTH], bias=False),
            ConvBlock(widths[EIGHTH], widths[EIGHTH], bias=False),
        )
        self.velocity = nn.Conv2d(widths[EIGHTH], 2, 3, padding=1)

        # How real cameras move, measured after training: speed and turn by where classes are in the
        # picture, and quantiles of what that leaves open; by what they leave an even arc, see
        # `steer`, and quantiles of how much. Most drive straight most of the time, so that is no
        # normal distribution.
        sways = config.background_latents - 2
        cells = config.label_planes * math.prod(GRID)
        self.register_buffer("habit_weights", torch.zeros(2, cells))
        self.register_buffer("habit_bias", torch.zeros(2))
        self.register_buffer("speeds", torch.linspace(0, 1, config.speeds))
        self.register_buffer("turns", torch.zeros(config.speeds))
        self.register_buffer("sways", torch.zeros(sways, config.num_frames, 4))
        self.register_buffer("amounts", torch.zeros(sways, config.speeds))
        for layer in (self.nearness, self.way, self.velocity):
            nn.init.zeros_(layer.weight)
            assert layer.bias is not None
            nn.init.zeros_(layer.bias)

    habit_weights: Tensor
    habit_bias: Tensor
    speeds: Tensor
    turns: Tensor
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

    def train(self, mode: bool = True) -> EgoFlow:
        """As always, but for what is not trained: its norms stay as they are."""
        super().train(mode)
        if self.known is not None:
            self.known.eval()
        return self

    def encode(self, frame: Tensor, planes: Tensor) -> list[Tensor]:
        """Read pictures and labels, as in `forward`.

        Returns:
            The fields of a `Scene`.
        """
        return list(vars(self.read(frame, planes)).values())

    def read(self, frame: Tensor, planes: Tensor) -> Scene:
        """Read pictures and labels, as in `forward`."""
        classes = planes.argmax(1, keepdim=True)
        told = [frame, planes, *([places(classes).to(planes.dtype)] if self.config.places else [])]
        inputs = torch.cat(told, dim=1)
        known: list[Tensor] = []
        if self.known is not None:
            with torch.no_grad():
                known = self.known(frame)
        skips, x = [], inputs
        for level, layer in enumerate(self.encoder):
            x = layer(x)
            if level < len(known):
                x = x + self.adapters[level](known[level])
            skips.append(x)
        x = self.middle(x)
        focus = self.way(_moments(x))
        features = x
        for up, skip in zip(self.up_blocks, skips[-2::-1], strict=True):
            x = up(x, skip)
            if skip is skips[EIGHTH]:
                features = x
        nearness = NEARNESS_SCALE * F.softplus(self.nearness(self.last(x, inputs)).float())
        nearness = F.pad(nearness[..., RIM:-RIM, RIM:-RIM], (RIM,) * 4, mode="replicate")
        owners = who_is_who(classes)
        nearness = put_on_ground(lie_flat(nearness, classes), classes)
        nearness = stand_upright(nearness, classes)
        nearness = sit_upright(nearness, classes, owners)
        owners = which_vehicle(nearness.detach(), classes, owners)
        pace, bend = self.expect(class_shares(planes))
        return Scene(
            nearness=nearness,
            focus=FOCUS_SCALE * focus,
            pace=pace,
            bend=bend,
            features=features,
            objects=planes[:, OBJECTS].sum(1, keepdim=True).float(),
            classes=classes,
            owners=owners,
        )

    def expect(self, shares: Tensor) -> tuple[Tensor, Tensor]:
        """Pace and bend, see `Scene`, by what is where, see `class_shares`."""
        pace, bend = F.linear(shares.float(), self.habit_weights, self.habit_bias).split(1, 1)
        return USUAL_PACE * pace.float().clamp(-PACES, PACES).exp(), bend.float()

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
        shares = share_below(latents)
        tables = torch.cat([self.speeds[None], self.turns[None], self.amounts]).float()
        share, turn, *amounts = quantiles(tables, shares).split(1, dim=1)
        speed = scene.pace * share
        rate = turn_rate(scene.bend, turn) * gain(speed, scene.pace)[:, :, 0]
        rate = rate.clamp(-FASTEST_TURN, FASTEST_TURN)
        speed = torch.minimum(speed, MOST_ACCELERATION / rate.abs().clamp_min(1e-6))
        sway = torch.einsum("bk,ktc->btc", torch.cat(amounts, dim=1), self.sways.float())
        path = straight_on(speed, self.config.num_frames) + gain(speed, scene.pace) * sway
        frames = torch.arange(1, path.shape[1] + 1, device=path.device)
        return speed, steer(path + F.pad((rate * frames)[..., None], (1, 2)), scene.focus)

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
        upright = stand_upright(full.float(), scene.classes)
        # By its class, not by its share: a leg that fills half of a cell goes with its body.
        return move_as_one(upright, scene.classes, scene.owners) * objects(scene.classes)


def straight_on(speed: Tensor, num_frames: int) -> Tensor:
    """Straight even paths `(B, T, 4)` at `speed` `(B, 1)`, for `steer`."""
    frames = torch.arange(1, num_frames + 1, device=speed.device)
    return F.pad(frames[:, None] * speed[:, None], (0, 3))


def steer(path: Tensor, focus: Tensor) -> Tensor:
    """Cameras on a car, which goes where it points and never sideways.

    Without that a shift to the side and a turn are hardly told apart, and wrong depths fit as well.

    Args:
        path: `(B, T, 4)` since the first frame: how far ahead, and the turns to the right, down and
            clockwise, see `Plan`.
        focus: `(B, 2)`, see `Scene`.

    Returns:
        `(B, T, 6)`, see `Plan`. While the car turns it is on an arc: halfway it points half as far.
    """
    ahead, right = path[..., :1], path[..., 1:2]
    shift = [(focus[:, None, :1] + right / 2) * ahead, focus[:, None, 1:] * ahead]
    return torch.cat([*shift, path], dim=-1)


def go_on(path: Tensor, passes: int) -> Tensor:
    """The path of a later pass, counted from the end of the one before.

    Speed goes on evenly, and a bend straightens out, since what comes in from the side has to be
    invented. Every other pass the camera sways back, so that it is level again.

    Args:
        path: `(B, T, 4)`, see `steer`: that of the first pass.
        passes: How many there were before.
    """
    if not passes:
        return path
    count = path.shape[1]
    steps = torch.diff(F.pad(path, (0, 0, 1, 0)), dim=1)
    if passes % 2:
        steps = steps.flip(1) * steps.new_tensor([1.0, 1.0, -1.0, -1.0])
    frames = torch.arange(1, count + 1, device=path.device) + count * (passes - 1)
    straighter = F.pad((STRAIGHTER**frames - 1)[:, None], (1, 2)) + 1
    out: Tensor = (steps * straighter).cumsum(1)
    return out


def class_shares(planes: Tensor) -> Tensor:
    """Shares of the classes `(B, C, H, W)` in the cells of `GRID`, `(B, C * h * w)`."""
    return F.adaptive_avg_pool2d(planes, GRID).flatten(1)


def mirror(shares: Tensor) -> Tensor:
    """Class shares `(..., C * h * w)` of pictures with left and right exchanged."""
    out: Tensor = shares.unflatten(-1, (-1, *GRID)).flip(-1).flatten(-3)
    return out


def turn_rate(bend: Tensor, turn: Tensor) -> Tensor:
    """How fast a camera at the usual speed turns to the right, `(B, 1)`, in radians per frame.

    Args:
        bend: `(B, 1)`, see `Scene`.
        turn: `(B, 1)`, how far it is from what is expected, 0 on average.
    """
    out: Tensor = TURN_UNIT * (bend.clamp(-MOST_BEND, MOST_BEND) + turn).sinh()
    return out


def gain(speed: Tensor, pace: Tensor) -> Tensor:
    """How much a camera at `speed` leaves the straight even path, `(B, 1, 1)`, 1 at `pace`."""
    return ((speed / pace + SLOW) / (1 + SLOW))[:, :, None]


def take_rims(plan: Plan, classes: Tensor) -> Plan:
    """Let the pixels around a thing go with it: its picture is a little larger than its label.

    Args:
        plan: Of B pictures.
        classes: `(B, 1, H, W)`, whole numbers.
    """
    thing = things(classes)
    px = max(1, round(TAKEN * classes.shape[-2]))
    near, place = F.max_pool2d(plan.nearness * thing, 2 * px + 1, 1, px, return_indices=True)
    taken = ~thing & (near > RIM_STEP * plan.nearness)
    places = place.flatten(2).expand(-1, plan.velocity.shape[1], -1)
    velocity = plan.velocity.flatten(2).gather(2, places).view_as(plan.velocity)
    return replace(
        plan,
        nearness=torch.where(taken, near, plan.nearness),
        velocity=torch.where(taken, velocity, plan.velocity),
    )


def _moments(features: Tensor) -> Tensor:
    """Means of `(B, C, H, W)`, and means of them times the place across and down: `(B, 3C)`."""
    height, width = features.shape[-2:]
    x = torch.linspace(-1, 1, width, device=features.device, dtype=features.dtype)
    y = torch.linspace(-1, 1, height, device=features.device, dtype=features.dtype)[:, None]
    return torch.cat([(features * at).mean((2, 3)) for at in (torch.ones_like(x), x, y)], dim=1)
