"""The placement that nobody thought about: expert e on core e modulo cores, its weights in the banks over that core."""

from __future__ import annotations

import numpy as np

from pmc.dialects.errors import PmcError
from pmc.dialects.moe_workload import MoeWorkload
from pmc.dialects.stacked_arch import StackedArch
from pmc.dialects.table import Table
from pmc.dialects.table_columns import Lists, Texts
from pmc.dialects.trace_tables import EXPERTS, POLICIES, TENSORS, trace_table


def identity_placement(arch: StackedArch, workload: MoeWorkload) -> tuple[Table, Table]:
    """The tables of experts and of tensors.  Raises PmcError where the banks of a core cannot hold its experts."""
    experts, shards = workload.routing.experts, workload.tensors.shards_per_expert
    cores = np.arange(experts) % arch.mesh.count
    per_bank = int(arch.dram.bank_capacity_mb // workload.tensors.weight_shard_mb)
    banks = [[bank for bank in arch.banks_at_core(core) for _ in range(per_bank)] for core in range(arch.mesh.count)]
    most = -(-experts // arch.mesh.count) * shards
    if most > len(banks[0]):
        raise PmcError(
            f"core 0 gets {most} shards of weights, the banks over it hold {len(banks[0])}: "
            f"{most - len(banks[0])} too many"
        )
    names: list[str] = []
    places: list[str] = []
    for expert, core in enumerate(cores.tolist()):
        first = expert // arch.mesh.count * shards
        names += [f"W_E{expert}_{shard}" for shard in range(shards)]
        places += [arch.bank_name(bank) for bank in banks[core][first : first + shards]]
    single = np.full(experts, POLICIES.index("single"), np.int64)
    labels = Texts.of([f"E{expert}" for expert in range(experts)])
    return (
        trace_table(EXPERTS, expert=labels, cores=Lists.of_equal(cores, 1), policy=single),
        trace_table(TENSORS, tensor_id=Texts.of(names), dram_bank=Texts.of(places)),
    )
