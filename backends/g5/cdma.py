"""The CDMA engines of all chips of a group, in time: a collective by the steps of its algorithm.

A chip deals its messages out to its engines, parts of them where there are fewer messages than engines.  An engine has
`threads_per_engine` commands at work at a time, each of which begins with `startup_us`; their bytes leave one after the
other at the rate of the engine, of the ports of the chip and of every link on the way.  A command needs one of the
`credit_queue_depth` credits of its engine, which comes back when the receiver has said that all has arrived.  The next
round of a rank begins when what it sends has left and what it receives is there, and `sync_us` later.

Ranks that do the same are simulated once: of the groups of a mesh axis one for each way in which its ranks sit on the
boards, together with the groups that share links with it.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass, field
from functools import partial
from math import ceil

import numpy as np

from pmc.backends.cost.network import Network, Transfer
from pmc.backends.cost.protocol import CommProtocol
from pmc.backends.g5.clock import ROUNDING
from pmc.backends.g5.events import EventQueue
from pmc.backends.g5.links import LinkName, Links, Route
from pmc.dialects.arch import Chip
from pmc.dialects.collective import CombineAttr, DispatchAttr, Phase, SendAttr
from pmc.dialects.deployment import Histogram, Routing
from pmc.dialects.errors import PmcError

NONE = -1

STARTING, ENGINE, LINK, PORTS = "cdma start", "cdma", "link", "c2c ports"
ACTIVITIES = (STARTING, ENGINE, LINK, PORTS)
"""What commands spend their time with: start-ups and synchronisation, their engine, links, the ports of the chip."""


@dataclass(frozen=True)
class Message:
    """What one chip sends to another in one round."""

    source: int
    target: int
    size: int
    """Bytes."""
    phase: Phase


Rounds = Sequence[Sequence[Message]]
"""The messages of every round.  A chip begins a round when its part of the one before is done."""


@dataclass
class Sent:
    """A command of an engine: a message, or a part of one.  Times in picoseconds."""

    source: int
    target: int
    engine: int
    size: int
    round: int
    start_ps: int = 0
    left_ps: int = 0
    """When its last byte has left."""
    arrived_ps: int = 0
    limit: str = ENGINE
    """What it left with."""
    cause: int = NONE
    """The command that let it start, as its place in the list; NONE for the beginning."""


@dataclass(frozen=True)
class ExchangeTimes:
    """A collective, simulated on one group of ranks or on several."""

    sent: tuple[Sent, ...]
    duration_ps: int
    critical_ps: dict[str, int]
    """What the way back from the last arrival spends its time with; adds up to the duration."""


@dataclass
class _Engine:
    waiting: deque[int] = field(default_factory=deque[int])
    at_work: int = 0
    unanswered: int = 0
    """Commands whose credit has not come back."""
    free_ps: int = 0
    let: int = NONE
    """The command that gave back a thread or a credit last."""


@dataclass
class _Chip:
    round: int = 0
    begun: bool = False
    """Whether it is at work on that round."""
    to_leave: int = 0
    arrived: dict[int, int] = field(default_factory=dict[int, int])
    """Of every round how many commands have arrived here."""


def simulate_exchange(rounds: Rounds, chip: Chip, links: Links, protocol: CommProtocol) -> ExchangeTimes:
    """Run the messages of a collective.  `protocol` says how long a message is on its way besides its bytes."""
    return _Exchange(rounds, chip, links, protocol).run()


def expert_loads(transfer: Transfer, routing: Routing | None) -> tuple[float, ...]:
    """Of every rank of a group the rows of its experts over the mean, where a histogram says so; else nothing.

    Raises PmcError for a histogram whose experts do not fall evenly on the ranks.
    """
    if not isinstance(routing, Histogram) or not isinstance(transfer.exchange.collective, DispatchAttr | CombineAttr):
        return ()
    rows, ranks = np.asarray(routing.histogram, np.float64), transfer.axis.size
    if len(rows) % ranks:
        raise PmcError(f"routing.histogram has {len(rows)} experts, which {ranks} ranks cannot share evenly")
    of_ranks = rows.reshape(ranks, -1).sum(axis=1)
    return tuple(float(load) for load in of_ranks / of_ranks.mean())


def rounds_of(transfer: Transfer, network: Network, loads: Sequence[float] = ()) -> list[list[Message]]:
    """The messages of a transfer, of the ranks that have to be simulated.  The steps of an exchange are one round.

    With `loads` the experts of a rank get or give so many times the mean of the rows.
    """
    axis, collective = transfer.axis, transfer.exchange.collective
    groups = _representatives({axis.group(rank) for rank in range(network.mesh.ranks)}, network)
    rounds: list[list[Message]] = []
    for step in transfer.steps:
        messages: list[Message] = []
        for group in groups:
            for member, rank in enumerate(group):
                if isinstance(collective, SendAttr) and member != transfer.stage:
                    continue
                size, peers = step.bytes.constant, len(step.peers)
                for index, distance in enumerate(step.peers):
                    part = size * (index + 1) // peers - size * index // peers
                    peer = step.peer(member, distance)
                    if loads:
                        # What goes from node to node is for all ranks of the node.
                        first = (member if isinstance(collective, CombineAttr) else peer) // step.stride * step.stride
                        part = ceil(part * sum(loads[first : first + step.stride]) / step.stride)
                    messages.append(Message(rank, group[peer], part, step.phase))
        if step.phase is Phase.EXCHANGE and rounds:
            rounds[0] += messages
        else:
            rounds += [messages] * step.rounds
    return rounds


def _representatives(groups: Iterable[tuple[int, ...]], network: Network) -> list[tuple[int, ...]]:
    """One group for each way of sitting on boards, racks and pods; all where a ring of a board carries for others."""
    found: dict[object, tuple[int, ...]] = {}
    for group in sorted(groups):
        places = tuple(tuple(rank // span - group[0] // span for span in network.spans) for rank in group)
        shared = network.topology.board_wiring == "ring"
        found.setdefault((places, group if shared else None), group)
    return list(found.values())


def _ps(seconds: float) -> int:
    return ceil(seconds * 1e12 - ROUNDING)


class _Exchange:
    def __init__(self, rounds: Rounds, chip: Chip, links: Links, protocol: CommProtocol) -> None:
        cdma = chip.commands.cdma
        self.cdma, self.links, self.protocol = cdma, links, protocol
        self.engines_per_chip = chip.dies * cdma.engines_per_die
        self.startup_ps, self.sync_ps = _ps(cdma.startup_us * 1e-6), _ps(cdma.sync_us * 1e-6)
        self.rounds = len(rounds)
        self.sent: list[Sent] = []
        self.phase: list[Phase] = []
        self.own: dict[tuple[int, int], list[int]] = {}
        """By round and chip the commands that it gives."""
        self.due: dict[tuple[int, int], int] = {}
        """By round and chip how many commands arrive there."""
        for number, messages in enumerate(rounds):
            self._deal(number, messages)
        chips = sorted({chip for _, chip in (*self.own, *self.due)})
        self.chips = {number: _Chip() for number in chips}
        self.engines = {(number, e): _Engine() for number in chips for e in range(self.engines_per_chip)}
        self.free: dict[LinkName, int] = {}
        self.events: EventQueue[Callable[[int], None]] = EventQueue()
        self.done_ps, self.last = 0, NONE

    def _deal(self, number: int, messages: Iterable[Message]) -> None:
        """Deal the messages of a round out to the engines of their chips."""
        by_chip: dict[int, list[Message]] = {}
        for message in messages:
            if message.size:
                by_chip.setdefault(message.source, []).append(message)
        for source, own in by_chip.items():
            pieces = max(1, self.engines_per_chip // len(own))
            for index, message in enumerate(own):
                for piece in range(pieces):
                    size = (message.size * (piece + 1)) // pieces - (message.size * piece) // pieces
                    if size:
                        engine = (index * pieces + piece) % self.engines_per_chip
                        self.own.setdefault((number, source), []).append(len(self.sent))
                        self.due[number, message.target] = self.due.get((number, message.target), 0) + 1
                        self.sent.append(Sent(source, message.target, engine, size, number))
                        self.phase.append(message.phase)

    def run(self) -> ExchangeTimes:
        fetch_ps = _ps(self.links.topology.cpu_fetch_us * 1e-6) if Phase.EXCHANGE in self.phase else 0
        for chip in self.chips:
            self._begin_round(chip, NONE, fetch_ps)
        while self.events:
            time_ps, happen = self.events.next()
            happen(time_ps)
        duration = self.done_ps + self.sync_ps if self.sent else 0
        return ExchangeTimes(tuple(self.sent), duration, self._critical(duration))

    def _begin_round(self, number: int, cause: int, time_ps: int) -> None:
        """Give the commands of the round that a chip is in; skip the rounds in which it has nothing to do."""
        chip = self.chips[number]
        while chip.round < self.rounds:
            own = self.own.get((chip.round, number), [])
            chip.to_leave = len(own)
            for command in own:
                self.sent[command].cause = cause
                engine = self.engines[number, self.sent[command].engine]
                engine.waiting.append(command)
            for index in range(self.engines_per_chip):
                self._take(number, index, time_ps, NONE)
            if own or self.due.get((chip.round, number), 0) > chip.arrived.get(chip.round, 0):
                chip.begun = True
                return
            chip.round += 1

    def _take(self, number: int, index: int, time_ps: int, cause: int) -> None:
        """Let an engine take what it has threads and credits for."""
        engine = self.engines[number, index]
        threads, credits = self.cdma.threads_per_engine, self.cdma.credit_queue_depth
        while engine.waiting and engine.at_work < threads and engine.unanswered < credits:
            command = engine.waiting.popleft()
            engine.at_work += 1
            engine.unanswered += 1
            sent = self.sent[command]
            sent.start_ps = time_ps
            if cause != NONE:
                sent.cause = cause
            self.events.add(time_ps + self.startup_ps, self._place(number, index), partial(self._send, command))

    def _place(self, number: int, index: int) -> int:
        return number * self.engines_per_chip + index

    def _send(self, command: int, time_ps: int) -> None:
        """Send the bytes of a command after what came before on its engine, the ports and every link."""
        sent = self.sent[command]
        engine, route = self.engines[sent.source, sent.engine], self.links.route(sent.source, sent.target)
        engine.free_ps = max(engine.free_ps, time_ps) + _ps(sent.size / (self.cdma.gb_per_s_per_engine * 1e9))
        left, limit = engine.free_ps, ENGINE
        for link, bytes_per_s in route.links:
            served = max(self.free.get(link, 0), time_ps) + _ps(sent.size / bytes_per_s)
            self.free[link] = served
            if served > left:
                left, limit = served, PORTS if link[0] == "ports" else LINK
        sent.left_ps, sent.limit = left, limit
        sent.arrived_ps = left + self._way_ps(route, self.phase[command])
        answered = sent.arrived_ps + _ps(self.links.topology.link(route.load.level).latency_us * 1e-6)
        place = self._place(sent.source, sent.engine)
        self.events.add(left, place, partial(self._leave, command))
        self.events.add(sent.arrived_ps, place, partial(self._arrive, command))
        self.events.add(answered, place, partial(self._answer, command))

    def _way_ps(self, route: Route, phase: Phase) -> int:
        return _ps(self.protocol.message_us(route.load, phase) * 1e-6)

    def _leave(self, command: int, time_ps: int) -> None:
        sent = self.sent[command]
        self.engines[sent.source, sent.engine].at_work -= 1
        self._take(sent.source, sent.engine, time_ps, command)
        chip = self.chips[sent.source]
        chip.to_leave -= 1
        self._go_on(sent.source, time_ps, command)

    def _arrive(self, command: int, time_ps: int) -> None:
        sent = self.sent[command]
        chip = self.chips[sent.target]
        chip.arrived[sent.round] = chip.arrived.get(sent.round, 0) + 1
        if time_ps > self.done_ps:
            self.done_ps, self.last = time_ps, command
        self._go_on(sent.target, time_ps, command)

    def _answer(self, command: int, time_ps: int) -> None:
        sent = self.sent[command]
        self.engines[sent.source, sent.engine].unanswered -= 1
        self._take(sent.source, sent.engine, time_ps, command)

    def _go_on(self, number: int, time_ps: int, cause: int) -> None:
        """Begin the next round of a chip where it is done with this one."""
        chip = self.chips[number]
        due = self.due.get((chip.round, number), 0)
        if not chip.begun or chip.to_leave or chip.arrived.get(chip.round, 0) < due:
            return
        chip.round += 1
        chip.begun = False
        self.events.add(time_ps + self.sync_ps, self._place(number, 0), partial(self._begin_round, number, cause))

    def _critical(self, duration_ps: int) -> dict[str, int]:
        found: dict[str, int] = {}

        def charge(activity: str, ps: int) -> None:
            if ps > 0:
                found[activity] = found.get(activity, 0) + ps

        until, command = duration_ps, self.last
        while command != NONE:
            sent = self.sent[command]
            charge(STARTING, until - max(sent.arrived_ps, sent.left_ps) if until > sent.arrived_ps else 0)
            until = min(until, sent.arrived_ps)
            charge(LINK, until - sent.left_ps)
            until = min(until, sent.left_ps)
            charge(sent.limit, until - sent.start_ps - self.startup_ps)
            charge(STARTING, min(until - sent.start_ps, self.startup_ps))
            until, command = sent.start_ps, sent.cause
        charge(STARTING, until)
        return found
