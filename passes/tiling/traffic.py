"""The default cost of a tiling: arithmetic on aligned sizes against DRAM traffic, partly overlapped.

time = max(t_c, t_m) + (1 - overlap) * min(t_c, t_m): t_c on the busiest core with sizes rounded up to the cube (so 65
tiles on 64 cores cost two waves), t_m the traffic of all loads and stores over the DRAM bandwidth; a block that
several cores load in the same iteration is read once where the chip multicasts.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt

from pmc.dialects.arch import Chip
from pmc.dialects.interfaces import (
    AttentionPlans,
    AttentionShape,
    FloatArray,
    IntArray,
    MatmulPlans,
    MatmulShape,
)


def _up(value: IntArray, step: int) -> IntArray:
    return -(-value // step) * step


@dataclass(frozen=True)
class TrafficModel:
    """Ranks plans by compute and DRAM time of one chip; start-up times and the vector unit are left out."""

    chip: Chip

    def core_flops_per_s(self, dtype: str) -> float:
        """The rate of one core; a type without a matrix path is ranked at the slowest rate that exists."""
        known = self.chip.macs_per_lane_per_cycle.supported()
        used = dtype if dtype in known else min(known, key=lambda d: self.chip.peak_flops_per_s(d))
        return self.chip.peak_flops_per_s(used) / self.chip.cores

    def _total(self, flops: npt.NDArray[Any], dtype: str, traffic: npt.NDArray[Any]) -> FloatArray:
        compute = flops / self.core_flops_per_s(dtype)
        memory = traffic / self.chip.dram_bytes_per_s
        hidden = self.chip.compute_dma_overlap_rate
        total = np.maximum(compute, memory) + (1 - hidden) * np.minimum(compute, memory)
        return np.asarray(total, np.float64)

    def _cube_k(self, dtype: str, bits: int) -> int:
        return self.chip.cube.k.get(dtype) or max(1, 256 // bits)

    def matmul_seconds(self, shape: MatmulShape, plans: MatmulPlans) -> FloatArray:
        """A is read once per column tile of a core and B once per row tile, unless K is one tile and it stays."""
        cube = self.chip.cube
        k = -(-shape.k // self._cube_k(shape.dtype, shape.a_bits)) * self._cube_k(shape.dtype, shape.a_bits)
        work = 2.0 * plans.chunk_g * _up(plans.chunk_m, cube.m) * _up(plans.chunk_n, cube.n) * k
        whole_k, row_outer = plans.tile_k >= shape.k, plans.order == 0
        trips_m, trips_n = -(-plans.chunk_m // plans.tile_m), -(-plans.chunk_n // plans.tile_n)
        reads_a = np.where(whole_k & row_outer, 1, trips_n)
        reads_b = np.where(whole_k & ~row_outer, 1, trips_m)
        if not self.chip.gdma_multicast:
            reads_a, reads_b = reads_a * plans.cores_n, reads_b * plans.cores_m
        traffic = (
            float(shape.m * shape.k * shape.a_bits) * reads_a
            + float(shape.k * shape.n * shape.b_bits) * reads_b
            + float(shape.m * shape.n * shape.out_bits)
        ) * (shape.groups / 8)
        return self._total(work, shape.dtype, traffic)

    def attention_seconds(self, shape: AttentionShape, plans: AttentionPlans) -> FloatArray:
        """Keys are read once per unit, or by all cores at once that run units of one sequence and key head.

        Units are dealt in contiguous runs: at any time each core has at most one unit of a sequence and key head, so
        with multicast these units cost as many passes as the busiest core has of them.  Causal query blocks stop at
        their last query.
        """
        cube, cube_k = self.chip.cube, self._cube_k(shape.dtype, shape.q_bits)
        rows = _up(plans.tile_q * plans.tile_g, cube.m)
        blocks_q = -(-shape.q_len // plans.tile_q)
        # The mean number of keys of a query block, in whole key tiles.
        mean = shape.kv_len - (shape.q_len - plans.tile_q) / 2 if shape.causal else np.float64(shape.kv_len)
        mean = np.minimum(mean, shape.kv_len)
        keys = np.maximum(1, np.ceil(mean / plans.tile_s)) * plans.tile_s
        width = sum(-(-d // cube_k) * cube_k for d in shape.qk_dims) + -(-shape.v_dim // cube.n) * cube.n
        work = 2.0 * plans.units_per_core * rows * keys * width
        kv_bits = (sum(shape.qk_dims) + (0 if shape.v_is_key else shape.v_dim)) * shape.kv_bits
        passes = blocks_q * -(-shape.group // plans.tile_g)
        if self.chip.gdma_multicast:
            passes = np.minimum(passes, plans.units_per_core)
        kv = shape.sequences * shape.kv_heads * passes * mean * kv_bits
        heads = shape.sequences * shape.kv_heads * shape.group * shape.q_len
        traffic = (kv + heads * (sum(shape.qk_dims) * shape.q_bits + shape.v_dim * shape.out_bits)) / 8
        traffic = traffic + heads * shape.state_bytes
        return self._total(work, shape.dtype, traffic)
