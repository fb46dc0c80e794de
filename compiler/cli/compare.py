"""`pmc compare`."""

from __future__ import annotations

from dataclasses import replace
from typing import TYPE_CHECKING, Annotated

import typer

from pmc.compiler.cli.analysis_output import analysis_text
from pmc.compiler.cli.compiled import rank_program
from pmc.compiler.cli.complete import setting
from pmc.compiler.cli.output import TableFormat, deliver, progress, refuse
from pmc.compiler.cli.target import Output, TargetOptions
from pmc.compiler.files import check_writable_file
from pmc.dialects.errors import PmcError

if TYPE_CHECKING:
    from pmc.backends.evaluate import EngineResult
    from pmc.backends.evaluate.footprint import Feasibility

VARIED = ("chip", "topology", "deployment")
"""The parts of a target that A and B may be."""

EXAMPLES = """
pmc compare sg2262 h100-sxm --model llama-3.1-8b --topology p1-r1-b1-c8 --deployment llama-8b-decode
pmc compare tp8.yaml tp4-dp2.yaml --model llama-3.1-70b --chip sg2262 --topology p1-r1-b1-c8 --granularity core
pmc compare decode decode --model llama-3.1-8b --chip h100-sxm --topology nvlink-8 --b-set tp=4
pmc compare before/06-partition-stages.mlir after/06-partition-stages.mlir --format csv
"""


def compare_command(
    a: Annotated[str, typer.Argument(help="Chip, topology or deployment (preset or file); or a dump (.mlir).")],
    b: Annotated[str, typer.Argument(help="The other one, of the same kind.")],
    *,
    model: Annotated[str | None, typer.Option(help="Preset, config.json or YAML; not with dumps.")] = None,
    b_settings: Annotated[
        list[str] | None,
        typer.Option(
            "--b-set",
            metavar="FIELD=VALUE",
            autocompletion=setting,
            help="Replace one field of the target of B only: tp=4, chip.cores=128; repeatable.",
        ),
    ] = None,
    granularity: Annotated[str, typer.Option(help="How closely the chip is looked at: chip, core or tile.")] = "chip",
    output: Output = None,
    output_format: Annotated[TableFormat, typer.Option("--format", help="The form of the table.")] = (TableFormat.TEXT),
    target: TargetOptions,
) -> None:
    """Evaluate a model on two targets and set the times side by side, op by op.

    A and B are what --chip, --topology and --deployment leave open: give two of the three.  Or they are two dumps,
    which hold their own targets and may be of different models.  Options and --set hold for both sides; to vary one
    field, give the same name twice and the field of B with --b-set.  Exit code 1 says that one does not fit its chip.
    """
    check_writable_file(output)
    from pmc.backends.evaluate.analyses.compare import compare

    if b_settings and b.endswith(".mlir"):
        raise PmcError(f"{b} holds its own target: --b-set cannot change it any more")
    with progress(f"comparing {a} and {b}"):
        first, (program, own) = _sides(a, b, model, target)
        second = (program, own.varied(b_settings) if b_settings else own)
        sides = [_evaluate(*side, granularity) for side in (first, second)]
        (result_a, memory_a), (result_b, memory_b) = sides
        names = (a, f"{b} with {', '.join(b_settings)}" if b_settings else b)
        comparison = compare(result_a, result_b, names, (memory_a, memory_b))
    deliver(analysis_text(comparison, output_format, output), output)
    if comparison.misfits:
        refuse(comparison.misfits, output_format, output)


def _sides(a: str, b: str, model: str | None, target: TargetOptions) -> list[tuple[str, TargetOptions]]:
    """Both programs with their targets."""
    dumps = [name.endswith(".mlir") for name in (a, b)]
    if all(dumps):
        if model is not None:
            raise PmcError("--model cannot be given with two dumps: each holds its own")
        return [(a, target), (b, target)]
    if any(dumps):
        raise PmcError(f"{a} and {b}: one is a dump (.mlir), the other is not; compare two of a kind")
    if model is None:
        raise PmcError(f"--model is missing: {a} and {b} are no dumps, which would hold their models")
    open_parts = [part for part in VARIED if getattr(target, part) is None]
    if len(open_parts) != 1:
        given = ", ".join(f"--{part}" for part in VARIED if part not in open_parts) or "none"
        raise PmcError(f"give two of --chip, --topology and --deployment, A and B are the third; found {given}")
    return [(model, _with(target, open_parts[0], name)) for name in (a, b)]


def _with(target: TargetOptions, part: str, name: str) -> TargetOptions:
    """The target with one of its open parts filled in."""
    match part:
        case "chip":
            return replace(target, chip=name)
        case "topology":
            return replace(target, topology=name)
        case _:
            return replace(target, deployment=name)


def _evaluate(program: str, target: TargetOptions, granularity: str) -> tuple[EngineResult, Feasibility | None]:
    """The evaluation, and whether the program fits, where that is known."""
    from pmc.backends.evaluate import evaluate_module
    from pmc.backends.evaluate.feasibility import step_feasibility

    module, bindings = rank_program(program, target)
    return evaluate_module(module, granularity, bindings), step_feasibility(module, bindings)
