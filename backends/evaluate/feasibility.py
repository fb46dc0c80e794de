"""Whether what is evaluated fits the DRAM of a chip: one step of a program, or both programs of a request.

The footprint is that of `memory`, without any reserve and without pages.  The largest batch that fits is searched only
where the batch asked for does not.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import replace

from xdsl.dialects.builtin import ModuleOp

from pmc.backends.evaluate.engine import program_of, symbol_values
from pmc.backends.evaluate.footprint import Feasibility, MemoryOptions
from pmc.backends.evaluate.memory import FootprintPlan
from pmc.backends.evaluate.pipeline import micro_batches_of
from pmc.dialects import layer

Point = tuple[FootprintPlan, Mapping[str, int]]
"""A program and the values of its symbols."""


def unreserved(micro_batches: int) -> MemoryOptions:
    """Nothing kept free and no pages: what the program itself must have."""
    return MemoryOptions(reserve_fraction=0.0, reserve_bytes=0, kv_block_tokens=1, micro_batches=micro_batches)


def step_feasibility(module: ModuleOp, bindings: Mapping[str, int] | None = None) -> Feasibility | None:
    """Whether one step of the program in `module` fits, the whole batch at once; None below the dist level.

    Symbols take the values of `bindings`, else of the attribute `arch.deployment`.  Raises PmcError as
    `memory_footprint` does.
    """
    if not isinstance(program_of(module), layer.ProgramOp):
        return None
    plan, values = FootprintPlan.of(module, unreserved(1)), symbol_values(module, bindings or {})
    found = _at(plan, values)
    return found if found.fits else replace(found, largest_batch=plan.largest_batch(values))


def request_feasibility(
    prefill: ModuleOp, decode: ModuleOp, batch: int, isl: int, osl: int, stages: int, micro_batches: int | None
) -> Feasibility:
    """Whether both phases of a request fit: caches of all sequences, activations of one micro-batch.

    The phase and the stage that need most decide; decode is looked at with the full cache.  The largest batch is the
    largest for which this function, with the same other arguments, says that it fits.  Raises PmcError for
    micro-batches that do not divide the batch.
    """
    options = unreserved(micro_batches_of(batch, stages, micro_batches))
    points: list[Point] = [
        (FootprintPlan.of(prefill, options), {"batch": batch, "q_len": isl, "kv_len": isl}),
        (FootprintPlan.of(decode, options), {"batch": batch, "q_len": 1, "kv_len": isl + osl - 1}),
    ]
    fullest = max((_at(plan, values) for plan, values in points), key=lambda found: found.total_bytes)
    if fullest.fits:
        return fullest
    counts = range(1, stages + 1) if micro_batches is None else [micro_batches]
    return replace(fullest, largest_batch=_largest_batch(points, counts))


def _at(plan: FootprintPlan, values: Mapping[str, int]) -> Feasibility:
    """The answer at one point; the first of stages that need equally much."""
    fullest = max(plan.at(values), key=lambda stage: stage.total_bytes)
    return Feasibility(plan.phase, fullest.stage, fullest.parts, plan.chip.name, plan.chip.dram_bytes)


def _largest_batch(points: Sequence[Point], counts: Iterable[int]) -> int | None:
    """The largest batch that fits at every point, in as many micro-batches as one of `counts` says.

    A batch is a multiple of its number of micro-batches.  One that is split into more than the number under which it
    was found needs no more memory, so that it still fits.  None where no program has a symbol `batch` to vary.
    """
    largest = 0
    for count in counts:
        limits = [_with_parts(plan, count).largest_batch(values) for plan, values in points]
        limit = min((found for found in limits if found is not None), default=None)
        if limit is None:
            return None
        largest = max(largest, limit - limit % count)
    return largest


def _with_parts(plan: FootprintPlan, micro_batches: int) -> FootprintPlan:
    options = replace(plan.options, micro_batches=micro_batches)
    return replace(plan, options=options, stages=tuple(replace(stage, options=options) for stage in plan.stages))
