"""Where tables are: the data of the extra `pmc[silicon]`, or a folder of one's own in the same layout.

    <root>/<system>.yaml                                            see `system`
    <root>/query_versions.yaml                                      the version that is meant without one, per backend
    <root>/<data_dir>/[<family>/]<backend>/<version>/<kind>_perf.parquet | .csv | .txt
    <root>/<kind>_perf.parquet | .csv | .txt                        a folder with nothing but tables (`--perf-dir`)

The wheel is data: its folder is found without importing it.
"""

from __future__ import annotations

import re
from collections.abc import Iterable
from dataclasses import dataclass
from functools import cached_property
from importlib import metadata
from importlib.util import find_spec
from pathlib import Path

import yaml
from pydantic import Field, ValidationError

from pmc.backends.silicon.columns import INSTALL, SUFFIXES
from pmc.backends.silicon.schema import TableKind
from pmc.backends.silicon.system import System, read_system
from pmc.backends.silicon.table import NotMeasuredError, Table
from pmc.dialects.errors import PmcError, excerpt
from pmc.dialects.schema import Schema, did_you_mean, explain

WHEEL = "aiconfigurator_core"
VERSIONS = "query_versions.yaml"
UNVERSIONED = "unversioned"
"""The version of tables that lie in no folder of one."""
_DATA_DIR = re.compile(r"^data_dir:", re.MULTILINE)

OF_LIBRARIES = {"nccl": "nccl", "oneccl": "oneccl"}
"""Kinds whose tables belong to a communication library, which every serving engine calls, by its folder."""


class Slot(Schema, frozen=True):
    """The versions of one engine."""

    current: str
    previous: str | None = None


class Slots(Schema, frozen=True):
    """The file of versions: by engine, and by system and engine."""

    schema_version: int = 1
    defaults: dict[str, Slot] = Field(default_factory=dict[str, Slot])
    overrides: dict[str, dict[str, Slot]] = Field(default_factory=dict[str, dict[str, Slot]])


@dataclass(frozen=True)
class Library:
    """A folder of systems and tables."""

    root: Path
    package: str | None = None
    """The installed package, with its version, that the folder belongs to."""

    @classmethod
    def installed(cls) -> Library:
        """That of the extra.  Raises PmcError, with the command that installs it, where it is missing."""
        folder = _installed_folder()
        if folder is None:
            raise PmcError(f"measured tables are not installed: {INSTALL}, or give a folder of tables")
        try:
            return cls(folder, f"{WHEEL} {metadata.version(WHEEL)}")
        except metadata.PackageNotFoundError:
            return cls(folder, WHEEL)

    @classmethod
    def is_installed(cls) -> bool:
        """Whether the extra is."""
        return _installed_folder() is not None

    @classmethod
    def folder(cls, root: Path) -> Library:
        """One of one's own.  Raises PmcError where there is none."""
        if not root.is_dir():
            raise PmcError(f"{root}: no folder of tables")
        return cls(root)

    @cached_property
    def systems(self) -> tuple[str, ...]:
        """Names of all systems: files with a line `data_dir: ..`, others are about versions and lanes."""
        named = (p for p in self.root.glob("*.yaml") if _DATA_DIR.search(p.read_text(encoding="utf-8")))
        return tuple(sorted(p.stem for p in named))

    def system(self, name: str) -> System:
        """The specification of a system.  `-` and `_` are the same.  Raises PmcError for an unknown one."""
        return read_system(self.root / f"{self.named(name)}.yaml")

    def named(self, name: str) -> str:
        """The name of a system as the files have it.  Raises PmcError for an unknown one."""
        plain = name.replace("-", "_")
        if plain not in self.systems:
            raise PmcError(f"no system '{name}'{did_you_mean(plain, self.systems)}; known: {', '.join(self.systems)}")
        return plain

    def backends(self, system: str) -> tuple[str, ...]:
        """Serving engines and libraries with tables of this system."""
        return tuple(sorted({folder.parent.name for folder in self._version_folders(system)}))

    def versions(self, system: str, backend: str) -> tuple[str, ...]:
        """Versions with tables, the oldest first.  Raises PmcError for a backend without any."""
        found = {f.name for f in self._version_folders(system) if f.parent.name == backend}
        if not found:
            has = self.backends(system)
            if not has:
                raise PmcError(f"{system} has a specification and no measurements")
            raise PmcError(f"no tables of '{backend}' on {system}{did_you_mean(backend, has)}; it has {', '.join(has)}")
        return in_order(found)

    def current(self, system: str, backend: str) -> str:
        """The version that is meant where none is said.  Raises PmcError for a backend without any."""
        if self.is_flat:
            return UNVERSIONED
        known = self.versions(system, backend)
        path = self.root / VERSIONS
        if not path.exists():
            return known[-1]
        slots = _read_slots(path)
        for block in (slots.overrides.get(system, {}), slots.defaults):
            if backend in block:
                return block[backend].current
        return known[-1]

    def check_version(self, system: str, backend: str, version: str) -> str:
        """The version.  Raises PmcError, with the nearest one, where it has no tables."""
        if self.is_flat:
            return version
        known = self.versions(system, backend)
        if version not in known:
            raise PmcError(
                f"no tables of {backend} '{version}' on {system}{did_you_mean(version, known)}; "
                f"it has {', '.join(known)}"
            )
        return version

    def kinds(self, system: str, backend: str) -> frozenset[str]:
        """The kinds of tables that an engine has in any version."""
        files = (path for folder in self._version_folders(system) for path in folder.glob("*_perf.*"))
        return frozenset(path.name.partition("_perf.")[0] for path in files if path.parent.parent.name == backend)

    def table_path(self, kind: TableKind, system: str, backend: str, version: str) -> Path:
        """The file of a version, or of the newest older one that has such a table.

        Raises NotMeasuredError where there is none, with the versions that have one.
        """
        own = self._files(self.root, kind)
        if own:
            return own[0]
        folders = [f for f in self._version_folders(system) if f.parent.name == backend]
        having = {f.name: files[0] for f in folders if (files := self._files(f, kind))}
        usable = [v for v in sorted(having, key=_version_order) if _version_order(v) <= _version_order(version)]
        if not usable:
            newer = f"; newer versions have one: {', '.join(sorted(having, key=_version_order))}" if having else ""
            raise NotMeasuredError(f"{system} has no {kind.name} table of {backend} {version}{newer}")
        return having[usable[-1]]

    def table(self, kind: TableKind, system: str, backend: str, version: str) -> Table:
        """The table of `table_path`.  Raises PmcError as that and `read_columns` do."""
        path = self.table_path(kind, system, backend, version)
        return Table.read(path, kind, str(path.relative_to(self.root)))

    def _version_folders(self, system: str) -> Iterable[Path]:
        data = self.root / self.system(system).spec.data_dir
        folders = {p.parent for pattern in ("*/*/*_perf.*", "*/*/*/*_perf.*") for p in data.glob(pattern)}
        return sorted(f for f in folders if f.is_dir())

    @cached_property
    def is_flat(self) -> bool:
        """Whether tables lie in the root itself: they are meant for every system, engine and version."""
        return any(True for _ in self.root.glob("*_perf.*"))

    def _files(self, folder: Path, kind: TableKind) -> list[Path]:
        found = [folder / f"{kind.name}_perf{suffix}" for suffix in SUFFIXES]
        found = [path for path in found if path.is_file()]
        if len(found) > 1:
            raise PmcError(f"{folder}: {found[0].name} and {found[1].name} are the same table; keep one")
        return found


def _installed_folder() -> Path | None:
    spec = find_spec(WHEEL)
    folders = [] if spec is None else [Path(p) / "systems" for p in spec.submodule_search_locations or ()]
    return next((f for f in folders if f.is_dir()), None)


def in_order(versions: Iterable[str]) -> tuple[str, ...]:
    """The oldest first."""
    return tuple(sorted(versions, key=_version_order))


def _version_order(version: str) -> tuple[tuple[int, int, str], ...]:
    """Numbers by value, and a pre-release (`rc`, `dev`, `alpha`) before what follows it."""
    parts = re.findall(r"\d+|[a-z]+", version.lower())
    order = [(1, int(p), "") if p.isdigit() else (2 if p == "post" else -1, 0, p) for p in parts]
    return (*order, (0, 0, ""))


def _read_slots(path: Path) -> Slots:
    try:
        return Slots.model_validate(yaml.safe_load(path.read_text(encoding="utf-8")))
    except (OSError, UnicodeDecodeError, yaml.YAMLError) as error:
        raise PmcError(f"{path}: no readable YAML: {excerpt(' '.join(str(error).split()))}") from None
    except ValidationError as error:
        raise PmcError(f"{path}: {explain(error, Slots)[1]}") from None
