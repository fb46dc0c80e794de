"""Where the ranks of a collective sit, and what it puts on the links.

A level of the network is a set of links: chip to chip on a board, then one link of every chip to a switch of its rack,
pod or installation.  A message takes links of the one level that sender and receiver span.  `gb_per_s` of a level is
what a chip sends over all its links of that level.  Off the board that is one link.  On a board the wiring says
(`Topology.board_wiring`): one link to a switch, one to either neighbour of a ring with half of it, or one to each of
the others with an equal part.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, replace
from functools import lru_cache
from math import lcm, prod
from typing import get_args

import numpy as np
from xdsl.ir import Operation

from pmc.backends.cost.model import Bindings, Number, Target, larger, number
from pmc.dialects.analyses.collective_steps import Step, collective_steps
from pmc.dialects.arch import LinkLevel, Topology
from pmc.dialects.assembly import PmcOp
from pmc.dialects.collective import (
    DIRECTIONS,
    AlgorithmAttr,
    DirectAttr,
    Exchange,
    ExchangeInterface,
    FlatRingAttr,
    OneShotAttr,
    Phase,
    SendAttr,
    TwoLevelAttr,
)
from pmc.dialects.dist import Axis, Mesh
from pmc.dialects.errors import PmcError
from pmc.dialects.expr import Expr
from pmc.dialects.interfaces import FloatArray, IntArray
from pmc.dialects.structure import AnyStageOp

LEVELS: tuple[LinkLevel, ...] = get_args(LinkLevel)
"""Network levels from the inside out."""


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
    """The outermost level that any group of the mesh axis spans."""

    @property
    def steps(self) -> tuple[Step, ...]:
        """Who sends to whom along the axis.  Raises VerifyException while the algorithm is open."""
        return collective_steps(self.exchange, self.axis.size, self.stage)

    def by(self, algorithm: AlgorithmAttr) -> Transfer:
        """The same done by another algorithm."""
        return replace(self, exchange=self.exchange.by(algorithm))

    @property
    def link_bytes(self) -> Expr:
        """Bytes that one rank sends."""
        return self.exchange.link_bytes(self.ranks)


@dataclass(frozen=True)
class Load:
    """What one step puts on the links of one level."""

    level: LinkLevel
    share: float
    """Of the bytes that a rank sends in the step, what the busiest link carries, over the part of the level's
    bandwidth that this link has: the bytes times `share` take the time of the level's whole bandwidth."""
    hops: int
    """The most links of a board that a message crosses, 1 off the board."""


class Network:
    """The links between the ranks of a mesh.  What a step puts on them is found once, for all meshes of a topology."""

    def __init__(self, topology: Topology, mesh: Mesh) -> None:
        self.topology = topology
        self.mesh = mesh
        self._loads = _known_loads(topology)
        self.spans = spans_of(topology)

    def ways(self, transfer: Transfer) -> tuple[Transfer, ...]:
        """A transfer by every algorithm that its links allow while it is open, else as it is.

        The inner groups of two levels are the members of the group on one board, in one rack or in one pod.
        """
        exchange = transfer.exchange
        if not exchange.is_open:
            return (transfer,)
        flat = (FlatRingAttr(), DirectAttr(), OneShotAttr())
        two = (TwoLevelAttr.of(inner, direct) for inner in self.inner_sizes(transfer.axis) for direct in DIRECTIONS)
        return tuple(transfer.by(a) for a in (*flat, *two) if exchange.collective.can_go_by(a))

    def inner_sizes(self, axis: Axis) -> Iterator[int]:
        """Into how many neighbours on a board, in a rack or in a pod the groups of an axis fall apart evenly."""
        group, found = np.asarray(axis.group(0)), set[int]()
        for level, span in zip(LEVELS, self.spans, strict=True):
            inner = int(np.count_nonzero(group // span == 0))
            fits = 1 < inner < axis.size and axis.size % inner == 0 and inner not in found
            if fits and LEVELS.index(level_of_rings(self.topology, self.mesh, axis, inner, 1)) <= LEVELS.index(level):
                found.add(inner)
                yield inner

    def wire_s(self, transfer: Transfer, bindings: Bindings) -> Number:
        """The time that the bytes of a transfer take on the links, at full bandwidth and without latency.

        Rounds of a ring, and phases, follow each other; each takes what its busiest link needs.  A round in which a
        rank sends to many over several levels is charged as though all of it crossed each of them, so that ranks
        further out never make a group faster.  The steps of a dispatch or combine run at the same time: the busiest
        level decides, or the ports of a chip, which carry no more than the fastest of these levels.
        """
        if transfer.exchange.collective.PHASES == (Phase.EXCHANGE,):
            return self._stream_s(transfer, bindings)
        total: Number = 0.0
        for step in transfer.steps:
            loads = self.loads(transfer, step)
            many = len(loads) > 1 and len(step.peers) > 2
            slowest = max((max(load.share, 1.0) if many else load.share) / self._rate(load.level) for load in loads)
            total = total + number(step.bytes * step.rounds, bindings) * slowest
        return total

    def _stream_s(self, transfer: Transfer, bindings: Bindings) -> Number:
        busy: dict[LinkLevel, Number] = {}
        sent: Number = 0.0
        for step in transfer.steps:
            volume = number(step.bytes * step.rounds, bindings)
            sent = sent + volume
            for load in self.loads(transfer, step):
                busy[load.level] = busy.get(load.level, 0.0) + volume * load.share / self._rate(load.level)
        ports = sent / max(map(self._rate, busy)) if busy else 0.0
        return larger(ports, *busy.values())

    def _rate(self, level: LinkLevel) -> float:
        return self.topology.link(level).gb_per_s * 1e9

    def loads(self, transfer: Transfer, step: Step) -> tuple[Load, ...]:
        """What a step of a transfer puts on the links, from the inside out."""
        sends = isinstance(transfer.exchange.collective, SendAttr)
        stage = transfer.stage if sends else None
        axis = transfer.axis
        ranks = pattern_ranks(self.topology, self.mesh.ranks, axis)
        key = (ranks, axis.size, axis.stride, step.size, step.stride, step.peers, stage)
        if key not in self._loads:
            self._loads[key] = tuple(self._find_loads(np.arange(ranks), axis, step, stage))
        return self._loads[key]

    def _find_loads(self, ranks: IntArray, axis: Axis, step: Step, stage: int | None) -> Iterator[Load]:
        member = ranks // axis.stride % axis.size
        if stage is not None:
            ranks, member = ranks[member == stage], member[member == stage]
        place = member // step.stride % step.size
        reach = step.stride * axis.stride
        board = self._board_load(ranks, ranks - place * reach, place, reach, step)
        if board is not None:
            yield board
        if len(step.peers) == step.size - 1 and len(step.peers) > 2:
            # Each with each: of the other members of a ring, those that a level is the first to hold.
            ring = ranks - place * reach
            inside = _members(ring, ranks // self.spans[0])
            for level, span in zip(LEVELS[1:], self.spans[1:], strict=True):
                within = _members(ring, ranks // span)
                if (within > inside).any():
                    yield Load(level, float((within - inside).max()) / (step.size - 1), 1)
                inside = within
            return
        out: dict[LinkLevel, FloatArray] = {level: np.zeros(len(ranks)) for level in LEVELS}
        for distance in step.peers:
            peer = ranks + ((place + distance) % step.size - place) * reach
            inside = ranks // self.spans[0] == peer // self.spans[0]
            for level, span in zip(LEVELS[1:], self.spans[1:], strict=True):
                within = ranks // span == peer // span
                out[level] += (within & ~inside) / len(step.peers)
                inside = within
        yield from (Load(level, float(part.max()), 1) for level, part in out.items() if part.any())

    def _board_load(self, ranks: IntArray, ring: IntArray, place: IntArray, reach: int, step: Step) -> Load | None:
        """What stays on boards; `ring` tells the groups of a step apart."""
        chips, wiring = self.topology.chips_per_board, self.topology.board_wiring
        # What goes from a chip over its link to the chip so many places on (ring: 1 and the last), or to the switch.
        links: list[IntArray] = []
        parts: list[float] = []

        def put(on: IntArray, payload: float) -> None:
            links.append(on)
            parts.append(payload)

        peers, hops = np.asarray(step.peers) % step.size, 0
        # A peer is so many members on, or around the end of the ring.
        ways = {reach * (distance - around) % chips for distance in peers.tolist() for around in (0, step.size)}
        for ahead in sorted(ways - {0}):
            peer = ranks // chips * chips + (ranks % chips + ahead) % chips
            distance = (peer - ranks) // reach
            meets = (peer - ranks) % reach == 0
            meets &= (place + distance >= 0) & (place + distance < step.size)
            meets &= np.isin(distance % step.size, peers)
            senders = ranks[meets]
            if not len(senders):
                continue
            part = 1.0 / len(step.peers)
            match wiring:
                case "switch":
                    put(senders * chips, part)
                    hops = max(hops, 1)
                case "full_mesh":
                    put(senders * chips + ahead, part * (chips - 1))
                    hops = max(hops, 1)
                case "ring":
                    short = min(ahead, chips - ahead)
                    hops = max(hops, short)
                    directions = [1] if 2 * ahead < chips else [-1] if 2 * ahead > chips else [1, -1]
                    for way in directions:
                        for hop in range(short):
                            via = senders // chips * chips + (senders % chips + way * hop) % chips
                            put(via * chips + way % chips, part / len(directions) * min(2, chips - 1))
        if not hops:
            return None
        _, link = np.unique(np.concatenate(links), return_inverse=True)
        on_links = np.bincount(link, weights=np.repeat(parts, [len(on) for on in links]))
        return Load("c2c", float(on_links.max()), hops)


def _members(ring: IntArray, span: IntArray) -> IntArray:
    """For every rank the number of ranks of its ring in its span, itself included."""
    both = ring * (int(span.max()) + 1) + span
    _, inverse, counts = np.unique(both, return_inverse=True, return_counts=True)
    return np.asarray(counts[inverse.reshape(-1)])


@lru_cache(maxsize=16)
def spans_of(topology: Topology) -> tuple[int, ...]:
    """The chips that a level connects, from the inside out."""
    sizes = (topology.chips_per_board, topology.boards_per_rack, topology.racks_per_pod, topology.pods)
    return tuple(prod(sizes[: i + 1]) for i in range(len(sizes)))


@lru_cache(maxsize=16)
def _known_loads(topology: Topology) -> dict[object, tuple[Load, ...]]:
    """What steps put on the links, by the groups that take them."""
    return {}


@lru_cache(maxsize=1024)
def pattern_ranks(topology: Topology, ranks: int, axis: Axis) -> int:
    """The first of `ranks` ranks that show how the groups along an axis lie on boards, in racks and pods.

    Groups next to each other make up blocks of size * stride ranks.  Blocks that lie in one span each, as those of 8
    ranks on boards of 8 chips do, lie in all further ones alike; others repeat after the least common multiple of both.
    A number of ranks that does not end with such a repetition shows it no earlier than at the end.
    """
    block = repeats = axis.size * axis.stride
    for index, span in enumerate(spans_of(topology)):
        if index and spans_of(topology)[index - 1] % block == 0:
            break
        repeats = lcm(repeats, span)
    return repeats if ranks % repeats == 0 else ranks


@lru_cache(maxsize=1024)
def network(topology: Topology, mesh: Mesh) -> Network:
    """The network of the ranks of a mesh."""
    return Network(topology, mesh)


def transfer_of(op: Operation, target: Target) -> Transfer | None:
    """The transfer between chips that `op` starts, at any level; None for an op that stays on its chip or receives.

    Raises PmcError when the module names no mesh or no topology.
    """
    if not isinstance(op, ExchangeInterface):
        return None
    exchange = op.exchange()
    if not exchange.sends:
        return None
    found = network_of(op, target)
    mesh, topology = found.mesh, found.topology
    name = exchange.collective.mesh_axis
    assert name is not None
    axis, stage = mesh.axis(name), stage_around(op)
    if not isinstance(exchange.collective, SendAttr):
        return Transfer(exchange, axis, stage or 0, axis.size, level_of_rings(topology, mesh, axis, axis.size, 1))
    if stage is None:
        raise PmcError(f"{place_of(op)}: a send stands outside of any stage")
    level = _level_between(topology, mesh, axis, stage, exchange.collective.peer.value.data)
    return Transfer(exchange, axis, stage, 2, level)


def network_of(op: Operation, target: Target) -> Network:
    """The network that an op which leaves the chip needs.  Raises PmcError when the module has no mesh or topology."""
    if target.mesh is None or target.topology is None:
        missing = "dist.mesh" if target.mesh is None else "arch.topology"
        raise PmcError(f"{place_of(op)}: the module has no attribute '{missing}'")
    return network(target.topology, target.mesh)


def place_of(op: Operation) -> str:
    """The op as errors name it."""
    return f"{op.name} at '{op.path.data if isinstance(op, PmcOp) else ''}'"


@lru_cache(maxsize=1024)
def level_of_rings(topology: Topology, mesh: Mesh, axis: Axis, size: int, stride: int) -> LinkLevel:
    """The outermost level over all rings of `size` ranks that are `stride` places apart in the groups along `axis`."""
    ranks = np.arange(pattern_ranks(topology, mesh.ranks, axis))
    first = ranks[ranks // axis.stride % axis.size // stride % size == 0]
    return _outermost(topology, first, first + (size - 1) * stride * axis.stride)


def stage_around(op: Operation) -> int | None:
    """The pipeline stage that an op stands in, None in a program without stages."""
    parent = op.parent_op()
    while parent is not None and not isinstance(parent, AnyStageOp):
        parent = parent.parent_op()
    return None if parent is None else parent.index.value.data


@lru_cache(maxsize=1024)
def _level_between(topology: Topology, mesh: Mesh, axis: Axis, here: int, peer: int) -> LinkLevel:
    """The outermost level over all pairs of a rank of one stage and its partner in another."""
    ranks = np.arange(mesh.ranks)
    own = ranks[ranks // axis.stride % axis.size == here]
    there = own + (peer - here) * axis.stride
    return _outermost(topology, np.minimum(own, there), np.maximum(own, there))


def _outermost(topology: Topology, first: IntArray, last: IntArray) -> LinkLevel:
    """The outermost of the levels that connect pairs of ranks."""
    for level, span in zip(LEVELS, spans_of(topology), strict=True):
        if np.array_equal(first // span, last // span):
            return level
    raise PmcError(f"topology {topology.name} has {topology.chips} chips, rank {int(last.max())} is none of them")
