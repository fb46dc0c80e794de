"""What a plan is chosen for: a chip, its LMEM budget and a cost model."""

from __future__ import annotations

from dataclasses import dataclass

from xdsl.dialects.builtin import ModuleOp
from xdsl.ir import Attribute

from pmc.dialects.arch import Chip, ChipAttr
from pmc.dialects.interfaces import TileCostModel
from pmc.dialects.tensor import element_bits, element_name
from pmc.passes.base import PassError

CHIP = "arch.chip"
"""The module attribute that holds the chip."""


TILING_FIELDS = (
    "cores", "cube.m", "cube.n", "cube.k", "alignment_bytes", "command_level.lmem.bytes_per_core",
    "command_level.lmem.tile_budget_fraction",
)  # fmt: skip
"""The fields of the chip that plans and kernels rest on, besides those of the cost model."""


@dataclass(frozen=True)
class Target:
    """The chip of a module and what makes one plan better than another."""

    chip: Chip
    model: TileCostModel

    @property
    def budget(self) -> int:
        """The LMEM bytes that the buffers of one core may take."""
        return self.chip.lmem_tile_budget_bytes

    def cube_k(self, element_type: Attribute) -> int:
        """The granule of the contraction; 32 bytes of a type that the matrix unit does not know."""
        known = self.chip.cube.k.get(element_name(element_type))
        return known if known is not None else max(1, 32 * 8 // element_bits(element_type))

    def aligned(self, size: int) -> int:
        """Bytes of a buffer with its padding."""
        step = self.chip.alignment_bytes
        return -(-size // step) * step


def chip_of(module: ModuleOp, pass_name: str) -> Chip:
    """The chip that the module is compiled for."""
    chip = module.attributes.get(CHIP)
    if not isinstance(chip, ChipAttr):
        raise PassError(f"{pass_name}: the module has no attribute '{CHIP}' that says which chip to compile for")
    return chip.data


def does_not_fit(name: str, path: str, need: int, budget: int, what: str) -> PassError:
    """The error of an op whose smallest tile is larger than LMEM."""
    return PassError(
        f"{name} at '{path}': the smallest tile ({what}) needs {need} bytes of LMEM, the budget of a core is {budget}"
    )
