"""Feed-forward blocks of the `model` dialect: dense networks and mixtures of experts."""

from __future__ import annotations

from typing import ClassVar

from xdsl.dialects.builtin import BoolAttr, Float32Type, FloatAttr, IntegerAttr, StringAttr
from xdsl.irdl import irdl_op_definition, prop_def

from pmc.dialects.model_block import BlockOp, WeightSpec

SCORINGS = ("softmax", "sigmoid")
"""What turns router logits into scores."""


def swiglu_weights(prefix: str, hidden: int, intermediate: int) -> list[WeightSpec]:
    """Gate, up and down projections of a SwiGLU feed-forward network."""
    return [
        WeightSpec(f"{prefix}gate_proj.weight", (hidden, intermediate), ("", "ffn")),
        WeightSpec(f"{prefix}up_proj.weight", (hidden, intermediate), ("", "ffn")),
        WeightSpec(f"{prefix}down_proj.weight", (intermediate, hidden), ("ffn", "")),
    ]


@irdl_op_definition
class FfnOp(BlockOp):
    """Dense SwiGLU feed-forward network."""

    name = "model.ffn"
    POSITIVE: ClassVar[tuple[str, ...]] = ("intermediate_size",)
    intermediate_size = prop_def(IntegerAttr)

    def verify_(self) -> None:
        """Sizes are positive."""
        super().verify_()
        self.require_same_type()

    def weights(self) -> list[WeightSpec]:
        """Gate, up, down."""
        return swiglu_weights("", self.width, self.intermediate_size.value.data)


@irdl_op_definition
class MoeOp(BlockOp):
    """Mixture of SwiGLU experts: the routed ones of each token plus shared ones that see every token."""

    name = "model.moe"
    POSITIVE: ClassVar[tuple[str, ...]] = (
        "n_routed_experts",
        "num_experts_per_tok",
        "moe_intermediate_size",
        "n_group",
        "topk_group",
    )
    n_routed_experts = prop_def(IntegerAttr)
    n_shared_experts = prop_def(IntegerAttr)
    num_experts_per_tok = prop_def(IntegerAttr)
    moe_intermediate_size = prop_def(IntegerAttr)
    scoring = prop_def(StringAttr)
    n_group = prop_def(IntegerAttr)
    topk_group = prop_def(IntegerAttr)
    norm_topk_prob = prop_def(BoolAttr)
    routed_scaling_factor = prop_def(FloatAttr)
    correction_bias = prop_def(BoolAttr)
    """Whether experts are chosen on score + bias (`e_score_correction_bias`)."""

    @property
    def experts(self) -> int:
        """The number of routed experts."""
        return self.n_routed_experts.value.data

    @property
    def top_k(self) -> int:
        """The routed experts of one token."""
        return self.num_experts_per_tok.value.data

    def verify_(self) -> None:
        """The chosen groups exist and hold enough experts."""
        super().verify_()
        self.require_same_type()
        groups, top_groups = self.n_group.value.data, self.topk_group.value.data
        shared = self.n_shared_experts.value.data
        self.require(shared >= 0, f"n_shared_experts is {shared}, must be at least 0")
        self.require(
            self.scoring.data in SCORINGS,
            f"scoring is '{self.scoring.data}', must be {' or '.join(SCORINGS)}",
        )
        self.require(
            self.experts % groups == 0,
            f"n_routed_experts {self.experts} is not a multiple of n_group {groups}",
        )
        self.require(top_groups <= groups, f"topk_group {top_groups} is more than n_group {groups}")
        reachable = self.experts // groups * top_groups
        self.require(
            self.top_k <= reachable,
            f"num_experts_per_tok {self.top_k} is more than the {reachable} experts of the chosen groups",
        )

    def weights(self) -> list[WeightSpec]:
        """Router, routed experts, shared experts (as one network of their joint width)."""
        hidden, experts, inner = self.width, self.experts, self.moe_intermediate_size.value.data
        router_bias = WeightSpec("router.bias", (experts,), ("",), Float32Type(), role="bias")
        bias = [router_bias] if self.correction_bias else []
        shared = self.n_shared_experts.value.data * inner
        return [
            WeightSpec("router.weight", (hidden, experts), ("", "")),
            *bias,
            WeightSpec("experts.gate_proj.weight", (experts, hidden, inner), ("expert", "", "expert_ffn")),
            WeightSpec("experts.up_proj.weight", (experts, hidden, inner), ("expert", "", "expert_ffn")),
            WeightSpec("experts.down_proj.weight", (experts, inner, hidden), ("expert", "expert_ffn", "")),
            *(swiglu_weights("shared.", hidden, shared) if shared else ()),
        ]

    def active_parameters(self) -> int:
        """Of the routed experts, only those that a token is sent to."""
        return sum(
            w.elements // self.experts * self.top_k if w.axes[0] == "expert" else w.elements for w in self.weights()
        )
