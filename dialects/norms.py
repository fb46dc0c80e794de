"""The norms of rows as tensor ops: RMS norm, alone and with the residual before it, and layer normalization."""

from __future__ import annotations

from xdsl.dialects.builtin import FloatAttr, IntegerAttr
from xdsl.irdl import irdl_op_definition, operand_def, prop_def, result_def

from pmc.dialects.expr import Expr, expr
from pmc.dialects.interfaces import WHOLE, ShardingRule
from pmc.dialects.layer_op import HEAD, TOKEN, RowOp
from pmc.dialects.tensor import TensorType, tensor
from pmc.dialects.vector_kinds import AddRmsNormAttr, LayerNormAttr, RmsNormAttr, VectorKindAttr


@irdl_op_definition
class RmsNormOp(RowOp):
    """y = x / sqrt(mean(x^2) + eps) * w over each `group` columns of a row (the whole row in a plain norm)."""

    name = "layer.rms_norm"
    x = operand_def(TensorType)
    w = operand_def(TensorType)
    eps = prop_def(FloatAttr)
    group = prop_def(IntegerAttr)
    y = result_def(TensorType)

    def verify_(self) -> None:
        """Groups divide a row; w has one element per column of a group."""
        self.fail_unless(len(tensor(self.x).dims) == 2, "x must be [T, width]")
        self.require_groups(self.group.value.data)
        self.require_shape(self.w, (expr(self.group.value.data),), "w")
        self.require_shape(self.y, tensor(self.x).dims, "y")

    @property
    def row_columns(self) -> int:
        return self.group.value.data

    def vector_kind(self, token: Expr) -> VectorKindAttr:
        del token
        return RmsNormAttr(self.eps)

    def sharding_rule(self) -> ShardingRule:
        """A row is normalised whole, heads of a per-head norm may be sharded."""
        whole = tensor(self.x).dims[-1] == expr(self.group.value.data)
        column = WHOLE if whole else HEAD
        return ShardingRule(((TOKEN, column), (WHOLE,)), ((TOKEN, column),))


@irdl_op_definition
class AddRmsNormOp(RowOp):
    """total = a + b, y = total / sqrt(mean(total^2) + eps) * w over a whole row: a residual and the norm behind it."""

    name = "layer.add_rms_norm"
    a = operand_def(TensorType)
    b = operand_def(TensorType)
    w = operand_def(TensorType)
    eps = prop_def(FloatAttr)
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
        return AddRmsNormAttr(self.eps)

    def sharding_rule(self) -> ShardingRule:
        """A row is normalised whole."""
        row = (TOKEN, WHOLE)
        return ShardingRule((row, row, (WHOLE,)), (row, row))


@irdl_op_definition
class LayerNormOp(RowOp):
    """y = (x - mean(x)) / sqrt(mean((x - mean(x))^2) + eps) * w + b over each row (Ba, Kiros and Hinton, 2016)."""

    name = "layer.layer_norm"
    x = operand_def(TensorType)
    w = operand_def(TensorType)
    b = operand_def(TensorType)
    eps = prop_def(FloatAttr)
    y = result_def(TensorType)

    def verify_(self) -> None:
        """x [T, width]; w and b have one element per column."""
        dims = tensor(self.x).dims
        self.fail_unless(len(dims) == 2 and dims[1].is_constant, "x must be [T, width]")
        self.require_shape(self.w, dims[1:], "w")
        self.require_shape(self.b, dims[1:], "b")
        self.require_shape(self.y, dims, "y")

    @property
    def row_columns(self) -> int:
        return tensor(self.x).dims[-1].constant

    def vector_kind(self, token: Expr) -> VectorKindAttr:
        del token
        return LayerNormAttr(self.eps)

    def sharding_rule(self) -> ShardingRule:
        """A row is normalised whole."""
        return ShardingRule(((TOKEN, WHOLE), (WHOLE,), (WHOLE,)), ((TOKEN, WHOLE),))
