"""Where temperatures come from: an engine holds the heat in a chip and takes watts."""

from __future__ import annotations

from typing import Protocol

from pmc.backends.thermal.floorplan import Floats
from pmc.backends.thermal.solver import SUB_STEPS
from pmc.backends.thermal.stack import ZERO_CELSIUS
from pmc.backends.thermal.stacked import StackedModel, die_names

KeptHeat = Floats | str
"""The heat in a chip: the nodes of the solver, or the file that HotSpot goes on from."""


class HeatEngine(Protocol):
    """Temperatures are [cores] and [banks] degrees C, powers [cores] and [banks] watts."""

    def steady(self, core_w: Floats, bank_w: Floats) -> tuple[Floats, Floats]:
        """Put the chip into the state that a constant power leads to."""
        ...

    def advance(self, core_w: Floats, bank_w: Floats, seconds: float) -> tuple[Floats, Floats]:
        """Go on for some time with a constant power."""
        ...

    def kept(self) -> KeptHeat:
        """The heat in the chip."""
        ...

    def restore(self, kept: KeptHeat) -> None:
        """Go on from the heat that an engine of the same kind has kept."""
        ...

    def layers_c(self) -> dict[str, Floats] | None:
        """[rows, columns] degrees C of the cells of every die by its name; None where cells are not known."""
        ...


class SolverEngine:
    """The solver of pmc, in this process.  Engines of one model share its factors and have a state each."""

    def __init__(self, chip: StackedModel):
        self.chip = chip
        self.state = chip.model.uniform(chip.model.stack.package.ambient)
        """[nodes] kelvin above the ambient."""

    def steady(self, core_w: Floats, bank_w: Floats) -> tuple[Floats, Floats]:
        """Put the chip into the state that a constant power leads to."""
        self.state = self.chip.model.steady(self.chip.powers(core_w, bank_w))
        return self.chip.celsius(self.state)

    def advance(self, core_w: Floats, bank_w: Floats, seconds: float) -> tuple[Floats, Floats]:
        """Go on for some time with a constant power, in `SUB_STEPS` steps."""
        self.state = self.chip.model.advance(self.state, self.chip.powers(core_w, bank_w), seconds, SUB_STEPS)
        return self.chip.celsius(self.state)

    def kept(self) -> KeptHeat:
        """The nodes."""
        return self.state

    def restore(self, kept: KeptHeat) -> None:
        """Go on from these nodes."""
        assert not isinstance(kept, str), "the heat of HotSpot is a file"
        self.state = kept

    def layers_c(self) -> dict[str, Floats] | None:
        """[rows, columns] degrees C of the cells of every die; the first row is the top of the die."""
        names = die_names(self.chip.arch)
        found = (self.chip.model.cell_kelvin(self.state, 2 * place) - ZERO_CELSIUS for place in range(len(names)))
        return dict(zip(names, found, strict=True))
