"""One training loop for all tasks: time limit, averaged weights, resumable, metrics, sheets."""

from __future__ import annotations

import csv
import io
import json
import math
import time
from collections.abc import Generator, Mapping
from copy import deepcopy
from dataclasses import asdict
from pathlib import Path
from typing import Any, Protocol

import torch
from PIL import Image
from rich.console import Console
from rich.progress import BarColumn, Progress, TextColumn, TimeRemainingColumn
from torch import Tensor, nn

from seg2vid_cli.errors import InputError

PIECE_BYTES = 15 * 2**20
EMA_DECAY = 0.999
OWN_RATE = "of_learning_rate"  # key of a parameter group: factor on the task's learning rate


class Task(Protocol):
    """What the loop needs to know of a task.

    Attributes:
        name: Used for folder and file names.
        settings: What a run must not change halfway, beside the network's configuration.
        network: What is exported, with a dataclass as `config`; the loop keeps an averaged copy.
        helpers: Networks that only training needs.
        optimizers: By name; each `step` uses them itself.
        learning_rate: Of the first step; the loop lowers it along a half cosine.
        progress: Share of the training time that has passed, set by the loop.
        batches: Where the steps take their data from; closed at the end.
    """

    name: str
    settings: Mapping[str, Any]
    network: nn.Module
    helpers: nn.ModuleDict
    optimizers: dict[str, torch.optim.Optimizer]
    learning_rate: float
    progress: float
    batches: Generator[Any, None, None]

    def step(self) -> Mapping[str, float]:
        """Take one step and return named losses."""

    def sample_sheet(self, network: nn.Module) -> Image.Image:
        """Draw what the (averaged) network does now."""

    def finish(self, network: nn.Module) -> None:
        """Do what the averaged network needs before it is used."""


@torch.no_grad()
def update_average(average: nn.Module, network: nn.Module, step: int) -> None:
    """Move averaged weights towards the network's, faster during the first steps."""
    decay = min(EMA_DECAY, (1 + step) / (10 + step))
    for kept, new in zip(average.state_dict().values(), network.state_dict().values(), strict=True):
        if kept.dtype.is_floating_point:
            kept.lerp_(new.to(kept.dtype), 1 - decay)
        else:
            kept.copy_(new)


def save_checkpoint(folder: Path, state: dict[str, Any]) -> None:
    """Write a state in pieces of at most 15 MiB; the old one stays until the new is whole."""
    buffer = io.BytesIO()
    torch.save(state, buffer)
    data = buffer.getbuffer()
    pieces = math.ceil(len(data) / PIECE_BYTES)
    for index in range(pieces):
        part = data[index * PIECE_BYTES : (index + 1) * PIECE_BYTES]
        (folder / f"new-state.{index:02d}").write_bytes(part)
    for old in folder.glob("state.*"):
        old.unlink()
    for index in range(pieces):
        (folder / f"new-state.{index:02d}").rename(folder / f"state.{index:02d}")


def load_checkpoint(folder: Path) -> dict[str, Any] | None:
    """Read what `save_checkpoint` wrote; None where there is nothing."""
    pieces = sorted(folder.glob("state.*"))
    if not pieces:
        return None
    data = b"".join(piece.read_bytes() for piece in pieces)
    state: dict[str, Any] = torch.load(io.BytesIO(data), map_location="cpu", weights_only=True)
    return state


def load_trained(runs: Path, name: str, *, what: str, command: str) -> dict[str, Any]:
    """State of a run that another training builds on.

    Args:
        runs: Folder of the runs.
        name: Of the run.
        what: It has trained, for the message.
        command: Of `seg2vid train` that trains it.

    Raises:
        InputError: There is none.
    """
    state = load_checkpoint(runs / name)
    if state is None:
        raise InputError(f"{runs}: no {what}", hint=f"run seg2vid train {command} first")
    return state


def _state(task: Task, average: nn.Module, step: int, seconds: float) -> dict[str, Any]:
    return {
        "network": task.network.state_dict(),
        "average": average.state_dict(),
        "helpers": task.helpers.state_dict(),
        "optimizers": {name: o.state_dict() for name, o in task.optimizers.items()},
        "config": asdict(task.network.config),  # type: ignore[call-overload]
        "settings": dict(task.settings),
        "step": step,
        "seconds": seconds,
    }


def train(
    task: Task,
    *,
    out: Path,
    minutes: float,
    sheet_every_s: float = 240.0,
    save_every_s: float = 300.0,
    start_from: nn.Module | None = None,
) -> nn.Module:
    """Train until `minutes` of training time have passed in all, earlier runs in `out` included.

    Args:
        task: What to train.
        out: Folder for `NAME/state.*`, `metrics.csv` and `sheet-*.png`; resumed from a state.
        minutes: Training time in all; the learning rate falls to a twentieth over it.
        sheet_every_s: Seconds between sample sheets.
        save_every_s: Seconds between saved states.
        start_from: A trained network to begin with where `out` has no state yet.

    Returns:
        The averaged network.
    """
    if start_from is not None:
        check_start(start_from, task.network)
        task.network.load_state_dict(start_from.state_dict())
    folder = out / task.name
    folder.mkdir(parents=True, exist_ok=True)
    average = deepcopy(task.network).requires_grad_(False)
    step, seconds_before = 0, 0.0
    if state := load_checkpoint(folder):
        for theirs, ours in (
            (state["config"], asdict(task.network.config)),  # type: ignore[call-overload]
            (state.get("settings", task.settings), task.settings),
        ):
            if theirs != ours:
                raise InputError(
                    f"{folder}: holds a training of another configuration: {theirs} instead of "
                    f"{ours}",
                    hint="name another folder with --out, or give the options of that training",
                )
        try:
            task.network.load_state_dict(state["network"])
        except RuntimeError as error:
            raise InputError(
                f"{folder}: holds a training by another version",
                hint="name another folder with --out",
            ) from error
        average.load_state_dict(state["average"])
        task.helpers.load_state_dict(state["helpers"])
        for name, optimizer in task.optimizers.items():
            optimizer.load_state_dict(state["optimizers"][name])
        step, seconds_before = state["step"], state["seconds"]
    limit, start = minutes * 60, time.monotonic()
    last_sheet = last_save = last_row = start
    sums: dict[str, float] = {}
    rows = steps_made = 0
    columns = (TextColumn("{task.description}"), BarColumn(), TimeRemainingColumn())
    with Progress(*columns, console=Console(stderr=True)) as progress:
        bar = progress.add_task(task.name, total=limit)
        while (seconds := seconds_before + time.monotonic() - start) < limit:
            task.progress = seconds / limit
            factor = 0.05 + 0.95 * 0.5 * (1 + math.cos(math.pi * task.progress))
            for optimizer in task.optimizers.values():
                for group in optimizer.param_groups:
                    group["lr"] = task.learning_rate * factor * group.get(OWN_RATE, 1.0)
            for key, value in task.step().items():
                sums[key] = sums.get(key, 0.0) + value
            step, rows, steps_made = step + 1, rows + 1, steps_made + 1
            update_average(average, task.network, step)
            now = time.monotonic()
            if now - last_row > 20:
                _write_row(
                    folder / "metrics.csv", step, seconds, {k: v / rows for k, v in sums.items()}
                )
                progress.update(bar, completed=seconds)
                sums, rows, last_row = {}, 0, now
            if now - last_sheet > sheet_every_s:
                task.sample_sheet(average).save(folder / f"sheet-{step:06d}.png")
                last_sheet = now
            if now - last_save > save_every_s:
                save_checkpoint(folder, _state(task, average, step, seconds))
                last_save = now
    if steps_made:  # else an earlier run has had all the time already
        task.finish(average)
        save_checkpoint(folder, _state(task, average, step, seconds))
        task.sample_sheet(average).save(folder / f"sheet-{step:06d}.png")
    task.batches.close()
    (folder / "done.json").write_text(json.dumps({"steps": step, "minutes": seconds / 60}))
    return average


def check_start(
    start_from: nn.Module,
    network: nn.Module,
    *,
    may_lack: tuple[str, ...] = (),
    hint: str = "leave --start out, or train at their size",
) -> None:
    """Make sure that a trained network can be begun with.

    Args:
        start_from: The trained one.
        network: To be trained.
        may_lack: What the names of tensors begin with that the trained one need not have.
        hint: What to do otherwise.

    Raises:
        InputError: It has another configuration than `network`.
    """
    theirs, ours = (
        {name: tuple(tensor.shape) for name, tensor in module.state_dict().items()}
        for module in (start_from, network)
    )
    wanted = {n: s for n, s in ours.items() if n in theirs or not n.startswith(may_lack)}
    if theirs != wanted:
        raise InputError(
            f"the weights to start from have another configuration: {start_from.config} instead "
            f"of {network.config}",
            hint=hint,
        )


def _write_row(path: Path, step: int, seconds: float, losses: Mapping[str, float]) -> None:
    new = not path.exists()
    with path.open("a", newline="") as file:
        writer = csv.writer(file)
        if new:
            writer.writerow(["step", "seconds", *losses])
        writer.writerow([step, round(seconds), *(f"{value:.5f}" for value in losses.values())])


def grid_picture(rows: list[list[Tensor]]) -> Image.Image:
    """Rows of `(3, h, w)` pictures in [0, 1] as one picture."""
    lines = [torch.cat([cell.detach().float().cpu() for cell in row], dim=2) for row in rows]
    grid = torch.cat(lines, dim=1).clamp(0, 1)
    return Image.fromarray((grid.permute(1, 2, 0) * 255).round().byte().numpy())
