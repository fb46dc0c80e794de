"""The kernel of a recurrence: the state of some heads stays in LMEM while the tokens of a sequence pass, in a loop.

The plan is that of `analyses/recurrence_tiling.py`.
"""

from __future__ import annotations

from xdsl.ir import Operation, SSAValue

from pmc.dialects import layer
from pmc.dialects.analyses.planner import TilePlanner
from pmc.dialects.analyses.recurrence_tiling import Splits, plan_fault, plan_recurrence, recurrence_of
from pmc.dialects.analyses.split import core_coordinates
from pmc.dialects.arch import Chip
from pmc.dialects.expr import expr
from pmc.dialects.tensor import ints
from pmc.dialects.tile import KernelOp
from pmc.dialects.tile_plan import PlanAttr
from pmc.passes.tiling.kernels import Arrays


class RecurrenceFamily:
    """`layer.ssm_scan` and `layer.gated_delta`."""

    def plan(self, op: Operation, chip: Chip, planner: TilePlanner) -> PlanAttr:
        """Heads of all sequences over the cores."""
        assert isinstance(op, layer.RecurrenceOp)
        return plan_recurrence(recurrence_of(op), chip)

    def fault(self, op: Operation, plan: PlanAttr, chip: Chip) -> str | None:
        """What is wrong with a plan."""
        assert isinstance(op, layer.RecurrenceOp)
        return plan_fault(recurrence_of(op), plan, chip)

    def lower(self, op: Operation, plan: PlanAttr, arrays: Arrays, chip: Chip) -> KernelOp:
        """Loops over tiles of groups, tiles of their heads, sequences, and tiles of tokens."""
        assert isinstance(op, layer.RecurrenceOp)
        r, (tile_t, tile_g, tile_r) = recurrence_of(op), plan.tile_sizes
        s, widths = Splits.of(r, plan), (op.value_dim, op.key_dim)
        core_b, core_g, core_r = core_coordinates(s.parts)
        flat = (r.sequences, r.q_len)
        of_heads = [(arrays.array(v, *flat, ints(v)[1]), wide) for v, wide in self._of_heads(op)]
        of_groups = [arrays.array(v, *flat, ints(v)[1]) for v in op.group_inputs]
        constants = [arrays.array(v) for v in op.constants]
        before, after = op.updated
        state, new_state = arrays.array(before), arrays.result(after)
        y = arrays.result(op.results[0], *flat, ints(op.results[0])[1])
        state_rows, state_columns = ints(before)[1] // op.heads, ints(before)[2]
        step, tile_h = op.step(tile_r), tile_g * tile_r
        code = arrays.code(op, plan)
        with code.loop("g", s.groups.trips(core_g)) as gi, code.loop("r", s.heads.trips(core_r)) as ri:
            group, groups = s.groups.start(core_g, gi), s.groups.size(core_g, gi) if tile_g > 1 else expr(1)
            count = groups * s.heads.size(core_r, ri)
            head = group * r.group_heads + s.heads.start(core_r, ri)
            fixed = [code.alloc(1, tile_h, array.element_type) for array in constants]
            for array, buffer in zip(constants, fixed, strict=True):
                code.load(array, buffer, (head,), (count,))
            with code.loop("b", s.sequences.trips(core_b)) as bi:
                sequence = s.sequences.start(core_b, bi)
                place, size = (sequence, head * state_rows, 0), (1, count * state_rows, state_columns)
                held = code.alloc(tile_h * state_rows, state_columns, state.element_type)
                code.load(state, held, place, size)
                with code.loop("t", s.tokens.trips(expr(0))) as ti:
                    token, tokens = s.tokens.start(expr(0), ti), s.tokens.size(expr(0), ti)
                    loaded = [code.alloc(tile_t, tile_h * wide, array.element_type) for array, wide in of_heads]
                    for (array, wide), buffer in zip(of_heads, loaded, strict=True):
                        code.load(array, buffer, (sequence, token, head * wide), (1, tokens, count * wide))
                    shared = [code.alloc(tile_t, tile_g * widths[1], array.element_type) for array in of_groups]
                    for array, buffer in zip(of_groups, shared, strict=True):
                        code.load(array, buffer, (sequence, token, group * widths[1]), (1, tokens, groups * widths[1]))
                    out = code.alloc(tile_t, tile_h * widths[0], y.element_type)
                    ins = [loaded[0], *shared, *loaded[1:], *fixed]
                    code.vector(step, tokens, count, ins, [out], [held])
                    code.store(y, out, (sequence, token, head * widths[0]), (1, tokens, count * widths[0]))
                code.store(new_state, held, place, size)
        return code.kernel(s.sequences.parts * s.groups.parts * s.heads.parts)

    @staticmethod
    def _of_heads(op: layer.RecurrenceOp) -> list[tuple[SSAValue, int]]:
        """What differs from head to head, with the columns of a head."""
        return [(op.inputs, op.value_dim), *zip(op.numbers, op.number_columns, strict=True)]
