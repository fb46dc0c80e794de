"""Runs the programs of ranks, at the tile level or as commands, on the arrays of a whole model."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import replace
from math import prod
from typing import TypeVar

import numpy as np
from xdsl.dialects.builtin import ArrayAttr, ModuleOp
from xdsl.ir import Operation
from xdsl.utils.hints import isa

from pmc.backends.numeric import tile as tiles
from pmc.backends.numeric.dist import mesh_of
from pmc.backends.numeric.environment import Environment
from pmc.backends.numeric.errors import Array, NumericError
from pmc.backends.numeric.layer import LayerRun, ValueKey
from pmc.backends.numeric.shards import Layout, Placed, dim_sizes, local_arrays, put_together, whole_state
from pmc.backends.numeric.streams import HOST_KINDS, run_stream, stored_arrays
from pmc.dialects import dist, g5, tile
from pmc.dialects.arch import ChipAttr
from pmc.dialects.dist import PIPELINE, Mesh, ShardingAttr
from pmc.dialects.tensor import TensorType

OpT = TypeVar("OpT", bound=Operation)


def run_commands(module: ModuleOp, environment: Environment) -> LayerRun:
    """Run the one stream of `module` on all ranks; inputs and results are those of the whole model.

    Raises NumericError for whatever a command does wrong, see `streams.run_stream`.
    """
    stream, arrays, lmem_bytes, mesh = stream_inputs(module, environment)
    result = run_stream(stream, arrays, lmem_bytes, mesh)
    return _whole_run(stream, _placed_arrays(stream), result.outputs, result.states, environment, mesh)


def stream_inputs(module: ModuleOp, environment: Environment) -> tuple[g5.StreamOp, dict[str, Array], int, Mesh]:
    """What `streams.run_stream` takes: the stream, the inputs of all ranks, the LMEM of a core in bytes, the mesh."""
    stream, mesh = _only(module, g5.StreamOp), mesh_of(module)
    inputs = [array for array in _placed_arrays(stream) if array.kind in HOST_KINDS]
    return stream, local_arrays(inputs, environment, mesh), _lmem_bytes(module), mesh


def run_tiles(module: ModuleOp, environment: Environment, record: Mapping[ValueKey, Layout] | None = None) -> LayerRun:
    """Run the one tile program of `module` on all ranks, as `run_commands` does.

    `record` gives the layouts of the values to record, as whole tensors and by rank, where kernels write them.
    """
    program = _only(module, tile.ProgramOp)
    placed = _placed_arrays(program)
    mesh = mesh_of(module)
    inputs = local_arrays([array for array in placed if array.kind in HOST_KINDS], environment, mesh)
    result = tiles.run_tiles(program, inputs, mesh, record=bool(record))
    run = _whole_run(program, placed, result.outputs, result.states, environment, mesh)
    for key, layout in (record or {}).items():
        sizes = dim_sizes(layout, mesh, environment.bindings, key.path)
        local = tuple(steps[-1] for steps in sizes)
        for ranked in result.values.get(key, ()):
            if all(values.size == prod(local) for values in ranked.values()):
                whole = {rank: values.reshape(local) for rank, values in ranked.items()}
                run.values.setdefault(key, []).append(put_together(whole, layout, mesh, environment.bindings, key.path))
    return replace(run, ranked=result.values)


def _placed_arrays(program: tile.ProgramOp | g5.StreamOp) -> list[Placed]:
    """The arrays of a program, once where several stages have one."""
    return list(dict.fromkeys(_placed(op) for op in stored_arrays(program)))


def _placed(op: tile.GlobalOp | g5.ArrayOp) -> Placed:
    sharding = op.sharding.data if isinstance(op.sharding, ShardingAttr) else None
    return Placed(op.path.data, op.kind.data, op.all_dims, bool(op.layers), sharding)


def _only(module: ModuleOp, kind: type[OpT]) -> OpT:
    """The one op of a kind at the top of the module."""
    found = [op for op in module.ops if isinstance(op, kind)]
    if len(found) != 1:
        raise NumericError(f"the module holds {len(found)} {kind.name} ops, must be one")
    return found[0]


def _lmem_bytes(module: ModuleOp) -> int:
    chip = module.attributes.get("arch.chip")
    if not isinstance(chip, ChipAttr):
        raise NumericError("the module has no arch.chip, so the LMEM of its cores is unknown")
    return chip.data.commands.lmem.bytes_per_core


def _whole_run(
    program: Operation,
    placed: Iterable[Placed],
    outputs: Mapping[str, Array],
    states: Mapping[str, Array],
    environment: Environment,
    mesh: Mesh,
) -> LayerRun:
    """The results of all ranks as those of the whole model."""
    whole_states = {
        array.path: whole_state(
            environment.states[array.path], dict(enumerate(states[array.path])), array.full_sharding(), mesh
        )
        for array in placed
        if array.kind == "state"
    }
    types = program.attributes.get(dist.RESULTS)
    if not isa(types, ArrayAttr[TensorType]):
        raise NumericError(f"the program has no {dist.RESULTS}, which say what part of the results a rank holds")
    axis = mesh.axis(PIPELINE)
    last = [rank for rank in range(mesh.ranks) if axis.coordinate(rank) == axis.size - 1]
    whole: list[Array] = []
    for type_, (path, values) in zip(types.data, outputs.items(), strict=True):
        layout = Layout(type_, dist.sharding_of(type_))
        ranked = {rank: np.asarray(values[rank]) for rank in last}
        whole.append(put_together(ranked, layout, mesh, environment.bindings, path))
    return LayerRun(tuple(whole), whole_states, {})
