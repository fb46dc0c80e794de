"""The search for plans against an enumeration of all of them, and what a chip or an accounting must do to it."""

from __future__ import annotations

import itertools
from dataclasses import replace
from typing import Any

import numpy as np
import pytest
from hypothesis import example, given, settings
from hypothesis import strategies as st

from pmc.backends.cost.plan_search import COUNTED_AT_ONCE, PlanSearch, attention_candidates, tile_sizes
from pmc.backends.cost.plan_time import PlanTime
from pmc.backends.cost.rates import CoreRates
from pmc.compiler.config import load_accounting, load_chip
from pmc.dialects.accounting import Accounting
from pmc.dialects.analyses import attention_tiling as attentions
from pmc.dialects.analyses import matmul_tiling as matmuls
from pmc.dialects.analyses.attention_tiling import AttentionShape
from pmc.dialects.analyses.matmul_tiling import MatmulShape, MatmulTilings
from pmc.dialects.arch import Chip
from pmc.dialects.errors import PmcError
from pmc.dialects.key_reach import Reach
from pmc.dialects.tile_plan import MERGES, PlanAttr

SG2262 = load_chip("sg2262")


def chip(cores: int = 4, lmem: int = 2**15, **changes: Any) -> Chip:
    """A small SG2262 in one row of cores."""
    data = SG2262.model_dump()
    data.update(cores=cores, dies=1, die_to_die=None, **changes)
    data["command_level"]["lmem"]["bytes_per_core"] = lmem
    data["command_level"]["noc"].update(mesh_columns=cores, mesh_rows=1, cluster_columns=1, cluster_rows=1)
    return Chip.model_validate(data)


def search(target: Chip = SG2262, accounting: Accounting | None = None) -> PlanSearch:
    return PlanSearch(CoreRates(target, accounting or load_accounting("physical")))


def shape(groups: int, m: int, n: int, k: int, dtype: str = "f8E4M3FN") -> MatmulShape:
    bits = 8 if dtype == "f8E4M3FN" else 16
    return MatmulShape(groups, m, n, k, bits, bits, 16, dtype, converts=True)


def time_of(finder: PlanSearch, problem: MatmulShape, plan: PlanAttr) -> PlanTime:
    assert matmuls.plan_fault(problem, plan, finder.chip) is None
    return finder.matmul_time(problem, finder.matmul_resources(problem, matmuls.tiling_of(plan)))


def seconds(finder: PlanSearch, problem: MatmulShape) -> float:
    return float(time_of(finder, problem, finder.matmul(problem)).total_s[0])


def exhaustive(finder: PlanSearch, problem: MatmulShape) -> float:
    """The least time over every partition, tile, loop order and merge that is legal, with two slots."""
    cube = finder.chip.cube
    step = (cube.m, cube.n, matmuls.cube_k(finder.chip, problem.dtype))
    blocks = (problem.groups, *(-(-t // s) for t, s in zip((problem.m, problem.n, problem.k), step, strict=True)))
    rows: list[tuple[int, ...]] = []
    for cores in itertools.product(*(range(1, min(finder.chip.cores, b) + 1) for b in blocks)):
        if np.prod(cores) > finder.chip.cores:
            continue
        chunk = [-(-b // p) for b, p in zip(blocks, cores, strict=True)]
        # Parts that leave a core without work are those of fewer cores.
        if any(-(-b // c) != p for b, c, p in zip(blocks, chunk, cores, strict=True)):
            continue
        merges = (0,) if cores[3] == 1 else (matmuls.SDMA, matmuls.DRAM)
        for m, n, k in itertools.product(*(range(1, c + 1) for c in chunk[1:])):
            for order, merge in itertools.product(range(3), merges):
                whole = m == chunk[1] and n == chunk[2] and chunk[0] == 1 and order == 0
                if merge != matmuls.SDMA or whole:
                    tile = (m * step[0], n * step[1], k * step[2])
                    rows.append((*cores, *tile, order, 2, int(finder.chip.gdma_multicast), merge))
    tilings = MatmulTilings(*np.array(rows, np.int64).T)
    fits = np.flatnonzero(matmuls.lmem_bytes(problem, tilings, finder.chip) <= finder.chip.lmem_tile_budget_bytes)
    r = finder.matmul_resources(problem, tilings[fits])
    return float(finder.matmul_time(problem, r).total_s.min())


SMALL = [
    (1, 16, 64, 256), (1, 64, 64, 512), (3, 16, 24, 128), (1, 17, 70, 300), (2, 80, 40, 96), (1, 48, 8, 2048),
    (5, 1, 16, 64),
]  # fmt: skip


@pytest.mark.parametrize("dims", SMALL)
@pytest.mark.parametrize("lmem", [2**14, 2**15, 2**17])
def test_no_plan_is_faster(dims: tuple[int, int, int, int], lmem: int) -> None:
    finder, problem = search(chip(lmem=lmem)), shape(*dims)
    assert seconds(finder, problem) == pytest.approx(exhaustive(finder, problem), rel=1e-6)


@pytest.mark.parametrize("multicast", [True, False])
@pytest.mark.parametrize("preset", ["physical", "ds-tpu"])
def test_no_plan_is_faster_under_any_accounting(preset: str, multicast: bool) -> None:
    finder = search(chip(cores=6, lmem=2**14, gdma_multicast=multicast), load_accounting(preset))
    problem = shape(2, 40, 72, 320)
    assert seconds(finder, problem) == pytest.approx(exhaustive(finder, problem), rel=1e-6)


dims = st.tuples(st.integers(1, 8), st.integers(1, 700), st.integers(1, 2000), st.integers(1, 3000))


@settings(max_examples=30, deadline=None)
@given(dims, st.integers(15, 21), st.sampled_from(["f8E4M3FN", "bf16"]))
def test_what_is_found_is_legal_and_explains_its_time(
    sizes: tuple[int, int, int, int], log_lmem: int, dtype: str
) -> None:
    finder, problem = search(chip(8, 2**log_lmem)), shape(*sizes, dtype)
    time = time_of(finder, problem, finder.matmul(problem))
    slow, fast = max(time.compute_s[0], time.memory_s[0]), min(time.compute_s[0], time.memory_s[0])
    assert slow * (1 - 1e-9) <= time.total_s[0] <= (slow + fast) * (1 + 1e-9)
    peak = finder.chip.peak_flops_per_s(dtype)
    assert time.engines.tiu_s[0] >= 2 * np.prod([float(s) for s in sizes]) / peak
    least = problem.groups * (
        (problem.m * problem.k + problem.k * problem.n) * problem.a_bits // 8 + 2 * problem.m * problem.n
    )
    assert time.engines.dram_s[0] >= least / finder.chip.dram_bytes_per_s * (1 - 1e-9)


def test_a_worse_plan_costs_more() -> None:
    finder, problem = search(), shape(1, 64, 1536, 7168)
    found = finder.matmul(problem)
    one_core = PlanAttr.of([1, 1, 1, 1], [64, 256, 1024], "gmnk", 2, ("a", "b"))
    best, worse = (time_of(finder, problem, plan) for plan in (found, one_core))
    # One core computes alone and receives every byte of A, six times, and of B.
    assert worse.engines.tiu_s[0] > 10 * best.engines.tiu_s[0]
    received = 64 * 7168 * 6 + 7168 * 1536 + 64 * 1536 * 2
    loads = 6 * 7 * 2 + 6
    assert worse.engines.gdma_s[0] == pytest.approx(received / (149.4e9 * 0.9) + loads * 100e-9, rel=1e-9)
    assert worse.total_s[0] > 10 * best.total_s[0]


def test_what_a_core_receives_costs_time_where_the_accounting_says_so() -> None:
    """Attention of 3 sequences on 24 cores: each core needs 4096 x 576 bytes of latent, however they are sent."""
    problem = attention(sequences=3)
    plan = PlanAttr.of([3, 8, 1], [1, 16, 256], "pus", 2, ("q", "kv"))
    charged, free = (search(accounting=load_accounting(name)) for name in ("physical", "ds-tpu"))
    times = [
        finder.attention_time(finder.attention_resources(problem, attentions.tiling_of(plan)))
        for finder in (charged, free)
    ]
    latent = 4096 * 576
    assert times[0].engines.gdma_s[0] > latent / (149.4e9 * 0.9)
    assert times[0].total_s[0] > times[0].engines.gdma_s[0]
    assert times[1].engines.gdma_s[0] == 0


def attention(
    sequences: int = 64, q_len: int = 1, kv_len: int = 4096, causal: bool = False, kv_heads: int = 1
) -> AttentionShape:
    """Absorbed MLA of DeepSeek-V3: 128 heads share a latent of 512 + 64, V is its first part."""
    return AttentionShape(
        sequences, kv_heads, 128, q_len, kv_len, (512, 64), 512, 0, causal, 8, (8, 8), 8, 8, 16, 0, "f8E4M3FN",
    )  # fmt: skip


@pytest.mark.parametrize(
    ("sizes", "causal"),
    [
        ((1, 1, 8, 663, 663), True),
        ((2, 8, 4, 813, 3813), False),
        ((1, 1, 8, 1000, 1700), True),
        ((1, 2, 4, 1700, 1700), True),
        ((1, 1, 8, 1000, 1255), Reach("window", 256)),
        ((1, 2, 4, 900, 900), Reach("window", 70)),
        ((1, 2, 4, 900, 1000), Reach("chunk", 300)),
    ],
)
def test_plans_of_an_attention_that_are_left_out_early_are_slower(
    sizes: tuple[int, int, int, int, int], causal: bool | Reach
) -> None:
    """Only those with a low bound are counted unit by unit; here all are.  The last block is short."""
    finder = search()
    reach = None if isinstance(causal, bool) else causal
    problem = AttentionShape(*sizes, (128,), 128, None, bool(causal), 16, (16,), 16, 16, 16, 0, "bf16", reach)
    tilings = attention_candidates(problem, finder.rates)
    fits = attentions.lmem_bytes(problem, tilings, finder.chip) <= finder.chip.lmem_tile_budget_bytes
    tilings = tilings[np.flatnonzero(fits)]
    assert len(tilings) > 10 * COUNTED_AT_ONCE
    exact = finder.attention_time(finder.attention_resources(problem, tilings)).total_s
    plan = attentions.tiling_of(finder.attention(problem))
    found = finder.attention_time(finder.attention_resources(problem, plan)).total_s[0]
    assert found == pytest.approx(exact.min(), rel=1e-9)


@settings(max_examples=30, deadline=None)
@given(
    st.integers(1, 3), st.sampled_from([(1, 8), (2, 4), (8, 1)]), st.integers(1, 700), st.integers(0, 900),
    st.booleans(), st.sampled_from([0, 16]), st.booleans(),
    st.sampled_from([None, 1, 30, 130, 600, -1, -20, -100, -450]), st.sampled_from([0, 16]),
)  # fmt: skip
@example(1, (1, 8), 1000, 0, True, 16, True, -64, 0)
@example(1, (1, 8), 70, 0, True, 16, True, 30, 0)
def test_the_bound_of_an_attention_is_one(
    sequences: int, heads: tuple[int, int], q_len: int, past: int, causal: bool, out_bits: int, multicast: bool,
    window: int | None, sink_bits: int,
) -> None:  # fmt: skip
    """Every resource: the search leaves out what is slower by the bound."""
    finder = search()
    # A negative window stands for chunks.
    kv_len = q_len + past
    reach = None if window is None or not causal else Reach("window" if window > 0 else "chunk", abs(window))
    if reach is not None:
        kv_len = min(kv_len, reach.keys + q_len - 1) if reach.kind == "window" else q_len + past % reach.keys
        reach = reach if reach.keys < kv_len else None
    problem = AttentionShape(
        sequences, *heads, q_len, kv_len, (128, 64), 96, None, causal, 16, (16, 8), 16, 16, out_bits, 0, "bf16", reach,
        sink_bits,
    )  # fmt: skip
    tilings = attention_candidates(problem, finder.rates)
    tilings = replace(tilings, multicast=np.full(len(tilings), int(multicast)))
    tilings = tilings[np.arange(0, len(tilings), 1 + len(tilings) // 300)]
    least, exact = (finder.attention_resources(problem, tilings, at_least) for at_least in (True, False))
    for field in ("vec_steps", "gdma_bytes", "gdma_commands", "tiu_commands", "dram_read", "dram_written", "macs"):
        assert (getattr(least, field) <= getattr(exact, field)).all(), field
    assert (least.tiu_steps["bf16"] <= exact.tiu_steps["bf16"]).all()
    assert (least.tiu_mean_steps["bf16"] <= exact.tiu_mean_steps["bf16"]).all()
    assert (least.overlaps | ~exact.overlaps).all(), "no plan overlaps what its bound does one after the other"
    time, bound = finder.attention_time(exact).total_s, finder.attention_time(least).total_s
    assert (bound <= time * (1 + 1e-12)).all()
    assert np.median(bound / time) > (0.6 if reach is None else 0.4), "a bound that leaves nothing out is of no use"


def test_one_long_sequence_uses_the_whole_chip() -> None:
    finder = search()
    problem = attention(sequences=1, kv_len=131072)
    plan = finder.attention(problem)
    assert plan.core_counts[2] > 1 and np.prod(plan.core_counts) > 48 and plan.merge.data != "none"
    uncut = PlanAttr.of([1, 8, 1], [1, 16, 512], "pus", 2, ("q", "kv"))
    times = [
        float(finder.attention_time(finder.attention_resources(problem, attentions.tiling_of(p))).total_s[0])
        for p in (plan, uncut)
    ]
    assert times[1] > 5 * times[0]


def test_the_accounting_of_the_target_reads_v_apart_and_stores_one_byte() -> None:
    problem = attention()
    plan = attentions.tiling_of(PlanAttr.of([64, 1, 1], [1, 128, 192], "pus", 2, ("q", "kv")))
    ours, theirs = (
        search(accounting=load_accounting(name)).attention_resources(problem, plan) for name in ("physical", "ds-tpu")
    )
    latent, values, rows = 64 * 4096 * 576, 64 * 4096 * 512, 64 * 128
    assert ours.dram_read[0] == latent + rows * 576
    assert theirs.dram_read[0] == latent + values + rows * 576
    assert (ours.dram_written[0], theirs.dram_written[0]) == (rows * 512 * 2, rows * 512)


def test_softmax_pays_every_step() -> None:
    # 64 sequences on 64 cores: 128 rows, 4096 keys in 22 steps, the last of 64.
    plan = attentions.tiling_of(PlanAttr.of([64, 1, 1], [1, 128, 192], "pus", 2, ("q", "kv")))
    r = search().attention_resources(attention(), plan)
    assert r.vec_steps[0] == 128 * (37 * 4096 + 41 * 22)


def test_causal_prefill_is_about_half() -> None:
    whole, half = (attention(1, 1024, 1024, causal, kv_heads=64) for causal in (False, True))
    plan = attentions.tiling_of(PlanAttr.of([64, 1, 1], [32, 4, 64], "pus", 2, ("q", "kv")))
    finder = search()
    full, seen = (finder.attention_resources(problem, plan) for problem in (whole, half))
    # 32 blocks of queries see 32, 64, .. 1024 keys.
    assert seen.macs[0] * 1024 * 32 == full.macs[0] * sum(range(32, 1025, 32))


def test_65_blocks_on_64_cores_cost_two_waves() -> None:
    # One cube of rows, 65 cubes of columns; K is one cube, so it cannot be split.
    problem = shape(1, 16, 8 * 65, 32)
    free = load_accounting("physical").model_copy(update={"command_startup": "free"})
    whole = search(accounting=free)
    one_block = 2 * 16 * 8 * 32 / (786.432e12 / 64)
    assert time_of(whole, problem, whole.matmul(problem)).engines.tiu_s[0] == pytest.approx(2 * one_block, rel=1e-12)
    mean = search(accounting=load_accounting("ds-tpu"))
    # 64 of 65 columns can be dealt as chunks of 2, 33 of them: the mean over 33 cores.
    assert time_of(mean, problem, mean.matmul(problem)).engines.tiu_s[0] == pytest.approx(
        65 / 33 * one_block, rel=1e-12
    )


def test_a_long_contraction_is_split_and_pays_its_merge() -> None:
    finder, problem = search(), shape(1, 16, 8, 2**20)
    plan = finder.matmul(problem)
    parts = plan.core_counts[3]
    assert parts == 64
    for merge in ("sdma", "dram"):
        other = PlanAttr.of(plan.core_counts, plan.tile_sizes, "gmnk", 2, ("a", "b"), merge)
        time, r = time_of(finder, problem, other), finder.matmul_resources(problem, matmuls.tiling_of(other))
        assert r.merge is not None and (r.merge.sdma_commands[0], r.merge.gdma_commands[0]) == (
            (parts, 1) if merge == "sdma" else (0, 2)
        )
        assert time.engines.sdma_s[0] == pytest.approx((parts * (120e-9 + 8 * 4 / (64e9 * 0.85))) * (merge == "sdma"))
    assert plan.merge.data == "dram", "64 messages of 120 ns each take longer than one load and one store"


def test_what_does_not_fit_is_named() -> None:
    with pytest.raises(PmcError, match=r"^no tile of 16 x 8 x 32 fits the LMEM budget of 230 bytes per core$"):
        search(chip(lmem=512)).matmul(shape(1, 16, 8, 32))
    with pytest.raises(PmcError, match=r"^no tile of attention fits: the smallest needs \d+ bytes of LMEM, the budget"):
        search(chip(lmem=512)).attention(attention())
    wide = {**SG2262.cube.model_dump(), "n": 4096}
    with pytest.raises(PmcError, match=r"^no tile of attention fits: keys come in steps of 4096, a tile has 2048 at"):
        search(chip(cube=wide)).attention(attention())


@pytest.mark.parametrize(
    ("plan", "fault"),
    [
        (PlanAttr.of([1, 1, 128, 1], [16, 8, 32], "gmnk"), "asks for 128 cores, chip sg2262 has 64"),
        (PlanAttr.of([1, 1, 1, 1], [16, 0, 32], "gmnk"), "core counts and tile sizes must be at least 1"),
        (PlanAttr.of([1, 1, 1, 1], [16, 8, 32], "kmn"), "unknown order 'kmn', must be gmnk or gnkm or gmkn"),
        (PlanAttr.of([1, 1, 1], [16, 8, 32], "gmnk"), "needs 4 core counts and 3 tile sizes, found 3 and 3"),
        (PlanAttr.of([1, 1, 1, 1], [16, 8, 32], "gmnk", 3), "slots is 3, must be 1 or 2"),
        (PlanAttr.of([1, 1, 1, 1], [16, 8, 32], "gmnk", 2, ("kv",)), "multicast of 'kv', must be among a, b"),
        (PlanAttr.of([1, 1, 1, 1], [16, 8, 32], "gmnk", 2, ("a",)), "multicast must name both operands, a and b, or"),
        (PlanAttr.of([1, 1, 1, 2], [16, 8, 32], "gmnk"), "merge must say how partial sums are added up exactly where"),
        (PlanAttr.of([1, 1, 1, 2], [16, 8, 32], "gmnk", 2, (), "cdma"), "unknown merge 'cdma', must be none or sdma"),
        (PlanAttr.of([1, 1, 1, 2], [16, 8, 32], "gmnk", 2, (), "sdma"), "merge sdma needs a chunk of one result tile"),
        (PlanAttr.of([1, 1, 1, 1], [64, 1536, 7168], "gmnk"), "its tiles need 12058624 bytes of LMEM, the budget of a"),
    ],
)
def test_a_plan_that_is_not_legal_says_why(plan: PlanAttr, fault: str) -> None:
    found = matmuls.plan_fault(shape(1, 64, 1536, 7168), plan, SG2262)
    assert found is not None and found.startswith(fault)


def test_every_merge_has_its_number() -> None:
    assert [MERGES[i] for i in (matmuls.NONE, matmuls.SDMA, matmuls.DRAM)] == ["none", "sdma", "dram"]


def test_a_step_of_a_ring_keeps_its_keys_on_one_core() -> None:
    step = replace(attention(), out_bits=0)
    plan = PlanAttr.of([32, 1, 2], [1, 128, 192], "pus", 2, (), "dram")
    assert attentions.plan_fault(step, plan, SG2262) == "a step of a ring keeps its keys on one core"
    assert search().attention(step).core_counts[2] == 1


def test_tile_sizes_are_the_smallest_for_their_number_of_tiles() -> None:
    for chunk in (1, 2, 7, 36, 100):
        by_count = {-(-chunk // t): t for t in range(chunk, 0, -1)}
        found = tile_sizes(chunk).tolist()
        assert set(found) <= set(by_count.values()) and found[0] == 1 and found[-1] == chunk
        assert all(by_count[n] in found for n in range(1, min(chunk, 8) + 1) if n in by_count)
