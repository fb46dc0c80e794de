"""`unroll-commands`: the loops of every program become flat tables, one per engine, of one core.

    g5.program() {..} at "mm" { g5.loop k < <14> at "mm" { g5.gdma {..} after [tiu-1] at "mm" .. } }

becomes

    g5.program() {..} at "mm" {
      g5.queue() {engine = "gdma", core = 0, .., table = #g5.table<[id, tiu, .., dram, lmem, ..], 28 rows, ..>} at "mm"

Columns: `id`; `order`, the ordinal among all commands of the core; one column per engine with the id to wait for; `op`,
which command of the program's text the row is a run of; `phase`, the barriers passed, in a program with commands behind
a barrier; then the operands, all numbers.  Inside a repeat the addresses are those of layer `layer`.  Without `full` a
table keeps only its first and last rows.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import ClassVar

import numpy as np
from xdsl.dialects.builtin import ArrayAttr, ModuleOp, StringAttr
from xdsl.ir import Block

from pmc.dialects import g5
from pmc.dialects.analyses.expand import Ints, Runs, expand
from pmc.dialects.g5_table import ENUMS, CommandTableAttr, command_table
from pmc.dialects.levels import Level
from pmc.dialects.tile import LAYER
from pmc.dialects.vector_kinds import VectorKindAttr
from pmc.passes.base import PassError, PmcPass

Columns = dict[str, Ints | int]


@dataclass(frozen=True)
class UnrollCommandsPass(PmcPass):
    """Command programs -> command tables of core `core`."""

    name: ClassVar[str] = "unroll-commands"
    READS: ClassVar[tuple[Level, ...]] = ("commands",)
    core: int = 0
    layer: int = -1
    """The layer of every repeat that the addresses are for; -1 is its first.  Of other repeats it is the first step."""
    full: bool = False

    def run(self, module: ModuleOp) -> None:
        """Unroll every program of every stream; one that does not use the core is left empty."""
        programs = [op for op in module.walk() if isinstance(op, g5.ProgramOp)]
        if programs:
            widest = max(programs, key=lambda program: program.cores.value.data)
            cores = widest.cores.value.data
            if not 0 <= self.core < cores:
                raise PassError(f"{self.name}: core {self.core} is outside 0..{cores - 1} of '{widest.path.data}'")
        for op in module.ops:
            if isinstance(op, g5.StreamOp):
                self.steps(op.body.block, {})

    def steps(self, block: Block, symbols: Mapping[str, int]) -> None:
        """Unroll the programs of a body; `symbols` are the layer numbers around it."""
        for op in block.ops:
            if isinstance(op, g5.RepeatOp):
                first, count = op.first.value.data, op.count.value.data
                layer = first if self.layer < 0 or op.symbol.data != LAYER else self.layer
                if not first <= layer < first + count:
                    raise PassError(
                        f"{self.name}: layer {layer} is outside {first}..{first + count - 1} of the repeat "
                        f"at '{op.path.data}'"
                    )
                self.steps(op.body.block, {**symbols, op.symbol.data: layer})
            elif isinstance(op, g5.StageOp):
                self.steps(op.body.block, symbols)
            elif isinstance(op, g5.ProgramOp):
                self.program(op, symbols)

    def program(self, program: g5.ProgramOp, symbols: Mapping[str, int]) -> None:
        """Replace the body of a program by its queues."""
        if any(isinstance(op, g5.QueueOp) for op in program.body.block.ops):
            raise PassError(f"{self.name}: the program at '{program.path.data}' is unrolled already")
        runs = expand(program, [self.core], symbols) if self.core < program.cores.value.data else []
        queues = [self.queue(program, engine, runs) for engine in g5.ENGINES]
        for op in reversed(list(program.body.block.ops)):
            program.body.block.erase_op(op)
        program.body.block.add_ops([queue for queue in queues if queue is not None])

    def queue(self, program: g5.ProgramOp, engine: str, all_runs: list[Runs]) -> g5.QueueOp | None:
        """The queue of one engine; None when the program does not use it."""
        runs = [(number, r) for number, r in enumerate(all_runs) if engine == r.op.ENGINE]
        if not runs:
            return None
        kinds: dict[VectorKindAttr, int] = {}
        phased = any(r.phase.any() for r in all_runs)
        parts = [(columns_of(number, r, kinds, phased), r.count) for number, r in runs]
        # Templates of one engine may have different columns (gather among copies); a missing one is 0.
        names = list(dict.fromkeys(name for columns, _ in parts for name in columns))
        names = [n for n in names if n not in _LAST] + [n for n in names if n in _LAST]
        count = sum(c for _, c in parts)
        rows = np.zeros((count, len(names)), np.int64, order="F")
        for columns, _ in parts:
            place = np.asarray(columns["id"]) - 1
            for index, name in enumerate(names):
                rows[place, index] = columns.get(name, 0)
        table = command_table(names, rows)
        return g5.QueueOp.make(
            [],
            [],
            program.path.data,
            {
                "engine": engine,
                "core": self.core,
                "paths": ArrayAttr([StringAttr(r.op.path.data) for r in all_runs]),
                "kinds": ArrayAttr(list(kinds)),
                "table": CommandTableAttr(table if self.full else table.reduced()),
            },
        )


_LAST = ("params",)


def columns_of(number: int, runs: Runs, kinds: dict[VectorKindAttr, int], phased: bool) -> Columns:
    """The columns of all runs of one command; parameters that are expressions get columns of their own."""
    op = runs.op
    waits = runs.dependencies
    columns: Columns = {"id": runs.ids, "order": runs.order}
    columns |= {engine: waits[:, index] for index, engine in enumerate(g5.ENGINES)}
    columns["op"] = number
    if phased:
        columns["phase"] = runs.phase
    for name, value in op.fields().items():
        if isinstance(value, str):
            columns[name] = _code(name, value, op)
        else:
            columns[name] = value if isinstance(value, int) else runs.value(value)
    if isinstance(op, g5.VectorCommandOp):
        columns["params"] = kinds.setdefault(op.kind, len(kinds))
        for name, value in op.kind.expressions().items():
            if value.symbols <= runs.symbols.keys():
                columns[f"p_{name}"] = runs.value(value)
    return columns


def _code(column: str, name: str, op: g5.CommandOp) -> int:
    """The number of a name in the enum of a column `name:enum`."""
    enum = column.partition(":")[2]
    if name not in ENUMS[enum]:
        raise PassError(f"unroll-commands: {op.name} at '{op.path.data}': no code for {enum} {name}")
    return ENUMS[enum].index(name)
