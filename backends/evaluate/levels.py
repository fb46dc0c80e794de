"""One step at all granularities side by side, and why a closer one says something else."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from itertools import pairwise
from typing import ClassVar

from pmc.backends.cost.breakdown import Part
from pmc.backends.cost.model import MODELLED, Granularity
from pmc.backends.evaluate.analyses.table import Analysis, Row, conditions_of
from pmc.backends.evaluate.overlap import StepEvaluator, StepResult
from pmc.dialects.errors import PmcError

ALL = "all"
"""The name of all granularities together."""

GAP = 0.1
"""The part of a time from which on a difference is explained."""

TOLD = 2
"""How many parts of a time a reason names."""


@dataclass(frozen=True)
class OpLevels:
    """An op, with all of its runs, at every granularity; times in us."""

    path: str
    op: str
    count: int
    times_us: Mapping[Granularity, float]
    parts_us: Mapping[Granularity, Mapping[Part, float]]
    notes: Mapping[Granularity, str]
    """What a granularity says about the load that a time is for, empty for nothing."""

    def reason(self) -> str:
        """Between neighbouring granularities more than `GAP` apart: by how much, and which parts of the time it is."""
        found: list[str] = []
        levels = list(self.times_us)
        for one, other in pairwise(levels):
            before, after = self.times_us[one], self.times_us[other]
            if abs(after - before) > GAP * before:
                change = f"{after / before - 1:+.0%}" if before else f"+{after:.3f} us"
                other_load = ", for another load" if self.notes[one] != self.notes[other] else ""
                parts = _largest(self.parts_us[one], self.parts_us[other])
                found.append(f"{other.value} {change}: {parts}{other_load}")
        return "; ".join(found)


def _largest(before: Mapping[Part, float], after: Mapping[Part, float]) -> str:
    """The parts that changed most, in the direction in which the sum did."""
    change = {part: after.get(part, 0.0) - before.get(part, 0.0) for part in Part if part in before or part in after}
    sign = 1 if sum(change.values()) > 0 else -1
    largest = sorted((part for part in change if sign * change[part] > 0), key=lambda part: -abs(change[part]))
    return ", ".join(f"{part.value} {change[part]:+.3f} us" for part in largest[:TOLD])


@dataclass(frozen=True)
class LevelTable(Analysis):
    """The ops of a step in program order, a column per granularity."""

    COLUMNS: ClassVar[tuple[str, ...]] = (
        "path", "op", "count", *(f"{granularity.value}_us" for granularity in MODELLED), "reason",
    )  # fmt: skip

    steps: Mapping[Granularity, StepResult]
    ops: tuple[OpLevels, ...]

    def to_rows(self) -> list[Row]:
        """Times of all runs of a step; None at a granularity that the chip does not have."""
        return [
            {
                "path": op.path,
                "op": op.op,
                "count": op.count,
                **{f"{level.value}_us": op.times_us.get(level) for level in MODELLED},
                "reason": op.reason(),
            }
            for op in self.ops
        ]

    @property
    def totals_us(self) -> dict[str, float]:
        """The step at every granularity."""
        return {granularity.value: step.total_us for granularity, step in self.steps.items()}

    def summary(self) -> dict[str, object]:
        """The conditions and the totals."""
        ops = self._closest.ops
        return {"program": ops.program, "chip": ops.chip, "phase": ops.phase, "total_us": self.totals_us}

    @property
    def _closest(self) -> StepResult:
        return list(self.steps.values())[-1]

    def headline(self) -> str:
        """Program, point and target."""
        return conditions_of(self._closest.ops).rpartition(", granularity ")[0] + ", all granularities"

    def notes(self) -> list[str]:
        """Totals, and what limits the meaning of the numbers."""
        totals = ", ".join(f"{name} {us:.3f} us" for name, us in self.totals_us.items())
        unvalidated = dict.fromkeys(name for step in self.steps.values() for name in step.ops.unvalidated)
        told = [f"total: {totals}", *self._closest.ops.assumptions]
        if unvalidated:
            told.append(f"relative only, never validated against silicon: {', '.join(unvalidated)}")
        return told


def compare_levels(evaluators: Sequence[StepEvaluator], bindings: Mapping[str, int] | None = None) -> LevelTable:
    """The step of one program as its evaluators see it, from the least close one on.

    Raises PmcError as they do, and for evaluators with different overlaps.
    """
    if any(evaluator.overlap is not evaluators[0].overlap for evaluator in evaluators):
        raise PmcError("granularities are compared under one overlap")
    steps = {evaluator.granularity: evaluator.step(bindings) for evaluator in evaluators}
    batches = evaluators[0].micro_batches(evaluators[0].values(bindings))
    sites = [site for site, _ in evaluators[0].costed(bindings).costs]
    parts: dict[Granularity, list[dict[Part, float]]] = {}
    notes: dict[Granularity, list[str]] = {}
    for evaluator in evaluators:
        parts[evaluator.granularity], notes[evaluator.granularity] = [], []
        for site in sites:
            sums: dict[Part, float] = {}
            note = ""
            for values in batches:
                one = evaluator.model.breakdown(site.op, values)
                assert one is not None, "an op with a cost has parts"
                note = one.note
                for part, seconds in one.parts.items():
                    sums[part] = sums.get(part, 0.0) + seconds * 1e6 * site.count
            parts[evaluator.granularity].append(sums)
            notes[evaluator.granularity].append(note)
    ops = tuple(
        OpLevels(
            site.path,
            site.op_name,
            site.count,
            {level: step.ops.steps[index].time_us for level, step in steps.items()},
            {level: of_ops[index] for level, of_ops in parts.items()},
            {level: of_ops[index] for level, of_ops in notes.items()},
        )
        for index, site in enumerate(sites)
    )
    return LevelTable(steps, ops)
