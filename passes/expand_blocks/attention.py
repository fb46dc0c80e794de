"""Expansion of attention blocks: GQA, and MLA with its latent expanded (prefill) or absorbed (decode)."""

from __future__ import annotations

import math
from collections.abc import Sequence

from xdsl.dialects.builtin import ArrayAttr, DictionaryAttr, FloatAttr, IntegerAttr, i64
from xdsl.ir import SSAValue

from pmc.dialects import layer, model
from pmc.dialects.tensor import tensor
from pmc.passes.expand_blocks.block_builder import Q_LEN, BlockBuilder


def expand_gqa(build: BlockBuilder, x: SSAValue, op: model.GqaOp) -> SSAValue:
    """y = x + o_proj(attention(rope(q), cached rope(k), cached v)); `qk_norm` acts before rope."""
    d = op.head_dim.value.data
    normed = build.norm(x, "norm", op.rms_norm_eps)
    q, k, v = (build.matmul(normed, name) for name in ("q_proj", "k_proj", "v_proj"))
    if op.qk_norm:
        q, k = (build.norm(h, name, op.rms_norm_eps) for h, name in ((q, "q_norm"), (k, "k_norm")))
    q, k = (
        build.rope(h, name, d, op.rope_theta, op.rope_scaling, interleaved=False)
        for h, name in ((q, "q_rope"), (k, "k_rope"))
    )
    keys, values = build.appended("k", k), build.appended("v", v)
    attended = _attention(build, [q], [keys], values, [d], d, op.heads, 1 / math.sqrt(d))
    return build.add(x, build.matmul(attended, "o_proj"), "residual")


def expand_mla(build: BlockBuilder, x: SSAValue, op: model.MlaOp, absorbed: bool) -> SSAValue:
    """y = x + o_proj(attention); the caches hold the normalised latent and the rotated shared key.

    Expanded: keys and values of every cached token are computed from its latent (kv_b).  Absorbed
    (DeepSeek-V2 report, section 2.1.2): kv_b's key half moves to the queries and its value half behind the
    attention.
    """
    (nope, rope, v_dim), rank = op.head_dims, op.kv_lora_rank.value.data
    normed = build.norm(x, "norm", op.rms_norm_eps)
    q = _mla_queries(build, normed, op)
    q_nope = build.slice(q, "q_nope", nope + rope, 0, nope)
    q_rope = build.slice(q, "q_pe", nope + rope, nope, rope)
    q_rope = _mla_rope(build, q_rope, "q_rope", op)
    kv_a = build.matmul(normed, "kv_a_proj")
    latent = build.slice(kv_a, "kv_latent", rank + rope, 0, rank)
    latent = build.norm(latent, "kv_a_layernorm", model.LATENT_NORM_EPS)
    k_rope = build.slice(kv_a, "k_pe", rank + rope, rank, rope)
    k_rope = _mla_rope(build, k_rope, "k_rope", op)
    latents = build.appended("c_kv", latent)
    rotary_keys = build.appended("k_rope", k_rope)
    scale = mla_softmax_scale(nope + rope, op.rope_scaling)
    if absorbed:
        kv_b = build.weight("kv_b_proj.weight")
        w_k = build.slice(kv_b, "k_absorb.weight", nope + v_dim, 0, nope)
        w_v = build.slice(kv_b, "v_absorb.weight", nope + v_dim, nope, v_dim)
        q_latent = _head_matmul(build, q_nope, w_k, "k_absorb", nope, op.heads * rank, transpose=True)
        attended = _attention(
            build,
            [q_latent, q_rope],
            [latents, rotary_keys],
            latents,
            [rank, rope],
            rank,
            op.heads,
            scale,
        )
        attended = _head_matmul(build, attended, w_v, "v_absorb", v_dim, op.heads * v_dim, transpose=False)
    else:
        kv = build.matmul(latents, "kv_b_proj")
        k_nope = build.slice(kv, "k_nope", nope + v_dim, 0, nope)
        values = build.slice(kv, "v", nope + v_dim, nope, v_dim)
        attended = _attention(
            build,
            [q_nope, q_rope],
            [k_nope, rotary_keys],
            values,
            [nope, rope],
            v_dim,
            op.heads,
            scale,
        )
    return build.add(x, build.matmul(attended, "o_proj"), "residual")


def _mla_queries(build: BlockBuilder, normed: SSAValue, op: model.MlaOp) -> SSAValue:
    """The query heads, through their latent where the model has one."""
    if op.q_lora_rank is None:
        return build.matmul(normed, "q_proj")
    latent = build.norm(build.matmul(normed, "q_a_proj"), "q_a_layernorm", model.LATENT_NORM_EPS)
    return build.matmul(latent, "q_b_proj")


def _mla_rope(build: BlockBuilder, x: SSAValue, name: str, op: model.MlaOp) -> SSAValue:
    rope = op.qk_rope_head_dim.value.data
    return build.rope(x, name, rope, op.rope_theta, op.rope_scaling, bool(op.rope_interleave))


def _head_matmul(
    build: BlockBuilder, x: SSAValue, w: SSAValue, name: str, group: int, width: int, transpose: bool
) -> SSAValue:
    result = build.tensor_type(tensor(x).dims[0], width)
    return build.op(layer.HeadMatmulOp, [x, w], name, result, {"group": group, "transpose": transpose})


def _attention(
    build: BlockBuilder,
    q: Sequence[SSAValue],
    k: Sequence[SSAValue],
    v: SSAValue,
    qk_dims: Sequence[int],
    v_dim: int,
    heads: int,
    scale: float,
) -> SSAValue:
    """Causal attention of the current queries over all keys of their sequence."""
    result = build.tensor_type(tensor(q[0]).dims[0], heads * v_dim)
    return build.op(
        layer.AttentionOp,
        [q, k, v],
        "attention",
        result,
        {
            "qk_dims": ArrayAttr([IntegerAttr(d, i64) for d in qk_dims]),
            "v_dim": v_dim,
            "q_len": Q_LEN,
            "scale": scale,
            "causal": True,
        },
    )


def mla_softmax_scale(qk_head_dim: int, scaling: DictionaryAttr | None) -> float:
    """qk_head_dim**-0.5, times mscale**2 when yarn sets `mscale_all_dim` (as in DeepseekV3Attention)."""
    scale = 1 / math.sqrt(qk_head_dim)
    if scaling is None:
        return scale
    all_dim, factor = scaling.data.get("mscale_all_dim"), scaling.data.get("factor")
    if isinstance(all_dim, FloatAttr) and isinstance(factor, FloatAttr) and factor.value.data > 1:
        mscale = 0.1 * all_dim.value.data * math.log(factor.value.data) + 1.0
        scale *= mscale * mscale
    return scale
