"""The tool behind `pmc opt`: xDSL's opt driver with pmc's dialects and passes, resuming, and errors of one line."""

from __future__ import annotations

import io
from collections.abc import Mapping, Sequence
from contextlib import redirect_stdout
from typing import IO

from xdsl.dialects.builtin import ModuleOp
from xdsl.ir import Attribute
from xdsl.utils.arg_spec import parse_pipeline
from xdsl.utils.exceptions import ArgSpecParseError, DiagnosticException, VerifyException
from xdsl.xdsl_opt_main import xDSLOptMain

from pmc.compiler.driver import module_text, resume, verify_error_line
from pmc.compiler.source_text import parse_text
from pmc.dialects.errors import PmcError
from pmc.dialects.levels import Level
from pmc.dialects.schema import did_you_mean


class PmcOpt(xDSLOptMain):
    """`xdsl-opt`, which knows pmc by the entry point `xdsl.universe`, and what it lacks.

    It first writes the attributes `target` into modules that have none of them; with `resume_to` it then runs what is
    left of the module's own pipeline; then come the passes of `-p`.
    """

    def __init__(
        self, args: Sequence[str], resume_to: Level | None = None, target: Mapping[str, Attribute] | None = None
    ) -> None:
        self.resume_to: Level | None = resume_to
        self.target = target or {}
        super().__init__("pmc opt", args)

    def setup_pipeline(self) -> None:
        """Build the passes of `-p`.  Raises PmcError for bad syntax, an unknown pass or an unknown option."""
        known = self.available_passes
        try:
            for spec in parse_pipeline(self.args.passes):
                if spec.name not in known:
                    raise PmcError(f"-p: unknown pass '{spec.name}'{did_you_mean(spec.name, known)}")
            super().setup_pipeline()  # type: ignore[no-untyped-call]
        except (ArgSpecParseError, ValueError) as error:
            raise PmcError(f"-p: {' '.join(str(error).split())}") from None

    def parse_chunk(self, chunk: IO[bytes], file_extension: str, start_offset: int = 0) -> ModuleOp | None:
        """The module of a piece of the input, with errors that xDSL does not foresee."""
        return parse_text(self.ctx, chunk.read().decode(), self.get_input_name(), start_offset)  # type: ignore[no-untyped-call]

    def apply_passes(self, prog: ModuleOp) -> None:
        """The rest of the pipeline, then the passes that were named.

        What a pass cannot do is a diagnostic, which `--verify-diagnostics` expects.
        """
        try:
            for name, attribute in self.target.items():
                if name in prog.attributes:
                    raise PmcError(f"the module has its own {name}, which other attributes and ops may rest on")
                prog.attributes[name] = attribute
            if self.resume_to is not None:
                prog.verify()
                resume(prog, self.resume_to)
            super().apply_passes(prog)
        except PmcError as error:
            raise DiagnosticException(str(error)) from error

    def output_resulting_program(self, prog: ModuleOp) -> str:
        """The text as `pmc compile` prints it, with one newline at the end."""
        if not self.args.print_op_generic and not self.args.print_debuginfo:
            return module_text(prog)
        return super().output_resulting_program(prog).rstrip("\n") + "\n"


def run_opt(
    args: Sequence[str],
    source: str,
    resume_to: Level | None = None,
    target: Mapping[str, Attribute] | None = None,
) -> str:
    """What `xdsl-opt` with these arguments prints.  Raises PmcError; then nothing is printed.

    `source` is the name of the input in errors.
    """
    output = io.StringIO()
    tool = PmcOpt(args, resume_to, target)
    try:
        with redirect_stdout(output):
            tool.run()  # type: ignore[no-untyped-call]
    except VerifyException as error:
        raise PmcError(f"{source}: {verify_error_line(error)}") from error
    except DiagnosticException as error:
        raise PmcError(f"{source}: {' '.join(str(error).split())}") from error
    except OSError as error:
        raise PmcError(f"{source}: cannot be read: {error.strerror}") from None
    except UnicodeDecodeError as error:
        raise PmcError(f"{source}: not UTF-8 text (byte {error.start})") from None
    except RecursionError:
        raise PmcError(f"{source}: nested too deeply") from None
    return output.getvalue()
