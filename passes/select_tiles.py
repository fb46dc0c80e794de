"""`select-tiles`: how every tensor op is spread over the cores and cut into tiles.

    %y = layer.matmul(%x, %w) at "p" : ..
    -> %y = layer.matmul(%x, %w) at "p" attributes {tile.plan = #tile.plan<cores [..], tile [..], order "gmnk", ..>}

The search goes over core partitions, tile sizes and loop orders that fit the LMEM budget of the chip and takes the
fastest under the accounting of the module (`arch.accounting`).  An op that already has a plan keeps it.  Symbols must
be bound.  Ops of equal types share one search.  With choose=random every op gets a plan drawn from all that fit, by
`seed`: `pmc check` runs such plans too.
"""

from __future__ import annotations

from collections.abc import Hashable
from dataclasses import dataclass
from typing import ClassVar

from xdsl.dialects.builtin import ModuleOp
from xdsl.ir import Operation

from pmc.dialects.accounting import accounting_of
from pmc.dialects.analyses.planner import PLANNERS
from pmc.dialects.analyses.row_tiling import contiguous_columns, is_view
from pmc.dialects.errors import PmcError
from pmc.dialects.expr import UnboundSymbolError, product
from pmc.dialects.levels import Level
from pmc.dialects.tensor import TensorType
from pmc.dialects.tile_plan import PLAN, PlanAttr
from pmc.passes.base import PassError, PmcPass
from pmc.passes.tiling.code import path_of
from pmc.passes.tiling.families import family_of
from pmc.passes.tiling.random_plans import RandomPlans
from pmc.passes.tiling.target import TILING_FIELDS, chip_of


@dataclass(frozen=True)
class SelectTilesPass(PmcPass):
    """Attach a `tile.plan` to every op that becomes a kernel."""

    name = "select-tiles"
    READS: ClassVar[tuple[Level, ...]] = ("layer", "dist")
    CHIP_FIELDS: ClassVar[tuple[str, ...]] = TILING_FIELDS
    choose: str = "best"
    """best or random."""
    seed: int = 0

    def __post_init__(self) -> None:
        """Check the way to choose."""
        if self.choose not in ("best", "random"):
            raise PassError(f"{self.name}: choose is '{self.choose}', must be best or random")

    def run(self, module: ModuleOp) -> None:
        """Plan every op once per distinct shape."""
        chip = chip_of(module, self.name)
        planner = PLANNERS.planner(chip, accounting_of(module, self.name))
        drawn = RandomPlans(self.seed) if self.choose == "random" else None
        found: dict[Hashable, PlanAttr] = {}
        for op in module.walk():
            family = family_of(op)
            if family is None or PLAN in op.attributes:
                continue
            key = _shape_key(op)
            if key not in found:
                try:
                    _require_size(op)
                    found[key] = family.plan(op, chip, planner)
                except UnboundSymbolError as error:
                    raise PassError(
                        f"{self.name}: {op.name} at '{path_of(op)}': {error} (run bind-symbols before)"
                    ) from None
                except PassError:
                    raise
                except PmcError as error:
                    raise PassError(f"{self.name}: {op.name} at '{path_of(op)}': {error}") from None
            plan = found[key]
            op.attributes[PLAN] = plan if drawn is None else drawn.plan(op, family, plan, chip)


MOST_ELEMENTS = 2**42
"""Elements of a tensor for which every count of a plan, up to M * N * K of a matmul, is a 64-bit integer."""


def _require_size(op: Operation) -> None:
    for value in (*op.operands, *op.results):
        if isinstance(value.type, TensorType):
            elements = product(value.type.dims)
            if elements.is_constant and elements.constant > MOST_ELEMENTS:
                raise PmcError(f"a tensor of {elements} elements has no plan, at most {MOST_ELEMENTS} have")


def _shape_key(op: Operation) -> Hashable:
    """Everything a plan depends on: types, properties, which operands are equal, which are views."""
    operands = list(op.operands)
    return (
        op.name,
        tuple(v.type for v in (*operands, *op.results)),
        tuple(sorted((name, value) for name, value in op.properties.items() if name != "path")),
        tuple(operands.index(v) for v in operands),
        tuple(contiguous_columns(v) if is_view(v) else 0 for v in operands),
    )
