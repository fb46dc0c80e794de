"""The pass `shorten-tables`: tables of a module with only their first and last rows, for readers."""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

from xdsl.dialects.builtin import ModuleOp

from pmc.dialects.levels import STAGES, Stage
from pmc.dialects.table import TableAttr
from pmc.passes.base import PmcPass


@dataclass(frozen=True)
class ShortenTablesPass(PmcPass):
    """Keep the first and last four rows of every table; row count and hash stay those of the whole table.

        trace.placement() {.., experts = #trace.table<experts, [expert, cores, policy], 64 rows, .., [<64 rows>]>, ..}

    becomes

        trace.placement() {.., experts = #trace.table<experts, [expert, cores, policy], 64 rows, .., [<8 rows>]>, ..}

    Nothing can be made from a shortened table, so that this is the last pass.
    """

    name = "shorten-tables"
    READS: ClassVar[tuple[Stage, ...]] = STAGES

    def run(self, module: ModuleOp) -> None:
        """Replace the tables in the properties of all ops."""
        for op in module.walk():
            for name, value in op.properties.items():
                if isinstance(value, TableAttr):
                    op.properties[name] = type(value)(value.data.reduced())
