"""The pass `trace-experts`: what a mixture of experts asks for, token by token, as a logical trace."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import ClassVar

from xdsl.dialects.builtin import ModuleOp

from pmc.dialects import layer
from pmc.dialects.analyses.expert_draws import drawn_routing
from pmc.dialects.analyses.model_trace import StepPlan, model_tables, rank_weights
from pmc.dialects.analyses.moe_layers import moe_layers
from pmc.dialects.analyses.recorded_routing import recorded_routing
from pmc.dialects.analyses.workload_trace import logical_tables, weights_table
from pmc.dialects.arch import DeploymentAttr
from pmc.dialects.deployment import Deployment
from pmc.dialects.dist import MeshAttr
from pmc.dialects.levels import MESH, Stage, level_of
from pmc.dialects.moe_workload import WORKLOAD, MoeWorkload, MoeWorkloadAttr
from pmc.dialects.table import Table
from pmc.dialects.trace import LogicalOp
from pmc.dialects.trace_tables import TraceTableAttr
from pmc.passes.base import PassError, PmcPass


@dataclass(frozen=True)
class TraceExpertsPass(PmcPass):
    """Draw who is routed where, and say what every token asks for.

        builtin.module attributes {trace.workload = #trace.workload<{model = "mixtral-8x7b", routing = {..}, ..}>} {}

    becomes

        trace.logical() {micro_batch = 32, compute = #trace.table<compute, [event_id, ..], 32000 rows, ..>,
            memory = #trace.table<memory, ..>, weights = #trace.table<weights, ..>} at "mixtral-8x7b"

    A module at the dist level is the other source: FLOP and weights of its experts come from the ops between dispatch
    and combine, those of attention from the attention of the layer, and its tokens are routed by the law of its
    deployment.  The trace is then that of the first rank, with experts `L3E17` by layer and index.  Every routing is
    drawn from a seed or recorded, never an expectation.
    """

    name = "trace-experts"
    READS: ClassVar[tuple[Stage, ...]] = ("empty", "dist")

    recorded: str = ""
    """CSV file with the experts of every token, in place of draws; for a workload only."""
    steps: int = 4
    """Steps of a compiled model; a workload has its own."""
    interval_us: int = 3000
    """Time from one step of a compiled model to the next."""
    seed: int = 42
    """Seed of the routing of a compiled model."""
    shard_kib: int = 65536
    """The largest shard of the weights of a compiled model."""

    def run(self, module: ModuleOp) -> None:
        """Add the trace at the end of the module."""
        if any(isinstance(op, LogicalOp) for op in module.ops):
            raise PassError(f"{self.name}: the module has a logical trace already")
        if level_of(module) == "dist":
            module.body.block.add_op(self.of_model(module))
            return
        workload = module.attributes.get(WORKLOAD)
        if not isinstance(workload, MoeWorkloadAttr):
            raise PassError(f"{self.name}: the module has neither a program nor the attribute {WORKLOAD}")
        module.body.block.add_op(self.of_workload(workload.data))

    def of_workload(self, workload: MoeWorkload) -> LogicalOp:
        """The trace of a workload."""
        sequence = workload.sequence
        if self.recorded:
            routing = recorded_routing(Path(self.recorded), workload)
        else:
            routing = drawn_routing(workload.routing, sequence.steps, sequence.micro_batch)
        tables = (*logical_tables(workload, routing), weights_table(workload))
        return logical_op(workload.model, sequence.micro_batch, tables)

    def of_model(self, module: ModuleOp) -> LogicalOp:
        """The trace of the first rank of a compiled model."""
        deployment = self.checked_deployment(module)
        program = next(op for op in module.ops if isinstance(op, layer.ProgramOp))
        mesh = module.attributes.get(MESH)
        if deployment.draft_tokens:
            raise PassError(f"{self.name}: the experts of a draft layer are not traced: draft_tokens must be 0")
        sizes = deployment.symbols
        layers = moe_layers(program, mesh.data if isinstance(mesh, MeshAttr) else None, sizes)
        if not layers:
            raise PassError(f"{self.name}: '{program.path.data}' has no layer with experts")
        tokens = -(-deployment.batch * deployment.q_len // layers[0].routed.replicas)
        plan = StepPlan(
            self.steps, self.interval_us * 1000, tokens, deployment.routing, self.seed, self.shard_kib * 1024
        )
        tables = (*model_tables(layers, plan), rank_weights(layers, plan))
        return logical_op(program.path.data, tokens, tables)

    def checked_deployment(self, module: ModuleOp) -> Deployment:
        """The deployment of the module.  Raises PassError where it has none, or an option does not fit."""
        if self.recorded:
            raise PassError(f"{self.name}: recorded routing is for a workload, this module is a compiled model")
        for option, value in (("steps", self.steps), ("interval-us", self.interval_us), ("shard-kib", self.shard_kib)):
            if value < 1:
                raise PassError(f"{self.name}: {option} is {value}, must be at least 1")
        if self.seed < 0:
            raise PassError(f"{self.name}: seed is {self.seed}, must be at least 0")
        attribute = module.attributes.get("arch.deployment")
        if not isinstance(attribute, DeploymentAttr):
            raise PassError(f"{self.name}: the module has no attribute arch.deployment, which says who is routed where")
        return attribute.data


def logical_op(model: str, micro_batch: int, tables: tuple[Table, Table, Table]) -> LogicalOp:
    """The op of a trace: compute, memory and weights."""
    compute, memory, weights = map(TraceTableAttr, tables)
    return LogicalOp.make(
        [], [], model, {"micro_batch": micro_batch, "compute": compute, "memory": memory, "weights": weights}
    )
