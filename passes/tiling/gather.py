"""The kernel of a gather of cached rows: positions by GDMA, rows by SDMA, the contiguous result by GDMA.

The plan is that of `analyses/gather_tiling.py`.
"""

from __future__ import annotations

from xdsl.ir import Operation

from pmc.dialects import layer
from pmc.dialects.analyses.gather_tiling import gather_of, parts_of, plan_fault, plan_gather
from pmc.dialects.analyses.planner import TilePlanner
from pmc.dialects.analyses.split import core_coordinates
from pmc.dialects.arch import Chip
from pmc.dialects.expr import floordiv
from pmc.dialects.tile import KernelOp
from pmc.dialects.tile_plan import PlanAttr
from pmc.passes.tiling.kernels import Arrays


class GatherFamily:
    """`layer.gather_rows`."""

    def plan(self, op: Operation, chip: Chip, planner: TilePlanner) -> PlanAttr:
        """Tokens over the cores, rows over those that are left."""
        assert isinstance(op, layer.GatherRowsOp)
        return plan_gather(gather_of(op), chip)

    def fault(self, op: Operation, plan: PlanAttr, chip: Chip) -> str | None:
        """What is wrong with a plan."""
        assert isinstance(op, layer.GatherRowsOp)
        return plan_fault(gather_of(op), plan, chip)

    def lower(self, op: Operation, plan: PlanAttr, arrays: Arrays, chip: Chip) -> KernelOp:
        """Loop t over tokens, inside it loop j over the rows of a token."""
        assert isinstance(op, layer.GatherRowsOp)
        gather, (tile,) = gather_of(op), plan.tile_sizes
        tokens, rows = parts_of(gather, plan)
        core_t, core_j = core_coordinates((tokens.parts, rows.parts))
        cache, indices, y = arrays.array(op.cache), arrays.array(op.indices), arrays.result(op.y)
        code = arrays.code(op, plan)
        with code.loop("t", tokens.trips(core_t)) as ti:
            token = tokens.start(core_t, ti)
            with code.loop("j", rows.trips(core_j)) as ji:
                row, count = rows.start(core_j, ji), rows.size(core_j, ji)
                index = code.alloc(1, tile, indices.element_type)
                code.load(indices, index, (token, row), (1, count))
                buffer = code.alloc(tile, gather.width, cache.element_type)
                sequence = floordiv(token, op.q_len.data)
                code.gather_rows(cache, index, buffer, (sequence,), count, op.bandwidth_domain)
                code.store(y, buffer, (token, row, 0), (1, count, gather.width))
        return code.kernel(tokens.parts * rows.parts)
