"""In which type the matrix unit multiplies operands of two types: the one rule of rates, at every level.

An operand is read in the type in which it is stored.  Both are multiplied in the one of the two types that holds every
value of the other, so that widening loses nothing: an 8-bit cache or a 4-bit weight beside BF16 is multiplied at the
rate of BF16.  The two 8-bit float formats are multiplied with each other as they are (PTX ISA, `wgmma` with `.e4m3` and
`.e5m2`).  Operands of which neither type holds the other are refused, as serving engines do: `i8` beside `f8E4M3FN`,
`f16` beside `bf16`.
"""

from __future__ import annotations

from dataclasses import dataclass
from functools import cache

from pmc.dialects.tensor import TypeMismatchError


@dataclass(frozen=True)
class NumberFormat:
    """Which numbers a type holds: `significant` bits, and powers of two from `least` to `greatest`.

    `least` is the smallest number above zero, `greatest` the power of two that the largest number begins with.
    """

    significant: int
    least: int
    greatest: int

    def holds(self, other: NumberFormat) -> bool:
        """Whether every number of `other` is one of this format."""
        return self.significant >= other.significant and self.least <= other.least and self.greatest >= other.greatest


def _float(significant: int, exponent_min: int, exponent_max: int) -> NumberFormat:
    """A float format with subnormal numbers; the exponents are those of normal numbers."""
    return NumberFormat(significant, exponent_min - (significant - 1), exponent_max)


FLOATS: dict[str, NumberFormat] = {
    "f64": _float(53, -1022, 1023),
    "f32": _float(24, -126, 127),
    "tf32": _float(11, -126, 127),
    "f16": _float(11, -14, 15),
    "bf16": _float(8, -126, 127),
    "f8E4M3FN": _float(4, -6, 8),
    "f8E5M2": _float(3, -14, 15),
    "f4E2M1FN": _float(2, 0, 2),
}
"""IEEE 754-2019; bfloat16 and TF32 of the makers; OCP 8-bit Floating Point (2023) and Microscaling Formats (2023)."""

EIGHT_BIT_FLOATS = ("f8E4M3FN", "f8E5M2")


@cache
def number_format(name: str) -> NumberFormat | None:
    """The numbers that a type holds, None for what is no number format of a matrix unit.

    An integer of n bits is below 2**(n-1), or minus that: a power of two.
    """
    if name.startswith("i") and name[1:].isdecimal() and int(name[1:]) > 1:
        bits = int(name[1:])
        return NumberFormat(bits - 1, 0, bits - 1)
    return FLOATS.get(name)


@cache
def matrix_type(a: str, b: str) -> str:
    """The type in which operands of types `a` and `b` are multiplied, which sets the rate.

    Raises TypeMismatchError where neither type holds the numbers of the other.
    """
    if a == b:
        return a
    of_a, of_b = number_format(a), number_format(b)
    if of_a is not None and of_b is not None:
        if of_a.holds(of_b):
            return a
        if of_b.holds(of_a):
            return b
        if a in EIGHT_BIT_FLOATS and b in EIGHT_BIT_FLOATS:
            return "f8E4M3FN"
    raise TypeMismatchError(
        f"no matrix unit multiplies {a} with {b}: neither type holds every number of the other; "
        "choose one of them for both, or a 16-bit float for one"
    )


def widens_to(stored: str, arithmetic: str) -> bool:
    """Whether one type holds every number of another."""
    wide, narrow = number_format(arithmetic), number_format(stored)
    return stored == arithmetic or (wide is not None and narrow is not None and wide.holds(narrow))
