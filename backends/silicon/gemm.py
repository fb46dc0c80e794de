"""Matrix products: [m, k] x [k, n], one launch."""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

import numpy as np

from pmc.backends.silicon.columns import Floats
from pmc.backends.silicon.precision import precision_named
from pmc.backends.silicon.system import System
from pmc.backends.silicon.work import Points, Tiling, Work, Workload


@dataclass(frozen=True)
class Gemm(Workload):
    """[m, k] activations times a weight [k, n] of `gemm_dtype`; the result is in two bytes."""

    KIND: ClassVar[str] = "gemm"
    m: int
    n: int
    k: int
    gemm_dtype: str

    @classmethod
    def work(cls, points: Points, system: System) -> Work:
        """2 m n k operations; a m k + w n k + 2 m n bytes, with a and w bytes of an activation and a weight.

        Williams et al., Roofline (2009).  aiconfigurator counts the result in the format of the weights.
        """
        precision = precision_named(points.categories["gemm_dtype"], "gemm_dtype")
        m, n, k = points["m"], points["n"], points["k"]
        moved = precision.activation_bytes * m * k + precision.weight_bytes * n * k + 2 * m * n
        return Work(2 * m * n * k / system.rate(precision.rate), moved / system.bytes_per_second)

    @classmethod
    def tilings(cls) -> tuple[tuple[int, ...], ...]:
        """Rows and columns of a tile: sizes of CUTLASS, and 16 rows for few tokens."""
        return ((16, 64), (64, 64), (64, 128), (128, 128), (128, 256))

    @classmethod
    def tiling(cls, points: Points, tile: tuple[int, ...]) -> Tiling:
        """Tiles of the result; their steps are blocks of 64 along k."""
        rows, columns = np.ceil(points["m"] / tile[0]), np.ceil(points["n"] / tile[1])
        padded = rows * tile[0] * columns * tile[1] / (points["m"] * points["n"])
        return Tiling(padded, rows * columns, points["k"] / 64)

    @classmethod
    def features(cls, points: Points) -> Floats:
        """Tiles change with every octave of m, less with n and k."""
        return np.stack([np.log2(points["m"]), np.log2(points["n"]) / 2, np.log2(points["k"]) / 2], axis=1)

    @classmethod
    def shape_axes(cls) -> tuple[str, ...]:
        """A weight is [k, n]; m is swept."""
        return ("n", "k")
