"""The logical trace of one rank of a compiled model: its layers, the tokens routed to its experts, step by step.

Experts are `L<layer>E<index>` with the index among all experts of the layer.  The layers of a step are generated one
after the other, evenly over the time of a step.  An expert reads its weights once per step, each of its tokens a part.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from pmc.dialects import deployment
from pmc.dialects.analyses.expert_draws import RANKS, TOKENS, drawn, zipf_weights
from pmc.dialects.analyses.moe_layers import MoeLayer
from pmc.dialects.analyses.token_copies import RouterChoice, drawn_experts
from pmc.dialects.analyses.workload_trace import ATTN, FC, READ, WRITE
from pmc.dialects.interfaces import FloatArray, IntArray
from pmc.dialects.table import Table
from pmc.dialects.table_columns import Lists, Texts
from pmc.dialects.trace_tables import LOGICAL_COMPUTE, LOGICAL_MEMORY, WEIGHTS, trace_table


@dataclass(frozen=True)
class StepPlan:
    """How the steps of a trace are drawn."""

    steps: int
    interval_ns: int
    tokens: int
    """Tokens of a step over all ranks that share the experts; the first are those of the rank itself."""
    law: deployment.Routing
    seed: int
    shard_bytes: int
    """The largest shard of weights."""


def law_routing(law: deployment.Routing, choice: RouterChoice, tokens: int, seed: Sequence[int]) -> IntArray:
    """The experts [tokens, top_k] that tokens choose under the law of a deployment, all different.

    A Zipf law puts the popular experts anywhere, by the seed; a router with groups opens `top_groups` of them to a
    token.  Raises PmcError for a histogram that does not fit.
    """
    if isinstance(law, deployment.Histogram):
        return drawn_experts(law.histogram, choice, tokens, seed=int(np.random.default_rng(seed).integers(2**31)))
    random = np.random.default_rng([*seed, TOKENS])
    zipf = law.zipf if isinstance(law, deployment.Zipf) else 0.0
    popularity = zipf_weights(np.random.default_rng([*seed, RANKS]).permutation(choice.experts), zipf)
    weight: FloatArray = np.broadcast_to(popularity, (tokens, choice.experts))
    if choice.top_groups < choice.groups:
        weight = weight * _open(choice, tokens, random)
    return drawn(weight, choice.top_k, random)


def _open(choice: RouterChoice, tokens: int, random: np.random.Generator) -> FloatArray:
    """1 for the experts [token, expert] of the groups that are open to a token."""
    keys = random.random((tokens, choice.groups))
    opened = np.zeros_like(keys)
    chosen = np.argpartition(keys, choice.top_groups - 1, axis=1)[:, : choice.top_groups]
    np.put_along_axis(opened, chosen, 1.0, axis=1)
    return np.repeat(opened, choice.experts // choice.groups, axis=1)


def rank_weights(layers: Sequence[MoeLayer], plan: StepPlan) -> Table:
    """The experts that the first rank holds, and the shards of their weights."""
    names = [name for found in layers for name in _names(found)]
    sizes = np.repeat([found.expert_bytes for found in layers], [found.routed.local_experts for found in layers])
    shards = -(-sizes // plan.shard_bytes)
    return trace_table(WEIGHTS, expert=Texts.of(names), shards=shards, shard_bytes=-(-sizes // shards))


def model_tables(layers: Sequence[MoeLayer], plan: StepPlan) -> tuple[Table, Table]:
    """The compute and the memory table of the first rank, which holds the first experts of every layer.

    `shard_bytes` and `law` of the plan must be those of `rank_weights`.  Events of a step stand layer by layer,
    attention first.  Raises PmcError for a histogram that does not fit.
    """
    names = [name for found in layers for name in _names(found)]
    firsts = np.cumsum([0, *(found.routed.local_experts for found in layers)]).tolist()
    shards = rank_weights(layers, plan).ints("shards")
    pieces = [
        piece
        for number, (found, first) in enumerate(zip(layers, firsts, strict=False))
        for piece in (_attention(found, plan), _experts(found, number, first, shards, plan))
    ]
    place = np.repeat(np.arange(len(pieces)), [len(piece.token) for piece in pieces])
    token = np.concatenate([piece.token for piece in pieces])
    order = np.lexsort((token, place, token // plan.tokens))
    number = np.empty_like(order)
    number[order] = np.arange(1, len(order) + 1)
    late = place // 2 * plan.interval_ns // max(1, len(layers))
    experts, flops = _lists(pieces, "experts")[order], _lists(pieces, "flops")[order]
    assert isinstance(experts.values, np.ndarray)
    compute = trace_table(
        LOGICAL_COMPUTE,
        event_id=np.arange(1, len(order) + 1, dtype=np.int64),
        t_gen_ns=(token // plan.tokens * plan.interval_ns + late)[order],
        mb_id=(token // plan.tokens)[order],
        token_id=token[order],
        experts_json=Lists(experts.starts, Texts.coded(experts.values.astype(np.int64), names)),
        flops_json=flops,
        op_type=np.where(place % 2 == 0, ATTN, FC)[order],
    )
    return compute, _memory(pieces, number, names, shards, plan)


@dataclass(frozen=True, eq=False)
class _Piece:
    """The events of one op of one layer."""

    token: IntArray
    """Of every event."""
    experts: Lists
    flops: Lists
    row_event: IntArray
    """Of every memory row its event, expert and shard or -1 for the cache of the token, access and bytes."""
    row_expert: IntArray
    row_shard: IntArray
    row_write: IntArray
    row_bytes: IntArray


def _attention(found: MoeLayer, plan: StepPlan) -> _Piece:
    own = min(found.rank_tokens, plan.tokens) if found.attention_flop else 0
    token = (np.arange(plan.steps)[:, None] * plan.tokens + np.arange(own)).reshape(-1)
    kinds = [(READ, found.cache_bytes), (WRITE, found.appended_bytes)]
    kinds = [kind for kind in kinds if kind[1]]
    rows = np.repeat(np.arange(len(token)), len(kinds))
    none = np.full(len(rows), -1, np.int64)
    return _Piece(
        token, Lists(np.zeros(len(token) + 1, np.int64), np.zeros(0, np.int64)),
        Lists.of_equal(np.full(len(token), found.attention_flop), 1), rows, none, none,
        np.tile(np.array([kind[0] for kind in kinds], np.int64), len(token)),
        np.tile(np.array([kind[1] for kind in kinds], np.int64), len(token)),
    )  # fmt: skip


def _experts(found: MoeLayer, number: int, first: int, shards: IntArray, plan: StepPlan) -> _Piece:
    routing = law_routing(plan.law, found.routed.choice, plan.steps * plan.tokens, (plan.seed, number))
    here = routing < found.routed.local_experts
    token = np.flatnonzero(here.any(axis=1))
    lengths, expert = here[token].sum(axis=1), routing[token][here[token]]
    starts = np.concatenate([[0], np.cumsum(lengths)]).astype(np.int64)
    event = np.repeat(np.arange(len(token)), lengths)
    turn, users = _turns(token[event] // plan.tokens * found.routed.local_experts + expert)
    size = found.expert_bytes
    return _Piece(
        token, Lists(starts, expert + first), Lists(starts, np.full(len(expert), found.expert_flop)),
        event, expert + first, turn % shards[first + expert], np.full(len(expert), READ, np.int64),
        size * (turn + 1) // users - size * turn // users,
    )  # fmt: skip


def _turns(key: IntArray) -> tuple[IntArray, IntArray]:
    """Of every entry, how many before it have its key, and how many have it in all."""
    _, group, count = np.unique(key, return_inverse=True, return_counts=True)
    order = np.argsort(group, kind="stable")
    turn = np.empty_like(order)
    turn[order] = np.arange(len(key)) - np.repeat(np.cumsum(count) - count, count)
    return turn, np.asarray(count[group], np.int64)


def _lists(pieces: Sequence[_Piece], name: str) -> Lists:
    parts: list[Lists] = [getattr(piece, name) for piece in pieces]
    starts = np.concatenate([[0], np.cumsum(np.concatenate([part.lengths for part in parts]))]).astype(np.int64)
    return Lists(starts, np.concatenate([np.asarray(part.values) for part in parts]))


def _memory(pieces: Sequence[_Piece], number: IntArray, names: list[str], shards: IntArray, plan: StepPlan) -> Table:
    first = np.cumsum([0, *(len(piece.token) for piece in pieces)])
    event = np.concatenate([piece.row_event + start for piece, start in zip(pieces, first.tolist(), strict=False)])
    expert, shard, write, size = (
        np.concatenate([getattr(piece, name) for piece in pieces])
        for name in ("row_expert", "row_shard", "row_write", "row_bytes")
    )
    token = np.concatenate([piece.token for piece in pieces])[event]
    sequence = token % plan.tokens + token // plan.tokens % 2 * plan.tokens
    before = np.cumsum(shards) - shards
    words = [f"W_{name}_{n}" for name, count in zip(names, shards.tolist(), strict=True) for n in range(count)]
    tensor = np.where(expert < 0, len(words) + sequence, before[expert] + shard)
    words += [f"KV_S{n}" for n in range(2 * plan.tokens)]
    hints = [f"shard{n}" for n in range(int(shards.max(initial=0)))]
    order = np.lexsort((np.arange(len(event)), number[event]))
    return trace_table(
        LOGICAL_MEMORY,
        event_id=number[event][order],
        tensor_id=Texts.coded(tensor[order], words),
        access=write[order],
        bytes=size[order],
        locality_hint=Texts.coded(np.where(expert < 0, len(hints), shard)[order], [*hints, "kv"]),
    )


def _names(found: MoeLayer) -> list[str]:
    return [f"L{found.index}E{expert}" for expert in range(found.routed.local_experts)]
