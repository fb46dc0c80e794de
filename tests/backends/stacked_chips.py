"""Chips of the tests of the thermal backend, made from the preset of the TAS-MoE study."""

from __future__ import annotations

from typing import Any

from pmc.compiler.tas.configuration import load_stack
from pmc.dialects.stacked_arch import StackedArch

POWER = {"power.pj_per_flop": 1.0, "power.pj_per_dram_byte": 321.0}
"""Energies that the expected values of the tests rest on."""


def chip(cores: tuple[int, int], banks: tuple[int, int, int], **fields: Any) -> StackedArch:
    """The chip of the study with other numbers of cores and banks, and other fields by their dotted paths."""
    given = {name.replace("__", "."): value for name, value in fields.items()}
    return load_stack("arch_8x8_32x32x8", {**POWER, "mesh.cores": list(cores), "dram.banks": list(banks), **given})


def small_chip(**fields: Any) -> StackedArch:
    """2 x 2 cores of 5 x 2 mm, two dies of 4 x 2 banks, on 8 x 8 cells."""
    return chip((2, 2), (4, 2, 2), **{"geometry__grid": [8, 8], **fields})
