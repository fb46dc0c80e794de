"""What passes and backends may ask of an op, whatever its dialect.

`WorkInterface` is the one place from which FLOPs and bytes come; every number follows from the op's own types.
`ShardingInterface` says how the dims of an op's operands and results correspond, which is all that the sharding
passes need to know of an op.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from dataclasses import dataclass
from typing import Literal, Protocol

import numpy as np
import numpy.typing as npt

from pmc.dialects.accounting import Accounting
from pmc.dialects.arch import Chip
from pmc.dialects.errors import PmcError
from pmc.dialects.expr import Expr

IntArray = npt.NDArray[np.int64]
FloatArray = npt.NDArray[np.float64]

Unit = Literal["cube", "vector", "none"]
"""The unit that does an op's arithmetic: the matrix unit, the vector unit, or none (data movement only)."""


@dataclass(frozen=True)
class Work:
    """What an op does on one rank; each count is an expression of the symbols left in its types."""

    flops: Expr
    """Arithmetic operations, 1 multiply-accumulate = 2."""
    bytes_read: Expr
    bytes_written: Expr
    unit: Unit
    dtype: str
    """The element type that sets the rate of the arithmetic."""


class WorkInterface(ABC):
    """An op that does arithmetic or moves data on one chip."""

    @abstractmethod
    def work(self) -> Work:
        """FLOPs, bytes read and bytes written, derived from the op's types."""


WHOLE = "_"
"""The factor of a dim that must not be sharded (normalised, sorted, or contracted by a non-linear function)."""

SEQUENCES = "b"
"""The factor of a dim that may only be split into whole sequences, which is what dp does."""

POSITIONS = "s"
"""The factor of the positions of a sequence, which cp deals out among its ranks."""

ROWS = "bs"
"""The factor of a flat token dim of an op that knows positions: `SEQUENCES` times `POSITIONS`, split as these are."""


@dataclass(frozen=True)
class ShardingRule:
    """Factors of the dims of an op, as in an einsum: dims with the same factor are sharded alike.

    A factor that no result has is contracted: sharding it makes the results partial sums.  `stationary` operands
    (weights, caches) decide over the others when two operands disagree.
    """

    operands: tuple[tuple[str, ...], ...]
    results: tuple[tuple[str, ...], ...]
    stationary: frozenset[int] = frozenset()
    linear: frozenset[int] = frozenset()
    """Operands that may be partial sums: the op is linear in all of them together, its result is partial too."""
    aligned: frozenset[str] = frozenset()
    """Factors that no result has although nothing is summed over them (the key heads of attention)."""
    routed: tuple[frozenset[str], frozenset[str]] = (frozenset(), frozenset())
    """Factors of tokens, and of the slots of experts that they go to or come from: split over the same ranks."""


class ShardingInterface(ABC):
    """An op on whole tensors that can be run on shards."""

    @abstractmethod
    def sharding_rule(self) -> ShardingRule:
        """The factors of every dim of the op's operands and results."""


# -- the cost of a tiling ---------------------------------------------------------------------------------------


@dataclass(frozen=True)
class MatmulShape:
    """`groups` independent matmuls [m, k] x [k, n] of one rank, with element types by their MLIR name."""

    groups: int
    m: int
    n: int
    k: int
    a_bits: int
    b_bits: int
    out_bits: int
    dtype: str
    """The element type of the left operand, which sets the rate."""


MATMUL_ORDERS = ("gmnk", "gnmk")
"""Loop orders of a matmul from the outside in; K is innermost, so that partial sums never leave LMEM."""


@dataclass(frozen=True)
class MatmulPlans:
    """Candidate tilings of a matmul: entry i of every array belongs to candidate i.

    `chunk_*` is what the busiest core computes along a dim, `tile_*` the block of one iteration, `order` an index into
    `MATMUL_ORDERS`.  Core counts are those that have work.
    """

    cores_g: IntArray
    cores_m: IntArray
    cores_n: IntArray
    chunk_g: IntArray
    chunk_m: IntArray
    chunk_n: IntArray
    tile_m: IntArray
    tile_n: IntArray
    tile_k: IntArray
    order: IntArray


@dataclass(frozen=True)
class AttentionShape:
    """Flash attention of one rank: `sequences` x `kv_heads` independent problems of `group` query heads each."""

    sequences: int
    kv_heads: int
    group: int
    q_len: int
    kv_len: int
    qk_dims: tuple[int, ...]
    v_dim: int
    v_is_key: bool
    """Whether v is the same array as a key piece, which is then loaded once."""
    causal: bool
    q_bits: int
    kv_bits: int
    p_bits: int
    out_bits: int
    """Of the result; 0 for a step of a ring, which leaves its running state instead."""
    state_bytes: int
    """Bytes of running state that a row (a query of one head) reads and writes: those of a step of a ring."""
    dtype: str


@dataclass(frozen=True)
class AttentionPlans:
    """Candidate tilings of attention: blocks of `tile_q` queries x `tile_g` heads of a group, `tile_s` keys a step.

    A unit is one query block of one head block of one sequence and key head; `units` are shared by `cores` cores,
    `units_per_core` on the busiest one.
    """

    cores: IntArray
    units: IntArray
    units_per_core: IntArray
    tile_q: IntArray
    tile_g: IntArray
    tile_s: IntArray


class TileCostModel(Protocol):
    """What `select-tiles` minimises; every method gives seconds, one entry per candidate."""

    def matmul_seconds(self, shape: MatmulShape, plans: MatmulPlans) -> FloatArray:
        """The time of a matmul under each plan."""
        ...

    def attention_seconds(self, shape: AttentionShape, plans: AttentionPlans) -> FloatArray:
        """The time of an attention under each plan."""
        ...


class TileCosts(Protocol):
    """Makes the cost model of a chip under an accounting."""

    def __call__(self, chip: Chip, accounting: Accounting) -> TileCostModel: ...


class TileCostRegistry:
    """Where `select-tiles` finds its cost model, which is a backend's: passes do not know backends."""

    def __init__(self) -> None:
        self._provided: TileCosts | None = None

    def provide(self, costs: TileCosts) -> None:
        """Set what every `select-tiles` uses from here on."""
        self._provided = costs

    def model(self, chip: Chip, accounting: Accounting) -> TileCostModel:
        """The cost model of a chip under an accounting.  Raises PmcError while nothing is provided."""
        if self._provided is None:
            raise PmcError("no cost model of tiles is provided: import pmc.compiler.pipelines, which brings one")
        return self._provided(chip, accounting)


TILE_COSTS = TileCostRegistry()
"""The one registry; `pmc.compiler.pipelines` fills it."""
