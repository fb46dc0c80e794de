"""The pass `localize`: from whole tensors with shardings to the shapes of one rank."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from math import prod
from typing import ClassVar

from xdsl.dialects.builtin import ArrayAttr, IntegerAttr, ModuleOp, StringAttr, i64
from xdsl.ir import Operation, SSAValue

from pmc.dialects import dist, layer
from pmc.dialects.assembly import PmcOp
from pmc.dialects.dist import (
    ARGUMENTS,
    RESULTS,
    SHARDING,
    WHOLE,
    Mesh,
    MeshAttr,
    PartialAttr,
    Sharding,
    ShardingAttr,
    local_dim,
)
from pmc.dialects.levels import MESH, Level
from pmc.dialects.tensor import ScaledType, TensorType, tensor
from pmc.passes.base import PassError, PmcPass


@dataclass(frozen=True)
class LocalizePass(PmcPass):
    """Replace every type by that of the shard of one rank; all ranks run the same program.

        %w = layer.weight() : !layer.tensor<[7168, 24576], bf16, #dist.sharding<[[], [tp]]>>
    becomes, with tp = 8,
        %w = layer.weight() attributes {dist.sharding = ..} : !layer.tensor<[7168, 3072], bf16>

    Weights, caches and arguments keep their sharding as an attribute, results the type of the whole, which says what
    part of the whole they are; a weight that its ranks do not divide keeps its whole dims too (`dist.whole`).  Partial
    sums stay marked in the type.  Assumes that no `dist.reshard` is left.
    """

    name = "localize"
    READS: ClassVar[tuple[Level, ...]] = ("dist",)

    @property
    def reads_sizes(self) -> bool:
        """Shards are as large as their axes are small."""
        return True

    def run(self, module: ModuleOp) -> None:
        """Rewrite the types of all values."""
        mesh = module.attributes[MESH]
        assert isinstance(mesh, MeshAttr)
        LocalTypes(module).on(mesh.data)


class LocalTypes:
    """The types of a module for one rank of any mesh over which its values are sharded as they are."""

    def __init__(self, module: ModuleOp) -> None:
        """Keeps the shardings where tensors enter and leave the program.  Raises PassError for a reshard."""
        self.types: dict[TensorType, _ShardedType] = {}
        """By the type of the whole tensor."""
        self.weights: list[tuple[layer.WeightOp, TensorType, ShardingAttr]] = []
        for op in module.walk():
            if isinstance(op, dist.ReshardOp):
                raise PassError(
                    f"{LocalizePass.name}: dist.reshard at '{op.path.data}' is left; run insert-collectives first"
                )
            _record_shardings(op)
            if isinstance(op, layer.WeightOp):
                self.weights.append((op, tensor(op.result), _sharding(op.result, op.path.data)))
            for value in (*op.results, *(a for r in op.regions for b in r.blocks for a in b.args)):
                type_ = value.type
                if isinstance(type_, TensorType) and isinstance(type_.encoding, ShardingAttr):
                    if type_ not in self.types:
                        self.types[type_] = _ShardedType(type_, type_.encoding.data, op)
                    self.types[type_].values.append(value)

    def on(self, mesh: Mesh) -> None:
        """Give every value the type of the shard of one rank.

        Raises PassError where ranks would share a block of elements with one scale.
        """
        for op, whole, sharding in self.weights:
            if _is_padded(whole, sharding, mesh):
                op.attributes[WHOLE] = ArrayAttr([IntegerAttr(dim.constant, i64) for dim in whole.dims])
            else:
                op.attributes.pop(WHOLE, None)
        sizes = {axis.name: axis.size for axis in mesh.axes}
        for sharded in self.types.values():
            local = sharded.on(mesh, sizes)
            for value in sharded.values:
                value._type = local  # pyright: ignore[reportPrivateUsage]  # the value stays the one that others know


class _ShardedType:
    """The type of a whole tensor with a sharding, and its types on meshes."""

    def __init__(self, whole: TensorType, sharding: Sharding, op: Operation) -> None:
        self.whole = whole
        self.sharding = sharding
        self.op = op
        """The first that has a value of the type."""
        self.values: list[SSAValue] = []
        self.axes = [name for axes in sharding.dims for name in axes]
        self.local: dict[tuple[int, ...], TensorType] = {}
        """By the sizes of the axes that split it."""

    def on(self, mesh: Mesh, sizes: Mapping[str, int]) -> TensorType:
        """The type of the shard of one rank; `sizes` are those of the axes of the mesh."""
        key = tuple(sizes[name] for name in self.axes)
        if key not in self.local:
            splits = zip(self.whole.dims, self.sharding.dims, strict=True)
            encoding = PartialAttr(self.sharding.partial) if self.sharding.partial else None
            local = self.whole.with_dims([local_dim(dim, axes, mesh) for dim, axes in splits]).with_encoding(encoding)
            _check_blocks(self.whole, local, self.op)
            self.local[key] = local
        return self.local[key]


def _check_blocks(whole_type: TensorType, local: TensorType, op: Operation) -> None:
    """Raise PassError where ranks would share a block of elements with one scale."""
    if not isinstance(local.element_type, ScaledType):
        return
    sides = zip(local.dims[-2:], whole_type.dims[-2:], local.element_type.block, strict=True)
    for (own, whole, size), what in zip(sides, ("rows", "columns"), strict=True):
        if own != whole and own.constant % size:
            path = op.path.data if isinstance(op, PmcOp) else op.name
            raise PassError(
                f"{LocalizePass.name}: '{path}' has {own} of its {whole} {what} on a rank, which are no whole groups "
                f"of {size} with one scale; split it less, keep it in the type of the model, or choose other groups"
            )


def _record_shardings(op: Operation) -> None:
    """Keep what the types are about to lose where tensors enter and leave the program."""
    if isinstance(op, layer.SourceOp):
        op.attributes[SHARDING] = _sharding(op.result, op.path.data)
    elif isinstance(op, layer.ProgramOp):
        block = op.body.block
        op.attributes[ARGUMENTS] = ArrayAttr([_sharding(a, op.path.data) for a in block.args])
    elif isinstance(op, layer.ReturnOp):
        op.attributes[RESULTS] = ArrayAttr([tensor(v) for v in op.values])
    elif isinstance(op, layer.EmbeddingOp):
        axes = _sharding(op.table, op.path.data).data.dims[0]
        if axes:
            op.properties["vocab_axis"] = StringAttr(axes[0])


def _sharding(value: SSAValue, path: str) -> ShardingAttr:
    encoding = value.type.encoding if isinstance(value.type, TensorType) else None
    if not isinstance(encoding, ShardingAttr):
        raise PassError(f"{LocalizePass.name}: '{path}' has no sharding; run annotate-shardings first")
    return encoding


def _is_padded(type_: TensorType, sharding: ShardingAttr, mesh: Mesh) -> bool:
    """Whether the ranks that split a dim do not divide it."""
    splits = zip(type_.dims, sharding.data.dims, strict=True)
    return any(dim.constant % prod(mesh.axis(name).size for name in axes) for dim, axes in splits)
