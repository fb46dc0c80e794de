"""Whether the addresses of arrays in DRAM are sound: aligned, inside the chip, and never two values in one place.

`allocate-dram` derives lifetimes from the first and last use of arrays.  This check, which verifiers run, knows nothing
of lifetimes: it goes through the program as it runs and follows which arrays still hold what was written to them.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from xdsl.dialects.builtin import ModuleOp
from xdsl.ir import Operation

from pmc.dialects.arch import Chip, ChipAttr


@dataclass(frozen=True)
class PlacedArray:
    """An array with its address."""

    path: str
    kind: str
    address: int
    size: int
    is_shared: bool
    """Whether other arrays may have the same memory at other times."""

    @property
    def end(self) -> int:
        """The first byte behind the array."""
        return self.address + self.size

    def overlaps(self, other: PlacedArray) -> bool:
        """Whether the two have a byte in common."""
        return self.address < other.end and other.address < self.end

    def __str__(self) -> str:
        return f"{self.kind} '{self.path}' at {self.address}..{self.end - 1}"


@dataclass(frozen=True)
class Access:
    """A kernel or a movement, with the numbers of the arrays that it reads and writes."""

    path: str
    reads: Sequence[int]
    writes: Sequence[int]


@dataclass(frozen=True)
class Loop:
    """What runs `count` times, or so often in each iteration of the loop around as `shares` says."""

    count: int
    items: Sequence[Access | Loop]
    shares: Sequence[int] | None = None

    def times(self, around: int) -> int:
        """How often it runs in iteration `around` of the loop around."""
        return self.count if self.shares is None else self.shares[around]

    @property
    def alike(self) -> bool:
        """Whether all iterations do the same."""
        return all(isinstance(item, Access) or item.shares is None for item in self.items)


def chip_around(op: Operation) -> Chip | None:
    """The chip of the module that an op stands in, if that says it."""
    top = op.get_toplevel_object()
    chip = top.attributes.get("arch.chip") if isinstance(top, ModuleOp) else None
    return chip.data if isinstance(chip, ChipAttr) else None


def placement_fault(arrays: Sequence[PlacedArray], chip: Chip | None) -> str | None:
    """What is wrong with the addresses whatever the program does; without a chip only what overlaps."""
    if chip is not None:
        for array in arrays:
            if array.address % chip.alignment_bytes:
                return f"{array} does not start at a multiple of {chip.alignment_bytes} bytes"
            if array.address < 0 or array.end > chip.dram_bytes:
                return f"{array} leaves the DRAM of {chip.name}, which has {chip.dram_bytes} bytes"
    reached: PlacedArray | None = None  # of those that stay, the one that ends last
    shared: PlacedArray | None = None
    for array in sorted((a for a in arrays if a.size), key=lambda a: a.address):
        for before in (reached, None if array.is_shared else shared):
            if before is not None and before.end > array.address:
                return f"{before} and {array} overlap, of which not both give their memory to others"
        if not array.is_shared:
            reached = array if reached is None or array.end > reached.end else reached
        elif shared is None or array.end > shared.end:
            shared = array
    return None


def reuse_fault(arrays: Sequence[PlacedArray], items: Sequence[Access | Loop]) -> str | None:
    """The first access to an array that another one has overwritten, or None.

    Two iterations of a loop show what any number of them would: each access makes some arrays whole and spoils others,
    whatever was before, so that a third iteration starts as the second does.  Iterations that differ all run.
    """
    run = _Run(arrays)
    fault = run.items(items)
    if fault is not None:
        return fault
    for number, array in enumerate(arrays):
        if array.kind == "output" and number in run.spoiled_by:
            return f"{array} is overwritten by {arrays[run.spoiled_by[number]]} before the program ends"
    return None


class _Run:
    """Which arrays have been overwritten since they were written, and by which."""

    def __init__(self, arrays: Sequence[PlacedArray]) -> None:
        self.arrays = arrays
        self.spoiled_by: dict[int, int] = {}
        self.written: set[int] = set()
        shared = [number for number, array in enumerate(arrays) if array.is_shared]
        self.neighbours = {i: [j for j in shared if j != i and arrays[i].overlaps(arrays[j])] for i in shared}

    def items(self, items: Sequence[Access | Loop], around: int = 0) -> str | None:
        for item in items:
            if isinstance(item, Access):
                fault = self.access(item)
            else:
                times = min(item.times(around), 2) if item.alike else item.times(around)
                fault = next((f for number in range(times) if (f := self.items(item.items, number))), None)
            if fault is not None:
                return fault
        return None

    def access(self, access: Access) -> str | None:
        used = list(dict.fromkeys((*access.reads, *access.writes)))
        for number in used:
            for other in self.neighbours.get(number, ()):
                if other in used:
                    return f"'{access.path}' uses {self.arrays[number]} and {self.arrays[other]}, which overlap"
        for number in access.reads:
            if number in self.spoiled_by and self.arrays[number].kind != "scratch":
                newer = self.arrays[self.spoiled_by[number]]
                return f"'{access.path}' reads {self.arrays[number]}, which {newer} has overwritten"
        for number in access.writes:
            self.written.add(number)
            self.spoiled_by.pop(number, None)
            for other in self.neighbours.get(number, ()):
                if other in self.written:
                    self.spoiled_by[other] = number
        return None
