"""The path, top to bottom: label map, first frame, motion, warped and refined frames."""

from __future__ import annotations

import hashlib
import math
from collections.abc import Callable, Iterator
from dataclasses import dataclass, replace
from functools import cached_property
from typing import Literal, cast

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from seg2vid_cli import __version__
from seg2vid_cli.device import Compute, Precision, draw_normal, resolve_compute
from seg2vid_cli.errors import InputError, ShapeError
from seg2vid_cli.first_frame import (
    FirstFrameNetwork,
    paint_first_frame,
    paint_scene,
    picture_to_tensor,
    scene_size,
)
from seg2vid_cli.keyframes import Keyframe, compose, next_keyframes, start_keyframes
from seg2vid_cli.labels import LabelMap, one_hot, pad_labels, padded_size, resize_labels
from seg2vid_cli.motion import predict_motion, sample_latents
from seg2vid_cli.networks.label_unet import LabelUNet
from seg2vid_cli.networks.pix2pixhd import (
    GlobalConfig,
    GlobalGenerator,
    LocalConfig,
    LocalEnhancer,
)
from seg2vid_cli.networks.seg2vid_flow import Seg2VidFlow
from seg2vid_cli.networks.seg2vid_refine import Seg2VidRefine
from seg2vid_cli.recipe import TOOL, Recipe, encode_labels, encode_scene, scene_sha256
from seg2vid_cli.refine import refine_frames
from seg2vid_cli.video import DEFAULT_QUALITY
from seg2vid_cli.warp import backward_warp
from seg2vid_cli.weights.load import Bundle, mix_bundles, open_bundle
from seg2vid_cli.weights.registry import DEFAULT_WEIGHTS, WeightSpec

DEFAULT_FRAMES = 25
MAX_FRAMES = 100_000
SIDE_RANGE_PX = (32, 4096)
LUMA = (0.299, 0.587, 0.114)  # ITU-R BT.601, as Pillow and OpenCV turn RGB into grey
Fit = Literal["keep", "stretch"]
FITS: tuple[Fit, ...] = ("keep", "stretch")
Progress = Callable[[str, int, int], None]  # stage, steps done, steps in all


@dataclass(frozen=True, kw_only=True)
class ClipFrame:
    """One frame of a clip and how it came about.

    Args:
        index: Number in the clip, from 0.
        source: Number of the frame that the flows lead to and from; its own for the first frame.
        frame: uint8 `(H, W, 3)` RGB.
        flow_px: float32 `(2, H, W)`: this pixel shows what the source frame has that far right and
            down. None for the first frame.
        forward_flow_px: float32 `(2, H, W)`: how far each pixel of the source frame moves.
        visibility: float32 `(H, W)`; 1 = taken from earlier frames (the source frame, or with
            keyframes also older ones), 0 = painted by refinement.
    """

    index: int
    source: int
    frame: NDArray[np.uint8]
    flow_px: NDArray[np.float32] | None = None
    forward_flow_px: NDArray[np.float32] | None = None
    visibility: NDArray[np.float32] | None = None


class Clip:
    """A clip that is made while it is read; every new iteration makes it again.

    Args:
        recipe: How it is made.
        labels: The label map at the clip's size.
        frames: Starts the making.
    """

    def __init__(
        self, recipe: Recipe, labels: LabelMap, frames: Callable[[], Iterator[ClipFrame]]
    ) -> None:
        self.recipe = recipe
        self.labels = labels
        self._frames = frames

    @property
    def size_hw(self) -> tuple[int, int]:
        """Height and width of the frames."""
        return self.recipe.size[1], self.recipe.size[0]

    def __len__(self) -> int:
        return self.recipe.frames

    def __iter__(self) -> Iterator[ClipFrame]:
        return self._frames()


class Pipeline:
    """All networks of a bundle on one device.

    Args:
        bundle: Checked weights; each network is loaded when it is first needed.
        compute: Where to run.
        first_frame_weights: Name of the bundle the first frame is from, where it is another.
        motion_weights: Name of the bundle the motion is from, where it is another.
    """

    def __init__(
        self,
        bundle: Bundle,
        compute: Compute,
        *,
        first_frame_weights: str | None = None,
        motion_weights: str | None = None,
    ) -> None:
        self.bundle = bundle
        self.compute = compute
        self.first_frame_weights = first_frame_weights
        self.motion_weights = motion_weights

    @classmethod
    def open(
        cls,
        weights: str = DEFAULT_WEIGHTS,
        *,
        first_frame_weights: str | None = None,
        motion_weights: str | None = None,
        device: str = "auto",
        precision: Precision = "auto",
        before_pull: Callable[[WeightSpec], None] | None = None,
    ) -> Pipeline:
        """Open weights by name or folder; downloaded at first use, if they are on the Hub.

        Args:
            weights: What is not taken from the two below.
            first_frame_weights: Take the first frame's network from these weights.
            motion_weights: Take motion, size and frame rate from these weights, and refinement
                where they have it.
            device: See `resolve_compute`.
            precision: See `resolve_compute`.
            before_pull: Told which weights are about to be downloaded; silent without.

        Raises:
            InputError: Unknown weights, device or precision, or weights that do not fit together.
            WeightsError: Damaged weights, or a download that failed.
        """
        compute = resolve_compute(device, precision)
        base, first_frame, motion = (
            None if name is None else open_bundle(name, before_pull=before_pull)
            for name in (weights, first_frame_weights, motion_weights)
        )
        assert base is not None
        return cls(
            mix_bundles(base, first_frame=first_frame, motion=motion),
            compute,
            first_frame_weights=first_frame.name if first_frame else None,
            motion_weights=motion.name if motion else None,
        )

    @cached_property
    def generator(self) -> FirstFrameNetwork:
        """The first-frame network."""
        return cast(FirstFrameNetwork, self._load("first_frame"))

    @cached_property
    def motion(self) -> Seg2VidFlow:
        """The motion network."""
        return cast(Seg2VidFlow, self._load("motion"))

    @cached_property
    def refiner(self) -> Seg2VidRefine:
        """The refinement network."""
        return cast(Seg2VidRefine, self._load("refine"))

    @cached_property
    def weights_sha256(self) -> dict[str, str]:
        """Hash of every stage's file."""
        return self.bundle.sha256()

    def _load(self, stage: str) -> torch.nn.Module:
        return self.bundle.network(stage).to(self.compute.device)

    def generate(
        self,
        labels: LabelMap,
        *,
        seed: int = 0,
        variant: int = 0,
        frames: int = DEFAULT_FRAMES,
        fps: float | None = None,
        quality: float = DEFAULT_QUALITY,
        size_hw: tuple[int, int] | None = None,
        fit: Fit = "keep",
        exact: bool = False,
        picture: NDArray[np.uint8] | None = None,
        picture_sha256: str | None = None,
        progress: Progress = lambda stage, done, total: None,
    ) -> Clip:
        """Prepare a clip; the work is done while it is read.

        Args:
            labels: The label map, any size.
            seed: Decides look and motion; the same seed gives the same clip on the same machine.
            variant: Number of the sample under this seed.
            frames: Frames in the clip.
            fps: Frames per second; that of the clips the motion was learnt from if not given.
            quality: Noted for the writer of the video file.
            size_hw: Room for the frames; the area of the weights' own size if not given.
            fit: `keep` the label map's aspect ratio inside that room, or `stretch` to fill it.
            exact: `size_hw` is the very size, whatever `fit` says: to repeat a clip from the map
                in it, whose sides are rounded.
            picture: uint8 `(H, W, 3)` at the clip's size, to start from instead of painting.
            picture_sha256: Hash of the picture's file, for the recipe; else of its pixels.
            progress: Called with stage, steps done and steps in all.

        Raises:
            InputError: A number out of range, or the weights lack a stage that is needed.
            ShapeError: The picture is not uint8 of the clip's size.
        """
        for name, value, low, high in (
            ("frames", frames, 1, MAX_FRAMES),
            ("seed", seed, 0, 2**63 - 1),
            ("variant", variant, 0, 2**31 - 1),
        ):
            if not isinstance(value, int) or not low <= value <= high:
                raise InputError(
                    f"{name} {value} is out of range", hint=f"a whole number from {low} to {high}"
                )
        if picture is None:
            self.bundle.require("first_frame")
        if frames > 1:
            self.bundle.require("motion", "refine")
        rate = (self.bundle.fps or 1.0) if fps is None else fps  # one frame may come without a rate
        for what, number, top in (
            (f"{rate:g} frames per second", rate, 1000),
            (f"quality {quality:g}", quality, 10),
        ):
            if not 0 <= number <= top:  # also false for NaN
                raise InputError(f"{what} is out of range", hint=f"a number from 0 to {top}")
        check_fit(fit)
        size = plan_size(
            labels.size_hw, self.bundle.size_hw, room_hw=size_hw, fit="stretch" if exact else fit
        )
        scene = None if picture is not None else self._scene(labels)
        # Elsewhere instances do not change a pixel, so they are no part of how a clip was made.
        small = resize_labels(labels if scene is None else scene, size)
        small = replace(small, instances=None, instances_given=False)
        labels_png = encode_labels(small.train_ids) if scene is None else encode_scene(scene)
        if picture is not None:
            if picture.shape != (*size, 3) or picture.dtype != np.uint8:
                raise ShapeError(
                    f"the picture is {picture.dtype} {picture.shape}, not uint8 {(*size, 3)}"
                )
            picture_sha256 = picture_sha256 or hashlib.sha256(picture.tobytes()).hexdigest()
        recipe = Recipe(
            tool=TOOL,
            version=__version__,
            torch=torch.__version__,
            weights=self.bundle.name,
            first_frame_weights=self.first_frame_weights,
            motion_weights=self.motion_weights,
            weights_sha256=self.weights_sha256,
            device=self.compute.device.type,
            precision=self.compute.precision,
            seed=seed,
            variant=variant,
            frames=frames,
            fps=rate,
            quality=quality,
            size=(size[1], size[0]),
            fit=fit,
            labels_sha256=small.sha256 if scene is None else scene_sha256(labels_png),
            labels_png=labels_png,
            first_frame_sha256=picture_sha256,
        )
        return Clip(recipe, small, lambda: self._make(recipe, small, scene, picture, progress))

    def _scene(self, labels: LabelMap) -> LabelMap | None:
        """The map at the size of a generator that paints more of it than the clip's classes."""
        config = self.bundle.stages["first_frame"].config
        if not isinstance(config, (GlobalConfig, LocalConfig)):
            return None
        return resize_labels(labels, scene_size(config, labels.size_hw))

    def _make(
        self,
        recipe: Recipe,
        labels: LabelMap,
        scene: LabelMap | None,
        picture: NDArray[np.uint8] | None,
        progress: Progress,
    ) -> Iterator[ClipFrame]:
        padded, (top, left) = pad_labels(labels, self._padded_size(labels.size_hw))
        height, width = labels.size_hw
        window = np.s_[..., top : top + height, left : left + width]
        planes = torch.from_numpy(one_hot(padded.train_ids))[None].to(self.compute.device)
        progress("first frame", 0, 1)
        if scene is not None:
            assert isinstance(self.generator, (GlobalGenerator, LocalEnhancer))
            painted = paint_scene(
                self.generator, scene, size_hw=labels.size_hw, compute=self.compute
            )
            picture = to_uint8(painted[0])
        if picture is None:
            assert isinstance(self.generator, LabelUNet)
            seeds = {"seed": recipe.seed, "variant": recipe.variant}
            first = paint_first_frame(self.generator, planes, compute=self.compute, **seeds)
        else:
            first = picture_to_tensor(_pad_picture(picture, padded.size_hw, (top, left)))
            first = first.to(self.compute.device)
        first, planes = self._as_motion_sees(first, planes)
        progress("first frame", 1, 1)
        yield ClipFrame(index=0, source=0, frame=to_uint8(first[0][window]))
        if recipe.frames == 1:  # may come from weights without motion
            return
        for index, source, frame, flow, forward, visible in self._continue(recipe, first, planes):
            progress("motion", index, recipe.frames - 1)
            yield ClipFrame(
                index=index,
                source=source,
                frame=to_uint8(frame[window]),
                flow_px=flow[window].cpu().numpy(),
                forward_flow_px=forward[window].cpu().numpy(),
                visibility=visible[window].cpu().numpy(),
            )

    def _as_motion_sees(self, frame: Tensor, planes: Tensor) -> tuple[Tensor, Tensor]:
        """Grey pictures for a network that knows no colours, no planes for one without labels."""
        if "motion" not in self.bundle.stages:
            return frame, planes
        config = self.bundle.stages["motion"].config
        if config.image_channels == 1:
            frame = (frame * frame.new_tensor(LUMA)[:, None, None]).sum(1, keepdim=True)
        return frame, planes[:, : config.label_planes]

    def _continue(
        self, recipe: Recipe, first: Tensor, planes: Tensor
    ) -> Iterator[tuple[int, int, Tensor, Tensor, Tensor, Tensor]]:
        """Pass by pass, each from the last frame of the one before."""
        downscale = self.bundle.stages["motion"].options.get("downscale", 1)
        seeds = {"seed": recipe.seed, "variant": recipe.variant}
        latents = sample_latents(self.motion.config, **seeds)
        source, made, keyframes = first, 1, start_keyframes(first, planes)
        while made < recipe.frames:
            motion = predict_motion(
                self.motion, source, planes, latents, downscale=downscale, compute=self.compute
            )
            count = min(self.motion.config.num_frames, recipe.frames - made)
            flow, visible = motion.flow_px[:count], motion.visibility[:count]
            noise = draw_normal(tuple(source.shape), purpose=f"refine/{made}", **seeds)
            refined, seen, planes, keyframes = self._repair(
                keyframes, flow, visible, noise.to(self.compute.device)
            )
            for t in range(count):
                forward = motion.forward_flow_px[t]
                yield made + t, made - 1, refined[t], flow[t], forward, seen[t]
            source = refined[-1:]
            made += count

    def _repair(
        self, keyframes: tuple[Keyframe, ...], flow: Tensor, visible: Tensor, noise: Tensor
    ) -> tuple[Tensor, Tensor, Tensor, tuple[Keyframe, ...]]:
        """Warp and refine the frames of a pass.

        Returns:
            Frames, what of them was seen before, labels and keyframes for the next pass.
        """
        options, source = self.bundle.stages["refine"].options, keyframes[-1]
        limit, keep_visible = options.get("keyframes", 0), options.get("keep_visible", False)
        if limit:
            composite = compose(keyframes, flow, visible)
            warped, seen = composite.pictures, composite.seen[:, 0]
        else:  # the paper's iterative scheme: everything from the source frame
            warped = backward_warp(source.picture.expand(len(flow), -1, -1, -1), flow)
            seen = visible
            if keep_visible:  # what lies outside the source frame must not stay black
                inside = torch.ones_like(seen)[:, None]
                seen = seen * backward_warp(inside, flow)[:, 0]
        refined = refine_frames(
            self.refiner, warped, seen, noise, keep_visible=keep_visible, compute=self.compute
        )
        if limit:
            after = next_keyframes(composite, refined[-1:], limit=limit)
            return refined, seen, composite.planes, after
        planes = source.planes
        if planes.shape[1]:
            planes = backward_warp(planes, flow[-1:])
        return refined, seen, planes, start_keyframes(refined[-1:], planes)

    def _padded_size(self, size_hw: tuple[int, int]) -> tuple[int, int]:
        stages = self.bundle.stages
        multiple = Seg2VidRefine.multiple
        if "motion" in stages:
            downscale = stages["motion"].options.get("downscale", 1)
            multiple = math.lcm(multiple, Seg2VidFlow.multiple * downscale)
        if "first_frame" in stages and stages["first_frame"].family == "label-unet":
            multiple = math.lcm(multiple, stages["first_frame"].config.multiple)
        return padded_size(size_hw, multiple=multiple, smallest=Seg2VidRefine.smallest)


def plan_size(
    labels_hw: tuple[int, int],
    native_hw: tuple[int, int],
    *,
    room_hw: tuple[int, int] | None = None,
    fit: Fit = "keep",
) -> tuple[int, int]:
    """Choose the size of the frames: even sides, the label map's aspect ratio unless stretched.

    Args:
        labels_hw: Size of the label map.
        native_hw: Size the weights were trained at; sets the area where no room is given.
        room_hw: Room that the frames must fit into.
        fit: `keep` the aspect ratio inside the room, or `stretch` to fill it.

    Returns:
        Height and width.

    Raises:
        InputError: The room is too small, too large or odd.
    """
    check_fit(fit)
    aspect = labels_hw[1] / labels_hw[0]
    side = math.sqrt(native_hw[0] * native_hw[1] / aspect)
    usual = _even(side), _even(side * aspect)
    if room_hw is None:
        room_hw, fit = usual, "stretch"
    low, high = SIDE_RANGE_PX
    height, width = room_hw
    if not (low <= height <= high and low <= width <= high):
        raise InputError(
            f"size {width}x{height} is out of range", hint=f"both sides from {low} to {high} pixels"
        )
    if height % 2 or width % 2:
        raise InputError(f"size {width}x{height} is odd", hint="video needs even sides")
    if fit == "stretch":
        return height, width
    if room_hw == usual or _even(height * aspect) == width or _even(width / aspect) == height:
        return height, width  # the same aspect ratio, but for the rounding to even sides
    scale = min(width / labels_hw[1], height / labels_hw[0])
    fitted = _even(labels_hw[0] * scale), _even(labels_hw[1] * scale)
    if min(fitted) < low:
        raise InputError(
            f"a label map of {labels_hw[1]}x{labels_hw[0]} fits into {width}x{height} only at "
            f"{fitted[1]}x{fitted[0]}",
            hint=f"both sides must be at least {low} pixels: give more room, or --fit stretch",
        )
    return min(fitted[0], height), min(fitted[1], width)


def check_fit(fit: str) -> None:
    """Make sure that a way to fit into a room is known.

    Raises:
        InputError: It is not.
    """
    if fit not in FITS:
        raise InputError(f"fit '{fit}' is not known", hint=f"use one of {', '.join(FITS)}")


def to_uint8(frame: Tensor) -> NDArray[np.uint8]:
    """`(3, H, W)`, or grey `(1, H, W)`, in [0, 1] to uint8 `(H, W, 3)` on the CPU."""
    picture: NDArray[np.uint8] = (
        (frame.expand(3, -1, -1).clamp(0, 1) * 255)
        .round()
        .to(torch.uint8)
        .permute(1, 2, 0)
        .contiguous()
        .cpu()
        .numpy()
    )
    return picture


def _even(size: float) -> int:
    return max(2, 2 * round(size / 2))


def _pad_picture(
    picture: NDArray[np.uint8], size_hw: tuple[int, int], corner: tuple[int, int]
) -> NDArray[np.uint8]:
    borders = [
        (before, full - before - side)
        for before, full, side in zip(corner, size_hw, picture.shape[:2], strict=True)
    ]
    return np.pad(picture, [*borders, (0, 0)], mode="edge")
