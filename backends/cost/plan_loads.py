"""What a plan asks of every engine, as amounts with the fields of the chip that they are priced by.

The times are those of `plan_time`, engine by engine; a test holds them equal.
"""

from __future__ import annotations

from collections.abc import Iterator

import numpy as np

from pmc.backends.cost.breakdown import Engine, Load, Phase
from pmc.backends.cost.chip import DRAM_FIELDS, matrix_fields, vector_fields
from pmc.backends.cost.rates import CoreRates
from pmc.dialects.analyses.resources import Resources
from pmc.dialects.arch import Dma
from pmc.dialects.interfaces import FloatArray, IntArray

CUBES, START_UPS = "cubes", "starts"
"""Units of the matrix engine: cubes of the busiest core, and commands that start."""

LMEM_FIELDS = ("chip.command_level.lmem.bytes_per_cycle", "chip.clocks.chip_ghz")


def plan_loads(rates: CoreRates, r: Resources, vec_dtype: str, vec_is_free: bool) -> Iterator[Load]:
    """The loads of the one plan in `r`, before and after the barrier of a merge; arguments as of `PlanTimes.of`."""
    yield from _phase(rates, r, vec_dtype, vec_is_free, "main")
    if r.merge is not None and rates.accounting.core_reduction == "charged":
        yield from _phase(rates, r.merge, "f32", False, "merge")


def _phase(rates: CoreRates, r: Resources, vec_dtype: str, vec_is_free: bool, phase: Phase) -> Iterator[Load]:
    chip, accounting = rates.chip, rates.accounting
    whole = accounting.waves == "whole"
    for dtype, steps in (r.tiu_steps if whole else r.tiu_mean_steps).items():
        yield _load("matrix", phase, steps, f"{dtype} {CUBES}", rates.tiu_step_s(dtype), matrix_fields(dtype))
    if not vec_is_free:
        steps = r.vec_steps if whole or not np.any(r.vec_mean_steps) else r.vec_mean_steps
        yield _load("vector", phase, steps, "steps", 1 / rates.core_steps_per_s(vec_dtype), vector_fields(vec_dtype))
    if accounting.result_conversion == "charged":
        ends_s = 1 / rates.core_steps_per_s("f32")
        yield _load("vector", phase, r.vec_end_steps, "f32 steps", ends_s, vector_fields("f32"))
    yield _load("dram", phase, r.dram_read + r.dram_written, "bytes", 1 / chip.dram_bytes_per_s, DRAM_FIELDS)
    if chip.command_level is None:
        return
    commands = chip.commands
    charged, receives = accounting.command_startup == "charged", accounting.core_receive == "charged"
    if charged:
        start_s = commands.tiu.startup_cycles_nn / (chip.clocks.tiu_ghz * 1e9)
        fields = ("chip.command_level.tiu.startup_cycles_nn", "chip.clocks.tiu_ghz")
        yield _load("matrix", phase, r.tiu_commands, START_UPS, start_s, fields)
    yield from _dma("gdma", phase, commands.gdma, r.gdma_bytes * receives, r.gdma_commands * charged)
    if receives:
        yield _load("lmem", phase, r.gdma_bytes + r.sdma_bytes, "bytes", 1 / rates.lmem_bytes_per_s, LMEM_FIELDS)
    yield from _dma("sdma", phase, commands.sdma, r.sdma_bytes, r.sdma_commands * charged)


def _dma(engine: Engine, phase: Phase, dma: Dma, size: IntArray, commands: IntArray) -> Iterator[Load]:
    path = f"chip.command_level.{engine}"
    per_byte_s = 1 / (dma.gb_per_s * 1e9 * dma.efficiency)
    yield _load(engine, phase, size, "bytes", per_byte_s, (f"{path}.gb_per_s", f"{path}.efficiency"))
    yield _load(engine, phase, commands, START_UPS, dma.startup_ns * 1e-9, (f"{path}.startup_ns",))


def _load(
    engine: Engine, phase: Phase, amount: FloatArray | IntArray, unit: str, each_s: float, fields: tuple[str, ...]
) -> Load:
    return Load(engine, phase, float(amount[0]), unit, float(amount[0]) * each_s, fields)
