"""One step of a program with all that is said about it: its ops, its schedule, its figures, whether it fits."""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import dataclass

from xdsl.dialects.builtin import ModuleOp

from pmc.backends.evaluate.feasibility import step_feasibility
from pmc.backends.evaluate.footprint import Feasibility
from pmc.backends.evaluate.metrics import Cell
from pmc.backends.evaluate.notebook import Tabular
from pmc.backends.evaluate.overlap import StepResult
from pmc.backends.evaluate.request import PhaseAggregates, aggregate_step
from pmc.backends.evaluate.speculation import Speculation
from pmc.compiler.evaluation import EvaluationOptions


@dataclass(frozen=True, repr=False)
class StepEvaluation(Tabular):
    """One step of one rank."""

    step: StepResult
    """The ops with their times, and the schedule that says how long they take together."""
    figures: PhaseAggregates
    """MFU, MBU, throughput and sums, of one chip."""
    memory: Feasibility | None
    """Whether it fits the DRAM of a chip; None below the dist level."""
    speculation: Speculation | None = None
    """Its parts, and the time per token, where tokens are drafted."""

    @property
    def total_us(self) -> float:
        """The time of the step."""
        return self.step.total_us

    @property
    def fits(self) -> bool:
        """Whether nothing is known that does not fit."""
        return self.memory is None or self.memory.fits

    @property
    def relative_only(self) -> bool:
        """Whether the numbers rest on something that was never validated against silicon."""
        return bool(self.step.ops.unvalidated)

    def to_rows(self) -> list[dict[str, Cell]]:
        """One mapping per op."""
        return self.step.ops.to_rows()

    def to_csv(self) -> str:
        """A header line, then one line per op."""
        return self.step.ops.to_csv()

    def to_dict(self) -> dict[str, object]:
        """The JSON form: plain values, keys in a fixed order; new keys are only ever appended."""
        return {
            **self.step.ops.to_dict(),
            "schedule": self.step.schedule_dict(),
            "aggregates": self.figures.to_dict(),
            "memory": None if self.memory is None else self.memory.to_dict(),
            **({} if self.speculation is None else {"speculation": self.speculation.to_dict()}),
        }

    def to_json(self) -> str:
        """`to_dict` as indented JSON."""
        return json.dumps(self.to_dict(), indent=2) + "\n"

    def __repr__(self) -> str:
        ops, figures = self.step.ops, self.figures
        verdict = "" if self.fits else ", does not fit"
        return (
            f"<{ops.program}: {ops.phase} step of {ops.ranks} x {ops.chip}, {self.total_us:.3f} us, "
            f"MFU {figures.mfu:.3f}, MBU {figures.mbu:.3f}, {figures.tps_per_chip:.1f} tokens/s per chip{verdict}>"
        )


def evaluate_dist(
    module: ModuleOp, options: EvaluationOptions, bindings: Mapping[str, int], plans: bool = False
) -> StepEvaluation:
    """The step of a module at the dist level or below, with symbols replaced by `bindings`.

    With `plans` its rows name the plans that are priced.  Raises PmcError.
    """
    evaluator = options.evaluator(module)
    step = evaluator.step(bindings)
    if plans:
        step = evaluator.with_plans(step, bindings)
    return StepEvaluation(
        step,
        aggregate_step(evaluator, step),
        step_feasibility(module, bindings),
        Speculation.of(module, step.ops, step.total_us),
    )
