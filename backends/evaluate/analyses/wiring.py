"""The physical links between chips as a graph.

A topology states bandwidths per chip and level, not cables.  What is assumed here:

- Chips of one board are wired as the topology says (`board_wiring`): to a switch of the board, in a ring by their
  number, or each to each.
- For every slower level a chip has one link to a switch of the rack (b2b), the pod (r2r) or the installation (p2p).
  Switches are not blocking, so that only the links of chips can be busy.
- `gb_per_s` of a level is what one chip sends over all its links of that level: they share it evenly.
- Links of different levels do not share ports.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from functools import cache
from itertools import combinations, pairwise
from math import prod

import networkx as nx

from pmc.backends.cost.network import LEVELS
from pmc.dialects.arch import BoardWiring, LinkLevel, Topology

Node = str
LinkEnds = tuple[Node, Node]


@dataclass(frozen=True)
class PhysicalLink:
    """One direction of a link between two nodes."""

    source: Node
    target: Node
    level: LinkLevel
    gb_per_s: float
    """What payload reaches, one way."""


@dataclass(frozen=True)
class Wiring:
    """The links of a topology."""

    topology: Topology

    def links(self) -> tuple[PhysicalLink, ...]:
        """All links, level by level."""
        return tuple(link for level in LEVELS for link in self._links(level))

    def graph(self) -> nx.DiGraph[Node]:
        """All links as edges with the attributes `level` and `gb_per_s`, all chips and switches as nodes."""
        graph: nx.DiGraph[Node] = nx.DiGraph()
        graph.add_nodes_from(chip(rank) for rank in range(self.topology.chips))
        for link in self.links():
            graph.add_edge(link.source, link.target, level=link.level, gb_per_s=link.gb_per_s)
        return graph

    def paths(self, source: int, target: int) -> tuple[tuple[LinkEnds, ...], ...]:
        """All shortest paths between two chips over links of the one level that they span.

        In a ring there may be two.  A level with a switch is a star: from the chip to the switch and on.
        """
        level = self.topology.link_of_span((source, target))
        if level != "c2c" or self.topology.board_wiring == "switch":
            middle = switch(level, source // self._span(level)[1])
            return (((chip(source), middle), (middle, chip(target))),)
        size = self.topology.chips_per_board
        first = source // size * size
        found = _board_paths(size, self.topology.board_wiring, source - first, target - first)
        return tuple(tuple((chip(first + a), chip(first + b)) for a, b in path) for path in found)

    def _links(self, level: LinkLevel) -> Iterator[PhysicalLink]:
        t = self.topology
        inner, outer = self._span(level)
        if inner == outer:
            return  # one board, rack or pod: nothing to connect
        rate = t.link(level).gb_per_s * t.bandwidth_utilisation
        if level != "c2c" or t.board_wiring == "switch":
            for rank in range(t.chips):
                near, far = chip(rank), switch(level, rank // outer)
                yield PhysicalLink(near, far, level, rate)
                yield PhysicalLink(far, near, level, rate)
            return
        pairs = _board_pairs(t.chips_per_board, t.board_wiring)
        ports = sum(0 in pair for pair in pairs)
        for first in range(0, t.chips, t.chips_per_board):
            for a, b in pairs:
                one, other = chip(first + a), chip(first + b)
                yield PhysicalLink(one, other, level, rate / ports)
                yield PhysicalLink(other, one, level, rate / ports)

    def _span(self, level: LinkLevel) -> tuple[int, int]:
        """Chips of one part (a chip, a board, a rack, a pod), and of all parts that a network of the level connects."""
        t = self.topology
        sizes = (1, t.chips_per_board, t.boards_per_rack, t.racks_per_pod, t.pods)
        at = LEVELS.index(level) + 1
        return prod(sizes[:at]), prod(sizes[: at + 1])


def chip(rank: int) -> Node:
    """The node of a chip; rank r is chip r."""
    return f"chip {rank}"


def switch(level: LinkLevel, index: int) -> Node:
    """The node of a switch."""
    return f"{level} switch {index}"


def _board_pairs(size: int, board: BoardWiring) -> list[tuple[int, int]]:
    """The neighbours on a board of `size` chips."""
    pairs = combinations(range(size), 2)
    return [(a, b) for a, b in pairs if board == "full_mesh" or b - a in (1, size - 1)]


@cache
def _board_paths(size: int, board: BoardWiring, source: int, target: int) -> tuple[tuple[tuple[int, int], ...], ...]:
    """All shortest paths between two chips of a board, as pairs of neighbours."""
    graph: nx.Graph[int] = nx.Graph()
    graph.add_edges_from(_board_pairs(size, board))
    found: list[list[int]] = list(nx.all_shortest_paths(graph, source, target))
    return tuple(tuple(pairwise(path)) for path in found)
