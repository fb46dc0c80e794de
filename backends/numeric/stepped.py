"""Collectives run step by step, message by message, as their algorithm sends them.

A rank holds a value as its n parts, one for each rank of the group, flat, [n, elements of a part]; what it does not
have yet is marked, and sending it is an error.  Around a ring half of every part goes in either direction.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import reduce
from itertools import pairwise

import numpy as np
import numpy.typing as npt

from pmc.backends.numeric import routing
from pmc.backends.numeric.errors import Array, NumericError
from pmc.dialects.analyses.collective_steps import Step
from pmc.dialects.collective import Phase

Groups = Sequence[tuple[int, ...]]
"""The ranks of every group, in the order of their coordinates."""


def all_reduce(x: Mapping[int, Array], groups: Groups, steps: Sequence[Step]) -> dict[int, Array]:
    """The sum over every group, on all of its ranks."""
    result: dict[int, Array] = {}
    for group in groups:
        terms = [x[rank] for rank in group]
        if steps[0].phase is Phase.BROADCAST:  # every rank has all terms and adds them up in the same order
            result.update(dict.fromkeys(group, reduce(np.add, terms)))
            continue
        held = [_Held.whole(term, len(group)) for term in terms]
        _run(steps, held)
        for rank, own in zip(group, held, strict=True):
            result[rank] = own.joined(x[rank].size).reshape(x[rank].shape)
    return result


def reduce_scatter(x: Mapping[int, Sequence[Array]], groups: Groups, steps: Sequence[Step]) -> dict[int, Array]:
    """The own part of the sum over every group; `x` are the terms, cut into the parts of all ranks."""
    result: dict[int, Array] = {}
    for group in groups:
        held = [_Held(np.stack([part.reshape(-1) for part in x[rank]]), len(group)) for rank in group]
        _run(steps, held)
        for place, rank in enumerate(group):
            result[rank] = held[place].values[place].reshape(x[rank][place].shape)
    return result


def all_gather(x: Mapping[int, Array], groups: Groups, steps: Sequence[Step]) -> dict[int, list[Array]]:
    """On every rank the parts of all ranks of its group."""
    result: dict[int, list[Array]] = {}
    for group in groups:
        held = [_Held.part(x[rank], len(group), place) for place, rank in enumerate(group)]
        _run(steps, held)
        for place, rank in enumerate(group):
            shape = x[rank].shape
            result[rank] = [part.reshape(shape) for part in held[place].all()]
    return result


def dispatch(
    x: Mapping[int, Array], indices: Mapping[int, Array], groups: Groups, slots: tuple[int, int], per_node: int
) -> dict[int, Array]:
    """The slots of the local experts, (experts, capacity), of tokens that were sent once to each rank or node."""
    experts, capacity = slots
    result: dict[int, Array] = {}
    for group in groups:
        choices = [indices[rank] for rank in group]
        sent = token_messages(choices, experts, per_node)
        held = [[np.full_like(x[rank], _UNKNOWN) for rank in group] for _ in group]
        for place, rank in enumerate(group):
            held[place][place] = x[rank]
        for message in sent:
            held[message.target][message.origin][message.token] = held[message.source][message.origin][message.token]
        for place, rank in enumerate(group):
            rows = np.concatenate(held[place])
            result[rank] = routing.dispatch(rows, np.concatenate(choices), experts, capacity, place * experts)
    return result


def combine(
    y_experts: Mapping[int, Array],
    indices: Mapping[int, Array],
    weights: Mapping[int, Array],
    groups: Groups,
    per_node: int,
) -> dict[int, Array]:
    """The weighted sums of expert rows: added up where the experts are, then on its node, then where the token is."""
    result: dict[int, Array] = {}
    for group in groups:
        choices, shares = [indices[rank] for rank in group], [weights[rank] for rank in group]
        ends = np.cumsum([0, *(len(choice) for choice in choices)])
        # held[p][o]: what rank p has of the sums of the tokens of rank o.
        held: list[list[Array]] = []
        for place, rank in enumerate(group):
            rows = y_experts[rank]
            own = routing.combine(rows, np.concatenate(choices), np.concatenate(shares), place * rows.shape[0])
            held.append([own[a:b] for a, b in pairwise(ends)])
        for message in reversed(token_messages(choices, y_experts[group[0]].shape[0], per_node)):
            part = held[message.target][message.origin][message.token]
            held[message.source][message.origin][message.token] += part
        result.update({rank: held[place][place] for place, rank in enumerate(group)})
    return result


_UNKNOWN = np.nan
"""What a rank has of a token that it was not sent: a number that shows in every result."""


@dataclass(frozen=True)
class TokenMessage:
    """A token that goes from one rank to another; ranks are numbered by their place in the group."""

    source: int
    target: int
    origin: int
    """The rank of the token."""
    token: int


def token_messages(choices: Sequence[Array], experts: int, per_node: int) -> list[TokenMessage]:
    """The messages of a dispatch, in an order in which every rank has what it sends; a combine reverses them.

    `choices` are the experts of the tokens of every rank, of which a rank holds `experts`.  A token goes once to every
    other node of `per_node` ranks that holds any of its experts, to the rank in its own place there, and from there
    once to every other rank of the node that holds some.
    """
    found: list[TokenMessage] = []
    for origin, of_tokens in enumerate(choices):
        for token, chosen in enumerate(of_tokens):
            targets = sorted({int(expert) // experts for expert in chosen if expert >= 0})
            landed = {origin}
            for target in targets:
                landing = target // per_node * per_node + origin % per_node
                if landing not in landed:
                    found.append(TokenMessage(origin, landing, origin, token))
                    landed.add(landing)
                if target != landing:
                    found.append(TokenMessage(landing, target, origin, token))
    return found


@dataclass
class _Held:
    """What one rank has of the n parts of a value."""

    values: Array
    ranks: int
    known: npt.NDArray[np.bool_] | None = None
    """Which elements it has; None for all."""

    @classmethod
    def whole(cls, value: Array, ranks: int) -> _Held:
        """All of a value, padded with zeros."""
        size = -(-value.size // ranks)
        flat = np.zeros(size * ranks, value.dtype)
        flat[: value.size] = value.reshape(-1)
        return cls(flat.reshape(ranks, size), ranks)

    @classmethod
    def part(cls, value: Array, ranks: int, place: int) -> _Held:
        """The part of the rank at one place."""
        values = np.zeros((ranks, value.size), value.dtype)
        values[place] = value.reshape(-1)
        held = cls(values, ranks)
        held.keep(place)
        return held

    def keep(self, place: int) -> None:
        """Forget all parts but one: terms that others have added up are of no more use."""
        self.known = np.zeros(self.values.shape, np.bool_)
        self.known[place] = True

    def take(self, parts: npt.NDArray[np.int64], columns: slice) -> Array:
        """A copy of what is sent.  Raises NumericError where it is not there."""
        if self.known is not None and not self.known[parts, columns].all():
            raise NumericError("a rank sends what it does not have")
        return self.values[parts, columns].copy()

    def give(self, phase: Phase, parts: npt.NDArray[np.int64], columns: slice, values: Array) -> None:
        """Add or store what is received."""
        if phase is Phase.REDUCE_SCATTER:
            self.values[parts, columns] += values
            return
        self.values[parts, columns] = values
        if self.known is not None:
            self.known[parts, columns] = True

    def all(self) -> Array:
        """All parts.  Raises NumericError where one is missing."""
        if self.known is not None and not self.known.all():
            raise NumericError("a rank did not receive every part")
        return self.values

    def joined(self, size: int) -> Array:
        """The first `size` elements of all parts."""
        return self.all().reshape(-1)[:size]


def _run(steps: Sequence[Step], held: Sequence[_Held]) -> None:
    """Send all messages of all steps; in one round everybody sends before anybody receives."""
    members = range(len(held))
    before: Phase | None = None
    for step in steps:
        if before is Phase.REDUCE_SCATTER and step.phase is Phase.ALL_GATHER:
            for place in members:
                held[place].keep(place)
        before = step.phase
        width = held[0].values.shape[1]
        for round_ in range(step.rounds):
            messages: list[tuple[int, npt.NDArray[np.int64], slice, Array]] = []
            for member in members:
                for way, distance in enumerate(step.peers):
                    owner = step.part(member, distance, round_)
                    parts = np.asarray(
                        [p for p in members if step.place(p) == owner and p % step.stride == member % step.stride]
                    )
                    # Around a ring every part goes in equal shares in all directions, directly it goes whole.
                    ways = len(step.peers) if step.rounds > 1 else 1
                    columns = slice(way * width // ways, (way + 1) * width // ways) if ways > 1 else slice(0, width)
                    messages.append((step.peer(member, distance), parts, columns, held[member].take(parts, columns)))
            for receiver, parts, columns, values in messages:
                held[receiver].give(step.phase, parts, columns, values)
