"""What programs of every level are built of, so that who walks one need not know, nor import, its dialect."""

from __future__ import annotations

from collections.abc import Sequence

from xdsl.dialects.builtin import ArrayAttr, IntegerAttr, StringAttr, i64
from xdsl.irdl import opt_prop_def, prop_def, region_def
from xdsl.utils.exceptions import VerifyException

from pmc.dialects.assembly import PmcOp


def shares_attr(shares: Sequence[int] | None) -> ArrayAttr[IntegerAttr] | None:
    """The property `shares` of a repeat."""
    return None if shares is None else ArrayAttr([IntegerAttr(share, i64) for share in shares])


class AnyProgramOp(PmcOp):
    """The container of one step of one rank: `layer.program`, `tile.program`, `g5.stream`."""

    sym_name = prop_def(StringAttr)
    phase = prop_def(StringAttr)
    body = region_def("single_block")


class AnyRepeatOp(PmcOp):
    """Equal layers or steps, of which the body runs `count`: `model.repeat` and those of the levels below.

    Kinds of layers that take turns in no order of their own stand in a repeat around, each in a repeat with `shares`:
    iteration i of the one around runs the next `shares[i]` of its `count` layers.  These may be none; the results are
    then the initial values.

        repeat 4 { repeat 5 shares [2, 1, 1, 1] { attention }  repeat 2 shares [0, 1, 0, 1] { experts } }
    """

    count = prop_def(IntegerAttr)
    shares = opt_prop_def(ArrayAttr[IntegerAttr])
    body = region_def("single_block")

    @property
    def trip_count(self) -> int:
        """How often the body runs; with `shares` in all iterations of the repeat around together."""
        return self.count.value.data

    @property
    def share_counts(self) -> tuple[int, ...] | None:
        """How often the body runs in each iteration of the repeat around, where that differs."""
        return None if self.shares is None else tuple(share.value.data for share in self.shares.data)

    def runs(self, times: int) -> int:
        """How often the body runs, where all that the repeat stands in runs `times` in all."""
        return self.trip_count if self.shares is not None else times * self.trip_count

    def iterations(self, around: int | None) -> range:
        """The iterations that run in iteration `around` of the repeat around; without shares these are always all."""
        counts, first = self.share_counts, self.properties.get("first")
        if counts is None:
            start = first.value.data if isinstance(first, IntegerAttr) else 0
            return range(start, start + self.trip_count)
        assert around is not None, "shares are those of a repeat around"
        start = sum(counts[:around])
        return range(start, start + counts[around])

    def verify_shares(self) -> None:
        """The shares are those of all iterations of a repeat of layers around, and add up to `count`."""
        counts, around = self.share_counts, self.parent_op()
        if counts is None:
            return
        where = f"{self.name} at '{self.path.data}'"
        if around is not None and (not isinstance(around, AnyRepeatOp) or len(counts) != around.trip_count):
            raise VerifyException(f"{where}: its {len(counts)} shares must be those of a repeat around")
        if isinstance(around, AnyRepeatOp) and around.shares is not None:
            raise VerifyException(f"{where}: it has shares and so has the repeat around")
        if isinstance(around, AnyRepeatOp) and around.iterations(None).start:
            raise VerifyException(f"{where}: it has shares, and the repeat around does not begin at iteration 0")
        if min(counts, default=0) < 0:
            raise VerifyException(f"{where}: a share is {min(counts)}, must be at least 0")
        if sum(counts) != self.trip_count:
            raise VerifyException(f"{where}: the shares add up to {sum(counts)}, the count is {self.trip_count}")


class AnyStageOp(PmcOp):
    """What the ranks of pipeline stage `index` run: `dist.stage`, `tile.stage`, `g5.stage`."""

    index = prop_def(IntegerAttr)
    body = region_def("single_block")
