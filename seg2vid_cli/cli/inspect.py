"""`seg2vid inspect`: what is in a label map, or how a clip was made."""

from __future__ import annotations

import json
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from seg2vid_cli.cli import console, options
from seg2vid_cli.errors import InputError

if TYPE_CHECKING:
    from seg2vid_cli.labels import LabelMap
    from seg2vid_cli.recipe import Recipe

SHOWN = 20  # characters; hashes are longer, and their beginning is enough


def inspect(
    file: Annotated[Path, typer.Argument(metavar="FILE", help="A label map or a clip.")],
    encoding: options.EncodingOption = "auto",
    instances: options.InstancesOption = None,
    output: Annotated[
        Path | None,
        typer.Option(
            "--output",
            "-o",
            metavar="VIEW.png",
            help="Write a coloured picture with a legend.",
            rich_help_panel=options.OUTPUT,
        ),
    ] = None,
    as_json: options.JsonOption = False,
) -> None:
    """Show what is in a label map, or how a clip was made."""
    from seg2vid_cli.labels import read_labels
    from seg2vid_cli.video import VIDEO_EXTENSIONS, check_output

    if output is not None:
        check_output(output, extensions=(".png",))
        if output.resolve() in {path.resolve() for path in (file, instances) if path}:
            raise InputError(f"{output}: is an input", hint="name another file")
    recipe = None
    if file.suffix.lower() in VIDEO_EXTENSIONS:
        recipe = _recipe_of(file)
    if file.suffix.lower() == ".mp4" or recipe is not None:
        facts = _clip_facts(file, recipe)
        labels = recipe.labels() if recipe else None
    else:
        labels = read_labels(file, encoding=encoding, instances=instances)
        facts = _label_facts(file, labels)
    if output is not None and labels is not None:
        from seg2vid_cli.label_view import legend_picture
        from seg2vid_cli.visualize import write_png

        write_png(output, legend_picture(labels))
        facts["view"] = str(output)
    if as_json:
        console.out.print(json.dumps(facts, indent=2), markup=False, highlight=False)
    else:
        _print(facts, labels)


def _recipe_of(file: Path) -> Recipe | None:
    from seg2vid_cli.recipe import read_recipe

    try:
        return read_recipe(file)
    except InputError:
        if file.suffix.lower() == ".mp4":
            raise
        return None  # a .webp or .gif that is no clip may be a label map


def _clip_facts(file: Path, recipe: Recipe | None) -> dict[str, Any]:
    from seg2vid_cli.errors import VideoError
    from seg2vid_cli.video import probe_video, read_metadata

    try:
        info = probe_video(file)
    except VideoError as error:
        raise InputError(error.message, hint=error.hint) from error
    facts: dict[str, Any] = {
        "file": str(file),
        "kind": "clip",
        "size": f"{info.size_hw[1]}x{info.size_hw[0]}",
        "frames": info.frames,
        "fps": info.fps,
    }
    if recipe is None:
        note = read_metadata(file) or {}
        tool = str(note.get("tool", ""))  # a grid, a translation, or saliency
        if not tool.startswith("seg2vid"):
            return {**facts, "made by": "not by seg2vid, or its note is gone"}
        long = ("tool", "labels_png", "edges_png")
        told = {key: value for key, value in note.items() if key not in long}
        return {**facts, "made by": tool, **({"how it was made": told} if told else {})}
    made = recipe.to_dict()
    del made["labels_png"], made["edges_png"]
    return {**facts, "how it was made": made}


def _label_facts(file: Path, labels: LabelMap) -> dict[str, Any]:
    from seg2vid_cli.label_sets import CLASSES
    from seg2vid_cli.labels import class_histogram

    height, width = labels.size_hw
    return {
        "file": str(file),
        "kind": "label map",
        "size": f"{width}x{height}",
        "encoding": labels.encoding,
        "why": labels.reason,
        "other readings": list(labels.alternatives),
        "doubtful": labels.doubtful,
        "instances": labels.instances is not None,
        "sha256": labels.sha256,
        "classes": [
            {"class": CLASSES[i].name, "train id": i, "pixels": pixels, "share": round(share, 5)}
            for i, pixels, share in class_histogram(labels)
        ],
    }


def _print(facts: dict[str, Any], labels: LabelMap | None) -> None:
    rows = []
    for name, value in facts.items():
        if isinstance(value, dict):
            rows += [(key.replace("_", " "), _text(inner)) for key, inner in value.items()]
        elif name != "classes":
            rows.append((name, _text(value)))
    console.show_facts(rows)
    if labels is not None:
        console.out.print(_class_table(labels))
        if labels.doubtful:
            console.show_note("the encoding is uncertain: check the classes, or give --encoding")


def _text(value: Any) -> str:
    if isinstance(value, dict):
        short = {k: v if len(str(v)) <= SHOWN else f"{str(v)[:12]}..." for k, v in value.items()}
        return ", ".join(f"{k} {v}" for k, v in short.items()) or "none"
    if isinstance(value, (list, tuple)):
        return ", ".join(str(v) for v in value) or "none"
    if isinstance(value, bool):
        return "yes" if value else "no"
    return "none" if value is None else str(value)


def _class_table(labels: LabelMap) -> Any:
    from rich.table import Table
    from rich.text import Text

    from seg2vid_cli.label_sets import CLASSES
    from seg2vid_cli.label_view import share_text
    from seg2vid_cli.labels import class_histogram

    table = Table(box=None, pad_edge=False, padding=(0, 2, 0, 0))
    table.add_column("")
    table.add_column("class")
    table.add_column("pixels", justify="right")
    table.add_column("share", justify="right")
    for train_id, pixels, share in class_histogram(labels):
        red, green, blue = CLASSES[train_id].colour
        swatch = Text("    ", style=f"on rgb({red},{green},{blue})")
        table.add_row(swatch, CLASSES[train_id].name, f"{pixels:,}", share_text(share))
    return table
