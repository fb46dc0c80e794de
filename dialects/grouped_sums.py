"""Sums of numbers by the group that each belongs to."""

from __future__ import annotations

import numpy as np

from pmc.dialects.interfaces import FloatArray, IntArray


def grouped_sums(group: IntArray, amount: FloatArray | IntArray, count: int) -> FloatArray:
    """The sum of the amounts of every group 0 .. count - 1."""
    return np.asarray(np.bincount(group, np.asarray(amount, np.float64), count), np.float64)


def whole_sums(group: IntArray, amount: IntArray, count: int) -> IntArray:
    """The same of whole numbers, whose sums are exact below 2**53."""
    return grouped_sums(group, amount, count).astype(np.int64)
