"""Weights from the Hub: what is asked for, what is kept, and how every fault ends."""

from __future__ import annotations

import errno
import hashlib
import logging
import os
import shutil
import subprocess
import sys
import tempfile
import time
from contextlib import contextmanager
from pathlib import Path

import huggingface_hub
import pytest
from hub_server import (
    BAD_TOKEN,
    CutAfter,
    Headers,
    IgnoreRange,
    Redirect,
    Slow,
    Stall,
    Status,
    WrongBytes,
    WrongSize,
    git_oid,
    hub_in_place,
    sha256,
)

import seg2vid_cli
from seg2vid_cli.errors import InputError, WeightsError
from seg2vid_cli.weights import hub as weights_hub
from seg2vid_cli.weights.hub import (
    fetch_weights,
    installed_files,
    pull_weights,
    remove_weights,
    verify_weights,
)
from seg2vid_cli.weights.registry import FileSpec, WeightSpec, find_weights, parse_registry

PIECE = 1000  # what is kept of a download comes in pieces of this size, here
DATA = bytes(range(256)) * 200
FILES = {"bundle.json": b'{"name": "toy"}', "motion.safetensors": DATA, "README.md": b"# Toy\n"}
NEWER = {name: data[::-1] for name, data in FILES.items()}
ENVIRONMENT = {
    **{name: value for name, value in os.environ.items() if not name.startswith("HF_")},
    "PYTHONPATH": str(Path(seg2vid_cli.__file__).parent.parent),
}


def spec_of(revision, files=FILES, name="toy", repo_id="owner/name", **changes):
    """What a registry says of weights on the Hub."""
    described = tuple(
        FileSpec(name=name, size_bytes=len(data), sha256=hashlib.sha256(data).hexdigest())
        for name, data in files.items()
    )
    facts = {
        "title": "Toy",
        "stages": {"motion": "seg2vid-flow"},
        "labels": "none",
        "native_size": "64x32",
        "license": "CC0-1.0",
        "source": "nothing",
        "origin": "hub",
        "files": described,
    }
    return WeightSpec(name=name, repo_id=repo_id, revision=revision, **{**facts, **changes})


@pytest.fixture
def hub(tmp_path, monkeypatch):
    """A Hub with one repository, and an empty cache for what comes from it."""
    monkeypatch.setattr("huggingface_hub.constants.DOWNLOAD_CHUNK_SIZE", PIECE)
    with hub_in_place(tmp_path / "home", monkeypatch) as server:
        server.revision = server.add_repo("owner/name", FILES)
        yield server


@pytest.fixture
def spec(hub):
    return spec_of(hub.revision)


@pytest.fixture
def reads(monkeypatch):
    """The names of the files that are read through to check them, as it happens."""
    names = []
    check = weights_hub.check_file

    def counted(path, file, **options):
        names.append(file.name)
        check(path, file, **options)

    monkeypatch.setattr(weights_hub, "check_file", counted)
    return names


def pull(spec):
    return pull_weights(spec, quiet=True)


def failed(spec, call=pull):
    """The error that a call ends with, after a look at what all of them have in common."""
    with pytest.raises(WeightsError) as caught:
        call(spec)
    assert type(caught.value) is WeightsError
    assert "\n" not in caught.value.message
    return caught.value


def asked(hub, method=None):
    """The requests so far, as "METHOD file"."""
    return [
        f"{r.method} {r.path.rsplit('/', 1)[-1]}"
        for r in hub.requests
        if method in (None, r.method)
    ]


def ranges(hub):
    return [r.headers.get("range") for r in hub.requests if r.method == "GET"]


def incomplete(hub):
    """Sizes of the downloads that are not complete."""
    return [path.stat().st_size for path in sorted(hub.cache.rglob("*.incomplete"))]


def notes(hub):
    """The file on what has been checked, if there is one."""
    return [str(path) for path in (hub.home / "assets").rglob("checked.json")]


def place(hub, name, revision=None):
    return hub.cache / "models--owner--name" / "snapshots" / (revision or hub.revision) / name


def state(folder):
    """Every file's bytes and time of change, but that of locks: some versions of filelock touch
    them. Links are followed.
    """
    files = (path for path in Path(folder).rglob("*") if path.is_file())
    return {
        str(path): (path.read_bytes(), path.suffix != ".lock" and path.stat().st_mtime_ns)
        for path in files
    }


def edit(path, data):
    """Change a file in place, some time later."""
    later = path.stat().st_mtime_ns + 10**9
    path.write_bytes(data)
    os.utime(path, ns=(later, later))


def process(hub, spec, **options):
    """A process that pulls."""
    code = (
        "from seg2vid_cli.weights.hub import pull_weights\n"
        "from seg2vid_cli.weights.registry import FileSpec, WeightSpec\n"
        f"spec = {spec!r}\n"
        "pull_weights(spec, quiet=True)\n"
    )
    variables = {"HF_ENDPOINT": hub.url, "HF_HOME": str(hub.home), "HF_HUB_DISABLE_XET": "1"}
    return subprocess.Popen(
        [sys.executable, "-c", code],
        env=ENVIRONMENT | variables,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        **options,
    )


# ---- all is well ---------------------------------------------------------------------------------


def test_every_file_is_downloaded_once_and_nothing_is_asked_after_that(hub, spec):
    assert installed_files(spec) is None
    told = []
    files = fetch_weights(spec, before_pull=told.append)
    assert told == [spec]
    assert files == {place(hub, name): sha256(data) for name, data in FILES.items()}
    assert {path.name: path.read_bytes() for path in files} == FILES
    assert asked(hub) == [f"{method} {name}" for name in FILES for method in ("HEAD", "GET")]
    assert ranges(hub) == [None] * 3
    assert all(request.path.split("/")[4] == hub.revision for request in hub.requests)
    assert "seg2vid" in hub.requests[0].headers["user-agent"]
    assert not any("authorization" in request.headers for request in hub.requests)
    assert incomplete(hub) == []
    before = state(hub.home)
    hub.requests.clear()
    hub.stop()
    assert fetch_weights(spec, before_pull=told.append) == files
    assert pull(spec) == files
    assert dict(installed_files(spec)) == dict(zip(spec.files, files, strict=True))
    verify_weights(spec)
    assert told == [spec]
    assert hub.requests == []
    assert state(hub.home) == before


def test_what_is_there_comes_from_any_tool_that_uses_the_same_cache(hub, spec, reads):
    huggingface_hub.snapshot_download("owner/name", revision=hub.revision)
    hub.requests.clear()
    files = fetch_weights(spec)
    assert {path.name: path.read_bytes() for path in files} == FILES
    assert reads == list(FILES)
    assert hub.requests == []
    path = huggingface_hub.hf_hub_download("owner/name", "README.md", revision=hub.revision)
    assert Path(path) in files


def test_a_file_that_is_missing_is_fetched_alone(hub, spec):
    pull(spec)
    place(hub, "motion.safetensors").unlink()
    hub.requests.clear()
    assert installed_files(spec) is None
    fetch_weights(spec)
    assert asked(hub) == ["HEAD motion.safetensors"]  # its bytes are still there
    verify_weights(spec)
    blob = place(hub, "motion.safetensors").resolve()
    place(hub, "motion.safetensors").unlink()
    blob.unlink()
    hub.requests.clear()
    fetch_weights(spec)
    assert asked(hub) == ["HEAD motion.safetensors", "GET motion.safetensors"]
    verify_weights(spec)


def test_a_new_revision_lies_beside_the_old_one(hub, spec):
    pull(spec)
    before = state(hub.cache)
    newer = spec_of(hub.add_repo("owner/name", NEWER), NEWER)
    assert installed_files(newer) is None
    assert {path.name: path.read_bytes() for path in pull(newer)} == NEWER
    assert before.items() <= state(hub.cache).items()
    hub.requests.clear()
    fetch_weights(spec)
    fetch_weights(newer)
    assert hub.requests == []


@pytest.mark.parametrize("tool", [pull, None])
def test_a_new_revision_brings_only_what_is_new(hub, spec, tool):
    if tool:
        pull(spec)
    else:
        huggingface_hub.snapshot_download("owner/name", revision=hub.revision)
    before = state(hub.cache)
    changed = {**FILES, "README.md": b"# Toy, again\n"}
    newer = spec_of(hub.add_repo("owner/name", changed), changed)
    hub.requests.clear()
    assert {path.name: path.read_bytes() for path in pull(newer)} == changed
    assert asked(hub) == [*(f"HEAD {name}" for name in FILES), "GET README.md"]
    assert before.items() <= state(hub.cache).items()
    verify_weights(newer)


def test_blobs_have_the_names_that_any_tool_gives_them(hub, spec):
    pull(spec)
    ours = {path: path.resolve().name for path in (place(hub, name) for name in FILES)}
    shutil.rmtree(hub.cache)
    huggingface_hub.snapshot_download("owner/name", revision=hub.revision)
    assert {path: path.resolve().name for path in ours} == ours


def test_progress_bars_are_as_before(spec):
    from huggingface_hub.utils import are_progress_bars_disabled

    before = are_progress_bars_disabled()
    pull(spec)
    assert are_progress_bars_disabled() is before


def test_weights_of_their_authors_are_not_asked_for(hub):
    spec = find_weights("seg2vid-cityscapes")
    for call in (fetch_weights, pull):
        error = failed(spec, call)
        assert "cannot be downloaded by this command" in error.message
        assert f"1. download the checkpoint by hand from {spec.download}\n" in error.hint
        assert "2. seg2vid weights import CHECKPOINT --as seg2vid-two-path -o" in error.hint
    assert hub.requests == []


# ---- tokens and redirects ------------------------------------------------------------------------


def test_a_token_opens_private_repositories(hub, monkeypatch):
    revision = hub.add_repo("owner/secret", FILES, private=True)
    secret = spec_of(revision, repo_id="owner/secret")
    error = failed(secret)
    assert error.message.endswith(f"{hub.url} refuses access to owner/secret (401)")
    assert "hf auth login" in error.hint
    assert "HF_TOKEN" in error.hint
    monkeypatch.setenv("HF_TOKEN", hub.read_token)
    hub.requests.clear()
    pull(secret)
    bearers = {request.headers["authorization"] for request in hub.requests}
    assert bearers == {f"Bearer {hub.read_token}"}


@pytest.mark.parametrize(("host", "sent"), [(None, True), ("localhost", False)])
def test_a_token_stays_with_the_hub(hub, spec, monkeypatch, host, sent):
    monkeypatch.setenv("HF_TOKEN", hub.read_token)
    hub.faults.append(Redirect(host))
    pull(spec)
    verify_weights(spec)
    storage = [request for request in hub.requests if request.path.startswith("/cdn/")]
    assert {r.headers["host"].split(":")[0] for r in storage} == {host or "127.0.0.1"}
    assert asked(hub, "GET") == [f"GET {name}{'?signature=1' if host else ''}" for name in FILES]
    for request in hub.requests:
        assert ("authorization" in request.headers) is (sent or request not in storage)


def test_a_redirected_download_resumes(hub, spec):
    hub.faults += [Redirect("localhost"), CutAfter(12_345, file="*.safetensors", times=1)]
    pull(spec)
    verify_weights(spec)
    assert ranges(hub) == [None, None, "bytes=12000-", None]


# ---- checked once, and again when something has changed ------------------------------------------


def test_a_file_is_read_through_once(hub, spec, reads):
    pull(spec)
    assert reads.count("motion.safetensors") <= 2  # as it arrives, and in its place
    reads.clear()
    for _ in range(2):
        fetch_weights(spec)
        pull(spec)
    assert reads == []
    place(hub, "motion.safetensors").touch()
    fetch_weights(spec)
    fetch_weights(spec)
    assert reads == ["motion.safetensors"]


def test_everything_is_read_through_to_verify(hub, spec, reads):
    pull(spec)
    for _ in range(2):
        reads.clear()
        verify_weights(spec)
        assert reads == list(FILES)
    path = place(hub, "motion.safetensors")
    facts = path.stat()
    path.write_bytes(DATA[::-1])
    os.utime(path, ns=(facts.st_atime_ns, facts.st_mtime_ns))
    fetch_weights(spec)  # size and time are the same
    error = failed(spec, verify_weights)
    assert error.message.startswith(f"{path}: sha256 {sha256(DATA[::-1])[:12]}... instead of ")
    assert error.hint == "seg2vid weights pull toy downloads it again"


@pytest.mark.parametrize(
    ("data", "says"),
    [
        (DATA[::-1], f"sha256 {sha256(DATA[::-1])[:12]}... instead of {sha256(DATA)[:12]}..."),
        (DATA[:-1], f"{len(DATA) - 1} bytes instead of {len(DATA)}"),
        (DATA + b"!", f"{len(DATA) + 1} bytes instead of {len(DATA)}"),
        (b"", f"0 bytes instead of {len(DATA)}"),
    ],
    ids=["edited", "cut short", "longer", "emptied"],
)
def test_a_file_that_changed_in_the_cache_is_noticed_and_repaired(hub, spec, data, says):
    pull(spec)
    path = place(hub, "motion.safetensors")
    edit(path, data)
    damaged = state(hub.cache)
    hub.requests.clear()
    for call in (fetch_weights, verify_weights):
        error = failed(spec, call)
        assert error.message == f"{path}: {says}"
        assert error.hint == "seg2vid weights pull toy downloads it again"
    assert hub.requests == []
    hub.faults.append(Status(500))
    failed(spec)
    assert state(hub.cache) == damaged  # until there is something better
    hub.faults.clear()
    hub.requests.clear()
    pull(spec)
    verify_weights(spec)
    assert asked(hub, "GET") == ["GET motion.safetensors"]
    assert ranges(hub) == [None]
    assert incomplete(hub) == []


@pytest.mark.parametrize("text", [None, "", "[1]", "{", '{"a": "b"}', "\x00"])
def test_without_notes_on_what_was_checked_files_are_read_through(hub, spec, reads, text):
    pull(spec)
    (path,) = map(Path, notes(hub))
    path.unlink() if text is None else path.write_text(text)
    reads.clear()
    fetch_weights(spec)
    fetch_weights(spec)
    assert reads == list(FILES)


def test_notes_know_the_hash_that_was_found(hub, spec):
    """Another entry for the same file is not taken for checked."""
    pull(spec)
    other = spec_of(hub.revision, {**FILES, "motion.safetensors": DATA[::-1]})
    assert "sha256" in failed(other, fetch_weights).message
    fetch_weights(spec)


# ---- downloads that break ------------------------------------------------------------------------


@pytest.mark.parametrize("n_bytes", [PIECE, 12_345, len(DATA) - 1])
@pytest.mark.parametrize("ignore", [False, True])
def test_a_download_that_broke_goes_on_in_the_next_call(hub, spec, n_bytes, ignore):
    pull(spec_of(hub.revision, {"README.md": FILES["README.md"]}))
    before = state(hub.cache)
    weights = "*.safetensors"
    hub.faults += [CutAfter(n_bytes, file=weights, times=1), CutAfter(0, file=weights)]
    error = failed(spec)
    assert error.message.startswith(
        f"weights 'toy': motion.safetensors: the download from {hub.url} failed: peer closed "
    )
    assert error.hint == (
        "check network, proxy and HF_ENDPOINT, then try again; what is complete is kept"
    )
    kept = n_bytes // PIECE * PIECE
    assert incomplete(hub) == [kept]
    assert installed_files(spec) is None
    assert before.items() <= state(hub.cache).items()
    hub.faults[:] = [IgnoreRange()] * ignore
    hub.requests.clear()
    pull(spec)
    assert asked(hub, "GET") == ["GET motion.safetensors"]
    assert ranges(hub) == [f"bytes={kept}-"]
    assert incomplete(hub) == []
    verify_weights(spec)


@pytest.mark.parametrize("n_bytes", [0, PIECE - 1])
def test_a_download_that_broke_at_once_starts_again(hub, spec, n_bytes):
    hub.faults.append(CutAfter(n_bytes, file="*.safetensors"))
    failed(spec)
    assert sum(incomplete(hub)) == 0
    hub.faults.clear()
    hub.requests.clear()
    pull(spec)
    assert ranges(hub) == [None, None]
    assert incomplete(hub) == []


def test_a_download_that_broke_at_once_leaves_nothing(hub, spec):
    hub.faults.append(CutAfter(0, file="*.safetensors"))
    failed(spec)
    assert incomplete(hub) == []


def test_a_connection_that_is_reset(hub, spec):
    hub.faults.append(CutAfter(12_345, file="*.safetensors", reset=True))
    assert "Connection reset by peer" in failed(spec).message
    hub.faults.clear()
    pull(spec)
    verify_weights(spec)
    assert incomplete(hub) == []


def test_a_server_that_falls_silent(hub, spec, monkeypatch):
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_DOWNLOAD_TIMEOUT", 0.1)
    weights = "*.safetensors"
    hub.faults += [Stall(5000, 60, file=weights, times=1), Stall(0, 60, file=weights)]
    assert failed(spec).message.endswith("timed out")
    assert incomplete(hub) == [5000]
    hub.faults.clear()
    pull(spec)
    assert ranges(hub)[-2:] == ["bytes=5000-", None]


def test_a_process_that_is_killed_has_left_whole_pieces(hub, monkeypatch):
    """With the library's own pieces of 10 MiB."""
    big = {"motion.safetensors": bytes(range(256)) * 100_000}
    spec = spec_of(hub.add_repo("owner/name", big), big)
    hub.faults.append(Stall(22_000_000, 60, times=1))
    puller = process(hub, spec)
    deadline = time.monotonic() + 30
    while sum(incomplete(hub)) < 20 * 2**20 and time.monotonic() < deadline:
        hub.stopping.wait(0.02)
    puller.kill()
    assert puller.communicate() == ("", "")
    assert incomplete(hub) == [20 * 2**20]
    assert installed_files(spec) is None
    hub.requests.clear()
    monkeypatch.setattr("huggingface_hub.constants.DOWNLOAD_CHUNK_SIZE", 10 * 2**20)
    (path,) = pull(spec)
    assert ranges(hub) == [f"bytes={20 * 2**20}-"]
    assert path.read_bytes() == big["motion.safetensors"]
    assert incomplete(hub) == []


def test_a_part_that_was_damaged_is_thrown_away(hub, spec):
    hub.faults += [CutAfter(5000, file="*.safetensors", times=1), CutAfter(0, file="*.safetensors")]
    failed(spec)
    (part,) = hub.cache.rglob("*.incomplete")
    part.write_bytes(bytes(5000))
    hub.faults.clear()
    error = failed(spec)
    assert "sha256" in error.message
    assert error.hint.startswith("what arrived was deleted; try again")
    assert incomplete(hub) == []
    pull(spec)
    verify_weights(spec)


@pytest.mark.parametrize("size", [len(DATA), len(DATA) + 7])
def test_a_part_of_the_whole_size_or_more(hub, spec, size):
    pull(spec)
    part = hub.cache / f"models--owner--name/blobs/{sha256(DATA)}.seg2vid.incomplete"
    place(hub, "motion.safetensors").unlink()
    (part.parent / sha256(DATA)).unlink()
    part.write_bytes((DATA + bytes(7))[:size])
    hub.requests.clear()
    pull(spec)
    assert ranges(hub) == ([] if size == len(DATA) else [None])
    verify_weights(spec)
    assert incomplete(hub) == []


@pytest.mark.parametrize("longer", [7, 2_000_000])
def test_a_body_that_was_too_long_leaves_nothing(hub, spec, longer):
    hub.faults.append(WrongSize(longer, file="*.safetensors"))
    failed(spec)
    assert incomplete(hub) == []
    assert sum(path.stat().st_size for path in hub.home.rglob("*") if path.is_file()) < len(DATA)
    hub.faults.clear()
    hub.requests.clear()
    pull(spec)
    assert ranges(hub) == [None, None]
    verify_weights(spec)


# ---- answers that are errors, or wrong -----------------------------------------------------------

ACCESS = ("hf auth login", "HF_TOKEN")
LATER = ("try again later",)
OLD = ("look whether seg2vid is up to date",)
CHANGED = ("what arrived was deleted; try again", "HF_ENDPOINT", "owner/name has been changed")
RETRY = ("check network, proxy and HF_ENDPOINT", "try again")
ODD = ("check HF_ENDPOINT and proxy",)
RIGHT = sha256(NEWER["motion.safetensors"])[:12]
WRONG = sha256(NEWER["motion.safetensors"].translate(bytes(range(255, -1, -1))))[:12]
FAULTS = [
    (Status(401), "{hub} refuses access to owner/name (401)", ACCESS),
    (Status(401, message=BAD_TOKEN), "{hub} refuses access to owner/name (401)", ACCESS),
    (Status(403), "{hub} refuses access to owner/name (403)", ACCESS),
    (Status(403, error_code=None), "{hub} refuses access to owner/name (403)", ACCESS),
    (Status(404), "owner/name on {hub} has no such file", OLD),
    (Status(404, error_code="RevisionNotFound"), "owner/name on {hub} has no such revision", OLD),
    (Status(404, error_code="RepoNotFound"), "{hub} knows no owner/name (404)", ACCESS),
    (Status(429), "{hub} has had too many requests (429)", ("wait some minutes", "hf auth login")),
    (Status(500), "{hub} has trouble (500)", LATER),
    (Status(502), "{hub} has trouble (502)", LATER),
    (Status(401, methods=("GET",)), "{hub} refuses access to owner/name (401)", ACCESS),
    (Status(404, methods=("GET",)), "owner/name on {hub} has no such file", OLD),
    (Status(429, methods=("GET",)), "{hub} has had too many requests (429)", ("wait",)),
    (Status(503, methods=("GET",)), "{hub} has trouble (503)", LATER),
    (WrongBytes(), f"sha256 {WRONG}... instead of {RIGHT}...", CHANGED),
    (WrongSize(-10), f"size {len(DATA)} but has size {len(DATA) - 10} ", RETRY),
    (WrongSize(10), f"the server sends more than {len(DATA)} bytes", ("try again", "HF_ENDPOINT")),
    (
        WrongSize(-10, announced=True),
        f"motion.safetensors: is {len(DATA) - 10} bytes on the server instead of {len(DATA)}",
        CHANGED[1:],
    ),
    (Headers({"X-Repo-Commit": "0" * 40}), f"gave commit {'0' * 40} instead of {{revision}}", ODD),
    (Headers({"X-Repo-Commit": None}), "gave commit None instead of {revision}", ODD),
]


@pytest.mark.parametrize(("fault", "says", "hint"), FAULTS, ids=lambda value: str(value)[:60])
def test_an_error_is_explained_and_good_files_stay_as_they_are(hub, spec, fault, says, hint):
    pull(spec)
    before = state(hub.cache)
    newer = spec_of(hub.add_repo("owner/name", NEWER), NEWER, name="newer")
    damaged = place(hub, "README.md", newer.revision)  # one that the user has spoilt
    damaged.parent.mkdir()
    damaged.write_bytes(b"spoilt")
    fault.file, fault.used = "*.safetensors", 0
    hub.faults.append(fault)
    hub.requests.clear()
    error = failed(newer)
    assert error.message.startswith("weights 'newer': motion.safetensors: ")
    assert says.format(hub=hub.url, revision=newer.revision) in error.message
    for words in hint:
        assert words in error.hint
    assert before.items() <= state(hub.cache).items()
    assert damaged.read_bytes() == b"spoilt"
    assert not place(hub, "motion.safetensors", newer.revision).exists()
    assert installed_files(newer) is None
    short = isinstance(fault, WrongSize) and fault.difference < 0 and not fault.announced
    assert incomplete(hub) == [len(DATA) - 10] * short
    fetch_weights(spec)
    hub.faults.clear()
    pull(newer)
    verify_weights(newer)
    verify_weights(spec)
    assert incomplete(hub) == []


@pytest.mark.parametrize("fault", [CutAfter(10), Status(429, methods=("GET",))], ids=str)
def test_nobody_else_speaks(hub, spec, fault):
    lines = []
    handler = logging.Handler()
    handler.emit = lambda record: lines.append(record.getMessage())
    hub.faults.append(fault)
    logger = logging.getLogger("huggingface_hub")
    logger.addHandler(handler)
    try:
        failed(spec)
    finally:
        logger.removeHandler(handler)
    assert lines == []


@pytest.mark.parametrize(
    "fault",
    [Status(500), Status(404), Status(429), Headers({"X-Repo-Commit": "0" * 40})],
    ids=lambda fault: str(fault)[:60],
)
def test_what_the_first_request_shows_needs_no_second(hub, spec, fault):
    hub.faults.append(fault)
    failed(spec)
    assert asked(hub) == ["HEAD bundle.json"]
    assert not hub.cache.exists()


def test_the_server_is_gone_and_comes_back(hub, spec):
    hub.stop()
    error = failed(spec)
    assert error.message == (
        f"weights 'toy': bundle.json: the download from {hub.url} failed: "
        "[Errno 111] Connection refused"
    )
    assert error.hint.startswith("check network, proxy and HF_ENDPOINT, then try again")
    assert not hub.cache.exists()
    hub.start()
    pull(spec)


def test_offline(hub, spec, monkeypatch):
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_OFFLINE", True)
    error = failed(spec)
    assert error.message == (
        "weights 'toy': bundle.json: not on this machine, and HF_HUB_OFFLINE forbids to download"
    )
    assert error.hint == (
        f"unset HF_HUB_OFFLINE, or copy the cache of a machine that has the weights to {hub.cache}"
    )
    assert hub.requests == []
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_OFFLINE", False)
    pull(spec)
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_OFFLINE", True)
    hub.requests.clear()
    fetch_weights(spec)
    pull(spec)
    verify_weights(spec)
    assert hub.requests == []


# ---- tricks --------------------------------------------------------------------------------------


def tricky(etag, **options):
    return Headers({"ETag": etag, "X-Linked-Etag": etag}, file="*.safetensors", **options)


ETAGS = [
    '"../../../../escaped"',
    '"../x"',
    '"{folder}/escaped"',
    '"a/b"',
    '"a\\b"',
    '".."',
    '"."',
    '""',
    "W/",
    None,
    f'W/"{sha256(DATA)}"',
    f'"{sha256(DATA).upper()}"',
    f'"{sha256(DATA)}.seg2vid.incomplete"',
    f'"{"0" * 40}"',
    f'"{"0" * 64}"',
    f'"{"e" * 5000}"',
    f'"{git_oid(FILES["bundle.json"])}"',
    f'"{git_oid(FILES["README.md"])}"',
    f'"{sha256(DATA[::-1])}"',
]


@pytest.mark.parametrize("later", [0, 1])  # at once, or with the body only
@pytest.mark.parametrize("etag", ETAGS, ids=lambda etag: str(etag)[:30])
def test_no_file_goes_where_an_etag_points_to(hub, tmp_path, etag, later):
    """That of bytes which are not the file's, or of none at all, is no name for them."""
    reversed_ = {"README.md": FILES["README.md"], "other.safetensors": DATA[::-1]}
    pull(spec_of(hub.add_repo("owner/name", reversed_), reversed_))
    before = state(tmp_path)
    hub.faults.append(tricky(etag and etag.replace("{folder}", str(tmp_path)), after=later))
    spec = spec_of(hub.revision)
    assert {path.name: path.read_bytes() for path in pull(spec)} == FILES
    after = state(tmp_path)
    assert {path for path in before if before[path] != after.get(path)} <= set(notes(hub))
    blobs = hub.cache / "models--owner--name" / "blobs"
    blob = blobs / sha256(DATA)
    assert place(hub, "motion.safetensors").resolve() == blob.resolve()
    assert not blob.is_symlink()
    new = {blob, blobs / git_oid(FILES["bundle.json"]), *(place(hub, name) for name in FILES)}
    found = {Path(path) for path in after.keys() - before.keys()}
    assert {path for path in found if path.suffix != ".lock"} == new
    assert {path.parent for path in found - new} == {hub.cache / ".locks" / blobs.parent.name}
    hub.faults.clear()
    hub.requests.clear()
    verify_weights(spec)
    fetch_weights(spec)
    assert hub.requests == []


def test_the_etag_that_git_has_for_the_bytes_is_their_name(hub, spec):
    hub.faults.append(tricky(f'"{git_oid(DATA)}"'))
    pull(spec)
    assert place(hub, "motion.safetensors").resolve().name == git_oid(DATA)
    verify_weights(spec)


@pytest.mark.parametrize("name", [sha256(DATA), git_oid(DATA)])
def test_a_blob_of_the_right_name_is_checked_before_it_is_used(hub, spec, name):
    blobs = hub.cache / "models--owner--name" / "blobs"
    blobs.mkdir(parents=True)
    (blobs / name).write_bytes(DATA[::-1])
    hub.faults.append(tricky(f'"{name}"'))
    pull(spec)
    assert asked(hub, "GET") == [f"GET {name}" for name in FILES]
    verify_weights(spec)


ENTRY = """
["{key}"]
title = "Toy"
stages = {{ motion = "seg2vid-flow" }}
labels = "none"
native_size = "64x32"
license = "CC0-1.0"
source = "nothing"
repo_id = "{repo_id}"
revision = "{revision}"
files = [{{ name = "{name}", size_bytes = 1, sha256 = "{digest}" }}]
"""


@pytest.mark.parametrize(
    ("field", "value"),
    [
        *(("key", value) for value in ("../toy", "a/b", "..", ".hidden", "Toy", "")),
        *(("name", v) for v in ("../x", "a/b", "..", ".", "/etc/passwd", "a\\\\b", "", ".x")),
        *(("repo_id", v) for v in ("../name", "owner/..", "owner", "a/b/c", "/name", "owner/")),
        *(("revision", v) for v in ("main", "../" * 13 + "x", "0" * 39, "0" * 41, "G" * 40)),
        *(("digest", v) for v in ("0" * 63, "../" * 21 + "x", "G" * 64)),
    ],
)
def test_an_entry_cannot_name_paths(field, value):
    good = {
        "key": "toy",
        "name": "motion.safetensors",
        "repo_id": "owner/name",
        "revision": "0" * 40,
        "digest": "0" * 64,
    }
    for own in (False, True):
        parse_registry(ENTRY.format(**good), name="weights.toml", own=own)
        with pytest.raises(WeightsError, match=r"^weights\.toml: \["):
            parse_registry(ENTRY.format(**{**good, field: value}), name="weights.toml", own=own)


# ---- the disk ------------------------------------------------------------------------------------


def test_too_little_space_is_found_out_before_the_download(hub, spec, monkeypatch):
    pull(spec_of(hub.revision, {"README.md": FILES["README.md"]}))
    hub.requests.clear()
    usage = shutil.disk_usage(hub.cache)
    monkeypatch.setattr(
        weights_hub.shutil, "disk_usage", lambda path: usage._replace(free=len(DATA) - 1)
    )
    error = failed(spec)
    assert error.message == (
        f"weights 'toy': motion.safetensors: no space left for it in {hub.cache}"
    )
    assert error.hint == "free some space, or move the cache with HF_HOME=DIR"
    assert asked(hub, "GET") == ["GET bundle.json"]
    monkeypatch.undo()


@pytest.mark.parametrize("number", [errno.ENOSPC, errno.EDQUOT, errno.EFBIG])
def test_the_disk_fills_up_during_the_download(hub, spec, monkeypatch, number):
    pull(spec_of(hub.revision, {"README.md": FILES["README.md"]}))
    before = state(hub.cache)
    http_get = huggingface_hub.file_download.http_get

    class Full:
        def __init__(self, stream):
            self.stream = stream

        def __getattr__(self, name):
            return getattr(self.stream, name)

        def write(self, data):
            if self.stream.tell() >= 3 * PIECE:
                raise OSError(number, os.strerror(number))
            return self.stream.write(data)

    monkeypatch.setattr(
        "huggingface_hub.file_download.http_get",
        lambda url, stream, **options: http_get(url, Full(stream), **options),
    )
    error = failed(spec)
    assert error.message == (
        f"weights 'toy': motion.safetensors: no space left for it in {hub.cache}"
    )
    assert error.hint == "free some space, or move the cache with HF_HOME=DIR"
    assert before.items() <= state(hub.cache).items()
    assert not place(hub, "motion.safetensors").exists()
    assert incomplete(hub) == [3 * PIECE]
    monkeypatch.setattr("huggingface_hub.file_download.http_get", http_get)
    hub.requests.clear()
    pull(spec)
    assert ranges(hub) == [f"bytes={3 * PIECE}-"]
    assert incomplete(hub) == []


@contextmanager
def not_allowed_to_write(folder):
    """Take the right to write away, also from root."""
    paths = [folder, *(path for path in folder.rglob("*") if not path.is_symlink())]
    modes = [path.stat().st_mode for path in paths]
    root = os.geteuid() == 0
    try:
        for path, mode in zip(paths, modes, strict=True):
            path.chmod((mode | 0o555 if path.is_dir() else mode | 0o444) & ~0o222)
        if root:
            os.seteuid(65534)
        yield
    finally:
        if root:
            os.seteuid(0)
        for path, mode in zip(paths, modes, strict=True):
            path.chmod(mode)


@pytest.mark.skipif(os.name == "nt", reason="other rights")
def test_a_cache_that_cannot_be_written_to(hub, spec, monkeypatch, reads):
    with tempfile.TemporaryDirectory() as folder:  # pytest's own are for their owner only
        home = Path(folder) / "home"
        cache = home / "hub"
        monkeypatch.setattr("huggingface_hub.constants.HF_HUB_CACHE", str(cache))
        assets = str(home / "assets")
        monkeypatch.setattr("huggingface_hub.utils._cache_assets.HF_ASSETS_CACHE", assets)
        monkeypatch.setattr("huggingface_hub.constants.HF_TOKEN_PATH", str(home / "token"))
        pull(spec)
        next(home.rglob("checked.json")).unlink()
        Path(folder).chmod(0o755)
        before = state(home)
        other = spec_of(hub.add_repo("owner/other", FILES), repo_id="owner/other", name="other")
        hub.requests.clear()
        with not_allowed_to_write(home):
            reads.clear()
            for _ in range(2):
                fetch_weights(spec)
                pull(spec)
            assert reads == 4 * list(FILES)
            assert hub.requests == []
            error = failed(other)
        assert error.message.startswith(f"weights 'other': bundle.json: {cache}/")
        assert error.message.endswith(": Permission denied")
        assert error.hint == "HF_HOME=DIR moves the cache"
        assert state(home) == before


@pytest.mark.parametrize("number", [errno.EROFS, errno.ENOTDIR, errno.ENAMETOOLONG])
def test_other_errors_of_the_disk_do_not_speak_of_the_network(hub, spec, monkeypatch, number):
    make = Path.mkdir

    def mkdir(path, *args, **options):
        if hub.cache in path.parents:
            raise OSError(number, os.strerror(number), str(path))
        make(path, *args, **options)

    monkeypatch.setattr(Path, "mkdir", mkdir)
    error = failed(spec)
    assert str(hub.cache) in error.message
    assert error.message.endswith(os.strerror(number))
    assert "HF_HOME" in error.hint
    assert "network" not in error.hint


# ---- several at once -----------------------------------------------------------------------------


def test_two_processes_download_every_file_once(hub, spec):
    hub.faults.append(Slow(0.4, methods=("GET",), file="*.safetensors"))
    pullers = [process(hub, spec) for _ in range(2)]
    for puller in pullers:
        assert puller.communicate(timeout=60) == ("", "")
        assert puller.returncode == 0
    gets = [line for line in asked(hub, "GET") if line != "GET agent-harnesses"]
    assert gets == [f"GET {name}" for name in FILES]
    verify_weights(spec)
    assert incomplete(hub) == []


def test_a_process_that_waits_takes_what_the_other_has_brought(hub, spec):
    slow = Slow(1, methods=("GET",), file="*.safetensors", times=1)
    hub.faults.append(slow)
    puller = process(hub, spec)
    while not slow.used and puller.poll() is None:
        hub.stopping.wait(0.01)
    hub.requests.clear()
    pull(spec)
    assert puller.communicate(timeout=60) == ("", "")
    verify_weights(spec)
    assert "GET motion.safetensors" not in asked(hub)


# ---- removing ------------------------------------------------------------------------------------


def test_what_was_downloaded_can_be_removed(hub, spec):
    assert remove_weights(spec) == 0
    pull(spec)
    changed = {**FILES, "README.md": b"# Toy, again\n"}
    newer = spec_of(hub.add_repo("owner/name", changed), changed)
    pull(newer)
    assert remove_weights(newer) == len(changed["README.md"])  # the rest belongs to both
    assert installed_files(newer) is None
    verify_weights(spec)
    assert remove_weights(spec) == sum(map(len, FILES.values()))
    assert installed_files(spec) is None
    assert remove_weights(spec) == 0
    pull(spec)
    verify_weights(spec)


def test_a_part_of_a_download_is_removed_too(hub, spec):
    hub.faults += [CutAfter(5000, times=1), CutAfter(0)]
    failed(spec_of(hub.revision, {"motion.safetensors": DATA}))
    assert incomplete(hub) == [5000]
    assert remove_weights(spec) == 5000
    assert incomplete(hub) == []


def test_removing_what_is_not_there_is_silent(hub, spec):
    pull(spec)
    lines = []
    handler = logging.Handler()
    handler.emit = lambda record: lines.append(record.getMessage())
    logger = logging.getLogger("huggingface_hub")
    logger.addHandler(handler)
    try:
        remove_weights(spec_of("0" * 40))
    finally:
        logger.removeHandler(handler)
    assert lines == []


def test_a_cache_that_cannot_be_removed(hub, spec, monkeypatch):
    pull(spec)

    def read_only(path, *args, **options):
        raise OSError(errno.EROFS, os.strerror(errno.EROFS), str(path))

    monkeypatch.setattr("shutil.rmtree", read_only)
    assert "could not be deleted" in failed(spec, remove_weights).message


def test_what_was_not_downloaded_is_not_removed(tmp_path):
    folder = spec_of("", origin="folder", repo_id="", path=str(tmp_path))
    for spec, hint in (
        (find_weights("street"), "they are part of the package"),
        (folder, f"delete the folder yourself: {tmp_path}"),
        (find_weights("seg2vid-kth"), "nothing on this machine but the entry"),
    ):
        with pytest.raises(InputError, match="are not a download") as caught:
            remove_weights(spec)
        assert hint in caught.value.hint
