"""Memory in DRAM that an op needs only while it runs, under the plan that it has."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

from xdsl.ir import Operation

from pmc.dialects.tensor import TensorType
from pmc.dialects.tile import PLAN, PlanAttr

ScratchTypes = Callable[[Any, PlanAttr], Sequence[TensorType]]

_SCRATCH: dict[type[Operation], ScratchTypes] = {}


def needs_scratch(op_type: type[Operation]) -> Callable[[ScratchTypes], ScratchTypes]:
    """Register what arrays the kernels of an op type share beside its operands and results, such as partial sums."""

    def register(function: ScratchTypes) -> ScratchTypes:
        _SCRATCH[op_type] = function
        return function

    return register


def scratch_types(op: Operation) -> Sequence[TensorType]:
    """The scratch arrays of an op; none as long as it has no plan."""
    function, plan = _SCRATCH.get(type(op)), op.attributes.get(PLAN)
    return function(op, plan) if function is not None and isinstance(plan, PlanAttr) else ()
