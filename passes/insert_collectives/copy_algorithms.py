"""The algorithm of a dispatch or combine that sends a token once to every rank or board with any of its experts."""

from __future__ import annotations

from dataclasses import dataclass

from xdsl.dialects.builtin import ModuleOp
from xdsl.ir import SSAValue

from pmc.dialects.analyses.expert_slots import router_of
from pmc.dialects.analyses.token_copies import RouterChoice, token_copies
from pmc.dialects.arch import DeploymentAttr, TopologyAttr
from pmc.dialects.collective import AlgorithmAttr, PerNodeAttr, PerRankAttr
from pmc.dialects.dist import Axis, Mesh
from pmc.dialects.errors import PmcError
from pmc.dialects.tensor import tensor
from pmc.passes.base import PassError


@dataclass(frozen=True)
class CopyAlgorithms:
    """The algorithms of one program, by the option `dispatch` of the pass."""

    module: ModuleOp
    mesh: Mesh
    dispatch: str

    def algorithm(self, indices: SSAValue, name: str, path: str) -> AlgorithmAttr | None:
        """How tokens with the experts `indices` go along an axis; None for a row for every choice.

        Raises PassError, naming the path, where it is not known how tokens choose, or how ranks share boards.
        """
        axis = self.mesh.axis(name)
        if self.dispatch == "direct" or axis.size == 1:
            return None
        deployed = self.module.attributes.get("arch.deployment")
        if not isinstance(deployed, DeploymentAttr):
            raise PassError(f"{_place(path)} needs the attribute 'arch.deployment', which says how tokens are routed")
        per_node = self._per_node(axis, path) if self.dispatch == "per_node" else 1
        try:
            copies = token_copies(deployed.data.routing, _choice(indices, path), axis.size, per_node)
        except PmcError as error:
            raise PassError(f"{_place(path)}: {error}") from None
        if 1 < per_node < axis.size:
            return PerNodeAttr.of(per_node, copies.nodes, copies.in_nodes)
        return PerRankAttr.of(copies.ranks)

    def _per_node(self, axis: Axis, path: str) -> int:
        """The ranks of a group that share a board, as many on every board."""
        topology = self.module.attributes.get("arch.topology")
        if not isinstance(topology, TopologyAttr):
            raise PassError(f"{_place(path)} by node needs the attribute 'arch.topology', which says what boards hold")
        chips = topology.data.chips_per_board
        groups = {axis.group(rank) for rank in range(self.mesh.ranks)}
        per_node = sum(rank // chips == 0 for rank in axis.group(0))
        for group in groups:
            boards = [rank // chips for rank in group]
            if axis.size % per_node or any(
                boards[i] != boards[i // per_node * per_node] or (i >= per_node and boards[i] == boards[i - per_node])
                for i in range(axis.size)
            ):
                raise PassError(
                    f"{_place(path)} by node: the {axis.size} ranks of a group along '{axis.name}' are not dealt to "
                    f"boards of {chips} chips evenly; dispatch per_rank or direct does without nodes"
                )
        return per_node


def _choice(indices: SSAValue, path: str) -> RouterChoice:
    """What the router chooses from whose result `indices` is, on whatever rank."""
    router = router_of(indices)
    if router is None:
        raise PassError(
            f"{_place(path)}: the indices do not come from layer.router_topk: to how many ranks a token goes is not "
            "known; dispatch direct needs no expectation"
        )
    experts = tensor(router.logits).dims[-1].constant
    return RouterChoice(experts, router.top_k.value.data, router.groups.value.data, router.top_groups.value.data)


def _place(path: str) -> str:
    return f"insert-collectives: dispatch at '{path}'"
