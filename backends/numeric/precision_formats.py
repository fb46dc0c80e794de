"""The float formats in which numbers are stored, and rounding to them."""

from __future__ import annotations

from typing import Any

import ml_dtypes
import numpy as np

from pmc.backends.numeric.errors import Array, NumericError

STORAGE: dict[str, Any] = {
    "f64": np.float64,
    "f32": np.float32,
    "bf16": ml_dtypes.bfloat16,
    "f16": np.float16,
    "f8E4M3FN": ml_dtypes.float8_e4m3fn,
    "f8E5M2": ml_dtypes.float8_e5m2,
    "f4E2M1FN": ml_dtypes.float4_e2m1fn,
}
"""The numpy type of every float element type."""

LARGEST = {"f8E4M3FN": 448.0, "f8E5M2": 57344.0, "f4E2M1FN": 6.0}
"""Narrow formats clamp to their largest value, as hardware converters do; the others overflow to infinity."""

POWERS_OF_TWO = "f8E8M0FNU"
"""The format of scales that are powers of two: an exponent, no sign, no zero."""


def round_to(values: Array, element: str) -> Array:
    """`values` rounded to the float format `element` (`bf16`, `f8E4M3FN`, ..), of that numpy type."""
    if element not in STORAGE:
        raise NumericError(f"element type {element}: no numeric storage; known are {', '.join(STORAGE)}")
    if element in LARGEST:
        values = np.clip(values, -LARGEST[element], LARGEST[element])
    with np.errstate(over="ignore"):
        return values.astype(STORAGE[element])
