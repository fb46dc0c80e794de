"""The tile search against an enumeration of every tiling, and what more LMEM or bandwidth must do to it."""

from __future__ import annotations

import itertools
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from pmc.backends.cost.matmul_search import MatmulSearch, partitions, tile_sizes
from pmc.backends.cost.matmul_tiles import INNERMOST, MatmulTiles
from pmc.backends.cost.rates import CoreRates
from pmc.compiler.config import load_accounting, load_chip
from pmc.dialects.accounting import Accounting
from pmc.dialects.arch import Chip
from pmc.dialects.errors import PmcError
from pmc.dialects.interfaces import MatmulShape

SG2262 = load_chip("sg2262")


def chip(cores: int = 4, lmem: int = 2**15, **changes: Any) -> Chip:
    """A small SG2262 in one row of cores."""
    data = SG2262.model_dump()
    data.update(cores=cores, dies=1, die_to_die=None, **changes)
    data["command_level"]["lmem"]["bytes_per_core"] = lmem
    data["command_level"]["noc"].update(mesh_columns=cores, mesh_rows=1, cluster_columns=1, cluster_rows=1)
    return Chip.model_validate(data)


def search(target: Chip, accounting: Accounting | None = None) -> MatmulSearch:
    return MatmulSearch(MatmulTiles(CoreRates(target, accounting or load_accounting("physical"))))


def shape(groups: int, m: int, n: int, k: int, dtype: str = "f8E4M3FN") -> MatmulShape:
    bits = 8 if dtype == "f8E4M3FN" else 16
    return MatmulShape(groups, m, n, k, bits, bits, 16, dtype)


def exhaustive(finder: MatmulSearch, problem: MatmulShape) -> float:
    """The least time over every partition, tile, loop order and number of slots that fits."""
    rates, tiles = finder.tiles.rates, finder.tiles
    granules = tiles.granules(problem)
    cube_m, cube_n, cube_k = granules.cube
    a_bytes, b_bytes = problem.a_bits / 8, problem.b_bits / 8
    best = np.inf
    blocks = granules.blocks
    for parts in itertools.product(*(range(1, min(rates.cores, b) + 1) for b in blocks)):
        if np.prod(parts) > rates.cores:
            continue
        chunk = [-(-b // p) for b, p in zip(blocks, parts, strict=True)]
        cut = partitions(blocks, rates.cores)
        at = int(np.flatnonzero(np.all(np.stack(cut.chunk, axis=1) == chunk, axis=1))[0])
        for m, n, k in itertools.product(*(range(1, c + 1) for c in chunk[1:])):
            for slots in (1, 2):
                need = slots * (m * cube_m * k * cube_k * a_bytes + n * cube_n * k * cube_k * b_bytes)
                need += m * cube_m * n * cube_n * (max(2, problem.out_bits / 8) + 4)
                if need > finder.budget:
                    continue
                counts = [-(-c // t) for c, t in zip(chunk[1:], (m, n, k), strict=True)]
                mt, nt, kt = (np.asarray([c], np.float64) for c in counts)
                overlaps = slots == 2 and chunk[0] * np.prod(counts) > 1
                for inner in INNERMOST:
                    traffic = tiles.traffic(granules, cut[at], (mt, nt, kt), inner)
                    best = min(best, float(tiles.time(granules, cut[at], traffic, bool(overlaps)).total_s[0]))
    return best


SMALL = [
    (1, 16, 64, 256), (1, 64, 64, 512), (3, 16, 24, 128), (1, 17, 70, 300), (2, 80, 40, 96), (1, 48, 8, 2048),
    (5, 1, 16, 64),
]  # fmt: skip


@pytest.mark.parametrize("dims", SMALL)
@pytest.mark.parametrize("lmem", [2**13, 2**15, 2**17])
def test_no_tiling_is_faster(dims: tuple[int, int, int, int], lmem: int) -> None:
    finder = search(chip(lmem=lmem))
    problem = shape(*dims)
    assert finder.best(problem).seconds == pytest.approx(exhaustive(finder, problem), rel=1e-9)


@pytest.mark.parametrize("multicast", [True, False])
@pytest.mark.parametrize("preset", ["physical", "ds-tpu"])
def test_no_tiling_is_faster_under_any_accounting(preset: str, multicast: bool) -> None:
    finder = search(chip(cores=6, lmem=2**14, gdma_multicast=multicast), load_accounting(preset))
    problem = shape(2, 40, 72, 320)
    assert finder.best(problem).seconds == pytest.approx(exhaustive(finder, problem), rel=1e-9)


dims = st.tuples(st.integers(1, 8), st.integers(1, 700), st.integers(1, 2000), st.integers(1, 3000))


@settings(max_examples=60, deadline=None)
@given(dims, st.integers(14, 21), st.sampled_from(["f8E4M3FN", "bf16"]))
def test_more_lmem_or_bandwidth_is_never_slower(sizes: tuple[int, int, int, int], log_lmem: int, dtype: str) -> None:
    problem = shape(*sizes, dtype)
    base = search(chip(8, 2**log_lmem)).best(problem)
    assert search(chip(8, 2 ** (log_lmem + 1))).best(problem).seconds <= base.seconds * (1 + 1e-9)
    dram = {**SG2262.dram.model_dump(), "bandwidth_gb_per_s": 2 * SG2262.dram.bandwidth_gb_per_s}
    assert search(chip(8, 2**log_lmem, dram=dram)).best(problem).seconds <= base.seconds * (1 + 1e-9)


@settings(max_examples=60, deadline=None)
@given(dims)
def test_the_tile_fits_and_its_parts_explain_its_time(sizes: tuple[int, int, int, int]) -> None:
    problem = shape(*sizes)
    finder = search(SG2262)
    found = finder.best(problem)
    m, n, k = found.tile
    assert found.slots * (m * k + n * k) + m * n * 6 <= 943_718
    assert np.prod(found.parts) <= 64
    slow, fast = max(found.compute_s, found.memory_s), min(found.compute_s, found.memory_s)
    assert slow <= found.seconds <= slow + fast + found.reduction_s + 1e-15
    least = problem.groups * (problem.m * problem.k + problem.n * problem.k + 2 * problem.m * problem.n)
    assert found.traffic_bytes >= least


def test_65_blocks_on_64_cores_cost_two_waves() -> None:
    # One cube of rows, 65 cubes of columns; K is one cube, so it cannot be split.
    whole = search(SG2262).best(shape(1, 16, 8 * 65, 32))
    one_block = 2 * 16 * 8 * 32 / (786.432e12 / 64)
    assert whole.compute_s == pytest.approx(2 * one_block, rel=1e-12)
    mean = search(SG2262, load_accounting("ds-tpu")).best(shape(1, 16, 8 * 65, 32))
    # 64 of 65 columns can be dealt as chunks of 2, 33 of them: the mean over 33 cores.
    assert mean.compute_s == pytest.approx(65 / 33 * one_block, rel=1e-12)


def test_a_long_contraction_is_split_and_pays_its_reduction() -> None:
    found = search(SG2262).best(shape(1, 16, 8, 2**20))
    assert found.parts[3] > 1
    block = 16 * 8 / found.parts[3]
    step = 120e-9 + block * 4 / (64e9 * 0.85) + block / (16 * 16 * 1.5e9)
    assert found.reduction_s == pytest.approx((found.parts[3] - 1) * step, rel=1e-12)


def test_what_does_not_fit_is_named() -> None:
    with pytest.raises(PmcError, match=r"^no tile of 16 x 8 x 32 fits the LMEM budget of 230 bytes per core$"):
        search(chip(lmem=512)).best(shape(1, 16, 8, 32))


def test_tile_sizes_are_the_smallest_for_their_number_of_tiles() -> None:
    for chunk in (1, 2, 7, 36, 100):
        by_count = {-(-chunk // t): t for t in range(chunk, 0, -1)}
        assert sorted(by_count.values()) == tile_sizes(chunk).tolist()
