"""Where `partition-stages` finds the times of ops, which a backend knows: passes do not know backends."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Protocol

from xdsl.dialects.builtin import ModuleOp
from xdsl.ir import Operation

from pmc.dialects.errors import PmcError


class OpTimes(Protocol):
    """What the ops of a module take on its target, at the batch and lengths of its deployment."""

    def __call__(self, module: ModuleOp) -> Mapping[Operation, float] | None:
        """Seconds of all executions of an op in one step of one rank; ops that are not in it take no time.

        None where there are no times: the module names no target, or the target cannot run one of its ops.
        """
        ...


class OpTimesRegistry:
    """Holds the function that every `partition-stages` uses."""

    def __init__(self) -> None:
        self._provided: OpTimes | None = None

    def provide(self, function: OpTimes) -> None:
        """Set what every `partition-stages` uses from here on."""
        self._provided = function

    def of(self, module: ModuleOp) -> Mapping[Operation, float] | None:
        """The times of the ops of a module.  Raises PmcError while nothing is provided."""
        if self._provided is None:
            raise PmcError("no times of ops are provided: import pmc.compiler.pipelines, which brings them")
        return self._provided(module)


OP_TIMES = OpTimesRegistry()
"""The one registry; `pmc.compiler.pipelines` fills it."""
