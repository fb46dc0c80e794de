"""The dist dialect: meshes, shardings, local shapes, and the bytes of collectives by formula."""

from __future__ import annotations

from itertools import product
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st
from xdsl.dialects.builtin import Float32Type, ModuleOp, bf16, f32, i32
from xdsl.parser import Parser
from xdsl.utils.exceptions import ParseError, VerifyException
from xdsl.utils.test_value import create_ssa_value

from pmc.compiler.context import make_context
from pmc.compiler.driver import module_text, parse_module
from pmc.dialects import dist
from pmc.dialects.dist import Axis, Mesh, MeshAttr, PartialAttr, Sharding, ShardingAttr, local_dim, sharding_of
from pmc.dialects.expr import Expr, expr
from pmc.dialects.tensor import TensorType, tensor

MESH = Mesh(24, (Axis("tp", 2, 1), Axis("dp", 4, 2), Axis("pp", 3, 8), Axis("ep", 8, 1)))
BATCH, Q = expr("batch"), expr("q_len")


# -- meshes -----------------------------------------------------------------------------------------------------


def test_coordinates_are_the_digits_of_a_rank() -> None:
    # 13 = 1*8 + 2*2 + 1
    assert MESH.coordinates(13) == {"tp": 1, "dp": 2, "pp": 1, "ep": 5}


@pytest.mark.parametrize("axis", MESH.axes, ids=lambda a: a.name)
def test_groups_of_an_axis_part_the_ranks(axis: Axis) -> None:
    groups = {axis.group(rank) for rank in range(MESH.ranks)}
    assert sorted(rank for group in groups for rank in group) == list(range(MESH.ranks))
    for group in groups:
        assert [axis.coordinate(rank) for rank in group] == list(range(axis.size))
        assert all(axis.group(rank) == group for rank in group)


def test_ranks_of_a_group_differ_in_one_coordinate_only() -> None:
    names = ("tp", "dp", "pp")
    assert len({tuple(MESH.coordinates(r)[n] for n in names) for r in range(24)}) == 24
    for name, rank in product(names, range(24)):
        others = [{n: MESH.coordinates(r)[n] for n in names if n != name} for r in MESH.axis(name).group(rank)]
        assert all(other == others[0] for other in others)


def test_an_unknown_axis_names_the_known_ones() -> None:
    with pytest.raises(VerifyException, match="the mesh has no axis 'cp', it has tp, dp, pp, ep"):
        MESH.axis("cp")


@pytest.mark.parametrize(
    ("axis", "message"),
    [
        (Axis("tp", 9, 1), "axis tp of 9 x 1 leaves 8 ranks"),
        (Axis("dp", 4, 4), "axis dp of 4 x 4 leaves 8 ranks"),
        (Axis("dp", 0, 1), "axis dp of 0 x 1 leaves 8 ranks"),
    ],
)
def test_an_axis_must_fit_the_ranks(axis: Axis, message: str) -> None:
    with pytest.raises(VerifyException, match=message):
        MeshAttr(Mesh(8, (axis,)))


# -- text -------------------------------------------------------------------------------------------------------


def attribute(text: str) -> Any:
    return Parser(make_context(), text).parse_attribute()


NAMES = st.lists(st.sampled_from(["tp", "dp", "ep", "moe_tp", "tp_kv"]), unique=True, max_size=3).map(tuple)


@given(st.lists(NAMES, max_size=3).map(tuple), NAMES)
def test_shardings_survive(dims: tuple[tuple[str, ...], ...], partial: tuple[str, ...]) -> None:
    value = ShardingAttr(Sharding(dims, partial))
    assert attribute(str(value)) == value
    assert PartialAttr(partial) == attribute(str(PartialAttr(partial)))


AXES = st.tuples(st.sampled_from(["tp", "dp", "ep"]), st.integers(1, 4), st.integers(1, 8))


@given(st.lists(AXES, max_size=3, unique_by=lambda axis: axis[0]))
def test_meshes_survive(axes: list[tuple[str, int, int]]) -> None:
    value = MeshAttr(Mesh(32, tuple(Axis(*axis) for axis in axes)))
    assert attribute(str(value)) == value


def test_text_by_example() -> None:
    assert str(MeshAttr(Mesh(8, (Axis("tp", 2, 1), Axis("dp", 4, 2))))) == (
        "#dist.mesh<8 ranks, tp = 2 stride 1, dp = 4 stride 2>"
    )
    assert str(ShardingAttr(Sharding((("dp", "tp"), ())))) == "#dist.sharding<[[dp, tp], []]>"
    assert str(ShardingAttr(Sharding((("dp",), ()), ("tp",)))) == "#dist.sharding<[[dp], []], partial [tp]>"
    assert str(PartialAttr(("tp", "ep"))) == "#dist.partial<tp, ep>"


@pytest.mark.parametrize("text", ["#dist.sharding<[dp]>", "#dist.sharding<[[dp]], sum [tp]>", "#dist.mesh<tp = 2>"])
def test_malformed_attributes_are_parse_errors(text: str) -> None:
    with pytest.raises(ParseError):
        attribute(text)


# -- shardings --------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("dim", "axes", "expected"),
    [
        (expr(64), (), "64"),
        (expr(64), ("tp",), "32"),
        (expr(65), ("tp",), "33"),  # padded
        (BATCH * Q, ("dp",), "ceildiv(batch, 4)*q_len"),  # whole sequences
        (BATCH * Q, ("dp", "tp"), "ceildiv(ceildiv(batch, 4)*q_len, 2)"),
        (BATCH, ("dp", "tp"), "ceildiv(batch, 8)"),
        (expr("kv_len"), ("tp",), "ceildiv(kv_len, 2)"),
        (expr(64), ("ep", "tp"), "4"),
    ],
)
def test_local_dim(dim: Expr, axes: tuple[str, ...], expected: str) -> None:
    assert str(local_dim(dim, axes, MESH)) == expected


def test_sharding_of_a_type() -> None:
    sharding = Sharding((("dp",), ()), ("tp",))
    plain = TensorType.of((BATCH, 4), bf16)
    assert sharding_of(plain.with_encoding(ShardingAttr(sharding))) == sharding
    assert plain.with_encoding(ShardingAttr(sharding)).partial_axes == ("tp",)
    with pytest.raises(VerifyException, match="has no sharding"):
        sharding_of(plain)


@pytest.mark.parametrize(
    ("before", "after", "message"),
    [
        ((4, bf16, ()), (8, bf16, ()), "only the sharding may change"),
        ((4, bf16, ()), (4, Float32Type(), ()), "only the sharding may change"),
        ((4, bf16, ()), (4, bf16, ("tp",)), "the result is partial, the operand is not"),
    ],
)
def test_a_reshard_changes_the_sharding_only(before: Any, after: Any, message: str) -> None:
    def type_(size: int, element: Any, partial: tuple[str, ...]) -> TensorType:
        return TensorType.of((size,), element, ShardingAttr(Sharding(((),), partial)))

    op = dist.ReshardOp.make([create_ssa_value(type_(*before))], [type_(*after)], "blocks.o_proj")
    with pytest.raises(VerifyException) as error:
        op.verify()
    assert f"dist.reshard at 'blocks.o_proj': {message}" in str(error.value)


# -- bytes ------------------------------------------------------------------------------------------------------


def collective(kind: type[dist.CollectiveOp], x: TensorType, y: TensorType, **properties: Any) -> dist.CollectiveOp:
    op = kind.make([create_ssa_value(x)], [y], "p", {"axis": "tp", **properties})
    op.verify()
    return op


WHOLE = TensorType.of((BATCH, 1000), bf16)


@given(st.integers(1, 9), st.integers(1, 40))
def test_link_bytes_of_rings(size: int, batch: int) -> None:
    """n-1 of n parts for a reduce-scatter or an all-gather, both of them for an all-reduce (Thakur et al., 2005)."""
    at = {"batch": batch}
    value = batch * 1000 * 2
    part = TensorType.of((BATCH, -(-1000 // size)), bf16)
    assert collective(dist.AllReduceOp, WHOLE, WHOLE).exchange().link_bytes(size).evaluate(at) == -(
        -2 * (size - 1) * value // size
    )
    scatter = collective(dist.ReduceScatterOp, WHOLE, part, dim=1)
    assert scatter.exchange().link_bytes(size).evaluate(at) == -(-(size - 1) * value // size)
    gather = collective(dist.AllGatherOp, part, WHOLE, dim=1)
    assert gather.exchange().link_bytes(size).evaluate(at) == (size - 1) * batch * -(-1000 // size) * 2
    assert collective(dist.LocalSliceOp, WHOLE, part, dim=1).exchange().link_bytes(size) == 0


def test_an_all_reduce_sends_what_its_two_halves_send() -> None:
    part = TensorType.of((BATCH, 250), bf16)
    both = collective(dist.ReduceScatterOp, WHOLE, part, dim=1).exchange().link_bytes(4)
    both = both + collective(dist.AllGatherOp, part, WHOLE, dim=1).exchange().link_bytes(4)
    assert collective(dist.AllReduceOp, WHOLE, WHOLE).exchange().link_bytes(4).evaluate({"batch": 3}) == both.evaluate(
        {"batch": 3}
    )


def test_work_of_collectives() -> None:
    part = TensorType.of((BATCH, 250), bf16)
    gather = collective(dist.AllGatherOp, part, WHOLE, dim=1).work()
    assert [str(e) for e in (gather.flops, gather.bytes_read, gather.bytes_written)] == [
        "0", "batch*500", "batch*2000",
    ]  # fmt: skip
    cut = collective(dist.LocalSliceOp, WHOLE, part, dim=1).work()
    assert (cut.flops, cut.bytes_read, cut.bytes_written) == (0, 0, 0)


def test_dispatch_and_combine_send_a_row_per_token_and_remote_choice() -> None:
    """6 tokens of 16 bf16, 3 choices, a group of 4: 3/4 of the choices are at other ranks."""
    x, slots = TensorType.of((6, 16), bf16), TensorType.of((5, 8, 16), bf16)
    indices, weights = TensorType.of((6, 3), i32), TensorType.of((6, 3), f32)
    given_ = [create_ssa_value(t) for t in (x, indices)]
    dispatch = dist.DispatchOp.make(given_, [slots], "p", {"axis": "ep", "capacity": "worst"})
    dispatch.verify()
    rows = 6 * 3 * 16 * 2
    assert dispatch.exchange().link_bytes(4).constant == rows * 3 // 4
    work = dispatch.work()
    assert (work.flops.constant, work.bytes_read.constant) == (0, 6 * 16 * 2 + 6 * 3 * 4)
    assert (work.bytes_written.constant, work.unit) == (5 * 8 * 16 * 2, "none")

    values = [create_ssa_value(t) for t in (slots, indices, weights)]
    combine = dist.CombineOp.make(values, [x], "p", {"axis": "ep"})
    combine.verify()
    assert combine.exchange().link_bytes(4).constant == rows * 3 // 4
    work = combine.work()
    assert (work.flops.constant, work.unit) == (2 * 6 * 16 * 3, "vector")
    assert work.bytes_read.constant == 5 * 8 * 16 * 2 + 2 * 6 * 3 * 4
    assert dispatch.exchange().link_bytes(1) == 0 and combine.exchange().link_bytes(1) == 0


def test_a_send_reads_and_a_recv_writes() -> None:
    send = dist.SendOp.make([create_ssa_value(WHOLE)], [], "p", {"peer": 1, "channel": 0})
    recv = dist.RecvOp.make([], [WHOLE], "p", {"peer": 0, "channel": 0})
    assert (send.work().bytes_read, send.work().bytes_written) == (BATCH * 2000, 0)
    assert (recv.work().bytes_read, recv.work().bytes_written) == (0, BATCH * 2000)


# -- stages -----------------------------------------------------------------------------------------------------

STAGES = """builtin.module {
  dist.stage() {index = 0} at "" {
    %x = layer.weight() {axes = [""]} at "w" : !layer.tensor<[4], bf16>
    dist.send(%x) {peer = 1, channel = 0} at "w"
  }
  dist.stage() {index = 1} at "" {
    %y = dist.recv() {peer = 0, channel = 0} at "w" : !layer.tensor<[4], bf16>
  }
}
"""


@pytest.mark.parametrize("generic", [False, True])
def test_stages_read_and_print(generic: bool) -> None:
    module = parse_module(STAGES, "stages.mlir")
    assert module_text(module) == STAGES
    assert parse_module(module_text(module, generic), "again.mlir").is_structurally_equivalent(module)
    recv = next(op for op in module.walk() if isinstance(op, dist.RecvOp))
    assert tensor(recv.y).dims == (expr(4),)


def test_modules_keep_their_mesh() -> None:
    module = ModuleOp([], {"dist.mesh": MeshAttr(MESH)})
    assert parse_module(module_text(module), "mesh.mlir").attributes == module.attributes
