"""Refresh of DRAM: a hot bank loses charge sooner, so it refreshes more often and serves less."""

from __future__ import annotations

import numpy as np

from pmc.backends.thermal.floorplan import Floats
from pmc.dialects.stacked_arch import Refresh


def refresh_multiplier(refresh: Refresh, celsius: Floats) -> Floats:
    """[banks] multiples of the base rate: that of the last step of the curve that a bank has reached, 1 below all."""
    steps = np.array([at for at, _ in refresh.tref_curve])
    multiples = np.array([1.0, *(multiple for _, multiple in refresh.tref_curve)])
    found: Floats = multiples[np.searchsorted(steps, celsius, side="right")]
    return found


def bandwidth_factor(refresh: Refresh, multiplier: Floats) -> Floats:
    """[banks] the part of the time that is left to serve accesses: 1 - multiplier x tRFC / tREFI."""
    return 1 - multiplier * refresh.trfc_ns / (refresh.tref_base_us * 1e3)


def refreshes_per_s(refresh: Refresh, multiplier: Floats) -> Floats:
    """[banks] refresh commands per second."""
    return multiplier / (refresh.tref_base_us * 1e-6)
