"""The table from the tensor ops of the `layer` dialect to their semantics.

An op is given semantics by one function here, on the arrays of its operands:

    @implements(layer.MatmulOp)
    def _matmul(op: layer.MatmulOp, operands: Operands, context: Context) -> Results: ...

The interpreters of whole programs and of one rank's program both run ops through `run_tensor_op`.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, TypeVar, cast

import numpy as np
from xdsl.dialects.builtin import ArrayAttr, DictionaryAttr, FloatAttr, IntegerAttr, IntegerType, StringAttr
from xdsl.ir import Attribute, Operation

from pmc.backends.numeric import (
    compression,
    elementwise,
    hyper_connections,
    recurrence,
    routing,
    semantics,
    sparse_attention,
)
from pmc.backends.numeric.environment import evaluate_dims
from pmc.backends.numeric.errors import Array, NumericError, require_finite
from pmc.backends.numeric.precision import Precision
from pmc.backends.numeric.rotary import Scaling, rope
from pmc.dialects import layer
from pmc.dialects.assembly import PmcOp
from pmc.dialects.expr import Expr, expr
from pmc.dialects.rope_scaling import of_length
from pmc.dialects.tensor import TensorType, tensor
from pmc.dialects.vector_kinds import BEST_OF_GROUP

Operands = Sequence[Array]
Results = tuple[Array, ...]


@dataclass(frozen=True)
class Context:
    """What an op's semantics may depend on besides its operands."""

    bindings: Mapping[str, int]
    precision: Precision
    shape_of: Callable[[TensorType, str], tuple[int, ...]] | None = None
    """The dims of an array of a type, for error messages at a place; by default those of the type itself."""

    def shape(self, type_: TensorType, place: str) -> tuple[int, ...]:
        """The dims that an array of this type has."""
        if self.shape_of is not None:
            return self.shape_of(type_, place)
        return evaluate_dims(type_.dims, self.bindings, place)

    def integer(self, value: Expr, op: Operation) -> int:
        """The value of an expression under the bindings."""
        return evaluate_dims([value], self.bindings, where(op))[0]


OpT = TypeVar("OpT", bound=PmcOp)
Semantics = Callable[[Any, Operands, Context], Results]

TENSOR_OPS: dict[type[Operation], Semantics] = {}
"""The semantics of every tensor op, by op class."""


def implements(
    kind: type[OpT],
) -> Callable[[Callable[[OpT, Operands, Context], Results]], Callable[[OpT, Operands, Context], Results]]:
    """Register the decorated function as the semantics of `kind`."""

    def register(function: Callable[[OpT, Operands, Context], Results]) -> Callable[..., Results]:
        TENSOR_OPS[kind] = function
        return function

    return register


def where(op: Operation) -> str:
    """`layer.matmul at 'blocks.mlp.up_proj'`: how every error names an op."""
    return f"{op.name} at '{op.path.data}'" if isinstance(op, PmcOp) else op.name


def run_tensor_op(op: Operation, operands: Operands, context: Context) -> Results:
    """The results of one op, each of the shape that its type says and rounded as its storage asks.

    Raises NumericError, naming op and path: no semantics, wrong shape, or a result that is not finite.
    """
    function = TENSOR_OPS.get(type(op))
    if function is None:
        raise NumericError(f"{where(op)}: the op has no numeric semantics")
    try:
        # Overflows are found below, with the op's path.
        with np.errstate(all="ignore"):
            results = function(op, operands, context)
    except NumericError as error:
        raise NumericError(f"{where(op)}: {error}") from None
    except (ValueError, IndexError) as error:
        shapes = ", ".join(str(list(o.shape)) for o in operands)
        raise NumericError(f"{where(op)}: operands {shapes} do not fit: {error}") from None
    return tuple(stored(op, index, values, context) for index, values in enumerate(results))


def stored(op: Operation, index: int, values: Array, context: Context) -> Array:
    """Result `index` of `op` after the checks on shape and finiteness, in its storage type."""
    kind = tensor(op.results[index])
    shape = context.shape(kind, where(op))
    if values.shape != shape:
        raise NumericError(f"{where(op)}: result {index} is {list(values.shape)}, its type says {list(shape)}")
    # A view rounds nothing: what it shows has been rounded as a whole, in the blocks of the whole.
    result = values if isinstance(op, layer.SliceOp) else context.precision.store(values, kind.element_type)
    require_finite(result, f"{where(op)}: result {index}")
    return result


# -- matrix ops ---------------------------------------------------------------------------------------------


@implements(layer.MatmulOp)
def _matmul(op: layer.MatmulOp, operands: Operands, context: Context) -> Results:
    return (semantics.matmul(*operands),)


@implements(layer.GroupedMatmulOp)
def _grouped_matmul(op: layer.GroupedMatmulOp, operands: Operands, context: Context) -> Results:
    return (semantics.grouped_matmul(*operands),)


@implements(layer.GatedMatmulOp)
def _gated_matmul(op: layer.GatedMatmulOp, operands: Operands, context: Context) -> Results:
    x, *weights = operands
    multiply = semantics.grouped_matmul if op.is_grouped else semantics.matmul
    gate, up = (multiply(x, w) for w in weights)
    return (semantics.silu_mul(gate, up),)


@implements(layer.HeadMatmulOp)
def _head_matmul(op: layer.HeadMatmulOp, operands: Operands, context: Context) -> Results:
    x, w = operands
    return (semantics.head_matmul(x, w, op.group.value.data, bool(op.transpose)),)


@implements(layer.AttentionOp)
def _attention(op: layer.AttentionOp, operands: Operands, context: Context) -> Results:
    return (attention_of(op, operands, context.bindings),)


def attention_of(op: layer.AttentionOp, operands: Operands, bindings: Mapping[str, int]) -> Array:
    """The attention that an op is, on arrays of any number of queries and keys."""
    pieces = len(op.q)
    return semantics.attention(
        operands[:pieces],
        operands[pieces : 2 * pieces],
        operands[2 * pieces],
        op.piece_dims(),
        op.v_dim.value.data,
        op.scale.value.data,
        bool(op.causal),
        first_keys(op, operands, bindings),
        operands[2 * pieces + 1] if op.sinks is not None else None,
        op.largest_score,
        _slopes(op, operands[0].shape[1] // op.piece_dims()[0], bindings),
    )


def _slopes(op: layer.FlashAttentionOp, heads: int, bindings: Mapping[str, int]) -> Array | None:
    """The slopes of the heads that a rank has, where scores have a bias by distance."""
    if op.alibi_heads is None:
        return None
    first = int(op.first_head.data.evaluate(bindings))
    return semantics.alibi_slopes(op.alibi_heads.value.data)[first : first + heads]


def first_keys(op: layer.FlashAttentionOp, operands: Operands, bindings: Mapping[str, int]) -> Array | None:
    """The first row of the keys that each query of a sequence sees, [q_len]; None for all."""
    batch, rows = operands[len(op.q)].shape[:2]
    q_len = len(operands[0]) // batch
    last: Array = np.arange(int(rows - q_len), int(rows))
    if op.window is not None:
        return last - op.window.value.data + 1
    if op.chunk is None or op.kv_len is None:
        return None
    before, chunk = int(op.kv_len.data.evaluate(bindings)) - rows, op.chunk.value.data
    first: Array = (before + last) // chunk * chunk - before
    return first


@implements(layer.AttentionStepOp)
def _attention_step(op: layer.AttentionStepOp, operands: Operands, context: Context) -> Results:
    pieces = len(op.q)
    state = operands[2 * pieces + 1 :][: len(op.state)]
    scores = semantics.attention_scores(
        operands[:pieces],
        operands[pieces : 2 * pieces],
        op.piece_dims(),
        op.scale.value.data,
        bool(op.causal),
        context.integer(op.hidden.data, op),
        first_keys(op, operands, context.bindings),
        op.largest_score,
    )
    before = (state[0], state[1], state[2]) if state else None
    sinks = operands[-1] if op.sinks is not None else None
    return semantics.attention_step(scores, operands[2 * pieces], op.v_dim.value.data, before, sinks)


@implements(layer.AttentionFinishOp)
def _attention_finish(op: layer.AttentionFinishOp, operands: Operands, context: Context) -> Results:
    return (semantics.attention_finish(*operands),)


@implements(layer.IndexScoresOp)
def _index_scores(op: layer.IndexScoresOp, operands: Operands, context: Context) -> Results:
    pieces = len(op.q)
    q, k, weights = operands[:pieces], operands[pieces : 2 * pieces], operands[2 * pieces]
    return (sparse_attention.index_scores(q, k, weights, op.piece_dims(), op.scale.value.data),)


@implements(layer.TopkSelectOp)
def _topk_select(op: layer.TopkSelectOp, operands: Operands, context: Context) -> Results:
    (scores,) = operands
    rows = scores.reshape(math.prod(scores.shape[:-1]), scores.shape[-1])
    always = 0 if op.always is None else op.always.value.data
    # The heads of this rank, which the type of the op does not say before it is local.
    positions = np.repeat(_of_tokens(op.position, scores, context, op), len(rows) // len(scores))
    found = sparse_attention.topk_select(rows, op.top_k.value.data, positions, always)
    return (found.reshape(*scores.shape[:-1], found.shape[-1]),)


@implements(layer.BlockScoresOp)
def _block_scores(op: layer.BlockScoresOp, operands: Operands, context: Context) -> Results:
    q, k = operands
    return (sparse_attention.block_scores(q, k, op.block.value.data),)


@implements(layer.GatherRowsOp)
def _gather_rows(op: layer.GatherRowsOp, operands: Operands, context: Context) -> Results:
    cache, indices = operands
    if op.block is not None:
        return (sparse_attention.gather_blocks(cache, indices, op.block.value.data),)
    return (sparse_attention.gather_rows(cache, indices),)


@implements(layer.SparseAttentionOp)
def _sparse_attention(op: layer.SparseAttentionOp, operands: Operands, context: Context) -> Results:
    pieces = len(op.q)
    q, k, v = operands[:pieces], operands[pieces : 2 * pieces], operands[2 * pieces]
    last = _of_tokens(op.last_slot, q[0], context, op)
    return (
        sparse_attention.sparse_attention(q, k, v, op.piece_dims(), op.v_dim.value.data, op.scale.value.data, last),
    )


@implements(layer.CompressOp)
def _compress(op: layer.CompressOp, operands: Operands, context: Context) -> Results:
    kv, gate, bias = operands
    first, tokens = context.integer(op.first_entry, op), context.integer(op.kv_len.data, op)
    return (compression.compress(kv, gate, bias, op.series, first, tokens),)


@implements(layer.CompressedAttentionOp)
def _compressed_attention(op: layer.CompressedAttentionOp, operands: Operands, context: Context) -> Results:
    pieces = len(op.q)
    last = _of_tokens(op.last_entry, operands[0], context, op)
    acc, row_max, row_sum = operands[2 * pieces + 1 :]
    q, k, v = operands[:pieces], operands[pieces : 2 * pieces], operands[2 * pieces]
    scores = compression.entry_scores(q, k, op.piece_dims(), op.scale.value.data, last)
    after = semantics.attention_step(scores, v, op.v_dim.value.data, (acc, row_max, row_sum))
    return (semantics.attention_finish(after[0], after[2]),)


def _of_tokens(value: Callable[[Expr], Expr], rows: Array, context: Context, op: Operation) -> Array:
    """An expression of the token, for every row."""
    tokens = range(len(rows))
    return np.array([context.integer(value(expr(token)), op) for token in tokens], np.int64)


# -- row-wise ops -------------------------------------------------------------------------------------------


@implements(layer.EmbeddingOp)
def _embedding(op: layer.EmbeddingOp, operands: Operands, context: Context) -> Results:
    tokens, table = operands
    if op.vocab_axis is not None:
        raise NumericError("the vocabulary is sharded: only the interpreter of a mesh knows the rows of this rank")
    if tokens.size and not (tokens.min() >= 0 and tokens.max() < table.shape[0]):
        raise NumericError(
            f"token ids are {int(tokens.min())} to {int(tokens.max())}, the vocabulary has 0 to {table.shape[0] - 1}"
        )
    return (semantics.embedding(tokens, table),)


@implements(layer.PositionEmbeddingOp)
def _position_embedding(op: layer.PositionEmbeddingOp, operands: Operands, context: Context) -> Results:
    x, table = operands
    q_len, first = context.integer(op.q_len.data, op), context.integer(op.first_row, op)
    if q_len < 1 or len(x) % q_len:
        raise NumericError(f"{len(x)} rows are not whole sequences of q_len {q_len}")
    if first + q_len > len(table):
        raise NumericError(f"the last position needs row {first + q_len - 1}, the table has {len(table)}")
    return (x + table[np.tile(np.arange(first, first + q_len), len(x) // q_len)],)


@implements(layer.RmsNormOp)
def _rms_norm(op: layer.RmsNormOp, operands: Operands, context: Context) -> Results:
    x, *gain = operands
    w = _gain(op, gain[0]) if gain else np.ones(op.group.value.data, x.dtype)
    return (semantics.rms_norm(x, w, op.eps.value.data, op.group.value.data),)


def _gain(op: layer.RmsNormOp | layer.SplitRmsNormOp | layer.AddRmsNormOp | layer.LayerNormOp, w: Array) -> Array:
    """What a norm multiplies with."""
    return w if op.zero_centered is None else 1 + w


@implements(layer.SquareSumOp)
def _square_sum(op: layer.SquareSumOp, operands: Operands, context: Context) -> Results:
    return (np.square(operands[0]).sum(axis=-1, keepdims=True),)


@implements(layer.SplitRmsNormOp)
def _split_rms_norm(op: layer.SplitRmsNormOp, operands: Operands, context: Context) -> Results:
    x, sums, w = operands
    return (x / np.sqrt(sums / op.width.value.data + op.eps.value.data) * _gain(op, w),)


@implements(layer.AddRmsNormOp)
def _add_rms_norm(op: layer.AddRmsNormOp, operands: Operands, context: Context) -> Results:
    a, b, w = operands
    total = a + b
    return total, semantics.rms_norm(total, _gain(op, w), op.eps.value.data, total.shape[-1])


@implements(layer.LayerNormOp)
def _layer_norm(op: layer.LayerNormOp, operands: Operands, context: Context) -> Results:
    x, w, *bias = operands
    y = sparse_attention.layer_norm(x, _gain(op, w), bias[0] if bias else np.zeros_like(w), op.eps.value.data)
    return (y,)


def _positions(op: layer.RopeOp | layer.TemperatureOp, rows: int, context: Context) -> Array:
    """Where the queries of a sequence stand."""
    q_len = context.integer(op.q_len.data, op)
    if q_len == rows == 0:
        return np.zeros(0, np.int64)
    if q_len < 1 or rows % q_len:
        raise NumericError(f"{where(op)}: {rows} rows are not whole sequences of q_len {q_len}")
    found: Array = np.arange(q_len) * op.stride.value.data + context.integer(op.position(expr(0)), op)
    return found


@implements(layer.TemperatureOp)
def _temperature(op: layer.TemperatureOp, operands: Operands, context: Context) -> Results:
    (x,) = operands
    positions = _positions(op, len(x), context)
    return (elementwise.temperature(x, op.floor.value.data, op.scale.value.data, positions),)


@implements(layer.RopeOp)
def _rope(op: layer.RopeOp, operands: Operands, context: Context) -> Results:
    positions = _positions(op, operands[0].shape[0], context)
    y = rope(
        operands[0],
        op.head_dim.value.data,
        op.theta.value.data,
        bool(op.interleaved),
        positions,
        None if op.scaling is None else scaling_fields(of_length(op.scaling, context.integer(op.sequence_length, op))),
        None if op.rotary_dim is None else op.rotary_dim.value.data,
        op.trailing is not None,
        op.inverse is not None,
    )
    return (y,)


def scaling_fields(scaling: DictionaryAttr) -> Scaling:
    """The fields of a `rope_scaling` attribute as Python values."""
    return {name: _field(name, value) for name, value in scaling.data.items()}


def _field(name: str, value: Attribute) -> float | int | str | bool | list[float]:
    match value:
        case StringAttr():
            return value.data
        case IntegerAttr():
            integer = cast(IntegerAttr[IntegerType], value)
            return bool(integer.value.data) if integer.type == IntegerType(1) else integer.value.data
        case FloatAttr():
            return value.value.data
        case ArrayAttr() if all(isinstance(each, FloatAttr) for each in value):
            return [each.value.data for each in value if isinstance(each, FloatAttr)]
        case _:
            raise NumericError(
                f"rope scaling field '{name}' is {value}, must be a number, a string, a boolean or a list"
            )


@implements(layer.SiluMulOp)
def _silu_mul(op: layer.SiluMulOp, operands: Operands, context: Context) -> Results:
    return (semantics.silu_mul(*operands),)


@implements(layer.ActivationOp)
def _activation(op: layer.ActivationOp, operands: Operands, context: Context) -> Results:
    return (elementwise.activation(op.function.data, operands[0]),)


@implements(layer.GatedActivationOp)
def _gated_activation(op: layer.GatedActivationOp, operands: Operands, context: Context) -> Results:
    gate, up = operands
    limit, alpha = (None if value is None else value.value.data for value in (op.limit, op.alpha))
    return (elementwise.gated_activation(op.function.data, gate, up, limit, alpha),)


@implements(layer.AddBiasOp)
def _add_bias(op: layer.AddBiasOp, operands: Operands, context: Context) -> Results:
    x, b = operands
    return (elementwise.add_bias(x, b, 1 if op.share is None else context.integer(op.share.data, op)),)


@implements(layer.ScaleOp)
def _scale(op: layer.ScaleOp, operands: Operands, context: Context) -> Results:
    return (op.factor.value.data * operands[0],)


@implements(layer.MultiplyOp)
def _multiply(op: layer.MultiplyOp, operands: Operands, context: Context) -> Results:
    x, w = operands
    return (x * w,)


@implements(layer.CopyStreamsOp)
def _copy_streams(op: layer.CopyStreamsOp, operands: Operands, context: Context) -> Results:
    return (np.tile(operands[0], op.streams.value.data),)


@implements(layer.StreamWeightsOp)
def _stream_weights(op: layer.StreamWeightsOp, operands: Operands, context: Context) -> Results:
    x, scale, base = operands
    count, iterations, eps = op.streams.value.data, op.iterations.value.data, op.eps.value.data
    return (hyper_connections.stream_weights(x, scale, base, count, iterations, eps),)


@implements(layer.CollapseStreamsOp)
def _collapse_streams(op: layer.CollapseStreamsOp, operands: Operands, context: Context) -> Results:
    x, weights = operands
    return (hyper_connections.collapse_streams(x, weights, op.streams.value.data),)


@implements(layer.MixStreamsOp)
def _mix_streams(op: layer.MixStreamsOp, operands: Operands, context: Context) -> Results:
    x, added, weights = operands
    return (hyper_connections.mix_streams(x, added, weights, op.streams.value.data),)


@implements(layer.SoftCapOp)
def _soft_cap(op: layer.SoftCapOp, operands: Operands, context: Context) -> Results:
    return (elementwise.soft_cap(operands[0], op.cap.value.data),)


@implements(layer.RowGateOp)
def _row_gate(op: layer.RowGateOp, operands: Operands, context: Context) -> Results:
    return (elementwise.row_gate(*operands),)


@implements(layer.AddOp)
def _add(op: layer.AddOp, operands: Operands, context: Context) -> Results:
    return (operands[0] + operands[1],)


@implements(layer.SoftplusOp)
def _softplus(op: layer.SoftplusOp, operands: Operands, context: Context) -> Results:
    x, bias = operands
    return (recurrence.softplus(x, bias, op.low.value.data, op.high.value.data),)


@implements(layer.DecayOp)
def _decay(op: layer.DecayOp, operands: Operands, context: Context) -> Results:
    return (recurrence.decay(*operands),)


@implements(layer.L2NormOp)
def _l2_norm(op: layer.L2NormOp, operands: Operands, context: Context) -> Results:
    return (recurrence.l2_norm(operands[0], op.eps.value.data, op.group.value.data),)


@implements(layer.GatedRmsNormOp)
def _gated_rms_norm(op: layer.GatedRmsNormOp, operands: Operands, context: Context) -> Results:
    x, gate, w = operands
    gate_first, silu = bool(op.gate_first), op.activation.data == "silu"
    return (recurrence.gated_rms_norm(x, gate, w, op.eps.value.data, op.group.value.data, gate_first, silu),)


@implements(layer.QuantizeOp)
def _quantize(op: layer.QuantizeOp, operands: Operands, context: Context) -> Results:
    return (operands[0],)  # the rounding is that of storing any result


# -- views and state ----------------------------------------------------------------------------------------


@implements(layer.SampledTokensOp)
def _sampled_tokens(op: layer.SampledTokensOp, operands: Operands, context: Context) -> Results:
    """Those that are given: the inputs of a program hold them all."""
    return (operands[0],)


@implements(layer.SliceOp)
def _slice(op: layer.SliceOp, operands: Operands, context: Context) -> Results:
    group, offset, size = (p.value.data for p in (op.group, op.offset, op.size))
    return (semantics.column_slice(operands[0], group, offset, size),)


@implements(layer.LastTokenOp)
def _last_token(op: layer.LastTokenOp, operands: Operands, context: Context) -> Results:
    return (semantics.last_token(operands[0], context.integer(op.q_len.data, op)),)


@implements(layer.KvAppendOp)
def _kv_append(op: layer.KvAppendOp, operands: Operands, context: Context) -> Results:
    return (semantics.kv_append(*operands),)


@implements(layer.CausalConvOp)
def _causal_conv(op: layer.CausalConvOp, operands: Operands, context: Context) -> Results:
    x, weight, state, *bias = operands
    return recurrence.causal_conv(x, weight, state, bias[0] if bias else None, op.activation.data)


@implements(layer.SsmScanOp)
def _ssm_scan(op: layer.SsmScanOp, operands: Operands, context: Context) -> Results:
    x, b, c, dt, a_log, d, state = operands
    return recurrence.ssm_scan(x, b, c, dt, a_log, d, state)


@implements(layer.GatedDeltaOp)
def _gated_delta(op: layer.GatedDeltaOp, operands: Operands, context: Context) -> Results:
    v, q, k, g, beta, state = operands
    return recurrence.gated_delta(v, q, k, g, beta, state, op.scale.value.data)


# -- mixture of experts -------------------------------------------------------------------------------------


@implements(layer.RouterTopkOp)
def _router_topk(op: layer.RouterTopkOp, operands: Operands, context: Context) -> Results:
    return routing.router_topk(
        operands[0],
        operands[1] if op.bias is not None else None,
        op.top_k.value.data,
        op.scoring.data,
        op.groups.value.data,
        op.top_groups.value.data,
        bool(op.normalize),
        op.scale.value.data,
        BEST_OF_GROUP if op.best_of_group is None else op.best_of_group.value.data,
    )


@implements(layer.RouterWeightsOp)
def _router_weights(op: layer.RouterWeightsOp, operands: Operands, context: Context) -> Results:
    logits, indices = operands
    how = op.scoring.data, bool(op.normalize), op.scale.value.data
    return (routing.router_weights(logits, indices, *how),)


@implements(layer.ExpertScaleOp)
def _expert_scale(op: layer.ExpertScaleOp, operands: Operands, context: Context) -> Results:
    weights, indices, scale = operands
    return (weights * scale[indices.astype(np.int64)],)


@implements(layer.DispatchOp)
def _dispatch(op: layer.DispatchOp, operands: Operands, context: Context) -> Results:
    x, indices = operands
    experts, capacity = (context.integer(d, op) for d in tensor(op.y).dims[:2])
    return (routing.dispatch(x, indices, experts, capacity),)


@implements(layer.CombineOp)
def _combine(op: layer.CombineOp, operands: Operands, context: Context) -> Results:
    y_experts, indices, weights = operands
    return (routing.combine(y_experts, indices, weights),)
