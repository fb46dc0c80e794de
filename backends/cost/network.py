"""Where the ranks of a collective sit, and what it puts on the links."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass
from functools import lru_cache
from typing import get_args

from xdsl.ir import Operation

from pmc.backends.cost.model import Target
from pmc.dialects import dist
from pmc.dialects.arch import LinkLevel, Topology
from pmc.dialects.dist import Axis, Mesh
from pmc.dialects.errors import PmcError
from pmc.dialects.expr import Expr
from pmc.dialects.tensor import tensor

LEVELS: tuple[LinkLevel, ...] = get_args(LinkLevel)
"""Network levels from fast to slow."""


@dataclass(frozen=True)
class Transfer:
    """What an op asks of the network."""

    ranks: int
    """The size of the group, 2 for a transfer between two stages."""
    level: LinkLevel
    """The slowest level that any group of the mesh axis spans: the slowest group decides."""
    link_bytes: Expr
    """Bytes that one rank sends."""


def transfer_of(op: Operation, target: Target) -> Transfer | None:
    """The transfer between chips that `op` is, None for an op that stays on its chip.

    Raises PmcError when the module names no mesh or no topology.
    """
    if isinstance(op, dist.CollectiveOp):
        if isinstance(op, dist.LocalSliceOp):
            return None
        mesh, topology = network_of(op, target)
        axis = mesh.axis(op.axis.data)
        return Transfer(axis.size, level_of_axis(topology, mesh, axis), op.link_bytes(axis.size))
    if isinstance(op, dist.SendOp):
        mesh, topology = network_of(op, target)
        return Transfer(2, _level_to_peer(op, topology, mesh), tensor(op.x).bytes)
    return None


def network_of(op: dist.CollectiveOp | dist.SendOp, target: Target) -> tuple[Mesh, Topology]:
    """Mesh and topology, which an op that leaves the chip needs."""
    if target.mesh is None or target.topology is None:
        missing = "dist.mesh" if target.mesh is None else "arch.topology"
        raise PmcError(f"{op.name} at '{op.path.data}': the module has no attribute '{missing}'")
    return target.mesh, target.topology


@lru_cache(maxsize=256)
def level_of_axis(topology: Topology, mesh: Mesh, axis: Axis) -> LinkLevel:
    """The slowest level over all groups along `axis`."""
    groups = {axis.group(rank) for rank in range(mesh.ranks)}
    return slowest(topology.link_of_span(group) for group in groups)


@lru_cache(maxsize=256)
def span_of_subgroups(topology: Topology, mesh: Mesh, axis: Axis, size: int) -> LinkLevel:
    """The slowest level over all runs of `size` neighbours along `axis`."""
    groups = {axis.group(rank) for rank in range(mesh.ranks)}
    return slowest(topology.link_of_span(g[i : i + size]) for g in groups for i in range(0, axis.size, size))


def _level_to_peer(op: dist.SendOp, topology: Topology, mesh: Mesh) -> LinkLevel:
    """The slowest level over all pairs of a rank of this stage and its partner in stage `peer`."""
    stage = op.parent_op()
    if not isinstance(stage, dist.StageOp):
        raise PmcError(f"{op.name} at '{op.path.data}': a send stands outside of any dist.stage")
    axis = mesh.axis(dist.PIPELINE)
    here, there = stage.index.value.data, op.peer.value.data
    pairs = [(group[here], group[there]) for group in {axis.group(rank) for rank in range(mesh.ranks)}]
    return slowest(topology.link_of_span(pair) for pair in pairs)


def slowest(levels: Iterable[LinkLevel]) -> LinkLevel:
    """The slowest of some levels."""
    return LEVELS[max(LEVELS.index(level) for level in levels)]
