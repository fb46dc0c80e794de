"""What a tiling asks of the engines of the busiest core and of the DRAM of the chip; arithmetic on aligned sizes."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, replace
from typing import Any, Self

import numpy as np
import numpy.typing as npt

from pmc.dialects.interfaces import FloatArray, IntArray

ACCUMULATOR_BITS = 32
"""The matrix unit adds up in FP32."""

Ints = IntArray | int


def ceil_div(value: Ints, parts: Ints) -> IntArray:
    """`value / parts` rounded up."""
    return np.asarray(-(-np.asarray(value, np.int64) // parts), np.int64)


def round_up(value: Ints, step: Ints) -> IntArray:
    """`value` rounded up to a multiple of `step`."""
    return ceil_div(value, step) * step


def bytes_of(elements: Ints, bits: int) -> IntArray:
    """The bytes of packed elements, rounded up."""
    return ceil_div(np.asarray(elements, np.int64) * bits, 8)


def padded(length: Ints, tile: Ints, step: int) -> IntArray:
    """The sum of the tiles of `length`, each rounded up to a multiple of `step`."""
    length, tile = np.asarray(length, np.int64), np.asarray(tile, np.int64)
    return length // tile * round_up(tile, step) + round_up(length % tile, step)


@dataclass(frozen=True)
class Resources:
    """Engine by engine, one entry per tiling; `merge` is what comes after the barrier where partial results are merged.

    The matrix unit is counted in steps (one block of the cube each), the vector unit in single operations.  Bytes of
    `gdma` and `sdma` are those that the busiest core moves; `dram_read` and `dram_written` are those of the chip.
    """

    cores: IntArray
    """Cores that have work."""
    tiu_steps: Mapping[str, IntArray]
    """By the element type that sets the rate."""
    tiu_mean_steps: Mapping[str, FloatArray]
    """Steps of the whole op over the cores that have work."""
    tiu_commands: IntArray
    vec_steps: FloatArray
    vec_mean_steps: FloatArray
    """As `tiu_mean_steps`, of the softmax of attention; 0 for anything else."""
    vec_end_steps: IntArray
    """Steps in FP32 before and after the loop: filling and finishing the running state of attention."""
    vec_commands: IntArray
    gdma_bytes: IntArray
    gdma_commands: IntArray
    sdma_bytes: IntArray
    sdma_commands: IntArray
    dram_read: IntArray
    dram_written: IntArray
    macs: IntArray
    """Multiply-accumulates of the chip, padding left out."""
    overlaps: npt.NDArray[np.bool_]
    """Whether DMA runs beside compute."""
    merge: Self | None = None

    @classmethod
    def nothing(cls, count: int) -> Self:
        """`count` tilings that do nothing on one core."""
        zero = np.zeros(count, np.int64)
        none = np.zeros(count)
        return cls(
            zero + 1, {}, {}, zero, none, none, zero, zero, zero, zero, zero, zero, zero, zero, zero, zero.astype(bool)
        )

    def plus(self, **amounts: Any) -> Self:
        """The same with other amounts."""
        return replace(self, **amounts)
