"""Which family tiles which op: the one place to register an op that becomes a kernel."""

from __future__ import annotations

from xdsl.ir import Operation

from pmc.dialects import layer
from pmc.passes.tiling.attention import AttentionFamily
from pmc.passes.tiling.embedding import EmbeddingFamily
from pmc.passes.tiling.kernels import Family
from pmc.passes.tiling.matmul import MatmulFamily
from pmc.passes.tiling.rowwise import RowFamily

FAMILIES: dict[type[Operation], Family] = {
    **dict.fromkeys((layer.MatmulOp, layer.GroupedMatmulOp, layer.HeadMatmulOp), MatmulFamily()),
    **dict.fromkeys(
        (
            layer.RmsNormOp,
            layer.RopeOp,
            layer.SiluMulOp,
            layer.AddOp,
            layer.QuantizeOp,
            layer.LastTokenOp,
            layer.KvAppendOp,
            layer.RouterTopkOp,
            layer.AttentionFinishOp,
        ),
        RowFamily(),
    ),
    **dict.fromkeys((layer.AttentionOp, layer.AttentionStepOp), AttentionFamily()),
    layer.EmbeddingOp: EmbeddingFamily(),
}
"""The family of every tensor op that becomes a kernel."""
