"""Embedding look-up: rows of a table gathered by token id.

A plan has cores [tokens, columns] and tile [tokens, columns]; core c is (tokens, columns) = c in row-major order.
"""

from __future__ import annotations

from xdsl.ir import Operation

from pmc.dialects import layer
from pmc.dialects.tensor import element_bits, tensor
from pmc.dialects.tile import KernelOp, PlanAttr
from pmc.dialects.vector_kinds import ConvertAttr
from pmc.passes.tiling.code import path_of
from pmc.passes.tiling.kernels import Arrays
from pmc.passes.tiling.matmul import ints
from pmc.passes.tiling.split import Split, core_coordinates
from pmc.passes.tiling.target import Target, does_not_fit

MIN_COLUMNS = 64
"""Rows are not cut into narrower pieces, however many cores are idle."""


class EmbeddingFamily:
    """`layer.embedding`."""

    def plan(self, op: Operation, target: Target) -> PlanAttr:
        """Tokens over the cores, columns over those that are left."""
        assert isinstance(op, layer.EmbeddingOp)
        tokens, width = ints(op.y)
        stored, id_bits, row_bits = (element_bits(tensor(v).element_type) for v in (op.table, op.tokens, op.y))
        row_bits += stored if tensor(op.table).element_type != tensor(op.y).element_type else 0
        parts = Split.over(tokens, target.chip.cores, 1)
        columns = Split.over(width, max(1, target.chip.cores // parts.parts), 1, MIN_COLUMNS)
        # Two slots of a row of ids and of the rows, each padded to the alignment.
        most = (target.budget - 6 * target.chip.alignment_bytes) * 8 // 2
        piece = min(columns.chunk, width)
        if most < row_bits + id_bits:
            raise does_not_fit(op.name, path_of(op), (row_bits + id_bits) // 4, target.budget, "one element")
        tile_columns = min(piece, (most - id_bits) // row_bits)
        tile_tokens = min(parts.chunk, most // (tile_columns * row_bits + id_bits))
        return PlanAttr.of([parts.parts, columns.parts], [tile_tokens, tile_columns], "tn")

    def lower(self, op: Operation, plan: PlanAttr, arrays: Arrays, target: Target) -> KernelOp:
        """Per tile: load the ids, gather the rows, store them."""
        assert isinstance(op, layer.EmbeddingOp)
        count, width = ints(op.y)
        ids, table, y = arrays.array(op.tokens), arrays.whole(op.table), arrays.result(op.y)
        cores_t, cores_n = plan.core_counts
        tile_t, tile_n = plan.tile_sizes
        tokens, columns = Split.over(count, cores_t, tile_t), Split.over(width, cores_n, tile_n, MIN_COLUMNS)
        core_t, core_n = core_coordinates((tokens.parts, columns.parts))
        code = arrays.code(op)
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
