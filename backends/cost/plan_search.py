"""The search for the fastest plan of a matmul or an attention, among all that `lower-to-tiles` can write.

Matmul: partitions of the cores are visited in the order of a lower bound (every operand loaded once, no limit of LMEM)
until the bound is no better than the best plan found.  In each, two dims of the tile go over the sizes that give
different numbers of tiles and the third is as large as LMEM allows.  Up to `EXACT_TILES` tiles along a dim every number
is tried, then every number that is `GROWTH` times the last.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, replace
from functools import lru_cache
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from pmc.backends.cost.plan_time import PlanTime, PlanTimes
from pmc.backends.cost.rates import CoreRates
from pmc.backends.cost.tile_cache import PlanCache
from pmc.dialects.analyses import attention_tiling as attentions
from pmc.dialects.analyses import index_tiling as indexes
from pmc.dialects.analyses import matmul_tiling as matmuls
from pmc.dialects.analyses.attention_tiling import AttentionShape, AttentionTilings
from pmc.dialects.analyses.index_tiling import IndexShape
from pmc.dialects.analyses.matmul_tiling import MatmulShape, MatmulTilings
from pmc.dialects.analyses.resources import Resources, ceil_div, round_up
from pmc.dialects.errors import PmcError
from pmc.dialects.interfaces import FloatArray, IntArray
from pmc.dialects.tile_plan import PlanAttr

Numbers = npt.NDArray[Any]

EXACT_TILES, GROWTH = 8, 1.5
PARTITIONS_AT_ONCE = 6
COUNTED_AT_ONCE = 64
"""Plans of an attention that are counted unit by unit before the bound of the next is looked at."""

TOLERANCE = 1e-9
"""Relative difference below which two times are equal: rounding of sums of a few terms."""

SLOTS = 2
SLOT_GUESSES = ((2, 2, 2), (2, 2, 1), (1, 2, 1), (2, 1, 1), (1, 1, 1))
"""Slots that A, B and C may turn out to take: which loops exist, and so what rotates, depends on the tile."""

Sizes = tuple[IntArray, IntArray, IntArray]

QUERY_TILES = (1, 2, 4, 8, 16, 32, 64, 128, 192, 256, 512)
"""Query blocks tried, and the whole of the queries where it is less."""

MOST_KEY_TILES = 2048
"""Keys of a tile are at most so many."""


class PlanSearch:
    """Finds plans for one chip under one accounting, once per shape; prices any plan."""

    def __init__(self, rates: CoreRates, folder: Path | None = None) -> None:
        """Plans are kept in `folder`, if one is given."""
        self.rates = rates
        self.chip = rates.chip
        self.times = PlanTimes(rates)
        self.known = PlanCache(rates, folder)

    # -- prices -------------------------------------------------------------------------------------------------

    def matmul_resources(self, shape: MatmulShape, tilings: MatmulTilings) -> Resources:
        """What the plans of a matmul ask of the engines."""
        return matmuls.resources(shape, tilings, self.chip)

    def matmul_time(self, shape: MatmulShape, r: Resources) -> PlanTime:
        """The time of plans of a matmul."""
        return self.times.of(r, "f32", vec_is_free=self.vec_is_free(shape))

    def vec_is_free(self, shape: MatmulShape) -> bool:
        """Whether what the vector unit does in a matmul takes no time: conversions alone may be free."""
        return self.rates.accounting.result_conversion == "free" and not shape.gated

    def attention_resources(
        self, shape: AttentionShape, tilings: AttentionTilings, at_least: bool = False
    ) -> Resources:
        """What the plans of an attention ask of the engines, as the accounting counts it."""
        accounting = self.rates.accounting
        if accounting.attention_output == "as_inputs" and not shape.state_results:
            shape = replace(shape, out_bits=shape.q_bits)
        apart = accounting.v_read == "apart" and shape.shared_piece is not None
        softmax = self.rates.softmax_steps(shape.capped, shape.biased)
        return attentions.resources(shape, tilings, self.chip, softmax, apart, at_least)

    def attention_time(self, r: Resources) -> PlanTime:
        """The time of plans of an attention."""
        return self.times.of(r, "bf16")

    # -- the search ---------------------------------------------------------------------------------------------

    def matmul(self, shape: MatmulShape) -> PlanAttr:
        """The fastest plan.  Raises PmcError when not even one cube fits the LMEM budget."""
        return self.known.get(shape, lambda: _MatmulSearch(self, shape).best())

    def index_scores(self, shape: IndexShape) -> PlanAttr:
        """The fastest of the plans that are tried.  Raises PmcError when not even the smallest tile fits."""
        return self.known.get(shape, lambda: self._best_index_scores(shape))

    def _best_index_scores(self, shape: IndexShape) -> PlanAttr:
        found = indexes.plans(shape, self.chip)
        seconds = [self.index_time(indexes.resources(shape, plan, self.chip)).total_s[0] for plan in found]
        return found[int(np.argmin(seconds))]

    def index_time(self, r: Resources) -> PlanTime:
        """The time of a plan of the scores of an indexer."""
        return self.times.of(r, "f32")

    def attention(self, shape: AttentionShape) -> PlanAttr:
        """The fastest plan.  Raises PmcError when not even the smallest tile fits the LMEM budget."""
        return self.known.get(shape, lambda: self._best_attention(shape))

    def _best_attention(self, shape: AttentionShape) -> PlanAttr:
        tilings = attention_candidates(shape, self.rates)
        need = attentions.lmem_bytes(shape, tilings, self.chip)
        fits = np.flatnonzero(need <= self.chip.lmem_tile_budget_bytes)
        if not len(fits):
            raise PmcError(
                f"no tile of attention fits: the smallest needs {int(need.min())} bytes of LMEM, the budget of a core "
                f"is {self.chip.lmem_tile_budget_bytes}"
            )
        tilings = tilings[fits]
        bound = self.attention_time(self.attention_resources(shape, tilings, at_least=True)).total_s
        order = np.argsort(bound, kind="stable")
        counted, seconds = 0, np.inf
        while counted < len(order) and bound[order[counted]] <= seconds * (1 + TOLERANCE):
            some = order[counted : counted + COUNTED_AT_ONCE]
            counted += len(some)
            time = self.attention_time(self.attention_resources(shape, tilings[some]))
            seconds = min(seconds, float(time.total_s.min()))
        tilings = tilings[np.sort(order[:counted])]
        r = self.attention_resources(shape, tilings)
        return tilings.plan(_first(self.attention_time(r), r))


def _first(time: PlanTime, r: Resources) -> int:
    """The least time; of equal times that of fewest commands, then of fewest cores."""
    commands = r.gdma_commands + r.tiu_commands
    if r.merge is not None:
        commands = commands + r.merge.sdma_commands + r.merge.gdma_commands
    fast = np.flatnonzero(time.total_s <= time.total_s.min() * (1 + TOLERANCE))
    return int(fast[np.lexsort((r.cores[fast], commands[fast]))[0]])


# -- matmul -----------------------------------------------------------------------------------------------------


@dataclass
class _Best:
    seconds: float
    commands: int
    plan: PlanAttr


class _MatmulSearch:
    """The search for one shape."""

    def __init__(self, search: PlanSearch, shape: MatmulShape) -> None:
        self.search, self.shape, self.chip = search, shape, search.chip
        self.budget = self.chip.lmem_tile_budget_bytes
        cube = self.chip.cube
        self.step = (cube.m, cube.n, matmuls.cube_k(self.chip, shape.dtype))
        self.multicast = int(self.chip.gdma_multicast)

    def best(self) -> PlanAttr:
        """The fastest plan over all partitions."""
        cores = _partitions(self.shape, self.step, self.chip.cores)
        bound = self._bound(cores)
        order = np.argsort(bound, kind="stable")
        best: _Best | None = None
        for start in range(0, len(order), PARTITIONS_AT_ONCE):
            some = order[start : start + PARTITIONS_AT_ONCE]
            if best is not None:
                some = some[bound[some] < best.seconds * (1 - TOLERANCE)]
                if not len(some):
                    break
            best = self._better(best, [t for row in cores[some] for t in self._tilings(row)])
        if best is None:
            s = self.shape
            raise PmcError(f"no tile of {s.m} x {s.n} x {s.k} fits the LMEM budget of {self.budget} bytes per core")
        return best.plan

    def _better(self, best: _Best | None, parts: list[MatmulTilings]) -> _Best | None:
        if not parts:
            return best
        tilings = MatmulTilings.joined(parts)
        fits = matmuls.lmem_bytes(self.shape, tilings, self.chip) <= self.budget
        tilings = tilings[np.flatnonzero(fits)]
        if not len(tilings):
            return best
        r = self.search.matmul_resources(self.shape, tilings)
        time = self.search.matmul_time(self.shape, r)
        at = _first(time, r)
        found = _Best(float(time.total_s[at]), int(r.gdma_commands[at]), tilings.plan(at))
        return found if best is None or found.seconds < best.seconds * (1 - TOLERANCE) else best

    def _bound(self, cores: IntArray) -> FloatArray:
        """The time of every partition if its chunks were single tiles of any size, and all traffic overlapped."""
        bounds: list[FloatArray] = []
        for merge in (matmuls.SDMA, matmuls.DRAM):
            g, m, n, k = cores.T
            tile_m, tile_n, tile_k = (self._chunk(dim, cores) for dim in (1, 2, 3))
            order, slots, multicast = (np.full(len(cores), v) for v in (matmuls.K_INNER, SLOTS, self.multicast))
            merges = np.where(k > 1, merge, matmuls.NONE)
            whole = MatmulTilings(g, m, n, k, tile_m, tile_n, tile_k, order, slots, multicast, merges)
            r = self.search.matmul_resources(self.shape, whole)
            bounds.append(self.search.matmul_time(self.shape, r.plus(overlaps=np.ones(len(cores), bool))).total_s)
        return np.minimum(*bounds)

    def _chunk(self, dim: int, cores: IntArray) -> IntArray:
        total = (self.shape.groups, self.shape.m, self.shape.n, self.shape.k)[dim]
        return round_up(ceil_div(total, cores[:, dim]), self.step[dim - 1])

    def _tilings(self, cores: IntArray) -> Iterator[MatmulTilings]:
        """The tilings of one partition worth a look."""
        shape = self.shape
        chunk = [int(self._chunk(dim, cores[None, :])[0]) for dim in (1, 2, 3)]
        cubes = [c // s for c, s in zip(chunk, self.step, strict=True)]
        found: list[tuple[int, Sizes]] = [
            (matmuls.K_INNER, (np.array([cubes[0]]), np.array([cubes[1]]), np.array([cubes[2]])))
        ]
        for guess in SLOT_GUESSES:
            found += self._largest(cubes, guess)
        order = np.repeat([which for which, _ in found], [len(sizes[0]) for _, sizes in found])
        m, n, k = (np.concatenate([sizes[dim] for _, sizes in found]) for dim in range(3))
        usable = np.flatnonzero((m > 0) & (n > 0) & (k > 0))
        order, m, n, k = order[usable], m[usable], n[usable], k[usable]
        # Partial sums stay in LMEM only where a core has one result tile.
        single = (order == matmuls.K_INNER) & (m >= cubes[0]) & (n >= cubes[1]) & (shape.groups <= cores[0])
        for merge in (matmuls.NONE,) if cores[3] == 1 else (matmuls.SDMA, matmuls.DRAM):
            keep = np.flatnonzero(single) if merge == matmuls.SDMA else np.arange(len(m))
            parts = (np.full(len(keep), int(count)) for count in cores)
            tile = (size[keep] * step for size, step in zip((m, n, k), self.step, strict=True))
            slots, multicast, merges = (np.full(len(keep), v) for v in (SLOTS, self.multicast, merge))
            g_, m_, n_, k_ = parts
            tile_m, tile_n, tile_k = tile
            yield MatmulTilings(g_, m_, n_, k_, tile_m, tile_n, tile_k, order[keep], slots, multicast, merges)

    def _largest(self, cubes: list[int], slots: tuple[int, int, int]) -> Iterator[tuple[int, Sizes]]:
        """For every loop order two dims of the tile in cubes and the largest third, if A, B and C take these slots."""
        shape, (cm, cn, ck) = self.shape, self.step
        a = slots[0] * cm * ck * shape.a_bits / 8  # bytes of one cube of the A tile, in its slots
        b_bits = slots[1] * (shape.b_bits + shape.storage.scale_bits) + shape.storage.widened_bits
        b = shape.products * cn * ck * b_bits / 8
        c = slots[2] * cm * cn * (4 * shape.products + (shape.out_bits / 8 if shape.finishes else 0))
        m, n, k = (tile_sizes(size) for size in cubes)
        mm, nn = _pairs(m, n)
        deep = _fit(self.budget - mm * nn * c, mm * a + nn * b, cubes[2])
        yield from ((matmuls.K_INNER, (mm, nn, depth)) for depth in (deep, _half(deep, cubes[2])))
        # With k outside, partial sums of several steps leave LMEM: few steps are worth a look.
        few = k[ceil_div(cubes[2], k) <= 2]
        nn, kk = _pairs(n, few)
        high = _fit(self.budget - nn * kk * b, kk * a + nn * c, cubes[0])
        yield from ((matmuls.M_INNER, (height, nn, kk)) for height in (high, _half(high, cubes[0])))
        mm, kk = _pairs(m, few)
        wide = _fit(self.budget - mm * kk * a, kk * b + mm * c, cubes[1])
        yield from ((matmuls.N_INNER, (mm, width, kk)) for width in (wide, _half(wide, cubes[1])))


def _pairs(first: IntArray, second: IntArray) -> tuple[IntArray, IntArray]:
    """Every number of `first` with every one of `second`; `meshgrid` would take most of the time of a search."""
    return np.repeat(first, len(second)), np.tile(second, len(first))


def _half(size: IntArray, most: int) -> IntArray:
    return np.minimum(size, max(1, -(-most // 2)))


def _fit(room: Numbers, per_cube: Numbers, most: int) -> IntArray:
    """How many cubes fit into `room` bytes, at most `most`, 0 for none."""
    cubes: IntArray = np.minimum(np.maximum(room // per_cube, 0), most).astype(np.int64)
    return cubes


@lru_cache(maxsize=4096)
def tile_sizes(chunk: int) -> IntArray:
    """The smallest tile for the numbers of tiles that are tried."""
    counts = [*range(1, min(chunk, EXACT_TILES) + 1)]
    while counts[-1] < chunk:
        counts.append(min(chunk, max(counts[-1] + 1, int(counts[-1] * GROWTH))))
    return np.unique(-(-chunk // np.array(counts, np.int64)))


@lru_cache(maxsize=16)
def _core_counts(cores: int) -> IntArray:
    """All (g, m, n, k) whose product is at most `cores`, as rows."""
    rows = [
        (g, m, n, k)
        for g in range(1, cores + 1)
        for m in range(1, cores // g + 1)
        for n in range(1, cores // (g * m) + 1)
        for k in range(1, cores // (g * m * n) + 1)
    ]
    return np.array(rows, np.int64)


def _partitions(shape: MatmulShape, step: tuple[int, int, int], cores: int) -> IntArray:
    """All partitions with different chunks; cores without work are not counted."""
    total = np.array([
        shape.groups, *(-(-size // s) for size, s in zip((shape.m, shape.n, shape.k), step, strict=True))
    ])  # fmt: skip
    chunk = np.unique(-(-total // np.minimum(_core_counts(cores), total)), axis=0)
    return np.asarray(-(-total // chunk), np.int64)


# -- attention --------------------------------------------------------------------------------------------------


def attention_candidates(shape: AttentionShape, rates: CoreRates) -> AttentionTilings:
    """Query blocks, divisors of the group, key tiles; for each the grids that use most cores.

    Raises PmcError where not even one step of keys is a tile.
    """
    step, cores = attentions.key_step(shape, rates.chip), rates.cores
    queries = sorted({min(q, shape.q_len) for q in QUERY_TILES})
    heads = [g for g in range(1, shape.group + 1) if shape.group % g == 0]
    parts = _shares(shape.problems, cores)
    rows: list[tuple[int, ...]] = []
    for q in queries:
        for g in heads:
            units = -(-shape.q_len // q) * (shape.group // g)
            for p in parts:
                for u in _shares(units, cores // p):
                    for s in _key_parts(shape, step, cores // (p * u)):
                        part = -(-shape.kv_len // s)
                        tiles = tile_sizes(-(-part // step)) * step
                        rows += [(p, u, s, q, g, int(t)) for t in tiles if t <= MOST_KEY_TILES]
    if not rows:
        raise PmcError(f"no tile of attention fits: keys come in steps of {step}, a tile has {MOST_KEY_TILES} at most")
    p, u, s, q, g, keys = np.array(rows, np.int64).T
    slots, multicast = (np.full(len(p), v) for v in (SLOTS, int(rates.chip.gdma_multicast)))
    found: list[AttentionTilings] = []
    for merge in (matmuls.NONE, matmuls.SDMA, matmuls.DRAM):
        mine = np.flatnonzero((s > 1) == (merge != matmuls.NONE))
        tilings = AttentionTilings(p, u, s, q, g, keys, slots, multicast, np.full(len(p), merge))[mine]
        if merge == matmuls.SDMA and len(tilings):
            grid = attentions.grid_of(shape, tilings, rates.chip)
            tilings = tilings[np.flatnonzero(grid.problems * grid.units == 1)]
        found.append(tilings)
    return AttentionTilings.joined(found)


def _shares(total: int, cores: int) -> list[int]:
    """Core counts worth a look for `total` items: as many as there are, and powers of two; equal chunks once."""
    most = min(total, cores)
    tried = {most, *(1 << i for i in range(most.bit_length()))}
    by_chunk = {-(-total // c): c for c in sorted(tried, reverse=True)}
    return sorted({-(-total // chunk) for chunk in by_chunk})


def _key_parts(shape: AttentionShape, step: int, cores: int) -> list[int]:
    """Parts of the keys: one, and as many as there are cores left for; a step of a ring keeps its keys together."""
    if shape.state_results or cores < 2:
        return [1]
    most = min(cores, -(-shape.kv_len // step))
    chunk = round_up(ceil_div(shape.kv_len, most), step)
    return sorted({1, int(ceil_div(shape.kv_len, chunk))})
