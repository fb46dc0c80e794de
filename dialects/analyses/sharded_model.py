"""What of a model at the layer level decides over which meshes it can be sharded."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from typing import NamedTuple

from xdsl.dialects.builtin import ModuleOp
from xdsl.ir import Operation, SSAValue

from pmc.dialects import layer
from pmc.dialects.tensor import tensor

COUNTED_BY = {"batch": "batch", "position": "kv_len"}
"""Logical axes whose dim must still be a symbol where a mesh axis splits it."""


@dataclass(frozen=True)
class ShardedModel:
    """What of a model decides over which meshes it can be sharded."""

    experts: bool
    tied: bool
    """Whether embedding and LM head are one table."""
    kv_heads: int | None
    """The number of key heads that tp shards, if any attention has such; the one latent head of MLA is none."""
    worst: bool
    """Whether slots of experts have room for all tokens, however many ranks send them."""
    heads: tuple[DividedDim, ...]
    """Query heads, and key heads where these are more than the ranks that share them; those of recurrences."""
    dims: tuple[DividedDim, ...]
    """The dims of weights, caches and slots that axes may split."""
    local: tuple[str, str] | None
    """The path of the first attention whose queries do not see all keys before them: a window or a chunk."""
    recurrence: str | None
    """The first op that hands a state from token to token, by name and path."""

    @classmethod
    def of(cls, module: ModuleOp) -> ShardedModel:
        """That of all programs of a module at the layer level."""
        ops = [op for program in module.ops if isinstance(program, layer.ProgramOp) for op in program.walk()]
        dispatches = [op for op in ops if isinstance(op, layer.DispatchOp)]
        return cls(
            bool(dispatches),
            any(isinstance(op, layer.WeightOp) and op.transpose_of is not None for op in ops),
            _fewest_kv_heads(ops),
            any(op.capacity.data == "worst" for op in dispatches),
            _firsts(dim for kinds in _WITH_HEADS for op in ops if isinstance(op, kinds) for dim in _heads_of(op)),
            _firsts(dim for op in ops if isinstance(op, layer.SourceOp | layer.DispatchOp) for dim in _dims_of(op)),
            next(
                ((op.path.data, op.reach.kind) for op in ops if isinstance(op, layer.FlashAttentionOp) and op.reach),
                None,
            ),
            next((f"{op.name} at '{op.path.data}'" for op in ops if isinstance(op, _RECURRENCES)), None),
        )


_WITH_HEADS = ((layer.FlashAttentionOp, layer.RecurrenceOp), layer.HeadMatmulOp)
"""Those whose heads others follow, then matmuls, whose groups may be other ones (DeepSeek-V4)."""
_RECURRENCES = (layer.CausalConvOp, layer.RecurrenceOp)


class DividedDim(NamedTuple):
    """A dim of which every rank has as much."""

    axis: str
    """Its logical axis."""
    size: int
    """0 for a dim with a symbol, which is rounded up."""
    path: str
    """Of the first op with such a dim."""


def _firsts(dims: Iterable[DividedDim]) -> tuple[DividedDim, ...]:
    """One of each axis and size."""
    found: dict[tuple[str, int], DividedDim] = {}
    for dim in dims:
        found.setdefault(dim[:2], dim)
    return tuple(found.values())


def _heads_of(op: layer.FlashAttentionOp | layer.HeadMatmulOp | layer.RecurrenceOp) -> Iterator[DividedDim]:
    if isinstance(op, layer.HeadMatmulOp):
        yield DividedDim("groups", tensor(op.w).dims[1].constant // op.group.value.data, op.path.data)
        return
    if isinstance(op, layer.RecurrenceOp):
        yield DividedDim("heads", op.heads, op.path.data)
        if op.groups > 1:
            yield DividedDim("groups", op.groups, op.path.data)
        return
    yield DividedDim("heads", op.heads, op.path.data)
    for piece in range(len(op.k)):
        yield DividedDim("key heads", op.kv_heads(piece), op.path.data)


def _dims_of(op: layer.SourceOp | layer.DispatchOp) -> Iterator[DividedDim]:
    """All but vocabularies, which are padded, and what is counted by a symbol, which is split by it."""
    if isinstance(op, layer.DispatchOp):
        named = [("expert", tensor(op.y).dims[0])]
    else:
        named = list(zip(op.axis_names(), tensor(op.result).dims, strict=True))
    for name, dim in named:
        if name != "vocab" and name not in COUNTED_BY:
            yield DividedDim(name, dim.constant if dim.is_constant else 0, op.path.data)


def _fewest_kv_heads(ops: Sequence[Operation]) -> int | None:
    counts = [
        op.kv_heads(piece)
        for op in ops
        if isinstance(op, layer.AttentionOp)
        for piece, cache in enumerate(op.k)
        if _has_head_axis(cache)
    ]
    return min(counts, default=None)


def _has_head_axis(cache: SSAValue) -> bool:
    """Whether a key operand is a cache whose heads have a logical axis."""
    append = cache.owner
    state = append.cache.owner if isinstance(append, layer.KvAppendOp) else None
    return isinstance(state, layer.StateOp) and "kv_heads" in state.axis_names()
