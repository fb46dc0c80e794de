"""Parameters of TAS: of the placement of experts before a run (TAPS) and of moving work in it (TACS).

#trace.tas<{taps = {..}, tacs = {window_ms = 3.0, ..}}>
"""

from __future__ import annotations

from typing import Annotated

from pydantic import Field, model_validator
from xdsl.irdl import irdl_attr_definition

from pmc.dialects.schema import Count, GbPerS, Ratio, Schema
from pmc.dialects.schema_text import SchemaAttr
from pmc.dialects.stacked_arch import AtLeastZero, Celsius, Positive


class TapsObjective(Schema, frozen=True):
    """Weights of what a placement is judged by, all in kelvin."""

    w_peak: AtLeastZero = Field(description="Weight of the hottest core")
    w_var: AtLeastZero = Field(description="Weight of the standard deviation over cores")
    w_smooth: AtLeastZero = Field(description="Weight of the mean difference of neighbouring cores")


class TapsCapacity(Schema, frozen=True):
    """What a core and a bank can do."""

    core_flops_tps: Positive = Field(description="FLOP per second of one core at its fastest clock")
    bank_bw_gbps: GbPerS = Field(description="Bandwidth of one bank without refresh, GB/s")
    migration_bw_gbps: GbPerS = Field(description="What of it a tensor on its way to another bank may take, GB/s")


class TapsParams(Schema, frozen=True):
    """Placement before the run."""

    objective: TapsObjective = Field(description="What a placement is judged by")
    capacity: TapsCapacity = Field(description="Rates of cores and banks")
    replicate_hot_k: Annotated[int, Field(ge=0, le=1024)] = Field(description="Hottest experts that get a second core")


class TacsThresholds(Schema, frozen=True):
    """Temperatures of cores."""

    Thot: Celsius = Field(description="From which a core is under pressure")
    Temg: Celsius = Field(description="At which the pressure is 1")

    @model_validator(mode="after")
    def _check(self) -> TacsThresholds:
        if self.Temg <= self.Thot:
            raise ValueError(f"Temg ({self.Temg:g} C) must be above Thot ({self.Thot:g} C)")
        return self


class TacsCost(Schema, frozen=True):
    """Weights of the cost of a move."""

    lambda_hops: AtLeastZero = Field(description="Of a hop, as a part of the longest way on the mesh")
    mu_noc: AtLeastZero = Field(description="Of the load that the move puts on links, as a part of what they carry")
    eta_temp: AtLeastZero = Field(
        description="Of how much hotter a target comes to be than the coolest one, as a part of Temg - ambient"
    )


class TacsParams(Schema, frozen=True):
    """Moves in the run."""

    window_ms: Positive = Field(description="Window: what lies before its end is committed and does not change")
    thresholds: TacsThresholds = Field(description="Temperatures")
    gamma_load: AtLeastZero = Field(description="Weight of overload beside heat in the pressure of a core")
    q_target: Ratio = Field(description="Load of a core above which it is under pressure")
    cost: TacsCost = Field(description="Weights of the cost of a move")
    top_k: Count = Field(description="Cores under most pressure that are looked at in a window")
    radius_hops: Count = Field(description="How far a target may be")
    max_parallel_migrations: Count = Field(description="Moves of a window")
    min_residency_ms: Positive = Field(description="How long an expert stays where it came to")
    cool_down_ms: Positive = Field(description="How long a replica that was removed does not come back")
    noc_guard: Ratio = Field(description="Load of the network above which nothing moves")
    smoothing: Ratio = Field(description="Weight of the newest temperature in the smoothed one")

    @property
    def window_ns(self) -> int:
        """Length of a window in whole nanoseconds."""
        return max(1, round(self.window_ms * 1e6))


class TasParams(Schema, frozen=True):
    """All parameters."""

    taps: TapsParams = Field(description="Placement before the run")
    tacs: TacsParams = Field(description="Moves in the run")


@irdl_attr_definition
class TasParamsAttr(SchemaAttr[TasParams]):
    """The parameters of a module."""

    name = "trace.tas"
    SCHEMA = TasParams


TAS = TasParamsAttr.name
"""The attribute of a module that holds the parameters."""
