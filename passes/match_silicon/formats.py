"""What the tables call number formats."""

from __future__ import annotations

from collections.abc import Mapping
from types import MappingProxyType

from pmc.dialects.tensor import ScaledType, TensorType, element_name

HALF = "bfloat16"
"""Of BF16 and FP16, of which the tables have the first."""

_PLAIN: Mapping[str, str] = MappingProxyType(
    {"bf16": HALF, "f16": HALF, "f8E4M3FN": "fp8", "f8E5M2": "fp8", "i8": "int8", "i4": "int4", "f4E2M1FN": "fp4"}
)

_PRODUCTS: Mapping[tuple[str, str], str] = MappingProxyType(
    {
        (HALF, HALF): HALF,
        ("fp8", "fp8"): "fp8",
        ("fp8", "fp8 scaled"): "fp8_block",
        ("int8", "int8"): "sq",
        ("int8", "int8 scaled"): "sq",
        (HALF, "int8"): "int8_wo",
        (HALF, "int8 scaled"): "int8_wo",
        (HALF, "int4"): "int4_wo",
        (HALF, "int4 scaled"): "int4_wo",
        ("fp8", "int4 scaled"): "w4afp8",
        ("fp4", "fp4 scaled by fp8"): "nvfp4",
        (HALF, "fp4 scaled"): "w4a16_mxfp4",
        ("fp8", "fp4 scaled"): "w4a8_mxfp4_mxfp8",
    }
)
"""By activations and weights.  Scales of MXFP4 are powers of two, those of NVFP4 are FP8."""


def plain(type_: TensorType) -> str:
    """The format of activations or a cache, by the name of its type where the tables have none."""
    name = element_name(type_.element_type)
    return _PLAIN.get(name, name)


def product(activations: TensorType, weights: TensorType) -> str:
    """The format of a product.

    A pair that the tables have no name for gets one that says what it is: no row has it, and the answer to a query
    names the formats that there are.
    """
    x, stored = plain(activations), weights.element_type
    w = plain(weights)
    if isinstance(stored, ScaledType):
        w = _PLAIN.get(element_name(stored.element_type), str(stored.element_type)) + " scaled"
        if w == "fp4 scaled" and element_name(stored.scale_type) == "f8E4M3FN":
            w += " by fp8"
    return _PRODUCTS.get((x, w), f"{w} weights by {x}")
