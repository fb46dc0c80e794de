"""The time of a tiled matmul: DRAM traffic by loop order, waves of chunks on the cores, overlap, reduction of K parts.

Source: the tiling rules of the SG2262 as published with Tier6-Model.  A matmul is cut over cores into chunks
[g, m, n, k], a chunk into tiles [m, n, k]; the innermost loop decides what is loaded again:

    k innermost   A * nt + B * mt + C
    m innermost   A * nt + B + C + S * (kt - 1)      S = partial sums, FP32, stored and loaded again
    n innermost   A + B * mt + C + S * (kt - 1)

with mt, nt, kt the tiles of a chunk along each dim.  Cores that need the same operand at the same time share one
DRAM read where the chip multicasts.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

import numpy as np

from pmc.backends.cost.rates import CoreRates
from pmc.dialects.interfaces import FloatArray, IntArray, MatmulShape

ACCUMULATOR_BYTES = 4
Innermost = Literal["k", "m", "n"]
Counts = tuple[FloatArray, FloatArray, FloatArray]
"""mt, nt, kt: the tiles of a chunk along each dim."""

INNERMOST: tuple[Innermost, ...] = ("k", "m", "n")


@dataclass(frozen=True)
class Granules:
    """Cube blocks of a matmul, and bytes of its elements."""

    shape: MatmulShape
    cube: tuple[int, int, int]
    """m, n, k of the matrix unit."""

    @property
    def blocks(self) -> tuple[int, int, int, int]:
        """G, and M, N, K in cubes, rounded up."""
        s = self.shape
        return s.groups, -(-s.m // self.cube[0]), -(-s.n // self.cube[1]), -(-s.k // self.cube[2])

    @property
    def padded(self) -> tuple[int, int, int]:
        """M, N, K rounded up to whole cubes."""
        _, m, n, k = self.blocks
        return m * self.cube[0], n * self.cube[1], k * self.cube[2]

    @property
    def operand_bytes(self) -> tuple[float, float, float, float]:
        """A, B, C and one store and load of all partial sums S, over all groups, padded."""
        s, (m, n, k) = self.shape, self.padded
        return (
            s.groups * m * k * s.a_bits / 8,
            s.groups * n * k * s.b_bits / 8,
            s.groups * m * n * s.out_bits / 8,
            s.groups * m * n * ACCUMULATOR_BYTES * 2.0,
        )

    @property
    def c_tile_bytes(self) -> float:
        """Bytes per element of the C tile: the output, at least 2 bytes wide, and its FP32 accumulator."""
        return max(2.0, self.shape.out_bits / 8) + ACCUMULATOR_BYTES


@dataclass(frozen=True)
class Partition:
    """How a matmul is cut over cores; every field has one entry per candidate."""

    parts: tuple[IntArray, IntArray, IntArray, IntArray]
    """Cores along g, m, n, k."""
    chunk: tuple[IntArray, IntArray, IntArray, IntArray]
    """What the busiest core has: groups, and cubes along m, n, k."""

    def __getitem__(self, index: int) -> Partition:
        g, m, n, k = (p[index : index + 1] for p in self.parts)
        cg, cm, cn, ck = (c[index : index + 1] for c in self.chunk)
        return Partition((g, m, n, k), (cg, cm, cn, ck))


@dataclass(frozen=True)
class MatmulTime:
    """Seconds of each part, one entry per candidate."""

    total_s: FloatArray
    compute_s: FloatArray
    memory_s: FloatArray
    reduction_s: FloatArray


class MatmulTiles:
    """Times of tilings on one chip under one accounting."""

    def __init__(self, rates: CoreRates) -> None:
        self.rates = rates

    def granules(self, shape: MatmulShape) -> Granules:
        """The cubes of a matmul."""
        cube = self.rates.chip.cube
        return Granules(shape, (cube.m, cube.n, self.rates.cube_k(shape.dtype, shape.a_bits)))

    def compute_s(self, granules: Granules, partition: Partition) -> FloatArray:
        """Aligned FLOPs of the busiest core (or the mean over cores that have work) at the peak of one core."""
        cube_flops = 2.0 * float(np.prod(granules.cube))
        if self.rates.accounting.waves == "whole":
            blocks = np.prod(np.stack(partition.chunk).astype(np.float64), axis=0)
        else:
            active = np.prod(np.stack(partition.parts).astype(np.float64), axis=0)
            blocks = float(np.prod(np.array(granules.blocks, np.float64))) / active
        return np.asarray(blocks * cube_flops / self.rates.core_flops_per_s(granules.shape.dtype))

    def traffic(
        self,
        granules: Granules,
        partition: Partition,
        tiles: Counts,
        inner: Innermost,
    ) -> FloatArray:
        """DRAM bytes for `tiles` = mt, nt, kt."""
        a, b, c, spill = granules.operand_bytes
        mt, nt, kt = tiles
        _, parts_m, parts_n, parts_k = partition.parts
        multicast = self.rates.chip.gdma_multicast
        a_reads, b_reads = (1, 1) if multicast else (parts_n, parts_m)
        again = spill * (kt - 1) * parts_k
        match inner:
            case "k":
                return np.asarray(a * a_reads * nt + b * b_reads * mt + c)
            case "m":
                return np.asarray(a * a_reads * nt + b * b_reads + c + again)
            case "n":
                return np.asarray(a * a_reads + b * b_reads * mt + c + again)

    def reduction_s(self, granules: Granules, partition: Partition) -> FloatArray:
        """Adding up K parts: each core takes its share of the block from every other part over SDMA, and adds it."""
        parts = partition.parts[3]
        if self.rates.accounting.core_reduction == "free":
            return np.zeros(parts.shape)
        sdma = self.rates.chip.commands.sdma
        cg, cm, cn, _ = partition.chunk
        elements = cg * cm * cn * granules.cube[0] * granules.cube[1] / parts
        message_s = sdma.startup_ns * 1e-9 + elements * ACCUMULATOR_BYTES / (sdma.gb_per_s * 1e9 * sdma.efficiency)
        add_s = elements / self.rates.core_steps_per_s("f32")
        return np.asarray((parts - 1) * (message_s + add_s))

    def time(
        self, granules: Granules, partition: Partition, traffic: FloatArray, overlaps: FloatArray | bool
    ) -> MatmulTime:
        """max + (1 - rate) * min of compute and traffic, then the reduction."""
        compute_s = self.compute_s(granules, partition)
        memory_s = np.asarray(traffic / self.rates.chip.dram_bytes_per_s)
        reduction_s = self.reduction_s(granules, partition)
        busy = np.asarray(self.rates.overlapped(compute_s, memory_s, overlaps), np.float64)
        return MatmulTime(busy + reduction_s, compute_s, memory_s, reduction_s)
