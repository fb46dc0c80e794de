"""The typed result of `explain`: a step, its ops with their parts, and what would make them faster.  Times in us."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import reduce

from pmc.backends.cost.breakdown import Breakdown, CubeUse, Load, Part, Shape
from pmc.backends.cost.model import Target
from pmc.backends.evaluate.explain.bound import Bound, bound_of
from pmc.backends.evaluate.explain.commands import OpCommands
from pmc.backends.evaluate.explain.levers import Levers
from pmc.backends.evaluate.explain.roofline import Roofline
from pmc.backends.evaluate.footprint import Feasibility
from pmc.backends.evaluate.metrics import StepMetrics
from pmc.backends.evaluate.notebook import Tabular
from pmc.backends.evaluate.overlap import Overlap, StepResult
from pmc.dialects.tile_plan import PlanAttr

Parts = Mapping[Part, float]


@dataclass(frozen=True)
class SearchedPlan:
    """What a search finds for an op on which a plan stands: the fastest plan, and its time in one execution."""

    plan: PlanAttr
    us: float

    def to_dict(self) -> dict[str, object]:
        """Plain values."""
        return {"plan": str(self.plan), "us": self.us}


@dataclass(frozen=True)
class ExplainedOp:
    """One op: its row of `evaluate`, and where the time of all its executions goes."""

    step: StepMetrics
    parts_us: Parts
    """They add up to `step.time_us`."""
    one: Breakdown
    """One execution; with two-batch overlap the mean of both micro-batches."""
    searched: SearchedPlan | None = None
    """The plan that a search finds, where another one stands on the op."""
    commands: OpCommands | None = None
    """What it was lowered to, where that was asked for."""

    @property
    def bound(self) -> Bound | None:
        """What binds it."""
        return bound_of(self.one)

    def to_dict(self, target: Target) -> dict[str, object]:
        """Plain values; every load with the fields that it rests on."""
        s = self.step
        return {
            "stage": s.stage,
            "path": s.path,
            "op": s.op,
            "count": s.count,
            "time_us": s.time_us,
            "share": s.share,
            "bottleneck": s.bottleneck.name,
            "parts_us": {part.value: us for part, us in self.parts_us.items()},
            "bound": None if self.bound is None else self.bound.to_dict(),
            "shapes": [_shape_dict(shape) for shape in self.one.shapes],
            "loads": [_load_dict(load, target) for load in self.one.loads],
            "note": self.one.note,
            "searched": None if self.searched is None else self.searched.to_dict(),
            "commands": None if self.commands is None else self.commands.to_dict(),
        }


@dataclass(frozen=True, repr=False)
class Explanation(Tabular):
    """A step of a program, or some ops of it.

    The parts of all ops add up to the rows of `evaluate`, and less what overlap hides to the time of the step.
    """

    step: StepResult
    target: Target
    ops: tuple[ExplainedOp, ...]
    """In program order: all of them, or those that were asked for."""
    path: str | None
    """The path that was asked for."""
    roofline: Roofline
    levers: Levers | None
    """What would make it faster, where that was asked for."""
    memory: Feasibility | None
    """Whether the step fits the DRAM of a chip; None below the dist level."""

    @property
    def parts_us(self) -> dict[Part, float]:
        """The parts of all ops together, in the order of `Part`."""
        return total_of([op.parts_us for op in self.ops])

    @property
    def time_us(self) -> float:
        """The time of the ops, one after the other."""
        return sum(op.step.time_us for op in self.ops)

    @property
    def hidden_us(self) -> float | None:
        """What overlap hides of a whole step; None for some of its ops, of which nothing says what they hide."""
        return self.step.ops.total_us - self.step.total_us if self.path is None else None

    def to_dict(self) -> dict[str, object]:
        """The JSON form; keys are only ever added, at the end."""
        result = self.step.ops
        return {
            "program": result.program,
            "phase": result.phase,
            "granularity": result.granularity.value,
            "overlap": self.step.overlap.value,
            "chip": result.chip,
            "topology": result.topology,
            "ranks": result.ranks,
            "bindings": dict(result.bindings),
            "relative_only": bool(result.unvalidated),
            "unvalidated": list(result.unvalidated),
            "assumptions": list(result.assumptions),
            "step_us": self.step.total_us,
            "path": self.path,
            "time_us": self.time_us,
            "hidden_us": self.hidden_us,
            "parts_us": {part.value: us for part, us in self.parts_us.items()},
            "ops": [op.to_dict(self.target) for op in self.ops],
            "levers": None if self.levers is None else self.levers.to_dict(),
            "roofline": self.roofline.to_dict(),
            "lower_bound": result.lower_bound,
            "memory": None if self.memory is None else self.memory.to_dict(),
        }

    def to_rows(self) -> list[dict[str, str | float]]:
        """One mapping per op: its time, and the parts of it."""
        return [
            {
                "path": op.step.path,
                "op": op.step.op,
                "time_us": op.step.time_us,
                **{f"{part.value}_us": op.parts_us.get(part, 0.0) for part in Part},
            }
            for op in self.ops
        ]

    def __repr__(self) -> str:
        result = self.step.ops
        where = "" if self.path is None else f" at {self.path}"
        largest = max(self.parts_us.items(), key=lambda part: part[1], default=None)
        most = "" if largest is None else f", most of it {largest[0].value}"
        return f"<{result.program}: {len(self.ops)} ops{where} of a {result.phase} step, {self.time_us:.3f} us{most}>"

    def to_json(self) -> str:
        """`to_dict` as indented JSON."""
        return json.dumps(self.to_dict(), indent=2) + "\n"

    @property
    def misfits(self) -> list[str]:
        """One line where the step does not fit the DRAM of a chip."""
        return [] if self.memory is None or self.memory.fits else [self.memory.verdict]

    @property
    def overlapped(self) -> bool:
        """Whether ops run beside each other."""
        return self.step.overlap is not Overlap.NONE


def total_of(parts: Sequence[Parts]) -> dict[Part, float]:
    """The sum of parts, in the order of `Part`, without those that nothing takes."""
    sums = {part: sum(some.get(part, 0.0) for some in parts) for part in Part}
    return {part: us for part, us in sums.items() if us}


def field_value(path: str, target: Target) -> object:
    """The value of `chip.<field>` or `topology.<field>`."""
    root, _, rest = path.partition(".")
    return reduce(getattr, rest.split("."), getattr(target, root))


def _load_dict(load: Load, target: Target) -> dict[str, object]:
    return {
        "engine": load.engine,
        "phase": load.phase,
        "amount": load.amount,
        "unit": load.unit,
        "time_us": load.time_s * 1e6,
        "fields": {path: field_value(path, target) for path in load.fields},
    }


def _shape_dict(shape: Shape) -> dict[str, object]:
    return {
        "weight": shape.weight,
        "shape": shape.text,
        "plan": None if shape.plan is None else str(shape.plan),
        "cores": shape.cores,
        "cube": [_cube_dict(cube) for cube in shape.cubes],
    }


def _cube_dict(cube: CubeUse) -> dict[str, object]:
    dims = {name: {"data": data, "room": room} for name, data, room in cube.dims}
    return {**dims, "utilisation": cube.utilisation}
