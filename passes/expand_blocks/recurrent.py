"""Expansion of recurrent token mixers: gated delta net, Kimi Delta Attention, Mamba2."""

from __future__ import annotations

import math

from xdsl.dialects.builtin import IntegerAttr, f32
from xdsl.ir import SSAValue

from pmc.dialects import layer, model
from pmc.dialects.assembly import PropertyValue
from pmc.dialects.model_recurrent import QK_EPS
from pmc.passes.expand_blocks.block_builder import BlockBuilder


def expand_gated_delta_net(build: BlockBuilder, x: SSAValue, op: model.GatedDeltaNetOp) -> SSAValue:
    """y = out_proj(norm(delta rule(q, k, v)) * silu(z)); decays are FP32, as in the published code."""
    inputs = _delta_inputs(build, x, op, op.key_head_dim)
    a = build.matmul(x, "a_proj", element_type=f32)
    y = _delta_rule(build, inputs, a, op.key_head_dim)
    y = _gated_norm(build, y, build.matmul(x, "z_proj"), op.norm_eps, op.value_head_dim, "silu")
    return build.matmul(y, "out_proj")


def expand_kimi_delta(build: BlockBuilder, x: SSAValue, op: model.KimiDeltaOp) -> SSAValue:
    """y = o_proj(norm(delta rule(q, k, v)) * sigmoid(g)); decays are FP32, as in the published code."""
    inputs = _delta_inputs(build, x, op, op.head_dim)
    f = build.matmul(build.matmul(x, "f_a_proj"), "f_b_proj", element_type=f32)
    y = _delta_rule(build, inputs, f, op.head_dim)
    gate = build.matmul(build.matmul(x, "g_a_proj"), "g_b_proj")
    y = _gated_norm(build, y, gate, op.norm_eps, op.head_dim, "sigmoid")
    return build.matmul(y, "o_proj")


def expand_mamba2(build: BlockBuilder, x: SSAValue, op: model.Mamba2Op) -> SSAValue:
    """y = out_proj(norm(scan(x, B, C, dt) * silu(z))); step sizes are FP32, as in the published code."""
    inputs, b, c = (_convolved(build, x, name) for name in op.convolved)
    limits = {"low": op.time_step_min, "high": op.time_step_max}
    steps = build.matmul(x, "dt_proj", element_type=f32)
    dt = build.op(layer.SoftplusOp, [steps, build.weight("dt_bias")], "dt", steps.type, limits)
    state = build.state("recurrent_state")
    operands = [inputs, b, c, dt, build.weight("A_log"), build.weight("D"), state]
    y, _ = build.ops(layer.SsmScanOp, operands, "ssm_scan", [inputs.type, state.type])
    group = op.inner // op.n_groups.value.data
    y = _gated_norm(build, y, build.matmul(x, "z_proj"), op.norm_eps, group, "silu", gate_first=True)
    return build.matmul(y, "out_proj")


def _delta_inputs(
    build: BlockBuilder, x: SSAValue, op: model.GatedDeltaNetOp | model.KimiDeltaOp, key_dim: IntegerAttr
) -> tuple[SSAValue, SSAValue, SSAValue, SSAValue]:
    """q and k of length 1, v, and the share by which the state is corrected."""
    q, k, v = (_convolved(build, x, name) for name in op.convolved)
    normal: dict[str, PropertyValue] = {"eps": QK_EPS, "group": key_dim}
    q, k = (build.op(layer.L2NormOp, [h], f"{name}_norm", h.type, normal) for h, name in ((q, "q"), (k, "k")))
    b = build.matmul(x, "b_proj")
    beta = build.op(layer.ActivationOp, [b], "beta", b.type, {"function": "sigmoid"})
    return q, k, v, beta


def _delta_rule(
    build: BlockBuilder, inputs: tuple[SSAValue, SSAValue, SSAValue, SSAValue], forget: SSAValue, key_dim: IntegerAttr
) -> SSAValue:
    """What is read of the state after every token; `forget` is the decay before its softplus."""
    q, k, v, beta = inputs
    g = build.op(layer.DecayOp, [forget, build.weight("A_log"), build.weight("dt_bias")], "decay", forget.type)
    state = build.state("recurrent_state")
    scale = 1 / math.sqrt(key_dim.value.data)
    types = [v.type, state.type]
    y, _ = build.ops(layer.GatedDeltaOp, [v, q, k, g, beta, state], "gated_delta", types, {"scale": scale})
    return y


def _gated_norm(
    build: BlockBuilder,
    y: SSAValue,
    gate: SSAValue,
    eps: PropertyValue,
    group: PropertyValue,
    activation: str,
    gate_first: bool = False,
) -> SSAValue:
    """The norm of what was read, by groups of columns, and its gate."""
    given: dict[str, PropertyValue] = {"eps": eps, "group": group, "gate_first": gate_first, "activation": activation}
    return build.op(layer.GatedRmsNormOp, [y, gate, build.weight("gated_norm.weight")], "gated_norm", y.type, given)


def _convolved(build: BlockBuilder, x: SSAValue, name: str) -> SSAValue:
    """The input called `name`: projected, convolved with those of the tokens before, behind SiLU."""
    y = build.matmul(x, f"{name}_proj")
    state = build.state(f"{name}_conv_state")
    bias = [build.weight(f"{name}_conv.bias")] if f"{name}_conv.bias" in build.specs else []
    found, _ = build.ops(
        layer.CausalConvOp,
        [y, build.weight(f"{name}_conv.weight"), state, bias],
        f"{name}_conv",
        [y.type, state.type],
        {"activation": "silu"},
    )
    return found
