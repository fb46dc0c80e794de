"""From a compiled model to the temperature of its chip: a run of its simulated step on a stack, and the files of it."""

from __future__ import annotations

import json
from collections.abc import Callable, Iterable, Sequence
from contextlib import closing
from dataclasses import dataclass
from importlib.util import find_spec
from pathlib import Path

import numpy as np

from pmc.backends.g5.operating_point import FULL_SPEED, StepPoints
from pmc.backends.thermal.engine import HeatEngine
from pmc.backends.thermal.floorplan import Floats
from pmc.backends.thermal.hotspot import HotspotProgram, Mode, heat_engine
from pmc.backends.thermal.snapshot import RunAwayError
from pmc.backends.thermal.stacked import StackedModel
from pmc.backends.thermal.step_loop import StepRun, StepWindow
from pmc.compiler.config import yaml_text
from pmc.compiler.files import prepare_folder, write_bytes, write_file
from pmc.compiler.run_log import LOG, log_file
from pmc.compiler.tas.run_files import WINDOWS, write_snapshot
from pmc.dialects.schema import Schema
from pmc.dialects.stacked_arch import StackedArch

COLUMNS = (
    "window", "ts_ns", "step_us", "steps", "steps_per_s", "tokens_per_s", "clock_ghz", "refresh", "bandwidth",
    "T_peak_logic", "T_peak_dram", "T_avg", "work_w", "core_w", "bank_w", "limits",
)  # fmt: skip
"""Of `windows.csv`.  `step_us` is the latency of a step at the clocks and the bandwidth of the window; `clock_ghz` that
of the slowest core, `refresh` the mean multiple of the base rate, `bandwidth` the part of DRAM's that it leaves;
`work_w` the watts of work, `core_w` and `bank_w` all watts."""

Row = dict[str, float | int | str]

RESULT, SNAPSHOT, RUN_LOG = "result.json", "last_snapshot.json", "run.log"


@dataclass(frozen=True)
class HeatJob:
    """A step to run on a stack."""

    model: str
    points: StepPoints
    arch: StackedArch
    tokens: int | float
    """Written, or read in prefill, by all ranks in a step."""
    window_ns: int
    windows: int
    out: Path
    mode: Mode = "api"
    program: HotspotProgram | None = None


@dataclass(frozen=True)
class HeatResult:
    """What a run has come to."""

    job: HeatJob
    energies: str
    """Whose energies of commands were taken."""
    rows: Sequence[Row]
    """As in `windows.csv`."""
    critical: dict[str, float]
    """What part of the last window's step its critical path spends with each activity."""

    @property
    def full_speed_us(self) -> float:
        """The step that nothing slows down: the one of `pmc simulate`."""
        return self.job.points.at(FULL_SPEED).step.total_us

    def column(self, name: str) -> Floats:
        """[windows] numbers."""
        return np.array([float(row[name]) for row in self.rows])

    def limited(self, what: str) -> float:
        """The part of the windows in which `clock` or `refresh` is below full speed."""
        return float(np.mean([what in str(row["limits"]).split() for row in self.rows]))

    @property
    def assumed(self) -> list[str]:
        """Fields of the chip and of the stack that were never validated."""
        chip, arch = self.job.points.chip, self.job.arch
        return [f"{part.name}.{path}" for part in (chip, arch) for path in part.unvalidated]

    def document(self) -> dict[str, object]:
        """The content of `result.json`."""
        means = {name: float(self.column(name).mean()) for name in ("steps_per_s", "tokens_per_s", "T_avg")}
        step_us = self.column("step_us")
        return {
            "model": self.job.model,
            "chip": self.job.points.chip.name,
            "stack": self.job.arch.name,
            "energies": self.energies,
            "windows": len(self.rows),
            "window_ns": self.job.window_ns,
            "step_us": {"full_speed": self.full_speed_us, "first": step_us[0], "last": step_us[-1]},
            "mean": {**means, "step_us": 1e6 / means["steps_per_s"]},
            "T_peak_logic": float(self.column("T_peak_logic").max()),
            "T_peak_dram": float(self.column("T_peak_dram").max()),
            "limited_by": {what: self.limited(what) for what in ("clock", "refresh")},
            "critical_path": self.critical,
            "relative_only": True,
            "unvalidated": self.assumed,
        }


def run_heat(job: HeatJob, advance: Callable[[int], None] = lambda windows: None) -> HeatResult:
    """Run all windows and write the files.

    Raises PmcError; RunAwayError after the last temperatures are written.
    """
    prepare_folder(job.out)
    with log_file(job.out / RUN_LOG):
        _log_inputs(job)
        engine = heat_engine(StackedModel.of(job.arch), job.program, job.out / "hotspot", job.mode)
        hottest = _Hottest(engine)
        try:
            run = StepRun(job.arch, engine, job.points, job.window_ns)
            LOG.info("energies of commands: %s", run.heat.source)
            rows, last = _windows(job, run, hottest, advance)
        except RunAwayError as error:
            _write_last(job, error)
            raise
        result = HeatResult(job, run.heat.source, rows, last.times.critical_share)
        write_file(job.out / RESULT, json.dumps(result.document(), indent=2) + "\n")
        _write_pictures(job, rows, hottest)
    return result


def _windows(
    job: HeatJob, run: StepRun, hottest: _Hottest, advance: Callable[[int], None]
) -> tuple[list[Row], StepWindow]:
    rows: list[Row] = []
    with closing((job.out / WINDOWS).open("w", encoding="utf-8", newline="")) as file:
        file.write(_line(COLUMNS))
        while True:
            window = run.step()
            rows.append(window_row(window, job))
            file.write(_line(rows[-1][name] for name in COLUMNS))
            file.flush()
            hottest.look(float(rows[-1]["T_peak_logic"]))
            LOG.info(
                "window %d: %.3f us a step at %g GHz, cores up to %.2f C, banks up to %.2f C", window.window,
                window.times.step.total_us, window.clock_ghz, rows[-1]["T_peak_logic"], rows[-1]["T_peak_dram"],
            )  # fmt: skip
            advance(1)
            if len(rows) == job.windows:
                return rows, window


def window_row(window: StepWindow, job: HeatJob) -> Row:
    """The row of a window in `windows.csv`."""
    cores, banks = window.snapshot.temps_core_c, window.snapshot.temps_bank_c
    seconds, dies = job.window_ns * 1e-9, job.arch.dram.banks[2]
    per_s = window.steps / seconds
    limits = [("clock", window.point.clock), ("refresh", window.point.bandwidth)]
    return {
        "window": window.window,
        "ts_ns": window.snapshot.ts_ns,
        "step_us": window.times.step.total_us,
        "steps": window.steps,
        "steps_per_s": per_s,
        "tokens_per_s": per_s * job.tokens,
        "clock_ghz": window.clock_ghz,
        "refresh": window.refresh,
        "bandwidth": window.point.bandwidth,
        "T_peak_logic": float(cores.max()),
        "T_peak_dram": float(banks.max()),
        "T_avg": float((cores.mean() + dies * banks.mean()) / (1 + dies)),
        "work_w": (float(window.core_j.sum()) + window.bank_j) / seconds,
        "core_w": float(window.snapshot.power_core_w.sum()),
        "bank_w": float(window.snapshot.power_bank_w.sum()),
        "limits": " ".join(name for name, part in limits if part < 1) or "none",
    }


class _Hottest:
    """The temperatures of all cells at the end of the window with the hottest core."""

    def __init__(self, engine: HeatEngine) -> None:
        self._engine, self._celsius = engine, -np.inf
        self.dies: dict[str, Floats] | None = None

    def look(self, celsius: float) -> None:
        """The hottest core of the window that has just ended."""
        if celsius > self._celsius:
            self._celsius, self.dies = celsius, self._engine.layers_c()


def _write_pictures(job: HeatJob, rows: Sequence[Row], hottest: _Hottest) -> None:
    if find_spec("matplotlib") is None:
        LOG.info("no pictures: they need matplotlib, pip install 'pmc[plot]'")
        return
    from pmc.compiler.tas.pictures import maps_png, peaks_png

    points = [{name: float(row[name]) for name in ("ts_ns", "T_peak_logic", "T_peak_dram")} for row in rows]
    write_bytes(job.out / "peaks.png", peaks_png({job.model: points}))
    if hottest.dies is not None:
        write_bytes(job.out / "map.png", maps_png("when the hottest core is hottest", hottest.dies))


def _write_last(job: HeatJob, error: RunAwayError) -> None:
    if error.last is not None:
        celsius = {"temps_core_c": error.last.temps_core_c.tolist(), "temps_bank_c": error.last.temps_bank_c.tolist()}
        write_snapshot(job.out / SNAPSHOT, error.last.ts_ns, celsius)


def _log_inputs(job: HeatJob) -> None:
    """All inputs, so that the log alone tells what was run."""
    LOG.info("model %s, %d windows of %d ns", job.model, job.windows, job.window_ns)
    for name, attribute in job.points.module.attributes.items():
        if isinstance(part := getattr(attribute, "data", None), Schema):
            LOG.info("%s:\n%s", name, yaml_text(part))
    LOG.info("stack:\n%s", yaml_text(job.arch))


def _line(cells: Iterable[object]) -> str:
    return ",".join(map(str, cells)) + "\n"
