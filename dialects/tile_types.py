"""The types of the `tile` dialect: arrays in DRAM, buffers in LMEM, the cores of kernels and of loads."""

from __future__ import annotations

from collections.abc import Sequence
from typing import ClassVar, Self

import numpy as np
from xdsl.dialects.builtin import IntegerAttr
from xdsl.ir import Attribute, ParametrizedAttribute, SSAValue, TypeAttribute
from xdsl.irdl import irdl_attr_definition
from xdsl.parser import AttrParser
from xdsl.printer import Printer
from xdsl.utils.exceptions import VerifyException

from pmc.dialects.arch import Chip
from pmc.dialects.expr import Expr, ExprAttr, expr, parse_expr, product
from pmc.dialects.interfaces import IntArray
from pmc.dialects.tensor import (
    ShapeAttr,
    TensorType,
    TypeMismatchError,
    element_bits,
    shape_text,
    size_bytes,
    verify_element_type,
    verify_numbers,
)

CORE = "core"
"""The symbol that numbers the cores of a kernel."""


@irdl_attr_definition
class MemRefType(ParametrizedAttribute, TypeAttribute):
    """A strided array in DRAM: `!tile.memref<[64, 128], f8E4M3FN, strides [192, 1], offset 64>`, in elements.

    Strides and offset are left out of the text when the array is dense.
    """

    name: ClassVar[str] = "tile.memref"
    shape: ShapeAttr
    element_type: Attribute
    strides: ShapeAttr
    offset: ExprAttr

    def verify(self) -> None:
        """Numbers, one stride per dim, and elements that can be stored."""
        verify_numbers(self.shape, self.strides)
        if len(self.shape.data) != len(self.strides.data):
            raise VerifyException(f"{len(self.strides.data)} strides for {len(self.shape.data)} dims")
        verify_element_type(self.element_type)

    @classmethod
    def of(
        cls,
        dims: Sequence[Expr | int],
        element_type: Attribute,
        strides: Sequence[Expr | int] | None = None,
        offset: Expr | int = 0,
    ) -> Self:
        """The type with these dims; dense when no strides are given."""
        shape = tuple(expr(d) for d in dims)
        steps = dense_strides(shape) if strides is None else tuple(expr(s) for s in strides)
        return cls(ShapeAttr(shape), element_type, ShapeAttr(steps), ExprAttr.of(offset))

    @property
    def dims(self) -> tuple[int, ...]:
        """The dims, which are integers at this level."""
        return tuple(d.constant for d in self.shape.data)

    @property
    def steps(self) -> tuple[int, ...]:
        """The strides in elements."""
        return tuple(s.constant for s in self.strides.data)

    @property
    def is_dense(self) -> bool:
        """Whether the array is row-major without gaps and starts at its base."""
        return self.strides.data == dense_strides(self.shape.data) and self.offset.data == 0

    @property
    def bytes(self) -> int:
        """The size of the elements of the array."""
        return size_bytes(product(self.shape.data), self.element_type).constant

    @property
    def tensor(self) -> TensorType:
        """The tensor that the array holds."""
        return TensorType.of(self.shape.data, self.element_type)

    @classmethod
    def parse_parameters(cls, parser: AttrParser) -> Sequence[Attribute]:
        """Parse `<[dim, ..], element (, strides [..], offset n)?>`."""
        with parser.in_angle_brackets():
            shape = ShapeAttr(ShapeAttr.parse_parameter(parser))
            parser.parse_punctuation(",")
            element = parser.parse_type()
            strides, offset = ShapeAttr(dense_strides(shape.data)), ExprAttr.of(0)
            if parser.parse_optional_punctuation(",") is not None:
                parser.parse_keyword("strides")
                strides = ShapeAttr(ShapeAttr.parse_parameter(parser))
                parser.parse_punctuation(",")
                parser.parse_keyword("offset")
                offset = ExprAttr(parse_expr(parser))
        return [shape, element, strides, offset]

    def print_parameters(self, printer: Printer) -> None:
        """Print what `parse_parameters` reads."""
        with printer.in_angle_brackets():
            printer.print_string(shape_text(self.shape.data) + ", ")
            printer.print_attribute(self.element_type)
            if not self.is_dense:
                printer.print_string(f", strides {shape_text(self.strides.data)}, offset {self.offset.data}")


def dense_strides(dims: Sequence[Expr]) -> tuple[Expr, ...]:
    """Row-major strides of an array without gaps."""
    return tuple(product(dims[i + 1 :]) for i in range(len(dims)))


@irdl_attr_definition
class BufferType(ParametrizedAttribute, TypeAttribute):
    """A dense [rows, columns] array in the LMEM of a core: `!tile.buffer<[64, 512], f8E4M3FN>`."""

    name: ClassVar[str] = "tile.buffer"
    shape: ShapeAttr
    element_type: Attribute

    @classmethod
    def of(cls, rows: int, columns: int, element_type: Attribute) -> Self:
        """The type of a buffer of `rows` x `columns` elements."""
        return cls(ShapeAttr((expr(rows), expr(columns))), element_type)

    @property
    def dims(self) -> tuple[int, int]:
        """Rows and columns."""
        rows, columns = self.shape.data
        return rows.constant, columns.constant

    @property
    def bytes(self) -> int:
        """The size of one slot."""
        rows, columns = self.dims
        return -(-rows * columns * element_bits(self.element_type) // 8)

    def verify(self) -> None:
        """Two dims, and elements that can be stored."""
        if len(self.shape.data) != 2:
            raise VerifyException(f"a buffer has rows and columns, found {shape_text(self.shape.data)}")
        verify_numbers(self.shape)
        verify_element_type(self.element_type)

    @classmethod
    def parse_parameters(cls, parser: AttrParser) -> Sequence[Attribute]:
        """Parse `<[rows, columns], element>`."""
        with parser.in_angle_brackets():
            shape = ShapeAttr(ShapeAttr.parse_parameter(parser))
            parser.parse_punctuation(",")
            return [shape, parser.parse_type()]

    def print_parameters(self, printer: Printer) -> None:
        """Print `<[rows, columns], element>`."""
        with printer.in_angle_brackets():
            printer.print_string(shape_text(self.shape.data) + ", ")
            printer.print_attribute(self.element_type)


@irdl_attr_definition
class CoresAttr(ParametrizedAttribute):
    """Cores of a kernel: `#tile.cores<floordiv(core, 16)*16, 16>` or `#tile.cores<mod(core, 4), 16 stride 4>`.

    `count` cores from `first` on, `stride` apart; `first` may depend on `core`, the core that the attribute is read on.
    """

    name: ClassVar[str] = "tile.cores"
    first: ExprAttr
    count: IntegerAttr
    stride: IntegerAttr

    @classmethod
    def of(cls, first: Expr | int, count: int, stride: int = 1) -> Self:
        """These cores."""
        return cls(ExprAttr.of(first), IntegerAttr(count, 64), IntegerAttr(stride, 64))

    def leaders(self, cores: int) -> IntArray:
        """For every core of a kernel the first of the cores that it names.

        Raises UnboundSymbolError for a symbol other than `core`.
        """
        first = np.asarray(self.first.data.evaluate({CORE: np.arange(cores)}), np.int64)
        return np.broadcast_to(first, (cores,))

    def fault(self, cores: int) -> str | None:
        """What is wrong with these cores in a kernel of `cores` cores: every core must find itself in one group."""
        count, stride = self.count.value.data, self.stride.value.data
        if count < 1 or stride < 1:
            return "count and stride must be at least 1"
        others = self.first.data.symbols - {CORE}
        if others:
            return f"the first core may depend on '{CORE}' only, not on '{min(others)}'"
        if (count - 1) * stride >= cores:
            return f"names {count} cores {stride} apart, the kernel has {cores}"
        leaders = self.leaders(cores)
        members = leaders[:, None] + np.arange(count) * stride
        outside = np.flatnonzero((members < 0).any(axis=1) | (members >= cores).any(axis=1))
        if len(outside):
            core = int(outside[0])
            return f"core {core} names the cores {members[core].tolist()}, the kernel has 0..{cores - 1}"
        apart = np.flatnonzero((members != np.arange(cores)[:, None]).all(axis=1))
        if len(apart):
            return f"core {apart[0]} is not among the cores {members[apart[0]].tolist()} that it names"
        differing = np.flatnonzero((leaders[members] != leaders[:, None]).any(axis=1))
        if len(differing):
            core = int(differing[0])
            return f"the cores {members[core].tolist()} that core {core} names do not all name the same"
        return None

    @classmethod
    def parse_parameters(cls, parser: AttrParser) -> Sequence[Attribute]:
        """Parse `<first, count (stride n)?>`."""
        with parser.in_angle_brackets():
            first = ExprAttr(parse_expr(parser))
            parser.parse_punctuation(",")
            count, stride = parser.parse_integer(), 1
            if parser.parse_optional_keyword("stride") is not None:
                stride = parser.parse_integer()
        return [first, IntegerAttr(count, 64), IntegerAttr(stride, 64)]

    def print_parameters(self, printer: Printer) -> None:
        """Print what `parse_parameters` reads."""
        stride = self.stride.value.data
        with printer.in_angle_brackets():
            printer.print_string(f"{self.first.data}, {self.count.value.data}")
            if stride != 1:
                printer.print_string(f" stride {stride}")


def memref_type(value: SSAValue) -> MemRefType:
    """The type of an array in DRAM."""
    if not isinstance(value.type, MemRefType):
        raise TypeMismatchError(f"expected a !tile.memref, found {value.type}")
    return value.type


def buffer_type(value: SSAValue) -> BufferType:
    """The type of a buffer in LMEM."""
    if not isinstance(value.type, BufferType):
        raise TypeMismatchError(f"expected a !tile.buffer, found {value.type}")
    return value.type


MOST_CORES = 2**16
"""Cores of a kernel in a module that does not say its chip."""


def cores_fault(cores: int, chip: Chip | None) -> str | None:
    """What is wrong with the number of cores of a kernel."""
    most, where = (MOST_CORES, "") if chip is None else (chip.cores, f", the cores of {chip.name}")
    return None if 1 <= cores <= most else f"cores is {cores}, must be 1 to {most}{where}"


_RUNNING = ".seq"


def running_count(loop: str) -> str:
    """The symbol that counts all iterations of `loop` so far."""
    return f"{loop}{_RUNNING}"


def is_running_count(symbol: str) -> bool:
    """Whether a symbol counts all iterations of a loop, as `running_count` names it."""
    return symbol.endswith(_RUNNING)
