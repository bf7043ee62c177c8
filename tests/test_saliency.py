"""Saliency: networks, the authors' files, what happens to pictures and maps, shares by class."""

from __future__ import annotations

import json
import os
from dataclasses import asdict, replace

import numpy as np
import pytest
import torch
from conftest import CAR, ROAD, SKY, lively, write_bundle
from PIL import Image
from test_parity import read_manifest
from torch.nn import functional as F

from seg2vid_cli.device import resolve_compute
from seg2vid_cli.errors import CheckpointError, InputError, ShapeError, WeightsError
from seg2vid_cli.labels import labels_from_array
from seg2vid_cli.networks.salgan import Salema, SalemaConfig, Salgan, SalganConfig, conv_numbers
from seg2vid_cli.pipeline import Pipeline
from seg2vid_cli.saliency import (
    CHUNK,
    AttentionByClass,
    SaliencyModel,
    blur5,
    overlay,
    resize_area,
    resize_map,
    saliency_to_grey,
    stretch,
    to_network_units,
)
from seg2vid_cli.saliency_files import plan_saliency, run_saliency
from seg2vid_cli.weights.importers import salgan as importer
from seg2vid_cli.weights.importers.checkpoint import open_archive
from seg2vid_cli.weights.importers.convert import import_checkpoint, import_tensors
from seg2vid_cli.weights.load import config_from_dict, read_bundle

CPU = resolve_compute("cpu", "fp32")
TINY = SalganConfig(
    size_hw=(32, 48), encoder_channels=(2, 3, 3, 4, 4), decoder_channels=(4, 4, 3, 2, 2)
)
TINY_EMA = SalemaConfig(**asdict(TINY), ema_layer=30, ema_weight=0.4)
FULL = SalganConfig(
    size_hw=(192, 256),
    encoder_channels=(64, 128, 256, 512, 512),
    decoder_channels=(512, 512, 256, 128, 64),
)


def living(network):
    """A network with weights whose maps are neither all 0 nor all 1."""
    lively(network, 3)
    network.layers[0].weight.mul_(0.01)  # for pictures of 0 to 255
    return network


def frames_of(count, height=20, width=36, seed=0):
    draw = np.random.default_rng(seed)
    return [draw.integers(0, 256, (height, width, 3), dtype=np.uint8) for _ in range(count)]


def model_of(network, **options):
    settings = {"normalise": False, "blur": False, **options}
    return SaliencyModel(network, compute=CPU, **settings)


@pytest.fixture(scope="module")
def plain():
    return living(Salgan(TINY))


@pytest.fixture(scope="module")
def remembering(plain):
    network = Salema(TINY_EMA)
    network.load_state_dict(plain.state_dict())
    return network.eval().requires_grad_(False)


# ---- networks ------------------------------------------------------------------------------------


def test_layers_are_numbered_as_in_the_published_checkpoints():
    with torch.device("meta"):
        network = Salgan(FULL)
    numbers = [i for i, layer in enumerate(network.layers) if isinstance(layer, torch.nn.Conv2d)]
    assert tuple(numbers) == (*conv_numbers()[0], *conv_numbers()[1])
    published = {name: shape for name, (shape, _) in read_manifest("salema").items()}
    found = {
        f"salgan.{n.removeprefix('layers.')}": t.shape for n, t in network.state_dict().items()
    }
    assert found == published


def test_a_map_has_the_picture_s_size_and_depends_on_all_of_it(plain):
    pictures = 100 * torch.randn(2, 3, 32, 48)
    maps = plain(pictures)
    assert maps.shape == (2, 1, 32, 48)
    assert 0 <= maps.min() < maps.max() <= 1
    assert (maps[:1] - plain(pictures[:1])).abs().max() < 1e-6
    pictures[0, :, -1, -1] += 200
    assert not torch.equal(plain(pictures)[0], maps[0])


def test_memory_is_a_moving_average_before_the_relu(remembering):
    frames = 100 * torch.randn(4, 3, 32, 48)
    new = remembering.layers[:31](frames)
    average, expected = new[:1], []
    for i in range(4):
        if i:
            average = 0.4 * new[i : i + 1] + 0.6 * average
        expected.append(remembering.layers[31:](average))
    maps, memory = remembering(frames)
    assert (maps - torch.cat(expected)).abs().max() < 1e-6
    assert (memory - average).abs().max() < 1e-5
    assert memory.dtype == torch.float32
    alone = remembering.layers(frames)
    assert torch.equal(maps[0], alone[0])  # the first frame is its own average
    assert (maps[1:] - alone[1:]).abs().max() > 1e-3


def test_a_clip_in_parts_is_the_clip_at_once(remembering):
    frames = 100 * torch.randn(5, 3, 32, 48)
    whole, last = remembering(frames)
    first, memory = remembering(frames[:2])
    second, memory = remembering(frames[2:], memory)
    assert (whole - torch.cat([first, second])).abs().max() < 1e-6
    assert torch.allclose(memory, last)


@pytest.mark.parametrize(
    ("change", "says"),
    [
        ({"ema_layer": 31}, "layer 31 is no convolution"),
        ({"ema_layer": 60}, "layer 60 is no convolution before the last"),
        ({"ema_weight": 0.0}, "ema_weight 0.0"),
        ({"ema_weight": 1.5}, "ema_weight 1.5"),
        ({"size_hw": (32, 40)}, "size 40x32 is no multiple of 16"),
        ({"encoder_channels": (2, 3)}, "zip"),
    ],
)
def test_a_configuration_that_cannot_be(change, says):
    with pytest.raises(ValueError, match=says):
        Salema(replace(TINY_EMA, **change))


# ---- the authors' files --------------------------------------------------------------------------


def by_name(network, prefix=""):
    return {
        f"{prefix}{name.removeprefix('layers.')}": tensor.clone()
        for name, tensor in network.state_dict().items()
    }


def archive(path, arrays):
    np.savez(path, *arrays)
    return path


def numpy_convolution(picture, kernels, bias, *, turned):
    """Sum over shifts; `turned` is the textbook's convolution, else cross-correlation.

    The textbook's takes for the pixel at (y, x) kernel (i, j) times the pixel at (y - i, x - j),
    counted from the middle; cross-correlation the one at (y + i, x + j).
    """
    height, width = picture.shape[1:]
    reach = kernels.shape[2] // 2
    wide = np.zeros((len(picture), height + 2 * reach, width + 2 * reach))
    wide[:, reach : reach + height, reach : reach + width] = picture
    result = np.repeat(bias[:, None, None], height, 1).repeat(width, 2)
    for i in range(-reach, reach + 1):
        for j in range(-reach, reach + 1):
            y, x = (reach - i, reach - j) if turned else (reach + i, reach + j)
            shifted = wide[:, y : y + height, x : x + width].reshape(len(picture), -1)
            part = kernels[:, :, reach + i, reach + j] @ shifted
            result = result + part.reshape(-1, height, width)
    return result


def numpy_salgan(picture, arrays, *, turned):
    """The generator from an archive's arrays in float64; `turned` is said of the decoder."""
    exact = [array.astype(np.float64) for array in arrays]
    pairs = list(zip(exact[::2], exact[1::2], strict=True))
    x = picture.astype(np.float64)
    for group, count in enumerate((2, 2, 3, 3, 3)):
        if group:
            x = x.reshape(len(x), x.shape[1] // 2, 2, x.shape[2] // 2, 2).max((2, 4))
        for _ in range(count):
            x = np.maximum(numpy_convolution(x, *pairs.pop(0), turned=False), 0)
    for group, count in enumerate((3, 3, 3, 2, 2)):
        if group:
            x = x.repeat(2, 1).repeat(2, 2)
        for _ in range(count):
            x = np.maximum(numpy_convolution(x, *pairs.pop(0), turned=turned), 0)
    ((kernel, bias),) = pairs
    return 1 / (1 + np.exp(-numpy_convolution(x, kernel, bias, turned=turned)))


def test_the_archive_s_decoder_is_a_true_convolution(tmp_path):
    """What Theano computes from the arrays, worked out without torch."""
    arrays = [t.numpy() for t in living(Salgan(TINY)).state_dict().values()]
    path = archive(tmp_path / "gen_modelWeights0090.npz", arrays)
    import_checkpoint(path, "salgan", tmp_path / "made")
    bundle = read_bundle(tmp_path / "made")
    assert bundle.stages["saliency"].config == replace(TINY, size_hw=(192, 256))
    picture = 100 * np.random.default_rng(0).standard_normal((3, 32, 48)).astype(np.float32)
    network = bundle.network("saliency")
    found = network(torch.from_numpy(picture)[None])[0].numpy()
    assert np.abs(found - numpy_salgan(picture, arrays, turned=True)).max() < 1e-5
    # Kernels that are taken over as they are give another map, ...
    unturned = numpy_salgan(picture, arrays, turned=False)
    assert np.abs(found - unturned).max() > 0.01
    as_they_are = import_tensors(by_name(living(Salgan(TINY))), "salbce").stages["saliency"]
    other = as_they_are.network()(torch.from_numpy(picture)[None])[0].numpy()
    assert np.abs(other - unturned).max() < 1e-5  # ... which is the one that torch's layers give.
    # The encoder's are not turned, nor does the 1x1 layer change.
    turned = {
        n: torch.equal(t, dict(as_they_are.network().state_dict())[n])
        for n, t in network.state_dict().items()
    }
    differ = [name for name, same in turned.items() if not same]
    assert differ == [f"layers.{number}.weight" for number in conv_numbers()[1][:-1]]


def test_arrays_are_taken_by_number_and_not_in_the_order_of_the_file(tmp_path):
    arrays = [t.numpy() for t in living(Salgan(TINY)).state_dict().values()]
    names = [f"arr_{i}" for i in range(54)]
    np.savez(tmp_path / "a.npz", **dict(zip(names, arrays, strict=True)))
    np.savez_compressed(tmp_path / "b.npz", **dict(sorted(zip(names, arrays, strict=True))))
    first, second = (open_archive(tmp_path / f"{name}.npz").tensors for name in "ab")
    assert list(first) != list(second)
    tensors = [import_tensors(t, "salgan").stages["saliency"].tensors for t in (first, second)]
    assert all(torch.equal(tensors[0][n], tensors[1][n]) for n in tensors[0])


@pytest.mark.parametrize("dtype", ["float16", "float64", ">f4"])
def test_arrays_of_other_float_formats(tmp_path, dtype):
    arrays = [t.numpy().astype(dtype) for t in living(Salgan(TINY)).state_dict().values()]
    tensors = open_archive(archive(tmp_path / "a.npz", arrays)).tensors
    stage = import_tensors(tensors, "salgan").stages["saliency"]
    assert all(t.dtype == torch.float32 for t in stage.tensors.values())
    assert np.array_equal(stage.tensors["layers.0.weight"], arrays[0].astype(np.float32))


class Hostile:
    def __init__(self, mark):
        self.mark = mark

    def __reduce__(self):
        return os.system, (f"touch {self.mark}",)


def test_an_archive_with_a_pickle_in_it_is_refused_and_nothing_runs(tmp_path):
    mark = tmp_path / "was-run"
    path = tmp_path / "a.npz"
    np.savez(path, np.ones(3, np.float32), np.array([Hostile(mark)], dtype=object))
    with pytest.raises(CheckpointError, match="refused, nothing in it was run"):
        import_checkpoint(path, "salgan", tmp_path / "made")
    assert not mark.exists()
    assert [p.name for p in tmp_path.iterdir()] == ["a.npz"]


def test_archives_that_are_none(tmp_path):
    path = tmp_path / "a.npz"
    good = archive(path, [np.ones((3, 3), np.float32)] * 3).read_bytes()
    for content in (b"", b"PK\x03\x04", good[: len(good) // 2], b"\x80\x02" + good):
        path.write_bytes(content)
        with pytest.raises(CheckpointError, match="not a NumPy archive, or is incomplete"):
            open_archive(path)
    torch.save({"a": torch.ones(1)}, path)
    with pytest.raises(CheckpointError, match="not a NumPy archive") as error:
        open_archive(path)
    assert "--as salbce or salema" in error.value.hint
    damaged = bytearray(good)
    damaged[200] ^= 255  # inside the first array
    path.write_bytes(damaged)
    with pytest.raises(CheckpointError, match="damaged or incomplete"):
        open_archive(path)
    for name, array, says in (
        ("weights", np.ones(1), "1 arrays are not known, first 'weights'"),
        ("arr_0", np.arange(3), "'arr_0' holds no floating-point numbers"),
        ("arr_0", np.array(["text"]), "'arr_0' holds no floating-point numbers"),
    ):
        np.savez(path, **{name: array})
        with pytest.raises(CheckpointError, match=says):
            open_archive(path)
    with pytest.raises(InputError, match="cannot be read"):
        open_archive(tmp_path / "nothing.npz")


@pytest.mark.parametrize("count", [53, 55, 2])
def test_an_archive_of_another_network_is_refused(tmp_path, count):
    arrays = [t.numpy() for t in living(Salgan(TINY)).state_dict().values()]
    path = archive(tmp_path / "a.npz", (arrays + arrays)[:count])
    with pytest.raises(CheckpointError, match=r"tensors are (missing|not known), first arr_"):
        import_checkpoint(path, "salgan", tmp_path / "made")


@pytest.mark.parametrize("kind", ["salbce", "salema"])
@pytest.mark.parametrize("prefix", ["", "salgan.", "module.salgan."])
def test_torch_checkpoints_with_and_without_prefix(tmp_path, kind, prefix):
    network = living(Salgan(TINY))
    data = {"epoch": 8, "state_dict": by_name(network, prefix), "optimizer": {"state": {}}}
    torch.save(data, tmp_path / "a.pt")
    result = import_checkpoint(tmp_path / "a.pt", kind, tmp_path / "made")
    loaded = read_bundle(tmp_path / "made").network("saliency")
    assert isinstance(loaded, Salema if kind == "salema" else Salgan)
    assert all(torch.equal(t, loaded.state_dict()[n]) for n, t in network.state_dict().items())
    assert any("sigmoid(0.1)" in line for line in result.report()) is (kind == "salema")


def test_published_shapes_give_the_published_configuration():
    source = {n: torch.empty(s, device="meta") for n, (s, _) in read_manifest("salema").items()}
    parts, remarks = importer.describe(source, "salema")
    config = parts["saliency"].config
    assert config == SalemaConfig(**asdict(FULL), ema_layer=30, ema_weight=config.ema_weight)
    assert config.ema_weight == pytest.approx(0.52497918747894, abs=1e-14)
    assert len(remarks) == 1
    parts, remarks = importer.describe(source, "salbce")
    assert (parts["saliency"].config, remarks) == (FULL, ())
    numbered = {f"arr_{i}": t for i, t in enumerate(source.values())}
    assert importer.describe(numbered, "salgan")[0]["saliency"].config == FULL


def test_a_learnt_weight_of_the_new_frame_is_used():
    tensors = by_name(living(Salgan(TINY)), "salgan.")
    result = import_tensors({**tensors, "alpha": torch.tensor([-1.0])}, "salema")
    config = result.stages["saliency"].part.config
    assert config.ema_weight == pytest.approx(1 / (1 + np.e))
    assert result.remarks == ()
    assert result.dropped == {"alpha": "it is in the network's configuration"}
    for wrong in (torch.ones(2), torch.tensor(float("nan"))):
        with pytest.raises(CheckpointError, match=r"alpha of shape .* is no single number"):
            import_tensors({**tensors, "alpha": wrong}, "salema")
    with pytest.raises(CheckpointError, match="not known, first alpha"):
        import_tensors({**tensors, "alpha": torch.ones(1)}, "salbce")


# ---- bundles -------------------------------------------------------------------------------------


@pytest.fixture
def bundle(tmp_path, remembering):
    options = {"saliency": {"normalise": True, "blur": False}}
    folder = tmp_path / "seer"
    return write_bundle(
        folder,
        {"saliency": remembering},
        labels="none",
        size_hw=(32, 48),
        fps=None,
        options=options,
    )


def test_a_bundle_may_hold_a_saliency_network_alone(bundle, remembering):
    opened = read_bundle(bundle)
    assert list(opened.stages) == ["saliency"]
    assert opened.stages["saliency"].config == TINY_EMA
    assert list(opened.sha256()) == ["bundle"]  # it has no part in a clip
    model = SaliencyModel.of_bundle(opened, CPU)
    assert (model.name, model.normalise, model.blur, model.remembers) == ("seer", True, False, True)
    loaded = model.network.state_dict()
    assert all(torch.equal(t, loaded[n]) for n, t in remembering.state_dict().items())


def test_weights_for_saliency_make_no_clip_and_others_no_saliency(bundle, tiny_bundle, labels):
    pipeline = Pipeline.open(str(bundle), device="cpu", precision="fp32")
    with pytest.raises(InputError) as error:
        pipeline.generate(labels, seed=0)
    assert error.value.message == "weights 'seer' have no first-frame stage, only saliency"
    assert error.value.hint == "they make no clip, they are for seg2vid saliency; give others"
    with pytest.raises(InputError, match="'tiny' have no saliency stage, only first frame and"):
        SaliencyModel.open(str(tiny_bundle), device="cpu")


@pytest.mark.parametrize("value", ["0.5", True, -0.1, float("inf"), None, [0.5]])
def test_a_weight_that_is_no_number_is_refused(bundle, value):
    path = bundle / "bundle.json"
    data = json.loads(path.read_text())
    data["stages"]["saliency"]["config"]["ema_weight"] = value
    path.write_text(json.dumps(data))
    with pytest.raises(WeightsError, match="ema_weight"):
        read_bundle(bundle)


def test_whole_numbers_are_numbers_too():
    assert config_from_dict(SalemaConfig, {**asdict(TINY_EMA), "ema_weight": 1}).ema_weight == 1


# ---- pictures in, maps out -----------------------------------------------------------------------


def test_network_units_are_blue_green_red_less_the_mean():
    red = torch.tensor([1.0, 0.0, 0.2])[None, :, None, None]
    found = to_network_units(red)[0, :, 0, 0]
    assert found.tolist() == pytest.approx([51 - 103.939, -116.779, 255 - 123.68], abs=1e-4)


def test_resize_area_is_the_mean_of_what_a_pixel_covers():
    row = torch.tensor([[[1.0, 2.0, 3.0, 4.0, 5.0]]])
    # 5 to 2: each covers two and a half pixels.
    assert resize_area(row, (1, 2)).flatten().tolist() == pytest.approx([4.5 / 2.5, 10.5 / 2.5])
    assert torch.equal(resize_area(row, (1, 5)), row)
    picture = torch.rand(3, 37, 53)
    assert resize_area(picture, (16, 16)).mean((1, 2)).tolist() == pytest.approx(
        picture.mean((1, 2)).tolist(), abs=1e-5
    )


@pytest.mark.parametrize("size", [(32, 48), (19, 48), (40, 61)])
def test_resizing_and_blur_are_opencv_s(size):
    """What the authors call."""
    cv2 = pytest.importorskip("cv2")
    picture = np.random.default_rng(0).random((61, 77, 3), dtype=np.float32)
    small = cv2.resize(picture, size[::-1], interpolation=cv2.INTER_AREA)
    found = resize_area(torch.from_numpy(picture).permute(2, 0, 1), size).permute(1, 2, 0)
    assert np.abs(found.numpy() - small).max() < 1e-5
    raw = np.random.default_rng(1).random(TINY.size_hw, dtype=np.float32)
    expected = cv2.resize(raw, size[::-1], interpolation=cv2.INTER_CUBIC)
    expected = np.clip(cv2.GaussianBlur(expected, (5, 5), 0), 0, 1)
    model = model_of(Salgan(TINY).eval(), blur=True)
    model.network.forward = lambda inputs: torch.from_numpy(raw)[None, None]
    found = model.look(np.zeros((*size, 3), np.uint8))
    assert np.abs(found - expected).max() < 1e-4


def test_a_blurred_map_keeps_its_mean_inside():
    dot = torch.zeros(1, 1, 9, 9)
    dot[..., 4, 4] = 1
    blurred = blur5(dot)[0, 0]
    assert blurred.sum().item() == pytest.approx(1)
    assert blurred[4, 2:7].tolist() == pytest.approx(
        [6 / 256, 24 / 256, 36 / 256, 24 / 256, 6 / 256]
    )


def test_stretching_takes_the_least_to_0_and_the_greatest_to_1():
    assert stretch(torch.tensor([[0.3, 0.5], [0.4, 0.7]])).flatten().tolist() == pytest.approx(
        [0, 0.5, 0.25, 1]
    )
    assert stretch(torch.full((2, 2), 0.4)).tolist() == [[0, 0], [0, 0]]


def test_a_whole_map_by_hand(plain):
    """At the network's own size, so that nothing is resized."""
    (frame,) = frames_of(1, *TINY.size_hw)
    bgr = frame[..., ::-1].astype(np.float32) - np.float32([103.939, 116.779, 123.68])
    raw = plain(torch.from_numpy(bgr.transpose(2, 0, 1).copy())[None])[0, 0].numpy()
    assert np.abs(model_of(plain).look(frame) - raw).max() < 1e-5
    found = model_of(plain, normalise=True).look(frame)
    assert np.abs(found - (raw - raw.min()) / (raw.max() - raw.min())).max() < 1e-4
    assert model_of(plain).look(frame).dtype == np.float32


# ---- over time -----------------------------------------------------------------------------------


def test_watching_remembers_across_chunks(remembering):
    frames = frames_of(2 * CHUNK + 1, *TINY.size_hw)
    seen = list(model_of(remembering).watch(frames))
    assert [s.index for s in seen] == list(range(len(frames)))
    assert all(s.frame is frame for s, frame in zip(seen, frames, strict=True))
    inputs = torch.stack([torch.from_numpy(f.copy()).permute(2, 0, 1) / 255 for f in frames])
    expected, _ = remembering(to_network_units(inputs.float()))
    found = np.stack([s.saliency for s in seen])
    assert np.abs(found - expected[:, 0].numpy()).max() < 1e-5
    apart = [s.saliency for s in model_of(remembering).watch(frames, remember=False)]
    assert np.abs(apart[0] - found[0]).max() < 1e-6
    assert np.abs(apart[-1] - found[-1]).max() > 1e-3
    alone = model_of(remembering).look(frames[-1])
    assert np.abs(apart[-1] - alone).max() < 1e-6


def test_without_memory_every_frame_stands_alone(plain):
    frames = frames_of(CHUNK + 2)
    model = model_of(plain)
    assert not model.remembers
    for seen in model.watch(frames):
        assert np.abs(seen.saliency - model.look(seen.frame)).max() < 1e-6


def test_frames_are_read_as_they_are_needed(remembering):
    read = []

    def endless():
        for frame in frames_of(1) * 10_000:
            read.append(1)
            yield frame

    watched = model_of(remembering).watch(endless())
    for _ in range(CHUNK + 1):
        next(watched)
    assert len(read) == 2 * CHUNK


def test_pictures_of_several_sizes_and_no_other_arrays(plain):
    model = model_of(plain, blur=True)
    sizes = [(16, 16), (33, 47), (192, 256), (200, 20)]
    frames = [frames_of(1, *size)[0] for size in sizes]
    assert [seen.saliency.shape for seen in model.watch(frames)] == sizes
    for wrong in (np.zeros((16, 16), np.uint8), np.zeros((16, 16, 3), np.float32)):
        with pytest.raises(ShapeError):
            model.look(wrong)


# ---- paint ---------------------------------------------------------------------------------------


def test_an_overlay_leaves_what_is_not_salient_as_it_is():
    (frame,) = frames_of(1)
    saliency = np.zeros(frame.shape[:2], np.float32)
    assert (overlay(frame, saliency) == frame).all()
    saliency[3, 5] = 1
    painted = overlay(frame, saliency)
    assert (np.argwhere((painted != frame).any(2)) == [[3, 5]]).all()
    assert np.abs(painted[3, 5] - (0.25 * frame[3, 5] + 0.75 * np.array([225, 0, 0]))).max() <= 0.5
    half = overlay(np.zeros((1, 1, 3), np.uint8), np.full((1, 1), 0.35, np.float32))[0, 0]
    assert half[0] < half[1] < half[2]  # cyan, thin
    with pytest.raises(ShapeError):
        overlay(frame, saliency[1:])


def test_grey_is_white_where_it_is_most_salient():
    grey = saliency_to_grey(np.array([[0, 0.5, 1], [-1, 2, 0.1]], np.float32))
    assert grey.tolist() == [[0, 128, 255], [0, 255, 26]]


# ---- shares --------------------------------------------------------------------------------------


def map_of(ids):
    return labels_from_array(
        np.array(ids, np.uint8).repeat(16, 0).repeat(16, 1), encoding="train-ids"
    )


def test_shares_of_attention_by_hand():
    labels = map_of([[SKY, SKY], [ROAD, CAR]])  # 32x32
    first = np.kron(np.array([[0, 0], [0.1, 0.3]]), np.ones((16, 16))).astype(np.float32)
    second = np.kron(np.array([[0.2, 0.6], [0, 0.2]]), np.ones((16, 16))).astype(np.float32)
    shares = AttentionByClass()
    for saliency in (first, second, np.zeros((32, 32), np.float32)):
        shares.add(saliency, labels)
    assert (shares.frames, shares.blank) == (2, 1)
    found = {s.train_id: (s.attention, s.area) for s in shares.shares()}
    assert list(found) == [CAR, SKY, ROAD]  # the largest first
    assert found[CAR] == pytest.approx(((0.75 + 0.2) / 2, 0.25))
    assert found[SKY] == pytest.approx(((0 + 0.8) / 2, 0.5))
    assert found[ROAD] == pytest.approx(((0.25 + 0) / 2, 0.25))
    assert AttentionByClass().shares() == []


@pytest.mark.parametrize("size", [(16, 32), (64, 96), (40, 33)])
def test_the_map_is_brought_to_the_labels_size(size):
    labels = map_of([[SKY, SKY, SKY], [ROAD, ROAD, CAR]])  # 32x48
    uniform = AttentionByClass()
    uniform.add(np.full(size, 0.2, np.float32), labels)
    for share in uniform.shares():
        assert share.attention == pytest.approx(share.area, abs=1e-5)
    shares = AttentionByClass()
    below = np.zeros(size, np.float32)
    below[size[0] * 3 // 4 :, : size[1] // 3] = 1
    shares.add(below, labels)
    assert shares.shares()[0].train_id == ROAD
    assert shares.shares()[0].attention == pytest.approx(1, abs=0.02)


def test_maps_change_size_as_pictures_do():
    saliency = np.random.default_rng(0).random((20, 30), dtype=np.float32)
    assert resize_map(saliency, (20, 30)) is saliency
    assert resize_map(saliency, (10, 10))[0, 0] == pytest.approx(saliency[:2, :3].mean())
    expected = F.interpolate(
        torch.from_numpy(saliency)[None, None], (40, 60), mode="bilinear", align_corners=False
    )
    assert np.array_equal(resize_map(saliency, (40, 60)), expected[0, 0].numpy())


# ---- the Python side -----------------------------------------------------------------------------


def test_two_calls_from_python_to_files(tmp_path, plain):
    (frame,) = frames_of(1, 32, 48)
    Image.fromarray(frame).save(tmp_path / "a.png")
    plan = plan_saliency(tmp_path / "a.png", output=tmp_path / "b.png", style="map")
    model, steps = model_of(plain), []
    report = run_saliency(plan, model, progress=lambda *step: steps.append(step))
    assert steps == [("saliency", 1, 1)]
    assert report.written == (tmp_path / "b.png",)
    with Image.open(tmp_path / "b.png") as image:
        assert image.mode == "L"
        assert (np.asarray(image) == saliency_to_grey(model.look(frame))).all()


def test_a_source_that_changes_while_it_is_watched(tmp_path, plain):
    for i, frame in enumerate(frames_of(2, 32, 48)):
        Image.fromarray(frame).save(tmp_path / f"{i}.png")
    plan = plan_saliency(tmp_path, output=tmp_path.parent / "changed.gif")
    plan = replace(plan, source=replace(plan.source, files=plan.source.files[:1]))
    with pytest.raises(InputError, match="has changed in the meantime"):
        run_saliency(plan, model_of(plain))
    assert not (tmp_path.parent / "changed.gif").exists()
