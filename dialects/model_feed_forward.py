"""Feed-forward blocks of the `model` dialect: dense networks and mixtures of experts."""

from __future__ import annotations

from typing import ClassVar

from xdsl.dialects.builtin import BoolAttr, Float32Type, FloatAttr, IntegerAttr, StringAttr, i32
from xdsl.irdl import irdl_op_definition, operand_def, opt_operand_def, opt_prop_def, prop_def

from pmc.dialects.model_block import BlockOp, WeightSpec
from pmc.dialects.tensor import TensorType, tensor
from pmc.dialects.vector_kinds import ACTIVATIONS, GATED_ACTIVATIONS

SCORINGS = ("softmax", "sigmoid", "sqrtsoftplus")
"""What turns router logits into scores."""


class NetworkOp(BlockOp):
    """What dense networks and experts share: down(f(gate, up)), or down(f(up)) without a gate.

    `activation` is the function f: of `layer.gated_activation` with a gate ("silu" is SwiGLU, "gelu_tanh" GeGLU), of
    `layer.activation` without.
    """

    activation = prop_def(StringAttr)
    gated = prop_def(BoolAttr)
    activation_limit = opt_prop_def(FloatAttr)
    """The bound of gate and up in a clamped activation (`swiglu_limit`)."""
    activation_alpha = opt_prop_def(FloatAttr)
    """The factor inside of the sigmoid of `clamped_swiglu`."""
    bias = opt_prop_def(BoolAttr)
    """Whether every projection has a bias."""

    def verify_(self) -> None:
        """Sizes are positive; the activation is known."""
        super().verify_()
        self.require_same_type()
        known = ("silu", *GATED_ACTIVATIONS) if self.gated else tuple(ACTIVATIONS)
        name = self.activation.data
        self.require(name in known, f"activation is '{name}', must be {' or '.join(known)}")

    def network(
        self, prefix: str, inner: int, experts: int | None = None, axis: str = "ffn", outer: int | None = None
    ) -> list[WeightSpec]:
        """Gate, up and down projections of width `inner`, of one network or of so many experts.

        They are from and to rows of width `outer`, or as wide as those of the block.
        """
        hidden, ins = outer or self.width, ("gate_proj", "up_proj") if self.gated else ("up_proj",)
        count, first = ((), ()) if experts is None else ((experts,), ("expert",))
        shapes = {
            **{name: ((hidden, inner), ("", axis)) for name in ins},
            "down_proj": ((inner, hidden), (axis, "")),
        }
        found: list[WeightSpec] = []
        for name, (dims, axes) in shapes.items():
            found.append(WeightSpec(f"{prefix}{name}.weight", (*count, *dims), (*first, *axes)))
            if self.bias:
                found.append(WeightSpec(f"{prefix}{name}.bias", (*count, dims[1]), (*first, axes[1]), role="bias"))
        return found


@irdl_op_definition
class FfnOp(NetworkOp):
    """Dense feed-forward network."""

    name = "model.ffn"
    POSITIVE: ClassVar[tuple[str, ...]] = ("intermediate_size",)
    intermediate_size = prop_def(IntegerAttr)

    def weights(self) -> list[WeightSpec]:
        """Gate, up, down."""
        return self.network("", self.intermediate_size.value.data)


@irdl_op_definition
class MoeOp(NetworkOp):
    """Mixture of experts: the routed ones of each token plus shared ones that see every token.

    With the ids of the `tokens` the experts of a token are those that a table has for its id, and only their weights
    are of the router (hash routing; Roller et al., 2021).
    """

    name = "model.moe"
    BARE: ClassVar[tuple[str, ...]] = ("tokens",)
    x = operand_def(TensorType)
    tokens = opt_operand_def(TensorType)
    POSITIVE: ClassVar[tuple[str, ...]] = (
        "n_routed_experts",
        "num_experts_per_tok",
        "moe_intermediate_size",
        "n_group",
        "topk_group",
        "moe_latent_size",
        "vocab_size",
    )
    n_routed_experts = prop_def(IntegerAttr)
    shared_intermediate_size = prop_def(IntegerAttr)
    """The joint width of the shared experts; 0 without any."""
    num_experts_per_tok = prop_def(IntegerAttr)
    moe_intermediate_size = prop_def(IntegerAttr)
    scoring = prop_def(StringAttr)
    n_group = prop_def(IntegerAttr)
    topk_group = prop_def(IntegerAttr)
    norm_topk_prob = prop_def(BoolAttr)
    routed_scaling_factor = prop_def(FloatAttr)
    correction_bias = prop_def(BoolAttr)
    """Whether experts are chosen on score + bias (`e_score_correction_bias`)."""
    router_bias = opt_prop_def(BoolAttr)
    """Whether the router is a linear layer with a bias, as that of gpt-oss."""
    scored_input = opt_prop_def(BoolAttr)
    """Whether the score of the one expert of a token multiplies its input, not its result (Llama 4)."""
    shared_gate = opt_prop_def(BoolAttr)
    """Whether the output of the shared experts is multiplied by sigmoid(x w), one number per token (Qwen3-Next)."""
    moe_latent_size = opt_prop_def(IntegerAttr)
    """The width to which rows are projected before the routed experts, and from which behind them (Nemotron 3)."""
    vocab_size = opt_prop_def(IntegerAttr)
    """With `tokens`: the rows of the table of experts."""

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
        groups, top_groups = self.n_group.value.data, self.topk_group.value.data
        shared = self.shared_intermediate_size.value.data
        self.require(shared >= 0, f"shared_intermediate_size is {shared}, must be at least 0")
        self.require(
            self.scoring.data in SCORINGS,
            f"scoring is '{self.scoring.data}', must be {' or '.join(SCORINGS)}",
        )
        by_id = self.tokens is not None
        self.require((self.vocab_size is not None) == by_id, "tokens and vocab_size need each other")
        if self.tokens is not None:
            wanted = TensorType.of([tensor(self.x).dims[0]], i32)
            self.require(self.tokens.type == wanted, f"tokens is {self.tokens.type}, must be {wanted}")
        self.require(
            not by_id or not (self.correction_bias or self.scored_input or groups > 1),
            "a table of experts has no correction_bias, no scored_input and no groups",
        )
        self.require(
            self.experts % groups == 0,
            f"n_routed_experts {self.experts} is not a multiple of n_group {groups}",
        )
        self.require(self.top_k == 1 or not self.scored_input, "scored_input needs num_experts_per_tok 1")
        plain = self.scoring.data == "sigmoid" and not self.correction_bias and not self.norm_topk_prob
        self.require(plain or not self.scored_input, "scored_input needs plain sigmoid scores")
        self.require(shared > 0 or not self.shared_gate, "shared_gate without shared experts")
        self.require(top_groups <= groups, f"topk_group {top_groups} is more than n_group {groups}")
        reachable = self.experts // groups * top_groups
        self.require(
            self.top_k <= reachable,
            f"num_experts_per_tok {self.top_k} is more than the {reachable} experts of the chosen groups",
        )

    def weights(self) -> list[WeightSpec]:
        """Router, routed experts, shared experts (as one network of their joint width) with their gate."""
        hidden, experts = self.width, self.experts
        linear = [WeightSpec("router.linear_bias", (experts,), ("",), Float32Type(), role="bias")]
        correction = [WeightSpec("router.bias", (experts,), ("",), Float32Type(), role="bias")]
        table: list[WeightSpec] = []
        if self.vocab_size is not None:
            dims = (self.vocab_size.value.data, self.top_k)
            table = [WeightSpec("router.table", dims, ("", ""), i32, below=experts)]
        shared = self.shared_intermediate_size.value.data
        latent = None if self.moe_latent_size is None else self.moe_latent_size.value.data
        return [
            WeightSpec("router.weight", (hidden, experts), ("", "")),
            *(linear if self.router_bias else ()),
            *(correction if self.correction_bias else ()),
            *table,
            *(() if latent is None else (WeightSpec("latent_down_proj.weight", (hidden, latent), ("", "")),)),
            *self.network("experts.", self.moe_intermediate_size.value.data, experts, "expert_ffn", latent),
            *(() if latent is None else (WeightSpec("latent_up_proj.weight", (latent, hidden), ("", "")),)),
            *(self.network("shared.", shared) if shared else ()),
            *((WeightSpec("shared_gate.weight", (hidden, 1), ("", "")),) if self.shared_gate else ()),
        ]

    def active_parameters(self) -> int:
        """Of the routed experts, only those that a token is sent to; of a table of experts, one row."""
        used = {"router.table": self.top_k}
        return sum(
            used.get(w.name, w.elements // self.experts * self.top_k if w.axes[0] == "expert" else w.elements)
            for w in self.weights()
        )
