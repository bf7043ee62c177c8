"""Original checkpoints: names, wrappers, what is refused, and what is written."""

from __future__ import annotations

import errno
import gzip
import hashlib
import json
import os
import pickle
import re
import zipfile
from collections import OrderedDict
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
from conftest import FLOW, REFINE, lively
from huggingface_hub import metadata_load
from safetensors import safe_open
from safetensors.torch import save_file
from test_parity import read_manifest
from test_pix2pixhd import GLOBAL, LOCAL

from seg2vid_cli.errors import CheckpointError, InputError
from seg2vid_cli.networks.pix2pixhd import GlobalGenerator, LocalEnhancer
from seg2vid_cli.networks.salgan import Salgan, SalganConfig
from seg2vid_cli.networks.seg2vid_flow import FlowConfig, Seg2VidFlow
from seg2vid_cli.networks.seg2vid_refine import Seg2VidRefine
from seg2vid_cli.weights.importers import ARCHIVES, KINDS, convert, pix2pixhd, salgan, seg2vid
from seg2vid_cli.weights.importers.checkpoint import open_checkpoint, unwrap
from seg2vid_cli.weights.importers.convert import import_checkpoint, import_tensors
from seg2vid_cli.weights.load import config_from_dict, load_strictly, read_bundle
from seg2vid_cli.weights.publish import describe_bundle

TABLES = {
    "seg2vid-two-path": seg2vid.MOTION | seg2vid.REFINE,
    "seg2vid-no-labels": seg2vid.MOTION | seg2vid.REFINE,
    "seg2vid-no-labels-grey": seg2vid.MOTION | seg2vid.REFINE,
    "pix2pixhd-global": pix2pixhd.GLOBAL,
    "pix2pixhd-local": pix2pixhd.LOCAL,
}
DEEP_GLOBAL = replace(
    GLOBAL, label_planes=35, channels=(2, 3, 4, 5, 6), blocks=9, size_hw=(512, 1024)
)
DEEP_LOCAL = replace(
    LOCAL,
    label_planes=35,
    channels=(3, 3, 4, 5, 6),
    blocks=9,
    detail_blocks=3,
    size_hw=(1024, 2048),
)


SALIENCY = SalganConfig(
    size_hw=(32, 32), encoder_channels=(2, 3, 3, 4, 4), decoder_channels=(4, 4, 3, 2, 2)
)


def originals(network, table):
    """A network's tensors by their original names."""
    tensors = lively(network).state_dict()
    return {old: tensors[new].clone() for old, new in table.items()}


def seg2vid_tensors(*, flow=FLOW, refine=REFINE, motion_nets=(), frames=None):
    """A tiny seg2vid checkpoint; `motion_nets` maps the encoders' names to latent lengths."""
    tensors = originals(Seg2VidFlow(flow), seg2vid.MOTION)
    tensors |= originals(Seg2VidRefine(refine), seg2vid.REFINE)
    for name, latents in dict(motion_nets).items():
        tensors[f"{name}.main.0.weight"] = torch.randn(2, 3, 4, 4)
        tensors[f"{name}.fc1.weight"] = torch.randn(latents, 8)
    return tensors


def two_path():
    return seg2vid_tensors(motion_nets={"motion_net_bg": 3, "motion_net_fg": 5})


def one_path():
    return seg2vid_tensors(motion_nets={"motion_net": 8})


def no_labels():
    return seg2vid_tensors(
        flow=replace(FLOW, label_planes=0, image_channels=1, num_frames=3),
        refine=replace(REFINE, image_channels=1),
        motion_nets={"motion_net": 8},
    )


def global_generator(label_planes=35):
    network = GlobalGenerator(replace(DEEP_GLOBAL, label_planes=label_planes))
    return originals(network, pix2pixhd.GLOBAL)


def local_enhancer(label_planes=35):
    network = LocalEnhancer(replace(DEEP_LOCAL, label_planes=label_planes))
    return originals(network, pix2pixhd.LOCAL)


def salgan_archive():
    return originals(Salgan(SALIENCY), salgan.LASAGNE)


def salbce():
    return originals(Salgan(SALIENCY), salgan.torch_table(""))


def salema():
    return originals(Salgan(SALIENCY), salgan.torch_table("salgan."))


MAKERS = {
    "seg2vid-two-path": two_path,
    "seg2vid-one-path": one_path,
    "seg2vid-no-labels": no_labels,
    "pix2pixhd-global": global_generator,
    "pix2pixhd-local": local_enhancer,
    "salgan": salgan_archive,
    "salbce": salbce,
    "salema": salema,
}
EVERY_KIND = pytest.mark.parametrize("kind", MAKERS)
EVERY_TORCH_KIND = pytest.mark.parametrize("kind", [k for k in MAKERS if k not in ARCHIVES])


def saved(path, data, **options):
    torch.save(data, path, **options)
    return path


# ---- tables --------------------------------------------------------------------------------------


@pytest.mark.parametrize("name", TABLES)
def test_tables_name_every_published_tensor_once(name):
    published = [n for n in read_manifest(name) if not n.startswith("motion_net")]
    assert sorted(published) == sorted(TABLES[name])
    assert len(set(TABLES[name].values())) == len(TABLES[name])


@pytest.mark.parametrize("name", TABLES)
def test_published_shapes_give_the_published_configuration(name):
    kind = name.removesuffix("-grey")
    source = {n: torch.empty(shape, device="meta") for n, (shape, _) in read_manifest(name).items()}
    describe = (seg2vid if name.startswith("seg2vid") else pix2pixhd).describe
    parts, remarks = describe(source, kind)
    assert remarks == ()
    if "motion" in parts:
        grey, labels = name.endswith("grey"), kind == "seg2vid-two-path"
        assert parts["motion"].config == FlowConfig(
            size_hw=(128, 128) if grey else (128, 256),
            image_channels=1 if grey else 3,
            label_planes=20 if labels else 0,
            num_frames=15 if grey else 4,
            channels=(32, 64, 128, 256),
            background_latents=512 if labels else 1024,
            foreground_latents=512 if labels else 0,
            latent_row=1024,
            latent_channels=64,
            frame_channels=16,
            head_channels=16,
            upsampling="bilinear" if labels else "nearest",
        )
        assert parts["refine"].config.channels == (64, 128, 256, 512, 512)
        assert parts["refine"].config.bottleneck == 1024
    else:
        config = parts["first_frame"].config
        assert config.label_planes == 35
        assert config.channels == (64, 128, 256, 512, 1024)
        assert config.blocks == 9
        if kind == "pix2pixhd-local":
            assert (config.detail_channels, config.detail_blocks) == ((32, 64), 3)


def test_every_kind_has_a_title_and_the_list_loads_no_torch():
    assert set(KINDS) == set(MAKERS)
    source = Path(seg2vid.__file__).with_name("__init__.py").read_text(encoding="utf-8")
    assert not re.search(r"^(import|from) (torch|seg2vid)", source, re.MULTILINE)


# ---- whole way -----------------------------------------------------------------------------------


@EVERY_TORCH_KIND
def test_round_trip_gives_files_that_load_strictly(tmp_path, kind):
    source = MAKERS[kind]()
    path = saved(tmp_path / "original.pth", source)
    made = tmp_path / "made"
    result = import_checkpoint(path, kind, made)
    stages = {f"{stage}.safetensors" for stage in result.stages}
    assert {p.name for p in made.iterdir()} == {"bundle.json", "README.md", *stages}
    description = json.loads((made / "bundle.json").read_text(encoding="utf-8"))
    assert set(description) == {"name", "labels", "size_hw", "fps", "stages"}
    assert set(description["stages"]) == set(result.stages)
    for name, stage in result.stages.items():
        entry = description["stages"][name]
        assert set(entry) == {"family", "file", "config", "options"}
        config = config_from_dict(type(stage.part.config), entry["config"])
        assert config == stage.part.config
        network = stage.part.network(config)
        load_strictly(network, made / entry["file"])
        loaded = network.state_dict()
        for old, new in stage.part.renames.items():
            assert torch.equal(loaded[new], source[old])
    kept = sum(len(stage.tensors) for stage in result.stages.values())
    assert kept + len(result.dropped) == len(source)


FACTS = {  # label set, frame rate and stages
    "seg2vid-two-path": ("cityscapes-20", 17.0, ["motion", "refine"]),
    "seg2vid-one-path": ("cityscapes-20", 17.0, ["motion", "refine"]),
    "seg2vid-no-labels": ("none", 25.0, ["motion", "refine"]),
    "pix2pixhd-global": ("cityscapes-35", None, ["first_frame"]),
    "pix2pixhd-local": ("cityscapes-35", None, ["first_frame"]),
    "salbce": ("none", None, ["saliency"]),
    "salema": ("none", None, ["saliency"]),
}


@EVERY_TORCH_KIND
def test_the_folder_is_a_bundle(tmp_path, kind):
    path = saved(tmp_path / "a.pth", MAKERS[kind]())
    result = import_checkpoint(path, kind, tmp_path / "made")
    labels, fps, stages = FACTS[kind]
    bundle = read_bundle(tmp_path / "made")
    assert (bundle.name, bundle.labels, bundle.fps) == ("made", labels, fps)
    assert bundle.size_hw == result.size_hw
    assert list(bundle.stages) == stages
    for name, stage in result.stages.items():
        spec = bundle.stages[name]
        assert (spec.family, spec.config) == (stage.part.family, stage.part.config)
        assert spec.options == stage.part.options
        loaded = bundle.network(name).state_dict()
        assert all(torch.equal(loaded[n], t) for n, t in stage.tensors.items())
    spec = describe_bundle(tmp_path / "made")
    unnamed = "not known to us; ask the authors"
    assert spec.license == (unnamed if stages == ["saliency"] else "not stated by the authors")
    assert spec.title == KINDS[kind]
    assert spec.source.startswith(
        ("Pan et al., ", "Wang et al., ", "SalBCE, ", "Linardos et al., ")
    )


@EVERY_TORCH_KIND
def test_the_card_says_what_was_made_from_what(tmp_path, kind):
    tensors = MAKERS[kind]()
    path = saved(tmp_path / "model.pth.tar", {"state_dict": tensors, "epoch": 3})
    result = import_checkpoint(path, kind, tmp_path / "made", license_name="CC-BY-4.0")
    card = (tmp_path / "made" / "README.md").read_text(encoding="utf-8")
    assert card.startswith('---\nlicense: other\nlicense_name: "CC-BY-4.0"\n')
    digest = hashlib.sha256(path.read_bytes()).hexdigest()
    assert f"- Checkpoint: `model.pth.tar`, sha256 `{digest}`\n" in card
    assert KINDS[kind] in card
    assert "Licence of the weights: CC-BY-4.0." in card
    rate = FACTS[kind][1]
    assert ("frames per second" in card) is (rate is not None)
    for line in result.report():
        assert f"\n- {line}\n" in card
    for name, stage in result.stages.items():
        assert f"kept {len(stage.tensors)} tensors for {name}" in result.report()
    assert "dropped 1, first epoch: state of the training run" in result.report()
    assert result.dropped["epoch"] == "state of the training run"


def test_the_card_is_one_block_whatever_the_licence(tmp_path):
    path = saved(tmp_path / "a.pth", two_path())
    text = "mine\n---\nlicense:  mit\n"
    import_checkpoint(path, "seg2vid-two-path", tmp_path / "made", license_name=text)
    spec = describe_bundle(tmp_path / "made")
    assert spec.license == "mine --- license: mit"
    assert spec.title == KINDS["seg2vid-two-path"]


@pytest.mark.parametrize(
    "text", ["a: b # c", "- x", "{", "Größe", "'mine'", 'as "free"', "back\\slash", '"']
)
def test_the_licence_is_what_was_given(tmp_path, text):
    path = saved(tmp_path / "a.pth", global_generator())
    import_checkpoint(path, "pix2pixhd-global", tmp_path / "made", license_name=text)
    assert metadata_load(tmp_path / "made" / "README.md")["license_name"] == text
    assert describe_bundle(tmp_path / "made").license == text


@pytest.mark.parametrize("kind", ["seg2vid-two-path", "seg2vid-one-path", "seg2vid-no-labels"])
def test_the_frame_rate_is_that_of_the_data_set_unless_given(tmp_path, kind):
    path = saved(tmp_path / "a.pth", MAKERS[kind]())
    result = import_checkpoint(path, kind, tmp_path / "a")
    rate = FACTS[kind][1]
    remark = f"frame rate taken to be {rate:g}, that of the data set; --fps sets it"
    assert result.report()[-1] == remark
    result = import_checkpoint(path, kind, tmp_path / "b", fps=12.5)
    assert not any("frame rate" in line for line in result.report())
    assert read_bundle(tmp_path / "b").fps == 12.5
    card = (tmp_path / "b" / "README.md").read_text(encoding="utf-8")
    assert "12.5 frames per second" in card


def test_a_painter_has_no_frame_rate_to_assume(tmp_path):
    path = saved(tmp_path / "a.pth", global_generator())
    result = import_checkpoint(path, "pix2pixhd-global", tmp_path / "made")
    assert not any("frame" in line.replace("first_frame", "") for line in result.report())


@pytest.mark.parametrize("kind", ["pix2pixhd-global", "pix2pixhd-local"])
def test_a_painter_takes_no_frame_rate(tmp_path, kind):
    path = saved(tmp_path / "a.pth", MAKERS[kind]())
    with pytest.raises(InputError) as error:
        import_checkpoint(path, kind, tmp_path / "made", fps=12)
    assert error.value.message == f"{kind} has no motion, so no frame rate"
    assert error.value.hint == "leave --fps out"
    assert [p.name for p in tmp_path.iterdir()] == ["a.pth"]


@pytest.mark.parametrize("fps", [0, -1, 1000, float("nan"), float("inf")])
def test_a_frame_rate_that_cannot_be_one(tmp_path, fps):
    with pytest.raises(InputError, match="frames per second is out of range"):
        import_checkpoint(tmp_path / "a.pth", "seg2vid-two-path", tmp_path / "made", fps=fps)


def test_the_name_is_the_folder_s_unless_given(tmp_path, monkeypatch):
    path = saved(tmp_path / "a.pth", two_path())
    monkeypatch.chdir(tmp_path)
    import_checkpoint(path, "seg2vid-two-path", Path("my-model.v2"))
    assert read_bundle(tmp_path / "my-model.v2").name == "my-model.v2"
    import_checkpoint(path, "seg2vid-two-path", Path("My Model"), name="mine")
    assert read_bundle(tmp_path / "My Model").name == "mine"
    card = (tmp_path / "My Model" / "README.md").read_text(encoding="utf-8")
    assert "# Model card: `mine`\n" in card
    for folder, name in (("Other Model", None), ("other", "../x"), ("other", "a/b")):
        with pytest.raises(InputError, match="cannot be the name of weights"):
            import_checkpoint(path, "seg2vid-two-path", Path(folder), name=name)
        assert not Path(folder).exists()


def test_a_folder_that_holds_something_is_refused_and_left(tmp_path):
    path = saved(tmp_path / "a.pth", two_path())
    made = tmp_path / "made"
    made.mkdir()
    (made / "notes.txt").write_text("mine")
    with pytest.raises(InputError, match="made: exists already") as error:
        import_checkpoint(path, "seg2vid-two-path", made)
    assert error.value.hint == "name a new folder with -o"
    with pytest.raises(InputError, match=r"notes\.txt: exists already"):
        import_checkpoint(path, "seg2vid-two-path", made / "notes.txt", name="x")
    assert [p.name for p in made.iterdir()] == ["notes.txt"]
    (made / "notes.txt").unlink()
    import_checkpoint(path, "seg2vid-two-path", made)  # an empty one is as good as none
    assert read_bundle(made).name == "made"


def test_folders_above_are_made(tmp_path):
    path = saved(tmp_path / "a.pth", two_path())
    import_checkpoint(path, "seg2vid-two-path", tmp_path / "a" / "b" / "made")
    assert [p.name for p in (tmp_path / "a" / "b").iterdir()] == ["made"]


def test_this_folder_when_it_is_empty(tmp_path, monkeypatch):
    path = saved(tmp_path / "a.pth", two_path())
    (tmp_path / "made").mkdir()
    monkeypatch.chdir(tmp_path / "made")
    import_checkpoint(path, "seg2vid-two-path", Path())
    assert read_bundle(tmp_path / "made").name == "made"
    assert {p.name for p in tmp_path.iterdir()} == {"a.pth", "made"}


def test_files_can_be_read_by_all(tmp_path):
    path = saved(tmp_path / "a.pth", two_path())
    import_checkpoint(path, "seg2vid-two-path", tmp_path / "made")
    assert {p.stat().st_mode & 0o444 for p in (tmp_path / "made").iterdir()} == {0o444}


@pytest.mark.parametrize("planes", [20, 34, 36])
@pytest.mark.parametrize("kind", ["pix2pixhd-global", "pix2pixhd-local"])
def test_a_painter_of_other_label_planes_is_refused(tmp_path, kind, planes):
    maker = global_generator if kind == "pix2pixhd-global" else local_enhancer
    path = saved(tmp_path / "a.pth", maker(planes))
    with pytest.raises(CheckpointError) as error:
        import_checkpoint(path, kind, tmp_path / "made")
    assert error.value.message == (
        f"{path}: reads {planes} label planes, and {kind} is run with 35 only"
    )
    assert [p.name for p in tmp_path.iterdir()] == ["a.pth"]


@pytest.mark.parametrize("planes", [19, 21, 35])
def test_motion_of_other_label_planes_is_refused(tmp_path, planes):
    tensors = seg2vid_tensors(flow=replace(FLOW, label_planes=planes))
    path = saved(tmp_path / "a.pth", tensors)
    with pytest.raises(CheckpointError) as error:
        import_checkpoint(path, "seg2vid-one-path", tmp_path / "made")
    assert error.value.message == (
        f"{path}: reads {planes} label planes, and seg2vid-flow is run with 20 or 0 only"
    )
    assert [p.name for p in tmp_path.iterdir()] == ["a.pth"]


def test_stages_options_and_sizes_of_the_kinds():
    results = {kind: import_tensors(make(), kind) for kind, make in MAKERS.items()}
    for kind in ("seg2vid-two-path", "seg2vid-one-path", "seg2vid-no-labels"):
        stages = results[kind].stages
        assert stages["motion"].description("x")["options"] == {"downscale": 1}
        assert stages["refine"].description("x")["options"] == {"keep_visible": False}
        assert stages["motion"].part.family == "seg2vid-flow"
        assert stages["refine"].part.family == "seg2vid-refine"
    flows = {k: r.stages["motion"].part.config for k, r in results.items() if "motion" in r.stages}
    assert [f.upsampling for f in flows.values()] == ["bilinear", "bilinear", "nearest"]
    assert [f.num_frames for f in flows.values()] == [2, 2, 3]
    assert [r.size_hw for r in results.values()] == [
        (128, 256),
        (128, 256),
        (128, 128),
        (512, 1024),
        (1024, 2048),
        *[(192, 256)] * 3,
    ]
    assert flows["seg2vid-two-path"].background_latents == 3
    assert flows["seg2vid-two-path"].foreground_latents == 5
    for kind in ("seg2vid-one-path", "seg2vid-no-labels"):
        assert (flows[kind].background_latents, flows[kind].foreground_latents) == (8, 0)


@EVERY_KIND
def test_imported_networks_run(kind):
    for name, stage in import_tensors(MAKERS[kind](), kind).stages.items():
        network, config = stage.network(), stage.part.config
        if name == "first_frame":
            inputs = [torch.rand(1, 36, config.smallest, config.smallest)]
        elif name == "saliency":
            inputs = [torch.rand(1, 3, 32, 32)]
        elif name == "refine":
            inputs = [torch.rand(1, config.image_channels, 128, 128)]
        else:
            inputs = [
                torch.rand(1, config.image_channels, 32, 32),
                torch.rand(1, config.label_planes, 32, 32),
                torch.randn(1, config.latent_rows, config.latent_size),
            ]
        assert network(*inputs) is not None
        assert not any(weight.requires_grad for weight in network.parameters())


def test_without_motion_encoders_the_latent_is_halved_and_said_so():
    result = import_tensors(seg2vid_tensors(), "seg2vid-two-path")
    config = result.stages["motion"].part.config
    assert (config.background_latents, config.foreground_latents) == (4, 4)
    assert "no motion encoder" in result.remarks[0]
    assert result.remarks[0] in result.report()


def test_half_precision_becomes_float32_and_files_hold_nothing_else(tmp_path):
    source = {n: t.half() if t.is_floating_point() else t for n, t in global_generator().items()}
    made = tmp_path / "made"
    import_checkpoint(saved(tmp_path / "a.pth", source), "pix2pixhd-global", made)
    with safe_open(made / "first_frame.safetensors", "pt") as file:
        assert {file.get_tensor(key).dtype for key in file.keys()} == {torch.float32}  # noqa: SIM118
        assert file.metadata() == {"imported": "pix2pixhd-global", "stage": "first_frame"}


@pytest.mark.parametrize("other", [False, True])
def test_a_failed_import_leaves_the_former_files(tmp_path, other):
    made = tmp_path / "made"
    import_checkpoint(saved(tmp_path / "a.pth", two_path()), "seg2vid-two-path", made)
    before = {p.name: p.read_bytes() for p in made.iterdir()}
    source = two_path()
    source.pop("fc.bias")
    path = saved(tmp_path / "b.pth", source)
    if other:
        with pytest.raises(CheckpointError, match=r"first fc\.bias"):
            import_checkpoint(path, "seg2vid-two-path", tmp_path / "other")
    else:
        with pytest.raises(InputError, match="exists already"):
            import_checkpoint(path, "seg2vid-two-path", made)
    assert {p.name: p.read_bytes() for p in made.iterdir()} == before
    assert {p.name for p in tmp_path.iterdir()} == {"a.pth", "b.pth", "made"}


def full(*args, **options):
    raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))


@pytest.mark.parametrize("failing", ["pathlib.Path.write_text", "pathlib.Path.chmod"])
def test_a_disk_that_is_full_leaves_nothing(tmp_path, monkeypatch, failing):
    path = saved(tmp_path / "a.pth", two_path())
    monkeypatch.setattr(failing, full)
    with pytest.raises(InputError) as error:
        import_checkpoint(path, "seg2vid-two-path", tmp_path / "made")
    assert str(error.value) == f"{tmp_path / 'made'}: cannot be written: No space left on device"
    assert [p.name for p in tmp_path.iterdir()] == ["a.pth"]


def test_a_disk_that_fills_up_while_tensors_are_written(tmp_path, monkeypatch):
    resource = pytest.importorskip("resource")
    path = saved(tmp_path / "a.pth", two_path())
    limit = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (20_000, limit[1]))
    try:
        with pytest.raises(InputError, match="made: cannot be written: "):
            import_checkpoint(path, "seg2vid-two-path", tmp_path / "made")
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, limit)
        assert [p.name for p in tmp_path.iterdir()] == ["a.pth"]


@pytest.mark.parametrize("number", [0, 1])
def test_an_interruption_leaves_nothing(tmp_path, monkeypatch, number):
    path = saved(tmp_path / "a.pth", two_path())
    calls = []

    def interrupted(network, path):
        calls.append(path)
        if len(calls) > number:
            raise KeyboardInterrupt

    monkeypatch.setattr(convert, "load_strictly", interrupted)
    with pytest.raises(KeyboardInterrupt):
        import_checkpoint(path, "seg2vid-two-path", tmp_path / "made")
    assert [p.name for p in tmp_path.iterdir()] == ["a.pth"]


# ---- wrappers ------------------------------------------------------------------------------------


def test_prefixes_and_wrappers_come_off(tmp_path):
    tensors = two_path()
    network = torch.nn.Linear(2, 2)
    optimizer = torch.optim.Adam(network.parameters())
    network(torch.ones(1, 2)).sum().backward()
    optimizer.step()
    parallel = OrderedDict((f"module.{name}", t) for name, t in tensors.items())
    for data, beside in (
        (tensors, set()),
        (parallel, set()),
        ({"vae": parallel, "optimizer": optimizer.state_dict()}, {"optimizer"}),
        ({"state_dict": tensors, "epoch": 3, "arch": "x", "best": 0.5}, {"epoch", "arch", "best"}),
        ({"state_dict": {"vae": parallel, "optimizer": {}}}, {"optimizer"}),
    ):
        for old_format in (False, True):
            path = tmp_path / "096000_model.pth.tar"
            torch.save(data, path, _use_new_zipfile_serialization=not old_format)
            checkpoint = open_checkpoint(path)
            assert set(checkpoint.dropped) == beside
            assert list(checkpoint.tensors) == list(tensors)
            assert all(torch.equal(checkpoint.tensors[n], t) for n, t in tensors.items())


def test_a_prefix_on_some_names_only_stays():
    checkpoint = unwrap({"module.a": torch.ones(1), "b": torch.ones(1)})
    assert set(checkpoint.tensors) == {"module.a", "b"}


@pytest.mark.parametrize(
    ("data", "said"),
    [
        ([torch.ones(1)], "holds no tensors by name, but a list"),
        ({}, "holds no tensors by name"),
        (torch.ones(1), "a Tensor"),
        ({"a": 1}, "'a' holds a int instead of a tensor"),
        ({"a\x1b[2J": torch.ones(1)}, "is not a name"),
        ({1: torch.ones(1)}, "1 is not a name"),
        ({"vae": {"a": torch.ones(1)}, "critic": {}}, "'critic' lies beside 'vae'"),
        ({"vae": {"a": torch.ones(1)}, "ema": torch.ones(1)}, "'ema' lies beside 'vae'"),
        ({"a": torch.ones(1, dtype=torch.int32)}, "torch.int32"),
        ({"a": torch.ones(1, device="meta")}, "not a plain tensor"),
        ({"a": torch.ones(2).to_sparse()}, "not a plain tensor"),
    ],
)
def test_contents_that_are_no_checkpoint(data, said):
    with pytest.raises(CheckpointError, match=re.escape(said)):
        unwrap(data)


# ---- strictness ----------------------------------------------------------------------------------


def test_dropped_tensors_are_reported_with_the_reason(tmp_path):
    tensors = two_path() | {"vgg_net.slice1.0.weight": torch.ones(2, 3, 3, 3)}
    path = saved(tmp_path / "a.pth.tar", {"vae": tensors, "optimizer": {}})
    result = import_checkpoint(path, "seg2vid-two-path", tmp_path / "made")
    assert set(result.dropped) == {
        "optimizer",
        "vgg_net.slice1.0.weight",
        *(f"motion_net_{h}.{n}" for h in ("bg", "fg") for n in ("main.0.weight", "fc1.weight")),
    }
    assert result.report() == [
        f"kept {len(seg2vid.MOTION)} tensors for motion",
        f"kept {len(seg2vid.REFINE)} tensors for refine",
        "dropped 1, first optimizer: state of the training run",
        "dropped 4, first motion_net_bg.main.0.weight: the motion encoder, which only training "
        "uses",
        "dropped 1, first vgg_net.slice1.0.weight: the features of a training loss",
        "frame rate taken to be 17, that of the data set; --fps sets it",
    ]


def test_statistics_of_instance_norm_are_dropped_and_only_they():
    tensors = global_generator()
    for name in ("model.2.running_mean", "model.16.conv_block.6.running_var"):
        tensors[name] = torch.ones(3)
    result = import_tensors(tensors, "pix2pixhd-global")
    assert set(result.dropped) == {"model.2.running_mean", "model.16.conv_block.6.running_var"}
    for name in ("model.1.running_mean", "model.39.running_mean", "model.2.weight"):
        with pytest.raises(CheckpointError, match=f"1 tensors are not known, first {name}$"):
            import_tensors({**global_generator(), name: torch.ones(3)}, "pix2pixhd-global")


@EVERY_KIND
def test_an_unknown_tensor_is_an_error(kind):
    for name in ("extra.weight", "fc.weight.more", "motion_network.a", "model.1.weights"):
        with pytest.raises(CheckpointError, match=f"1 tensors are not known, first {name}$"):
            import_tensors({**MAKERS[kind](), name: torch.ones(1)}, kind)


@EVERY_KIND
def test_every_missing_tensor_is_an_error(kind):
    tensors = MAKERS[kind]()
    wanted = [name for name in tensors if not name.startswith("motion_net")]
    for name in wanted[:: max(1, len(wanted) // 12)]:
        without = {n: t for n, t in tensors.items() if n != name}
        with pytest.raises(CheckpointError, match=f"1 tensors are missing, first {name}$"):
            import_tensors(without, kind)


@EVERY_KIND
def test_every_wrong_shape_is_an_error(kind):
    tensors = MAKERS[kind]()
    wanted = [name for name in tensors if not name.startswith("motion_net")]
    for name in wanted[:: max(1, len(wanted) // 12)]:
        for wrong in (torch.ones(7, 9, 1, 1), torch.ones(2, 0, 2, 2), torch.ones(11)):
            with pytest.raises(CheckpointError, match=r"shape|fit|latent|checkpoint"):
                import_tensors({**tensors, name: wrong}, kind)


def test_a_wrong_shape_is_named_as_in_the_checkpoint():
    tensors = {**two_path(), "flow_decoder.dconv2.main.3.weight": torch.ones(4, 8, 5, 5)}
    with pytest.raises(CheckpointError) as error:
        import_tensors(tensors, "seg2vid-two-path")
    assert str(error.value) == (
        "flow_decoder.dconv2.main.3.weight has shape (4, 8, 5, 5), the network needs (4, 8, 3, 3)"
    )


@pytest.mark.parametrize("value", [float("nan"), float("inf")])
def test_values_must_be_finite(value):
    tensors = two_path()
    tensors["zconv.main.0.bias"][1] = value
    with pytest.raises(CheckpointError, match=r"zconv\.main\.0\.bias holds"):
        import_tensors(tensors, "seg2vid-two-path")


def test_files_from_before_batch_norm_counted():
    counters = [name for name in TABLES["seg2vid-two-path"] if name.endswith("batches_tracked")]
    tensors = {n: t for n, t in two_path().items() if n not in counters}
    result = import_tensors(tensors, "seg2vid-two-path")
    assert f"{len(counters)} counters of batch norm filled in as 0" in result.remarks
    assert result.stages["motion"].tensors["merge.main.1.num_batches_tracked"] == 0
    tensors[counters[0]] = torch.tensor(3)
    with pytest.raises(CheckpointError, match=f"{len(counters) - 1} tensors are missing"):
        import_tensors(tensors, "seg2vid-two-path")


@pytest.mark.parametrize("given", MAKERS)
@pytest.mark.parametrize("kind", MAKERS)
def test_a_checkpoint_of_another_kind_is_an_error(given, kind):
    if given == kind or {given, kind} == {
        "salbce",
        "salema",
    }:  # one network, with memory and without
        return
    with pytest.raises(CheckpointError) as error:
        import_tensors(MAKERS[given](), kind)
    looks_like = given
    if given.startswith("seg2vid") and not kind.startswith("seg2vid"):
        looks_like = "seg2vid-two-path"  # by its first layer only
    assert error.value.hint == f"it looks like {looks_like}"


def test_an_unknown_kind_lists_the_known(tmp_path):
    with pytest.raises(InputError, match="'seg2vid' is not known") as error:
        import_checkpoint(tmp_path / "a.pth", "seg2vid", tmp_path)
    assert "pix2pixhd-local" in error.value.hint


# ---- files that are no checkpoints ---------------------------------------------------------------


class Hostile:
    def __init__(self, mark):
        self.mark = mark

    def __reduce__(self):
        return os.system, (f"touch {self.mark}",)


class ByName:
    def __init__(self, function):
        self.function = function

    def __reduce__(self):
        return self.function, ("1",)


@pytest.mark.parametrize("old_format", [False, True])
def test_a_hostile_pickle_does_not_run_and_the_error_says_why(tmp_path, monkeypatch, old_format):
    monkeypatch.setenv("TORCH_FORCE_NO_WEIGHTS_ONLY_LOAD", "1")
    mark = tmp_path / "was-run"
    data = {"vae": {"fc.weight": torch.ones(1), "fc.bias": Hostile(mark)}}
    path = saved(tmp_path / "a.pth", data, _use_new_zipfile_serialization=not old_format)
    with pytest.raises(CheckpointError) as error:
        import_checkpoint(path, "seg2vid-two-path", tmp_path / "made")
    assert not mark.exists()
    assert not (tmp_path / "made").exists()
    assert re.search(r"nothing in it was run: .* wants (posix|nt)\.system", error.value.message)
    assert str(path) in error.value.message
    assert "state_dict" in error.value.hint


@pytest.mark.parametrize(
    ("value", "named"),
    [
        (torch.nn.Linear(1, 1), "torch.nn.modules.linear.Linear"),
        (np.float64(1.0), "numpy"),
    ],
)
def test_other_objects_are_refused_by_name(tmp_path, value, named):
    path = saved(tmp_path / "a.pth", {"state_dict": {"a": torch.ones(1)}, "best": value})
    with pytest.raises(CheckpointError, match=f"wants {re.escape(named)}"):
        open_checkpoint(path)


def test_hostile_pickles_of_other_forms(tmp_path):
    mark, path = tmp_path / "was-run", tmp_path / "a.pth"
    for protocol in (2, 4, 5):
        path.write_bytes(pickle.dumps(Hostile(mark), protocol))
        with pytest.raises(CheckpointError, match=r"damaged|refused"):
            open_checkpoint(path)
    for function in (eval, exec, getattr):
        saved(path, {"a": ByName(function)})
        with pytest.raises(CheckpointError, match=f"wants .*{function.__name__}"):
            open_checkpoint(path)
    assert not mark.exists()


def test_a_program_is_no_checkpoint(tmp_path):
    path = tmp_path / "a.pt"
    with zipfile.ZipFile(path, "w") as file:  # what marks one
        for name in ("data.pkl", "constants.pkl", "version"):
            file.writestr(f"a/{name}", b"3\n")
    with pytest.raises(CheckpointError, match="is a TorchScript program"):
        open_checkpoint(path)


@pytest.mark.parametrize("old_format", [False, True])
def test_truncated_files(tmp_path, old_format):
    path = tmp_path / "a.pth"
    torch.save(global_generator(), path, _use_new_zipfile_serialization=not old_format)
    content = path.read_bytes()
    for share in (0.001, 0.01, 0.3, 0.6, 0.9, 0.999):
        path.write_bytes(content[: int(len(content) * share)])
        with pytest.raises(CheckpointError, match="damaged") as error:
            open_checkpoint(path)
        assert error.value.hint == "download the file again"


def test_a_numpy_archive_is_refused_as_what_it_is(tmp_path):
    path = tmp_path / "a.npz"
    for save in (np.savez, np.savez_compressed):
        save(path, weights=np.ones(3), bias=np.ones(1))
        with pytest.raises(CheckpointError, match=r"a\.npz: is a NumPy archive") as error:
            import_checkpoint(path, "seg2vid-two-path", tmp_path / "made")
        assert error.value.hint == "SalGAN's is one: import it with --as salgan"
        assert not (tmp_path / "made").exists()


def test_files_given_by_mistake(tmp_path):
    path = tmp_path / "a.pth"
    save_file({"a": torch.ones(1)}, tmp_path / "a.safetensors")
    torch.save(global_generator(), tmp_path / "b.pth")
    tar = b"vae.pth".ljust(257, b"\0") + b"ustar".ljust(255, b"\0")
    np.savez(tmp_path / "c.npz", weights=np.ones(3))
    for content, said in (
        (b"", "is empty"),
        ((tmp_path / "c.npz").read_bytes(), "is a NumPy archive"),
        ((tmp_path / "a.safetensors").read_bytes(), "is a safetensors file"),
        (gzip.compress(b"x"), "is an archive"),
        (tar, "is an archive"),
        (b"<!DOCTYPE html><html>Quota exceeded</html>", "is not a PyTorch checkpoint"),
        (b"\x89PNG\r\n\x1a\n" + bytes(64), "is not a PyTorch checkpoint"),
        (b"PK\x03\x04" + bytes(64), "damaged or incomplete"),
        (b"\x80\x02" + bytes(64), "damaged"),
    ):
        path.write_bytes(content)
        with pytest.raises(CheckpointError, match=said) as error:
            open_checkpoint(path)
        assert str(error.value).startswith(f"{path}: ")
    for missing in (tmp_path / "nothing.pth", tmp_path):
        with pytest.raises(InputError, match="cannot be read"):
            open_checkpoint(missing)
