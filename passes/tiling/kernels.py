"""What a family of tensor ops needs from the program around it to write its kernel."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Protocol

from xdsl.ir import Attribute, Operation, SSAValue

from pmc.dialects.tile import KernelOp, PlanAttr
from pmc.passes.tiling.arrays import Array
from pmc.passes.tiling.code import KernelCode
from pmc.passes.tiling.target import Target


class Arrays(Protocol):
    """The arrays of the program, by SSA value of the tensor program."""

    def array(self, value: SSAValue, *dims: int) -> Array:
        """Where `value` is, under other dims when given; copied first where no strides can say them."""
        ...

    def whole(self, value: SSAValue) -> Array:
        """Where `value` is, without leading dims: copied out of a repeated array first."""
        ...

    def result(self, value: SSAValue, *dims: int) -> Array:
        """Where the op must write its result `value`."""
        ...

    def scratch(self, op: Operation, dims: Sequence[int], element_type: Attribute) -> Array:
        """An array that the cores of the kernel of `op` share while it runs; `needs_scratch` must announce it."""
        ...

    def code(self, op: Operation) -> KernelCode:
        """An empty kernel for `op`."""
        ...


class Family(Protocol):
    """Ops that are tiled alike."""

    def plan(self, op: Operation, target: Target) -> PlanAttr:
        """The best plan; raises PassError when no tile fits."""
        ...

    def lower(self, op: Operation, plan: PlanAttr, arrays: Arrays, target: Target) -> KernelOp:
        """The kernel of the op under the plan."""
        ...
