"""A chip of `pmc.configs` as a system of this backend: what the formulas of kernels read of it."""

from __future__ import annotations

from pmc.backends.silicon.system import Gpu, Misc, Node, System, SystemFile
from pmc.dialects.arch import Chip, Topology

RATES = {"bfloat16": "bf16", "int8": "i8", "fp8": "f8E4M3FN", "fp4": "f4E2M1FN"}
"""Element types of a chip, by the names of a system."""

MEMORY_EFFICIENCY, MEMORY_LATENCY_S = 0.8, 3e-6
"""Of operations without a table: the same in every file of aiconfigurator 0.12."""


def system_of_chip(chip: Chip, topology: Topology) -> System:
    """Rates, bandwidths and links.  A core takes a tile at once.  Raises PmcError for a chip without bfloat16."""
    supported = chip.macs_per_lane_per_cycle.supported()

    def rate(name: str) -> float | None:
        return chip.peak_flops_per_s(RATES[name]) if RATES[name] in supported else None

    links, boards = topology.links, topology.boards_per_rack * topology.racks_per_pod * topology.pods
    racks = topology.racks_per_pod * topology.pods > 1
    between = links.b2b or links.r2r or links.p2p
    gpu = Gpu(
        mem_bw=chip.dram_bytes_per_s,
        mem_bw_empirical_scaling_factor=MEMORY_EFFICIENCY,
        mem_empirical_constant_latency=MEMORY_LATENCY_S,
        mem_capacity=chip.dram_bytes,
        num_sms=chip.cores,
        bfloat16_tc_flops=chip.peak_flops_per_s(RATES["bfloat16"]),
        int8_tc_flops=rate("int8"),
        fp8_tc_flops=rate("fp8"),
        fp4_tc_flops=rate("fp4"),
    )
    far = links.p2p if topology.pods > 1 else links.r2r
    node = Node(
        num_gpus_per_node=topology.chips_per_board,
        intra_node_bw=links.c2c.gb_per_s * 1e9,
        inter_node_bw=None if boards == 1 or between is None else between.gb_per_s * 1e9,
        p2p_latency=links.c2c.latency_us / 1e6,
        num_gpus_per_rack=topology.chips_per_board * topology.boards_per_rack if racks else None,
        inter_rack_bw=far.gb_per_s * 1e9 if racks and far is not None else None,
    )
    misc = Misc(nccl_mem={}, other_mem=0)
    return System(name=chip.name, spec=SystemFile(data_dir="", gpu=gpu, node=node, misc=misc))
