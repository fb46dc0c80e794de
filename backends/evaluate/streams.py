"""The two streams of a rank: ops on the cores, and transfers to and from other ranks."""

from __future__ import annotations

from enum import Enum

from xdsl.ir import Operation

from pmc.dialects.collective import CollectiveAttr, ExchangeInterface, SendAttr


class Stream(Enum):
    """What an op occupies; ops of one stream run one after the other."""

    COMPUTE = "compute"
    COMMUNICATION = "communication"


def stream_of(op: Operation) -> Stream:
    """The stream of an op: what leaves the chip communicates, sends and receives too."""
    return stream_of_collective(op.exchange().collective if isinstance(op, ExchangeInterface) else None)


def stream_of_collective(collective: CollectiveAttr | None) -> Stream:
    """The stream of an op that does a collective, or of one that does none."""
    talks = collective is not None and collective.leaves_chip
    return Stream.COMMUNICATION if talks else Stream.COMPUTE


def is_send(op: Operation) -> bool:
    """Whether an op hands a value to another pipeline stage."""
    return isinstance(op, ExchangeInterface) and isinstance(op.exchange().collective, SendAttr)
