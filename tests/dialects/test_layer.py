"""The layer dialect: work by hand, what verifiers refuse, sharding rules, text."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import pytest
from xdsl.dialects.builtin import (
    ArrayAttr,
    Float8E4M3FNType,
    IntegerAttr,
    ModuleOp,
    StringAttr,
    UnitAttr,
    bf16,
    f32,
    i32,
    i64,
)
from xdsl.ir import Attribute, Block, Region, SSAValue
from xdsl.utils.exceptions import VerifyException
from xdsl.utils.test_value import create_ssa_value

from pmc.compiler.driver import module_text, parse_module
from pmc.dialects import layer
from pmc.dialects.assembly import PmcOp
from pmc.dialects.dist import PartialAttr, Sharding, ShardingAttr
from pmc.dialects.errors import PmcError
from pmc.dialects.expr import Expr, ceildiv, expr, floordiv, min_of
from pmc.dialects.interfaces import Work
from pmc.dialects.tensor import TensorType

F8 = Float8E4M3FNType()
BATCH, Q, KV = expr("batch"), expr("q_len"), expr("kv_len")
TOKENS = BATCH * Q
PATH = "blocks.dense.block"


def value(*dims: Expr | int, element: Attribute = bf16, encoding: Attribute | None = None) -> SSAValue:
    return create_ssa_value(TensorType.of(dims, element, encoding))


def op(kind: type[Any], operands: Sequence[Any], *results: SSAValue, **properties: Any) -> Any:
    """An op whose results have the types of the values in `results`."""
    return kind.make(operands, [r.type for r in results], PATH, properties)


def ints(*values: int) -> ArrayAttr[IntegerAttr]:
    return ArrayAttr([IntegerAttr(v, i64) for v in values])


def names(*values: str) -> ArrayAttr[StringAttr]:
    return ArrayAttr([StringAttr(v) for v in values])


def numbers(work: Work, **bindings: int) -> tuple[int, int, int, str, str]:
    counts = [e.evaluate(bindings) for e in (work.flops, work.bytes_read, work.bytes_written)]
    return (counts[0], counts[1], counts[2], work.unit, work.dtype)


AT = {"batch": 3, "q_len": 2, "kv_len": 11}

ROUTER = dict(top_k=2, scoring="sigmoid", groups=1, top_groups=1, normalize=True, scale=1.0)


def attention(
    causal: bool, kv_heads: int = 2, shared_v: bool = False, keys: Expr = KV, sinks: int = 0, **masks: Any
) -> layer.AttentionOp:
    """4 query heads of width 8; values of width 8, or the keys themselves."""
    k = value(BATCH, keys, kv_heads * 8)
    v = k if shared_v else value(BATCH, keys, kv_heads * 8)
    more = [value(sinks)] if sinks else []
    found: layer.AttentionOp = op(
        layer.AttentionOp, [[value(TOKENS, 32)], [k], v, more], value(TOKENS, 32),
        qk_dims=ints(8), v_dim=8, q_len=Q, scale=0.5, causal=causal, **masks,
    )  # fmt: skip
    return found


def attention_step(first: bool, hidden: Expr | int = 0, causal: bool = True) -> layer.AttentionStepOp:
    """The same attention over one block of keys, of 2 key heads, with its state in FP32."""
    k, v, state = value(BATCH, KV, 16), value(BATCH, KV, 16), [value(TOKENS, n, element=f32) for n in (32, 4, 4)]
    found: layer.AttentionStepOp = op(
        layer.AttentionStepOp, [[value(TOKENS, 32)], [k], v, [] if first else state], *state,
        qk_dims=ints(8), v_dim=8, q_len=Q, scale=0.5, causal=causal, hidden=expr(hidden),
    )  # fmt: skip
    return found


def gather(domain: str) -> layer.GatherRowsOp:
    """5 rows of a cache of 8 columns for every token."""
    indices, rows = value(TOKENS, 5, element=i32), value(TOKENS, 5, 8)
    found: layer.GatherRowsOp = op(
        layer.GatherRowsOp, [value(BATCH, KV, 8), indices], rows, q_len=Q, bandwidth_domain=domain
    )
    return found


def block_scores(width: int = 8, **changes: Any) -> layer.BlockScoresOp:
    """2 index heads of width 4 against blocks of 4 keys."""
    result = value(TOKENS, 2, ceildiv(KV, 4), element=f32)
    found: layer.BlockScoresOp = op(
        layer.BlockScoresOp, [value(TOKENS, width), value(BATCH, KV, 4)], result, **{"block": 4, "q_len": Q, **changes}
    )
    return found


def block_topk(**changes: Any) -> layer.TopkSelectOp:
    """2 of the blocks of 4 keys for 2 heads of every token, that of the token among them."""
    scores, result = (value(TOKENS, 2, n, element=e) for n, e in ((BLOCKS, f32), (min_of(BLOCKS, 2), i32)))
    given = {"top_k": 2, "q_len": Q, "block": 4, "always": 1, "tokens": KV, **changes}
    found: layer.TopkSelectOp = op(layer.TopkSelectOp, [scores], result, **given)
    return found


def block_gather(width: int = 8, **changes: Any) -> layer.GatherRowsOp:
    """2 blocks of 4 rows of a cache of 2 key heads for every token."""
    indices, rows = value(TOKENS, 2, 2, element=i32), value(TOKENS, 8, width)
    given = {"q_len": Q, "bandwidth_domain": "dram", "block": 4, **changes}
    found: layer.GatherRowsOp = op(layer.GatherRowsOp, [value(BATCH, KV, width), indices], rows, **given)
    return found


BLOCKS = ceildiv(KV, 4)


def sparse_attention(keys: int = 5, width: int = 8, **changes: Any) -> layer.SparseAttentionOp:
    """4 query heads of width 8 over so many keys per token that are also the values."""
    rows = value(TOKENS, keys, width)
    properties: dict[str, Any] = dict(
        qk_dims=ints(8), v_dim=8, q_len=expr(1), scale=0.5, causal=False, sequence_q_len=Q, sequence_kv_len=KV
    )
    properties.update(changes)
    found: layer.SparseAttentionOp = op(
        layer.SparseAttentionOp, [[value(TOKENS, 32)], [rows], rows], value(TOKENS, 32), **properties
    )
    return found


def compressed_attention(gathered: bool = False) -> layer.CompressedAttentionOp:
    """4 query heads of width 8 over entries of 4 tokens, all of them or 2 for every token."""
    entries = value(TOKENS, 2, 8) if gathered else value(BATCH, floordiv(KV, 4), 8)
    state = [value(TOKENS, n, element=f32) for n in (32, 4, 4)]
    found: layer.CompressedAttentionOp = op(
        layer.CompressedAttentionOp, [[value(TOKENS, 32)], [entries], entries, *state], value(TOKENS, 32),
        qk_dims=ints(8), v_dim=8, q_len=expr(1) if gathered else Q, scale=0.5, causal=False, ratio=4,
        sequence_q_len=Q, sequence_kv_len=KV,
    )  # fmt: skip
    return found


def compress() -> layer.CompressOp:
    """Overlapping entries of 5 tokens, 6 columns wide."""
    tokens, closing = value(BATCH, KV, 12), floordiv(KV, 5) - floordiv(KV - Q, 5)
    found: layer.CompressOp = op(
        layer.CompressOp, [tokens, tokens, value(5, 12)], value(BATCH * closing, 6), ratio=5, overlapping=True,
        q_len=Q, kv_len=KV,
    )  # fmt: skip
    return found


def causal_conv(**changes: Any) -> layer.CausalConvOp:
    """4 taps on 16 channels."""
    given: dict[str, Any] = dict(
        x=value(TOKENS, 16), weight=value(16, 4), state=value(BATCH, 3, 16), bias=value(16), y=value(TOKENS, 16),
        activation="silu",
    )  # fmt: skip
    given.update(changes)
    after = given.get("after", given["state"])
    operands = [given["x"], given["weight"], given["state"], [given["bias"]]]
    found: layer.CausalConvOp = op(layer.CausalConvOp, operands, given["y"], after, activation=given["activation"])
    return found


def ssm_scan(**changes: Any) -> layer.SsmScanOp:
    """4 heads of 5 columns, 2 groups with keys of 8."""
    given: dict[str, Any] = dict(
        x=value(TOKENS, 20), b=value(TOKENS, 16), c=value(TOKENS, 16), dt=value(TOKENS, 4, element=f32),
        a_log=value(4), d=value(4), state=value(BATCH, 20, 8, element=f32),
    )  # fmt: skip
    given.update(changes)
    results = [given.pop("y", value(TOKENS, 20)), given.pop("after", given["state"])]
    found: layer.SsmScanOp = op(layer.SsmScanOp, list(given.values()), *results)
    return found


def gated_delta(**changes: Any) -> layer.GatedDeltaOp:
    """4 heads with values of 5, 2 groups with keys of 8."""
    given: dict[str, Any] = dict(
        v=value(TOKENS, 20), q=value(TOKENS, 16), k=value(TOKENS, 16), g=value(TOKENS, 4, element=f32),
        beta=value(TOKENS, 4, element=f32), state=value(BATCH, 32, 5, element=f32),
    )  # fmt: skip
    given.update(changes)
    results = [given.pop("y", value(TOKENS, 20)), given.pop("after", given["state"])]
    found: layer.GatedDeltaOp = op(layer.GatedDeltaOp, list(given.values()), *results, scale=0.5)
    return found


def gated_rms_norm(**changes: Any) -> layer.GatedRmsNormOp:
    """2 groups of 8 columns with a weight of their own each."""
    given: dict[str, Any] = dict(
        x=value(TOKENS, 16),
        gate=value(TOKENS, 16),
        w=value(16),
        y=value(TOKENS, 16),
        group=8,
        gate_first=True,
        activation="silu",
    )
    given.update(changes)
    y, operands = given.pop("y"), [given.pop(name) for name in ("x", "gate", "w")]
    found: layer.GatedRmsNormOp = op(layer.GatedRmsNormOp, operands, y, eps=1e-5, **given)
    return found


CASES: list[tuple[Any, tuple[int, int, int, str, str]]] = [
    # 6 tokens (3 sequences of 2), 16 -> 24
    (
        op(layer.MatmulOp, [value(TOKENS, 16), value(16, 24)], value(TOKENS, 24)),
        (2 * 6 * 16 * 24, (6 * 16 + 16 * 24) * 2, 6 * 24 * 2, "cube", "bf16"),
    ),
    (  # FP8 weights: the rate is that of the wider operand
        op(layer.MatmulOp, [value(TOKENS, 16), value(16, 24, element=F8)], value(TOKENS, 24)),
        (2 * 6 * 16 * 24, 6 * 16 * 2 + 16 * 24, 6 * 24 * 2, "cube", "bf16"),
    ),
    (
        op(layer.GroupedMatmulOp, [value(5, BATCH, 16), value(5, 16, 24)], value(5, BATCH, 24)),
        (2 * 5 * 3 * 16 * 24, 5 * (3 * 16 + 16 * 24) * 2, 5 * 3 * 24 * 2, "cube", "bf16"),
    ),
    (  # two products of one x, which is read once
        op(layer.GatedMatmulOp, [value(TOKENS, 16), value(16, 24), value(16, 24)], value(TOKENS, 24)),
        (4 * 6 * 16 * 24, (6 * 16 + 2 * 16 * 24) * 2, 6 * 24 * 2, "cube", "bf16"),
    ),
    (  # the same for each of 5 experts
        op(layer.GatedMatmulOp, [value(5, BATCH, 16), value(5, 16, 24), value(5, 16, 24)], value(5, BATCH, 24)),
        (4 * 5 * 3 * 16 * 24, 5 * (3 * 16 + 2 * 16 * 24) * 2, 5 * 3 * 24 * 2, "cube", "bf16"),
    ),
    (  # 4 heads, 8 -> rank 16
        op(layer.HeadMatmulOp, [value(TOKENS, 32), value(16, 32)], value(TOKENS, 64), group=8, transpose=True),
        (2 * 6 * 4 * 8 * 16, (6 * 32 + 16 * 32) * 2, 6 * 64 * 2, "cube", "bf16"),
    ),
    (  # all 2 queries see all 11 keys
        attention(causal=False),
        (3 * 2 * 11 * 2 * 4 * 16, (6 * 32 + 2 * 3 * 11 * 16) * 2, 6 * 32 * 2, "cube", "bf16"),
    ),
    (  # query 0 sees 10 keys, query 1 sees 11
        attention(causal=True),
        (3 * (10 + 11) * 2 * 4 * 16, (6 * 32 + 2 * 3 * 11 * 16) * 2, 6 * 32 * 2, "cube", "bf16"),
    ),
    (  # keys that are also the values are read once
        attention(causal=True, kv_heads=1, shared_v=True),
        (3 * (10 + 11) * 2 * 4 * 16, (6 * 32 + 3 * 11 * 8) * 2, 6 * 32 * 2, "cube", "bf16"),
    ),
    (  # both queries see 5 keys: 6 rows are read
        attention(causal=True, window=5),
        (3 * (5 + 5) * 2 * 4 * 16, (6 * 32 + 2 * 3 * 6 * 16) * 2, 6 * 32 * 2, "cube", "bf16"),
    ),
    (  # the same from a cache that holds no more
        attention(causal=True, keys=min_of(KV, Q + 4), window=5),
        (3 * (5 + 5) * 2 * 4 * 16, (6 * 32 + 2 * 3 * 6 * 16) * 2, 6 * 32 * 2, "cube", "bf16"),
    ),
    (  # queries at positions 9 and 10 see their chunk from 8 on: 2 and 3 keys, 3 rows
        attention(causal=True, chunk=4, kv_len=KV),
        (3 * (2 + 3) * 2 * 4 * 16, (6 * 32 + 2 * 3 * 3 * 16) * 2, 6 * 32 * 2, "cube", "bf16"),
    ),
    (  # a chunk begins between them: 10 keys and 1, of a cache that holds 11 rows
        attention(causal=True, keys=min_of(KV, Q + 9), chunk=10, kv_len=KV),
        (3 * (10 + 1) * 2 * 4 * 16, (6 * 32 + 2 * 3 * 11 * 16) * 2, 6 * 32 * 2, "cube", "bf16"),
    ),
    (  # the sinks of 4 heads are read
        attention(causal=True, sinks=4),
        (3 * (10 + 11) * 2 * 4 * 16, (6 * 32 + 2 * 3 * 11 * 16 + 4) * 2, 6 * 32 * 2, "cube", "bf16"),
    ),
    (  # a window that is longer than what the first query sees
        attention(causal=True, window=11),
        (3 * (10 + 11) * 2 * 4 * 16, (6 * 32 + 2 * 3 * 11 * 16) * 2, 6 * 32 * 2, "cube", "bf16"),
    ),
    (  # ids and the rows they name, not the table
        op(layer.EmbeddingOp, [value(TOKENS, element=i32), value(1000, 16)], value(TOKENS, 16)),
        (0, 6 * 4 + 6 * 16 * 2, 6 * 16 * 2, "none", "i32"),
    ),
    (  # a row of the table per token
        op(layer.PositionEmbeddingOp, [value(TOKENS, 16), value(1000, 16)], value(TOKENS, 16), q_len=Q, kv_len=KV),
        (96, 2 * 96 * 2, 96 * 2, "vector", "bf16"),
    ),
    (
        op(layer.RmsNormOp, [value(TOKENS, 16), value(16)], value(TOKENS, 16), eps=1e-5, group=16),
        (4 * 96, (96 + 16) * 2, 96 * 2, "vector", "bf16"),
    ),
    (  # a gain of 1 + w
        op(layer.RmsNormOp, [value(TOKENS, 16), value(16)], value(TOKENS, 16), eps=1e-5, group=16,
           zero_centered=UnitAttr()),
        (5 * 96, (96 + 16) * 2, 96 * 2, "vector", "bf16"),
    ),
    (  # no gain
        op(layer.RmsNormOp, [value(TOKENS, 16)], value(TOKENS, 16), eps=1e-5, group=8),
        (3 * 96, 96 * 2, 96 * 2, "vector", "bf16"),
    ),
    (  # a residual and its norm, which the sum does not come back for
        op(layer.AddRmsNormOp, [value(TOKENS, 16), value(TOKENS, 16), value(16)],
           value(TOKENS, 16), value(TOKENS, 16), eps=1e-5),
        (5 * 96, (2 * 96 + 16) * 2, 2 * 96 * 2, "vector", "bf16"),
    ),
    (
        op(layer.RopeOp, [value(TOKENS, 16)], value(TOKENS, 16), head_dim=8, theta=1e4, interleaved=False, q_len=Q,
           kv_len=KV),
        (3 * 96, 96 * 2, 96 * 2, "vector", "bf16"),
    ),
    (  # 6 of 8 columns of each of 2 heads are rotated; all are read and written
        op(layer.RopeOp, [value(TOKENS, 16)], value(TOKENS, 16), head_dim=8, theta=1e4, interleaved=False, q_len=Q,
           kv_len=KV, rotary_dim=6),
        (3 * 6 * 2 * 6, 96 * 2, 96 * 2, "vector", "bf16"),
    ),
    (
        op(layer.SiluMulOp, [value(TOKENS, 16), value(TOKENS, 16)], value(TOKENS, 16)),
        (5 * 96, 2 * 96 * 2, 96 * 2, "vector", "bf16"),
    ),
    (  # max and square
        op(layer.ActivationOp, [value(TOKENS, 16)], value(TOKENS, 16), function="relu2"),
        (2 * 96, 96 * 2, 96 * 2, "vector", "bf16"),
    ),
    (  # the activation and a product
        op(layer.GatedActivationOp, [value(TOKENS, 16), value(TOKENS, 16)], value(TOKENS, 16), function="gelu_tanh"),
        (9 * 96, 2 * 96 * 2, 96 * 2, "vector", "bf16"),
    ),
    (  # min; max, min, add; mul; sigmoid; two mul
        op(layer.GatedActivationOp, [value(5, BATCH, 16), value(5, BATCH, 16)], value(5, BATCH, 16),
           function="clamped_swiglu", limit=7.0, alpha=1.702),
        (10 * 5 * 3 * 16, 2 * 5 * 3 * 16 * 2, 5 * 3 * 16 * 2, "vector", "bf16"),
    ),
    (
        op(layer.AddBiasOp, [value(TOKENS, 16), value(16)], value(TOKENS, 16)),
        (96, (96 + 16) * 2, 96 * 2, "vector", "bf16"),
    ),
    (  # a bias of each of 5 experts
        op(layer.AddBiasOp, [value(5, BATCH, 16), value(5, 16)], value(5, BATCH, 16)),
        (5 * 3 * 16, (5 * 3 * 16 + 5 * 16) * 2, 5 * 3 * 16 * 2, "vector", "bf16"),
    ),
    (
        op(layer.ScaleOp, [value(TOKENS, 16)], value(TOKENS, 16), factor=0.5),
        (96, 96 * 2, 96 * 2, "vector", "bf16"),
    ),
    (  # mul, sigmoid, mul, subtract
        op(layer.SoftCapOp, [value(TOKENS, 16)], value(TOKENS, 16), cap=30.0),
        (6 * 96, 96 * 2, 96 * 2, "vector", "bf16"),
    ),
    (  # one number for all
        op(layer.MultiplyOp, [value(TOKENS, 16), value(1)], value(TOKENS, 16)),
        (96, 96 * 2 + 2, 96 * 2, "vector", "bf16"),
    ),
    (  # a sigmoid per head
        op(layer.RowGateOp, [value(TOKENS, 16), value(TOKENS, 2)], value(TOKENS, 16)),
        (96 + 2 * 3 * 6, (96 + 12) * 2, 96 * 2, "vector", "bf16"),
    ),
    (
        op(layer.TemperatureOp, [value(TOKENS, 16)], value(TOKENS, 16), floor=8, scale=0.1,
           q_len=expr("q_len"), kv_len=expr("kv_len")),
        (96, 96 * 2, 96 * 2, "vector", "bf16"),
    ),
    (  # square and sum; 6 sums in FP32
        op(layer.SquareSumOp, [value(TOKENS, 16)], value(TOKENS, 1, element=f32)),
        (2 * 96, 96 * 2, 6 * 4, "vector", "bf16"),
    ),
    (  # times the root, times the gain
        op(layer.SplitRmsNormOp, [value(TOKENS, 16), value(TOKENS, 1), value(16)], value(TOKENS, 16), eps=0.0,
           width=32),
        (2 * 96, (96 + 6 + 16) * 2, 96 * 2, "vector", "bf16"),
    ),
    (  # a sigmoid per row
        op(layer.RowGateOp, [value(TOKENS, 16), value(TOKENS, 1)], value(TOKENS, 16)),
        (96 + 3 * 6, (96 + 6) * 2, 96 * 2, "vector", "bf16"),
    ),
    (
        op(layer.AddOp, [value(TOKENS, 16), value(TOKENS, 16)], value(TOKENS, 16)),
        (96, 2 * 96 * 2, 96 * 2, "vector", "bf16"),
    ),
    (
        op(layer.QuantizeOp, [value(TOKENS, 16)], value(TOKENS, 16, element=F8)),
        (96, 96 * 2, 96, "vector", "bf16"),
    ),
    (
        op(layer.SliceOp, [value(TOKENS, 16)], value(TOKENS, 8), group=8, offset=4, size=4),
        (0, 0, 0, "none", "bf16"),
    ),
    (
        op(layer.LastTokenOp, [value(TOKENS, 16)], value(BATCH, 16), q_len=Q),
        (0, 3 * 16 * 2, 3 * 16 * 2, "none", "bf16"),
    ),
    (  # a copy of 4 streams
        op(layer.CopyStreamsOp, [value(TOKENS, 16)], value(TOKENS, 64), streams=4),
        (0, 96 * 2, 4 * 96 * 2, "vector", "bf16"),
    ),
    (  # of 2 streams 8 weights: two per logit; 4 sigmoids, a mul or add each; a softmax of 2 x 2, its eps; 5 divisions
        op(layer.StreamWeightsOp, [value(TOKENS, 8, element=f32), value(3, element=f32), value(8, element=f32)],
           value(TOKENS, 8, element=f32), streams=2, iterations=3, eps=1e-6),
        (6 * (2 * 8 + 4 * 4 + (4 * 4 + 2) + 4 + 5 * (2 * 4 + 2 * 2)), (48 + 3 + 8) * 4, 48 * 4, "vector", "f32"),
    ),
    (  # of the head: a sigmoid and eps each
        op(layer.StreamWeightsOp, [value(TOKENS, 2, element=f32), value(1, element=f32), value(2, element=f32)],
           value(TOKENS, 2, element=f32), streams=2, iterations=0, eps=1e-6),
        (6 * 2 * (2 + 4), (12 + 1 + 2) * 4, 12 * 4, "vector", "f32"),
    ),
    (
        op(layer.CollapseStreamsOp, [value(TOKENS, 32), value(TOKENS, 8, element=f32)], value(TOKENS, 16), streams=2),
        (2 * 6 * 32, 6 * 32 * 2 + 48 * 4, 96 * 2, "vector", "bf16"),
    ),
    (  # every element is a sum of one product with what is added and two with streams
        op(layer.MixStreamsOp, [value(TOKENS, 32), value(TOKENS, 16), value(TOKENS, 8, element=f32)],
           value(TOKENS, 32), streams=2),
        (5 * 6 * 32, 6 * (32 + 16) * 2 + 48 * 4, 6 * 32 * 2, "vector", "bf16"),
    ),
    (  # scores of all; of two a product with the scale, an add, a mul; one reciprocal
        op(layer.RouterWeightsOp, [value(TOKENS, 10, element=f32), value(TOKENS, 2, element=i32)],
           value(TOKENS, 2, element=f32), scoring="sqrtsoftplus", normalize=True, scale=1.5),
        (60 * 5 + 6 * 7, 60 * 4 + 12 * 4, 12 * 4, "vector", "f32"),
    ),
    (  # a product of each of 2 choices; the factors of all 10 experts are read
        op(layer.ExpertScaleOp, [value(TOKENS, 2, element=f32), value(TOKENS, 2, element=i32), value(10)],
           value(TOKENS, 2, element=f32)),
        (12, 12 * 4 * 2 + 10 * 2, 12 * 4, "vector", "f32"),
    ),
    (
        op(layer.SampledTokensOp, [value(TOKENS, element=i32), value(TOKENS, 1000)], value(TOKENS, element=i32)),
        (0, 0, 0, "none", "i32"),
    ),
    (
        op(layer.RouterTopkOp, [value(TOKENS, 10, element=f32), []], value(TOKENS, 2, element=f32),
           value(TOKENS, 2, element=i32), **ROUTER),
        (60 * 7, 60 * 4, 6 * 2 * 4 * 2, "vector", "f32"),
    ),
    (
        op(layer.DispatchOp, [value(TOKENS, 16), value(TOKENS, 2, element=i32)], value(5, TOKENS, 16),
           capacity="worst"),
        (0, 96 * 2 + 12 * 4, 5 * 96 * 2, "none", "bf16"),
    ),
    (
        op(layer.CombineOp, [value(5, TOKENS, 16), value(TOKENS, 2, element=i32), value(TOKENS, 2, element=f32)],
           value(TOKENS, 16)),
        (2 * 96 * 2, 5 * 96 * 2 + 12 * 4 * 2, 96 * 2, "vector", "bf16"),
    ),
    # 2 queries see 11 and 10 of 11 keys; the state of 6 tokens and 4 heads is (32 + 4 + 4) * 4 bytes a token
    (attention_step(first=True), (3 * 2 * (11 + 10) * 4 * (8 + 8), 6 * 64 + 2 * 3 * 11 * 32, 960, "cube", "bf16")),
    (attention_step(False), (3 * 2 * (11 + 10) * 4 * (8 + 8), 6 * 64 + 2 * 3 * 11 * 32 + 960, 960, "cube", "bf16")),
    (
        op(layer.AttentionFinishOp, [value(TOKENS, 32, element=f32), value(TOKENS, 4, element=f32)], value(TOKENS, 32)),
        (0, 6 * 36 * 4, 6 * 64, "vector", "f32"),  # as attention counts the FLOPs of its matmuls only
    ),
    (  # 4 index heads of 8 + 4 columns against all 11 keys of 3 sequences, whatever is selected afterwards
        op(layer.IndexScoresOp, [[value(TOKENS, 32), value(TOKENS, 16)], [value(BATCH, KV, 8), value(BATCH, KV, 4)],
           value(TOKENS, 4, element=f32)], value(TOKENS, KV, element=f32), qk_dims=ints(8, 4), q_len=Q, scale=0.5),
        (2 * 6 * 11 * 4 * 12, (6 * 48 + 3 * 11 * 12) * 2 + 24 * 4, 66 * 4, "cube", "bf16"),
    ),
    (  # every score is looked at, 5 of 11 are selected
        op(layer.TopkSelectOp, [value(TOKENS, KV, element=f32)], value(TOKENS, min_of(KV, 5), element=i32), top_k=5,
           q_len=Q),
        (66, 66 * 4, 30 * 4, "vector", "f32"),
    ),
    (  # 5 rows of 8 columns per token
        gather("dram"),
        (0, 30 * 4 + 240 * 2, 240 * 2, "none", "bf16"),
    ),
    (  # rows that the cores hold do not come out of DRAM
        gather("on_chip"),
        (0, 30 * 4, 240 * 2, "none", "bf16"),
    ),
    (  # 4 query heads on the 5 keys of each token, which are its values too and are read once
        sparse_attention(),
        (6 * 5 * 2 * 4 * 16, (6 * 32 + 6 * 5 * 8) * 2, 6 * 32 * 2, "cube", "bf16"),
    ),
    (  # 2 index heads of 4 columns against all 11 keys of 3 sequences, of which 4, 4 and 3 are a block
        block_scores(),
        (2 * 6 * 11 * 8, (6 * 8 + 3 * 11 * 4) * 2, 6 * 2 * 3 * 4, "cube", "bf16"),
    ),
    (  # every head of a query looks at its scores of 3 blocks and selects 2
        block_topk(),
        (36, 36 * 4, 24 * 4, "vector", "f32"),
    ),
    (  # 2 blocks of 4 rows of 4 columns for 2 key heads of each token
        block_gather(),
        (0, 24 * 4 + 6 * 8 * 8 * 2, 6 * 8 * 8 * 2, "none", "bf16"),
    ),
    (  # 4 query heads, of which 2 share a key head, on 8 keys of each token
        sparse_attention(8, 16, block=4, top_k=2),
        (6 * 8 * 2 * 4 * 16, (6 * 32 + 6 * 8 * 16) * 2, 6 * 32 * 2, "cube", "bf16"),
    ),
    (
        op(layer.LayerNormOp, [value(TOKENS, 16), value(16), value(16)], value(TOKENS, 16), eps=1e-6),
        (6 * 96, (96 + 32) * 2, 96 * 2, "vector", "bf16"),
    ),
    (  # no bias
        op(layer.LayerNormOp, [value(TOKENS, 16), value(16)], value(TOKENS, 16), eps=1e-6),
        (6 * 96, (96 + 16) * 2, 96 * 2, "vector", "bf16"),
    ),
    (  # 4 taps and silu on 16 channels; the weights, the bias and the last 3 inputs of 3 sequences are read too
        causal_conv(),
        (96 * (2 * 4 + 4), (96 + 64 + 16 + 144) * 2, (96 + 144) * 2, "vector", "bf16"),
    ),
    (  # 4 heads of 5 columns in 2 groups of 8: a state of 40 numbers per head, read and written once
        ssm_scan(),
        (6 * 4 * ((5 * 8 + 3) * 5 + 3), (6 * (20 + 2 * 16)) * 2 + 24 * 4 + 8 * 2 + 3 * 160 * 4,
         6 * 20 * 2 + 3 * 160 * 4, "vector", "f32"),
    ),
    (  # the same with the keys of a head in the rows of its state
        gated_delta(),
        (6 * 4 * ((7 * 8 + 3) * 5 + 1), (6 * (20 + 2 * 16)) * 2 + 2 * 24 * 4 + 3 * 160 * 4, 6 * 20 * 2 + 3 * 160 * 4,
         "vector", "f32"),
    ),
    (  # a decay for every one of the 8 rows of the state of a head
        gated_delta(g=value(TOKENS, 32, element=f32)),
        (6 * 4 * ((7 * 8 + 3) * 5 + 8), (6 * (20 + 2 * 16)) * 2 + (192 + 24) * 4 + 3 * 160 * 4,
         6 * 20 * 2 + 3 * 160 * 4, "vector", "f32"),
    ),
    (
        op(layer.SoftplusOp, [value(TOKENS, 4), value(4)], value(TOKENS, 4, element=f32), low=0.0, high=0.1),
        (6 * 24, (24 + 4) * 2, 24 * 4, "vector", "bf16"),
    ),
    (
        op(layer.DecayOp, [value(TOKENS, 4), value(4, element=f32), value(4)], value(TOKENS, 4, element=f32)),
        (6 * 24, (24 + 4) * 2 + 4 * 4, 24 * 4, "vector", "bf16"),
    ),
    (  # 4 heads of 3 columns
        op(layer.DecayOp, [value(TOKENS, 12), value(4, element=f32), value(12)], value(TOKENS, 12, element=f32)),
        (6 * 72, (72 + 12) * 2 + 4 * 4, 72 * 4, "vector", "bf16"),
    ),
    (
        op(layer.L2NormOp, [value(TOKENS, 16)], value(TOKENS, 16), eps=1e-6, group=8),
        (3 * 96, 96 * 2, 96 * 2, "vector", "bf16"),
    ),
    # Entry 1 closes: 5 tokens of its own and the 5 before, 7 operations each per column and a division per column.
    (compress(), (3 * (10 * 7 + 1) * 6, 2 * 3 * 10 * 6 * 2 + 5 * 12 * 2, 3 * 6 * 2, "vector", "f32")),
    # Both queries see both entries; the running state is read in FP32.
    (compressed_attention(), (2 * 3 * 4 * 4 * 16, (6 * 32 + 3 * 2 * 8) * 2 + 6 * 40 * 4, 6 * 32 * 2, "cube", "bf16")),
    (
        compressed_attention(gathered=True),
        (2 * 6 * 2 * 4 * 16, (6 * 32 + 6 * 2 * 8) * 2 + 6 * 40 * 4, 6 * 32 * 2, "cube", "bf16"),
    ),
    (gated_rms_norm(), (9 * 96, (2 * 96 + 16) * 2, 96 * 2, "vector", "bf16")),
    (gated_rms_norm(activation="sigmoid"), (8 * 96, (2 * 96 + 16) * 2, 96 * 2, "vector", "bf16")),
    (op(layer.WeightOp, [], value(16, 16), axes=names("", "ffn")), (0, 0, 0, "none", "bf16")),
    (op(layer.StateOp, [], value(BATCH, KV, 16), axes=names("batch", "position", "")), (0, 0, 0, "none", "bf16")),
]  # fmt: skip


@pytest.mark.parametrize(("found", "expected"), CASES, ids=[c.name.partition(".")[2] for c, _ in CASES])
def test_work_by_hand(found: layer.LayerOp, expected: tuple[int, int, int, str, str]) -> None:
    found.verify()
    assert numbers(found.work(), **AT) == expected


def test_appending_moves_the_new_rows_only() -> None:
    cache, new = value(BATCH, KV, 16), value(TOKENS, 16)
    append = op(layer.KvAppendOp, [cache, new], cache)
    append.verify()
    assert numbers(append.work(), **AT) == (0, 6 * 16 * 2, 6 * 16 * 2, "none", "bf16")


def test_every_op_has_its_work_in_this_file() -> None:
    names = {found.name for found, _ in CASES}
    structure = [layer.KvAppendOp, layer.ProgramOp, layer.ReturnOp, layer.YieldOp, layer.RepeatOp]
    assert names | {kind.name for kind in structure} == {kind.name for kind in layer.Layer.operations}


# -- verifiers --------------------------------------------------------------------------------------------------

WRONG: list[tuple[str, Any, str]] = [
    ("step state", op(layer.AttentionStepOp, [[value(TOKENS, 32)], [value(BATCH, KV, 16)], value(BATCH, KV, 16),
     [value(TOKENS, 32)]], *[value(TOKENS, n, element=f32) for n in (32, 4, 4)], qk_dims=ints(8), v_dim=8, q_len=Q,
     scale=0.5, causal=True), "the state must be acc, row_max and row_sum"),
    ("soft cap", attention(True, soft_cap=0.0), "soft_cap is 0.0, must be positive"),
    ("soft cap of selected keys", sparse_attention(soft_cap=3.0), "the scores of sparse attention have no soft_cap"),
    ("keys of blocks", sparse_attention(block=4), "block and top_k need each other"),
    ("blocks of one key", block_scores(block=1), "block is 1, must be at least 2"),
    ("index heads", block_scores(width=6), "queries of 6 columns are not whole heads of 4"),
    ("blocks that are always selected", block_topk(always=3), "always is 3, must be 1 to top_k, which is 2"),
    ("blocks without one", block_topk(always=None), "block and always need each other"),
    ("entries and blocks", block_topk(ratio=4), "keys are entries or blocks, not both"),
    ("blocks of other sequences", block_topk(tokens=KV + 8),
     "kv_len + 8 tokens have ceildiv(kv_len, 4) + 2 blocks of 4, not ceildiv(kv_len, 4)"),
    ("heads of gathered blocks", block_gather(width=9), "a cache of 9 columns is not of 2 key heads"),
    ("sinks", attention(True, sinks=2), "sinks is [2], must be [4]"),
    ("sinks of integers", op(layer.AttentionOp, [[value(TOKENS, 32)], [value(BATCH, KV, 16)], value(BATCH, KV, 16),
     [value(4, element=i32)]], value(TOKENS, 32), qk_dims=ints(8), v_dim=8, q_len=Q, scale=0.5, causal=True),
     "sinks are i32, must be a float type"),
    ("step sinks", op(layer.AttentionStepOp, [[value(TOKENS, 32)], [value(BATCH, KV, 16)], value(BATCH, KV, 16),
     [value(TOKENS, n, element=f32) for n in (32, 4, 4)], [value(4)]],
     *[value(TOKENS, n, element=f32) for n in (32, 4, 4)], qk_dims=ints(8), v_dim=8, q_len=Q, scale=0.5, causal=True),
     "only the first step has sinks: they are counted once"),
    ("window", attention(True, window=0), "window is 0, must be at least 1"),
    ("window without an end", attention(False, window=3), "a window needs causal: it ends with the key of the query"),
    ("window and chunk", attention(True, window=3, chunk=3, kv_len=KV), "a window and a chunk exclude each other"),
    ("chunk of what", attention(True, chunk=3), "a chunk needs kv_len, and only a chunk"),
    ("chunk", attention(True, chunk=0, kv_len=KV), "chunk is 0, must be at least 1"),
    ("step window", op(layer.AttentionStepOp, [[value(TOKENS, 32)], [value(BATCH, KV, 16)], value(BATCH, KV, 16),
     [value(TOKENS, n, element=f32) for n in (32, 4, 4)]],
     *[value(TOKENS, n, element=f32) for n in (32, 4, 4)], qk_dims=ints(8), v_dim=8, q_len=Q, scale=0.5, causal=True,
     window=3), "a step of a ring has no window: its keys are every n-th of a sequence"),
    ("step hidden", attention_step(False, hidden=1, causal=False), "hidden needs causal"),
    ("finish heads", op(layer.AttentionFinishOp, [value(TOKENS, 32), value(TOKENS, 5)], value(TOKENS, 32)),
     "5 heads do not divide a width of 32"),
    ("matmul k", op(layer.MatmulOp, [value(TOKENS, 16), value(17, 24)], value(TOKENS, 24)),
     "w is [17, 24], must be [16, 24]"),
    ("matmul y", op(layer.MatmulOp, [value(TOKENS, 16), value(16, 24)], value(BATCH, 24)),
     "y is [batch, 24], must be [batch*q_len, 24]"),
    ("matmul rank", op(layer.MatmulOp, [value(TOKENS, 16), value(16, 24, 2)], value(TOKENS, 24)),
     "x must be [.., K] and w [K, N]"),
    ("grouped", op(layer.GroupedMatmulOp, [value(5, BATCH, 16), value(6, 16, 24)], value(5, BATCH, 24)),
     "w is [6, 16, 24], must be [5, 16, 24]"),
    ("gated", op(layer.GatedMatmulOp, [value(TOKENS, 16), value(16, 24), value(16, 23)], value(TOKENS, 24)),
     "up is !layer.tensor<[16, 23], bf16>, must be !layer.tensor<[16, 24], bf16>, as gate"),
    ("gated experts", op(layer.GatedMatmulOp, [value(5, BATCH, 16), value(6, 16, 24), value(6, 16, 24)],
                         value(5, BATCH, 24)),
     "gate is [6, 16, 24], must be [5, 16, 24]"),
    ("gated rank", op(layer.GatedMatmulOp, [value(TOKENS, 16), value(5, 16, 24), value(5, 16, 24)], value(TOKENS, 24)),
     "x must be [.., K] and gate [K, N], or x [E, C, K] and gate [E, K, N]"),
    ("gated y", op(layer.GatedMatmulOp, [value(TOKENS, 16), value(16, 24), value(16, 24)], value(TOKENS, 23)),
     "y is [batch*q_len, 23], must be [batch*q_len, 24]"),
    ("heads", op(layer.HeadMatmulOp, [value(TOKENS, 32), value(16, 32)], value(TOKENS, 63), group=8, transpose=True),
     "the widths of x, w and y do not agree"),
    ("pieces", op(layer.AttentionOp, [[value(TOKENS, 32)], [], value(BATCH, KV, 16)], value(TOKENS, 32),
                  qk_dims=ints(8), v_dim=8, q_len=Q, scale=0.5, causal=True),
     "as many q as k pieces as qk_dims"),
    ("keys", op(layer.AttentionOp, [[value(TOKENS, 32)], [value(TOKENS, 16)], value(BATCH, KV, 16)],
                value(TOKENS, 32), qk_dims=ints(8), v_dim=8, q_len=Q, scale=0.5, causal=True),
     "keys and values must be [batch, kv_len, width]"),
    ("positions", op(layer.PositionEmbeddingOp, [value(TOKENS, 16), value(12, 16)], value(TOKENS, 16), q_len=Q,
                     kv_len=expr(11), offset=2),
     "the last position needs row 12, table has 12"),
    ("position row", op(layer.PositionEmbeddingOp, [value(TOKENS, 16), value(12, 8)], value(TOKENS, 16), q_len=Q,
                        kv_len=KV),
     "table is [12, 8], must be [12, 16]"),
    ("norm", op(layer.RmsNormOp, [value(TOKENS, 16), value(8)], value(TOKENS, 16), eps=1e-5, group=16),
     "w is [8], must be [16]"),
    ("gain of 1 + nothing", op(layer.RmsNormOp, [value(TOKENS, 16)], value(TOKENS, 16), eps=1e-5, group=16,
                               zero_centered=UnitAttr()),
     "zero_centered needs w"),
    ("layer norm", op(layer.LayerNormOp, [value(TOKENS, 16), value(16), value(8)], value(TOKENS, 16), eps=1e-5),
     "b is [8], must be [16]"),
    ("residual and norm", op(layer.AddRmsNormOp, [value(TOKENS, 16), value(TOKENS, 16), value(8)],
                             value(TOKENS, 16), value(TOKENS, 16), eps=1e-5),
     "w is [8], must be [16]"),
    ("silu", op(layer.SiluMulOp, [value(TOKENS, 16), value(TOKENS, 8)], value(TOKENS, 16)),
     "up is [batch*q_len, 8], must be [batch*q_len, 16]"),
    ("all rotated", op(layer.RopeOp, [value(TOKENS, 16)], value(TOKENS, 16), head_dim=8, theta=1e4, interleaved=False,
                       q_len=Q, kv_len=KV, rotary_dim=8),
     "rotary_dim is 8, must be positive, even and less than 8, the head_dim"),
    ("activation", op(layer.ActivationOp, [value(TOKENS, 16)], value(TOKENS, 16), function="tanh"),
     "function is 'tanh', must be silu, gelu, gelu_tanh, relu, relu2 or sigmoid"),
    ("gate", op(layer.GatedActivationOp, [value(TOKENS, 16), value(TOKENS, 8)], value(TOKENS, 16), function="gelu"),
     "up is [batch*q_len, 8], must be [batch*q_len, 16]"),
    ("silu gate", op(layer.GatedActivationOp, [value(TOKENS, 16), value(TOKENS, 16)], value(TOKENS, 16),
                     function="silu"),
     "function is 'silu', must be gelu, gelu_tanh, relu, relu2, sigmoid, clamped_silu or clamped_swiglu"),
    ("clamp", op(layer.GatedActivationOp, [value(TOKENS, 16), value(TOKENS, 16)], value(TOKENS, 16),
                 function="clamped_silu", alpha=1.0),
     "clamped_silu needs a limit"),
    ("bias", op(layer.AddBiasOp, [value(TOKENS, 16), value(8)], value(TOKENS, 16)), "b is [8], must be [16]"),
    ("expert bias", op(layer.AddBiasOp, [value(5, BATCH, 16), value(16)], value(5, BATCH, 16)),
     "b is [16], must be [5, 16]"),
    ("share of a whole", op(layer.AddBiasOp, [value(TOKENS, 16), value(16)], value(TOKENS, 16), share=expr(1)),
     "share needs x to be a partial sum"),
    ("bias of a row", op(layer.AddBiasOp, [value(16), value(16)], value(16)), "x must be [T, N] or [E, C, N]"),
    ("cap", op(layer.SoftCapOp, [value(TOKENS, 16)], value(TOKENS, 16), cap=0.0), "cap is 0.0, must be positive"),
    ("scale", op(layer.ScaleOp, [value(TOKENS, 16)], value(TOKENS, 8), factor=2.0),
     "y is [batch*q_len, 8], must be [batch*q_len, 16]"),
    ("sum of squares", op(layer.SquareSumOp, [value(TOKENS, 16)], value(TOKENS, 16)),
     "y is [batch*q_len, 16], must be [batch*q_len, 1]"),
    ("sums of rows", op(layer.SplitRmsNormOp, [value(TOKENS, 16), value(BATCH, 1), value(16)], value(TOKENS, 16),
                        eps=0.0, width=32), "sums is [batch, 1], must be [batch*q_len, 1]"),
    ("part of a row", op(layer.SplitRmsNormOp, [value(TOKENS, 16), value(TOKENS, 1), value(16)], value(TOKENS, 16),
                         eps=0.0, width=24), "rows of 24 columns have no part of 16 columns"),
    ("row gate", op(layer.RowGateOp, [value(TOKENS, 16), value(BATCH, 1)], value(TOKENS, 16)),
     "gate is [batch, 1], must be [batch*q_len, 1]"),
    ("head gate", op(layer.RowGateOp, [value(TOKENS, 16), value(TOKENS, 3)], value(TOKENS, 16)),
     "3 gates do not divide 16 columns"),
    ("multiply", op(layer.MultiplyOp, [value(TOKENS, 16), value(16)], value(TOKENS, 16)), "w is [16], must be [1]"),
    ("one stream", op(layer.CopyStreamsOp, [value(TOKENS, 16)], value(TOKENS, 16), streams=1),
     "streams is 1, must be at least 2"),
    ("copies", op(layer.CopyStreamsOp, [value(TOKENS, 16)], value(TOKENS, 16), streams=2),
     "y is [batch*q_len, 16], must be [batch*q_len, 32]"),
    ("stream logits", op(layer.StreamWeightsOp, [value(TOKENS, 9), value(3), value(9)], value(TOKENS, 9), streams=2,
     iterations=1, eps=0.0), "2 streams have 8 weights, found 9"),
    ("stream scale", op(layer.StreamWeightsOp, [value(TOKENS, 8), value(1), value(8)], value(TOKENS, 8), streams=2,
     iterations=1, eps=0.0), "scale is [1], must be [3]"),
    ("collapse", op(layer.CollapseStreamsOp, [value(TOKENS, 32), value(TOKENS, 6)], value(TOKENS, 16), streams=2),
     "weights is [batch*q_len, 6], must be [batch*q_len, 8]"),
    ("mix with those of the head",
     op(layer.MixStreamsOp, [value(TOKENS, 32), value(TOKENS, 16), value(TOKENS, 2)], value(TOKENS, 32), streams=2),
     "weights is [batch*q_len, 2], must be [batch*q_len, 8]"),
    ("mix what is too wide",
     op(layer.MixStreamsOp, [value(TOKENS, 32), value(TOKENS, 32), value(TOKENS, 8)], value(TOKENS, 32), streams=2),
     "added is [batch*q_len, 32], must be [batch*q_len, 16]"),
    ("uneven streams",
     op(layer.CollapseStreamsOp, [value(TOKENS, 32), value(TOKENS, 15)], value(TOKENS, 16), streams=3),
     "3 does not divide 32 columns"),
    ("weights of floats", op(layer.RouterWeightsOp, [value(TOKENS, 10), value(TOKENS, 2)], value(TOKENS, 2),
     scoring="softmax", normalize=True, scale=1.0), "indices are bf16, must be integers"),
    ("weights of more than there are", op(layer.RouterWeightsOp, [value(TOKENS, 10), value(TOKENS, 12, element=i32)],
     value(TOKENS, 12), scoring="softmax", normalize=True, scale=1.0), "top_k is 12, must be 1 to 10, the experts"),
    ("factors of fewer", op(layer.ExpertScaleOp, [value(TOKENS, 4), value(TOKENS, 4, element=i32), value(3)],
                            value(TOKENS, 4)), "experts is 3, must be at least 4, the choices"),
    ("factors of others", op(layer.ExpertScaleOp, [value(TOKENS, 4), value(TOKENS, 3, element=i32), value(8)],
                             value(TOKENS, 4)), "indices is [batch*q_len, 3], must be [batch*q_len, 4]"),
    ("temperature", op(layer.TemperatureOp, [value(TOKENS, 16)], value(TOKENS, 16), floor=0, scale=0.1,
     q_len=expr("q_len"), kv_len=expr("kv_len")), "floor is 0, must be positive"),
    ("add", op(layer.AddOp, [value(TOKENS, 16), value(TOKENS, 16)], value(TOKENS, 8)),
     "y is [batch*q_len, 8], must be [batch*q_len, 16]"),
    ("quantize", op(layer.QuantizeOp, [value(TOKENS, 16)], value(TOKENS, 8, element=F8)),
     "y is [batch*q_len, 8], must be [batch*q_len, 16]"),
    ("slice end", op(layer.SliceOp, [value(TOKENS, 16)], value(TOKENS, 8), group=8, offset=6, size=4),
     "the slice leaves its group"),
    ("slice width", op(layer.SliceOp, [value(TOKENS, 16)], value(TOKENS, 4), group=8, offset=4, size=4),
     "the width of y is not size per group of x"),
    ("append rows", op(layer.KvAppendOp, [value(expr(3), KV, 16), value(expr(38), 16)], value(expr(3), KV, 16)),
     "3 sequences cannot have 38 new rows"),
    ("append to nothing", op(layer.KvAppendOp, [value(expr(0), KV, 16), value(expr(2), 16)], value(expr(0), KV, 16)),
     "0 sequences cannot have 2 new rows"),
    ("append type", op(layer.KvAppendOp, [value(BATCH, KV, 16), value(TOKENS, 16)], value(BATCH, KV, 8)),
     "the result must have the type of the cache"),
    ("append element", op(layer.KvAppendOp, [value(BATCH, KV, 16), value(TOKENS, 16, element=f32)],
                          value(BATCH, KV, 16)),
     "new rows need the type of the cache"),
    ("conv rank", causal_conv(state=value(BATCH, 48)), "x must be [T, C] and the state [batch, W-1, C]"),
    ("conv channels", causal_conv(weight=value(15, 4)), "weight is [15, 4], must be [16, 4]"),
    ("conv taps", causal_conv(weight=value(16, 1)), "weight has 1 taps, must have at least 2"),
    ("conv state", causal_conv(state=value(BATCH, 4, 16)), "the state is [batch, 4, 16], must be [batch, 3, 16]"),
    ("conv state type", causal_conv(state=value(BATCH, 3, 16, element=f32)),
     "the state is f32, must be bf16, as the inputs that it keeps"),
    ("conv state after", causal_conv(after=value(BATCH, 3, 16, element=f32)),
     "the state after the step must have the type of the state"),
    ("conv sequences", causal_conv(x=value(7, 16), y=value(7, 16), state=value(2, 3, 16)),
     "2 sequences cannot have 7 new rows"),
    ("conv bias", causal_conv(bias=value(4)), "the bias is [4], must be [16]"),
    ("conv activation", causal_conv(activation="gelu"), "activation is 'gelu', must be none or silu"),
    ("scan rank", ssm_scan(x=value(BATCH, Q, 20)), "x, b, c, dt must be [T, width] with a number of columns"),
    ("scan state rank", ssm_scan(state=value(BATCH, 160, element=f32)), "the state must be [batch, rows, columns]"),
    ("scan heads", ssm_scan(dt=value(TOKENS, 3)), "3 heads do not divide 20 columns"),
    ("scan no heads", ssm_scan(dt=value(TOKENS, 0)), "0 heads do not divide 20 columns"),
    ("scan groups", ssm_scan(b=value(TOKENS, 24), c=value(TOKENS, 24)), "3 groups do not divide 4 heads"),
    ("scan keys", ssm_scan(b=value(TOKENS, 12)), "12 columns are not whole groups of 8"),
    ("scan c", ssm_scan(c=value(TOKENS, 8)), "c is [batch*q_len, 8], must be [batch*q_len, 16]"),
    ("scan dt", ssm_scan(dt=value(BATCH, 4)), "dt is [batch, 4], must be [batch*q_len, 4]"),
    ("scan d", ssm_scan(d=value(5)), "d is [5], must be [4]"),
    ("scan y", ssm_scan(y=value(TOKENS, 10)), "y is [batch*q_len, 10], must be [batch*q_len, 20]"),
    ("scan state", ssm_scan(state=value(BATCH, 16, 8, element=f32)),
     "the state is [batch, 16, 8], must be [batch, 20, 8]"),
    ("scan state type", ssm_scan(state=value(BATCH, 20, 8)),
     "the state is bf16, must be f32: it adds up over all tokens"),
    ("scan state after", ssm_scan(after=value(BATCH, 20, 8)),
     "the state after the step must have the type of the state"),
    ("delta rows", gated_delta(state=value(BATCH, 30, 5, element=f32)), "4 heads do not divide 30 rows of the state"),
    ("delta state", gated_delta(state=value(BATCH, 32, 4, element=f32)),
     "the state is [batch, 32, 4], must be [batch, 32, 5]"),
    ("delta keys", gated_delta(q=value(TOKENS, 12)), "12 columns are not whole groups of 8"),
    ("delta k", gated_delta(k=value(TOKENS, 8)), "k is [batch*q_len, 8], must be [batch*q_len, 16]"),
    ("delta beta", gated_delta(beta=value(TOKENS, 5)), "5 heads do not divide 32 rows of the state"),
    ("delta g", gated_delta(g=value(TOKENS, 12)),
     "g has 12 columns, must have 4, one per head, or 32, one per row of the state"),
    ("softplus bias", op(layer.SoftplusOp, [value(TOKENS, 4), value(3)], value(TOKENS, 4), low=0.0, high=1.0),
     "bias is [3], must be [4]"),
    ("softplus limits", op(layer.SoftplusOp, [value(TOKENS, 4), value(4)], value(TOKENS, 4), low=1.0, high=0.5),
     "low is 1.0, must not be above high, which is 0.5"),
    ("decay", op(layer.DecayOp, [value(TOKENS, 4), value(TOKENS, 4), value(4)], value(TOKENS, 4)),
     "a_log must be [heads]"),
    ("decay heads", op(layer.DecayOp, [value(TOKENS, 4), value(3), value(4)], value(TOKENS, 4)),
     "a_log is that of 3 heads, which do not divide 4 columns"),
    ("decay bias", op(layer.DecayOp, [value(TOKENS, 8), value(4), value(4)], value(TOKENS, 8)),
     "bias is [4], must be [8]"),
    ("decay rank", op(layer.DecayOp, [value(BATCH, Q, 4), value(4), value(4)], value(TOKENS, 4)),
     "x must be [T, heads]"),
    ("decay y", op(layer.DecayOp, [value(TOKENS, 4), value(4), value(4)], value(TOKENS, 3)),
     "y is [batch*q_len, 3], must be [batch*q_len, 4]"),
    ("l2 group", op(layer.L2NormOp, [value(TOKENS, 16)], value(TOKENS, 16), eps=1e-6, group=6),
     "6 does not divide 16 columns"),
    ("l2 rank", op(layer.L2NormOp, [value(BATCH, Q, 16)], value(BATCH, Q, 16), eps=1e-6, group=8),
     "x must be [T, width]"),
    ("l2 y", op(layer.L2NormOp, [value(TOKENS, 16)], value(TOKENS, 8), eps=1e-6, group=8),
     "y is [batch*q_len, 8], must be [batch*q_len, 16]"),
    ("gated norm w", gated_rms_norm(w=value(4)), "w is [4], must be [8]"),
    ("gated norm activation", gated_rms_norm(activation="relu"), "activation is 'relu', must be silu or sigmoid"),
    ("gated norm group", gated_rms_norm(group=5), "5 does not divide 16 columns"),
    ("gated norm gate", gated_rms_norm(gate=value(TOKENS, 8)), "gate is [batch*q_len, 8], must be [batch*q_len, 16]"),
    ("gated norm y", gated_rms_norm(y=value(TOKENS, 8)), "y is [batch*q_len, 8], must be [batch*q_len, 16]"),
    ("router", op(layer.RouterTopkOp, [value(TOKENS, 10), []], value(TOKENS, 3), value(TOKENS, 2), **ROUTER),
     "weights is [batch*q_len, 3], must be [batch*q_len, 2]"),
    ("scoring", op(layer.RouterTopkOp, [value(TOKENS, 10), []], value(TOKENS, 2), value(TOKENS, 2),
                   **{**ROUTER, "scoring": "relu"}),
     "scoring must be softmax, sigmoid, sqrtsoftplus, none"),
    ("capacity", op(layer.DispatchOp, [value(TOKENS, 16), value(TOKENS, 2)], value(5, 6, 16), capacity="some"),
     "capacity must be balanced or worst"),
    ("dispatch", op(layer.DispatchOp, [value(TOKENS, 16), value(TOKENS, 2)], value(TOKENS, 16), capacity="worst"),
     "y must be [E, C, H]"),
    ("indices", op(layer.DispatchOp, [value(TOKENS, 16), value(TOKENS, 2)], value(5, 6, 16), capacity="worst"),
     "indices are bf16, must be integers"),
    ("combined", op(layer.CombineOp, [value(5, 6, 16), value(TOKENS, 2), value(TOKENS, 2)], value(TOKENS, 16)),
     "indices are bf16, must be integers"),
    ("choices", op(layer.RouterTopkOp, [value(TOKENS, 10), []], value(TOKENS, 2), value(TOKENS, 2), **ROUTER),
     "indices are bf16, must be integers"),
    ("axes", op(layer.WeightOp, [], value(16, 16), axes=names("ffn")), "1 axes for a tensor of 2 dims"),
    ("weight role", op(layer.WeightOp, [], value(16), axes=names(""), role="latent"),
     "the role is 'latent', must be 'bias'"),
    ("cache role", op(layer.StateOp, [], value(2, 9, 16), axes=names("", "", ""), role="bias"),
     "the role is 'bias', must be 'key_value_heads' or 'latent'"),
]  # fmt: skip


@pytest.mark.parametrize(("found", "message"), [w[1:] for w in WRONG], ids=[w[0] for w in WRONG])
def test_a_wrong_op_says_what_is_wrong_and_where(found: PmcOp, message: str) -> None:
    with pytest.raises(VerifyException) as error:
        found.verify()
    assert f"{found.name} at '{PATH}': {message}" in str(error.value)


def test_an_operand_that_is_no_tensor_is_refused() -> None:
    with pytest.raises(VerifyException, match="operand 'x' at position 0 does not verify"):
        op(layer.QuantizeOp, [create_ssa_value(bf16)], value(4)).verify()


# -- partial sums -----------------------------------------------------------------------------------------------


def partial(*dims: Expr | int, axes: tuple[str, ...] = ("tp",)) -> SSAValue:
    return value(*dims, encoding=PartialAttr(axes))


def test_a_partial_sum_must_be_reduced_before_a_norm() -> None:
    found = op(layer.RmsNormOp, [partial(TOKENS, 16), value(16)], value(TOKENS, 16), eps=1e-5, group=16)
    with pytest.raises(VerifyException) as error:
        found.verify()
    message = f"layer.rms_norm at '{PATH}': operand 0 is a partial sum over tp; reduce it first"
    assert message in str(error.value)


@pytest.mark.parametrize(
    "found",
    [
        op(layer.SiluMulOp, [value(TOKENS, 16), partial(TOKENS, 16)], value(TOKENS, 16)),
        op(layer.MatmulOp, [partial(TOKENS, 16), value(16, 24)], partial(TOKENS, 24)),
        op(layer.QuantizeOp, [partial(TOKENS, 16)], partial(TOKENS, 16)),
        op(layer.AddBiasOp, [partial(TOKENS, 16), value(16)], partial(TOKENS, 16)),
        op(layer.SoftCapOp, [partial(TOKENS, 16)], partial(TOKENS, 16), cap=1.0),
        op(layer.RowGateOp, [value(TOKENS, 16), partial(TOKENS, 1)], value(TOKENS, 16)),
        op(layer.KvAppendOp, [value(BATCH, KV, 16), partial(TOKENS, 16)], value(BATCH, KV, 16)),
        op(layer.RopeOp, [partial(TOKENS, 16)], partial(TOKENS, 16), head_dim=8, theta=1e4, interleaved=False,
           q_len=Q, kv_len=KV),
    ],
    ids=lambda found: found.name,
)  # fmt: skip
def test_only_linear_ops_take_partial_sums(found: PmcOp) -> None:
    with pytest.raises(VerifyException, match="is a partial sum over tp; reduce it first"):
        found.verify()


def test_a_partial_operand_of_the_wrong_shape_is_refused_like_any_other() -> None:
    shapes = [[value(TOKENS, 32)], [partial(TOKENS, 16), value(BATCH, KV, 16)], value(BATCH, KV, 16)]
    found = op(layer.AttentionOp, shapes, value(TOKENS, 32), qk_dims=ints(8), v_dim=8, q_len=Q, scale=0.5, causal=True)
    with pytest.raises(VerifyException, match=r"layer.attention at '.*': operand 1 is a partial sum over tp"):
        found.verify()


def test_a_sum_of_partial_sums_is_one_too() -> None:
    op(layer.AddOp, [partial(TOKENS, 16), partial(TOKENS, 16)], partial(TOKENS, 16)).verify()
    with pytest.raises(VerifyException, match="the result of a partial sum over tp is partial too"):
        op(layer.AddOp, [partial(TOKENS, 16), partial(TOKENS, 16)], value(TOKENS, 16)).verify()
    with pytest.raises(VerifyException, match="operands are partial sums over different axes"):
        op(layer.AddOp, [partial(TOKENS, 16), value(TOKENS, 16)], partial(TOKENS, 16)).verify()
    with pytest.raises(VerifyException, match="operands are partial sums over different axes"):
        op(layer.AddOp, [partial(TOKENS, 16), partial(TOKENS, 16, axes=("ep",))], partial(TOKENS, 16)).verify()


def test_a_share_of_a_bias_makes_a_partial_sum_of_a_partial_sum() -> None:
    share = expr(1) - expr("tp.rank")
    op(layer.AddBiasOp, [partial(TOKENS, 16), value(16)], partial(TOKENS, 16), share=share).verify()
    with pytest.raises(VerifyException, match="the result of a partial sum over tp is partial too"):
        op(layer.AddBiasOp, [partial(TOKENS, 16), value(16)], value(TOKENS, 16), share=share).verify()


def test_a_multiple_of_a_partial_sum_is_one_too() -> None:
    op(layer.ScaleOp, [partial(TOKENS, 16)], partial(TOKENS, 16), factor=2.0).verify()
    op(layer.RowGateOp, [partial(TOKENS, 16), value(TOKENS, 1)], partial(TOKENS, 16)).verify()


def test_a_sharding_says_that_a_value_is_partial_too() -> None:
    sharding = ShardingAttr(Sharding((("dp",), ()), ("tp",)))
    x, w = value(TOKENS, 16, encoding=sharding), value(16, encoding=ShardingAttr(Sharding(((),))))
    with pytest.raises(VerifyException, match="operand 0 is a partial sum over tp"):
        op(layer.RmsNormOp, [x, w], value(TOKENS, 16, encoding=sharding), eps=1e-5, group=16).verify()


# -- sharding rules ---------------------------------------------------------------------------------------------


@pytest.mark.parametrize(("found", "expected"), CASES, ids=[c.name.partition(".")[2] for c, _ in CASES])
def test_a_rule_names_a_factor_for_every_dim(found: layer.LayerOp, expected: object) -> None:
    rule = found.sharding_rule()
    for values, factors in ((found.operands, rule.operands), (found.results, rule.results)):
        assert [len(f) for f in factors] == [len(v.type.dims) for v in values if isinstance(v.type, TensorType)]
    assert rule.linear <= set(range(len(found.operands))) and rule.stationary <= set(range(len(found.operands)))


def test_heads_of_a_shared_key_are_not_split() -> None:
    split, shared = attention(True).sharding_rule(), attention(True, kv_heads=1).sharding_rule()
    assert split.operands[1][2] == "g" and shared.operands[1][2] == "_"


def test_a_row_that_is_normalised_whole_is_not_split() -> None:
    whole = op(layer.RmsNormOp, [value(TOKENS, 16), value(16)], value(TOKENS, 16), eps=1e-5, group=16)
    heads = op(layer.RmsNormOp, [value(TOKENS, 16), value(8)], value(TOKENS, 16), eps=1e-5, group=8)
    assert whole.sharding_rule().operands[0] == ("t", "_") and heads.sharding_rule().operands[0] == ("t", "h")


# -- programs ---------------------------------------------------------------------------------------------------

ROW = "!layer.tensor<[batch*q_len, 16], bf16>"


def program(body: str) -> str:
    return (
        'builtin.module {\n  layer.program() {sym_name = "tiny", phase = "decode"} at "tiny" {\n'
        f"  ^bb0(%x : {ROW}):\n{body}\n  }}\n}}\n"
    )


REPEAT = f"""
    %y = layer.repeat 2 from 1 of 4 (%h = %x) at "blocks" : {ROW} {{
      %w = layer.weight() {{axes = ["", "ffn"]}} at "blocks.w" : !layer.tensor<[16, 16], bf16>
      %z = layer.matmul(%h, %w) at "blocks.up" : {ROW}
      layer.yield([%z]) at "blocks"
    }}
    layer.return([%y]) at "tiny"
"""


def test_a_repeat_reads_and_prints() -> None:
    module = parse_module(program(REPEAT), "repeat.mlir")
    repeat = next(o for o in module.walk() if isinstance(o, layer.RepeatOp))
    assert (repeat.trip_count, repeat.first.value.data, repeat.total.value.data) == (2, 1, 4)
    for generic in (False, True):
        again = parse_module(module_text(module, generic), "again.mlir")
        assert again.is_structurally_equivalent(module)
    assert "layer.repeat 2 from 1 of 4 (%h = %x) at" in module_text(module)


@pytest.mark.parametrize(
    ("old", "new", "message"),
    [
        ("2 from 1 of 4", "0 from 1 of 4", "layer.repeat at 'blocks': iterations 1..1 of 4 stored layers"),
        ("2 from 1 of 4", "4 from 1 of 4", "layer.repeat at 'blocks': iterations 1..5 of 4 stored layers"),
        ('      layer.yield([%z]) at "blocks"\n', "", "layer.matmul terminates block"),
        ("layer.yield([%z])", "layer.return([%z])", "layer.repeat at 'blocks': the body must end in layer.yield"),
        ("!layer.tensor<[16, 16], bf16>", "!layer.tensor<[], bf16>", "a tensor has at least one dim"),
        ("layer.yield([%z])", "layer.yield([])", "yielded values have types"),
        ('    layer.return([%y]) at "tiny"\n', "", "layer.program 'tiny': the body must end in layer.return"),
        (f'"blocks" : {ROW}', '"blocks" : !layer.tensor<[3], bf16>', "the result types of layer.repeat must be"),
        ("layer.matmul(%h", "layer.matmul(%v", "value %v is used before its definition"),
        (f'"blocks.up" : {ROW}', '"blocks.up" : !layer.tensor<[batch*q_len, 8], bf16>',
         "layer.matmul at 'blocks.up': y is [batch*q_len, 8], must be [batch*q_len, 16]"),
    ],
)  # fmt: skip
def test_a_malformed_program_is_one_line_with_its_place(old: str, new: str, message: str) -> None:
    assert old in program(REPEAT)
    with pytest.raises(PmcError) as error:
        parse_module(program(REPEAT).replace(old, new, 1), "bad.mlir")
    assert message in str(error.value) and "\n" not in str(error.value)
    assert str(error.value).startswith("bad.mlir:")


def test_repeat_built_in_python_takes_its_types_from_the_initial_values() -> None:
    weight = op(layer.WeightOp, [], value(16, 16), axes=names("", ""))
    block = Block(arg_types=[weight.result.type])
    block.add_op(layer.YieldOp.make([block.args], [], PATH))
    repeat = layer.RepeatOp.build_with(3, [weight.result], Region(block), PATH)
    ModuleOp([weight, repeat]).verify()
    assert repeat.total.value.data == 3 and repeat.outs[0].type == weight.result.type
