"""Feed mutated dumps to the commands, in this process, and report what is neither a result nor one line of error."""

from __future__ import annotations

import contextlib
import gc
import io
import signal
import traceback
import warnings
from collections import Counter
from collections.abc import Callable, Generator
from dataclasses import dataclass, field
from pathlib import Path
from random import Random
from time import process_time

from pmc.compiler.driver import module_text, parse_module, remaining_pipeline, run_pipeline
from pmc.compiler.main import main
from pmc.dialects.errors import PmcError
from pmc.dialects.levels import LEVELS
from tests.fuzz.corpus import corpus
from tests.fuzz.mutations import mutate

ERROR_SECONDS = 1.0
"""How soon odd text is refused, in time of the processor: other work on the machine does not count."""

GIVE_UP_SECONDS = 3.0
"""What a text may cost that is still a program: reading and printing the longest dump twice takes 0.6 s."""

COMMANDS: tuple[tuple[str, ...], ...] = (
    ("opt", "{}"),
    ("evaluate", "{}"),
    ("evaluate", "{}", "--granularity", "tile", "--overlap", "two-batch"),
    ("evaluate", "{}", "--granularity", "core", "--overlap", "streams", "--format", "json"),
    ("analyze", "{}", "--what", "ops"),
    ("analyze", "{}", "--what", "comm"),
    ("analyze", "{}", "--what", "memory", "--reserve-fraction", "0.1"),
    ("analyze", "{}", "--what", "links", "--board-wiring", "ring"),
    ("analyze", "{}", "--what", "cost", "--dollars-per-chip-hour", "1"),
    ("compare", "{}", "{}"),
    ("run", "{}"),
    ("run", "{}", "--precision", "emulated"),
    ("simulate", "{}"),
    ("simulate", "{}", "--commands", "core=0", "--format", "json"),
    ("evaluate", "{}", "--granularity", "commands"),
)


@dataclass(frozen=True)
class Finding:
    """A case that ended in neither a result nor one line."""

    case: int
    dump: str
    command: str
    what: str


@dataclass
class Report:
    """What a run of the fuzzer saw."""

    cases: int = 0
    outcomes: Counter[str] = field(default_factory=Counter[str])
    """How many cases gave a result, one line of error, or a finding."""
    findings: list[Finding] = field(default_factory=list[Finding])
    slowest: tuple[float, int] = (0.0, -1)
    """Seconds and case."""


class _Timeout(BaseException):
    pass


def fuzz(seed: int, first: int, count: int, folder: Path, show: Callable[[Finding], None] | None = None) -> Report:
    """Cases `first` to `first + count - 1` of the sequence that `seed` gives."""
    report = Report()
    # A full collection walks all that earlier tests of this process left alive: a second that is not the case's.
    gc.collect()
    gc.freeze()
    for case in range(first, first + count):
        what = _case(seed, case, folder, report)
        if what is not None:
            report.findings.append(what)
            if show is not None:
                show(what)
    gc.unfreeze()
    return report


def case_text(seed: int, case: int) -> tuple[str, str, Random]:
    """The name of the dump and the mutated text of a case, and what goes on deciding about it."""
    random = Random(f"{seed}:{case}")
    dump = random.choice(random.choice(corpus()))
    others = [random.choice(random.choice(corpus())).text for _ in range(2)]
    return dump.name, mutate(dump.text, others, random), random


def _case(seed: int, case: int, folder: Path, report: Report) -> Finding | None:
    name, text, random = case_text(seed, case)
    command = random.choice(("round trip", *("passes",) * 3, *(" ".join(c) for c in COMMANDS)))
    report.cases += 1
    start = process_time()
    what: str | None = None
    outcome = "result"
    try:
        with _limit(GIVE_UP_SECONDS), warnings.catch_warnings():
            warnings.simplefilter("error", RuntimeWarning)
            if command == "round trip":
                what = _round_trip(text)
            elif command == "passes":
                _passes(text)
            else:
                path = folder / "case.mlir"
                path.write_text(text)
                outcome, what = _command(command, path)
    except PmcError as error:
        outcome, what = "error", _not_one_line(str(error))
    except _Timeout:
        what = f"still running after {GIVE_UP_SECONDS} s\n{_innermost()}"
    except Exception:
        what = traceback.format_exc()
    seconds = process_time() - start
    report.slowest = max(report.slowest, (seconds, case))
    if what is None and outcome == "error" and seconds > ERROR_SECONDS:
        what = f"refused after {seconds:.1f} s"
    report.outcomes[outcome if what is None else "finding"] += 1
    return None if what is None else Finding(case, name, command, what)


_stuck_at: list[str] = []


def _innermost() -> str:
    return "".join(_stuck_at)


@contextlib.contextmanager
def _limit(seconds: float) -> Generator[None]:
    def stop(number: int, frame: object) -> None:
        _stuck_at[:] = traceback.format_stack()[-12:-1]
        raise _Timeout

    before = signal.signal(signal.SIGPROF, stop)
    signal.setitimer(signal.ITIMER_PROF, seconds)
    try:
        yield
    finally:
        signal.setitimer(signal.ITIMER_PROF, 0)
        signal.signal(signal.SIGPROF, before)


def _round_trip(text: str) -> str | None:
    """What is wrong where a module does not survive being printed."""
    printed = module_text(parse_module(text, "case.mlir"))
    return None if module_text(parse_module(printed, "printed.mlir")) == printed else "printing changes the module"


def _passes(text: str) -> None:
    """What is left of the module's own pipeline."""
    module = parse_module(text, "case.mlir")
    run_pipeline(module, remaining_pipeline(module, LEVELS[-1]))
    module_text(module)


def _command(command: str, path: Path) -> tuple[str, str | None]:
    """What came of it, and what is wrong with that."""
    output, errors = io.StringIO(), io.StringIO()
    arguments = [str(path) if part == "{}" else part for part in command.split(" ")]
    with contextlib.redirect_stdout(output), contextlib.redirect_stderr(errors):
        code = main(arguments)
    said = errors.getvalue()
    if code == 2:
        return "error", _not_one_line(said.removesuffix("\n"))
    if code not in (0, 1) or said:
        return "result", f"exit code {code}, stderr {said!r}"
    return "result", None


def _not_one_line(message: str) -> str | None:
    return (
        None if message and "\n" not in message and len(message) < 2000 else f"not one clear line: {message[:3000]!r}"
    )
