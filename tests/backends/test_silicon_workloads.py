"""Work of kernels by hand, on a system with 1 TB/s, 100 TFLOP/s in bfloat16, 200 in FP8 and links of 400 GB/s."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

from pmc.backends.silicon.attention import ContextAttention, GenerationAttention, causal_pairs
from pmc.backends.silicon.collectives import CustomAllReduce, Nccl
from pmc.backends.silicon.gemm import Gemm
from pmc.backends.silicon.mla import ContextMla, GenerationMla, MlaBmm
from pmc.backends.silicon.moe import Moe, active_experts
from pmc.backends.silicon.rows import Elementwise, Norm
from pmc.backends.silicon.state_space import GatedDeltaNet, Mamba2
from pmc.backends.silicon.system import System
from pmc.backends.silicon.work import Workload
from pmc.backends.silicon.workloads import WORKLOADS
from pmc.dialects.errors import PmcError

from .silicon_library import toy_system


@pytest.fixture
def system(tmp_path: Path) -> System:
    return toy_system(tmp_path)


ATTENTION = {"beam_width": 1, "attn_dtype": "bfloat16", "kv_cache_dtype": "fp8"}
LAYER = {"d_model": 512, "d_conv": 4}

CASES: list[tuple[Workload, float, float]] = [
    # workload, operations over the rate (s), bytes over the bandwidth (s)
    (Gemm(16, 32, 64, "bfloat16"), 2 * 16 * 32 * 64 / 1e14, (2 * 16 * 64 + 2 * 32 * 64 + 2 * 16 * 32) / 1e12),
    (Gemm(16, 32, 64, "fp8"), 2 * 16 * 32 * 64 / 2e14, (16 * 64 + 32 * 64 + 2 * 16 * 32) / 1e12),
    (Gemm(16, 32, 64, "int4_wo"), 2 * 16 * 32 * 64 / 1e14, (2 * 16 * 64 + 0.5 * 32 * 64 + 2 * 16 * 32) / 1e12),
    # 2 sequences of 4 new tokens after 3: 4 + 5 + 6 + 7 = 22 pairs; q and result 2 x 2 bytes, k and v of 7 tokens.
    (
        ContextAttention(2, 4, 8, 2, 16, step=3, window_size=0, **ATTENTION),  # type: ignore[arg-type]
        4 * 2 * 8 * 16 * 22 / 1e14, (4 * 2 * 8 * 4 * 16 + 2 * 2 * 2 * 7 * 16) / 1e12,
    ),
    # A window of 5: 4 + 5 + 5 + 5 = 19 pairs, k and v of 3 + 4 tokens.
    (
        ContextAttention(2, 4, 8, 2, 16, step=3, window_size=5, **ATTENTION),  # type: ignore[arg-type]
        4 * 2 * 8 * 16 * 19 / 1e14, (4 * 2 * 8 * 4 * 16 + 2 * 2 * 2 * 7 * 16) / 1e12,
    ),
    # One token after 99 sees 100 keys, or 10 in a window.
    (
        GenerationAttention(3, 1, 8, 2, 16, step=99, window_size=0, **ATTENTION),  # type: ignore[arg-type]
        4 * 3 * 8 * 16 * 100 / 1e14, (4 * 3 * 8 * 16 + 2 * 3 * 2 * 100 * 16) / 1e12,
    ),
    (
        GenerationAttention(3, 1, 8, 2, 16, step=99, window_size=10, **ATTENTION),  # type: ignore[arg-type]
        4 * 3 * 8 * 16 * 10 / 1e14, (4 * 3 * 8 * 16 + 2 * 3 * 2 * 10 * 16) / 1e12,
    ),
    (
        ContextMla(4, 2, 3, 0, "bfloat16", "bfloat16"),
        2 * 2 * 4 * 320 * 6 / 1e14, 2 * 4 * 320 * (2 * 3 + 2 * 3) / 1e12,
    ),
    (
        GenerationMla(4, 2, 1, 9, "bfloat16", "fp8"),
        2 * 2 * 4 * 1088 * 10 / 1e14, 2 * (2 * 1088 * 4 + 10 * 576) / 1e12,
    ),
    (MlaBmm(5, 4, "mla_gen_pre", "fp8"), 2 * 5 * 4 * 128 * 512 / 2e14, 4 * (5 * 640 + 128 * 512) / 1e12),
    # 6 tokens x 2 of 2 experts, one per rank: both get all tokens, so a rank has 6 rows and one active expert.
    (
        Moe(6, 64, 32, 2, 2, 2, 2, "bfloat16", "balanced"),
        2 * 3 * 6 * 64 * 16 / 1e14, (2 * 3 * 64 * 16 + 6 * (2 * 64 + 2 * 64 + 3 * 2 * 16)) / 1e12,
    ),
    (Norm(5, 100, "rms_norm", "bfloat16"), 0, 2 * 2 * 5 * 100 / 1e12),
    (Elementwise(5, 100, "silu_and_mul", "bfloat16"), 0, 3 * 2 * 5 * 100 / 1e12),
    (Nccl(4, 1000, "all_gather", "half"), 0, 2 * 1000 * 3 / 4 / 4e11),
    (Nccl(16, 1000, "all_reduce", "int8"), 0, 2 * 1000 * 15 / 16 / 5e10),
    (CustomAllReduce(2, 1000, "bfloat16"), 0, 2 * 2 * 1000 / 2 / 4e11),
    # The convolution of 2 x 256 + 512 = 1024 channels keeps 3 tokens, the recurrence 4 x 128 x 128 numbers of float32.
    (
        GatedDeltaNet(2, 8, num_k_heads=2, head_k_dim=128, num_v_heads=4, head_v_dim=128, phase="context",
                      kernel_source="causal_conv1d_fn", **LAYER),  # type: ignore[arg-type]
        0, (2 * 2 * 16 * 1024 + 2 * 2 * 3 * 1024 * 2) / 1e12,
    ),
    (
        GatedDeltaNet(2, 8, num_k_heads=2, head_k_dim=128, num_v_heads=4, head_v_dim=128, phase="context",
                      kernel_source="chunk_gated_delta_rule", **LAYER),  # type: ignore[arg-type]
        0, (2 * 16 * (1024 + 512) + 2 * 2 * 4 * 128 * 128 * 4) / 1e12,
    ),
]  # fmt: skip


@pytest.mark.parametrize(("workload", "compute_s", "memory_s"), CASES, ids=lambda c: str(c)[:40])
def test_work_by_hand(system: System, workload: Workload, compute_s: float, memory_s: float) -> None:
    work = type(workload).work(workload.points, system)
    assert work.compute_s[0] == pytest.approx(compute_s) and work.memory_s[0] == pytest.approx(memory_s)
    assert work.sol_ms[0] == pytest.approx(1e3 * max(compute_s, memory_s))


def test_pairs_are_those_that_are_counted() -> None:
    cases = [(s, p, w) for s in range(1, 7) for p in range(5) for w in range(9)]
    columns = np.array(cases, dtype=np.float64).T
    counted = [sum(min(t, w) if w else t for t in range(p + 1, p + s + 1)) for s, p, w in cases]
    assert causal_pairs(*columns).tolist() == counted


def test_active_experts_are_those_of_many_draws() -> None:
    """5 tokens draw 2 of 8 experts each: 8 (1 - (6/8)^5) of them are drawn; half of them are on a rank of two."""
    points = Moe(5, 64, 32, 2, 8, 1, 2, "bfloat16", "balanced").points
    draw = np.random.default_rng(0)
    drawn = [len({e for _ in range(5) for e in draw.permutation(8)[:2]}) for _ in range(4000)]
    assert active_experts(points)[0] == pytest.approx(4 * (1 - 0.75**5))
    assert 2 * active_experts(points)[0] == pytest.approx(float(np.mean(drawn)), rel=0.02)


@pytest.mark.parametrize("workload", [c[0] for c in CASES], ids=lambda w: w.KIND)
def test_tiles_cover_the_work_and_features_are_finite(workload: Workload) -> None:
    kind = type(workload)
    assert np.all(np.isfinite(kind.features(workload.points)))
    for tile in kind.tilings():
        cut = kind.tiling(workload.points, tile)
        assert cut.padded[0] >= 1 and cut.tiles[0] >= 1 and cut.steps[0] > 0
    assert set(kind.shape_axes()) < set(kind.table_kind().axes)


def test_a_workload_has_the_fields_of_its_table() -> None:
    for name, workload in WORKLOADS.items():
        kind = workload.table_kind()
        assert kind.name == name
        assert set(workload.__dataclass_fields__) - {"KIND"} == {*kind.axes, *kind.categories}


@pytest.mark.parametrize(
    ("make", "message"),
    [
        (lambda: Gemm(0, 2, 3, "fp8"), "gemm: m is 0, expected a whole number from 1"),
        (lambda: Gemm(1.5, 2, 3, "fp8"), "gemm: m is 1.5"),  # type: ignore[arg-type]
        (lambda: Nccl(1, 2, "all_gather", "half"), "nccl: num_gpus is 1, expected a whole number from 2"),
        (lambda: Mamba2(1, 1, 64, 16, 4, 2, 64, 1, -1, "context", "conv"), "chunk_size is -1"),
    ],
)
def test_sizes_that_mean_nothing(make: object, message: str) -> None:
    assert callable(make)
    with pytest.raises(PmcError) as error:
        make()
    assert message in str(error.value)


@pytest.mark.parametrize(
    ("workload", "message"),
    [
        (Gemm(1, 2, 3, "fp9"), "gemm_dtype 'fp9' is no known number format; did you mean 'fp8'"),
        (Gemm(1, 2, 3, "nvfp4"), "toy has no rate for fp4"),
        (Nccl(2, 3, "all_gathr", "half"), "no collective 'all_gathr'; did you mean 'all_gather'"),
        (Norm(2, 3, "rmsnorm", "bfloat16"), "norm: no operation 'rmsnorm'; did you mean 'rms_norm'"),
        (Nccl(2, 3, "all_gather", "fp4"), "nccl_dtype 'fp4' is neither half nor int8"),
    ],
)
def test_formats_that_are_not_covered_are_refused(system: System, workload: Workload, message: str) -> None:
    with pytest.raises(PmcError) as error:
        type(workload).work(workload.points, system)
    assert message in str(error.value)
