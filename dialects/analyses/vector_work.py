"""The steps of the vector unit that a command of some kind takes: the one place that counts them."""

from __future__ import annotations

from typing import Any

from pmc.dialects.analyses.resources import round_up
from pmc.dialects.arch import Chip
from pmc.dialects.interfaces import IntArray
from pmc.dialects.vector_kinds import VectorKindAttr


def command_steps(kind: VectorKindAttr | type[VectorKindAttr], rows: Any, columns: Any, chip: Chip) -> IntArray:
    """The steps of a command on `rows` x `columns`, which are padded to the cube where the kind says so."""
    element = kind.ELEMENT_STEPS if isinstance(kind, type) else kind.steps_per_element
    row = kind.ROW_STEPS if isinstance(kind, type) else kind.steps_per_row
    height = round_up(rows, chip.cube.m if kind.PADS_ROWS else 1)
    width = round_up(columns, chip.cube.m if kind.PADS_COLUMNS else 1)
    return height * (width * chip.vector_steps(element) + chip.vector_steps(row))
