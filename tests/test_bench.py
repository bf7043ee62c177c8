"""`seg2vid bench`: what is counted, how it is put together, and the command itself."""

from __future__ import annotations

import json
from dataclasses import replace
from itertools import count
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pytest
import torch
from conftest import FLOW, REFINE
from test_cli_generate import listing, refused, seg2vid
from test_parity import read_manifest
from torch import nn
from torch.utils.flop_counter import FlopCounterMode

from seg2vid_cli import Pipeline, bench, read_labels
from seg2vid_cli.bench import (
    EAGER,
    ENCODE,
    FIRST,
    MOTION,
    READ,
    STAGES,
    WARP,
    WHOLE,
    Plan,
    Probe,
    make_clips,
    psnr_db,
    times_as_fast,
)
from seg2vid_cli.bench import REFINE as REPAIR
from seg2vid_cli.errors import DeviceError, InputError, Seg2VidError
from seg2vid_cli.weights.importers import seg2vid as importer
from seg2vid_cli.weights.load import read_bundle

CPU = torch.device("cpu")
SHORT = Plan(frames=4, repeat=1)  # two passes of the tiny bundle


@pytest.fixture(autouse=True)
def _here(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(bench, "CONVOLUTIONS", ((4, 8, 8),))
    monkeypatch.setattr(bench, "MATRIX", {"cpu": 16, "gpu": 16})
    monkeypatch.setattr(bench, "LEAST_SECONDS", 0.001)


@pytest.fixture
def street(tmp_path: Path) -> Path:
    folder = tmp_path / "work"
    folder.mkdir()
    return bench._write_street(folder / "street.png", (32, 64))


@pytest.fixture
def eager(tiny_bundle: Path) -> Pipeline:
    return Pipeline(read_bundle(tiny_bundle), bench.plan_precisions("cpu", [EAGER])[EAGER])


def counted(pipeline: Pipeline, street: Path, plan: Plan) -> Probe:
    with FlopCounterMode(display=False) as counter:
        probe = Probe(CPU, counter)
        make_clips(pipeline, street, plan, seed=plan.batch, probe=probe)  # none painted before
    return probe


# ---- what is counted -----------------------------------------------------------------------------


def test_operations_of_a_known_network_go_to_the_stage_that_does_them():
    first = nn.Conv2d(3, 8, 3, padding=1, bias=False)
    second = nn.Sequential(nn.Conv2d(8, 4, 2, stride=2), nn.Flatten(), nn.Linear(4 * 8 * 8, 10))
    with torch.inference_mode(), FlopCounterMode(display=False) as counter:
        probe = Probe(CPU, counter)
        with probe.stage(WARP):
            x = probe.wrap(MOTION, first)(torch.ones(2, 3, 16, 16))
            x = x * 2
            with probe.stage(REPAIR):
                second(x)
    convolution, smaller, linear = 8 * 16 * 16 * 27, 4 * 8 * 8 * 32, 10 * 256
    wanted = {MOTION: 2 * 2 * convolution, REPAIR: 2 * 2 * (smaller + linear)}
    assert probe.flop == dict.fromkeys(STAGES, 0) | wanted


def test_an_inner_stage_is_taken_out_of_the_outer_one(monkeypatch):
    clock = count()  # a second passes between two looks at it
    monkeypatch.setattr(bench, "time", SimpleNamespace(perf_counter=lambda: next(clock)))
    probe = Probe(CPU)
    with pytest.raises(KeyError), probe.stage(WARP), probe.stage(MOTION):
        raise KeyError
    with probe.stage(READ):
        pass
    assert {k: v for k, v in probe.seconds.items() if v} == {WARP: 2, MOTION: 1, READ: 1}


def test_other_devices_are_waited_for_where_a_stage_begins_and_ends(monkeypatch):
    waited = []
    monkeypatch.setattr(torch.accelerator, "synchronize", waited.append)
    with Probe(CPU).stage(READ):
        pass
    assert waited == []
    device = torch.device("mps")
    with Probe(device).stage(READ):
        pass
    assert waited == [device, device]


def test_every_stage_counts_as_much_as_it_should(eager, street):
    one, two = (counted(eager, street, replace(SHORT, batch=n)) for n in (1, 2))
    working = {stage for stage in STAGES if one.flop[stage]}
    assert working == {FIRST, MOTION, REPAIR}
    assert all(two.flop[stage] == 2 * one.flop[stage] for stage in working)
    assert all(one.seconds[stage] > 0 for stage in STAGES)
    # Two passes of two frames, of which three are shown; the refinement network sees 128x128.
    layer = 2 * 9 * REFINE.image_channels * REFINE.channels[0] * 128 * 128
    assert one.flop[REPAIR] > 3 * layer
    if Path("/proc/self/clear_refs").exists():
        assert all(one.peak_bytes[stage] > 2**20 for stage in STAGES)


def test_taking_times_changes_no_frame(pipeline, street):
    frames = make_clips(pipeline, street, SHORT, seed=3, probe=Probe(CPU))
    clip = pipeline.generate(read_labels(street), seed=3, frames=SHORT.frames)
    assert clip.size_hw == (32, 64)
    np.testing.assert_array_equal(np.stack(frames), np.stack([moment.frame for moment in clip]))
    for network in (pipeline.motion, pipeline.refiner):
        assert not {"encode", "decode", "forward"} & set(vars(network))


def test_networks_as_loaded_and_prepared_give_the_same_pictures(eager, pipeline, street):
    wanted, frames = (
        np.stack(make_clips(p, street, SHORT, seed=1, probe=Probe(CPU))).astype(int)
        for p in (eager, pipeline)
    )
    assert np.abs(frames - wanted).max() <= 1
    assert np.abs(wanted[0] - wanted[-1]).max() > 10
    norms = [
        sum(isinstance(m, nn.BatchNorm2d) for m in p.refiner.modules()) for p in (eager, pipeline)
    ]
    assert norms[0] > 20
    assert norms[1] == 0
    weights = [p.refiner.out.weight for p in (eager, pipeline)]
    layouts = [w.is_contiguous(memory_format=torch.channels_last) for w in weights]
    assert layouts == [False, True]


# ---- arithmetic ----------------------------------------------------------------------------------


def test_ratios_are_taken_round_by_round():
    spread = times_as_fast([1.0, 2.0, 8.0], [3.0, 4.0, 8.0])
    assert (spread.median, spread.low, spread.high) == (2.0, 1.0, 3.0)


def test_psnr_is_a_mean_over_frames():
    black = np.zeros((2, 4, 3), np.uint8)
    grey, white = np.full_like(black, 51), np.full_like(black, 255)
    assert psnr_db([grey], [black]) == pytest.approx(13.9794, abs=1e-4)  # 20 log10(255 / 51)
    assert psnr_db([black], [white]) == 0  # neither wraps around
    assert psnr_db([white], [white]) == 100
    assert psnr_db([grey, white], [black, white]) == pytest.approx((13.9794 + 100) / 2, abs=1e-4)


def test_rates_are_operations_by_seconds(monkeypatch):
    ticks = iter([0, 9, 10, 10.25, 20, 22])  # warming up, one call, then four of them
    monkeypatch.setattr(bench, "time", SimpleNamespace(perf_counter=lambda: next(ticks)))
    monkeypatch.setattr(bench, "LEAST_SECONDS", 1.0)
    calls = []
    assert bench.flop_rate(lambda: calls.append(1), 100, CPU) == 100 * 4 / 2
    assert len(calls) == 6


def test_shares_and_frames_per_second_follow_from_the_median():
    probe = Probe(CPU)
    probe.flop |= {FIRST: 100, REPAIR: 900}
    probe.peak_bytes |= {READ: 2**20, REPAIR: 3 * 2**20}
    plan = Plan(frames=5, batch=2)

    def stage(name):
        return bench._stage_time(name, [4, 2, 1], [8, 2, 3], probe, plan, 1000, 2000)

    repair, whole = stage(REPAIR), stage(WHOLE)
    assert (repair.seconds, repair.all_seconds, repair.frames_per_s) == (2, (4, 2, 1), 4)
    assert (repair.flop_per_s, repair.of_convolution, repair.of_matrix) == (450, 0.45, 0.225)
    assert (whole.flop, whole.frames_per_s, whole.peak_mib) == (1000, 5, 3)
    assert whole.times_eager == bench.Spread(median=2, low=1, high=3)
    assert (stage(FIRST).frames_per_s, stage(FIRST).peak_mib) == (1, None)


# ---- number formats, networks --------------------------------------------------------------------


def test_eager_comes_first_and_fp32_beside_what_auto_picks(monkeypatch):
    monkeypatch.setattr("seg2vid_cli.device._cpu_computes_bf16", lambda: True)
    assert list(bench.plan_precisions("cpu", ())) == [EAGER, "fp32", "bf16"]
    assert list(bench.plan_precisions("cpu", ["bf16", "bf16", EAGER])) == [EAGER, "bf16"]
    monkeypatch.setattr("seg2vid_cli.device._cpu_computes_bf16", lambda: False)
    planned = bench.plan_precisions("cpu", ())
    assert {name: compute.precision for name, compute in planned.items()} == {
        EAGER: "fp32",
        "fp32": "fp32",
    }


def test_the_paper_s_networks_are_those_of_the_published_model():
    manifest = read_manifest("seg2vid-two-path")
    source = {name: torch.empty(shape, device="meta") for name, (shape, _) in manifest.items()}
    parts, _ = importer.describe(source, "seg2vid-two-path")
    assert (parts["motion"].config, parts["refine"].config) == (
        bench.PAPER_FLOW,
        bench.PAPER_REFINE,
    )


def test_the_paper_s_networks_get_lively_random_weights(tiny_bundle, street, monkeypatch):
    monkeypatch.setattr(bench, "PAPER_FLOW", replace(FLOW, latent_row=16, num_frames=4))
    monkeypatch.setattr(bench, "PAPER_REFINE", REFINE)
    state = torch.get_rng_state()
    bundles = [bench.paper_bundle(read_bundle(tiny_bundle)) for _ in range(2)]
    weights = [bundle.network("motion").state_dict() for bundle in bundles]
    assert all(torch.equal(weights[0][name], weights[1][name]) for name in weights[0])
    assert torch.equal(torch.get_rng_state(), state)
    compute = bench.plan_precisions("cpu", ["fp32"])["fp32"]
    frames = make_clips(Pipeline(bundles[0], compute), street, SHORT, seed=0, probe=Probe(CPU))
    assert frames[-1].std() > 5


# ---- from a cold start ---------------------------------------------------------------------------


def test_a_cold_start_is_compared_with_what_it_cannot_do_without(street, monkeypatch):
    commands, seconds = [], iter([9.0, 2.0, 5.0, 1.0, 6.0, 1.0])

    def run(command, threads):
        commands.append(command)
        return next(seconds)

    monkeypatch.setattr(bench, "_run", run)
    probe, plan = Probe(CPU), Plan(frames=7, repeat=3)
    times = {READ: 50.0, FIRST: 0.5, MOTION: 0.25, WARP: 50.0, REPAIR: 0.75, ENCODE: 0.5}
    stages = tuple(
        bench._stage_time(name, [value], None, probe, plan, 1, 1) for name, value in times.items()
    )
    variant = bench.Variant(precision="bf16", stages=stages, psnr_db=40.0)
    cold = bench.cold_start("street", "cpu", variant, plan, street)
    assert (cold.generate_seconds, cold.import_seconds) == (6.0, 1.0)
    assert (cold.network_seconds, cold.encode_seconds, cold.ratio) == (1.5, 0.5, 2.0)
    assert len(commands) == 6
    words = " ".join(commands[0][3:])
    assert words.startswith("generate ")
    assert words.endswith("--weights street --device cpu --precision bf16 --frames 7")
    assert commands[1][1:] == ["-c", "import torch"]


def test_a_process_that_fails_is_reported():
    with pytest.raises(Seg2VidError, match="failed: oh no"):
        bench._run([bench.sys.executable, "-c", "raise SystemExit('oh no')"], 1)
    assert bench._run([bench.sys.executable, "-c", "import seg2vid_cli"], None) > 0


# ---- the command ---------------------------------------------------------------------------------


def test_the_command_s_json_has_every_stage(tiny_bundle):
    threads, before = torch.get_num_threads(), listing()
    done = seg2vid(
        *("bench", "--weights", tiny_bundle, "--device", "cpu", "--precision", "fp32"),
        *("--frames", 3, "--repeat", 1, "--threads", 1, "--json"),
    )
    assert (done.code, done.err) == (0, "")
    result = json.loads(done.out, parse_constant=pytest.fail)  # neither NaN nor Infinity
    assert (result["weights"], result["size"], result["paper"]) == ("tiny", [64, 32], False)
    assert result["plan"] == {"frames": 3, "batch": 1, "repeat": 1, "threads": 1}
    machine = result["machine"]
    assert (machine["device"], machine["threads"]) == ("cpu", 1)
    assert machine["torch"] == torch.__version__
    assert machine["cpu"]
    (rate,) = result["rates"]
    assert rate["dtype"] == "float32"
    assert rate["convolution"].startswith("1x4x8x8 ")
    eager, prepared = result["variants"]
    assert (eager["precision"], prepared["precision"]) == (EAGER, "fp32")
    assert eager["psnr_db"] is None
    assert prepared["psnr_db"] > 50
    for variant in (eager, prepared):
        assert [stage["stage"] for stage in variant["stages"]] == [*STAGES, WHOLE]
        for stage in variant["stages"]:
            assert stage["seconds"] == stage["all_seconds"][0] > 0
            assert (stage["flop"] > 0) == (stage["stage"] in (FIRST, MOTION, REPAIR, WHOLE))
            assert (stage["times_eager"] is None) == (variant is eager)
    assert result["cold_start"] is None
    assert torch.get_num_threads() == threads
    assert listing() == before


def test_the_table_has_a_row_for_every_stage(monkeypatch):
    probe, plan = Probe(CPU), Plan()
    probe.flop[REPAIR] = 3 * 10**9
    stages, slower = (
        tuple(
            bench._stage_time(name, [0.5], other, probe, plan, 12e9, 24e9)
            for name in (*STAGES, WHOLE)
        )
        for other in (None, [1.0])
    )
    machine = bench.machine_facts(CPU) | {"load": 30.0, "cores": 2}
    cold = bench.ColdStart(
        precision="fp32",
        generate_seconds=3.0,
        all_generate_seconds=(3.0,),
        import_seconds=1.0,
        all_import_seconds=(1.0,),
        network_seconds=0.75,
        encode_seconds=0.25,
        ratio=1.5,
    )
    report = bench.Report(
        machine=machine,
        weights="street",
        paper=True,
        size=(256, 128),
        plan=plan,
        rates=(),
        variants=(
            bench.Variant(precision=EAGER, stages=stages, psnr_db=None),
            bench.Variant(precision="bf16", stages=slower, psnr_db=41.26),
        ),
        cold_start=cold,
    )
    monkeypatch.setattr(bench, "measure", lambda *args, **kwargs: report)
    done = seg2vid("bench")
    assert done.code == 0
    rows = [" ".join(line.split()) for line in done.out.splitlines()]
    assert [row for row in rows if row.startswith("refine")] == [
        "refine 0.5000 48 3 6 50 %",
        "refine 0.5000 48 3 6 50 % 2.00 (2.00-2.00)",
    ]
    assert "bf16, 41.3 dB" in rows
    assert all(sum(row.startswith(name) for row in rows) == 2 for name in (*STAGES, WHOLE))
    assert rows[-3:] == [
        "generate 3.00 s from a cold start, fp32",
        "against 1.00 s import torch + 0.75 s networks + 0.25 s encode",
        "ratio 1.50",
    ]
    assert done.err.startswith("note: other programs were running (load 30 on 2 cores)")


@pytest.mark.parametrize(
    ("options", "says"),
    [
        ("--precision fp8", "precision 'fp8' is not known"),
        ("--precision fp16 --device cpu", "fp16 is for GPUs"),
        ("--frames 1", "frames 1 is out of range"),
        ("--batch 0", "batch 0 is out of range"),
        ("--repeat 0", "repeat 0 is out of range"),
        ("--threads 0", "threads 0 is out of range"),
        ("--device cuda:99", "device 'cuda:99'"),
        ("--weights nonsense", "nonsense"),
        ("--cold-start --paper", "a cold start is of generate"),
        ("--cold-start --batch 2", "a cold start is of generate"),
        ("--cold-start --precision eager", "a cold start is of generate"),
    ],
)
def test_what_cannot_be_measured_is_refused(options, says):
    done = refused("bench", *options.split(), says=(says,))
    assert [line.partition(": ")[0] for line in done.err.splitlines()] == ["error", "hint"]


def test_weights_that_make_no_clip_are_refused(painter_bundle):
    says = ("no stage motion and refine", "hint: ")
    refused("bench", "--weights", painter_bundle, "--device", "cpu", says=says)
    with pytest.raises(InputError, match="out of range"):
        bench.measure(plan=Plan(frames=100_000))
    with pytest.raises(DeviceError):
        bench.measure(precisions=["int8"])


@pytest.mark.cuda
@pytest.mark.skipif(not torch.cuda.is_available(), reason="needs an NVIDIA GPU")
def test_a_gpu_is_measured_in_all_number_formats(tiny_bundle):
    report = bench.measure(
        str(tiny_bundle), device="cuda", precisions=["fp32", "bf16", "fp16"], plan=SHORT
    )
    assert [variant.precision for variant in report.variants] == [EAGER, "fp32", "bf16", "fp16"]
    for variant in report.variants:
        assert all(stage.peak_mib for stage in variant.stages)
        assert variant.precision == EAGER or variant.psnr_db > 20
    assert report.machine["device_name"]
