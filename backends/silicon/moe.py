"""The routed experts of a layer on one rank: grouped matrix products of tokens with the experts they go to."""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

import numpy as np

from pmc.backends.silicon.columns import Floats
from pmc.backends.silicon.precision import precision_named
from pmc.backends.silicon.system import System
from pmc.backends.silicon.work import Points, Tiling, Work, Workload

MATRICES = 3
"""Gate, up and down.  The tables do not say which rows are of experts without a gate, so those count one too many."""


@dataclass(frozen=True)
class Moe(Workload):
    """Tokens of all ranks go to `topk` of `num_experts` experts, of which a rank holds 1 / ep, sliced by tp.

    `distribution` says how uneven the routing is: `balanced`, `power_law_1.01`, ..
    """

    KIND: ClassVar[str] = "moe"
    num_tokens: int
    hidden_size: int
    inter_size: int
    topk: int
    num_experts: int
    moe_tp_size: int
    moe_ep_size: int
    moe_dtype: str
    distribution: str

    @classmethod
    def work(cls, points: Points, system: System) -> Work:
        """2 x 3 h i operations per row of a rank; rows in, between and out, and weights of active experts once.

        The experts that are active are those expected when every token draws its experts evenly.
        """
        precision = precision_named(points.categories["moe_dtype"], "moe_dtype")
        h, inner = points["hidden_size"], points["inter_size"] / points["moe_tp_size"]
        rows = _rows(points)
        weights = precision.weight_bytes * MATRICES * h * inner * active_experts(points)
        moved = weights + rows * (precision.activation_bytes * h + 2 * h + 3 * precision.activation_bytes * inner)
        operations = 2 * MATRICES * rows * h * inner
        return Work(operations / system.rate(precision.rate), moved / system.bytes_per_second)

    @classmethod
    def tilings(cls) -> tuple[tuple[int, ...], ...]:
        """Rows of one expert and columns of a tile."""
        return ((16, 64), (16, 128), (64, 128), (128, 128))

    @classmethod
    def tiling(cls, points: Points, tile: tuple[int, ...]) -> Tiling:
        """Tiles of the up-projection of all active experts; their steps are blocks of 64 along the hidden size."""
        active = active_experts(points)
        of_expert = np.maximum(1.0, _rows(points) / active)
        rows = np.ceil(of_expert / tile[0])
        columns = np.ceil(2 * points["inter_size"] / points["moe_tp_size"] / tile[1])
        return Tiling(rows * tile[0] / of_expert, active * rows * columns, points["hidden_size"] / 64)

    @classmethod
    def features(cls, points: Points) -> Floats:
        """Rows, active experts, both sizes of an expert, the experts of a rank, and how many a token takes."""
        rows, active = np.log2(_rows(points)) / 2, np.log2(active_experts(points)) / 2
        inner, held = points["inter_size"] / points["moe_tp_size"], points["num_experts"] / points["moe_ep_size"]
        layer = (0.75 * np.log2(size) for size in (points["hidden_size"], inner, held, points["topk"]))
        columns = (rows, active, *layer)
        return np.stack(columns, axis=1)

    @classmethod
    def shape_axes(cls) -> tuple[str, ...]:
        """The layer and how it is sharded; tokens are swept."""
        return ("hidden_size", "inter_size", "topk", "num_experts", "moe_tp_size", "moe_ep_size")


def _rows(points: Points) -> Floats:
    """Rows that the experts of a rank compute."""
    return points["num_tokens"] * points["topk"] / points["moe_ep_size"]


def active_experts(points: Points) -> Floats:
    """Experts of a rank that get a token: (E / ep) (1 - (1 - topk / E)^tokens), where tokens draw evenly."""
    experts = points["num_experts"]
    missed = np.exp(points["num_tokens"] * np.log1p(-np.minimum(points["topk"] / experts, 1 - 1e-12)))
    active: Floats = np.maximum(experts / points["moe_ep_size"] * (1 - missed), 1e-3)
    return active
