"""What the programs of a check reached: loops and their trips, waits, vector kinds, lines of the lowering passes."""

from __future__ import annotations

import sys
from collections.abc import Generator, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from textwrap import wrap
from types import CodeType, FrameType
from typing import Any

from xdsl.dialects.builtin import ModuleOp
from xdsl.ir import Operation

from pmc.dialects import g5
from pmc.dialects.analyses.expand import ENGINE_NUMBER, Runs, expand
from pmc.dialects.expr import Expr, ExprAttr

TRACED = ("lower_to_tiles.py", "allocate_lmem.py", "allocate_dram.py", "emit_g5.py")
"""The files of passes, besides those of `passes/tiling`, whose lines are followed."""


@dataclass
class Loop:
    """How the loops with one symbol ran, in the programs of one kind of op."""

    trips: int = 0
    """Of the longest run."""
    remainder: bool = False
    """Whether the blocks of its iterations differ in size."""

    @property
    def reached(self) -> bool:
        """Whether faults at the second iteration, in steady state and at the edge can show."""
        return self.trips >= 3 and self.remainder


@dataclass
class Coverage:
    """What was reached so far."""

    loops: dict[tuple[str, str], Loop] = field(default_factory=dict[tuple[str, str], Loop])
    """By the name of the tensor op and the symbol of the loop."""
    waits: dict[tuple[str, str], int] = field(default_factory=dict[tuple[str, str], int])
    """How often a command of a kind waited for one of another engine."""
    kinds: dict[str, int] = field(default_factory=dict[str, int])
    """Commands by kind."""
    lines: dict[str, tuple[set[int], set[int]]] = field(default_factory=dict[str, tuple[set[int], set[int]]])
    """Of every lowering pass the lines that ran, and those that could."""

    def add_programs(self, module: ModuleOp) -> None:
        """Take the loops, waits and kinds of the programs of a module at the command level."""
        for op in module.walk():
            if isinstance(op, g5.ProgramOp):
                symbols = {
                    repeat.symbol.data: repeat.first.value.data
                    for repeat in _around(op)
                    if isinstance(repeat, g5.RepeatOp)
                }
                for runs in expand(op, range(op.cores.value.data), symbols):
                    self._add(op.op_name.data, runs)

    def _add(self, op_name: str, runs: Runs) -> None:
        op = runs.op
        name = command_name(op)
        self.kinds[name] = self.kinds.get(name, 0) + runs.count
        for engine, _ in op.dependencies:
            waited = int((runs.dependencies[:, ENGINE_NUMBER[engine]] > 0).sum())
            self.waits[name, engine] = self.waits.get((name, engine), 0) + waited
        sizes = list(_sizes(op))
        for loop in (parent for parent in _around(op) if isinstance(parent, g5.LoopOp)):
            symbol = loop.symbol.data
            found = self.loops.setdefault((op_name, symbol), Loop())
            column = runs.symbols[symbol]
            found.trips = max(found.trips, int(max(column, default=-1)) + 1 if not isinstance(column, int) else 1)
            found.remainder |= any(symbol in size.symbols and len(set(runs.value(size).tolist())) > 1 for size in sizes)

    def report(self) -> dict[str, object]:
        """All that was reached, for JSON."""
        return {
            "loops": [
                {"op": op, "loop": symbol, "trips": loop.trips, "remainder": loop.remainder}
                for (op, symbol), loop in sorted(self.loops.items())
            ],
            "waits": [{"command": a, "for": b, "times": n} for (a, b), n in sorted(self.waits.items())],
            "commands": dict(sorted(self.kinds.items())),
            "missed_lines": {_file_name(name): missed for name, missed in self._missed()},
        }

    def lines_of_text(self) -> list[str]:
        """The same to read: loops with less than three trips or without a remainder are marked."""
        loops = [
            f"{op}.{symbol} {loop.trips}{'' if loop.remainder else ' equal'}{'' if loop.reached else ' (!)'}"
            for (op, symbol), loop in sorted(self.loops.items())
        ]
        waits = [f"{command} for {engine} {times}" for (command, engine), times in sorted(self.waits.items())]
        kinds = [f"{kind} {count}" for kind, count in sorted(self.kinds.items())]
        text = [
            "loops, most trips in a row; (!) fewer than 3, or all of one size:",
            *_wrapped(loops),
            "waits taken, by command and engine:",
            *_wrapped(waits),
            "commands:",
            *_wrapped(kinds),
            "lines of the lowering passes that did not run:",
        ]
        for name, missed in self._missed():
            total = len(self.lines[name][1])
            which = f": {', '.join(map(str, missed))}" if missed else ""
            text.append(f"  {_file_name(name)} {total - len(missed)} of {total} ran{which}")
        return text

    def _missed(self) -> list[tuple[str, list[int]]]:
        return [(name, sorted(every - ran)) for name, (ran, every) in sorted(self.lines.items())]

    @contextmanager
    def tracing(self) -> Generator[None]:
        """Follow which lines of the lowering passes run inside; makes Python slower."""
        import pmc.passes

        folder = Path(next(iter(pmc.passes.__path__)))
        files = {str(folder / name) for name in TRACED} | {str(path) for path in (folder / "tiling").glob("*.py")}

        def local(frame: FrameType, event: str, _: Any) -> Any:
            if event == "line":
                self.lines[frame.f_code.co_filename][0].add(frame.f_lineno)
            return local

        def enter(frame: FrameType, event: str, _: Any) -> Any:
            name = frame.f_code.co_filename
            if name not in files:
                return None
            if name not in self.lines:
                self.lines[name] = (set(), set(_lines(compile(Path(name).read_text(), name, "exec"), outer=True)))
            return local

        before = sys.gettrace()
        sys.settrace(enter)
        try:
            yield
        finally:
            sys.settrace(before)


def _lines(code: CodeType, outer: bool = False) -> Iterator[int]:
    """The lines of all functions in `code`; those of modules and classes run at import."""
    if not outer:
        yield from (line for _, _, line in code.co_lines() if line is not None and line != code.co_firstlineno)
    for constant in code.co_consts:
        if isinstance(constant, CodeType):
            yield from _lines(constant, outer=not constant.co_flags & 0x2)  # 0x2: the body of a function


def _around(op: Operation) -> Iterator[Operation]:
    parent = op.parent_op()
    while parent is not None:
        yield parent
        parent = parent.parent_op()


def command_name(op: g5.CommandOp) -> str:
    """What a command does: `load`, `store`, `mma`, or its vector kind."""
    match op:
        case g5.GdmaOp():
            return op.direction.data
        case g5.VectorCommandOp():
            return op.kind.name.partition(".")[2]
        case g5.TiuOp():
            return "mma"
        case _:
            return op.name.removeprefix("g5.")


def _sizes(op: g5.CommandOp) -> Iterator[Expr]:
    """The extents of what a command works on."""
    for name in ("m", "n", "k", "rows", "columns", "count"):
        value: Mapping[str, Any] = op.properties
        attribute = value.get(name)
        if isinstance(attribute, ExprAttr):
            yield attribute.data
    if isinstance(op, g5.GdmaOp):
        yield from (size.data for size in op.shape.data)


def _file_name(path: str) -> str:
    """`passes/..` without the folders around it."""
    parts = Path(path).parts
    return "/".join(parts[len(parts) - parts[::-1].index("passes") - 1 :])


def _wrapped(items: Sequence[str]) -> list[str]:
    return wrap(", ".join(items), 118, initial_indent="  ", subsequent_indent="  ", break_on_hyphens=False)
