"""The moves of TACS as the rows of an overlay."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Literal

import numpy as np

from pmc.dialects.analyses.event_state import EventSetting, EventState
from pmc.dialects.analyses.overlays import Overlay
from pmc.dialects.table import Table, TableSchema
from pmc.dialects.table_columns import Column, ListColumn, Lists, NumberColumn, TextColumn, Texts, Values
from pmc.dialects.trace_tables import MIGRATE, REROUTE, WEIGHT

Kind = Literal["reroute", "replicate"]


@dataclass(frozen=True)
class Move:
    """A move of an expert's work."""

    kind: Kind
    expert: int
    source: int
    target: int
    mbs: tuple[int, ...]
    """Micro-batches that a reroute takes."""
    shift_ns: Mapping[int, float]
    """By core the work that comes to it in the next window, or leaves it, as time at the fastest clock."""
    worth: float = 0.0
    """What it takes off the pressure, less the cost of hops and bytes."""
    heat: float = 0.0
    """The cost of the temperature of its target."""
    cost: float = 0.0
    """All of it."""


Row = tuple[Any, ...]


class OverlayRows:
    """Writes overlays for one run, in which every shard of weights has `shard_bytes`."""

    def __init__(self, setting: EventSetting, shard_bytes: int) -> None:
        self._setting = setting
        self._shard_bytes = shard_bytes
        self._names = {number: name for name, number in setting.experts.items()}
        self._shards: dict[int, list[int]] = {number: [] for number in self._names}
        for name, tensor in setting.tensors.items():
            match = WEIGHT.fullmatch(name)
            if match is not None and match["expert"] in setting.experts:
                self._shards[setting.experts[match["expert"]]].append(tensor)
        self._owner = {tensor: expert for expert, tensors in self._shards.items() for tensor in tensors}
        self._tensor_names = {tensor: name for name, tensor in setting.tensors.items()}

    def bytes_that_move(self, expert: int) -> int:
        """Bytes of the half of the weights that goes to the banks at a new core."""
        return len(self._shards[expert]) // 2 * self._shard_bytes

    def on_their_way(self, state: EventState) -> set[int]:
        """Experts of which weights are moving."""
        return {self._owner[move.tensor] for move in state.moves if move.tensor in self._owner}

    def overlay(self, now: int, state: EventState, moves: Sequence[Move], taken: Sequence[tuple[int, int]]) -> Overlay:
        """The overlay of moves, and of experts taken from cores, whose weights there go back to the first core."""
        used = {int(bank) for bank in state.tensor_bank} | {move.target for move in state.moves}
        reroutes: list[Row] = []
        migrations: list[Row] = []
        for move in moves:
            name = self._names[move.expert]
            if move.kind == "reroute":
                row = (now, name, move.source, move.target, list(move.mbs), "hot_core", move.worth)
                reroutes.append(row)
            else:
                migrations.append((now, "expert", name, "", f"C{move.target}", 0, move.cost))
                shards = self._shards[move.expert][1::2]
                migrations += self._weights(now, shards, move.target, state, used, move.cost)
        for expert, core in taken:
            migrations.append((now, "expert", self._names[expert], f"C{core}", "", 0, 0.0))
            at = self._setting.chip.core_of_bank
            shards = [tensor for tensor in self._shards[expert] if int(at[state.tensor_bank[tensor]]) == core]
            home = next(int(c) for c in state.expert_cores[expert] if c not in (-1, core))
            migrations += self._weights(now, shards, home, state, used, 0.0)
        return Overlay(state.window, state.committed, _table(REROUTE, reroutes), _table(MIGRATE, migrations))

    def _weights(
        self, now: int, shards: Sequence[int], core: int, state: EventState, used: set[int], cost: float
    ) -> list[Row]:
        """Moves of shards to banks at a core that hold nothing, far from each other; without a bank a shard stays."""
        chip = self._setting.chip
        free: list[int] = [bank for bank in chip.banks_at_core[core].tolist() if bank not in used]
        apart = free[:: max(1, len(free) // max(1, len(shards)))]
        rows: list[Row] = []
        for tensor, bank in zip(shards, apart, strict=False):
            used.add(bank)
            lies = chip.bank_names[int(state.tensor_bank[tensor])]
            name = self._tensor_names[tensor]
            rows.append((now, "weight", name, lies, chip.bank_names[bank], self._shard_bytes, cost))
        return rows


def _table(schema: TableSchema, rows: Sequence[Row]) -> Table:
    return Table.of(schema, [_values(column, [row[i] for row in rows]) for i, column in enumerate(schema.columns)])


def _values(column: Column, values: Sequence[Any]) -> Values:
    match column:
        case TextColumn():
            return Texts.of(values)
        case ListColumn():
            flat = [int(item) for row in values for item in row]
            return Lists(np.cumsum([0, *map(len, values)]), np.array(flat, np.int64))
        case NumberColumn():
            return np.array(values, np.float64)
        case _:
            return np.array(values, np.int64)
