"""Bytes on the links of a mesh of cores, where every message goes along its row first and then along its column."""

from __future__ import annotations

from typing import TypeAlias

import numpy as np

from pmc.dialects.grouped_sums import grouped_sums
from pmc.dialects.interfaces import FloatArray, IntArray
from pmc.dialects.stacked_arch import StackedArch

Amounts: TypeAlias = IntArray | FloatArray

DIRECTIONS = ("east", "west", "south", "north")
"""The links that leave a core: to the next column, the one before, the next row, the one before."""


def cores_over(arch: StackedArch) -> IntArray:
    """[banks] the core that each bank lies over, see `StackedArch.core_at_bank`."""
    (nx, ny, layers), (columns, rows) = arch.dram.banks, arch.mesh.cores
    die = (np.arange(ny) * rows // ny)[:, None] * columns + np.arange(nx) * columns // nx
    return np.tile(die.reshape(-1), layers)


def hops(columns: int, source: IntArray, target: IntArray) -> IntArray:
    """Links between cores, elementwise."""
    (y0, x0), (y1, x1) = np.divmod(source, columns), np.divmod(target, columns)
    return np.asarray(np.abs(x0 - x1) + np.abs(y0 - y1), np.int64)


def link_bytes(columns: int, rows: int, source: IntArray, target: IntArray, amount: Amounts) -> FloatArray:
    """Bytes [direction, row, column] that leave each core over each of its links, of messages source -> target.

    Whole bytes: sums are exact below 2**53.
    """
    (y0, x0), (y1, x1) = np.divmod(source, columns), np.divmod(target, columns)
    found = np.zeros((4, rows, columns))
    found[0] = _along(y0, x0, x1, amount, rows, columns)
    found[1] = _along(y0, columns - 1 - x0, columns - 1 - x1, amount, rows, columns)[:, ::-1]
    found[2] = _along(x1, y0, y1, amount, columns, rows).T
    found[3] = _along(x1, rows - 1 - y0, rows - 1 - y1, amount, columns, rows)[:, ::-1].T
    return found


def _along(line: IntArray, first: IntArray, last: IntArray, amount: Amounts, lines: int, length: int) -> FloatArray:
    """What leaves each place [line, place] upwards, of messages first -> last that go up at all."""
    up = np.flatnonzero(first < last)
    weights, base = amount[up], line[up] * (length + 1)
    size = lines * (length + 1)
    begins = grouped_sums(base + first[up], weights, size)
    ends = grouped_sums(base + last[up], weights, size)
    return np.asarray(np.cumsum((begins - ends).reshape(lines, length + 1), axis=1)[:, :length])
