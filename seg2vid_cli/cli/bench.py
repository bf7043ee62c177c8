"""`seg2vid bench`: how fast is this machine?"""

from __future__ import annotations

import json
from typing import TYPE_CHECKING, Annotated, Any

import typer

from seg2vid_cli.cli import console, options

if TYPE_CHECKING:
    from seg2vid_cli.bench import ColdStart, Report, StageTime, Variant


def bench(
    weights: options.WeightsOption = "street",
    paper: Annotated[
        bool,
        typer.Option(
            "--paper",
            help="Measure the paper's full-size motion and refinement networks, with random "
            "weights; the first frame stays that of --weights.",
            rich_help_panel=options.RUN,
        ),
    ] = False,
    device: Annotated[
        str,
        typer.Option(
            metavar="auto|cpu|cuda|cuda:N|mps",
            help="Where networks run.",
            rich_help_panel=options.RUN,
        ),
    ] = "auto",
    precision: Annotated[
        list[str] | None,
        typer.Option(
            metavar="eager|fp32|bf16|fp16",
            help="Number format to compare; may be repeated. eager, the networks as they were "
            "loaded, is always measured. [dim]\\[default: fp32, and what auto picks][/]",
            rich_help_panel=options.RUN,
        ),
    ] = None,
    frames: Annotated[
        int,
        typer.Option(metavar="N", help="Frames of a clip.", rich_help_panel=options.RUN),
    ] = 25,
    batch: Annotated[
        int,
        typer.Option(metavar="N", help="Clips made together.", rich_help_panel=options.RUN),
    ] = 1,
    repeat: Annotated[
        int,
        typer.Option(
            metavar="N",
            help="Rounds; medians are shown. More make up for other work on the machine.",
            rich_help_panel=options.RUN,
        ),
    ] = 5,
    threads: Annotated[
        int | None,
        typer.Option(
            metavar="N",
            help="CPU threads of the networks. [dim]\\[default: torch's choice][/]",
            rich_help_panel=options.RUN,
        ),
    ] = None,
    cold_start: Annotated[
        bool,
        typer.Option(
            "--cold-start",
            help="Also time generate in a new process against importing torch, the networks and "
            "encoding.",
            rich_help_panel=options.RUN,
        ),
    ] = False,
    as_json: options.JsonOption = False,
) -> None:
    """Measure how fast this machine makes clips, stage by stage.

    of conv: share of the rate that a well-shaped convolution reaches here.
    x eager: times as fast as eager; median (lowest-highest) of the rounds.
    dB: PSNR of the frames against those of eager.
    """
    from seg2vid_cli.bench import Plan, measure

    with console.progress_bars(quiet=as_json) as progress:
        report = measure(
            weights,
            paper=paper,
            device=device,
            precisions=precision or (),
            plan=Plan(frames=frames, batch=batch, repeat=repeat, threads=threads),
            cold=cold_start,
            progress=progress,
            before_pull=console.announce_pull,
        )
    if as_json:
        console.out.print(json.dumps(report.to_dict(), indent=2), markup=False, highlight=False)
        return
    console.show_facts(_facts(report))
    console.out.print()
    console.out.print(_table(report))
    if report.cold_start is not None:
        console.out.print()
        console.show_facts(_cold_facts(report.cold_start))
    load, cores = report.machine["load"], report.machine["cores"]
    if isinstance(load, float) and isinstance(cores, int) and load > cores / 2:
        console.show_note(
            f"other programs were running (load {load:g} on {cores} cores): trust ratios, not times"
        )


def _facts(report: Report) -> list[tuple[str, str]]:
    machine, plan = report.machine, report.plan
    networks = ", motion and refinement as in the paper with random weights" if report.paper else ""
    name = f", {machine['device_name']}" if machine["device_name"] else ""
    together = f", {plan.batch} together" if plan.batch > 1 else ""
    rounds = f"median of {plan.repeat} rounds" if plan.repeat > 1 else "one round"
    rows = [
        ("cpu", f"{machine['cpu']}, {machine['instructions']}"),
        ("cores", f"{machine['cores']}, {machine['threads']} threads"),
        ("ran on", f"{machine['device']}{name}"),
        ("torch", str(machine["torch"])),
        ("weights", f"{report.weights}{networks}"),
        (
            "clips",
            f"{report.size[0]}x{report.size[1]}, {plan.frames} frames{together}; {rounds}",
        ),
    ]
    rows += [
        (
            f"{rate.dtype} rate",
            f"convolution {_giga(rate.convolution_flop_per_s)} GFLOP/s ({rate.convolution}), "
            f"matrix product {_giga(rate.matrix_flop_per_s)} GFLOP/s ({rate.matrix_size})",
        )
        for rate in report.rates
    ]
    return rows


def _table(report: Report) -> Any:
    from rich.table import Table
    from rich.text import Text

    gpu = str(report.machine["device"]).startswith("cuda")
    table = Table(box=None, pad_edge=False, padding=(0, 1, 0, 0))
    table.add_column("stage", no_wrap=True)
    heads = ["s", "frames/s", "GFLOP", "GFLOP/s", "of conv"]
    heads += ["of matrix"] if gpu else []
    for head in (*heads, "MiB", "x eager"):
        table.add_column(head, justify="right", no_wrap=True)
    for variant in report.variants:
        table.add_row(Text(_heading(variant), style="bold"))
        for stage in variant.stages:
            table.add_row(*_cells(stage, gpu=gpu))
    return table


def _heading(variant: Variant) -> str:
    if variant.psnr_db is None:
        return variant.precision
    return f"{variant.precision}, {variant.psnr_db:.1f} dB"


def _cells(stage: StageTime, *, gpu: bool) -> list[str]:
    worked = stage.flop > 0
    times = stage.times_eager
    return [
        f"  {stage.stage}",
        f"{stage.seconds:.4f}",
        f"{stage.frames_per_s:.4g}",
        _giga(stage.flop) if worked else "",
        _giga(stage.flop_per_s) if worked else "",
        f"{100 * stage.of_convolution:.0f} %" if worked else "",
        *([f"{100 * stage.of_matrix:.0f} %" if worked else ""] if gpu else []),
        "" if stage.peak_mib is None else f"{stage.peak_mib:.0f}",
        "" if times is None else f"{times.median:.2f} ({times.low:.2f}-{times.high:.2f})",
    ]


def _cold_facts(cold: ColdStart) -> list[tuple[str, str]]:
    parts = (
        f"{cold.import_seconds:.2f} s import torch + {cold.network_seconds:.2f} s networks + "
        f"{cold.encode_seconds:.2f} s encode"
    )
    return [
        ("generate", f"{cold.generate_seconds:.2f} s from a cold start, {cold.precision}"),
        ("against", parts),
        ("ratio", f"{cold.ratio:.2f}"),
    ]


def _giga(value: float) -> str:
    value /= 1e9
    return f"{value:,.0f}" if value >= 100 else f"{value:.3g}"
