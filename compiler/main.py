"""The command line: `pmc COMMAND`.  stdout holds only the result; exit 0 yes, 1 the answer is no, 2 bad input."""

from __future__ import annotations

import sys
from collections.abc import Sequence
from typing import Annotated

import typer
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
from pmc.dialects.errors import PmcError

app = typer.Typer(
    name="pmc",
    rich_markup_mode="rich",
    pretty_exceptions_enable=False,
    context_settings={"help_option_names": ["-h", "--help"]},
)
app.command("compile")(compile_command)
app.command("opt")(opt_command)
app.command("evaluate")(evaluate_command)
app.command("analyze")(analyze_command)
app.command("compare")(compare_command)
app.command("run")(run_command)
app.command("check")(check_command)
app.command("list")(list_command)


def _print_version(wanted: bool) -> None:
    if wanted:
        from importlib.metadata import version

        typer.echo(f"pmc {version('pmc')}")
        raise typer.Exit


@app.callback()
def pmc(
    version: Annotated[
        bool, typer.Option("--version", callback=_print_version, is_eager=True, help="Print the version.")
    ] = False,
) -> None:
    """Compile an LLM inference workload down to accelerator commands, and cost every level of it."""


def main(arguments: Sequence[str] | None = None) -> int:
    """Run one command and give its exit code; a user error is one line on stderr."""
    try:
        result: object = get_command(app).main(
            args=None if arguments is None else list(arguments), prog_name="pmc", standalone_mode=False
        )
        return result if isinstance(result, int) else 0
    except (PmcError, TyperException) as error:
        message = error.format_message() if isinstance(error, TyperException) else str(error)
        print(f"pmc: error: {' '.join(message.split())}", file=sys.stderr)
        return 2
    except (typer.Abort, KeyboardInterrupt):
        return 130
