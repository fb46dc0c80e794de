"""The pass `match-silicon`: what measured tables charge together becomes one query."""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

from xdsl.dialects.builtin import ModuleOp
from xdsl.ir import Block

from pmc.dialects import dist, layer
from pmc.dialects.arch import DeploymentAttr, TopologyAttr
from pmc.dialects.assembly import PropertyValue
from pmc.dialects.dist import Mesh, MeshAttr
from pmc.dialects.levels import MESH, Level
from pmc.dialects.silicon import HOSTS, MEMORY, ExchangeOp, HostOp, QueryOp, Workload, WorkloadAttr
from pmc.passes.base import PassError, PmcPass
from pmc.passes.match_silicon.attention import match_attention
from pmc.passes.match_silicon.cluster import Cluster
from pmc.passes.match_silicon.collectives import match_collective
from pmc.passes.match_silicon.experts import match_experts
from pmc.passes.match_silicon.gemm import match_absorbed, match_gemm
from pmc.passes.match_silicon.rows import runs_of_rows


@dataclass(frozen=True)
class MatchSiliconPass(PmcPass):
    """Rewrite clusters of ops to the queries of the tables that cover them; needs no tables itself.

        %q = layer.matmul(%x, %a) at "blocks.dense.gqa.q_proj" : ..
        %k = layer.matmul(%x, %b) at "blocks.dense.gqa.k_proj" : ..
    becomes
        %q, %k = silicon.query([%x, %a, %b]) {workload = #silicon.workload<gemm, m = batch*q_len, n = 640, k = 4096,
            gemm_dtype = "bfloat16">} at "blocks.dense.gqa.q_proj" : .. {
          the two products, and layer.yield of their results
        }

    What covers what is said in one file per kind of table beside this one.  An op without a table stays as it is.  With
    `host` other than none a `silicon.host` says what the host adds to a step, of every pipeline stage.
    """

    name = "match-silicon"
    READS: ClassVar[tuple[Level, ...]] = ("dist",)
    TOPOLOGY_FIELDS: ClassVar[tuple[str, ...]] = ("chips_per_board",)

    distribution: str = "balanced"
    """How uneven tokens choose experts, as tables of experts call it."""
    host: str = "none"
    """How the host launches kernels: graph, eager or none."""

    def run(self, module: ModuleOp) -> None:
        """Match block by block, what covers most first."""
        if self.host != "none" and self.host not in HOSTS:
            raise PassError(f"{self.name}: host is '{self.host}', must be {', '.join(HOSTS)} or none")
        if any(isinstance(op, QueryOp | ExchangeOp) for op in module.walk()):
            raise PassError(f"{self.name}: the module has queries already")
        mesh, topology = module.attributes.get(MESH), module.attributes.get("arch.topology")
        of_board = topology.data.chips_per_board if isinstance(topology, TopologyAttr) else 1
        for program in [op for op in module.ops if isinstance(op, layer.ProgramOp)]:
            one = program.phase.data == "decode" and not _drafts(module)
            blocks = [
                op.body.block
                for op in program.walk()
                if isinstance(op, layer.ProgramOp | layer.RepeatOp | dist.StageOp)
            ]
            for block in blocks:
                self._match(block, one, mesh.data if isinstance(mesh, MeshAttr) else None, of_board)
            self._add_host(program)

    def _match(self, block: Block, one: bool, mesh: Mesh | None, chips_per_board: int) -> None:
        for op in list(block.ops):
            if op.parent is block and (cluster := match_experts(op, mesh, self.distribution)) is not None:
                cluster.rewrite()
        for op in list(block.ops):
            if op.parent is block and (found := match_attention(op, one) or match_absorbed(op)) is not None:
                found.rewrite()
        for op in list(block.ops):
            if op.parent is block and (found := match_gemm(op)) is not None and found.rewrite() is None:
                alone = match_gemm(op, alone=True)
                assert alone is not None
                alone.rewrite()
        for op in list(block.ops):
            if (found := match_collective(op, mesh, chips_per_board)) is not None:
                found.rewrite(ExchangeOp)
        for run in runs_of_rows(block):
            query = Cluster(run, Workload(MEMORY, {}, {})).rewrite()
            if query is not None:
                work = query.work()
                moved = Workload(MEMORY, {"bytes": work.bytes_read + work.bytes_written}, {})
                query.properties["workload"] = WorkloadAttr(moved)

    def _add_host(self, program: layer.ProgramOp) -> None:
        if self.host == "none":
            return
        host = HOSTS[self.host]
        properties: dict[str, PropertyValue] = {
            "step_us": host.step_us,
            "launch_us": host.launch_us,
            "source": host.source,
        }
        stages = [op for op in program.body.block.ops if isinstance(op, dist.StageOp)]
        scopes: list[dist.StageOp] | list[layer.ProgramOp] = stages or [program]
        for scope in scopes:
            first = scope.body.block.first_op
            assert first is not None
            scope.body.block.insert_op_before(HostOp.make([], [], f"host.{self.host}", properties, like=scope), first)


def _drafts(module: ModuleOp) -> bool:
    """Whether a step of decode verifies drafted tokens, several of every sequence."""
    deployment = module.attributes.get("arch.deployment")
    return isinstance(deployment, DeploymentAttr) and deployment.data.draft_tokens > 0
