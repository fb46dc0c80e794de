"""The kernel of a causal convolution: the last inputs of a sequence stay in LMEM while its tokens pass.

The plan is that of `analyses/conv_tiling.py`.
"""

from __future__ import annotations

from xdsl.ir import Operation

from pmc.dialects import layer
from pmc.dialects.analyses.conv_tiling import convolution_of, plan_convolution, plan_fault, splits_of
from pmc.dialects.analyses.planner import TilePlanner
from pmc.dialects.analyses.split import core_coordinates
from pmc.dialects.arch import Chip
from pmc.dialects.expr import expr
from pmc.dialects.tile import KernelOp
from pmc.dialects.tile_plan import PlanAttr
from pmc.dialects.vector_kinds import FillAttr
from pmc.passes.tiling.kernels import Arrays


class CausalConvFamily:
    """`layer.causal_conv`."""

    def plan(self, op: Operation, chip: Chip, planner: TilePlanner) -> PlanAttr:
        """Sequences over the cores, channels over those that are left."""
        assert isinstance(op, layer.CausalConvOp)
        return plan_convolution(convolution_of(op), chip)

    def fault(self, op: Operation, plan: PlanAttr, chip: Chip) -> str | None:
        """What is wrong with a plan."""
        assert isinstance(op, layer.CausalConvOp)
        return plan_fault(convolution_of(op), plan, chip)

    def lower(self, op: Operation, plan: PlanAttr, arrays: Arrays, chip: Chip) -> KernelOp:
        """Loop c over channels, inside it loop b over sequences, inside it loop t over tokens."""
        assert isinstance(op, layer.CausalConvOp)
        conv, (tile_t, tile_c) = convolution_of(op), plan.tile_sizes
        sequences, channels, tokens = splits_of(conv, plan)
        core_b, core_c = core_coordinates((sequences.parts, channels.parts))
        flat = conv.sequences, conv.q_len, conv.channels
        x, state = arrays.array(op.x, *flat), arrays.array(op.state)
        taps = arrays.array(op.weight).transposed()
        bias = None if op.bias is None else arrays.array(op.bias)
        y, after = arrays.result(op.y, *flat), arrays.result(op.after)
        code = arrays.code(op, plan)
        with code.loop("c", channels.trips(core_c)) as ci:
            channel, wide = channels.start(core_c, ci), channels.size(core_c, ci)
            weight = code.alloc(conv.taps, tile_c, taps.element_type)
            code.load(taps, weight, (0, channel), (conv.taps, wide))
            offset = code.alloc(1, tile_c, taps.element_type if bias is None else bias.element_type)
            if bias is None:
                code.vector(FillAttr.of(0.0), 1, wide, outs=[offset])
            else:
                code.load(bias, offset, (channel,), (wide,))
            with code.loop("b", sequences.trips(core_b)) as bi:
                sequence = sequences.start(core_b, bi)
                history = code.alloc(conv.taps - 1, tile_c, state.element_type)
                code.load(state, history, (sequence, 0, channel), (1, conv.taps - 1, wide))
                with code.loop("t", tokens.trips(expr(0))) as ti:
                    token, count = tokens.start(expr(0), ti), tokens.size(expr(0), ti)
                    inputs = code.alloc(tile_t, tile_c, x.element_type)
                    code.load(x, inputs, (sequence, token, channel), (1, count, wide))
                    outputs = code.alloc(tile_t, tile_c, y.element_type)
                    code.vector(conv.kind, count, wide, [inputs, weight, offset], [outputs], [history])
                    code.store(y, outputs, (sequence, token, channel), (1, count, wide))
                code.store(after, history, (sequence, 0, channel), (1, conv.taps - 1, wide))
        return code.kernel(sequences.parts * channels.parts)
