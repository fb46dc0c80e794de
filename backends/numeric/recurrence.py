"""What the ops of recurrent token mixers compute: pure functions of arrays, token by token as published."""

from __future__ import annotations

import numpy as np

from pmc.backends.numeric.errors import Array
from pmc.backends.numeric.semantics import sigmoid


def causal_conv(x: Array, weight: Array, state: Array, bias: Array | None, activation: str) -> tuple[Array, Array]:
    """y [T, C] and the state after the step, of x [T, C], weight [C, W], state [batch, W-1, C], bias [C]."""
    batch, kept, channels = state.shape
    seen = np.concatenate([state, x.reshape(batch, -1, channels)], axis=1)
    windows = np.lib.stride_tricks.sliding_window_view(seen, kept + 1, axis=1)
    y: Array = np.einsum("btcw,cw->btc", windows, weight)
    y = y if bias is None else y + bias
    y = y * sigmoid(y) if activation == "silu" else y
    return y.reshape(x.shape), seen[:, seen.shape[1] - kept :]
