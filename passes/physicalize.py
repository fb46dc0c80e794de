"""The pass `physicalize`: what the cores and banks of the module's chip do, window by window, without heat."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import ClassVar

import numpy as np
from xdsl.dialects.builtin import ModuleOp

from pmc.dialects.analyses.event_state import EventChip, EventSetting, EventState
from pmc.dialects.analyses.logical_parts import LogicalParts
from pmc.dialects.analyses.overlays import Overlay
from pmc.dialects.analyses.physical_events import PhysicalWindow, joined_compute, joined_memory, physicalize_window
from pmc.dialects.levels import STAGES, Stage
from pmc.dialects.stacked_arch import STACKED, StackedArch, StackedArchAttr
from pmc.dialects.tas_params import TAS, TasParams, TasParamsAttr
from pmc.dialects.trace import LogicalOp, OverlayOp, PhysicalOp, PlacementOp, TraceOp
from pmc.dialects.trace_tables import TraceTableAttr
from pmc.passes.base import PassError, PmcPass


@dataclass(frozen=True)
class PhysicalizePass(PmcPass):
    """Turn the logical trace into events of cores and banks, at the fastest clocks and the base rate of refresh.

        trace.logical() {..} at "mixtral-8x7b"
        trace.placement() {..} at "mixtral-8x7b"

    becomes, on the chip `arch.stacked` with the windows of `trace.tas`,

        trace.logical() {..} at "mixtral-8x7b"
        trace.placement() {..} at "mixtral-8x7b"
        trace.physical() {first = 0, count = 512, window_ns = 3000000, waiting = 0, committed = "9f86d081884c7d65",
            compute_events = #trace.table<..>, memory_events = #trace.table<..>} at "mixtral-8x7b"

    Windows that are committed already are run again and must come out the same.  An overlay holds for its window; with
    `windows=n` the pass goes no further than n windows, so that an overlay can follow.
    """

    name = "physicalize"
    READS: ClassVar[tuple[Stage, ...]] = STAGES

    windows: int = 0
    """How many windows are added; 0 for all that there is anything to do in."""

    def run(self, module: ModuleOp) -> None:
        """Add the events at the end of the module; where all is done, nothing."""
        if self.windows < 0:
            raise PassError(f"{self.name}: windows is {self.windows}, must be at least 0")
        ops = [op for op in module.ops if isinstance(op, TraceOp)]
        logical, setting = self.setting(module, ops)
        overlays = {op.window.value.data: _overlay(op) for op in ops if isinstance(op, OverlayOp)}
        state = self.replayed(setting, overlays, [op for op in ops if isinstance(op, PhysicalOp)])
        found: list[PhysicalWindow] = []
        while not state.is_done(setting) and not 0 < self.windows == len(found):
            found.append(_window(setting, state, overlays))
            state = found[-1].state
        if found:
            module.body.block.add_op(physical_op(logical.path.data, setting, found))

    def setting(self, module: ModuleOp, ops: Sequence[TraceOp]) -> tuple[LogicalOp, EventSetting]:
        """The run that the module describes.  Raises PassError for what it lacks."""
        logical = next((op for op in ops if isinstance(op, LogicalOp)), None)
        placement = next((op for op in ops if isinstance(op, PlacementOp)), None)
        if logical is None or placement is None:
            raise PassError(f"{self.name}: the module needs a trace.logical and a trace.placement")
        arch, params = self.target(module)
        parts = LogicalParts.of(logical.compute.data, logical.memory.data, logical.micro_batch.value.data)
        chip = EventChip.of(arch, params.taps.capacity)
        placed = placement.experts.data, placement.tensors.data
        if not all(table.is_whole for table in placed):
            raise PassError(f"{self.name}: the placement has only the first and last rows of its tables")
        return logical, EventSetting.of(parts, chip, params.tacs.window_ns, *placed)

    def target(self, module: ModuleOp) -> tuple[StackedArch, TasParams]:
        """The chip and the parameters of the module."""
        arch, params = module.attributes.get(STACKED), module.attributes.get(TAS)
        if not isinstance(arch, StackedArchAttr) or not isinstance(params, TasParamsAttr):
            raise PassError(f"{self.name}: the module needs the attributes {STACKED} and {TAS}")
        return arch.data, params.data

    def replayed(
        self, setting: EventSetting, overlays: dict[int, Overlay], committed: Sequence[PhysicalOp]
    ) -> EventState:
        """The state behind the committed windows.  Raises PassError where they come out differently."""
        state = setting.initial
        for op in committed:
            while state.window < op.end:
                state = _window(setting, state, overlays).state
            if state.committed != op.committed.data:
                raise PassError(
                    f"{self.name}: windows {op.first.value.data}..{op.end - 1} were not made at the fastest clocks "
                    f"from this trace: committed is {op.committed.data}, found {state.committed}"
                )
        return state


def _overlay(op: OverlayOp) -> Overlay:
    return Overlay(op.window.value.data, op.committed.data, op.reroute.data, op.migrate.data)


def _window(setting: EventSetting, state: EventState, overlays: dict[int, Overlay]) -> PhysicalWindow:
    arch = setting.chip.arch
    clock = np.full(arch.mesh.count, arch.domain.steps_ghz[0])
    served = 1 - arch.refresh.trfc_ns / (arch.refresh.tref_base_us * 1e3)
    return physicalize_window(setting, state, clock, np.full(arch.dram.count, served), overlays.get(state.window))


def physical_op(path: str, setting: EventSetting, windows: Sequence[PhysicalWindow]) -> PhysicalOp:
    """The op of some windows one after the other."""
    last = windows[-1].state
    compute = joined_compute([window.compute for window in windows]).table(setting.chip)
    memory = joined_memory([window.memory for window in windows]).table(setting.chip)
    return PhysicalOp.make(
        [], [], path,
        {
            "first": windows[0].window, "count": len(windows), "window_ns": setting.window_ns,
            "waiting": len(last.queue.part), "committed": last.committed,
            "compute_events": TraceTableAttr(compute), "memory_events": TraceTableAttr(memory),
        },
    )  # fmt: skip
