"""Pipelines, whole requests and their figures, against sums taken one by one."""

from __future__ import annotations

import csv
import io
import json
from functools import cache
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import pytest
from xdsl.dialects.builtin import ModuleOp

from pmc.backends.evaluate import evaluate_module
from pmc.backends.evaluate.aggregate import totals_over
from pmc.backends.evaluate.overlap import Overlap, StepEvaluator
from pmc.backends.evaluate.pipeline import Pipeline, PrefillChunks, decode_us, micro_batches_of, parts_of, stream_us
from pmc.backends.evaluate.request import CSV_COLUMNS, RequestResult, evaluate_request
from pmc.compiler.config import load_chip, load_deployment, load_topology
from pmc.compiler.driver import compile_model, load_model
from pmc.compiler.frontend import import_hf
from pmc.compiler.main import main
from pmc.dialects.errors import PmcError
from tests.compiler.tiny import LLAMA

CHIP, TOPOLOGY = load_chip("sg2262"), load_topology("p1-r1-b4-c32")
PEAK_BF16, DRAM = 393.216e12, 8601.6e9


@cache
def compiled(model: str, deployment: str, **options: Any) -> ModuleOp:
    loaded = import_hf(LLAMA, "tiny", "tiny") if model == "tiny" else load_model(model)
    return compile_model(loaded, CHIP, TOPOLOGY, load_deployment(deployment, options), "dist")


def request(
    level: str, isl: int, osl: int, overlap: Overlap = Overlap.NONE, micro_batches: int | None = None, **options: Any
) -> RequestResult:
    evaluators = [
        StepEvaluator(compiled("llama-3.1-70b", "llama-70b-decode-tp8", phase=phase, **options), level, overlap)
        for phase in ("prefill", "decode")
    ]
    return evaluate_request(*evaluators, batch=options.get("batch", 64), isl=isl, osl=osl, micro_batches=micro_batches)


# -- pipelines --------------------------------------------------------------------------------------------------


def finish_times(times_us: npt.NDArray[np.float64]) -> npt.NDArray[np.float64]:
    """When each micro-batch leaves each resource: `times_us[r][j]` is what micro-batch j takes on resource r.

    Max-plus recurrence of a line of resources with room between them:
    finish[r][j] = max(finish[r-1][j], finish[r][j-1]) + times[r][j].  Micro-batches may differ; for equal ones the
    last entry is `Pipeline.once_us` and the slowest resource for each of the others.
    """
    finish = np.zeros_like(times_us)
    for resource, micro_batch in np.ndindex(*times_us.shape):
        arrives = finish[resource - 1, micro_batch] if resource else 0.0
        is_free = finish[resource, micro_batch - 1] if micro_batch else 0.0
        finish[resource, micro_batch] = max(arrives, is_free) + times_us[resource, micro_batch]
    return finish


def pipeline_of(stage_us: npt.NDArray[np.float64], transfer_us: npt.NDArray[np.float64]) -> Pipeline:
    """Sends that nothing of their stage runs beside."""
    nothing = np.zeros((1, *stage_us.shape[1:]))
    return Pipeline(stage_us, transfer_us, stage_us + np.concatenate([transfer_us, nothing]))


@pytest.mark.parametrize("stages", [1, 2, 5])
def test_a_stream_of_micro_batches_is_the_recurrence(stages: int) -> None:
    random = np.random.default_rng(3)
    for kinds, times in ((1, 1), (1, 7), (2, 1), (3, 4), (6, 61)):
        stage_us, transfer_us = random.uniform(1, 9, (stages, kinds)), random.uniform(0, 12, (stages - 1, kinds))
        line = [stage_us[0]]
        for transfer, stage in zip(transfer_us, stage_us[1:], strict=True):
            line += [transfer, stage]
        last = finish_times(np.tile(np.stack(line), (1, times)))[-1, -1]
        assert stream_us([([pipeline_of(stage_us, transfer_us)], times)]) == pytest.approx(float(last), rel=1e-12)
        if kinds == 1:
            pipeline = pipeline_of(stage_us[:, 0], transfer_us[:, 0])
            equal = float(pipeline.once_us + (times - 1) * pipeline.bottleneck_us)
            assert float(last) == pytest.approx(equal, rel=1e-12)


def test_trains_follow_each_other() -> None:
    random = np.random.default_rng(4)
    large, small = random.uniform(5, 9, (3, 1)), random.uniform(1, 5, (3, 1))
    pipelines = [pipeline_of(stage_us, np.zeros((2, 1))) for stage_us in (large, small)]
    line = finish_times(np.concatenate([large, large, small, small, small], axis=1))
    assert stream_us([([pipelines[0]], 2), ([pipelines[1]], 3)]) == pytest.approx(float(line[-1, -1]), rel=1e-12)


def test_a_send_beside_ops_occupies_its_link() -> None:
    """A stage of 10 sends for 8, 5 of which run beside its own ops: the next one has the value after 13."""
    pipeline = Pipeline(np.asarray([10.0, 4.0]), np.asarray([8.0]), np.asarray([13.0, 4.0]))
    assert stream_us([([pipeline], 1)]) == 17.0
    assert stream_us([([pipeline], 3)]) == 17.0 + 2 * 10.0


def test_equal_stages_take_m_plus_p_minus_1() -> None:
    pipeline = pipeline_of(np.full(4, 10.0), np.zeros(3))
    assert stream_us([([pipeline], 6)]) == pytest.approx((6 + 4 - 1) * 10.0)
    # Decode: a token goes round in 40; with 4 or more micro-batches in flight a stage is the limit.
    assert [float(decode_us([(pipeline, m)])) for m in (1, 2, 4, 8)] == [40.0, 40.0, 40.0, 80.0]
    shorter = pipeline_of(np.full(4, 5.0), np.zeros(3))
    assert float(decode_us([(pipeline, 5), (shorter, 3)])) == 5 * 10.0 + 3 * 5.0


def test_unequal_micro_batches() -> None:
    # By hand: stage 0 ends at 2, 5; stage 1 starts at 2 and 12, because the first takes it until 12.
    assert finish_times(np.asarray([[2.0, 3.0], [10.0, 1.0]])).tolist() == [[2.0, 5.0], [12.0, 13.0]]


def test_the_default_split_gives_every_stage_a_micro_batch() -> None:
    assert [micro_batches_of(batch, 4, 1, None) for batch in (1, 2, 3, 6, 7, 8)] == [1, 2, 3, 4, 4, 4]
    assert [micro_batches_of(batch, 4, 8, None) for batch in (1, 8, 9, 32, 33)] == [1, 1, 2, 4, 4]
    assert parts_of(61, 4) == [(16, 1), (15, 3)] and parts_of(64, 4) == [(16, 4)]
    assert micro_batches_of(64, 4, 1, 3) == 3 and parts_of(64, 3) == [(22, 1), (21, 2)]
    with pytest.raises(
        PmcError, match=r"^3 micro-batches of a batch of 2 sequences: must be in 1..2, one sequence each$"
    ):
        micro_batches_of(2, 4, 1, 3)


@pytest.mark.parametrize(
    ("chunks", "batch", "parts", "tokens"),
    [
        (PrefillChunks(isl=100, chunk=350, replicas=2, stages=1), 20, [(6, 3), (2, 1)], [(100, 1, 100)]),
        (PrefillChunks(isl=100, chunk=350, replicas=2, stages=4), 6, [(2, 3)], [(100, 1, 100)]),
        (PrefillChunks(isl=100, chunk=32, replicas=2, stages=4), 5, [(2, 2), (1, 1)], [(32, 3, 32), (4, 1, 100)]),
        (PrefillChunks(isl=100, chunk=50, replicas=1, stages=1), 3, [(1, 3)], [(50, 2, 50)]),
    ],
)
def test_chunks_of_prefill(
    chunks: PrefillChunks, batch: int, parts: list[tuple[int, int]], tokens: list[tuple[int, int, int]]
) -> None:
    assert chunks.micro_batches(batch) == parts and chunks.tokens == tokens
    assert sum(size * times for size, times in parts) == batch
    assert sum(size * times for size, times, _ in tokens) == chunks.isl


def test_stages_of_a_request() -> None:
    found = request("core", 128, 9, tp=2, pp=4)
    assert found.prefill.micro_batches == found.decode.micro_batches == 4  # type: ignore[union-attr]
    stages = evaluate_module(
        compiled("llama-3.1-70b", "llama-70b-decode-tp8", phase="prefill", tp=2, pp=4), "core",
        {"batch": 16, "q_len": 128, "kv_len": 128},
    ).stages  # fmt: skip
    times = [stage.time_us for stage in stages]
    assert found.ttft_us == pytest.approx(sum(times) + 3 * max(times), rel=1e-12)
    assert found.prefill.bubble == pytest.approx(1 - 4 * sum(times) / (4 * found.ttft_us), rel=1e-9)
    alone = request("core", 128, 9, tp=2, pp=4, batch=1)
    assert alone.prefill.bubble == pytest.approx(0.75, abs=0.01)
    decoded_at_once = request("core", 128, 9, tp=2, pp=4, micro_batches=1)
    assert decoded_at_once.prefill == found.prefill, "micro-batches of prefill and decode are apart"
    assert decoded_at_once.decode.micro_batches == 1  # type: ignore[union-attr]
    beside = request("core", 128, 9, Overlap.STREAMS, tp=2, pp=4)
    assert beside.ttft_us < found.ttft_us
    assert beside.tpot_us == pytest.approx(found.tpot_us, rel=1e-12), "the round trip decides, sends and all"


# -- requests ---------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("level", ["chip", "core"])
def test_decode_is_the_sum_over_the_growing_cache(level: str) -> None:
    found = request(level, 1000, 40, prefill_chunk=64 * 1000)
    program = compiled("llama-3.1-70b", "llama-70b-decode-tp8", phase="decode")
    steps = [evaluate_module(program, level, {"q_len": 1, "kv_len": 1000 + i}) for i in range(1, 40)]
    times = [step.total_us for step in steps]
    assert found.decode is not None and found.decode.steps == 39
    assert found.decode.time_us == pytest.approx(sum(times), rel=1e-9)
    assert found.tpot_us == pytest.approx(sum(times) / 39, rel=1e-9)
    assert (found.itl_first_us, found.itl_last_us) == (pytest.approx(times[0]), pytest.approx(times[-1]))
    assert times[-1] > times[0]
    assert found.decode.flops == pytest.approx(sum(step.total_flops for step in steps), rel=1e-12)
    assert found.decode.dram_bytes == pytest.approx(sum(step.total_bytes for step in steps), rel=1e-12)
    sums: dict[str, float] = {}
    for step in steps:
        for tag, us in step.bottleneck_summary.items():
            sums[tag.value] = sums.get(tag.value, 0.0) + us
    assert found.decode.bottlenecks_us == pytest.approx(sums, rel=1e-9)
    prefill = evaluate_module(
        compiled("llama-3.1-70b", "llama-70b-decode-tp8", phase="prefill"), level, {"q_len": 1000, "kv_len": 1000}
    )
    assert found.ttft_us == prefill.total_us
    assert found.e2e_us == pytest.approx(prefill.total_us + sum(times), rel=1e-9)


@pytest.mark.parametrize(
    ("level", "overlap"), [("tile", Overlap.NONE), ("core", Overlap.STREAMS), ("core", Overlap.TWO_BATCH)]
)
def test_interpolated_lengths_keep_their_bound(level: str, overlap: Overlap) -> None:
    program = compiled("tiny", "llama-8b-decode", batch=64)
    evaluator = StepEvaluator(program, level, overlap)
    lengths = np.arange(257, 257 + 120, dtype=np.int64)
    totals = totals_over(evaluator, {}, lengths)
    exact = np.asarray([evaluator.step({"kv_len": int(n)}).total_us for n in lengths])
    error = abs(float(totals.pipeline.once_us.sum()) - float(exact.sum()))
    assert error <= totals.interpolation_error_us
    assert (error > 1e-9) == (level == "tile"), "at core level the step of this model is linear in the length"
    assert totals.interpolation_error_us < 0.05 * float(exact.sum())
    few = totals_over(evaluator, {}, lengths[:17])
    assert few.interpolation_error_us == 0.0
    assert few.pipeline.once_us == pytest.approx(exact[:17], rel=1e-12)


def test_figures_are_what_they_say() -> None:
    r = request("core", 512, 33)
    assert r.decode is not None and r.tpot_us is not None
    assert r.ranks == 8 and r.tps_per_user == pytest.approx(1e6 / r.tpot_us)
    assert r.tps_per_chip == pytest.approx(64 * 33 / (r.e2e_us * 1e-6) / 8)
    assert r.prefill.tps_per_chip == pytest.approx(64 * 512 / (r.ttft_us * 1e-6) / 8)
    assert r.decode.tps_per_chip == pytest.approx(64 * 32 / (r.decode.time_us * 1e-6) / 8)
    for phase in (r.prefill, r.decode):
        # All but a thousandth of the FLOPs are those of the matrix unit, which MFU counts.
        of_all = phase.flops / (phase.time_us * 1e-6) / PEAK_BF16
        assert 0.999 * of_all < phase.mfu < of_all
        assert phase.mbu == pytest.approx(phase.dram_bytes / (phase.time_us * 1e-6) / DRAM)
        assert phase.time_us == pytest.approx(phase.compute_us + phase.comm_us, rel=1e-9)
        assert phase.exposed_us == pytest.approx(phase.comm_us) and phase.wait_us == 0
        assert sum(phase.bottlenecks_us.values()) == pytest.approx(phase.time_us, rel=1e-9)
        assert 0 < phase.mfu < 1 and 0 < phase.mbu < 1
    assert 0 < r.memory_peak_bytes < r.memory_capacity_bytes == 128 * 2**30


def test_work_does_not_depend_on_level_overlap_or_stages() -> None:
    flops = [request(level, 64, 5).decode.flops for level in ("chip", "core", "tile")]  # type: ignore[union-attr]
    assert len(set(flops)) == 1
    halves = request("core", 64, 5, Overlap.TWO_BATCH)
    assert halves.decode.flops == flops[0]  # type: ignore[union-attr]
    # Of 8 chips each does the same work, in whichever way they share it.
    staged = request("core", 64, 5, tp=2, pp=4)
    assert staged.decode.flops == pytest.approx(flops[0], rel=0.01)  # type: ignore[union-attr]


def test_a_single_token_has_no_decode() -> None:
    r = request("chip", 64, 1)
    assert r.decode is None and r.tpot_us is None and r.e2e_us == r.ttft_us
    assert not [row for row in r.to_rows() if row["phase"] == "decode" or row["metric"] == "tpot_us"]


def test_formats_agree() -> None:
    r = request("core", 64, 4)
    document = json.loads(r.to_json())
    assert document["ttft_us"] == r.ttft_us and document["decode"]["mfu"] == r.decode.mfu  # type: ignore[union-attr]
    rows = list(csv.DictReader(io.StringIO(r.to_csv())))
    assert tuple(rows[0]) == CSV_COLUMNS
    by_name = {(row["phase"], row["metric"]): row["value"] for row in rows}
    assert float(by_name["request", "tpot_us"]) == r.tpot_us
    assert float(by_name["prefill", "time_us"]) == r.ttft_us
    assert int(by_name["decode", "steps"]) == 3


def test_bad_input() -> None:
    program = StepEvaluator(compiled("llama-3.1-70b", "llama-70b-decode-tp8", phase="decode"))
    with pytest.raises(PmcError, match=r"^expected a prefill program, found one of phase decode$"):
        evaluate_request(program, program, 64, 8, 8)
    for lengths, message in (((0, 4), "isl is 0"), ((4, -1), "osl is -1")):
        with pytest.raises(PmcError, match=rf"^{message}, must be at least 1$"):
            request("chip", *lengths)


# -- the command line -------------------------------------------------------------------------------------------

TARGET = ["--chip", "sg2262", "--topology", "p1-r1-b4-c32", "--deployment", "dsv3-decode-ep32"]


@pytest.mark.parametrize("level", ["chip", "core", "tile"])
def test_the_command_evaluates_a_request(level: str, capsys: pytest.CaptureFixture[str]) -> None:
    lengths = ["--isl", "128", "--osl", "64", "--batch", "64"]
    command = ["evaluate", "deepseek-v3", *TARGET, "--granularity", level, *lengths]
    assert main([*command, "--format", "json"]) == 0
    document = json.loads(capsys.readouterr().out)
    assert document["granularity"] == level and document["decode"]["steps"] == 63
    assert main(command) == 0
    out = capsys.readouterr().out
    assert f"TTFT  {document['ttft_us'] / 1e3:.3f} ms" in out and f"TPOT  {document['tpot_us'] / 1e3:.3f} ms" in out


def test_a_step_carries_its_schedule(capsys: pytest.CaptureFixture[str]) -> None:
    command = ["evaluate", "deepseek-v3", *TARGET, "--granularity", "core", "--overlap", "streams"]
    assert main([*command, "--format", "json"]) == 0
    document = json.loads(capsys.readouterr().out)
    schedule = document["schedule"]
    assert schedule["serial_us"] == pytest.approx(document["total_us"], rel=1e-12)
    assert schedule["total_us"] < schedule["serial_us"] and schedule["overlap"] == "streams"
    assert document["aggregates"]["time_us"] == pytest.approx(schedule["total_us"])
    assert sum(row["wait_us"] for row in document["steps"]) > 0
    assert main(command) == 0
    assert f"scheduled with overlap streams: {schedule['total_us']:.3f} us" in capsys.readouterr().out


@pytest.mark.parametrize(
    ("options", "message"),
    [
        (["--isl", "8"], "a request needs both lengths: --osl is missing"),
        (["--osl", "8"], "a request needs both lengths: --isl is missing"),
        (["--isl", "0", "--osl", "8"], "isl is 0, must be at least 1"),
        (["--isl", "8", "--osl", "8", "--kv-len", "9"], "--kv-len does not go with --isl and --osl"),
        (["--overlap", "ring"], "unknown overlap 'ring'; must be one of none, streams, two-batch"),
        (["--micro-batches", "2"], "--micro-batches is about requests"),
        (["--calibration", "nothing"], "calibration 'nothing': neither a preset nor a file"),
        (["--accounting", "physica"], "accounting 'physica': neither a preset nor a file; did you mean 'physical'?"),
        (["--overlap", "two-batch", "--batch", "1"], "two-batch overlap splits the batch in two"),
    ],
)
def test_bad_options(options: list[str], message: str, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["evaluate", "deepseek-v3", *TARGET, *options]) == 2
    captured = capsys.readouterr()
    assert message in captured.err and captured.err.count("\n") == 1 and captured.out == ""


def test_a_dump_has_one_phase(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    dump = tmp_path / "m.mlir"
    assert main(["compile", "deepseek-v3", *TARGET, "--emit", "dist", "-o", str(dump)]) == 0
    assert main(["evaluate", str(dump), "--isl", "8", "--osl", "8"]) == 2
    assert "is a dump of one phase" in capsys.readouterr().err
    assert main(["evaluate", str(dump), "--overlap", "two-batch", "--calibration", "assumed-losses"]) == 0
    assert "scheduled with overlap two-batch" in capsys.readouterr().out
