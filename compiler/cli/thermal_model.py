"""`pmc thermal run MODEL`: the step of a model on a chip that gets warm."""

from __future__ import annotations

from collections.abc import Callable, Generator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Literal

import typer

from pmc.compiler.cli.compiled import commands_of, deployment_of
from pmc.compiler.cli.output import progress
from pmc.compiler.cli.target import TargetOptions
from pmc.compiler.files import prepare_folder
from pmc.dialects.errors import PmcError

if TYPE_CHECKING:
    from pmc.backends.thermal.hotspot import HotspotProgram
    from pmc.compiler.chip_heat import HeatJob, HeatResult


QUANTITIES = (
    ("step time, us", "step_us", max),
    ("steps per second", "steps_per_s", min),
    ("tokens per second", "tokens_per_s", min),
    ("hottest core, C", "T_peak_logic", max),
    ("hottest bank, C", "T_peak_dram", max),
    ("slowest core, GHz", "clock_ghz", min),
    ("refresh, x base rate", "refresh", max),
    ("DRAM bandwidth left", "bandwidth", min),
    ("power of cores, W", "core_w", max),
    ("power of banks, W", "bank_w", max),
)
"""The rows of the table: title, column of `windows.csv`, and which window is the worst."""


@dataclass(frozen=True)
class ModelRun:
    """What the command line asks for."""

    model: str
    target: TargetOptions
    stack: str | None
    settings: list[str]
    """Of the stack, as `arch.FIELD=VALUE`."""
    out: Path
    windows: int
    window_us: float
    engine: Literal["api", "file", "auto"]
    program: HotspotProgram | None


def run_model(asked: ModelRun) -> None:
    """Run it, and print what has come of it.  Raises PmcError; exit code 1 says that a unit has run away."""
    from pmc.backends.thermal.snapshot import RunAwayError
    from pmc.compiler.chip_heat import SNAPSHOT, run_heat

    job = _job(asked)
    try:
        with _bar(job) as advance:
            result = run_heat(job, advance)
    except RunAwayError as error:
        kept = "" if error.last is None else f"; the last temperatures are in {asked.out / SNAPSHOT}"
        typer.echo(f"{error}{kept}", err=True)
        raise typer.Exit(1) from None
    _report(result)


def _job(asked: ModelRun) -> HeatJob:
    """Loads, compiles and simulates at full speed."""
    from pmc.backends.cost.model import Target
    from pmc.backends.evaluate.speculation import tokens_of_step
    from pmc.backends.g5.operating_point import StepPoints
    from pmc.backends.thermal.step_heat import require_stack_of
    from pmc.compiler.chip_heat import HeatJob
    from pmc.compiler.overrides import parse_settings, study_parts
    from pmc.compiler.tas.configuration import load_stack

    if asked.stack is None:
        raise PmcError("missing option: --thermal STACK, the chip as a stack")
    values = parse_settings(asked.settings, study_parts())
    if foreign := [part for part in values if part != "arch"]:
        raise PmcError(f"--set {foreign[0]}.{next(iter(values[foreign[0]]))}: a MODEL has no {foreign[0]}")
    arch = load_stack(asked.stack, values.get("arch"))
    prepare_folder(asked.out)
    with progress(f"simulating {asked.model}"):
        module = commands_of(asked.model, asked.target)
        require_stack_of(arch, Target.of(module).chip)
        points = StepPoints.of(module)
    deployment = deployment_of(module, {})
    tokens, window_ns = tokens_of_step(module, deployment.symbols), round(asked.window_us * 1e3)
    return HeatJob(asked.model, points, arch, tokens, window_ns, asked.windows, asked.out, asked.engine, asked.program)


def _report(result: HeatResult) -> None:
    """The table on stdout; what limits its meaning on stderr."""
    from pmc.compiler.cli.text_table import Column, output_width, prose, text_table

    values = [result.column(name) for _, name, _ in QUANTITIES]
    means = [1e6 / result.column("steps_per_s").mean(), *(own.mean() for own in values[1:])]
    columns = [
        Column("", [title for title, _, _ in QUANTITIES], left=True),
        Column("first", [_number(own[0]) for own in values]),
        Column("last", [_number(own[-1]) for own in values]),
        Column("mean", [_number(mean) for mean in means]),
        Column("worst", [_number(worst(own)) for own, (_, _, worst) in zip(values, QUANTITIES, strict=True)]),
    ]
    typer.echo("\n".join([*text_table(columns, output_width(None)), *prose(_notes(result), output_width(None))]))
    typer.echo(f"relative only, never validated against silicon: {', '.join(result.assumed)}", err=True)
    typer.echo(f"windows, pictures and log: {result.job.out}", err=True)


def _notes(result: HeatResult) -> list[str]:
    """What limits the step, and whose energies heat the chip."""
    longest = list(result.critical.items())[:3]
    spent = ", ".join(f"{name} {share:.0%}" for name, share in longest)
    clock, refresh = (f"{result.limited(what):.0%}" for what in ("clock", "refresh"))
    return [
        f"at full speed a step takes {result.full_speed_us:.3f} us",
        f"heat lowers the clock in {clock} of {len(result.rows)} windows, the bandwidth of DRAM (refresh) in {refresh}",
        f"critical path of the last step: {spent}",
        f"energies of commands: {result.energies}",
    ]


def _number(value: float) -> str:
    """Three digits behind the point; large numbers with one."""
    return f"{value:.1f}" if abs(value) >= 1e6 else f"{value:.3f}"


@contextmanager
def _bar(job: HeatJob) -> Generator[Callable[[int], None]]:
    """A bar on stderr, when that is a terminal."""
    import sys

    if not sys.stderr.isatty():
        yield lambda windows: None
        return
    from rich.console import Console
    from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeRemainingColumn

    columns = TextColumn("{task.description}"), BarColumn(), MofNCompleteColumn(), TimeRemainingColumn()
    with Progress(*columns, console=Console(stderr=True), transient=True) as bar:
        task = bar.add_task("windows", total=job.windows)
        yield lambda windows: bar.advance(task, windows)
