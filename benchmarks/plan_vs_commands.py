"""Do the commands need what the plans say?  Every op of four deployments, its plan against its emitted commands.

A plan states what it asks of the matrix unit, the vector unit and the DMA engines of the busiest core, and of the DRAM
of the chip; `pmc evaluate --granularity tile` makes its time of that.  Here the same is counted from the commands that
`emit-g5` writes, command by command on all cores, and priced at the same rates.  Prints the largest difference of each
term, and whether bytes and multiply-accumulates agree exactly; exits 1 where a term differs by more than 3%.

    python benchmarks/plan_vs_commands.py [--all] [--fused]

With `--fused` the deployments ask for `fuse_rows` and `fuse_gates`.
"""

from __future__ import annotations

import sys
from collections.abc import Iterator, Mapping
from dataclasses import dataclass

from xdsl.dialects.builtin import ModuleOp
from xdsl.ir import Operation

from pmc.backends.cost.command_time import dram_seconds, engine_seconds
from pmc.backends.cost.model import Target
from pmc.backends.cost.plan_time import PlanTime
from pmc.backends.cost.rates import CoreRates
from pmc.backends.cost.tile import TileCostModel
from pmc.compiler.config import load_accounting, load_chip, load_deployment, load_topology
from pmc.compiler.driver import compile_model, load_model, run_pipeline
from pmc.compiler.pipelines import default_pipeline
from pmc.dialects import g5
from pmc.dialects.analyses.program_resources import ProgramResources, program_resources
from pmc.dialects.analyses.resources import Resources
from pmc.dialects.arch import Chip
from pmc.dialects.assembly import PmcOp
from pmc.dialects.tile_plan import PLAN

CASES = (
    ("deepseek-v3", "p1-r1-b4-c32", "dsv3-decode-ep32"),
    ("deepseek-v3", "p1-r1-b4-c32", "dsv3-prefill-ep32"),
    ("llama-3.1-8b", "p1-r1-b1-c8", "llama-8b-decode"),
    ("llama-3.1-8b", "p1-r1-b1-c8", "llama-8b-prefill"),
    ("llama-3.1-70b", "p1-r1-b1-c8", "llama-70b-decode-tp8"),
    ("llama-3.1-70b", "p1-r1-b1-c8", "llama-70b-prefill-tp8"),
)
LIMIT = 0.03
TERMS = ("matrix", "vector", "gdma", "sdma", "dram")


@dataclass(frozen=True)
class Compared:
    """One op: seconds of every term by its plan and by its commands, and whether bytes and MACs are equal."""

    path: str
    op: str
    plan: dict[str, float]
    commands: dict[str, float]
    exact: bool

    @property
    def difference(self) -> dict[str, float]:
        """Relative difference per term; of terms below a nanosecond the absolute one in nanoseconds."""
        return {t: abs(self.plan[t] - self.commands[t]) / max(self.commands[t], 1e-9) for t in TERMS}


FUSED = {"fuse_rows": True, "fuse_gates": True}


def compare(
    model: str, topology: str, deployment_name: str, chip: Chip, options: Mapping[str, object]
) -> Iterator[Compared]:
    """Every op that becomes a kernel, in program order."""
    deployment = load_deployment(deployment_name, options)
    module = compile_model(load_model(model), chip, load_topology(topology), deployment, "dist")
    rest = default_pipeline(deployment, "commands")[len(default_pipeline(deployment, "dist")) :]
    planned = [spec.name for spec in rest].index("select-tiles") + 1
    run_pipeline(module, rest[:planned])
    target, accounting = Target.of(module), load_accounting("physical")
    costs = TileCostModel(target, accounting)
    stated = [(op, costs.planned(op, {})) for op in planned_ops(module)]
    run_pipeline(module, rest[planned:])
    programs = [op for op in module.walk() if isinstance(op, g5.ProgramOp) and op.op_name.data != "copy"]
    assert len(programs) == len(stated), f"{len(programs)} programs for {len(stated)} ops"
    rates = CoreRates(chip, accounting)
    for (op, found), program in zip(stated, programs, strict=True):
        assert found is not None and isinstance(op, PmcOp) and program.path == op.path
        r, time = found.resources, found.time
        counted = program_resources(program, chip)
        yield Compared(op.path.data, op.name, by_plan(time), by_commands(counted, rates), exactly(r, counted))


def planned_ops(module: ModuleOp) -> list[Operation]:
    """The ops with a plan."""
    return [op for op in module.walk() if PLAN in op.attributes]


def by_plan(time: PlanTime) -> dict[str, float]:
    """Seconds of every term."""
    engines = time.engines
    columns = (engines.tiu_s, engines.vec_s, engines.gdma_s, engines.sdma_s, engines.dram_s)
    return {term: float(column[0]) for term, column in zip(TERMS, columns, strict=True)}


def by_commands(counted: ProgramResources, rates: CoreRates) -> dict[str, float]:
    """The same on the busiest core of each engine, from counted commands."""
    busiest = {engine: float(seconds.max()) for engine, seconds in engine_seconds(counted, rates).items()}
    return {**busiest, "dram": dram_seconds(counted, rates)}


def exactly(r: Resources, counted: ProgramResources) -> bool:
    """Whether the DRAM bytes and the multiply-accumulates of the commands are those of the plan."""
    assert r.merge is not None
    stated = (
        int(r.dram_read[0] + r.merge.dram_read[0]),
        int(r.dram_written[0] + r.merge.dram_written[0]),
        int(r.macs[0]),
    )
    return stated == (counted.dram_read, counted.dram_written, counted.macs)


def main(arguments: list[str]) -> int:
    """Print a table; 1 where a difference is above the limit."""
    chip, worst = load_chip("sg2262"), 0.0
    print(f"| deployment | ops | {' | '.join(TERMS)} | bytes and MACs equal |")
    print(f"|{'---|' * (len(TERMS) + 3)}")
    exact = True
    for model, topology, deployment in CASES:
        rows = list(compare(model, topology, deployment, chip, FUSED if "--fused" in arguments else {}))
        most = {term: max(row.difference[term] for row in rows) for term in TERMS}
        equal = sum(row.exact for row in rows)
        exact, worst = exact and equal == len(rows), max(worst, *most.values())
        cells = " | ".join(f"{100 * most[term]:.2f}%" for term in TERMS)
        print(f"| {deployment} | {len(rows)} | {cells} | {equal} of {len(rows)} |")
        for row in rows:
            if "--all" in arguments or not row.exact or max(row.difference.values()) > LIMIT:
                terms = ", ".join(f"{t} {1e6 * row.plan[t]:.3f} / {1e6 * row.commands[t]:.3f} us" for t in TERMS)
                print(f"  {row.path} {row.op}: {terms}{'' if row.exact else ', bytes or MACs differ'}")
    return 0 if exact and worst <= LIMIT else 1


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
