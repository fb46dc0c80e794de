"""The communication protocol: what a collective takes under an accounting.

With `collectives: steps` a collective takes what its steps ask of the links.  A message has the latency of the links
that it crosses, with a switch and a cable where it leaves the board; ranks go from round to round in step, so that
the slowest message decides.  By which algorithm an open collective goes is the fastest of those that its links allow:

    all_reduce of D bytes among n ranks on one board, a message of latency a, bandwidth b:
    flat ring   2 (n-1) a + 2 (n-1)/n D/b      direct   2 a + 2 (n-1)/n D/b      one shot   a + (n-1) D/b
    two levels, g ranks on each board (latency A, bandwidth B between boards), rings on both:
                2 (g-1) a + 2 (g-1)/g D/b + 2 (n/g-1) A + 2 (n/g-1)/(n/g) D/g / B

(Thakur, Rabenseifner and Gropp, 2005.)  A reduce-scatter or an all-gather is half of a flat ring, direct or two levels,
so that an all-reduce never takes longer than both together.
"""

from __future__ import annotations

from typing import ClassVar

from xdsl.ir import Operation

from pmc.backends.cost.comm_time import CommTime, shortest
from pmc.backends.cost.model import Bindings, Target, number
from pmc.backends.cost.network import LEVELS, Load, Network, Transfer, network_of, transfer_of
from pmc.backends.cost.published_protocol import PublishedProtocol
from pmc.dialects.accounting import Accounting
from pmc.dialects.arch import Topology
from pmc.dialects.collective import AlgorithmAttr, Phase


class CommProtocol:
    """Times of collectives on one topology under one accounting."""

    CHOICE_PARAMETERS: ClassVar[tuple[str, ...]] = (
        "pods", "racks_per_pod", "boards_per_rack", "chips_per_board", "board_wiring",
        *(f"links.{level}.{field}" for level in LEVELS for field in ("gb_per_s", "latency_us")),
        "bandwidth_utilisation", "sync_us", "switch_us", "cable_us", "memory_read_us", "memory_write_us", "noc_us",
        "die_to_die_us", "two_level_all_reduce",
    )  # fmt: skip
    """The topology fields that say which algorithm is the fastest."""

    def __init__(self, topology: Topology, accounting: Accounting) -> None:
        self.topology = topology
        self.published = PublishedProtocol(topology) if accounting.collectives == "published" else None

    def time_of(self, op: Operation, target: Target, bindings: Bindings) -> CommTime | None:
        """The time of an op between chips; None for an op that stays on its chip.

        A group of one rank sends nothing and takes no time.  While the algorithm is open, every point of a sweep takes
        the fastest.
        """
        transfer = transfer_of(op, target)
        if transfer is None:
            return None
        if transfer.ranks == 1:
            return CommTime(0.0, 0.0)
        network = network_of(op, target)
        if self.published is not None:
            return self.published.time(transfer, network, bindings)
        return shortest([self.time(way, network, bindings) for way in network.ways(transfer)])

    def algorithm_of(self, op: Operation, target: Target, bindings: Bindings) -> AlgorithmAttr | None:
        """The algorithm that an op takes at one point; None where there is nothing to choose."""
        transfer = transfer_of(op, target)
        if transfer is None or not transfer.exchange.is_open or transfer.ranks == 1:
            return None if transfer is None else transfer.exchange.algorithm
        if self.published is not None:
            return self.published.algorithm(transfer)
        network = network_of(op, target)
        fastest = min(network.ways(transfer), key=lambda way: float(self.time(way, network, bindings).total_s))
        return fastest.exchange.algorithm

    def time(self, transfer: Transfer, network: Network, bindings: Bindings) -> CommTime:
        """The time of a transfer by its steps."""
        latency_us = sum(
            step.rounds * max(self.message_us(load, step.phase) for load in network.loads(transfer, step))
            for step in transfer.steps
        )
        if transfer.exchange.collective.PHASES == (Phase.EXCHANGE,):
            latency_us += self.topology.cpu_fetch_us
        transfer_s = network.wire_s(transfer, bindings) / self.topology.bandwidth_utilisation
        return CommTime(latency_us * 1e-6, transfer_s, number(transfer.link_bytes, bindings))

    def message_us(self, load: Load, phase: Phase) -> float:
        """The latency of a message over links of one level.

        2 link latencies, memory read and write, NoC, a die crossing at either end, and another link latency for every
        further link of a board; a switch and a cable where it leaves the board, two of both in a dispatch or combine;
        the synchronisation of a step where ranks go on together.
        """
        t = self.topology
        link_us = t.link(load.level).latency_us
        base_us = (load.hops + 1) * link_us + t.memory_read_us + t.memory_write_us + t.noc_us + 2 * t.die_to_die_us
        hop_us = t.switch_us + t.cable_us if load.level != "c2c" else 0.0
        match phase:
            case Phase.MESSAGE:
                return base_us + hop_us
            case Phase.EXCHANGE:
                return base_us + 2 * hop_us
            case _:
                return base_us + hop_us + t.sync_us
