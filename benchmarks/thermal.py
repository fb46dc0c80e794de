"""The thermal solver: its distance from HotSpot 6 on the reference cases of the tests, and what it costs.

    python benchmarks/thermal.py

Prints the largest error of any unit and the CPU seconds, best of five where a step repeats.  The large stack has 8 x 8
cores and eight layers of 32 x 32 DRAM banks, on the grid of the reference cases.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from time import process_time

import numpy as np

from pmc.backends.thermal.floorplan import Floorplan, Unit
from pmc.backends.thermal.solver import SUB_STEPS, ThermalModel
from pmc.backends.thermal.stack import Stack, StackLayer, read_stack
from pmc.backends.thermal.traces import read_power, read_temperatures

REFERENCE = Path(__file__).parents[1] / "tests" / "reference" / "thermal"
WINDOW_S = 0.003


def best(run: Callable[[], object]) -> float:
    """CPU milliseconds of the fastest of five runs."""
    times: list[float] = []
    for _ in range(5):
        start = process_time()
        run()
        times.append(process_time() - start)
    return min(times) * 1e3


def costs(model: ThermalModel, power: np.ndarray) -> str:
    """What a first and a further steady state cost, and a window."""
    start = process_time()
    state = model.steady(power)
    factored = (process_time() - start) * 1e3
    steady = best(lambda: model.steady(power))
    model.advance(state, power, WINDOW_S)
    window = best(lambda: model.advance(state, power, WINDOW_S))
    return (
        f"{model.network.nodes} nodes: first steady state {factored:.0f} ms, further {steady:.1f} ms (must be 10), "
        f"window of {SUB_STEPS} sub-steps {window:.1f} ms (must be 60)"
    )


def steady_case(name: str) -> None:
    """A steady state of HotSpot."""
    folder = REFERENCE / name
    model = ThermalModel.of(read_stack(folder / "stack.lcf", folder / "hotspot.config"))
    power = read_power(folder / "steady.ptrace", model.stack)[0]
    units = model.unit_kelvin(model.steady(power))
    lines = (folder / "hs6.steady").read_text().splitlines()
    expected = np.array([float(line.split()[1]) for line in lines])[: len(units)]
    print(f"{name}: steady error {np.abs(units - expected).max():.4f} K (must be 0.01); {costs(model, power)}")


def windows() -> None:
    """100 windows of HotSpot."""
    folder = REFERENCE / "far"
    model = ThermalModel.of(read_stack(folder / "stack.lcf", folder / "hotspot.config"))
    names, expected = read_temperatures(folder / "hs6.ttrace")
    units = [unit.name for layer in model.stack.layers for unit in layer.floorplan.units]
    shown = [units.index(name) for name in names]
    state, worst = model.uniform(model.stack.package.ambient), 0.0
    for power, temperatures in zip(read_power(folder / "trans.ptrace", model.stack), expected, strict=True):
        state = model.advance(state, power, WINDOW_S)
        worst = max(worst, float(np.abs(model.unit_kelvin(state)[shown] - temperatures).max()))
    print(f"far: {len(expected)} windows of 3 ms, error {worst:.4f} K (must be 0.05)")


def large() -> None:
    """The stack of 8192 banks."""
    stack = read_stack(REFERENCE / "far" / "stack.lcf", REFERENCE / "far" / "hotspot.config")
    width, height, count = stack.width / 32, stack.height / 32, 32

    def banks(layer: int) -> Floorplan:
        places = ((x, y) for y in range(count) for x in range(count))
        units = (Unit(f"B({x},{y},{layer})", width, height, x * width, y * height) for x, y in places)
        return Floorplan(f"banks {layer}", tuple(units))

    logic, glue, dram = stack.layers[:3]
    layers: list[StackLayer] = [logic, glue]
    for layer in range(8):
        layers += [replace(dram, floorplan=banks(layer)), glue]
    model = ThermalModel.of(Stack(tuple(layers), stack.package, stack.grid))
    print(f"8192 banks and 64 cores: {costs(model, np.full(len(model.stack.powered_units), 0.01))}")


def main() -> None:
    """Print every figure."""
    steady_case("far")
    steady_case("near")
    windows()
    large()


if __name__ == "__main__":
    main()
