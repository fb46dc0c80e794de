"""Number formats of tables: bytes of what is stored, and the rate at which it is multiplied.

Bytes and rates as in the facts of `docs/silicon.md`: weight-only formats are multiplied in bfloat16.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from types import MappingProxyType

from pmc.dialects.errors import PmcError
from pmc.dialects.schema import did_you_mean


@dataclass(frozen=True)
class Precision:
    """How a kernel stores its operands and multiplies them."""

    weight_bytes: float
    activation_bytes: float
    rate: str
    """`bfloat16`, `int8`, `fp8` or `fp4`: whose rate of the system holds."""


PRECISIONS: Mapping[str, Precision] = MappingProxyType(
    {
        "bfloat16": Precision(2, 2, "bfloat16"),
        "half": Precision(2, 2, "bfloat16"),
        "int8_wo": Precision(1, 2, "bfloat16"),
        "int4_wo": Precision(0.5, 2, "bfloat16"),
        "w4a16_mxfp4": Precision(0.5, 2, "bfloat16"),
        "sq": Precision(1, 1, "int8"),
        "fp8": Precision(1, 1, "fp8"),
        "fp8_block": Precision(1, 1, "fp8"),
        "w4afp8": Precision(0.5, 1, "fp8"),
        "w4a8_mxfp4_mxfp8": Precision(0.5, 1, "fp8"),
        "nvfp4": Precision(9 / 16, 9 / 16, "fp4"),
    }
)
"""By the names of the tables.  NVFP4: 4 bits, and a scale of 8 bits per 16 numbers."""


def precision_named(name: str, column: str) -> Precision:
    """The format of this name in this column.  Raises PmcError, with the formats there are, for others."""
    precision = PRECISIONS.get(name)
    if precision is None:
        raise PmcError(
            f"{column} '{name}' is no known number format{did_you_mean(name, PRECISIONS)}; "
            f"known: {', '.join(PRECISIONS)}"
        )
    return precision
