"""What a command reads and writes: one answer for tiles and for commands, for whoever asks.

Every command lists its operands as accesses: role, memory, place, extents, element type, and when it reads and writes.
Waits, work, liveness, unrolled tables and the numeric interpreters go by that list; none of them knows the commands.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Literal

from xdsl.ir import Attribute, SSAValue

from pmc.dialects.expr import Expr, expr, product
from pmc.dialects.tile_types import buffer_type, memref_type

Memory = Literal["lmem", "dram"]

ALWAYS, NEVER = expr(1), expr(0)
"""When a command reads an operand; any other expression means: where it is not zero."""


BANDWIDTH_DOMAINS = ("on_chip", "dram")
"""Where gathered rows come from: from what the cores of the chip hold, or from DRAM."""


@dataclass(frozen=True)
class Access:
    """One operand of a command and how much of it the command uses."""

    role: str
    """What the operand is to the command, the same at both levels: `dram`, `lmem`, `acc`, a matrix of a vector kind."""
    memory: Memory
    shape: tuple[Expr, ...]
    """Elements along each dim."""
    element_type: Attribute
    reads: Expr
    """Not zero where the command reads the operand; an accumulator is read where `accumulate` is not zero."""
    writes: bool
    indexed: bool
    """Whether an index picks the rows: `shape` is what moves, it lies anywhere in the array."""
    held: bool = field(default=False, kw_only=True)
    """Whether the cores hold what the command reads of an array: it does not cross the DRAM interface."""

    @property
    def may_read(self) -> bool:
        """Whether the command reads the operand in any iteration."""
        return self.reads != NEVER

    @property
    def elements(self) -> Expr:
        """How many elements the command uses."""
        return product(self.shape)


@dataclass(frozen=True)
class TileAccess(Access):
    """A block of an array or of a buffer: `offsets` say where it starts, one per dim of the type of `value`."""

    value: SSAValue
    offsets: tuple[Expr, ...]
    core: Expr | None = None
    """The core in whose LMEM the buffer is; None for the core that gives the command."""

    @classmethod
    def block(
        cls,
        role: str,
        value: SSAValue,
        offsets: Sequence[Expr],
        sizes: Sequence[Expr],
        write: bool,
        indexed: bool = False,
    ) -> TileAccess:
        """A block of an array in DRAM that a command reads or writes."""
        element, reads = memref_type(value).element_type, NEVER if write else ALWAYS
        return cls(role, "dram", tuple(sizes), element, reads, write, indexed, value, tuple(offsets))

    @classmethod
    def part(
        cls,
        role: str,
        value: SSAValue,
        rows: Expr,
        columns: Expr,
        reads: Expr,
        writes: bool,
        at: tuple[Expr, Expr] = (expr(0), expr(0)),
    ) -> TileAccess:
        """Rows and columns of a buffer."""
        element = buffer_type(value).element_type
        return cls(role, "lmem", (rows, columns), element, reads, writes, False, value, at)


@dataclass(frozen=True)
class CommandAccess(Access):
    """Elements from a byte address, `strides` elements apart along each dim."""

    address: Expr
    strides: tuple[Expr, ...]
    core: Expr | None = None
    """The core in whose LMEM the elements are; None for the core that gives the command."""
