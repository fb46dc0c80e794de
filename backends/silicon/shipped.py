"""The fits that come with pmc: `EMPIRICAL` numbers of the systems of the measured tables, without the tables."""

from __future__ import annotations

from functools import cache, cached_property
from importlib import resources
from pathlib import Path

from pmc.backends.silicon.artefact import Artefact, read_artefact
from pmc.backends.silicon.columns import INSTALL
from pmc.backends.silicon.library import OF_LIBRARIES, Library, in_order
from pmc.backends.silicon.schema import TableKind
from pmc.backends.silicon.system import System
from pmc.backends.silicon.table import NotMeasuredError
from pmc.dialects.errors import PmcError
from pmc.dialects.schema import did_you_mean


def shipped_folder() -> Path:
    """Where the artefacts are, one per system."""
    return Path(str(resources.files("pmc.configs") / "fits"))


@cache
def shipped_systems() -> tuple[str, ...]:
    """Names of the systems that have one."""
    return tuple(sorted(path.stem for path in shipped_folder().glob("*.json")))


@cache
def shipped(system: str) -> Artefact:
    """The artefact of a system.  Raises PmcError for a system without one."""
    if system not in shipped_systems():
        raise PmcError(f"no fits of '{system}'{did_you_mean(system, shipped_systems())} come with pmc")
    return read_artefact(shipped_folder() / f"{system}.json")


class ShippedLibrary(Library):
    """What stands in for the measured tables where they are not installed: specifications, and no table."""

    @classmethod
    def open(cls) -> ShippedLibrary:
        """That of the package."""
        return cls(shipped_folder())

    @cached_property
    def systems(self) -> tuple[str, ...]:
        """Names of all systems with shipped fits."""
        return shipped_systems()

    def system(self, name: str) -> System:
        """The specification that the fits were made with.  Raises PmcError for an unknown system."""
        return shipped(self.named(name)).system

    def backends(self, system: str) -> tuple[str, ...]:
        """Serving engines and libraries with fits."""
        return tuple(sorted({fit.backend for fit in shipped(system).fits}))

    def versions(self, system: str, backend: str) -> tuple[str, ...]:
        """Versions with fits.  Raises PmcError for an engine without any."""
        found = {fit.version for fit in shipped(system).fits if fit.backend == backend}
        if not found:
            has = [b for b in self.backends(system) if b not in OF_LIBRARIES]
            raise PmcError(f"no fits of '{backend}' on {system}{did_you_mean(backend, has)}; it has {', '.join(has)}")
        return in_order(found)

    def kinds(self, system: str, backend: str) -> frozenset[str]:
        """The kinds of tables that an engine has fits of."""
        return frozenset(fit.kind for fit in shipped(system).fits if fit.backend == backend)

    def table_path(self, kind: TableKind, system: str, backend: str, version: str) -> Path:
        """None of them: raises NotMeasuredError with the command that installs them."""
        raise NotMeasuredError(f"measured tables are not installed: {INSTALL}, or give a folder of tables")


def library_at_hand() -> Library:
    """The measured tables where they are installed, else what comes with pmc."""
    return Library.installed() if Library.is_installed() else ShippedLibrary.open()
