"""Runs a program of the `dist` level: all ranks of the mesh in one process, collectives on real arrays.

Every value is one array per rank, before and after `localize`: a type with a `#dist.sharding` says what part of the
whole a rank holds, so that a sharding that is wrong computes something wrong.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, TypeVar

import numpy as np
from xdsl.dialects.builtin import ArrayAttr, ModuleOp
from xdsl.ir import Block, Operation, SSAValue
from xdsl.utils.hints import isa

from pmc.backends.numeric import collectives, shards
from pmc.backends.numeric.collectives import Movement, Ranked, run_collective
from pmc.backends.numeric.environment import Environment, evaluate_dims
from pmc.backends.numeric.errors import Array, NumericError
from pmc.backends.numeric.layer import NO_CACHE, LayerRun, ValueKey, the_program
from pmc.backends.numeric.precision import EXACT64, Precision
from pmc.backends.numeric.semantics import embedding
from pmc.backends.numeric.shards import Layout
from pmc.backends.numeric.tensor_ops import Context, attention_of, run_tensor_op, where
from pmc.dialects import dist, layer
from pmc.dialects.dist import (
    ARGUMENTS,
    CONTEXT,
    PIPELINE,
    RESULTS,
    SHARDING,
    Mesh,
    MeshAttr,
    Sharding,
    ShardingAttr,
    local_dim,
    uneven_lengths,
)
from pmc.dialects.expr import rank_symbol
from pmc.dialects.levels import MESH
from pmc.dialects.tensor import TensorType, tensor

MAX_RANKS = 4096
"""Ranks that a run simulates at most: all of them on this machine, one after the other."""


def mesh_of(module: ModuleOp) -> Mesh:
    """The mesh of a module at the dist level or below; raises NumericError where it has more than MAX_RANKS ranks."""
    attribute = module.attributes.get(MESH)
    if not isinstance(attribute, MeshAttr):
        raise NumericError(f"the module has no {MESH}, so its ranks are unknown")
    if attribute.data.ranks > MAX_RANKS:
        raise NumericError(
            f"{MESH} has {attribute.data.ranks} ranks, at most {MAX_RANKS} are run; `pmc check` shrinks a deployment"
        )
    return attribute.data


def layouts(module: ModuleOp) -> dict[ValueKey, Layout]:
    """The layout of every value of a module between annotate-shardings and localize."""
    found: dict[ValueKey, Layout] = {}
    for op in module.walk():
        if isinstance(op, layer.LayerOp):
            for index, result in enumerate(op.results):
                type_ = tensor(result)
                if isinstance(type_.encoding, ShardingAttr):
                    found[ValueKey(op.path.data, op.name, index)] = Layout(type_, type_.encoding.data)
    return found


def run_dist(
    module: ModuleOp,
    environment: Environment,
    precision: Precision = EXACT64,
    record: Mapping[ValueKey, Layout] | None = None,
) -> LayerRun:
    """Run the one program of `module` on all ranks; inputs and results are those of the whole model.

    `record` gives the layouts of the values to record, as whole tensors.  Errors (NumericError, one line) are those
    of `run_layer`, and ranks that disagree on a value of which both hold a copy.
    """
    return DistMachine(module, environment, precision, dict(record or {})).run()


@dataclass
class DistMachine:
    """The values of all ranks during one run."""

    module: ModuleOp
    environment: Environment
    precision: Precision
    record: dict[ValueKey, Layout]
    iteration: int | None = None
    values: dict[SSAValue, dict[int, Array]] = field(default_factory=dict[SSAValue, dict[int, Array]])
    states: dict[str, dict[int, Array]] = field(default_factory=dict[str, dict[int, Array]])
    state_shardings: dict[str, Sharding] = field(default_factory=dict[str, Sharding])
    cache_of: dict[SSAValue, str] = field(default_factory=dict[SSAValue, str])
    channels: dict[int, Ranked] = field(default_factory=dict[int, Ranked])
    recorded: dict[ValueKey, list[Array]] = field(default_factory=dict[ValueKey, list[Array]])
    shapes: dict[TensorType, tuple[int, ...]] = field(default_factory=dict[TensorType, tuple[int, ...]])

    def __post_init__(self) -> None:
        self.mesh = mesh_of(self.module)
        uneven = uneven_lengths(self.mesh, self.environment.bindings)
        if uneven is not None:
            raise NumericError(f"{where(the_program(self.module))}: {uneven}")
        self.ranks: list[int] = list(range(self.mesh.ranks))
        self.steps: dict[str, int] = {}
        self.contexts = self.contexts_of_ranks()

    def contexts_of_ranks(self) -> dict[int, Context]:
        """What the ops of each rank know: the symbols, the steps of the rings around, and its coordinates."""
        contexts: dict[int, Context] = {}
        for rank in range(self.mesh.ranks):
            own = {rank_symbol(name): place for name, place in self.mesh.coordinates(rank).items()}
            bindings = {**self.environment.bindings, **self.steps, **own}
            contexts[rank] = Context(bindings, self.precision, self.local_shape)
        return contexts

    # -- shapes -------------------------------------------------------------------------------------------------

    def local_shape(self, type_: TensorType, place: str) -> tuple[int, ...]:
        """The dims of a value on one rank: those of its type, divided where the type is that of the whole."""
        known = self.shapes.get(type_)
        if known is None:
            dims: Sequence[Any] = type_.dims
            if isinstance(type_.encoding, ShardingAttr):
                axes = type_.encoding.data.dims
                dims = [local_dim(d, a, self.mesh) for d, a in zip(type_.dims, axes, strict=True)]
            known = self.shapes[type_] = evaluate_dims(dims, self.environment.bindings, place)
        return known

    # -- running ------------------------------------------------------------------------------------------------

    def run(self) -> LayerRun:
        """Bind the tokens, run the body on all ranks, put the results together."""
        program = the_program(self.module)
        block = program.body.block
        attribute = program.attributes.get(ARGUMENTS)
        if len(block.args) != len(self.environment.inputs):
            raise NumericError(
                f"{where(program)}: the body takes {len(block.args)} values, there are {len(self.environment.inputs)}"
            )
        for index, (argument, tokens) in enumerate(zip(block.args, self.environment.inputs, strict=True)):
            encoding = tensor(argument).encoding
            sharding = encoding if isinstance(encoding, ShardingAttr) else None
            if isa(attribute, ArrayAttr[ShardingAttr]):
                sharding = attribute.data[index]
            if sharding is None:
                raise NumericError(f"{where(program)}: the tokens have no sharding")
            self.values[argument] = {
                rank: shards.cut_tokens(tokens, self.environment.bindings, sharding.data, self.mesh, rank)
                for rank in self.ranks
            }
        returned = self.run_block(block)
        if returned is None:
            raise NumericError(f"{where(program)}: the program does not return")
        outputs = tuple(self.returned(returned, index) for index in range(len(returned.values)))
        states = {path: self.whole_state(path) for path in self.states}
        return LayerRun(outputs, states, self.recorded)

    def run_block(self, block: Block) -> layer.ReturnOp | layer.YieldOp | None:
        """Run all ops of a block on the current ranks; gives its terminator, or that of its last stage."""
        end: layer.ReturnOp | layer.YieldOp | None = None
        for op in block.ops:
            match op:
                case layer.ReturnOp() | layer.YieldOp():
                    return op
                case dist.StageOp():
                    axis = self.mesh.axis(PIPELINE)
                    everyone = self.ranks
                    self.ranks = [r for r in everyone if axis.coordinate(r) == op.index.value.data]
                    end = self.run_block(op.body.block) or end
                    self.ranks = everyone
                case layer.RepeatOp():
                    self.repeat(op)
                case layer.SourceOp():
                    self.values[op.result] = self.source(op)
                case _:
                    self.run_op(op)
        return end

    def repeat(self, op: layer.RepeatOp) -> None:
        """Run the body once per stored layer, each on what the one before yielded."""
        carried = [self.values[v] for v in op.inits]
        outer = self.iteration
        for index in op.iterations(outer):
            if op.symbol is None:
                self.iteration = op.layer_after(outer, index)
            else:
                self.steps[op.symbol.data] = index
                self.contexts = self.contexts_of_ranks()
            self.values.update(zip(op.body.block.args, carried, strict=True))
            end = self.run_block(op.body.block)
            if end is None:
                raise NumericError(f"{where(op)}: the body does not yield")
            carried = [self.values[v] for v in end.values]
        self.iteration = outer
        self.values.update(zip(op.results, carried, strict=True))

    @property
    def place(self) -> tuple[int, ...]:
        """Where the current iteration stands in a stored array."""
        return () if self.iteration is None else (self.iteration,)

    def run_op(self, op: Operation) -> None:
        """Run one op: on every rank by itself, or across the ranks."""
        across = ACROSS_RANKS.get(type(op))
        if isinstance(op, dist.DistExchangeOp):
            self.keep_all(op, self.exchanged(op))
        elif across is not None:
            try:
                self.keep_all(op, across(op, self))
            except NumericError as error:
                raise NumericError(f"{where(op)}: {error}") from None
        else:
            self.values.update(zip(op.results, self.on_every_rank(op), strict=True))
        if isinstance(op, layer.StateUpdateOp):
            self.write_cache(op)
        if isinstance(op, layer.LayerOp):
            for index, result in enumerate(op.results):
                self.note(ValueKey(op.path.data, op.name, index), result)

    def exchanged(self, op: dist.DistExchangeOp) -> Sequence[Ranked]:
        """The results of a collective or transfer."""
        sources = [self.values[value] for value in op.operands]
        shapes = [self.local_shape(tensor(value), where(op)) for value in op.results]
        movement = Movement(op.exchange(), sources, shapes, self.mesh, self.ranks, self.channels)
        return run_collective(op.path.data, movement)

    def on_every_rank(self, op: Operation) -> list[dict[int, Array]]:
        """The results of an op that each rank runs by itself."""
        results: list[dict[int, Array]] = [{} for _ in op.results]
        for rank in self.ranks:
            operands = [self.values[v][rank] for v in op.operands]
            for ranked, values in zip(results, run_tensor_op(op, operands, self.contexts[rank]), strict=True):
                ranked[rank] = values
        return results

    def keep_all(self, op: Operation, results: Sequence[Ranked]) -> None:
        """Check and store the results of an op."""
        for result, ranked in zip(op.results, results, strict=True):
            self.keep(op, result, ranked)

    def keep(self, op: Operation, result: SSAValue, ranked: Ranked) -> None:
        """Check the shapes of a result and store it in its element type."""
        type_ = tensor(result)
        expected = self.local_shape(type_, where(op))
        for rank, values in ranked.items():
            if values.shape != expected:
                raise NumericError(
                    f"{where(op)}: rank {rank} holds {list(values.shape)}, the type says {list(expected)}"
                )
        self.values[result] = {r: self.precision.store(v, type_.element_type) for r, v in ranked.items()}

    def note(self, key: ValueKey, result: SSAValue) -> None:
        """Record a value as the whole tensor."""
        layout = self.record.get(key)
        if layout is not None:
            self.recorded.setdefault(key, []).append(self.put_together(self.values[result], layout, key.path))

    # -- shards of inputs and results ---------------------------------------------------------------------------

    def distribute(self, values: Array, sharding: Sharding) -> dict[int, Array]:
        """The shard of every current rank."""
        return {rank: shards.cut(values, sharding, self.mesh, rank) for rank in self.ranks}

    def put_together(self, ranked: Ranked, layout: Layout, place: str) -> Array:
        """The whole value of a layout; a stage holds it alone."""
        return shards.put_together(ranked, layout, self.mesh, self.environment.bindings, place)

    def source(self, op: layer.SourceOp) -> dict[int, Array]:
        """The shards of a weight or cache in the current iteration."""
        path = op.path.data
        encoding = op.attributes.get(SHARDING, tensor(op.result).encoding)
        if not isinstance(encoding, ShardingAttr):
            raise NumericError(f"{where(op)}: has no sharding")
        if isinstance(op, layer.WeightOp):
            arrays = self.environment.weights
            name = op.transpose_of.data if op.transpose_of else path
            if name not in arrays:
                raise NumericError(f"{where(op)}: no array for weight '{name}'")
            values = arrays[name].T if op.transpose_of else arrays[name][self.place]
            ranked = self.distribute(values, encoding.data)
        else:
            ranked = self.state(op, encoding.data)
            self.cache_of[op.result] = path
        expected = self.local_shape(tensor(op.result), where(op))
        for rank, values in ranked.items():
            if values.shape != expected:
                raise NumericError(f"{where(op)}: rank {rank} holds {list(values.shape)}, must be {list(expected)}")
        held = {r: self.precision.store(v, tensor(op.result).element_type) for r, v in ranked.items()}
        if isinstance(op, layer.StateOp):
            # In memory it is as its type holds it, even if the step changes nothing of it; later drafts add rows to it.
            for rank, values in held.items():
                self.states[path][rank][self.place][:, : values.shape[1]] = values
        return held

    def state(self, op: layer.SourceOp, sharding: Sharding) -> dict[int, Array]:
        """The shards of a cache; all layers of the current ranks are kept from the first use on."""
        path = op.path.data
        stacked = self.environment.states.get(path)
        if stacked is None:
            raise NumericError(f"{where(op)}: no array for state '{path}'")
        full = Sharding((*((),) * len(self.place), *sharding.dims))
        self.state_shardings[path] = full
        held = self.states.setdefault(path, {})
        missing = [rank for rank in self.ranks if rank not in held]
        if missing:
            values = np.array(stacked, self.precision.compute)
            held.update({rank: v.copy() for rank, v in self.distribute(values, full).items() if rank in missing})
        rows = self.local_shape(tensor(op.result), where(op))[1]
        # Copies: a value keeps its content when a later op writes to the cache.
        return {rank: held[rank][self.place][:, :rows].copy() for rank in self.ranks}

    def write_cache(self, op: layer.StateUpdateOp) -> None:
        """Keep the new content of the cache that `op` changes."""
        before, after = op.updated
        path = self.cache_of.get(before)
        if path is None:
            raise NumericError(f"{where(op)}: {NO_CACHE}")
        self.cache_of[after] = path
        for rank in self.ranks:
            cache = self.values[after][rank]
            self.states[path][rank][self.place][:, : cache.shape[1]] = cache

    def whole_state(self, path: str) -> Array:
        """A cache after the step."""
        before = np.array(self.environment.states[path], self.precision.compute)
        return shards.whole_state(before, self.states[path], self.state_shardings[path], self.mesh)

    def returned(self, op: layer.ReturnOp | layer.YieldOp, index: int) -> Array:
        """A result of the program as the whole tensor."""
        value = op.values[index]
        type_ = tensor(value)
        attribute = op.attributes.get(RESULTS)
        if isa(attribute, ArrayAttr[TensorType]):
            type_ = attribute.data[index]
        if not isinstance(type_.encoding, ShardingAttr):
            raise NumericError(f"{where(op)}: result {index} has no sharding")
        return self.put_together(self.values[value], Layout(type_, type_.encoding.data), where(op))


# -- ops across ranks -------------------------------------------------------------------------------------------

OpT = TypeVar("OpT", bound=Operation)
Across = Callable[[Any, DistMachine], Sequence[Ranked]]

ACROSS_RANKS: dict[type[Operation], Across] = {}
"""The semantics of every op in which ranks need each other, or their own coordinate."""


def across_ranks(kind: type[OpT]) -> Callable[[Callable[[OpT, DistMachine], tuple[Ranked, ...]]], Across]:
    """Register the decorated function as the semantics of `kind`."""

    def register(function: Callable[[OpT, DistMachine], tuple[Ranked, ...]]) -> Across:
        ACROSS_RANKS[kind] = function
        return function

    return register


@across_ranks(dist.ReshardOp)
def _reshard(op: dist.ReshardOp, run: DistMachine) -> tuple[Ranked, ...]:
    """Reduce what the target does not keep partial, make the rest whole, cut it again."""
    x, y = dist.sharding_of(tensor(op.x)), dist.sharding_of(tensor(op.y))
    steps = shards.dim_sizes(Layout(tensor(op.x), x), run.mesh, run.environment.bindings, where(op))
    values: Ranked = run.values[op.x]
    for name in x.partial:
        if name not in y.partial:
            values = collectives.all_reduce(values, run.mesh.axis(name))
    for dim, axes in enumerate(x.dims):
        for position in reversed(range(len(axes))):
            values = collectives.all_gather(values, run.mesh.axis(axes[position]), dim, steps[dim][position])
    # dp splits whole sequences, however many rows of each there are.
    rows = tensor(op.x).dims[0]
    unit = steps[0][0] // run.environment.bindings["batch"] if "batch" in rows.symbols else 1
    return ({rank: shards.cut(whole, y, run.mesh, rank, unit) for rank, whole in values.items()},)


@across_ranks(layer.AttentionOp)
def _attention(op: layer.AttentionOp, run: DistMachine) -> tuple[Ranked, ...]:
    """Queries attend to the keys of their rank; where cp splits these, to the keys of the group put together."""
    encoding = tensor(op.v).encoding
    if not isinstance(encoding, ShardingAttr) or CONTEXT not in encoding.data.dims[1]:
        return (run.on_every_rank(op)[0],)
    axis = run.mesh.axis(CONTEXT)
    whole: list[Ranked] = []
    for value in op.operands:
        ranked = run.values[value]
        if value is op.sinks:
            whole.append(ranked)
            continue
        dim = 0 if value in op.q else 1
        size = next(iter(ranked.values())).shape[dim] * axis.size
        whole.append(collectives.all_gather(ranked, axis, dim, size))
    y = {rank: attention_of(op, [values[rank] for values in whole], run.environment.bindings) for rank in run.ranks}
    return (collectives.local_slice(y, axis, 0),)


@across_ranks(layer.EmbeddingOp)
def _embedding(op: layer.EmbeddingOp, run: DistMachine) -> tuple[Ranked, ...]:
    encoding = tensor(op.table).encoding
    name = op.vocab_axis.data if op.vocab_axis is not None else None
    if isinstance(encoding, ShardingAttr) and encoding.data.dims[0]:
        name = encoding.data.dims[0][0]
    tokens, table = run.values[op.tokens], run.values[op.table]
    result: dict[int, Array] = {}
    for rank in run.ranks:
        shard = run.mesh.axis(name).coordinate(rank) if name else 0
        result[rank] = embedding(tokens[rank], table[rank], shard * table[rank].shape[0])
    return (result,)


@across_ranks(layer.DispatchOp)
def _dispatch(op: layer.DispatchOp, run: DistMachine) -> tuple[Ranked, ...]:
    experts, capacity, _ = run.local_shape(tensor(op.y), where(op))
    x, indices = run.values[op.x], run.values[op.indices]
    return (collectives.dispatch(x, indices, _expert_axis(op.y, run), experts, capacity),)


@across_ranks(layer.CombineOp)
def _combine(op: layer.CombineOp, run: DistMachine) -> tuple[Ranked, ...]:
    x, indices, weights = (run.values[v] for v in (op.y_experts, op.indices, op.weights))
    return (collectives.combine(x, indices, weights, _expert_axis(op.y_experts, run)),)


def _expert_axis(experts: SSAValue, run: DistMachine) -> dist.Axis | None:
    """The axis that splits the experts, by the sharding of their rows: until insert-collectives no op names it."""
    encoding = tensor(experts).encoding
    axes = encoding.data.dims[0] if isinstance(encoding, ShardingAttr) else ()
    return run.mesh.axis(axes[0]) if axes else None
