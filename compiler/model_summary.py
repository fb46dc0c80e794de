"""What a model is made of: its layers in order, its blocks with their sizes, what it keeps of a sequence."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from typing import NamedTuple

from xdsl.context import Context
from xdsl.dialects.builtin import DictionaryAttr, FloatAttr, IntegerAttr, ModuleOp, StringAttr, i1
from xdsl.ir import Attribute, Block

from pmc.compiler.frontend.layer_groups import Period, Run, Turns, in_order, recurring
from pmc.dialects import model
from pmc.dialects.analyses.stored_arrays import stored_arrays
from pmc.dialects.checkpoint import Checkpoint, checkpoint_of
from pmc.dialects.tensor import element_name
from pmc.passes.expand_blocks import ExpandBlocksPass

Size = int | float | str | bool
AROUND = (model.EmbeddingOp, model.NormOp, model.AddOp, model.LmHeadOp)
"""Blocks that all models have, or that stand around the others."""
LONG = 2**30
"""Tokens of a context that is longer than any window."""


class BlockRow(NamedTuple):
    """A block of all layers of a kind."""

    path: str
    """That of the first of them."""
    name: str
    layers: int
    parameters: int


class CacheBytes(NamedTuple):
    """What all layers keep of one sequence, in the types of the model."""

    per_token: float
    """For every token before, without end."""
    in_windows: int
    """Of the newest tokens at most, where a layer sees no others."""
    states: int
    """Of a fixed size, however long the sequence is."""


@dataclass(frozen=True)
class BlockKind:
    """Equal blocks: the op, its sizes, and the kinds of layers that have it."""

    name: str
    sizes: Mapping[str, Size]
    layers: tuple[str, ...]


@dataclass(frozen=True)
class ModelSummary:
    """One model."""

    architecture: str
    dtype: str
    hidden_size: int
    vocab_size: int
    tied: bool
    """Whether the LM head is the embedding table."""
    layers: int
    order: str
    """The kinds of layers in order, `3 dense, 58 moe` or `10 x (5 sliding, 1 full), 2 sliding`."""
    blocks: tuple[BlockKind, ...]
    norms: str
    caches: CacheBytes
    draft_parameters: int
    """Those of the layer that drafts tokens, beside what it shares with the model; 0 where none is read."""
    checkpoint: Checkpoint | None


def summary_of(module: ModuleOp) -> ModelSummary:
    """The summary of a module of the model level."""
    (llm,) = (op for op in module.ops if isinstance(op, model.LlmOp))
    names = LayerNames()
    order = names.order(llm.body.block)
    return ModelSummary(
        llm.architecture.data,
        element_name(llm.dtype),
        llm.hidden_size.value.data,
        llm.vocab_size.value.data,
        any(isinstance(op, model.LmHeadOp) and op.tied is not None for op in llm.body.block.ops),
        names.layers,
        order,
        names.blocks(),
        _norms(module),
        cache_bytes(module),
        model.draft_parameter_count(module),
        checkpoint_of(module),
    )


class LayerNames:
    """The kinds of layers of a model: those of equal blocks have the name of the first of them."""

    def __init__(self) -> None:
        self.names: dict[tuple[object, ...], str] = {}
        self.kinds: dict[tuple[str, tuple[tuple[str, Size], ...]], list[str]] = {}
        self.layers = 0

    def order(self, block: Block, times: int = 1) -> str:
        """The layers of a block in order, each of which stands for `times` of them."""
        runs = [op for op in block.ops if isinstance(op, model.RepeatOp)]
        return ", ".join(self._run(run, times) for run in runs)

    def turns(self, body: Block) -> str:
        """The order of the kinds that take turns in a body."""
        runs = [op for op in body.ops if isinstance(op, model.RepeatOp)]
        shares = tuple(run.share_counts or () for run in runs)
        order = in_order([Turns(tuple(map(self.name, runs)), shares)])
        return ", ".join(map(_text, recurring(order)))

    def _run(self, run: model.RepeatOp, times: int) -> str:
        body = run.body.block
        inner = [op for op in body.ops if isinstance(op, model.RepeatOp)]
        if any(op.shares is not None for op in inner):
            self.layers += sum(op.trip_count * _layers(op) for op in inner)
            return self.turns(body)
        if inner:
            return f"{run.trip_count} x ({self.order(body, times * run.trip_count)})"
        self.layers += times * run.trip_count * _layers(run)
        return f"{run.trip_count} {self.name(run)}"

    def name(self, run: model.RepeatOp) -> str:
        """The kind of layer in a repeat."""
        blocks = [op for op in run.body.block.ops if isinstance(op, model.BlockOp)]
        key = tuple((op.name, tuple(sizes_of(op).items())) for op in blocks)
        name = self.names.setdefault(key, run.path.data.rpartition(".")[2])
        for op in blocks:
            if not isinstance(op, AROUND):
                used = self.kinds.setdefault((op.name, tuple(sizes_of(op).items())), [])
                used += [] if name in used else [name]
        return name

    def blocks(self) -> tuple[BlockKind, ...]:
        """Every kind of block of the layers seen so far."""
        return tuple(BlockKind(name, dict(sizes), tuple(used)) for (name, sizes), used in self.kinds.items())


def _layers(run: model.RepeatOp) -> int:
    """The layers in a body: those that share something are one, and each of them has a feed-forward block."""
    return max(1, sum(isinstance(op, model.NetworkOp) for op in run.body.block.ops))


def _text(group: Run | Period) -> str:
    if isinstance(group, Run):
        return f"{group.count} {group.kind}"
    return f"{group.count} x ({', '.join(map(_text, group.runs))})"


def block_rows(module: ModuleOp) -> list[BlockRow]:
    """The blocks that have parameters, in order; those of layers of one kind are one row, wherever they stand."""
    names = LayerNames()
    rows: dict[str, BlockRow] = {}
    for op, count in model.model_blocks(module):
        parameters = count * parameters_of_block(op)
        run, path = op.parent_op(), op.path.data
        if isinstance(run, model.RepeatOp):
            path = f"blocks.{names.name(run)}{path.removeprefix(run.path.data)}"
        if parameters:
            known = rows.get(path, BlockRow(path, op.name, 0, 0))
            rows[path] = BlockRow(path, op.name, known.layers + count, known.parameters + parameters)
    return list(rows.values())


def parameters_of_block(op: model.BlockOp) -> int:
    """The parameters that a block stores."""
    return sum(w.elements for w in op.weights() if w.transpose_of is None)


def sizes_of(op: model.BlockOp) -> dict[str, Size]:
    """The properties of a block that are set, in the order in which the op declares them."""
    declared = [name for name in op.get_irdl_definition().properties if name not in op.HIDDEN]
    found = {name: _plain(op.properties[name]) for name in declared if name in op.properties}
    return {name: size for name, size in found.items() if size is not False}


def _plain(attribute: Attribute) -> Size:
    match attribute:
        case IntegerAttr() if attribute.type == i1:
            return bool(attribute)
        case IntegerAttr() | FloatAttr():
            return attribute.value.data
        case StringAttr():
            return attribute.data
        case DictionaryAttr():
            return f"({words({name: _plain(value) for name, value in attribute.data.items()})})"
        case _:
            return str(attribute)


def words(sizes: Mapping[str, Size]) -> str:
    """`num_attention_heads 32, head_dim 128, qkv_bias`."""
    return ", ".join(name if size is True else f"{name} {_number(size)}" for name, size in sizes.items())


def _number(size: Size) -> str:
    return f"{size:g}" if isinstance(size, float) else str(size)


def _norms(module: ModuleOp) -> str:
    """The kinds of norms of the layers, and where they stand."""
    found: dict[str, list[str]] = {}
    for op, _ in model.model_blocks(module):
        if isinstance(op, model.NormOp):
            parent = op.parent_op()
            behind = op.path.data.endswith("post_norm")
            place = (
                "before the head" if isinstance(parent, model.LlmOp) else "behind blocks" if behind else "before blocks"
            )
            places = found.setdefault(words(sizes_of(op)), [])
            places += [] if place in places else [place]
    return "; ".join(f"{kind}: {_joined(places)}" for kind, places in found.items())


def _joined(parts: Iterable[str]) -> str:
    *first, last = parts
    return f"{', '.join(first)} and {last}" if first else last


def cache_bytes(module: ModuleOp) -> CacheBytes:
    """What the layers of a model keep of one sequence."""
    expanded = module.clone()
    ExpandBlocksPass("decode").apply(Context(), expanded)
    per_token, in_windows, states = 0.0, 0, 0
    for array in stored_arrays(expanded).values():
        if array.kind != "state":
            continue
        one, long, longer = (
            int(array.bytes.evaluate({"batch": 1, "q_len": 1, "kv_len": length})) for length in (1, LONG, 2 * LONG)
        )
        per_token += (longer - long) / LONG
        if longer == long and one < long:
            in_windows += long
        elif longer == long:
            states += long
    return CacheBytes(per_token, in_windows, states)
