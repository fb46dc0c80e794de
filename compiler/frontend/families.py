"""The families of models: of every architecture the layers as blocks, of every block rows (property, config field).

A field is read when the modeling code of `transformers` reads it, with the meaning that it has there.  Where a row says
`absent`, that is the default of the Hugging Face configuration class, which published files rely on; there are no other
defaults.  A family of known parts is one entry of FAMILIES.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import cast

from pmc.compiler.frontend.fields import Fields
from pmc.compiler.frontend.readings import (
    Constant,
    Properties,
    Reading,
    constant,
    flag,
    head_dim,
    integer,
    integer_or_null,
    number,
    properties,
    rope,
)
from pmc.dialects import model


@dataclass(frozen=True)
class Block:
    """A block of a layer: x + op(norm(x))."""

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
        return Block(self.op, self.name, {**self.rows, **rows}, self.rope)


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
    lists: Mapping[str, tuple[str, ...]] = field(default_factory=lambda: {"layer_types": ("full_attention",)})
    """Lists with a type for each layer, and the types that are supported: all mean the same."""
    norm: Mapping[str, Reading] = field(
        default_factory=lambda: {"kind": constant("rms"), "eps": number("rms_norm_eps")}
    )
    """The norm before every block and before the head."""


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
    named = {"dense": "dense", "sparse": "moe"}
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


def layer_kinds(fields: Fields, name: str, known: Mapping[str, str]) -> list[str] | None:
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
    return [known[cast(str, kind)] for kind in cast(list[object], given)]


def _require_same_order(fields: Fields, name: str, known: Mapping[str, str], order: list[str], by: str) -> None:
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

LLAMA_GQA = Block(GQA.op, GQA.name, GQA.rows, rope(theta=10000.0))
"""Files of Llama 2 have no rope_theta."""

QWEN3_GQA = GQA.with_rows(head_dim=integer("head_dim"), qk_norm_eps=number("rms_norm_eps"))

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

FFN = Block(model.FfnOp, "ffn", {"intermediate_size": integer("intermediate_size")})

SOFTMAX_MOE = Block(
    model.MoeOp,
    "moe",
    {
        "n_routed_experts": integer("num_experts"),
        "n_shared_experts": constant(0),
        "num_experts_per_tok": integer("num_experts_per_tok"),
        "moe_intermediate_size": integer("moe_intermediate_size"),
        "scoring": constant("softmax"),
        "n_group": constant(1),
        "topk_group": constant(1),
        "norm_topk_prob": flag("norm_topk_prob", absent=False),
        "routed_scaling_factor": constant(1.0),
        "correction_bias": constant(False),
    },
)
"""Qwen3-MoE: softmax over all experts, then the best."""

MIXTRAL_MOE = SOFTMAX_MOE.with_rows(
    n_routed_experts=integer("num_local_experts"),
    moe_intermediate_size=integer("intermediate_size"),
    norm_topk_prob=constant(True),
)
"""MixtralSparseMoeBlock always renormalises the weights of the chosen experts."""

DEEPSEEK_MOE = SOFTMAX_MOE.with_rows(
    n_routed_experts=integer("n_routed_experts"),
    n_shared_experts=integer("n_shared_experts", at_least=0),
    scoring=constant("sigmoid"),
    n_group=integer("n_group"),
    topk_group=integer("topk_group"),
    norm_topk_prob=flag("norm_topk_prob"),
    routed_scaling_factor=number("routed_scaling_factor"),
    correction_bias=constant(True),
)
"""DeepseekV3TopkRouter: sigmoid scores, groups, choice with the correction bias."""

# -- families -----------------------------------------------------------------------------------------------------

NO_WINDOW: Mapping[str, Constant] = {"sliding_window": None, "use_sliding_window": False}
WINDOW_SWITCHED_OFF = ("sliding_window", "max_window_layers")
"""Read with use_sliding_window only."""

DEEPSEEK_ONLY: Mapping[str, Reading | Constant] = {
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
    {"use_sliding_window": False, "qkv_bias": False, "shared_expert_intermediate_size": 0},
    unused=WINDOW_SWITCHED_OFF,
)
DEEPSEEK_V3 = Family(
    {"dense": (MLA, FFN), "moe": (MLA, DEEPSEEK_MOE)}, first_dense, {**DEEPSEEK_ONLY, **ROTARY_HEAD_DIM}
)

FAMILIES: Mapping[str, Family] = {
    "LlamaForCausalLM": Family({"dense": (LLAMA_GQA, FFN)}, every("dense"), NO_WINDOW),
    "MistralForCausalLM": Family({"dense": (GQA, FFN)}, every("dense"), NO_WINDOW),
    "MixtralForCausalLM": Family({"moe": (GQA, MIXTRAL_MOE)}, every("moe"), NO_WINDOW),
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
    "Qwen3VLForConditionalGeneration": "Qwen3ForCausalLM",
    "Qwen3VLMoeForConditionalGeneration": "Qwen3MoeForCausalLM",
}
"""Models with an encoder of images or sound beside a language model in `text_config`, and the architecture of that."""
