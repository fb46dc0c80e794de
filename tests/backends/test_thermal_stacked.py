"""The stack of a chip is that of HotSpot's files, and cores and banks are where the numbers say."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

from pmc.backends.thermal.network import network_of
from pmc.backends.thermal.stack import PACKAGE_FIELDS, read_stack
from pmc.backends.thermal.stacked import StackedModel, core_name, stack_of
from pmc.dialects.errors import PmcError
from pmc.dialects.stacked_arch import StackedArch

from .stacked_chips import chip, small_chip

REFERENCE = Path(__file__).parents[1] / "reference" / "thermal"


def reference_chip(logic: str) -> StackedArch:
    return chip((8, 8), (8, 8, 4), geometry__logic=logic)


@pytest.mark.parametrize("logic", ["far", "near"])
def test_the_stack_is_that_of_the_reference_files(logic: str) -> None:
    found = stack_of(reference_chip(logic))
    expected = read_stack(REFERENCE / logic / "stack.lcf", REFERENCE / logic / "hotspot.config")
    for name in PACKAGE_FIELDS:
        assert getattr(found.package, name) == pytest.approx(getattr(expected.package, name), rel=1e-12), name
    assert found.grid == expected.grid
    for a, b in zip(found.layers, expected.layers, strict=True):
        assert (a.lateral, a.powered, len(a.floorplan.units)) == (b.lateral, b.powered, len(b.floorplan.units))
    ours, theirs = network_of(found), network_of(expected)
    assert abs(ours.conductance - theirs.conductance).max() < 1e-9 * abs(theirs.conductance).max()
    assert ours.capacitance == pytest.approx(theirs.capacitance, rel=1e-9)
    assert ours.to_ambient == pytest.approx(theirs.to_ambient, rel=1e-9)
    assert abs(ours.power - theirs.power).max() < 1e-6


def test_names_are_those_of_the_reference_far_from_the_sink_and_dies_are_turned_near_it() -> None:
    for logic in ("far", "near"):
        expected = read_stack(REFERENCE / logic / "stack.lcf", REFERENCE / logic / "hotspot.config").powered_units
        found = stack_of(reference_chip(logic)).powered_units
        assert (found == expected) is (logic == "far")
        assert sorted(found) == sorted(expected)
    layers = stack_of(reference_chip("near")).layers
    # DRAM die 0 is beside the logic: the die before it is the one farther away.
    first = [layer.floorplan.units[0].name for layer in layers if layer.powered]
    assert first == ["B_192", "B_128", "B_64", "B_0", "C_0"]


@pytest.mark.parametrize("logic", ["far", "near"])
def test_units_lie_where_the_numbers_of_the_chip_say(logic: str) -> None:
    arch = small_chip(geometry__logic=logic)
    units = {unit.name: unit for layer in stack_of(arch).layers for unit in layer.floorplan.units}
    core = units[core_name(2)]
    assert (core.left, core.bottom) == (0.0, pytest.approx(0.002))  # column 0, row 1: above row 0
    for bank in range(arch.dram.count):
        unit, below = units[f"B_{bank}"], units[core_name(arch.core_at_bank(bank))]
        assert below.left - 1e-12 <= unit.left and unit.right <= below.right + 1e-12
        assert below.bottom - 1e-12 <= unit.bottom and unit.top <= below.top + 1e-12


@pytest.mark.parametrize("logic", ["far", "near"])
def test_a_hot_unit_is_the_one_that_has_the_power(logic: str) -> None:
    arch = small_chip(geometry__logic=logic)
    found = StackedModel.of(arch)
    for core in range(arch.mesh.count):
        power = np.zeros(arch.mesh.count)
        power[core] = 5.0
        cores, banks = found.celsius(found.model.steady(found.powers(power, np.zeros(arch.dram.count))))
        assert cores.argmax() == core
        assert arch.core_at_bank(int(banks.argmax())) == core
        assert int(banks.argmax()) // 8 == 0  # on the die beside the logic
    for bank in range(arch.dram.count):
        power = np.zeros(arch.dram.count)
        power[bank] = 5.0
        cores, banks = found.celsius(found.model.steady(found.powers(np.zeros(4), power)))
        assert banks.argmax() == bank and cores.argmax() == arch.core_at_bank(bank)


def test_row_0_of_the_cores_is_in_the_last_rows_of_the_grid() -> None:
    found = StackedModel.of(small_chip())
    power = np.array([5.0, 0, 0, 0])
    cells = found.model.cell_kelvin(found.model.steady(found.powers(power, np.zeros(16))), 0)
    row, column = np.unravel_index(cells.argmax(), cells.shape)
    assert row >= 4 and column < 4


@pytest.mark.parametrize("logic", ["far", "near"])
def test_the_response_of_cores_gives_steady_temperatures(logic: str) -> None:
    found = StackedModel.of(small_chip(geometry__logic=logic))
    power = np.array([1.0, 2.0, 3.0, 4.0])
    cores, banks = found.celsius(found.model.steady(found.powers(power, np.zeros(16))))
    on_cores, on_banks = found.core_response()
    assert on_cores @ power + 45 == pytest.approx(cores, rel=1e-9)
    assert on_banks @ power + 45 == pytest.approx(banks, rel=1e-9)


def test_split_fillings_change_no_temperature() -> None:
    power, idle = np.array([1.0, 2.0, 3.0, 4.0]), np.zeros(16)
    whole, split = (StackedModel.of(small_chip(), split) for split in (False, True))
    for a, b in zip(*(m.celsius(m.model.steady(m.powers(power, idle))) for m in (whole, split)), strict=True):
        assert a.tolist() == b.tolist()
    units = [len(layer.floorplan.units) for layer in split.model.stack.layers]
    assert units == [4, 4, 8, 4, 8, 4]


def test_wrong_sizes_are_one_line() -> None:
    found = StackedModel.of(small_chip())
    with pytest.raises(PmcError, match="3 powers for 4 cores of arch_8x8_32x32x8"):
        found.powers(np.zeros(3), np.zeros(16))
    with pytest.raises(PmcError, match=r"s_spreader .* must be longer than the sides of the die"):
        stack_of(small_chip(geometry__macro_size_mm=[30.0, 2.0]))
