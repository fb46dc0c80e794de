"""The pass `fuse-gates`: the activation of a SwiGLU is computed where its two products are."""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

from xdsl.dialects.builtin import ModuleOp
from xdsl.pattern_rewriter import PatternRewriter, PatternRewriteWalker, RewritePattern, op_type_rewrite_pattern

from pmc.dialects import layer
from pmc.dialects.levels import Level
from pmc.passes.base import PmcPass


@dataclass(frozen=True)
class FuseGatesPass(PmcPass):
    """Make gate, up and their activation one op, so that neither product goes to DRAM and back.

        %g = layer.matmul(%x, %wg) at "ffn.gate_proj" : !layer.tensor<[64, 2048], bf16>
        %u = layer.matmul(%x, %wu) at "ffn.up_proj" : !layer.tensor<[64, 2048], bf16>
        %y = layer.silu_mul(%g, %u) at "ffn.silu_mul" : !layer.tensor<[64, 2048], f8E4M3FN>

    becomes

        %y = layer.gated_matmul(%x, %wg, %wu) at "ffn.silu_mul" : !layer.tensor<[64, 2048], f8E4M3FN>

    Products of experts (`layer.grouped_matmul`) likewise.  A core then has the same columns of gate and up, x is loaded
    once for both, and the activation reads the FP32 sums: the products are not rounded in between.  The ops stay apart
    where something else reads a product, where the two have different x or types of weights, and where a collective
    stands between.
    """

    name = "fuse-gates"
    READS: ClassVar[tuple[Level, ...]] = ("dist",)

    enabled: bool = True
    """Without it, the pass leaves the module alone."""

    def run(self, module: ModuleOp) -> None:
        """Apply the pattern to all programs."""
        if self.enabled:
            PatternRewriteWalker(ActivationInTheProducts(), apply_recursively=False).rewrite_module(module)


class ActivationInTheProducts(RewritePattern):
    """A `layer.silu_mul` and the two products that only it reads are one op."""

    @op_type_rewrite_pattern
    def match_and_rewrite(self, op: layer.SiluMulOp, rewriter: PatternRewriter) -> None:
        match op.gate.owner, op.up.owner:
            case (layer.MatmulOp() as gate, layer.MatmulOp() as up):
                pass
            case (layer.GroupedMatmulOp() as gate, layer.GroupedMatmulOp() as up):
                pass
            case _:
                return
        if gate.x is not up.x or gate.w.type != up.w.type or not (gate.y.has_one_use() and up.y.has_one_use()):
            return
        if any(product.parent is not op.parent for product in (gate, up)):
            return
        both = layer.GatedMatmulOp.make([gate.x, gate.w, up.w], [op.y.type], op.path.data, like=op)
        rewriter.replace(op, both)
        for product in (gate, up):
            rewriter.erase(product)
