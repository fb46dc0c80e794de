"""The kernel of a gather of cached rows: positions by GDMA, rows by SDMA, the contiguous result by GDMA.

Of blocks of rows GDMA brings the numbers, and a vector command makes the rows of them.

The plan is that of `analyses/gather_tiling.py`.
"""

from __future__ import annotations

from math import prod

from xdsl.ir import Operation

from pmc.dialects import layer
from pmc.dialects.analyses.gather_tiling import gather_of, parts_of, plan_fault, plan_gather
from pmc.dialects.analyses.planner import TilePlanner
from pmc.dialects.analyses.split import core_coordinates
from pmc.dialects.arch import Chip
from pmc.dialects.block_kinds import BlockRowsAttr
from pmc.dialects.expr import Expr, ExprAttr, floordiv, mod
from pmc.dialects.tensor import ints
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
        """Loop t over tokens, or the key heads of tokens, inside it loop j over the rows of one."""
        assert isinstance(op, layer.GatherRowsOp)
        gather, (tile,) = gather_of(op), plan.tile_sizes
        tokens, rows = parts_of(gather, plan)
        core_t, core_j = core_coordinates((tokens.parts, rows.parts))
        block, of_heads = gather.block, () if gather.kind is None else (gather.kind.stride.value.data,)
        heads = prod(of_heads)
        sequences, keys = ints(op.cache)[:2]
        # A row is that of a key and one of its heads.
        cache = arrays.array(op.cache, sequences, keys * heads, gather.width)
        indices = arrays.array(op.indices, gather.tokens, gather.rows // block)
        y = arrays.result(op.y, gather.tokens // heads, gather.rows, *of_heads, gather.width)
        code = arrays.code(op, plan)
        with code.loop("t", tokens.trips(core_t)) as ti:
            unit = tokens.start(core_t, ti)
            token, head = floordiv(unit, heads), mod(unit, heads)
            with code.loop("j", rows.trips(core_j)) as ji:
                row, count = rows.start(core_j, ji), rows.size(core_j, ji)
                index = code.alloc(1, tile // block, indices.element_type)
                code.load(indices, index, (unit, floordiv(row, block)), (1, floordiv(count, block)))
                if gather.kind is not None:
                    numbers, index = index, code.alloc(1, tile, indices.element_type)
                    kind = BlockRowsAttr(gather.kind.block, gather.kind.stride, gather.kind.last, ExprAttr(head))
                    code.vector(kind, 1, floordiv(count, block), [numbers], [index])
                buffer = code.alloc(tile, gather.width, cache.element_type)
                sequence = floordiv(token, op.q_len.data)
                code.gather_rows(cache, index, buffer, (sequence,), count, op.bandwidth_domain)
                at: list[Expr | int] = [token, row, *(head for _ in of_heads), 0]
                code.store(y, buffer, at, (1, count, *(1 for _ in of_heads), gather.width))
        return code.kernel(tokens.parts * rows.parts)
