"""`PerfDatabase`: how long a kernel takes on a system under a serving engine, and how far to trust the number."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from enum import Enum

import numpy as np

from pmc.backends.silicon.artefact import Artefact
from pmc.backends.silicon.fit import fit_rows
from pmc.backends.silicon.library import OF_LIBRARIES, Library
from pmc.backends.silicon.physical import Fit
from pmc.backends.silicon.predictor import Predictor
from pmc.backends.silicon.schema import TableKind, kind_named
from pmc.backends.silicon.shipped import ShippedLibrary, library_at_hand, shipped, shipped_systems
from pmc.backends.silicon.system import System
from pmc.backends.silicon.table import NotMeasuredError, Rows, Table
from pmc.backends.silicon.transfer import Donor, donors_for, donors_of, transfer
from pmc.backends.silicon.work import Workload
from pmc.dialects.errors import PmcError
from pmc.dialects.schema import did_you_mean

UNMEASURED = "unmeasured"
"""The version of a database without measurements."""


class DatabaseMode(Enum):
    """Where numbers may be from."""

    SOL = "sol"
    """The least time that the work can take: peak rates, nothing fitted, nothing measured."""
    EMPIRICAL = "empirical"
    """The fitted physical model alone; needs a fit, not the table."""
    SILICON = "silicon"
    """A measured row as it is; between and beyond rows the model, corrected by the nearest ones."""
    HYBRID = "hybrid"
    """SILICON where the engine has a table, EMPIRICAL where it has a fit only."""


class Source(Enum):
    """How a number came about."""

    MEASURED = "measured"
    INTERPOLATED = "interpolated"
    EXTRAPOLATED = "extrapolated"
    ANALYTIC = "analytic"


class PerformanceResult(float):
    """Milliseconds, as a float."""

    energy: float | None
    """Millijoules (W ms); None where no power was measured."""
    source: Source
    error_band: tuple[float, float] | None
    """Milliseconds between which 80% of measurements lie; None for a measured row and for the speed of light."""
    origin: str
    """The file of the rows or of the fit, and the lane of a measured row."""

    def __new__(
        cls,
        latency_ms: float,
        source: Source,
        energy: float | None = None,
        error_band: tuple[float, float] | None = None,
        origin: str = "",
    ) -> PerformanceResult:
        """A result.  Raises PmcError for a time that is not positive."""
        if not (np.isfinite(latency_ms) and latency_ms > 0):
            raise PmcError(f"a latency of {latency_ms} ms, expected a positive number")
        self = super().__new__(cls, latency_ms)
        self.source, self.energy, self.error_band, self.origin = source, energy, error_band, origin
        return self


_Key = tuple[str, tuple[tuple[str, str], ...]]


@dataclass(frozen=True)
class PerfDatabase:
    """Tables and fits of one system, engine and version.  Tables are read when a query first needs them."""

    library: Library
    system: System
    backend: str
    version: str
    mode: DatabaseMode = DatabaseMode.SILICON
    fits: dict[_Key, Fit] = field(default_factory=dict[_Key, Fit])
    donors: tuple[Donor, ...] = ()
    """Of a system without measurements: fits of others, which answer with its rates."""
    _tables: dict[str, Table] = field(default_factory=dict[str, Table], repr=False, compare=False)
    _predictors: dict[_Key, Predictor] = field(default_factory=dict[_Key, Predictor], repr=False, compare=False)
    _chosen: dict[_Key, tuple[Donor, ...]] = field(
        default_factory=dict[_Key, tuple[Donor, ...]], repr=False, compare=False
    )
    _rows: dict[_Key, Rows] = field(default_factory=dict[_Key, Rows], repr=False, compare=False)

    @classmethod
    def open(
        cls,
        system: str,
        backend: str,
        version: str | None = None,
        mode: DatabaseMode = DatabaseMode.SILICON,
        library: Library | None = None,
        fits: Iterable[Fit] | None = None,
    ) -> PerfDatabase:
        """The tables of a system; without a library those of the extra, without a version the current one.

        Where the extra is not installed there are the shipped fits alone.  Without `fits` those that are shipped are
        taken if they were made from this library; those of other systems, backends and versions are left aside.  A
        system that is shipped without measurements is `unmeasured`.  Raises PmcError, with the nearest names, for a
        system, backend or version that has no tables.
        """
        if library is None:
            library = library_at_hand()
        spec = library.system(system)
        name = spec.name
        if version is None and _is_specification(library, name):
            return cls.unmeasured(spec, backend, mode)
        known = library.current(name, backend) if version is None else library.check_version(name, backend, version)
        database = cls(library, spec, backend, known, mode)
        for fit in _shipped_fits(library, name) if fits is None else fits:
            if fit.system == name and (fit.backend, fit.version) == database.folder(kind_named(fit.kind)):
                database.fits[_key(fit.kind, fit.categories)] = fit
        return database

    @classmethod
    def unmeasured(
        cls,
        system: System,
        backend: str,
        mode: DatabaseMode = DatabaseMode.EMPIRICAL,
        family: str | None = None,
        donors: Iterable[Artefact] | None = None,
    ) -> PerfDatabase:
        """A system that was never measured, see `transfer`: its numbers are of the formulas of others at its rates.

        `family` is the one system whose formulas hold; by default all with a fit count, the nearer the more.  `donors`
        are the fits of others, by default all that are shipped; those of a system of the same name do not count.
        Raises PmcError, with the nearest name, for an unknown family, and for an engine without fits.
        """
        names = shipped_systems() if family is None else (family.replace("-", "_"),)
        found = donors_of([shipped(name) for name in names] if donors is None else donors, system.name)
        engines = sorted({d.fit.backend for d in found}.difference(OF_LIBRARIES))
        if backend not in engines:
            raise PmcError(f"no fits of '{backend}'{did_you_mean(backend, engines)}; there are {', '.join(engines)}")
        return cls(ShippedLibrary.open(), system, backend, UNMEASURED, mode, {}, found)

    def query(self, workload: Workload, mode: DatabaseMode | None = None) -> PerformanceResult:
        """The time of a kernel.

        Raises PmcError for a workload that no table and no model of this database covers: unknown formats, kinds
        without a table, and points further than `predictor.REACH` beyond what was measured.
        """
        match mode or self.mode:
            case DatabaseMode.SOL:
                sol = type(workload).work(workload.points, self.system).sol_ms
                return PerformanceResult(float(sol[0]), Source.ANALYTIC, origin=f"peak rates of {self.system.name}")
            case DatabaseMode.EMPIRICAL:
                return self._modelled(workload)
            case DatabaseMode.SILICON:
                return self._measured(workload)
            case DatabaseMode.HYBRID:
                try:
                    self.rows(workload)
                except NotMeasuredError:
                    if not self.donors and _key(workload.KIND, workload.categories) not in self.fits:
                        raise
                    return self._modelled(workload)
                return self._measured(workload)

    def rows(self, workload: Workload) -> Rows:
        """The measurements of the kind and categories of a workload.  Raises PmcError where there are none."""
        key = _key(workload.KIND, workload.categories)
        if key not in self._rows:
            self._rows[key] = self.table(workload.table_kind()).rows(workload.categories)
        return self._rows[key]

    def table(self, kind: TableKind) -> Table:
        """The table of a kind.  Raises PmcError where there is none, and for a bad file."""
        if self.donors:
            raise NotMeasuredError(f"{self.system.name} was never measured: mode empirical has numbers of it")
        if kind.name not in self._tables:
            self._tables[kind.name] = self.library.table(kind, self.system.name, *self.folder(kind))
        return self._tables[kind.name]

    def fit(self, workload: Workload) -> Fit:
        """The fit of the kind and categories of a workload: the one given, else one of the measured rows.

        Raises PmcError where there is neither, and where SciPy is missing.
        """
        given = self.fits.get(_key(workload.KIND, workload.categories))
        if given is not None:
            return given
        return fit_rows(type(workload), self.rows(workload), self.system, *self.folder(workload.table_kind()))

    def predictor(self, workload: Workload) -> Predictor:
        """What answers between and beyond the rows of the kind and categories of a workload."""
        key = _key(workload.KIND, workload.categories)
        if key not in self._predictors:
            rows = self.rows(workload)
            self._predictors[key] = Predictor(type(workload), rows, self.system, self.fit(workload))
        return self._predictors[key]

    def folder(self, kind: TableKind) -> tuple[str, str]:
        """Backend and version in whose folder a kind is: NCCL has its own.  Raises PmcError where that is not said."""
        library = OF_LIBRARIES.get(kind.name)
        if library is None:
            return self.backend, self.version
        version = getattr(self.system.spec.misc, f"{library}_version")
        if version is None:
            raise NotMeasuredError(f"{self.system.name} does not say its version of {library} (misc.{library}_version)")
        return library, version

    def _measured(self, workload: Workload) -> PerformanceResult:
        rows, points = self.rows(workload), workload.points
        found = rows.find(points.coordinates[0])
        if found is not None:
            latency = float(rows.latency_ms[found])
            energy = None if rows.power_w is None else float(rows.power_w[found]) * latency
            return PerformanceResult(latency, Source.MEASURED, energy, None, f"{rows.source}: {rows.lanes[found]}")
        predicted = self.predictor(workload).predict(points)
        if not predicted.within_reach[0]:
            raise PmcError(f"{workload} is too far beyond what was measured in {rows.source} for a model of it")
        latency = float(predicted.latency_ms[0])
        energy = None if predicted.power_w is None else float(predicted.power_w[0]) * latency
        source = Source.INTERPOLATED if predicted.inside[0] else Source.EXTRAPOLATED
        return PerformanceResult(
            latency, source, energy, (float(predicted.low_ms[0]), float(predicted.high_ms[0])), rows.source
        )

    def _modelled(self, workload: Workload) -> PerformanceResult:
        if self.donors:
            return self._transferred(workload)
        key = _key(workload.KIND, workload.categories)
        fit = self.predictor(workload).fit if key not in self.fits else self.fits[key]
        latency = float(fit.predict_ms(type(workload), workload.points, self.system)[0])
        band = (latency * fit.band_80[0], latency * fit.band_80[1])
        return PerformanceResult(latency, Source.ANALYTIC, None, band, f"fit of {fit.rows} rows of {fit.source}")

    def _transferred(self, workload: Workload) -> PerformanceResult:
        backend = OF_LIBRARIES.get(workload.KIND, self.backend)
        key = _key(workload.KIND, workload.categories)
        if key not in self._chosen:
            self._chosen[key] = donors_for(self.donors, workload.KIND, backend, workload.categories)
        chosen = self._chosen[key]
        if not chosen:
            words = ", ".join(f"{name} '{word}'" for name, word in workload.categories.items())
            raise NotMeasuredError(f"no system has a fit of {workload.KIND} under {backend} with {words}")
        found = transfer(type(workload), workload.points, self.system, chosen)
        names = ", ".join(d.system.name for d in chosen)
        return PerformanceResult(
            float(found.latency_ms[0]),
            Source.ANALYTIC,
            None,
            (float(found.low_ms[0]), float(found.high_ms[0])),
            f"fits of {names} at the rates of {self.system.name}",
        )


def _is_specification(library: Library, system: str) -> bool:
    """Whether a shipped system has no measurements."""
    ships = isinstance(library, ShippedLibrary) or library.package is not None
    return ships and system in shipped_systems() and not shipped(system).fits


def _shipped_fits(library: Library, system: str) -> tuple[Fit, ...]:
    if not isinstance(library, ShippedLibrary) and (library.package is None or system not in shipped_systems()):
        return ()
    artefact = shipped(system)
    return artefact.fits if isinstance(library, ShippedLibrary) or artefact.data == library.package else ()


def _key(kind: str, categories: Mapping[str, str]) -> _Key:
    return kind, tuple(sorted(categories.items()))
