"""A depthwise causal convolution as a tensor op: the short convolutions in front of recurrences."""

from __future__ import annotations

from typing import ClassVar

from xdsl.dialects.builtin import IntegerAttr, StringAttr, i64
from xdsl.ir import SSAValue
from xdsl.irdl import irdl_op_definition, operand_def, opt_operand_def, prop_def, result_def

from pmc.dialects.expr import Expr
from pmc.dialects.interfaces import SEQUENCES, WHOLE, ShardingRule, Unit
from pmc.dialects.layer_op import HEAD, StateUpdateOp
from pmc.dialects.recurrence_kinds import CONV_ACTIVATIONS, CausalConvAttr
from pmc.dialects.tensor import TensorType, tensor


@irdl_op_definition
class CausalConvOp(StateUpdateOp):
    """y[t, c] = act(bias[c] + sum over i < W of weight[c, i] * x[t - (W - 1) + i, c]), every channel by itself.

    x [batch*q_len, C], weight [C, W], bias [C], state [batch, W-1, C]: the last W - 1 inputs of every sequence before
    its first token, oldest first.  Results: y [batch*q_len, C], and the state after its last token.  The activation is
    `silu` or `none`.  `causal_conv1d_update` of Mamba2, Nemotron-H and Qwen3-Next in transformers 5.23.
    """

    name = "layer.causal_conv"
    UNIT: ClassVar[Unit] = "vector"
    x = operand_def(TensorType)
    weight = operand_def(TensorType)
    state = operand_def(TensorType)
    bias = opt_operand_def(TensorType)
    activation = prop_def(StringAttr)
    y = result_def(TensorType)
    after = result_def(TensorType)

    def verify_(self) -> None:
        """Shapes as above; the state holds inputs as they are."""
        x, weight, state = (tensor(v).dims for v in (self.x, self.weight, self.state))
        self.fail_unless(len(x) == 2 and len(state) == 3, "x must be [T, C] and the state [batch, W-1, C]")
        self.fail_unless(len(weight) == 2 and weight[1].is_constant, "weight must be [C, W] with a number of taps")
        self.fail_unless(weight[1].constant > 1, f"weight has {weight[1]} taps, must have at least 2")
        self.require_shape(self.weight, (x[1], weight[1]), "weight")
        self.require_shape(self.state, (state[0], weight[1] - 1, x[1]), "the state")
        self.require_sequences(x[0], state[0])
        if self.bias is not None:
            self.require_shape(self.bias, (x[1],), "the bias")
        self.require_shape(self.y, x, "y")
        stored, found = tensor(self.state).element_type, tensor(self.x).element_type
        self.fail_unless(stored == found, f"the state is {stored}, must be {found}, as the inputs that it keeps")
        self.fail_unless(self.after.type == self.state.type, "the state after the step must have the type of the state")
        self.fail_unless(
            self.activation.data in CONV_ACTIVATIONS,
            f"activation is '{self.activation.data}', must be {' or '.join(CONV_ACTIVATIONS)}",
        )

    @property
    def updated(self) -> tuple[SSAValue, SSAValue]:
        return self.state, self.after

    @property
    def taps(self) -> int:
        """How many inputs an output depends on."""
        return tensor(self.weight).dims[1].constant

    def vector_kind(self) -> CausalConvAttr:
        """What a command does with a tile of tokens and channels."""
        return CausalConvAttr(IntegerAttr(self.taps, i64), self.activation)

    def in_place_pairs(self) -> list[tuple[SSAValue, SSAValue]]:
        """Earlier inputs are kept on the core, so a tile of outputs may overwrite its inputs."""
        return [(self.x, self.y)] if self.x.type == self.y.type else []

    def flops(self) -> Expr:
        """A multiplication and an addition per tap, and the activation."""
        return tensor(self.y).elements * self.vector_kind().flops_per_element

    def sharding_rule(self) -> ShardingRule:
        """Channels are independent; a sequence is gone through from its first token to its last."""
        rows, bias = (SEQUENCES, HEAD), () if self.bias is None else ((HEAD,),)
        state = (SEQUENCES, WHOLE, HEAD)
        return ShardingRule((rows, (HEAD, WHOLE), state, *bias), (rows, state), stationary=frozenset({1, 2}))
