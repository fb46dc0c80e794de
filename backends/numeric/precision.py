"""With which precision a program runs: exact (storage types ignored) or with its storage types emulated."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import ml_dtypes
import numpy as np
from xdsl.dialects.builtin import IntegerType
from xdsl.ir import Attribute
from xdsl.utils.hints import isa

from pmc.backends.numeric.errors import Array, NumericError
from pmc.dialects.tensor import element_bits, element_name

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

_LARGEST = {"f8E4M3FN": 448.0, "f8E5M2": 57344.0, "f4E2M1FN": 6.0}
"""Narrow formats clamp to their largest value, as hardware converters do; the others overflow to infinity."""


@dataclass(frozen=True)
class Precision:
    """How float values are kept between ops.  Integer arrays (tokens, expert indices) are always exact."""

    name: str
    compute: Any
    """The numpy type in which ops compute."""
    emulate_storage: bool
    """Whether every value is rounded to its element type when it is produced."""

    def store(self, values: Array, element_type: Attribute) -> Array:
        """`values` as a tensor of `element_type` holds them, in the compute type.

        Rounds to nearest even; narrow floats and integers saturate.  Raises NumericError for an unknown type.
        """
        if values.dtype.kind in "iu":
            return values
        result: Array = values.astype(self.compute, copy=False)
        if not self.emulate_storage:
            return result
        if isa(element_type, IntegerType):
            limit = 1 << (element_bits(element_type) - 1)
            return np.clip(np.rint(result), -limit, limit - 1)
        return round_to(result, element_name(element_type)).astype(self.compute)


def round_to(values: Array, element: str) -> Array:
    """`values` rounded to the float format `element` (`bf16`, `f8E4M3FN`, ..), of that numpy type."""
    if element not in STORAGE:
        raise NumericError(f"element type {element}: no numeric storage; known are {', '.join(STORAGE)}")
    if element in _LARGEST:
        values = np.clip(values, -_LARGEST[element], _LARGEST[element])
    with np.errstate(over="ignore"):
        return values.astype(STORAGE[element])


EXACT64 = Precision("exact64", np.float64, emulate_storage=False)
"""For proofs: two programs that compute the same agree to about 1e-12."""
EXACT32 = Precision("exact32", np.float32, emulate_storage=False)
EMULATED = Precision("emulated", np.float32, emulate_storage=True)
"""What the accelerator would give: FP32 arithmetic, every tensor rounded to its element type."""

PRECISIONS = {p.name: p for p in (EXACT64, EXACT32, EMULATED)}
