"""The links between chips: which of them a message crosses, how fast each is, and how long the way takes.

On a board the wiring says what a message crosses (see `backends/cost/network.py`): the link of the sender to a switch
and that of the receiver from it, the one link to the receiver, or the links of a ring on the shorter way.  Off the
board it is one link of the sender and one of the receiver, of the level that both span.  A message also leaves by the
ports of its chip, which carry `c2c.gb_per_s` together.  Each of these serves one after the other what comes to it;
payload reaches `bandwidth_utilisation` of its bandwidth.
"""

from __future__ import annotations

from dataclasses import dataclass
from functools import cache

from pmc.backends.cost.network import LEVELS, Load, Network
from pmc.dialects.arch import Chip, LinkLevel

LinkName = tuple[str, int, int]
"""Level and direction, and the chips or the board that it belongs to."""


@dataclass(frozen=True)
class Route:
    """The way of a message."""

    links: tuple[tuple[LinkName, float], ...]
    """Every link, with its bytes per second of payload."""
    load: Load
    """The level that it goes over, and the links of a board that it crosses."""


class Links:
    """The routes between the chips of a network."""

    def __init__(self, network: Network, chip: Chip) -> None:
        self.network, self.topology = network, network.topology
        self.ports_bytes_per_s = chip.c2c.gb_per_s * 1e9 * self.topology.bandwidth_utilisation
        self.route = cache(self._route)

    def _route(self, source: int, target: int) -> Route:
        """The way from one chip to another."""
        level = self._level(source, target)
        rate = self.topology.link(level).gb_per_s * 1e9 * self.topology.bandwidth_utilisation
        ports = (("ports", source, 0), self.ports_bytes_per_s)
        chips = self.topology.chips_per_board
        if level != LEVELS[0] or self.topology.board_wiring == "switch":
            pair = ((f"{level} out", source, 0), rate), ((f"{level} in", target, 0), rate)
            return Route((ports, *pair), Load(level, 1.0, 1))
        if self.topology.board_wiring == "full_mesh":
            return Route((ports, ((level, source, target), rate / max(1, chips - 1))), Load(level, 1.0, 1))
        board, ahead = source // chips * chips, (target - source) % chips
        # Half way around, even chips go one way and odd ones the other.
        forward = 2 * ahead < chips or (2 * ahead == chips and source % 2 == 0)
        hops, way = (ahead, 1) if forward else (chips - ahead, -1)
        crossed = [board + (source - board + way * hop) % chips for hop in range(hops)]
        share = min(2, chips - 1)
        ring = tuple(((f"{level} {way:+d}", via, 0), rate / share) for via in crossed)
        return Route((ports, *ring), Load(level, 1.0, hops))

    def _level(self, source: int, target: int) -> LinkLevel:
        for level, span in zip(LEVELS, self.network.spans, strict=True):
            if source // span == target // span:
                return level
        raise AssertionError(f"chips {source} and {target} are in no installation together")
