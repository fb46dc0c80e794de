"""Families whose layers differ in their attention: windows, chunks, heads, rotary embeddings by the kind of layer."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import replace

from pmc.compiler.frontend.blocks import (
    DEEPSEEK_MOE,
    FFN,
    FINAL_CAP,
    GEMMA_FFN,
    GQA,
    LLAMA_GQA,
    SOFTMAX_MOE,
    scaled,
)
from pmc.compiler.frontend.family import WINDOWS, Block, Family, layer_kinds, layer_numbers, listed
from pmc.compiler.frontend.fields import Fields
from pmc.compiler.frontend.readings import (
    Properties,
    Reading,
    activation,
    constant,
    flag,
    head_dim,
    integer,
    number,
    rope,
    yes_or_absent,
)
from pmc.compiler.frontend.rope import Rope, rope_block, rope_of_kind
from pmc.dialects import model
from pmc.dialects.assembly import PropertyValue

MLPS: Mapping[str | int, str] = {"dense": "dense", "sparse": "moe"}

Kinds = Callable[[Fields], list[str]]


def both(attention: Kinds, feed_forward: Kinds) -> Kinds:
    """The kinds of layers of which two lists say a half each, as `sliding_moe`."""
    return lambda fields: [f"{a}_{b}" for a, b in zip(attention(fields), feed_forward(fields), strict=True)]


def layers_of(attention: Mapping[str, Block], feed_forward: Mapping[str, Block]) -> dict[str, tuple[Block, ...]]:
    """The layers of all these kinds."""
    return {f"{a}_{b}": (first, second) for a, first in attention.items() for b, second in feed_forward.items()}


def agreeing(
    lists: Mapping[str, Mapping[str | int, str]], absent: Callable[[Fields, int], str]
) -> Callable[[Fields], list[str]]:
    """The kinds that any of `lists` says, which must not disagree; `absent` is that of layer i without all of them."""

    def order(fields: Fields) -> list[str]:
        given = {name: layer_kinds(fields, name, known) for name, known in lists.items() if fields.value(name) != []}
        found = {name: kinds for name, kinds in given.items() if kinds is not None}
        if not found:
            return [absent(fields, i) for i in range(fields.integer("num_hidden_layers"))]
        first = next(iter(found))
        for name, kinds in found.items():
            if kinds != found[first]:
                raise fields.fail(name, f"says something else than {first}")
        return found[first]

    return order


def not_null(name: str, absent: int) -> Reading:
    """An integer that may be absent and not null."""
    return lambda fields: fields.integer(name) if name in fields.config else absent


def kind_rope(kind: str, field: str, absent: float) -> Callable[[Fields], Rope]:
    """In `rope_parameters`, or the base alone in `field` (which is what files of version 4 have)."""

    def read(fields: Fields) -> Rope:
        base = number(field, absent=absent)(fields)
        assert isinstance(base, float)
        return rope_of_kind(fields, kind) or Rope(base, None)

    return read


# -- Llama 4 ------------------------------------------------------------------------------------------------------


def _uses_rope(fields: Fields, i: int) -> str:
    """Every `no_rope_layer_interval`-th layer has no rotary embedding."""
    period = fields.integer("no_rope_layer_interval") if fields.present("no_rope_layer_interval") else 4
    return "rope" if (i + 1) % period else "nope"


def _llama4_experts(fields: Fields) -> list[str]:
    """Experts in the layers that `moe_layers` names, or in every `interleave_moe_layer_step`-th."""
    layers = fields.integer("num_hidden_layers")
    step = fields.integer("interleave_moe_layer_step") if fields.present("interleave_moe_layer_step") else 1
    given = layer_numbers(fields, "moe_layers")
    if given is None:
        return ["dense" if (i + 1) % step else "moe" for i in range(layers)]
    return ["moe" if i in given else "dense" for i in range(layers)]


def _only_with(name: str, reading: Reading) -> Reading:
    """A property of models in which the switch `name` is on, as it is where it is absent."""

    def read(fields: Fields) -> PropertyValue:
        found = reading(fields)
        return found if flag(name, absent=True)(fields) else None

    return read


def _llama4_rope(fields: Fields) -> Properties:
    return {**rope(theta=500000.0)(fields), "rope_interleave": True}


LLAMA4_ROPE = LLAMA_GQA.with_rows(
    chunk=not_null("attention_chunk_size", 8192),
    qk_norm=_only_with("use_qk_norm", constant("rotated")),
    qk_norm_eps=_only_with("use_qk_norm", number("rms_norm_eps")),
).with_rope(_llama4_rope)
LLAMA4_NOPE = LLAMA_GQA.with_rows(
    temperature_floor=_only_with("attn_temperature_tuning", integer("floor_scale", absent=8192)),
    temperature_scale=_only_with("attn_temperature_tuning", number("attn_scale", absent=0.1)),
).with_rope(lambda fields: {})
"""iRoPE: these layers see all tokens, their queries the sharper the later they stand."""

LLAMA4_MOE = SOFTMAX_MOE.with_rows(
    n_routed_experts=integer("num_local_experts", absent=16),
    num_experts_per_tok=integer("num_experts_per_tok", absent=1),
    moe_intermediate_size=integer("intermediate_size"),
    shared_intermediate_size=integer("intermediate_size"),
    scoring=constant("sigmoid"),
    norm_topk_prob=constant(False),
    scored_input=constant(True),
)

# -- MiMo-V2 ------------------------------------------------------------------------------------------------------


def _mimo_properties(kind: str, read: Callable[[Fields], Rope]) -> Callable[[Fields], Properties]:
    """The first `partial_rotary_factor` of the columns of a head are rotated."""

    def found(fields: Fields) -> Properties:
        inner = rope_block(fields, kind)
        share = number("partial_rotary_factor", absent=0.334)(fields if inner is None else inner)
        assert isinstance(share, float)
        return {**read(fields).properties(), "rotary_dim": int(fields.integer("head_dim") * share)}

    return found


def _mimo_window(fields: Fields) -> PropertyValue:
    """A query sees `sliding_window_size` tokens before its own; `sliding_window` counts its own."""
    if fields.present("sliding_window_size"):
        fields.value("sliding_window")
        return fields.integer("sliding_window_size") + 1
    return fields.integer("sliding_window")


MIMO_FULL_ROPE = kind_rope("full_attention", "rope_theta", 5e6)
MIMO_FULL = GQA.with_rows(
    head_dim=integer("head_dim"),
    v_head_dim=integer("v_head_dim"),
    value_scale=number("attention_value_scale", absent=0.707),
    qkv_bias=yes_or_absent("attention_bias"),
).with_rope(_mimo_properties("full_attention", MIMO_FULL_ROPE))
MIMO_SLIDING = MIMO_FULL.with_rows(
    num_key_value_heads=lambda fields: 2 * fields.integer("num_key_value_heads"),
    sinks=constant(True),
    window=_mimo_window,
).with_rope(_mimo_properties("sliding_attention", kind_rope("sliding_attention", "swa_rope_theta", 1e4)))
MIMO_MOE = DEEPSEEK_MOE.with_rows(
    shared_intermediate_size=constant(0),
    n_group=integer("n_group", absent=1),
    topk_group=integer("topk_group", absent=1),
    norm_topk_prob=flag("norm_topk_prob", absent=True),
    routed_scaling_factor=number("routed_scaling_factor", absent=1.0),
)

# -- Step 3.7 -----------------------------------------------------------------------------------------------------


def _step_experts(fields: Fields) -> list[str]:
    """Experts in all layers but the first three, or as many as `first_k_dense_replace` says."""
    dense = fields.integer("first_k_dense_replace", 0) if fields.present("first_k_dense_replace") else 3
    return agreeing({"mlp_layer_types": MLPS}, lambda fields, i: "moe" if i >= dense else "dense")(fields)


def _step_properties(kind: str) -> Callable[[Fields], Properties]:
    """A share of the columns of a head is rotated only where the kind of layer has one."""

    def found(fields: Fields) -> Properties:
        inner, d = rope_block(fields, kind), head_dim(fields)
        given = inner is not None and inner.present("partial_rotary_factor")
        rotary = int(d * inner.number("partial_rotary_factor")) if inner is not None and given else d
        base = kind_rope(kind, "rope_theta", 1e4)(fields)
        return {**base.properties(), "rotary_dim": None if rotary == d else rotary}

    return found


STEP_NORM: Mapping[str, Reading] = {
    "kind": constant("rms"), "eps": number("rms_norm_eps", absent=1e-5), "zero_centered": constant(True),
}  # fmt: skip
STEP_FULL = GQA.with_rows(
    num_key_value_heads=integer("num_key_value_heads", absent=integer("num_attention_groups")),
    head_dim=integer("head_dim"),
    qk_norm=constant("head"),
    qk_norm_eps=STEP_NORM["eps"],
    qk_norm_zero_centered=constant(True),
    qkv_bias=yes_or_absent("attention_bias"),
    o_bias=yes_or_absent("attention_bias"),
    head_gate=constant(True),
    softmax_scale=lambda fields: (
        fields.number("query_pre_attn_scalar") ** -0.5 if fields.present("query_pre_attn_scalar") else None
    ),
).with_rope(_step_properties("full_attention"))
STEP_SLIDING = STEP_FULL.with_rows(
    num_attention_heads=integer("num_sliding_attention_heads", absent=integer("num_attention_heads")),
    window=integer("sliding_window"),
).with_rope(_step_properties("sliding_attention"))
STEP_MOE = DEEPSEEK_MOE.with_rows(
    n_routed_experts=integer("n_routed_experts", absent=integer("num_experts", absent=integer("moe_num_experts"))),
    num_experts_per_tok=integer("num_experts_per_tok", absent=integer("moe_top_k")),
    shared_intermediate_size=integer("share_expert_dim"),
    n_group=constant(1),
    topk_group=constant(1),
    norm_topk_prob=constant(True),
    routed_scaling_factor=number("moe_router_scaling_factor", absent=1.0),
)

# -- Gemma 4 ------------------------------------------------------------------------------------------------------


def _gemma4_order(fields: Fields) -> list[str]:
    """Windows but in every sixth layer; the last one has none.  Of the inputs that layers may have of their own, none.

    Absent, `hidden_size_per_layer_input` is not 0, so it must be given.
    """
    if fields.integer("hidden_size_per_layer_input", 0):
        raise fields.fail(
            "hidden_size_per_layer_input", "inputs of every layer of its own are not supported, only 0 is"
        )
    found = listed(WINDOWS, absent=lambda fields, i: "sliding" if (i + 1) % 6 else "full")(fields)
    if found[-1] != "full":
        raise fields.fail("layer_types", "the last layer must be of type 'full_attention'")
    return found


def _gemma4_full_rope(fields: Fields) -> Rope:
    """The first pairs of a head turn, as slowly as if all of them did."""
    standard = Rope(1e6, {"rope_type": "proportional", "partial_rotary_factor": 0.25})
    return rope_of_kind(fields, "full_attention") or standard


def _gemma4_sliding_rope(fields: Fields) -> Properties:
    inner = rope_block(fields, "sliding_attention")
    if inner is not None:
        inner.unsupported_unless("partial_rotary_factor", 1.0)
    return dict((rope_of_kind(fields, "sliding_attention") or Rope(1e4, None)).properties())


def _gemma4_key_heads(fields: Fields) -> int:
    """Layers without a window have their own number where keys are values."""
    own = fields.present("num_global_key_value_heads")
    same = flag("attention_k_eq_v", absent=False)(fields)
    return fields.integer("num_global_key_value_heads" if own and same else "num_key_value_heads")


GEMMA4_SLIDING = LLAMA_GQA.with_rows(
    head_dim=integer("head_dim", absent=256),
    qk_norm=constant("head"),
    qk_norm_eps=number("rms_norm_eps"),
    value_norm_eps=number("rms_norm_eps"),
    softmax_scale=constant(1.0),
    window=integer("sliding_window"),
).with_rope(_gemma4_sliding_rope)
GEMMA4_FULL = GEMMA4_SLIDING.with_rows(
    head_dim=integer("global_head_dim", absent=512),
    num_key_value_heads=_gemma4_key_heads,
    keys_as_values=lambda fields: flag("attention_k_eq_v", absent=False)(fields) or None,
    window=constant(None),
).with_rope(lambda fields: dict(_gemma4_full_rope(fields).properties()))

GEMMA4_MOE = replace(
    SOFTMAX_MOE.with_rows(
        num_experts_per_tok=integer("top_k_experts"),
        norm_topk_prob=constant(True),
        activation=activation("hidden_activation", absent="gelu_tanh"),
        own_norms_eps=number("rms_norm_eps"),
        expert_scale=constant(True),
    ),
    own_norms=True,
)


def _gemma4_layers(fields: Fields) -> dict[str, tuple[Block, ...]]:
    """With experts these stand beside the dense network of every layer."""
    experts = flag("enable_moe_block", absent=False)(fields)
    feed_forward = replace(GEMMA_FFN, beside=(GEMMA4_MOE,)) if experts else GEMMA_FFN
    return {"sliding": (GEMMA4_SLIDING, feed_forward), "full": (GEMMA4_FULL, feed_forward)}


# -- families -----------------------------------------------------------------------------------------------------

ATTENTION_FAMILIES: Mapping[str, Family] = {
    "Llama4ForCausalLM": Family(
        layers_of(
            {"rope": LLAMA4_ROPE, "nope": LLAMA4_NOPE},
            {"dense": FFN.with_rows(intermediate_size=integer("intermediate_size_mlp", absent=16384)),
             "moe": LLAMA4_MOE},
        ),
        both(
            agreeing(
                {"layer_types": {"chunked_attention": "rope", "full_attention": "nope"},
                 "no_rope_layers": {1: "rope", 0: "nope"}},
                _uses_rope,
            ),
            _llama4_experts,
        ),
        lists={},
    ),
    "MiMoV2FlashForCausalLM": Family(
        layers_of({"full": MIMO_FULL, "sliding": MIMO_SLIDING}, {"dense": FFN, "moe": MIMO_MOE}),
        both(
            agreeing(
                {"layer_types": WINDOWS, "hybrid_layer_pattern": {0: "full", 1: "sliding"}},
                lambda fields, i: "sliding" if i and (i + 1) % 6 else "full",
            ),
            agreeing(
                {"mlp_layer_types": MLPS, "moe_layer_freq": {0: "dense", 1: "moe"}},
                lambda fields, i: "moe" if i else "dense",
            ),
        ),
        {
            "swa_num_attention_heads": integer("num_attention_heads"),
            "swa_num_key_value_heads": lambda fields: 2 * fields.integer("num_key_value_heads"),
            "swa_head_dim": integer("head_dim"),
            "swa_v_head_dim": integer("v_head_dim"),
            "add_swa_attention_sink_bias": True,
            "add_full_attention_sink_bias": False,
            "n_shared_experts": None,
            "scoring_func": "sigmoid",
            "topk_method": "noaux_tc",
        },
        # A kernel of theirs reads it in place of the window.
        unused=("attention_chunk_size",),
        lists={},
        norm={"kind": constant("rms"), "eps": number("layernorm_epsilon", absent=number("rms_norm_eps", absent=1e-5))},
        full_rope=MIMO_FULL_ROPE,
    ),
    "Step3p7FlashForCausalLM": Family(
        layers_of({"full": STEP_FULL, "sliding": STEP_SLIDING}, {"dense": FFN, "moe": STEP_MOE}),
        both(listed(WINDOWS, absent=lambda fields, i: "full"), _step_experts),
        {
            # Bounds of gate and up in some layers, and of the shared expert in others.
            "swiglu_limits": None,
            "swiglu_limits_shared": None,
            "rope_scaling": None,
            "mlp_bias": False,
            "n_shared_experts": 1,
            "scoring_func": "sigmoid",
            "use_moe_router_bias": True,
        },
        lists={},
        norm=STEP_NORM,
        full_rope=kind_rope("full_attention", "rope_theta", 1e4),
    ),
    "Gemma4ForCausalLM": Family(
        _gemma4_layers,
        _gemma4_order,
        {
            "num_kv_shared_layers": 0,
            # Of tokens of text it is causal all the same.
            "use_bidirectional_attention": "vision",
        },
        # The first for layers that share keys, the second for inputs of layers, the others for experts where are some.
        unused=(
            "use_double_wide_mlp",
            "vocab_size_per_layer_input",
            "num_experts",
            "top_k_experts",
            "moe_intermediate_size",
        ),
        lists={},
        norms="around",
        embedding=(scaled(lambda fields: fields.integer("hidden_size") ** 0.5),),
        behind_layer=(Block(model.LearnedScaleOp, "layer_scale", {}),),
        logits=(FINAL_CAP,),
        tied=True,
        full_rope=_gemma4_full_rope,
    ),
}  # fmt: skip
"""The language models by architecture."""

ATTENTION_WRAPPERS: Mapping[str, str] = {
    "Llama4ForConditionalGeneration": "Llama4ForCausalLM",
    "Gemma4ForConditionalGeneration": "Gemma4ForCausalLM",
    "Step3p7ForConditionalGeneration": "Step3p7FlashForCausalLM",
}
"""Those inside of a larger model, see `families.WRAPPERS`."""
