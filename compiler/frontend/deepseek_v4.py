"""The family of DeepSeek-V4: layers differ in what of a sequence they attend to, and in who chooses their experts."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import replace
from typing import cast

from pmc.compiler.frontend.attention_families import both, layers_of
from pmc.compiler.frontend.blocks import DEEPSEEK_MOE
from pmc.compiler.frontend.family import Block, Family
from pmc.compiler.frontend.fields import Fields
from pmc.compiler.frontend.readings import Properties, Reading, constant, integer, number
from pmc.compiler.frontend.rope import Rope, read_scaling
from pmc.dialects import model

LAYER_TYPES: Mapping[object, str] = {
    "sliding_attention": "window",
    "compressed_sparse_attention": "csa",
    "heavily_compressed_attention": "hca",
}
RATIO_KINDS: Mapping[object, str] = {0: "window", 4: "csa", 128: "hca"}
"""What the numbers of `compress_ratios` mean to `transformers`."""

COMPRESS_RATES: Mapping[str, tuple[str, int]] = {
    "csa": ("compressed_sparse_attention", 4),
    "hca": ("heavily_compressed_attention", 128),
}
"""The key of a kind in `compress_rates`, and the tokens of an entry where a file has no such field."""


def attention_kinds(fields: Fields) -> list[str]:
    """`layer_types`, or the older `compress_ratios`; without both two HCA layers, then HCA and CSA in turn.

    Both lists may have entries for layers of multi-token prediction behind those of the layers.
    """
    for name, known in (("layer_types", LAYER_TYPES), ("compress_ratios", RATIO_KINDS)):
        found = _first_of_list(fields, name, known)
        if found is not None:
            fields.value("compress_ratios")
            return found
    return ["csa" if i >= 2 and i % 2 else "hca" for i in range(fields.integer("num_hidden_layers"))]


def _first_of_list(fields: Fields, name: str, known: Mapping[object, str]) -> list[str] | None:
    """The kinds of the layers in list `name`; None where the file has none."""
    given = fields.value(name)
    if given is None:
        return None
    layers = fields.integer("num_hidden_layers")
    if not isinstance(given, list) or len(cast(list[object], given)) < layers:
        raise fields.fail(name, f"expected a list with an entry for each of the {layers} layers")
    entries = cast(list[object], given)[:layers]
    other = next((entry for entry in entries if entry not in known), None)
    if other is not None:
        raise fields.fail(name, f"layers of {other!r} are not supported, only {', '.join(map(repr, known))} are")
    return [known[entry] for entry in entries]


def ratio(kind: str) -> Reading:
    """The tokens of an entry of the layers of a kind."""
    key, absent = COMPRESS_RATES[kind]

    def read(fields: Fields) -> int:
        rates = fields.block("compress_rates")
        return absent if rates is None else rates.integer(key)

    return read


def plain_rope(fields: Fields) -> Rope:
    """That of layers without entries."""
    return Rope(cast(float, number("rope_theta", absent=10000.0)(fields)), None)


def compressed_rope(fields: Fields) -> Rope:
    """That of layers with entries: a base and a scaling of their own, which leaves the length of vectors as it is."""
    theta = cast(float, number("compress_rope_theta", absent=160000.0)(fields))
    scaling = read_scaling(fields)
    if scaling is not None and scaling["rope_type"] == "yarn":
        scaling = {"attention_factor": 1.0, **scaling}
    return Rope(theta, scaling)


def _with(rope: Callable[[Fields], Rope]) -> Callable[[Fields], Properties]:
    return lambda fields: dict(rope(fields).properties())


def _rope_dim(fields: Fields) -> int:
    """`qk_rope_head_dim`; absent = an eighth of a head."""
    return (
        fields.integer("qk_rope_head_dim") if fields.present("qk_rope_head_dim") else (cast(int, HEAD_DIM(fields)) // 8)
    )


HEAD_DIM = integer("head_dim", absent=512)
NORM_EPS = number("rms_norm_eps", absent=1e-6)
WINDOW = Block(
    model.CompressedAttentionOp,
    "window",
    {
        "num_attention_heads": integer("num_attention_heads"),
        "q_lora_rank": integer("q_lora_rank"),
        "head_dim": HEAD_DIM,
        "qk_rope_head_dim": _rope_dim,
        "window": integer("sliding_window", absent=128),
        "o_groups": integer("o_groups"),
        "o_lora_rank": integer("o_lora_rank"),
        "norm_eps": NORM_EPS,
    },
    _with(plain_rope),
)
HCA = Block(model.CompressedAttentionOp, "hca", {**WINDOW.rows, "compress_ratio": ratio("hca")}, _with(compressed_rope))
CSA = Block(
    model.CompressedAttentionOp,
    "csa",
    {
        **WINDOW.rows,
        "compress_ratio": ratio("csa"),
        "index_n_heads": integer("index_n_heads"),
        "index_head_dim": integer("index_head_dim"),
        "index_topk": integer("index_topk"),
    },
    _with(compressed_rope),
)
ATTENTIONS: Mapping[str, Block] = {"window": WINDOW, "csa": CSA, "hca": HCA}

MOE = DEEPSEEK_MOE.with_rows(
    shared_intermediate_size=integer("moe_intermediate_size"),
    scoring=constant("sqrtsoftplus"),
    n_group=constant(1),
    topk_group=constant(1),
    norm_topk_prob=constant(True),
    routed_scaling_factor=number("routed_scaling_factor", absent=1.5),
    activation=constant("clamped_silu"),
    activation_limit=number("swiglu_limit", absent=10.0),
)
"""DeepseekV4TopKRouter always renormalises the weights of the chosen experts; the shared one is as wide as each."""
HASH_MOE = replace(
    MOE.with_rows(correction_bias=constant(False), vocab_size=integer("vocab_size")), name="hash_moe", reads_tokens=True
)
"""The first layers: experts by token id."""
MOES: Mapping[str, Block] = {"hash": HASH_MOE, "moe": MOE}


def router_kinds(fields: Fields) -> list[str]:
    """`mlp_layer_types`, or `num_hash_layers` layers whose experts follow from the token, then others."""
    found = _first_of_list(fields, "mlp_layer_types", {"hash_moe": "hash", "moe": "moe"})
    count = integer("num_hash_layers", absent=3, at_least=0)(fields)
    assert isinstance(count, int)
    layers = fields.integer("num_hidden_layers")
    return found or ["hash" if i < count else "moe" for i in range(layers)]


DEEPSEEK_V4 = Family(
    layers_of(ATTENTIONS, MOES),
    both(attention_kinds, router_kinds),
    {
        "num_key_value_heads": 1,
        "n_shared_experts": 1,
        "attention_bias": False,
        "mlp_bias": False,
        "hidden_act": "silu",
        "scoring_func": "sqrtsoftplus",
        "topk_method": "noaux_tc",
        "norm_topk_prob": True,
    },
    lists={},
    norm={"kind": constant("rms"), "eps": NORM_EPS},
    streams={
        "hc_mult": integer("hc_mult", absent=4),
        "hc_sinkhorn_iters": integer("hc_sinkhorn_iters", absent=20),
        "hc_eps": number("hc_eps", absent=1e-6),
        "rms_norm_eps": NORM_EPS,
    },
    full_rope=compressed_rope,
)
