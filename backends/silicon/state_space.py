"""Kernels of layers with a state of fixed size: Mamba-2, gated delta nets and Kimi delta attention, kernel by kernel.

A layer is several kernels, and `kernel_source` says which one a row is of.  Those with `conv` in their name are the
short convolution over the channels, all others the recurrence: over chunks of tokens in prefill, one step in decode.
"""

from __future__ import annotations

from abc import abstractmethod
from dataclasses import dataclass
from typing import ClassVar

import numpy as np

from pmc.backends.silicon.columns import Floats
from pmc.backends.silicon.system import System
from pmc.backends.silicon.work import Points, Tiling, Work, Workload

ELEMENT_BYTES = 2.0
"""Of activations: bfloat16."""
STATE_BYTES = 4.0
"""Of the state of the recurrence: float32."""
CHUNK = 64
"""Tokens of a chunk of the delta rule, as in flash-linear-attention."""


@dataclass(frozen=True)
class Layout:
    """What a kernel of a layer moves and computes per sequence and token; arrays of one length."""

    channels: Floats
    """Of the convolution: queries, keys and values of the recurrence."""
    results: Floats
    """Of the recurrence."""
    heads: Floats
    state: Floats
    """Elements of the state of a sequence."""
    chunk: Floats


@dataclass(frozen=True)
class _StateSpace(Workload):
    """`phase` is context, generation or verify (several draft tokens); `seq_len` tokens of every sequence are new."""

    batch_size: int
    seq_len: int

    @classmethod
    @abstractmethod
    def layout(cls, points: Points) -> Layout:
        """The sizes of a layer."""

    @classmethod
    def work(cls, points: Points, system: System) -> Work:
        """Bandwidth alone: inputs and results of every token, and a state per sequence that is read and written.

        The matrix products within chunks (Yang et al., Gated delta networks, 2025) overlap with that.
        """
        layout, sequences = cls.layout(points), points["batch_size"]
        tokens = sequences * points["seq_len"]
        if _is_convolution(points):
            state, results = (points["d_conv"] - 1) * layout.channels * ELEMENT_BYTES, layout.channels
        else:
            state, results = layout.state * STATE_BYTES, layout.results
        moved = ELEMENT_BYTES * tokens * (layout.channels + results) + 2 * sequences * state
        return Work(np.zeros_like(moved), moved / system.bytes_per_second)

    @classmethod
    def tilings(cls) -> tuple[tuple[int, ...], ...]:
        """Heads of a tile of the recurrence, and channels of one of the convolution."""
        return ((1, 1), (4, 64))

    @classmethod
    def tiling(cls, points: Points, tile: tuple[int, ...]) -> Tiling:
        """A tile is some heads of a sequence, or channels of the convolution; its steps are chunks of tokens."""
        layout, b, s = cls.layout(points), points["batch_size"], points["seq_len"]
        chunks = np.ceil(s / layout.chunk)
        if _is_convolution(points):
            return Tiling(np.ones_like(s), b * np.ceil(layout.channels / tile[1]), chunks)
        return Tiling(np.ones_like(s), b * np.ceil(layout.heads / tile[0]), chunks)

    @classmethod
    def features(cls, points: Points) -> Floats:
        """Tokens of a sequence, sequences and channels; of the recurrence also heads and state."""
        layout = cls.layout(points)
        columns = [np.log2(points["seq_len"]), np.log2(points["batch_size"]), np.log2(layout.channels) / 2]
        if not _is_convolution(points):
            columns += [np.log2(layout.heads) / 2, np.log2(layout.state) / 2]
        return np.stack(columns, axis=1)


def _is_convolution(points: Points) -> bool:
    return "conv" in points.categories["kernel_source"]


@dataclass(frozen=True)
class Mamba2(_StateSpace):
    """Dao and Gu, Transformers are SSMs (2024); `nheads` heads of `head_dim`, `n_groups` of keys and queries."""

    KIND: ClassVar[str] = "mamba2"
    d_model: int
    d_state: int
    d_conv: int
    nheads: int
    head_dim: int
    n_groups: int
    chunk_size: int
    phase: str
    kernel_source: str

    @classmethod
    def layout(cls, points: Points) -> Layout:
        """Channels are x, B and C."""
        inner = points["nheads"] * points["head_dim"]
        channels = inner + 2 * points["n_groups"] * points["d_state"]
        return Layout(channels, inner, points["nheads"], inner * points["d_state"], points["chunk_size"])

    @classmethod
    def shape_axes(cls) -> tuple[str, ...]:
        """The layer; sequences and lengths are swept."""
        return ("d_model", "d_state", "nheads", "head_dim", "n_groups", "chunk_size")


@dataclass(frozen=True)
class _DeltaRule(_StateSpace):
    d_model: int
    d_conv: int
    num_k_heads: int
    head_k_dim: int
    num_v_heads: int
    head_v_dim: int
    phase: str
    kernel_source: str

    @classmethod
    def layout(cls, points: Points) -> Layout:
        """Channels are q, k and v."""
        keys, values = points["num_k_heads"] * points["head_k_dim"], points["num_v_heads"] * points["head_v_dim"]
        state = points["num_v_heads"] * points["head_k_dim"] * points["head_v_dim"]
        return Layout(2 * keys + values, values, points["num_v_heads"], state, np.full_like(keys, CHUNK))

    @classmethod
    def shape_axes(cls) -> tuple[str, ...]:
        """The layer; sequences and lengths are swept."""
        return ("d_model", "num_k_heads", "head_k_dim", "num_v_heads", "head_v_dim")


@dataclass(frozen=True)
class GatedDeltaNet(_DeltaRule):
    """Yang et al., Gated delta networks (2025): a gate per head."""

    KIND: ClassVar[str] = "gdn"


@dataclass(frozen=True)
class KimiDelta(_DeltaRule):
    """Kimi Linear (2025): a gate per channel of the key."""

    KIND: ClassVar[str] = "kda"
