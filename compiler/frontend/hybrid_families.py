"""The families whose layers mix tokens in several ways: attention in some, a recurrence in the others."""

from __future__ import annotations

import math
from collections.abc import Mapping
from typing import cast

from pmc.compiler.frontend.blocks import DEEPSEEK_MOE, FFN, GQA, MLA, SOFTMAX_MOE
from pmc.compiler.frontend.family import Block, Family, first_dense, layer_kinds, sparse_steps
from pmc.compiler.frontend.fields import Fields
from pmc.compiler.frontend.readings import (
    Constant,
    Reading,
    activation,
    constant,
    flag,
    head_dim,
    integer,
    number,
    partial_rope,
    yes_or_absent,
)
from pmc.compiler.frontend.rope import Rope
from pmc.dialects import model

# -- Qwen3-Next, Qwen3.5 ------------------------------------------------------------------------------------------

MIXERS: Mapping[str | int, str] = {"linear_attention": "linear", "full_attention": "full"}


def mixers(fields: Fields) -> list[str]:
    """What mixes the tokens of each layer: `layer_types`, or attention in every `full_attention_interval`-th layer."""
    given = layer_kinds(fields, "layer_types", MIXERS)
    every = fields.integer("full_attention_interval") if fields.present("full_attention_interval") else 4
    layers = fields.integer("num_hidden_layers")
    return given or ["linear" if (i + 1) % every else "full" for i in range(layers)]


def mixers_and_experts(fields: Fields) -> list[str]:
    """The same with what follows, a dense network or experts (Qwen3-Next)."""
    return [f"{mixer}_{kind}" for mixer, kind in zip(mixers(fields), sparse_steps(fields), strict=True)]


QWEN3_NEXT_GQA = GQA.with_rows(
    head_dim=integer("head_dim", absent=256),
    qk_norm=constant("head"),
    qk_norm_eps=number("rms_norm_eps"),
    qk_norm_zero_centered=constant(True),
    qkv_bias=yes_or_absent("attention_bias"),
    o_bias=yes_or_absent("attention_bias"),
    output_gate=constant(True),
).with_rope(partial_rope(share=0.25))

GATED_DELTA_NET = Block(
    model.GatedDeltaNetOp,
    "gated_delta_net",
    {
        "num_key_heads": integer("linear_num_key_heads"),
        "num_value_heads": integer("linear_num_value_heads"),
        "key_head_dim": integer("linear_key_head_dim"),
        "value_head_dim": integer("linear_value_head_dim"),
        "conv_kernel": integer("linear_conv_kernel_dim"),
        "norm_eps": number("rms_norm_eps"),
    },
)

QWEN3_NEXT_MOE = SOFTMAX_MOE.with_rows(
    shared_intermediate_size=integer("shared_expert_intermediate_size"),
    shared_gate=constant(True),
    norm_topk_prob=flag("norm_topk_prob", absent=True),
)
QWEN3_5_MOE = QWEN3_NEXT_MOE.with_rows(norm_topk_prob=constant(True))
"""Qwen3_5MoeTopKRouter always renormalises the weights of the chosen experts."""

QWEN3_NEXT_NORM: Mapping[str, Reading] = {
    "kind": constant("rms"),
    "eps": number("rms_norm_eps"),
    "zero_centered": constant(True),
}

QWEN3_NEXT_ONLY: Mapping[str, Reading | Constant] = {
    "attn_output_gate": True,
    # Of the output norm of the recurrence, which SiLU gates whatever the networks have.
    "hidden_act": "silu",
    "output_gate_type": "swish",
    "mamba_ssm_dtype": "float32",
}


def qwen3_5(feed_forward: Block) -> Family:
    """Layers with one kind of network behind two kinds of mixers."""
    return Family(
        {"linear": (GATED_DELTA_NET, feed_forward), "full": (QWEN3_NEXT_GQA, feed_forward)},
        mixers,
        QWEN3_NEXT_ONLY,
        # No layer but those of Qwen3-Next may have a network of its own kind; the gate of attention is a sigmoid in the
        # modeling code, whatever the file says of it.
        unused=("mlp_only_layers", "mtp_use_dedicated_embeddings", "output_gate_type"),
        lists={},
        norm=QWEN3_NEXT_NORM,
        mtp_layers="mtp_num_hidden_layers",
    )


# -- Nemotron-H ---------------------------------------------------------------------------------------------------

PATTERN: Mapping[str, str] = {"M": "mamba", "E": "moe", "-": "mlp", "*": "attention"}
"""The letters of `hybrid_override_pattern`."""

BLOCK_TYPES: Mapping[str, str] = {
    "mamba": "mamba",
    "linear_attention": "mamba",
    "moe": "moe",
    "mlp": "mlp",
    "attention": "attention",
    "full_attention": "attention",
}
"""The names in `layers_block_type`: of the published files, and of newer versions of transformers."""


def pattern(fields: Fields) -> list[str]:
    """The block of each layer: `layers_block_type`, or the letters of `hybrid_override_pattern`."""
    types, letters = fields.value("layers_block_type"), fields.value("hybrid_override_pattern")
    name, known = ("layers_block_type", BLOCK_TYPES) if types is not None else ("hybrid_override_pattern", PATTERN)
    given = letters if types is None else types
    if not isinstance(given, str if types is None else list) or not given:
        raise fields.fail(name, f"expected one of {', '.join(known)} for each layer, found {given!r}")
    for item in cast("list[object]", given):
        if item not in known:
            raise fields.fail(name, f"layers of type {item!r} are not supported, only {', '.join(known)} are")
    order = [known[item] for item in cast("list[str]", given)]
    if fields.present("num_hidden_layers") and fields.integer("num_hidden_layers") != len(order):
        raise fields.fail(name, f"has {len(order)} layers, not num_hidden_layers {fields.value('num_hidden_layers')}")
    if (
        types is not None
        and letters is not None
        and letters != "".join(letter for kind in order for letter, named in PATTERN.items() if named == kind)
    ):
        raise fields.fail("hybrid_override_pattern", "says something else than layers_block_type; leave one out")
    return order


def time_step_limit(which: int) -> Reading:
    """One of the two numbers of `time_step_limit`; absent = no limit, as softplus is positive."""

    def read(fields: Fields) -> float:
        given = fields.value("time_step_limit")
        if given is None:
            return (0.0, math.inf)[which]
        numbers = cast("list[object]", given) if isinstance(given, list) else []
        if len(numbers) != 2 or not all(isinstance(n, int | float) and not isinstance(n, bool) for n in numbers):
            raise fields.fail("time_step_limit", f"expected two numbers, found {given!r}")
        return float(cast(float, numbers[which]))

    return read


MAMBA2 = Block(
    model.Mamba2Op,
    "mamba2",
    {
        "num_heads": integer("mamba_num_heads"),
        "head_dim": integer("mamba_head_dim"),
        "n_groups": integer("n_groups"),
        "state_size": integer("ssm_state_size"),
        "conv_kernel": integer("conv_kernel"),
        "conv_bias": yes_or_absent("use_conv_bias", absent=True),
        "time_step_min": time_step_limit(0),
        "time_step_max": time_step_limit(1),
        "norm_eps": number("layer_norm_epsilon"),
    },
)

NEMOTRON_GQA = GQA.with_rows(
    # The older name of the same field.
    head_dim=lambda fields: (
        fields.integer("attention_head_dim") if fields.present("attention_head_dim") else head_dim(fields)
    ),
    qkv_bias=yes_or_absent("attention_bias"),
    o_bias=yes_or_absent("attention_bias"),
).with_rope(lambda fields: {})
"""NemotronHAttention: positions are known from the recurrences, so nothing is rotated."""

NEMOTRON_NETWORK: Mapping[str, Reading] = {"activation": activation("mlp_hidden_act"), "gated": constant(False)}

NEMOTRON_MOE = DEEPSEEK_MOE.with_rows(
    shared_intermediate_size=integer("moe_shared_expert_intermediate_size"),
    moe_latent_size=lambda fields: fields.integer("moe_latent_size") if fields.present("moe_latent_size") else None,
    **NEMOTRON_NETWORK,
)

NEMOTRON_H = Family(
    {
        "mamba": (MAMBA2,),
        "attention": (NEMOTRON_GQA,),
        "mlp": (FFN.with_rows(**NEMOTRON_NETWORK),),
        "moe": (NEMOTRON_MOE,),
    },
    pattern,
    {
        "mamba_hidden_act": "silu",
        "mamba_ssm_cache_dtype": "float32",
        "mamba_proj_bias": False,
        "use_bias": False,
        "mlp_bias": False,
        "residual_in_fp32": False,
        "sliding_window": None,
        "n_shared_experts": 1,
    },
    unused=(
        # Other names of layer_norm_epsilon.
        "norm_eps",
        "rms_norm_eps",
        # Of rotary embeddings, which there are none of.
        "rope_theta",
        "partial_rotary_factor",
        # In how large parts, and by which kernels, the same is computed.
        "chunk_size",
        "use_mamba_kernels",
        "moe_shared_expert_overlap",
        "num_logits_to_keep",
        # The width of the mixer, which is that of all heads.
        "expand",
        # How weights are drawn before the training.
        "rescale_prenorm_residual",
        "time_step_floor",
        "time_step_max",
        "time_step_min",
        "time_step_rank",
        # The layers that predict further tokens.
        "mtp_hybrid_override_pattern",
        "mtp_layers_block_type",
    ),
    lists={},
    norm={"kind": constant("rms"), "eps": number("layer_norm_epsilon")},
)

# -- Kimi Linear --------------------------------------------------------------------------------------------------

KIMI_LAYERS: Mapping[str, str] = {"kda_layers": "linear", "full_attn_layers": "full"}
"""The lists of `linear_attn_config`, and what mixes the tokens of the layers in them."""

KIMI_RECURRENCE = (*KIMI_LAYERS, "head_dim", "num_heads", "short_conv_kernel_size")
"""All fields of `linear_attn_config`."""

KIMI_K3_PARTS: Mapping[str, str] = {
    "attn_res_block_size": "residuals that attend to the results of earlier blocks of layers",
    "activation_situ_beta": "the activation SiTU",
    "activation_situ_linear_beta": "the activation SiTU",
    "routed_expert_hidden_size": "experts on a latent with a norm",
    "latent_moe_use_norm": "experts on a latent with a norm",
    "mla_use_output_gate": "an output gate of MLA",
    "linear_attn_config.gate_lower_bound": "a bound on the decay of KDA",
    "linear_attn_config.use_full_rank_gate": "a gate of KDA without a latent",
}
"""What the language model of Kimi K3 says besides, which is called the same; transformers 5.23 has no code of it."""


def kimi_linear_field(name: str, other: str) -> Reading:
    """A size of the recurrence: `name` in `linear_attn_config`, or the field `other` as transformers calls it."""

    def value(fields: Fields) -> int:
        block = fields.block("linear_attn_config")
        if block is None or not block.present(name):
            return fields.integer(other)
        found = block.integer(name)
        if fields.present(other) and fields.integer(other) != found:
            raise block.fail(name, f"{found} is not what {other} says, {fields.integer(other)}; leave one out")
        return found

    return value


def kimi_mixers(fields: Fields) -> list[str]:
    """What mixes the tokens of each layer: `layer_types`, or the lists of `linear_attn_config`, which count from 1."""
    given = layer_kinds(fields, "layer_types", MIXERS)
    block, layers = fields.block("linear_attn_config"), fields.integer("num_hidden_layers")
    other = None if block is None else next((name for name in block.config if name not in KIMI_RECURRENCE), None)
    if block is not None and other is not None:
        raise block.fail(other, f"unknown, must be one of {', '.join(KIMI_RECURRENCE)}")
    lists = {} if block is None else {kind: block.value(name) for name, kind in KIMI_LAYERS.items()}
    if block is None or all(numbers is None for numbers in lists.values()):
        if given is None:
            raise fields.fail("linear_attn_config", "missing, expected kda_layers and full_attn_layers")
        return given
    entries = [
        (number, kind)
        for kind, numbers in lists.items()
        if isinstance(numbers, list)
        for number in cast("list[object]", numbers)
    ]
    kinds = {number: kind for number, kind in entries if isinstance(number, int)}
    if set(kinds) != set(range(1, layers + 1)) or len(entries) != layers:
        raise block.fail("kda_layers", f"expected with full_attn_layers every number from 1 to {layers} once")
    order = [kinds[number] for number in range(1, layers + 1)]
    if given is not None and given != order:
        raise fields.fail("layer_types", "says something else than linear_attn_config; leave one out")
    return order


def kimi_layers(fields: Fields) -> list[str]:
    """Mixers, with experts behind the first `first_k_dense_replace` layers, or as `mlp_layer_types` says."""
    networks = layer_kinds(fields, "mlp_layer_types", {"dense": "dense", "sparse": "moe"})
    if networks is None or fields.present("first_k_dense_replace"):
        networks = first_dense(fields)
    return [f"{mixer}_{kind}" for mixer, kind in zip(kimi_mixers(fields), networks, strict=True)]


KDA = Block(
    model.KimiDeltaOp,
    "kda",
    {
        "num_heads": kimi_linear_field("num_heads", "linear_num_heads"),
        "head_dim": kimi_linear_field("head_dim", "linear_head_dim"),
        "conv_kernel": kimi_linear_field("short_conv_kernel_size", "linear_conv_kernel_dim"),
        "norm_eps": number("rms_norm_eps"),
    },
)

KIMI_MLA = Block(
    model.MlaOp,
    "mla",
    {
        **{name: reading for name, reading in MLA.rows.items() if name != "rope_interleave"},
        "q_lora_rank": lambda fields: fields.integer("q_lora_rank") if fields.present("q_lora_rank") else None,
    },
)
"""Without positions: KimiLinearAttention rotates nothing, the recurrences know the order of the tokens."""

KIMI_MOE = DEEPSEEK_MOE.with_rows(
    n_routed_experts=integer("num_local_experts"),
)

KIMI_LINEAR = Family(
    {
        f"{mixer}_{kind}": (block, network)
        for mixer, block in (("linear", KDA), ("full", KIMI_MLA))
        for kind, network in (("dense", FFN), ("moe", KIMI_MOE))
    },
    kimi_layers,
    {
        # Of the convolutions too.
        "hidden_act": "silu",
        "attention_bias": False,
        "mla_use_nope": True,
        "num_key_value_heads": integer("num_attention_heads"),
        "qk_head_dim": lambda fields: fields.integer("qk_nope_head_dim") + fields.integer("qk_rope_head_dim"),
        "moe_router_activation_func": "sigmoid",
        "moe_layer_freq": 1,
        "topk_method": "noaux_tc",
        "use_grouped_topk": True,
        "rope_scaling": None,
        # The code has no tied weights, whatever the file says.
        "tie_word_embeddings": False,
    },
    unused=(
        # Of a rotary embedding, which there is none of; the code has the dims of heads by other names.
        "rope_theta",
        "head_dim",
    ),
    lists={},
    full_rope=lambda fields: Rope(1.0, None),
    names={
        "max_position_embeddings": "model_max_length",
        "num_local_experts": "num_experts",
        "num_experts_per_tok": "num_experts_per_token",
        "n_shared_experts": "num_shared_experts",
        "n_group": "num_expert_group",
        "norm_topk_prob": "moe_renormalize",
    },
    unsupported=KIMI_K3_PARTS,
)

HYBRID_FAMILIES: Mapping[str, Family] = {
    "Qwen3NextForCausalLM": Family(
        {
            f"{mixer}_{kind}": (block, network)
            for mixer, block in (("linear", GATED_DELTA_NET), ("full", QWEN3_NEXT_GQA))
            for kind, network in (("dense", FFN), ("moe", QWEN3_NEXT_MOE))
        },
        mixers_and_experts,
        QWEN3_NEXT_ONLY,
        lists={},
        norm=QWEN3_NEXT_NORM,
    ),
    "Qwen3_5ForCausalLM": qwen3_5(FFN),
    "Qwen3_5MoeForCausalLM": qwen3_5(QWEN3_5_MOE),
    "NemotronHForCausalLM": NEMOTRON_H,
    "KimiLinearForCausalLM": KIMI_LINEAR,
}
"""The language models by architecture."""

HYBRID_WRAPPERS: Mapping[str, str] = {
    "Qwen3_5ForConditionalGeneration": "Qwen3_5ForCausalLM",
    "Qwen3_5MoeForConditionalGeneration": "Qwen3_5MoeForCausalLM",
}
"""Models with an encoder of images beside such a language model."""
