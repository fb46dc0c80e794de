"""Who talks to whom: every collective and transfer of a program, with its groups and the links they span."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import ClassVar

from xdsl.dialects.builtin import ModuleOp

from pmc.backends.cost.model import Target
from pmc.backends.cost.network import transfer_of
from pmc.backends.cost.protocol import CommProtocol
from pmc.backends.evaluate.analyses.table import Analysis, Row
from pmc.backends.evaluate.engine import Site, program_of, sites, symbol_values
from pmc.dialects.accounting import ACCOUNTING, Accounting, AccountingAttr
from pmc.dialects.analyses.collective_steps import Step
from pmc.dialects.arch import LinkLevel, Topology
from pmc.dialects.assembly import PmcOp
from pmc.dialects.collective import SendAttr
from pmc.dialects.dist import PIPELINE, Axis, Mesh
from pmc.dialects.errors import PmcError
from pmc.dialects.expr import UnboundSymbolError


@dataclass(frozen=True)
class Collective:
    """A collective, or a transfer between two stages, of one stage."""

    stage: int
    path: str
    kind: str
    """`all_reduce`, `all_gather`, `reduce_scatter`, `ring_exchange`, `dispatch`, `combine` or `send`."""
    axis: str
    peer: int | None
    """The stage that a send goes to."""
    group_size: int
    groups: int
    """Groups of this stage that run it at the same time."""
    level: LinkLevel
    """The outermost network level that any group of the axis spans."""
    count: int
    """Executions in one step."""
    bytes_per_rank: int
    """Bytes that one rank sends in one execution."""
    algorithm: str
    """`flat_ring`, `two_level<inner = 4>`, `direct`, ..; empty where there is no choice."""
    steps: tuple[Step, ...]
    """Who sends to whom in one execution."""

    @property
    def senders(self) -> int:
        """Ranks that send: all of a group, of a pair of stages one."""
        return self.groups if self.kind == "send" else self.groups * self.group_size

    @property
    def total_bytes(self) -> int:
        """Bytes that all ranks of the stage send in one step."""
        return self.bytes_per_rank * self.count * self.senders


@dataclass(frozen=True)
class CommPattern(Analysis):
    """All communication of one step, in program order."""

    COLUMNS: ClassVar[tuple[str, ...]] = (
        "stage", "path", "kind", "axis", "peer", "group_size", "groups", "level", "count", "bytes_per_rank",
        "total_bytes", "algorithm",
    )  # fmt: skip

    program: str
    topology: str
    ranks: int
    bindings: Mapping[str, int]
    collectives: tuple[Collective, ...]

    @property
    def total_bytes(self) -> int:
        """Bytes that all ranks of all stages send in one step."""
        return sum(c.total_bytes for c in self.collectives)

    def to_rows(self) -> list[Row]:
        """One row per collective."""
        return [{name: getattr(c, name) for name in self.COLUMNS} for c in self.collectives]

    def summary(self) -> dict[str, object]:
        """Conditions, and the total by kind."""
        return {
            "program": self.program,
            "topology": self.topology,
            "ranks": self.ranks,
            "bindings": dict(self.bindings),
            "total_bytes": self.total_bytes,
            "total_bytes_by_kind": self._by("kind"),
            "total_bytes_by_level": self._by("level"),
        }

    def _by(self, field: str) -> dict[str, int]:
        sums: dict[str, int] = {}
        for c in self.collectives:
            key = c.kind if field == "kind" else c.level
            sums[key] = sums.get(key, 0) + c.total_bytes
        return sums

    def headline(self) -> str:
        """Program, point and topology."""
        symbols = ", ".join(f"{name} {value}" for name, value in self.bindings.items())
        network = self.topology or "no topology"
        return f"{self.program}: communication of one step of {self.ranks} ranks, {symbols}; {network}"

    def notes(self) -> list[str]:
        """Totals by kind."""
        kinds = ", ".join(f"{kind} {size / 1e6:.3f}" for kind, size in self._by("kind").items())
        return [f"total MB sent by all ranks: {self.total_bytes / 1e6:.3f} ({kinds or 'nothing is sent'})"]


def comm_pattern(module: ModuleOp, bindings: Mapping[str, int] | None = None) -> CommPattern:
    """The communication of one step of the program in `module`, which has the shapes of one rank (after localize).

    Symbols take the values of `bindings`, else of the attribute `arch.deployment`.  A collective whose algorithm is
    open goes by the one that is fastest under `arch.accounting`.  Raises PmcError for a symbol
    without a value, a collective in a module without mesh or topology, or an open one without accounting.
    """
    program = program_of(module)
    target = Target.of(module)
    values = symbol_values(module, bindings or {})
    accounting = module.attributes.get(ACCOUNTING)
    charged = accounting.data if isinstance(accounting, AccountingAttr) else None
    return CommPattern(
        program.sym_name.data,
        target.topology.name if target.topology is not None else "",
        target.mesh.ranks if target.mesh is not None else 1,
        values,
        tuple(c for site in sites(program) if (c := _collective(site, target, charged, values)) is not None),
    )


def _collective(
    site: Site, target: Target, accounting: Accounting | None, values: Mapping[str, int]
) -> Collective | None:
    op = site.op
    transfer = transfer_of(op, target)
    if transfer is None or target.mesh is None or target.topology is None or not isinstance(op, PmcOp):
        return None
    path = op.path.data
    try:
        if transfer.exchange.is_open and transfer.ranks > 1:
            if accounting is None:
                raise PmcError(f"{op.name} at '{path}': which algorithm is fastest needs the attribute '{ACCOUNTING}'")
            algorithm = CommProtocol(target.topology, accounting).algorithm_of(op, target, values)
            assert algorithm is not None
            transfer = transfer.by(algorithm)
        size = int(transfer.link_bytes.evaluate(values))
    except UnboundSymbolError as error:
        raise PmcError(f"{op.name} at '{path}': {error}") from None
    stage_ranks = ranks_of_stage(target.mesh, site.stage)
    collective = transfer.exchange.collective
    peer = collective.peer.value.data if isinstance(collective, SendAttr) else None
    return Collective(
        stage=site.stage,
        path=path,
        kind=collective.name.partition(".")[2],
        axis=transfer.axis.name,
        peer=peer,
        group_size=transfer.ranks,
        groups=len(stage_ranks) if peer is not None else len(stage_ranks) // transfer.ranks,
        level=transfer.level,
        count=site.count,
        bytes_per_rank=size,
        algorithm=str(transfer.exchange.algorithm or "").removeprefix("#dist."),
        steps=transfer.steps,
    )


def ranks_of_stage(mesh: Mesh, stage: int) -> tuple[int, ...]:
    """The ranks that run a stage, in order."""
    axis = pipeline_axis(mesh)
    return tuple(r for r in range(mesh.ranks) if axis is None or axis.coordinate(r) == stage)


def pipeline_axis(mesh: Mesh) -> Axis | None:
    """The mesh axis of stages, if the mesh has one."""
    return next((axis for axis in mesh.axes if axis.name == PIPELINE), None)


def topology_of(target: Target) -> Topology:
    """The topology of a target.  Raises PmcError where it has none."""
    if target.topology is None:
        raise PmcError("the module has no attribute 'arch.topology', which says how chips are wired")
    return target.topology
