"""What stands where there is nothing: in rows that only fill up a shard, and for ids that a table does not hold."""

from __future__ import annotations

import numpy as np

from pmc.backends.numeric.errors import Array

NONE = -1
"""A token or expert that does not exist."""


def padding_of(values: Array) -> Array:
    """Zero, or `NONE` among integers, in the type of `values`."""
    return np.full((), NONE if values.dtype.kind in "iu" else 0, values.dtype)
