"""The chip that kernels are written for."""

from __future__ import annotations

from xdsl.dialects.builtin import ModuleOp

from pmc.dialects.arch import Chip, ChipAttr
from pmc.passes.base import PassError

CHIP = "arch.chip"
"""The module attribute that holds the chip."""


TILING_FIELDS = (
    "cores", "cube.m", "cube.n", "cube.k", "alignment_bytes", "command_level.lmem.bytes_per_core",
    "command_level.lmem.tile_budget_fraction", "gdma_multicast",
)  # fmt: skip
"""The fields of the chip that say which plans are legal and what a kernel looks like."""


def chip_of(module: ModuleOp, pass_name: str) -> Chip:
    """The chip that the module is compiled for."""
    chip = module.attributes.get(CHIP)
    if not isinstance(chip, ChipAttr):
        raise PassError(f"{pass_name}: the module has no attribute '{CHIP}' that says which chip to compile for")
    return chip.data
