"""Collectives: `custom_allreduce` of the engine on the chips of a board, `nccl` for all others."""

from __future__ import annotations

from collections.abc import Mapping
from types import MappingProxyType

from xdsl.ir import Operation

from pmc.dialects import dist
from pmc.dialects.collective import (
    AllGatherAttr,
    AllReduceAttr,
    CollectiveAttr,
    CombineAttr,
    DispatchAttr,
    ReduceScatterAttr,
)
from pmc.dialects.dist import Mesh
from pmc.dialects.expr import ceildiv, expr
from pmc.dialects.silicon import Workload
from pmc.passes.match_silicon.cluster import Cluster
from pmc.passes.match_silicon.formats import HALF

NAMES: Mapping[type[CollectiveAttr], str] = MappingProxyType(
    {
        AllReduceAttr: "all_reduce",
        AllGatherAttr: "all_gather",
        ReduceScatterAttr: "reduce_scatter",
        DispatchAttr: "alltoall",
        CombineAttr: "alltoall",
    }
)
"""As NCCL calls them."""

HALF_BYTES = 2


def match_collective(op: Operation, mesh: Mesh | None, chips_per_board: int) -> Cluster | None:
    """A collective of all ranks along an axis; messages count elements of two bytes, whatever their type.

    A transfer to one other rank has no table.
    """
    if not isinstance(op, dist.CollectiveOp | dist.CollectiveGroupOp) or mesh is None:
        return None
    exchange, axis = op.exchange(), mesh.axis(op.mesh_axis)
    name = NAMES.get(type(exchange.collective))
    if name is None or axis.size == 1:
        return None
    message = ceildiv(exchange.whole_bytes(axis.size), HALF_BYTES)
    sizes = {"num_gpus": expr(axis.size), "message_size": message}
    if name == "all_reduce" and axis.size * axis.stride <= chips_per_board:
        return Cluster([op], Workload("custom_allreduce", sizes, {"allreduce_dtype": HALF}))
    return Cluster([op], Workload("nccl", sizes, {"op_name": name, "nccl_dtype": "half"}))
