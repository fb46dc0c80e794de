"""Collectives taken apart into steps in which every rank of a group sends and receives.

`collective_steps` gives what link traffic, the communication protocol and a simulator need: who sends how many bytes to
whom, how often.  Ranks are numbered by their place in the group.  Repetition stays a count, so the number of steps does
not grow with the group:

    all_reduce of D bytes among 8 ranks in one ring: 7 rounds in which every rank sends D/8, half to either neighbour
                                                     and adds what comes, then 7 rounds of D/8 that gather the sums
    the same in two levels with inner rings of 4:    3 rounds of D/4 among neighbours, 1 round of D/8 between ranks in
                                                     the same place of the two inner rings, and the same way back

    the same in one shot:                            1 round in which every rank sends D to each of the others

(Thakur, Rabenseifner and Gropp, Optimization of Collective Communication Operations in MPICH, 2005.)  In two levels the
ranks reduce from the inside out and gather from the outside in, so that slow outer links carry 1/inner of the value.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass

from xdsl.utils.exceptions import VerifyException

from pmc.dialects.collective import CombineAttr, Exchange, PerNodeAttr, Phase, SendAttr
from pmc.dialects.expr import Expr, ceildiv


@dataclass(frozen=True)
class Step:
    """In each of `rounds` rounds every rank sends `bytes` to its peers, an equal part to each, and receives as many.

    A rank exchanges data with those of its ring: `size` ranks of the group, `stride` places apart.  The next round
    needs what this one has brought.
    """

    phase: Phase
    size: int
    stride: int
    rounds: int
    peers: Sequence[int]
    """How far in the ring the receivers are from the sender; a negative distance goes backwards."""
    bytes: Expr
    """What a rank sends in one round, whole bytes."""

    def place(self, member: int) -> int:
        """The place in its ring of a member of the group."""
        return member // self.stride % self.size

    def peer(self, member: int, distance: int) -> int:
        """The member of the group that is `distance` further in the ring of `member`."""
        there = (self.place(member) + distance) % self.size
        return member + (there - self.place(member)) * self.stride

    def part(self, member: int, distance: int, round_: int) -> int:
        """Which part of the value `member` sends to that peer in round `round_`, as the place that owns it.

        Of the n parts of the whole value these are all whose owner has that place in its own group and agrees with
        `member` in the places of the groups inside this one.  Only for `RING_PHASES`.
        """
        owner = self.place(member)
        if self.phase is Phase.REDUCE_SCATTER:
            # Around a ring the sum of a part starts behind its owner and arrives there in the last round.
            owner += distance if self.rounds == 1 else -distance * (1 + round_)
        elif self.rounds > 1:
            owner -= distance * round_
        return owner % self.size


def collective_steps(exchange: Exchange, ranks: int, stage: int = 0) -> tuple[Step, ...]:
    """The steps of `exchange` in a group of `ranks`, in order; none where nothing is sent.

    A send is one step among the `ranks` of the pipeline axis, of which only those of `stage` take part.  Raises
    VerifyException where the algorithm does not fit the group, or is still open.
    """
    if not exchange.sends or ranks == 1:
        return ()
    if exchange.is_open:
        raise VerifyException(f"{exchange.collective} has no algorithm yet: select-algorithms chooses one")
    return tuple(step for phase in exchange.phases for step in _steps(exchange, phase, ranks, stage))


def _steps(exchange: Exchange, phase: Phase, ranks: int, stage: int) -> Iterator[Step]:
    collective = exchange.collective
    match phase:
        case Phase.MESSAGE:
            distance = collective.peer.value.data - stage if isinstance(collective, SendAttr) else 1
            yield Step(phase, ranks, 1, 1, (distance,), exchange.whole_bytes(ranks))
        case Phase.EXCHANGE if isinstance(exchange.algorithm, PerNodeAttr):
            inner, outer = exchange.algorithm.tiers(ranks)
            crossing, inside = (exchange.copied_bytes(c) for c in (exchange.algorithm.nodes, exchange.algorithm.copies))
            across = Step(phase, outer.size, inner.size, 1, range(1, outer.size), crossing)
            within = Step(phase, inner.size, 1, 1, range(1, inner.size), inside)
            steps = (within, across) if isinstance(collective, CombineAttr) else (across, within)
            yield from (step for step in steps if step.size > 1)
        case Phase.EXCHANGE | Phase.BROADCAST:
            yield Step(phase, ranks, 1, 1, range(1, ranks), exchange.link_bytes(ranks))
        case Phase.REDUCE_SCATTER | Phase.ALL_GATHER:
            assert exchange.algorithm is not None
            stride, found = 1, list[Step]()
            for tier in exchange.algorithm.tiers(ranks):
                size = tier.size
                # The parts of all ranks further out go along.
                parts = exchange.whole_bytes(ranks) * (ranks // (size * stride))
                if tier.direct:
                    sent = ceildiv(parts * (size - 1), ranks)
                    found.append(Step(phase, size, stride, 1, range(1, size), sent))
                else:
                    ways = (1, -1) if size > 2 else (1,)
                    found.append(Step(phase, size, stride, size - 1, ways, ceildiv(parts, ranks)))
                stride *= size
            yield from found if phase is Phase.REDUCE_SCATTER else reversed(found)
