"""The published systems' outputs: an excerpt everywhere, all values where the folder of cases is.

Where a whole folder lies is said by SEG2VID_PARITY_DIR; else one beside the checkout is taken.
"""

from __future__ import annotations

import json
import os
from dataclasses import fields, replace
from pathlib import Path

import numpy as np
import parity
import pytest
import torch

from seg2vid_cli.networks.seg2vid_flow import FlowOutput

HERE = Path(__file__).resolve().parent
EXCERPT = json.loads((HERE / "parity_excerpt" / "cases.json").read_text(encoding="utf-8"))
FULL = Path(os.environ.get("SEG2VID_PARITY_DIR") or HERE.parent.parent.joinpath("shared", "parity"))


def read_manifest(name):
    """Shape and gain of every tensor of a published checkpoint, by original name."""
    lines = (HERE / "manifests" / f"{name}.txt").read_text(encoding="utf-8").splitlines()
    rows = (line.split() for line in lines)
    return {
        name: (() if shape == "-" else tuple(map(int, shape.split(","))), float(gain))
        for name, shape, gain in rows
    }


def excerpt_case(name):
    facts = EXCERPT[name]
    return parity.make_case(facts, read_manifest(facts["manifest"]))


class Runs:
    """Runs every case once; keeps the networks that several tests use."""

    def __init__(self):
        self.done = []
        self.kept = {}

    def networks(self, case):
        if case.case not in ("iterative", "pix2pixHD_local"):
            return parity.build(case)
        if case.case not in self.kept:
            self.kept[case.case] = parity.build(case)
        return self.kept[case.case]

    def outputs(self, case):
        if case.case == "two_path":  # the first of the iterative case's passes
            both = self.outputs(replace(case, case="iterative"))
            axis = {name: int(name.startswith("flow")) for name in both}
            return {name: np.split(a, 2, axis=axis[name])[0] for name, a in both.items()}
        for known, outputs in self.done:
            if known == case:
                return outputs
        outputs = parity.run(case, self.networks(case))
        self.done.append((case, outputs))
        return outputs


@pytest.fixture(scope="module")
def runs():
    yield Runs()
    parity.made_weight.cache_clear()


@pytest.mark.parametrize("name", EXCERPT)
def test_excerpt_of_the_published_systems_outputs(runs, name):
    found = runs.outputs(excerpt_case(name))
    assert set(found) == set(EXCERPT[name]["every"])
    with np.load(HERE / "parity_excerpt" / "values.npz") as values:
        for output, step in EXCERPT[name]["every"].items():
            expected = values[f"{name}.{output}"]
            assert len(expected) >= 500
            gap = parity.largest_difference(expected, found[output].ravel()[::step])
            assert gap <= parity.TOLERANCES.get(output, parity.TOLERANCE), output


@pytest.mark.skipif(not FULL.is_dir(), reason="no folder of parity cases")
@pytest.mark.parametrize("name", sorted(path.stem for path in FULL.glob("*.json")))
def test_all_of_the_published_systems_outputs(runs, name):
    case = parity.read_cases(FULL)[name]
    if case.kind is None:
        pytest.skip("not supported yet")
    found = runs.outputs(case)
    with np.load(FULL / f"{name}.npz") as expected:
        assert set(found) == set(expected.files)
        for output in expected.files:
            gap = parity.largest_difference(expected[output], found[output])
            assert gap <= parity.TOLERANCES.get(output, parity.TOLERANCE), output


def together_and_alone(network, *inputs):
    """Largest difference between a batch and its members, and between the members."""
    with parity.CPU.run():
        together = network(*inputs)
        alone = [network(*(x[i : i + 1] for x in inputs)) for i in range(2)]
    if isinstance(together, FlowOutput):
        names = [field.name for field in fields(FlowOutput)]
        together = torch.cat([getattr(together, n).flatten(1) for n in names], 1)
        alone = [torch.cat([getattr(a, n).flatten(1) for n in names], 1) for a in alone]
    return (together - torch.cat(alone)).abs().max(), (alone[0] - alone[1]).abs().max()


def test_motion_of_a_batch_is_that_of_each_clip_alone(runs):
    case = excerpt_case("seg2vid_iterative")
    clips = [parity.seg2vid_inputs(case, seed) for seed in (7, 8)]
    inputs = [torch.cat(pair) for pair in zip(*clips, strict=True)]
    gap, between = together_and_alone(runs.networks(case)["motion"], *inputs)
    assert gap <= 1e-5
    assert between > 0.1


def test_refinement_of_a_batch_is_that_of_each_frame_alone(runs):
    frames = torch.cat([parity.made_image(seed, 3, 128, 128) for seed in (7, 8)])
    network = runs.networks(excerpt_case("seg2vid_iterative"))["refine"]
    gap, between = together_and_alone(network, frames)
    assert gap <= 1e-4
    assert between > 0.1


def test_pictures_of_a_batch_are_those_of_each_label_map_alone(runs):
    case = excerpt_case("pix2pixhd_local")
    planes = torch.cat([parity.pix2pixhd_inputs(case, seed)[0] for seed in (7, 8)])
    gap, between = together_and_alone(runs.networks(case)["first_frame"], planes)
    assert gap <= 1e-4
    assert between > 0.1


def test_the_script_says_what_differs(tmp_path, capsys, monkeypatch):
    facts = {"case": "pix2pixHD_global", "seed": 7, "size": [64, 128], "weights": {}}
    for name, case in (("good", facts), ("other", {**facts, "case": "other"})):
        (tmp_path / f"{name}.json").write_text(json.dumps(case), encoding="utf-8")
    image = np.zeros((3, 4, 4), np.float32)
    np.savez(tmp_path / "good.npz", image=image, edges=image > 0)
    outputs = {"image": image + 5e-4, "edges": image > 0}
    monkeypatch.setattr(parity, "run", lambda case: outputs)
    assert parity.main(tmp_path) == 0
    assert "other: not supported yet" in capsys.readouterr().out
    outputs["edges"] = image == 0
    assert parity.main(tmp_path) == 1
    assert "1.00e+00  TOO LARGE" in capsys.readouterr().out
    outputs.update(image=image + np.nan, edges=image > 0)
    assert parity.main(tmp_path) == 1
    assert parity.main(tmp_path / "nothing") == 1
