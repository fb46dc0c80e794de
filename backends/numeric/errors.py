"""The error of this backend, and the array type that all of it computes with."""

from __future__ import annotations

from typing import Any

import numpy as np
from numpy.typing import NDArray

from pmc.dialects.errors import PmcError

Array = NDArray[Any]
"""A float or integer array of any shape."""


class NumericError(PmcError):
    """A program cannot be run on the given arrays: what, where (op path), and what would be right."""


def require_finite(values: Array, where: str) -> None:
    """Raise when a float array holds a NaN or an infinity; `where` opens the message."""
    if values.dtype.kind == "f" and not np.isfinite(values).all():
        position = tuple(int(i) for i in np.argwhere(~np.isfinite(values))[0])
        raise NumericError(f"{where}: element {list(position)} is {values[position]}, must be finite")
