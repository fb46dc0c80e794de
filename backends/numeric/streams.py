"""Runs whole `g5` streams: programs on the cores, movements of the chip, and transfers between the ranks.

All ranks run one stream in step, as the program is the same for each of them.  Ranks of one pipeline stage share a
`Dram`, which holds the arrays of the stream and of that stage; the stage of a rank is its coordinate on the mesh axis
`pp`.  Outside, an array has all layers of the model on every rank, of which a stage takes those that it stores.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field

import numpy as np
from xdsl.ir import Block

from pmc.backends.numeric.collectives import Movement, Ranked, run_collective
from pmc.backends.numeric.command_memory import Dram, compute_type, decode, encode, storage_type
from pmc.backends.numeric.commands import ProgramRun
from pmc.backends.numeric.errors import Array, NumericError, require_finite
from pmc.backends.numeric.layer import ValueKey
from pmc.dialects import g5, tile
from pmc.dialects.dist import PIPELINE, Mesh

SINGLE = Mesh(1, ())
"""The mesh of one rank."""

HOST_KINDS = ("weight", "state", "input")
RESULT_KINDS = ("state", "output")


@dataclass
class StreamResult:
    """What a step leaves behind: arrays by path, [ranks, *dims] in float64 or int64, and the commands that ran.

    Of a cache, layers that a rank does not store are as they were given; an output is 0 where a stage does not make it.
    """

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
    channels: dict[int, Ranked] = field(default_factory=dict[int, Ranked])


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
    held = [op for op in stored_arrays(stream) if isinstance(op, g5.ArrayOp)]
    stages = _stages(stream, held, mesh, lmem_bytes, check_order)
    for op in held:
        if op.kind.data in HOST_KINDS:
            values = host_array(op, arrays, mesh)
            for stage in _holders(op, stages):
                stage.dram.write(op.address.value.data, values[stage.ranks])
    stepping = _Stepping(mesh)
    _steps(stream.body.block, {}, list(stages.values()), stages, stepping)
    for stage in stages.values():
        stage.run.require_barrier(f"the end of g5.stream '{stream.sym_name.data}'")
    results: dict[str, dict[str, Array]] = {"output": {}, "state": {}}
    for op in held:
        if op.kind.data in RESULT_KINDS:
            dtype = storage_type(op.type.element_type)
            steps = tuple(s * dtype.itemsize for s in op.type.steps)
            for stage in _holders(op, stages):
                values = stage.dram.view(op.address.value.data, op.type.dims, steps, dtype)
                collect(results[op.kind.data], op, values, stage.ranks, arrays, mesh)
    commands = sum(stage.run.commands for stage in stages.values())
    return StreamResult(results["output"], results["state"], commands)


def stored_arrays(program: tile.ProgramOp | g5.StreamOp) -> list[tile.GlobalOp | g5.ArrayOp]:
    """The arrays of a program, and of its stages in order."""
    return [op for op in program.body.block.walk() if isinstance(op, tile.GlobalOp | g5.ArrayOp)]


def _stage_of(op: g5.ArrayOp) -> int | None:
    """The stage that has the array, None for all of them."""
    parent = op.parent_op()
    return parent.index.value.data if isinstance(parent, g5.StageOp) else None


def _holders(op: g5.ArrayOp, stages: Mapping[int, _Stage]) -> list[_Stage]:
    """The stages that have the array in their DRAM."""
    index = _stage_of(op)
    return list(stages.values()) if index is None else [stages[index]]


def _stages(
    stream: g5.StreamOp, held: Sequence[g5.ArrayOp], mesh: Mesh, lmem_bytes: int, check_order: bool
) -> dict[int, _Stage]:
    indices = [op.index.value.data for op in stream.body.block.ops if isinstance(op, g5.StageOp)] or [0]
    stages: dict[int, _Stage] = {}
    for index in sorted(set(indices)):
        ranks = [r for r in range(mesh.ranks) if len(indices) == 1 or mesh.axis(PIPELINE).coordinate(r) == index]
        ends = (op.address.value.data + op.type.bytes for op in held if _stage_of(op) in (None, index))
        dram = Dram(len(ranks), max(ends, default=0))
        coordinates = {axis.name: [axis.coordinate(r) for r in ranks] for axis in mesh.axes}
        stages[index] = _Stage(ranks, dram, ProgramRun(dram, lmem_bytes, coordinates, check_order))
    return stages


def host_array(op: tile.GlobalOp | g5.ArrayOp, arrays: Mapping[str, Array], mesh: Mesh) -> Array:
    """What ranks store of the array of a path, [ranks, *dims].

    Raises NumericError unless the array is there, with all layers and finite.
    """
    kind, path = op.kind.data, op.path.data
    shape = (mesh.ranks, *op.all_dims)
    values = arrays.get(path)
    if values is None:
        raise NumericError(f"no array for {kind} '{path}', must be {list(shape)}")
    if values.shape != shape:
        raise NumericError(f"{kind} '{path}' is {list(values.shape)}, must be {list(shape)}")
    require_finite(values, f"{kind} '{path}'")
    return encode(values[:, op.held], op.memref.element_type)


def collect(
    found: dict[str, Array],
    op: tile.GlobalOp | g5.ArrayOp,
    stored: Array,
    ranks: Sequence[int],
    arrays: Mapping[str, Array],
    mesh: Mesh,
) -> None:
    """Put what `ranks` have `stored` of an array, [their number, *dims], into what is `found` of its path."""
    values, path = decode(stored, np.float64), op.path.data
    if path not in found:
        given = arrays[path] if op.kind.data == "state" else np.zeros((mesh.ranks, *op.all_dims))
        found[path] = given.astype(values.dtype)
    found[path][ranks, op.held] = values


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
                for layer in op.iterations(symbols.get(tile.PERIOD)):
                    _steps(op.body.block, {**symbols, op.symbol.data: layer}, running, stages, stepping)
                for stage in running:
                    stage.run.release(op.handed_over.takes)
            case g5.ChipCommandOp():
                for stage in running:
                    stage.run.require_barrier(f"{op.name} at '{op.path.data}'")
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
                f"{op.ENGINE} command at '{op.path.data}': input {number} of {op.collective.name} was not written"
            )
    targets = [view(a) for a in op.outs.data]
    shapes = [t.shape[1:] for t in targets]
    operands = [dict(zip(stage.ranks, decode(s, compute_type([s.dtype])), strict=True)) for s in sources]
    movement = Movement(op.exchange(), operands, shapes, stepping.mesh, stage.ranks, stepping.channels)
    results = run_collective(op.path.data, movement)
    for array, target, values in zip(op.outs.data, targets, results, strict=True):
        for position, rank in enumerate(stage.ranks):
            if values[rank].shape != target.shape[1:]:
                raise NumericError(
                    f"{op.ENGINE} command at '{op.path.data}': {op.collective.name} gives {list(values[rank].shape)} "
                    f"for {list(target.shape[1:])}"
                )
            target[position] = encode(values[rank], array.element_type)
        owners(array)[...] = Dram.SETTLED
