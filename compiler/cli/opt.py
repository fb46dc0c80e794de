"""`pmc opt`."""

from __future__ import annotations

from typing import TYPE_CHECKING, Annotated

import typer

from pmc.compiler.cli.compile import Emit
from pmc.compiler.cli.complete import pipeline, preset_names
from pmc.compiler.cli.output import deliver, progress
from pmc.compiler.cli.target import SETTING, Output
from pmc.compiler.cli.text_table import hanged, output_width
from pmc.compiler.files import check_writable_file
from pmc.dialects.errors import PmcError

if TYPE_CHECKING:
    from xdsl.ir import Attribute

EXAMPLES = """
pmc opt m.mlir -p "expand-blocks{phase=decode},quantize{weights=bf16}"
pmc opt dumps/03-annotate-shardings.mlir --resume --emit dist
pmc compile ... --emit layer | pmc opt - -p "canonicalize,cse"
pmc opt kernel.mlir --chip sg2262 --accounting physical -p select-tiles,lower-to-tiles,allocate-lmem
pmc opt --list
"""


def opt_command(
    file: Annotated[str, typer.Argument(metavar="FILE", help="MLIR file; - is stdin.")] = "-",
    passes: Annotated[
        str,
        typer.Option("--passes", "-p", metavar="PIPELINE", autocompletion=pipeline, help='"pass{option=value},pass".'),
    ] = "",
    output: Output = None,
    resume: Annotated[
        bool, typer.Option("--resume", help="Run what is left of the pipeline of a dump of pmc compile.")
    ] = False,
    emit: Annotated[Emit | None, typer.Option(help="With --resume: the level to go to (default commands).")] = None,
    chip: Annotated[
        str | None,
        typer.Option(help="Chip for modules that name none: preset or YAML file.", autocompletion=preset_names("chip")),
    ] = None,
    topology: Annotated[
        str | None, typer.Option(help="Topology for modules that name none.", autocompletion=preset_names("topology"))
    ] = None,
    accounting: Annotated[
        str | None, typer.Option(help="What tiles are chosen by, for modules that name none: preset or YAML file.")
    ] = None,
    settings: Annotated[list[str] | None, SETTING] = None,
    list_passes: Annotated[bool, typer.Option("--list", help="List passes with their options.")] = False,
    verify_diagnostics: Annotated[
        bool, typer.Option("--verify-diagnostics", help="Print errors of passes and verifiers as the result.")
    ] = False,
    split_input_file: Annotated[
        bool, typer.Option("--split-input-file", help="Process the pieces between '// -----' one by one.")
    ] = False,
    print_op_generic: Annotated[bool, typer.Option("--print-op-generic", help="Print MLIR's generic form.")] = False,
    print_debuginfo: Annotated[bool, typer.Option("--print-debuginfo", help="Print locations.")] = False,
    allow_unregistered_dialect: Annotated[
        bool, typer.Option("--allow-unregistered-dialect", help="Accept ops of unknown dialects.")
    ] = False,
) -> None:
    """Run passes on MLIR, with the conventions of mlir-opt; the passes of xDSL are there too."""
    if list_passes:
        deliver(_pass_list(), output)
        return
    if emit is not None and not resume:
        raise PmcError("--emit needs --resume; without it, -p says which passes run")
    check_writable_file(output)
    args = ["-f", "mlir", "-p", passes]
    flags = {
        "--verify-diagnostics": verify_diagnostics,
        "--split-input-file": split_input_file,
        "--print-op-generic": print_op_generic,
        "--print-debuginfo": print_debuginfo,
        "--allow-unregistered-dialect": allow_unregistered_dialect,
    }
    args += [flag for flag, given in flags.items() if given]
    source = "stdin"
    if file != "-":
        source = file
        args += ["--", file]
    with progress(f"pmc opt {file}"):
        from pmc.compiler.opt import run_opt

        target = _target(chip, topology, accounting, settings or [])
        result = run_opt(args, source, (emit or Emit.COMMANDS).value if resume else None, target)
    deliver(result, output)


def _target(
    chip: str | None, topology: str | None, accounting: str | None, settings: list[str]
) -> dict[str, Attribute]:
    from pmc.compiler.config import load_accounting, load_chip, load_topology
    from pmc.compiler.driver import CHIP, TOPOLOGY
    from pmc.compiler.overrides import parse_settings
    from pmc.dialects.accounting import ACCOUNTING, AccountingAttr
    from pmc.dialects.arch import ChipAttr, TopologyAttr

    named = {"chip": chip, "topology": topology, "accounting": accounting}
    values = parse_settings(settings)
    for part, fields in values.items():
        if named.get(part) is None:
            missing = f"--{part} is not given" if part in named else "a module has its own deployment"
            raise PmcError(f"--set {part}.{next(iter(fields))}: {missing}")
    target: dict[str, Attribute] = {}
    if chip is not None:
        target[CHIP] = ChipAttr(load_chip(chip, values.get("chip")))
    if topology is not None:
        target[TOPOLOGY] = TopologyAttr(load_topology(topology, values.get("topology")))
    if accounting is not None:
        target[ACCOUNTING] = AccountingAttr(load_accounting(accounting, values.get("accounting")))
    return target


def _pass_list() -> str:
    from pmc.compiler.catalog import pass_entries, pass_options

    width = output_width(None)
    lines: list[str] = []
    for entry in pass_entries():
        lines += [entry.name, *(f"    {line}" for line in hanged(entry.description, 4, width))]
        for option in pass_options(entry.name):
            default = "" if option.default is None else f"={option.default}"
            lines.append(f"      {option.name}{default} ({option.takes})")
            lines += [f"          {line}" for line in hanged(option.description, 10, width) if line]
    return "".join(f"{line}\n" for line in lines)
