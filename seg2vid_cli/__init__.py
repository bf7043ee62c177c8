"""Turn one semantic label map into a video.

Shape letters used in every docstring: `B` batch, `T` future frames of one pass, `K` class planes,
`C` channels, `H W` height and width. Pictures are RGB, float32, [0, 1], channels first, unless a
docstring says `uint8 (H, W, 3)`.
"""

from __future__ import annotations

from importlib import import_module
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from seg2vid_cli.labels import LabelMap, labels_from_array, read_labels
    from seg2vid_cli.outputs import Outputs, Report, generate_file, write_clip
    from seg2vid_cli.pipeline import Clip, ClipFrame, Pipeline
    from seg2vid_cli.recipe import Recipe, read_recipe

__version__ = "0.1.0"
__all__ = [
    "Clip",
    "ClipFrame",
    "LabelMap",
    "Outputs",
    "Pipeline",
    "Recipe",
    "Report",
    "__version__",
    "generate_file",
    "labels_from_array",
    "read_labels",
    "read_recipe",
    "write_clip",
]

_HOMES = {
    "labels": ("LabelMap", "labels_from_array", "read_labels"),
    "outputs": ("Outputs", "Report", "generate_file", "write_clip"),
    "pipeline": ("Clip", "ClipFrame", "Pipeline"),
    "recipe": ("Recipe", "read_recipe"),
}


def __getattr__(name: str) -> Any:
    # Public names are found when they are asked for, so that `seg2vid --help` never loads torch.
    for module, names in _HOMES.items():
        if name in names:
            return getattr(import_module(f"seg2vid_cli.{module}"), name)
    raise AttributeError(f"module 'seg2vid_cli' has no attribute '{name}'")
