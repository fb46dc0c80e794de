"""Output files that appear whole or not at all, and folders that are tried before any work is done."""

from __future__ import annotations

import os
import tempfile
from pathlib import Path

from pmc.dialects.errors import PmcError


def check_writable_file(path: Path | None) -> None:
    """Raise PmcError, before any work is done, when a file cannot be written to `path`."""
    if path is None:
        return
    if path.is_dir():
        raise PmcError(f"{path}: cannot be written: it is a folder")
    _try_to_write(path.parent, path)


def prepare_folder(path: Path) -> None:
    """Make the folder.  Raises PmcError when it cannot be made or written."""
    try:
        path.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise PmcError(f"{path}: cannot be made: {error.strerror}") from None
    _try_to_write(path, path)


def _try_to_write(folder: Path, shown: Path) -> None:
    try:
        with tempfile.TemporaryFile(dir=folder):
            pass
    except OSError as error:
        raise PmcError(f"{shown}: cannot be written: {error.strerror}") from None


def write_file(path: Path, text: str) -> None:
    """Write `text` as UTF-8, see `write_bytes`."""
    write_bytes(path, text.encode())


def write_bytes(path: Path, data: bytes) -> None:
    """Write `data` beside `path`, then rename: no reader ever sees half a file.  Raises PmcError."""
    try:
        handle, name = tempfile.mkstemp(dir=path.parent, prefix=f".{path.name}.")
        try:
            with os.fdopen(handle, "wb") as file:
                file.write(data)
            os.chmod(name, 0o666 & ~_umask())  # mkstemp gives 0600
            os.replace(name, path)
        except BaseException:
            os.unlink(name)
            raise
    except OSError as error:
        raise PmcError(f"{path}: cannot be written: {error.strerror}") from None


def _umask() -> int:
    mask = os.umask(0)
    os.umask(mask)
    return mask
