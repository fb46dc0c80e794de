"""One set of categories of one table, ready to answer: its rows, the physical model, residuals and bands."""

from __future__ import annotations

from dataclasses import dataclass
from functools import cached_property

import numpy as np

from pmc.backends.silicon.bands import Bands, learn_bands
from pmc.backends.silicon.columns import Floats, Ints
from pmc.backends.silicon.fit import points_of
from pmc.backends.silicon.physical import Fit
from pmc.backends.silicon.residual import Bools, Measured, krige
from pmc.backends.silicon.system import System
from pmc.backends.silicon.table import Rows
from pmc.backends.silicon.work import Points, Workload

REACH = 4.0
"""Features beyond the measured range within which the model is trusted to extrapolate."""

NEAR = 1.0
"""Distance of features, see `Workload.features`, up to which a measurement says much about a point."""


@dataclass(frozen=True)
class Predictions:
    """Of some points; arrays of one length."""

    latency_ms: Floats
    low_ms: Floats
    high_ms: Floats
    inside: Bools
    """Whether the point is in the measured range along every feature, and at most `NEAR` from a measurement."""
    within_reach: Bools
    """Whether the point is at most `REACH` beyond what was measured, along every feature."""
    power_w: Floats | None


@dataclass(frozen=True)
class Predictor:
    """The physical model times the residual of the nearest measurements."""

    workload: type[Workload]
    rows: Rows
    system: System
    fit: Fit

    def predict(self, points: Points) -> Predictions:
        """Every point.  Raises PmcError for what `Workload.work` refuses."""
        features = self.workload.features(points)
        near = krige(self._measured, features)
        log_ms = np.log(self.fit.predict_ms(self.workload, points, self.system)) + near.residual
        low, high = self.bands.at(near.variance)
        lowest, highest = self._measured.extent
        inside = np.all((features >= lowest) & (features <= highest), axis=1) & (near.distance <= NEAR)
        within = np.all((features >= lowest - REACH) & (features <= highest + REACH), axis=1)
        power = self.rows.power_w
        if power is not None:
            power = np.maximum(np.sum(near.weights * power[near.rows], axis=1), 0.0)
        return Predictions(np.exp(log_ms), np.exp(log_ms + low), np.exp(log_ms + high), inside, within, power)

    @cached_property
    def bands(self) -> Bands:
        """Those of the fit, else learned here by leaving rows out, which takes a second."""
        return self.fit.bands or learn_bands(self._measured, self.shapes, self.fit.seed)

    @cached_property
    def shapes(self) -> Ints:
        """[rows] a number for the shape of each, see `Workload.shape_axes`."""
        return shapes_of(self.workload, self.rows)

    @cached_property
    def _measured(self) -> Measured:
        points = points_of(self.rows)
        model = self.fit.predict_ms(self.workload, points, self.system)
        return Measured(self.workload.features(points), np.log(self.rows.latency_ms / model))


def shapes_of(workload: type[Workload], rows: Rows) -> Ints:
    """[rows] a number for the shape of each."""
    axes = [rows.kind.axes.index(axis) for axis in workload.shape_axes()]
    return np.asarray(np.unique(rows.coordinates[:, axes], axis=0, return_inverse=True)[1], dtype=np.intp).reshape(-1)
