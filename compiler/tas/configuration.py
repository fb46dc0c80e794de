"""The files of a thermal study: a stacked chip, a workload, the parameters of TAPS and TACS; presets or paths."""

from __future__ import annotations

from pathlib import Path

from pmc.compiler.config import Overrides, load_schema
from pmc.dialects.moe_workload import MoeWorkload
from pmc.dialects.stacked_arch import StackedArch
from pmc.dialects.tas_params import TasParams


def load_stack(name_or_path: str | Path, overrides: Overrides | None = None) -> StackedArch:
    """The chip under stacked DRAM, with some fields replaced.  Raises ConfigError."""
    return load_schema(StackedArch, "stack", name_or_path, overrides)


def load_workload(name_or_path: str | Path, overrides: Overrides | None = None) -> MoeWorkload:
    """The workload of experts, with some fields replaced.  Raises ConfigError."""
    return load_schema(MoeWorkload, "workload", name_or_path, overrides)


def load_tas(name_or_path: str | Path, overrides: Overrides | None = None) -> TasParams:
    """The parameters of TAPS and TACS, with some fields replaced.  Raises ConfigError."""
    return load_schema(TasParams, "tas", name_or_path, overrides)
