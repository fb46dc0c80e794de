"""The bind-symbols pass."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import ClassVar

from xdsl.dialects.builtin import ArrayAttr, DictionaryAttr, ModuleOp
from xdsl.ir import Attribute, Operation, SSAValue
from xdsl.rewriter import Rewriter

from pmc.dialects.assembly import PmcOp
from pmc.dialects.dist import MeshAttr, is_step_symbol, uneven_lengths
from pmc.dialects.expr import ExprAttr, is_rank_symbol
from pmc.dialects.levels import MESH, Level
from pmc.dialects.tensor import TensorType
from pmc.passes.base import PassError, PmcPass
from pmc.passes.empty_ops import drop_empty_ops


@dataclass(frozen=True)
class BindSymbolsPass(PmcPass):
    """Give the symbols of a module their values: every dim becomes an integer.

        %y = layer.last_token(%x) {q_len = <q_len>} at "lm_head.last_token" : !layer.tensor<[batch, 64], bf16>

    becomes, with `bind-symbols{batch=8 q-len=1 kv-len=4096}`,

        %y = layer.last_token(%x) {q_len = <1>} at "lm_head.last_token" : !layer.tensor<[8, 64], bf16>

    `kv_len` counts the current queries, so it is at least `q_len`.  Every symbol that the module uses must be
    given; one that it does not use may be left out.  Lengths must be multiples of cp, where a mesh has it.  The number
    of a rank or of a step of a ring, such as `cp.rank`, stays a symbol: it differs within the program.  Ops on tensors
    without elements go: nothing closes an entry of a compressor in most steps.
    """

    name = "bind-symbols"
    READS: ClassVar[tuple[Level, ...]] = ("model", "layer", "dist")

    batch: int | None = None
    q_len: int | None = None
    kv_len: int | None = None

    def __post_init__(self) -> None:
        """Check the values."""
        for symbol, value in self.bindings().items():
            if value < 1:
                raise PassError(f"{self.name}: {symbol} is {value}, must be at least 1")
        if self.q_len is not None and self.kv_len is not None and self.kv_len < self.q_len:
            raise PassError(
                f"{self.name}: kv_len {self.kv_len} is less than q_len {self.q_len}; "
                "kv_len counts the current queries too"
            )

    def bindings(self) -> dict[str, int]:
        """The symbols that are given."""
        given = {"batch": self.batch, "q_len": self.q_len, "kv_len": self.kv_len}
        return {symbol: value for symbol, value in given.items() if value is not None}

    def run(self, module: ModuleOp) -> None:
        """Substitute in the types of all values and in all properties and attributes."""
        mesh = module.attributes.get(MESH)
        uneven = uneven_lengths(mesh.data, self.bindings()) if isinstance(mesh, MeshAttr) else None
        if uneven is not None:
            raise PassError(f"{self.name}: {uneven}")
        binder = _Binder(self.bindings())
        for op in module.walk():
            binder.where = op.path.data if isinstance(op, PmcOp) else op.name
            binder.bind_op(op)
        drop_empty_ops(module)


class _Binder:
    """Substitutes in attributes, each distinct one once."""

    def __init__(self, bindings: Mapping[str, int]) -> None:
        self.bindings = bindings
        self.bound: dict[Attribute, Attribute] = {}
        self.where = ""

    def bind_op(self, op: Operation) -> None:
        for value in op.results:
            self.bind_value(value)
        for region in op.regions:
            for block in region.blocks:
                for argument in block.args:
                    self.bind_value(argument)
        for container in (op.properties, op.attributes):
            for name, attribute in list(container.items()):
                container[name] = self.bind(attribute)

    def bind_value(self, value: SSAValue) -> None:
        bound = self.bind(value.type)
        if bound != value.type:
            Rewriter.replace_value_with_new_type(value, bound)

    def bind(self, attribute: Attribute) -> Attribute:
        if attribute not in self.bound:
            self.bound[attribute] = self._substitute(attribute)
        return self.bound[attribute]

    def _substitute(self, attribute: Attribute) -> Attribute:
        match attribute:
            case ExprAttr():
                bound = ExprAttr(attribute.data.substitute(self.bindings))
                self._require_bound(bound.data.symbols)
                return bound
            case TensorType():
                dims = [d.substitute(self.bindings) for d in attribute.dims]
                self._require_bound(frozenset(symbol for d in dims for symbol in d.symbols))
                return attribute.with_dims(dims)
            case ArrayAttr():
                return ArrayAttr([self.bind(a) for a in attribute.data])
            case DictionaryAttr():
                return DictionaryAttr({name: self.bind(a) for name, a in attribute.data.items()})
            case _:
                return attribute

    def _require_bound(self, left: frozenset[str]) -> None:
        unbound = {symbol for symbol in left if not is_rank_symbol(symbol) and not is_step_symbol(symbol)}
        if unbound:
            options = ", ".join(f"{symbol.replace('_', '-')}=.." for symbol in sorted(unbound))
            raise PassError(
                f"bind-symbols: {', '.join(sorted(unbound))} of '{self.where}' has no value; give {options}"
            )
