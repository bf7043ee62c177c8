"""`seg2vid batch`: a folder of label maps to a folder of clips."""

from __future__ import annotations

import json
from collections.abc import Callable
from typing import TYPE_CHECKING, Annotated, Any

import typer

from seg2vid_cli.cli import console, options
from seg2vid_cli.errors import InputError

if TYPE_CHECKING:
    from seg2vid_cli.batch.run import BatchSummary

EXIT_SOME_FAILED = 3
FAILURES_SHOWN = 20


def batch(
    maps: Annotated[
        str, typer.Argument(metavar="MAPS", help="Folder of label maps, or an fsspec URL.")
    ],
    output: Annotated[
        str,
        typer.Option(
            "--output",
            "-o",
            metavar="DIR",
            help="Folder of clips, or an fsspec URL; mirrors the folders of MAPS.",
            rich_help_panel=options.OUTPUT,
        ),
    ],
    encoding: options.EncodingOption = "auto",
    glob: Annotated[
        list[str] | None,
        typer.Option(
            metavar="PATTERN",
            help="Only maps whose path or name fits, such as '*_labelIds.png'. May be repeated.",
            rich_help_panel=options.INPUT,
        ),
    ] = None,
    exclude: Annotated[
        list[str] | None,
        typer.Option(metavar="PATTERN", help="No maps that fit.", rich_help_panel=options.INPUT),
    ] = None,
    watch: Annotated[
        bool,
        typer.Option(
            "--watch", help="Go on with maps that arrive later.", rich_help_panel=options.INPUT
        ),
    ] = False,
    idle: Annotated[
        float | None,
        typer.Option(
            metavar="SECONDS",
            help="With --watch: end when nothing has arrived, and all is made, for so long.",
            rich_help_panel=options.INPUT,
        ),
    ] = None,
    seed: Annotated[
        int, typer.Option(metavar="N", rich_help_panel=options.SAMPLE, help="Of all clips.")
    ] = 0,
    variant: Annotated[
        int,
        typer.Option(metavar="N", rich_help_panel=options.SAMPLE, help="Of the first sample."),
    ] = 0,
    samples: Annotated[
        int,
        typer.Option(metavar="N", help="Clips of each map.", rich_help_panel=options.SAMPLE),
    ] = 1,
    vary: Annotated[
        str,
        typer.Option(
            metavar="motion|appearance|both",
            help="What differs between the samples of a map.",
            rich_help_panel=options.SAMPLE,
        ),
    ] = "motion",
    vary_motion: Annotated[
        str,
        typer.Option(
            metavar="background|foreground|both",
            help="Whose motion differs: the camera's, the objects', or both.",
            rich_help_panel=options.SAMPLE,
        ),
    ] = "both",
    motion_scale: Annotated[
        float,
        typer.Option(metavar="FACTOR", help="0 to 4.", rich_help_panel=options.SAMPLE),
    ] = 1.0,
    light: options.LightOption = None,
    frames: Annotated[
        int,
        typer.Option(metavar="N", help="Frames of each clip.", rich_help_panel=options.SAMPLE),
    ] = 25,
    fps: Annotated[
        float | None,
        typer.Option(
            metavar="RATE",
            help="Frames per second. [dim]\\[default: of the clips the motion was learnt from][/]",
            rich_help_panel=options.SAMPLE,
        ),
    ] = None,
    size: Annotated[
        str | None,
        typer.Option(metavar="WxH", help="Room for the frames.", rich_help_panel=options.SAMPLE),
    ] = None,
    fit: Annotated[
        str,
        typer.Option(
            metavar="keep|stretch",
            help="Keep the label map's aspect ratio inside --size, or fill it.",
            rich_help_panel=options.SAMPLE,
        ),
    ] = "keep",
    quality: Annotated[
        float,
        typer.Option(metavar="0-10", help="Of the video.", rich_help_panel=options.OUTPUT),
    ] = 8.0,
    format_: Annotated[
        str,
        typer.Option(
            "--format", metavar="mp4|gif|webp", help="Of the clips.", rich_help_panel=options.OUTPUT
        ),
    ] = "mp4",
    save_frames: Annotated[
        bool,
        typer.Option(
            "--save-frames", help="Frames as PNG, in CLIP.frames.", rich_help_panel=options.OUTPUT
        ),
    ] = False,
    save_flow: Annotated[
        bool,
        typer.Option("--save-flow", help="Flows, in CLIP.flow.", rich_help_panel=options.OUTPUT),
    ] = False,
    save_visibility: Annotated[
        bool,
        typer.Option(
            "--save-visibility",
            help="Visibility, in CLIP.visibility.",
            rich_help_panel=options.OUTPUT,
        ),
    ] = False,
    panel: Annotated[
        bool,
        typer.Option(
            "--panel", help="A panel video too, CLIP.panel.mp4.", rich_help_panel=options.OUTPUT
        ),
    ] = False,
    preview: Annotated[
        bool,
        typer.Option(
            "--preview",
            help="A contact sheet too, CLIP.preview.png.",
            rich_help_panel=options.OUTPUT,
        ),
    ] = False,
    overwrite: Annotated[
        bool,
        typer.Option("--overwrite", help="Make all clips again.", rich_help_panel=options.OUTPUT),
    ] = False,
    dry_run: Annotated[
        bool,
        typer.Option(
            "--dry-run", help="Only say what would be made.", rich_help_panel=options.OUTPUT
        ),
    ] = False,
    as_json: Annotated[
        bool,
        typer.Option(
            "--json", help="One JSON object per event on stdout.", rich_help_panel=options.OUTPUT
        ),
    ] = False,
    quiet: Annotated[
        bool,
        typer.Option("--quiet", "-q", help="No report.", rich_help_panel=options.OUTPUT),
    ] = False,
    weights: options.WeightsOption = "street",
    first_frame_weights: options.FirstFrameWeightsOption = None,
    motion_weights: options.MotionWeightsOption = None,
    precision: options.PrecisionOption = "auto",
    devices: Annotated[
        str,
        typer.Option(
            metavar="NAME,...",
            help="Where networks run: auto, cpu, cuda:0,cuda:1 ...; a process for each.",
            rich_help_panel=options.RUN,
        ),
    ] = "auto",
    together: Annotated[
        int | None,
        typer.Option(
            "--batch",
            metavar="N",
            help="Maps of one size that are made together. [dim]\\[default: 8 on a GPU, else 1][/]",
            rich_help_panel=options.RUN,
        ),
    ] = None,
    compile_: Annotated[
        bool,
        typer.Option(
            "--compile",
            help="Compile the networks: a minute at first, for big folders. Needs a C++ compiler.",
            rich_help_panel=options.RUN,
        ),
    ] = False,
    engine: Annotated[
        str,
        typer.Option(
            metavar="local|ray",
            help="On this machine, or on a Ray cluster (extra [cyan]ray[/]).",
            rich_help_panel=options.RUN,
        ),
    ] = "local",
    address: Annotated[
        str | None,
        typer.Option(
            metavar="HOST:PORT",
            help="Of the Ray cluster. [dim]\\[default: RAY_ADDRESS, or on this machine][/]",
            rich_help_panel=options.RUN,
        ),
    ] = None,
    workers: Annotated[
        int | None,
        typer.Option(
            metavar="N",
            help="Ray workers. [dim]\\[default: one per GPU, or per two cores][/]",
            rich_help_panel=options.RUN,
        ),
    ] = None,
) -> None:
    """Make clips from all label maps in a folder; run again, it makes what is missing or changed.

    [dim]seg2vid batch maps -o clips --samples 4[/]

    OUT/manifest.jsonl says what was made from what. A map that cannot be read is listed, and the
    exit code is then 3.
    """
    from seg2vid_cli.batch.folders import open_folder
    from seg2vid_cli.batch.jobs import EXTRAS, WorkSpec
    from seg2vid_cli.batch.run import BatchOptions, run_batch
    from seg2vid_cli.device import resolve_compute
    from seg2vid_cli.sample import plan_samples

    chosen = tuple(name.strip() for name in devices.split(",") if name.strip())
    if not chosen:
        raise InputError("no device named", hint="use --devices auto")
    if engine != "ray":  # the cluster has devices of its own
        for name in chosen:
            resolve_compute(name, precision)  # type: ignore[arg-type]
    settings: dict[str, Any] = {
        "frames": frames,
        "fps": fps,
        "quality": quality,
        "size_hw": None if size is None else options.parse_size(size),
        "fit": fit,
    }
    wanted = dict(
        zip(EXTRAS, (save_frames, save_flow, save_visibility, panel, preview), strict=True)
    )
    spec = WorkSpec(
        weights=weights,
        first_frame_weights=first_frame_weights,
        motion_weights=motion_weights,
        precision=precision,
        encoding=encoding,
        samples=tuple(
            plan_samples(
                samples,
                seed=seed,
                variant=variant,
                vary=vary,  # type: ignore[arg-type]
                vary_motion=vary_motion,  # type: ignore[arg-type]
                motion_scale=motion_scale,
                light=light,
            )
        ),
        settings=settings,
        extension=f".{format_.lower().lstrip('.')}",
        extras=tuple(name for name, value in wanted.items() if value),
        batch=together,
        compile=compile_,
    )
    run = BatchOptions(
        maps=open_folder(maps),
        out=open_folder(output),
        globs=tuple(glob or ()),
        exclude=tuple(exclude or ()),
        overwrite=overwrite,
        dry_run=dry_run,
        watch=watch,
        idle_s=idle,
        devices=chosen,
        engine=engine,  # type: ignore[arg-type]
        address=address,
        workers=workers,
    )
    with console.progress_bars(quiet=quiet or as_json) as progress:
        teller = _Teller(as_json=as_json, quiet=quiet, progress=progress)
        summary = run_batch(run, spec, tell=teller, before_pull=console.announce_pull)
    if not as_json and not quiet:
        _print_summary(summary, teller.failures, output=output, dry_run=dry_run)
    if summary.failed:
        raise typer.Exit(EXIT_SOME_FAILED)


class _Teller:
    """Shows events: as JSON lines, or as a bar with throughput and the maps that failed."""

    def __init__(self, *, as_json: bool, quiet: bool, progress: Callable[..., None]) -> None:
        self._as_json, self._quiet, self._progress = as_json, quiet, progress
        self._total = self._handled = 0
        self.failures: list[str] = []  # the first ones

    def __call__(self, event: dict[str, Any]) -> None:
        kind = event["event"]
        if self._as_json:
            console.out.print(json.dumps(event), markup=False, highlight=False)
        elif kind == "would" and not self._quiet:
            arrow = ", ".join(event["outputs"])
            console.out.print(f"{event['input']} -> {arrow}", markup=False, highlight=False)
        if kind == "found":
            self._total = event["maps"]
        if kind in ("done", "skipped", "failed"):
            self._handled += 1
            self._progress("maps", self._handled, max(self._total, self._handled))
        if kind == "failed":
            if len(self.failures) < FAILURES_SHOWN:
                self.failures.append(event["input"])
            if not self._as_json:
                console.show_error(event["reason"], event["hint"])


def _print_summary(
    summary: BatchSummary, failures: list[str], *, output: str, dry_run: bool
) -> None:
    rows = [("label maps", f"{summary.found:,}")]
    if dry_run:
        expected = summary.expected_seconds
        about = "unknown until some are made" if expected is None else f"about {duration(expected)}"
        rows += [("to make", f"{summary.todo:,}"), ("made before", f"{summary.skipped:,}")]
        rows += [("cannot be read", f"{summary.failed:,}")] if summary.failed else []
        rows.append(("takes", about if summary.todo else "nothing to do"))
    else:
        each = f", {summary.seconds / summary.done:.2f} s a map" if summary.done else ""
        rows += [("made", f"{summary.done:,}"), ("made before", f"{summary.skipped:,}")]
        rows += [("failed", f"{summary.failed:,}")] if summary.failed else []
        rows.append(("took", f"{duration(summary.seconds)}{each}"))
        rows.append(("wrote", f"{output}, and manifest.jsonl there"))
    console.show_facts(rows)
    if failures:
        more = summary.failed - len(failures)
        names = ", ".join(failures) + (f" and {more:,} more" if more > 0 else "")
        console.show_note(f"failed: {names}")


def duration(seconds: float) -> str:
    """Seconds as `12.3 s`, `5 min` or `7 h 30 min`."""
    if seconds < 120:
        return f"{seconds:.1f} s"
    minutes = round(seconds / 60)
    return f"{minutes} min" if minutes < 120 else f"{minutes // 60:,} h {minutes % 60} min"
