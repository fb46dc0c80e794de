"""What the ops of compressed attention compute: pure functions of arrays and plain parameters."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from pmc.backends.numeric.errors import Array
from pmc.backends.numeric.semantics import attention_scores, scalar_like


def compress(kv: Array, gate: Array, bias: Array, series: int, first: int, tokens: int) -> Array:
    """The entries from number `first` on that close among `tokens` tokens: [batch * entries, width].

    kv and gate [batch, rows, series * width] hold the last `rows` tokens; bias [ratio, series * width].
    """
    batch, rows, columns = kv.shape
    ratio, width = len(bias), columns // series
    found: list[Array] = []
    for entry in range(first, tokens // ratio):
        start = entry * ratio - (tokens - rows)
        own = slice(columns - width, columns)
        values, scores = kv[:, start : start + ratio, own], gate[:, start : start + ratio, own] + bias[:, own]
        if series == 2 and entry:
            before = slice(start - ratio, start)
            values = np.concatenate([kv[:, before, :width], values], axis=1)
            scores = np.concatenate([gate[:, before, :width] + bias[:, :width], scores], axis=1)
        p = np.exp(scores - scores.max(axis=1, keepdims=True))
        found.append((p / p.sum(axis=1, keepdims=True) * values).sum(axis=1))
    stacked = np.stack(found, axis=1) if found else np.zeros((batch, 0, width), kv.dtype)
    return np.asarray(stacked.reshape(batch * len(found), width))


def entry_scores(q: Sequence[Array], k: Sequence[Array], qk_dims: Sequence[int], scale: float, last: Array) -> Array:
    """scale * sum_i q_i k_i^T, -inf behind entry last[t] of token t: [sets, heads, queries, entries].

    q_i [T, heads*d_i], k_i [sets, entries, d_i]: every T / sets tokens have one set of entries.
    """
    scores = attention_scores(q, k, qk_dims, scale, False)
    sets, _, queries, count = scores.shape
    entries: Array = np.arange(int(count))
    visible: Array = np.less_equal(entries, last.reshape(sets, 1, queries, 1))
    return np.where(visible, scores, scalar_like(-np.inf, scores))
