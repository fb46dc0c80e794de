"""The names of the ops with which a step drafts tokens: what tells them from those of the model at every level."""

from __future__ import annotations

import re
from typing import TypeVar

DRAFT = "mtp"
"""The path of a draft layer, of its parameters and caches, and of its first application in a step."""

_APPLICATION = re.compile(rf"{DRAFT}(\d*)(?:\.|$)")

IntT = TypeVar("IntT")


def application(path: str, number: int) -> str:
    """The path of an op of the draft layer in application `number` of a step, from 0 on; `mtp2.embed` in the second."""
    return path if number == 0 else f"{DRAFT}{number + 1}{path.removeprefix(DRAFT)}"


def queries(path: str, q_len: IntT) -> IntT | int:
    """The rows of a sequence in an op of this path, in a step of `q_len`: one in all applications but the first."""
    found = _APPLICATION.match(path)
    return q_len if found is None or not found[1] else 1


def is_drafting(path: str) -> bool:
    """Whether an op of this path drafts tokens, and is not one of the model."""
    return _APPLICATION.match(path) is not None
