"""Where results go, and in which form."""

from __future__ import annotations

import os
import sys
from collections.abc import Sequence
from contextlib import AbstractContextManager, nullcontext
from enum import StrEnum
from pathlib import Path
from typing import NoReturn

import typer

from pmc.compiler.files import write_file


class Format(StrEnum):
    """The form of a result."""

    TEXT = "text"
    JSON = "json"


class TableFormat(StrEnum):
    """The form of a table."""

    TEXT = "text"
    JSON = "json"
    CSV = "csv"


def deliver(text: str, path: Path | None) -> None:
    """The result, to a file or to stdout."""
    if path is not None:
        write_file(path, text)
        return
    try:
        sys.stdout.write(text)
        sys.stdout.flush()
    except BrokenPipeError:  # the reader has left, as `head` does; Python would complain again at exit
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())


def refuse(reasons: Sequence[str], output_format: TableFormat, path: Path | None) -> NoReturn:
    """Exit with the answer no; the reasons go to stderr where stdout does not show them: in CSV, or a result in a file.

    Raises typer.Exit.
    """
    if output_format is TableFormat.CSV or path is not None:
        for reason in reasons:
            print(f"pmc: {reason}", file=sys.stderr)
    raise typer.Exit(1)


def progress(text: str) -> AbstractContextManager[object]:
    """A moving line on stderr while something runs, when stderr is a terminal."""
    if not sys.stderr.isatty():
        return nullcontext()
    from rich.console import Console

    return Console(stderr=True).status(text)
