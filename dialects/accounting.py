"""What cost models charge, as explicit options in an attribute of the module.

    #arch.accounting<{name = "physical", waves = "whole", ..}>

`pmc compile` writes it: `select-tiles` chooses plans under it, and whoever evaluates the module charges by it.
"""

from __future__ import annotations

from typing import Annotated, Literal

from pydantic import Field
from xdsl.dialects.builtin import ModuleOp
from xdsl.irdl import irdl_attr_definition

from pmc.dialects.errors import PmcError
from pmc.dialects.schema import Name, Paths, Ratio, Schema
from pmc.dialects.schema_text import SchemaAttr

ACCOUNTING = "arch.accounting"
"""The module attribute that holds the accounting."""


class CoreEfficiency(Schema, frozen=True):
    """The part of the matrix peak that all cores together reach, by the bytes of an op over their LMEM."""

    within_lmem: Ratio = Field(description="Where the bytes fit into the LMEM of all cores")
    within_twice_lmem: Ratio = Field(description="Where they are at most twice as many")
    beyond: Ratio = Field(description="Where they are more")

    def __str__(self) -> str:
        return f"{self.within_lmem} / {self.within_twice_lmem} / {self.beyond}"


class Accounting(Schema, frozen=True):
    """Options of the core and tile models and of the protocol; the chip roofline has only `expert_load`."""

    name: Name = Field(description="Name of the preset")
    waves: Literal["whole", "fractional"] = Field(
        description="Whether a core's share of the work is that of the busiest core, or the mean"
    )
    v_read: Literal["shared", "apart"] = Field(
        description="Whether V that is a slice of the key cache is loaded with it, or once more"
    )
    attention_output: Literal["stored", "as_inputs"] = Field(
        description="Bytes per element of the output of attention: its element type, or that of the query"
    )
    vector_steps_per_cycle: Annotated[int, Field(ge=1, le=2)] = Field(
        description="Steps that a vector unit starts per cycle"
    )
    core_reduction: Literal["charged", "free"] = Field(
        description="Whether adding up a contraction that was split over cores takes time"
    )
    core_receive: Literal["charged", "free"] = Field(
        description="Granularity tile: whether GDMA and LMEM of the busiest core bound the data, or DRAM alone"
    )
    command_startup: Literal["charged", "free"] = Field(
        description="Granularity tile: whether every matrix and DMA command pays its start-up"
    )
    result_conversion: Literal["charged", "free"] = Field(
        description="Granularity tile: whether converting the result of a matmul from FP32 takes time"
    )
    core_efficiency: CoreEfficiency | None = Field(
        description="Granularity core: factor on the matrix peak by the bytes of an op; null for none"
    )
    uncharged_ops: Paths = Field(description="Ops that take no time")
    collectives: Literal["steps", "published"] = Field(
        description="What collectives take: their steps on the links, by the fastest algorithm where none is named, or "
        "the formulas of the DS_TPU protocol"
    )
    expert_load: Literal["busiest", "balanced"] = Field(
        description="Rows per expert: as expected on the rank with most of them, or as many on every rank"
    )


@irdl_attr_definition
class AccountingAttr(SchemaAttr[Accounting]):
    """``#arch.accounting<{...}>``: what the cost models charge for the program of the module."""

    name = "arch.accounting"
    SCHEMA = Accounting


def accounting_of(module: ModuleOp, needed_by: str) -> Accounting:
    """The accounting of the module.  Raises PmcError, which begins with `needed_by`, where it has none."""
    accounting = module.attributes.get(ACCOUNTING)
    if not isinstance(accounting, AccountingAttr):
        raise PmcError(
            f"{needed_by}: the module has no attribute '{ACCOUNTING}', which says what cost models charge; "
            "--accounting sets it (`physical` for what the hardware would do)"
        )
    return accounting.data
