"""weights.toml to checked descriptions of weights, by name."""

from __future__ import annotations

import hashlib
import sys
from collections.abc import Mapping
from dataclasses import dataclass, fields
from functools import cache
from pathlib import Path
from types import MappingProxyType
from typing import Any

from seg2vid_cli.errors import InputError, WeightsError

if sys.version_info >= (3, 11):
    import tomllib
else:
    import tomli as tomllib  # type: ignore[import-not-found,unused-ignore]

DEFAULT_WEIGHTS = "street"
_PACKAGE = Path(__file__).resolve().parent.parent


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
    """A bundle of weights as `weights.toml` describes it.

    Args:
        name: `family-dataset[-variant]`, or the short name of embedded weights.
        title: One line for lists.
        folder: Folder inside this package that holds the files.
        labels: The label set these weights expect.
        native_size: Working size, `WxH`.
        fps: Frame rate of the clips the motion was learnt from.
        license: SPDX name of the weights' licence.
        source: What they were made from.
        files: Every file with size and hash.
    """

    name: str
    title: str
    folder: str
    labels: str
    native_size: str
    fps: float
    license: str
    source: str
    files: tuple[FileSpec, ...]

    @property
    def path(self) -> Path:
        """Folder of the files."""
        return _PACKAGE / "weights" / self.folder


def registry_path() -> Path:
    """The `weights.toml` in force: beside the modules when installed, above them in a checkout."""
    installed = _PACKAGE / "weights.toml"
    return installed if installed.exists() else _PACKAGE.parent / "weights.toml"


def parse_registry(text: str, *, name: str) -> Mapping[str, WeightSpec]:
    """Parse a registry.

    Raises:
        WeightsError: Not TOML, an unknown key, a missing key or a malformed hash.
    """
    try:
        tables = tomllib.loads(text)
    except tomllib.TOMLDecodeError as error:
        raise WeightsError(f"{name}: not valid TOML: {error}") from error
    return MappingProxyType({key: _parse_spec(key, table, name) for key, table in tables.items()})


@cache
def read_registry() -> Mapping[str, WeightSpec]:
    """All weights that this version knows, by name."""
    path = registry_path()
    try:
        text = path.read_text(encoding="utf-8")
    except OSError as error:
        raise WeightsError(
            f"{path}: cannot be read: {error.strerror}", hint="install seg2vid again"
        ) from error
    return parse_registry(text, name=str(path))


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


def verify_files(spec: WeightSpec) -> None:
    """Check size and hash of every file of a bundle.

    Raises:
        WeightsError: A file is missing or is not the one that the registry describes.
    """
    for file in spec.files:
        path = spec.path / file.name
        hint = "the installation is damaged: install seg2vid again"
        if not path.is_file():
            raise WeightsError(f"{path}: missing", hint=hint)
        size = path.stat().st_size
        if size != file.size_bytes:
            raise WeightsError(f"{path}: {size} bytes instead of {file.size_bytes}", hint=hint)
        if (found := file_sha256(path)) != file.sha256:
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


def _parse_spec(key: str, table: Any, name: str) -> WeightSpec:
    where = f"{name}: [{key}]"
    if not isinstance(table, dict):
        raise WeightsError(f"{where}: must be a table")
    _check_keys(table, {f.name for f in fields(WeightSpec)} - {"name"}, where)
    files = []
    if not isinstance(table["files"], list) or Path(table["folder"]).name != table["folder"]:
        raise WeightsError(f"{where}: files must be a list, folder a plain name")
    for entry in table["files"]:
        _check_keys(entry, {f.name for f in fields(FileSpec)}, f"{where} files")
        file = FileSpec(**entry)
        if len(file.sha256) != 64 or set(file.sha256) - set("0123456789abcdef"):
            raise WeightsError(f"{where} {file.name}: sha256 must be 64 hexadecimal digits")
        if Path(file.name).name != file.name:
            raise WeightsError(f"{where} {file.name}: a file name, not a path")
        files.append(file)
    return WeightSpec(name=key, **{**table, "files": tuple(files)})


def _check_keys(table: Mapping[str, Any], wanted: set[str], where: str) -> None:
    if unknown := set(table) - wanted:
        raise WeightsError(f"{where}: unknown key {', '.join(sorted(unknown))}")
    if missing := wanted - set(table):
        raise WeightsError(f"{where}: missing key {', '.join(sorted(missing))}")
