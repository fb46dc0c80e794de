"""The expand-blocks pass, from the `model` to the `layer` dialect."""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

from xdsl.dialects.builtin import ModuleOp
from xdsl.rewriter import Rewriter

from pmc.dialects import model
from pmc.dialects.checkpoint import checkpoint_of
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
    With `draft-tokens` a step also drafts so many: behind the model come as many applications of its draft layer
    (`model.draft`), whose tokens are further arguments of the program, and its logits further results.  Without, the
    draft layer is left out.
    `capacity` sizes the expert buffers: `balanced` for their mean load (cost models), `worst` so that no
    token is dropped (numerics).
    """

    name = "expand-blocks"
    READS: ClassVar[tuple[Level, ...]] = ("model",)

    phase: str
    absorb_mla: bool = True
    capacity: str = "balanced"
    draft_tokens: int = 0

    def __post_init__(self) -> None:
        """Check the options."""
        for option, value, allowed in (
            ("phase", self.phase, PHASES),
            ("capacity", self.capacity, CAPACITIES),
        ):
            if value not in allowed:
                raise PassError(f"{self.name}: {option} is '{value}', must be {' or '.join(allowed)}")
        if self.draft_tokens < 0:
            raise PassError(f"{self.name}: draft-tokens is {self.draft_tokens}, must be at least 0")

    def run(self, module: ModuleOp) -> None:
        """Replace each `model.llm` by a `layer.program`."""
        step = Step(self.phase, self.absorb_mla, self.capacity, self.draft_tokens)
        draft = self._draft(module) if self.draft_tokens else None
        for op in list(module.ops):
            if isinstance(op, model.LlmOp):
                module.body.block.insert_op_before(expand_llm(op, step, draft), op)
            if isinstance(op, model.LlmOp | model.DraftOp):
                Rewriter.erase_op(op)

    def _draft(self, module: ModuleOp) -> model.DraftOp:
        """The draft layer of the model.  Raises PassError without a known one, and for caches that do not grow."""
        found, checkpoint = model.draft_of(module), checkpoint_of(module)
        if found is None:
            named = ", ".join(op.architecture.data for op in module.ops if isinstance(op, model.LlmOp))
            layers = 0 if checkpoint is None else checkpoint.mtp_layers
            why = (
                "has no layer of multi-token prediction"
                if not layers
                else f"has {layers} of multi-token prediction, of a form that is not known: only one layer as that of "
                "DeepSeek-V3, or of GLM-4.5, is"
            )
            raise PassError(f"{self.name}: draft-tokens is {self.draft_tokens}, but {named} {why}")
        for op in found.walk():
            if isinstance(op, model.BlockOp) and (op.states() or any(c.window is not None for c in op.caches())):
                raise PassError(
                    f"{self.name}: '{op.path.data}' does not keep all tokens: what a rejected draft has replaced in "
                    "its cache cannot be had back"
                )
        return found
