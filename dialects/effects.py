"""What an op does to memory beyond its results, which is what xDSL's `dce`, `cse` and `canonicalize` go by."""

from __future__ import annotations

from collections.abc import Set
from typing import ClassVar

from xdsl.ir import Operation
from xdsl.traits import EffectInstance, MemoryEffect, MemoryEffectKind

Effects = frozenset[EffectInstance]

NOTHING: Effects = frozenset()
"""The results follow from the operands: an op that nobody uses may go, two equal ones may become one."""

READS: Effects = frozenset({EffectInstance(MemoryEffectKind.READ)})
"""May go when nobody uses it; two equal ones may become one where nothing is written in between."""

UPDATES: Effects = frozenset({EffectInstance(MemoryEffectKind.READ), EffectInstance(MemoryEffectKind.WRITE)})
"""Stays where it is: it changes memory, or other ranks wait for this one to take part."""


class HasEffects:
    """An op class that states its effects; `StatedEffects` hands them to xDSL."""

    EFFECTS: ClassVar[Effects] = NOTHING


class StatedEffects(MemoryEffect):
    """The effects are those in `EFFECTS` of the op's class.

    xDSL merges the traits of a class with those of its bases, so a base that were `Pure` would make all its ops pure;
    a class variable can be overridden.
    """

    @classmethod
    def get_effects(cls, op: Operation) -> Set[EffectInstance] | None:
        """The effects of the op; None, which is any, for an op that states none."""
        return op.EFFECTS if isinstance(op, HasEffects) else None
