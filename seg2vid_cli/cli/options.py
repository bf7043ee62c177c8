"""Options that commands share."""

from __future__ import annotations

import re
from pathlib import Path
from typing import Annotated

import typer

from seg2vid_cli.errors import InputError

INPUT = "Input"
SAMPLE = "Sample"
VARIANTS = "Several samples"
OUTPUT = "Output"
RUN = "Running"

EncodingOption = Annotated[
    str,
    typer.Option(
        "--encoding",
        metavar="NAME|FILE.toml",
        help="How ids or colours are to be read: auto, label-ids, train-ids, instance-ids, "
        "cityscapes-colours, camvid-colours, carla-ids, carla-legacy-ids, carla-colours, "
        "carla-legacy-colours, or a TOML file of your own.",
        rich_help_panel=INPUT,
    ),
]
InstancesOption = Annotated[
    Path | None,
    typer.Option(
        "--instances",
        metavar="FILE",
        help="Map of the same size that numbers the objects.",
        rich_help_panel=INPUT,
    ),
]
EdgesAreOption = Annotated[
    str,
    typer.Option(
        "--edges-are",
        metavar="auto|picture|map",
        help="Whether --edges gives rendered pictures, whose edges are found first, or edge maps.",
        rich_help_panel=INPUT,
    ),
]
EdgeVarietyOption = Annotated[
    float | None,
    typer.Option(
        "--edge-variety",
        metavar="0-2",
        help="How much the seed changes the mix of edges that the picture is painted from. "
        "[dim]\\[default: 0][/]",
        rich_help_panel=SAMPLE,
    ),
]
LightOption = Annotated[
    float | None,
    typer.Option(
        "--light",
        metavar="0-1",
        help="How light the first frame is, from the darkest to the lightest that its weights "
        "learnt from: 0.1 is dusk with street. [dim]\\[default: drawn with the look][/]",
        rich_help_panel=SAMPLE,
    ),
]
JsonOption = Annotated[
    bool,
    typer.Option("--json", help="Print one JSON result on stdout.", rich_help_panel=OUTPUT),
]

WeightsOption = Annotated[
    str,
    typer.Option(
        "--weights",
        metavar="NAME|DIR",
        help="Weights by name (seg2vid weights list) or folder.",
        rich_help_panel=RUN,
    ),
]
FirstFrameWeightsOption = Annotated[
    str | None,
    typer.Option(
        "--first-frame-weights",
        metavar="NAME|DIR",
        help="Take the first frame's network from these weights.",
        rich_help_panel=RUN,
    ),
]
MotionWeightsOption = Annotated[
    str | None,
    typer.Option(
        "--motion-weights",
        metavar="NAME|DIR",
        help="Take motion, size and frame rate from these weights, and refinement if they have it.",
        rich_help_panel=RUN,
    ),
]
PrecisionOption = Annotated[
    str,
    typer.Option(
        "--precision",
        metavar="auto|fp32|bf16|fp16",
        help="Number format of the networks.",
        rich_help_panel=RUN,
    ),
]


def check_edge_options(edges: Path | None, edges_are: str, edge_variety: float | None) -> None:
    """Refuse options that say something of edges where there are none.

    Raises:
        InputError: One is given without `--edges`.
    """
    if edges is None and (edges_are != "auto" or edge_variety is not None):
        raise InputError(
            f"{'--edge-variety' if edges_are == 'auto' else '--edges-are'} is for --edges",
            hint="add --edges",
        )


def parse_size(text: str) -> tuple[int, int]:
    """`WxH` to height and width.

    Raises:
        InputError: Another form.
    """
    match = re.fullmatch(r"\s*(\d{1,6})\s*[xX×]\s*(\d{1,6})\s*", text)
    if not match:
        raise InputError(
            f"size '{text}' is not understood", hint="give WIDTHxHEIGHT, as in 512x256"
        )
    return int(match[2]), int(match[1])
