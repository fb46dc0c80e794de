"""The rotary embedding of a Hugging Face config: its base and its scaling, in either form that files have.

`transformers` 4 writes `rope_theta` beside `rope_scaling`, `transformers` 5 both in one block, `rope_parameters`.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

from xdsl.dialects.builtin import DictionaryAttr, StringAttr
from xdsl.ir import Attribute

from pmc.compiler.frontend.fields import Fields
from pmc.dialects.assembly import attribute
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
    "default": ({}, {}),
}
"""The required and the optional fields of each type of scaling."""

YARN_ABSENT: dict[str, float] = {"beta_fast": 32.0, "beta_slow": 1.0}
"""What `transformers` takes for absent fields of yarn."""

BESIDE_SCALING = ("rope_theta", "partial_rotary_factor")
"""Fields of `rope_parameters` that are none of its scaling."""

LAYER_TYPES = ("full_attention", "sliding_attention")
"""The types of layers that may have a rotary embedding of their own."""

Values = Mapping[str, int | float | bool | str]


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
            values: dict[str, Attribute] = {
                name: StringAttr(value) if isinstance(value, str) else attribute(value)
                for name, value in self.scaling.items()
            }
            scaling = DictionaryAttr(values)
        return {"rope_theta": self.theta, "rope_scaling": scaling}

    def longest_context(self, positions: int | None) -> int | None:
        """The tokens that a model with `max_position_embeddings` = `positions` is made for.

        Files with yarn say there the length with the scaling (DeepSeek) or without it (Qwen); the scaling itself says
        that `original_max_position_embeddings` become `factor` times as many.
        """
        if positions is None or self.scaling is None or self.scaling["rope_type"] != "yarn":
            return positions
        factor, original = self.scaling["factor"], self.scaling["original_max_position_embeddings"]
        assert not isinstance(factor, str) and isinstance(original, int)
        return max(positions, int(factor * original))


def read_rope(fields: Fields, theta: float | None = None, partial: bool = False) -> Rope:
    """The rotary embedding; `theta` is the base of a config without one, `partial` says that `rotary_share` is read.

    Raises ConfigError for fields that are missing, unknown or of another type, and where both forms are given and
    disagree.
    """
    block = fields.block("rope_parameters")
    if block is None:
        scaling = fields.block("rope_scaling")
        return Rope(_theta(fields, theta), None if scaling is None else _scaling(scaling, ()))
    nested = next((name for name, value in block.config.items() if isinstance(value, Mapping)), None)
    if nested is not None:
        raise block.fail(nested, "a rotary embedding per type of layer is not supported, only one for all layers is")
    if not partial:
        block.unsupported_unless("partial_rotary_factor", 1.0)
    own = block if block.present("rope_theta") else fields
    found = Rope(_theta(own, theta), _scaling(block, BESIDE_SCALING))
    beside = fields.block("rope_scaling")
    given = Rope(_theta(fields, found.theta), found.scaling if beside is None else _scaling(beside, ("rope_theta",)))
    if given != found:
        raise fields.fail("rope_parameters", "says something else than rope_theta and rope_scaling; leave one form out")
    return found


def read_scaling(fields: Fields) -> Values | None:
    """The checked fields of `rope_scaling` alone; None without."""
    block = fields.block("rope_scaling")
    return None if block is None else _scaling(block, ())


def rope_of_kind(fields: Fields, kind: str) -> Rope | None:
    """The rotary embedding of layers of type `kind`, where `rope_parameters` holds one for each; None without."""
    inner = rope_block(fields, kind)
    return None if inner is None else Rope(inner.number("rope_theta"), _scaling(inner, BESIDE_SCALING))


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


def _scaling(block: Fields, beside: tuple[str, ...]) -> Values | None:
    """The checked fields of a scaling, which may stand with those named `beside`; type `default` means none."""
    # `type` is the name of `rope_type` in older files.
    key = "type" if block.present("type") and not block.present("rope_type") else "rope_type"
    kind = block.choice(key, ROPE_FIELDS)
    required, optional = ROPE_FIELDS[kind]
    for name in block.config:
        if name not in {**required, **optional, "type": str, "rope_type": str} and name not in beside:
            raise block.fail(name, f"unknown field of '{kind}'{did_you_mean(name, [*required, *optional])}")
    if kind == "default":
        return None
    values: dict[str, int | float | bool | str] = {"rope_type": kind}
    for name, expected in {**required, **optional}.items():
        if name in optional and not block.present(name):
            if name in YARN_ABSENT:
                values[name] = YARN_ABSENT[name]
        elif expected is bool:
            values[name] = block.boolean(name)
        else:
            values[name] = block.integer(name) if expected is int else block.number(name)
    return values
