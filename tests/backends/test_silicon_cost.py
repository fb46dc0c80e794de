"""Granularity silicon on tables that the test writes: what is measured, what is analytic, and what is refused."""

from __future__ import annotations

import json
from dataclasses import replace
from functools import cache
from pathlib import Path

import pytest
from xdsl.dialects.builtin import ModuleOp

from pmc.backends.evaluate.overlap import Overlap
from pmc.backends.silicon.library import Library
from pmc.compiler.config import load_chip, load_deployment, load_topology
from pmc.compiler.driver import compile_model, load_model, module_text, parse_module
from pmc.compiler.evaluation import EvaluationOptions, evaluate_request
from pmc.compiler.main import main
from pmc.compiler.silicon import Measurements, with_queries
from pmc.compiler.step_evaluation import StepEvaluation, evaluate_dist
from pmc.dialects.errors import PmcError
from tests.backends.silicon_library import gemm_text, table, toy_system

BATCH = 4
ROWS = [  # m, n, k, ms of the products of a layer of Llama-3.1-8B and of its head
    (BATCH, 6144, 4096, 0.060), (BATCH, 4096, 4096, 0.040), (BATCH, 28672, 4096, 0.250), (BATCH, 4096, 14336, 0.130),
    (BATCH, 128256, 4096, 1.200),
]  # fmt: skip
LAYERS = 32
MEASURED_US = 1e3 * (LAYERS * (0.060 + 0.040 + 0.250 + 0.130) + 1.200)
LAUNCH_US, BYTES_PER_US = 3.0, 0.8 * 3350.0e3
"""`mem_empirical_constant_latency`; the factor of the toy system on the bandwidth of the chip of the program."""


@pytest.fixture
def asked(tmp_path: Path) -> Measurements:
    toy_system(tmp_path)
    table(tmp_path, "gemm", gemm_text(ROWS))
    return Measurements("toy", "vllm", folder=tmp_path)


@cache
def _compiled(fields: tuple[tuple[str, object], ...]) -> ModuleOp:
    chip, topology = load_chip("h100-sxm"), load_topology("nvlink-8")
    return compile_model(load_model("llama-3.1-8b"), chip, topology, load_deployment("decode", dict(fields)), "dist")


def program(**fields: object) -> ModuleOp:
    given = {"tp": 1, "batch": BATCH, "kv_len": 512, **fields}
    return _compiled(tuple(sorted(given.items()))).clone()


def step(asked: Measurements, **fields: object) -> StepEvaluation:
    return evaluate_dist(program(**fields), EvaluationOptions("silicon", measurements=asked), {})


def rows(found: StepEvaluation) -> dict[tuple[str, str], dict[str, object]]:
    return {(str(row["path"]), str(row["table"])): dict(row) for row in found.to_rows()}


def test_a_step_is_its_rows_its_formulas_and_the_host(asked: Measurements) -> None:
    found = step(asked)
    ops = found.step.ops
    assert ops.time_by_source_us["measured"] == pytest.approx(MEASURED_US)
    by_path = rows(found)
    head = by_path["lm_head.proj", "gemm"]
    assert (head["source"], head["time_us"], head["low_us"]) == ("measured", pytest.approx(1200.0), None)
    assert str(head["origin"]).endswith("gemm_perf.txt: cublas")
    norm = by_path["blocks.dense.gqa.norm", ""]
    moved = 2 * (2 * BATCH * 4096 + 4096)  # rows in and out and the gain, in two bytes
    assert norm["time_us"] == pytest.approx(LAYERS * (LAUNCH_US + moved / BYTES_PER_US))
    attention = by_path["blocks.dense.gqa.attention", "generation_attention"]
    keys = 2 * 2 * BATCH * 512 * 1024 + 2 * 2 * BATCH * 4096
    assert attention["source"] == "analytic" and "no generation_attention table" in str(attention["origin"])
    assert attention["time_us"] == pytest.approx(LAYERS * (LAUNCH_US + keys / BYTES_PER_US))
    host = by_path["host.graph", ""]
    assert (host["time_us"], host["bottleneck"], host["source"]) == (6.0, "host", "analytic")
    assert found.total_us == pytest.approx(sum(float(str(row["time_us"])) for row in found.to_rows()))
    document = json.loads(found.to_json())
    assert document["granularity"] == "silicon" and document["sources_us"]["measured"] == pytest.approx(MEASURED_US)
    assert document["relative_only"] is False and document["band_us"] == [pytest.approx(found.total_us)] * 2


def test_the_host_of_eager_launches_waits_for_no_kernel_that_is_long(asked: Measurements, tmp_path: Path) -> None:
    """A launch takes 5 us: kernels of less than that in the mean leave the chip waiting, longer ones do not."""
    fast = tmp_path / "fast"
    fast.mkdir()
    toy_system(fast)
    table(fast, "gemm", gemm_text([(m, n, k, 0.001) for m, n, k, _ in ROWS]))
    launches = LAYERS * 10 + 3  # a layer is 4 products, attention and 5 launches that move data
    waits: list[bool] = []
    for folder in (fast, tmp_path):
        found = step(replace(asked, host="eager", folder=folder))
        (host,) = [row for row in found.to_rows() if row["op"] == "silicon.host"]
        busy_us = found.total_us - float(str(host["time_us"]))
        waits.append(5.0 * launches > busy_us)
        assert host["time_us"] == pytest.approx(6.0 + max(0.0, 5.0 * launches - busy_us))
    assert waits == [True, False]
    without = step(replace(asked, host="none"))
    assert not [row for row in without.to_rows() if row["op"] == "silicon.host"]


def test_the_speed_of_light_is_a_bound(asked: Measurements) -> None:
    light, measured = step(replace(asked, mode="sol")), step(asked)
    assert set(light.step.ops.time_by_source_us) == {"analytic"}
    one, other = rows(light), rows(measured)
    assert one.keys() == other.keys()
    for path, table_kind in one:
        if table_kind in ("", "gemm") and not path.startswith("host"):  # the toy system has the memory of no chip
            assert float(str(one[path, table_kind]["time_us"])) < float(str(other[path, table_kind]["time_us"]))


def test_two_halves_of_a_batch_are_as_sure_as_the_less_sure_one(asked: Measurements, tmp_path: Path) -> None:
    halves = [(m, n, k, t * m / BATCH) for m in (1, 2) for _, n, k, t in ROWS]
    table(tmp_path, "gemm", gemm_text([*ROWS, *halves]))
    options = EvaluationOptions("silicon", Overlap.TWO_BATCH, measurements=asked)
    found = rows(evaluate_dist(program(), options, {"batch": 3}))
    head = found["lm_head.proj", "gemm"]
    assert (head["source"], head["time_us"]) == ("measured", pytest.approx(1200.0 * (2 + 1) / BATCH))


def test_a_request_is_evaluated(asked: Measurements, tmp_path: Path) -> None:
    more = [(m, n, k, t * m / BATCH) for m in (1, 2, 8, 64) for _, n, k, t in ROWS]
    table(tmp_path, "gemm", gemm_text([*ROWS, *more]))
    target = load_chip("h100-sxm"), load_topology("nvlink-8"), load_deployment("decode", {"tp": 1, "batch": BATCH})
    options = EvaluationOptions("silicon", measurements=asked)
    found = evaluate_request(load_model("llama-3.1-8b"), *target, isl=16, osl=4, options=options)
    assert found.tpot_us is not None and found.ttft_us > 0
    one = step(asked, kv_len=17).total_us
    assert found.itl_first_us == pytest.approx(one)


def test_a_dump_keeps_its_queries_and_their_tables(asked: Measurements) -> None:
    matched, _ = with_queries(program(), asked)
    dump = parse_module(module_text(matched), "dump.mlir")
    again = evaluate_dist(dump, EvaluationOptions("silicon"), {})
    assert again.total_us == step(asked).total_us


def test_formats_that_were_not_measured_are_refused(asked: Measurements) -> None:
    quantized = {"quantization.weights": "int8", "quantization.activations": "int8"}
    with pytest.raises(PmcError, match="no rows with gemm_dtype 'sq'; it has bfloat16; --database-mode hybrid"):
        step(asked, **quantized)
    found = rows(step(replace(asked, mode="hybrid"), **quantized))
    assert found["lm_head.proj", "gemm"]["source"] == "analytic"


def test_what_names_no_tables_is_refused(asked: Measurements, tmp_path: Path) -> None:
    with pytest.raises(PmcError, match="give --system and --backend"):
        evaluate_dist(program(), EvaluationOptions("silicon"), {})
    for wrong, message in (
        ({"system": "toys"}, "no system 'toys'; did you mean 'toy'"),
        ({"backend": "vlm"}, "no tables of 'vlm' on toy; did you mean 'vllm'"),
        ({"version": "1.0.1"}, "no tables of vllm '1.0.1' on toy; did you mean '1.0.0'"),
        ({"mode": "silicone"}, "unknown database mode 'silicone'; did you mean 'silicon'"),
        ({"host": "graphs"}, "unknown host 'graphs'; did you mean 'graph'"),
    ):
        with pytest.raises(PmcError, match=message):
            step(replace(asked, **wrong))  # type: ignore[arg-type]
    with pytest.raises(PmcError, match="measured tables are asked at granularity silicon"):
        evaluate_dist(program(), EvaluationOptions("chip", measurements=asked), {})
    with pytest.raises(PmcError, match="none for the routing"):
        deployment = load_deployment("decode-moe", {"dp": 8, "ep": 8, "tp": 1, "routing": {"zipf": 1.0}})
        moe = compile_model(
            load_model("deepseek-v3"), load_chip("h100-sxm"), load_topology("nvlink-8"), deployment, "dist"
        )
        evaluate_dist(moe, EvaluationOptions("silicon", measurements=asked), {})


def test_the_command_line(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    toy_system(tmp_path)
    table(tmp_path, "gemm", gemm_text(ROWS))
    system = tmp_path / "system.yaml"
    system.write_text("chip: h100-sxm\ntopology: nvlink-8\ntables: toy\n")
    asked = ["evaluate", "llama-3.1-8b", "--system", str(system), "--backend", "vllm", "--perf-dir", str(tmp_path)]
    point = ["--deployment", "decode", "--tp", "1", "--batch", str(BATCH), "--kv-len", "512"]
    assert main([*asked, "--granularity", "silicon", *point]) == 0
    text = capsys.readouterr().out
    assert "measured: gemm" in text and "analytic: generation_attention" in text and "by source: " in text
    for wrong, message in (
        ([*asked[:4], "--granularity", "silicon", *point], "give --backend trtllm, sglang or vllm"),
        ([*asked[:2], "--backend", "vllm", *point], "give --system"),
        ([*asked, *point], "measured tables are asked at granularity silicon"),
        ([*asked[:2], "--system", "h20-sxm", "--backend", "vllm", *point], "did you mean 'h200-sxm'"),
    ):
        assert main(wrong) == 2
        assert message in capsys.readouterr().err


def test_without_the_extra_the_fits_that_come_with_pmc_answer(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(Library, "is_installed", lambda: False)
    asked = Measurements("h200-sxm", "vllm")
    with pytest.raises(PmcError, match=r"not installed: pip install 'pmc\[silicon\]'.* --database-mode empirical asks"):
        step(asked)
    found = step(replace(asked, mode="empirical"))
    assert set(found.step.ops.time_by_source_us) == {"analytic"}
    by_path = rows(found)
    for path, kind in (("lm_head.proj", "gemm"), ("blocks.dense.gqa.attention", "generation_attention")):
        row = by_path[path, kind]
        low, time, high = (float(str(row[name])) for name in ("low_us", "time_us", "high_us"))
        assert str(row["origin"]).startswith("fit of") and low < time < high
