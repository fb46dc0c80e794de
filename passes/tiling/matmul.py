"""Matmuls, alone or in groups (experts, heads): partition over cores and tiles with K innermost.

A plan has cores [g, m, n], tile [m, n, k] and the order `gmnk` or `gnmk`.  Core c is (g, m, n) = c in row-major order;
each core computes a contiguous block of rows and columns of its groups.  When K is one tile, the operand of the outer
of the two loops m, n is loaded once and stays while the inner loop runs.
"""

from __future__ import annotations

from dataclasses import dataclass
from functools import lru_cache

import numpy as np
from xdsl.dialects.builtin import f32
from xdsl.ir import Attribute, Operation, SSAValue

from pmc.dialects import layer
from pmc.dialects.expr import Expr, expr
from pmc.dialects.interfaces import MATMUL_ORDERS, IntArray, MatmulPlans, MatmulShape
from pmc.dialects.tensor import element_bits, element_name, tensor
from pmc.dialects.tile import KernelOp, PlanAttr
from pmc.dialects.vector_kinds import ConvertAttr
from pmc.passes.tiling.arrays import Array
from pmc.passes.tiling.code import path_of
from pmc.passes.tiling.kernels import Arrays
from pmc.passes.tiling.split import Split, core_coordinates, round_up
from pmc.passes.tiling.target import Target, does_not_fit

TILE_STEPS = (1, 2, 3, 4, 6, 8, 12, 16, 24, 32, 48, 64, 96, 128, 192, 256)
"""Tile sizes tried, in units of the cube; the whole dim is tried as well."""


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

    @property
    def shape(self) -> MatmulShape:
        """What a cost model needs to know."""
        bits = [element_bits(t) for t in (self.a, self.b, self.out)]
        return MatmulShape(self.groups, self.m, self.n, self.k, bits[0], bits[1], bits[2], element_name(self.a))


def matmul_of(op: Operation) -> Matmul:
    """The matmul that a layer op is."""
    match op:
        case layer.MatmulOp():
            x, w, y = op.x, op.w, op.y
            *rows, k = ints(x)
            dims = (1, int(np.prod(rows)), ints(w)[1], k)
            transposed = False
        case layer.GroupedMatmulOp():
            x, w, y = op.x, op.w, op.y
            experts, capacity, k = ints(x)
            dims = (experts, capacity, ints(w)[2], k)
            transposed = False
        case layer.HeadMatmulOp():
            x, w, y = op.x, op.w, op.y
            rank, group = ints(w)[0], op.group.value.data
            transposed = bool(op.transpose)
            n, k = (rank, group) if transposed else (group, rank)
            dims = (ints(w)[1] // group, ints(x)[0], n, k)
        case _:
            raise TypeError(f"{op.name} is no matmul")
    groups, m, n, k = dims
    types = [tensor(v).element_type for v in (x, w, y)]
    return Matmul(groups, m, n, k, types[0], types[1], types[2], transposed)


def ints(value: SSAValue) -> tuple[int, ...]:
    """The dims of a tensor whose symbols are bound."""
    return tuple(d.constant for d in tensor(value).dims)


# -- plans ------------------------------------------------------------------------------------------------------


class MatmulFamily:
    """`layer.matmul`, `layer.grouped_matmul` and `layer.head_matmul`."""

    def plan(self, op: Operation, target: Target) -> PlanAttr:
        """The candidate of least time, then of fewest commands."""
        mm = matmul_of(op)
        plans = candidates(mm, target)
        need = lmem_bytes(mm, plans, target)
        fits = need <= target.budget
        if not fits.any():
            least = int(need.argmin())
            tile = f"{plans.tile_m[least]} x {plans.tile_n[least]} x {plans.tile_k[least]}"
            raise does_not_fit(op.name, path_of(op), int(need[least]), target.budget, tile)
        plans = _take(plans, np.flatnonzero(fits))
        seconds = target.model.matmul_seconds(mm.shape, plans)
        trips = -(-plans.chunk_m // plans.tile_m) * -(-plans.chunk_n // plans.tile_n) * -(-mm.k // plans.tile_k)
        # Times that differ by rounding only are equal; then fewer commands and fewer cores win.
        best = int(np.lexsort((plans.cores_g * plans.cores_m * plans.cores_n, trips, np.round(seconds * 1e12)))[0])
        cores = (plans.cores_g[best], plans.cores_m[best], plans.cores_n[best])
        sizes = (plans.tile_m[best], plans.tile_n[best], plans.tile_k[best])
        return PlanAttr.of([int(c) for c in cores], [int(t) for t in sizes], MATMUL_ORDERS[int(plans.order[best])])

    def lower(self, op: Operation, plan: PlanAttr, arrays: Arrays, target: Target) -> KernelOp:
        """Loops g, m, n in plan order around a loop k that accumulates in one FP32 buffer."""
        return _lower(op, matmul_of(op), plan, arrays, target)


def candidates(mm: Matmul, target: Target) -> MatmulPlans:
    """All combinations of core partitions, tile sizes and orders; chunks are multiples of the cube."""
    cube, cube_k = target.chip.cube, target.cube_k(mm.a)
    columns: list[IntArray] = []
    for g, m, n in _partitions(mm.groups, mm.m, mm.n, target.chip.cores, cube.m, cube.n):
        tiles_m, tiles_n = _tiles(min(m.chunk, mm.m), cube.m), _tiles(min(n.chunk, mm.n), cube.n)
        grid = np.meshgrid(tiles_m, tiles_n, _tiles(mm.k, cube_k), range(len(MATMUL_ORDERS)), indexing="ij")
        fixed = (g.parts, m.parts, n.parts, min(g.chunk, mm.groups), min(m.chunk, mm.m), min(n.chunk, mm.n))
        tiles = np.stack([axis.ravel() for axis in grid])
        columns.append(np.concatenate([np.repeat(np.array(fixed)[:, None], tiles.shape[1], axis=1), tiles]))
    return MatmulPlans(*np.concatenate(columns, axis=1).astype(np.int64))


@lru_cache(maxsize=4096)
def _partitions(
    groups: int, m: int, n: int, cores: int, cube_m: int, cube_n: int
) -> tuple[tuple[Split, Split, Split], ...]:
    found: dict[tuple[int, int, int], tuple[Split, Split, Split]] = {}
    for g in _shares(groups, cores):
        for p in _shares(-(-m // cube_m), cores // g.parts):
            rows = Split.over(m, p.parts, 1, cube_m)
            columns = Split.over(n, cores // (g.parts * rows.parts), 1, cube_n)
            found[(g.parts, rows.parts, columns.parts)] = (g, rows, columns)
    return tuple(found.values())


def _shares(total: int, cores: int) -> list[Split]:
    """Splits into 1, 2, 4, .. and the largest number of chunks."""
    powers = {1 << i for i in range(cores.bit_length())} | {cores, min(total, cores)}
    return list({s.parts: s for s in (Split.over(total, p, 1) for p in sorted(powers) if p <= cores)}.values())


@lru_cache(maxsize=4096)
def _tiles(total: int, cube: int) -> tuple[int, ...]:
    whole = round_up(total, cube)
    return tuple(sorted({cube * s for s in TILE_STEPS if cube * s < whole} | {whole}))


def _take(plans: MatmulPlans, index: IntArray) -> MatmulPlans:
    return MatmulPlans(*(column[index] for column in vars(plans).values()))


def lmem_bytes(mm: Matmul, plans: MatmulPlans, target: Target) -> IntArray:
    """The LMEM that the kernel's buffers take, exactly as `lower` allocates them."""
    step = target.chip.alignment_bytes

    def size(rows: IntArray, columns: IntArray, element: Attribute) -> IntArray:
        return -(-(rows * columns * element_bits(element)) // (8 * step)) * step

    trips = {
        "g": plans.chunk_g,
        "m": -(-plans.chunk_m // plans.tile_m),
        "n": -(-plans.chunk_n // plans.tile_n),
        "k": -(-mm.k // plans.tile_k),
    }
    whole_k, row_outer = trips["k"] == 1, plans.order == 0
    around_mn = trips["g"] * trips["m"] * trips["n"] > 1
    around_m = np.where(row_outer, trips["g"] * trips["m"] > 1, around_mn)
    around_n = np.where(row_outer, around_mn, trips["g"] * trips["n"] > 1)
    a_slots = 1 + np.where(whole_k, around_m, True)
    b_slots = 1 + np.where(whole_k, around_n, True)
    c_slots = 1 + around_mn
    a, b = a_slots * size(plans.tile_m, plans.tile_k, mm.a), b_slots * size(plans.tile_n, plans.tile_k, mm.b)
    c = c_slots * size(plans.tile_m, plans.tile_n, f32)
    out = c_slots * size(plans.tile_m, plans.tile_n, mm.out) if mm.out != f32 else 0
    return np.asarray(a + b + c + out, np.int64)


# -- the kernel -------------------------------------------------------------------------------------------------


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


def _lower(op: Operation, mm: Matmul, plan: PlanAttr, arrays: Arrays, target: Target) -> KernelOp:
    group_dim = 0 if isinstance(op, layer.GroupedMatmulOp) else 1 if isinstance(op, layer.HeadMatmulOp) else None
    x, w, y = _operands(op, mm, arrays)
    # A weight that is the transpose of a stored one is read as it is stored.
    stored_transposed = group_dim is None and w.steps[0] == 1 and w.dims[0] > 1
    w = w.transposed() if stored_transposed else w
    transpose_b = mm.transpose_b or stored_transposed
    tile_m, tile_n, tile_k = plan.tile_sizes
    cores_g, cores_m, cores_n = plan.core_counts

    def block(g: Expr | int, first: Expr | int, second: Expr | int) -> list[Expr | int]:
        """Offsets or sizes of a block [first, second] of group g."""
        both: list[Expr | int] = [first, second]
        return both if group_dim is None else [*both[:group_dim], g, *both[group_dim:]]

    groups = Split.over(mm.groups, cores_g, 1)
    rows = Split.over(mm.m, cores_m, tile_m, target.chip.cube.m)
    columns = Split.over(mm.n, cores_n, tile_n, target.chip.cube.n)
    core_g, core_m, core_n = core_coordinates((groups.parts, rows.parts, columns.parts))
    code = arrays.code(op)
    depth = Split(mm.k, round_up(mm.k, tile_k), tile_k)
    whole_k = depth.max_trips == 1
    row_outer = plan.order.data == MATMUL_ORDERS[0]

    with code.loop("g", groups.length(core_g)) as gi:
        g = groups.start(core_g, gi)
        outer, inner = ("m", "n") if row_outer else ("n", "m")
        trips = {"m": rows.trips(core_m), "n": columns.trips(core_n)}
        index: dict[str, Expr] = {}

        def load_a(ki: Expr) -> SSAValue:
            size = depth.size(expr(0), ki)
            buffer = code.alloc(tile_m, tile_k, mm.a)
            m = (rows.start(core_m, index["m"]), rows.size(core_m, index["m"]))
            code.load(x, buffer, block(g, m[0], ki * tile_k), block(1, m[1], size))
            return buffer

        def load_b(ki: Expr) -> SSAValue:
            size = depth.size(expr(0), ki)
            n = (columns.start(core_n, index["n"]), columns.size(core_n, index["n"]))
            if transpose_b:
                buffer = code.alloc(tile_n, tile_k, mm.b)
                code.load(w, buffer, block(g, n[0], ki * tile_k), block(1, n[1], size))
            else:
                buffer = code.alloc(tile_k, tile_n, mm.b)
                code.load(w, buffer, block(g, ki * tile_k, n[0]), block(1, size, n[1]))
            return buffer

        with code.loop(outer, trips[outer]) as oi:
            index[outer] = oi
            stationary = (load_a if row_outer else load_b)(expr(0)) if whole_k else None
            with code.loop(inner, trips[inner]) as ii:
                index[inner] = ii
                m_size, n_size = rows.size(core_m, index["m"]), columns.size(core_n, index["n"])
                acc = code.alloc(tile_m, tile_n, f32)
                with code.loop("k", depth.max_trips) as ki:
                    a = stationary if stationary is not None and row_outer else load_a(ki)
                    b = stationary if stationary is not None and not row_outer else load_b(ki)
                    size = (m_size, n_size, depth.size(expr(0), ki))
                    code.mma(acc, a, b, size, accumulate=ki, transpose_b=transpose_b)
                done = acc
                if mm.out != f32:
                    done = code.alloc(tile_m, tile_n, mm.out)
                    code.vector(ConvertAttr(), m_size, n_size, [acc], [done])
                offsets = block(g, rows.start(core_m, index["m"]), columns.start(core_n, index["n"]))
                code.store(y, done, offsets, block(1, m_size, n_size))
    return code.kernel(groups.parts * rows.parts * columns.parts)
