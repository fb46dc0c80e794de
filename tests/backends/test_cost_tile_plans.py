"""The cost of plans that `select-tiles` proposes: what commands can overlap, and what each of them costs to start."""

from __future__ import annotations

import numpy as np
import pytest

from pmc.backends.cost.rates import CoreRates
from pmc.backends.cost.tile import TilePlanCost
from pmc.compiler.config import load_accounting, load_chip
from pmc.dialects.interfaces import FloatArray, MatmulPlans, MatmulShape

CHIP = load_chip("sg2262")
COST = TilePlanCost(CoreRates(CHIP, load_accounting("physical")))
STARTUP_S = 100e-9


def seconds(shape: MatmulShape, tile_k: list[int], tile_m: int = 64) -> FloatArray:
    """The time with all rows on every core, 64 shares of the columns, and K in tiles."""
    ones = np.ones(len(tile_k), np.int64)
    columns = shape.n // 64
    plans = MatmulPlans(
        cores_g=ones, cores_m=ones, cores_n=64 * ones,
        chunk_g=ones, chunk_m=shape.m * ones, chunk_n=columns * ones,
        tile_m=tile_m * ones, tile_n=columns * ones, tile_k=np.asarray(tile_k), order=0 * ones,
    )  # fmt: skip
    return COST.matmul_seconds(shape, plans)


def shape(m: int, n: int, k: int) -> MatmulShape:
    return MatmulShape(1, m, n, k, 8, 8, 16, "f8E4M3FN")


def test_one_step_along_k_overlaps_nothing() -> None:
    """q_a of DeepSeek-V3: 64 x 1536 x 7168 in FP8, sg2262."""
    found = seconds(shape(64, 1536, 7168), [7168])[0]
    compute = 2 * 64 * 1536 * 7168 / CHIP.peak_flops_per_s("f8E4M3FN")
    memory = (64 * 7168 + 7168 * 1536 + 2 * 64 * 1536) / CHIP.dram_bytes_per_s
    assert found == pytest.approx(compute + memory + 2 * STARTUP_S)


def test_steps_along_k_overlap_but_for_the_first() -> None:
    found = seconds(shape(64, 1536, 7168), [3584])[0]
    compute = 2 * 64 * 1536 * 7168 / CHIP.peak_flops_per_s("f8E4M3FN")
    memory = (64 * 7168 + 7168 * 1536 + 2 * 64 * 1536) / CHIP.dram_bytes_per_s
    slow, fast = max(compute, memory), min(compute, memory)
    assert found == pytest.approx(slow + (1 - 0.8 / 2) * fast + 4 * STARTUP_S)


def test_neither_one_step_nor_many_small_ones_are_best() -> None:
    whole, halves, tiny = seconds(shape(64, 1536, 7168), [7168, 3584, 32])
    assert halves < whole < tiny


def test_the_next_result_does_not_hide_behind_the_store_of_this_one() -> None:
    """Row tiles alone overlap nothing: GDMA is in order, and each store waits for its matmul."""
    two_row_tiles, one = seconds(shape(64, 1536, 7168), [7168], tile_m=32), seconds(shape(64, 1536, 7168), [7168])
    assert two_row_tiles[0] > one[0]
