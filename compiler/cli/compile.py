"""`pmc compile`."""

from __future__ import annotations

import sys
from enum import StrEnum
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from pmc.compiler.cli.output import Format, deliver, progress
from pmc.compiler.cli.target import Output, TargetOptions
from pmc.compiler.files import check_writable_file
from pmc.dialects.errors import PmcError

if TYPE_CHECKING:
    from xdsl.dialects.builtin import ModuleOp

    from pmc.compiler.driver import Observer

EXAMPLES = """\b
Examples:
  pmc compile llama-3.1-8b --chip sg2262 --topology p1-r1-b1-c8 --deployment llama-8b-decode --emit dist
  pmc compile deepseek-v3 --chip sg2262 --topology p1-r1-b4-c32 --deployment dsv3-decode-ep32 \\
      --batch 1024 --emit commands --dump-dir dumps -o commands.mlir
  pmc compile ./config.json --chip my-chip.yaml --topology p1-r1-b1-c8 --deployment llama-8b-decode \\
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
    model: Annotated[str, typer.Argument(help="Preset, config.json (or its folder), YAML or .mlir file.")],
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
    output_format: Annotated[Format, typer.Option("--format", help="text is MLIR.")] = Format.TEXT,
    target: TargetOptions,
) -> None:
    """Compile a model for a target and print one level of its lowering."""
    if (unroll or core is not None) and emit is not Emit.COMMANDS:
        raise PmcError(f"--unroll and --core are about commands: --emit is {emit}, must be commands")
    check_writable_file(output)
    with progress(f"compiling {model}"):
        from pmc.compiler.driver import compile_model, load_model
        from pmc.compiler.observers import DumpObserver, PrintObserver
        from pmc.compiler.pipelines import unroll_specs

        configurations, accounting = target.load(), target.load_accounting()
        module = load_model(model)
        observers: list[Observer] = [PrintObserver(print_ir_after, sys.stderr)] if print_ir_after else []
        if dump_dir is not None:
            observers.append(DumpObserver(dump_dir, emit.value))
        extra = unroll_specs(core or 0) if unroll or core is not None else []
        compile_model(module, *configurations, emit=emit.value, observers=observers, extra=extra, accounting=accounting)
        text = result_text(module, output_format, print_op_generic)
    deliver(text, output)


def result_text(module: ModuleOp, output_format: Format, generic: bool) -> str:
    """The module in the form that was asked for."""
    if output_format is Format.JSON:
        from pmc.compiler.json_form import module_json

        return module_json(module)
    from pmc.compiler.driver import module_text

    return module_text(module, generic)


compile_command.__doc__ = f"{compile_command.__doc__}\n\n{EXAMPLES}"
