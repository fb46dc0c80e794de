"""What a cost model charges, as explicit options; a named set of options is a file under `configs/accounting`."""

from __future__ import annotations

from functools import cache
from importlib import resources
from typing import Annotated, Literal

import yaml
from pydantic import Field

from pmc.dialects.schema import Name, Paths, Schema


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
    core_efficiency: Literal["none", "lmem_ratio"] = Field(
        description="Core level: factor on the matrix peak, 0.9 / 0.7 / 0.5 where bytes / LMEM <= 1 / <= 2 / more"
    )
    uncharged_ops: Paths = Field(description="Ops that take no time")
    all_reduce_phases: Literal["in_sequence", "pipelined"] = Field(
        description="Whether the phases of the two-level all-reduce add up, or the longest hides the others"
    )
    dispatch_rows: Literal["remote", "all"] = Field(
        description="Whether dispatch and combine send only rows that leave their rank"
    )
    expert_load: Literal["busiest", "balanced"] = Field(
        description="Rows per expert: as expected on the rank with most of them, or as many on every rank"
    )
    link_latency: Literal["spanned", "board"] = Field(
        description="Latency per message: of the slowest link that the group spans, or of a link on one board"
    )


@cache
def default_accounting() -> Accounting:
    """The preset `physical`."""
    text = (resources.files("pmc.configs") / "accounting" / "physical.yaml").read_text(encoding="utf-8")
    return Accounting.model_validate(yaml.safe_load(text), strict=False)
