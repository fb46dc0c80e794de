"""What the ops of DeepSeek sparse attention compute: pure functions of arrays and plain parameters."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from pmc.backends.numeric.errors import Array
from pmc.backends.numeric.semantics import attention_scores, scalar_like, softmax


def layer_norm(x: Array, w: Array, b: Array, eps: float) -> Array:
    """(x - mean) / sqrt(variance + eps) * w + b over the last dim (Ba, Kiros and Hinton, 2016)."""
    centred = x - np.mean(x, axis=-1, keepdims=True)
    variance = np.mean(centred * centred, axis=-1, keepdims=True)
    result: Array = centred / np.sqrt(variance + scalar_like(eps, x)) * w + b
    return result


def index_scores(q: Sequence[Array], k: Sequence[Array], weights: Array, qk_dims: Sequence[int], scale: float) -> Array:
    """scale * sum_h weights[t, h] * max(0, sum_i q_i[t, h] . k_i[b, s]): [batch*q_len, kv_len].

    q_i [batch*q_len, heads*d_i], k_i [batch, kv_len, d_i], weights [batch*q_len, heads].
    """
    products = attention_scores(q, k, qk_dims, 1.0, False)
    batch, heads, q_len, kv_len = products.shape
    factors = weights.reshape(batch, q_len, heads).transpose(0, 2, 1)
    scores = np.sum(np.maximum(products, 0) * factors[..., None], axis=1) * scalar_like(scale, products)
    return np.asarray(scores.reshape(batch * q_len, kv_len))


def topk_select(scores: Array, top_k: int, positions: Array) -> Array:
    """The `top_k` keys with the largest scores [T, kv_len] of every row, ascending: [T, min(kv_len, top_k)].

    Keys behind positions [T] count as -inf; of equal scores the first wins.
    """
    keys: Array = np.arange(int(scores.shape[1]))
    visible: Array = np.less_equal(keys, positions[..., None])
    masked = np.where(visible, scores, scalar_like(-np.inf, scores))
    best = np.argsort(-masked, axis=1, kind="stable")[:, :top_k]
    return np.sort(best, axis=1)


def gather_rows(cache: Array, indices: Array) -> Array:
    """y[t, j] = cache[t // q_len, indices[t, j]] of cache [batch, kv_len, W] and indices [batch*q_len, k]."""
    sequence = np.arange(len(indices)) // (len(indices) // len(cache))
    return np.asarray(cache[sequence[:, None], indices.astype(np.int64)])


def sparse_attention(
    q: Sequence[Array], k: Sequence[Array], v: Array, qk_dims: Sequence[int], scale: float, last_slots: Array
) -> Array:
    """softmax(scale * sum_i q_i k_i^T) v of every token over its own keys: [T, heads*v_dim].

    q_i [T, heads*d_i], k_i [T, keys, d_i], v [T, keys, v_dim]; token t sees its keys 0 .. last_slots[t].
    """
    scores = attention_scores(q, k, qk_dims, scale, False)
    slots: Array = np.arange(int(scores.shape[-1]))
    visible: Array = np.less_equal(slots, last_slots[..., None])
    scores = np.where(visible[:, None, None, :], scores, scalar_like(-np.inf, v))
    y = np.matmul(softmax(scores)[:, :, 0], v)
    return np.asarray(y.reshape(len(v), -1))
