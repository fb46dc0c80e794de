"""Linear algebra where plus is the maximum and times is the sum: how the end of events follows from their beginning.

A row of a matrix says when an event happens: at the latest of (time of a column + its entry); -inf is no dependency.
Timed event graphs without choices are linear in this algebra (Baccelli, Cohen, Olsder, Quadrat, Synchronization and
Linearity, 1992), so that a repetition is a power, and everything is monotone in every duration.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from pmc.dialects.interfaces import FloatArray

NEVER = -np.inf
"""The zero of the algebra: no dependency."""


def unit(size: int) -> FloatArray:
    """The identity [size, size]: nothing happens."""
    return np.where(np.eye(size, dtype=bool), 0.0, NEVER)


def product(after: FloatArray, before: FloatArray) -> FloatArray:
    """`after` [.., n, k] upon `before` [.., k, m]: [.., n, m]."""
    return np.asarray((after[..., :, :, None] + before[..., None, :, :]).max(axis=-2), np.float64)


def power(matrix: FloatArray, times: int) -> FloatArray:
    """`matrix` [n, n] upon itself so many times, by squaring: as many products as `times` has binary digits."""
    result, square = unit(len(matrix)), matrix
    while times:
        if times & 1:
            result = product(square, result)
        times >>= 1
        if times:
            square = product(square, square)
    return result


def chain(matrices: FloatArray) -> FloatArray:
    """The product of `matrices` [count, n, n], the first of which happens first: pairs at once, then pairs of pairs."""
    while len(matrices) > 1:
        paired = product(matrices[1::2], matrices[0 : len(matrices) // 2 * 2 : 2])
        matrices = np.concatenate([paired, matrices[len(matrices) // 2 * 2 :]])
    return np.asarray(matrices[0], np.float64)


def orbit(matrix: FloatArray, starts: FloatArray, times: int) -> FloatArray:
    """The states [times, .., n] before each application of `matrix` [n, n] to `starts` [.., n], by doubling."""
    states, step = starts[None], matrix
    while len(states) < times:
        states = np.concatenate([states, applied(step, states)])
        step = product(step, step)
    return states[:times]


def applied(rows: FloatArray, states: FloatArray) -> FloatArray:
    """The times [.., n] of the events in `rows` [n, k] after `states` [.., k]."""
    return np.asarray((rows + states[..., None, :]).max(axis=-1), np.float64)


def latest(rows: Sequence[FloatArray]) -> FloatArray:
    """When the last of some events happens; at least one."""
    found = rows[0]
    for row in rows[1:]:
        found = np.maximum(found, row)
    return found
