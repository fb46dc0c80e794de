"""What collectives compute, on the arrays of all ranks of a mesh at once, at the dist level and below.

`run_collective` computes any collective attribute: a new one is a function here, under `@computes(ItsAttr)`.  Where an
algorithm is chosen, its steps are run message by message (`stepped.py`), else the definition of the collective.
`Ranked` maps every rank that takes part to its array.  Shards are of equal size, rounded up; where the size of the
whole is not a multiple, the last ones are padded, and gathering drops the padding again.  Padding is zero; in integer
arrays it is `NONE`, a token or expert that does not exist: it embeds to zeros and is dispatched nowhere.  A striped
axis (`Axis.is_striped`) deals out elements in turn and divides evenly.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, MutableMapping, Sequence
from dataclasses import dataclass
from functools import reduce
from typing import Any, TypeVar

import numpy as np
from xdsl.utils.exceptions import VerifyException

from pmc.backends.numeric import routing, stepped
from pmc.backends.numeric.errors import Array, NumericError
from pmc.backends.numeric.padding import padding_of
from pmc.dialects import collective as attrs
from pmc.dialects.analyses.collective_steps import Step, collective_steps
from pmc.dialects.collective import CollectiveAttr, Exchange
from pmc.dialects.dist import DATA, Axis, Mesh, Sharding

Ranked = Mapping[int, Array]


def groups(ranks: Sequence[int], axis: Axis) -> list[tuple[int, ...]]:
    """The groups of `axis` among `ranks`, members in coordinate order.

    Raises NumericError when a member of a group is not among the ranks.
    """
    found = sorted({axis.group(rank) for rank in ranks})
    present = set(ranks)
    for group in found:
        if not present.issuperset(group):
            raise NumericError(f"ranks {group} of axis {axis.name} are not all part of the program")
    return found


def all_reduce(x: Ranked, axis: Axis) -> dict[int, Array]:
    """The sum over every group, on all of its ranks; summed in coordinate order."""
    result: dict[int, Array] = {}
    for group in groups(list(x), axis):
        total = reduce(np.add, [x[rank] for rank in group])
        result.update(dict.fromkeys(group, total))
    return result


def all_gather(x: Ranked, axis: Axis, dim: int, size: int) -> dict[int, Array]:
    """The shards of every group along `dim`, cut to `size`."""
    result: dict[int, Array] = {}
    for group in groups(list(x), axis):
        result.update(dict.fromkeys(group, joined([x[rank] for rank in group], axis, dim, size)))
    return result


def joined(parts: Sequence[Array], axis: Axis, dim: int, size: int) -> Array:
    """The shards of one group along `dim`, in coordinate order, cut to `size`."""
    if axis.is_striped:
        whole = np.stack(parts, axis=dim + 1).reshape(*parts[0].shape[:dim], -1, *parts[0].shape[dim + 1 :])
    else:
        whole = np.concatenate(parts, axis=dim)
    return whole[(slice(None),) * dim + (slice(0, size),)]


def ring_exchange(x: Ranked, axis: Axis) -> dict[int, Array]:
    """On every rank the value of the one before it in its group."""
    return {rank: x[group[i - 1]] for group in groups(list(x), axis) for i, rank in enumerate(group)}


def local_slice(x: Ranked, axis: Axis, dim: int, size: int | None = None) -> dict[int, Array]:
    """The shard of every rank along `dim` of a value that it holds whole.

    `size` is that of a shard where elements stay together, as the queries of a sequence under dp.
    """
    return {rank: shard(values, axis, rank, dim, size) for rank, values in x.items()}


def reduce_scatter(x: Ranked, axis: Axis, dim: int) -> dict[int, Array]:
    """The shard along `dim` of the sum over every group."""
    return local_slice(all_reduce(x, axis), axis, dim)


def shard(values: Array, axis: Axis, rank: int, dim: int, size: int | None = None) -> Array:
    """The part of `values` along `dim` that belongs to a rank, padded to the common size, the least that holds all.

    Raises NumericError where a striped axis does not divide.
    """
    index, count = axis.coordinate(rank), axis.size
    if axis.is_striped:
        if values.shape[dim] % count:
            raise NumericError(f"a dim of {values.shape[dim]} is not a multiple of {axis.name} = {count}")
        return values[(slice(None),) * dim + (slice(index, None, count),)]
    length: int = -(-values.shape[dim] // count) if size is None else size
    part = values[(slice(None),) * dim + (slice(index * length, (index + 1) * length),)]
    padding = [(0, 0)] * values.ndim
    padding[dim] = (0, length - part.shape[dim])
    if part.shape[dim] == length:
        return part
    return np.pad(part, padding, constant_values=padding_of(part))


def dispatch(x: Ranked, indices: Ranked, axis: Axis | None, experts: int, capacity: int) -> dict[int, Array]:
    """The token rows in the slots of the `experts` local experts of every rank; no axis: each rank on its own.

    Rank i of a group holds experts i*experts .. ; slots fill up by source rank, then token.
    """
    result: dict[int, Array] = {}
    for group in groups(list(x), axis) if axis else [(rank,) for rank in x]:
        rows, choices = (np.concatenate([v[rank] for rank in group]) for v in (x, indices))
        for position, rank in enumerate(group):
            result[rank] = routing.dispatch(rows, choices, experts, capacity, position * experts)
    return result


def combine(y_experts: Ranked, indices: Ranked, weights: Ranked, axis: Axis | None) -> dict[int, Array]:
    """The weighted sum of the expert rows of every token, back on the rank of the token."""
    result: dict[int, Array] = {}
    for group in groups(list(y_experts), axis) if axis else [(rank,) for rank in y_experts]:
        rows = np.concatenate([y_experts[rank] for rank in group])
        choices, shares = (np.concatenate([v[rank] for rank in group]) for v in (indices, weights))
        tokens = routing.combine(rows, choices, shares)
        start = 0
        for rank in group:
            count = indices[rank].shape[0]
            result[rank] = tokens[start : start + count]
            start += count
    return result


# -- the collectives of the dialects ----------------------------------------------------------------------------


@dataclass(frozen=True)
class Movement:
    """A collective with its operands by rank, and who takes part."""

    exchange: Exchange
    sources: Sequence[Ranked]
    shapes: Sequence[tuple[int, ...]]
    """Those of the results on one rank."""
    mesh: Mesh
    ranks: Sequence[int]
    channels: MutableMapping[int, Ranked]
    """What stages have sent and others not yet received, by channel, from every sending rank."""

    def axis(self, collective: CollectiveAttr) -> Axis:
        """The axis along which data is exchanged.  Raises NumericError where it stays on its chip."""
        axis = self.optional_axis(collective)
        if axis is None:
            raise NumericError("has no mesh axis")
        return axis

    def steps(self, axis: Axis) -> tuple[Step, ...] | None:
        """The steps of the collective along the axis; None while its algorithm is open.

        Raises NumericError where the algorithm does not fit the group.
        """
        if self.exchange.algorithm is None:
            return None
        try:
            return collective_steps(self.exchange, axis.size)
        except VerifyException as error:
            raise NumericError(str(error)) from None

    def optional_axis(self, collective: CollectiveAttr) -> Axis | None:
        """The axis along which data is exchanged, None where it stays on its chip."""
        return None if collective.mesh_axis is None else self.mesh.axis(collective.mesh_axis)


CollectiveT = TypeVar("CollectiveT", bound=CollectiveAttr)

_COMPUTES: dict[type[CollectiveAttr], Callable[[Any, Movement], Sequence[Ranked]]] = {}


def computes(
    kind: type[CollectiveT],
) -> Callable[
    [Callable[[CollectiveT, Movement], Sequence[Ranked]]], Callable[[CollectiveT, Movement], Sequence[Ranked]]
]:
    """Register the decorated function as what a collective computes: its results by rank."""

    def register(
        function: Callable[[CollectiveT, Movement], Sequence[Ranked]],
    ) -> Callable[[CollectiveT, Movement], Sequence[Ranked]]:
        _COMPUTES[kind] = function
        return function

    return register


def run_collective(path: str, movement: Movement) -> Sequence[Ranked]:
    """The results of a collective by rank.

    Raises NumericError, naming the path, for one without numeric semantics or a movement that cannot be.
    """
    collective = movement.exchange.collective
    function = _COMPUTES.get(type(collective))
    try:
        if function is None:
            raise NumericError("has no numeric semantics")
        return function(collective, movement)
    except NumericError as error:
        raise NumericError(f"{collective.name} at '{path}': {error}") from None


@computes(attrs.AllReduceAttr)
def _all_reduce(c: attrs.AllReduceAttr, run: Movement) -> Sequence[Ranked]:
    axis = run.axis(c)
    steps = run.steps(axis)
    if not steps:
        return [all_reduce(x, axis) for x in run.sources]
    return [stepped.all_reduce(x, groups(list(x), axis), steps) for x in run.sources]


@computes(attrs.AllGatherAttr)
def _all_gather(c: attrs.AllGatherAttr, run: Movement) -> Sequence[Ranked]:
    axis, dim = run.axis(c), c.dim.value.data
    steps, sizes = run.steps(axis), [shape[dim] for shape in run.shapes]
    if not steps:
        return [all_gather(x, axis, dim, size) for x, size in zip(run.sources, sizes, strict=True)]
    gathered = [stepped.all_gather(x, groups(list(x), axis), steps) for x in run.sources]
    return [
        {rank: joined(shards, axis, dim, size) for rank, shards in parts.items()}
        for parts, size in zip(gathered, sizes, strict=True)
    ]


@computes(attrs.ReduceScatterAttr)
def _reduce_scatter(c: attrs.ReduceScatterAttr, run: Movement) -> Sequence[Ranked]:
    axis, dim = run.axis(c), c.dim.value.data
    steps = run.steps(axis)
    if not steps:
        return [reduce_scatter(x, axis, dim) for x in run.sources]
    found: list[Ranked] = []
    for x in run.sources:
        terms = {rank: [shard(term, axis, part, dim) for part in axis.group(rank)] for rank, term in x.items()}
        found.append(stepped.reduce_scatter(terms, groups(list(x), axis), steps))
    return found


@computes(attrs.LocalSliceAttr)
def _local_slice(c: attrs.LocalSliceAttr, run: Movement) -> Sequence[Ranked]:
    dim = c.dim.value.data
    return [local_slice(run.sources[0], run.axis(c), dim, run.shapes[0][dim])]


@computes(attrs.RingExchangeAttr)
def _ring_exchange(c: attrs.RingExchangeAttr, run: Movement) -> Sequence[Ranked]:
    return [ring_exchange(x, run.axis(c)) for x in run.sources]


@computes(attrs.DispatchAttr)
def _dispatch(c: attrs.DispatchAttr, run: Movement) -> Sequence[Ranked]:
    x, indices = run.sources
    experts, capacity, _ = run.shapes[0]
    if (per_node := _ranks_of_node(run)) is not None:
        return [stepped.dispatch(x, indices, groups(list(x), run.axis(c)), (experts, capacity), per_node)]
    return [dispatch(x, indices, run.optional_axis(c), experts, capacity)]


def _ranks_of_node(run: Movement) -> int | None:
    """The ranks of a node where tokens go in copies, 1 for a copy per rank; None for a row per choice."""
    match run.exchange.algorithm:
        case attrs.PerRankAttr():
            return 1
        case attrs.PerNodeAttr() as per_node:
            return per_node.ranks.value.data
        case _:
            return None


@computes(attrs.CombineAttr)
def _combine(c: attrs.CombineAttr, run: Movement) -> Sequence[Ranked]:
    y_experts, indices, weights = run.sources
    if (per_node := _ranks_of_node(run)) is not None:
        return [stepped.combine(y_experts, indices, weights, groups(list(indices), run.axis(c)), per_node)]
    return [combine(y_experts, indices, weights, run.optional_axis(c))]


@computes(attrs.SendAttr)
def _send(c: attrs.SendAttr, run: Movement) -> Sequence[Ranked]:
    run.channels[c.channel.value.data] = dict(run.sources[0])
    return []


@computes(attrs.RecvAttr)
def _recv(c: attrs.RecvAttr, run: Movement) -> Sequence[Ranked]:
    """The value of the rank with the same coordinates in the other stage."""
    sent = run.channels.pop(c.channel.value.data, None)
    if sent is None:
        raise NumericError(f"nothing was sent on channel {c.channel.value.data}")
    stages = run.axis(c)
    return [{rank: sent[stages.group(rank)[c.peer.value.data]] for rank in run.ranks}]


# -- whole arrays and shards ------------------------------------------------------------------------------------


def dim_shard(values: Array, dim: int, axes: Sequence[str], mesh: Mesh, rank: int, unit: int = 1) -> Array:
    """The part of `values` along `dim` that `rank` holds; `unit` elements (the queries of a sequence) stay together.

    Only dp, which comes first, splits in units: the other axes split the elements that it leaves (cp every sequence
    alike, as it divides the unit).
    """
    for name in axes:
        axis = mesh.axis(name)
        if name == DATA and unit > 1:
            shape = values.shape
            split = values.reshape(*shape[:dim], shape[dim] // unit, unit, *shape[dim + 1 :])
            part = shard(split, axis, rank, dim)
            values = part.reshape(*shape[:dim], -1, *shape[dim + 1 :])
        else:
            values = shard(values, axis, rank, dim)
    return values


def whole(x: Ranked, sharding: Sharding, mesh: Mesh, shapes: Sequence[Sequence[int]]) -> Array:
    """The tensor that all ranks hold together.

    `shapes[d]` are the sizes of dim d with none, one, .. of its axes applied.  Raises NumericError when ranks that
    should hold the same values do not.
    """
    values: Ranked = x
    for name in sharding.partial:
        values = all_reduce(values, mesh.axis(name))
    for dim, axes in enumerate(sharding.dims):
        for position in reversed(range(len(axes))):
            values = all_gather(values, mesh.axis(axes[position]), dim, shapes[dim][position])
    first = next(iter(values.values()))
    for rank, held in values.items():
        if not np.allclose(held, first, rtol=1e-6, atol=1e-9):
            raise NumericError(f"rank {rank} holds other values than rank {next(iter(values))} where both hold copies")
    return first
