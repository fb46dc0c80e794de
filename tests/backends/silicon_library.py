"""A library of tables in a temporary folder: one system, made-up measurements that follow a known law."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from pathlib import Path

import numpy as np

from pmc.backends.silicon.columns import Floats
from pmc.backends.silicon.gemm import Gemm
from pmc.backends.silicon.library import Library
from pmc.backends.silicon.physical import Parameters, log_us
from pmc.backends.silicon.schema import kind_named
from pmc.backends.silicon.system import System, read_system
from pmc.backends.silicon.work import Points

SYSTEM = """
data_dir: data/toy
gpu:
  mem_bw: 1000000000000
  mem_bw_empirical_scaling_factor: 0.8
  mem_empirical_constant_latency: 0.000003
  mem_capacity: 80000000000
  bfloat16_tc_flops: 100000000000000
  fp8_tc_flops: 200000000000000
  power: 400
  num_sms: 100
node:
  num_gpus_per_node: 8
  inter_node_bw: 50000000000
  intra_node_bw: 400000000000
  pcie_bw: 64000000000
  p2p_latency: 0.00001
misc:
  nccl_mem: {1: 0, 2: 100}
  other_mem: 1000
  nccl_version: '2.20'
"""
"""1 TB/s, 100 TFLOP/s in bfloat16, 100 processors."""

LAW = Parameters(
    fixed_us=3.0, compute_efficiency=0.8, memory_efficiency=0.7, overlap_power=3.0, step_us=0.02, tile_us=0.01,
    wave_loss=0.5, idle_loss=0.2,
)  # fmt: skip
TILE = (128, 128)

GEMM_HEADER = "framework,version,device,op_name,kernel_source,gemm_dtype,m,n,k,latency"


def toy_system(root: Path) -> System:
    """The specification, as a file of the library."""
    path = root / "toy.yaml"
    path.write_text(SYSTEM)
    return read_system(path)


def table(root: Path, kind: str, text: str, backend: str = "vllm", version: str = "1.0.0") -> Path:
    """A table of the toy system."""
    path = root / "data" / "toy" / backend / version / f"{kind}_perf.txt"
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(text)
    return path


def gemm_text(rows: Iterable[Sequence[object]], lane: str = "cublas", dtype: str = "bfloat16") -> str:
    """A table from rows of m, n, k, latency in ms."""
    lines = [f"vllm,1.0.0,toy,gemm,{lane},{dtype},{','.join(str(c) for c in row)}" for row in rows]
    return "\n".join([GEMM_HEADER, *lines]) + "\n"


def gemm_points(coordinates: Floats) -> Points:
    return Points(kind_named("gemm"), {"gemm_dtype": "bfloat16"}, coordinates)


def law_ms(system: System, coordinates: Floats, seed: int, noise: float = 0.02) -> Floats:
    """Measurements: the physical model times a factor that varies slowly with the shape, times noise."""
    m, n, k = coordinates.T
    slow = 0.1 * np.sin(np.log2(n) / 2) + 0.1 * np.cos(np.log2(k) / 2 + np.log2(m) / 3)
    shaken = noise * np.random.default_rng(seed).standard_normal(len(coordinates))
    return np.exp(log_us(Gemm, gemm_points(coordinates), system, TILE, LAW) + slow + shaken) / 1e3


def gemm_grid() -> Floats:
    """[rows, (m, n, k)] 17 sizes of m for 36 weights."""
    m = np.unique(np.round(2 ** np.arange(0, 13, 0.8)))
    sizes = [512, 1024, 2048, 3072, 4096, 8192]
    return np.array([[a, n, k] for n in sizes for k in sizes for a in m], dtype=np.float64)


def toy_library(root: Path) -> Library:
    """The system, and a table of matrix products that follows the law."""
    system = toy_system(root)
    grid = gemm_grid()
    times = law_ms(system, grid, seed=1)
    table(root, "gemm", gemm_text([(*(int(c) for c in row), float(t)) for row, t in zip(grid, times, strict=True)]))
    return Library.folder(root)
