"""`pmc sweep`."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, cast

import typer

from pmc.compiler.cli.bar import progress_bar
from pmc.compiler.cli.output import TableFormat, deliver
from pmc.compiler.cli.target import CONFIGURATIONS, MODELS, TargetOptions, flag
from pmc.compiler.files import check_writable_file, prepare_folder, write_bytes, write_file
from pmc.dialects.errors import PmcError

if TYPE_CHECKING:
    from pmc.compiler.evaluation import EvaluationOptions
    from pmc.compiler.sweep.points import Lengths, Point
    from pmc.compiler.sweep.result import SweepResult

PAGES = (".html", ".htm")
"""The names of files that hold a picture as a page; other pictures are PNG."""

EXAMPLES = """
pmc sweep llama-3.1-70b --chip h100-sxm --topology nvlink-8 --deployment llama-70b-decode-tp8 \
    --set deployment.tp=1,2,4,8 --set deployment.batch=8..256:x2 --sort=-tps_per_chip
pmc sweep deepseek-v3 --chip sg2262 --topology p1-r1-b4-c32 --deployment dsv3-decode-ep32 \
    --set chip.cores=16..64:16 --isl 4096 --osl 1024 --out cores.csv --resume
pmc sweep llama-3.1-8b --set chip=sg2262,h100-sxm --topology p1-r1-b1-c8 --deployment llama-8b-decode \
    --set deployment.batch=1..64 --plot batch.html
"""


def sweep_command(
    model: Annotated[str, typer.Argument(help="Preset, config.json or YAML.", autocompletion=MODELS)],
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
        typer.Option(help="Parts of the batch in the pipeline of decode; one per stage if not given."),
    ] = None,
    tile_cache: Annotated[
        Path | None, typer.Option(metavar="DIR", help="Keep the results of tile searches here, for the next time.")
    ] = None,
    sort: Annotated[
        str | None, typer.Option(metavar="COLUMN", help="Order of the rows: smallest first, with -COLUMN largest.")
    ] = None,
    top: Annotated[
        int | None, typer.Option(min=1, help="Only the first so many rows that have a result and fit the DRAM.")
    ] = None,
    output: Annotated[
        Path | None,
        typer.Option("--output", "--out", "-o", metavar="FILE", help="Write the result here, not to stdout."),
    ] = None,
    resume: Annotated[
        bool,
        typer.Option("--resume", help="Go on with the CSV file of --out: what stands in it is not evaluated again."),
    ] = False,
    plot: Annotated[
        Path | None,
        typer.Option(
            metavar="FILE",
            help="Draw the column of --sort, or the time, over the first axis of numbers (.html or .png).",
        ),
    ] = None,
    output_format: Annotated[
        TableFormat | None, typer.Option("--format", help="The form of the table; by default that of the file's name.")
    ] = None,
    axes: Sequence[str],
    target: TargetOptions,
) -> None:
    """Evaluate a model at many points: every combination of the values that --set gives.

    --set NAME=VALUES varies a field (deployment.tp=1,2,4,8, chip.cores=16..128:16, deployment.batch=1..64:x2), a preset
    or file (chip=sg2262,h100-sxm; also topology, deployment, accounting, calibration) or an option (overlap,
    granularity, isl, osl, micro_batches). A --set with one value replaces a field at all points. Every row is what
    `pmc evaluate` says of that point; one that cannot be has a reason. Exit code 1 says that no point fits.
    """
    check_writable_file(output)
    _check_plot(plot)
    form = output_format or _form_of(output)
    if resume and (output is None or form is not TableFormat.CSV):
        raise PmcError("--resume goes on with a table in CSV: give --out FILE.csv")
    if resume and top is not None:
        raise PmcError("--top would drop rows from the file that --resume goes on with: give one of them")
    from pmc.compiler.driver import load_model
    from pmc.compiler.sweep.axes import parse_axis
    from pmc.compiler.sweep.engine import Sweep
    from pmc.compiler.sweep.picture import plan_of, sweep_page
    from pmc.compiler.sweep.result import OK
    from pmc.compiler.sweep.resume import ResumedFile

    parsed = tuple(map(parse_axis, axes))
    varied = {axis.name: axis.values[0] for axis in parsed}
    lengths = _lengths(isl, osl, micro_batches, varied, target)
    base = _base(target, varied, _options(granularity, overlap, calibration, tile_cache), lengths)
    sweep = Sweep(load_model(model), model, base, parsed)
    result = sweep.table()
    result.check_column(sort)
    plan = None if plot is None else plan_of(result, sort)
    file = ResumedFile(output, result) if resume and output is not None else None
    with progress_bar("sweep", len(result)) as advance:

        def done(points: Sequence[int]) -> None:
            if file is not None:
                file.add(points)
            advance(len(points))

        advance(0 if file is None else file.kept)
        sweep.run(result, done)
    order = result.ordered(sort, top)
    deliver(_text(result, order, form, output), output)
    if plot is not None and plan is not None:
        if plot.suffix in PAGES:
            write_file(plot, sweep_page(result, plan))
        else:
            from pmc.compiler.sweep.picture_png import sweep_png

            write_bytes(plot, sweep_png(result, plan))
    if not result.count(OK):
        raise typer.Exit(1)


def _check_plot(plot: Path | None) -> None:
    """Raises PmcError, before any work is done, for a picture of an unknown form or one that cannot be drawn."""
    if plot is not None and plot.suffix not in (*PAGES, ".png"):
        raise PmcError(f"--plot {plot}: a picture is a page (.html, with SVG) or a .png, give --plot {plot.stem}.html")
    if plot is not None and plot.suffix not in PAGES:
        from pmc.compiler.sweep.picture_png import require_matplotlib

        require_matplotlib(str(plot))
    check_writable_file(plot)


def _lengths(
    isl: int | None, osl: int | None, micro_batches: int | None, varied: Mapping[str, object], target: TargetOptions
) -> Lengths | None:
    """What a request is, None where steps are evaluated; what varies begins with its first value."""
    from pmc.compiler.sweep.points import Lengths

    given = {"isl": isl, "osl": osl, "micro_batches": micro_batches}
    for name, value in given.items():
        if name in varied:
            if value is not None:
                raise PmcError(f"--set {name}: also given as {flag(name)}")
            given[name] = cast(int, varied[name])
    isl, osl, micro_batches = given.values()
    if isl is None and osl is None:
        if micro_batches is not None:
            raise PmcError("micro-batches are about requests: give --isl and --osl")
        return None
    if isl is None or osl is None:
        raise PmcError(f"a request needs both lengths: --{'isl' if isl is None else 'osl'} is missing")
    for name in ("phase", "q_len", "kv_len"):
        if name in target.fields:
            raise PmcError(f"{flag(name)} does not go with --isl and --osl, which say it for both phases")
    return Lengths(isl, osl, micro_batches)


def _options(granularity: str, overlap: str, calibration: str | None, tile_cache: Path | None) -> EvaluationOptions:
    from pmc.compiler.config import load_calibration
    from pmc.compiler.evaluation import EvaluationOptions, overlap_of

    if tile_cache is not None:
        prepare_folder(tile_cache)
    corrections = None if calibration is None else load_calibration(calibration)
    return EvaluationOptions(granularity, overlap_of(overlap), corrections, tile_cache)


def _base(
    target: TargetOptions, varied: Mapping[str, object], options: EvaluationOptions, lengths: Lengths | None
) -> Point:
    """What is the same at all points; what varies has its first value where nothing else is given."""
    from pmc.compiler.config import default_accounting
    from pmc.compiler.sweep.points import Point
    from pmc.compiler.sweep.programs import Target

    for name in CONFIGURATIONS:
        if name in varied:
            if getattr(target, name) is not None:
                raise PmcError(f"--set {name}: also given as {flag(name)}")
            target = target.with_file(name, str(varied[name]))
    if target.deployment is None:
        fields = {name.partition(".")[2]: value for name, value in varied.items() if name.startswith("deployment.")}
        target = replace(target, fields={**fields, **target.fields})
    accounting = target.load_accounting() or default_accounting()
    return Point(Target(*target.load(), accounting), options, lengths)


def _form_of(output: Path | None) -> TableFormat:
    """The form that the suffix of a file asks for."""
    forms = {".csv": TableFormat.CSV, ".json": TableFormat.JSON}
    return TableFormat.TEXT if output is None else forms.get(output.suffix, TableFormat.TEXT)


def _text(result: SweepResult, order: Sequence[int], form: TableFormat, output: Path | None) -> str:
    if form is TableFormat.CSV:
        return result.to_csv(order)
    if form is TableFormat.JSON:
        return result.to_json(order)
    from pmc.compiler.cli.sweep_table import sweep_table
    from pmc.compiler.cli.text_table import output_width

    return sweep_table(result, order, output_width(output))
