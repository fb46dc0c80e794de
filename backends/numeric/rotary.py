"""Rotary position embedding: frequencies with the Hugging Face scalings, and the rotation."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence

import numpy as np

from pmc.backends.numeric.errors import Array, NumericError

Scaling = Mapping[str, float | int | str | bool | Sequence[float]]
"""The fields of a Hugging Face `rope_scaling`."""


def rope(
    x: Array,
    head_dim: int,
    theta: float,
    interleaved: bool,
    positions: Array,
    scaling: Scaling | None = None,
    rotary_dim: int | None = None,
    trailing: bool = False,
    inverse: bool = False,
) -> Array:
    """x [batch*q_len, heads*head_dim] with every head rotated; row b*q_len + i stands at positions[i].

    Pairs are columns (2j, 2j+1) when `interleaved`, else (j, j + head_dim/2); a pair turns by position *
    frequency j (Su et al., RoFormer, equation 34).  With `rotary_dim` that is so of a head of the first columns, and
    the others stay; `trailing` means the last columns.  `inverse` turns by minus the angles.
    """
    rotated = rotary_dim or head_dim
    frequencies, factor = rope_frequencies(rotated, theta, scaling)
    turns = np.resize(-positions if inverse else positions, x.shape[0])
    angles = turns[:, None, None] * frequencies
    cos, sin = (np.asarray(f(angles) * factor, x.dtype) for f in (np.cos, np.sin))
    heads = x.reshape(x.shape[0], x.shape[1] // head_dim, head_dim)
    half = rotated // 2
    first, second = (slice(0, rotated, 2), slice(1, rotated, 2)) if interleaved else (slice(half), slice(half, rotated))
    y = heads.copy()
    part = y[..., head_dim - rotated :] if trailing else y[..., :rotated]
    before = part.copy()
    part[..., first] = before[..., first] * cos - before[..., second] * sin
    part[..., second] = before[..., second] * cos + before[..., first] * sin
    return y.reshape(x.shape)


def rope_frequencies(head_dim: int, theta: float, scaling: Scaling | None) -> tuple[Array, float]:
    """The head_dim/2 angular frequencies (radians per position) and the factor on cos and sin."""
    plain = theta ** (-np.arange(0, head_dim, 2, dtype=np.float64) / head_dim)
    if not scaling:
        return plain, 1.0
    kind = scaling.get("rope_type", scaling.get("type"))
    match kind:
        case "default":
            return plain, 1.0
        case "linear":
            return plain / _positive(scaling, "factor"), 1.0
        case "proportional":
            turned = int(_positive(scaling, "partial_rotary_factor") * head_dim // 2)
            return np.where(np.arange(head_dim // 2) < turned, plain, 0.0), 1.0
        case "llama3":
            return _llama3(plain, scaling), 1.0
        case "yarn":
            return _yarn(plain, head_dim, theta, scaling), _yarn_factor(scaling)
        case "longrope":
            return plain / _factors(scaling, head_dim), _positive(scaling, "attention_factor")
        case _:
            raise NumericError(
                f"rope scaling {kind!r} has no numeric semantics, must be default, linear, proportional, llama3, yarn "
                "or longrope"
            )


def _number(scaling: Scaling, name: str, default: float | None = None) -> float:
    value = scaling.get(name, default)
    if not isinstance(value, int | float):
        raise NumericError(f"rope scaling needs the number '{name}', found {value!r}")
    return float(value)


def _positive(scaling: Scaling, name: str, absent: float | None = None) -> float:
    value = _number(scaling, name, absent)
    if not 0 < value < math.inf:
        raise NumericError(f"rope scaling '{name}' is {value}, must be greater than 0 and finite")
    return value


def _factors(scaling: Scaling, head_dim: int) -> Array:
    """What the frequency of every pair is divided by (LongRoPE), as it is for one length of sequences."""
    found = scaling.get("factor_of_pair")
    if not isinstance(found, Sequence) or isinstance(found, str) or len(found) != head_dim // 2:
        raise NumericError(f"rope scaling needs {head_dim // 2} numbers 'factor_of_pair', found {found!r}")
    return np.asarray(found, np.float64)


def _llama3(plain: Array, scaling: Scaling) -> Array:
    """Long wavelengths are stretched by `factor`, short ones kept, those between blended (Llama 3.1)."""
    factor = _positive(scaling, "factor")
    low, high = _number(scaling, "low_freq_factor"), _number(scaling, "high_freq_factor")
    if low > high:
        raise NumericError(f"rope scaling 'low_freq_factor' is {low}, must be at most 'high_freq_factor', {high}")
    turns = _positive(scaling, "original_max_position_embeddings") * plain / (2 * math.pi)
    kept = np.clip((turns - low) / (high - low), 0.0, 1.0) if low < high else np.asarray(turns > high, np.float64)
    return plain * (kept + (1 - kept) / factor)


def _yarn(plain: Array, head_dim: int, theta: float, scaling: Scaling) -> Array:
    """NTK-by-parts interpolation (Peng et al., YaRN, section 3.2), bounds rounded as Hugging Face does."""
    length = _positive(scaling, "original_max_position_embeddings")
    if theta <= 1:
        raise NumericError(f"rope theta is {theta}, must be greater than 1")

    def dim_of_turns(turns: float) -> float:
        # A sum of logarithms: turns may be so few or many that the quotient is no number.
        ratio = math.log(length) - math.log(turns) - math.log(2 * math.pi)
        return head_dim * ratio / (2 * math.log(theta))

    low = dim_of_turns(_positive(scaling, "beta_fast", 32.0))
    high = dim_of_turns(_positive(scaling, "beta_slow", 1.0))
    if scaling.get("truncate", True):
        low, high = math.floor(low), math.ceil(high)
    low, high = max(low, 0), min(high, head_dim - 1)
    if low == high:
        high += 0.001
    interpolated = np.clip((np.arange(head_dim // 2) - low) / (high - low), 0.0, 1.0)
    blended: Array = plain * (1 - interpolated) + plain / _positive(scaling, "factor") * interpolated
    return blended


def _yarn_factor(scaling: Scaling) -> float:
    """The factor on cos and sin, which scales the logits by its square (YaRN, equation 15; DeepSeek)."""
    if "attention_factor" in scaling:
        return _number(scaling, "attention_factor")
    factor = _number(scaling, "factor")

    def mscale(weight: float) -> float:
        return 0.1 * weight * math.log(factor) + 1.0 if factor > 1 else 1.0

    if scaling.get("mscale") and scaling.get("mscale_all_dim"):
        return mscale(_number(scaling, "mscale")) / mscale(_number(scaling, "mscale_all_dim"))
    return mscale(1.0)
