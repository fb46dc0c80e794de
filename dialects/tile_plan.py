"""The plan of an op: everything that decides how its kernel runs, as an attribute on the op.

    #tile.plan<cores [1, 4, 16, 1], tile [64, 24, 7168], order "gmkn", slots 2, multicast [a, b]>

`select-tiles` writes it, `lower-to-tiles` turns it into loops and the tile model prices it, whoever wrote it.  The
dims, per family of ops (see `dialects/analyses` for what each of them means):

    matmul, grouped and head matmul   cores [g, m, n, k]    tile [m, n, k]               order gmnk, gnkm or gmkn
    attention                         cores [p, u, s]       tile [queries, heads, keys]  order pus
    row-wise ops, kv_append           cores [outer, inner]  tile [outer, inner, width]   order oi
    embedding                         cores [token, n]      tile [token, n]              order tn
    index_scores                      cores [u, s]          tile [queries, keys]         order us
    topk_select                       cores [row]           tile [rows, keys]            order rs
    gather_rows                       cores [token, j]      tile [rows]                  order tj
    causal_conv                       cores [sequence, c]   tile [tokens, channels]      order cbt
    ssm_scan, gated_delta             cores [sequence, g, r]  tile [tokens, groups, heads]  order grbt

Cores are numbered row-major in the grid of the core counts.
"""

from __future__ import annotations

from collections.abc import Sequence
from functools import cache
from math import prod
from typing import ClassVar, Self

from xdsl.dialects.builtin import ArrayAttr, IntegerAttr, StringAttr
from xdsl.ir import Attribute, ParametrizedAttribute
from xdsl.irdl import irdl_attr_definition
from xdsl.parser import AttrParser
from xdsl.printer import Printer

from pmc.dialects.arch import Chip

PLAN = "tile.plan"
"""The attribute that holds the plan of an op."""

MERGES = ("none", "sdma", "dram")
"""How the partial results of cores that share a contraction or the keys are merged: taken from the LMEM of the other
cores, or through DRAM."""

MAX_SLOTS = 2


@cache
def _integer(value: int) -> IntegerAttr:
    """Plans are made by the thousand, of few numbers."""
    return IntegerAttr(value, 64)


@irdl_attr_definition
class PlanAttr(ParametrizedAttribute):
    """How one op is spread over the cores and cut into tiles."""

    name: ClassVar[str] = "tile.plan"
    cores: ArrayAttr[IntegerAttr]
    """How many cores share each parallel dim."""
    tile: ArrayAttr[IntegerAttr]
    """The block of one iteration along each dim."""
    order: StringAttr
    """The loops from the outside in."""
    slots: IntegerAttr
    """2 where loads run ahead of compute and stores behind it, else 1."""
    multicast: ArrayAttr[StringAttr]
    """The operands of which one read serves all cores that need the same block."""
    merge: StringAttr
    """One of `MERGES`."""

    @classmethod
    def of(
        cls,
        cores: Sequence[int],
        tile: Sequence[int],
        order: str,
        slots: int = 2,
        multicast: Sequence[str] = (),
        merge: str = "none",
    ) -> Self:
        """The plan with these numbers."""
        ints = [ArrayAttr([_integer(i) for i in values]) for values in (cores, tile)]
        names = ArrayAttr([StringAttr(name) for name in multicast])
        return cls(ints[0], ints[1], StringAttr(order), _integer(slots), names, StringAttr(merge))

    @property
    def core_counts(self) -> tuple[int, ...]:
        """Cores along every parallel dim."""
        return tuple(i.value.data for i in self.cores.data)

    @property
    def tile_sizes(self) -> tuple[int, ...]:
        """The tile of every loop dim."""
        return tuple(i.value.data for i in self.tile.data)

    @property
    def buffer_slots(self) -> int:
        """Slots of the buffers that loads fill and stores empty."""
        return self.slots.value.data

    def multicasts(self, operand: str) -> bool:
        """Whether one read of a block of `operand` serves all cores that need it."""
        return StringAttr(operand) in self.multicast.data

    def fault(
        self,
        chip: Chip,
        dims: tuple[int, int],
        orders: Sequence[str],
        multicast: Sequence[str] = (),
        merges: Sequence[str] = ("none",),
    ) -> str | None:
        """What no op of a family may say: `dims` are the numbers of core counts and of tile sizes."""
        counts = len(self.core_counts), len(self.tile_sizes)
        if counts != dims:
            return f"needs {dims[0]} core counts and {dims[1]} tile sizes, found {counts[0]} and {counts[1]}"
        if min(*self.core_counts, *self.tile_sizes) < 1:
            return "core counts and tile sizes must be at least 1"
        if prod(self.core_counts) > chip.cores:
            return f"asks for {prod(self.core_counts)} cores, chip {chip.name} has {chip.cores}"
        if self.order.data not in orders:
            return f"unknown order '{self.order.data}', must be {' or '.join(orders)}"
        if not 1 <= self.buffer_slots <= MAX_SLOTS:
            return f"slots is {self.buffer_slots}, must be 1 or {MAX_SLOTS}"
        unknown = sorted({name.data for name in self.multicast.data} - set(multicast))
        if unknown:
            return f"multicast of '{unknown[0]}', must be among {', '.join(multicast) or 'no operands'}"
        if self.multicast.data and not chip.gdma_multicast:
            return f"multicast, which chip {chip.name} does not do"
        if self.merge.data not in merges:
            return f"unknown merge '{self.merge.data}', must be {' or '.join(merges)}"
        return None

    @classmethod
    def parse_parameters(cls, parser: AttrParser) -> Sequence[Attribute]:
        """Parse `<cores [..], tile [..], order "..", slots n (, multicast [..])? (, merge name)?>`."""

        def integers(keyword: str) -> ArrayAttr[IntegerAttr]:
            parser.parse_keyword(keyword)
            values = parser.parse_comma_separated_list(parser.Delimiter.SQUARE, parser.parse_integer)
            parser.parse_punctuation(",")
            return ArrayAttr([IntegerAttr(v, 64) for v in values])

        with parser.in_angle_brackets():
            cores, tile = integers("cores"), integers("tile")
            parser.parse_keyword("order")
            order = StringAttr(parser.parse_str_literal())
            parser.parse_punctuation(",")
            parser.parse_keyword("slots")
            slots = IntegerAttr(parser.parse_integer(), 64)
            names: list[str] = []
            merge = "none"
            while parser.parse_optional_punctuation(",") is not None:
                if parser.parse_optional_keyword("multicast") is not None:
                    names = parser.parse_comma_separated_list(parser.Delimiter.SQUARE, parser.parse_identifier)
                else:
                    parser.parse_keyword("merge")
                    merge = parser.parse_identifier()
            return [cores, tile, order, slots, ArrayAttr([StringAttr(n) for n in names]), StringAttr(merge)]

    def print_parameters(self, printer: Printer) -> None:
        """Print what `parse_parameters` reads."""
        with printer.in_angle_brackets():
            printer.print_string(f"cores {list(self.core_counts)}, tile {list(self.tile_sizes)}, order ")
            printer.print_string_literal(self.order.data)
            printer.print_string(f", slots {self.buffer_slots}")
            if self.multicast.data:
                printer.print_string(f", multicast [{', '.join(name.data for name in self.multicast.data)}]")
            if self.merge.data != "none":
                printer.print_string(f", merge {self.merge.data}")
