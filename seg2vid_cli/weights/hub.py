"""A description of weights to verified files on this machine, by way of huggingface_hub.

Its cache comes first: where a pinned revision is there, nothing is asked of the network. Sizes and
hashes are those of the registry; a file that was checked once is read through again only when its
size or time has changed.
"""

from __future__ import annotations

import errno
import hashlib
import json
import logging
import os
import re
import shutil
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any, BinaryIO
from urllib.parse import urlsplit

from seg2vid_cli.errors import InputError, WeightsError
from seg2vid_cli.weights.registry import FileSpec, WeightSpec, check_file

_STAMPS = "checked.json"


def installed_files(spec: WeightSpec) -> Mapping[FileSpec, Path] | None:
    """Find the files of weights on this machine; they are not opened.

    Returns:
        Every file's place, or None where one is missing.
    """
    found = {file: path for file in spec.files if (path := _find(spec, file)) is not None}
    return found if found and len(found) == len(spec.files) else None


def fetch_weights(
    spec: WeightSpec, *, before_pull: Callable[[WeightSpec], None] | None = None
) -> dict[Path, str]:
    """Give verified files, downloaded if they are not there.

    Args:
        spec: What to fetch.
        before_pull: Told before a download begins, which then shows its progress.

    Returns:
        Path and hash of every file; all lie in one folder.

    Raises:
        WeightsError: Files are missing or damaged, or could not be downloaded.
    """
    if spec.origin == "authors":
        raise _by_hand(spec)
    files = installed_files(spec)
    if files is None:
        if spec.origin == "hub":
            if before_pull is not None:
                before_pull(spec)
            return pull_weights(spec, quiet=before_pull is None)
        files = {file: _place(spec, file) for file in spec.files}
    for file, path in files.items():
        _check(spec, file, path, hint=_repair_hint(spec))
    return {path: file.sha256 for file, path in files.items()}


def pull_weights(spec: WeightSpec, *, quiet: bool = False) -> dict[Path, str]:
    """Download what is missing or damaged, through huggingface_hub and into its cache.

    What a broken or interrupted download has brought is kept, in whole pieces of 10 MiB, and the
    next call goes on from there. Nothing enters the cache before its bytes are checked.

    Args:
        spec: What to pull.
        quiet: True shows no progress bar.

    Returns:
        Path and hash of every file; all lie in one folder.

    Raises:
        WeightsError: The download failed, or gave other bytes than the registry describes.
    """
    if spec.origin == "authors":
        raise _by_hand(spec)
    if spec.origin != "hub":
        return fetch_weights(spec)
    files = {}
    for file in spec.files:
        path = _find(spec, file)
        if path is None or not _is_good(spec, file, path):
            path = _download(spec, file, quiet=quiet)
            _check(spec, file, path, hint=_repair_hint(spec))
        files[path] = file.sha256
    return files


def verify_weights(spec: WeightSpec) -> None:
    """Read every file through and compare size and hash, whatever was checked before.

    Raises:
        WeightsError: A file is missing or is not the one that the registry describes.
    """
    for file in spec.files:
        check_file(_find(spec, file) or _place(spec, file), file, hint=_repair_hint(spec))


def remove_weights(spec: WeightSpec) -> int:
    """Delete downloaded files from the cache.

    Returns:
        Bytes freed.

    Raises:
        InputError: Weights that were not downloaded by this command.
        WeightsError: A file cannot be deleted.
    """
    if spec.origin != "hub":
        hint = {
            "embedded": "they are part of the package",
            "folder": f"delete the folder yourself: {spec.path}",
            "authors": "there is nothing on this machine but the entry",
        }[spec.origin]
        raise InputError(f"weights '{spec.name}' are not a download", hint=hint)
    from huggingface_hub import scan_cache_dir
    from huggingface_hub.errors import CacheNotFound

    freed = 0
    try:
        for part in (_part(spec, file) for file in spec.files):
            if part.exists():
                freed += part.stat().st_size
                part.unlink()
        with suppress(CacheNotFound), _silent_hub():
            plan = scan_cache_dir().delete_revisions(spec.revision)
            freed += int(plan.expected_freed_size)
            plan.execute()
    except OSError as error:
        raise WeightsError(
            f"weights '{spec.name}': could not be deleted from {_cache()}: {error.strerror}",
            hint="check the permissions",
        ) from error
    if installed_files(spec) is not None:
        raise WeightsError(
            f"weights '{spec.name}': could not be deleted from {_cache()}",
            hint="check the permissions",
        )
    return freed


def _find(spec: WeightSpec, file: FileSpec) -> Path | None:
    if spec.origin != "hub":
        path = _place(spec, file)
        return path if path.is_file() else None
    from huggingface_hub import try_to_load_from_cache

    found = try_to_load_from_cache(spec.repo_id, file.name, revision=spec.revision)
    return Path(found) if isinstance(found, str) and Path(found).is_file() else None


def _place(spec: WeightSpec, file: FileSpec) -> Path:
    """Where a file should be, whether it is there or not."""
    folder = spec.local_folder()
    if folder is None:
        folder = _repo_folder(spec) / "snapshots" / spec.revision
    return folder / file.name


def _cache() -> Path:
    from huggingface_hub import constants

    return Path(constants.HF_HUB_CACHE)


def _repo_folder(spec: WeightSpec) -> Path:
    from huggingface_hub.file_download import repo_folder_name

    return _cache() / repo_folder_name(repo_id=spec.repo_id, repo_type="model")


def _download(spec: WeightSpec, file: FileSpec, *, quiet: bool) -> Path:
    """Download one file into huggingface_hub's cache; its bytes are checked before they enter it.

    The library starts a file again when the whole call failed. So the parts of a call are put
    together here, and what has arrived stays beside the cache's files until the rest has come too.
    Nothing that the server says of names or commits is believed without a check.
    """
    from huggingface_hub import get_hf_file_metadata, hf_hub_url
    from huggingface_hub.file_download import http_get
    from huggingface_hub.utils import (  # type: ignore[attr-defined]  # loaded lazily there
        WeakFileLock,
        build_hf_headers,
    )

    part, pointer = _part(spec, file), _place(spec, file)
    lock = _cache() / ".locks" / _repo_folder(spec).name / f"{part.name}.lock"
    with explained(f"weights '{spec.name}': {file.name}", spec.repo_id), progress_bars(not quiet):
        url = hf_hub_url(spec.repo_id, file.name, revision=spec.revision)
        headers = build_hf_headers(library_name="seg2vid")
        facts = get_hf_file_metadata(url, headers=headers)
        if facts.commit_hash != spec.revision:
            raise WeightsError(
                f"the server gave commit {facts.commit_hash} instead of {spec.revision}",
                hint="check HF_ENDPOINT and proxy: this does not behave like the Hub",
            )
        if facts.size not in (None, file.size_bytes):
            raise WeightsError(
                f"is {facts.size} bytes on the server instead of {file.size_bytes}",
                hint=f"the mirror in HF_ENDPOINT or the repository {spec.repo_id} has been changed",
            )
        if urlsplit(facts.location)[:2] != urlsplit(url)[:2]:
            headers.pop("authorization", None)  # a token is for the Hub, not for its storage
        for place in (part, pointer, lock):
            place.parent.mkdir(parents=True, exist_ok=True)
        with WeakFileLock(lock):
            found = _find(spec, file)
            if found is not None and _is_good(spec, file, found):
                return found  # another process has brought it meanwhile
            blob = _same_bytes(part.parent, facts.etag, file)
            if blob is None:
                _check_space(part, file.size_bytes)
                try:
                    with part.open("ab") as stream:
                        http_get(
                            facts.location,
                            _Limited(stream, file.size_bytes),  # type: ignore[arg-type]
                            resume_size=stream.tell(),
                            headers=headers,
                            expected_size=file.size_bytes,
                            displayed_filename=file.name,
                        )
                    check_file(part, file, hint=_wrong_bytes_hint(spec))
                except WeightsError:
                    part.unlink()
                    raise
                finally:
                    _drop_useless(part, file.size_bytes)
                blob = part.with_name(_blob_name(part, facts.etag, file))
                part.replace(blob)
            _link(blob, pointer)
    return pointer


class _Limited:
    """A file that takes no more bytes than it should get, whatever a server sends.

    Args:
        stream: Open for appending.
        size_bytes: Its size when it is complete.
    """

    def __init__(self, stream: BinaryIO, size_bytes: int) -> None:
        self._stream, self._size_bytes = stream, size_bytes
        self.tell, self.seek, self.truncate = stream.tell, stream.seek, stream.truncate

    def write(self, data: bytes) -> int:
        if self.tell() + len(data) > self._size_bytes:
            raise WeightsError(
                f"the server sends more than {self._size_bytes} bytes",
                hint="try again; if that does not help, the mirror in HF_ENDPOINT or the "
                "repository has been changed",
            )
        return self._stream.write(data)


def _part(spec: WeightSpec, file: FileSpec) -> Path:
    """Where the bytes of an unfinished download wait."""
    return _repo_folder(spec) / "blobs" / f"{file.sha256}.seg2vid.incomplete"


def _same_bytes(blobs: Path, etag: str | None, file: FileSpec) -> Path | None:
    """A file that the cache already has, perhaps of another revision."""
    for name in (file.sha256, etag or ""):
        if re.fullmatch("[0-9a-f]{40}|[0-9a-f]{64}", name) and (blobs / name).is_file():
            with suppress(WeightsError):
                check_file(blobs / name, file, hint="")
                return blobs / name
    return None


def _blob_name(path: Path, etag: str | None, file: FileSpec) -> str:
    """The name that huggingface_hub gives such bytes: of a small file git's own hash."""
    head = f"blob {file.size_bytes}\0".encode()
    if etag and len(etag) == 40 and hashlib.sha1(head + path.read_bytes()).hexdigest() == etag:
        return etag
    return file.sha256


def _link(blob: Path, pointer: Path) -> None:
    pointer.unlink(missing_ok=True)
    try:
        pointer.symlink_to(os.path.relpath(blob, pointer.parent))
    except OSError:  # a system without links
        shutil.copyfile(blob, pointer)


def _drop_useless(part: Path, size_bytes: int) -> None:
    """Keep an unfinished download only where the next one can go on from it."""
    with suppress(OSError):
        if not 0 < part.stat().st_size <= size_bytes:
            part.unlink()


def _check_space(part: Path, size_bytes: int) -> None:
    _drop_useless(part, size_bytes)
    missing = size_bytes - (part.stat().st_size if part.exists() else 0)
    if shutil.disk_usage(part.parent).free < missing:
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC), str(part.parent))


@contextmanager
def progress_bars(wanted: bool) -> Iterator[None]:
    """Show huggingface_hub's progress bars, or not."""
    from huggingface_hub.utils.tqdm import (
        are_progress_bars_disabled,
        disable_progress_bars,
        enable_progress_bars,
    )

    hide = not wanted and not are_progress_bars_disabled()
    if hide:
        disable_progress_bars()
    try:
        yield
    finally:
        if hide:
            enable_progress_bars()


@contextmanager
def explained(what: str, repo_id: str, *, sending: bool = False) -> Iterator[None]:
    """Turn what huggingface_hub logs and raises into one message with a way out.

    Args:
        what: Begins the message.
        repo_id: Of the repository.
        sending: True for an upload.
    """
    from huggingface_hub.errors import HFValidationError

    try:
        with _silent_hub():
            yield
    except WeightsError as error:
        raise WeightsError(f"{what}: {error.message}", hint=error.hint) from error
    except HFValidationError as error:
        raise InputError(f"{what}: {error}", hint="give owner/name") from error
    except Exception as error:  # its own kinds, the HTTP client's and the system's
        message, hint = _explain(error, repo_id, sending)
        raise WeightsError(f"{what}: {message}", hint=hint) from error


@contextmanager
def _silent_hub() -> Iterator[None]:
    """Keep huggingface_hub's own log to errors: what matters is said in one message."""
    from huggingface_hub.utils import logging as hub_logging

    before = hub_logging.get_verbosity()
    hub_logging.set_verbosity(max(before, logging.ERROR))
    try:
        yield
    finally:
        hub_logging.set_verbosity(before)


def _explain(error: BaseException, repo_id: str, sending: bool) -> tuple[str, str]:
    chain = _causes(error)
    return (
        _explain_system(chain, sending)
        or _explain_answer(chain, repo_id, sending)
        or _explain_network(chain, sending)
    )


def _causes(error: BaseException) -> list[BaseException]:
    chain = [error]
    while (cause := chain[-1].__cause__ or chain[-1].__context__) and cause not in chain:
        chain.append(cause)
    return chain


def _explain_system(chain: list[BaseException], sending: bool) -> tuple[str, str] | None:
    from huggingface_hub.errors import OfflineModeIsEnabled

    for link in chain:
        if isinstance(link, OfflineModeIsEnabled):
            if sending:
                return "HF_HUB_OFFLINE forbids to upload", "unset HF_HUB_OFFLINE"
            return "not on this machine, and HF_HUB_OFFLINE forbids to download", (
                "unset HF_HUB_OFFLINE, or copy the cache of a machine that has the weights to "
                f"{_cache()}"
            )
        if not isinstance(link, OSError) or _status(link) is not None:
            continue
        if link.errno in (errno.ENOSPC, errno.EDQUOT, errno.EFBIG) and not sending:
            return f"no space left for it in {_cache()}", (
                "free some space, or move the cache with HF_HOME=DIR"
            )
        if link.errno is not None and link.filename is not None:
            return f"{link.filename}: {link.strerror}", "HF_HOME=DIR moves the cache"
    return None


def _explain_answer(
    chain: list[BaseException], repo_id: str, sending: bool
) -> tuple[str, str] | None:
    from huggingface_hub import constants
    from huggingface_hub.errors import (
        EntryNotFoundError,
        RepositoryNotFoundError,
        RevisionNotFoundError,
    )

    site = constants.ENDPOINT
    status = next((code for link in chain if (code := _status(link)) is not None), None)
    for link in chain:
        if isinstance(link, RevisionNotFoundError):
            return f"{repo_id} on {site} has no such revision", "look whether seg2vid is up to date"
        if isinstance(link, EntryNotFoundError) and status == 404:
            return f"{repo_id} on {site} has no such file", "look whether seg2vid is up to date"
    log_in = "log in with `hf auth login`, or set HF_TOKEN"
    access = f"is {site}/{repo_id} gone, private, or has conditions to accept? Then {log_in}"
    if sending:
        access = f"{log_in}; the token needs the right to write"
    if status in (401, 403):
        return f"{site} refuses access to {repo_id} ({status})", access
    if status == 404 or any(isinstance(link, RepositoryNotFoundError) for link in chain):
        return f"{site} knows no {repo_id} ({status})", access
    if status == 429:
        return f"{site} has had too many requests (429)", (
            "wait some minutes, or log in with `hf auth login`"
        )
    if status is not None:
        return f"{site} has trouble ({status})", "try again later"
    return None


def _explain_network(chain: list[BaseException], sending: bool) -> tuple[str, str]:
    from huggingface_hub import constants

    last = str(chain[-1]).strip().splitlines()
    why = last[0] if last else type(chain[-1]).__name__
    verb, kept = ("upload to", "") if sending else ("download from", "; what is complete is kept")
    return f"the {verb} {constants.ENDPOINT} failed: {why}", (
        f"check network, proxy and HF_ENDPOINT, then try again{kept}"
    )


def _status(error: BaseException) -> int | None:
    status = getattr(getattr(error, "response", None), "status_code", None)
    return status if isinstance(status, int) else None


def _is_good(spec: WeightSpec, file: FileSpec, path: Path) -> bool:
    try:
        _check(spec, file, path, hint="")
    except WeightsError:
        return False
    return True


def _check(spec: WeightSpec, file: FileSpec, path: Path, *, hint: str) -> None:
    if spec.origin != "hub":
        check_file(path, file, hint=hint)
        return
    stamps = _read_stamps()
    key, stamp = str(path.resolve()), _stamp(path, file)
    if stamp is not None and stamps.get(key) == stamp:
        return
    check_file(path, file, hint=hint)
    _write_stamps({**stamps, key: stamp})


def _stamp(path: Path, file: FileSpec) -> list[Any] | None:
    """What tells an untouched file: size, time of change and the hash it was found to have."""
    try:
        facts = path.stat()
    except OSError:
        return None
    return [facts.st_size, facts.st_mtime_ns, file.sha256]


def _stamp_file() -> Path:
    from huggingface_hub import cached_assets_path

    return Path(cached_assets_path("seg2vid", namespace="weights")) / _STAMPS


def _read_stamps() -> dict[str, Any]:
    try:
        data = json.loads(_stamp_file().read_bytes())
    except (OSError, ValueError):
        return {}
    return data if isinstance(data, dict) else {}


def _write_stamps(stamps: Mapping[str, Any]) -> None:
    """Keep stamps of files that still exist. Without them files are read through every time."""
    try:
        path = _stamp_file()
        part = path.with_name(f"{_STAMPS}.{os.getpid()}.part")
        try:
            part.write_text(json.dumps({k: v for k, v in stamps.items() if Path(k).exists()}))
            part.replace(path)
        finally:
            part.unlink(missing_ok=True)
    except (OSError, ValueError):  # a cache that cannot be written to
        return


def _by_hand(spec: WeightSpec) -> WeightsError:
    return WeightsError(
        f"weights '{spec.name}' cannot be downloaded by this command: no public copy on the "
        "Hugging Face Hub is known, the authors have them on their own site",
        hint=steps_by_hand(spec),
    )


def steps_by_hand(spec: WeightSpec) -> str:
    """How to come by weights that only their authors have."""
    return (
        f"1. download the checkpoint by hand from {spec.download}\n"
        f"      2. seg2vid weights import CHECKPOINT --as {spec.import_as} -o {spec.name}\n"
        f"      the name stands for that folder here, and everywhere after: seg2vid weights add "
        f"{spec.name}"
    )


def _repair_hint(spec: WeightSpec) -> str:
    return {
        "embedded": "the installation is damaged: install seg2vid again",
        "hub": f"seg2vid weights pull {spec.name} downloads it again",
        "folder": "restore the files, or add the folder again",
        "authors": "",
    }[spec.origin]


def _wrong_bytes_hint(spec: WeightSpec) -> str:
    return (
        "what arrived was deleted; try again, and if that does not help, the mirror in "
        f"HF_ENDPOINT or the repository {spec.repo_id} has been changed"
    )
