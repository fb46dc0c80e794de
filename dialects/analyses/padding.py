"""How much of a weight is padding: a dim that its ranks do not divide is rounded up on each of them."""

from __future__ import annotations

from math import prod
from typing import cast

from xdsl.dialects.builtin import ArrayAttr, IntegerAttr
from xdsl.ir import Operation

from pmc.dialects import layer
from pmc.dialects.dist import SHARDING, WHOLE, Mesh, ShardingAttr
from pmc.dialects.tensor import tensor


def unpadded_share(op: Operation, mesh: Mesh | None) -> float:
    """The part of the weights that an op multiplies with which is not padding, on the mean rank: 0 to 1.

    `localize` has noted the whole dims of a weight that is padded.
    """
    share = 1.0
    for value in op.operands:
        weight = value.owner
        if mesh is None or not isinstance(weight, layer.WeightOp) or WHOLE not in weight.attributes:
            continue
        whole = cast(ArrayAttr[IntegerAttr], weight.attributes[WHOLE]).data
        sharding = weight.attributes[SHARDING]
        assert isinstance(sharding, ShardingAttr)
        for size, dim, axes in zip(whole, tensor(value).dims, sharding.data.dims, strict=True):
            share *= size.value.data / (dim.constant * prod(mesh.axis(name).size for name in axes))
    return share
