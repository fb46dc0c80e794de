"""The rotary embedding of a Hugging Face config: its base and its scaling, in either form that files have.

`transformers` 4 writes `rope_theta` beside `rope_scaling`, `transformers` 5 both in one block, `rope_parameters`.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass

from xdsl.dialects.builtin import ArrayAttr, DictionaryAttr, FloatAttr, StringAttr
from xdsl.ir import Attribute

from pmc.compiler.frontend.fields import Fields
from pmc.dialects.assembly import attribute
from pmc.dialects.rope_scaling import BY_LENGTH, LONGROPE
from pmc.dialects.schema import did_you_mean

ROPE_FIELDS: dict[str, tuple[dict[str, type], dict[str, type]]] = {
    "llama3": (
        {
            "factor": float,
            "low_freq_factor": float,
            "high_freq_factor": float,
            "original_max_position_embeddings": int,
        },
        {},
    ),
    "yarn": (
        {"factor": float, "original_max_position_embeddings": int},
        {
            "beta_fast": float,
            "beta_slow": float,
            "mscale": float,
            "mscale_all_dim": float,
            "attention_factor": float,
            "truncate": bool,
        },
    ),
    "linear": ({"factor": float}, {}),
    "proportional": ({"partial_rotary_factor": float}, {}),
    "longrope": ({}, {"factor": float, "attention_factor": float, "original_max_position_embeddings": int}),
    "default": ({}, {}),
}
"""The required and the optional fields of each type of scaling; those of `longrope` besides its two lists."""

OLDER_NAMES = {"su": "longrope"}
"""What older files call a type."""

YARN_ABSENT: dict[str, float] = {"beta_fast": 32.0, "beta_slow": 1.0}
"""What `transformers` takes for absent fields of yarn."""

BESIDE_SCALING = ("rope_theta", "partial_rotary_factor")
"""Fields of `rope_parameters` that are none of its scaling."""

LAYER_TYPES = ("full_attention", "sliding_attention")
"""The types of layers that may have a rotary embedding of their own."""

Value = int | float | bool | str | tuple[float, ...]
Values = Mapping[str, Value]


@dataclass(frozen=True)
class Rope:
    """Base and scaling of the rotary embedding."""

    theta: float
    scaling: Values | None
    """The checked fields of the scaling, `rope_type` first; None for none."""

    def properties(self) -> dict[str, float | DictionaryAttr | None]:
        """The properties of an attention block."""
        scaling: DictionaryAttr | None = None
        if self.scaling is not None:
            scaling = DictionaryAttr({name: _attribute(value) for name, value in self.scaling.items()})
        return {"rope_theta": self.theta, "rope_scaling": scaling}

    def longest_context(self, positions: int | None) -> int | None:
        """The tokens that a model with `max_position_embeddings` = `positions` is made for.

        Files with yarn say there the length with the scaling (DeepSeek) or without it (Qwen); the scaling itself says
        that `original_max_position_embeddings` become `factor` times as many.
        """
        if positions is None or self.scaling is None or self.scaling["rope_type"] != "yarn":
            return positions
        factor, original = self.scaling["factor"], self.scaling["original_max_position_embeddings"]
        assert isinstance(factor, int | float) and isinstance(original, int)
        return max(positions, int(factor * original))


def read_rope(fields: Fields, theta: float | None = None, partial: bool = False) -> Rope:
    """The rotary embedding; `theta` is the base of a config without one, `partial` says that `rotary_share` is read.

    Raises ConfigError for fields that are missing, unknown or of another type, and where both forms are given and
    disagree.
    """
    block = fields.block("rope_parameters")
    if block is None:
        scaling = fields.block("rope_scaling")
        return Rope(_theta(fields, theta), None if scaling is None else _scaling(scaling, (), fields))
    nested = next((name for name, value in block.config.items() if isinstance(value, Mapping)), None)
    if nested is not None:
        raise block.fail(nested, "a rotary embedding per type of layer is not supported, only one for all layers is")
    if not partial:
        block.unsupported_unless("partial_rotary_factor", 1.0)
    own = block if block.present("rope_theta") else fields
    found = Rope(_theta(own, theta), _scaling(block, BESIDE_SCALING, fields))
    beside = fields.block("rope_scaling")
    given = Rope(
        _theta(fields, found.theta), found.scaling if beside is None else _scaling(beside, ("rope_theta",), fields)
    )
    if given != found:
        raise fields.fail("rope_parameters", "says something else than rope_theta and rope_scaling; leave one form out")
    return found


def read_scaling(fields: Fields) -> Values | None:
    """The checked fields of `rope_scaling` alone; None without."""
    block = fields.block("rope_scaling")
    return None if block is None else _scaling(block, (), None)


def rope_of_kind(fields: Fields, kind: str) -> Rope | None:
    """The rotary embedding of layers of type `kind`, where `rope_parameters` holds one for each; None without."""
    inner = rope_block(fields, kind)
    return None if inner is None else Rope(inner.number("rope_theta"), _scaling(inner, BESIDE_SCALING, None))


def rope_block(fields: Fields, kind: str) -> Fields | None:
    """The part of `rope_parameters` that is for layers of type `kind`; None in a file without that field."""
    block = fields.block("rope_parameters")
    if block is None:
        return None
    other = next((name for name in block.config if name not in LAYER_TYPES), None)
    if other is not None:
        raise block.fail(other, f"expected a rotary embedding for each of {', '.join(LAYER_TYPES)}")
    inner = block.block(kind)
    if inner is None:
        raise block.fail(kind, "missing, expected the rotary embedding of these layers")
    return inner


def rotary_share(fields: Fields, absent: float) -> float:
    """`partial_rotary_factor`, the share of the columns of a head that is rotated, in either form that files have."""
    block = fields.block("rope_parameters")
    given = [part for part in (block, fields) if part is not None and part.present("partial_rotary_factor")]
    found = {part.number("partial_rotary_factor") for part in given}
    if len(found) > 1 or any(share > 1 for share in found):
        raise fields.fail("partial_rotary_factor", f"expected one share of at most 1, found {sorted(found)}")
    return found.pop() if found else absent


def _theta(fields: Fields, absent: float | None) -> float:
    return absent if absent is not None and not fields.present("rope_theta") else fields.number("rope_theta")


def _attribute(value: Value) -> Attribute:
    if isinstance(value, tuple):
        return ArrayAttr([FloatAttr(each, 64) for each in value])
    return StringAttr(value) if isinstance(value, str) else attribute(value)


def _scaling(block: Fields, beside: tuple[str, ...], model: Fields | None) -> Values | None:
    """The checked fields of a scaling, which may stand with those named `beside`; type `default` means none.

    `model` are the fields of the model, None where the scaling is that of some layers only.
    """
    # `type` is the name of `rope_type` in older files.
    key = "type" if block.present("type") and not block.present("rope_type") else "rope_type"
    kind = OLDER_NAMES.get(str(block.value(key))) or block.choice(key, ROPE_FIELDS)
    required, optional = ROPE_FIELDS[kind]
    lists = BY_LENGTH if kind == LONGROPE else ()
    known = (*required, *optional, *lists)
    for name in block.config:
        if name not in (*known, "type", "rope_type", *beside):
            raise block.fail(name, f"unknown field of '{kind}'{did_you_mean(name, known)}")
    if kind == "default":
        return None
    if kind == LONGROPE:
        if model is None:
            raise block.fail(key, "'longrope' is supported only where all layers have one rotary embedding")
        return _longrope(block, model)
    values: dict[str, Value] = {"rope_type": kind}
    for name, expected in {**required, **optional}.items():
        if name in optional and not block.present(name):
            if name in YARN_ABSENT:
                values[name] = YARN_ABSENT[name]
        elif expected is bool:
            values[name] = block.boolean(name)
        else:
            values[name] = block.integer(name) if expected is int else block.number(name)
    return values


def _longrope(block: Fields, model: Fields) -> Values:
    """A number for every pair of columns, for sequences up to the original length and for longer ones.

    The factor on queries and keys, where none is given, is sqrt(1 + log(s) / log(original length)), with s the `factor`
    or how many times the original length `max_position_embeddings` are, and 1 where that is no more
    (`_compute_longrope_parameters` of transformers).
    """
    name = "original_max_position_embeddings"
    lengths = {part.integer(name, 2) for part in (model, block) if part.present(name)}
    if len(lengths) != 1:
        problem = f"says something else in {block.prefix.rstrip('.')}" if lengths else "missing, expected an integer"
        raise model.fail(name, problem)
    original = lengths.pop()
    if block.present("attention_factor"):
        attention = block.number("attention_factor")
    else:
        longest = model.integer("max_position_embeddings")
        stretch = block.number("factor") if block.present("factor") else longest / original
        attention = math.sqrt(1 + math.log(stretch) / math.log(original)) if stretch > 1 else 1.0
    factors = {name: block.numbers(name) for name in BY_LENGTH}
    return {"rope_type": LONGROPE, name: original, "attention_factor": attention, **factors}
