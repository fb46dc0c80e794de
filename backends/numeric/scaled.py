"""Numbers whose blocks share a scale: rounding to the codes and scales that a quantised weight stores."""

from __future__ import annotations

import numpy as np
from xdsl.dialects.builtin import IntegerType

from pmc.backends.numeric.errors import Array
from pmc.backends.numeric.precision_formats import LARGEST, POWERS_OF_TWO, round_to
from pmc.dialects.tensor import ScaledType, element_bits, element_name


def round_scaled(values: Array, element_type: ScaledType) -> Array:
    """`values` [.., rows, columns] as codes times scales: what is left of them after quantisation, in float64.

    The scale of a block is its largest magnitude over the largest code, rounded to the type of the scales: then the
    largest value is hit but for that rounding.  Scales that are powers of two are 2**(floor(log2 largest) - exponent of
    the largest code), and what is beyond the largest code clamps to it (OCP Microscaling Formats 1.0, section 6.3).
    Integer codes are symmetric, as serving engines make them: -7 to 7 of `i4`.  A block of zeros has a scale of one.

    Error: with scale s and codes q whose neighbours are at most `gap` apart, |value - s*q| <= s*gap/2 inside the range
    of the codes.
    """
    rows, columns = element_type.block
    *_, height, width = values.shape
    pad = [(0, 0)] * (values.ndim - 2) + [(0, -height % rows), (0, -width % columns)]
    exact = np.pad(values.astype(np.float64), pad)
    blocks = exact.reshape(*exact.shape[:-2], exact.shape[-2] // rows, rows, exact.shape[-1] // columns, columns)
    largest = np.abs(blocks).max(axis=(-3, -1), keepdims=True)
    scale = _scales(largest, element_type)
    restored = (_codes(blocks / scale, element_type) * scale).reshape(exact.shape)
    return np.asarray(restored[..., :height, :width])


def largest_code(element_type: ScaledType) -> float:
    """The largest magnitude of a code."""
    if isinstance(element_type.element_type, IntegerType):
        return float((1 << (element_bits(element_type) - 1)) - 1)
    return LARGEST[element_name(element_type.element_type)]


def _scales(largest: Array, element_type: ScaledType) -> Array:
    most, name = largest_code(element_type), element_name(element_type.scale_type)
    some = np.where(largest > 0, largest, most)
    if name == POWERS_OF_TWO:
        return np.asarray(np.exp2(np.floor(np.log2(some)) - np.floor(np.log2(most))))
    rounded = round_to(some / most, name).astype(np.float64)
    return np.where(rounded > 0, rounded, 1.0)


def _codes(values: Array, element_type: ScaledType) -> Array:
    if isinstance(element_type.element_type, IntegerType):
        most = largest_code(element_type)
        return np.clip(np.rint(values), -most, most)
    return round_to(values, element_name(element_type.element_type)).astype(np.float64)
