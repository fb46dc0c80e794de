"""A chip that runs the simulated step of a model over and over while it gets warm.

    a window of the step at the present clocks and bandwidth -> watts -> temperatures -> clocks and refresh -> ..

Kernels end with barriers, so the slowest core sets the clock of the step; each core has the voltage of its own clock.
Refresh takes bandwidth from all transfers alike, as channels interleave: the mean of all banks counts.  The chip file's
bandwidth is taken to be that at the base rate of refresh.
"""

from __future__ import annotations

from dataclasses import dataclass
from functools import partial

import numpy as np

from pmc.backends.g5.operating_point import OperatingPoint, PointTimes, StepPoints
from pmc.backends.g5.step_order import Place
from pmc.backends.thermal.chip_state import ChipState
from pmc.backends.thermal.dvfs import DvfsState
from pmc.backends.thermal.engine import HeatEngine
from pmc.backends.thermal.floorplan import Floats
from pmc.backends.thermal.power import DynamicPower
from pmc.backends.thermal.refresh import bandwidth_factor
from pmc.backends.thermal.snapshot import Snapshot
from pmc.backends.thermal.step_heat import StepHeat
from pmc.dialects.stacked_arch import Refresh, StackedArch

REFRESH_STEP = 0.25
"""The mean multiple of the refresh rate is rounded up to a multiple of this, so that few steps are simulated."""

PS_PER_NS = 1000


@dataclass(frozen=True)
class StepWindow:
    """One window of a run."""

    window: int
    point: OperatingPoint
    times: PointTimes
    """The step at the clocks and bandwidth of the window."""
    clock_ghz: float
    """Of the slowest core in the window."""
    refresh: float
    """Mean multiple of the base rate in the window."""
    steps: float
    """Steps done, those of which a part was done by its share of time."""
    runs: Floats
    """[parts] done."""
    core_j: Floats
    """[cores] joules of work."""
    bank_j: float
    """Joules of work in all banks."""
    snapshot: Snapshot
    """At the end of the window."""


class StepRun:
    """Windows of `window_ns` of a step, from the steady state of the chip that runs it.

    The package takes seconds to warm and has had them: the run begins at the clocks and refresh rates that the steady
    state asks for, at the start of a step.  Raises RunAwayError where there is no such state.
    """

    def __init__(self, arch: StackedArch, engine: HeatEngine, points: StepPoints, window_ns: int) -> None:
        self.points, self.window_ns = points, window_ns
        self.heat = StepHeat.of(arch, points.chip, points.work)
        self.place: Place = points.work.order.begin
        self.chip = self._warm(arch, engine)

    def step(self) -> StepWindow:
        """The next window.  Raises RunAwayError."""
        chip = self.chip
        window, dvfs, before = chip.windows, chip.dvfs, chip.snapshot
        multiple = float(before.refresh_multiplier.mean())
        point = self._point(dvfs, multiple)
        times = self.points.at(point)
        length_ps = self.window_ns * PS_PER_NS
        place, runs = self.points.work.order.after(self.place, times.durations_ps, length_ps)
        core_j, bank_j = self.heat.joules(runs, dvfs.energy_factor)
        seconds = self.window_ns * 1e-9
        snapshot = chip.step_power(self.heat.power(runs, dvfs.energy_factor, seconds), self.window_ns)
        self.place = place
        steps = length_ps / times.step.total_ps
        clock = float(dvfs.clock_ghz.min())
        return StepWindow(window, point, times, clock, multiple, steps, runs, core_j, bank_j, snapshot)

    def _point(self, dvfs: DvfsState, multiple: float) -> OperatingPoint:
        ghz = dvfs.domain.steps_ghz
        return OperatingPoint(float(dvfs.clock_ghz.min()) / ghz[0], bandwidth_left(self.heat.arch.refresh, multiple))

    def _warm(self, arch: StackedArch, engine: HeatEngine) -> ChipState:
        """The steady state at the clocks and the refresh that it asks for: refresh only rises in the search."""
        multiple = 1.0
        while True:
            chip = ChipState(arch, engine, partial(self._mean_power, multiple), self.window_ns)
            asked = rounded_multiple(arch.refresh, float(chip.snapshot.refresh_multiplier.mean()))
            if asked <= multiple:
                return chip
            multiple = asked

    def _mean_power(self, multiple: float, dvfs: DvfsState) -> DynamicPower:
        """Of whole steps."""
        step = self.points.at(self._point(dvfs, multiple)).step
        runs = self.points.work.order.runs.astype(np.float64)
        return self.heat.power(runs, dvfs.energy_factor, step.total_ps * 1e-12)


def rounded_multiple(refresh: Refresh, multiple: float) -> float:
    """A mean multiple of the refresh rate, rounded up by `REFRESH_STEP`, and at most the highest of the curve."""
    return float(min(np.ceil(multiple / REFRESH_STEP) * REFRESH_STEP, max(1.0, refresh.tref_curve[-1][1])))


def bandwidth_left(refresh: Refresh, multiple: float) -> float:
    """The bandwidth at a mean multiple of the refresh rate, over that at the base rate; the multiple is rounded up."""
    rounded = np.array([rounded_multiple(refresh, multiple), 1.0])
    slowed, base = bandwidth_factor(refresh, rounded)
    return float(slowed / base)
