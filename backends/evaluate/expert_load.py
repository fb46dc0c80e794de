"""A cost model in which the busiest rank decides how long the experts take."""

from __future__ import annotations

from collections.abc import Hashable
from dataclasses import dataclass, fields, replace

import numpy as np
from xdsl.ir import Block, Operation, SSAValue

from pmc.backends.cost.breakdown import Breakdown, roofline_parts
from pmc.backends.cost.model import Bindings, CostModel, Number, OpCost, Target, as_number, larger, number, useful
from pmc.backends.evaluate.routing import ExpertLoad, Routing
from pmc.dialects import deployment, dist, layer
from pmc.dialects.analyses.expert_slots import Dispatch, ExpertSlots, Routed
from pmc.dialects.analyses.work import work_of
from pmc.dialects.drafting import queries
from pmc.dialects.expr import expr
from pmc.dialects.interfaces import IntArray
from pmc.dialects.tensor import TensorType, tensor
from pmc.dialects.tile_plan import PLAN

HIT, ROWS = "experts_hit", "expert_rows"
"""Symbols that stand for the experts of the busiest rank with any row, and for the rows of each."""

BUSIEST = "the time is that of the busiest rank; a program is lowered for the mean load of experts"
"""Said of an op on the slots of experts."""


class BusiestRankCostModel(CostModel):
    """Another model's costs, with experts as the busiest rank sees them (see `routing`).

    An op on expert slots is costed with the expected number of experts that are hit, in place of all local ones, and
    with the rows of the busiest rank shared by them; between two whole numbers of experts the cost is interpolated.
    Dispatch and combine wait for the rank that sends or receives most.  FLOPs stay those of the mean rank, so that they
    add up over ranks.
    """

    def __init__(self, model: CostModel, routing: deployment.Routing) -> None:
        super().__init__(model.target)
        self.model = model
        self.routing: deployment.Routing = routing
        self.expert_slots = ExpertSlots()
        self.busy: dict[Operation, Operation] = {}
        self.blocks: list[Block] = []
        """Own the operands of the ops in `busy`."""
        self.slots: dict[Hashable, _Slots] = {}
        """By dispatch, and the values of the symbols where each has one."""

    @property
    def is_lower_bound(self) -> bool:
        """What the model under it is: the rows of the busiest rank are an expectation, said apart."""
        return self.model.is_lower_bound

    def unvalidated(self) -> tuple[str, ...]:
        """Those of the model."""
        return self.model.unvalidated()

    def cost(self, op: Operation, bindings: Bindings) -> OpCost | None:
        """The cost of `op` on the busiest rank."""
        base = self.model.cost(op, bindings)
        if base is None or "batch" not in bindings or "q_len" not in bindings:
            return base
        dispatch = self.expert_slots.dispatch_of(op)
        if dispatch is None or PLAN in op.attributes:  # a plan is for the slots of the program, and only for these
            return base
        slots = self._slots(dispatch, bindings)
        found = self._interpolated(op, slots, bindings)
        if isinstance(op, dist.DispatchOp | dist.CombineOp):
            transfer_s = found.transfer_s * slots.busiest_exchange
            comm_s = np.where(np.asarray(base.comm_s) > 0.0, found.latency_s + transfer_s, 0.0)
            found = replace(
                found, transfer_s=transfer_s, time_s=larger(as_number(comm_s), found.memory_s, found.compute_s)
            )
        return replace(found, flops=base.flops, peak_s=base.peak_s, link_bytes=base.link_bytes)

    def breakdown(self, op: Operation, bindings: Bindings) -> Breakdown | None:
        """The parts on the busiest rank: the weighted mean of those between which the cost is interpolated."""
        base, cost = self.model.breakdown(op, bindings), self.cost(op, bindings)
        if base is None or cost is None or "batch" not in bindings or "q_len" not in bindings:
            return base
        dispatch = self.expert_slots.dispatch_of(op)
        if dispatch is None or PLAN in op.attributes:
            return base
        slots = self._slots(dispatch, bindings)
        weighted: list[tuple[float, Breakdown]] = []
        for weight, busy, point in self._points(op, slots, bindings):
            found = self.model.breakdown(busy, point)
            assert found is not None
            weighted.append((float(weight), found))
        mixed = replace(Breakdown.mixed(weighted), note=BUSIEST)
        if isinstance(op, dist.DispatchOp | dist.CombineOp):
            work = work_of(op)
            assert work is not None
            times = {"bytes": float(cost.transfer_s), "us of latency": float(cost.latency_s)}
            loads = [replace(x, time_s=times[x.unit]) if x.engine == "link" else x for x in mixed.loads]
            return replace(mixed, parts=roofline_parts(cost, work.unit), loads=tuple(loads))
        return mixed

    def _slots(self, dispatch: Dispatch, bindings: Bindings) -> _Slots:
        """The load of the slots of a dispatch, asked for by every op on them."""
        values = tuple(bindings.values())
        if np.ndarray in map(type, values):
            return _Slots.of(dispatch, self.target, self.routing, bindings)
        key = (dispatch, *values)
        if key not in self.slots:
            self.slots[key] = _Slots.of(dispatch, self.target, self.routing, bindings)
        return self.slots[key]

    def _interpolated(self, op: Operation, slots: _Slots, bindings: Bindings) -> OpCost:
        """The cost between the whole numbers of hit experts below and above the expected one."""
        costs: list[tuple[Number, OpCost]] = []
        for weight, busy, point in self._points(op, slots, bindings):
            cost = self.model.cost(busy, point)
            assert cost is not None
            costs.append((weight, cost))
        if len(costs) == 1:
            return costs[0][1]
        (below, low), (above, high) = costs
        mixed: dict[str, Number] = {
            f.name: getattr(low, f.name) * below + getattr(high, f.name) * above for f in fields(OpCost)
        }
        for name in ("bytes_read", "bytes_written"):  # whole, as all counts are, and no more than the time is for
            mixed[name] = as_number(np.floor(mixed[name]))
        return OpCost(**mixed)

    def _points(self, op: Operation, slots: _Slots, bindings: Bindings) -> list[tuple[Number, Operation, Bindings]]:
        """The op on whole numbers of hit experts, with the weight and the symbols of each: one or two points."""
        busy = self.busy.get(op)
        if busy is None:
            busy = self.busy[op] = self._rebuilt(op)
        few = np.maximum(1, np.floor(slots.load.hit)).astype(np.int64)
        part = np.maximum(0.0, slots.load.hit - few)
        found: list[tuple[Number, Operation, Bindings]] = []
        for weight, hit in ((1 - part, few), (part, few + (part > 0))):
            rows = np.ceil(slots.load.rows / hit * slots.part_of_rows(op, bindings)).astype(np.int64)
            point: dict[str, int | IntArray] = {HIT: _plain(hit), ROWS: _plain(np.maximum(1, rows))}
            found.append((as_number(weight), busy, {**bindings, **point}))
            if not part.any():
                break
        return found

    # -- ops on the hit experts only ------------------------------------------------------------------------------

    def _rebuilt(self, op: Operation) -> Operation:
        """`op` on the hit experts only, with rows for each as a symbol."""

        def busy(value: SSAValue) -> TensorType:
            type_, dims = tensor(value), tensor(value).dims
            if self.expert_slots.source(value) is not None:
                return type_.with_dims((expr(HIT), expr(ROWS), *dims[2:]))
            if isinstance(value.owner, layer.WeightOp) and value.owner.axis_names()[0] == layer.EXPERT_AXIS:
                return type_.with_dims((expr(HIT), *dims[1:]))
            return type_

        values = list(dict.fromkeys(op.operands))
        block = Block(arg_types=[busy(value) for value in values])
        self.blocks.append(block)
        arguments = dict(zip(values, block.args, strict=True))
        return type(op).create(
            operands=[arguments[value] for value in op.operands],
            result_types=[busy(value) for value in op.results],
            properties=dict(op.properties),
            attributes=dict(op.attributes),
        )


@dataclass(frozen=True)
class _Slots:
    """The slots of a dispatch and the load that they carry at the points of some bindings."""

    capacity: Number
    """Rows of an expert that the program has room for."""
    load: ExpertLoad
    sent: Number
    """Tokens of the mean rank over those of the fullest, which differ where ranks do not divide the batch."""

    @classmethod
    def of(cls, dispatch: Dispatch, target: Target, routing: deployment.Routing, bindings: Bindings) -> _Slots:
        routed = Routed.of(dispatch, target.mesh)
        rows = queries(dispatch.path.data, bindings["q_len"])
        tokens = np.asarray(bindings["batch"], np.int64) * np.asarray(rows, np.int64)
        tokens = -(-tokens // routed.replicas)
        worst = dispatch.capacity.data == "worst"
        mean = tokens * routed.top_k / routed.experts
        capacity = as_number(np.asarray(tokens, np.float64) if worst else np.ceil(mean))
        load = Routing.of(routing, routed.choice, routed.ranks).load(tokens)
        of_rank = tensor(dispatch.x).dims[0]
        return cls(capacity, load, useful(of_rank, bindings) / number(of_rank, bindings))

    @property
    def busiest_exchange(self) -> Number:
        """What the busiest rank sends or receives, over what a rank with most tokens sends in a dispatch.

        The rank with most tokens sends a row for each of their choices; the rank with the busiest experts receives
        (rows of the busiest rank / rows of the mean rank) of what the mean rank sends.  The larger decides.  In a
        combine it is the other way round.
        """
        return larger(1.0, as_number(self.sent * self.load.rows / self.load.mean_rows))

    def part_of_rows(self, op: Operation, bindings: Bindings) -> Number:
        """The part of an expert's rows that an op has where ranks of tensor parallelism share them."""
        on_slots = op.operands[0] if isinstance(op, layer.CombineOp | dist.CombineOp) else op.results[0]
        rows = tensor(on_slots).dims[1]
        return as_number(np.minimum(1.0, number(rows, bindings) / np.asarray(self.capacity)))


def _plain(value: IntArray) -> int | IntArray:
    return int(value) if np.ndim(value) == 0 else value
