"""The functions of the study that say what events cost: power, clocks and refresh, each by itself."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import numpy as np

from pmc.backends.thermal import dvfs, refresh
from pmc.backends.thermal.dvfs import DvfsState
from pmc.backends.thermal.power import ComputeColumns, MemoryColumns, PowerState, power_of_events
from pmc.compiler.tas.configuration import load_stack, load_tas
from pmc.compiler.tas.frames import DataFrame, table_of
from pmc.compiler.tas.study_state import Config, arch_of
from pmc.dialects.errors import PmcError
from pmc.dialects.stacked_arch import StackedArch
from pmc.dialects.trace_tables import ACCESSES, COMPUTE_EVENTS, MEMORY_EVENTS


def compute_power_from_events(
    compute_df: DataFrame,
    memory_df: DataFrame,
    cfg_arch: Config,
    *,
    snapshot: dict[str, Any] | None = None,
    window_ms: float | None = None,
) -> dict[str, list[float]]:
    """Mean watts of a window: `P_logic` of cores, `P_mem` of banks; an event counts where it starts.

    Leakage, voltage and refresh are those of `snapshot`, what `submit_events_to_comet` gave for the window before; None
    for a chip at the ambient temperature.  `window_ms` None is the shipped window.  Raises PmcError for wrong events.
    """
    arch = arch_of(cfg_arch)
    before: PowerState = idle_state(arch) if snapshot is None else power_state(arch, snapshot)
    columns = compute_columns(compute_df), memory_columns(arch, memory_df)
    power = power_of_events(arch, *columns, window_ns_of(window_ms) * 1e-9, before)
    return {"P_logic": power.core_w.tolist(), "P_mem": power.bank_w.tolist()}


def refresh_multiplier(temp_c: float, *, cfg_arch: Config | None = None) -> float:
    """How many times the base rate a bank of this temperature refreshes; None for the shipped chip."""
    arch = load_stack("arch_8x8_32x32x8") if cfg_arch is None else arch_of(cfg_arch)
    return float(refresh.refresh_multiplier(arch.refresh, np.array([temp_c]))[0])


def dvfs_step(temp_c: float, domain: str, *, ghz: float | None = None, cfg_arch: Config | None = None) -> float:
    """The clock in GHz that a core of this temperature gets; the one domain is `all`.

    `ghz` is the present clock, which hysteresis may hold down; None for a core that was not slowed.  Raises PmcError
    for a domain or a clock that the chip does not have.
    """
    arch = load_stack("arch_8x8_32x32x8") if cfg_arch is None else arch_of(cfg_arch)
    known = {found.cores: found for found in arch.dvfs.domains}
    if domain not in list(known):
        raise PmcError(f"there is no DVFS domain '{domain}', expected {', '.join(known)}")
    steps = arch.domain.steps_ghz
    if ghz is not None and ghz not in steps:
        raise PmcError(f"{ghz:g} GHz is no clock of {arch.name}: {', '.join(f'{step:g}' for step in steps)}")
    present = np.array([0 if ghz is None else steps.index(ghz)])
    return steps[int(dvfs.dvfs_step(arch.domain, present, np.array([temp_c]))[0])]


def window_ns_of(window_ms: float | None) -> int:
    """The window in ns; None for that of the shipped parameters.  Raises ConfigError."""
    return load_tas("tas_params", None if window_ms is None else {"tacs.window_ms": window_ms}).tacs.window_ns


def compute_columns(frame: DataFrame) -> ComputeColumns:
    """Cores and FLOP of the frame `compute_events`.  Raises PmcError."""
    table = table_of(COMPUTE_EVENTS, frame)
    return ComputeColumns(table.ints("core_id"), table.numbers("flops"))


def memory_columns(arch: StackedArch, frame: DataFrame) -> MemoryColumns:
    """Cores, banks and bytes of the frame `memory_events`.  Raises PmcError for a bank that there is not."""
    table = table_of(MEMORY_EVENTS, frame)
    banks = table.texts("dst_bank")
    numbers = np.array([arch.bank_number(name) for name in banks.words], np.int64)
    size = table.ints("bytes").astype(np.float64)
    write = table.ints("rw") == ACCESSES.index("write")
    return MemoryColumns(table.ints("src_core"), numbers[banks.codes], size, write)


def idle_state(arch: StackedArch) -> PowerState:
    """A chip at the ambient temperature, at its fastest clocks and the base rate of refresh."""
    cores, banks = arch.mesh.count, arch.dram.count
    ambient = arch.cooling.ambient_c
    return PowerState(np.full(cores, ambient), np.full(banks, ambient), np.ones(cores), np.ones(banks))


def power_state(arch: StackedArch, snapshot: Mapping[str, Any]) -> PowerState:
    """The state that a window leaves to the next one.  Raises PmcError for a clock that the chip does not have."""
    steps = arch.domain.steps_ghz
    wrong = next((ghz for ghz in snapshot["clock_core_ghz"] if ghz not in steps), None)
    if wrong is not None:
        raise PmcError(f"{wrong} GHz is no clock of {arch.name}: {', '.join(f'{step:g}' for step in steps)}")
    clocks = DvfsState(arch.domain, np.array([steps.index(ghz) for ghz in snapshot["clock_core_ghz"]]))
    core_c, bank_c, multiplier = (
        np.array(snapshot[name], np.float64) for name in ("temps_core", "temps_bank", "refresh_multiplier")
    )
    return PowerState(core_c, bank_c, clocks.energy_factor, multiplier)
