"""What the `model` dialect does with rows between its blocks: norms, sums, factors, bounds, learned positions."""

from __future__ import annotations

from typing import ClassVar

from xdsl.dialects.builtin import BoolAttr, FloatAttr, IntegerAttr, StringAttr
from xdsl.irdl import irdl_op_definition, operand_def, opt_prop_def, prop_def

from pmc.dialects.model_block import BlockOp, WeightSpec
from pmc.dialects.tensor import TensorType

NORMS = ("rms", "layer")
"""The kinds of `model.norm`."""


@irdl_op_definition
class NormOp(BlockOp):
    """A norm of rows, multiplied by a gain per column.

    `rms` divides by the root mean square (Zhang and Sennrich, 2019); `layer` subtracts the mean, divides by the
    standard deviation and may add a bias (Ba et al., 2016).  The gain of a zero-centred norm is 1 + weight (Gemma).
    """

    name = "model.norm"
    kind = prop_def(StringAttr)
    eps = prop_def(FloatAttr)
    zero_centered = opt_prop_def(BoolAttr)
    bias = opt_prop_def(BoolAttr)

    def verify_(self) -> None:
        """The kind is known; the shape stays."""
        super().verify_()
        self.require_same_type()
        self.require(self.kind.data in NORMS, f"kind is '{self.kind.data}', must be {' or '.join(NORMS)}")
        self.require(not self.bias or self.kind.data == "layer", "only a layer norm has a bias")

    def weights(self) -> list[WeightSpec]:
        """The gain, the bias."""
        bias = [WeightSpec("bias", (self.width,), ("",), role="bias")] if self.bias else []
        return [WeightSpec("weight", (self.width,), ("",)), *bias]


@irdl_op_definition
class AddOp(BlockOp):
    """y = x + other: a residual path that meets what has been computed beside it."""

    name = "model.add"
    other = operand_def(TensorType)

    def verify_(self) -> None:
        """All three have one type."""
        super().verify_()
        self.require_same_type()
        self.require(self.other.type == self.y.type, f"the addend is {self.other.type}, must be {self.y.type}")

    def weights(self) -> list[WeightSpec]:
        """None."""
        return []


@irdl_op_definition
class ScaleOp(BlockOp):
    """y = factor * x: the multipliers of embeddings, residuals and logits (Gemma, Granite)."""

    name = "model.scale"
    factor = prop_def(FloatAttr)

    def verify_(self) -> None:
        """The shape stays."""
        super().verify_()
        self.require_same_type()

    def weights(self) -> list[WeightSpec]:
        """None."""
        return []


@irdl_op_definition
class LearnedScaleOp(BlockOp):
    """y = w * x, w one learned number: what leaves a layer of Gemma 4."""

    name = "model.learned_scale"

    def verify_(self) -> None:
        """The shape stays."""
        super().verify_()
        self.require_same_type()

    def weights(self) -> list[WeightSpec]:
        """The number."""
        return [WeightSpec("weight", (1,), ("",))]


@irdl_op_definition
class SoftCapOp(BlockOp):
    """y = cap * tanh(x / cap): the bound on the logits of Gemma 2."""

    name = "model.soft_cap"
    cap = prop_def(FloatAttr)

    def verify_(self) -> None:
        """The shape stays; the bound is positive."""
        super().verify_()
        self.require_same_type()
        self.require(self.cap.value.data > 0, f"cap is {self.cap.value.data}, must be positive")

    def weights(self) -> list[WeightSpec]:
        """None."""
        return []


@irdl_op_definition
class PositionEmbeddingOp(BlockOp):
    """y = x + a learned row for the position of every token; the first `offset` rows are never used (OPT has two)."""

    name = "model.position_embedding"
    POSITIVE: ClassVar[tuple[str, ...]] = ("max_positions",)
    max_positions = prop_def(IntegerAttr)
    offset = prop_def(IntegerAttr)

    def verify_(self) -> None:
        """The shape stays; no row before the first."""
        super().verify_()
        self.require_same_type()
        self.require(self.offset.value.data >= 0, f"offset is {self.offset.value.data}, must be at least 0")

    def weights(self) -> list[WeightSpec]:
        """The table."""
        return [WeightSpec("weight", (self.max_positions.value.data + self.offset.value.data, self.width), ("", ""))]

    def active_parameters(self) -> int:
        """One row of the table: a token looks up, it does not multiply."""
        return self.width
