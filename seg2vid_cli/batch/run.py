"""A batch from beginning to end: find maps, leave out what is done, make the rest, note it."""

from __future__ import annotations

import math
import threading
import time
from collections import Counter
from collections.abc import Callable, Generator, Iterable, Iterator
from contextlib import closing
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, Literal, Protocol

from seg2vid_cli.batch.folders import (
    Folder,
    Found,
    matches,
    path_within,
)
from seg2vid_cli.batch.jobs import EXTRAS, Job, Result, Stems, WorkSpec, output_names
from seg2vid_cli.batch.manifest import Manifest, options_key
from seg2vid_cli.errors import InputError
from seg2vid_cli.first_frame import check_light
from seg2vid_cli.label_sets import ENCODINGS, load_encoding
from seg2vid_cli.labels import LABEL_EXTENSIONS
from seg2vid_cli.pipeline import DEFAULT_FRAMES, check_settings
from seg2vid_cli.video import DEFAULT_QUALITY, VIDEO_EXTENSIONS, check_fps
from seg2vid_cli.weights.load import Bundle, open_mixed
from seg2vid_cli.weights.registry import WeightSpec, file_sha256

Engine = Literal["local", "ray"]
ENGINES: tuple[Engine, ...] = ("local", "ray")
POLL_S = 1.0  # between two looks into a folder that is being filled, at least
POLL_SHARE = 0.1  # of the time for looking into a huge one
SETTLED_S = 2.0  # without a change, until a file counts as completely written
TO_DO, SKIPPED, DONE, FAILED = "to do", "skipped", "done", "failed"
Event = dict[str, Any]


@dataclass(frozen=True, kw_only=True)
class BatchOptions:
    """Where a batch reads and writes, and on what it runs.

    Args:
        maps: Folder of label maps, searched with all its folders.
        out: Folder of clips; mirrors the folders of maps.
        globs: Only maps whose path or name fits one of these.
        exclude: No maps whose path or name fits one of these.
        overwrite: Make everything again.
        dry_run: Only say what would be done.
        watch: Go on with maps that arrive later.
        idle_s: With `watch`, end when nothing has arrived, and nothing was left to do, for so long;
            never if not given.
        devices: One process for each, where there are several.
        engine: `local` or `ray`.
        address: Of the Ray cluster; if not given, `RAY_ADDRESS`, or one that runs on this machine,
            or a new one on this machine.
        workers: Ray actors; one per GPU, or per two cores, of the cluster if not given.
    """

    maps: Folder
    out: Folder
    globs: tuple[str, ...] = ()
    exclude: tuple[str, ...] = ()
    overwrite: bool = False
    dry_run: bool = False
    watch: bool = False
    idle_s: float | None = None
    devices: tuple[str, ...] = ("auto",)
    engine: Engine = "local"
    address: str | None = None
    workers: int | None = None


@dataclass(frozen=True, kw_only=True)
class BatchSummary:
    """How a batch went, in label maps.

    Args:
        found: Seen in the folder.
        done: Made now.
        skipped: Made before, and still right.
        failed: Not made; reasons are in the manifest.
        seconds: Wall time.
        todo: With a dry run, what would be made.
        expected_seconds: With a dry run, about how long that would take; None if unknown.
    """

    found: int
    done: int
    skipped: int
    failed: int
    seconds: float
    todo: int = 0
    expected_seconds: float | None = None


class WorkEngine(Protocol):
    """Does jobs, in any order."""

    def run(self, jobs: Iterable[Job | None]) -> Generator[Result, None, None]:
        """One result per job; see `Worker.run` for None."""

    def close(self) -> None:
        """Let go of processes."""


def run_batch(
    options: BatchOptions,
    spec: WorkSpec,
    *,
    tell: Callable[[Event], None] = lambda event: None,
    before_pull: Callable[[WeightSpec], None] | None = None,
) -> BatchSummary:
    """Make the clips of all label maps in a folder that are not made yet.

    Args:
        options: Where, and on what.
        spec: What is made of each map.
        tell: Told what happens, one event at a time: `start`, `found`, `skipped`, `done`,
            `failed`, `would`, `end`. May be called in another thread.
        before_pull: Told which weights are about to be downloaded; silent without.

    Raises:
        InputError: The folders or options cannot be used; nothing has been made.
        Seg2VidError: The device, the disk or the cluster failed; the manifest says what is done.
    """
    began = time.monotonic()
    check_options(options, spec)
    options.maps.check_readable()
    _check_places(options)
    if not options.watch and next(_find(options), None) is None:
        raise InputError(
            f"{options.maps}: no label maps there"
            + (" that fit" if options.globs or options.exclude else ""),
            hint=f"looked for {', '.join(LABEL_EXTENSIONS)}, in all folders; files and folders "
            "whose name starts with a dot are left out",
        )
    bundle = _open(spec, before_pull)
    _check_rate(spec, bundle)
    encoding = None if spec.encoding in ("auto", *ENCODINGS) else Path(spec.encoding)
    spec = replace(
        spec,
        weights_sha256=bundle.sha256(),
        encoding_sha256=None if encoding is None else file_sha256(encoding),
    )
    batch = _Batch(options, spec, tell, began)
    if options.dry_run:
        return batch.dry_run(bundle.size_hw)
    options.out.prepare()
    return batch.run()


def check_options(options: BatchOptions, spec: WorkSpec) -> None:
    """Refuse what cannot work before anything is opened.

    Raises:
        InputError: Options that do not go together, or out of range.
    """
    defaults = {"frames": DEFAULT_FRAMES, "fps": None, "quality": DEFAULT_QUALITY}
    check_settings(**{**defaults, "size_hw": None, "fit": "keep", **spec.settings})
    if spec.encoding != "auto":
        load_encoding(spec.encoding)
    if spec.extension not in VIDEO_EXTENSIONS:
        known = ", ".join(extension[1:] for extension in VIDEO_EXTENSIONS)
        raise InputError(f"format '{spec.extension[1:]}' is not known", hint=f"use {known}")
    if unknown := set(spec.extras) - set(EXTRAS):
        raise InputError(f"output '{min(unknown)}' is not known", hint=f"use {', '.join(EXTRAS)}")
    if options.engine not in ENGINES:
        raise InputError(
            f"engine '{options.engine}' is not known", hint=f"use one of {', '.join(ENGINES)}"
        )
    for name, number in (("batch", spec.batch), ("workers", options.workers)):
        if number is not None and number < 1:
            raise InputError(f"{name} {number} is out of range", hint="use 1 or more")
    if options.idle_s is not None and not options.watch:
        raise InputError("--idle is for --watch", hint="add --watch")
    if options.idle_s is not None and not 0 <= options.idle_s < math.inf:  # also false for NaN
        raise InputError(f"idle {options.idle_s:g} is out of range", hint="a number of seconds")
    if options.watch and options.dry_run:
        raise InputError("a dry run does not wait", hint="leave out --watch or --dry-run")
    if options.engine == "ray":
        if len(options.devices) > 1 or ":" in options.devices[0]:
            raise InputError(
                "on a Ray cluster every worker has one device",
                hint="use --devices auto, cpu or cuda, and --workers for their number",
            )
        if not options.dry_run:
            from seg2vid_cli.batch.cluster import import_ray

            import_ray()
    elif options.address or options.workers:
        raise InputError("--address and --workers are for --engine ray", hint="add --engine ray")


def _check_places(options: BatchOptions) -> None:
    if path_within(options.out, options.maps) == "":
        raise InputError(
            f"{options.out}: is the folder of label maps", hint="name another folder with --output"
        )


def _open(spec: WorkSpec, before_pull: Callable[[WeightSpec], None] | None) -> Bundle:
    bundle, first_frame, _ = open_mixed(
        spec.weights,
        first_frame_weights=spec.first_frame_weights,
        motion_weights=spec.motion_weights,
        before_pull=before_pull,
    )
    bundle.require("first_frame")
    config, painted_by = bundle.stages["first_frame"].config, first_frame or bundle.name
    for sample in spec.samples:
        check_light(sample.light, config, painted_by)
    if spec.settings.get("frames", DEFAULT_FRAMES) != 1:
        bundle.require("motion", "refine")
    return bundle


def _check_rate(spec: WorkSpec, bundle: Bundle) -> None:
    """Refuse a frame rate that no clip of this format can have, once for all of them."""
    fps = spec.settings.get("fps") or bundle.fps or 1.0
    try:
        check_fps(Path(f"clip{spec.extension}"), fps)
    except InputError as error:
        raise InputError(error.message.rpartition(": ")[2], hint=error.hint) from error


def _find(options: BatchOptions) -> Iterator[Found]:
    for found in options.maps.find(leave_out=options.out):
        if options.globs and not matches(found.name, options.globs):
            continue
        if not matches(found.name, options.exclude):
            yield found


def _is_something(found: Found) -> bool:
    """Whether there is more to a file than its name, or a problem with it."""
    return found.size > 0 or found.problem is not None


class _Batch:
    """One run; jobs are looked for in another thread than that which notes results."""

    def __init__(
        self, options: BatchOptions, spec: WorkSpec, tell: Callable[[Event], None], began: float
    ) -> None:
        self._options, self._spec, self._tell_outside = options, spec, tell
        self._began = began
        self._manifest = Manifest(options.out)
        self._stems = Stems({})
        self._maps_in_out = path_within(options.maps, options.out)
        self._status: dict[str, str] = {}  # by input
        self._guard = threading.RLock()
        self._stopped = threading.Event()

    def run(self) -> BatchSummary:
        """Make what is missing."""
        options = self._options
        with self._manifest.writing():
            self._stems = Stems(self._manifest.stems())
            options.out.clean_up()
            self._tell({"event": "start", "maps": str(options.maps), "out": str(options.out)})
            engine = _engine(options, self._spec)
            try:
                with closing(engine.run(self._jobs())) as results:
                    try:
                        for result in results:
                            self._note(result)
                    finally:  # first of all, since the engine waits for whoever looks for jobs
                        self._stopped.set()
                if not options.globs and not options.exclude:
                    self._manifest.forget_failures(self._status)
            finally:
                engine.close()
                options.out.clean_up()
        return self._end()

    def dry_run(self, native_hw: tuple[int, int]) -> BatchSummary:
        """Say what would be made."""
        self._manifest.load()
        self._stems = Stems(self._manifest.stems())
        for job in self._jobs():
            assert job is not None
            names = [name for one in output_names(job.stem, self._spec) for name in one.values()]
            self._tell({"event": "would", "input": job.input, "outputs": names})
        each = self._manifest.expected_seconds(self._spec, native_hw=native_hw)
        todo = Counter(self._status.values())[TO_DO]
        at_once = self._options.workers or len(self._options.devices)
        return self._end(None if each is None else round(each * todo / at_once, 3))

    def _jobs(self) -> Iterator[Job | None]:
        """What is missing or changed; looks again and again with `watch`."""
        if self._options.watch:
            yield from self._watched()
            return
        found = list(_find(self._options))
        self._tell({"event": "found", "maps": len(found)})
        for one in found:
            if self._stopped.is_set():
                return
            yield from self._job(one)

    def _watched(self) -> Iterator[Job | None]:
        seen: dict[str, tuple[Found, float]] = {}  # as it is, and since when
        handled: dict[str, Found] = {}
        idle_s = self._options.idle_s
        last_news = time.monotonic()
        while not self._stopped.is_set():
            looked = time.monotonic()
            now: dict[str, tuple[Found, float]] = {}
            for found in _find(self._options):
                before = seen.get(found.name)
                now[found.name] = before if before and before[0] == found else (found, looked)
            seen, took = now, time.monotonic() - looked
            for found, since in seen.values():
                # Whoever writes a file has finished when it stays as it is.
                if looked - since >= SETTLED_S and _is_something(found):
                    yield from self._handle(found, handled)
            yield None
            waits = any(_is_something(f) and handled.get(n) != f for n, (f, _) in seen.items())
            if waits or self._is_busy():
                last_news = time.monotonic()
            elif idle_s is not None and time.monotonic() - last_news >= idle_s:
                for found, _ in seen.values():  # files that have stayed empty
                    yield from self._handle(found, handled)
                return
            self._stopped.wait(max(POLL_S, took / POLL_SHARE))

    def _handle(self, found: Found, handled: dict[str, Found]) -> Iterator[Job]:
        """A job, unless it was done already; while the file is in hand, changes have to wait."""
        busy = self._status.get(found.name) == TO_DO
        if handled.get(found.name) == found or busy or self._stopped.is_set():
            return
        handled[found.name] = found
        self._tell({"event": "found", "maps": len(handled)})
        yield from self._job(found)

    def _is_busy(self) -> bool:
        with self._guard:
            return TO_DO in self._status.values()

    def _job(self, found: Found) -> Iterator[Job]:
        name, problem, sha256 = found.name, found.problem, ""
        is_folder = name.endswith("/")  # one that cannot be listed
        stem = name if is_folder else self._stems.claim(name)
        if problem is None:
            try:
                sha256 = self._options.maps.sha256(name)
            except Exception as error:  # behind a URL anything
                problem = str(getattr(error, "strerror", None) or error)
        hint = None
        inside = self._maps_in_out
        if inside and f"{stem}/".startswith(f"{inside}/"):
            problem = "its clip would lie among the label maps"
            hint = "name another folder with --output"
        key = self._spec.key(sha256)
        job = Job(input=name, input_sha256=sha256, key=key, stem=stem)
        if problem is not None:
            result = Result(job=job, reason=f"{name}: {problem}", hint=hint)
            self._note(result, lasting=not is_folder)
            return
        if not self._options.overwrite and self._manifest.is_done(name, key):
            with self._guard:
                self._status[name] = SKIPPED
            self._tell({"event": "skipped", "input": name})
            return
        if not self._options.dry_run:
            self._manifest.supersede(job)
        with self._guard:
            self._status[name] = TO_DO
        yield job

    def _note(self, result: Result, *, lasting: bool = True) -> None:
        """Tell what became of a job, and write it down."""
        name, settings = result.job.input, self._spec.settings
        facts = {
            "options": options_key(self._spec),
            "samples": len(self._spec.samples),
            "frames": settings.get("frames", DEFAULT_FRAMES),
        }
        with self._guard:
            if lasting and not self._options.dry_run:
                self._manifest.add(result, facts)
            self._status[name] = DONE if result.reason is None else FAILED
        if result.reason is None:
            outputs = [path for path, _ in result.outputs]
            seconds = round(result.seconds, 3)
            self._tell({"event": "done", "input": name, "outputs": outputs, "seconds": seconds})
        else:
            reason = {"reason": result.reason, "hint": result.hint}
            self._tell({"event": "failed", "input": name, **reason})

    def _tell(self, event: Event) -> None:
        with self._guard:
            self._tell_outside(event)

    def _end(self, expected_seconds: float | None = None) -> BatchSummary:
        counts = Counter(self._status.values())
        summary = BatchSummary(
            found=len(self._status),
            done=counts[DONE],
            skipped=counts[SKIPPED],
            failed=counts[FAILED],
            seconds=round(time.monotonic() - self._began, 3),
            todo=counts[TO_DO],
            expected_seconds=expected_seconds,
        )
        self._tell({"event": "end", **vars(summary)})
        return summary


def _engine(options: BatchOptions, spec: WorkSpec) -> WorkEngine:
    if options.engine == "ray":
        from seg2vid_cli.batch.cluster import RayEngine

        return RayEngine(spec, options.maps, options.out, options=options)
    if len(options.devices) > 1:
        from seg2vid_cli.batch.processes import ProcessEngine

        return ProcessEngine(spec, options.maps, options.out, devices=options.devices)
    from seg2vid_cli.batch.worker import Worker

    return Worker(spec, options.maps, options.out, device=options.devices[0])
