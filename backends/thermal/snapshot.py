"""What is known of a chip at the end of a window, and the error of a chip that runs away."""

from __future__ import annotations

from dataclasses import dataclass

from pmc.backends.thermal.floorplan import Floats
from pmc.dialects.errors import PmcError


@dataclass(frozen=True)
class Snapshot:
    """A chip at the end of a window."""

    ts_ns: int
    """End of the window."""
    temps_core_c: Floats
    """[cores] degrees C."""
    temps_bank_c: Floats
    """[banks] degrees C."""
    clock_ghz: Floats
    """[cores] which the next window runs at."""
    refresh_multiplier: Floats
    """[banks] multiples of the base rate, which the next window refreshes at."""
    power_core_w: Floats
    """[cores] mean of the window, with leakage."""
    power_bank_w: Floats
    """[banks] mean of the window, with refresh and leakage."""


class RunAwayError(PmcError):
    """A unit that is hotter than the chip allows, or whose temperature is no number."""

    def __init__(self, window: int | None, unit: str, celsius: float, limit_c: float, last: Snapshot | None):
        when = "the steady state before the first window" if window is None else f"window {window}"
        super().__init__(f"thermal: {unit} has run away in {when}: {celsius:.1f} C, the limit is {limit_c:g} C")
        self.window = window
        """Counts from 0; None for the steady state that the run begins with."""
        self.unit = unit
        """`core 3` or `bank B(1,0,2)`."""
        self.celsius = celsius
        self.last = last
        """The snapshot before; None where there is none yet."""
