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


def topk_select(scores: Array, top_k: int, positions: Array, always: int = 0) -> Array:
    """The `top_k` keys with the largest scores [T, kv_len] of every row, ascending: [T, min(kv_len, top_k)].

    Keys behind positions [T] count as -inf, the last `always` up to it as +inf; of equal scores the first wins.
    """
    keys: Array = np.arange(int(scores.shape[1]))
    visible: Array = np.less_equal(keys, positions[..., None])
    masked = np.where(visible, scores, scalar_like(-np.inf, scores))
    taken: Array = visible & np.greater(keys, positions[..., None] - always)
    masked = np.where(taken, scalar_like(np.inf, scores), masked)
    best = np.argsort(-masked, axis=1, kind="stable")[:, :top_k]
    return np.sort(best, axis=1)


def gather_rows(cache: Array, indices: Array) -> Array:
    """y[t, j] = cache[t // q_len, indices[t, j]] of cache [batch, kv_len, W] and indices [batch*q_len, k]."""
    sequence = np.arange(len(indices)) // (len(indices) // len(cache))
    return np.asarray(cache[sequence[:, None], indices.astype(np.int64)])


def block_scores(q: Array, k: Array, block: int) -> Array:
    """max over the keys s of block w of q[t, h] . k[b, s]: [T, heads, blocks].

    q [batch*q_len, heads*d], k [batch, kv_len, d].
    """
    products = attention_scores([q], [k], [int(k.shape[-1])], 1.0, False)
    batch, heads, q_len, kv_len = products.shape
    by_token = products.transpose(0, 2, 1, 3).reshape(batch * q_len, heads, kv_len)
    starts: Array = np.arange(0, int(kv_len), block)
    return np.asarray(np.maximum.reduceat(by_token, starts, axis=-1))


def gather_blocks(cache: Array, blocks: Array, block: int) -> Array:
    """The rows of `block` keys of every head, [T, k*block, heads*W], of cache [batch, kv_len, heads*W].

    blocks [T, heads, k] are numbers of blocks; rows behind the last of the cache are the last.
    """
    tokens, heads, count = blocks.shape
    batch, kv_len, width = cache.shape
    rows = (blocks.astype(np.int64)[..., None] * block + np.arange(block)).reshape(tokens, heads, count * block)
    numbers: Array = np.arange(int(tokens))
    sequence = numbers // (tokens // batch)
    of_heads = cache.reshape(batch, kv_len, heads, width // heads)
    places = np.minimum(rows, kv_len - 1)
    found = of_heads[sequence[:, None, None], places, np.arange(heads)[:, None]]
    return np.asarray(found.transpose(0, 2, 1, 3).reshape(tokens, count * block, width))


def sparse_attention(
    q: Sequence[Array],
    k: Sequence[Array],
    v: Array,
    qk_dims: Sequence[int],
    v_dim: int,
    scale: float,
    last_slots: Array,
) -> Array:
    """softmax(scale * sum_i q_i k_i^T) v of every token over its own keys: [T, heads*v_dim].

    q_i [T, heads*d_i], k_i [T, keys, kv_heads_i*d_i], v [T, keys, kv_heads*v_dim], where key heads serve equal groups
    of query heads; token t sees its keys 0 .. last_slots[t].
    """
    scores = attention_scores(q, k, qk_dims, scale, False)
    slots: Array = np.arange(int(scores.shape[-1]))
    visible: Array = np.less_equal(slots, last_slots[..., None])
    scores = np.where(visible[:, None, None, :], scores, scalar_like(-np.inf, v))
    weights = softmax(scores)[:, :, 0]
    kv_heads = v.shape[-1] // v_dim
    groups = weights.reshape(len(v), kv_heads, -1, v.shape[1])
    values = v.reshape(*v.shape[:2], kv_heads, v_dim).transpose(0, 2, 1, 3)
    return np.asarray(np.matmul(groups, values).reshape(len(v), -1))
