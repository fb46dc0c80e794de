"""`pmc evaluate`."""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from pmc.compiler.cli.complete import preset_names
from pmc.compiler.cli.measured import of_system
from pmc.compiler.cli.output import TableFormat, deliver, progress, refuse
from pmc.compiler.cli.target import MODELS, Output, TargetOptions, flag
from pmc.compiler.cli.text_table import output_width, prose
from pmc.compiler.files import check_writable_file, prepare_folder, write_file
from pmc.dialects.errors import PmcError

if TYPE_CHECKING:
    from pmc.backends.evaluate.footprint import Feasibility
    from pmc.compiler.evaluation import EvaluationOptions
    from pmc.dialects.deployment import Deployment

MEASURED = "Measured tables (granularity silicon)"
"""The panel of options that say whose tables are asked."""

SYSTEM_HELP = "The system whose tables are asked, which is a chip and a topology, too: h200-sxm; `pmc list systems`."

EXAMPLES = """
pmc evaluate llama-3.1-8b --chip h100-sxm --topology nvlink-8 --deployment decode --tp 8 --batch 64 \
    --kv-len 4096
pmc evaluate deepseek-v3 --chip sg2262 --topology p1-r1-b4-c32 --deployment dsv3-decode-ep32 --batch 1024 \
    --format csv -o table.csv
pmc evaluate deepseek-v3 --chip sg2262 --topology p1-r1-b4-c32 --deployment dsv3-decode-ep32 \
    --granularity tile --overlap two-batch --isl 4096 --osl 1024
pmc evaluate llama-3.1-8b --granularity silicon --system h200-sxm --backend vllm --deployment decode --tp 2
pmc evaluate dumps/06-partition-stages.mlir --kv-len 8192
"""


def evaluate_command(
    model: Annotated[
        str, typer.Argument(help="Preset, config.json, YAML; or a dump of pmc compile (.mlir).", autocompletion=MODELS)
    ],
    *,
    granularity: Annotated[
        str,
        typer.Option(
            help="How closely the chip is looked at: chip (a roofline per op), core, tile (tilings) or commands (the "
            "simulator); all prints them side by side.  silicon asks measured tables of a GPU."
        ),
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
        typer.Option(help="Parts of the batch in the pipeline of decode; one per stage if not given."),
    ] = None,
    tile_cache: Annotated[
        Path | None, typer.Option(metavar="DIR", help="Keep the results of tile searches here, for the next time.")
    ] = None,
    show_deployment: Annotated[
        bool, typer.Option("--show-deployment", help="Print every field of the deployment below the result.")
    ] = False,
    plans: Annotated[
        bool, typer.Option("--plans", help="A column with the plan of every op, at granularity tile.")
    ] = False,
    trace: Annotated[
        Path | None, typer.Option(help="Write when the ops of a step run as a trace for ui.perfetto.dev.")
    ] = None,
    system: Annotated[
        str | None, typer.Option(help=SYSTEM_HELP, autocompletion=preset_names("system"), rich_help_panel=MEASURED)
    ] = None,
    backend: Annotated[
        str | None, typer.Option(help="The serving engine: trtllm, sglang or vllm.", rich_help_panel=MEASURED)
    ] = None,
    database_version: Annotated[
        str | None, typer.Option(help="The version of the engine; the current one.", rich_help_panel=MEASURED)
    ] = None,
    database_mode: Annotated[
        str | None,
        typer.Option(help="Where numbers may be from: sol, empirical, silicon, hybrid.", rich_help_panel=MEASURED),
    ] = None,
    expert_load_table: Annotated[
        str | None,
        typer.Option(help="The load of experts as tables call it: balanced, power_law_1.2.", rich_help_panel=MEASURED),
    ] = None,
    perf_dir: Annotated[
        Path | None, typer.Option(help="A folder of tables, not those of pmc[silicon].", rich_help_panel=MEASURED)
    ] = None,
    host: Annotated[
        str | None, typer.Option(help="What launches kernels: graph, eager or none.", rich_help_panel=MEASURED)
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
    check_writable_file(trace)
    if tile_cache is not None:
        prepare_folder(tile_cache)
    with progress(f"evaluating {model}"):
        from pmc.compiler.config import load_calibration
        from pmc.compiler.evaluation import EvaluationOptions, overlap_of

        target, measurements = of_system(
            target, system, backend, database_version, database_mode, expert_load_table, perf_dir, host
        )
        form = Form(output_format, output_width(output), show_deployment, plans)
        options = EvaluationOptions(
            granularity,
            overlap_of(overlap),
            None if calibration is None else load_calibration(calibration),
            tile_cache,
            measurements,
        )
        if trace is not None and (granularity == "all" or isl is not None or osl is not None):
            raise PmcError("--trace shows one step: leave out --isl and --osl, and name one granularity")
        if granularity == "all":
            if isl is not None or osl is not None or plans:
                raise PmcError("--granularity all is about the ops of a step: leave out --isl, --osl and --plans")
            text, memory = _levels(model, options, form, target, output)
        elif isl is None and osl is None:
            if micro_batches is not None:
                raise PmcError("--micro-batches is about requests: give --isl and --osl")
            text, memory = _step(model, options, form, target, trace)
        else:
            if plans:
                raise PmcError("--plans is about a step: leave out --isl and --osl")
            if isl is None or osl is None:
                raise PmcError(f"a request needs both lengths: --{'isl' if isl is None else 'osl'} is missing")
            lengths = (isl, osl, micro_batches)
            text, memory = _request(model, lengths, options, form, target)
    if memory is None or memory.fits:
        deliver(text, output)
        return
    deliver(f"{text}{form.lines([memory.verdict])}" if output_format is TableFormat.TEXT else text, output)
    refuse([memory.verdict], output_format, output)


@dataclass(frozen=True)
class Form:
    """How a result is printed."""

    format: TableFormat
    width: int | None
    """The characters of a line of text, None for any."""
    show_deployment: bool
    plans: bool

    def lines(self, lines: Sequence[str]) -> str:
        """Text under a table."""
        return "".join(f"{line}\n" for line in prose(lines, self.width))

    def json(self, document: dict[str, object], deployment: Deployment, said: list[str]) -> str:
        """A result with what it was computed for."""
        full = {**document, "deployment": deployment.model_dump(mode="json"), "hints": said}
        return json.dumps(full, indent=2) + "\n"

    def notes(self, deployment: Deployment, said: list[str]) -> str:
        """The hints, and the deployment where it is asked for, as its file would say it."""
        text = self.lines([f"hint: {hint}" for hint in said])
        if not self.show_deployment:
            return text
        from pmc.compiler.config import yaml_text

        block = yaml_text(deployment).splitlines()
        return f"{text}deployment:\n" + "".join(f"  {line}\n" for line in block)


def _step(
    model: str, options: EvaluationOptions, form: Form, target: TargetOptions, trace: Path | None
) -> tuple[str, Feasibility | None]:
    """The evaluation as it is printed, and whether it fits, where that is known."""
    from pmc.compiler.cli.compiled import deployment_of, parameters_of, rank_program
    from pmc.compiler.hints import hints
    from pmc.compiler.step_evaluation import evaluate_dist

    module, bindings = rank_program(model, target)
    found = evaluate_dist(module, options, bindings, form.plans)
    memory = found.memory
    if trace is not None:
        document = options.evaluator(module).timeline(bindings).trace()
        write_file(trace, json.dumps(document) + "\n")
    if form.format is TableFormat.CSV:
        return found.to_csv(), memory
    deployment = deployment_of(module, bindings)
    said = hints(module, deployment, (deployment.phase,))
    parameters = parameters_of(model)
    if form.format is TableFormat.JSON:
        document = {**found.to_dict(), "parameters": None if parameters is None else parameters._asdict()}
        return form.json(document, deployment, said), memory
    from pmc.compiler.cli.request_table import step_lines
    from pmc.compiler.cli.table import result_table

    lines = [
        *([] if parameters is None else [str(parameters)]),
        *step_lines(found.step, found.figures, found.speculation),
    ]
    return result_table(found.step.ops, form.width) + form.lines(lines) + form.notes(deployment, said), memory


def _levels(
    model: str, options: EvaluationOptions, form: Form, target: TargetOptions, output: Path | None
) -> tuple[str, Feasibility | None]:
    """The step at all granularities as it is printed, and whether it fits, where that is known."""
    from pmc.backends.evaluate.feasibility import step_feasibility
    from pmc.compiler.cli.analysis_output import analysis_text
    from pmc.compiler.cli.compiled import rank_program
    from pmc.compiler.levels import evaluate_levels

    module, bindings = rank_program(model, target)
    table = evaluate_levels(module, options, bindings)
    return analysis_text(table, form.format, output), step_feasibility(module, bindings)


def _request(
    model: str,
    lengths: tuple[int, int, int | None],
    options: EvaluationOptions,
    form: Form,
    target: TargetOptions,
) -> tuple[str, Feasibility]:
    """The evaluation of requests of `isl`, `osl` and `micro_batches` as it is printed, and whether it fits."""
    from pmc.compiler.cli.compiled import parameters_of
    from pmc.compiler.driver import load_model
    from pmc.compiler.evaluation import evaluate_request
    from pmc.compiler.hints import hints
    from pmc.compiler.pipelines import DEPLOYMENT

    module = load_model(model)
    if DEPLOYMENT in module.attributes:
        raise PmcError(f"{model} is a dump of one phase: --isl and --osl need a model, whose phases are both compiled")
    for name in ("phase", "q_len", "kv_len"):
        if name in target.fields:
            raise PmcError(f"{flag(name)} does not go with --isl and --osl, which say it for both phases")
    chip, topology, deployment = target.load()
    isl, osl, micro_batches = lengths
    result = evaluate_request(
        module, chip, topology, deployment, isl, osl, options, micro_batches, target.load_accounting()
    )
    if form.format is TableFormat.CSV:
        return result.to_csv(), result.memory
    shown = "prefill" if deployment.draft_tokens else deployment.phase  # a decode step with drafts has one new token
    deployment = deployment.model_copy(update={"phase": shown, "q_len": isl, "kv_len": isl + osl - 1})
    said = hints(module, deployment, ("prefill", "decode") if osl > 1 else ("prefill",))
    parameters = parameters_of(model)
    if form.format is TableFormat.JSON:
        document = {**result.to_dict(), "parameters": None if parameters is None else parameters._asdict()}
        return form.json(document, deployment, said), result.memory
    from pmc.compiler.cli.request_table import request_table

    lines = [*request_table(result), *([] if parameters is None else [str(parameters)])]
    return form.lines(lines) + form.notes(deployment, said), result.memory
