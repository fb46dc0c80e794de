"""Pipeline parallelism: micro-batches through stages and the transfers between them."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from pmc.dialects.errors import PmcError
from pmc.dialects.interfaces import FloatArray


@dataclass(frozen=True)
class Pipeline:
    """What one micro-batch takes in each stage, and on the way from each stage to the next, in us.

    Arrays may have more dims after the first (points of a sweep).
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
        """One micro-batch through all stages."""
        return np.asarray(self.passage_us.sum(axis=0))

    @property
    def bottleneck_us(self) -> FloatArray:
        """The slowest stage or transfer: what the pipeline takes per micro-batch once it is full."""
        return np.asarray(np.concatenate([self.stage_us, self.transfer_us]).max(axis=0))

    def stream_us(self, micro_batches: int) -> FloatArray:
        """`micro_batches` equal ones one behind the other, first in to last out: once + (m - 1) bottleneck.

        With p equal stages and free transfers (m + p - 1) times the stage: the forward half of 1F1B (Narayanan et al.,
        PipeDream-2BW, 2021; Megatron-LM, 2021, section 2.2).
        """
        return np.asarray(self.once_us + (micro_batches - 1) * self.bottleneck_us)

    def bubble(self, micro_batches: int) -> FloatArray:
        """The part of the stages' time in `stream_us` in which they do nothing."""
        busy = micro_batches * self.stage_us.sum(axis=0)
        return np.asarray(1.0 - busy / (len(self.stage_us) * self.stream_us(micro_batches)))

    def decode_us(self, micro_batches: int) -> FloatArray:
        """The time between two tokens of a sequence in steady state, `micro_batches` in flight.

        A token goes round all stages before the next one of its sequence starts; the stages serve all micro-batches in
        that time.  So max(once, m * bottleneck): from m = p on, the slowest stage decides.  The sampled tokens' way
        back to the first stage, a few bytes, is left out.
        """
        return np.asarray(np.maximum(self.once_us, micro_batches * self.bottleneck_us))


def micro_batches_of(batch: int, stages: int, asked: int | None) -> int:
    """How many micro-batches a batch is split into: as asked, else the most that divide it, up to one per stage.

    Raises PmcError for a number that does not divide the batch.
    """
    if asked is None:
        return max(count for count in range(1, min(stages, batch) + 1) if batch % count == 0)
    if asked < 1 or batch % asked:
        raise PmcError(f"{asked} micro-batches do not divide the batch of {batch} sequences")
    return asked
