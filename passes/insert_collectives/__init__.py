"""The pass `insert-collectives`: every change of sharding becomes the collectives that bring it about."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import ClassVar

from xdsl.dialects.builtin import ModuleOp
from xdsl.ir import Operation, SSAValue
from xdsl.pattern_rewriter import (
    GreedyRewritePatternApplier,
    PatternRewriter,
    PatternRewriteWalker,
    RewritePattern,
    op_type_rewrite_pattern,
)

from pmc.dialects import dist, layer
from pmc.dialects.assembly import PropertyValue
from pmc.dialects.dist import Mesh, MeshAttr, Sharding, ShardingAttr, sharding_of
from pmc.dialects.levels import MESH, Level
from pmc.dialects.tensor import tensor
from pmc.passes.base import PassError, PmcPass
from pmc.passes.insert_collectives.copy_algorithms import CopyAlgorithms
from pmc.passes.insert_collectives.ring_attention import ring_attention

RING_EXCHANGES = ("expanded", "smallest")
DISPATCHES = ("direct", "per_rank", "per_node")


@dataclass(frozen=True)
class InsertCollectivesPass(PmcPass):
    """Lower `dist.reshard` to collectives, MoE dispatch to all-to-all, attention over keys that cp splits to a ring.

    A reshard is done in three moves: reduce the partial sums, gather the dims that lose an axis, slice those that gain
    one.  A sum whose result is split along the same axis becomes one reduce_scatter; no value is both all-reduced
    and scattered.

        %s = dist.reshard(%y) : partial [tp] -> [[dp], []]
    becomes
        %s = dist.all_reduce(%y) {axis = "tp"}
    and `partial [tp] -> [[dp, tp], []]` becomes `dist.reduce_scatter(%y) {axis = "tp", dim = 0}`.  By which
    algorithm a collective goes is left open: `select-algorithms` chooses when sizes are known.

    Ring attention: keys and values go around the ranks of cp, and each of them is attended to where it comes by.  What
    a step of the ring exchanges does not depend on what it computes, so both can run at the same time.

        %y = layer.attention([%q], [%k], %v) {..} : #dist.sharding<[[cp], [tp]]>
    becomes, with cp = 4,
        %a, %m, %s = layer.attention_step([%q], [%k], %v, []) {..}
        .. = layer.repeat 3 from 1 of 4 as "cp.step" (%k0 = %k, %v0 = %v, %a0 = %a, %m0 = %m, %s0 = %s) .. {
          %k1 = dist.ring_exchange(%k0) {axis = "cp"}
          %v1 = dist.ring_exchange(%v0) {axis = "cp"}
          %a1, %m1, %s1 = layer.attention_step([%q], [%k1], %v1, [%a0, %m0, %s0]) {..}
          layer.yield([%k1, %v1, %a1, %m1, %s1])
        }
        %y = layer.attention_finish(..)

    With `ring-exchange = "smallest"` the tensors that go around are those with the fewest bytes from which keys and
    values are computed position by position, in MLA the latent, and each step computes the keys and values again; with
    `expanded` they are the keys and values themselves.

    A dispatch sends a row for every choice of a token.  With `dispatch = "per_rank"` a token goes once to every rank
    that holds any of its experts, with `per_node` once to every board that does (`token_copies.py`).  How often that is
    follows from the router, the routing of the deployment and the boards of the topology, and stands in the algorithm:

        dist.dispatch(%x, %i) {axis = "ep", algorithm = #dist.per_node<ranks = 8, nodes = 2.2, copies = 5.8>, ..}

    Assumes the shardings of annotate-shardings.
    """

    name = "insert-collectives"
    READS: ClassVar[tuple[Level, ...]] = ("dist",)
    TOPOLOGY_FIELDS: ClassVar[tuple[str, ...]] = ("chips_per_board",)

    ring_exchange: str = "expanded"
    dispatch: str = "direct"

    def __post_init__(self) -> None:
        """Check the options."""
        if self.dispatch not in DISPATCHES:
            raise PassError(f"{self.name}: dispatch is '{self.dispatch}', must be one of {', '.join(DISPATCHES)}")
        if self.ring_exchange not in RING_EXCHANGES:
            raise PassError(
                f"{self.name}: ring-exchange is '{self.ring_exchange}', must be {' or '.join(RING_EXCHANGES)}"
            )

    @property
    def deployment_fields(self) -> tuple[str, ...]:
        """What says to how many ranks and boards a token goes; on what boards the ranks of all stages are."""
        return {"direct": (), "per_rank": ("routing",), "per_node": ("routing", "pp")}[self.dispatch]

    @property
    def reads_sizes(self) -> bool:
        """How many copies of a token are sent depends on how many ranks share the experts."""
        return self.dispatch != "direct"

    def run(self, module: ModuleOp) -> None:
        """Rewrite all reshards, dispatches and combines."""
        mesh = module.attributes[MESH]
        assert isinstance(mesh, MeshAttr)
        copies = CopyAlgorithms(module, mesh.data, self.dispatch)
        patterns = GreedyRewritePatternApplier(
            [
                LowerReshard(),
                DispatchToAllToAll(copies),
                CombineToAllToAll(copies),
                AttentionToRing(mesh.data, self.ring_exchange == "smallest"),
            ]
        )
        PatternRewriteWalker(patterns, apply_recursively=False).rewrite_module(module)


class LowerReshard(RewritePattern):
    """Reduce, gather, slice."""

    @op_type_rewrite_pattern
    def match_and_rewrite(self, op: dist.ReshardOp, rewriter: PatternRewriter) -> None:
        """Replace the reshard by its collectives."""
        chain = _Chain(op)
        target = sharding_of(tensor(op.y))
        for axis in [a for a in chain.sharding.partial if a not in target.partial]:
            chain.reduce(axis, target)
        for dim in range(len(target.dims)):
            while not _is_prefix(chain.sharding.dims[dim], target.dims[dim]):
                chain.gather(dim)
        for dim, axes in enumerate(target.dims):
            for axis in axes[len(chain.sharding.dims[dim]) :]:
                chain.slice(axis, dim)
        rewriter.replace(op, chain.ops, [chain.value])


def _is_prefix(axes: tuple[str, ...], of: tuple[str, ...]) -> bool:
    return of[: len(axes)] == axes


class _Chain:
    """Collectives one after the other, each with the sharding it leaves."""

    def __init__(self, op: dist.ReshardOp) -> None:
        self.op = op
        self.value: SSAValue = op.x
        self.sharding = sharding_of(tensor(op.x))
        self.ops: list[Operation] = []

    def reduce(self, axis: str, target: Sharding) -> None:
        """Sum over `axis`, scattered where the target wants the result split next by that axis."""
        rest = tuple(a for a in self.sharding.partial if a != axis)
        for dim, axes in enumerate(target.dims):
            now = self.sharding.dims[dim]
            if axes[: len(now) + 1] == (*now, axis):
                self._append(dist.ReduceScatterOp, axis, self._with(dim, (*now, axis), rest), dim)
                return
        self._append(dist.AllReduceOp, axis, Sharding(self.sharding.dims, rest), None)

    def gather(self, dim: int) -> None:
        """Undo the innermost axis of a dim."""
        *kept, axis = self.sharding.dims[dim]
        self._append(dist.AllGatherOp, axis, self._with(dim, tuple(kept), self.sharding.partial), dim)

    def slice(self, axis: str, dim: int) -> None:
        """Keep the own part of a dim."""
        now = (*self.sharding.dims[dim], axis)
        self._append(dist.LocalSliceOp, axis, self._with(dim, now, self.sharding.partial), dim)

    def _with(self, dim: int, axes: tuple[str, ...], partial: tuple[str, ...]) -> Sharding:
        dims = list(self.sharding.dims)
        dims[dim] = axes
        return Sharding(tuple(dims), partial)

    def _append(self, kind: type[dist.CollectiveOp], axis: str, sharding: Sharding, dim: int | None) -> None:
        type_ = tensor(self.value).with_encoding(ShardingAttr(sharding))
        properties: Mapping[str, PropertyValue] = {"axis": axis, "dim": dim}
        op = kind.make([self.value], [type_], self.op.path.data, properties, like=self.op)
        self.ops.append(op)
        self.value, self.sharding = op.y, sharding


@dataclass
class DispatchToAllToAll(RewritePattern):
    """A dispatch into experts that an axis splits sends tokens over that axis."""

    copies: CopyAlgorithms

    @op_type_rewrite_pattern
    def match_and_rewrite(self, op: layer.DispatchOp, rewriter: PatternRewriter) -> None:
        """Replace layer.dispatch by dist.dispatch."""
        axes = sharding_of(tensor(op.y)).dims[0]
        if axes:
            rewriter.replace(
                op,
                dist.DispatchOp.make(
                    [op.x, op.indices],
                    [op.y.type],
                    op.path.data,
                    {
                        "axis": axes[0],
                        "capacity": op.capacity,
                        "algorithm": self.copies.algorithm(op.indices, axes[0], op.path.data),
                    },
                    like=op,
                ),
            )


@dataclass
class CombineToAllToAll(RewritePattern):
    """A combine from experts that an axis splits brings the rows back over that axis."""

    copies: CopyAlgorithms

    @op_type_rewrite_pattern
    def match_and_rewrite(self, op: layer.CombineOp, rewriter: PatternRewriter) -> None:
        """Replace layer.combine by dist.combine."""
        axes = sharding_of(tensor(op.y_experts)).dims[0]
        if axes:
            operands = [op.y_experts, op.indices, op.weights]
            algorithm = self.copies.algorithm(op.indices, axes[0], op.path.data)
            properties: Mapping[str, PropertyValue] = {"axis": axes[0], "algorithm": algorithm}
            rewriter.replace(op, dist.CombineOp.make(operands, [op.y.type], op.path.data, properties, like=op))


@dataclass
class AttentionToRing(RewritePattern):
    """Attention over keys that an axis splits works on one part after the other."""

    mesh: Mesh
    smallest: bool

    @op_type_rewrite_pattern
    def match_and_rewrite(self, op: layer.AttentionOp, rewriter: PatternRewriter) -> None:
        """Replace layer.attention by a ring of steps."""
        axes = sharding_of(tensor(op.v)).dims[1]
        if axes:
            ops, y = ring_attention(op, self.mesh.axis(axes[0]), self.mesh, self.smallest)
            rewriter.replace(op, ops, [y])
