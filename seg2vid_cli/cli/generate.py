"""`seg2vid generate`: one label map to one clip."""

from __future__ import annotations

from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from seg2vid_cli.cli import console, options
from seg2vid_cli.errors import InputError

if TYPE_CHECKING:
    from seg2vid_cli.edges import Guide
    from seg2vid_cli.labels import LabelMap
    from seg2vid_cli.outputs import Outputs, Report
    from seg2vid_cli.recipe import Recipe
    from seg2vid_cli.sample import Sample

OF_PIPELINE = ("weights", "first_frame_weights", "motion_weights", "device", "precision")
SAMPLES_TO_SEED = 5
FROM_DEFAULT, FROM_OPTION, FROM_CLIP, FROM_WEIGHTS = "default", "option", "--like", "weights"
_KINDS = {"picture": "picture", "map": "map of edges"}


@dataclass(frozen=True, kw_only=True)
class Choice:
    """A setting and where it came from."""

    value: Any
    origin: str


def generate(
    labels: Annotated[
        Path | None,
        typer.Argument(
            metavar="[LABELS]",
            help="Label map: PNG, TIFF, BMP, lossless WebP or NPY. May be left out with --like, or "
            "with weights that read no labels.",
        ),
    ] = None,
    output: Annotated[
        Path | None,
        typer.Option(
            "--output",
            "-o",
            metavar="FILE",
            help="Video: .mp4, .gif or .webp. [dim]\\[default: LABELS with .mp4, here][/]",
            rich_help_panel=options.OUTPUT,
        ),
    ] = None,
    encoding: options.EncodingOption = "auto",
    instances: options.InstancesOption = None,
    first_frame: Annotated[
        Path | None,
        typer.Option(
            metavar="FILE",
            help="Start from this picture instead of painting one; it must show the same scene.",
            rich_help_panel=options.INPUT,
        ),
    ] = None,
    edges: Annotated[
        Path | None,
        typer.Option(
            metavar="FILE",
            help="Picture that a simulator rendered of the scene, or an edge map: its edges guide "
            "the painting of the first frame.",
            rich_help_panel=options.INPUT,
        ),
    ] = None,
    edges_are: options.EdgesAreOption = "auto",
    edge_variety: options.EdgeVarietyOption = None,
    like: Annotated[
        Path | None,
        typer.Option(
            metavar="CLIP",
            help="Repeat a clip made by seg2vid: its settings, and its label map if none is given. "
            "Other options override.",
            rich_help_panel=options.INPUT,
        ),
    ] = None,
    seed: Annotated[
        int | None,
        typer.Option(
            "--seed",
            "--from-seed",
            metavar="N",
            help="Decides look and motion; same seed, same clip. [dim]\\[default: 0][/]",
            rich_help_panel=options.SAMPLE,
        ),
    ] = None,
    variant: Annotated[
        int | None,
        typer.Option(
            metavar="N",
            help="Another sample under the same seed. [dim]\\[default: 0][/]",
            rich_help_panel=options.SAMPLE,
        ),
    ] = None,
    frames: Annotated[
        int | None,
        typer.Option(
            metavar="N",
            help="Frames in the clip, the first one included. [dim]\\[default: 25][/]",
            rich_help_panel=options.SAMPLE,
        ),
    ] = None,
    fps: Annotated[
        float | None,
        typer.Option(
            metavar="RATE",
            help="Frames per second; the motion is as fast at any rate. [dim]\\[default: of the "
            "clips the motion was learnt from][/]",
            rich_help_panel=options.SAMPLE,
        ),
    ] = None,
    motion_scale: Annotated[
        float | None,
        typer.Option(
            metavar="FACTOR",
            help="Everything moves so many times as far, 0 to 4. [dim]\\[default: 1][/]",
            rich_help_panel=options.SAMPLE,
        ),
    ] = None,
    light: options.LightOption = None,
    samples: Annotated[
        int | None,
        typer.Option(
            metavar="N",
            help="So many clips, one variant after the other: FILE-001.mp4 ...",
            rich_help_panel=options.VARIANTS,
        ),
    ] = None,
    vary: Annotated[
        str | None,
        typer.Option(
            metavar="motion|appearance|both",
            help="What differs between the samples. [dim]\\[default: motion][/]",
            rich_help_panel=options.VARIANTS,
        ),
    ] = None,
    vary_motion: Annotated[
        str | None,
        typer.Option(
            metavar="background|foreground|both",
            help="Whose motion differs: the camera's, the objects', or both. "
            "[dim]\\[default: both][/]",
            rich_help_panel=options.VARIANTS,
        ),
    ] = None,
    to_seed: Annotated[
        int | None,
        typer.Option(
            metavar="N",
            help="Samples on the way from --from-seed to this seed, in equal steps "
            "(5 without --samples).",
            rich_help_panel=options.VARIANTS,
        ),
    ] = None,
    grid: Annotated[
        bool,
        typer.Option(
            "--grid",
            help="One video with all samples side by side instead of one each.",
            rich_help_panel=options.VARIANTS,
        ),
    ] = False,
    page: Annotated[
        Path | None,
        typer.Option(
            metavar="FILE.html",
            help="A page with all samples in it, to look through them in a browser.",
            rich_help_panel=options.VARIANTS,
        ),
    ] = None,
    size: Annotated[
        str | None,
        typer.Option(
            metavar="WxH",
            help="Room for the frames. [dim]\\[default: the area the weights were trained at][/]",
            rich_help_panel=options.SAMPLE,
        ),
    ] = None,
    fit: Annotated[
        str | None,
        typer.Option(
            metavar="keep|stretch",
            help="Keep the label map's aspect ratio inside --size, or fill it. "
            "[dim]\\[default: keep][/]",
            rich_help_panel=options.SAMPLE,
        ),
    ] = None,
    quality: Annotated[
        float | None,
        typer.Option(
            metavar="0-10",
            help="Of the video file; 8 looks lossless. [dim]\\[default: 8][/]",
            rich_help_panel=options.OUTPUT,
        ),
    ] = None,
    save_frames: Annotated[
        Path | None,
        typer.Option(metavar="DIR", help="Frames as PNG.", rich_help_panel=options.OUTPUT),
    ] = None,
    save_flow: Annotated[
        Path | None,
        typer.Option(
            metavar="DIR",
            help="Flows as .flo and colour-wheel PNG: backward (to the source frame) and forward.",
            rich_help_panel=options.OUTPUT,
        ),
    ] = None,
    save_visibility: Annotated[
        Path | None,
        typer.Option(
            metavar="DIR",
            help="Visibility as PNG; white = taken from earlier frames, black = painted anew.",
            rich_help_panel=options.OUTPUT,
        ),
    ] = None,
    save_saliency: Annotated[
        Path | None,
        typer.Option(
            metavar="DIR",
            help="Where a viewer would look, as PNG: maps (white = most salient) and overlays; "
            "tells which classes of the label map get the attention in the first frame.",
            rich_help_panel=options.OUTPUT,
        ),
    ] = None,
    panel: Annotated[
        Path | None,
        typer.Option(
            metavar="FILE",
            help="Video of label map, edges if any, first frame, flow, visibility and result.",
            rich_help_panel=options.OUTPUT,
        ),
    ] = None,
    preview: Annotated[
        Path | None,
        typer.Option(
            metavar="FILE.png",
            help="Contact sheet; of several samples, a row each.",
            rich_help_panel=options.OUTPUT,
        ),
    ] = None,
    as_json: options.JsonOption = False,
    quiet: Annotated[
        bool,
        typer.Option("--quiet", "-q", help="No report.", rich_help_panel=options.OUTPUT),
    ] = False,
    weights: Annotated[
        str | None,
        typer.Option(
            metavar="NAME|DIR",
            help="Weights by name (seg2vid weights list) or folder. [dim]\\[default: street][/]",
            rich_help_panel=options.RUN,
        ),
    ] = None,
    first_frame_weights: Annotated[
        str | None,
        typer.Option(
            metavar="NAME|DIR",
            help="Take the first frame's network from these weights.",
            rich_help_panel=options.RUN,
        ),
    ] = None,
    motion_weights: Annotated[
        str | None,
        typer.Option(
            metavar="NAME|DIR",
            help="Take motion, size and frame rate from these weights, and refinement if they "
            "have it.",
            rich_help_panel=options.RUN,
        ),
    ] = None,
    saliency_weights: Annotated[
        str | None,
        typer.Option(
            metavar="NAME|DIR",
            help="Weights for --save-saliency. [dim]\\[default: salema-dhf1k][/]",
            rich_help_panel=options.RUN,
        ),
    ] = None,
    device: Annotated[
        str | None,
        typer.Option(
            metavar="auto|cpu|cuda|mps",
            help="Where networks run. [dim]\\[default: auto][/]",
            rich_help_panel=options.RUN,
        ),
    ] = None,
    precision: Annotated[
        str | None,
        typer.Option(
            metavar="auto|fp32|bf16|fp16",
            help="Number format of the networks. [dim]\\[default: auto][/]",
            rich_help_panel=options.RUN,
        ),
    ] = None,
) -> None:
    """Make a clip from one label map.

    [dim]seg2vid generate street.png -o street.mp4[/]
    """
    if labels is None and like is None and first_frame is None:
        raise InputError("no label map given", hint="seg2vid generate LABELS.png -o out.mp4")
    target = output or _default_output(labels)
    if saliency_weights is not None and save_saliency is None:
        raise InputError(
            "--saliency-weights is for --save-saliency", hint="add --save-saliency DIR"
        )
    # A clip to repeat may have edges of its own.
    options.check_edge_options(edges, edges_are, edge_variety if like is None else None)
    if light is not None and first_frame is not None:
        raise InputError(
            "--light is for a first frame that is painted",
            hint="leave out --light, or --first-frame",
        )
    count = _count_samples(samples, to_seed, vary=vary, vary_motion=vary_motion, grid=grid)

    from seg2vid_cli.labels import read_labels  # cheap checks first; torch only after them
    from seg2vid_cli.recipe import read_recipe

    recipe = None if like is None else read_recipe(like)
    if like is not None and recipe is None:
        raise InputError(
            f"{like}: does not say how it was made",
            hint="--like takes clips made by seg2vid generate or batch",
        )
    label_map: LabelMap | None
    if labels is not None:
        label_map = read_labels(labels, encoding=encoding, instances=instances)
    else:
        label_map = recipe.labels() if recipe is not None else None
    _check_picture(recipe, first_frame)
    guide = None
    if edges is not None and first_frame is not None:
        raise InputError(
            "edges are of no use where the clip starts from a picture",
            hint="leave out --edges, or --first-frame",
        )
    if edges is not None and edges in (labels, instances):
        raise InputError(f"{edges}: is the label map", hint="give the rendered picture")
    if edges is not None and label_map is not None:
        from seg2vid_cli.edges import read_guide

        guide = read_guide(edges, labels_hw=label_map.size_hw, kind=edges_are)  # type: ignore[arg-type]
    elif edges is not None:
        raise InputError("edges go with a label map", hint="give the scene's label map too")
    elif like is not None and recipe is not None and first_frame is None:
        guide = _stored_guide(like, recipe, other_labels=labels)
    if edge_variety is not None:
        if guide is None:
            raise InputError("--edge-variety is for --edges", hint="add --edges")
        from seg2vid_cli.edges import check_variety

        check_variety(edge_variety)
    given = {
        "seed": seed,
        "variant": variant,
        "motion_scale": motion_scale,
        "light": light,
        "frames": frames,
        "fps": fps,
        "quality": quality,
        "size_hw": None if size is None else options.parse_size(size),
        "fit": fit,
        "edge_variety": edge_variety,
        "weights": weights,
        "first_frame_weights": first_frame_weights,
        "motion_weights": motion_weights,
        "device": device,
        "precision": precision,
    }

    from seg2vid_cli.outputs import (
        Outputs,
        check_targets,
        generate_samples,
        report_json,
        reports_json,
    )
    from seg2vid_cli.pipeline import Pipeline
    from seg2vid_cli.saliency import DEFAULT_WEIGHTS, SaliencyModel
    from seg2vid_cli.sample import plan_samples

    choices = _choose(given, recipe)
    outputs = Outputs(
        video=target,
        frames=save_frames,
        flow=save_flow,
        visibility=save_visibility,
        saliency=save_saliency,
        panel=panel,
        preview=preview,
    )
    inputs = [path for path in (labels, instances, first_frame, edges, like) if path]
    settings = {name: choice.value for name, choice in choices.items()}
    drawn = {name: settings.pop(name) for name in ("seed", "variant", "motion_scale", "light")}
    planned = plan_samples(
        1 if count is None else count,
        base=_base(recipe, drawn, seed=seed, variant=variant),
        vary=vary or "motion",  # type: ignore[arg-type]
        vary_motion=vary_motion or "both",  # type: ignore[arg-type]
        to_seed=to_seed,
    )
    check_targets(outputs, len(planned), grid=grid, page=page, inputs=tuple(inputs))
    settings["exact"] = labels is None and recipe is not None and size is None and fit is None
    before_pull = None if quiet else console.announce_pull
    saliency = None
    if save_saliency is not None:
        compute = {name: settings[name] for name in ("device", "precision")}
        saliency = SaliencyModel.open(
            saliency_weights or DEFAULT_WEIGHTS, before_pull=before_pull, **compute
        )
    pipeline = Pipeline.open(
        **{name: settings.pop(name) for name in OF_PIPELINE}, before_pull=before_pull
    )
    if recipe is not None and recipe.weights_sha256 != pipeline.weights_sha256:
        console.show_note("the weights differ from the clip's, so this will not be the same clip")
    with console.progress_bars(quiet=quiet or as_json) as progress:
        reports = generate_samples(
            label_map,
            target,
            samples=planned,
            pipeline=pipeline,
            outputs=outputs,
            first_frame=first_frame,
            edges=guide,
            saliency=saliency,
            grid=grid,
            page=page,
            progress=progress,
            **settings,
        )
    report = reports[0]
    if as_json:
        text = report_json(report) if count is None else reports_json(reports)
        console.out.print(text, markup=False, highlight=False)
    elif not quiet:
        more = _more_files(reports, outputs, page)
        _print_report(report, choices, pipeline.compute.reason, more)
    if recipe is not None:
        _note_differences(recipe, report.clip.recipe)


def _count_samples(
    samples: int | None, to_seed: int | None, *, grid: bool, **vary: str | None
) -> int | None:
    """How many samples are wanted; None = one clip, as ever.

    Raises:
        InputError: An option is of no use for one clip.
    """
    if samples is None and to_seed is not None:
        return SAMPLES_TO_SEED
    if samples is None:
        idle = [f"--{name.replace('_', '-')}" for name, value in vary.items() if value is not None]
        idle += ["--grid"] if grid else []
        if idle:
            raise InputError(f"{idle[0]} is for several samples", hint="add --samples N")
    return samples


def _base(
    recipe: Recipe | None, drawn: dict[str, Any], *, seed: int | None, variant: int | None
) -> Sample:
    """The first sample: that of the clip to repeat, but for what was chosen now."""
    from seg2vid_cli.sample import Sample

    sample = Sample() if recipe is None else recipe.sample
    changes = dict(drawn)
    if seed is not None:
        changes |= {"to_seed": None, "shares": {}}
    if variant is not None:
        changes["variants"] = {}
    return replace(sample, **changes)


def _more_files(reports: list[Report], outputs: Outputs, page: Path | None) -> list[Path]:
    """Files that the first report does not name."""
    paths = [Path(p) for r in reports[1:] for p in r.to_dict()["outputs"].values()]
    if len(reports) > 1 and outputs.preview:
        paths.append(outputs.preview)
    return [*paths, *([page] if page else [])]


def _default_output(labels: Path | None) -> Path:
    if labels is None:
        raise InputError("no output given", hint="without a label map, add -o FILE.mp4")
    return Path(f"{labels.name.split('.')[0] or 'clip'}.mp4")


def _check_picture(recipe: Recipe | None, first_frame: Path | None) -> None:
    if recipe and recipe.first_frame_sha256 and first_frame is None:
        raise InputError(
            "the clip was made from a picture, which is not stored in it",
            hint="give the picture again with --first-frame",
        )


def _stored_guide(like: Path, recipe: Recipe, *, other_labels: Path | None) -> Guide | None:
    """The edges that guided the clip to repeat."""
    from seg2vid_cli.edges import Guide

    stored = recipe.edges()
    if stored is None:
        return None
    if other_labels is not None:
        raise InputError(
            f"{like}: was painted from edges, which belong to its own label map",
            hint=f"give those of {other_labels.name} with --edges",
        )
    return Guide(path=like, kind="map", reason="Stored in the clip.", pixels=stored)


def _choose(given: dict[str, Any], recipe: Recipe | None) -> dict[str, Choice]:
    """Explicit options first, then those of the clip to repeat, then defaults."""
    from seg2vid_cli.pipeline import DEFAULT_FRAMES
    from seg2vid_cli.video import DEFAULT_QUALITY
    from seg2vid_cli.weights.registry import DEFAULT_WEIGHTS

    defaults: dict[str, Any] = {
        "seed": 0,
        "variant": 0,
        "motion_scale": 1.0,
        "light": None,
        "frames": DEFAULT_FRAMES,
        "fps": None,
        "quality": DEFAULT_QUALITY,
        "size_hw": None,
        "fit": "keep",
        "edge_variety": 0.0,
        "weights": DEFAULT_WEIGHTS,
        "first_frame_weights": None,
        "motion_weights": None,
        "device": "auto",
        "precision": "auto",
    }
    choices = {}
    for name, default in defaults.items():
        # Naming weights means all of them, not those of the clip for some stages.
        own = name == "device" or (name.endswith("_weights") and given["weights"] is not None)
        if given[name] is not None:
            choices[name] = Choice(value=given[name], origin=FROM_OPTION)
        elif recipe is not None and not own:
            value = recipe.size[::-1] if name == "size_hw" else getattr(recipe, name)
            choices[name] = Choice(value=value, origin=FROM_CLIP)
        else:
            origin = FROM_WEIGHTS if default is None else FROM_DEFAULT
            choices[name] = Choice(value=default, origin=origin)
    return choices


def _print_report(
    report: Report, choices: dict[str, Choice], compute_reason: str, more: list[Path]
) -> None:
    from seg2vid_cli.label_view import class_table
    from seg2vid_cli.saliency_files import attention_text

    recipe, labels = report.clip.recipe, report.labels
    origin = {name: choice.origin for name, choice in choices.items()}
    width, height = recipe.size
    seconds = recipe.frames / recipe.fps
    classes = ", ".join(f"{name} {share}" for name, _, share in class_table(labels)[:8])
    rows = [("label map", "none, these weights read none")]
    if labels.encoding != "none":
        rows = [
            ("label map", f"{labels.path or 'stored in the clip'}"),
            ("read as", f"{labels.encoding}. {labels.reason}"),
            ("classes", classes),
        ]
    if report.guide is not None:
        guide, variety = report.guide, recipe.edge_variety
        rows.append(("edges", f"{guide.path}, taken for a {_KINDS[guide.kind]}. {guide.reason}"))
        rows += [("edge variety", f"{variety:g} ({origin['edge_variety']})")] if variety else []
    rows += [
        ("weights", f"{recipe.weights} ({origin['weights']})"),
        *(
            (f"  {what}", f"{name} ({origin[f'{what}_weights'.replace(' ', '_')]})")
            for what, name in (
                ("first frame", recipe.first_frame_weights),
                ("motion", recipe.motion_weights),
            )
            if name
        ),
        ("seed", f"{recipe.seed} ({origin['seed']})"),
        ("variant", f"{recipe.variant} ({origin['variant']})"),
        *(
            [("motion scale", f"{recipe.motion_scale:g} ({origin['motion_scale']})")]
            if recipe.motion_scale != 1
            else []
        ),
        *([("light", f"{recipe.light:g} ({origin['light']})")] if recipe.light is not None else []),
        ("size", f"{width}x{height} ({origin['size_hw']}, {recipe.fit} {origin['fit']})"),
        (
            "length",
            f"{recipe.frames} frames ({origin['frames']}) at {recipe.fps:g} fps ({origin['fps']}): "
            f"{seconds:.1f} s",
        ),
        *([("saliency", report.saliency_weights)] if report.saliency_weights else []),
        *(
            [("attention", f"in the first frame on {attention_text(report.attention)}")]
            if report.attention is not None
            else []
        ),
        ("ran on", f"{recipe.device}, {recipe.precision} ({compute_reason})"),
        ("took", f"{report.seconds:.1f} s"),
    ]
    written = [*report.to_dict()["outputs"].values(), *map(str, more)]
    rows += [("wrote" if i == 0 else "", path) for i, path in enumerate(written)]
    console.show_facts(rows)
    if labels.doubtful:
        console.show_note("the encoding is uncertain: check the classes, or give --encoding")


def _note_differences(wanted: Recipe, made: Recipe) -> None:
    for name, what in (
        ("torch", "torch"),
        ("version", "seg2vid"),
        ("device", "the device"),
        ("first_frame_sha256", "the first picture"),
        ("labels_sha256", "the label map"),
        ("edges_png", "the edge map"),
    ):
        if getattr(wanted, name) != getattr(made, name):
            console.show_note(f"{what} differs from the clip's, so this is not the same clip")
