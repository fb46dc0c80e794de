"""The unit responses of a stacked chip, which TAPS and TACS ask for."""

from __future__ import annotations

import numpy as np

from pmc.backends.thermal.stacked import StackedModel
from pmc.dialects.analyses.core_heat import HeatResponse
from pmc.dialects.stacked_arch import StackedArch


def response_of(chip: StackedModel) -> HeatResponse:
    """The response of the model that also gives the temperatures of a run.

    A network of heat is reciprocal: a watt in a bank warms a core as a watt in the core warms the bank.  So the columns of
    banks need no solutions of their own.
    """
    cores, banks = chip.core_response()
    at_core = np.array([chip.arch.banks_at_core(core) for core in range(chip.arch.mesh.count)])
    return HeatResponse(cores, banks[at_core].mean(axis=1).T)


class StackedHeat:
    """A `CoreHeat` that builds the model of each chip it is asked for."""

    def response(self, arch: StackedArch) -> HeatResponse:
        """The response of the cores of a chip.  Raises PmcError where the die does not fit under the spreader."""
        return response_of(StackedModel.of(arch))
