"""The first frame: painted from labels and a seed, or a picture of the user's."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from conftest import LABEL_UNET, lively
from PIL import Image

from seg2vid_cli import first_frame
from seg2vid_cli.device import draw_normal, resolve_compute
from seg2vid_cli.errors import InputError
from seg2vid_cli.first_frame import paint_first_frame, picture_to_tensor, read_picture
from seg2vid_cli.labels import one_hot
from seg2vid_cli.networks.label_unet import LabelUNet

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
    paint = {"compute": CPU, "seed": 3, "variant": 1}
    painted = paint_first_frame(network, planes, **paint)
    assert painted.shape == (1, 3, 16, 32)
    assert torch.equal(paint_first_frame(network, planes, **paint), painted)
    for other in ({"seed": 4}, {"variant": 2}):
        changed = paint_first_frame(network, planes, **{**paint, **other})
        assert (changed - painted).abs().max() > 0.05


def test_look_and_texture_are_drawn_apart(network, planes):
    painted = paint_first_frame(network, planes, seed=3, variant=1, compute=CPU)
    style = draw_normal((1, 4), seed=3, variant=1, purpose="appearance")
    noise = draw_normal((1, 1, 16, 32), seed=3, variant=1, purpose="texture")
    assert torch.equal(painted, network(planes, style, noise))


def test_other_labels_give_another_picture(network, planes):
    painted = paint_first_frame(network, planes, seed=0, variant=0, compute=CPU)
    changed = paint_first_frame(network, planes.flip(-1), seed=0, variant=0, compute=CPU)
    assert (changed - painted).abs().max() > 0.05


def test_a_painted_picture_is_float32_in_every_precision(network, planes):
    exact = paint_first_frame(network, planes, seed=0, variant=0, compute=CPU)
    bf16 = resolve_compute("cpu", "bf16")
    rough = paint_first_frame(network, planes, seed=0, variant=0, compute=bf16)
    assert exact.dtype == rough.dtype == torch.float32
    assert 0 < (exact - rough).abs().max() < 0.05


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
    assert error.hint == "--first-frame takes a photo, PNG or JPEG"


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
