"""seg2vid's checkpoints: one file holds the motion and the refinement network.

Mirrors junting/seg2vid at 34e7ad19e82f: src/models/multiframe_w_mask_genmask_two_path.py (`VAE`;
the sampling networks of the one-path and label-free files beside it have the same names) and
src/models/vgg_128.py (`RefineNet`).
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import Literal

from seg2vid_cli.errors import CheckpointError
from seg2vid_cli.networks.seg2vid_flow import FlowConfig, Seg2VidFlow
from seg2vid_cli.networks.seg2vid_refine import RefineConfig, Seg2VidRefine
from seg2vid_cli.weights.importers import Kind
from seg2vid_cli.weights.importers.checkpoint import StateDict
from seg2vid_cli.weights.importers.layout import (
    CONV,
    CONV_ONLY,
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


def _block(old: str, new: str, leaves: tuple[str, ...] = CONV) -> Iterator[Row]:
    yield f"{old}.main.0", f"{new}.main.0", leaves
    yield f"{old}.main.1", f"{new}.main.1", NORM


def _up(old: str, new: str) -> Iterator[Row]:
    yield f"{old}.main.0", f"{new}.first.main.0", CONV
    yield f"{old}.main.1", f"{new}.first.main.1", NORM
    yield f"{old}.main.3", f"{new}.second.main.0", CONV
    yield f"{old}.main.4", f"{new}.second.main.1", NORM


def _gate(old: str, new: str) -> Iterator[Row]:
    yield f"{old}.conv", f"{new}.conv", CONV
    yield f"{old}.bn", f"{new}.bn", NORM


def _head(old: str, new: str) -> Iterator[Row]:
    yield from _up(f"{old}.main.0", f"{new}.up")
    yield f"{old}.main.1", f"{new}.out", CONV


def _motion_rows() -> Iterator[Row]:
    yield "encoder.econv1.main.0", "encoder.0.main.0", CONV
    yield from _block("encoder.econv2", "encoder.1", CONV_ONLY)
    yield from _block("encoder.econv3", "encoder.2", CONV_ONLY)
    yield from _block("encoder.econv4", "encoder.3", CONV_ONLY)
    yield "fc", "latent_fc", CONV
    yield "zconv.main.0", "latent_conv.main.0", CONV
    yield from _block("flow_decoder.dconv1", "merge", CONV_ONLY)
    yield from _up("flow_decoder.dconv2", "up1")
    yield from _up("flow_decoder.dconv3", "up2")
    yield from _gate("flow_decoder.gateconv1", "gate1")
    yield from _up("flow_decoder.dconv4", "up3")
    yield from _gate("flow_decoder.gateconv2", "gate2")
    yield from _head("flownext", "flow_head")
    yield from _head("flowprev", "flow_back_head")
    yield from _head("get_mask", "visibility_head")


def _refine_rows() -> Iterator[Row]:
    encoder, decoder = "refine_net.image_encoder", "refine_net.image_decoder"
    for stage, blocks in enumerate((2, 2, 3, 3, 3)):
        for block in range(blocks):
            yield from _block(f"{encoder}.c{stage + 1}.{block}", f"down.{stage}.{block}")
    for old, new in ((f"{encoder}.c6", "narrow"), (f"{decoder}.upc1", "widen")):
        yield f"{old}.0", f"{new}.0", CONV
        yield f"{old}.1", f"{new}.1", NORM
    for stage, blocks in enumerate((3, 3, 3, 2, 1)):
        for block in range(blocks):
            yield from _block(f"{decoder}.upc{stage + 2}.{block}", f"up.{stage}.{block}")
    yield f"{decoder}.upc6.1", "out", CONV


MOTION: Renames = table(_motion_rows())
REFINE: Renames = table(_refine_rows())

_POSTERIOR = "the motion encoder, which only training uses"
DROPPED: Mapping[str, str] = {
    "motion_net_bg.": _POSTERIOR,
    "motion_net_fg.": _POSTERIOR,
    "motion_net.": _POSTERIOR,
    "vgg_net.": "the features of a training loss",
}


def convert(source: StateDict) -> Conversion:
    """Rename a checkpoint's tensors into the stages `motion` and `refine`.

    Raises:
        CheckpointError: A tensor that this layout does not have, or one that is missing.
    """
    return rename(source, {"motion": MOTION, "refine": REFINE}, DROPPED)


def describe(source: StateDict, kind: Kind) -> tuple[dict[str, Part], tuple[str, ...]]:
    """Work out both networks' configurations.

    Widths, label planes and frames per pass follow from the tensors' shapes; upsampling and size
    have left no trace in a checkpoint and follow from the kind and the picture's channels.

    Args:
        source: Tensors by original name; `convert` accepts them.
        kind: One of the seg2vid kinds.

    Returns:
        Both stages, and remarks on what had to be assumed.

    Raises:
        CheckpointError: The shapes do not fit together or belong to another kind.
    """
    flow, remarks = _flow_config(source, kind)
    encoder = "refine_net.image_encoder"
    c1, c2, c3, c4, c5 = (size(source, f"{encoder}.c{i}.0.main.0.weight", 0) for i in range(1, 6))
    refine = RefineConfig(
        image_channels=flow.image_channels,
        channels=(c1, c2, c3, c4, c5),
        bottleneck=size(source, f"{encoder}.c6.0.weight", 0),
    )
    parts = {
        "motion": Part(
            family="seg2vid-flow",
            network=Seg2VidFlow,
            config=flow,
            options={"downscale": 1},
            renames=MOTION,
        ),
        "refine": Part(
            family="seg2vid-refine",
            network=Seg2VidRefine,
            config=refine,
            options={"keep_visible": False},
            renames=REFINE,
        ),
    }
    return parts, remarks


def _flow_config(source: StateDict, kind: Kind) -> tuple[FlowConfig, tuple[str, ...]]:
    c1, c2, c3, c4 = (size(source, f"encoder.econv{i}.main.0.weight", 0) for i in range(1, 5))
    image = size(source, "refine_net.image_encoder.c1.0.main.0.weight", 1)
    planes = size(source, "encoder.econv1.main.0.weight", 1) - image
    latent_channels = size(source, "zconv.main.0.weight", 1) - c4
    frame_channels = size(source, "flow_decoder.dconv1.main.0.weight", 1) - c4
    positive(latent_channels=latent_channels, frame_channels=frame_channels, planes=planes + 1)
    frames = size(source, "zconv.main.0.weight", 0) // frame_channels
    positive(frames=frames)
    _check_kind(source, kind, planes)
    background, foreground, remarks = _latent_split(source, kind)
    upsampling: Literal["bilinear", "nearest"] = "bilinear" if planes else "nearest"
    config = FlowConfig(
        size_hw=(128, 128) if image == 1 else (128, 256),
        image_channels=image,
        label_planes=planes,
        num_frames=frames,
        channels=(c1, c2, c3, c4),
        background_latents=background,
        foreground_latents=foreground,
        latent_row=size(source, "fc.weight", 0),
        latent_channels=latent_channels,
        frame_channels=frame_channels,
        head_channels=size(source, "flownext.main.0.main.3.weight", 0),
        upsampling=upsampling,
    )
    try:
        _ = config.latent_rows
    except ValueError as error:
        raise CheckpointError(str(error)) from error
    return config, remarks


def _check_kind(source: StateDict, kind: Kind, planes: int) -> None:
    two_path = any(name.startswith("motion_net_bg.") for name in source)
    one_path = any(name.startswith("motion_net.") for name in source)
    if not planes:
        found: Kind = "seg2vid-no-labels"
    elif two_path or one_path:
        found = "seg2vid-two-path" if two_path else "seg2vid-one-path"
    else:  # without the motion encoder nothing tells the two apart
        found = "seg2vid-two-path" if kind == "seg2vid-no-labels" else kind
    if found != kind:
        raise CheckpointError(f"this is no {kind} checkpoint", hint=f"it looks like {found}")


def _latent_split(source: StateDict, kind: Kind) -> tuple[int, int, tuple[str, ...]]:
    """Lengths of the camera's and the objects' part; models with one path have only the first."""
    whole = size(source, "fc.weight", 1)
    if kind != "seg2vid-two-path":
        return whole, 0, ()
    if "motion_net_bg.fc1.weight" in source and "motion_net_fg.fc1.weight" in source:
        halves = [size(source, f"motion_net_{half}.fc1.weight", 0) for half in ("bg", "fg")]
        if sum(halves) != whole:
            raise CheckpointError(f"latents of {halves[0]} + {halves[1]} are not {whole}")
        return halves[0], halves[1], ()
    background = whole // 2
    remark = (
        f"no motion encoder in the file, so the latent is taken to be {background} for the camera "
        f"+ {whole - background} for objects"
    )
    return background, whole - background, (remark,)
