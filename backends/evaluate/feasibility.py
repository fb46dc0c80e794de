"""Whether what is evaluated fits the DRAM of a chip: one step of a program, or both programs of a request.

The footprint is that of `memory`, without any reserve and without pages.  The largest batch that fits is searched only
where the batch asked for does not.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace

from xdsl.dialects.builtin import ModuleOp

from pmc.backends.evaluate.engine import program_of, symbol_values
from pmc.backends.evaluate.footprint import Feasibility, MemoryOptions
from pmc.backends.evaluate.memory import FootprintPlan
from pmc.backends.evaluate.pipeline import PrefillChunks, micro_batches_of
from pmc.backends.evaluate.speculation import queries_of
from pmc.dialects import layer

Point = tuple[FootprintPlan, Mapping[str, int]]
"""A program and the values of its symbols."""


def unreserved(micro_batches: int, most_sequences: int | None = None) -> MemoryOptions:
    """Nothing kept free and no pages: what the program itself must have."""
    return MemoryOptions(0.0, 0, 1, micro_batches, most_sequences)


def step_feasibility(
    module: ModuleOp, bindings: Mapping[str, int] | None = None, search: bool = True
) -> Feasibility | None:
    """Whether one step of the program in `module` fits, the whole batch at once; None below the dist level.

    Where it does not, the largest batch that fits is searched, unless `search` is false.  Symbols take the values of
    `bindings`, else of the attribute `arch.deployment`.  Raises PmcError as `memory_footprint` does.
    """
    if not isinstance(program_of(module), layer.ProgramOp):
        return None
    plan, values = FootprintPlan.of(module, unreserved(1)), symbol_values(module, bindings or {})
    found = _at(plan, values)
    return found if found.fits or not search else replace(found, largest_batch=plan.largest_batch(values))


def request_feasibility(
    prefill: ModuleOp, decode: ModuleOp, batch: int, chunks: PrefillChunks, osl: int, micro_batches: int | None
) -> Feasibility:
    """Whether both phases of a request fit: caches of all sequences, activations of one chunk or micro-batch.

    The phase and the stage that need most decide.  Decode is looked at with the full cache, prefill in its last chunk,
    when all prompts are in the cache.  The largest batch is the largest for which this function, with the same other
    arguments, says that it fits.  Raises PmcError for more micro-batches than sequences.
    """
    micro_batches_of(batch, chunks.stages, chunks.replicas, micro_batches)
    isl = chunks.isl
    points: list[Point] = [
        (
            FootprintPlan.of(prefill, unreserved(chunks.stages, chunks.most_sequences)),
            {"batch": batch, "q_len": min(isl, chunks.chunk), "kv_len": isl},
        ),
        (
            FootprintPlan.of(decode, unreserved(micro_batches or chunks.stages)),
            {"batch": batch, "q_len": queries_of(decode), "kv_len": isl + osl - 2 + queries_of(decode)},
        ),
    ]
    fullest = max((_at(plan, values) for plan, values in points), key=lambda found: found.total_bytes)
    if fullest.fits:
        return fullest
    limits = [limit for plan, values in points if (limit := plan.largest_batch(values)) is not None]
    largest = min(limits, default=None)
    # A batch with fewer sequences than micro-batches that were asked for cannot be split into these.
    return replace(fullest, largest_batch=0 if largest is not None and largest < (micro_batches or 1) else largest)


def _at(plan: FootprintPlan, values: Mapping[str, int]) -> Feasibility:
    """The answer at one point; the first of stages that need equally much."""
    fullest = max(plan.at(values), key=lambda stage: stage.total_bytes)
    return Feasibility(plan.phase, fullest.stage, fullest.parts, plan.chip.name, plan.chip.dram_bytes)
