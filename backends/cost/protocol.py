"""The communication protocol: what a collective takes, latency and bandwidth apart.

Source: the DS_TPU protocol as published with Tier6-Model.  D is the value (all-reduce, reduce-scatter), one shard
(all-gather), or the rows that one rank sends (dispatch, combine); t(x) = x / (bandwidth * utilisation).
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from xdsl.ir import Operation

from pmc.backends.cost.model import Bindings, Number, Target, as_number, number
from pmc.backends.cost.network import level_of_rings, network_of, transfer_of
from pmc.dialects.accounting import Accounting
from pmc.dialects.analyses.collective_steps import Step
from pmc.dialects.arch import LinkLevel, Topology
from pmc.dialects.collective import (
    AllReduceAttr,
    CombineAttr,
    DispatchAttr,
    Exchange,
    FlatRingAttr,
    Phase,
    TwoLevelAttr,
)


@dataclass(frozen=True)
class CommTime:
    """The two terms of a transfer, in seconds."""

    latency_s: Number
    transfer_s: Number

    @property
    def total_s(self) -> Number:
        """Their sum."""
        return self.latency_s + self.transfer_s


class CommProtocol:
    """Times of collectives on one topology under one accounting."""

    def __init__(self, topology: Topology, accounting: Accounting) -> None:
        self.topology = topology
        self.accounting = accounting

    def transfer_s(self, volume: Number, level: LinkLevel) -> Number:
        """Seconds that `volume` bytes take on a link of `level`."""
        return volume / (self.topology.link(level).gb_per_s * 1e9 * self.topology.bandwidth_utilisation)

    def message_us(self, level: LinkLevel) -> float:
        """The latency of a message: 2 link latencies, memory read and write, NoC, and a die crossing at either end."""
        t = self.topology
        link = t.link(level) if self.accounting.link_latency == "spanned" else t.links.c2c
        return 2 * link.latency_us + t.memory_read_us + t.memory_write_us + t.noc_us + 2 * t.die_to_die_us

    def hop_us(self, level: LinkLevel) -> float:
        """Switch and cable, which a path that leaves the board passes."""
        return self.topology.switch_us + self.topology.cable_us if level != "c2c" else 0.0

    def rounds(self, volume: Number, rounds: int, level: LinkLevel) -> CommTime:
        """Messages one after the other that move `volume` in all: t(volume) + rounds (base + sync)."""
        latency_us = rounds * (self.message_us(level) + self.topology.sync_us)
        return CommTime(latency_us * 1e-6, self.transfer_s(volume, level))

    def flat_all_reduce(self, value: Number, ranks: int, level: LinkLevel) -> CommTime:
        """2 (n-1)/n D around a ring, as published with the latency of n-1 messages."""
        return self.rounds(2 * (ranks - 1) / ranks * value, ranks - 1, level)

    def two_level_all_reduce(self, value: Number, near: int, far: int, inner: LinkLevel, outer: LinkLevel) -> CommTime:
        """Three phases, as published: each moves the whole value, which is more than the steps of the algorithm do.

        Ring among g neighbours of 2 (g-1)/g D, ring among the n/g groups of 2 (n/g-1)/(n/g) D, broadcast of D to the
        neighbours.  `inner` is the level that g neighbours span, `outer` the level of the whole group.
        """
        across = self.rounds(2 * (far - 1) / far * value, far - 1, outer)
        phases = [
            self.rounds(2 * (near - 1) / near * value, near - 1, inner),
            CommTime(across.latency_s + (far - 1) * self.hop_us(outer) * 1e-6, across.transfer_s),
            self.rounds(value, near - 1, inner),
        ]
        if self.accounting.all_reduce_phases == "in_sequence":
            return CommTime(sum(p.latency_s for p in phases), sum(p.transfer_s for p in phases))
        return _longest(phases)

    def exchange(self, rows_bytes: Number, level: LinkLevel) -> CommTime:
        """Dispatch or combine: t(D) + base + 2 switch + 2 cable + the fetch of descriptors."""
        latency_us = self.message_us(level) + 2 * self.hop_us(level) + self.topology.cpu_fetch_us
        return CommTime(latency_us * 1e-6, self.transfer_s(rows_bytes, level))

    def send(self, value: Number, level: LinkLevel) -> CommTime:
        """One message from one rank to another: t(D) + base + switch + cable."""
        return CommTime((self.message_us(level) + self.hop_us(level)) * 1e-6, self.transfer_s(value, level))

    def time_of(self, op: Operation, target: Target, bindings: Bindings) -> CommTime | None:
        """The time of an op between chips; None for an op that stays on its chip.

        A group of one rank sends nothing and takes no time.  An all-reduce around rings takes what the protocol
        publishes for it, any other collective the sum of its steps.
        """
        transfer = transfer_of(op, target)
        if transfer is None:
            return None
        if transfer.ranks == 1:
            return CommTime(0.0, 0.0)
        mesh, topology = network_of(op, target)
        exchange, ranks, level = transfer.exchange, transfer.ranks, transfer.level
        match exchange.collective, exchange.algorithm:
            case AllReduceAttr(), FlatRingAttr():
                return self.flat_all_reduce(number(exchange.whole_bytes(ranks), bindings), ranks, level)
            case AllReduceAttr(), TwoLevelAttr() as two_level:
                near, far = two_level.rings(ranks)
                inner = level_of_rings(topology, mesh, transfer.axis, near, 1)
                return self.two_level_all_reduce(number(exchange.whole_bytes(ranks), bindings), near, far, inner, level)
            case ((DispatchAttr() | CombineAttr()), _):
                return self.exchange(self._rows(exchange, ranks, bindings), level)
            case _:
                times = [self.step(step, transfer.level_of(step, topology, mesh), bindings) for step in transfer.steps]
                return CommTime(sum(t.latency_s for t in times), sum(t.transfer_s for t in times))

    def step(self, step: Step, level: LinkLevel, bindings: Bindings) -> CommTime:
        """The time of one step of a collective, over links of `level`."""
        volume = number(step.bytes * step.rounds, bindings)
        match step.phase:
            case Phase.MESSAGE:
                return self.send(volume, level)
            case Phase.EXCHANGE:
                return self.exchange(volume, level)
            case Phase.REDUCE_SCATTER | Phase.ALL_GATHER:
                return self.rounds(volume, step.rounds, level)

    def _rows(self, exchange: Exchange, ranks: int, bindings: Bindings) -> Number:
        """One row per token and choice; without those that stay on their rank, where the accounting says so."""
        remote = self.accounting.dispatch_rows == "remote"
        return number(exchange.link_bytes(ranks) if remote else exchange.whole_bytes(ranks), bindings)


def _longest(phases: Sequence[CommTime]) -> CommTime:
    """At every point the phase that takes longest."""
    totals = np.stack(np.broadcast_arrays(*(np.asarray(p.total_s, np.float64) for p in phases)))
    pick = np.argmax(totals, axis=0)[None]

    def of_longest(values: Sequence[Number]) -> Number:
        stacked = np.stack([np.broadcast_to(np.asarray(v, np.float64), totals.shape[1:]) for v in values])
        return as_number(np.take_along_axis(stacked, pick, axis=0)[0])

    return CommTime(of_longest([p.latency_s for p in phases]), of_longest([p.transfer_s for p in phases]))
