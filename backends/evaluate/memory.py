"""The DRAM of one rank, per pipeline stage: weights, caches, activations and buffers of the program in a module."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from functools import cached_property, lru_cache

import numpy as np
import numpy.typing as npt
from xdsl.dialects.builtin import ModuleOp

from pmc.backends.cost.model import Bindings, Target
from pmc.backends.evaluate.engine import program_of, symbol_values
from pmc.backends.evaluate.footprint import PARTS, MemoryFootprint, MemoryOptions, StageFootprint, StoredRow
from pmc.dialects import dist, layer
from pmc.dialects.analyses.communication import communication_sizes
from pmc.dialects.analyses.dram_placement import place_by_lifetime, place_in_turn, round_up
from pmc.dialects.analyses.liveness import Lifetime
from pmc.dialects.analyses.stored_arrays import StoredArray
from pmc.dialects.analyses.value_arrays import ProgramArrays, StageArrays, ValueArray
from pmc.dialects.arch import Chip
from pmc.dialects.errors import PmcError
from pmc.dialects.expr import Expr, UnboundSymbolError, Value, ceildiv
from pmc.dialects.interfaces import FloatArray, IntArray
from pmc.dialects.tensor import TensorType, element_name

BATCH = "batch"

WIDE_SEARCH = 64
"""Points that the search of the largest batch evaluates at once."""

MOST_PLACEMENTS = 20_000
"""Of arrays that live for a while, at many points at once."""

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
        stages = plan.at(values)
        largest = plan.largest_batch(values)
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

    arrays: StageArrays
    inputs: tuple[ValueArray, ...]
    weights: tuple[StoredArray, ...]
    states: tuple[StoredArray, ...]
    """Caches; their types count whole blocks of tokens."""
    shapes: tuple[str, ...]
    """The dims of the caches as the program has them."""
    communication: tuple[tuple[str, Expr], ...]
    options: MemoryOptions
    chip: Chip

    @classmethod
    def of(cls, arrays: StageArrays, inputs: Sequence[ValueArray], options: MemoryOptions, chip: Chip) -> StagePlan:
        """The plan of a stage of a program with these inputs, which every rank has."""
        weights, states = (tuple(a for a in arrays.stored.values() if a.kind == kind) for kind in ("weight", "state"))
        return cls(
            arrays=arrays,
            inputs=tuple(inputs),
            weights=weights,
            states=tuple(_paged(state, options.kv_block_tokens) for state in states),
            shapes=tuple(dims_text(s.type) for s in states),
            communication=tuple(communication_sizes(arrays.scope.body.block)),
            options=options,
            chip=chip,
        )

    def least(self, bindings: Bindings) -> FloatArray:
        """Bytes that no placement can do without, at one point or at every point of arrays; the reserve included.

        Exact up to 2**53, where any batch fits no more; integers would overflow in silence.
        """
        alignment = self.chip.alignment_bytes
        at = {name: np.asarray(value, np.float64) for name, value in bindings.items()}
        inputs, stored, shared, buffers = (
            [np.asarray(size, np.float64) for size in _evaluated(sizes, point)]
            for sizes, point in zip(self._bytes, self._points(at), strict=True)
        )
        stay = sum((padded(size, alignment) for size in (*inputs, *stored, max_of_all(buffers))), np.asarray(0.0))
        sizes = [padded(size, alignment) for size in shared]
        # The last array of a placement ends without padding.
        alive = max_of_all([sum((sizes[i] for i in together), np.asarray(0.0)) for together in self.arrays.alive])
        return np.asarray(stay + alive - (alignment - 1) + self.options.reserve_of(self.chip.dram_bytes), np.float64)

    def at(self, bindings: Mapping[str, int]) -> StageFootprint:
        """The footprint at one point: the arrays as `allocate-dram` places them."""
        alignment = self.chip.alignment_bytes
        inputs, stored, shared, buffers = (
            [int(size) for size in _evaluated(sizes, point)]
            for sizes, point in zip(self._bytes, self._points(bindings), strict=True)
        )
        largest = int(np.argmax(buffers)) if buffers else None
        communication_bytes = 0 if largest is None else buffers[largest]
        end = end_of_arrays(
            [*inputs, *stored, communication_bytes], shared, tuple(self.arrays.lifetimes.values()), alignment
        )
        alive = [sum(shared[i] for i in numbers) for numbers in self.arrays.alive]
        peak = int(np.argmax(alive))
        rows = [
            _stored_row(array, size, shape)
            for array, size, shape in zip((*self.weights, *self.states), stored, self._shapes, strict=True)
        ]
        found = StageFootprint(
            stage=self.arrays.index,
            weights=tuple(rows[: len(self.weights)]),
            states=tuple(rows[len(self.weights) :]),
            activation_bytes=sum(inputs) + alive[peak],
            activation_path=self.arrays.steps[peak].path,
            communication_bytes=communication_bytes,
            communication_path="" if largest is None else self.communication[largest][0],
            padding_bytes=0,
            reserve_bytes=self.options.reserve_of(self.chip.dram_bytes),
        )
        return replace(found, padding_bytes=end + found.reserve_bytes - found.total_bytes)

    def over(self, bindings: Bindings) -> dict[str, FloatArray] | None:
        """The parts of `at` in bytes at every point of arrays; None for too many different placements."""
        alignment = self.chip.alignment_bytes
        at = {name: np.asarray(value, np.float64) for name, value in bindings.items()}
        inputs, stored, shared, buffers = (
            [np.asarray(size, np.float64) for size in _evaluated(sizes, point)]
            for sizes, point in zip(self._bytes, self._points(at), strict=True)
        )
        none = np.asarray(0.0)
        communication = max_of_all(buffers)
        end = none
        for size in (*inputs, *stored, communication):
            end = padded(end, alignment) + size
        if shared:
            sizes = np.stack(np.broadcast_arrays(*shared)).astype(np.int64)
            placed = self._placed(sizes.reshape(len(shared), -1))
            if placed is None:
                return None
            end = padded(end, alignment) + placed.reshape(sizes.shape[1:])
        alive = max_of_all([sum((shared[i] for i in together), none) for together in self.arrays.alive])
        weights = len(self.weights)
        reserve = np.asarray(float(self.options.reserve_of(self.chip.dram_bytes)))
        parts = (
            sum(stored[:weights], none), sum(stored[weights:], none), sum(inputs, none) + alive, communication, reserve,
        )  # fmt: skip
        return dict(zip(PARTS, (*parts, end + reserve - sum(parts, none)), strict=True))

    def _placed(self, sizes: IntArray) -> FloatArray | None:
        """Where the placement of arrays of the sizes in each column ends, from 0 on; None for too many columns.

        Columns that are multiples of each other are placed alike if all sizes are whole units of alignment.
        """
        alignment = self.chip.alignment_bytes
        scale = np.where((sizes % alignment == 0).all(axis=0), np.gcd.reduce(sizes, axis=0), 1)
        columns, which = np.unique(sizes // scale, axis=1, return_inverse=True)
        if columns.shape[1] > MOST_PLACEMENTS:
            return None
        lifetimes = list(self.arrays.lifetimes.values())
        first = np.zeros(columns.shape[1], np.int64)
        first[which.reshape(-1)[::-1]] = np.arange(sizes.shape[1])[::-1]
        ends = np.asarray(
            [
                place_by_lifetime(sizes[:, column].tolist(), lifetimes, 0, alignment).end / int(scale[column])
                for column in first.tolist()
            ]
        )
        return np.asarray(ends[which.reshape(-1)] * scale, np.float64)

    @property
    def symbols(self) -> frozenset[str]:
        """The symbols that the footprint depends on."""
        return frozenset(name for group in self._bytes for size in group for name in size.symbols)

    @cached_property
    def _bytes(self) -> tuple[list[Expr], list[Expr], list[Expr], list[Expr]]:
        """Of the inputs, of weights and caches, of what lives for a while, and of the buffers of transfers."""
        return (
            [array.type.bytes for array in self.inputs],
            [array.bytes for array in (*self.weights, *self.states)],
            [array.type.bytes for array in self.arrays.lifetimes],
            [size for _, size in self.communication],
        )

    @cached_property
    def _shapes(self) -> list[str]:
        return [*(dims_text(weight.type) for weight in self.weights), *self.shapes]

    def _points(self, values: Mapping[str, Value]) -> tuple[Mapping[str, Value], ...]:
        """The symbols of each of `_bytes`: caches are those of all sequences, all else that of one micro-batch."""
        part = micro_batch(values, self.options)
        return part, values, part, part


@dataclass(frozen=True)
class FootprintPlan:
    """The DRAM of every stage as expressions, evaluated as often as a search asks."""

    program: str
    phase: str
    options: MemoryOptions
    chip: Chip
    stages: tuple[StagePlan, ...]

    @classmethod
    def of(cls, module: ModuleOp, options: MemoryOptions) -> FootprintPlan:
        """The plan of the program in a module.  Raises PmcError unless it has the shapes of one rank."""
        program = program_of(module)
        if not isinstance(program, layer.ProgramOp):
            raise PmcError(f"memory of program '{program.sym_name.data}': expected the layer or dist level, found tile")
        _require_local(program)
        chip, arrays = Target.of(module).chip, ProgramArrays.of(program)
        stages = tuple(StagePlan.of(stage, arrays.inputs, options, chip) for stage in arrays.stages)
        return cls(program.sym_name.data, program.phase.data, options, chip, stages)

    def at(self, bindings: Mapping[str, int]) -> tuple[StageFootprint, ...]:
        """The footprint of every stage at one point."""
        return tuple(stage.at(bindings) for stage in self.stages)

    def fits(self, bindings: Mapping[str, int]) -> bool:
        """Whether every stage fits the chip."""
        return all(found.total_bytes <= self.chip.dram_bytes for found in self.at(bindings))

    def largest_batch(self, bindings: Mapping[str, int]) -> int | None:
        """The largest batch that fits with all else as in `bindings`; 0 where none does, None without the symbol.

        What is alive at once never shrinks with the batch: doubling finds a batch for which that is too much, narrowing
        the interval by `WIDE_SEARCH` at once finds the last for which it is not.  No larger batch can fit.  Where the
        placement of that one needs more, halving the interval below finds one that fits while the next does not.
        """
        if not any(BATCH in stage.symbols for stage in self.stages):
            return None
        most = self._most_alive_batch(bindings)
        if most == 0 or self.fits({**bindings, BATCH: most}):
            return most
        low, high = 0, most
        while high - low > 1:
            middle = (low + high) // 2
            low, high = (middle, high) if self.fits({**bindings, BATCH: middle}) else (low, middle)
        return low

    def _most_alive_batch(self, bindings: Mapping[str, int]) -> int:
        """The largest batch of which what is alive at once fits, at most about `MOST_SEQUENCES`."""

        def may_fit(batches: IntArray) -> npt.NDArray[np.bool_]:
            needs = max_of_all([stage.least({**bindings, BATCH: batches}) for stage in self.stages])
            return needs <= self.chip.dram_bytes

        low, high = 0, 1  # the largest known to fit, the smallest known not to
        while may_fit(np.asarray(high)).all():
            low, high = high, 2 * high
            if low >= MOST_SEQUENCES:
                return low
        while high - low > 1:
            tried = np.unique(np.linspace(low, high, WIDE_SEARCH + 2).astype(np.int64)[1:-1])
            tried = tried[(tried > low) & (tried < high)]
            good = may_fit(tried)
            low = max(low, int(tried[good].max(initial=0)))
            high = min(high, int(tried[~good].min(initial=high)))
        return low


def end_of_arrays(
    staying: Sequence[int], shared: Sequence[int], lifetimes: tuple[Lifetime, ...], alignment: int
) -> int:
    """Where the last array ends as `allocate-dram` places them: those that stay, then those that live for a while."""
    end = place_in_turn(staying, 0, alignment).end
    return round_up(end, alignment) + _placed_bytes(tuple(shared), lifetimes, alignment) if shared else end


@lru_cache(maxsize=4096)
def _placed_bytes(sizes: tuple[int, ...], lifetimes: tuple[Lifetime, ...], alignment: int) -> int:
    """Where the last of some arrays ends that share memory; a pipeline and a sweep have many equal stages."""
    return place_by_lifetime(sizes, lifetimes, 0, alignment).end


def micro_batch(bindings: Mapping[str, Value], options: MemoryOptions) -> Mapping[str, Value]:
    """The bindings of one micro-batch: the batch in parts, rounded up, none with more sequences than it may have."""
    if BATCH not in bindings:
        return bindings
    part = -(-bindings[BATCH] // options.micro_batches)
    if options.most_sequences is not None:
        least = min if isinstance(part, int) else np.minimum
        part = least(part, options.most_sequences)
    return {**bindings, BATCH: part}


def max_of_all(values: Sequence[FloatArray]) -> FloatArray:
    """The element-wise maximum of arrays that broadcast, 0 for none."""
    return np.asarray(np.max(np.stack(np.broadcast_arrays(*values)), axis=0) if values else 0.0, np.float64)


def dims_text(type_: TensorType) -> str:
    """`7168 x 1536`."""
    return " x ".join(str(d) for d in type_.dims)


def _stored_row(stored: StoredArray, size: int, shape: str) -> StoredRow:
    kind = stored.kind if stored.kind == "weight" else stored.role or "other"
    return StoredRow(stored.path, kind, element_name(stored.type.element_type), shape, stored.copies, size)


def _require_local(program: layer.ProgramOp) -> None:
    for op in program.walk():
        for value in op.results:
            if isinstance(value.type, TensorType) and isinstance(value.type.encoding, dist.ShardingAttr):
                raise PmcError(
                    f"memory of program '{program.sym_name.data}': the types are those of whole tensors; "
                    "run localize first"
                )


def padded(sizes: FloatArray, alignment: int) -> FloatArray:
    """Sizes rounded up to whole units of alignment."""
    return np.asarray(-(-sizes // alignment) * alignment, np.float64)


def _evaluated(sizes: Sequence[Expr], bindings: Mapping[str, Value]) -> list[Value]:
    """Every size, equal ones evaluated once."""
    found = {size: size.evaluate(bindings) for size in dict.fromkeys(sizes)}
    return [found[size] for size in sizes]


def _paged(state: StoredArray, block_tokens: int) -> StoredArray:
    """The cache in whole blocks of tokens: [batch, kv_len, width] with kv_len rounded up."""
    dims = state.type.dims
    if block_tokens == 1 or not state.grows:
        return state
    return replace(state, type=state.type.with_dims((dims[0], ceildiv(dims[1], block_tokens) * block_tokens, dims[2])))
