"""The times by which `partition-stages` balances; the driver brings passes and backends together."""

from __future__ import annotations

from collections.abc import Generator, Mapping
from contextlib import contextmanager
from contextvars import ContextVar

from xdsl.dialects.builtin import ModuleOp
from xdsl.ir import Operation

from pmc.backends.cost.memo import CostMemo, MemoCostModel
from pmc.backends.cost.model import Granularity, Target
from pmc.backends.evaluate.dealt_program import DealtProgram
from pmc.backends.evaluate.engine import cost_model, cost_program, program_of, symbol_values
from pmc.dialects.accounting import accounting_of
from pmc.dialects.errors import PmcError

_MEMO: ContextVar[CostMemo | None] = ContextVar("costs of ops", default=None)
_PROGRAM: ContextVar[DealtProgram | None] = ContextVar("the program whose layers are dealt", default=None)


@contextmanager
def costs_kept(memo: CostMemo) -> Generator[None]:
    """Keep costs in `memo` and find them there, for the equal ops of many programs."""
    token = _MEMO.set(memo)
    try:
        yield
    finally:
        _MEMO.reset(token)


@contextmanager
def times_of(program: DealtProgram) -> Generator[None]:
    """Ask `program`, which is the one of the module, and knows most times from other numbers of stages."""
    token = _PROGRAM.set(program)
    try:
        yield
    finally:
        _PROGRAM.reset(token)


def op_times(module: ModuleOp) -> Mapping[Operation, float] | None:
    """Seconds of all executions of every op in one step of one rank, by the core model, which searches nothing.

    The whole batch of the deployment counts, as in the evaluation of a step.  None where nothing can evaluate the
    module: it names no deployment or no accounting, or the target has no rate or no link for one of its ops.
    """
    try:
        accounting = accounting_of(module, "partition-stages")
        model = cost_model(Granularity.CORE, Target.of(module), accounting)
        if (memo := _MEMO.get()) is not None:
            model = MemoCostModel(model, memo, Granularity.CORE, accounting)
            if (program := _PROGRAM.get()) is not None:
                return program.seconds(model, symbol_values(module, {}))
        costed = cost_program(program_of(module), model, symbol_values(module, {}))
    except PmcError:
        return None
    return {site.op: float(cost.time_s) * site.count for site, cost in costed.costs}
