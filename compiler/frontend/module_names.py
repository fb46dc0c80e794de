"""What checkpoints call the weights of a block, so that lists of their modules can be read.

A weight is at `blocks.<kind>.<block>.<leaf>.weight` in the IR.  In a checkpoint it is, or is a part of, a module
`model.layers.<number>.<module>`; families use different words for one module, all of which are listed.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from itertools import accumulate, product

from pmc.compiler.frontend.family import Block

Modules = Mapping[str, tuple[str, ...]]
"""By leaf the modules that it is stored in."""


def _inside(parents: Sequence[str], modules: Mapping[str, Sequence[str]]) -> Modules:
    return {leaf: tuple(f"{a}.{b}" for a, b in product(parents, names)) for leaf, names in modules.items()}


ATTENTION = ("self_attn", "attn", "attention", "self_attention", "mixer")
FEED_FORWARD = ("mlp", "feed_forward", "ffn", "mixer", "block_sparse_moe", "moe")

NETWORK: Mapping[str, Sequence[str]] = {
    "gate_proj": ("gate_proj", "w1", "gate_up_proj"),
    "up_proj": ("up_proj", "w3", "gate_up_proj"),
    "down_proj": ("down_proj", "w2"),
}
QUERY_KEY_VALUE = ("qkv_proj", "query_key_value", "c_attn")
LATENT: Mapping[str, Sequence[str]] = {
    "q_a_proj": ("q_a_proj",),
    "q_b_proj": ("q_b_proj",),
    "kv_a_proj": ("kv_a_proj_with_mqa", "kv_a_proj"),
    "kv_b_proj": ("kv_b_proj",),
    "q_proj": ("q_proj",),
    "o_proj": ("o_proj",),
}


def _experts(parent: str, names: Sequence[str]) -> tuple[str, ...]:
    """Experts are stored one by one or all together; the first stands for all."""
    return tuple(f"{parent}{one}.{name}" for one in (".0", "") for name in names)


WINDOW: Mapping[str, Sequence[str]] = {
    "q_a_proj": ("q_a_proj", "wq_a"),
    "q_b_proj": ("q_b_proj", "wq_b"),
    "kv_proj": ("kv_proj", "wkv"),
    "o_a_proj": ("o_a_proj", "wo_a"),
    "o_b_proj": ("o_b_proj", "wo_b"),
}
COMPRESSED: Mapping[str, Sequence[str]] = {
    **WINDOW,
    "compressor.kv_proj": ("compressor.kv_proj", "compressor.wkv"),
    "compressor.gate_proj": ("compressor.gate_proj", "compressor.wgate"),
}


MOE = _inside(
    FEED_FORWARD,
    {
        "router": ("gate", "router", "router.gate"),
        "shared_gate": ("shared_expert_gate",),
        "latent_down_proj": ("fc1_latent_proj",),
        "latent_up_proj": ("fc2_latent_proj",),
        **{f"experts.{leaf}": _experts("experts", names) for leaf, names in NETWORK.items()},
        **{
            f"shared.{leaf}": tuple(
                f"{parent}.{name}" for parent in ("shared_experts", "shared_expert", "share_expert") for name in names
            )
            for leaf, names in NETWORK.items()
        },
    },
)

MODULES: Mapping[str, Modules] = {
    "gqa": _inside(
        ATTENTION,
        {
            "q_proj": ("q_proj", *QUERY_KEY_VALUE),
            "k_proj": ("k_proj", *QUERY_KEY_VALUE),
            "v_proj": ("v_proj", *QUERY_KEY_VALUE),
            "o_proj": ("o_proj", "out_proj", "dense", "c_proj"),
            "gate_proj": ("q_proj",),  # Qwen3-Next stores the output gate in q_proj
            "head_gate": ("g_proj",),
        },
    ),
    "block_sparse": _inside(
        ATTENTION,
        {
            **{name: (name,) for name in ("q_proj", "k_proj", "v_proj", "o_proj")},
            "indexer.q_proj": ("indexer.q_proj", "index_q_proj"),
            "indexer.k_proj": ("indexer.k_proj", "index_k_proj"),
        },
    ),
    "mla": _inside(ATTENTION, LATENT),
    "dsa": _inside(
        ATTENTION,
        {
            **LATENT,
            "indexer.wq_b": ("indexer.wq_b",),
            "indexer.wk": ("indexer.wk",),
            "indexer.weights_proj": ("indexer.weights_proj", "indexers_proj"),
        },
    ),
    "window": _inside(ATTENTION, WINDOW),
    "hca": _inside(ATTENTION, COMPRESSED),
    "csa": _inside(
        ATTENTION,
        {
            **COMPRESSED,
            "indexer.kv_proj": ("compressor.indexer.kv_proj", "indexer.compressor.wkv"),
            "indexer.gate_proj": ("compressor.indexer.gate_proj", "indexer.compressor.wgate"),
            "indexer.q_b_proj": ("compressor.indexer.q_b_proj", "indexer.wq_b"),
            "indexer.weights_proj": ("compressor.indexer.scorer.weights_proj", "indexer.weights_proj"),
        },
    ),
    "gated_delta_net": _inside(
        ("linear_attn",),
        {
            "q_proj": ("in_proj_qkv", "in_proj_qkvz"),
            "k_proj": ("in_proj_qkv", "in_proj_qkvz"),
            "v_proj": ("in_proj_qkv", "in_proj_qkvz"),
            "z_proj": ("in_proj_z", "in_proj_qkvz"),
            "a_proj": ("in_proj_a", "in_proj_ba"),
            "b_proj": ("in_proj_b", "in_proj_ba"),
            "out_proj": ("out_proj",),
        },
    ),
    "kda": _inside(
        ATTENTION,
        {
            **{name: (name,) for name in ("q_proj", "k_proj", "v_proj", "b_proj", "g_a_proj", "g_b_proj", "o_proj")},
            # transformers has the forget gate as a module of its own.
            "f_a_proj": ("f_a_proj", "forget_gate.f_a_proj"),
            "f_b_proj": ("f_b_proj", "forget_gate.f_b_proj"),
        },
    ),
    "mamba2": _inside(
        ("mixer", "mamba"),
        {
            **{name: ("in_proj",) for name in ("x_proj", "z_proj", "B_proj", "C_proj", "dt_proj")},
            "out_proj": ("out_proj",),
        },
    ),
    "ffn": _inside(FEED_FORWARD, NETWORK),
    "moe": MOE,
    "hash_moe": MOE,
}
"""Of every block that multiplies with weights."""

LM_HEAD = ("lm_head", "head", "output")
"""What checkpoints call the head; the IR has it at `lm_head.proj.weight`."""

UNQUANTIZED = frozenset(
    {("moe", "router"), ("hash_moe", "router"), ("moe", "shared_gate"), ("gqa", "head_gate")}
    | {("dsa", "indexer.weights_proj"), ("csa", "indexer.weights_proj")}
    | {(kind, f"compressor.{leaf}") for kind in ("csa", "hca") for leaf in ("kv_proj", "gate_proj")}
    | {("csa", "indexer.kv_proj"), ("csa", "indexer.gate_proj")}
    | {("gated_delta_net", "a_proj"), ("gated_delta_net", "b_proj"), ("kda", "b_proj")}
)
"""Weights that are stored in the type of the model unless a checkpoint names them: parameters that are no linear layer
in the published code, or so narrow that no block of a scale fits.  Those of the compressors of DeepSeek-V4 are FP32 in
its published inference code (from memory: no source was at hand)."""

PREFIXES = ("model", "language_model", "backbone", "transformer")
"""What may stand before `layers`."""


def base_of(name: str) -> tuple[str, int]:
    """The block of MODULES that a block of a layer is, and its layer among those of its kind, from 0."""
    if name in MODULES:
        return name, 0
    base = name.rstrip("0123456789")
    return base, int(name.removeprefix(base) or 1) - 1


Weight = tuple[str, str]
"""Block and leaf."""


def layer_numbers_of(kinds: Mapping[str, Sequence[Block]], order: Sequence[str]) -> list[range]:
    """The numbers of the layers of each entry of `order`; some kinds are several layers."""
    many = {kind: 1 + max(base_of(block.name)[1] for block in blocks) for kind, blocks in kinds.items()}
    ends = list(accumulate(many[kind] for kind in order))
    return [range(end - many[kind], end) for kind, end in zip(order, ends, strict=True)]


def modules_of(blocks: Sequence[Block], first: int) -> Mapping[Weight, list[str]]:
    """The modules of the weights of blocks whose first layer has the number `first`, from `layers` on.

    What stands beside a block is in the layer itself, not in a module of the layer (Gemma 4).
    """
    found: dict[Weight, list[str]] = {}
    for block in blocks:
        for each in (block, *block.beside):
            base, behind = base_of(each.name)
            for leaf, names in MODULES.get(base, {}).items():
                own = names if each is block else tuple(dict.fromkeys(name.partition(".")[2] for name in names))
                found[each.name, leaf] = [f"layers.{first + behind}.{name}" for name in own]
    return found
