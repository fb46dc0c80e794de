"""The convention of HotSpot 7, and heat that leaves through the board: by hand on one cell, and what always holds."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from pmc.backends.thermal.floorplan import Floats, Floorplan, Unit, write_floorplan
from pmc.backends.thermal.network import C_FACTOR
from pmc.backends.thermal.solver import ThermalModel
from pmc.backends.thermal.stack import Board, Grid, Package, Stack, StackLayer, read_stack, write_stack
from pmc.backends.thermal.stacked import StackedModel, stack_of
from pmc.backends.thermal.traces import read_power, read_state, read_temperatures, state_names, write_state
from pmc.dialects.errors import PmcError

from .stacked_chips import small_chip

REFERENCE = Path(__file__).parents[1] / "reference" / "thermal" / "hotspot7"
"""Computed with HotSpot 7.0 and `-detailed_3D on`, which writes two decimals: 2 x 2 cores of 5 x 2 mm far from the
sink, two dies of 4 x 2 banks and a board; 20 windows of 3 ms, and the steady state of their mean power."""

W, H = 0.01, 0.006
AREA = W * H
BOARD = Board(
    s_sub=0.03, t_sub=0.001, s_solder=0.035, t_solder=0.00094, s_pcb=0.1, t_pcb=0.002, r_convec_sec=10.0,
    c_convec_sec=40.0,
)  # fmt: skip
PACKAGE = Package(
    s_spreader=0.03, t_spreader=0.001, k_spreader=400.0, p_spreader=3.55e6,
    s_sink=0.06, t_sink=0.0069, k_sink=400.0, p_sink=3.55e6, r_convec=0.2, c_convec=140.4, ambient=318.15,
)  # fmt: skip
MATERIALS = ((120.0, 5e-5), (5.0, 2e-5), (2.0, 5e-5))
"""W/(m K) and metres: silicon with the power, filling, a DRAM die."""


def model(convention: str, board: Board | None = None, rows: int = 1, columns: int = 1) -> ThermalModel:
    def halves(name: str) -> Floorplan:
        units = (Unit(f"{name}{i}", W / 2, H, i * W / 2, 0.0) for i in (0, 1))
        return Floorplan(f"{name}.flp", tuple(units))

    layers = tuple(StackLayer(n != 1, n == 0, 1.75e6, 1 / k, t, halves("abc"[n])) for n, (k, t) in enumerate(MATERIALS))
    package = replace(PACKAGE, board=board)
    return ThermalModel.of(Stack(layers, package, Grid(rows, columns, "avg"), convention))


def reference() -> ThermalModel:
    return ThermalModel.of(read_stack(REFERENCE / "stack.lcf", REFERENCE / "hotspot.config", "hotspot7"))


def test_steady_temperatures_are_those_of_hotspot_7() -> None:
    found = reference()
    power = read_power(REFERENCE / "power.ptrace", found.stack).mean(axis=0)
    state = found.steady(power)
    write = [line.split() for line in (REFERENCE / "hs7.steady").read_text().splitlines()]
    names, expected = [name for name, _ in write], np.array([float(kelvin) for _, kelvin in write])
    assert names == list(state_names(found.stack))
    package = state[found.network.layers * found.network.cells :] + 318.15
    assert package == pytest.approx(expected[-28:], abs=0.01)
    layers = found.unit_kelvin(state)
    assert layers == pytest.approx(expected[12 : 12 + len(layers)], abs=0.01)
    other = ThermalModel.of(replace(found.stack, convention="hotspot6"))
    assert np.abs(other.unit_kelvin(other.steady(power)) - layers).max() > 1


def test_steps_in_time_are_those_of_hotspot_7() -> None:
    """Cores jump by up to 15 W on 10 mm2, for which four sub-steps are off by up to 0.07 K, and HotSpot by 0.03 K."""
    found = reference()
    names, expected = read_temperatures(REFERENCE / "hs7.ttrace", "hotspot7")
    units = [unit.name for layer in found.stack.layers for unit in layer.floorplan.units]
    shown, state = [units.index(name) for name in names], found.uniform(318.15)
    rows = read_power(REFERENCE / "power.ptrace", found.stack)
    for power, kelvin in zip(rows, expected, strict=True):
        state = found.advance(state, power, 0.003, sub_steps=8)
        assert found.unit_kelvin(state)[shown] == pytest.approx(kelvin, abs=0.05)


def rz(k: float, t: float) -> float:
    return t / (k * AREA)


def test_hotspot_7_takes_half_of_both_layers_and_the_first_in_full() -> None:
    state = model("hotspot7").steady(np.array([10.0, 0.0]))
    logic, filling, dram = (rz(k, t) for k, t in MATERIALS)
    spreader = rz(400, 0.001)
    drops = [10 * (logic + filling / 2), 10 * (filling / 2 + dram / 2), 10 * (dram / 2 + spreader / 2)]
    assert -np.diff(state[:4]) == pytest.approx(drops, rel=1e-9)


def test_hotspot_6_takes_the_layer_away_from_the_sink() -> None:
    state = model("hotspot6").steady(np.array([10.0, 0.0]))
    assert -np.diff(state[:4]) == pytest.approx([10 * rz(k, t) for k, t in MATERIALS], rel=1e-9)


def test_hotspot_7_has_half_of_the_air_between_spreader_and_sink() -> None:
    sink = rz(400, 0.0069) + 0.2 * 0.06**2 / AREA
    found = {c: model(c) for c in ("hotspot6", "hotspot7")}
    for convention, r in (("hotspot6", rz(400, 0.001)), ("hotspot7", rz(400, 0.001) / 2 + sink / 2)):
        network = found[convention].network
        assert network.conductance[[3], [4]] == pytest.approx(-1 / r, rel=1e-12)
        assert network.to_ambient[4] == pytest.approx(1 / sink, rel=1e-12)


def test_hotspot_7_exchanges_rx_and_ry_and_flows_sideways_in_every_layer() -> None:
    """2 rows, 4 columns: cells of 2.5 x 3 mm.  Node 1 is to the right of node 0, node 4 below it."""
    w, h, (k, t), (glue, thin) = W / 4, H / 2, MATERIALS[0], MATERIALS[1]
    rx, ry = w / (k * h * t), h / (k * w * t)
    for convention, right, below in (("hotspot6", rx, ry), ("hotspot7", ry, rx)):
        g = model(convention, rows=2, columns=4).network.conductance
        assert g[[0], [1]] == pytest.approx(-1 / right) and g[[0], [4]] == pytest.approx(-1 / below)
        # The filling is declared without lateral flow.
        assert g[[8], [9]] == pytest.approx(0 if convention == "hotspot6" else -glue * w * thin / h)
    # At the edge of the spreader both take half of rx to the west: node 24 and the ring's first node.
    edge = w / (400 * h * 0.001) / 2 + 2 * ((0.03 - W) / 4) / (400 * (0.03 + 3 * H) / 4 * 0.001)
    for convention in ("hotspot6", "hotspot7"):
        network = model(convention, rows=2, columns=4).network
        assert network.conductance[[24], [network.layers * 8]] == pytest.approx(-1 / edge)


def board_resistance(r_sub: float, r_solder: float) -> float:
    """K/W from the substrate's cell to the air, solved by hand: 3 cells, then 4 rings of west/east and north/south.

    `r_sub` is between substrate and solder, `r_solder` between solder and board.
    """
    k = {"sub": 1 / 0.5, "solder": 1 / 0.06, "pcb": 1 / 0.333}
    b, conv = BOARD, BOARD.r_convec_sec * BOARD.s_pcb**2
    g = np.zeros((11, 11))

    def link(a: int, c: int, r: float, times: int = 1) -> None:
        g[a, a] += times / r
        g[c, c] += times / r
        g[a, c] -= times / r
        g[c, a] -= times / r

    link(0, 1, r_sub)
    link(1, 2, r_solder)
    g[2, 2] += AREA / conv
    # Both sides of an axis are alike, so they are one node here with twice the conductance.
    for first, (along, beside) in ((3, (W, H)), (7, (H, W))):
        sub, solder, inner, outer = range(first, first + 4)
        for cell, node, name, s, t in (
            (0, sub, "sub", b.s_sub, b.t_sub),
            (1, solder, "solder", b.s_solder, b.t_solder),
            (2, inner, "pcb", b.s_solder, b.t_pcb),
        ):
            half = along / (k[name] * beside * t) / 2
            link(cell, node, half + (s - along) / 4 / (k[name] * (s + 3 * beside) / 4 * t), 2)
        a_so = (b.s_solder + beside) * (b.s_solder - along) / 4
        link(sub, solder, b.t_solder / (k["solder"] * a_so), 2)
        link(solder, inner, b.t_pcb / (k["pcb"] * a_so), 2)
        r_pcb2 = (b.s_solder - along) / 4 / (k["pcb"] * (3 * b.s_solder + beside) / 4 * b.t_pcb)
        r_pcb = (b.s_pcb - b.s_solder) / 4 / (k["pcb"] * (b.s_pcb + 3 * b.s_solder) / 4 * b.t_pcb)
        link(inner, outer, r_pcb2 + r_pcb, 2)
        g[inner, inner] += 2 * a_so / conv
        g[outer, outer] += 2 * (b.s_pcb**2 - b.s_solder**2) / 4 / conv
    watt = np.zeros(11)
    watt[0] = 1.0
    return float(np.linalg.solve(g, watt)[0])


@pytest.mark.parametrize("convention", ["hotspot6", "hotspot7"])
def test_the_board_is_what_its_formulas_say(convention: str) -> None:
    found = model(convention, BOARD)
    state = found.steady(np.array([10.0, 0.0]))
    # Cells: layers 0 1 2, spreader, sink, substrate, solder, board.
    sub, solder, pcb = rz(1 / 0.5, 0.001), rz(1 / 0.06, 0.00094), rz(1 / 0.333, 0.002)
    if convention == "hotspot6":
        links = (sub, solder, pcb)
    else:  # the board is the first layer, so it counts in full
        links = (sub / 2 + rz(*MATERIALS[0]) / 2, solder / 2 + sub / 2, pcb + solder / 2)
    down = (state[0] - state[5]) / links[0]
    assert state[5] == pytest.approx(down * board_resistance(links[1], links[2]), rel=1e-9)
    through_board = float(found.network.to_ambient[5:8] @ state[5:8])
    rings = 8 + 12
    through_board += float(found.network.to_ambient[rings:] @ state[rings:])
    assert through_board == pytest.approx(down, rel=1e-9) and 0 < down < 10
    assert found.heat_out_w(state) == pytest.approx(10, rel=1e-9)


def test_the_board_stores_what_its_formulas_say() -> None:
    c = model("hotspot6", BOARD).network.capacitance / C_FACTOR
    air = 40.0 / 0.1**2
    assert c[5:8] == pytest.approx([1.6e6 * 0.001 * AREA, 2.1e6 * 0.00094 * AREA, 1.32e6 * 0.002 * AREA + air * AREA])
    west, north = 0, 2
    for side, along, beside in ((west, W, H), (north, H, W)):
        a_sub = (0.03 + beside) * (0.03 - along) / 4
        a_so = (0.035 + beside) * (0.035 - along) / 4
        beyond = (0.1**2 - 0.035**2) / 4
        expected = [1.6e6 * 0.001 * a_sub, 2.1e6 * 0.00094 * a_so, (1.32e6 * 0.002 + air) * a_so]
        expected.append((1.32e6 * 0.002 + air) * beyond)
        assert c[[20 + side, 24 + side, 28 + side, 32 + side]] == pytest.approx(expected)
    # All of the air is shared out: the die, the ring around it, and the rest of the board.
    shares = 2 * sum((0.035 + b) * (0.035 - a) / 4 for a, b in ((W, H), (H, W))) + 0.1**2 - 0.035**2 + AREA
    assert shares == pytest.approx(0.1**2)


GRIDS = [model(c, b, 4, 8) for c in ("hotspot6", "hotspot7") for b in (None, BOARD)]


@settings(deadline=None, max_examples=30)
@given(st.sampled_from(range(4)), st.lists(st.floats(0, 50), min_size=2, max_size=2))
def test_all_heat_leaves_by_one_way_or_the_other(which: int, watts: list[float]) -> None:
    found, power = GRIDS[which], np.array(watts)
    state = found.steady(power)
    assert found.heat_out_w(state) == pytest.approx(power.sum(), rel=1e-9, abs=1e-9)
    assert found.advance(state, power, 0.003) == pytest.approx(state, rel=1e-9, abs=1e-9)


def test_matrices_are_symmetric_and_a_board_cools() -> None:
    power = np.array([10.0, 5.0])
    for found in GRIDS:
        g = found.network.conductance
        assert abs(g - g.T).max() == 0
        assert np.asarray(g.sum(axis=0)) == pytest.approx(found.network.to_ambient, rel=1e-6, abs=1e-9)
    for alone, boarded in (GRIDS[:2], GRIDS[2:]):
        cooler = boarded.unit_kelvin(boarded.steady(power)) < alone.unit_kelvin(alone.steady(power))
        assert cooler.all()


def test_a_board_without_air_only_spreads_heat() -> None:
    sealed, power = model("hotspot6", replace(BOARD, r_convec_sec=1e9), 4, 8), np.array([10.0, 5.0])
    state, alone = sealed.steady(power), GRIDS[0].steady(power)
    cells = sealed.network.cells
    by_the_sink = sealed.network.to_ambient[: 5 * cells] @ state[: 5 * cells]
    rings = slice(sealed.network.layers * cells, sealed.network.layers * cells + 12)
    assert by_the_sink + sealed.network.to_ambient[rings] @ state[rings] == pytest.approx(15, rel=1e-6)
    spread, narrow = sealed.unit_kelvin(state), GRIDS[0].unit_kelvin(alone)
    assert spread[0] < narrow[0] and spread[1] > narrow[1]  # between the warmer and the cooler half
    assert spread == pytest.approx(narrow, abs=0.2)


def test_a_board_survives_files(tmp_path: Path) -> None:
    found = GRIDS[1]
    for layer in found.stack.layers:
        write_floorplan(layer.floorplan, tmp_path / layer.floorplan.source)
    write_stack(found.stack, tmp_path / "s.lcf", tmp_path / "s.config")
    again = read_stack(tmp_path / "s.lcf", tmp_path / "s.config")
    assert again.package == found.stack.package and again.package.board == BOARD
    names = state_names(found.stack)
    # HotSpot reads the board by the first floorplan, spreader and sink by the last.
    assert names[:8] == ("pcb_a0", "pcb_a1", "solder_a0", "solder_a1", "sub_a0", "sub_a1", "layer_3_a0", "layer_3_a1")
    assert names[12:17] == ("hsp_c0", "hsp_c1", "hsink_c0", "hsink_c1", "inode_0") and names[-1] == "inode_27"
    state = found.steady(np.array([10.0, 5.0]))
    write_state(found, state, tmp_path / "s.steady")
    back = read_state(tmp_path / "s.steady", found)
    assert found.unit_kelvin(back) == pytest.approx(found.unit_kelvin(state), abs=1e-5)
    assert back[found.network.layers * 32 :] == pytest.approx(state[found.network.layers * 32 :], abs=1e-5)


@pytest.mark.parametrize(
    ("field", "value", "message"),
    [
        ("s_sub", 0.009, r"s_sub \(0.009 m\) must be longer than the sides of the die"),
        ("s_solder", 0.009, r"s_solder \(0.009 m\) must be longer than the sides of the die"),
        ("s_pcb", 0.03, r"board: s_pcb \(0.03 m\) must be at least s_solder \(0.035 m\)"),
        ("t_pcb", 0.0, "board: t_pcb is 0.0, must be positive"),
        ("r_convec_sec", float("nan"), "board: r_convec_sec is nan, must be positive"),
    ],
)
def test_wrong_boards_are_one_line(field: str, value: float, message: str) -> None:
    with pytest.raises(PmcError, match=message):
        model("hotspot6", replace(BOARD, **{field: value}))


def test_an_unknown_convention_is_one_line() -> None:
    with pytest.raises(PmcError, match="convention is 'hotspot5', must be hotspot6, hotspot7"):
        model("hotspot5")


def test_a_chip_may_have_a_board_and_the_other_convention() -> None:
    plate = {"side_mm": 30.0, "thickness_mm": 1.0}
    board = {"substrate": plate, "solder": plate, "pcb": {"side_mm": 100.0, "thickness_mm": 2.0},
             "r_convec_k_per_w": 10.0, "c_convec_jk": 40.0}  # fmt: skip
    arch = small_chip(cooling__board=board, geometry__convention="hotspot7")
    stack = stack_of(arch)
    assert stack.convention == "hotspot7" and stack.package.board is not None
    assert stack.package.board == Board(0.03, 0.001, 0.03, 0.001, 0.1, 0.002, 10.0, 40.0)
    power: Floats = np.full(4, 5.0)
    found, plain = (StackedModel.of(a) for a in (arch, small_chip(geometry__convention="hotspot7")))
    heat = [m.celsius(m.model.steady(m.powers(power, np.zeros(16))))[0].max() for m in (found, plain)]
    assert heat[0] < heat[1]
