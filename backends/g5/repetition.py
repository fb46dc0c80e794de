"""Which iterations of a loop need not be written out, because the commands of others take the same times.

After `period` iterations nothing that a time depends on has changed: sizes, strides, banks of matrix operands, and the
place of every DRAM address in its channel and page.  That is shown on the expressions, for any trip count: an address
that moves by 768 bytes an iteration is at the same place again after as many iterations as make whole turns.  The last
iteration may be smaller, `min(rows - i*tile, tile)`, and is always written out, as are the first ones, in which late
commands and waits are not yet as they stay.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from dataclasses import dataclass, field
from math import gcd, lcm

import numpy as np

from pmc.backends.g5.equal_programs import turn_bytes
from pmc.dialects.analyses.expand import Ints, LeftOut, Symbols
from pmc.dialects.arch import Chip
from pmc.dialects.expr import Atom, Call, Expr, expr
from pmc.dialects.g5 import BarrierOp, CommandOp, GdmaOp, LoopOp, ProgramOp, TiuOp, VectorCommandOp
from pmc.dialects.tile import running_count

FIRST = 2
"""Iterations written out before those that repeat."""

LONGEST = 4096
"""The longest period looked for, in iterations."""


class _NotRegular(Exception):
    """The change of an expression depends on the iteration."""


class _LongerPeriod(Exception):
    def __init__(self, factor: int) -> None:
        super().__init__(factor)
        self.factor = factor


@dataclass(frozen=True)
class Repetition(LeftOut):
    """Iterations that repeat: all but the first and the last ones, `period` at a time."""

    period: int
    shared: bool
    """Whether the loop reads DRAM for several cores at once, so that these must leave out the same iterations."""
    symbol: str
    inside: tuple[tuple[Expr, Expr], ...]
    """Pairs of which the first must be at most the second in all iterations but the last; linear in `symbol`."""

    @property
    def head(self) -> int:
        """Iterations kept before those left out: the first ones, and one period."""
        return FIRST + self.period

    def left_out(self, trips: Ints, symbols: Symbols) -> Ints:
        """[runs of the loop]: whole periods, so that the last iteration and the period before it are kept."""
        rounds = (trips - 1 - FIRST) // self.period
        found = np.where(rounds >= 4, (rounds - 2) * self.period, 0)
        for less, more in self.inside:
            for at in (np.zeros_like(trips), np.maximum(trips - 2, 0)):
                values = {**symbols, self.symbol: at}
                found = np.where(np.asarray(less.evaluate(values)) <= more.evaluate(values), found, 0)
        if self.shared and len(found) and (found != found[0]).any():
            return np.zeros_like(found)
        return np.asarray(found, np.int64)


def repetitions(program: ProgramOp, chip: Chip) -> dict[LoopOp, LeftOut]:
    """The loops of a program of which iterations can be left out: of loops inside each other that with most trips."""
    found: dict[LoopOp, LeftOut] = {}
    for op in program.body.block.ops:
        if isinstance(op, LoopOp):
            best = max(_candidates(op, turn_bytes(chip)), key=lambda pair: _trips(pair[0]), default=None)
            if best is not None:
                found[best[0]] = best[1]
    return found


def _candidates(loop: LoopOp, turn: int) -> Iterator[tuple[LoopOp, Repetition]]:
    if _trips(loop) >= FIRST + 5:
        repetition = _repetition(loop, turn)
        if repetition is not None:
            yield loop, repetition
    for op in loop.body.block.ops:
        if isinstance(op, LoopOp):
            yield from _candidates(op, turn)


def _trips(loop: LoopOp) -> int:
    """Trips of a loop, for a rough comparison; 0 where they differ."""
    return loop.count.data.constant if loop.count.data.is_constant else 0


def _repetition(loop: LoopOp, turn: int) -> Repetition | None:
    if any(isinstance(op, BarrierOp) for op in loop.walk()):
        return None
    commands = [op for op in loop.walk() if isinstance(op, CommandOp)]
    inner = [op for op in loop.walk() if isinstance(op, LoopOp) and op is not loop]
    period = 1
    while period <= LONGEST:
        change = _Change(loop.symbol.data, period, frozenset(op.symbol.data for op in inner))
        try:
            for fixed in (*(op.count.data for op in inner), *_sizes(commands)):
                change.none(fixed)
            for address in _addresses(commands):
                change.whole_turns(address, turn)
        except _LongerPeriod as needs:
            period *= needs.factor
        except _NotRegular:
            return None
        else:
            shared = any(isinstance(op, GdmaOp) and op.serves is not None for op in commands)
            return Repetition(period, shared, loop.symbol.data, tuple(change.inside))
    return None


def _sizes(commands: Iterable[CommandOp]) -> Iterator[Expr]:
    """What must be the same for the commands to take the same times, addresses in DRAM apart."""
    for op in commands:
        if isinstance(op, VectorCommandOp):
            yield from (op.rows.data, op.columns.data)
            continue
        for access in op.accesses():
            yield from access.shape
            if access.core is not None:
                yield access.core
            if access.memory == "dram":
                yield from access.strides
            elif isinstance(op, TiuOp):
                yield access.address


def _addresses(commands: Iterable[CommandOp]) -> Iterator[Expr]:
    for op in commands:
        yield from (access.address for access in op.accesses() if access.memory == "dram")


@dataclass
class _Change:
    """How expressions change over `period` iterations of a loop."""

    symbol: str
    period: int
    inner: frozenset[str]
    """The symbols of the loops inside."""
    inside: list[tuple[Expr, Expr]] = field(default_factory=list[tuple[Expr, Expr]])
    """What was taken to hold, see `Repetition`."""

    def none(self, value: Expr) -> None:
        """Raises _NotRegular for a value that changes."""
        if self.of(value) != 0:
            raise _NotRegular

    def whole_turns(self, address: Expr, turn: int) -> None:
        """Raises _NotRegular for an address that does not move by one number of turns for all runs of its command."""
        change = self.of(address)
        if change.symbols & self.inner:
            raise _NotRegular
        _divided(change, turn)

    def of(self, value: Expr) -> Expr:
        """The change of a value.  Raises _NotRegular, or _LongerPeriod where it is regular over more iterations."""
        change = expr(0)
        for monomial, coefficient in value.terms:
            moves = [(index, self.of_atom(atom)) for index, atom in enumerate(monomial)]
            moving = [(index, by) for index, by in moves if by != 0]
            if len(moving) > 1:
                raise _NotRegular
            for index, by in moving:
                rest = Expr({(*monomial[:index], *monomial[index + 1 :]): coefficient})
                change = change + rest * by
        return change

    def of_atom(self, atom: Atom) -> Expr:
        """The change of a symbol or of a call."""
        if isinstance(atom, str):
            if atom in (self.symbol, running_count(self.symbol)):
                return expr(self.period)
            if atom in {running_count(name) for name in self.inner}:
                return expr(f"{atom} of an iteration") * self.period
            return expr(0)
        if atom.function in ("min", "max"):
            return self.of(self.chosen(atom))
        value, divisor = atom.args
        if self.of(divisor) != 0:
            raise _NotRegular
        change = self.of(value)
        if change == 0:
            return change
        if not divisor.is_constant:
            raise _NotRegular
        quotient = _divided(change, divisor.constant)
        return expr(0) if atom.function == "mod" else quotient

    def chosen(self, call: Call) -> Expr:
        """The argument that a minimum or maximum is in all iterations but the last: the only one that stays."""
        still = [arg for arg in call.args if self.of(arg) == 0]
        moving = [arg for arg in call.args if arg not in still]
        if not moving:
            return expr(0)
        if len(still) != 1:
            raise _NotRegular
        for arg in moving:
            if not _linear(arg, self.symbol) or (arg.symbols | still[0].symbols) & self.inner:
                raise _NotRegular
            if any(symbol.endswith(".seq") for symbol in arg.symbols | still[0].symbols):
                raise _NotRegular
            self.inside.append((still[0], arg) if call.function == "min" else (arg, still[0]))
        return still[0]


def _linear(value: Expr, symbol: str) -> bool:
    """Whether a value is a number more with each iteration."""
    return all(
        not any(isinstance(atom, Call) and symbol in Expr({(atom,): 1}).symbols for atom in monomial)
        and monomial.count(symbol) <= 1
        for monomial, _ in value.terms
    )


def _divided(change: Expr, divisor: int) -> Expr:
    """A change divided by a number.  Raises _LongerPeriod where it cannot be divided yet."""
    factor = 1
    for _, coefficient in change.terms:
        factor = lcm(factor, divisor // gcd(divisor, coefficient))
    if factor > 1:
        raise _LongerPeriod(factor)
    return Expr({monomial: coefficient // divisor for monomial, coefficient in change.terms})
