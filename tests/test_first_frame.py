"""The first frame: painted from labels and a seed, or a picture of the user's."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from conftest import GLOBAL, LABEL_UNET, LOCAL, lively
from PIL import Image

from seg2vid_cli import first_frame
from seg2vid_cli.device import draw_normal, resolve_compute
from seg2vid_cli.errors import InputError
from seg2vid_cli.first_frame import (
    paint_first_frame,
    paint_scene,
    picture_size,
    picture_to_tensor,
    read_picture,
    scene_size,
)
from seg2vid_cli.label_sets import TRAIN_ID_OF_LABEL
from seg2vid_cli.labels import LabelMap, instance_edges, one_hot
from seg2vid_cli.networks.label_unet import LabelUNet
from seg2vid_cli.networks.pix2pixhd import GlobalGenerator, LocalEnhancer
from seg2vid_cli.sample import Sample

CPU = resolve_compute("cpu", "fp32")
ORIENTATION = 0x0112


@pytest.fixture(scope="module")
def network():
    return lively(LabelUNet(LABEL_UNET))


@pytest.fixture
def planes(labels):
    return torch.from_numpy(one_hot(labels.train_ids))[None]


def gradient(height, width):
    y, x = np.mgrid[:height, :width]
    return np.stack([255 * x // width, 255 * y // height, 0 * x + 90], -1).astype(np.uint8)


def save(path, array, **options):
    Image.fromarray(array).save(path, **options)
    return path


def error_of(path, size_hw=(32, 64)):
    with pytest.raises(InputError) as caught:
        read_picture(path, size_hw=size_hw)
    assert str(path) in caught.value.message
    return caught.value


# ---- painting ------------------------------------------------------------------------------------


def test_a_seed_paints_the_same_picture_again(network, planes):
    paint = {"compute": CPU, "sample": Sample(seed=3, variant=1)}
    painted = paint_first_frame(network, planes, **paint)
    assert painted.shape == (1, 3, 16, 32)
    assert torch.equal(paint_first_frame(network, planes, **paint), painted)
    for other in (Sample(seed=4, variant=1), Sample(seed=3, variant=2)):
        changed = paint_first_frame(network, planes, sample=other, compute=CPU)
        assert (changed - painted).abs().max() > 0.05


def test_look_and_texture_are_drawn_apart(network, planes):
    painted = paint_first_frame(network, planes, sample=Sample(seed=3, variant=1), compute=CPU)
    style = draw_normal((1, 4), seed=3, variant=1, purpose="appearance")
    noise = draw_normal((1, 1, 16, 32), seed=3, variant=1, purpose="texture")
    assert torch.equal(painted, network(planes, style, noise))


def test_other_labels_give_another_picture(network, planes):
    painted = paint_first_frame(network, planes, sample=Sample(), compute=CPU)
    changed = paint_first_frame(network, planes.flip(-1), sample=Sample(), compute=CPU)
    assert (changed - painted).abs().max() > 0.05


def test_a_painted_picture_is_float32_in_every_precision(network, planes):
    exact = paint_first_frame(network, planes, sample=Sample(), compute=CPU)
    bf16 = resolve_compute("cpu", "bf16")
    rough = paint_first_frame(network, planes, sample=Sample(), compute=bf16)
    assert exact.dtype == rough.dtype == torch.float32
    assert 0 < (exact - rough).abs().max() < 0.05


# ---- painting label ids and borders --------------------------------------------------------------


@pytest.fixture(scope="module", params=["global", "local"])
def painter(request):
    """pix2pixHD's generators; both want multiples, of 2 and of 4."""
    if request.param == "global":
        return lively(GlobalGenerator(GLOBAL))
    return lively(LocalEnhancer(LOCAL))


def scene(height, width, *, instances=True):
    """Every label id in blocks of 6 pixels, with objects of 3 pixels in them."""
    y, x = np.mgrid[:height, :width] // 6
    ids = ((11 * y + x) % 35).astype(np.uint8)
    objects = None
    if instances:
        y, x = np.mgrid[:height, :width] // 3
        objects = ((x + y) % 7).astype(np.int32)
    return LabelMap(train_ids=TRAIN_ID_OF_LABEL[ids], label_ids=ids, instances=objects)


def by_hand(painter, labels):
    """The picture of a map whose sides the network can take, in [0, 1]."""
    planes = torch.zeros(1, 36, *labels.size_hw)
    for row, line in enumerate(labels.label_ids.tolist()):
        for column, label in enumerate(line):
            planes[0, label, row, column] = 1
    planes[0, 35] = torch.from_numpy(instance_edges(labels))
    return (painter(planes) + 1) / 2


@pytest.mark.parametrize("instances", [True, False])
def test_a_scene_of_the_right_size_is_painted_as_the_network_paints_it(painter, instances):
    labels = scene(32, 64, instances=instances)
    painted = paint_scene(painter, labels, size_hw=(32, 64), compute=CPU)
    assert painted.shape == (1, 3, 32, 64)
    torch.testing.assert_close(painted, by_hand(painter, labels), rtol=0, atol=1e-6)


def test_a_scene_is_made_smaller_without_a_filter(painter):
    labels = scene(32, 64)
    full = by_hand(painter, labels)
    # The middle of 4x4 pixels lies between the inner four; their neighbours do not count.
    inner = full.unfold(2, 4, 4).unfold(3, 4, 4)[..., 1:3, 1:3].mean((-1, -2))
    painted = paint_scene(painter, labels, size_hw=(8, 16), compute=CPU)
    torch.testing.assert_close(painted, inner, rtol=0, atol=1e-6)


@pytest.mark.parametrize("size_hw", [(31, 47), (1, 50), (33, 5), (2, 2)], ids=str)
def test_a_scene_of_any_size_is_padded_by_its_border(painter, size_hw):
    multiple, smallest = painter.config.multiple, painter.config.smallest
    labels = scene(*size_hw)
    borders = [(0, 0), (0, 0)]
    for axis, side in enumerate(size_hw):
        more = max(smallest, -(-side // multiple) * multiple) - side
        borders[axis] = (more // 2, more - more // 2)
    ids, objects = (np.pad(a, borders, mode="edge") for a in (labels.label_ids, labels.instances))
    padded = LabelMap(train_ids=TRAIN_ID_OF_LABEL[ids], label_ids=ids, instances=objects)
    (top, _), (left, _) = borders
    expected = by_hand(painter, padded)[..., top : top + size_hw[0], left : left + size_hw[1]]
    painted = paint_scene(painter, labels, size_hw=size_hw, compute=CPU)
    torch.testing.assert_close(painted, expected, rtol=0, atol=1e-6)


def test_borders_and_ids_beyond_the_classes_are_painted(painter):
    labels = scene(32, 64)
    painted = paint_scene(painter, labels, size_hw=(32, 64), compute=CPU)
    plain = scene(32, 64, instances=False)
    assert not np.array_equal(instance_edges(plain), instance_edges(labels))
    without = paint_scene(painter, plain, size_hw=(32, 64), compute=CPU)
    assert (painted - without).abs().max() > 0.01
    # Rail track, bridge and parking are no classes, but label ids like any other.
    flat = np.zeros((32, 64), np.uint8)
    pictures = []
    for other in (0, 9, 10, 15, 34):
        flat[8:20, 10:50] = other
        blank = LabelMap(train_ids=np.full((32, 64), 19, np.uint8), label_ids=flat)
        pictures.append(paint_scene(painter, blank, size_hw=(32, 64), compute=CPU))
    for index, one in enumerate(pictures):
        assert all((one - other).abs().max() > 0.01 for other in pictures[:index])


def test_a_scene_is_float32_in_every_precision(painter):
    labels = scene(32, 64)
    exact = paint_scene(painter, labels, size_hw=(16, 32), compute=CPU)
    bf16 = resolve_compute("cpu", "bf16")
    rough = paint_scene(painter, labels, size_hw=(16, 32), compute=bf16)
    assert exact.dtype == rough.dtype == torch.float32
    assert 0 < (exact - rough).abs().max() < 0.1


@pytest.mark.parametrize(
    ("labels_hw", "expected"),
    [
        ((32, 64), (32, 64)),
        ((16, 32), (32, 64)),
        ((320, 640), (32, 64)),
        ((45, 46), (45, 46)),  # 2070 pixels, 1.1 % more than 2048
        ((46, 46), (45, 45)),  # 2116 are 3.3 % more
        ((44, 46), (44, 46)),  # 2024 are 1.2 % less
        ((90, 120), (39, 52)),  # sqrt(2048 / 10800) = 0.43546: 39.19 and 52.26
        ((1000, 1), (1431, 1)),  # sqrt(2048 / 1000) = 1.431
        ((1, 10_000), (1, 4525)),  # sqrt(0.2048) = 0.45255; no side vanishes
    ],
    ids=str,
)
def test_a_scene_has_the_native_area_and_its_own_aspect(labels_hw, expected):
    assert scene_size(GLOBAL, labels_hw) == expected


def test_a_scene_keeps_the_size_it_has_once():
    """Else a stored scene would be resized again when the clip is repeated."""
    for height in range(16, 700, 3):
        for width in range(max(16, height // 16), 16 * height, 1 + height // 2):
            once = scene_size(LOCAL, (height, width))
            assert scene_size(LOCAL, once) == once, (height, width)


# ---- reading -------------------------------------------------------------------------------------


@pytest.mark.parametrize("name", ["photo.png", "photo.bmp", "photo.webp"])
def test_a_picture_of_the_right_size_is_taken_as_it_is(tmp_path, name):
    picture = gradient(32, 64)
    options = {"lossless": True} if name.endswith("webp") else {}
    path = save(tmp_path / name, picture, **options)
    read = read_picture(path, size_hw=(32, 64))
    assert read.dtype == np.uint8
    np.testing.assert_array_equal(read, picture)


def test_a_picture_is_scaled_to_the_working_size(tmp_path):
    path = save(tmp_path / "photo.png", gradient(96, 192))
    read = read_picture(path, size_hw=(32, 64))
    assert read.shape == (32, 64, 3)
    assert np.abs(read.astype(int) - gradient(32, 64)).max() <= 8


def test_grey_and_transparent_pictures_become_rgb(tmp_path):
    grey = save(tmp_path / "grey.png", gradient(32, 64)[..., 0])
    np.testing.assert_array_equal(
        read_picture(grey, size_hw=(32, 64)), np.stack([gradient(32, 64)[..., 0]] * 3, -1)
    )
    alpha = np.dstack([gradient(32, 64), np.full((32, 64), 255, np.uint8)])
    np.testing.assert_array_equal(
        read_picture(save(tmp_path / "alpha.png", alpha), size_hw=(32, 64)), gradient(32, 64)
    )


def test_a_photo_taken_upright_is_turned(tmp_path):
    upright = gradient(32, 64)
    exif = Image.Exif()
    exif[ORIENTATION] = 6  # the camera was turned: rotate by 90 degrees clockwise to view
    path = save(tmp_path / "photo.png", np.rot90(upright).copy(), exif=exif)
    np.testing.assert_array_equal(read_picture(path, size_hw=(32, 64)), upright)


@pytest.mark.parametrize("width", [189, 195])
def test_the_aspect_ratio_may_be_off_by_two_percent(tmp_path, width):
    path = save(tmp_path / "photo.png", gradient(96, width))  # 2 % of 192 pixels are 3.84
    assert read_picture(path, size_hw=(32, 64)).shape == (32, 64, 3)


@pytest.mark.parametrize("width", [188, 196])
def test_another_aspect_ratio_is_refused(tmp_path, width):
    error = error_of(save(tmp_path / "photo.png", gradient(96, width)))
    assert f"{width}x96 has another aspect ratio than the clip (64x32)" in error.message
    assert "crop the photo" in error.hint


def test_the_size_of_a_picture_is_that_of_the_upright_one(tmp_path):
    exif = Image.Exif()
    exif[ORIENTATION] = 6
    path = save(tmp_path / "photo.png", gradient(32, 64), exif=exif)
    assert picture_size(path) == (64, 32)
    with pytest.raises(InputError, match=r"none\.png: No such file"):
        picture_size(tmp_path / "none.png")


def test_a_missing_picture_is_refused(tmp_path):
    assert "No such file" in error_of(tmp_path / "none.png").message


def test_a_folder_is_refused(tmp_path):
    assert "directory" in error_of(tmp_path).message


@pytest.mark.parametrize(
    "content",
    [b"", b"not a picture", b"\x89PNG\r\n\x1a\n", b"P6\n64 32\n2x5\n", b"P6\n64 32\n255\n\0"],
    ids=["empty", "text", "head of a PNG", "bad PPM", "empty PPM"],
)
def test_a_file_that_is_no_picture_is_refused(tmp_path, content):
    path = tmp_path / "photo.png"
    path.write_bytes(content)
    error = error_of(path)
    assert "not a picture that can be read" in error.message
    assert error.hint == "give a photo, PNG or JPEG"


@pytest.mark.parametrize("name", ["photo.png", "photo.jpg"])
def test_a_picture_cut_short_is_refused(tmp_path, name):
    path = save(tmp_path / name, np.random.randint(0, 256, (32, 64, 3), np.uint8))
    path.write_bytes(path.read_bytes()[:-200])
    assert "not a picture that can be read" in error_of(path).message


def test_a_huge_picture_is_refused_before_it_is_decoded(tmp_path, monkeypatch):
    path = save(tmp_path / "photo.png", gradient(32, 64))
    monkeypatch.setattr(first_frame, "MAX_PIXELS", 32 * 64)
    assert read_picture(path, size_hw=(32, 64)).shape == (32, 64, 3)
    monkeypatch.setattr(first_frame, "MAX_PIXELS", 32 * 64 - 1)
    monkeypatch.setattr(Image.Image, "load", lambda self: pytest.fail("decoded"))
    assert "64x32 is more than" in error_of(path).message


def test_pictures_become_tensors():
    picture = gradient(5, 7)
    picture.setflags(write=False)  # as Pillow gives them
    tensor = picture_to_tensor(picture)
    assert tensor.shape == (1, 3, 5, 7)
    assert tensor.dtype == torch.float32
    assert tensor[0, :, 2, 3].tolist() == pytest.approx((picture[2, 3] / 255).tolist())
