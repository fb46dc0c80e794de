"""From the arrays of a whole model to those that the ranks of a mesh hold, and back."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np

from pmc.backends.numeric import collectives
from pmc.backends.numeric.collectives import Ranked
from pmc.backends.numeric.environment import Environment, evaluate_dims
from pmc.backends.numeric.errors import Array, NumericError
from pmc.dialects.dist import PIPELINE, Mesh, Sharding, local_dim
from pmc.dialects.tensor import TensorType


@dataclass(frozen=True)
class Layout:
    """How the ranks hold a value: the type of the whole, and which axes split it."""

    type: TensorType
    sharding: Sharding


def dim_sizes(layout: Layout, mesh: Mesh, bindings: Mapping[str, int], place: str) -> list[tuple[int, ...]]:
    """For every dim its size with none, one, .. of its axes applied."""
    return [
        evaluate_dims([local_dim(dim, axes[:n], mesh) for n in range(len(axes) + 1)], bindings, place)
        for dim, axes in zip(layout.type.dims, layout.sharding.dims, strict=True)
    ]


def put_together(ranked: Ranked, layout: Layout, mesh: Mesh, bindings: Mapping[str, int], place: str) -> Array:
    """The whole value of a layout, from the ranks of one stage.  Raises NumericError, naming `place`."""
    try:
        return collectives.whole(ranked, layout.sharding, mesh, dim_sizes(layout, mesh, bindings, place))
    except NumericError as error:
        raise NumericError(f"'{place}': {error}") from None


def cut(values: Array, sharding: Sharding, mesh: Mesh, rank: int, unit: int = 1) -> Array:
    """The part of `values` that `rank` holds; dp keeps `unit` rows of the first dim together."""
    for dim, axes in enumerate(sharding.dims):
        values = collectives.dim_shard(values, dim, axes, mesh, rank, unit if dim == 0 else 1)
    return values


def cut_tokens(tokens: Array, bindings: Mapping[str, int], sharding: Sharding, mesh: Mesh, rank: int) -> Array:
    """The token ids of the sequences of a rank."""
    return cut(tokens, sharding, mesh, rank, len(tokens) // bindings["batch"])


def whole_state(before: Array, held: Ranked, sharding: Sharding, mesh: Mesh) -> Array:
    """A cache [.., batch, kv_len, width] of all layers after a step.

    `sharding` covers the leading layer dims too.  Every stage changes its own layers only, so the result is `before`
    with what any stage changed.
    """
    sizes = [
        _sizes(size, [mesh.axis(a).size for a in axes]) for size, axes in zip(before.shape, sharding.dims, strict=True)
    ]
    axis = mesh.axis(PIPELINE)
    stages: dict[int, dict[int, Array]] = {}
    for rank, values in held.items():
        stages.setdefault(axis.coordinate(rank), {})[rank] = values
    result = before.copy()
    for ranked in stages.values():
        after = collectives.whole(ranked, sharding, mesh, sizes)
        changed = after != before
        result[changed] = after[changed]
    return result


def _sizes(size: int, ways: Sequence[int]) -> list[int]:
    """A size with none, one, .. of its axes applied."""
    sizes = [size]
    for way in ways:
        sizes.append(-(-sizes[-1] // way))
    return sizes


# -- the arrays of tile and command programs --------------------------------------------------------------------


@dataclass(frozen=True)
class Placed:
    """An array of every rank, as the `tile.global`s or `g5.array`s of a path describe it.

    `dims` count all layers of the model: a pipeline stage has a part of them in its DRAM.
    """

    path: str
    kind: str
    dims: tuple[int, ...]
    layers: bool
    sharding: Sharding | None

    def full_sharding(self) -> Sharding:
        """The sharding with the leading layer dim, which is never split."""
        if self.sharding is None:
            raise NumericError(f"{self.kind} '{self.path}' has no sharding")
        return Sharding((*((),) * self.layers, *self.sharding.dims))


def local_arrays(placed: Sequence[Placed], environment: Environment, mesh: Mesh) -> dict[str, Array]:
    """The inputs of all ranks by path, [ranks, *dims], the token ids in the order in which `placed` has them.

    Raises NumericError for a missing or misshapen array.
    """
    arrays: dict[str, Array] = {}
    inputs = [array for array in placed if array.kind == "input"]
    if len(inputs) != len(environment.inputs):
        raise NumericError(f"the program has {len(inputs)} inputs, there are {len(environment.inputs)}")
    given = dict(zip(inputs, environment.inputs, strict=True))
    for array in placed:
        sharding = array.full_sharding()
        if array.kind == "input":
            tokens, bindings = given[array], environment.bindings
            parts = [cut_tokens(tokens, bindings, sharding, mesh, rank) for rank in range(mesh.ranks)]
        else:
            held = environment.weights if array.kind == "weight" else environment.states
            if array.path not in held:
                raise NumericError(f"no array for {array.kind} '{array.path}'")
            parts = [cut(held[array.path], sharding, mesh, rank) for rank in range(mesh.ranks)]
        stacked = np.stack(parts)
        if stacked.shape[1:] != array.dims:
            raise NumericError(
                f"{array.kind} '{array.path}' is {list(stacked.shape[1:])} on a rank, must be {list(array.dims)}"
            )
        arrays[array.path] = stacked
    return arrays
