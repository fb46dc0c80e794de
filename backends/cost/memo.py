"""Costs of equal ops, computed once: by what an op asks for, not by which program it stands in.

The cost of an op follows from its name, types and properties, from which of its operands are the same value, from the
values of the symbols, and from the target.  What moves between chips also depends on where the ranks of its group are,
what works on the slots of experts on the dispatch behind it, and what multiplies with a weight that its ranks do not
divide on how much of that is padding.  Programs of one model for many deployments have most of their ops in common.
"""

from __future__ import annotations

from collections.abc import Hashable

import numpy as np
from xdsl.ir import Operation, SSAValue

from pmc.backends.cost.breakdown import Breakdown
from pmc.backends.cost.model import Bindings, CostModel, Granularity, OpCost
from pmc.backends.cost.network import pattern_ranks, stage_around
from pmc.dialects import layer
from pmc.dialects.accounting import Accounting
from pmc.dialects.analyses.expert_slots import ExpertSlots, Routed
from pmc.dialects.analyses.padding import unpadded_share
from pmc.dialects.collective import ExchangeInterface
from pmc.dialects.dist import PIPELINE, Axis, DistExchangeOp, Mesh
from pmc.dialects.tile_plan import PLAN

PATH = "path"
"""The property that says where an op is from, on which no cost depends."""


class CostMemo:
    """Costs by target and op, and numbers in place of what is slow to compare."""

    def __init__(self) -> None:
        self.by_target: dict[tuple[int, ...], dict[Hashable, OpCost | None]] = {}
        self.numbers: dict[Hashable, int] = {}
        self.seen: dict[int, tuple[Hashable, int]] = {}
        """By identity; what was numbered is kept, so that nothing else takes its place in memory."""
        self.op_numbers: dict[tuple[Axis, ...], OpNumbers] = {}
        """Of the ops at hand, by the axes of their mesh but for that of stages."""

    def number(self, value: Hashable) -> int:
        """The number of an attribute or of a part of a target, the same for equal ones."""
        known = self.seen.get(id(value))
        if known is None:
            known = self.seen[id(value)] = value, self.numbers.setdefault(value, len(self.numbers))
        return known[1]

    def ops_on(self, mesh: Mesh | None) -> OpNumbers:
        """The numbers of ops on a mesh, which stay the same whatever the number of pipeline stages."""
        axes = () if mesh is None else tuple(axis for axis in mesh.axes if axis.name != PIPELINE)
        if axes not in self.op_numbers:
            self.op_numbers[axes] = OpNumbers(self, mesh)
        return self.op_numbers[axes]

    def forget_ops(self) -> None:
        """Let go of all ops, of whose programs no cost will be asked for again."""
        self.op_numbers.clear()


class OpNumbers:
    """A number for each op: the same for ops that cost the same wherever the ranks of their groups are."""

    def __init__(self, memo: CostMemo, mesh: Mesh | None) -> None:
        self.memo = memo
        self.mesh = mesh
        self.slots = ExpertSlots()
        self.known: dict[Operation, int] = {}

    def of(self, op: Operation) -> int:
        """The number of an op."""
        known = self.known.get(op)
        if known is None:
            known = self.known[op] = self.memo.numbers.setdefault(self._key(op), len(self.memo.numbers))
        return known

    def _key(self, op: Operation) -> tuple[Hashable, ...]:
        """All that the cost of an op depends on beside the target, the symbols and where its ranks are."""
        number = self.memo.number
        operands = tuple(op.operands)
        key: list[Hashable] = [op.name, *(number(value.type) for value in operands), None]
        key += [number(result.type) for result in op.results]
        for name, value in op.properties.items():
            if name != PATH:
                key += name, number(value)
        if len(operands) > 1 and len({id(value) for value in operands}) < len(operands):
            key += map(operands.index, operands)
        if (plan := op.attributes.get(PLAN)) is not None:
            key.append(number(plan))
        if (share := unpadded_share(op, self.mesh)) != 1.0:
            key.append(share)
        if (dispatch := self.slots.dispatch_of(op)) is not None:
            if dispatch is op:
                key.append(Routed.of(dispatch, self.mesh))
            else:
                key += (self.of(dispatch), *map(self._holds_experts, operands))
        return tuple(key)

    def _holds_experts(self, value: SSAValue) -> str:
        """Whether an operand is slots of experts, weights of experts, or neither."""
        if self.slots.source(value) is not None:
            return "slots"
        owner = value.owner
        experts = isinstance(owner, layer.WeightOp) and owner.axis_names()[0] == layer.EXPERT_AXIS
        return "weights" if experts else ""


class MemoCostModel(CostModel):
    """Another model, asked once for equal ops at single values of the symbols."""

    def __init__(self, model: CostModel, memo: CostMemo, granularity: Granularity, accounting: Accounting) -> None:
        """`accounting` is what `model` charges by.  Plans of tiles look further around an op: not for them."""
        super().__init__(model.target)
        self.model = model
        t = model.target
        parts: tuple[Hashable, ...] = (granularity, t.chip, t.topology, t.calibration, t.routing, accounting)
        self.costs = memo.by_target.setdefault(tuple(map(memo.number, parts)), {})
        self.numbers = memo.ops_on(t.mesh)

    def unvalidated(self) -> tuple[str, ...]:
        """Those of the model."""
        return self.model.unvalidated()

    def breakdown(self, op: Operation, bindings: Bindings) -> Breakdown | None:
        """That of the model."""
        return self.model.breakdown(op, bindings)

    def cost(self, op: Operation, bindings: Bindings) -> OpCost | None:
        """The cost that the model says."""
        if isinstance(op, layer.SourceOp):
            return None  # naming a tensor costs nothing
        values = tuple(bindings.values())
        if np.ndarray in map(type, values):
            return self.model.cost(op, bindings)
        group = self._group(op) if isinstance(op, ExchangeInterface) else ()
        key = (self.numbers.of(op), *group, *bindings, *values)
        if key not in self.costs:
            self.costs[key] = self.model.cost(op, bindings)
        return self.costs[key]

    def _group(self, op: ExchangeInterface) -> tuple[Hashable, ...]:
        """Where the ranks are among which an op exchanges data: how they lie; between stages also which."""
        mesh = self.target.mesh
        name = op.mesh_axis if isinstance(op, DistExchangeOp) else op.exchange().collective.mesh_axis
        if name is None or mesh is None:
            return ()
        axis = mesh.axis(name)
        assert isinstance(op, Operation)
        stage = stage_around(op) if name == PIPELINE else None
        topology = self.target.topology
        ranks = mesh.ranks if topology is None else pattern_ranks(topology, mesh.ranks, axis)
        return ranks, axis.size, axis.stride, stage
