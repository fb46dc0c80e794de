"""Dynamic voltage and frequency scaling: every core has the clock that its own temperature allows."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from pmc.backends.thermal.floorplan import Floats
from pmc.backends.thermal.network import Ints
from pmc.dialects.stacked_arch import DvfsDomain


def dvfs_step(domain: DvfsDomain, step: Ints, celsius: Floats) -> Ints:
    """[cores] the steps of the next window; step 0 is the fastest clock.

    A core falls at once to the step that the trips below its temperature ask for.  It climbs one step at a time, once
    it is `hysteresis_c` below the trip that separates it from the faster clock.
    """
    trips = np.array(domain.trip_c)
    asked = np.searchsorted(trips, celsius, side="left")
    if not len(trips):
        return asked
    may_climb = (step > 0) & (celsius <= trips[np.maximum(step - 1, 0)] - domain.hysteresis_c)
    found: Ints = np.maximum(asked, step - may_climb)
    return found


@dataclass(frozen=True)
class DvfsState:
    """The clocks of the cores."""

    domain: DvfsDomain
    step: Ints
    """[cores] places in the list of clocks."""

    @classmethod
    def fastest(cls, domain: DvfsDomain, cores: int) -> DvfsState:
        """All cores at the fastest clock."""
        return cls(domain, np.zeros(cores, np.int64))

    def after(self, celsius: Floats) -> DvfsState:
        """The clocks of the next window, of [cores] temperatures at the end of this one."""
        return DvfsState(self.domain, dvfs_step(self.domain, self.step, celsius))

    @property
    def clock_ghz(self) -> Floats:
        """[cores] GHz."""
        return np.array(self.domain.steps_ghz)[self.step]

    @property
    def energy_factor(self) -> Floats:
        """[cores] energy of an operation against that at the fastest clock: (V / V of the fastest clock)^2."""
        voltage = np.array(self.domain.voltage_v)
        found: Floats = (voltage[self.step] / voltage[0]) ** 2
        return found
