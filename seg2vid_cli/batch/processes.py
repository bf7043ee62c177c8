"""Several devices of one machine: a process each, fed through pipes."""

from __future__ import annotations

import contextlib
import multiprocessing
import os
import signal
import threading
from collections.abc import Generator, Iterable, Iterator
from contextlib import suppress
from dataclasses import dataclass
from multiprocessing.connection import Connection, wait
from typing import Any

import torch

from seg2vid_cli.batch.deal import Dealer, Hand
from seg2vid_cli.batch.folders import Folder
from seg2vid_cli.batch.jobs import Job, Result, WorkSpec
from seg2vid_cli.batch.worker import DeviceLostError, Worker
from seg2vid_cli.errors import Seg2VidError

TICK_S = 0.1  # between two looks for new jobs
QUIET_S = 0.5  # without a new job, until a process makes what it has
JOIN_S = 20.0
FALSE_STARTS = 3  # processes for a device that die before they are ready
DEATHS_IN_A_ROW = 10  # without one finished map between them


@dataclass(eq=False, kw_only=True)
class _Child(Hand):
    device: str
    process: Any
    pipe: Connection
    false_starts: int = 0  # of those before it, since one was ready
    deaths: int = 0  # of those before it, since one finished a map


class ProcessEngine:
    """Hands jobs to one process per device; a process that dies is replaced.

    Args:
        spec: What is the same for all label maps.
        maps: Folder of label maps.
        out: Folder of clips.
        devices: See `resolve_compute`; the same may be named twice.
    """

    def __init__(
        self, spec: WorkSpec, maps: Folder, out: Folder, *, devices: tuple[str, ...]
    ) -> None:
        self._context = multiprocessing.get_context("spawn")
        self._args = spec, maps, out
        on_cpu = sum(device == "cpu" for device in devices)
        self._threads = max(1, torch.get_num_threads() // on_cpu) if on_cpu else None
        self._children: list[_Child] = []
        for device in devices:
            self._children.append(self._start(device))

    def _start(self, device: str, *, false_starts: int = 0, deaths: int = 0) -> _Child:
        ours, theirs = self._context.Pipe()
        threads = self._threads if device == "cpu" else None
        process = self._context.Process(
            target=_serve, args=(theirs, *self._args, device, threads), daemon=True
        )
        with _without_interrupts():
            process.start()
        theirs.close()
        return _Child(
            device=device, process=process, pipe=ours, false_starts=false_starts, deaths=deaths
        )

    def run(self, jobs: Iterable[Job | None]) -> Generator[Result, None, None]:
        """One result per job, in any order.

        Raises:
            DeviceLostError: Processes for a device keep dying.
            Seg2VidError: A process could not open what it needs.
        """
        with Dealer(jobs) as dealer:
            while dealer.more or any(child.jobs for child in self._children):
                for child, job in dealer.deal(self._children):
                    with suppress(OSError):  # where it has died, `_collect` finds out
                        child.pipe.send(job)
                yield from self._collect(dealer)

    def _collect(self, dealer: Dealer) -> Iterator[Result]:
        by_pipe = {child.pipe: child for child in self._children}
        for pipe in wait(list(by_pipe), timeout=TICK_S):
            child = by_pipe[pipe]  # type: ignore[index]
            try:
                answer = child.pipe.recv()
            except (EOFError, OSError):
                yield from self._replace(child, dealer)
                continue
            if isinstance(answer, Seg2VidError):
                raise answer
            if isinstance(answer, int):
                child.ready, child.batch, child.false_starts = True, answer, 0
            elif dealer.answered(child, answer):
                child.deaths = 0
                yield answer

    def _replace(self, child: _Child, dealer: Dealer) -> Iterator[Result]:
        """A process died: its jobs are tried once more, one by one, and another takes its place."""
        _end(child.process)
        child.pipe.close()
        code, deaths = child.process.exitcode, child.deaths + 1
        false_starts = child.false_starts + (not child.ready)
        yield from dealer.died(child, f"its process died with code {code}")
        if false_starts >= FALSE_STARTS or deaths >= DEATHS_IN_A_ROW:
            raise DeviceLostError(
                f"processes for device {child.device} keep dying, the last with code {code}",
                hint=f"try it alone: --devices {child.device}",
            )
        another = self._start(child.device, false_starts=false_starts, deaths=deaths)
        self._children[self._children.index(child)] = another

    def close(self) -> None:
        """Let the processes go; what they have in hand never appears."""
        for child in self._children:
            if child.jobs or not child.ready:
                child.process.terminate()
            child.pipe.close()
        for child in self._children:
            _end(child.process)


def _end(process: Any) -> None:
    """Wait for a process that ends by itself; if it does not, make it."""
    process.join(JOIN_S)
    if process.is_alive():
        process.kill()
        process.join()


@contextlib.contextmanager
def _without_interrupts() -> Iterator[None]:
    """Processes started here never see Ctrl-C, which goes to all of a terminal: the parent ends
    them."""
    if threading.current_thread() is not threading.main_thread():
        yield
        return
    before = signal.signal(signal.SIGINT, signal.SIG_IGN)
    try:
        yield
    finally:
        if before is not None:  # else it was not set from Python
            signal.signal(signal.SIGINT, before)


def _serve(
    pipe: Connection, spec: WorkSpec, maps: Folder, out: Folder, device: str, threads: int | None
) -> None:
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    threading.Thread(target=_leave_with_parent, daemon=True).start()
    if threads:
        torch.set_num_threads(threads)
    with suppress(EOFError, OSError):  # the parent has gone
        try:
            worker = Worker(spec, maps, out, device=device)
        except Seg2VidError as error:
            pipe.send(error)
            return
        pipe.send(worker.batch)
        try:
            for result in worker.run(_received(pipe)):
                pipe.send(result)
        except DeviceLostError:
            os._exit(1)  # the parent starts another process


def _leave_with_parent() -> None:
    """End this process when its parent has died, in whatever way."""
    parent = multiprocessing.parent_process()
    assert parent is not None
    wait([parent.sentinel])
    os._exit(1)


def _received(pipe: Connection) -> Iterator[Job | None]:
    with suppress(EOFError, OSError):  # the parent has no more
        while True:
            yield pipe.recv() if pipe.poll(QUIET_S) else None
