"""The RC network of a stack, as HotSpot 6 builds it in its grid model.

Every layer, the spreader and the sink are a grid of cells over the die; four nodes around the spreader and eight around
the sink are what lies outside of the die.  With R(k, l, s) = l / (k s) a cell of size w x h in a layer of thickness t
has R(k, w, h t) to its neighbours in the row, R(k, h, w t) to those in the column, and R(k, t, w h) to the layer behind
it: the node of a cell lies on its side away from the sink.  Every capacitance is multiplied by `C_FACTOR`.

The equations are those of HotSpot's package model (Huang et al., HotSpot: A Compact Thermal Modeling Methodology for
Early-Stage VLSI Design, 2006) and of its source (temperature_grid.c, temperature.c).
"""

from __future__ import annotations

from dataclasses import dataclass, field

import numpy as np
import numpy.typing as npt
from scipy import sparse

from pmc.backends.thermal.floorplan import Floats
from pmc.backends.thermal.stack import Stack

Ints = npt.NDArray[np.int64]

C_FACTOR = 0.333
"""HotSpot's correction of lumped capacitances."""

SPREADER, SINK_INNER, SINK_OUTER = range(3)
"""The rings of four package nodes: around the spreader, the sink around it, and what the sink has beyond."""

SIDES = 4
"""West, east, north, south."""


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
    """Grids: those of the stack, the spreader and the sink."""
    cells: int
    """Of one layer."""

    @property
    def nodes(self) -> int:
        """Cells of all grids, then the rings of the package."""
        return len(self.capacitance)


@dataclass
class _Links:
    """Conductances between nodes, and from nodes to the air."""

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


def resistance(conductivity: float, length: float, area: float) -> float:
    """K/W of a block of W/(m K), metres and square metres."""
    return length / (conductivity * area)


def network_of(stack: Stack) -> Network:
    """The network of a stack."""
    grid, package = stack.grid, stack.package
    cells = grid.rows * grid.columns
    materials = [(1 / n.resistivity, n.heat_capacity, n.thickness, n.lateral) for n in stack.layers]
    materials.append((package.k_spreader, package.p_spreader, package.t_spreader, True))
    materials.append((package.k_sink, package.p_sink, package.t_sink, True))
    nodes = len(materials) * cells + 3 * SIDES
    links, to_ambient, capacitance = _Links(nodes), np.zeros(nodes), np.zeros(nodes)
    width, height = stack.width / grid.columns, stack.height / grid.rows
    area = width * height
    number = np.arange(len(materials) * cells, dtype=np.int64).reshape(len(materials), grid.rows, grid.columns)
    for place, (k, c, t, lateral) in enumerate(materials):
        layer = number[place]
        if lateral:
            links.add(layer[:, :-1], layer[:, 1:], 1 / resistance(k, width, height * t))
            links.add(layer[:-1], layer[1:], 1 / resistance(k, height, width * t))
        if place + 1 < len(materials):
            links.add(layer, number[place + 1], 1 / resistance(k, t, area))
        capacitance[layer] = C_FACTOR * c * t * area
    sink = number[-1]
    of_air = area / package.s_sink**2
    to_ambient[sink] = 1 / (resistance(package.k_sink, package.t_sink, area) + package.r_convec / of_air)
    capacitance[sink] += C_FACTOR * package.c_convec * of_air
    _package(stack, links, number, to_ambient, capacitance)
    return Network(links.matrix(to_ambient), capacitance, to_ambient, _power(stack, nodes), len(materials), cells)


def _package(stack: Stack, links: _Links, number: Ints, to_ambient: Floats, capacitance: Floats) -> None:
    """What lies outside of the die: trapezoids of the spreader and the sink, one on each side."""
    p, grid = stack.package, stack.grid
    first = number.size + SIDES * np.arange(3)
    cell = stack.width / grid.columns, stack.height / grid.rows
    for side in range(SIDES):
        across = side < 2  # west and east lie along x
        along, beside = (stack.width, stack.height) if across else (stack.height, stack.width)
        step, other = cell if across else cell[::-1]
        spreader, inner, outer = (np.array([start + side]) for start in first)
        length = (p.s_spreader - along) / 4
        mean = (p.s_spreader + 3 * beside) / 4
        edges = [np.s_[:, 0], np.s_[:, -1], np.s_[0, :], np.s_[-1, :]][side]
        parts = (number[0][edges]).size
        for plane, node, k, t in (
            (-2, spreader, p.k_spreader, p.t_spreader), (-1, inner, p.k_sink, p.t_sink),
        ):  # fmt: skip
            half, way = resistance(k, step, other * t) / 2, resistance(k, length, mean * t)
            links.add(number[plane][edges], node, 1 / (half + parts * way))
        under = (p.s_spreader + beside) * (p.s_spreader - along) / 4
        beyond = (p.s_sink**2 - p.s_spreader**2) / 4
        links.add(spreader, inner, 1 / resistance(p.k_spreader, p.t_spreader, under))
        capacitance[spreader] = C_FACTOR * p.p_spreader * p.t_spreader * under
        for node, size in ((inner, under), (outer, beyond)):
            if size > 0:
                of_air = size / p.s_sink**2
                to_ambient[node] = 1 / (resistance(p.k_sink, p.t_sink, size) + p.r_convec / of_air)
            capacitance[node] = C_FACTOR * (p.p_sink * p.t_sink * size + p.c_convec * size / p.s_sink**2)
        inside = resistance(p.k_sink, length, (3 * p.s_spreader + beside) / 4 * p.t_sink)
        outside = resistance(p.k_sink, (p.s_sink - p.s_spreader) / 4, (p.s_sink + 3 * p.s_spreader) / 4 * p.t_sink)
        links.add(inner, outer, 1 / (inside + outside))


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
