"""Devices, number formats and the numbers that a seed stands for."""

from __future__ import annotations

import pytest
import torch

from seg2vid_cli.device import Compute, draw_normal, resolve_compute
from seg2vid_cli.errors import DeviceError, InputError


def draw(*shape, seed=0, variant=0, purpose="appearance"):
    return draw_normal(shape or (1, 16), seed=seed, variant=variant, purpose=purpose)


# ---- seeds ---------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("arguments", "expected"),
    [
        (
            {"seed": 0, "variant": 0, "purpose": "appearance"},
            [-0.8836591839790344, 0.29300278425216675, 0.7720632553100586, -0.17294056713581085],
        ),
        (
            {"seed": 0, "variant": 0, "purpose": "motion/background"},
            [1.2134974002838135, -0.14687517285346985, 0.2520025670528412, -0.6031708717346191],
        ),
        (
            {"seed": 2**63 - 1, "variant": 2**31 - 1, "purpose": "refine/1"},
            [-0.7305695414543152, 2.1650874614715576, -0.8195643424987793, -0.6730816960334778],
        ),
    ],
    ids=["appearance", "motion", "largest"],
)
def test_a_seed_means_the_same_numbers_in_every_release(arguments, expected):
    numbers = draw_normal((1, 16), **arguments)
    assert numbers[0, :4].tolist() == pytest.approx(expected, abs=1e-5)


def test_numbers_are_standard_normal_float32_on_the_cpu():
    numbers = draw(3, 100, 100)
    assert (numbers.shape, numbers.dtype, numbers.device.type) == (
        (3, 100, 100),
        torch.float32,
        "cpu",
    )
    assert abs(numbers.mean()) < 0.02
    assert abs(numbers.std() - 1) < 0.02


def test_numbers_depend_on_nothing_else():
    first = draw()
    torch.manual_seed(123)
    torch.rand(7)
    draw(purpose="refine/1")
    state = torch.get_rng_state()
    assert torch.equal(draw(), first)
    assert torch.equal(torch.get_rng_state(), state)  # and leave the global generator alone


def test_seed_variant_and_purpose_each_change_them():
    cases = [
        {},
        {"seed": 1},
        {"variant": 1},
        {"seed": 1, "variant": 1},
        {"purpose": "refine/1"},
        {"seed": 11},
        {"seed": 1, "variant": 11},  # joined without a separator, these two would be one
        {"seed": 111, "variant": 1},
        {"seed": 2**63 - 1},
        {"seed": 2**32},  # no bit of the seed is lost
    ]
    drawn = [draw(**case) for case in cases]
    for i, one in enumerate(drawn):
        for other in drawn[:i]:
            assert (one - other).abs().max() > 0.1


# ---- devices -------------------------------------------------------------------------------------


def no_accelerator(monkeypatch):
    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)
    monkeypatch.setattr(torch.backends.mps, "is_available", lambda: False)


def two_gpus(monkeypatch, *, bf16):
    monkeypatch.setattr(torch.cuda, "is_available", lambda: True)
    monkeypatch.setattr(torch.cuda, "device_count", lambda: 2)
    monkeypatch.setattr(torch.cuda, "is_bf16_supported", lambda including_emulation=True: bf16)


def test_without_an_accelerator_auto_is_the_cpu_in_fp32(monkeypatch):
    no_accelerator(monkeypatch)
    compute = resolve_compute()
    assert (compute.device, compute.precision) == (torch.device("cpu"), "fp32")
    assert compute.reason == "device found, precision by device"


def test_the_reason_tells_what_was_asked_for():
    assert resolve_compute("cpu").reason == "device asked for, precision by device"
    assert resolve_compute("cpu", "bf16").reason == "device asked for, precision asked for"


@pytest.mark.parametrize(("bf16", "precision"), [(True, "bf16"), (False, "fp16")])
def test_cuda_comes_first_in_the_best_format_it_has(monkeypatch, bf16, precision):
    two_gpus(monkeypatch, bf16=bf16)
    monkeypatch.setattr(torch.backends.mps, "is_available", lambda: True)
    compute = resolve_compute()
    assert (compute.device.type, compute.precision) == ("cuda", precision)
    assert resolve_compute("cpu").precision == "fp32"
    assert resolve_compute("cuda:1", "fp32").device == torch.device("cuda:1")


def test_mps_comes_second_in_fp32(monkeypatch):
    no_accelerator(monkeypatch)
    monkeypatch.setattr(torch.backends.mps, "is_available", lambda: True)
    compute = resolve_compute()
    assert (compute.device.type, compute.precision) == ("mps", "fp32")


@pytest.mark.parametrize("name", ["gpu", "", "cuda:-1", "cuda:x", "meta", "xla"])
def test_an_unknown_device_is_refused_with_the_known_ones(name):
    with pytest.raises(DeviceError, match=f"device '{name}' is not") as caught:
        resolve_compute(name)
    assert caught.value.hint == "use --device auto, cpu, cuda, cuda:N or mps"
    assert isinstance(caught.value, InputError)
    assert caught.value.exit_code == 2


def test_a_device_that_is_not_there_is_refused(monkeypatch):
    no_accelerator(monkeypatch)
    for name in ("cuda", "cuda:0"):
        with pytest.raises(DeviceError, match="this machine has 0 usable CUDA GPUs") as caught:
            resolve_compute(name)
        assert "cpu" in caught.value.hint
    with pytest.raises(DeviceError, match="'mps': not available"):
        resolve_compute("mps")


def test_the_number_of_a_gpu_has_to_exist(monkeypatch):
    two_gpus(monkeypatch, bf16=True)
    with pytest.raises(DeviceError, match="'cuda:2': this machine has 2 usable CUDA GPUs"):
        resolve_compute("cuda:2")


def test_an_unknown_precision_is_refused_with_the_known_ones():
    with pytest.raises(DeviceError, match="precision 'int8' is not known") as caught:
        resolve_compute("cpu", "int8")
    assert caught.value.hint == "use one of auto, fp32, bf16, fp16"


# ---- running -------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("precision", "dtype"), [("fp32", torch.float32), ("bf16", torch.bfloat16)]
)
def test_networks_run_without_gradients_in_the_chosen_format(precision, dtype):
    layer = torch.nn.Linear(3, 2)
    with resolve_compute("cpu", precision).run():
        out = layer(torch.rand(1, 3))
    assert out.dtype == dtype
    assert not out.requires_grad
    assert layer(torch.rand(1, 3)).dtype == torch.float32  # outside, all is as it was
    assert layer(torch.rand(1, 3)).requires_grad


@pytest.mark.parametrize("before", [True, False])
def test_repeatable_kernels_are_asked_for_only_while_running(monkeypatch, before):
    monkeypatch.setattr(torch.backends.cudnn, "deterministic", before)
    compute = Compute(device=torch.device("cpu"), precision="fp32", reason="")

    def fail():
        with compute.run():
            assert torch.backends.cudnn.deterministic
            raise RuntimeError("out of memory")

    with pytest.raises(RuntimeError, match="out of memory"):
        fail()
    assert torch.backends.cudnn.deterministic is before


@pytest.mark.cuda
@pytest.mark.skipif(not torch.cuda.is_available(), reason="no CUDA GPU")
def test_a_gpu_gets_the_numbers_of_the_cpu():
    before = draw()
    with resolve_compute("cuda").run():
        assert torch.equal(draw(), before)
