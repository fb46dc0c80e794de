"""What programs of every level are built of, so that who walks one need not know, nor import, its dialect."""

from __future__ import annotations

from xdsl.dialects.builtin import IntegerAttr, StringAttr
from xdsl.irdl import prop_def, region_def

from pmc.dialects.assembly import PmcOp


class AnyProgramOp(PmcOp):
    """The container of one step of one rank: `layer.program`, `tile.program`, `g5.stream`."""

    sym_name = prop_def(StringAttr)
    phase = prop_def(StringAttr)
    body = region_def("single_block")


class AnyRepeatOp(PmcOp):
    """Equal layers or steps, of which the body runs `count`: `layer.repeat`, `tile.repeat`, `g5.repeat`."""

    count = prop_def(IntegerAttr)
    body = region_def("single_block")


class AnyStageOp(PmcOp):
    """What the ranks of pipeline stage `index` run: `dist.stage`, `tile.stage`, `g5.stage`."""

    index = prop_def(IntegerAttr)
    body = region_def("single_block")
