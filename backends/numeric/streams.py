"""Runs whole `g5` streams: programs on the cores, movements of the chip, and transfers between the ranks.

All ranks run one stream in step, as the program is the same for each of them.  Ranks of one pipeline stage share a
`Dram`; with stages the stage of a rank is its coordinate on the mesh axis `pp`.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field

import numpy as np
from xdsl.ir import Block

from ...dialects import g5
from ...dialects.dist import Mesh
from ...dialects.tile import MemRefType
from .chip_commands import PIPELINE, Exchange
from .command_memory import Dram, compute_type, decode, encode, storage_type
from .commands import ProgramRun
from .errors import Array, NumericError, require_finite
from .layer import ValueKey

SINGLE = Mesh(1, ())
"""The mesh of one rank."""

HOST_KINDS = ("weight", "state", "input")
RESULT_KINDS = ("state", "output")


@dataclass
class StreamResult:
    """What a step leaves behind: arrays by path, [ranks, *dims] in float64 or int64, and the commands that ran."""

    outputs: dict[str, Array]
    states: dict[str, Array]
    commands: int
    values: dict[ValueKey, list[dict[int, Array]]] = field(default_factory=dict[ValueKey, list[dict[int, Array]]])
    """If recorded: what each kernel wrote, execution by execution, by rank."""


@dataclass
class _Stage:
    """The ranks that run the same ops, in rank order."""

    ranks: list[int]
    dram: Dram
    run: ProgramRun


@dataclass
class _Stepping:
    mesh: Mesh
    channels: dict[int, dict[int, Array]] = field(default_factory=dict[int, dict[int, Array]])


def run_stream(
    stream: g5.StreamOp,
    arrays: Mapping[str, Array],
    lmem_bytes: int,
    mesh: Mesh = SINGLE,
    check_order: bool = True,
) -> StreamResult:
    """Run one step on local arrays by path: weights, states and inputs as [ranks, *dims], in any numeric type.

    `lmem_bytes` is the LMEM of one core.  Raises NumericError for missing, misshapen or non-finite arrays and for
    whatever a command does wrong.
    """
    held = [op for op in stream.body.block.walk() if isinstance(op, g5.ArrayOp)]
    size = max((op.address.value.data + op.type.bytes for op in held), default=0)
    stages = _stages(stream, mesh, size, lmem_bytes, check_order)
    for op in held:
        if op.kind.data in HOST_KINDS:
            _place(op, arrays, mesh, stages)
    stepping = _Stepping(mesh)
    _steps(stream.body.block, {}, list(stages.values()), stages, stepping)
    results: dict[str, dict[str, Array]] = {"output": {}, "state": {}}
    for op in held:
        if op.kind.data in RESULT_KINDS:
            results[op.kind.data][op.path.data] = _collect(op, mesh, stages)
    commands = sum(stage.run.commands for stage in stages.values())
    return StreamResult(results["output"], results["state"], commands)


def _stages(stream: g5.StreamOp, mesh: Mesh, size: int, lmem_bytes: int, check_order: bool) -> dict[int, _Stage]:
    indices = [op.index.value.data for op in stream.body.block.ops if isinstance(op, g5.StageOp)] or [0]
    stages: dict[int, _Stage] = {}
    for index in sorted(set(indices)):
        ranks = [r for r in range(mesh.ranks) if len(indices) == 1 or mesh.axis(PIPELINE).coordinate(r) == index]
        dram = Dram(len(ranks), size)
        coordinates = {axis.name: [axis.coordinate(r) for r in ranks] for axis in mesh.axes}
        stages[index] = _Stage(ranks, dram, ProgramRun(dram, lmem_bytes, coordinates, check_order))
    return stages


def _place(op: g5.ArrayOp, arrays: Mapping[str, Array], mesh: Mesh, stages: Mapping[int, _Stage]) -> None:
    values = host_array(op.path.data, op.kind.data, op.type, arrays, mesh)
    for stage in stages.values():
        stage.dram.write(op.address.value.data, values[stage.ranks])


def host_array(path: str, kind: str, type_: MemRefType, arrays: Mapping[str, Array], mesh: Mesh) -> Array:
    """The array of a path as it is stored, [ranks, *dims]; NumericError unless it is there, of its shape and finite."""
    shape = (mesh.ranks, *type_.dims)
    values = arrays.get(path)
    if values is None:
        raise NumericError(f"no array for {kind} '{path}', must be {list(shape)}")
    if values.shape != shape:
        raise NumericError(f"{kind} '{path}' is {list(values.shape)}, must be {list(shape)}")
    require_finite(values, f"{kind} '{path}'")
    return encode(values, type_.element_type)


def _collect(op: g5.ArrayOp, mesh: Mesh, stages: Mapping[int, _Stage]) -> Array:
    """The array of every rank.  A stage that does not produce an output holds poison there: only the last is read."""
    dtype = storage_type(op.type.element_type)
    dims, start = op.type.dims, op.address.value.data
    steps = tuple(s * dtype.itemsize for s in op.type.steps)
    out: Array | None = None
    for stage in stages.values():
        values = decode(stage.dram.view(start, dims, steps, dtype), np.float64)
        if out is None:
            out = np.zeros((mesh.ranks, *dims), values.dtype)
        out[stage.ranks] = values
    assert out is not None
    return out


def _steps(
    block: Block,
    symbols: Mapping[str, int],
    running: list[_Stage],
    stages: Mapping[int, _Stage],
    stepping: _Stepping,
) -> None:
    """Run the ops of a body on the ranks of `running`."""
    for op in block.ops:
        match op:
            case g5.ProgramOp():
                for stage in running:
                    stage.run.run(op, symbols)
            case g5.StageOp():
                _steps(op.body.block, symbols, [stages[op.index.value.data]], stages, stepping)
            case g5.RepeatOp():
                for layer in range(op.first.value.data, op.first.value.data + op.count.value.data):
                    _steps(op.body.block, {**symbols, op.symbol.data: layer}, running, stages, stepping)
            case g5.ChipCommandOp():
                for stage in running:
                    _chip_command(op, symbols, stage, stepping)
            case g5.ArrayOp():
                pass
            case _:
                raise NumericError(f"{op.name} has no numeric semantics in a stream")


def _chip_command(op: g5.ChipCommandOp, symbols: Mapping[str, int], stage: _Stage, stepping: _Stepping) -> None:
    def view(array: g5.DramAttr) -> Array:
        dtype = storage_type(array.element_type)
        start, dims = int(array.address.data.evaluate(symbols)), array.dims
        steps = tuple(s * dtype.itemsize for s in array.steps)
        reach = start + sum((n - 1) * s for n, s in zip(dims, steps, strict=True)) + dtype.itemsize
        if start < 0 or reach > stage.dram.size or start % dtype.itemsize:
            raise NumericError(
                f"{op.ENGINE} command at '{op.path.data}': DRAM {start}..{reach - 1} must be aligned to "
                f"{dtype.itemsize} and inside 0..{stage.dram.size - 1}"
            )
        return stage.dram.view(start, dims, steps, dtype)

    def owners(array: g5.DramAttr) -> Array:
        dtype = storage_type(array.element_type)
        start = int(array.address.data.evaluate(symbols))
        return stage.dram.owners(start, 0, 1, array.dims, tuple(s * dtype.itemsize for s in array.steps))

    sources = [view(a) for a in op.ins.data]
    for number, array in enumerate(op.ins.data):
        if (owners(array) != Dram.SETTLED).any():
            raise NumericError(
                f"{op.ENGINE} command at '{op.path.data}': input {number} of {op.kind.data} was not written"
            )
    targets = [view(a) for a in op.outs.data]
    context = Exchange(op.kind.data, op.params.data, op.path.data, stepping.mesh, stage.ranks, stepping.channels)
    shapes = [t.shape[1:] for t in targets]
    operands = [dict(zip(stage.ranks, decode(s, compute_type([s.dtype])), strict=True)) for s in sources]
    for array, target, values in zip(op.outs.data, targets, context.run(operands, shapes), strict=True):
        for position, rank in enumerate(stage.ranks):
            if values[rank].shape != target.shape[1:]:
                raise NumericError(
                    f"{op.ENGINE} command at '{op.path.data}': {op.kind.data} gives {list(values[rank].shape)} "
                    f"for {list(target.shape[1:])}"
                )
            target[position] = encode(values[rank], array.element_type)
        owners(array)[...] = Dram.SETTLED
