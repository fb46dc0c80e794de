"""`pmc evaluate`."""

from __future__ import annotations

import json
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from pmc.compiler.cli.output import TableFormat, deliver, progress, refuse
from pmc.compiler.cli.target import Output, TargetOptions, flag
from pmc.compiler.files import check_writable_file, prepare_folder
from pmc.dialects.errors import PmcError

if TYPE_CHECKING:
    from pmc.backends.evaluate.footprint import Feasibility
    from pmc.backends.evaluate.overlap import StepEvaluator, StepResult
    from pmc.backends.evaluate.request import RequestResult
    from pmc.compiler.evaluation import EvaluationOptions

EXAMPLES = """\b
Examples:
  pmc evaluate llama-3.1-8b --chip sg2262 --topology p1-r1-b1-c8 --deployment llama-8b-decode
  pmc evaluate deepseek-v3 --chip sg2262 --topology p1-r1-b4-c32 --deployment dsv3-decode-ep32 \\
      --batch 1024 --format csv -o table.csv
  pmc evaluate deepseek-v3 --chip sg2262 --topology p1-r1-b4-c32 --deployment dsv3-decode-ep32 \\
      --granularity tile --overlap two-batch --isl 4096 --osl 1024
  pmc evaluate dumps/06-partition-stages.mlir --kv-len 8192
"""


def evaluate_command(
    model: Annotated[str, typer.Argument(help="Preset, config.json, YAML; or a dump of pmc compile (.mlir).")],
    *,
    granularity: Annotated[
        str, typer.Option(help="How closely the chip is looked at: chip (a roofline per op), core, or tile (tilings).")
    ] = "chip",
    isl: Annotated[int | None, typer.Option(help="Evaluate whole requests with so many tokens in; with --osl.")] = None,
    osl: Annotated[int | None, typer.Option(help="Tokens out of a request; with --isl.")] = None,
    overlap: Annotated[
        str,
        typer.Option(help="none; streams: transfers beside computation; two-batch: two micro-batches in turn."),
    ] = "none",
    calibration: Annotated[
        str | None, typer.Option(help="Corrections of the modelled times: preset or YAML file.")
    ] = None,
    micro_batches: Annotated[
        int | None,
        typer.Option(help="Parts of the batch in the pipeline; without it the most that divide it, up to one a stage."),
    ] = None,
    tile_cache: Annotated[
        Path | None, typer.Option(metavar="DIR", help="Keep the results of tile searches here, for the next time.")
    ] = None,
    output: Output = None,
    output_format: Annotated[TableFormat, typer.Option("--format", help="The form of the table.")] = (TableFormat.TEXT),
    target: TargetOptions,
) -> None:
    """Tell how long one step of one rank takes, op by op, and what limits each op; or how long whole requests take.

    A dump holds its own target; only --batch, --q-len and --kv-len may be given with it, and only while it has symbols,
    and --accounting, while no tiles are chosen.
    With --isl and --osl, prefill and decode of the deployment are both compiled, and its phase and lengths are ignored.
    Exit code 1 says that it does not fit the DRAM of a chip, what exceeds by how much, and the largest batch that fits.
    """
    check_writable_file(output)
    if tile_cache is not None:
        prepare_folder(tile_cache)
    with progress(f"evaluating {model}"):
        from pmc.compiler.config import load_calibration
        from pmc.compiler.evaluation import EvaluationOptions, overlap_of

        options = EvaluationOptions(
            granularity,
            overlap_of(overlap),
            None if calibration is None else load_calibration(calibration),
            tile_cache,
        )
        if isl is None and osl is None:
            if micro_batches is not None:
                raise PmcError("--micro-batches is about requests: give --isl and --osl")
            text, memory = _step(model, options, output_format, target)
        else:
            if isl is None or osl is None:
                raise PmcError(f"a request needs both lengths: --{'isl' if isl is None else 'osl'} is missing")
            result = _request(model, isl, osl, micro_batches, options, target)
            text, memory = _request_text(result, output_format), result.memory
    if memory is None or memory.fits:
        deliver(text, output)
        return
    deliver(f"{text}{memory.verdict}\n" if output_format is TableFormat.TEXT else text, output)
    refuse([memory.verdict], output_format, output)


def _step(
    model: str, options: EvaluationOptions, output_format: TableFormat, target: TargetOptions
) -> tuple[str, Feasibility | None]:
    """The evaluation as it is printed, and whether it fits, where that is known."""
    from pmc.backends.evaluate.feasibility import step_feasibility
    from pmc.compiler.cli.compiled import rank_program

    module, bindings = rank_program(model, target)
    evaluator = options.evaluator(module)
    step, memory = evaluator.step(bindings), step_feasibility(module, bindings)
    return _step_text(evaluator, step, memory, output_format), memory


def _request(
    model: str, isl: int, osl: int, micro_batches: int | None, options: EvaluationOptions, target: TargetOptions
) -> RequestResult:
    from pmc.compiler.driver import load_model
    from pmc.compiler.evaluation import evaluate_request
    from pmc.compiler.pipelines import DEPLOYMENT

    module = load_model(model)
    if DEPLOYMENT in module.attributes:
        raise PmcError(f"{model} is a dump of one phase: --isl and --osl need a model, whose phases are both compiled")
    for name in ("phase", "q_len", "kv_len"):
        if name in target.fields:
            raise PmcError(f"{flag(name)} does not go with --isl and --osl, which say it for both phases")
    return evaluate_request(module, *target.load(), isl, osl, options, micro_batches, target.load_accounting())


def _step_text(
    evaluator: StepEvaluator, step: StepResult, memory: Feasibility | None, output_format: TableFormat
) -> str:
    if output_format is TableFormat.CSV:
        return step.ops.to_csv()
    from pmc.backends.evaluate.request import aggregate_step

    figures = aggregate_step(evaluator, step)
    if output_format is TableFormat.JSON:
        document = {
            **step.ops.to_dict(),
            "schedule": step.schedule_dict(),
            "aggregates": figures.to_dict(),
            "memory": None if memory is None else memory.to_dict(),
        }
        return json.dumps(document, indent=2) + "\n"
    from pmc.compiler.cli.request_table import step_lines
    from pmc.compiler.cli.table import result_table

    return result_table(step.ops) + "".join(f"{line}\n" for line in step_lines(step, figures))


def _request_text(result: RequestResult, output_format: TableFormat) -> str:
    if output_format is TableFormat.CSV:
        return result.to_csv()
    if output_format is TableFormat.JSON:
        return result.to_json()
    from pmc.compiler.cli.request_table import request_table

    return request_table(result)


evaluate_command.__doc__ = f"{evaluate_command.__doc__}\n\n{EXAMPLES}"
