"""Appends the layer ops of one model block."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

from xdsl.dialects.builtin import ArrayAttr, DictionaryAttr, StringAttr, UnitAttr
from xdsl.ir import Attribute, Block, SSAValue

from pmc.dialects import layer, model
from pmc.dialects.assembly import PmcOp, PropertyValue
from pmc.dialects.expr import Expr, expr
from pmc.dialects.tensor import TensorType, tensor

BATCH, Q_LEN, KV_LEN = expr("batch"), expr("q_len"), expr("kv_len")
TOKENS = BATCH * Q_LEN


class BlockBuilder:
    """Builds the expansion of `source` at the end of `block`, with paths below its path, and its weights."""

    def __init__(self, block: Block, source: model.BlockOp) -> None:
        self.block = block
        self.source = source
        self.specs = {spec.name: spec for spec in source.weights()}
        self.caches = {spec.name: spec for spec in source.caches()}
        self.states = {spec.name: spec for spec in source.states()}
        self.weights: dict[str, SSAValue] = {}

    def path(self, name: str) -> str:
        """The path of `name` below the block; the block itself for ''."""
        return f"{self.source.path.data}.{name}" if name else self.source.path.data

    def tensor_type(self, *dims: Expr | int, element_type: Attribute | None = None) -> TensorType:
        """A tensor of the model's element type, or of another one."""
        return TensorType.of(dims, element_type or self.source.dtype)

    def ops(
        self,
        kind: type[PmcOp],
        operands: Sequence[SSAValue | Sequence[SSAValue]],
        name: str,
        types: Sequence[Attribute],
        properties: Mapping[str, PropertyValue] | None = None,
    ) -> list[SSAValue]:
        """Append an op; its results."""
        op = kind.make(operands, types, self.path(name), properties, like=self.source)
        self.block.add_op(op)
        return list(op.results)

    def op(
        self,
        kind: type[PmcOp],
        operands: Sequence[SSAValue | Sequence[SSAValue]],
        name: str,
        result: Attribute,
        properties: Mapping[str, PropertyValue] | None = None,
    ) -> SSAValue:
        """Append an op of one result."""
        return self.ops(kind, operands, name, [result], properties)[0]

    # -- sources ---------------------------------------------------------------------------------------------

    def weight(self, name: str) -> SSAValue:
        """The parameter of that name, defined at its first use."""
        if name not in self.weights:
            spec = self.specs[name]
            properties: dict[str, PropertyValue] = {
                "axes": _axes(spec.axes),
                "role": spec.role,
                "transpose_of": spec.transpose_of,
                "below": spec.below,
            }
            result = self.tensor_type(*spec.dims, element_type=spec.element_type)
            op = layer.WeightOp.make([], [result], self.source.path_of(spec), properties, like=self.source)
            self.block.add_op(op)
            self.weights[name] = op.result
        return self.weights[name]

    def state(self, name: str) -> SSAValue:
        """The state [batch, rows, columns] of that name, which the step replaces."""
        spec = self.states[name]
        properties: dict[str, PropertyValue] = {"axes": _axes(("batch", *spec.axes)), "role": spec.role}
        result = self.tensor_type(BATCH, *spec.dims, element_type=spec.element_type)
        return self.op(layer.StateOp, [], name, result, properties)

    def appended(self, name: str, new: SSAValue) -> SSAValue:
        """The cache [batch, rows, width] called `name` with new rows appended; rows follow from its spec."""
        spec = self.caches[f"{name}_cache"]
        positions = spec.rows(Q_LEN, KV_LEN)
        cache_type = self.tensor_type(BATCH, positions, spec.width)
        properties: dict[str, PropertyValue] = {"axes": _axes(("batch", spec.row_axis, spec.axis)), "role": spec.role}
        cache = self.op(layer.StateOp, [], spec.name, cache_type, properties)
        return self.op(layer.KvAppendOp, [cache, new], f"{name}_append", cache_type)

    # -- tensor ops ------------------------------------------------------------------------------------------

    def matmul(self, x: SSAValue, name: str, element_type: Attribute | None = None) -> SSAValue:
        """x times the weight of projection `name`, which may be one per expert."""
        w = self.weight(f"{name}.weight")
        kind = layer.GroupedMatmulOp if len(tensor(w).dims) == 3 else layer.MatmulOp
        result = self.tensor_type(*tensor(x).dims[:-1], tensor(w).dims[-1], element_type=element_type)
        return self.op(kind, [x, w], name, result)

    def linear(self, x: SSAValue, name: str) -> SSAValue:
        """x times the weight of projection `name`, plus its bias if it has one."""
        y = self.matmul(x, name)
        return self.add_bias(y, f"{name}.bias") if f"{name}.bias" in self.specs else y

    def add_bias(self, x: SSAValue, bias: str) -> SSAValue:
        """x plus the parameter called `bias`, in every row."""
        return self.op(layer.AddBiasOp, [x, self.weight(bias)], f"{bias}_add", x.type)

    def norm(self, x: SSAValue, name: str, eps: PropertyValue) -> SSAValue:
        """The RMSNorm called `name`, with a gain of that name."""
        return self.rms_norm(x, name, f"{name}.weight", eps)

    def rms_norm(self, x: SSAValue, name: str, gain: str, eps: PropertyValue, zero_centered: bool = False) -> SSAValue:
        """RMSNorm over as many columns as the gain has: the whole row, or each head."""
        w = self.weight(gain)
        properties: dict[str, PropertyValue] = {"eps": eps, "group": tensor(w).dims[0].constant}
        if zero_centered:
            properties["zero_centered"] = UnitAttr()
        return self.op(layer.RmsNormOp, [x, w], name, x.type, properties)

    def rms_normalize(self, x: SSAValue, name: str, group: int, eps: PropertyValue) -> SSAValue:
        """RMSNorm of every `group` columns, without a gain."""
        return self.op(layer.RmsNormOp, [x], name, x.type, {"eps": eps, "group": group})

    def slice(self, x: SSAValue, name: str, group: int, offset: int, size: int) -> SSAValue:
        """Columns `offset .. offset+size` of every `group` columns."""
        dims = tensor(x).dims
        width = dims[-1].constant // group * size
        properties = {"group": group, "offset": offset, "size": size}
        result = self.tensor_type(*dims[:-1], width, element_type=tensor(x).element_type)
        return self.op(layer.SliceOp, [x], name, result, properties)

    def rope(
        self,
        x: SSAValue,
        name: str,
        head_dim: int,
        theta: Attribute | None,
        scaling: DictionaryAttr | None,
        interleaved: bool,
        rotary_dim: PropertyValue = None,
        **changes: PropertyValue,
    ) -> SSAValue:
        """Rotary embedding of every head, or of its first `rotary_dim` columns; `changes` are other properties."""
        assert theta is not None, "verified: who is rotated has a base"
        properties: dict[str, PropertyValue] = {
            "head_dim": head_dim,
            "theta": theta,
            "interleaved": interleaved,
            "q_len": Q_LEN,
            "kv_len": KV_LEN,
            "scaling": scaling,
            "rotary_dim": rotary_dim,
            **changes,
        }
        return self.op(layer.RopeOp, [x], name, x.type, properties)

    def add(self, a: SSAValue, b: SSAValue, name: str) -> SSAValue:
        """a + b."""
        return self.op(layer.AddOp, [a, b], name, a.type)


def _axes(names: Sequence[str]) -> ArrayAttr[StringAttr]:
    return ArrayAttr([StringAttr(name) for name in names])
