"""Holds the tables of `unroll-commands` against the loops that they come from, operand by operand.

The loops were run by the functional simulator before, so a table whose rows are their commands, in their order, with
their waits and operands, is right too.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping

import numpy as np
from xdsl.dialects.builtin import ModuleOp
from xdsl.ir import Block
from xdsl.utils.arg_spec import ArgSpec, ParameterListType

from pmc.compiler.context import make_context
from pmc.compiler.pipelines import build_pass
from pmc.dialects import g5
from pmc.dialects.analyses.expand import ENGINE_NUMBER, Ints, Runs, expand
from pmc.dialects.table import ENDS, Table
from pmc.dialects.table_columns import EnumColumn
from pmc.dialects.tile import LAYER

UNROLL = "unroll-commands"


def wrong_table(module: ModuleOp) -> str | None:
    """The first row of a table of any of three cores that is not the command of its loops; None if all are right."""
    cores = max((op.cores.value.data for op, _ in _programs(module.body.block, {})), default=0)
    repeats = [op for op in module.walk() if isinstance(op, g5.RepeatOp) and op.symbol.data == LAYER]
    last = min((op.first.value.data + op.count.value.data for op in repeats), default=0) - 1
    common = bool(repeats) and all(op.first.value.data <= last for op in repeats)
    for core, layer in [(core, None) for core in sorted({0, cores // 2, cores - 1})] + [(0, last)] * common:
        programs = list(_programs(module.body.block, {}, layer))
        whole = _unrolled(module, core, layer, full=True)
        for (program, symbols), table in zip(programs, whole, strict=True):
            runs = expand(program, [core], symbols) if core < program.cores.value.data else []
            wrong = _wrong_queues(runs, _queues(table), core)
            if wrong is not None:
                return f"core {core} of '{program.path.data}': {wrong}"
        if core == 0:
            for table, short in zip(whole, _unrolled(module, core, layer, full=False), strict=True):
                if not all(map(_is_reduced, _queues(short).values(), _queues(table).values())):
                    return f"a reduced table of '{table.path.data}' is not the beginning and end of the whole one"
    return None


def _unrolled(module: ModuleOp, core: int, layer: int | None, full: bool) -> list[g5.ProgramOp]:
    copy = module.clone()
    options: dict[str, ParameterListType] = {"core": (core,), "full": (full,)}
    if layer is not None:
        options["layer"] = (layer,)
    build_pass(ArgSpec(UNROLL, options)).apply(make_context(), copy)
    if full and core == 0:
        copy.verify()
    return [program for program, _ in _programs(copy.body.block, {})]


def _programs(
    block: Block, symbols: Mapping[str, int], layer: int | None = None
) -> Iterator[tuple[g5.ProgramOp, Mapping[str, int]]]:
    """Every program with the layer, or the step of a ring, that its tables are for: the first, or `layer`."""
    for op in block.ops:
        match op:
            case g5.ProgramOp():
                yield op, symbols
            case g5.RepeatOp():
                index = op.first.value.data if layer is None or op.symbol.data != LAYER else layer
                yield from _programs(op.body.block, {**symbols, op.symbol.data: index}, layer)
            case g5.StreamOp() | g5.StageOp():
                yield from _programs(op.body.block, symbols, layer)
            case _:
                pass


def _queues(program: g5.ProgramOp) -> dict[str, g5.QueueOp]:
    return {op.engine.data: op for op in program.body.block.ops if isinstance(op, g5.QueueOp)}


def _is_reduced(short: g5.QueueOp, whole: g5.QueueOp) -> bool:
    reduced, table = short.table.data, whole.table.data
    ends = np.arange(table.count)
    ends = ends if table.count <= 2 * ENDS else np.concatenate([ends[:ENDS], ends[-ENDS:]])
    same = (np.array_equal(reduced.ints(name), table.ints(name)[ends]) for name in table.schema.names)
    return (reduced.count, reduced.digest) == (table.count, table.digest) and all(same)


def _wrong_queues(all_runs: list[Runs], whole: Mapping[str, g5.QueueOp], core: int) -> str | None:
    counts: dict[str, int] = {}
    for runs in all_runs:
        counts[runs.op.ENGINE] = counts.get(runs.op.ENGINE, 0) + runs.count
    found = {engine: queue.table.data.count for engine, queue in whole.items()}
    if found != {engine: count for engine, count in counts.items() if engine in found or count}:
        return f"the queues have {found} rows, the loops {counts} commands"
    for engine, queue in whole.items():
        if queue.core.value.data != core:
            return f"the {engine} queue says core {queue.core.value.data}"
    for number, runs in enumerate(all_runs):
        if not runs.count:
            continue
        queue = whole[runs.op.ENGINE]
        for name, values in _operands(number, runs, queue).items():
            wrong = _wrong_column(queue.table.data, runs.ids - 1, name, values)
            if wrong is not None:
                return wrong
    return None


def _wrong_column(table: Table, rows: Ints, name: str, values: Ints | int | str) -> str | None:
    if name not in table.schema.places:
        return f"the table has no column '{name}'"
    found = table.ints(name)[rows]
    wanted: Ints | int
    if isinstance(values, str):
        column = table.schema.columns[table.schema.places[name]]
        wanted = column.names.index(values) if isinstance(column, EnumColumn) and values in column.names else -1
    else:
        wanted = values
    different = found != wanted
    if not np.count_nonzero(different):
        return None
    first = int(np.argmax(different))
    right = values if isinstance(values, str | int) else int(values[first])
    return f"'{name}' of command {int(rows[first]) + 1} is {int(found[first])}, the loops have {right}"


def _operands(number: int, runs: Runs, queue: g5.QueueOp) -> dict[str, Ints | int | str]:
    """What the rows of a command must hold, by column."""
    op = runs.op
    rows: dict[str, Ints | int | str] = {"id": runs.ids, "order": runs.order, "op": number}
    for engine, place in ENGINE_NUMBER.items():
        rows[engine] = runs.dependencies[:, place]

    def matrix(name: str, operand: g5.LmemAttr) -> None:
        rows[name] = runs.value(operand.address.data)
        rows[f"{name}_pitch"] = operand.pitch.value.data
        rows[f"{name}_type"] = str(operand.element_type)

    match op:
        case g5.GdmaOp():
            rows.update(direction=op.direction.data, dram=runs.value(op.dram.data), lmem=runs.value(op.lmem.data))
            rows["element"] = str(op.element_type)
            for place, size in enumerate(reversed(op.shape.data), 1):
                dim, at = g5.GDMA_RANK - place, -place
                rows[f"n{dim}"] = runs.value(size.data)
                rows[f"dram_stride{dim}"] = runs.value(op.dram_strides.data[at].data)
                rows[f"lmem_stride{dim}"] = runs.value(op.lmem_strides.data[at].data)
            for dim in range(g5.GDMA_RANK - len(op.shape.data)):
                rows[f"n{dim}"] = 1
        case g5.GatherOp():
            last = g5.GDMA_RANK - 1
            rows.update(direction="gather", dram=runs.value(op.dram.data), index=runs.value(op.index.address.data))
            rows.update(lmem=runs.value(op.lmem.address.data), element=str(op.lmem.element_type))
            rows[f"n{last - 1}"], rows[f"n{last}"] = runs.value(op.count.data), runs.value(op.columns.data)
            rows[f"dram_stride{last - 1}"], rows[f"dram_stride{last}"] = op.stride.value.data, 1
            rows[f"lmem_stride{last - 1}"], rows[f"lmem_stride{last}"] = op.lmem.pitch.value.data, 1
        case g5.GatherRowsOp():
            matrix("index", op.index)
            matrix("target", op.lmem)
            rows.update(domain=op.bandwidth_domain.data, dram=runs.value(op.dram.data), stride=op.stride.value.data)
            rows.update(rows=runs.value(op.count.data), columns=op.columns.value.data)
        case g5.TiuOp():
            for name in ("acc", "a", "b"):
                matrix(name, getattr(op, name))
            rows.update(m=runs.value(op.m.data), n=runs.value(op.n.data), k=runs.value(op.k.data))
            rows["accumulate"] = (runs.value(op.accumulate.data) != 0).astype(np.int64)
            rows["transpose_b"] = int(bool(op.transpose_b))
        case g5.VectorCommandOp():
            for index, operand in enumerate(op.matrices):
                matrix(f"x{index}", operand)
            rows.update(rows=runs.value(op.rows.data), columns=runs.value(op.columns.data))
            rows["params"] = list(queue.kinds.data).index(op.kind)
            for name, value in op.kind.expressions().items():
                if value.symbols <= runs.symbols.keys():
                    rows[f"p_{name}"] = runs.value(value)
        case _:
            pass
    return rows
