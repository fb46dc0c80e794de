"""The two streams of a rank: ops on the cores, and transfers to and from other ranks."""

from __future__ import annotations

from enum import Enum

from xdsl.ir import Operation

from pmc.dialects import dist


class Stream(Enum):
    """What an op occupies; ops of one stream run one after the other."""

    COMPUTE = "compute"
    COMMUNICATION = "communication"


def stream_of(op: Operation) -> Stream:
    """The stream of an op: collectives, sends and receives communicate, a local slice does not."""
    if isinstance(op, dist.LocalSliceOp):
        return Stream.COMPUTE
    talks = isinstance(op, dist.CollectiveOp | dist.PointToPointOp)
    return Stream.COMMUNICATION if talks else Stream.COMPUTE
