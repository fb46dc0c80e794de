"""One scenario of a study, from its trace to the files of its folder."""

from __future__ import annotations

import hashlib
from collections.abc import Callable
from contextlib import closing
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from xdsl.dialects.builtin import ModuleOp

from pmc.backends.thermal.core_response import response_of
from pmc.backends.thermal.hotspot import HotspotProgram, Mode, heat_engine
from pmc.backends.thermal.metrics import run_metrics, window_metrics
from pmc.backends.thermal.snapshot import RunAwayError
from pmc.backends.thermal.stacked import StackedModel
from pmc.backends.thermal.tacs import Tacs
from pmc.backends.thermal.tas_loop import TasRun
from pmc.compiler.config import yaml_text
from pmc.compiler.driver import module_text
from pmc.compiler.files import prepare_folder, write_file
from pmc.compiler.run_log import LOG, log_file
from pmc.compiler.tas.page import HOTTEST
from pmc.compiler.tas.run_files import (
    CHECKPOINT,
    WINDOWS,
    GrowingFiles,
    read_checkpoint,
    read_windows,
    write_checkpoint,
    write_run,
    write_snapshot,
)
from pmc.compiler.tas.run_module import MODULE, add_events
from pmc.compiler.tas.scenario import SCENARIOS, Study, setting_of
from pmc.compiler.trace_files import PLACEMENT_FILE, REPLICAS_FILE, write_logical, write_placement, write_replicas
from pmc.dialects.trace import LogicalOp, PlacementOp

CHECKPOINT_EVERY = 25
"""Windows between two checkpoints."""


ENDED = "inputs.sha256"
"""The file of a run that came to its end: of which inputs."""

Advance = Callable[[int], None]
"""Is told how many windows are done."""


@dataclass(frozen=True)
class Job:
    """A scenario to run."""

    study: Study
    scenario: str
    out: Path
    """Folder of the study; the scenario gets a folder of its own in it."""
    windows: int | None
    """The first windows only; None for all in which the trace generates something."""
    resume: bool
    """Whether to go on from the checkpoint in the folder."""
    mode: Mode
    program: HotspotProgram | None

    @property
    def folder(self) -> Path:
        """The folder of the scenario."""
        return self.out / self.scenario

    @property
    def digest(self) -> str:
        """Tells whether a checkpoint is one of this job."""
        parts = [yaml_text(part) for part in (self.study.arch, self.study.workload, self.study.tas)]
        return hashlib.sha256("\n".join([*parts, self.scenario, self.mode]).encode()).hexdigest()

    @property
    def inputs(self) -> str:
        """What `ENDED` says of a run of this job."""
        return f"{self.digest} {'all' if self.windows is None else self.windows} windows\n"


def run_scenario(job: Job, advance: Advance = lambda windows: None) -> dict[str, float | str]:
    """Run a scenario and give the row of it.  Raises PmcError; RunAwayError after the last temperatures are written.

    With `resume`, a scenario that has run to its end with the same inputs is not run again.
    """
    prepare_folder(job.folder)
    ended = job.folder / ENDED
    if job.resume and ended.exists() and ended.read_text() == job.inputs:
        return _row(job)
    ended.unlink(missing_ok=True)
    with log_file(job.folder / "run.log", job.resume):
        _log_inputs(job)
        module = job.study.module(job.scenario)
        setting = setting_of(module)
        model = StackedModel.of(job.study.arch)
        engine = heat_engine(model, job.program, job.folder / "hotspot", job.mode)
        shard_bytes = round(job.study.workload.tensors.weight_shard_mb * 2**20)
        online = SCENARIOS[job.scenario].online
        tacs = Tacs(job.study.tas.tacs, setting, response_of(model), shard_bytes) if online else None
        run = TasRun(setting, engine, tacs)
        kept = read_checkpoint(job.folder, job.digest) if job.resume else None
        if kept is not None:
            run.restore(kept["run"])
            LOG.info("goes on with window %d", run.window)
        files = GrowingFiles(job.folder, None if kept is None else kept["sizes"])
        with closing(files):
            _step_all(job, run, files, advance)
        _write_end(job, module, run)
        row = _row(job)
        write_run(job.folder / f"{job.study.workload.model}.csv", [row])
        write_file(ended, job.inputs)
    return row


def _row(job: Job) -> dict[str, float | str]:
    return run_metrics(job.scenario, job.study.workload.model, read_windows(job.folder / WINDOWS))


def _step_all(job: Job, run: TasRun, files: GrowingFiles, advance: Advance) -> None:
    count = run.setting.windows if job.windows is None else job.windows
    hottest = _Hottest(job.folder / HOTTEST, run)
    advance(min(run.window, count))
    while run.window < count:
        try:
            record = run.step()
        except RunAwayError as error:
            _write_last(job, error)
            raise
        metrics = window_metrics(run.setting, record)
        files.add(record, run.setting.chip, metrics)
        hottest.look(float(metrics["T_peak_logic"]))
        if run.window % CHECKPOINT_EVERY == 0 and run.window < count:
            write_checkpoint(job.folder, {"digest": job.digest, "run": run.kept(), "sizes": files.sizes()})
        advance(1)


def _write_end(job: Job, module: ModuleOp, run: TasRun) -> None:
    """What is written once: the trace, the placement, the replicas, the module, the row of the run."""
    logical = next(op for op in module.ops if isinstance(op, LogicalOp))
    placement = next(op for op in module.ops if isinstance(op, PlacementOp))
    write_logical(job.folder, logical.compute.data, logical.memory.data)
    write_placement(job.folder / PLACEMENT_FILE, placement.experts.data, placement.tensors.data)
    write_replicas(job.folder / REPLICAS_FILE, run.state.events.replicas(run.setting))
    add_events(module, job.folder, run.setting)
    write_file(job.folder / MODULE, module_text(module))
    (job.folder / CHECKPOINT).unlink(missing_ok=True)


def _write_last(job: Job, error: RunAwayError) -> None:
    if error.last is not None:
        celsius = {"temps_core_c": error.last.temps_core_c.tolist(), "temps_bank_c": error.last.temps_bank_c.tolist()}
        write_snapshot(job.folder / "last_snapshot.json", error.last.ts_ns, celsius)


class _Hottest:
    """Keeps the temperatures of all cells at the end of the window with the hottest core."""

    def __init__(self, path: Path, run: TasRun) -> None:
        self._path, self._run = path, run
        self._celsius = float(np.load(path)["celsius"]) if path.exists() and run.window else -np.inf

    def look(self, celsius: float) -> None:
        """The hottest core of the window that has just ended."""
        cells = self._run.chip.engine.layers_c()
        if cells is not None and celsius > self._celsius:
            self._celsius = celsius
            np.savez(self._path, celsius=celsius, names=np.array(list(cells)), cells=np.stack(list(cells.values())))


def _log_inputs(job: Job) -> None:
    """The seed and all inputs, so that the log alone tells what was run."""
    LOG.info("scenario %s, seed %d", job.scenario, job.study.workload.routing.seed)
    for kind, part in (("arch", job.study.arch), ("workload", job.study.workload), ("tas", job.study.tas)):
        LOG.info("%s:\n%s", kind, yaml_text(part))
