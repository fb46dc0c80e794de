"""Whether a step or a request fits a chip: against footprints, and against trying every batch."""

from __future__ import annotations

from functools import cache

import pytest
from xdsl.dialects.builtin import ModuleOp

from pmc.backends.evaluate.feasibility import request_feasibility, step_feasibility, unreserved
from pmc.backends.evaluate.footprint import Feasibility
from pmc.backends.evaluate.memory import memory_footprint
from pmc.backends.evaluate.overlap import StepEvaluator
from pmc.backends.evaluate.pipeline import PrefillChunks
from pmc.backends.evaluate.request import RequestResult, evaluate_request
from pmc.compiler.config import load_chip, load_deployment, load_topology
from pmc.compiler.driver import compile_model
from pmc.compiler.frontend import import_hf
from pmc.dialects.arch import Chip, ChipAttr
from pmc.dialects.errors import PmcError
from tests.compiler.tiny import LLAMA

SG2262 = load_chip("sg2262")
ISL, OSL, STAGES = 48, 9, 4


def with_dram(module: ModuleOp, bytes_: int) -> ModuleOp:
    """The same program on a chip with so much DRAM, to within a byte."""
    data = SG2262.model_dump()
    data["dram"]["capacity_gib"] = bytes_ / 2**30
    module = module.clone()
    module.attributes["arch.chip"] = ChipAttr(Chip.model_validate(data))
    return module


@cache
def compiled(phase: str, pp: int) -> ModuleOp:
    q_len, kv_len = (ISL, ISL) if phase == "prefill" else (1, ISL + OSL - 1)
    changes = {"phase": phase, "pp": pp, "tp": 2, "batch": 4, "q_len": q_len, "kv_len": kv_len}
    deployment = load_deployment("llama-8b-decode", changes)
    return compile_model(import_hf(LLAMA, "tiny", "tiny"), SG2262, load_topology("p1-r1-b1-c8"), deployment, "dist")


def needs(phase: str, pp: int, micro_batches: int = 1, **bindings: int) -> int:
    return memory_footprint(compiled(phase, pp), unreserved(micro_batches), bindings).fullest.total_bytes


def test_a_step_fits_down_to_the_last_byte() -> None:
    need = needs("decode", 1)
    enough, short = (step_feasibility(with_dram(compiled("decode", 1), size)) for size in (need, need - 1))
    assert enough is not None and enough.fits and enough.excess_bytes == 0 and enough.largest_batch is None
    assert short is not None and not short.fits and short.excess_bytes == 1
    footprint = memory_footprint(with_dram(compiled("decode", 1), need - 1), unreserved(1))
    assert (short, short.verdict) == (footprint.feasibility, footprint.verdict)
    assert short.largest_batch == 3 and needs("decode", 1, batch=3) < need - 1
    assert dict(short.parts) == footprint.stages[0].parts and sum(short.parts.values()) == need


def test_a_step_is_looked_at_where_it_is_evaluated() -> None:
    module = with_dram(compiled("decode", 1), needs("decode", 1, kv_len=80) - 1)
    found = [step_feasibility(module, {"kv_len": length}) for length in (79, 80)]
    assert [f is not None and f.fits for f in found] == [True, False]


@cache
def staged(dram: int) -> tuple[ModuleOp, ModuleOp]:
    """Prefill and decode in pipeline stages."""
    return with_dram(compiled("prefill", STAGES), dram), with_dram(compiled("decode", STAGES), dram)


def chunks(isl: int = ISL, stages: int = STAGES, chunk: int = 10**6) -> PrefillChunks:
    return PrefillChunks(isl, chunk, 1, stages)


def request_fits(batch: int, dram: int, micro_batches: int | None = None, chunk: int = 10**6) -> Feasibility:
    prefill, decode = staged(dram)
    return request_feasibility(prefill, decode, batch, chunks(chunk=chunk), OSL, micro_batches)


def request_at(batch: int, dram: int) -> RequestResult:
    prefill, decode = (StepEvaluator(with_dram(compiled(phase, 1), dram)) for phase in ("prefill", "decode"))
    return evaluate_request(prefill, decode, batch, ISL, OSL)


def test_a_request_needs_what_its_fullest_phase_needs() -> None:
    by_phase = {
        "prefill": needs("prefill", 1, batch=8, q_len=ISL, kv_len=ISL),
        "decode": needs("decode", 1, batch=8, q_len=1, kv_len=ISL + OSL - 1),
    }
    assert by_phase["prefill"] > by_phase["decode"]
    found = request_at(8, by_phase["prefill"] - 1)
    assert (found.memory.phase, found.memory.excess_bytes) == ("prefill", 1)
    assert found.memory_peak_bytes == found.memory.total_bytes == by_phase["prefill"]
    assert found.memory_capacity_bytes == found.memory.capacity_bytes == by_phase["prefill"] - 1
    # From a prompt of one token to a long answer, it is the cache at the end that decides.
    decode = request_feasibility(compiled("prefill", 1), compiled("decode", 1), 8, chunks(1, 1), 4000, None)
    assert decode.phase == "decode" and decode.fits
    assert decode.total_bytes == needs("decode", 1, batch=8, q_len=1, kv_len=4000)


@pytest.mark.parametrize("chunk", [ISL // 2, 2 * ISL, 10**6])
@pytest.mark.parametrize("room", [5, 10, 11])
@pytest.mark.parametrize("micro_batches", [None, 1, 3])
def test_the_largest_batch_of_a_request_is_that_of_trying_all(micro_batches: int | None, room: int, chunk: int) -> None:
    dram = request_fits(room, 2**37, micro_batches, chunk).total_bytes
    fitting: list[int] = []
    said: set[int | None] = set()
    for batch in range(micro_batches or 1, 31):
        found = request_fits(batch, dram, micro_batches, chunk)
        if found.fits:
            fitting.append(batch)
        else:
            said.add(found.largest_batch)
    assert said == {max(fitting)} and max(fitting) >= room
    assert fitting == list(range(micro_batches or 1, max(fitting) + 1)), "a smaller batch never needs more"
    if micro_batches == 3:
        with pytest.raises(PmcError, match=r"^3 micro-batches of a batch of 2 sequences"):
            request_fits(2, dram, micro_batches)


def test_a_chunk_of_prefill_needs_what_its_sequences_need() -> None:
    """Two prompts at once of eight: activations of two, caches of eight."""
    of_two = needs("prefill", STAGES, 4, batch=8, q_len=ISL, kv_len=ISL)
    prefill, decode = staged(2**37)
    found = request_feasibility(prefill, decode, 8, chunks(chunk=2 * ISL), 1, None)
    assert found.phase == "prefill" and found.total_bytes == of_two
    assert request_feasibility(prefill, decode, 64, chunks(chunk=2 * ISL), 1, None).total_bytes == needs(
        "prefill", STAGES, 32, batch=64, q_len=ISL, kv_len=ISL
    )


def test_no_batch_fits_where_weights_do_not() -> None:
    weights = memory_footprint(compiled("prefill", 1), unreserved(1)).stages[0].weight_bytes
    memory = request_at(1, weights - 1).memory
    assert memory.largest_batch == 0
    assert memory.verdict.endswith("bytes too many, weights alone exceed the capacity; no batch fits")


def test_the_verdict_names_the_largest_part_where_none_exceeds_alone() -> None:
    need = needs("decode", 1, batch=4000)
    found = step_feasibility(with_dram(compiled("decode", 1), need - 1), {"batch": 4000})
    assert found is not None
    largest = max(found.parts, key=lambda part: found.parts[part])
    assert max(found.parts.values()) < need - 1
    assert found.verdict.endswith(f"1 bytes too many, most of it for {largest}; the largest batch that fits is 3999")
