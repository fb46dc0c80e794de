"""HotSpot's files: what is written is read again, and what is wrong is one line."""

from __future__ import annotations

import shutil
from pathlib import Path

import numpy as np
import pytest

from pmc.backends.thermal.floorplan import read_floorplan, write_floorplan
from pmc.backends.thermal.solver import ThermalModel
from pmc.backends.thermal.stack import Stack, read_stack, write_stack
from pmc.backends.thermal.traces import (
    read_power,
    read_state,
    read_temperatures,
    write_power,
    write_state,
    write_temperatures,
)
from pmc.dialects.errors import PmcError

REFERENCE = Path(__file__).parents[1] / "reference" / "thermal" / "far"


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    """A copy of the reference case, to be broken."""
    for path in REFERENCE.iterdir():
        shutil.copy(path, tmp_path)
    return tmp_path


def stack(folder: Path) -> Stack:
    return read_stack(folder / "stack.lcf", folder / "hotspot.config")


def test_stacks_and_floorplans_survive_files(tmp_path: Path) -> None:
    before = stack(REFERENCE)
    for layer in before.layers:
        write_floorplan(layer.floorplan, tmp_path / Path(layer.floorplan.source).name)
    write_stack(before, tmp_path / "stack.lcf", tmp_path / "hotspot.config")
    after = stack(tmp_path)
    assert (after.package, after.grid) == (before.package, before.grid)
    for found, expected in zip(after.layers, before.layers, strict=True):
        assert found.floorplan.units == expected.floorplan.units
        assert found.resistivity == expected.resistivity and found.thickness == expected.thickness
    assert [layer.powered for layer in after.layers] == [True, False] * 5


def test_tables_and_states_survive_files(tmp_path: Path) -> None:
    model = ThermalModel.of(stack(REFERENCE))
    power = read_power(REFERENCE / "trans.ptrace", model.stack)
    write_power(power, model.stack, tmp_path / "p")
    assert (read_power(tmp_path / "p", model.stack) == power).all()
    names, kelvin = read_temperatures(REFERENCE / "hs6.ttrace")
    write_temperatures(kelvin, names, tmp_path / "t")
    assert read_temperatures(tmp_path / "t")[0] == names
    assert read_temperatures(tmp_path / "t")[1] == pytest.approx(kelvin, abs=1e-6)
    write_state(model, model.steady(power[0]), tmp_path / "s")
    state = read_state(tmp_path / "s", model)
    write_state(model, state, tmp_path / "again")
    assert (tmp_path / "again").read_text() == (tmp_path / "s").read_text()


def test_columns_of_powers_may_come_in_any_order(tmp_path: Path) -> None:
    found = stack(REFERENCE)
    power = read_power(REFERENCE / "steady.ptrace", found)
    names = list(reversed(found.powered_units))
    (tmp_path / "p").write_text("\t".join(names) + "\n" + "\t".join(str(p) for p in power[0][::-1]) + "\n")
    assert (read_power(tmp_path / "p", found) == power).all()


@pytest.mark.parametrize(
    ("file", "old", "new", "message"),
    [
        ("cores.flp", "C_1\t0.005000000\t0.002000000\t0.005", "C_1\t0.005\t0.002\t0.004",
         r"cores.flp: units 'C_0' and 'C_1' overlap"),
        ("cores.flp", "C_1\t0.005000000\t0.002000000\t0.005", "C_1\t0.005\t0.002\t-0.005",
         r"cores.flp: unit 'C_1' leaves the die at -0.005, 0.0 m"),
        ("cores.flp", "C_1\t", "C_0\t", r"cores.flp: unit 'C_0' is there twice"),
        ("cores.flp", "C_1\t0.005000000", "C_1\tfive", r"cores.flp:3: 'five' is no number"),
        ("cores.flp", "C_1\t0.005000000", "C_1\t0", r"cores.flp: unit 'C_1' has no area"),
        ("cores.flp", "C_1\t0.005000000", "C_1", r"cores.flp:3: needs name, width, height, left and bottom, found 4"),
        ("tim.flp", "0.040000000", "0.041", r"layer 1 .*tim.flp\) is 0.041 x 0.016 m, layer 0 is 0.04 x 0.016 m"),
        ("stack.lcf", "\n1\nY\nN\n", "\n2\nY\nN\n", r"stack.lcf: layer 2 stands where layer 1 must be"),
        ("stack.lcf", "\n1\nY\nN\n", "\n1.5\nY\nN\n", r"stack.lcf:\d+: number: '1.5' is no whole number"),
        ("hotspot.config", "-grid_rows\t\t32", "-grid_rows\t\t32.5", "-grid_rows: '32.5' is no whole number"),
        ("stack.lcf", "\n1\nY\nN\n", "\n1\nY\nmaybe\n", r"stack.lcf:\d+: power is 'maybe', must be Y or N"),
        ("stack.lcf", "\n1\nY\nN\n", "\n1\nY\n", r"stack.lcf: needs 7 lines per layer .*, found 69 lines"),
        ("stack.lcf", "5e-05\ncores", "0\ncores", "thickness of layer 0 is 0.0, must be positive"),
        ("stack.lcf", "mem_bank_4.flp", "gone.flp", "gone.flp: No such file"),
        ("hotspot.config", "-s_sink\t\t0.06", "-s_sink\t\t0.04", r"s_sink \(0.04 m\) must be at least s_spreader"),
        ("hotspot.config", "-s_spreader\t\t0.05", "-s_spreader\t\t0.03", r"s_spreader \(0.03 m\) must be longer than"),
        ("hotspot.config", "-r_convec\t", "-r\t", r"hotspot.config: -r_convec is missing"),
        ("hotspot.config", "-r_convec\t\t0.15625", "-r_convec\t\t0", "package: r_convec is 0.0, must be positive"),
        ("hotspot.config", "-model_secondary\t\t0", "-model_secondary\t\t2", "-model_secondary is '2', must be 0 or 1"),
        ("hotspot.config", "-grid_map_mode\t\tavg", "-grid_map_mode\t\tmode", "grid_map_mode is 'mode', must be avg"),
        ("steady.ptrace", "C_1\t", "C_x\t", "'C_x' is no unit with power"),
        ("steady.ptrace", "C_1\t", "C_2\t", "unit 'C_1' must be there once, found 0 times"),
        ("steady.ptrace", "0.0625\n", "0.0625\t1\n", r"steady.ptrace:2: 321 numbers for 320 units"),
        ("hs6.steady", "layer_0_C_1\t", "layer_0_C_x\t", "'layer_0_C_1' is missing"),
        ("hs6.steady", "inode_11\t", "inode_12\t1\ninode_11\t", "'inode_12' is no unit of this stack"),
    ],
)  # fmt: skip
def test_wrong_files_are_one_line(folder: Path, file: str, old: str, new: str, message: str) -> None:
    text = (folder / file).read_text()
    if old.endswith("\n") and file == "steady.ptrace":
        text, new, old = text.rstrip("\n") + "\n", "\t1\n", "\n"
        text = text[:-1] + new  # the last line
    else:
        assert old in text
        text = text.replace(old, new, 1)
    (folder / file).write_text(text)
    with pytest.raises(PmcError, match=message) as error:
        model = ThermalModel.of(stack(folder))
        read_power(folder / "steady.ptrace", model.stack)
        read_state(folder / "hs6.steady", model)
    assert "\n" not in str(error.value)


def test_an_empty_table_is_one_line(tmp_path: Path) -> None:
    (tmp_path / "p").write_text("")
    with pytest.raises(PmcError, match="needs a line of names"):
        read_power(tmp_path / "p", stack(REFERENCE))


def test_cells_share_all_of_a_unit() -> None:
    plan = read_floorplan(REFERENCE / "cores.flp")
    for rows, columns in ((32, 32), (7, 5), (1, 1)):
        cells = plan.cells(plan.width, plan.height, rows, columns)
        areas = np.array([unit.area for unit in plan.units])
        assert cells.sum(axis=1) == pytest.approx(areas, rel=1e-4)
