"""Hyper-connections of the `model` dialect: a residual path of several streams, beside each other in a row.

    %s = model.copy_streams(%x) {hc_mult = 4} : !layer.tensor<[batch*q_len, 4*hidden], bf16>
    %w = model.stream_weights(%s) {hc_mult = 4, hc_sinkhorn_iters = 20, ..} : !layer.tensor<[batch*q_len, 24], f32>
    %c = model.collapse_streams(%s, %w) {hc_mult = 4} : !layer.tensor<[batch*q_len, hidden], bf16>
    %f = a block, with its norms
    %t = model.mix_streams(%s, %f, %w) {hc_mult = 4} : as %s

Before the head the streams are collapsed once more, with weights that have no `hc_sinkhorn_iters`.
Manifold-constrained hyper-connections (Xie et al., 2026); `DeepseekV4HyperConnection` and `DeepseekV4HyperHead` of
transformers 5.23.
"""

from __future__ import annotations

from abc import abstractmethod
from collections.abc import Mapping, Sequence
from typing import ClassVar, Self

from xdsl.dialects.builtin import Float32Type, FloatAttr, IntegerAttr
from xdsl.ir import SSAValue
from xdsl.irdl import irdl_op_definition, operand_def, opt_prop_def, prop_def

from pmc.dialects.assembly import PropertyValue
from pmc.dialects.expr import expr
from pmc.dialects.hyper_connection_kinds import weights_of_a_row
from pmc.dialects.model_block import BlockOp, WeightSpec
from pmc.dialects.tensor import TensorType, tensor


class StreamsOp(BlockOp):
    """What these ops share: the number of streams, and a result that follows from the operands."""

    POSITIVE: ClassVar[tuple[str, ...]] = ("hc_sinkhorn_iters",)
    hc_mult = prop_def(IntegerAttr)

    @classmethod
    def of(cls, operands: Sequence[SSAValue], path: str, properties: Mapping[str, PropertyValue]) -> Self:
        """The op with the result that follows from its operands."""
        draft = cls.make(operands, [operands[0].type], path, properties)
        result = draft.result_of([tensor(value) for value in operands])
        draft.drop_all_references()
        return cls.make(operands, [result], path, properties)

    @property
    def streams(self) -> int:
        """How many there are."""
        return self.hc_mult.value.data

    def verify_(self) -> None:
        """Several streams; the result is what follows from the operands."""
        super().verify_()
        self.require(self.streams > 1, f"hc_mult is {self.streams}, must be at least 2")
        types = [tensor(value) for value in self.operands]
        self.require_operands(types)
        wanted = self.result_of(types)
        self.require(self.y.type == wanted, f"the result is {self.y.type}, must be {wanted}")

    def require_operands(self, types: list[TensorType]) -> None:
        """Raise a verification error for operands that do not fit together: here for rows that are not of streams."""
        width = types[0].dims[-1].constant
        self.require(width % self.streams == 0, f"{self.streams} streams do not divide rows of {width} columns")

    @abstractmethod
    def result_of(self, types: list[TensorType]) -> TensorType:
        """The type of the result for operands of these types."""

    def require_weights(self, types: TensorType, collapses_only: bool) -> None:
        """Raise a verification error unless rows of weights have as many columns as the streams need."""
        columns, wanted = types.dims[-1].constant, weights_of_a_row(self.streams, collapses_only)
        self.require(columns == wanted, f"{self.streams} streams need rows of {wanted} weights, found {columns}")

    def weights(self) -> list[WeightSpec]:
        """None."""
        return []


@irdl_op_definition
class CopyStreamsOp(StreamsOp):
    """Rows [T, hidden] as `hc_mult` equal streams: the residual path in front of the first layer."""

    name = "model.copy_streams"

    def require_operands(self, types: list[TensorType]) -> None:
        """Any rows will do."""

    def result_of(self, types: list[TensorType]) -> TensorType:
        """Rows as many times as wide."""
        rows, width = types[0].dims
        return types[0].with_dims((rows, width * self.streams))


@irdl_op_definition
class StreamWeightsOp(StreamsOp):
    """The weights of the streams x of every token: scale * (norm(x) fn) + base, made (pre, post, comb).

    norm is an RMS norm of all streams together, without a gain.  pre = sigmoid + hc_eps, post = 2 sigmoid, comb a
    softmax that `hc_sinkhorn_iters` iterations of Sinkhorn and Knopp make doubly stochastic; without these only pre.
    They are FP32, and scale and base are stored so; fn, whose product the matrix unit computes, is of the type of x.
    """

    name = "model.stream_weights"
    hc_sinkhorn_iters = opt_prop_def(IntegerAttr)
    hc_eps = prop_def(FloatAttr)
    rms_norm_eps = prop_def(FloatAttr)

    @property
    def columns(self) -> int:
        """The weights of a token."""
        return weights_of_a_row(self.streams, self.hc_sinkhorn_iters is None)

    def result_of(self, types: list[TensorType]) -> TensorType:
        """A row of weights for every row."""
        return TensorType.of([types[0].dims[0], self.columns], Float32Type())

    def weights(self) -> list[WeightSpec]:
        """The projection, the factors, the offsets."""
        x = tensor(self.x)
        factors = 1 if self.hc_sinkhorn_iters is None else 3
        return [
            WeightSpec("fn.weight", (x.dims[-1].constant, self.columns), ("", ""), x.element_type),
            WeightSpec("scale", (factors,), ("",), Float32Type()),
            WeightSpec("base", (self.columns,), ("",), Float32Type(), role="bias"),
        ]


@irdl_op_definition
class CollapseStreamsOp(StreamsOp):
    """What a block reads of the streams x: their sum, each times its weight pre."""

    name = "model.collapse_streams"
    stream_weights = operand_def(TensorType)

    def require_operands(self, types: list[TensorType]) -> None:
        """Weights of a block or of the head."""
        super().require_operands(types)
        self.require_weights(types[1], collapses_only=types[1].dims[-1].constant == self.streams)

    def result_of(self, types: list[TensorType]) -> TensorType:
        """Rows of one stream."""
        rows, width = types[0].dims
        return types[0].with_dims((rows, expr(width.constant // self.streams)))


@irdl_op_definition
class MixStreamsOp(StreamsOp):
    """The streams behind a block: those before it mixed by comb, and what the block has `added` times post."""

    name = "model.mix_streams"
    added = operand_def(TensorType)
    stream_weights = operand_def(TensorType)

    def require_operands(self, types: list[TensorType]) -> None:
        """A row of one stream is added, with weights of a block."""
        super().require_operands(types)
        streams, added, weights = types
        wanted = streams.with_dims((streams.dims[0], expr(streams.dims[-1].constant // self.streams)))
        self.require(added == wanted, f"what is added is {added}, must be {wanted}")
        self.require_weights(weights, collapses_only=False)

    def result_of(self, types: list[TensorType]) -> TensorType:
        """As before the block."""
        return types[0]
