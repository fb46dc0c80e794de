"""Where the ranks of a collective sit, and what it puts on the links."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass
from functools import lru_cache
from typing import get_args

from xdsl.ir import Operation

from pmc.backends.cost.model import Target
from pmc.dialects.analyses.collective_steps import Step, collective_steps
from pmc.dialects.arch import LinkLevel, Topology
from pmc.dialects.assembly import PmcOp
from pmc.dialects.collective import Exchange, ExchangeInterface, SendAttr
from pmc.dialects.dist import Axis, Mesh
from pmc.dialects.errors import PmcError
from pmc.dialects.expr import Expr
from pmc.dialects.structure import AnyStageOp

LEVELS: tuple[LinkLevel, ...] = get_args(LinkLevel)
"""Network levels from fast to slow."""


@dataclass(frozen=True)
class Transfer:
    """What an op asks of the network."""

    exchange: Exchange
    axis: Axis
    stage: int
    """The pipeline stage that does it."""
    ranks: int
    """The size of the group, 2 for a transfer between two stages."""
    level: LinkLevel
    """The slowest level that any group of the mesh axis spans: the slowest group decides."""

    @property
    def steps(self) -> tuple[Step, ...]:
        """Who sends to whom along the axis."""
        return collective_steps(self.exchange, self.axis.size, self.stage)

    def level_of(self, step: Step, topology: Topology, mesh: Mesh) -> LinkLevel:
        """The slowest level that a ring of a step spans."""
        if step.size == self.axis.size:
            return self.level
        return level_of_rings(topology, mesh, self.axis, step.size, step.stride)

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
    name = exchange.collective.mesh_axis
    assert name is not None
    axis, stage = mesh.axis(name), _stage_around(op)
    if not isinstance(exchange.collective, SendAttr):
        return Transfer(exchange, axis, stage or 0, axis.size, level_of_rings(topology, mesh, axis, axis.size, 1))
    if stage is None:
        raise PmcError(f"{place_of(op)}: a send stands outside of any stage")
    level = _level_between(topology, mesh, axis, stage, exchange.collective.peer.value.data)
    return Transfer(exchange, axis, stage, 2, level)


def network_of(op: Operation, target: Target) -> tuple[Mesh, Topology]:
    """Mesh and topology, which an op that leaves the chip needs."""
    if target.mesh is None or target.topology is None:
        missing = "dist.mesh" if target.mesh is None else "arch.topology"
        raise PmcError(f"{place_of(op)}: the module has no attribute '{missing}'")
    return target.mesh, target.topology


def place_of(op: Operation) -> str:
    """The op as errors name it."""
    return f"{op.name} at '{op.path.data if isinstance(op, PmcOp) else ''}'"


@lru_cache(maxsize=256)
def level_of_rings(topology: Topology, mesh: Mesh, axis: Axis, size: int, stride: int) -> LinkLevel:
    """The slowest level over all rings of `size` ranks that are `stride` places apart in the groups along `axis`."""
    groups = {axis.group(rank) for rank in range(mesh.ranks)}
    reach = size * stride
    starts = [block + place for block in range(0, axis.size, reach) for place in range(stride)]
    return slowest(topology.link_of_span(group[i : i + reach : stride]) for group in groups for i in starts)


def _stage_around(op: Operation) -> int | None:
    """The pipeline stage that an op stands in, None in a program without stages."""
    parent = op.parent_op()
    while parent is not None and not isinstance(parent, AnyStageOp):
        parent = parent.parent_op()
    return None if parent is None else parent.index.value.data


def _level_between(topology: Topology, mesh: Mesh, axis: Axis, here: int, peer: int) -> LinkLevel:
    """The slowest level over all pairs of a rank of one stage and its partner in another."""
    pairs = [(group[here], group[peer]) for group in {axis.group(rank) for rank in range(mesh.ranks)}]
    return slowest(topology.link_of_span(pair) for pair in pairs)


def slowest(levels: Iterable[LinkLevel]) -> LinkLevel:
    """The slowest of some levels."""
    return LEVELS[max(LEVELS.index(level) for level in levels)]
