"""A system that measured tables are of: its chip, how several are wired, and its name in the tables."""

from __future__ import annotations

from pydantic import Field

from pmc.dialects.schema import Schema


class GpuSystem(Schema, frozen=True):
    """A chip, how several of it are wired, and what measured tables call the two."""

    chip: str = Field(description="the chip: preset or file")
    topology: str = Field(description="the topology: preset or file")
    tables: str = Field(description="the system of the tables")
