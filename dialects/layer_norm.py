"""Layer normalization as a tensor op."""

from __future__ import annotations

from xdsl.dialects.builtin import FloatAttr
from xdsl.irdl import irdl_op_definition, operand_def, prop_def, result_def

from pmc.dialects.expr import Expr
from pmc.dialects.interfaces import WHOLE, ShardingRule
from pmc.dialects.layer_op import TOKEN, RowOp
from pmc.dialects.tensor import TensorType, tensor
from pmc.dialects.vector_kinds import LayerNormAttr, VectorKindAttr


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
