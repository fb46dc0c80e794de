"""Bytes on the links of the mesh: all data goes first along its row, then along its column (XY routing)."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from pmc.backends.thermal.floorplan import Floats
from pmc.backends.thermal.network import Ints
from pmc.dialects.stacked_arch import StackedArch


@dataclass(frozen=True)
class LinkBytes:
    """What goes over each link, one way and the other."""

    across: Floats
    """[2, rows, columns - 1] bytes to the right and to the left, between a column and the next."""
    along: Floats
    """[2, rows - 1, columns] bytes to the next row and back."""

    @property
    def byte_hops(self) -> float:
        """Bytes times the links that they go over."""
        return float(self.across.sum() + self.along.sum())

    @property
    def busiest(self) -> float:
        """Bytes of the link that carries most, one way."""
        return float(max(self.across.max(initial=0.0), self.along.max(initial=0.0)))

    def of_cores(self) -> Floats:
        """[cores] byte-hops, of which each link gives one half to each of the two cores that it joins."""
        across, along = self.across.sum(axis=0) / 2, self.along.sum(axis=0) / 2
        found = np.zeros((across.shape[0], along.shape[1]))
        found[:, :-1] += across
        found[:, 1:] += across
        found[:-1] += along
        found[1:] += along
        return found.reshape(-1)


def xy_links(arch: StackedArch, source: Ints, target: Ints, size: Floats) -> LinkBytes:
    """The links that [transfers] of `size` bytes use from core `source` to core `target`.

    The bytes of a link are exact as long as all sizes are whole numbers with a sum below 2^53.
    """
    columns, rows = arch.mesh.cores
    (y0, x0), (y1, x1) = np.divmod(source, columns), np.divmod(target, columns)
    across = [
        _running(y0, np.minimum(x0, x1), np.maximum(x0, x1), np.where(way, size, 0.0), (rows, columns))
        for way in (x1 > x0, x1 < x0)
    ]
    along = [
        _running(x1, np.minimum(y0, y1), np.maximum(y0, y1), np.where(way, size, 0.0), (columns, rows)).T
        for way in (y1 > y0, y1 < y0)
    ]
    return LinkBytes(np.stack(across), np.stack(along))


def _running(line: Ints, first: Ints, last: Ints, size: Floats, shape: tuple[int, int]) -> Floats:
    """[lines, places - 1] bytes between a place and the next: each transfer joins at `first` and leaves at `last`."""
    lines, places = shape
    joins, leaves = (sum_at(line * places + end, size, lines * places) for end in (first, last))
    return np.cumsum((joins - leaves).reshape(shape), axis=1)[:, :-1]


def sum_at(place: Ints, amount: Floats, places: int) -> Floats:
    """[places] sums of the amounts of each place."""
    return np.asarray(np.bincount(place, amount, places), np.float64)


def cores_over(arch: StackedArch) -> Ints:
    """[banks] the core that each bank lies over, see `StackedArch.core_at_bank`."""
    (nx, ny, layers), (columns, rows) = arch.dram.banks, arch.mesh.cores
    die = (np.arange(ny) * rows // ny)[:, None] * columns + np.arange(nx) * columns // nx
    return np.tile(die.reshape(-1), layers)
