"""Which ops have nothing to do for some values of the symbols: no entry of a compressor closes in most steps."""

from __future__ import annotations

from collections.abc import Mapping

import numpy as np
from xdsl.ir import Operation, SSAValue

from pmc.dialects import layer
from pmc.dialects.dist import CollectiveOp
from pmc.dialects.expr import Call, Expr
from pmc.dialects.interfaces import IntArray
from pmc.dialects.tensor import TensorType

LEFT_OF: Mapping[str, str] = {layer.AttentionFinishOp.name: layer.CompressedAttentionOp.name}
"""By name the op that `bind-symbols` leaves of another one: attention over no entries hands on the state before it."""


def is_idle(op: Operation, bindings: Mapping[str, int | IntArray]) -> bool:
    """Whether all that an op would write has no elements: its results, or the rows that it appends.

    False where some values of a sweep give it work.
    """
    if isinstance(op, layer.KvAppendOp):
        return is_empty(op.new, bindings)
    if not isinstance(op, layer.LayerOp | CollectiveOp) or not op.results:
        return False
    return all(is_empty(result, bindings) for result in op.results)


def is_empty(value: SSAValue, bindings: Mapping[str, int | IntArray]) -> bool:
    """Whether a tensor has no elements."""
    type_ = value.type
    return isinstance(type_, TensorType) and any(
        _may_be_zero(dim) and bool(np.all(np.equal(dim.evaluate(bindings), 0))) for dim in type_.dims
    )


def _may_be_zero(dim: Expr) -> bool:
    """Whether values of the symbols, which are at least 1, make it 0: only what is rounded down can be."""
    if dim.is_constant:
        return dim == 0
    return any(isinstance(a, Call) and (a.function != "ceildiv") for monomial, _ in dim.terms for a in monomial)
