"""The families of models: of every architecture the layers as blocks, of every block rows (property, config field).

A field is read when the modeling code of `transformers` reads it, with the meaning that it has there.  Where a row says
`absent`, that is the default of the Hugging Face configuration class, which published files rely on; there are no other
defaults.  A family of known parts is one entry of FAMILIES.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace

from pmc.compiler.frontend.attention_families import ATTENTION_FAMILIES, ATTENTION_WRAPPERS
from pmc.compiler.frontend.blocks import (
    BLOOM_FFN,
    BLOOM_GQA,
    DEEPSEEK_MOE,
    DEEPSEEK_V2_MOE,
    DSA,
    FFN,
    FINAL_CAP,
    GEMMA2_GQA,
    GEMMA3_GQA,
    GEMMA_FFN,
    GLM4_GQA,
    GPT2_FFN,
    GPT2_GQA,
    GPT_OSS_GQA,
    GPT_OSS_MOE,
    GQA,
    GRANITE_GQA,
    LAYER_NORM,
    LLAMA_FFN,
    LLAMA_GQA,
    MINIMAX_GQA,
    MINIMAX_MOE,
    MISTRAL_GQA,
    MIXTRAL_MOE,
    MLA,
    OLMO2_GQA,
    OPT_FFN,
    OPT_GQA,
    PHI3_GQA,
    QWEN2_GQA,
    QWEN3_GQA,
    SEED_GQA,
    SOFTMAX_MOE,
    local_rope,
    positions,
    scaled,
)
from pmc.compiler.frontend.deepseek_v4 import DEEPSEEK_V4
from pmc.compiler.frontend.family import WINDOWS, Block, Family, every, first_dense, layer_kinds, listed, sparse_steps
from pmc.compiler.frontend.fields import Fields
from pmc.compiler.frontend.hybrid_families import HYBRID_FAMILIES, HYBRID_WRAPPERS
from pmc.compiler.frontend.minimax_m3 import MINIMAX_M3
from pmc.compiler.frontend.readings import (
    Constant,
    Reading,
    constant,
    integer,
    number,
    window,
)
from pmc.compiler.frontend.searched import searched_layers
from pmc.dialects import model

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

DEEPSEEK_V2_MLA = MLA.with_rows(rope_interleave=constant(True))
"""Adjacent columns are the pairs, whatever the file says."""

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
    {"dense": (MLA, FFN), "moe": (MLA, DEEPSEEK_MOE)},
    first_dense,
    {**DEEPSEEK_ONLY, **ROTARY_HEAD_DIM},
    drafts=True,
)


DROPOUTS = (
    "dropout", "activation_dropout", "attn_pdrop", "embd_pdrop", "resid_pdrop", "init_std", "summary_type",
    "summary_use_proj", "summary_activation", "summary_proj_to_labels", "summary_first_dropout",
)  # fmt: skip
"""Fields of training, and of heads for other tasks."""

GPT2_NAMES = {
    "hidden_size": "n_embd",
    "num_hidden_layers": "n_layer",
    "num_attention_heads": "n_head",
    "max_position_embeddings": "n_positions",
}

BLOOM_NAMES = {"hidden_size": "n_embed", "num_hidden_layers": "n_layer", "num_attention_heads": "n_head"}
BLOOM_NORM: Mapping[str, Reading] = {**LAYER_NORM, "eps": number("layer_norm_epsilon", absent=1e-5)}

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


GLM5_DSA = DSA.with_rows(index_rope_interleave=constant(True))
GLM5_SHARED_DSA = replace(GLM5_DSA, rows={name: GLM5_DSA.rows[name] for name in (*MLA.rows, "index_topk")}, takes=True)
"""Without an indexer of its own."""


def _glm5_segments(fields: Fields) -> list[list[str]]:
    """The kinds of the feed-forward blocks of every layer with an indexer and those behind it that share its keys."""
    layers = fields.integer("num_hidden_layers")
    # Absent = an indexer in every layer.
    types = layer_kinds(fields, "indexer_types", {"full": "full", "shared": "shared"}) or ["full"] * layers
    if types[0] != "full":
        raise fields.fail("indexer_types", "the first layer is 'shared', but no layer before it selects keys")
    segments: list[list[str]] = []
    for kind, feed_forward in zip(types, first_dense(fields), strict=True):
        if kind == "full":
            segments.append([])
        segments[-1].append(feed_forward)
    return segments


def _segment_name(segment: list[str]) -> str:
    return segment[0] if len(segment) == 1 else f"{segment[0]}_and_{len(segment) - 1}_shared"


def glm5_layers(fields: Fields) -> dict[str, tuple[Block, ...]]:
    """GLM-5.2 (arXiv 2603.12201): layers that follow one with an indexer attend to the keys that it selected.

    Such layers are one kind with it, so that the keys stay inside.
    """
    feed_forward = {"dense": FFN, "moe": DEEPSEEK_MOE}
    found: dict[str, tuple[Block, ...]] = {}
    for segment in _glm5_segments(fields):
        blocks = [replace(GLM5_DSA, selects=len(segment) > 1), feed_forward[segment[0]]]
        for i, kind in enumerate(segment[1:], 2):
            blocks += [replace(block, name=f"{block.name}{i}") for block in (GLM5_SHARED_DSA, feed_forward[kind])]
        found.setdefault(_segment_name(segment), tuple(blocks))
    return found


def dense(attention: Block, feed_forward: Block) -> Family:
    """Equal layers in which every token sees all tokens before it."""
    return Family({"dense": (attention, feed_forward)}, every("dense"), NO_WINDOW)


QWEN2 = Family({"dense": (QWEN2_GQA, FFN)}, every("dense"), {"use_sliding_window": False}, unused=WINDOW_SWITCHED_OFF)

FAMILIES: Mapping[str, Family] = {
    "LlamaForCausalLM": dense(LLAMA_GQA, LLAMA_FFN),
    "MistralForCausalLM": Family({"dense": (MISTRAL_GQA, FFN)}, every("dense")),
    "MixtralForCausalLM": Family({"moe": (GQA.with_rows(window=window()), MIXTRAL_MOE)}, every("moe")),
    "Qwen2ForCausalLM": QWEN2,
    "MiMoForCausalLM": replace(QWEN2, only={**QWEN2.only, "attention_bias": True}, drafts=True),
    "SeedOssForCausalLM": replace(dense(SEED_GQA, LLAMA_FFN), unused=("residual_dropout",)),
    "Olmo2ForCausalLM": replace(dense(OLMO2_GQA, FFN), norms="behind"),
    "Phi3ForCausalLM": Family(
        {"dense": (PHI3_GQA, FFN)},
        every("dense"),
        {"lm_head_bias": False},
        # The third is read by a scaling of the rotary embedding only; the last two the published code does not read.
        unused=(
            "resid_pdrop",
            "embd_pdrop",
            "original_max_position_embeddings",
            "full_attn_mod",
            "interpolate_factor",
        ),
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
            "sliding": (GEMMA3_GQA.with_rows(window=integer("sliding_window")).with_rope(local_rope), GEMMA_FFN),
            "full": (GEMMA3_GQA, GEMMA_FFN),
        },
        order=listed(WINDOWS, absent=_every_sixth_is_global),
        only={"final_logit_softcapping": None, "attn_logit_softcapping": None, "use_bidirectional_attention": False},
        unused=(*GEMMA.unused, "sliding_window_pattern", "_sliding_window_pattern"),
    ),
    "DeciLMForCausalLM": Family(
        lambda fields: dict(searched_layers(fields, LLAMA_GQA, LLAMA_FFN)),
        lambda fields: [kind for kind, _ in searched_layers(fields, LLAMA_GQA, LLAMA_FFN)],
        # Said of every layer.
        {"num_key_value_heads": None, "intermediate_size": None},
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
    "BloomForCausalLM": Family(
        {"dense": (BLOOM_GQA, BLOOM_FFN)},
        every("dense"),
        {"apply_residual_connection_post_layernorm": False},
        # How its training computed the same sums, and what the code does not read; the last is a length of training.
        unused=(
            "n_inner",
            "attention_softmax_in_fp32",
            "masked_softmax_fusion",
            "bias_dropout_fusion",
            "skip_bias_add",
            "skip_bias_add_qkv",
            "slow_but_exact",
            "offset_alibi",
            "seq_length",
        ),
        norm=BLOOM_NORM,
        embedding=(Block(model.NormOp, "norm", BLOOM_NORM),),
        tied=True,
        names=BLOOM_NAMES,
    ),
    "Glm4MoeForCausalLM": Family({"dense": (GLM4_GQA, FFN), "moe": (GLM4_GQA, DEEPSEEK_MOE)}, first_dense, drafts=True),
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
    "MiniMaxM3ForCausalLM": MINIMAX_M3,
    "Qwen3ForCausalLM": QWEN3,
    "Qwen3MoeForCausalLM": QWEN3_MOE,
    "DeepseekV3ForCausalLM": DEEPSEEK_V3,
    "DeepseekV2ForCausalLM": Family(
        {"dense": (DEEPSEEK_V2_MLA, FFN), "moe": (DEEPSEEK_V2_MLA, DEEPSEEK_V2_MOE)},
        first_dense,
        # The code of transformers never normalises, and that of the files not where they say so.
        {
            **{name: DEEPSEEK_ONLY[name] for name in ("attention_bias", "moe_layer_freq", "num_key_value_heads")},
            **{"qk_head_dim": DEEPSEEK_ONLY["qk_head_dim"], "scoring_func": "softmax", "norm_topk_prob": False},
            **ROTARY_HEAD_DIM,
        },
    ),
    "DeepseekV32ForCausalLM": Family(
        {"dense": (DSA, FFN), "moe": (DSA, DEEPSEEK_MOE)},
        first_dense,
        {**DEEPSEEK_ONLY, **ROTARY_HEAD_DIM},
        lists=SPARSE_ATTENTION,
        drafts=True,
    ),
    "DeepseekV4ForCausalLM": DEEPSEEK_V4,
    "GlmMoeDsaForCausalLM": Family(
        glm5_layers,
        lambda fields: [_segment_name(segment) for segment in _glm5_segments(fields)],
        {
            **DEEPSEEK_ONLY,
            "indexer_rope_interleave": True,
            "rope_interleave": True,
            "num_experts": integer("n_routed_experts"),
        },
        # The configuration class puts qk_rope_head_dim in the place of the first; the others say indexer_types again.
        unused=(
            "head_dim",
            "index_topk_freq",
            "index_skip_topk_offset",
            "index_topk_pattern",
            "index_share_for_mtp_iteration",
            "moe_router_dtype",
        ),
        lists=SPARSE_ATTENTION,
    ),
    **HYBRID_FAMILIES,
    **ATTENTION_FAMILIES,
}
"""The language models by architecture."""

WRAPPERS: Mapping[str, str] = {
    "KimiK25ForConditionalGeneration": "DeepseekV3ForCausalLM",
    "Gemma3ForConditionalGeneration": "Gemma3ForCausalLM",
    "MiniMaxM3SparseForConditionalGeneration": "MiniMaxM3ForCausalLM",
    "Qwen3VLForConditionalGeneration": "Qwen3ForCausalLM",
    "Qwen3VLMoeForConditionalGeneration": "Qwen3MoeForCausalLM",
    **HYBRID_WRAPPERS,
    **ATTENTION_WRAPPERS,
}
"""Models with an encoder of images or sound beside a language model in `text_config`, and the architecture of that."""
