"""Costs of equal ops, computed once: by what an op asks for, not by which program it stands in.

The cost of an op follows from its name, types and properties, from which of its operands are the same value, from the
values of the symbols, and from the target.  What moves between chips also depends on where the ranks of its group are,
what works on the slots of experts on the dispatch behind it, and what multiplies with a weight that its ranks do not
divide on how much of that is padding.  Programs of one model for many deployments have most of their ops in common.
"""

from __future__ import annotations

from collections.abc import Hashable
from typing import NamedTuple

import numpy as np
from xdsl.ir import Operation, SSAValue

from pmc.backends.cost.breakdown import Breakdown
from pmc.backends.cost.model import Bindings, CostModel, Granularity, OpCost
from pmc.backends.cost.network import pattern_ranks, stage_around
from pmc.dialects import layer
from pmc.dialects.accounting import Accounting
from pmc.dialects.analyses.expert_slots import Dispatch, ExpertSlots, Routed
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
        self.ops: dict[Operation, _OpFacts] = {}
        """Of the ops at hand, what stays the same when the types of their values change."""
        self.slots = ExpertSlots()

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

    def forget_types(self) -> None:
        """Look at the types of all ops again: those of their programs have changed."""
        self.op_numbers.clear()

    def forget_ops(self) -> None:
        """Let go of all ops, of whose programs no cost will be asked for again."""
        self.op_numbers.clear()
        self.ops.clear()
        self.slots = ExpertSlots()

    def facts(self, op: Operation) -> _OpFacts:
        """What the cost of an op depends on beside types, target and symbols."""
        known = self.ops.get(op)
        if known is None:
            known = self.ops[op] = _OpFacts.of(op, self)
        return known


class _OpFacts(NamedTuple):
    """What the cost of an op depends on beside types, target and symbols."""

    number: int
    """The same for ops of one name, properties and pattern of operands."""
    values: tuple[SSAValue, ...]
    """Operands, then results."""
    dispatch: Dispatch | None
    """The dispatch on whose slots the op works."""
    padded: bool
    """Whether an operand is a weight, parts of which may be padding."""

    @classmethod
    def of(cls, op: Operation, memo: CostMemo) -> _OpFacts:
        operands, number = tuple(op.operands), memo.number
        key: list[Hashable] = [op.name, len(operands)]
        for name, value in op.properties.items():
            if name != PATH:
                key += name, number(value)
        if len(operands) > 1 and len({id(value) for value in operands}) < len(operands):
            key += map(operands.index, operands)
        if (plan := op.attributes.get(PLAN)) is not None:
            key.append(number(plan))
        dispatch = memo.slots.dispatch_of(op)
        if dispatch is not None and dispatch is not op:
            key += (_holds_experts(value, memo.slots) for value in operands)
        padded = any(isinstance(value.owner, layer.WeightOp) for value in operands)
        known = memo.numbers.setdefault(tuple(key), len(memo.numbers))
        return cls(known, (*operands, *op.results), dispatch, padded)


class OpNumbers:
    """A number for each op: the same for ops that cost the same wherever the ranks of their groups are."""

    def __init__(self, memo: CostMemo, mesh: Mesh | None) -> None:
        self.memo = memo
        self.mesh = mesh
        self.known: dict[Operation, int] = {}

    def of(self, op: Operation) -> int:
        """The number of an op."""
        known = self.known.get(op)
        if known is None:
            known = self.known[op] = self.memo.numbers.setdefault(self._key(op), len(self.memo.numbers))
        return known

    def _key(self, op: Operation) -> tuple[Hashable, ...]:
        """All that the cost of an op depends on beside the target, the symbols and where its ranks are."""
        number, facts = self.memo.number, self.memo.facts(op)
        key: list[Hashable] = [facts.number, *(number(value.type) for value in facts.values)]
        if facts.padded and (share := unpadded_share(op, self.mesh)) != 1.0:
            key.append(share)
        if (dispatch := facts.dispatch) is not None:
            key.append(Routed.of(dispatch, self.mesh) if dispatch is op else self.of(dispatch))
        return tuple(key)


def _holds_experts(value: SSAValue, slots: ExpertSlots) -> str:
    """Whether a value is slots of experts, weights of experts, or neither."""
    if slots.source(value) is not None:
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
