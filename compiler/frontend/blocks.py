"""The blocks of the families as rows: a property of the op, and the field of the config that says it."""

from __future__ import annotations

from collections.abc import Mapping

from pmc.compiler.frontend.family import Block
from pmc.compiler.frontend.fields import Fields
from pmc.compiler.frontend.readings import (
    Properties,
    Reading,
    activation,
    constant,
    flag,
    head_dim,
    integer,
    integer_or_null,
    number,
    partial_rope,
    rope,
    window,
    yes_or_absent,
)
from pmc.dialects import model
from pmc.dialects.assembly import PropertyValue

GQA = Block(
    model.GqaOp,
    "gqa",
    {
        "num_attention_heads": integer("num_attention_heads"),
        "num_key_value_heads": integer("num_key_value_heads", absent=integer("num_attention_heads")),
        "head_dim": head_dim,
    },
    rope(),
)
"""Grouped-query attention; without num_key_value_heads every query head has a key head of its own."""

ALL_BIASES: Mapping[str, Reading] = {
    "qkv_bias": yes_or_absent("attention_bias"),
    "o_bias": yes_or_absent("attention_bias"),
}

LLAMA_GQA = GQA.with_rows(**ALL_BIASES).with_rope(rope(theta=10000.0))
"""Files of Llama 2 have no rope_theta."""

QWEN2_GQA = GQA.with_rows(qkv_bias=yes_or_absent()).with_rope(rope(theta=10000.0))
QWEN3_GQA = GQA.with_rows(
    head_dim=integer("head_dim"), qk_norm=constant("head"), qk_norm_eps=number("rms_norm_eps"), **ALL_BIASES
)
OLMO2_GQA = LLAMA_GQA.with_rows(qk_norm=constant("row"), qk_norm_eps=number("rms_norm_eps"))
MISTRAL_GQA = GQA.with_rows(window=window(absent=4096))
PHI3_GQA = GQA.with_rows(window=window()).with_rope(partial_rope(theta=10000.0))
SEED_GQA = GQA.with_rows(
    head_dim=integer("head_dim"),
    qkv_bias=yes_or_absent("attention_bias", absent=True),
    o_bias=yes_or_absent("attention_out_bias"),
)
GLM4_GQA = GQA.with_rows(
    qkv_bias=yes_or_absent("attention_bias"),
    qk_norm=lambda fields: "head" if _normalises_heads(fields) else None,
    qk_norm_eps=lambda fields: fields.number("rms_norm_eps") if _normalises_heads(fields) else None,
).with_rope(partial_rope(share=0.5))


def _normalises_heads(fields: Fields) -> bool:
    return fields.present("use_qk_norm") and fields.boolean("use_qk_norm")


def _minimax_rope(fields: Fields) -> Properties:
    """`rotary_dim` is the older name of partial_rotary_factor * head_dim."""
    found = partial_rope()(fields)
    return {**found, "rotary_dim": fields.integer("rotary_dim")} if fields.present("rotary_dim") else found


MINIMAX_GQA = GQA.with_rows(
    head_dim=integer("head_dim"), qk_norm=constant("row"), qk_norm_eps=number("rms_norm_eps")
).with_rope(_minimax_rope)

MLA = Block(
    model.MlaOp,
    "mla",
    {
        "num_attention_heads": integer("num_attention_heads"),
        # Null = queries are projected without a latent (DeepSeek-V2-Lite).
        "q_lora_rank": integer_or_null("q_lora_rank"),
        "kv_lora_rank": integer("kv_lora_rank"),
        "qk_nope_head_dim": integer("qk_nope_head_dim"),
        "qk_rope_head_dim": integer("qk_rope_head_dim"),
        "v_head_dim": integer("v_head_dim"),
        "rope_interleave": flag("rope_interleave", absent=True),
    },
    rope(),
)


def _query_latent(fields: Fields) -> int:
    """The rank of the query latent, which the indexer projects."""
    if fields.is_null("q_lora_rank"):
        raise fields.fail("q_lora_rank", "null, but the indexer projects the query latent: expected an integer")
    return fields.integer("q_lora_rank")


DSA = Block(
    model.DsaOp,
    "dsa",
    {
        **MLA.rows,
        "q_lora_rank": _query_latent,
        "index_n_heads": integer("index_n_heads"),
        "index_head_dim": integer("index_head_dim"),
        "index_topk": integer("index_topk"),
        "index_rope_interleave": constant(False),
    },
    rope(),
)
"""DeepSeek-V3.2: the indexer projects the query latent, so there is one."""

GATED: Mapping[str, Reading] = {"activation": activation(absent="silu"), "gated": constant(True)}

FFN = Block(model.FfnOp, "ffn", {"intermediate_size": integer("intermediate_size"), **GATED})
LLAMA_FFN = FFN.with_rows(bias=yes_or_absent("mlp_bias"))

SOFTMAX_MOE = Block(
    model.MoeOp,
    "moe",
    {
        "n_routed_experts": integer("num_experts"),
        "shared_intermediate_size": constant(0),
        "num_experts_per_tok": integer("num_experts_per_tok"),
        "moe_intermediate_size": integer("moe_intermediate_size"),
        "scoring": constant("softmax"),
        "n_group": constant(1),
        "topk_group": constant(1),
        "norm_topk_prob": flag("norm_topk_prob", absent=False),
        "routed_scaling_factor": constant(1.0),
        "correction_bias": constant(False),
        **GATED,
    },
)
"""Qwen3-MoE: softmax over all experts, then the best."""

MIXTRAL_MOE = SOFTMAX_MOE.with_rows(
    n_routed_experts=integer("num_local_experts"),
    moe_intermediate_size=integer("intermediate_size"),
    norm_topk_prob=constant(True),
)
"""MixtralSparseMoeBlock always renormalises the weights of the chosen experts."""

MINIMAX_MOE = MIXTRAL_MOE.with_rows(scoring=constant("sigmoid"), correction_bias=constant(True))

DEEPSEEK_MOE = SOFTMAX_MOE.with_rows(
    n_routed_experts=integer("n_routed_experts"),
    shared_intermediate_size=lambda fields: (
        fields.integer("n_shared_experts", 0) * fields.integer("moe_intermediate_size")
    ),
    scoring=constant("sigmoid"),
    n_group=integer("n_group"),
    topk_group=integer("topk_group"),
    norm_topk_prob=flag("norm_topk_prob"),
    routed_scaling_factor=number("routed_scaling_factor"),
    correction_bias=constant(True),
)
"""DeepseekV3TopkRouter: sigmoid scores, groups, choice with the correction bias."""


def _limited(name: str) -> Reading:
    """A field of groups of experts, which greedy routing does not have."""

    def read(fields: Fields) -> PropertyValue:
        limited = fields.present("topk_method") and TOPK_METHODS[fields.choice("topk_method", TOPK_METHODS)]
        fields.value(name)
        return fields.integer(name) if limited else 1

    return read


TOPK_METHODS: Mapping[str, bool] = {"greedy": False, "group_limited_greedy": True}
"""Whether experts are chosen among those of the best groups only."""

DEEPSEEK_V2_MOE = DEEPSEEK_MOE.with_rows(
    scoring=constant("softmax"),
    n_group=_limited("n_group"),
    topk_group=_limited("topk_group"),
    best_of_group=constant(1),
    norm_topk_prob=constant(False),
    correction_bias=constant(False),
)
"""DeepseekV2TopkRouter: softmax scores; a group of experts is worth its best one."""

GPT_OSS_GQA = GQA.with_rows(
    head_dim=integer("head_dim"), qkv_bias=yes_or_absent("attention_bias"), o_bias=yes_or_absent("attention_bias"),
    sinks=constant(True),
)  # fmt: skip
GPT_OSS_MOE = MIXTRAL_MOE.with_rows(
    activation=constant("clamped_swiglu"),
    activation_limit=number("swiglu_limit", absent=7.0),
    # GptOssExperts has it as a constant.
    activation_alpha=constant(1.702),
    bias=constant(True),
    router_bias=constant(True),
)
"""Softmax over the chosen logits, which is that over all of them renormalised."""

GRANITE_GQA = LLAMA_GQA.with_rows(softmax_scale=number("attention_multiplier", absent=1.0))

GEMMA_FFN = FFN.with_rows(activation=activation("hidden_activation", absent="gelu_tanh"))
GEMMA2_GQA = GQA.with_rows(
    head_dim=integer("head_dim", absent=256),
    softmax_scale=lambda fields: fields.number("query_pre_attn_scalar") ** -0.5,
    **ALL_BIASES,
).with_rope(rope(theta=10000.0))
GEMMA3_GQA = GEMMA2_GQA.with_rows(
    qk_norm=constant("head"), qk_norm_eps=number("rms_norm_eps"), qk_norm_zero_centered=constant(True)
)


def local_rope(fields: Fields) -> Properties:
    """Layers with a window have a base of their own and no scaling (Gemma 3 report, section 2.1)."""
    return {"rope_theta": fields.number("rope_local_base_freq") if fields.present("rope_local_base_freq") else 10000.0}


LAYER_NORM: Mapping[str, Reading] = {"kind": constant("layer"), "bias": constant(True)}

GPT2_GQA = GQA.with_rows(
    num_key_value_heads=integer("num_attention_heads"), qkv_bias=constant(True), o_bias=constant(True)
).with_rope(lambda fields: {})
GPT2_FFN = Block(
    model.FfnOp,
    "ffn",
    {
        # Absent or null = 4 * hidden_size.
        "intermediate_size": integer("n_inner", absent=lambda fields: 4 * fields.integer("hidden_size")),
        "activation": activation("activation_function", absent="gelu_tanh"),
        "gated": constant(False),
        "bias": constant(True),
    },
)
OPT_GQA = GPT2_GQA.with_rows(
    qkv_bias=yes_or_absent("enable_bias", absent=True), o_bias=yes_or_absent("enable_bias", absent=True)
)
OPT_FFN = GPT2_FFN.with_rows(
    intermediate_size=integer("ffn_dim"),
    activation=activation("activation_function", absent="relu"),
    bias=yes_or_absent("enable_bias", absent=True),
)
BLOOM_GQA = GPT2_GQA.with_rows(alibi=constant(True))
BLOOM_FFN = GPT2_FFN.with_rows(activation=constant("gelu_tanh"))


def positions(offset: int) -> Block:
    """Learned positions."""
    rows = {"max_positions": integer("max_position_embeddings"), "offset": constant(offset)}
    return Block(model.PositionEmbeddingOp, "positions", rows)


def scaled(factor: Reading) -> Block:
    """Rows times a factor."""
    return Block(model.ScaleOp, "scale", {"factor": factor})


FINAL_CAP = Block(model.SoftCapOp, "soft_cap", {"cap": number("final_logit_softcapping")})
"""Only where the field is given: a family without caps has null there."""
