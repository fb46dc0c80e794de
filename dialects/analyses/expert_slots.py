"""Which ops work on the slots of experts, and what a slot carries.

`dispatch` puts rows of tokens into slots [experts, rows, width]; the ops between it and `combine` work on slots, filled
or not.
"""

from __future__ import annotations

from dataclasses import dataclass

from xdsl.dialects.builtin import ModuleOp
from xdsl.ir import Operation, SSAValue

from pmc.dialects import dist, layer
from pmc.dialects.accounting import ACCOUNTING, AccountingAttr
from pmc.dialects.analyses.token_copies import RouterChoice
from pmc.dialects.arch import DeploymentAttr
from pmc.dialects.deployment import Histogram
from pmc.dialects.dist import REPLICAS, Mesh
from pmc.dialects.tensor import tensor
from pmc.dialects.tile_plan import PLAN

Dispatch = layer.DispatchOp | dist.DispatchOp
COMBINES = (layer.CombineOp, dist.CombineOp)


class ExpertSlots:
    """The dispatch behind every value of a program, found once."""

    def __init__(self) -> None:
        self.sources: dict[SSAValue, Dispatch | None] = {}

    def dispatch_of(self, op: Operation) -> Dispatch | None:
        """The dispatch whose slots an op fills, works on or empties."""
        if isinstance(op, layer.DispatchOp | dist.DispatchOp):
            return op
        if not isinstance(op, layer.LayerOp | dist.CollectiveOp):
            return None
        return next((d for value in op.operands if (d := self.source(value)) is not None), None)

    def source(self, value: SSAValue) -> Dispatch | None:
        """The dispatch behind a value, None behind a combine."""
        if value not in self.sources:
            owner = value.owner
            found: Dispatch | None = None
            if isinstance(owner, Operation) and not isinstance(owner, COMBINES):
                found = self.dispatch_of(owner)
            self.sources[value] = found
        return self.sources[value]

    def fill(self, op: Operation, mesh: Mesh | None) -> float:
        """The part of the slots that an op works on which holds rows, on average over experts, rounding left out.

        A token goes to `top_k` of the experts: of slots for every token at every expert (capacity `worst`) that part
        is filled.  Balanced slots are those of the mean load.  1 for dispatch and combine, which work on tokens.
        """
        dispatch = None if isinstance(op, (layer.DispatchOp, dist.DispatchOp, *COMBINES)) else self.dispatch_of(op)
        if dispatch is None or dispatch.capacity.data != "worst":
            return 1.0
        routed = Routed.of(dispatch, mesh)
        return routed.top_k / routed.experts


def unequal_ranks(module: ModuleOp) -> Histogram | None:
    """What the routing says of ranks whose experts have unequal rows, while the kernels of a program can follow it.

    None without a histogram, under an accounting that charges the mean rank, and once plans are chosen.
    """
    deployment, accounting = module.attributes.get("arch.deployment"), module.attributes.get(ACCOUNTING)
    if not isinstance(deployment, DeploymentAttr) or not isinstance(accounting, AccountingAttr):
        return None
    routing = deployment.data.routing
    if accounting.data.expert_load != "busiest" or not isinstance(routing, Histogram):
        return None
    is_open = any(isinstance(op, layer.ProgramOp) for op in module.ops)
    return routing if is_open and not any(PLAN in op.attributes for op in module.walk()) else None


def router_of(indices: SSAValue) -> layer.RouterTopkOp | None:
    """The router whose choices `indices` are, on whatever rank; None where they come from another op."""
    value = indices
    while isinstance(value.owner, dist.ReshardOp | dist.CollectiveOp):
        value = value.owner.x
    return value.owner if isinstance(value.owner, layer.RouterTopkOp) else None


@dataclass(frozen=True)
class Routed:
    """What a dispatch says of its experts."""

    local_experts: int
    ranks: int
    """Ranks that the experts are dealt to."""
    top_k: int
    groups: int
    top_groups: int
    """What the router chooses from: 1 of 1 groups where it is not known."""
    replicas: int
    """How often the experts stand in a stage; each replica has its part of the tokens."""

    @property
    def experts(self) -> int:
        """All of them."""
        return self.local_experts * self.ranks

    @classmethod
    def of(cls, dispatch: Dispatch, mesh: Mesh | None) -> Routed:
        """Read from the types of the dispatch and the axis of the mesh that it goes along."""
        ranks = mesh.axis(dispatch.axis.data).size if isinstance(dispatch, dist.DispatchOp) and mesh is not None else 1
        axes = () if mesh is None else mesh.axes
        replicas = next((axis.size for axis in axes if axis.name == REPLICAS), 1)
        experts, top_k = tensor(dispatch.y).dims[0].constant, tensor(dispatch.indices).dims[1].constant
        router = router_of(dispatch.indices)
        limits = (1, 1) if router is None else (router.groups.value.data, router.top_groups.value.data)
        return cls(experts, ranks, top_k, *limits, replicas)

    @property
    def choice(self) -> RouterChoice:
        """What a token chooses from."""
        return RouterChoice(self.experts, self.top_k, self.groups, self.top_groups)
