"""What can watch a pipeline run: dumps of every stage, and prints after chosen passes."""

from __future__ import annotations

import re
from collections.abc import Sequence
from pathlib import Path
from time import process_time
from typing import TextIO

from xdsl.dialects.builtin import ModuleOp

from pmc.compiler.driver import Observer, module_text
from pmc.compiler.files import prepare_folder, write_file
from pmc.compiler.pipelines import pass_names
from pmc.dialects.errors import PmcError
from pmc.dialects.levels import Level
from pmc.dialects.schema import did_you_mean

IMPORT = "import"
"""The name of step 0, before any pass."""


class DumpObserver(Observer):
    """Writes `NN-<pass>.mlir` after each pass; the first line of each says how to go on from it to `emit`.

    Dumps of an earlier run in the same folder are removed first, so that the folder shows one run.  Raises PmcError
    when the folder cannot be written.
    """

    def __init__(self, folder: Path, emit: Level) -> None:
        prepare_folder(folder)
        self.folder = folder
        self.emit = emit
        ours = re.compile(rf"\d\d-({'|'.join((IMPORT, *pass_names()))})\.mlir")
        for file in folder.iterdir():
            if ours.fullmatch(file.name):
                file.unlink()

    def after(self, step: int, name: str, module: ModuleOp) -> None:
        """Write the file."""
        file = f"{step:02}-{name}.mlir"
        comment = f"// pmc opt {file} --resume --emit {self.emit}\n"
        write_file(self.folder / file, comment + module_text(module))


class PrintObserver(Observer):
    """Prints the module after some passes.  Raises PmcError for a pass that does not exist."""

    def __init__(self, passes: Sequence[str], stream: TextIO) -> None:
        known = (IMPORT, *pass_names())
        for name in passes:
            if name not in known:
                raise PmcError(f"--print-ir-after: unknown pass '{name}'{did_you_mean(name, known)}")
        self.passes = frozenset(passes)
        self.stream = stream

    def after(self, step: int, name: str, module: ModuleOp) -> None:
        """Print, with a heading that is a comment."""
        if name in self.passes:
            self.stream.write(f"// ----- after {step:02} {name}\n{module_text(module)}")


class TimeObserver(Observer):
    """Measures what each pass takes, its verifier included, in seconds of the processor."""

    def __init__(self) -> None:
        self.seconds: dict[str, float] = {}
        self.begin = 0.0

    def before(self, step: int, name: str) -> None:
        """Start the clock."""
        self.begin = process_time()

    def after(self, step: int, name: str, module: ModuleOp) -> None:
        """Stop it."""
        if name != IMPORT:
            self.seconds[f"{step:02} {name}"] = process_time() - self.begin

    def table(self) -> str:
        """One line a pass, and their sum."""
        total = sum(self.seconds.values())
        lines = [
            f"{name:28} {1e3 * seconds:9.1f} ms {seconds / total if total else 0.0:6.1%}"
            for name, seconds in {**self.seconds, "total": total}.items()
        ]
        return "".join(f"{line}\n" for line in lines)
