"""The Python API of pmc; `docs/python-api.md` is its guide.

    import pmc

    found = pmc.evaluate("deepseek-v3", "sg2262", "p1-r1-b4-c32", "dsv3-decode-ep32", granularity="tile")
    print(found.total_us, found.figures.mfu)

Every mistake of a caller raises `PmcError` with a message of one line.  No function changes its arguments.  The names
are imported when they are first used, so that `import pmc` costs nothing.
"""

from __future__ import annotations

from importlib import import_module
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from pmc.compiler.api import check, compile, evaluate, explain, load_model, serve, sweep
    from pmc.compiler.config import load_accounting, load_calibration, load_chip, load_deployment, load_topology
    from pmc.compiler.module import Module
    from pmc.compiler.presets import list_presets
    from pmc.compiler.tas import study as thermal_study
    from pmc.dialects.errors import PmcError

__all__ = [
    "Module",
    "PmcError",
    "check",
    "compile",
    "evaluate",
    "explain",
    "list_presets",
    "load_accounting",
    "load_calibration",
    "load_chip",
    "load_deployment",
    "load_model",
    "load_topology",
    "serve",
    "sweep",
    "thermal_study",
]

_HOME = {
    "Module": "pmc.compiler.module",
    "PmcError": "pmc.dialects.errors",
    "list_presets": "pmc.compiler.presets",
    **dict.fromkeys(
        ("load_accounting", "load_calibration", "load_chip", "load_deployment", "load_topology"), "pmc.compiler.config"
    ),
    **dict.fromkeys(("check", "compile", "evaluate", "explain", "load_model", "serve", "sweep"), "pmc.compiler.api"),
}
"""The module that defines each name."""

_MODULES = {"thermal_study": "pmc.compiler.tas.study"}
"""The modules that are names of the API themselves: `pmc.thermal_study` has the functions of the TAS-MoE study."""


def __getattr__(name: str) -> object:
    """Import a name of the API on first use (PEP 562)."""
    if name in _MODULES:
        from pmc.compiler.core_heat import require_scipy

        require_scipy()
        return import_module(_MODULES[name])
    if name not in _HOME:
        raise AttributeError(f"module 'pmc' has no attribute '{name}'")
    return getattr(import_module(_HOME[name]), name)


def __dir__() -> list[str]:
    """The names of the API."""
    return __all__
