"""Parameters of the physical model from measured rows: least squares on the log of the error."""

from __future__ import annotations

from importlib import import_module
from typing import Any

import numpy as np

from pmc.backends.silicon.columns import INSTALL, Floats, Ints
from pmc.backends.silicon.physical import Fit, Parameters, Terms, rounded
from pmc.backends.silicon.system import System
from pmc.backends.silicon.table import Rows
from pmc.backends.silicon.work import Points, Workload
from pmc.dialects.errors import PmcError

SEED = 20
ROWS = 1200
"""As many rows as the parameters need: more change the error of prediction by less than 0.1 of a percent."""
LEAST_ROWS = 9
"""One more than there are parameters."""

_START = np.array([np.log(3.0), np.log(0.7), np.log(0.7), 0.0, np.log(0.05), np.log(0.02), 0.5, 0.3])
_LOW = np.array([np.log(0.1), np.log(1e-3), np.log(1e-3), -5.0, np.log(1e-6), np.log(1e-6), 0.0, 0.0])
_HIGH = np.array([np.log(1e4), np.log(4.0), np.log(4.0), 3.0, np.log(1e3), np.log(1e3), 1.5, 1.5])
"""log us, log, log, log(p - 1), log us, log us, -, -.  Efficiencies above 1 are kernels whose operands stay in a cache,
and rates that boost above the data sheet."""


def require_least_squares() -> Any:
    """scipy.optimize.least_squares.  Raises PmcError, naming the extra, where SciPy is not installed."""
    try:
        return import_module("scipy.optimize").least_squares
    except ImportError:
        raise PmcError(f"fits need SciPy: {INSTALL}") from None


def points_of(rows: Rows, chosen: Ints | slice = slice(None)) -> Points:
    """Rows as workloads."""
    return Points(rows.kind, rows.categories, rows.coordinates[chosen])


def fit_rows(workload: type[Workload], rows: Rows, system: System, backend: str, version: str, seed: int = SEED) -> Fit:
    """Fit the physical model to rows, with every tiling of the workload; the best one stays.

    At most `ROWS` rows and at most half of all, drawn with the seed, are fitted, and as many others give the band of
    80%; of fewer than 2 x `LEAST_ROWS` rows that many are fitted, and what is left, or else the same, gives the band.
    Raises PmcError for fewer than `LEAST_ROWS`, and where SciPy is not installed.
    """
    least_squares = require_least_squares()
    if len(rows) < LEAST_ROWS:
        raise PmcError(f"{rows.source}: {len(rows)} rows are too few for a fit, which needs {LEAST_ROWS}")
    order = np.random.default_rng(seed).permutation(len(rows))
    count = min(ROWS, max(LEAST_ROWS, len(rows) // 2))
    chosen, others = order[:count], order[count : 2 * count]
    target = np.log(1e3 * rows.latency_ms[chosen])
    best: tuple[float, tuple[int, ...], Parameters] | None = None
    for tile in workload.tilings():
        terms = Terms.of(workload, points_of(rows, chosen), system, tile)

        def error(x: Floats, terms: Terms = terms) -> Floats:
            return terms.log_us(_parameters(x)) - target

        def slopes(x: Floats, terms: Terms = terms) -> Floats:
            return terms.with_slopes(_parameters(x))[1]

        found = least_squares(error, _START, slopes, (_LOW, _HIGH), loss="soft_l1", f_scale=0.1, max_nfev=40)
        if best is None or found.cost < best[0]:
            best = float(found.cost), tile, _parameters(found.x)
    assert best is not None
    tile, parameters = best[1], best[2].rounded()
    if not others.size:
        others = chosen
    unseen = Terms.of(workload, points_of(rows, others), system, tile).log_us(parameters)
    low, high = np.exp(np.quantile(np.log(1e3 * rows.latency_ms[others]) - unseen, [0.1, 0.9]))
    band = (min(1.0, rounded(float(low))), max(1.0, rounded(float(high))))
    return Fit(
        rows.kind.name, system.name, backend, version, dict(rows.categories), tile, parameters, band, count, seed,
        rows.source,
    )  # fmt: skip


def _parameters(x: Floats) -> Parameters:
    fixed, compute, memory, power, step, tile, waves, idle = (float(v) for v in x)
    return Parameters(
        float(np.exp(fixed)), float(np.exp(compute)), float(np.exp(memory)), 1 + float(np.exp(power)),
        float(np.exp(step)), float(np.exp(tile)), waves, idle,
    )  # fmt: skip
