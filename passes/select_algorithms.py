"""`select-algorithms`: the way that the data of every collective takes between the ranks of its group.

    %y = dist.all_reduce(%x) {axis = "tp"} at "p" : ..
    -> %y = dist.all_reduce(%x) {axis = "tp", algorithm = #dist.direct} at "p" : ..

The fastest of those that the links allow, under the accounting of the module (`arch.accounting`); a collective that
names its algorithm keeps it, and one of a single rank needs none.  Symbols must be bound: which is fastest depends on
sizes.  With choose=random every collective gets one of those that its links allow, drawn by `seed`: `pmc check` runs
such too.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

import numpy as np
from xdsl.dialects.builtin import ModuleOp

from pmc.dialects import dist
from pmc.dialects.analyses.algorithm_choice import CHOICES
from pmc.dialects.expr import UnboundSymbolError
from pmc.dialects.levels import Level
from pmc.passes.base import PassError, PmcPass


@dataclass(frozen=True)
class SelectAlgorithmsPass(PmcPass):
    """Write an `algorithm` into every collective that leaves it open."""

    name = "select-algorithms"
    READS: ClassVar[tuple[Level, ...]] = ("layer", "dist")
    choose: str = "best"
    """best or random."""
    seed: int = 0

    def __post_init__(self) -> None:
        """Check the way to choose."""
        if self.choose not in ("best", "random"):
            raise PassError(f"{self.name}: choose is '{self.choose}', must be best or random")

    def run(self, module: ModuleOp) -> None:
        """Choose once per op."""
        collectives = (op for op in module.walk() if isinstance(op, dist.CollectiveOp | dist.CollectiveGroupOp))
        found = [op for op in collectives if op.exchange().is_open]
        if not found:
            return
        choice = CHOICES.choice(module)
        random = np.random.default_rng(self.seed)
        for op in found:
            try:
                if self.choose == "best":
                    op.algorithm = choice.fastest(op)
                elif allowed := choice.allowed(op):
                    op.algorithm = allowed[random.integers(len(allowed))]
            except UnboundSymbolError as error:
                raise PassError(
                    f"{self.name}: {op.name} at '{op.path.data}': {error} (run bind-symbols before)"
                ) from None
