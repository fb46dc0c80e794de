"""The families of models: of every architecture the layers as blocks, of every block rows (property, config field).

A field is read when the modeling code of `transformers` reads it, with the meaning that it has there.  Where a row says
`absent`, that is the default of the Hugging Face configuration class, which published files rely on; there are no other
defaults.  A family of known parts is one entry of FAMILIES.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field, replace
from typing import Literal, cast

from pmc.compiler.frontend.fields import Fields
from pmc.compiler.frontend.readings import (
    Constant,
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
    properties,
    rope,
    window,
    yes_or_absent,
)
from pmc.compiler.frontend.rope import Rope, read_rope
from pmc.dialects import model

Placement = Literal["before", "behind", "around"]
"""Where the norms of a block stand: x + f(norm(x)), x + norm(f(x)) (OLMo 2), or x + norm(f(norm(x))) (Gemma 2)."""


@dataclass(frozen=True)
class Block:
    """A block of a layer, with a residual path beside it."""

    op: type[model.BlockOp]
    name: str
    """Its part of the path."""
    rows: Mapping[str, Reading]
    rope: Callable[[Fields], Properties] = field(default=lambda fields: {})
    """The rotary embedding, whose properties are read together."""

    def properties(self, fields: Fields) -> Properties:
        """What the op is made with."""
        return {**properties(self.rows, fields), **self.rope(fields)}

    def with_rows(self, **rows: Reading) -> Block:
        """The same block with other rows."""
        return replace(self, rows={**self.rows, **rows})

    def with_rope(self, rope: Callable[[Fields], Properties]) -> Block:
        """The same block with another rotary embedding."""
        return replace(self, rope=rope)


@dataclass(frozen=True)
class Family:
    """How a model is built from its config."""

    layers: Mapping[str, tuple[Block, ...]]
    """The kinds of layers, by name."""
    order: Callable[[Fields], list[str]]
    """The kind of every layer."""
    only: Mapping[str, Reading | Constant] = field(default_factory=dict[str, Reading | Constant])
    """Fields of which one value is supported, which is also what absent and null mean."""
    unused: tuple[str, ...] = ()
    """Fields that files have and the code of the family does not read."""
    lists: Mapping[str, tuple[str | int, ...]] = field(default_factory=lambda: {"layer_types": ("full_attention",)})
    """Lists with a type for each layer, and the types that are supported: all mean the same."""
    norm: Mapping[str, Reading] = field(
        default_factory=lambda: {"kind": constant("rms"), "eps": number("rms_norm_eps")}
    )
    """The norms of the blocks and that before the head."""
    norms: Placement = "before"
    residual: Reading | None = None
    """The factor of what a block adds to its residual path."""
    embedding: tuple[Block, ...] = ()
    """What is done with the rows of the embedding, one op after the other."""
    logits: tuple[Block, ...] = ()
    """What is done with the logits."""
    tied: bool = False
    """Whether the head is the transpose of the embedding where `tie_word_embeddings` is absent."""
    names: Mapping[str, str] = field(default_factory=dict[str, str])
    """What the files of the family call a field that others name otherwise."""
    mtp_layers: str = "num_nextn_predict_layers"
    """The field that counts the layers of multi-token prediction; absent = none."""
    full_rope: Callable[[Fields], Rope] = lambda fields: read_rope(fields, theta=1.0, partial=True)
    """The rotary embedding of the layers that see all tokens."""
    dtype: str | None = None
    """The `torch_dtype` of the published weights, where the files of the family do not say it."""


# -- the order of layers ------------------------------------------------------------------------------------------


def every(kind: str) -> Callable[[Fields], list[str]]:
    """Equal layers."""
    return lambda fields: [kind] * fields.integer("num_hidden_layers")


def first_dense(fields: Fields) -> list[str]:
    """`first_k_dense_replace` layers without experts, then layers with them (DeepSeek-V3)."""
    layers, dense = fields.integer("num_hidden_layers"), fields.integer("first_k_dense_replace", 0)
    if dense > layers:
        raise fields.fail("first_k_dense_replace", f"{dense} is more than num_hidden_layers {layers}")
    order = ["dense"] * dense + ["moe"] * (layers - dense)
    named: dict[str | int, str] = {"dense": "dense", "sparse": "moe"}
    _require_same_order(fields, "mlp_layer_types", named, order, f"first_k_dense_replace {dense}")
    return order


def sparse_steps(fields: Fields) -> list[str]:
    """Experts in every `decoder_sparse_step`-th layer that is not one of `mlp_only_layers` (Qwen2-MoE, Qwen3-MoE)."""
    layers = fields.integer("num_hidden_layers")
    step = fields.integer("decoder_sparse_step") if fields.present("decoder_sparse_step") else 1
    dense = fields.value("mlp_only_layers") or []
    if not isinstance(dense, list) or any(
        isinstance(i, bool) or not isinstance(i, int) or not 0 <= i < layers for i in cast(list[object], dense)
    ):
        raise fields.fail("mlp_only_layers", f"expected numbers of layers below {layers}, found {dense!r}")
    return ["dense" if i in dense or (i + 1) % step else "moe" for i in range(layers)]


def listed(
    known: Mapping[str | int, str], absent: Callable[[Fields, int], str] | None = None
) -> Callable[[Fields], list[str]]:
    """The kinds that `layer_types` says; `absent` is that of layer i where a file has no list."""

    def order(fields: Fields) -> list[str]:
        found = layer_kinds(fields, "layer_types", known)
        if found is None and absent is None:
            raise fields.fail("layer_types", "missing, expected a list with a type for each layer")
        if found is None and absent is not None:
            found = [absent(fields, i) for i in range(fields.integer("num_hidden_layers"))]
        assert found is not None
        return found

    return order


def layer_kinds(fields: Fields, name: str, known: Mapping[str | int, str]) -> list[str] | None:
    """The kinds of all layers in list `name`, by the names in `known`; None where the file has no such list."""
    given = fields.value(name)
    if given is None:
        return None
    layers = fields.integer("num_hidden_layers")
    if not isinstance(given, list) or len(cast(list[object], given)) != layers:
        raise fields.fail(name, f"expected a list with a type for each of the {layers} layers")
    other = next((kind for kind in cast(list[object], given) if kind not in known), None)
    if other is not None:
        names = " or ".join(f"'{kind}'" for kind in known)
        raise fields.fail(
            name, f"layers of type {other!r} are not supported, only {names} {'are' if len(known) > 1 else 'is'}"
        )
    return [known[cast(str | int, kind)] for kind in cast(list[object], given)]


def _require_same_order(fields: Fields, name: str, known: Mapping[str | int, str], order: list[str], by: str) -> None:
    """Raise ConfigError where list `name`, if given, is not the order that other fields say."""
    given = layer_kinds(fields, name, known)
    if given is not None and given != order:
        i = next(i for i, (a, b) in enumerate(zip(given, order, strict=True)) if a != b)
        raise fields.fail(name, f"layer {i} is not what {by} says")


# -- blocks -------------------------------------------------------------------------------------------------------

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

DSA = Block(
    model.DsaOp,
    "dsa",
    {
        **MLA.rows,
        "q_lora_rank": integer("q_lora_rank"),
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


def _local_rope(fields: Fields) -> Properties:
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
        "intermediate_size": integer("intermediate_size", absent=lambda fields: 4 * fields.integer("hidden_size")),
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


def positions(offset: int) -> Block:
    """Learned positions."""
    rows = {"max_positions": integer("max_position_embeddings"), "offset": constant(offset)}
    return Block(model.PositionEmbeddingOp, "positions", rows)


def scaled(factor: Reading) -> Block:
    """Rows times a factor."""
    return Block(model.ScaleOp, "scale", {"factor": factor})


FINAL_CAP = Block(model.SoftCapOp, "soft_cap", {"cap": number("final_logit_softcapping")})
"""Only where the field is given: a family without caps has null there."""

# -- families -----------------------------------------------------------------------------------------------------

NO_WINDOW: Mapping[str, Constant] = {"sliding_window": None, "use_sliding_window": False}
WINDOW_SWITCHED_OFF = ("sliding_window", "max_window_layers")
"""Read with use_sliding_window only."""

DEEPSEEK_ONLY: Mapping[str, Reading | Constant] = {
    "attention_bias": False,
    "scoring_func": "sigmoid",
    "topk_method": "noaux_tc",
    "moe_layer_freq": 1,
    "num_key_value_heads": integer("num_attention_heads"),
    "qk_head_dim": lambda fields: fields.integer("qk_nope_head_dim") + fields.integer("qk_rope_head_dim"),
}
"""Absent = what DeepseekV3TopkRouter does, every layer MoE; the others follow from the dims of the heads."""

ROTARY_HEAD_DIM: Mapping[str, Reading] = {"head_dim": integer("qk_rope_head_dim")}
"""What newer files say once more: the dim that is rotated."""

SPARSE_ATTENTION = {"layer_types": ("indexed_attention", "deepseek_sparse_attention")}

QWEN3 = Family({"dense": (QWEN3_GQA, FFN)}, every("dense"), {"use_sliding_window": False}, unused=WINDOW_SWITCHED_OFF)
QWEN3_MOE = Family(
    {"dense": (QWEN3_GQA, FFN), "moe": (QWEN3_GQA, SOFTMAX_MOE)},
    sparse_steps,
    {
        "use_sliding_window": False,
        "shared_expert_intermediate_size": 0,
        "use_qk_norm": True,
    },
    unused=WINDOW_SWITCHED_OFF,
)
DEEPSEEK_V3 = Family(
    {"dense": (MLA, FFN), "moe": (MLA, DEEPSEEK_MOE)}, first_dense, {**DEEPSEEK_ONLY, **ROTARY_HEAD_DIM}
)


WINDOWS: Mapping[str | int, str] = {"sliding_attention": "sliding", "full_attention": "full"}
DROPOUTS = (
    "dropout", "activation_dropout", "attn_pdrop", "embd_pdrop", "resid_pdrop", "init_std", "summary_type",
    "summary_use_proj", "summary_activation", "summary_proj_to_labels", "summary_first_dropout",
)  # fmt: skip
"""Fields of training, and of heads for other tasks."""

GPT2_NAMES = {
    "hidden_size": "n_embd",
    "num_hidden_layers": "n_layer",
    "num_attention_heads": "n_head",
    "intermediate_size": "n_inner",
    "max_position_embeddings": "n_positions",
}

GEMMA2_CAPPED = GEMMA2_GQA.with_rows(score_soft_cap=number("attn_logit_softcapping"))

GEMMA = Family(
    {},
    every("full"),
    norm={"kind": constant("rms"), "eps": number("rms_norm_eps"), "zero_centered": constant(True)},
    norms="around",
    embedding=(scaled(lambda fields: fields.integer("hidden_size") ** 0.5),),
    tied=True,
    lists={},
    # The older name of hidden_activation, which the code overrides; the implementation of a cache.
    unused=("hidden_act", "cache_implementation"),
)


def _every_sixth_is_global(fields: Fields, i: int) -> str:
    """Five local layers, then a global one (Gemma 3 report, section 2.1), or as `sliding_window_pattern` says."""
    period = fields.integer("sliding_window_pattern") if fields.present("sliding_window_pattern") else 6
    return "sliding" if (i + 1) % period else "full"


def dense(attention: Block, feed_forward: Block) -> Family:
    """Equal layers in which every token sees all tokens before it."""
    return Family({"dense": (attention, feed_forward)}, every("dense"), NO_WINDOW)


QWEN2 = Family({"dense": (QWEN2_GQA, FFN)}, every("dense"), {"use_sliding_window": False}, unused=WINDOW_SWITCHED_OFF)

FAMILIES: Mapping[str, Family] = {
    "LlamaForCausalLM": dense(LLAMA_GQA, LLAMA_FFN),
    "MistralForCausalLM": Family({"dense": (MISTRAL_GQA, FFN)}, every("dense")),
    "MixtralForCausalLM": Family({"moe": (GQA.with_rows(window=window()), MIXTRAL_MOE)}, every("moe")),
    "Qwen2ForCausalLM": QWEN2,
    "MiMoForCausalLM": replace(QWEN2, only={**QWEN2.only, "attention_bias": True}),
    "SeedOssForCausalLM": replace(dense(SEED_GQA, LLAMA_FFN), unused=("residual_dropout",)),
    "Olmo2ForCausalLM": replace(dense(OLMO2_GQA, FFN), norms="behind"),
    "Phi3ForCausalLM": Family(
        {"dense": (PHI3_GQA, FFN)},
        every("dense"),
        # The second is read by a scaling of the rotary embedding, which is refused.
        unused=("resid_pdrop", "embd_pdrop", "original_max_position_embeddings"),
    ),
    "GptOssForCausalLM": Family(
        {
            "sliding": (GPT_OSS_GQA.with_rows(window=integer("sliding_window")), GPT_OSS_MOE),
            "full": (GPT_OSS_GQA, GPT_OSS_MOE),
        },
        listed(WINDOWS, absent=lambda fields, i: "full" if i % 2 else "sliding"),
        {"hidden_act": "silu"},
        # The older names of num_experts_per_tok and of original_max_position_embeddings.
        unused=("experts_per_token", "initial_context_length", "hidden_act"),
        lists={},
        dtype="bfloat16",
    ),
    "GraniteForCausalLM": replace(
        dense(GRANITE_GQA, LLAMA_FFN),
        residual=number("residual_multiplier", absent=1.0),
        embedding=(scaled(number("embedding_multiplier", absent=1.0)),),
        logits=(
            scaled(lambda fields: 1 / fields.number("logits_scaling") if fields.present("logits_scaling") else 1.0),
        ),
    ),
    "Gemma2ForCausalLM": replace(
        GEMMA,
        layers={
            "sliding": (GEMMA2_CAPPED.with_rows(window=integer("sliding_window")), GEMMA_FFN),
            "full": (GEMMA2_CAPPED, GEMMA_FFN),
        },
        order=listed(WINDOWS, absent=lambda fields, i: "full" if i % 2 else "sliding"),
        logits=(FINAL_CAP,),
        only={},
    ),
    "Gemma3ForCausalLM": replace(
        GEMMA,
        layers={
            "sliding": (GEMMA3_GQA.with_rows(window=integer("sliding_window")).with_rope(_local_rope), GEMMA_FFN),
            "full": (GEMMA3_GQA, GEMMA_FFN),
        },
        order=listed(WINDOWS, absent=_every_sixth_is_global),
        only={"final_logit_softcapping": None, "attn_logit_softcapping": None, "use_bidirectional_attention": False},
        unused=(*GEMMA.unused, "sliding_window_pattern", "_sliding_window_pattern"),
    ),
    "GPT2LMHeadModel": Family(
        {"dense": (GPT2_GQA, GPT2_FFN)},
        every("dense"),
        {"scale_attn_weights": True, "scale_attn_by_inverse_layer_idx": False, "add_cross_attention": False},
        unused=("reorder_and_upcast_attn", "n_ctx", *DROPOUTS),
        norm={**LAYER_NORM, "eps": number("layer_norm_epsilon", absent=1e-5)},
        embedding=(positions(0),),
        tied=True,
        names=GPT2_NAMES,
        dtype="float32",
    ),
    "OPTForCausalLM": Family(
        {"dense": (OPT_GQA, OPT_FFN)},
        every("dense"),
        {
            "do_layer_norm_before": True,
            "word_embed_proj_dim": integer("hidden_size"),
            "_remove_final_layer_norm": False,
            "layer_norm_elementwise_affine": True,
        },
        unused=("layerdrop", *DROPOUTS),
        norm={**LAYER_NORM, "eps": constant(1e-5)},
        embedding=(positions(2),),
        tied=True,
    ),
    "Glm4MoeForCausalLM": Family({"dense": (GLM4_GQA, FFN), "moe": (GLM4_GQA, DEEPSEEK_MOE)}, first_dense),
    "MiniMaxM2ForCausalLM": Family(
        {"moe": (MINIMAX_GQA, MINIMAX_MOE)},
        every("moe"),
        {
            "scoring_func": "sigmoid",
            "use_qk_norm": True,
            "qk_norm_type": "per_layer",
            "use_routing_bias": True,
            "shared_intermediate_size": 0,
        },
        lists={"attn_type_list": (1,)},
        unused=("use_mtp", "mtp_transformer_layers"),
        mtp_layers="num_mtp_modules",
        dtype="bfloat16",
    ),
    "Qwen3ForCausalLM": QWEN3,
    "Qwen3MoeForCausalLM": QWEN3_MOE,
    "DeepseekV3ForCausalLM": DEEPSEEK_V3,
    "DeepseekV32ForCausalLM": Family(
        {"dense": (DSA, FFN), "moe": (DSA, DEEPSEEK_MOE)},
        first_dense,
        {**DEEPSEEK_ONLY, **ROTARY_HEAD_DIM},
        lists=SPARSE_ATTENTION,
    ),
    "GlmMoeDsaForCausalLM": Family(
        {
            kind: (DSA.with_rows(index_rope_interleave=constant(True)), block)
            for kind, block in (("dense", FFN), ("moe", DEEPSEEK_MOE))
        },
        first_dense,
        {**DEEPSEEK_ONLY, "indexer_rope_interleave": True, "rope_interleave": True},
        # The configuration class puts qk_rope_head_dim in its place.
        unused=("head_dim",),
        lists={**SPARSE_ATTENTION, "indexer_types": ("full",)},
    ),
}
"""The language models by architecture."""

WRAPPERS: Mapping[str, str] = {
    "KimiK25ForConditionalGeneration": "DeepseekV3ForCausalLM",
    "Gemma3ForConditionalGeneration": "Gemma3ForCausalLM",
    "Qwen3VLForConditionalGeneration": "Qwen3ForCausalLM",
    "Qwen3VLMoeForConditionalGeneration": "Qwen3MoeForCausalLM",
}
"""Models with an encoder of images or sound beside a language model in `text_config`, and the architecture of that."""
