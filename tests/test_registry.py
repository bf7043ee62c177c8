"""weights.toml: strict to read, and its hashes are those of the files."""

from __future__ import annotations

import hashlib
from pathlib import Path

import pytest

from seg2vid_cli.errors import InputError, WeightsError
from seg2vid_cli.label_sets import NUM_CLASSES
from seg2vid_cli.weights import registry
from seg2vid_cli.weights.load import BUNDLE_FILE, open_bundle, read_bundle
from seg2vid_cli.weights.registry import (
    DEFAULT_WEIGHTS,
    file_sha256,
    find_weights,
    parse_registry,
    read_registry,
    registry_path,
    verify_files,
)

CONTENT = b"weights of a kind"
SHA256 = hashlib.sha256(CONTENT).hexdigest()
TABLE = f"""
[toy]
title = "Toy"
folder = "toy"
labels = "cityscapes-20"
native_size = "64x32"
fps = 10.0
license = "CC0-1.0"
source = "nothing"
files = [{{ name = "motion.safetensors", size_bytes = {len(CONTENT)}, sha256 = "{SHA256}" }}]
"""


def error_of(text):
    with pytest.raises(WeightsError) as caught:
        parse_registry(text, name="weights.toml")
    assert caught.value.message.startswith("weights.toml: ")
    return caught.value.message


@pytest.fixture
def package(tmp_path, monkeypatch):
    """A folder that takes the place of the package."""
    folder = tmp_path / "seg2vid_cli"
    folder.mkdir()
    monkeypatch.setattr(registry, "_PACKAGE", folder)
    read_registry.cache_clear()
    yield folder
    read_registry.cache_clear()


@pytest.fixture
def toy(package):
    """A spec whose file lies in a package of its own."""
    (package / "weights.toml").write_text(TABLE)
    spec = read_registry()["toy"]
    spec.path.mkdir(parents=True)
    (spec.path / "motion.safetensors").write_bytes(CONTENT)
    return spec


# ---- the registry of this package ----------------------------------------------------------------


def test_the_embedded_weights_are_the_files_that_the_registry_describes():
    spec = find_weights(DEFAULT_WEIGHTS)
    verify_files(spec)
    for file in spec.files:
        data = (spec.path / file.name).read_bytes()
        assert len(data) == file.size_bytes
        assert hashlib.sha256(data).hexdigest() == file.sha256


def test_registry_and_bundle_say_the_same():
    for name, spec in read_registry().items():
        bundle = open_bundle(name)
        height, width = bundle.size_hw
        assert (bundle.name, bundle.labels, bundle.fps) == (name, spec.labels, spec.fps)
        assert f"{width}x{height}" == spec.native_size
        files = {stage: s.file for stage, s in bundle.stages.items()} | {"bundle": BUNDLE_FILE}
        assert set(files.values()) == {f.name for f in spec.files}
        hashes = {f.name: f.sha256 for f in spec.files}
        assert bundle.sha256() == {stage: hashes[file] for stage, file in files.items()}
        assert bundle.stages["motion"].config.label_planes == NUM_CLASSES
        assert bundle.stages["first_frame"].config.label_planes == NUM_CLASSES


def test_the_package_holds_no_weights_that_the_registry_does_not_know():
    known = {spec.path / file.name for spec in read_registry().values() for file in spec.files}
    folder = Path(registry.__file__).parent
    assert {*folder.rglob("*.safetensors"), *folder.rglob(BUNDLE_FILE)} == known
    assert {path.parent for path in folder.rglob(BUNDLE_FILE)} == {path.parent for path in known}


def test_an_unknown_name_lists_the_known_ones():
    with pytest.raises(InputError, match="weights 'nope' are not known") as caught:
        find_weights("nope")
    assert caught.value.hint == f"known weights: {', '.join(read_registry())}; or give a folder"
    assert DEFAULT_WEIGHTS in caught.value.hint
    with pytest.raises(InputError, match="weights 'nope' are not known"):
        open_bundle("nope")


# ---- where it lies -------------------------------------------------------------------------------


def test_an_installed_registry_comes_before_that_of_a_checkout(package):
    assert registry_path() == package.parent / "weights.toml"
    (package / "weights.toml").write_text(TABLE)
    assert registry_path() == package / "weights.toml"
    assert list(read_registry()) == ["toy"]


def test_a_missing_registry_is_a_damaged_installation(package):
    with pytest.raises(WeightsError, match=r"weights\.toml: cannot be read") as caught:
        read_registry()
    assert caught.value.hint == "install seg2vid again"


# ---- parsing -------------------------------------------------------------------------------------


def test_every_key_arrives():
    spec = parse_registry(TABLE, name="weights.toml")["toy"]
    assert (spec.name, spec.title, spec.folder) == ("toy", "Toy", "toy")
    assert (spec.labels, spec.native_size, spec.fps) == ("cityscapes-20", "64x32", 10.0)
    assert (spec.license, spec.source) == ("CC0-1.0", "nothing")
    (file,) = spec.files
    assert (file.name, file.size_bytes, file.sha256) == ("motion.safetensors", 17, SHA256)


def test_the_registry_cannot_be_changed():
    parsed = parse_registry(TABLE, name="weights.toml")
    with pytest.raises(TypeError):
        parsed["other"] = parsed["toy"]


def test_broken_toml_is_refused():
    assert "not valid TOML" in error_of(TABLE + "[toy")


def test_a_value_without_a_table_is_refused():
    assert error_of("version = 1") == "weights.toml: [version]: must be a table"


def test_an_unknown_key_is_refused():
    assert error_of(TABLE + "colour = 1\nbranch = 2\n").endswith(
        "[toy]: unknown key branch, colour"
    )


@pytest.mark.parametrize(
    "key", ["title", "folder", "labels", "native_size", "fps", "license", "source", "files"]
)
def test_a_missing_key_is_refused(key):
    lines = [line for line in TABLE.splitlines() if not line.startswith(key)]
    assert error_of("\n".join(lines)).endswith(f"[toy]: missing key {key}")


def test_unknown_and_missing_keys_of_a_file_are_refused():
    message = error_of(TABLE.replace("size_bytes", "bytes"))
    assert message.endswith("[toy] files: unknown key bytes")
    message = error_of(TABLE.replace(f", size_bytes = {len(CONTENT)}", ""))
    assert message.endswith("[toy] files: missing key size_bytes")


@pytest.mark.parametrize(
    "sha256", ["", SHA256[:-1], SHA256 + "0", SHA256[:-1] + "g", SHA256.upper()], ids=len
)
def test_a_malformed_hash_is_refused(sha256):
    message = error_of(TABLE.replace(SHA256, sha256))
    assert message.endswith("motion.safetensors: sha256 must be 64 hexadecimal digits")


@pytest.mark.parametrize("name", ["../motion.safetensors", "/motion.safetensors", "a/b", "a/"])
def test_a_path_instead_of_a_file_name_is_refused(name):
    message = error_of(TABLE.replace("motion.safetensors", name))
    assert message.endswith(f"{name}: a file name, not a path")


# ---- files ---------------------------------------------------------------------------------------


def test_the_hash_is_that_of_all_bytes(tmp_path):
    path = tmp_path / "file"
    for size in (0, 5, (1 << 20) + 3):  # read in blocks of 1 MiB
        path.write_bytes(bytes(range(256)) * (size // 256) + b"x" * (size % 256))
        assert file_sha256(path) == hashlib.sha256(path.read_bytes()).hexdigest()


def test_intact_files_pass(toy):
    verify_files(toy)


@pytest.mark.parametrize(
    ("content", "problem"),
    [
        (None, "missing"),
        (CONTENT[:-1], "16 bytes instead of 17"),
        (CONTENT + b"!", "18 bytes instead of 17"),
        (CONTENT.upper(), f"instead of {SHA256[:12]}..."),
    ],
    ids=["missing", "truncated", "longer", "same size"],
)
def test_a_damaged_file_is_refused_by_name(toy, content, problem):
    path = toy.path / "motion.safetensors"
    path.unlink() if content is None else path.write_bytes(content)
    with pytest.raises(WeightsError) as caught:
        verify_files(toy)
    assert caught.value.message.startswith(f"{path}: ")
    assert problem in caught.value.message
    assert caught.value.hint == "the installation is damaged: install seg2vid again"


def test_embedded_weights_are_checked_before_they_are_used(toy):
    with pytest.raises(InputError, match=r"bundle\.json: cannot be read"):
        open_bundle("toy")  # the file is intact, but there is no description
    (toy.path / "motion.safetensors").write_bytes(CONTENT.upper())
    with pytest.raises(WeightsError, match="sha256"):
        open_bundle("toy")


def test_a_name_comes_before_a_folder_that_happens_to_be_called_so(tmp_path, monkeypatch):
    """Else a folder of results called `street` would stop the next run."""
    (tmp_path / DEFAULT_WEIGHTS).mkdir()
    monkeypatch.chdir(tmp_path)
    assert open_bundle(DEFAULT_WEIGHTS).path == find_weights(DEFAULT_WEIGHTS).path
    with pytest.raises(InputError, match=r"bundle\.json: cannot be read"):
        open_bundle(f"./{DEFAULT_WEIGHTS}")


def test_a_folder_needs_no_registry(tiny_bundle):
    assert open_bundle(str(tiny_bundle)) == read_bundle(tiny_bundle)
