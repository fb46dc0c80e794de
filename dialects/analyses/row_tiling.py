"""The tilings of ops on rows: which are legal, what LMEM they take, and what they ask of every engine.

Every operand is [outer, inner, width]: rows are pairs (outer, inner), `width` adjacent columns belong together.  A plan
has cores [outer, inner], tile [outer, inner, width].  Core c is (outer, inner) = c in row-major order.  A tile is
several outer rows with all their inner rows, or part of the inner rows of one outer row.  The rows of a matrix of one
row, `w`, are loaded once; one read may serve all cores.  Where every outer row (an expert) has matrices of its own,
these are loaded with every tile, which then belongs to one outer row.  So does a tile of `layer.position_embedding`.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import lru_cache
from itertools import zip_longest
from math import gcd, isqrt, prod

import numpy as np
from xdsl.ir import Attribute, Operation, SSAValue

from pmc.dialects import layer
from pmc.dialects.analyses.resources import Resources, bytes_of, round_up
from pmc.dialects.analyses.split import Split
from pmc.dialects.analyses.vector_work import command_steps
from pmc.dialects.arch import Chip
from pmc.dialects.errors import PmcError
from pmc.dialects.expr import expr
from pmc.dialects.layer_op import RowOp
from pmc.dialects.tensor import element_bits, element_name, ints, tensor
from pmc.dialects.tile_plan import PlanAttr
from pmc.dialects.vector_kinds import ROW, FillAttr, VectorKindAttr

MAX_WIDTH = 2048
"""Element-wise rows are cut into pieces of at most this many columns, so that few rows still fill all cores."""


Dims = Callable[[SSAValue], tuple[int, ...]]
"""Gives the dims of a tensor as integers."""


@dataclass(frozen=True)
class Rows:
    """The rows of an op: sizes and the buffers that one row of a tile needs."""

    outer: int
    inner: int
    width: int
    streamed: tuple[tuple[Attribute, int], ...]
    """(element type, columns) of the buffers that hold a tile of rows."""
    loaded: int
    """How many of the streamed buffers are loaded, from the first on."""
    stored: int
    """How many of them are stored, from the last on; a copy loads and stores its only one."""
    resident: tuple[tuple[Attribute, int, bool], ...] = ()
    """(element type, columns, whether it is in DRAM) of one-row buffers, which are filled once."""
    kind: VectorKindAttr | None = None
    """What is computed on the rows; None for a copy."""
    own: bool = False
    """Whether a tile has rows of one outer row: resident buffers are those of it, and are filled for every tile."""

    def dims(self, width: int) -> tuple[int, ...]:
        """The dims of an operand with rows of `width` columns."""
        return (self.outer, width) if self.inner == 1 else (self.outer, self.inner, width)


# -- layouts ----------------------------------------------------------------------------------------------------


def contiguous_columns(value: SSAValue, dims: Dims = ints) -> int:
    """How many adjacent columns of a row of `value` are surely adjacent in memory."""
    owner = value.owner
    if isinstance(owner, layer.SliceOp):
        whole = dims(owner.x)[-1] == owner.group.value.data
        return min(contiguous_columns(owner.x, dims), dims(value)[-1]) if whole else owner.size.value.data
    return dims(value)[-1]


def is_view(value: SSAValue) -> bool:
    """Whether `value` is a strided part of another value."""
    return isinstance(value.owner, layer.SliceOp)


@lru_cache(maxsize=1024)
def _divisors(value: int) -> tuple[int, ...]:
    low = [d for d in range(1, isqrt(value) + 1) if value % d == 0]
    return tuple(sorted({*low, *(value // d for d in low)}))


def _piece(values: Sequence[SSAValue], cores: int, dims: Dims) -> int:
    """The width of element-wise rows: the largest divisor that fits and still gives every core a row."""
    *outer, width = dims(values[0])
    limit = min(contiguous_columns(v, dims) for v in values)
    leading = prod(outer)
    divisors = _divisors(gcd(limit, width))
    wide = [d for d in divisors if d <= MAX_WIDTH and leading * width // d >= cores]
    # Narrow pieces cost rows: below 64 columns idle cores are the lesser evil.
    return max([d for d in wide if d >= 64] or [d for d in divisors if d <= MAX_WIDTH])


def rows_of(op: Operation, cores: int, dims: Dims = ints) -> Rows:
    """The rows of a row-wise op or a copy; one row dim where all operands are dense."""
    if isinstance(op, layer.LastTokenOp | layer.KvAppendOp):
        return _copied_rows(op, dims)
    if isinstance(op, layer.PositionEmbeddingOp):
        return positioned_rows(op, op.q_len.data.constant, dims)
    assert isinstance(op, RowOp)
    streamed, resident = matrices(op)
    values = [value for _, value in streamed]
    width = op.row_columns or _piece(values, cores, dims)
    columns = matrix_columns(op, width)
    *leading, whole = dims(values[0])
    outer, inner = prod(leading), whole // width
    if op.has_own_matrices:
        outer, inner = leading[0], prod(leading[1:])
    elif not any(is_view(v) for v in values):
        outer, inner = outer * inner, 1
    default = tensor(values[0]).element_type
    return Rows(
        outer,
        inner,
        width,
        tuple((tensor(value).element_type, columns[name]) for name, value in streamed),
        loaded=sum(value in op.operands for value in values),
        stored=sum(value in op.results for value in values),
        resident=tuple(
            (default if v is None else tensor(v).element_type, columns[name], v is not None) for name, v in resident
        ),
        kind=op.vector_kind(expr(ROW)),
        own=op.has_own_matrices,
    )


def matrices(op: RowOp) -> tuple[list[tuple[str, SSAValue]], list[tuple[str, SSAValue | None]]]:
    """The matrices of the op's vector kind by name: those with a row per row of the op, and those of one row."""
    kind = op.vector_kind(expr(ROW))
    ins = list(zip_longest(kind.operands("in"), op.operands))
    named = [*ins, *zip(kind.operands("out"), op.results, strict=True)]
    streamed: list[tuple[str, SSAValue]] = []
    for matrix, value in named:
        if matrix is None or (value is None and matrix.rows != 1):
            raise PmcError(f"{op.name} at '{op.path.data}': operands and matrices of #{kind.name} do not correspond")
        if matrix.rows != 1 and value is not None:
            streamed.append((matrix.name, value))
    return streamed, [(matrix.name, value) for matrix, value in named if matrix is not None and matrix.rows == 1]


def matrix_columns(op: RowOp, width: int) -> dict[str, int]:
    """The columns of each matrix of a command of `width` columns."""
    kind = op.vector_kind(expr(ROW))
    extents = kind.extents(expr(1), expr(width), [width] * len(kind.MATRICES))
    return {matrix.name: columns.constant for matrix, (_, columns) in zip(kind.MATRICES, extents, strict=True)}


def _copied_rows(op: layer.LastTokenOp | layer.KvAppendOp, dims: Dims) -> Rows:
    """The rows that an op only moves."""
    if isinstance(op, layer.LastTokenOp):
        rows, width = dims(op.y)
        return copied(rows, 1, width, tensor(op.y).element_type)
    (rows, width), q_len = dims(op.new), dims(op.new)[0] // dims(op.cache)[0]
    return copied(rows // q_len, q_len, width, tensor(op.new).element_type)


def positioned_rows(op: layer.PositionEmbeddingOp, q_len: int, dims: Dims = ints) -> Rows:
    """Sequences by positions: a tile of one sequence reads adjacent rows of the table."""
    rows, width = dims(op.x)
    streamed = tuple((tensor(v).element_type, width) for v in (op.x, op.table, op.y))
    return Rows(rows // q_len, q_len, width, streamed, loaded=2, stored=1, kind=op.vector_kind(), own=True)


def copied(outer: int, inner: int, width: int, element_type: Attribute) -> Rows:
    """Rows that are loaded and stored."""
    return Rows(outer, inner, width, ((element_type, width),), loaded=1, stored=1)


# -- plans ------------------------------------------------------------------------------------------------------


def plan_rows(rows: Rows, chip: Chip) -> PlanAttr:
    """Rows over as many cores as there are, then the largest tile that fits twice.  Raises PmcError if none does."""
    cores = chip.cores
    outer = Split.over(rows.outer, cores, 1)
    # Split inner rows only where the outer ones leave whole cores free.
    inner = Split.over(rows.inner, max(1, cores // outer.parts), 1)
    row = sum(-(-columns * element_bits(t) // 8) for t, columns in rows.streamed)
    slack = len(rows.streamed) * chip.alignment_bytes
    fixed = _resident_bytes(rows, chip) * (2 if rows.own else 1)
    most = (chip.lmem_tile_budget_bytes - fixed) // 2 - slack
    if most < row:
        raise PmcError(
            f"the smallest tile (one row of {rows.width}) needs {fixed + 2 * (row + slack)} bytes of LMEM, "
            f"the budget of a core is {chip.lmem_tile_budget_bytes}"
        )
    count = most // row
    if inner.parts == 1 and count >= rows.inner and not rows.own:
        tile = (_balanced(outer.chunk, count // rows.inner), rows.inner)
    else:
        tile = (1, _balanced(min(inner.chunk, rows.inner), count))
    shared = any(in_dram for _, _, in_dram in rows.resident) and not rows.own
    multicast = ("w",) if chip.gdma_multicast and shared else ()
    return PlanAttr.of([outer.parts, inner.parts], [*tile, rows.width], "oi", multicast=multicast)


def plan_fault(rows: Rows, plan: PlanAttr, chip: Chip) -> str | None:
    """What is wrong with a plan for `rows`, None for a legal one."""
    fault = plan.fault(chip, dims=(2, 3), orders=("oi",), multicast=("w",) if rows.resident and not rows.own else ())
    if fault is not None:
        return fault
    outer, inner, width = plan.tile_sizes
    if width != rows.width:
        return f"its rows have {width} columns, those of the op {rows.width}"
    if outer > 1 and rows.own:
        return f"a tile has {outer} outer rows, must have one"
    if outer > 1 and min(inner, -(-rows.inner // plan.core_counts[1])) < rows.inner:
        return f"a tile of {outer} outer rows must have all {rows.inner} inner rows"
    step = chip.alignment_bytes
    sizes = [round_up(bytes_of(outer * inner * columns, element_bits(t)), step) for t, columns in rows.streamed]
    need = plan.buffer_slots * int(sum(sizes)) + _resident_bytes(rows, chip) * (plan.buffer_slots if rows.own else 1)
    if need > chip.lmem_tile_budget_bytes:
        return f"its tiles need {need} bytes of LMEM, the budget of a core is {chip.lmem_tile_budget_bytes}"
    return None


def resources(rows: Rows, plan: PlanAttr, chip: Chip) -> Resources:
    """What a plan asks of the busiest core and of the chip."""
    cores_o, cores_i = plan.core_counts
    outer, inner = Split.over(rows.outer, cores_o, 1), Split.over(rows.inner, cores_i, 1)
    tile_o, tile_i, _ = plan.tile_sizes
    own_o, own_i = min(outer.chunk, rows.outer), min(inner.chunk, rows.inner)
    own, trips = own_o * own_i, -(-own_o // tile_o) * -(-own_i // tile_i)
    cores, total = outer.parts * inner.parts, rows.outer * rows.inner
    bits = [columns * element_bits(t) for t, columns in rows.streamed]
    read_bits, write_bits = sum(bits[: rows.loaded]), sum(bits[len(bits) - rows.stored :])
    kept = [columns * element_bits(t) for t, columns, in_dram in rows.resident if in_dram]
    fills = sum(int(command_steps(FillAttr, 1, width, chip)) for _, width, in_dram in rows.resident if not in_dram)
    steps = 0 if rows.kind is None else int(command_steps(rows.kind, own, rows.width, chip))
    fillings, reads_of_kept = 1, 1 if plan.multicasts("w") else cores
    if rows.own:
        last = rows.inner - (inner.parts - 1) * inner.chunk
        fillings, reads_of_kept = trips, rows.outer * ((inner.parts - 1) * -(-own_i // tile_i) + -(-last // tile_i))
    nothing = Resources.nothing(1)
    return nothing.plus(
        cores=nothing.cores * cores,
        vec_steps=np.array([steps + fills * fillings]),
        vec_commands=np.array([0 if rows.kind is None else trips]),
        gdma_bytes=bytes_of(np.array([own * (read_bits + write_bits) + sum(kept) * fillings]), 1),
        gdma_commands=np.array([trips * (rows.loaded + rows.stored) + len(kept) * fillings]),
        dram_read=bytes_of(np.array([total * read_bits + reads_of_kept * sum(kept)]), 1),
        dram_written=bytes_of(np.array([total * write_bits]), 1),
        overlaps=np.array([plan.buffer_slots == 2 and trips > 1]),
        merge=Resources.nothing(1),
    )


def rate_type(rows: Rows) -> str:
    """The element type that sets the rate of the vector unit."""
    return (rows.kind.RATE if rows.kind is not None else None) or element_name(rows.streamed[0][0])


def _resident_bytes(rows: Rows, chip: Chip) -> int:
    step = chip.alignment_bytes
    return int(sum(round_up(bytes_of(columns, element_bits(t)), step) for t, columns, _ in rows.resident))


def _balanced(total: int, most: int) -> int:
    """The tile of the fewest equal trips; at least two trips, so that loads and stores overlap with the work."""
    trips = max(-(-total // most), min(2, total))
    return -(-total // trips)


def used_cores(plan: PlanAttr, rows: Rows) -> int:
    """The cores that have rows."""
    cores_o, cores_i = plan.core_counts
    return Split.over(rows.outer, cores_o, 1).parts * Split.over(rows.inner, cores_i, 1).parts
