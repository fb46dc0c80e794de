"""The tilings of a matmul: which are legal, what LMEM they take, and what they ask of every engine.

`groups` independent products [m, k] x [k, n] are cut over a grid of cores [g, m, n, k] into chunks, a chunk into tiles
[m, n, k].  The loop order says what is loaded again (`INNERMOST` names the loop that runs inside the two others):

    gmnk   k innermost   A once per column tile, B once per row tile; partial sums stay in LMEM
    gnkm   m innermost   a tile of B stays while m runs; A once per column tile
    gmkn   n innermost   a tile of A stays while n runs; B once per row tile

Where K is several tiles and not innermost, partial sums go to DRAM and back.  Where K is cut over cores, every core has
a partial sum of its whole chunk; after a barrier each core of the group adds up its share of the rows, which it takes
from the LMEM of the others (`sdma`, for a chunk of one result tile) or from DRAM (`dram`).

All counts are exact, edges included: they are those of the loops that `lower-to-tiles` writes.  Entry i of every
array belongs to tiling i; the busiest core is core 0, which has a full chunk along every dim.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, fields, replace
from typing import Any, Self

import numpy as np
import numpy.typing as npt

from pmc.dialects.analyses.resources import ACCUMULATOR_BITS, Resources, bytes_of, ceil_div, padded, round_up
from pmc.dialects.arch import Chip
from pmc.dialects.interfaces import IntArray
from pmc.dialects.tile_plan import MERGES, PlanAttr
from pmc.dialects.vector_kinds import ConvertAttr, SiluMulAttr

ORDERS = ("gmnk", "gnkm", "gmkn")
"""Loop orders from the outside in."""

NONE, SDMA, DRAM = range(3)
K_INNER, M_INNER, N_INNER = range(3)


DEQUANTIZE_STEPS = 2
"""Vector steps of a code that becomes a number, or of a sum that takes a scale: convert, multiply."""


@dataclass(frozen=True)
class WeightStorage:
    """How B is stored where the matrix unit does not take it as it is."""

    scale_bits: float = 0.0
    """Bits of scales for each element."""
    widened_bits: int = 0
    """Bits of an element after the vector unit has made a number of it; 0 where it does not."""
    group: int = 0
    """Elements of the contraction whose sum takes a scale; 0 where sums take none."""


PLAIN = WeightStorage()
"""Elements that the matrix unit takes as they are."""


@dataclass(frozen=True)
class MatmulShape:
    """`groups` independent products [m, k] x [k, n] of one rank; types by their MLIR name."""

    groups: int
    m: int
    n: int
    k: int
    a_bits: int
    b_bits: int
    out_bits: int
    dtype: str
    """The element type that sets the rate."""
    converts: bool
    """Whether the result is stored in another type than the FP32 of the accumulator."""
    storage: WeightStorage = PLAIN
    gated: bool = False
    """Whether there are two B, and the result is silu(A B) * (A B'): each core has both for the columns that it has."""

    @property
    def products(self) -> int:
        """How many products there are of every A: as many blocks of B and sums are in LMEM."""
        return 2 if self.gated else 1

    @property
    def finishes(self) -> bool:
        """Whether a vector command makes the result of the sums, in a buffer of its own."""
        return self.converts or self.gated

    def finish_steps(self, chip: Chip) -> int:
        """What that command does for an element of the result."""
        if self.gated:
            return chip.vector_steps(SiluMulAttr.ELEMENT_STEPS)
        return chip.vector_steps(ConvertAttr.ELEMENT_STEPS) if self.converts else 0

    def b_bytes(self, elements: IntArray) -> IntArray:
        """The bytes of so many elements of B with their scales."""
        if not self.storage.scale_bits:
            return bytes_of(elements, self.b_bits)
        size = np.ceil(np.asarray(elements) * ((self.b_bits + self.storage.scale_bits) / 8))
        return np.asarray(size, np.int64)


@dataclass(frozen=True)
class MatmulTilings:
    """Tilings of one matmul, one per entry."""

    cores_g: IntArray
    cores_m: IntArray
    cores_n: IntArray
    cores_k: IntArray
    tile_m: IntArray
    tile_n: IntArray
    tile_k: IntArray
    order: IntArray
    """Index into `ORDERS`."""
    slots: IntArray
    """2 where loads run ahead of the matrix unit and stores behind it, else 1."""
    multicast: IntArray
    """1 where one read of a block of A or B serves all cores that need it."""
    merge: IntArray
    """Index into `MERGES`."""

    def __getitem__(self, index: object) -> Self:
        return type(self)(*(getattr(self, f.name)[index] for f in fields(self)))

    def __len__(self) -> int:
        return len(self.tile_m)

    @classmethod
    def joined(cls, parts: Sequence[Self]) -> Self:
        """All tilings of `parts`."""
        return cls(*(np.concatenate([getattr(p, f.name) for p in parts]) for f in fields(cls)))

    def plan(self, index: int) -> PlanAttr:
        """Tiling `index` as it stands on an op."""
        at = {f.name: int(getattr(self, f.name)[index]) for f in fields(self)}
        return PlanAttr.of(
            cores=[at["cores_g"], at["cores_m"], at["cores_n"], at["cores_k"]],
            tile=[at["tile_m"], at["tile_n"], at["tile_k"]],
            order=ORDERS[at["order"]],
            slots=at["slots"],
            multicast=("a", "b") if at["multicast"] else (),
            merge=MERGES[at["merge"]],
        )


def tiling_of(plan: PlanAttr) -> MatmulTilings:
    """The one tiling that a legal plan says."""
    order, merge = ORDERS.index(plan.order.data), MERGES.index(plan.merge.data)
    numbers = (*plan.core_counts, *plan.tile_sizes, order, plan.slots.value.data, int(bool(plan.multicast.data)), merge)
    return MatmulTilings(*(np.array([n], np.int64) for n in numbers))


def plan_fault(shape: MatmulShape, plan: PlanAttr, chip: Chip) -> str | None:
    """What is wrong with a plan for a matmul, None for a legal one."""
    fault = plan.fault(chip, dims=(4, 3), orders=ORDERS, multicast=("a", "b"), merges=MERGES)
    if fault is not None:
        return fault
    split_k = plan.core_counts[3] > 1
    if split_k != (plan.merge.data != "none"):
        return "merge must say how partial sums are added up exactly where more than one core shares k"
    if len(plan.multicast.data) == 1:
        return "multicast must name both operands, a and b, or none"
    if plan.merge.data == "sdma" and plan.order.data != ORDERS[K_INNER]:
        return f"merge sdma needs order {ORDERS[K_INNER]}, whose partial sums stay in LMEM, found {plan.order.data}"
    tiling = tiling_of(plan)
    parts = chunks(shape, tiling, chip)
    if plan.merge.data == "sdma" and int(parts.groups[0] * parts.trips_m[0] * parts.trips_n[0]) > 1:
        return "merge sdma needs a chunk of one result tile per core"
    need = int(lmem_bytes(shape, tiling, chip)[0])
    if need > chip.lmem_tile_budget_bytes:
        return f"its tiles need {need} bytes of LMEM, the budget of a core is {chip.lmem_tile_budget_bytes}"
    return None


def cube_k(chip: Chip, dtype: str) -> int:
    """Elements of the contraction that the matrix unit takes at once.  Raises PmcError for a type without a path."""
    return chip.matrix_count(chip.cube.k, dtype)


@dataclass(frozen=True)
class Chunks:
    """What the cores have: sizes of the full chunk in elements, its tiles, and cores that have work."""

    groups: IntArray
    m: IntArray
    n: IntArray
    k: IntArray
    parts: tuple[IntArray, IntArray, IntArray, IntArray]
    trips_m: IntArray
    trips_n: IntArray
    trips_k: IntArray
    last_k: IntArray
    """Elements along k of the last core."""
    cube_k: int


def chunks(shape: MatmulShape, tilings: MatmulTilings, chip: Chip) -> Chunks:
    """The chunks: multiples of the cube, as `Split` cuts them, so fewer cores than asked for may have work."""
    t, cube = tilings, chip.cube
    step_k = cube_k(chip, shape.dtype)
    cg = ceil_div(shape.groups, t.cores_g)
    cm, cn, ck = (
        round_up(ceil_div(total, cores), step)
        for total, cores, step in (
            (shape.m, t.cores_m, cube.m), (shape.n, t.cores_n, cube.n), (shape.k, t.cores_k, step_k),
        )
    )  # fmt: skip
    parts = (ceil_div(shape.groups, cg), ceil_div(shape.m, cm), ceil_div(shape.n, cn), ceil_div(shape.k, ck))
    m, n, k = np.minimum(cm, shape.m), np.minimum(cn, shape.n), np.minimum(ck, shape.k)
    trips = ceil_div(m, t.tile_m), ceil_div(n, t.tile_n), ceil_div(k, t.tile_k)
    return Chunks(np.minimum(cg, shape.groups), m, n, k, parts, *trips, shape.k - (parts[3] - 1) * ck, step_k)


def scratch_dims(shape: MatmulShape, plan: PlanAttr, chip: Chip) -> list[tuple[int, ...]]:
    """The array of partial sums [k part, group, row, column] of each product in DRAM, where the plan has them."""
    chunk = chunks(shape, tiling_of(plan), chip)
    parts = int(chunk.parts[3][0])
    spills = plan.order.data != ORDERS[K_INNER] and int(chunk.trips_k[0]) > 1
    merged = parts > 1 and plan.merge.data == MERGES[DRAM]
    return [(parts, shape.groups, shape.m, shape.n)] * shape.products if spills or merged else []


def share_rows(chunk: Chunks) -> IntArray:
    """The rows of a chunk that each core of a k group adds up."""
    return ceil_div(chunk.m, chunk.parts[3])


def merge_tile_rows(chunk: Chunks, tilings: MatmulTilings) -> IntArray:
    """The rows of the merge that are in LMEM at a time, so that their parts take the room of one accumulator."""
    return np.minimum(share_rows(chunk), ceil_div(np.minimum(tilings.tile_m, chunk.m), chunk.parts[3]))


def merge_needed(merge: IntArray, parts: IntArray) -> IntArray:
    """The way to merge, `NONE` where a contraction is too short to be cut and all of it is in one part."""
    return np.where(parts > 1, merge, NONE)


def lmem_bytes(shape: MatmulShape, tilings: MatmulTilings, chip: Chip) -> IntArray:
    """The LMEM that the buffers of the kernel take, as `lower-to-tiles` allocates them."""
    c = chunks(shape, tilings, chip)
    t = replace(tilings, merge=merge_needed(tilings.merge, c.parts[3]))
    step = chip.alignment_bytes

    def size(rows: IntArray, columns: IntArray, bits: int) -> IntArray:
        return round_up(bytes_of(rows * columns, bits), step)

    around_g = c.groups > 1
    around_m, around_n = around_g | (c.trips_m > 1), around_g | (c.trips_n > 1)
    around_mn = around_m | around_n
    along_k = c.trips_k > 1
    a_loops = np.select([t.order == K_INNER, t.order == M_INNER], [around_mn | along_k] * 2, around_m | along_k)
    b_loops = np.select([t.order == K_INNER, t.order == N_INNER], [around_mn | along_k] * 2, around_n | along_k)
    # With k outside of m or n the accumulator lives inside both of them and k.
    acc_loops = np.where(t.order == K_INNER, around_mn, around_mn | along_k)

    def slots(loops: npt.NDArray[Any]) -> IntArray:
        return np.where(np.asarray(loops, bool), t.slots, 1)

    merges = t.merge != NONE
    need = slots(a_loops) * size(t.tile_m, t.tile_k, shape.a_bits)
    need = need + shape.products * slots(b_loops) * round_up(shape.b_bytes(t.tile_n * t.tile_k), step)
    if shape.storage.widened_bits:
        need = need + shape.products * size(t.tile_n, t.tile_k, shape.storage.widened_bits)
    need = need + shape.products * slots(acc_loops) * size(t.tile_m, t.tile_n, ACCUMULATOR_BITS)
    if shape.finishes:
        need = need + np.where(merges, 0, slots(acc_loops) * size(t.tile_m, t.tile_n, shape.out_bits))
    rows = merge_tile_rows(c, t)
    merged = shape.products * size(c.parts[3] * rows, t.tile_n, ACCUMULATOR_BITS) + size(rows, t.tile_n, shape.out_bits)
    if shape.gated:
        merged = merged + shape.products * size(rows, t.tile_n, ACCUMULATOR_BITS)
    return np.asarray(need + np.where(merges, merged, 0), np.int64)


def resources(shape: MatmulShape, tilings: MatmulTilings, chip: Chip) -> Resources:
    """What each tiling asks of the busiest core and of the chip."""
    s, c = shape, chunks(shape, tilings, chip)
    t = replace(tilings, merge=merge_needed(tilings.merge, c.parts[3]))
    cube = chip.cube
    g, m, n, k = c.groups, c.m, c.n, c.k
    pg, pm, pn, pk = c.parts
    tm, tn, tk = c.trips_m, c.trips_n, c.trips_k
    acc = ACCUMULATOR_BITS

    k_inner, m_inner = t.order == K_INNER, t.order == M_INNER
    a_times = np.where(t.order == N_INNER, 1, tn)  # how often a core loads its block of A
    b_times = np.where(m_inner, 1, tm)
    spills = np.where(k_inner, 0, tk - 1)  # how often partial sums go to DRAM and come back
    merges = t.merge != NONE
    through_dram = t.merge == DRAM

    loads = g * tk * np.where(t.order == N_INNER, tm, tm * tn) + g * tk * np.where(m_inner, tn, tm * tn) * s.products
    gdma_bytes = bytes_of(g * m * k * a_times, s.a_bits) + s.b_bytes(g * n * k * b_times) * s.products
    results = g * tm * tn
    sums = results * s.products
    gdma_commands = loads + 2 * sums * spills
    gdma_bytes = gdma_bytes + bytes_of(g * m * n * 2 * spills, acc) * s.products
    gdma_bytes = gdma_bytes + np.where(merges, 0, bytes_of(g * m * n, s.out_bits))
    gdma_bytes = gdma_bytes + np.where(through_dram, bytes_of(g * m * n, acc) * s.products, 0)
    gdma_commands = gdma_commands + np.select([t.merge == SDMA, through_dram], [0 * sums, sums], results)

    # One read serves the cores along n (A) or m (B) in every iteration that any of them runs.
    last_n, last_m = (
        s.n - (pn - 1) * round_up(ceil_div(s.n, t.cores_n), cube.n),
        s.m - (pm - 1) * round_up(ceil_div(s.m, t.cores_m), cube.m),
    )
    all_n, all_m = (pn - 1) * tn + ceil_div(last_n, t.tile_n), (pm - 1) * tm + ceil_div(last_m, t.tile_m)
    multicast = t.multicast == 1
    a_reads = np.where(multicast, a_times, np.where(t.order == N_INNER, pn, all_n))
    b_reads = np.where(multicast, b_times, np.where(m_inner, pm, all_m))
    all_spills = np.where(k_inner, 0, (pk - 1) * (tk - 1) + ceil_div(c.last_k, t.tile_k) - 1)
    read = bytes_of(s.groups * s.m * s.k * a_reads, s.a_bits) + s.b_bytes(s.groups * s.n * s.k * b_reads) * s.products
    partial = bytes_of(np.asarray(s.groups * s.m * s.n), acc) * s.products
    written = bytes_of(np.asarray(s.groups * s.m * s.n), s.out_bits) + partial * all_spills
    read = read + partial * all_spills
    scratch = np.where(through_dram, partial * pk, 0)

    blocks = g * padded(m, t.tile_m, cube.m) // cube.m * (padded(n, t.tile_n, cube.n) // cube.n)
    tiu_steps = blocks * (padded(k, t.tile_k, c.cube_k) // c.cube_k) * s.products
    ideal = s.products * s.groups * ceil_div(np.asarray(s.m), cube.m) * ceil_div(np.asarray(s.n), cube.n)
    mean_steps = ideal * ceil_div(np.asarray(s.k), c.cube_k) / (pg * pm * pn * pk)
    converted = g * m * padded(n, t.tile_n, cube.m)
    vec_steps = np.where(merges, 0, converted * s.finish_steps(chip))
    if s.storage.widened_bits:  # every time that a block of B comes in
        vec_steps = vec_steps + DEQUANTIZE_STEPS * g * n * k * b_times * s.products
    if s.storage.group:
        vec_steps = vec_steps + DEQUANTIZE_STEPS * g * m * n * ceil_div(k, s.storage.group) * s.products

    share, rows = share_rows(c), merge_tile_rows(c, t)
    tiles = g * tn * ceil_div(share, rows)
    activation = s.finish_steps(chip) if s.gated else 0
    merge = Resources.nothing(len(t)).plus(
        # One step per part and element: the additions, and the conversion of the sum.
        vec_steps=np.where(merges, g * share * padded(n, t.tile_n, cube.m) * (pk * s.products + activation), 0),
        vec_commands=np.where(merges, tiles * (3 if s.gated else 1), 0),
        gdma_bytes=np.where(merges, bytes_of(g * share * n, s.out_bits), 0)
        + np.where(through_dram, bytes_of(g * share * n * pk, acc) * s.products, 0),
        gdma_commands=np.where(merges, tiles, 0) + np.where(through_dram, tiles * s.products, 0),
        sdma_bytes=np.where(t.merge == SDMA, bytes_of(g * share * n * pk, acc) * s.products, 0),
        sdma_commands=np.where(t.merge == SDMA, tiles * pk * s.products, 0),
        dram_read=scratch,
        dram_written=scratch,
    )
    return Resources.nothing(len(t)).plus(
        cores=pg * pm * pn * pk,
        tiu_steps={s.dtype: tiu_steps},
        tiu_mean_steps={s.dtype: mean_steps},
        tiu_commands=sums * tk,
        vec_steps=vec_steps,
        vec_commands=np.where(merges | (not s.finishes), 0, results),
        gdma_bytes=gdma_bytes,
        gdma_commands=gdma_commands,
        dram_read=read,
        dram_written=written,
        macs=np.full(len(t), s.products * s.groups * s.m * s.n * s.k),
        # Partial sums that go to DRAM stand between the loads of two steps.
        overlaps=(t.slots == 2) & (results * tk > 1) & (spills == 0),
        merge=merge,
    )
