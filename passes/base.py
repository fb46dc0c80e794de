"""The base class of all pmc passes: the level check, the record of what ran, and errors of one line."""

from __future__ import annotations

from abc import abstractmethod
from dataclasses import dataclass
from typing import ClassVar

from xdsl.context import Context
from xdsl.dialects.builtin import ArrayAttr, ModuleOp, StringAttr
from xdsl.passes import ModulePass
from xdsl.utils.hints import isa

from pmc.dialects.errors import PmcError
from pmc.dialects.levels import Stage, level_of

HISTORY = "pmc.passes"
"""The module attribute that lists the passes a module has been through, as pipeline text."""


class PassError(PmcError):
    """A pass cannot do what it is asked to: what, where (op path), and what would be right."""


@dataclass(frozen=True)
class PmcPass(ModulePass):
    """A pass that reads modules of the levels `READS` and appends itself to the history of the module."""

    READS: ClassVar[tuple[Stage, ...]]
    CHIP_FIELDS: ClassVar[tuple[str, ...]] = ()
    """The fields of the chip that the pass reads, by dotted path; a block stands for any of its fields."""
    TOPOLOGY_FIELDS: ClassVar[tuple[str, ...]] = ()
    """Those of the topology."""
    COSTS: ClassVar[bool] = False
    """Whether it asks for times of ops, which rest on the whole target and on batch and lengths."""

    def apply(self, ctx: Context, op: ModuleOp) -> None:
        """Check the level, run, record."""
        level = level_of(op)
        if level not in self.READS:
            expected = " or ".join(self.READS)
            raise PassError(f"{self.name}: the module is at the {level} level, this pass reads the {expected} level")
        self.run(op)
        op.attributes[HISTORY] = ArrayAttr([*history(op), StringAttr(str(self.spec()))])

    @property
    def deployment_fields(self) -> tuple[str, ...]:
        """The fields of the deployment that the pass reads in the module, beside what its options say."""
        return ()

    @property
    def reads_sizes(self) -> bool:
        """Whether it reads the sizes of mesh axes, and not only over which axes values are sharded."""
        return False

    @abstractmethod
    def run(self, module: ModuleOp) -> None:
        """Rewrite the module in place."""


def history(module: ModuleOp) -> list[StringAttr]:
    """The passes that `module` has been through, first to last."""
    recorded = module.attributes.get(HISTORY)
    return list(recorded.data) if isa(recorded, ArrayAttr[StringAttr]) else []
