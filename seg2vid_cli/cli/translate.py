"""`seg2vid translate`: a sequence of label maps to a video, frame by frame."""

from __future__ import annotations

import json
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from seg2vid_cli.cli import console, options

if TYPE_CHECKING:
    from seg2vid_cli.translate import TranslationReport


def translate(
    labels: Annotated[
        Path,
        typer.Argument(metavar="LABELS_DIR", help="Folder of label maps, one for each frame."),
    ],
    output: Annotated[
        Path,
        typer.Option(
            "--output",
            "-o",
            metavar="FILE",
            help="Video: .mp4, .gif or .webp.",
            rich_help_panel=options.OUTPUT,
        ),
    ],
    edges: Annotated[
        Path | None,
        typer.Option(
            metavar="DIR",
            help="Rendered pictures, or edge maps, one for each label map: of the same name, or "
            "with the same number.",
            rich_help_panel=options.INPUT,
        ),
    ] = None,
    edges_are: options.EdgesAreOption = "auto",
    edge_variety: options.EdgeVarietyOption = None,
    encoding: options.EncodingOption = "auto",
    glob: Annotated[
        list[str] | None,
        typer.Option(
            metavar="PATTERN",
            help="Only label maps whose name fits, such as '*_labelIds.png'. May be repeated.",
            rich_help_panel=options.INPUT,
        ),
    ] = None,
    allow_gaps: Annotated[
        bool,
        typer.Option(
            "--allow-gaps",
            help="Go on where the numbering leaves frames out.",
            rich_help_panel=options.INPUT,
        ),
    ] = False,
    seed: Annotated[
        int,
        typer.Option(
            metavar="N", help="Decides the look, one for all.", rich_help_panel=options.SAMPLE
        ),
    ] = 0,
    variant: Annotated[
        int,
        typer.Option(
            metavar="N",
            help="Another sample under the same seed.",
            rich_help_panel=options.SAMPLE,
        ),
    ] = 0,
    light: options.LightOption = None,
    fps: Annotated[
        float | None,
        typer.Option(
            metavar="RATE",
            help="Frames per second. [dim]\\[default: of the weights, else 15][/]",
            rich_help_panel=options.SAMPLE,
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
        str,
        typer.Option(
            metavar="keep|stretch",
            help="Keep the label maps' aspect ratio inside --size, or fill it.",
            rich_help_panel=options.SAMPLE,
        ),
    ] = "keep",
    quality: Annotated[
        float,
        typer.Option(
            metavar="0-10",
            help="Of video files; 8 looks lossless.",
            rich_help_panel=options.OUTPUT,
        ),
    ] = 8.0,
    save_frames: Annotated[
        Path | None,
        typer.Option(metavar="DIR", help="Frames as PNG.", rich_help_panel=options.OUTPUT),
    ] = None,
    panel: Annotated[
        Path | None,
        typer.Option(
            metavar="FILE",
            help="Video of label map, edges and result side by side.",
            rich_help_panel=options.OUTPUT,
        ),
    ] = None,
    preview: Annotated[
        Path | None,
        typer.Option(metavar="FILE.png", help="Contact sheet.", rich_help_panel=options.OUTPUT),
    ] = None,
    as_json: options.JsonOption = False,
    quiet: Annotated[
        bool, typer.Option("--quiet", "-q", help="No report.", rich_help_panel=options.OUTPUT)
    ] = False,
    weights: Annotated[
        str | None,
        typer.Option(
            metavar="NAME|DIR",
            help="Weights with a first-frame network. [dim]\\[default: street][/]",
            rich_help_panel=options.RUN,
        ),
    ] = None,
    device: Annotated[
        str,
        typer.Option(
            metavar="auto|cpu|cuda|mps", help="Where it runs.", rich_help_panel=options.RUN
        ),
    ] = "auto",
    precision: options.PrecisionOption = "auto",
) -> None:
    """Turn a sequence of label maps into a video, frame by frame.

    With the pictures that a simulator rendered of the same scenes, their edges guide the painting.

    [dim]seg2vid translate labels/ --edges rendered/ -o drive.mp4[/]
    """
    size_hw = None if size is None else options.parse_size(size)
    options.check_edge_options(edges, edges_are, edge_variety)

    from seg2vid_cli.device import resolve_compute
    from seg2vid_cli.edges import check_variety
    from seg2vid_cli.pipeline import Pipeline, check_settings
    from seg2vid_cli.sample import Sample
    from seg2vid_cli.translate import plan_translation
    from seg2vid_cli.translate import translate as run
    from seg2vid_cli.video import check_fps, check_output
    from seg2vid_cli.weights.registry import DEFAULT_WEIGHTS

    check_settings(frames=1, fps=fps, quality=quality, size_hw=size_hw, fit=fit)
    check_variety(edge_variety or 0.0)
    for path in (output, panel):
        if path is not None and fps is not None:
            check_output(path)
            check_fps(path, fps)
    resolve_compute(device, precision)  # type: ignore[arg-type]
    sample = Sample(seed=seed, variant=variant, light=light)
    with console.progress_bars(quiet=quiet or as_json) as progress:
        plan = plan_translation(
            labels,
            output,
            edges=edges,
            guide_kind=edges_are,  # type: ignore[arg-type]
            encoding=encoding,
            globs=tuple(glob or ()),
            allow_gaps=allow_gaps,
            frames=save_frames,
            panel=panel,
            preview=preview,
            progress=progress,
        )
    pipeline = Pipeline.open(
        weights or DEFAULT_WEIGHTS,
        device=device,
        precision=precision,  # type: ignore[arg-type]
        before_pull=None if quiet else console.announce_pull,
    )
    with console.progress_bars(quiet=quiet or as_json) as progress:
        report = run(
            plan,
            pipeline,
            sample=sample,
            fps=fps,
            size_hw=size_hw,
            fit=fit,  # type: ignore[arg-type]
            quality=quality,
            edge_variety=edge_variety or 0.0,
            progress=progress,
        )
    if as_json:
        console.out.print(json.dumps(report.to_dict(), indent=2), markup=False, highlight=False)
    elif not quiet:
        _print_report(report, pipeline.compute.reason)


def _print_report(report: TranslationReport, compute_reason: str) -> None:
    plan = report.plan
    guides = "none"
    if plan.guides:
        kind = "pictures" if plan.guide_kind == "picture" else "edge maps"
        guides = f"of {plan.guides[0].parent}, taken for {kind}"
        if report.edge_variety:
            guides += f", variety {report.edge_variety:g}"
    rows = [
        ("label maps", f"{plan.labels[0].parent}, {plan.labels[0].name} to {plan.labels[-1].name}"),
        ("read as", plan.encoding),
        ("edges", guides),
        ("weights", report.weights),
        ("seed", f"{report.sample.seed}, variant {report.sample.variant}"),
        ("size", f"{report.size_hw[1]}x{report.size_hw[0]}"),
        (
            "length",
            f"{len(plan)} frames at {report.fps:g} fps: {len(plan) / report.fps:.1f} s",
        ),
        ("ran on", f"{report.device}, {report.precision} ({compute_reason})"),
        ("took", f"{report.seconds:.1f} s"),
    ]
    written = list(report.to_dict()["outputs"].values())
    rows += [("wrote" if i == 0 else "", path) for i, path in enumerate(written)]
    console.show_facts(rows)
    if plan.doubtful:
        console.show_note("the encoding is uncertain: check the classes, or give --encoding")
