"""Floorplans: the rectangular units of one layer of a die, as HotSpot's `.flp` files have them."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path

import numpy as np
import numpy.typing as npt

from pmc.dialects.errors import PmcError

Floats = npt.NDArray[np.float64]

TOLERANCE = 1e-6
"""Relative to the die: files have coordinates with 9 digits."""


@dataclass(frozen=True)
class Unit:
    """A rectangle; metres, from the lower left corner of the die."""

    name: str
    width: float
    height: float
    left: float
    bottom: float

    @property
    def right(self) -> float:
        """The right edge in metres."""
        return self.left + self.width

    @property
    def top(self) -> float:
        """The upper edge in metres."""
        return self.bottom + self.height

    @property
    def area(self) -> float:
        """Square metres."""
        return self.width * self.height


@dataclass(frozen=True)
class Floorplan:
    """Units that do not overlap.  Raises PmcError for others, for names given twice and for a unit without an area."""

    source: str
    """The file, for messages."""
    units: tuple[Unit, ...]

    def __post_init__(self) -> None:
        """Check the units."""
        if not self.units:
            raise PmcError(f"{self.source}: a floorplan needs at least one unit")
        names: set[str] = set()
        for unit in self.units:
            if unit.name in names:
                raise PmcError(f"{self.source}: unit '{unit.name}' is there twice")
            names.add(unit.name)
            if not (unit.width > 0 and unit.height > 0):
                raise PmcError(f"{self.source}: unit '{unit.name}' has no area: {unit.width} x {unit.height} m")
            if min(unit.left, unit.bottom) < -TOLERANCE * max(self.width, self.height):
                raise PmcError(
                    f"{self.source}: unit '{unit.name}' leaves the die at {unit.left}, {unit.bottom} m: "
                    "it begins at 0, 0"
                )
        pair = next(self._overlaps(), None)
        if pair is not None:
            raise PmcError(f"{self.source}: units '{pair[0].name}' and '{pair[1].name}' overlap")

    def _overlaps(self) -> Iterator[tuple[Unit, Unit]]:
        slack = TOLERANCE * max(self.width, self.height)
        left, right, bottom, top = self.edges
        for place, unit in enumerate(self.units):
            wide = np.minimum(right, unit.right) - np.maximum(left, unit.left) > slack
            high = np.minimum(top, unit.top) - np.maximum(bottom, unit.bottom) > slack
            others = np.flatnonzero((wide & high)[place + 1 :])
            if len(others):
                yield unit, self.units[place + 1 + int(others[0])]

    @cached_property
    def edges(self) -> tuple[Floats, Floats, Floats, Floats]:
        """[units] left, right, bottom and top edges in metres."""
        columns = ((u.left, u.right, u.bottom, u.top) for u in self.units)
        left, right, bottom, top = np.array(list(columns), np.float64).T
        return left, right, bottom, top

    @cached_property
    def width(self) -> float:
        """From 0 to the rightmost edge, metres."""
        return max(unit.right for unit in self.units)

    @cached_property
    def height(self) -> float:
        """From 0 to the highest edge, metres."""
        return max(unit.top for unit in self.units)

    def cells(self, width: float, height: float, rows: int, columns: int) -> Floats:
        """[units, rows * columns] square metres that units share with the cells of a grid; row 0 is the top."""
        left, right, bottom, top = self.edges
        x = np.arange(columns + 1) * width / columns
        y = height - np.arange(rows + 1) * height / rows
        wide = np.minimum(right[:, None], x[1:]) - np.maximum(left[:, None], x[:-1])
        high = np.minimum(top[:, None], y[:-1]) - np.maximum(bottom[:, None], y[1:])
        area: Floats = np.maximum(high, 0)[:, :, None] * np.maximum(wide, 0)[:, None, :]
        area[area < TOLERANCE * width * height / (rows * columns)] = 0
        return area.reshape(len(self.units), rows * columns)


def read_floorplan(path: Path) -> Floorplan:
    """The floorplan of a `.flp` file: name, width, height, left, bottom.

    Raises PmcError for lines of another form; units with a heat capacity and a resistivity of their own are refused.
    """
    units: list[Unit] = []
    for number, fields in _lines(path):
        where = f"{path}:{number}"
        if len(fields) != 5:
            own = ", units with materials of their own are not modelled" if len(fields) == 7 else ""
            raise PmcError(f"{where}: needs name, width, height, left and bottom, found {len(fields)} fields{own}")
        width, height, left, bottom = (number_of(field, where) for field in fields[1:])
        units.append(Unit(fields[0], width, height, left, bottom))
    return Floorplan(str(path), tuple(units))


def write_floorplan(plan: Floorplan, path: Path) -> None:
    """Write a `.flp` file that `read_floorplan` reads."""
    rows = (f"{u.name}\t{u.width:.9f}\t{u.height:.9f}\t{u.left:.9f}\t{u.bottom:.9f}\n" for u in plan.units)
    path.write_text("".join(rows), encoding="utf-8")


def number_of(text: str, where: str) -> float:
    """A finite number.  Raises PmcError for another text, which `where` says the place of."""
    try:
        value = float(text)
    except ValueError:
        value = np.nan
    if not np.isfinite(value):
        raise PmcError(f"{where}: '{text}' is no number")
    return value


def whole_number_of(text: str, where: str) -> int:
    """A whole number.  Raises PmcError for another text, which `where` says the place of."""
    value = number_of(text, where)
    if value != int(value):
        raise PmcError(f"{where}: '{text}' is no whole number")
    return int(value)


def _lines(path: Path) -> Iterable[tuple[int, list[str]]]:
    for number, line in enumerate(text_of(path).splitlines(), 1):
        fields = line.split("#")[0].split()
        if fields:
            yield number, fields


def text_of(path: Path) -> str:
    """The text of a file.  Raises PmcError where it cannot be read."""
    try:
        return path.read_text(encoding="utf-8")
    except (OSError, UnicodeDecodeError) as error:
        raise PmcError(f"{path}: {error.strerror if isinstance(error, OSError) else 'not UTF-8'}") from None
