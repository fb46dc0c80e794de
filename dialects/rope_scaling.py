"""The scaling of a rotary embedding whose frequencies follow from the length of a sequence (LongRoPE, 2402.13753).

    rope_scaling = {rope_type = "longrope", original_max_position_embeddings = 4096, attention_factor = 1.19,
                    short_factor = [1.0, ..], long_factor = [1.0, ..]}

divides the frequency of every pair by a number of its own: by those of `short_factor` in sequences of up to
`original_max_position_embeddings` tokens, by those of `long_factor` in longer ones (`_compute_longrope_parameters` of
transformers).  Down to the `layer` level both lists stand in the IR, as one program serves many lengths.  A command has
the numbers that it uses, `factor_of_pair`: programs of tiles are made for one length.
"""

from __future__ import annotations

from math import inf

from xdsl.dialects.builtin import ArrayAttr, DictionaryAttr, FloatAttr, IntegerAttr, StringAttr
from xdsl.utils.hints import isa

LONGROPE = "longrope"
BY_LENGTH = ("short_factor", "long_factor")


def is_longrope(scaling: DictionaryAttr | None) -> bool:
    """Whether the frequencies follow from the length."""
    return scaling is not None and scaling.data.get("rope_type") == StringAttr(LONGROPE)


def wrong_longrope(scaling: DictionaryAttr, columns: int) -> str | None:
    """What is wrong with a scaling of type `longrope` of so many rotated columns; None if nothing is."""
    for name in BY_LENGTH:
        factors = scaling.data.get(name)
        if not isa(factors, ArrayAttr[FloatAttr]):
            return f"'{name}' of rope_scaling must be a list of numbers"
        if len(factors) != columns // 2:
            return (
                f"'{name}' of rope_scaling has {len(factors)} numbers, must have {columns // 2}, one for every pair "
                f"of the {columns} columns that are rotated"
            )
        wrong = next((f.value.data for f in factors if not 0 < f.value.data < inf), None)
        if wrong is not None:
            return f"'{name}' of rope_scaling has {wrong}, must be numbers greater than 0"
    for name, kind in (("original_max_position_embeddings", IntegerAttr), ("attention_factor", FloatAttr)):
        if not isinstance(scaling.data.get(name), kind):
            return f"rope_scaling of type 'longrope' needs '{name}'"
    return None


def of_length(scaling: DictionaryAttr, tokens: int) -> DictionaryAttr:
    """The scaling of sequences of so many tokens; one that does not follow from the length stays."""
    if not is_longrope(scaling):
        return scaling
    original = scaling.data["original_max_position_embeddings"]
    assert isinstance(original, IntegerAttr), "verified"
    name = "long_factor" if tokens > original.value.data else "short_factor"
    kept = {key: scaling.data[key] for key in ("rope_type", "attention_factor")}
    return DictionaryAttr({**kept, "factor_of_pair": scaling.data[name]})
