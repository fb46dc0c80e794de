"""What the dense tensor operations compute: pure functions of arrays and plain parameters.

The interpreters of all levels share these, on whole tensors, on shards and on tiles alike.  Layouts are those
of the `layer` dialect: tokens flat in rows, heads adjacent in columns, caches [batch, kv_len, width].
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from pmc.backends.numeric.errors import Array
from pmc.backends.numeric.padding import padding_of


def matmul(x: Array, w: Array) -> Array:
    """y[.., n] = sum_k x[.., k] w[k, n]."""
    result: Array = np.matmul(x, w)
    return result


def grouped_matmul(x: Array, w: Array) -> Array:
    """y[e, c, n] = sum_k x[e, c, k] w[e, k, n]."""
    result: Array = np.matmul(x, w)
    return result


def head_matmul(x: Array, w: Array, group: int, transpose: bool) -> Array:
    """One matmul per head with w [R, heads*group].

    Plain: x [T, heads*R] -> [T, heads*group]; transposed: x [T, heads*group] -> [T, heads*R].
    """
    rank, width = w.shape
    blocks = w.reshape(rank, width // group, group).transpose(1, 0, 2)
    if transpose:
        blocks = blocks.transpose(0, 2, 1)
    rows = x.reshape(x.shape[0], width // group, -1).transpose(1, 0, 2)
    result: Array = np.matmul(rows, blocks).transpose(1, 0, 2).reshape(x.shape[0], -1)
    return result


def alibi_slopes(heads: int) -> Array:
    """Of every head: 2^(-8/n), 2^(-16/n), .. for n = the power of two up to `heads`; then every second of those of 2n.

    Press, Smith and Lewis (2022), and `_get_alibi_slopes` of transformers for numbers that are no powers of two.
    """
    nearest = 1 << (heads.bit_length() - 1)
    own = 2.0 ** (-8 * np.arange(1, nearest + 1) / nearest)
    between = 2.0 ** (-4 * np.arange(1, 2 * nearest, 2) / nearest)
    slopes: Array = np.concatenate([own, between])[:heads]
    return slopes


def attention_scores(
    q: Sequence[Array],
    k: Sequence[Array],
    qk_dims: Sequence[int],
    scale: float,
    causal: bool,
    hidden: int = 0,
    first: Array | None = None,
    soft_cap: float | None = None,
    slopes: Array | None = None,
) -> Array:
    """s = scale * sum_i q_i k_i^T, -inf where a key is not visible: [batch, heads, q_len, kv_len].

    q_i [batch*q_len, heads*d_i], k_i [batch, kv_len, kv_heads_i*d_i]; query head h reads key head
    h // (heads / kv_heads).  Causal: query i sees keys 0 .. kv_len - q_len + i - hidden, from `first`[i] on
    where that is given.  With a soft cap scores are soft_cap * tanh(s / soft_cap); with `slopes` [heads] each has a
    bias, slope * (key - query).
    """
    batch, kv_len = k[0].shape[:2]
    heads = q[0].shape[1] // qk_dims[0]
    q_len = q[0].shape[0] // batch
    scores = sum(
        np.matmul(
            query.reshape(batch, q_len, heads, dim).transpose(0, 2, 1, 3),
            _heads(key, dim, heads).transpose(0, 2, 3, 1),
        )
        for query, key, dim in zip(q, k, qk_dims, strict=True)
    )
    scores = np.asarray(scores) * scalar_like(scale, k[0])
    if soft_cap is not None:
        scores = scalar_like(soft_cap, k[0]) * np.tanh(scores / scalar_like(soft_cap, k[0]))
    if slopes is not None:
        distance: Array = np.arange(int(kv_len)) - np.arange(int(kv_len - q_len), int(kv_len))[:, None]
        scores = np.asarray(scores + (slopes[:, None, None] * distance).astype(scores.dtype))
    if causal:
        visible: Array = np.tri(q_len, kv_len, kv_len - q_len - hidden, dtype=bool)
        if first is not None:
            keys: Array = np.arange(int(kv_len))
            visible &= np.greater_equal(keys, first[:, None])
        scores = np.where(visible, scores, scalar_like(-np.inf, k[0]))
    return scores


def attention(
    q: Sequence[Array],
    k: Sequence[Array],
    v: Array,
    qk_dims: Sequence[int],
    v_dim: int,
    scale: float,
    causal: bool,
    first: Array | None = None,
    sinks: Array | None = None,
    soft_cap: float | None = None,
    slopes: Array | None = None,
) -> Array:
    """softmax(scale * sum_i q_i k_i^T) v of every sequence and head: [batch*q_len, heads*v_dim].

    v is [batch, kv_len, kv_heads*v_dim]; `sinks` [heads] are logits without values; the rest is as in
    `attention_scores`.
    """
    scores = attention_scores(q, k, qk_dims, scale, causal, first=first, soft_cap=soft_cap, slopes=slopes)
    weights = softmax(scores)
    if sinks is not None:
        column = np.broadcast_to(sinks[:, None, None], (*scores.shape[:-1], 1)).astype(scores.dtype)
        weights = softmax(np.concatenate([scores, column], axis=-1))[..., :-1]
    y = np.matmul(weights, _heads(v, v_dim, scores.shape[1]).transpose(0, 2, 1, 3))
    return _token_rows(y)


State = tuple[Array, Array, Array]
"""Of an online softmax: acc [T, heads*v_dim], largest score and sum of exponentials [T, heads]."""


def attention_step(scores: Array, v: Array, v_dim: int, state: State | None, sinks: Array | None = None) -> State:
    """The state after one more block of keys (FlashAttention-2, section 3.1); rows that see no key of it keep theirs.

    `scores` are those of `attention_scores` for the block whose values are v.  The first step, without a state, counts
    the `sinks` [heads].
    """
    batch, heads, q_len, _ = scores.shape
    if state is None:
        lowest = np.full((batch, heads, q_len, 1), -np.inf, scores.dtype)
        acc, row_max, row_sum = np.zeros((batch, heads, q_len, v_dim), scores.dtype), lowest, np.zeros_like(lowest)
        if sinks is not None:
            row_max, row_sum = lowest.copy(), np.ones_like(lowest)
            row_max[...] = sinks[:, None, None]
    else:
        acc, row_max, row_sum = (part.reshape(batch, q_len, heads, -1).transpose(0, 2, 1, 3) for part in state)
    new_max = np.maximum(row_max, scores.max(axis=-1, keepdims=True, initial=-np.inf))
    shift = np.where(np.isfinite(new_max), new_max, scalar_like(0.0, scores))
    p, kept = np.exp(scores - shift), np.exp(row_max - shift)
    added = np.matmul(p, _heads(v, v_dim, heads).transpose(0, 2, 1, 3))
    acc, row_sum = acc * kept + added, row_sum * kept + p.sum(axis=-1, keepdims=True)
    return _token_rows(acc), _token_rows(new_max), _token_rows(row_sum)


def attention_finish(acc: Array, row_sum: Array) -> Array:
    """acc [T, heads*v_dim] with every head divided by its sum [T, heads]."""
    tokens, heads = row_sum.shape
    return (acc.reshape(tokens, heads, -1) / row_sum[..., None]).reshape(acc.shape)


def _token_rows(y: Array) -> Array:
    """[batch, heads, q_len, width] as [batch*q_len, heads*width]."""
    batch, heads, q_len, width = y.shape
    result: Array = y.transpose(0, 2, 1, 3).reshape(batch * q_len, heads * width)
    return result


def scalar_like(value: float, like: Array) -> Array:
    """A scalar in the element type of `like`, so that it does not widen what it multiplies."""
    return np.asarray(value, like.dtype)


def _heads(cache: Array, dim: int, heads: int) -> Array:
    """cache [batch, kv_len, kv_heads*dim] as [batch, kv_len, heads, dim], key heads repeated."""
    split = cache.reshape(*cache.shape[:2], cache.shape[2] // dim, dim)
    return np.repeat(split, heads // split.shape[2], axis=2)


def softmax(x: Array) -> Array:
    """exp(x) / sum(exp(x)) over the last dim, shifted by the maximum; -inf gives 0."""
    e = np.exp(x - x.max(axis=-1, keepdims=True))
    result: Array = e / e.sum(axis=-1, keepdims=True)
    return result


def rms_norm(x: Array, w: Array, eps: float, group: int) -> Array:
    """x / sqrt(mean(x^2) + eps) * w over each `group` columns of a row (Zhang and Sennrich, equation 4)."""
    rows = x.reshape(*x.shape[:-1], x.shape[-1] // group, group)
    mean = np.mean(rows * rows, axis=-1, keepdims=True)
    result: Array = (rows / np.sqrt(mean + scalar_like(eps, x)) * w).reshape(x.shape)
    return result


def silu_mul(gate: Array, up: Array) -> Array:
    """gate * sigmoid(gate) * up (SwiGLU: Shazeer, GLU variants)."""
    result: Array = gate * sigmoid(gate) * up
    return result


def sigmoid(x: Array) -> Array:
    """1 / (1 + exp(-x)), without overflow for large |x|."""
    return np.exp(-np.logaddexp(np.zeros_like(x), -x))


def embedding(tokens: Array, table: Array, first_row: int = 0) -> Array:
    """Rows of the table by token id: [T, width].

    `table` holds ids first_row .. first_row + rows; ids outside (of other vocabulary shards) give rows of padding.
    """
    rows = tokens - first_row
    held = (rows >= 0) & (rows < table.shape[0])
    return np.where(held[:, None], table[np.where(held, rows, 0)], padding_of(table))


def column_slice(x: Array, group: int, offset: int, size: int) -> Array:
    """Columns offset .. offset+size of every `group` columns."""
    return x.reshape(*x.shape[:-1], -1, group)[..., offset : offset + size].reshape(*x.shape[:-1], -1)


def last_token(x: Array, q_len: int) -> Array:
    """The row of the last query of every sequence: [batch*q_len, W] -> [batch, W]."""
    return x[q_len - 1 :: q_len]


def kv_append(cache: Array, new: Array) -> Array:
    """A copy of cache [batch, kv_len, W] whose last q_len positions hold new [batch*q_len, W]."""
    batch, kv_len, width = cache.shape
    q_len = new.shape[0] // batch
    y = cache.copy()
    y[:, kv_len - q_len :] = new.reshape(batch, q_len, width)
    return y
