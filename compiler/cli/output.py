"""Where results go, and in which form."""

from __future__ import annotations

import os
import sys
from contextlib import AbstractContextManager, nullcontext
from enum import StrEnum
from pathlib import Path

from ..files import write_file


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


def progress(text: str) -> AbstractContextManager[object]:
    """A moving line on stderr while something runs, when stderr is a terminal."""
    if not sys.stderr.isatty():
        return nullcontext()
    from rich.console import Console

    return Console(stderr=True).status(text)
