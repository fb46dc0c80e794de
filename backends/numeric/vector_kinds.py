"""What the vector and top-k commands compute, on tiles: one function for every kind of `dialects/vector_kinds.py`.

Matrices are [.., rows, columns] in the compute type; leading dims (cores, ranks) are independent of each other.
Parameters that are expressions arrive evaluated: a number, or an array that broadcasts against [.., rows].
"""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, TypeVar

import numpy as np
import numpy.typing as npt
from xdsl.dialects.builtin import ArrayAttr, DictionaryAttr, FloatAttr, IntegerAttr, NoneAttr, StringAttr, UnitAttr, i1
from xdsl.ir import Attribute

from pmc.backends.numeric.errors import Array, NumericError
from pmc.backends.numeric.rotary import rope_frequencies
from pmc.backends.numeric.routing import router_topk
from pmc.backends.numeric.semantics import rms_norm, silu_mul
from pmc.dialects import vector_kinds as kinds


@dataclass(frozen=True)
class Tiles:
    """What a kind computes on: inputs, updates, the shape of the first output, and the values of its expressions."""

    ins: Sequence[Array]
    updates: Sequence[Array]
    shape: tuple[int, ...]
    values: Mapping[str, Array]


KindT = TypeVar("KindT", bound=kinds.VectorKindAttr)
Computation = Callable[[KindT, Tiles], Sequence[Array]]

COMPUTATIONS: dict[type[kinds.VectorKindAttr], Computation[Any]] = {}


def computes(kind: type[KindT]) -> Callable[[Computation[KindT]], Computation[KindT]]:
    """Register what a kind computes: its outputs, then the new values of its updates."""

    def register(function: Computation[KindT]) -> Computation[KindT]:
        COMPUTATIONS[kind] = function
        return function

    return register


def run_kind(kind: kinds.VectorKindAttr, tiles: Tiles) -> Sequence[Array]:
    """The outputs, then the new values of the updates.  Raises NumericError for a kind without semantics."""
    computation = COMPUTATIONS.get(type(kind))
    if computation is None:
        raise NumericError(f"vector kind #{kind.name} has no numeric semantics")
    return computation(kind, tiles)


@computes(kinds.FillAttr)
def _(kind: kinds.FillAttr, tiles: Tiles) -> Sequence[Array]:
    return [np.full(tiles.shape, kind.value.value.data, np.float64)]


@computes(kinds.RepeatRowsAttr)
def _(kind: kinds.RepeatRowsAttr, tiles: Tiles) -> Sequence[Array]:
    (x,) = tiles.ins
    rows: Array = np.arange(tiles.shape[-2]) % kind.period.value.data
    return [x[..., rows, :]]


@computes(kinds.ConvertAttr)
def _(kind: kinds.ConvertAttr, tiles: Tiles) -> Sequence[Array]:
    return tiles.ins


@computes(kinds.AddAttr)
def _(kind: kinds.AddAttr, tiles: Tiles) -> Sequence[Array]:
    a, b = tiles.ins
    return [a + b]


@computes(kinds.SiluMulAttr)
def _(kind: kinds.SiluMulAttr, tiles: Tiles) -> Sequence[Array]:
    gate, up = tiles.ins
    return [silu_mul(gate, up)]


@computes(kinds.RmsNormAttr)
def _(kind: kinds.RmsNormAttr, tiles: Tiles) -> Sequence[Array]:
    x, w = tiles.ins
    # The one weight row meets [.., rows, groups, columns], of one group.
    gain = w[..., None, :]
    normed = rms_norm(x, gain, kind.eps.value.data, x.shape[-1])
    # x^ * (1 + w) is x^ w + x^.
    return [normed + _normalized(x, kind.eps) if isinstance(kind.zero_centered, UnitAttr) else normed]


def _normalized(x: Array, eps: FloatAttr) -> Array:
    """Rows of a mean square of 1."""
    mean = np.einsum("...c,...c->...", x, x)[..., None] / x.shape[-1]
    return np.asarray(x / np.sqrt(mean + eps.value.data), x.dtype)


@computes(kinds.RmsNormalizeAttr)
def _(kind: kinds.RmsNormalizeAttr, tiles: Tiles) -> Sequence[Array]:
    return [_normalized(tiles.ins[0], kind.eps)]


@computes(kinds.SquareSumAttr)
def _(kind: kinds.SquareSumAttr, tiles: Tiles) -> Sequence[Array]:
    (x,) = tiles.ins
    return [np.einsum("...c,...c->...", x, x)[..., None]]


@computes(kinds.SplitRmsNormAttr)
def _(kind: kinds.SplitRmsNormAttr, tiles: Tiles) -> Sequence[Array]:
    x, sums, w = tiles.ins
    normed = x / np.sqrt(sums / kind.width.value.data + kind.eps.value.data)
    return [normed * (w + 1 if isinstance(kind.zero_centered, UnitAttr) else w)]


@computes(kinds.AddRmsNormAttr)
def _(kind: kinds.AddRmsNormAttr, tiles: Tiles) -> Sequence[Array]:
    a, b, w = tiles.ins
    mean = np.square(a + b).mean(axis=-1, keepdims=True)
    gain = w + 1 if isinstance(kind.zero_centered, UnitAttr) else w
    return [a + b, (a + b) / np.sqrt(mean + kind.eps.value.data) * gain]


@computes(kinds.RopeAttr)
def _(kind: kinds.RopeAttr, tiles: Tiles) -> Sequence[Array]:
    (row,) = tiles.ins
    width = row.shape[-1] if isinstance(kind.rotary_dim, NoneAttr) else kind.rotary_dim.value.data
    start = row.shape[-1] - width if isinstance(kind.trailing, UnitAttr) else 0
    x = row[..., start : start + width]
    scaling = plain_params(kind.scaling.data) if isinstance(kind.scaling, DictionaryAttr) else None
    frequencies, factor = rope_frequencies(x.shape[-1], kind.theta.value.data, scaling)
    position = np.asarray(tiles.values["position"], np.float64)
    position = np.broadcast_to(position, (*position.shape[: max(0, position.ndim - 1)], x.shape[-2]))
    angles = position[..., None] * frequencies
    cos, sin = (np.asarray(f(angles) * factor, x.dtype) for f in (np.cos, np.sin))
    sin = -sin if isinstance(kind.inverse, UnitAttr) else sin
    half = x.shape[-1] // 2
    pairs = (slice(0, None, 2), slice(1, None, 2)) if bool(kind.interleaved) else (slice(half), slice(half, None))
    first, second = x[..., pairs[0]], x[..., pairs[1]]
    y = np.empty_like(x)
    y[..., pairs[0]] = first * cos - second * sin
    y[..., pairs[1]] = second * cos + first * sin
    return [np.concatenate([row[..., :start], y, row[..., start + width :]], axis=-1)]


@computes(kinds.SoftmaxStepAttr)
def _(kind: kinds.SoftmaxStepAttr, tiles: Tiles) -> Sequence[Array]:
    (scores,) = tiles.ins
    scaled = scores * np.asarray(kind.scale.value.data, scores.dtype)
    if isinstance(kind.soft_cap, FloatAttr):
        cap = np.asarray(kind.soft_cap.value.data, scores.dtype)
        scaled = np.tanh(scaled / cap) * cap
    if isinstance(kind.alibi, IntegerAttr):
        slopes = _slope(np.asarray(tiles.values["head"]), kind.alibi.value.data)
        steps: Array = np.arange(int(scores.shape[-1]))
        keys: Array = np.asarray(tiles.values["key"])[..., None] + steps
        distance: Array = keys - np.asarray(tiles.values["position"])[..., None]
        scaled = scaled + np.asarray(slopes[..., None] * distance, scores.dtype)
    if bool(kind.causal):
        key, columns = np.asarray(tiles.values["key"]), scores.shape[-1]
        visible = _visible(key, np.asarray(tiles.values["position"]), columns)
        if "first" in tiles.values:
            visible = visible & ~_visible(key, np.asarray(tiles.values["first"]) - 1, columns)
        scaled = np.where(visible, scaled, np.asarray(-np.inf, scores.dtype))
    old_max, old_sum, acc = tiles.updates
    new_max = np.maximum(old_max, scaled.max(axis=-1, keepdims=True))
    # A row that has seen no key yet has maximum -inf; its weights are zero, not exp(nan).
    finite = np.where(np.isfinite(new_max), new_max, np.zeros((), scores.dtype))
    p = np.exp(scaled - finite)
    rescale = np.exp(old_max - finite)
    return [p, new_max, old_sum * rescale + p.sum(axis=-1, keepdims=True), acc * rescale]


def _slope(head: Array, heads: int) -> Array:
    """The slope of ALiBi of head number `head` of so many."""
    whole = 2 ** int(math.log2(heads))
    number: Array = np.asarray(head, np.float64)
    own: Array = 2.0 ** (-8 * (number + 1) / whole)
    between: Array = 2.0 ** (-4 * (2 * (number - whole) + 1) / whole)
    return np.asarray(np.where(np.less(number, whole), own, between))


def _visible(key: Array, position: Array, columns: int) -> npt.NDArray[np.bool_]:
    """[.., rows, columns]: column c is key `key` + c, a row sees keys up to its position."""
    visible: npt.NDArray[np.bool_] = np.less_equal(key[..., None] + np.arange(columns), position[..., None])
    return visible


@computes(kinds.SoftmaxFinishAttr)
def _(kind: kinds.SoftmaxFinishAttr, tiles: Tiles) -> Sequence[Array]:
    acc, row_sum = tiles.ins
    return [acc / row_sum]


def _parts(x: Array, parts: int) -> Array:
    """[.., parts, rows, columns]: the parts lie below each other."""
    return x.reshape(*x.shape[:-2], parts, -1, x.shape[-1])


@computes(kinds.SumPartsAttr)
def _(kind: kinds.SumPartsAttr, tiles: Tiles) -> Sequence[Array]:
    return [_parts(tiles.ins[0], kind.parts.value.data).sum(axis=-3)]


@computes(kinds.SoftmaxMergeAttr)
def _(kind: kinds.SoftmaxMergeAttr, tiles: Tiles) -> Sequence[Array]:
    acc, row_max, row_sum = (_parts(x, kind.parts.value.data) for x in tiles.ins)
    # A part that saw no key has the maximum -inf and so the weight 0.
    weight = np.exp(row_max - row_max.max(axis=-3, keepdims=True))
    return [(weight * acc).sum(axis=-3) / (weight * row_sum).sum(axis=-3)]


@computes(kinds.RouterTopkAttr)
def _(kind: kinds.RouterTopkAttr, tiles: Tiles) -> Sequence[Array]:
    logits, bias = tiles.ins
    experts = logits.shape[-1]
    rows = logits.reshape(-1, experts)
    offsets = np.broadcast_to(bias, logits.shape).reshape(-1, experts)
    results = router_topk(
        rows,
        offsets,
        kind.top_k.value.data,
        kind.scoring.data,
        kind.groups.value.data,
        kind.top_groups.value.data,
        bool(kind.normalize),
        kind.scale.value.data,
        kind.best_of_group.value.data if isinstance(kind.best_of_group, IntegerAttr) else kinds.BEST_OF_GROUP,
    )
    return [r.reshape(*logits.shape[:-1], -1) for r in results]


def _scores(name: str, z: Array) -> Array:
    """One of `SCORINGS`, for every logit of [.., E]."""
    functions: dict[str, Callable[[], Array]] = {
        "softmax": lambda: np.exp(z) / np.exp(z).sum(axis=-1, keepdims=True),
        "sigmoid": lambda: _logistic(z),
        "sqrtsoftplus": lambda: _log_of_one_plus_exp(z) ** 0.5,
        "none": lambda: z,
    }
    return np.asarray(functions[name](), z.dtype)


@computes(kinds.RouterWeightsAttr)
def _(kind: kinds.RouterWeightsAttr, tiles: Tiles) -> Sequence[Array]:
    logits, indices = tiles.ins
    largest = logits.max(axis=-1, keepdims=True) if kind.scoring.data == "softmax" else 0
    scores = _scores(kind.scoring.data, logits - largest)
    found = [np.take_along_axis(scores, indices[..., i, None], axis=-1) for i in range(kind.top_k.value.data)]
    share = kind.scale.value.data / (sum(found) if bool(kind.normalize) else 1)
    return [np.concatenate([one * share for one in found], axis=-1).astype(logits.dtype)]


@computes(kinds.ExpertScaleAttr)
def _(kind: kinds.ExpertScaleAttr, tiles: Tiles) -> Sequence[Array]:
    weights, indices, scale = tiles.ins
    every = np.broadcast_to(scale, (*weights.shape[:-1], kind.experts.value.data))
    return [np.take_along_axis(every, indices, axis=-1) * weights]


def plain_params(params: Mapping[str, Attribute]) -> dict[str, Any]:
    """Attributes as Python values."""
    return {name: _plain(value) for name, value in params.items()}


def _plain(value: Attribute) -> Any:
    match value:
        case IntegerAttr():
            return bool(value.value.data) if value.type == i1 else value.value.data
        case FloatAttr():
            return value.value.data
        case StringAttr():
            return value.data
        case DictionaryAttr():
            return plain_params(value.data)
        case ArrayAttr():
            return [_plain(each) for each in value]
        case _:
            return value


@computes(kinds.LayerNormAttr)
def _(kind: kinds.LayerNormAttr, tiles: Tiles) -> Sequence[Array]:
    x, w, b = tiles.ins
    mean = x.sum(axis=-1, keepdims=True) / x.shape[-1]
    variance = ((x - mean) ** 2).sum(axis=-1, keepdims=True) / x.shape[-1]
    gain = w + 1 if isinstance(kind.zero_centered, UnitAttr) else w
    return [(x - mean) / np.sqrt(variance + np.asarray(kind.eps.value.data, x.dtype)) * gain + b]


@computes(kinds.ReluWeightedSumAttr)
def _(kind: kinds.ReluWeightedSumAttr, tiles: Tiles) -> Sequence[Array]:
    products, weights = tiles.ins
    heads = kind.heads.value.data
    of_heads = products.reshape(*products.shape[:-2], -1, heads, products.shape[-1])
    total = np.einsum("...rh,...rhc->...rc", weights, np.where(of_heads > 0, of_heads, 0))
    return [total * np.asarray(kind.scale.value.data, products.dtype)]


@computes(kinds.TopkSelectAttr)
def _(kind: kinds.TopkSelectAttr, tiles: Tiles) -> Sequence[Array]:
    (scores,) = tiles.ins
    kept_scores, kept_keys = tiles.updates
    first: Array = np.asarray(tiles.values["key"])
    visible = _visible(first, np.asarray(tiles.values["position"]), scores.shape[-1])
    found = np.where(visible, scores, np.asarray(-np.inf, scores.dtype))
    if isinstance(kind.always, IntegerAttr):
        before = _visible(first, np.asarray(tiles.values["position"]) - kind.always.value.data, scores.shape[-1])
        found = np.where(visible & ~before, np.asarray(np.inf, scores.dtype), found)
    steps: Array = np.arange(int(scores.shape[-1]))
    columns: Array = first[..., None] + steps
    top_k = kept_keys.shape[-1]
    slots: Array = np.arange(int(top_k))
    empty: Array = np.less(slots, top_k - first[..., None])
    keys = np.concatenate([np.where(empty, -1, kept_keys), np.broadcast_to(columns, scores.shape)], axis=-1)
    values = np.concatenate([np.where(empty, -np.inf, kept_scores), found], axis=-1).astype(scores.dtype)
    # Entries without a key lose against all others; then the score decides, then the position.
    best = np.lexsort((keys, -values, keys < 0), axis=-1)[..., :top_k]
    keys, values = (np.take_along_axis(array, best, axis=-1) for array in (keys, values))
    ascending = np.argsort(keys, axis=-1, kind="stable")
    return [np.take_along_axis(array, ascending, axis=-1) for array in (values, keys)]


@computes(kinds.BlockMaxAttr)
def _(kind: kinds.BlockMaxAttr, tiles: Tiles) -> Sequence[Array]:
    (products,) = tiles.ins
    block, columns = kind.block.value.data, int(products.shape[-1])
    parts = [products[..., start : start + block].max(axis=-1) for start in range(0, columns, block)]
    return [np.stack(parts, axis=-1)]


@computes(kinds.BlockRowsAttr)
def _(kind: kinds.BlockRowsAttr, tiles: Tiles) -> Sequence[Array]:
    (numbers,) = tiles.ins
    block, stride = kind.block.value.data, kind.stride.value.data
    last, offset = (np.asarray(tiles.values[name])[..., None] for name in ("last", "offset"))
    rows: Array = (numbers[..., None] * block + np.arange(block)).reshape(*numbers.shape[:-1], -1)
    found: Array = np.minimum(rows, last) * stride + offset
    return [found.astype(numbers.dtype)]


@computes(kinds.AddBiasAttr)
def _(kind: kinds.AddBiasAttr, tiles: Tiles) -> Sequence[Array]:
    x, b = tiles.ins
    if isinstance(kind.share, NoneAttr):
        return [x + b]
    return [np.where(np.asarray(tiles.values["share"])[..., None] == 1, x + b, x)]


def _logistic(x: Array) -> Array:
    """1 / (1 + exp(-x)) in a form that does not overflow."""
    return 0.5 + 0.5 * np.tanh(0.5 * x)


_erfc = np.frompyfunc(math.erfc, 1, 1)


def _activation(name: str, x: Array) -> Array:
    """One of `ACTIVATIONS`."""
    functions: dict[str, Callable[[], Array]] = {
        "silu": lambda: x * _logistic(x),
        "sigmoid": lambda: _logistic(x),
        "relu": lambda: np.where(x > 0, x, 0),
        "relu2": lambda: np.where(x > 0, x * x, 0),
        # The share of the standard normal distribution below x.
        "gelu": lambda: x * np.asarray(_erfc(x * -math.sqrt(0.5)), x.dtype) / 2,
        "gelu_tanh": lambda: x * _logistic(2 * math.sqrt(2 / math.pi) * x * (1 + 0.044715 * x * x)),
    }
    return np.asarray(functions[name](), x.dtype)


@computes(kinds.ActivationAttr)
def _(kind: kinds.ActivationAttr, tiles: Tiles) -> Sequence[Array]:
    (x,) = tiles.ins
    return [_activation(kind.function.data, x)]


@computes(kinds.GatedActivationAttr)
def _(kind: kinds.GatedActivationAttr, tiles: Tiles) -> Sequence[Array]:
    gate, up = tiles.ins
    name = kind.function.data
    if not isinstance(kind.limit, FloatAttr):
        return [_activation(name, gate) * up]
    limit = kind.limit.value.data
    gate, up = np.where(gate < limit, gate, limit), np.where(np.abs(up) < limit, up, np.sign(up) * limit)
    if isinstance(kind.alpha, FloatAttr):
        return [gate * _logistic(gate * kind.alpha.value.data) * (1 + up)]
    return [_activation("silu", gate) * up]


@computes(kinds.ScaleAttr)
def _(kind: kinds.ScaleAttr, tiles: Tiles) -> Sequence[Array]:
    return [tiles.ins[0] * np.asarray(kind.factor.value.data, tiles.ins[0].dtype)]


@computes(kinds.MultiplyAttr)
def _(kind: kinds.MultiplyAttr, tiles: Tiles) -> Sequence[Array]:
    x, w = tiles.ins
    return [x * w]


@computes(kinds.SoftCapAttr)
def _(kind: kinds.SoftCapAttr, tiles: Tiles) -> Sequence[Array]:
    (x,) = tiles.ins
    cap = kind.cap.value.data
    # tanh z = 1 - 2 / (1 + exp(2 z)), of |z| for the sake of large numbers.
    tanh = 1 - 2 / (1 + np.exp(np.minimum(np.abs(x) * (2 / cap), 80)))
    return [np.asarray(cap * np.copysign(tanh, x), x.dtype)]


@computes(kinds.RowGateAttr)
def _(kind: kinds.RowGateAttr, tiles: Tiles) -> Sequence[Array]:
    x, gate = tiles.ins
    return [_logistic(gate) * x]


@computes(kinds.TemperatureAttr)
def _(kind: kinds.TemperatureAttr, tiles: Tiles) -> Sequence[Array]:
    (x,) = tiles.ins
    steps = (np.asarray(tiles.values["position"], np.int64) + 1) // kind.floor.value.data
    factor = np.asarray(1 + kind.scale.value.data * np.log(1.0 + steps), x.dtype)
    return [x * np.broadcast_to(factor, (*factor.shape[: max(0, factor.ndim - 1)], x.shape[-2]))[..., None]]


@computes(kinds.CopyStreamsAttr)
def _(kind: kinds.CopyStreamsAttr, tiles: Tiles) -> Sequence[Array]:
    return [np.concatenate([tiles.ins[0]] * kind.count, axis=-1)]


@computes(kinds.StreamWeightsAttr)
def _(kind: kinds.StreamWeightsAttr, tiles: Tiles) -> Sequence[Array]:
    x, scale, base = tiles.ins
    n, eps = kind.count, np.asarray(kind.eps.value.data, x.dtype)
    if not kind.divisions:
        return [_logistic(x * scale + base) + eps]
    part: Array = np.repeat([0, 1, 2], [n, n, n * n])
    z = x * scale[..., part] + base
    mixing = z[..., 2 * n :].reshape(*z.shape[:-1], n, n)
    mixing = np.exp(mixing - mixing.max(axis=-1, keepdims=True))
    mixing = mixing / mixing.sum(axis=-1, keepdims=True) + eps
    for division in range(kind.divisions):
        mixing = mixing * (1 / (mixing.sum(axis=-1 if division % 2 else -2, keepdims=True) + eps))
    pre, post = _logistic(z[..., :n]) + eps, _logistic(z[..., n : 2 * n]) * 2
    return [np.concatenate([pre, post, mixing.reshape(*z.shape[:-1], n * n)], axis=-1)]


@computes(kinds.CollapseStreamsAttr)
def _(kind: kinds.CollapseStreamsAttr, tiles: Tiles) -> Sequence[Array]:
    x, weights = tiles.ins
    width = kind.stream_width.value.data
    total = np.zeros((*x.shape[:-1], width), x.dtype)
    for k in range(kind.count):
        total = total + x[..., k * width : (k + 1) * width] * weights[..., k : k + 1]
    return [total]


@computes(kinds.MixStreamsAttr)
def _(kind: kinds.MixStreamsAttr, tiles: Tiles) -> Sequence[Array]:
    x, added, weights = tiles.ins
    n, width = kind.count, kind.stream_width.value.data
    found: list[Array] = []
    for k in range(n):
        stream = added * weights[..., n + k, None]
        for j in range(n):
            stream = stream + x[..., j * width : (j + 1) * width] * weights[..., 2 * n + j * n + k, None]
        found.append(stream)
    return [np.concatenate(found, axis=-1)]


@computes(kinds.CausalConvAttr)
def _(kind: kinds.CausalConvAttr, tiles: Tiles) -> Sequence[Array]:
    x, weight, bias = tiles.ins
    (history,) = tiles.updates
    taps, rows = kind.taps.value.data, x.shape[-2]
    seen = np.concatenate([history, x], axis=-2)
    total = np.broadcast_to(bias, x.shape)
    for tap in range(taps):
        total = total + seen[..., tap : tap + rows, :] * weight[..., tap : tap + 1, :]
    if kind.activation.data == "silu":
        total = total / (1 + np.exp(-total))
    return [total, seen[..., rows:, :]]


@computes(kinds.PoolStepAttr)
def _(kind: kinds.PoolStepAttr, tiles: Tiles) -> Sequence[Array]:
    kv, gate, bias = tiles.ins
    peak, total, pooled = tiles.updates
    scores = gate + bias
    new_peak = np.maximum(peak, scores.max(axis=-2, keepdims=True))
    p, rescale = np.exp(scores - new_peak), np.exp(peak - new_peak)
    added = (p * kv).sum(axis=-2, keepdims=True)
    return [new_peak, total * rescale + p.sum(axis=-2, keepdims=True), pooled * rescale + added]


@computes(kinds.PoolFinishAttr)
def _(kind: kinds.PoolFinishAttr, tiles: Tiles) -> Sequence[Array]:
    pooled, total = tiles.ins
    return [pooled / total]


@computes(kinds.SsmStepAttr)
def _(kind: kinds.SsmStepAttr, tiles: Tiles) -> Sequence[Array]:
    x, b, c, dt, a_log, d = tiles.ins
    (state,) = tiles.updates
    tokens, heads, width = x.shape[-2], dt.shape[-1], kind.value_dim.value.data
    state, decay = state.copy(), np.exp(-np.exp(a_log) * dt)
    out = np.zeros_like(x)
    for token in range(tokens):
        for head in range(heads):
            own = slice(head * width, (head + 1) * width)
            first = head // kind.shared.value.data * state.shape[-1]
            key = slice(first, first + state.shape[-1])
            column, keys = x[..., token, own, None], b[..., token, None, key]
            old = state[..., own, :] * decay[..., token, head, None, None]
            state[..., own, :] = old + dt[..., token, head, None, None] * column * keys
            read = (state[..., own, :] * c[..., token, None, key]).sum(axis=-1)
            out[..., token, own] = read + d[..., 0, head, None] * column[..., 0]
    return [out, state]


@computes(kinds.GatedDeltaStepAttr)
def _(kind: kinds.GatedDeltaStepAttr, tiles: Tiles) -> Sequence[Array]:
    v, q, k, g, beta = tiles.ins
    (state,) = tiles.updates
    keys, values = kind.key_dim.value.data, kind.value_dim.value.data
    heads = state.reshape(*state.shape[:-2], -1, keys, values)
    count, outputs = heads.shape[-3], list[Array]()
    # [.., tokens, heads, 1, keys]: the row of its key head for every head.
    q, k = (x.reshape(*x.shape[:-1], -1, keys).repeat(kind.shared.value.data, axis=-2) for x in (q, k))
    q, k = (x[..., :count, None, :] for x in (q, k))
    kept = np.exp(g).reshape(*g.shape[:-1], count, -1, 1)  # of every head, or of every row of it
    for token in range(v.shape[-2]):
        heads = heads * kept[..., token, :, :, :]
        key, query = k[..., token, :, :, :], q[..., token, :, :, :]
        wanted = v[..., token, :].reshape(*heads.shape[:-2], 1, values)
        change = beta[..., token, :, None, None] * (wanted - key @ heads)
        heads = heads + key.swapaxes(-1, -2) @ change
        outputs.append((query @ heads).reshape(*v.shape[:-2], -1) * np.asarray(kind.scale.value.data, v.dtype))
    return [np.stack(outputs, axis=-2), heads.reshape(state.shape)]


def _log_of_one_plus_exp(x: Array) -> Array:
    """Without overflow for large x."""
    return np.asarray(np.maximum(x, 0) + np.log1p(np.exp(-np.abs(x))))


@computes(kinds.SoftplusAttr)
def _(kind: kinds.SoftplusAttr, tiles: Tiles) -> Sequence[Array]:
    x, bias = tiles.ins
    low, high = (np.asarray(limit.value.data, x.dtype) for limit in (kind.low, kind.high))
    return [np.minimum(np.maximum(_log_of_one_plus_exp(x + bias), low), high)]


@computes(kinds.DecayAttr)
def _(kind: kinds.DecayAttr, tiles: Tiles) -> Sequence[Array]:
    x, a_log, bias = tiles.ins
    rates = np.exp(a_log).repeat(kind.group.value.data, axis=-1)
    return [-(rates * _log_of_one_plus_exp(x + bias))]


@computes(kinds.L2NormAttr)
def _(kind: kinds.L2NormAttr, tiles: Tiles) -> Sequence[Array]:
    (x,) = tiles.ins
    squares = np.einsum("...rc,...rc->...r", x, x) + np.asarray(kind.eps.value.data, x.dtype)
    return [x * (1 / np.sqrt(squares))[..., None]]


@computes(kinds.GatedRmsNormAttr)
def _(kind: kinds.GatedRmsNormAttr, tiles: Tiles) -> Sequence[Array]:
    x, gate, w = tiles.ins
    opened = (gate if kind.activation.data == "silu" else 1) / (1 + np.exp(-gate))
    before = x * opened if bool(kind.gate_first) else x
    parts = before.reshape(*x.shape[:-1], kind.groups.value.data, -1)
    mean = np.square(parts).mean(axis=-1, keepdims=True) + np.asarray(kind.eps.value.data, x.dtype)
    normed = (parts / np.sqrt(mean)).reshape(x.shape) * w
    return [normed if bool(kind.gate_first) else normed * opened]
