"""A chip that gets warm: temperatures, clocks and refresh rates from window to window.

In a window the power of work, of refresh and of leakage at the temperatures that it begins with is constant.  The
temperatures that it ends with set clocks and refresh rates of the next one.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import numpy as np

from pmc.backends.thermal.dvfs import DvfsState
from pmc.backends.thermal.engine import HeatEngine, KeptHeat
from pmc.backends.thermal.floorplan import Floats
from pmc.backends.thermal.network import Ints
from pmc.backends.thermal.power import DynamicPower, UnitPower, Work, dynamic_power, total_power
from pmc.backends.thermal.refresh import bandwidth_factor, refresh_multiplier
from pmc.backends.thermal.snapshot import RunAwayError, Snapshot
from pmc.backends.thermal.stacked import bank_words, core_words
from pmc.dialects.stacked_arch import StackedArch

SETTLED_K = 0.01
"""Change of temperatures at which the steady state with its leakage is found."""


PowerAt = Callable[[DvfsState], DynamicPower]
"""The watts of a work that goes on at some clocks."""


@dataclass(frozen=True)
class KeptChip:
    """What `ChipState.restore` goes on from."""

    heat: KeptHeat
    step: Ints
    """[cores] places in the list of clocks."""
    snapshot: Snapshot
    windows: int


class ChipState:
    """The state of a chip between two windows.

    Begins in the steady state of `first`, the mean work of the first window, which lasts `window_ns`.  Leakage, refresh
    and clocks are those of this state: as the search warms up from the ambient, clocks only fall, and the same work
    per second is done at their lower voltage; or what `first` says of these clocks, where it is a function of them.
    Raises RunAwayError where there is no such state.
    """

    def __init__(self, arch: StackedArch, engine: HeatEngine, first: Work | PowerAt, window_ns: int):
        self.arch = arch
        self.engine = engine
        self.windows = 0
        """How many have been stepped through."""
        self.dvfs = DvfsState.fastest(arch.domain, arch.mesh.count)
        seconds = window_ns * 1e-9
        self.snapshot = self._settled(
            (lambda dvfs: dynamic_power(arch, first, dvfs.energy_factor, seconds)) if isinstance(first, Work) else first
        )
        """The last one."""

    @property
    def clock_ghz(self) -> Floats:
        """[cores] clocks of the next window."""
        return self.dvfs.clock_ghz

    @property
    def bandwidth_factor(self) -> Floats:
        """[banks] the part of a bank's bandwidth that refresh leaves in the next window."""
        return bandwidth_factor(self.arch.refresh, self.snapshot.refresh_multiplier)

    def kept(self) -> KeptChip:
        """The state, without the model of the chip."""
        return KeptChip(self.engine.kept(), self.dvfs.step, self.snapshot, self.windows)

    def restore(self, kept: KeptChip) -> None:
        """Go on from a state that a chip of the same architecture has kept."""
        self.engine.restore(kept.heat)
        self.dvfs = DvfsState(self.arch.domain, kept.step)
        self.snapshot, self.windows = kept.snapshot, kept.windows

    def step(self, work: Work, window_ns: int) -> Snapshot:
        """Do the work of the next window at the present clocks.  Raises RunAwayError."""
        return self.step_power(dynamic_power(self.arch, work, self.dvfs.energy_factor, window_ns * 1e-9), window_ns)

    def step_power(self, dynamic: DynamicPower, window_ns: int) -> Snapshot:
        """Spend watts that come from work in the next window; leakage and refresh are added.  Raises RunAwayError."""
        last = self.snapshot
        power = total_power(self.arch, dynamic, last.temps_core_c, last.temps_bank_c, last.refresh_multiplier)
        core_c, bank_c = self.engine.advance(power.core_w, power.bank_w, window_ns * 1e-9)
        self._require_cool(core_c, bank_c, self.windows, last)
        self.dvfs = self.dvfs.after(core_c)
        self.snapshot = self._snapshot(last.ts_ns + window_ns, core_c, bank_c, power)
        self.windows += 1
        return self.snapshot

    def _settled(self, first: PowerAt) -> Snapshot:
        """Sets the clocks too.

        Warmer units leak and refresh more, and more power makes every unit warmer: from the ambient, temperatures rise
        to the lowest steady state, or beyond the limit.  One of both is reached: a round warms by `SETTLED_K` or more.
        """
        core_c, bank_c = self._ambient()
        while True:
            dynamic = first(self.dvfs)
            multiplier = refresh_multiplier(self.arch.refresh, bank_c)
            power = total_power(self.arch, dynamic, core_c, bank_c, multiplier)
            before = np.concatenate([core_c, bank_c])
            core_c, bank_c = self.engine.steady(power.core_w, power.bank_w)
            slower = self.dvfs.after(core_c).step
            if (slower > self.dvfs.step).any():
                # One step at a time, for a jump to the steady state may pass trips that the next clock stays below.
                self.dvfs = DvfsState(self.arch.domain, self.dvfs.step + (slower > self.dvfs.step))
                core_c, bank_c = self._ambient()
                continue
            self._require_cool(core_c, bank_c, None, None)
            if np.abs(np.concatenate([core_c, bank_c]) - before).max() < SETTLED_K:
                return self._snapshot(0, core_c, bank_c, power)

    def _ambient(self) -> tuple[Floats, Floats]:
        ambient = self.arch.cooling.ambient_c
        return np.full(self.arch.mesh.count, ambient), np.full(self.arch.dram.count, ambient)

    def _snapshot(self, ts_ns: int, core_c: Floats, bank_c: Floats, power: UnitPower) -> Snapshot:
        multiplier = refresh_multiplier(self.arch.refresh, bank_c)
        return Snapshot(ts_ns, core_c, bank_c, self.dvfs.clock_ghz, multiplier, power.core_w, power.bank_w)

    def _require_cool(self, core_c: Floats, bank_c: Floats, window: int | None, last: Snapshot | None) -> None:
        limit = self.arch.power.run_away_c
        for celsius, what in ((core_c, "core"), (bank_c, "bank")):
            wrong = np.flatnonzero(~(celsius <= limit))
            if len(wrong):
                worst = int(wrong[np.argmax(celsius[wrong])])  # argmax takes the first NaN for the greatest
                name = core_words(worst) if what == "core" else bank_words(self.arch, worst)
                raise RunAwayError(window, name, float(celsius[worst]), limit, last)
