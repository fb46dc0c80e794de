"""The Python API of pmc: load a model and a target, compile to a level, evaluate, print.

    import pmc

    module = pmc.compile_model(
        pmc.load_model("deepseek-v3"),
        pmc.load_chip("sg2262"),
        pmc.load_topology("p1-r1-b4-c32"),
        pmc.load_deployment("dsv3-decode-ep32"),
        emit="dist",
    )
    print(pmc.module_text(module))

Every mistake of a caller raises `PmcError` with a message of one line.  The names are imported when they are first
used, so that `import pmc` costs nothing.
"""

from __future__ import annotations

from importlib import import_module
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from pmc.compiler.config import load_accounting, load_chip, load_deployment, load_topology
    from pmc.compiler.driver import compile_model, evaluate, evaluate_dump, load_model, load_module, module_text, resume
    from pmc.compiler.explain import explain
    from pmc.dialects.errors import PmcError

__all__ = [
    "PmcError",
    "compile_model",
    "evaluate",
    "evaluate_dump",
    "explain",
    "load_accounting",
    "load_chip",
    "load_deployment",
    "load_model",
    "load_module",
    "load_topology",
    "module_text",
    "resume",
]

_HOME = {
    "PmcError": "pmc.dialects.errors",
    "explain": "pmc.compiler.explain",
    **dict.fromkeys(("load_accounting", "load_chip", "load_deployment", "load_topology"), "pmc.compiler.config"),
    **dict.fromkeys(
        ("compile_model", "evaluate", "evaluate_dump", "load_model", "load_module", "module_text", "resume"),
        "pmc.compiler.driver",
    ),
}
"""The module that defines each name."""


def __getattr__(name: str) -> object:
    """Import a name of the API on first use (PEP 562)."""
    if name not in _HOME:
        raise AttributeError(f"module 'pmc' has no attribute '{name}'")
    return getattr(import_module(_HOME[name]), name)


def __dir__() -> list[str]:
    """The names of the API."""
    return __all__
