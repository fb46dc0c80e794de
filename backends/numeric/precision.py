"""With which precision a program runs: exact (storage types ignored) or with its storage types emulated."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np
from xdsl.dialects.builtin import IntegerType
from xdsl.ir import Attribute
from xdsl.utils.hints import isa

from pmc.backends.numeric.errors import Array
from pmc.backends.numeric.precision_formats import round_to
from pmc.backends.numeric.scaled import round_scaled
from pmc.dialects.tensor import ScaledType, element_bits, element_name


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

        Rounds to nearest even; narrow floats and integers saturate; codes with scales count as their product.
        Raises NumericError for an unknown type.
        """
        if values.dtype.kind in "iu":
            return values
        result: Array = values.astype(self.compute, copy=False)
        if not self.emulate_storage:
            return result
        if isinstance(element_type, ScaledType):
            return round_scaled(result, element_type).astype(self.compute)
        if isa(element_type, IntegerType):
            limit = 1 << (element_bits(element_type) - 1)
            return np.clip(np.rint(result), -limit, limit - 1)
        return round_to(result, element_name(element_type)).astype(self.compute)


EXACT64 = Precision("exact64", np.float64, emulate_storage=False)
"""For proofs: two programs that compute the same agree to about 1e-12."""
EXACT32 = Precision("exact32", np.float32, emulate_storage=False)
EMULATED = Precision("emulated", np.float32, emulate_storage=True)
"""What the accelerator would give: FP32 arithmetic, every tensor rounded to its element type."""

PRECISIONS = {p.name: p for p in (EXACT64, EXACT32, EMULATED)}
