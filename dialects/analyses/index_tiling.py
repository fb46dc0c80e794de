"""The tilings of the scores of an indexer: which are legal, what LMEM they take, and what they ask of every engine.

A *unit* is a block of `tile_q` queries of one sequence with all their index heads.  Units, in the order of sequences
and queries, and keys are cut over a grid of cores [u, s]; each core runs over its units and over tiles of `tile_s`
keys.  Scores of different keys do not meet, so cores that share a unit need no merge.

All counts are exact, edges included: they are those of the loops that `lower-to-tiles` writes.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from xdsl.dialects.builtin import FloatAttr, IntegerAttr, i64

from pmc.dialects import layer
from pmc.dialects.analyses.matmul_tiling import cube_k
from pmc.dialects.analyses.resources import ACCUMULATOR_BITS, Resources, bytes_of, ceil_div, padded, round_up
from pmc.dialects.analyses.row_tiling import Dims
from pmc.dialects.analyses.split import Split
from pmc.dialects.analyses.vector_work import command_steps
from pmc.dialects.arch import Chip
from pmc.dialects.block_kinds import BlockMaxAttr
from pmc.dialects.errors import PmcError
from pmc.dialects.tensor import element_bits, ints, tensor
from pmc.dialects.tile_plan import PlanAttr
from pmc.dialects.vector_kinds import ReluWeightedSumAttr

ORDER = "us"
"""The one loop order: units, keys."""

KEY_TILES = tuple(2**n for n in range(3, 14))
"""Keys of a tile that are tried."""


@dataclass(frozen=True)
class IndexShape:
    """The scores of `sequences` x `q_len` queries against `kv_len` keys on one rank; types by their bits."""

    sequences: int
    q_len: int
    kv_len: int
    heads: int
    qk_dims: tuple[int, ...]
    q_bits: int
    k_bits: tuple[int, ...]
    weight_bits: int
    dtype: str
    """The type of the products."""
    scale: float
    """The factor of their weighted sum."""
    block: int = 1
    """The keys of which every head has one score, the largest of their products; 1 where heads are weighted."""

    @property
    def scores(self) -> int:
        """The scores that a query has of a block of keys: one, or one of each head."""
        return 1 if self.block == 1 else self.heads

    @property
    def kind(self) -> ReluWeightedSumAttr | BlockMaxAttr:
        """What becomes of the products."""
        if self.block > 1:
            return BlockMaxAttr(IntegerAttr(self.block, i64))
        return ReluWeightedSumAttr(IntegerAttr(self.heads, i64), FloatAttr(self.scale, 64))

    @property
    def text(self) -> str:
        """In words."""
        queries = self.sequences * self.q_len
        return f"{queries} queries of {self.heads} index heads on {self.kv_len} keys, at {self.dtype}"


def index_shape(op: layer.IndexScoresOp | layer.BlockScoresOp, dims: Dims = ints) -> IndexShape:
    """The shape of an op whose symbols are bound."""
    if isinstance(op, layer.BlockScoresOp):
        (rows, _), (sequences, kv_len, _) = dims(op.q), dims(op.k)
        bits = [element_bits(tensor(value).element_type) for value in (op.q, op.k)]
        return IndexShape(
            sequences, rows // sequences, kv_len, op.heads, (op.head_dim,), bits[0], (bits[1],), 0, op.compute_dtype(),
            1.0, op.block.value.data,
        )  # fmt: skip
    (rows, kv_len), sequences = dims(op.y), dims(op.k[0])[0]
    return IndexShape(
        sequences, rows // sequences, kv_len, op.heads, op.piece_dims(), element_bits(tensor(op.q[0]).element_type),
        tuple(element_bits(tensor(k).element_type) for k in op.k), element_bits(tensor(op.weights).element_type),
        op.compute_dtype(), op.scale.value.data,
    )  # fmt: skip


@dataclass(frozen=True)
class Cuts:
    """How units and keys are cut."""

    blocks: int
    """Units of one sequence."""
    units: Split
    keys: Split

    @property
    def parts(self) -> tuple[int, int]:
        """Cores along u and s that have work."""
        return self.units.parts, self.keys.parts


def cuts_of(shape: IndexShape, plan: PlanAttr, chip: Chip) -> Cuts:
    """The cuts of a plan; where cores share the keys, each has whole blocks of the units, and of keys."""
    (cores_u, cores_s), (tile_q, tile_s) = plan.core_counts, plan.tile_sizes
    blocks = -(-shape.q_len // tile_q)
    granule = int(np.lcm(chip.cube.m, chip.cube.n)) if cores_s > 1 else 1
    granule = int(np.lcm(granule, shape.block))
    return Cuts(
        blocks,
        Split.over(shape.sequences * blocks, cores_u, 1),
        Split.over(shape.kv_len, cores_s, tile_s, granule),
    )


def plan_fault(shape: IndexShape, plan: PlanAttr, chip: Chip) -> str | None:
    """What is wrong with a plan, None for a legal one."""
    fault = plan.fault(chip, dims=(2, 2), orders=(ORDER,))
    if fault is not None:
        return fault
    keys = plan.tile_sizes[1]
    if keys % shape.block and keys < shape.kv_len:
        return f"a tile has {keys} keys, must be whole blocks of {shape.block}"
    need = lmem_bytes(shape, plan, chip)
    if need > chip.lmem_tile_budget_bytes:
        return f"its tiles need {need} bytes of LMEM, the budget of a core is {chip.lmem_tile_budget_bytes}"
    return None


def rows_of(shape: IndexShape, plan: PlanAttr, chip: Chip) -> int:
    """Rows of the buffers of queries and products: whole blocks of the matrix unit."""
    return int(round_up(min(plan.tile_sizes[0], shape.q_len) * shape.heads, chip.cube.m))


def lmem_bytes(shape: IndexShape, plan: PlanAttr, chip: Chip) -> int:
    """The LMEM that the buffers of the kernel take, as `lower-to-tiles` allocates them."""
    s, cuts, slots = shape, cuts_of(shape, plan, chip), plan.buffer_slots
    tile_q, tile_s = min(plan.tile_sizes[0], s.q_len), plan.tile_sizes[1]
    rows = rows_of(s, plan, chip)

    def size(height: int, columns: int, bits: int) -> int:
        return int(round_up(bytes_of(height * columns, bits), chip.alignment_bytes))

    unit_slots = slots if cuts.units.max_trips > 1 else 1
    key_slots = slots if max(cuts.units.max_trips, cuts.keys.max_trips) > 1 else 1
    queries = sum(size(rows, d, s.q_bits) for d in s.qk_dims)
    if s.weight_bits:
        queries += size(tile_q, s.heads, s.weight_bits)
    keys = sum(size(tile_s, d, bits) for d, bits in zip(s.qk_dims, s.k_bits, strict=True))
    scores = size(tile_q * s.scores, -(-tile_s // s.block), ACCUMULATOR_BITS)
    return unit_slots * queries + key_slots * (keys + scores) + size(rows, tile_s, ACCUMULATOR_BITS)


def plans(shape: IndexShape, chip: Chip) -> list[PlanAttr]:
    """Plans among which one is near the best.  Raises PmcError where not even the smallest tile fits."""
    found: list[PlanAttr] = []
    smallest: PlanAttr | None = None
    tile_qs = sorted({min(shape.q_len, 2**n) for n in range(8)})
    for tile_q in tile_qs:
        units = shape.sequences * -(-shape.q_len // tile_q)
        for cores_s in sorted({chip.cores // n for n in range(1, min(units, chip.cores) + 1)} | {1}):
            cores_u = max(1, min(chip.cores // cores_s, units))
            part = -(-shape.kv_len // cores_s)
            for tile_s in sorted({min(tile, part) for tile in KEY_TILES}):
                plan = PlanAttr.of([cores_u, cores_s], [tile_q, tile_s], ORDER)
                smallest = smallest or plan
                if plan_fault(shape, plan, chip) is None:
                    found.append(plan)
    if not found:
        assert smallest is not None, "there is a query"
        raise PmcError(f"no tile of the index scores fits: {plan_fault(shape, smallest, chip)}")
    return found


def resources(shape: IndexShape, plan: PlanAttr, chip: Chip) -> Resources:
    """What a plan asks of the busiest core and of the chip."""
    s, cuts = shape, cuts_of(shape, plan, chip)
    tile_q, tile_s = min(plan.tile_sizes[0], s.q_len), plan.tile_sizes[1]
    parts_u, parts_s = cuts.parts
    # Units of a core: blocks of all queries, and the last blocks of sequences, which may be shorter.
    start = np.arange(parts_u) * cuts.units.chunk
    stop = np.minimum(start + cuts.units.chunk, cuts.units.total)
    last = stop // cuts.blocks - start // cuts.blocks
    last_q = s.q_len - (cuts.blocks - 1) * tile_q
    depth = sum(int(ceil_div(d, cube_k(chip, s.dtype))) for d in s.qk_dims)
    own_keys, pieces = min(cuts.keys.chunk, s.kv_len), len(s.qk_dims)
    tiles = cuts.keys.max_trips
    key_bits = sum(d * bits for d, bits in zip(s.qk_dims, s.k_bits, strict=True))
    query_bits = s.heads * (sum(s.qk_dims) * s.q_bits + s.weight_bits)

    def busiest(of_block: int, of_last: int) -> int:
        return int(((stop - start - last) * of_block + last * of_last).max())

    def height(queries: int) -> int:
        return int(ceil_div(queries * s.heads, chip.cube.m))

    blocks = int(padded(own_keys, tile_s, chip.cube.n)) // chip.cube.n
    all_blocks = sum(
        int(padded(min(cuts.keys.chunk, s.kv_len - part * cuts.keys.chunk), tile_s, chip.cube.n)) // chip.cube.n
        for part in range(parts_s)
    )
    steps = s.scores * int(command_steps(s.kind, 1, 1, chip))  # of a block of columns of the rows of one query
    own_scores, all_scores = (s.scores * -(-keys // s.block) * ACCUMULATOR_BITS for keys in (own_keys, s.kv_len))
    loads = pieces + (1 if s.weight_bits else 0)
    units, all_queries, all_units = busiest(1, 1), s.sequences * s.q_len, cuts.units.total
    queries, own_height = busiest(tile_q, last_q), busiest(height(tile_q), height(last_q))
    all_heights = s.sequences * ((cuts.blocks - 1) * height(tile_q) + height(last_q))
    columns = int(padded(own_keys, tile_s, chip.cube.m)) // chip.cube.m
    return Resources.nothing(1).plus(
        cores=np.array([parts_u * parts_s]),
        tiu_steps={s.dtype: np.array([own_height * blocks * depth])},
        tiu_mean_steps={s.dtype: np.array([all_heights * all_blocks * depth / (parts_u * parts_s)])},
        tiu_commands=np.array([units * tiles * pieces]),
        vec_steps=np.array([queries * columns * steps]),
        vec_commands=np.array([units * tiles]),
        gdma_bytes=bytes_of(np.array([queries * (query_bits + own_scores) + units * own_keys * key_bits]), 1),
        gdma_commands=np.array([units * (loads + tiles * (pieces + 1))]),
        dram_read=bytes_of(np.array([parts_s * all_queries * query_bits + all_units * s.kv_len * key_bits]), 1),
        dram_written=bytes_of(np.array([all_queries * all_scores]), 1),
        macs=np.array([all_queries * s.heads * s.kv_len * sum(s.qk_dims)]),
        overlaps=np.array([plan.buffer_slots == 2 and units * tiles > 1]),
        merge=Resources.nothing(1),
    )
