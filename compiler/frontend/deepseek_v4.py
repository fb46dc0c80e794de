"""The family of DeepSeek-V4: layers differ in what of a sequence they attend to, and in who chooses their experts."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import cast

from pmc.compiler.frontend.blocks import DEEPSEEK_MOE
from pmc.compiler.frontend.family import Block, Family
from pmc.compiler.frontend.fields import Fields
from pmc.compiler.frontend.readings import Properties, Reading, constant, flag, integer, number
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
    return fields.integer("qk_rope_head_dim") if fields.present("qk_rope_head_dim") else (
        cast(int, HEAD_DIM(fields)) // 8
    )


HEAD_DIM = integer("head_dim", absent=512)
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
        "norm_eps": number("rms_norm_eps", absent=1e-6),
    },
    _with(plain_rope),
)
HCA = Block(
    model.CompressedAttentionOp, "hca", {**WINDOW.rows, "compress_ratio": ratio("hca")}, _with(compressed_rope)
)
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
    n_group=constant(1), topk_group=constant(1), norm_topk_prob=flag("norm_topk_prob", absent=True),
    routed_scaling_factor=number("routed_scaling_factor", absent=1.5),
)

DEEPSEEK_V4 = Family(
    {f"{kind}_moe": (attention, MOE) for kind, attention in ATTENTIONS.items()},
    lambda fields: [f"{kind}_moe" for kind in attention_kinds(fields)],
    {"num_key_value_heads": 1, "attention_bias": False, "scoring_func": "sqrtsoftplus", "topk_method": "noaux_tc"},
    unused=("hc_mult", "hc_eps", "hc_sinkhorn_iters", "num_hash_layers", "swiglu_limit", "expert_dtype", "mlp_layer_types"),
    lists={},
    full_rope=compressed_rope,
)
