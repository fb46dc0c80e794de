"""What the vector and top-k commands compute, on tiles: the kinds of `tile.VECTOR_KINDS`.

Matrices are [.., rows, columns] in the compute type; leading dims (cores, ranks) are independent of each other.
Parameters that are expressions arrive evaluated: a number, or an array that broadcasts against [.., rows].
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
import numpy.typing as npt
from xdsl.dialects.builtin import DictionaryAttr, FloatAttr, IntegerAttr, StringAttr, i1
from xdsl.ir import Attribute

from pmc.backends.numeric.errors import Array, NumericError
from pmc.backends.numeric.rotary import rope_frequencies
from pmc.backends.numeric.routing import router_topk
from pmc.backends.numeric.semantics import rms_norm, silu_mul

ROW = "row"
"""The symbol of the row number in parameters that differ from row to row (`position` of a rope)."""

Params = Mapping[str, Any]


def plain_params(params: Mapping[str, Attribute]) -> dict[str, Any]:
    """Attributes as Python values; expressions stay attributes."""
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
        case _:
            return value


def extents(kind: str, rows: int, columns: int, widths: Sequence[int], params: Params) -> list[tuple[int, int]]:
    """Rows and columns that the command uses of its inputs, outputs and updates; `widths` are those of the buffers."""
    tile = (rows, columns)
    match kind:
        case "rms_norm":
            return [tile, (1, params["group"]), tile]
        case "softmax_step":
            return [tile, tile, (rows, 1), (rows, 1), (rows, widths[4])]
        case "softmax_finish":
            return [tile, (rows, 1), tile]
        case "router_topk":
            return [tile, (1, columns), (rows, params["top_k"]), (rows, params["top_k"])]
        case _:
            return [tile] * len(widths)


def run_kind(
    kind: str, params: Params, ins: Sequence[Array], updates: Sequence[Array], shape: tuple[int, ...]
) -> list[Array]:
    """The outputs, then the new values of the updates; `shape` is that of the first output.

    Raises NumericError for a kind without semantics.
    """
    match kind:
        case "fill":
            return [np.full(shape, params["value"], np.float64)]
        case "convert":
            return [ins[0]]
        case "add":
            return [ins[0] + ins[1]]
        case "silu_mul":
            return [silu_mul(ins[0], ins[1])]
        case "rms_norm":
            x, w = ins
            # The one weight row meets [.., rows, groups, group].
            return [rms_norm(x, w[..., None, :], params["eps"], params["group"])]
        case "rope":
            return [_rope(ins[0], params)]
        case "softmax_step":
            return softmax_step(ins[0], updates, params)
        case "softmax_finish":
            return [ins[0] / ins[1]]
        case "router_topk":
            return _router_topk(ins[0], ins[1], params)
        case _:
            raise NumericError(f"vector kind '{kind}' has no numeric semantics")


def _rope(x: Array, params: Params) -> Array:
    """Every `head_dim` columns of a row turned by the angles of the row's position (RoFormer, equation 34)."""
    head_dim: int = params["head_dim"]
    frequencies, factor = rope_frequencies(head_dim, params["theta"], params.get("scaling"))
    position = np.asarray(params["position"], np.float64)
    position = np.broadcast_to(position, (*position.shape[: max(0, position.ndim - 1)], x.shape[-2]))
    angles = position[..., None, None] * frequencies
    cos, sin = (np.asarray(f(angles) * factor, x.dtype) for f in (np.cos, np.sin))
    heads = x.reshape(*x.shape[:-1], -1, head_dim)
    half = head_dim // 2
    pairs = (slice(0, None, 2), slice(1, None, 2)) if params["interleaved"] else (slice(half), slice(half, None))
    first, second = heads[..., pairs[0]], heads[..., pairs[1]]
    y = np.empty_like(heads)
    y[..., pairs[0]] = first * cos - second * sin
    y[..., pairs[1]] = second * cos + first * sin
    return y.reshape(x.shape)


def softmax_step(scores: Array, updates: Sequence[Array], params: Params) -> list[Array]:
    """One block of keys of FlashAttention-2, as `tile.VECTOR_KINDS` says: p, then the new max, sum and accumulator."""
    scaled = scores * np.asarray(params["scale"], scores.dtype)
    if params["causal"]:
        visible = _visible(np.asarray(params["key"]), np.asarray(params["position"]), scores.shape[-1])
        scaled = np.where(visible, scaled, np.asarray(-np.inf, scores.dtype))
    old_max, old_sum, acc = updates
    new_max = np.maximum(old_max, scaled.max(axis=-1, keepdims=True))
    # A row that has seen no key yet has maximum -inf; its weights are zero, not exp(nan).
    finite = np.where(np.isfinite(new_max), new_max, np.zeros((), scores.dtype))
    p = np.exp(scaled - finite)
    rescale = np.exp(old_max - finite)
    return [p, new_max, old_sum * rescale + p.sum(axis=-1, keepdims=True), acc * rescale]


def _visible(key: Array, position: Array, columns: int) -> npt.NDArray[np.bool_]:
    """[.., rows, columns]: column c is key `key` + c, a row sees keys up to its position."""
    visible: npt.NDArray[np.bool_] = np.less_equal(key[..., None] + np.arange(columns), position[..., None])
    return visible


def _router_topk(logits: Array, bias: Array, params: Params) -> list[Array]:
    experts = logits.shape[-1]
    rows = logits.reshape(-1, experts)
    offsets = np.broadcast_to(bias, logits.shape).reshape(-1, experts)
    names = ("top_k", "scoring", "groups", "top_groups", "normalize", "scale")
    results = router_topk(rows, offsets, *(params[name] for name in names))
    return [r.reshape(*logits.shape[:-1], -1) for r in results]
