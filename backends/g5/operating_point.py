"""The step of a chip that heat has slowed down: at other clocks, and with less bandwidth of DRAM.

The commands stay those that were compiled for the chip at its full speed; each point is simulated once.
"""

from __future__ import annotations

from dataclasses import dataclass, field, replace
from functools import cached_property

import numpy as np
from xdsl.dialects.builtin import ModuleOp

from pmc.backends.cost.model import Target
from pmc.backends.g5.step_work import StepWork, step_work
from pmc.backends.g5.stream import StepTimes, simulate, simulate_parts
from pmc.dialects.arch import Chip
from pmc.dialects.interfaces import IntArray


@dataclass(frozen=True)
class OperatingPoint:
    """How fast a chip is, against what its file says."""

    clock: float
    """Part of both clocks."""
    bandwidth: float
    """Part of the bandwidth of DRAM."""

    def of(self, chip: Chip) -> Chip:
        """The chip at this point.  Latencies that its file states as times, and rates of DMA engines, stay."""
        ghz = {name: value * self.clock for name, value in chip.clocks.model_dump().items()}
        bandwidth = chip.dram.bandwidth_gb_per_s * self.bandwidth
        return chip.model_copy(
            update={
                "clocks": chip.clocks.model_copy(update=ghz),
                "dram": chip.dram.model_copy(update={"bandwidth_gb_per_s": bandwidth}),
            }
        )


FULL_SPEED = OperatingPoint(1.0, 1.0)


@dataclass(frozen=True)
class PointTimes:
    """A step at one point."""

    step: StepTimes

    @cached_property
    def durations_ps(self) -> IntArray:
        """[parts] of one run."""
        return np.array([part.duration_ps for part in self.step.parts], np.int64)

    @cached_property
    def critical_share(self) -> dict[str, float]:
        """What part of the step its critical path spends with each activity, the longest first."""
        spent: dict[str, int] = {}
        for part in self.step.parts:
            for activity, ps in part.critical_ps.items():
                spent[activity] = spent.get(activity, 0) + part.count * ps
        return {name: ps / self.step.total_ps for name, ps in sorted(spent.items(), key=lambda item: -item[1])}


@dataclass(frozen=True)
class StepPoints:
    """The steps of one rank of a module at commands level, at all points that were asked for."""

    module: ModuleOp
    chip: Chip
    stage: int | None
    """The pipeline stage that is the slowest at full speed; None without stages."""
    work: StepWork
    known: dict[OperatingPoint, PointTimes] = field(default_factory=dict["OperatingPoint", "PointTimes"])

    @classmethod
    def of(cls, module: ModuleOp) -> StepPoints:
        """The step at full speed, as `simulate` has it.  Raises PmcError as it does."""
        step = simulate(module)
        found = cls(module, Target.of(module).chip, step.stage, step_work(module, step.stage))
        assert found.work.paths == tuple(part.path for part in step.parts), "both walk the same stream"
        found.known[FULL_SPEED] = PointTimes(step)
        return found

    def at(self, point: OperatingPoint) -> PointTimes:
        """The step at a point."""
        found = self.known.get(point)
        if found is None:
            parts = simulate_parts(self.module, point.of(self.chip))
            own = tuple(part for part in parts if part.stage in (None, self.stage))
            full = self.known[FULL_SPEED].step
            found = self.known[point] = PointTimes(replace(full, chip=point.of(self.chip), parts=own))
        return found
