"""The vector kinds of recurrences: one or more tokens of a sequence on a state that stays in LMEM.

The matrices of the state are `update`s, so a command goes on where the one before has stopped.  In the docstrings r is
a row, which is a token, and c a column; arithmetic is FP32.
"""

from __future__ import annotations

from typing import ClassVar

from xdsl.dialects.builtin import IntegerAttr, StringAttr
from xdsl.irdl import irdl_attr_definition

from pmc.dialects.expr import Expr
from pmc.dialects.vector_kind import SIGMOID, Matrix, VectorKindAttr
from pmc.dialects.vector_steps import VectorSteps

ACTIVATIONS = ("none", "silu")
"""What a kind can do with its result at the end."""


@irdl_attr_definition
class CausalConvAttr(VectorKindAttr):
    """out[r, c] = act(bias[c] + sum over i < taps of weight[i, c] * seen[r + i, c]): a depthwise causal convolution.

    `seen` is `history`, the taps - 1 rows before the first, with x below it; then history = the last taps - 1 rows of
    `seen`.  act is silu, or nothing.

    Steps of an element: a multiplication and an addition per tap, the activation, the conversion.  Rows of `history`
    are where they were loaded or computed: none is counted for them.
    """

    name: ClassVar[str] = "tile.causal_conv"
    MATRICES: ClassVar[tuple[Matrix, ...]] = (
        Matrix("x", "in"),
        Matrix("weight", "in", rows="taps"),
        Matrix("bias", "in", rows=1),
        Matrix("out", "out"),
        Matrix("history", "update", rows=("taps", -1)),
    )
    taps: IntegerAttr
    activation: StringAttr

    @property
    def flops_per_element(self) -> int:
        """Two per tap; a sigmoid as in `silu_mul`, and its multiplication."""
        return 2 * self.taps.value.data + (4 if self.activation.data == "silu" else 0)

    @property
    def steps_per_element(self) -> VectorSteps:
        """See above."""
        plain = VectorSteps(basic=2 * self.taps.value.data + 1)
        return plain + SIGMOID + VectorSteps(basic=1) if self.activation.data == "silu" else plain

    def wrong_parameter(self, columns: Expr) -> str | None:
        """At least two taps, as one remembers nothing, and a known activation."""
        if self.taps.value.data < 2:
            return f"taps is {self.taps.value.data}, must be at least 2"
        known = self.activation.data in ACTIVATIONS
        return None if known else f"activation is '{self.activation.data}', must be {' or '.join(ACTIVATIONS)}"
