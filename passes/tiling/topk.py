"""The kernel of a selection among scores: the best keys of a tile of rows so far, and one tile of keys after the other.

The plan is that of `analyses/topk_tiling.py`.
"""

from __future__ import annotations

from xdsl.dialects.builtin import IntegerAttr, NoneAttr, i32, i64
from xdsl.ir import Operation

from pmc.dialects import layer
from pmc.dialects.analyses.planner import TilePlanner
from pmc.dialects.analyses.split import Split, core_coordinates
from pmc.dialects.analyses.topk_tiling import plan_fault, plan_selection, selection_of
from pmc.dialects.arch import Chip
from pmc.dialects.expr import ExprAttr, expr
from pmc.dialects.tile import KernelOp
from pmc.dialects.tile_plan import PlanAttr
from pmc.dialects.vector_kinds import ROW, TopkSelectAttr
from pmc.passes.tiling.kernels import Arrays


class TopkFamily:
    """`layer.topk_select`."""

    def plan(self, op: Operation, chip: Chip, planner: TilePlanner) -> PlanAttr:
        """Rows over the cores."""
        assert isinstance(op, layer.TopkSelectOp)
        return plan_selection(selection_of(op), chip)

    def fault(self, op: Operation, plan: PlanAttr, chip: Chip) -> str | None:
        """What is wrong with a plan."""
        assert isinstance(op, layer.TopkSelectOp)
        return plan_fault(selection_of(op), plan, chip)

    def lower(self, op: Operation, plan: PlanAttr, arrays: Arrays, chip: Chip) -> KernelOp:
        """Loop r over rows, inside it loop s over keys."""
        assert isinstance(op, layer.TopkSelectOp)
        s, (tile_rows, tile_keys) = selection_of(op), plan.tile_sizes
        rows, keys = Split.over(s.rows, plan.core_counts[0], tile_rows), Split.over(s.keys, 1, tile_keys)
        (core,) = core_coordinates((rows.parts,))
        scores, y = arrays.array(op.scores, s.rows, s.keys), arrays.result(op.y, s.rows, s.kept)
        code = arrays.code(op, plan)
        with code.loop("r", rows.trips(core)) as ri:
            row, count = rows.start(core, ri), rows.size(core, ri)
            kept_scores = code.alloc(tile_rows, s.kept, scores.element_type, slots=1)
            kept_keys = code.alloc(tile_rows, s.kept, i32)
            with code.loop("s", keys.trips(expr(0))) as si:
                key, columns = keys.start(expr(0), si), keys.size(expr(0), si)
                tile = code.alloc(tile_rows, tile_keys, scores.element_type)
                code.load(scores, tile, (row, key), (count, columns))
                position = ExprAttr(op.position_of_row(row + expr(ROW)))
                kind = TopkSelectAttr(IntegerAttr(s.kept, i64), position, ExprAttr(key), op.always or NoneAttr())
                code.vector(kind, count, columns, [tile], updates=[kept_scores, kept_keys])
            code.store(y, kept_keys, (row, 0), (count, s.kept))
        return code.kernel(rows.parts)
