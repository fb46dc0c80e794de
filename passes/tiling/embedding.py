"""The kernel of an embedding look-up: per tile the ids are loaded, rows gathered and stored."""

from __future__ import annotations

from xdsl.ir import Operation

from pmc.dialects import layer
from pmc.dialects.analyses.embedding_tiling import lookup_of, parts_of, plan_fault, plan_lookup
from pmc.dialects.analyses.planner import TilePlanner
from pmc.dialects.analyses.split import core_coordinates
from pmc.dialects.arch import Chip
from pmc.dialects.tile import KernelOp
from pmc.dialects.tile_plan import PlanAttr
from pmc.dialects.vector_kinds import ConvertAttr
from pmc.passes.tiling.kernels import Arrays


class EmbeddingFamily:
    """`layer.embedding`."""

    def plan(self, op: Operation, chip: Chip, planner: TilePlanner) -> PlanAttr:
        """Tokens over the cores, columns over those that are left."""
        assert isinstance(op, layer.EmbeddingOp)
        return plan_lookup(lookup_of(op), chip)

    def fault(self, op: Operation, plan: PlanAttr, chip: Chip) -> str | None:
        """What is wrong with a plan."""
        assert isinstance(op, layer.EmbeddingOp)
        return plan_fault(lookup_of(op), plan, chip)

    def lower(self, op: Operation, plan: PlanAttr, arrays: Arrays, chip: Chip) -> KernelOp:
        """Loop t over tokens, inside it loop n over columns."""
        assert isinstance(op, layer.EmbeddingOp)
        ids, table, y = arrays.array(op.tokens), arrays.array(op.table), arrays.result(op.y)
        tile_t, tile_n = plan.tile_sizes
        tokens, columns = parts_of(lookup_of(op), plan)
        core_t, core_n = core_coordinates((tokens.parts, columns.parts))
        code = arrays.code(op, plan)
        with code.loop("t", tokens.trips(core_t)) as ti:
            start, size = tokens.start(core_t, ti), tokens.size(core_t, ti)
            index = code.alloc(1, tile_t, ids.element_type)
            code.load(ids, index, (start,), (size,))
            with code.loop("n", columns.trips(core_n)) as ni:
                column, width_here = columns.start(core_n, ni), columns.size(core_n, ni)
                rows = code.alloc(tile_t, tile_n, table.element_type)
                code.gather(table, index, rows, size, column, width_here, op.vocab_axis)
                if table.element_type != y.element_type:
                    gathered, rows = rows, code.alloc(tile_t, tile_n, y.element_type)
                    code.vector(ConvertAttr(), size, width_here, [gathered], [rows])
                code.store(y, rows, (start, column), (size, width_here))
        return code.kernel(tokens.parts * columns.parts)
