"""The logical trace of a workload of experts: the events of every token, from who is routed where."""

from __future__ import annotations

import numpy as np

from pmc.dialects.interfaces import IntArray
from pmc.dialects.moe_workload import MoeWorkload
from pmc.dialects.table import Table
from pmc.dialects.table_columns import Lists, Texts
from pmc.dialects.trace_tables import ACCESSES, LOGICAL_COMPUTE, LOGICAL_MEMORY, OPS, WEIGHTS, trace_table

FC, ATTN = (OPS.index(op) for op in ("fc", "attn"))
READ, WRITE = (ACCESSES.index(access) for access in ("read", "write"))


def logical_tables(workload: MoeWorkload, routing: IntArray) -> tuple[Table, Table]:
    """The compute and the memory table of tokens that are routed to `routing` [steps * micro_batch, topk].

    A token has an event `fc`, which reads a shard of the weights of each of its experts, and an event `attn`, which
    reads the cache of its sequence and writes what it adds.
    """
    tokens, topk = routing.shape
    token = np.arange(tokens, dtype=np.int64)
    micro_batch, fc, attn = workload.sequence.micro_batch, workload.operators.fc, workload.operators.attn
    both, events = np.repeat(token, 2), np.arange(1, 2 * tokens + 1, dtype=np.int64)
    flops = np.tile([*[fc.flop_per_token / topk] * topk, attn.flop_per_token], tokens)
    compute = trace_table(
        LOGICAL_COMPUTE,
        event_id=events,
        t_gen_ns=generation_ns(workload)[both // micro_batch],
        mb_id=both // micro_batch,
        token_id=both,
        experts_json=Lists(_starts(topk, 0, tokens), Texts.coded(routing.reshape(-1), _names(workload))),
        flops_json=Lists(_starts(topk, 1, tokens), flops),
        op_type=np.tile([FC, ATTN], tokens),
    )
    return compute, _memory(workload, routing, events)


def weights_table(workload: MoeWorkload) -> Table:
    """All experts of the workload, and the shards of their weights."""
    names, tensors = _names(workload), workload.tensors
    return trace_table(
        WEIGHTS,
        expert=Texts.of(names),
        shards=np.full(len(names), tensors.shards_per_expert, np.int64),
        shard_bytes=np.full(len(names), round(tensors.weight_shard_mb * 2**20), np.int64),
    )


def generation_ns(workload: MoeWorkload) -> IntArray:
    """When every micro-batch is generated."""
    interval = workload.sequence.interval_ms * 1e6
    return np.round(np.arange(workload.sequence.steps) * interval).astype(np.int64)


def _memory(workload: MoeWorkload, routing: IntArray, events: IntArray) -> Table:
    tokens, topk = routing.shape
    token = np.arange(tokens, dtype=np.int64)
    shards = workload.tensors.shards_per_expert
    micro_batch, operators = workload.sequence.micro_batch, workload.operators
    sequence = token % micro_batch + token // micro_batch % 2 * micro_batch
    weights = [f"W_{name}_{shard}" for name in _names(workload) for shard in range(shards)]
    caches = [f"KV_S{number}" for number in range(2 * micro_batch)]
    cache = (len(weights) + sequence)[:, None]
    tensors = np.concatenate([routing * shards + (token % shards)[:, None], cache, cache], axis=1)
    hints = np.concatenate([np.repeat(token % shards, topk).reshape(-1, topk), np.full((tokens, 2), shards)], axis=1)
    kv = operators.attn.kv_bytes_per_token
    sizes = [*[operators.fc.weight_bytes_per_token] * topk, workload.sequence.tokens * kv, kv]
    return trace_table(
        LOGICAL_MEMORY,
        event_id=np.repeat(events, np.tile([topk, 2], tokens)),
        tensor_id=Texts.coded(tensors.reshape(-1), [*weights, *caches]),
        access=np.tile([*[READ] * topk, READ, WRITE], tokens),
        bytes=np.tile(sizes, tokens),
        locality_hint=Texts.coded(hints.reshape(-1), [*(f"shard{shard}" for shard in range(shards)), "kv"]),
    )


def _names(workload: MoeWorkload) -> list[str]:
    return [f"E{expert}" for expert in range(workload.routing.experts)]


def _starts(first: int, second: int, tokens: int) -> IntArray:
    return np.concatenate([[0], np.cumsum(np.tile([first, second], tokens))])
