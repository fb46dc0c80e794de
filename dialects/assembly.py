"""The one assembly form that the ops of all pmc dialects share, and the base class that implements it.

    %y = layer.matmul(%x, %w) {a = 1, b = "text", c = <q_len>} at "blocks.moe.q_a_proj" : !layer.tensor<..>

Operands stand in the order of the op's definition; a variadic group stands in brackets, an optional operand does but
where the op says otherwise.  Properties are printed
without types, integers are i64, floats f64, `<..>` is an expression; one that has its default value is left out.
Every op names the `path` of the model block it came from.  Operand types are not repeated: operands must be defined
before they are used.
"""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from functools import partial
from math import isfinite
from typing import ClassVar, NoReturn, Self, cast

from xdsl.dialects.builtin import (
    AnyFloat,
    ArrayAttr,
    BoolAttr,
    DenseArrayBase,
    FloatAttr,
    IndexType,
    IntegerAttr,
    IntegerType,
    StringAttr,
    f64,
    i1,
    i32,
    i64,
)
from xdsl.ir import Attribute, Operation, Region, SSAValue
from xdsl.irdl import (
    AttrSizedOperandSegments,
    IRDLOperation,
    VarOperandDef,
    prop_def,
)
from xdsl.parser import AttrParser, Parser, UnresolvedOperand
from xdsl.printer import Printer
from xdsl.utils.exceptions import VerifyException
from xdsl.utils.hints import isa

from pmc.dialects.class_check import PlainClassCheck
from pmc.dialects.expr import Expr, ExprAttr, parse_expr

SEGMENTS = "operandSegmentSizes"

_NAMES_AN_OP = re.compile(r"\w+\.\w+ (at )?'")

PropertyValue = Attribute | Expr | int | float | bool | str | None


def attribute(value: PropertyValue) -> Attribute:
    """The attribute of a Python value, as the assembly spells it."""
    match value:
        case Attribute():
            return value
        case Expr():
            return ExprAttr(value)
        case bool():
            return BoolAttr.from_bool(value)
        case int():
            return IntegerAttr(value, i64)
        case float():
            return FloatAttr(value, 64)
        case str():
            return StringAttr(value)
        case None:
            raise ValueError("None is not an attribute")


def print_value(printer: Printer, value: Attribute) -> None:
    """Print a property value in its short form.

    Plain `isinstance`, as `isa` of xDSL builds a constraint each time: that took most of the time of printing.
    """
    if isinstance(value, ExprAttr):
        value.print_parameter(printer)
    elif (integer := _integer(value)) is not None and integer.type == i64:
        printer.print_string(str(integer.value.data))
    elif (number := _float(value)) is not None and number.type == f64 and isfinite(number.value.data):
        printer.print_string(float_text(number.value.data))
    elif (array := _array(value)) is not None:
        with printer.in_square_brackets():
            printer.print_list(array.data, partial(print_value, printer))
    else:
        printer.print_attribute(value)


def _integer(value: Attribute) -> IntegerAttr[IntegerType] | None:
    return cast(IntegerAttr[IntegerType], value) if isinstance(value, IntegerAttr) else None


def _float(value: Attribute) -> FloatAttr[AnyFloat] | None:
    return cast(FloatAttr[AnyFloat], value) if isinstance(value, FloatAttr) else None


def _array(value: Attribute) -> ArrayAttr[Attribute] | None:
    return cast(ArrayAttr[Attribute], value) if isinstance(value, ArrayAttr) else None


def float_text(value: float) -> str:
    """The shortest text that gives `value` back and that MLIR reads as a float (`1.0e-06`, never `1e-06`)."""
    text = repr(value)
    mantissa, exponent, rest = text.partition("e")
    return text if "." in mantissa else f"{mantissa}.0{exponent}{rest}"


def parse_optional_text(parser: AttrParser) -> str | None:
    """Parse a string literal, if present; xDSL takes one with escaped bytes, as of any non-ASCII text, for bytes."""
    text = parser.parse_optional_str_literal()
    if text is not None:
        return text
    position = parser.pos
    raw = parser.parse_optional_bytes_literal()
    try:
        return None if raw is None else raw.decode()
    except UnicodeDecodeError:
        parser.raise_error("the text is not UTF-8", position)


def parse_text(parser: AttrParser) -> str:
    """Parse a string literal."""
    text = parse_optional_text(parser)
    if text is None:
        parser.raise_error("string literal expected")
    return text


def parse_value(parser: AttrParser) -> Attribute:
    """Parse the short form that `print_value` prints."""
    text = parse_optional_text(parser)
    if text is not None:
        return StringAttr(text)
    if parser.parse_optional_punctuation("<") is not None:
        value = parse_expr(parser)
        parser.parse_punctuation(">")
        return ExprAttr(value)
    items = parser.parse_optional_comma_separated_list(parser.Delimiter.SQUARE, lambda: parse_value(parser))
    if items is not None:
        return ArrayAttr(items)
    if parser.parse_optional_keyword("true") is not None:
        return IntegerAttr(-1, i1)
    if parser.parse_optional_keyword("false") is not None:
        return IntegerAttr(0, i1)
    number = parser.parse_optional_number()
    if number is None:
        return parser.parse_attribute()
    if parser.parse_optional_punctuation(":") is not None:
        return _typed_number(parser, number)
    return IntegerAttr(number, i64) if isinstance(number, int) else FloatAttr(number, 64)


def _typed_number(parser: AttrParser, number: int | float) -> Attribute:
    """The attribute of a number that is not i64 or f64: `7 : i32`, `0x7F800000 : f32` for what is not finite."""
    position = parser.pos
    kind = parser.parse_type()
    if isinstance(kind, AnyFloat):
        if isinstance(number, int):
            number = kind.unpack(number.to_bytes(kind.size, "little"), 1)[0]
        return FloatAttr(number, kind)
    if isinstance(number, int) and isa(kind, IntegerType):
        return IntegerAttr(number, kind)
    if isinstance(number, int) and isinstance(kind, IndexType):
        return IntegerAttr(number, kind)
    parser.raise_error(f"{number} is no value of the type {kind}", position)


def print_properties(printer: Printer, properties: Mapping[str, Attribute]) -> None:
    """Print ` {name = value, ..}`, or nothing when there is none."""
    if not properties:
        return
    printer.print_string(" ")
    with printer.in_braces():

        def entry(name: str) -> None:
            printer.print_string(f"{name} = ")
            print_value(printer, properties[name])

        printer.print_list(properties, entry)


def parse_properties(parser: Parser) -> dict[str, Attribute]:
    """Parse an optional `{name = value, ..}`."""
    properties: dict[str, Attribute] = {}

    def entry() -> None:
        position = parser.pos
        name = parser.parse_identifier()
        if name in properties:
            parser.raise_error(f"property '{name}' is given twice", position)
        parser.parse_punctuation("=")
        properties[name] = parse_value(parser)

    parser.parse_optional_comma_separated_list(parser.Delimiter.BRACES, entry)
    return properties


def defined_value(parser: Parser, operand: UnresolvedOperand) -> SSAValue:
    """The value that `operand` names; an error when it is not defined yet."""
    values = parser.ssa_values.get(operand.operand_name)
    if values is None or operand.index >= len(values):
        parser.raise_error(f"value %{operand.operand_name} is used before its definition", operand.span)
    return values[operand.index]


def parse_value_use(parser: Parser) -> SSAValue:
    """Parse `%name` of an already defined value."""
    return defined_value(parser, parser.parse_unresolved_operand())


class PmcOp(IRDLOperation, metaclass=PlainClassCheck):
    """Base of all pmc ops: the common assembly, the `path` property and a short way to build an op."""

    path = prop_def(StringAttr)
    """The path of the model block the op came from, `blocks.moe.mla.q_a_proj`."""

    HIDDEN: ClassVar[tuple[str, ...]] = ("path",)
    """Properties that an op's own assembly prints elsewhere than in the braces."""

    BARE: ClassVar[tuple[str, ...]] = ()
    """Optional operands at the end that stand without brackets, and are not there where they are absent."""

    @classmethod
    def make(
        cls,
        operands: Sequence[SSAValue | Sequence[SSAValue]],
        result_types: Sequence[Attribute],
        path: str,
        properties: Mapping[str, PropertyValue] | None = None,
        regions: Sequence[Region] = (),
        like: Operation | None = None,
    ) -> Self:
        """Build the op; a None property is left out or has its default, the source location is that of `like`.

        Operands of `BARE` need not be given.
        """
        flat: list[SSAValue] = []
        sizes: list[int] = []
        for group in operands:
            values = [group] if isinstance(group, SSAValue) else list(group)
            flat.extend(values)
            sizes.append(len(values))
        missing = len(cls.get_irdl_definition().operands) - len(sizes)
        sizes += [0] * min(missing, len(cls.BARE))
        props: dict[str, Attribute] = {
            name: attribute(value) for name, value in (properties or {}).items() if value is not None
        }
        props["path"] = StringAttr(path)
        cls._set_defaults(props)
        if cls._segmented():
            props[SEGMENTS] = DenseArrayBase.from_list(i32, sizes)
        return cls.create(
            operands=flat,
            result_types=result_types,
            properties=props,
            regions=regions,
            location=None if like is None else like.location,
        )

    def emit_error(self, message: str, underlying_error: Exception) -> NoReturn:
        """Raise what a verifier has found, with the name and the path of the op.

        xDSL would print the whole module into the exception, and its own verifiers say what is wrong but not where.
        """
        said = " ".join(str(underlying_error).split())
        path = self.properties.get("path")
        where = f"{self.name} at '{path.data}'" if isinstance(path, StringAttr) else self.name
        raise VerifyException(said if _NAMES_AN_OP.match(said) else f"{where}: {said}") from underlying_error

    @classmethod
    def _set_defaults(cls, properties: dict[str, Attribute]) -> None:
        for name, definition in cls.get_irdl_definition().properties.items():
            if definition.default_value is not None:
                properties.setdefault(name, definition.default_value)

    @classmethod
    def _segmented(cls) -> bool:
        return any(isinstance(o, AttrSizedOperandSegments) for o in cls.get_irdl_definition().options)

    def print(self, printer: Printer) -> None:
        """Print the common form."""
        definition = self.get_irdl_definition()
        with printer.in_parens():
            first = True
            for name, kind in definition.operands:
                value: SSAValue | Sequence[SSAValue] | None = getattr(self, name)
                if value is None and name in self.BARE:
                    continue
                if not first:
                    printer.print_string(", ")
                first = False
                if isinstance(kind, VarOperandDef) and name not in self.BARE:
                    group = [] if value is None else [value] if isinstance(value, SSAValue) else value
                    with printer.in_square_brackets():
                        printer.print_list(group, printer.print_operand)
                elif isinstance(value, SSAValue):
                    printer.print_operand(value)
        order = [name for name in definition.properties if name in self.properties]
        shown = {
            name: self.properties[name]
            for name in order
            if name not in self.HIDDEN
            and name != SEGMENTS
            and self.properties[name] != definition.properties[name].default_value
        }
        print_properties(printer, shown)
        printer.print_string(" at ")
        printer.print_string_literal(self.path.data)
        printer.print_op_attributes(self.attributes, print_keyword=True)
        if self.results:
            printer.print_string(" : ")
            printer.print_list(self.result_types, printer.print_attribute)
        for region in self.regions:
            printer.print_string(" ")
            printer.print_region(region, print_entry_block_args=True)

    @classmethod
    def parse(cls, parser: Parser) -> Self:
        """Parse the common form."""
        definition = cls.get_irdl_definition()
        operands: list[SSAValue] = []
        sizes: list[int] = []
        parser.parse_punctuation("(")
        for index, (name, kind) in enumerate(definition.operands):
            if index and parser.parse_optional_punctuation(",") is None:
                if name in cls.BARE:
                    sizes.append(0)
                    continue
                parser.parse_punctuation(",")
            if isinstance(kind, VarOperandDef) and name not in cls.BARE:
                group = parser.parse_comma_separated_list(parser.Delimiter.SQUARE, lambda: parse_value_use(parser))
            else:
                group = [parse_value_use(parser)]
            operands.extend(group)
            sizes.append(len(group))
        parser.parse_punctuation(")")
        properties = parse_properties(parser)
        cls._set_defaults(properties)
        parser.parse_keyword("at")
        properties["path"] = StringAttr(parse_text(parser))
        attributes: dict[str, Attribute] = {}
        if parser.parse_optional_keyword("attributes") is not None:
            attributes = parser.parse_optional_dictionary_attr_dict()
        types: list[Attribute] = []
        if parser.parse_optional_punctuation(":") is not None:
            types = parser.parse_comma_separated_list(parser.Delimiter.NONE, parser.parse_type)
        if cls._segmented():
            properties[SEGMENTS] = DenseArrayBase.from_list(i32, sizes)
        regions = [parser.parse_region() for _ in definition.regions]
        return cls.create(
            operands=operands,
            result_types=types,
            properties=properties,
            attributes=attributes,
            regions=regions,
        )
