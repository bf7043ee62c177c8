"""`seg2vid weights`: what there is, where it is, whether it is intact; import, publish, add."""

from __future__ import annotations

import json
import sys
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from seg2vid_cli.cli import console, options
from seg2vid_cli.errors import InputError, WeightsError
from seg2vid_cli.weights.importers import KINDS

if TYPE_CHECKING:
    from seg2vid_cli.weights.registry import WeightSpec

app = typer.Typer(
    help="List, download, check, import and publish weights.",
    no_args_is_help=True,
    rich_markup_mode="rich",
)

NameArgument = Annotated[str, typer.Argument(metavar="NAME", help="A name from the list.")]


@app.command("list")
def list_weights(as_json: options.JsonOption = False) -> None:
    """Show all weights that are known, and which are on this machine."""
    from seg2vid_cli.weights.registry import read_registry, user_registry_path

    rows = [_facts(spec) for spec in read_registry().values()]
    if as_json:
        _print_json(rows)
        return
    for row in rows:
        console.out.print(f"[bold]{row['name']}[/]", highlight=False)
        for line in _summary(row):
            console.out.print(f"  {line}", markup=False, highlight=False)
    console.err.print(
        f"`seg2vid weights show NAME` tells more; entries of yours go to {user_registry_path()}",
        markup=False,
        highlight=False,
    )


@app.command()
def show(name: NameArgument, as_json: options.JsonOption = False) -> None:
    """Show what is known about weights, and their model card where it is on this machine."""
    from seg2vid_cli.weights.hub import installed_files, steps_by_hand
    from seg2vid_cli.weights.registry import CARD_FILE, find_weights

    spec = find_weights(name)
    facts = _facts(spec)
    files = installed_files(spec) or {}
    places = [path for file, path in files.items() if file.name == CARD_FILE]
    if folder := spec.local_folder():
        places.append(folder / CARD_FILE)
    card = next((path for path in places if path.is_file()), None)
    text = card.read_text(encoding="utf-8", errors="replace") if card else None
    if as_json:
        _print_json({**facts, "card": text})
        return
    facts["stages"] = ", ".join(f"{k.replace('_', ' ')}: {v}" for k, v in facts["stages"].items())
    facts["installed"] = "yes" if facts["installed"] else "no"
    facts["size_bytes"] = console.size_text(facts["size_bytes"]) if spec.files else "unknown"
    names = {"size_bytes": "size", "license": "licence", "native_size": "trained at"}
    console.show_facts((names.get(key, key), str(value)) for key, value in facts.items())
    if text is not None:
        from rich.markdown import Markdown

        console.out.print()
        console.out.print(Markdown(_without_front_matter(text)))
    elif spec.origin == "authors":
        console.show_note(f"to be downloaded by hand:\n      {steps_by_hand(spec)}")
    elif spec.origin == "hub" and not files:
        console.show_note(f"the model card comes with: seg2vid weights pull {name}")
    else:
        console.show_note("these weights have no model card")


@app.command()
def pull(
    names: Annotated[list[str], typer.Argument(metavar="NAME...", help="Names from the list.")],
    quiet: Annotated[bool, typer.Option("--quiet", "-q", help="No progress, no report.")] = False,
) -> None:
    """Download weights and check them; what is there and intact is not downloaded again."""
    from seg2vid_cli.weights.hub import installed_files, pull_weights
    from seg2vid_cli.weights.registry import find_weights

    specs = [find_weights(name) for name in names]
    for spec in specs:
        if spec.origin == "hub" and installed_files(spec) is None and not quiet:
            console.announce_pull(spec)
        files = pull_weights(spec, quiet=quiet)
        if not quiet:
            folder = next(iter(files)).parent
            console.out.print(
                f"{spec.name}: {len(files)} files, sizes and hashes match, in {folder}",
                markup=False,
                highlight=False,
            )


@app.command()
def verify(
    name: Annotated[
        str | None, typer.Argument(metavar="[NAME]", help="One of them; all otherwise.")
    ] = None,
) -> None:
    """Read all files through again and compare their hashes with the registry."""
    from seg2vid_cli.weights.hub import installed_files, verify_weights
    from seg2vid_cli.weights.registry import find_weights, read_registry

    specs = [find_weights(name)] if name else list(read_registry().values())
    broken: list[WeightsError] = []
    for spec in specs:
        if spec.origin in ("hub", "authors") and installed_files(spec) is None:
            if name:
                raise _not_here(spec)
            continue
        try:
            verify_weights(spec)
        except WeightsError as error:
            console.show_error(error.message, error.hint)
            broken.append(error)
            continue
        console.out.print(
            f"{spec.name}: {len(spec.files)} files, {console.size_text(spec.size_bytes)}, "
            "sizes and hashes match",
            markup=False,
            highlight=False,
        )
    if broken:
        raise typer.Exit(console.EXIT_FAILED)


@app.command()
def path(name: NameArgument) -> None:
    """Print the folder of weights that are on this machine."""
    from seg2vid_cli.weights.hub import installed_files
    from seg2vid_cli.weights.registry import find_weights

    spec = find_weights(name)
    files = installed_files(spec)
    if files is None:
        raise _not_here(spec)
    folder = next(iter(files.values())).parent
    console.out.print(str(folder), markup=False, highlight=False)


@app.command()
def remove(
    name: NameArgument,
    entry: Annotated[
        bool, typer.Option("--entry", help="Also take an entry of yours out of the list.")
    ] = False,
) -> None:
    """Delete downloaded weights from the cache."""
    from seg2vid_cli.weights.hub import remove_weights
    from seg2vid_cli.weights.registry import find_weights, own_entry, remove_entry

    if entry:
        own_entry(name)  # before anything is deleted
    spec = find_weights(name)
    if spec.origin == "hub" or not entry:
        freed = remove_weights(spec)
        console.out.print(f"{name}: {console.size_text(freed)} freed", markup=False)
    if entry:
        remove_entry(name)
        console.out.print(f"{name}: entry removed", markup=False)


@app.command("import")
def import_weights(
    checkpoint: Annotated[
        Path,
        typer.Argument(metavar="CHECKPOINT", help="The authors' file: .pth, .pth.tar, .pt, .npz."),
    ],
    kind: Annotated[
        str, typer.Option("--as", metavar="KIND", help=f"Its layout: {', '.join(KINDS)}.")
    ],
    output: Annotated[
        Path, typer.Option("--output", "-o", metavar="DIR", help="Folder of the new bundle.")
    ],
    name: Annotated[
        str | None,
        typer.Option(metavar="NAME", help="Name of the bundle. [dim]\\[default: DIR's][/]"),
    ] = None,
    fps: Annotated[
        float | None,
        typer.Option(metavar="RATE", help="Frame rate of the clips it was trained on, if known."),
    ] = None,
    license_name: Annotated[
        str | None, typer.Option("--license", metavar="TEXT", help="Licence of the weights.")
    ] = None,
) -> None:
    """Turn an original checkpoint into a bundle: safetensors, configuration and model card.

    Nothing in the checkpoint is run; a file that holds more than tensors is refused.
    """
    from seg2vid_cli.weights.importers.convert import import_checkpoint

    made = import_checkpoint(
        checkpoint, kind, output, name=name, fps=fps, license_name=license_name
    )
    for line in made.report():
        console.out.print(line, markup=False, highlight=False)
    console.out.print(f"wrote {output}", markup=False, highlight=False)


@app.command()
def publish(
    folder: Annotated[Path, typer.Argument(metavar="DIR", help="A bundle's folder.")],
    repo: Annotated[
        str, typer.Option(metavar="OWNER/NAME", help="Repository on the Hub; made if needed.")
    ],
    name: Annotated[
        str | None,
        typer.Option(metavar="NAME", help="Name in the entry. [dim]\\[default: the bundle's][/]"),
    ] = None,
    private: Annotated[bool, typer.Option("--private", help="Make a private repository.")] = False,
) -> None:
    """Upload a bundle with its model card and print its `weights.toml` entry."""
    from seg2vid_cli.weights.publish import publish_bundle
    from seg2vid_cli.weights.registry import format_entry

    spec = publish_bundle(folder, repo, name=name, private=private)
    console.out.print(format_entry(spec), markup=False, highlight=False, end="")
    console.show_note(
        "put the entry into a file and give it to `seg2vid weights add`, or into weights.toml"
    )


@app.command()
def add(
    source: Annotated[
        str,
        typer.Argument(
            metavar="FILE.toml|DIR|-",
            help="Entries as `publish` prints them (- reads stdin), or a bundle's folder.",
        ),
    ],
    name: Annotated[
        str | None,
        typer.Option(metavar="NAME", help="Name for a folder. [dim]\\[default: the bundle's][/]"),
    ] = None,
) -> None:
    """Make weights of your own known by name, in your settings folder."""
    from seg2vid_cli.weights.registry import add_entries, format_entry, user_registry_path

    if source != "-" and Path(source).is_dir():
        from seg2vid_cli.weights.publish import describe_bundle

        spec = describe_bundle(Path(source), name=name)
        text, where = format_entry(spec), source
    elif name is not None:
        raise InputError("--name is for a folder", hint="entries carry their names")
    else:
        text, where = _read_text(source), "stdin" if source == "-" else source
    added = add_entries(text, name=where)
    console.out.print(
        f"added {', '.join(added)} to {user_registry_path()}", markup=False, highlight=False
    )


def _read_text(source: str) -> str:
    try:
        if source == "-":
            return sys.stdin.read()
        return Path(source).read_text(encoding="utf-8")
    except OSError as error:
        raise InputError(f"{source}: cannot be read: {error.strerror}") from error
    except UnicodeDecodeError as error:
        raise InputError(f"{source}: is not text", hint="give a TOML file or a folder") from error


def _facts(spec: WeightSpec) -> dict[str, Any]:
    """What a list says of weights, as plain values."""
    from seg2vid_cli.weights.hub import installed_files

    return {
        "name": spec.name,
        "title": spec.title,
        "stages": dict(spec.stages),
        "needs": _needs(spec),
        "labels": spec.labels,
        "native_size": spec.native_size,
        "fps": spec.fps,
        "size_bytes": spec.size_bytes,
        "license": spec.license,
        "source": spec.source,
        "origin": spec.origin,
        "where": spec.where,
        "installed": installed_files(spec) is not None,
    }


def _summary(row: dict[str, Any]) -> list[str]:
    """Three lines on weights, for a list."""
    size = console.size_text(row["size_bytes"]) if row["size_bytes"] else "size unknown"
    rate = f", {row['fps']:g} fps" if row["fps"] else ""
    stages = ", ".join(stage.replace("_", " ") for stage in row["stages"])
    if row["origin"] == "authors":
        here = f"to be downloaded by hand: seg2vid weights pull {row['name']} tells how"
    else:
        installed = "installed" if row["installed"] else "not installed"
        here = f"{installed}, {size}, {row['where']}"
    return [
        row["title"],
        f"{stages}; {row['native_size']}{rate}; needs {row['needs']}",
        f"{here}; licence: {row['license']}",
    ]


def _needs(spec: WeightSpec) -> str:
    """What has to come along for a clip."""
    alone: dict[tuple[str, ...], str] = {
        ("segmenter",): "a photo",
        ("saliency",): "a video or pictures",
    }
    if tuple(spec.stages) in alone:
        return alone[tuple(spec.stages)]
    needs = ["a label map"] if spec.labels != "none" else []
    if "first_frame" not in spec.stages:
        needs.append("a first frame")
    if "motion" not in spec.stages:
        needs.append("motion weights")
    return ", ".join(needs)


def _not_here(spec: WeightSpec) -> WeightsError:
    from seg2vid_cli.weights.hub import steps_by_hand

    pull = f"seg2vid weights pull {spec.name}"
    hint = steps_by_hand(spec) if spec.origin == "authors" else pull
    return WeightsError(f"weights '{spec.name}' are not on this machine", hint=hint)


def _without_front_matter(card: str) -> str:
    """A model card without the block of settings that the Hub reads."""
    if card.startswith("---\n") and "\n---\n" in card[4:]:
        return card[4:].split("\n---\n", 1)[1].lstrip()
    return card


def _print_json(data: Any) -> None:
    console.out.print(json.dumps(data, indent=2), markup=False, highlight=False)
