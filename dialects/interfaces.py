"""What passes and backends may ask of an op, whatever its dialect.

`WorkInterface` is the one place from which FLOPs and bytes come; every number follows from the op's own types.
`ShardingInterface` says how the dims of an op's operands and results correspond, which is all that the sharding
passes need to know of an op.
"""

from __future__ import annotations

from abc import abstractmethod
from dataclasses import dataclass
from typing import Literal

import numpy as np
import numpy.typing as npt

from pmc.dialects.class_check import PlainClassCheck
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


class WorkInterface(metaclass=PlainClassCheck):
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


class ShardingInterface(metaclass=PlainClassCheck):
    """An op on whole tensors that can be run on shards."""

    @abstractmethod
    def sharding_rule(self) -> ShardingRule:
        """The factors of every dim of the op's operands and results."""
