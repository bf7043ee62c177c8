"""First frame, labels and a seed to the motion of the next frames."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from fractions import Fraction

import torch
from torch import Tensor
from torch.nn import functional as F

from seg2vid_cli.camera import enlarge, keep_distance, path_at, see
from seg2vid_cli.device import Compute, RowLimit
from seg2vid_cli.label_sets import NUM_BACKGROUND, UNLABELLED
from seg2vid_cli.networks.ego_flow import (
    EgoFlow,
    EgoFlowConfig,
    Plan,
    Scene,
    go_on,
    steer,
    take_rims,
)
from seg2vid_cli.networks.seg2vid_flow import FlowConfig, FlowOutput, Seg2VidFlow
from seg2vid_cli.sample import MOTION, Sample
from seg2vid_cli.warp import backward_warp, half_images_to_px

MotionNetwork = Seg2VidFlow | EgoFlow

FARTHEST = 1e-3  # nearness; what is less near counts as that
OBJECT_GAIN = 2.0  # a cell that is half an object moves like it
EVEN = 2  # numbers of the camera, its speed and its turn, that variants spread over


@dataclass(frozen=True, kw_only=True, eq=False)
class Memory:
    """What is known of a scene from the pictures before this one.

    Args:
        nearness: `(1, 1, H, W)`, see `seg2vid_cli.networks.ego_flow.Plan`.
        velocity: `(1, 2, H, W)`, as well.
        known: bool `(1, 1, H, W)`, whether both are known there.
        focus: `(1, 2)`, where the camera drives to.
        pace: `(1, 1)`, how fast.
        bend: `(1, 1)`, how far cars turn there, see `Scene`.
        passes: How many passes led there, see `go_on`.
    """

    nearness: Tensor
    velocity: Tensor
    known: Tensor
    focus: Tensor
    pace: Tensor
    bend: Tensor
    passes: int = 0


@dataclass(frozen=True, kw_only=True, eq=False)
class Course:
    """Depth and a camera that drives through it.

    Args:
        plan: Of one picture.
        focus: `(1, 2)`, where the camera drives to.
        pace: `(1, 1)`, how fast.
        bend: `(1, 1)`, how far cars turn there, see `Scene`.
        scale: How many times as far everything goes.
        passes: How many passes were before, see `go_on`.
    """

    plan: Plan
    focus: Tensor
    pace: Tensor
    bend: Tensor
    scale: float = 1.0
    passes: int = 0

    def camera_at(self, times: Tensor) -> Tensor:
        """The camera at moments `(N,)` in frames, `(1, N, 6)`, on an arc however far it goes."""
        camera = self.plan.camera
        if self.scale != 1:
            camera = steer(self.scale * camera[..., 2:], self.focus)
        return path_at(camera, times)


@dataclass(frozen=True, kw_only=True)
class Motion:
    """Motion of T frames relative to one source frame.

    Args:
        flow_px: `(T, 2, H, W)` in pixels, channel 0 right, 1 down: frame t shows at a pixel what
            the source frame has at that pixel plus `flow_px`. This is the offset the warp uses.
        forward_flow_px: `(T, 2, H, W)` in pixels: where each pixel of the source frame goes; None
            where it was not asked for.
        visibility: `(T, H, W)` in [0, 1]; 1 = this place of frame t is visible in the source frame.
        times: Of the T frames, in steps of the network; 1 to T if empty.
        again: The same motion at other times and so many times as far, where the network knows what
            hides what; else flows are averaged and stretched.
        course: What the flows follow from, for a network that knows depth.
    """

    flow_px: Tensor
    forward_flow_px: Tensor | None
    visibility: Tensor
    times: tuple[Fraction, ...] = ()
    again: Callable[[Sequence[Fraction], float], Motion] | None = None
    course: Course | None = None

    def at(self, times: Sequence[Fraction]) -> Motion:
        """Motion at other moments, along straight lines between the predicted ones.

        Args:
            times: In steps of the network's frame rate, above 0 and up to T; 1 is the first frame.
        """
        if list(times) == list(range(1, len(times) + 1)):  # the usual case: nothing to compute
            count = len(times)
            forward = self.forward_flow_px
            return replace(
                self,
                flow_px=self.flow_px[:count],
                forward_flow_px=None if forward is None else forward[:count],
                visibility=self.visibility[:count],
                times=tuple(times),
            )
        if self.again is not None:
            return self.again(times, 1.0)
        whole = [math.ceil(time) - 1 for time in times]
        shares = [float(time - index) for time, index in zip(times, whole, strict=True)]
        return Motion(
            flow_px=_between(self.flow_px, whole, shares, start=0.0),
            forward_flow_px=None
            if self.forward_flow_px is None
            else _between(self.forward_flow_px, whole, shares, start=0.0),
            visibility=_between(self.visibility, whole, shares, start=1.0),
        )

    def scaled(self, factor: float) -> Motion:
        """The same motion, so many times as far."""
        if factor == 1:
            return self
        if self.again is not None:
            times = self.times or [Fraction(t) for t in range(1, len(self.flow_px) + 1)]
            return self.again(times, factor)
        forward = self.forward_flow_px
        return replace(
            self,
            flow_px=self.flow_px * factor,
            forward_flow_px=None if forward is None else forward * factor,
        )


def _between(values: Tensor, whole: list[int], shares: list[float], *, start: float) -> Tensor:
    """Rows `whole - 1` and `whole` of `values` mixed by `shares`; `start` is what row -1 holds."""
    padded = torch.cat([torch.full_like(values[:1], start), values])
    share = values.new_tensor(shares).view(-1, *[1] * (values.dim() - 1))
    before = torch.tensor(whole, device=values.device)
    return padded[before] * (1 - share) + padded[before + 1] * share


def sample_latents(
    config: FlowConfig | EgoFlowConfig, sample: Sample, *, camera_only: bool = False
) -> Tensor:
    """Draw one motion: the camera's and the objects' part apart, repeated for every row.

    Args:
        config: Of the motion network.
        sample: What to draw from.
        camera_only: Draw the objects' part too from what decides the camera's, for
            `predict_motion`'s `camera_latents`.

    Returns:
        `(1, latent_rows, latent_size)` on the CPU, background part first.
    """
    sizes = (config.background_latents, config.foreground_latents)
    parts = [
        sample.draw(
            (1, 1, size),
            part="background" if camera_only else part,
            even=EVEN if isinstance(config, EgoFlowConfig) and part == "background" else 0,
            purpose=f"motion/{part}" + ("/camera" if camera_only and part == "foreground" else ""),
        )
        for part, size in zip(MOTION, sizes, strict=True)
    ]
    return torch.cat(parts, dim=-1).expand(-1, config.latent_rows, -1)


def fitting_downscale(size_hw: tuple[int, int], network: EgoFlow) -> int:
    """How many times smaller a network looks at pictures, for things to be as large as it learnt.

    Args:
        size_hw: Height and width of the pictures; multiples of the network's `multiple`.
        network: Looks at whole multiples of that, so pictures of some sizes stay larger.
    """
    wanted = max(1, round(size_hw[1] / network.config.size_hw[1]))
    fits = (d for d in range(wanted, 0, -1) if not any(n % (network.multiple * d) for n in size_hw))
    return next(fits)


def predict_motion(
    network: MotionNetwork,
    frame: Tensor,
    planes: Tensor,
    latents: Tensor,
    *,
    downscale: int,
    compute: Compute,
    rows: RowLimit | None = None,
    forward_flow: bool = True,
    camera_latents: Tensor | None = None,
    memories: Sequence[Memory | None] = (),
) -> list[Motion]:
    """Predict how T frames move away from each of some frames.

    Args:
        network: The motion network.
        frame: `(B, C, H, W)` in [0, 1], or one for all latents, which is then read only once;
            sides multiples of `downscale` times the network's `multiple`.
        planes: `(B, K, H, W)` label planes, one-hot or warped; one where there is one frame.
        latents: `(B, rows, size)`, from `sample_latents`.
        downscale: The network sees pictures this many times smaller; its flows are stretched.
        compute: Where to run.
        rows: How many latents at once; all of them if not given.
        forward_flow: Whether flows from the source frame are wanted too.
        camera_latents: As `latents`: if given, these move everything but objects, so that
            `latents` decide the motion of objects alone.
        memories: Of each frame, from the motion that led to it: things stay as near as they are.

    Returns:
        For each latent the motion at the size of `frame`, float32.
    """
    size = (frame.shape[-2], frame.shape[-1])
    latents = latents.to(compute.device)
    camera = None if camera_latents is None else camera_latents.to(compute.device)
    small, small_planes = (_shrink(x, downscale) for x in (frame, planes))
    with compute.run(network):
        features = network.encode(compute.lay_out(small), compute.lay_out(small_planes))

    def predict(first: int, last: int) -> list[Motion]:
        whose = slice(None) if len(frame) == 1 else slice(first, last)
        own = [x[whose] for x in features]
        if isinstance(network, EgoFlow):
            classes = planes[whose].argmax(1, keepdim=True)
            courses = _courses(
                network, own, classes, latents[first:last], memories[first:last], compute
            )
            with compute.run(network):
                return [_drive_on(course, forward_flow=forward_flow) for course in courses]
        with compute.run(network):
            output = network.decode(own, latents[first:last], both_ways=forward_flow)
        offsets = _offsets(output)
        if camera is not None:
            with compute.run(network):
                still = network.decode(own, camera[first:last], both_ways=forward_flow)
            objects = small_planes[:, NUM_BACKGROUND:UNLABELLED].sum(1, keepdim=True)
            offsets = _put_together(offsets, _offsets(still), objects[whose].float())
        flow, flow_back, visible = _full_size(offsets, size)
        return [
            Motion(
                flow_px=flow[b],
                forward_flow_px=None if flow_back is None else flow_back[b],
                visibility=visible[b],
            )
            for b in range(last - first)
        ]

    return (rows or RowLimit()).run(len(latents), predict)


def _courses(
    network: EgoFlow,
    encoded: Sequence[Tensor],
    classes: Tensor,
    latents: Tensor,
    memories: Sequence[Memory | None],
    compute: Compute,
) -> list[Course]:
    """Courses for some latents, of one picture each or all of one; cameras go on as they began.

    The network looks at small pictures; depth is then brought to the size of their `classes`, since
    a border that is drawn coarsely falls into steps when it comes near.
    """
    classes = classes.expand(len(latents), -1, -1, -1)
    scene = Scene.of([x.expand(len(latents), *x.shape[1:]) for x in encoded])
    for name in ("focus", "pace", "bend"):
        rows = getattr(scene, name).clone()
        for row, memory in enumerate(memories):
            if memory is not None:
                rows[row] = getattr(memory, name)[0]
        scene = replace(scene, **{name: rows})
    with compute.run(network):
        plans = network.plan(list(vars(scene).values()), latents)
        # What objects usually do decides where the camera brakes: its path is the background's.
        usual = latents.clone()
        usual[..., network.config.background_latents :] = 0
        expected = network.plan(list(vars(scene).values()), usual).velocity
        courses = []
        for row in range(len(latents)):
            plan, focus = plans.row(row), scene.focus[row : row + 1]
            own_classes = classes[row : row + 1]
            known_here = torch.cat([plan.nearness, plan.velocity, expected[row : row + 1]], dim=1)
            large = enlarge(known_here.float(), scene.classes[row : row + 1], own_classes)
            nearness, velocity, usually = large.split([1, 2, 2], dim=1)
            plan = replace(plan, nearness=nearness, velocity=velocity)
            memory = memories[row] if memories else None
            passes = 0 if memory is None else memory.passes
            plan = replace(plan, camera=steer(go_on(plan.camera[..., 2:], passes), focus))
            if memory is not None and memory.known.any():
                # One unit of distance for the whole clip.
                near = (memory.nearness > FARTHEST) & (plan.nearness > FARTHEST)
                ratios = (memory.nearness / plan.nearness)[memory.known & near]
                times = ratios.median() if len(ratios) else plan.nearness.new_ones(())
                plan = replace(
                    plan,
                    nearness=torch.where(memory.known, memory.nearness, plan.nearness * times),
                    velocity=torch.where(memory.known, memory.velocity, plan.velocity / times),
                )
            plan = take_rims(plan, own_classes)
            cautious = keep_distance(replace(plan, velocity=usually), own_classes, focus)
            plan = replace(plan, camera=steer(cautious.camera[..., 2:], focus))
            pace, bend = scene.pace[row : row + 1], scene.bend[row : row + 1]
            courses.append(Course(plan=plan, focus=focus, pace=pace, bend=bend, passes=passes))
    return courses


def _drive_on(
    course: Course,
    *,
    forward_flow: bool,
    times: Sequence[Fraction] | None = None,
) -> Motion:
    """Motion of one course at some times."""
    plan, scale = course.plan, course.scale
    moments = tuple(times or map(Fraction, range(1, plan.camera.shape[1] + 1)))
    at = plan.camera.new_tensor([float(time) for time in moments])
    flow, flow_back, visible, _ = see_from(
        plan, course.camera_at(at), at, scale=scale, forward_flow=forward_flow
    )

    def again(times: Sequence[Fraction], scale: float) -> Motion:
        other = replace(course, scale=scale)
        return _drive_on(other, forward_flow=forward_flow, times=times)

    return Motion(
        flow_px=flow,
        forward_flow_px=flow_back,
        visibility=visible,
        times=moments,
        again=again,
        course=course,
    )


def see_from(
    plan: Plan,
    camera: Tensor,
    times: Tensor,
    *,
    scale: float,
    forward_flow: bool,
) -> tuple[Tensor, Tensor | None, Tensor, Tensor]:
    """What some cameras see of a picture with depth.

    Args:
        plan: Of the picture; its own camera plays no part.
        camera: `(1, T, 6)`, see `seg2vid_cli.camera.camera_flow`.
        times: `(T,)`, in frames since the picture.
        scale: How many times as far objects go.
        forward_flow: Whether flows from the picture are wanted too.

    Returns:
        `flow_px`, `forward_flow_px` and `visibility` of a `Motion`, flow going on where nothing is
        visible, up to its edge; and `(T, 1, H, W)`, above 0 where the picture's places are still to
        be seen.
    """
    output = see(plan.nearness, camera, scale * plan.velocity, times, both_ways=forward_flow)
    flow, flow_back = (
        None if each is None else half_images_to_px(each)[0].transpose(0, 1)
        for each in (output.flow, output.flow_back)
    )
    assert flow is not None
    visible, seen_back = output.visibility[0], output.visibility_back[0, :, None]
    if flow_back is not None:
        flow_back = flow_back * (seen_back > 0)
    return flow * (visible[:, None] > 0), flow_back, visible, seen_back


Offsets = tuple[Tensor, Tensor | None, Tensor]  # flow, flow back, visibility


def _offsets(output: FlowOutput) -> Offsets:
    """Flows as they are used, in half-images: the paper multiplies the offset by the mask, so a
    hidden place is read from where it lies.
    """
    visible, flow_back = output.visibility.float(), output.flow_back
    if flow_back is not None:
        flow_back = flow_back.float() * output.visibility_back.float()[:, None]
    return output.flow.float() * visible[:, None], flow_back, visible


def _full_size(offsets: Offsets, size_hw: tuple[int, int]) -> Offsets:
    """Half-images `(B, 2, T, h, w)` to pixels `(B, T, 2, H, W)`, visibility to `(B, T, H, W)`."""
    flow, back = (
        None if each is None else half_images_to_px(_stretch(each, size_hw)).transpose(1, 2)
        for each in offsets[:2]
    )
    assert flow is not None
    return flow, back, _stretch(offsets[2][:, None], size_hw)[:, 0]


def _put_together(moving: Offsets, still: Offsets, objects: Tensor) -> Offsets:
    """Motion of objects from one prediction, of everything else from another.

    Args:
        moving: Offsets `(B, 2, T, H, W)`, back or None, and visibility `(B, T, H, W)`.
        still: The same for everything else.
        objects: `(B or 1, 1, H, W)`, share of object classes in the source frame.
    """
    batch, _, count = moving[0].shape[:3]
    near = F.max_pool2d(objects, 3, 1, 1).expand(batch, -1, -1, -1)
    mask = (OBJECT_GAIN * near).clamp(0, 1)

    def carried(offset: Tensor) -> Tensor:
        """Where objects are in later frames, `(B, 1, T, H, W)`."""
        px = half_images_to_px(offset).transpose(1, 2).flatten(0, 1)
        later = backward_warp(mask.repeat_interleave(count, dim=0), px)
        videos: Tensor = later.unflatten(0, (batch, count))
        return videos.transpose(1, 2)

    here, elsewhere = carried(moving[0]), carried(still[0])
    flow = here * moving[0] + (1 - here) * still[0]
    visible = here[:, 0] * moving[2] + (1 - here[:, 0]) * still[2]
    # An object that has gone elsewhere must not be seen at its other place as well.
    visible = visible * (1 - (elsewhere - here).clamp(0, 1)[:, 0])
    back = None
    if moving[1] is not None and still[1] is not None:
        back = mask[:, :, None] * moving[1] + (1 - mask[:, :, None]) * still[1]
    return flow, back, visible


def _shrink(x: Tensor, factor: int) -> Tensor:
    if factor == 1 or not x.shape[1]:  # pooling takes no picture without channels
        return x[..., ::factor, ::factor]
    return F.avg_pool2d(x, factor)


def _stretch(x: Tensor, size_hw: tuple[int, int]) -> Tensor:
    """Enlarge `(B, c, T, h, w)`; corners stay corners, as in the flow's half-image coordinates."""
    if tuple(x.shape[-2:]) == size_hw:
        return x
    frames = x.transpose(1, 2).flatten(0, 1)
    frames = F.interpolate(frames, size=size_hw, mode="bilinear", align_corners=True)
    videos: Tensor = frames.unflatten(0, (len(x), -1))
    return videos.transpose(1, 2)
