"""What a family of models is: kinds of layers, each of blocks, each of rows, and the order of the layers."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field, replace
from typing import Literal, cast

from pmc.compiler.frontend.fields import Fields
from pmc.compiler.frontend.readings import (
    Constant,
    Properties,
    Reading,
    constant,
    number,
    properties,
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

    selects: bool = False
    """Whether it hands the keys that it selects to the blocks behind it."""
    takes: bool = False
    """Whether it takes the keys that a block before it has selected."""
    reads_tokens: bool = False
    """Whether it takes the ids of the tokens."""
    beside: tuple[Block, ...] = ()
    """Blocks that read the same rows: behind norms of their own all results are added, with one more behind the sum."""
    own_norms: bool = False
    """Whether the norms in front of it are its own and no op."""

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

    layers: Mapping[str, tuple[Block, ...]] | Callable[[Fields], Mapping[str, tuple[Block, ...]]]
    """The kinds of layers, by name; those of searched models follow from the file."""
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
    streams: Mapping[str, Reading] = field(default_factory=dict[str, Reading])
    """With rows, the residual path is several streams, joined by hyper-connections with these properties."""
    embedding: tuple[Block, ...] = ()
    """What is done with the rows of the embedding, one op after the other."""
    behind_layer: tuple[Block, ...] = ()
    """What is done with the rows that leave a layer."""
    logits: tuple[Block, ...] = ()
    """What is done with the logits."""
    tied: bool = False
    """Whether the head is the transpose of the embedding where `tie_word_embeddings` is absent."""
    names: Mapping[str, str] = field(default_factory=dict[str, str])
    """What the files of the family call a field that others name otherwise; they may have it under either name."""
    unsupported: Mapping[str, str] = field(default_factory=dict[str, str])
    """Fields of parts that the model dialect does not have, of later models with the same name, and the parts."""
    mtp_layers: str = "num_nextn_predict_layers"
    """The field that counts the layers of multi-token prediction; absent = none."""
    drafts: bool = False
    """Whether such a layer is published in the form of DeepSeek-V3: norms of embedding and hidden rows, `eh_proj`, a
    layer of the last kind, a norm of its own, embedding and head those of the model."""
    full_rope: Callable[[Fields], Rope] = lambda fields: read_rope(fields, theta=1.0, partial=True)
    """The rotary embedding of the layers that see all tokens."""
    dtype: str | None = None
    """The `torch_dtype` of the published weights, where the files of the family do not say it."""

    def kinds(self, fields: Fields) -> Mapping[str, tuple[Block, ...]]:
        """The kinds of layers of a model."""
        return self.layers(fields) if callable(self.layers) else self.layers


WINDOWS: Mapping[str | int, str] = {"sliding_attention": "sliding", "full_attention": "full"}
"""The types of `layer_types` where some layers have a window."""

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
    dense = layer_numbers(fields, "mlp_only_layers") or ()
    return ["dense" if i in dense or (i + 1) % step else "moe" for i in range(layers)]


def layer_numbers(fields: Fields, name: str) -> list[int] | None:
    """The layers that list `name` has the numbers of; None where the file has no such list."""
    given = fields.value(name)
    if given is None:
        return None
    layers = fields.integer("num_hidden_layers")
    numbers = cast(list[object], given) if isinstance(given, list) else [given]
    found = [i for i in numbers if isinstance(i, int) and not isinstance(i, bool) and 0 <= i < layers]
    if len(found) < len(numbers):
        raise fields.fail(name, f"expected numbers of layers below {layers}, found {given!r}")
    return found


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
