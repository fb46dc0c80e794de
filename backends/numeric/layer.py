"""Runs a program of the `layer` dialect on an environment."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import NamedTuple

import numpy as np
from xdsl.dialects.builtin import ModuleOp
from xdsl.ir import Block, Operation, SSAValue

from pmc.backends.numeric.environment import Environment, Source, evaluate_dims, seeded_environment
from pmc.backends.numeric.errors import Array, NumericError
from pmc.backends.numeric.precision import EXACT64, Precision
from pmc.backends.numeric.tensor_ops import Context, run_tensor_op, stored, where
from pmc.dialects import layer
from pmc.dialects.analyses.stored_arrays import stored_arrays
from pmc.dialects.tensor import tensor

NO_CACHE = "the cache operand is not a layer.state or the result of a kv_append"
"""What is wrong with an op that changes something else."""


class ValueKey(NamedTuple):
    """Which value of a program: the same op keeps its key across passes."""

    path: str
    op: str
    result: int


@dataclass(frozen=True)
class LayerRun:
    """What a program computed."""

    outputs: tuple[Array, ...]
    """The returned values: logits [batch, vocabulary]."""
    states: dict[str, Array]
    """Every cache after the step, by path, with its leading layer dim."""
    values: dict[ValueKey, list[Array]]
    """If recorded: every result in the order of execution, one array per execution of an op with that key."""
    ranked: Mapping[ValueKey, Sequence[Mapping[int, Array]]] = field(
        default_factory=dict[ValueKey, Sequence[Mapping[int, Array]]]
    )
    """If recorded below the dist level: the same by rank, as kernels store them."""


def the_program(module: ModuleOp) -> layer.ProgramOp:
    """The one program of a module."""
    programs = [op for op in module.ops if isinstance(op, layer.ProgramOp)]
    if len(programs) != 1:
        raise NumericError(f"the module holds {len(programs)} layer.program ops, must be one")
    return programs[0]


def layer_sources(program: layer.ProgramOp, bindings: Mapping[str, int]) -> list[Source]:
    """All weights and caches of a program of whole tensors.  Raises PmcError where one path is used in two shapes."""
    return [
        Source(
            array.path,
            array.kind,
            (*array.layer_counts, *evaluate_dims(array.type.dims, bindings, where(array.op))),
            array.axes,
            array.role,
            array.below,
        )
        for array in stored_arrays(program).values()
    ]


def seeded_layer_environment(module: ModuleOp, bindings: dict[str, int], seed: int) -> Environment:
    """Deterministic inputs for the program of `module`; the vocabulary is that of its embedding."""
    program = the_program(module)
    for op in program.walk():
        if isinstance(op, layer.EmbeddingOp):
            vocabulary = evaluate_dims(tensor(op.table).dims, bindings, where(op))[0]
            drafts = len(program.body.block.args) - 1
            return seeded_environment(layer_sources(program, bindings), vocabulary, bindings, seed, drafts)
    raise NumericError(f"{where(program)}: no layer.embedding, so the range of token ids is unknown")


def run_layer(
    module: ModuleOp, environment: Environment, precision: Precision = EXACT64, record: bool = False
) -> LayerRun:
    """Run the one program of `module`.

    Errors (NumericError, one line): an input that is missing, of the wrong shape or not finite; an op without
    semantics; a result whose shape is not that of its type.
    """
    program = the_program(module)
    environment.check(layer_sources(program, dict(environment.bindings)))
    return LayerMachine(environment, precision, record).run(program)


@dataclass
class LayerMachine:
    """The values of one run."""

    environment: Environment
    precision: Precision
    record: bool
    iteration: int | None = None
    """The stored layer that each repeat around the current op is at, outermost first."""
    values: dict[SSAValue, Array] = field(default_factory=dict[SSAValue, Array])
    cache_of: dict[SSAValue, str] = field(default_factory=dict[SSAValue, str])
    """The path of the cache that a value is the content of."""
    states: dict[str, Array] = field(default_factory=dict[str, Array])
    recorded: dict[ValueKey, list[Array]] = field(default_factory=dict[ValueKey, list[Array]])

    def __post_init__(self) -> None:
        self.context = Context(self.environment.bindings, self.precision)
        self.states = {
            path: np.array(values, self.precision.compute) for path, values in self.environment.states.items()
        }

    def run(self, program: layer.ProgramOp) -> LayerRun:
        """Bind the tokens and run the body."""
        block, inputs = program.body.block, self.environment.inputs
        if len(block.args) != len(inputs):
            raise NumericError(
                f"{where(program)}: the body takes {len(block.args)} values, must be the token ids: "
                f"one array, and one for every application of a draft layer, of which there are {len(inputs) - 1}"
            )
        for argument, tokens in zip(block.args, inputs, strict=True):
            shape = evaluate_dims(tensor(argument).dims, self.environment.bindings, where(program))
            if tokens.shape != shape:
                raise NumericError(f"{where(program)}: tokens are {list(tokens.shape)}, must be {list(shape)}")
        return LayerRun(self.run_block(block, inputs), self.states, self.recorded)

    def run_block(self, block: Block, arguments: tuple[Array, ...]) -> tuple[Array, ...]:
        """Run all ops of a block; gives the values of its terminator."""
        self.values.update(zip(block.args, arguments, strict=True))
        for op in block.ops:
            operands = [self.values[v] for v in op.operands]
            if isinstance(op, layer.ReturnOp | layer.YieldOp):
                return tuple(operands)
            if isinstance(op, layer.SourceOp):
                results: tuple[Array, ...] = (self.source(op),)
            elif isinstance(op, layer.RepeatOp):
                results = self.repeat(op, tuple(operands))
            else:
                results = self.run_op(op, operands)
            if isinstance(op, layer.StateUpdateOp):
                self.write_cache(op, results[op.results.index(op.updated[1])])
            self.values.update(zip(op.results, results, strict=True))
            if self.record and isinstance(op, layer.LayerOp):
                for index, values in enumerate(results):
                    self.recorded.setdefault(ValueKey(op.path.data, op.name, index), []).append(values)
        raise NumericError("a block without layer.return or layer.yield has no results")

    def run_op(self, op: Operation, operands: list[Array]) -> tuple[Array, ...]:
        """The results of one tensor op."""
        return run_tensor_op(op, operands, self.context)

    def repeat(self, op: layer.RepeatOp, carried: tuple[Array, ...]) -> tuple[Array, ...]:
        """Run the body once per stored layer, each on what the one before yielded."""
        outer = self.iteration
        for index in op.iterations(outer):
            self.iteration = op.layer_after(outer, index)
            carried = self.run_block(op.body.block, carried)
        self.iteration = outer
        return carried

    @property
    def place(self) -> tuple[int, ...]:
        """Where the current iteration stands in a stored array."""
        return () if self.iteration is None else (self.iteration,)

    def source(self, op: layer.SourceOp) -> Array:
        """The array of a weight or cache in the current iteration, as its storage type holds it."""
        path = op.path.data
        weights = self.environment.weights
        if isinstance(op, layer.WeightOp):
            values = weights[op.transpose_of.data].T if op.transpose_of else weights[path][self.place]
            return stored(op, 0, values, self.context)
        self.cache_of[op.result] = path
        # A copy: a value keeps its content when a later op writes to the cache.
        rows = evaluate_dims(tensor(op.result).dims[1:2], self.environment.bindings, where(op))[0]
        return stored(op, 0, self.states[path][self.place][:, :rows].copy(), self.context)

    def write_cache(self, op: layer.StateUpdateOp, cache: Array) -> None:
        """Keep the new content of the cache that `op` changes."""
        before, after = op.updated
        path = self.cache_of.get(before)
        if path is None:
            raise NumericError(f"{where(op)}: {NO_CACHE}")
        self.cache_of[after] = path
        self.states[path][self.place][:, : cache.shape[1]] = cache
