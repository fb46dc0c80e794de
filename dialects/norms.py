"""The norms of rows as tensor ops: RMS norm, alone and with the residual before it, and layer normalization."""

from __future__ import annotations

from typing import ClassVar

from xdsl.dialects.builtin import FloatAttr, IntegerAttr, NoneAttr, UnitAttr
from xdsl.irdl import irdl_op_definition, operand_def, opt_operand_def, opt_prop_def, prop_def, result_def

from pmc.dialects.expr import Expr, expr
from pmc.dialects.interfaces import WHOLE, ShardingRule
from pmc.dialects.layer_op import HEAD, TOKEN, RowOp
from pmc.dialects.tensor import TensorType, tensor
from pmc.dialects.vector_kinds import (
    AddRmsNormAttr,
    LayerNormAttr,
    RmsNormalizeAttr,
    RmsNormAttr,
    SplitRmsNormAttr,
    SquareSumAttr,
    VectorKindAttr,
)


@irdl_op_definition
class RmsNormOp(RowOp):
    """y = x / sqrt(mean(x^2) + eps) * w over each `group` columns of a row (the whole row in a plain norm).

    The gain is w, with `zero_centered` 1 + w (Gemma, Qwen3-Next), and without w there is none (the QK norm of Llama 4).
    """

    name = "layer.rms_norm"
    BARE: ClassVar[tuple[str, ...]] = ("w",)
    x = operand_def(TensorType)
    w = opt_operand_def(TensorType)
    eps = prop_def(FloatAttr)
    group = prop_def(IntegerAttr)
    zero_centered = opt_prop_def(UnitAttr)
    y = result_def(TensorType)

    def verify_(self) -> None:
        """Groups divide a row; w has one element per column of a group."""
        self.fail_unless(len(tensor(self.x).dims) == 2, "x must be [T, width]")
        self.require_groups(self.group.value.data)
        if self.w is not None:
            self.require_shape(self.w, (expr(self.group.value.data),), "w")
        self.fail_unless(self.w is not None or self.zero_centered is None, "zero_centered needs w")
        self.require_shape(self.y, tensor(self.x).dims, "y")

    @property
    def row_columns(self) -> int:
        return self.group.value.data

    def vector_kind(self, token: Expr) -> VectorKindAttr:
        del token
        if self.w is None:
            return RmsNormalizeAttr(self.eps)
        return RmsNormAttr(self.eps, self.zero_centered or NoneAttr())

    def sharding_rule(self) -> ShardingRule:
        """A row is normalised whole, heads of a per-head norm may be sharded."""
        whole = tensor(self.x).dims[-1] == expr(self.group.value.data)
        row = (TOKEN, WHOLE if whole else HEAD)
        return ShardingRule((row, (WHOLE,))[: len(self.operands)], (row,))


@irdl_op_definition
class SquareSumOp(RowOp):
    """y [T, 1] = the sum of the squares of each row, in FP32: of a rank's columns of a row that several ranks have."""

    name = "layer.square_sum"
    x = operand_def(TensorType)
    y = result_def(TensorType)

    def verify_(self) -> None:
        """One number a row."""
        dims = tensor(self.x).dims
        self.fail_unless(len(dims) == 2 and dims[1].is_constant, "x must be [T, width]")
        self.require_shape(self.y, (dims[0], expr(1)), "y")

    @property
    def row_columns(self) -> int:
        return tensor(self.x).dims[-1].constant

    def vector_kind(self, token: Expr) -> VectorKindAttr:
        del token
        return SquareSumAttr()

    def sharding_rule(self) -> ShardingRule:
        """Columns are contracted: ranks with some of them have partial sums."""
        return ShardingRule(((TOKEN, HEAD),), ((TOKEN, WHOLE),))


@irdl_op_definition
class SplitRmsNormOp(RowOp):
    """y = x / sqrt(sums / width + eps) * w: an RMS norm whose rows of `width` columns several ranks have.

    sums [T, 1] are those of the squares of whole rows.  With `zero_centered` the gain is 1 + w.
    """

    name = "layer.split_rms_norm"
    x = operand_def(TensorType)
    sums = operand_def(TensorType)
    w = operand_def(TensorType)
    eps = prop_def(FloatAttr)
    width = prop_def(IntegerAttr)
    zero_centered = opt_prop_def(UnitAttr)
    y = result_def(TensorType)

    def verify_(self) -> None:
        """A sum for every row, a gain for every column; a rank has no more columns than there are."""
        dims = tensor(self.x).dims
        self.fail_unless(len(dims) == 2 and dims[1].is_constant, "x must be [T, width]")
        self.require_shape(self.sums, (dims[0], expr(1)), "sums")
        self.require_shape(self.w, dims[1:], "w")
        width, own = self.width.value.data, dims[1].constant
        self.fail_unless(own > 0 and width % own == 0, f"rows of {width} columns have no part of {own} columns")
        self.require_shape(self.y, dims, "y")

    @property
    def row_columns(self) -> int:
        return tensor(self.x).dims[-1].constant

    def vector_kind(self, token: Expr) -> VectorKindAttr:
        del token
        return SplitRmsNormAttr(self.eps, self.width, self.zero_centered or NoneAttr())

    def sharding_rule(self) -> ShardingRule:
        """Every rank normalises its columns."""
        row = (TOKEN, HEAD)
        return ShardingRule((row, (TOKEN, WHOLE), (HEAD,)), (row,))


@irdl_op_definition
class AddRmsNormOp(RowOp):
    """total = a + b, y = total / sqrt(mean(total^2) + eps) * w over a whole row: a residual and the norm behind it.

    With `zero_centered` the gain is 1 + w.
    """

    name = "layer.add_rms_norm"
    a = operand_def(TensorType)
    b = operand_def(TensorType)
    w = operand_def(TensorType)
    eps = prop_def(FloatAttr)
    zero_centered = opt_prop_def(UnitAttr)
    total = result_def(TensorType)
    y = result_def(TensorType)

    def verify_(self) -> None:
        """Matrices of one shape, w with one element per column."""
        dims = tensor(self.a).dims
        self.fail_unless(len(dims) == 2, "a must be [T, width]")
        for value, what in ((self.b, "b"), (self.total, "total"), (self.y, "y")):
            self.require_shape(value, dims, what)
        self.require_shape(self.w, dims[1:], "w")

    @property
    def row_columns(self) -> int:
        return tensor(self.a).dims[1].constant

    def vector_kind(self, token: Expr) -> VectorKindAttr:
        del token
        return AddRmsNormAttr(self.eps, self.zero_centered or NoneAttr())

    def sharding_rule(self) -> ShardingRule:
        """A row is normalised whole."""
        row = (TOKEN, WHOLE)
        return ShardingRule((row, row, (WHOLE,)), (row, row))


@irdl_op_definition
class LayerNormOp(RowOp):
    """y = (x - mean(x)) / sqrt(mean((x - mean(x))^2) + eps) * w + b over each row (Ba, Kiros and Hinton, 2016).

    With `zero_centered` the gain is 1 + w (Nemotron).  Without b (Cohere) the kernel adds zeros, which are counted.
    """

    name = "layer.layer_norm"
    BARE: ClassVar[tuple[str, ...]] = ("b",)
    x = operand_def(TensorType)
    w = operand_def(TensorType)
    b = opt_operand_def(TensorType)
    eps = prop_def(FloatAttr)
    zero_centered = opt_prop_def(UnitAttr)
    y = result_def(TensorType)

    def verify_(self) -> None:
        """x [T, width]; w and b have one element per column."""
        dims = tensor(self.x).dims
        self.fail_unless(len(dims) == 2 and dims[1].is_constant, "x must be [T, width]")
        self.require_shape(self.w, dims[1:], "w")
        if self.b is not None:
            self.require_shape(self.b, dims[1:], "b")
        self.require_shape(self.y, dims, "y")

    @property
    def row_columns(self) -> int:
        return tensor(self.x).dims[-1].constant

    def vector_kind(self, token: Expr) -> VectorKindAttr:
        del token
        return LayerNormAttr(self.eps, self.zero_centered or NoneAttr())

    def sharding_rule(self) -> ShardingRule:
        """A row is normalised whole."""
        row = (TOKEN, WHOLE)
        return ShardingRule((row, (WHOLE,), (WHOLE,))[: len(self.operands)], (row,))
