"""The `dist` op that a movement between the DRAM of chips does, at the tile level or as a command.

A `tile.collective` and a `g5.cdma` keep kind and parameters of the collective they came from.  Costs come from that
collective, rebuilt on tensors of the same sizes, so that a movement costs the same at every level.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence

from xdsl.ir import Attribute, Block, Operation, Region

from pmc.dialects import dist, g5, layer, tile
from pmc.dialects.assembly import PmcOp
from pmc.dialects.errors import PmcError
from pmc.dialects.tensor import TensorType

COLLECTIVES: Mapping[str, type[PmcOp]] = {
    "all_reduce": dist.AllReduceOp,
    "all_gather": dist.AllGatherOp,
    "reduce_scatter": dist.ReduceScatterOp,
    "local_slice": dist.LocalSliceOp,
    "ring_exchange": dist.RingExchangeOp,
    "send": dist.SendOp,
    "recv": dist.RecvOp,
}
"""The ops by the kind that lower-to-tiles names."""


def collective_of(op: tile.CollectiveOp | g5.ChipCommandOp, stage: int) -> Operation:
    """The collective that `op` does, in pipeline stage `stage`.  Raises PmcError for a kind without one."""
    kind, params = op.kind.data, dict(op.params.data)
    if kind in ("dispatch", "combine"):
        over_chips, on_chip = {
            "dispatch": (dist.DispatchOp, layer.DispatchOp),
            "combine": (dist.CombineOp, layer.CombineOp),
        }[kind]
        found: type[PmcOp] | None = over_chips if "axis" in params else on_chip
    else:
        found = COLLECTIVES.get(kind)
    if found is None:
        raise PmcError(f"{op.name} at '{op.path.data}': no collective is called '{kind}'")
    values = Block(arg_types=_types(op, inputs=True)).args
    collective = found.make([*values], _types(op, inputs=False), op.path.data, params, like=op)
    # A send finds its peer from the stage it stands in.
    dist.StageOp.make([], [], "", {"index": stage}, [Region(Block([collective]))])
    return collective


def _types(op: tile.CollectiveOp | g5.ChipCommandOp, inputs: bool) -> Sequence[Attribute]:
    if isinstance(op, tile.CollectiveOp):
        memrefs = [tile.memref_type(value) for value in (op.ins if inputs else op.outs)]
        return [TensorType.of(memref.dims, memref.element_type) for memref in memrefs]
    arrays = op.ins.data if inputs else op.outs.data
    return [TensorType.of(array.dims, array.element_type) for array in arrays]
