"""The vector kinds of hyper-connections: a residual of several streams, which lie beside each other in a row.

Stream k of a row is columns k*stream_width .. (k+1)*stream_width.  A row of weights is (pre, post, comb), n + n + n*n
numbers for n streams: what the block reads of every stream, what its result adds to every stream, and what stream j
leaves to stream k in place 2n + j*n + k.  In the docstrings r is a row and c a column; arithmetic is FP32.
"""

from __future__ import annotations

from typing import ClassVar

from xdsl.dialects.builtin import FloatAttr, IntegerAttr
from xdsl.irdl import irdl_attr_definition

from pmc.dialects.expr import Expr, expr
from pmc.dialects.vector_kind_attr import Matrix, VectorKindAttr
from pmc.dialects.vector_steps import SIGMOID, VectorSteps


def weights_of_a_row(streams: int, collapses_only: bool) -> int:
    """The weights of a row: those of a block, or only those that read the streams (the head)."""
    return streams if collapses_only else (2 + streams) * streams


def times(count: int, steps: VectorSteps) -> VectorSteps:
    """So many of these steps."""
    return VectorSteps(count * steps.basic, count * steps.exp, count * steps.div, count * steps.rsqrt)


class StreamsAttr(VectorKindAttr):
    """The base of these kinds, which have the parameter `streams`."""

    @property
    def count(self) -> int:
        """The number of streams."""
        found = getattr(self, "streams")  # noqa: B009  # every kind of this base has it
        assert isinstance(found, IntegerAttr)
        return found.value.data

    def wrong_parameter(self, columns: Expr) -> str | None:
        """Streams are several."""
        del columns
        return None if self.count > 1 else f"streams is {self.count}, must be at least 2"


@irdl_attr_definition
class CopyStreamsAttr(StreamsAttr):
    """out[r, k*columns + c] = x[r, c] for every stream k.  Steps of an element: one copy per stream."""

    name: ClassVar[str] = "tile.copy_streams"
    MATRICES: ClassVar[tuple[Matrix, ...]] = (Matrix("x", "in"), Matrix("out", "out", columns=("streams", "columns")))
    streams: IntegerAttr

    @property
    def steps_per_element(self) -> VectorSteps:
        """See above."""
        return VectorSteps(basic=self.count)


@irdl_attr_definition
class StreamWeightsAttr(StreamsAttr):
    """The weights of a row from their logits x, with a `scale` for each of pre, post and comb, and a `base` for each.

    With z = scale x + base: pre = sigmoid(z) + eps, post = 2 sigmoid(z), and comb, row by row of its n x n matrix,
    softmax(z) + eps, made doubly stochastic by Sinkhorn and Knopp: divided by the sums of columns (+ eps), then
    `iterations` - 1 times by the sums of rows (+ eps) and those of columns (+ eps) (`DeepseekV4HyperConnection` of
    transformers 5.23).  With 0 `iterations` there are only the n weights pre (`DeepseekV4HyperHead`).

    Steps: mul and add of every logit, and its conversion; the sigmoid with one mul or add; of comb a softmax as
    `softmax_step` counts it (max, subtract, exp, sum, the reciprocal once a row, mul) and the eps; of each division a
    sum and a mul per element, an add and the reciprocal per row or column.
    """

    name: ClassVar[str] = "tile.stream_weights"
    MATRICES: ClassVar[tuple[Matrix, ...]] = (
        Matrix("x", "in"),
        Matrix("scale", "in", rows=1, columns="scales"),
        Matrix("base", "in", rows=1),
        Matrix("out", "out"),
    )
    PADS_COLUMNS: ClassVar[bool] = False
    ELEMENT_STEPS: ClassVar[VectorSteps] = VectorSteps(basic=3)
    FLOPS: ClassVar[int] = 2
    streams: IntegerAttr
    iterations: IntegerAttr
    eps: FloatAttr

    @property
    def divisions(self) -> int:
        """How often comb is divided by the sums of its rows or columns."""
        return max(2 * self.iterations.value.data - 1, 0)

    def named_extents(self, rows: Expr, columns: Expr) -> dict[str, Expr]:
        """With `scales`, one or three."""
        named = super().named_extents(rows, columns)
        return {**named, "scales": expr(3 if self.iterations.value.data else 1)}

    @property
    def flops_per_row(self) -> int:
        """As the steps, without maxima and conversions; a sigmoid is 3, a reciprocal and an exponential 1."""
        n = self.count
        if not self.divisions:
            return 4 * n
        return 8 * n + (4 * n * n + n + n * n) + self.divisions * (2 * n * n + 2 * n)

    @property
    def steps_per_row(self) -> VectorSteps:
        """See above."""
        n = self.count
        gate = SIGMOID + VectorSteps(basic=1)
        if not self.divisions:
            return times(n, gate)
        softmax = VectorSteps(basic=5 * n * n, exp=n * n, div=n)
        division = VectorSteps(basic=2 * n * n + n, div=n)
        return times(2 * n, gate) + softmax + times(self.divisions, division)

    def wrong_parameter(self, columns: Expr) -> str | None:
        """Iterations that are not negative, and as many columns as there are weights."""
        if (wrong := super().wrong_parameter(columns)) is not None:
            return wrong
        iterations = self.iterations.value.data
        if iterations < 0:
            return f"iterations is {iterations}, must be at least 0"
        expected = weights_of_a_row(self.count, iterations == 0)
        if columns.is_constant and columns.constant != expected:
            return f"{self.count} streams have {expected} weights, found {columns}"
        return None


class MixingAttr(StreamsAttr):
    """The base of kinds on rows of streams, each `stream_width` columns, with `weight_columns` weights."""

    def wrong_parameter(self, columns: Expr) -> str | None:
        """The columns are those of all streams."""
        if (wrong := super().wrong_parameter(columns)) is not None:
            return wrong
        width = getattr(self, "stream_width")  # noqa: B009  # every kind of this base has it
        assert isinstance(width, IntegerAttr)
        expected = self.count * width.value.data
        if columns.is_constant and columns.constant != expected:
            return f"{self.count} streams of {width.value.data} columns are {expected}, found {columns}"
        return None


@irdl_attr_definition
class CollapseStreamsAttr(MixingAttr):
    """out[r, c] = sum over k of pre[r, k] * x[r, k*stream_width + c].

    Steps of an element of x: mul, add; of one of out: convert.
    """

    name: ClassVar[str] = "tile.collapse_streams"
    MATRICES: ClassVar[tuple[Matrix, ...]] = (
        Matrix("x", "in"),
        Matrix("weights", "in", columns="weight_columns"),
        Matrix("out", "out", columns="stream_width"),
    )
    FLOPS: ClassVar[int] = 2
    ELEMENT_STEPS: ClassVar[VectorSteps] = VectorSteps(basic=2)
    streams: IntegerAttr
    stream_width: IntegerAttr
    weight_columns: IntegerAttr

    @property
    def steps_per_row(self) -> VectorSteps:
        """The conversion."""
        return VectorSteps(basic=self.stream_width.value.data)


@irdl_attr_definition
class MixStreamsAttr(MixingAttr):
    """out[r, k*stream_width + c] = post[r, k] * added[r, c] + sum over j of comb[r, j, k] * x[r, j*stream_width + c].

    Steps of an element: a mul for what is added, a mul and an add for every stream, convert.
    """

    name: ClassVar[str] = "tile.mix_streams"
    MATRICES: ClassVar[tuple[Matrix, ...]] = (
        Matrix("x", "in"),
        Matrix("added", "in", columns="stream_width"),
        Matrix("weights", "in", columns="weight_columns"),
        Matrix("out", "out"),
    )
    streams: IntegerAttr
    stream_width: IntegerAttr
    weight_columns: IntegerAttr

    @property
    def flops_per_element(self) -> int:
        """As the steps, without the conversion."""
        return 2 * self.count + 1

    @property
    def steps_per_element(self) -> VectorSteps:
        """See above."""
        return VectorSteps(basic=2 * self.count + 2)
