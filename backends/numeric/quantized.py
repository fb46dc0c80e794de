"""What a model computes in the number formats of a deployment: the reference for `quantize`, which it does not share.

It runs a layer program in the model's own element type, every result rounded to it, and rounds further where a
`Quantization` says: the weights of products, except tied ones and those that a pattern keeps; the activations of these
products; new rows of a cache, and what a cache held before; queries, keys and values where they are longer than the
type of attention.  A value is never rounded to a format that is not shorter.  Rounding twice to one format is rounding
once and the rows of a dispatch are those of its tokens, so it does not matter where a pass puts the conversions: the
results are equal to the last bit.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from fnmatch import fnmatchcase

from xdsl.dialects.builtin import ModuleOp
from xdsl.ir import Operation, SSAValue

from pmc.backends.numeric.environment import Environment
from pmc.backends.numeric.errors import Array
from pmc.backends.numeric.layer import LayerMachine, LayerRun, the_program
from pmc.backends.numeric.precision import EMULATED, EXACT64, Precision, round_to
from pmc.dialects import layer
from pmc.dialects.deployment import Quantization
from pmc.dialects.tensor import element_name, tensor

BITS = {"f32": 32, "bf16": 16, "f16": 16, "f8E4M3FN": 8, "f8E5M2": 8, "f4E2M1FN": 4, "i8": 8, "i4": 4}

Product = layer.MatmulOp | layer.GroupedMatmulOp | layer.HeadMatmulOp


def run_quantized(module: ModuleOp, environment: Environment, quantization: Quantization) -> LayerRun:
    """Run the one program of a module that `quantize` has not seen in the formats of `quantization`, in FP32."""
    return _Machine(environment, EMULATED, False, quantization=quantization).run(the_program(module))


def in_format(environment: Environment, name: str) -> Environment:
    """The same inputs with weights and caches as a checkpoint in format `name` holds them."""

    def held(arrays: Mapping[str, Array]) -> dict[str, Array]:
        return {path: _rounded(values, name, EXACT64) for path, values in arrays.items()}

    return replace(environment, weights=held(environment.weights), states=held(environment.states))


@dataclass
class _Machine(LayerMachine):
    """The run; `formats` are those of the values that come from caches, all others have the model's."""

    quantization: Quantization | None = None
    formats: dict[SSAValue, str] = field(default_factory=dict[SSAValue, str])

    def run_op(self, op: Operation, operands: list[Array]) -> tuple[Array, ...]:
        """Round the operands that are held in a shorter format, then compute."""
        rule = self.quantization
        assert rule is not None
        if isinstance(op, Product) and (parameter := _parameter(op.w)) is not None:
            tied = parameter.transpose_of is not None
            if not tied and not any(fnmatchcase(parameter.path.data, pattern) for pattern in rule.keep):
                operands[1] = self.shorter(op.w, operands[1], rule.weights)
                operands[0] = self.shorter(op.x, operands[0], rule.activations)
        elif isinstance(op, layer.KvAppendOp):
            operands = [self.shorter(v, x, rule.kv_cache) for v, x in zip(op.operands, operands, strict=True)]
            self.formats[op.y] = min((self.format(op.cache), rule.kv_cache), key=BITS.__getitem__)
        elif isinstance(op, layer.AttentionOp):
            operands = [self.shorter(v, x, rule.attention) for v, x in zip(op.operands, operands, strict=True)]
        results = super().run_op(op, operands)
        if isinstance(op, layer.KvAppendOp):
            results = (_rounded(results[0], self.formats[op.y], self.precision),)
        return results

    def format(self, value: SSAValue) -> str:
        """The format that a value is held in."""
        return self.formats.get(value, element_name(tensor(value).element_type))

    def shorter(self, value: SSAValue, values: Array, name: str) -> Array:
        """The values in format `name`, where they are longer."""
        return _rounded(values, name, self.precision) if BITS[self.format(value)] > BITS[name] else values


def _parameter(w: SSAValue) -> layer.WeightOp | None:
    """The weight that the second operand of a product is, or a slice of."""
    while isinstance(w.owner, layer.SliceOp):
        w = w.owner.x
    return w.owner if isinstance(w.owner, layer.WeightOp) else None


def _rounded(values: Array, name: str, precision: Precision) -> Array:
    if name.startswith("i"):
        limit = 1 << (BITS[name] - 1)
        return values.round().clip(-limit, limit - 1)
    return round_to(values, name).astype(precision.compute)
