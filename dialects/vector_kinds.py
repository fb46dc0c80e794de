"""The vector kinds: what a command of the vector unit or the sort unit does, an attribute class each.

    tile.vector([%s], [%p], [%m, %l, %o]) {kind = #tile.softmax_step<scale = 0.1, causal = true, position = row,
                                           key = s*64>, rows = <16>, columns = <64>} at ".."

A class says which matrices the command has and how much of each it uses, its typed parameters, its arithmetic, the
elementary steps of the vector unit that it takes, and the engine.  Everything else reads that: verifiers, accesses,
work, emission and unrolling.  What a kind computes is in its docstring; in numpy, in
`backends/numeric/vector_kinds.py`.

In the docstrings r is a row and c a column of the command's `rows` x `columns`; arithmetic is FP32.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import ClassVar

from xdsl.dialects.builtin import (
    BoolAttr,
    DictionaryAttr,
    FloatAttr,
    IntegerAttr,
    NoneAttr,
    StringAttr,
    UnitAttr,
)
from xdsl.irdl import irdl_attr_definition

from pmc.dialects.block_kinds import BlockMaxAttr as BlockMaxAttr
from pmc.dialects.block_kinds import BlockRowsAttr as BlockRowsAttr
from pmc.dialects.compression_kinds import PoolFinishAttr as PoolFinishAttr
from pmc.dialects.compression_kinds import PoolStepAttr as PoolStepAttr
from pmc.dialects.expr import Expr, ExprAttr
from pmc.dialects.hyper_connection_kinds import CollapseStreamsAttr as CollapseStreamsAttr
from pmc.dialects.hyper_connection_kinds import CopyStreamsAttr as CopyStreamsAttr
from pmc.dialects.hyper_connection_kinds import MixStreamsAttr as MixStreamsAttr
from pmc.dialects.hyper_connection_kinds import StreamWeightsAttr as StreamWeightsAttr
from pmc.dialects.recurrence_kinds import CausalConvAttr as CausalConvAttr
from pmc.dialects.recurrence_kinds import DecayAttr as DecayAttr
from pmc.dialects.recurrence_kinds import GatedDeltaStepAttr as GatedDeltaStepAttr
from pmc.dialects.recurrence_kinds import GatedRmsNormAttr as GatedRmsNormAttr
from pmc.dialects.recurrence_kinds import L2NormAttr as L2NormAttr
from pmc.dialects.recurrence_kinds import SoftplusAttr as SoftplusAttr
from pmc.dialects.recurrence_kinds import SsmStepAttr as SsmStepAttr
from pmc.dialects.router_kinds import BEST_OF_GROUP as BEST_OF_GROUP
from pmc.dialects.router_kinds import SCORINGS as SCORINGS
from pmc.dialects.router_kinds import ExpertScaleAttr as ExpertScaleAttr
from pmc.dialects.router_kinds import RouterTopkAttr as RouterTopkAttr
from pmc.dialects.router_kinds import RouterWeightsAttr as RouterWeightsAttr
from pmc.dialects.vector_kind_attr import KIND as KIND
from pmc.dialects.vector_kind_attr import ROLES as ROLES
from pmc.dialects.vector_kind_attr import ROW as ROW
from pmc.dialects.vector_kind_attr import Matrix as Matrix
from pmc.dialects.vector_kind_attr import Role as Role
from pmc.dialects.vector_kind_attr import VectorKindAttr as VectorKindAttr
from pmc.dialects.vector_steps import SIGMOID, VectorSteps
from pmc.dialects.vector_steps import Arithmetic as Arithmetic

TANH = VectorSteps(basic=2, exp=1, div=1)
"""1 - 2 / (1 + exp(2 x)), the factor in the exponent left to what is multiplied before: exp, add, div, subtract."""


@irdl_attr_definition
class FillAttr(VectorKindAttr):
    """out = value."""

    name: ClassVar[str] = "tile.fill"
    MATRICES: ClassVar[tuple[Matrix, ...]] = (Matrix("out", "out"),)
    ELEMENT_STEPS: ClassVar[VectorSteps] = VectorSteps(basic=1)
    value: FloatAttr

    @classmethod
    def of(cls, value: float) -> FillAttr:
        """Fill with `value`."""
        return cls(FloatAttr(value, 64))


@irdl_attr_definition
class RepeatRowsAttr(VectorKindAttr):
    """out[r, c] = x[r mod period, c] in the element type of out."""

    name: ClassVar[str] = "tile.repeat_rows"
    MATRICES: ClassVar[tuple[Matrix, ...]] = (Matrix("x", "in", rows="period"), Matrix("out", "out"))
    ELEMENT_STEPS: ClassVar[VectorSteps] = VectorSteps(basic=1)
    period: IntegerAttr

    def wrong_parameter(self, columns: Expr) -> str | None:
        """At least one row."""
        return None if self.period.value.data > 0 else f"period is {self.period.value.data}, must be at least 1"


@irdl_attr_definition
class ConvertAttr(VectorKindAttr):
    """out = x in the element type of out."""

    name: ClassVar[str] = "tile.convert"
    MATRICES: ClassVar[tuple[Matrix, ...]] = (Matrix("x", "in"), Matrix("out", "out"))
    FLOPS: ClassVar[int] = 1
    ELEMENT_STEPS: ClassVar[VectorSteps] = VectorSteps(basic=1)


@irdl_attr_definition
class AddAttr(VectorKindAttr):
    """out = a + b."""

    name: ClassVar[str] = "tile.add"
    MATRICES: ClassVar[tuple[Matrix, ...]] = (Matrix("a", "in"), Matrix("b", "in"), Matrix("out", "out"))
    FLOPS: ClassVar[int] = 1
    ELEMENT_STEPS: ClassVar[VectorSteps] = VectorSteps(basic=1)


@irdl_attr_definition
class SiluMulAttr(VectorKindAttr):
    """out = silu(gate) * up.

    Steps: sigmoid, times gate, times up, convert.
    """

    name: ClassVar[str] = "tile.silu_mul"
    MATRICES: ClassVar[tuple[Matrix, ...]] = (Matrix("gate", "in"), Matrix("up", "in"), Matrix("out", "out"))
    FLOPS: ClassVar[int] = 5
    ELEMENT_STEPS: ClassVar[VectorSteps] = SIGMOID + VectorSteps(basic=3)


def _wrong_eps(eps: float) -> str | None:
    """A square root needs no negative number."""
    return None if eps >= 0 else f"eps is {eps}, must not be negative"


class NormAttr(VectorKindAttr):
    """The base of norms with a gain, which is w or, with `zero_centered`, 1 + w: one step more of every element."""

    @property
    def flops_per_element(self) -> int:
        """Those of the norm, and the sum."""
        return self.FLOPS + self._sums

    @property
    def steps_per_element(self) -> VectorSteps:
        """Those of the norm, and the sum."""
        return self.ELEMENT_STEPS + VectorSteps(basic=self._sums)

    @property
    def _sums(self) -> int:
        flag = getattr(self, "zero_centered")  # noqa: B009  # every norm has this parameter, and the next
        return int(isinstance(flag, UnitAttr))

    def wrong_parameter(self, columns: Expr) -> str | None:
        """A root of a number that is not negative."""
        eps = getattr(self, "eps")  # noqa: B009
        assert isinstance(eps, FloatAttr)
        return _wrong_eps(eps.value.data)


@irdl_attr_definition
class RmsNormAttr(NormAttr):
    """out = x / sqrt(mean_c(x^2) + eps) * w, every row by itself.

    Steps of an element: square, mul, scale, convert; of a row: sum, mean (div), add eps, rsqrt, as in the SG2262 kernel
    templates published with Tier6-Model.
    """

    name: ClassVar[str] = "tile.rms_norm"
    MATRICES: ClassVar[tuple[Matrix, ...]] = (Matrix("x", "in"), Matrix("w", "in", rows=1), Matrix("out", "out"))
    FLOPS: ClassVar[int] = 4
    ELEMENT_STEPS: ClassVar[VectorSteps] = VectorSteps(basic=4)
    ROW_STEPS: ClassVar[VectorSteps] = VectorSteps(basic=2, div=1, rsqrt=1)
    eps: FloatAttr
    zero_centered: UnitAttr | NoneAttr


@irdl_attr_definition
class SquareSumAttr(VectorKindAttr):
    """out[r, 0] = sum_c x[r, c]^2.  Steps of an element: square; of a row: sum, counted as that of `rms_norm`."""

    name: ClassVar[str] = "tile.square_sum"
    MATRICES: ClassVar[tuple[Matrix, ...]] = (Matrix("x", "in"), Matrix("out", "out", columns=1))
    FLOPS: ClassVar[int] = 2
    ELEMENT_STEPS: ClassVar[VectorSteps] = VectorSteps(basic=1)
    ROW_STEPS: ClassVar[VectorSteps] = VectorSteps(basic=1)


@irdl_attr_definition
class SplitRmsNormAttr(NormAttr):
    """out = x / sqrt(sums / width + eps) * w, every row by itself: with `square_sum` the steps of `rms_norm`."""

    name: ClassVar[str] = "tile.split_rms_norm"
    MATRICES: ClassVar[tuple[Matrix, ...]] = (
        Matrix("x", "in"), Matrix("sums", "in", columns=1), Matrix("w", "in", rows=1), Matrix("out", "out"),
    )  # fmt: skip
    FLOPS: ClassVar[int] = 2
    ELEMENT_STEPS: ClassVar[VectorSteps] = VectorSteps(basic=3)
    ROW_STEPS: ClassVar[VectorSteps] = VectorSteps(basic=1, div=1, rsqrt=1)
    eps: FloatAttr
    width: IntegerAttr
    zero_centered: UnitAttr | NoneAttr

    def wrong_parameter(self, columns: Expr) -> str | None:
        """Rows have columns, besides what holds for the eps."""
        if self.width.value.data < 1:
            return f"width is {self.width.value.data}, must be positive"
        return super().wrong_parameter(columns)


@irdl_attr_definition
class AddRmsNormAttr(NormAttr):
    """total = a + b, out = total / sqrt(mean_c(total^2) + eps) * w, every row by itself: the steps of both."""

    name: ClassVar[str] = "tile.add_rms_norm"
    MATRICES: ClassVar[tuple[Matrix, ...]] = (
        Matrix("a", "in"), Matrix("b", "in"), Matrix("w", "in", rows=1), Matrix("total", "out"), Matrix("out", "out"),
    )  # fmt: skip
    FLOPS: ClassVar[int] = AddAttr.FLOPS + RmsNormAttr.FLOPS
    ELEMENT_STEPS: ClassVar[VectorSteps] = AddAttr.ELEMENT_STEPS + RmsNormAttr.ELEMENT_STEPS
    ROW_STEPS: ClassVar[VectorSteps] = RmsNormAttr.ROW_STEPS
    eps: FloatAttr
    zero_centered: UnitAttr | NoneAttr


@irdl_attr_definition
class LayerNormAttr(NormAttr):
    """out = (x - mean_c(x)) / sqrt(mean_c((x - mean_c(x))^2) + eps) * w + b, every row by itself.

    Steps of an element: subtract the mean, square, scale, mul, add, convert; of a row: two sums, two means (div), add
    eps, rsqrt, counted as those of `rms_norm`.
    """

    name: ClassVar[str] = "tile.layer_norm"
    MATRICES: ClassVar[tuple[Matrix, ...]] = (
        Matrix("x", "in"),
        Matrix("w", "in", rows=1),
        Matrix("b", "in", rows=1),
        Matrix("out", "out"),
    )
    FLOPS: ClassVar[int] = 6
    ELEMENT_STEPS: ClassVar[VectorSteps] = VectorSteps(basic=6)
    ROW_STEPS: ClassVar[VectorSteps] = VectorSteps(basic=3, div=2, rsqrt=1)
    eps: FloatAttr
    zero_centered: UnitAttr | NoneAttr


@irdl_attr_definition
class RopeAttr(VectorKindAttr):
    """out = x, the columns of each row rotated by the angles of `position` (RoFormer, equation 34).

    `interleaved` pairs columns (2j, 2j+1), otherwise (j, j + columns/2).  `scaling` holds the fields of the Hugging
    Face `rope_scaling` that change the frequencies.  Steps: two mul, add, convert.

    With `rotary_dim` the first columns are rotated (the last, if `trailing`), as a row of so many, and the rest is
    copied: the two mul and the add are counted for these columns, the conversion for all.  `inverse` turns back.
    """

    name: ClassVar[str] = "tile.rope"
    MATRICES: ClassVar[tuple[Matrix, ...]] = (Matrix("x", "in"), Matrix("out", "out"))
    PER_ROW_PARAMETERS: ClassVar[tuple[str, ...]] = ("position",)
    FLOPS: ClassVar[int] = 3
    ELEMENT_STEPS: ClassVar[VectorSteps] = VectorSteps(basic=4)
    theta: FloatAttr
    interleaved: BoolAttr
    position: ExprAttr
    scaling: DictionaryAttr | NoneAttr
    rotary_dim: IntegerAttr | NoneAttr
    trailing: UnitAttr | NoneAttr
    inverse: UnitAttr | NoneAttr

    @property
    def flops_per_element(self) -> int:
        """None where a row has its own number."""
        return self.FLOPS if isinstance(self.rotary_dim, NoneAttr) else 0

    @property
    def flops_per_row(self) -> int:
        """Those of the columns that are rotated."""
        return 0 if isinstance(self.rotary_dim, NoneAttr) else self.FLOPS * self.rotary_dim.value.data

    @property
    def steps_per_element(self) -> VectorSteps:
        """Rotate and convert, or convert."""
        return self.ELEMENT_STEPS if isinstance(self.rotary_dim, NoneAttr) else VectorSteps(basic=1)

    @property
    def steps_per_row(self) -> VectorSteps:
        """Rotate the columns that are not all."""
        return VectorSteps(basic=0 if isinstance(self.rotary_dim, NoneAttr) else 3 * self.rotary_dim.value.data)

    def wrong_parameter(self, columns: Expr) -> str | None:
        """A positive base, and pairs of columns, of which some are left where `rotary_dim` is given."""
        if not self.theta.value.data > 0:
            return f"theta is {self.theta.value.data}, must be positive"
        if isinstance(self.rotary_dim, IntegerAttr):
            rotary = self.rotary_dim.value.data
            if rotary <= 0 or rotary % 2 or (columns.is_constant and rotary >= columns.constant):
                return f"rotary_dim is {rotary}, must be positive, even and less than the {columns} columns"
            return None
        if columns.is_constant and columns.constant % 2:
            return f"rotates pairs of columns, found {columns}"
        return None


@irdl_attr_definition
class SoftmaxStepAttr(VectorKindAttr):
    """One step of FlashAttention-2 (Dao 2023, algorithm 1): scores S -> P, with max M, sum L, accumulator O updated.

    Column c is key `key` + c; with `causal`, keys beyond `position` of the row have score -inf, and where the kind has
    it, also keys before `first` of the row.  s = scale * S;
    m = max(M, max_c s); P = exp(s - m); f = exp(M - m); L = f*L + sum_c P; O = f*O; M = m.  Kernels fill M with -inf,
    L and O with 0 before the first step; the mma after the step adds P V to O.

    With a `soft_cap`, s = soft_cap * tanh(scale * S / soft_cap).  With `alibi`, the number of heads of the model,
    slope * (key + c - position) is added to s, with the slope of head `head` of the row (ALiBi): an immediate of the
    command, as the angles of `rope` are.

    Steps of a score: subtract the maximum, exp, convert; with a soft cap also a multiplication before the tanh and one
    after it, with ALiBi mul and add; of a row: reduce-max, max, exp of the correction, reduce-sum,
    mul, add, copy; as in the SG2262 kernel templates published with Tier6-Model.
    """

    name: ClassVar[str] = "tile.softmax_step"
    PADS_ROWS: ClassVar[bool] = True
    RATE: ClassVar[str | None] = "bf16"
    MATRICES: ClassVar[tuple[Matrix, ...]] = (
        Matrix("scores", "in"),
        Matrix("p", "out"),
        Matrix("row_max", "update", columns=1),
        Matrix("row_sum", "update", columns=1),
        Matrix("acc", "update", columns="width"),
    )
    PER_ROW_PARAMETERS: ClassVar[tuple[str, ...]] = ("position", "first", "head")
    ELEMENT_STEPS: ClassVar[VectorSteps] = VectorSteps(basic=2, exp=1)
    ROW_STEPS: ClassVar[VectorSteps] = VectorSteps(basic=6, exp=1)
    scale: FloatAttr
    causal: BoolAttr
    position: ExprAttr
    key: ExprAttr
    first: ExprAttr | NoneAttr
    soft_cap: FloatAttr | NoneAttr
    alibi: IntegerAttr | NoneAttr
    head: ExprAttr | NoneAttr

    def __init__(
        self,
        scale: FloatAttr,
        causal: BoolAttr,
        position: ExprAttr,
        key: ExprAttr,
        first: ExprAttr | NoneAttr | None = None,
        soft_cap: FloatAttr | NoneAttr | None = None,
        alibi: IntegerAttr | NoneAttr | None = None,
        head: ExprAttr | NoneAttr | None = None,
    ) -> None:
        """Without `first` rows see all keys from the beginning on; without `soft_cap` scores may be of any size."""
        optional = (value or NoneAttr() for value in (first, soft_cap, alibi, head))
        super().__init__(scale, causal, position, key, *optional)

    @classmethod
    def element_steps(cls, capped: bool, biased: bool) -> VectorSteps:
        """The steps of a score with or without a soft cap, and with or without a bias by distance."""
        steps = cls.ELEMENT_STEPS + VectorSteps(basic=2 * biased)
        return steps + TANH + VectorSteps(basic=2) if capped else steps

    @property
    def steps_per_element(self) -> VectorSteps:
        return self.element_steps(isinstance(self.soft_cap, FloatAttr), isinstance(self.alibi, IntegerAttr))

    def wrong_parameter(self, columns: Expr) -> str | None:
        """Only a causal row has a first key; a cap is positive."""
        if isinstance(self.soft_cap, FloatAttr) and not self.soft_cap.value.data > 0:
            return f"soft_cap is {self.soft_cap.value.data}, must be positive"
        if isinstance(self.alibi, IntegerAttr) != isinstance(self.head, ExprAttr):
            return "parameters 'alibi' and 'head' need each other"
        if isinstance(self.alibi, IntegerAttr) and self.alibi.value.data < 1:
            return f"alibi is {self.alibi.value.data}, must be at least 1, the heads"
        hides = isinstance(self.first, ExprAttr) and not bool(self.causal)
        return "parameter 'first' needs causal = true" if hides else None


@irdl_attr_definition
class SoftmaxFinishAttr(VectorKindAttr):
    """out = acc / row_sum: the reciprocal once a row, a multiplication per element."""

    name: ClassVar[str] = "tile.softmax_finish"
    MATRICES: ClassVar[tuple[Matrix, ...]] = (
        Matrix("acc", "in"),
        Matrix("row_sum", "in", columns=1),
        Matrix("out", "out"),
    )
    ELEMENT_STEPS: ClassVar[VectorSteps] = VectorSteps(basic=1)
    ROW_STEPS: ClassVar[VectorSteps] = VectorSteps(div=1)


class MergeAttr(VectorKindAttr):
    """The base of kinds that merge partial results of `parts` cores, which lie in `x` below each other."""

    @property
    def steps_per_element(self) -> VectorSteps:
        """One step for every part of an element."""
        return VectorSteps(basic=self._parts)

    @property
    def _parts(self) -> int:
        parts = getattr(self, "parts")  # noqa: B009  # every merge has this parameter
        assert isinstance(parts, IntegerAttr)
        return parts.value.data

    def wrong_parameter(self, columns: Expr) -> str | None:
        """At least two parts."""
        return None if self._parts > 1 else f"parts is {self._parts}, must be at least 2"


@irdl_attr_definition
class SumPartsAttr(MergeAttr):
    """out[r, c] = sum over p of x[p*rows + r, c]: partial sums of a contraction that cores share."""

    name: ClassVar[str] = "tile.sum_parts"
    MATRICES: ClassVar[tuple[Matrix, ...]] = (Matrix("x", "in", rows=("parts", "rows")), Matrix("out", "out"))
    parts: IntegerAttr


@irdl_attr_definition
class SoftmaxMergeAttr(MergeAttr):
    """out = sum over p of w_p acc_p / sum over p of w_p l_p with w_p = exp(m_p - max over p of m_p).

    The running states (accumulator, maximum, sum) of cores that share the keys (flash decoding, Dao et al., 2023),
    those of part p in rows p*rows to (p+1)*rows.
    """

    name: ClassVar[str] = "tile.softmax_merge"
    MATRICES: ClassVar[tuple[Matrix, ...]] = (
        Matrix("accumulator", "in", rows=("parts", "rows")),
        Matrix("max", "in", rows=("parts", "rows"), columns=1),
        Matrix("sum", "in", rows=("parts", "rows"), columns=1),
        Matrix("out", "out"),
    )
    parts: IntegerAttr


@irdl_attr_definition
class ReluWeightedSumAttr(VectorKindAttr):
    """out[r, c] = scale * sum over h of weights[r, h] * max(0, products[r*heads + h, c]): the scores of an indexer.

    Steps of a score: for every head the maximum, the multiplication and the addition; the scale and the conversion.
    """

    name: ClassVar[str] = "tile.relu_weighted_sum"
    MATRICES: ClassVar[tuple[Matrix, ...]] = (
        Matrix("products", "in", rows=("heads", "rows")),
        Matrix("weights", "in", columns="heads"),
        Matrix("out", "out"),
    )
    heads: IntegerAttr
    scale: FloatAttr

    @property
    def flops_per_element(self) -> int:
        """Maximum, multiplication and addition of every head."""
        return 3 * self.heads.value.data

    @property
    def steps_per_element(self) -> VectorSteps:
        """One step each, then the scale and the conversion."""
        return VectorSteps(basic=3 * self.heads.value.data + 2)

    def wrong_parameter(self, columns: Expr) -> str | None:
        """At least one head."""
        heads = self.heads.value.data
        return None if heads >= 1 else f"heads is {heads}, must be at least 1"


@irdl_attr_definition
class TopkSelectAttr(VectorKindAttr):
    """The `top_k` best of the keys so far: positions and scores of each row, with those of `columns` more keys.

    Column c is key `key` + c, all keys before `key` have been seen; keys beyond `position` of the row count as -inf.
    Of equal scores the first key wins.  Kept keys stand in the order of their positions, at the end of the row: the
    first top_k - key entries hold no key yet and are not looked at, so nothing need be there before the first keys.
    The last `always` keys up to `position` count as +inf.

    Steps of a score, whatever `top_k` is: a radix selection of 32-bit numbers looks at every key five times, four
    times to take 8 more bits and to count them, and once to compare with the threshold and to copy.  It belongs to no
    vendor's sort unit.
    """

    name: ClassVar[str] = "tile.topk_select"
    MATRICES: ClassVar[tuple[Matrix, ...]] = (
        Matrix("scores", "in"),
        Matrix("kept_scores", "update", columns="top_k"),
        Matrix("kept_keys", "update", columns="top_k"),
    )
    PER_ROW_PARAMETERS: ClassVar[tuple[str, ...]] = ("position",)
    FLOPS: ClassVar[int] = 1
    ELEMENT_STEPS: ClassVar[VectorSteps] = VectorSteps(basic=10)
    top_k: IntegerAttr
    position: ExprAttr
    key: ExprAttr
    always: IntegerAttr | NoneAttr

    def reads(self, matrix: Matrix) -> Expr:
        """What was kept is read from the second tile of keys on."""
        return self.key.data if matrix.role == "update" else super().reads(matrix)

    def wrong_parameter(self, columns: Expr) -> str | None:
        """At least one key is kept, or always so."""
        for name, value in (("top_k", self.top_k), ("always", self.always)):
            if isinstance(value, IntegerAttr) and value.value.data < 1:
                return f"{name} is {value.value.data}, must be at least 1"
        return None


@irdl_attr_definition
class RmsNormalizeAttr(VectorKindAttr):
    """out = x / sqrt(mean_c(x^2) + eps), every row by itself: the steps of `rms_norm` but for the gain."""

    name: ClassVar[str] = "tile.rms_normalize"
    MATRICES: ClassVar[tuple[Matrix, ...]] = (Matrix("x", "in"), Matrix("out", "out"))
    FLOPS: ClassVar[int] = 3
    ELEMENT_STEPS: ClassVar[VectorSteps] = VectorSteps(basic=3)
    ROW_STEPS: ClassVar[VectorSteps] = RmsNormAttr.ROW_STEPS
    eps: FloatAttr

    def wrong_parameter(self, columns: Expr) -> str | None:
        """A root of a number that is not negative."""
        return _wrong_eps(self.eps.value.data)


@irdl_attr_definition
class AddBiasAttr(VectorKindAttr):
    """out[r, c] = x[r, c] + b[c], or + `share` * b[c] where that is given, 0 or 1.  Steps: add, as in `add`."""

    name: ClassVar[str] = "tile.add_bias"
    MATRICES: ClassVar[tuple[Matrix, ...]] = (Matrix("x", "in"), Matrix("b", "in", rows=1), Matrix("out", "out"))
    FLOPS: ClassVar[int] = 1
    ELEMENT_STEPS: ClassVar[VectorSteps] = VectorSteps(basic=1)
    share: ExprAttr | NoneAttr


ACTIVATIONS: dict[str, Arithmetic] = {
    "silu": Arithmetic(4, SIGMOID + VectorSteps(basic=1)),
    "gelu": Arithmetic(20, VectorSteps(basic=20, exp=1, div=1)),
    "gelu_tanh": Arithmetic(8, SIGMOID + VectorSteps(basic=5)),
    "relu": Arithmetic(1, VectorSteps(basic=1)),
    "relu2": Arithmetic(2, VectorSteps(basic=2)),
    "sigmoid": Arithmetic(3, SIGMOID),
}
"""The activations of one operand x, by name:

- silu: x * sigmoid(x); sigmoid: 1 / (1 + exp(-x)); relu: max(x, 0); relu2: max(x, 0)^2.
- gelu: x/2 * (1 + erf(x / sqrt 2)) (Hendrycks and Gimpel, 2016).  No vector unit has an erf: counted is formula 7.1.26
  of Abramowitz and Stegun, whose error of 1.5e-7 FP32 does not resolve: scale, abs, mul, add, div; a polynomial of
  degree 5 (9); square, exp, mul, subtract from 1, sign; add 1, times x, times 1/2.  Abs and sign are no FLOPs.
- gelu_tanh: x/2 * (1 + tanh(sqrt(2/pi) * (x + 0.044715 x^3))), which is x * sigmoid of a polynomial of x: square, mul,
  add, mul; sigmoid; times x.

A sign that changes, as in exp(-x), is no step of its own.
"""


def unknown_name(value: StringAttr, names: Sequence[str], what: str) -> str | None:
    """What is wrong with a name that must be one of several."""
    known = f"{', '.join(names[:-1])} or {names[-1]}"
    return None if value.data in names else f"{what} is '{value.data}', must be {known}"


@irdl_attr_definition
class ActivationAttr(VectorKindAttr):
    """out = `function` of x, one of `ACTIVATIONS`.  Steps: its own, and the conversion."""

    name: ClassVar[str] = "tile.activation"
    MATRICES: ClassVar[tuple[Matrix, ...]] = (Matrix("x", "in"), Matrix("out", "out"))
    function: StringAttr

    @property
    def flops_per_element(self) -> int:
        """Those of the function."""
        return ACTIVATIONS[self.function.data].flops

    @property
    def steps_per_element(self) -> VectorSteps:
        """The function, convert."""
        return ACTIVATIONS[self.function.data].steps + VectorSteps(basic=1)

    def wrong_parameter(self, columns: Expr) -> str | None:
        """A known function."""
        del columns
        return unknown_name(self.function, tuple(ACTIVATIONS), "function")


GATED_ACTIVATIONS: dict[str, Arithmetic] = {
    **{
        name: Arithmetic(found.flops + 1, found.steps + VectorSteps(basic=1))
        for name, found in ACTIVATIONS.items()
        if name != "silu"
    },
    "clamped_silu": Arithmetic(8, SIGMOID + VectorSteps(basic=5)),
    "clamped_swiglu": Arithmetic(10, SIGMOID + VectorSteps(basic=7)),
}
"""The gated activations, by name; silu has a kind of its own, `silu_mul`.

- gelu, gelu_tanh, relu, relu2, sigmoid: f(gate) * up with f of `ACTIVATIONS` (Shazeer, GLU variants; sigmoid is the
  output gate of attention in Qwen3-Next).
- clamped_silu, with g = min(gate, limit) and u = min(max(up, -limit), limit): silu(g) * u (`swiglu_limit` of
  DeepSeek-V4 and Step).
- clamped_swiglu, with the same g and u: (u + 1) * g * sigmoid(alpha * g) (gpt-oss).
"""


@irdl_attr_definition
class GatedActivationAttr(VectorKindAttr):
    """out = `function` of gate and up, one of `GATED_ACTIVATIONS`.  Steps: its own, and the conversion.

    The clamped ones have a `limit`, and clamped_swiglu an `alpha`.
    """

    name: ClassVar[str] = "tile.gated_activation"
    MATRICES: ClassVar[tuple[Matrix, ...]] = (Matrix("gate", "in"), Matrix("up", "in"), Matrix("out", "out"))
    function: StringAttr
    limit: FloatAttr | NoneAttr
    alpha: FloatAttr | NoneAttr

    @property
    def flops_per_element(self) -> int:
        """Those of the function."""
        return GATED_ACTIVATIONS[self.function.data].flops

    @property
    def steps_per_element(self) -> VectorSteps:
        """The function, convert."""
        return GATED_ACTIVATIONS[self.function.data].steps + VectorSteps(basic=1)

    def wrong_parameter(self, columns: Expr) -> str | None:
        """A known function with its own parameters and no others."""
        del columns
        name = self.function.data
        if (unknown := unknown_name(self.function, tuple(GATED_ACTIVATIONS), "function")) is not None:
            return unknown
        for parameter, value, needs in (
            ("a limit", self.limit, name in ("clamped_silu", "clamped_swiglu")),
            ("an alpha", self.alpha, name == "clamped_swiglu"),
        ):
            if isinstance(value, FloatAttr) != needs:
                return f"{name} needs {parameter}" if needs else f"{name} has no {parameter.split()[-1]}"
        if isinstance(self.limit, FloatAttr) and not self.limit.value.data > 0:
            return f"limit is {self.limit.value.data}, must be positive"
        return None


@irdl_attr_definition
class ScaleAttr(VectorKindAttr):
    """out = factor * x.  Steps: mul, as `add` has one."""

    name: ClassVar[str] = "tile.scale"
    MATRICES: ClassVar[tuple[Matrix, ...]] = (Matrix("x", "in"), Matrix("out", "out"))
    FLOPS: ClassVar[int] = 1
    ELEMENT_STEPS: ClassVar[VectorSteps] = VectorSteps(basic=1)
    factor: FloatAttr


@irdl_attr_definition
class MultiplyAttr(VectorKindAttr):
    """out = w * x, w one number.  Steps: mul, as `add` has one."""

    name: ClassVar[str] = "tile.multiply"
    MATRICES: ClassVar[tuple[Matrix, ...]] = (
        Matrix("x", "in"),
        Matrix("w", "in", rows=1, columns=1),
        Matrix("out", "out"),
    )
    FLOPS: ClassVar[int] = 1
    ELEMENT_STEPS: ClassVar[VectorSteps] = VectorSteps(basic=1)


@irdl_attr_definition
class SoftCapAttr(VectorKindAttr):
    """out = cap * tanh(x / cap), which is 2 cap * sigmoid(2 x / cap) - cap.

    Steps: mul, sigmoid, mul, subtract, convert.
    """

    name: ClassVar[str] = "tile.soft_cap"
    MATRICES: ClassVar[tuple[Matrix, ...]] = (Matrix("x", "in"), Matrix("out", "out"))
    FLOPS: ClassVar[int] = 6
    ELEMENT_STEPS: ClassVar[VectorSteps] = SIGMOID + VectorSteps(basic=4)
    cap: FloatAttr

    def wrong_parameter(self, columns: Expr) -> str | None:
        """A bound that numbers can be below."""
        del columns
        return None if self.cap.value.data > 0 else f"cap is {self.cap.value.data}, must be positive"


@irdl_attr_definition
class RowGateAttr(VectorKindAttr):
    """out[r, c] = sigmoid(gate[r, 0]) * x[r, c].  Steps of an element: mul, convert; of a row: sigmoid."""

    name: ClassVar[str] = "tile.row_gate"
    MATRICES: ClassVar[tuple[Matrix, ...]] = (Matrix("x", "in"), Matrix("gate", "in", columns=1), Matrix("out", "out"))
    FLOPS: ClassVar[int] = 1
    ELEMENT_STEPS: ClassVar[VectorSteps] = VectorSteps(basic=2)
    ROW_STEPS: ClassVar[VectorSteps] = SIGMOID

    @property
    def flops_per_row(self) -> int:
        """The sigmoid."""
        return ACTIVATIONS["sigmoid"].flops


@irdl_attr_definition
class TemperatureAttr(VectorKindAttr):
    """out = x * (1 + scale * ln(1 + floor((position + 1) / floor))).

    Steps of an element: mul, convert.  The factor of a row is an immediate of the command, as the angles of `rope` are.
    """

    name: ClassVar[str] = "tile.temperature"
    MATRICES: ClassVar[tuple[Matrix, ...]] = (Matrix("x", "in"), Matrix("out", "out"))
    PER_ROW_PARAMETERS: ClassVar[tuple[str, ...]] = ("position",)
    FLOPS: ClassVar[int] = 1
    ELEMENT_STEPS: ClassVar[VectorSteps] = VectorSteps(basic=2)
    floor: IntegerAttr
    scale: FloatAttr
    position: ExprAttr

    def wrong_parameter(self, columns: Expr) -> str | None:
        """Steps of at least one position."""
        del columns
        return None if self.floor.value.data > 0 else f"floor is {self.floor.value.data}, must be positive"


VECTOR_KINDS: tuple[type[VectorKindAttr], ...] = (
    FillAttr,
    RepeatRowsAttr,
    ConvertAttr,
    AddAttr,
    SiluMulAttr,
    RmsNormAttr,
    AddRmsNormAttr,
    RopeAttr,
    SoftmaxStepAttr,
    SoftmaxFinishAttr,
    SumPartsAttr,
    SoftmaxMergeAttr,
    RouterTopkAttr,
    LayerNormAttr,
    ReluWeightedSumAttr,
    TopkSelectAttr,
    AddBiasAttr,
    ActivationAttr,
    GatedActivationAttr,
    RmsNormalizeAttr,
    SplitRmsNormAttr,
    SquareSumAttr,
    ScaleAttr,
    SoftCapAttr,
    RowGateAttr,
    CausalConvAttr,
    SsmStepAttr,
    GatedDeltaStepAttr,
    SoftplusAttr,
    DecayAttr,
    L2NormAttr,
    GatedRmsNormAttr,
    TemperatureAttr,
    MultiplyAttr,
    CopyStreamsAttr,
    StreamWeightsAttr,
    CollapseStreamsAttr,
    MixStreamsAttr,
    RouterWeightsAttr,
    ExpertScaleAttr,
    PoolStepAttr,
    PoolFinishAttr,
    BlockMaxAttr,
    BlockRowsAttr,
)
"""Every kind; the order is that of their codes in command tables."""
