"""Every workload that has a model: a new one is a file of its own and a line here."""

from __future__ import annotations

from collections.abc import Mapping
from types import MappingProxyType

from pmc.backends.silicon.gemm import Gemm
from pmc.backends.silicon.work import Workload

_WORKLOADS: tuple[type[Workload], ...] = (Gemm,)

WORKLOADS: Mapping[str, type[Workload]] = MappingProxyType({w.KIND: w for w in _WORKLOADS})
"""By kind of table."""
