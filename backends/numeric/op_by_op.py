"""Holds kernels against their tensor ops, each on what it read itself, with bounds that follow from its types.

The tensor program runs beside what the kernels of a tile program left: every op computes its result from the operands
that its kernel had, the two results are compared, and the ops after it go on with that of the kernel.  So no error adds
up, and each bound is that of one op.  Both sides add up in FP32 (unit roundoff e = 2^-24), in different orders, and
round once to the type of the result (unit roundoff u: 2^-24 in f32, 2^-8 in bf16, 2^-11 in f16, 2^-4 in f8E4M3FN,
2^-3 in f8E5M2).  Higham, Accuracy and Stability, section 3.1: a sum of n products in any order is off by at most
n e sum |x_i y_i|.  Two such sums, rounded, differ by at most

    2 u |y| + 2 (n + 1) e |x| |w|                           matmuls; |x| |w| is the product of the absolute values
    2 u |y| + (p + 2 s + 2 (n + 1) e) mean |v|              attention over n keys: weights are stored with roundoff p
                                                            (of the type that the op names), scores of d products
                                                            are off by s = 2 (d + 1) e scale |q| |k|, their exp too;
                                                            a soft cap c, whose slope is at most 1, adds 8 e c to s
    2 u |y| + 64 e |y| + 2 a |u| + b |g| + 2 a b            silu(g) u, g and u matmuls as above, off by a and b:
                                                            the slope of silu is at most 1.1, |silu(g)| at most |g|
    2 u |y| + 64 (d + q) e max |x| max(1, d max |k|)        recurrences over q tokens, keys k of d columns: each of q
                                                            states is read and changed by products of d terms
    2 u |y| + 64 (1 + log2 n) e max |x|                     rows of n columns: norms, rotations, sums

and ops that only move or convert elements not at all.  The smallest number of the type stands for zero.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from math import log2

import numpy as np
from xdsl.dialects.builtin import ModuleOp
from xdsl.ir import Attribute, Operation

from pmc.backends.numeric import semantics
from pmc.backends.numeric.dist import DistMachine
from pmc.backends.numeric.environment import Environment
from pmc.backends.numeric.errors import Array
from pmc.backends.numeric.layer import LayerRun, ValueKey
from pmc.backends.numeric.precision import EMULATED
from pmc.backends.numeric.tensor_ops import first_keys
from pmc.dialects import layer
from pmc.dialects.tensor import element_name, tensor

FP32_ROUNDOFF = 2.0**-24

ROUNDOFFS = {
    "f64": FP32_ROUNDOFF,
    "f32": FP32_ROUNDOFF,
    "bf16": 2.0**-8,
    "f16": 2.0**-11,
    "f8E4M3FN": 2.0**-4,
    "f8E5M2": 2.0**-3,
    "f4E2M1FN": 2.0**-2,
}
"""The unit roundoff of every float element type: half the distance of two numbers, relative to them."""

SMALLEST = {"f16": 2.0**-24, "f8E4M3FN": 2.0**-9, "f8E5M2": 2.0**-16, "f4E2M1FN": 0.5}
"""The smallest number above zero where it is not far below what FP32 sums are off by."""

COPIES = (layer.EmbeddingOp, layer.LastTokenOp, layer.KvAppendOp, layer.QuantizeOp)
"""Ops that compute nothing."""


@dataclass(frozen=True)
class Deviation:
    """A kernel whose result is not that of its op."""

    path: str
    what: str
    error: float
    """The largest difference."""
    bound: float
    """What it may be there."""


def first_deviation(
    module: ModuleOp, environment: Environment, kernels: Mapping[ValueKey, Sequence[Mapping[int, Array]]]
) -> tuple[Deviation | None, LayerRun]:
    """The first op of the localised program `module` whose kernel stored something else, None if all agree; and the
    results of the program on what the kernels stored.

    `kernels` are the results of the kernels by rank, execution by execution.  Raises NumericError.
    """
    machine = _Beside(module, environment, EMULATED, {}, kernels=kernels)
    run = machine.run()
    return machine.deviation, run


@dataclass
class _Beside(DistMachine):
    """The tensor program on the values of the kernels."""

    kernels: Mapping[ValueKey, Sequence[Mapping[int, Array]]] = field(
        default_factory=dict[ValueKey, Sequence[Mapping[int, Array]]]
    )
    executions: dict[ValueKey, int] = field(default_factory=dict[ValueKey, int])
    deviation: Deviation | None = None

    def run_op(self, op: Operation) -> None:
        """Compute, compare, and go on with what the kernel stored."""
        super().run_op(op)
        if not isinstance(op, layer.LayerOp):
            return
        for index, result in enumerate(op.results):
            key = ValueKey(op.path.data, op.name, index)
            stored = self.kernels.get(key, ())
            execution = self.executions.get(key, 0)
            self.executions[key] = execution + 1
            ranked: Mapping[int, Array] = stored[execution] if execution < len(stored) else {}
            for rank, values in self.values[result].items():
                found = ranked.get(rank)
                if found is None or found.size != values.size:
                    continue  # a kernel that appends to a cache stores the new rows; the caches are compared at the end
                taken: Array = found.reshape(values.shape).astype(values.dtype)
                if self.deviation is None:
                    self.compare(op, index, rank, values, taken)
                self.values[result][rank] = taken

    def compare(self, op: layer.LayerOp, index: int, rank: int, expected: Array, found: Array) -> None:
        """Note a difference above the bound."""
        with np.errstate(invalid="ignore"):
            difference = np.where(expected == found, 0.0, np.abs(expected.astype(np.float64) - found))
        if not difference.any():
            return
        operands = [self.values[v][rank] for v in op.operands]
        limit = np.broadcast_to(bound(op, operands, tensor(op.results[index]).element_type, expected), expected.shape)
        over = ~(difference <= limit)
        if over.any():
            at = np.unravel_index(np.argmax(np.where(over, difference / np.maximum(limit, 1e-300), 0)), over.shape)
            self.deviation = Deviation(
                op.path.data, f"{op.name} result {index} of rank {rank}", float(difference[at]), float(limit[at])
            )


def bound(op: layer.LayerOp, operands: Sequence[Array], element: Attribute, y: Array) -> Array:
    """How far two computations of a result `y` may be apart, element by element or for all."""
    if y.dtype.kind in "iu" or isinstance(op, COPIES):
        return np.zeros(())
    name = element_name(element)
    e, size = FP32_ROUNDOFF, np.abs(y.astype(np.float64))
    stored = 2 * ROUNDOFFS.get(name, 0.5) * size + SMALLEST.get(name, 2.0**-100)
    match op:
        case layer.MatmulOp() | layer.GroupedMatmulOp() | layer.HeadMatmulOp():
            x, w = (np.abs(v.astype(np.float64)) for v in operands)
            if isinstance(op, layer.HeadMatmulOp):
                total = semantics.head_matmul(x, w, op.group.value.data, bool(op.transpose))
                depth = op.group.value.data if op.transpose else w.shape[0]
            else:
                total, depth = np.matmul(x, w), x.shape[-1]
            return np.asarray(stored + 2 * (depth + 1) * e * total)
        case layer.GatedMatmulOp():
            return np.asarray(stored + _gated(op, operands, size))
        case layer.FlashAttentionOp():
            return np.asarray(stored + _attention(op, operands, y))
        case layer.RecurrenceOp():
            tokens, width = len(operands[0]) // max(1, len(operands[-1])), op.key_dim
            largest = max(float(np.abs(v).max(initial=0.0)) for v in (*operands, y))
            keys = width * max(float(np.abs(v).max(initial=0.0)) for v in operands[1:3])
            return np.asarray(stored + 64 * (width + tokens) * e * largest * max(1.0, keys))
        case _:
            floats = [np.abs(v.astype(np.float64)) for v in (*operands, y) if v.dtype.kind == "f"]
            largest = max((float(v.max()) for v in floats if v.size), default=0.0)
            return np.asarray(stored + 64 * (1 + log2(max(2, y.shape[-1]))) * e * largest)


def _gated(op: layer.GatedMatmulOp, operands: Sequence[Array], size: Array) -> Array:
    x, *weights = (v.astype(np.float64) for v in operands)
    gate, up = (np.abs(np.matmul(x, w)) for w in weights)
    off = [2 * (x.shape[-1] + 1) * FP32_ROUNDOFF * np.matmul(np.abs(x), np.abs(w)) for w in weights]
    slack: Array = 64 * FP32_ROUNDOFF * size + 2 * off[0] * up + off[1] * gate + 2 * off[0] * off[1]
    return slack


def _attention(op: layer.FlashAttentionOp, operands: Sequence[Array], y: Array) -> Array | float:
    pieces = len(op.q)
    q, k, v = operands[:pieces], operands[pieces : 2 * pieces], operands[2 * pieces].astype(np.float64)
    dims, v_dim, scale, e = op.piece_dims(), op.v_dim.value.data, op.scale.value.data, FP32_ROUNDOFF
    products = sum(float(np.abs(a).max()) * float(np.abs(b).max()) * d for a, b, d in zip(q, k, dims, strict=True))
    score = 2 * (sum(dims) + 1) * e * abs(scale) * products + 8 * e * (op.largest_score or 0.0)
    if op.alibi_heads is not None:
        score += 4 * e * v.shape[1]  # slopes are below 1
    name, keys, largest = element_name(op.arithmetic_type), v.shape[1], float(np.abs(v).max())
    each = ROUNDOFFS[name] + 2 * (score + (keys + 1) * e)
    lost = keys * SMALLEST.get(name, 0.0) / 2  # weights below the smallest number, of sums of at least 1
    # Where the keys of a chunk begin, and which heads a rank has, is known to the symbols only.
    if isinstance(op, layer.SparseAttentionOp) or op.chunk is not None or op.alibi_heads is not None:
        return float((each + lost) * largest)
    if isinstance(op, layer.AttentionOp):
        # The mean of |v| under the weights of each query.
        sinks = operands[2 * pieces + 1] if op.sinks is not None else None
        masks = (bool(op.causal), first_keys(op, operands, {}), sinks, op.largest_score)
        mean: Array = semantics.attention(q, k, np.abs(v), dims, v_dim, scale, *masks)
        bound: Array = each * mean + lost * largest
        return bound
    # A step leaves sums of at most as many weights as there are keys so far, each at most 1.
    before = max((float(np.abs(s[np.isfinite(s)]).max(initial=0.0)) for s in operands[2 * pieces + 1 :]), default=0.0)
    finite = np.abs(y[np.isfinite(y)])
    return float((each + lost) * (keys * max(1.0, largest) + before + float(finite.max(initial=0.0))))
