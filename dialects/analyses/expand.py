"""All commands of a `g5.program`, for any set of cores, as numpy arrays: the meaning of its loops.

The loop nest is walked once, not once per iteration: each level is the arrays of the symbols of all its iterations,
ordered by core and then by time.  A first walk, from the inside out, counts the commands of every iteration per engine;
a second, from the outside in, gives every command its ordinals, which are its id and its dependencies.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from functools import cached_property
from typing import TypeGuard

import numpy as np
import numpy.typing as npt
from xdsl.ir import Block, Operation

from pmc.dialects.errors import PmcError
from pmc.dialects.expr import Expr
from pmc.dialects.g5 import ENGINES, FREE, BarrierOp, CommandOp, GdmaOp, LoopOp, ProgramOp
from pmc.dialects.tile import CORE, running_count

Ints = npt.NDArray[np.int64]

COUNTERS = len(ENGINES) + 1
"""What is counted along a program: the commands of every engine, then barriers."""

ENGINE_NUMBER = {engine: number for number, engine in enumerate(ENGINES)}


@dataclass(frozen=True)
class Runs:
    """All runs of one command: entry i of every array is run i, ordered by core, then by time."""

    op: CommandOp
    symbols: Mapping[str, Ints | int]
    issued: Ints
    """[runs, COUNTERS]: commands given to each engine of the core, and barriers passed, before this one."""
    seen: Ints
    """The same where the command stands in its own iteration; differs from `issued` for a late command only."""
    _values: dict[Expr, Ints] = field(default_factory=dict["Expr", Ints], repr=False)

    @property
    def count(self) -> int:
        """The number of runs."""
        return len(self.issued)

    @cached_property
    def core(self) -> Ints:
        """The core of each run."""
        return self.value(Expr({(CORE,): 1}))

    @cached_property
    def order(self) -> Ints:
        """The ordinal of each run among all commands of its core, from 0."""
        total: Ints = self.issued[:, : len(ENGINES)].sum(axis=1)
        return total

    @cached_property
    def phase(self) -> Ints:
        """How many barriers the core has passed before each run."""
        return self.issued[:, len(ENGINES)]

    @cached_property
    def ids(self) -> Ints:
        """The ordinal of each run on its engine, from 1."""
        ids: Ints = self.issued[:, ENGINE_NUMBER[self.op.ENGINE]] + 1
        return ids

    @cached_property
    def dependencies(self) -> Ints:
        """[runs, engines]: the id to wait for on each engine, 0 for none."""
        ids = np.zeros((self.count, len(ENGINES)), np.int64)
        for engine, lag in self.op.dependencies:
            number = ENGINE_NUMBER[engine]
            np.maximum(self.seen[:, number] - lag, 0, out=ids[:, number])
        return ids

    @cached_property
    def lags(self) -> Ints:
        """[runs, engines]: how many of the commands given before it may be unfinished, FREE for any number."""
        lags = np.full((self.count, len(ENGINES)), FREE, np.int64)
        for engine, lag in self.op.dependencies:
            number = ENGINE_NUMBER[engine]
            lags[:, number] = self.issued[:, number] - self.seen[:, number] + lag
        return lags

    def value(self, expression: Expr) -> Ints:
        """The value of an expression for every run."""
        known = self._values.get(expression)
        if known is None:
            known = expression.evaluate_int64(self.symbols)
            if known.shape != (self.count,):
                # As `broadcast_to` does, which takes most of the time of short programs.
                known = np.ndarray((self.count,), np.int64, known.reshape(()), 0, (0,))
            self._values[expression] = known
        return known


Symbols = Mapping[str, Ints | int]


class LeftOut(ABC):
    """Which iterations of a loop are not expanded: behind the first `head`, as many as `left_out` says."""

    @property
    @abstractmethod
    def head(self) -> int:
        """Iterations kept before those left out."""

    @abstractmethod
    def left_out(self, trips: Ints, symbols: Symbols) -> Ints:
        """[runs of the loop]: the iterations left out, for the trips and the symbols of each run."""


@dataclass(frozen=True)
class Gap:
    """The runs of a loop of which iterations were left out; [runs] arrays."""

    rule: LeftOut
    core: Ints
    left_out: Ints
    """Iterations."""
    issued: Ints
    """[runs, kept iterations, COUNTERS]: what had been issued before each of the iterations up to one head behind the
    first that was left out."""


@dataclass
class _Level:
    """All runs of one block: their symbols, which of them ran inside run i of the block around, and the inner loops."""

    block: Block
    symbols: Mapping[str, Ints | int]
    count: int
    parents: Ints
    starts: Ints
    """For run i of the block around: its first run here; one entry more than there are such runs."""
    inner: list[_Level]
    sizes: Ints
    """[runs, COUNTERS]: commands given to each engine, and barriers, in one run."""
    rule: LeftOut | None = None
    left_out: Ints | None = None
    """For run i of the block around: the iterations left out."""


MOST_ITERATIONS = 2**20
"""Of a loop on all cores: every iteration is a row of arrays.  A prefill of 131,072 tokens of DeepSeek-V3 on 64 cores
has 43,008."""


def expand(program: ProgramOp, cores: Sequence[int], symbols: Mapping[str, int]) -> list[Runs]:
    """Every command of `program` on `cores`; `symbols` are those around the program (the layer number).

    Commands come in the order of the text.  Work and memory grow with the number of commands, not of cores times ops.
    """
    return expand_kept(program, cores, symbols, {})[0]


def expand_kept(
    program: ProgramOp, cores: Sequence[int], symbols: Mapping[str, int], rules: Mapping[LoopOp, LeftOut]
) -> tuple[list[Runs], list[Gap]]:
    """The same without the iterations that the rules of loops leave out, and where these were.

    Ordinals and `.seq` symbols count what is kept.
    """
    count = len(cores)
    level = _measure(
        program.body.block,
        {**symbols, CORE: np.asarray(cores, np.int64)},
        count,
        np.arange(count),
        np.arange(count + 1),
        rules,
    )
    runs: list[Runs] = []
    gaps: list[Gap] = []
    _place(level, np.zeros((count, COUNTERS), np.int64), runs, gaps)
    return runs, gaps


def _measure(
    block: Block, symbols: Symbols, count: int, parents: Ints, starts: Ints, rules: Mapping[LoopOp, LeftOut]
) -> _Level:
    """The iterations of all loops in `block` and the commands of every run."""
    sizes = np.zeros((count, COUNTERS), np.int64)
    inner: list[_Level] = []
    for op in block.ops:
        if isinstance(op, LoopOp):
            level = _iterate(op, symbols, count, rules)
            inner.append(level)
            totals = np.concatenate([np.zeros((1, COUNTERS), np.int64), level.sizes.cumsum(axis=0)])
            sizes += totals[level.starts[1:]] - totals[level.starts[:-1]]
        elif is_late(op):
            sizes[:, ENGINE_NUMBER[op.ENGINE]] += _late_runs(starts, parents, count)
        elif isinstance(op, CommandOp):
            sizes[:, ENGINE_NUMBER[op.ENGINE]] += 1
        elif isinstance(op, BarrierOp):
            sizes[:, len(ENGINES)] += 1
    return _Level(block, symbols, count, parents, starts, inner, sizes)


def _iterate(loop: LoopOp, symbols: Symbols, count: int, rules: Mapping[LoopOp, LeftOut]) -> _Level:
    trips = np.maximum(np.broadcast_to(np.asarray(loop.count.data.evaluate(symbols), np.int64), (count,)), 0)
    rule, left_out = rules.get(loop), None
    if rule is not None:
        left_out = rule.left_out(trips, symbols)
        trips = trips - left_out
    starts = np.concatenate([[0], trips.cumsum()])
    total = int(starts[-1])
    if total > MOST_ITERATIONS or int(trips.max(initial=0)) > MOST_ITERATIONS:
        raise PmcError(
            f"g5.loop over '{loop.symbol.data}' at '{loop.path.data}' runs {max(total, int(trips.max()))} times on all "
            f"cores together, commands are looked at one by one for {MOST_ITERATIONS} iterations at most"
        )
    parents = np.repeat(np.arange(count), trips)
    running = np.arange(total)
    inside: dict[str, Ints | int] = {
        name: value[parents] if isinstance(value, np.ndarray) else value for name, value in symbols.items()
    }
    core = np.asarray(inside[CORE])
    new_core = np.concatenate([[True], core[1:] != core[:-1]])[:total]
    first = np.maximum.accumulate(np.where(new_core, running, 0))
    name = loop.symbol.data
    iteration = running - starts[:-1][parents]
    if rule is not None and left_out is not None:
        iteration = iteration + np.where(iteration >= rule.head, left_out[parents], 0)
    inside[name] = iteration
    inside[running_count(name)] = running - first
    level = _measure(loop.body.block, inside, total, parents, starts, rules)
    level.rule, level.left_out = rule, left_out
    return level


def _place(level: _Level, issued: Ints, runs: list[Runs], gaps: list[Gap]) -> None:
    """Number the commands of `level`, whose run i starts after `issued[i]` commands per engine."""
    inner = iter(level.inner)
    issued = issued.copy()
    for op in level.block.ops:
        if isinstance(op, LoopOp):
            nested = next(inner)
            before = np.concatenate([np.zeros((1, COUNTERS), np.int64), nested.sizes.cumsum(axis=0)])
            first = before[nested.starts[:-1]]
            inside = issued[nested.parents] + before[:-1] - first[nested.parents]
            _place(nested, inside, runs, gaps)
            if nested.rule is not None and nested.left_out is not None:
                gaps.append(_gap(nested.rule, nested.left_out, nested, level, inside))
            issued += before[nested.starts[1:]] - first
        elif is_late(op):
            engine = ENGINE_NUMBER[op.ENGINE]
            runs.append(Runs(op, level.symbols, _issued_late(issued, engine, level), issued.copy()))
            issued[:, engine] += _late_runs(level.starts, level.parents, level.count)
        elif isinstance(op, CommandOp):
            runs.append(Runs(op, level.symbols, issued.copy(), issued.copy()))
            issued[:, ENGINE_NUMBER[op.ENGINE]] += 1
        elif isinstance(op, BarrierOp):
            issued[:, len(ENGINES)] += 1


def _gap(rule: LeftOut, left_out: Ints, nested: _Level, level: _Level, inside: Ints) -> Gap:
    cut = np.flatnonzero(left_out)
    core = np.broadcast_to(np.asarray(level.symbols[CORE]), (level.count,))[cut]
    kept = nested.starts[:-1][cut][:, None] + np.arange(2 * rule.head if len(cut) else 0)
    return Gap(rule, core, left_out[cut], inside[np.minimum(kept, max(nested.count - 1, 0))])


def is_late(op: Operation) -> TypeGuard[GdmaOp]:
    """Whether a command is given to its engine one iteration after its own."""
    return isinstance(op, GdmaOp) and op.late is not None


def _ends(starts: Ints, parents: Ints, count: int) -> tuple[npt.NDArray[np.bool_], npt.NDArray[np.bool_]]:
    """Which runs of a loop body are the first and the last of their loop."""
    number = np.arange(count)
    return number == starts[parents], number == starts[parents + 1] - 1


def _late_runs(starts: Ints, parents: Ints, count: int) -> Ints:
    """Runs of a late command that each run of the body gives: that of the run before, and at the end its own."""
    first, last = _ends(starts, parents, count)
    return (~first).astype(np.int64) + last


def _issued_late(issued: Ints, engine: int, level: _Level) -> Ints:
    """What had been issued when the run of a late command of every iteration is given."""
    first, last = _ends(level.starts, level.parents, level.count)
    own = issued.copy()
    own[:, engine] += ~first
    later = np.concatenate([issued[1:], issued[-1:]]) if level.count else issued
    return np.where(last[:, None], own, later)


def loops_and_commands(block: Block) -> Iterator[LoopOp | CommandOp]:
    """The ops of a program's body, inner ones included, in the order of the text."""
    for op in block.ops:
        if isinstance(op, LoopOp):
            yield op
            yield from loops_and_commands(op.body.block)
        elif isinstance(op, CommandOp):
            yield op
