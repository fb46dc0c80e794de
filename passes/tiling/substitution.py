"""Commands of one iteration made those of another: symbols in their expressions replaced."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import cast

from xdsl.dialects.builtin import ArrayAttr
from xdsl.ir import Attribute, Operation, ParametrizedAttribute

from pmc.dialects.expr import Expr, ExprAttr


def substitute(op: Operation, symbols: Mapping[str, Expr]) -> None:
    """Replace symbols in all expressions of an op that stands for another iteration."""
    for name, value in list(op.properties.items()):
        op.properties[name] = _substituted(value, symbols)


def _substituted(attribute: Attribute, symbols: Mapping[str, Expr]) -> Attribute:
    match attribute:
        case ExprAttr():
            return ExprAttr(attribute.data.substitute(symbols))
        case ArrayAttr():
            values = cast(Sequence[Attribute], attribute.data)
            return ArrayAttr([_substituted(value, symbols) for value in values])
        case ParametrizedAttribute():
            return type(attribute).new([_substituted(value, symbols) for value in attribute.parameters])
        case _:
            return attribute
