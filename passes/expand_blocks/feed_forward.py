"""Expansion of feed-forward blocks: dense SwiGLU and mixture of experts."""

from __future__ import annotations

from xdsl.dialects.builtin import Float32Type, i32
from xdsl.ir import SSAValue

from pmc.dialects import layer, model
from pmc.dialects.assembly import PropertyValue
from pmc.dialects.expr import Expr, ceildiv
from pmc.dialects.tensor import tensor
from pmc.passes.expand_blocks.block_builder import TOKENS, BlockBuilder


def expand_ffn(build: BlockBuilder, x: SSAValue, op: model.FfnOp) -> SSAValue:
    """y = down(f(gate, up)), or down(f(up)) without a gate."""
    return _network(build, x, op, "")


def expand_moe(
    build: BlockBuilder, x: SSAValue, op: model.MoeOp, capacity: str, tokens: SSAValue | None = None
) -> SSAValue:
    """y = the sum of the weighted routed experts, and the shared ones."""
    # The router compares scores of hundreds of experts: its logits keep the precision of the accumulator.
    logits = build.matmul(x, "router", element_type=Float32Type())
    if op.router_bias:
        logits = build.add_bias(logits, "router.linear_bias")
    weights, indices = _chosen(build, logits, op) if tokens is None else _looked_up(build, logits, tokens, op)
    sent = _scored(build, x, logits) if op.scored_input else x
    latent = sent if op.moe_latent_size is None else build.matmul(sent, "latent_down_proj")
    slots = build.tensor_type(op.experts, _slots(op, capacity), tensor(latent).dims[1])
    rows = build.op(layer.DispatchOp, [latent, indices], "dispatch", slots, {"capacity": capacity})
    results = _network(build, rows, op, "experts.")
    routed = build.op(layer.CombineOp, [results, indices, weights], "combine", latent.type)
    if op.moe_latent_size is not None:
        routed = build.matmul(routed, "latent_up_proj")
    if op.shared_intermediate_size.value.data:
        routed = build.add(routed, _shared(build, x, op), "add_shared")
    return routed


def _chosen(build: BlockBuilder, logits: SSAValue, op: model.MoeOp) -> list[SSAValue]:
    """The weights and the numbers of the best experts of every token."""
    bias = [build.weight("router.bias")] if op.correction_bias else []
    return build.ops(
        layer.RouterTopkOp,
        [logits, *bias],
        "topk",
        [
            build.tensor_type(TOKENS, op.top_k, element_type=Float32Type()),
            build.tensor_type(TOKENS, op.top_k, element_type=i32),
        ],
        {
            "top_k": op.num_experts_per_tok,
            "scoring": op.scoring,
            "groups": op.n_group,
            "top_groups": op.topk_group,
            # The one weight of a token is 1 where the score is in the input.
            "normalize": op.scored_input or op.norm_topk_prob,
            "scale": op.routed_scaling_factor,
        },
    )


def _looked_up(build: BlockBuilder, logits: SSAValue, tokens: SSAValue, op: model.MoeOp) -> list[SSAValue]:
    """The same, where a table says which experts the id of a token has."""
    of_experts = build.tensor_type(TOKENS, op.top_k, element_type=i32)
    indices = build.op(layer.EmbeddingOp, [tokens, build.weight("router.table")], "lookup", of_experts)
    given: dict[str, PropertyValue] = {
        "scoring": op.scoring, "normalize": op.norm_topk_prob, "scale": op.routed_scaling_factor,
    }  # fmt: skip
    result = build.tensor_type(TOKENS, op.top_k, element_type=Float32Type())
    return [build.op(layer.RouterWeightsOp, [logits, indices], "router_weights", result, given), indices]


def _scored(build: BlockBuilder, x: SSAValue, logits: SSAValue) -> SSAValue:
    """Every row times the sigmoid of its largest router logit."""
    types = [build.tensor_type(TOKENS, 1, element_type=kind) for kind in (Float32Type(), i32)]
    given: dict[str, PropertyValue] = {
        "top_k": 1, "scoring": "none", "groups": 1, "top_groups": 1, "normalize": False, "scale": 1.0,
    }  # fmt: skip
    best = build.ops(layer.RouterTopkOp, [logits], "best_logit", types, given)[0]
    return build.op(layer.RowGateOp, [x, best], "scored_input", x.type)


def _shared(build: BlockBuilder, x: SSAValue, op: model.MoeOp) -> SSAValue:
    """The shared experts, behind their gate if they have one."""
    y = _network(build, x, op, "shared.")
    if not op.shared_gate:
        return y
    gate = build.matmul(x, "shared_gate")
    return build.op(layer.RowGateOp, [y, gate], "shared_gate_mul", y.type)


def _slots(op: model.MoeOp, capacity: str) -> Expr:
    """Token slots per expert: the mean load, or every token (a token goes to an expert at most once)."""
    return ceildiv(TOKENS * op.top_k, op.experts) if capacity == "balanced" else TOKENS


def _network(build: BlockBuilder, x: SSAValue, op: model.NetworkOp, prefix: str) -> SSAValue:
    up = build.linear(x, f"{prefix}up_proj") if not op.gated else None
    if up is not None:
        hidden = build.op(layer.ActivationOp, [up], f"{prefix}activation", up.type, {"function": op.activation})
    else:
        gate, up = (build.linear(x, f"{prefix}{name}") for name in ("gate_proj", "up_proj"))
        if op.activation.data == "silu":
            hidden = build.op(layer.SiluMulOp, [gate, up], f"{prefix}silu_mul", gate.type)
        else:
            given = {"function": op.activation, "limit": op.activation_limit, "alpha": op.activation_alpha}
            hidden = build.op(layer.GatedActivationOp, [gate, up], f"{prefix}activation", gate.type, given)
    return build.linear(hidden, f"{prefix}down_proj")
