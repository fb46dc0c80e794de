"""What of a model at the layer level decides over which meshes it can be sharded."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping, Sequence
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
    key_heads: Mapping[str, int]
    """By path of an attention block its key heads, where tp shards them; the one latent head of MLA is none."""
    worst: bool
    """Whether slots of experts have room for all tokens, however many ranks send them."""
    heads: tuple[DividedDim, ...]
    """Query heads, and key heads where these are more than the ranks that share them; those of recurrences."""
    dims: tuple[DividedDim, ...]
    """The dims of weights, caches and slots that axes may split."""
    local: tuple[str, str] | None
    """The path of the first attention that is not of all keys before a query alike: a window, a chunk or a bias."""
    recurrence: str | None
    """The first op that hands a state from token to token, by name and path."""

    @classmethod
    def of(cls, module: ModuleOp) -> ShardedModel:
        """That of all programs of a module at the layer level."""
        ops = [op for program in module.ops if isinstance(program, layer.ProgramOp) for op in program.walk()]
        dispatches = [op for op in ops if isinstance(op, layer.DispatchOp)]
        key_heads = _key_heads(ops)
        return cls(
            bool(dispatches),
            any(isinstance(op, layer.WeightOp) and op.transpose_of is not None for op in ops),
            key_heads,
            any(op.capacity.data == "worst" for op in dispatches),
            _firsts(dim for kinds in _WITH_HEADS for op in ops if isinstance(op, kinds) for dim in _heads_of(op)),
            _firsts(
                dim
                for op in ops
                if isinstance(op, layer.SourceOp | layer.DispatchOp)
                for dim in _dims_of(op, key_heads)
            ),
            next(
                (
                    (op.path.data, kind)
                    for op in ops
                    if isinstance(op, layer.FlashAttentionOp) and (kind := _local_kind(op))
                ),
                None,
            ),
            next((f"{op.name} at '{op.path.data}'" for op in ops if isinstance(op, _RECURRENCES)), None),
        )


def _local_kind(op: layer.FlashAttentionOp) -> str | None:
    """What makes keys of a query count by where they stand."""
    if op.alibi_heads is not None:
        return "bias by distance (ALiBi)"
    return None if op.reach is None else op.reach.kind


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


def _dims_of(op: layer.SourceOp | layer.DispatchOp, key_heads: Mapping[str, int]) -> Iterator[DividedDim]:
    """All but vocabularies, which are padded, and what is counted by a symbol, which is split by it."""
    if isinstance(op, layer.DispatchOp):
        named = [("expert", tensor(op.y).dims[0])]
    else:
        names = [axis_of_block(name, op.path.data, key_heads) for name in op.axis_names()]
        named = list(zip(names, tensor(op.result).dims, strict=True))
    for name, dim in named:
        if name != "vocab" and name not in COUNTED_BY:
            yield DividedDim(name, dim.constant if dim.is_constant else 0, op.path.data)


def _key_heads(ops: Sequence[Operation]) -> dict[str, int]:
    found: dict[str, int] = {}
    for op in ops:
        if isinstance(op, layer.AttentionOp | layer.SparseAttentionOp):
            counts = [op.kv_heads(piece) for piece, cache in enumerate(op.k) if _has_head_axis(cache)]
            found |= {op.path.data.rpartition(".")[0]: min(counts)} if counts else {}
    return found


KEY_HEADS = "kv_heads"
"""The logical axis of key heads."""


def axis_of_block(name: str, path: str, key_heads: Mapping[str, int]) -> str:
    """A logical axis, that of key heads with how many the attention block around `path` has: `kv_heads of 4`."""
    if name != KEY_HEADS:
        return name
    block = next((block for block in key_heads if path.startswith(f"{block}.")), None)
    return name if block is None else f"{name} of {key_heads[block]}"


def _has_head_axis(cache: SSAValue) -> bool:
    """Whether a key operand is a cache whose heads have a logical axis, or rows that are gathered from one."""
    append = cache.owner.cache.owner if isinstance(cache.owner, layer.GatherRowsOp) else cache.owner
    state = append.cache.owner if isinstance(append, layer.KvAppendOp) else None
    return isinstance(state, layer.StateOp) and KEY_HEADS in state.axis_names()
