"""A bundle's folder to the Hugging Face Hub, and to an entry for a registry."""

from __future__ import annotations

import json
import re
import sys
import warnings
from contextlib import suppress
from dataclasses import replace
from pathlib import Path

from seg2vid_cli.errors import InputError, WeightsError
from seg2vid_cli.weights.hub import explained, progress_bars
from seg2vid_cli.weights.load import BUNDLE_FILE, read_bundle
from seg2vid_cli.weights.registry import (
    CARD_FILE,
    REPO_ID,
    WeightSpec,
    describe_file,
    format_entry,
    parse_registry,
)

_NOT_STATED = "not stated"


def describe_bundle(folder: Path, *, name: str | None = None) -> WeightSpec:
    """Describe a bundle for a registry, after loading all of it once.

    Args:
        folder: The bundle.
        name: Name of the entry; the bundle's if not given.

    Returns:
        An entry with every file's size and hash.

    Raises:
        InputError: No bundle there.
        WeightsError: The description is malformed, or the name cannot be one.
        CheckpointError: A stage's file does not fill its network.
    """
    bundle = read_bundle(folder)
    for stage in bundle.stages:
        bundle.network(stage)
    card = _front_matter(folder)
    height, width = bundle.size_hw
    names = [BUNDLE_FILE, *(stage.path.name for stage in bundle.stages.values())]
    if (folder / CARD_FILE).is_file():
        names.append(CARD_FILE)
    spec = WeightSpec(
        name=name or bundle.name,
        title=card.get("title", f"Weights {bundle.name}"),
        stages={stage: spec.family for stage, spec in bundle.stages.items()},
        labels=bundle.labels,
        native_size=f"{width}x{height}",
        license=card.get("license_name") or card.get("license", _NOT_STATED),
        source=card.get("source", f"a bundle named {bundle.name}"),
        origin="folder",
        fps=bundle.fps,
        files=tuple(describe_file(folder / name) for name in names),
        path=str(folder.resolve()),
    )
    parse_registry(format_entry(spec), name=str(folder), own=True)  # strict, as it will be read
    return spec


def publish_bundle(
    folder: Path, repo_id: str, *, name: str | None = None, private: bool = False
) -> WeightSpec:
    """Upload a bundle with its model card in one commit.

    Args:
        folder: The bundle; it is loaded once before anything is sent.
        repo_id: `owner/name`; made if needed.
        name: Name of the entry; the bundle's if not given.
        private: Make a private repository.

    Returns:
        The entry, pinned to the commit.

    Raises:
        InputError: No bundle, no model card, or a repository name that cannot be one.
        WeightsError: The bundle is damaged, or the Hub refused.
    """
    if not REPO_ID.fullmatch(repo_id):
        raise InputError(f"repository '{repo_id}' is not understood", hint="give owner/name")
    spec = describe_bundle(folder, name=name)
    if CARD_FILE not in {file.name for file in spec.files}:
        raise InputError(
            f"{folder / CARD_FILE}: missing", hint="write a model card before publishing weights"
        )
    from huggingface_hub import CommitOperationAdd, HfApi

    api = HfApi(library_name="seg2vid")
    what = f"{folder}: not published"
    bars = progress_bars(sys.stderr.isatty())
    with explained(what, repo_id, sending=True), bars, warnings.catch_warnings():
        warnings.simplefilter("ignore")  # on optional settings that the card does not have
        api.create_repo(repo_id, private=private or None, exist_ok=True)
        if private and not api.model_info(repo_id).private:
            raise WeightsError(
                "the repository exists and is public", hint="name another, or leave --private out"
            )
        commit = api.create_commit(
            repo_id,
            operations=[
                CommitOperationAdd(path_in_repo=file.name, path_or_fileobj=folder / file.name)
                for file in spec.files
            ],
            commit_message=f"Add {spec.name}",
        )
    if not re.fullmatch("[0-9a-f]{40}", commit.oid):
        raise WeightsError(f"{repo_id}: the Hub answered with commit '{commit.oid}'")
    return replace(spec, origin="hub", path="", repo_id=repo_id, revision=commit.oid)


def _front_matter(folder: Path) -> dict[str, str]:
    """Plain `key: value` lines of the card's first block, which the Hub reads as YAML."""
    path = folder / CARD_FILE
    if not path.is_file():
        return {}
    lines = path.read_text(encoding="utf-8", errors="replace").splitlines()
    if not lines or lines[0] != "---" or "---" not in lines[1:]:
        return {}
    block = lines[1 : lines.index("---", 1)]
    pairs = (line.partition(":") for line in block if re.match(r"[a-z_]+:\s*\S", line))
    return {key: _plain(value.strip()) for key, _, value in pairs}


def _plain(value: str) -> str:
    """A value of the block, out of its quotes."""
    if value.startswith('"'):
        with suppress(ValueError):
            return str(json.loads(value))
    if len(value) > 1 and value[0] == value[-1] == "'":
        return value[1:-1].replace("''", "'")
    return value
