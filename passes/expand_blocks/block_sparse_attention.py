"""Expansion of attention to selected blocks of keys (MiniMax-M3): the indexer, the selection, and attention."""

from __future__ import annotations

import math

from xdsl.dialects.builtin import ArrayAttr, Float32Type, IntegerAttr, i32, i64
from xdsl.ir import SSAValue

from pmc.dialects import layer, model
from pmc.dialects.assembly import PropertyValue
from pmc.dialects.expr import ceildiv, expr, min_of
from pmc.dialects.tensor import tensor
from pmc.passes.expand_blocks.attention import grouped_result, grouped_values, normalised, rotated
from pmc.passes.expand_blocks.block_builder import KV_LEN, Q_LEN, TOKENS, BlockBuilder
from pmc.passes.expand_blocks.sparse_attention import DOMAINS

INDEX = ("indexer.q", "indexer.k")
"""What the projections and norms of the indexer are called."""


def expand_block_sparse_attention(
    build: BlockBuilder, x: SSAValue, op: model.BlockSparseAttentionOp, phase: str
) -> SSAValue:
    """y = o_proj(attention of every token over the rows of the blocks that each key head has selected for it)."""
    _, block, top_k, _ = op.index_sizes
    found = grouped_values(build, x, op)
    selected = _selected(build, x, op)
    keys, values = (
        _gathered(build, cache, selected, name, block, phase)
        for cache, name in ((found.keys, "gather_k"), (found.values, "gather_v"))
    )
    d = op.head_dim.value.data
    attended = build.op(
        layer.SparseAttentionOp,
        [[found.q], [keys], values],
        "attention",
        build.tensor_type(TOKENS, op.heads * op.v_dim),
        {
            "qk_dims": ArrayAttr([IntegerAttr(d, i64)]),
            "v_dim": op.v_dim,
            "q_len": expr(1),
            "scale": 1 / math.sqrt(d) if op.softmax_scale is None else op.softmax_scale.value.data,
            "causal": False,
            "sequence_q_len": Q_LEN,
            "sequence_kv_len": KV_LEN,
            "block": block,
            "top_k": top_k,
        },
    )
    return grouped_result(build, x, attended, op)


def _selected(build: BlockBuilder, x: SSAValue, op: model.BlockSparseAttentionOp) -> SSAValue:
    """The numbers of the blocks that every key head selects for every token."""
    width, block, top_k, local = op.index_sizes
    q, k = (_normalised_and_rotated(build, build.matmul(x, f"{name}_proj"), name, width, op) for name in INDEX)
    heads, blocks = op.kv_heads, ceildiv(KV_LEN, block)
    scores = build.op(
        layer.BlockScoresOp,
        [q, build.appended("indexer.k", k)],
        "indexer.scores",
        build.tensor_type(TOKENS, heads, blocks, element_type=Float32Type()),
        {"block": block, "q_len": Q_LEN},
    )
    return build.op(
        layer.TopkSelectOp,
        [scores],
        "indexer.topk",
        build.tensor_type(TOKENS, heads, min_of(blocks, top_k), element_type=i32),
        {"top_k": top_k, "q_len": Q_LEN, "block": block, "always": local, "tokens": KV_LEN},
    )


def _normalised_and_rotated(
    build: BlockBuilder, rows: SSAValue, name: str, width: int, op: model.BlockSparseAttentionOp
) -> SSAValue:
    """Index queries or keys, as those of attention are."""
    return rotated(build, normalised(build, rows, f"{name}_norm", op), f"{name}_rope", width, op)


def _gathered(build: BlockBuilder, cache: SSAValue, selected: SSAValue, name: str, block: int, phase: str) -> SSAValue:
    """The rows of the `selected` blocks of a cache, of every token by themselves."""
    (tokens, _, count), width = tensor(selected).dims, tensor(cache).dims[2]
    result = build.tensor_type(tokens, count * block, width, element_type=tensor(cache).element_type)
    given: dict[str, PropertyValue] = {"q_len": Q_LEN, "bandwidth_domain": DOMAINS[phase], "block": block}
    return build.op(layer.GatherRowsOp, [cache, selected], name, result, given)
