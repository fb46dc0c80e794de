"""Kernels that pass over rows of activations once: norms, and functions of every element."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from types import MappingProxyType
from typing import ClassVar

import numpy as np

from pmc.backends.silicon.columns import Floats
from pmc.backends.silicon.precision import precision_named
from pmc.backends.silicon.system import System
from pmc.backends.silicon.work import Points, Tiling, Work, Workload
from pmc.dialects.errors import PmcError
from pmc.dialects.schema import did_you_mean

PASSES: Mapping[str, Mapping[str, float]] = MappingProxyType(
    {
        "norm": MappingProxyType({"rms_norm": 2.0, "layer_norm": 2.0}),
        "elementwise": MappingProxyType({"add": 3.0, "silu_and_mul": 3.0}),
    }
)
"""Elements that are read and written for every element of the result, by kind and `op_name`."""

BLOCK = 1024
"""Elements that a step of a tile takes."""


@dataclass(frozen=True)
class _RowKernel(Workload):
    """The result is [`num_tokens`, `hidden_size`]."""

    num_tokens: int
    hidden_size: int
    op_name: str
    element_dtype: str

    @classmethod
    def work(cls, points: Points, system: System) -> Work:
        """Bandwidth alone: operands and results once.  Raises PmcError for an operation that is not in `PASSES`."""
        known, name = PASSES[cls.KIND], points.categories["op_name"]
        if name not in known:
            raise PmcError(f"{cls.KIND}: no operation '{name}'{did_you_mean(name, known)}; known: {', '.join(known)}")
        wide = precision_named(points.categories["element_dtype"], "element_dtype").activation_bytes
        moved = known[name] * wide * points["num_tokens"] * points["hidden_size"]
        return Work(np.zeros_like(moved), moved / system.bytes_per_second)

    @classmethod
    def tilings(cls) -> tuple[tuple[int, ...], ...]:
        """Rows of a tile."""
        return ((1,), (4,), (16,))

    @classmethod
    def tiling(cls, points: Points, tile: tuple[int, ...]) -> Tiling:
        """A tile is some rows; its steps are blocks of elements."""
        tokens = points["num_tokens"]
        tiles = np.ceil(tokens / tile[0])
        return Tiling(tiles * tile[0] / tokens, tiles, np.ceil(points["hidden_size"] / BLOCK))

    @classmethod
    def features(cls, points: Points) -> Floats:
        """Rows, and elements of a row."""
        return np.stack([np.log2(points["num_tokens"]), np.log2(points["hidden_size"])], axis=1)

    @classmethod
    def shape_axes(cls) -> tuple[str, ...]:
        """The model fixes what is in a row; rows are swept."""
        return ("hidden_size",)


@dataclass(frozen=True)
class Norm(_RowKernel):
    """`op_name` is rms_norm or layer_norm, over the elements of a row."""

    KIND: ClassVar[str] = "norm"


@dataclass(frozen=True)
class Elementwise(_RowKernel):
    """`op_name` is add (of two operands) or silu_and_mul (of a gate and a value)."""

    KIND: ClassVar[str] = "elementwise"
