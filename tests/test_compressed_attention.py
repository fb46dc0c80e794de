"""The attention of DeepSeek-V4 from its config to steps: what closes, who sees it, what it costs, what is refused."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
import pytest
from xdsl.context import Context
from xdsl.dialects.builtin import ModuleOp, UnitAttr, bf16, f32, i32
from xdsl.utils.exceptions import VerifyException
from xdsl.utils.test_value import create_ssa_value

from pmc.backends.cost.chip import ChipCostModel
from pmc.backends.cost.core import CoreCostModel
from pmc.backends.cost.model import Target
from pmc.backends.cost.tile import TileCostModel
from pmc.backends.numeric.compression import compress, entry_scores
from pmc.backends.numeric.layer import run_layer
from pmc.backends.numeric.model import model_sources, run_model, seeded_model_environment
from pmc.backends.numeric.rotary import rope
from pmc.compiler.check import FP32, Proof, check_model
from pmc.compiler.config import ConfigError, load_accounting, load_chip, load_deployment, load_topology
from pmc.compiler.driver import compile_model
from pmc.compiler.evaluation import EvaluationOptions
from pmc.compiler.frontend import import_hf
from pmc.compiler.model_summary import cache_bytes
from pmc.compiler.shrink import with_fp32
from pmc.compiler.small import small_target
from pmc.dialects import layer, model
from pmc.dialects.assembly import PmcOp
from pmc.dialects.compressed_attention import closing_entries
from pmc.dialects.expr import Expr, expr, floordiv
from pmc.dialects.tensor import TensorType, tensor
from pmc.passes.base import PassError
from pmc.passes.bind_symbols import BindSymbolsPass
from pmc.passes.expand_blocks import ExpandBlocksPass
from tests.compiler.test_model_parameters import CONFIGS as PUBLISHED_CONFIGS
from tests.reference.configs import CONFIGS

CONFIG = CONFIGS["deepseek-v4"]
CHIP, TOPOLOGY = with_fp32(load_chip("sg2262")), load_topology("p1-r1-b4-c32")
RATIO = {"csa": 2, "hca": 4}
"""Of the tiny config."""


def expanded(phase: str = "decode", **changes: object) -> ModuleOp:
    module = import_hf({**CONFIG, **changes}, "tiny", "tiny")
    ExpandBlocksPass(phase, capacity="worst").apply(Context(), module)
    return module


def bound(q_len: int, kv_len: int, batch: int = 3) -> ModuleOp:
    module = expanded()
    BindSymbolsPass(batch, q_len, kv_len).apply(Context(), module)
    module.verify()
    return module


def paths(module: ModuleOp, kind: type[PmcOp]) -> list[str]:
    found = [op.path.data for op in module.walk() if isinstance(op, kind)]
    return [".".join(path.split(".")[2:]) for path in found]


# -- the config -------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"layer_types": ["full_attention"] * 3}, "layer_types: layers of 'full_attention' are not supported, only"),
        ({"layer_types": None, "compress_ratios": [0, 8, 4]}, "compress_ratios: layers of 8 are not supported, only"),
        ({"layer_types": ["sliding_attention"]}, "layer_types: expected a list with an entry for each of the 3 layers"),
        ({"o_groups": 3}, "3 o_groups do not divide 4 heads"),
        ({"qk_rope_head_dim": 16}, "qk_rope_head_dim 16 must be less than head_dim 16"),
        ({"qk_rope_head_dim": 3}, "qk_rope_head_dim 3 is odd"),
        ({"index_head_dim": 4}, "index_head_dim 4 must be more than the rotated qk_rope_head_dim 4"),
        ({"compress_rates": {"compressed_sparse_attention": 1, "heavily_compressed_attention": 4}}, "must be at least"),
        ({"norm_topk_prob": False}, "norm_topk_prob"),
        ({"n_shared_experts": 2}, "n_shared_experts"),
        ({"num_key_value_heads": 2}, "num_key_value_heads"),
    ],
)
def test_a_config_that_is_not_modelled_is_refused_by_name(changes: dict[str, object], message: str) -> None:
    with pytest.raises(ConfigError) as error:
        import_hf({**CONFIG, **changes}, "mine.json", "mine")
    assert message in str(error.value)


@pytest.mark.parametrize(
    ("fields", "kinds"),
    [
        ({"compress_ratios": [0, 4, 128, 4, 99]}, ["window", "csa", "hca", "csa"]),  # the last is for a further layer
        ({}, ["hca", "hca", "hca", "csa"]),  # what the configuration class takes
    ],
)
def test_older_fields_say_what_layers_attend_to(fields: dict[str, object], kinds: list[str]) -> None:
    plain = {name: value for name, value in CONFIG.items() if name != "layer_types"}
    module = import_hf({**plain, "num_hidden_layers": 4, "num_hash_layers": 0, **fields}, "tiny", "tiny")
    found = [(op, n) for op, n in model.model_blocks(module) if isinstance(op, model.CompressedAttentionOp)]
    names = [op.path.data.rpartition(".")[2] for op, n in found for _ in range(n)]
    assert sorted(names) == sorted(kinds)
    for op, _ in found:
        assert op.rope_theta is not None
        compressed = op.compress_ratio is not None
        assert op.rope_theta.value.data == (160000 if compressed else 10000)
        assert (op.rope_scaling is not None) == compressed, "layers without entries have no yarn"
        assert not compressed or "attention_factor = 1.0" in str(op.rope_scaling)


def test_the_cache_of_a_million_tokens_is_the_published_one() -> None:
    """9.62 GiB in BF16, as reported of DeepSeek-V4-Pro: 640 numbers for 4 tokens of CSA, 512 for 128 of HCA."""
    module = import_hf(PUBLISHED_CONFIGS["deepseek-ai/DeepSeek-V4-Pro"], "v4", "v4")
    per_token = cache_bytes(module).per_token
    assert per_token == 2 * (30 * 640 / 4 + 31 * 512 / 128)
    assert per_token * 2**20 / 2**30 == pytest.approx(9.62, abs=0.005)


# -- entries that close in a step -------------------------------------------------------------------------------


def test_entries_close_when_their_last_token_comes() -> None:
    q_len, kv_len = expr("q_len"), expr("kv_len")
    for ratio in (2, 4, 128):
        closing = closing_entries(q_len, kv_len, ratio)
        for tokens, past in ((1, 0), (1, ratio - 1), (1, ratio), (5, 3), (ratio, 1), (3 * ratio, 0)):
            ends = [t for t in range(past, past + tokens) if (t + 1) % ratio == 0]
            assert closing.evaluate({"q_len": tokens, "kv_len": past + tokens}) == len(ends)


@pytest.mark.parametrize(
    ("q_len", "kv_len", "pooled"),
    [
        (1, 7, []),
        (1, 6, ["csa.compressor", "csa.indexer"]),
        (1, 8, ["csa.compressor", "csa.indexer", "hca.compressor"]),
        (3, 7, ["csa.compressor", "csa.indexer"]),
    ],
)
def test_a_step_pools_what_closes_in_it(q_len: int, kv_len: int, pooled: list[str]) -> None:
    module = bound(q_len, kv_len)
    assert paths(module, layer.CompressOp) == [f"{name}.pool" for name in pooled]
    appended = [path for path in paths(module, layer.KvAppendOp) if path.endswith("entry_append")]
    assert sorted(appended) == [f"{name}.entry_append" for name in pooled]
    for op in module.walk():
        if isinstance(op, layer.CompressOp):
            ratio = op.ratio.value.data
            assert tensor(op.y).dims[0] == 3 * (kv_len // ratio - (kv_len - q_len) // ratio)
        assert all(0 not in [d.constant for d in tensor(r).dims] for r in op.results if isinstance(r.type, TensorType))


def test_before_the_first_entry_attention_ends_with_the_window() -> None:
    module = bound(1, 1)
    assert paths(module, layer.CompressedAttentionOp) == []
    assert sorted(paths(module, layer.AttentionFinishOp)) == ["csa.attention", "hca.attention"]
    assert paths(module, layer.TopkSelectOp) == [] == paths(module, layer.GatherRowsOp)


@pytest.mark.parametrize(("q_len", "kv_len"), [(1, 1), (1, 3), (1, 7), (1, 8), (3, 7)])
def test_what_binding_leaves_out_does_nothing(q_len: int, kv_len: int) -> None:
    bindings = {"batch": 3, "q_len": q_len, "kv_len": kv_len}
    environment = seeded_model_environment(import_hf(CONFIG, "tiny", "tiny"), bindings, 2)
    plain, short = run_layer(expanded(), environment), run_layer(bound(q_len, kv_len), environment)
    np.testing.assert_allclose(short.outputs[0], plain.outputs[0], atol=1e-12)
    for path, values in plain.states.items():
        np.testing.assert_allclose(short.states[path], values, atol=1e-12)


LENGTHS = [(1, 8), *(pytest.param(*lengths, marks=pytest.mark.long) for lengths in ((1, 1), (1, 3), (6, 6), (5, 24)))]
"""A step in which all entries close; before all of them and before that of HCA, prefill of one part and of two."""


@pytest.mark.parametrize(("q_len", "kv_len"), LENGTHS)
def test_a_step_is_the_same_at_every_level(q_len: int, kv_len: int) -> None:
    types = {f"quantization.{kind}": found for kind, found in FP32.items()}
    changes: dict[str, object] = {"tp": 2, "ep": 2} if kv_len == 24 else {}
    phase, lengths = "decode" if q_len == 1 else "prefill", {"q_len": q_len, "kv_len": kv_len}
    deployment = load_deployment(phase, {**types, **changes, "batch": 2, **lengths})
    kinds = ["compressed_sparse_attention", "heavily_compressed_attention"]
    config = {**CONFIG, "layer_types": kinds, "num_hidden_layers": 2, "num_hash_layers": 0}
    small = small_target(config, "tiny", CHIP, TOPOLOGY, deployment, lengths)
    result = check_model(small.model, small.chip, small.topology, small.deployment, proof=Proof(unroll=False))
    assert result.guilty is None, str(result.checks[-1])


# -- who sees an entry ------------------------------------------------------------------------------------------


def test_a_query_sees_the_entries_that_have_closed_up_to_it() -> None:
    """A change of one token changes the rows from it on, and none before: entries give nothing away."""
    module = import_hf(CONFIG, "tiny", "tiny")
    bindings = {"batch": 1, "q_len": 13, "kv_len": 13}
    environment = seeded_model_environment(module, bindings, 5)
    program = expanded()
    before = run_layer(program, environment).outputs[0]
    for changed in (3, 6, 12):
        environment.tokens[changed] = (environment.tokens[changed] + 1) % 61
        after = run_layer(program, environment).outputs[0]
        differs = np.abs(after - before).max(axis=1) > 1e-9
        assert not differs[:changed].any() and differs[changed:].all()
        before = after


def test_entry_scores_hide_what_has_not_closed() -> None:
    op = attention(q_len=5, kv_len=9, ratio=4)
    last = [op.last_of_query(expr(i)).constant for i in range(5)]
    assert last == [0, 0, 0, 1, 1]  # the queries stand at 4 .. 8; entry 1 closes with token 7
    scores = entry_scores([np.ones((5, 8))], [np.ones((1, 2, 8))], [8], 1.0, np.array(last))
    assert np.isfinite(scores[0, 0]).sum(axis=1).tolist() == [1, 1, 1, 2, 2]


@pytest.mark.parametrize("ratio", [2, 3, 7])
def test_pairs_are_those_of_every_query(ratio: int) -> None:
    for q_len, past in ((2, 0), (3, 5), (11, 2), (20, 31)):
        op = attention(q_len, q_len + past, ratio)
        assert op.pairs_twice == 2 * sum((past + i + 1) // ratio for i in range(q_len))


def test_a_pool_is_a_softmax_of_every_column() -> None:
    """With one gate far above the others an entry is that token, with equal gates the mean."""
    kv, bias = np.arange(12.0).reshape(1, 6, 2), np.zeros((3, 2))
    gate = np.zeros((1, 6, 2))
    gate[0, 4, 0] = 50.0
    assert compress(kv, gate, bias, 1, 0, 6) == pytest.approx(np.array([[2.0, 3.0], [8.0, 9.0]]))
    # Two series of one column: entry 1 takes column 0 of tokens 0 .. 2 and column 1 of tokens 3 .. 5.
    assert compress(kv, gate * 0, bias, 2, 0, 6) == pytest.approx(np.array([[3.0], [(0 + 2 + 4 + 7 + 9 + 11) / 6]]))
    # The caches hold the last tokens only.
    assert compress(kv[:, 3:], gate[:, 3:], bias, 1, 1, 6) == pytest.approx(np.array([[8.0, 9.0]]))


def test_what_has_been_rotated_comes_back() -> None:
    x = np.random.default_rng(0).standard_normal((3, 24))
    turned = rope(x, 12, 1e4, True, np.arange(5, 8), rotary_dim=4, trailing=True)
    assert np.array_equal(turned.reshape(3, 2, 12)[..., :8], x.reshape(3, 2, 12)[..., :8])
    assert not np.isclose(turned.reshape(3, 2, 12)[..., 8:], x.reshape(3, 2, 12)[..., 8:]).all()
    back = rope(turned, 12, 1e4, True, np.arange(5, 8), rotary_dim=4, trailing=True, inverse=True)
    np.testing.assert_allclose(back, x, atol=1e-12)


# -- ops that cannot be -----------------------------------------------------------------------------------------


def value(*dims: Expr | int, element: Any = bf16) -> Any:
    return create_ssa_value(TensorType.of(dims, element))


def attention(q_len: int, kv_len: int, ratio: int, **changes: Any) -> layer.CompressedAttentionOp:
    """2 sequences, 2 heads of width 8."""
    t, entries = 2 * q_len, value(2, kv_len // ratio, 8)
    state = [value(t, n, element=f32) for n in (16, 2, 2)]
    given: dict[str, Any] = dict(
        v_dim=8, q_len=expr(q_len), scale=0.5, causal=False, ratio=ratio, sequence_q_len=expr(q_len),
        sequence_kv_len=expr(kv_len), qk_dims=model_dims(8),
    )  # fmt: skip
    given.update(changes)
    state = given.pop("state", state)
    operands = [[value(t, 16)], [entries], entries, *state]
    return layer.CompressedAttentionOp.make(operands, [TensorType.of([t, 16], bf16)], "p.attention", given)


def model_dims(*widths: int) -> Any:
    from xdsl.dialects.builtin import ArrayAttr, IntegerAttr, i64

    return ArrayAttr([IntegerAttr(w, i64) for w in widths])


def pool(rows: int = 9, closing: int = 1, columns: int = 12, **changes: Any) -> layer.CompressOp:
    """Entry 1 of 4 tokens closes: token 7 is the third of 3 new ones, the last is number 8."""
    kv = value(2, rows, 12)
    given: dict[str, Any] = dict(ratio=4, overlapping=True, q_len=expr(3), kv_len=expr(9))
    given.update(changes)
    operands = [kv, given.pop("gate", kv), value(4, columns)]
    return layer.CompressOp.make(operands, [TensorType.of([2 * closing, 6], bf16)], "p.pool", given)


def rotated(**properties: Any) -> layer.RopeOp:
    given = dict(head_dim=8, theta=1e4, interleaved=True, q_len=expr(3), kv_len=expr(9), **properties)
    return layer.RopeOp.make([value(6, 16)], [TensorType.of([6, 16], bf16)], "p.rope", given)


def top(ratio: int | None, tokens: int | None, entries: int = 2) -> layer.TopkSelectOp:
    given = {"top_k": 2, "q_len": expr(3), "ratio": ratio, "tokens": None if tokens is None else expr(tokens)}
    types = [TensorType.of([6, 2], i32)]
    return layer.TopkSelectOp.make([value(6, entries, element=f32)], types, "p.topk", given)


WRONG: Sequence[tuple[PmcOp, str]] = [
    (attention(5, 9, 4, causal=True), "causal must be false: entries are seen by positions of their tokens"),
    (attention(5, 9, 4, sequence_q_len=expr(6)), "q_len is 5, must be 1 or sequence_q_len, which is 6"),
    (attention(5, 9, 4, soft_cap=3.0), "attention over entries has no soft_cap"),
    (attention(5, 9, 4, state=[value(10, n) for n in (16, 2, 2)]), "the state is bf16, must be f32"),
    (
        attention(5, 9, 4, state=[value(10, n, element=f32) for n in (16, 3, 2)]),
        "row_max is [10, 3], must be [10, 2]",
    ),
    (pool(ratio=1), "ratio is 1, must be at least 2"),
    (pool(columns=11), "bias is [4, 11], must be [4, 12]"),
    (pool(closing=2), "y is [4, 6], must be [2, 6]"),
    (pool(rows=8), "the caches hold 8 tokens, the entries need 9"),
    (pool(gate=value(2, 9, 11)), "gate is !layer.tensor<[2, 9, 11], bf16>, must be"),
    (rotated(trailing=UnitAttr()), "trailing needs rotary_dim: without it all columns are rotated"),
    (top(4, None), "ratio and tokens need each other"),
    (top(4, 12), "12 tokens have 3 entries of 4, not 2"),
    (top(1, 2), "ratio is 1, must be at least 2"),
]


@pytest.mark.parametrize(("op", "message"), WRONG, ids=[message[:30] for _, message in WRONG])
def test_a_wrong_op_says_what_is_wrong(op: PmcOp, message: str) -> None:
    with pytest.raises(VerifyException) as error:
        op.verify()
    assert message in str(error.value)


def test_right_ones_are_right() -> None:
    for op in (attention(5, 9, 4), pool(), pool(rows=5, overlapping=False, closing=1), top(4, 9), top(None, None)):
        if not (isinstance(op, layer.CompressOp) and not op.overlapping):
            op.verify()
    assert pool().rows_needed == 9 and floordiv(expr(9), 4) == 2


# -- shards and time --------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"tp": 4, "ep": 4}, "the 2 groups of 'blocks.window_hash.window.o_a_proj' are not divisible by tp = 4"),
        ({"cp": 2, "ep": 2, "q_len": 2}, "window"),
    ],
)
def test_meshes_that_cannot_be_are_refused(changes: dict[str, object], message: str) -> None:
    deployment = load_deployment("decode", {"kv_len": 64, **changes})
    with pytest.raises(PassError) as error:
        compile_model(import_hf(CONFIG, "tiny", "tiny"), load_chip("sg2262"), TOPOLOGY, deployment, "dist")
    assert message in str(error.value)


def test_an_entry_takes_time_in_the_step_in_which_it_closes() -> None:
    """At every granularity, and in none of the other steps."""
    target, accounting = Target(load_chip("sg2262"), None, None), load_accounting("physical")
    pools = [op for op in expanded().walk() if isinstance(op, layer.CompressOp)]
    for costs in (ChipCostModel(target), CoreCostModel(target, accounting), TileCostModel(target, accounting)):
        for kv_len in range(8, 13):
            bindings = {"batch": 64, "q_len": 1, "kv_len": kv_len}
            times = [costs.cost(op, bindings) for op in pools]
            assert [found is not None for found in times] == [kv_len % op.ratio.value.data == 0 for op in pools]
            assert all(found is None or found.time_s > 0 for found in times)


def test_a_step_before_the_first_entry_has_a_time_at_granularity_commands() -> None:
    """What `bind-symbols` leaves of attention over no entries takes the time of that attention."""
    deployment = load_deployment("decode", {"batch": 2, "dp": 2, "ep": 2, "kv_len": 1})
    config = {**CONFIG, "num_hidden_layers": 1, "layer_types": ["heavily_compressed_attention"], "num_hash_layers": 0}
    module = compile_model(import_hf(config, "tiny", "tiny"), load_chip("sg2262"), TOPOLOGY, deployment, "dist")
    step = EvaluationOptions("commands").evaluator(module).step()
    times = {s.path.split(".", 2)[2]: s.time_us for s in step.ops.steps if s.op == "layer.compressed_attention"}
    assert list(times) == ["hca.attention"]
    assert all(time > 0 for time in times.values())


def test_states_of_a_step_are_as_large_as_the_model_says() -> None:
    module = import_hf(CONFIG, "tiny", "tiny")
    shapes = {s.path.split(".", 2)[2]: s.shape[1:] for s in model_sources(module, {"batch": 3, "q_len": 2, "kv_len": 9})
              if s.kind == "state"}  # fmt: skip
    assert shapes["csa.kv_cache"] == (3, 6, 16)  # the window of 5 and one more query
    assert shapes["csa.compressor.entry_cache"] == (3, 4, 16)
    assert shapes["csa.indexer.entry_cache"] == (3, 4, 12)
    assert shapes["csa.compressor.open_kv_cache"] == (3, 5, 32)  # two entries of 2 tokens, and one more query
    assert shapes["hca.compressor.open_gate_cache"] == (3, 5, 16)
    assert shapes["hca.compressor.entry_cache"] == (3, 2, 16)
    run_model(module, seeded_model_environment(module, {"batch": 1, "q_len": 2, "kv_len": 9}, 0))
