"""Simulated time is a whole number of picoseconds: sums and maxima are exact, so equal states stay equal."""

from __future__ import annotations

import numpy as np

from pmc.dialects.interfaces import FloatArray, IntArray

PS_PER_US = 1_000_000

ROUNDING = 1e-6
"""Picoseconds by which a duration may miss a whole number without being rounded up: noise of the division."""


def of_ns(ns: float) -> int:
    """Picoseconds of so many nanoseconds, rounded up."""
    return int(np.ceil(ns * 1e3 - ROUNDING))


def of_cycles(cycles: IntArray | FloatArray | int, ghz: float) -> IntArray:
    """Picoseconds of so many cycles of a clock, rounded up."""
    return np.ceil(np.asarray(cycles) * 1e3 / ghz - ROUNDING).astype(np.int64)


def of_bytes(size: IntArray | int, bytes_per_s: float) -> IntArray:
    """Picoseconds in which so many bytes pass at a rate, rounded up."""
    return np.ceil(np.asarray(size) * 1e12 / bytes_per_s - ROUNDING).astype(np.int64)
