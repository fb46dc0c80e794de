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
from pmc.backends.silicon.residual import krige

CLASSES = 5
ROWS = 400
"""Rows that are left out, at most."""


@dataclass(frozen=True)
class Bands:
    """Deviations of log(measured / predicted), by the variance of the kriging."""

    variance: Floats
    """[classes], rising: the middle of every class."""
    low: Floats
    """[classes], not positive, falling."""
    high: Floats
    """[classes], not negative, rising."""

    def at(self, variance: Floats) -> tuple[Floats, Floats]:
        """The deviations of predictions with these variances."""
        beyond = np.sqrt(np.maximum(1.0, variance / max(float(self.variance[-1]), 1e-9)))
        low = np.interp(variance, self.variance, self.low) * beyond
        high = np.interp(variance, self.variance, self.high) * beyond
        return low, high


def learn_bands(features: Floats, residual: Floats, shape: Ints, seed: int) -> Bands:
    """Bands of rows with these features [rows, features], residuals [rows] and shapes [rows] (a number for each)."""
    count = len(residual)
    chosen = np.random.default_rng(seed).permutation(count)[:ROWS]
    alone = krige(features, residual, features[chosen], chosen, np.arange(count))
    kinds = [alone]
    if len(np.unique(shape)) > 1:
        kinds.append(krige(features, residual, features[chosen], shape[chosen], shape))
    error = np.concatenate([residual[chosen] - near.residual for near in kinds])
    variance = np.concatenate([near.variance for near in kinds])
    order = np.argsort(variance, kind="stable")
    groups = [g for g in np.array_split(order, CLASSES) if g.size]
    quantiles = np.array([np.quantile(error[g], [0.1, 0.9]) for g in groups])
    return Bands(
        np.array([np.median(variance[g]) for g in groups]),
        np.minimum.accumulate(np.minimum(quantiles[:, 0], 0.0)),
        np.maximum.accumulate(np.maximum(quantiles[:, 1], 0.0)),
    )
