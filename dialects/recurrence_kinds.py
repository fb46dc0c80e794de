"""The vector kinds of recurrences: one or more tokens of a sequence on a state that stays in LMEM.

The matrices of the state are `update`s, so a command goes on where the one before has stopped.  In the docstrings r is
a row, which is a token, and c a column; arithmetic is FP32.
"""

from __future__ import annotations

from typing import ClassVar

from xdsl.dialects.builtin import BoolAttr, FloatAttr, IntegerAttr, StringAttr
from xdsl.irdl import irdl_attr_definition

from pmc.dialects.expr import Expr, ceildiv, floordiv
from pmc.dialects.vector_kind_attr import Matrix, VectorKindAttr
from pmc.dialects.vector_steps import SIGMOID, VectorSteps

CONV_ACTIVATIONS = ("none", "silu")
"""What a kind can do with its result at the end."""

GATES = ("silu", "sigmoid")
"""What can be made of the gate of a gated norm."""


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
        known = self.activation.data in CONV_ACTIVATIONS
        return None if known else f"activation is '{self.activation.data}', must be {' or '.join(CONV_ACTIVATIONS)}"


class RecurrenceStepAttr(VectorKindAttr):
    """The base of kinds that take the state of every head from token to token.

    A row of the command is a token and a column a head, whose elements fill the lanes: the widths of a head are
    parameters.  Every `shared` heads have a key head of `key_dim` columns in common, the last ones may be fewer.
    """

    RATE: ClassVar[str | None] = "f32"
    PADS_COLUMNS: ClassVar[bool] = False

    def named_extents(self, rows: Expr, columns: Expr) -> dict[str, Expr]:
        """With `keys`, the columns of the key heads of `columns` heads."""
        named = super().named_extents(rows, columns)
        return {**named, "keys": ceildiv(columns, named["shared"]) * named["key_dim"]}

    def wrong_parameter(self, columns: Expr) -> str | None:
        """Widths and numbers of at least one."""
        widths = {name: getattr(self, name).value.data for name in ("key_dim", "value_dim", "shared")}
        return next((f"{name} is {width}, must be at least 1" for name, width in widths.items() if width < 1), None)


@irdl_attr_definition
class SsmStepAttr(RecurrenceStepAttr):
    """For every token in turn: S = exp(dt A) S + dt x B^T, out = S C + D x with A = -exp(a_log), for every head.

    A head has `value_dim` columns of x and out, and S [value_dim, key_dim] in the rows of `state`.  The
    recurrence of Mamba2 (Dao and Gu, 2024).

    Steps of a token of a head: five per element of the state (decay, times B, add, times C, add), four per element of x
    (times dt, times D, add, convert), the decay.
    """

    name: ClassVar[str] = "tile.ssm_step"
    MATRICES: ClassVar[tuple[Matrix, ...]] = (
        Matrix("x", "in", columns=("columns", "value_dim")),
        Matrix("b", "in", columns="keys"),
        Matrix("c", "in", columns="keys"),
        Matrix("dt", "in"),
        Matrix("a_log", "in", rows=1),
        Matrix("d", "in", rows=1),
        Matrix("out", "out", columns=("columns", "value_dim")),
        Matrix("state", "update", rows=("columns", "value_dim"), columns="key_dim"),
    )
    key_dim: IntegerAttr
    value_dim: IntegerAttr
    shared: IntegerAttr

    @property
    def flops_per_element(self) -> int:
        """As the steps, without the conversion: both exponentials and the product of the decay are one each."""
        keys, values = self.key_dim.value.data, self.value_dim.value.data
        return (5 * keys + 3) * values + 3

    @property
    def steps_per_element(self) -> VectorSteps:
        """See above."""
        keys, values = self.key_dim.value.data, self.value_dim.value.data
        return VectorSteps(basic=(5 * keys + 4) * values + 1, exp=2)


@irdl_attr_definition
class GatedDeltaStepAttr(RecurrenceStepAttr):
    """For every token in turn and every head: S = exp(g) S, S = S + k (beta (v - S^T k))^T, out = scale S^T q.

    A head has `value_dim` columns of v and out, S [key_dim, value_dim] in the rows of `state`, and `decay_dim` columns
    of g: one, or one for each of the key_dim rows of S.  The gated delta rule (Yang, Kautz and Hatamizadeh, 2024), with
    decays per row that of Kimi Delta Attention (arXiv 2510.26692).

    Steps of a token of a head: seven per element of the state (decay; times k, add; times the difference, add; times
    q, add), four per element of v (subtract, times beta, scale, convert), an exponential per decay.
    """

    name: ClassVar[str] = "tile.gated_delta_step"
    MATRICES: ClassVar[tuple[Matrix, ...]] = (
        Matrix("v", "in", columns=("columns", "value_dim")),
        Matrix("q", "in", columns="keys"),
        Matrix("k", "in", columns="keys"),
        Matrix("g", "in", columns=("columns", "decay_dim")),
        Matrix("beta", "in"),
        Matrix("out", "out", columns=("columns", "value_dim")),
        Matrix("state", "update", rows=("columns", "key_dim"), columns="value_dim"),
    )
    key_dim: IntegerAttr
    value_dim: IntegerAttr
    shared: IntegerAttr
    decay_dim: IntegerAttr
    scale: FloatAttr

    def wrong_parameter(self, columns: Expr) -> str | None:
        """As of all recurrences; decays of heads or of their rows."""
        keys, decays = self.key_dim.value.data, self.decay_dim.value.data
        wrong = None if decays in (1, keys) else f"decay_dim is {decays}, must be 1 or key_dim, which is {keys}"
        return super().wrong_parameter(columns) or wrong

    @property
    def flops_per_element(self) -> int:
        """As the steps, without the conversion."""
        keys, values = self.key_dim.value.data, self.value_dim.value.data
        return (7 * keys + 3) * values + self.decay_dim.value.data

    @property
    def steps_per_element(self) -> VectorSteps:
        """See above."""
        keys, values = self.key_dim.value.data, self.value_dim.value.data
        return VectorSteps(basic=(7 * keys + 4) * values, exp=self.decay_dim.value.data)


SOFTPLUS = VectorSteps(basic=2, exp=2)
"""Add the bias, exp, add one, log: no chip file has a price for a logarithm, it counts as an exponential."""


@irdl_attr_definition
class SoftplusAttr(VectorKindAttr):
    """out = min(max(log(1 + exp(x + bias)), low), high).  Steps: those of a softplus, max, min, convert."""

    name: ClassVar[str] = "tile.softplus"
    MATRICES: ClassVar[tuple[Matrix, ...]] = (Matrix("x", "in"), Matrix("bias", "in", rows=1), Matrix("out", "out"))
    FLOPS: ClassVar[int] = 6
    ELEMENT_STEPS: ClassVar[VectorSteps] = SOFTPLUS + VectorSteps(basic=3)
    low: FloatAttr
    high: FloatAttr

    def wrong_parameter(self, columns: Expr) -> str | None:
        """Limits in order."""
        low, high = self.low.value.data, self.high.value.data
        return None if low <= high else f"low is {low}, must not be above high, which is {high}"


@irdl_attr_definition
class DecayAttr(VectorKindAttr):
    """out = -exp(a_log) * log(1 + exp(x + bias)); every `group` columns are a head, with one a_log.

    Steps: those of a softplus, exp, mul with the sign, convert.
    """

    name: ClassVar[str] = "tile.decay"
    MATRICES: ClassVar[tuple[Matrix, ...]] = (
        Matrix("x", "in"), Matrix("a_log", "in", rows=1, columns="heads"), Matrix("bias", "in", rows=1),
        Matrix("out", "out"),
    )  # fmt: skip
    FLOPS: ClassVar[int] = 6
    ELEMENT_STEPS: ClassVar[VectorSteps] = SOFTPLUS + VectorSteps(basic=2, exp=1)
    group: IntegerAttr

    def named_extents(self, rows: Expr, columns: Expr) -> dict[str, Expr]:
        """With `heads`, the groups of columns."""
        return {**super().named_extents(rows, columns), "heads": floordiv(columns, self.group.value.data)}

    def wrong_parameter(self, columns: Expr) -> str | None:
        """Whole heads."""
        group = self.group.value.data
        if group < 1:
            return f"group is {group}, must be at least 1"
        divides = not columns.is_constant or columns.constant % group == 0
        return None if divides else f"group {group} does not divide {columns} columns"


@irdl_attr_definition
class L2NormAttr(VectorKindAttr):
    """out = x / sqrt(sum_c(x^2) + eps), every row by itself.

    Steps of an element: square, mul, convert; of a row: sum, add eps, rsqrt, counted as those of `rms_norm`.
    """

    name: ClassVar[str] = "tile.l2_norm"
    MATRICES: ClassVar[tuple[Matrix, ...]] = (Matrix("x", "in"), Matrix("out", "out"))
    FLOPS: ClassVar[int] = 3
    ELEMENT_STEPS: ClassVar[VectorSteps] = VectorSteps(basic=3)
    ROW_STEPS: ClassVar[VectorSteps] = VectorSteps(basic=2, rsqrt=1)
    eps: FloatAttr

    def wrong_parameter(self, columns: Expr) -> str | None:
        """A square root needs no negative number."""
        return None if self.eps.value.data >= 0 else f"eps is {self.eps.value.data}, must not be negative"


@irdl_attr_definition
class GatedRmsNormAttr(VectorKindAttr):
    """out = norm(x * act(gate)) * w where `gate_first`, else norm(x) * w * act(gate); act is silu or sigmoid.

    norm(x) = x / sqrt(mean(x^2) + eps) over each of `groups` equal parts of a row.  Steps: those of `rms_norm`, some of
    them once per group and not once per row, a sigmoid and two multiplications, of which one is that of silu.
    """

    name: ClassVar[str] = "tile.gated_rms_norm"
    MATRICES: ClassVar[tuple[Matrix, ...]] = (
        Matrix("x", "in"), Matrix("gate", "in"), Matrix("w", "in", rows=1), Matrix("out", "out"),
    )  # fmt: skip
    eps: FloatAttr
    groups: IntegerAttr
    gate_first: BoolAttr
    activation: StringAttr

    @property
    def flops_per_element(self) -> int:
        """One less where the gate is not multiplied by its sigmoid."""
        return 9 if self.activation.data == "silu" else 8

    @property
    def steps_per_element(self) -> VectorSteps:
        """See above."""
        return SIGMOID + VectorSteps(basic=6 if self.activation.data == "silu" else 5)

    @property
    def steps_per_row(self) -> VectorSteps:
        """Sum, mean, add eps and the reciprocal square root of every group."""
        groups = self.groups.value.data
        return VectorSteps(basic=2 * groups, div=groups, rsqrt=groups)

    def wrong_parameter(self, columns: Expr) -> str | None:
        """No root of a negative number; groups that divide a row."""
        if self.eps.value.data < 0:
            return f"eps is {self.eps.value.data}, must not be negative"
        if self.activation.data not in GATES:
            return f"activation is '{self.activation.data}', must be {' or '.join(GATES)}"
        groups = self.groups.value.data
        if groups < 1:
            return f"groups is {groups}, must be at least 1"
        divides = not columns.is_constant or columns.constant % groups == 0
        return None if divides else f"{groups} groups do not divide {columns} columns"
