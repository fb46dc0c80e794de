"""Expansion of attention blocks: GQA, and MLA with its latent expanded (prefill) or absorbed (decode)."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

from xdsl.dialects.builtin import ArrayAttr, DictionaryAttr, FloatAttr, IntegerAttr, i64
from xdsl.ir import SSAValue

from pmc.dialects import layer, model
from pmc.dialects.tensor import tensor
from pmc.passes.expand_blocks.block_builder import KV_LEN, Q_LEN, BlockBuilder


def expand_gqa(build: BlockBuilder, x: SSAValue, op: model.GqaOp) -> SSAValue:
    """y = o_proj(attention(rope(q), cached rope(k), cached v)); head norms act before rope."""
    found, d = grouped_values(build, x, op), op.head_dim.value.data
    scale = 1 / math.sqrt(d) if op.softmax_scale is None else op.softmax_scale.value.data
    attended = _attention(build, [found.q], [found.keys], found.values, [d], op.v_dim, op.heads, scale, op)
    return grouped_result(build, x, attended, op)


@dataclass(frozen=True)
class GroupedValues:
    """What attention with key heads starts from: queries of the current tokens, cached rows of all of them."""

    q: SSAValue
    keys: SSAValue
    values: SSAValue


def grouped_values(build: BlockBuilder, x: SSAValue, op: model.GroupedAttentionOp) -> GroupedValues:
    """Normalised and rotated queries and keys, and values, from the normalised rows of the block."""
    d = op.head_dim.value.data
    q, k = (build.linear(x, name) for name in ("q_proj", "k_proj"))
    v = _values(build, x, k, op)
    behind = op.qk_norm is not None and op.qk_norm.data == "rotated"
    if op.qk_norm_eps is not None and not behind:
        q, k = (normalised(build, h, name, op) for h, name in ((q, "q_norm"), (k, "k_norm")))
    if op.rope_theta is not None:
        q, k = (rotated(build, h, name, d, op) for h, name in ((q, "q_rope"), (k, "k_rope")))
    if op.qk_norm_eps is not None and behind:
        q, k = (build.rms_normalize(h, name, d, op.qk_norm_eps) for h, name in ((q, "q_norm"), (k, "k_norm")))
    if op.temperature_floor is not None:
        given = {"floor": op.temperature_floor, "scale": op.temperature_scale, "q_len": Q_LEN, "kv_len": KV_LEN}
        q = build.op(layer.TemperatureOp, [q], "q_temperature", q.type, given)
    return GroupedValues(q, build.appended("k", k), build.appended("v", v))


def normalised(build: BlockBuilder, rows: SSAValue, name: str, op: model.GroupedAttentionOp) -> SSAValue:
    """Queries or keys under the RMSNorm of that name, which has a gain."""
    return build.rms_norm(rows, name, f"{name}.weight", op.qk_norm_eps, bool(op.qk_norm_zero_centered))


def rotated(build: BlockBuilder, rows: SSAValue, name: str, width: int, op: model.GroupedAttentionOp) -> SSAValue:
    """Heads of `width` columns, of which as many are rotated as of those of attention."""
    part = None if op.rotated_columns == width else op.rotated_columns
    return build.rope(rows, name, width, op.rope_theta, op.rope_scaling, bool(op.rope_interleave), part)


def grouped_result(build: BlockBuilder, x: SSAValue, attended: SSAValue, op: model.GroupedAttentionOp) -> SSAValue:
    """What was attended to, under gates if there are some, through the output projection."""
    if op.head_gate:
        gate = build.matmul(x, "head_gate")
        attended = build.op(layer.RowGateOp, [attended, gate], "head_gate_mul", attended.type)
    if op.output_gate:
        gate = build.linear(x, "gate_proj")
        attended = build.op(
            layer.GatedActivationOp, [gate, attended], "output_gate", gate.type, {"function": "sigmoid"}
        )
    return build.linear(attended, "o_proj")


def _values(build: BlockBuilder, x: SSAValue, k: SSAValue, op: model.GroupedAttentionOp) -> SSAValue:
    """The projected values or keys, normalised and multiplied."""
    v = k if op.keys_as_values else build.linear(x, "v_proj")
    if op.value_norm_eps is not None:
        v = build.rms_normalize(v, "v_norm", op.v_dim, op.value_norm_eps)
    if op.value_scale is not None:
        v = build.op(layer.ScaleOp, [v], "v_scale", v.type, {"factor": op.value_scale})
    return v


def expand_mla(build: BlockBuilder, x: SSAValue, op: model.MlaOp, absorbed: bool) -> SSAValue:
    """y = o_proj(attention); the caches hold the normalised latent and the rotated shared key.

    Expanded: keys and values of every cached token are computed from its latent (kv_b).  Absorbed
    (DeepSeek-V2 report, section 2.1.2): kv_b's key half moves to the queries and its value half behind the
    attention.
    """
    (nope, rope, v_dim), heads = op.head_dims, op.heads
    found = latent_values(build, x, op)
    scale = mla_softmax_scale(nope + rope, op.rope_scaling)
    if absorbed:
        rank = op.kv_lora_rank.value.data
        halves = absorbed_weights(build, op)
        q_latent = absorbed_queries(build, found.q_nope, halves[0], op)
        q, k, v, dims = [q_latent, found.q_rope], [found.latents, found.rotary_keys], found.latents, [rank, rope]
        attended = absorbed_values(build, _attention(build, q, k, v, dims, rank, heads, scale), halves[1], op)
    else:
        kv = build.matmul(found.latents, "kv_b_proj")
        k_nope = build.slice(kv, "k_nope", nope + v_dim, 0, nope)
        values = build.slice(kv, "v", nope + v_dim, nope, v_dim)
        q, k = [found.q_nope, found.q_rope], [k_nope, found.rotary_keys]
        attended = _attention(build, q, k, values, [nope, rope], v_dim, heads, scale)
    return build.matmul(attended, "o_proj")


@dataclass(frozen=True)
class LatentValues:
    """What attention over a latent starts from: queries of the current tokens, cached rows of all of them."""

    q_nope: SSAValue
    q_rope: SSAValue
    """Rotated, where the block rotates."""
    latents: SSAValue
    rotary_keys: SSAValue
    query_latent: SSAValue | None
    """What the queries are projected from, where the model has it."""


def latent_values(build: BlockBuilder, x: SSAValue, op: model.LatentAttentionOp) -> LatentValues:
    """Queries and cached latents from the normalised rows of the block."""
    (nope, rope, _), rank = op.head_dims, op.kv_lora_rank.value.data
    query_latent = None
    if op.q_lora_rank is None:
        q = build.matmul(x, "q_proj")
    else:
        query_latent = build.norm(build.matmul(x, "q_a_proj"), "q_a_layernorm", model.LATENT_NORM_EPS)
        q = build.matmul(query_latent, "q_b_proj")
    q_nope = build.slice(q, "q_nope", nope + rope, 0, nope)
    q_rope = build.slice(q, "q_pe", nope + rope, nope, rope)
    q_rope = _mla_rope(build, q_rope, "q_rope", op)
    kv_a = build.matmul(x, "kv_a_proj")
    latent = build.slice(kv_a, "kv_latent", rank + rope, 0, rank)
    latent = build.norm(latent, "kv_a_layernorm", model.LATENT_NORM_EPS)
    k_rope = build.slice(kv_a, "k_pe", rank + rope, rank, rope)
    k_rope = _mla_rope(build, k_rope, "k_rope", op)
    latents = build.appended("c_kv", latent)
    rotary_keys = build.appended("k_rope", k_rope)
    return LatentValues(q_nope, q_rope, latents, rotary_keys, query_latent)


def absorbed_weights(build: BlockBuilder, op: model.LatentAttentionOp) -> tuple[SSAValue, SSAValue]:
    """The halves of kv_b for keys and for values."""
    nope, _, v_dim = op.head_dims
    kv_b = build.weight("kv_b_proj.weight")
    w_k = build.slice(kv_b, "k_absorb.weight", nope + v_dim, 0, nope)
    w_v = build.slice(kv_b, "v_absorb.weight", nope + v_dim, nope, v_dim)
    return w_k, w_v


def absorbed_queries(build: BlockBuilder, q_nope: SSAValue, w_k: SSAValue, op: model.LatentAttentionOp) -> SSAValue:
    """The queries in the space of the latent."""
    width = op.heads * op.kv_lora_rank.value.data
    return _head_matmul(build, q_nope, w_k, "k_absorb", op.head_dims[0], width, transpose=True)


def absorbed_values(build: BlockBuilder, attended: SSAValue, w_v: SSAValue, op: model.LatentAttentionOp) -> SSAValue:
    """The values of what was attended to in the space of the latent."""
    v_dim = op.head_dims[2]
    return _head_matmul(build, attended, w_v, "v_absorb", v_dim, op.heads * v_dim, transpose=False)


def _mla_rope(build: BlockBuilder, x: SSAValue, name: str, op: model.LatentAttentionOp) -> SSAValue:
    if op.rope_theta is None:
        return x
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
    mask: model.GqaOp | None = None,
) -> SSAValue:
    """Causal attention of the current queries over all keys of their sequence, or those that `mask` says."""
    sinks = [build.weight("sinks")] if mask is not None and mask.sinks else []
    result = build.tensor_type(tensor(q[0]).dims[0], heads * v_dim)
    chunk = None if mask is None else mask.chunk
    return build.op(
        layer.AttentionOp,
        [q, k, v, *sinks],
        "attention",
        result,
        {
            "qk_dims": ArrayAttr([IntegerAttr(d, i64) for d in qk_dims]),
            "v_dim": v_dim,
            "q_len": Q_LEN,
            "scale": scale,
            "causal": True,
            "window": None if mask is None else mask.window,
            "chunk": chunk,
            "kv_len": None if chunk is None else KV_LEN,
            "soft_cap": None if mask is None else mask.score_soft_cap,
            "alibi_heads": heads if mask is not None and mask.alibi else None,
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
