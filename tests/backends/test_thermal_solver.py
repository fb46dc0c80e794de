"""The thermal solver against HotSpot 6, and against what any network of resistors does."""

from __future__ import annotations

from dataclasses import replace
from functools import cache
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from pmc.backends.thermal.floorplan import Floats, Floorplan, Unit
from pmc.backends.thermal.network import C_FACTOR
from pmc.backends.thermal.solver import ThermalModel
from pmc.backends.thermal.stack import Grid, Package, Stack, StackLayer, read_stack
from pmc.backends.thermal.traces import read_power, read_state, read_temperatures, state_names
from pmc.dialects.errors import PmcError

REFERENCE = Path(__file__).parents[1] / "reference" / "thermal"
"""Computed with the HotSpot 6 of CoMeT: 8 x 8 cores, four layers of 64 DRAM banks, 12 300 nodes."""

PACKAGE = Package(
    s_spreader=0.03, t_spreader=0.001, k_spreader=400.0, p_spreader=3.55e6,
    s_sink=0.06, t_sink=0.0069, k_sink=400.0, p_sink=3.55e6, r_convec=0.2, c_convec=140.4, ambient=318.15,
)  # fmt: skip


@cache
def model(folder: str) -> ThermalModel:
    return ThermalModel.of(read_stack(REFERENCE / folder / "stack.lcf", REFERENCE / folder / "hotspot.config"))


@pytest.mark.parametrize("folder", ["far", "near"])
def test_steady_temperatures_are_those_of_hotspot(folder: str) -> None:
    found = model(folder)
    power = read_power(REFERENCE / folder / "steady.ptrace", found.stack)[0]
    state = found.steady(power)
    lines = [line.split() for line in (REFERENCE / folder / "hs6.steady").read_text().splitlines()]
    assert [name for name, _ in lines] == list(state_names(found.stack))
    expected = np.array([float(value) for _, value in lines])
    units = found.unit_kelvin(state)
    assert np.abs(units - expected[: len(units)]).max() < 0.01
    package = state[found.network.layers * found.network.cells :] + found.stack.package.ambient
    assert np.abs(package - expected[-12:]).max() < 0.01


def test_logic_is_hotter_far_from_the_sink_than_near_it() -> None:
    hottest: list[float] = []
    for folder in ("far", "near"):
        found = model(folder)
        state = found.steady(read_power(REFERENCE / folder / "steady.ptrace", found.stack)[0])
        hottest.append(float(found.unit_kelvin(state).max()) - 273.15)
    assert hottest == [pytest.approx(112.1, abs=0.1), pytest.approx(70.8, abs=0.1)]  # facts of the reference cases


@pytest.mark.parametrize(("sub_steps", "kelvin"), [pytest.param(2, 0.1, marks=pytest.mark.long), (4, 0.05)])
def test_steps_in_time_are_those_of_hotspot(sub_steps: int, kelvin: float) -> None:
    found = model("far")
    power = read_power(REFERENCE / "far" / "trans.ptrace", found.stack)
    names, expected = read_temperatures(REFERENCE / "far" / "hs6.ttrace")
    units = [unit.name for layer in found.stack.layers for unit in layer.floorplan.units]
    shown = [units.index(name) for name in names]
    state, worst = found.uniform(318.15), 0.0
    for window, temperatures in zip(power, expected, strict=True):
        state = found.advance(state, window, 0.003, sub_steps)
        worst = max(worst, float(np.abs(found.unit_kelvin(state)[shown] - temperatures).max()))
    assert worst < kelvin


# -- small stacks ---------------------------------------------------------------------------------------------------


def quarters(name: str, side: float = 0.01) -> Floorplan:
    half = side / 2
    corners = [(0.0, 0.0), (half, 0.0), (0.0, half), (half, half)]
    return Floorplan(f"{name}.flp", tuple(Unit(f"{name}{i}", half, half, *at) for i, at in enumerate(corners)))


def small(map_mode: str = "avg", cells: int = 8, **package: float) -> ThermalModel:
    silicon = StackLayer(True, True, 1.75e6, 1 / 120, 5e-5, quarters("c"))
    glue = StackLayer(True, False, 4e6, 0.2, 2e-5, Floorplan("t.flp", (Unit("t", 0.01, 0.01, 0.0, 0.0),)))
    dram = StackLayer(True, True, 1.75e6, 0.5, 5e-5, quarters("b"))
    stack = Stack((silicon, glue, dram), replace(PACKAGE, **package), Grid(cells, cells, map_mode))
    return ThermalModel.of(stack)


SMALL = small()
powers = st.lists(st.floats(0, 20), min_size=8, max_size=8).map(lambda values: np.array(values, np.float64))


@settings(deadline=None)
@given(powers, powers)
def test_heat_is_conserved_and_adds_up(first: Floats, second: Floats) -> None:
    states = [SMALL.steady(power) for power in (first, second, first + second)]
    for state, power in zip(states, (first, second, first + second), strict=True):
        assert SMALL.heat_out_w(state) == pytest.approx(power.sum(), rel=1e-9, abs=1e-9)
    assert states[2] == pytest.approx(states[0] + states[1], rel=1e-9, abs=1e-9)


def test_a_watt_here_warms_there_as_a_watt_there_warms_here() -> None:
    rows = [unit for unit, name in enumerate(("c0", "c1", "c2", "c3", "t", "b0", "b1", "b2", "b3")) if name != "t"]
    response = SMALL.unit_response[rows]
    assert response == pytest.approx(response.T, rel=1e-9)
    # By the symmetry of the die the corners are alike, and a unit warms itself most.
    assert np.ptp(response.diagonal()[:4]) < 1e-9 and (response.argmax(axis=0) == np.arange(8)).all()
    power = np.arange(8.0)
    assert SMALL.unit_kelvin(SMALL.steady(power))[rows] == pytest.approx(response @ power + 318.15)


@settings(deadline=None, max_examples=20)
@given(powers)
def test_steps_end_in_the_steady_state_and_store_what_does_not_leave(power: Floats) -> None:
    steady = SMALL.steady(power)
    assert SMALL.advance(steady, power, 0.003) == pytest.approx(steady, rel=1e-9, abs=1e-9)
    state, stored, seconds = SMALL.uniform(318.15), 0.0, 1e-3
    for _ in range(20):
        before, state = state, SMALL.advance(state, power, seconds, 16)
        left = (SMALL.heat_out_w(before) + SMALL.heat_out_w(state)) / 2 * seconds
        stored += float(power.sum()) * seconds - left
    held = float(SMALL.network.capacitance @ state)
    assert held == pytest.approx(stored, rel=1e-3, abs=1e-9)


def test_halving_a_step_divides_its_error_by_four() -> None:
    """TR-BDF2 is of second order; in silicon a watt is felt after microseconds."""
    power, start = np.linspace(0, 8, 8), SMALL.uniform(318.15)
    start = SMALL.advance(start, power, 1e-3, 64)
    exact = SMALL.advance(start, 2 * power, 1e-4, 512)
    errors = [float(np.abs(SMALL.advance(start, 2 * power, 1e-4, n) - exact).max()) for n in (16, 32)]
    assert errors[0] / errors[1] == pytest.approx(4, rel=0.25)


def test_one_cell_is_a_chain_of_resistors() -> None:
    """By hand: a cell per layer, spreader and sink in series, with four paths through the package beside the sink."""
    found = small(cells=1)
    side, p = 0.01, PACKAGE
    area, length = side**2, (p.s_spreader - side) / 4
    layers = 5e-5 / (120 * area) + 2e-5 / (5 * area)  # the node of a layer lies on its side away from the sink
    first = layers + 5e-5 / (2 * area)
    mean = (p.s_spreader + 3 * side) / 4

    def edge(k: float, t: float) -> float:
        return (side / (k * side * t)) / 2 + length / (k * mean * t)

    under = (p.s_spreader + side) * (p.s_spreader - side) / 4
    to_inner = edge(p.k_spreader, p.t_spreader) + p.t_spreader / (p.k_spreader * under)
    air = [
        p.t_sink / (p.k_sink * part) + p.r_convec * p.s_sink**2 / part
        for part in (under, (p.s_sink**2 - p.s_spreader**2) / 4, area)
    ]
    outward = length / (p.k_sink * (3 * p.s_spreader + side) / 4 * p.t_sink) + (p.s_sink - p.s_spreader) / 4 / (
        p.k_sink * (p.s_sink + 3 * p.s_spreader) / 4 * p.t_sink
    )
    # Nodes: the cell of the spreader, that of the sink, and one of the four equal inner nodes, four times as wide.
    inner_to_air = 4 / air[0] + 4 / (outward + air[1])
    down, aside, sideways = (
        p.k_spreader * area / p.t_spreader,
        4 / to_inner,
        4 / edge(p.k_sink, p.t_sink),
    )
    matrix = np.array(
        [
            [down + aside, -down, -aside],
            [-down, down + sideways + 1 / air[2], -sideways],
            [-aside, -sideways, aside + sideways + inner_to_air],
        ]
    )
    spreader = np.linalg.solve(matrix, [10.0, 0, 0])[0]
    state = found.steady(np.array([10.0, 0, 0, 0, 0, 0, 0, 0]))
    assert state[0] == pytest.approx(spreader + 10 * first, rel=1e-9)
    assert found.network.capacitance[0] == pytest.approx(C_FACTOR * 1.75e6 * 5e-5 * area)


def test_units_read_their_cells_as_the_mode_says() -> None:
    power = np.array([20.0, 0, 0, 0, 0, 0, 0, 0])
    of = {mode: (m := small(mode)).unit_kelvin(m.steady(power)) for mode in ("min", "avg", "max", "center")}
    assert (of["min"] < of["avg"]).all() and (of["avg"] < of["max"]).all()
    # Quarters of 8 x 8 cells have 4 x 4, so the middle are four cells.
    found = small("center")
    cells = found.cell_kelvin(found.steady(power), 0)
    assert of["center"][0] == pytest.approx(cells[5:7, 1:3].mean())  # c0 lies at the bottom left


def test_a_worse_cooler_is_hotter_and_a_finer_grid_changes_little() -> None:
    power = np.full(8, 2.0)
    base = SMALL.unit_kelvin(SMALL.steady(power))
    worse = small(r_convec=0.3)
    # All heat goes through the air: 0.1 K/W more for 16 W.
    assert worse.unit_kelvin(worse.steady(power)) - base == pytest.approx(1.6, rel=0.02)
    finer = ThermalModel.of(replace(SMALL.stack, grid=Grid(16, 16, "avg")))
    assert finer.unit_kelvin(finer.steady(power)) == pytest.approx(base, abs=0.2)


@pytest.mark.parametrize(
    ("power", "message"),
    [
        (np.zeros(3), "3 powers for 8 units with power"),
        (np.array([0, 0, -1.0, 0, 0, 0, 0, 0]), "the power of unit 'c2' is -1.0 W, must be 0 or more"),
        (np.array([0, 0, 0, 0, 0, np.nan, 0, 0]), "the power of unit 'b1' is nan W"),
    ],
)
def test_wrong_powers_are_refused(power: Floats, message: str) -> None:
    with pytest.raises(PmcError, match=message):
        SMALL.steady(power)


def test_a_state_that_came_from_a_file_has_one_temperature_per_unit() -> None:
    found = model("far")
    state = read_state(REFERENCE / "far" / "hs6.steady", found)
    exact = found.steady(read_power(REFERENCE / "far" / "steady.ptrace", found.stack)[0])
    assert found.unit_kelvin(state) == pytest.approx(found.unit_kelvin(exact), abs=0.01)
    assert np.abs(state - exact).max() > 0.1  # what a restart from a file loses
