"""All commands under one roof. Nothing here may import torch: `--help` has to be quick."""

from __future__ import annotations

from typing import Annotated

import typer

from seg2vid_cli import __version__
from seg2vid_cli.cli import (
    batch,
    bench,
    console,
    doctor,
    generate,
    inspect,
    label,
    saliency,
    train,
    translate,
    weights,
)

EXIT_CODES = (
    "Exit codes: 0 done, 1 failed, 2 wrong usage or input, 3 some of a batch failed, "
    "130 interrupted, 143 terminated."
)

app = typer.Typer(
    name="seg2vid",
    help="Turn one semantic label map into a video.",
    epilog=EXIT_CODES,
    no_args_is_help=True,
    rich_markup_mode="rich",
    pretty_exceptions_enable=False,
    context_settings={"help_option_names": ["-h", "--help"]},
)
app.command(epilog=EXIT_CODES)(generate.generate)
app.command(epilog=EXIT_CODES)(translate.translate)
app.command(epilog=EXIT_CODES)(batch.batch)
app.command(epilog=EXIT_CODES)(inspect.inspect)
app.command(epilog=EXIT_CODES)(label.label)
app.command(epilog=EXIT_CODES)(saliency.saliency)
app.command(epilog=EXIT_CODES)(doctor.doctor)
app.command(epilog=EXIT_CODES)(bench.bench)
app.add_typer(weights.app, name="weights")
app.add_typer(train.app, name="train")


def _print_version(wanted: bool) -> None:
    if wanted:
        console.out.print(f"seg2vid {__version__}", highlight=False)
        raise typer.Exit


@app.callback()
def _top(
    version: Annotated[
        bool,
        typer.Option("--version", callback=_print_version, is_eager=True, help="Show the version."),
    ] = False,
) -> None:
    pass


def main() -> None:
    """Run the command line and leave with its exit code."""
    raise SystemExit(console.run(app))
