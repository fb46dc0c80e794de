"""Hyper-connections at the model level: the reference, token by token, in the words of the published equations.

The residual mapping of a token is a matrix on the manifold of doubly stochastic matrices (mHC, Xie et al., 2026).
"""

from __future__ import annotations

from collections.abc import Callable

import numpy as np

from pmc.backends.numeric.errors import Array
from pmc.dialects import model


def _gate(z: Array) -> Array:
    y: Array = 1 / (1 + np.exp(-z))
    return y


def sinkhorn_knopp(matrix: Array, iterations: int, eps: float) -> Array:
    """Columns and rows of a positive matrix divided by their sums in turn, so often; columns first and last."""
    for iteration in range(iterations):
        if iteration:
            matrix = np.stack([row / (row.sum() + eps) for row in matrix])
        matrix = np.stack([column / (column.sum() + eps) for column in matrix.T]).T
    return matrix


def stream_weights(block: model.StreamWeightsOp, x: Array, weight: Callable[[str], Array]) -> Array:
    """(pre, post, comb) of every token, comb in row-major order; pre alone for the head."""
    n, eps = block.streams, block.hc_eps.value.data
    fn, scale, base = (weight(name) for name in ("fn.weight", "scale", "base"))
    rows: list[Array] = []
    for token in x:
        mean_square = float((token**2).mean())
        z = token @ fn / np.sqrt(mean_square + block.rms_norm_eps.value.data)
        pre = _gate(scale[0] * z[:n] + base[:n]) + eps
        if block.hc_sinkhorn_iters is None:
            rows.append(pre)
            continue
        post = 2 * _gate(scale[1] * z[n : 2 * n] + base[n : 2 * n])
        logits = (scale[2] * z[2 * n :] + base[2 * n :]).reshape(n, n)
        comb = np.stack([np.exp(row) / np.exp(row).sum() for row in logits]) + eps
        comb = sinkhorn_knopp(comb, block.hc_sinkhorn_iters.value.data, eps)
        rows.append(np.concatenate([pre, post, comb.reshape(-1)]))
    return np.stack(rows)


def copy_streams(block: model.CopyStreamsOp, x: Array) -> Array:
    """Every stream is the row."""
    return np.hstack([x] * block.streams)


def collapse_streams(block: model.CollapseStreamsOp, x: Array, weights: Array) -> Array:
    """What a block reads: pre times the matrix whose rows are the streams."""
    n = block.streams
    return np.stack([row[:n] @ token.reshape(n, -1) for token, row in zip(x, weights, strict=True)])


def mix_streams(block: model.MixStreamsOp, x: Array, added: Array, weights: Array) -> Array:
    """The transpose of comb times the streams, plus the outer product of post and what is added."""
    n = block.streams
    found: list[Array] = []
    for token, new, row in zip(x, added, weights, strict=True):
        streams, comb = token.reshape(n, -1), row[2 * n :].reshape(n, n)
        found.append((comb.T @ streams + np.outer(row[n : 2 * n], new)).reshape(-1))
    return np.stack(found)
