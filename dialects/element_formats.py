"""Element formats by name: a number format, and for quantised weights how many numbers share a scale.

    bf16                        plain elements
    f4E2M1FN/16:f8E4M3FN        a scale of f8E4M3FN for every 16 numbers along the contraction (NVFP4)
    f8E4M3FN/128x128:f32        a scale for every block of 128 numbers along the contraction x 128 columns

Number formats have their MLIR names.  `canonical_format` also takes the names that users of serving engines type, in
any case: `fp8`, `bf16`, `int4`, `nvfp4`, `mxfp4`, `int4-g128`.  A name without a scale means a scale of one.

This module imports no dialect: the schema of deployments reads it.
"""

from __future__ import annotations

import difflib
import re
from dataclasses import dataclass
from functools import lru_cache

ELEMENTS: dict[str, int] = {
    "i4": 4, "f4E2M1FN": 4, "i8": 8, "f8E4M3FN": 8, "f8E5M2": 8, "f16": 16, "bf16": 16, "f32": 32,
}  # fmt: skip
"""Bits of every number format that weights, activations and caches are stored in."""

SCALES: dict[str, int] = {"f8E8M0FNU": 8, "f8E4M3FN": 8, "f16": 16, "bf16": 16, "f32": 32}
"""Bits of every format of scales."""

ALIASES: dict[str, str] = {
    "fp32": "f32", "float32": "f32", "fp16": "f16", "float16": "f16", "half": "f16", "bfloat16": "bf16",
    "fp8": "f8E4M3FN", "e4m3": "f8E4M3FN", "fp8_e4m3": "f8E4M3FN", "e5m2": "f8E5M2", "fp8_e5m2": "f8E5M2",
    "fp4": "f4E2M1FN", "e2m1": "f4E2M1FN", "int8": "i8", "int4": "i4",
    "nvfp4": "f4E2M1FN/16:f8E4M3FN", "mxfp4": "f4E2M1FN/32:f8E8M0FNU", "mxfp8": "f8E4M3FN/32:f8E8M0FNU",
    "fp8-block": "f8E4M3FN/128x128:f32",
}  # fmt: skip
"""What users type.  NVFP4: NVIDIA, without its factor per tensor; MX formats: OCP Microscaling Formats 1.0 (2023),
table 1; `fp8-block`: the weights of DeepSeek-V3 (report, section 3.3.2)."""

_GROUPS = re.compile(r"(int4|int8)-g([1-9][0-9]*)")
_SCALED = re.compile(r"(\w+)/([1-9][0-9]{0,5})(?:x([1-9][0-9]{0,5}))?:(\w+)")


@dataclass(frozen=True)
class Scales:
    """A scale for every block of `rows` x `columns` of a weight [contraction, columns]."""

    rows: int
    columns: int
    element: str


@dataclass(frozen=True)
class ElementFormat:
    """How numbers are stored."""

    element: str
    scales: Scales | None = None

    @property
    def bits(self) -> int:
        """Bits of a number, without its part of a scale."""
        return ELEMENTS[self.element]

    def __str__(self) -> str:
        if self.scales is None:
            return self.element
        columns = "" if self.scales.columns == 1 else f"x{self.scales.columns}"
        return f"{self.element}/{self.scales.rows}{columns}:{self.scales.element}"


@lru_cache(maxsize=256)
def element_format(name: str) -> ElementFormat:
    """The format of a name.  Raises ValueError, which says what is known, for another."""
    lowered = {known.lower(): known for known in (*ELEMENTS, *SCALES)}
    text = ALIASES.get(name.lower(), name)
    groups = _GROUPS.fullmatch(text.lower())
    if groups is not None:
        text = f"{ALIASES[groups[1]]}/{groups[2]}:bf16"
    scaled = _SCALED.fullmatch(text)
    if scaled is None:
        element = lowered.get(text.lower())
        if element not in ELEMENTS:
            raise ValueError(_unknown(name))
        return ElementFormat(element)
    element, scale = (lowered.get(ALIASES.get(part.lower(), part).lower(), part) for part in (scaled[1], scaled[4]))
    if element not in ELEMENTS or ELEMENTS[element] > 8:
        narrow = [known for known, bits in ELEMENTS.items() if bits <= 8]
        raise ValueError(f"'{name}' scales {element}; numbers with scales are {', '.join(narrow)}")
    if scale not in SCALES:
        raise ValueError(f"'{name}' has scales of {scale}; scales are {', '.join(SCALES)}")
    return ElementFormat(element, Scales(int(scaled[2]), int(scaled[3] or 1), scale))


def canonical_format(name: str) -> str:
    """The name of a format as dumps have it.  Raises ValueError for what is none."""
    return str(element_format(name))


def known_formats() -> list[str]:
    """Every name, as completions offer them."""
    return [*ELEMENTS, *ALIASES, "int4-g128"]


def _unknown(name: str) -> str:
    near = difflib.get_close_matches(name.lower(), [known.lower() for known in known_formats()], n=1)
    by_name = {known.lower(): known for known in known_formats()}
    hint = f"; did you mean '{by_name[near[0]]}'?" if near else ""
    return (
        f"'{name}' is no element type, must be one of {', '.join(ELEMENTS)}, a name such as fp8, int4, nvfp4, mxfp4, "
        f"fp8-block or int4-g128, or ELEMENT/GROUP:SCALE{hint}"
    )
