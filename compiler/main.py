"""The command line: `pmc COMMAND`.  stdout holds only the result; exit 0 yes, 1 the answer is no, 2 bad input."""

from __future__ import annotations

import gc
import inspect
import os
import sys
from collections.abc import Callable, Sequence
from functools import cache
from importlib import import_module
from typing import Annotated, NoReturn

import typer
from typer.core import TyperGroup
from typer.exceptions import TyperException
from typer.main import get_command

from pmc.compiler.cli.help_text import help_text
from pmc.dialects.errors import PmcError

COMMANDS = (
    "compile", "opt", "evaluate", "sweep", "serve", "explain", "simulate", "thermal", "analyze", "compare", "run",
    "check", "list", "show", "support", "init", "collect", "calibrate",
)  # fmt: skip
"""In the order of the help.  `X` is the function `X_command` of `pmc.compiler.cli.X`, imported where it is named.

A command with a parameter `target` gets the options of a target.
"""


COMPLETED = ("COMP_WORDS", "_TYPER_COMPLETE_ARGS")
"""Where bash, and the other shells, say what is on the line that they complete."""


def _function(name: str) -> Callable[..., None]:
    function: Callable[..., None] = getattr(import_module(f"pmc.compiler.cli.{name}"), f"{name}_command")
    return function


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
    words = {*arguments, *(word for name in COMPLETED for word in os.environ.get(name, "").split())}
    named = words.intersection(COMMANDS)
    for name in COMMANDS:
        if name in named:
            function = _function(name)
            app.command(name, help=help_text(function))(_with_options(function))
        elif not named:
            app.command(name)(_only_named(_function(name)))
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
    given = list(sys.argv[1:] if arguments is None else arguments) or ["--help"]
    try:
        command = _command(frozenset(given).intersection(COMMANDS))
        result: object = command.main(args=given, prog_name="pmc", standalone_mode=False)
        return result if isinstance(result, int) else 0
    except (PmcError, TyperException) as error:
        message = error.format_message() if isinstance(error, TyperException) else str(error)
        print(f"pmc: error: {' '.join(message.split())}", file=sys.stderr)
        return 2
    except (typer.Abort, KeyboardInterrupt):
        return 130


def run() -> NoReturn:
    """The process `pmc`: `main`, without what costs a short process much and gives it nothing.

    What a command makes mostly lives until the process ends, so that the collector of cycles looks in vain: it looks
    seldom, and at the end not at all.  Plugins of pydantic would be looked for in every installed package, and must
    have no say in what a configuration may be.  Only what runs programs multiplies matrices, for which numpy would
    start a thread per core.
    """
    gc.set_threshold(1_000_000)
    if not {"run", "check"}.intersection(sys.argv):
        os.environ.setdefault("OPENBLAS_NUM_THREADS", "1")
    os.environ.setdefault("PYDANTIC_DISABLE_PLUGINS", "__all__")
    code = main()
    gc.freeze()
    sys.exit(code)
