"""Bundles and safetensors: exactly what the description says, or an error that names the file."""

from __future__ import annotations

import json
import pickle
import shutil
import struct
from dataclasses import replace

import pytest
import torch
from conftest import FLOW, GLOBAL, LABEL_UNET, LOCAL, REFINE, lively, write_bundle
from safetensors.torch import load_file, save_file

from seg2vid_cli.errors import CheckpointError, InputError, WeightsError
from seg2vid_cli.networks.label_unet import LabelUNet, LabelUNetConfig
from seg2vid_cli.networks.pix2pixhd import GlobalGenerator
from seg2vid_cli.networks.seg2vid_flow import FlowConfig, Seg2VidFlow
from seg2vid_cli.networks.seg2vid_refine import Seg2VidRefine
from seg2vid_cli.pipeline import Pipeline
from seg2vid_cli.weights.load import (
    FAMILIES,
    config_from_dict,
    load_strictly,
    mix_bundles,
    open_bundle,
    read_bundle,
)
from seg2vid_cli.weights.registry import file_sha256

OF_A_CLIP = ["first_frame", "motion", "refine"]  # of weights without edges
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
    assert list(bundle.stages) == OF_A_CLIP
    families = [stage.family for stage in bundle.stages.values()]
    assert families == ["label-unet", "seg2vid-flow", "seg2vid-refine"]
    assert set(families) < set(FAMILIES)
    assert [s.path for s in bundle.stages.values()] == [
        tiny_bundle / f"{stage}.safetensors" for stage in OF_A_CLIP
    ]
    assert bundle.descriptions == {"bundle": tiny_bundle / "bundle.json"}
    assert bundle.hashes == {}
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
    pipeline = Pipeline.open(device="cpu", precision="fp32")
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


def test_only_six_stages_are_known(bundle):
    describe(bundle, lambda data: data["stages"].update(sound=data["stages"]["motion"]))
    assert malformed(bundle).endswith(
        "stages must be of edges, first_frame, motion, refine, segmenter, saliency, not "
        "first_frame, motion, refine, sound"
    )
    describe(bundle, lambda data: data.update(stages={}))
    assert malformed(bundle).endswith(
        "stages must be of edges, first_frame, motion, refine, segmenter, saliency, not "
    )


def test_an_unknown_family_lists_the_known_ones(bundle):
    describe(bundle, lambda data: data["stages"]["motion"].update(family="spade"))
    assert malformed(bundle).endswith(
        "motion: unknown family 'spade', known: seg2vid-flow, ego-flow"
    )


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


# ---- bundles that lack stages --------------------------------------------------------------------


def test_a_bundle_may_be_one_generator(painter_bundle, enhancer_bundle):
    painter, enhancer = read_bundle(painter_bundle), read_bundle(enhancer_bundle)
    assert (painter.labels, painter.size_hw, painter.fps) == ("cityscapes-35", (32, 64), None)
    assert list(painter.stages) == list(enhancer.stages) == ["first_frame"]
    assert painter.stages["first_frame"].config == GLOBAL
    assert enhancer.stages["first_frame"].config == LOCAL
    assert painter.sha256() == {
        "first_frame": file_sha256(painter_bundle / "first_frame.safetensors"),
        "bundle": file_sha256(painter_bundle / "bundle.json"),
    }
    exported = lively(GlobalGenerator(GLOBAL), 4).state_dict()
    for name, tensor in painter.network("first_frame").state_dict().items():
        assert torch.equal(tensor, exported[name]), name


def test_a_bundle_may_read_no_labels(unlabelled_bundle, grey_bundle):
    for folder, channels in ((unlabelled_bundle, 3), (grey_bundle, 1)):
        bundle = read_bundle(folder)
        assert (bundle.labels, bundle.fps) == ("none", 12.0)
        assert list(bundle.stages) == ["motion", "refine"]
        motion, refine = (stage.config for stage in bundle.stages.values())
        assert (motion.label_planes, motion.upsampling) == (0, "nearest")
        assert motion.image_channels == refine.image_channels == channels


@pytest.mark.parametrize(
    ("stages", "hint"),
    [
        (("first_frame",), "add --first-frame-weights NAME|DIR, or start from a picture"),
        (("motion",), "add --motion-weights NAME|DIR"),
        (("motion", "refine"), "add --motion-weights NAME|DIR"),
        (("refine",), "add --motion-weights NAME|DIR"),
    ],
    ids=str,
)
def test_a_missing_stage_is_asked_for(bundle, stages, hint):
    full = read_bundle(bundle)
    full.require()
    full.require("first_frame", "motion", "refine")
    describe(bundle, lambda data: [data["stages"].pop(stage) for stage in stages])
    partial = read_bundle(bundle)
    partial.require(*partial.stages)
    what = {"first_frame": "first-frame", "refine": "refinement"}.get(stages[0], stages[0])
    left = " and ".join(name.replace("_", " ") for name in partial.stages)
    with pytest.raises(InputError) as caught:
        partial.require(*full.stages)
    assert caught.value.message == f"weights 'tiny' have no {what} stage, only {left}"
    assert caught.value.hint.startswith(hint)


def test_motion_needs_a_rate_and_a_generator_none(bundle):
    describe(bundle, lambda data: data.update(fps=None))
    assert "malformed" in malformed(bundle)
    describe(bundle, lambda data: [data["stages"].pop(stage) for stage in ("motion", "refine")])
    assert read_bundle(bundle).fps is None
    for fps in (0, -1, 1000, "NaN"):
        describe(bundle, lambda data, fps=fps: data.update(fps=fps))
        assert "malformed" in malformed(bundle)


@pytest.mark.parametrize(
    ("labels", "says"),
    [
        ("none", "first_frame: 20 label planes, not 0"),
        ("cityscapes-35", "first_frame: 20 label planes, not 35"),
        ("ade20k", "label set 'ade20k' is not one of 'cityscapes-20', 'cityscapes-35', 'none'"),
        ([], "unhashable type: 'list'"),
        (None, "label set 'None' is not one of 'cityscapes-20', 'cityscapes-35', 'none'"),
    ],
    ids=str,
)
def test_label_set_and_planes_fit_together(bundle, labels, says):
    describe(bundle, lambda data: data.update(labels=labels))
    assert malformed(bundle).endswith(f"malformed: {says}")


@pytest.mark.parametrize("labels", ["cityscapes-20", "cityscapes-35"])
def test_motion_without_labels_is_not_for_a_label_set(unlabelled_bundle, tmp_path, labels):
    folder = shutil.copytree(unlabelled_bundle, tmp_path / "copy")
    describe(folder, lambda data: data.update(labels=labels))
    planes = labels.rpartition("-")[2]
    assert malformed(folder).endswith(f"malformed: motion: 0 label planes, not {planes}")


@pytest.mark.parametrize(
    ("stage", "network", "labels"),
    [
        ("first_frame", GlobalGenerator(replace(GLOBAL, label_planes=20)), "cityscapes-20"),
        ("first_frame", GlobalGenerator(replace(GLOBAL, label_planes=0)), "none"),
        ("first_frame", LabelUNet(replace(LABEL_UNET, label_planes=35)), "cityscapes-35"),
        ("motion", Seg2VidFlow(replace(FLOW, label_planes=35)), "cityscapes-35"),
    ],
    ids=["global-20", "global-0", "unet-35", "flow-35"],
)
def test_a_family_reads_only_the_label_sets_that_the_pipeline_gives_it(
    tmp_path, stage, network, labels
):
    """pix2pixHD gets Cityscapes label ids, LabelUNet and seg2vid the 20 classes or nothing."""
    folder = write_bundle(tmp_path / "odd", {stage: network}, labels=labels)
    assert "label planes" in malformed(folder)


def test_a_picture_has_the_same_channels_all_the_way(grey_bundle, tiny_bundle, tmp_path):
    networks = {
        "motion": Seg2VidFlow(FLOW),
        "refine": Seg2VidRefine(replace(REFINE, image_channels=1)),
    }
    folder = write_bundle(tmp_path / "odd", networks)
    assert "pictures of {'motion': 3, 'refine': 1} channels" in malformed(folder)


@pytest.mark.parametrize("channels", [0, 2, 4])
def test_pictures_are_grey_or_rgb(tmp_path, channels):
    networks = {
        "motion": Seg2VidFlow(replace(FLOW, image_channels=channels)),
        "refine": Seg2VidRefine(replace(REFINE, image_channels=max(channels, 1))),
    }
    networks["refine"].config = replace(REFINE, image_channels=channels)
    folder = write_bundle(tmp_path / "odd", networks)
    assert "channels" in malformed(folder)


@pytest.mark.parametrize("value", ["Infinity", "-Infinity", "NaN", "1e999"])
def test_numbers_beyond_all_measure_are_refused(bundle, value):
    path = bundle / "bundle.json"
    good = path.read_text()
    for old in ('"fps": 10.0', '"size_hw": [\n    32'):
        assert old in good
        path.write_text(
            good.replace(old, old.rpartition("10.0" if "fps" in old else "32")[0] + value)
        )
        assert "malformed" in malformed(bundle)


# ---- stages from several bundles -----------------------------------------------------------------


def test_nothing_mixed_in_changes_nothing(tiny_bundle):
    bundle = read_bundle(tiny_bundle)
    assert mix_bundles(bundle) == bundle


def test_a_first_frame_from_elsewhere(tiny_bundle, painter_bundle):
    tiny, painter = read_bundle(tiny_bundle), read_bundle(painter_bundle)
    mixed = mix_bundles(tiny, first_frame=painter)
    assert (mixed.name, mixed.labels, mixed.size_hw, mixed.fps) == (
        *("tiny", "cityscapes-20"),
        *((32, 64), 10.0),
    )
    assert list(mixed.stages) == OF_A_CLIP
    assert mixed.stages["first_frame"] == painter.stages["first_frame"]
    assert mixed.sha256() == {
        **tiny.sha256(),
        "first_frame": painter.sha256()["first_frame"],
        "first_frame_bundle": painter.sha256()["bundle"],
    }


def test_motion_from_elsewhere_brings_size_and_rate(enhancer_bundle, motion_bundle):
    enhancer, mover = read_bundle(enhancer_bundle), read_bundle(motion_bundle)
    mixed = mix_bundles(enhancer, motion=mover)
    assert (mixed.name, mixed.labels, mixed.size_hw, mixed.fps) == (
        *("enhancer", "cityscapes-20"),
        *((32, 64), 12.0),
    )
    assert list(mixed.stages) == OF_A_CLIP
    assert mixed.sha256() == {
        **enhancer.sha256(),
        **{stage: mover.sha256()[stage] for stage in ("motion", "refine")},
        "motion_bundle": mover.sha256()["bundle"],
    }


def test_refinement_stays_where_the_motion_brings_none(bundle, tiny_bundle):
    describe(bundle, lambda data: data["stages"].pop("refine"))
    describe(bundle, lambda data: data.update(name="copy", fps=25))
    mixed = mix_bundles(read_bundle(tiny_bundle), motion=read_bundle(bundle))
    assert mixed.stages["motion"].path.parent == bundle
    assert mixed.stages["refine"].path.parent == tiny_bundle
    assert mixed.fps == 25


def test_all_three_from_three(tiny_bundle, painter_bundle, grey_bundle):
    bundles = [read_bundle(folder) for folder in (tiny_bundle, painter_bundle, grey_bundle)]
    known = {path: "known" for bundle in bundles for path in bundle.descriptions.values()}
    tiny, painter, grey = (replace(bundle, hashes=known) for bundle in bundles)
    mixed = mix_bundles(tiny, first_frame=painter, motion=grey)
    assert [stage.path.parent for stage in mixed.stages.values()] == [
        painter_bundle,
        grey_bundle,
        grey_bundle,
    ]
    assert (mixed.labels, mixed.fps) == ("none", 12.0)
    hashes = mixed.sha256()
    assert list(hashes) == [*OF_A_CLIP, "bundle", "first_frame_bundle", "motion_bundle"]
    # What has just been checked is not read again.
    assert [hashes[name] for name in list(hashes)[3:]] == ["known"] * 3
    assert hashes["motion"] == file_sha256(grey_bundle / "motion.safetensors")


def test_bundles_that_lack_what_they_are_taken_for(tiny_bundle, painter_bundle, motion_bundle):
    tiny, painter, mover = map(read_bundle, (tiny_bundle, painter_bundle, motion_bundle))
    with pytest.raises(InputError, match="'mover' have no first-frame stage, only motion and ref"):
        mix_bundles(tiny, first_frame=mover)
    with pytest.raises(InputError, match="'painter' have no motion stage, only first frame"):
        mix_bundles(tiny, motion=painter)


def test_grey_motion_does_not_go_with_rgb_refinement(bundle, grey_bundle, tiny_bundle, tmp_path):
    folder = shutil.copytree(grey_bundle, tmp_path / "half")
    describe(folder, lambda data: data["stages"].pop("refine"))
    with pytest.raises(InputError, match="motion and refinement do not fit together") as caught:
        mix_bundles(read_bundle(tiny_bundle), motion=read_bundle(folder))
    assert caught.value.hint == "take both from the same weights"


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


@pytest.mark.parametrize("fields", [{}, {"up_blocks": 0}, {"up_blocks": 2}], ids=str)
def test_a_field_with_a_default_may_be_missing(fields):
    config = config_from_dict(LabelUNetConfig, {**CONFIG, **fields})
    assert config == replace(LABEL_UNET, **fields)


@pytest.mark.parametrize("value", [-1, 1.0, "2", None, True, [1]], ids=str)
def test_a_field_with_a_default_is_checked_where_it_is_given(value):
    with pytest.raises(ValueError, match="LabelUNetConfig: up_blocks = "):
        config_from_dict(LabelUNetConfig, {**CONFIG, "up_blocks": value})


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


@pytest.mark.parametrize(
    "dtype",
    [
        *(torch.float64, torch.int8, torch.int64, torch.bool, torch.complex64),
        *(torch.float8_e4m3fn, torch.float8_e5m2),
    ],
    ids=str,
)
def test_tensors_of_another_number_format_are_refused(weights, dtype):
    path, tensors = weights
    save_file({**tensors, "to_rgb.bias": tensors["to_rgb.bias"].to(dtype)}, path)
    assert refused(path) == "1 tensors of another number format, first to_rgb.bias"


def test_a_counter_is_a_whole_number(weights):
    path, tensors = weights
    name = "down.0.norm.num_batches_tracked"
    for dtype in (torch.float32, torch.int32):
        save_file({**tensors, name: tensors[name].to(dtype)}, path)
        assert refused(path) == f"1 tensors of another number format, first {name}"


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16], ids=str)
def test_half_precision_is_read_as_float32(weights, dtype):
    path, tensors = weights
    halves = {n: t.to(dtype) if t.dtype == torch.float32 else t for n, t in tensors.items()}
    save_file(halves, path)
    network = LabelUNet(LABEL_UNET)
    load_strictly(network, path)
    for name, tensor in network.state_dict().items():
        assert torch.equal(tensor, halves[name].to(tensors[name].dtype)), name
        assert tensor.dtype == tensors[name].dtype


def test_a_loaded_network_no_longer_needs_its_file(weights):
    path, tensors = weights
    network = LabelUNet(LABEL_UNET)
    load_strictly(network, path)
    with path.open("r+b") as file:  # in place, under a mapping that might still be there
        file.write(bytes(path.stat().st_size))
    for name, tensor in network.state_dict().items():
        assert torch.equal(tensor, tensors[name]), name


@pytest.mark.parametrize("value", [float("nan"), float("inf"), float("-inf")])
@pytest.mark.parametrize("dtype", [torch.float32, torch.float16], ids=str)
def test_tensors_that_are_not_finite_are_refused(weights, value, dtype):
    path, tensors = weights
    tensors["to_rgb.bias"][1] = value
    floats = {name: t.to(dtype) for name, t in tensors.items() if t.dtype == torch.float32}
    save_file({**tensors, **floats}, path)
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


def tensor_at(begin, end, *, dtype="F32", shape=(2,)):
    return {"dtype": dtype, "shape": shape, "data_offsets": [begin, end]}


@pytest.mark.parametrize(
    "facts",
    [
        {"stem.weight": tensor_at(0, 1 << 40)},
        {"stem.weight": tensor_at(0, 8), "stem.bias": tensor_at(4, 12)},
        {"stem.weight": tensor_at(0, 8), "stem.bias": tensor_at(0, 8)},
        {"stem.weight": tensor_at(8, 16)},
        {"stem.weight": tensor_at(8, 0)},
        {"stem.weight": tensor_at(-8, 0)},
        {"stem.weight": tensor_at(0, 8, shape=(3,))},
        {"stem.weight": tensor_at(0, 8, shape=(1 << 62, 1 << 62))},
        {"stem.weight": tensor_at(0, 8, dtype="F31")},
        {"stem.weight": 7},
        [],
        None,
    ],
    ids=json.dumps,
)
def test_a_header_that_lies_is_refused(weights, facts):
    path, _ = weights
    header = json.dumps(facts).encode()
    path.write_bytes(struct.pack("<Q", len(header)) + header + bytes(16))
    assert "not a readable safetensors file" in refused(path)


@pytest.mark.parametrize("length", [0, 1, 1 << 20, 100_000_001, 1 << 40, 2**64 - 1], ids=str)
def test_a_wrong_length_of_the_header_is_refused(weights, length):
    path, _ = weights
    path.write_bytes(struct.pack("<Q", length) + path.read_bytes()[8:])
    assert "not a readable safetensors file" in refused(path)


def test_bytes_after_the_last_tensor_are_refused(weights):
    path, _ = weights
    path.write_bytes(path.read_bytes() + b"\0")
    assert "not a readable safetensors file" in refused(path)


def test_an_export_holds_fp16_and_may_be_read_by_others(tiny_bundle):
    tensors = load_file(tiny_bundle / "motion.safetensors")
    assert {t.dtype for t in tensors.values()} == {torch.float16, torch.int64}
    assert (tiny_bundle / "motion.safetensors").stat().st_mode & 0o777 == 0o644
