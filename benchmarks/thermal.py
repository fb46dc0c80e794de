"""The thermal solver: its distance from HotSpot 6 on the reference cases of the tests, and what it costs.

    python benchmarks/thermal.py

Prints the largest error of any unit and the CPU seconds, best of five where a step repeats.  Then the same of the chip
of the TAS-MoE study with 8 x 8 cores and eight dies of 32 x 32 DRAM banks, and what a window of its loop costs.
"""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from resource import RUSAGE_SELF, getrusage
from time import process_time

import numpy as np

from pmc.backends.thermal.chip_state import ChipState
from pmc.backends.thermal.engine import SolverEngine
from pmc.backends.thermal.power import Work
from pmc.backends.thermal.solver import SUB_STEPS, ThermalModel
from pmc.backends.thermal.stack import read_stack
from pmc.backends.thermal.stacked import StackedModel
from pmc.backends.thermal.traces import read_power, read_temperatures
from pmc.compiler.tas.configuration import load_stack

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
        f"{model.network.nodes} nodes: first steady state {factored:.0f} ms, further {steady:.1f} ms, "
        f"window of {SUB_STEPS} sub-steps {window:.1f} ms"
    )


def steady_case(name: str) -> None:
    """A steady state of HotSpot."""
    folder = REFERENCE / name
    model = ThermalModel.of(read_stack(folder / "stack.lcf", folder / "hotspot.config"))
    power = read_power(folder / "steady.ptrace", model.stack)[0]
    cost = costs(model, power)
    units = model.unit_kelvin(model.steady(power))
    lines = (folder / "hs6.steady").read_text().splitlines()
    expected = np.array([float(line.split()[1]) for line in lines])[: len(units)]
    print(f"{name}: steady error {np.abs(units - expected).max():.4f} K (must be 0.01); {cost} (must be 10 and 60)")


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


def study() -> None:
    """The chip of the TAS-MoE study, logic far from the sink: 64 cores and 8192 banks."""
    arch = load_stack("arch_8x8_32x32x8")
    start = process_time()
    chip = StackedModel.of(arch)
    built = process_time() - start
    print(f"{arch.name}, logic {arch.geometry.logic}: stack and network built in {built * 1e3:.0f} ms")
    print(f"  solver: {costs(chip.model, np.full(len(chip.model.stack.powered_units), 0.01))}")
    start = process_time()
    chip.core_response()
    print(f"  response to 64 cores: {(process_time() - start) * 1e3:.0f} ms")
    window_ns = 3_000_000
    # 0.5 W in each core, 0.9 mW in each bank, and bytes that go over every link.
    work = Work(np.full(64, 1.5e9), np.full(64, 1e6), np.full(8192, 8192.0))
    start = process_time()
    state = ChipState(arch, SolverEngine(chip), work, window_ns)
    print(f"  steady state with leakage, clocks and refresh: {(process_time() - start) * 1e3:.0f} ms")
    print(f"  window with power, clocks and refresh: {best(lambda: state.step(work, window_ns)):.1f} ms")
    memory = getrusage(RUSAGE_SELF).ru_maxrss / 2**20
    print(f"  largest memory of this process: {memory:.2f} GB")


def main() -> None:
    """Print every figure."""
    steady_case("far")
    steady_case("near")
    windows()
    study()


if __name__ == "__main__":
    main()
