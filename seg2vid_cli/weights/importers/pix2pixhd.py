"""pix2pixHD's generators (`latest_net_G.pth`) at the published depth: 4 halvings, 9 and 3 blocks.

Mirrors NVIDIA/pix2pixHD at 5a2c87201c59, models/networks.py: `GlobalGenerator`, `LocalEnhancer`
(one enhancer) and `ResnetBlock`. Layers are numbered with their padding, norm and activation.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping

from seg2vid_cli.errors import CheckpointError
from seg2vid_cli.networks.pix2pixhd import (
    GlobalConfig,
    GlobalGenerator,
    LocalConfig,
    LocalEnhancer,
)
from seg2vid_cli.weights.importers import Kind
from seg2vid_cli.weights.importers.checkpoint import StateDict
from seg2vid_cli.weights.importers.layout import (
    CONV,
    NORM,
    Conversion,
    Part,
    Renames,
    Row,
    positive,
    rename,
    size,
    table,
)

HALVINGS, BLOCKS, DETAIL_BLOCKS = 4, 9, 3
_UP = 4 + 3 * HALVINGS + BLOCKS  # number of the first transposed convolution: 25


def _blocks(old: str, start: int, new: str, count: int) -> Iterator[Row]:
    for i in range(count):
        yield f"{old}.{start + i}.conv_block.1", f"{new}.{i}.first", CONV
        yield f"{old}.{start + i}.conv_block.5", f"{new}.{i}.second", CONV


def _trunk_rows(new: str) -> Iterator[Row]:
    yield "model.1", f"{new}.stem", CONV
    for i in range(HALVINGS):
        yield f"model.{4 + 3 * i}", f"{new}.down.{i}", CONV
    yield from _blocks("model", 4 + 3 * HALVINGS, f"{new}.middle", BLOCKS)
    for i in range(HALVINGS):
        yield f"model.{_UP + 3 * i}", f"{new}.up.{i}", CONV


def _detail_rows() -> Iterator[Row]:
    yield "model1_1.1", "detail.stem", CONV
    yield "model1_1.4", "detail.down.0", CONV
    yield from _blocks("model1_2", 0, "detail.middle", DETAIL_BLOCKS)
    yield f"model1_2.{DETAIL_BLOCKS}", "detail.up.0", CONV


_TO_RGB = f"model.{_UP + 3 * HALVINGS + 1}"
_LOCAL_TO_RGB = f"model1_2.{DETAIL_BLOCKS + 4}"
_TRUNK = tuple(_trunk_rows("trunk"))
_LOCAL = (*_trunk_rows("coarse"), *_detail_rows())
GLOBAL: Renames = table((*_TRUNK, (_TO_RGB, "to_rgb", CONV)))
LOCAL: Renames = table((*_LOCAL, (_LOCAL_TO_RGB, "to_rgb", CONV)))

_STATISTICS = "statistics that instance norm kept before PyTorch 0.4 and does not use"


def _dropped(rows: tuple[Row, ...]) -> Mapping[str, str]:
    # The norm follows its convolution directly, so its number is one higher.
    norms = (f"{old.rpartition('.')[0]}.{int(old.rpartition('.')[2]) + 1}" for old, _, _ in rows)
    return {f"{norm}.{leaf}": _STATISTICS for norm in norms for leaf in NORM[2:]}


def convert_global(source: StateDict) -> Conversion:
    """Rename the global generator's tensors into the stage `first_frame`.

    Raises:
        CheckpointError: A tensor that this layout does not have, or one that is missing.
    """
    return rename(source, {"first_frame": GLOBAL}, _dropped(_TRUNK))


def convert_local(source: StateDict) -> Conversion:
    """Rename the local enhancer's tensors into the stage `first_frame`.

    Raises:
        CheckpointError: A tensor that this layout does not have, or one that is missing.
    """
    return rename(source, {"first_frame": LOCAL}, _dropped(_LOCAL))


def describe(source: StateDict, kind: Kind) -> tuple[dict[str, Part], tuple[str, ...]]:
    """Work out the generator's configuration from the tensors' shapes; the size is label2city's.

    Args:
        source: Tensors by original name; the kind's `convert` accepts them.
        kind: One of the pix2pixHD kinds.

    Returns:
        The stage, and remarks on what had to be assumed (none).

    Raises:
        CheckpointError: The shapes do not fit together.
    """
    planes = size(source, "model.1.weight", 1) - 1
    positive(label_planes=planes)
    channels = tuple(size(source, f"model.{1 + 3 * i}.weight", 0) for i in range(HALVINGS + 1))
    if kind == "pix2pixhd-global":
        part = Part(
            family=kind,
            network=GlobalGenerator,
            config=GlobalConfig(
                size_hw=(512, 1024), label_planes=planes, channels=channels, blocks=BLOCKS
            ),
            renames=GLOBAL,
        )
        return {"first_frame": part}, ()
    full, half = (size(source, f"model1_1.{i}.weight", 0) for i in (1, 4))
    if half != channels[0]:
        raise CheckpointError(
            f"the shapes do not fit together: the enhancer has {half} channels at half size, the "
            f"global generator {channels[0]}"
        )
    part = Part(
        family=kind,
        network=LocalEnhancer,
        config=LocalConfig(
            size_hw=(1024, 2048),
            label_planes=planes,
            channels=channels,
            blocks=BLOCKS,
            detail_channels=(full, half),
            detail_blocks=DETAIL_BLOCKS,
        ),
        renames=LOCAL,
    )
    return {"first_frame": part}, ()
