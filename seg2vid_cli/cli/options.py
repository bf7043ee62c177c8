"""Options that commands share."""

from __future__ import annotations

import re
from pathlib import Path
from typing import Annotated

import typer

from seg2vid_cli.errors import InputError

INPUT = "Input"
SAMPLE = "Sample"
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
JsonOption = Annotated[
    bool,
    typer.Option("--json", help="Print one JSON result on stdout.", rich_help_panel=OUTPUT),
]


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
