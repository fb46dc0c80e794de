"""Tensors of symbolic dims, the values of the `model`, `layer` and `dist` dialects."""

from __future__ import annotations

from abc import abstractmethod
from collections.abc import Sequence
from functools import cache, lru_cache
from typing import ClassVar, Self

from xdsl.dialects.builtin import (
    AnyFloat,
    BFloat16Type,
    Float4E2M1FNType,
    Float8E4M3FNType,
    Float8E5M2Type,
    Float8E8M0FNUType,
    Float16Type,
    Float32Type,
    IntegerAttr,
    IntegerType,
    NoneAttr,
    i64,
)
from xdsl.ir import Attribute, Data, ParametrizedAttribute, SSAValue, TypeAttribute
from xdsl.irdl import irdl_attr_definition
from xdsl.parser import AttrParser
from xdsl.printer import Printer
from xdsl.utils.exceptions import VerifyException

from pmc.dialects.class_check import PlainClassCheck
from pmc.dialects.element_formats import element_format
from pmc.dialects.errors import PmcError
from pmc.dialects.expr import Expr, ceildiv, expr, parse_expr, product


class TypeMismatchError(VerifyException, PmcError):
    """A value or an attribute is of another kind than its reader needs: what a verifier says, and a user can cause."""


@irdl_attr_definition
class ShapeAttr(Data[tuple[Expr, ...]]):
    """The dims of a tensor."""

    name: ClassVar[str] = "layer.shape"

    def verify(self) -> None:
        """No dim is negative."""
        for dim in self.data:
            if len(dim.terms) == 1 and not dim.terms[0][0] and dim.terms[0][1] < 0:
                raise VerifyException(f"{shape_text(self.data)} has a negative dim")

    @classmethod
    def parse_parameter(cls, parser: AttrParser) -> tuple[Expr, ...]:
        """Parse `[dim, ..]`, in angle brackets when it stands alone."""
        alone = parser.parse_optional_punctuation("<") is not None
        dims = parser.parse_comma_separated_list(parser.Delimiter.SQUARE, lambda: parse_expr(parser))
        if alone:
            parser.parse_punctuation(">")
        return tuple(dims)

    def print_parameter(self, printer: Printer) -> None:
        """Print `<[dim, ..]>`."""
        with printer.in_angle_brackets():
            printer.print_string(shape_text(self.data))


def shape_text(dims: Sequence[Expr]) -> str:
    """`[dim, ..]`."""
    return f"[{', '.join(str(d) for d in dims)}]"


class Encoding(metaclass=PlainClassCheck):
    """What the encoding of a tensor type can be asked, whichever dialect defines it."""

    @property
    @abstractmethod
    def partial_axes(self) -> tuple[str, ...]:
        """The mesh axes over which the value is a partial sum."""

    @property
    def is_sharding(self) -> bool:
        """Whether the dims of the type are those of the whole tensor, and this says how ranks share it."""
        return False


@irdl_attr_definition
class TensorType(ParametrizedAttribute, TypeAttribute):
    """A tensor of symbolic dims: `!layer.tensor<[batch*q_len, 7168], bf16>`, after sharding with an encoding."""

    name: ClassVar[str] = "layer.tensor"
    shape: ShapeAttr
    element_type: Attribute
    encoding: Attribute

    def verify(self) -> None:
        """At least one dim, as ops speak of rows and columns; elements that can be stored."""
        if not self.shape.data:
            raise VerifyException("a tensor has at least one dim")
        verify_element_type(self.element_type)
        if isinstance(self.element_type, ScaledType) and len(self.dims) < 2:
            raise VerifyException("scales are those of blocks: their tensor has rows and columns")
        if type(self.encoding) is not NoneAttr and not isinstance(self.encoding, Encoding):
            raise VerifyException(f"{self.encoding} is no sharding and no partial sum")

    @classmethod
    def of(cls, dims: Sequence[Expr | int | str], element_type: Attribute, encoding: Attribute | None = None) -> Self:
        """The type with these dims."""
        return cls(ShapeAttr(tuple(expr(d) for d in dims)), element_type, encoding or NoneAttr())

    @property
    def dims(self) -> tuple[Expr, ...]:
        """The dims of the tensor."""
        return self.shape.data

    @property
    def elements(self) -> Expr:
        """The number of elements."""
        return _elements(self.dims)

    @property
    def bytes(self) -> Expr:
        """The size of the tensor, scales included; sub-byte elements are packed."""
        return _bytes(self.dims, self.element_type)

    @property
    def partial_axes(self) -> tuple[str, ...]:
        """The mesh axes over which a value of this type is a partial sum."""
        return () if type(self.encoding) is NoneAttr else self._encoding.partial_axes

    @property
    def is_sharded(self) -> bool:
        """Whether the dims are those of the whole tensor, of which a rank holds a part."""
        return type(self.encoding) is not NoneAttr and self._encoding.is_sharding

    @property
    def _encoding(self) -> Encoding:
        assert isinstance(self.encoding, Encoding)
        return self.encoding

    def with_dims(self, dims: Sequence[Expr]) -> TensorType:
        """The same type with other dims."""
        return TensorType(ShapeAttr(tuple(dims)), self.element_type, self.encoding)

    def with_element_type(self, element_type: Attribute) -> TensorType:
        """The same type with other elements."""
        return TensorType(self.shape, element_type, self.encoding)

    def with_encoding(self, encoding: Attribute | None) -> TensorType:
        """The same type with another sharding."""
        if encoding is None and type(self.encoding) is NoneAttr:
            return self
        return TensorType(self.shape, self.element_type, encoding or NoneAttr())

    @classmethod
    def parse_parameters(cls, parser: AttrParser) -> Sequence[Attribute]:
        """Parse `<[dim, ..], element (, encoding)?>`."""
        with parser.in_angle_brackets():
            shape = ShapeAttr(ShapeAttr.parse_parameter(parser))
            parser.parse_punctuation(",")
            element: Attribute = parser.parse_type()
            encoding: Attribute = NoneAttr()
            if parser.parse_optional_punctuation(",") is not None:
                encoding = parser.parse_attribute()
        return [shape, element, encoding]

    def print_parameters(self, printer: Printer) -> None:
        """Print `<[dim, ..], element (, encoding)?>`."""
        with printer.in_angle_brackets():
            printer.print_string(shape_text(self.dims) + ", ")
            printer.print_attribute(self.element_type)
            if not isinstance(self.encoding, NoneAttr):
                printer.print_string(", ")
                printer.print_attribute(self.encoding)


@irdl_attr_definition
class ScaledType(ParametrizedAttribute, TypeAttribute, metaclass=PlainClassCheck):
    """Elements of a weight [.., contraction, columns] of which blocks share a scale.

    `!layer.scaled<i4, 128 x 1, bf16>`: a number is its code times the scale of its block of `rows` x `columns`; the
    last blocks of a dim may be short.
    """

    name: ClassVar[str] = "layer.scaled"
    element_type: Attribute
    rows: IntegerAttr
    columns: IntegerAttr
    scale_type: Attribute

    def verify(self) -> None:
        """Plain elements and scales, and blocks that are not empty."""
        for plain in (self.element_type, self.scale_type):
            if not isinstance(plain, AnyFloat | IntegerType):
                raise VerifyException(f"codes and scales are numbers, not {plain}")
        if min(self.block) < 1:
            raise VerifyException(f"a block of {self.block[0]} x {self.block[1]} is empty")

    @classmethod
    def of(cls, element_type: Attribute, block: tuple[int, int], scale_type: Attribute) -> Self:
        """Blocks of rows x columns with a scale each."""
        return cls(element_type, IntegerAttr(block[0], i64), IntegerAttr(block[1], i64), scale_type)

    @property
    def block(self) -> tuple[int, int]:
        """Rows and columns that share a scale."""
        return self.rows.value.data, self.columns.value.data

    @property
    def bitwidth(self) -> int:
        """The bits of a code."""
        return element_bits(self.element_type)

    @property
    def scale_bits(self) -> float:
        """The bits of scales for each element of whole blocks."""
        return element_bits(self.scale_type) / (self.block[0] * self.block[1])

    def scales(self, dims: Sequence[Expr]) -> Expr:
        """How many scales a tensor of these dims has."""
        *leading, rows, columns = dims
        return product((*leading, ceildiv(rows, self.block[0]), ceildiv(columns, self.block[1])))

    @classmethod
    def parse_parameters(cls, parser: AttrParser) -> Sequence[Attribute]:
        """Parse `<element, rows x columns, scale>`."""
        with parser.in_angle_brackets():
            element: Attribute = parser.parse_type()
            parser.parse_punctuation(",")
            rows = IntegerAttr(parser.parse_integer(allow_negative=False), i64)
            parser.parse_keyword("x")
            columns = IntegerAttr(parser.parse_integer(allow_negative=False), i64)
            parser.parse_punctuation(",")
            return [element, rows, columns, parser.parse_type()]

    def print_parameters(self, printer: Printer) -> None:
        """Print `<element, rows x columns, scale>`."""
        with printer.in_angle_brackets():
            printer.print_attribute(self.element_type)
            printer.print_string(f", {self.block[0]} x {self.block[1]}, ")
            printer.print_attribute(self.scale_type)


_ELEMENT_TYPES: dict[str, Attribute] = {
    str(t): t
    for t in (
        Float32Type(), Float16Type(), BFloat16Type(), Float8E4M3FNType(), Float8E5M2Type(), Float8E8M0FNUType(),
        Float4E2M1FNType(), IntegerType(8), IntegerType(4),
    )
}  # fmt: skip


def type_of_format(name: str) -> Attribute:
    """The element type of a format of `element_formats`.  Raises ValueError for a name that is none."""
    found = element_format(name)
    element = _ELEMENT_TYPES[found.element]
    if found.scales is None:
        return element
    block = (found.scales.rows, found.scales.columns)
    return ScaledType.of(element, block, _ELEMENT_TYPES[found.scales.element])


def number_type(element_type: Attribute) -> Attribute:
    """The type of the codes where they have scales, else the type itself."""
    return element_type.element_type if isinstance(element_type, ScaledType) else element_type


@lru_cache(maxsize=65536)
def _elements(dims: tuple[Expr, ...]) -> Expr:
    return product(dims)


@lru_cache(maxsize=65536)
def _bytes(dims: tuple[Expr, ...], element_type: Attribute) -> Expr:
    size = size_bytes(_elements(dims), element_type)
    if isinstance(element_type, ScaledType):
        size = size + size_bytes(element_type.scales(dims), element_type.scale_type)
    return size


MAX_ELEMENT_BITS = 64


@cache
def verify_element_type(element_type: Attribute) -> None:
    """Raise VerifyException unless elements of this type can be stored: integers and floats of up to 64 bits."""
    if isinstance(element_type, ScaledType):
        return
    if not isinstance(element_type, AnyFloat | IntegerType) or not 1 <= element_type.bitwidth <= MAX_ELEMENT_BITS:
        raise VerifyException(f"elements are integers or floats of at most {MAX_ELEMENT_BITS} bits, not {element_type}")


def verify_numbers(*shapes: ShapeAttr) -> None:
    """Raise VerifyException for a dim that is no number: below the tensors nothing is symbolic."""
    for shape in shapes:
        if not all(dim.is_constant for dim in shape.data):
            raise VerifyException(f"{shape_text(shape.data)} must be numbers")


def element_bits(element_type: Attribute) -> int:
    """The storage size of one element in bits."""
    bits: object = getattr(element_type, "bitwidth", None)
    if not isinstance(bits, int):
        raise TypeMismatchError(f"{element_type} has no storage size")
    return bits


def size_bytes(elements: Expr, element_type: Attribute) -> Expr:
    """The bytes of that many elements, without their scales."""
    bits = element_bits(element_type)
    return elements * (bits // 8) if bits % 8 == 0 else ceildiv(elements * bits, 8)


@lru_cache(maxsize=256)
def element_name(element_type: Attribute) -> str:
    """The name of an element type as MLIR spells it: `bf16`, `f8E4M3FN`, `i32`."""
    return str(element_type)


def verify_carried(where: str, types: Sequence[Attribute], **found: Sequence[Attribute]) -> None:
    """Raise unless all values that an iteration hands to the next have `types`; `found` names them by what they are."""
    for what, actual in found.items():
        if list(actual) != list(types):
            raise VerifyException(
                f"{where}: {what.replace('_', ' ')} have types {', '.join(map(str, actual))}, "
                f"the initial values {', '.join(map(str, types))}"
            )


def tensor(value: SSAValue) -> TensorType:
    """The type of `value`, which must be a tensor."""
    if not isinstance(value.type, TensorType):
        raise TypeMismatchError(f"expected a !layer.tensor, found {value.type}")
    return value.type


def wrong_indices(value: SSAValue) -> str | None:
    """What is wrong with the numbers of experts or rows, which must be integers."""
    element = tensor(value).element_type
    return None if isinstance(element, IntegerType) else f"indices are {element_name(element)}, must be integers"


def ints(value: SSAValue) -> tuple[int, ...]:
    """The dims of a tensor.  Raises UnboundSymbolError where a symbol is left."""
    return tuple(d.constant for d in tensor(value).dims)
