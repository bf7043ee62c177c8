"""The local Hub, as huggingface_hub sees it."""

from __future__ import annotations

import http.client
import os
import subprocess
import sys
import threading
import time
from pathlib import Path

import huggingface_hub
import pytest
from hub_server import (
    BAD_TOKEN,
    CutAfter,
    Headers,
    HubServer,
    IgnoreRange,
    Redirect,
    Slow,
    Stall,
    Status,
    WrongBytes,
    WrongSize,
)
from huggingface_hub import HfApi, hf_hub_download, snapshot_download
from huggingface_hub import errors as hf

BIG = bytes(range(256)) * 50_000  # more than the 10 MiB that huggingface_hub reads at once
FILES = {"bundle.json": b"{}", "README.md": b"# Read me\n", "big.safetensors": BIG, "a/b.txt": b"b"}


@pytest.fixture(autouse=True)
def _library(monkeypatch):
    """No Xet, no waiting between attempts, no question to huggingface.co about agents."""
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_DISABLE_XET", True)
    monkeypatch.setattr("huggingface_hub.utils._detect_agent._registry", {}, raising=False)
    monkeypatch.setattr(time, "sleep", lambda seconds: None)
    yield
    huggingface_hub.close_session()


@pytest.fixture
def hub():
    with HubServer() as server:
        server.revision = server.add_repo("owner/name", FILES)
        yield server


@pytest.fixture
def download(hub, tmp_path):
    """Download into an empty cache and return the bytes."""

    def run(file="big.safetensors", repo="owner/name", **options) -> bytes:
        options = {"revision": hub.revision, "token": False, "cache_dir": tmp_path} | options
        return Path(hf_hub_download(repo, file, endpoint=hub.url, **options)).read_bytes()

    return run


def test_files_arrive_and_a_pinned_one_is_asked_for_once(hub, download):
    for name, data in FILES.items():
        assert download(name) == data
    asked = len(hub.requests)
    assert download() == BIG
    assert len(hub.requests) == asked
    assert download(revision="main") == BIG
    assert download(force_download=True) == BIG
    method, path, headers = hub.requests[0]
    assert (method, path) == ("HEAD", f"/owner/name/resolve/{hub.revision}/bundle.json")
    assert headers["accept-encoding"] == "identity"
    sent = [line.split()[0] for line in hub.sent("*/big.safetensors")]
    assert sent == ["HEAD", "GET", "HEAD", "HEAD", "GET"]


def test_a_snapshot_and_what_the_api_tells(hub, tmp_path):
    folder = snapshot_download("owner/name", endpoint=hub.url, cache_dir=tmp_path, token=False)
    assert Path(folder).name == hub.revision
    assert (Path(folder) / "a/b.txt").read_bytes() == b"b"
    api = HfApi(endpoint=hub.url, token=False)
    assert sorted(api.list_repo_files("owner/name")) == sorted(FILES)
    assert api.model_info("owner/name", files_metadata=True).sha == hub.revision
    assert [entry.path for entry in api.list_repo_tree("owner/name", "a")] == ["a/b.txt"]
    assert api.list_repo_refs("owner/name").branches[0].target_commit == hub.revision
    assert not api.file_exists("owner/name", "none")
    assert not api.repo_exists("owner/none")


def test_a_revision_can_be_given_and_older_ones_stay(hub, download):
    assert hub.add_repo("owner/name", {"bundle.json": b"[]"}, "12ab" * 10) == "12ab" * 10
    assert download("bundle.json", revision="main") == b"[]"
    assert download("bundle.json") == b"{}"


@pytest.mark.parametrize("ignore", [False, True])
def test_a_cut_download_goes_on_where_it_can(hub, download, ignore):
    hub.faults += [CutAfter(11_000_000, times=1)] + [IgnoreRange()] * ignore
    assert download() == BIG
    first, second = [request for request in hub.requests if request.method == "GET"]
    assert "range" not in first.headers
    assert second.headers["range"] == f"bytes={10 * 2**20}-"


def test_connections_that_always_break(hub, download, tmp_path):
    hub.faults += [CutAfter(1000)]
    with pytest.raises(Exception, match="peer closed connection"):
        download()
    assert len(hub.sent(method="GET")) == 6
    hub.faults[:] = [CutAfter(1000, reset=True)]
    with pytest.raises(Exception, match="reset by peer"):
        download()
    assert not list(tmp_path.rglob("*.incomplete"))
    hub.faults.clear()
    assert download() == BIG


def test_ranges(hub):
    connection = http.client.HTTPConnection(*hub.url.removeprefix("http://").split(":"))
    path = f"/owner/name/resolve/{hub.revision}/big.safetensors"
    for asked, status, told, body in (
        ("bytes=10-", 206, f"bytes 10-{len(BIG) - 1}/{len(BIG)}", BIG[10:]),
        ("bytes=10-19", 206, f"bytes 10-19/{len(BIG)}", BIG[10:20]),
        ("bytes=-5", 206, f"bytes {len(BIG) - 5}-{len(BIG) - 1}/{len(BIG)}", BIG[-5:]),
        (f"bytes={len(BIG)}-", 416, f"bytes */{len(BIG)}", None),
    ):
        connection.request("GET", path, headers={"Range": asked})
        answer = connection.getresponse()
        got = answer.read()
        assert (answer.status, answer.headers["Content-Range"]) == (status, told)
        assert body is None or got == body
    connection.close()


@pytest.mark.parametrize(
    ("fault", "error", "requests"),
    [
        (Status(401), hf.RepositoryNotFoundError, 1),
        (Status(401, message=BAD_TOKEN), hf.HfHubHTTPError, 1),
        (Status(403), hf.GatedRepoError, 1),
        (Status(403, error_code=None), hf.LocalEntryNotFoundError, 1),
        (Status(404), hf.RemoteEntryNotFoundError, 1),
        (Status(404, error_code="RevisionNotFound"), hf.RevisionNotFoundError, 1),
        (Status(429), hf.LocalEntryNotFoundError, 7),
        (Status(500), hf.LocalEntryNotFoundError, 7),
        (Status(503, methods=("GET",)), hf.HfHubHTTPError, 2),
        (WrongSize(-10), OSError, 2),
        (WrongSize(10), OSError, 2),
    ],
)
def test_errors_are_those_of_the_hub(hub, download, fault, error, requests):
    fault.used = 0
    hub.faults.append(fault)
    with pytest.raises(error) as caught:
        download()
    assert caught.type is error
    assert len(hub.requests) == requests
    hub.faults.clear()
    assert download() == BIG


def test_what_is_not_there(download):
    with pytest.raises(hf.RemoteEntryNotFoundError):
        download("none")
    with pytest.raises(hf.RevisionNotFoundError):
        download(revision="0" * 40)
    with pytest.raises(hf.RepositoryNotFoundError):
        download(repo="owner/none")


def test_faults_end_and_keep_to_their_files(hub, download):
    hub.faults.append(Status(500, file="*.json", methods=("HEAD",), times=1))
    assert download() == BIG
    assert hub.faults[0].used == 0
    assert download("bundle.json") == b"{}"
    assert len(hub.sent("*.json", "HEAD")) == 2


def test_faults_that_come_later(hub, download):
    hub.faults.append(Status(404, after=1, times=1))
    with pytest.raises(hf.RemoteEntryNotFoundError):
        download()  # the first request, HEAD, passes
    assert len(hub.requests) == 2
    assert download() == BIG


def test_other_headers(hub, download):
    hub.faults.append(Headers({"ETag": '"other"', "X-Linked-Etag": None}, times=1))
    assert download() == BIG
    hub.faults[:] = [Headers({"X-Repo-Commit": None})]
    with pytest.raises(hf.LocalEntryNotFoundError, match="X-Repo-Commit"):
        download("bundle.json")


def test_other_content_and_other_sizes_that_nothing_gives_away(hub, download):
    hub.faults.append(WrongBytes())
    wrong = download()
    assert len(wrong) == len(BIG)
    assert wrong != BIG
    hub.faults[:] = [WrongSize(-10, announced=True)]
    assert download(force_download=True) == BIG[:-10]


@pytest.mark.parametrize(("host", "token_sent"), [(None, True), ("localhost", False)])
def test_a_redirect_takes_the_token_along_on_this_host_only(hub, download, host, token_sent):
    hub.faults.append(Redirect(host))
    assert download(token=hub.read_token) == BIG
    assert hub.requests[-1].path.startswith("/cdn/owner/name/")
    assert ("authorization" in hub.requests[-1].headers) is token_sent


def test_private_repositories_and_tokens(hub, download):
    revision = hub.add_repo("owner/secret", {"bundle.json": b"{}"}, private=True)
    secret = {"repo": "owner/secret", "file": "bundle.json", "revision": revision}
    with pytest.raises(hf.RepositoryNotFoundError):
        download(**secret)
    assert download(**secret, token=hub.read_token) == b"{}"
    with pytest.raises(hf.HfHubHTTPError, match="401"):
        download(token="hf_wrong")
    assert HfApi(endpoint=hub.url, token=hub.token).whoami()["name"] == hub.user
    with pytest.raises(hf.HfHubHTTPError, match="Invalid user token"):
        HfApi(endpoint=hub.url, token="hf_wrong").whoami()


# huggingface_hub hands its LFS uploads to httpx2 in a way that is deprecated there.
@pytest.mark.filterwarnings("ignore:Use 'content=:DeprecationWarning")
def test_publishing(hub, download, tmp_path):
    bundle = tmp_path / "bundle"
    bundle.mkdir()
    files = {
        "bundle.json": b'{"format": 1}',
        "README.md": b"---\nlicense: mit\n---\n# A model\n",
        "model.safetensors": BIG[:2_000_000],
    }
    for name, data in files.items():
        (bundle / name).write_bytes(data)
    api = HfApi(endpoint=hub.url, token=hub.token)
    for _ in range(2):
        assert api.create_repo("owner/new", exist_ok=True).repo_id == "owner/new"
    with pytest.raises(hf.HfHubHTTPError, match="409"):
        api.create_repo("owner/new")
    with pytest.raises(hf.HfHubHTTPError, match="403"):
        api.create_repo("stranger/new")
    for token, status in ((False, "401"), ("hf_wrong", "401"), (hub.read_token, "403")):
        with pytest.raises(hf.HfHubHTTPError, match=status):
            HfApi(endpoint=hub.url, token=token).create_repo("owner/other")
        with pytest.raises(hf.HfHubHTTPError, match=status):
            HfApi(endpoint=hub.url, token=token).upload_folder(
                repo_id="owner/new", folder_path=bundle
            )
    hub.faults.append(Status(500, file="/lfs/*", times=1))  # uploads are tried again
    first = api.upload_folder(repo_id="owner/new", folder_path=bundle).oid
    assert len(first) == 40
    assert len(hub.sent("/lfs/*", "PUT")) == 2
    for revision in (first, "main"):
        for name, data in files.items():
            assert download(name, repo="owner/new", revision=revision) == data
    assert api.upload_folder(repo_id="owner/new", folder_path=bundle).oid == first  # nothing new

    operations = [
        huggingface_hub.CommitOperationAdd("bundle.json", b"[]"),
        huggingface_hub.CommitOperationDelete("README.md"),
    ]
    commit = {"repo_id": "owner/new", "operations": operations, "commit_message": "Change"}
    with pytest.raises(hf.HfHubHTTPError, match="412"):
        api.create_commit(**commit, parent_commit="0" * 40)
    second = api.create_commit(**commit, parent_commit=first).oid
    assert hub.files("owner/new")["bundle.json"] == b"[]"
    assert "README.md" not in hub.files("owner/new", second)
    assert hub.files("owner/new", first)["README.md"] == files["README.md"]


def test_a_readme_without_a_header_is_warned_of(hub):
    api = HfApi(endpoint=hub.url, token=hub.token)
    readme = huggingface_hub.CommitOperationAdd("README.md", b"# A model\n")
    with pytest.warns(UserWarning, match="empty or missing yaml metadata"):
        api.create_commit("owner/name", operations=[readme], commit_message="Describe")


def test_waits(hub, download):
    hub.faults.append(Slow(30, methods=("HEAD",), times=1))
    with pytest.raises(ValueError, match="Force download failed") as caught:
        download(force_download=True, etag_timeout=0.2)
    assert "timed out" in str(caught.value.__cause__)
    hub.faults.append(Stall(1000, 0.3, times=1))
    start = time.monotonic()
    assert download() == BIG
    assert time.monotonic() - start >= 0.3


def test_the_server_goes_and_comes_back_where_it_was(hub, download):
    url, threads = hub.url, threading.active_count()
    assert download("bundle.json") == b"{}"
    hub.faults.append(Stall(0, 60, times=1))
    failed: list[BaseException] = []

    def fetch():
        try:
            download()
        except Exception as error:
            failed.append(error)

    thread = threading.Thread(target=fetch)
    thread.start()
    while not hub.faults[0].used:
        hub.stopping.wait(0.01)
    hub.stop()
    hub.stop()
    thread.join()
    assert len(failed) == 1
    assert threading.active_count() < threads
    with pytest.raises(hf.LocalEntryNotFoundError):
        download()
    hub.start()
    assert hub.url == url
    assert download() == BIG


def test_by_environment_variables(hub, tmp_path):
    """As a user's process finds it, with nothing left over from one to the next."""
    code = "from huggingface_hub import hf_hub_download as d; print(d('owner/name', 'a/b.txt'))"
    variables = {"HF_ENDPOINT": hub.url, "HF_HOME": str(tmp_path), "HF_HUB_DISABLE_XET": "1"}
    outer = {name: value for name, value in os.environ.items() if not name.startswith("HF_")}

    def run(**more):
        return subprocess.run(
            [sys.executable, "-c", code],
            env=outer | variables | more,
            capture_output=True,
            text=True,
            timeout=60,
        )

    first = run()
    assert first.returncode == 0, first.stderr
    assert Path(first.stdout.strip()).read_bytes() == b"b"
    asked = len(hub.requests)
    assert run(HF_HUB_OFFLINE="1").stdout == first.stdout
    assert len(hub.requests) == asked
    assert "LocalEntryNotFoundError" in run(HF_HUB_OFFLINE="1", HF_HOME=str(tmp_path / "b")).stderr
