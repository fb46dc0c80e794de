"""`pmc check`."""

from __future__ import annotations

from enum import StrEnum
from typing import TYPE_CHECKING, Annotated

import typer

from pmc.compiler.cli.output import Format, deliver, progress
from pmc.compiler.cli.target import MODELS, Output, TargetOptions
from pmc.compiler.files import check_writable_file

if TYPE_CHECKING:
    from pmc.compiler.check import CheckResult
    from pmc.compiler.coverage import Coverage


class PlanSource(StrEnum):
    """Which plans are run."""

    CHOSEN = "chosen"
    RANDOM = "random"
    BOTH = "both"


EXAMPLES = """
pmc check deepseek-v3 --chip sg2262 --topology p1-r1-b4-c32 --deployment dsv3-decode-ep32 --tp 2 --dp 4 --ep 8
pmc check llama-3.1-70b --chip sg2262 --topology p1-r1-b1-c8 --deployment llama-70b-decode-tp8 --sp --seed 3
"""


def check_command(
    model: Annotated[
        str, typer.Argument(help="Preset, config.json (or its folder) or YAML file.", autocompletion=MODELS)
    ],
    *,
    layers: Annotated[int, typer.Option(min=1, help="Layers of the small model.")] = 3,
    seed: Annotated[int, typer.Option(help="Seed of the inputs, and of random plans.")] = 0,
    plans: Annotated[
        PlanSource, typer.Option(help="Plans to run: those that the search finds, any that fit, or both.")
    ] = PlanSource.BOTH,
    coverage: Annotated[
        bool, typer.Option("--coverage", help="Say which loops, waits, kinds and lines of passes were reached.")
    ] = False,
    output: Output = None,
    output_format: Annotated[Format, typer.Option("--format", help="The form of the table.")] = Format.TEXT,
    target: TargetOptions,
) -> None:
    """Prove by execution that every pass keeps the meaning of a model.

    The model, the chip and the lengths are shrunk, the structure and the parallel axes are kept.  Prefill and decode
    are compiled down to commands, in FP32 and in the types of the deployment, and after each pass logits and caches are
    compared with those of the model; types, work, bytes and memory must agree between the levels.  Exit code 1 names
    the first pass that breaks something, exit code 2 is a deployment that the model cannot have.
    """
    check_writable_file(output)
    with progress(f"checking {model}"):
        from pmc.compiler.check import check_small
        from pmc.compiler.config import load_model_config
        from pmc.compiler.coverage import Coverage

        config, source = load_model_config(model)
        reached = Coverage() if coverage else None
        accounting = target.load_accounting()
        results = check_small(config, source, *target.load(), layers, seed, plans.value, reached, accounting)
    deliver(_json(results, reached) if output_format is Format.JSON else _text(results, reached), output)
    if not all(result.passed for result in results):
        raise typer.Exit(1)


def _text(results: tuple[CheckResult, ...], reached: Coverage | None) -> str:
    lines: list[str] = []
    for result in results:
        sizes = ", ".join(f"{name} {value}" for name, value in result.bindings.items())
        lines.append(f"{result.phase}: {sizes}, weights {result.types}, {result.plans} plans, seed {result.seed}")
        for check in result.checks:
            verdict = "same" if check.passed else "DIFFERENT" if check.difference else "FAILED"
            lines.append(f"  {check.name:20} {check.level:9} {verdict:10} max error {check.max_error:.1e}")
            if check.difference is not None:
                where = check.difference.path or "the result"
                lines.append(f"    first at '{where}': {check.difference.what}, {check.difference.max_error:.1e}")
            if check.failure is not None:
                lines.append(f"    {check.failure}")
    lines += [] if reached is None else ["", *reached.lines_of_text(), ""]
    guilty = [result.guilty for result in results if result.guilty is not None]
    below = [check.name for result in results for check in result.checks if check.level in ("tile", "commands")]
    down_to = "" if below else " down to the dist level: the chip has no command level"
    lines.append(f"{guilty[0].name} is wrong" if guilty else f"every pass keeps the meaning{down_to}")
    return "\n".join(lines) + "\n"


def _json(results: tuple[CheckResult, ...], reached: Coverage | None) -> str:
    import json
    from dataclasses import asdict

    data = [{**asdict(result), "passed": result.passed} for result in results]
    report: dict[str, object] = {"passed": all(r.passed for r in results), "phases": data}
    if reached is not None:
        report["coverage"] = reached.report()
    return json.dumps(report, indent=2, default=str) + "\n"
