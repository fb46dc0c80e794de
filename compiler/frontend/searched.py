"""Searched models, whose file says of every layer which blocks it has: Nemotron-NAS (`DeciLMForCausalLM`)."""

from __future__ import annotations

from typing import cast

from pmc.compiler.frontend.family import Block
from pmc.compiler.frontend.fields import Fields
from pmc.compiler.frontend.readings import constant

ABSENT = {
    "attention": ("replace_with_linear", "sparsify", "window_length", "num_sink_tokens", "unshifted_sink",
                  "use_prefill_window_in_sink_attention"),
    "ffn": ("replace_with_linear", "sparsify"),
}  # fmt: skip
"""What a search may put into a layer, and no published model has."""

MULTIPLE = 256
"""The width of a feed-forward network is rounded up to a multiple of this (`_find_multiple` of the modeling code)."""


def searched_layers(fields: Fields, attention: Block, ffn: Block) -> list[tuple[str, tuple[Block, ...]]]:
    """The kind of every layer with its blocks: attention with so many key heads, a network of such a width, or neither.

    Raises ConfigError for layers that are not lists of these two.
    """
    layers, heads = fields.integer("num_hidden_layers"), fields.integer("num_attention_heads")
    given = fields.value("block_configs")
    if not isinstance(given, list) or len(cast(list[object], given)) != layers:
        raise fields.fail("block_configs", f"expected a list with a block for each of the {layers} layers")
    found: list[tuple[str, tuple[Block, ...]]] = []
    for i in range(layers):
        names: list[str] = []
        blocks: list[Block] = []
        layer = fields.entry("block_configs", i)
        parts = {name: layer.block(name) for name in ABSENT}
        for name, part in parts.items():
            if part is None:
                raise layer.fail(name, "missing, expected a block")
            for feature in ABSENT[name]:
                part.unsupported_unless(feature, False)
            if part.boolean("no_op"):
                continue
            if name == "attention":
                group = part.integer("n_heads_in_group")
                if heads % group:
                    raise part.fail("n_heads_in_group", f"{group} does not divide num_attention_heads {heads}")
                names.append(f"gqa{heads // group}")
                blocks.append(attention.with_rows(num_key_value_heads=constant(heads // group)))
            else:
                width = int(2 * part.number("ffn_mult") * fields.integer("hidden_size") / 3)
                width = -(-width // MULTIPLE) * MULTIPLE
                names.append(f"ffn{width}")
                blocks.append(ffn.with_rows(intermediate_size=constant(width)))
        found.append(("_".join(names) or "none", tuple(blocks)))
    return found
