"""The physical model of a kernel: a few parameters, the same formula for every kind.

    t = t0 + ((C / e_c)^p + (M / e_m)^p + (s t_s)^p + (T t_t)^p)^(1/p)
    C = compute time x padding of tiles x waves^a         waves = ceil(tiles / processors) processors / tiles
    M = memory time x max(1, processors / tiles)^b        too few tiles ask for too little at once

t0 is the launch and all else that does not grow, e_c and e_m the parts of the peak rates that are reached, p how well
computing hides behind memory (1: not at all), t_s the time of a step that waits for the one before, t_t what a
processor takes to begin and end a tile, of which it gets T = tiles / processors, a and b how much of an idle processor
is lost (0: split keys fill it).  Tiles and steps are those of `Workload.tiling`.  The form is that of a roofline with a
smooth corner (Williams et al., 2009) under wave quantisation (NVIDIA, Matrix multiplication background, 2023); the
parameters are fitted, see `fit`.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, fields

import numpy as np

from pmc.backends.silicon.bands import Bands
from pmc.backends.silicon.columns import Floats
from pmc.backends.silicon.system import System
from pmc.backends.silicon.work import Points, Workload
from pmc.dialects.errors import PmcError

DIGITS = 5
"""Of a fitted number: more than any measurement has."""


def rounded(value: float) -> float:
    """A number with `DIGITS` digits."""
    return float(f"{value:.{DIGITS}g}")


@dataclass(frozen=True)
class Parameters:
    """Of the formula above."""

    fixed_us: float
    compute_efficiency: float
    memory_efficiency: float
    overlap_power: float
    step_us: float
    tile_us: float
    wave_loss: float
    idle_loss: float

    def __post_init__(self) -> None:
        """Raises PmcError for values with which the formula means nothing."""
        for field in fields(self):
            value = getattr(self, field.name)
            low = 1.0 if field.name == "overlap_power" else 0.0
            if not (isinstance(value, int | float) and np.isfinite(value) and value >= low):
                raise PmcError(f"fit: {field.name} is {value!r}, expected a number from {low:g}")

    def rounded(self) -> Parameters:
        """With `DIGITS` digits, as an artefact has them."""
        return Parameters(*(rounded(getattr(self, field.name)) for field in fields(self)))


@dataclass(frozen=True)
class Fit:
    """Fitted parameters, and where they are from."""

    kind: str
    system: str
    backend: str
    version: str
    categories: Mapping[str, str]
    tile: tuple[int, ...]
    parameters: Parameters
    band_80: tuple[float, float]
    """Factors on the prediction between which 80% of rows lie that the fit did not see."""
    rows: int
    """Rows that it was fitted to."""
    seed: int
    source: str
    """The file of the rows."""
    bands: Bands | None = None
    """What leaving rows out has taught about the formula corrected by its neighbours; None where it is not learned."""

    def predict_ms(self, workload: type[Workload], points: Points, system: System) -> Floats:
        """Milliseconds of every point.  Raises PmcError for what `Workload.work` refuses."""
        milliseconds: Floats = np.exp(log_us(workload, points, system, self.tile, self.parameters)) / 1e3
        return milliseconds


def log_us(
    workload: type[Workload], points: Points, system: System, tile: tuple[int, ...], parameters: Parameters
) -> Floats:
    """log of the microseconds of every point."""
    return Terms.of(workload, points, system, tile).log_us(parameters)


@dataclass(frozen=True)
class Terms:
    """What of the formula does not depend on the parameters; arrays of one length."""

    compute_us: Floats
    memory_us: Floats
    steps: Floats
    tiles: Floats
    """Of a processor."""
    log_waves: Floats
    log_idle: Floats

    @classmethod
    def of(cls, workload: type[Workload], points: Points, system: System, tile: tuple[int, ...]) -> Terms:
        """Of some points.  Raises PmcError for what `Workload.work` refuses."""
        work, cut = workload.work(points, system), workload.tiling(points, tile)
        waves = np.ceil(cut.tiles / system.processors) * system.processors / cut.tiles
        idle = np.maximum(1, system.processors / cut.tiles)
        tiles = cut.tiles / system.processors
        compute, memory = 1e6 * work.compute_s * cut.padded, 1e6 * work.memory_s
        return cls(compute, memory, cut.steps, tiles, np.log(waves), np.log(idle))

    def log_us(self, parameters: Parameters) -> Floats:
        """log of the microseconds."""
        return self.with_slopes(parameters)[0]

    def with_slopes(self, parameters: Parameters) -> tuple[Floats, Floats]:
        """log of the microseconds [points], and its derivatives [points, 8] by the parameters in their order.

        Those that are positive count by their log, the overlap power by the log of what it has over 1, and the two
        losses as they are: the coordinates in which `fit` searches.
        """
        compute = self.compute_us * np.exp(parameters.wave_loss * self.log_waves) / parameters.compute_efficiency
        memory = self.memory_us * np.exp(parameters.idle_loss * self.log_idle) / parameters.memory_efficiency
        starts = self.tiles * parameters.tile_us
        terms = np.stack([compute, memory, self.steps * parameters.step_us, starts])
        largest = np.maximum(terms.max(axis=0), 1e-12)
        # Over the largest one, so that no power overflows.
        p, ratios = parameters.overlap_power, terms / largest
        powers = ratios**p
        total = powers.sum(axis=0)
        grown = largest * total ** (1 / p)
        time = parameters.fixed_us + grown
        part, shares = grown / time, powers / total
        logs = np.log(np.maximum(ratios, 1e-300))
        by_power = (p - 1) / p * (np.sum(shares * logs, axis=0) - np.log(total) / p)
        slopes = [
            parameters.fixed_us / time, -shares[0] * part, -shares[1] * part, by_power * part, shares[2] * part,
            shares[3] * part, shares[0] * part * self.log_waves, shares[1] * part * self.log_idle,
        ]  # fmt: skip
        return np.log(time), np.stack(slopes, axis=1)
