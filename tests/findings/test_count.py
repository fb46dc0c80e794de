"""Findings on counting: useful work, utilisation, schedules, micro-batches and users; named by their numbers."""

from __future__ import annotations

from typing import Any

import pytest
from xdsl.dialects.builtin import ModuleOp

from pmc.backends.cost.model import Target
from pmc.backends.evaluate.engine import evaluate_module, program_of, sites, symbol_values
from pmc.backends.evaluate.overlap import StepEvaluator
from pmc.backends.evaluate.request import aggregate_step
from pmc.compiler.config import load_chip, load_deployment, load_topology
from pmc.compiler.driver import compile_model, load_model
from pmc.dialects.analyses.work import work_of

MLA_FLOPS_PER_LAYER = 2 * (
    7168 * 1536  # q_a
    + 1536 * 16 * 192  # q_b
    + 7168 * 576  # kv_a
    + 2 * 16 * 128 * 512  # k_absorb, v_absorb
    + 16 * 128 * 7168  # o
)
"""DeepSeek-V3's projections for a token, absorbed, 16 of 128 heads on a rank: what tp = 8 leaves."""


def compiled(model: str, chip: str, topology: str, deployment: str, **options: Any) -> ModuleOp:
    """The program of one rank, with symbols."""
    return compile_model(
        load_model(model), load_chip(chip), load_topology(topology), load_deployment(deployment, options), "dist"
    )


def utilisation(module: ModuleOp, granularity: str = "chip", **bindings: int) -> tuple[float, float]:
    """MFU and MBU of one step."""
    evaluator = StepEvaluator(module, granularity)
    figures = aggregate_step(evaluator, evaluator.step(bindings))
    return figures.mfu, figures.mbu


def test_n14_experts_are_charged_the_rows_that_they_get() -> None:
    """One token chooses 8 of 256 experts on 8 ranks: 1 row on the mean rank, not one on each of its 32 experts."""
    deepseek = ("deepseek-v3", "sg2262", "p1-r1-b1-c8", "dsv3-decode-ep32")
    result = evaluate_module(compiled(*deepseek, tp=8, dp=1, ep=8, batch=1), "chip")
    flops = {step.path: step.flops for step in result.steps if step.op != "layer.quantize"}
    rows_per_rank = 1 * 8 / 8
    for name in ("gate_proj", "up_proj", "down_proj"):
        assert flops[f"blocks.moe.moe.experts.{name}"] == 58 * 2 * rows_per_rank * 7168 * 2048
    attention = 61 * 2 * 16 * 4096 * (512 + 64 + 512)
    dense = 3 * 3 * 2 * 7168 * 18432 / 8
    shared, routed = 58 * 3 * 2 * 7168 * 2048 / 8, 58 * 3 * 2 * rows_per_rank * 7168 * 2048
    router, head = 58 * 2 * 7168 * 256, 2 * 7168 * 129280 / 8
    matrix = 61 * MLA_FLOPS_PER_LAYER + attention + dense + shared + routed + router + head
    assert matrix <= result.total_flops <= 1.002 * matrix, "what is left are vector ops"
    assert result.total_flops == pytest.approx(19.667e9, rel=1e-4)


@pytest.mark.parametrize("capacity", ["balanced", "worst"])
def test_n14_room_for_rows_is_no_work(capacity: str) -> None:
    deepseek = ("deepseek-v3", "sg2262", "p1-r1-b4-c32", "dsv3-decode-ep32")
    rows = {s.path: s.flops for s in evaluate_module(compiled(*deepseek, batch=7, expert_capacity=capacity)).steps}
    assert rows["blocks.moe.moe.experts.gate_proj"] == pytest.approx(58 * 2 * 7 * 8 / 32 * 7168 * 2048, rel=1e-12)


def test_n15_mixed_types_are_measured_against_the_peak_of_each() -> None:
    """BF16 attention and FP8 matmuls: against one peak for both, MFU was 1.202."""
    module = compiled("deepseek-v3", "sg2262", "p1-r1-b4-c32", "dsv3-prefill-ep32", q_len=32768, kv_len=32768)
    chip, result = Target.of(module).chip, evaluate_module(module)
    values, busy_s, types = symbol_values(module, {}), 0.0, set[str]()
    for site in sites(program_of(module)):
        work = work_of(site.op)
        if work is not None and work.unit == "cube":
            types.add(work.dtype)
            busy_s += site.count * work.flops.evaluate(values) / chip.peak_flops_per_s(work.dtype)
    assert len(types) == 2
    mfu, mbu = utilisation(module)
    assert mfu == pytest.approx(busy_s / (result.total_us * 1e-6), rel=1e-12) and mfu < 1 and mbu < 1


def test_n16_padding_of_the_batch_is_no_work() -> None:
    """A sequence on one of 32 ranks: the mean rank does a 32nd of the work in the same time."""
    llama = ("llama-3.1-8b", "sg2262", "p1-r1-b4-c32", "llama-8b-decode")
    module = compiled(*llama, tp=1, dp=32, batch=32)
    full, one = evaluate_module(module), evaluate_module(module, bindings={"batch": 1})
    assert one.total_us == full.total_us
    assert one.total_flops == pytest.approx(full.total_flops / 32, rel=1e-6)
    assert utilisation(module, batch=1)[0] == pytest.approx(utilisation(module)[0] / 32, rel=1e-12)


def test_n16_dispatch_and_imbalance_count_the_same_rows() -> None:
    """Fewer tokens never take longer on their way to the experts: batch 1 took 46 us, batch 32 took 12.8."""
    module = compiled("deepseek-v3", "sg2262", "p1-r1-b4-c32", "dsv3-decode-ep32")

    def transfer_us(batch: int) -> float:
        steps = evaluate_module(module, "core", {"batch": batch}).steps
        return sum(s.time_us for s in steps if s.op in ("dist.dispatch", "dist.combine"))

    times = [transfer_us(batch) for batch in (1, 8, 31, 32, 33, 64, 65, 128)]
    assert times == sorted(times)
