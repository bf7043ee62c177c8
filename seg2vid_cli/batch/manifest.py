"""The truth about what is done: one JSON object per label map, in `manifest.jsonl`.

A line is appended when all files of a label map are complete. So a run that is killed at any
moment loses at most the clips in flight, and a line that was cut off is dropped at the next start.
Before a map is made again, a line says that its old files no longer count. A later line of the same
map replaces an earlier one; at the start and at the end of a run only the last ones are kept.
"""

from __future__ import annotations

import contextlib
import errno
import json
import os
import statistics
import sys
import threading
import time
from collections.abc import Container, Iterator, Mapping
from typing import IO, Any

from seg2vid_cli.batch.folders import LOCK_FILE, Folder, LocalFolder
from seg2vid_cli.batch.jobs import Job, Result, WorkSpec
from seg2vid_cli.errors import InputError, Seg2VidError
from seg2vid_cli.pipeline import DEFAULT_FRAMES

MANIFEST_FILE = "manifest.jsonl"
DONE, FAILED, CHANGED = "done", "failed", "changed"
# Where a file cannot be appended to, it is written anew so often, or so much rarer than it takes.
UPLOAD_EVERY_S, UPLOAD_SHARE = 1.0, 0.05


class Manifest:
    """Reads and extends the manifest of an output folder; may be used by several threads.

    Args:
        folder: The output folder.
    """

    def __init__(self, folder: Folder) -> None:
        self.folder = folder
        self._lines: dict[str, bytes] = {}  # of the disk's size, not of Python's objects
        self._superseded = False
        self._file: IO[bytes] | None = None
        self._guard = threading.RLock()
        self._timer: threading.Timer | None = None
        self._uploaded = self._upload_took = 0.0
        self._failure: Seg2VidError | None = None  # of an upload in the background

    def load(self) -> None:
        """Read it; a last line that was cut off is dropped.

        Raises:
            InputError: The file is no manifest of ours, or cannot be read.
        """
        self.folder.refresh()
        self._lines = {}
        data = self.folder.read(MANIFEST_FILE) or b""
        lines = data.split(b"\n")
        self._superseded = bool(lines[-1])
        for number, line in enumerate(lines, 1):
            record = _record(line)
            if record is not None:
                self._superseded |= record["input"] in self._lines
                self._lines[record["input"]] = line
            elif line.strip() and number < len(lines):
                raise InputError(
                    f"{self.folder}/{MANIFEST_FILE}: line {number} is not of a seg2vid manifest",
                    hint="name another output folder, or remove the file",
                )

    def records(self) -> Iterator[dict[str, Any]]:
        """The last line of every label map."""
        with self._guard:
            lines = list(self._lines.values())
        return (json.loads(line) for line in lines)

    def record(self, name: str) -> dict[str, Any] | None:
        """The last line of one label map."""
        line = self._lines.get(name)
        return None if line is None else json.loads(line)

    def stems(self) -> dict[str, str]:
        """Names of outputs by input, as given by earlier runs."""
        return {record["input"]: record["stem"] for record in self.records()}

    def is_done(self, name: str, key: str) -> bool:
        """Whether the clips of an input are there, made from the same things."""
        record = self.record(name)
        return (
            record is not None
            and record["status"] == DONE
            and record["key"] == key
            and all(self.folder.known_size(o["path"]) == o["bytes"] for o in record["outputs"])
        )

    def expected_seconds(self, spec: WorkSpec, *, native_hw: tuple[int, int]) -> float | None:
        """About how long one label map takes, going by what was made so far; None without any.

        Where nothing was made with the same options, by frames and pixels.

        Args:
            spec: What is to be made.
            native_hw: Size of clips if no other is asked for.
        """
        done = [record for record in self.records() if record["status"] == DONE]
        alike = [r["seconds"] for r in done if r.get("options") == options_key(spec)]
        if alike:
            return float(statistics.median(alike))
        rates = []
        for record in done:
            with contextlib.suppress(KeyError, TypeError, ZeroDivisionError):
                width, height = record["size"]
                pixels = record["samples"] * record["frames"] * width * height
                rates.append(record["seconds"] / pixels)
        height, width = spec.settings.get("size_hw") or native_hw
        pixels = len(spec.samples) * spec.settings.get("frames", DEFAULT_FRAMES) * width * height
        return float(statistics.median(rates)) * pixels if rates else None

    @contextlib.contextmanager
    def writing(self) -> Iterator[None]:
        """Hold the manifest: one run at a time; read, and without superseded lines.

        Raises:
            InputError: Another run holds it, or the file is no manifest of ours.
        """
        with self._lock():
            self.load()  # not earlier: another run may have been writing until now
            self._tidy(always=True)
            if isinstance(self.folder, LocalFolder):
                # Without a buffer, so that a line is written at once or not at all.
                self._file = (self.folder.path / MANIFEST_FILE).open("ab", buffering=0)
            try:
                yield
            finally:
                with self._guard:
                    if self._file is not None:
                        self._file.close()
                        self._file = None
                    if self._timer is not None:
                        self._timer.cancel()
                    self._tidy(always=self._timer is not None)

    def add(self, result: Result, facts: Mapping[str, Any]) -> None:
        """Note what became of a job; on the disk when this returns.

        Args:
            result: The job, and what was written or why not.
            facts: More to note.

        Raises:
            Seg2VidError: The disk is full.
        """
        job = result.job
        record: dict[str, Any] = {
            "input": job.input,
            "status": DONE if result.reason is None else FAILED,
            "input_sha256": job.input_sha256,
            "key": job.key,
            "stem": job.stem,
            "outputs": [{"path": path, "bytes": size} for path, size in result.outputs],
            **facts,
            "size": result.size,
            "seconds": round(result.seconds, 3),
            "finished": time.strftime("%Y-%m-%dT%H:%M:%SZ", time.gmtime()),
        }
        if result.reason is not None:
            record |= {"reason": result.reason, "hint": result.hint}
        self._append(record)

    def supersede(self, job: Job) -> None:
        """Note that the files of an input no longer count, since they will be made again.

        Otherwise a run that is killed could leave files of two runs, and a line that takes all of
        them for those of the first.
        """
        record = self.record(job.input)
        if record is not None and record["status"] == DONE:
            kept = ("input", "input_sha256", "key", "stem", "seconds")
            changed = {name: record[name] for name in kept}
            self._append({**changed, "status": CHANGED, "outputs": []})

    def forget_failures(self, found: Container[str]) -> None:
        """Drop lines of label maps that were not made and are no longer there.

        Args:
            found: Inputs that are there.
        """
        gone = [r["input"] for r in self.records() if r["status"] != DONE]
        with self._guard:
            for name in gone:
                if name not in found:
                    del self._lines[name]
                    self._superseded = True

    def _append(self, record: dict[str, Any]) -> None:
        line = json.dumps(record).encode()
        with self._guard:
            if self._failure is not None:
                raise self._failure
            self._superseded |= record["input"] in self._lines
            self._lines[record["input"]] = line
            if isinstance(self.folder, LocalFolder):
                self._append_line(line + b"\n")
            elif self._timer is None or not self._timer.is_alive():
                due = self._uploaded + max(UPLOAD_EVERY_S, self._upload_took / UPLOAD_SHARE)
                self._timer = threading.Timer(max(0, due - time.monotonic()), self._upload)
                self._timer.daemon = True
                self._timer.start()

    def _append_line(self, line: bytes) -> None:
        if self._file is None:
            return  # the run has ended
        try:
            if self._file.write(line) != len(line):
                raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))
            os.fsync(self._file.fileno())
        except OSError as error:
            raise Seg2VidError(
                f"{self.folder}/{MANIFEST_FILE}: cannot be written: {error.strerror}",
                hint="check the free disk space, then run the same command again",
            ) from error

    def _upload(self) -> None:
        try:
            self._write_all()
        except Seg2VidError as error:
            self._failure = error

    def _tidy(self, *, always: bool) -> None:
        if always or self._superseded:
            self._write_all()

    def _write_all(self) -> None:
        with self._guard:
            began = time.monotonic()
            self.folder.write(MANIFEST_FILE, b"".join(x + b"\n" for x in self._lines.values()))
            self._superseded = False
            self._uploaded = time.monotonic()
            self._upload_took = self._uploaded - began

    @contextlib.contextmanager
    def _lock(self) -> Iterator[None]:
        """One run at a time; behind a URL, where there are no locks, that is the user's to mind."""
        if not isinstance(self.folder, LocalFolder):
            yield
            return
        with (self.folder.path / LOCK_FILE).open("a") as file:
            if not _locked(file):
                raise InputError(
                    f"{self.folder}: another run is writing here",
                    hint="wait for it, or name another output folder",
                )
            yield


def options_key(spec: WorkSpec) -> str:
    """Short, and equal for label maps made with the same options and weights."""
    return spec.key()[:16]


def _record(line: bytes) -> dict[str, Any] | None:
    """A line's record; None where it is not one of ours."""
    kinds: dict[str, type | tuple[type, ...]] = {
        **dict.fromkeys(("input", "status", "key", "stem"), str),
        "outputs": list,
        "seconds": (int, float),
    }
    try:
        record = json.loads(line)
        if not all(isinstance(record[name], kind) for name, kind in kinds.items()):
            return None
        for output in record["outputs"]:
            if not isinstance(output["path"], str) or not isinstance(output["bytes"], int):
                return None
    except (ValueError, LookupError, TypeError, RecursionError):
        return None
    return record if isinstance(record, dict) else None


def _locked(file: IO[str]) -> bool:
    """Whether a file could be locked, until it is closed or this process ends in any way."""
    if sys.platform == "win32":
        import msvcrt

        try:
            msvcrt.locking(file.fileno(), msvcrt.LK_NBLCK, 1)
        except OSError:
            return False
        return True
    import fcntl

    try:
        fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except OSError as error:  # others: a file system without locks
        return error.errno not in (errno.EACCES, errno.EAGAIN)
    return True
