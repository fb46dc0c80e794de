"""Which dialects exist, and an xDSL context that loads each on first use."""

from __future__ import annotations

from collections.abc import Callable
from functools import cache, partial
from importlib import import_module
from typing import TYPE_CHECKING

from xdsl.context import Context
from xdsl.dialects.builtin import Builtin
from xdsl.ir import Dialect

if TYPE_CHECKING:
    from xdsl.universe import Universe

DIALECTS = ("arch", "model", "layer", "dist", "silicon", "tile", "g5", "trace", "serve")
"""The dialects of pmc, from the target to the machine; `x` is the object `X` of `pmc.dialects.x`."""


def _load_dialect(name: str) -> Dialect:
    dialect = getattr(import_module(f"pmc.dialects.{name}"), name.capitalize())
    assert isinstance(dialect, Dialect)
    return dialect


def dialect_factories() -> dict[str, Callable[[], Dialect]]:
    """For each dialect a function that imports it."""
    return {name: partial(_load_dialect, name) for name in DIALECTS}


@cache
def foreign_universes() -> tuple[Universe, ...]:
    """What packages other than pmc and xDSL bring by the entry point `xdsl.universe`, in the order of their names."""
    from importlib.metadata import entry_points

    found = sorted(entry_points(group="xdsl.universe"), key=lambda entry: entry.name)
    return tuple(entry.load() for entry in found if entry.name not in ("pmc", "xdsl"))


def make_context(foreign: bool = False) -> Context:
    """A context that knows the dialects of pmc and `builtin`, and with `foreign` those of other packages."""
    context = Context()
    context.load_dialect(Builtin)
    brought = [universe.all_dialects for universe in foreign_universes()] if foreign else []
    for name, factory in (item for dialects in (dialect_factories(), *brought) for item in dialects.items()):
        context.register_dialect(name, factory)
    return context
