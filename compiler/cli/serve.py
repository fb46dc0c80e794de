"""`pmc serve`."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, cast

import typer

from pmc.compiler.cli.output import Format, deliver, progress
from pmc.compiler.cli.target import MODELS, Output, TargetOptions, flag
from pmc.compiler.cli.text_table import output_width
from pmc.compiler.files import check_writable_file, prepare_folder, write_file
from pmc.dialects.errors import PmcError

if TYPE_CHECKING:
    from xdsl.dialects.builtin import ModuleOp

    from pmc.backends.serve.requests import Requests
    from pmc.backends.serve.service import Engine

REPLACED = {
    "phase": "both phases are compiled",
    "q_len": "--isl says it",
    "kv_len": "--isl and --osl say it",
    "batch": "--largest-batch says it",
    "prefill_chunk": "--token-budget says it",
}
"""Options of a deployment that a service has others for."""

EXAMPLES = """
pmc serve llama-3.1-8b --chip h100-sxm --topology nvlink-8 --deployment llama-8b-decode --rate 8 --isl 1000 --osl 200
pmc serve llama-3.1-70b --chip h100-sxm --topology nvlink-8 --deployment llama-70b-decode-tp8 \
    --concurrency 64 --isl lognormal:2000,0.6,16000 --osl uniform:100-800 --engine closed-form
pmc serve llama-3.1-8b --chip h100-sxm --topology nvlink-8 --deployment llama-8b-decode --trace requests.csv
pmc serve service.mlir --format json
"""


def serve_command(
    model: Annotated[
        str,
        typer.Argument(help="Preset, config.json, YAML; or a file that --dump wrote (.mlir).", autocompletion=MODELS),
    ],
    *,
    rate: Annotated[float | None, typer.Option(help="Requests per second, at random times.")] = None,
    concurrency: Annotated[
        int | None, typer.Option(help="Users, each of whom sends the next request when the last one is answered.")
    ] = None,
    isl: Annotated[
        str | None,
        typer.Option(
            help="Tokens in: TOKENS, uniform:LEAST-MOST, lognormal:MEDIAN,SIGMA,LONGEST or "
            "histogram:TOKENS=WEIGHT,TOKENS=WEIGHT,.."
        ),
    ] = None,
    osl: Annotated[str | None, typer.Option(help="Tokens out, in the same forms.")] = None,
    trace: Annotated[
        Path | None,
        typer.Option(
            help="Replay the requests of a CSV file: arrival_s, input_tokens, output_tokens; no rate, no lengths."
        ),
    ] = None,
    prefix_share: Annotated[
        float | None, typer.Option(help="Part of every prompt that is in the cache already. [default: 0]")
    ] = None,
    policy: Annotated[
        str | None,
        typer.Option(help="mixed: prompts share steps with decoding; prefill-first: they go before. [default: mixed]"),
    ] = None,
    largest_batch: Annotated[
        int | None, typer.Option(help="Requests at the same time, on a data-parallel rank. [default: 64]")
    ] = None,
    token_budget: Annotated[
        int | None,
        typer.Option(help="Tokens of a step, on a data-parallel rank: the chunk of prefill. [default: 2048]"),
    ] = None,
    headroom: Annotated[float | None, typer.Option(help="Part of the DRAM that stays free. [default: 0.1]")] = None,
    kv_block_tokens: Annotated[int | None, typer.Option(help="Tokens of a block of the cache. [default: 16]")] = None,
    engine: Annotated[
        str, typer.Option(help="events: a simulation, with percentiles; closed-form: means, in less time.")
    ] = "events",
    requests: Annotated[int, typer.Option(help="Requests that a simulation looks at.")] = 4000,
    seed: Annotated[int, typer.Option(help="Of the random arrivals and lengths of a simulation.")] = 0,
    granularity: Annotated[str, typer.Option(help="How closely the chip is looked at: chip, core or tile.")] = "chip",
    calibration: Annotated[
        str | None, typer.Option(help="Corrections of the modelled times: preset or YAML file.")
    ] = None,
    tile_cache: Annotated[
        Path | None, typer.Option(metavar="DIR", help="Keep the results of tile searches here, for the next time.")
    ] = None,
    dump: Annotated[
        Path | None, typer.Option(help="Write the service (programs, traffic, scheduler) as MLIR, for pmc serve FILE.")
    ] = None,
    output: Output = None,
    output_format: Annotated[Format, typer.Option("--format", help="The form of the result.")] = Format.TEXT,
    target: TargetOptions,
) -> None:
    """Tell what latencies and throughput users get from a deployment that serves them with continuous batching.

    Exit code 1 says that the DRAM of a chip has no room for a single request. A rate that cannot be sustained is an
    error that says which one can.
    """
    for path in (output, dump):
        check_writable_file(path)
    if tile_cache is not None:
        prepare_folder(tile_cache)
    said = {
        "rate": rate, "concurrency": concurrency, "isl": isl, "osl": osl, "prefix_share": prefix_share,
        "policy": policy, "largest_batch": largest_batch, "token_budget": token_budget, "headroom": headroom,
        "kv_block_tokens": kv_block_tokens,
    }  # fmt: skip
    with progress(f"serving {model}"):
        from pmc.backends.serve.requests import read_trace
        from pmc.backends.serve.service import DoesNotFit
        from pmc.compiler.config import load_calibration
        from pmc.compiler.evaluation import EvaluationOptions
        from pmc.compiler.serving import serve_module

        corrections = None if calibration is None else load_calibration(calibration)
        options = EvaluationOptions(granularity, calibration=corrections, tile_cache=tile_cache)
        recorded = None if trace is None else read_trace(trace)
        module = _service(model, {name: value for name, value in said.items() if value is not None}, recorded, target)
        if dump is not None:
            from pmc.compiler.module_text import module_text

            write_file(dump, module_text(module))
        try:
            result = serve_module(module, options, cast("Engine", engine), requests, seed, recorded)
        except DoesNotFit as error:
            typer.echo(f"pmc: {error}", err=True)
            raise typer.Exit(1) from None
    if output_format is Format.JSON:
        deliver(result.to_json(), output)
        return
    from pmc.compiler.cli.serving_table import serving_table

    deliver(serving_table(result, output_width(output)), output)


def _service(model: str, said: Mapping[str, object], trace: Requests | None, target: TargetOptions) -> ModuleOp:
    """The service that the options describe, or that a dump holds.  Raises PmcError for options that it has already."""
    from pmc.compiler.driver import load_model
    from pmc.compiler.pipelines import DEPLOYMENT
    from pmc.compiler.serving import compile_service, scheduler_of, traffic_of
    from pmc.dialects.serve import ServiceOp

    module = load_model(model)
    if any(isinstance(op, ServiceOp) for op in module.ops):
        given = [*map(flag, said), *target.given]
        if given:
            raise PmcError(f"{model} holds its programs, traffic and scheduler: {', '.join(given)} cannot be changed")
        return module
    if DEPLOYMENT in module.attributes:
        raise PmcError(f"{model} is a dump of one phase: serving needs a model, whose phases are both compiled")
    for name, instead in REPLACED.items():
        if name in target.fields:
            raise PmcError(f"{flag(name)} does not go with pmc serve: {instead}")
    values: dict[str, Any] = {**DEFAULTS, **said}
    arriving = {name: values.pop(name, None) for name in ("rate", "concurrency", "isl", "osl", "prefix_share")}
    traffic = traffic_of(**arriving, trace=trace)
    scheduler = scheduler_of(**values)
    return compile_service(module, *target.load(), traffic, scheduler, target.load_accounting())


DEFAULTS: Mapping[str, object] = {
    "prefix_share": 0.0,
    "policy": "mixed",
    "largest_batch": 64,
    "token_budget": 2048,
    "headroom": 0.1,
    "kv_block_tokens": 16,
}
"""What holds where an option is not given; a dump has its own."""
