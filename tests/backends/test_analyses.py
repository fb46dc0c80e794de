"""Breakdown, communication pattern, price and comparison: sums that must agree, and numbers worked out by hand."""

from __future__ import annotations

import csv
import io
import json
from dataclasses import replace
from typing import Any

import pytest
from xdsl.dialects.builtin import ModuleOp

from pmc.backends.evaluate import EngineResult, evaluate_module
from pmc.backends.evaluate.analyses.comm_pattern import comm_pattern
from pmc.backends.evaluate.analyses.compare import compare
from pmc.backends.evaluate.analyses.cost_per_token import CostOptions, cost_per_token
from pmc.backends.evaluate.analyses.link_traffic import link_traffic
from pmc.backends.evaluate.analyses.ops_breakdown import ops_breakdown
from pmc.backends.evaluate.analyses.table import Analysis
from pmc.compiler.config import load_chip, load_deployment, load_topology
from pmc.compiler.driver import compile_model, load_model
from pmc.dialects import layer
from pmc.dialects.dist import MeshAttr
from pmc.dialects.errors import PmcError

MIXED: dict[str, Any] = {"tp": 2, "dp": 8, "ep": 4, "moe_tp": 4, "pp": 2}


def compiled(model: str, deployment: str, **changes: Any) -> ModuleOp:
    target = (load_chip("sg2262"), load_topology("p1-r1-b4-c32"), load_deployment(deployment, changes))
    return compile_model(load_model(model), *target, "dist")


# -- breakdown --------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("level", ["chip", "core"])
def test_every_grouping_adds_up_to_the_evaluation(level: str) -> None:
    module = compiled("deepseek-v3", "dsv3-decode-ep32", **MIXED)
    result = evaluate_module(module, level)
    breakdown = ops_breakdown(module, result)
    for parts in (breakdown.by_op, breakdown.by_block, breakdown.by_unit):
        assert sum(p.flops for p in parts) == result.total_flops
        assert sum(p.bytes_read + p.bytes_written for p in parts) == result.total_bytes
        assert sum(p.link_bytes for p in parts) == result.total_link_bytes
        assert sum(p.count for p in parts) == sum(step.count for step in result.steps)
        assert sum(p.time_us for p in parts) == pytest.approx(result.total_us, rel=1e-12)
        assert [p.time_us for p in parts] == sorted((p.time_us for p in parts), reverse=True)


def test_groups_are_kinds_blocks_and_units() -> None:
    module = compiled("deepseek-v3", "dsv3-decode-ep32")
    result = evaluate_module(module)
    breakdown = ops_breakdown(module, result, depth=2)
    assert {p.name: p.count for p in breakdown.by_op}["layer.attention"] == 61
    assert {p.name for p in breakdown.by_block if p.name.startswith("blocks")} == {"blocks.dense", "blocks.moe"}
    units = {p.name: p for p in breakdown.by_unit}
    assert list(sorted(units)) == ["data movement", "matrix", "network", "vector"]
    matrix_ops = ("layer.matmul", "layer.grouped_matmul", "layer.head_matmul", "layer.attention")
    assert units["matrix"].flops == sum(s.flops for s in result.steps if s.op in matrix_ops)
    assert units["network"].count == 2 * 58 and units["network"].link_bytes == result.total_link_bytes
    assert units["data movement"].flops == 0


def test_a_depth_below_one_is_refused() -> None:
    module = compiled("llama-3.1-8b", "llama-8b-decode")
    with pytest.raises(PmcError, match=r"^depth is 0, must be at least 1$"):
        ops_breakdown(module, evaluate_module(module), 0)


# -- communication ----------------------------------------------------------------------------------------------


def test_the_pattern_of_tensor_parallel_llama() -> None:
    pattern = comm_pattern(compiled("llama-3.1-70b", "llama-70b-decode-tp8"))
    rows = [(c.path, c.kind, c.axis, c.group_size, c.groups, c.level, c.count) for c in pattern.collectives]
    assert rows == [
        ("embed", "all_reduce", "tp", 8, 1, "c2c", 1),
        ("blocks.dense.gqa.o_proj", "all_reduce", "tp", 8, 1, "c2c", 80),
        ("blocks.dense.ffn.down_proj", "all_reduce", "tp", 8, 1, "c2c", 80),
        ("lm_head.proj", "all_gather", "tp", 8, 1, "c2c", 1),
    ]
    # 64 tokens of 8192 bf16; 2 (n-1)/n of it per rank.
    assert pattern.collectives[1].bytes_per_rank == 64 * 8192 * 2 * 2 * 7 // 8
    assert pattern.collectives[1].total_bytes == 8 * 80 * 64 * 8192 * 2 * 2 * 7 // 8


def test_the_pattern_of_experts_and_stages() -> None:
    pattern = comm_pattern(compiled("deepseek-v3", "dsv3-decode-ep32", **MIXED))
    found = {(c.stage, c.kind, c.axis): (c.group_size, c.groups, c.level, c.count) for c in pattern.collectives}
    # 61 layers, 3 of them dense, are cut after 31: 28 and 30 layers of experts, each with every collective once.
    in_layers = [(c.stage, c.count) for c in pattern.collectives if c.path.startswith("blocks.moe.")]
    assert sorted(in_layers) == [(0, 28)] * 7 + [(1, 30)] * 7
    # 16 ranks per stage: 4 x 4 for the experts, 8 groups of 2 for tp; moe_tp groups are 4 neighbours, ep strides over 2
    # boards.
    assert found[0, "dispatch", "ep"] == (4, 4, "b2b", 28) and found[1, "combine", "ep"] == (4, 4, "b2b", 30)
    assert found[0, "reduce_scatter", "moe_tp"] == (4, 4, "c2c", 28)
    assert found[1, "all_gather", "tp"][:2] == (2, 8)
    sends = [c for c in pattern.collectives if c.kind == "send"]
    assert [(c.stage, c.peer, c.group_size, c.groups, c.senders) for c in sends] == [(0, 1, 2, 16, 16)]
    assert sends[0].total_bytes == 16 * 2048 // 8 * 7168 * 2
    assert pattern.total_bytes == sum(c.total_bytes for c in pattern.collectives)


def test_the_pattern_of_a_ring() -> None:
    pattern = comm_pattern(compiled("llama-3.1-70b", "llama-70b-prefill-tp8", cp=4))
    rings = [c for c in pattern.collectives if c.kind == "ring_exchange"]
    # Keys and values: of 4096/4 tokens, a rank of tp has one head of 128 in bf16; 3 exchanges of both in each of 80
    # layers. The four ranks of a group are on the four boards.
    rows = [(c.path, c.axis, c.group_size, c.groups, c.level, c.count, c.bytes_per_rank) for c in rings]
    assert rows == [("blocks.dense.gqa.attention", "cp", 4, 8, "b2b", 3 * 80, 2 * 1024 * 128 * 2)]
    assert sum(c.total_bytes for c in rings) == 32 * 2 * 3 * 80 * 1024 * 128 * 2
    assert {c.kind for c in pattern.collectives if c.axis == "cp"} == {"ring_exchange", "all_gather"}
    (last,) = [c for c in pattern.collectives if c.axis == "cp" and c.kind == "all_gather"]
    assert (last.path, last.count, last.bytes_per_rank) == ("lm_head.last_token.of_rank", 1, 3 * 8192 * 2)


@pytest.mark.parametrize("cp", [1, 2, 4, 8])
def test_all_keys_and_values_go_around_all_ranks(cp: int) -> None:
    pattern = comm_pattern(compiled("llama-3.1-70b", "llama-70b-prefill-tp8", tp=2, cp=cp, batch=3))
    rings = [c for c in pattern.collectives if c.kind == "ring_exchange"]
    # Every block is sent cp - 1 times: 80 layers, K and V, 3 sequences of 4096 tokens, 8 heads of 128 in bf16.
    assert sum(c.total_bytes for c in rings) == (cp - 1) * 80 * 2 * 3 * 4096 * 8 * 128 * 2


@pytest.mark.parametrize("changes", [MIXED, {"tp": 2, "cp": 4, "dp": 2, "ep": 16, "pp": 2, "q_len": 4}])
def test_the_pattern_agrees_with_the_evaluation(changes: dict[str, Any]) -> None:
    module = compiled("deepseek-v3", "dsv3-decode-ep32", **changes)
    result, pattern = evaluate_module(module), comm_pattern(module)
    assert sum(c.bytes_per_rank * c.count for c in pattern.collectives) == result.total_link_bytes


def test_a_single_chip_talks_to_nobody() -> None:
    pattern = comm_pattern(compiled("llama-3.1-8b", "llama-8b-decode"))
    assert pattern.collectives == () and pattern.total_bytes == 0 and pattern.to_rows() == []


# -- price ------------------------------------------------------------------------------------------------------

PRICES = CostOptions(dollars_per_chip_hour=3.6, watts_per_chip=500.0, dollars_per_kwh=0.2)


def test_the_price_of_a_million_tokens() -> None:
    # 8 chips at (3.6 $ + 0.5 kW x 0.2 $) per hour; 64 tokens in 10 ms are 6400 per second.
    cost = cost_per_token("x", 10_000.0, 64, 8, PRICES)
    assert cost.tokens_per_s == pytest.approx(6400.0)
    assert cost.dollars_per_million_tokens == pytest.approx(8 * 3.7 / 3600 / 6400 * 1e6, rel=1e-12)
    assert cost.joules_per_token == pytest.approx(8 * 500 / 6400)
    plain = cost_per_token("x", 10_000.0, 64, 8, CostOptions(3.6, None, None))
    assert plain.joules_per_token is None
    assert plain.dollars_per_million_tokens == pytest.approx(8 * 3.6 / 3600 / 6400 * 1e6, rel=1e-12)
    assert cost_per_token("x", 20_000.0, 64, 8, PRICES).dollars_per_million_tokens == pytest.approx(
        2 * cost.dollars_per_million_tokens
    )


@pytest.mark.parametrize(
    ("prices", "message"),
    [
        ((-1.0, None, None), "dollars_per_chip_hour is -1.0, must be a finite number of at least 0"),
        ((float("nan"), None, None), "dollars_per_chip_hour is nan, must be a finite number of at least 0"),
        ((1.0, 500.0, None), "dollars_per_kwh must be given too: energy is watts_per_chip times dollars_per_kwh"),
        ((1.0, None, 0.2), "watts_per_chip must be given too: energy is watts_per_chip times dollars_per_kwh"),
    ],
)
def test_prices_out_of_range_are_named(prices: tuple[float, float | None, float | None], message: str) -> None:
    with pytest.raises(PmcError) as caught:
        CostOptions(*prices)
    assert str(caught.value) == message


@pytest.mark.parametrize(("step_us", "tokens", "chips"), [(0.0, 1, 1), (1.0, 0, 1), (1.0, 1, 0)])
def test_a_step_of_nothing_has_no_price(step_us: float, tokens: int, chips: int) -> None:
    with pytest.raises(PmcError, match=r" is 0(\.0)?, must be greater than 0$"):
        cost_per_token("x", step_us, tokens, chips, PRICES)


# -- comparison -------------------------------------------------------------------------------------------------


def evaluated(model: str, deployment: str, **changes: Any) -> EngineResult:
    return evaluate_module(compiled(model, deployment, **changes))


def test_a_program_equals_itself() -> None:
    result = evaluated("deepseek-v3", "dsv3-decode-ep32")
    comparison = compare(result, result, ("x", "x"))
    assert comparison.ratio == 1.0
    assert {op.found_in for op in comparison.ops} == {"both"}
    assert all(op.ratio == 1.0 and op.delta_us == 0 for op in comparison.ops)


def test_sides_add_up_and_ops_of_one_side_are_kept() -> None:
    a = evaluated("deepseek-v3", "dsv3-decode-ep32")
    b = evaluated("deepseek-v3", "dsv3-decode-ep32", **MIXED)
    comparison = compare(a, b, ("a", "b"))
    for name, result in (("a", a), ("b", b)):
        sides = [side for op in comparison.ops if (side := getattr(op, name)) is not None]
        assert sum(side.time_us for side in sides) == pytest.approx(result.total_us, rel=1e-12)
        assert sum(side.flops for side in sides) == result.total_flops
        assert sum(side.bytes for side in sides) == result.total_bytes
    assert sum(op.delta_us for op in comparison.ops) == pytest.approx(b.total_us - a.total_us, rel=1e-9)
    alone = {(op.path, op.op) for op in comparison.ops if op.found_in == "b"}
    assert ("blocks.moe.mla.o_proj", "dist.all_reduce") in alone and ("blocks.moe", "dist.send") in alone
    assert not [op for op in comparison.ops if op.found_in == "a"]
    row = next(r for r in comparison.to_rows() if r["op"] == "dist.send")
    assert (row["a_time_us"], row["ratio"], row["found_in"]) == (None, None, "b")


def test_rows_stand_in_program_order() -> None:
    a, b = evaluated("deepseek-v3", "dsv3-decode-ep32"), evaluated("deepseek-v3", "dsv3-decode-ep32", **MIXED)
    keys = [(op.path, op.op) for op in compare(a, b, ("a", "b")).ops]
    assert [k for k in keys if k in {(s.path, s.op) for s in a.steps}] == list(
        dict.fromkeys((s.path, s.op) for s in a.steps)
    )
    assert (
        keys.index(("blocks.moe.mla.o_proj", "dist.all_reduce"))
        == keys.index(("blocks.moe.mla.o_proj", "layer.matmul")) + 1
    )
    other = compare(b, a, ("b", "a"))
    assert sorted(keys) == sorted((op.path, op.op) for op in other.ops)
    assert other.ratio == pytest.approx(a.total_us / b.total_us)


def test_disjoint_programs_have_no_op_in_common() -> None:
    a, b = evaluated("llama-3.1-8b", "llama-8b-decode"), evaluated("deepseek-v3", "dsv3-decode-ep32")
    renamed = replace(a, steps=tuple(replace(step, path=f"other.{step.path}") for step in a.steps))
    comparison = compare(renamed, b, ("a", "b"))
    assert (
        len(comparison.ops) == len(comparison.to_rows()) == len({(s.path, s.op) for r in (renamed, b) for s in r.steps})
    )
    assert all(op.ratio is None for op in comparison.ops)


# -- FLOPs do not depend on the split ---------------------------------------------------------------------------

REPLICATED_LATENTS = (
    "mla.norm", "mla.norm.quantize", "mla.q_a_proj", "mla.q_a_layernorm", "mla.q_a_layernorm.quantize",
    "mla.kv_a_proj", "mla.kv_a_layernorm", "mla.kv_a_layernorm.quantize", "mla.k_rope", "mla.k_rope.quantize",
)  # fmt: skip
"""The latents of MLA have no heads to split: every tp rank computes them, and the one rotary key head."""
RESIDUAL_STREAM = (
    "mla.residual", "ffn.norm", "ffn.norm.quantize", "ffn.residual", "moe.norm", "moe.norm.quantize", "moe.residual",
    "gqa.norm", "gqa.residual", "lm_head.norm", "lm_head.norm.quantize",
)  # fmt: skip
"""Without sp every tp rank holds all tokens between blocks."""
ROUTER = ("moe.router", "moe.topk")
"""Without sp every tp rank routes all its tokens."""
PARTIAL_EXPERTS = ("moe.combine", "moe.add_shared")
"""Experts split over the tp ranks give partial sums, which every rank adds up for all its tokens."""
ROTARY_KEY = ("mla.k_rope", "mla.k_rope.quantize")
"""With sp the latents are computed on parts of the tokens, and gathered before the rotary embedding."""
LAST_TOKEN = ("lm_head.norm", "lm_head.norm.quantize")
"""With sp the last tokens of prefill are taken from gathered rows, on every tp rank."""
SHARED_KEY_HEADS = ("gqa.k_proj", "gqa.v_proj", "gqa.k_rope")
"""With more tp ranks than key heads, neighbours compute the same head."""

NO_SP = (*REPLICATED_LATENTS, *RESIDUAL_STREAM, *ROUTER)


def flops_of_all_ranks(model: str, deployment: str, **changes: Any) -> dict[str, int]:
    module = compiled(model, deployment, **changes)
    mesh = module.attributes["dist.mesh"]
    assert isinstance(mesh, MeshAttr)
    result = evaluate_module(module)
    flops: dict[str, int] = {}
    for step in result.steps:
        flops[step.path] = flops.get(step.path, 0) + step.flops * (mesh.data.ranks // len(result.stages))
    return {path: count for path, count in flops.items() if count}


@pytest.mark.parametrize(
    ("model", "deployment", "split", "recomputed"),
    [
        ("llama-3.1-70b", "llama-70b-decode-tp8", {"tp": 1, "dp": 8, "pp": 4}, {}),
        ("llama-3.1-70b", "llama-70b-decode-tp8", {"tp": 8}, {RESIDUAL_STREAM: 8}),
        ("llama-3.1-70b", "llama-70b-decode-tp8", {"tp": 4, "dp": 2, "pp": 4}, {RESIDUAL_STREAM: 4}),
        ("llama-3.1-70b", "llama-70b-decode-tp8", {"tp": 16}, {RESIDUAL_STREAM: 16, SHARED_KEY_HEADS: 2}),
        ("llama-3.1-70b", "llama-70b-decode-tp8", {"tp": 4, "dp": 2, "pp": 2, "sp": True}, {}),
        ("llama-3.1-70b", "llama-70b-prefill-tp8", {"tp": 4, "sp": True}, {LAST_TOKEN: 4}),
        ("deepseek-v3", "dsv3-decode-ep32", {}, {}),
        ("deepseek-v3", "dsv3-decode-ep32", {"dp": 16, "ep": 16, "pp": 2}, {}),
        ("deepseek-v3", "dsv3-decode-ep32", {"tp": 4, "dp": 8}, {NO_SP: 4}),
        ("deepseek-v3", "dsv3-decode-ep32", MIXED, {NO_SP: 2}),
        ("deepseek-v3", "dsv3-decode-ep32", {"tp": 4, "dp": 8, "ep": 8, "moe_tp": 4}, {(*NO_SP, *PARTIAL_EXPERTS): 4}),
        (
            "deepseek-v3", "dsv3-decode-ep32", {"tp": 4, "dp": 8, "ep": 8, "moe_tp": 4, "sp": True},
            {(*ROTARY_KEY, *PARTIAL_EXPERTS): 4},
        ),
        (
            "deepseek-v3", "dsv3-prefill-ep32", {"tp": 4, "dp": 8, "ep": 8, "moe_tp": 4, "sp": True},
            {(*ROTARY_KEY, *PARTIAL_EXPERTS, *LAST_TOKEN): 4},
        ),
        ("deepseek-v3", "dsv3-prefill-ep32", {"tp": 4, "dp": 4, "ep": 16, "pp": 2}, {NO_SP: 4}),
    ],
)  # fmt: skip
def test_flops_of_all_ranks_are_those_of_one_rank(
    model: str, deployment: str, split: dict[str, Any], recomputed: dict[tuple[str, ...], int]
) -> None:
    whole = flops_of_all_ranks(model, deployment, tp=1, dp=1, ep=1, moe_tp=1, pp=1)
    parts = flops_of_all_ranks(model, deployment, **split)

    def times(path: str) -> int:
        found = [n for suffixes, n in recomputed.items() if any(f".{path}".endswith(f".{s}") for s in suffixes)]
        return found[0] if found else 1

    assert parts == {path: times(path) * count for path, count in whole.items()}


# -- FLOPs of a ring --------------------------------------------------------------------------------------------

LOGITS = ("lm_head.norm", "lm_head.norm.quantize", "lm_head.proj")
"""In prefill every rank of cp has the last token of every sequence."""


@pytest.mark.parametrize("cp", [2, 4])
@pytest.mark.parametrize(
    ("model", "deployment", "split", "width"),
    [
        # Layers x heads x (qk dims + v dims) of all ranks.
        ("llama-3.1-70b", "llama-70b-prefill-tp8", {"tp": 4, "sp": True}, 80 * 64 * (128 + 128)),
        ("llama-3.1-70b", "llama-70b-prefill-tp8", {"tp": 1, "pp": 8, "batch": 3}, 80 * 64 * (128 + 128)),
        ("llama-3.1-70b", "llama-70b-decode-tp8", {"tp": 1, "q_len": 8}, 80 * 64 * (128 + 128)),
        (
            "deepseek-v3", "dsv3-prefill-ep32", {"tp": 1, "dp": 4, "ep": 4, "ring_exchange": "expanded"},
            61 * 128 * (128 + 64 + 128),
        ),
        (
            "deepseek-v3", "dsv3-prefill-ep32", {"tp": 1, "dp": 4, "ep": 4, "ring_exchange": "smallest"},
            61 * 128 * (128 + 64 + 128),
        ),
        ("deepseek-v3", "dsv3-decode-ep32", {"tp": 1, "dp": 2, "ep": 2, "q_len": 4}, 61 * 128 * (512 + 64 + 512)),
    ],
)  # fmt: skip
def test_flops_of_a_ring_are_those_of_attention_and_of_what_striping_hides(
    model: str, deployment: str, split: dict[str, Any], width: int, cp: int
) -> None:
    ep = split.get("ep", 1)
    whole = flops_of_all_ranks(model, deployment, **split)
    parts = flops_of_all_ranks(model, deployment, **{**split, "cp": cp, "ep": ep * cp if ep > 1 else 1})
    d = load_deployment(deployment, split)
    # Each of cp ranks counts, in each of cp steps, q/cp queries that see kv/cp - q/cp + 1 to kv/cp keys: together
    # q (2 kv - q + cp) / 2 pairs, where attention has q (2 kv - q + 1) / 2.  The q (cp - 1) / 2 pairs between are
    # hidden: one key per query in the steps in which a rank meets the keys of a later one, cp - 1 - rank of them.
    hidden = sum(cp - 1 - rank for rank in range(cp)) * (d.q_len // cp)
    assert 2 * hidden == d.q_len * (cp - 1)
    for path, count in whole.items():
        if path.endswith(".attention"):
            parts[path] -= 2 * d.batch * hidden * width * count // attention_flops(whole)
        elif path in LOGITS and d.phase == "prefill":
            assert parts[path] % cp == 0
            parts[path] //= cp
        elif split.get("ring_exchange") == "smallest" and path.endswith(".kv_b_proj"):
            # A rank expands the latent of its own, and in every other step what came by.
            assert parts.pop(f"{path}.of_step") == (cp - 1) * count
    assert attention_flops(whole) == d.batch * d.q_len * (2 * d.kv_len - d.q_len + 1) * width
    assert parts == whole


def attention_flops(flops: dict[str, int]) -> int:
    return sum(count for path, count in flops.items() if path.endswith(".attention"))


@pytest.mark.parametrize(("cp", "q_len", "kv_len"), [(2, 4, 4), (4, 8, 20), (4, 4, 32)])
def test_the_pairs_that_all_steps_see_are_those_of_attention(cp: int, q_len: int, kv_len: int) -> None:
    module = compiled("llama-3.1-70b", "llama-70b-prefill-tp8", cp=cp, q_len=q_len, kv_len=kv_len)
    own, other = (op for op in module.walk() if isinstance(op, layer.AttentionStepOp))
    bindings = {"batch": 1, "q_len": q_len, "kv_len": kv_len}
    pairs = 0
    for rank in range(cp):
        for step in range(cp):
            op = other if step else own
            seen = int(op.flops().evaluate(bindings)) // (2 * 8 * (128 + 128))
            at = {**bindings, "cp.rank": rank, "cp.step": step}
            hidden = int(op.hidden.data.evaluate(at)) * int(op.q_len.data.evaluate(bindings))
            # The positions themselves: queries at the end of the sequence, keys of the rank `step` places before.
            queries = [p for p in range(kv_len - q_len, kv_len) if p % cp == rank]
            keys = [p for p in range(kv_len) if p % cp == (rank - step) % cp]
            assert seen - hidden == sum(key <= query for query in queries for key in keys)
            pairs += seen - hidden
    assert pairs == q_len * (2 * kv_len - q_len + 1) // 2


# -- forms ------------------------------------------------------------------------------------------------------


def analyses() -> list[Analysis]:
    module = compiled("deepseek-v3", "dsv3-decode-ep32", **MIXED)
    result = evaluate_module(module)
    other = evaluated("deepseek-v3", "dsv3-decode-ep32")
    return [
        ops_breakdown(module, result),
        comm_pattern(module),
        link_traffic(module),
        cost_per_token("x", 1.0, 1, 1, CostOptions(1.0, None, None)),
        compare(result, other, ("a", "b")),
    ]


def test_every_form_says_the_same() -> None:
    for analysis in analyses():
        rows = analysis.to_rows()
        assert rows and all(tuple(row) == analysis.COLUMNS for row in rows)
        assert json.loads(analysis.to_json())["rows"] == rows
        read = list(csv.DictReader(io.StringIO(analysis.to_csv())))
        assert read == [{k: "" if v is None else str(v) for k, v in row.items()} for row in rows]
        assert analysis.headline() and "\n" not in analysis.headline() and all("\n" not in n for n in analysis.notes())


def test_results_on_unvalidated_links_are_relative_only() -> None:
    breakdown, _, traffic, _, comparison = analyses()
    for analysis in (breakdown, traffic, comparison):
        assert any(note.startswith("relative only, never validated") for note in analysis.notes())
    assert breakdown.to_dict()["relative_only"] is True and traffic.to_dict()["relative_only"] is True
