"""Schemas as the text of MLIR attributes: a nested dictionary in angle brackets, read and validated by the schema."""

from __future__ import annotations

from collections.abc import Sequence
from typing import ClassVar, TypeVar, cast

from pydantic import ValidationError
from xdsl.dialects.builtin import (
    ArrayAttr,
    DictionaryAttr,
    FloatAttr,
    IntegerAttr,
    IntegerType,
    NoneType,
    StringAttr,
)
from xdsl.ir import Attribute, Data
from xdsl.parser import AttrParser
from xdsl.printer import Printer

from pmc.dialects.schema import Schema, explain

SchemaT = TypeVar("SchemaT", bound=Schema)


def print_schema(printer: Printer, schema: Schema) -> None:
    """Print `<{field = value, ..}>`."""
    printer.print_string(f"<{_text(schema.model_dump())}>")


def parse_schema(parser: AttrParser, schema: type[SchemaT]) -> SchemaT:
    """Parse what `print_schema` prints; a value that the schema does not take is an error at its place."""
    with parser.in_angle_brackets():
        start = parser.pos
        attribute = parser.parse_attribute()
        try:
            return schema.model_validate(_value(attribute))
        except ValidationError as error:
            parser.raise_error(explain(error, schema)[1], start)


class SchemaAttr(Data[SchemaT]):
    """An attribute that holds a configuration; a subclass gives its name and the schema."""

    SCHEMA: ClassVar[type[Schema]]

    @classmethod
    def parse_parameter(cls, parser: AttrParser) -> SchemaT:
        """Parse and validate `<{..}>`."""
        return cast(SchemaT, parse_schema(parser, cls.SCHEMA))

    def print_parameter(self, printer: Printer) -> None:
        """Print `<{..}>`."""
        print_schema(printer, self.data)


def _text(value: object) -> str:
    """MLIR attribute syntax; a float is its shortest exact form, with the point that MLIR asks for."""
    match value:
        case None:
            return "none"
        case bool():
            return "true" if value else "false"
        case int():
            return str(value)
        case float():
            mantissa, exponent, power = repr(value).partition("e")
            return (mantissa if "." in mantissa else mantissa + ".0") + exponent + power
        case str():
            return f'"{value}"'  # schemas admit no text that needs escapes
        case dict():
            entries = cast(dict[str, object], value)
            return "{" + ", ".join(f"{k} = {_text(v)}" for k, v in entries.items()) + "}"
        case _:
            return "[" + ", ".join(map(_text, cast(Sequence[object], value))) + "]"


def _value(attribute: Attribute) -> object:
    match attribute:
        case DictionaryAttr():
            return {key: _value(item) for key, item in attribute.data.items()}
        case ArrayAttr():
            return [_value(item) for item in attribute]
        case StringAttr():
            return attribute.data
        case FloatAttr():
            return attribute.value.data
        case IntegerAttr():
            value = attribute.value.data
            return bool(value) if attribute.type == IntegerType(1) else value
        case NoneType():
            return None
        case _:
            return attribute  # no schema takes it: the error names the field
