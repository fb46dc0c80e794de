"""What a family of tensor ops needs from the program around it to write its kernel."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Protocol

from xdsl.ir import Attribute, Operation, SSAValue

from pmc.dialects.analyses.planner import TilePlanner
from pmc.dialects.arch import Chip
from pmc.dialects.tile import KernelOp
from pmc.dialects.tile_plan import PlanAttr
from pmc.passes.tiling.arrays import Array
from pmc.passes.tiling.code import KernelCode


class Arrays(Protocol):
    """The arrays of the program, by SSA value of the tensor program."""

    def array(self, value: SSAValue, *dims: int) -> Array:
        """Where `value` is, under other dims when given; copied first where no strides can say them."""
        ...

    def result(self, value: SSAValue, *dims: int) -> Array:
        """Where the op must write its result `value`."""
        ...

    def scratch(self, op: Operation, dims: Sequence[int], element_type: Attribute) -> Array:
        """An array that the cores of the kernel of `op` share while it runs; `scratch_types` knows it."""
        ...

    def code(self, op: Operation, plan: PlanAttr) -> KernelCode:
        """An empty kernel for `op`."""
        ...


class Family(Protocol):
    """Ops that are tiled alike."""

    def plan(self, op: Operation, chip: Chip, planner: TilePlanner) -> PlanAttr:
        """The best plan; raises PmcError when no tile fits."""
        ...

    def fault(self, op: Operation, plan: PlanAttr, chip: Chip) -> str | None:
        """What is wrong with a plan, None for a legal one."""
        ...

    def lower(self, op: Operation, plan: PlanAttr, arrays: Arrays, chip: Chip) -> KernelOp:
        """The kernel of the op under a legal plan."""
        ...
