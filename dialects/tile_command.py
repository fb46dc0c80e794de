"""The base class of ops of the `tile` dialect that become commands."""

from __future__ import annotations

from abc import ABC, abstractmethod
from typing import ClassVar

from xdsl.ir import SSAValue

from pmc.dialects.accesses import TileAccess
from pmc.dialects.assembly import PmcOp
from pmc.dialects.expr import Expr, expr
from pmc.dialects.interfaces import Unit


class CommandOp(PmcOp, ABC):
    """An op that becomes one command per iteration."""

    UNIT: ClassVar[Unit] = "none"
    """The unit that does its arithmetic."""

    @abstractmethod
    def accesses(self) -> tuple[TileAccess, ...]:
        """What the op reads and writes: inputs, outputs, updates."""

    def flops(self) -> Expr:
        """The arithmetic of one iteration."""
        return expr(0)

    def reads(self) -> tuple[SSAValue, ...]:
        """The memory that the op reads."""
        return tuple(a.value for a in self.accesses() if a.may_read)

    def writes(self) -> tuple[SSAValue, ...]:
        """The memory that the op writes."""
        return tuple(a.value for a in self.accesses() if a.writes)
