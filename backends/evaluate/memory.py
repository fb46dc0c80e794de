"""The DRAM of one rank, per pipeline stage: weights, caches, activations and buffers of the program in a module."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, replace

import numpy as np
import numpy.typing as npt
from xdsl.dialects.builtin import ModuleOp
from xdsl.ir import Block

from pmc.backends.cost.model import Bindings, Target
from pmc.backends.evaluate.engine import program_of, symbol_values
from pmc.backends.evaluate.footprint import MemoryFootprint, MemoryOptions, StageFootprint, StoredRow
from pmc.backends.evaluate.liveness import LivePoints, live_points
from pmc.dialects import dist, layer
from pmc.dialects.analyses.stored_arrays import StoredArray, stored_arrays
from pmc.dialects.errors import PmcError
from pmc.dialects.expr import Expr, UnboundSymbolError, ceildiv
from pmc.dialects.interfaces import IntArray
from pmc.dialects.tensor import TensorType, element_name

BATCH = "batch"

WIDE_SEARCH = 64
"""Points that the search of the largest batch evaluates at once."""

MOST_SEQUENCES = 2**31
"""The search of the largest batch ends here, for footprints that stop growing with the batch."""


def memory_footprint(
    module: ModuleOp, options: MemoryOptions, bindings: Mapping[str, int] | None = None
) -> MemoryFootprint:
    """The DRAM of one rank per pipeline stage for the program in `module`, and whether it fits the chip.

    `module` holds one `layer.program` of one rank's shapes (after localize, with or without stages; or never sharded)
    and the attribute `arch.chip`.  Symbols take the values of `bindings`, else of the attribute `arch.deployment`.
    Expert buffers are as large as the capacity that the program was expanded with, balanced or worst.
    Raises PmcError for another module, or a symbol without a value.
    """
    plan = FootprintPlan.of(module, options)
    values = symbol_values(module, bindings or {})
    chip = Target.of(module).chip
    try:
        stages = tuple(stage.at(values, options, chip.dram_bytes) for stage in plan.stages)
        largest = plan.largest_batch(values, chip.dram_bytes)
    except UnboundSymbolError as error:
        raise PmcError(f"memory of program '{plan.program}': {error}") from None
    target = Target.of(module)
    return MemoryFootprint(
        program=plan.program,
        phase=plan.phase,
        chip=chip.name,
        ranks=target.mesh.ranks if target.mesh is not None else 1,
        bindings=values,
        options=options,
        capacity_bytes=chip.dram_bytes,
        stages=stages,
        largest_batch=largest,
    )


# -- the footprint as expressions -------------------------------------------------------------------------------


@dataclass(frozen=True)
class StagePlan:
    """The DRAM of a stage as expressions of the symbols."""

    stage: int
    weights: tuple[StoredArray, ...]
    states: tuple[StoredArray, ...]
    """Caches; their types count whole blocks of tokens."""
    shapes: tuple[str, ...]
    """The dims of the caches as the program has them."""
    live: LivePoints
    communication: tuple[tuple[str, Expr], ...]

    def total(self, bindings: Bindings, options: MemoryOptions, capacity_bytes: int) -> IntArray:
        """All parts together, at one point or at every point of arrays."""
        part = micro_batch(bindings, options)
        stored = sum((np.asarray(t.bytes.evaluate(bindings)) for t in (*self.weights, *self.states)), np.asarray(0))
        buffers = max_of_all([np.asarray(size.evaluate(part)) for _, size in self.communication])
        activations = self.live.bytes_at(part).max(axis=0)
        return np.asarray(stored + activations + buffers + options.reserve_of(capacity_bytes))

    def at(self, bindings: Mapping[str, int], options: MemoryOptions, capacity_bytes: int) -> StageFootprint:
        """The footprint at one point."""
        part = micro_batch(bindings, options)
        live = self.live.bytes_at(part)
        peak = int(np.argmax(live))
        buffers = [int(size.evaluate(part)) for _, size in self.communication]
        largest = int(np.argmax(buffers)) if buffers else None
        return StageFootprint(
            stage=self.stage,
            weights=tuple(_stored_row(t, bindings, dims_text(t.type)) for t in self.weights),
            states=tuple(_stored_row(t, bindings, s) for t, s in zip(self.states, self.shapes, strict=True)),
            activation_bytes=int(live[peak]),
            activation_path=self.live.points[peak].path if self.live.points else "",
            communication_bytes=buffers[largest] if largest is not None else 0,
            communication_path=self.communication[largest][0] if largest is not None else "",
            reserve_bytes=options.reserve_of(capacity_bytes),
        )

    @property
    def symbols(self) -> frozenset[str]:
        """The symbols that the footprint depends on."""
        sizes = [*(t.bytes for t in self.states), *self.live.sizes, *(size for _, size in self.communication)]
        return frozenset(name for size in sizes for name in size.symbols)


@dataclass(frozen=True)
class FootprintPlan:
    """The DRAM of every stage as expressions, evaluated as often as a search asks."""

    program: str
    phase: str
    options: MemoryOptions
    stages: tuple[StagePlan, ...]

    @classmethod
    def of(cls, module: ModuleOp, options: MemoryOptions) -> FootprintPlan:
        """The plan of the program in a module.  Raises PmcError unless it has the shapes of one rank."""
        program = program_of(module)
        if not isinstance(program, layer.ProgramOp):
            raise PmcError(f"memory of program '{program.sym_name.data}': expected the layer or dist level, found tile")
        _require_local(program)
        block = program.body.block
        staged = [op for op in block.ops if isinstance(op, dist.StageOp)]
        scopes = [(op.index.value.data, op) for op in staged] or [(0, program)]
        stages = tuple(_stage_plan(index, scope, block, options) for index, scope in scopes)
        return cls(program.sym_name.data, program.phase.data, options, stages)

    def needs(self, bindings: Bindings, capacity_bytes: int) -> IntArray:
        """Bytes of the fullest stage, at one point or at every point of arrays."""
        return max_of_all([stage.total(bindings, self.options, capacity_bytes) for stage in self.stages])

    def largest_batch(self, bindings: Mapping[str, int], capacity_bytes: int) -> int | None:
        """The largest batch that fits with all else as in `bindings`; 0 where none does, None without the symbol.

        The need never shrinks with the batch: doubling finds a batch that is too large, narrowing the interval by
        `WIDE_SEARCH` at once finds the last that is not.
        """
        if not any(BATCH in stage.symbols for stage in self.stages):
            return None

        def fits(batches: IntArray) -> npt.NDArray[np.bool_]:
            return self.needs({**bindings, BATCH: batches}, capacity_bytes) <= capacity_bytes

        low, high = 0, 1  # the largest known to fit, the smallest known not to
        while fits(np.asarray(high)).all():
            low, high = high, 2 * high
            if low >= MOST_SEQUENCES:
                return low
        while high - low > 1:
            tried = np.unique(np.linspace(low, high, WIDE_SEARCH + 2).astype(np.int64)[1:-1])
            tried = tried[(tried > low) & (tried < high)]
            good = fits(tried)
            low = max(low, int(tried[good].max(initial=0)))
            high = min(high, int(tried[~good].min(initial=high)))
        return low


def communication_sizes(block: Block) -> Iterator[tuple[str, Expr]]:
    """Path and bytes of the buffers of every transfer between ranks in a block and its repeats.

    A transfer sends from and receives into memory that the network registered, apart from the tensors of the program:
    as large as its operands' data and its result together.  One transfer is in flight at a time, so that the largest
    decides.  A group of one rank was never made a collective, and a local slice sends nothing.
    """
    for op in block.walk():
        if isinstance(op, dist.DistExchangeOp) and (exchange := op.exchange()).collective.leaves_chip:
            yield op.path.data, exchange.buffer_bytes


def micro_batch(bindings: Bindings, options: MemoryOptions) -> Bindings:
    """The bindings of one micro-batch: the batch in parts, rounded up."""
    if BATCH not in bindings:
        return bindings
    return {**bindings, BATCH: -(-bindings[BATCH] // options.micro_batches)}


def max_of_all(values: Sequence[IntArray]) -> IntArray:
    """The element-wise maximum of arrays that broadcast, 0 for none."""
    return np.asarray(np.max(np.stack(np.broadcast_arrays(*values)), axis=0) if values else 0)


def dims_text(type_: TensorType) -> str:
    """`7168 x 1536`."""
    return " x ".join(str(d) for d in type_.dims)


def _stored_row(stored: StoredArray, bindings: Mapping[str, int], shape: str) -> StoredRow:
    kind = stored.kind if stored.kind == "weight" else stored.role or "other"
    size = int(stored.bytes.evaluate(bindings))
    return StoredRow(stored.path, kind, element_name(stored.type.element_type), shape, stored.copies, size)


def _require_local(program: layer.ProgramOp) -> None:
    for op in program.walk():
        for value in op.results:
            if isinstance(value.type, TensorType) and isinstance(value.type.encoding, dist.ShardingAttr):
                raise PmcError(
                    f"memory of program '{program.sym_name.data}': the types are those of whole tensors; "
                    "run localize first"
                )


def _stage_plan(index: int, scope: layer.ProgramOp | dist.StageOp, outer: Block, options: MemoryOptions) -> StagePlan:
    stored = stored_arrays(scope).values()
    weights, states = (tuple(a for a in stored if a.kind == kind) for kind in ("weight", "state"))
    paged = tuple(_paged(state, options.kv_block_tokens) for state in states)
    block = scope.body.block
    live = live_points(block, outer.args)
    return StagePlan(
        index, weights, paged, tuple(dims_text(s.type) for s in states), live, tuple(communication_sizes(block))
    )


def _paged(state: StoredArray, block_tokens: int) -> StoredArray:
    """The cache in whole blocks of tokens: [batch, kv_len, width] with kv_len rounded up."""
    dims = state.type.dims
    if block_tokens == 1 or not state.grows:
        return state
    return replace(state, type=state.type.with_dims((dims[0], ceildiv(dims[1], block_tokens) * block_tokens, dims[2])))
