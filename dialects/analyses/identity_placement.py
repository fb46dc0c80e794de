"""The placement that nobody thought about: expert e on core e modulo cores, its weights in the banks over that core."""

from __future__ import annotations

import numpy as np

from pmc.dialects.analyses.workload_trace import weights_table
from pmc.dialects.errors import PmcError
from pmc.dialects.moe_workload import MoeWorkload
from pmc.dialects.stacked_arch import StackedArch
from pmc.dialects.table import Table
from pmc.dialects.table_columns import Lists, Texts
from pmc.dialects.trace_tables import EXPERTS, POLICIES, TENSORS, trace_table


def identity_placement(arch: StackedArch, workload: MoeWorkload) -> tuple[Table, Table]:
    """The tables of experts and of tensors, see `identity_of`."""
    return identity_of(arch, weights_table(workload))


def identity_of(arch: StackedArch, weights: Table) -> tuple[Table, Table]:
    """The tables of experts and of tensors for the experts of a table `weights`.

    A shard lies in the first bank over its core that the shards before it leave room in.  Raises PmcError where the
    banks of a core cannot hold its experts.
    """
    names, cores = weights.texts("expert").tolist(), arch.mesh.count
    home = np.arange(len(names), dtype=np.int64) % cores
    shelves = [_Shelf(arch, core) for core in range(cores)]
    placed: dict[str, str] = {}
    for number, name in enumerate(names):
        size = int(weights.ints("shard_bytes")[number])
        for shard in range(int(weights.ints("shards")[number])):
            placed[f"W_{name}_{shard}"] = shelves[number % cores].take(size)
    full = next((shelf for shelf in shelves if shelf.lacking), None)
    if full is not None:
        raise PmcError(
            f"the banks over core {full.core} of {arch.name} cannot hold the weights of its experts: "
            f"{full.lacking / 2**20:g} MiB too many"
        )
    single = np.full(len(names), POLICIES.index("single"), np.int64)
    return (
        trace_table(EXPERTS, expert=Texts.of(names), cores=Lists.of_equal(home, 1), policy=single),
        trace_table(TENSORS, tensor_id=Texts.of(list(placed)), dram_bank=Texts.of(list(placed.values()))),
    )


class _Shelf:
    """The banks over a core, filled in their order."""

    def __init__(self, arch: StackedArch, core: int) -> None:
        self.core = core
        self.banks = [arch.bank_name(bank) for bank in arch.banks_at_core(core)]
        self.room = arch.dram.bank_capacity_mb * 2**20
        self.bank, self.used = 0, 0.0
        self.lacking = 0.0
        """Bytes that found no room."""

    def take(self, size: int) -> str:
        """The bank of the next shard."""
        if self.used + size > self.room:
            self.bank, self.used = self.bank + 1, 0.0
        if self.bank == len(self.banks) or size > self.room:
            self.lacking += size
            return ""
        self.used += size
        return self.banks[self.bank]
