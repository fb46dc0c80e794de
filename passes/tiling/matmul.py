"""The kernels of matmuls, alone or in groups (experts, heads), under any plan of `analyses/matmul_tiling.py`.

A gated matmul is two products of one A in one kernel: two blocks of B and two sums for every tile, of which one vector
command makes the result.
"""

from __future__ import annotations

from collections.abc import Sequence
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
from pmc.dialects.vector_kinds import ConvertAttr, SiluMulAttr, SumPartsAttr
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
    gated: bool = False
    """Whether there are two w, and the result is silu(x w) * (x w')."""


def matmul_of(op: Operation) -> Matmul:
    """The matmul that a layer op is."""
    weight = op.operands[1]
    match op:
        case layer.MatmulOp():
            *rows, k = ints(op.x)
            dims = (1, prod(rows), ints(op.w)[1], k)
            transposed = False
        case layer.GatedMatmulOp():
            *rows, k = ints(op.x)
            experts = rows.pop(0) if op.is_grouped else 1
            dims = (experts, prod(rows), ints(op.gate)[-1], k)
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
    types = [tensor(v).element_type for v in (op.x, weight, op.y)]
    return Matmul(groups, m, n, k, types[0], types[1], types[2], transposed, isinstance(op, layer.GatedMatmulOp))


class MatmulFamily:
    """`layer.matmul`, `layer.grouped_matmul`, `layer.gated_matmul` and `layer.head_matmul`."""

    def plan(self, op: Operation, chip: Chip, planner: TilePlanner) -> PlanAttr:
        """The fastest plan."""
        return planner.matmul(matmul_shape(op))

    def fault(self, op: Operation, plan: PlanAttr, chip: Chip) -> str | None:
        """What is wrong with a plan."""
        return plan_fault(matmul_shape(op), plan, chip)

    def lower(self, op: Operation, plan: PlanAttr, arrays: Arrays, chip: Chip) -> KernelOp:
        """The loops in plan order, then the merge of partial sums where cores share k."""
        return _Kernel(op, matmul_of(op), plan, arrays, chip).kernel()


def _operands(op: Operation, mm: Matmul, arrays: Arrays) -> tuple[Array, list[Array], Array]:
    """x, every w, and y as matrices, with a group dim in front (experts) or in the middle (heads)."""
    match op:
        case layer.MatmulOp() | layer.GroupedMatmulOp() | layer.GatedMatmulOp():
            groups = (mm.groups,) if _is_grouped(op) else ()
            x, *weights = op.operands
            return (
                arrays.array(x, *groups, mm.m, mm.k),
                [arrays.array(w, *groups, mm.k, mm.n) for w in weights],
                arrays.result(op.y, *groups, mm.m, mm.n),
            )
        case layer.HeadMatmulOp():
            rank, group = (mm.n, mm.k) if mm.transpose_b else (mm.k, mm.n)
            return (
                arrays.array(op.x, mm.m, mm.groups, mm.k),
                [arrays.array(op.w, rank, mm.groups, group)],
                arrays.result(op.y, mm.m, mm.groups, mm.n),
            )
        case _:
            raise TypeError(f"{op.name} is no matmul")


def _is_grouped(op: Operation) -> bool:
    """Whether the groups are experts, each with matrices of its own."""
    return isinstance(op, layer.GroupedMatmulOp) or (isinstance(op, layer.GatedMatmulOp) and op.is_grouped)


class _Kernel:
    """One kernel under construction: the operands, the parts of this core, and the code."""

    def __init__(self, op: Operation, mm: Matmul, plan: PlanAttr, arrays: Arrays, chip: Chip) -> None:
        self.mm, self.plan = mm, plan
        self.group_dim = 1 if isinstance(op, layer.HeadMatmulOp) else None
        if _is_grouped(op):
            self.group_dim = 0
        self.x, weights, self.y = _operands(op, mm, arrays)
        # A weight that is the transpose of a stored one is read as it is stored.
        stored_transposed = self.group_dim is None and all(w.steps[0] == 1 and w.dims[0] > 1 for w in weights)
        self.weights = [w.transposed() for w in weights] if stored_transposed else weights
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
        self.scratch = [arrays.scratch(op, dims, f32) for dims in scratch_dims(shape, plan, chip)]
        """Partial sums [k part, group, row, column] of each product in DRAM, where the plan has them."""

    def kernel(self) -> KernelOp:
        """The whole kernel."""
        sums: Sequence[SSAValue] = ()
        with self.code.loop("g", self.groups.length(self.core_g)) as gi:
            g = self.groups.start(self.core_g, gi)
            match self.plan.order.data:
                case "gmnk":
                    sums = self.k_innermost(g)
                case "gnkm":
                    self.m_innermost(g)
                case _:
                    self.n_innermost(g)
        if self.merges:
            self.merge(sums)
        return self.code.kernel(prod(self.parts))

    # -- loops --------------------------------------------------------------------------------------------------

    def k_innermost(self, g: Expr) -> Sequence[SSAValue]:
        """Partial sums stay in LMEM; gives the last accumulators."""
        code = self.code
        with code.loop("m", self.rows.trips(self.core_m)) as mi, code.loop("n", self.columns.trips(self.core_n)) as ni:
            sums = self.accumulators()
            with code.loop("k", self.depth.trips(self.core_k)) as ki:
                a, b = self.load_a(g, mi, ki), self.load_b(g, ni, ki)
                self.multiply(sums, a, b, mi, ni, ki)
            self.finish(sums, g, mi, ni)
        return sums

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

    def step(self, a: SSAValue, b: Sequence[SSAValue], g: Expr, mi: Expr, ni: Expr, ki: Expr) -> None:
        """One product where k is outside of m or n: partial sums of more than one step go to DRAM and come back."""
        code, trips = self.code, self.depth.trips(self.core_k)
        sums = self.accumulators()
        if self.depth.max_trips == 1:
            self.multiply(sums, a, b, mi, ni, ki)
            self.finish(sums, g, mi, ni)
            return
        assert self.scratch, "partial sums that leave LMEM have an array"
        with code.loop("again", min_of(ki, 1)):
            for array, acc in zip(self.scratch, sums, strict=True):
                code.load(array, acc, *self.partial_block(g, mi, ni))
        self.multiply(sums, a, b, mi, ni, ki)
        if self.merges:
            self.store_partial(sums, g, mi, ni, at_once=True)
            return
        out = self.result_buffer()
        with code.loop("partial", min_of(1, trips - ki - 1)):
            self.store_partial(sums, g, mi, ni, at_once=True)
        with code.loop("done", max_of(ki - trips + 2, 0)):
            self.store_result(sums, out, g, mi, ni, at_once=True)

    # -- commands -----------------------------------------------------------------------------------------------

    def load_a(self, g: Expr, mi: Expr, ki: Expr) -> SSAValue:
        """A block of A, which all cores along n need."""
        buffer = self.code.alloc(self.tile_m, self.tile_k, self.mm.a)
        (m, height), (k, depth) = self.row_range(mi), self.depth_range(ki)
        self.code.load(self.x, buffer, self.block(g, m, k), self.block(1, height, depth), self.serves("a", 2))
        return buffer

    def load_b(self, g: Expr, ni: Expr, ki: Expr) -> Sequence[SSAValue]:
        """A block of every B, which all cores along m need."""
        (n, width), (k, depth) = self.column_range(ni), self.depth_range(ki)
        shape = (self.tile_n, self.tile_k) if self.transpose_b else (self.tile_k, self.tile_n)
        at, size = self.block(g, k, n), self.block(1, depth, width)
        if self.transpose_b:
            at, size = self.block(g, n, k), self.block(1, width, depth)
        buffers: list[SSAValue] = []
        for weight in self.weights:
            buffers.append(self.code.alloc(*shape, self.mm.b))
            self.code.load(weight, buffers[-1], at, size, self.serves("b", 1))
        return buffers

    def accumulators(self) -> Sequence[SSAValue]:
        """The sums of every product."""
        return [self.code.alloc(self.tile_m, self.tile_n, f32) for _ in self.weights]

    def multiply(
        self, sums: Sequence[SSAValue], a: SSAValue, b: Sequence[SSAValue], mi: Expr, ni: Expr, ki: Expr
    ) -> None:
        """sum (+)= a b for every B; the first step along k of a core starts anew."""
        size = (self.row_range(mi)[1], self.column_range(ni)[1], self.depth_range(ki)[1])
        for acc, block in zip(sums, b, strict=True):
            self.code.mma(acc, a, block, size, accumulate=ki, transpose_b=self.transpose_b)

    def finish(self, sums: Sequence[SSAValue], g: Expr, mi: Expr, ni: Expr) -> None:
        """Store a finished tile: the result, or the partial sums of this core."""
        if not self.merges:
            self.store_result(sums, self.result_buffer(), g, mi, ni)
        elif self.scratch:
            self.store_partial(sums, g, mi, ni)

    def store_partial(self, sums: Sequence[SSAValue], g: Expr, mi: Expr, ni: Expr, at_once: bool = False) -> None:
        """Store the partial sums of this core."""
        for array, acc in zip(self.scratch, sums, strict=True):
            self.code.store(array, acc, *self.partial_block(g, mi, ni), at_once=at_once)

    def result_buffer(self) -> SSAValue | None:
        """Where the result of a tile is computed; None for a sum that is the result as it is."""
        if self.mm.out == f32 and not self.mm.gated:
            return None
        return self.code.alloc(self.tile_m, self.tile_n, self.mm.out)

    def store_result(
        self, sums: Sequence[SSAValue], out: SSAValue | None, g: Expr, mi: Expr, ni: Expr, at_once: bool = False
    ) -> None:
        """Compute the result of a tile and store it."""
        (m, height), (n, width) = self.row_range(mi), self.column_range(ni)
        if out is not None:
            kind = SiluMulAttr() if self.mm.gated else ConvertAttr()
            self.code.vector(kind, height, width, sums, [out])
        self.code.store(self.y, out or sums[0], self.block(g, m, n), self.block(1, height, width), at_once)

    def merge(self, sums: Sequence[SSAValue]) -> None:
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
            found = [code.alloc(parts * tile, self.tile_n, f32, slots=1) for _ in self.weights]
            for array, buffer in zip(self.scratch, found, strict=False):
                code.load(array, buffer, (0, g, row, column), (parts, 1, height, width))
            if not self.scratch:
                assert sums, "sums that stay in LMEM have k innermost"
                with code.loop("p", parts) as p:
                    for acc, buffer in zip(sums, found, strict=True):
                        code.fetch(acc, buffer, expr(CORE) - self.core_k + p, first, p * height, (height, width))
            out = code.alloc(tile, self.tile_n, self.mm.out, slots=1)
            added = [code.alloc(tile, self.tile_n, f32, slots=1) for _ in self.weights] if self.mm.gated else [out]
            for buffer, total in zip(found, added, strict=True):
                code.vector(SumPartsAttr(IntegerAttr(parts, i64)), height, width, [buffer], [total])
            if self.mm.gated:
                code.vector(SiluMulAttr(), height, width, added, [out])
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
