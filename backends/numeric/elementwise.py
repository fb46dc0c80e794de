"""What the element-wise tensor ops compute, on whole tensors and on shards alike; tiles have their own functions."""

from __future__ import annotations

import math

import numpy as np

from pmc.backends.numeric.errors import Array, NumericError
from pmc.backends.numeric.semantics import sigmoid

_erf = np.frompyfunc(math.erf, 1, 1)


def add_bias(x: Array, b: Array, share: int = 1) -> Array:
    """x [T, N] + share * b [N], or x [E, C, N] + share * b [E, N]."""
    result: Array = x + share * (b[:, None, :] if b.ndim == 2 else b)
    return result


def activation(name: str, x: Array) -> Array:
    """The function of `ACTIVATIONS` in `dialects/vector_kinds.py` that has this name, element by element."""
    match name:
        case "silu":
            result = x * sigmoid(x)
        case "gelu":
            result = 0.5 * x * (1 + np.asarray(_erf(x / math.sqrt(2)), x.dtype))
        case "gelu_tanh":
            result = 0.5 * x * (1 + np.tanh(math.sqrt(2 / math.pi) * (x + 0.044715 * x**3)))
        case "relu":
            result = np.maximum(x, 0)
        case "relu2":
            result = np.maximum(x, 0) ** 2
        case "sigmoid":
            result = sigmoid(x)
        case _:
            raise NumericError(f"activation {name!r} has no numeric semantics")
    return np.asarray(result, x.dtype)


def gated_activation(name: str, gate: Array, up: Array, limit: float | None, alpha: float | None) -> Array:
    """The function of `GATED_ACTIVATIONS` in `dialects/vector_kinds.py` that has this name, element by element."""
    if limit is None:
        return activation(name, gate) * up
    gate, up = np.minimum(gate, limit), np.clip(up, -limit, limit)
    result = activation("silu", gate) * up if alpha is None else (up + 1) * gate * sigmoid(alpha * gate)
    return np.asarray(result, gate.dtype)


def soft_cap(x: Array, cap: float) -> Array:
    """cap * tanh(x / cap)."""
    return np.asarray(cap * np.tanh(x / cap), x.dtype)


def row_gate(x: Array, gate: Array) -> Array:
    """x [T, N], every row times the sigmoid of its gate [T, 1], or as many columns as each of G gates has in turn."""
    y: Array = x * np.repeat(sigmoid(gate), x.shape[1] // gate.shape[1], axis=1)
    return y


def temperature(x: Array, floor: int, scale: float, positions: Array) -> Array:
    """x [batch*q_len, N] times the factor of each of `positions`, those of a sequence."""
    factors = scale * np.log1p(np.floor((positions + 1) / floor)) + 1
    return np.asarray(x * np.tile(factors, len(x) // len(positions))[:, None], x.dtype)
