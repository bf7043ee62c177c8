"""Devices, number formats and the numbers that a seed stands for."""

from __future__ import annotations

from copy import deepcopy

import pytest
import torch
from conftest import FLOW, LABEL_UNET, REFINE, lively
from torch import nn

from seg2vid_cli import device as device_module
from seg2vid_cli.device import (
    Compute,
    RowLimit,
    draw_normal,
    fold_norms,
    mixed_precision,
    resolve_compute,
)
from seg2vid_cli.errors import DeviceError, InputError
from seg2vid_cli.networks.label_unet import LabelUNet
from seg2vid_cli.networks.layers import ConvBlock
from seg2vid_cli.networks.seg2vid_flow import GateConv, Seg2VidFlow
from seg2vid_cli.networks.seg2vid_refine import Seg2VidRefine

NORMS = (nn.BatchNorm2d, nn.BatchNorm3d)


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


def cpu_in(monkeypatch, precision):
    """A CPU whose best format is bf16 or fp32."""
    monkeypatch.setattr(device_module, "_cpu_computes_bf16", lambda: precision == "bf16")


@pytest.mark.parametrize("precision", ["fp32", "bf16"])
def test_without_an_accelerator_auto_is_the_cpu_in_the_format_it_computes_in(
    monkeypatch, precision
):
    no_accelerator(monkeypatch)
    cpu_in(monkeypatch, precision)
    compute = resolve_compute()
    assert (compute.device, compute.precision) == (torch.device("cpu"), precision)
    assert compute.reason == "device found, precision by device"
    assert resolve_compute("cpu").precision == precision
    for asked in ("fp32", "bf16", "fp16"):
        assert resolve_compute("cpu", asked).precision == asked


@pytest.mark.parametrize(
    ("avx512", "amx", "computes"),
    [(False, False, False), (True, False, True), (False, True, True), (True, True, True)],
)
def test_a_cpu_computes_bf16_with_either_unit(monkeypatch, avx512, amx, computes):
    monkeypatch.setattr(torch.cpu, "_is_avx512_bf16_supported", lambda: avx512)
    monkeypatch.setattr(torch.cpu, "_is_amx_tile_supported", lambda: amx)
    assert resolve_compute("cpu").precision == ("bf16" if computes else "fp32")


def test_the_reason_tells_what_was_asked_for():
    assert resolve_compute("cpu").reason == "device asked for, precision by device"
    assert resolve_compute("cpu", "bf16").reason == "device asked for, precision asked for"


@pytest.mark.parametrize(("bf16", "precision"), [(True, "bf16"), (False, "fp16")])
def test_cuda_comes_first_in_the_best_format_it_has(monkeypatch, bf16, precision):
    two_gpus(monkeypatch, bf16=bf16)
    monkeypatch.setattr(torch.backends.mps, "is_available", lambda: True)
    for of_cpu in ("fp32", "bf16"):  # which does not count here
        cpu_in(monkeypatch, of_cpu)
        compute = resolve_compute()
        assert (compute.device.type, compute.precision) == ("cuda", precision)
        assert resolve_compute("cpu").precision == of_cpu
    assert resolve_compute("cuda:1", "fp32").device == torch.device("cuda:1")


def test_mps_comes_second_in_fp32(monkeypatch):
    no_accelerator(monkeypatch)
    cpu_in(monkeypatch, "bf16")
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


# ---- preparing -----------------------------------------------------------------------------------


def with_statistics(network, seed=0):
    """Lively weights, and norms that have seen data."""
    lively(network, seed)
    generator = torch.Generator().manual_seed(seed)
    for module in network.modules():
        if isinstance(module, NORMS):
            module.running_mean.normal_(0, 0.5, generator=generator)
            module.running_var.uniform_(0.3, 3, generator=generator)
    return network


def norms_in(network):
    return [module for module in network.modules() if isinstance(module, NORMS)]


def transposed():
    """As in the refinement network: three channels to five, and larger."""
    return nn.Sequential(nn.ConvTranspose2d(3, 5, 4), nn.BatchNorm2d(5), nn.LeakyReLU(0.2))


FOLDED = {
    "conv": (lambda: ConvBlock(3, 5), (2, 3, 8, 10)),
    "conv without bias": (lambda: ConvBlock(3, 5, kernel=4, stride=2, bias=False), (2, 3, 8, 10)),
    "conv over time": (lambda: GateConv(3, 2), (4, 3, 8, 10)),
    "transposed conv": (transposed, (2, 3, 5, 6)),
    "transposed, as many out as in": (
        lambda: nn.Sequential(nn.ConvTranspose2d(4, 4, 3), nn.BatchNorm2d(4)),
        (2, 4, 5, 6),
    ),
    "two in a row": (lambda: nn.Sequential(ConvBlock(3, 4), ConvBlock(4, 5)), (2, 3, 8, 10)),
}


@pytest.mark.parametrize(
    ("dtype", "most"), [(torch.float32, 1e-5), (torch.float64, 1e-12)], ids=str
)
@pytest.mark.parametrize("name", FOLDED)
def test_a_folded_norm_changes_nothing(name, dtype, most):
    make, shape = FOLDED[name]
    network = with_statistics(make()).to(dtype)
    x = torch.randn(shape, dtype=dtype)
    before = network(x)
    count = len(norms_in(network))
    assert count >= 1
    fold_norms(network)
    assert norms_in(network) == []
    after = network(x)
    assert (after.dtype, after.shape) == (dtype, before.shape)
    assert (after - before).abs().max() < most
    assert before.std() > 0.1


@pytest.mark.parametrize(
    ("make", "inputs"),
    [
        (lambda: Seg2VidFlow(FLOW), [(1, 3, 32, 64), (1, 20, 32, 64), (1, 4, 8)]),
        (lambda: Seg2VidRefine(REFINE), [(1, 3, 128, 128)]),
    ],
    ids=["motion", "refine"],
)
def test_the_networks_of_motion_keep_no_norm_and_give_the_same(make, inputs):
    network = with_statistics(make())
    x = [torch.rand(shape) for shape in inputs]
    assert len(norms_in(network)) > 10
    folded = deepcopy(network)
    fold_norms(folded)
    assert norms_in(folded) == []
    before, after = network(*x), folded(*x)
    if isinstance(network, Seg2VidRefine):
        assert (before - after).abs().max() < 1e-5
        return
    for name in ("flow", "flow_back", "visibility", "visibility_back"):
        one, other = getattr(before, name), getattr(after, name)
        assert (one - other).abs().max() < 1e-5 * max(1, one.abs().max()), name


def test_a_norm_without_its_convolution_in_front_stays():
    network = nn.Sequential(
        nn.BatchNorm2d(3), nn.Conv2d(3, 3, 1), nn.LeakyReLU(0.2), nn.BatchNorm2d(3)
    )
    with_statistics(network)
    x = torch.randn(2, 3, 4, 5)
    before = network(x)
    fold_norms(network)
    assert len(norms_in(network)) == 2
    assert torch.equal(network(x), before)


@pytest.mark.parametrize("precision", ["fp32", "bf16"])
def test_a_prepared_network_has_the_chosen_format_but_for_the_norms_that_stay(precision):
    """In LabelUNet noise comes between convolution and norm."""
    compute = resolve_compute("cpu", precision)
    network = with_statistics(LabelUNet(LABEL_UNET))
    kept = [(n.running_mean.clone(), n.running_var.clone()) for n in norms_in(network)]
    assert compute.prepare(network) is network
    assert len(kept) == len(norms_in(network)) > 0
    for norm, (mean, var) in zip(norms_in(network), kept, strict=True):
        assert norm.running_mean.dtype == norm.running_var.dtype == torch.float32
        assert torch.equal(norm.running_mean, mean)
        assert torch.equal(norm.running_var, var)
    dtype = {"fp32": torch.float32, "bf16": torch.bfloat16}[precision]
    assert {weight.dtype for weight in network.parameters()} == {dtype}


def test_affine_norms_that_stay_keep_all_of_themselves_in_float32():
    network = with_statistics(
        nn.Sequential(nn.LeakyReLU(0.2), nn.BatchNorm2d(3), nn.Conv2d(3, 2, 1))
    )
    before = {name: value.clone() for name, value in network[1].state_dict().items()}
    resolve_compute("cpu", "bf16").prepare(network)
    for name, value in network[1].state_dict().items():
        assert value.dtype == before[name].dtype
        assert torch.equal(value, before[name]), name
    assert network[2].weight.dtype == torch.bfloat16


def test_a_prepared_network_is_laid_out_channels_last_and_paints_the_same():
    compute = resolve_compute("cpu", "fp32")
    network = with_statistics(Seg2VidRefine(REFINE))
    frames = torch.randn(2, 3, 128, 128)
    before = network(frames)
    compute.prepare(network)
    for weight in network.parameters():
        if weight.dim() == 4:
            assert weight.is_contiguous(memory_format=torch.channels_last)
    with compute.run():
        after = network(compute.lay_out(frames))
    assert (after - before).abs().max() < 1e-5


def test_three_dimensional_weights_are_laid_out_too():
    network = resolve_compute("cpu", "fp32").prepare(with_statistics(GateConv(3, 2)))
    assert network.conv.weight.is_contiguous(memory_format=torch.channels_last_3d)


def test_an_input_is_laid_out_without_changing_a_number():
    x = torch.randn(2, 3, 4, 5)
    laid_out = resolve_compute("cpu", "fp32").lay_out(x)
    assert torch.equal(laid_out, x)
    assert laid_out.is_contiguous(memory_format=torch.channels_last)


@pytest.mark.parametrize("precision", ["fp32", "bf16"])
def test_every_network_runs_as_prepared(precision):
    compute = resolve_compute("cpu", precision)
    planes = torch.zeros(1, 20, 32, 64)
    planes[:, 3] = 1
    for network, inputs in (
        (LabelUNet(LABEL_UNET), [planes, torch.randn(1, 4), torch.randn(1, 1, 32, 64)]),
        (Seg2VidFlow(FLOW), [torch.rand(1, 3, 32, 64), planes, torch.randn(1, 4, 8)]),
        (Seg2VidRefine(REFINE), [torch.rand(1, 3, 128, 128)]),
    ):
        exact = with_statistics(network)(*inputs)
        compute.prepare(network)
        with compute.run():
            out = network(*inputs)
        if isinstance(network, Seg2VidFlow):
            exact, out = exact.flow, out.flow
        most = {"fp32": 1e-5, "bf16": 0.1}[precision] * max(1, exact.abs().max())
        assert (out.float() - exact).abs().max() < most


# ---- rows of a batch -----------------------------------------------------------------------------


class Memory:
    """Has room for so many rows at once; remembers what was tried."""

    def __init__(self, room):
        self.room, self.tried = room, []

    def __call__(self, first, last):
        self.tried.append((first, last))
        if last - first > self.room:
            raise torch.OutOfMemoryError("CUDA out of memory")
        return [f"row {row}" for row in range(first, last)]


def rows_of(count):
    return [f"row {row}" for row in range(count)]


@pytest.mark.parametrize(
    ("limit", "pieces"),
    [(None, [(0, 5)]), (8, [(0, 5)]), (5, [(0, 5)]), (2, [(0, 2), (2, 4), (4, 5)])],
)
def test_rows_are_done_in_pieces_and_stay_in_order(limit, pieces):
    rows, memory = RowLimit(limit), Memory(room=100)
    assert rows.run(5, memory) == rows_of(5)
    assert memory.tried == pieces
    assert rows.limit == limit


def test_no_rows_are_no_work():
    memory = Memory(room=0)
    assert RowLimit().run(0, memory) == []
    assert memory.tried == []


def test_pieces_are_halved_until_they_fit_and_that_is_remembered():
    rows, memory = RowLimit(), Memory(room=3)
    assert rows.run(11, memory) == rows_of(11)
    assert memory.tried == [(0, 11), (0, 5), (0, 2), (2, 4), (4, 6), (6, 8), (8, 10), (10, 11)]
    assert rows.limit == 2
    again = Memory(room=100)
    assert rows.run(4, again) == rows_of(4)
    assert again.tried == [(0, 2), (2, 4)]


def test_rows_that_are_done_are_not_done_again():
    """Memory may become scarce in the middle."""
    memory = Memory(room=4)

    def work(first, last):
        memory.room = 1 if first >= 4 else 4
        return memory(first, last)

    rows = RowLimit(4)
    assert rows.run(7, work) == rows_of(7)
    assert memory.tried == [(0, 4), (4, 7), (4, 5), (5, 6), (6, 7)]
    assert rows.limit == 1


@pytest.mark.parametrize("limit", [None, 1, 4])
def test_one_row_that_does_not_fit_is_the_end(limit):
    memory = Memory(room=0)
    with pytest.raises(torch.OutOfMemoryError, match="out of memory"):
        RowLimit(limit).run(4, memory)
    assert memory.tried[-1] == (0, 1)
    assert len(memory.tried) == {None: 3, 4: 3, 1: 1}[limit]


def test_other_errors_are_not_taken_for_lack_of_memory():
    def work(first, last):
        raise RuntimeError("shapes do not fit")

    rows = RowLimit(4)
    with pytest.raises(RuntimeError, match="shapes"):
        rows.run(4, work)
    assert rows.limit == 4


@pytest.mark.cuda
@pytest.mark.skipif(not torch.cuda.is_available(), reason="no CUDA GPU")
def test_a_gpu_gets_the_numbers_of_the_cpu():
    before = draw()
    with resolve_compute("cuda").run():
        assert torch.equal(draw(), before)


@pytest.mark.parametrize("fast", [True, False])
def test_training_is_mixed_only_where_bf16_is_computed(monkeypatch, fast):
    monkeypatch.setattr("seg2vid_cli.device._cpu_computes_bf16", lambda: fast)
    with mixed_precision(torch.device("cpu")):
        product = torch.ones(2, 2) @ torch.ones(2, 2)
    assert product.dtype == (torch.bfloat16 if fast else torch.float32)
