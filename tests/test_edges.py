"""Edges of rendered pictures: found, read, detected, painted from, and noted in the clip."""

from __future__ import annotations

import base64
import io
import json
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
from conftest import LABEL_UNET, lively
from PIL import Image
from torch.nn import functional as F

from seg2vid_cli.device import resolve_compute
from seg2vid_cli.edges import (
    MAX_VARIETY,
    Guide,
    check_variety,
    detect_edges,
    laplacian,
    laplacian_edges,
    mix_factors,
    read_guide,
)
from seg2vid_cli.errors import InputError, ShapeError, WeightsError
from seg2vid_cli.first_frame import LUMA, paint_first_frame, to_grey
from seg2vid_cli.labels import labels_from_array, one_hot, resize_labels
from seg2vid_cli.networks.edge_detector import EdgeDetector, EdgeDetectorConfig
from seg2vid_cli.networks.label_unet import LabelUNet
from seg2vid_cli.pipeline import Pipeline, to_uint8
from seg2vid_cli.recipe import encode_edges, read_recipe
from seg2vid_cli.sample import Sample
from seg2vid_cli.sketch import sketch_edges
from seg2vid_cli.video import open_video
from seg2vid_cli.weights.load import mix_bundles, read_bundle

SIZE = (32, 64)
THRESHOLD = 0.08
DETECTOR = EdgeDetectorConfig(channels=(3, 4, 5), convolutions=(1, 2, 1), threshold=THRESHOLD)
GUIDED_UNET = replace(LABEL_UNET, edge_planes=1)
MIX = (0.9, -0.6, 0.4)


def a_detector() -> EdgeDetector:
    detector = lively(EdgeDetector(DETECTOR), 5)
    detector.mix.copy_(torch.tensor(MIX))
    return detector


def write_guided_bundle(folder: Path) -> Path:
    """Generator and edge detector of a few channels, native size 64x32, without motion."""
    from seg2vid_cli.training.export import export_bundle

    networks = {"edges": a_detector(), "first_frame": lively(LabelUNet(GUIDED_UNET), 4)}
    export_bundle(folder, name="guided", size_hw=SIZE, fps=None, networks=networks, options={})
    return folder


@pytest.fixture(scope="module")
def guided_bundle(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_guided_bundle(tmp_path_factory.mktemp("bundles") / "guided")


@pytest.fixture
def guided(guided_bundle: Path) -> Pipeline:
    return Pipeline.open(str(guided_bundle), device="cpu", precision="fp32")


def noise(height: int, width: int, seed: int = 0) -> np.ndarray:
    return np.random.default_rng(seed).integers(0, 256, (height, width, 3), dtype=np.uint8)


def tensor(picture: np.ndarray) -> torch.Tensor:
    return torch.from_numpy(picture / 255).permute(2, 0, 1)[None].float()


def laplacian_by_hand(picture: np.ndarray) -> np.ndarray:
    """uint8 `(H, W, 3)` to `(H, W)`, pixel by pixel as in a textbook."""
    grey = (picture / 255) @ np.array([0.299, 0.587, 0.114])
    height, width = grey.shape
    out = np.zeros((height, width))
    for y in range(height):
        for x in range(width):
            for down, right in ((-1, 0), (1, 0), (0, -1), (0, 1)):
                row = min(max(y + down, 0), height - 1)
                column = min(max(x + right, 0), width - 1)
                out[y, x] += grey[row, column] - grey[y, x]
    return out


def lines(height: int = 32, width: int = 64) -> np.ndarray:
    """Thin lines: bool."""
    edges = np.zeros((height, width), np.bool_)
    edges[height // 3] = edges[:, width // 4] = True
    edges[np.arange(height), (np.arange(height) * 2) % width] = True
    return edges


def save(path: Path, pixels: np.ndarray, **options: object) -> Path:
    Image.fromarray(pixels).save(path, **options)
    return path


def grey_of(edges: np.ndarray) -> np.ndarray:
    return np.where(edges, 255, 0).astype(np.uint8)


def a_map(edges: np.ndarray) -> Guide:
    return Guide(path=Path("map.png"), kind="map", reason="", pixels=edges)


# ---- the Laplacian -------------------------------------------------------------------------------


def test_the_laplacian_is_that_of_the_textbook():
    picture = noise(9, 13)
    found = laplacian(to_grey(tensor(picture)))
    assert found.shape == (1, 1, 9, 13)
    np.testing.assert_allclose(found[0, 0].numpy(), laplacian_by_hand(picture), atol=1e-5)


def test_each_picture_of_a_batch_has_its_own_laplacian():
    pictures = [noise(6, 8, seed) for seed in range(3)]
    found = laplacian(to_grey(torch.cat([tensor(picture) for picture in pictures])))
    for one, picture in zip(found, pictures, strict=True):
        np.testing.assert_allclose(one[0].numpy(), laplacian_by_hand(picture), atol=1e-5)


@pytest.mark.parametrize("channel", [0, 1, 2])
def test_a_point_weighs_four_times_its_neighbours_and_as_its_colour_is_seen(channel):
    frame = torch.zeros(1, 3, 7, 7)
    frame[0, channel, 3, 3] = 1
    expected = torch.zeros(7, 7)
    expected[3, 3] = -4 * LUMA[channel]
    for y, x in ((2, 3), (4, 3), (3, 2), (3, 4)):
        expected[y, x] = LUMA[channel]
    torch.testing.assert_close(laplacian(to_grey(frame))[0, 0], expected)
    assert laplacian(frame)[0, [c for c in range(3) if c != channel]].abs().max() == 0
    assert sum(LUMA) == pytest.approx(1)


def test_neither_flat_pictures_nor_slopes_have_a_laplacian():
    slope = torch.linspace(0, 1, 20).expand(1, 3, 12, 20)
    assert laplacian(slope)[..., 1:-1].abs().max() < 1e-6
    assert laplacian(slope)[..., 0].min() > 0.01  # repeated at the border
    assert laplacian(torch.full((1, 3, 5, 5), 0.7)).abs().max() < 1e-6


@pytest.mark.parametrize(("step", "found"), [(0.079, 0.0), (0.081, 1.0)])
@pytest.mark.parametrize("sign", [1, -1])
def test_an_edge_begins_at_the_threshold_on_both_sides(step, found, sign):
    frame = torch.full((1, 3, 6, 8), 0.5)
    frame[..., 4:] += sign * step
    edges = laplacian_edges(frame, THRESHOLD)
    expected = torch.zeros(6, 8)
    expected[:, 3:5] = found
    assert torch.equal(edges[0, 0], expected)
    assert edges.dtype == frame.dtype


def test_a_laplacian_of_just_the_threshold_is_an_edge():
    frame = torch.zeros(1, 3, 3, 3)
    frame[..., 1, 1] = 0.25
    peak = laplacian(to_grey(frame)).abs().max().item()
    assert laplacian_edges(frame, peak).sum() == 1
    assert laplacian_edges(frame, np.nextafter(np.float32(peak), np.float32(2)).item()).sum() == 0


# ---- a guide at the clip's size ------------------------------------------------------------------


def a_picture(picture: np.ndarray) -> Guide:
    return Guide(path=Path("cg.png"), kind="picture", reason="", pixels=picture)


def test_edges_of_a_picture_are_its_laplacian_s():
    picture = noise(12, 16)
    for threshold in (1.5, 0.6):
        found = a_picture(picture).edges((12, 16), threshold)
        assert found.dtype == np.bool_
        np.testing.assert_array_equal(found, np.abs(laplacian_by_hand(picture)) >= threshold)
    assert 0.1 < found.mean() < 0.9


@pytest.mark.parametrize("size", [(10, 20), (20, 40), (15, 17)], ids=str)
def test_a_picture_is_made_smaller_before_its_edges_are_found(size):
    picture = np.asarray(Image.fromarray(noise(5, 10)).resize((40, 20), Image.Resampling.BICUBIC))
    resized = Image.fromarray(picture).resize(size[::-1], Image.Resampling.BICUBIC)
    found = a_picture(picture).edges(size, THRESHOLD)
    by_hand = np.abs(laplacian_by_hand(np.asarray(resized)))
    sure = np.abs(by_hand - THRESHOLD) > 1e-5
    assert found.shape == size
    np.testing.assert_array_equal(found[sure], (by_hand >= THRESHOLD)[sure])
    assert found.any()


def test_a_picture_is_never_enlarged_before_its_edges_are_found():
    """It would be smooth then, and have none."""
    picture = noise(16, 32)
    own = a_picture(picture).edges((16, 32), THRESHOLD)
    larger = a_picture(picture).edges((32, 64), THRESHOLD)
    np.testing.assert_array_equal(larger, own.repeat(2, axis=0).repeat(2, axis=1))


@pytest.mark.parametrize("factors", [(2, 2), (3, 1), (1, 4), (4, 8)], ids=str)
def test_a_map_that_shrinks_has_an_edge_where_any_of_a_cell_is_one(factors):
    edges = np.random.default_rng(0).random((24, 32)) < 0.05
    down, right = factors
    cells = edges.reshape(24 // down, down, 32 // right, right).any(axis=(1, 3))
    np.testing.assert_array_equal(a_map(edges).edges(cells.shape, THRESHOLD), cells)


@pytest.mark.parametrize("size", [(7, 11), (5, 19), (19, 3), (16, 20), (1, 1)], ids=str)
def test_no_edge_is_lost_where_a_map_shrinks_and_none_comes_from_far_away(size):
    rows, columns = 19, 20
    for y in range(0, rows, 2):
        for x in range(0, columns, 3):
            edges = np.zeros((rows, columns), np.bool_)
            edges[y, x] = True
            found = a_map(edges).edges(size, THRESHOLD)
            middle = int((y + 0.5) * size[0] / rows), int((x + 0.5) * size[1] / columns)
            assert found[middle]
            places = np.argwhere(found)
            assert (np.abs(places - middle) <= 1).all()


@pytest.mark.parametrize("factors", [(2, 2), (1, 3), (4, 1)], ids=str)
def test_a_map_that_grows_by_whole_factors_has_its_edges_as_blocks(factors):
    edges = lines(8, 12)
    grown = np.kron(edges, np.ones(factors, np.bool_))
    np.testing.assert_array_equal(a_map(edges).edges(grown.shape, THRESHOLD), grown)


def test_a_map_may_grow_on_one_side_and_shrink_on_the_other():
    edges = np.random.default_rng(1).random((8, 12)) < 0.1
    cells = edges.reshape(8, 6, 2).any(axis=2)
    expected = np.repeat(cells, 2, axis=0)
    np.testing.assert_array_equal(a_map(edges).edges((16, 6), THRESHOLD), expected)


def test_a_map_at_its_own_size_stays_as_it_is():
    edges = lines()
    np.testing.assert_array_equal(a_map(edges).edges(edges.shape, THRESHOLD), edges)


@pytest.mark.parametrize("size", [(24, 32), (20, 28), (18, 40)], ids=str)
def test_a_map_that_grows_stays_on_its_labels(size):
    ids = np.random.default_rng(2).choice([0, 13], (16, 24), p=[0.7, 0.3]).astype(np.uint8)
    labels = resize_labels(labels_from_array(ids, encoding="train-ids"), size)
    found = a_map(ids == 13).edges(size, THRESHOLD)
    np.testing.assert_array_equal(found, labels.train_ids == 13)


# ---- reading -------------------------------------------------------------------------------------


def test_a_picture_and_a_map_are_told_apart(tmp_path):
    picture, edges = noise(32, 64), lines()
    read = read_guide(save(tmp_path / "cg.png", picture), labels_hw=SIZE)
    assert (read.kind, read.reason, read.size_hw) == (
        "picture",
        "For an edge map, it is coloured.",
        SIZE,
    )
    np.testing.assert_array_equal(read.pixels, picture)
    path = save(tmp_path / "map.png", grey_of(edges))
    read = read_guide(path, labels_hw=SIZE)
    assert (read.kind, read.path) == ("map", path)
    np.testing.assert_array_equal(read.pixels, edges)


@pytest.mark.parametrize("mode", ["1", "L", "P", "RGB", "RGBA", "LA"])
@pytest.mark.parametrize("extension", ["png", "tif"])
def test_a_map_may_be_stored_in_any_way(tmp_path, mode, extension):
    path = tmp_path / f"map.{extension}"
    Image.fromarray(grey_of(lines())).convert(mode).save(path)
    read = read_guide(path, labels_hw=SIZE)
    assert read.kind == "map"
    np.testing.assert_array_equal(read.pixels, lines())


@pytest.mark.parametrize("quality", [75, 90, 100])
@pytest.mark.parametrize("mode", ["L", "RGB"])
def test_a_map_that_was_a_jpeg_is_read_in_spite_of_its_noise(tmp_path, quality, mode):
    path = tmp_path / "map.jpg"
    Image.fromarray(grey_of(lines())).convert(mode).save(path, quality=quality)
    with Image.open(path) as image:
        assert len(np.unique(np.asarray(image))) > 2
    read = read_guide(path, labels_hw=SIZE)
    assert read.kind == "map"
    np.testing.assert_array_equal(read.pixels, lines())


@pytest.mark.parametrize(("stray", "kind"), [(0, "map"), (2, "map"), (3, "picture")])
def test_a_few_grey_pixels_are_noise(tmp_path, stray, kind):
    grey = grey_of(lines(40, 50))  # two are 0.1 % of them
    grey[1, :stray] = 128
    path = save(tmp_path / "map.png", grey)
    assert read_guide(path, labels_hw=(40, 50)).kind == kind


@pytest.mark.parametrize(
    ("black", "white", "kind"),
    [(0, 255, "map"), (32, 223, "map"), (33, 223, "picture"), (32, 222, "picture")],
)
def test_black_and_white_may_be_a_little_off(tmp_path, black, white, kind):
    grey = np.where(lines(), white, black).astype(np.uint8)
    read = read_guide(save(tmp_path / "map.png", grey), labels_hw=SIZE)
    assert read.kind == kind
    if kind == "map":
        np.testing.assert_array_equal(read.pixels, lines())


@pytest.mark.parametrize(
    "colours", [((0, 0, 0), (255, 0, 0)), ((0, 0, 255), (255, 255, 255)), ((0, 0, 0), (9, 9, 9))]
)
def test_two_colours_that_are_not_black_and_white_are_a_picture(tmp_path, colours):
    picture = np.array(colours, np.uint8)[lines().astype(int)]
    assert read_guide(save(tmp_path / "cg.png", picture), labels_hw=SIZE).kind == "picture"


def test_what_a_file_is_may_be_said(tmp_path):
    path = save(tmp_path / "map.png", grey_of(lines()))
    read = read_guide(path, labels_hw=SIZE, kind="picture")
    assert (read.kind, read.reason) == ("picture", "As asked for.")
    np.testing.assert_array_equal(read.pixels, grey_of(lines())[..., None].repeat(3, 2))
    assert read_guide(path, labels_hw=SIZE, kind="map").kind == "map"
    with pytest.raises(InputError, match="edges of kind 'lines' are not known") as caught:
        read_guide(path, labels_hw=SIZE, kind="lines")
    assert caught.value.hint == "use one of auto, picture, map"


@pytest.mark.parametrize(
    ("pixels", "says"),
    [
        (np.full((32, 64, 3), (200, 10, 10), np.uint8), "it is coloured"),
        (np.full((32, 64), 128, np.uint8), "100.0% of it is grey"),
        (np.full((32, 64), 255, np.uint8), "all of it is white"),
    ],
    ids=["colours", "grey", "white"],
)
def test_what_is_said_to_be_a_map_and_is_none_is_refused(tmp_path, pixels, says):
    path = save(tmp_path / "cg.png", pixels)
    with pytest.raises(InputError) as caught:
        read_guide(path, labels_hw=SIZE, kind="map")
    assert caught.value.message == f"{path}: not an edge map: {says}"
    assert "--edges-are picture" in caught.value.hint


def test_an_edge_map_may_have_no_edge(tmp_path):
    path = save(tmp_path / "cg.png", np.zeros((32, 64), np.uint8))
    guide = read_guide(path, labels_hw=SIZE, kind="map")
    assert guide.kind == "map"
    assert not guide.pixels.any()


def test_an_edge_map_of_zeros_and_ones_is_refused(tmp_path):
    """A person would not see its edges, and neither would the threshold."""
    path = save(
        tmp_path / "cg.png", np.random.default_rng(0).integers(2, size=SIZE, dtype=np.uint8)
    )
    with pytest.raises(InputError, match="nothing in it is white, the brightest pixel is 1 of 255"):
        read_guide(path, labels_hw=SIZE, kind="map")


@pytest.mark.parametrize("size", [(64, 128), (16, 32), (32, 62), (31, 64)], ids=str)
def test_a_map_of_another_size_is_named_with_both_sizes(tmp_path, size):
    path = save(tmp_path / "map.png", grey_of(lines(*size)))
    for kind in ("auto", "map"):
        with pytest.raises(InputError) as caught:
            read_guide(path, labels_hw=SIZE, kind=kind)
        expected = f"{path}: the edge map is {size[1]}x{size[0]}, the label map 64x32"
        assert caught.value.message == expected
        assert "or the rendered picture itself" in caught.value.hint


@pytest.mark.parametrize(
    ("size", "fits"),
    [((64, 128), True), ((100, 201), True), ((100, 197), True), ((100, 205), False)],
    ids=str,
)
def test_a_picture_may_have_another_size_but_no_other_aspect_ratio(tmp_path, size, fits):
    path = save(tmp_path / "cg.png", noise(*size))
    if fits:
        assert read_guide(path, labels_hw=SIZE).size_hw == size
        return
    with pytest.raises(InputError) as caught:
        read_guide(path, labels_hw=SIZE)
    for text in (str(path), "205x100", "64x32", "another aspect ratio"):
        assert text in caught.value.message
    assert "same camera" in caught.value.hint


def test_an_upright_picture_does_not_fit_a_wide_label_map(tmp_path):
    path = save(tmp_path / "cg.png", noise(64, 32))
    with pytest.raises(InputError, match="another aspect ratio"):
        read_guide(path, labels_hw=SIZE)


def test_a_picture_that_a_camera_has_turned_is_upright(tmp_path):
    exif = Image.Exif()
    exif[0x0112] = 6  # to be turned by a quarter
    path = tmp_path / "cg.jpg"
    Image.fromarray(noise(64, 32)).save(path, exif=exif)
    assert read_guide(path, labels_hw=SIZE).size_hw == SIZE


@pytest.mark.parametrize(
    ("data", "says"),
    [
        (None, "No such file"),
        (b"", "not a picture that can be read"),
        (b"text", "not a picture that can be read"),
        (b"\x89PNG\r\n\x1a\n and no more", "not a picture that can be read"),
    ],
    ids=["missing", "empty", "text", "torn"],
)
def test_what_is_no_picture_is_named(tmp_path, data, says):
    path = tmp_path / "cg.png"
    if data is not None:
        path.write_bytes(data)
    with pytest.raises(InputError, match=says) as caught:
        read_guide(path, labels_hw=SIZE)
    assert str(path) in caught.value.message
    assert caught.value.hint


def test_a_torn_jpeg_is_named(tmp_path):
    path = tmp_path / "cg.jpg"
    Image.fromarray(noise(64, 128)).save(path)
    path.write_bytes(path.read_bytes()[:2000])
    with pytest.raises(InputError, match=r"cg\.jpg: not a picture that can be read"):
        read_guide(path, labels_hw=SIZE)


def test_a_map_of_16_bits_is_refused_with_what_to_do(tmp_path):
    path = save(tmp_path / "map.png", grey_of(lines()).astype(np.uint16) * 257)
    with pytest.raises(InputError, match="more than 8 bits per channel") as caught:
        read_guide(path, labels_hw=SIZE)
    assert "8 bits" in caught.value.hint


# ---- variety -------------------------------------------------------------------------------------


@pytest.mark.parametrize("variety", [0, 0.0, 0.5, 1, 2.0, MAX_VARIETY])
def test_a_variety_in_range_is_taken(variety):
    check_variety(variety)


@pytest.mark.parametrize("variety", [-0.01, 2.01, float("nan"), float("inf"), -float("inf")])
def test_a_variety_out_of_range_is_refused(variety):
    with pytest.raises(InputError, match=f"edge variety {variety:g} is out of range") as caught:
        check_variety(variety)
    assert "from 0 (none) to 2" in caught.value.hint


def test_factors_are_lognormal_and_none_without_variety():
    drawn = torch.randn(20_000)
    assert (mix_factors(drawn, 0.0) == 1).all()
    for variety in (0.5, 1.0, 2.0):
        logs = mix_factors(drawn, variety).log()
        torch.testing.assert_close(logs, 0.5 * variety * drawn, rtol=1e-4, atol=1e-5)
        assert logs.std().item() == pytest.approx(0.5 * variety, rel=0.03)


# ---- the detector --------------------------------------------------------------------------------


def some_edges(batch: int = 1, height: int = 16, width: int = 24) -> torch.Tensor:
    generator = torch.Generator().manual_seed(1)
    return (torch.rand((batch, 1, height, width), generator=generator) < 0.2).float()


def test_a_fresh_detector_mixes_all_scales_alike():
    detector = EdgeDetector(DETECTOR)
    assert detector.mix.tolist() == pytest.approx([1 / 3] * 3)
    assert detector.config.multiple == 4
    assert detector.mix.requires_grad


def test_there_is_a_side_output_at_every_scale():
    """Each against its own part of the network, enlarged."""
    detector, edges = a_detector(), some_edges(2)
    sides = detector.side_logits(edges)
    assert sides.shape == (2, 3, 16, 24)
    x = edges
    for scale in range(3):
        if scale:
            x = F.max_pool2d(x, 2)
        for layer in detector.stages[scale]:
            x = layer(x)
        assert x.shape == (2, DETECTOR.channels[scale], 16 >> scale, 24 >> scale)
        side = detector.sides[scale](x)
        expected = F.interpolate(side, (16, 24), mode="bilinear", align_corners=False)
        torch.testing.assert_close(sides[:, scale : scale + 1], expected)
    convolutions = [sum(isinstance(m, torch.nn.Conv2d) for m in s) for s in detector.stages]
    assert tuple(convolutions) == DETECTOR.convolutions


def test_what_is_found_is_the_mix_of_the_side_outputs():
    detector, edges = a_detector(), some_edges(2)
    sides = detector.side_logits(edges)
    by_hand = sum(share * sides[:, i] for i, share in enumerate(MIX))
    torch.testing.assert_close(detector(edges)[:, 0], torch.sigmoid(by_hand))
    other = torch.tensor([[1.0, 0.0, 0.0], [0.0, 0.0, -2.0]])
    found = detector(edges, other)
    torch.testing.assert_close(found[0, 0], torch.sigmoid(sides[0, 0]))
    torch.testing.assert_close(found[1, 0], torch.sigmoid(-2 * sides[1, 2]))


def detected(edges: torch.Tensor, sample: Sample, variety: float) -> torch.Tensor:
    return detect_edges(
        a_detector(), edges, sample=sample, variety=variety, compute=resolve_compute("cpu", "fp32")
    )


def test_without_variety_the_learnt_mix_is_used_whatever_the_seed():
    edges = some_edges()
    expected = a_detector()(edges)
    for seed in (0, 1):
        found = detected(edges, Sample(seed=seed), 0.0)
        torch.testing.assert_close(found, expected)
        assert found.dtype == torch.float32
        assert 0 <= found.min() < found.max() <= 1


@pytest.mark.parametrize("variety", [0.3, 1.0, 2.0])
def test_variety_multiplies_the_learnt_mix_by_what_the_seed_draws(variety):
    edges, sample = some_edges(), Sample(seed=3, variant=2)
    drawn = sample.draw((1, 3), part="appearance", purpose="edges")
    mix = torch.tensor(MIX) * torch.exp(0.5 * variety * drawn)
    torch.testing.assert_close(detected(edges, sample, variety), a_detector()(edges, mix))


def test_variety_is_the_look_s_and_repeatable():
    edges = some_edges()
    one = detected(edges, Sample(seed=3), 1.0)
    assert torch.equal(one, detected(edges, Sample(seed=3), 1.0))
    moved = Sample(seed=3, variants={"background": 4, "foreground": 9}, motion_scale=2.0)
    assert torch.equal(one, detected(edges, moved, 1.0))
    for other in (Sample(seed=4), Sample(seed=3, variant=1)):
        assert (one - detected(edges, other, 1.0)).abs().max() > 0.01
    further = [(detected(edges, Sample(seed=3), v) - a_detector()(edges)) for v in (0.2, 1.0)]
    assert further[0].abs().mean() < further[1].abs().mean()


# ---- the generator -------------------------------------------------------------------------------


def test_a_guided_generator_reads_edges_behind_its_labels_and_no_noise():
    network = lively(LabelUNet(GUIDED_UNET), 4)
    assert network.stem.in_channels == 21
    assert len(network.noise_strength) == 0
    assert len(LabelUNet(LABEL_UNET).noise_strength) == 1
    planes = torch.eye(20)[torch.randint(20, (2, 16, 16))].permute(0, 3, 1, 2)
    style = torch.zeros(1, 4).expand(2, -1)
    painted = network(
        torch.cat([planes[:1].expand(2, -1, -1, -1), some_edges(2, 16, 16)], 1), style
    )
    assert painted.shape == (2, 3, 16, 16)
    assert (painted[0] - painted[1]).abs().max() > 0.01


# ---- the pipeline --------------------------------------------------------------------------------


def test_guided_weights_know_their_threshold(guided, pipeline):
    assert guided.guided
    assert guided.edge_threshold == THRESHOLD
    assert guided.bundle.fps is None
    assert not pipeline.guided


def first_of(pipeline: Pipeline, labels, **settings) -> np.ndarray:
    return next(iter(pipeline.generate(labels, frames=1, **settings))).frame


def test_edges_change_what_is_painted(guided, labels):
    plain = first_of(guided, labels, edges=np.zeros(SIZE, np.bool_))
    lined = first_of(guided, labels, edges=lines())
    assert (plain != lined).mean() > 0.05
    np.testing.assert_array_equal(lined, first_of(guided, labels, edges=lines()))


def test_seed_and_variety_change_what_is_painted(guided, labels):
    def made(seed: int, variety: float) -> np.ndarray:
        return first_of(guided, labels, seed=seed, edges=lines(), edge_variety=variety)

    np.testing.assert_array_equal(made(1, 1.0), made(1, 1.0))
    assert (made(1, 1.0) != made(2, 1.0)).any()
    assert (made(1, 0.0) != made(2, 0.0)).any()  # the look
    assert (made(1, 0.0) != made(1, 1.0)).any()


@pytest.mark.parametrize("size", [(32, 64), (128, 130), (38, 50)], ids=str)
def test_edges_lie_on_their_labels_at_any_size(guided, labels, size):
    """Against the two networks alone, on planes that are padded by hand."""
    edges, sample = lines(*size), Sample(seed=6)
    shown = first_of(guided, labels, sample=sample, size_hw=size, fit="stretch", edges=edges)
    compute = resolve_compute("cpu", "fp32")
    full = [-(-max(side, 128) // 32) * 32 for side in size]
    before = [(new - old) // 2 for new, old in zip(full, size, strict=True)]
    borders = [(b, f - b - s) for b, f, s in zip(before, full, size, strict=True)]
    ids = np.pad(resize_labels(labels, size).train_ids, borders, mode="edge")
    planes = torch.from_numpy(one_hot(ids))[None]
    given = torch.from_numpy(np.pad(edges, borders))[None, None].float()
    found = detect_edges(
        guided.bundle.network("edges"), given, sample=sample, variety=0.0, compute=compute
    )
    network = guided.bundle.network("first_frame")
    painted = paint_first_frame(network, planes, sample=sample, compute=compute, edges=found)
    (top, left), (height, width) = before, size
    expected = to_uint8(painted[0])[top : top + height, left : left + width].astype(int)
    assert np.abs(shown - expected).max() <= 1


def test_without_edges_a_sketch_of_the_labels_guides(guided, labels):
    clip = guided.generate(labels, frames=1, seed=5)
    assert clip.recipe.edges_png is None
    rng = Sample(seed=5).generator(part="appearance", purpose="sketch")
    drawn = sketch_edges(clip.labels.train_ids, rng)
    assert 0 < drawn.mean() < 1
    frame = next(iter(clip)).frame
    np.testing.assert_array_equal(frame, first_of(guided, labels, edges=drawn, seed=5))
    np.testing.assert_array_equal(frame, first_of(guided, labels, seed=5))
    assert (frame != first_of(guided, labels, seed=6)).any()


def test_edges_that_are_of_no_use_are_refused(pipeline, guided, labels):
    with pytest.raises(InputError, match="'tiny' paint from labels alone and take no edges"):
        pipeline.generate(labels, frames=1, edges=lines())
    picture = np.zeros((*SIZE, 3), np.uint8)
    with pytest.raises(InputError, match="starts from a picture"):
        guided.generate(labels, frames=1, edges=lines(), picture=picture)
    guided.generate(labels, frames=1, picture=picture)  # needs no edges


@pytest.mark.parametrize(
    "edges",
    [lines(32, 62), lines(64, 32), lines().astype(np.uint8), lines()[None], grey_of(lines())],
    ids=["narrow", "upright", "numbers", "three axes", "grey"],
)
def test_edges_of_another_shape_or_kind_are_refused(guided, labels, edges):
    with pytest.raises(ShapeError, match="the edges are"):
        guided.generate(labels, frames=1, edges=edges)


@pytest.mark.parametrize("variety", [-1, 3, float("nan")])
def test_a_clip_s_variety_is_checked(guided, labels, variety):
    with pytest.raises(InputError, match="edge variety"):
        guided.generate(labels, frames=1, edges=lines(), edge_variety=variety)


def test_another_map_s_edges_are_not_remembered(guided, labels):
    """What was painted last is kept, and must not be shown for other edges."""
    frames = [first_of(guided, labels, edges=e) for e in (lines(), ~lines(), lines())]
    np.testing.assert_array_equal(frames[0], frames[2])
    assert (frames[0] != frames[1]).any()


# ---- the recipe ----------------------------------------------------------------------------------


def with_recipe(path: Path, pipeline: Pipeline, labels, **settings):
    clip = pipeline.generate(labels, frames=1, fps=10, **settings)
    with open_video(path, size_hw=SIZE, fps=10, metadata=clip.recipe.to_dict()) as video:
        video.write(next(iter(clip)).frame)
    return clip


@pytest.mark.parametrize("extension", ["mp4", "gif", "webp"])
def test_edges_come_back_from_the_file_and_paint_the_same(tmp_path, guided, labels, extension):
    path = tmp_path / f"clip.{extension}"
    clip = with_recipe(path, guided, labels, seed=2, edges=lines(), edge_variety=1.5)
    read = read_recipe(path)
    assert read == clip.recipe
    assert read.edge_variety == 1.5
    np.testing.assert_array_equal(read.edges(), lines())
    assert read.edges().dtype == np.bool_
    again = first_of(
        guided,
        read.labels(),
        sample=read.sample,
        edges=read.edges(),
        edge_variety=read.edge_variety,
    )
    np.testing.assert_array_equal(again, next(iter(clip)).frame)


@pytest.mark.parametrize("edges", [lines(), np.zeros(SIZE, np.bool_), ~lines()])
def test_stored_edges_are_a_png_of_one_bit(edges):
    data = base64.b64decode(encode_edges(edges))
    with Image.open(io.BytesIO(data)) as image:
        assert (image.format, image.mode, image.size) == ("PNG", "1", SIZE[::-1])
        np.testing.assert_array_equal(np.asarray(image), edges)
    assert len(data) < 500


def test_a_clip_without_edges_has_none_and_no_variety(tmp_path, pipeline, labels):
    path = tmp_path / "clip.mp4"
    with_recipe(path, pipeline, labels, edge_variety=1.0)
    read = read_recipe(path)
    assert (read.edges(), read.edges_png, read.edge_variety) == (None, None, 0.0)


def test_a_clip_from_before_there_were_edges_is_read(tmp_path, pipeline, labels):
    data = pipeline.generate(labels, frames=1).recipe.to_dict()
    del data["edges_png"], data["edge_variety"]
    path = tmp_path / "clip.webp"
    with open_video(path, size_hw=SIZE, fps=10, metadata=data) as video:
        video.write(np.zeros((*SIZE, 3), np.uint8))
    assert read_recipe(path).edges() is None


@pytest.mark.parametrize(
    "stored", ["", "????", base64.b64encode(b"no picture").decode(), "iVBORw0KGgo="], ids=str
)
def test_stored_edges_that_are_damaged_are_refused(guided, labels, stored):
    recipe = guided.generate(labels, frames=1, edges=lines()).recipe
    with pytest.raises(InputError, match="the edges stored in the clip are damaged"):
        replace(recipe, edges_png=stored).edges()


@pytest.mark.parametrize(
    "change",
    [{"edges_png": 7}, {"edges_png": ["x"]}, {"edge_variety": "1"}, {"edge_variety": None}],
    ids=str,
)
def test_a_note_on_edges_of_another_kind_is_damaged(tmp_path, pipeline, labels, change):
    data = {**pipeline.generate(labels, frames=1).recipe.to_dict(), **change}
    path = tmp_path / "clip.webp"
    with open_video(path, size_hw=SIZE, fps=10, metadata=data) as video:
        video.write(np.zeros((*SIZE, 3), np.uint8))
    with pytest.raises(InputError, match="the note on how it was made is damaged"):
        read_recipe(path)


# ---- bundles -------------------------------------------------------------------------------------


def test_a_guided_bundle_opens_with_both_networks(guided_bundle, guided):
    bundle = read_bundle(guided_bundle)
    assert [*bundle.stages] == ["edges", "first_frame"]
    assert bundle.stages["edges"].config == DETECTOR
    assert bundle.stages["first_frame"].config == GUIDED_UNET
    assert {"edges", "first_frame", "bundle"} == set(bundle.sha256())
    assert guided.edge_detector.mix.tolist() == pytest.approx(MIX, abs=1e-3)


def described(folder: Path, target: Path, change) -> Path:
    target.mkdir()
    for file in folder.iterdir():
        (target / file.name).write_bytes(file.read_bytes())
    data = json.loads((folder / "bundle.json").read_text())
    change(data["stages"])
    (target / "bundle.json").write_text(json.dumps(data))
    return target


@pytest.mark.parametrize(
    "change",
    [
        lambda stages: stages.pop("edges"),
        lambda stages: stages.pop("first_frame"),
        lambda stages: stages["first_frame"]["config"].update(edge_planes=0),
        lambda stages: stages["first_frame"]["config"].update(edge_planes=2),
        lambda stages: stages["edges"]["config"].update(threshold=-1),
        lambda stages: stages["edges"]["config"].update(threshold="low"),
        lambda stages: stages["edges"]["config"].pop("threshold"),
        lambda stages: stages["edges"].update(family="label-unet"),
        lambda stages: stages["edges"].update(options={"downscale": 2}),
    ],
    ids=["no detector", "no painter", "no plane", "two planes", "-1", "low", "none", "family", "o"],
)
def test_a_bundle_whose_edges_do_not_fit_is_malformed(guided_bundle, tmp_path, change):
    with pytest.raises(WeightsError, match=r"bundle\.json: malformed: "):
        read_bundle(described(guided_bundle, tmp_path / "other", change))


def test_a_detector_of_uneven_lists_is_an_error_of_the_weights(guided_bundle, tmp_path):
    folder = described(
        guided_bundle,
        tmp_path / "other",
        lambda stages: stages["edges"]["config"].update(convolutions=[1, 2]),
    )
    with pytest.raises(WeightsError, match=r"bundle\.json: edges: "):
        read_bundle(folder).network("edges")


def test_edges_come_and_go_with_the_generator_they_belong_to(guided_bundle, tiny_bundle, labels):
    tiny, own = read_bundle(tiny_bundle), read_bundle(guided_bundle)
    mixed = mix_bundles(tiny, first_frame=own)
    assert [*mixed.stages] == ["edges", "first_frame", "motion", "refine"]
    assert mixed.stages["first_frame"].path.parent == guided_bundle
    back = mix_bundles(mixed, first_frame=tiny)
    assert [*back.stages] == ["first_frame", "motion", "refine"]
    pipeline = Pipeline(mixed, resolve_compute("cpu", "fp32"), first_frame_weights="guided")
    frames = list(pipeline.generate(labels, frames=3, edges=lines()))
    alone = Pipeline.open(str(guided_bundle), device="cpu", precision="fp32")
    np.testing.assert_array_equal(frames[0].frame, first_of(alone, labels, edges=lines()))
    assert frames[2].flow_px is not None
    assert len(list(pipeline.generate(labels, frames=3))) == 3
