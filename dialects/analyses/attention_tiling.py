"""The tilings of flash attention: which are legal, what LMEM they take, and what they ask of every engine.

A *problem* is one key head of one sequence; its *units* are blocks of `tile_q` queries x `tile_g` query heads that
share the key head, head blocks fastest.  Problems, the units of a problem and its keys are cut over a grid of cores
[p, u, s].  Each core runs over its problems, over its units and over key tiles of `tile_s` keys.  Units are dealt in
turn (core u has units u, u + cores_u, ..), so that the cores of a problem see about as many keys under a causal mask
and need the same keys at the same time: one read then serves them all.

Where keys are cut over cores (flash decoding, Dao et al., 2023), every core has the running state of its part of the
keys: accumulator, maximum and sum.  After a barrier each core of the group merges the states of its share of the rows,
which it takes from the LMEM of the others (`sdma`, one unit per core) or from DRAM (`dram`).

A sliding window, or chunks of a sequence, move the first key of a unit as causality moves its last one.  Key tiles keep
their places, and a unit begins with the tile that holds the first key of its first query (`n_block_min` of
FlashAttention-2).  Cores that read together begin where the first of them does.

Keys that stand for several positions each (`layer.compressed_attention`) move the last key of a unit more slowly: the
queries up to position p see floor((p + 1) / ratio) of them, and the first units may see none.

All counts are exact, edges included: they are those of the loops that `lower-to-tiles` writes.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, fields, replace
from functools import lru_cache
from typing import Self

import numpy as np
import numpy.typing as npt

from pmc.dialects.analyses.matmul_tiling import DRAM, NONE, SDMA, cube_k, merge_needed
from pmc.dialects.analyses.resources import ACCUMULATOR_BITS, Ints, Resources, bytes_of, ceil_div, padded, round_up
from pmc.dialects.analyses.vector_work import command_steps
from pmc.dialects.arch import Chip
from pmc.dialects.interfaces import IntArray
from pmc.dialects.key_reach import Reach
from pmc.dialects.tile_plan import MERGES, PlanAttr
from pmc.dialects.vector_kinds import FillAttr, SoftmaxFinishAttr

ORDERS = ("pus",)
"""The one loop order: problems, units, keys."""

GROUPS = 16
"""How many groups of units a quick bound tells apart: it is within a few percent where a core has more units."""

STATE_COLUMNS = 2
"""Columns of the running state besides the accumulator: the maximum and the sum of a row."""


@dataclass(frozen=True)
class AttentionShape:
    """`sequences` x `kv_heads` problems of `group` query heads each, on one rank; types by their MLIR name."""

    sequences: int
    kv_heads: int
    group: int
    q_len: int
    kv_len: int
    """Those that any query sees; more that are stored before them are left alone."""
    qk_dims: tuple[int, ...]
    v_dim: int
    shared_piece: int | None
    """The key piece that is also v, which is then loaded once."""
    causal: bool
    q_bits: int
    k_bits: tuple[int, ...]
    v_bits: int
    p_bits: int
    out_bits: int
    """Of the result; 0 for a step of a ring, which leaves its running state instead."""
    state_reads: int
    """1 where the op goes on from a running state in DRAM."""
    dtype: str
    """The type of the arithmetic, of the scores and of the sum over the values: it sets the rate."""
    reach: Reach | None = None
    """How far back causal queries see, where later ones do not see all keys that earlier ones see."""
    sink_bits: int = 0
    """Of the sink of a head, with which the running state begins; 0 without sinks."""
    capped: bool = False
    """Whether scores have a soft cap, which is more work for the vector unit."""
    biased: bool = False
    """Whether scores have a bias by distance (ALiBi), which is too."""
    ratio: int = 1
    """The positions that a key stands for, where later queries see more keys."""
    all_positions: int | None = None
    """Those up to the last query, where keys stand for several; None where there are as many as keys."""

    @property
    def problems(self) -> int:
        """Key heads of all sequences."""
        return self.sequences * self.kv_heads

    @property
    def state_results(self) -> bool:
        """Whether the op leaves its running state instead of a result."""
        return self.out_bits == 0

    @property
    def positions(self) -> int:
        """Those of a sequence, up to its last query."""
        return self.kv_len if self.all_positions is None else self.all_positions

    def seen_before(self, query: IntArray) -> IntArray:
        """The keys that causal queries up to number `query` see, that one not included."""
        return np.asarray((self.positions - self.q_len + query) // self.ratio, np.int64)

    def may_see_none(self, tile_q: Ints) -> npt.NDArray[np.bool_]:
        """Whether a unit of `tile_q` queries may see no key at all, so that its loop over keys may not run."""
        return np.asarray(self.causal and self.ratio > 1 and np.less(tile_q, self.q_len), bool)


@dataclass(frozen=True)
class AttentionTilings:
    """Tilings of one attention, one per entry."""

    cores_p: IntArray
    cores_u: IntArray
    cores_s: IntArray
    tile_q: IntArray
    tile_g: IntArray
    tile_s: IntArray
    slots: IntArray
    multicast: IntArray
    """1 where one read of a block of Q, K or V serves all cores that need it."""
    merge: IntArray
    """Index into `MERGES`."""

    def __getitem__(self, index: object) -> Self:
        return type(self)(*(getattr(self, f.name)[index] for f in fields(self)))

    def __len__(self) -> int:
        return len(self.tile_q)

    @classmethod
    def joined(cls, parts: Sequence[Self]) -> Self:
        """All tilings of `parts`."""
        return cls(*(np.concatenate([getattr(p, f.name) for p in parts]) for f in fields(cls)))

    def plan(self, index: int) -> PlanAttr:
        """Tiling `index` as it stands on an op."""
        at = {f.name: int(getattr(self, f.name)[index]) for f in fields(self)}
        return PlanAttr.of(
            cores=[at["cores_p"], at["cores_u"], at["cores_s"]],
            tile=[at["tile_q"], at["tile_g"], at["tile_s"]],
            order=ORDERS[0],
            slots=at["slots"],
            multicast=("q", "kv") if at["multicast"] else (),
            merge=MERGES[at["merge"]],
        )


def tiling_of(plan: PlanAttr) -> AttentionTilings:
    """The one tiling that a legal plan says."""
    numbers = (
        *plan.core_counts, *plan.tile_sizes, plan.slots.value.data, int(bool(plan.multicast.data)),
        MERGES.index(plan.merge.data),
    )  # fmt: skip
    return AttentionTilings(*(np.array([n], np.int64) for n in numbers))


def plan_fault(shape: AttentionShape, plan: PlanAttr, chip: Chip) -> str | None:
    """What is wrong with a plan for an attention, None for a legal one."""
    fault = plan.fault(chip, dims=(3, 3), orders=ORDERS, multicast=("q", "kv"), merges=MERGES)
    if fault is not None:
        return fault
    if shape.group % plan.tile_sizes[1]:
        return f"a tile of {plan.tile_sizes[1]} heads does not divide the {shape.group} heads that share a key head"
    split_s = plan.core_counts[2] > 1
    if split_s != (plan.merge.data != "none"):
        return "merge must say how running states are merged exactly where more than one core shares the keys"
    if split_s and shape.state_results:
        return "a step of a ring keeps its keys on one core"
    if len(plan.multicast.data) == 1:
        return "multicast must name both operands, q and kv, or none"
    tiling = tiling_of(plan)
    grid = grid_of(shape, tiling, chip)
    if plan.merge.data == "sdma" and int(grid.problems[0] * grid.units[0]) > 1:
        return "merge sdma needs one unit per core"
    need = int(lmem_bytes(shape, tiling, chip)[0])
    if need > chip.lmem_tile_budget_bytes:
        return f"its tiles need {need} bytes of LMEM, the budget of a core is {chip.lmem_tile_budget_bytes}"
    return None


def key_step(shape: AttentionShape, chip: Chip) -> int:
    """Keys are columns of one matmul and the contraction of the other: whole cubes of both."""
    return int(np.lcm(chip.cube.n, cube_k(chip, shape.dtype)))


@dataclass(frozen=True)
class Grid:
    """What the cores have."""

    all_units: IntArray
    """Units of one problem."""
    problems: IntArray
    """Problems of the busiest core."""
    units: IntArray
    """Units per problem of the busiest core."""
    keys: IntArray
    """Keys of a full part."""
    parts: tuple[IntArray, IntArray, IntArray]
    """Cores along p, u, s that have work."""


def grid_of(shape: AttentionShape, tilings: AttentionTilings, chip: Chip) -> Grid:
    """The parts of the cores; fewer cores than asked for may have work."""
    t = tilings
    all_units = ceil_div(shape.q_len, t.tile_q) * (shape.group // t.tile_g)
    problems = ceil_div(shape.problems, t.cores_p)
    parts_u = np.minimum(t.cores_u, all_units)
    keys = np.where(t.cores_s > 1, round_up(ceil_div(shape.kv_len, t.cores_s), key_step(shape, chip)), shape.kv_len)
    parts = (ceil_div(shape.problems, problems), parts_u, ceil_div(shape.kv_len, keys))
    return Grid(all_units, problems, ceil_div(all_units, parts_u), keys, parts)


def scratch_dims(shape: AttentionShape, plan: PlanAttr, chip: Chip) -> list[tuple[int, ...]]:
    """The running states [key part, sequence, query, head, column] in DRAM, where the plan merges through it."""
    parts = int(grid_of(shape, tiling_of(plan), chip).parts[2][0])
    if parts == 1 or plan.merge.data != MERGES[DRAM]:
        return []
    rows = (parts, shape.sequences, shape.q_len, shape.kv_heads * shape.group)
    return [(*rows, columns) for columns in (shape.v_dim, *[1] * STATE_COLUMNS)]


def merge_share(queries: Ints, heads: Ints, parts: Ints) -> tuple[IntArray, IntArray]:
    """Queries and heads of a unit that each core of a key group merges: part of the queries, or of the heads of one."""
    by_heads = np.asarray(queries) == 1
    return np.where(by_heads, 1, ceil_div(queries, parts)), np.where(by_heads, ceil_div(heads, parts), heads)


def lmem_bytes(shape: AttentionShape, tilings: AttentionTilings, chip: Chip) -> IntArray:
    """The LMEM that the buffers of the kernel take, as `lower-to-tiles` allocates them."""
    s, grid = shape, grid_of(shape, tilings, chip)
    t = replace(tilings, merge=merge_needed(tilings.merge, grid.parts[2]))
    tile_q = np.minimum(t.tile_q, s.q_len)
    rows = round_up(tile_q * t.tile_g, chip.cube.m)

    def size(height: IntArray, columns: IntArray | int, bits: int) -> IntArray:
        return round_up(bytes_of(height * columns, bits), chip.alignment_bytes)

    many_units = grid.problems * grid.units > 1
    unit_slots: IntArray = np.where(many_units, t.slots, 1)
    many_keys = (t.tile_s < np.minimum(grid.keys, s.kv_len)) | (s.causal & (grid.parts[2] > 1)) | s.may_see_none(tile_q)
    key_slots: IntArray = np.where(many_units | many_keys, t.slots, 1)
    state = size(rows, s.v_dim, ACCUMULATOR_BITS) + STATE_COLUMNS * size(rows, 1, ACCUMULATOR_BITS)
    need = state + size(rows, t.tile_s, ACCUMULATOR_BITS) + size(rows, t.tile_s, s.p_bits)
    for width, bits in zip(s.qk_dims, s.k_bits, strict=True):
        need = need + unit_slots * size(rows, width, s.q_bits) + key_slots * size(t.tile_s, width, bits)
    if s.shared_piece is None:
        need = need + key_slots * size(t.tile_s, s.v_dim, s.v_bits)
    merges = t.merge != NONE
    if s.sink_bits:
        need = need + unit_slots * size(t.tile_g, 1, s.sink_bits)
    out = 0 * rows if s.state_results else unit_slots * size(rows, s.v_dim, s.out_bits)
    queries, heads = merge_share(tile_q, t.tile_g, grid.parts[2])
    share = queries * heads
    merged = size(grid.parts[2] * share, s.v_dim, ACCUMULATOR_BITS)
    merged = merged + STATE_COLUMNS * size(grid.parts[2] * share, 1, ACCUMULATOR_BITS)
    merged = merged + size(share, s.v_dim, max(s.out_bits, 1))
    return np.asarray(need + np.where(merges, merged, out), np.int64)


@dataclass(frozen=True)
class _Weights:
    """What one unit of each count costs an engine: fixed by the shape, but for the rows, which also a merge decides."""

    qk: int
    """Steps of the matrix unit along the contraction of the scores, per block of a score."""
    pv: int
    """Blocks of a value, per block of the contraction over keys."""
    per_score: int
    per_row: int
    row_bits: int
    """Read and written by GDMA for every row."""
    head_bits: int
    """Read for every head of a unit."""
    key_bits: int
    unit_commands: int
    step_commands: int


@dataclass(frozen=True)
class _Problem:
    """Sums over the units of one problem.  Of every engine that of the core with most work, in the first key part."""

    tiu_steps: int
    """Of scores and values together."""
    vec_steps: int
    key_steps: int
    gdma_bits: int
    gdma_commands: int
    rows: int
    """Pairs of a query and a head."""
    merged_rows: int
    """Those that the core merges."""
    pairs: int
    """Pairs of a row and a key, of all cores."""
    all_tiu_steps: int
    all_vec_steps: int
    """The steps of all units, keys uncut."""
    read_together: int
    """Keys that are read where one read per trip serves all cores along u."""
    read_apart: int


class _Units:
    """The counts of units with so many rows that see so many keys: arrays of one shape."""

    def __init__(self, rows: IntArray, keys: IntArray, tile_s: Ints, cube: tuple[int, int, int], w: _Weights) -> None:
        m, n, k = cube
        height = round_up(rows, m)
        self.rows = rows
        self.steps = ceil_div(keys, tile_s)
        self.tiu = height // m * (padded(keys, tile_s, n) // n * w.qk + padded(keys, tile_s, k) // k * w.pv)
        self.vec = height * (padded(keys, tile_s, m) * w.per_score + self.steps * w.per_row)


def _loaded(keys: IntArray, tile_s: Ints, most: Ints) -> IntArray:
    """Keys in whole tiles, the last one cut at the end of the part."""
    loaded: IntArray = np.minimum(ceil_div(keys, tile_s) * tile_s, most)
    return loaded


def _ranges(begin: IntArray, seen: IntArray, start: Ints, size: Ints, tile_s: int) -> tuple[IntArray, IntArray]:
    """Of a part of `size` keys from `start` on: those in whole tiles before `begin`, and those from there to `seen`."""
    skipped: IntArray = np.minimum(np.maximum(begin - start, 0) // tile_s * tile_s, size)
    keys: IntArray = np.maximum(np.clip(seen - start, 0, size) - skipped, 0)
    return skipped, keys


@lru_cache(maxsize=65536)
def _problem(
    q_len: int, kv_len: int, causal: bool, reach: Reach | None, group: int, tile: tuple[int, int, int], cores_u: int,
    part: int, together: bool, cube: tuple[int, int, int], weights: _Weights, positions: int, ratio: int,
) -> _Problem:  # fmt: skip
    """`part` is the keys of a core, `cube` is m, n and the k of the type of the arithmetic.

    `positions` are those up to the last query, `ratio` of them to a key.  `together` says that cores along u begin
    with the same tile of keys, as they read them together.
    """
    tile_q, tile_g, tile_s = tile
    blocks_g = group // tile_g
    block = np.arange(-(-q_len // tile_q) * blocks_g) // blocks_g
    last = np.minimum((block + 1) * tile_q, q_len)
    rows = (last - block * tile_q) * tile_g
    seen = (positions - q_len + last) // ratio if causal else np.full(block.shape, kv_len)
    trips = -(-len(block) // cores_u)
    first_of_trip = np.arange(trips) * cores_u
    # The first query of a unit has the first key: of the unit, or of those that the cores have in a trip.
    begin = np.repeat(block[first_of_trip], cores_u)[: len(block)] if together else block
    begin = np.zeros_like(seen) if reach is None else reach.first_of(kv_len - q_len + begin * tile_q)
    starts = np.arange(0, kv_len, part)
    sizes = np.minimum(part, kv_len - starts)
    # Where queries see all keys before them, no part has more keys than the first one.
    most = slice(1 if reach is None else len(starts))
    skipped, own = _ranges(begin[:, None], seen[:, None], starts[most], sizes[most], tile_s)
    _, whole = _ranges(begin, seen, 0, kv_len, tile_s)
    mine = _Units(rows[:, None], own, tile_s, cube, weights)
    every = _Units(rows, whole, tile_s, cube, weights)

    def busiest(amount: IntArray) -> int:
        """`amount` is [unit, part], or [unit] where all parts have the same."""
        by_part = amount.reshape(len(block), -1)
        dealt = np.zeros((trips * cores_u, by_part.shape[1]), np.int64)
        dealt[: len(block)] = by_part
        return int(dealt.reshape(trips, cores_u, -1).sum(axis=0).max())

    share_q, share_g = merge_share(min(tile_q, q_len), tile_g, -(-kv_len // part))

    def read(begin: IntArray, end: IntArray) -> int:
        skipped, keys = _ranges(begin[:, None], end[:, None], starts, sizes, tile_s)
        return int(_loaded(keys, tile_s, sizes - skipped).sum())

    # The cores along u see the most keys in the last unit of a trip.
    last_of_trip = np.minimum(first_of_trip + cores_u, len(block)) - 1
    return _Problem(
        tiu_steps=busiest(mine.tiu),
        vec_steps=busiest(mine.vec),
        key_steps=busiest(mine.steps),
        gdma_bits=busiest(
            rows[:, None] * weights.row_bits
            + tile_g * weights.head_bits
            + _loaded(own, tile_s, sizes[most] - skipped) * weights.key_bits
        ),
        gdma_commands=busiest(weights.unit_commands + mine.steps * weights.step_commands),
        rows=busiest(rows),
        merged_rows=busiest(np.minimum(share_q, rows // tile_g) * share_g),
        pairs=int((rows * seen).sum()) if reach is None else int((rows[:, None] * own).sum()),
        all_tiu_steps=int(every.tiu.sum()),
        all_vec_steps=int(every.vec.sum()),
        read_together=read(begin[first_of_trip], seen[last_of_trip]),
        read_apart=read(begin, seen),
    )


def _sums(
    s: AttentionShape, t: AttentionTilings, grid: Grid, cube: tuple[int, int, int], weights: Sequence[_Weights]
) -> dict[str, IntArray]:
    """The fields of `_Problem`, one entry per tiling; `weights` are by kind of merge."""
    columns = zip(t.tile_q, t.tile_g, t.tile_s, grid.parts[1], grid.keys, t.multicast, t.merge, strict=True)
    found = [
        _problem(
            s.q_len,
            s.kv_len,
            s.causal,
            s.reach,
            s.group,
            (int(q), int(g), int(keys)),
            int(u),
            int(part),
            s.reach is not None and bool(multicast),
            cube,
            weights[int(merge)],
            s.positions,
            s.ratio,
        )
        for q, g, keys, u, part, multicast, merge in columns
    ]
    return {f.name: np.array([getattr(entry, f.name) for entry in found], np.int64) for f in fields(_Problem)}


def _equal_units(
    s: AttentionShape, t: AttentionTilings, grid: Grid, cube: tuple[int, int, int], weights: Sequence[_Weights]
) -> dict[str, IntArray]:
    """The same in closed form, where a unit has all queries and sees all keys."""
    rows = s.q_len * t.tile_g
    trips, units, parts = grid.units, grid.all_units, grid.parts[2]
    own = np.minimum(s.kv_len, grid.keys)
    mine, every = (_Units(rows, keys, t.tile_s, cube, weights[NONE]) for keys in (own, np.full(len(t), s.kv_len)))
    row_bits = np.array([w.row_bits for w in weights])[t.merge]
    unit_commands = np.array([w.unit_commands for w in weights])[t.merge]
    share_q, share_g = merge_share(s.q_len, t.tile_g, parts)
    return {
        "tiu_steps": trips * mine.tiu,
        "vec_steps": trips * mine.vec,
        "key_steps": trips * mine.steps,
        "gdma_bits": trips
        * (
            rows * row_bits
            + t.tile_g * weights[NONE].head_bits
            + _loaded(own, t.tile_s, grid.keys) * weights[NONE].key_bits
        ),
        "gdma_commands": trips * (unit_commands + mine.steps * weights[NONE].step_commands),
        "rows": trips * rows,
        "merged_rows": trips * share_q * share_g,
        "pairs": units * rows * s.kv_len,
        "all_tiu_steps": units * every.tiu,
        "all_vec_steps": units * every.vec,
        "read_together": trips * _read(own * 0 + s.kv_len, t.tile_s, s.kv_len, grid.keys),
        "read_apart": units * _read(own * 0 + s.kv_len, t.tile_s, s.kv_len, grid.keys),
    }


def _read(seen: IntArray, tile_s: IntArray, kv_len: int, part: IntArray) -> IntArray:
    """Keys that the cores of all key parts read together for the first `seen` keys."""
    whole = np.minimum(seen // part, (kv_len - 1) // part)
    last = np.minimum(part, kv_len - whole * part)
    return np.asarray(whole * _loaded(part, tile_s, part) + _loaded(seen - whole * part, tile_s, last), np.int64)


class _Groups:
    """The units of each tiling, from the last one on in strides, in `GROUPS` groups: arrays [tiling, group]."""

    def __init__(self, s: AttentionShape, t: AttentionTilings, grid: Grid, stride: IntArray, count: IntArray) -> None:
        columns = min(GROUPS, int(count.max()))
        edges = np.arange(columns + 1) * count[:, None] // columns
        first, end = edges[:, :-1], edges[:, 1:]
        tile_q = t.tile_q[:, None]
        blocks_g = s.group // t.tile_g[:, None]

        def block(place: IntArray) -> IntArray:
            return np.maximum(grid.all_units[:, None] - 1 - place * stride[:, None], 0) // blocks_g

        # Only the last block of queries can be short, and units see fewer keys the earlier they are.
        most = block(first)
        self.size = end - first
        self.rows = (np.minimum((most + 1) * tile_q, s.q_len) - most * tile_q) * t.tile_g[:, None]
        least = block(end - 1)
        past = s.kv_len - s.q_len
        seen, more = (s.seen_before(np.minimum((b + 1) * tile_q, s.q_len)) for b in (least, most))
        if s.reach is not None:
            # From block to block they are more until the window begins to move; the last block can be short.
            begin, later = (s.reach.first_of(past + b * tile_q) for b in (least, most))
            seen, more = seen - begin, more - later
            if s.reach.kind == "chunk":
                # And until the next chunk: then there may be none but those of the queries themselves.
                more = np.where(begin == later, more, np.minimum(tile_q, s.q_len - most * tile_q))
            seen = np.minimum(seen, more)
        self.seen: IntArray = seen if s.causal else np.full(seen.shape, s.kv_len)

    def sum(self, amount: IntArray) -> IntArray:
        """Over the units of each tiling."""
        return np.asarray((self.size * amount).sum(axis=1), np.int64)


def _lower_bounds(
    s: AttentionShape, t: AttentionTilings, grid: Grid, cube: tuple[int, int, int], weights: Sequence[_Weights]
) -> dict[str, IntArray]:
    """No field is more than in `_sums`.

    The busiest core has at least what the core of the last unit has, and a group of units at least so often the fewest
    rows and the fewest keys that one of them has.  A window may leave out any part of the keys: then the busiest part
    has at least the mean of all, and what is read for the sake of whole tiles is left out.
    """
    tile_s, part = t.tile_s[:, None], grid.keys[:, None]
    mine = _Groups(s, t, grid, grid.parts[1], grid.units)
    every = _Groups(s, t, grid, np.ones(len(t), np.int64), grid.all_units)
    own, most, parts = np.minimum(mine.seen, part), part, np.ones_like(grid.keys)
    if s.reach is not None:
        own, most, parts = mine.seen, mine.seen, grid.parts[2]

    def of_part(amount: IntArray) -> IntArray:
        return ceil_div(mine.sum(amount), parts)

    def read(of: _Groups) -> IntArray:
        return of.sum(of.seen if s.reach is not None else _read(of.seen, tile_s, s.kv_len, part))

    counts, all_counts = (
        _Units(of.rows, keys, tile_s, cube, weights[NONE]) for of, keys in ((mine, own), (every, every.seen))
    )
    row_bits = np.array([w.row_bits for w in weights])[t.merge][:, None]
    head_bits = t.tile_g[:, None] * weights[NONE].head_bits
    unit_commands = np.array([w.unit_commands for w in weights])[t.merge][:, None]
    share_q, share_g = merge_share(np.minimum(t.tile_q, s.q_len), t.tile_g, grid.parts[2])
    merged = np.minimum(share_q[:, None], mine.rows // t.tile_g[:, None]) * share_g[:, None]
    return {
        "tiu_steps": of_part(counts.tiu),
        "vec_steps": of_part(counts.vec),
        "key_steps": of_part(counts.steps),
        "gdma_bits": mine.sum(mine.rows * row_bits + head_bits)
        + of_part(_loaded(own, tile_s, most) * weights[NONE].key_bits),
        "gdma_commands": mine.sum(unit_commands) + of_part(counts.steps * weights[NONE].step_commands),
        "rows": mine.sum(mine.rows),
        "merged_rows": mine.sum(merged),
        "pairs": every.sum(every.rows * every.seen),
        "all_tiu_steps": every.sum(all_counts.tiu),
        "all_vec_steps": every.sum(all_counts.vec),
        # The last unit of a trip sees no fewer keys than the last core's.
        "read_together": read(mine),
        "read_apart": read(every),
    }


def resources(
    shape: AttentionShape,
    tilings: AttentionTilings,
    chip: Chip,
    softmax: tuple[int, int],
    v_apart: bool = False,
    at_least: bool = False,
) -> Resources:
    """What each tiling asks of the busiest core and of the chip; `at_least` gives lower bounds, quickly.

    `softmax` is the vector steps per score, and per row and key step; `v_apart` loads V once more where it is a slice
    of the keys, which no program does but one convention of counting charges.
    """
    s, grid = shape, grid_of(shape, tilings, chip)
    t = replace(tilings, merge=merge_needed(tilings.merge, grid.parts[2]))
    cube = chip.cube
    depth = cube_k(chip, s.dtype)
    problems, parts_s = grid.problems, grid.parts[2]
    units, all_rows = problems * grid.units, s.problems * s.group * s.q_len
    merges, through_dram = t.merge != NONE, t.merge == DRAM

    key_bits = sum(d * bits for d, bits in zip(s.qk_dims, s.k_bits, strict=True))
    if s.shared_piece is None or v_apart:
        key_bits += s.v_dim * s.v_bits
    state_bits, state_commands = (s.v_dim + STATE_COLUMNS) * ACCUMULATOR_BITS, 1 + STATE_COLUMNS
    in_bits = sum(s.qk_dims) * s.q_bits
    in_commands = len(s.qk_dims) + state_commands * s.state_reads + (s.sink_bits > 0)
    out_bits = state_bits if s.state_results else s.v_dim * s.out_bits
    out_commands = state_commands if s.state_results else 1
    weights = [
        _Weights(
            qk=sum(int(ceil_div(d, depth)) for d in s.qk_dims),
            pv=int(ceil_div(s.v_dim, cube.n)),
            per_score=softmax[0],
            per_row=softmax[1],
            row_bits=in_bits + state_bits * s.state_reads + left_bits,
            head_bits=s.sink_bits,
            key_bits=key_bits,
            unit_commands=in_commands + left_commands,
            step_commands=len(s.qk_dims) + (s.shared_piece is None),
        )
        for left_bits, left_commands in ((out_bits, out_commands), (0, 0), (state_bits, state_commands))  # as `MERGES`
    ]
    # With one block of queries all units see the same keys, causal or not.
    equal = s.q_len <= int(t.tile_q.min())
    count = _equal_units if equal else _lower_bounds if at_least else _sums
    of = count(s, t, grid, (cube.m, cube.n, depth), weights)

    keys_read = s.problems * np.where(t.multicast == 1, of["read_together"], of["read_apart"])
    readers = np.where(t.multicast == 1, 1, parts_s)
    sinks_read = s.problems * ceil_div(s.q_len, t.tile_q) * s.group * readers
    scratch = np.where(through_dram, bytes_of(parts_s * all_rows, state_bits), 0)
    # Besides the softmax: the state is filled before the first key and divided by its sum after the last.
    ends = 0 * t.tile_q
    filled = command_steps(FillAttr, 1, s.v_dim, chip) + STATE_COLUMNS * command_steps(FillAttr, 1, 1, chip)
    # Where cores share the keys, only the first part begins with the state that there is.
    ends = ends + np.where(merges, filled, 0) if s.state_reads else ends + filled
    if not s.state_results:
        ends = ends + np.where(merges, 0, command_steps(SoftmaxFinishAttr, 1, s.v_dim, chip))
    active = grid.parts[0] * grid.parts[1] * parts_s
    mean = s.problems / active

    share = problems * of["merged_rows"]
    merge = Resources.nothing(len(t)).plus(
        vec_steps=np.where(merges, share * parts_s * round_up(s.v_dim, cube.m), 0),
        vec_commands=np.where(merges, units, 0),
        gdma_bytes=np.where(merges, bytes_of(share, s.v_dim * s.out_bits), 0)
        + np.where(through_dram, bytes_of(share * parts_s, state_bits), 0),
        gdma_commands=np.where(merges, units, 0) + np.where(through_dram, units * state_commands, 0),
        sdma_bytes=np.where(t.merge == SDMA, bytes_of(share * parts_s, state_bits), 0),
        sdma_commands=np.where(t.merge == SDMA, units * parts_s * state_commands, 0),
        dram_read=scratch,
        dram_written=scratch,
    )
    return Resources.nothing(len(t)).plus(
        cores=active,
        tiu_steps={s.dtype: problems * of["tiu_steps"]},
        tiu_mean_steps={s.dtype: mean * of["all_tiu_steps"]},
        tiu_commands=problems * of["key_steps"] * (len(s.qk_dims) + 1),
        vec_steps=problems * of["vec_steps"],
        vec_end_steps=problems * of["rows"] * ends,
        vec_mean_steps=mean * of["all_vec_steps"],
        vec_commands=problems * of["key_steps"],
        gdma_bytes=bytes_of(problems * of["gdma_bits"], 1),
        gdma_commands=problems * of["gdma_commands"],
        dram_read=bytes_of(keys_read, key_bits)
        + bytes_of(all_rows * readers, in_bits)
        + bytes_of(np.full(len(t), all_rows), state_bits * s.state_reads)
        + bytes_of(sinks_read, s.sink_bits),
        dram_written=bytes_of(np.full(len(t), all_rows), out_bits),
        macs=s.problems * of["pairs"] * (sum(s.qk_dims) + s.v_dim),
        overlaps=(t.slots == 2) & ((problems * of["key_steps"] > 1) | (at_least and s.reach is not None)),
        merge=merge,
    )
