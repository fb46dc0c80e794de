"""Products with a weight: `gemm`, and `mla_bmm` for the absorbed projections of MLA."""

from __future__ import annotations

from collections.abc import Sequence

from xdsl.ir import Operation

from pmc.dialects import layer
from pmc.dialects.expr import expr, product
from pmc.dialects.silicon import Workload
from pmc.dialects.tensor import tensor
from pmc.passes.match_silicon.cluster import Cluster
from pmc.passes.match_silicon.formats import plain
from pmc.passes.match_silicon.formats import product as product_format

MLA_VALUE, MLA_LATENT = 128, 512
"""The matrix of a head that `mla_bmm` is measured with."""


def match_gemm(op: Operation, alone: bool = False) -> Cluster | None:
    """Products of one value with weights of one block, as q, k and v or gate and up: engines store these as one matrix.

    Router and shared experts read the same value as well, but are blocks of their own.  With `alone` the op by itself.
    """
    if not isinstance(op, layer.MatmulOp) or op.parent is None:
        return None
    block, formats = _block_of(op), product_format(tensor(op.x), tensor(op.w))
    if alone:
        return gemm_of([op], formats)
    together = [
        other
        for other in op.parent.ops
        if isinstance(other, layer.MatmulOp)
        and other.x is op.x
        and _block_of(other) == block
        and product_format(tensor(other.x), tensor(other.w)) == formats
    ]
    return gemm_of(together, formats)


def gemm_of(ops: Sequence[layer.MatmulOp], formats: str) -> Cluster:
    """One product for several of one value: their columns stand side by side."""
    *rows, k = tensor(ops[0].x).dims
    columns = sum((tensor(op.w).dims[1] for op in ops), expr(0))
    return Cluster(ops, Workload("gemm", {"m": product(rows), "n": columns, "k": k}, {"gemm_dtype": formats}))


def match_absorbed(op: Operation) -> Cluster | None:
    """One of the two projections of absorbed MLA, with a matrix of 128 x 512 for every head.

    Engines cut these matrices out of a weight when they load it, and store them in the type of the rows.
    """
    if not isinstance(op, layer.HeadMatmulOp):
        return None
    x, y = tensor(op.x), tensor(op.y)
    heads = tensor(op.w).dims[1].constant // op.group.value.data
    widths = (x.dims[1].constant // heads, y.dims[1].constant // heads)
    name = {(MLA_VALUE, MLA_LATENT): "mla_gen_pre", (MLA_LATENT, MLA_VALUE): "mla_gen_post"}.get(widths)
    if name is None:
        return None
    sizes = {"num_tokens": x.dims[0], "num_heads": expr(heads)}
    words = {"op_name": name, "bmm_dtype": plain(x)}
    return Cluster([op], Workload("mla_bmm", sizes, words))


def _block_of(op: layer.MatmulOp) -> str:
    return op.path.data.rpartition(".")[0]
