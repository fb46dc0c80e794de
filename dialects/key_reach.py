"""How far back the queries of an attention see: to the first key of a sliding window, or of the chunk that they are in.

Rows count the keys of a sequence as an op has them; those of chunks begin with a whole chunk.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

import numpy as np

from pmc.dialects.expr import Expr, floordiv, max_of, mod
from pmc.dialects.interfaces import IntArray


@dataclass(frozen=True)
class Reach:
    """The last `keys` keys up to that of the query (`window`), or those since the last multiple of `keys` (`chunk`)."""

    kind: Literal["window", "chunk"]
    keys: int

    def first(self, row: Expr) -> Expr:
        """The first key that the query at `row` sees; negative where its window begins before all rows."""
        return row - (self.keys - 1) if self.kind == "window" else floordiv(row, self.keys) * self.keys

    def first_of(self, rows: IntArray) -> IntArray:
        """The first key that the query at each of `rows` sees."""
        return np.maximum(rows - self.keys + 1, 0) if self.kind == "window" else rows // self.keys * self.keys

    def unseen_pairs_twice(self, rows: Expr) -> Expr:
        """Twice the pairs of a query at one of the first `rows` rows and a key that is out of its reach.

        Query r does not see r + 1 - keys keys before its window, or the whole chunks before its own.
        """
        if self.kind == "window":
            before = max_of(rows - self.keys, 0)
            return before * (before + 1)
        chunks, rest = floordiv(rows, self.keys), mod(rows, self.keys)
        return chunks * (chunks - 1) * (self.keys * self.keys) + 2 * chunks * rest * self.keys
