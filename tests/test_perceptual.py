"""The frozen network that teaches the first-frame generator how its pictures are read."""

from __future__ import annotations

from itertools import pairwise

import numpy as np
import pytest
import torch
from torch.nn import functional as F

pytest.importorskip("cv2")

from seg2vid_cli.errors import InputError
from seg2vid_cli.training import data, first_frame, judges, loop, perceptual
from seg2vid_cli.training.data import Pair
from seg2vid_cli.training.first_frame import FirstFrameTask
from seg2vid_cli.training.imagenet import check_vgg, load_vgg
from seg2vid_cli.training.perceptual import (
    PerceptualConfig,
    PerceptualNetwork,
    VggReader,
    VggReaderConfig,
    begin_with_vgg,
)
from seg2vid_cli.training.segmenter import SegmenterTask
from seg2vid_cli.training.vgg import CHANNELS, MEAN, Vgg16

SMALL = PerceptualConfig(channels=(4, 6, 8, 8), dilations=(1, 2))


@pytest.fixture
def network():
    torch.manual_seed(0)
    made = PerceptualNetwork(SMALL)
    made.train()
    for _ in range(3):
        made(torch.rand(2, 3, 64, 64))  # statistics that are not those of a new network
    return made.eval().requires_grad_(False)


@pytest.fixture
def pairs():
    rng = np.random.default_rng(0)
    train_ids = np.full((64, 64), 10, np.uint8)
    train_ids[30:] = 0
    picture = (train_ids[..., None] * np.array([9, 5, 12]) + 20).astype(np.uint8)
    picture += rng.integers(0, 30, picture.shape, dtype=np.uint8)
    return [Pair(name="a", picture=picture, train_ids=train_ids)]


def read_losses(network, made, real, ids, weights, follows=True):
    """Losses of pictures all of which follow the real ones, or none does."""
    planes = torch.zeros(len(made), 20, *made.shape[-2:])
    planes[:, 3, :, : made.shape[-1] // 2] = planes[:, 7, :, made.shape[-1] // 2 :] = 1
    return perceptual.perceptual_losses(
        perceptual.look_at(network, made, real),
        ids,
        weights,
        planes=planes,
        follows=torch.full((len(made),), follows),
    )


def test_scores_come_at_full_size_and_features_at_halves(network):
    frame = torch.rand(2, 3, 64, 96)
    assert network(frame).shape == (2, 19, 64, 96)
    sizes = [tuple(f.shape[1:]) for f in network.features(frame)]
    assert sizes == [(4, 64, 96), (6, 32, 48), (8, 16, 24), (8, 8, 12), (8, 8, 12), (19, 8, 12)]


def test_the_same_picture_is_not_apart_and_others_are(network):
    real, other = torch.rand(2, 3, 64, 64), torch.rand(2, 3, 64, 64)
    ids, weights = torch.zeros(2, 32, 32, dtype=torch.long), torch.ones(21)
    same, _ = read_losses(network, real, real, ids, weights)
    apart, _ = read_losses(network, other, real, ids, weights)
    assert same == 0
    seen = (
        [frame, *network.features(frame)[:-1], F.avg_pool2d(frame, perceptual.FAR)]
        for frame in (other, real)
    )
    wanted = [(a - b).abs().mean() / b.mean() for a, b in zip(*seen, strict=True)]
    torch.testing.assert_close(apart, sum(wanted) / len(wanted))


def test_of_a_sketched_picture_textures_count_and_not_their_places(network):
    real = torch.rand(1, 3, 64, 128)
    ids, weights = torch.zeros(1, 32, 64, dtype=torch.long), torch.ones(21)
    turned = torch.cat([half.flip(2) for half in real.split(64, dim=3)], 3)
    swapped = real.roll(64, 3)
    swapped[..., :64] *= 0.3
    kinds = {
        follows: [
            float(read_losses(network, made, real, ids, weights, follows=follows)[0])
            for made in (real, turned, swapped)
        ]
        for follows in (True, False)
    }
    assert kinds[True][0] == kinds[False][0] == 0
    assert kinds[False][1] < 0.3 * kinds[True][1]
    assert kinds[False][1] < 0.3 * kinds[False][2]


def test_reading_is_the_weighted_cross_entropy_of_known_pixels(network):
    made = torch.rand(1, 3, 64, 64)
    ids = torch.randint(0, 20, (1, 32, 32))
    weights = torch.rand(21)
    _, read = read_losses(network, made, made, ids, weights)
    scores = F.interpolate(
        network.features(made)[-1], size=(32, 32), mode="bilinear", align_corners=False
    ).log_softmax(1)
    total, weight = torch.zeros(()), torch.zeros(())
    for y in range(32):
        for x in range(32):
            if (name := int(ids[0, y, x])) != 19:
                total = total - weights[name] * scores[0, name, y, x]
                weight = weight + weights[name]
    torch.testing.assert_close(read, total / weight, rtol=1e-4, atol=1e-5)


def test_a_batch_without_labels_teaches_features_alone(network):
    made = torch.rand(1, 3, 64, 64).requires_grad_()
    ids = torch.full((1, 32, 32), 19)
    apart, read = read_losses(network, made, made.flip(3), ids, torch.ones(21))
    assert read == 0
    (gradient,) = torch.autograd.grad(apart + read, made)
    assert gradient.isfinite().all()
    assert gradient.abs().max() > 0


def test_it_is_asked_for_the_names_of_the_data_alone(network, pairs, monkeypatch):
    """The generator is handed cars as buses too; the reader has never heard of a bus."""
    train_ids = np.full((64, 64), 13, np.uint8)
    cars = [Pair(name="cars", picture=pairs[0].picture, train_ids=train_ids)]
    monkeypatch.setattr(data, "LOOKALIKE_PROBABILITY", 1.0)
    asked = []

    def losses(seen, ids, weights, **_):
        asked.append((ids, weights))
        return seen.made[0].sum() * 0, seen.made[0].sum() * 0

    monkeypatch.setattr(first_frame, "perceptual_losses", losses)
    task = FirstFrameTask(cars, size_hw=(64, 64), batch=2, teacher=network)
    task.progress = 0.5
    task.step()
    task.batches.close()
    [(ids, weights)] = asked
    assert ids.shape == (2, 32, 32)
    assert (ids == 13).all()
    assert weights[13] > 0
    planes = task.last.planes
    assert planes[:, 13].sum() == 0
    assert (planes[:, 14:17].sum(1) == 1).all()


def test_painting_learns_to_be_read(network):
    """Gradients reach the painted picture, and following them makes it read as the map."""
    network.head.weight.mul_(50)  # new networks say next to nothing
    ids, weights = torch.full((1, 32, 32), 7), torch.ones(21)
    real = torch.rand(1, 3, 64, 64)
    made = real.clone().requires_grad_()
    values = []
    for _ in range(20):
        _, read = read_losses(network, made, real, ids, weights)
        (gradient,) = torch.autograd.grad(read, made)
        values.append(read.item())
        made = (made - 0.02 * gradient.sign()).detach().requires_grad_()
    assert all(later < before for before, later in pairwise(values))


def test_a_step_weighs_it_and_leaves_it_frozen(network, pairs, monkeypatch):
    monkeypatch.setattr(
        judges.PatchJudge,
        "losses",
        lambda self, made, real, scene: (
            made.sum() * 0,
            sum(weight.sum() for weight in self.parameters()) * 0,
        ),
    )
    task = FirstFrameTask(pairs, size_hw=(64, 64), batch=1, teacher=network)
    before = {name: value.clone() for name, value in network.state_dict().items()}
    task.progress = 0.0
    warming = task.step()
    assert (warming["apart"], warming["read"]) == (0, 0)
    task.progress = 0.5
    values = task.step()
    task.batches.close()
    assert values["apart"] > 0
    assert values["read"] > 0
    assert values["asked"] == pytest.approx(
        perceptual.FEATURE_WEIGHT * values["apart"] + perceptual.READ_WEIGHT * values["read"],
        rel=1e-2,  # added up in bf16
    )
    assert task.network.to_rgb.weight.grad.abs().max() > 0
    assert all(torch.equal(value, before[name]) for name, value in network.state_dict().items())


def test_it_is_trained_like_a_segmenter_and_found_in_its_folder(pairs, tmp_path):
    with pytest.raises(InputError, match="no perceptual network"):
        perceptual.load_perceptual(tmp_path)
    task = SegmenterTask(
        pairs, build=PerceptualNetwork, name=perceptual.NAME, batch=2, size_hw=(32, 64)
    )
    loop.train(task, out=tmp_path, minutes=0.002)
    found = perceptual.load_perceptual(tmp_path)
    assert not found.training
    assert not any(weight.requires_grad for weight in found.parameters())
    stored = loop.load_checkpoint(tmp_path / perceptual.NAME)["average"]
    assert all(torch.equal(value, stored[name]) for name, value in found.state_dict().items())


# ---- VGG16 ---------------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def vgg_file(tmp_path_factory):
    """As torchvision's: all layers are in one list, and behind it comes a classifier."""
    torch.manual_seed(0)
    path = tmp_path_factory.mktemp("vgg") / "vgg16.pth"
    torch.save({**Vgg16().state_dict(), "classifier.6.bias": torch.zeros(1000)}, path)
    return path


def test_vgg_is_as_large_as_published_with_torchvisions_names():
    # 138,357,544 parameters, 123,642,856 of them in the three layers of the classifier.
    network = Vgg16()
    assert sum(p.numel() for p in network.parameters()) == 138_357_544 - 123_642_856
    convolutions = [name for name in network.state_dict() if name.endswith("weight")]
    numbers = [int(name.split(".")[1]) for name in convolutions]
    assert numbers == [0, 2, 5, 7, 10, 12, 14, 17, 19, 21, 24, 26, 28]
    features = network(torch.rand(1, 3, 32, 48))
    sizes = [(1, width, 32 >> k, 48 >> k) for k, width in enumerate(CHANNELS)]
    assert [tuple(f.shape) for f in features] == sizes
    assert all(f.min() == 0 for f in features)  # behind the ReLU


def test_vgg_is_given_pictures_less_the_mean_of_imagenets():
    network = Vgg16()
    usual = torch.tensor(MEAN).view(1, 3, 1, 1).expand(1, 3, 16, 16)
    black = network.features[1](network.features[0](torch.zeros(1, 3, 16, 16)))
    wanted = network.features[3](network.features[2](black))
    torch.testing.assert_close(network(usual)[0], wanted)


def test_files_without_a_vgg_are_refused(vgg_file, tmp_path):
    check_vgg(vgg_file)
    other = tmp_path / "other.pth"
    torch.save({"features.0.weight": torch.zeros(64, 3, 3, 3)}, other)
    for path in (tmp_path / "none.pth", other):
        with pytest.raises(InputError, match=str(path)) as caught:
            check_vgg(path)
        assert "vgg16-397923af.pth" in str(caught.value.hint)


def test_a_reader_of_vgg_leaves_it_as_it_is(vgg_file, pairs, tmp_path):
    trunk = Vgg16()
    load_vgg(trunk, vgg_file)
    task = SegmenterTask(
        pairs,
        build=lambda: begin_with_vgg(vgg_file),
        name=perceptual.NAME,
        batch=1,
        size_hw=(32, 64),
    )
    before = task.network.head.weight.detach().clone()
    task.step()
    assert not torch.equal(task.network.head.weight, before)
    loop.train(task, out=tmp_path, minutes=0.0001)
    found = perceptual.load_perceptual(tmp_path)
    assert isinstance(found, VggReader)
    for name, weight in found.trunk.state_dict().items():
        assert torch.equal(weight, trunk.state_dict()[name]), name
    frame = torch.rand(2, 3, 32, 48)
    assert found(frame).shape == (2, 19, 32, 48)
    *features, logits = found.features(frame)
    assert logits.shape == (2, 19, 8, 12)
    assert all(torch.equal(a, b) for a, b in zip(features, trunk(frame), strict=True))


def test_a_reader_of_vgg_hands_back_what_looks_wrong(pairs):
    teacher = VggReader(VggReaderConfig(width=8)).eval().requires_grad_(False)
    task = FirstFrameTask(pairs, size_hw=(64, 64), batch=1, teacher=teacher)
    assert task.settings["vgg"] is True
    task.progress = 0.5
    values = task.step()
    task.batches.close()
    assert values["apart"] > 0
    assert values["read"] > 0
    assert values["pleased"] > 0
    assert all(weight.grad is None for weight in teacher.parameters())


# ---- discriminators on VGG16's features ----------------------------------------------------------


@pytest.fixture(scope="module")
def teacher():
    torch.manual_seed(0)
    return VggReader(VggReaderConfig(width=8)).eval().requires_grad_(False)


def test_features_are_judged_by_least_squares_at_four_sizes(teacher):
    judge = judges.FeatureJudge()
    for head, wish in zip(judge.heads, judge.wishes, strict=True):
        head.weight.data.zero_()
        head.bias.data.fill_(0.25)
        wish.weight.data.zero_()
    planes = torch.zeros(2, 20, 64, 64)
    planes[:, 3] = 1
    pictures = torch.rand(2, 3, 64, 64), torch.rand(2, 3, 64, 64)
    asked, caught = judge.losses(perceptual.look_at(teacher, *pictures), planes)
    assert len(judge.heads) == len(CHANNELS) - 1  # the finest size is the patches'
    assert asked.item() == pytest.approx(0.75**2)
    assert caught.item() == pytest.approx(4 * (0.25**2 + 0.75**2) / 2 / 2)


def test_a_class_asks_for_features_where_it_is(teacher):
    judge = judges.FeatureJudge().eval()
    made, real = torch.rand(1, 3, 64, 64), torch.rand(1, 3, 64, 64)
    planes = torch.zeros(1, 20, 64, 64)
    planes[:, 3] = 1
    before, _ = judge.losses(perceptual.look_at(teacher, made, real), planes)
    for wish in judge.wishes:
        wish.weight.data[:, 5] += 1
    same, _ = judge.losses(perceptual.look_at(teacher, made, real), planes)
    planes[:, 3], planes[:, 5] = 0, 1
    other, _ = judge.losses(perceptual.look_at(teacher, made, real), planes)
    assert same == before
    assert other != before


def test_discriminators_learn_what_is_painted_and_then_the_painting_gives_way(teacher):
    torch.manual_seed(1)
    judge = judges.FeatureJudge()
    optimizer = torch.optim.Adam(judge.parameters(), 1e-3)
    real, made = 0.5 + 0.5 * torch.rand(2, 3, 64, 64), 0.5 * torch.rand(2, 3, 64, 64)
    planes = torch.zeros(2, 20, 64, 64)
    planes[:, 3] = 1
    values = []
    for _ in range(12):
        _, caught = judge.losses(perceptual.look_at(teacher, made, real), planes)
        optimizer.zero_grad()
        caught.backward()
        optimizer.step()
        values.append(caught.item())
    assert values[-1] < 0.8 * values[0]
    asked, _ = judge.losses(perceptual.look_at(teacher, made.requires_grad_(), real), planes)
    (gradient,) = torch.autograd.grad(asked, made)
    nearer = (made - 0.02 * gradient.sign()).detach()
    assert judge.losses(perceptual.look_at(teacher, nearer, real), planes)[0] < asked


def test_without_a_vgg_there_are_no_such_discriminators(network, pairs):
    task = FirstFrameTask(pairs, size_hw=(64, 64), batch=1, teacher=network)
    assert set(task.helpers) == {"style", "judge"}
    assert "pleased" not in task.step()
    task.batches.close()


def test_discriminators_on_features_learn_while_the_generator_rests(teacher, pairs):
    start = FirstFrameTask(pairs, size_hw=(64, 64), batch=1)
    start.batches.close()
    task = FirstFrameTask(
        pairs, size_hw=(64, 64), batch=1, teacher=teacher, start=start.network.eval()
    )
    judge = task.helpers["features"]
    before = [p.detach().clone() for p in judge.parameters()]
    painter = task.network.to_rgb.weight.detach().clone()
    task.progress = 0.0
    task.step()
    task.batches.close()
    assert not all(torch.equal(a, b) for a, b in zip(before, judge.parameters(), strict=True))
    assert torch.equal(painter, task.network.to_rgb.weight)
