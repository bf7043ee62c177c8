"""Folders to read from and write to: on this file system, or behind an fsspec URL."""

from __future__ import annotations

import contextlib
import hashlib
import os
import re
import shutil
import stat
import tempfile
import uuid
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from datetime import datetime
from fnmatch import fnmatch
from pathlib import Path, PurePosixPath
from typing import IO, Any

from seg2vid_cli.errors import InputError, Seg2VidError
from seg2vid_cli.labels import LABEL_EXTENSIONS
from seg2vid_cli.video import METADATA_FILE, check_folder, write_file

LEFTOVERS = ".seg2vid-"  # hidden files and folders of runs that were killed
LOCK_FILE = ".seg2vid.lock"  # also marks a folder that a batch has written into
CHUNK_BYTES = 1 << 20
_NUMBERED = re.compile(r"(frame|backward|forward|visibility)_\d{5,}\.(png|flo)")


@dataclass(frozen=True, kw_only=True)
class Found:
    """A file that may be a label map.

    Args:
        name: Path inside the folder, with `/`.
        size: In bytes.
        changed: When it was last written, in any unit that grows.
        problem: Why it cannot be read, where that is known already.
    """

    name: str
    size: int = 0
    changed: float = 0
    problem: str | None = None


class LocalFolder:
    """A folder on this file system, which may be shared with other machines.

    Args:
        path: The folder.
    """

    def __init__(self, path: Path) -> None:
        self.path = path

    def __str__(self) -> str:
        return str(self.path)

    def place(self) -> tuple[str, str]:
        """Kind of file system, and the folder's path in it, links resolved."""
        return "file", Path(os.path.realpath(self.path)).as_posix()

    def absolute(self) -> LocalFolder:
        """The same for processes that run in another folder."""
        return LocalFolder(self.path.absolute())

    def check_readable(self) -> None:
        """Make sure that it is a folder that can be listed.

        Raises:
            InputError: It is not.
        """
        try:
            with os.scandir(self.path):
                pass
        except NotADirectoryError as error:
            raise InputError(
                f"{self.path} is a file, not a folder",
                hint="seg2vid generate makes clips from one label map",
            ) from error
        except FileNotFoundError as error:
            raise InputError(
                f"{self.path}: there is no such folder", hint="check the path"
            ) from error
        except OSError as error:
            raise InputError(
                f"{self.path}: cannot be read: {error.strerror}", hint="check its permissions"
            ) from error

    def prepare(self) -> None:
        """Make it, with its parents, and find out whether it can be written.

        Raises:
            InputError: It cannot.
        """
        try:
            self.path.mkdir(parents=True, exist_ok=True)
        except OSError as error:
            reason = "is a file" if self.path.is_file() else str(error.strerror)
            raise InputError(
                f"{self.path}: {reason}", hint="name another folder to write into"
            ) from error
        check_folder(self.path)

    def clean_up(self) -> None:
        """Remove what runs that were killed have left half-written.

        Folders inside that another batch has written into clean up themselves.
        """
        for folder, folders, files in os.walk(self.path):
            if LOCK_FILE in files and Path(folder) != self.path:
                folders.clear()
            for name in [name for name in folders if name.startswith(LEFTOVERS)]:
                shutil.rmtree(Path(folder) / name, ignore_errors=True)
                folders.remove(name)

    def find(self, *, leave_out: Folder | None = None) -> Iterator[Found]:
        """All files with a label map's ending, folder by folder, in order.

        Hidden files and folders, `leave_out`, and folders inside that a batch has written into are
        left out. Links are followed, but never back to a folder on the way.

        Raises:
            InputError: The folder itself cannot be listed (any more).
        """
        self.check_readable()
        left_out = None if leave_out is None else leave_out.place()[1]
        yield from self._find("", (self.place()[1],), left_out)

    def _find(self, inside: str, way: tuple[str, ...], left_out: str | None) -> Iterator[Found]:
        """All files in one folder, then those in its folders.

        Args:
            inside: Path of the folder in this one, with `/`.
            way: Real paths of all folders on the way to it, it included.
            left_out: Real path of the folder that is left out.
        """
        try:
            with os.scandir(self.path / inside) as listed:
                entries = sorted(listed, key=lambda entry: entry.name)
        except OSError as error:
            yield Found(name=inside, problem=error.strerror or str(error))
            return
        if inside and any(entry.name == LOCK_FILE for entry in entries):
            return
        folders = []
        for entry in entries:
            if entry.name.startswith("."):
                continue
            if _is_folder(entry):
                folders.append(entry)
            elif PurePosixPath(entry.name).suffix.lower() in LABEL_EXTENSIONS:
                yield from _found(entry, f"{inside}{entry.name}")
        for entry in folders:
            real = Path(os.path.realpath(entry.path)).as_posix()
            back = any(f"{folder}/".startswith(f"{real.rstrip('/')}/") for folder in way)
            if real != left_out and not back:
                yield from self._find(f"{inside}{entry.name}/", (*way, real), left_out)

    def sha256(self, name: str) -> str:
        """Hash of a file.

        Raises:
            OSError: It cannot be read.
        """
        with (self.path / name).open("rb") as file:
            return hash_file(file)

    @contextlib.contextmanager
    def reading(self, name: str) -> Iterator[Path]:
        """A local path to read a file from."""
        yield self.path / name

    @contextlib.contextmanager
    def writing(self, name: str) -> Iterator[Path]:
        """A local path to write a file or folder to, whose parent exists."""
        path = self.path / name
        path.parent.mkdir(parents=True, exist_ok=True)
        yield path

    def size(self, name: str) -> int | None:
        """Bytes of a file, or of a folder's files together; None where there is nothing."""
        path = self.path / name
        try:
            if path.is_dir():
                # Hidden files come from file managers.
                files = [file for file in path.iterdir() if not file.name.startswith(".")]
                return sum(file.stat().st_size for file in files)
            return path.stat().st_size
        except (OSError, ValueError):
            return None

    def known_size(self, name: str) -> int | None:
        """The same, perhaps as it was at the last `refresh`."""
        return self.size(name)

    def refresh(self) -> None:
        """Nothing to do: nothing is remembered."""

    def read(self, name: str) -> bytes | None:
        """A small file's bytes; None where there is none.

        Raises:
            InputError: It cannot be read.
        """
        try:
            return (self.path / name).read_bytes()
        except FileNotFoundError:
            return None
        except NotADirectoryError as error:
            raise InputError(
                f"{self.path}: is a file", hint="name another folder to write into"
            ) from error
        except OSError as error:
            raise InputError(
                f"{self.path / name}: cannot be read: {error.strerror}",
                hint="check its permissions",
            ) from error

    def write(self, name: str, data: bytes) -> None:
        """Write a small file, wholly or not at all.

        Raises:
            InputError: The folder is not writable.
            VideoError: The disk is full.
        """
        write_file(self.path / name, data)


def _is_folder(entry: os.DirEntry[str]) -> bool:
    try:
        return entry.is_dir()
    except OSError:  # a link that leads round in a circle
        return False


def _found(entry: os.DirEntry[str], name: str) -> Iterator[Found]:
    try:
        status = entry.stat()
    except OSError as error:
        if entry.is_symlink():  # else it has gone meanwhile
            yield Found(name=name, problem=f"a link: {error.strerror}")
        return
    if not stat.S_ISREG(status.st_mode):  # reading a pipe would wait for ever
        yield Found(name=name, problem="is not a file")
        return
    changed = max(status.st_mtime_ns, status.st_ctime_ns)
    yield Found(name=name, size=status.st_size, changed=changed)


@dataclass
class UrlFolder:
    """A folder that fsspec reaches: object stores and the like.

    Args:
        url: As fsspec takes it, for example `s3://bucket/maps`.
    """

    url: str
    _made: list[tuple[Any, str]] = field(default_factory=list, repr=False, compare=False)
    _sizes: dict[str, int] = field(default_factory=dict, repr=False, compare=False)

    def __str__(self) -> str:
        return self.url

    def __getstate__(self) -> dict[str, Any]:  # connections do not travel between processes
        return {"url": self.url, "_made": [], "_sizes": {}}

    @property
    def _opened(self) -> tuple[Any, str]:
        """File system, and the folder's path in it."""
        if not self._made:
            import fsspec

            try:
                fs, path = fsspec.core.url_to_fs(self.url)
            except (ImportError, ValueError) as error:
                raise InputError(
                    f"{self.url}: {error}",
                    hint="install what fsspec needs for it, or check the URL",
                ) from error
            self._made.append((fs, str(path).rstrip("/")))
        return self._made[0]

    @property
    def _fs(self) -> Any:
        return self._opened[0]

    @property
    def _renames(self) -> bool:
        """Whether files can be renamed; object stores cannot, but show only whole files."""
        from fsspec import AbstractFileSystem

        return type(self._fs).mv is not AbstractFileSystem.mv

    def _path(self, name: str = "") -> str:
        return f"{self._opened[1]}/{name}" if name else self._opened[1]

    @contextlib.contextmanager
    def _errors(self) -> Iterator[None]:
        """Every file system has errors of its own."""
        try:
            yield
        except (Seg2VidError, FileNotFoundError):
            raise
        except Exception as error:
            text = str(error).strip() or type(error).__name__
            raise InputError(
                f"{self.url}: {text.splitlines()[0]}", hint="check the URL and your rights there"
            ) from error

    def place(self) -> tuple[str, str]:
        """Kind of file system, and the folder's path in it."""
        fs, path = self._opened
        return str(fs.protocol), path

    def absolute(self) -> UrlFolder:
        """The same: a URL means the same everywhere."""
        return self

    def check_readable(self) -> None:
        """Make sure that it can be listed.

        Raises:
            InputError: It cannot.
        """
        with self._errors():
            if self._fs.isfile(self._path()):
                raise InputError(f"{self.url} is a file, not a folder", hint="check the URL")
            if not self._fs.exists(self._path()):
                raise InputError(f"{self.url}: there is no such folder", hint="check the URL")
            self._fs.ls(self._path(), detail=False)  # `find` passes over what it may not list

    def prepare(self) -> None:
        """Make it, where the file system knows folders, and find out whether it can be written.

        Raises:
            InputError: It cannot.
        """
        with self._errors():
            self._fs.makedirs(self._path(), exist_ok=True)
            self._fs.pipe_file(self._path(LOCK_FILE), b"")  # here it only marks the folder

    def clean_up(self) -> None:
        """Remove uploads of runs that were killed."""
        if self._renames:
            with self._errors():
                for path in self._fs.find(self._path()):
                    if PurePosixPath(path).name.startswith(LEFTOVERS):
                        self._fs.rm_file(path)

    def find(self, *, leave_out: Folder | None = None) -> Iterator[Found]:
        """All files with a label map's ending, in order.

        Hidden files and folders, `leave_out`, and folders inside that a batch has written into are
        left out.

        Raises:
            InputError: The folder cannot be listed.
        """
        listed = self._listed()
        without = {
            name.removesuffix(LOCK_FILE) for name, _ in listed if name.endswith(f"/{LOCK_FILE}")
        }
        if leave_out is not None and (inside := path_within(leave_out, self)):
            without.add(f"{inside}/")
        for name, facts in listed:
            parts = PurePosixPath(name).parts
            if any(part.startswith(".") for part in parts) or name.startswith(tuple(without)):
                continue
            if PurePosixPath(name).suffix.lower() in LABEL_EXTENSIONS:
                yield Found(name=name, size=int(facts.get("size") or 0), changed=_changed(facts))

    def _listed(self) -> list[tuple[str, dict[str, Any]]]:
        """Every file's path inside the folder and what is known of it, in order."""
        with self._errors():
            self._fs.invalidate_cache()  # others write there
            listed = self._fs.find(self._path(), detail=True)
        above = len(self._path())
        return sorted((path[above:].lstrip("/"), facts) for path, facts in listed.items())

    def sha256(self, name: str) -> str:
        """Hash of a file."""
        with self._fs.open(self._path(name), "rb") as file:
            return hash_file(file)

    @contextlib.contextmanager
    def reading(self, name: str) -> Iterator[Path]:
        """A local copy of a file."""
        with tempfile.TemporaryDirectory(prefix="seg2vid-") as folder:
            path = Path(folder) / PurePosixPath(name).name
            self._fs.get_file(self._path(name), str(path))
            yield path

    @contextlib.contextmanager
    def writing(self, name: str) -> Iterator[Path]:
        """A local path; what is there at the end is uploaded, unless the block fails."""
        with tempfile.TemporaryDirectory(prefix="seg2vid-") as folder:
            path = Path(folder) / PurePosixPath(name).name
            yield path
            if path.is_dir():
                # What says how they were made comes last, and so stands for a whole folder.
                files = sorted(path.iterdir(), key=lambda file: (file.name == METADATA_FILE, file))
                self._upload([(file, f"{name}/{file.name}") for file in files[:-1]])
                self._remove_others(name, {file.name for file in files})
                self._upload([(file, f"{name}/{file.name}") for file in files[-1:]])
            elif path.exists():
                self._upload([(path, name)])

    def _upload(self, files: Sequence[tuple[Path, str]]) -> None:
        if not self._renames:
            here, there = [str(path) for path, _ in files], [self._path(n) for _, n in files]
            if files:
                self._fs.put(here, there)  # several at a time, where the file system can
            return
        for path, name in files:
            target = self._path(name)
            parent = target.rpartition("/")[0]
            hidden = f"{parent}/{LEFTOVERS}{uuid.uuid4().hex}"
            self._fs.makedirs(parent, exist_ok=True)
            self._fs.put_file(str(path), hidden)
            self._replace(hidden, target)

    def _replace(self, hidden: str, target: str) -> None:
        if self._fs.exists(target):  # not every file system renames onto another file
            self._fs.rm_file(target)
        self._fs.mv(hidden, target)

    def _remove_others(self, name: str, kept: set[str]) -> None:
        """Frames of an earlier, longer clip."""
        with contextlib.suppress(FileNotFoundError):
            for path in self._fs.ls(self._path(name), detail=False):
                file = PurePosixPath(path).name
                if _NUMBERED.fullmatch(file) and file not in kept:
                    self._fs.rm_file(path)

    def size(self, name: str) -> int | None:
        """Bytes of a file, or of a folder's files together; None where there is nothing."""
        path = self._path(name)
        try:
            if not self._fs.isdir(path):
                return int(self._fs.size(path))
            sizes = self._fs.du(path, total=False)
        except (OSError, TypeError, ValueError):
            return None
        return int(sum(s for p, s in sizes.items() if not PurePosixPath(p).name.startswith(".")))

    def known_size(self, name: str) -> int | None:
        """The same, perhaps as it was after the last `refresh`: one list of all is quicker."""
        if not self._sizes:
            self._sizes[""] = 0
            with contextlib.suppress(FileNotFoundError):
                for path, facts in self._listed():
                    size, parent = int(facts.get("size") or 0), path.rpartition("/")[0]
                    self._sizes[path] = size
                    if not PurePosixPath(path).name.startswith("."):
                        self._sizes[parent] = self._sizes.get(parent, 0) + size
        return self._sizes[name] if name in self._sizes else self.size(name)

    def refresh(self) -> None:
        """Forget what is known."""
        self._sizes.clear()

    def read(self, name: str) -> bytes | None:
        """A small file's bytes; None where there is none.

        Raises:
            InputError: It cannot be read.
        """
        with contextlib.suppress(FileNotFoundError), self._errors():
            return bytes(self._fs.cat_file(self._path(name)))
        return None

    def write(self, name: str, data: bytes) -> None:
        """Write a small file, wholly or not at all.

        Raises:
            InputError: The folder is not writable.
        """
        with self._errors():
            if not self._renames:
                self._fs.pipe_file(self._path(name), data)
                return
            hidden = self._path(f"{LEFTOVERS}{uuid.uuid4().hex}")
            self._fs.pipe_file(hidden, data)
            self._replace(hidden, self._path(name))


def _changed(facts: dict[str, Any]) -> float:
    for name in ("mtime", "LastModified", "last_modified", "updated", "modified", "created"):
        value = facts.get(name)
        if isinstance(value, datetime):
            return value.timestamp()
        if isinstance(value, (int, float)):
            return float(value)
    return 0.0


Folder = LocalFolder | UrlFolder


def open_folder(text: str) -> Folder:
    """A path, or a URL with `://`.

    Raises:
        InputError: Neither.
    """
    if not text.strip():
        raise InputError("a folder's name is empty", hint="name a folder, or an fsspec URL")
    if re.match(r"(file|local)://", text):  # then it can be locked, and files can be moved into it
        from fsspec.implementations.local import LocalFileSystem

        return LocalFolder(Path(str(LocalFileSystem._strip_protocol(text))))
    return UrlFolder(text) if "://" in text else LocalFolder(Path(text))


def path_within(inner: Folder, outer: Folder) -> str | None:
    """Path of one folder inside another, empty where they are the same; None where it is not."""
    (kind, path), (other_kind, other) = inner.place(), outer.place()
    if kind != other_kind:
        return None
    if path == other:
        return ""
    above = f"{other.rstrip('/')}/"
    return path[len(above) :] if path.startswith(above) else None


def matches(name: str, globs: Sequence[str]) -> bool:
    """Whether a path inside the folder, or its last part, fits one of some patterns."""
    return any(fnmatch(name, glob) or fnmatch(PurePosixPath(name).name, glob) for glob in globs)


def hash_file(file: IO[bytes]) -> str:
    """SHA-256 of what is left to read of a file."""
    digest = hashlib.sha256()
    while chunk := file.read(CHUNK_BYTES):
        digest.update(chunk)
    return digest.hexdigest()
