"""The window loop of TAS: overlay, events, power, temperatures, clocks and refresh, and again.

    TACS decides for window w from the temperatures and loads at the end of w - 1 -> events of w at the clocks and
    refresh rates in force -> watts -> temperatures at the end of w -> clocks and refresh rates of w + 1

So heat lengthens events, and what is late waits for the next window.  All scenarios begin in one state: the steady one
of the work that the first window generates, spread evenly over cores and banks.  The package takes seconds to warm and
has had them; a hot spot takes milliseconds and is what a run shows.
"""

from __future__ import annotations

import logging
from dataclasses import dataclass

import numpy as np

from pmc.backends.thermal.chip_state import ChipState, KeptChip
from pmc.backends.thermal.engine import HeatEngine
from pmc.backends.thermal.floorplan import Floats
from pmc.backends.thermal.power import Work
from pmc.backends.thermal.refresh import refreshes_per_s
from pmc.backends.thermal.snapshot import Snapshot
from pmc.backends.thermal.tacs import Tacs, TacsMemory, Telemetry
from pmc.dialects.analyses.event_state import EventSetting, EventState
from pmc.dialects.analyses.overlays import Overlay
from pmc.dialects.analyses.physical_events import PhysicalWindow, physicalize_window

LOG = logging.getLogger("pmc.thermal")


@dataclass(frozen=True)
class WindowRecord:
    """One window of a run."""

    window: int
    overlay: Overlay
    events: PhysicalWindow
    clock_ghz: Floats
    """[cores] that it ran at."""
    snapshot: Snapshot
    """At the end of the window."""
    refresh_mhz: float
    """Refresh commands of all banks in the window, millions per second."""


@dataclass(frozen=True)
class TasState:
    """What one window hands on to the next, beside the heat in the chip."""

    events: EventState
    memory: TacsMemory
    celsius_core: Floats
    celsius_bank: Floats
    """Smoothed."""
    busy: Floats
    """[cores] part of the last window."""
    noc_load: float


class TasRun:
    """A run of one scenario: with `tacs` work moves in the run, without it stays where it was placed."""

    def __init__(self, setting: EventSetting, engine: HeatEngine, tacs: Tacs | None) -> None:
        self.setting = setting
        self.tacs = tacs
        arch = setting.chip.arch
        self.chip = ChipState(arch, engine, first_work(setting), setting.window_ns)
        first = self.chip.snapshot
        idle = np.zeros(arch.mesh.count)
        self.state = TasState(setting.initial, TacsMemory(), first.temps_core_c, first.temps_bank_c, idle, 0.0)

    @property
    def window(self) -> int:
        """The next window."""
        return self.state.events.window

    def kept(self) -> tuple[KeptChip, TasState]:
        """What `restore` needs, without the factors of the thermal model."""
        return self.chip.kept(), self.state

    def restore(self, kept: tuple[KeptChip, TasState]) -> None:
        """Go on from where a run of the same inputs was."""
        chip, self.state = kept
        self.chip.restore(chip)

    def step(self) -> WindowRecord:
        """The next window.  Raises RunAwayError."""
        overlay, memory = self._decided()
        return self.finished(overlay, memory, self.physical(overlay))

    def physical(self, overlay: Overlay) -> PhysicalWindow:
        """The events of the next window at the present clocks and rates of refresh; nothing is committed.

        Raises PmcError for an overlay that does not fit.
        """
        chip = self.chip
        return physicalize_window(self.setting, self.state.events, chip.clock_ghz, chip.bandwidth_factor, overlay)

    def finished(self, overlay: Overlay, memory: TacsMemory, events: PhysicalWindow) -> WindowRecord:
        """Commit the events of the next window, and heat the chip by them.  Raises RunAwayError."""
        state, setting, chip, window = self.state, self.setting, self.chip, self.window
        clock_ghz = chip.clock_ghz
        refresh = refreshes_per_s(setting.chip.arch.refresh, chip.snapshot.refresh_multiplier).sum() / 1e6
        work = Work(events.core_flops, events.core_byte_hops, events.bank_bytes.astype(np.float64))
        snapshot = chip.step(work, setting.window_ns)
        newest = 1.0 if self.tacs is None else self.tacs.params.smoothing
        self.state = TasState(
            events.state,
            memory,
            newest * snapshot.temps_core_c + (1 - newest) * state.celsius_core,
            newest * snapshot.temps_bank_c + (1 - newest) * state.celsius_bank,
            events.utilisation,
            events.noc_load,
        )
        LOG.info(
            "window %d: cores up to %.2f C, banks up to %.2f C, %d tokens done", window, snapshot.temps_core_c.max(),
            snapshot.temps_bank_c.max(), len(events.finished_tokens),
        )  # fmt: skip
        return WindowRecord(window, overlay, events, clock_ghz, snapshot, float(refresh))

    def telemetry(self) -> Telemetry:
        """What is known before the next window."""
        state, begin = self.state, self.setting.start_ns(self.window)
        return Telemetry(state.celsius_core, state.celsius_bank, state.busy, state.noc_load, begin)

    def _decided(self) -> tuple[Overlay, TacsMemory]:
        state = self.state
        if self.tacs is None:
            return Overlay.empty(state.events), state.memory
        overlay, memory = self.tacs.step(self.telemetry(), state.events, state.memory)
        for row in overlay.reroute.lines() + overlay.migrate.lines():
            LOG.debug("window %d: %s", self.window, row)
        return overlay, memory


def first_work(setting: EventSetting) -> Work:
    """What the first window generates, spread evenly over cores and banks, or its part where it lasts for more windows.

    A micro-batch that comes every three windows is a third of it in each.
    """
    parts, arch = setting.parts, setting.chip.arch
    later = int(np.searchsorted(parts.t_gen_ns, int(parts.t_gen_ns[0]), side="right"))
    next_ns = int(parts.t_gen_ns[later]) if later < len(parts) else 0
    span_ns = max(setting.window_ns, next_ns)
    count = int(np.searchsorted(parts.t_gen_ns, span_ns))
    cores, banks, share = arch.mesh.count, arch.dram.count, setting.window_ns / span_ns
    flops = float(parts.flops[:count].sum()) * share
    size = float(parts.row_bytes[: parts.row_starts[count]].sum()) * share
    return Work(np.full(cores, flops / cores), np.zeros(cores), np.full(banks, size / banks))
