"""Fits of everything that is measured of a system: what `pmc calibrate` does."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from time import process_time

from pmc.backends.silicon.database import PerfDatabase
from pmc.backends.silicon.fit import fit_rows
from pmc.backends.silicon.library import OF_LIBRARIES, Library
from pmc.backends.silicon.physical import Fit
from pmc.backends.silicon.predictor import Predictor
from pmc.backends.silicon.table import NotMeasuredError
from pmc.backends.silicon.workloads import WORKLOADS
from pmc.dialects.errors import PmcError
from pmc.dialects.schema import did_you_mean


@dataclass(frozen=True)
class Step:
    """What became of one set of categories, or of a table that could not be read."""

    backend: str
    kind: str
    categories: Mapping[str, str]
    rows: int
    outcome: Fit | PmcError
    seconds: float
    """Of CPU."""
    share: float
    """Of the tables of the plan that this step is: the steps of a table add up to 1."""


@dataclass(frozen=True)
class Plan:
    """The tables of a system that are to be fitted."""

    databases: tuple[PerfDatabase, ...]
    tables: tuple[tuple[int, str], ...]
    """Database by its place, and kind."""

    @classmethod
    def of(
        cls,
        library: Library,
        system: str,
        backends: Sequence[str] = (),
        version: str | None = None,
        kinds: Sequence[str] = (),
    ) -> Plan:
        """The tables of these engines and kinds; without any, of all that have tables.

        Raises PmcError, with the nearest
        names, for unknown systems, engines, versions and kinds, and where no kind has a table.
        """
        for kind in kinds:
            if kind not in WORKLOADS:
                near = did_you_mean(kind, WORKLOADS)
                raise PmcError(f"no model of kind '{kind}'{near}; kinds with a model: {', '.join(WORKLOADS)}")
        spec = library.system(system)
        measured = library.backends(spec.name)
        if library.is_flat and not backends:
            raise PmcError(f"{library.root}: tables without folders say no engine; name the one that was measured")
        if not measured and not library.is_flat:
            raise PmcError(f"{spec.name} has a specification and no measurements")
        names = tuple(backends) or tuple(b for b in measured if b not in OF_LIBRARIES)
        databases = tuple(PerfDatabase.open(spec.name, b, version, library=library, fits=()) for b in names)
        tables: list[tuple[int, str]] = []
        known: set[tuple[str, tuple[str, str]]] = set()
        for place, database in enumerate(databases):
            for kind in kinds or WORKLOADS:
                try:
                    table_kind = WORKLOADS[kind].table_kind()
                    of = (kind, database.folder(table_kind))
                    library.table_path(table_kind, spec.name, *of[1])
                except NotMeasuredError:
                    continue
                if of not in known:
                    known.add(of)
                    tables.append((place, kind))
        if not tables:
            raise PmcError(
                f"{spec.name} has no table of {' or '.join(kinds) if kinds else 'a kind with a model'}"
                f"{' under ' + ', '.join(names) if names else ''} in {library.root}"
            )
        return cls(databases, tuple(tables))

    def run(self) -> Iterator[Step]:
        """Fit every set of categories, with its bands.  What has no fit has the reason instead."""
        for place, kind in self.tables:
            database = self.databases[place]
            workload = WORKLOADS[kind]
            backend, version = database.folder(workload.table_kind())
            start = process_time()
            try:
                table = database.library.table(workload.table_kind(), database.system.name, backend, version)
                sets = table.category_sets
            except PmcError as error:
                yield Step(backend, kind, {}, 0, error, process_time() - start, 1.0)
                continue
            for categories in sets:
                rows = table.rows(categories)
                outcome: Fit | PmcError
                try:
                    fit = fit_rows(workload, rows, database.system, backend, version)
                    outcome = replace(fit, bands=Predictor(workload, rows, database.system, fit).bands)
                except PmcError as error:
                    outcome = error
                yield Step(backend, kind, categories, len(rows), outcome, process_time() - start, 1 / len(sets))
                start = process_time()
