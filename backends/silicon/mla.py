"""Multi-head latent attention with the dimensions of DeepSeek-V3, without its projections: prefill, decode, absorption.

The tables have no columns for the dimensions: a key is 128 + 64 (rotary) wide, a value 128, a latent 512
(DeepSeek-V3 report, 2024, section 4.2).  Other dimensions are no rows of these tables.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

import numpy as np

from pmc.backends.silicon.attention import KEYS_OF_A_STEP, causal_pairs
from pmc.backends.silicon.columns import Floats
from pmc.backends.silicon.precision import precision_named
from pmc.backends.silicon.system import System
from pmc.backends.silicon.work import Points, Tiling, Work, Workload

KEY, VALUE, LATENT, ROTARY = 192, 128, 512, 64


@dataclass(frozen=True)
class _Mla(Workload):
    """`num_heads` are those of a rank."""

    num_heads: int
    batch_size: int
    isl: int
    step: int
    mla_dtype: str
    kv_cache_dtype: str

    @classmethod
    def shape_axes(cls) -> tuple[str, ...]:
        """Heads; sequences and lengths are swept."""
        return ("num_heads",)


@dataclass(frozen=True)
class ContextMla(_Mla):
    """`isl` new tokens attend to `step` older ones and, causally, to themselves, with expanded keys and values."""

    KIND: ClassVar[str] = "context_mla"

    @classmethod
    def work(cls, points: Points, system: System) -> Work:
        """2 b n (192 + 128) operations per pair; queries, results, and keys and values of every head once."""
        rate = system.rate(precision_named(points.categories["mla_dtype"], "mla_dtype").rate)
        cache = precision_named(points.categories["kv_cache_dtype"], "kv_cache_dtype")
        b, n, s, total = points["batch_size"], points["num_heads"], points["isl"], points["isl"] + points["step"]
        pairs = causal_pairs(s, points["step"], np.zeros_like(s))
        moved = b * n * (KEY + VALUE) * (cache.weight_bytes * total + 2 * s)
        return Work(2 * b * n * (KEY + VALUE) * pairs / rate, moved / system.bytes_per_second)

    @classmethod
    def tilings(cls) -> tuple[tuple[int, ...], ...]:
        """Queries of a tile."""
        return ((64,), (128,), (256,))

    @classmethod
    def tiling(cls, points: Points, tile: tuple[int, ...]) -> Tiling:
        """A tile is some queries of one head; its steps are blocks of keys."""
        s = points["isl"]
        blocks = np.ceil(s / tile[0])
        keys = causal_pairs(s, points["step"], np.zeros_like(s)) / s
        return Tiling(
            blocks * tile[0] / s, points["batch_size"] * points["num_heads"] * blocks, np.ceil(keys / KEYS_OF_A_STEP)
        )

    @classmethod
    def features(cls, points: Points) -> Floats:
        """Queries, keys that one sees, tiles and sequences."""
        s, b, n = points["isl"], points["batch_size"], points["num_heads"]
        keys = causal_pairs(s, points["step"], np.zeros_like(s)) / s
        return np.stack([np.log2(s), np.log2(keys), np.log2(b * n), np.log2(b) / 2], axis=1)


@dataclass(frozen=True)
class GenerationMla(_Mla):
    """One new token (`isl` = 1) of every sequence attends to `step` older latents and to its own."""

    KIND: ClassVar[str] = "generation_mla"

    @classmethod
    def work(cls, points: Points, system: System) -> Work:
        """2 b n (576 + 512) operations per key; absorbed queries and results, and every latent once."""
        rate = system.rate(precision_named(points.categories["mla_dtype"], "mla_dtype").rate)
        cache = precision_named(points.categories["kv_cache_dtype"], "kv_cache_dtype")
        b, n, keys = points["batch_size"], points["num_heads"], points["isl"] + points["step"]
        wide = 2 * LATENT + ROTARY
        moved = b * (2 * wide * n + cache.weight_bytes * keys * (LATENT + ROTARY))
        return Work(2 * b * n * wide * keys / rate, moved / system.bytes_per_second)

    @classmethod
    def tilings(cls) -> tuple[tuple[int, ...], ...]:
        """Rows of a tile, which the heads fill, and keys of a split."""
        return ((64, 256), (64, 1024), (64, 4096), (128, 1024), (64, 1 << 20))

    @classmethod
    def tiling(cls, points: Points, tile: tuple[int, ...]) -> Tiling:
        """A tile is a group of heads over one split of the keys."""
        keys, n = points["isl"] + points["step"], points["num_heads"]
        rows = np.ceil(n / tile[0])
        tiles = points["batch_size"] * rows * np.ceil(keys / tile[1])
        return Tiling(rows * tile[0] / n, tiles, np.ceil(np.minimum(keys, tile[1]) / KEYS_OF_A_STEP))

    @classmethod
    def features(cls, points: Points) -> Floats:
        """Keys, sequences, heads."""
        keys = points["isl"] + points["step"]
        return np.stack([np.log2(keys), np.log2(points["batch_size"]), np.log2(points["num_heads"]) / 2], axis=1)


@dataclass(frozen=True)
class MlaBmm(Workload):
    """The absorbed projections of decode: every head multiplies its rows with a weight of 128 x 512.

    `op_name` is `mla_gen_pre` (queries into the latent space) or `mla_gen_post` (results out of it).
    """

    KIND: ClassVar[str] = "mla_bmm"
    num_tokens: int
    num_heads: int
    op_name: str
    bmm_dtype: str

    @classmethod
    def work(cls, points: Points, system: System) -> Work:
        """2 t n 128 x 512 operations; rows of 128 + 512 and the weights of all heads, in `bmm_dtype`."""
        precision = precision_named(points.categories["bmm_dtype"], "bmm_dtype")
        t, n = points["num_tokens"], points["num_heads"]
        moved = n * (precision.activation_bytes * t * (VALUE + LATENT) + precision.weight_bytes * VALUE * LATENT)
        return Work(2 * t * n * VALUE * LATENT / system.rate(precision.rate), moved / system.bytes_per_second)

    @classmethod
    def tilings(cls) -> tuple[tuple[int, ...], ...]:
        """Rows and columns of a tile."""
        return ((16, 64), (64, 64), (64, 128), (128, 128))

    @classmethod
    def tiling(cls, points: Points, tile: tuple[int, ...]) -> Tiling:
        """Tiles of the results of all heads; their steps are blocks of 64 of the contraction."""
        wide, deep = (LATENT, VALUE) if points.categories["op_name"].endswith("pre") else (VALUE, LATENT)
        t = points["num_tokens"]
        rows = np.ceil(t / tile[0])
        tiles = points["num_heads"] * rows * np.ceil(wide / tile[1])
        return Tiling(rows * tile[0] / t, tiles, np.full_like(t, deep / 64))

    @classmethod
    def features(cls, points: Points) -> Floats:
        """Rows and heads."""
        return np.stack([np.log2(points["num_tokens"]), np.log2(points["num_heads"]) / 2], axis=1)

    @classmethod
    def shape_axes(cls) -> tuple[str, ...]:
        """Heads; rows are swept."""
        return ("num_heads",)
