"""A dim cut into contiguous chunks, one per core, and each chunk into tiles."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from math import prod

from pmc.dialects.expr import Expr, ceildiv, expr, floordiv, min_of, mod
from pmc.dialects.tile_types import CORE, CoresAttr


def round_up(value: int, step: int) -> int:
    """`value` rounded up to a multiple of `step`."""
    return -(-value // step) * step


def largest(most: int, fits: Callable[[int], bool]) -> int:
    """The largest of 1 .. `most` that fits, 0 where none does; what is smaller than one that fits does too."""
    found, too_large = 0, most + 1
    while found + 1 < too_large:
        middle = (found + too_large) // 2
        found, too_large = (middle, too_large) if fits(middle) else (found, middle)
    return found


def core_coordinates(parts: Sequence[int]) -> tuple[Expr, ...]:
    """The coordinates of a core in a row-major grid of `parts`."""
    coordinates: list[Expr] = []
    for i, count in enumerate(parts):
        inner = prod(parts[i + 1 :])
        index = floordiv(expr(CORE), inner)
        if count == 1:
            index = expr(0)
        elif prod(parts[:i]) > 1:
            index = mod(index, count)
        coordinates.append(index)
    return tuple(coordinates)


def cores_along(parts: Sequence[int], dim: int) -> CoresAttr:
    """The cores that differ from a core in one coordinate of a row-major grid of `parts`."""
    count, stride = parts[dim], prod(parts[dim + 1 :])
    core, first = expr(CORE), expr(0)
    if prod(parts[:dim]) > 1:
        first = floordiv(core, count * stride) * (count * stride)
    if stride > 1:
        first = first + mod(core, stride)
    return CoresAttr.of(first, count, stride)


@dataclass(frozen=True)
class Split:
    """`total` items over cores in chunks that are multiples of `granule`, then in tiles of `tile`.

    Every one of the `parts` cores has at least one item: asking for more cores than there are chunks gives fewer.
    Expressions are exact at the edges and as simple as the divisibility of the numbers allows.
    """

    total: int
    chunk: int
    tile: int

    @classmethod
    def over(cls, total: int, cores: int, tile: int, granule: int = 1) -> Split:
        """Split `total` over at most `cores` cores."""
        return cls(total, round_up(-(-total // cores), granule), tile)

    @property
    def parts(self) -> int:
        """How many cores have work."""
        return -(-self.total // self.chunk)

    @property
    def max_trips(self) -> int:
        """The trip count on the busiest core."""
        return -(-min(self.chunk, self.total) // self.tile)

    def length(self, core: Expr) -> Expr:
        """The items of a core."""
        if self.parts == 1:
            return expr(self.total)
        return expr(self.chunk) if self.total % self.chunk == 0 else min_of(self.chunk, self.total - core * self.chunk)

    def trips(self, core: Expr) -> Expr:
        """The tiles of a core."""
        return expr(1) if self.max_trips == 1 else ceildiv(self.length(core), self.tile)

    def start(self, core: Expr, index: Expr) -> Expr:
        """The first item of tile `index` of a core."""
        return core * self.chunk + index * self.tile

    def size(self, core: Expr, index: Expr) -> Expr:
        """The items of tile `index` of a core."""
        if self.max_trips == 1:
            return self.length(core)
        bounds: list[Expr | int] = [self.tile]
        if self.parts > 1 and self.chunk % self.tile:
            bounds.append(self.chunk - index * self.tile)
        step = self.chunk if self.parts > 1 else self.total
        # Only the last chunk can end before its tile does, unless all chunks are whole.
        ragged = self.total % self.tile or step % self.tile
        if ragged and (self.parts == 1 or self.total % self.chunk):
            bounds.append(self.total - self.start(core, index))
        return min_of(*bounds) if len(bounds) > 1 else expr(self.tile)
