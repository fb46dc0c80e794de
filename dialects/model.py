"""The `model` dialect: one op is one block of the architecture, free of hardware, phase and number format.

    %n = model.norm(%x) {kind = "rms", eps = 1.0e-05} at "blocks.dense.ffn.norm" : !layer.tensor<[..], bf16>
    %f = model.ffn(%n) {intermediate_size = 14336} at "blocks.dense.ffn" : !layer.tensor<[..], bf16>
    %y = model.add(%x, %f) at "blocks.dense.ffn.residual" : !layer.tensor<[..], bf16>

Norms and residual paths are ops of their own, so a family that puts them elsewhere needs no new block.  Properties
carry the names of the Hugging Face config.  `BlockOp.weights` lists the parameters of a block once: the parameter
counts and the expand-blocks pass both read that list.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import ClassVar

from xdsl.dialects.builtin import IntegerAttr, ModuleOp, StringAttr, SymbolNameConstraint
from xdsl.ir import Block, Dialect, SSAValue, TypeAttribute
from xdsl.irdl import (
    irdl_op_definition,
    operand_def,
    opt_prop_def,
    prop_def,
    region_def,
    traits_def,
    var_operand_def,
    var_result_def,
)
from xdsl.traits import IsolatedFromAbove, IsTerminator, NoMemoryEffect, RecursiveMemoryEffect
from xdsl.utils.exceptions import VerifyException

from pmc.dialects.assembly import PmcOp
from pmc.dialects.checkpoint import CheckpointAttr
from pmc.dialects.model_attention import LATENT_NORM_EPS as LATENT_NORM_EPS
from pmc.dialects.model_attention import AttentionBlockOp as AttentionBlockOp
from pmc.dialects.model_attention import DsaOp as DsaOp
from pmc.dialects.model_attention import GqaOp as GqaOp
from pmc.dialects.model_attention import GroupedAttentionOp as GroupedAttentionOp
from pmc.dialects.model_attention import LatentAttentionOp as LatentAttentionOp
from pmc.dialects.model_attention import MlaOp as MlaOp
from pmc.dialects.model_block import BlockOp as BlockOp
from pmc.dialects.model_block import CacheSpec as CacheSpec
from pmc.dialects.model_block import StateSpec as StateSpec
from pmc.dialects.model_block import WeightSpec as WeightSpec
from pmc.dialects.model_block_sparse_attention import BlockSparseAttentionOp as BlockSparseAttentionOp
from pmc.dialects.model_compressed_attention import CompressedAttentionOp as CompressedAttentionOp
from pmc.dialects.model_feed_forward import SCORINGS as SCORINGS
from pmc.dialects.model_feed_forward import FfnOp as FfnOp
from pmc.dialects.model_feed_forward import MoeOp as MoeOp
from pmc.dialects.model_feed_forward import NetworkOp as NetworkOp
from pmc.dialects.model_hyper_connections import CollapseStreamsOp as CollapseStreamsOp
from pmc.dialects.model_hyper_connections import CopyStreamsOp as CopyStreamsOp
from pmc.dialects.model_hyper_connections import MixStreamsOp as MixStreamsOp
from pmc.dialects.model_hyper_connections import StreamsOp as StreamsOp
from pmc.dialects.model_hyper_connections import StreamWeightsOp as StreamWeightsOp
from pmc.dialects.model_recurrent import GatedDeltaNetOp as GatedDeltaNetOp
from pmc.dialects.model_recurrent import KimiDeltaOp as KimiDeltaOp
from pmc.dialects.model_recurrent import Mamba2Op as Mamba2Op
from pmc.dialects.model_rows import NORMS as NORMS
from pmc.dialects.model_rows import AddOp as AddOp
from pmc.dialects.model_rows import LearnedScaleOp as LearnedScaleOp
from pmc.dialects.model_rows import NormOp as NormOp
from pmc.dialects.model_rows import PositionEmbeddingOp as PositionEmbeddingOp
from pmc.dialects.model_rows import ScaleOp as ScaleOp
from pmc.dialects.model_rows import SoftCapOp as SoftCapOp
from pmc.dialects.structure import AnyRepeatOp
from pmc.dialects.tensor import TensorType, tensor, verify_carried

# -- structure -----------------------------------------------------------------------------------------------


@irdl_op_definition
class LlmOp(PmcOp):
    """A language model: a function from token ids [batch*q_len] to the logits of every token."""

    name = "model.llm"
    sym_name = prop_def(SymbolNameConstraint())
    architecture = prop_def(StringAttr)
    """The Hugging Face architecture class."""
    hidden_size = prop_def(IntegerAttr)
    vocab_size = prop_def(IntegerAttr)
    dtype = prop_def(TypeAttribute)
    """The element type of weights and activations."""
    body = region_def("single_block")
    traits = traits_def(IsolatedFromAbove())

    def verify_(self) -> None:
        """The body takes the token ids and ends in model.yield."""
        block = self.body.block
        if len(block.args) != 1 or not isinstance(block.last_op, YieldOp):
            raise VerifyException(
                f"model.llm at '{self.path.data}': the body must take the tokens and end in model.yield"
            )


@irdl_op_definition
class YieldOp(PmcOp):
    """The logits of a `model.llm`, or the values that a `model.repeat` iteration hands to the next one."""

    name = "model.yield"
    values = var_operand_def(TensorType)
    traits = traits_def(IsTerminator(), NoMemoryEffect())


def block_of(value: SSAValue) -> Block | None:
    """The block in which a value is an argument or a result."""
    return value.owner if isinstance(value.owner, Block) else value.owner.parent_block()


@irdl_op_definition
class RepeatOp(AnyRepeatOp):
    """`count` equal layers: block arguments are the values of the iteration, the first ones are `inits`."""

    name = "model.repeat"
    inits = var_operand_def(TensorType)
    count = prop_def(IntegerAttr)
    outs = var_result_def(TensorType)
    body = region_def("single_block")
    traits = traits_def(RecursiveMemoryEffect())

    def verify_(self) -> None:
        """At least one iteration; iteration values keep their types."""
        where = f"model.repeat at '{self.path.data}'"
        if self.trip_count < 1:
            raise VerifyException(f"{where}: count is {self.trip_count}, must be at least 1")
        self.verify_shares()
        block = self.body.block
        last = block.last_op
        if not isinstance(last, YieldOp):
            raise VerifyException(f"{where}: the body must end in model.yield")
        verify_carried(
            where,
            [v.type for v in self.inits],
            block_arguments=[a.type for a in block.args],
            yielded_values=[v.type for v in last.values],
            results=list(self.result_types),
        )
        for op in block.ops:
            if any(block_of(value) is not block for value in op.operands):
                raise VerifyException(
                    f"{where}: {op.name} uses a value from outside of the body, which must be one of the inits"
                )


@irdl_op_definition
class DraftOp(PmcOp):
    """A layer of multi-token prediction: a function from token ids and rows of the model to logits and new rows.

    Row i of the second argument is that of position i as the head of the model reads it, token i of the first argument
    the one behind it; logits i are those of the second token behind it (DeepSeek-V3 report, section 2.2).  Applied to
    its own rows and the token that it drafted, it drafts one more.  Its caches are its own; parameters that it shares
    with the model say so.  `expand-blocks` puts it behind the model in a decode step with drafts.
    """

    name = "model.draft"
    body = region_def("single_block")
    traits = traits_def(IsolatedFromAbove())

    def verify_(self) -> None:
        """The body takes tokens and rows, and yields logits and rows of the same width."""
        where, block = f"model.draft at '{self.path.data}'", self.body.block
        last = block.last_op
        if len(block.args) != 2 or not isinstance(last, YieldOp) or len(last.values) != 2:
            raise VerifyException(f"{where}: the body must take tokens and rows, and yield logits and rows")
        if last.values[1].type != block.args[1].type:
            raise VerifyException(f"{where}: the rows are {last.values[1].type}, must be {block.args[1].type}")


# -- blocks --------------------------------------------------------------------------------------------------


@irdl_op_definition
class EmbeddingOp(BlockOp):
    """Token ids [T] to rows of the embedding table [T, hidden_size], of the parameter at `shared` if given."""

    name = "model.embedding"
    POSITIVE: ClassVar[tuple[str, ...]] = ("vocab_size",)
    vocab_size = prop_def(IntegerAttr)
    shared = opt_prop_def(StringAttr)

    def weights(self) -> list[WeightSpec]:
        """The table."""
        shared = None if self.shared is None else self.shared.data
        return [WeightSpec("weight", (self.vocab_size.value.data, self.width), ("vocab", ""), shared=shared)]

    def active_parameters(self) -> int:
        """One row of the table: a token looks up, it does not multiply."""
        return self.width


@irdl_op_definition
class LmHeadOp(BlockOp):
    """Projection to the vocabulary, by the transpose of the parameter at `tied` or by that at `shared` if given."""

    name = "model.lm_head"
    tied = opt_prop_def(StringAttr)
    shared = opt_prop_def(StringAttr)

    def verify_(self) -> None:
        """One parameter."""
        super().verify_()
        self.require(self.tied is None or self.shared is None, "tied and shared exclude each other")

    def weights(self) -> list[WeightSpec]:
        """The projection."""
        hidden = tensor(self.x).dims[-1].constant
        tied, shared = (None if path is None else path.data for path in (self.tied, self.shared))
        return [WeightSpec("proj.weight", (hidden, self.width), ("", "vocab"), transpose_of=tied, shared=shared)]


@irdl_op_definition
class EhProjOp(BlockOp):
    """Rows of an embedding and of hidden states, beside each other, times one matrix (DeepSeek-V3's `eh_proj`).

    [x, hidden] W is x W_e + hidden W_h with the halves of W, so that no rows need to be put beside each other.
    """

    name = "model.eh_proj"
    hidden = operand_def(TensorType)

    def verify_(self) -> None:
        """All three have one type."""
        super().verify_()
        self.require_same_type()
        self.require(self.hidden.type == self.y.type, f"hidden is {self.hidden.type}, must be {self.y.type}")

    def weights(self) -> list[WeightSpec]:
        """The half for the embedding, the half for the hidden states."""
        return [WeightSpec(f"{half}.weight", (self.width, self.width), ("", "")) for half in ("embedding", "hidden")]


# -- counts --------------------------------------------------------------------------------------------------


def parameter_count(module: ModuleOp) -> int:
    """The parameters of all layers of the model; tied embeddings count once, the MTP layers do not count."""
    return sum(count * own_parameters(block) for block, count in model_blocks(module))


def own_parameters(block: BlockOp) -> int:
    """The parameters that are stored for a block."""
    return sum(w.elements for w in block.weights() if w.is_own)


def draft_parameter_count(module: ModuleOp) -> int:
    """The parameters that the draft layer of the model has beside those that it shares; 0 without one."""
    draft = draft_of(module)
    return 0 if draft is None else sum(n * own_parameters(block) for block, n in _blocks_in(draft.body.block, 1))


def draft_of(module: ModuleOp) -> DraftOp | None:
    """The draft layer of a module of the model level."""
    return next((op for op in module.ops if isinstance(op, DraftOp)), None)


def active_parameter_count(module: ModuleOp) -> int:
    """The parameters that one token uses: top-k of the routed experts, one row of the embedding table."""
    return sum(count * block.active_parameters() for block, count in model_blocks(module))


def model_blocks(module: ModuleOp) -> Iterator[tuple[BlockOp, int]]:
    """Every block of the module with the number of layers it stands for."""
    for op in module.ops:
        if isinstance(op, LlmOp):
            yield from _blocks_in(op.body.block, 1)


def _blocks_in(block: Block, count: int) -> Iterator[tuple[BlockOp, int]]:
    for op in block.ops:
        if isinstance(op, RepeatOp):
            yield from _blocks_in(op.body.block, op.runs(count))
        elif isinstance(op, BlockOp):
            yield op, count


Model = Dialect(
    "model",
    [
        LlmOp,
        DraftOp,
        YieldOp,
        RepeatOp,
        EmbeddingOp,
        PositionEmbeddingOp,
        NormOp,
        AddOp,
        ScaleOp,
        LearnedScaleOp,
        SoftCapOp,
        CopyStreamsOp,
        StreamWeightsOp,
        CollapseStreamsOp,
        MixStreamsOp,
        GqaOp,
        MlaOp,
        DsaOp,
        CompressedAttentionOp,
        BlockSparseAttentionOp,
        GatedDeltaNetOp,
        KimiDeltaOp,
        Mamba2Op,
        FfnOp,
        MoeOp,
        LmHeadOp,
        EhProjOp,
    ],
    [CheckpointAttr],
)
