"""Pipeline parallelism: micro-batches through stages and the transfers between them."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from pmc.backends.evaluate.max_plus import NEVER, chain, power, product
from pmc.dialects.errors import PmcError
from pmc.dialects.interfaces import FloatArray


@dataclass(frozen=True)
class Pipeline:
    """What micro-batches take in each stage, and on the way from each stage to the next, in us.

    Arrays may have one more dim after the first: different micro-batches.
    """

    stage_us: FloatArray
    """How long each stage is occupied."""
    transfer_us: FloatArray
    """How long the link from each stage to the next is occupied beside it; 0 where the stage waits for the transfer."""
    passage_us: FloatArray
    """From the arrival at each stage to the arrival at the next: both, less what of the transfer runs beside ops."""

    def __post_init__(self) -> None:
        if len(self.transfer_us) != len(self.stage_us) - 1:
            raise PmcError(f"{len(self.stage_us)} stages have {len(self.stage_us) - 1} transfers between them")

    @property
    def once_us(self) -> FloatArray:
        """A micro-batch through all stages."""
        return np.asarray(self.passage_us.sum(axis=0))

    @property
    def bottleneck_us(self) -> FloatArray:
        """The slowest stage or transfer: what the pipeline takes per micro-batch once it is full of equal ones."""
        return np.asarray(self.occupied_us.max(axis=0))

    @property
    def occupied_us(self) -> FloatArray:
        """How long stages, then links, are occupied."""
        return np.concatenate([self.stage_us, self.transfer_us])

    def passed(self) -> FloatArray:
        """One matrix for each micro-batch: when stages and links are free, from when they were before (`max_plus`)."""
        stages = len(self.stage_us)
        times = (
            np.asarray(t, np.float64).reshape(len(t), -1) for t in (self.stage_us, self.transfer_us, self.passage_us)
        )
        stage_us, transfer_us, passage_us = times
        count, resources = stage_us.shape[1], 2 * stages - 1
        matrices = np.full((count, resources, resources), NEVER)
        arrives = np.full((count, resources), NEVER)
        for stage in range(stages):
            starts = arrives.copy()
            starts[:, stage] = np.maximum(starts[:, stage], 0.0)
            matrices[:, stage] = starts + stage_us[stage][:, None]
            arrives = starts + passage_us[stage][:, None]
            if stage < stages - 1:
                link = stages + stage
                arrives[:, link] = np.maximum(arrives[:, link], transfer_us[stage])
                matrices[:, link] = arrives
        return matrices


def stream_us(trains: Sequence[tuple[Sequence[Pipeline], int]]) -> float:
    """Micro-batches one behind the other, first in to last out, in us.

    A train is several micro-batches in their order and how often they follow each other.  A stage takes the next one
    when it is done with the one before and that has arrived.  m equal ones take once + (m - 1) bottleneck: with p equal
    stages and free transfers (m + p - 1) times the stage, the forward half of 1F1B (Narayanan et al., PipeDream-2BW,
    2021; Megatron-LM, 2021, section 2.2).
    """
    free = np.zeros((2 * len(trains[0][0][0].stage_us) - 1, 1))
    for pipelines, times in trains:
        if len(free) == 1:
            free = free + times * sum(float(pipeline.stage_us.sum()) for pipeline in pipelines)
            continue
        matrices = np.concatenate([pipeline.passed() for pipeline in pipelines])
        free = product(power(chain(matrices), times), free)
    return float(free[len(trains[0][0][0].stage_us) - 1, 0])


def decode_us(pipelines: Sequence[tuple[Pipeline, int]]) -> FloatArray:
    """The time between two tokens of a sequence in steady state, so many micro-batches of each kind in flight, in us.

    A token goes round all stages before the next one of its sequence starts; every stage serves all micro-batches in
    that time.  So max(once, sum of what all micro-batches take on a stage or link): from one micro-batch per stage on,
    the slowest stage decides.  The sampled tokens' way back to the first stage, a few bytes, is left out.
    """
    round_us = np.max(np.stack([pipeline.once_us for pipeline, _ in pipelines]), axis=0)
    served = np.stack([count * pipeline.occupied_us for pipeline, count in pipelines]).sum(axis=0)
    return np.asarray(np.maximum(round_us, served.max(axis=0)))


def parts_of(batch: int, count: int) -> list[tuple[int, int]]:
    """The sizes of `count` parts of a batch that are as equal as can be, with how many have that size, larger first."""
    size, left = divmod(batch, count)
    return [(n, times) for n, times in ((size + 1, left), (size, count - left)) if times]


def micro_batches_of(batch: int, stages: int, replicas: int, asked: int | None) -> int:
    """How many micro-batches a batch is decoded in: as asked, else one per stage where that gives all replicas work.

    Raises PmcError for more than there are sequences.
    """
    if asked is None:
        return min(stages, -(-batch // replicas))
    if not 1 <= asked <= batch:
        raise PmcError(
            f"{asked} micro-batches of a batch of {batch} sequences: must be in 1..{batch}, one sequence each"
        )
    return asked


@dataclass(frozen=True)
class PrefillChunks:
    """How the prompts of a batch are prefilled: at most `chunk` tokens at once on each of `replicas` (dp) ranks."""

    isl: int
    """Tokens of a prompt."""
    chunk: int
    replicas: int
    stages: int

    @property
    def most_sequences(self) -> int:
        """Sequences that all replicas prefill at once, at most: whole prompts, else one prompt each."""
        return self.replicas * max(1, self.chunk // self.isl)

    def micro_batches(self, batch: int) -> list[tuple[int, int]]:
        """Sequences of a micro-batch and how many have so many.

        Chunks are filled, the last one with what is left.  Fewer chunks than stages are made as many of equal size, as
        long as each has a sequence for every replica.
        """
        least = micro_batches_of(batch, self.stages, self.replicas, None)
        if -(-batch // self.most_sequences) < least:
            return parts_of(batch, least)
        full, left = divmod(batch, self.most_sequences)
        return [(size, times) for size, times in ((self.most_sequences, full), (left, 1)) if size and times]

    @property
    def tokens(self) -> list[tuple[int, int, int]]:
        """The chunks of a prompt as (new tokens of a chunk, number of such chunks, keys that the first attends to)."""
        full, left = divmod(self.isl, min(self.chunk, self.isl))
        size = min(self.chunk, self.isl)
        return [(n, times, end) for n, times, end in ((size, full, size), (left, 1, self.isl)) if n and times]
