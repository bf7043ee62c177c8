"""Judges that see with a frozen network."""

from __future__ import annotations

from copy import deepcopy

import pytest
import torch

pytest.importorskip("cv2")

from seg2vid_cli.networks.efficientnet import EfficientNetLite
from seg2vid_cli.training import first_frame
from seg2vid_cli.training.first_frame import ColourChange, Scene
from seg2vid_cli.training.projected import Head, ProjectedJudge

H, W = 64, 96


@pytest.fixture
def judge():
    torch.manual_seed(0)
    encoder = EfficientNetLite(5)
    first_frame.forget_statistics(encoder)
    for _ in range(3):  # statistics that fit, as a trained one has
        encoder(torch.rand(2, 3, H, W))
    return ProjectedJudge(encoder)


@pytest.fixture
def scene():
    planes = torch.zeros(2, 20, H, W)
    planes[:, 2, :30], planes[:, 0, 30:] = 1, 1
    ids = first_frame.halve(planes)
    return Scene(
        planes=planes,
        ids=ids,
        weights=first_frame.class_weights(ids),
        change=ColourChange(torch.zeros(3, 2, 1, 1, 1)),
        mix=False,
        follows=torch.tensor([True, True]),
    )


def test_there_is_a_verdict_and_a_feature_for_every_size(judge, scene):
    verdicts, seen = judge(torch.rand(2, 3, H, W), scene.planes)
    assert [tuple(x.shape[-2:]) for x in seen] == [(32, 48), (16, 24), (8, 12), (4, 6)]
    assert [tuple(v.shape) for v in verdicts] == [
        (2, 1, 16, 24),
        (2, 1, 8, 12),
        (2, 1, 4, 6),
        (2, 1, 2, 3),
    ]


def test_only_the_heads_learn(judge, scene):
    learning = {name for name, weight in judge.named_parameters() if weight.requires_grad}
    assert learning == {name for name, _ in judge.named_parameters() if name.startswith("heads.")}
    before = deepcopy(judge.state_dict())
    judge.train()
    judge.losses(torch.rand(2, 3, H, W), torch.rand(2, 3, H, W), scene)
    after = judge.state_dict()
    for name, tensor in before.items():
        if name.startswith(("encoder.", "across.", "down.")):
            assert torch.equal(tensor, after[name]), name


def test_heads_learn_to_tell_dark_pictures_from_bright_ones(judge, scene):
    real, made = 0.6 + 0.3 * torch.rand(2, 3, H, W), 0.3 * torch.rand(2, 3, H, W)
    learning = [weight for weight in judge.parameters() if weight.requires_grad]
    optimizer = torch.optim.Adam(learning, 1e-2)
    start = None
    for _ in range(30):
        _, caught = judge.losses(made, real, scene)
        start = start or caught.item()
        optimizer.zero_grad()
        caught.backward()
        optimizer.step()
    assert caught.item() < 0.6 * start
    verdicts, _ = judge(torch.cat([made, real]), torch.cat([scene.planes] * 2))
    assert all(v[2:].mean() > v[:2].mean() for v in verdicts)


def test_nothing_is_missing_in_the_real_picture(judge, scene):
    """What is left of the generator's loss is what the heads say."""
    judge.eval()  # its spectral norms stay as they are
    real = torch.rand(2, 3, H, W)
    asked, _ = judge.losses(real, real, scene)
    verdicts, _ = judge(torch.cat([real, real]), torch.cat([scene.planes] * 2))
    wanted = -torch.stack([v[:2].mean() for v in verdicts]).mean()
    torch.testing.assert_close(asked, wanted, rtol=1e-3, atol=1e-4)
    further, _ = judge.losses(1 - real, real, scene)
    assert further > asked + 1e-2


def test_the_generator_gets_a_gradient_and_its_labels_count(judge, scene):
    made = torch.rand(2, 3, H, W, requires_grad=True)
    asked, _ = judge.losses(made, torch.rand(2, 3, H, W), scene)
    (wish,) = torch.autograd.grad(asked, [made])
    assert (wish.flatten(1).abs().sum(1) > 0).all()
    frame = torch.rand(2, 3, H, W)
    one, other = (judge(frame, planes)[0] for planes in (scene.planes, scene.planes.flip(2)))
    assert not any(torch.allclose(a, b) for a, b in zip(one, other, strict=True))


def test_a_head_halves_the_size():
    assert Head(7, 20)(torch.rand(1, 7, 8, 12), torch.rand(1, 20, 8, 12)).shape == (1, 1, 4, 6)
