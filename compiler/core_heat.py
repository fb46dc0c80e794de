"""The thermal model of `place-experts`; passes do not know backends, so the driver brings the two together."""

from __future__ import annotations

from functools import lru_cache
from importlib.util import find_spec

from pmc.dialects.analyses.core_heat import HeatResponse
from pmc.dialects.errors import PmcError
from pmc.dialects.stacked_arch import StackedArch


def require_scipy() -> None:
    """Raise PmcError, naming the extra, where SciPy is not installed."""
    if find_spec("scipy") is None:
        raise PmcError("temperatures need SciPy: pip install 'pmc[thermal]'")


@lru_cache(maxsize=4)
def core_heat(arch: StackedArch) -> HeatResponse:
    """The unit responses of a chip.  Raises PmcError without SciPy, or where the die does not fit its package."""
    require_scipy()
    from pmc.backends.thermal.core_response import response_of
    from pmc.backends.thermal.stacked import StackedModel

    return response_of(StackedModel.of(arch))
