"""The one interface of all cost models: an op and the values of its symbols in, an `OpCost` out.

Every number may be a float or an array of floats: symbols bound to arrays give costs of the broadcast shape.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Mapping
from dataclasses import dataclass
from enum import Enum
from functools import reduce
from typing import TYPE_CHECKING, ClassVar

import numpy as np
from xdsl.dialects.builtin import ModuleOp
from xdsl.ir import Operation

from pmc.dialects.arch import Chip, ChipAttr, DeploymentAttr, Topology, TopologyAttr
from pmc.dialects.calibration import Calibration, CalibrationAttr
from pmc.dialects.deployment import Routing
from pmc.dialects.dist import Mesh, MeshAttr
from pmc.dialects.errors import PmcError
from pmc.dialects.expr import Expr, Value
from pmc.dialects.interfaces import FloatArray, IntArray
from pmc.dialects.levels import MESH

if TYPE_CHECKING:
    from pmc.backends.cost.breakdown import Breakdown

Number = float | FloatArray
"""A quantity at one point, or at every point of a sweep."""

Bindings = Mapping[str, int | IntArray]
"""The value of each symbol, or its values over a sweep."""


class Granularity(Enum):
    """How closely the chip is looked at."""

    CHIP = "chip"
    CORE = "core"
    TILE = "tile"
    COMMANDS = "commands"
    SILICON = "silicon"
    """Measured tables of GPUs: no closer look, but another source."""

    @property
    def one_by_one(self) -> bool:
        """Whether symbols have one value each: plans are searched, commands run, or rows found, for one shape at a
        time."""
        return self in (Granularity.TILE, Granularity.COMMANDS, Granularity.SILICON)


MODELLED = tuple(granularity for granularity in Granularity if granularity is not Granularity.SILICON)
"""The granularities at which a chip is modelled, the least close first."""


class BottleneckTag(Enum):
    """What an op spends most of its time on."""

    COMPUTE_BOUND = "compute"
    BW_BOUND = "bandwidth"
    LATENCY_BOUND = "latency"
    COMM_BOUND = "communication"
    HOST_BOUND = "host"


@dataclass(frozen=True)
class OpCost:
    """One execution of an op on one rank.

    `time_s` is what the op takes; the other times are what it would take if nothing else limited it, so they do not
    add up to `time_s` where parts overlap.  `latency_s` is the part of a transfer between chips that does not depend
    on its size, `transfer_s` the part that does.

    `flops` are the useful ones of the mean rank: no padded rows, no slots of experts rounded up.  `peak_s` is what
    those of the matrix unit would take at its peak for the element type of the op; 0 for other ops.  So the sum of
    `peak_s` over the ops, over the time of the step, is the MFU.
    """

    time_s: Number
    compute_s: Number = 0.0
    memory_s: Number = 0.0
    latency_s: Number = 0.0
    transfer_s: Number = 0.0
    flops: Number = 0.0
    peak_s: Number = 0.0
    bytes_read: Number = 0.0
    bytes_written: Number = 0.0
    link_bytes: Number = 0.0
    host_s: Number = 0.0
    """The time in which the chip waits for the host."""

    @property
    def comm_s(self) -> Number:
        """The time on the network."""
        return self.latency_s + self.transfer_s

    def bottleneck(self) -> BottleneckTag:
        """The largest part of the time, at a single point; ties go to the earlier of bandwidth, compute, network."""
        parts = {
            BottleneckTag.BW_BOUND: float(self.memory_s),
            BottleneckTag.COMPUTE_BOUND: float(self.compute_s),
            BottleneckTag.COMM_BOUND: float(self.transfer_s),
            BottleneckTag.LATENCY_BOUND: float(self.latency_s),
            BottleneckTag.HOST_BOUND: float(self.host_s),
        }
        return max(parts, key=lambda tag: parts[tag])


@dataclass(frozen=True)
class Target:
    """What a program runs on: the chip of one rank, and how ranks are connected (None for a single chip)."""

    chip: Chip
    topology: Topology | None
    mesh: Mesh | None
    calibration: Calibration | None = None
    routing: Routing | None = None
    """How tokens choose their experts; None where nothing is known."""

    @classmethod
    def of(cls, module: ModuleOp) -> Target:
        """The target that the attributes of `module` name.

        Raises PmcError without a chip, or when the mesh has more ranks than the topology has chips.
        """
        chip = module.attributes.get("arch.chip")
        topology = module.attributes.get("arch.topology")
        mesh = module.attributes.get(MESH)
        if not isinstance(chip, ChipAttr):
            raise PmcError("the module has no attribute 'arch.chip', which says what chip to evaluate for")
        calibration = module.attributes.get("arch.calibration")
        deployment = module.attributes.get("arch.deployment")
        target = cls(
            chip.data,
            topology.data if isinstance(topology, TopologyAttr) else None,
            mesh.data if isinstance(mesh, MeshAttr) else None,
            calibration.data if isinstance(calibration, CalibrationAttr) else None,
            deployment.data.routing if isinstance(deployment, DeploymentAttr) else None,
        )
        if target.topology is not None and target.mesh is not None and target.mesh.ranks > target.topology.chips:
            raise PmcError(
                f"the deployment has {target.mesh.ranks} ranks, topology {target.topology.name} "
                f"has {target.topology.chips} chips"
            )
        return target


class CostModel(ABC):
    """Costs of ops at one granularity."""

    granularity: ClassVar[Granularity]
    CHIP_PARAMETERS: ClassVar[tuple[str, ...]] = ()
    """The chip fields that results rest on, by dotted path."""
    TOPOLOGY_PARAMETERS: ClassVar[tuple[str, ...]] = ()
    """The topology fields that transfers between chips rest on."""

    def __init__(self, target: Target) -> None:
        self.target = target

    @abstractmethod
    def cost(self, op: Operation, bindings: Bindings) -> OpCost | None:
        """The cost of one execution of `op`; None for an op that does nothing (views, sources, containers).

        Raises PmcError for a symbol without a value, or where the target has no rate or no link for the op.
        """

    @abstractmethod
    def breakdown(self, op: Operation, bindings: Bindings) -> Breakdown | None:
        """Where the time of one execution of `op` goes; its parts add up to the time that `cost` says.

        Symbols are bound to one value each.  Raises PmcError as `cost` does.
        """

    @property
    def is_lower_bound(self) -> bool:
        """Whether a chip with the rates of the target cannot be faster than `cost` says."""
        return False

    def unvalidated(self) -> tuple[str, ...]:
        """What these numbers rest on and was never validated against silicon: this model of the chip, parameters."""
        chip, topology = self.target.chip, self.target.topology
        compared = self.granularity.value in chip.compared_with_silicon
        found = [] if compared else [f"granularity {self.granularity.value} on {chip.name}"]
        found += [f"chip.{p}" for p in self.CHIP_PARAMETERS if chip.is_unvalidated(p)]
        if topology is not None and self.target.mesh is not None and self.target.mesh.ranks > 1:
            found += [f"topology.{p}" for p in self.TOPOLOGY_PARAMETERS if topology.is_unvalidated(p)]
        return tuple(found)


def number(value: Expr, bindings: Bindings) -> Number:
    """The value of an expression as a float or an array of floats."""
    return _as_floats(value.evaluate(bindings))


def useful(value: Expr, bindings: Bindings) -> Number:
    """The value of a count without the padding of shards and slots, see `Expr.without_rounding`."""
    return _as_floats(value.without_rounding(bindings))


def _as_floats(value: Value) -> Number:
    return float(value) if isinstance(value, int | float) else as_number(np.asarray(value, dtype=np.float64))


def larger(a: Number, *others: Number) -> Number:
    """The element-wise maximum."""
    if isinstance(a, float) and all(isinstance(other, float) for other in others):
        return float(max((a, *others)))
    return as_number(reduce(np.maximum, others, np.asarray(a, dtype=np.float64)))


def as_number(array: FloatArray) -> Number:
    """An array, or the float that an array without dims holds."""
    return array if array.ndim else float(array)
