"""`seg2vid weights` from the shell's side, and weights that `generate` fetches by itself."""

from __future__ import annotations

import hashlib
import io
import json
import os
import pickle
import shutil
import subprocess
import sys
from dataclasses import replace
from pathlib import Path

import pytest
import torch
from conftest import lively, write_bundle
from hub_server import CutAfter, Headers, Status, WrongBytes, hub_in_place
from PIL import Image
from safetensors import safe_open
from test_cli_generate import ENVIRONMENT, facts, photo, save, scene, seg2vid
from test_hub import edit, incomplete
from test_importers import Hostile, global_generator, saved, two_path

from seg2vid_cli import read_recipe
from seg2vid_cli.networks.segmenter import Segmenter, SegmenterConfig
from seg2vid_cli.weights import registry
from seg2vid_cli.weights.importers import ARCHIVES, KINDS
from seg2vid_cli.weights.publish import describe_bundle
from seg2vid_cli.weights.registry import (
    describe_file,
    find_weights,
    format_entry,
    parse_registry,
    read_registry,
)

CARD = (
    "---\nlicense: other\nlicense_name: CC0-1.0\ntitle: A toy\n---\n# Model card: `tiny`\n\nToy.\n"
)
SMALL = ("--size", "64x32", "--frames", "3", "--device", "cpu")
NAMES = {"README.md", "bundle.json", *(f"{s}.safetensors" for s in ("first_frame", "motion"))}
NAMES |= {"refine.safetensors"}
# huggingface_hub hands its LFS uploads to httpx2 in a way that is deprecated there.
pytestmark = pytest.mark.filterwarnings("ignore:Use 'content=:DeprecationWarning")


@pytest.fixture(autouse=True)
def _here(tmp_path, monkeypatch):
    folder = tmp_path / "here"
    folder.mkdir()
    monkeypatch.chdir(folder)


@pytest.fixture
def hub(tmp_path, monkeypatch):
    with hub_in_place(tmp_path / "home", monkeypatch) as server:
        monkeypatch.setenv("HF_TOKEN", server.token)
        yield server


@pytest.fixture
def entry(hub, tiny_bundle):
    """A file with the entry of a tiny bundle that is on the Hub; the cache is empty."""
    shutil.copytree(tiny_bundle, "tiny")
    Path("tiny/README.md").write_text(CARD)
    done = seg2vid("weights", "publish", "tiny", "--repo", "owner/tiny")
    assert done.code == 0, done.err
    shutil.rmtree("tiny")
    Path("entry.toml").write_text(done.out)
    hub.requests.clear()
    return Path("entry.toml")


@pytest.fixture
def toy(entry):
    """The same, known by its name."""
    assert seg2vid("weights", "add", entry).code == 0
    return find_weights("tiny")


def refused(*arguments, says=(), hint=(), code=1):
    """Run a command that must end with one error and a hint; what it prints on stderr."""
    done = seg2vid(*arguments)
    assert (done.code, done.out) == (code, ""), done.err
    lines = [line for line in done.err.splitlines() if not line.startswith("note: ")]
    assert lines[0].startswith("error: ")
    assert sum(line.startswith("error: ") for line in lines) == 1
    for text in says:
        assert text in done.err
    for text in hint:
        assert text in done.err.partition("hint: ")[2]
    return done.err


def hashes(folder):
    paths = sorted(Path(folder).iterdir())
    return {path.name: hashlib.sha256(path.read_bytes()).hexdigest() for path in paths}


# ---- list, show, path ----------------------------------------------------------------------------


def test_the_list_has_everything_and_says_what_is_here():
    done = seg2vid("weights", "list")
    assert done.code == 0
    blocks = done.out.split("\n  ")[0].splitlines()
    assert blocks == ["street"]
    for name, spec in read_registry().items():
        assert f"{name}\n  {spec.title}\n" in done.out
        assert f"licence: {spec.license}\n" in done.out
    assert "installed, 18.2 MiB, inside the package; licence: CC-BY-NC-4.0" in done.out
    assert "seg2vid weights pull seg2vid-kth tells how" in done.out
    assert "weights show NAME" in done.err


def test_the_list_as_json(toy):
    done = seg2vid("weights", "list", "--json")
    assert (done.code, done.err) == (0, "")
    rows = {row["name"]: row for row in json.loads(done.out)}
    assert list(rows) == list(read_registry())
    assert rows["tiny"] == {
        "name": "tiny",
        "title": "A toy",
        "stages": dict(toy.stages),
        "needs": "a label map",
        "labels": "cityscapes-20",
        "native_size": "64x32",
        "fps": 10.0,
        "size_bytes": toy.size_bytes,
        "license": "CC0-1.0",
        "source": "a bundle named tiny",
        "origin": "hub",
        "where": f"owner/tiny @ {toy.revision[:8]}",
        "installed": False,
    }
    needs = {name: row["needs"] for name, row in rows.items()}
    assert needs["street"] == "a label map"
    assert needs["seg2vid-cityscapes"] == "a label map, a first frame"
    assert needs["seg2vid-kth"] == "a first frame"
    assert needs["pix2pixhd-cityscapes"] == "a label map, motion weights"
    assert needs["salema-dhf1k"] == "a video or pictures"
    assert needs["street-edges"] == "a label map, motion weights"
    assert [name for name, row in rows.items() if row["installed"]] == [
        "street",
        "street-labels",
        "street-edges",
    ]


def test_showing_weights(toy):
    done = seg2vid("weights", "show", "tiny")
    assert done.code == 0
    for text in ("A toy", "CC0-1.0", "first frame: label-unet", "owner/tiny @", "64x32"):
        assert text in done.out
    assert "installed" in done.out
    assert done.err == "note: the model card comes with: seg2vid weights pull tiny\n"
    seg2vid("weights", "pull", "tiny", "-q")
    done = seg2vid("weights", "show", "tiny")
    assert "Model card: tiny" in done.out
    assert "license_name" not in done.out
    assert done.err == ""
    known = json.loads(seg2vid("weights", "show", "tiny", "--json").out)
    assert known["card"] == CARD
    assert known["installed"] is True
    assert {k: known[k] for k in ("name", "origin")} == {"name": "tiny", "origin": "hub"}


def test_showing_what_only_the_authors_have():
    done = seg2vid("weights", "show", "seg2vid-cityscapes")
    assert done.code == 0
    assert "size" in done.out
    assert "unknown" in done.out
    spec = find_weights("seg2vid-cityscapes")
    lines = done.err.splitlines()
    assert lines[0] == "note: to be downloaded by hand:"
    assert lines[1].strip() == f"1. download the checkpoint by hand from {spec.download}"
    assert lines[2].strip() == (
        "2. seg2vid weights import CHECKPOINT --as seg2vid-two-path -o seg2vid-cityscapes"
    )
    assert lines[3].strip().endswith("seg2vid weights add seg2vid-cityscapes")


def test_showing_weights_with_a_card_in_another_encoding(hub, tiny_bundle):
    shutil.copytree(tiny_bundle, "tiny")
    Path("tiny/README.md").write_bytes(b"---\nlicense: mit\n---\n# M\xfcnchen\n")
    assert seg2vid("weights", "add", "tiny").code == 0
    assert seg2vid("weights", "show", "tiny").code == 0


def test_weights_that_only_read_photos_need_a_photo(tmp_path):
    config = SegmenterConfig(classes=19, channels=(4, 6), blocks=(0, 1))
    networks = {"segmenter": lively(Segmenter(config))}
    write_bundle(tmp_path / "reader", networks, fps=None)
    assert seg2vid("weights", "add", tmp_path / "reader").code == 0
    block = seg2vid("weights", "list").out.partition("\nreader\n")[2].splitlines()
    assert block[1] == "  segmenter; 64x32; needs a photo"
    rows = json.loads(seg2vid("weights", "list", "--json").out)
    assert next(row for row in rows if row["name"] == "reader")["needs"] == "a photo"
    done = seg2vid("weights", "show", "reader")
    assert done.code == 0
    assert facts(done.out)["needs"] == "a photo"
    assert facts(done.out)["installed"] == "yes"
    assert done.err == "note: these weights have no model card\n"


def test_pulled_weights_without_a_card_are_not_sent_for_it_again(hub, tiny_bundle):
    files = [path for path in sorted(tiny_bundle.iterdir()) if path.name != "README.md"]
    revision = hub.add_repo("owner/bare", {path.name: path.read_bytes() for path in files})
    spec = describe_bundle(tiny_bundle, name="bare")
    spec = replace(spec, origin="hub", path="", repo_id="owner/bare", revision=revision)
    Path("bare.toml").write_text(format_entry(spec))
    assert seg2vid("weights", "add", "bare.toml").code == 0
    pull = "note: the model card comes with: seg2vid weights pull bare\n"
    assert seg2vid("weights", "show", "bare").err == pull
    assert seg2vid("weights", "pull", "bare", "-q").code == 0
    assert seg2vid("weights", "show", "bare").err == "note: these weights have no model card\n"


def test_the_path_of_weights(toy):
    assert (
        Path(seg2vid("weights", "path", "street").out.strip())
        == read_registry()["street"].local_folder()
    )
    err = refused("weights", "path", "tiny", says=("weights 'tiny' are not on this machine",))
    assert err.endswith("hint: seg2vid weights pull tiny\n")
    refused("weights", "path", "seg2vid-kth", hint=("download the checkpoint by hand",))
    seg2vid("weights", "pull", "tiny")
    done = seg2vid("weights", "path", "tiny")
    assert (done.code, done.err) == (0, "")
    assert set(hashes(done.out.strip())) == NAMES


@pytest.mark.parametrize("command", ["show", "pull", "verify", "path", "remove"])
def test_an_unknown_name_lists_the_known(command):
    known = ", ".join(read_registry())
    err = refused("weights", command, "nope", says=("weights 'nope' are not known",), code=2)
    assert f"hint: known weights: {known}" in err


# ---- pull, verify, remove ------------------------------------------------------------------------


def test_pulling(hub, toy):
    done = seg2vid("weights", "pull", "tiny", "street")
    assert done.code == 0
    size = f"{toy.size_bytes / 2**20:.1f} MiB"
    assert done.err == (
        f"note: downloading weights tiny: {size} from owner/tiny, licence CC0-1.0\n"
    )
    first, second = done.out.splitlines()
    assert first.startswith("tiny: 5 files, sizes and hashes match, in ")
    assert hashes(first.rpartition(" ")[2]) == {f.name: f.sha256 for f in toy.files}
    assert second.startswith("street: 5 files, sizes and hashes match, in ")
    asked = len(hub.requests)
    done = seg2vid("weights", "pull", "tiny")
    assert (done.code, done.out, done.err) == (0, first + "\n", "")
    assert len(hub.requests) == asked
    done = seg2vid("weights", "pull", "tiny", "--quiet")
    assert (done.code, done.out, done.err) == (0, "", "")


def test_pulling_in_silence(toy):
    done = seg2vid("weights", "pull", "tiny", "-q")
    assert (done.code, done.out, done.err) == (0, "", "")
    assert seg2vid("weights", "path", "tiny").code == 0


def test_a_name_that_is_not_known_stops_before_the_first_download(hub, toy):
    refused("weights", "pull", "tiny", "nope", code=2)
    assert hub.requests == []


def test_pulling_what_only_the_authors_have(hub):
    for name, kind in (("seg2vid-cityscapes", "seg2vid-two-path"), ("seg2vid-kth", None)):
        err = refused("weights", "pull", name, says=("cannot be downloaded by this command",))
        steps = err.partition("hint: ")[2]
        address = find_weights(name).download
        assert steps.startswith(f"1. download the checkpoint by hand from {address}\n")
        assert f"2. seg2vid weights import CHECKPOINT --as {kind or 'seg2vid-no-labels'}" in steps
    assert hub.requests == []


@pytest.mark.parametrize(
    ("fault", "says"),
    [
        (Status(404), "has no such file"),
        (Status(401), "refuses access to owner/tiny (401)"),
        (Status(500), "has trouble (500)"),
        (WrongBytes(), "sha256 "),
        (CutAfter(100), "peer closed connection"),
    ],
    ids=lambda value: type(value).__name__,
)
@pytest.mark.parametrize("command", ["pull", "generate"])
def test_a_download_that_fails_is_1_with_one_error(hub, toy, fault, says, command):
    fault.file, fault.used = "motion.safetensors", 0
    hub.faults.append(fault)
    save("street.png", scene())
    words = ("weights", "pull", "tiny")
    if command == "generate":
        words = ("generate", "street.png", "-o", "out.mp4", *SMALL, "--weights", "tiny")
    err = refused(*words, says=("error: weights 'tiny': motion.safetensors: ", says))
    assert "\nhint: " in err
    assert not Path("out.mp4").exists()
    hub.faults.clear()
    assert seg2vid(*words).code == 0
    assert incomplete(hub) == []


def test_another_commit_than_the_pinned_one_has_a_hint(hub, toy):
    hub.faults.append(Headers({"X-Repo-Commit": "0" * 40}))
    err = refused("weights", "pull", "tiny", says=(f"gave commit {'0' * 40} instead of",))
    assert "\nhint: " in err


def test_verifying(hub, toy):
    done = seg2vid("weights", "verify")  # what is not here is left out
    assert (done.code, done.err) == (0, "")
    assert done.out.splitlines() == [
        "street: 5 files, 18.2 MiB, sizes and hashes match",
        "street-labels: 2 files, 5.5 MiB, sizes and hashes match",
        "street-edges: 3 files, 10.1 MiB, sizes and hashes match",
    ]
    refused("weights", "verify", "tiny", says=("are not on this machine",))
    refused("weights", "verify", "seg2vid-kth", says=("are not on this machine",))
    seg2vid("weights", "pull", "tiny")
    done = seg2vid("weights", "verify", "tiny")
    assert done.code == 0
    assert done.out.startswith("tiny: 5 files, ")
    path = Path(seg2vid("weights", "path", "tiny").out.strip()) / "motion.safetensors"
    edit(path, path.read_bytes()[::-1])
    asked = len(hub.requests)
    refused("weights", "verify", "tiny", says=(f"{path}: sha256 ",), hint=("weights pull tiny",))
    done = seg2vid("weights", "verify")
    assert done.code == 1
    assert done.out.startswith("street: 5 files")
    assert done.err.startswith(f"error: {path}: sha256 ")
    assert len(hub.requests) == asked
    assert seg2vid("weights", "pull", "tiny").code == 0
    assert seg2vid("weights", "verify").err == ""


def test_removing(hub, toy):
    assert seg2vid("weights", "remove", "tiny").out == "tiny: 0.0 MiB freed\n"
    seg2vid("weights", "pull", "tiny")
    done = seg2vid("weights", "remove", "tiny")
    assert done.out == f"tiny: {toy.size_bytes / 2**20:.1f} MiB freed\n"
    assert not list(hub.cache.rglob("*.safetensors"))
    assert "tiny" in read_registry()
    done = seg2vid("weights", "remove", "tiny", "--entry")
    assert done.out == "tiny: 0.0 MiB freed\ntiny: entry removed\n"
    assert "tiny" not in read_registry()
    refused("weights", "remove", "tiny", says=("are not known",), code=2)
    refused("weights", "remove", "street", hint=("part of the package",), code=2)
    refused("weights", "remove", "street", "--entry", hint=("yours are in",), code=2)
    assert (read_registry()["street"].local_folder() / "bundle.json").is_file()


def test_only_an_own_entry_is_removed_and_with_another_nothing_is_deleted(
    hub, entry, tmp_path, monkeypatch
):
    package = tmp_path / "package"
    package.mkdir()
    (package / "weights.toml").write_text(entry.read_text())
    monkeypatch.setattr(registry, "_PACKAGE", package)  # brings `tiny` along, from the Hub
    read_registry.cache_clear()
    assert seg2vid("weights", "pull", "tiny", "-q").code == 0
    before = sorted(hub.cache.rglob("*"))
    assert any(path.name == "motion.safetensors" for path in before)
    refused(
        *("weights", "remove", "tiny", "--entry"),
        says=("'tiny' is no entry of yours",),
        hint=("yours are in",),
        code=2,
    )
    assert sorted(hub.cache.rglob("*")) == before
    assert seg2vid("weights", "verify", "tiny").code == 0
    read_registry.cache_clear()


# ---- add, publish --------------------------------------------------------------------------------


def test_adding_entries(entry, config_folder, monkeypatch):
    done = seg2vid("weights", "add", entry)
    assert done.out == f"added tiny to {config_folder / 'weights.toml'}\n"
    assert parse_registry(entry.read_text(), name="x")["tiny"] == find_weights("tiny")
    refused("weights", "add", entry, says=("'tiny' are known already",), code=2)
    monkeypatch.setattr("sys.stdin", io.StringIO(entry.read_text().replace("[tiny]", "[other]")))
    assert seg2vid("weights", "add", "-").code == 0
    assert {"tiny", "other"} <= set(read_registry())
    for text, says in (
        ("[street]\n", "needs exactly one of"),
        ("", "holds no entry"),
        ("[", "not valid TOML"),
        (entry.read_text().replace("[tiny]", "[street]"), "'street' are known already"),
        (entry.read_text().replace("motion.s", "../motion.s"), "must be a file name, not a path"),
    ):
        Path("bad.toml").write_text(text)
        before = (config_folder / "weights.toml").read_bytes()
        done = seg2vid("weights", "add", "bad.toml")
        assert done.code in (1, 2)
        assert says in done.err
        assert (config_folder / "weights.toml").read_bytes() == before
    refused("weights", "add", entry, "--name", "x", says=("--name is for a folder",), code=2)
    refused("weights", "add", "nothing.toml", says=("cannot be read",), code=2)


def test_adding_a_folder(tiny_bundle):
    save("street.png", scene())
    shutil.copytree(tiny_bundle, "tiny")
    assert seg2vid("weights", "add", "tiny", "--name", "mine").code == 0
    spec = find_weights("mine")
    assert (spec.origin, spec.path) == ("folder", str(Path("tiny").resolve()))
    done = seg2vid("generate", "street.png", "-o", "out.mp4", *SMALL, "--weights", "mine")
    assert done.code == 0
    assert read_recipe(Path("out.mp4")).weights == "mine"
    motion = Path("tiny/motion.safetensors")
    edit(motion, motion.read_bytes()[::-1])
    words = ("generate", "street.png", "-o", "again.mp4", *SMALL, "--weights", "mine")
    refused(*words, says=("motion.safetensors: sha256",), hint=("restore the files",))
    shutil.rmtree("tiny")
    refused(*words, says=("missing",))
    assert seg2vid("weights", "remove", "mine", "--entry").code == 0


def test_publishing_prints_the_entry_and_nothing_else(hub, tiny_bundle):
    shutil.copytree(tiny_bundle, "tiny")
    words = ("weights", "publish", "tiny", "--repo", "owner/tiny")
    refused(*words, says=("README.md: missing",), hint=("write a model card",), code=2)
    Path("tiny/README.md").write_text(CARD)
    hub.faults.append(Status(500, file="*/commit/*", times=1))
    done = seg2vid(*words)
    assert (done.code, done.out) == (1, "")
    assert "error: tiny: not published: " in done.err
    assert "has trouble (500)\nhint: try again later\n" in done.err
    done = seg2vid(*words, "--name", "mine")
    assert done.code == 0
    spec = parse_registry(done.out, name="stdout")["mine"]
    assert spec.revision == hub.repos["owner/tiny"].refs["main"]
    assert spec.files == tuple(describe_file(Path("tiny") / file.name) for file in spec.files)
    assert {file.name for file in spec.files} == NAMES
    assert "seg2vid weights add" in done.err
    refused("weights", "publish", "tiny", "--repo", "x", hint=("give owner/name",), code=2)
    refused("weights", "publish", "none", "--repo", "owner/x", says=("none/bundle.json",), code=2)


def test_publishing_draws_bars_on_a_terminal_only(hub, tiny_bundle):
    shutil.copytree(tiny_bundle, "tiny")
    Path("tiny/README.md").write_text(CARD)
    done = seg2vid("weights", "publish", "tiny", "--repo", "owner/tiny")
    assert done.code == 0
    assert done.err.startswith("note: put the entry into a file")


# ---- import --------------------------------------------------------------------------------------


def test_a_hostile_checkpoint_is_not_run_and_the_error_says_why():
    mark = Path("was-run").resolve()
    saved(Path("a.pth"), {"state_dict": {"fc.weight": torch.ones(1), "x": Hostile(mark)}})
    for kind in set(KINDS) - ARCHIVES:
        err = refused("weights", "import", "a.pth", "--as", kind, "-o", "made")
        assert "a.pth: refused, nothing in it was run: besides tensors it wants " in err
        assert "system, and loading that could run any program\n" in err
        assert "hint: where you trust the file, save its state_dict alone" in err
    assert [path.name for path in Path().iterdir()] == ["a.pth"]


def test_a_hostile_pickle_that_is_called_safetensors_is_not_run(tiny_bundle):
    save("street.png", scene())
    shutil.copytree(tiny_bundle, "tiny")
    mark = Path("was-run").resolve()
    Path("tiny/motion.safetensors").write_bytes(pickle.dumps(Hostile(mark)))
    for words in (
        ("weights", "add", "tiny"),
        ("generate", "street.png", "-o", "out.mp4", *SMALL, "--weights", "tiny"),
    ):
        refused(*words, says=("motion.safetensors: not a readable safetensors file",))
    assert not mark.exists()
    assert not Path("out.mp4").exists()


def test_importing_reports_what_became_of_the_tensors():
    saved(Path("a.pth"), two_path())
    words = ("weights", "import", "a.pth", "--as", "seg2vid-two-path")
    done = seg2vid(*words, "-o", "made", "--license", "CC0-1.0", "--name", "mine")
    assert (done.code, done.err) == (0, "")
    lines = done.out.splitlines()
    assert lines[-1] == "wrote made"
    for stage in ("motion", "refine"):
        with safe_open(f"made/{stage}.safetensors", "pt") as file:
            assert f"kept {len(file.keys())} tensors for {stage}" in lines
    assert any("which only training uses" in line for line in lines)
    assert any("frame rate taken to be 17" in line for line in lines)
    assert json.loads(Path("made/bundle.json").read_text())["name"] == "mine"
    assert 'license_name: "CC0-1.0"\n' in Path("made/README.md").read_text()
    before = hashes("made")
    refused(*words, "-o", "made", says=("made: exists already",), hint=("-o",), code=2)
    assert hashes("made") == before
    done = seg2vid(*words, "-o", "other", "--fps", "12")
    assert "frame rate" not in done.out
    saved(Path("b.pth"), global_generator())
    painter = ("weights", "import", "b.pth", "--as", "pix2pixhd-global", "-o", "x")
    says = ("pix2pixhd-global has no motion, so no frame rate",)
    refused(*painter, "--fps", "12", says=says, hint=("leave --fps out",), code=2)
    refused(*words[:-1], "nothing", "-o", "x", says=("'nothing' is not known",), code=2)
    refused(
        "weights", "import", "none.pth", *words[3:], "-o", "x", says=("cannot be read",), code=2
    )
    refused(*words[:-1], "pix2pixhd-global", "-o", "x", hint=("looks like seg2vid-two-path",))
    assert not Path("x").exists()


def test_an_imported_folder_stands_for_the_authors_weights(tmp_path):
    """The two steps that `pull` tells of."""
    saved(Path("a.pth"), two_path())
    save("street.png", scene())
    photo(64, 32).save("photo.png")
    name = "seg2vid-cityscapes"
    words = ("generate", "street.png", "-o", "out.mp4", *SMALL, "--first-frame", "photo.png")
    refused(*words, "--weights", name, says=("cannot be downloaded by this command",))
    seg2vid("weights", "import", "a.pth", "--as", "seg2vid-two-path", "-o", name)
    assert seg2vid(*words, "--weights", name).code == 0
    assert seg2vid("weights", "add", name).code == 0
    Path("elsewhere").mkdir()
    os.chdir("elsewhere")
    shutil.copy("../street.png", "street.png")
    shutil.copy("../photo.png", "photo.png")
    assert seg2vid(*words, "--weights", name).code == 0
    assert read_recipe(Path("out.mp4")).weights == name
    refused("weights", "path", "seg2vid-kth")
    assert seg2vid("weights", "path", name).out == f"{tmp_path / 'here' / name}\n"


# ---- the whole way -------------------------------------------------------------------------------


def test_import_publish_add_pull_generate(hub):
    """The same bytes from one end to the other, and a clip that can be repeated."""
    saved(Path("model.pth.tar"), {"vae": two_path(), "optimizer": {}})
    words = ("model.pth.tar", "--as", "seg2vid-two-path", "-o", "mover")
    assert seg2vid("weights", "import", *words).code == 0
    made = hashes("mover")
    assert set(made) == {"bundle.json", "README.md", "motion.safetensors", "refine.safetensors"}

    done = seg2vid("weights", "publish", "mover", "--repo", "owner/mover")
    assert done.code == 0
    Path("entry.toml").write_text(done.out)
    spec = parse_registry(done.out, name="stdout")["mover"]
    assert {file.name: file.sha256 for file in spec.files} == made
    sent = hub.files("owner/mover", spec.revision)
    assert {name: hashlib.sha256(sent[name]).hexdigest() for name in made} == made

    shutil.rmtree("mover")
    assert not hub.cache.exists()
    assert seg2vid("weights", "add", "entry.toml").code == 0
    assert seg2vid("weights", "pull", "mover").code == 0
    assert hashes(seg2vid("weights", "path", "mover").out.strip()) == made
    assert seg2vid("weights", "verify", "mover").code == 0

    save("street.png", scene())
    photo(64, 32).save("photo.png")
    asked = len(hub.requests)
    words = (*SMALL, "--first-frame", "photo.png")
    done = seg2vid("generate", "street.png", "-o", "a.mp4", *words, "--weights", "mover")
    assert (done.code, done.err) == (0, "")
    recipe = read_recipe(Path("a.mp4"))
    assert recipe.weights == "mover"
    assert recipe.weights_sha256 == {
        "motion": made["motion.safetensors"],
        "refine": made["refine.safetensors"],
        "bundle": made["bundle.json"],
    }
    done = seg2vid("generate", "--like", "a.mp4", "--first-frame", "photo.png", "-o", "b.mp4")
    assert (done.code, done.err) == (0, "")
    assert read_recipe(Path("b.mp4")) == recipe
    assert Path("a.mp4").read_bytes() == Path("b.mp4").read_bytes()
    assert len(hub.requests) == asked


def test_a_painter_of_the_authors_from_checkpoint_to_clip(hub):
    saved(Path("latest_net_G.pth"), global_generator())
    words = ("latest_net_G.pth", "--as", "pix2pixhd-global", "-o", "painter")
    assert seg2vid("weights", "import", *words).code == 0
    entry = seg2vid("weights", "publish", "painter", "--repo", "owner/painter").out
    Path("entry.toml").write_text(entry)
    assert seg2vid("weights", "add", "entry.toml").code == 0
    save("street.png", scene())
    words = ("generate", "street.png", "-o", "a.mp4", *SMALL, "--first-frame-weights", "painter")
    done = seg2vid(*words)
    assert done.code == 0
    assert "note: downloading weights painter: " in done.err
    assert read_recipe(Path("a.mp4")).first_frame_weights == "painter"
    shutil.rmtree(hub.cache)
    done = seg2vid("generate", "--like", "a.mp4", "-o", "b.mp4")
    assert done.code == 0
    assert "note: downloading weights painter: " in done.err
    assert Path("a.mp4").read_bytes() == Path("b.mp4").read_bytes()


@pytest.mark.parametrize("quiet", [False, True])
def test_the_first_use_pulls_by_itself_after_saying_what(hub, toy, quiet):
    save("street.png", scene())
    words = ("generate", "street.png", *SMALL, "--weights", "tiny", *["--quiet"] * quiet)
    done = seg2vid(*words, "-o", "a.mp4")
    assert done.code == 0
    size = f"{toy.size_bytes / 2**20:.1f} MiB"
    note = f"note: downloading weights tiny: {size} from owner/tiny, licence CC0-1.0\n"
    assert done.err == ("" if quiet else note)
    assert (done.out == "") is quiet
    asked = len(hub.requests)
    assert asked
    done = seg2vid(*words, "-o", "b.mp4")
    assert (done.code, done.err) == (0, "")
    assert len(hub.requests) == asked
    assert Path("a.mp4").read_bytes() == Path("b.mp4").read_bytes()


def test_a_repeated_clip_pulls_its_weights_by_itself(hub, toy):
    save("street.png", scene())
    words = ("generate", "street.png", "-o", "a.mp4", *SMALL, "--weights", "tiny")
    assert seg2vid(*words).code == 0
    assert seg2vid("weights", "remove", "tiny").code == 0
    done = seg2vid("generate", "--like", "a.mp4", "-o", "b.mp4")
    assert done.code == 0
    assert done.err.startswith("note: downloading weights tiny: ")
    assert Path("a.mp4").read_bytes() == Path("b.mp4").read_bytes()


def test_as_json_with_a_download_on_the_way(toy):
    save("street.png", scene())
    words = ("generate", "street.png", "-o", "a.mp4", *SMALL, "--weights", "tiny", "--json")
    done = seg2vid(*words)
    assert done.code == 0
    assert json.loads(done.out)
    assert done.err.startswith("note: downloading")


def test_offline(hub, toy, monkeypatch):
    save("street.png", scene())
    words = ("generate", "street.png", "-o", "a.mp4", *SMALL, "--weights", "tiny")
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_OFFLINE", True)
    refused(*words, says=("HF_HUB_OFFLINE forbids to download",), hint=("unset HF_HUB_OFFLINE",))
    assert not Path("a.mp4").exists()
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_OFFLINE", False)
    assert seg2vid("weights", "pull", "tiny").code == 0
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_OFFLINE", True)
    asked = len(hub.requests)
    done = seg2vid(*words)
    assert (done.code, done.err) == (0, "")
    assert len(hub.requests) == asked
    with Image.open("street.png") as image:
        assert image.size == (64, 32)


# ---- help, and what loads torch ------------------------------------------------------------------

COMMANDS = ["list", "show", "pull", "verify", "path", "remove", "import", "publish", "add"]


def test_the_help_has_all_commands():
    done = seg2vid("weights", "--help")
    assert done.code == 0
    for command in COMMANDS:
        assert f" {command} " in done.out
    helped = seg2vid("weights", "import", "--help").out
    for kind in KINDS:
        assert kind in helped


def test_only_import_publish_and_the_adding_of_folders_load_torch(hub, entry):
    """A process of its own that runs one command after the other."""
    lines = [
        *(["weights", command, "--help"] for command in COMMANDS),
        ["weights", "--help"],
        ["weights", "add", str(entry)],
        ["weights", "list", "--json"],
        ["weights", "show", "tiny"],
        ["weights", "pull", "tiny", "street"],
        ["weights", "show", "tiny"],
        ["weights", "path", "tiny"],
        ["weights", "verify"],
        ["weights", "remove", "tiny", "--entry"],
    ]
    code = (
        "import json, sys\n"
        "from seg2vid_cli.cli import app, console\n"
        "for words in json.loads(sys.argv[1]):\n"
        "    code = console.run(lambda: app(words, prog_name='seg2vid'))\n"
        "    assert code == 0, words\n"
        "    assert 'torch' not in sys.modules, words\n"
    )
    variables = {
        "HF_ENDPOINT": hub.url,
        "HF_HOME": str(hub.home),
        "SEG2VID_CONFIG_DIR": os.environ["SEG2VID_CONFIG_DIR"],
    }
    done = subprocess.run(
        [sys.executable, "-c", code, json.dumps(lines)],
        env={**ENVIRONMENT, **variables},
        capture_output=True,
        text=True,
    )
    assert done.returncode == 0, done.stderr
