"""What the mixture-of-experts operations compute: choosing experts, and the two permutations around them."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np

from pmc.backends.numeric.errors import Array, NumericError
from pmc.backends.numeric.semantics import sigmoid, softmax

SCORES: dict[str, Callable[[Array], Array]] = {
    "softmax": softmax,
    "sigmoid": sigmoid,
    "sqrtsoftplus": lambda z: np.sqrt(np.logaddexp(np.zeros_like(z), z)),
    "none": lambda z: z,
}
"""What makes scores of router logits [T, E]."""


def router_topk(
    logits: Array,
    bias: Array | None,
    top_k: int,
    scoring: str,
    groups: int,
    top_groups: int,
    normalize: bool,
    scale: float,
    best_of_group: int = 2,
) -> tuple[Array, Array]:
    """Weights and indices [T, top_k] of the chosen experts of every token, best first, from logits [T, E].

    Scores are one of `SCORES` of the logits; the choice is made on score + bias, within the `top_groups`
    groups whose `best_of_group` best choices sum highest (DeepSeek-V3 report, section 2.1.2).  Weights are plain
    scores.  Equal choices go to the lower index.
    """
    scores = SCORES[scoring](logits)
    choice = scores if bias is None else scores + bias
    if groups > 1:
        grouped = choice.reshape(choice.shape[0], groups, -1)
        best = np.sort(grouped, axis=-1)[..., -best_of_group:].sum(axis=-1)
        closed = np.ones(best.shape, bool)
        np.put_along_axis(closed, _largest(best, top_groups), False, axis=-1)
        choice = np.where(closed[..., None], -np.inf, grouped).reshape(choice.shape)
    indices = _largest(choice, top_k)
    return _weights(scores, indices, normalize, scale), indices


def router_weights(logits: Array, indices: Array, scoring: str, normalize: bool, scale: float) -> Array:
    """The weights [T, top_k] of experts that were chosen without the logits."""
    return _weights(SCORES[scoring](logits), indices.astype(np.int64), normalize, scale)


def _weights(scores: Array, indices: Array, normalize: bool, scale: float) -> Array:
    weights = np.take_along_axis(scores, indices, axis=-1)
    if normalize:
        weights = weights / weights.sum(axis=-1, keepdims=True)
    found: Array = weights * np.asarray(scale, weights.dtype)
    return found


def _largest(values: Array, count: int) -> Array:
    """The indices of the `count` largest values of every row, largest first, ties in index order."""
    return np.argsort(-values, axis=-1, kind="stable")[..., :count]


def expert_slots(indices: Array, experts: int, first_expert: int = 0) -> tuple[Array, Array, Array, Array]:
    """Where every (token, choice) of indices [T, k] goes: 1-D tokens, choices, local experts and slots.

    Slots of an expert count up in token order.  Choices outside first_expert .. first_expert + experts, the
    experts of other ranks, are left out.
    """
    flat = indices.reshape(-1) - first_expert
    kept = np.flatnonzero((flat >= 0) & (flat < experts))
    order = kept[np.argsort(flat[kept], kind="stable")]
    chosen = flat[order]
    counts = np.bincount(chosen, minlength=experts)
    slots = np.arange(len(order)) - (np.cumsum(counts) - counts)[chosen]
    return order // indices.shape[1], order % indices.shape[1], chosen, slots


def dispatch(x: Array, indices: Array, experts: int, capacity: int, first_expert: int = 0) -> Array:
    """The rows of x [T, H] in the slots of their experts: [experts, capacity, H], free slots zero.

    Raises NumericError when an expert gets more tokens than it has slots, for no token is ever dropped, and when x and
    indices are not of the same tokens.
    """
    if len(x) != len(indices):
        raise NumericError(f"{len(x)} tokens are dispatched by the experts of {len(indices)}")
    tokens, _, chosen, slots = expert_slots(indices, experts, first_expert)
    if len(slots) and slots.max() >= capacity:
        busiest = int(chosen[slots.argmax()]) + first_expert
        raise NumericError(f"expert {busiest} gets {int(slots.max()) + 1} tokens, its capacity is {capacity}")
    y = np.zeros((experts, capacity, x.shape[1]), x.dtype)
    y[chosen, slots] = x[tokens]
    return y


def combine(y_experts: Array, indices: Array, weights: Array, first_expert: int = 0) -> Array:
    """sum_j weights[t, j] * (row of token t in expert indices[t, j]): [T, H]; absent experts add nothing.

    Raises NumericError unless indices and weights have the same shape.
    """
    if indices.shape != weights.shape:
        raise NumericError(f"a combine has indices of the shape {indices.shape} and weights of {weights.shape}")
    tokens, choices, chosen, slots = expert_slots(indices, y_experts.shape[0], first_expert)
    if len(slots) and slots.max() >= y_experts.shape[1]:
        raise NumericError(f"slot {int(slots.max())} is outside the capacity {y_experts.shape[1]}")
    # A row per choice first: the sum runs in choice order, whatever the order of the experts.
    rows = np.zeros((*indices.shape, y_experts.shape[2]), y_experts.dtype)
    rows[tokens, choices] = y_experts[chosen, slots]
    y: Array = np.einsum("tk,tkh->th", weights, rows)
    return y
