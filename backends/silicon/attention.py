"""Attention of many heads over keys and values of the same or fewer heads (MHA, GQA, MQA): prefill and decode."""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

import numpy as np

from pmc.backends.silicon.columns import Floats
from pmc.backends.silicon.precision import precision_named
from pmc.backends.silicon.system import System
from pmc.backends.silicon.work import Points, Tiling, Work, Workload

KEYS_OF_A_STEP = 128
"""Keys that a tile takes at once."""


def causal_pairs(new: Floats, prefix: Floats, window: Floats) -> Floats:
    """Pairs of a query and a key of one sequence: token t of prefix + 1 .. prefix + new sees min(t, window) keys.

    A window of 0 is none.
    """
    total = prefix + new
    limit = np.where(window > 0, np.minimum(window, total), total)
    growing = np.clip(limit - prefix, 0, new)
    return growing * prefix + growing * (growing + 1) / 2 + (new - growing) * limit


@dataclass(frozen=True)
class _Attention(Workload):
    """`num_heads` and `num_key_value_heads` are those of a rank; a `window_size` of 0 is no window."""

    batch_size: int
    isl: int
    num_heads: int
    num_key_value_heads: int
    head_dim: int
    beam_width: int
    step: int
    window_size: int
    attn_dtype: str
    kv_cache_dtype: str

    @classmethod
    def shape_axes(cls) -> tuple[str, ...]:
        """Heads and window; sequences and lengths are swept."""
        return ("num_heads", "num_key_value_heads", "head_dim", "window_size")


@dataclass(frozen=True)
class ContextAttention(_Attention):
    """`isl` new tokens of every sequence attend to `step` older ones and, causally, to themselves."""

    KIND: ClassVar[str] = "context_attention"

    @classmethod
    def work(cls, points: Points, system: System) -> Work:
        """4 b n h operations per pair of query and key; queries, results, and keys and values of all tokens once.

        The FLOP count of Dao et al., FlashAttention-2 (2023), section 4, with the exact number of causal pairs.
        """
        attention = precision_named(points.categories["attn_dtype"], "attn_dtype")
        cache = precision_named(points.categories["kv_cache_dtype"], "kv_cache_dtype")
        b, s, n, h = points["batch_size"], points["isl"], points["num_heads"], points["head_dim"]
        pairs = causal_pairs(s, points["step"], points["window_size"])
        window = points["window_size"]
        keys = np.where(window > 0, np.minimum(points["step"], window), points["step"]) + s
        moved = (attention.activation_bytes + 2) * b * n * s * h
        moved = moved + 2 * cache.weight_bytes * b * points["num_key_value_heads"] * keys * h
        return Work(4 * b * n * h * pairs / system.rate(attention.rate), moved / system.bytes_per_second)

    @classmethod
    def tilings(cls) -> tuple[tuple[int, ...], ...]:
        """Queries of a tile."""
        return ((64,), (128,), (256,))

    @classmethod
    def tiling(cls, points: Points, tile: tuple[int, ...]) -> Tiling:
        """A tile is some queries of one head; its steps are blocks of keys."""
        s = points["isl"]
        blocks = np.ceil(s / tile[0])
        keys = causal_pairs(s, points["step"], points["window_size"]) / s
        tiles = points["batch_size"] * points["num_heads"] * blocks
        return Tiling(blocks * tile[0] / s, tiles, np.ceil(keys / KEYS_OF_A_STEP))

    @classmethod
    def features(cls, points: Points) -> Floats:
        """Queries, keys that one sees, tiles, size of a head, how many share keys, and whether there is a window."""
        s, b, n = points["isl"], points["batch_size"], points["num_heads"]
        keys = causal_pairs(s, points["step"], points["window_size"]) / s
        columns = (
            np.log2(s), np.log2(keys), np.log2(b * n), np.log2(b) / 2, np.log2(points["head_dim"]),
            np.log2(n / points["num_key_value_heads"]) / 2, np.where(points["window_size"] > 0, 1.0, 0.0),
        )  # fmt: skip
        return np.stack(columns, axis=1)


@dataclass(frozen=True)
class GenerationAttention(_Attention):
    """One new token (`isl` = 1) of every sequence attends to `step` older ones and to itself."""

    KIND: ClassVar[str] = "generation_attention"

    @classmethod
    def work(cls, points: Points, system: System) -> Work:
        """4 b n h operations per key; queries, results, and the keys and values in the window."""
        attention = precision_named(points.categories["attn_dtype"], "attn_dtype")
        cache = precision_named(points.categories["kv_cache_dtype"], "kv_cache_dtype")
        b, n, h, keys = points["batch_size"], points["num_heads"], points["head_dim"], _keys(points)
        moved = (attention.activation_bytes + 2) * b * n * h
        moved = moved + 2 * cache.weight_bytes * b * points["num_key_value_heads"] * keys * h
        return Work(4 * b * n * h * keys / system.rate(attention.rate), moved / system.bytes_per_second)

    @classmethod
    def tilings(cls) -> tuple[tuple[int, ...], ...]:
        """Rows of a tile, which the heads of a group fill, and keys of a split."""
        return ((16, 512), (64, 256), (64, 1024), (64, 4096), (64, 1 << 20))

    @classmethod
    def tiling(cls, points: Points, tile: tuple[int, ...]) -> Tiling:
        """A tile is a group of heads over one split of the keys."""
        keys, group = _keys(points), points["num_heads"] / points["num_key_value_heads"]
        splits = np.ceil(keys / tile[1])
        padded = np.ceil(group / tile[0]) * tile[0] / group
        tiles = points["batch_size"] * points["num_key_value_heads"] * splits
        return Tiling(padded, tiles, np.ceil(np.minimum(keys, tile[1]) / KEYS_OF_A_STEP))

    @classmethod
    def features(cls, points: Points) -> Floats:
        """Keys, sequences, heads of keys, heads that share them, the size of a head, and whether there is a window."""
        groups = points["num_key_value_heads"]
        columns = (
            np.log2(_keys(points)), np.log2(points["isl"] + points["step"]) / 4, np.log2(points["batch_size"]),
            np.log2(groups), np.log2(points["num_heads"] / groups) / 2, np.log2(points["head_dim"]),
            np.where(points["window_size"] > 0, 1.0, 0.0),
        )  # fmt: skip
        return np.stack(columns, axis=1)


def _keys(points: Points) -> Floats:
    """Keys that the new token sees."""
    length, window = points["isl"] + points["step"], points["window_size"]
    return np.where(window > 0, np.minimum(window, length), length)
