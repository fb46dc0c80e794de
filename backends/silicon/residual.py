"""What the physical model misses, from the measurements around a point: robust ordinary kriging of the log residual.

The residual r = log(measured / model) is taken to vary smoothly over the features of a kind: two points at distance d
share the part (1 + d) exp(-d) of their variance (Matern 3/2), apart from `NOISE`.  From the `NEIGHBOURS` nearest
measurements the best linear unbiased prediction has weights that add up to 1 (Matheron, 1963; Rasmussen and Williams,
2006, section 2.7), so far away the mean residual of the nearest ones is held.

Some measurements are of another kernel than those around them, or were disturbed.  Each neighbour is predicted from the
others (Rasmussen and Williams, 2006, section 5.4.2); one that is off by more than `OUTLIER` deviations of the
neighbourhood gets more noise, and so less weight, in `ROUNDS` rounds.

The variance of the prediction, over that of the field, says how far away the measurements are; `bands` turns it into an
error.
"""

from __future__ import annotations

from dataclasses import dataclass
from functools import cached_property

import numpy as np
import numpy.typing as npt

from pmc.backends.silicon.columns import Floats, Ints

NEIGHBOURS = 24
NOISE = 0.002
"""Part of the variance that is noise of a measurement."""
OUTLIER = 2.0
OUTLIER_NOISE = 50.0
"""Growth of the noise with the square of the deviation, in units of `OUTLIER`."""
ROUNDS = 2
BLOCK = 32
"""Rows that are looked at together for the nearest ones."""
SPARE_BLOCKS = 8
CHUNK = 128
"""Points that are predicted at once, so that memory stays small."""

Bools = npt.NDArray[np.bool_]
Singles = npt.NDArray[np.float32]


@dataclass(frozen=True)
class Kriged:
    """Predictions of the residual at some points."""

    residual: Floats
    """[points]"""
    variance: Floats
    """[points] of the prediction, over that of the field."""
    distance: Floats
    """[points] of the nearest measurement."""
    rows: Ints
    """[points, neighbours]; the nearest first."""
    weights: Floats
    """[points, neighbours]; they add up to 1."""


@dataclass(frozen=True)
class Measured:
    """Measurements in the coordinates of the field, and what a search for the nearest ones reads of all of them."""

    features: Floats
    """[rows, features]"""
    residual: Floats
    """[rows]"""

    @cached_property
    def middle(self) -> Floats:
        """[features]"""
        middle: Floats = self.features.mean(axis=0)
        return middle

    @cached_property
    def extent(self) -> tuple[Floats, Floats]:
        """[features] the least and the largest."""
        return self.features.min(axis=0), self.features.max(axis=0)

    @cached_property
    def blocks(self) -> int:
        """Whole blocks of `BLOCK` rows."""
        return len(self.features) // BLOCK

    @cached_property
    def single(self) -> tuple[Singles, Singles]:
        """[features, rows of whole blocks] around the middle in single precision, and their squares [rows]."""
        rows = (self.features[: self.blocks * BLOCK] - self.middle).astype(np.float32)
        return np.ascontiguousarray(rows.T), np.sum(np.square(rows), axis=1)


def krige(measured: Measured, points: Floats, left_out: Ints | None = None, owner: Ints | None = None) -> Kriged:
    """The residual at every point.

    `points` [points, features] are in the coordinates of the measurements.  For `left_out` [points] and `owner` [rows],
    rows whose owner is what a point leaves out are not used for it; some rows must be left.
    """
    parts = [
        _krige_chunk(measured, points[i : i + CHUNK], None if left_out is None else left_out[i : i + CHUNK], owner)
        for i in range(0, len(points), CHUNK)
    ]
    return Kriged(
        np.concatenate([p.residual for p in parts]),
        np.concatenate([p.variance for p in parts]),
        np.concatenate([p.distance for p in parts]),
        np.concatenate([p.rows for p in parts]),
        np.concatenate([p.weights for p in parts]),
    )


def _krige_chunk(measured: Measured, points: Floats, left_out: Ints | None, owner: Ints | None) -> Kriged:
    near, distance = _nearest(measured, points, left_out, owner)
    used = np.isfinite(distance)
    at, count = measured.features[near], near.shape[1]
    between = np.sqrt(np.sum(np.square(at[:, :, None, :] - at[:, None, :, :]), axis=-1))
    # A row that must not be used is independent of all others and of the point, and has no part of the mean.
    shared = np.where(used[:, :, None] & used[:, None, :], _correlation(between), 0.0)
    to_point = np.where(used, _correlation(np.where(used, distance, 0.0)), 0.0)
    ones, values = used.astype(np.float64), np.where(used, measured.residual[near], 0.0)
    diagonal = np.arange(count, dtype=np.intp)
    inverse, of_ones, total = _inverse(shared, np.full(near.shape, NOISE), ones)
    for _ in range(ROUNDS):
        mean = np.sum(of_ones * values, axis=1) / total
        error = np.einsum("pij,pj->pi", inverse, (values - mean[:, None]) * ones) / inverse[:, diagonal, diagonal]
        scale = 1.48 * np.nanmedian(np.where(used, np.abs(error), np.nan), axis=1)[:, None] + 1e-4
        excess = np.maximum(0.0, np.square(error / scale / OUTLIER) - 1)
        inverse, of_ones, total = _inverse(shared, NOISE * (1 + OUTLIER_NOISE * excess), ones)
    direct = np.einsum("pij,pj->pi", inverse, to_point)
    multiplier = (1 - np.sum(direct * ones, axis=1)) / total
    weights = direct * ones + multiplier[:, None] * of_ones * ones
    variance = 1 - np.sum(weights * to_point, axis=1) + multiplier
    return Kriged(np.sum(weights * values, axis=1), np.maximum(variance, 0.0), distance[:, 0], near, weights)


def _inverse(shared: Floats, noise: Floats, ones: Floats) -> tuple[Floats, Floats, Floats]:
    """The inverse of the covariance of the neighbours, its product with ones, and the sum of that."""
    matrix, diagonal = shared.copy(), np.arange(shared.shape[1], dtype=np.intp)
    matrix[:, diagonal, diagonal] = 1 + noise
    inverse: Floats = np.linalg.inv(matrix).astype(np.float64)
    of_ones: Floats = np.einsum("pij,pj->pi", inverse, ones)
    return inverse, of_ones, np.sum(of_ones * ones, axis=1)


def _nearest(measured: Measured, points: Floats, left_out: Ints | None, owner: Ints | None) -> tuple[Ints, Floats]:
    """[points, neighbours] rows and distances, the nearest first; infinite for rows that are left out."""
    near = _candidates(measured, points, left_out, owner)
    squares = np.sum(np.square(points[:, None, :] - measured.features[near]), axis=-1)
    if left_out is not None and owner is not None:
        squares[left_out[:, None] == owner[near]] = np.inf
    count = min(NEIGHBOURS, len(measured.residual))
    chosen = np.argpartition(squares, count - 1, axis=1)[:, :count]
    chosen = np.take_along_axis(chosen, np.argsort(np.take_along_axis(squares, chosen, axis=1), axis=1), axis=1)
    return np.take_along_axis(near, chosen, axis=1), np.sqrt(np.take_along_axis(squares, chosen, axis=1))


def _candidates(measured: Measured, points: Floats, left_out: Ints | None, owner: Ints | None) -> Ints:
    """[points, candidates] rows among which are the nearest `NEIGHBOURS`.

    Of blocks of rows those whose nearest row is nearest: no other block can have one of the nearest.  Blocks are told
    apart by distances in single precision, so there are some more than needed.
    """
    wanted, blocks, count = NEIGHBOURS + SPARE_BLOCKS, measured.blocks, len(measured.residual)
    if blocks <= wanted:
        return np.broadcast_to(np.arange(count, dtype=np.intp), (len(points), count))
    whole, (rows, own) = blocks * BLOCK, measured.single
    # Squares of distances, without the square of the point, which is the same for all rows.
    squares = np.matmul(-2 * (points - measured.middle).astype(np.float32), rows)
    squares += own
    if left_out is not None and owner is not None:
        squares[left_out[:, None] == owner[None, :whole]] = np.inf
    # A block is every row that is a multiple of `blocks` after its first, along which a minimum is fast to take.
    least = squares.reshape(len(points), BLOCK, blocks).min(axis=1)
    chosen = np.argpartition(least, wanted - 1, axis=1)[:, :wanted]
    found = (chosen[:, :, None] + blocks * np.arange(BLOCK, dtype=np.intp)).reshape(len(points), -1)
    rest = np.broadcast_to(np.arange(whole, count, dtype=np.intp), (len(points), count - whole))
    return np.concatenate([found, rest], axis=1)


def _correlation(distance: Floats) -> Floats:
    part: Floats = (1 + distance) * np.exp(-distance)
    return part
