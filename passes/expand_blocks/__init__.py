"""The expand-blocks pass, from the `model` to the `layer` dialect."""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

from xdsl.dialects.builtin import ModuleOp
from xdsl.rewriter import Rewriter

from pmc.dialects import model
from pmc.dialects.levels import Level
from pmc.passes.base import PassError, PmcPass
from pmc.passes.expand_blocks.program import CAPACITIES, PHASES, Step, expand_llm


@dataclass(frozen=True)
class ExpandBlocksPass(PmcPass):
    """Turn every block into its tensor operations, for one phase.

        model.llm() {sym_name = "llama", ..} at "llama" {
        ^bb0(%tokens: !layer.tensor<[batch*q_len], i32>):
          %y = model.ffn(%x) {intermediate_size = 14336, ..} at "blocks.dense.ffn" : !layer.tensor<..>

    becomes

        layer.program() {sym_name = "llama", phase = "decode"} at "llama" {
        ^bb0(%tokens: !layer.tensor<[batch*q_len], i32>):
          %w = layer.weight() {axes = [""]} at "blocks.dense.ffn.norm.weight" : !layer.tensor<..>
          %n = layer.rms_norm(%x, %w) {..} at "blocks.dense.ffn.norm" : !layer.tensor<..>
          ..
          %y = layer.add(%x, %d) at "blocks.dense.ffn.residual" : !layer.tensor<..>

    `phase`: prefill computes the logits of the last token of each sequence and expands the KV latent of MLA;
    decode computes the logits of all tokens and, with `absorb-mla`, attends over the latent itself.  Sparse attention
    is over the latent in both: every token gathers its own keys, which would be expanded once per token.
    `capacity` sizes the expert buffers: `balanced` for their mean load (cost models), `worst` so that no
    token is dropped (numerics).
    """

    name = "expand-blocks"
    READS: ClassVar[tuple[Level, ...]] = ("model",)

    phase: str
    absorb_mla: bool = True
    capacity: str = "balanced"

    def __post_init__(self) -> None:
        """Check the options."""
        for option, value, allowed in (
            ("phase", self.phase, PHASES),
            ("capacity", self.capacity, CAPACITIES),
        ):
            if value not in allowed:
                raise PassError(f"{self.name}: {option} is '{value}', must be {' or '.join(allowed)}")

    def run(self, module: ModuleOp) -> None:
        """Replace each `model.llm` by a `layer.program`."""
        step = Step(self.phase, self.absorb_mla, self.capacity)
        for op in list(module.ops):
            if isinstance(op, model.LlmOp):
                module.body.block.insert_op_before(expand_llm(op, step), op)
                Rewriter.erase_op(op)
