"""How work on a core of a stacked chip warms all cores: what a placement asks of a thermal model."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Protocol

import numpy as np
import numpy.typing as npt

from pmc.dialects.errors import PmcError
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


class CoreHeatRegistry:
    """Holds the thermal model that `place-experts` asks: passes do not know backends."""

    def __init__(self) -> None:
        self._provided: CoreHeat | None = None

    def provide(self, model: CoreHeat) -> None:
        """Set the model from here on."""
        self._provided = model

    def response(self, arch: StackedArch) -> HeatResponse:
        """The response of the cores of a chip.  Raises PmcError while nothing is provided."""
        if self._provided is None:
            raise PmcError("no thermal model is provided: import pmc.compiler.pipelines, which brings one")
        return self._provided.response(arch)


CORE_HEAT = CoreHeatRegistry()
"""The one registry; `pmc.compiler.pipelines` fills it."""
