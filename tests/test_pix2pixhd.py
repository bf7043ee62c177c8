"""pix2pixHD's generators at tiny widths: shapes, ranges, batches and what they depend on."""

from __future__ import annotations

from dataclasses import MISSING, FrozenInstanceError, fields, replace

import pytest
import torch
from conftest import lively
from torch.nn import functional as F

from seg2vid_cli.networks.pix2pixhd import GlobalConfig, GlobalGenerator, LocalConfig, LocalEnhancer

GLOBAL = GlobalConfig(size_hw=(16, 32), label_planes=5, channels=(3, 4, 6), blocks=2)
LOCAL = LocalConfig(
    size_hw=(32, 64),
    label_planes=5,
    channels=(3, 4),
    blocks=1,
    detail_channels=(2, 3),
    detail_blocks=1,
)
BOTH = pytest.mark.parametrize(
    ("network", "config"), [(GlobalGenerator, GLOBAL), (LocalEnhancer, LOCAL)]
)


def planes_of(batch, height, width):
    ids = torch.randint(5, (batch, height, width))
    borders = (torch.rand(batch, 1, height, width) > 0.8).float()
    return torch.cat([F.one_hot(ids, 5).permute(0, 3, 1, 2).float(), borders], dim=1)


@BOTH
def test_a_configuration_has_no_defaults_and_cannot_change(network, config):
    for field in fields(config):
        assert field.default is MISSING
        with pytest.raises(FrozenInstanceError):
            setattr(config, field.name, None)


def test_sizes_are_multiples_of_the_coarsest_pixel():
    published = replace(GLOBAL, channels=(64, 128, 256, 512, 1024))
    assert (published.multiple, published.smallest) == (16, 32)
    local = replace(LOCAL, channels=(64, 128, 256, 512, 1024))
    assert (local.multiple, local.smallest) == (32, 64)
    assert (GLOBAL.multiple, LOCAL.multiple) == (4, 4)


@BOTH
@pytest.mark.parametrize("times", [(2, 2), (3, 5)])
def test_paints_in_minus_one_to_one_at_any_multiple(network, config, times):
    height, width = (n * config.multiple for n in times)
    painted = lively(network(config))(planes_of(2, height, width))
    assert painted.shape == (2, 3, height, width)
    assert -1 <= painted.min() < 0 < painted.max() <= 1


@BOTH
def test_a_batch_is_what_each_member_is_alone(network, config):
    painter, planes = lively(network(config)), planes_of(2, 16, 24)
    together = painter(planes)
    alone = torch.cat([painter(planes[:1]), painter(planes[1:])])
    torch.testing.assert_close(together, alone, rtol=1e-4, atol=1e-5)
    assert (alone[0] - alone[1]).abs().max() > 0.01


@BOTH
def test_borders_of_objects_matter(network, config):
    painter, planes = lively(network(config)), planes_of(1, 16, 24)
    without = planes.clone()
    without[:, -1] = 0
    assert (painter(planes) - painter(without)).abs().max() > 0.01


@BOTH
def test_norms_have_no_weights(network, config):
    names = network(config).state_dict()
    assert {name.rpartition(".")[2] for name in names} == {"weight", "bias"}
    assert all("stem" in n or "rgb" in n or n.count(".") >= 3 for n in names)


def test_the_enhancer_adds_to_a_picture_at_half_size():
    painter, seen = lively(LocalEnhancer(LOCAL)), []
    painter.coarse.stem.register_forward_pre_hook(lambda module, inputs: seen.append(inputs[0]))
    painter(torch.ones(1, 6, 16, 32))
    # Padding does not count in the mean, so even the corners stay 1.
    torch.testing.assert_close(seen[0], torch.ones(1, 6, 8, 16))
    planes = planes_of(1, 16, 32)
    painter(planes)
    assert seen[1][0, 0, 1, 1] == pytest.approx(planes[0, 0, 1:4, 1:4].mean().item())


def test_a_flat_place_is_mirrored_at_the_border():
    # Mirrored borders show no edge of the picture to the stem, zeros would.
    painter = lively(GlobalGenerator(GLOBAL))
    stem = painter.trunk.stem(torch.ones(1, 6, 8, 8))
    torch.testing.assert_close(stem, stem[..., :1, :1].expand_as(stem))
