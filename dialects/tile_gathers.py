"""Rows of a matrix in DRAM by an index in LMEM, as ops of the `tile` dialect: by GDMA, and by SDMA."""

from __future__ import annotations

from dataclasses import replace

from xdsl.dialects.builtin import ArrayAttr, StringAttr
from xdsl.irdl import irdl_op_definition, operand_def, opt_prop_def, prop_def
from xdsl.utils.exceptions import VerifyException

from pmc.dialects.accesses import ALWAYS, BANDWIDTH_DOMAINS, NEVER, TileAccess
from pmc.dialects.expr import Expr, ExprAttr, expr
from pmc.dialects.tile_command import CommandOp
from pmc.dialects.tile_types import BufferType, MemRefType, memref_type


@irdl_op_definition
class GatherOp(CommandOp):
    """Rows of a DRAM array [N, columns] by index: buffer[r] = memref[index[0, r] - base], padding outside 0..N-1.

    `count` rows are gathered, `columns` of them from column `column`.  `base_axis` names the mesh axis whose
    coordinate times N is the base (a vocabulary shard); without it the base is 0.  Padding is zero, or -1 in a table of
    integers.  Of an array with more dims `lead` picks the matrix, as that of a layer.
    """

    name = "tile.gather"
    memref = operand_def(MemRefType)
    index = operand_def(BufferType)
    buffer = operand_def(BufferType)
    count = prop_def(ExprAttr)
    column = prop_def(ExprAttr)
    columns = prop_def(ExprAttr)
    base_axis = opt_prop_def(StringAttr)
    lead = opt_prop_def(ArrayAttr[ExprAttr])

    @property
    def leading(self) -> list[Expr]:
        """The entries of `lead`; none for a matrix."""
        return [] if self.lead is None else [at.data for at in self.lead.data]

    def accesses(self) -> tuple[TileAccess, ...]:
        count, columns, ones = self.count.data, self.columns.data, [expr(1) for _ in self.leading]
        offsets = [*self.leading, expr(0), self.column.data]
        return (
            TileAccess.block("dram", self.memref, offsets, [*ones, count, columns], write=False, indexed=True),
            TileAccess.part("index", self.index, expr(1), count, ALWAYS, False),
            TileAccess.part("lmem", self.buffer, count, columns, NEVER, True),
        )

    def verify_(self) -> None:
        """As many leading dims as the array has before its last two."""
        _require_lead(self, len(self.leading))


@irdl_op_definition
class GatherRowsOp(CommandOp):
    """Whole rows of a matrix in DRAM by index, moved by SDMA: buffer[r] = memref[lead.., index[0, r], :].

    `lead` picks the matrix [N, columns] among those of the array, `count` rows are gathered.  In the bandwidth domain
    `dram` they are read from DRAM; in `on_chip` the cores hold the matrix among them, and no DRAM traffic is counted.
    """

    name = "tile.gather_rows"
    memref = operand_def(MemRefType)
    index = operand_def(BufferType)
    buffer = operand_def(BufferType)
    lead = prop_def(ArrayAttr[ExprAttr])
    count = prop_def(ExprAttr)
    bandwidth_domain = prop_def(StringAttr)

    def accesses(self) -> tuple[TileAccess, ...]:
        count, columns, lead = self.count.data, expr(memref_type(self.memref).dims[-1]), self.lead.data
        offsets, sizes = [*(at.data for at in lead), expr(0), expr(0)], [*(expr(1) for _ in lead), count, columns]
        source = TileAccess.block("dram", self.memref, offsets, sizes, write=False, indexed=True)
        return (
            replace(source, held=self.bandwidth_domain.data == "on_chip"),
            TileAccess.part("index", self.index, expr(1), count, ALWAYS, False),
            TileAccess.part("lmem", self.buffer, count, columns, NEVER, True),
        )

    def verify_(self) -> None:
        """A known domain; as many leading dims as the array has before its last two."""
        domain = self.bandwidth_domain.data
        if domain not in BANDWIDTH_DOMAINS:
            raise VerifyException(
                f"{self.name} at '{self.path.data}': bandwidth_domain is '{domain}', must be "
                f"{' or '.join(BANDWIDTH_DOMAINS)}"
            )
        _require_lead(self, len(self.lead.data))


def _require_lead(op: GatherOp | GatherRowsOp, found: int) -> None:
    expected = len(memref_type(op.memref).dims) - 2
    if found != expected:
        raise VerifyException(f"{op.name} at '{op.path.data}': lead must have {expected} entries")
