"""Expansion of hyper-connections: the weights with which streams are read and written."""

from __future__ import annotations

from xdsl.dialects.builtin import Float32Type
from xdsl.ir import SSAValue

from pmc.dialects import layer, model
from pmc.dialects.assembly import PropertyValue
from pmc.dialects.tensor import tensor
from pmc.passes.expand_blocks.block_builder import BlockBuilder


def expand_stream_weights(build: BlockBuilder, x: SSAValue, op: model.StreamWeightsOp) -> SSAValue:
    """The normalised streams of a token are projected to a few logits, of which its weights are made."""
    normed = build.rms_normalize(x, "norm", tensor(x).dims[1].constant, op.rms_norm_eps)
    # They keep the precision of the accumulator, as the logits of a router do.
    logits = build.matmul(normed, "fn", element_type=Float32Type())
    given: dict[str, PropertyValue] = {
        "streams": op.hc_mult, "iterations": op.hc_sinkhorn_iters or 0, "eps": op.hc_eps,
    }  # fmt: skip
    operands = [logits, build.weight("scale"), build.weight("base")]
    return build.op(layer.StreamWeightsOp, operands, "", op.y.type, given)
