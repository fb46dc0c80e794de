"""Where the ranks of a collective sit, and what it puts on the links."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass
from functools import lru_cache
from typing import get_args

from xdsl.ir import Operation

from pmc.backends.cost.model import Target
from pmc.dialects import dist, g5, tile
from pmc.dialects.arch import LinkLevel, Topology
from pmc.dialects.assembly import PmcOp
from pmc.dialects.collective import Exchange, ExchangeInterface, SendAttr
from pmc.dialects.dist import Axis, Mesh
from pmc.dialects.errors import PmcError
from pmc.dialects.expr import Expr

LEVELS: tuple[LinkLevel, ...] = get_args(LinkLevel)
"""Network levels from fast to slow."""


@dataclass(frozen=True)
class Transfer:
    """What an op asks of the network."""

    exchange: Exchange
    ranks: int
    """The size of the group, 2 for a transfer between two stages."""
    level: LinkLevel
    """The slowest level that any group of the mesh axis spans: the slowest group decides."""

    @property
    def link_bytes(self) -> Expr:
        """Bytes that one rank sends."""
        return self.exchange.link_bytes(self.ranks)


def transfer_of(op: Operation, target: Target) -> Transfer | None:
    """The transfer between chips that `op` starts, at any level; None for an op that stays on its chip or receives.

    Raises PmcError when the module names no mesh or no topology.
    """
    if not isinstance(op, ExchangeInterface):
        return None
    exchange = op.exchange()
    if not exchange.sends:
        return None
    mesh, topology = network_of(op, target)
    if isinstance(exchange.collective, SendAttr):
        return Transfer(exchange, 2, _level_to_peer(op, exchange.collective.peer.value.data, topology, mesh))
    axis = axis_of(exchange, mesh)
    return Transfer(exchange, axis.size, level_of_axis(topology, mesh, axis))


def network_of(op: Operation, target: Target) -> tuple[Mesh, Topology]:
    """Mesh and topology, which an op that leaves the chip needs."""
    if target.mesh is None or target.topology is None:
        missing = "dist.mesh" if target.mesh is None else "arch.topology"
        raise PmcError(f"{place_of(op)}: the module has no attribute '{missing}'")
    return target.mesh, target.topology


def axis_of(exchange: Exchange, mesh: Mesh) -> Axis:
    """The mesh axis of an exchange between chips."""
    name = exchange.collective.mesh_axis
    assert name is not None
    return mesh.axis(name)


def place_of(op: Operation) -> str:
    """The op as errors name it."""
    return f"{op.name} at '{op.path.data if isinstance(op, PmcOp) else ''}'"


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


def _level_to_peer(op: Operation, peer: int, topology: Topology, mesh: Mesh) -> LinkLevel:
    """The slowest level over all pairs of a rank of this stage and its partner in stage `peer`."""
    stage = op.parent_op()
    while isinstance(stage, Operation) and not isinstance(stage, dist.StageOp | tile.StageOp | g5.StageOp):
        stage = stage.parent_op()
    if stage is None:
        raise PmcError(f"{place_of(op)}: a send stands outside of any stage")
    axis = mesh.axis(dist.PIPELINE)
    here = stage.index.value.data
    pairs = [(group[here], group[peer]) for group in {axis.group(rank) for rank in range(mesh.ranks)}]
    return slowest(topology.link_of_span(pair) for pair in pairs)


def slowest(levels: Iterable[LinkLevel]) -> LinkLevel:
    """The slowest of some levels."""
    return LEVELS[max(LEVELS.index(level) for level in levels)]
