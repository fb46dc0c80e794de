"""How wrong a prediction may be: 80% bands learned by leaving measurements out.

Rows are predicted twice without themselves: with all other rows, and without any row of their shape.  The deviation
of the log residual grows with the variance of its kriging; over five classes of equally many predictions it is the 10%
and the 90% quantile of the errors, and between the classes it is interpolated.  Beyond the last class it grows with the
square root of the variance.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from pmc.backends.silicon.columns import Floats, Ints
from pmc.backends.silicon.residual import Measured, krige
from pmc.dialects.errors import PmcError

CLASSES = 5
ROWS = 400
"""Rows that are left out, at most."""


@dataclass(frozen=True)
class Bands:
    """Deviations of log(measured / predicted), by the variance of the kriging."""

    variance: tuple[float, ...]
    """[classes], rising: the middle of every class."""
    low: tuple[float, ...]
    """[classes], not positive, falling."""
    high: tuple[float, ...]
    """[classes], not negative, rising."""

    def __post_init__(self) -> None:
        """Raises PmcError for arrays that are no bands."""
        shape = len(self.variance)
        if not shape or len(self.low) != shape or len(self.high) != shape:
            raise PmcError("fit: bands have a variance, a low and a high deviation for every class")
        for values, grows in ((self.variance, 1), (self.low, -1), (self.high, 1)):
            steps = np.diff([0.0, *(grows * v for v in values)])
            if not np.all(np.isfinite(values)) or np.any(steps < 0):
                raise PmcError(f"fit: bands {values} do not widen with the variance")

    def at(self, variance: Floats) -> tuple[Floats, Floats]:
        """The deviations of predictions with these variances."""
        beyond = np.sqrt(np.maximum(1.0, variance / max(float(self.variance[-1]), 1e-9)))
        low = np.interp(variance, self.variance, self.low) * beyond
        high = np.interp(variance, self.variance, self.high) * beyond
        return low, high


def learn_bands(measured: Measured, shape: Ints, seed: int) -> Bands:
    """Bands of measurements with these shapes [rows] (a number for each)."""
    count, residual = len(shape), measured.residual
    chosen = np.random.default_rng(seed).permutation(count)[:ROWS]
    points = measured.features[chosen]
    kinds = [krige(measured, points, chosen, np.arange(count))]
    if len(np.unique(shape)) > 1:
        kinds.append(krige(measured, points, shape[chosen], shape))
    error = np.concatenate([residual[chosen] - near.residual for near in kinds])
    variance = np.concatenate([near.variance for near in kinds])
    order = np.argsort(variance, kind="stable")
    groups = [g for g in np.array_split(order, CLASSES) if g.size]
    quantiles = np.array([np.quantile(error[g], [0.1, 0.9]) for g in groups])
    return Bands(
        _short(np.array([np.median(variance[g]) for g in groups])),
        _short(np.minimum.accumulate(np.minimum(quantiles[:, 0], 0.0))),
        _short(np.maximum.accumulate(np.maximum(quantiles[:, 1], 0.0))),
    )


def _short(values: Floats) -> tuple[float, ...]:
    """With four digits, as an artefact has them."""
    return tuple(float(f"{v:.4g}") + 0.0 for v in values)
