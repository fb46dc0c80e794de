"""LMEM that one program loads for a later one: the attribute that says so, and what must fit together."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import ClassVar, Self

from xdsl.dialects.builtin import ArrayAttr, IntegerAttr, i64
from xdsl.ir import Attribute, ParametrizedAttribute
from xdsl.irdl import irdl_attr_definition
from xdsl.parser import AttrParser
from xdsl.printer import Printer
from xdsl.utils.exceptions import VerifyException


@irdl_attr_definition
class SpanAttr(ParametrizedAttribute):
    """Bytes of LMEM: `#g5.span<1048576, 65536>`, the first and how many."""

    name: ClassVar[str] = "g5.span"
    start: IntegerAttr
    size: IntegerAttr

    def verify(self) -> None:
        """Some bytes."""
        if self.start.value.data < 0 or self.size.value.data < 1:
            raise VerifyException(f"{self.size.value.data} bytes of LMEM from {self.start.value.data}")

    @property
    def bytes(self) -> range:
        """The bytes."""
        return range(self.start.value.data, self.start.value.data + self.size.value.data)

    @classmethod
    def of(cls, start: int, size: int) -> Self:
        """`size` bytes from `start`."""
        return cls(IntegerAttr(start, i64), IntegerAttr(size, i64))

    @classmethod
    def parse_parameters(cls, parser: AttrParser) -> Sequence[Attribute]:
        """Parse `<start, size>`."""
        with parser.in_angle_brackets():
            start = IntegerAttr(parser.parse_integer(), i64)
            parser.parse_punctuation(",")
            return [start, IntegerAttr(parser.parse_integer(), i64)]

    def print_parameters(self, printer: Printer) -> None:
        """Print `<start, size>`."""
        with printer.in_angle_brackets():
            printer.print_string(f"{self.start.value.data}, {self.size.value.data}")


@dataclass(frozen=True)
class HandedOver:
    """What the program at a path loads for later ones, and what it has from earlier ones."""

    path: str
    gives: tuple[SpanAttr, ...]
    takes: tuple[SpanAttr, ...]
    is_body: bool = False
    """Whether it is a body of programs in place of a program."""

    @classmethod
    def of(
        cls, path: str, gives: ArrayAttr[SpanAttr] | None, takes: ArrayAttr[SpanAttr] | None, is_body: bool = False
    ) -> Self:
        """From the properties of the program, which are left out where there is nothing to say."""
        given, taken = (() if spans is None else tuple(spans.data) for spans in (gives, takes))
        return cls(path, given, taken, is_body)


def wrong_spans(programs: Sequence[HandedOver], carried: HandedOver | None = None) -> str | None:
    """What does not fit together in programs that run one after the other.

    What they have `carried` over from their run before, as a body takes it, they load for the next one.
    """
    held: dict[SpanAttr, str] = {}
    if carried is not None:
        wrong = _wrong_carried(programs, carried)
        if wrong is not None:
            return wrong
        held = dict.fromkeys(carried.takes, carried.path)
    for program in programs:
        kept = [path for span, path in held.items() if span not in program.takes]
        if program.is_body and kept:
            return f"LMEM that '{kept[0]}' hands over would have to outlive a body"
        for span in program.gives:
            for other, path in held.items():
                if span.bytes.start < other.bytes.stop and other.bytes.start < span.bytes.stop:
                    return f"'{program.path}' hands over LMEM that '{path}' has handed over"
        for span in program.takes:
            if held.pop(span, None) is None:
                return f"'{program.path}' takes LMEM {span.bytes.start}.. that no program before it hands over"
        held |= dict.fromkeys(program.gives, program.path)
    left = [path for span, path in held.items() if carried is None or span not in carried.takes]
    return None if not left else f"no program takes what '{left[0]}' hands over"


def _wrong_carried(programs: Sequence[HandedOver], carried: HandedOver) -> str | None:
    for span in carried.takes:
        takers = [place for place, program in enumerate(programs) if span in program.takes]
        givers = [place for place, program in enumerate(programs) if span in program.gives]
        if not takers or not givers or takers[0] >= givers[-1]:
            return (
                f"the runs of '{carried.path}' hand over LMEM {span.bytes.start}.., which a program of it must take "
                "and a later one hand over"
            )
    return None
