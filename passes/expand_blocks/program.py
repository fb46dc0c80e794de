"""Expansion of the whole model: structure, embedding and head."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, replace
from typing import cast

from xdsl.dialects.builtin import StringAttr, UnitAttr
from xdsl.ir import Block, Operation, OpResult, Region, SSAValue

from pmc.dialects import layer, model
from pmc.dialects.assembly import PmcOp, PropertyValue
from pmc.dialects.drafting import DRAFT, application
from pmc.dialects.tensor import tensor
from pmc.passes.base import PassError
from pmc.passes.expand_blocks.attention import expand_gqa, expand_mla
from pmc.passes.expand_blocks.block_builder import BATCH, KV_LEN, Q_LEN, BlockBuilder
from pmc.passes.expand_blocks.block_sparse_attention import expand_block_sparse_attention
from pmc.passes.expand_blocks.compressed_attention import expand_compressed_attention
from pmc.passes.expand_blocks.feed_forward import expand_ffn, expand_moe
from pmc.passes.expand_blocks.hyper_connections import expand_stream_weights
from pmc.passes.expand_blocks.recurrent import expand_gated_delta_net, expand_kimi_delta, expand_mamba2
from pmc.passes.expand_blocks.sparse_attention import expand_dsa
from pmc.passes.symbol_substitution import SymbolSubstitution

PHASES = ("prefill", "decode")
CAPACITIES = ("balanced", "worst")


@dataclass(frozen=True)
class Step:
    """What is expanded: the phase, and how it treats MLA and expert buffers."""

    phase: str
    absorb_mla: bool
    capacity: str
    draft_tokens: int = 0

    @property
    def absorbed(self) -> bool:
        """Whether MLA attends over its latent."""
        return self.phase == "decode" and self.absorb_mla


@dataclass(frozen=True)
class Cut:
    """Before `op` only the last row of each sequence is kept, named after `head`: nobody needs other logits."""

    op: Operation
    head: model.BlockOp


def expand_llm(llm: model.LlmOp, step: Step, draft: model.DraftOp | None = None) -> layer.ProgramOp:
    """The `layer.program` of one phase; with `draft` a step that also drafts `step.draft_tokens` tokens."""
    path, source = llm.path.data, llm.body.block
    block = Block(arg_types=[a.type for a in source.args])
    values: dict[SSAValue, SSAValue] = dict(zip(source.args, block.args, strict=True))
    cut, head = None, _head(source)
    if head and step.phase == "prefill":
        cut = Cut(head[0 if draft is None else -1], head[-1])  # a draft layer reads the normed rows of all tokens
    results = _expand_into(block, source, step, values, cut)
    if draft is not None:
        results += expand_drafts(block, draft, results[0], values[head[-1].x], step)
    block.add_op(layer.ReturnOp.make([results], [], path, like=llm))
    properties: dict[str, PropertyValue] = {"sym_name": llm.sym_name, "phase": step.phase}
    return layer.ProgramOp.make([], [], path, properties, [Region(block)], like=llm)


def expand_drafts(
    block: Block, draft: model.DraftOp, verified: SSAValue, hidden: SSAValue, step: Step
) -> list[SSAValue]:
    """The applications of a draft layer behind the model; the logits of each, one row per sequence.

    Each takes the tokens that were sampled from the logits before it, the first those `verified` by the model.  That
    one runs over all rows of the model, since its cache must have them, and keeps the last row of each sequence; every
    other runs over the row of the one before, at the next position.
    """
    source = draft.body.block
    (head,) = (op for op in source.ops if isinstance(op, model.LmHeadOp))
    last = source.last_op
    assert isinstance(last, model.YieldOp) and isinstance(last.values[1].owner, Operation), "verified"
    logits = [verified]
    for number in range(step.draft_tokens):
        before = block.last_op
        tokens = block.insert_arg(source.args[0].type, len(block.args))
        sampled = layer.SampledTokensOp.make([tokens, logits[-1]], [tokens.type], f"{DRAFT}.tokens", like=draft)
        block.add_op(sampled)
        values: dict[SSAValue, SSAValue] = dict(zip(source.args, (sampled.y, hidden), strict=True))
        cut = Cut(last.values[1].owner, head) if number == 0 else None
        one = replace(step, phase="decode") if number else step  # one row of each sequence, also behind a prompt
        found = [cast(OpResult, value) for value in _expand_into(block, source, one, values, cut)]
        if number:
            at = SymbolSubstitution({"q_len": 1, "kv_len": KV_LEN + number})
            at.in_value(tokens)
            for op in _behind(block, before):
                at.in_op(op)
                if isinstance(op, PmcOp) and not isinstance(op, layer.SourceOp):
                    op.path = StringAttr(application(op.path.data, number))
        # A value that gets another type is another value.
        row, hidden = (value.op.results[value.index] for value in found)
        logits.append(row)
    return logits[1:]


def _behind(block: Block, before: Operation | None) -> Iterator[Operation]:
    """The ops of a block behind one of them."""
    op = block.first_op if before is None else before.next_op
    while op is not None:
        yield op
        op = op.next_op


def _expand_into(
    block: Block, source: Block, step: Step, values: dict[SSAValue, SSAValue], cut: Cut | None = None
) -> list[SSAValue]:
    """Expand the ops of `source` at the end of `block`; the values that its terminator hands on.

    `values` has what the arguments of `source` are, and gets the results of its ops.
    """
    for op in source.ops:
        operands = [values[v] for v in op.operands]
        if cut is not None and op is cut.op:
            operands = [_last_token(BlockBuilder(block, cut.head), operands[0])]
        if isinstance(op, model.YieldOp):
            return operands
        if isinstance(op, model.RepeatOp):
            results = _expand_repeat(block, op, operands, step)
        elif isinstance(op, model.BlockOp):
            build = BlockBuilder(block, op)
            results = (
                _expand_dsa(build, operands, op, step)
                if isinstance(op, model.DsaOp)
                else [expand_block(build, operands, op, step)]
            )
        else:
            raise PassError(f"expand-blocks: {op.name} is no op of the model dialect")
        values.update(zip(op.results, results, strict=True))
    raise PassError("expand-blocks: the body does not end in model.yield")


def _expand_repeat(block: Block, op: model.RepeatOp, inits: list[SSAValue], step: Step) -> list[SSAValue]:
    path = op.path.data
    body = Block(arg_types=[v.type for v in inits])
    yielded = _expand_into(body, op.body.block, step, dict(zip(op.body.block.args, body.args, strict=True)))
    body.add_op(layer.YieldOp.make([yielded], [], path, like=op))
    repeat = layer.RepeatOp.build_with(op.trip_count, inits, Region(body), path, shares=op.share_counts)
    repeat.location = op.location
    block.add_op(repeat)
    return list(repeat.results)


def expand_block(build: BlockBuilder, operands: list[SSAValue], op: model.BlockOp, step: Step) -> SSAValue:
    """The tensor ops of a block of one result; its rows."""
    x = operands[0]
    match op:
        case model.EmbeddingOp():
            return build.op(layer.EmbeddingOp, [x, build.weight("weight")], "", op.y.type)
        case model.PositionEmbeddingOp():
            given: dict[str, PropertyValue] = {"q_len": Q_LEN, "kv_len": KV_LEN, "offset": op.offset}
            return build.op(layer.PositionEmbeddingOp, [x, build.weight("weight")], "", x.type, given)
        case model.NormOp():
            return _expand_norm(build, x, op)
        case model.ScaleOp():
            return build.op(layer.ScaleOp, [x], "", x.type, {"factor": op.factor})
        case model.LearnedScaleOp():
            return build.op(layer.MultiplyOp, [x, build.weight("weight")], "", x.type)
        case model.SoftCapOp():
            return build.op(layer.SoftCapOp, [x], "", x.type, {"cap": op.cap})
        case model.AddOp():
            return build.add(x, operands[1], "")
        case model.CopyStreamsOp():
            return build.op(layer.CopyStreamsOp, [x], "", op.y.type, {"streams": op.hc_mult})
        case model.StreamWeightsOp():
            return expand_stream_weights(build, x, op)
        case model.CollapseStreamsOp():
            return build.op(layer.CollapseStreamsOp, operands, "", op.y.type, {"streams": op.hc_mult})
        case model.MixStreamsOp():
            return build.op(layer.MixStreamsOp, operands, "", op.y.type, {"streams": op.hc_mult})
        case model.GqaOp():
            return expand_gqa(build, x, op)
        case model.MlaOp():
            return expand_mla(build, x, op, step.absorbed)
        case model.BlockSparseAttentionOp():
            return expand_block_sparse_attention(build, x, op, step.phase)
        case model.CompressedAttentionOp():
            return expand_compressed_attention(build, x, op, step.phase)
        case model.GatedDeltaNetOp():
            return expand_gated_delta_net(build, x, op)
        case model.KimiDeltaOp():
            return expand_kimi_delta(build, x, op)
        case model.Mamba2Op():
            return expand_mamba2(build, x, op)
        case model.FfnOp():
            return expand_ffn(build, x, op)
        case model.MoeOp():
            return expand_moe(build, x, op, step.capacity, *operands[1:])
        case model.LmHeadOp():
            return build.matmul(x, "proj")
        case model.EhProjOp():
            return build.add(build.matmul(x, "embedding"), build.matmul(operands[1], "hidden"), "")
        case _:
            raise PassError(f"expand-blocks: {op.name} at '{op.path.data}' has no expansion")


def _expand_dsa(build: BlockBuilder, operands: list[SSAValue], op: model.DsaOp, step: Step) -> list[SSAValue]:
    """The rows, and the selected keys if a later layer takes them."""
    chosen = operands[1] if op.chosen is not None else None
    return list(expand_dsa(build, operands[0], chosen, op, step.phase))[: len(op.results)]


def _expand_norm(build: BlockBuilder, x: SSAValue, op: model.NormOp) -> SSAValue:
    if op.kind.data == "rms":
        return build.rms_norm(x, "", "weight", op.eps, bool(op.zero_centered))
    given: dict[str, PropertyValue] = {"eps": op.eps, "zero_centered": UnitAttr() if op.zero_centered else None}
    weights = [build.weight("weight"), *([build.weight("bias")] if op.bias else [])]
    return build.op(layer.LayerNormOp, [x, *weights], "", x.type, given)


def _head(body: Block) -> list[model.BlockOp]:
    """The ops from the last layer to the logits: the head, and before it those that only it needs, row by row."""
    found = [op for op in body.ops if isinstance(op, model.LmHeadOp)][-1:]
    chain: list[model.BlockOp] = [*found]
    while chain and isinstance(before := chain[0].x.owner, model.NormOp) and before.y.has_one_use():
        chain.insert(0, before)
    return chain


def _last_token(build: BlockBuilder, x: SSAValue) -> SSAValue:
    """The last row of each sequence: in prefill only that one has logits, the others are prompt."""
    return build.op(layer.LastTokenOp, [x], "last_token", build.tensor_type(BATCH, tensor(x).dims[1]), {"q_len": Q_LEN})
