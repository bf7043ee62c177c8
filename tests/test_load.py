"""Bundles and safetensors: exactly what the description says, or an error that names the file."""

from __future__ import annotations

import json
import pickle
import shutil
import struct

import pytest
import torch
from conftest import FLOW, LABEL_UNET, REFINE, lively
from safetensors.torch import load_file, save_file

from seg2vid_cli.errors import CheckpointError, InputError, WeightsError
from seg2vid_cli.networks.label_unet import LabelUNet, LabelUNetConfig
from seg2vid_cli.networks.seg2vid_flow import FlowConfig
from seg2vid_cli.pipeline import Pipeline
from seg2vid_cli.weights.load import (
    FAMILIES,
    STAGES,
    config_from_dict,
    load_strictly,
    open_bundle,
    read_bundle,
)

CONFIG = {
    "size_hw": [32, 64],
    "label_planes": 20,
    "style_size": 4,
    "channels": [4, 6],
    "middle_blocks": 1,
}


@pytest.fixture
def bundle(tiny_bundle, tmp_path):
    """A copy of the tiny bundle to damage."""
    return shutil.copytree(tiny_bundle, tmp_path / "copy")


def describe(folder, change):
    """Change a bundle's description."""
    path = folder / "bundle.json"
    data = json.loads(path.read_text())
    change(data)
    path.write_text(json.dumps(data))


def malformed(folder):
    with pytest.raises(WeightsError) as caught:
        read_bundle(folder)
    assert caught.value.message.startswith(f"{folder / 'bundle.json'}: ")
    return caught.value.message


# ---- bundles -------------------------------------------------------------------------------------


def test_a_bundle_is_read_as_it_was_exported(tiny_bundle):
    bundle = read_bundle(tiny_bundle)
    assert (bundle.name, bundle.labels, bundle.size_hw, bundle.fps) == (
        "tiny",
        "cityscapes-20",
        (32, 64),
        10.0,
    )
    assert tuple(bundle.stages) == tuple(STAGES)
    assert [stage.family for stage in bundle.stages.values()] == list(FAMILIES)
    assert [stage.config for stage in bundle.stages.values()] == [LABEL_UNET, FLOW, REFINE]
    assert bundle.stages["motion"].options == {"downscale": 2}
    assert bundle.stages["refine"].options == {"keep_visible": True}


def test_a_loaded_network_is_the_exported_one_in_fp32_and_frozen(tiny_bundle):
    network = read_bundle(tiny_bundle).network("first_frame")
    exported = lively(LabelUNet(LABEL_UNET), 1).state_dict()
    assert not network.training
    for name, tensor in network.state_dict().items():
        expected = exported[name]
        if expected.dtype.is_floating_point:
            assert tensor.dtype == torch.float32
            expected = expected.half().float()  # as it lies in the file
        assert torch.equal(tensor, expected), name
    assert not any(weight.requires_grad for weight in network.parameters())


def test_the_embedded_weights_fill_their_networks():
    pipeline = Pipeline.open(device="cpu")
    for network in (pipeline.generator, pipeline.motion, pipeline.refiner):
        for name, tensor in network.state_dict().items():
            assert tensor.isfinite().all(), name


def test_a_folder_without_a_description_is_refused(tmp_path):
    with pytest.raises(InputError, match=r"bundle\.json: cannot be read") as caught:
        open_bundle(str(tmp_path))
    assert caught.value.hint == "a weights folder holds bundle.json"


@pytest.mark.parametrize("text", ["", "{", "[]", "null", "7", '"street"', '{"stages": []}'])
def test_a_description_that_is_none_is_refused(bundle, text):
    (bundle / "bundle.json").write_text(text)
    assert "malformed" in malformed(bundle)


def test_a_description_that_is_no_text_is_refused(bundle):
    (bundle / "bundle.json").write_bytes(b'{"name": "\xff"}')
    assert "malformed" in malformed(bundle)


@pytest.mark.parametrize("key", ["name", "labels", "size_hw", "fps", "stages"])
def test_a_missing_fact_is_named(bundle, key):
    describe(bundle, lambda data: data.pop(key))
    assert malformed(bundle).endswith(f"malformed: missing '{key}'")


@pytest.mark.parametrize("key", ["family", "file", "config"])
def test_a_missing_fact_of_a_stage_is_named(bundle, key):
    describe(bundle, lambda data: data["stages"]["motion"].pop(key))
    assert malformed(bundle).endswith(f"malformed: missing '{key}'")


@pytest.mark.parametrize(
    ("key", "value"),
    [("size_hw", [32]), ("size_hw", [32, 64, 3]), ("size_hw", 32), ("fps", None), ("fps", "x")],
)
def test_a_fact_of_another_kind_is_refused(bundle, key, value):
    describe(bundle, lambda data: data.update({key: value}))
    assert "malformed" in malformed(bundle)


def test_exactly_the_three_stages_are_wanted(bundle):
    describe(bundle, lambda data: data["stages"].pop("refine"))
    assert malformed(bundle).endswith(
        "stages must be first_frame, motion, refine, not first_frame, motion"
    )
    describe(bundle, lambda data: data["stages"].update(refine=data["stages"]["motion"]))
    describe(bundle, lambda data: data["stages"].update(sound=data["stages"]["motion"]))
    assert malformed(bundle).endswith("not first_frame, motion, refine, sound")


def test_an_unknown_family_lists_the_known_ones(bundle):
    describe(bundle, lambda data: data["stages"]["motion"].update(family="spade"))
    assert malformed(bundle).endswith("motion: unknown family 'spade', known: seg2vid-flow")


@pytest.mark.parametrize("file", ["none.safetensors", "", "..", "../copy/motion.safetensors"])
def test_a_file_has_to_lie_in_the_folder(bundle, file):
    describe(bundle, lambda data: data["stages"]["motion"].update(file=file))
    assert malformed(bundle).endswith(f"file '{file}' is not in the folder")


def test_a_folders_absolute_file_is_refused(bundle, tiny_bundle):
    file = str(tiny_bundle / "motion.safetensors")
    describe(bundle, lambda data: data["stages"]["motion"].update(file=file))
    assert "is not in the folder" in malformed(bundle)


def test_the_description_of_another_network_is_refused(bundle):
    describe(bundle, lambda data: data["stages"]["motion"]["config"].update(head_channels=3))
    with pytest.raises(CheckpointError, match=r"motion\.safetensors: \d+ tensors of another shape"):
        read_bundle(bundle).network("motion")


# ---- configurations ------------------------------------------------------------------------------


def test_a_configuration_is_built_with_tuples_for_lists():
    config = config_from_dict(LabelUNetConfig, CONFIG)
    assert config == LABEL_UNET
    assert config.channels == (4, 6)
    hash(config)


def test_missing_and_unknown_fields_are_refused():
    wrong = {**CONFIG, "width": 3, "depth": 4}
    del wrong["style_size"]
    with pytest.raises(ValueError, match="LabelUNetConfig") as caught:
        config_from_dict(LabelUNetConfig, wrong)
    assert str(caught.value) == (
        "LabelUNetConfig: missing ['style_size'], unknown ['depth', 'width']"
    )


def test_even_one_unknown_or_missing_field_is_refused(bundle):
    with pytest.raises(ValueError, match=r"missing \[\], unknown \['extra'\]"):
        config_from_dict(LabelUNetConfig, {**CONFIG, "extra": 1})
    with pytest.raises(ValueError, match=r"unknown \[\]"):
        config_from_dict(FlowConfig, {})
    describe(bundle, lambda data: data["stages"]["refine"]["config"].pop("bottleneck"))
    assert malformed(bundle).endswith("RefineConfig: missing ['bottleneck'], unknown []")


# ---- files ---------------------------------------------------------------------------------------


@pytest.fixture
def weights(tmp_path):
    """Path and tensors of a file that fits, to be saved anew with changes."""
    path = tmp_path / "first_frame.safetensors"
    tensors = {name: t.clone() for name, t in lively(LabelUNet(LABEL_UNET)).state_dict().items()}
    save_file(tensors, path)
    return path, tensors


def refused(path):
    network = LabelUNet(LABEL_UNET)
    before = {name: tensor.clone() for name, tensor in network.state_dict().items()}
    with pytest.raises(CheckpointError) as caught:
        load_strictly(network, path)
    assert caught.value.message.startswith(f"{path}: ")
    for name, tensor in network.state_dict().items():  # nothing has been half loaded
        assert torch.equal(tensor, before[name]), name
    return caught.value.message.removeprefix(f"{path}: ")


def test_a_file_that_fits_is_loaded(weights):
    path, tensors = weights
    network = LabelUNet(LABEL_UNET)
    load_strictly(network, path)
    for name, tensor in network.state_dict().items():
        assert torch.equal(tensor, tensors[name]), name


def test_missing_tensors_are_counted_and_the_first_is_named(weights):
    path, tensors = weights
    del tensors["to_rgb.bias"], tensors["stem.weight"]
    save_file(tensors, path)
    assert refused(path) == "2 tensors missing, first stem.weight"


def test_extra_tensors_are_refused(weights):
    path, tensors = weights
    save_file({**tensors, "stem.scale": torch.ones(1)}, path)
    assert refused(path) == "1 tensors not expected, first stem.scale"


def test_tensors_of_another_shape_are_refused(weights):
    path, tensors = weights
    tensors["stem.weight"] = tensors["stem.weight"].transpose(0, 1).contiguous()
    save_file(tensors, path)
    assert refused(path) == "1 tensors of another shape, first stem.weight"


@pytest.mark.parametrize("value", [float("nan"), float("inf"), float("-inf")])
@pytest.mark.parametrize("dtype", [torch.float32, torch.float16], ids=str)
def test_tensors_that_are_not_finite_are_refused(weights, value, dtype):
    path, tensors = weights
    tensors["to_rgb.bias"][1] = value
    save_file({name: t.to(dtype) for name, t in tensors.items()}, path)
    assert refused(path) == "1 tensors not finite, first to_rgb.bias"


def test_a_missing_file_is_refused(tmp_path):
    assert "not a readable safetensors file" in refused(tmp_path / "none.safetensors")


@pytest.mark.parametrize("keep", [0, 4, 100, -1])
def test_a_file_cut_short_is_refused(weights, keep):
    path, _ = weights
    path.write_bytes(path.read_bytes()[:keep])
    assert "not a readable safetensors file" in refused(path)


def test_text_is_refused(weights):
    path, _ = weights
    path.write_text("version https://git-lfs.github.com/spec/v1\n")
    assert "not a readable safetensors file" in refused(path)


class Dangerous:
    """Would be run by anything that unpickles it."""

    def __reduce__(self):
        return (pytest.fail, ("a pickle was run",))


@pytest.mark.parametrize("save", [torch.save, None], ids=["torch", "pickle"])
def test_a_pickle_named_safetensors_is_refused_and_not_run(weights, save):
    path, _ = weights
    if save is None:
        path.write_bytes(pickle.dumps(Dangerous()))
    else:
        save(Dangerous(), path)
    assert "not a readable safetensors file" in refused(path)


def test_offsets_outside_the_file_are_refused(weights):
    path, _ = weights
    facts = {"stem.weight": {"dtype": "F32", "shape": [2], "data_offsets": [0, 1 << 40]}}
    header = json.dumps(facts).encode()
    path.write_bytes(struct.pack("<Q", len(header)) + header)
    assert "not a readable safetensors file" in refused(path)


def test_an_export_holds_fp16_and_may_be_read_by_others(tiny_bundle):
    tensors = load_file(tiny_bundle / "motion.safetensors")
    assert {t.dtype for t in tensors.values()} == {torch.float16, torch.int64}
    assert (tiny_bundle / "motion.safetensors").stat().st_mode & 0o777 == 0o644
