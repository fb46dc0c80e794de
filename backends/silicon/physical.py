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

import json
from collections.abc import Mapping
from dataclasses import asdict, dataclass, fields
from pathlib import Path
from typing import Any

import numpy as np

from pmc.backends.silicon.columns import Floats
from pmc.backends.silicon.system import System
from pmc.backends.silicon.work import Points, Workload
from pmc.dialects.errors import PmcError, excerpt

FORMAT = "pmc silicon fit 1"


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

    def predict_ms(self, workload: type[Workload], points: Points, system: System) -> Floats:
        """Milliseconds of every point.  Raises PmcError for what `Workload.work` refuses."""
        return np.exp(log_us(workload, points, system, self.tile, self.parameters)) / 1e3

    def to_json(self) -> str:
        """The text of the artefact."""
        return json.dumps({"format": FORMAT, **asdict(self)}, indent=1) + "\n"

    @classmethod
    def from_json(cls, text: str, source: str) -> Fit:
        """The fit of an artefact.  Raises PmcError, naming `source`, for a text that is none."""
        try:
            data: Any = json.loads(text)
            if not isinstance(data, dict) or data.pop("format", None) != FORMAT:
                raise PmcError(f"{source}: no artefact '{FORMAT}'")
            low, high = data["band_80"]
            parameters = Parameters(**data["parameters"])
            tile = tuple(int(size) for size in data["tile"])
            return cls(**{**data, "parameters": parameters, "tile": tile, "band_80": (float(low), float(high))})
        except (KeyError, TypeError, ValueError) as error:
            raise PmcError(f"{source}: no artefact '{FORMAT}': {excerpt(str(error))}") from None


def write_fits(path: Path, fits: list[Fit]) -> None:
    """One artefact a line of a list."""
    path.write_text("[\n" + ",\n".join(fit.to_json().strip() for fit in fits) + "\n]\n", encoding="utf-8")


def read_fits(path: Path) -> list[Fit]:
    """What `write_fits` wrote.  Raises PmcError for other files."""
    try:
        data = json.loads(path.read_text(encoding="utf-8"))
    except (OSError, ValueError) as error:
        raise PmcError(f"{path}: no readable fits: {excerpt(str(error))}") from None
    if not isinstance(data, list):
        raise PmcError(f"{path}: expected a list of artefacts '{FORMAT}'")
    return [Fit.from_json(json.dumps(one), f"{path}: fit {place}") for place, one in enumerate(data, 1)]


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
        compute = self.compute_us * np.exp(parameters.wave_loss * self.log_waves) / parameters.compute_efficiency
        memory = self.memory_us * np.exp(parameters.idle_loss * self.log_idle) / parameters.memory_efficiency
        starts = self.tiles * parameters.tile_us
        terms = np.stack([compute, memory, self.steps * parameters.step_us, starts])
        largest = np.maximum(terms.max(axis=0), 1e-12)
        # Over the largest one, so that no power overflows.
        p = parameters.overlap_power
        grown = largest * np.sum((terms / largest) ** p, axis=0) ** (1 / p)
        total: Floats = np.log(parameters.fixed_us + grown)
        return total
