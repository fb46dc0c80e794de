"""What the steps of a ring cost, term by term, and whole prefills over ranks of cp."""

from __future__ import annotations

from dataclasses import replace
from functools import cache
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from xdsl.dialects import test as test_dialect
from xdsl.dialects.builtin import ArrayAttr, BFloat16Type, IntegerAttr, ModuleOp, f32, i64
from xdsl.ir import Attribute

from pmc.backends.cost.chip import ChipCostModel
from pmc.backends.cost.core import CoreCostModel
from pmc.backends.cost.model import Target
from pmc.backends.cost.plan_search import PlanSearch, attention_candidates
from pmc.backends.cost.rates import CoreRates
from pmc.backends.evaluate import evaluate_module, sweep_module
from pmc.backends.evaluate.analyses.comm_pattern import comm_pattern
from pmc.backends.evaluate.engine import program_of
from pmc.backends.evaluate.feasibility import unreserved
from pmc.backends.evaluate.memory import memory_footprint
from pmc.backends.evaluate.overlap import StepEvaluator
from pmc.backends.evaluate.request import evaluate_request
from pmc.compiler.config import load_accounting, load_chip, load_deployment, load_topology
from pmc.compiler.driver import compile_model, load_model
from pmc.compiler.main import main
from pmc.dialects import layer
from pmc.dialects.analyses import attention_tiling as attentions
from pmc.dialects.analyses.attention_tiling import AttentionShape
from pmc.dialects.analyses.value_arrays import ProgramArrays
from pmc.dialects.arch import Chip
from pmc.dialects.errors import PmcError
from pmc.dialects.expr import Expr, expr
from pmc.dialects.tensor import TensorType

SG2262 = load_chip("sg2262")
TARGET = Target(SG2262, None, None)
BF16 = BFloat16Type()
PEAK, DRAM = 393.216e12, 8601.6e9  # bf16 FLOP/s, bytes/s
STEPS = 1.5e9 * 16 * 32  # vector steps per second of a core, bf16; half as many in FP32


@cache
def compiled(model: str = "llama-3.1-70b", deployment: str = "llama-70b-prefill-tp8", **changes: Any) -> ModuleOp:
    target = (SG2262, load_topology("p1-r1-b4-c32"), load_deployment(deployment, {"cp": 4, **changes}))
    return compile_model(load_model(model), *target, "dist")


# -- a step and the end of a ring -------------------------------------------------------------------------------


def value(element: Attribute, *dims: int | Expr) -> Any:
    return test_dialect.TestOp(result_types=[TensorType.of(tuple(map(expr, dims)), element)]).results[0]


def attention_step(
    batch: int | Expr, q_len: int | Expr, kv_len: int | Expr, first: bool, causal: bool = True, width: int = 8
) -> layer.AttentionStepOp:
    """8 query heads of 128 over 2 key heads."""
    rows = expr(batch) * expr(q_len)
    state = [value(f32, rows, columns) for columns in (width * 128, width, width)]
    keys = [value(BF16, batch, kv_len, 256) for _ in range(2)]
    properties: Any = {
        "qk_dims": ArrayAttr([IntegerAttr(128, i64)]), "v_dim": 128, "q_len": expr(q_len), "scale": 0.1,
        "causal": causal,
    }  # fmt: skip
    operands: list[Any] = [[value(BF16, rows, width * 128)], keys[:1], keys[1], [] if first else state]
    return layer.AttentionStepOp.make(operands, [v.type for v in state], "step", properties)


@pytest.mark.parametrize("first", [True, False])
def test_a_step_on_the_chip(first: bool) -> None:
    op = attention_step(2, 32, 64, first)
    state = 2 * 32 * (8 * 128 + 8 + 8) * 4
    assert op.state_bytes * 2 * 32 * 8 == state * (1 if first else 2), "per row: a query of a head"
    cost = ChipCostModel(TARGET).cost(op, {})
    assert cost is not None
    # Queries see 33 to 64 keys.
    assert cost.flops == 2 * sum(range(33, 65)) * 8 * 2 * (128 + 128)
    assert cost.bytes_written == state
    assert cost.bytes_read == 2 * (32 * 8 * 128 + 2 * 64 * 2 * 128) * 2 + (0 if first else state)
    assert cost.memory_s == pytest.approx((cost.bytes_read + state) / DRAM, rel=1e-12)
    assert cost.time_s == max(cost.memory_s, cost.flops / PEAK)


@pytest.mark.parametrize("accounting", ["physical", "ds-tpu"])
@pytest.mark.parametrize("first", [True, False])
def test_a_step_on_the_cores(first: bool, accounting: str) -> None:
    cost = CoreCostModel(TARGET, load_accounting(accounting)).cost(attention_step(2, 32, 64, first), {})
    assert cost is not None
    # 2 sequences x 2 key heads x (32 queries x 4 heads) rows, in blocks of 16; queries see 48.5 keys on average.
    assert 2 * 2 * 32 * 4 // 16 <= 64, "each block has a core of its own"
    efficiency = {"physical": 1.0, "ds-tpu": 0.9}[accounting]
    gemm = 2 * 16 * 48.5 * (128 + 128) / (PEAK / 64)
    softmax = 16 * (48.5 * 37 + 41) / (STEPS * {"physical": 1, "ds-tpu": 2}[accounting])
    compute = gemm / efficiency + softmax
    # The state moves whatever becomes of the output of attention.
    memory = (2 * (32 * 8 * 128 + 2 * 64 * 2 * 128) * 2 + 2 * 32 * 1040 * 4 * (1 if first else 2)) / DRAM
    assert cost.compute_s == pytest.approx(compute, rel=1e-12)
    assert cost.memory_s == pytest.approx(memory, rel=1e-12)
    assert cost.time_s == pytest.approx(max(compute, memory) + 0.2 * min(compute, memory), rel=1e-12)


def test_the_end_of_a_ring_divides_by_the_sum_of_each_row() -> None:
    operands = [value(f32, 4096, 8 * 128), value(f32, 4096, 8)]
    op = layer.AttentionFinishOp.make(operands, [TensorType.of((4096, 8 * 128), BF16)], "finish")
    cost = CoreCostModel(TARGET, load_accounting("physical")).cost(op, {})
    assert cost is not None
    # 4096 x 8 rows on 64 cores: a reciprocal of 31 steps, and 128 multiplications.
    compute, memory = 512 * (31 + 128) / (STEPS / 2), 4096 * (1024 * 4 + 8 * 4 + 1024 * 2) / DRAM
    assert (cost.flops, cost.compute_s) == (0, pytest.approx(compute, rel=1e-12))
    assert cost.time_s == pytest.approx(memory + 0.2 * compute, rel=1e-12) and memory > compute


@pytest.mark.parametrize("causal", [True, False])
@pytest.mark.parametrize("first", [True, False])
def test_arrays_of_lengths_give_what_their_points_give(first: bool, causal: bool) -> None:
    op = attention_step(expr("batch"), expr("q_len"), expr("kv_len"), first, causal)
    points = {
        "batch": np.array([1, 7]),
        "q_len": np.array([[1], [33], [4096]]),
        "kv_len": np.array([[[4096]], [[9999]]]),
    }
    for model in (ChipCostModel(TARGET), CoreCostModel(TARGET, load_accounting("physical"))):
        swept = model.cost(op, points)
        assert swept is not None
        for i, j, k in np.ndindex(2, 3, 2):
            batch, q_len, kv_len = int(points["batch"][k]), int(points["q_len"][j, 0]), int(points["kv_len"][i, 0, 0])
            point = model.cost(attention_step(batch, q_len, kv_len, first, causal), {})
            assert point is not None
            for name in ("time_s", "compute_s", "memory_s", "flops", "bytes_read", "bytes_written"):
                found = np.broadcast_to(getattr(swept, name), (2, 3, 2))[i, j, k]
                assert float(found) == pytest.approx(float(getattr(point, name)), rel=1e-12)


# -- tiles of a step --------------------------------------------------------------------------------------------

OWN = AttentionShape(64, 2, 8, 1, 4096, (128,), 128, None, False, 16, (16,), 16, 16, 0, 0, "bf16")
OTHER = replace(OWN, state_reads=1)
WHOLE = replace(OWN, out_bits=16)
"""64 sequences of one query; 8 heads of 2 key heads each."""
STATE = 4 * (128 + 2)
"""Accumulator, maximum and sum of a row in FP32."""


def plans(target: Chip = SG2262, accounting: str = "physical") -> PlanSearch:
    return PlanSearch(CoreRates(target, load_accounting(accounting)))


@pytest.mark.parametrize("accounting", ["physical", "ds-tpu"])
@pytest.mark.parametrize("q_len", [1, 96])
def test_the_state_of_every_row_is_traffic_under_every_plan(q_len: int, accounting: str) -> None:
    search = plans(accounting=accounting)
    own, other, whole = (replace(shape, q_len=q_len, causal=q_len > 1) for shape in (OWN, OTHER, WHOLE))
    tilings = attention_candidates(own, search.rates)
    assert len(tilings) > 10 and (tilings.cores_s == 1).all()
    of_own, of_other, of_whole = (search.attention_resources(shape, tilings) for shape in (own, other, whole))
    rows = 64 * 2 * 8 * q_len
    assert (of_own.dram_written == rows * STATE).all() and (of_whole.dram_written == rows * 2 * 128).all()
    assert (of_own.dram_read == of_whole.dram_read).all()
    # A step after the first reads the state too: in three loads, with each block of rows, by the core that has it.
    assert (of_other.dram_read - of_own.dram_read == rows * STATE).all()
    blocks = of_other.gdma_commands - of_own.gdma_commands
    own_rows = of_other.gdma_bytes - of_own.gdma_bytes
    most = blocks // 3 * np.minimum(tilings.tile_q, q_len) * tilings.tile_g
    assert (blocks % 3 == 0).all() and (own_rows % STATE == 0).all()
    if q_len == 1:
        assert (own_rows == most * STATE).all(), "all blocks have the same rows"
    assert (own_rows * of_own.cores >= rows * STATE).all(), "the busiest core has no less than the mean"
    # It has no state to fill, 130 elements of every row; the matrix unit does the same.
    assert of_own.tiu_steps.keys() == of_other.tiu_steps.keys()
    assert all((of_own.tiu_steps[t] == of_other.tiu_steps[t]).all() for t in of_own.tiu_steps)
    assert (of_own.vec_steps == of_other.vec_steps).all()
    assert (of_other.vec_end_steps == 0).all() and (of_own.vec_end_steps > 0).all()


def test_the_best_plan_of_a_step_moves_the_bytes_of_its_op() -> None:
    search = plans()
    plan = search.attention(OTHER)
    assert plan.core_counts[0] == 64, "a core has two of the 128 key heads and reads their keys once"
    r = search.attention_resources(OTHER, attentions.tiling_of(plan))
    rows = 64 * 16
    assert r.dram_read[0] == rows * (128 * 2 + STATE) + 2 * 64 * 2 * 4096 * 128 * 2
    assert r.dram_written[0] == rows * STATE
    time = search.attention_time(r)
    dram = float(r.dram_read[0] + r.dram_written[0]) / DRAM
    # Per core a 64th of the bytes, and the start-up of each load and store.
    received = dram * DRAM / 64 / (149.4e9 * 0.9) + float(r.gdma_commands[0]) * 100e-9
    assert time.engines.dram_s[0] == pytest.approx(dram, rel=1e-12)
    assert time.engines.gdma_s[0] == pytest.approx(received, rel=1e-12)
    compute, memory = time.compute_s[0], max(dram, received)
    assert time.memory_s[0] == pytest.approx(memory, rel=1e-12)
    assert time.total_s[0] == pytest.approx(max(compute, memory) + 0.2 * min(compute, memory), rel=1e-12)


def changed(lmem: int | None = None, bandwidth: float | None = None) -> Chip:
    data = SG2262.model_dump()
    if lmem is not None:
        data["command_level"]["lmem"]["bytes_per_core"] = lmem
    if bandwidth is not None:
        data["dram"]["bandwidth_gb_per_s"] = bandwidth
    return Chip.model_validate(data)


@settings(max_examples=25, deadline=None)
@given(
    st.integers(1, 8), st.sampled_from([(1, 8), (8, 4)]), st.integers(1, 3000), st.integers(0, 3000), st.booleans(),
    st.booleans(),
)  # fmt: skip
def test_more_lmem_or_bandwidth_never_makes_a_step_slower(
    sequences: int, heads: tuple[int, int], q_len: int, past: int, causal: bool, first: bool
) -> None:
    shape = AttentionShape(
        sequences, *heads, q_len, q_len + past, (128,), 128, None, causal, 16, (16,), 16, 16, 0, int(not first),
        "bf16",
    )  # fmt: skip

    def seconds(target: Chip, accounting: str = "physical") -> float:
        search = plans(target, accounting)
        r = search.attention_resources(shape, attentions.tiling_of(search.attention(shape)))
        return float(search.attention_time(r).total_s[0])

    by_lmem = [seconds(changed(lmem=2**bits)) for bits in (18, 19, 20, 21, 22)]
    by_bandwidth = [seconds(changed(bandwidth=gb)) for gb in (500.0, 2000.0, 8601.6, 30000.0)]
    for slower_first in (by_lmem, by_bandwidth):
        assert slower_first == sorted(slower_first, reverse=True)
    # Few cores may not draw more than the slowest DRAM gives; where that is not charged, any DRAM is felt.
    assert seconds(changed(bandwidth=500.0), "ds-tpu") > seconds(changed(bandwidth=30000.0), "ds-tpu")


# -- a prefill over 32 chips ------------------------------------------------------------------------------------


@pytest.mark.parametrize("level", ["chip", "core", "tile"])
def test_a_prefill_of_llama_70b_on_32_chips(level: str) -> None:
    result = evaluate_module(compiled(), level)
    assert result.ranks == 32 and result.topology == "p1-r1-b4-c32"
    rows = [(s.op, s.count, s.link_bytes // s.count) for s in result.steps if s.path == "blocks.dense.gqa.attention"]
    block = 1024 * 128 * 2  # the keys or values of a quarter of 4096 tokens and of one of 8 heads, bf16
    assert rows == [
        ("layer.attention_step", 80, 0), ("dist.ring_exchange", 240, 2 * block),
        ("layer.attention_step", 240, 0), ("layer.attention_finish", 80, 0),
    ]  # fmt: skip
    first, exchange, other, _ = (s for s in result.steps if s.path == "blocks.dense.gqa.attention")
    assert other.flops == 3 * first.flops
    assert other.bytes_read + other.bytes_written - 3 * (first.bytes_read + first.bytes_written) == (
        240 * 1024 * 8 * 4 * (128 + 2)
    ), "a step after the first reads its state too"
    # The first step fills the state of 1024 x 8 rows on 64 cores: 128 columns, and two of whole 16 lanes, in FP32.
    fill_us = 1024 * 8 / 64 * (128 + 2 * 16) / (STEPS / 2) * 1e6 if level == "tile" else 0
    assert other.compute_us == pytest.approx(3 * (first.compute_us - 80 * fill_us), rel=1e-9)
    if level == "chip":
        assert exchange.time_us == pytest.approx(240 * 2 * block / 450e9 * 1e6, rel=1e-12)
    else:
        # One message over the switch between boards: 2 x 0.35 + 0.15 + 0.01 + 0.05 + 2 x 0.04, and 1.025 us.
        assert exchange.time_us == pytest.approx(240 * (2 * block / (450e9 * 0.95) * 1e6 + 0.99 + 1.025), rel=1e-12)


@pytest.mark.parametrize("level", ["chip", "core", "tile"])
def test_four_times_the_chips_are_at_most_four_times_as_fast(level: str) -> None:
    one, four = (evaluate_module(compiled(cp=cp), level).total_us for cp in (1, 4))
    assert one / 4 < four < one / 3


def test_context_parallelism_splits_the_cache_and_not_the_weights() -> None:
    stages = {cp: memory_footprint(compiled(cp=cp), unreserved(1)).stages[0] for cp in (1, 2, 4)}
    assert len({stage.weight_bytes for stage in stages.values()}) == 1
    # 80 layers x keys and values x 4096 tokens x one head of 128 x 2 bytes.
    assert {cp: stage.state_bytes * cp for cp, stage in stages.items()} == dict.fromkeys(stages, 80 * 2 * 4096 * 256)
    assert stages[1].activation_bytes > 3 * stages[4].activation_bytes


@pytest.mark.parametrize(("phase", "batch"), [("decode", 2048), ("prefill", 32)])
def test_latents_are_split_by_sequences_and_positions(phase: str, batch: int) -> None:
    module = compiled("deepseek-v3", f"dsv3-{phase}-ep32", tp=2, dp=4, q_len=4)
    (stage,) = memory_footprint(module, unreserved(1)).stages
    # 61 layers of 512 + 64 bytes; a quarter of the sequences, a quarter of the 4096 tokens of each.
    assert stage.states_by_kind == {"latent": 61 * 576 * (batch // 4) * (4096 // 4)}


def test_a_step_has_two_pairs_of_blocks_and_one_state_in_memory() -> None:
    program = program_of(compiled())
    assert isinstance(program, layer.ProgramOp)
    arrays = ProgramArrays.of(program)
    (stage,) = arrays.stages
    point = {"batch": 1, "q_len": 4096, "kv_len": 4096}
    sizes = [int(array.type.bytes.evaluate(point)) for array in (*arrays.inputs, *stage.lifetimes)]
    alive = [sizes[0] + sum(sizes[1 + i] for i in numbers) for numbers in stage.alive]
    found = [
        (step.op, size)
        for step, size in zip(stage.steps, alive, strict=True)
        if step.path == "blocks.dense.gqa.attention"
    ]
    # 1024 tokens of a rank, 8 heads, 1 key head: token numbers and the residual stream stay through the layer.
    stay, query, block, row_sum = 1024 * 4 + 1024 * 8192 * 2, 1024 * 8 * 128 * 2, 1024 * 128 * 2, 1024 * 8 * 4
    acc = 1024 * 8 * 128 * 4
    state = acc + 2 * row_sum
    # The own blocks are in the cache; what goes around starts as a copy of them.  A step receives beside what it sent,
    # updates the state where it is, and hands over what came by.
    assert found == [
        ("layer.attention_step", stay + query + state),
        ("copy", stay + query + state + block),
        ("copy", stay + query + state + 2 * block),
        ("dist.collective_group", stay + query + state + 4 * block),
        ("layer.attention_step", stay + query + state + 4 * block),
        ("copy", stay + query + state + 4 * block),
        ("copy", stay + query + state + 3 * block),
        ("layer.attention_finish", stay + acc + row_sum + 1024 * 8 * 128 * 2),
    ]


@pytest.mark.parametrize(
    ("deployment", "changes", "widths"),
    [
        # Absorbed: the FP8 latent, both key and value, and the rotary key.
        ("dsv3-decode-ep32", {"q_len": 4, "ring_exchange": "expanded"}, (512, 64)),
        ("dsv3-decode-ep32", {"q_len": 4, "ring_exchange": "smallest"}, (512, 64)),
        # Expanded: bf16 keys and values of 64 heads of 128 each; or the latent that they come from.
        ("dsv3-prefill-ep32", {"ring_exchange": "expanded"}, (2 * 64 * 128, 64, 2 * 64 * 128)),
        ("dsv3-prefill-ep32", {"ring_exchange": "smallest"}, (512, 64)),
    ],
)
def test_what_goes_around_in_mla(deployment: str, changes: dict[str, Any], widths: tuple[int, ...]) -> None:
    module = compiled("deepseek-v3", deployment, tp=2, dp=4, **changes)
    ring = [c for c in comm_pattern(module).collectives if c.kind == "ring_exchange"]
    positions = load_deployment(deployment).batch // 4 * 4096 // 4
    expected = [(layers * 3, positions * sum(widths)) for layers in (3, 58)]
    assert [(c.count, c.bytes_per_rank) for c in ring] == expected
    step = next(op for op in module.walk() if isinstance(op, layer.AttentionStepOp) and op.state)
    assert (step.k[0] is step.v) == (deployment == "dsv3-decode-ep32")


# -- what cp cannot do ------------------------------------------------------------------------------------------


@pytest.mark.parametrize("level", ["chip", "core", "tile"])
@pytest.mark.parametrize("symbol", ["q_len", "kv_len"])
def test_a_length_that_cp_does_not_divide_is_named(symbol: str, level: str) -> None:
    message = f"{symbol} = 4095 is not a multiple of cp = 4, which splits every sequence evenly"
    bindings = {"q_len": 4, symbol: 4095}
    for look in (
        lambda: evaluate_module(compiled(), level, bindings),
        lambda: StepEvaluator(compiled(), level).step(bindings),
        lambda: comm_pattern(compiled(), bindings),
        lambda: memory_footprint(compiled(), unreserved(1), bindings),
    ):
        with pytest.raises(PmcError) as caught:
            look()
        assert str(caught.value) == message
    assert evaluate_module(compiled(cp=1), "chip", bindings).total_us > 0


def test_the_first_uneven_length_of_a_sweep_is_named() -> None:
    for symbol in ("q_len", "kv_len"):
        lengths = np.array([[4096, 8192], [4097, 4098]])
        with pytest.raises(PmcError) as caught:
            sweep_module(compiled(), {"q_len": 4, symbol: lengths})
        assert str(caught.value) == f"{symbol} = 4097 is not a multiple of cp = 4, which splits every sequence evenly"
    assert sweep_module(compiled(), {"kv_len": np.array([4096, 8192])}).time_us.shape == (2,)


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"q_len": 4094}, "q_len (4094) must be a multiple of cp (4), which deals out its tokens"),
        ({"kv_len": 4098}, "kv_len (4098) must be a multiple of cp (4), which deals out its tokens"),
        ({"cp": 3}, "q_len (4096) must be a multiple of cp (3), which deals out its tokens"),
        (
            {"cp": 0},
            "cp: expected integer > 0 (Context parallelism: every sequence dealt out to ranks; ",
        ),
        ({"cp": 8}, "the deployment needs tp*cp*dp*pp = 8*8*1*1 = 64 chips, topology p1-r1-b4-c32 has 32"),
        ({"ep": 2}, "ep = 2, moe_tp = 1, moe_dp = 1, but the model has no experts"),
    ],
)
def test_deployments_that_are_refused(changes: dict[str, int], message: str) -> None:
    with pytest.raises(PmcError) as caught:
        compiled(**changes)
    assert message in str(caught.value) and "\n" not in str(caught.value)


def test_experts_share_the_ranks_of_cp() -> None:
    with pytest.raises(
        PmcError, match=r"dp\*cp\*tp = 4\*4\*2 = 32 must equal moe_tp\*ep\*moe_dp = 1\*8\*1 = 8: attention and"
    ):
        compiled("deepseek-v3", "dsv3-prefill-ep32", tp=2, dp=4, ep=8)


def test_a_request_is_refused(capsys: pytest.CaptureFixture[str]) -> None:
    target = ["--chip", "sg2262", "--topology", "p1-r1-b4-c32", "--deployment", "llama-70b-prefill-tp8-cp4"]
    assert main(["evaluate", "llama-3.1-70b", *target, "--isl", "4096", "--osl", "16"]) == 2
    captured = capsys.readouterr()
    assert captured.out == "" and captured.err == (
        "pmc: error: a request decodes one token of a sequence at a time, which cp = 4 cannot deal out: "
        "evaluate its prefill alone (phase prefill), or requests with cp = 1\n"
    )
    # Programs of another origin are refused where the first token is decoded.
    prefill, decode = (StepEvaluator(compiled(deployment=f"llama-70b-{d}-tp8", q_len=4)) for d in ("prefill", "decode"))
    with pytest.raises(PmcError, match=r"^q_len = 1 is not a multiple of cp = 4, which splits every sequence evenly$"):
        evaluate_request(prefill, decode, batch=64, isl=4096, osl=16)
