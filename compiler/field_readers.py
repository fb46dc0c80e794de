"""Which model reads which field of a chip or a topology, collected from what the models declare of themselves.

`tests/backends/test_field_readers.py` holds every declaration against the fields that the model is seen to read.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import get_args

from pmc.backends.cost.chip import ChipCostModel
from pmc.backends.cost.core import CoreCostModel
from pmc.backends.cost.protocol import CommProtocol
from pmc.backends.cost.tile import TileCostModel
from pmc.backends.g5.stream import CHIP_FIELDS, TOPOLOGY_FIELDS
from pmc.compiler.pipelines import pass_factories
from pmc.dialects.arch import Chip, LinkLevel, Topology
from pmc.dialects.schema import expected, leaves

LABELS = ("name", "unvalidated", "compared_with_silicon")
"""Fields that describe the file itself: every result shows them, no model computes with them."""

PORTS = (
    "c2c.ports", "c2c.lanes_per_port", "c2c.gbit_per_s_per_lane", "c2c.max_chips", "c2c.max_cluster_chips",
)  # fmt: skip
"""What `check_network` reads of a chip."""

SIZES = ("pods", "racks_per_pod", "boards_per_rack", "chips_per_board")
LINKS = tuple(f"links.{level}.gb_per_s" for level in get_args(LinkLevel))
"""What the analyses read of a topology: how many chips it has, and what its links carry."""

CHIP_CHECK = ("dies", "command_level.noc.mesh_rows")
"""What the schema of the chip compares with other fields, and nothing else reads."""


@dataclass(frozen=True)
class Reader:
    """A model, a pass or a check, and the dotted paths that it reads; a block stands for any of its fields."""

    name: str
    chip: tuple[str, ...] = ()
    topology: tuple[str, ...] = ()


@dataclass(frozen=True)
class FieldUse:
    """A field and who reads it."""

    path: str
    expects: str
    readers: tuple[str, ...]
    planned: str | None
    """What will read it, where nothing does yet."""


def readers() -> list[Reader]:
    """All that read a chip or a topology."""
    costs = [
        Reader(f"evaluate --granularity {model.granularity.value}", model.CHIP_PARAMETERS, model.TOPOLOGY_PARAMETERS)
        for model in (ChipCostModel, CoreCostModel, TileCostModel)
    ]
    search = TileCostModel.CHIP_PARAMETERS
    given = {  # what the driver gives to passes that ask for a cost
        "select-tiles": (search, ()),
        "partition-stages": (CoreCostModel.CHIP_PARAMETERS, CoreCostModel.TOPOLOGY_PARAMETERS),
        "select-algorithms": ((), CommProtocol.CHOICE_PARAMETERS),
    }
    passes = [
        Reader(name, (*loaded.CHIP_FIELDS, *chip), (*loaded.TOPOLOGY_FIELDS, *topology))
        for name, factory in pass_factories().items()
        if (loaded := factory())
        for chip, topology in [given.get(name, ((), ()))]
    ]
    return [
        *costs,
        Reader("analyze --what memory", ("dram.capacity_gib", "alignment_bytes"), SIZES),
        Reader("analyze --what links", (), CommProtocol.CHOICE_PARAMETERS),
        *(reader for reader in passes if reader.chip or reader.topology),
        Reader("simulate", CHIP_FIELDS, TOPOLOGY_FIELDS),
        Reader("run of commands", ("command_level.lmem.bytes_per_core",)),
        Reader("check of chip against topology", PORTS, (*SIZES, *LINKS)),
        Reader("check of the chip file", CHIP_CHECK),
    ]


def field_uses(schema: type[Chip] | type[Topology]) -> list[FieldUse]:
    """Every field of a chip or a topology, in the order of its file."""
    known = [(r.name, r.chip if schema is Chip else r.topology) for r in readers()]
    uses: list[FieldUse] = []
    for leaf in leaves(schema):
        found = tuple(name for name, paths in known if any(covers(path, leaf.path) for path in paths))
        found = ("every result",) if leaf.path in LABELS else found
        planned = None if found or leaf.planned is None else leaf.planned.reader
        uses.append(FieldUse(leaf.path, expected(leaf.info), found, planned))
    return uses


def covers(declared: str, path: str) -> bool:
    """Whether the declared path is `path` or a block around it."""
    return path == declared or path.startswith(f"{declared}.")
