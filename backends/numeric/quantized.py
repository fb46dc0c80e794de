"""What a model computes in the number formats of a deployment: the reference for `quantize`, which it does not share.

It runs a layer program in the model's own element type, every result rounded to it, and rounds further where a
`Quantization` says, with the checkpoint's types where it says so: the weights of products, except tied ones and those
that a pattern keeps; the activations of these products; new rows of a cache, and what a cache held before; queries,
keys and values where they are longer than the type of attention; the queries of an indexer as its cached keys.  A value
is never rounded to a format that is not shorter.  Rounding twice to one format is rounding once and the rows of a
dispatch are those of its tokens, so it does not matter where a pass puts the conversions: the results are equal to the
last bit.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from fnmatch import translate
from math import floor, log2

import numpy as np
from xdsl.dialects.builtin import ModuleOp
from xdsl.ir import Operation, SSAValue

from pmc.backends.numeric.environment import Environment
from pmc.backends.numeric.errors import Array
from pmc.backends.numeric.layer import LayerMachine, LayerRun, the_program
from pmc.backends.numeric.precision import EMULATED, EXACT64, Precision
from pmc.backends.numeric.precision_formats import round_to
from pmc.dialects import layer
from pmc.dialects.checkpoint import stored_types
from pmc.dialects.deployment import Quantization
from pmc.dialects.element_formats import ElementFormat, Scales, element_format
from pmc.dialects.tensor import element_name, tensor
from pmc.dialects.type_rules import UNCONVERTED, HeldTypes

Product = layer.MatmulOp | layer.GroupedMatmulOp | layer.HeadMatmulOp


def run_quantized(module: ModuleOp, environment: Environment, quantization: Quantization) -> LayerRun:
    """Run the one program of a module that `quantize` has not seen in the formats of `quantization`, in FP32."""
    held = quantization.held(stored_types(module))
    return _Machine(environment, EMULATED, False, held=held, attention=quantization.attention).run(the_program(module))


def in_format(environment: Environment, name: str) -> Environment:
    """The same inputs with weights and caches as a checkpoint in format `name` holds them; integers stay."""

    def held(arrays: Mapping[str, Array]) -> dict[str, Array]:
        return {
            path: values if values.dtype.kind in "iu" else _rounded(values, name, EXACT64)
            for path, values in arrays.items()
        }

    return replace(environment, weights=held(environment.weights), states=held(environment.states))


@dataclass
class _Machine(LayerMachine):
    """The run; `formats` are those of the values that come from caches, all others have the model's."""

    held: HeldTypes | None = None
    attention: str = UNCONVERTED
    formats: dict[SSAValue, str] = field(default_factory=dict[SSAValue, str])

    def run_op(self, op: Operation, operands: list[Array]) -> tuple[Array, ...]:
        """Round the operands that are held in a shorter format, then compute."""
        assert self.held is not None
        cache = self.held.kv_cache
        if isinstance(op, Product) and (parameter := _parameter(op.w)) is not None:
            weights, activations = self.types_of(parameter)
            if weights != UNCONVERTED:
                operands[0] = self.shorter(op.x, operands[0], activations)
        elif isinstance(op, layer.KvAppendOp) and op.holds_keys:
            operands = [self.shorter(v, x, cache) for v, x in zip(op.operands, operands, strict=True)]
            own = self.format(op.cache)
            self.formats[op.y] = own if cache == UNCONVERTED else min((own, cache), key=_bits)
        elif isinstance(op, layer.GatherRowsOp):
            self.formats[op.y] = self.format(op.cache)
        elif isinstance(op, layer.IndexScoresOp):
            formats = [self.format(key) for key in op.k]
            for index, (query, name) in enumerate(zip(op.q, formats, strict=True)):
                operands[index] = self.shorter(query, operands[index], name)
        elif isinstance(op, layer.BlockScoresOp):
            operands[0] = self.shorter(op.q, operands[0], self.format(op.k))
        elif isinstance(op, layer.FlashAttentionOp):
            multiplied = {*op.q, *op.k, op.v}
            operands = [
                self.shorter(v, x, self.attention) if v in multiplied else x
                for v, x in zip(op.operands, operands, strict=True)
            ]
        results = super().run_op(op, operands)
        if isinstance(op, layer.KvAppendOp) and op.holds_keys:
            results = (_rounded(results[0], self.formats[op.y], self.precision),)
        return results

    def source(self, op: layer.SourceOp) -> Array:
        """A weight whole, as blocks that share a scale are those of the whole."""
        values = super().source(op)
        if not isinstance(op, layer.WeightOp) or not _is_multiplied(op.result):
            return values
        return self.shorter(op.result, values, self.types_of(op)[0])

    def types_of(self, parameter: layer.WeightOp) -> tuple[str, str]:
        """The formats of a weight and of its activation: tied ones stay, of several rules the first holds."""
        held = self.held
        assert held is not None
        weights, activations = held.weights, held.activations
        for rule in reversed(held.rules):
            if re.fullmatch(translate(rule.pattern), parameter.path.data):
                weights, activations = rule.weights, rule.activations or held.activations
        kept = parameter.transpose_of is not None or weights == UNCONVERTED
        return (UNCONVERTED, UNCONVERTED) if kept else (weights, activations)

    def format(self, value: SSAValue) -> str:
        """The format that a value is held in."""
        return self.formats.get(value, element_name(tensor(value).element_type))

    def shorter(self, value: SSAValue, values: Array, name: str) -> Array:
        """The values in format `name`, where they are longer."""
        if name == UNCONVERTED or _bits(self.format(value)) <= _bits(name):
            return values
        return _rounded(values, name, self.precision)


def _bits(name: str) -> int:
    return element_format(name).bits


def _is_multiplied(w: SSAValue) -> bool:
    """Whether a product multiplies with a value or with a slice of it."""
    users = [use.operation for use in w.uses]
    return any(
        op.w is w if isinstance(op, Product) else isinstance(op, layer.SliceOp) and _is_multiplied(op.y) for op in users
    )


def _parameter(w: SSAValue) -> layer.WeightOp | None:
    """The weight that the second operand of a product is, or a slice of."""
    while isinstance(w.owner, layer.SliceOp):
        w = w.owner.x
    return w.owner if isinstance(w.owner, layer.WeightOp) else None


def _rounded(values: Array, name: str, precision: Precision) -> Array:
    found = element_format(name)
    if found.scales is not None:
        return _scaled(values, found, found.scales).astype(precision.compute)
    if name.startswith("i"):
        limit = 1 << (found.bits - 1)
        return values.round().clip(-limit, limit - 1)
    return round_to(values, name).astype(precision.compute)


LARGEST_CODE = {"i4": 7.0, "i8": 127.0, "f4E2M1FN": 6.0, "f8E4M3FN": 448.0, "f8E5M2": 57344.0}


def _scaled(values: Array, found: ElementFormat, scales: Scales) -> Array:
    """Every block by itself: a scale that takes its largest value to the largest code, and the codes times it."""
    left, most = np.empty(values.shape, np.float64), LARGEST_CODE[found.element]
    *leading, rows, columns = values.shape
    for index in np.ndindex(*leading, -(-rows // scales.rows), -(-columns // scales.columns)):
        *outer, row, column = index
        at = (*outer, slice(row * scales.rows, (row + 1) * scales.rows))
        at = (*at, slice(column * scales.columns, (column + 1) * scales.columns))
        block = values[at].astype(np.float64)
        largest = np.abs(block).max()
        scale = 1.0
        if largest > 0 and scales.element == "f8E8M0FNU":
            scale = 2.0 ** (floor(log2(largest)) - floor(log2(most)))
        elif largest > 0:
            scale = float(round_to(np.array(largest / most), scales.element)) or 1.0
        codes = block / scale
        codes = codes.round().clip(-most, most) if found.element[0] == "i" else round_to(codes, found.element)
        left[at] = codes.astype(np.float64) * scale
    return left
