"""Which dialects exist, and an xDSL context that loads each on first use."""

from __future__ import annotations

from collections.abc import Callable
from functools import partial
from importlib import import_module

from xdsl.context import Context
from xdsl.dialects.builtin import Builtin
from xdsl.ir import Dialect

DIALECTS = ("arch", "model", "layer", "dist", "tile", "g5")
"""The dialects of pmc, from the target to the machine; `x` is the object `X` of `pmc.dialects.x`."""


def _load_dialect(name: str) -> Dialect:
    dialect = getattr(import_module(f"pmc.dialects.{name}"), name.capitalize())
    assert isinstance(dialect, Dialect)
    return dialect


def dialect_factories() -> dict[str, Callable[[], Dialect]]:
    """For each dialect a function that imports it."""
    return {name: partial(_load_dialect, name) for name in DIALECTS}


def make_context() -> Context:
    """A context that knows the dialects of pmc and `builtin`."""
    context = Context()
    context.load_dialect(Builtin)
    for name, factory in dialect_factories().items():
        context.register_dialect(name, factory)
    return context
