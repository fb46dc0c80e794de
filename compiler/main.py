"""The command line: `pmc COMMAND`.  stdout holds only the result; exit 0 yes, 1 the answer is no, 2 bad input."""

from __future__ import annotations

import inspect
import os
import sys
from collections.abc import Callable, Mapping, Sequence
from functools import cache
from typing import Annotated

import typer
from typer.core import TyperGroup
from typer.exceptions import TyperException
from typer.main import get_command

from pmc.compiler.cli.analyze import analyze_command
from pmc.compiler.cli.check import check_command
from pmc.compiler.cli.compare import compare_command
from pmc.compiler.cli.compile import compile_command
from pmc.compiler.cli.evaluate import evaluate_command
from pmc.compiler.cli.listing import list_command
from pmc.compiler.cli.opt import opt_command
from pmc.compiler.cli.run import run_command
from pmc.compiler.cli.sweep import sweep_command
from pmc.dialects.errors import PmcError

COMMANDS: Mapping[str, Callable[..., None]] = {
    "compile": compile_command,
    "opt": opt_command,
    "evaluate": evaluate_command,
    "sweep": sweep_command,
    "analyze": analyze_command,
    "compare": compare_command,
    "run": run_command,
    "check": check_command,
    "list": list_command,
}
"""In the order of the help; a command with a parameter `target` gets the options of a target."""


def _print_version(wanted: bool) -> None:
    if wanted:
        from importlib.metadata import version

        typer.echo(f"pmc {version('pmc')}")
        raise typer.Exit


def pmc(
    version: Annotated[
        bool, typer.Option("--version", callback=_print_version, is_eager=True, help="Print the version.")
    ] = False,
) -> None:
    """Compile an LLM inference workload down to accelerator commands, and cost every level of it."""


def app_for(arguments: Sequence[str]) -> typer.Typer:
    """The application, with the options of the commands that the arguments name: `pmc --help` needs none of them."""
    app = typer.Typer(
        name="pmc",
        rich_markup_mode="rich",
        pretty_exceptions_enable=False,
        context_settings={"help_option_names": ["-h", "--help"]},
    )
    app.callback()(pmc)
    completing = "_PMC_COMPLETE" in os.environ
    for name, command in COMMANDS.items():
        app.command(name)(_with_options(command) if completing or name in arguments else _only_named(command))
    return app


def _with_options(command: Callable[..., None]) -> Callable[..., None]:
    if "target" not in inspect.signature(command).parameters:
        return command
    from pmc.compiler.cli.target_options import takes_target

    return takes_target(command)


def _only_named(command: Callable[..., None]) -> Callable[..., None]:
    def named() -> None:
        raise AssertionError("a command that runs has its options")

    named.__doc__ = command.__doc__
    return named


@cache
def _command(named: frozenset[str]) -> TyperGroup:
    """What typer makes of the functions, which takes longer than many a command."""
    command = get_command(app_for(tuple(named)))
    assert isinstance(command, TyperGroup)
    return command


def main(arguments: Sequence[str] | None = None) -> int:
    """Run one command and give its exit code; a user error is one line on stderr."""
    given = list(sys.argv[1:] if arguments is None else arguments)
    try:
        command = _command(frozenset(COMMANDS) & frozenset(given))
        result: object = command.main(args=given, prog_name="pmc", standalone_mode=False)
        return result if isinstance(result, int) else 0
    except (PmcError, TyperException) as error:
        message = error.format_message() if isinstance(error, TyperException) else str(error)
        print(f"pmc: error: {' '.join(message.split())}", file=sys.stderr)
        return 2
    except (typer.Abort, KeyboardInterrupt):
        return 130
