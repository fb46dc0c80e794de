"""HotSpot's tables: power traces (`.ptrace`), temperature traces (`.ttrace`), and states (`.steady`, `.init`)."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from pmc.backends.thermal.floorplan import Floats, number_of, text_of
from pmc.backends.thermal.network import SIDES
from pmc.backends.thermal.solver import ThermalModel
from pmc.backends.thermal.stack import CONVENTIONS, ZERO_CELSIUS, Stack
from pmc.dialects.errors import PmcError

POWER_FORM, POWER_WIDTH = "{:.8g}", 14
"""How watts are written, and the most characters that it takes, with the tab."""


def read_power(path: Path, stack: Stack) -> Floats:
    """[windows, powered units] watts of a `.ptrace` file, whose columns may come in any order.

    Raises PmcError for a unit that is missing, unknown or without power, and for a row that is too short or too long.
    """
    names, rows = _table(path)
    wanted = stack.powered_units
    for name in names:
        if name not in wanted:
            raise PmcError(f"{path}:1: '{name}' is no unit with power")
    for name in wanted:
        if names.count(name) != 1:
            raise PmcError(f"{path}:1: unit '{name}' must be there once, found {names.count(name)} times")
    return rows[:, [names.index(name) for name in wanted]]


def write_power(power_w: Floats, stack: Stack, path: Path) -> None:
    """Write [windows, powered units] watts as a `.ptrace` file."""
    _write(path, stack.powered_units, power_w, POWER_FORM)


def read_temperatures(path: Path, convention: str = CONVENTIONS[0]) -> tuple[tuple[str, ...], Floats]:
    """The units of a `.ttrace` file, and [windows, units] kelvin."""
    names, rows = _table(path)
    return names, rows + _zero_of_traces(convention)


def write_temperatures(kelvin: Floats, names: Sequence[str], path: Path, convention: str = CONVENTIONS[0]) -> None:
    """Write [windows, units] kelvin as a `.ttrace` file."""
    _write(path, names, kelvin - _zero_of_traces(convention), "{:.6f}")


def _zero_of_traces(convention: str) -> float:
    """HotSpot 6 writes degrees C, HotSpot 7 kelvin."""
    return ZERO_CELSIUS if convention == "hotspot6" else 0.0


@dataclass(frozen=True)
class _Plane:
    """A plane of cells in a `.steady` file."""

    prefix: str
    plane: int
    """Its place in the network."""
    layer: int
    """The layer of the stack whose floorplan it is read by."""


def _planes(stack: Stack) -> list[_Plane]:
    """In the order of the file: HotSpot counts the board's planes among the layers, and gives them names."""
    last, secondary = len(stack.layers), stack.package.board is not None
    board = [_Plane("pcb_", last + 4, 0), _Plane("solder_", last + 3, 0), _Plane("sub_", last + 2, 0)]
    before = board if secondary else []
    layers = [_Plane(f"layer_{n + len(before)}_", n, n) for n in range(last)]
    return [*before, *layers, _Plane("hsp_", last, last - 1), _Plane("hsink_", last + 1, last - 1)]


def state_names(stack: Stack) -> tuple[str, ...]:
    """The lines of a `.steady` file: units of the board, of layers, spreader and sink, then nodes of the package."""
    units = (f"{p.prefix}{unit.name}" for p in _planes(stack) for unit in stack.layers[p.layer].floorplan.units)
    rings = 3 if stack.package.board is None else 7
    return (*units, *(f"inode_{node}" for node in range(rings * SIDES)))


def powered_lines(stack: Stack) -> tuple[str, ...]:
    """The lines of a `.steady` file that have the powered units, in the order of `Stack.powered_units`."""
    layers = [(p.prefix, stack.layers[p.layer]) for p in _planes(stack) if p.plane == p.layer]
    return tuple(f"{prefix}{u.name}" for prefix, layer in layers if layer.powered for u in layer.floorplan.units)


def write_state(model: ThermalModel, state: Floats, path: Path) -> None:
    """Write a state as a `.steady` file, kelvin."""
    units = [model.plane_kelvin(state, p.plane, p.layer) for p in _planes(model.stack)]
    rings = state[model.network.layers * model.network.cells :] + model.stack.package.ambient
    values: Floats = np.concatenate([*units, rings])
    lines = zip(state_names(model.stack), values.tolist(), strict=True)
    path.write_text("".join(f"{name}\t{value:.6f}\n" for name, value in lines), encoding="utf-8")


def read_state(path: Path, model: ThermalModel) -> Floats:
    """The state of a `.steady` or `.init` file: a file knows one temperature per unit, which all of its cells get.

    Raises PmcError for lines that are missing or unknown.
    """
    stack, network = model.stack, model.network
    found = read_names(path)
    names = state_names(stack)
    _same(path, names, found)
    state = np.zeros(network.nodes)
    values = iter(found[name] for name in names)
    for p in _planes(stack):
        shared = stack.shared[p.layer]
        kelvin = np.array([next(values) for _ in shared])
        covered = shared.sum(axis=0)
        # A cell that several units share gets their mean, one outside of all units that of the layer.
        mean = np.divide(kelvin @ shared, covered, out=np.full(len(covered), kelvin.mean()), where=covered > 0)
        state[p.plane * network.cells : (p.plane + 1) * network.cells] = mean
    state[network.layers * network.cells :] = list(values)
    return state - stack.package.ambient


def read_names(path: Path) -> dict[str, float]:
    """The kelvin of every line of a `.steady` or `.init` file, by its name.  Raises PmcError for other lines."""
    found: dict[str, float] = {}
    for number, line in enumerate(text_of(path).splitlines(), 1):
        words = line.split()
        if len(words) != 2:
            raise PmcError(f"{path}:{number}: needs a name and kelvin, found '{line.strip()}'")
        found[words[0]] = number_of(words[1], f"{path}:{number}")
    return found


def _same(path: Path, names: Sequence[str], found: Mapping[str, float]) -> None:
    missing = next((name for name in names if name not in found), None)
    if missing is not None:
        raise PmcError(f"{path}: '{missing}' is missing")
    unknown = next((name for name in found if name not in names), None)
    if unknown is not None:
        raise PmcError(f"{path}: '{unknown}' is no unit of this stack")


def _table(path: Path) -> tuple[tuple[str, ...], Floats]:
    lines = [(number, line.split()) for number, line in enumerate(text_of(path).splitlines(), 1) if line.strip()]
    if not lines:
        raise PmcError(f"{path}: needs a line of names and lines of numbers, found an empty file")
    names = tuple(lines[0][1])
    rows: list[list[float]] = []
    for number, words in lines[1:]:
        if len(words) != len(names):
            raise PmcError(f"{path}:{number}: {len(words)} numbers for {len(names)} units")
        rows.append([number_of(word, f"{path}:{number}") for word in words])
    return names, np.array(rows, np.float64).reshape(len(rows), len(names))


def _write(path: Path, names: Sequence[str], rows: Floats, form: str) -> None:
    lines = ["\t".join(names), *("\t".join(form.format(value) for value in row) for row in rows.tolist())]
    path.write_text("\n".join(lines) + "\n", encoding="utf-8")
