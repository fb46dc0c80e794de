"""How much the vector unit does, in elementary functions: what ops and kinds count, and chips put a price on."""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True)
class VectorSteps:
    """Operations of the vector unit, by elementary function; the chip says how many steps each of them takes.

    A basic operation (add, multiply, compare, convert, one element of a reduction) is one step on every chip.
    """

    basic: int = 0
    exp: int = 0
    div: int = 0
    rsqrt: int = 0

    def __add__(self, other: VectorSteps) -> VectorSteps:
        return VectorSteps(
            self.basic + other.basic, self.exp + other.exp, self.div + other.div, self.rsqrt + other.rsqrt
        )


SIGMOID = VectorSteps(basic=1, exp=1, div=1)
"""exp, add, div."""


@dataclass(frozen=True)
class Arithmetic:
    """What a function of one element, or of several, takes."""

    flops: int
    steps: VectorSteps
    """Without the conversion of the result."""
