"""What a collective takes: latency and bandwidth apart, and the bytes of one rank."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace

import numpy as np

from pmc.backends.cost.model import Number, as_number
from pmc.dialects.interfaces import FloatArray, IntArray


@dataclass(frozen=True)
class CommTime:
    """The two terms of a transfer, in seconds."""

    latency_s: Number
    transfer_s: Number
    link_bytes: Number = 0.0
    """Bytes that one rank sends."""

    @property
    def total_s(self) -> Number:
        """Their sum."""
        return self.latency_s + self.transfer_s

    def __add__(self, other: CommTime) -> CommTime:
        """One after the other."""
        return CommTime(
            self.latency_s + other.latency_s, self.transfer_s + other.transfer_s, self.link_bytes + other.link_bytes
        )

    def sending(self, link_bytes: Number) -> CommTime:
        """The same times with the bytes that one rank sends."""
        return replace(self, link_bytes=link_bytes)


def longest(times: Sequence[CommTime]) -> CommTime:
    """At every point the one that takes longest; of equals the first."""
    return _picked(times, np.argmax(_totals(times), axis=0))


def shortest(times: Sequence[CommTime]) -> CommTime:
    """At every point the one that takes least; of equals the first."""
    return times[0] if len(times) == 1 else _picked(times, np.argmin(_totals(times), axis=0))


def _totals(times: Sequence[CommTime]) -> FloatArray:
    return np.stack(np.broadcast_arrays(*(np.asarray(t.total_s, np.float64) for t in times)))


def _picked(times: Sequence[CommTime], index: IntArray) -> CommTime:
    def of(values: Sequence[Number]) -> Number:
        stacked = np.stack([np.broadcast_to(np.asarray(v, np.float64), np.shape(index)) for v in values])
        return as_number(np.take_along_axis(stacked, np.asarray(index)[None], axis=0)[0])

    return CommTime(
        of([t.latency_s for t in times]), of([t.transfer_s for t in times]), of([t.link_bytes for t in times])
    )
