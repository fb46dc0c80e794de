"""Watts of cores and banks in a window, of the events that start in it.

    core: FLOPs x energy x (V / V of the fastest clock)^2 + byte-hops x energy + leakage(T)
    bank: bytes x energy + refresh commands x energy + leakage(T)

as the TAS-MoE study has it (P_logic, P_mem); leakage follows the temperatures at the start of the window.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from pmc.backends.thermal.floorplan import Floats
from pmc.backends.thermal.network import Ints
from pmc.backends.thermal.refresh import refreshes_per_s
from pmc.dialects.analyses.mesh_traffic import cores_over, link_bytes
from pmc.dialects.errors import PmcError
from pmc.dialects.grouped_sums import grouped_sums
from pmc.dialects.stacked_arch import Leakage, StackedArch

PICO, NANO = 1e-12, 1e-9


@dataclass(frozen=True)
class ComputeColumns:
    """[events] of a window: what cores compute."""

    core: Ints
    flops: Floats


@dataclass(frozen=True)
class MemoryColumns:
    """[events] of a window: what cores read from banks, and write to them."""

    core: Ints
    bank: Ints
    size: Floats
    """Bytes."""
    write: npt.NDArray[np.bool_]


@dataclass(frozen=True)
class Work:
    """What the events of a window ask of each core and bank."""

    flops: Floats
    """[cores]"""
    byte_hops: Floats
    """[cores] bytes times links, of what leaves over the links of a core."""
    dram_bytes: Floats
    """[banks]"""


@dataclass(frozen=True)
class DynamicPower:
    """Mean watts of a window that come from work."""

    core_w: Floats
    """[cores]"""
    bank_w: Floats
    """[banks]"""


def work_of(arch: StackedArch, compute: ComputeColumns, memory: MemoryColumns) -> Work:
    """The work of the events of a window.

    Raises PmcError for a core or bank that the chip does not have, and for FLOPs or bytes that are negative or no
    number.
    """
    _require_known(arch, "core", compute.core, arch.mesh.count)
    _require_amount("FLOPs", compute.flops)
    byte_hops = np.asarray(links_of(arch, memory).sum(axis=0).reshape(-1))
    flops = grouped_sums(compute.core, compute.flops, arch.mesh.count)
    return Work(flops, byte_hops, grouped_sums(memory.bank, memory.size, arch.dram.count))


def links_of(arch: StackedArch, memory: MemoryColumns) -> Floats:
    """[direction, row, column] bytes that leave the cores, see `mesh_traffic`.

    What is read comes from the core at the bank, what is written goes there.

    Raises PmcError as `work_of`.
    """
    _require_known(arch, "core", memory.core, arch.mesh.count)
    _require_known(arch, "bank", memory.bank, arch.dram.count)
    _require_amount("bytes", memory.size)
    below = cores_over(arch)[memory.bank]
    source, target = np.where(memory.write, memory.core, below), np.where(memory.write, below, memory.core)
    return link_bytes(*arch.mesh.cores, source, target, memory.size)


def dynamic_power(arch: StackedArch, work: Work, energy_factor: Floats, seconds: float) -> DynamicPower:
    """Watts of the work of a window.

    `energy_factor` [cores] is that of the clocks of the window (`DvfsState.energy_factor`); the network and DRAM have a
    voltage of their own.  Raises PmcError for a window without a length.
    """
    if not seconds > 0:
        raise PmcError(f"power: a window of {seconds} s, must be longer than 0")
    power = arch.power
    compute = work.flops * power.pj_per_flop * energy_factor
    core_j = (compute + work.byte_hops * power.pj_per_noc_byte_hop) * PICO
    return DynamicPower(core_j / seconds, work.dram_bytes * power.pj_per_dram_byte * PICO / seconds)


def leakage_w(leakage: Leakage, celsius: Floats) -> Floats:
    """[units] watts: reference_w x 2^((T - reference_c) / doubles_every_k)."""
    found: Floats = leakage.reference_w * np.exp2((celsius - leakage.reference_c) / leakage.doubles_every_k)
    return found


def refresh_w(arch: StackedArch, multiplier: Floats) -> Floats:
    """[banks] watts of refresh at multiples of the base rate."""
    return refreshes_per_s(arch.refresh, multiplier) * arch.power.nj_per_refresh * NANO


@dataclass(frozen=True)
class PowerState:
    """What the power of a window depends on beside its events."""

    core_c: Floats
    """[cores] degrees C."""
    bank_c: Floats
    """[banks] degrees C."""
    energy_factor: Floats
    """[cores] of their clocks, see `DvfsState.energy_factor`."""
    multiplier: Floats
    """[banks] multiples of the base rate of refresh."""


@dataclass(frozen=True)
class UnitPower:
    """All watts of a window."""

    core_w: Floats
    """[cores]"""
    bank_w: Floats
    """[banks]"""


def total_power(
    arch: StackedArch, dynamic: DynamicPower, core_c: Floats, bank_c: Floats, multiplier: Floats
) -> UnitPower:
    """Work, refresh and leakage: degrees C of [cores] and [banks], and multiples of the refresh rate of [banks]."""
    core_w = dynamic.core_w + leakage_w(arch.power.core_leakage, core_c)
    bank_w = dynamic.bank_w + refresh_w(arch, multiplier) + leakage_w(arch.power.bank_leakage, bank_c)
    return UnitPower(core_w, bank_w)


def power_of_events(
    arch: StackedArch, compute: ComputeColumns, memory: MemoryColumns, seconds: float, state: PowerState
) -> UnitPower:
    """All watts of a window, of its events and of the state that it begins with.  Raises PmcError for wrong events."""
    dynamic = dynamic_power(arch, work_of(arch, compute, memory), state.energy_factor, seconds)
    return total_power(arch, dynamic, state.core_c, state.bank_c, state.multiplier)


def _require_known(arch: StackedArch, what: str, numbers: Ints, count: int) -> None:
    wrong = np.flatnonzero((numbers < 0) | (numbers >= count))
    if len(wrong):
        raise PmcError(f"power: event {wrong[0]} names {what} {numbers[wrong[0]]}: {arch.name} has {count} {what}s")


def _require_amount(what: str, amounts: Floats) -> None:
    wrong = np.flatnonzero(~((amounts >= 0) & np.isfinite(amounts)))
    if len(wrong):
        raise PmcError(f"power: event {wrong[0]} has {amounts[wrong[0]]} {what}, must be 0 or more")
