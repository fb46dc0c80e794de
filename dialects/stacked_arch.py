"""A chip of cores under or over stacked DRAM: mesh, banks, geometry, cooling, DVFS, refresh and power.

    #arch.stacked<{name = "..", mesh = {cores = [8, 8], ..}, dram = {banks = [32, 32, 8], ..}, ..}>

Core c stands in column c % nx and row c // nx of the mesh; bank B(x,y,layer) has the number (layer * ny + y) * nx + x,
and layer 0 of DRAM is the one beside the logic die.  All dies are of one size: a core takes one macro.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from itertools import pairwise
from typing import Annotated, Literal

from pydantic import BeforeValidator, Field, model_validator
from xdsl.irdl import irdl_attr_definition

from pmc.dialects.errors import PmcError
from pmc.dialects.schema import Count, Ghz, Name, Ns, Number, Paths, Pj, Schema, Us, did_you_mean
from pmc.dialects.schema_text import SchemaAttr

Positive = Annotated[Number, Field(gt=0)]
AtLeastZero = Annotated[Number, Field(ge=0)]
Celsius = Annotated[Number, Field(ge=-50, le=400, json_schema_extra={"unit": "degrees C"})]

_BANK = re.compile(r"B\((\d+),(\d+),(\d+)\)")


class MeshNoc(Schema, frozen=True):
    """The network between cores; a hop is one link of the mesh."""

    topology: Literal["mesh"] = Field(description="How the cores are linked")
    width_bits: Count = Field(description="Bits that a link moves per cycle")
    clock_ghz: Ghz = Field(description="Clock of the links")
    link_latency_ns: Ns = Field(description="Time of one hop")

    @property
    def link_gb_per_s(self) -> float:
        """Bandwidth of one link one way, GB/s."""
        return self.width_bits / 8 * self.clock_ghz


class CoreMesh(Schema, frozen=True):
    """The cores of the logic die."""

    cores: Annotated[tuple[Count, Count], Field(strict=False, description="Columns and rows")]
    noc: MeshNoc = Field(description="Network between cores")

    @property
    def count(self) -> int:
        """How many cores there are."""
        return self.cores[0] * self.cores[1]


class StackedDram(Schema, frozen=True):
    """The DRAM dies."""

    banks: Annotated[tuple[Count, Count, Count], Field(strict=False, description="Columns, rows and dies")]
    page_kb: Positive = Field(description="Page of one bank, KiB")
    bank_capacity_mb: Positive = Field(description="Capacity of one bank, MiB")

    @property
    def count(self) -> int:
        """How many banks there are on all dies."""
        return self.banks[0] * self.banks[1] * self.banks[2]


class LayerMaterial(Schema, frozen=True):
    """One kind of die or filling."""

    thickness_um: Positive = Field(description="Thickness, um")
    k_wmk: Positive = Field(description="Thermal conductivity, W/(m K)")
    c_jm3k: Positive = Field(description="Volumetric heat capacity, J/(m3 K)")


class StackMaterials(Schema, frozen=True):
    """The kinds of layers of the stack."""

    logic: LayerMaterial = Field(description="The logic die")
    dram: LayerMaterial = Field(description="A DRAM die")
    tim: LayerMaterial = Field(description="What lies between two dies")


class StackGeometry(Schema, frozen=True):
    """Sizes and order of the dies."""

    macro_size_mm: Annotated[tuple[Positive, Positive], Field(strict=False, description="Width and height of a core")]
    logic: Literal["far", "near"] = Field(description="Where the logic die is: far from the sink, or next to it")
    layers: StackMaterials = Field(description="Materials")
    grid: Annotated[tuple[Count, Count], Field(strict=False, description="Rows and columns of cells per layer")]
    map_mode: Literal["avg", "min", "max", "center"] = Field(description="Temperature of a unit, from its cells")
    convention: Literal["hotspot6", "hotspot7"] = Field(description="Whose resistances between cells are taken")


class Plate(Schema, frozen=True):
    """A square plate of the package."""

    side_mm: Positive = Field(description="Side, mm")
    thickness_mm: Positive = Field(description="Thickness, mm")
    k_wmk: Positive = Field(description="Thermal conductivity, W/(m K)")
    c_jm3k: Positive = Field(description="Volumetric heat capacity, J/(m3 K)")


class BoardPlate(Schema, frozen=True):
    """A square plate on the side of the board, of HotSpot's material for it."""

    side_mm: Positive = Field(description="Side, mm")
    thickness_mm: Positive = Field(description="Thickness, mm")


class BoardPath(Schema, frozen=True):
    """The second way of heat, through the board."""

    substrate: BoardPlate = Field(description="Package substrate")
    solder: BoardPlate = Field(description="Solder balls")
    pcb: BoardPlate = Field(description="Board")
    r_convec_k_per_w: Positive = Field(description="Resistance between board and ambient, K/W")
    c_convec_jk: Positive = Field(description="Heat capacity of the air under the board, J/K")


class Cooling(Schema, frozen=True):
    """The package and what takes the heat away: r_convec = 1 / (h x area)."""

    type: Literal["air", "liquid"] = Field(description="What takes the heat away; names the assumption, sets nothing")
    h_wmk2k: Positive = Field(description="Heat transfer coefficient, W/(m2 K)")
    h_area_mm2: Positive = Field(description="Area that the coefficient is stated for, mm2")
    c_convec_jk: Positive = Field(description="Heat capacity of what takes the heat away, J/K")
    ambient_c: Celsius = Field(description="Temperature around the sink")
    spreader: Plate = Field(description="Heat spreader")
    sink: Plate = Field(description="Heat sink")
    board: BoardPath | None = Field(description="Second way of heat, null for none")

    @property
    def r_convec_k_per_w(self) -> float:
        """Resistance between sink and ambient, K/W."""
        return 1 / (self.h_wmk2k * self.h_area_mm2 * 1e-6)


class DvfsDomain(Schema, frozen=True):
    """Cores that are clocked by the same rule, each by its own temperature."""

    cores: Literal["all"] = Field(description="Which cores")
    steps_ghz: Annotated[tuple[Ghz, ...], Field(strict=False, min_length=1, description="Clocks, fastest first")]
    voltage_v: Annotated[tuple[Positive, ...], Field(strict=False, min_length=1, description="Voltage of each clock")]
    trip_c: Annotated[tuple[Celsius, ...], Field(strict=False, description="Above which the next clock is taken")]
    hysteresis_c: Positive = Field(description="How far below a trip a core must be to be clocked faster again, K")

    @model_validator(mode="after")
    def _check(self) -> DvfsDomain:
        if len(self.trip_c) != len(self.steps_ghz) - 1:
            raise ValueError(f"trip_c needs {len(self.steps_ghz) - 1} values, one below each clock but the fastest")
        if len(self.voltage_v) != len(self.steps_ghz):
            raise ValueError(f"voltage_v needs {len(self.steps_ghz)} values, one per clock")
        _require_order("steps_ghz", self.steps_ghz, rising=False)
        _require_order("trip_c", self.trip_c, rising=True)
        return self


class Dvfs(Schema, frozen=True):
    """Dynamic voltage and frequency scaling."""

    domains: Annotated[tuple[DvfsDomain], Field(strict=False, description="The domain, which has all cores")]


REFRESH_CURVES: Mapping[str, tuple[tuple[float, float], ...]] = {
    "jedec": ((85.0, 2.0),),  # 64 ms up to 85 C, 32 ms above
    "hbm2": ((85.0, 2.0), (95.0, 4.0)),  # the data sheet of one HBM2 part
    "study": ((40.0, 1.0), (55.0, 2.0), (70.0, 4.0), (85.0, 8.0)),  # of the TAS-MoE study: pessimistic, a what-if
}
"""Degrees C from which DRAM refreshes at a multiple of the base rate; below the first the multiple is 1."""


def _named_curve(value: object) -> object:
    if not isinstance(value, str):
        return value
    if value not in REFRESH_CURVES:
        hint = did_you_mean(value, REFRESH_CURVES)
        raise ValueError(f"there is no curve '{value}', known are {', '.join(REFRESH_CURVES)}{hint}")
    return REFRESH_CURVES[value]


class Refresh(Schema, frozen=True):
    """Refresh of DRAM: its rate rises with the temperature of a bank.

    The curve may be given by a name of `REFRESH_CURVES`.
    """

    tref_base_us: Annotated[Us, Field(gt=0)] = Field(description="Time between refresh commands at the base rate")
    trfc_ns: Ns = Field(description="Time of one refresh command, in which the bank serves nothing")
    tref_curve: Annotated[
        tuple[Annotated[tuple[Celsius, Annotated[Number, Field(ge=1)]], Field(strict=False)], ...],
        Field(strict=False, min_length=1, description="Temperature from which, and multiple of the base rate"),
        BeforeValidator(_named_curve),
    ]

    @model_validator(mode="after")
    def _check(self) -> Refresh:
        _require_order("temperatures of tref_curve", [c for c, _ in self.tref_curve], rising=True)
        for (_, low), (at, high) in pairwise(self.tref_curve):
            if high < low:
                raise ValueError(f"tref_curve falls from {low:g} to {high:g} at {at:g} C: heat asks for more refresh")
        busy = self.tref_curve[-1][1] * self.trfc_ns / (self.tref_base_us * 1e3)
        if busy >= 1:
            raise ValueError(f"at the end of tref_curve refresh takes {busy:.0%} of the time of a bank")
        return self


class Leakage(Schema, frozen=True):
    """Power of a unit without work: reference_w x 2^((T - reference_c) / doubles_every_k)."""

    reference_w: AtLeastZero = Field(description="Leakage of one unit at the reference temperature, W")
    reference_c: Celsius = Field(description="Reference temperature")
    doubles_every_k: Positive = Field(description="Warming that doubles it, K")


class StackPower(Schema, frozen=True):
    """Energy of what the chip does; core energies are those at the fastest clock and go with voltage squared."""

    pj_per_flop: Pj = Field(description="One floating point operation of a core, its operands in its SRAM")
    pj_per_dram_byte: Pj = Field(description="One byte read from or written to a bank")
    nj_per_refresh: AtLeastZero = Field(description="One refresh command of a bank, nJ")
    pj_per_noc_byte_hop: Pj = Field(description="One byte over one link, spent in the cores along the way")
    core_leakage: Leakage = Field(description="Leakage of one core")
    bank_leakage: Leakage = Field(description="Leakage of one bank")
    run_away_c: Celsius = Field(description="A unit hotter than this has run away: the simulation stops")


class StackedArch(Schema, frozen=True):
    """The chip.  `unvalidated` lists the fields that are assumptions; results that rest on them are relative only."""

    name: Name = Field(description="Name of the chip")
    unvalidated: Paths = Field(description="Paths of fields, or of blocks of fields, that are assumptions")
    mesh: CoreMesh = Field(description="Cores")
    dram: StackedDram = Field(description="DRAM")
    geometry: StackGeometry = Field(description="Sizes and order of the dies")
    cooling: Cooling = Field(description="Package")
    dvfs: Dvfs = Field(description="Clocks of cores by temperature")
    refresh: Refresh = Field(description="Refresh of DRAM by temperature")
    power: StackPower = Field(description="Energies")

    @model_validator(mode="after")
    def _check(self) -> StackedArch:
        for side, cores, banks in zip("xy", self.mesh.cores, self.dram.banks, strict=False):
            if banks % cores:
                raise ValueError(f"dram.banks: {banks} banks along {side} do not lie evenly over {cores} cores")
        return self

    @property
    def domain(self) -> DvfsDomain:
        """The domain of all cores."""
        return self.dvfs.domains[0]

    def core_xy(self, core: int) -> tuple[int, int]:
        """Column and row of a core."""
        row, column = divmod(core, self.mesh.cores[0])
        return column, row

    def core_hops(self, first: int, second: int) -> int:
        """Links between two cores."""
        (x0, y0), (x1, y1) = self.core_xy(first), self.core_xy(second)
        return abs(x0 - x1) + abs(y0 - y1)

    def bank_name(self, bank: int) -> str:
        """`B(x,y,layer)` of a bank's number."""
        nx, ny, _ = self.dram.banks
        rest, x = divmod(bank, nx)
        layer, y = divmod(rest, ny)
        return f"B({x},{y},{layer})"

    def bank_number(self, name: str) -> int:
        """The number of `B(x,y,layer)`.  Raises PmcError for a name of no bank."""
        match = _BANK.fullmatch(name)
        nx, ny, layers = self.dram.banks
        if match is None:
            raise PmcError(f"'{name}' is no bank: expected B(x,y,layer)")
        x, y, layer = (int(part) for part in match.groups())
        if x >= nx or y >= ny or layer >= layers:
            raise PmcError(f"there is no bank {name}: {self.name} has {nx} x {ny} banks on {layers} dies")
        return (layer * ny + y) * nx + x

    def core_at_bank(self, bank: int) -> int:
        """The core that the bank lies over, which its data enters the network at."""
        nx, ny, _ = self.dram.banks
        y, x = divmod(bank % (nx * ny), nx)
        columns, rows = self.mesh.cores
        return (y * rows // ny) * columns + x * columns // nx

    def banks_at_core(self, core: int) -> list[int]:
        """The numbers of the banks that lie over a core, die by die from the logic die, row by row."""
        nx, ny, layers = self.dram.banks
        columns, rows = self.mesh.cores
        wide, high = nx // columns, ny // rows
        x0, y0 = (side * size for side, size in zip(self.core_xy(core), (wide, high), strict=True))
        return [
            (layer * ny + y) * nx + x
            for layer in range(layers)
            for y in range(y0, y0 + high)
            for x in range(x0, x0 + wide)
        ]


def _require_order(what: str, values: tuple[float, ...] | list[float], rising: bool) -> None:
    for before, after in pairwise(values):
        if not (before < after if rising else before > after):
            raise ValueError(f"{what} must {'rise' if rising else 'fall'}: {after:g} comes after {before:g}")


@irdl_attr_definition
class StackedArchAttr(SchemaAttr[StackedArch]):
    """The stacked chip of a module."""

    name = "arch.stacked"
    SCHEMA = StackedArch


STACKED = StackedArchAttr.name
"""The attribute of a module that says which stacked chip its trace is placed on."""
