"""The event queue: what happens next, by time, then priority, then the order of scheduling.  It knows no hardware."""

from __future__ import annotations

from heapq import heappop, heappush
from typing import Generic, TypeVar

T = TypeVar("T")


class EventQueue(Generic[T]):
    """Events that come out in the order of (time, priority, sequence)."""

    def __init__(self) -> None:
        self._heap: list[tuple[int, int, int, T]] = []
        self._sequence = 0

    def add(self, time_ps: int, priority: int, what: T) -> None:
        """Let `what` happen at `time_ps`; at equal times the lower priority comes first."""
        heappush(self._heap, (time_ps, priority, self._sequence, what))
        self._sequence += 1

    def next(self) -> tuple[int, T]:
        """Take out the first event and its time."""
        time_ps, _, _, what = heappop(self._heap)
        return time_ps, what

    def __bool__(self) -> bool:
        return bool(self._heap)
