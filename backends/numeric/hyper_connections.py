"""What hyper-connections compute: the weights of streams, and the streams read and written with them.

x is [T, n*width] with n streams of a token beside each other, weights [T, n + n + n*n] are (pre, post, comb).
"""

from __future__ import annotations

import numpy as np

from pmc.backends.numeric.errors import Array
from pmc.backends.numeric.semantics import sigmoid, softmax


def stream_weights(x: Array, scale: Array, base: Array, streams: int, iterations: int, eps: float) -> Array:
    """The weights from their logits x, scale [3] and base; with 0 `iterations` of Sinkhorn and Knopp only pre."""
    if not iterations:
        return np.asarray(sigmoid(scale * x + base) + eps, x.dtype)
    n = streams
    bounds = [n, 2 * n]
    pre, post, comb = (s * p + b for s, p, b in zip(scale, *(np.split(v, bounds, -1) for v in (x, base)), strict=True))
    matrix = softmax(comb.reshape(-1, n, n)) + eps
    matrix = matrix / (matrix.sum(axis=1, keepdims=True) + eps)
    for _ in range(iterations - 1):
        matrix = matrix / (matrix.sum(axis=2, keepdims=True) + eps)
        matrix = matrix / (matrix.sum(axis=1, keepdims=True) + eps)
    return np.hstack([sigmoid(pre) + eps, 2 * sigmoid(post), matrix.reshape(-1, n * n)]).astype(x.dtype)


def collapse_streams(x: Array, weights: Array, streams: int) -> Array:
    """The sum of the streams, each times its weight pre: [T, width]."""
    y: Array = np.einsum("tkc,tk->tc", x.reshape(len(x), streams, -1), weights[:, :streams])
    return y


def mix_streams(x: Array, added: Array, weights: Array, streams: int) -> Array:
    """The streams mixed by comb, and `added` [T, width] times post: [T, n*width]."""
    n = streams
    comb = weights[:, 2 * n :].reshape(-1, n, n)
    mixed = np.einsum("tjk,tjc->tkc", comb, x.reshape(len(x), n, -1))
    y: Array = (mixed + weights[:, n : 2 * n, None] * added[:, None]).reshape(x.shape)
    return y
