"""weights.toml to checked descriptions of weights, by name: the package's own and the user's."""

from __future__ import annotations

import hashlib
import json
import os
import re
import sys
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from types import MappingProxyType
from typing import Any, Literal

from seg2vid_cli.errors import InputError, WeightsError
from seg2vid_cli.weights.importers import KINDS

if sys.version_info >= (3, 11):
    import tomllib
else:
    import tomli as tomllib  # type: ignore[import-not-found,unused-ignore]

DEFAULT_WEIGHTS = "street"
CARD_FILE = "README.md"
_PACKAGE = Path(__file__).resolve().parent.parent

Origin = Literal["embedded", "folder", "hub", "authors"]
_SHARED = {"title", "stages", "labels", "native_size", "license", "source"}
_OPTIONAL = frozenset({"fps"})
_ORIGINS: Mapping[Origin, set[str]] = {
    "embedded": {"folder", "files"},
    "folder": {"path", "files"},
    "hub": {"repo_id", "revision", "files"},
    "authors": {"download", "import_as"},
}
# Where an entry may stand: only the package has files in itself, only a user has folders.
_IN_PACKAGE: tuple[Origin, ...] = ("embedded", "hub", "authors")
_OF_USER: tuple[Origin, ...] = ("folder", "hub", "authors")

_NAME = re.compile(r"[a-z0-9][a-z0-9._-]{0,95}")
_FILE = re.compile(r"[A-Za-z0-9][A-Za-z0-9._-]{0,95}")
REPO_ID = re.compile(
    r"(?!.*(?:--|\.\.|\.git$))(?=.{3,96}$)[A-Za-z0-9][\w.-]*(?<![.-])/[A-Za-z0-9][\w.-]*(?<![.-])",
    re.ASCII,
)
_STAGE = re.compile(r"[a-z0-9_-]+")
_SIZE = re.compile(r"[1-9][0-9]{1,4}x[1-9][0-9]{1,4}")


@dataclass(frozen=True, kw_only=True)
class FileSpec:
    """One file of a bundle.

    Args:
        name: Name inside the bundle's folder.
        size_bytes: Its exact size.
        sha256: Its hash, 64 hexadecimal digits.
    """

    name: str
    size_bytes: int
    sha256: str


@dataclass(frozen=True, kw_only=True)
class WeightSpec:
    """A bundle of weights as a registry describes it.

    Args:
        name: `family-dataset[-variant]`, or the short name of embedded weights.
        title: One line for lists.
        stages: Family of each stage that the bundle has, by stage.
        labels: The label set these weights expect; `none` where they read no labels.
        native_size: Size the weights were trained at, `WxH`.
        license: SPDX name of the weights' licence, or what their authors say.
        source: What they were made from, and by whom.
        origin: Where the files are: inside this package, in a folder of the user's, on the Hugging
            Face Hub, or only on the authors' own site.
        fps: Frame rate of the clips the motion was learnt from; None without a motion stage.
        files: Every file with size and hash; none where only the authors have them.
        folder: Embedded: folder inside this package.
        path: Folder of the user's: where it is.
        repo_id: Hub: `owner/name`.
        revision: Hub: commit, 40 hexadecimal digits.
        download: Authors: address of the page with the original checkpoint.
        import_as: Authors: kind for `seg2vid weights import`.
    """

    name: str
    title: str
    stages: Mapping[str, str]
    labels: str
    native_size: str
    license: str
    source: str
    origin: Origin
    fps: float | None = None
    files: tuple[FileSpec, ...] = ()
    folder: str = ""
    path: str = ""
    repo_id: str = ""
    revision: str = ""
    download: str = ""
    import_as: str = ""

    @property
    def size_bytes(self) -> int:
        """Size of all files."""
        return sum(file.size_bytes for file in self.files)

    @property
    def where(self) -> str:
        """One phrase on where the files are."""
        return {
            "embedded": "inside the package",
            "folder": self.path,
            "hub": f"{self.repo_id} @ {self.revision[:8]}",
            "authors": self.download,
        }[self.origin]

    def local_folder(self) -> Path | None:
        """Folder of the files where they need no download."""
        if self.origin == "embedded":
            return _PACKAGE / "weights" / self.folder
        return Path(self.path) if self.origin == "folder" else None


def registry_path() -> Path:
    """The `weights.toml` in force: beside the modules when installed, above them in a checkout."""
    installed = _PACKAGE / "weights.toml"
    return installed if installed.exists() else _PACKAGE.parent / "weights.toml"


def user_registry_path() -> Path:
    """The user's own `weights.toml`; it need not exist.

    `SEG2VID_CONFIG_DIR` names its folder; otherwise the platform's place for settings is taken.
    """
    if chosen := os.environ.get("SEG2VID_CONFIG_DIR"):
        return Path(chosen) / "weights.toml"
    try:
        home = Path.home()
    except RuntimeError:  # a user without a home
        home = Path()
    if sys.platform == "win32":
        base = Path(os.environ.get("APPDATA") or home / "AppData" / "Roaming")
    elif sys.platform == "darwin":
        base = home / "Library" / "Application Support"
    else:
        base = Path(os.environ.get("XDG_CONFIG_HOME") or home / ".config")
    return base / "seg2vid" / "weights.toml"


def parse_registry(text: str, *, name: str, own: bool = False) -> Mapping[str, WeightSpec]:
    """Parse a registry.

    Args:
        text: TOML, one table per bundle.
        name: Name of the file, for messages.
        own: True for a user's registry.

    Raises:
        WeightsError: Not TOML, an unknown key, a missing key, or a malformed value.
    """
    try:
        tables = tomllib.loads(text)
    except (tomllib.TOMLDecodeError, RecursionError) as error:
        raise WeightsError(f"{name}: not valid TOML: {error}") from error
    return MappingProxyType(
        {key: _parse_spec(key, table, name, own) for key, table in tables.items()}
    )


@cache
def read_registry() -> Mapping[str, WeightSpec]:
    """All weights that this version knows, by name, and after them the user's own.

    Of weights that only their authors have, an entry of the user's takes the place.

    Raises:
        WeightsError: A registry cannot be read, or a user's entry has the name of another.
    """
    path, own_path = registry_path(), user_registry_path()
    specs = dict(parse_registry(_read(path, "install seg2vid again"), name=str(path)))
    for name, spec in _read_own().items():
        if _is_taken(name, specs):
            raise WeightsError(
                f"{own_path}: [{name}] is the name of weights that seg2vid brings along",
                hint="give the entry another name",
            )
        specs[name] = spec
    return MappingProxyType(specs)


def find_weights(name: str) -> WeightSpec:
    """Look up weights by name.

    Raises:
        InputError: No such name; the message lists the known ones.
    """
    known = read_registry()
    if name not in known:
        raise InputError(
            f"weights '{name}' are not known",
            hint=f"known weights: {', '.join(known)}; or give a folder",
        )
    return known[name]


def check_name(name: str) -> None:
    """Make sure that weights can have a name.

    Raises:
        InputError: They cannot.
    """
    if not _NAME.fullmatch(name):
        raise InputError(
            f"'{name}' cannot be the name of weights",
            hint="use lower-case letters, digits and . _ -, as in --name seg2vid-cityscapes",
        )


def add_entries(text: str, *, name: str) -> tuple[str, ...]:
    """Add entries to the user's registry.

    Args:
        text: TOML, as `seg2vid weights publish` prints it.
        name: Where it comes from, for messages.

    Returns:
        The new names.

    Raises:
        WeightsError: Malformed entries, or the registry cannot be written.
        InputError: No entry, or a name that is taken.
    """
    new, own = parse_registry(text, name=name, own=True), _read_own()
    if not new:
        raise InputError(f"{name}: holds no entry", hint="give what `weights publish` prints")
    for key in new:
        if key in own or _is_taken(key, read_registry()):
            raise InputError(
                f"weights '{key}' are known already",
                hint=f"give the entry another name, or: seg2vid weights remove {key} --entry",
            )
    path = user_registry_path()
    before = _read_if_there(path)
    added = "\n".join(format_entry(spec) for spec in new.values())
    _write(path, f"{before.rstrip()}\n\n{added}".lstrip())
    return tuple(new)


def _is_taken(name: str, specs: Mapping[str, WeightSpec]) -> bool:
    return name in specs and specs[name].origin != "authors"


def _read_own() -> Mapping[str, WeightSpec]:
    path = user_registry_path()
    try:
        return parse_registry(_read_if_there(path), name=str(path), own=True)
    except WeightsError as error:
        hint = error.hint or "mend the entry in this file of yours, or delete it"
        raise WeightsError(error.message, hint=hint) from error


def own_entry(name: str) -> WeightSpec:
    """Look up an entry in the user's registry.

    Raises:
        InputError: It is not the user's own.
        WeightsError: The registry cannot be read.
    """
    own = _read_own()
    if name not in own:
        raise InputError(
            f"'{name}' is no entry of yours",
            hint=f"yours are in {user_registry_path()}: {', '.join(own) or 'none'}",
        )
    return own[name]


def remove_entry(name: str) -> None:
    """Take an entry out of the user's registry.

    Raises:
        InputError: It is not the user's own.
        WeightsError: The registry cannot be read or written.
    """
    own_entry(name)
    path, own = user_registry_path(), _read_own()
    _write(path, "\n".join(format_entry(spec) for key, spec in own.items() if key != name))


def format_entry(spec: WeightSpec) -> str:
    """An entry as TOML, to be pasted into `weights.toml` or given to `seg2vid weights add`."""
    lines = [f"[{_toml(spec.name) if '.' in spec.name else spec.name}]"]
    stages = ", ".join(f"{stage} = {_toml(family)}" for stage, family in spec.stages.items())
    for key in ("title", "stages", "labels", "native_size", "fps", "license", "source"):
        if key == "stages":
            lines.append(f"stages = {{ {stages} }}")
        elif (value := getattr(spec, key)) is not None:
            lines.append(f"{key} = {_toml(value)}")
    keys = ("folder", "path", "repo_id", "revision", "download", "import_as")
    lines += [f"{key} = {_toml(getattr(spec, key))}" for key in keys if getattr(spec, key)]
    if spec.files:
        lines.append(format_files(spec.files))
    return "\n".join(lines) + "\n"


def format_files(files: Iterable[FileSpec]) -> str:
    """The `files` of an entry as TOML."""
    lines = ["files = ["]
    for file in files:
        pairs = (f"name = {_toml(file.name)}", f"size_bytes = {file.size_bytes}")
        lines.append(f"  {{ {', '.join(pairs)}, sha256 = {_toml(file.sha256)} }},")
    return "\n".join([*lines, "]"])


def describe_file(path: Path) -> FileSpec:
    """Size and hash of a file."""
    return FileSpec(name=path.name, size_bytes=path.stat().st_size, sha256=file_sha256(path))


def check_file(path: Path, file: FileSpec, *, hint: str) -> None:
    """Compare a file with its description.

    Args:
        path: The file.
        file: What it should be.
        hint: What to do where it is not.

    Raises:
        WeightsError: Missing, or of another size or hash.
    """
    try:
        size = path.stat().st_size
        found = file_sha256(path) if size == file.size_bytes else ""
    except OSError as error:
        what = "missing" if isinstance(error, FileNotFoundError) else f"{error.strerror}"
        raise WeightsError(f"{path}: {what}", hint=hint) from error
    if size != file.size_bytes:
        raise WeightsError(f"{path}: {size} bytes instead of {file.size_bytes}", hint=hint)
    if found != file.sha256:
        raise WeightsError(
            f"{path}: sha256 {found[:12]}... instead of {file.sha256[:12]}...", hint=hint
        )


def file_sha256(path: Path) -> str:
    """Hash of a file's bytes, 64 hexadecimal digits."""
    with path.open("rb") as file:
        digest = hashlib.sha256()
        while block := file.read(1 << 20):
            digest.update(block)
    return digest.hexdigest()


def _read_if_there(path: Path) -> str:
    try:
        path.stat()
    except (FileNotFoundError, NotADirectoryError):
        return ""
    except OSError:
        pass  # said below
    return _read(path, "check the permissions, or name another folder with SEG2VID_CONFIG_DIR")


def _read(path: Path, hint: str) -> str:
    try:
        return path.read_text(encoding="utf-8")
    except UnicodeDecodeError as error:
        raise WeightsError(f"{path}: not UTF-8 text") from error
    except OSError as error:
        raise WeightsError(f"{path}: cannot be read: {error.strerror}", hint=hint) from error


def _write(path: Path, text: str) -> None:
    part = path.with_name(f".{path.name}.{os.getpid()}.part")
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        try:
            part.write_text(text, encoding="utf-8")
            part.replace(path)
        finally:
            part.unlink(missing_ok=True)
    except OSError as error:
        raise WeightsError(
            f"{path}: cannot be written: {error.strerror}", hint="SEG2VID_CONFIG_DIR=DIR moves it"
        ) from error
    read_registry.cache_clear()


def _toml(value: str | float) -> str:
    # A JSON string is a TOML string, but for the one control character that JSON leaves as it is.
    return json.dumps(value, ensure_ascii=False).replace("\x7f", "\\u007f")


def _parse_spec(key: str, table: Any, name: str, own: bool) -> WeightSpec:
    where = f"{name}: [{key}]"
    if not _NAME.fullmatch(key):
        raise WeightsError(f"{where}: a name has lower-case letters, digits and . _ -")
    if not isinstance(table, dict):
        raise WeightsError(f"{where}: must be a table")
    origin = _origin(table, where, _OF_USER if own else _IN_PACKAGE)
    _check_keys(table, _SHARED | _ORIGINS[origin], where, optional=_OPTIONAL)
    for field, value in table.items():
        if field not in ("stages", "files", "fps") and not (isinstance(value, str) and value):
            raise WeightsError(f"{where}: {field} must be text")
    stages, fps = table["stages"], table.get("fps")
    if (
        not isinstance(stages, dict)
        or not stages
        or not all(isinstance(s, str) and _STAGE.fullmatch(k + s) for k, s in stages.items())
    ):
        raise WeightsError(f"{where}: stages must be a table of stage = family")
    if fps is not None and (type(fps) not in (int, float) or not 0 < fps < 1000):
        raise WeightsError(f"{where}: fps must be a number")
    for field, pattern, what in (
        ("native_size", _SIZE, "WxH"),
        ("repo_id", REPO_ID, "owner/name"),
        ("revision", re.compile("[0-9a-f]{40}"), "a commit, 40 hexadecimal digits"),
        ("folder", _FILE, "a plain name"),
        ("download", re.compile(r"https://\S+"), "an https address"),
    ):
        if field in table and not pattern.fullmatch(table[field]):
            raise WeightsError(f"{where}: {field} must be {what}")
    if origin == "authors" and table["import_as"] not in KINDS:
        raise WeightsError(f"{where}: import_as must be one of {', '.join(KINDS)}")
    if origin == "folder" and not Path(table["path"]).is_absolute():
        raise WeightsError(f"{where}: path must be absolute")
    files = _parse_files(table.get("files"), where) if "files" in _ORIGINS[origin] else ()
    rest = {k: v for k, v in table.items() if k not in ("files", "stages", "fps")}
    return WeightSpec(
        name=key,
        origin=origin,
        stages=MappingProxyType(dict(stages)),
        fps=None if fps is None else float(fps),
        files=files,
        **rest,
    )


def _origin(table: Mapping[str, Any], where: str, allowed: tuple[Origin, ...]) -> Origin:
    marks: Mapping[str, Origin] = {
        "folder": "embedded",
        "path": "folder",
        "repo_id": "hub",
        "download": "authors",
    }
    found = [mark for mark in marks if mark in table and marks[mark] in allowed]
    if len(found) != 1:
        known = ", ".join(mark for mark, origin in marks.items() if origin in allowed)
        raise WeightsError(f"{where}: needs exactly one of {known}")
    return marks[found[0]]


def _parse_files(entries: Any, where: str) -> tuple[FileSpec, ...]:
    if not isinstance(entries, list) or not all(isinstance(entry, dict) for entry in entries):
        raise WeightsError(f"{where}: files must be a list of tables")
    files = []
    for entry in entries:
        _check_keys(entry, {"name", "size_bytes", "sha256"}, f"{where} files")
        file_name, size, sha256 = entry["name"], entry["size_bytes"], entry["sha256"]
        if not isinstance(file_name, str) or not _FILE.fullmatch(file_name):
            raise WeightsError(f"{where} {file_name!r}: must be a file name, not a path")
        if not isinstance(sha256, str) or not re.fullmatch("[0-9a-f]{64}", sha256):
            raise WeightsError(f"{where} {file_name}: sha256 must be 64 hexadecimal digits")
        if type(size) is not int or size < 1:
            raise WeightsError(f"{where} {file_name}: size_bytes must be a positive whole number")
        files.append(FileSpec(name=file_name, size_bytes=size, sha256=sha256))
    names = [file.name for file in files]
    if not files or len(set(names)) < len(names):
        raise WeightsError(f"{where}: files must name every file once")
    return tuple(files)


def _check_keys(
    table: Mapping[str, Any],
    wanted: set[str],
    where: str,
    *,
    optional: frozenset[str] = frozenset(),
) -> None:
    if unknown := set(table) - wanted - optional:
        raise WeightsError(f"{where}: unknown key {', '.join(sorted(unknown))}")
    if missing := wanted - set(table):
        raise WeightsError(f"{where}: missing key {', '.join(sorted(missing))}")
