"""`seg2vid label`: a street photo to a label map."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from seg2vid_cli.cli import console, options
from seg2vid_cli.errors import InputError


def label(
    photo: Annotated[Path, typer.Argument(metavar="PHOTO", help="A street photo, PNG or JPEG.")],
    output: Annotated[
        Path,
        typer.Option(
            "--output",
            "-o",
            metavar="LABEL.png",
            help="Label map as Cityscapes label ids, of the photo's size.",
            rich_help_panel=options.OUTPUT,
        ),
    ],
    preview: Annotated[
        Path | None,
        typer.Option(
            metavar="VIEW.png",
            help="Coloured picture with a legend.",
            rich_help_panel=options.OUTPUT,
        ),
    ] = None,
    weights: Annotated[
        str,
        typer.Option(
            metavar="NAME|DIR", help="Weights with a segmenter.", rich_help_panel=options.RUN
        ),
    ] = "street-labels",
    device: Annotated[
        str,
        typer.Option(
            metavar="auto|cpu|cuda|mps", help="Where it runs.", rich_help_panel=options.RUN
        ),
    ] = "auto",
    quiet: Annotated[
        bool, typer.Option("--quiet", "-q", help="No report.", rich_help_panel=options.OUTPUT)
    ] = False,
) -> None:
    """Make a label map from a street photo.

    [dim]seg2vid label photo.jpg -o label.png && seg2vid generate label.png[/]
    """
    from seg2vid_cli.video import check_output

    taken = {photo.resolve()}
    for path in (output, preview):
        if path is None:
            continue
        check_output(path, extensions=(".png",))
        if path.resolve() in taken:
            raise InputError(f"{path}: is named twice", hint="give every file its own name")
        taken.add(path.resolve())

    import numpy as np

    from seg2vid_cli.device import resolve_compute
    from seg2vid_cli.first_frame import open_picture
    from seg2vid_cli.label_view import class_table, legend_picture
    from seg2vid_cli.networks.segmenter import SegmentationNetwork
    from seg2vid_cli.segment import label_photo, write_label_map
    from seg2vid_cli.visualize import write_png
    from seg2vid_cli.weights.load import open_bundle

    picture = open_picture(photo)
    compute = resolve_compute(device)
    bundle = open_bundle(weights, before_pull=None if quiet else console.announce_pull)
    bundle.require("segmenter")
    network = compute.prepare(bundle.network("segmenter"))
    assert isinstance(network, SegmentationNetwork)
    labels = label_photo(network, np.asarray(picture), compute=compute)
    write_label_map(output, labels)
    if preview is not None:
        write_png(preview, legend_picture(labels))
    if not quiet:
        classes = ", ".join(f"{name} {share}" for name, _, share in class_table(labels))
        height, width = labels.size_hw
        console.show_facts(
            [
                ("photo", f"{photo}, {width}x{height}"),
                ("classes", classes),
                ("weights", bundle.name),
                ("wrote", str(output)),
                *([("", str(preview))] if preview else []),
            ]
        )
