"""The names of the ops with which a step drafts tokens: what tells them from those of the model at every level."""

from __future__ import annotations

import re

DRAFT = "mtp"
"""The path of a draft layer, of its parameters and caches, and of its first application in a step."""

_APPLICATION = re.compile(rf"{DRAFT}\d*(\.|$)")


def application(path: str, number: int) -> str:
    """The path of an op of the draft layer in application `number` of a step, from 0 on: `mtp2.eh_proj` in the second."""
    return path if number == 0 else f"{DRAFT}{number + 1}{path.removeprefix(DRAFT)}"


def is_drafting(path: str) -> bool:
    """Whether an op of this path drafts tokens, and is not one of the model."""
    return _APPLICATION.match(path) is not None
