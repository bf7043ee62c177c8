"""Compare the published systems' outputs with this package's, case by case.

    python tests/parity.py DIR

DIR holds cases as `NAME.json` (sizes, and every tensor of the original checkpoint with shape and
gain) and `NAME.npz` (what the original code gave). Weights and inputs are made up by formula. They
go through the importers and the package's own stages. Exits with 1 where a difference is too large.
"""

from __future__ import annotations

import json
import sys
import time
import zlib
from collections.abc import Mapping
from dataclasses import dataclass, field
from functools import cache
from pathlib import Path

import numpy as np
import torch

from seg2vid_cli.device import resolve_compute
from seg2vid_cli.label_sets import TRAIN_ID_OF_LABEL
from seg2vid_cli.labels import LabelMap, instance_edges
from seg2vid_cli.motion import predict_motion
from seg2vid_cli.refine import refine_frames
from seg2vid_cli.saliency import to_network_units
from seg2vid_cli.warp import backward_warp
from seg2vid_cli.weights.importers import KINDS
from seg2vid_cli.weights.importers.convert import import_tensors

TOLERANCES = {"warped": 1e-3, "refined": 1e-3, "image": 1e-3, "edges": 0.0}
TOLERANCE = 1e-4  # flows and masks
CPU = resolve_compute("cpu", "fp32")


# ---- made-up numbers -----------------------------------------------------------------------------


def uniform(seed, count, start=0.0, factor=1.0, dtype=np.float64):
    """`start + factor * x` for x in [0, 1): splitmix64, whose state is the seed plus a counter."""
    out = np.empty(count, dtype)
    block = 1 << 16  # stays in the cache
    for i in range(0, count, block):
        z = np.arange(i + 1, min(i + block, count) + 1, dtype=np.uint64)
        z *= np.uint64(0x9E3779B97F4A7C15)
        z += np.uint64(seed)
        for shift, mixer in ((30, 0xBF58476D1CE4E5B9), (27, 0x94D049BB133111EB)):
            z ^= z >> np.uint64(shift)
            z *= np.uint64(mixer)
        z ^= z >> np.uint64(31)
        z >>= np.uint64(11)
        out[i : i + len(z)] = start + factor * (z * 2.0**-53)
    return out


@cache
def made_weight(name, shape, gain):
    """A tensor of a checkpoint; depends on its name, not on the case."""
    leaf = name.rpartition(".")[2]
    if leaf == "num_batches_tracked":
        return torch.zeros(shape, dtype=torch.int64)
    if leaf == "running_var":
        start, factor = 0.5, 1.0
    elif leaf in ("running_mean", "bias"):
        start, factor = -0.1, 0.2
    elif len(shape) == 1:
        start, factor = 0.75, 0.5
    else:
        most = np.sqrt(3) * np.sqrt(2 / np.prod(shape[1:])) * gain
        start, factor = -most, 2 * most
    x = uniform(zlib.crc32(name.encode()), int(np.prod(shape)), start, factor, np.float32)
    return torch.from_numpy(x.reshape(shape))


def made_image(seed, channels, height, width):
    """`(1, C, H, W)` in [0, 1]: waves and some noise."""
    y, x = np.mgrid[:height, :width] / max(height, width)
    waves = [
        0.5
        + 0.35
        * np.sin(6.283 * (x * (2 + i + seed % 3) + y * (1 + i)))
        * np.cos(6.283 * y * (3 - i))
        for i in range(channels)
    ]
    grain = uniform(1000 + seed, channels * height * width).reshape(channels, height, width)
    image = np.clip(0.85 * np.stack(waves) + 0.15 * grain, 0, 1)
    return torch.from_numpy(image.astype(np.float32))[None]


def made_labels(seed, classes, block, height, width):
    """`(H, W)` ids in square blocks."""
    cells = uniform(2000 + seed, (height // block) * (width // block))
    ids = np.floor(cells * classes).astype(np.uint8).reshape(height // block, width // block)
    return ids.repeat(block, axis=0).repeat(block, axis=1)


def made_noise(seed, *shape):
    """Standard normal numbers."""
    count = int(np.prod(shape))
    a, c = uniform(3000 + seed, count), uniform(4000 + seed, count)
    noise = np.sqrt(-2 * np.log(1 - a)) * np.cos(2 * np.pi * c)
    return torch.from_numpy(noise.astype(np.float32).reshape(shape))


def planes_of(ids, classes):
    """`(H, W)` ids to `(1, K, H, W)` one-hot."""
    planes = np.arange(classes)[:, None, None] == ids
    return torch.from_numpy(planes.astype(np.float32))[None]


# ---- cases ---------------------------------------------------------------------------------------


@dataclass(frozen=True, kw_only=True)
class Case:
    """What to build and to feed, as the case's JSON file says; `weights` maps to shape and gain."""

    case: str
    seed: int
    size: tuple[int, int]
    weights: Mapping[str, tuple[tuple[int, ...], float]] = field(repr=False)
    image_channels: int = 0
    label_channels: int = 0
    latent_rows: int = 0
    alpha: float | None = None
    ema_layer: int | None = None

    @property
    def kind(self):
        """The importer it goes through, None where there is none yet."""
        if self.image_channels == 0:
            kind = self.case.lower().replace("_", "-")
            return kind if kind in KINDS else None
        if self.label_channels == 0:
            return "seg2vid-no-labels"
        two_path = any(name.startswith("motion_net_bg.") for name in self.weights)
        return "seg2vid-two-path" if two_path else "seg2vid-one-path"

    @property
    def passes(self):
        """Passes of the motion network."""
        return 2 if self.case == "iterative" else 1

    def checkpoint(self):
        """Every tensor by its original name."""
        return {name: made_weight(name, *entry) for name, entry in self.weights.items()}


def make_case(facts, weights):
    """A case from the facts in its file, of which some are not needed."""
    known = Case.__dataclass_fields__
    facts = {key: value for key, value in facts.items() if key in known}
    return Case(**{**facts, "size": tuple(facts["size"]), "weights": weights})


def read_cases(folder):
    """Cases of a folder, by file name."""
    cases = {}
    for path in sorted(folder.glob("*.json")):
        facts = json.loads(path.read_text(encoding="utf-8"))
        weights = {n: (tuple(w["shape"]), float(w["gain"])) for n, w in facts["weights"].items()}
        cases[path.stem] = make_case(facts, weights)
    return cases


def build(case):
    """Networks by stage, from the original names through the importer."""
    imported = import_tensors(case.checkpoint(), case.kind)
    return {name: stage.network() for name, stage in imported.stages.items()}


def run(case, networks=None):
    """This package's outputs, by name, in the layout of the case's file."""
    networks = networks or build(case)
    if case.kind == "salema":
        return _run_salema(case, networks)
    made = _run_seg2vid if case.kind.startswith("seg2vid") else _run_pix2pixhd
    return made(case, networks)


def seg2vid_inputs(case, seed):
    """First frame, label planes and latents."""
    frame = made_image(seed, case.image_channels, *case.size)
    planes = torch.zeros(1, 0, *case.size)
    if case.label_channels:
        ids = made_labels(seed, case.label_channels, 16, *case.size)
        planes = planes_of(ids, case.label_channels)
    return frame, planes, made_noise(seed, 1, 1, 1024).expand(1, case.latent_rows, -1)


def _run_seg2vid(case, networks):
    frame, planes, latents = seg2vid_inputs(case, case.seed)
    joined = {}
    for number in range(case.passes):
        with CPU.run():
            raw = networks["motion"](frame, planes, latents)
        (motion,) = predict_motion(
            networks["motion"], frame, planes, latents, downscale=1, compute=CPU
        )
        warped = backward_warp(frame.expand(len(motion.flow_px), -1, -1, -1), motion.flow_px)
        noise = made_noise(case.seed + 500 + number, *frame.shape)
        refined = refine_frames(
            networks["refine"], warped, motion.visibility, noise, keep_visible=False, compute=CPU
        )
        outputs = {
            "warped": warped,
            "refined": refined,
            "flow": raw.flow[0].transpose(0, 1),
            "flow_back": raw.flow_back[0].transpose(0, 1),
            "occ_fw": motion.visibility,
            "occ_bw": raw.visibility_back[0],
        }
        for name, value in outputs.items():
            joined.setdefault(name, []).append(value)
        frame, planes = refined[-1:], backward_warp(planes, motion.flow_px[-1:])
    arrays = {name: torch.cat(values)[..., ::2, ::2].numpy() for name, values in joined.items()}
    return {n: a.swapaxes(0, 1) if n.startswith("flow") else a for n, a in arrays.items()}


def pix2pixhd_inputs(case, seed):
    """Label ids with their borders as planes, and the borders alone."""
    ids = made_labels(seed, 35, 8, *case.size)
    objects = made_labels(seed + 9, 7, 8, *case.size).astype(np.int32) * 1000 + ids
    labels = LabelMap(train_ids=TRAIN_ID_OF_LABEL[ids], label_ids=ids, instances=objects)
    edges = instance_edges(labels)
    return torch.cat([planes_of(ids, 35), torch.from_numpy(edges)[None, None].float()], 1), edges


def _run_pix2pixhd(case, networks):
    planes, edges = pix2pixhd_inputs(case, case.seed)
    with CPU.run():
        image = networks["first_frame"](planes)
    return {"edges": edges, "image": image[0].numpy()}


def _run_salema(case, networks):
    """A clip with memory, in two calls, and each of its frames by the network without memory."""
    remembering = networks["saliency"]
    config = remembering.config
    assert config.ema_layer == case.ema_layer
    assert abs(config.ema_weight - 1 / (1 + np.exp(-case.alpha))) < 1e-12
    (forgetting,) = import_tensors(case.checkpoint(), "salbce").stages.values()
    frames = torch.cat([made_image(case.seed + i, 3, *case.size) for i in range(3)])
    inputs = to_network_units(frames)
    with CPU.run():
        first, memory = remembering(inputs[:2])
        last, _ = remembering(inputs[2:], memory)
        single = forgetting.network()(inputs)
    return {"ema": torch.cat([first, last])[:, 0].numpy(), "single": single[:, 0].numpy()}


def largest_difference(expected, found):
    """Largest absolute difference; infinite where the shapes differ or a number is none."""
    if expected.shape != found.shape:
        return float("inf")
    gap = np.abs(expected.astype(np.float64) - found.astype(np.float64)).max()
    return float(gap) if np.isfinite(gap) else float("inf")


def main(folder):
    """Print one line per output; return the exit code."""
    good = True
    cases = read_cases(folder)
    for name, case in cases.items():
        if case.kind is None:
            print(f"{name}: not supported yet")
            continue
        start = time.perf_counter()
        found = run(case)
        seconds = time.perf_counter() - start
        with np.load(folder / f"{name}.npz") as expected:
            for output in expected.files:
                gap = largest_difference(expected[output], found[output])
                allowed = TOLERANCES.get(output, TOLERANCE)
                good &= gap <= allowed
                verdict = "ok" if gap <= allowed else f"TOO LARGE, allowed {allowed:g}"
                print(f"{name:20} {output:10} {gap:.2e}  {verdict}")
        print(f"{name:20} {seconds:.1f} s", flush=True)
    if not cases:
        print(f"{folder}: no cases", file=sys.stderr)
    return 0 if good and cases else 1


if __name__ == "__main__":
    if len(sys.argv) != 2:
        sys.exit(f"usage: {sys.argv[0]} DIR")
    sys.exit(main(Path(sys.argv[1])))
