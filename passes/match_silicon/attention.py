"""Attention: `context_attention` and `generation_attention`, and for MLA `context_mla` and `generation_mla`.

The tables time attention alone: rotation and the writing of the cache are launches of their own.  A step of decode is
`generation`, with one new token of every sequence; several drafted tokens are few queries after a long prefix,
`context`.
"""

from __future__ import annotations

from xdsl.ir import Operation

from pmc.dialects import layer
from pmc.dialects.expr import expr
from pmc.dialects.silicon import Workload
from pmc.dialects.tensor import tensor
from pmc.passes.match_silicon.cluster import Cluster
from pmc.passes.match_silicon.formats import HALF, plain

MLA_ABSORBED, MLA_EXPANDED = ((512, 64), 512), ((128, 64), 128)
"""Widths of the score pieces and of a value with which MLA is measured: those of DeepSeek-V3."""

KV_LEN = expr("kv_len")


def match_attention(op: Operation, one: bool) -> Cluster | None:
    """Causal attention of whole sequences over their cache, without a bias by distance and without chunks.

    `one` says that every sequence has one new token.
    """
    if not isinstance(op, layer.AttentionOp) or not op.causal or op.alibi_heads is not None or op.chunk is not None:
        return None
    widths = op.piece_dims(), op.v_dim.value.data
    q_len = op.q_len.data
    batch, keys, _ = tensor(op.v).dims
    if op.window is not None:
        keys = KV_LEN  # the rows of a cache that holds a window are fewer than there are positions
    lengths = {"isl": q_len, "step": keys - q_len}
    cache = plain(tensor(op.v))
    # Decode kernels of the tables are named by the type of the queries as they come, whatever the products are in.
    words_type = HALF if one else plain(tensor(op.q[0]))
    if widths in (MLA_ABSORBED, MLA_EXPANDED) and op.window is None:
        generation = widths == MLA_ABSORBED
        if generation != one:
            return None
        table = "generation_mla" if generation else "context_mla"
        of_latent = {"num_heads": expr(op.heads), "batch_size": batch, **lengths}
        return Cluster([op], Workload(table, of_latent, {"mla_dtype": words_type, "kv_cache_dtype": cache}))
    if len(op.piece_dims()) != 1 or op.piece_dims()[0] != op.v_dim.value.data:
        return None
    window = 0 if op.window is None else op.window.value.data
    sizes = {
        "batch_size": batch,
        "isl": lengths["isl"],
        "num_heads": expr(op.heads),
        "num_key_value_heads": expr(op.v_heads),
        "head_dim": expr(op.v_dim.value.data),
        "beam_width": expr(1),
        "step": lengths["step"],
        "window_size": expr(window),
    }
    table = "generation_attention" if one else "context_attention"
    return Cluster([op], Workload(table, sizes, {"attn_dtype": words_type, "kv_cache_dtype": cache}))
