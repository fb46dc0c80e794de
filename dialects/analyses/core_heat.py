"""How work on a core of a stacked chip warms all cores: what a placement asks of a thermal model."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Protocol

import numpy as np
import numpy.typing as npt

from pmc.dialects.stacked_arch import StackedArch

Floats = npt.NDArray[np.float64]


@dataclass(frozen=True)
class HeatResponse:
    """Steady temperatures of cores as a linear function of power."""

    core_k_per_w: Floats
    """[cores, cores] warming of the first by a watt in the second."""
    column_k_per_w: Floats
    """[cores, cores] warming of the first by a watt spread evenly over the banks at the second."""


class CoreHeat(Protocol):
    """A thermal model of stacked chips."""

    def response(self, arch: StackedArch) -> HeatResponse:
        """The response of the cores of a chip.  Raises PmcError where the chip cannot be modelled."""
        ...
