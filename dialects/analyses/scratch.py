"""Memory in DRAM that an op needs only while it runs, under the plan that it has: partial results that leave LMEM."""

from __future__ import annotations

from collections.abc import Sequence

from xdsl.dialects.builtin import f32
from xdsl.ir import Operation

from pmc.dialects import layer
from pmc.dialects.analyses import attention_tiling as attentions
from pmc.dialects.analyses import matmul_tiling as matmuls
from pmc.dialects.analyses.workload import attention_shape, matmul_shape
from pmc.dialects.memory_map import chip_around
from pmc.dialects.tensor import TensorType
from pmc.dialects.tile_plan import PLAN, PlanAttr


def scratch_types(op: Operation) -> Sequence[TensorType]:
    """The scratch arrays of an op in the order in which its kernel makes them; none as long as it has no plan."""
    plan = op.attributes.get(PLAN)
    if not isinstance(plan, PlanAttr):
        return ()
    chip = chip_around(op)
    if chip is None:
        return ()
    dims: Sequence[tuple[int, ...]] = ()
    # A plan that is not legal has none: `lower-to-tiles` says what is wrong with it.
    if isinstance(op, layer.FlashAttentionOp):
        if attentions.plan_fault(attention_shape(op), plan, chip) is None:
            dims = attentions.scratch_dims(attention_shape(op), plan, chip)
    elif isinstance(op, layer.IndexScoresOp | layer.BlockScoresOp):
        pass  # cores that share a block of queries have different keys
    elif isinstance(op, layer.MatrixOp) and matmuls.plan_fault(matmul_shape(op), plan, chip) is None:
        dims = matmuls.scratch_dims(matmul_shape(op), plan, chip)
    return [TensorType.of(sizes, f32) for sizes in dims]
