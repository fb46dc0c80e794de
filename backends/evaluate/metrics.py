"""What an evaluation says, as typed results with one stable tabular form.

The table has one row per op in program order; counts, bytes and times are those of all executions of the op in one
step of one rank.  JSON holds the same rows under `steps`, keyed by column.
"""

from __future__ import annotations

import csv
import io
import json
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, replace
from enum import Enum

from pmc.backends.cost.model import BottleneckTag, Granularity
from pmc.backends.evaluate.notebook import Tabular
from pmc.backends.evaluate.streams import Stream

COLUMNS: tuple[str, ...] = (
    "stage", "path", "op", "count", "flops", "bytes_read", "bytes_written", "link_bytes",
    "time_us", "compute_us", "memory_us", "comm_us", "bottleneck", "share", "stream", "wait_us", "relative_only",
)  # fmt: skip
"""The columns of `EngineResult.to_rows`, of the CSV and of the JSON rows; new ones are only ever appended."""

SOURCE_COLUMNS = ("table", "source", "low_us", "high_us", "energy_mj", "origin")
"""What granularity silicon adds to `COLUMNS`."""

SOURCES = ("measured", "interpolated", "extrapolated", "analytic")
"""How a time can have come about, the surest first."""

Cell = str | int | float | None


@dataclass(frozen=True)
class StepMetrics:
    """One op of the program, over all its `count` executions in one step of one rank."""

    stage: int
    path: str
    op: str
    count: int
    flops: int
    """Useful FLOPs of the mean rank, see `OpCost`."""
    bytes_read: int
    bytes_written: int
    link_bytes: int
    """Bytes that the rank sends to other ranks."""
    time_us: float
    compute_us: float
    memory_us: float
    comm_us: float
    bottleneck: BottleneckTag
    share: float
    """The part of the total time."""
    stream: Stream = Stream.COMPUTE
    """What the op occupies."""
    wait_us: float = 0.0
    """How long its stream waited for its operands; 0 where all ops run one after the other."""
    peak_us: float = 0.0
    """What its matrix FLOPs take at the peak for their element type; no column."""


@dataclass(frozen=True)
class StageMetrics:
    """One pipeline stage: sums over its ops."""

    stage: int
    time_us: float
    compute_us: float
    memory_us: float
    comm_us: float
    share: float


@dataclass(frozen=True)
class OpSource:
    """How the time of an op came about, at granularity silicon; over all its executions, as `StepMetrics`."""

    source: str
    """measured, interpolated, extrapolated or analytic."""
    table: str
    """The kind of table; empty for what no table covers."""
    band_us: tuple[float, float] | None
    """Between which 80% of measurements lie; None for measured rows and formulas."""
    energy_mj: float | None
    """None where no power was measured."""
    origin: str
    """The file of the rows, or the formula."""

    @classmethod
    def of_parts(cls, parts: Sequence[OpSource], times_us: Sequence[float]) -> OpSource:
        """Of an op whose time is the sum of parts: as sure as the least sure of them."""
        worst = max(parts, key=lambda part: SOURCES.index(part.source))
        bands = [part.band_us or (us, us) for part, us in zip(parts, times_us, strict=True)]
        band = sum(low for low, _ in bands), sum(high for _, high in bands)
        energies = [part.energy_mj for part in parts if part.energy_mj is not None]
        energy = sum(energies) if len(energies) == len(parts) else None
        return replace(worst, band_us=band if any(part.band_us for part in parts) else None, energy_mj=energy)

    def to_row(self) -> dict[str, Cell]:
        """The cells of `SOURCE_COLUMNS`."""
        low, high = self.band_us or (None, None)
        return dict(zip(SOURCE_COLUMNS, (self.table, self.source, low, high, self.energy_mj, self.origin), strict=True))


@dataclass(frozen=True, repr=False)
class EngineResult(Tabular):
    """One step of a program on its target.

    `total_us` is exactly the sum of `time_us` over `steps` in their order: with several stages, the time of one
    micro-batch through all of them.  The pipeline itself can take a new micro-batch every `stages[bottleneck_stage]`.
    """

    program: str
    phase: str
    granularity: Granularity
    chip: str
    topology: str
    ranks: int
    bindings: Mapping[str, int]
    steps: tuple[StepMetrics, ...]
    stages: tuple[StageMetrics, ...]
    unvalidated: tuple[str, ...]
    """What the numbers rest on and was never validated against silicon; if anything, results are relative only."""
    assumptions: tuple[str, ...] = ()
    """What the numbers take for granted about this program, in words."""
    lower_bound: bool = False
    """Whether hardware of these rates cannot be faster, op by op."""

    plans: tuple[str, ...] | None = None
    """The plan of every op in `steps` (of two shapes both plans; of an op without one nothing), where asked for."""

    sources: tuple[OpSource, ...] | None = None
    """How the time of every op in `steps` came about, at granularity silicon."""

    @property
    def columns(self) -> tuple[str, ...]:
        """`COLUMNS`, `SOURCE_COLUMNS` at granularity silicon, and `plan` where plans were asked for."""
        sources = () if self.sources is None else SOURCE_COLUMNS
        return (*COLUMNS, *sources, *(() if self.plans is None else ("plan",)))

    @property
    def time_by_source_us(self) -> dict[str, float]:
        """The time by how it came about, largest first; empty at other granularities."""
        sums: dict[str, float] = {}
        for step, source in zip(self.steps, self.sources or (), strict=False):
            sums[source.source] = sums.get(source.source, 0.0) + step.time_us
        return dict(sorted(sums.items(), key=lambda item: -item[1]))

    @property
    def band_us(self) -> tuple[float, float] | None:
        """The sums of the bands of the ops, as if all of them were off the same way; None at other granularities."""
        if self.sources is None:
            return None
        pairs = [s.band_us or (t.time_us, t.time_us) for s, t in zip(self.sources, self.steps, strict=True)]
        return sum(low for low, _ in pairs), sum(high for _, high in pairs)

    @property
    def total_us(self) -> float:
        """The time of one step."""
        return sum(step.time_us for step in self.steps)

    @property
    def total_peak_us(self) -> float:
        """What the matrix FLOPs take at the peak, each at that of its element type."""
        return sum(step.peak_us for step in self.steps)

    @property
    def total_flops(self) -> int:
        """Useful FLOPs of the mean rank of a stage, added over the stages."""
        return sum(step.flops for step in self.steps)

    @property
    def total_bytes(self) -> int:
        """Bytes read from and written to DRAM."""
        return sum(step.bytes_read + step.bytes_written for step in self.steps)

    @property
    def total_link_bytes(self) -> int:
        """Bytes sent to other ranks."""
        return sum(step.link_bytes for step in self.steps)

    @property
    def bottleneck_stage(self) -> int:
        """The stage that takes longest (the first of equals)."""
        return max(self.stages, key=lambda s: (s.time_us, -s.stage)).stage

    @property
    def bottleneck_summary(self) -> dict[BottleneckTag, float]:
        """The time in us by what limits it, largest first."""
        sums = {tag: sum(s.time_us for s in self.steps if s.bottleneck is tag) for tag in BottleneckTag}
        return dict(sorted(((t, us) for t, us in sums.items() if us), key=lambda item: -item[1]))

    def to_rows(self) -> list[dict[str, Cell]]:
        """One mapping per op, keyed by `columns` in that order."""
        relative = {"relative_only": bool(self.unvalidated)}
        own = [name for name in COLUMNS if name not in relative]
        rows = [{**{name: _cell(getattr(step, name)) for name in own}, **relative} for step in self.steps]
        if self.sources is not None:
            rows = [{**row, **source.to_row()} for row, source in zip(rows, self.sources, strict=True)]
        if self.plans is None:
            return rows
        return [{**row, "plan": plan} for row, plan in zip(rows, self.plans, strict=True)]

    def to_csv(self) -> str:
        """A header line with `columns`, then one line per op; floats in their shortest exact form."""
        text = io.StringIO()
        writer = csv.DictWriter(text, self.columns, lineterminator="\n")
        writer.writeheader()
        writer.writerows(self.to_rows())
        return text.getvalue()

    def to_dict(self) -> dict[str, object]:
        """The JSON form: plain values, keys in a fixed order."""
        return {
            "program": self.program,
            "phase": self.phase,
            "granularity": self.granularity.value,
            "chip": self.chip,
            "topology": self.topology,
            "ranks": self.ranks,
            "bindings": dict(self.bindings),
            "relative_only": bool(self.unvalidated),
            "unvalidated": list(self.unvalidated),
            "total_us": self.total_us,
            "total_flops": self.total_flops,
            "total_bytes": self.total_bytes,
            "total_link_bytes": self.total_link_bytes,
            "bottlenecks_us": {tag.value: us for tag, us in self.bottleneck_summary.items()},
            "bottleneck_stage": self.bottleneck_stage,
            "stages": [asdict(stage) for stage in self.stages],
            "steps": self.to_rows(),
            "assumptions": list(self.assumptions),
            "lower_bound": self.lower_bound,
            **({} if self.sources is None else {"sources_us": self.time_by_source_us, "band_us": self.band_us}),
        }

    def to_json(self) -> str:
        """`to_dict` as indented JSON."""
        return json.dumps(self.to_dict(), indent=2) + "\n"

    def __repr__(self) -> str:
        return f"<{self.program}: {len(self.steps)} ops of a {self.phase} step, {self.total_us:.3f} us>"


def _cell(value: object) -> Cell:
    if isinstance(value, Enum):
        return str(value.value)
    assert isinstance(value, str | int | float)
    return value
