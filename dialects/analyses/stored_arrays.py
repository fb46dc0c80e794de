"""The weights and caches that a tensor program keeps in DRAM: every array once, however often the program names it.

An op `layer.weight` or `layer.state` names an array by its path.  Inside a repeat it means the part of one layer; the
array has all layers.  Ops of one path on different shardings name different arrays, and a transposed weight is the
array that it is the transpose of.  A pipeline stage stores the layers that it runs.  Applications of a draft layer one
after the other see a longer part of its cache each.
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from math import prod
from typing import Literal, NamedTuple

from xdsl.ir import Operation

from pmc.dialects import layer
from pmc.dialects.dist import SHARDING, Sharding, ShardingAttr
from pmc.dialects.errors import PmcError
from pmc.dialects.expr import Expr
from pmc.dialects.tensor import TensorType, shape_text, tensor

StoredKind = Literal["weight", "state"]


class ArrayKey(NamedTuple):
    """What tells two arrays of a program apart."""

    path: str
    sharding: Sharding | None


@dataclass(frozen=True)
class StoredArray:
    """A weight or cache as a program, or one of its pipeline stages, stores it."""

    key: ArrayKey
    kind: StoredKind
    type: TensorType
    """Of one layer, in the shapes of the program: of the whole model before `localize`, then of one rank."""
    axes: tuple[str, ...]
    """The logical axis of every dim of one layer, '' for none."""
    role: str | None
    """What the tensor is, as its op declares it."""
    below: int | None
    """What all entries of a table of integers are below."""
    layer_counts: tuple[int, ...]
    """How many layers the whole model stores: one number, or () outside of repeats over layers."""
    layers: range
    """The layers that are stored here; one layer outside of repeats."""
    grows: bool
    """Whether `layer.kv_append` adds tokens to it."""
    op: layer.SourceOp
    """The first op that names the array."""

    @property
    def path(self) -> str:
        """The name of the parameter or cache."""
        return self.key.path

    @property
    def is_part(self) -> bool:
        """Whether the whole model has more layers of this path."""
        return bool(self.layer_counts) and len(self.layers) < self.layer_counts[0]

    @property
    def copies(self) -> int:
        """How many tensors of `type` are stored: one per layer."""
        return len(self.layers)

    @property
    def bytes(self) -> Expr:
        """The bytes of all layers that are stored here."""
        return self.copies * self.type.bytes


def array_key(op: layer.SourceOp) -> ArrayKey:
    """The array that an op names."""
    sharding = op.attributes.get(SHARDING)
    held = sharding.data if isinstance(sharding, ShardingAttr) else None
    if not _is_transposed(op):
        return ArrayKey(op.path.data, held)
    return ArrayKey(_stored_path(op), None if held is None else Sharding(held.dims[::-1]))


def stored_arrays(scope: Operation) -> dict[ArrayKey, StoredArray]:
    """The arrays that a program or a stage stores, in the order in which it first names them.

    Raises PmcError where two ops need one array in different shapes.
    """
    found: dict[ArrayKey, StoredArray] = {}
    for op in scope.walk():
        if isinstance(op, layer.SourceOp):
            named = _named_by(op)
            known = found.get(named.key)
            if known is None:
                found[named.key] = named
                continue
            known = _together(op, known, named)
            layers = range(min(known.layers.start, named.layers.start), max(known.layers.stop, named.layers.stop))
            found[named.key] = replace(known, layers=layers, grows=known.grows or named.grows)
    return found


def _named_by(op: layer.SourceOp) -> StoredArray:
    """The array as one op alone says it is."""
    axes = op.axis_names()[::-1] if _is_transposed(op) else op.axis_names()
    repeats = _layer_repeats(op)
    first: int | None = None
    last: int | None = None
    if repeats and repeats[-1].shares is not None:
        repeats = repeats[-1:]  # its layers are numbered through
    for repeat in repeats:
        begin = repeat.first.value.data
        first = repeat.layer_after(first, begin)
        last = repeat.layer_after(last, begin + repeat.trip_count - 1)
    return StoredArray(
        key=array_key(op),
        kind="weight" if isinstance(op, layer.WeightOp) else "state",
        type=stored_type(op),
        axes=axes,
        role=None if op.role is None else op.role.data,
        below=op.below.value.data if isinstance(op, layer.WeightOp) and op.below is not None else None,
        layer_counts=(prod(repeat.total.value.data for repeat in repeats),) if repeats else (),
        layers=range(1) if first is None or last is None else range(first, last + 1),
        grows=any(isinstance(use.operation, layer.KvAppendOp) for use in op.result.uses),
        op=op,
    )


def stored_type(op: layer.SourceOp) -> TensorType:
    """The type of one layer of the array that an op names."""
    type_ = tensor(op.result)
    return type_.with_dims(type_.dims[::-1]) if _is_transposed(op) else type_


def _together(op: layer.SourceOp, known: StoredArray, named: StoredArray) -> StoredArray:
    """The array that is both: of a cache with tokens added to it, of which ops see a beginning, the longest."""
    if (known.kind, known.layer_counts) == (named.kind, named.layer_counts):
        mine, other = known.type.dims, named.type.dims
        if mine == other:
            return known
        if known.grows and named.grows and len(mine) == len(other) and mine[::2] == other[::2]:
            longer = other[1] - mine[1]
            if longer.is_constant:
                return known if longer.constant < 0 else replace(known, type=named.type)
    raise PmcError(
        f"{op.name} at '{op.path.data}' needs {_described(named)}, another op needs {_described(known)}; "
        "one array has one shape"
    )


def _described(array: StoredArray) -> str:
    layers = "".join(f"{count} x " for count in array.layer_counts)
    return f"{array.kind} '{array.path}' as {layers}{shape_text(array.type.dims)}"


def _layer_repeats(op: Operation) -> list[layer.RepeatOp]:
    """The repeats over layers around an op, outermost first."""
    found: list[layer.RepeatOp] = []
    parent = op.parent_op()
    while parent is not None:
        if isinstance(parent, layer.RepeatOp) and parent.is_layers:
            found.insert(0, parent)
        parent = parent.parent_op()
    return found


def _is_transposed(op: layer.SourceOp) -> bool:
    return isinstance(op, layer.WeightOp) and op.transpose_of is not None


def _stored_path(op: layer.SourceOp) -> str:
    assert isinstance(op, layer.WeightOp) and op.transpose_of is not None
    return op.transpose_of.data
