"""Messages, progress and exit codes: results on stdout, everything else on stderr."""

from __future__ import annotations

import io
import signal
import sys
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager
from types import FrameType
from typing import TYPE_CHECKING, Any

from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeRemainingColumn
from rich.table import Table
from rich.text import Text

from seg2vid_cli.errors import Seg2VidError

if TYPE_CHECKING:
    from seg2vid_cli.weights.registry import WeightSpec

EXIT_FAILED = 1
EXIT_INTERRUPTED = 130
EXIT_TERMINATED = 143

out = Console(soft_wrap=True, emoji=False)  # ":smile:" may be part of a file name
err = Console(stderr=True, soft_wrap=True, emoji=False)


def run(app: Callable[[], Any]) -> int:
    """Run a command and turn what it raises into messages and an exit code.

    Returns:
        0 done, 1 failed, 2 wrong usage or input, 130 interrupted, 143 terminated.
    """
    for stream in (sys.stdout, sys.stderr):
        if isinstance(stream, io.TextIOWrapper):  # a file name must never end in a traceback
            stream.reconfigure(errors="backslashreplace")
    signal.signal(signal.SIGTERM, _terminate)  # so that temporary files are cleaned up
    try:
        app()
    except Seg2VidError as error:
        show_error(error.message, error.hint)
        return error.exit_code
    except KeyboardInterrupt:
        err.print("interrupted; nothing half-written was left")
        return EXIT_INTERRUPTED
    except MemoryError:
        show_error("out of memory", "use a smaller --size")
        return EXIT_FAILED
    except BrokenPipeError:
        return EXIT_FAILED
    except RuntimeError as error:
        if "out of memory" not in str(error).lower():
            raise
        show_error(str(error).splitlines()[0], "use a smaller --size, or --device cpu")
        return EXIT_FAILED
    except SystemExit as stop:
        return stop.code if isinstance(stop.code, int) else 0
    return 0


def _terminate(number: int, frame: FrameType | None) -> None:
    sys.exit(EXIT_TERMINATED)


def show_facts(facts: Iterable[tuple[str, str]]) -> None:
    """Print names and values as two columns on stdout; long values are folded, never cut."""
    table = Table.grid(padding=(0, 2))
    table.add_column(no_wrap=True)
    table.add_column(overflow="fold")
    for name, value in facts:
        table.add_row(name, Text(value))
    out.print(table)


def show_error(message: str, hint: str | None = None) -> None:
    """Print `error: ...` and `hint: ...`; file names are shown as they are, never as markup."""
    err.print(Text.assemble(("error: ", "bold red"), message))
    if hint:
        err.print(Text.assemble(("hint: ", "bold cyan"), hint))


def show_note(message: str) -> None:
    """Print something worth knowing that does not stop the work."""
    err.print(Text.assemble(("note: ", "bold yellow"), message))


def announce_pull(spec: WeightSpec) -> None:
    """Say what is about to be downloaded."""
    show_note(
        f"downloading weights {spec.name}: {size_text(spec.size_bytes)} from {spec.repo_id}, "
        f"licence {spec.license}"
    )


def size_text(size_bytes: int) -> str:
    """Bytes as MiB, with a decimal where it matters."""
    size_mib = size_bytes / 2**20
    return f"{size_mib:.1f} MiB" if size_mib < 100 else f"{size_mib:,.0f} MiB"


@contextmanager
def progress_bars(*, quiet: bool) -> Iterator[Callable[[str, int, int], None]]:
    """One bar per stage, on a terminal only.

    Yields:
        A function of stage, steps done and steps in all.
    """
    columns = (
        TextColumn("{task.description:12}"),
        BarColumn(),
        MofNCompleteColumn(),
        TimeRemainingColumn(),
    )
    bars: dict[str, Any] = {}
    hidden = quiet or not err.is_terminal
    with Progress(*columns, console=err, transient=True, disable=hidden) as progress:

        def update(stage: str, done: int, total: int) -> None:
            if stage not in bars:
                bars[stage] = progress.add_task(stage, total=total)
            progress.update(bars[stage], completed=done, total=total)

        yield update
