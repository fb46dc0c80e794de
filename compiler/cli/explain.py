"""`pmc explain`."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from pmc.compiler.cli.output import Format, TableFormat, deliver, progress, refuse
from pmc.compiler.cli.target import MODELS, Output, TargetOptions
from pmc.compiler.cli.text_table import output_width
from pmc.compiler.files import check_writable_file
from pmc.dialects.errors import PmcError

if TYPE_CHECKING:
    from pmc.backends.evaluate.explain.difference import Difference
    from pmc.backends.evaluate.explain.explanation import Explanation

EXAMPLES = """
pmc explain llama-3.1-8b --chip sg2262 --topology p1-r1-b1-c8 --deployment llama-8b-decode
pmc explain deepseek-v3 --chip sg2262 --topology p1-r1-b4-c32 --deployment dsv3-decode-ep32 \
    --op blocks.moe.mla.attention
pmc explain llama-3.1-8b --chip sg2262 --topology p1-r1-b1-c8 --deployment llama-8b-decode --against tp=4
pmc explain dumps/09-select-tiles.mlir --op lm_head.proj --format json
"""

PICTURES = (".svg", ".html")


def explain_command(
    model: Annotated[
        str, typer.Argument(help="Preset, config.json, YAML; or a dump of pmc compile (.mlir).", autocompletion=MODELS)
    ],
    *,
    op: Annotated[
        str | None, typer.Option(metavar="PATH", help="Explain the ops at this path, or inside of this block.")
    ] = None,
    granularity: Annotated[
        str | None,
        typer.Option(help="How closely the chip is looked at: chip, core or tile; without it as closely as possible."),
    ] = None,
    overlap: Annotated[
        str,
        typer.Option(help="none; streams: transfers beside computation; two-batch: two micro-batches in turn."),
    ] = "none",
    calibration: Annotated[
        str | None, typer.Option(help="Corrections of the modelled times: preset or YAML file.")
    ] = None,
    faster: Annotated[float, typer.Option(help="How many times as fast the levers try to make it.")] = 2.0,
    levers: Annotated[bool, typer.Option("--levers/--no-levers", help="Say what would make it faster.")] = True,
    every_op: Annotated[bool, typer.Option("--all", help="List all ops of a step, not only the longest.")] = False,
    roofline: Annotated[
        Path | None, typer.Option(metavar="FILE", help="Draw the roofline into a file, .svg or .html.")
    ] = None,
    against: Annotated[
        list[str] | None,
        typer.Option(
            metavar="NAME=VALUE",
            help="Explain the difference to another target: chip=h100-sxm, topology=, deployment=, accounting=; tp=4 "
            "or any field of the deployment; chip.cores=128 as in --set (repeatable). Or to a dump (FILE.mlir).",
        ),
    ] = None,
    output: Output = None,
    output_format: Annotated[Format, typer.Option("--format", help="The form of the result.")] = Format.TEXT,
    target: TargetOptions,
) -> None:
    """Tell why one step takes what it takes: where the time goes, what binds, and what would make it faster.

    Every op is taken apart into matrix, padding, imbalance, start-up, vector, data, fill, drain, no overlap, merge,
    latency and transfer, which add up to its time in evaluate.  With --op, plans, engines and commands are shown as
    well.  With --against, the difference between two targets is taken apart in the same way.
    Exit code 1 says that the step does not fit the DRAM of a chip.
    """
    check_writable_file(output)
    misfits: list[str] = []
    if roofline is not None:
        if roofline.suffix not in PICTURES:
            raise PmcError(f"--roofline {roofline}: the picture is {' or '.join(PICTURES)}")
        check_writable_file(roofline)
    with progress(f"explaining {model}"):
        from pmc.backends.evaluate.explain.difference import difference
        from pmc.compiler.cli.compiled import rank_program
        from pmc.compiler.config import load_calibration
        from pmc.compiler.evaluation import EvaluationOptions, overlap_of
        from pmc.compiler.explain import coarser, explain_module, finest_granularity

        corrections = None if calibration is None else load_calibration(calibration)
        options = EvaluationOptions(granularity or "", overlap_of(overlap), corrections)
        module, bindings = rank_program(model, target)
        if against:
            if roofline is not None:
                raise PmcError("--roofline draws one program: it does not go with --against")
            other, other_bindings = rank_program(*_other(model, target, against))
            looked_at = granularity or coarser(finest_granularity(module), finest_granularity(other))
            options = replace(options, granularity=looked_at)
            found = explain_module(module, bindings, options, op, None)
            both = difference(found, explain_module(other, other_bindings, options, op, None))
            json = output_format is Format.JSON
            text = both.to_json() if json else _difference_text(both, every_op, output_width(output))
            misfits = both.misfits
        else:
            found = explain_module(module, bindings, options, op, faster if levers else None, commands=op is not None)
            text = found.to_json() if output_format is Format.JSON else _text(found, every_op, output_width(output))
            misfits = found.misfits
            if roofline is not None:
                deliver(_picture(found, roofline.suffix), roofline)
    deliver(text, output)
    if misfits:
        refuse(misfits, TableFormat(output_format.value), output)


def _other(model: str, target: TargetOptions, changes: list[str]) -> tuple[str, TargetOptions]:
    """The other program: a dump, or the same model with other options.  Raises PmcError."""
    dumps = [change for change in changes if change.endswith(".mlir") and "=" not in change]
    if dumps:
        if len(changes) > 1:
            raise PmcError("--against: a dump holds its own target, so that it is the only thing to compare with")
        symbols = {name: value for name, value in target.fields.items() if model.endswith(".mlir")}
        given = target.given if symbols else ()
        return dumps[0], TargetOptions(None, None, None, None, symbols, {}, given)
    if model.endswith(".mlir"):
        raise PmcError(f"--against: {model} holds its own target, compare it with another dump")
    return model, target.varied(changes)


def _difference_text(both: Difference, every_op: bool, width: int | None) -> str:
    from pmc.compiler.cli.explain_difference_text import difference_text

    return difference_text(both, every_op, width)


def _text(found: Explanation, every_op: bool, width: int | None) -> str:
    from pmc.compiler.cli.explain_text import explanation_text

    return explanation_text(found, every_op, width)


def _picture(found: Explanation, suffix: str) -> str:
    from pmc.backends.evaluate.analyses.table import conditions_of
    from pmc.backends.evaluate.explain.roofline_picture import roofline_page, roofline_svg

    title = conditions_of(found.step.ops)
    return roofline_svg(found.roofline, title) if suffix == ".svg" else roofline_page(found.roofline, title)
