"""The communication protocol of DS_TPU, as published with Tier6-Model: what collectives take by its formulas.

D is the value (all-reduce, reduce-scatter), one shard (all-gather), or the rows of a rank (dispatch, combine);
t(x) = x / (bandwidth * utilisation), on the outermost level that the group spans; a message takes the latency of a link
on the board, wherever it goes.
"""

from __future__ import annotations

from pmc.backends.cost.comm_time import CommTime, longest
from pmc.backends.cost.model import Bindings, Number, number
from pmc.backends.cost.network import Network, Transfer, level_of_rings
from pmc.dialects.arch import LinkLevel, Topology
from pmc.dialects.collective import (
    AlgorithmAttr,
    AllReduceAttr,
    CombineAttr,
    DirectAttr,
    DispatchAttr,
    FlatRingAttr,
    Phase,
    TwoLevelAttr,
)


class PublishedProtocol:
    """The formulas on one topology."""

    def __init__(self, topology: Topology) -> None:
        self.topology = topology

    def algorithm(self, transfer: Transfer) -> AlgorithmAttr:
        """The algorithm of an open transfer: two levels for the sizes of an all-reduce that the topology lists."""
        inner = self.topology.inner_ring(transfer.ranks)
        if inner is None or not isinstance(transfer.exchange.collective, AllReduceAttr):
            return FlatRingAttr()
        return TwoLevelAttr.of(inner)

    def transfer_s(self, volume: Number, level: LinkLevel) -> Number:
        """Seconds that `volume` bytes take on a link of `level`."""
        return volume / (self.topology.link(level).gb_per_s * 1e9 * self.topology.bandwidth_utilisation)

    @property
    def message_us(self) -> float:
        """The latency of a message: 2 link latencies, memory read and write, NoC, and a die crossing at either end."""
        t = self.topology
        return 2 * t.links.c2c.latency_us + t.memory_read_us + t.memory_write_us + t.noc_us + 2 * t.die_to_die_us

    def hop_us(self, level: LinkLevel) -> float:
        """Switch and cable, which a path that leaves the board passes."""
        return self.topology.switch_us + self.topology.cable_us if level != "c2c" else 0.0

    def rounds(self, volume: Number, rounds: int, level: LinkLevel) -> CommTime:
        """Messages one after the other that move `volume` in all: t(volume) + rounds (base + sync)."""
        latency_us = rounds * (self.message_us + self.topology.sync_us)
        return CommTime(latency_us * 1e-6, self.transfer_s(volume, level))

    def flat_all_reduce(self, value: Number, ranks: int, level: LinkLevel) -> CommTime:
        """2 (n-1)/n D around a ring, with the latency of n-1 messages."""
        return self.rounds(2 * (ranks - 1) / ranks * value, ranks - 1, level)

    def two_level_all_reduce(self, value: Number, near: int, far: int, inner: LinkLevel, outer: LinkLevel) -> CommTime:
        """Three phases, of which the longest hides the others; together they move more than the steps of the algorithm.

        Ring among g neighbours of 2 (g-1)/g D, ring among the n/g groups of 2 (n/g-1)/(n/g) D, broadcast of D to the
        neighbours.  `inner` is the level that g neighbours span, `outer` the level of the whole group.
        """
        across = self.rounds(2 * (far - 1) / far * value, far - 1, outer)
        phases = [
            self.rounds(2 * (near - 1) / near * value, near - 1, inner),
            CommTime(across.latency_s + (far - 1) * self.hop_us(outer) * 1e-6, across.transfer_s),
            self.rounds(value, near - 1, inner),
        ]
        return longest(phases)

    def exchange(self, rows_bytes: Number, level: LinkLevel) -> CommTime:
        """Dispatch or combine of all rows: t(D) + base + 2 switch + 2 cable + the fetch of descriptors."""
        latency_us = self.message_us + 2 * self.hop_us(level) + self.topology.cpu_fetch_us
        return CommTime(latency_us * 1e-6, self.transfer_s(rows_bytes, level))

    def send(self, value: Number, level: LinkLevel) -> CommTime:
        """One message from one rank to another: t(D) + base + switch + cable."""
        return CommTime((self.message_us + self.hop_us(level)) * 1e-6, self.transfer_s(value, level))

    def time(self, transfer: Transfer, network: Network, bindings: Bindings) -> CommTime:
        """What a transfer among more than one rank takes; what the protocol does not publish, the sum of its steps."""
        if transfer.exchange.is_open:
            transfer = transfer.by(self.algorithm(transfer))
        exchange, ranks, level = transfer.exchange, transfer.ranks, transfer.level
        match exchange.collective, exchange.algorithm:
            case AllReduceAttr(), FlatRingAttr():
                time = self.flat_all_reduce(number(exchange.whole_bytes(ranks), bindings), ranks, level)
            case AllReduceAttr(), TwoLevelAttr() as two_level:
                near, far = (tier.size for tier in two_level.tiers(ranks))
                inner = level_of_rings(self.topology, network.mesh, transfer.axis, near, 1)
                value = number(exchange.whole_bytes(ranks), bindings)
                time = self.two_level_all_reduce(value, near, far, inner, level)
            case ((DispatchAttr() | CombineAttr()), DirectAttr()):
                time = self.exchange(number(exchange.whole_bytes(ranks), bindings), level)
            case _:
                time = CommTime(0.0, 0.0)
                for step in transfer.steps:
                    within = level
                    if step.size != transfer.axis.size:
                        within = level_of_rings(self.topology, network.mesh, transfer.axis, step.size, step.stride)
                    volume = number(step.bytes * step.rounds, bindings)
                    match step.phase:
                        case Phase.MESSAGE:
                            time += self.send(volume, within)
                        case Phase.EXCHANGE:
                            time += self.exchange(volume, within)
                        case _:
                            time += self.rounds(volume, step.rounds, within)
        return time.sending(number(transfer.link_bytes, bindings))
