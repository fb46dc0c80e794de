"""The family of MiniMax-M3: layers differ in whether an indexer selects blocks of keys, and whether they have experts.

Files say the fields of the indexer in `sparse_attention_config`, with a 1 for every layer that has one.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import cast

from pmc.compiler.frontend.attention_families import both, layers_of
from pmc.compiler.frontend.blocks import FFN, GQA, MINIMAX_MOE
from pmc.compiler.frontend.family import Block, Family, layer_kinds
from pmc.compiler.frontend.fields import Fields
from pmc.compiler.frontend.readings import Properties, Reading, constant, integer, number, partial_rope
from pmc.dialects import model

SPARSE = "sparse_attention_config"

ONLY: Mapping[str, object] = {"use_sparse_attention": True, "sparse_score_type": "max", "sparse_init_block": 0}
"""Fields of the indexer of which one value is known: the score of a block is the largest of its keys, and no block is
selected because it is the first of a sequence."""


def _indexer(fields: Fields) -> Fields:
    """The fields of the indexer, checked against each other."""
    found = fields.block(SPARSE)
    if found is None:
        raise fields.fail(SPARSE, "missing, expected a block of fields")
    for name, allowed in ONLY.items():
        found.unsupported_unless(name, allowed)
    key_heads, heads = fields.integer("num_key_value_heads"), found.integer("sparse_num_index_heads")
    if heads != key_heads:
        raise found.fail("sparse_num_index_heads", f"{heads}, must be num_key_value_heads, which is {key_heads}")
    return found


def _of_indexer(name: str) -> Reading:
    return lambda fields: _indexer(fields).integer(name)


def attention_kinds(fields: Fields) -> list[str]:
    """The layers with an indexer, in none of which index values are added to what is attended to."""
    indexer = _indexer(fields)
    found = _of_layers(indexer, "sparse_attention_freq", {0: "full", 1: "sparse"}, fields)
    disabled = _of_layers(indexer, "sparse_disable_index_value", {0: "full", 1: "sparse"}, fields)
    for i, (kind, without) in enumerate(zip(found, disabled, strict=True)):
        if kind == "sparse" and without != "sparse":
            raise indexer.fail("sparse_disable_index_value", f"index values, as of layer {i}, are not supported")
    return found


def _of_layers(block: Fields, name: str, known: Mapping[str | int, str], fields: Fields) -> list[str]:
    """The kinds in a list of a block of fields that has an entry for each layer."""
    layers, given = fields.integer("num_hidden_layers"), block.value(name)
    entries = cast(Sequence[object], given) if isinstance(given, list) else ()
    if len(entries) != layers:
        raise block.fail(name, f"expected a list with an entry for each of the {layers} layers")
    other = next((entry for entry in entries if isinstance(entry, bool) or entry not in known), None)
    if other is not None:
        raise block.fail(name, f"expected 0 or 1 for every layer, found {other!r}")
    return [known[cast(int, entry)] for entry in entries]


def _expert_kinds(fields: Fields) -> list[str]:
    found = layer_kinds(fields, "moe_layer_freq", {0: "dense", 1: "moe"})
    if found is None:
        raise fields.fail("moe_layer_freq", "missing, expected a list with a 1 for every layer with experts")
    dense = fields.integer("first_k_dense_replace", 0) if fields.present("first_k_dense_replace") else None
    if dense is not None and found != ["dense"] * dense + ["moe"] * (len(found) - dense):
        raise fields.fail("first_k_dense_replace", f"{dense} is not what moe_layer_freq says")
    return found


def _rope(fields: Fields) -> Properties:
    """`partial_rotary_factor` of the columns of a head are rotated; `rotary_dim` says so once more."""
    found = partial_rope()(fields)
    columns = found["rotary_dim"] or fields.integer("head_dim")
    if fields.present("rotary_dim") and fields.integer("rotary_dim") != columns:
        raise fields.fail("rotary_dim", f"is not what partial_rotary_factor says, {columns} columns of a head")
    return found


FULL = GQA.with_rows(
    head_dim=integer("head_dim"),
    qk_norm=constant("head"),
    qk_norm_eps=number("rms_norm_eps"),
    qk_norm_zero_centered=constant(True),
).with_rope(_rope)
SPARSE_BLOCKS = Block(
    model.BlockSparseAttentionOp,
    "block_sparse",
    {
        **FULL.rows,
        "index_head_dim": _of_indexer("sparse_index_dim"),
        "index_block_size": _of_indexer("sparse_block_size"),
        "index_topk_blocks": _of_indexer("sparse_topk_blocks"),
        "index_local_blocks": _of_indexer("sparse_local_block"),
    },
    _rope,
)

ACTIVATION: Mapping[str, Reading] = {
    "activation": constant("clamped_swiglu"),
    "activation_limit": number("swiglu_limit", absent=7.0),
    "activation_alpha": number("swiglu_alpha", absent=1.702),
}
MOE = MINIMAX_MOE.with_rows(
    shared_intermediate_size=integer("shared_intermediate_size", absent=3072),
    routed_scaling_factor=number("routed_scaling_factor", absent=2.0),
    **ACTIVATION,
)
DENSE = FFN.with_rows(intermediate_size=integer("dense_intermediate_size", absent=12288), **ACTIVATION)

MINIMAX_M3 = Family(
    layers_of({"full": FULL, "sparse": SPARSE_BLOCKS}, {"dense": DENSE, "moe": MOE}),
    both(attention_kinds, _expert_kinds),
    {
        "hidden_act": "swigluoai",
        "attention_output_gate": False,
        "use_gemma_norm": True,
        "use_qk_norm": True,
        "qk_norm_type": "per_head",
        "scoring_func": "sigmoid",
        "use_routing_bias": True,
        "n_shared_experts": 1,
        "moe_intermediate_size": integer("intermediate_size"),
    },
    # The modules of multi-token prediction once more, as one that runs several times.
    unused=("num_nextn_predict_layers",),
    lists={},
    norm={"kind": constant("rms"), "eps": number("rms_norm_eps"), "zero_centered": constant(True)},
    mtp_layers="num_mtp_modules",
)
