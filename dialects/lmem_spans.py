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

    @classmethod
    def of(cls, path: str, gives: ArrayAttr[SpanAttr] | None, takes: ArrayAttr[SpanAttr] | None) -> Self:
        """From the properties of the program, which are left out where there is nothing to say."""
        return cls(path, () if gives is None else tuple(gives.data), () if takes is None else tuple(takes.data))


def wrong_spans(programs: Sequence[HandedOver | None]) -> str | None:
    """What does not fit together in programs that run one after the other; None stands for a body among them."""
    held: dict[SpanAttr, str] = {}
    for program in programs:
        if program is None:
            if held:
                return f"LMEM that '{next(iter(held.values()))}' hands over would have to outlive a body"
            continue
        for span in program.gives:
            for other, path in held.items():
                if span.bytes.start < other.bytes.stop and other.bytes.start < span.bytes.stop:
                    return f"'{program.path}' hands over LMEM that '{path}' has handed over"
        for span in program.takes:
            if held.pop(span, None) is None:
                return f"'{program.path}' takes LMEM {span.bytes.start}.. that no program before it hands over"
        held |= dict.fromkeys(program.gives, program.path)
    return None if not held else f"no program takes what '{next(iter(held.values()))}' hands over"
