"""What every vector kind has: matrices, parameters with their text, counts, and the engine.

The kinds themselves are in `vector_kinds.py`.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from functools import cache
from typing import Any, ClassVar, Literal, get_type_hints

from xdsl.dialects.builtin import (
    BoolAttr,
    DictionaryAttr,
    FloatAttr,
    IntegerAttr,
    IntegerType,
    NoneAttr,
    StringAttr,
    UnitAttr,
    i1,
)
from xdsl.ir import Attribute, ParametrizedAttribute
from xdsl.irdl import MessageConstraint, base
from xdsl.parser import AttrParser
from xdsl.printer import Printer
from xdsl.utils.hints import isa

from pmc.dialects.accesses import ALWAYS, NEVER
from pmc.dialects.assembly import parse_value, print_value
from pmc.dialects.expr import Expr, ExprAttr, expr, is_rank_symbol, parse_expr
from pmc.dialects.vector_steps import VectorSteps

ROW = "row"
"""The symbol of the row number in the parameters that differ from row to row."""

Role = Literal["in", "out", "update"]
"""Whether a command reads a matrix, writes it, or both."""

ROLES: tuple[Role, ...] = ("in", "out", "update")

Extent = int | str | tuple[str, str] | tuple[str, int]
"""A number of rows or columns: a constant, `rows` or `columns` of the command, `width` (all columns of the matrix's
own rows), an integer parameter of the kind, the product of two of these, or one of them plus a constant."""


@dataclass(frozen=True)
class Matrix:
    """One operand of a kind and the part of it that the command uses, from its first element."""

    name: str
    role: Role
    rows: Extent = "rows"
    columns: Extent = "columns"

    @property
    def writes(self) -> bool:
        """Whether it writes it."""
        return self.role != "in"


class VectorKindAttr(ParametrizedAttribute):
    """The base of all kinds: `#tile.name<parameter = value, ..>`, without brackets where there are no parameters.

    The parameters are the fields of the class.  Those that are expressions may use the symbols in scope, the
    coordinates of the rank on the mesh (`cp.rank`) and, where the class says so, the row number `row`.
    """

    MATRICES: ClassVar[tuple[Matrix, ...]]
    """Inputs, outputs, updates, in this order."""
    ENGINE: ClassVar[Literal["vec", "hau"]] = "vec"
    PER_ROW_PARAMETERS: ClassVar[tuple[str, ...]] = ()
    """The parameters that may use the symbol `row`."""
    FLOPS: ClassVar[int] = 0
    PADS_ROWS: ClassVar[bool] = False
    """Whether rows count in whole blocks of the cube, as they come out of the matrix unit."""
    PADS_COLUMNS: ClassVar[bool] = True
    """Whether columns fill whole blocks of the lanes; not where each of them stands for many elements."""
    RATE: ClassVar[str | None] = None
    """The element type that sets the rate of the vector unit, where it is not that of the first matrix."""
    ELEMENT_STEPS: ClassVar[VectorSteps]
    ROW_STEPS: ClassVar[VectorSteps] = VectorSteps()

    @property
    def flops_per_element(self) -> int:
        """Arithmetic per element of the command, in the counting of the tensor ops."""
        return self.FLOPS

    @property
    def flops_per_row(self) -> int:
        """Arithmetic once for every row besides."""
        return 0

    def flops(self, rows: Expr, columns: Expr) -> Expr:
        """Arithmetic of a command on `rows` x `columns`."""
        return self.flops_per_element * rows * columns + self.flops_per_row * rows

    @property
    def steps_per_element(self) -> VectorSteps:
        """What the vector unit does for every element of `rows` x `columns`."""
        return self.ELEMENT_STEPS

    @property
    def steps_per_row(self) -> VectorSteps:
        """What it does once for every row besides."""
        return self.ROW_STEPS

    @classmethod
    def operands(cls, role: Role) -> tuple[Matrix, ...]:
        """The matrices of one role."""
        return tuple(m for m in cls.MATRICES if m.role == role)

    def reads(self, matrix: Matrix) -> Expr:
        """When the command reads a matrix: inputs and updates always, unless the kind says otherwise."""
        return NEVER if matrix.role == "out" else ALWAYS

    def extents(self, rows: Expr, columns: Expr, widths: Sequence[int]) -> list[tuple[Expr, Expr]]:
        """Rows and columns that a command of `rows` x `columns` uses of each matrix; `widths` are those of the rows."""
        named = self.named_extents(rows, columns)
        return [
            (_extent(matrix.rows, named, width), _extent(matrix.columns, named, width))
            for matrix, width in zip(self.MATRICES, widths, strict=True)
        ]

    def named_extents(self, rows: Expr, columns: Expr) -> dict[str, Expr]:
        """What an extent may name: rows, columns, and the integer parameters."""
        named: dict[str, Expr] = {"rows": rows, "columns": columns}
        for name in _parameters(type(self)):
            value = getattr(self, name)
            if isinstance(value, IntegerAttr):
                named[name] = expr(value.value.data)
        return named

    def expressions(self) -> dict[str, Expr]:
        """The parameters that are expressions."""
        values = {name: getattr(self, name) for name in _parameters(type(self))}
        return {name: value.data for name, value in values.items() if isinstance(value, ExprAttr)}

    def wrong_parameter(self, columns: Expr) -> str | None:
        """What is wrong with the values of the parameters for a command of so many columns."""
        del columns
        return None

    def fault(self, counts: tuple[int, int, int], columns: Expr, scope: frozenset[str]) -> str | None:
        """What is wrong with a command of this kind: one clause, or None.

        `counts` are the command's inputs, outputs and updates, `scope` the symbols of the bodies around it.
        """
        needed = tuple(len(self.operands(role)) for role in ("in", "out", "update"))
        if counts != needed:
            names = ", ".join(m.name for m in self.MATRICES)
            return f"takes {needed} inputs, outputs and updates ({names}), found {counts}"
        for name, value in self.expressions().items():
            own = {ROW} if name in self.PER_ROW_PARAMETERS else set[str]()
            unknown = sorted(s for s in value.symbols - scope - own if not is_rank_symbol(s))
            if unknown:
                return f"parameter '{name}' uses '{unknown[0]}', which is not in scope"
        return self.wrong_parameter(columns)

    @classmethod
    def parse_parameters(cls, parser: AttrParser) -> Sequence[Attribute]:
        """Parse `<name = value, ..>`; expressions stand without brackets."""
        forms = _parameters(cls)
        found: dict[str, Attribute] = {}

        def entry() -> None:
            position = parser.pos
            name = parser.parse_identifier()
            if name not in forms:
                expected = f"it has {', '.join(forms)}" if forms else "it has none"
                parser.raise_error(f"#{cls.name} has no parameter '{name}', {expected}", position, parser.pos)
            if name in found:
                parser.raise_error(f"parameter '{name}' of #{cls.name} is given twice", position, parser.pos)
            parser.parse_punctuation("=")
            found[name] = forms[name].parse(parser, f"parameter '{name}' of #{cls.name}")

        parser.parse_optional_comma_separated_list(parser.Delimiter.ANGLE, entry)
        missing = [name for name, form in forms.items() if name not in found and not form.optional]
        if missing:
            parser.raise_error(f"#{cls.name} needs the parameter '{missing[0]}'")
        return [found.get(name, NoneAttr()) for name in forms]

    def print_parameters(self, printer: Printer) -> None:
        """Print what `parse_parameters` reads."""
        values = {name: getattr(self, name) for name in _parameters(type(self))}
        given = {name: value for name, value in values.items() if not isinstance(value, NoneAttr)}
        if not given:
            return

        def entry(name: str) -> None:
            printer.print_string(f"{name} = ")
            value = given[name]
            if isinstance(value, ExprAttr):
                printer.print_string(str(value.data))
            else:
                print_value(printer, value)

        with printer.in_angle_brackets():
            printer.print_list(given, entry)


KIND = MessageConstraint(base(VectorKindAttr), "kind must be a vector kind such as #tile.add")
"""The constraint of the property that holds the kind of a command."""


def _extent(extent: Extent, named: Mapping[str, Expr], width: int) -> Expr:
    if isinstance(extent, int):
        return expr(extent)
    if isinstance(extent, tuple):
        first, second = (_extent(part, named, width) for part in extent)
        return first + second if isinstance(extent[1], int) else first * second
    return expr(width) if extent == "width" else named[extent]


# -- the text of parameters -------------------------------------------------------------------------------------


@dataclass(frozen=True)
class _Form:
    """How a parameter of one type is written."""

    what: str
    accepts: Callable[[Attribute], bool]
    optional: bool = False

    def parse(self, parser: AttrParser, name: str) -> Attribute:
        position = parser.pos
        value = parse_value(parser)
        if not self.accepts(value):
            parser.raise_error(f"{name} must be {self.what}, found {value}", position, parser.pos)
        return value


class _ExprForm(_Form):
    def parse(self, parser: AttrParser, name: str) -> Attribute:
        del name
        return ExprAttr(parse_expr(parser))


def _is_integer(value: Attribute) -> bool:
    return isa(value, IntegerAttr[IntegerType]) and value.type != i1


def _is_bool(value: Attribute) -> bool:
    return isa(value, IntegerAttr[IntegerType]) and value.type == i1


_FORMS: tuple[tuple[Any, _Form], ...] = (
    (ExprAttr, _ExprForm("an expression", lambda v: isinstance(v, ExprAttr))),
    (ExprAttr | NoneAttr, _ExprForm("an expression", lambda v: isinstance(v, ExprAttr), optional=True)),
    (BoolAttr, _Form("true or false", _is_bool)),
    (IntegerAttr, _Form("an integer", _is_integer)),
    (FloatAttr, _Form("a float such as 1.0", lambda v: isinstance(v, FloatAttr))),
    (StringAttr, _Form("a text", lambda v: isinstance(v, StringAttr))),
    (DictionaryAttr | NoneAttr, _Form("a dictionary", lambda v: isinstance(v, DictionaryAttr), optional=True)),
    (IntegerAttr | NoneAttr, _Form("an integer", _is_integer, optional=True)),
    (UnitAttr | NoneAttr, _Form("unit", lambda v: isinstance(v, UnitAttr), optional=True)),
    (FloatAttr | NoneAttr, _Form("a float such as 1.0", lambda v: isinstance(v, FloatAttr), optional=True)),
)


@cache
def _parameters(kind: type[VectorKindAttr]) -> dict[str, _Form]:
    """The parameters of a kind and how they are written, from the types of its fields."""
    hints = get_type_hints(kind, include_extras=True)
    return {
        name: next(form for hint, form in _FORMS if hint == hints[name])
        for name, _ in kind.get_irdl_definition().parameters
    }
