"""The RC network of a stack, as HotSpot builds it in its grid model.

Every layer, the spreader and the sink are a grid of cells over the die, and so are substrate, solder and board where
heat leaves through them too; nodes around these grids are what lies outside of the die.  With R(k, l, s) = l / (k s) a
cell of size w x h in a layer of thickness t has rx = R(k, w, h t), ry = R(k, h, w t) and rz = R(k, t, w h).  Every
capacitance is multiplied by `C_FACTOR`.  Between neighbours stand

    hotspot6   in a row rx, in a column ry, and rz of the cell that is farther from the sink: the node of a cell lies on
               its side away from the sink
    hotspot7   half of the resistances of both cells (HotSpot 7 with `-detailed_3D on`), the first layer in full.  As in
               its program rx and ry are exchanged, rz of the sink has the resistance to the air in it, and layers
               without lateral heat flow have it all the same

The equations are those of HotSpot's package model (Huang et al., HotSpot: A Compact Thermal Modeling Methodology for
Early-Stage VLSI Design, 2006) and of its source (temperature_grid.c, temperature.c).
"""

from __future__ import annotations

from dataclasses import dataclass, field
from itertools import pairwise

import numpy as np
import numpy.typing as npt
from scipy import sparse

from pmc.backends.thermal.floorplan import Floats
from pmc.backends.thermal.stack import Board, Stack

Ints = npt.NDArray[np.int64]

C_FACTOR = 0.333
"""HotSpot's correction of lumped capacitances."""

SPREADER, SINK_INNER, SINK_OUTER, SUBSTRATE, SOLDER, PCB_INNER, PCB_OUTER = range(7)
"""The rings of four package nodes: around the spreader, the sink around it, and what the sink has beyond; the same
around substrate, solder and board."""

SIDES = 4
"""West, east, north, south."""


@dataclass(frozen=True)
class Material:
    """Of a plane of cells."""

    k: float
    """W/(m K)."""
    c: float
    """J/(m3 K)."""
    thickness: float
    """Metres."""
    lateral: bool = True
    """Whether heat goes sideways in it."""


RHO_SUB, RHO_SOLDER, RHO_PCB = 0.5, 0.06, 0.333
C_SUB, C_SOLDER, C_PCB = 1.6e6, 2.1e6, 1.32e6
"""Resistivities in m K/W and heat capacities in J/(m3 K) of HotSpot's boards."""


@dataclass(frozen=True)
class Network:
    """G theta = p, C dtheta/dt = p - G theta: kelvin above the ambient, watts, seconds."""

    conductance: sparse.csc_array
    """[nodes, nodes] W/K; symmetric."""
    capacitance: Floats
    """[nodes] J/K."""
    to_ambient: Floats
    """[nodes] W/K that leave the network."""
    power: sparse.csr_array
    """[nodes, powered units]: the part of the power of a unit that a cell gets."""
    layers: int
    """Planes of cells: the layers of the stack, spreader and sink, and with a board substrate, solder and board."""
    cells: int
    """Of one plane."""

    @property
    def nodes(self) -> int:
        """Cells of all planes, then the rings of the package."""
        return len(self.capacitance)


def resistance(conductivity: float, length: float, area: float) -> float:
    """K/W of a block of W/(m K), metres and square metres."""
    return length / (conductivity * area)


def network_of(stack: Stack) -> Network:
    """The network of a stack."""
    build = _Build(stack)
    build.planes_of_cells()
    build.spreader_and_sink()
    if stack.package.board is not None:
        build.substrate_and_board(stack.package.board)
    nodes, cells = len(build.capacitance), build.number[0].size
    conductance = build.links.matrix(build.to_ambient)
    power = _power(stack, nodes)
    return Network(conductance, build.capacitance, build.to_ambient, power, len(build.planes), cells)


@dataclass
class _Links:
    """Conductances between nodes."""

    nodes: int
    first: list[Ints] = field(default_factory=list["Ints"])
    second: list[Ints] = field(default_factory=list["Ints"])
    value: list[Floats] = field(default_factory=list["Floats"])

    def add(self, first: Ints, second: Ints, conductance: float) -> None:
        """Connect node i of `first` with node i of `second`; one of them may be a single node."""
        a, b = np.broadcast_arrays(first.reshape(-1), second.reshape(-1))
        self.first.append(np.asarray(a))
        self.second.append(np.asarray(b))
        self.value.append(np.full(len(a), conductance))

    def matrix(self, to_ambient: Floats) -> sparse.csc_array:
        """The conductance matrix."""
        a, b, g = np.concatenate(self.first), np.concatenate(self.second), np.concatenate(self.value)
        diagonal = np.bincount(a, g, self.nodes) + np.bincount(b, g, self.nodes) + to_ambient
        every = np.arange(self.nodes)
        rows, columns = np.concatenate([a, b, every]), np.concatenate([b, a, every])
        values = np.concatenate([-g, -g, diagonal])
        return sparse.coo_array((values, (rows, columns)), shape=(self.nodes, self.nodes)).tocsc()


class _Build:
    """A network that grows."""

    def __init__(self, stack: Stack):
        self.stack = stack
        self.planes = _planes(stack)
        grid, board = stack.grid, stack.package.board
        count = len(self.planes)
        self.width, self.height = stack.width / grid.columns, stack.height / grid.rows
        self.area = self.width * self.height
        shape = (count, grid.rows, grid.columns)
        self.number = np.arange(count * grid.rows * grid.columns, dtype=np.int64).reshape(shape)
        """Nodes of the planes: layers, spreader, sink, substrate, solder, board."""
        nodes = self.number.size + SIDES * (3 if board is None else 7)
        self.links, self.to_ambient, self.capacitance = _Links(nodes), np.zeros(nodes), np.zeros(nodes)
        self.spreader = len(stack.layers)
        self.sink = self.spreader + 1

    def planes_of_cells(self) -> None:
        """Cells with their neighbours in all directions, and with the air."""
        old, p = self.stack.convention == "hotspot6", self.stack.package
        for layer, m in zip(self.number, self.planes, strict=True):
            rx, ry = (
                resistance(m.k, self.width, self.height * m.thickness),
                resistance(m.k, self.height, self.width * m.thickness),
            )
            if m.lateral or not old:
                self.links.add(layer[:, :-1], layer[:, 1:], 1 / (rx if old else ry))
                self.links.add(layer[:-1], layer[1:], 1 / (ry if old else rx))
            self.capacitance[layer] = C_FACTOR * m.c * m.thickness * self.area
        of_air = self.area / p.s_sink**2
        rz = [resistance(m.k, m.thickness, self.area) for m in self.planes]
        rz[self.sink] += p.r_convec / of_air
        self.to_ambient[self.number[self.sink]] = 1 / rz[self.sink]
        self.capacitance[self.number[self.sink]] += C_FACTOR * p.c_convec * of_air
        # From the board, if there is one, to the sink.
        way = [*reversed(range(self.sink + 1, len(self.planes))), *range(self.sink + 1)]
        for a, b in pairwise(way):
            r = rz[a] if old else (rz[a] if a == way[0] else rz[a] / 2) + rz[b] / 2
            self.links.add(self.number[a], self.number[b], 1 / r)

    def spreader_and_sink(self) -> None:
        """What of them lies outside of the die: trapezoids, one on each side."""
        p = self.stack.package
        for side in range(SIDES):
            spreader, inner, outer = (self._node(ring, side) for ring in (SPREADER, SINK_INNER, SINK_OUTER))
            under, beyond = self._ring_area(p.s_spreader, side), (p.s_sink**2 - p.s_spreader**2) / 4
            self._edge(self.spreader, side, spreader, p.s_spreader)
            self._edge(self.sink, side, inner, p.s_spreader)
            self.links.add(spreader, inner, 1 / resistance(p.k_spreader, p.t_spreader, under))
            self.capacitance[spreader] = C_FACTOR * p.p_spreader * p.t_spreader * under
            for node, size in ((inner, under), (outer, beyond)):
                if size > 0:
                    of_air = size / p.s_sink**2
                    self.to_ambient[node] = 1 / (resistance(p.k_sink, p.t_sink, size) + p.r_convec / of_air)
                self.capacitance[node] = C_FACTOR * (p.p_sink * p.t_sink * size + p.c_convec * size / p.s_sink**2)
            self._outward(self.planes[self.sink], side, inner, outer, (p.s_spreader, p.s_sink))

    def substrate_and_board(self, p: Board) -> None:
        """The same of substrate, solder and board, whose cells give heat to the air without a resistance of theirs."""
        substrate, solder, board = range(self.sink + 1, len(self.planes))
        of_air = self.area / p.s_pcb**2
        self.to_ambient[self.number[board]] = of_air / p.r_convec_sec
        self.capacitance[self.number[board]] += C_FACTOR * p.c_convec_sec * of_air
        for side in range(SIDES):
            rings = [self._node(ring, side) for ring in (SUBSTRATE, SOLDER, PCB_INNER, PCB_OUTER)]
            areas = [*(self._ring_area(s, side) for s in (p.s_sub, p.s_solder, p.s_solder)), 0.0]
            areas[3] = (p.s_pcb**2 - p.s_solder**2) / 4
            planes = (substrate, solder, board)
            for plane, node, inner_side in zip(planes, rings, (p.s_sub, p.s_solder, p.s_solder), strict=False):
                self._edge(plane, side, node, inner_side)
            for ring, plane in ((1, solder), (2, board)):
                m = self.planes[plane]
                self.links.add(rings[ring - 1], rings[ring], 1 / resistance(m.k, m.thickness, areas[ring]))
            for node, plane, size in zip(rings, (*planes, board), areas, strict=True):
                m = self.planes[plane]
                self.capacitance[node] = C_FACTOR * m.c * m.thickness * size
            for node, size in zip(rings[2:], areas[2:], strict=True):
                self.to_ambient[node] = size / p.s_pcb**2 / p.r_convec_sec
                self.capacitance[node] += C_FACTOR * p.c_convec_sec * size / p.s_pcb**2
            self._outward(self.planes[board], side, rings[2], rings[3], (p.s_solder, p.s_pcb))

    def _node(self, ring: int, side: int) -> Ints:
        return np.array([self.number.size + SIDES * ring + side])

    def _along_beside(self, side: int) -> tuple[float, float]:
        """The die in the direction of a side, and across it: west and east lie along x."""
        stack = self.stack
        return (stack.width, stack.height) if side < 2 else (stack.height, stack.width)

    def _ring_area(self, outside: float, side: int) -> float:
        along, beside = self._along_beside(side)
        return (outside + beside) * (outside - along) / 4

    def _edge(self, plane: int, side: int, node: Ints, outside: float) -> None:
        """Cells at the edge of the die and what lies beyond: half a cell, then the way to the middle of the ring."""
        m, (along, beside) = self.planes[plane], self._along_beside(side)
        step, other = (self.width, self.height) if side < 2 else (self.height, self.width)
        cells = self.number[plane][[np.s_[:, 0], np.s_[:, -1], np.s_[0, :], np.s_[-1, :]][side]]
        half = resistance(m.k, step, other * m.thickness) / 2
        way = resistance(m.k, (outside - along) / 4, (outside + 3 * beside) / 4 * m.thickness)
        self.links.add(cells, node, 1 / (half + cells.size * way))

    def _outward(self, m: Material, side: int, inner: Ints, outer: Ints, sides: tuple[float, float]) -> None:
        """From the ring around the die to the one beyond it."""
        (along, beside), (middle, outside) = self._along_beside(side), sides
        inside = resistance(m.k, (middle - along) / 4, (3 * middle + beside) / 4 * m.thickness)
        beyond = resistance(m.k, (outside - middle) / 4, (outside + 3 * middle) / 4 * m.thickness)
        self.links.add(inner, outer, 1 / (inside + beyond))


def _planes(stack: Stack) -> list[Material]:
    p, board = stack.package, stack.package.board
    planes = [Material(1 / n.resistivity, n.heat_capacity, n.thickness, n.lateral) for n in stack.layers]
    planes.append(Material(p.k_spreader, p.p_spreader, p.t_spreader))
    planes.append(Material(p.k_sink, p.p_sink, p.t_sink))
    if board is not None:
        planes.append(Material(1 / RHO_SUB, C_SUB, board.t_sub))
        planes.append(Material(1 / RHO_SOLDER, C_SOLDER, board.t_solder))
        planes.append(Material(1 / RHO_PCB, C_PCB, board.t_pcb))
    return planes


def _power(stack: Stack, nodes: int) -> sparse.csr_array:
    """[nodes, powered units] parts of the area of each unit; a unit heats all of its cells alike."""
    grid, blocks = stack.grid, list[sparse.coo_array]()
    for layer, shared in zip(stack.layers, stack.shared, strict=True):
        if layer.powered:
            areas = np.array([unit.area for unit in layer.floorplan.units])
            blocks.append(sparse.coo_array((shared / areas[:, None]).T))
        else:
            blocks.append(sparse.coo_array((grid.rows * grid.columns, 0)))
    stacked = sparse.block_diag(blocks, format="coo")
    parts = (np.asarray(stacked.data), (stacked.row, stacked.col))
    return sparse.csr_array(parts, shape=(nodes, len(stack.powered_units)))
