"""The bytes on every physical link in one step, with each collective placed on the links of its topology.

Who sends to whom follows from the algorithm of the collective (`collective_steps`), with the ranks of a group in the
order of their coordinates.  Dispatch and combine are taken to spread tokens evenly over the experts.  A flow takes the
shortest path between two chips, equal shares of all of them where several are equally short.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import asdict, dataclass
from fractions import Fraction
from typing import ClassVar

from xdsl.dialects.builtin import ModuleOp

from pmc.backends.cost.model import Target
from pmc.backends.evaluate.analyses.comm_pattern import (
    Collective,
    CommPattern,
    comm_pattern,
    ranks_of_stage,
    topology_of,
)
from pmc.backends.evaluate.analyses.table import Analysis, Row
from pmc.backends.evaluate.analyses.wiring import LinkEnds, Wiring
from pmc.backends.evaluate.assumptions import honesty_notes
from pmc.dialects.analyses.collective_steps import Step
from pmc.dialects.arch import BoardWiring, LinkLevel, Topology
from pmc.dialects.dist import Mesh

Flow = tuple[int, int, Fraction]
"""Sender, receiver, and the part of the sender's bytes."""


@dataclass(frozen=True)
class LinkLoad:
    """One direction of a link."""

    source: str
    target: str
    level: LinkLevel
    gb_per_s: float
    """What payload reaches, one way."""
    bytes: float
    """Of one step; halves where paths share."""
    time_us: float
    """How long the link is busy."""


@dataclass(frozen=True)
class PlacedCollective:
    """A collective and how far its bytes travel."""

    stage: int
    path: str
    kind: str
    axis: str
    total_bytes: int
    hops: float
    """Links that a byte crosses on average."""


@dataclass(frozen=True)
class LinkTraffic(Analysis):
    """The links that carry anything, the busiest first."""

    COLUMNS: ClassVar[tuple[str, ...]] = ("source", "target", "level", "gb_per_s", "bytes", "time_us")

    pattern: CommPattern
    board: BoardWiring
    links: tuple[LinkLoad, ...]
    idle: int
    """Links that carry nothing."""
    placed: tuple[PlacedCollective, ...]
    unvalidated: tuple[str, ...]

    @property
    def busiest(self) -> LinkLoad | None:
        """The link that is busy longest, None where nothing is sent."""
        return self.links[0] if self.links else None

    @property
    def link_bytes(self) -> float:
        """Bytes summed over all links: those of every collective times the hops they make."""
        return sum(link.bytes for link in self.links)

    def to_rows(self) -> list[Row]:
        """One row per link and direction."""
        return [asdict(link) for link in self.links]

    def summary(self) -> dict[str, object]:
        """Conditions, totals, the busiest link and the collectives."""
        conditions = self.pattern.summary()
        return {
            **{name: conditions[name] for name in ("program", "topology", "ranks", "bindings", "total_bytes")},
            "board_wiring": self.board,
            "relative_only": bool(self.unvalidated),
            "unvalidated": list(self.unvalidated),
            "link_bytes": self.link_bytes,
            "links_used": len(self.links),
            "links_idle": self.idle,
            "busiest": None if self.busiest is None else asdict(self.busiest),
            "collectives": [asdict(placed) for placed in self.placed],
        }

    def headline(self) -> str:
        """Program, point, topology and wiring."""
        return f"{self.pattern.headline()}, boards wired as {self.board.replace('_', ' ')}"

    def notes(self) -> list[str]:
        """The busiest link, and how far the bytes go."""
        busy = self.busiest
        if busy is None:
            return ["nothing is sent"]
        total = self.pattern.total_bytes
        return [
            f"busiest: {busy.source} -> {busy.target} ({busy.level}), {busy.bytes / 1e6:.3f} MB, {busy.time_us:.3f} us",
            f"{total / 1e6:.3f} MB are sent, {self.link_bytes / total:.3f} hops on average; {len(self.links)} links "
            f"are used, {self.idle} are idle",
            *honesty_notes(False, (), self.unvalidated),
        ]


def link_traffic(module: ModuleOp, bindings: Mapping[str, int] | None = None) -> LinkTraffic:
    """The traffic of one step of the program in `module` (after localize).

    Symbols take the values of `bindings`, else of the attribute `arch.deployment`.  Raises PmcError as `comm_pattern`
    does, and without a topology.
    """
    pattern = comm_pattern(module, bindings)
    target = Target.of(module)
    topology = topology_of(target)
    wiring = Wiring(topology)
    unit_loads: dict[object, Mapping[LinkEnds, Fraction]] = {}
    loads: dict[LinkEnds, Fraction] = {}
    placed: list[PlacedCollective] = []
    for c in pattern.collectives:
        assert target.mesh is not None  # transfers exist only on a mesh
        sent, crossed = 0, Fraction(0)
        for step in c.steps:
            key = (c.axis, c.stage, step.size, step.stride, step.peers)
            if key not in unit_loads:
                unit_loads[key] = _unit_load(c, step, target.mesh, wiring)
            size = int(step.bytes.evaluate(pattern.bindings)) * step.rounds
            for ends, share in unit_loads[key].items():
                loads[ends] = loads.get(ends, Fraction(0)) + share * size * c.count
                crossed += share * size
            sent += size * c.senders
        hops = float(crossed / sent) if sent else 0.0
        placed.append(PlacedCollective(c.stage, c.path, c.kind, c.axis, c.total_bytes, hops))
    links, idle = _links(wiring, loads)
    return LinkTraffic(pattern, topology.board_wiring, links, idle, tuple(placed), _unvalidated(topology, links))


def flows_of(collective: Collective, step: Step, mesh: Mesh) -> Iterator[Flow]:
    """Who sends to whom in a step, for all groups of the stage."""
    axis = mesh.axis(collective.axis)
    for rank in ranks_of_stage(mesh, collective.stage):
        group, member = axis.group(rank), axis.coordinate(rank)
        for distance in step.peers:
            yield rank, group[step.peer(member, distance)], Fraction(1, len(step.peers))


def _unit_load(collective: Collective, step: Step, mesh: Mesh, wiring: Wiring) -> dict[LinkEnds, Fraction]:
    """Bytes on every link when each sender has one byte."""
    loads: dict[LinkEnds, Fraction] = {}
    for source, target, part in flows_of(collective, step, mesh):
        paths = wiring.paths(source, target)
        for path in paths:
            for ends in path:
                loads[ends] = loads.get(ends, Fraction(0)) + part / len(paths)
    return loads


def _links(wiring: Wiring, loads: Mapping[LinkEnds, Fraction]) -> tuple[tuple[LinkLoad, ...], int]:
    """The links with a load in the order of their time, then of the wiring; and the number of the others."""
    found: list[LinkLoad] = []
    idle = 0
    for link in wiring.links():
        size = float(loads.get((link.source, link.target), 0))
        if size:
            time_us = size / (link.gb_per_s * 1e9) * 1e6
            found.append(LinkLoad(link.source, link.target, link.level, link.gb_per_s, size, time_us))
        else:
            idle += 1
    return tuple(sorted(found, key=lambda link: -link.time_us)), idle


def _unvalidated(topology: Topology, links: tuple[LinkLoad, ...]) -> tuple[str, ...]:
    used = [f"links.{level}" for level in dict.fromkeys(link.level for link in links)]
    boards = ["board_wiring"] if "links.c2c" in used else []
    fields = [*boards, *sorted(used), "bandwidth_utilisation"] if used else []
    return tuple(f"topology.{name}" for name in fields if topology.is_unvalidated(name))
