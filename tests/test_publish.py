"""A bundle's folder to the Hub and to an entry, and back."""

from __future__ import annotations

import json
import shutil

import pytest
from hub_server import Status, hub_in_place
from test_hub import incomplete

from seg2vid_cli.errors import CheckpointError, InputError, WeightsError
from seg2vid_cli.weights.hub import pull_weights
from seg2vid_cli.weights.load import open_bundle, read_bundle
from seg2vid_cli.weights.publish import describe_bundle, publish_bundle
from seg2vid_cli.weights.registry import add_entries, describe_file, format_entry, parse_registry

CARD = """---
license: other
license_name: CC0-1.0
title: "A toy"
source: 'nothing at all'
tags:
- toy
empty:
---
# Model card: `tiny`

title: not this one
"""
NAMES = ["bundle.json", *(f"{s}.safetensors" for s in ("first_frame", "motion", "refine"))]
# huggingface_hub hands its LFS uploads to httpx2 in a way that is deprecated there.
pytestmark = pytest.mark.filterwarnings("ignore:Use 'content=:DeprecationWarning")


@pytest.fixture
def hub(tmp_path, monkeypatch):
    with hub_in_place(tmp_path / "home", monkeypatch) as server:
        yield server


@pytest.fixture
def folder(tiny_bundle, tmp_path):
    """A bundle with a model card, and something that does not belong to it."""
    folder = tmp_path / "tiny"
    shutil.copytree(tiny_bundle, folder)
    (folder / "README.md").write_text(CARD)
    (folder / "notes.txt").write_text("private")
    return folder


@pytest.fixture
def signed_in(hub, monkeypatch):
    monkeypatch.setenv("HF_TOKEN", hub.token)
    return hub


def contents(folder):
    return {path.name: path.read_bytes() for path in folder.iterdir() if path.name != "notes.txt"}


# ---- describing ----------------------------------------------------------------------------------


def test_a_bundle_is_described_by_its_files_and_its_card(folder):
    spec = describe_bundle(folder)
    assert (spec.name, spec.title, spec.source) == ("tiny", "A toy", "nothing at all")
    assert spec.license == "CC0-1.0"
    assert (spec.labels, spec.native_size, spec.fps) == ("cityscapes-20", "64x32", 10.0)
    assert spec.stages == {
        "first_frame": "label-unet",
        "motion": "seg2vid-flow",
        "refine": "seg2vid-refine",
    }
    assert (spec.origin, spec.path) == ("folder", str(folder))
    assert spec.files == tuple(describe_file(folder / name) for name in [*NAMES, "README.md"])
    entry = format_entry(spec)
    assert parse_registry(entry, name="entry", own=True) == {"tiny": spec}


@pytest.mark.parametrize(
    "card", [None, "# No front matter\n", "---\nlicense: x\n", "", "\n---\n---\n"]
)
def test_what_the_card_does_not_say(folder, card):
    path = folder / "README.md"
    path.unlink() if not card else path.write_text(card)
    spec = describe_bundle(folder, name="other-name")
    assert (spec.name, spec.title) == ("other-name", "Weights tiny")
    assert (spec.license, spec.source) == ("not stated", "a bundle named tiny")
    assert [file.name for file in spec.files] == NAMES + ["README.md"] * bool(card)


def test_a_licence_without_a_name_of_its_own(folder):
    (folder / "README.md").write_text("---\nlicense: mit\n---\n")
    assert describe_bundle(folder).license == "mit"


def test_a_bundle_without_motion_has_no_rate(painter_bundle):
    spec = describe_bundle(painter_bundle)
    assert spec.fps is None
    assert "fps" not in format_entry(spec)
    assert parse_registry(format_entry(spec), name="entry", own=True) == {"painter": spec}


@pytest.mark.parametrize("name", ["Toy", "a/b", "../a", "a b", '"', "a\nb"])
def test_a_name_that_cannot_be_one(folder, name):
    with pytest.raises(WeightsError):
        describe_bundle(folder, name=name)


def test_odd_characters_survive_an_entry(folder):
    title = 'quote " backslash \\ tab\t del\x7f umlaut ä # [x]'
    (folder / "README.md").write_text(f"---\ntitle: {title}\n---\n", encoding="utf-8")
    spec = describe_bundle(folder)
    assert spec.title == title
    assert parse_registry(format_entry(spec), name="entry", own=True)["tiny"].title == title


def cut(folder):
    path = folder / "motion.safetensors"
    path.write_bytes(path.read_bytes()[:-1])


def pickled(folder):
    (folder / "refine.safetensors").write_bytes(b"\x80\x04cos\nsystem\n(S'exit 1'\ntR.")


def other_planes(folder):
    data = json.loads((folder / "bundle.json").read_text())
    data["labels"] = "cityscapes-35"
    (folder / "bundle.json").write_text(json.dumps(data))


def other_widths(folder):
    data = json.loads((folder / "bundle.json").read_text())
    data["stages"]["motion"]["config"]["latent_channels"] += 1
    (folder / "bundle.json").write_text(json.dumps(data))


@pytest.mark.parametrize(
    ("damage", "error"),
    [
        (cut, CheckpointError),
        (pickled, CheckpointError),
        (other_widths, CheckpointError),
        (other_planes, WeightsError),
        (lambda folder: (folder / "refine.safetensors").unlink(), WeightsError),
        (lambda folder: (folder / "bundle.json").write_text("{"), WeightsError),
        (lambda folder: (folder / "bundle.json").unlink(), InputError),
        (lambda folder: (folder / "README.md").unlink(), InputError),
        (lambda folder: (folder / "README.md").write_text(""), WeightsError),
    ],
)
def test_a_damaged_bundle_is_refused_before_anything_is_sent(signed_in, folder, damage, error):
    damage(folder)
    with pytest.raises(error) as caught:
        publish_bundle(folder, "owner/tiny")
    assert caught.type is error
    assert str(folder) in caught.value.message
    assert signed_in.requests == []


def test_a_missing_card_is_asked_for(signed_in, tiny_bundle):
    with pytest.raises(InputError, match=r"README\.md: missing") as caught:
        publish_bundle(tiny_bundle, "owner/tiny")
    assert caught.value.hint == "write a model card before publishing weights"
    assert signed_in.requests == []


# ---- publishing ----------------------------------------------------------------------------------


def test_what_is_published_comes_back(signed_in, folder):
    hub = signed_in
    spec = publish_bundle(folder, "owner/tiny")
    assert (spec.origin, spec.repo_id, spec.path) == ("hub", "owner/tiny", "")
    assert spec.revision == hub.repos["owner/tiny"].refs["main"]
    assert not hub.repos["owner/tiny"].private
    sent = hub.files("owner/tiny", spec.revision)
    sent.pop(".gitattributes")  # the Hub's own
    assert sent == contents(folder)
    entry = parse_registry(format_entry(spec), name="entry")["tiny"]
    assert entry == spec
    files = pull_weights(entry, quiet=True)
    assert {path.name: path.read_bytes() for path in files} == contents(folder)
    assert list(files.values()) == [file.sha256 for file in describe_bundle(folder).files]
    pulled = read_bundle(next(iter(files)).parent)
    assert pulled.sha256() == read_bundle(folder).sha256()
    assert incomplete(hub) == []


def test_the_same_again_is_the_same_commit_and_a_change_is_another(signed_in, folder):
    first = publish_bundle(folder, "owner/tiny")
    assert publish_bundle(folder, "owner/tiny") == first
    (folder / "README.md").write_text(CARD + "More.\n")
    second = publish_bundle(folder, "owner/tiny", name="tiny-2")
    assert second.name == "tiny-2"
    assert second.revision != first.revision
    files = signed_in.files("owner/tiny", first.revision)
    assert files["README.md"] == CARD.encode()


def test_an_entry_can_be_added_and_its_weights_opened_by_name(signed_in, folder):
    spec = publish_bundle(folder, "owner/tiny", name="my.tiny")
    assert add_entries(format_entry(spec), name="entry") == ("my.tiny",)
    bundle = open_bundle("my.tiny")
    assert bundle.name == "my.tiny"
    assert bundle.sha256() == read_bundle(folder).sha256()


def test_a_private_repository(signed_in, folder, monkeypatch):
    spec = publish_bundle(folder, "owner/tiny", private=True)
    assert signed_in.repos["owner/tiny"].private
    monkeypatch.delenv("HF_TOKEN")
    with pytest.raises(WeightsError, match="refuses access"):
        pull_weights(spec, quiet=True)


def test_nothing_private_goes_into_a_public_repository(signed_in, folder):
    hub = signed_in
    revision = hub.add_repo("owner/tiny", {"README.md": b"# Mine\n"})
    with pytest.raises(WeightsError) as caught:
        publish_bundle(folder, "owner/tiny", private=True)
    assert caught.value.message == (f"{folder}: not published: the repository exists and is public")
    assert caught.value.hint == "name another, or leave --private out"
    repo = hub.repos["owner/tiny"]
    assert not repo.private
    assert repo.refs["main"] == revision
    assert hub.files("owner/tiny") == {"README.md": b"# Mine\n"}
    asked = [f"{request}" for request in hub.requests]
    assert not [r for r in asked if any(w in r for w in ("preupload", "commit", "lfs", "batch"))]
    publish_bundle(folder, "owner/tiny")  # in public it may


def test_more_goes_into_a_private_repository_that_is_there(signed_in, folder):
    signed_in.add_repo("owner/tiny", {"README.md": b"# Mine\n"}, private=True)
    spec = publish_bundle(folder, "owner/tiny", private=True)
    assert signed_in.repos["owner/tiny"].private
    assert signed_in.repos["owner/tiny"].refs["main"] == spec.revision


@pytest.mark.parametrize(
    "repo",
    [
        *("tiny", "owner/", "/tiny", "a/b/c", "../tiny", "owner/..", "owner/tiny ", "", "own er/x"),
        *("owner/a--b", "owner/tiny.git", "owner/tiny-", "owner/" + "a" * 97, "owner/naïve"),
    ],
)
def test_a_repository_s_name_that_cannot_be_one(signed_in, folder, repo):
    with pytest.raises(InputError):
        publish_bundle(folder, repo)
    assert signed_in.requests == []


def test_a_bad_repository_is_shown_the_form(signed_in, folder):
    with pytest.raises(InputError, match="repository 'tiny' is not understood") as caught:
        publish_bundle(folder, "tiny")
    assert caught.value.hint == "give owner/name"


@pytest.mark.parametrize("token", [None, "hf_wrong"])
def test_without_a_token_that_is_known(hub, folder, monkeypatch, token):
    if token:
        monkeypatch.setenv("HF_TOKEN", token)
    with pytest.raises(WeightsError) as caught:
        publish_bundle(folder, "owner/tiny")
    assert caught.value.message == (
        f"{folder}: not published: {hub.url} refuses access to owner/tiny (401)"
    )
    assert "hf auth login" in caught.value.hint
    assert "HF_TOKEN" in caught.value.hint
    assert hub.repos == {}


@pytest.mark.parametrize("repo", ["stranger/tiny", "owner/tiny"])
def test_without_the_right_to_write(hub, folder, monkeypatch, repo):
    monkeypatch.setenv("HF_TOKEN", hub.read_token if repo == "owner/tiny" else hub.token)
    with pytest.raises(WeightsError, match=rf"refuses access to {repo} \(403\)"):
        publish_bundle(folder, repo)
    assert repo not in hub.repos


@pytest.mark.parametrize(
    "fault",
    [
        Status(500, file="/api/repos/create"),
        Status(500, file="*/preupload/*"),
        Status(500, file="*/objects/batch"),
        Status(500, file="/lfs/*"),
        Status(500, file="*/commit/*"),
        Status(403, file="*/commit/*", error_code=None),
        Status(429, file="*/commit/*"),
    ],
    ids=lambda fault: f"{fault.code} {fault.file}",
)
def test_a_server_that_fails_on_the_way_publishes_nothing(signed_in, folder, fault):
    fault.used = 0
    signed_in.faults.append(fault)
    with pytest.raises(WeightsError) as caught:
        publish_bundle(folder, "owner/tiny")
    assert caught.value.message.startswith(f"{folder}: not published: ")
    assert f"({fault.code})" in caught.value.message
    assert caught.value.hint
    assert fault.used
    repo = signed_in.repos.get("owner/tiny")
    assert repo is None or list(repo.commits[repo.refs["main"]]) == [".gitattributes"]
    signed_in.faults.clear()
    spec = publish_bundle(folder, "owner/tiny")
    assert {p.name: p.read_bytes() for p in pull_weights(spec, quiet=True)} == contents(folder)


def test_a_server_that_is_gone(signed_in, folder):
    signed_in.stop()
    with pytest.raises(WeightsError, match=r"not published: .* Connection refused"):
        publish_bundle(folder, "owner/tiny")


@pytest.mark.parametrize("offline", [False, True])
def test_messages_speak_of_publishing(signed_in, folder, monkeypatch, offline):
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_OFFLINE", offline)
    signed_in.stop()
    with pytest.raises(WeightsError) as caught:
        publish_bundle(folder, "owner/tiny")
    said = f"{caught.value.message} {caught.value.hint}"
    for words in ("download", "not on this machine", "copy the cache", "what is complete is kept"):
        assert words not in said


def test_only_the_bundle_is_sent(signed_in, folder):
    publish_bundle(folder, "owner/tiny")
    assert "notes.txt" not in signed_in.files("owner/tiny")
    assert (folder / "notes.txt").read_text() == "private"
