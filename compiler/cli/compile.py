"""`pmc compile`."""

from __future__ import annotations

import sys
from enum import StrEnum
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from pmc.compiler.cli.output import Format, deliver, progress
from pmc.compiler.cli.target import MODELS, Output, TargetOptions
from pmc.compiler.files import check_writable_file
from pmc.dialects.errors import PmcError

if TYPE_CHECKING:
    from xdsl.dialects.builtin import ModuleOp

    from pmc.compiler.driver import Observer

EXAMPLES = """
pmc compile llama-3.1-8b --chip sg2262 --topology p1-r1-b1-c8 --deployment llama-8b-decode --emit dist
pmc compile deepseek-v3 --chip sg2262 --topology p1-r1-b4-c32 --deployment dsv3-decode-ep32 --batch 1024 \
    --emit commands --dump-dir dumps -o commands.mlir
pmc compile ./config.json --chip my-chip.yaml --topology p1-r1-b1-c8 --deployment llama-8b-decode \
    --emit layer --print-ir-after expand-blocks
"""


class Emit(StrEnum):
    """The levels that can be printed."""

    MODEL = "model"
    LAYER = "layer"
    DIST = "dist"
    TILE = "tile"
    COMMANDS = "commands"


def compile_command(
    model: Annotated[
        str, typer.Argument(help="Preset, config.json (or its folder), YAML or .mlir file.", autocompletion=MODELS)
    ],
    *,
    emit: Annotated[Emit, typer.Option(help="The level to print.")],
    output: Output = None,
    dump_dir: Annotated[
        Path | None,
        typer.Option(metavar="DIR", help="Write 00-import.mlir and one numbered file after each pass."),
    ] = None,
    print_ir_after: Annotated[
        list[str] | None,
        typer.Option(metavar="PASS", help="Print the module after this pass to stderr; repeatable."),
    ] = None,
    print_op_generic: Annotated[bool, typer.Option("--print-op-generic", help="Print MLIR's generic form.")] = False,
    unroll: Annotated[
        bool, typer.Option("--unroll", help="Unroll the commands into tables, of core 0 or --core.")
    ] = False,
    core: Annotated[int | None, typer.Option(min=0, help="Unroll the commands of this core.")] = None,
    all_rows: Annotated[
        bool,
        typer.Option("--all-rows", help="Unroll with all rows of the tables, not only the first and last of each."),
    ] = False,
    timing: Annotated[bool, typer.Option("--timing", help="Print to stderr how long each pass takes.")] = False,
    shrink: Annotated[
        bool, typer.Option("--shrink", help="Compile a small version of model, chip and lengths, which `pmc run` runs.")
    ] = False,
    output_format: Annotated[Format, typer.Option("--format", help="text is MLIR.")] = Format.TEXT,
    target: TargetOptions,
) -> None:
    """Compile a model for a target and print one level of its lowering."""
    unrolled = unroll or all_rows or core is not None
    if unrolled and emit is not Emit.COMMANDS:
        raise PmcError(f"--unroll, --core and --all-rows are about commands: --emit is {emit}, must be commands")
    check_writable_file(output)
    with progress(f"compiling {model}"):
        from pmc.compiler.cli.compiled import to_compile
        from pmc.compiler.driver import compile_model
        from pmc.compiler.observers import DumpObserver, PrintObserver, TimeObserver
        from pmc.compiler.pipelines import unroll_specs

        module, chip, topology, deployment = to_compile(model, target, shrink)
        accounting = target.load_accounting()
        observers: list[Observer] = [PrintObserver(print_ir_after, sys.stderr)] if print_ir_after else []
        if dump_dir is not None:
            observers.append(DumpObserver(dump_dir, emit.value))
        times = TimeObserver()
        observers += [times] if timing else []
        extra = unroll_specs(core or 0, all_rows) if unrolled else []
        compile_model(module, chip, topology, deployment, emit.value, observers, extra, accounting)
        text = result_text(module, output_format, print_op_generic)
    deliver(text, output)
    if timing:
        print(times.table(), end="", file=sys.stderr)
    if unrolled and (note := shortened(module)) is not None:
        print(f"pmc: {note}; --all-rows prints all", file=sys.stderr)


def shortened(module: ModuleOp) -> str | None:
    """How many rows the tables of unrolled commands lack, None where they are whole."""
    from pmc.dialects.g5 import QueueOp
    from pmc.dialects.table import ENDS

    tables = [op.table.data for op in module.walk() if isinstance(op, QueueOp)]
    short = [table for table in tables if not table.is_whole]
    if not short:
        return None
    shown, count = (sum(n) for n in zip(*((t.shown, t.count) for t in short), strict=True))
    return f"{len(short)} of {len(tables)} tables have only their first and last {ENDS} rows, {shown} of {count}"


def result_text(module: ModuleOp, output_format: Format, generic: bool) -> str:
    """The module in the form that was asked for."""
    if output_format is Format.JSON:
        from pmc.compiler.json_form import module_json

        return module_json(module)
    from pmc.compiler.driver import module_text

    return module_text(module, generic)
