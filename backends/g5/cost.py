"""Granularity `commands`: ops take the time that their commands take in the simulator.

Counts of work and traffic are those of the tile model.  Where the time goes follows the critical path of the commands:
the matrix unit, in the proportions that the tile model gives for it, the vector and sort units, data, and barriers.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Callable, Mapping
from dataclasses import dataclass, replace
from typing import ClassVar

from xdsl.dialects.builtin import StringAttr
from xdsl.ir import Operation

from pmc.backends.cost.breakdown import Breakdown, Part, present
from pmc.backends.cost.chip import ChipCostModel
from pmc.backends.cost.model import Bindings, CostModel, Granularity, OpCost, Target
from pmc.backends.cost.tile import TileCostModel
from pmc.backends.evaluate.engine import Site, sites
from pmc.backends.g5 import stream
from pmc.backends.g5.critical_path import BARRIERS
from pmc.dialects.analyses.idle_ops import LEFT_OF
from pmc.dialects.assembly import PmcOp
from pmc.dialects.errors import PmcError
from pmc.dialects.structure import AnyProgramOp

Simulated = Callable[[Target, Mapping[str, int]], tuple[stream.Part, ...]]
"""The parts of a step on a target, with symbols bound to numbers, of all pipeline stages."""

_Key = tuple[int, str, str]
"""Pipeline stage, path and name of an op."""

_MATRIX = (Part.MATRIX, Part.PADDING, Part.IMBALANCE, Part.EFFICIENCY, Part.START_UP)

_PARTS = {"vec": Part.VECTOR, "hau": Part.VECTOR, BARRIERS: Part.BARRIER}
"""What activities of the critical path are called, besides those of the matrix unit; all others move data."""


class CommandCostModel(CostModel):
    """Times of simulated commands, beside the counts of another model.  Symbols must be bound to integers."""

    granularity: ClassVar[Granularity] = Granularity.COMMANDS
    CHIP_PARAMETERS: ClassVar[tuple[str, ...]] = (*stream.CHIP_FIELDS, "gdma_multicast")
    TOPOLOGY_PARAMETERS: ClassVar[tuple[str, ...]] = TileCostModel.TOPOLOGY_PARAMETERS

    def __init__(self, model: TileCostModel | ChipCostModel, simulated: Simulated) -> None:
        """`model` counts work: the tile model for tensor ops, the chip model for kernels of a lower level."""
        super().__init__(model.target)
        self.model = model
        self.simulated = simulated
        self._times: dict[tuple[tuple[str, int], ...], dict[Operation, _OpTime]] = {}

    def cost(self, op: Operation, bindings: Bindings) -> OpCost | None:
        """What the other model counts, with the time of the commands."""
        base = self.model.cost(op, bindings)
        if base is None:
            return None
        time = self._time(op, bindings)
        if not time.is_kernel:
            return replace(base, time_s=time.duration_ps * 1e-12)
        compute_s = sum(time.critical_ps.get(engine, 0) for engine in ("tiu", "vec", "hau")) * 1e-12
        data_s = (time.duration_ps - time.critical_ps.get(BARRIERS, 0)) * 1e-12 - compute_s
        return replace(base, time_s=time.duration_ps * 1e-12, compute_s=compute_s, memory_s=data_s)

    def breakdown(self, op: Operation, bindings: Bindings) -> Breakdown | None:
        """The critical path in parts, beside what the other model says that the op asks of every engine."""
        base = self.model.breakdown(op, bindings)
        if base is None:
            return None
        time = self._time(op, bindings)
        if not time.is_kernel:
            return base.scaled(time.duration_ps * 1e-12 / base.time_s) if base.time_s else base
        fill_ps, drain_ps = time.first.fill_and_drain_ps[0], time.last.fill_and_drain_ps[1]
        ps_of = {Part.FILL: fill_ps, Part.DRAIN: drain_ps, Part.DATA: -fill_ps - drain_ps}
        for activity, ps in time.critical_ps.items():
            if activity != "tiu":
                name = _PARTS.get(activity, Part.DATA)
                ps_of[name] = ps_of.get(name, 0) + ps
        matrix = {name: base.parts[name] for name in _MATRIX if name in base.parts} or {Part.MATRIX: 1.0}
        share = time.critical_ps.get("tiu", 0) * 1e-12 / sum(matrix.values())
        parts = {name: seconds * share for name, seconds in matrix.items()}
        return replace(base, parts=present({**parts, **{name: ps * 1e-12 for name, ps in ps_of.items()}}))

    def _time(self, op: Operation, bindings: Bindings) -> _OpTime:
        values = {name: int(value) for name, value in bindings.items()}
        known = tuple(sorted(values.items()))
        times = self._times.get(known)
        if times is None:
            times = self._times[known] = _by_op(_program_around(op), self.simulated(self.target, values))
        time = times.get(op)
        if time is None:
            path = op.path.data if isinstance(op, PmcOp) else ""
            raise PmcError(f"{op.name} at '{path}' has no commands: it takes no time at granularity commands")
        return time


@dataclass
class _OpTime:
    """One run of the commands of an op."""

    duration_ps: int
    critical_ps: dict[str, int]
    first: stream.Part
    last: stream.Part

    @property
    def is_kernel(self) -> bool:
        """Whether it has commands, and is no movement of the chip."""
        return self.first.times is not None

    def add(self, part: stream.Part) -> None:
        """Run another kernel after it."""
        self.duration_ps += part.duration_ps
        self.last = part
        for activity, ps in part.critical_ps.items():
            self.critical_ps[activity] = self.critical_ps.get(activity, 0) + ps


def _by_op(program: Operation, parts: tuple[stream.Part, ...]) -> dict[Operation, _OpTime]:
    """The times of the ops of a program.  Ops of one path and name come in the order of their kernels.

    A kernel that lowering has added, as the copies of values that a repeat carries, belongs to the kernel before it.
    """
    ops: dict[_Key, deque[Operation]] = {}
    for site in sites(program):
        ops.setdefault((site.stage, site.path, _name(site)), deque()).append(site.op)
    named, found = frozenset(ops), dict[Operation, _OpTime]()
    last: dict[tuple[int, int], _OpTime] = {}
    """By stage and count the op whose kernel came last."""
    for part in parts:
        stage = part.stage or 0
        key = stage, part.path, part.op
        if key not in named:
            key = stage, part.path, LEFT_OF.get(part.op, part.op)
        if key in named:
            if not ops[key]:
                raise PmcError(f"{part.op} at '{part.path}' has more programs of commands than ops")
            time = _OpTime(part.duration_ps, dict(part.critical_ps), part, part)
            found[ops[key].popleft()] = last[stage, part.count] = time
        elif (stage, part.count) in last:
            last[stage, part.count].add(part)
        else:
            raise PmcError(f"{part.op} at '{part.path}' belongs to no op of the program")
    return found


def _name(site: Site) -> str:
    """The name of the op that a kernel was lowered from, or of the op itself."""
    name = site.op.properties.get("op_name")
    return site.op_name if not isinstance(name, StringAttr) else name.data


def _program_around(op: Operation) -> Operation:
    around: Operation | None = op
    while around is not None and not isinstance(around, AnyProgramOp):
        around = around.parent_op()
    assert around is not None, "ops with costs stand in a program"
    return around
