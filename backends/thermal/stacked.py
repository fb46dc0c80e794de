"""The thermal stack of a chip of cores and stacked DRAM, and where its cores and banks stand in it.

Logic far from the sink (HBM, HMC): logic, filling, DRAM die 0, filling, .., the last DRAM die, filling, spreader.
Logic next to the sink (CoMeT's 3D): the last DRAM die, filling, .., DRAM die 0, filling, logic, filling, spreader.

Both orders keep DRAM die 0 beside the logic, as the numbers of banks do.  CoMeT numbers its dies from the far end, so
its bank names of the second order are those of other dies here.

Row r of cores and of banks lies at y = r x height above the lower edge of the die, so row 0 is at the bottom, as in
CoMeT's floorplans.  Row 0 of the grid of cells is the top of the die: pictures of `cell_kelvin` show row 0 of the cores
in their last rows.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import numpy as np

from pmc.backends.thermal.floorplan import Floats, Floorplan, Unit
from pmc.backends.thermal.network import Ints
from pmc.backends.thermal.solver import ThermalModel
from pmc.backends.thermal.stack import ZERO_CELSIUS, Board, Grid, Package, Stack, StackLayer
from pmc.dialects.errors import PmcError
from pmc.dialects.stacked_arch import BoardPath, Cooling, LayerMaterial, StackedArch


def core_name(core: int) -> str:
    """The name of a core in floorplans."""
    return f"C_{core}"


def bank_unit_name(bank: int) -> str:
    """The name of a bank in floorplans: by its number, as CoMeT has it; `StackedArch.bank_name` is that of traces."""
    return f"B_{bank}"


def core_words(core: int) -> str:
    """A core in messages."""
    return f"core {core}"


def bank_words(arch: StackedArch, bank: int) -> str:
    """A bank in messages."""
    return f"bank {arch.bank_name(bank)}"


def stack_of(arch: StackedArch, split_filling: bool = False) -> Stack:
    """Layers, package and grid of a chip.  Raises PmcError where the die does not fit under the spreader.

    A filling is one unit, or with `split_filling` one per core.  That changes no temperature, but what files of states
    say of fillings, and of spreader and sink, which are read by the last filling's floorplan.
    """
    materials = arch.geometry.layers
    units = arch.mesh.cores if split_filling else (1, 1)
    filling = _layer(materials.tim, _tiles(arch, "tim.flp", units, "T_{}".format), powered=False)
    logic = _layer(materials.logic, _tiles(arch, "cores.flp", arch.mesh.cores, core_name), powered=True)
    columns, rows, count = arch.dram.banks
    dies = [
        _layer(
            materials.dram,
            _tiles(arch, f"mem_bank_{die + 1}.flp", (columns, rows), bank_unit_name, die * columns * rows),
            powered=True,
        )
        for die in range(count)
    ]
    order = [logic, *dies] if arch.geometry.logic == "far" else [*reversed(dies), logic]
    layers = tuple(layer for die in order for layer in (die, filling))
    grid = Grid(*arch.geometry.grid, arch.geometry.map_mode)
    return Stack(layers, package_of(arch.cooling), grid, arch.geometry.convention)


def die_names(arch: StackedArch) -> list[str]:
    """The dies in the order of the stack; a filling lies between each two."""
    dies = [f"dram {die}" for die in range(arch.dram.banks[2])]
    return ["logic", *dies] if arch.geometry.logic == "far" else [*reversed(dies), "logic"]


def die_size_m(arch: StackedArch) -> tuple[float, float]:
    """Width and height of every die in metres: a macro for each core."""
    width, height = (n * mm * 1e-3 for n, mm in zip(arch.mesh.cores, arch.geometry.macro_size_mm, strict=True))
    return width, height


def package_of(cooling: Cooling) -> Package:
    """Spreader, sink, air and board, in HotSpot's names and units."""
    spreader, sink = cooling.spreader, cooling.sink
    return Package(
        s_spreader=spreader.side_mm * 1e-3, t_spreader=spreader.thickness_mm * 1e-3,
        k_spreader=spreader.k_wmk, p_spreader=spreader.c_jm3k,
        s_sink=sink.side_mm * 1e-3, t_sink=sink.thickness_mm * 1e-3, k_sink=sink.k_wmk, p_sink=sink.c_jm3k,
        r_convec=cooling.r_convec_k_per_w, c_convec=cooling.c_convec_jk, ambient=cooling.ambient_c + ZERO_CELSIUS,
        board=None if cooling.board is None else _board(cooling.board),
    )  # fmt: skip


def _board(path: BoardPath) -> Board:
    return Board(
        s_sub=path.substrate.side_mm * 1e-3, t_sub=path.substrate.thickness_mm * 1e-3,
        s_solder=path.solder.side_mm * 1e-3, t_solder=path.solder.thickness_mm * 1e-3,
        s_pcb=path.pcb.side_mm * 1e-3, t_pcb=path.pcb.thickness_mm * 1e-3,
        r_convec_sec=path.r_convec_k_per_w, c_convec_sec=path.c_convec_jk,
    )  # fmt: skip


def _layer(material: LayerMaterial, plan: Floorplan, powered: bool) -> StackLayer:
    return StackLayer(True, powered, material.c_jm3k, 1 / material.k_wmk, material.thickness_um * 1e-6, plan)


def _tiles(
    arch: StackedArch, source: str, counts: tuple[int, int], name: Callable[[int], str], first: int = 0
) -> Floorplan:
    """Equal units over the die, row by row from the lower left corner."""
    columns, rows = counts
    width, height = (size / count for size, count in zip(die_size_m(arch), counts, strict=True))
    places = ((row, column) for row in range(rows) for column in range(columns))
    units = (
        Unit(name(first + number), width, height, column * width, row * height)
        for number, (row, column) in enumerate(places)
    )
    return Floorplan(source, tuple(units))


def require_powers(arch: StackedArch, core_w: Floats, bank_w: Floats) -> None:
    """Raises PmcError for powers of other numbers of cores or banks, and for one that is negative or no number."""
    for what, given, count in (("core", core_w, arch.mesh.count), ("bank", bank_w, arch.dram.count)):
        if given.shape != (count,):
            raise PmcError(f"thermal: {given.size} powers for {count} {what}s of {arch.name}")
        wrong = np.flatnonzero(~((given >= 0) & np.isfinite(given)))
        if len(wrong):
            unit = int(wrong[0])
            name = core_words(unit) if what == "core" else bank_words(arch, unit)
            raise PmcError(f"thermal: the power of {name} is {given[unit]} W, must be 0 or more")


@dataclass(frozen=True)
class StackedModel:
    """The thermal model of a chip, in terms of its cores and banks by their numbers."""

    arch: StackedArch
    model: ThermalModel
    core_powers: Ints
    """[cores] places among the powered units of the stack."""
    bank_powers: Ints
    """[banks] places among the powered units of the stack."""
    core_units: Ints
    """[cores] places among all units of the stack."""
    bank_units: Ints
    """[banks] places among all units of the stack."""

    @classmethod
    def of(cls, arch: StackedArch, split_filling: bool = False) -> StackedModel:
        """The model of a chip, see `stack_of`.  Raises PmcError where the die does not fit under the spreader."""
        stack = stack_of(arch, split_filling)
        cores = [core_name(core) for core in range(arch.mesh.count)]
        banks = [bank_unit_name(bank) for bank in range(arch.dram.count)]
        powered = {name: place for place, name in enumerate(stack.powered_units)}
        names = (unit.name for layer in stack.layers for unit in layer.floorplan.units)
        every = {name: place for place, name in enumerate(names)}
        places = (np.array([of[n] for n in wanted], np.int64) for of in (powered, every) for wanted in (cores, banks))
        return cls(arch, ThermalModel.of(stack), *places)

    def powers(self, core_w: Floats, bank_w: Floats) -> Floats:
        """[powered units] watts in the order of the stack, of those of cores and banks.

        Raises PmcError, see `require_powers`.
        """
        require_powers(self.arch, core_w, bank_w)
        found = np.zeros(len(core_w) + len(bank_w))
        found[self.core_powers], found[self.bank_powers] = core_w, bank_w
        return found

    def celsius(self, state: Floats) -> tuple[Floats, Floats]:
        """[cores] and [banks] degrees C of a state of the network."""
        units = self.model.unit_kelvin(state) - ZERO_CELSIUS
        return units[self.core_units], units[self.bank_units]

    def core_response(self) -> tuple[Floats, Floats]:
        """[cores, cores] and [banks, cores] kelvin of the first per watt in the second, in the steady state."""
        found = self.model.response_to(self.core_powers)
        return found[self.core_units], found[self.bank_units]
