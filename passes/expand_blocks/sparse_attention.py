"""Expansion of DeepSeek sparse attention: the indexer, the selection, and attention over the gathered latents."""

from __future__ import annotations

import math

from xdsl.dialects.builtin import ArrayAttr, Float32Type, IntegerAttr, i32, i64
from xdsl.ir import SSAValue

from pmc.dialects import layer, model
from pmc.dialects.assembly import PropertyValue
from pmc.dialects.expr import expr, min_of
from pmc.dialects.tensor import tensor
from pmc.passes.expand_blocks.attention import (
    absorbed_queries,
    absorbed_values,
    absorbed_weights,
    latent_values,
    mla_softmax_scale,
)
from pmc.passes.expand_blocks.block_builder import KV_LEN, Q_LEN, TOKENS, BlockBuilder

DOMAINS = {"prefill": "on_chip", "decode": "dram"}
"""Where the rows that a query selects come from: prefill has just computed them, decode finds them in DRAM."""


def expand_dsa(
    build: BlockBuilder, x: SSAValue, chosen: SSAValue | None, op: model.DsaOp, phase: str
) -> tuple[SSAValue, SSAValue]:
    """y = o_proj(attention over the `chosen` keys, or those that the indexer selects), and these keys.

    Attention is always over the latent: every token has its own keys, so expanding them to heads would do the work of
    kv_b once per token and key; the selected rows are attended to as they are cached, whatever `absorb-mla` says.
    """
    rank, rope = op.kv_lora_rank.value.data, op.qk_rope_head_dim.value.data
    found = latent_values(build, x, op)
    assert found.query_latent is not None, "verified"
    selected = _selected(build, x, found.query_latent, op) if chosen is None else chosen
    w_k, w_v = absorbed_weights(build, op)
    q_latent = absorbed_queries(build, found.q_nope, w_k, op)
    latents, rotary_keys = (
        gathered(build, cache, selected, name, phase)
        for cache, name in ((found.latents, "gather_c_kv"), (found.rotary_keys, "gather_k_rope"))
    )
    attended = build.op(
        layer.SparseAttentionOp,
        [[q_latent, found.q_rope], [latents, rotary_keys], latents],
        "attention",
        build.tensor_type(TOKENS, op.heads * rank),
        {
            "qk_dims": ArrayAttr([IntegerAttr(d, i64) for d in (rank, rope)]),
            "v_dim": rank,
            "q_len": expr(1),
            "scale": mla_softmax_scale(op.head_dims[0] + rope, op.rope_scaling),
            "causal": False,
            "sequence_q_len": Q_LEN,
            "sequence_kv_len": KV_LEN,
        },
    )
    attended = absorbed_values(build, attended, w_v, op)
    return build.matmul(attended, "o_proj"), selected


def _selected(build: BlockBuilder, x: SSAValue, query_latent: SSAValue, op: model.DsaOp) -> SSAValue:
    """The positions that every query attends to, by the scores of the lightning indexer over all keys.

    As in the published inference code; the Hadamard rotation that it puts on index queries and keys alike changes no
    score, and is left out.
    """
    rope, (heads, d) = op.qk_rope_head_dim.value.data, op.index_dims
    q = build.matmul(query_latent, "indexer.wq_b")
    k = build.op(
        layer.LayerNormOp,
        [build.matmul(x, "indexer.wk"), *(build.weight(f"indexer.k_norm.{n}") for n in ("weight", "bias"))],
        "indexer.k_norm",
        build.tensor_type(TOKENS, d),
        {"eps": model.LATENT_NORM_EPS},
    )
    # The weights of the heads are small numbers of both signs: as the router, in the precision of the accumulator.
    weights = build.matmul(x, "indexer.weights_proj", element_type=Float32Type())
    q_rope, k_rope = (
        build.rope(
            build.slice(value, f"indexer.{name}_pe", d, 0, rope), f"indexer.{name}_rope", rope, op.rope_theta,
            op.rope_scaling, bool(op.index_rope_interleave),
        )
        for value, name in ((q, "q"), (k, "k"))
    )  # fmt: skip
    q_nope, k_nope = (
        build.slice(value, f"indexer.{name}_nope", d, rope, d - rope) for value, name in ((q, "q"), (k, "k"))
    )
    keys = [build.appended("indexer.k_rope", k_rope), build.appended("indexer.k_nope", k_nope)]
    scores = build.op(
        layer.IndexScoresOp,
        [[q_rope, q_nope], keys, weights],
        "indexer.scores",
        build.tensor_type(TOKENS, KV_LEN, element_type=Float32Type()),
        {
            "qk_dims": ArrayAttr([IntegerAttr(w, i64) for w in (rope, d - rope)]),
            "q_len": Q_LEN,
            "scale": 1 / math.sqrt(d * heads),
        },
    )
    count = min_of(KV_LEN, op.index_topk.value.data)
    return build.op(
        layer.TopkSelectOp,
        [scores],
        "indexer.topk",
        build.tensor_type(TOKENS, count, element_type=i32),
        {"top_k": op.index_topk, "q_len": Q_LEN},
    )


def gathered(build: BlockBuilder, cache: SSAValue, selected: SSAValue, name: str, phase: str) -> SSAValue:
    """The `selected` rows of a cache, of every token by themselves."""
    rows, width = tensor(selected).dims, tensor(cache).dims[2]
    result = build.tensor_type(*rows, width, element_type=tensor(cache).element_type)
    given: dict[str, PropertyValue] = {"q_len": Q_LEN, "bandwidth_domain": DOMAINS[phase]}
    return build.op(layer.GatherRowsOp, [cache, selected], name, result, given)
