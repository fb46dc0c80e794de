"""Values, or other expressions, in place of the symbols of ops: in types, properties and attributes."""

from __future__ import annotations

from collections.abc import Mapping

from xdsl.dialects.builtin import ArrayAttr, DictionaryAttr
from xdsl.ir import Attribute, Operation, SSAValue
from xdsl.rewriter import Rewriter

from pmc.dialects.expr import Expr, ExprAttr
from pmc.dialects.tensor import TensorType


class SymbolSubstitution:
    """Substitutes in attributes, each distinct one once."""

    def __init__(self, bindings: Mapping[str, Expr | int]) -> None:
        self.bindings = bindings
        self.bound: dict[Attribute, Attribute] = {}

    def in_op(self, op: Operation) -> None:
        """Substitute in an op, and in the arguments of its blocks; not in the ops inside of it."""
        for value in op.results:
            self.in_value(value)
        for region in op.regions:
            for block in region.blocks:
                for argument in block.args:
                    self.in_value(argument)
        for container in (op.properties, op.attributes):
            for name, attribute in list(container.items()):
                container[name] = self.of(attribute)

    def in_value(self, value: SSAValue) -> None:
        """Give a value its new type."""
        bound = self.of(value.type)
        if bound != value.type:
            Rewriter.replace_value_with_new_type(value, bound)

    def of(self, attribute: Attribute) -> Attribute:
        """The attribute with the symbols replaced."""
        if attribute not in self.bound:
            self.bound[attribute] = self._substitute(attribute)
        return self.bound[attribute]

    def check(self, left: frozenset[str]) -> None:
        """Is told the symbols that are left in an expression or a type."""

    def _substitute(self, attribute: Attribute) -> Attribute:
        match attribute:
            case ExprAttr():
                bound = ExprAttr(attribute.data.substitute(self.bindings))
                self.check(bound.data.symbols)
                return bound
            case TensorType():
                dims = [d.substitute(self.bindings) for d in attribute.dims]
                self.check(frozenset(symbol for d in dims for symbol in d.symbols))
                return attribute.with_dims(dims)
            case ArrayAttr():
                return ArrayAttr([self.of(a) for a in attribute.data])
            case DictionaryAttr():
                return DictionaryAttr({name: self.of(a) for name, a in attribute.data.items()})
            case _:
                return attribute
