"""The same target with other numbers: fields of chip and topology made faster."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from typing import TypeVar, get_args

from pmc.backends.cost.model import Target
from pmc.dialects.arch import LinkLevel
from pmc.dialects.schema import Schema

S = TypeVar("S", bound=Schema)

LEVELS = get_args(LinkLevel)
LATENCIES = (
    "switch_us", "cable_us", "memory_read_us", "memory_write_us", "noc_us", "die_to_die_us", "cpu_fetch_us", "sync_us",
)  # fmt: skip


@dataclass(frozen=True)
class HardwareLever:
    """Fields that grow together by a factor, or shrink by it where less is faster."""

    name: str
    fields: tuple[str, ...]
    """By dotted path, `chip.` or `topology.` first; a block stands for all numbers in it."""
    shrinks: bool = False
    complement: bool = False
    """Whether what is left to 1 shrinks."""

    def changed(self, value: float, factor: float) -> float:
        """A field made faster by `factor`."""
        if self.complement:
            return 1.0 - (1.0 - value) / factor
        return value / factor if self.shrinks else value * factor

    def on(self, target: Target, factor: float) -> Target:
        """The target with the fields of this lever made faster by `factor`; fields that are null stay so."""
        return with_fields(target, self.fields, lambda value: self.changed(value, factor))


MEMORY = (
    "chip.dram.bandwidth_gb_per_s", "chip.command_level.gdma.gb_per_s", "chip.command_level.lmem.bytes_per_cycle",
)  # fmt: skip

HARDWARE = (
    HardwareLever("matrix unit", ("chip.macs_per_lane_per_cycle",)),
    HardwareLever("vector unit", ("chip.vector_eus_per_lane",)),
    HardwareLever("DRAM bandwidth", MEMORY[:1]),
    HardwareLever("GDMA bandwidth", MEMORY[1:2]),
    HardwareLever("LMEM bandwidth", MEMORY[2:]),
    HardwareLever("DRAM + GDMA + LMEM", MEMORY),
    HardwareLever("SDMA bandwidth", ("chip.command_level.sdma.gb_per_s",)),
    HardwareLever(
        "start of commands",
        tuple(f"chip.command_level.{f}" for f in ("tiu.startup_cycles_nn", "gdma.startup_ns", "sdma.startup_ns")),
        shrinks=True,
    ),
    HardwareLever("overlap of data", ("chip.compute_dma_overlap_rate",), complement=True),
    HardwareLever("link bandwidth", tuple(f"topology.links.{level}.gb_per_s" for level in LEVELS)),
    HardwareLever(
        "link latency",
        (*(f"topology.links.{level}.latency_us" for level in LEVELS), *(f"topology.{name}" for name in LATENCIES)),
        shrinks=True,
    ),
)
"""What a machine could have more of, without any other plan."""


def with_fields(target: Target, paths: Sequence[str], change: Callable[[float], float]) -> Target:
    """The target with every number at `paths` changed."""
    chip, topology = target.chip, target.topology
    for path in paths:
        root, *rest = path.split(".")
        if root == "chip":
            chip = _changed(chip, rest, change)
        elif topology is not None:
            topology = _changed(topology, rest, change)
    return replace(target, chip=chip, topology=topology)


def _changed(schema: S, path: Sequence[str], change: Callable[[float], float]) -> S:
    head, *rest = path
    value: object = getattr(schema, head)
    new: object = None
    match value:
        case Schema() if rest:
            new = _changed(value, rest, change)
        case Schema():
            new = value
            for name in type(value).model_fields:
                new = _changed(new, [name], change)
        case int() | float():
            new = change(value)
        case _:
            pass
    # Not validated: twice the rate of a unit, or half a chip, need not be a chip that a file could name.
    fields: dict[str, object] = {**dict(schema), head: new}
    return type(schema).model_construct(None, **fields)
