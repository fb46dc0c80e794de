"""The attention of DeepSeek-V4 from its published equations: one head, one query and one entry at a time."""

from __future__ import annotations

from collections.abc import Callable
from typing import Protocol

import numpy as np

from pmc.backends.numeric.errors import Array
from pmc.backends.numeric.model_recurrent import States, Weights
from pmc.dialects import model


class Turns(Protocol):
    """A rotary embedding: x [positions, d] with its pairs turned, the first row at a position."""

    def rotate(self, x: Array, first_position: int) -> Array:
        """The turned rows."""
        ...


Cached = Callable[[str, Array], Array]
"""All rows of a cache of one sequence, by its name, after new rows have been written to its end."""

Norm = Callable[[Array, Array, float], Array]
"""x / RMS(x) * g, row by row."""


def trailing(x: Array, rope: int, turn: Callable[[Array], Array]) -> Array:
    """x with its last `rope` columns turned."""
    return np.hstack([x[:, : x.shape[1] - rope], turn(x[:, x.shape[1] - rope :])])


def entries(
    block: model.CompressedAttentionOp, name: str, h: Array, kv_len: int, weight: Weights, state: States,
    cached: Cached, turns: Turns, norm: Norm,
) -> Array:  # fmt: skip
    """The entries of a sequence after the tokens h [q_len, hidden] (DeepSeek-V4 report, equations 9-12, 20-23)."""
    assert block.compress_ratio is not None, "it has a compressor"
    ratio, width, rope = block.compress_ratio.value.data, block.compressors[name], block.qk_rope_head_dim.value.data
    kv, gate = (cached(f"{name}.open_{p}_cache", h @ weight(f"{name}.{p}_proj.weight")) for p in ("kv", "gate"))
    bias, first_held = weight(f"{name}.position_bias"), kv_len - len(kv)
    held = state(f"{name}.entry_cache")
    for w in range((kv_len - len(h)) // ratio, kv_len // ratio):
        tokens: list[Array] = []
        scores: list[Array] = []
        for place in range(ratio):
            row = w * ratio + place - first_held
            own = slice(width * (block.series - 1), width * block.series)
            tokens.append(kv[row, own])
            scores.append(gate[row, own] + bias[place, own])
            if block.series == 2 and w > 0:
                tokens.append(kv[row - ratio, :width])
                scores.append(gate[row - ratio, :width] + bias[place, :width])
        score = np.stack(scores)
        p = np.exp(score - score.max(axis=0))
        pooled = (p * np.stack(tokens)).sum(axis=0) / p.sum(axis=0)
        entry = norm(pooled[None], weight(f"{name}.kv_norm.weight"), block.norm_eps.value.data)
        held[w] = trailing(entry, rope, lambda part, at=w * ratio: turns.rotate(part, at))[0]  # type: ignore[misc]
    return held


def attention(
    block: model.CompressedAttentionOp, h: Array, kv_len: int, weight: Weights, state: States, cached: Cached,
    turns: Turns, back: Turns, norm: Norm,
) -> Array:  # fmt: skip
    """The rows of one sequence (DeepSeek-V4 report, section 2.3); `back` turns the other way."""
    d, heads, rope = block.head_dim.value.data, block.heads, block.qk_rope_head_dim.value.data
    eps, past = block.norm_eps.value.data, kv_len - len(h)
    latent = norm(h @ weight("q_a_proj.weight"), weight("q_a_norm.weight"), eps)
    kv = norm(h @ weight("kv_proj.weight"), weight("kv_norm.weight"), eps)
    keys = cached("kv_cache", trailing(kv, rope, lambda part: turns.rotate(part, past)))
    sinks, far = weight("sinks"), np.zeros((0, d))
    chosen: list[list[int]] = [[] for _ in h]
    if block.compress_ratio is not None:
        rest = (h, kv_len, weight, state, cached, turns, norm)
        ratio, far = block.compress_ratio.value.data, entries(block, "compressor", *rest)
        chosen = [list(range((past + i + 1) // ratio)) for i in range(len(h))]
        if block.has_indexer:
            chosen = selected(block, latent, entries(block, "indexer", *rest), chosen, h, past, weight, turns)
    queries = np.split(latent @ weight("q_b_proj.weight"), heads, axis=1)
    read: list[Array] = []
    for n, head in enumerate(queries):
        q = trailing(norm(head, np.ones(d), eps), rope, lambda part: turns.rotate(part, past))
        rows: list[Array] = []
        for i, query in enumerate(q):
            last = len(keys) - len(h) + i
            seen = np.concatenate([keys[max(0, last + 1 - block.window.value.data) : last + 1], far[chosen[i]]])
            logits = np.append(seen @ query / np.sqrt(d), sinks[n])
            p = np.exp(logits - logits.max())
            rows.append(p[:-1] @ seen / p.sum())
        read.append(trailing(np.stack(rows), rope, lambda part: back.rotate(part, past)))
    groups = np.split(np.hstack(read), block.o_groups.value.data, axis=1)
    halves = np.split(weight("o_a_proj.weight"), block.o_groups.value.data, axis=1)
    return np.hstack([g @ w for g, w in zip(groups, halves, strict=True)]) @ weight("o_b_proj.weight")


def selected(
    block: model.CompressedAttentionOp, latent: Array, keys: Array, visible: list[list[int]], h: Array, past: int,
    weight: Weights, turns: Turns,
) -> list[list[int]]:  # fmt: skip
    """The entries that the indexer selects for every query, of those that it sees (equations 13 to 17)."""
    assert block.index_topk is not None, "it has an indexer"
    heads, rope = block.index_dims[0], block.qk_rope_head_dim.value.data
    q = np.split(latent @ weight("indexer.q_b_proj.weight"), heads, axis=1)
    q = [trailing(head, rope, lambda part: turns.rotate(part, past)) for head in q]
    shares = h @ weight("indexer.weights_proj.weight")
    chosen: list[list[int]] = []
    for i, seen in enumerate(visible):
        score = {w: sum(shares[i, n] * max(0.0, float(keys[w] @ q[n][i])) for n in range(heads)) for w in seen}
        best = sorted(seen, key=lambda w: (-score[w], w))
        chosen.append(sorted(best[: block.index_topk.value.data]))
    return chosen
