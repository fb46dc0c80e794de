"""Findings on counting: useful work, utilisation, schedules, micro-batches and users; named by their numbers."""

from __future__ import annotations

import itertools
from collections.abc import Sequence
from typing import Any

import numpy as np
import pytest
from xdsl.dialects.builtin import ModuleOp

from pmc.backends.cost.model import Target
from pmc.backends.evaluate.aggregate import totals_of
from pmc.backends.evaluate.engine import evaluate_module, program_of, sites, symbol_values
from pmc.backends.evaluate.feasibility import unreserved
from pmc.backends.evaluate.memory import memory_footprint
from pmc.backends.evaluate.overlap import Overlap, StepEvaluator
from pmc.backends.evaluate.request import RequestResult, aggregate_step, evaluate_request
from pmc.compiler.config import load_accounting, load_chip, load_deployment, load_topology
from pmc.compiler.driver import compile_model, load_model
from pmc.dialects.analyses.work import work_of
from pmc.dialects.arch import ChipAttr, TopologyAttr

MLA_FLOPS_PER_LAYER = 2 * (
    7168 * 1536  # q_a
    + 1536 * 16 * 192  # q_b
    + 7168 * 576  # kv_a
    + 2 * 16 * 128 * 512  # k_absorb, v_absorb
    + 16 * 128 * 7168  # o
)
"""DeepSeek-V3's projections for a token, absorbed, 16 of 128 heads on a rank: what tp = 8 leaves."""


def compiled(
    model: str, chip: str, topology: str, deployment: str, accounting: str = "physical", **options: Any
) -> ModuleOp:
    """The program of one rank, with symbols."""
    return compile_model(
        load_model(model), load_chip(chip), load_topology(topology), load_deployment(deployment, options), "dist",
        accounting=load_accounting(accounting),
    )  # fmt: skip


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


def test_n17_overlap_does_not_beat_the_dram() -> None:
    """Transfers read and write DRAM too, beside ops that use all of its bandwidth: MBU was 1.043."""
    module = compiled("llama-3.1-70b", "h100-sxm", "nvlink-8", "llama-70b-decode-tp8")
    evaluator = StepEvaluator(module, "chip", Overlap.TWO_BATCH)
    step = evaluator.step({"batch": 512, "kv_len": 128})
    figures = aggregate_step(evaluator, step)
    (stage,) = step.schedule.stages
    assert stage.dram_us <= stage.total_us and figures.mbu <= 1 + 1e-12
    bytes_moved = sum(s.bytes_read + s.bytes_written for s in step.ops.steps)
    assert stage.dram_us == pytest.approx(bytes_moved / evaluator.target.chip.dram_bytes_per_s * 1e6, rel=1e-12)


FASTER: dict[str, tuple[str, ...]] = {
    "arch.chip": ("dram.bandwidth_gb_per_s", "clocks.tiu_ghz", "clocks.chip_ghz"),
    "arch.topology": ("links.c2c.gb_per_s", "links.b2b.gb_per_s", "bandwidth_utilisation"),
}
"""Fields of which more is faster."""


def with_faster(module: ModuleOp, attribute: str, path: str, factor: float) -> ModuleOp:
    """The module on hardware of which one field is `factor` times as large."""
    changed = module.clone()
    held = changed.attributes[attribute]
    assert isinstance(held, ChipAttr | TopologyAttr)

    def scaled(schema: Any, names: list[str]) -> Any:
        name, *rest = names
        value = getattr(schema, name)
        return schema.model_copy(update={name: scaled(value, rest) if rest else value * factor})

    changed.attributes[attribute] = type(held)(scaled(held.data, path.split(".")))
    return changed


@pytest.mark.parametrize("overlap", [Overlap.STREAMS, Overlap.TWO_BATCH])
@pytest.mark.parametrize(
    ("model", "deployment", "options"),
    [
        ("deepseek-v3", "dsv3-decode-ep32", {"batch": 512}),
        ("deepseek-v3", "dsv3-prefill-ep32", {"tp": 4, "dp": 8, "sp": True, "batch": 8}),
        ("llama-3.1-70b", "llama-70b-decode-tp8", {"tp": 4, "pp": 4, "batch": 64}),
        ("llama-3.1-70b", "llama-70b-prefill-tp8-cp4", {"batch": 2}),
    ],
)
def test_n18_faster_hardware_is_never_slower(
    model: str, deployment: str, options: dict[str, Any], overlap: Overlap
) -> None:
    """List scheduling by the actual times was: up to 6.4%."""
    module = compiled(model, "sg2262", "p1-r1-b4-c32", deployment, **options)

    def takes(changed: ModuleOp) -> tuple[float, ...]:
        totals = totals_of(StepEvaluator(changed, "core", overlap).step())
        return float(totals.pipeline.once_us[0]), float(totals.pipeline.bottleneck_us[0])

    random = np.random.default_rng(9)
    for attribute, fields in FASTER.items():
        for field in fields:
            # Up from a slow one, so that what bounds the step changes on the way.
            factors = [0.1, *(0.1 * np.cumprod(random.uniform(1.05, 2.2, 6)))]
            if field == "bandwidth_utilisation":
                factors = [0.1, 0.4, 0.7, 1.0]
            slow = [takes(with_faster(module, attribute, field, factor)) for factor in factors]
            for before, after in itertools.pairwise(slow):
                assert all(b >= a * (1 - 1e-12) for b, a in zip(before, after, strict=True)), field


def random_point(random: np.random.Generator) -> tuple[StepEvaluator, dict[str, int]]:
    """A program on some layout, with lengths and a batch that need not fit anything."""

    def pick(values: Sequence[Any]) -> Any:
        return values[int(random.integers(len(values)))]

    model = pick(["llama-3.1-8b", "llama-3.1-70b", "deepseek-v3"])
    chip, topology, chips = pick([("sg2262", "p1-r1-b4-c32", 32), ("h100-sxm", "nvlink-8", 8)])
    tp, pp = pick([1, 2, 4, 8]), pick([1, 1, 2, 4])
    dp = max(1, chips // tp // pp) if random.random() < 0.7 else 1
    pp = min(pp, chips // tp // dp)
    phase = pick(["prefill", "decode"])
    base = {
        "deepseek-v3": {"prefill": "dsv3-prefill-ep32", "decode": "dsv3-decode-ep32"},
        "llama-3.1-8b": {"prefill": "llama-8b-prefill", "decode": "llama-8b-decode"},
        "llama-3.1-70b": {"prefill": "llama-70b-prefill-tp8", "decode": "llama-70b-decode-tp8"},
    }[model][phase]
    kv_len = int(2 ** random.uniform(4, 16))
    q_len = int(random.integers(1, kv_len + 1)) if phase == "prefill" else 1
    sp = bool(tp > 1 and random.random() < 0.4)
    options: dict[str, Any] = {"tp": tp, "pp": pp, "dp": dp, "sp": sp, "q_len": q_len, "kv_len": kv_len}
    if model == "deepseek-v3":
        options |= {"ep": tp * dp, "expert_capacity": pick(["balanced", "worst"])}
    if chip == "h100-sxm":
        options["quantization.weights"] = options["quantization.activations"] = pick(["bf16", "f8E4M3FN"])
    module = compiled(model, chip, topology, base, accounting=pick(["physical", "ds-tpu"]), **options)
    batch = int(2 ** random.uniform(0, 13)) + 1
    overlap = pick(list(Overlap))
    return StepEvaluator(module, pick(["chip", "core"]), overlap), {"batch": batch}


@pytest.mark.parametrize(
    "seeds",
    [pytest.param(range(16)), *(pytest.param(range(n, n + 50), marks=pytest.mark.long) for n in range(16, 566, 50))],
)
def test_n17_no_random_deployment_uses_more_than_there_is(seeds: range) -> None:
    for seed in seeds:
        evaluator, bindings = random_point(np.random.default_rng(seed))
        step = evaluator.step(bindings)
        figures = aggregate_step(evaluator, step)
        assert 0 < figures.mfu <= 1 + 1e-9, f"seed {seed}"
        assert 0 < figures.mbu <= 1 + 1e-9, f"seed {seed}"
        assert figures.time_us <= step.ops.total_us * (1 + 1e-9), f"seed {seed}: overlap never loses"


LLAMA_70B = ("llama-3.1-70b", "h100-sxm", "nvlink-8", "llama-70b-decode-tp8")


def requests(batch: int, isl: int, osl: int, **options: Any) -> RequestResult:
    """Requests of Llama-3.1-70B on 8 H100."""
    phases = (StepEvaluator(compiled(*LLAMA_70B, phase=phase, **options)) for phase in ("prefill", "decode"))
    return evaluate_request(*phases, batch=batch, isl=isl, osl=osl)


def test_n19_a_batch_that_pp_does_not_divide_is_not_one_micro_batch() -> None:
    """61 sequences took 5.20 s, 64 took 2.52 s."""
    found = {batch: requests(batch, 2048, 2, tp=2, pp=4) for batch in (60, 61, 63, 64, 65)}
    assert [r.decode.micro_batches for r in found.values() if r.decode is not None] == [4] * 5
    for fewer, more in itertools.pairwise(found.values()):
        assert fewer.ttft_us < more.ttft_us
        assert fewer.tpot_us is not None and more.tpot_us is not None and fewer.tpot_us <= more.tpot_us
    # 8192 tokens are 4 prompts: 15 chunks, and one of a single prompt behind them.
    assert [found[batch].prefill.micro_batches for batch in (60, 61, 64)] == [15, 16, 16]
    module = compiled(*LLAMA_70B, phase="prefill", tp=2, pp=4)
    full, last = (evaluate_module(module, bindings={"batch": n, "q_len": 2048, "kv_len": 2048}) for n in (4, 1))
    slowest = max(stage.time_us for stage in full.stages)
    behind = [sum(s.time_us for s in full.stages[: i + 1]) + sum(s.time_us for s in last.stages[i:]) for i in range(4)]
    assert found[61].ttft_us == pytest.approx(14 * slowest + max(behind), rel=1e-9)


def test_n19_parts_of_a_prompt_are_costed_with_the_keys_before_them() -> None:
    module = compiled(*LLAMA_70B, phase="prefill")
    parts = [(1024, 1024), (1024, 2048), (500, 2548)]
    each = [evaluate_module(module, bindings={"batch": 1, "q_len": q, "kv_len": kv}).total_us for q, kv in parts]
    found = requests(3, 2548, 1, prefill_chunk=1024)
    assert found.prefill.micro_batches == 9 and found.ttft_us == pytest.approx(3 * sum(each), rel=1e-12)
    whole = requests(3, 2548, 1, prefill_chunk=3 * 2548)
    assert found.prefill.flops == pytest.approx(whole.prefill.flops, rel=2e-3), "sampling needs one row per chunk"


def test_n20_one_answer_to_how_many_users_fit() -> None:
    """The analysis said 369; requests of the same length held the activations of all prompts: 75 of 80 GiB at 128."""
    decode = compiled(*LLAMA_70B)
    analysed = memory_footprint(decode, unreserved(1), {"kv_len": 4000 + 500 - 1}).largest_batch
    assert analysed == 369
    assert requests(370, 4000, 500).memory.largest_batch == analysed
    fits = requests(369, 4000, 500).memory
    assert fits.fits and fits.phase == "decode"
    caches = 80 * 128 * 4000 * 2 * 2  # a rank has 1 of 8 key heads: layers, head, prompt, K and V, bf16
    small = requests(128, 4000, 500)
    assert 128 * caches < small.memory_peak_bytes - dict(small.memory.parts)["weights"] < 1.25 * 128 * caches


def test_n23_a_batch_beyond_all_bounds_is_an_answer() -> None:
    """Bytes beyond 64 bits: exact where they are said, and no traceback."""
    found = requests(10**9, 10**6, 500, longer_context=True)
    assert not found.memory.fits and found.memory.largest_batch == 1
    assert dict(found.memory.parts)["states"] == 80 * 128 * (10**6 + 499) * 2 * 2 * 10**9 > 2**63
    assert found.decode is not None and 0 < found.decode.mbu <= 1 and 0 < found.prefill.mfu <= 1
