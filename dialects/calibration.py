"""The calibration of a target: measured corrections of modelled times, as an attribute on the module.

    #arch.calibration<{name = "..", bandwidth_factor = {value = 0.8, source = "..", validated = false}, ..}>

Each parameter says where it is from and whether it was validated against silicon; a result that rests on one that was
not is relative only.
"""

from __future__ import annotations

from typing import Annotated

from pydantic import Field
from xdsl.irdl import irdl_attr_definition

from pmc.dialects.schema import Name, Number, Ratio, Schema, Share, Us
from pmc.dialects.schema_text import SchemaAttr

Source = Annotated[str, Field(pattern=r"^[ !#-\[\]-~]+$")]
"""Where a parameter is from: one line of printable ASCII without quotes and backslashes."""


class Parameter(Schema, frozen=True):
    """What every parameter of a calibration carries besides its value."""

    source: Source = Field(description="Where the value is from")
    validated: bool = Field(description="Whether the value was validated against silicon")


class RatioParameter(Parameter, frozen=True):
    """A part of a rate that is reached."""

    value: Ratio = Field(description="Part that is reached")


class ShareParameter(Parameter, frozen=True):
    """A part, possibly none."""

    value: Share = Field(description="Part")


class CongestionParameter(Parameter, frozen=True):
    """A factor by which something takes longer."""

    value: Annotated[Number, Field(ge=1)] = Field(description="Factor on the time")


class TimeParameter(Parameter, frozen=True):
    """A time that is added."""

    value: Us = Field(description="Time added")


class Calibration(Schema, frozen=True):
    """Corrections of modelled times (the CalibrationConfig of Tier6-Model).

    An op on the chip takes t / compute_efficiency, a transfer between chips
    t * congestion / bandwidth_factor + startup_us; of the time that overlap saves, overlap_efficiency is really saved.
    """

    name: Name = Field(description="Name of the calibration")
    bandwidth_factor: RatioParameter = Field(description="Part of the link bandwidth that transfers reach")
    congestion: CongestionParameter = Field(description="Slow-down of transfers by other traffic")
    startup_us: TimeParameter = Field(description="Start-up of a transfer, not in the protocol")
    overlap_efficiency: ShareParameter = Field(description="Part of the ideal saving by overlap that is reached")
    compute_efficiency: RatioParameter = Field(description="Part of the modelled speed that ops on the chip reach")

    def unvalidated(self) -> tuple[str, ...]:
        """The parameters that were never validated, as `calibration.<name>`."""
        parameters = {name: getattr(self, name) for name in Calibration.model_fields}
        return tuple(f"calibration.{n}" for n, p in parameters.items() if isinstance(p, Parameter) and not p.validated)


@irdl_attr_definition
class CalibrationAttr(SchemaAttr[Calibration]):
    """``#arch.calibration<{...}>``: how far the target is from its model."""

    name = "arch.calibration"
    SCHEMA = Calibration
