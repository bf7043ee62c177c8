"""README: its links lead somewhere, its options exist, its Python runs, its facts hold."""

from __future__ import annotations

import os
import re
import subprocess
import sys
from pathlib import Path

import pytest
from typer.main import get_command

from seg2vid_cli.cli.app import app
from seg2vid_cli.label_sets import ENCODINGS
from seg2vid_cli.weights.registry import read_registry

ROOT = Path(__file__).resolve().parent.parent
README = (ROOT / "README.md").read_text(encoding="utf-8")
CARD = ROOT / "seg2vid_cli" / "weights" / "street" / "README.md"


def blocks(language: str) -> list[str]:
    return re.findall(rf"```{language}\n(.*?)```", README, flags=re.DOTALL)


def commands() -> list[list[str]]:
    lines = "".join(blocks("sh")).replace("\\\n", " ").splitlines()
    parts = [part.strip() for line in lines for part in line.split("#")[0].split("&&")]
    return [part.split() for part in parts if part.startswith("seg2vid ")]


@pytest.mark.parametrize("document", ["README.md", "examples/README.md"])
def test_links_lead_to_files(document):
    text = (ROOT / document).read_text(encoding="utf-8")
    links = [t for t in re.findall(r"\]\(([^)#]+)\)", text) if not t.startswith("http")]
    missing = [t for t in links if not ((ROOT / document).parent / t).exists()]
    assert not missing


def test_there_are_commands_to_check():
    assert len(commands()) > 15


@pytest.mark.parametrize("command", commands(), ids=" ".join)
def test_commands_and_options_exist(command):
    node, rest = get_command(app), command[1:]
    while rest and rest[0] in getattr(node, "commands", {}):
        node, rest = node.commands[rest[0]], rest[1:]
    known = {option for p in node.params for option in (*p.opts, *p.secondary_opts)}
    known |= {"--help"}
    assert {word for word in rest if word.startswith("-")} <= known


def test_the_first_command_names_an_example():
    (labels,) = [word for word in commands()[0] if word.startswith("examples/")]
    assert (ROOT / labels).is_file()


def test_every_encoding_is_explained():
    assert [name for name in ENCODINGS if f"`{name}`" not in README] == []


def test_the_python_example_runs(tmp_path):
    (code,) = blocks("python")
    (tmp_path / "examples").symlink_to(ROOT / "examples")
    environment = {**os.environ, "PYTHONPATH": str(ROOT)}
    result = subprocess.run(
        [sys.executable, "-c", code], cwd=tmp_path, env=environment, capture_output=True, text=True
    )
    assert result.returncode == 0, result.stderr
    assert (tmp_path / "suburb.mp4").stat().st_size > 1000
    assert len(result.stdout.splitlines()) > 9


def test_facts_about_the_weights_are_the_registry_s():
    embedded = [spec for spec in read_registry().values() if spec.origin == "embedded"]
    in_all = 0.0
    for spec in embedded:
        megabytes = sum(file.size_bytes for file in spec.files) / 2**20
        rate = "-" if spec.fps is None else f"{spec.fps:g}"
        facts = (f"`{spec.name}`", spec.native_size, rate, f"{megabytes:.1f} MiB", spec.license)
        assert f"| {' | '.join(facts)} |" in README
        card = CARD.parent.parent / spec.name / CARD.name
        assert "CC BY-NC 4.0" in card.read_text(encoding="utf-8")
        assert megabytes < 20
        in_all += megabytes
    assert in_all < 40


@pytest.mark.parametrize(
    "path",
    sorted(p.relative_to(ROOT) for p in ROOT.glob("seg2vid_cli/weights/*/README.md")),
    ids=str,
)
def test_no_blank_of_a_model_card_was_left_unfilled(path):
    card = (ROOT / path).read_text(encoding="utf-8")
    assert not re.findall(r"%\(\w*\)|\{\w*\}|TODO|XXX", card)
