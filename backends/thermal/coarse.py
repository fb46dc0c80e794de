"""A chip with fewer, larger banks, for programs that cannot hold all of its units."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from pmc.backends.thermal.floorplan import Floats
from pmc.backends.thermal.network import Ints
from pmc.backends.thermal.stacked import die_size_m, stack_of
from pmc.backends.thermal.traces import POWER_WIDTH
from pmc.dialects.errors import PmcError
from pmc.dialects.grouped_sums import grouped_sums
from pmc.dialects.stacked_arch import StackedArch

MAX_UNITS = 8192
"""Of all layers, in stock builds of HotSpot."""

MAX_LINE = 65536
"""Characters, in stock builds of HotSpot."""


@dataclass(frozen=True)
class CoarseChip:
    """A chip whose neighbouring banks are merged."""

    arch: StackedArch
    """The chip of the merged banks."""
    merged: Ints
    """[banks of the original chip] the merged bank that each is part of."""

    def merge_w(self, bank_w: Floats) -> Floats:
        """[merged banks] watts: those of all parts."""
        return grouped_sums(self.merged, bank_w, self.arch.dram.count)

    def spread_c(self, merged_c: Floats) -> Floats:
        """[banks] degrees C: every part has the temperature of the merged bank."""
        return merged_c[self.merged]


def coarse_chip(arch: StackedArch, max_units: int = MAX_UNITS, max_line: int = MAX_LINE) -> CoarseChip:
    """Merge banks as little as it takes; those over different cores, and of different dies, stay apart.

    Raises PmcError where even one bank over each core is too much.
    """
    nx, ny, dies = arch.dram.banks
    banks = [nx, ny]
    while not _fits(coarse := _with_banks(arch, (banks[0], banks[1], dies)), max_units, max_line):
        per_core = [count // cores for count, cores in zip(banks, arch.mesh.cores, strict=True)]
        sizes = [side / count for side, count in zip(die_size_m(arch), banks, strict=True)]
        axes = [axis for axis in (0, 1) if per_core[axis] > 1]
        if not axes:
            raise PmcError(f"thermal: {arch.name} has too many cores and dies for {max_units} units of a program")
        axis = min(axes, key=lambda axis: sizes[axis])  # keeps merged banks as square as it can be
        banks[axis] //= _smallest_factor(per_core[axis])
    layer, y, x = np.indices((dies, ny, nx)).reshape(3, -1)
    merged = (layer * banks[1] + y * banks[1] // ny) * banks[0] + x * banks[0] // nx
    return CoarseChip(coarse, merged)


def _fits(arch: StackedArch, max_units: int, max_line: int) -> bool:
    powered = arch.mesh.count + arch.dram.count
    if powered > max_units or powered * POWER_WIDTH > max_line:
        return False
    stack = stack_of(arch, split_filling=True)
    names = sum(len(name) + 1 for name in stack.powered_units)
    return sum(len(layer.floorplan.units) for layer in stack.layers) <= max_units and names <= max_line


def _with_banks(arch: StackedArch, banks: tuple[int, int, int]) -> StackedArch:
    return arch if banks == arch.dram.banks else arch.model_copy(
        update={"dram": arch.dram.model_copy(update={"banks": banks})}
    )  # fmt: skip


def _smallest_factor(number: int) -> int:
    return next(factor for factor in range(2, number + 1) if number % factor == 0)
