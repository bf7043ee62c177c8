"""First frame, label planes and a latent to flows that a moving camera would see.

The network says how near every place is and how objects move by themselves; the flow follows from
that and from the camera's path by the geometry of a pinhole camera, and so does what hides what.
The background part of the latent is the camera's path, the foreground part the objects' motion.

Flow out of depth and camera motion as in "Unsupervised Learning of Depth and Ego-Motion from Video"
(Zhou et al., CVPR 2017); the two parts of the latent as in the paper of `seg2vid_flow`.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from seg2vid_cli.label_sets import NUM_BACKGROUND, UNLABELLED
from seg2vid_cli.networks.layers import ConvBlock
from seg2vid_cli.networks.seg2vid_flow import FlowOutput
from seg2vid_cli.warp import backward_warp

ENCODER_LEVELS = 5
FOCAL = 1.9  # focal length in half widths: 55 degrees from left to right
NEARNESS_SCALE = 0.1
CLOSEST = 0.15  # of a place's distance: nearer than that nothing comes, it would fill the picture
FOCUS_SCALE = 0.3  # slope of one unit: where the camera drives to, from the middle
USUAL_PACE = 0.4  # camera heights per frame, about 30 km/h at 15 frames per second
PACES = 3.0  # natural logarithm of how far from that it may be
SLOW = 0.25  # of the usual speed: what sways even a standing camera
SPLATS = 3  # points per pixel and side that are carried along, so that growing things do not tear
SAME_SURFACE_PX = 0.5
SAME_NEARNESS = 0.1
LOOKS = 3
CRUMB_PX = 2  # half the width of gaps that are closed where most around them is known
RIM = 2  # pixels at the border where the network sees too little
UPRIGHT = (5, 6, 7, *range(NUM_BACKGROUND, UNLABELLED))  # poles, lights, signs and objects
GROUND = (0, 1, 9)
FOOT_PX = 2  # below a thing the ground is really seen
BESIDE_PX = 4
FIXED_POINT = 2**24
LEVELLED = 2  # times that neighbours in a thing come nearer to each other
EIGHTH = 2  # of the encoder's features, the one that objects are read from


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


@dataclass(frozen=True, kw_only=True)
class Plan:
    """How camera and objects move through a picture.

    Args:
        nearness: `(B, 1, H, W)`, see `Scene`.
        camera: `(B, T, 6)`, see `camera_flow`.
        velocity: `(B, 2, H, W)`, see `camera_flow`.
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

        # How real cameras move, measured after training: quantiles of the speed, and by what they
        # leave the straight even path, in shifts and turns of each frame.
        sways = config.background_latents - 1
        self.register_buffer("speeds", torch.linspace(0, 1, config.speeds))
        self.register_buffer("sways", torch.zeros(sways, config.num_frames, 6))
        for layer in (self.nearness, self.way, self.velocity):
            nn.init.zeros_(layer.weight)
            assert layer.bias is not None
            nn.init.zeros_(layer.bias)

    speeds: Tensor
    sways: Tensor

    def forward(self, frame: Tensor, planes: Tensor, latents: Tensor) -> FlowOutput:
        """Predict T flows and visibility maps, each relative to `frame`.

        Args:
            frame: `(B, C, H, W)` in [0, 1]; H and W multiples of 32.
            planes: `(B, K, H, W)` label planes, one-hot or warped (fractional).
            latents: `(B, 1, latent_size)`.

        Returns:
            Flows and visibility of all T frames.
        """
        return self.decode(self.encode(frame, planes), latents)

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
        objects = planes[:, NUM_BACKGROUND:UNLABELLED].sum(1, keepdim=True).float()
        return Scene(
            nearness=nearness,
            focus=FOCUS_SCALE * focus,
            pace=USUAL_PACE * pace.clamp(-PACES, PACES).exp(),
            features=features,
            objects=objects,
            classes=classes,
        )

    def decode(
        self, encoded: Sequence[Tensor], latents: Tensor, *, both_ways: bool = True
    ) -> FlowOutput:
        """Predict motion from what `encode` gave.

        Args:
            encoded: The fields of a `Scene`, of B pictures or of one for all latents.
            latents: `(B, 1, latent_size)`.
            both_ways: Whether `flow_back` is wanted.
        """
        return self.move(self.plan(encoded, latents), both_ways=both_ways)

    def plan(self, encoded: Sequence[Tensor], latents: Tensor) -> Plan:
        """Decide how camera and objects move; arguments as in `decode`."""
        names = Scene.__dataclass_fields__
        rows = (x.expand(len(latents), *x.shape[1:]) for x in encoded)
        scene = Scene(**dict(zip(names, rows, strict=True)))
        background, foreground = latents[:, 0].split(
            [self.config.background_latents, self.config.foreground_latents], dim=-1
        )
        speed, camera = self.drive(background.float(), scene)
        velocity = self.own_velocity(scene, speed, foreground).float()
        return Plan(nearness=scene.nearness, camera=camera, velocity=velocity)

    def move(
        self,
        plan: Plan,
        *,
        times: Sequence[float] | None = None,
        scale: float = 1.0,
        both_ways: bool = True,
    ) -> FlowOutput:
        """What is seen at some moments.

        Args:
            plan: From `plan`.
            times: Moments in frames, above 0 and up to T; 1 to T if not given.
            scale: How many times as far everything goes.
            both_ways: Whether `flow_back` is wanted.

        Returns:
            As many frames as there are times; `flow` goes on where nothing is visible.
        """
        frames = range(1, self.config.num_frames + 1) if times is None else times
        moments = plan.camera.new_tensor([float(time) for time in frames])
        camera, velocity = scale * path_at(plan.camera, moments), scale * plan.velocity
        with torch.autocast(camera.device.type, enabled=False):
            forward = camera_flow(plan.nearness, camera, velocity, moments)
            height, width = forward.shape[-2:]
            forward_px = forward * (FOCAL * width / 2)
            growth = camera_growth(plan.nearness, camera, velocity, moments)
            flow_px, visible, visible_back = carry(forward_px, plan.nearness, growth)
        half = forward.new_tensor([(width - 1) / 2, (height - 1) / 2]).view(1, 2, 1, 1, 1)
        videos = forward.shape[:2]
        return FlowOutput(
            flow=-flow_px.unflatten(0, videos).transpose(1, 2) / half,
            flow_back=-forward_px.transpose(1, 2) / half if both_ways else None,
            visibility=visible.unflatten(0, videos)[:, :, 0],
            visibility_back=visible_back.unflatten(0, videos)[:, :, 0],
        )

    def drive(self, latents: Tensor, scene: Scene) -> tuple[Tensor, Tensor]:
        """The background part of latents to camera paths.

        Args:
            latents: `(B, background_latents)`, standard normal.
            scene: Of B pictures.

        Returns:
            Speeds `(B, 1)` in camera heights per frame, and cameras `(B, T, 6)`, see `camera_flow`.
        """
        share = 0.5 * (1 + torch.erf(latents[:, :1] / math.sqrt(2)))
        speed = scene.pace * quantile(self.speeds.float(), share)
        sway = torch.einsum("bk,ktc->btc", latents[:, 1:], self.sways.float())
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


def quantile(table: Tensor, share: Tensor) -> Tensor:
    """Read a table of evenly spaced quantiles `(K,)` at shares in [0, 1]."""
    place = share.clamp(0, 1) * (len(table) - 1)
    low = place.floor().clamp(max=len(table) - 2).long()
    return torch.lerp(table[low], table[low + 1], place - low)


def slopes(height: int, width: int, device: torch.device | None = None) -> Tensor:
    """Direction of every pixel, `(2, H, W)`: right and down for one ahead."""
    x = (torch.arange(width, device=device) + 0.5 - width / 2) / (FOCAL * width / 2)
    y = (torch.arange(height, device=device) + 0.5 - height / 2) / (FOCAL * width / 2)
    return torch.stack([x.expand(height, width), y[:, None].expand(height, width)])


def path_at(camera: Tensor, times: Tensor) -> Tensor:
    """Cameras `(B, T, 6)` at moments `(N,)` in frames, along straight lines: `(B, N, 6)`."""
    path = F.pad(camera, (0, 0, 1, 0))
    before = (times.ceil().long() - 1).clamp(0, camera.shape[1] - 1)
    share = (times - before)[:, None]
    return path[:, before] * (1 - share) + path[:, before + 1] * share


def _shifts(
    camera: Tensor, velocity: Tensor | None, times: Tensor | None
) -> tuple[Tensor, Tensor, Tensor]:
    x, y, z = camera[:, :, :3, None, None].unbind(2)
    if velocity is None:
        return x, y, z
    if times is None:
        times = torch.arange(1.0, camera.shape[1] + 1, device=camera.device)
    frames = times.view(1, -1, 1, 1)
    return x - velocity[:, :1] * frames, y, z - velocity[:, 1:] * frames


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


def put_on_ground(nearness: Tensor, classes: Tensor) -> Tensor:
    """Make things as near as the ground they stand on, where it is seen below them.

    Args:
        nearness: `(B, 1, H, W)`.
        classes: `(B, 1, H, W)`, whole numbers.
    """
    things, runs = _things(classes), _runs(classes)
    below = F.pad(classes[:, :, 1:], (0, 0, 0, 1), value=UNLABELLED)
    ground = torch.isin(below, torch.tensor(GROUND, device=classes.device))
    foot = (things.any(1, keepdim=True) & ground).to(nearness.dtype)
    there = F.pad(nearness[:, :, FOOT_PX:], (0, 0, 0, FOOT_PX), mode="replicate")
    # One foot a run at most, so that the order of sums does not matter.
    feet = torch.zeros_like(nearness).scatter_add(2, runs, foot * there).gather(2, runs)
    size = (1, 2 * BESIDE_PX + 1)
    nearest = F.max_pool2d(feet * things, size, 1, (0, BESIDE_PX)) * things
    nearest = nearest.sum(1, keepdim=True)
    return torch.where(nearest > 0, nearest, nearness)


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


def camera_growth(
    nearness: Tensor,
    camera: Tensor,
    velocity: Tensor | None = None,
    times: Tensor | None = None,
) -> Tensor:
    """How much larger the first frame's places are seen in later frames, `(B, T, 1, H, W)`.

    Args:
        nearness: `(B, 1, H, W)`.
        camera: `(B, T, 6)`.
        velocity: `(B, 2, H, W)`; see `camera_flow`.
        times: `(T,)`; see `camera_flow`.
    """
    ahead = 1 - _shifts(camera, velocity, times)[2] * nearness
    return (1 / ahead.clamp_min(CLOSEST))[:, :, None]


def camera_flow(
    nearness: Tensor,
    camera: Tensor,
    velocity: Tensor | None = None,
    times: Tensor | None = None,
) -> Tensor:
    """Where the first frame's places are seen in later frames.

    Args:
        nearness: `(B, 1, H, W)`, one over the distance along the first frame's axis.
        camera: `(B, T, 6)`: the camera's shift right, down and ahead since the first frame, in the
            unit of distance, and its turns to the right, down and clockwise, in radians.
        velocity: `(B, 2, H, W)`, own motion of the places right and ahead, per frame.
        times: `(T,)`, moments of the cameras in frames; 1 to T if not given.

    Returns:
        `(B, T, 2, H, W)` slopes: times `FOCAL` and half the width they are pixels.
    """
    height, width = nearness.shape[-2:]
    across, down = slopes(height, width, nearness.device)
    shift_x, shift_y, shift_z = _shifts(camera, velocity, times)
    yaw, pitch, roll = camera[:, :, 3:, None, None].unbind(2)
    x, y, z = across - shift_x * nearness, down - shift_y * nearness, 1 - shift_z * nearness
    x, z = yaw.cos() * x - yaw.sin() * z, yaw.sin() * x + yaw.cos() * z
    y, z = pitch.cos() * y - pitch.sin() * z, pitch.sin() * y + pitch.cos() * z
    z = z.clamp_min(CLOSEST)
    x, y = x / z, y / z
    x, y = roll.cos() * x + roll.sin() * y, roll.cos() * y - roll.sin() * x
    return torch.stack([x - across, y - down], dim=2)


def carry(forward_px: Tensor, nearness: Tensor, growth: Tensor) -> tuple[Tensor, Tensor, Tensor]:
    """Turn flows round, the nearer in front of the farther.

    Args:
        forward_px: `(B, T, 2, H, W)`, where places of the first frame go; sides multiples of 32.
        nearness: `(B, 1, H, W)`, of these places in the first frame.
        growth: `(B, T, 1, H, W)`, see `camera_growth`.

    Returns:
        Where pixels of the later frames come from, `(B * T, 2, H, W)`, continued into what the
        first frame does not show; 1 where it shows them, `(B * T, 1, H, W)`; and 1 where the later
        frame shows the first frame's pixels, `(B * T, 1, H, W)`.
    """
    device = forward_px.device
    if device.type == "mps":  # it cannot take the largest of whole numbers
        parts = carry(forward_px.cpu(), nearness.cpu(), growth.cpu())
        return parts[0].to(device), parts[1].to(device), parts[2].to(device)
    nearness = (nearness[:, None] * growth).flatten(0, 1)
    forward_px, growth = forward_px.flatten(0, 1), growth.flatten(0, 1)
    pairs = [_carry(*pair) for pair in zip(forward_px, nearness, strict=True)]
    flow, known, back = (torch.stack(parts) for parts in zip(*pairs, strict=True))
    flow = _fill(flow, known, round(math.log2(EgoFlow.multiple)))
    closer, found = _look_closer(flow, forward_px, growth)
    nearby = (closer - flow).abs().amax(1, keepdim=True) < SAME_SURFACE_PX * 2
    flow = torch.where((found > 0) & ((known == 0) | nearby), closer, flow)
    known = torch.maximum(known, found)
    for _ in range(2):  # crumbs are not worth repainting: the flow goes on across them
        around = F.avg_pool2d(known, 2 * CRUMB_PX + 1, 1, CRUMB_PX, count_include_pad=False)
        known = torch.maximum(known, (around > 0.5).float())
    exact = -backward_warp(forward_px, flow)  # between pixels too, on the same surface
    same = (exact - flow).abs().amax(1, keepdim=True) < SAME_SURFACE_PX
    return torch.where(same, exact, flow), known, back


def _look_closer(flow: Tensor, forward_px: Tensor, growth: Tensor) -> tuple[Tensor, Tensor]:
    """Correct where later pixels come from by where that goes.

    Returns:
        Flow `(N, 2, H, W)`, and 1 where what lies there comes as close as its size allows,
        `(N, 1, H, W)`.
    """
    height, width = flow.shape[-2:]
    x = torch.arange(width, device=flow.device).expand(height, width)
    y = torch.arange(height, device=flow.device)[:, None].expand(height, width)
    pixels = torch.stack([x, y])
    # Ground and walls that run towards the camera grow as the square along the way.
    steps = [
        F.pad(torch.diff(forward_px[:, :1], dim=3), (0, 1, 0, 0), mode="replicate"),
        F.pad(torch.diff(forward_px[:, 1:], dim=2), (0, 0, 0, 1), mode="replicate"),
    ]
    times = [torch.minimum(torch.maximum(1 + step, growth), growth**2) for step in steps]
    values = torch.cat([forward_px, *times], dim=1).flatten(2)
    found = torch.zeros_like(growth)
    for _ in range(LOOKS):
        source = (pixels + flow).round()
        place = _place(source[:, 0], source[:, 1])
        inside = (place < height * width)[:, None]
        index = place.clamp(max=height * width - 1).flatten(1)[:, None].expand(-1, 4, -1)
        there = values.gather(2, index).view(-1, 4, height, width)
        missed, apart = pixels - source - there[:, :2], there[:, 2:]
        near = (missed.abs() <= 0.5 + 0.5 * apart).all(1, keepdim=True)
        found = (inside & near).float()
        flow = torch.where(inside, source + missed / apart - pixels, flow)
    return flow, found


def _carry(forward_px: Tensor, nearness: Tensor) -> tuple[Tensor, Tensor, Tensor]:
    """`carry` for one frame, without what comes into sight; a frame at a time needs less memory."""
    height, width = nearness.shape[-2:]
    device = forward_px.device
    x, y = torch.arange(width, device=device), torch.arange(height, device=device)[:, None]
    new_x, new_y = forward_px[0] + x, forward_px[1] + y
    # Of the points that come to one pixel the nearest has the largest number; in its lower half is
    # the place that it came from.
    order = (nearness[0] * 2**24).long().clamp(0, 2**30) * 2**32 + (y * width + x)
    winners = torch.full((height * width + 1,), -1, dtype=torch.int64, device=device)
    parts = [(part + 0.5) / SPLATS - 0.5 for part in range(SPLATS)]
    for right in parts:
        for down in parts:
            target = _place(new_x + right, new_y + down)
            winners.scatter_reduce_(0, target.flatten(), order.flatten(), "amax")
    winners = winners[:-1]
    known = (winners >= 0).view(1, height, width)
    came_from = (winners % 2**32).clamp(0, height * width - 1)
    flow = -forward_px.flatten(1)[:, came_from].view_as(forward_px)
    best = F.pad((winners // 2**32).clamp_min(0).float() / 2**24, (0, 1), value=math.inf)
    back = nearness[0] >= (1 - SAME_NEARNESS) * best[_place(new_x, new_y)]
    return torch.where(known, flow, 0.0), known.float(), back.float()[None]


def _place(x: Tensor, y: Tensor) -> Tensor:
    """Number of the pixel at `(..., H, W)` coordinates of such a picture; H * W outside it."""
    height, width = x.shape[-2:]
    column, row = x.round().long(), y.round().long()
    inside = (column >= 0) & (column < width) & (row >= 0) & (row < height)
    return torch.where(inside, row * width + column, height * width)


def _fill(values: Tensor, known: Tensor, levels: int) -> Tensor:
    """Means of what is known around it for what is not, from coarser and coarser pictures.

    Args:
        values: `(N, C, H, W)`.
        known: `(N, 1, H, W)`, 1 or 0.
        levels: How many times to halve the size.
    """
    if not levels:
        return values
    share = F.avg_pool2d(known, 2)
    means = F.avg_pool2d(values * known, 2) / share.clamp_min(1e-6)
    coarse = _fill(means, (share > 0).float(), levels - 1)
    larger = F.interpolate(coarse, scale_factor=2.0, mode="bilinear", align_corners=False)
    return torch.where(known > 0, values, larger)
