"""The bind-symbols pass."""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

from xdsl.dialects.builtin import ModuleOp

from pmc.dialects.assembly import PmcOp
from pmc.dialects.dist import MeshAttr, is_step_symbol, uneven_lengths
from pmc.dialects.expr import is_rank_symbol
from pmc.dialects.levels import MESH, Level
from pmc.passes.base import PassError, PmcPass
from pmc.passes.empty_ops import drop_empty_ops
from pmc.passes.symbol_substitution import SymbolSubstitution


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
            binder.in_op(op)
        drop_empty_ops(module)


class _Binder(SymbolSubstitution):
    """Leaves no symbol but those that differ within a program."""

    where = ""
    """The op at hand, for errors."""

    def check(self, left: frozenset[str]) -> None:
        """Raises PassError for a symbol without a value."""
        unbound = {symbol for symbol in left if not is_rank_symbol(symbol) and not is_step_symbol(symbol)}
        if unbound:
            options = ", ".join(f"{symbol.replace('_', '-')}=.." for symbol in sorted(unbound))
            raise PassError(
                f"bind-symbols: {', '.join(sorted(unbound))} of '{self.where}' has no value; give {options}"
            )
