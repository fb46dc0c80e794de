"""The kernels of matmuls, alone or in groups (experts, heads), under any plan of `analyses/matmul_tiling.py`."""

from __future__ import annotations

from dataclasses import dataclass
from math import prod

from xdsl.dialects.builtin import IntegerAttr, f32, i64
from xdsl.ir import Attribute, Operation, SSAValue

from pmc.dialects import layer
from pmc.dialects.analyses.matmul_tiling import cube_k, plan_fault, scratch_dims
from pmc.dialects.analyses.planner import TilePlanner
from pmc.dialects.analyses.split import Split, core_coordinates, cores_along
from pmc.dialects.analyses.workload import matmul_shape
from pmc.dialects.arch import Chip
from pmc.dialects.expr import Expr, ceildiv, expr, max_of, min_of
from pmc.dialects.tensor import ints, tensor
from pmc.dialects.tile import CORE, CoresAttr, KernelOp
from pmc.dialects.tile_plan import PlanAttr
from pmc.dialects.vector_kinds import ConvertAttr, SumPartsAttr
from pmc.passes.tiling.arrays import Array
from pmc.passes.tiling.code import KernelCode
from pmc.passes.tiling.kernels import Arrays


@dataclass(frozen=True)
class Matmul:
    """The op as groups of [m, k] x [k, n]; `transpose_b` when w is stored [n, k]."""

    groups: int
    m: int
    n: int
    k: int
    a: Attribute
    b: Attribute
    out: Attribute
    transpose_b: bool


def matmul_of(op: Operation) -> Matmul:
    """The matmul that a layer op is."""
    match op:
        case layer.MatmulOp():
            *rows, k = ints(op.x)
            dims = (1, prod(rows), ints(op.w)[1], k)
            transposed = False
        case layer.GroupedMatmulOp():
            experts, capacity, k = ints(op.x)
            dims = (experts, capacity, ints(op.w)[2], k)
            transposed = False
        case layer.HeadMatmulOp():
            rank, group = ints(op.w)[0], op.group.value.data
            transposed = bool(op.transpose)
            n, k = (rank, group) if transposed else (group, rank)
            dims = (ints(op.w)[1] // group, ints(op.x)[0], n, k)
        case _:
            raise TypeError(f"{op.name} is no matmul")
    groups, m, n, k = dims
    types = [tensor(v).element_type for v in (op.x, op.w, op.y)]
    return Matmul(groups, m, n, k, types[0], types[1], types[2], transposed)


class MatmulFamily:
    """`layer.matmul`, `layer.grouped_matmul` and `layer.head_matmul`."""

    def plan(self, op: Operation, chip: Chip, planner: TilePlanner) -> PlanAttr:
        """The fastest plan."""
        return planner.matmul(matmul_shape(op))

    def fault(self, op: Operation, plan: PlanAttr, chip: Chip) -> str | None:
        """What is wrong with a plan."""
        return plan_fault(matmul_shape(op), plan, chip)

    def lower(self, op: Operation, plan: PlanAttr, arrays: Arrays, chip: Chip) -> KernelOp:
        """The loops in plan order, then the merge of partial sums where cores share k."""
        return _Kernel(op, matmul_of(op), plan, arrays, chip).kernel()


def _operands(op: Operation, mm: Matmul, arrays: Arrays) -> tuple[Array, Array, Array]:
    """x, w and y as matrices, with a group dim in front (experts) or in the middle (heads)."""
    match op:
        case layer.MatmulOp():
            return (
                arrays.array(op.x, mm.m, mm.k),
                arrays.array(op.w, mm.k, mm.n),
                arrays.result(op.y, mm.m, mm.n),
            )
        case layer.GroupedMatmulOp():
            return (
                arrays.array(op.x, mm.groups, mm.m, mm.k),
                arrays.array(op.w, mm.groups, mm.k, mm.n),
                arrays.result(op.y, mm.groups, mm.m, mm.n),
            )
        case layer.HeadMatmulOp():
            rank, group = (mm.n, mm.k) if mm.transpose_b else (mm.k, mm.n)
            return (
                arrays.array(op.x, mm.m, mm.groups, mm.k),
                arrays.array(op.w, rank, mm.groups, group),
                arrays.result(op.y, mm.m, mm.groups, mm.n),
            )
        case _:
            raise TypeError(f"{op.name} is no matmul")


class _Kernel:
    """One kernel under construction: the operands, the parts of this core, and the code."""

    def __init__(self, op: Operation, mm: Matmul, plan: PlanAttr, arrays: Arrays, chip: Chip) -> None:
        self.mm, self.plan = mm, plan
        self.group_dim = 1 if isinstance(op, layer.HeadMatmulOp) else None
        if isinstance(op, layer.GroupedMatmulOp):
            self.group_dim = 0
        self.x, w, self.y = _operands(op, mm, arrays)
        # A weight that is the transpose of a stored one is read as it is stored.
        stored_transposed = self.group_dim is None and w.steps[0] == 1 and w.dims[0] > 1
        self.w = w.transposed() if stored_transposed else w
        self.transpose_b = mm.transpose_b or stored_transposed
        self.tile_m, self.tile_n, self.tile_k = plan.tile_sizes
        cores_g, cores_m, cores_n, cores_k = plan.core_counts
        cube = chip.cube
        self.groups = Split.over(mm.groups, cores_g, 1)
        self.rows = Split.over(mm.m, cores_m, self.tile_m, cube.m)
        self.columns = Split.over(mm.n, cores_n, self.tile_n, cube.n)
        shape = matmul_shape(op)
        granule = cube_k(chip, shape.dtype)
        self.depth = Split.over(mm.k, cores_k, self.tile_k, granule)
        self.parts = (self.groups.parts, self.rows.parts, self.columns.parts, self.depth.parts)
        self.core_g, self.core_m, self.core_n, self.core_k = core_coordinates(self.parts)
        self.code: KernelCode = arrays.code(op, plan)
        self.merges = self.depth.parts > 1
        self.scratch: Array | None = None
        """Partial sums [k part, group, row, column] in DRAM."""
        for dims in scratch_dims(shape, plan, chip):
            self.scratch = arrays.scratch(op, dims, f32)

    def kernel(self) -> KernelOp:
        """The whole kernel."""
        acc: SSAValue | None = None
        with self.code.loop("g", self.groups.length(self.core_g)) as gi:
            g = self.groups.start(self.core_g, gi)
            match self.plan.order.data:
                case "gmnk":
                    acc = self.k_innermost(g)
                case "gnkm":
                    self.m_innermost(g)
                case _:
                    self.n_innermost(g)
        if self.merges:
            self.merge(acc)
        return self.code.kernel(prod(self.parts))

    # -- loops --------------------------------------------------------------------------------------------------

    def k_innermost(self, g: Expr) -> SSAValue:
        """Partial sums stay in LMEM; gives the last accumulator."""
        code = self.code
        with code.loop("m", self.rows.trips(self.core_m)) as mi, code.loop("n", self.columns.trips(self.core_n)) as ni:
            acc = code.alloc(self.tile_m, self.tile_n, f32)
            with code.loop("k", self.depth.trips(self.core_k)) as ki:
                a, b = self.load_a(g, mi, ki), self.load_b(g, ni, ki)
                self.multiply(acc, a, b, mi, ni, ki)
            self.finish(acc, g, mi, ni)
        return acc

    def m_innermost(self, g: Expr) -> None:
        """A tile of B stays while m runs."""
        code = self.code
        with code.loop("n", self.columns.trips(self.core_n)) as ni, code.loop("k", self.depth.trips(self.core_k)) as ki:
            b = self.load_b(g, ni, ki)
            with code.loop("m", self.rows.trips(self.core_m)) as mi:
                self.step(self.load_a(g, mi, ki), b, g, mi, ni, ki)

    def n_innermost(self, g: Expr) -> None:
        """A tile of A stays while n runs."""
        code = self.code
        with code.loop("m", self.rows.trips(self.core_m)) as mi, code.loop("k", self.depth.trips(self.core_k)) as ki:
            a = self.load_a(g, mi, ki)
            with code.loop("n", self.columns.trips(self.core_n)) as ni:
                self.step(a, self.load_b(g, ni, ki), g, mi, ni, ki)

    def step(self, a: SSAValue, b: SSAValue, g: Expr, mi: Expr, ni: Expr, ki: Expr) -> None:
        """One product where k is outside of m or n: partial sums of more than one step go to DRAM and come back."""
        code, trips = self.code, self.depth.trips(self.core_k)
        acc = code.alloc(self.tile_m, self.tile_n, f32)
        if self.depth.max_trips == 1:
            self.multiply(acc, a, b, mi, ni, ki)
            self.finish(acc, g, mi, ni)
            return
        assert self.scratch is not None
        partial = self.partial_block(g, mi, ni)
        with code.loop("again", min_of(ki, 1)):
            code.load(self.scratch, acc, *partial)
        self.multiply(acc, a, b, mi, ni, ki)
        if self.merges:
            code.store(self.scratch, acc, *partial, at_once=True)
            return
        out = self.result_buffer()
        with code.loop("partial", min_of(1, trips - ki - 1)):
            code.store(self.scratch, acc, *partial, at_once=True)
        with code.loop("done", max_of(ki - trips + 2, 0)):
            self.store_result(acc, out, g, mi, ni, at_once=True)

    # -- commands -----------------------------------------------------------------------------------------------

    def load_a(self, g: Expr, mi: Expr, ki: Expr) -> SSAValue:
        """A block of A, which all cores along n need."""
        buffer = self.code.alloc(self.tile_m, self.tile_k, self.mm.a)
        (m, height), (k, depth) = self.row_range(mi), self.depth_range(ki)
        self.code.load(self.x, buffer, self.block(g, m, k), self.block(1, height, depth), self.serves("a", 2))
        return buffer

    def load_b(self, g: Expr, ni: Expr, ki: Expr) -> SSAValue:
        """A block of B, which all cores along m need."""
        (n, width), (k, depth) = self.column_range(ni), self.depth_range(ki)
        if self.transpose_b:
            buffer = self.code.alloc(self.tile_n, self.tile_k, self.mm.b)
            at, size = self.block(g, n, k), self.block(1, width, depth)
        else:
            buffer = self.code.alloc(self.tile_k, self.tile_n, self.mm.b)
            at, size = self.block(g, k, n), self.block(1, depth, width)
        self.code.load(self.w, buffer, at, size, self.serves("b", 1))
        return buffer

    def multiply(self, acc: SSAValue, a: SSAValue, b: SSAValue, mi: Expr, ni: Expr, ki: Expr) -> None:
        """acc (+)= a b; the first step along k of a core starts anew."""
        size = (self.row_range(mi)[1], self.column_range(ni)[1], self.depth_range(ki)[1])
        self.code.mma(acc, a, b, size, accumulate=ki, transpose_b=self.transpose_b)

    def finish(self, acc: SSAValue, g: Expr, mi: Expr, ni: Expr) -> None:
        """Store a finished tile: the result, or the partial sum of this core."""
        if not self.merges:
            self.store_result(acc, self.result_buffer(), g, mi, ni)
        elif self.scratch is not None:
            self.code.store(self.scratch, acc, *self.partial_block(g, mi, ni))

    def result_buffer(self) -> SSAValue | None:
        """Where a tile is converted, None for a result in the type of the accumulator."""
        return None if self.mm.out == f32 else self.code.alloc(self.tile_m, self.tile_n, self.mm.out)

    def store_result(
        self, acc: SSAValue, out: SSAValue | None, g: Expr, mi: Expr, ni: Expr, at_once: bool = False
    ) -> None:
        """Convert a tile and store it."""
        (m, height), (n, width) = self.row_range(mi), self.column_range(ni)
        if out is not None:
            self.code.vector(ConvertAttr(), height, width, [acc], [out])
        self.code.store(self.y, out or acc, self.block(g, m, n), self.block(1, height, width), at_once)

    def merge(self, acc: SSAValue | None) -> None:
        """After a barrier every core adds up its share of the rows of a chunk over the cores along k."""
        code, parts = self.code, self.depth.parts
        share = -(-min(self.rows.chunk, self.mm.m) // parts)
        tile = min(share, -(-min(self.tile_m, self.rows.chunk, self.mm.m) // parts))
        own = max_of(min_of(share, self.rows.length(self.core_m) - self.core_k * share), 0)
        code.barrier()
        with (
            code.loop("g", self.groups.length(self.core_g)) as gi,
            code.loop("n", self.columns.trips(self.core_n)) as ni,
            code.loop("r", ceildiv(own, tile)) as ri,
        ):
            g, first = self.groups.start(self.core_g, gi), self.core_k * share + ri * tile
            row = self.core_m * self.rows.chunk + first
            height = own if share == tile else min_of(tile, own - ri * tile)
            column, width = self.column_range(ni)
            found = code.alloc(parts * tile, self.tile_n, f32, slots=1)
            if self.scratch is not None:
                code.load(self.scratch, found, (0, g, row, column), (parts, 1, height, width))
            else:
                assert acc is not None, "sums that stay in LMEM have k innermost"
                with code.loop("p", parts) as p:
                    code.fetch(acc, found, expr(CORE) - self.core_k + p, first, p * height, (height, width))
            out = code.alloc(tile, self.tile_n, self.mm.out, slots=1)
            code.vector(SumPartsAttr(IntegerAttr(parts, i64)), height, width, [found], [out])
            code.store(self.y, out, self.block(g, row, column), self.block(1, height, width))

    # -- where things are ---------------------------------------------------------------------------------------

    def row_range(self, mi: Expr) -> tuple[Expr, Expr]:
        """First row and rows of a tile."""
        return self.rows.start(self.core_m, mi), self.rows.size(self.core_m, mi)

    def column_range(self, ni: Expr) -> tuple[Expr, Expr]:
        """First column and columns of a tile."""
        return self.columns.start(self.core_n, ni), self.columns.size(self.core_n, ni)

    def depth_range(self, ki: Expr) -> tuple[Expr, Expr]:
        """Start and length of a step along k."""
        return self.depth.start(self.core_k, ki), self.depth.size(self.core_k, ki)

    def block(self, g: Expr | int, first: Expr | int, second: Expr | int) -> list[Expr | int]:
        """Offsets or sizes of a block [first, second] of group g."""
        both: list[Expr | int] = [first, second]
        return both if self.group_dim is None else [*both[: self.group_dim], g, *both[self.group_dim :]]

    def partial_block(self, g: Expr, mi: Expr, ni: Expr) -> tuple[list[Expr], list[Expr]]:
        """Offsets and sizes of the partial sum of this core in DRAM."""
        (m, height), (n, width) = self.row_range(mi), self.column_range(ni)
        return [self.core_k, g, m, n], [expr(1), expr(1), height, width]

    def serves(self, operand: str, dim: int) -> CoresAttr | None:
        """The cores along a dim of the grid, where one read of the operand serves them all."""
        return cores_along(self.parts, dim) if self.plan.multicasts(operand) else None
