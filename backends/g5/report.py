"""What a simulated step looks like: time per op, what the critical path spends it with, how busy the engines are."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from fnmatch import fnmatchcase
from typing import ClassVar

from pmc.backends.evaluate.analyses.table import Analysis, Row
from pmc.backends.g5.clock import PS_PER_US
from pmc.backends.g5.stream import ACTIVITIES, StepTimes
from pmc.backends.g5.times import LIMITS, REASONS
from pmc.dialects.g5 import ENGINES


@dataclass(frozen=True)
class StepReport(Analysis):
    """One row per kernel and per movement of the chip, in program order."""

    COLUMNS: ClassVar[tuple[str, ...]] = (
        "path", "op", "count", "time_us", "share", "commands",
        *(f"{activity.replace(' ', '_')}_us" for activity in ACTIVITIES),
        *(f"busy_{engine}" for engine in ENGINES), "energy_uj",
    )  # fmt: skip

    name: str
    step: StepTimes

    def to_rows(self) -> list[Row]:
        """Times are those of all runs of a step; `.._us` is the critical path, `busy_..` the part of the time."""
        rows: list[Row] = []
        for part in self.step.parts:
            total = part.count * part.duration_ps
            row: Row = dict.fromkeys(self.COLUMNS)
            row |= {"path": part.path, "op": part.op, "count": part.count, "time_us": total / PS_PER_US}
            row["share"] = total / self.step.total_ps if self.step.total_ps else 0.0
            row["commands"] = 0 if part.times is None else part.count * part.times.count
            for activity, ps in part.critical_ps.items():
                row[f"{activity.replace(' ', '_')}_us"] = part.count * ps / PS_PER_US
            for engine, ps in part.busy_ps.items():
                row[f"busy_{engine}"] = ps / part.duration_ps
            if part.energy_pj is not None:
                row["energy_uj"] = part.count * sum(part.energy_pj.values()) * 1e-6
            rows.append(row)
        return rows

    @property
    def critical_us(self) -> dict[str, float]:
        """What the critical path of the whole step spends its time with, longest first; adds up to the total."""
        found: dict[str, int] = {}
        for part in self.step.parts:
            for activity, ps in part.critical_ps.items():
                found[activity] = found.get(activity, 0) + part.count * ps
        return {name: ps / PS_PER_US for name, ps in sorted(found.items(), key=lambda item: -item[1])}

    def summary(self) -> dict[str, object]:
        """The conditions and the totals."""
        return {
            "program": self.name,
            "chip": self.step.chip.name,
            "stage": self.step.stage,
            "expert_ranks": list(self.step.expert_ranks),
            "expert_load": self.step.expert_load,
            "total_us": self.step.total_us,
            "commands": self.step.commands,
            "critical_us": self.critical_us,
            "unvalidated": list(self.step.chip.unvalidated),
            "energy_uj": self.step.energy_uj,
        }

    def headline(self) -> str:
        """Program, chip, and how many commands there are."""
        stage = "" if self.step.stage is None else f", pipeline stage {self.step.stage} (the slowest)"
        return f"{self.name}: one step of one rank{stage}, {self.step.commands} commands on {self.step.chip.name}"

    def notes(self) -> list[str]:
        """Totals, and what limits the meaning of the numbers."""
        spent = ", ".join(f"{name} {us:.3f} us" for name, us in self.critical_us.items())
        energy, told = self.step.energy_uj, list[str]()
        if energy is not None:
            classes = ", ".join(f"{name} {uj:.3f} uJ" for name, uj in energy.items())
            told.append(f"energy of one rank, without idle power: {sum(energy.values()):.3f} uJ; {classes}")
        if self.step.expert_ranks:
            ranks, load = ", ".join(map(str, self.step.expert_ranks)), self.step.expert_load
            told.append(f"the slowest ranks of the experts: {ranks}, with {load:.3f} of the mean rows")
        return [
            f"total {self.step.total_us:.3f} us; critical path: {spent}",
            *told,
            f"relative only, never validated against silicon: {', '.join(self.step.chip.unvalidated)}",
        ]


@dataclass(frozen=True)
class CommandList(Analysis):
    """Commands with their times, those of one run of each kernel, in the order of their starts."""

    COLUMNS: ClassVar[tuple[str, ...]] = (
        "path", "core", "engine", "id", "command", "start_us", "end_us", "started_after", "ended_with",
    )  # fmt: skip

    name: str
    step: StepTimes
    cores: frozenset[int] | None
    """The cores to list, None for all."""
    paths: str
    """A pattern of paths, `blocks.moe.*`."""

    def to_rows(self) -> list[Row]:
        """Times count from the start of the step, with the first run of each kernel."""
        return list(self._rows())

    def _rows(self) -> Iterator[Row]:
        begin = 0
        for part in self.step.parts:
            if part.times is not None and fnmatchcase(part.path, self.paths):
                times = part.times.unrolled()
                ids: dict[tuple[int, int], int] = {}
                rows: list[Row] = []
                for index in range(len(times.row)):
                    core, engine = int(times.core[index]), int(times.engine[index])
                    number = ids[core, engine] = ids.get((core, engine), 0) + 1
                    if self.cores is not None and core not in self.cores:
                        continue
                    start, end = (int(t[index]) + begin for t in (times.start_ps, times.end_ps))
                    rows.append(
                        {
                            "path": part.path,
                            "core": core,
                            "engine": ENGINES[engine],
                            "id": number,
                            "command": times.op(index).name,
                            "start_us": start / PS_PER_US,
                            "end_us": end / PS_PER_US,
                            "started_after": REASONS[int(times.reason[index])],
                            "ended_with": LIMITS[int(times.limit[index])],
                        }
                    )
                yield from sorted(rows, key=lambda row: (row["start_us"], row["core"]))
            begin += part.count * part.duration_ps

    def summary(self) -> dict[str, object]:
        """What was listed."""
        return {"program": self.name, "chip": self.step.chip.name, "total_us": self.step.total_us}

    def headline(self) -> str:
        """What was listed."""
        return f"{self.name}: commands of '{self.paths}' on {self.step.chip.name}, the first run of each kernel"

    def notes(self) -> list[str]:
        """Nothing more."""
        return []
