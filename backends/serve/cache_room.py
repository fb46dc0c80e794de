"""How much of the DRAM of a rank the cache may have, and how much of it a request takes.

Weights, and what one step needs while it runs, come first: the activations and transfer buffers of a chunk of prefill
and of a decode step of the largest batch, both, as a mixed step has both.  A part of the DRAM stays free.  What is left
holds caches, of which every sequence has whole blocks.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from xdsl.dialects.builtin import ModuleOp

from pmc.backends.evaluate.footprint import Feasibility, MemoryOptions
from pmc.backends.evaluate.memory import FootprintPlan
from pmc.dialects.interfaces import FloatArray, IntArray
from pmc.dialects.traffic import Scheduler, Traffic


@dataclass(frozen=True)
class CacheRoom:
    """The cache of one data-parallel rank, in bytes of one chip."""

    chip: str
    capacity_bytes: int
    weights_bytes: int
    step_bytes: int
    """Activations, transfer buffers and alignment of a step."""
    reserve_bytes: int
    block_tokens: int
    sequence_bytes: tuple[int, ...]
    """By the blocks of a sequence, from 0 on; states of a fixed size are there from the first block on."""

    @classmethod
    def of(
        cls, prefill: ModuleOp, decode: ModuleOp, replicas: int, scheduler: Scheduler, traffic: Traffic
    ) -> CacheRoom:
        """The room that the programs of a service leave.  Raises PmcError as `FootprintPlan` does."""
        options = MemoryOptions(scheduler.headroom, 0, scheduler.kv_block_tokens, 1)
        plans = {name: FootprintPlan.of(m, options) for name, m in (("prefill", prefill), ("decode", decode))}
        block = scheduler.kv_block_tokens
        longest = traffic.longest_context
        chunk = min(scheduler.token_budget, traffic.input_length.longest)
        (reading,) = plans["prefill"].at({"batch": replicas, "q_len": chunk, "kv_len": max(chunk, longest)})
        (writing,) = plans["decode"].at({"batch": replicas * scheduler.largest_batch, "q_len": 1, "kv_len": longest})
        stage = plans["decode"].stages[0]
        blocks = np.arange(1, -(-longest // block) + 1, dtype=np.int64)
        sizes = np.zeros(len(blocks))
        for state in stage.states:
            sizes = sizes + np.asarray(state.bytes.evaluate({"batch": replicas, "q_len": 1, "kv_len": blocks * block}))
        return cls(
            chip=stage.chip.name,
            capacity_bytes=stage.chip.dram_bytes,
            weights_bytes=max(reading.weight_bytes, writing.weight_bytes),
            step_bytes=(
                reading.activation_bytes
                + writing.activation_bytes
                + max(reading.communication_bytes, writing.communication_bytes)
                + max(reading.padding_bytes, writing.padding_bytes)
            ),
            reserve_bytes=writing.reserve_bytes,
            block_tokens=block,
            sequence_bytes=(0, *np.ceil(sizes).astype(np.int64).tolist()),
        )

    @property
    def cache_bytes(self) -> int:
        """What is left for caches; less than 0 where weights and a step alone do not fit."""
        return self.capacity_bytes - self.weights_bytes - self.step_bytes - self.reserve_bytes

    def bytes_of(self, tokens: int) -> int:
        """The cache of a sequence of so many tokens."""
        return self.sequence_bytes[-(-tokens // self.block_tokens)]

    def bytes_of_all(self, tokens: IntArray) -> FloatArray:
        """The caches of sequences of so many tokens."""
        return np.asarray(self.sequence_bytes, np.float64)[-(-tokens // self.block_tokens)]

    def feasibility(self, sequences: int) -> Feasibility:
        """Whether so many of the longest sequences fit; and how many do."""
        each = self.sequence_bytes[-1]
        parts = {
            "weights": self.weights_bytes,
            "states": sequences * each,
            "activations": self.step_bytes,
            "communication": 0,
            "reserve": self.reserve_bytes,
            "padding": 0,
        }
        fitting = max(self.cache_bytes // each, 0) if each and self.cache_bytes >= 0 else 0
        return Feasibility("serving", 0, parts, self.chip, self.capacity_bytes, fitting)
