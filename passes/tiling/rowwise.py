"""Ops on rows: norms, rotary embedding, element-wise ops, the router, and plain copies.

Every operand is [outer, inner, width]: rows are pairs (outer, inner), `width` adjacent columns belong together.  A plan
has cores [outer, inner], tile [outer, inner, width].  Core c is (outer, inner) = c in row-major order.  A tile is
several outer rows with all their inner rows, or part of the inner rows of one outer row.
"""

from __future__ import annotations

from collections.abc import Generator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from itertools import zip_longest
from math import prod

from xdsl.ir import Attribute, Operation, SSAValue

from pmc.dialects import layer
from pmc.dialects.expr import Expr, expr, floordiv
from pmc.dialects.layer_op import RowOp
from pmc.dialects.tensor import element_bits, tensor
from pmc.dialects.tile import KernelOp, PlanAttr
from pmc.dialects.vector_kinds import ROW, FillAttr
from pmc.passes.base import PassError
from pmc.passes.tiling.arrays import Array
from pmc.passes.tiling.code import KernelCode, path_of
from pmc.passes.tiling.kernels import Arrays
from pmc.passes.tiling.matmul import ints
from pmc.passes.tiling.split import Split, core_coordinates
from pmc.passes.tiling.target import Target, does_not_fit

MAX_WIDTH = 2048
"""Element-wise rows are cut into pieces of at most this many columns, so that few rows still fill all cores."""


@dataclass(frozen=True)
class Rows:
    """The rows of an op: sizes and the buffers that one row of a tile needs."""

    outer: int
    inner: int
    width: int
    streamed: tuple[tuple[Attribute, int], ...]
    """(element type, columns) of the buffers that hold a tile of rows, in two slots each."""
    resident: tuple[tuple[Attribute, int], ...] = ()
    """(element type, columns) of one-row buffers loaded once."""

    def dims(self, width: int) -> tuple[int, ...]:
        """The dims of an operand with rows of `width` columns."""
        return (self.outer, width) if self.inner == 1 else (self.outer, self.inner, width)


# -- layouts ----------------------------------------------------------------------------------------------------


def contiguous_columns(value: SSAValue) -> int:
    """How many adjacent columns of a row of `value` are surely adjacent in memory."""
    owner = value.owner
    if isinstance(owner, layer.SliceOp):
        whole = ints(owner.x)[-1] == owner.group.value.data
        return min(contiguous_columns(owner.x), ints(value)[-1]) if whole else owner.size.value.data
    return ints(value)[-1]


def is_view(value: SSAValue) -> bool:
    """Whether `value` is a strided part of another value."""
    return isinstance(value.owner, layer.SliceOp)


def _piece(values: Sequence[SSAValue], cores: int) -> int:
    """The width of element-wise rows: the largest divisor that fits and still gives every core a row."""
    dims = ints(values[0])
    limit = min(contiguous_columns(v) for v in values)
    leading = prod(dims[:-1])
    divisors = [d for d in range(1, limit + 1) if limit % d == 0 and dims[-1] % d == 0]
    wide = [d for d in divisors if d <= MAX_WIDTH and leading * dims[-1] // d >= cores]
    # Narrow pieces cost rows: below 64 columns idle cores are the lesser evil.
    return max([d for d in wide if d >= 64] or [d for d in divisors if d <= MAX_WIDTH])


def rows_of(op: RowOp, cores: int) -> Rows:
    """The rows of a row-wise op; one row dim where all operands are dense."""
    streamed, resident = _matrices(op)
    values = [value for _, value in streamed]
    width = op.row_columns or _piece(values, cores)
    columns = _columns(op, width)
    dims = ints(values[0])
    outer, inner = prod(dims[:-1]), dims[-1] // width
    if not any(is_view(v) for v in values):
        outer, inner = outer * inner, 1
    default = tensor(values[0]).element_type
    return Rows(
        outer,
        inner,
        width,
        tuple((tensor(value).element_type, columns[name]) for name, value in streamed),
        tuple((default if v is None else tensor(v).element_type, columns[name]) for name, v in resident),
    )


def _matrices(op: RowOp) -> tuple[list[tuple[str, SSAValue]], list[tuple[str, SSAValue | None]]]:
    """The matrices of the op's vector kind by name: those with a row per row of the op, and those of one row."""
    kind = op.vector_kind(expr(ROW))
    ins = list(zip_longest(kind.operands("in"), op.operands))
    named = [*ins, *zip(kind.operands("out"), op.results, strict=True)]
    streamed: list[tuple[str, SSAValue]] = []
    for matrix, value in named:
        if matrix is None or (value is None and matrix.rows != 1):
            raise PassError(f"{op.name} at '{op.path.data}': operands and matrices of #{kind.name} do not correspond")
        if matrix.rows != 1 and value is not None:
            streamed.append((matrix.name, value))
    return streamed, [(matrix.name, value) for matrix, value in named if matrix is not None and matrix.rows == 1]


def _columns(op: RowOp, width: int) -> dict[str, int]:
    """The columns of each matrix of a command of `width` columns."""
    kind = op.vector_kind(expr(ROW))
    extents = kind.extents(expr(1), expr(width), [width] * len(kind.MATRICES))
    return {matrix.name: columns.constant for matrix, (_, columns) in zip(kind.MATRICES, extents, strict=True)}


def _copied_rows(op: layer.LastTokenOp | layer.KvAppendOp) -> Rows:
    """The rows that an op only moves."""
    if isinstance(op, layer.LastTokenOp):
        (rows, width), q_len = ints(op.y), 1
    else:
        (rows, width), q_len = ints(op.new), ints(op.new)[0] // ints(op.cache)[0]
    return Rows(rows // q_len, q_len, width, ((tensor(op.operands[0]).element_type, width),))


# -- plans ------------------------------------------------------------------------------------------------------


def plan_rows(rows: Rows, target: Target, name: str, path: str) -> PlanAttr:
    """Rows over as many cores as there are, then the largest tile that fits twice."""
    cores = target.chip.cores
    outer = Split.over(rows.outer, cores, 1)
    # Split inner rows only where the outer ones leave whole cores free.
    inner = Split.over(rows.inner, max(1, cores // outer.parts), 1)
    fixed = sum(target.aligned(-(-columns * element_bits(t) // 8)) for t, columns in rows.resident)
    row = sum(-(-columns * element_bits(t) // 8) for t, columns in rows.streamed)
    slack = len(rows.streamed) * target.chip.alignment_bytes
    most = (target.budget - fixed) // 2 - slack
    if most < row:
        raise does_not_fit(name, path, fixed + 2 * (row + slack), target.budget, f"one row of {rows.width}")
    count = most // row
    if inner.parts == 1 and count >= rows.inner:
        tile = (_balanced(outer.chunk, count // rows.inner), rows.inner)
    else:
        tile = (1, _balanced(min(inner.chunk, rows.inner), count))
    return PlanAttr.of([outer.parts, inner.parts], [*tile, rows.width], "oi")


def _balanced(total: int, most: int) -> int:
    """The tile of the fewest equal trips; at least two trips, so that loads and stores overlap with the work."""
    trips = max(-(-total // most), min(2, total))
    return -(-total // trips)


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
        code.store(target, buffer, tile.offsets(target), tile.sizes(target))
    return code.kernel(used_cores(plan, rows))


def used_cores(plan: PlanAttr, rows: Rows) -> int:
    """The cores that have rows."""
    cores_o, cores_i = plan.core_counts
    return Split.over(rows.outer, cores_o, 1).parts * Split.over(rows.inner, cores_i, 1).parts


class CopyFamily:
    """Ops that only move rows."""

    def plan(self, op: Operation, target: Target) -> PlanAttr:
        """Rows over the cores, tiles as large as LMEM allows."""
        assert isinstance(op, layer.LastTokenOp | layer.KvAppendOp)
        return plan_rows(_copied_rows(op), target, op.name, path_of(op))

    def lower(self, op: Operation, plan: PlanAttr, arrays: Arrays, target: Target) -> KernelOp:
        """Copy the last token of every sequence, or the new tokens behind those of the cache."""
        assert isinstance(op, layer.LastTokenOp | layer.KvAppendOp)
        rows = _copied_rows(op)
        if isinstance(op, layer.LastTokenOp):
            q_len = op.q_len.data.constant
            last = arrays.array(op.x, rows.outer, q_len, rows.width).rows_from(1, q_len - 1, 1)
            source = last.without_dim(1)
            return copy_kernel(arrays.code(op), plan, rows, source, arrays.result(op.y, *rows.dims(rows.width)))
        source = arrays.array(op.new, *rows.dims(rows.width))
        kv_len = ints(op.cache)[1]
        cache = arrays.result(op.y).rows_from(1, kv_len - rows.inner, rows.inner)
        cache = cache.without_dim(1) if rows.inner == 1 else cache
        return copy_kernel(arrays.code(op), plan, rows, source, cache)


class RowFamily:
    """Row-wise ops whose kernel loads tiles of rows, runs one vector command on them and stores the results."""

    def plan(self, op: Operation, target: Target) -> PlanAttr:
        """Rows over the cores, tiles as large as LMEM allows."""
        assert isinstance(op, RowOp)
        return plan_rows(rows_of(op, target.chip.cores), target, op.name, path_of(op))

    def lower(self, op: Operation, plan: PlanAttr, arrays: Arrays, target: Target) -> KernelOp:
        """Matrices of one row first, then the loops."""
        assert isinstance(op, RowOp)
        rows = rows_of(op, target.chip.cores)
        streamed, resident = _matrices(op)
        columns = _columns(op, rows.width)
        sources = {n: arrays.array(v, *rows.dims(columns[n])) for n, v in streamed if v in op.operands}
        results = {n: arrays.result(v, *rows.dims(columns[n])) for n, v in streamed if v in op.results}
        constants = {n: None if v is None else arrays.array(v, columns[n]) for n, v in resident}
        code = arrays.code(op)
        buffers: dict[str, SSAValue] = {}
        for (name, constant), (element, width) in zip(constants.items(), rows.resident, strict=True):
            buffers[name] = code.alloc(1, width, element)
            if constant is None:
                code.vector(FillAttr.of(0.0), 1, width, outs=[buffers[name]])
            else:
                code.load(constant, buffers[name], (0,), (width,))
        with row_tiles(code, plan, rows.outer, rows.inner) as tile:
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
        return code.kernel(used_cores(plan, rows))
