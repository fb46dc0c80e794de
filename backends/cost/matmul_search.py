"""The search for the fastest tiling of a matmul: partition x tile x loop order x double buffering, exact and pruned.

Exact, although few candidates are looked at: a time depends on tiles only through how many there are along each dim,
so per count only the smallest tile matters; and for each loop order one dim of the tile costs nothing and may be as
small as a cube.  What remains is a line of candidates per partition and order.  Partitions are visited in the order of
a lower bound (every operand read once) until the bound is no better than the best tiling found.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from functools import lru_cache
from typing import Any

import numpy as np
import numpy.typing as npt

from pmc.backends.cost.matmul_tiles import INNERMOST, Granules, Innermost, MatmulTiles, Partition
from pmc.dialects.errors import PmcError
from pmc.dialects.interfaces import IntArray, MatmulShape

Floats = npt.NDArray[np.floating[Any]]

_TOLERANCE = 1e-12
"""Relative difference below which a bound is no better than the best: rounding of sums of a few terms."""


@dataclass(frozen=True)
class MatmulTiling:
    """A tiling and what it takes."""

    parts: tuple[int, int, int, int]
    """Cores along g, m, n, k."""
    tile: tuple[int, int, int]
    """m, n, k of a tile, in elements."""
    innermost: Innermost
    slots: int
    """2 where loads run ahead of compute."""
    seconds: float
    compute_s: float
    memory_s: float
    reduction_s: float
    traffic_bytes: float


class MatmulSearch:
    """Finds the fastest tiling that fits the LMEM budget."""

    def __init__(self, tiles: MatmulTiles) -> None:
        self.tiles = tiles
        self.budget = tiles.rates.chip.lmem_tile_budget_bytes

    def best(self, shape: MatmulShape) -> MatmulTiling:
        """The fastest tiling.  Raises PmcError when not even one cube fits the budget."""
        granules = self.tiles.granules(shape)
        partition = partitions(granules.blocks, self.tiles.rates.cores)
        ones = (np.ones(1), np.ones(1), np.ones(1))
        least = self.tiles.traffic(granules, partition, ones, "k")
        bound = self.tiles.time(granules, partition, np.asarray(least, np.float64), True).total_s
        best: MatmulTiling | None = None
        for index in np.argsort(bound, kind="stable"):
            if best is not None and bound[index] >= best.seconds * (1 - _TOLERANCE):
                break
            for candidate in self._tilings(granules, partition[int(index)]):
                if best is None or candidate.seconds < best.seconds * (1 - _TOLERANCE):
                    best = candidate
        if best is None:
            raise PmcError(
                f"no tile of {shape.m} x {shape.n} x {shape.k} fits the LMEM budget of {self.budget} bytes per core"
            )
        return best

    def _tilings(self, granules: Granules, partition: Partition) -> Iterator[MatmulTiling]:
        """The best tiling of one partition for each loop order and number of slots."""
        for innermost in INNERMOST:
            for slots in (2, 1):
                line = self._line(granules, partition, innermost, slots)
                if line is None:
                    continue
                m, n, k = line
                counts = tuple(-(-int(c[0]) // t) for c, t in zip(partition.chunk[1:], line, strict=True))
                mt, nt, kt = (np.asarray(c, np.float64) for c in counts)
                overlaps = (slots == 2) & (partition.chunk[0][0] * mt * nt * kt > 1)
                traffic = np.broadcast_to(self.tiles.traffic(granules, partition, (mt, nt, kt), innermost), m.shape)
                time = self.tiles.time(granules, partition, traffic, np.asarray(overlaps, np.float64))
                total = np.broadcast_to(time.total_s, m.shape)
                at = int(np.argmin(total))
                cube = granules.cube
                g, pm, pn, pk = (p[0] for p in partition.parts)
                yield MatmulTiling(
                    parts=(int(g), int(pm), int(pn), int(pk)),
                    tile=(int(m[at]) * cube[0], int(n[at]) * cube[1], int(k[at]) * cube[2]),
                    innermost=innermost,
                    slots=slots,
                    seconds=float(total[at]),
                    compute_s=float(time.compute_s[0]),
                    memory_s=float(np.broadcast_to(time.memory_s, m.shape)[at]),
                    reduction_s=float(time.reduction_s[0]),
                    traffic_bytes=float(traffic[at]),
                )

    def _line(
        self, granules: Granules, partition: Partition, innermost: Innermost, slots: int
    ) -> tuple[IntArray, IntArray, IntArray] | None:
        """Tiles in cubes that no other tile of this partition and order beats: all that fit, one per tile count."""
        _, chunk_m, chunk_n, chunk_k = (int(c[0]) for c in partition.chunk)
        cube_m, cube_n, cube_k = granules.cube
        a = slots * cube_m * cube_k * granules.shape.a_bits / 8  # bytes of one cube of the A tile, with its slots
        b = slots * cube_n * cube_k * granules.shape.b_bits / 8
        c = cube_m * cube_n * granules.c_tile_bytes
        one = np.ones(1, np.int64)
        if innermost == "k":
            # Small k costs nothing; two steps of k let loads overlap where the chunk is one tile otherwise.
            m = tile_sizes(chunk_m)
            n = _fit(self.budget - m * a, b + m * c, chunk_n)
            m, n = m[n > 0], n[n > 0]
            k = np.minimum(_fit(self.budget - m * n * c, m * a + n * b, chunk_k), max(1, -(-chunk_k // 2)))
        elif innermost == "n":
            m = tile_sizes(chunk_m)
            k = _fit(self.budget - m * c, m * a + b, chunk_k)
            m, k = m[k > 0], k[k > 0]
            n = one
        else:
            n = tile_sizes(chunk_n)
            k = _fit(self.budget - n * c, a + n * b, chunk_k)
            n, k = n[k > 0], k[k > 0]
            m = one
        if not len(k):
            return None
        m, n, k = (np.broadcast_to(t, k.shape).astype(np.int64) for t in (m, n, k))
        if innermost == "n":
            n = self._widen(chunk_n, self.budget - m * k * a, k * b + m * c, ((chunk_m, m), (chunk_k, k)))
        elif innermost == "m":
            m = self._widen(chunk_m, self.budget - n * k * b, k * a + n * c, ((chunk_n, n), (chunk_k, k)))
        return m, n, k

    @staticmethod
    def _widen(
        chunk: int, room: Floats, per_cube: Floats, others: tuple[tuple[int, IntArray], tuple[int, IntArray]]
    ) -> IntArray:
        """The innermost dim as wide as fits, for fewer and longer commands; halved where that would leave one tile."""
        (chunk_1, tile_1), (chunk_2, tile_2) = others
        whole = (tile_1 >= chunk_1) & (tile_2 >= chunk_2)
        most = np.where(whole, max(1, -(-chunk // 2)), chunk)
        return np.minimum(np.maximum(_fit(room, per_cube, chunk), 1), most)


def _fit(room: Floats, per_cube: Floats, most: int) -> IntArray:
    """How many cubes fit into `room` bytes, at most `most`, 0 for none."""
    return np.clip(np.floor(room / per_cube), 0, most).astype(np.int64)


@lru_cache(maxsize=4096)
def tile_sizes(chunk: int) -> IntArray:
    """The smallest tile for every number of tiles that a chunk can be cut into."""
    return np.unique(-(-chunk // np.arange(1, chunk + 1, dtype=np.int64)))


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


def partitions(blocks: tuple[int, int, int, int], cores: int) -> Partition:
    """All partitions with different chunks; cores without work are not counted."""
    total = np.array(blocks, np.int64)
    chunk = -(-total // np.minimum(_core_counts(cores), total))
    chunk = np.unique(chunk, axis=0)
    parts = -(-total // chunk)
    cg, cm, cn, ck = chunk.T
    g, m, n, k = parts.T
    return Partition((g, m, n, k), (cg, cm, cn, ck))
