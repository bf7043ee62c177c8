"""`seg2vid saliency`: where would a viewer look?"""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from seg2vid_cli.cli import console, options

if TYPE_CHECKING:
    from seg2vid_cli.saliency import SaliencyModel
    from seg2vid_cli.saliency_files import SaliencyReport

SCORING = "Scoring against people"


def saliency(
    source: Annotated[
        Path,
        typer.Argument(
            metavar="VIDEO|IMAGE|FOLDER",
            help="A video (.mp4, .gif, .webp), a picture, or a folder of pictures.",
        ),
    ],
    output: Annotated[
        Path | None,
        typer.Option(
            "--output",
            "-o",
            metavar="FILE|DIR",
            help="Video (.mp4, .gif, .webp); .png for a picture; a folder for a folder.",
            rich_help_panel=options.OUTPUT,
        ),
    ] = None,
    style: Annotated[
        str,
        typer.Option(
            metavar="overlay|map|both",
            help="Map over the picture, map alone in grey, or both side by side.",
            rich_help_panel=options.OUTPUT,
        ),
    ] = "overlay",
    save_maps: Annotated[
        Path | None,
        typer.Option(
            metavar="DIR",
            help="Maps as 8-bit PNGs; white = most salient.",
            rich_help_panel=options.OUTPUT,
        ),
    ] = None,
    clip: Annotated[
        bool | None,
        typer.Option(
            "--clip/--pictures",
            help="Whether frames follow each other, so that SalEMA remembers, or each stands "
            "alone. [dim]\\[default: a video's follow, a folder's where -o is a video][/]",
            rich_help_panel=options.INPUT,
            show_default=False,
        ),
    ] = None,
    fps: Annotated[
        float | None,
        typer.Option(
            metavar="RATE",
            help="Frames per second of a video made from a folder. [dim]\\[default: as the folder "
            "says, else 15][/]",
            rich_help_panel=options.OUTPUT,
        ),
    ] = None,
    labels: Annotated[
        Path | None,
        typer.Option(
            metavar="FILE|DIR",
            help="Label map, or a folder with one for each frame: tells which classes get the "
            "attention.",
            rich_help_panel=options.INPUT,
        ),
    ] = None,
    encoding: options.EncodingOption = "auto",
    score: Annotated[
        Path | None,
        typer.Option(
            metavar="FILE|DIR",
            help="Fixation maps: lossless pictures, not 0 where somebody looked. Gives AUC-J and "
            "NSS, and s-AUC for pictures.",
            rich_help_panel=SCORING,
        ),
    ] = None,
    densities: Annotated[
        Path | None,
        typer.Option(
            metavar="FILE|DIR",
            help="Continuous maps of fixations, grey: gives CC and SIM.",
            rich_help_panel=SCORING,
        ),
    ] = None,
    others: Annotated[
        Path | None,
        typer.Option(
            metavar="DIR",
            help="Fixation maps of other pictures or videos, for s-AUC. [dim]\\[default: those of "
            "the other pictures in --score; none for clips][/]",
            rich_help_panel=SCORING,
        ),
    ] = None,
    as_json: options.JsonOption = False,
    quiet: Annotated[
        bool, typer.Option("--quiet", "-q", help="No report.", rich_help_panel=options.OUTPUT)
    ] = False,
    weights: Annotated[
        str,
        typer.Option(
            metavar="NAME|DIR",
            help="Weights with a saliency network.",
            rich_help_panel=options.RUN,
        ),
    ] = "salema-dhf1k",
    device: Annotated[
        str,
        typer.Option(
            metavar="auto|cpu|cuda|mps", help="Where it runs.", rich_help_panel=options.RUN
        ),
    ] = "auto",
) -> None:
    """Show where a viewer would look, in every frame of a video or in pictures.

    Maps, fixation maps and label maps in folders belong to pictures by name, and to the frames of a
    video in the order of their names.

    [dim]seg2vid saliency clip.mp4 -o attention.mp4[/]
    """
    from seg2vid_cli.saliency_files import plan_saliency, run_saliency

    plan = plan_saliency(
        source,
        output=output,
        style=style,
        maps=save_maps,
        clip=clip,
        fps=fps,
        labels=labels,
        encoding=encoding,
        fixations=score,
        densities=densities,
        elsewhere=others,
    )

    from seg2vid_cli.saliency import SaliencyModel

    model = SaliencyModel.open(
        weights, device=device, before_pull=None if quiet else console.announce_pull
    )
    with console.progress_bars(quiet=quiet or as_json) as progress:
        report = run_saliency(plan, model, progress=progress)
    if as_json:
        console.out.print(report.to_json(), markup=False, highlight=False)
    elif not quiet:
        _print_report(report, model)
        _print_notes(report)


def _print_report(report: SaliencyReport, model: SaliencyModel) -> None:
    from seg2vid_cli.saliency_files import attention_text

    source = report.plan.source
    sizes = sorted({f"{width}x{height}" for height, width in source.sizes_hw})
    count = {"video": "frames", "folder": "pictures"}.get(source.kind)
    what = f"{len(source)} {count} of {_few(sizes)}" if count else sizes[0]
    memory = "of the frames before" if report.remembered else "none, each stands alone"
    rows = [
        (source.kind, f"{source.path}, {what}"),
        ("weights", report.weights),
        ("memory", memory),
    ]
    if report.attention is not None:
        rows.append(("attention on", attention_text(report.attention)))
    if report.scores is not None:
        values = ", ".join(f"{name} {value:.3f}" for name, value in report.scores.items())
        rows.append(("score", f"{values} (mean of {report.scored})"))
    compute = model.compute
    rows += [
        ("ran on", f"{compute.device}, {compute.precision} ({compute.reason})"),
        ("took", f"{report.seconds:.1f} s"),
    ]
    rows += [("wrote" if i == 0 else "", str(path)) for i, path in enumerate(report.written)]
    console.show_facts(rows)


def _few(sizes: list[str]) -> str:
    return ", ".join(sizes) if len(sizes) <= 3 else f"{len(sizes)} sizes"


def _print_notes(report: SaliencyReport) -> None:
    plan = report.plan
    if len(plan.labels) == 1 and len(plan.source) > 1:
        console.show_note(
            f"one label map for {len(plan.source)} frames: the shares hold as far as nothing moves"
        )
    if len(report.encodings) > 1:
        console.show_note(
            f"the label maps were read as {' and '.join(report.encodings)}: give --encoding if "
            "they are all of one"
        )
    if report.blank:
        console.show_note(f"{report.blank} frames without any saliency are in no share")
    if report.unfixated:
        console.show_note(f"{report.unfixated} were not scored: nobody looked anywhere")
    if report.scores is not None and "s-AUC" not in report.scores:
        console.show_note("s-AUC needs fixations on other pictures: --others DIR")
