"""Granularity `silicon`: ops take the time that measured tables of a GPU say, or say what stands in for a table."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, replace
from typing import ClassVar

from xdsl.ir import Operation

from pmc.backends.cost.breakdown import Breakdown, Part
from pmc.backends.cost.chip import ChipCostModel
from pmc.backends.cost.model import Bindings, CostModel, Granularity, OpCost, Target
from pmc.backends.silicon.database import DatabaseMode, PerfDatabase, PerformanceResult, Source
from pmc.backends.silicon.schema import KINDS
from pmc.backends.silicon.table import NotMeasuredError
from pmc.backends.silicon.work import Workload
from pmc.backends.silicon.workloads import WORKLOADS
from pmc.dialects import silicon
from pmc.dialects.assembly import PmcOp
from pmc.dialects.collective import ExchangeInterface
from pmc.dialects.errors import PmcError
from pmc.dialects.schema import did_you_mean
from pmc.dialects.structure import AnyRepeatOp


@dataclass(frozen=True)
class Price:
    """What one execution of an op takes, and how that came about."""

    time_us: float
    source: Source
    table: str
    """The kind of table that covers it; of an op without one nothing."""
    band_us: tuple[float, float] | None
    """Between which 80% of measurements lie; None for a measured row, and where nothing was measured."""
    energy_mj: float | None
    origin: str
    """The file of the rows, or the formula."""


class SiliconCostModel(CostModel):
    """Queries of tables, beside the counts of the chip roofline.

    What has no table is analytic.  On the chip a launch takes t0 + max(FLOPs / peak, bytes / (s * bandwidth)), with t0
    and s of the specification of the system (`mem_empirical_constant_latency`, `mem_empirical_scaling_factor`); in the
    mode SOL without either.  A transfer takes what its bytes take on the links of the topology, and between two ranks
    the latency `p2p_latency` in addition.
    """

    granularity: ClassVar[Granularity] = Granularity.SILICON
    CHIP_PARAMETERS: ClassVar[tuple[str, ...]] = ("dram.bandwidth_gb_per_s",)

    def __init__(self, target: Target, database: PerfDatabase) -> None:
        super().__init__(target)
        self.chip = ChipCostModel(target)
        self.database = database
        self._known: dict[Workload, PerformanceResult] = {}
        self._absent: dict[str, str] = {}

    def cost(self, op: Operation, bindings: Bindings) -> OpCost | None:
        """What the roofline counts, with the time of `price`."""
        if isinstance(op, silicon.HostOp):
            time_s = self._host_us(op, bindings) * 1e-6
            return OpCost(time_s, host_s=time_s)
        base = self.chip.cost(op, bindings)
        price = self.price(op, bindings)
        return None if base is None or price is None else replace(base, time_s=price.time_us * 1e-6)

    def breakdown(self, op: Operation, bindings: Bindings) -> Breakdown | None:
        """The parts of the roofline, stretched to the measured time."""
        cost = self.cost(op, bindings)
        if cost is None:
            return None
        if isinstance(op, silicon.HostOp):
            return Breakdown({Part.LATENCY: float(cost.time_s)}, ())
        base, roofline = self.chip.breakdown(op, bindings), self.chip.cost(op, bindings)
        assert base is not None and roofline is not None
        return base.scaled(float(cost.time_s) / float(roofline.time_s)) if float(roofline.time_s) else base

    def unvalidated(self) -> tuple[str, ...]:
        """Measured tables are what other granularities are compared with; a result names what is analytic instead."""
        return ()

    def price(self, op: Operation, bindings: Bindings) -> Price | None:
        """The time of one execution of `op`; None for one that does nothing.

        Raises PmcError, with the path of the op, for formats and sizes that no table and no model of it covers.
        """
        if isinstance(op, silicon.HostOp):
            return Price(self._host_us(op, bindings), Source.ANALYTIC, "", None, None, op.source.data)
        base = self.chip.cost(op, bindings)
        if base is None:
            return None
        if not isinstance(op, silicon.QueryOp | silicon.ExchangeOp):
            return self._analytic(op, base, "", "no table covers it")
        table = op.workload.data.table
        if table == silicon.MEMORY:
            return self._analytic(op, base, "", "a launch that moves data")
        reason = self._no_table(table)
        if reason is not None:
            return self._analytic(op, base, table, reason)
        try:
            found = self._query(workload_of(op.workload.data, bindings))
        except NotMeasuredError as error:
            if self.database.mode is not DatabaseMode.HYBRID:
                raise PmcError(
                    f"{op.name} at '{op.path.data}': {error}; --database-mode hybrid takes a roofline instead"
                ) from None
            return self._analytic(op, base, table, str(error))
        except PmcError as error:
            raise PmcError(f"{op.name} at '{op.path.data}': {error}") from None
        band = None if found.error_band is None else (found.error_band[0] * 1e3, found.error_band[1] * 1e3)
        return Price(float(found) * 1e3, found.source, table, band, found.energy, found.origin)

    def _query(self, workload: Workload) -> PerformanceResult:
        if workload not in self._known:
            self._known[workload] = self.database.query(workload)
        return self._known[workload]

    def _no_table(self, kind: str) -> str | None:
        """Why nothing of a kind can be asked at all; None where there is a table, or the mode needs none."""
        mode, fits = self.database.mode, self.database.fits.values()
        if mode is DatabaseMode.SOL or (mode is not DatabaseMode.SILICON and any(fit.kind == kind for fit in fits)):
            return None
        if kind not in self._absent:
            self._absent[kind] = ""
            try:
                self.database.table(KINDS[kind])
            except NotMeasuredError as error:
                self._absent[kind] = str(error)
        return self._absent[kind] or None

    def _analytic(self, op: Operation, base: OpCost, table: str, origin: str) -> Price:
        """The roofline of the chip, with what a launch or a message takes at least."""
        spec = self.database.system.spec
        sol = self.database.mode is DatabaseMode.SOL
        if isinstance(op, ExchangeInterface) and op.exchange().collective.leaves_chip:
            time_s = float(base.time_s) + (0.0 if sol or not base.transfer_s else spec.node.p2p_latency)
        elif sol:
            time_s = float(base.time_s)
        else:
            memory_s = float(base.memory_s) / spec.gpu.mem_bw_empirical_scaling_factor
            time_s = spec.gpu.mem_empirical_constant_latency + max(float(base.compute_s), memory_s)
        return Price(time_s * 1e6, Source.ANALYTIC, table, None, None, f"roofline of {self.target.chip.name}: {origin}")

    def _host_us(self, op: silicon.HostOp, bindings: Bindings) -> float:
        """Once per step, and what the launches of all kernels of a rank take beyond what these run."""
        launch_us = op.launch_us.value.data
        if not launch_us:
            return op.step_us.value.data
        launches, busy_us = 0, 0.0
        around = op.parent_op()
        assert around is not None, "the host of a step stands in its program, or in a stage of it"
        for inner, count in _executions(around, 1):
            if not isinstance(inner, silicon.HostOp) and (price := self.price(inner, bindings)) is not None:
                launches += count
                busy_us += count * price.time_us
        return op.step_us.value.data + max(0.0, launches * launch_us - busy_us)


def workload_of(asked: silicon.Workload, bindings: Bindings) -> Workload:
    """The query of a table for values of the symbols.

    Raises PmcError for a table without a model, sizes or words that its key does not have or lacks, and a decode
    kernel of several new tokens.
    """
    kind = WORKLOADS.get(asked.table)
    if kind is None:
        raise PmcError(
            f"no query asks tables of kind '{asked.table}'{did_you_mean(asked.table, WORKLOADS)}; "
            f"known: {', '.join(WORKLOADS)}"
        )
    schema = kind.table_kind()
    wrong = sorted({*asked.sizes, *asked.words} ^ {*schema.axes, *schema.categories})
    if wrong:
        raise PmcError(f"the key of {asked.table} has {', '.join((*schema.axes, *schema.categories))}; see {wrong[0]}")
    values = {name: int(size.evaluate(bindings)) for name, size in asked.sizes.items()}
    if asked.table.startswith("generation") and values["isl"] != 1:
        raise PmcError(f"{asked.table} has rows of one new token, not of {values['isl']}")
    fields: Mapping[str, int | str] = {**values, **asked.words}
    return kind(**fields)


def _executions(op: Operation, count: int) -> list[tuple[Operation, int]]:
    """The ops of a program or stage that are no containers, and how often a step runs each."""
    found: list[tuple[Operation, int]] = []
    for inner in op.regions[0].block.ops:
        match inner:
            case AnyRepeatOp():
                found += _executions(inner, count * inner.count.value.data)
            case PmcOp():
                found.append((inner, count))
            case _:
                pass
    return found
