"""`pmc simulate`."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from pmc.compiler.cli.analysis_output import analysis_text
from pmc.compiler.cli.compiled import to_lower
from pmc.compiler.cli.output import TableFormat, deliver, progress
from pmc.compiler.cli.target import Output, TargetOptions
from pmc.compiler.files import check_writable_file, write_file
from pmc.dialects.errors import PmcError

if TYPE_CHECKING:
    from pmc.backends.g5.stream import StepTimes

EXAMPLES = """
pmc simulate llama-3.1-8b --chip sg2262 --topology p1-r1-b1-c8 --deployment llama-8b-decode
pmc simulate dumps/13-emit-g5.mlir --trace trace.json
pmc simulate dumps/13-emit-g5.mlir --commands core=3,op=*.attention --format csv
pmc simulate dumps/13-emit-g5.mlir --commands op=*.down_proj --plot kernel.svg
"""


def simulate_command(
    model: Annotated[str, typer.Argument(help="Preset, config.json, YAML; or a dump of pmc compile (.mlir).")],
    *,
    output: Output = None,
    output_format: Annotated[TableFormat, typer.Option("--format", help="The form of the table.")] = (TableFormat.TEXT),
    commands: Annotated[
        str | None,
        typer.Option(help="List commands with start and end: core=N, op=PATTERN of paths, or both with a comma."),
    ] = None,
    trace: Annotated[
        Path | None, typer.Option(help="Write a trace for ui.perfetto.dev: all engines of core 0 and of the last core.")
    ] = None,
    plot: Annotated[
        Path | None,
        typer.Option(help="Draw the kernel that takes longest, or the longest that --commands names (.svg)."),
    ] = None,
    target: TargetOptions,
) -> None:
    """Run the commands of one step of one rank in time: waits, queues, and the DRAM that all cores share.

    Prints the time of every kernel, what its critical path spends it with, and how busy its engines are.  A dump holds
    its own target.
    """
    check_writable_file(output)
    check_writable_file(trace)
    check_writable_file(plot)
    if plot is not None and plot.suffix != ".svg":
        raise PmcError(f"--plot {plot}: a picture is an SVG file, give --plot {plot.stem}.svg")
    chosen = _chosen(commands)
    with progress(f"simulating {model}"):
        from pmc.backends.g5.report import CommandList, StepReport
        from pmc.compiler.rank_programs import simulate_ranks

        step = simulate_ranks(to_lower(model, target))
        cores = None if chosen is None or chosen[0] is None else _core(chosen[0], step)
        report = StepReport(model, step) if chosen is None else CommandList(model, step, cores, chosen[1])
    if trace is not None:
        _write_trace(step, trace)
    if plot is not None:
        core, paths = (0, "*") if chosen is None else (chosen[0] or 0, chosen[1])
        _write_plot(step, core, paths, plot)
    deliver(analysis_text(report, output_format, output), output)


def _write_plot(step: StepTimes, core: int, paths: str, file: Path) -> None:
    from pmc.backends.evaluate.gantt import gantt
    from pmc.backends.g5.timeline import kernel_timeline

    found = kernel_timeline(step, core, paths)
    title = f"{found.events[0].path}, core {core} of {step.chip.name}: one run"
    write_file(file, gantt(title, found.events, found.counters))


def _chosen(commands: str | None) -> tuple[int | None, str] | None:
    """Core and pattern of `core=N,op=PATTERN`; None without the option."""
    if commands is None:
        return None
    core: int | None = None
    pattern = "*"
    for part in commands.split(","):
        name, separator, value = part.partition("=")
        if name == "core" and value.isdecimal():
            core = int(value)
        elif name == "op" and separator and value:
            pattern = value
        else:
            raise PmcError(f"--commands {commands}: '{part}' must be core=N or op=PATTERN")
    return core, pattern


def _core(core: int, step: StepTimes) -> frozenset[int]:
    if core >= step.chip.cores:
        raise PmcError(f"--commands core={core}: chip {step.chip.name} has cores 0 to {step.chip.cores - 1}")
    return frozenset({core})


def _write_trace(step: StepTimes, path: Path) -> None:
    import json

    from pmc.backends.g5.timeline import timeline

    write_file(path, json.dumps(timeline(step, (0, step.chip.cores - 1)).trace()) + "\n")
