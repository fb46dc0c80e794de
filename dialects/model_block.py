"""What every block of the `model` dialect has: its parameters and caches, listed once, and checks of its sizes."""

from __future__ import annotations

from abc import abstractmethod
from dataclasses import dataclass
from math import prod
from typing import ClassVar

from xdsl.dialects.builtin import IntegerAttr
from xdsl.ir import Attribute
from xdsl.irdl import operand_def, result_def, traits_def
from xdsl.utils.exceptions import VerifyException

from pmc.dialects.assembly import PmcOp
from pmc.dialects.effects import HasEffects, StatedEffects
from pmc.dialects.expr import Expr, floordiv, min_of
from pmc.dialects.state_roles import ENTRY_AXIS
from pmc.dialects.tensor import TensorType, tensor


@dataclass(frozen=True)
class WeightSpec:
    """A parameter of a block: its name below the block's path, its dims and the logical axis of each dim."""

    name: str
    dims: tuple[int, ...]
    axes: tuple[str, ...]
    element_type: Attribute | None = None
    """The stored element type, where it is not that of the model."""
    transpose_of: str | None = None
    """The path of the parameter that is the transpose of this one (tied embeddings): stored once."""
    role: str | None = None
    """What the parameter is, as in `layer.weight`."""
    below: int | None = None
    """What all entries of a table of integers are below, as in `layer.weight`."""
    shared: str | None = None
    """The path of the parameter of another block that this one is: stored once."""

    @property
    def is_own(self) -> bool:
        """Whether it is stored for this block, and not the parameter of another one, or its transpose."""
        return self.transpose_of is None and self.shared is None

    @property
    def elements(self) -> int:
        """The number of elements."""
        return prod(self.dims)


@dataclass(frozen=True)
class CacheSpec:
    """A cache [batch, kv_len, width] of a block: its name below the block's path, the axis of its columns, its role.

    One with a window holds the min(kv_len, window + q_len - 1) newest rows: all that any query of a step sees.  One
    with a ratio holds a row for every so many tokens: floor(kv_len / ratio).
    """

    name: str
    width: int
    axis: str
    role: str
    """What a row holds, as in `layer.state`."""
    window: int | None = None
    """The tokens that a query sees, where that is not all: older ones are not kept."""
    ratio: int = 1
    """The tokens that a row stands for."""

    @property
    def row_axis(self) -> str:
        """The logical axis of the rows."""
        return "position" if self.ratio == 1 else ENTRY_AXIS

    def rows(self, q_len: Expr, kv_len: Expr) -> Expr:
        """The rows of a sequence in a step of `q_len` tokens, the last of `kv_len`."""
        if self.window is not None:
            return min_of(kv_len, q_len + (self.window - 1))
        return floordiv(kv_len, self.ratio)


@dataclass(frozen=True)
class StateSpec:
    """A state [batch, rows, columns] of a block, as large for a long sequence as for a short one."""

    name: str
    dims: tuple[int, int]
    axes: tuple[str, str]
    """The logical axes of rows and columns."""
    role: str
    """One of `FIXED_SIZE_ROLES`."""
    element_type: Attribute | None = None
    """The stored element type, where it is not that of the model."""


class BlockOp(PmcOp, HasEffects):
    """A block of the model, from rows of tokens to rows of tokens."""

    x = operand_def(TensorType)
    y = result_def(TensorType)
    traits = traits_def(StatedEffects())
    POSITIVE: ClassVar[tuple[str, ...]] = ()
    """Integer properties that must be at least 1."""

    @abstractmethod
    def weights(self) -> list[WeightSpec]:
        """All parameters of the block, in the order in which it uses them."""

    def caches(self) -> list[CacheSpec]:
        """The caches of the block, in the order in which it appends to them."""
        return []

    def states(self) -> list[StateSpec]:
        """The states of a fixed size, in the order in which the block replaces them."""
        return []

    def path_of(self, weight: WeightSpec) -> str:
        """Where a parameter of the block is stored."""
        return weight.shared or f"{self.path.data}.{weight.name}"

    def active_parameters(self) -> int:
        """The parameters that one token is multiplied with."""
        return sum(w.elements for w in self.weights())

    @property
    def width(self) -> int:
        """The width of a row of the result."""
        return tensor(self.y).dims[-1].constant

    @property
    def dtype(self) -> Attribute:
        """The element type of the block's weights and activations."""
        return tensor(self.y).element_type

    def require(self, condition: bool, message: str) -> None:
        """Raise a verification error that names the op and its path."""
        if not condition:
            raise VerifyException(f"{self.name} at '{self.path.data}': {message}")

    def verify_(self) -> None:
        """Sizes are positive."""
        for name in self.POSITIVE:
            size = self.properties.get(name)
            if isinstance(size, IntegerAttr):
                self.require(size.value.data >= 1, f"{name} is {size.value.data}, must be at least 1")

    def require_same_type(self) -> None:
        """The result has the type of the input."""
        self.require(self.x.type == self.y.type, f"the result is {self.y.type}, must be as the input {self.x.type}")
