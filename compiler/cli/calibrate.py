"""`pmc calibrate`."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from pmc.compiler.cli.bar import progress_bar
from pmc.compiler.cli.output import deliver
from pmc.compiler.cli.text_table import Column, output_width, text_table
from pmc.compiler.files import check_writable_file, write_file
from pmc.dialects.errors import PmcError

if TYPE_CHECKING:
    from pmc.backends.silicon.calibrate import Step
    from pmc.backends.silicon.library import Library

EXAMPLES = """
pmc calibrate --system h200-sxm -o fits.json
pmc calibrate --system h200-sxm --backend vllm --kinds gemm,moe -o fits.json
pmc calibrate --perf-dir measured -o fits.json
"""


def calibrate_command(
    *,
    system: Annotated[
        str | None, typer.Option(metavar="NAME", help="Whose tables; by default the one of --perf-dir.")
    ] = None,
    backend: Annotated[
        list[str] | None, typer.Option(help="Serving engine; can be given again. By default all with tables.")
    ] = None,
    version: Annotated[str | None, typer.Option(help="Of the engine; by default the current one.")] = None,
    kinds: Annotated[
        str | None, typer.Option(metavar="KIND,..", help="Kinds of tables; by default all with a model.")
    ] = None,
    perf_dir: Annotated[
        Path | None, typer.Option(metavar="DIR", help="A folder of tables; by default those of pmc[silicon].")
    ] = None,
    output: Annotated[Path, typer.Option("-o", "--output", metavar="FITS.json", help="The fits, as JSON.")],
) -> None:
    """Fit the physical model of kernels to measured tables of a GPU, and learn how far off it may be.

    The file has parameters, error bands, and what they were made from: the specification of the system, the file,
    version and number of rows of every fit, and the seed that drew them. What the fits of a kind took is printed.
    """
    from pmc.backends.silicon.artefact import Artefact, artefact_text
    from pmc.backends.silicon.calibrate import Plan
    from pmc.backends.silicon.fit import SEED, require_least_squares
    from pmc.backends.silicon.library import Library

    check_writable_file(output)
    library = Library.installed() if perf_dir is None else Library.folder(perf_dir)
    name = _only_system(library) if system is None else system
    require_least_squares()
    plan = Plan.of(library, name, backend or (), version, () if kinds is None else kinds.split(","))
    steps: list[Step] = []
    with progress_bar("tables", len(plan.tables)) as advance:
        for step in plan.run():
            steps.append(step)
            advance(step.share)
    fits = tuple(step.outcome for step in steps if not isinstance(step.outcome, PmcError))
    if not fits:
        raise PmcError(f"nothing could be fitted: {steps[0].outcome}")
    made = Artefact(library.system(name), library.package or str(library.root), SEED, fits)
    write_file(output, artefact_text(made))
    deliver(_report(steps), None)


def _only_system(library: Library) -> str:
    """The system of a folder.  Raises PmcError where it has several or none."""
    if len(library.systems) != 1:
        has = f"it has {', '.join(library.systems)}" if library.systems else f"there is no system in {library.root}"
        raise PmcError(f"--system says whose tables to fit; {has}")
    return library.systems[0]


def _report(steps: list[Step]) -> str:
    """A row per engine and kind, and why a set of categories has no fit."""
    import numpy as np

    keys = list(dict.fromkeys((step.backend, step.kind) for step in steps))
    groups = [[step for step in steps if (step.backend, step.kind) == key] for key in keys]
    fits = [[step.outcome for step in group if not isinstance(step.outcome, PmcError)] for group in groups]
    bands = [np.median([fit.band_80 for fit in group], axis=0) if group else None for group in fits]
    columns = [
        Column("engine", [backend for backend, _ in keys], "total", left=True),
        Column("kind", [kind for _, kind in keys], left=True),
        Column("fits", [str(len(group)) for group in fits], str(sum(map(len, fits)))),
        Column("rows", [str(sum(s.rows for s in group)) for group in groups], str(sum(s.rows for s in steps))),
        Column("80% of rows", ["" if b is None else f"{b[0] - 1:+.0%} .. {b[1] - 1:+.0%}" for b in bands]),
        Column(
            "CPU s",
            [f"{sum(s.seconds for s in group):.1f}" for group in groups],
            f"{sum(s.seconds for s in steps):.1f}",
        ),
    ]
    failed = [step for step in steps if isinstance(step.outcome, PmcError)]
    refused = [
        f"no fit: {step.backend} {step.kind} {' '.join(step.categories.values())}: {step.outcome}" for step in failed
    ]
    lines = [
        *text_table(columns, output_width(None)), *refused,
        "80% of rows that a fit did not see lie so far from its formula, at the median of its fits",
    ]  # fmt: skip
    return "".join(f"{line}\n" for line in lines)
