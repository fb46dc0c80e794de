"""A system without measurements: what the fitted formulas of other systems say at its rates.

An efficiency, the launch of a kernel, or how well computing hides behind memory are properties of an engine's kernels,
and alike on alike hardware.  Every system with a fit of the same kind, engine and categories, a *donor*, says with its
parameters what the kernel takes at the rates of the asked one; the answer is the geometric mean, in which a donor
weighs exp(-distance / `SCALE`).  The distance is that of the logs of what a formula reads of a system: peak rate,
bandwidth, the ratio of both, and processors.

The band comes from leaving donors out: each is predicted from the others in the same way, at the same point, and what
it is off from its own formula counts with its weight, next to what its own formula is off from its rows.  Where the
nearest donor is more than an octave away the band is as many times as wide.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass

import numpy as np

from pmc.backends.silicon.artefact import Artefact
from pmc.backends.silicon.columns import Floats
from pmc.backends.silicon.physical import Fit
from pmc.backends.silicon.system import System
from pmc.backends.silicon.work import Points, Workload
from pmc.dialects.errors import PmcError

SCALE = 0.5
"""Octaves within which systems are alike."""
ALONE = 0.25
"""Deviation of the log where one donor is all there is, and so none can be left out: 28%."""
DEVIATIONS = 1.2816
"""Of a normal distribution, between which 80% of it lie."""


@dataclass(frozen=True)
class Donor:
    """A fit, and the system whose rates it is about."""

    fit: Fit
    system: System


@dataclass(frozen=True)
class Transferred:
    """Of some points; arrays of one length."""

    latency_ms: Floats
    low_ms: Floats
    high_ms: Floats


def donors_of(artefacts: Iterable[Artefact], without: str) -> tuple[Donor, ...]:
    """All fits of some artefacts, apart from those of the system `without`."""
    return tuple(Donor(fit, a.system) for a in artefacts if a.system.name != without for fit in a.fits)


def donors_for(donors: Iterable[Donor], kind: str, backend: str, categories: Mapping[str, str]) -> tuple[Donor, ...]:
    """Those of a kind, engine and set of categories."""
    of, same = (kind, backend), dict(categories)
    return tuple(d for d in donors if (d.fit.kind, d.fit.backend) == of and dict(d.fit.categories) == same)


def transfer(workload: type[Workload], points: Points, system: System, donors: tuple[Donor, ...]) -> Transferred:
    """Milliseconds of every point on a system, from at least one donor.

    Raises PmcError for what `Workload.work` refuses.
    """
    if not donors:
        raise PmcError(f"{workload.KIND}: no fit of another system to predict {system.name} with")
    logs, weights = _predicted(workload, points, system, donors)
    middle = weights @ logs
    own = weights @ np.array([np.log(d.fit.band_80[1] / d.fit.band_80[0]) / (2 * DEVIATIONS) for d in donors])
    if len(donors) == 1:
        variance = np.full(len(points), ALONE**2)
    else:
        variance = np.zeros(len(points))
        for place, donor in enumerate(donors):
            others = (*donors[:place], *donors[place + 1 :])
            found, shares = _predicted(workload, points, donor.system, others)
            truth = np.log(donor.fit.predict_ms(workload, points, donor.system))
            variance += weights[place] * np.square(shares @ found - truth)
    far = max(1.0, min(distance(system, d.system) for d in donors))
    wide = DEVIATIONS * far * np.sqrt(variance + own**2)
    return Transferred(np.exp(middle), np.exp(middle - wide), np.exp(middle + wide))


def distance(one: System, other: System) -> float:
    """Octaves between two systems."""
    return float(np.linalg.norm(_character(one) - _character(other)))


def _predicted(
    workload: type[Workload], points: Points, system: System, donors: tuple[Donor, ...]
) -> tuple[Floats, Floats]:
    """[donors, points] logs of milliseconds on the system, and [donors] weights that add up to 1."""
    logs = np.stack([np.log(d.fit.predict_ms(workload, points, system)) for d in donors])
    far = np.array([distance(system, d.system) for d in donors])
    weights = np.exp((far.min() - far) / SCALE)
    return logs, weights / weights.sum()


def _character(system: System) -> Floats:
    rate, bandwidth = system.rate("bfloat16"), system.bytes_per_second
    return np.log2([rate, bandwidth, rate / bandwidth, system.processors])
