"""The pass `localize`: from whole tensors with shardings to the shapes of one rank."""

from __future__ import annotations

from dataclasses import dataclass
from math import prod
from typing import ClassVar

from xdsl.dialects.builtin import ArrayAttr, IntegerAttr, ModuleOp, StringAttr, i64
from xdsl.ir import Attribute, Operation, SSAValue
from xdsl.rewriter import Rewriter

from pmc.dialects import dist, layer
from pmc.dialects.assembly import PmcOp
from pmc.dialects.dist import ARGUMENTS, RESULTS, SHARDING, WHOLE, Mesh, MeshAttr, PartialAttr, ShardingAttr, local_dim
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

    def run(self, module: ModuleOp) -> None:
        """Rewrite the types of all values."""
        mesh_attribute = module.attributes[MESH]
        assert isinstance(mesh_attribute, MeshAttr)
        mesh = mesh_attribute.data
        for op in module.walk():
            if isinstance(op, dist.ReshardOp):
                raise PassError(f"{self.name}: dist.reshard at '{op.path.data}' is left; run insert-collectives first")
            self._record_shardings(op, mesh)
        local_types: dict[Attribute, Attribute] = {}
        for op in module.walk():
            for value in (*op.results, *(a for r in op.regions for b in r.blocks for a in b.args)):
                type_ = local_types.get(value.type)
                if type_ is None:
                    type_ = local_types[value.type] = _local_type(value.type, mesh)
                    self._check_blocks(value.type, type_, op)
                if type_ != value.type:
                    Rewriter.replace_value_with_new_type(value, type_)

    def _check_blocks(self, whole_type: Attribute, local: Attribute, op: Operation) -> None:
        """Raise PassError where ranks would share a block of elements with one scale."""
        if not isinstance(whole_type, TensorType) or not isinstance(local, TensorType):
            return
        if not isinstance(local.element_type, ScaledType):
            return
        sides = zip(local.dims[-2:], whole_type.dims[-2:], local.element_type.block, strict=True)
        for (own, whole, size), what in zip(sides, ("rows", "columns"), strict=True):
            if own != whole and own.constant % size:
                path = op.path.data if isinstance(op, PmcOp) else op.name
                raise PassError(
                    f"{self.name}: '{path}' has {own} of its {whole} {what} on a rank, which are no whole groups of "
                    f"{size} with one scale; split it less, keep it in the type of the model, or choose other groups"
                )

    def _record_shardings(self, op: Operation, mesh: Mesh) -> None:
        """Keep what the types are about to lose where tensors enter and leave the program."""
        if isinstance(op, layer.SourceOp):
            op.attributes[SHARDING] = sharding = self._sharding(op.result, op.path.data)
            if isinstance(op, layer.WeightOp) and _is_padded(tensor(op.result), sharding, mesh):
                op.attributes[WHOLE] = ArrayAttr([IntegerAttr(dim.constant, i64) for dim in tensor(op.result).dims])
        elif isinstance(op, layer.ProgramOp):
            block = op.body.block
            op.attributes[ARGUMENTS] = ArrayAttr([self._sharding(a, op.path.data) for a in block.args])
        elif isinstance(op, layer.ReturnOp):
            op.attributes[RESULTS] = ArrayAttr([tensor(v) for v in op.values])
        elif isinstance(op, layer.EmbeddingOp):
            axes = self._sharding(op.table, op.path.data).data.dims[0]
            if axes:
                op.properties["vocab_axis"] = StringAttr(axes[0])

    def _sharding(self, value: SSAValue, path: str) -> ShardingAttr:
        encoding = value.type.encoding if isinstance(value.type, TensorType) else None
        if not isinstance(encoding, ShardingAttr):
            raise PassError(f"{self.name}: '{path}' has no sharding; run annotate-shardings first")
        return encoding


def _is_padded(type_: TensorType, sharding: ShardingAttr, mesh: Mesh) -> bool:
    """Whether the ranks that split a dim do not divide it."""
    splits = zip(type_.dims, sharding.data.dims, strict=True)
    return any(dim.constant % prod(mesh.axis(name).size for name in axes) for dim, axes in splits)


def _local_type(type_: Attribute, mesh: Mesh) -> Attribute:
    if not isinstance(type_, TensorType) or not isinstance(type_.encoding, ShardingAttr):
        return type_
    sharding = type_.encoding.data
    dims = [local_dim(dim, axes, mesh) for dim, axes in zip(type_.dims, sharding.dims, strict=True)]
    return type_.with_dims(dims).with_encoding(PartialAttr(sharding.partial) if sharding.partial else None)
