"""The time of tiled flash attention (Dao, FlashAttention-2, 2023), and the search for the fastest tiling.

A unit is a block of queries x heads of one key head of one sequence: R rows.  Units are dealt to the cores; each runs
over its keys in tiles.  LMEM holds Q, K, V, two tiles P of 2 bytes and four tiles O of 2 bytes, rows aligned to the
matrix unit and row bytes to the alignment of the chip.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from pmc.backends.cost.matmul_search import tile_sizes
from pmc.backends.cost.rates import CoreRates
from pmc.dialects.errors import PmcError
from pmc.dialects.interfaces import AttentionPlans, AttentionShape, FloatArray, IntArray

P_TILES, O_TILES, TILE_BYTES = 2, 4, 2


@dataclass(frozen=True)
class AttentionTiling:
    """A tiling and what it takes."""

    tile_q: int
    """Queries of a block."""
    tile_g: int
    """Heads of a block."""
    tile_s: int
    """Keys of a step."""
    units: int
    seconds: float
    compute_s: float
    memory_s: float
    traffic_bytes: float


@dataclass(frozen=True)
class AttentionTime:
    """Seconds of each part, one entry per candidate."""

    total_s: FloatArray
    compute_s: FloatArray
    memory_s: FloatArray
    traffic: FloatArray


class AttentionTiles:
    """Times of tilings on one chip under one accounting."""

    def __init__(self, rates: CoreRates) -> None:
        self.rates = rates
        self.budget = rates.chip.lmem_tile_budget_bytes

    def best(self, shape: AttentionShape) -> AttentionTiling:
        """The fastest tiling.  Raises PmcError when not even the smallest fits the budget."""
        plans = self.candidates(shape)
        fits = np.flatnonzero(self.lmem_bytes(shape, plans) <= self.budget)
        if not len(fits):
            least = int(self.lmem_bytes(shape, plans).min())
            raise PmcError(
                f"no tile of attention fits: the smallest needs {least} bytes of LMEM, the budget is {self.budget}"
            )
        plans = AttentionPlans(*(column[fits] for column in vars(plans).values()))
        time = self.time(shape, plans)
        at = int(np.argmin(time.total_s))
        return AttentionTiling(
            tile_q=int(plans.tile_q[at]),
            tile_g=int(plans.tile_g[at]),
            tile_s=int(plans.tile_s[at]),
            units=int(plans.units[at]),
            seconds=float(time.total_s[at]),
            compute_s=float(time.compute_s[at]),
            memory_s=float(time.memory_s[at]),
            traffic_bytes=float(time.traffic[at]),
        )

    def candidates(self, shape: AttentionShape) -> AttentionPlans:
        """Query blocks by their number, divisors of the group, and key tiles by their number in steps of cube k."""
        step = self.key_step(shape)
        queries = tile_sizes(shape.q_len)
        heads = np.array([g for g in range(1, shape.group + 1) if shape.group % g == 0], np.int64)
        keys = tile_sizes(-(-shape.kv_len // step)) * step
        q, g, s = (axis.ravel() for axis in np.meshgrid(queries, heads, keys, indexing="ij"))
        units = shape.sequences * shape.kv_heads * (shape.group // g) * -(-shape.q_len // q)
        cores = np.minimum(units, self.rates.cores)
        return AttentionPlans(cores, units, -(-units // self.rates.cores), q, g, s)

    def key_step(self, shape: AttentionShape) -> int:
        """Keys are columns of one matmul and the contraction of the other: whole cubes of both."""
        cube = self.rates.chip.cube
        return int(np.lcm(cube.n, self.rates.cube_k(shape.dtype, shape.kv_bits)))

    def lmem_bytes(self, shape: AttentionShape, plans: AttentionPlans) -> IntArray:
        """LMEM of one core."""
        align = self.rates.chip.alignment_bytes
        rows = _round_up(plans.tile_q * plans.tile_g, self.rates.chip.cube.m)
        keys = plans.tile_s

        def row_bytes(columns: IntArray | int, bits: int) -> IntArray:
            return np.asarray(-(-(np.asarray(columns) * bits) // (8 * align)) * align)

        key_bytes = row_bytes(sum(shape.qk_dims), shape.kv_bits)
        if not self.shares_v(shape):
            key_bytes = key_bytes + row_bytes(shape.v_dim, shape.kv_bits)
        need = rows * row_bytes(sum(shape.qk_dims), shape.q_bits) + keys * key_bytes
        need = need + P_TILES * rows * row_bytes(keys, 8 * TILE_BYTES)
        return np.asarray(need + O_TILES * rows * row_bytes(shape.v_dim, 8 * TILE_BYTES))

    def shares_v(self, shape: AttentionShape) -> bool:
        """Whether V is read with the keys."""
        return shape.v_is_key and self.rates.accounting.v_read == "shared"

    def time(self, shape: AttentionShape, plans: AttentionPlans) -> AttentionTime:
        """Both matmuls and the softmax on the core that decides, overlapped with the traffic of the chip."""
        cube = self.rates.chip.cube
        cube_k = self.rates.cube_k(shape.dtype, shape.q_bits)
        rows = _round_up(plans.tile_q * plans.tile_g, cube.m).astype(np.float64)
        keys, steps = self._keys(shape, plans)
        qk, v = _round_up(np.int64(sum(shape.qk_dims)), cube_k), _round_up(np.int64(shape.v_dim), cube.n)
        gemm = 2.0 * rows * keys * float(qk + v) / self.rates.core_flops_per_s(shape.dtype)
        per_score, per_row = self.rates.softmax_steps
        softmax = rows * (per_score * keys + per_row * steps)
        softmax_s = softmax / self.rates.core_steps_per_s("bf16")
        compute_s = np.asarray(self.rates.waves(plans.units.astype(np.float64)) * (gemm + softmax_s))
        traffic = self._traffic(shape, plans, keys)
        memory_s = np.asarray(traffic / self.rates.chip.dram_bytes_per_s)
        total = np.asarray(self.rates.overlapped(compute_s, memory_s), np.float64)
        return AttentionTime(total, compute_s, memory_s, traffic)

    def _keys(self, shape: AttentionShape, plans: AttentionPlans) -> tuple[FloatArray, FloatArray]:
        """Keys that a unit multiplies with, padded, and its key steps; the mean over the query blocks."""
        step = self.key_step(shape)
        if not shape.causal:
            whole = float(-(-shape.kv_len // step) * step)
            return np.full(plans.tile_q.shape, whole), np.ceil(whole / plans.tile_s)
        keys, steps = np.empty(plans.tile_q.shape), np.empty(plans.tile_q.shape)
        for tile_q in map(int, np.unique(plans.tile_q)):
            mine = plans.tile_q == tile_q
            last = np.minimum(np.arange(0, shape.q_len, tile_q) + tile_q, shape.q_len)
            seen = shape.kv_len - shape.q_len + last
            padded = -(-seen // step) * step
            keys[mine] = padded.mean()
            steps[mine] = np.ceil(padded[None, :] / plans.tile_s[mine][:, None]).mean(axis=1)
        return keys, steps

    def _traffic(self, shape: AttentionShape, plans: AttentionPlans, keys: FloatArray) -> FloatArray:
        """Q and O once; keys and values once per problem (a key head of a sequence) and pass.

        Units are dealt in contiguous runs, so at any time a core has at most one unit of a problem: with multicast
        there are as many passes as the busiest core has units.  The last query block sees all keys.
        """
        problems = shape.sequences * shape.kv_heads
        passes = plans.units // problems
        if self.rates.chip.gdma_multicast:
            passes = np.minimum(passes, plans.units_per_core)
        width = sum(shape.qk_dims) + (0 if self.shares_v(shape) else shape.v_dim)
        rows = shape.sequences * shape.kv_heads * shape.group * shape.q_len
        # A step of a ring has no result, whatever the accounting charges for one.
        as_inputs = self.rates.accounting.attention_output != "stored" and shape.out_bits > 0
        out_bits = shape.q_bits if as_inputs else shape.out_bits
        q_and_o = rows * (sum(shape.qk_dims) * shape.q_bits + shape.v_dim * out_bits) / 8 + rows * shape.state_bytes
        loaded = np.maximum(passes * np.minimum(keys, shape.kv_len), shape.kv_len)
        return np.asarray(q_and_o + problems * loaded * width * shape.kv_bits / 8)


def _round_up(value: IntArray | np.int64, step: int) -> IntArray:
    return np.asarray(-(-value // step) * step)
