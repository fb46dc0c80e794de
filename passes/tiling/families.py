"""Which family tiles which op: the one place to register an op that becomes a kernel and is not row-wise."""

from __future__ import annotations

from xdsl.ir import Operation

from pmc.dialects import layer
from pmc.dialects.layer_op import RowOp
from pmc.passes.tiling.attention import AttentionFamily
from pmc.passes.tiling.causal_conv import CausalConvFamily
from pmc.passes.tiling.compress import CompressFamily
from pmc.passes.tiling.embedding import EmbeddingFamily
from pmc.passes.tiling.gather import GatherFamily
from pmc.passes.tiling.index_scores import IndexScoresFamily
from pmc.passes.tiling.kernels import Family
from pmc.passes.tiling.matmul import MatmulFamily
from pmc.passes.tiling.recurrence import RecurrenceFamily
from pmc.passes.tiling.rowwise import CopyFamily, PositionFamily, RowFamily
from pmc.passes.tiling.topk import TopkFamily

FAMILIES: dict[type[Operation], Family] = {
    **dict.fromkeys((layer.MatmulOp, layer.GroupedMatmulOp, layer.GatedMatmulOp, layer.HeadMatmulOp), MatmulFamily()),
    **dict.fromkeys((layer.LastTokenOp, layer.KvAppendOp), CopyFamily()),
    **dict.fromkeys(
        (layer.AttentionOp, layer.AttentionStepOp, layer.SparseAttentionOp, layer.CompressedAttentionOp),
        AttentionFamily(),
    ),
    **dict.fromkeys((layer.IndexScoresOp, layer.BlockScoresOp), IndexScoresFamily()),
    layer.TopkSelectOp: TopkFamily(),
    layer.GatherRowsOp: GatherFamily(),
    layer.EmbeddingOp: EmbeddingFamily(),
    layer.PositionEmbeddingOp: PositionFamily(),
    layer.CausalConvOp: CausalConvFamily(),
    layer.CompressOp: CompressFamily(),
    **dict.fromkeys((layer.SsmScanOp, layer.GatedDeltaOp), RecurrenceFamily()),
}
"""The family of every tensor op that becomes a kernel, but for row-wise ones."""

_ROWS = RowFamily()


def family_of(op: Operation) -> Family | None:
    """The family that tiles `op`; None for an op that becomes no kernel."""
    return _ROWS if isinstance(op, RowOp) else FAMILIES.get(type(op))
