"""What a command waits for, in terms of the engines of a core."""

from __future__ import annotations

from typing import ClassVar

from xdsl.ir import Data
from xdsl.irdl import irdl_attr_definition
from xdsl.parser import AttrParser
from xdsl.printer import Printer

ENGINES = ("tiu", "gdma", "sdma", "hau", "vec")
"""The engines of a core, in the order of every table of dependencies.  CDMA belongs to the chip."""

FREE = 1 << 40
"""The lag behind an engine that a command does not wait for: longer than any program."""


@irdl_attr_definition
class AfterAttr(Data[tuple[tuple[str, int], ...]]):
    """The dependencies of a command: pairs of engine and lag, in the order of `ENGINES`."""

    name: ClassVar[str] = "g5.after"

    @classmethod
    def parse_list(cls, parser: AttrParser) -> tuple[tuple[str, int], ...]:
        """Parse `[engine-lag, ..]`."""

        def pair() -> tuple[str, int]:
            position = parser.pos
            engine = parser.parse_identifier()
            if engine not in ENGINES:
                parser.raise_error(f"unknown engine '{engine}', expected one of {', '.join(ENGINES)}", position)
            parser.parse_punctuation("-")
            position = parser.pos
            lag = parser.parse_integer(allow_negative=False)
            if lag >= FREE:
                parser.raise_error(f"a lag must be less than {FREE}, found {lag}", position)
            return engine, lag

        return tuple(parser.parse_comma_separated_list(parser.Delimiter.SQUARE, pair))

    @property
    def text(self) -> str:
        """`[engine-lag, ..]`."""
        return f"[{', '.join(f'{engine}-{lag}' for engine, lag in self.data)}]"

    @classmethod
    def parse_parameter(cls, parser: AttrParser) -> tuple[tuple[str, int], ...]:
        """Parse `<[engine-lag, ..]>`."""
        with parser.in_angle_brackets():
            return cls.parse_list(parser)

    def print_parameter(self, printer: Printer) -> None:
        """Print `<[engine-lag, ..]>`."""
        with printer.in_angle_brackets():
            printer.print_string(self.text)
