"""The unit responses of a stacked chip, which TAPS and TACS ask for."""

from __future__ import annotations

import numpy as np

from pmc.backends.thermal.stacked import StackedModel
from pmc.dialects.analyses.core_heat import HeatResponse


def response_of(chip: StackedModel) -> HeatResponse:
    """The response of the model that also gives the temperatures of a run.

    A network of heat is reciprocal: a watt in a bank warms a core as a watt in the core warms the bank.  So the
    columns of banks need no solutions of their own.
    """
    cores, banks = chip.core_response()
    at_core = np.array([chip.arch.banks_at_core(core) for core in range(chip.arch.mesh.count)])
    return HeatResponse(cores, banks[at_core].mean(axis=1).T)
