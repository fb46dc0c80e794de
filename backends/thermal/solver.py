"""Temperatures of a stack: steady states, steps in time, and what a watt in one unit does to all others.

The network is linear and does not change, so its matrices are factored once.  Steps in time are TR-BDF2 (Bank et al.,
1985), which damps the jumps of power that an explicit method would have to resolve:

    (C + a G) y  = C x + a (2 p - G x)                                       a = gamma h / 2, gamma = 2 - sqrt 2
    (C + a G) x' = C (y - (1 - gamma)^2 x) / (gamma (2 - gamma)) + a p

Both stages share one factor, as a = (1 - gamma) / (2 - gamma) h too.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from functools import cached_property
from math import sqrt

import numpy as np
from scipy import sparse
from scipy.sparse.linalg import splu

from pmc.backends.thermal.floorplan import Floats
from pmc.backends.thermal.network import Ints, Network, network_of
from pmc.backends.thermal.stack import Stack
from pmc.dialects.errors import PmcError

GAMMA = 2 - sqrt(2)

SUB_STEPS = 4
"""Per window: within 0.05 K of HotSpot's adaptive Runge-Kutta on windows of 3 ms."""

Solve = Callable[[Floats], Floats]


@dataclass(frozen=True)
class ThermalModel:
    """The network of a stack, and the factors of its matrices.  States are [nodes] kelvin above the ambient."""

    stack: Stack
    network: Network
    _factors: dict[float, Solve]

    @classmethod
    def of(cls, stack: Stack) -> ThermalModel:
        """The model of a stack."""
        return cls(stack, network_of(stack), {})

    def uniform(self, kelvin: float) -> Floats:
        """The state in which all has one temperature."""
        return np.full(self.network.nodes, kelvin - self.stack.package.ambient)

    def steady(self, power_w: Floats) -> Floats:
        """The state that a constant power [powered units] leads to."""
        return self._factor(0.0)(self._heat(power_w))

    def advance(self, state: Floats, power_w: Floats, seconds: float, sub_steps: int = SUB_STEPS) -> Floats:
        """The state after `seconds` of a constant power [powered units].

        Raises PmcError for a power that is negative or no number, and for a time that is not positive.
        """
        if not seconds > 0 or sub_steps < 1:
            raise PmcError(f"thermal: {sub_steps} sub-steps in {seconds} s, both must be positive")
        heat, step = self._heat(power_w), seconds / sub_steps
        a = GAMMA * step / 2
        solve, c, g = self._factor(a), self.network.capacitance, self.network.conductance
        for _ in range(sub_steps):
            middle = solve(c * state + a * (2 * heat - g @ state))
            state = solve(c * (middle - (1 - GAMMA) ** 2 * state) / (GAMMA * (2 - GAMMA)) + a * heat)
        return state

    @cached_property
    def unit_response(self) -> Floats:
        """[units, powered units] kelvin per watt in the steady state."""
        return self.response_to(np.arange(len(self.stack.powered_units)))

    def response_to(self, powered: Ints) -> Floats:
        """[units, chosen] kelvin per watt in the steady state, for some of the powered units, by their places."""
        solve, heat = self._factor(0.0), self.network.power.tocsc()
        # One by one: SuperLU takes three times as long for many at once, and their states would take gigabytes.
        states = (solve(heat[:, [unit]].toarray()[:, 0]) for unit in powered.tolist())
        return np.stack([self._mean @ state for state in states], axis=1)

    def unit_kelvin(self, state: Floats) -> Floats:
        """[units] temperatures of all units of all layers, by the `map_mode` of the grid."""
        if self.stack.grid.map_mode in ("avg", "center"):
            return self._mean @ state + self.stack.package.ambient
        layers = range(len(self.stack.layers))
        return np.concatenate([self.plane_kelvin(state, layer, layer) for layer in layers])

    def plane_kelvin(self, state: Floats, plane: int, layer: int) -> Floats:
        """[units] temperatures of a plane of the network, read by the floorplan of a layer of the stack."""
        mode, weights, cells = self.stack.grid.map_mode, self._weights[layer], self.network.cells
        part = state[plane * cells : (plane + 1) * cells]
        if mode in ("avg", "center"):
            found: Floats = weights @ part
        else:
            worst = np.minimum if mode == "min" else np.maximum
            found = worst.reduceat(part[weights.indices], weights.indptr[:-1])
        return found + self.stack.package.ambient

    def cell_kelvin(self, state: Floats, layer: int) -> Floats:
        """[rows, columns] temperatures of one layer; the first row is the top of the die."""
        grid, cells = self.stack.grid, self.network.cells
        return state[layer * cells : (layer + 1) * cells].reshape(grid.rows, grid.columns) + self.stack.package.ambient

    def heat_out_w(self, state: Floats) -> float:
        """What the air takes."""
        return float(self.network.to_ambient @ state)

    def _heat(self, power_w: Floats) -> Floats:
        names = self.stack.powered_units
        if power_w.shape != (len(names),):
            raise PmcError(f"thermal: {power_w.size} powers for {len(names)} units with power")
        wrong = np.flatnonzero(~(power_w >= 0) | ~np.isfinite(power_w))
        if len(wrong):
            raise PmcError(
                f"thermal: the power of unit '{names[wrong[0]]}' is {power_w[wrong[0]]} W, must be 0 or more"
            )
        return self.network.power @ power_w

    def _factor(self, a: float) -> Solve:
        """Solves (C + a G) x = b, or G x = b for a = 0."""
        if a not in self._factors:
            g, c = self.network.conductance, self.network.capacitance
            matrix = sparse.csc_array(sparse.diags_array(c) + a * g) if a else g
            # G is symmetric and positive definite, so no pivoting is needed.
            options = {"SymmetricMode": True}
            factor = splu(matrix, permc_spec="MMD_AT_PLUS_A", diag_pivot_thresh=0.0, options=options)
            self._factors[a] = factor.solve
        return self._factors[a]

    @cached_property
    def _weights(self) -> tuple[sparse.csr_array, ...]:
        """Of every layer [units, cells] the weights of the cells in the temperature of each unit."""
        grid = self.stack.grid
        blocks: list[sparse.csr_array] = []
        for shared in self.stack.shared:
            touched = shared > 0
            if grid.map_mode == "center":
                touched &= self._central(touched)
            blocks.append(sparse.csr_array(touched / touched.sum(axis=1)[:, None]))
        return tuple(blocks)

    @cached_property
    def _mean(self) -> sparse.csr_array:
        """[units, nodes] the same of all layers."""
        units = sparse.block_diag(self._weights, format="csr")
        shape = (units.shape[0], self.network.nodes)
        return sparse.csr_array((units.data, units.indices, units.indptr), shape=shape)

    def _central(self, touched: np.ndarray[tuple[int, ...], np.dtype[np.bool_]]) -> np.ndarray:
        """[units, cells] the one, two or four cells in the middle of those that a unit touches."""
        grid = self.stack.grid
        cells = touched.reshape(-1, grid.rows, grid.columns)
        found = np.zeros_like(cells)
        for unit, mask in enumerate(cells):
            rows, columns = np.flatnonzero(mask.any(axis=1)), np.flatnonzero(mask.any(axis=0))
            middle = [axis[(len(axis) - 1) // 2 : len(axis) // 2 + 1] for axis in (rows, columns)]
            found[unit][np.ix_(*middle)] = True
        return found.reshape(touched.shape)
