"""Which programs take the same time: those that differ in nothing but their paths and whole turns of DRAM addresses."""

from __future__ import annotations

from collections.abc import Hashable, Mapping
from math import lcm

from xdsl.ir import Attribute, Operation

from pmc.dialects.arch import Chip
from pmc.dialects.expr import Expr, ExprAttr
from pmc.dialects.g5 import CommandOp, LoopOp, ProgramOp


def turn_bytes(chip: Chip) -> int:
    """The distance of two DRAM addresses that lie at the same place of the same channel and of a page."""
    dram = chip.commands.dram_channels
    return lcm(dram.interleave_bytes * dram.count**2, dram.page_bytes * dram.count)


def timing_key(program: ProgramOp, chip: Chip, symbols: Mapping[str, int]) -> Hashable:
    """What the times of a program depend on, besides the chip: equal keys mean equal times of equal commands."""
    turn = turn_bytes(chip)

    def key(op: Operation) -> Hashable:
        accesses = op.accesses() if isinstance(op, CommandOp) else ()
        addresses = {access.address for access in accesses if access.memory == "dram"}

        def value(attribute: Attribute) -> Hashable:
            if not isinstance(attribute, ExprAttr):
                return attribute
            bound = attribute.data.substitute(symbols) if symbols else attribute.data
            return _within(bound, turn) if attribute.data in addresses else bound

        properties = [(name, value(attribute)) for name, attribute in op.properties.items() if name != "path"]
        inner = tuple(key(inner) for inner in op.body.block.ops) if isinstance(op, LoopOp) else ()
        return op.name, tuple(properties), inner

    return program.cores.value.data, tuple(key(op) for op in program.body.block.ops)


def _within(address: Expr, turn: int) -> Expr:
    """The address less as many whole turns as it can lose."""
    return address - dict(address.terms).get((), 0) // turn * turn
