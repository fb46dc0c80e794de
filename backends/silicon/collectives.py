"""Collectives of NCCL and oneCCL, and all-reduce kernels of serving engines."""

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

PARTS: Mapping[str, float] = MappingProxyType(
    {"all_gather": 1.0, "reduce_scatter": 1.0, "alltoall": 1.0, "all_reduce": 2.0}
)
"""Messages that a rank sends per (n - 1) / n of its own: the bus bandwidth of nccl-tests, doc/PERFORMANCE.md."""

_TILES = 1.0
"""Links, and not processors, are what a collective fills: the same for all."""


def _ring_s(points: Points, parts: float, element_bytes: float, system: System) -> Floats:
    """Seconds in which the messages cross the links of a rank."""
    ranks = points["num_gpus"]
    links = np.array([system.link_bytes_per_second(int(n)) for n in ranks])
    seconds: Floats = parts * element_bytes * points["message_size"] * (ranks - 1) / ranks / links
    return seconds


@dataclass(frozen=True)
class _Collective(Workload):
    """`message_size` counts elements."""

    num_gpus: int
    message_size: int

    @classmethod
    def minimum(cls, axis: str) -> int:
        """Two ranks at least."""
        return 2 if axis == "num_gpus" else super().minimum(axis)

    @classmethod
    def tilings(cls) -> tuple[tuple[int, ...], ...]:
        """None to choose from."""
        return ((1,),)

    @classmethod
    def tiling(cls, points: Points, tile: tuple[int, ...]) -> Tiling:
        """A step per other rank."""
        ranks = points["num_gpus"]
        return Tiling(np.ones_like(ranks), np.full_like(ranks, _TILES), ranks - 1)

    @classmethod
    def features(cls, points: Points) -> Floats:
        """Elements and ranks."""
        return np.stack([np.log2(points["message_size"]), 2 * np.log2(points["num_gpus"])], axis=1)

    @classmethod
    def shape_axes(cls) -> tuple[str, ...]:
        """Ranks; messages are swept."""
        return ("num_gpus",)


@dataclass(frozen=True)
class Nccl(_Collective):
    """`op_name` is all_gather, reduce_scatter, alltoall or all_reduce."""

    KIND: ClassVar[str] = "nccl"
    op_name: str
    nccl_dtype: str

    @classmethod
    def work(cls, points: Points, system: System) -> Work:
        """Bytes x (n - 1) / n over the bandwidth of a rank in one direction; of all-reduce twice."""
        name = points.categories["op_name"]
        if name not in PARTS:
            raise PmcError(f"nccl: no collective '{name}'{did_you_mean(name, PARTS)}; known: {', '.join(PARTS)}")
        wide = {"half": 2.0, "int8": 1.0}.get(points.categories["nccl_dtype"])
        if wide is None:
            raise PmcError(f"nccl: nccl_dtype '{points.categories['nccl_dtype']}' is neither half nor int8")
        seconds = _ring_s(points, PARTS[name], wide, system)
        return Work(np.zeros_like(seconds), seconds)


@dataclass(frozen=True)
class CustomAllReduce(_Collective):
    """The all-reduce of a serving engine within a node."""

    KIND: ClassVar[str] = "custom_allreduce"
    allreduce_dtype: str

    @classmethod
    def work(cls, points: Points, system: System) -> Work:
        """As all-reduce of NCCL."""
        precision = precision_named(points.categories["allreduce_dtype"], "allreduce_dtype")
        seconds = _ring_s(points, PARTS["all_reduce"], precision.activation_bytes, system)
        return Work(np.zeros_like(seconds), seconds)
