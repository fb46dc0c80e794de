"""The pass `fuse-rows`: a residual and its norm are one kernel, a conversion is part of what it converts."""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

from xdsl.dialects.builtin import ModuleOp
from xdsl.ir import Operation, SSAValue
from xdsl.pattern_rewriter import (
    GreedyRewritePatternApplier,
    PatternRewriter,
    PatternRewriteWalker,
    RewritePattern,
    op_type_rewrite_pattern,
)
from xdsl.rewriter import Rewriter

from pmc.dialects import layer
from pmc.dialects.expr import expr
from pmc.dialects.layer_op import MatrixOp, RowOp
from pmc.dialects.levels import Level
from pmc.dialects.tensor import tensor
from pmc.passes.base import PmcPass


@dataclass(frozen=True)
class FuseRowsPass(PmcPass):
    """Keep rows on the core that has them, so that they do not go to DRAM and back between two ops.

        %r = layer.add(%x, %d) at "blocks.dense.gqa.residual" : !layer.tensor<[64, 4096], bf16>
        %y = layer.rms_norm(%r, %w) {..} at "blocks.dense.ffn.norm" : !layer.tensor<[64, 4096], bf16>
        %q = layer.quantize(%y) at "blocks.dense.ffn.norm.quantize" : !layer.tensor<[64, 4096], f8E4M3FN>

    becomes

        %r, %q = layer.add_rms_norm(%x, %d, %w) {..} at "blocks.dense.ffn.norm"
            : !layer.tensor<[64, 4096], bf16>, !layer.tensor<[64, 4096], f8E4M3FN>

    The op that computes a value converts it where nothing else reads the value; it is rounded once instead of twice.
    That may be any row-wise op, a product or attention; a partial sum keeps its type until it is reduced, and what a
    collective brings is converted behind it.  A residual and its norm are one where nothing needs the sum before the
    norm.
    """

    name = "fuse-rows"
    READS: ClassVar[tuple[Level, ...]] = ("dist",)

    enabled: bool = True
    """Without it, the pass leaves the module alone."""

    def run(self, module: ModuleOp) -> None:
        """Apply the patterns to all programs."""
        if self.enabled:
            patterns = GreedyRewritePatternApplier([NormWithTheResidual(), ConvertInTheProducer()])
            PatternRewriteWalker(patterns).rewrite_module(module)


class NormWithTheResidual(RewritePattern):
    """A `layer.rms_norm` of whole rows, with a gain, and the `layer.add` that it normalises are one op."""

    @op_type_rewrite_pattern
    def match_and_rewrite(self, op: layer.RmsNormOp, rewriter: PatternRewriter) -> None:
        add = op.x.owner
        if not isinstance(add, layer.AddOp) or add.parent is not op.parent or op.w is None:
            return
        if tensor(op.x).dims[1:] != (expr(op.group.value.data),) or tensor(op.x).partial_axes:
            return
        if any(value.type != op.x.type for value in add.operands) or _used_between(op.x, add, op):
            return
        properties = {"eps": op.eps, "zero_centered": op.zero_centered}
        both = layer.AddRmsNormOp.make([add.a, add.b, op.w], [op.x.type, op.y.type], op.path.data, properties, like=op)
        rewriter.replace(op, both, [both.y])
        rewriter.replace(add, [], [both.total])


def _used_between(value: SSAValue, first: Operation, last: Operation) -> bool:
    """Whether an op between two of one block reads a value."""
    op = first.next_op
    while op is not None and op is not last:
        if any(value in inner.operands for inner in op.walk()):
            return True
        op = op.next_op
    return False


class ConvertInTheProducer(RewritePattern):
    """An op gives the type that a `layer.quantize`, its only reader, converts to."""

    @op_type_rewrite_pattern
    def match_and_rewrite(self, op: layer.QuantizeOp, rewriter: PatternRewriter) -> None:
        producer, value = op.x.owner, op.x
        if not isinstance(producer, RowOp | MatrixOp) or producer.parent is not op.parent:
            return
        if isinstance(producer, layer.AttentionStepOp) or not value.has_one_use() or tensor(value).partial_axes:
            return
        rewriter.replace(op, [], [Rewriter.replace_value_with_new_type(value, op.y.type)])
