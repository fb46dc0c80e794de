"""Granularity `commands`: ops take the time that their commands take in the simulator.

Counts of work and traffic are those of the tile model.  Where the time goes follows the critical path of the commands:
the matrix unit, in the proportions that the tile model gives for it, the vector and sort units, data, and barriers.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import replace
from typing import ClassVar

from xdsl.ir import Operation

from pmc.backends.cost.breakdown import Breakdown, Part, present
from pmc.backends.cost.chip import ChipCostModel
from pmc.backends.cost.model import Bindings, CostModel, Granularity, OpCost, Target
from pmc.backends.cost.tile import TileCostModel
from pmc.backends.g5 import stream
from pmc.backends.g5.critical_path import BARRIERS
from pmc.dialects.assembly import PmcOp
from pmc.dialects.collective import ExchangeInterface
from pmc.dialects.errors import PmcError
from pmc.dialects.structure import AnyProgramOp, AnyStageOp

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
        self._parts: dict[tuple[tuple[str, int], ...], dict[_Key, stream.Part]] = {}

    def cost(self, op: Operation, bindings: Bindings) -> OpCost | None:
        """What the other model counts, with the time of the commands."""
        base = self.model.cost(op, bindings)
        if base is None:
            return None
        part = self._part(op, bindings)
        compute_s = sum(part.critical_ps.get(engine, 0) for engine in ("tiu", "vec", "hau")) * 1e-12
        if part.times is None:
            return replace(base, time_s=part.duration_ps * 1e-12)
        data_s = (part.duration_ps - part.critical_ps.get(BARRIERS, 0)) * 1e-12 - compute_s
        return replace(base, time_s=part.duration_ps * 1e-12, compute_s=compute_s, memory_s=data_s)

    def breakdown(self, op: Operation, bindings: Bindings) -> Breakdown | None:
        """The critical path in parts, beside what the other model says that the op asks of every engine."""
        base = self.model.breakdown(op, bindings)
        if base is None:
            return None
        part = self._part(op, bindings)
        if part.times is None:
            return base.scaled(part.duration_ps * 1e-12 / base.time_s) if base.time_s else base
        parts: dict[Part, float] = {}
        for activity, ps in part.critical_ps.items():
            if activity != "tiu":
                name = _PARTS.get(activity, Part.DATA)
                parts[name] = parts.get(name, 0.0) + ps * 1e-12
        matrix = {name: base.parts[name] for name in _MATRIX if name in base.parts} or {Part.MATRIX: 1.0}
        share = part.critical_ps.get("tiu", 0) * 1e-12 / sum(matrix.values())
        return replace(base, parts=present({**{name: s * share for name, s in matrix.items()}, **parts}))

    def _part(self, op: Operation, bindings: Bindings) -> stream.Part:
        values = {name: int(value) for name, value in bindings.items()}
        known = tuple(sorted(values.items()))
        parts = self._parts.get(known)
        if parts is None:
            parts = self._parts[known] = _by_op(self.simulated(self.target, values))
        part = parts.get(_key(op))
        if part is None:
            path = op.path.data if isinstance(op, PmcOp) else ""
            raise PmcError(f"{op.name} at '{path}' has no commands: it takes no time at granularity commands")
        return part


def _by_op(parts: tuple[stream.Part, ...]) -> dict[_Key, stream.Part]:
    found: dict[_Key, stream.Part] = {}
    for part in parts:
        key = part.stage or 0, part.path, part.op
        if key in found:
            raise PmcError(f"{part.op} at '{part.path}' has two programs of commands: paths must tell ops apart")
        found[key] = part
    return found


def _key(op: Operation) -> _Key:
    stage, around = 0, op.parent_op()
    while around is not None and not isinstance(around, AnyProgramOp):
        if isinstance(around, AnyStageOp):
            stage = around.index.value.data
        around = around.parent_op()
    path = op.path.data if isinstance(op, PmcOp) else ""
    if isinstance(op, ExchangeInterface):
        return stage, path, op.exchange().collective.op_name
    name = op.properties.get("op_name")
    return stage, path, op.name if name is None else str(getattr(name, "data", op.name))
