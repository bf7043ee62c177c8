"""weights.toml and the user's own: strict to read, and the hashes are those of the files."""

from __future__ import annotations

import hashlib
import sys
from dataclasses import replace
from pathlib import Path

import pytest

from seg2vid_cli.errors import InputError, WeightsError
from seg2vid_cli.label_sets import NUM_CLASSES
from seg2vid_cli.weights import registry
from seg2vid_cli.weights.hub import verify_weights
from seg2vid_cli.weights.importers import KINDS
from seg2vid_cli.weights.load import BUNDLE_FILE, LABEL_SETS, STAGES, open_bundle, read_bundle
from seg2vid_cli.weights.publish import describe_bundle
from seg2vid_cli.weights.registry import (
    DEFAULT_WEIGHTS,
    FileSpec,
    add_entries,
    check_file,
    check_name,
    describe_file,
    file_sha256,
    find_weights,
    format_entry,
    parse_registry,
    read_registry,
    registry_path,
    remove_entry,
    user_registry_path,
)

CONTENT = b"weights of a kind"
SHA256 = hashlib.sha256(CONTENT).hexdigest()
REVISION = "0123456789abcdef0123456789abcdef01234567"
FILES = f"""files = [
  {{ name = "motion.safetensors", size_bytes = {len(CONTENT)}, sha256 = "{SHA256}" }},
]
"""
ORIGIN = 'folder = "toy"\n'
TABLE = f"""[toy]
title = "Toy"
stages = {{ first_frame = "label-unet", motion = "seg2vid-flow" }}
labels = "cityscapes-20"
native_size = "64x32"
fps = 10.0
license = "CC0-1.0"
source = "nothing"
{ORIGIN}{FILES}"""
OWN = TABLE.replace(ORIGIN, 'path = "/data/toy"\n').replace("[toy]", "[own]")
HUB = TABLE.replace(ORIGIN, f'repo_id = "me/Toy_1.0"\nrevision = "{REVISION}"\n').replace(
    "[toy]", "[hub]"
)
AUTHORS = TABLE.replace(
    ORIGIN, 'download = "https://example.org/toy"\nimport_as = "seg2vid-two-path"\n'
)
AUTHORS = AUTHORS.replace(FILES, "").replace("[toy]", "[theirs]")


def error_of(text, own=False):
    with pytest.raises(WeightsError) as caught:
        parse_registry(text, name="weights.toml", own=own)
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
    spec.local_folder().mkdir(parents=True)
    (spec.local_folder() / "motion.safetensors").write_bytes(CONTENT)
    return spec


@pytest.fixture
def own_registry(config_folder):
    """Writes the user's registry."""

    def write(text):
        (config_folder / "weights.toml").write_text(text, encoding="utf-8")
        read_registry.cache_clear()
        return config_folder / "weights.toml"

    return write


# ---- the registry of this package ----------------------------------------------------------------


def test_the_embedded_weights_are_the_files_that_the_registry_describes():
    spec = find_weights(DEFAULT_WEIGHTS)
    verify_weights(spec)
    for file in spec.files:
        data = (spec.local_folder() / file.name).read_bytes()
        assert len(data) == file.size_bytes
        assert hashlib.sha256(data).hexdigest() == file.sha256


def embedded():
    return [spec for spec in read_registry().values() if spec.origin == "embedded"]


def test_registry_and_bundle_say_the_same():
    assert DEFAULT_WEIGHTS in [spec.name for spec in embedded()]
    for spec in embedded():
        bundle = open_bundle(spec.name)
        height, width = bundle.size_hw
        assert (bundle.name, bundle.labels, bundle.fps) == (spec.name, spec.labels, spec.fps)
        assert f"{width}x{height}" == spec.native_size
        assert {name: stage.family for name, stage in bundle.stages.items()} == spec.stages
        files = {stage: s.path.name for stage, s in bundle.stages.items()} | {"bundle": BUNDLE_FILE}
        assert set(files.values()) == {f.name for f in spec.files}
        hashes = {f.name: f.sha256 for f in spec.files}
        files.pop("segmenter", None)  # it has no part in a clip
        assert bundle.sha256() == {stage: hashes[file] for stage, file in files.items()}
        if "motion" in bundle.stages:
            assert bundle.stages["motion"].config.label_planes == NUM_CLASSES
        if "first_frame" in bundle.stages:
            assert bundle.stages["first_frame"].config.label_planes == NUM_CLASSES


def test_the_package_holds_no_weights_that_the_registry_does_not_know():
    known = {spec.local_folder() / file.name for spec in embedded() for file in spec.files}
    folder = Path(registry.__file__).parent
    assert {*folder.rglob("*.safetensors"), *folder.rglob(BUNDLE_FILE)} == known
    assert {path.parent for path in folder.rglob(BUNDLE_FILE)} == {path.parent for path in known}


def test_every_entry_names_known_stages_families_and_label_sets():
    for spec in read_registry().values():
        assert spec.labels in LABEL_SETS
        assert (spec.fps is not None) == ("motion" in spec.stages)
        for stage, family in spec.stages.items():
            assert family in STAGES[stage][0]


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
    assert spec.stages == {"first_frame": "label-unet", "motion": "seg2vid-flow"}
    assert (spec.labels, spec.native_size, spec.fps) == ("cityscapes-20", "64x32", 10.0)
    assert (spec.license, spec.source) == ("CC0-1.0", "nothing")
    assert spec.files == (FileSpec(name="motion.safetensors", size_bytes=17, sha256=SHA256),)
    assert spec.size_bytes == 17


@pytest.mark.parametrize(
    ("text", "origin", "where", "folder"),
    [
        (OWN, "folder", "/data/toy", Path("/data/toy")),
        (HUB, "hub", "me/Toy_1.0 @ 01234567", None),
        (AUTHORS, "authors", "https://example.org/toy", None),
    ],
    ids=["folder", "hub", "authors"],
)
def test_weights_lie_elsewhere_too(text, origin, where, folder):
    (spec,) = parse_registry(text, name="weights.toml", own=True).values()
    assert (spec.origin, spec.where, spec.local_folder()) == (origin, where, folder)
    assert [file.name for file in spec.files] == ["motion.safetensors"] * (origin != "authors")
    assert spec.size_bytes == (0 if origin == "authors" else 17)
    hub, authors = (spec.repo_id, spec.revision), (spec.download, spec.import_as)
    assert hub == (("me/Toy_1.0", REVISION) if origin == "hub" else ("", ""))
    theirs = ("https://example.org/toy", "seg2vid-two-path")
    assert authors == (theirs if origin == "authors" else ("", ""))


def test_embedded_weights_lie_inside_the_package():
    spec = parse_registry(TABLE, name="weights.toml")["toy"]
    assert (spec.origin, spec.where) == ("embedded", "inside the package")
    assert spec.local_folder() == Path(registry.__file__).parent / "toy"


def test_only_the_package_embeds_and_only_a_user_has_folders():
    known = "folder, repo_id, download"
    assert error_of(OWN).endswith(f"[own]: needs exactly one of {known}")
    known = "path, repo_id, download"
    assert error_of(TABLE, own=True).endswith(f"[toy]: needs exactly one of {known}")
    for text in (HUB, AUTHORS):
        assert parse_registry(text, name="a") == parse_registry(text, name="a", own=True)


def test_two_origins_are_refused():
    hub = HUB.replace("[hub]\n", '[hub]\ndownload = "https://example.org/toy"\n')
    assert "needs exactly one of" in error_of(hub)
    assert "needs exactly one of" in error_of(hub, own=True)
    both = HUB.replace("[hub]\n", f"[hub]\n{ORIGIN}")
    assert "needs exactly one of" in error_of(both)
    # Where an origin is not allowed, its key is unknown.
    assert error_of(both, own=True).endswith("[hub]: unknown key folder")


def test_weights_without_motion_have_no_rate():
    spec = parse_registry(TABLE.replace("fps = 10.0\n", ""), name="weights.toml")["toy"]
    assert spec.fps is None
    spec = parse_registry(TABLE.replace("10.0", "17"), name="weights.toml")["toy"]
    assert (spec.fps, type(spec.fps)) == (17.0, float)


def test_the_registry_cannot_be_changed():
    parsed = parse_registry(TABLE, name="weights.toml")
    with pytest.raises(TypeError):
        parsed["other"] = parsed["toy"]


def test_broken_toml_is_refused():
    assert "not valid TOML" in error_of(TABLE + "[toy")


@pytest.mark.parametrize("nested", ["[" * 20_000, "{a=" * 20_000], ids=["lists", "tables"])
def test_toml_that_is_nested_without_end_is_refused(nested, own_registry):
    assert "not valid TOML" in error_of(f"x = {nested}")
    path = own_registry(f"x = {nested}")
    with pytest.raises(WeightsError, match="not valid TOML") as caught:
        read_registry()
    assert caught.value.message.startswith(f"{path}: ")
    assert caught.value.hint == "mend the entry in this file of yours, or delete it"


def test_a_value_without_a_table_is_refused():
    assert error_of("version = 1") == "weights.toml: [version]: must be a table"


def test_an_unknown_key_is_refused():
    assert error_of(TABLE + "colour = 1\nbranch = 2\n").endswith(
        "[toy]: unknown key branch, colour"
    )


@pytest.mark.parametrize(
    ("text", "key"),
    [
        *((TABLE, k) for k in ("title", "stages", "labels", "native_size", "license", "source")),
        (HUB, "revision"),
        (AUTHORS, "import_as"),
    ],
)
def test_a_missing_key_is_refused(text, key):
    lines = [line for line in text.splitlines() if not line.startswith(key)]
    assert error_of("\n".join(lines)).endswith(f"]: missing key {key}")


@pytest.mark.parametrize("text", [TABLE, OWN, HUB], ids=["embedded", "folder", "hub"])
def test_files_are_listed_unless_only_the_authors_have_them(text):
    assert error_of(text.replace(FILES, ""), own=text == OWN).endswith("missing key files")
    assert error_of(AUTHORS + FILES).endswith("[theirs]: unknown key files")


@pytest.mark.parametrize(
    ("old", "new", "says"),
    [
        ('"Toy"', '""', "title must be text"),
        ('"Toy"', "7", "title must be text"),
        ('"cityscapes-20"', "20", "labels must be text"),
        ('"CC0-1.0"', '["CC0-1.0"]', "license must be text"),
        ('"64x32"', '"64 x 32"', "native_size must be WxH"),
        ('"64x32"', '"64x032"', "native_size must be WxH"),
        ('"64x32"', '"64x32\\n"', "native_size must be WxH"),
        ('"64x32"', '"٦٤x32"', "native_size must be WxH"),
        ("10.0", '"10"', "fps must be a number"),
        ("10.0", "true", "fps must be a number"),
        ("10.0", "0", "fps must be a number"),
        ("10.0", "-1", "fps must be a number"),
        ("10.0", "1000", "fps must be a number"),
        ("10.0", "nan", "fps must be a number"),
        ("10.0", "inf", "fps must be a number"),
        ("stages = {", "stages = [] #", "stages must be a table of stage = family"),
        ("stages = {", "stages = {} #", "stages must be a table of stage = family"),
        ('"label-unet"', "7", "stages must be a table of stage = family"),
        ("first_frame =", '"first frame" =', "stages must be a table of stage = family"),
        ("17", "17.0", "size_bytes must be a positive whole number"),
        ("17", "0", "size_bytes must be a positive whole number"),
        ("17", "true", "size_bytes must be a positive whole number"),
        (FILES, "files = []", "files must name every file once"),
        (FILES, "files = {}", "files must be a list of tables"),
        (FILES, 'files = ["motion.safetensors"]', "files must be a list of tables"),
    ],
)
def test_a_malformed_value_is_refused(old, new, says):
    assert old in TABLE
    assert error_of(TABLE.replace(old, new)).endswith(says)


def test_a_file_named_twice_is_refused():
    line = FILES.splitlines()[1]
    twice = TABLE.replace(line, f"{line}\n{line}")
    assert error_of(twice).endswith("[toy]: files must name every file once")


@pytest.mark.parametrize(
    "revision",
    ["main", "v1.0", REVISION[:7], REVISION[:-1], REVISION + "0", REVISION.upper(), "g" * 40],
)
def test_a_revision_is_a_whole_commit(revision):
    message = error_of(HUB.replace(REVISION, revision))
    assert message.endswith("[hub]: revision must be a commit, 40 hexadecimal digits")


@pytest.mark.parametrize(
    "repo",
    [
        *(
            "toy",
            "me/",
            "/toy",
            "me/toy/x",
            "../toy",
            "me/..",
            "me/.toy",
            "me\\\\toy",
            "me /toy",
            "",
        ),
        *("me/toy\\n", "https://huggingface.co/me/toy", "me/toy@main", "me/töy"),
    ],
)
def test_a_repository_is_an_owner_and_a_name(repo):
    message = error_of(HUB.replace("me/Toy_1.0", repo))
    assert "repo_id must be " in message


@pytest.mark.parametrize("repo", ["me--you/toy", "me/to..y", "me/toy.", "me/toy.git", "m-/toy"])
def test_a_repository_that_the_hub_cannot_have_is_refused(repo):
    message = error_of(HUB.replace("me/Toy_1.0", repo))
    assert "repo_id must be " in message


@pytest.mark.parametrize("folder", ["../toy", "/toy", "a/b", "a/", ".", "..", ".toy", "a\\\\b"])
def test_an_embedded_folder_is_a_plain_name(folder):
    message = error_of(TABLE.replace('folder = "toy"', f'folder = "{folder}"'))
    assert message.endswith("[toy]: folder must be a plain name")


@pytest.mark.parametrize("path", ["toy", "./toy", "../toy", "~/toy"])
def test_a_folder_of_the_users_is_absolute(path):
    message = error_of(OWN.replace("/data/toy", path), own=True)
    assert message.endswith("[own]: path must be absolute")


@pytest.mark.parametrize(
    "download", ["http://example.org/a", "ftp://example.org/a", "example.org", "https://a b"]
)
def test_a_download_is_an_https_address(download):
    message = error_of(AUTHORS.replace("https://example.org/toy", download))
    assert message.endswith("[theirs]: download must be an https address")


def test_import_as_is_a_kind_of_checkpoint():
    message = error_of(AUTHORS.replace("seg2vid-two-path", "seg2vid"))
    assert message.endswith(f"[theirs]: import_as must be one of {', '.join(KINDS)}")


@pytest.mark.parametrize(
    "name",
    ["../street", "a/b", "a\\\\b", "/a", ".a", "-a", "Street", "a b", "", "straße", "a" * 97],
)
def test_a_name_is_no_path(name):
    message = error_of(TABLE.replace("[toy]", f'["{name}"]'))
    assert message.endswith("a name has lower-case letters, digits and . _ -")
    with pytest.raises(InputError, match="cannot be the name of weights") as caught:
        check_name(name.replace("\\\\", "\\"))
    assert "--name" in caught.value.hint


@pytest.mark.parametrize("name", ["a", "7", "seg2vid-1.0_b", "a" * 96])
def test_a_name_may_have(name):
    check_name(name)
    assert list(parse_registry(TABLE.replace("[toy]", f'["{name}"]'), name="a")) == [name]


def test_unknown_and_missing_keys_of_a_file_are_refused():
    message = error_of(TABLE.replace("size_bytes", "bytes"))
    assert message.endswith("[toy] files: unknown key bytes")
    message = error_of(TABLE.replace(f"size_bytes = {len(CONTENT)}, ", ""))
    assert message.endswith("[toy] files: missing key size_bytes")


@pytest.mark.parametrize(
    "sha256", ["", SHA256[:-1], SHA256 + "0", SHA256[:-1] + "g", SHA256.upper()], ids=len
)
def test_a_malformed_hash_is_refused(sha256):
    message = error_of(TABLE.replace(SHA256, sha256))
    assert message.endswith("motion.safetensors: sha256 must be 64 hexadecimal digits")


@pytest.mark.parametrize(
    "name",
    [
        *("../motion.safetensors", "/motion.safetensors", "a/b", "a/", "..", ".", ".hidden"),
        *("C:x", " a", "", "a\\b", "a\n"),
    ],
)
def test_a_path_instead_of_a_file_name_is_refused(name):
    text = TABLE.replace('"motion.safetensors"', registry._toml(name))
    assert error_of(text).endswith(f"{name!r}: must be a file name, not a path")
    assert error_of(text.replace(registry._toml(name), "7")).endswith(
        "7: must be a file name, not a path"
    )


# ---- files ---------------------------------------------------------------------------------------


def test_the_hash_is_that_of_all_bytes(tmp_path):
    path = tmp_path / "file"
    for size in (0, 5, (1 << 20) + 3):  # read in blocks of 1 MiB
        path.write_bytes(bytes(range(256)) * (size // 256) + b"x" * (size % 256))
        assert file_sha256(path) == hashlib.sha256(path.read_bytes()).hexdigest()


def test_a_file_is_described_and_checked(tmp_path):
    path = tmp_path / "motion.safetensors"
    path.write_bytes(CONTENT)
    described = describe_file(path)
    assert described == FileSpec(name="motion.safetensors", size_bytes=17, sha256=SHA256)
    check_file(path, described, hint="")
    path.write_bytes(CONTENT.upper())
    with pytest.raises(
        WeightsError, match=rf"motion\.safetensors: sha256 .* {SHA256[:12]}"
    ) as caught:
        check_file(path, described, hint="do this")
    assert caught.value.hint == "do this"
    with pytest.raises(WeightsError, match="nothing: missing"):
        check_file(tmp_path / "nothing", described, hint="")


def test_intact_files_pass(toy):
    verify_weights(toy)


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
    path = toy.local_folder() / "motion.safetensors"
    path.unlink() if content is None else path.write_bytes(content)
    with pytest.raises(WeightsError) as caught:
        verify_weights(toy)
    assert caught.value.message.startswith(f"{path}: ")
    assert problem in caught.value.message
    assert caught.value.hint == "the installation is damaged: install seg2vid again"


def test_embedded_weights_are_checked_before_they_are_used(toy):
    with pytest.raises(InputError, match=r"bundle\.json: cannot be read"):
        open_bundle("toy")  # the file is intact, but there is no description
    (toy.local_folder() / "motion.safetensors").write_bytes(CONTENT.upper())
    with pytest.raises(WeightsError, match="sha256"):
        open_bundle("toy")


def test_a_name_comes_before_a_folder_that_happens_to_be_called_so(tmp_path, monkeypatch):
    """Else a folder of results called `street` would stop the next run."""
    (tmp_path / DEFAULT_WEIGHTS).mkdir()
    monkeypatch.chdir(tmp_path)
    folder = find_weights(DEFAULT_WEIGHTS).local_folder()
    assert open_bundle(DEFAULT_WEIGHTS).descriptions == {"bundle": folder / BUNDLE_FILE}
    with pytest.raises(InputError, match=r"bundle\.json: cannot be read"):
        open_bundle(f"./{DEFAULT_WEIGHTS}")


def test_a_folder_needs_no_registry(tiny_bundle):
    assert open_bundle(str(tiny_bundle)) == read_bundle(tiny_bundle)


# ---- the user's own ------------------------------------------------------------------------------


def test_the_users_registry_lies_where_the_platform_has_settings(tmp_path, monkeypatch):
    monkeypatch.setenv("SEG2VID_CONFIG_DIR", str(tmp_path / "chosen"))
    assert user_registry_path() == tmp_path / "chosen" / "weights.toml"
    monkeypatch.setenv("SEG2VID_CONFIG_DIR", "")  # as if it were not set
    monkeypatch.setattr(Path, "home", lambda: tmp_path)
    for platform, variable, default in (
        ("linux", "XDG_CONFIG_HOME", ".config"),
        ("darwin", None, "Library/Application Support"),
        ("win32", "APPDATA", "AppData/Roaming"),
    ):
        monkeypatch.setattr(sys, "platform", platform)
        if variable:
            monkeypatch.setenv(variable, str(tmp_path / "settings"))
            assert user_registry_path() == tmp_path / "settings" / "seg2vid" / "weights.toml"
            monkeypatch.delenv(variable)
        assert user_registry_path() == tmp_path / default / "seg2vid" / "weights.toml"


def test_the_users_weights_come_after_the_package_s(own_registry):
    before = list(read_registry())
    own_registry(OWN + HUB)
    assert list(read_registry()) == [*before, "own", "hub"]
    assert find_weights("own").path == "/data/toy"


def test_the_users_weights_cannot_take_the_place_of_those_that_come_along(own_registry):
    path = own_registry(OWN.replace("[own]", f"[{DEFAULT_WEIGHTS}]"))
    with pytest.raises(
        WeightsError, match=rf"\[{DEFAULT_WEIGHTS}\] is the name of weights"
    ) as caught:
        read_registry()
    assert str(path) in caught.value.message
    assert caught.value.hint == "give the entry another name"


def test_what_only_the_authors_have_may_be_the_users(own_registry):
    assert read_registry()["seg2vid-kth"].origin == "authors"
    own_registry(OWN.replace("[own]", "[seg2vid-kth]"))
    spec = find_weights("seg2vid-kth")
    assert (spec.origin, spec.path) == ("folder", "/data/toy")


@pytest.mark.parametrize("content", [b"[own", b"[own]\nx = 1", b"\xff\xfe"], ids=str)
def test_a_damaged_registry_of_the_users_is_named(config_folder, content):
    path = config_folder / "weights.toml"
    path.write_bytes(content)
    with pytest.raises(WeightsError) as caught:
        read_registry()
    assert caught.value.message.startswith(f"{path}: ")
    mend = "mend the entry in this file of yours, or delete it"
    text = content.startswith(b"[")
    assert caught.value.hint == mend if text else caught.value.hint
    for change in (lambda: add_entries(HUB, name="hub.toml"), lambda: remove_entry("own")):
        with pytest.raises(WeightsError, match=r"weights\.toml") as caught:
            change()
        assert caught.value.hint == mend if text else caught.value.hint
    assert path.read_bytes() == content


def test_added_entries_come_back_as_they_were(config_folder):
    text = OWN + HUB + AUTHORS
    assert add_entries(text, name="new.toml") == ("own", "hub", "theirs")
    given = parse_registry(text, name="new.toml", own=True)
    assert {name: read_registry()[name] for name in given} == given
    assert [path.name for path in config_folder.iterdir()] == ["weights.toml"]


def test_adding_leaves_what_is_there(own_registry):
    path = own_registry("# mine\n" + OWN)
    assert add_entries(HUB, name="new.toml") == ("hub",)
    assert path.read_text().startswith("# mine\n" + OWN)
    assert list(read_registry())[-2:] == ["own", "hub"]


def test_the_folder_of_the_users_registry_is_made(tmp_path, monkeypatch):
    monkeypatch.setenv("SEG2VID_CONFIG_DIR", str(tmp_path / "a" / "b"))
    add_entries(HUB, name="new.toml")
    assert find_weights("hub").repo_id == "me/Toy_1.0"


@pytest.mark.parametrize("taken", [DEFAULT_WEIGHTS, "own"])
def test_a_name_that_is_taken_is_refused(own_registry, taken):
    path = own_registry(OWN)
    with pytest.raises(InputError, match=f"weights '{taken}' are known already"):
        add_entries(HUB + OWN.replace("[own]", f"[{taken}]"), name="new.toml")
    assert path.read_text() == OWN


def test_nothing_is_added_of_what_is_malformed(own_registry):
    path = own_registry(OWN)
    with pytest.raises(WeightsError, match=r"new\.toml: \[toy\]: needs exactly one"):
        add_entries(HUB + TABLE, name="new.toml")
    with pytest.raises(InputError, match=r"new\.toml: holds no entry"):
        add_entries("# nothing\n", name="new.toml")
    assert path.read_text() == OWN


def test_an_entry_is_removed_and_the_others_stay(own_registry):
    own_registry(OWN + HUB + AUTHORS)
    before = read_registry()
    remove_entry("hub")
    assert dict(read_registry()) == {n: spec for n, spec in before.items() if n != "hub"}
    remove_entry("theirs")
    remove_entry("own")
    assert user_registry_path().read_text() == ""


def test_only_own_entries_are_removed(own_registry):
    own_registry(OWN)
    for name in (DEFAULT_WEIGHTS, "nope"):
        with pytest.raises(InputError, match=f"'{name}' is no entry of yours") as caught:
            remove_entry(name)
        assert caught.value.hint == f"yours are in {user_registry_path()}: own"


def test_a_registry_that_cannot_be_written_stays_as_it_is(own_registry, monkeypatch):
    path = own_registry(OWN)

    def full(self, target):
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(Path, "replace", full)
    for change in (lambda: add_entries(HUB, name="new.toml"), lambda: remove_entry("own")):
        with pytest.raises(WeightsError, match="cannot be written: No space left") as caught:
            change()
        assert caught.value.hint == "SEG2VID_CONFIG_DIR=DIR moves it"
        assert caught.value.message.startswith(f"{path}: ")
    assert path.read_text() == OWN
    assert [entry.name for entry in path.parent.iterdir()] == ["weights.toml"]


def test_a_file_in_the_place_of_the_folder_is_an_error(tmp_path, monkeypatch):
    (tmp_path / "file").write_bytes(b"")
    monkeypatch.setenv("SEG2VID_CONFIG_DIR", str(tmp_path / "file"))
    with pytest.raises(WeightsError, match="cannot be written"):
        add_entries(HUB, name="new.toml")
    assert DEFAULT_WEIGHTS in read_registry()


def test_settings_that_may_not_be_looked_into_are_named(monkeypatch):
    """As under another user with the home of the first."""
    path = user_registry_path()
    for name in ("stat", "open", "read_text"):
        real = getattr(Path, name)

        def forbidden(self, *args, real=real, **options):
            if self == path:
                raise PermissionError(13, "Permission denied", str(self))
            return real(self, *args, **options)

        monkeypatch.setattr(Path, name, forbidden)
    with pytest.raises(WeightsError, match=r"weights\.toml: cannot be read: Permission denied"):
        read_registry()


@pytest.mark.parametrize("text", [TABLE, OWN, HUB, AUTHORS], ids=lambda text: text[:8].strip())
def test_a_formatted_entry_is_read_as_the_same(text):
    own = text != TABLE
    (spec,) = parse_registry(text, name="a", own=own).values()
    assert parse_registry(format_entry(spec), name="b", own=own) == {spec.name: spec}


def test_any_text_survives_formatting():
    odd = '"quoted" back\\slash ü 街 \t\n\x00\x1f\x7f\x85\u2028 # [x] \''
    text = OWN.replace('"Toy"', registry._toml(odd)).replace("[own]", '["1.0-b"]')
    (spec,) = parse_registry(text, name="a", own=True).values()
    assert (spec.title, spec.name) == (odd, "1.0-b")
    assert parse_registry(format_entry(spec), name="b", own=True) == {"1.0-b": spec}


def test_own_weights_are_opened_by_name_and_checked(tiny_bundle, own_registry):
    files = [describe_file(path) for path in sorted(tiny_bundle.iterdir())]
    lines = [
        f'  {{ name = "{f.name}", size_bytes = {f.size_bytes}, sha256 = "{f.sha256}" }},'
        for f in files
    ]
    stages = 'stages = { first_frame = "label-unet", motion = "seg2vid-flow", refine = '
    text = OWN.replace(FILES, "\n".join(["files = [", *lines, "]", ""]))
    text = text.replace("/data/toy", str(tiny_bundle))
    own_registry(text)
    with pytest.raises(WeightsError, match=r"the registry promises .*, the files hold .*refine"):
        open_bundle("own")
    old = next(line for line in text.splitlines() if line.startswith("stages"))
    text = text.replace(old, f'{stages}"seg2vid-refine" }}')
    own_registry(text)
    bundle = open_bundle("own")
    assert bundle.name == "own"  # not "tiny", as the folder calls itself
    assert bundle.sha256() == read_bundle(tiny_bundle).sha256()
    assert bundle.hashes == {tiny_bundle / f.name: f.sha256 for f in files}
    own_registry(text.replace(files[1].sha256, SHA256))
    with pytest.raises(WeightsError, match=files[1].name) as caught:
        open_bundle("own")
    assert caught.value.hint == "restore the files, or add the folder again"


@pytest.mark.parametrize("left_out", ["first_frame", "motion", "refine"])
def test_an_entry_has_to_list_every_stage_s_file(tiny_bundle, left_out):
    spec = describe_bundle(tiny_bundle, name="own")
    some = tuple(f for f in spec.files if f.name != f"{left_out}.safetensors")
    add_entries(format_entry(replace(spec, files=some)), name="own.toml")
    with pytest.raises(WeightsError) as caught:
        open_bundle("own")
    assert caught.value.message == (
        f"weights 'own': {left_out}.safetensors is not among the registry's files"
    )
    assert caught.value.hint == "the entry has to list every file with its hash"


def test_imported_weights_in_a_folder_of_their_name_are_opened(tiny_bundle, tmp_path, monkeypatch):
    (tmp_path / "seg2vid-kth").symlink_to(tiny_bundle)
    with pytest.raises(WeightsError, match="cannot be downloaded by this command") as caught:
        open_bundle("seg2vid-kth")
    assert find_weights("seg2vid-kth").download in caught.value.hint
    monkeypatch.chdir(tmp_path)
    assert open_bundle("seg2vid-kth").name == "tiny"
