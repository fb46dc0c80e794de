"""Every workload that has a model: a new one is a file of its own and a line here."""

from __future__ import annotations

from collections.abc import Mapping
from types import MappingProxyType

from pmc.backends.silicon.attention import ContextAttention, GenerationAttention
from pmc.backends.silicon.collectives import CustomAllReduce, Nccl
from pmc.backends.silicon.gemm import Gemm
from pmc.backends.silicon.mla import ContextMla, GenerationMla, MlaBmm
from pmc.backends.silicon.moe import Moe
from pmc.backends.silicon.rows import Elementwise, Norm
from pmc.backends.silicon.state_space import GatedDeltaNet, KimiDelta, Mamba2
from pmc.backends.silicon.work import Workload

_WORKLOADS: tuple[type[Workload], ...] = (
    Gemm, ContextAttention, GenerationAttention, ContextMla, GenerationMla, MlaBmm, Moe, Nccl, CustomAllReduce,
    Mamba2, GatedDeltaNet, KimiDelta, Norm, Elementwise,
)  # fmt: skip

WORKLOADS: Mapping[str, type[Workload]] = MappingProxyType({w.KIND: w for w in _WORKLOADS})
"""By kind of table."""
