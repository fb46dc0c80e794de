"""What a GPU and its node can do: the specification of a system, in the form of aiconfigurator's `<system>.yaml`."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from types import MappingProxyType
from typing import Any

import yaml
from pydantic import Field, ValidationError

from pmc.dialects.errors import PmcError, excerpt
from pmc.dialects.schema import Schema, explain

PROCESSORS: Mapping[str, int] = MappingProxyType(
    {
        "a100_pcie": 108, "a100_sxm": 108, "a30": 56, "b200_sxm": 148, "b300_sxm": 148, "b60": 20, "gb200": 152,
        "gb300": 152, "h100_pcie": 114, "h100_sxm": 132, "h200_sxm": 132, "l4": 58, "l40s": 142,
        "rtx_pro_6000_server": 188,
    }
)  # fmt: skip
"""Streaming multiprocessors of a GPU (B60: Xe cores), which the files do not say.  NVIDIA: the architecture papers of
Ampere, Hopper and Ada, and what Blackwell parts report as `multiProcessorCount` (of B300, GB200 and GB300 not
confirmed here).  Only the model reads them, for waves, and its parameters are fitted with them."""


class Gpu(Schema, frozen=True):
    """One GPU.  Rates are dense, in operations per second."""

    mem_bw: float = Field(gt=0, description="bytes per second")
    mem_bw_empirical_scaling_factor: float = Field(gt=0, le=1)
    mem_empirical_constant_latency: float = Field(ge=0, description="seconds")
    mem_capacity: int = Field(gt=0, description="bytes")
    float32_tc_flops: float | None = Field(default=None, gt=0)
    bfloat16_tc_flops: float = Field(gt=0)
    int8_tc_flops: float | None = Field(default=None, gt=0)
    fp8_tc_flops: float | None = Field(default=None, gt=0)
    fp4_tc_flops: float | None = Field(default=None, gt=0)
    power: float | None = Field(default=None, gt=0, description="watts")
    sm_version: int | None = Field(default=None, gt=0)
    num_sms: int | None = Field(default=None, gt=0, description="streaming multiprocessors, or cores that take a tile")


class Node(Schema, frozen=True):
    """How GPUs are connected.  Bandwidths are bytes per second of a GPU in one direction, latencies seconds."""

    num_gpus_per_node: int = Field(gt=0)
    inter_node_bw: float | None = Field(default=None, gt=0, description="none where there is one node")
    intra_node_bw: float | None = Field(default=None, gt=0, description="none where there is one GPU")
    pcie_bw: float | None = Field(default=None, gt=0)
    p2p_latency: float = Field(ge=0)
    num_gpus_per_rack: int | None = Field(default=None, gt=0)
    inter_rack_bw: float | None = Field(default=None, gt=0)
    inter_rack_latency: float | None = Field(default=None, ge=0)


class Misc(Schema, frozen=True):
    """Memory that the framework takes, and versions of libraries."""

    nccl_mem: dict[int, int]
    other_mem: int = Field(ge=0, description="bytes")
    nccl_version: str | None = None
    oneccl_version: str | None = None


class SystemFile(Schema, frozen=True):
    """The whole file."""

    data_dir: str
    gpu: Gpu
    node: Node
    misc: Misc


class System(Schema, frozen=True):
    """A system by name."""

    name: str
    spec: SystemFile

    def rate(self, number_format: str) -> float:
        """Dense operations per second of the tensor cores in `bfloat16`, `int8`, `fp8` or `fp4`.

        Raises PmcError for a format that the system has no rate for.
        """
        rate = getattr(self.spec.gpu, f"{number_format}_tc_flops", None)
        if rate is None:
            formats = ("bfloat16", "int8", "fp8", "fp4")
            has = [f for f in formats if getattr(self.spec.gpu, f"{f}_tc_flops") is not None]
            raise PmcError(f"{self.name} has no rate for {number_format}; it has {', '.join(has)}")
        return float(rate)

    @property
    def processors(self) -> int:
        """How many tiles run at once.  Raises PmcError where neither the file nor `PROCESSORS` says it."""
        count = self.spec.gpu.num_sms or PROCESSORS.get(self.name)
        if count is None:
            raise PmcError(f"{self.name}: how many tiles run at once is not known; say it as gpu.num_sms in its file")
        return count

    @property
    def bytes_per_second(self) -> float:
        """Of the memory of a GPU."""
        return self.spec.gpu.mem_bw

    def link_bytes_per_second(self, ranks: int) -> float:
        """Of a GPU in one direction, between so many: the slowest tier that they span.

        Raises PmcError for more ranks than its only node has.
        """
        node = self.spec.node
        if ranks <= node.num_gpus_per_node and node.intra_node_bw is not None:
            return node.intra_node_bw
        if node.num_gpus_per_rack is not None and ranks > node.num_gpus_per_rack:
            assert node.inter_rack_bw is not None
            return node.inter_rack_bw
        if node.inter_node_bw is None:
            raise PmcError(f"{self.name}: {ranks} ranks are more than its node has ({node.num_gpus_per_node})")
        return node.inter_node_bw


def read_system(path: Path) -> System:
    """The system of a file, named like it.  Raises PmcError for a file that is not as `SystemFile` says."""
    try:
        fields: Any = yaml.safe_load(path.read_text(encoding="utf-8"))
    except (OSError, UnicodeDecodeError, yaml.YAMLError) as error:
        raise PmcError(f"{path}: no readable YAML: {excerpt(' '.join(str(error).split()))}") from None
    if not isinstance(fields, dict):
        raise PmcError(f"{path}: a system has the blocks data_dir, gpu, node and misc")
    try:
        # YAML has no way to write an integer as a number with a fraction, and these files write 4800000000000.
        return System(name=path.stem, spec=SystemFile.model_validate(fields, strict=False))
    except ValidationError as error:
        raise PmcError(f"{path}: {explain(error, SystemFile)[1]}") from None
