"""What a kernel has to do at least, and what is known of its shape: the input of speed of light and models."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Mapping
from dataclasses import dataclass, fields
from typing import ClassVar

import numpy as np

from pmc.backends.silicon.columns import Floats
from pmc.backends.silicon.schema import TableKind, kind_named
from pmc.backends.silicon.system import System
from pmc.dialects.errors import PmcError


@dataclass(frozen=True)
class Tiling:
    """One way to cut a kernel into tiles, by which it fills the processors; arrays of one length."""

    padded: Floats
    """What is computed with padded tiles, over what is asked for; 1 or more."""
    tiles: Floats
    """Tiles that are independent of each other."""
    steps: Floats
    """Steps of a tile that follow one another."""


@dataclass(frozen=True)
class Work:
    """Seconds at the full rates of a system; arrays of one length."""

    compute_s: Floats
    memory_s: Floats

    @property
    def sol_ms(self) -> Floats:
        """The speed of light: no kernel of this work is faster.  Milliseconds."""
        return 1e3 * np.maximum(self.compute_s, self.memory_s)


@dataclass(frozen=True)
class Points:
    """Workloads of one kind and one set of categories, as columns."""

    kind: TableKind
    categories: Mapping[str, str]
    coordinates: Floats
    """[points, coordinates], in the order of the kind."""

    def __getitem__(self, axis: str) -> Floats:
        """One coordinate of all points."""
        return self.coordinates[:, self.kind.axes.index(axis)]

    def __len__(self) -> int:
        """How many."""
        return len(self.coordinates)


@dataclass(frozen=True)
class Workload(ABC):
    """One kernel: a subclass has a field for every coordinate and category of its kind, with their names."""

    KIND: ClassVar[str]

    def __post_init__(self) -> None:
        """Raises PmcError for coordinates that are not whole numbers from 0."""
        for name in self.table_kind().axes:
            value = getattr(self, name)
            if not isinstance(value, int | np.integer) or value < self.minimum(name):
                raise PmcError(f"{self.KIND}: {name} is {value!r}, expected a whole number from {self.minimum(name)}")

    @classmethod
    def table_kind(cls) -> TableKind:
        """The schema of its tables."""
        return kind_named(cls.KIND)

    @classmethod
    def minimum(cls, axis: str) -> int:
        """The least value of a coordinate."""
        return 0 if axis in ("step", "window_size") else 1

    @property
    def categories(self) -> dict[str, str]:
        """Its categories by name."""
        return {name: getattr(self, name) for name in self.table_kind().categories}

    @property
    def points(self) -> Points:
        """The workload as columns of length one."""
        kind = self.table_kind()
        return Points(kind, self.categories, np.array([[float(getattr(self, axis)) for axis in kind.axes]]))

    @classmethod
    @abstractmethod
    def work(cls, points: Points, system: System) -> Work:
        """The least work of every point.  Raises PmcError for formats and shapes that are not covered."""

    @classmethod
    @abstractmethod
    def tilings(cls) -> tuple[tuple[int, ...], ...]:
        """Sizes of tiles that a fit tries."""

    @classmethod
    @abstractmethod
    def tiling(cls, points: Points, tile: tuple[int, ...]) -> Tiling:
        """How every point is cut into tiles of this size."""

    @classmethod
    @abstractmethod
    def features(cls, points: Points) -> Floats:
        """[points, features]: where a point lies among the measurements, in octaves, scaled so that measurements one
        apart resemble each other to the same degree along every feature."""

    @classmethod
    @abstractmethod
    def shape_axes(cls) -> tuple[str, ...]:
        """The coordinates that a model and its deployment fix; along the others a shape is measured in a sweep."""

    def __str__(self) -> str:
        """All fields on one line."""
        return f"{self.KIND} {' '.join(f'{f.name}={getattr(self, f.name)}' for f in fields(self))}"
