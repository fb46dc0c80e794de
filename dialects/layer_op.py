"""The bases of the ops of the `layer` dialect: work and partial sums."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Sequence
from typing import ClassVar

from xdsl.ir import Operation, SSAValue
from xdsl.irdl import traits_def
from xdsl.traits import OpTrait
from xdsl.utils.exceptions import VerifyException

from pmc.dialects.assembly import PmcOp
from pmc.dialects.collective import CollectiveAttr, Exchange, ExchangeInterface
from pmc.dialects.effects import UPDATES, Effects, HasEffects, StatedEffects
from pmc.dialects.expr import Expr, expr, product
from pmc.dialects.interfaces import ShardingInterface, Unit, Work, WorkInterface
from pmc.dialects.matrix_types import matrix_type
from pmc.dialects.tensor import TypeMismatchError, element_name, number_type, shape_text, tensor, wrong_indices
from pmc.dialects.vector_kinds import ROW, VectorKindAttr

TOKEN, HEAD = "t", "h"
"""Factors that several rules share."""


class SumsBeforeUse(OpTrait):
    """A partial sum may only reach an op that is linear in it; the result is then the same partial sum."""

    def verify(self, op: Operation) -> None:
        """Check the partial axes of operands and results."""
        # Traits are verified before shapes are: without partial sums the op's rule is not asked for.
        if not isinstance(op, LayerOp) or not any(tensor(value).partial_axes for value in op.operands):
            return
        linear = op.sharding_rule().linear
        partial = {tensor(value).partial_axes for i, value in enumerate(op.operands) if i in linear}
        for index, value in enumerate(op.operands):
            axes = tensor(value).partial_axes
            op.fail_unless(
                not axes or index in linear,
                f"operand {index} is a partial sum over {', '.join(axes)}; reduce it first",
            )
        op.fail_unless(len(partial) <= 1, "operands are partial sums over different axes")
        for axes in partial:
            op.fail_unless(
                all(set(axes) <= set(tensor(r).partial_axes) for r in op.results),
                f"the result of a partial sum over {', '.join(axes)} is partial too",
            )


class LayerOp(PmcOp, WorkInterface, ShardingInterface, HasEffects):
    """A tensor op.  Reads each distinct operand once and writes its results, unless it says otherwise."""

    traits = traits_def(StatedEffects(), SumsBeforeUse())
    UNIT: ClassVar[Unit] = "vector"

    def work(self) -> Work:
        """FLOPs and bytes from the types of operands and results."""
        return Work(
            flops=self.flops(),
            bytes_read=self.bytes_read(),
            bytes_written=sum((tensor(r).bytes for r in self.results), expr(0)),
            unit=self.UNIT,
            dtype=self.compute_dtype(),
        )

    def flops(self) -> Expr:
        """Arithmetic of the op: none, unless it says otherwise."""
        return expr(0)

    def bytes_read(self) -> Expr:
        """Bytes of all distinct operands: a value used twice is read once."""
        return sum((tensor(value).bytes for value in dict.fromkeys(self.operands)), expr(0))

    def in_place_pairs(self) -> list[tuple[SSAValue, SSAValue]]:
        """Operands and results of which the result may have the memory of the operand, if that is not needed after.

        The kernel of the op reads a part of such an operand on the core that writes the result there, and before.
        """
        return []

    def compute_dtype(self) -> str:
        """The element type that sets the rate: that of the first operand."""
        return element_name(tensor(self.operands[0]).element_type)

    def fail_unless(self, condition: bool, message: str) -> None:
        """Raise a verification error that names the op and its path."""
        if not condition:
            raise VerifyException(f"{self.name} at '{self.path.data}': {message}")

    def require_indices(self, value: SSAValue) -> None:
        """Check that the numbers of experts are integers."""
        wrong = wrong_indices(value)
        self.fail_unless(wrong is None, wrong or "")

    def require_shape(self, value: SSAValue, dims: Sequence[Expr], what: str) -> None:
        """Check the dims of an operand or result, which are those of whole tensors or all those of one rank."""
        actual = tensor(value).dims
        self.fail_unless(actual == tuple(dims), f"{what} is {shape_text(actual)}, must be {shape_text(dims)}")

    @property
    def is_sharded(self) -> bool:
        """Whether types are those of whole tensors; lengths in properties may then be those of a rank of cp."""
        return any(tensor(result).is_sharded for result in self.results)


class MultipliesTypes(OpTrait):
    """The matrix unit can multiply the element types of the operands."""

    def verify(self, op: Operation) -> None:
        """Ask for the type of the arithmetic."""
        assert isinstance(op, MatrixOp)
        try:
            op.compute_dtype()
        except TypeMismatchError as error:
            op.fail_unless(False, str(error))


class MatrixOp(LayerOp):
    """An op whose arithmetic runs on the matrix unit."""

    traits = traits_def(StatedEffects(), SumsBeforeUse(), MultipliesTypes())
    UNIT: ClassVar[Unit] = "cube"

    def compute_dtype(self) -> str:
        """The type of the arithmetic, see `matrix_types`.  Raises TypeMismatchError for operands that do not mix."""
        return matrix_type(*(element_name(number_type(tensor(v).element_type)) for v in self.operands[:2]))


class RowOp(LayerOp, ABC):
    """An op on rows: every core gets rows, and one vector command computes a tile of them.

    The op names its vector kind once; arithmetic, vector steps and tiling follow.  Its operands and results are the
    matrices of the kind, in order.  A matrix of one row is loaded once for all tiles; zeros stand for one at the end
    that the op has no operand for.
    """

    @property
    def row_columns(self) -> int | None:
        """The adjacent columns that belong together; None where the op treats every element by itself."""
        return None

    @property
    def has_own_matrices(self) -> bool:
        """Whether every index of the first dim, an expert, has one-row matrices of its own: [E, columns]."""
        return False

    @abstractmethod
    def vector_kind(self, token: Expr) -> VectorKindAttr:
        """What the command does; `token` is the token that row `row` of its matrices belongs to."""

    def require_groups(self, group: int) -> None:
        """Check that the columns of the first operand are whole groups, where both are numbers."""
        width = tensor(self.operands[0]).dims[-1]
        self.fail_unless(
            group > 0 and width.is_constant and width.constant % group == 0, f"{group} does not divide {width} columns"
        )

    def in_place_pairs(self) -> list[tuple[SSAValue, SSAValue]]:
        """A tile writes the rows that it has read."""
        return [(value, result) for result in self.results for value in self.operands if value.type == result.type]

    def flops(self) -> Expr:
        """The arithmetic of the kind on rows of the first operand."""
        *leading, width = tensor(self.operands[0]).dims
        columns = width if self.row_columns is None else expr(self.row_columns)
        rows = product(leading) if columns == width else product(leading) * (width.constant // columns.constant)
        return self.vector_kind(expr(ROW)).flops(rows, columns)


class StateUpdateOp(LayerOp, ABC):
    """An op that changes an array which lives across steps, in place."""

    EFFECTS: ClassVar[Effects] = UPDATES

    @property
    @abstractmethod
    def updated(self) -> tuple[SSAValue, SSAValue]:
        """The array as the op finds it, and the result that is the array after the op."""

    def require_sequences(self, rows: Expr, sequences: Expr) -> None:
        """Check that flat rows are those of so many sequences of one length, where both are numbers."""
        if rows.is_constant and sequences.is_constant:
            alike = rows.constant % sequences.constant == 0 if sequences.constant else rows.constant == 0
            self.fail_unless(alike, f"{sequences} sequences cannot have {rows} new rows")


class OnChipExchangeOp(LayerOp, ExchangeInterface):
    """An op that does on one chip what a collective does between chips."""

    COLLECTIVE: ClassVar[type[CollectiveAttr]]

    def exchange(self) -> Exchange:
        return Exchange.of_values(self.COLLECTIVE.on_chip(), None, self.operands, self.results)
