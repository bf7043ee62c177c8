"""A Hugging Face Hub on this machine: what huggingface_hub needs to download and publish models.

    with HubServer() as hub:
        revision = hub.add_repo("owner/name", {"bundle.json": b"{}"})
        hub.faults.append(CutAfter(1000, file="*.safetensors", times=1))
        hf_hub_download("owner/name", "bundle.json", endpoint=hub.url, cache_dir=..., token=False)

Files are LFS files by the name's ending or from 10 MB on, as on the Hub. Xet is not spoken: to
upload, huggingface_hub needs HF_HUB_DISABLE_XET=1 (downloads never use Xet here). `localhost` is
the same server under another host name, which huggingface_hub takes for a foreign one.
"""

from __future__ import annotations

import base64
import contextlib
import hashlib
import json
import socket
import socketserver
import struct
import sys
import threading
import time
import traceback
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass, field
from fnmatch import fnmatchcase
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any, NamedTuple, TypeVar
from urllib.parse import parse_qs, quote, unquote, urlsplit

import pytest

HOST = "127.0.0.1"
LFS_SUFFIXES = (".safetensors", ".bin", ".pt", ".pth", ".ckpt", ".npz", ".mp4")
LFS_SIZE = 10_000_000  # files of this size and more are LFS files whatever their name
PIECE = 65536  # bytes of a body sent at once
BAD_TOKEN = "Invalid credentials in Authorization header"
NO_TOKEN = "Invalid username or password."
AUTHENTICATE = 'Bearer realm="Authentication required", charset="UTF-8"'
ERRORS = {  # what Status says by itself: the message and X-Error-Code
    401: (NO_TOKEN, "RepoNotFound"),
    403: ("Access to this model is restricted. Visit its page to ask for access.", "GatedRepo"),
    404: ("Entry not found", "EntryNotFound"),
    429: ("We had to rate limit your IP.", None),
}
INTERNAL = ("Internal Error - We're working hard to fix this as soon as possible!", None)


class Request(NamedTuple):
    """One request as it came in; the names of its headers are in lower case."""

    method: str
    path: str  # with the query
    headers: dict[str, str]


# ---- faults --------------------------------------------------------------------------------------


@dataclass(kw_only=True)
class Fault:
    """Something that goes wrong, in all requests or some.

    `file` is a pattern (fnmatch) for the file's path in its repository or for the path of the URL
    ("*.safetensors", "/api/*", "/owner/name/*"), `methods` the methods concerned, `after` how many
    of these requests pass first, and `times` how often it happens before all is well again (None:
    always). `used` counts how often it did.
    """

    file: str = "*"
    methods: tuple[str, ...] = ("HEAD", "GET", "POST", "PUT")
    after: int = 0
    times: int | None = None
    used: int = field(default=0, init=False)


@dataclass
class Status(Fault):
    """An error instead of the answer, with the headers the Hub sends with that status.

    401: the repository is missing or private (the Hub does not tell which); with
    `message=BAD_TOKEN` the token is wrong. 403: the repository is gated; with `error_code=None`
    the token may not do this. `retry_after` seconds go with 429 and 503 (None: no such header).
    """

    code: int
    message: str | None = None
    error_code: str | None = ""  # "": the one that belongs to the status
    retry_after: int | None = 0


@dataclass
class CutAfter(Fault):
    """The connection ends after `n_bytes` of a file's body, short of its Content-Length.

    With `reset` it ends with an RST: what the other side has not read yet may be lost as well.
    """

    n_bytes: int
    reset: bool = False


@dataclass
class WrongBytes(Fault):
    """A file's body has the right size and other content."""


@dataclass
class WrongSize(Fault):
    """A file's body is `difference` bytes longer (or, below 0, shorter), as Content-Length says.

    X-Linked-Size and HEAD tell the right size, or the wrong one as well if `announced`.
    """

    difference: int
    announced: bool = False


@dataclass
class Slow(Fault):
    """A wait before the answer; the end of the server ends it, too."""

    seconds: float


@dataclass
class Stall(Fault):
    """A wait within a file's body, after its first `n_bytes`."""

    n_bytes: int
    seconds: float


@dataclass
class Redirect(Fault):
    """Files come from /cdn/ instead: of the same host or, as LFS files on the Hub, of another.

    At another host ("localhost") a token is an error, and there are no headers of the Hub's own.
    """

    host: str | None = None


@dataclass
class IgnoreRange(Fault):
    """The whole file with status 200, whatever Range asks for."""


@dataclass
class Headers(Fault):
    """Other headers with a file than the right ones, by their names; None leaves one out."""

    values: Mapping[str, str | None]


F = TypeVar("F", bound=Fault)


# ---- repositories --------------------------------------------------------------------------------


class HubError(Exception):
    """An answer that is an error."""

    def __init__(
        self,
        status: int,
        message: str,
        error_code: str | None = None,
        headers: Mapping[str, str] | None = None,
    ) -> None:
        super().__init__(message)
        self.status = status
        self.message = message
        self.headers = {"X-Error-Message": message, **(headers or {})}
        if error_code:
            self.headers["X-Error-Code"] = error_code
        if status == 401:
            self.headers["WWW-Authenticate"] = AUTHENTICATE


def sha256(data: bytes) -> str:
    return hashlib.sha256(data).hexdigest()


def git_oid(data: bytes) -> str:
    """The name git gives to a file with these bytes."""
    return hashlib.sha1(b"blob %d\0" % len(data) + data).hexdigest()


def is_lfs(path: str, size: int) -> bool:
    return path.endswith(LFS_SUFFIXES) or size >= LFS_SIZE


def lfs_pointer(data: bytes) -> bytes:
    """What git keeps in place of an LFS file."""
    text = "version https://git-lfs.github.com/spec/v1\noid sha256:{}\nsize {}\n"
    return text.format(sha256(data), len(data)).encode()


@dataclass
class Repo:
    """A model repository: files by commit, and which commit each branch or tag is at."""

    id: str
    private: bool = False
    commits: dict[str, dict[str, bytes]] = field(default_factory=dict)
    refs: dict[str, str] = field(default_factory=dict)

    def commit(self, files: Mapping[str, bytes], oid: str | None = None, ref: str = "main") -> str:
        """Make these files all there is on a branch."""
        if oid is None:
            tree = [f"{path} {git_oid(data)}" for path, data in sorted(files.items())]
            text = "\n".join([self.id, self.refs.get(ref, ""), str(len(self.commits)), *tree])
            oid = hashlib.sha1(text.encode()).hexdigest()
        self.commits[oid] = dict(files)
        self.refs[ref] = oid
        return oid

    def resolve(self, revision: str) -> str:
        """The commit that a branch, tag or commit id means."""
        oid = self.refs.get(revision.removeprefix("refs/heads/"), revision)
        if oid not in self.commits:
            raise HubError(404, f"Invalid rev id: {revision}", "RevisionNotFound")
        return oid

    def entries(self, oid: str, folder: str = "", recursive: bool = True) -> list[dict[str, Any]]:
        """A commit's files and folders as /tree/ lists them."""
        files = self.commits[oid]
        prefix = f"{folder.strip('/')}/" if folder.strip("/") else ""
        found: dict[str, dict[str, Any]] = {}
        for path, data in sorted(files.items()):
            if not path.startswith(prefix):
                continue
            parts = path[len(prefix) :].split("/")
            for depth in range(1, len(parts) if recursive else min(len(parts), 2)):
                name = prefix + "/".join(parts[:depth])
                tree_oid = hashlib.sha1(f"{oid} {name}".encode()).hexdigest()
                found[name] = {"type": "directory", "oid": tree_oid, "size": 0, "path": name}
            if recursive or len(parts) == 1:
                found[path] = file_entry(path, data)
        if prefix and not found:
            raise HubError(404, "Entry not found", "EntryNotFound")
        return list(found.values())


def file_entry(path: str, data: bytes) -> dict[str, Any]:
    """A file as /tree/ lists it."""
    entry: dict[str, Any] = {"type": "file", "size": len(data), "path": path}
    if is_lfs(path, len(data)):
        pointer = lfs_pointer(data)
        lfs = {"oid": sha256(data), "size": len(data), "pointerSize": len(pointer)}
        return {**entry, "oid": git_oid(pointer), "lfs": lfs}
    return {**entry, "oid": git_oid(data)}


# ---- the server ----------------------------------------------------------------------------------


class HubServer:
    """The server: started by `with`, and to be stopped and started again at the same address.

    `requests` holds all requests in order, `faults` what goes wrong (a plain list to change at any
    time). Writing needs `token`; `read_token` may only read; without a token all but private
    repositories can be read, and any other token is an error. `user` is who both tokens belong to,
    and may write under its own name and under those of `orgs`.
    """

    def __init__(self, orgs: Iterable[str] = ("owner",)) -> None:
        self.token = "hf_test_write"
        self.read_token = "hf_test_read"
        self.user = "tester"
        self.orgs = list(orgs)
        self.port = 0
        self.home = self.cache = Path()  # of those who take this for the Hub, see hub_in_place
        self.requests: list[Request] = []
        self.faults: list[Fault] = []
        self.repos: dict[str, Repo] = {}
        self.uploads: dict[str, bytes] = {}  # LFS files by SHA-256
        self.errors: list[str] = []  # tracebacks of this server's own mistakes
        self.lock = threading.RLock()
        self.stopping = threading.Event()
        self._server: _Server | None = None
        self._thread: threading.Thread | None = None

    @property
    def url(self) -> str:
        """The address, without a slash at the end: what HF_ENDPOINT or `endpoint=` takes."""
        return f"http://{HOST}:{self.port}"

    def start(self) -> None:
        """Listen: the first time at a free port, from then on at the same one."""
        if self._server is not None:
            return
        self.stopping.clear()
        self._server = _Server(self)
        self.port = self._server.server_address[1]
        poll = {"poll_interval": 0.02}  # how long stop() takes at most to be noticed
        self._thread = threading.Thread(
            target=self._server.serve_forever, kwargs=poll, name="hub-server", daemon=True
        )
        self._thread.start()

    def stop(self) -> None:
        """Drop all connections and refuse new ones; may be called twice."""
        server, thread = self._server, self._thread
        if server is None or thread is None:
            return
        self.stopping.set()
        server.shutdown()
        thread.join()
        server.server_close()
        server.drop_connections()
        self._server = self._thread = None
        if self.errors:
            raise RuntimeError("the test's Hub server failed:\n" + "\n".join(self.errors))

    def __enter__(self) -> HubServer:
        self.start()
        return self

    def __exit__(self, *_: object) -> None:
        self.stop()

    def add_repo(
        self,
        repo_id: str,
        files: Mapping[str, bytes],
        revision: str | None = None,
        private: bool = False,
    ) -> str:
        """Make a repository, or a new commit in it, with exactly these files; returns the commit.

        `revision` is the commit's id (40 hexadecimal digits), worked out if None. `main` is there.
        """
        with self.lock:
            repo = self.repos.setdefault(repo_id, Repo(repo_id))
            repo.private = private
            for path, data in files.items():
                if is_lfs(path, len(data)):
                    self.uploads[sha256(data)] = data
            return repo.commit(files, revision)

    def files(self, repo_id: str, revision: str = "main") -> dict[str, bytes]:
        """What a repository holds."""
        repo = self.repos[repo_id]
        return dict(repo.commits[repo.resolve(revision)])

    def sent(self, pattern: str = "*", method: str | None = None) -> list[str]:
        """The requests so far as "METHOD /path", those whose path fits a pattern (fnmatch)."""
        return [
            f"{request.method} {request.path}"
            for request in self.requests
            if fnmatchcase(request.path, pattern) and method in (None, request.method)
        ]

    def fault(self, kind: type[F], method: str, *names: str) -> F | None:
        """The first fault of a kind that concerns a request, counted as used."""
        with self.lock:
            for fault in self.faults:
                if (
                    isinstance(fault, kind)
                    and method in fault.methods
                    and (fault.times is None or fault.used < fault.times)
                    and any(fnmatchcase(name, fault.file) for name in names)
                ):
                    if fault.after:
                        fault.after -= 1
                        continue
                    fault.used += 1
                    return fault
        return None


class _Server(ThreadingHTTPServer):
    """Keeps track of its connections, to be able to end them."""

    daemon_threads = True
    block_on_close = False
    request_queue_size = 32

    def __init__(self, hub: HubServer) -> None:
        self.hub = hub
        self.connections: dict[socket.socket, threading.Thread] = {}
        super().__init__((HOST, hub.port), _Handler)

    def server_bind(self) -> None:
        socketserver.TCPServer.server_bind(self)  # HTTPServer's asks the DNS for the host's name
        self.server_name, self.server_port = HOST, self.server_address[1]

    def process_request(self, request: Any, client_address: Any) -> None:
        thread = threading.Thread(
            target=self.process_request_thread, args=(request, client_address), daemon=True
        )
        with self.hub.lock:
            self.connections[request] = thread
        thread.start()

    def shutdown_request(self, request: Any) -> None:
        super().shutdown_request(request)
        with self.hub.lock:
            self.connections.pop(request, None)

    def drop_connections(self) -> None:
        with self.hub.lock:
            connections = list(self.connections.items())
        for connection, thread in connections:
            with contextlib.suppress(OSError):
                connection.shutdown(socket.SHUT_RDWR)
            thread.join()

    def handle_error(self, request: Any, client_address: Any) -> None:
        if not isinstance(sys.exc_info()[1], OSError):  # OSError: the other side has gone
            self.hub.errors.append(traceback.format_exc())


class _Handler(BaseHTTPRequestHandler):
    """One connection."""

    protocol_version = "HTTP/1.1"
    disable_nagle_algorithm = True
    server: _Server

    def log_message(self, format: str, *args: Any) -> None:
        """Say nothing."""

    def do_GET(self) -> None:
        hub = self.hub = self.server.hub
        body = self.read_body()
        headers = {name.lower(): value for name, value in self.headers.items()}
        with hub.lock:
            hub.requests.append(Request(self.command, self.path, headers))
        url = urlsplit(self.path)
        self.query = {name: values[-1] for name, values in parse_qs(url.query).items()}
        parts = [unquote(part) for part in url.path.split("/")[1:]]
        try:
            if url.path == "/api/agent-harnesses":  # asked for once a day, whatever is done
                self.answer_json({"standardEnvVars": [], "harnesses": {}})
                return
            match parts:
                case [_, _, "resolve", _, *file] | ["cdn", _, _, _, *file]:
                    names = [unquote(url.path), "/".join(file)]
                case _:
                    names = [unquote(url.path)]
            self.misbehave(names)
            self.route(parts, body, names)
        except HubError as error:
            self.answer_json({"error": error.message}, error.status, error.headers)

    do_HEAD = do_POST = do_PUT = do_GET  # noqa: N815

    def misbehave(self, names: list[str]) -> None:
        """Apply the faults that do not concern a file's body."""
        slow = self.hub.fault(Slow, self.command, *names)
        if slow is not None:
            self.hub.stopping.wait(slow.seconds)
        status = self.hub.fault(Status, self.command, *names)
        if status is None:
            return
        message, error_code = ERRORS.get(status.code, INTERNAL)
        if status.error_code != "":
            error_code = status.error_code
        elif status.message == BAD_TOKEN:
            error_code = None
        headers = {}
        if status.code in (429, 503) and status.retry_after is not None:
            headers["Retry-After"] = str(status.retry_after)
        raise HubError(status.code, status.message or message, error_code, headers)

    def route(self, parts: list[str], body: bytes, names: list[str]) -> None:
        """Answer a request that nothing goes wrong with."""
        hub = self.hub
        match [self.command, *parts]:
            case ["GET" | "HEAD", "cdn", owner, name, revision, *file] if file:
                self.send_from_cdn(f"{owner}/{name}", revision, names)
            case ["GET" | "HEAD", owner, name, "resolve", revision, *file] if file:
                self.resolve(self.repo(f"{owner}/{name}"), revision, names)
            case ["GET", "api", "whoami-v2"]:
                self.who_am_i()
            case ["GET", "api", "models", owner, name]:
                repo = self.repo(f"{owner}/{name}")
                self.answer_json(self.info(repo, repo.resolve("main")))
            case ["GET", "api", "models", owner, name, "revision", revision]:
                repo = self.repo(f"{owner}/{name}")
                self.answer_json(self.info(repo, repo.resolve(revision)))
            case ["GET", "api", "models", owner, name, "tree", revision, *folder]:
                repo = self.repo(f"{owner}/{name}")
                recursive = self.query.get("recursive", "").lower() in ("1", "true")
                oid = repo.resolve(revision)
                self.answer_json(repo.entries(oid, "/".join(folder), recursive))
            case ["GET", "api", "models", owner, name, "refs"]:
                repo = self.repo(f"{owner}/{name}")
                refs = [
                    {"name": ref, "ref": f"refs/heads/{ref}", "targetCommit": oid}
                    for ref, oid in repo.refs.items()
                ]
                self.answer_json({"branches": refs, "tags": [], "converts": []})
            case ["POST", "api", "repos", "create"]:
                self.create_repo(json.loads(body))
            case ["POST", "api", "validate-yaml"]:
                self.validate_yaml(json.loads(body))
            case ["POST", "api", "models", owner, name, "preupload", revision]:
                repo = self.repo(f"{owner}/{name}", write=True)
                self.preupload(repo, revision, json.loads(body))
            case ["POST", owner, name, "info", "lfs", "objects", "batch"]:
                self.lfs_batch(self.repo(f"{owner}/{name.removesuffix('.git')}", write=True), body)
            case ["POST", owner, name, "info", "lfs", "objects", "verify"]:
                self.repo(f"{owner}/{name.removesuffix('.git')}", write=True)
                wanted = json.loads(body)
                if len(hub.uploads.get(wanted["oid"], b"")) != wanted["size"]:
                    raise HubError(404, "The file was not uploaded")
                self.answer_json({})
            case ["PUT", "lfs", oid]:
                if sha256(body) != oid:
                    raise HubError(400, "The bytes do not have the SHA-256 announced")
                with hub.lock:
                    hub.uploads[oid] = body
                self.answer(b"", headers={"ETag": f'"{oid}"'})
            case ["POST", "api", "models", owner, name, "commit", revision]:
                repo = self.repo(f"{owner}/{name}", write=True)
                self.commit(repo, revision, [json.loads(line) for line in body.splitlines()])
            case _:
                raise HubError(404, f"Sorry, we can't find the page: {self.command} {self.path}")

    # ---- downloads

    def resolve(self, repo: Repo, revision: str, names: list[str]) -> None:
        """A file at a revision, or where it is to be fetched."""
        path = names[-1]
        with self.hub.lock:
            oid = repo.resolve(revision)
            data = repo.commits[oid].get(path)
        commit = {"X-Repo-Commit": oid}
        if data is None:
            raise HubError(404, "Entry not found", "EntryNotFound", commit)
        headers = self.file_headers(path, data) | commit
        if (other := self.hub.fault(Headers, self.command, *names)) is not None:
            changed = {**headers, **other.values}
            headers = {name: value for name, value in changed.items() if value is not None}
        redirect = self.hub.fault(Redirect, self.command, *names)
        if redirect is None:
            self.send_file(data, headers, names)
            return
        location = f"/cdn/{repo.id}/{oid}/{quote(path)}"
        if redirect.host is not None:
            location = f"http://{redirect.host}:{self.hub.port}{location}?signature=1"
        self.answer(b"Found. Redirecting", 302, headers | {"Location": location})

    def send_from_cdn(self, repo_id: str, oid: str, names: list[str]) -> None:
        """A file from where Redirect sends to."""
        foreign = self.headers.get("Host") != f"{HOST}:{self.hub.port}"
        if foreign and "Authorization" in self.headers:
            raise HubError(400, "Only one auth mechanism allowed: the token went to another host")
        data = self.hub.repos[repo_id].commits[oid][names[-1]]
        headers = {"ETag": f'"{hashlib.md5(data).hexdigest()}"'}
        if not foreign:
            headers = self.file_headers(names[-1], data) | {"X-Repo-Commit": oid}
        self.send_file(data, headers, names)

    def file_headers(self, path: str, data: bytes) -> dict[str, str]:
        """What the Hub says about a file."""
        name = path.rsplit("/", 1)[-1]
        headers = {
            "Content-Disposition": f"inline; filename*=UTF-8''{quote(name)}; filename=\"{name}\";"
        }
        if is_lfs(path, len(data)):
            etag = f'"{sha256(data)}"'
            linked = {"X-Linked-Size": str(self.told_size(path, data)), "X-Linked-Etag": etag}
            return headers | {"ETag": etag} | linked
        return headers | {"ETag": f'"{git_oid(data)}"'}

    def told_size(self, path: str, data: bytes) -> int:
        """A file's size, unless WrongSize(announced=True) is on."""
        for fault in self.hub.faults:
            if isinstance(fault, WrongSize) and fault.announced and fnmatchcase(path, fault.file):
                return len(data) + fault.difference
        return len(data)

    def send_file(self, data: bytes, headers: dict[str, str], names: list[str]) -> None:
        """A file's bytes, or those that Range asks for, or others."""
        size = self.told_size(names[-1], data)
        headers = {"Accept-Ranges": "bytes", "Content-Type": "application/octet-stream"} | headers
        if self.command == "HEAD":
            self.start_answer(200, headers | {"Content-Length": str(size)})
            return
        if self.hub.fault(WrongBytes, self.command, *names) is not None:
            data = data.translate(bytes(range(255, -1, -1)))
        wrong_size = self.hub.fault(WrongSize, self.command, *names)
        if wrong_size is not None:
            difference = wrong_size.difference
            data = data + b"\0" * difference if difference >= 0 else data[:difference]
        status, wanted = 200, self.headers.get("Range")
        if wanted and self.hub.fault(IgnoreRange, self.command, *names) is None:
            total = len(data)
            first, last = _parse_range(wanted, total)
            if first >= total or last < first:
                headers = {"Content-Range": f"bytes */{total}"}
                raise HubError(416, "The requested range is not satisfiable", None, headers)
            data = data[first : last + 1]
            status = 206
            headers = headers | {"Content-Range": f"bytes {first}-{last}/{total}"}
        self.start_answer(status, headers | {"Content-Length": str(len(data))})
        cut = self.hub.fault(CutAfter, self.command, *names)
        end = len(data) if cut is None else min(cut.n_bytes, len(data))
        stall = self.hub.fault(Stall, self.command, *names)
        if stall is not None:
            self.send_pieces(data[: min(stall.n_bytes, end)])
            self.hub.stopping.wait(stall.seconds)
            self.send_pieces(data[stall.n_bytes : end])
        else:
            self.send_pieces(data[:end])
        if cut is not None:
            self.close_connection = True
            if cut.reset:
                linger = struct.pack("ii", 1, 0)
                self.connection.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, linger)
                self.rfile.close()  # it keeps the socket open
                self.connection.close()

    def send_pieces(self, data: bytes) -> None:
        view = memoryview(data)
        for start in range(0, len(view), PIECE):
            if self.hub.stopping.is_set():
                raise ConnectionAbortedError("the server is being stopped")
            self.wfile.write(view[start : start + PIECE])

    def info(self, repo: Repo, oid: str) -> dict[str, Any]:
        """What /api/models says about a repository."""
        siblings = []
        for path, data in sorted(repo.commits[oid].items()):
            sibling: dict[str, Any] = {"rfilename": path}
            if self.query.get("blobs"):
                entry = file_entry(path, data)
                sibling |= {"size": len(data), "blobId": entry["oid"]}
                if lfs := entry.get("lfs"):
                    pointer_size = lfs["pointerSize"]
                    sibling["lfs"] = {"sha256": lfs["oid"], "size": len(data)}
                    sibling["lfs"]["pointerSize"] = pointer_size
            siblings.append(sibling)
        return {
            "_id": hashlib.md5(repo.id.encode()).hexdigest()[:24],
            "id": repo.id,
            "modelId": repo.id,
            "author": repo.id.split("/")[0],
            "sha": oid,
            "private": repo.private,
            "gated": False,
            "disabled": False,
            "lastModified": "2026-01-01T00:00:00.000Z",
            "createdAt": "2026-01-01T00:00:00.000Z",
            "downloads": 0,
            "likes": 0,
            "tags": [],
            "siblings": siblings,
        }

    # ---- uploads

    def create_repo(self, wanted: dict[str, Any]) -> None:
        hub = self.hub
        self.check_token(write=True)
        owner = wanted.get("organization") or hub.user
        if owner not in (hub.user, *hub.orgs):
            text = f'You don\'t have the rights to create a model under the namespace "{owner}"'
            raise HubError(403, text)
        repo_id = f"{owner}/{wanted['name']}"
        answer = {"url": f"{hub.url}/{repo_id}", "name": repo_id, "id": repo_id}
        with hub.lock:
            if repo_id in hub.repos:
                error = "You already created this model repo"
                self.answer_json({"error": error, **answer}, 409, {"X-Error-Message": error})
                return
            private = bool(wanted.get("private")) or wanted.get("visibility") == "private"
            repo = hub.repos[repo_id] = Repo(repo_id, private)
            repo.commit({".gitattributes": b"*.safetensors filter=lfs diff=lfs merge=lfs -text\n"})
        self.answer_json(answer)

    def validate_yaml(self, wanted: dict[str, Any]) -> None:
        """Warn of a README without a header, as the Hub does; its fields are not looked at."""
        missing = {"message": "empty or missing yaml metadata in repo card"}
        found = wanted["content"].startswith("---\n")
        self.answer_json({"errors": [], "warnings": [] if found else [missing]})

    def preupload(self, repo: Repo, revision: str, wanted: dict[str, Any]) -> None:
        """Say which files are to come by LFS, and what is there under each name already."""
        with self.hub.lock:
            files = repo.commits[repo.resolve(revision)]
        answers = []
        for file in wanted["files"]:
            path, lfs = file["path"], is_lfs(file["path"], file["size"])
            answer = {"path": path, "uploadMode": "lfs" if lfs else "regular"}
            answer["shouldIgnore"] = False
            if path in files:
                data = files[path]
                answer["oid"] = sha256(data) if is_lfs(path, len(data)) else git_oid(data)
            answers.append(answer)
        self.answer_json({"files": answers})

    def lfs_batch(self, repo: Repo, body: bytes) -> None:
        hub, objects = self.hub, []
        for wanted in json.loads(body)["objects"]:
            answer = {"oid": wanted["oid"], "size": wanted["size"]}
            if wanted["oid"] not in hub.uploads:
                verify = f"{hub.url}/{repo.id}.git/info/lfs/objects/verify"
                answer["actions"] = {
                    "upload": {"href": f"{hub.url}/lfs/{wanted['oid']}?signature=1", "header": {}},
                    "verify": {"href": verify, "header": {}},
                }
            objects.append(answer)
        self.answer_json({"transfer": "basic", "objects": objects})

    def commit(self, repo: Repo, revision: str, lines: list[dict[str, Any]]) -> None:
        """Carry out the lines of a commit."""
        hub = self.hub
        if "create_pr" in self.query:
            raise HubError(400, "This server has no pull requests")
        with hub.lock:
            if revision not in repo.refs:
                raise HubError(404, f"Invalid rev id: {revision}", "RevisionNotFound")
            parent = repo.refs[revision]
            files = dict(repo.commits[parent])
            for line in lines:
                value = line["value"]
                match line["key"]:
                    case "header":
                        if value.get("parentCommit") not in (None, parent):
                            raise HubError(412, "A commit has happened since. Please refresh.")
                    case "file":
                        files[value["path"]] = base64.b64decode(value["content"])
                    case "lfsFile":
                        if value["oid"] not in hub.uploads:
                            raise HubError(400, f"LFS object {value['oid']} does not exist")
                        files[value["path"]] = hub.uploads[value["oid"]]
                    case "deletedFile":
                        if files.pop(value["path"], None) is None:
                            text = "A file with this name doesn't exist"
                            raise HubError(404, text, "EntryNotFound")
                    case "deletedFolder":
                        prefix = value["path"].rstrip("/") + "/"
                        files = {p: data for p, data in files.items() if not p.startswith(prefix)}
                    case key:
                        raise HubError(400, f"Unknown operation {key}")
            oid = repo.commit(files, ref=revision)
        url = f"{hub.url}/{repo.id}/commit/{oid}"
        self.answer_json({"success": True, "commitOid": oid, "commitUrl": url, "hookOutput": ""})

    # ---- who asks

    def check_token(self, write: bool = False, needed: bool = True) -> str | None:
        """The token sent; an error if it is wrong, or missing where one is needed."""
        scheme, _, token = self.headers.get("Authorization", "").partition(" ")
        if not token and needed:
            raise HubError(401, NO_TOKEN)
        if not token:
            return None
        if scheme.lower() != "bearer" or token not in (self.hub.token, self.hub.read_token):
            raise HubError(401, BAD_TOKEN)
        if write and token != self.hub.token:
            raise HubError(403, "you must use a write token to upload to a repository.")
        return token

    def who_am_i(self) -> None:
        role = "write" if self.check_token() == self.hub.token else "read"
        orgs = [{"type": "org", "name": org, "fullname": org} for org in self.hub.orgs]
        access = {"displayName": "test", "role": role}
        auth = {"type": "access_token", "accessToken": access}
        user = {"type": "user", "id": "1", "name": self.hub.user, "fullname": self.hub.user}
        self.answer_json({**user, "orgs": orgs, "auth": auth})

    def repo(self, repo_id: str, write: bool = False) -> Repo:
        """A repository this request may read, or write to."""
        token = self.check_token(write, needed=write)
        repo = self.hub.repos.get(repo_id)
        if repo is None or (repo.private and token is None):
            status = 401 if token is None else 404  # the Hub does not tell strangers which
            raise HubError(status, "Repository not found", "RepoNotFound")
        if write and repo_id.split("/")[0] not in (self.hub.user, *self.hub.orgs):
            raise HubError(403, f"You have no write access to {repo_id}")
        return repo

    # ---- HTTP

    def read_body(self) -> bytes:
        if self.headers.get("Transfer-Encoding", "").lower() == "chunked":
            body = b""
            while size := int(self.rfile.readline().split(b";")[0] or b"0", 16):
                body += self.rfile.read(size)
                self.rfile.readline()
            self.rfile.readline()
            return body
        size = int(self.headers.get("Content-Length", 0))
        body = self.rfile.read(size)
        if len(body) < size:
            raise ConnectionAbortedError("the other side has gone")
        return body

    def start_answer(self, status: int, headers: Mapping[str, str]) -> None:
        self.send_response(status)
        self.send_header("X-Request-Id", f"test-{len(self.hub.requests)}")
        for name, value in headers.items():
            self.send_header(name, value)
        self.end_headers()

    def answer(
        self, body: bytes, status: int = 200, headers: Mapping[str, str] | None = None
    ) -> None:
        self.start_answer(status, {**(headers or {}), "Content-Length": str(len(body))})
        if self.command != "HEAD":
            self.wfile.write(body)

    def answer_json(
        self, data: object, status: int = 200, headers: Mapping[str, str] | None = None
    ) -> None:
        kind = {"Content-Type": "application/json; charset=utf-8"}
        self.answer(json.dumps(data).encode(), status, {**kind, **(headers or {})})


@contextlib.contextmanager
def hub_in_place(home: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[HubServer]:
    """Make a server the Hub of this process, with an empty HF_HOME; `home` and `cache` tell where.

    No Xet, no token, no waiting between attempts.
    """
    import huggingface_hub

    for name in ("HF_TOKEN", "HUGGING_FACE_HUB_TOKEN"):
        monkeypatch.delenv(name, raising=False)
    with HubServer() as server:
        server.home, server.cache = home, home / "hub"
        template = server.url + "/{repo_id}/resolve/{revision}/{filename}"
        for name, value in (
            ("constants.HF_HUB_DISABLE_XET", True),
            ("constants.HF_HUB_OFFLINE", False),
            ("constants.ENDPOINT", server.url),
            ("constants.HUGGINGFACE_CO_URL_TEMPLATE", template),
            ("constants.HF_HUB_CACHE", str(server.cache)),
            ("constants.HF_TOKEN_PATH", str(home / "token")),
            ("utils._cache_manager.HF_HUB_CACHE", str(server.cache)),
            ("utils._cache_assets.HF_ASSETS_CACHE", str(home / "assets")),
        ):
            monkeypatch.setattr(f"huggingface_hub.{name}", value)
        monkeypatch.setattr("huggingface_hub.utils._detect_agent._registry", {}, raising=False)
        monkeypatch.setattr(time, "sleep", lambda seconds: None)
        try:
            yield server
        finally:
            huggingface_hub.close_session()


def _parse_range(text: str, size: int) -> tuple[int, int]:
    """The first and the last byte that `bytes=A-B`, `bytes=A-` or `bytes=-N` asks for."""
    unit, _, span = text.partition("=")
    first, dash, last = span.strip().partition("-")
    if unit.strip() != "bytes" or not dash or not (first + last).isdigit():
        raise HubError(400, f"Range is not understood: {text}")
    if not first:
        return max(size - int(last), 0), size - 1
    return int(first), min(int(last), size - 1) if last else size - 1
