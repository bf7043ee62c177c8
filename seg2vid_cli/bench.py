"""How fast this machine makes clips, stage by stage, in several number formats side by side.

Every number format makes the same clips in turns, round after round, so that whatever else the
machine does hits all of them alike. What is measured is `Pipeline` itself: only the calls of its
motion and refinement networks are wrapped. Next to it, in the same rounds, run a convolution and a
matrix product of good shape: the rates that the networks' arithmetic could reach here.
"""

from __future__ import annotations

import math
import os
import platform
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager, suppress
from dataclasses import asdict, dataclass, replace
from itertools import islice
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from PIL import Image
from torch import Tensor, nn
from torch.nn import functional as F
from torch.utils.flop_counter import FlopCounterMode

from seg2vid_cli import __version__
from seg2vid_cli.device import Compute, resolve_compute
from seg2vid_cli.errors import DeviceError, InputError, Seg2VidError
from seg2vid_cli.labels import read_labels
from seg2vid_cli.networks.layers import LEAK
from seg2vid_cli.networks.seg2vid_flow import FlowConfig, Seg2VidFlow
from seg2vid_cli.networks.seg2vid_refine import RefineConfig
from seg2vid_cli.outputs import Outputs, write_clips
from seg2vid_cli.pipeline import DEFAULT_FRAMES, Clip, Pipeline, Progress
from seg2vid_cli.video import open_video
from seg2vid_cli.weights.load import FAMILIES, PAINTING, Bundle, StageSpec, open_bundle
from seg2vid_cli.weights.registry import DEFAULT_WEIGHTS, WeightSpec

READ, FIRST, MOTION, WARP, REFINE, ENCODE = STAGES = (
    "read",  # label map file to the label map of the clip
    "first frame",  # its planes, and the frame painted from them
    "motion",  # the network alone
    "warp",  # everything between the networks: flows, keyframes, warping, blending, 8-bit frames
    "refine",  # the network alone
    "encode",  # frames to MP4
)
WHOLE = "whole clip"  # file to file, as `generate` does it: encoding goes on beside the networks
NETWORKS = (FIRST, MOTION, REFINE)
EAGER = "eager"
DTYPES: Mapping[str, torch.dtype] = {
    EAGER: torch.float32,
    "fp32": torch.float32,
    "bf16": torch.bfloat16,
    "fp16": torch.float16,
}
DEFAULT_REPEAT = 5
MAX_BENCH_FRAMES, MAX_BATCH, MAX_REPEAT = 1000, 64, 1000
MAP_SCALE = 4  # the label map's sides are so many times the clip's, as Cityscapes' nearly are
IDENTICAL_DB = 100.0  # PSNR of a frame without any difference
LEAST_SECONDS = 0.05  # that a rate is measured for
# Channels, height and width of 3x3 convolutions that a machine may be best at, and how many
# pictures at once; sides of square matrices.
CONVOLUTIONS = ((256, 64, 128), (128, 64, 128), (512, 32, 64))
CONVOLUTION_BATCH = {"cpu": 1, "gpu": 32}
MATRIX = {"cpu": 2048, "gpu": 8192}
LAYOUTS = {"contiguous": torch.contiguous_format, "channels last": torch.channels_last}

PAPER_FPS = 17.0
PAPER_FLOW = FlowConfig(
    size_hw=(128, 256),
    image_channels=3,
    label_planes=20,
    num_frames=4,
    channels=(32, 64, 128, 256),
    background_latents=512,
    foreground_latents=512,
    latent_row=1024,
    latent_channels=64,
    frame_channels=16,
    head_channels=16,
    upsampling="bilinear",
)
PAPER_REFINE = RefineConfig(image_channels=3, channels=(64, 128, 256, 512, 512), bottleneck=1024)


@dataclass(frozen=True, kw_only=True)
class Plan:
    """What is measured.

    Args:
        frames: Frames of each clip, the first one included.
        batch: Clips made together.
        repeat: Rounds that count, after one that warms up.
        threads: CPU threads of the networks; torch's own choice if not given.
    """

    frames: int = DEFAULT_FRAMES
    batch: int = 1
    repeat: int = DEFAULT_REPEAT
    threads: int | None = None

    def check(self) -> None:
        """Make sure that all numbers are in range.

        Raises:
            InputError: One is not.
        """
        cores = os.cpu_count() or 1
        for name, value, low, high in (
            ("frames", self.frames, 2, MAX_BENCH_FRAMES),
            ("batch", self.batch, 1, MAX_BATCH),
            ("repeat", self.repeat, 1, MAX_REPEAT),
            ("threads", 1 if self.threads is None else self.threads, 1, cores),
        ):
            if not low <= value <= high:
                raise InputError(
                    f"{name} {value} is out of range", hint=f"a whole number from {low} to {high}"
                )


@dataclass(frozen=True, kw_only=True)
class Spread:
    """A number that was measured once per round: its median, lowest and highest value."""

    median: float
    low: float
    high: float


@dataclass(frozen=True, kw_only=True)
class StageTime:
    """One stage in one number format, all clips of a batch together.

    Args:
        stage: One of `STAGES`, or `WHOLE`.
        seconds: Median of the rounds.
        all_seconds: Of every round.
        frames_per_s: Frames that this stage makes, or label maps that it reads, per second.
        flop: Floating-point operations of convolutions and matrix products, two per
            multiplication; warping and encoding have none that are counted.
        flop_per_s: `flop` by `seconds`.
        of_convolution: `flop_per_s` as a share of the convolution's rate in this number format.
        of_matrix: The same of the matrix product's rate, on NVIDIA GPUs in bf16 where they have it.
        peak_mib: Highest memory use while it ran: of the GPU's tensors on NVIDIA GPUs, else of the
            whole process (outside Linux: until then). None where it is not known.
        times_eager: How many times as fast as `eager` in the same round; None for `eager` itself.
    """

    stage: str
    seconds: float
    all_seconds: tuple[float, ...]
    frames_per_s: float
    flop: int
    flop_per_s: float
    of_convolution: float
    of_matrix: float
    peak_mib: float | None
    times_eager: Spread | None


@dataclass(frozen=True, kw_only=True)
class Variant:
    """One number format.

    Args:
        precision: A key of `DTYPES`.
        stages: In the order of the path, then the whole clip.
        psnr_db: Of its uint8 frames against those of `eager`, mean over all frames of all rounds;
            a frame without any difference counts as `IDENTICAL_DB`. None for `eager` itself.
    """

    precision: str
    stages: tuple[StageTime, ...]
    psnr_db: float | None

    def seconds(self, *stages: str) -> float:
        """Median seconds of some stages together."""
        return sum(time.seconds for time in self.stages if time.stage in stages)


@dataclass(frozen=True, kw_only=True)
class Rate:
    """What this machine reaches in one number format with arithmetic of good shape.

    Args:
        dtype: Name of the number format, such as `bfloat16`.
        convolution_flop_per_s: Of the fastest 3x3 convolution, median of the rounds.
        convolution: Which one that is.
        matrix_flop_per_s: Of the product of two square matrices, median of the rounds.
        matrix_size: Their side.
    """

    dtype: str
    convolution_flop_per_s: float
    convolution: str
    matrix_flop_per_s: float
    matrix_size: int


@dataclass(frozen=True, kw_only=True)
class ColdStart:
    """`seg2vid generate` in a new process, against the parts that it cannot do without.

    Args:
        precision: Number format it ran in.
        generate_seconds: Median wall time of the whole command.
        all_generate_seconds: Of every run.
        import_seconds: Median wall time of a Python that imports torch and ends.
        all_import_seconds: Of every run.
        network_seconds: All networks of one clip, warm.
        encode_seconds: Encoding it.
        ratio: `generate_seconds` by the sum of the three.
    """

    precision: str
    generate_seconds: float
    all_generate_seconds: tuple[float, ...]
    import_seconds: float
    all_import_seconds: tuple[float, ...]
    network_seconds: float
    encode_seconds: float
    ratio: float


@dataclass(frozen=True, kw_only=True)
class Report:
    """All that `measure` found out.

    Args:
        machine: Facts about hardware and software.
        weights: Name of the weights.
        paper: Whether motion and refinement were the paper's networks.
        size: Width and height of the frames.
        plan: What was measured.
        rates: One per number format.
        variants: `eager` first.
        cold_start: If it was asked for.
    """

    machine: Mapping[str, str | int | float | None]
    weights: str
    paper: bool
    size: tuple[int, int]
    plan: Plan
    rates: tuple[Rate, ...]
    variants: tuple[Variant, ...]
    cold_start: ColdStart | None

    def to_dict(self) -> dict[str, Any]:
        """As plain values, for `--json`."""
        return asdict(self)


@dataclass(frozen=True, kw_only=True)
class EagerCompute(Compute):
    """Networks just as they were loaded: norms not folded, channels first, plain float32."""

    def prepare(self, network: nn.Module) -> nn.Module:
        """Bring a network to the device, and that is all."""
        return network.to(self.device)

    def lay_out(self, x: Tensor) -> Tensor:
        """Leave the memory layout as it is."""
        return x

    @contextmanager
    def run(self, network: nn.Module | None = None) -> Iterator[None]:
        """Without gradients."""
        with torch.inference_mode():
            yield


@dataclass(frozen=True, kw_only=True)
class PaperBundle(Bundle):
    """The paper's motion and refinement networks with random weights; see `paper_bundle`."""

    def network(self, stage: str) -> nn.Module:
        """As for any bundle, but that motion and refinement come from a fixed seed."""
        if stage not in ("motion", "refine"):
            return super().network(stage)
        spec = self.stages[stage]
        with torch.random.fork_rng(devices=[]), torch.no_grad():
            torch.manual_seed(0)
            network = FAMILIES[spec.family][1](spec.config)
            for weight in network.parameters():
                if weight.dim() > 1:  # torch's own start values fade out from layer to layer
                    nn.init.kaiming_normal_(weight, a=LEAK)
            if isinstance(network, Seg2VidFlow):  # flows of some pixels, as in a clip
                for head in (network.flow_head, network.flow_back_head):
                    head.out.weight *= 0.02
        return network.eval().requires_grad_(False)


def paper_bundle(base: Bundle) -> PaperBundle:
    """The networks of the published two-path Cityscapes model, full size, with random weights.

    Args:
        base: Gives the first frame.
    """
    parts = (
        ("motion", "seg2vid-flow", PAPER_FLOW, {"downscale": 1}),
        ("refine", "seg2vid-refine", PAPER_REFINE, {"keep_visible": False}),
    )
    stages = {
        name: StageSpec(family=family, path=Path(name), config=config, options=options)
        for name, family, config, options in parts
    }
    return PaperBundle(
        name=base.name,
        labels="cityscapes-20",
        size_hw=PAPER_FLOW.size_hw,
        fps=PAPER_FPS,
        stages={
            **{n: base.stages[n] for n in PAINTING if n in base.stages},
            **stages,
        },
        descriptions=base.descriptions,
        hashes={**base.hashes, **{Path(name): "random" for name in stages}},
    )


class Probe:
    """Shares out time, and on request operations and memory, among stages.

    A stage inside another one is taken out of that one: what is found adds up to the whole.

    Args:
        device: Waited for wherever a stage begins or ends.
        counter: Active counter, to share out operations and memory too; slows the work down.
    """

    def __init__(self, device: torch.device, counter: FlopCounterMode | None = None) -> None:
        self.seconds = dict.fromkeys(STAGES, 0.0)
        self.flop = dict.fromkeys(STAGES, 0)
        self.peak_bytes = dict.fromkeys(STAGES, 0)
        self._device, self._counter = device, counter
        self._stage: str | None = None
        self._since, self._flop_before = 0.0, 0

    @contextmanager
    def stage(self, name: str) -> Iterator[None]:
        """What runs in this block belongs to a stage, one of `STAGES`."""
        outer = self._stage
        self._switch(name)
        try:
            yield
        finally:
            self._switch(outer)

    def wrap(self, name: str, function: Callable[..., Any]) -> Callable[..., Any]:
        """Make a function whose calls belong to a stage."""

        def wrapped(*args: Any, **kwargs: Any) -> Any:
            with self.stage(name):
                return function(*args, **kwargs)

        return wrapped

    def _switch(self, name: str | None) -> None:
        synchronize(self._device)
        now, stage = time.perf_counter(), self._stage
        if stage is not None:
            self.seconds[stage] += now - self._since
        if self._counter is not None:
            flop = self._counter.get_total_flops()
            if stage is not None:
                self.flop[stage] += flop - self._flop_before
                self.peak_bytes[stage] = max(self.peak_bytes[stage], _peak_bytes(self._device))
            self._flop_before = flop
            _reset_peak(self._device)
        self._stage, self._since = name, time.perf_counter()


def measure(
    weights: str = DEFAULT_WEIGHTS,
    *,
    paper: bool = False,
    device: str = "auto",
    precisions: Sequence[str] = (),
    plan: Plan | None = None,
    cold: bool = False,
    progress: Progress = lambda stage, done, total: None,
    before_pull: Callable[[WeightSpec], None] | None = None,
) -> Report:
    """Measure all stages of clips of a made-up street in several number formats.

    Args:
        weights: Name or folder.
        paper: Measure the paper's motion and refinement networks, with random weights, instead.
        device: See `resolve_compute`.
        precisions: Keys of `DTYPES`; `eager` is always among them. If none are given: fp32, and
            what `auto` picks.
        plan: What to measure.
        cold: Measure `seg2vid generate` in a new process too.
        progress: Called with stage, steps done and steps in all.
        before_pull: Told which weights are about to be downloaded; silent without.

    Raises:
        InputError: Something given cannot be used, or the weights lack a stage.
        Seg2VidError: `generate` failed in its own process.
    """
    plan = plan or Plan()
    plan.check()
    computes = plan_precisions(device, precisions)
    if cold and (paper or plan.batch != 1 or len(computes) == 1):
        raise InputError(
            "a cold start is of generate: one clip, real weights, fp32, bf16 or fp16",
            hint="leave out --cold-start, or --paper, --batch and --precision eager",
        )
    bundle = _bundle(weights, paper, before_pull)
    threads = torch.get_num_threads()
    try:
        torch.set_num_threads(plan.threads or threads)
        machine = machine_facts(computes[EAGER].device)
        with tempfile.TemporaryDirectory(prefix="seg2vid-bench-") as name:
            folder = Path(name)
            street = _write_street(folder / "street.png", bundle.size_hw)
            rates, variants = _measure_all(bundle, computes, plan, street, progress)
            start = None
            if cold:
                chosen = _as_generate(device, variants)
                start = cold_start(weights, device, chosen, plan, street, progress=progress)
    finally:
        torch.set_num_threads(threads)
    return Report(
        machine=machine,
        weights=bundle.name,
        paper=paper,
        size=(bundle.size_hw[1], bundle.size_hw[0]),
        plan=plan,
        rates=rates,
        variants=variants,
        cold_start=start,
    )


def plan_precisions(device: str, precisions: Sequence[str]) -> dict[str, Compute]:
    """Work out where, and in which number formats, networks are to run.

    Args:
        device: See `resolve_compute`.
        precisions: As for `measure`.

    Returns:
        For each number format how networks run in it, `eager` first.

    Raises:
        DeviceError: This machine lacks the device, or it does not compute in a number format.
    """
    auto = resolve_compute(device)
    for name in precisions:
        if name not in DTYPES:
            raise DeviceError(
                f"precision '{name}' is not known", hint=f"use one of {', '.join(DTYPES)}"
            )
    if "fp16" in precisions and auto.device.type == "cpu":
        raise DeviceError("fp16 is for GPUs", hint="use fp32 or bf16 on a CPU")
    names = dict.fromkeys(precisions or ("fp32", auto.precision))
    eager = EagerCompute(device=auto.device, precision="fp32", reason="to compare with")
    others = {n: replace(auto, precision=n, reason="asked for") for n in names if n != EAGER}
    return {EAGER: eager, **others}


def _bundle(weights: str, paper: bool, before_pull: Callable[[WeightSpec], None] | None) -> Bundle:
    bundle = open_bundle(weights, before_pull=before_pull)
    needed = ("first_frame",) if paper else ("first_frame", "motion", "refine")
    if missing := [name.replace("_", " ") for name in needed if name not in bundle.stages]:
        raise InputError(
            f"weights '{bundle.name}' have no stage {' and '.join(missing)}",
            hint="give weights that make clips on their own, such as street",
        )
    return paper_bundle(bundle) if paper else bundle


def _measure_all(
    bundle: Bundle,
    computes: Mapping[str, Compute],
    plan: Plan,
    street: Path,
    progress: Progress,
) -> tuple[tuple[Rate, ...], tuple[Variant, ...]]:
    """One round to warm up and count, then `plan.repeat` rounds that take times."""
    device = computes[EAGER].device
    pipelines = {name: Pipeline(bundle, compute) for name, compute in computes.items()}
    counted = {}
    for done, (name, pipeline) in enumerate(pipelines.items()):
        progress("warming up", done, len(pipelines))
        _ = (
            pipeline.generator,
            pipeline.motion,
            pipeline.refiner,
        )  # loaded before memory is measured
        with FlopCounterMode(display=False) as counter:
            counted[name] = Probe(device, counter)
            make_clips(pipeline, street, plan, seed=0, probe=counted[name])
    progress("warming up", len(pipelines), len(pipelines))

    dtypes = dict.fromkeys(DTYPES[name] for name in computes)
    if device.type == "cuda" and torch.cuda.is_bf16_supported(including_emulation=False):
        dtypes[torch.bfloat16] = None
    roofs = [Roof(dtype, device) for dtype in dtypes]
    seconds: dict[str, dict[str, list[float]]] = {
        name: {stage: [] for stage in (*STAGES, WHOLE)} for name in computes
    }
    psnrs: dict[str, list[float]] = {name: [] for name in computes}
    for number in range(plan.repeat):
        progress("rounds", number, plan.repeat)
        for roof in roofs:
            roof.measure()
        wanted: list[NDArray[np.uint8]] = []
        for name, pipeline in pipelines.items():
            # Other seeds every time: a pipeline remembers the first frame it painted last.
            probe = Probe(device)
            frames = make_clips(pipeline, street, plan, seed=2 * number + 1, probe=probe)
            wanted = wanted or frames
            psnrs[name].append(psnr_db(frames, wanted))
            for stage in STAGES:
                seconds[name][stage].append(probe.seconds[stage])
            seconds[name][WHOLE].append(_whole(pipeline, street, plan, seed=2 * number + 2))
    progress("rounds", plan.repeat, plan.repeat)

    rates = {roof.dtype: roof.rate() for roof in roofs}
    matrix = rates.get(torch.bfloat16) if device.type == "cuda" else None
    variants = []
    for name in computes:
        rate = rates[DTYPES[name]]
        variants.append(
            Variant(
                precision=name,
                stages=tuple(
                    _stage_time(
                        stage,
                        seconds[name][stage],
                        None if name == EAGER else seconds[EAGER][stage],
                        counted[name],
                        plan,
                        rate.convolution_flop_per_s,
                        (matrix or rate).matrix_flop_per_s,
                    )
                    for stage in (*STAGES, WHOLE)
                ),
                psnr_db=None if name == EAGER else statistics.fmean(psnrs[name]),
            )
        )
    return tuple(rates.values()), tuple(variants)


def _stage_time(
    stage: str,
    seconds: Sequence[float],
    eager: Sequence[float] | None,
    counted: Probe,
    plan: Plan,
    convolution: float,
    matrix: float,
) -> StageTime:
    inside = STAGES if stage == WHOLE else (stage,)
    flop = sum(counted.flop[name] for name in inside)
    peak_bytes = max(counted.peak_bytes[name] for name in inside)
    frames = {READ: 1, FIRST: 1, ENCODE: plan.frames, WHOLE: plan.frames}
    median = statistics.median(seconds)
    return StageTime(
        stage=stage,
        seconds=median,
        all_seconds=tuple(seconds),
        frames_per_s=plan.batch * frames.get(stage, plan.frames - 1) / median,
        flop=flop,
        flop_per_s=flop / median,
        of_convolution=flop / median / convolution,
        of_matrix=flop / median / matrix,
        peak_mib=peak_bytes / 2**20 if peak_bytes else None,
        times_eager=None if eager is None else times_as_fast(seconds, eager),
    )


def make_clips(
    pipeline: Pipeline, street: Path, plan: Plan, *, seed: int, probe: Probe
) -> list[NDArray[np.uint8]]:
    """Make clips one stage after the other.

    Args:
        pipeline: Makes them.
        street: File of the label map; the videos are written beside it.
        plan: How many, of how many frames.
        seed: Of all of them; each is another variant.
        probe: Takes the times.

    Returns:
        All frames, clip by clip.
    """
    with probe.stage(READ):
        clips = _clips(pipeline, street, plan, seed)
    frames: list[list[NDArray[np.uint8]]] = [[] for _ in clips]
    moments = pipeline.make(clips, forward_flow=False)
    with probe.stage(FIRST):
        for number, moment in islice(moments, len(clips)):
            frames[number].append(moment.frame)
    with probe.stage(WARP), _networks_apart(pipeline, probe):
        for number, moment in moments:
            frames[number].append(moment.frame)
    with probe.stage(ENCODE):
        for clip, target, pictures in zip(clips, _targets(street, plan), frames, strict=True):
            recipe = clip.recipe
            with open_video(
                target.video,
                size_hw=clip.size_hw,
                fps=recipe.fps,
                quality=recipe.quality,
                metadata=recipe.to_dict(),
            ) as video:
                for picture in pictures:
                    video.write(picture)
    return [picture for pictures in frames for picture in pictures]


@contextmanager
def _networks_apart(pipeline: Pipeline, probe: Probe) -> Iterator[None]:
    """Give the calls of motion and refinement networks to stages of their own."""
    methods: tuple[tuple[str, nn.Module, str], ...] = (
        (MOTION, pipeline.motion, "encode"),
        (MOTION, pipeline.motion, "decode"),
        (REFINE, pipeline.refiner, "forward"),
    )
    for stage, network, name in methods:
        setattr(network, name, probe.wrap(stage, getattr(network, name)))
    try:
        yield
    finally:
        for _, network, name in methods:
            delattr(network, name)  # what the class has comes to light again


def _whole(pipeline: Pipeline, street: Path, plan: Plan, *, seed: int) -> float:
    """Make clips from file to files, as `generate` does; returns seconds."""
    start = time.perf_counter()
    write_clips(_clips(pipeline, street, plan, seed), _targets(street, plan))
    return time.perf_counter() - start


def _clips(pipeline: Pipeline, street: Path, plan: Plan, seed: int) -> list[Clip]:
    return [
        pipeline.generate(read_labels(street), seed=seed, variant=variant, frames=plan.frames)
        for variant in range(plan.batch)
    ]


def _targets(street: Path, plan: Plan) -> list[Outputs]:
    return [Outputs(video=street.with_name(f"clip-{number}.mp4")) for number in range(plan.batch)]


class Roof:
    """The fastest convolution and a matrix product in one number format.

    Args:
        dtype: Number format.
        device: Where they run.
    """

    def __init__(self, dtype: torch.dtype, device: torch.device) -> None:
        self.dtype, self._device = dtype, device
        kind = "cpu" if device.type == "cpu" else "gpu"
        self._side, batch = MATRIX[kind], CONVOLUTION_BATCH[kind]
        self._convolutions: list[float] = []
        self._matrices: list[float] = []
        rates = {
            (shape, layout): self._convolve(batch, shape, layout)
            for shape in CONVOLUTIONS
            for layout in LAYOUTS
        }
        shape, layout = max(rates, key=lambda key: rates[key])
        self._best = batch, shape, layout

    def measure(self) -> None:
        """Take both rates once more."""
        self._convolutions.append(self._convolve(*self._best))
        a, b = (self._random(self._side, self._side) for _ in range(2))
        self._matrices.append(flop_rate(lambda: a @ b, 2 * self._side**3, self._device))

    def rate(self) -> Rate:
        """Medians of what was measured."""
        batch, (channels, height, width), layout = self._best
        return Rate(
            dtype=str(self.dtype).removeprefix("torch."),
            convolution_flop_per_s=statistics.median(self._convolutions),
            convolution=f"{batch}x{channels}x{height}x{width} {layout}",
            matrix_flop_per_s=statistics.median(self._matrices),
            matrix_size=self._side,
        )

    def _random(self, *shape: int) -> Tensor:
        return torch.randn(shape, device=self._device).to(self.dtype)

    def _convolve(self, batch: int, shape: tuple[int, int, int], layout: str) -> float:
        channels, height, width = shape
        x = self._random(batch, *shape).contiguous(memory_format=LAYOUTS[layout])
        weight = self._random(channels, channels, 3, 3).contiguous(memory_format=LAYOUTS[layout])
        flop = 2 * 9 * channels * channels * height * width * batch
        cudnn = torch.backends.cudnn
        tried, cudnn.benchmark = cudnn.benchmark, True  # the fastest algorithm, found by trying
        try:
            return flop_rate(lambda: F.conv2d(x, weight, padding=1), flop, self._device)
        finally:
            cudnn.benchmark = tried


def flop_rate(work: Callable[[], object], flop: int, device: torch.device) -> float:
    """Operations per second of some work, over `LEAST_SECONDS` or one call.

    Args:
        work: Done once before, to warm up.
        flop: Operations of one call.
        device: Where it runs.
    """

    def seconds(calls: int) -> float:
        start = time.perf_counter()
        for _ in range(calls):
            work()
        synchronize(device)
        return time.perf_counter() - start

    with torch.inference_mode():
        seconds(1)
        once = seconds(1)
        calls = math.ceil(LEAST_SECONDS / once)
        return flop * calls / (seconds(calls) if calls > 1 else once)


def times_as_fast(seconds: Sequence[float], eager: Sequence[float]) -> Spread:
    """How many times as fast something is as `eager`, round by round.

    Args:
        seconds: Of each round.
        eager: Of the same rounds.
    """
    ratios = [reference / own for own, reference in zip(seconds, eager, strict=True)]
    return Spread(median=statistics.median(ratios), low=min(ratios), high=max(ratios))


def psnr_db(frames: Sequence[NDArray[np.uint8]], wanted: Sequence[NDArray[np.uint8]]) -> float:
    """Peak signal-to-noise ratio, mean over frames.

    Args:
        frames: uint8 `(H, W, 3)` each.
        wanted: As many, to compare with.

    Returns:
        Decibels; at most `IDENTICAL_DB` for a frame.
    """
    values = []
    for frame, other in zip(frames, wanted, strict=True):
        error = float(np.square(frame.astype(np.float64) - other).mean())
        values.append(10 * math.log10(255**2 / error) if error else IDENTICAL_DB)
    return statistics.fmean(min(value, IDENTICAL_DB) for value in values)


def _as_generate(device: str, variants: Sequence[Variant]) -> Variant:
    """What `generate` would pick, or else the first number format that it knows."""
    known = {variant.precision: variant for variant in variants if variant.precision != EAGER}
    return known.get(resolve_compute(device).precision) or next(iter(known.values()))


def cold_start(
    weights: str,
    device: str,
    variant: Variant,
    plan: Plan,
    street: Path,
    *,
    progress: Progress = lambda stage, done, total: None,
) -> ColdStart:
    """Time `seg2vid generate` in new processes, in turns with processes that import torch only.

    Args:
        weights: Name or folder.
        device: As for `generate`.
        variant: Gives the number format, and the seconds of networks and encoding.
        plan: Frames, threads and how often.
        street: File of the label map; the video is written beside it.
        progress: Called with stage, steps done and steps in all.

    Raises:
        Seg2VidError: A process failed.
    """
    generate = [
        *(sys.executable, "-m", "seg2vid_cli", "generate", str(street)),
        *("-o", str(street.with_name("cold.mp4")), "--quiet", "--weights", weights),
        *("--device", device, "--precision", variant.precision, "--frames", str(plan.frames)),
    ]
    whole, imports = [], []
    for done in range(plan.repeat):
        progress("cold starts", done, plan.repeat)
        whole.append(_run(generate, plan.threads))
        imports.append(_run([sys.executable, "-c", "import torch"], plan.threads))
    progress("cold starts", plan.repeat, plan.repeat)
    seconds = statistics.median(whole), statistics.median(imports)
    networks, encode = variant.seconds(*NETWORKS), variant.seconds(ENCODE)
    return ColdStart(
        precision=variant.precision,
        generate_seconds=seconds[0],
        all_generate_seconds=tuple(whole),
        import_seconds=seconds[1],
        all_import_seconds=tuple(imports),
        network_seconds=networks,
        encode_seconds=encode,
        ratio=seconds[0] / (seconds[1] + networks + encode),
    )


def _run(command: Sequence[str], threads: int | None) -> float:
    """Run a process to its end; returns seconds."""
    root = str(Path(__file__).resolve().parent.parent)  # also where the package is not installed
    environment = dict(os.environ)
    environment["PYTHONPATH"] = os.pathsep.join(filter(None, [root, os.getenv("PYTHONPATH")]))
    if threads:
        environment["OMP_NUM_THREADS"] = str(threads)
    start = time.perf_counter()
    done = subprocess.run(command, env=environment, capture_output=True, text=True, check=False)
    seconds = time.perf_counter() - start
    if done.returncode:
        said = done.stderr.strip().splitlines() or [f"it ended with code {done.returncode}"]
        raise Seg2VidError(f"{' '.join(command[1:4])}: failed: {said[0]}")
    return seconds


def machine_facts(device: torch.device) -> dict[str, str | int | float | None]:
    """Hardware and software that times depend on.

    Returns:
        `load` is the mean number of running processes in the last minute, before this one began;
        None where the system does not tell.
    """
    cores = os.cpu_count() or 1
    if hasattr(os, "sched_getaffinity"):  # a container or a scheduler may allow fewer
        cores = len(os.sched_getaffinity(0))
    cuda = device.type == "cuda"
    return {
        "cpu": _cpu_model(),
        "cores": cores,
        "threads": torch.get_num_threads(),
        "instructions": torch.backends.cpu.get_cpu_capability(),
        "load": round(os.getloadavg()[0], 2) if hasattr(os, "getloadavg") else None,
        "device": str(device),
        "device_name": torch.cuda.get_device_name(device) if cuda else None,
        "device_memory_gib": (
            round(torch.cuda.get_device_properties(device).total_memory / 2**30, 1)
            if cuda
            else None
        ),
        "system": f"{platform.system()} {platform.machine()}",
        "python": platform.python_version(),
        "torch": torch.__version__,
        "cuda": torch.version.cuda if cuda else None,
        "seg2vid": __version__,
    }


def _cpu_model() -> str:
    with suppress(OSError):
        for line in Path("/proc/cpuinfo").read_text(encoding="utf-8").splitlines():
            if line.startswith("model name"):
                return line.partition(":")[2].strip()
    return platform.processor() or platform.machine()


def synchronize(device: torch.device) -> None:
    """Wait until a device has done everything it was given."""
    if device.type != "cpu":
        torch.accelerator.synchronize(device)


def _reset_peak(device: torch.device) -> None:
    if device.type == "cuda":
        torch.cuda.reset_peak_memory_stats(device)
        return
    with suppress(OSError):  # Linux: begin again with the highest resident size
        Path("/proc/self/clear_refs").write_text("5")


def _peak_bytes(device: torch.device) -> int:
    """Highest memory use since `_reset_peak`, where that is possible; 0 if not known."""
    if device.type == "cuda":
        return torch.cuda.max_memory_allocated(device)
    try:
        import resource
    except ImportError:  # Windows
        return 0
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    return peak if sys.platform == "darwin" else peak * 1024  # of bytes there, elsewhere of KiB


def _write_street(path: Path, size_hw: tuple[int, int]) -> Path:
    """Draw a street as Cityscapes label ids: all that a clip's speed could depend on is its size.

    Args:
        path: PNG to write.
        size_hw: Size of the clips; the map is `MAP_SCALE` times as large.
    """
    height, width = (MAP_SCALE * side for side in size_hw)
    y, x = np.mgrid[:height, :width]
    y, x = y / height, x / width
    ids = np.full((height, width), 11, np.uint8)  # building
    ids[y < 0.3 - 0.2 * np.abs(x - 0.5)] = 23  # sky
    ids[y > 0.55] = 8  # sidewalk
    ids[y > 0.5 + 0.9 * np.abs(x - 0.5)] = 7  # road
    ids[(np.hypot(x - 0.85, y - 0.35) < 0.12) & (y < 0.6)] = 21  # vegetation
    for left, top in ((0.3, 0.5), (0.62, 0.55)):
        ids[(np.abs(x - left) < 0.06) & (np.abs(y - top) < 0.08)] = 26  # car
    ids[(np.abs(x - 0.15) < 0.01) & (np.abs(y - 0.55) < 0.1)] = 24  # person
    Image.fromarray(ids).save(path)
    return path
