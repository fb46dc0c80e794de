"""Byte-addressed memory of the command simulator: the DRAM of some ranks and the LMEM of their cores.

Ranks run the same commands at the same addresses, so every access is done for all of them at once: DRAM is
[ranks, bytes], LMEM [cores, ranks, bytes], and a strided operand is a numpy view with these as leading dims.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from functools import cache
from math import prod
from typing import Any

import numpy as np
import numpy.typing as npt
from xdsl.ir import Attribute

from pmc.backends.numeric.errors import Array, NumericError
from pmc.backends.numeric.precision_formats import STORAGE, round_to

Bytes = npt.NDArray[np.uint8]

POISON = 0xFF
"""Unwritten memory: a NaN in every float format."""

MAX_BYTES = 2**32
"""Memory of one kind that a run takes at most; the LMEM of 32 SG2262 chips."""

CoreSet = slice | npt.NDArray[np.int64]
"""Some cores: a range where they are adjacent, else their numbers."""


def unwritten(shape: tuple[int, ...], what: str) -> Bytes:
    """[*shape] bytes that nobody wrote; raises NumericError where they are more than MAX_BYTES, opening with `what`."""
    if prod(shape) > MAX_BYTES:
        raise NumericError(
            f"{what} takes {prod(shape)} bytes, at most {MAX_BYTES} are run; `pmc check` shrinks model and chip"
        )
    return np.full(shape, POISON, np.uint8)


@cache
def _name(element_type: Attribute) -> str:
    """The text of a type, which is printed once."""
    return str(element_type)


@cache
def storage_type(element_type: Attribute) -> np.dtype[Any]:
    """The numpy type that holds one element; raises NumericError for a type without one."""
    name = _name(element_type)
    if name in STORAGE:
        dtype: np.dtype[Any] = np.dtype(STORAGE[name])
        return dtype
    if name in ("i8", "i16", "i32", "i64"):
        return np.dtype(f"int{name[1:]}")
    raise NumericError(f"element type {name}: no numeric storage; known are {', '.join(STORAGE)}, i8, i16, i32, i64")


def compute_type(stored: Iterable[np.dtype[Any]]) -> type[np.float32] | type[np.float64]:
    """What a command computes in: FP32, or FP64 where an operand is stored so."""
    return np.float64 if any(dtype == np.float64 for dtype in stored) else np.float32


def decode(stored: Array, compute: Any) -> Array:
    """Stored elements as numbers: floats in the compute type, integers as int64."""
    if stored.dtype.kind in "iu":
        return stored.astype(np.int64)
    if stored.dtype.itemsize == 1:
        # A look-up is nine times as fast as the conversion of ml_dtypes.
        decoded: Array = _byte_values(stored.dtype, np.dtype(compute))[stored.view(np.uint8)]
        return decoded
    return stored.astype(compute)


@cache
def _byte_values(stored: np.dtype[Any], compute: np.dtype[Any]) -> Array:
    """The values of all 256 bytes of an 8-bit float."""
    return np.arange(256, dtype=np.uint8).view(stored).astype(compute)


def encode(values: Array, element_type: Attribute) -> Array:
    """Numbers as stored elements, rounded to nearest even; narrow floats and integers saturate."""
    dtype = storage_type(element_type)
    if dtype.kind == "i":
        info = np.iinfo(dtype)
        rounded = values if values.dtype.kind in "iu" else np.rint(values)
        return np.clip(rounded, info.min, info.max).astype(dtype)
    return round_to(values, _name(element_type))


class Lmem:
    """The LMEM of `cores` cores of `ranks` ranks."""

    def __init__(self, cores: int, ranks: int, size: int) -> None:
        self.bytes = unwritten((cores, ranks, size), "the LMEM of all cores and ranks")

    def view(self, start: int, shape: Sequence[int], steps: Sequence[int], dtype: npt.DTypeLike) -> Array:
        """[cores, ranks, *shape] elements from byte `start`, `steps` bytes apart; writing to it writes LMEM."""
        cores, ranks, size = self.bytes.shape
        return np.ndarray((cores, ranks, *shape), dtype, self.bytes.data, start, (ranks * size, size, *steps))


class Dram:
    """The DRAM of some ranks, and who wrote and read each byte; all ranks agree in this.

    `owner` is 0 where nobody wrote, 1 where an earlier program or the host did, 2 + core where a core did since the
    last barrier.  `reader` is 0 where nobody has read since then, 2 + core where one core has, -1 where several have.
    """

    UNWRITTEN = 0
    SETTLED = 1
    CORES = 2
    SEVERAL = -1

    def __init__(self, ranks: int, size: int) -> None:
        self.bytes = unwritten((ranks, size), "the DRAM of all ranks")
        self.owner = np.zeros(size, np.int16)
        self.reader = np.zeros(size, np.int16)
        self.fresh: list[tuple[int, int]] = []
        """Bytes from .. to that have been written since the last barrier."""
        self.seen: list[tuple[int, int]] = []
        """The same of bytes that have been read."""

    @property
    def size(self) -> int:
        """Bytes of one rank."""
        return int(self.bytes.shape[1])

    def view(self, start: int, shape: Sequence[int], steps: Sequence[int], dtype: npt.DTypeLike) -> Array:
        """[ranks, *shape] elements from byte `start`, `steps` bytes apart; writing to it writes DRAM."""
        ranks, size = self.bytes.shape
        return np.ndarray((ranks, *shape), dtype, self.bytes.data, start, (size, *steps))

    def across(
        self, start: int, core_step: int, cores: int, shape: Sequence[int], steps: Sequence[int], dtype: npt.DTypeLike
    ) -> Array:
        """[cores, ranks, *shape]: core i sees the block `core_step * i` bytes further on."""
        ranks, size = self.bytes.shape
        return np.ndarray((cores, ranks, *shape), dtype, self.bytes.data, start, (core_step, size, *steps))

    def owners(
        self, start: int, core_step: int, cores: int, shape: Sequence[int], steps: Sequence[int]
    ) -> npt.NDArray[np.int16]:
        """[cores, *shape]: the owner of the first byte of every element of such a block."""
        return self._marks(self.owner, start, core_step, cores, shape, steps)

    def readers(
        self, start: int, core_step: int, cores: int, shape: Sequence[int], steps: Sequence[int]
    ) -> npt.NDArray[np.int16]:
        """[cores, *shape]: who has read the first byte of every element of such a block."""
        return self._marks(self.reader, start, core_step, cores, shape, steps)

    @staticmethod
    def _marks(
        marks: npt.NDArray[np.int16],
        start: int,
        core_step: int,
        cores: int,
        shape: Sequence[int],
        steps: Sequence[int],
    ) -> npt.NDArray[np.int16]:
        size = marks.itemsize
        strides = (size * core_step, *(size * s for s in steps))
        return np.ndarray((cores, *shape), np.int16, marks.data, size * start, strides)

    def read(self, readers: npt.NDArray[np.int16], own: npt.NDArray[np.int16], first: int, stop: int) -> None:
        """Note that the cores `own` (2 + core) read the blocks `readers`, which lie in bytes `first` to `stop`."""
        several = (readers != self.UNWRITTEN) & (readers != own)
        readers[...] = own
        if len(readers) > 1:
            several |= readers != own  # the last of the cores that share an element has marked it
        if np.count_nonzero(several):
            readers[several] = self.SEVERAL
        self.seen.append((first, stop))

    def write(self, start: int, values: Array) -> None:
        """Put [ranks, ..] elements densely at byte `start`, as the host or a finished command."""
        flat = np.ascontiguousarray(values).reshape(len(values), -1).view(np.uint8)
        self.bytes[:, start : start + flat.shape[1]] = flat
        self.owner[start : start + flat.shape[1]] = self.SETTLED

    def settle(self) -> None:
        """A barrier: what cores wrote is there for everyone, and what they read may be overwritten."""
        for start, stop in self.fresh:
            np.minimum(self.owner[start:stop], self.SETTLED, out=self.owner[start:stop])
        for start, stop in self.seen:
            self.reader[start:stop] = 0
        self.fresh.clear()
        self.seen.clear()
