"""The path, top to bottom: label map, first frame, motion, warped and refined frames."""

from __future__ import annotations

import hashlib
import math
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, replace
from fractions import Fraction
from functools import cached_property
from typing import Literal, cast

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from seg2vid_cli import __version__
from seg2vid_cli.device import Compute, Precision, RowLimit, resolve_compute
from seg2vid_cli.edges import check_variety, detect_edges
from seg2vid_cli.errors import InputError, ShapeError
from seg2vid_cli.first_frame import (
    FirstFrameNetwork,
    check_light,
    paint_first_frame,
    paint_scene,
    picture_to_tensor,
    scene_size,
    to_grey,
)
from seg2vid_cli.keyframes import Keyframe, compose, next_keyframes, start_keyframes
from seg2vid_cli.labels import LabelMap, one_hot, pad_labels, padded_size, resize_labels
from seg2vid_cli.motion import (
    Memory,
    Motion,
    MotionNetwork,
    fitting_downscale,
    predict_motion,
    sample_latents,
)
from seg2vid_cli.networks.edge_detector import EdgeDetector
from seg2vid_cli.networks.ego_flow import EgoFlow
from seg2vid_cli.networks.label_unet import LabelUNet
from seg2vid_cli.networks.pix2pixhd import (
    GlobalConfig,
    GlobalGenerator,
    LocalConfig,
    LocalEnhancer,
)
from seg2vid_cli.networks.seg2vid_refine import Seg2VidRefine
from seg2vid_cli.palette import find_places, one_place_a_class
from seg2vid_cli.recipe import TOOL, Recipe, encode_edges, encode_labels, encode_scene, scene_sha256
from seg2vid_cli.refine import fill_hidden, refine_frames
from seg2vid_cli.sample import Sample
from seg2vid_cli.sketch import sketch_edges
from seg2vid_cli.video import DEFAULT_QUALITY
from seg2vid_cli.warp import backward_warp
from seg2vid_cli.weights.load import FAMILIES, Bundle, open_mixed
from seg2vid_cli.weights.registry import DEFAULT_WEIGHTS, WeightSpec

DEFAULT_FRAMES = 25
MAX_FRAMES = 100_000
FPS_RANGE = (0.1, 1000)  # at lower rates, most of the work would never be seen
SIDE_RANGE_PX = (32, 4096)
Fit = Literal["keep", "stretch"]
FITS: tuple[Fit, ...] = ("keep", "stretch")
Progress = Callable[[str, int, int], None]  # stage, steps done, steps in all


@dataclass(frozen=True, kw_only=True)
class ClipFrame:
    """One frame of a clip and how it came about.

    Args:
        index: Number in the clip, from 0.
        source: Number of the frame that the flows lead to and from; its own for the first frame.
            Not whole where that frame lies between two of the clip, at other rates than the
            weights'.
        frame: uint8 `(H, W, 3)` RGB.
        flow_px: float32 `(2, H, W)`: this pixel shows what the source frame has that far right and
            down. None for the first frame.
        forward_flow_px: float32 `(2, H, W)`: how far each pixel of the source frame moves.
        visibility: float32 `(H, W)`; 1 = taken from earlier frames (the source frame, or with
            keyframes also older ones), 0 = painted by refinement.
    """

    index: int
    source: float
    frame: NDArray[np.uint8]
    flow_px: NDArray[np.float32] | None = None
    forward_flow_px: NDArray[np.float32] | None = None
    visibility: NDArray[np.float32] | None = None


@dataclass(frozen=True, kw_only=True)
class Clip:
    """A clip that is made while it is read; every new iteration makes it again.

    Args:
        recipe: How it is made.
        labels: The label map at the clip's size.
        scene: The map at the size of a generator that paints more of it than the clip's classes.
        picture: uint8 `(H, W, 3)` to start from instead of painting.
        edges: bool `(H, W)` that guide the first frame.
        various: Whether places of one class differ in colour.
        pipeline: Makes it.
        progress: Called with stage, steps done and steps in all.
    """

    recipe: Recipe
    labels: LabelMap
    scene: LabelMap | None = None
    picture: NDArray[np.uint8] | None = None
    edges: NDArray[np.bool_] | None = None
    various: bool = True
    pipeline: Pipeline
    progress: Progress = lambda stage, done, total: None

    @property
    def size_hw(self) -> tuple[int, int]:
        """Height and width of the frames."""
        return self.recipe.size[1], self.recipe.size[0]

    def __len__(self) -> int:
        return self.recipe.frames

    def __iter__(self) -> Iterator[ClipFrame]:
        return (frame for _, frame in self.pipeline.make([self]))


@dataclass(frozen=True, kw_only=True, eq=False)
class _Moment:
    frame: Tensor  # all of the padded size
    seen: Tensor
    flow_px: Tensor
    forward: Tensor | None


@dataclass(frozen=True, kw_only=True, eq=False)
class _Repaired:
    """The frames of a pass, `(T, ...)` each, and what the next pass needs."""

    frames: Tensor
    seen: Tensor
    flow_px: Tensor
    forward_flow_px: Tensor | None
    keyframes: tuple[Keyframe, ...]
    memory: Memory | None = None


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
        # A CPU gains nothing from larger batches, and a clip's bytes stay the same in any company.
        self._one_by_one = compute.device.type == "cpu"
        self._motion_rows = RowLimit(1 if self._one_by_one else None)
        self._refine_rows = RowLimit()
        self._compiled = False
        self._painted: dict[tuple[object, ...], Tensor] = {}

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
            first_frame_weights: Take the first frame's network from these weights, and the edge
                detector where they have one.
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
        bundle, first_frame, motion = open_mixed(
            weights,
            first_frame_weights=first_frame_weights,
            motion_weights=motion_weights,
            before_pull=before_pull,
        )
        return cls(bundle, compute, first_frame_weights=first_frame, motion_weights=motion)

    @cached_property
    def generator(self) -> FirstFrameNetwork:
        """The first-frame network."""
        return cast(FirstFrameNetwork, self._load("first_frame"))

    @cached_property
    def edge_detector(self) -> EdgeDetector:
        """The network that makes a rendering's edges look like a real picture's."""
        return cast(EdgeDetector, self._load("edges"))

    @property
    def painted_by(self) -> str:
        """Name of the bundle that the first frame is from."""
        return self.first_frame_weights or self.bundle.name

    @property
    def guided(self) -> bool:
        """Whether the first frame is painted from labels and edges."""
        return "edges" in self.bundle.stages

    @property
    def edge_threshold(self) -> float:
        """From which size of the Laplacian on there is an edge; see `EdgeDetectorConfig`."""
        threshold: float = self.bundle.stages["edges"].config.threshold
        return threshold

    @cached_property
    def motion(self) -> MotionNetwork:
        """The motion network."""
        return cast(MotionNetwork, self._load("motion"))

    @cached_property
    def refiner(self) -> Seg2VidRefine:
        """The refinement network."""
        return cast(Seg2VidRefine, self._load("refine"))

    @cached_property
    def weights_sha256(self) -> dict[str, str]:
        """Hash of every stage's file."""
        return self.bundle.sha256()

    def _load(self, stage: str) -> torch.nn.Module:
        network = self.compute.prepare(self.bundle.network(stage))
        if self._compiled:
            for name in ("forward", "encode", "decode"):
                if hasattr(network, name):
                    setattr(network, name, torch.compile(getattr(network, name)))
        return network

    def compile(self) -> None:
        """Compile networks when they are first used; takes a minute and pays for many clips."""
        self._compiled = True

    def generate(
        self,
        labels: LabelMap,
        *,
        seed: int = 0,
        variant: int = 0,
        sample: Sample | None = None,
        frames: int = DEFAULT_FRAMES,
        fps: float | None = None,
        quality: float = DEFAULT_QUALITY,
        size_hw: tuple[int, int] | None = None,
        fit: Fit = "keep",
        exact: bool = False,
        picture: NDArray[np.uint8] | None = None,
        picture_sha256: str | None = None,
        edges: NDArray[np.bool_] | None = None,
        edge_variety: float = 0.0,
        various: bool = True,
        progress: Progress = lambda stage, done, total: None,
    ) -> Clip:
        """Prepare a clip; the work is done while it is read.

        Args:
            labels: The label map, any size.
            seed: Decides look and motion; the same seed gives the same clip on the same machine.
            variant: Number of the sample under this seed.
            sample: Instead of both: look, camera and objects drawn apart, between two seeds ...
            frames: Frames in the clip.
            fps: Frames per second; that of the clips the motion was learnt from if not given. The
                motion is as fast at any rate; frames between those that the network predicts are
                warped along flows between its flows.
            quality: Noted for the writer of the video file.
            size_hw: Room for the frames; the area of the weights' own size if not given.
            fit: `keep` the label map's aspect ratio inside that room, or `stretch` to fill it.
            exact: `size_hw` is the very size, whatever `fit` says: to repeat a clip from the map
                in it, whose sides are rounded.
            picture: uint8 `(H, W, 3)` at the clip's size, to start from instead of painting.
            picture_sha256: Hash of the picture's file, for the recipe; else of its pixels.
            edges: bool `(H, W)` at the clip's size, from `Guide.edges`, for weights that are
                guided by them. Without any, such weights follow a sketch of the label map.
            edge_variety: How far the mix of detected edges is from the learnt one, 0 to 2; drawn
                from the sample's appearance.
            various: Whether places of one class differ in colour. Not in a sequence that is painted
                frame by frame, where a house would change its colour as it comes nearer.
            progress: Called with stage, steps done and steps in all.

        Raises:
            InputError: A number out of range, or the weights lack a stage that is needed, or take
                no edges.
            ShapeError: The picture is not uint8 of the clip's size, or the edges are not bool.
        """
        sample = sample or Sample(seed=seed, variant=variant)
        check_settings(frames=frames, fps=fps, quality=quality, size_hw=size_hw, fit=fit)
        check_variety(edge_variety)
        if picture is None:
            self.bundle.require("first_frame")
            self.check_light(sample.light)
        else:
            sample = replace(sample, light=None)
        self.check_edges(edges is not None, starts_from_picture=picture is not None)
        if frames > 1:
            self.bundle.require("motion", "refine")
        rate = (self.bundle.fps or 1.0) if fps is None else fps  # one frame may come without a rate
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
        if edges is not None and (edges.shape != size or edges.dtype != np.bool_):
            raise ShapeError(f"the edges are {edges.dtype} {edges.shape}, not bool {size}")
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
            **vars(sample),
            frames=frames,
            fps=rate,
            quality=quality,
            size=(size[1], size[0]),
            fit=fit,
            labels_sha256=small.sha256 if scene is None else scene_sha256(labels_png),
            labels_png=labels_png,
            first_frame_sha256=picture_sha256,
            edges_png=None if edges is None else encode_edges(edges),
            edge_variety=0.0 if edges is None else edge_variety,
        )
        return Clip(
            recipe=recipe,
            labels=small,
            scene=scene,
            picture=picture,
            edges=edges,
            various=various,
            pipeline=self,
            progress=progress,
        )

    def check_light(self, light: float | None) -> None:
        """Make sure that how light the first frame is can be chosen, if it is.

        Raises:
            InputError: The weights, which have a first-frame stage, cannot be told.
        """
        check_light(light, self.bundle.stages["first_frame"].config, self.painted_by)

    def check_edges(
        self,
        given: bool,
        *,
        starts_from_picture: bool = False,
        option: str = "--first-frame-weights",
    ) -> None:
        """Make sure that edges are given only where the first frame can follow them.

        Args:
            given: Whether they are.
            starts_from_picture: Whether the first frame is not painted at all.
            option: That names other weights for the first frame, for messages.

        Raises:
            InputError: They are of no use.
        """
        if given and starts_from_picture:
            raise InputError(
                "edges are of no use where the clip starts from a picture",
                hint="leave out --edges, or --first-frame",
            )
        if given and not self.guided:
            raise InputError(
                f"weights '{self.painted_by}' paint from labels alone and take no edges",
                hint=f"add {option} {DEFAULT_WEIGHTS}",
            )

    def _scene(self, labels: LabelMap) -> LabelMap | None:
        """The map at the size of a generator that paints more of it than the clip's classes."""
        config = self.bundle.stages["first_frame"].config
        if not isinstance(config, (GlobalConfig, LocalConfig)):
            return None
        return resize_labels(labels, scene_size(config, labels.size_hw))

    def make(
        self, clips: Sequence[Clip], *, forward_flow: bool = True
    ) -> Iterator[tuple[int, ClipFrame]]:
        """Make clips together: what they share is done once, and networks get whole batches.

        Args:
            clips: From `generate` of this pipeline; of one size, length and frame rate.
            forward_flow: Whether the frames need `forward_flow_px`.

        Yields:
            Number of the clip and its next frame, frame 0 of all clips first.

        Raises:
            ShapeError: The clips differ in size, length or frame rate.
        """
        if len({(c.recipe.size, c.recipe.frames, c.recipe.fps) for c in clips}) != 1:
            raise ShapeError("clips made together must have one size, length and frame rate")
        height, width = clips[0].size_hw
        padded_hw = self._padded_size(clips[0].size_hw)
        top, left = (padded_hw[0] - height) // 2, (padded_hw[1] - width) // 2
        window = np.s_[..., top : top + height, left : left + width]
        starts = []
        for number, clip in enumerate(clips):
            padded, corner = pad_labels(clip.labels, padded_hw)
            assert corner == (top, left)
            clip.progress("first frame", 0, 1)
            planes = torch.from_numpy(one_hot(padded.train_ids))[None].to(self.compute.device)
            first, planes = self._as_motion_sees(self._first_frame(clip, planes, corner), planes)
            clip.progress("first frame", 1, 1)
            starts.append((first, planes))
            yield number, ClipFrame(index=0, source=0, frame=to_uint8(first[0][window]))
        if clips[0].recipe.frames == 1:  # may come from weights without motion
            return
        for number, index, source, moment in self._continue(clips, starts, forward_flow):
            clips[number].progress("motion", index, clips[number].recipe.frames - 1)
            yield (
                number,
                ClipFrame(
                    index=index,
                    source=source,
                    frame=to_uint8(moment.frame[window]),
                    flow_px=moment.flow_px[window].cpu().numpy(),
                    forward_flow_px=(
                        None if moment.forward is None else moment.forward[window].cpu().numpy()
                    ),
                    visibility=moment.seen[window].cpu().numpy(),
                ),
            )

    def _first_frame(self, clip: Clip, planes: Tensor, corner: tuple[int, int]) -> Tensor:
        """Paint, or take over, a clip's first frame: `(1, 3, H, W)` of the padded size."""
        recipe = clip.recipe
        look: object = recipe.first_frame_sha256 or recipe.sample.key("appearance")
        if clip.scene is not None:  # always painted in the same way
            look = None
        edges = recipe.edges_png, recipe.edge_variety
        key = (recipe.labels_sha256, recipe.size, look, *edges, clip.various)
        if key not in self._painted:  # the samples of one map come one after the other
            self._painted = {key: self._paint(clip, planes, corner)}
        return self._painted[key]

    def _paint(self, clip: Clip, planes: Tensor, corner: tuple[int, int]) -> Tensor:
        picture = clip.picture
        if picture is None and clip.scene is None:
            assert isinstance(self.generator, LabelUNet)
            edges = self._detect(clip, planes, corner) if self.guided else None
            return paint_first_frame(
                self.generator,
                planes,
                sample=clip.recipe.sample,
                compute=self.compute,
                edges=edges,
                places=self._places(clip, planes, corner),
                various=clip.various,
            )
        if clip.scene is not None:
            assert isinstance(self.generator, (GlobalGenerator, LocalEnhancer))
            scene = paint_scene(
                self.generator, clip.scene, size_hw=clip.size_hw, compute=self.compute
            )
            picture = to_uint8(scene[0])
        assert picture is not None
        padded = _pad_picture(picture, (planes.shape[-2], planes.shape[-1]), corner)
        return picture_to_tensor(padded).to(self.compute.device)

    def _places(
        self, clip: Clip, planes: Tensor, corner: tuple[int, int]
    ) -> NDArray[np.intp] | None:
        """Places that have a colour of their own, of the padded size, for a generator that asks."""
        if cast(LabelUNet, self.generator).palette is None:
            return None
        train_ids = clip.labels.train_ids
        if clip.various:
            rng = clip.recipe.sample.generator(part="appearance", purpose="sketch")
            places = find_places(train_ids, rng)
        else:
            places = one_place_a_class(train_ids)
        borders = _borders(clip.size_hw, (planes.shape[-2], planes.shape[-1]), corner)
        return np.pad(places, borders, mode="edge")

    def _detect(self, clip: Clip, planes: Tensor, corner: tuple[int, int]) -> Tensor:
        """Edges as the generator wants them, `(1, 1, H, W)` of the padded size."""
        edges = clip.edges
        if edges is None:
            rng = clip.recipe.sample.generator(part="appearance", purpose="sketch")
            edges = sketch_edges(clip.labels.train_ids, rng)
        borders = _borders(clip.size_hw, (planes.shape[-2], planes.shape[-1]), corner)
        padded = torch.from_numpy(np.pad(edges, borders))[None, None]
        return detect_edges(
            self.edge_detector,
            padded.float().to(self.compute.device),
            sample=clip.recipe.sample,
            variety=clip.recipe.edge_variety,
            compute=self.compute,
        )

    def _as_motion_sees(self, frame: Tensor, planes: Tensor) -> tuple[Tensor, Tensor]:
        """Grey pictures for a network that knows no colours, no planes for one without labels."""
        if "motion" not in self.bundle.stages:
            return frame, planes
        config = self.bundle.stages["motion"].config
        if config.image_channels == 1:
            frame = to_grey(frame)
        return frame, planes[:, : config.label_planes]

    def _continue(
        self, clips: Sequence[Clip], starts: Sequence[tuple[Tensor, Tensor]], forward_flow: bool
    ) -> Iterator[tuple[int, int, float, _Moment]]:
        """Pass by pass, each from the last predicted frame of the one before.

        Yields:
            Number of the clip, of the frame, of its source frame, and the frame.
        """
        options, config = self.bundle.stages["motion"].options, self.motion.config
        samples = [clip.recipe.sample for clip in clips]
        latents = torch.cat([sample_latents(config, sample) for sample in samples])
        camera = None
        if options.get("objects_apart", False):
            camera = torch.cat([sample_latents(config, s, camera_only=True) for s in samples])
        keyframes = [start_keyframes(*start) for start in starts]
        memories: list[Memory | None] = []
        frames = clips[0].recipe.frames
        step = _native_step(self.bundle.fps, clips[0].recipe.fps)
        made, passes = 1, 0
        while made < frames:
            # Frames whose time lies in this pass, in steps of the network since its source frame.
            begin = passes * config.num_frames
            last = min(frames - 1, math.floor((begin + config.num_frames) / step))
            times = [index * step - begin for index in range(made, last + 1)]
            source_frame = Fraction(begin) / step
            whole = source_frame.denominator == 1
            source_index = int(source_frame) if whole else float(source_frame)
            more = last < frames - 1
            if more and (not times or times[-1] != config.num_frames):
                times.append(Fraction(config.num_frames))  # not shown, but where the next starts
            motions = self._predict(keyframes, memories, latents, camera, forward_flow)
            noises = [
                sample.draw(
                    tuple(starts[0][0].shape), part="appearance", purpose=f"refine/{begin + 1}"
                ).to(self.compute.device)
                for sample in samples
            ]
            # In pieces, so that memory does not grow with the frame rate.
            for first in range(0, len(times), config.num_frames):
                piece = times[first : first + config.num_frames]
                moved = [
                    motion.at(piece).scaled(sample.motion_scale)
                    for motion, sample in zip(motions, samples, strict=True)
                ]
                repaired = self._repair(keyframes, moved, noises)
                for position, index in enumerate(range(made, min(made + len(piece), last + 1))):
                    for number, each in enumerate(repaired):
                        forward = each.forward_flow_px
                        yield (
                            number,
                            index,
                            source_index,
                            _Moment(
                                frame=each.frames[position],
                                seen=each.seen[position],
                                flow_px=each.flow_px[position],
                                forward=None if forward is None else forward[position],
                            ),
                        )
                made = min(made + len(piece), last + 1)
            keyframes = [each.keyframes for each in repaired]  # of the last piece
            memories = [each.memory for each in repaired]
            passes += 1

    def motion_downscale(self, size_hw: tuple[int, int]) -> int:
        """How many times smaller than `size_hw`, a padded size, the motion network sees pictures.

        Ego-flow networks see them at about the size they learnt from, whatever the bundle says.
        """
        if isinstance(self.motion, EgoFlow):
            return fitting_downscale(size_hw, self.motion)
        out: int = self.bundle.stages["motion"].options.get("downscale", 1)
        return out

    def _predict(
        self,
        keyframes: Sequence[tuple[Keyframe, ...]],
        memories: Sequence[Memory | None],
        latents: Tensor,
        camera: Tensor | None,
        forward_flow: bool,
    ) -> list[Motion]:
        """Motion of each clip from the last of its keyframes, on the CPU one after the other."""
        sources = [held[-1] for held in keyframes]
        height, width = sources[0].picture.shape[-2:]
        downscale = self.motion_downscale((height, width))

        def predict(sources: Sequence[Keyframe], rows: slice) -> list[Motion]:
            return predict_motion(
                self.motion,
                torch.cat([source.picture for source in sources]),
                torch.cat([source.planes for source in sources]),
                latents[rows],
                downscale=downscale,
                compute=self.compute,
                rows=self._motion_rows,
                forward_flow=forward_flow,
                camera_latents=None if camera is None else camera[rows],
                memories=memories[rows],
            )

        if all(source.picture is sources[0].picture for source in sources):
            return predict(sources[:1], slice(None))
        if not self._one_by_one:
            return predict(sources, slice(None))
        return [predict([s], slice(i, i + 1))[0] for i, s in enumerate(sources)]

    def _repair(
        self,
        keyframes: Sequence[tuple[Keyframe, ...]],
        motions: Sequence[Motion],
        noises: Sequence[Tensor],
    ) -> list[_Repaired]:
        """Warp and refine the frames of a pass, for each clip."""
        options = self.bundle.stages["refine"].options
        limit, keep_visible = options.get("keyframes", 0), options.get("keep_visible", False)
        composites, warped, seen = [], [], []
        filled: list[Tensor | None] = []
        for held, motion in zip(keyframes, motions, strict=True):
            if limit:
                composite = compose(held, motion)
                composites.append(composite)
                warped.append(composite.pictures)
                seen.append(composite.seen[:, 0])
                behind = None
                if composite.things is not None and composite.vehicles is not None:
                    behind = fill_hidden(warped[-1], seen[-1], composite.things, composite.vehicles)
                filled.append(behind)
                continue
            # The paper's iterative scheme: everything from the source frame.
            picture = held[-1].picture.expand(len(motion.flow_px), -1, -1, -1)
            warped.append(backward_warp(picture, motion.flow_px))
            visible = motion.visibility
            if keep_visible:  # what lies outside the source frame must not stay black
                inside = torch.ones_like(visible)[:, None]
                visible = visible * backward_warp(inside, motion.flow_px)[:, 0]
            seen.append(visible)
            filled.append(None)
        together = [[number] for number in range(len(warped))]
        if not self._one_by_one:
            together = [list(range(len(warped)))]
        refined: list[Tensor] = []
        for numbers in together:
            counts = [len(warped[number]) for number in numbers]
            refined += refine_frames(
                self.refiner,
                torch.cat([warped[number] for number in numbers]),
                torch.cat([seen[number] for number in numbers]),
                torch.cat([noises[n].expand(len(warped[n]), -1, -1, -1) for n in numbers]),
                keep_visible=keep_visible,
                compute=self.compute,
                rows=self._refine_rows,
                filled=None
                if filled[numbers[0]] is None
                else torch.cat(
                    [each for number in numbers if (each := filled[number]) is not None]
                ),
            ).split(counts)
        done = []
        for number, frames in enumerate(refined):
            if limit:
                composite = composites[number]
                done.append(
                    _Repaired(
                        frames=frames,
                        seen=seen[number],
                        keyframes=next_keyframes(composite, frames[-1:], limit=limit),
                        flow_px=composite.flow_px,
                        forward_flow_px=composite.forward_flow_px,
                        memory=composite.memory,
                    )
                )
                continue
            planes = keyframes[number][-1].planes
            if planes.shape[1]:
                planes = backward_warp(planes, motions[number].flow_px[-1:])
            done.append(
                _Repaired(
                    frames=frames,
                    seen=seen[number],
                    keyframes=start_keyframes(frames[-1:], planes),
                    flow_px=motions[number].flow_px,
                    forward_flow_px=motions[number].forward_flow_px,
                )
            )
        return done

    def _padded_size(self, size_hw: tuple[int, int]) -> tuple[int, int]:
        stages = self.bundle.stages
        multiple = Seg2VidRefine.multiple
        if "motion" in stages:
            downscale = stages["motion"].options.get("downscale", 1)
            mover = cast(type[MotionNetwork], FAMILIES[stages["motion"].family][1])
            multiple = math.lcm(multiple, mover.multiple * downscale)
        if "first_frame" in stages and stages["first_frame"].family == "label-unet":
            multiple = math.lcm(multiple, stages["first_frame"].config.multiple)
        if "edges" in stages:
            multiple = math.lcm(multiple, stages["edges"].config.multiple)
        return padded_size(size_hw, multiple=multiple, smallest=Seg2VidRefine.smallest)


def _native_step(native_fps: float | None, fps: float) -> Fraction:
    """Steps of the motion network from one frame of a clip to the next, exactly."""
    assert native_fps is not None
    native, wanted = (Fraction(rate).limit_denominator(1001) for rate in (native_fps, fps))
    return native / wanted


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
    aspect = labels_hw[1] / labels_hw[0]
    side = math.sqrt(native_hw[0] * native_hw[1] / aspect)
    usual = _even(side), _even(side * aspect)
    if room_hw is None:
        room_hw, fit = usual, "stretch"
    _check_room(room_hw)
    low, _ = SIDE_RANGE_PX
    height, width = room_hw
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


def check_settings(
    *, frames: int, fps: float | None, quality: float, size_hw: tuple[int, int] | None, fit: str
) -> None:
    """Make sure that the settings of `Pipeline.generate` are in range.

    Raises:
        InputError: One is not.
    """
    if not isinstance(frames, int) or not 1 <= frames <= MAX_FRAMES:
        raise InputError(
            f"frames {frames} is out of range", hint=f"a whole number from 1 to {MAX_FRAMES}"
        )
    rate = 1.0 if fps is None else fps
    low, high = FPS_RANGE
    if not low <= rate <= high:  # also false for NaN
        raise InputError(
            f"{rate:g} frames per second is out of range", hint=f"a number from {low} to {high}"
        )
    if not 0 <= quality <= 10:
        raise InputError(f"quality {quality:g} is out of range", hint="a number from 0 to 10")
    if fit not in FITS:
        raise InputError(f"fit '{fit}' is not known", hint=f"use one of {', '.join(FITS)}")
    if size_hw is not None:
        _check_room(size_hw)


def _check_room(size_hw: tuple[int, int]) -> None:
    low, high = SIDE_RANGE_PX
    height, width = size_hw
    if not (low <= height <= high and low <= width <= high):
        raise InputError(
            f"size {width}x{height} is out of range", hint=f"both sides from {low} to {high} pixels"
        )
    if height % 2 or width % 2:
        raise InputError(f"size {width}x{height} is odd", hint="video needs even sides")


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
    borders = _borders((picture.shape[0], picture.shape[1]), size_hw, corner)
    return np.pad(picture, [*borders, (0, 0)], mode="edge")


def _borders(
    inner_hw: tuple[int, int], outer_hw: tuple[int, int], corner: tuple[int, int]
) -> list[tuple[int, int]]:
    return [
        (before, full - before - side)
        for before, full, side in zip(corner, outer_hw, inner_hw, strict=True)
    ]
