"""What may import what, read from the sources, and what must not load torch."""

from __future__ import annotations

import ast
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

import seg2vid_cli

PACKAGE = Path(seg2vid_cli.__file__).parent

# Each part imports only parts that stand before it (or itself). A new part has to find its place.
ORDER = (
    "errors",
    "numbered",
    "label_sets",
    "labels",
    "label_view",
    "device",
    "sample",
    "sketch",
    "palette",
    "networks",
    "first_frame",
    "edges",
    "warp",
    "camera",
    "motion",
    "keyframes",
    "refine",
    "video",
    "visualize",
    "page",
    "recipe",
    "segment",
    "weights",
    "saliency_metrics",
    "saliency",
    "saliency_files",
    "pipeline",
    "translate",
    "outputs",
    "batch",
    "bench",
    "training",
    "cli",
    "__main__",
)
WITHOUT_TORCH = (
    "seg2vid_cli",
    "seg2vid_cli.labels",
    "seg2vid_cli.label_view",
    "seg2vid_cli.video",
    "seg2vid_cli.visualize",
    "seg2vid_cli.page",
    "seg2vid_cli.sample",
    "seg2vid_cli.recipe",
    "seg2vid_cli.weights.importers",
    "seg2vid_cli.weights.registry",
    "seg2vid_cli.weights.hub",
    "seg2vid_cli.cli",
)


def modules() -> dict[str, ast.Module]:
    """Every module of the package by its path, such as `networks/layers`."""
    return {
        path.relative_to(PACKAGE).with_suffix("").as_posix(): ast.parse(path.read_text("utf-8"))
        for path in sorted(PACKAGE.rglob("*.py"))
    }


MODULES = modules()


def imported(tree: ast.Module) -> Iterator[str]:
    """All modules that are imported anywhere, also inside functions, with what is taken of them."""
    for node in ast.walk(tree):
        if isinstance(node, ast.Import):
            yield from (alias.name for alias in node.names)
        elif isinstance(node, ast.ImportFrom):
            assert not node.level, "imports are absolute"
            yield from (f"{node.module}.{alias.name}" for alias in node.names)


def own_parts(tree: ast.Module) -> set[str]:
    """Parts of this package that a module imports."""
    names = {name.removeprefix("seg2vid_cli.") for name in imported(tree) if ours(name)}
    return {name.split(".")[0] for name in names} - {"__version__"}


def ours(name: str) -> bool:
    return name.split(".")[0] == "seg2vid_cli"


def calls(tree: ast.Module) -> set[str]:
    return {ast.unparse(node.func) for node in ast.walk(tree) if isinstance(node, ast.Call)}


def part(module: str) -> str:
    return module.split("/")[0]


@pytest.mark.parametrize("module", [m for m in MODULES if m != "__init__"])
def test_a_part_imports_only_earlier_parts(module):
    assert part(module) in ORDER
    place = ORDER.index(part(module))
    later = {other for other in own_parts(MODULES[module]) if ORDER.index(other) > place}
    assert not later


@pytest.mark.parametrize("module", [m for m in MODULES if part(m) == "networks"])
def test_networks_import_nothing_of_ours_but_their_parts_and_touch_no_files(module):
    parts = tuple(f"seg2vid_cli.networks.{name}." for name in ("efficientnet", "layers", "layout"))
    for name in imported(MODULES[module]):
        assert not ours(name) or name.startswith(parts), name
        assert name.split(".")[0] not in {"os", "pathlib", "io", "urllib", "logging"}, name
    assert not calls(MODULES[module]) & {"open", "print", "torch.load", "torch.save"}


@pytest.mark.parametrize("module", [m for m in MODULES if part(m) != "training"])
def test_only_the_train_command_imports_training(module):
    found = [n for n in imported(MODULES[module]) if n.startswith("seg2vid_cli.training")]
    assert not found or module == "cli/train"


def test_only_the_command_line_imports_importers():
    """And the registry the names of their kinds, which it checks."""
    for module, tree in MODULES.items():
        found = {n for n in imported(tree) if n.startswith("seg2vid_cli.weights.importers")}
        if module == "weights/registry":
            found -= {f"seg2vid_cli.weights.importers.{name}" for name in ("Kind", "KINDS")}
        assert not found or module.startswith(("weights/importers/", "cli/")), module


def test_pickles_are_opened_in_three_places_and_never_run():
    """Original checkpoints when they are imported or begun with, and training's own."""
    places = set()
    for module, tree in MODULES.items():
        for node in ast.walk(tree):
            if not isinstance(node, ast.Call):
                continue
            called = ast.unparse(node.func)
            assert not called.startswith(("pickle.load", "pickle.Unpickler")), module
            if called == "torch.load":
                places.add(module)
                options = {k.arg: ast.unparse(k.value) for k in node.keywords}
                assert options.get("weights_only") == "True", module
    assert places <= {"weights/importers/checkpoint", "training/loop", "training/imagenet"}


def test_numpy_files_are_opened_without_pickles():
    places = set()
    for module, tree in MODULES.items():
        for node in ast.walk(tree):
            if isinstance(node, ast.Call) and ast.unparse(node.func) in ("np.load", "numpy.load"):
                places.add(module)
                options = {k.arg: ast.unparse(k.value) for k in node.keywords}
                assert options.get("allow_pickle") == "False", module
    assert "weights/importers/checkpoint" in places


@pytest.mark.parametrize("module", [m for m in MODULES if part(m) not in {"cli", "training"}])
def test_library_code_neither_prints_nor_exits(module):
    assert not calls(MODULES[module]) & {"print", "exit", "sys.exit", "sys.stdout.write"}
    assert "typer" not in {name.split(".")[0] for name in imported(MODULES[module])}


def test_what_needs_no_network_does_not_load_torch():
    code = f"""
import importlib, sys
for name in {WITHOUT_TORCH}:
    importlib.import_module(name)
    assert "torch" not in sys.modules, f"{{name}} loads torch"
"""
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=False)
    assert (done.returncode, done.stderr) == (0, "")


def test_generating_needs_no_opencv():
    """OpenCV comes with the training extra only."""
    code = """
import sys
sys.modules["cv2"] = None
import seg2vid_cli.outputs
assert "seg2vid_cli.training" not in sys.modules
"""
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=False)
    assert (done.returncode, done.stderr) == (0, "")


def test_public_names_are_those_of_their_modules():
    from seg2vid_cli import labels, outputs, pipeline, recipe

    homes = (labels, outputs, pipeline, recipe)
    for name in set(seg2vid_cli.__all__) - {"__version__"}:
        assert any(getattr(home, name, None) is getattr(seg2vid_cli, name) for home in homes), name
    with pytest.raises(AttributeError, match="no attribute 'nothing'"):
        _ = seg2vid_cli.nothing
