"""Are the waits of a command stream enough?  A check of one core by what must have happened before, not by luck.

Engines of a core run independently; only their own order and the waits of their commands relate them.  For every
command the check keeps which commands of each engine must have finished before it starts (a vector clock).  A read of
bytes whose last writer is not among these, and a write of bytes whose last writer or whose readers are not, is a race;
a read of bytes that nobody wrote is an error as well.
"""

from __future__ import annotations

from bisect import bisect_left
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from functools import cached_property

import numpy as np
import numpy.typing as npt

from pmc.dialects.g5 import ENGINES


@dataclass(frozen=True)
class Access:
    """Bytes of LMEM that a command uses: `shape` pieces of `width` bytes, `strides` bytes apart, from `start`."""

    start: int
    shape: tuple[int, ...]
    strides: tuple[int, ...]
    width: int
    write: bool

    @cached_property
    def stop(self) -> int:
        """The end of the last piece."""
        return self.start + self.width + sum((n - 1) * s for n, s in zip(self.shape, self.strides, strict=True))

    def of(self, marks: npt.NDArray[np.bool_]) -> npt.NDArray[np.bool_]:
        """The marks of its bytes, one mark per byte of LMEM; writing to them writes `marks`."""
        shape, strides = (*self.shape, self.width), (*self.strides, 1)
        return np.ndarray(shape, np.bool_, marks.data, self.start, strides)


@dataclass
class _Segment:
    """Bytes that every command uses whole or not at all: last writer, and the last reader on each engine."""

    writer: int
    writer_id: int
    readers: list[int]


class CoreOrder:
    """The clocks and the memory of one core while the commands of one program pass by in program order."""

    def __init__(self, bounds: Iterable[int], lmem_bytes: int) -> None:
        """`bounds` are the starts and stops of all accesses that will come."""
        self.bounds = sorted(set(bounds))
        self.segments = [_Segment(0, 0, [0] * len(ENGINES)) for _ in self.bounds]
        self.written: npt.NDArray[np.bool_] = np.zeros(lmem_bytes, np.bool_)
        # clocks[e][i]: what had finished when command i of engine e started; command 0 is the program's start.
        self.clocks: list[list[tuple[int, ...]]] = [[(0,) * len(ENGINES)] for _ in ENGINES]

    def command(self, engine: int, waits: Sequence[int], accesses: Sequence[Access]) -> str | None:
        """Take the next command of `engine`, which waits for the id `waits[e]` of every engine e; what is wrong."""
        own = self.clocks[engine]
        clock = list(own[-1])
        number = len(own)
        clock[engine] = number - 1
        for other, wait in enumerate(waits):
            if wait > clock[other]:
                if wait >= len(self.clocks[other]):
                    return f"waits for {ENGINES[other]} {wait}, which comes later"
                clock = [max(a, b) for a, b in zip(clock, self.clocks[other][wait], strict=True)]
                clock[other] = max(clock[other], wait)
        own.append(tuple(clock))
        for access in accesses:
            fault = self._access(access, engine, number, clock)
            if fault is not None:
                return fault
        for access in accesses:
            self._note(access, engine, number)
        return None

    def barrier(self) -> None:
        """Every command so far has finished: all engines go on from there."""
        finished = tuple(len(clocks) - 1 for clocks in self.clocks)
        for clocks in self.clocks:
            clocks[-1] = tuple(max(a, b) for a, b in zip(clocks[-1], finished, strict=True))

    def _segments(self, access: Access) -> list[_Segment]:
        return self.segments[bisect_left(self.bounds, access.start) : bisect_left(self.bounds, access.stop)]

    def _access(self, access: Access, engine: int, number: int, clock: list[int]) -> str | None:
        if not access.write and not access.of(self.written).all():
            return f"reads {_where(access)}, of which no command wrote all"
        for segment in self._segments(access):
            if segment.writer != engine and segment.writer_id > clock[segment.writer]:
                writer = f"{ENGINES[segment.writer]} {segment.writer_id}"
                verb = "writes" if access.write else "reads"
                return f"{verb} {_where(access)} without waiting for {writer}, which writes it"
            if access.write:
                for reader, reader_id in enumerate(segment.readers):
                    if reader != engine and reader_id > clock[reader]:
                        late = f"{ENGINES[reader]} {reader_id}"
                        return f"writes {_where(access)} without waiting for {late}, which reads it"
        return None

    def _note(self, access: Access, engine: int, number: int) -> None:
        if access.write:
            access.of(self.written)[...] = True
        for segment in self._segments(access):
            if access.write:
                segment.writer, segment.writer_id = engine, number
                segment.readers = [0] * len(ENGINES)
            else:
                segment.readers[engine] = number


def _where(access: Access) -> str:
    return f"LMEM {access.start}..{access.stop - 1}"
