"""What the ops of recurrent token mixers compute: pure functions of arrays, token by token as published."""

from __future__ import annotations

import numpy as np

from pmc.backends.numeric.errors import Array
from pmc.backends.numeric.semantics import rms_norm, scalar_like, sigmoid


def causal_conv(x: Array, weight: Array, state: Array, bias: Array | None, activation: str) -> tuple[Array, Array]:
    """y [T, C] and the state after the step, of x [T, C], weight [C, W], state [batch, W-1, C], bias [C]."""
    batch, kept, channels = state.shape
    seen = np.concatenate([state, x.reshape(batch, -1, channels)], axis=1)
    windows = np.lib.stride_tricks.sliding_window_view(seen, kept + 1, axis=1)
    y: Array = np.einsum("btcw,cw->btc", windows, weight)
    y = y if bias is None else y + bias
    y = y * sigmoid(y) if activation == "silu" else y
    return y.reshape(x.shape), seen[:, seen.shape[1] - kept :]


def softplus(x: Array, bias: Array, low: float, high: float) -> Array:
    """log(1 + exp(x + bias)) between `low` and `high`."""
    total = x + bias
    smooth: Array = np.logaddexp(np.zeros_like(total), total)
    limited: Array = np.clip(smooth, scalar_like(low, total), scalar_like(high, total))
    return limited


def decay(x: Array, a_log: Array, bias: Array) -> Array:
    """-exp(a_log) * log(1 + exp(x + bias)): the columns of a head have one a_log."""
    return np.repeat(-np.exp(a_log), x.shape[1] // len(a_log)) * softplus(x, bias, 0.0, np.inf)


def l2_norm(x: Array, eps: float, group: int) -> Array:
    """x / sqrt(sum(x^2) + eps) over each `group` columns."""
    parts = x.reshape(x.shape[0], -1, group)
    length = np.sqrt((parts * parts).sum(axis=-1, keepdims=True) + scalar_like(eps, x))
    return np.asarray((parts / length).reshape(x.shape))


def gated_rms_norm(x: Array, gate: Array, w: Array, eps: float, group: int, gate_first: bool, silu: bool) -> Array:
    """norm(x * act(gate)) * w, or norm(x) * w * act(gate), over each `group` columns; w [width] or [group].

    act is silu or a sigmoid.
    """
    opened, ones = gate * sigmoid(gate) if silu else sigmoid(gate), np.ones(group, x.dtype)
    normed: Array = rms_norm(x * opened if gate_first else x, ones, eps, group) * np.tile(w, x.shape[1] // len(w))
    return normed if gate_first else normed * opened


def ssm_scan(x: Array, b: Array, c: Array, dt: Array, a_log: Array, d: Array, state: Array) -> tuple[Array, Array]:
    """y [T, heads*p] and the state after the step (Dao and Gu, 2024); shapes as in `layer.ssm_scan`."""
    batch, heads = state.shape[0], dt.shape[1]
    held = state.reshape(batch, heads, -1, state.shape[2]).copy()
    xs = _by_token(x, batch, heads)
    bs, cs = (_of_heads(v, batch, state.shape[2], heads) for v in (b, c))
    steps = dt.reshape(batch, -1, heads)
    y = np.empty_like(xs)
    for t in range(xs.shape[1]):
        decay = np.exp(-np.exp(a_log) * steps[:, t])
        new = np.einsum("bh,bhp,bhn->bhpn", steps[:, t], xs[:, t], bs[:, t])
        held = decay[..., None, None] * held + new
        y[:, t] = np.einsum("bhpn,bhn->bhp", held, cs[:, t]) + d[:, None] * xs[:, t]
    return y.reshape(x.shape), held.reshape(state.shape)


def gated_delta(v: Array, q: Array, k: Array, g: Array, beta: Array, state: Array, scale: float) -> tuple[Array, Array]:
    """y [T, heads*d_v] and the state after the step (Yang, Kautz and Hatamizadeh, 2024).

    Shapes as in `layer.gated_delta`: g is a decay of every head, or of every row of its state.
    """
    batch, heads = state.shape[0], beta.shape[1]
    held = state.reshape(batch, heads, -1, state.shape[2]).copy()
    vs = _by_token(v, batch, heads)
    qs, ks = (_of_heads(x, batch, held.shape[2], heads) for x in (q, k))
    decays, shares = _by_token(np.exp(g), batch, heads), _by_token(beta, batch, heads)
    y = np.empty_like(vs)
    for t in range(vs.shape[1]):
        held = decays[:, t, :, :, None] * held
        missing = vs[:, t] - np.einsum("bhkv,bhk->bhv", held, ks[:, t])
        held = held + ks[:, t, :, :, None] * (shares[:, t] * missing)[:, :, None, :]
        y[:, t] = np.einsum("bhkv,bhk->bhv", held, qs[:, t]) * scalar_like(scale, vs)
    return y.reshape(v.shape), held.reshape(state.shape)


def _by_token(x: Array, batch: int, heads: int) -> Array:
    """[T, heads*width] as [batch, q_len, heads, width]."""
    return x.reshape(batch, x.shape[0] // batch, heads, -1)


def _of_heads(x: Array, batch: int, width: int, heads: int) -> Array:
    """[T, groups*width] as [batch, q_len, heads, width]: every head has the row of its group."""
    groups = x.shape[1] // width
    return np.repeat(_by_token(x, batch, groups), heads // groups, axis=2)
