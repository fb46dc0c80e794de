"""The experts of a layer: `moe`, from the routing to the weighted sum as far as that is on one chip."""

from __future__ import annotations

from xdsl.ir import Operation

from pmc.dialects import dist, layer
from pmc.dialects.analyses.expert_slots import router_of
from pmc.dialects.dist import Mesh
from pmc.dialects.expr import Call, Expr, call, expr, product
from pmc.dialects.silicon import Workload
from pmc.dialects.tensor import tensor
from pmc.passes.match_silicon.cluster import Cluster
from pmc.passes.match_silicon.formats import product as product_format

MOE_TP = "moe_tp"


def match_experts(op: Operation, mesh: Mesh | None, distribution: str) -> Cluster | None:
    """What lies between a dispatch and the combine of its slots; on one chip both of these, and the choice, too.

    The tokens of the key are those of all ranks that send to these experts.
    """
    if not isinstance(op, layer.DispatchOp | dist.DispatchOp):
        return None
    inside = _on_slots(op)
    products = [o for o in inside if isinstance(o, layer.GroupedMatmulOp | layer.GatedMatmulOp)]
    if not products:
        return None
    first = products[0]
    weights = first.w if isinstance(first, layer.GroupedMatmulOp) else first.gate
    ep = 1 if mesh is None or isinstance(op, layer.DispatchOp) else mesh.axis(op.axis.data).size
    moe_tp = 1 if mesh is None else next((axis.size for axis in mesh.axes if axis.name == MOE_TP), 1)
    held, hidden, inner = tensor(weights).dims
    sizes = {
        "num_tokens": of_all_ranks(tensor(op.x).dims[0], ep),
        "hidden_size": hidden,
        "inter_size": inner * moe_tp,
        "topk": tensor(op.indices).dims[1],
        "num_experts": held * ep,
        "moe_tp_size": expr(moe_tp),
        "moe_ep_size": expr(ep),
    }
    words = {"moe_dtype": product_format(tensor(first.x), tensor(weights)), "distribution": distribution}
    return Cluster(inside, Workload("moe", sizes, words))


def of_all_ranks(rows: Expr, ranks: int) -> Expr:
    """The rows that `ranks` share, of which the fullest has `rows`: without what dealing them out has rounded up."""
    if len(rows.terms) == 1:
        ((monomial, factor),) = rows.terms
        for atom in monomial:
            if isinstance(atom, Call) and atom.function == "ceildiv" and atom.args[1] == expr(ranks):
                others = list(monomial)
                others.remove(atom)
                return product([factor, atom.args[0], *(_atom(other) for other in others)])
    return rows * ranks


def _atom(atom: str | Call) -> Expr:
    return expr(atom) if isinstance(atom, str) else call(atom.function, atom.args)


def _on_slots(dispatch: layer.DispatchOp | dist.DispatchOp) -> list[Operation]:
    """The ops of a block behind a dispatch that need its slots, up to the combine; with all that is on this chip."""
    assert dispatch.parent is not None
    values, found, ends = set(dispatch.results), list[Operation](), list[Operation]()
    for op in dispatch.parent.ops:
        if values.isdisjoint(op.operands):
            continue
        if isinstance(op, layer.CombineOp | dist.CombineOp):
            ends.append(op)
        elif isinstance(op, layer.LayerOp):
            found.append(op)
            values.update(op.results)
    if isinstance(dispatch, dist.DispatchOp) or not found:
        return found
    found = [dispatch, *found, *(op for op in ends if isinstance(op, layer.CombineOp))]
    router = router_of(dispatch.indices)
    if router is not None and router.parent is dispatch.parent:
        inside = {*found, router}
        if all(use.operation in inside for value in router.results for use in value.uses):
            found = [router, *found]
    return found
