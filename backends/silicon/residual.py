"""What the physical model misses, from the measurements around a point: ordinary kriging of the log residual.

The residual r = log(measured / model) is taken to vary smoothly over the features of a kind: two points at distance d
share the part (1 + d) exp(-d) of their variance (Matern 3/2), apart from `NOISE`.  From the `NEIGHBOURS` nearest
measurements the best linear unbiased prediction has weights that add up to 1 (Matheron, 1963; Rasmussen and Williams,
2006, section 2.7), so far away the mean residual of the nearest ones is held.  The variance of the prediction, over
that of the field, says how far away the measurements are; `bands` turns it into an error.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from pmc.backends.silicon.columns import Floats, Ints

NEIGHBOURS = 24
NOISE = 0.01
"""Part of the variance that is noise of a measurement."""
CHUNK = 128
"""Points that are predicted at once, so that memory stays small."""

Bools = npt.NDArray[np.bool_]


@dataclass(frozen=True)
class Neighbourhood:
    """The measurements around points, and what each of them weighs."""

    rows: Ints
    """[points, neighbours]; the nearest first."""
    weights: Floats
    """[points, neighbours]; they add up to 1."""
    distance: Floats
    """[points] of the nearest one."""
    variance: Floats
    """[points] of the prediction, over that of the field."""

    def mean(self, values: Floats) -> Floats:
        """[points] of the values of all rows."""
        return np.sum(self.weights * values[self.rows], axis=1)


def neighbourhood(
    measured: Floats, points: Floats, left_out: Ints | None = None, owner: Ints | None = None
) -> Neighbourhood:
    """The nearest measurements of every point, with their weights.

    `measured` and `points` are features, [rows, features] and [points, features].  For `left_out` [points] and `owner`
    [rows], rows whose owner is what a point leaves out are not used for it.
    """
    parts = [
        _of_chunk(measured, points[i : i + CHUNK], None if left_out is None else left_out[i : i + CHUNK], owner)
        for i in range(0, len(points), CHUNK)
    ]
    return Neighbourhood(
        np.concatenate([p.rows for p in parts]),
        np.concatenate([p.weights for p in parts]),
        np.concatenate([p.distance for p in parts]),
        np.concatenate([p.variance for p in parts]),
    )


def _of_chunk(measured: Floats, points: Floats, left_out: Ints | None, owner: Ints | None) -> Neighbourhood:
    squares = np.zeros((len(points), len(measured)))
    for feature in range(measured.shape[1]):
        squares += np.square(points[:, feature, None] - measured[None, :, feature])
    if left_out is not None and owner is not None:
        squares[left_out[:, None] == owner[None, :]] = np.inf
    count = min(NEIGHBOURS, len(measured))
    near = np.argpartition(squares, count - 1, axis=1)[:, :count]
    near = np.take_along_axis(near, np.argsort(np.take_along_axis(squares, near, axis=1), axis=1), axis=1)
    distance = np.sqrt(np.take_along_axis(squares, near, axis=1))
    used = np.isfinite(distance)
    at = measured[near]
    between = np.sqrt(np.sum(np.square(at[:, :, None, :] - at[:, None, :, :]), axis=-1))
    # A row that must not be used is independent of all others and of the point, and has no part of the mean.
    pair = used[:, :, None] & used[:, None, :]
    matrix = np.where(pair, _correlation(between), 0.0)
    diagonal = np.arange(count)
    matrix[:, diagonal, diagonal] = 1 + NOISE
    to_point = np.where(used, _correlation(np.where(used, distance, 0.0)), 0.0)
    ones = used.astype(np.float64)
    solved = np.linalg.solve(matrix, np.stack([to_point, ones], axis=2))
    direct, mean = solved[:, :, 0], solved[:, :, 1]
    multiplier = (1 - direct.sum(axis=1)) / mean.sum(axis=1)
    weights = direct + multiplier[:, None] * mean
    variance = 1 - np.sum(weights * to_point, axis=1) + multiplier
    return Neighbourhood(near, weights, distance[:, 0], np.maximum(variance, 0.0))


def _correlation(distance: Floats) -> Floats:
    part: Floats = (1 + distance) * np.exp(-distance)
    return part
