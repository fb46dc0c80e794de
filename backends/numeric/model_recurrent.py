"""Recurrent token mixers of the `model` dialect from their published equations, one head and one token at a time."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np

from pmc.backends.numeric.errors import Array
from pmc.dialects import model
from pmc.dialects.model_recurrent import QK_EPS

Weights = Callable[[str], Array]
"""A parameter of the block by its name."""

States = Callable[[str], Array]
"""A state [rows, columns] of one sequence by its name, which is written to."""


def silu(x: Array) -> Array:
    """x / (1 + e^-x)."""
    y: Array = x / (1 + np.exp(-x))
    return y


def softplus(x: Array) -> Array:
    """ln(1 + e^x), without overflow."""
    y: Array = np.maximum(x, 0) + np.log(1 + np.exp(-np.abs(x)))
    return y


def convolved(name: str, x: Array, weight: Weights, state: States, bias: bool) -> Array:
    """silu(sum over i of w_i x_(t-i)) of the input `name` of [q_len, hidden], whose earlier values are its state."""
    past, taps = state(f"{name}_conv_state"), weight(f"{name}_conv.weight")
    inputs = [*past, *(x @ weight(f"{name}_proj.weight"))]
    rows: list[Array] = []
    for t in range(len(past), len(inputs)):
        total = sum(taps[:, -1 - back] * inputs[t - back] for back in range(taps.shape[1]))
        rows.append(silu(np.asarray(total + (weight(f"{name}_conv.bias") if bias else 0))))
    past[:] = inputs[len(inputs) - len(past) :]
    return np.stack(rows)


def rms_normed(x: Array, eps: float) -> Array:
    """x over its root mean square, of one vector."""
    y: Array = x / np.sqrt(np.mean(x * x) + eps)
    return y


def gated_delta_net(block: model.GatedDeltaNetOp, x: Array, weight: Weights, state: States) -> Array:
    """One sequence: S_t = a_t S_(t-1) (I - b_t k k^T) + b_t v k^T (Yang, Kautz and Hatamizadeh 2024, equation 10).

    S is held transposed, [key_head_dim, value_head_dim] of every head.
    """
    heads, groups = block.num_value_heads.value.data, block.num_key_heads.value.data
    eps = block.norm_eps.value.data
    q, k, v = (convolved(name, x, weight, state, bool(block.conv_bias)) for name in "qkv")
    shares = 1 / (1 + np.exp(-(x @ weight("b_proj.weight"))))
    decays = np.exp(-np.exp(weight("A_log")) * softplus(x @ weight("a_proj.weight") + weight("dt_bias")))
    gates, gain = silu(x @ weight("z_proj.weight")), weight("gated_norm.weight")
    y = np.empty_like(v)
    d = block.value_head_dim.value.data
    for head, held in enumerate(np.split(state("recurrent_state"), heads)):
        own = slice(head * d, head * d + d)
        group = head * groups // heads
        queries, keys = (np.split(h, groups, axis=1)[group] for h in (q, k))
        for t in range(len(x)):
            query, key = (h[t] / np.sqrt(np.dot(h[t], h[t]) + QK_EPS) for h in (queries, keys))
            kept = held - shares[t, head] * np.outer(key, key) @ held
            held[:] = decays[t, head] * kept + shares[t, head] * np.outer(key, v[t, own])
            read = rms_normed(held.T @ query / np.sqrt(len(query)), eps)
            y[t, own] = read * gain * gates[t, own]
    result: Array = y @ weight("out_proj.weight")
    return result


def kimi_delta(block: model.KimiDeltaOp, x: Array, weight: Weights, state: States) -> Array:
    """One sequence: S_t = (I - b_t k k^T) Diag(a_t) S_(t-1) + b_t k v^T (Kimi Linear report, section 3).

    S is [head_dim, head_dim] of every head, a_t a vector along its rows: `recurrent_kimi_delta_attention` and
    `KimiLinearDeltaAttention` of transformers 5.23.
    """
    heads, d, eps = block.num_heads.value.data, block.head_dim.value.data, block.norm_eps.value.data
    q, k, v = (convolved(name, x, weight, state, bool(block.conv_bias)) for name in "qkv")
    shares = 1 / (1 + np.exp(-(x @ weight("b_proj.weight"))))
    forget = softplus(x @ weight("f_a_proj.weight") @ weight("f_b_proj.weight") + weight("dt_bias"))
    gates = 1 / (1 + np.exp(-(x @ weight("g_a_proj.weight") @ weight("g_b_proj.weight"))))
    rates, gain = np.exp(weight("A_log")), weight("gated_norm.weight")
    y = np.empty_like(v)
    for head, held in enumerate(np.split(state("recurrent_state"), heads)):
        own = slice(head * d, head * d + d)
        for t in range(len(x)):
            query, key = (h[t, own] / np.sqrt(np.dot(h[t, own], h[t, own]) + QK_EPS) for h in (q, k))
            kept = np.diag(np.exp(-rates[head] * forget[t, own])) @ held
            share = shares[t, head]
            held[:] = kept - share * np.outer(key, key) @ kept + share * np.outer(key, v[t, own])
            read = rms_normed(held.T @ query / np.sqrt(d), eps)
            y[t, own] = read * gain * gates[t, own]
    result: Array = y @ weight("o_proj.weight")
    return result


def mamba2(block: model.Mamba2Op, x: Array, weight: Weights, state: States) -> Array:
    """One sequence: h_t = exp(dt A) h_(t-1) + dt x_t B_t^T, y_t = h_t C_t + D x_t (Dao and Gu 2024, section 7).

    h is [head_dim, state_size] of every head.
    """
    heads, groups = block.num_heads.value.data, block.n_groups.value.data
    inputs, b, c = (convolved(name, x, weight, state, bool(block.conv_bias)) for name in "xBC")
    steps = softplus(x @ weight("dt_proj.weight") + weight("dt_bias"))
    steps = np.minimum(np.maximum(steps, block.time_step_min.value.data), block.time_step_max.value.data)
    rates, direct = -np.exp(weight("A_log")), weight("D")
    y, d = np.empty_like(inputs), block.head_dim.value.data
    for head, held in enumerate(np.split(state("recurrent_state"), heads)):
        own = slice(head * d, head * d + d)
        keys, queries = (np.split(h, groups, axis=1)[head * groups // heads] for h in (b, c))
        for t in range(len(x)):
            dt = steps[t, head]
            held[:] = np.exp(dt * rates[head]) * held + dt * np.outer(inputs[t, own], keys[t])
            y[t, own] = held @ queries[t] + direct[head] * inputs[t, own]
    opened = y * silu(x @ weight("z_proj.weight"))
    parts = [np.split(row, groups) for row in opened]
    normed = np.stack([np.hstack([rms_normed(part, block.norm_eps.value.data) for part in row]) for row in parts])
    result: Array = (normed * weight("gated_norm.weight")) @ weight("out_proj.weight")
    return result
