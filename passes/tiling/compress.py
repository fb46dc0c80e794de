"""The kernel of `layer.compress`: the tokens of an entry pooled by a running softmax of every column.

The plan is that of `analyses/compress_tiling.py`.
"""

from __future__ import annotations

from xdsl.dialects.builtin import f32
from xdsl.ir import Operation, SSAValue

from pmc.dialects import layer
from pmc.dialects.analyses.compress_tiling import (
    STATE_ROWS,
    Compression,
    compression_of,
    plan_compression,
    plan_fault,
    splits_of,
)
from pmc.dialects.analyses.planner import TilePlanner
from pmc.dialects.analyses.split import core_coordinates
from pmc.dialects.arch import Chip
from pmc.dialects.expr import Expr, expr, floordiv, min_of, mod
from pmc.dialects.tensor import ints
from pmc.dialects.tile import KernelOp
from pmc.dialects.tile_plan import PlanAttr
from pmc.dialects.vector_kinds import FillAttr, PoolFinishAttr, PoolStepAttr
from pmc.passes.tiling.kernels import Arrays


class CompressFamily:
    """`layer.compress`."""

    def plan(self, op: Operation, chip: Chip, planner: TilePlanner) -> PlanAttr:
        """Entries over the cores, columns over those that are left."""
        assert isinstance(op, layer.CompressOp)
        return plan_compression(compression_of(op), chip)

    def fault(self, op: Operation, plan: PlanAttr, chip: Chip) -> str | None:
        """What is wrong with a plan."""
        assert isinstance(op, layer.CompressOp)
        return plan_fault(compression_of(op), plan, chip)

    def lower(self, op: Operation, plan: PlanAttr, arrays: Arrays, chip: Chip) -> KernelOp:
        """Loop c over columns, inside it loop e over entries; the block before that of an entry where there is one."""
        assert isinstance(op, layer.CompressOp)
        work, (tile_c,) = compression_of(op), plan.tile_sizes
        entries, columns = splits_of(work, plan)
        core_e, core_c = core_coordinates((entries.parts, columns.parts))
        tokens, bias, y = [arrays.array(op.kv), arrays.array(op.gate)], arrays.array(op.bias), arrays.result(op.y)
        # The row of the caches that holds the first token of the first entry that closes.
        first_row = ints(op.kv)[1] - op.kv_len.data.constant + work.first_entry * work.ratio
        code = arrays.code(op, plan)
        with code.loop("c", columns.trips(core_c)) as ci:
            column, wide = columns.start(core_c, ci), columns.size(core_c, ci)
            biases: list[SSAValue] = []
            for series in range(work.series):
                biases.append(code.alloc(work.ratio, tile_c, bias.element_type))
                code.load(bias, biases[-1], (0, column + series * work.columns), (work.ratio, wide))
            with code.loop("e", entries.trips(core_e)) as ei:
                entry = entries.start(core_e, ei)
                sequence, number = floordiv(entry, work.closing), mod(entry, work.closing)
                running = [code.alloc(1, tile_c, f32, slots=1) for _ in range(STATE_ROWS)]
                for buffer, value in zip(running, (float("-inf"), 0.0, 0.0), strict=True):
                    code.vector(FillAttr.of(value), 1, wide, outs=[buffer])
                for series in range(work.series):
                    back = work.series - 1 - series
                    with code.loop("w", _blocks(work, number, back)):
                        row = number * work.ratio + (first_row - back * work.ratio)
                        at = (sequence, row, column + series * work.columns)
                        held = [code.alloc(work.ratio, tile_c, array.element_type) for array in tokens]
                        for array, buffer in zip(tokens, held, strict=True):
                            code.load(array, buffer, at, (1, work.ratio, wide))
                        code.vector(PoolStepAttr(), work.ratio, wide, [*held, biases[series]], updates=running)
                out = code.alloc(1, tile_c, y.element_type)
                code.vector(PoolFinishAttr(), 1, wide, [running[2], running[1]], [out])
                code.store(y, out, (entry, column), (1, wide))
        return code.kernel(entries.parts * columns.parts)


def _blocks(work: Compression, number: Expr, back: int) -> Expr:
    """1, or 0 for the block before the first entry of a sequence; `number` counts those that close."""
    return min_of(number, 1) if back and work.first_entry == 0 else expr(1)
