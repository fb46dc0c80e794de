"""How a property of a block is read from a Hugging Face config: the words in which the families are written.

A reading is a function from the fields of a config to a value.  `absent` says what the configuration class of
`transformers` takes for a field that a file does not have: a value or a reading.  Without it the field is required.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping

from pmc.compiler.frontend.fields import Fields
from pmc.compiler.frontend.rope import read_rope, rotary_share
from pmc.dialects.assembly import PropertyValue

Properties = dict[str, PropertyValue]

Reading = Callable[[Fields], PropertyValue]
"""One property of a block.  Raises ConfigError for a field that is missing or of another type."""

Constant = int | float | bool | str | None


def constant(value: Constant) -> Reading:
    """What the code of the family fixes, whatever the file says."""
    return lambda fields: value


def integer(name: str, absent: Reading | int | None = None, at_least: int = 1) -> Reading:
    """The integer field `name`."""
    return _given_or(name, absent, lambda fields: fields.integer(name, at_least))


def number(name: str, absent: Reading | float | None = None) -> Reading:
    """The positive number in field `name`."""
    return _given_or(name, absent, lambda fields: fields.number(name))


def flag(name: str, absent: bool | None = None) -> Reading:
    """The truth value in field `name`."""
    return _given_or(name, absent, lambda fields: fields.boolean(name))


def integer_or_null(name: str) -> Reading:
    """The integer field `name`, which may be null; that is not the same as absent."""
    return lambda fields: None if fields.is_null(name) else fields.integer(name)


def _given_or(name: str, absent: Reading | Constant, read: Reading) -> Reading:
    def value(fields: Fields) -> PropertyValue:
        if absent is None or fields.present(name):
            return read(fields)
        return absent(fields) if callable(absent) else absent

    return value


def head_dim(fields: Fields) -> int:
    """`head_dim`; absent or null = hidden_size / num_attention_heads."""
    if fields.present("head_dim"):
        return fields.integer("head_dim")
    hidden, heads = fields.integer("hidden_size"), fields.integer("num_attention_heads")
    if hidden % heads:
        raise fields.fail(
            "num_attention_heads", f"{heads} does not divide hidden_size {hidden}, and no head_dim is given"
        )
    return hidden // heads


def rope(theta: float | None = None) -> Callable[[Fields], Properties]:
    """The properties of the rotary embedding; `theta` is the base of a file that has none."""
    return lambda fields: dict(read_rope(fields, theta).properties())


def partial_rope(theta: float | None = None, share: float = 1.0) -> Callable[[Fields], Properties]:
    """As `rope`, of `partial_rotary_factor` of the columns of a head; `share` is that of a file that has none."""

    def read(fields: Fields) -> Properties:
        d = head_dim(fields)
        rotary = int(d * rotary_share(fields, share))
        found = dict(read_rope(fields, theta, partial=True).properties())
        return {**found, "rotary_dim": None if rotary == d else rotary}

    return read


def yes_or_absent(name: str | None = None, absent: bool = False) -> Reading:
    """True where the field `name` is (or always, without a name), and no property where not."""

    def read(fields: Fields) -> PropertyValue:
        given = True if name is None else fields.boolean(name) if fields.present(name) else absent
        return given or None

    return read


def window(absent: int | None = None) -> Reading:
    """`sliding_window`, the keys that a query sees; null = all of them."""
    return lambda fields: (
        fields.integer("sliding_window")
        if fields.present("sliding_window")
        else None
        if "sliding_window" in fields.config
        else absent
    )


ACTIVATIONS = {
    "silu": "silu",
    "swish": "silu",
    "gelu": "gelu",
    "gelu_new": "gelu_tanh",
    "gelu_pytorch_tanh": "gelu_tanh",
    "relu": "relu",
    "relu2": "relu2",
}
"""Names of `ACT2FN` in transformers, and what the dialects call them."""


def activation(name: str = "hidden_act", absent: str | None = None) -> Reading:
    """The activation function in field `name`."""

    def read(fields: Fields) -> str:
        if absent is not None and not fields.present(name):
            return absent
        return ACTIVATIONS[fields.choice(name, ACTIVATIONS)]

    return read


def properties(rows: Mapping[str, Reading], fields: Fields) -> Properties:
    """All properties of a block."""
    return {name: read(fields) for name, read in rows.items()}
