"""Makes the clips of a batch on one device: reading, generating and writing overlap.

Three threads hand maps on to each other: one reads ahead, one runs the networks, and one waits for
the files that the writers of `ClipWriter` complete. Results are given out as they come.
"""

from __future__ import annotations

import time
from collections.abc import Generator, Iterable, Iterator
from contextlib import ExitStack, closing, suppress
from dataclasses import dataclass, field
from enum import Enum, auto
from pathlib import Path

import torch

from seg2vid_cli.batch.folders import Folder, hash_file
from seg2vid_cli.batch.jobs import Job, Result, WorkSpec, output_names
from seg2vid_cli.batch.threads import Line, StoppedError, Threads
from seg2vid_cli.errors import InputError, Seg2VidError, WeightsError
from seg2vid_cli.labels import read_labels
from seg2vid_cli.outputs import TOGETHER, ClipWriter, Outputs
from seg2vid_cli.pipeline import Clip, Pipeline

BATCH_ON_GPU = 8
AHEAD = 4  # label maps that are read before they are needed, at least
UNFINISHED = 2  # groups of clips whose files may still be written while the next are made


class DeviceLostError(Seg2VidError):
    """A device, or the processes for it, that worked at first and do so no more."""


class _Mark(Enum):
    FLUSH = auto()  # nothing more is known for now
    END = auto()


@dataclass(eq=False)
class _Map:
    """A label map on its way."""

    job: Job
    began: float
    names: list[dict[str, str]]
    clips: list[Clip] = field(default_factory=list)
    error: Exception | None = None
    left: int = 0  # clips that are not finished
    seconds: float = 0.0


@dataclass(eq=False)
class _Written:
    """A clip whose frames have all been handed to its writer; or an error instead."""

    item: _Map
    writer: ClipWriter | None = None
    stack: ExitStack = field(default_factory=ExitStack)
    error: Exception | None = None


class Worker:
    """One device with loaded networks.

    Args:
        spec: What is the same for all label maps.
        maps: Folder of label maps.
        out: Folder of clips.
        device: See `resolve_compute`.

    Raises:
        InputError: Unknown weights, device or precision.
        WeightsError: Damaged weights, or others than `spec` says.
    """

    def __init__(self, spec: WorkSpec, maps: Folder, out: Folder, *, device: str = "auto") -> None:
        self.spec, self.maps, self.out = spec, maps, out
        self.pipeline = Pipeline.open(
            spec.weights,
            first_frame_weights=spec.first_frame_weights,
            motion_weights=spec.motion_weights,
            device=device,
            precision=spec.precision,  # type: ignore[arg-type]
        )
        if spec.weights_sha256 and dict(spec.weights_sha256) != self.pipeline.weights_sha256:
            raise WeightsError(
                f"weights '{spec.weights}' are not those that the batch was started with",
                hint="the same files have to be everywhere, and stay as they are",
            )
        on_gpu = self.pipeline.compute.device.type == "cuda"
        self.batch = spec.batch or (BATCH_ON_GPU if on_gpu else 1)
        if spec.compile:
            self.pipeline.compile()

    def run(self, jobs: Iterable[Job | None]) -> Generator[Result, None, None]:
        """Do jobs; a bad one gives a failed result and never stops the others.

        Args:
            jobs: None among them says that nothing more is known for now, so that what has been
                begun is finished without waiting for company. Read in another thread.

        Raises:
            DeviceLostError: The device has failed and takes nothing more.
        """
        with closing(_Flow(self, jobs)) as flow:
            yield from flow

    def close(self) -> None:
        """Nothing to let go of."""

    def read(self, job: Job) -> _Map:
        """Read a label map and plan its clips; the map itself, which may be large, is not kept."""
        names = output_names(job.stem, self.spec)
        item = _Map(job, time.monotonic(), names, left=len(names))
        try:
            with self.maps.reading(job.input) as path:
                item.clips = self._plan(path, job)
        except Exception as error:
            item.error = error
        return item

    def _plan(self, path: Path, job: Job) -> list[Clip]:
        try:
            labels = read_labels(path, encoding=self.spec.encoding)
        except Seg2VidError as error:
            raise InputError(
                error.message.replace(str(path), job.input), hint=error.hint
            ) from error
        with path.open("rb") as file:
            if hash_file(file) != job.input_sha256:
                raise InputError(
                    f"{job.input}: has changed since it was found", hint="run the same again"
                )
        return [
            self.pipeline.generate(labels, sample=sample, **self.spec.settings)
            for sample in self.spec.samples
        ]


class _Flow:
    """The threads of one `Worker.run`."""

    def __init__(self, worker: Worker, jobs: Iterable[Job | None]) -> None:
        self._worker, self._jobs = worker, jobs
        self._threads = Threads(failed=self._failed)
        stop = self._threads.stopped
        self._maps: Line[_Map | _Mark] = Line(max(AHEAD, worker.batch), stop)
        self._made: Line[list[_Written] | _Mark] = Line(UNFINISHED, stop)
        self._results: Line[Result | BaseException | _Mark] = Line(0, stop)
        self._finished = 0.0
        for work in (self._read, self._make, self._finish):
            self._threads.start(work)

    def __iter__(self) -> Iterator[Result]:
        while not isinstance(result := self._results.get(), _Mark):
            if isinstance(result, BaseException):
                raise result
            yield result

    def close(self) -> None:
        """Stop; files whose frames are not all made yet never appear."""
        self._threads.stop()
        for clips in self._made.rest():
            if not isinstance(clips, _Mark):
                _drop(clips)

    def _failed(self, error: BaseException) -> None:
        if isinstance(error, torch.AcceleratorError):  # after it nothing works in this process
            reason = f"{self._worker.pipeline.compute.device} has failed: {error}".splitlines()[0]
            error = DeviceLostError(reason, hint="run the same again; what is done stays done")
        self._results.put(error)

    def _read(self) -> None:
        for job in self._jobs:
            self._maps.put(_Mark.FLUSH if job is None else self._worker.read(job))
        self._maps.put(_Mark.END)

    def _make(self) -> None:
        waiting: dict[tuple[int, int], list[_Map]] = {}  # by size of the clips
        while True:
            item = self._maps.get()
            if isinstance(item, _Mark):
                for group in waiting.values():
                    self._make_group(group)
                waiting.clear()
                if item is _Mark.END:
                    self._made.put(_Mark.END)
                    return
                continue
            if item.error is not None:
                self._results.put(_result(item, self._worker.out))
                continue
            group = waiting.setdefault(item.clips[0].recipe.size, [])
            group.append(item)
            if len(group) < self._worker.batch:
                if sum(len(group) for group in waiting.values()) < 2 * self._worker.batch:
                    continue
                group = next(iter(waiting.values()))  # of many sizes, that which waits longest
            del waiting[group[0].clips[0].recipe.size]
            self._make_group(group)

    def _make_group(self, items: list[_Map]) -> None:
        """All clips of some maps, not too many at a time."""
        clips = [(item, number) for item in items for number in range(item.left)]
        most = max(self._worker.batch, TOGETHER)
        for first in range(0, len(clips), most):
            self._make_clips(clips[first : first + most])

    def _make_clips(self, clips: list[tuple[_Map, int]]) -> None:
        try:
            written = self._start(clips)
        except (StoppedError, torch.AcceleratorError):
            raise
        except Exception as error:
            if len(clips) > 1:
                for one in clips:  # find out whose fault it is
                    self._make_clips([one])
                return
            written = [_Written(clips[0][0], error=error)]
        self._made.put(written)

    def _start(self, clips: list[tuple[_Map, int]]) -> list[_Written]:
        """Make all frames of some clips; their files may still be written afterwards."""
        worker = self._worker
        made: list[Clip] = []
        writers: list[ClipWriter] = []
        written: list[_Written] = []
        with ExitStack() as stack:
            for item, number in clips:
                clip = item.clips[number]
                own = stack.enter_context(ExitStack())
                paths = {
                    kind: own.enter_context(worker.out.writing(name))
                    for kind, name in item.names[number].items()
                }
                writer = own.enter_context(ClipWriter(clip, Outputs(**paths)))
                made.append(clip)
                writers.append(writer)
                written.append(_Written(item, writer, own))
            forward = "flow" in worker.spec.extras
            for number, frame in worker.pipeline.make(made, forward_flow=forward):
                if self._threads.stopped.is_set():
                    raise StoppedError
                writers[number].add(frame)
            for writer in writers:
                writer.end()
            stack.pop_all()  # of the clips' own stacks, which stay open
        return written

    def _finish(self) -> None:
        while not isinstance(clips := self._made.get(), _Mark):
            try:
                for clip in clips:
                    _complete(clip)
            except BaseException:
                _drop(clips)
                raise
            # Groups overlap, so what counts is the time since the one before was finished.
            now = time.monotonic()
            began = max(self._finished, min(clip.item.began for clip in clips))
            self._finished = now
            for clip in clips:
                item = clip.item
                item.seconds += (now - began) / len(clips)
                item.error = item.error or clip.error
                item.left -= 1
                if not item.left:
                    self._results.put(_result(item, self._worker.out))
        self._results.put(_Mark.END)


def _complete(clip: _Written) -> None:
    """Wait for a clip's files; behind a URL they are uploaded now."""
    try:
        if clip.writer is not None:
            clip.writer.result()
        clip.stack.close()
    except Exception as error:
        clip.error = error
        _drop([clip])


def _drop(clips: list[_Written]) -> None:
    for clip in clips:
        with suppress(Exception):
            clip.stack.__exit__(StoppedError, StoppedError(), None)


def _result(item: _Map, out: Folder) -> Result:
    job, error = item.job, item.error
    if error is None:
        files = [name for names in item.names for name in names.values()]
        sizes = tuple((name, out.size(name) or 0) for name in files)
        size = item.clips[0].recipe.size
        return Result(job=job, outputs=sizes, size=size, seconds=item.seconds)
    if isinstance(error, Seg2VidError):
        return Result(job=job, reason=error.message, hint=error.hint)
    if isinstance(error, OSError):
        return Result(job=job, reason=f"{job.input}: {error.strerror or error}")
    reason = f"{job.input}: {type(error).__name__}: {error}"
    return Result(job=job, reason=reason.splitlines()[0])
