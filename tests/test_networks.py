"""The networks at tiny widths: shapes, ranges, batches, other sizes, and what they depend on."""

from __future__ import annotations

from dataclasses import MISSING, FrozenInstanceError, asdict, fields, replace

import pytest
import torch
from conftest import FLOW, LABEL_UNET, REFINE, lively
from torch.nn import functional as F

from seg2vid_cli.networks.label_unet import MIDDLE_NOISE, LabelUNet, LabelUNetConfig
from seg2vid_cli.networks.seg2vid_flow import FlowOutput, Seg2VidFlow
from seg2vid_cli.networks.seg2vid_refine import Seg2VidRefine
from seg2vid_cli.networks.segmenter import Segmenter, SegmenterConfig
from seg2vid_cli.weights.load import config_from_dict

SEGMENTER = SegmenterConfig(classes=5, channels=(4, 6, 8), blocks=(0, 1, 2))
# What weights from before they came must be read with.
LATER_FIELDS = {
    LabelUNetConfig: {
        "up_blocks": 0,
        "edge_planes": 0,
        "colour_planes": 0,
        "palette": False,
        "upsampling": "nearest",
        "noise": "up",
    }
}
FLOW_FIELDS = [field.name for field in fields(FlowOutput)]


def hot(*shape_bhw):
    """Random one-hot planes."""
    return F.one_hot(torch.randint(20, shape_bhw), 20).permute(0, 3, 1, 2).float()


def picture_batch(batch, height, width):
    return torch.rand(batch, 3, height, width)


def latents_of(batch, config=FLOW):
    return torch.randn(batch, 1, config.latent_size).expand(-1, config.latent_rows, -1)


def assert_each_alone(network, *inputs):
    """A batch must give what its members give alone."""
    together = network(*inputs)
    for i in range(len(inputs[0])):
        alone = network(*(x[i : i + 1] for x in inputs))
        torch.testing.assert_close(together[i : i + 1], alone, rtol=1e-4, atol=1e-5)
    assert (together[0] - together[1]).abs().max() > 1e-3  # or equality would say nothing


# ---- configurations ------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "config", [LABEL_UNET, FLOW, REFINE, SEGMENTER], ids=lambda c: type(c).__name__
)
def test_a_configuration_has_no_defaults_and_cannot_change(config):
    for field in fields(config):
        later = LATER_FIELDS.get(type(config), {})
        assert field.default is later.get(field.name, MISSING), field.name
        assert field.default_factory is MISSING, field.name
        with pytest.raises(FrozenInstanceError):
            setattr(config, field.name, None)
    with pytest.raises(TypeError, match="positional"):
        type(config)(*(getattr(config, field.name) for field in fields(config)))


def test_a_configuration_from_before_a_field_came_is_still_read():
    old = asdict(replace(LABEL_UNET, up_blocks=2))
    assert config_from_dict(LabelUNetConfig, old).up_blocks == 2
    del old["up_blocks"]
    assert config_from_dict(LabelUNetConfig, old) == replace(LABEL_UNET, up_blocks=0)
    del old["style_size"]
    with pytest.raises(ValueError, match="style_size"):
        config_from_dict(LabelUNetConfig, old)


# ---- first frame ---------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def painter():
    return lively(LabelUNet(LABEL_UNET))


def test_every_further_width_halves_the_size():
    assert LABEL_UNET.multiple == 2
    assert replace(LABEL_UNET, channels=(4,)).multiple == 1
    assert replace(LABEL_UNET, channels=(4, 4, 4, 4, 4)).multiple == 16


def paint_inputs(batch, height, width):
    """Planes, style and noise."""
    return hot(batch, height, width), torch.randn(batch, 4), torch.randn(batch, 1, height, width)


@pytest.mark.parametrize("size_hw", [LABEL_UNET.size_hw, (10, 38)], ids=str)
def test_label_unet_paints_at_any_size(painter, size_hw):
    painted = painter(*paint_inputs(2, *size_hw))
    assert painted.shape == (2, 3, *size_hw)
    assert painted.min() > 0
    assert painted.max() < 1


def test_label_unet_paints_a_batch_as_each_alone(painter):
    assert_each_alone(painter, *paint_inputs(3, 16, 24))


def test_label_unet_looks_at_labels_style_and_noise(painter):
    inputs = paint_inputs(1, 16, 24)
    painted = painter(*inputs)
    assert torch.equal(painter(*inputs), painted)
    for place, other in enumerate((inputs[0].roll(1, dims=1), -inputs[1], -inputs[2])):
        changed = [*inputs]
        changed[place] = other
        assert (painter(*changed) - painted).abs().max() > 0.05, place


def without(network, part):
    """Silence some of a network's weights."""
    for name, weight in network.named_parameters():
        if part in name:
            weight.zero_()
    return network


def test_a_style_of_nothing_leaves_the_norm_as_it_is():
    """Scale is written as 1 + scale, so silent style layers change nothing."""
    network = without(lively(LabelUNet(LABEL_UNET)), ".style.")
    planes, style, noise = paint_inputs(1, 8, 8)
    one, other = network(planes, style, noise), network(planes, -style, noise)
    assert torch.equal(one, other)
    assert one.std(dim=(-2, -1)).max() > 1e-3  # and what the convolutions found still shows


def test_noise_of_no_strength_changes_nothing():
    network = without(lively(LabelUNet(LABEL_UNET)), "noise_strength")
    planes, style, noise = paint_inputs(1, 8, 8)
    assert torch.equal(network(planes, style, noise), network(planes, style, -noise))
    for strength in LabelUNet(LABEL_UNET).noise_strength:  # that is how training starts
        assert not strength.any()


def test_noise_reaches_every_middle_layer_at_unit_variance():
    config = replace(LABEL_UNET, channels=(2, 3, 4), middle_blocks=2, noise="middle")
    assert [s.unique().tolist() for s in LabelUNet(config).middle_noise] == [[MIDDLE_NOISE]] * 4
    assert not LabelUNet(replace(config, edge_planes=1)).middle_noise
    network, seen = lively(LabelUNet(config)), []
    for layer, strength in zip(network.middle, network.middle_noise, strict=True):
        strength.fill_(1.0)
        layer.register_forward_pre_hook(lambda _, arguments: seen.append(arguments[2]))
    network(*paint_inputs(1, 256, 256))
    assert [grain.shape for grain in seen] == [(1, 4, 64, 64)] * 4
    assert all(abs(grain.std() - 1) < 0.05 for grain in seen)
    seen.clear()
    network(*paint_inputs(1, 16, 16)[:2])
    assert seen == [None] * 4


def test_a_middle_without_noise_is_that_of_a_network_that_knows_none():
    config = replace(LABEL_UNET, middle_blocks=2)
    old, new = lively(LabelUNet(config)), lively(LabelUNet(replace(config, noise="middle")))
    new.load_state_dict(old.state_dict(), strict=False)
    inputs = paint_inputs(1, 16, 32)
    assert (new(*inputs) - old(*inputs)).abs().max() > 1e-3
    for strength in new.middle_noise:
        strength.zero_()
    assert torch.equal(new(*inputs), old(*inputs))


def test_the_two_ways_of_enlarging_differ_by_their_blocks():
    """From one coarse cell to the next, the nearest way jumps and the bilinear one does not."""
    networks = {
        way: lively(LabelUNet(replace(LABEL_UNET, upsampling=way)))
        for way in ("nearest", "bilinear")
    }
    networks["bilinear"].load_state_dict(networks["nearest"].state_dict())
    grown, inputs = {way: [] for way in networks}, paint_inputs(1, 16, 32)
    for way, network in networks.items():
        network.up[0].register_forward_pre_hook(
            lambda _, arguments, way=way: grown[way].append(arguments[0])
        )
        network(*inputs)
    width = LABEL_UNET.channels[-1]
    blocky, smooth = (grown[way][0][:, :width] for way in networks)
    assert torch.equal(blocky[..., ::2], blocky[..., 1::2])
    wanted = 0.75 * blocky[..., 1:-2:2] + 0.25 * blocky[..., 2:-1:2]
    wanted = 0.75 * wanted[..., 1:-2:2, :] + 0.25 * wanted[..., 2:-1:2, :]
    torch.testing.assert_close(smooth[..., 1:-2:2, 1:-2:2], wanted)


def test_noise_has_unit_variance_at_every_scale():
    network = lively(LabelUNet(replace(LABEL_UNET, channels=(2, 3, 4, 5))))
    seen = []
    for layer, strength in zip(network.up, network.noise_strength, strict=True):
        strength.fill_(1.0)
        layer.register_forward_pre_hook(lambda _, arguments: seen.append(arguments[2]))
    network(*paint_inputs(1, 256, 256))
    assert [grain.shape for grain in seen] == [(1, 4, 64, 64), (1, 3, 128, 128), (1, 2, 256, 256)]
    for grain in seen:
        assert abs(grain.std() - 1) < 0.03
        assert torch.equal(grain[:, 0], grain[:, 1])  # one noise, scaled per channel


DEEP = replace(LABEL_UNET, channels=(4, 6, 8, 10), up_blocks=2)


def test_blocks_on_the_way_up_change_nothing_while_their_gains_are_nothing():
    plain, rich = lively(LabelUNet(replace(DEEP, up_blocks=0))), lively(LabelUNet(DEEP))
    weights = rich.state_dict()
    plain.load_state_dict({name: weights[name] for name in plain.state_dict()})
    inputs = paint_inputs(1, 16, 24)
    assert (rich(*inputs) - plain(*inputs)).abs().max() > 0.01
    for gain, fresh in zip(rich.up_gains, LabelUNet(DEEP).up_gains, strict=True):
        assert not fresh.any()  # that is how training starts
        gain.zero_()
    assert torch.equal(rich(*inputs), plain(*inputs))


def test_every_block_on_the_way_up_has_its_place_and_its_gain():
    network, seen = lively(LabelUNet(DEEP)), []
    for block in network.up_blocks:
        block.register_forward_pre_hook(lambda _, arguments: seen.append(arguments[0].shape))
    inputs = paint_inputs(1, 16, 24)
    painted = network(*inputs)
    assert seen == [(1, 8, 4, 6)] * 2 + [(1, 6, 8, 12)] * 2
    for block, gain in zip(network.up_blocks, network.up_gains, strict=True):
        before = gain.clone()
        gain.zero_()
        silent = network(*inputs)
        assert (silent - painted).abs().max() > 0.01
        weights = block.conv.weight.clone()
        block.conv.weight.normal_()
        assert torch.equal(network(*inputs), silent)  # it was this block's gain
        block.conv.weight.copy_(weights)
        gain.copy_(before)


def test_label_unet_of_one_width_and_deep_ones_paint():
    for channels, blocks in (((4,), 0), ((4, 4, 4, 4), 2)):
        config = replace(LABEL_UNET, channels=channels, middle_blocks=blocks, up_blocks=blocks)
        painted = lively(LabelUNet(config))(*paint_inputs(1, 16, 24))
        assert painted.shape == (1, 3, 16, 24)


# ---- motion --------------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def mover():
    return lively(Seg2VidFlow(FLOW))


def test_latent_sizes_follow_from_the_configuration():
    assert FLOW.latent_size == 3 + 5
    assert FLOW.latent_grid == (2, 4)
    assert FLOW.latent_rows == 4  # 4 channels of 2x4 in rows of 8
    paper = replace(FLOW, size_hw=(128, 256), latent_channels=64, latent_row=1024)
    assert paper.latent_grid == (8, 16)
    assert paper.latent_rows == 8


@pytest.mark.parametrize("row", [7, 64], ids=["not whole", "longer than the map"])
def test_a_latent_map_that_is_not_whole_rows_is_refused(row):
    with pytest.raises(ValueError, match="latent map 4x2x4 is not whole rows"):
        _ = replace(FLOW, latent_row=row).latent_rows


@pytest.mark.parametrize("size_hw", [FLOW.size_hw, (48, 16)], ids=str)
@pytest.mark.parametrize("upsampling", ["bilinear", "nearest"])
def test_seg2vid_flow_predicts_at_any_size(size_hw, upsampling):
    network = lively(Seg2VidFlow(replace(FLOW, upsampling=upsampling, num_frames=3)))
    out = network(picture_batch(2, *size_hw), hot(2, *size_hw), latents_of(2))
    assert out.flow.shape == out.flow_back.shape == (2, 2, 3, *size_hw)
    assert out.visibility.shape == out.visibility_back.shape == (2, 3, *size_hw)
    for visibility in (out.visibility, out.visibility_back):
        assert visibility.min() >= 0
        assert visibility.max() <= 1
    assert out.flow.min() < 0 < out.flow.max()  # flows have no range


@pytest.mark.parametrize("name", FLOW_FIELDS)
def test_seg2vid_flow_predicts_a_batch_as_each_alone(mover, name):
    inputs = picture_batch(3, 32, 64), hot(3, 32, 64), latents_of(3)
    assert_each_alone(lambda *x: getattr(mover(*x), name), *inputs)


@pytest.mark.parametrize("name", FLOW_FIELDS)
def test_every_prediction_depends_on_every_input(mover, name):
    inputs = [picture_batch(1, 32, 64), hot(1, 32, 64), latents_of(1)]
    before = getattr(mover(*inputs), name)
    for place, other in enumerate((1 - inputs[0], inputs[1].roll(1, dims=1), -inputs[2])):
        changed = [*inputs]
        changed[place] = other
        assert (getattr(mover(*changed), name) - before).abs().max() > 1e-3, place


def test_frames_and_the_four_predictions_differ(mover):
    out = mover(picture_batch(1, 32, 64), hot(1, 32, 64), latents_of(1))
    assert (out.flow[:, :, 0] - out.flow[:, :, 1]).abs().max() > 1e-3
    assert (out.flow - out.flow_back).abs().max() > 1e-3
    assert (out.visibility - out.visibility_back).abs().max() > 1e-3


def test_both_halves_of_the_latent_count(mover):
    frame, planes, latents = picture_batch(1, 32, 64), hot(1, 32, 64), latents_of(1)
    before = mover(frame, planes, latents).flow
    for half in (slice(0, 3), slice(3, 8)):
        changed = latents.clone()
        changed[..., half] *= -1
        assert (mover(frame, planes, changed).flow - before).abs().max() > 1e-3


def test_without_labels_there_are_no_planes():
    network = lively(Seg2VidFlow(replace(FLOW, label_planes=0, image_channels=1)))
    out = network(torch.rand(1, 1, 32, 64), torch.zeros(1, 0, 32, 64), latents_of(1))
    assert out.flow.shape == (1, 2, 2, 32, 64)


def test_the_two_ways_of_upsampling_differ():
    networks = [
        lively(Seg2VidFlow(replace(FLOW, upsampling=way))) for way in ("bilinear", "nearest")
    ]
    inputs = picture_batch(1, 32, 64), hot(1, 32, 64), latents_of(1)
    bilinear, nearest = (network(*inputs).flow for network in networks)
    assert (bilinear - nearest).abs().max() > 1e-3


@pytest.mark.parametrize("rows", [3, 5])
def test_another_number_of_latent_rows_is_refused(mover, rows):
    with pytest.raises(RuntimeError, match="shape"):
        mover(picture_batch(1, 32, 64), hot(1, 32, 64), torch.randn(1, rows, 8))


def test_rows_fill_the_native_latent_map_in_reading_order(mover):
    """Row r, place p is element r * 8 + p of the (4, 2, 4) map, as the paper's code lays it out."""
    latents = torch.randn(1, 4, 8)
    rows = mover.latent_fc(latents)[0]
    latent_map = mover._latent_map(latents, torch.Size((2, 4)))
    for channel, y, x in ((0, 0, 0), (0, 1, 3), (1, 0, 2), (3, 1, 1)):
        row, place = divmod(channel * 8 + y * 4 + x, 8)
        assert latent_map[0, channel, y, x] == rows[row, place]


def test_at_another_size_the_native_latent_map_is_stretched(mover):
    latents = latents_of(1)
    native = mover._latent_map(latents, torch.Size((2, 4)))
    larger = mover._latent_map(latents, torch.Size((4, 8)))
    assert larger.shape == (1, 4, 4, 8)
    # Bilinear without corner alignment: the corner stays, its neighbour is 3 parts to 1.
    torch.testing.assert_close(larger[..., 0, 0], native[..., 0, 0])
    expected = 0.75 * native[..., 0, 0] + 0.25 * native[..., 0, 1]
    torch.testing.assert_close(larger[..., 0, 1], expected)


# ---- refinement ----------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def repairer():
    return lively(Seg2VidRefine(REFINE))


@pytest.mark.parametrize("size_hw", [(128, 128), (128, 160)], ids=str)
def test_seg2vid_refine_repaints_at_any_size(repairer, size_hw):
    repaired = repairer(torch.randn(1, 3, *size_hw))
    assert repaired.shape == (1, 3, *size_hw)
    assert repaired.min() >= 0
    assert repaired.max() <= 1
    assert repaired.std() > 1e-3


def test_seg2vid_refine_repaints_a_batch_as_each_alone(repairer):
    assert_each_alone(repairer, torch.randn(2, 3, 128, 128))


def test_a_pixel_of_the_damaged_picture_is_felt_where_it_lies(repairer):
    """Past the narrow place only a blur would be left; the skips carry detail."""
    damaged = torch.randn(1, 3, 128, 128)
    changed = damaged.clone()
    changed[..., 40, 70] += 3
    difference = (repairer(changed) - repairer(damaged)).abs().sum(dim=1)[0]
    y, x = divmod(int(difference.argmax()), 128)
    assert max(abs(y - 40), abs(x - 70)) <= 3
    assert difference.max() > 20 * difference.median()


def test_seg2vid_refine_in_grey():
    network = lively(Seg2VidRefine(replace(REFINE, image_channels=1)))
    assert network(torch.randn(1, 1, 128, 128)).shape == (1, 1, 128, 128)


def test_seg2vid_refine_needs_its_smallest_size(repairer):
    assert Seg2VidRefine.smallest == 128
    with pytest.raises(RuntimeError, match="Kernel size"):
        repairer(torch.randn(1, 3, 128 - Seg2VidRefine.multiple, 128))


# ---- segmenter -----------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def segmenter():
    return lively(Segmenter(SEGMENTER))


@pytest.mark.parametrize("size_hw", [(16, 32), (24, 8)], ids=str)
def test_segmenter_scores_every_class_of_every_pixel(segmenter, size_hw):
    assert segmenter(picture_batch(2, *size_hw)).shape == (2, 5, *size_hw)


def test_segmenter_scores_a_batch_as_each_alone(segmenter):
    assert_each_alone(segmenter, picture_batch(3, 16, 24))


# ---- motion in two steps -------------------------------------------------------------------------


def test_one_picture_for_many_latents_is_the_same_as_one_each(mover):
    frame, planes, latents = picture_batch(1, 32, 64), hot(1, 32, 64), latents_of(3)
    encoded = mover.encode(frame, planes)
    assert [tuple(x.shape[-2:]) for x in encoded] == [(16, 32), (8, 16), (4, 8), (2, 4)]
    together = mover.decode(encoded, latents)
    repeated = mover(frame.expand(3, -1, -1, -1), planes.expand(3, -1, -1, -1), latents)
    for name in FLOW_FIELDS:
        torch.testing.assert_close(getattr(together, name), getattr(repeated, name))


def test_one_way_is_the_same_without_the_way_back(mover):
    encoded, latents = mover.encode(picture_batch(1, 32, 64), hot(1, 32, 64)), latents_of(1)
    both, one = (mover.decode(encoded, latents, both_ways=way) for way in (True, False))
    assert one.flow_back is None
    for name in set(FLOW_FIELDS) - {"flow_back"}:
        assert torch.equal(getattr(one, name), getattr(both, name))
