"""Photo to label map: sizes, classes, files, and the command."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from conftest import lively
from PIL import Image
from test_cli_generate import refused, seg2vid

from seg2vid_cli.device import resolve_compute
from seg2vid_cli.labels import labels_from_array, read_labels
from seg2vid_cli.networks.segmenter import Segmenter, SegmenterConfig
from seg2vid_cli.segment import label_photo, write_label_map
from seg2vid_cli.training.export import export_bundle
from seg2vid_cli.weights.load import read_bundle

CONFIG = SegmenterConfig(classes=19, channels=(4, 6), blocks=(0, 1))
CPU = resolve_compute("cpu", "fp32")
ROAD, SKY = 0, 10


class HalfAndHalf(torch.nn.Module):
    """Calls dark pixels road and bright ones sky."""

    multiple = 4

    def forward(self, frame):
        scores = torch.zeros(1, 19, *frame.shape[-2:])
        bright = frame.mean(1)
        scores[:, SKY], scores[:, ROAD] = bright, 1 - bright
        return scores


def photo(height, width):
    picture = np.zeros((height, width, 3), np.uint8)
    picture[: height // 2] = 255
    return picture


@pytest.fixture(scope="module")
def bundle(tmp_path_factory):
    folder = tmp_path_factory.mktemp("bundles") / "reader"
    export_bundle(
        folder,
        name="reader",
        size_hw=(32, 64),
        fps=10.0,
        networks={"segmenter": lively(Segmenter(CONFIG), 4)},
        options={},
    )
    return folder


@pytest.mark.parametrize("size", [(60, 90), (360, 480), (901, 1203), (37, 400)])
def test_a_map_has_the_photo_s_size_and_its_borders(size):
    labels = label_photo(HalfAndHalf(), photo(*size), compute=CPU)
    assert labels.size_hw == size
    middle = size[0] // 2
    away = max(3, size[0] // 60)
    assert (labels.train_ids[: middle - away] == SKY).all()
    assert (labels.train_ids[middle + away :] == ROAD).all()


def test_a_written_map_is_read_back_as_what_it_is(tmp_path):
    ids = np.full((40, 60), SKY, np.uint8)
    ids[20:], ids[18:25, 30:40] = ROAD, 13
    write_label_map(tmp_path / "map.png", labels_from_array(ids, encoding="train-ids"))
    read = read_labels(tmp_path / "map.png")
    assert read.encoding == "label-ids"
    assert (read.train_ids == ids).all()


def test_a_bundle_may_hold_a_segmenter_alone(bundle):
    opened = read_bundle(bundle)
    assert list(opened.stages) == ["segmenter"]
    assert list(opened.sha256()) == ["bundle"]  # it has no part in a clip
    assert isinstance(opened.network("segmenter"), Segmenter)


def test_the_command_writes_map_and_preview(bundle, tmp_path):
    source = tmp_path / "photo.jpg"
    Image.fromarray(photo(48, 64)).save(source)
    target, view = tmp_path / "map.png", tmp_path / "view.png"
    done = seg2vid("label", source, "-o", target, "--preview", view, "--weights", bundle)
    assert done.code == 0, done.err
    assert "64x48" in done.out
    with Image.open(target) as image:
        assert (image.size, image.mode) == ((64, 48), "L")
    with Image.open(view) as image:
        assert image.width >= 64


def test_what_cannot_be_used_is_refused_before_any_work(bundle, tiny_bundle, tmp_path):
    source, target = tmp_path / "photo.png", tmp_path / "map.png"
    Image.fromarray(photo(48, 64)).save(source)
    own = ("--weights", bundle)
    refused("label", source, "-o", source, *own, says=("named twice",))
    refused("label", source, "-o", tmp_path / "map.jpg", *own, says=(".png",))
    refused("label", tmp_path / "no.png", "-o", target, *own, says=("No such file",))
    says = ("no segmenter stage", "give weights with one; seg2vid weights list")
    refused("label", source, "-o", target, "--weights", tiny_bundle, says=says)
    assert not target.exists()
