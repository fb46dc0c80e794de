"""The pass match-silicon: what one table covers, what it is asked, and that nothing else changes."""

from __future__ import annotations

from functools import cache

import pytest
from xdsl.dialects.builtin import ModuleOp

from pmc.backends.evaluate.feasibility import unreserved
from pmc.backends.evaluate.memory import FootprintPlan
from pmc.backends.evaluate.overlap import StepEvaluator
from pmc.backends.silicon.schema import KINDS
from pmc.compiler.config import load_chip, load_deployment, load_topology
from pmc.compiler.context import make_context
from pmc.compiler.driver import compile_model, load_model, module_text, parse_module
from pmc.dialects import layer, silicon
from pmc.dialects.errors import PmcError
from pmc.passes.match_silicon import MatchSiliconPass


@cache
def _program(model: str, deployment: str, fields: tuple[tuple[str, object], ...]) -> ModuleOp:
    chip, topology = load_chip("h100-sxm"), load_topology("nvlink-8")
    return compile_model(load_model(model), chip, topology, load_deployment(deployment, dict(fields)), "dist")


def matched(model: str, deployment: str, **fields: object) -> tuple[ModuleOp, ModuleOp]:
    """A program before and after the pass."""
    before = _program(model, deployment, tuple(sorted(fields.items())))
    after = before.clone()
    MatchSiliconPass(host="graph").apply(make_context(), after)
    after.verify()
    return before, after


def queries(module: ModuleOp) -> dict[str, silicon.Workload]:
    """What is asked, by path and table."""
    found = [op for op in module.walk() if isinstance(op, silicon.AnyQueryOp)]
    return {f"{op.path.data} {op.workload.data.table}": op.workload.data for op in found}


def sizes(workload: silicon.Workload, **symbols: int) -> dict[str, int]:
    return {name: int(size.evaluate(symbols)) for name, size in workload.sizes.items()}


def test_a_dense_layer_is_what_an_engine_launches() -> None:
    _, after = matched("llama-3.1-8b", "decode", tp=8, batch=64)
    found = queries(after)
    names = [name for name in found if name.startswith("blocks")]
    assert names == [
        "blocks.dense.gqa.norm memory", "blocks.dense.gqa.q_proj gemm", "blocks.dense.gqa.q_rope memory",
        "blocks.dense.gqa.attention generation_attention", "blocks.dense.gqa.o_proj gemm",
        "blocks.dense.gqa.o_proj custom_allreduce", "blocks.dense.gqa.residual memory",
        "blocks.dense.ffn.gate_proj gemm", "blocks.dense.ffn.silu_mul memory", "blocks.dense.ffn.down_proj gemm",
        "blocks.dense.ffn.down_proj custom_allreduce", "blocks.dense.ffn.residual memory",
    ]  # fmt: skip
    point = {"batch": 64, "q_len": 1, "kv_len": 4096}
    # 32 query and 8 key heads of 128 over 8 ranks: (4 + 1 + 1) x 128 columns, 2 x 14336 / 8 of gate and up.
    assert sizes(found["blocks.dense.gqa.q_proj gemm"], **point) == {"m": 64, "n": 768, "k": 4096}
    assert sizes(found["blocks.dense.ffn.gate_proj gemm"], **point) == {"m": 64, "n": 3584, "k": 4096}
    attention = found["blocks.dense.gqa.attention generation_attention"]
    assert sizes(attention, **point) == {
        "batch_size": 64, "isl": 1, "num_heads": 4, "num_key_value_heads": 1, "head_dim": 128, "beam_width": 1,
        "step": 4095, "window_size": 0,
    }  # fmt: skip
    reduced = found["blocks.dense.gqa.o_proj custom_allreduce"]
    assert sizes(reduced, **point) == {"num_gpus": 8, "message_size": 64 * 4096}
    # Rotations read and write 4 + 1 heads; the cache gets one row of keys, which are rotated already, and one of
    # values, which are read.
    assert sizes(found["blocks.dense.gqa.q_rope memory"], **point) == {"bytes": 64 * 2 * 128 * (4 + 1 + 1 + 4 + 1 + 1)}


def test_keys_are_those_of_the_tables() -> None:
    """Names of sizes and words of every query, in decode and prefill, of dense layers, MLA and experts."""
    programs = (
        matched("llama-3.1-8b", "prefill", tp=2)[1],
        matched("deepseek-v3", "decode-moe", dp=8, ep=8)[1],
        matched("deepseek-v3", "prefill-moe", tp=8, moe_tp=8, ep=1, dp=1)[1],
    )
    tables: set[str] = set()
    for program in programs:
        for workload in queries(program).values():
            tables.add(workload.table)
            if workload.table != silicon.MEMORY:
                kind = KINDS[workload.table]
                assert set(workload.sizes) == set(kind.axes), workload.table
                assert set(workload.words) == set(kind.categories), workload.table
    assert tables == {
        "gemm", "context_attention", "context_mla", "generation_mla", "mla_bmm", "moe", "nccl", "custom_allreduce",
        "memory",
    }  # fmt: skip


def test_experts_are_one_query_of_the_tokens_of_all_ranks() -> None:
    _, after = matched("deepseek-v3", "decode-moe", dp=8, ep=8, batch=20)
    found = queries(after)["blocks.moe.moe.experts.gate_proj moe"]
    # 20 sequences on 8 ranks are 3 on the fullest; the experts of all ranks get 20 tokens, not 24.
    assert sizes(found, batch=20, q_len=1) == {
        "num_tokens": 20, "hidden_size": 7168, "inter_size": 2048, "topk": 8, "num_experts": 256, "moe_tp_size": 1,
        "moe_ep_size": 8,
    }  # fmt: skip
    (query,) = [op for op in after.walk() if isinstance(op, silicon.QueryOp) and op.workload.data.table == "moe"]
    assert [op.name for op in query.covered if op.name != "layer.quantize"] == [
        "layer.grouped_matmul", "layer.grouped_matmul", "layer.silu_mul", "layer.grouped_matmul",
    ]  # fmt: skip


def test_experts_on_one_chip_are_covered_from_the_choice_to_the_sum() -> None:
    _, after = matched("deepseek-v3", "decode-moe", tp=8, moe_tp=8, ep=1, dp=1)
    (query,) = [op for op in after.walk() if isinstance(op, silicon.QueryOp) and op.workload.data.table == "moe"]
    names = [op.name for op in query.covered]
    assert names[:2] == ["layer.router_topk", "layer.dispatch"] and names[-1] == "layer.combine"
    assert sizes(query.workload.data, batch=20, q_len=1)["inter_size"] == 2048


@pytest.mark.parametrize("deployment", ["decode", "prefill"])
def test_a_program_with_queries_has_the_work_and_the_memory_of_the_one_before(deployment: str) -> None:
    before, after = matched("llama-3.1-8b", deployment, tp=2, batch=8)
    one, other = (StepEvaluator(module).step().ops for module in (before, after))
    assert other.total_flops == one.total_flops
    assert other.total_link_bytes == one.total_link_bytes
    assert 0.85 * one.total_bytes < other.total_bytes < one.total_bytes  # launches that are one read a row once
    plans = [
        FootprintPlan.of(module, unreserved(1)).at({"batch": 8, "q_len": 1, "kv_len": 64}) for module in (before, after)
    ]
    (mine,), (theirs,) = plans
    assert (theirs.weight_bytes, theirs.state_bytes) == (mine.weight_bytes, mine.state_bytes)
    assert theirs.activation_bytes <= 1.5 * mine.activation_bytes


def test_a_dump_is_read_back_as_it_was() -> None:
    _, after = matched("deepseek-v3", "decode-moe", dp=8, ep=8)
    text = module_text(after)
    assert module_text(parse_module(text, "dump.mlir")) == text


def test_decode_with_drafts_asks_no_decode_kernel() -> None:
    _, after = matched("deepseek-v3", "decode-moe", dp=8, ep=8, draft_tokens=1, accepted_length=1.5)
    assert not [name for name in queries(after) if "generation" in name]


def test_every_stage_has_a_host() -> None:
    _, after = matched("llama-3.1-8b", "decode", tp=2, pp=2)
    hosts = [op for op in after.walk() if isinstance(op, silicon.HostOp)]
    assert [around.name for op in hosts if (around := op.parent_op()) is not None] == ["dist.stage"] * 2


def test_twice_is_an_error() -> None:
    _, after = matched("llama-3.1-8b", "decode", tp=2)
    with pytest.raises(PmcError, match="has queries already"):
        MatchSiliconPass().apply(make_context(), after.clone())
    with pytest.raises(PmcError, match="host is 'gpu', must be graph, eager or none"):
        MatchSiliconPass(host="gpu").apply(make_context(), _program("llama-3.1-8b", "decode", (("tp", 2),)).clone())


def test_a_body_uses_what_its_operands_say() -> None:
    _, after = matched("llama-3.1-8b", "decode", tp=2)
    broken = after.clone()
    query = next(op for op in broken.walk() if isinstance(op, silicon.QueryOp) and len(op.values) > 1)
    query.operands = list(query.operands)[:1]
    with pytest.raises(Exception, match="the operands must be the values that the body uses from outside"):
        broken.verify()


def test_weights_are_named_before_the_query_that_reads_them() -> None:
    _, after = matched("llama-3.1-8b", "decode", tp=2)
    for query in [op for op in after.walk() if isinstance(op, silicon.QueryOp)]:
        assert not [op for op in query.covered if isinstance(op, layer.SourceOp)]
