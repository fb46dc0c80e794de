"""`pmc thermal`."""

from __future__ import annotations

from collections.abc import Callable, Generator
from contextlib import contextmanager
from enum import StrEnum
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from pmc.compiler.cli.complete import preset_names
from pmc.compiler.cli.target import TargetOptions, flag
from pmc.compiler.files import check_writable_file, prepare_folder
from pmc.dialects.errors import PmcError

if TYPE_CHECKING:
    from pmc.backends.thermal.hotspot import HotspotProgram
    from pmc.compiler.tas.experiment import Job

EXAMPLES = """
pmc thermal compare --arch arch_8x8_32x32x8 --workload workload_mixtral_8x7b --tas tas_params --out results/mixtral
pmc thermal run --arch arch.yaml --workload workload.yaml --tas tas.yaml --scenario tas --windows 100 --out results
pmc thermal run llama-3.1-8b --chip sg2262 --topology p1-r1-b1-c8 --deployment llama-8b-decode \
    --thermal sg2262-stacked --out results/chip
"""


class Action(StrEnum):
    """What to do."""

    RUN = "run"
    COMPARE = "compare"


class Engine(StrEnum):
    """Where temperatures come from."""

    API = "api"
    FILE = "file"
    AUTO = "auto"


def thermal_command(
    action: Annotated[Action, typer.Argument(help="run one scenario or one MODEL, or compare all four scenarios.")],
    model: Annotated[
        str | None, typer.Argument(help="Of run: preset, config.json, YAML; or a dump of pmc compile (.mlir).")
    ] = None,
    *,
    arch: Annotated[
        str | None, typer.Option(help="Stacked chip: preset or YAML file.", autocompletion=preset_names("stack"))
    ] = None,
    workload: Annotated[
        str | None,
        typer.Option(help="Workload of experts: preset or YAML file.", autocompletion=preset_names("workload")),
    ] = None,
    tas: Annotated[
        str | None,
        typer.Option(help="Parameters of TAPS and TACS: preset or YAML file.", autocompletion=preset_names("tas")),
    ] = None,
    thermal: Annotated[
        str | None,
        typer.Option(
            metavar="STACK", help="Of MODEL: its chip as a stack, preset or YAML.", autocompletion=preset_names("stack")
        ),
    ] = None,
    out: Annotated[Path, typer.Option(metavar="DIR", help="Folder of the results.")],
    scenario: Annotated[
        str | None, typer.Option(help="Of run: baseline, taps (placed by heat), tacs (moves in the run), tas (both).")
    ] = None,
    windows: Annotated[
        int | None,
        typer.Option(min=1, help="Only so many windows; by default those that the trace fills, 100 of MODEL."),
    ] = None,
    window_us: Annotated[
        float | None, typer.Option(min=0.001, help="Of MODEL: length of a window, us; by default 1000.")
    ] = None,
    resume: Annotated[bool, typer.Option("--resume", help="Go on from the checkpoints in the folder.")] = False,
    engine: Annotated[
        Engine,
        typer.Option(help="Temperatures by pmc's solver (api), by HotSpot (file), or by HotSpot if it is there."),
    ] = Engine.API,
    hotspot: Annotated[str | None, typer.Option(metavar="COMMAND", help="The executable of HotSpot.")] = None,
    trace: Annotated[
        Path | None, typer.Option(metavar="FILE", help="Of a scenario: write its events for ui.perfetto.dev.")
    ] = None,
    timeout_s: Annotated[float, typer.Option(min=0.1, help="After which a call of HotSpot is ended.")] = 300.0,
    target: TargetOptions,
    study: list[str],
) -> None:
    """Run the TAS-MoE study: experts placed by heat (TAPS), moved in the run (TACS), with temperatures fed back.

    Every scenario writes its table, its windows, its events, its module and a log into a folder of its own; `compare`
    adds pictures and report.html. Exit code 1 says that a scenario ran away: its last temperatures are kept.

    `run MODEL` takes the simulated step of a model on a chip instead, over and over while the chip gets warm: DVFS and
    refresh slow the step. It needs a target and --thermal. --set also takes arch.X (the stack), workload.X and tas.X.
    """
    from pmc.compiler.core_heat import require_scipy

    require_scipy()
    if engine is Engine.FILE and hotspot is None:
        raise PmcError("--engine file needs the executable: --hotspot COMMAND")
    program = _program(hotspot, timeout_s)
    names = {"arch": arch, "workload": workload, "tas": tas}
    given = [flag(name) for name, value in (*names.items(), ("scenario", scenario)) if value is not None]
    if model is not None:
        from pmc.compiler.cli.thermal_model import ModelRun, run_model

        foreign = (
            ["compare"] * (action is Action.COMPARE) + given + ["--resume"] * resume + ["--trace"] * (trace is not None)
        )
        if foreign:
            raise PmcError(f"{', '.join(foreign)}: is for the study; a MODEL takes run, a target and --thermal STACK")
        asked = ModelRun(model, target, thermal, study, out, windows or 100, window_us or 1e3, engine.value, program)
        run_model(asked)
        return
    foreign = [*target.given, *["--thermal"] * (thermal is not None), *["--window-us"] * (window_us is not None)]
    if foreign:
        raise PmcError(f"{', '.join(foreign)}: needs a MODEL, pmc thermal run MODEL")
    if missing := [flag(name) for name, value in names.items() if value is None]:
        raise PmcError(f"missing options: {', '.join(missing)}; or give run a MODEL with a target and --thermal STACK")
    chosen = {name: value for name, value in names.items() if value is not None}
    scenarios = _scenarios(action, scenario)
    jobs = _jobs(scenarios, chosen, study, out, windows, resume, engine, program)
    if trace is not None and action is Action.COMPARE:
        raise PmcError("--trace is of one scenario: run --scenario NAME")
    check_writable_file(trace)
    _run_study(jobs, action is Action.COMPARE)
    if trace is not None:
        from pmc.compiler.tas.run_trace import write_trace

        write_trace(jobs[0].folder, jobs[0].study.tas.tacs.window_ns, jobs[0].study.workload.model, trace)


def _scenarios(action: Action, scenario: str | None) -> tuple[str, ...]:
    """Raises PmcError for a scenario that is unknown, missing, or one too many."""
    from pmc.compiler.tas.scenario import SCENARIOS

    if (action is Action.RUN) != (scenario is not None):
        raise PmcError("run needs --scenario NAME; compare runs all of them and takes none")
    if scenario is not None and scenario not in SCENARIOS:
        raise PmcError(f"unknown scenario '{scenario}', expected {', '.join(SCENARIOS)}")
    return tuple(SCENARIOS) if scenario is None else (scenario,)


def _run_study(jobs: list[Job], compared: bool) -> None:
    """Run the scenarios and print their table."""
    from pmc.backends.thermal.snapshot import RunAwayError
    from pmc.compiler.tas.parallel import run_all

    out = jobs[0].out
    prepare_folder(out)
    try:
        with _bar(jobs) as advance:
            rows = run_all(jobs, advance)
    except RunAwayError as error:
        typer.echo(f"{error}; the last temperatures are in {out}/*/last_snapshot.json", err=True)
        raise typer.Exit(1) from None
    _report(rows, jobs[0], compared)


def _program(hotspot: str | None, timeout_s: float) -> HotspotProgram | None:
    """How HotSpot is called; None where it is not."""
    if hotspot is None:
        return None
    import shlex

    from pmc.backends.thermal.hotspot import HotspotProgram

    return HotspotProgram(tuple(shlex.split(hotspot)), timeout_s)


def _jobs(
    scenarios: tuple[str, ...],
    names: dict[str, str],
    settings: list[str],
    out: Path,
    windows: int | None,
    resume: bool,
    engine: Engine,
    program: HotspotProgram | None,
) -> list[Job]:
    from pmc.compiler.overrides import parse_settings, study_parts
    from pmc.compiler.tas.configuration import load_stack, load_tas, load_workload
    from pmc.compiler.tas.experiment import Job
    from pmc.compiler.tas.scenario import Study

    values = parse_settings(settings, study_parts())
    study = Study(
        load_stack(names["arch"], values.get("arch")),
        load_workload(names["workload"], values.get("workload")),
        load_tas(names["tas"], values.get("tas")),
    )
    return [Job(study, scenario, out, windows, resume, engine.value, program) for scenario in scenarios]


def _report(rows: list[dict[str, float | str]], job: Job, compared: bool) -> None:
    """The table, what it is worth, and where the pictures are."""
    from pmc.backends.thermal.metrics import RUN_COLUMNS
    from pmc.compiler.cli.text_table import Column, output_width, text_table
    from pmc.compiler.tas.page import shown

    texts = ("scenario", "workload")
    columns = [Column(name, [shown(row[name]) for row in rows], left=name in texts) for name in RUN_COLUMNS]
    typer.echo("\n".join(text_table(columns, output_width(None))))
    typer.echo("relative only: nothing of this chip was validated against silicon")
    if compared:
        from pmc.compiler.tas.page import write_page

        typer.echo(f"pictures and tables: {write_page(job.out, job.study.arch, rows)}")


@contextmanager
def _bar(jobs: list[Job]) -> Generator[Callable[[str, int], None]]:
    """A bar per scenario on stderr, when that is a terminal."""
    import sys

    if not sys.stderr.isatty():
        yield lambda scenario, windows: None
        return
    from rich.console import Console
    from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeRemainingColumn

    sequence = jobs[0].study.workload.sequence
    window_ms = jobs[0].study.tas.tacs.window_ms
    total = jobs[0].windows or int((sequence.steps - 1) * sequence.interval_ms // window_ms) + 1
    columns = TextColumn("{task.description}"), BarColumn(), MofNCompleteColumn(), TimeRemainingColumn()
    with Progress(*columns, console=Console(stderr=True), transient=True) as bar:
        tasks = {job.scenario: bar.add_task(job.scenario, total=total) for job in jobs}
        yield lambda scenario, windows: bar.advance(tasks[scenario], windows)
