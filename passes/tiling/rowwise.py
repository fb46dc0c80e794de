"""The kernels of ops on rows: norms, rotary embedding, element-wise ops, the router, and plain copies.

Their plans are those of `analyses/row_tiling.py`.
"""

from __future__ import annotations

from collections.abc import Generator
from contextlib import contextmanager
from dataclasses import dataclass

from xdsl.ir import Operation, SSAValue

from pmc.dialects import layer
from pmc.dialects.analyses.planner import TilePlanner
from pmc.dialects.analyses.row_tiling import (
    Rows,
    matrices,
    matrix_columns,
    plan_fault,
    plan_rows,
    rows_of,
    used_cores,
)
from pmc.dialects.analyses.split import Split, core_coordinates
from pmc.dialects.arch import Chip
from pmc.dialects.expr import Expr, expr, floordiv
from pmc.dialects.layer_op import RowOp
from pmc.dialects.tensor import ints
from pmc.dialects.tile import CoresAttr, KernelOp
from pmc.dialects.tile_plan import PlanAttr
from pmc.dialects.vector_kinds import ROW, FillAttr
from pmc.passes.tiling.arrays import Array
from pmc.passes.tiling.code import KernelCode
from pmc.passes.tiling.kernels import Arrays

# -- kernels ----------------------------------------------------------------------------------------------------


@dataclass(frozen=True)
class Tile:
    """A tile of rows: offsets and sizes along both row dims, and how many rows a buffer must hold."""

    outer: Expr
    inner: Expr
    outer_rows: Expr
    inner_rows: Expr
    capacity: int
    inner_total: int

    @property
    def rows(self) -> Expr:
        """The rows of the tile."""
        return self.outer_rows * self.inner_rows

    def offsets(self, array: Array) -> tuple[Expr, ...]:
        """Where the tile starts in an [outer, inner, width] or [outer, width] array."""
        return (self.outer, self.inner, expr(0)) if len(array.dims) == 3 else (self.outer, expr(0))

    def sizes(self, array: Array) -> tuple[Expr, ...]:
        """The size of the tile in that array."""
        width = expr(array.dims[-1])
        return (self.outer_rows, self.inner_rows, width) if len(array.dims) == 3 else (self.outer_rows, width)

    def outer_of_row(self) -> Expr:
        """The outer row that row `row` of a buffer belongs to; a tile with part of the inner rows has one."""
        rows_each = self.inner_total if self.capacity >= self.inner_total else self.capacity
        return self.outer + floordiv(expr(ROW), rows_each)


@contextmanager
def row_tiles(code: KernelCode, plan: PlanAttr, outer: int, inner: int) -> Generator[Tile]:
    """Open the loops `o` and `i` over the tiles of a core."""
    cores_o, cores_i = plan.core_counts
    tile_o, tile_i, _ = plan.tile_sizes
    split_o, split_i = Split.over(outer, cores_o, tile_o), Split.over(inner, cores_i, tile_i)
    core_o, core_i = core_coordinates((split_o.parts, split_i.parts))
    with code.loop("o", split_o.trips(core_o)) as o, code.loop("i", split_i.trips(core_i)) as i:
        yield Tile(
            split_o.start(core_o, o),
            split_i.start(core_i, i),
            split_o.size(core_o, o),
            split_i.size(core_i, i),
            tile_o * tile_i,
            inner,
        )


def copy_kernel(code: KernelCode, plan: PlanAttr, rows: Rows, source: Array, target: Array) -> KernelOp:
    """Move [outer, inner, width] rows from one array to another through LMEM."""
    with row_tiles(code, plan, rows.outer, rows.inner) as tile:
        buffer = code.alloc(tile.capacity, rows.width, source.element_type)
        code.load(source, buffer, tile.offsets(source), tile.sizes(source))
        code.store(target, buffer, tile.offsets(target), tile.sizes(target), at_once=True)
    return code.kernel(used_cores(plan, rows))


class _RowFamily:
    """What row-wise ops and copies share: their plans."""

    def plan(self, op: Operation, chip: Chip, planner: TilePlanner) -> PlanAttr:
        """Rows over the cores, tiles as large as LMEM allows."""
        return plan_rows(rows_of(op, chip.cores), chip)

    def fault(self, op: Operation, plan: PlanAttr, chip: Chip) -> str | None:
        """What is wrong with a plan."""
        return plan_fault(rows_of(op, chip.cores), plan, chip)


class CopyFamily(_RowFamily):
    """Ops that only move rows."""

    def lower(self, op: Operation, plan: PlanAttr, arrays: Arrays, chip: Chip) -> KernelOp:
        """Copy the last token of every sequence, or the new tokens behind those of the cache."""
        assert isinstance(op, layer.LastTokenOp | layer.KvAppendOp)
        rows = rows_of(op, chip.cores)
        if isinstance(op, layer.LastTokenOp):
            q_len = op.q_len.data.constant
            last = arrays.array(op.x, rows.outer, q_len, rows.width).rows_from(1, q_len - 1, 1)
            source = last.without_dim(1)
            return copy_kernel(arrays.code(op, plan), plan, rows, source, arrays.result(op.y, *rows.dims(rows.width)))
        source = arrays.array(op.new, *rows.dims(rows.width))
        kv_len = ints(op.cache)[1]
        cache = arrays.result(op.y).rows_from(1, kv_len - rows.inner, rows.inner)
        cache = cache.without_dim(1) if rows.inner == 1 else cache
        return copy_kernel(arrays.code(op, plan), plan, rows, source, cache)


class RowFamily(_RowFamily):
    """Row-wise ops whose kernel loads tiles of rows, runs one vector command on them and stores the results."""

    def lower(self, op: Operation, plan: PlanAttr, arrays: Arrays, chip: Chip) -> KernelOp:
        """Matrices of one row first, then the loops; inside of these where every outer row has its own."""
        assert isinstance(op, RowOp)
        rows = rows_of(op, chip.cores)
        streamed, resident = matrices(op)
        columns = matrix_columns(op, rows.width)
        sources = {n: arrays.array(v, *rows.dims(columns[n])) for n, v in streamed if v in op.operands}
        results = {n: arrays.result(v, *rows.dims(columns[n])) for n, v in streamed if v in op.results}
        leading = (rows.outer,) if rows.own else ()
        constants = {n: None if v is None else arrays.array(v, *leading, columns[n]) for n, v in resident}
        code = arrays.code(op, plan)
        buffers: dict[str, SSAValue] = {}
        cores = used_cores(plan, rows)
        serves = CoresAttr.of(0, cores) if plan.multicasts("w") else None

        def fill(*outer: Expr) -> None:
            for (name, constant), (element, width, _) in zip(constants.items(), rows.resident, strict=True):
                buffers[name] = code.alloc(1, width, element)
                if constant is None:
                    code.vector(FillAttr.of(0.0), 1, width, outs=[buffers[name]])
                else:
                    code.load(constant, buffers[name], (*outer, 0), (*(1 for _ in outer), width), serves)

        if not rows.own:
            fill()
        with row_tiles(code, plan, rows.outer, rows.inner) as tile:
            if rows.own:
                fill(tile.outer)
            for name, array in sources.items():
                buffers[name] = code.alloc(tile.capacity, array.dims[-1], array.element_type)
            for name, array in sources.items():
                code.load(array, buffers[name], tile.offsets(array), tile.sizes(array))
            for name, array in results.items():
                buffers[name] = code.alloc(tile.capacity, array.dims[-1], array.element_type)
            # Outer rows are the tokens; where everything is dense they are pieces of a token, one after the other.
            pieces = ints(op.operands[0])[-1] // rows.width if rows.inner == 1 else 1
            kind = op.vector_kind(floordiv(tile.outer_of_row(), pieces))
            ins, outs = ([buffers[m.name] for m in kind.operands(role)] for role in ("in", "out"))
            code.vector(kind, tile.rows, rows.width, ins, outs)
            for name, array in results.items():
                code.store(array, buffers[name], tile.offsets(array), tile.sizes(array))
        return code.kernel(cores)


class PositionFamily(_RowFamily):
    """`layer.position_embedding`."""

    def lower(self, op: Operation, plan: PlanAttr, arrays: Arrays, chip: Chip) -> KernelOp:
        """The rows of the table beside those of x: tile by tile of one sequence, those of its positions."""
        assert isinstance(op, layer.PositionEmbeddingOp)
        rows = rows_of(op, chip.cores)
        x, y = arrays.array(op.x, *rows.dims(rows.width)), arrays.result(op.y, *rows.dims(rows.width))
        table = arrays.array(op.table).rows_from(0, op.first_row.constant, rows.inner)
        code = arrays.code(op, plan)
        with row_tiles(code, plan, rows.outer, rows.inner) as tile:
            tokens, added, out = (code.alloc(tile.capacity, rows.width, a.element_type) for a in (x, table, y))
            code.load(x, tokens, tile.offsets(x), tile.sizes(x))
            code.load(table, added, (tile.inner, 0), (tile.inner_rows, rows.width))
            code.vector(op.vector_kind(), tile.rows, rows.width, [tokens, added], [out])
            code.store(y, out, tile.offsets(y), tile.sizes(y))
        return code.kernel(used_cores(plan, rows))
