"""The vector kinds that pool tokens into one entry, a column at a time (DeepSeek-V4 report, section 2.3).

The running softmax of a column is a state of three rows that stays in LMEM, as that of attention does: the largest
score, the sum of the exponentials, and the sum of the weighted tokens.  In the docstrings r is a row, which is a token,
and c a column; arithmetic is FP32.
"""

from __future__ import annotations

from typing import ClassVar

from xdsl.irdl import irdl_attr_definition

from pmc.dialects.vector_kind_attr import Matrix, VectorKindAttr
from pmc.dialects.vector_steps import VectorSteps


@irdl_attr_definition
class PoolStepAttr(VectorKindAttr):
    """s = gate + bias; m = max(peak, max_r s); f = exp(peak - m); p = exp(s - m), in every column by itself.

    total = f*total + sum_r p; pooled = f*pooled + sum_r p*kv; peak = m.  Kernels fill peak with -inf, total and pooled
    with 0 before the first step.

    Steps of an element: add, max, subtract, exp, add, mul, add.  The correction of the state is once per command and
    column and not counted.
    """

    name: ClassVar[str] = "tile.pool_step"
    MATRICES: ClassVar[tuple[Matrix, ...]] = (
        Matrix("kv", "in"),
        Matrix("gate", "in"),
        Matrix("bias", "in"),
        Matrix("peak", "update", rows=1),
        Matrix("total", "update", rows=1),
        Matrix("pooled", "update", rows=1),
    )
    RATE: ClassVar[str | None] = "f32"
    FLOPS: ClassVar[int] = 7
    ELEMENT_STEPS: ClassVar[VectorSteps] = VectorSteps(basic=6, exp=1)


@irdl_attr_definition
class PoolFinishAttr(VectorKindAttr):
    """out = pooled / total: a division per column."""

    name: ClassVar[str] = "tile.pool_finish"
    MATRICES: ClassVar[tuple[Matrix, ...]] = (Matrix("pooled", "in"), Matrix("total", "in"), Matrix("out", "out"))
    RATE: ClassVar[str | None] = "f32"
    FLOPS: ClassVar[int] = 1
    ELEMENT_STEPS: ClassVar[VectorSteps] = VectorSteps(div=1)
