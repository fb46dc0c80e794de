"""Ops on rows: norms, rotary embedding, element-wise ops, the router, and plain copies.

Every operand is [outer, inner, width]: rows are pairs (outer, inner), `width` adjacent columns belong together.  A plan
has cores [outer, inner], tile [outer, inner, width].  Core c is (outer, inner) = c in row-major order.  A tile is
several outer rows with all their inner rows, or part of the inner rows of one outer row.
"""

from __future__ import annotations

from collections.abc import Generator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from math import prod

from xdsl.dialects.builtin import NoneAttr
from xdsl.ir import Attribute, Operation, SSAValue

from pmc.dialects import layer
from pmc.dialects.expr import Expr, ExprAttr, expr, floordiv, mod
from pmc.dialects.tensor import element_bits, tensor
from pmc.dialects.tile import KernelOp, PlanAttr
from pmc.dialects.vector_kinds import (
    ROW,
    AddAttr,
    ConvertAttr,
    FillAttr,
    RmsNormAttr,
    RopeAttr,
    RouterTopkAttr,
    SiluMulAttr,
    SoftmaxFinishAttr,
    VectorKindAttr,
)
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


def _rows_of(values: Sequence[SSAValue], width: int, resident: tuple[tuple[Attribute, int], ...] = ()) -> Rows:
    """Rows of `width` columns of equally shaped values; one row dim where all are dense."""
    dims = ints(values[0])
    outer, inner = prod(dims[:-1]), dims[-1] // width
    if not any(is_view(v) for v in values):
        outer, inner = outer * inner, 1
    return Rows(outer, inner, width, tuple((tensor(v).element_type, width) for v in values), resident)


def _piece(values: Sequence[SSAValue], cores: int) -> int:
    """The width of element-wise rows: the largest divisor that fits and still gives every core a row."""
    dims = ints(values[0])
    limit = min(contiguous_columns(v) for v in values)
    leading = prod(dims[:-1])
    divisors = [d for d in range(1, limit + 1) if limit % d == 0 and dims[-1] % d == 0]
    wide = [d for d in divisors if d <= MAX_WIDTH and leading * dims[-1] // d >= cores]
    # Narrow pieces cost rows: below 64 columns idle cores are the lesser evil.
    return max([d for d in wide if d >= 64] or [d for d in divisors if d <= MAX_WIDTH])


def rows_of(op: Operation, cores: int) -> Rows:
    """The rows of a row-wise op."""
    match op:
        case layer.RmsNormOp():
            group = op.group.value.data
            return _rows_of((op.x, op.y), group, ((tensor(op.w).element_type, group),))
        case layer.RopeOp():
            return _rows_of((op.x, op.y), op.head_dim.value.data)
        case layer.SiluMulOp():
            values = (op.gate, op.up, op.y)
            return _rows_of(values, _piece(values, cores))
        case layer.AddOp():
            values = (op.a, op.b, op.y)
            return _rows_of(values, _piece(values, cores))
        case layer.QuantizeOp():
            pair = (op.x, op.y)
            return _rows_of(pair, _piece(pair, cores))
        case layer.RouterTopkOp():
            tokens, experts = ints(op.logits)
            logits, k = tensor(op.logits).element_type, op.top_k.value.data
            results = tuple((tensor(r).element_type, k) for r in (op.weights, op.indices))
            bias = logits if op.bias is None else tensor(op.bias).element_type
            return Rows(tokens, 1, experts, ((logits, experts), *results), ((bias, experts),))
        case layer.AttentionFinishOp():
            heads, v_dim = ints(op.row_sum)[1], op.v_dim
            widths = ((op.acc, v_dim), (op.row_sum, 1), (op.y, v_dim))
            streamed = tuple((tensor(v).element_type, width) for v, width in widths)
            return Rows(ints(op.y)[0] * heads, 1, v_dim, streamed)
        case layer.LastTokenOp():
            rows, width = ints(op.y)
            element = tensor(op.y).element_type
            return Rows(rows, 1, width, ((element, width),))
        case layer.KvAppendOp():
            q_len = ints(op.new)[0] // ints(op.cache)[0]
            rows, width = ints(op.new)
            return Rows(rows // q_len, q_len, width, ((tensor(op.new).element_type, width),))
        case _:
            raise TypeError(f"{op.name} is not row-wise")


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


class RowFamily:
    """Row-wise ops whose kernel loads tiles of rows, runs one vector op on them and stores the results."""

    def plan(self, op: Operation, target: Target) -> PlanAttr:
        """Rows over the cores, tiles as large as LMEM allows."""
        return plan_rows(rows_of(op, target.chip.cores), target, op.name, path_of(op))

    def lower(self, op: Operation, plan: PlanAttr, arrays: Arrays, target: Target) -> KernelOp:
        """Resident rows first, then the loops."""
        rows = rows_of(op, target.chip.cores)
        ins: list[SSAValue]
        outs: list[SSAValue]
        resident: SSAValue | None = None
        match op:
            case layer.LastTokenOp():
                q_len = op.q_len.data.constant
                last = arrays.array(op.x, rows.outer, q_len, rows.width).rows_from(1, q_len - 1, 1)
                source = last.without_dim(1)
                code, target_array = arrays.code(op), arrays.result(op.y, *rows.dims(rows.width))
                return copy_kernel(code, plan, rows, source, target_array)
            case layer.KvAppendOp():
                source = arrays.array(op.new, *rows.dims(rows.width))
                kv_len = ints(op.cache)[1]
                cache = arrays.result(op.y).rows_from(1, kv_len - rows.inner, rows.inner)
                cache = cache.without_dim(1) if rows.inner == 1 else cache
                return copy_kernel(arrays.code(op), plan, rows, source, cache)
            case layer.RmsNormOp():
                ins, outs, resident = [op.x], [op.y], op.w
            case layer.RopeOp() | layer.QuantizeOp():
                ins, outs = [op.x], [op.y]
            case layer.SiluMulOp():
                ins, outs = [op.gate, op.up], [op.y]
            case layer.AddOp():
                ins, outs = [op.a, op.b], [op.y]
            case layer.AttentionFinishOp():
                ins, outs = [op.acc, op.row_sum], [op.y]
            case layer.RouterTopkOp():
                ins, outs, resident = [op.logits], [op.weights, op.indices], op.bias
            case _:
                raise TypeError(f"{op.name} is not row-wise")
        widths = [columns for _, columns in rows.streamed]
        sources = [arrays.array(v, *rows.dims(w)) for v, w in zip(ins, widths, strict=False)]
        results = [arrays.result(v, *rows.dims(w)) for v, w in zip(outs, widths[len(ins) :], strict=True)]
        parameter = None if resident is None else arrays.array(resident, rows.width)
        code = arrays.code(op)
        constants: list[SSAValue] = []
        for element, columns in rows.resident:
            constants.append(code.alloc(1, columns, element))
            if parameter is not None:
                code.load(parameter, constants[-1], (0,), (columns,))
            else:
                code.vector(FillAttr.of(0.0), 1, columns, outs=[constants[-1]])
        with row_tiles(code, plan, rows.outer, rows.inner) as tile:
            loaded = [code.alloc(tile.capacity, a.dims[-1], a.element_type) for a in sources]
            for array, buffer in zip(sources, loaded, strict=True):
                code.load(array, buffer, tile.offsets(array), tile.sizes(array))
            computed = [code.alloc(tile.capacity, a.dims[-1], a.element_type) for a in results]
            code.vector(vector_of(op, tile), tile.rows, rows.width, [*loaded, *constants], computed)
            for array, buffer in zip(results, computed, strict=True):
                code.store(array, buffer, tile.offsets(array), tile.sizes(array))
        return code.kernel(used_cores(plan, rows))


def vector_of(op: Operation, tile: Tile) -> VectorKindAttr:
    """The vector kind of a row-wise op."""
    match op:
        case layer.RmsNormOp():
            return RmsNormAttr(op.eps)
        case layer.RopeOp():
            # Outer rows are the tokens; where everything is dense they are (token, head) pairs.
            heads = 1 if is_view(op.x) else ints(op.x)[-1] // op.head_dim.value.data
            token = floordiv(tile.outer_of_row(), heads)
            position = ExprAttr(op.position(mod(token, op.q_len.data)))
            return RopeAttr(op.theta, op.interleaved, position, op.scaling or NoneAttr())
        case layer.AttentionFinishOp():
            return SoftmaxFinishAttr()
        case layer.SiluMulOp():
            return SiluMulAttr()
        case layer.AddOp():
            return AddAttr()
        case layer.QuantizeOp():
            return ConvertAttr()
        case layer.RouterTopkOp():
            return RouterTopkAttr(op.top_k, op.scoring, op.groups, op.top_groups, op.normalize, op.scale)
        case _:
            raise TypeError(f"{op.name} is not row-wise")
