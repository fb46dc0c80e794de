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
from pathlib import Path
from typing import Literal

import numpy as np
from pydantic import ConfigDict, TypeAdapter, ValidationError

from pmc.backends.silicon.columns import Floats
from pmc.backends.silicon.system import System
from pmc.backends.silicon.work import Points, Workload
from pmc.dialects.errors import PmcError, excerpt


@dataclass(frozen=True)
class Parameters:
    """Of the formula above."""

    __pydantic_config__ = ConfigDict(extra="forbid", strict=True)
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

    __pydantic_config__ = ConfigDict(extra="forbid", strict=True)
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
        milliseconds: Floats = np.exp(log_us(workload, points, system, self.tile, self.parameters)) / 1e3
        return milliseconds


@dataclass(frozen=True)
class _Artefact:
    """A file of fits."""

    __pydantic_config__ = ConfigDict(extra="forbid", strict=True)
    format: Literal["pmc silicon fits 1"]
    fits: list[Fit]


_ARTEFACT = TypeAdapter(_Artefact)


def write_fits(path: Path, fits: list[Fit]) -> None:
    """A JSON file with parameters and provenance of every fit."""
    path.write_bytes(_ARTEFACT.dump_json(_Artefact("pmc silicon fits 1", fits), indent=1) + b"\n")


def read_fits(path: Path) -> list[Fit]:
    """What `write_fits` wrote.  Raises PmcError, naming the file and the field, for other files."""
    try:
        return _ARTEFACT.validate_json(path.read_bytes()).fits
    except OSError as error:
        raise PmcError(f"{path}: no readable fits: {excerpt(str(error))}") from None
    except ValidationError as error:
        first = error.errors()[0]
        where = ".".join(str(part) for part in first["loc"])
        raise PmcError(f"{path}: no artefact of fits: {where or 'the file'}: {excerpt(first['msg'])}") from None


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
