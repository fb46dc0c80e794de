"""Expansion of DeepSeek-V4's attention: attention over a window, over compressed entries, and their compressors."""

from __future__ import annotations

import math

from xdsl.dialects.builtin import ArrayAttr, Float32Type, IntegerAttr, UnitAttr, i32, i64
from xdsl.ir import SSAValue

from pmc.dialects import layer, model
from pmc.dialects.assembly import PropertyValue
from pmc.dialects.compressed_attention import closing_entries, entries_of
from pmc.dialects.expr import expr, min_of
from pmc.dialects.tensor import tensor
from pmc.passes.expand_blocks.block_builder import BATCH, KV_LEN, Q_LEN, TOKENS, BlockBuilder
from pmc.passes.expand_blocks.sparse_attention import gathered


def expand_compressed_attention(
    build: BlockBuilder, x: SSAValue, op: model.CompressedAttentionOp, phase: str
) -> SSAValue:
    """y = o_b(o_a(attention rotated back)), group by group in o_a.

    Attention over the window leaves its running state where there are entries, and attention over these goes on from
    it: the two have masks and sources of their own, and one softmax.
    """
    d, eps = op.head_dim.value.data, op.norm_eps
    query_latent = build.norm(build.matmul(x, "q_a_proj"), "q_a_norm", eps)
    q = build.rms_normalize(build.matmul(query_latent, "q_b_proj"), "q_b_norm", d, eps)
    q = _rope(build, q, "q_rope", d, op)
    kv = _rope(build, build.norm(build.matmul(x, "kv_proj"), "kv_norm", eps), "kv_rope", d, op)
    keys = build.appended("kv", kv)
    properties: dict[str, PropertyValue] = {
        "qk_dims": ArrayAttr([IntegerAttr(d, i64)]),
        "v_dim": d,
        "q_len": Q_LEN,
        "scale": 1 / math.sqrt(d),
    }
    of_window = {**properties, "causal": True, "window": op.window}
    sinks, result = build.weight("sinks"), build.tensor_type(TOKENS, op.heads * d)
    if op.compress_ratio is None:
        y = build.op(layer.AttentionOp, [[q], [keys], keys, sinks], "attention", result, of_window)
    else:
        entries = _entries(build, x, "compressor", d, op)
        if op.has_indexer:
            selected = _selected(build, x, query_latent, op)
            entries = gathered(build, entries, selected, "gather_entries", phase)
            properties["q_len"] = expr(1)
        widths = (op.heads * d, op.heads, op.heads)
        state = build.ops(
            layer.AttentionStepOp,
            [[q], [keys], keys, [], sinks],
            "window_attention",
            [build.tensor_type(TOKENS, width, element_type=Float32Type()) for width in widths],
            of_window,
        )
        of_entries: dict[str, PropertyValue] = {
            "ratio": op.compress_ratio,
            "sequence_q_len": Q_LEN,
            "sequence_kv_len": KV_LEN,
            "causal": False,
        }
        y = build.op(
            layer.CompressedAttentionOp, [[q], [entries], entries, *state], "attention", result, properties | of_entries
        )
    y = _rope(build, y, "o_rope", d, op, inverse=UnitAttr())
    groups = op.o_groups.value.data * op.o_lora_rank.value.data
    given: dict[str, PropertyValue] = {"group": op.o_lora_rank, "transpose": False}
    w = build.weight("o_a_proj.weight")
    y = build.op(layer.HeadMatmulOp, [y, w], "o_a_proj", build.tensor_type(TOKENS, groups), given)
    return build.matmul(y, "o_b_proj")


def _rope(
    build: BlockBuilder,
    x: SSAValue,
    name: str,
    head_dim: int,
    op: model.CompressedAttentionOp,
    **changes: PropertyValue,
) -> SSAValue:
    """The last columns of every head rotated."""
    return build.rope(
        x, name, head_dim, op.rope_theta, op.rope_scaling, True, op.qk_rope_head_dim, trailing=UnitAttr(), **changes
    )


def _entries(build: BlockBuilder, x: SSAValue, name: str, width: int, op: model.CompressedAttentionOp) -> SSAValue:
    """All entries of every sequence, those that close in this step behind the others.

    An entry is rotated as the first of its tokens: entry w stands at position ratio * w.
    """
    assert op.compress_ratio is not None, "it has a compressor"
    ratio = op.compress_ratio.value.data
    open_tokens = [
        build.appended(f"{name}.open_{part}", build.matmul(x, f"{name}.{part}_proj")) for part in ("kv", "gate")
    ]
    closing = closing_entries(Q_LEN, KV_LEN, ratio)
    given: dict[str, PropertyValue] = {
        "ratio": op.compress_ratio,
        "overlapping": op.series == 2,
        "q_len": Q_LEN,
        "kv_len": KV_LEN,
    }
    operands = [*open_tokens, build.weight(f"{name}.position_bias")]
    new = build.op(layer.CompressOp, operands, f"{name}.pool", build.tensor_type(BATCH * closing, width), given)
    new = build.norm(new, f"{name}.kv_norm", op.norm_eps)
    places: dict[str, PropertyValue] = {"q_len": closing, "kv_len": entries_of(KV_LEN, ratio), "stride": ratio}
    new = _rope(build, new, f"{name}.rope", width, op, **places)
    return build.appended(f"{name}.entry", new)


def _selected(build: BlockBuilder, x: SSAValue, query_latent: SSAValue, op: model.CompressedAttentionOp) -> SSAValue:
    """The entries that every query attends to, by the scores of the indexer over all entries."""
    assert op.compress_ratio is not None and op.index_topk is not None, "it has an indexer"
    heads, d = op.index_dims
    entries = _entries(build, x, "indexer", d, op)
    q = _rope(build, build.matmul(query_latent, "indexer.q_b_proj"), "indexer.q_rope", d, op)
    weights = build.matmul(x, "indexer.weights_proj", element_type=Float32Type())
    count = tensor(entries).dims[1]
    scores = build.op(
        layer.IndexScoresOp,
        [[q], [entries], weights],
        "indexer.scores",
        build.tensor_type(TOKENS, count, element_type=Float32Type()),
        {"qk_dims": ArrayAttr([IntegerAttr(d, i64)]), "q_len": Q_LEN, "scale": 1 / math.sqrt(d * heads)},
    )
    return build.op(
        layer.TopkSelectOp,
        [scores],
        "indexer.topk",
        build.tensor_type(TOKENS, min_of(count, op.index_topk.value.data), element_type=i32),
        {"top_k": op.index_topk, "q_len": Q_LEN, "ratio": op.compress_ratio, "tokens": KV_LEN},
    )
