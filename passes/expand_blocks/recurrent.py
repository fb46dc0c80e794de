"""Expansion of recurrent token mixers: gated delta net, Mamba2."""

from __future__ import annotations

import math

from xdsl.dialects.builtin import f32
from xdsl.ir import SSAValue

from pmc.dialects import layer, model
from pmc.dialects.assembly import PropertyValue
from pmc.dialects.model_recurrent import QK_EPS
from pmc.passes.expand_blocks.block_builder import BlockBuilder


def expand_gated_delta_net(build: BlockBuilder, x: SSAValue, op: model.GatedDeltaNetOp) -> SSAValue:
    """y = out_proj(norm(delta rule(q, k, v)) * silu(z)); decays are FP32, as in the published code."""
    q, k, v = (_convolved(build, x, name) for name in op.convolved)
    normal: dict[str, PropertyValue] = {"eps": QK_EPS, "group": op.key_head_dim}
    q, k = (build.op(layer.L2NormOp, [h], f"{name}_norm", h.type, normal) for h, name in ((q, "q"), (k, "k")))
    b = build.matmul(x, "b_proj")
    beta = build.op(layer.ActivationOp, [b], "beta", b.type, {"function": "sigmoid"})
    a = build.matmul(x, "a_proj", element_type=f32)
    g = build.op(layer.DecayOp, [a, build.weight("A_log"), build.weight("dt_bias")], "decay", a.type)
    state = build.state("recurrent_state")
    scale = 1 / math.sqrt(op.key_head_dim.value.data)
    types = [v.type, state.type]
    y, _ = build.ops(layer.GatedDeltaOp, [v, q, k, g, beta, state], "gated_delta", types, {"scale": scale})
    given: dict[str, PropertyValue] = {"eps": op.norm_eps, "group": op.value_head_dim, "gate_first": False}
    z = build.matmul(x, "z_proj")
    y = build.op(layer.GatedRmsNormOp, [y, z, build.weight("gated_norm.weight")], "gated_norm", y.type, given)
    return build.matmul(y, "out_proj")


def expand_mamba2(build: BlockBuilder, x: SSAValue, op: model.Mamba2Op) -> SSAValue:
    """y = out_proj(norm(scan(x, B, C, dt) * silu(z))); step sizes are FP32, as in the published code."""
    inputs, b, c = (_convolved(build, x, name) for name in op.convolved)
    limits = {"low": op.time_step_min, "high": op.time_step_max}
    steps = build.matmul(x, "dt_proj", element_type=f32)
    dt = build.op(layer.SoftplusOp, [steps, build.weight("dt_bias")], "dt", steps.type, limits)
    state = build.state("recurrent_state")
    operands = [inputs, b, c, dt, build.weight("A_log"), build.weight("D"), state]
    y, _ = build.ops(layer.SsmScanOp, operands, "ssm_scan", [inputs.type, state.type])
    given: dict[str, PropertyValue] = {
        "eps": op.norm_eps,
        "group": op.inner // op.n_groups.value.data,
        "gate_first": True,
    }
    z = build.matmul(x, "z_proj")
    y = build.op(layer.GatedRmsNormOp, [y, z, build.weight("gated_norm.weight")], "gated_norm", y.type, given)
    return build.matmul(y, "out_proj")


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
