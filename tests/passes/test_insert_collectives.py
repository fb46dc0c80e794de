"""The insert-collectives pass: which collectives a change of sharding becomes, and what they cost on the links."""

from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from xdsl.dialects.builtin import Float64Type, IntegerAttr, ModuleOp, bf16, f32
from xdsl.ir import Block, Region, SSAValue

from pmc.backends.numeric import collectives as numeric
from pmc.backends.numeric.dist import run_dist
from pmc.backends.numeric.environment import Environment
from pmc.backends.numeric.errors import Array
from pmc.compiler.config import load_model_config
from pmc.compiler.context import make_context
from pmc.compiler.frontend import import_hf
from pmc.dialects import dist, layer
from pmc.dialects.assembly import PmcOp
from pmc.dialects.dist import Axis, Mesh, MeshAttr, Sharding, ShardingAttr, sharding_of
from pmc.dialects.expr import expr
from pmc.dialects.levels import MESH
from pmc.dialects.tensor import TensorType, tensor
from pmc.passes.annotate_shardings import AnnotateShardingsPass
from pmc.passes.base import PassError
from pmc.passes.expand_blocks import ExpandBlocksPass
from pmc.passes.insert_collectives import InsertCollectivesPass
from pmc.passes.localize import LocalizePass

CONTEXT = make_context()
SIZES = dict(
    hidden_size=32, num_hidden_layers=2, num_attention_heads=8, num_key_value_heads=8, vocab_size=64,
    intermediate_size=48, n_routed_experts=16, moe_intermediate_size=16, q_lora_rank=24, kv_lora_rank=16,
    qk_nope_head_dim=8, qk_rope_head_dim=4, v_head_dim=8, n_group=4, topk_group=2, num_experts_per_tok=3,
    first_k_dense_replace=1, head_dim=8,
)  # fmt: skip


def compiled(name: str, **mesh: Any) -> ModuleOp:
    config, source = load_model_config(name)
    module = import_hf({**config, **{k: v for k, v in SIZES.items() if k in config}}, source, name)
    ExpandBlocksPass(phase="decode", capacity="worst").apply(CONTEXT, module)
    AnnotateShardingsPass(**mesh).apply(CONTEXT, module)
    InsertCollectivesPass().apply(CONTEXT, module)
    module.verify()
    return module


def collectives(module: ModuleOp) -> list[str]:
    """`all_reduce tp`, `all_gather tp 1`: with axis and dim, and the path, in program order."""
    found: list[str] = []
    for op in module.walk():
        if isinstance(op, dist.CollectiveOp):
            dim = op.properties.get("dim")
            suffix = f" {dim.value.data}" if isinstance(dim, IntegerAttr) else ""
            found.append(f"{op.path.data}: {op.name[5:]} {op.axis.data}{suffix}")
    return found


# -- one reshard ------------------------------------------------------------------------------------------------

MESH_8 = Mesh(8, (Axis("tp", 2, 1), Axis("dp", 2, 2), Axis("ep", 2, 4)))


def reshard_module(before: Sharding, after: Sharding, mesh: Mesh = MESH_8) -> ModuleOp:
    """A weight in one sharding, returned in another; what is a partial sum comes from outside."""
    type_ = TensorType.of((8, 8), Float64Type())
    axes = layer.ArrayAttr([layer.StringAttr("")] * 2)
    weight = layer.WeightOp.make([], [type_.with_encoding(ShardingAttr(before))], "w", {"axes": axes})
    reshard = dist.ReshardOp.make([weight.result], [type_.with_encoding(ShardingAttr(after))], "w")
    end = layer.ReturnOp.make([[reshard.y]], [], "w")
    tokens = TensorType.of(("batch",), bf16, ShardingAttr(Sharding(((),))))
    block = Block([weight, reshard, end], arg_types=[tokens])
    if before.partial:
        weight.result.replace_all_uses_with(block.insert_arg(weight.result.type, 1))
        weight.detach()
    program = layer.ProgramOp.make([], [], "w", {"sym_name": "w", "phase": "decode"}, [Region(block)])
    return ModuleOp([program], {MESH: MeshAttr(mesh)})


def chain(before: Sharding, after: Sharding) -> list[str]:
    module = reshard_module(before, after)
    InsertCollectivesPass().apply(CONTEXT, module)
    module.verify()
    assert not [op for op in module.walk() if isinstance(op, dist.ReshardOp)]
    return [line.removeprefix("w: ") for line in collectives(module)]


def sharding(rows: str = "", columns: str = "", partial: str = "") -> Sharding:
    return Sharding((tuple(rows.split()), tuple(columns.split())), tuple(partial.split()))


@pytest.mark.parametrize(
    ("before", "after", "expected"),
    [
        (sharding(partial="tp"), sharding(), ["all_reduce tp"]),
        (sharding("dp", partial="tp"), sharding("dp tp"), ["reduce_scatter tp 0"]),
        (sharding("dp", partial="tp"), sharding("dp", "tp"), ["reduce_scatter tp 1"]),
        (sharding("dp tp"), sharding("dp"), ["all_gather tp 0"]),
        (sharding("dp"), sharding("dp tp"), ["local_slice tp 0"]),
        (sharding("dp", "tp"), sharding("dp tp"), ["all_gather tp 1", "local_slice tp 0"]),
        (sharding("dp tp"), sharding("tp"), ["all_gather tp 0", "all_gather dp 0", "local_slice tp 0"]),
        (sharding("dp", partial="tp ep"), sharding("dp tp"), ["reduce_scatter tp 0", "all_reduce ep"]),
        (sharding("dp", partial="tp ep"), sharding("dp", partial="tp"), ["all_reduce ep"]),
        (sharding("dp tp", partial="ep"), sharding(), ["all_reduce ep", "all_gather tp 0", "all_gather dp 0"]),
        (sharding(), sharding("dp", "tp"), ["local_slice dp 0", "local_slice tp 1"]),
    ],
)
def test_a_reshard_reduces_then_gathers_then_slices(before: Sharding, after: Sharding, expected: list[str]) -> None:
    assert chain(before, after) == expected


@st.composite
def shardings(draw: st.DrawFn) -> Sharding:
    """The three axes dealt to rows, columns, a partial sum, or nothing."""
    axes = draw(st.permutations(["tp", "dp", "ep"]))
    a, b, c = sorted(draw(st.tuples(*[st.integers(0, 3)] * 3)))
    return Sharding((tuple(axes[:a]), tuple(axes[a:b])), tuple(axes[b:c]))


@settings(max_examples=60, deadline=None)
@given(shardings(), shardings(), st.integers(0, 2))
def test_random_reshards_keep_the_value(before: Sharding, target: Sharding, keep: int) -> None:
    """Every rank holds its part of `before`; after the collectives it holds its part of the target."""
    held = set(before.partial[:keep]) - {a for axes in target.dims for a in axes}
    after = Sharding(target.dims, tuple(a for a in before.partial if a in held))
    steps = chain(before, after) if before != after else []
    rng = np.random.default_rng(0)
    whole = rng.standard_normal((8, 8))
    ranked = _held(whole, before, rng)
    for step in steps:
        kind, axis_name, *dim = step.split()
        axis = MESH_8.axis(axis_name)
        if kind == "all_gather":
            size = next(iter(ranked.values())).shape[int(dim[0])] * axis.size
            ranked = numeric.all_gather(ranked, axis, int(dim[0]), size)
        else:
            ranked = getattr(numeric, kind)(ranked, axis, *map(int, dim))
    total = dict(ranked)
    for name in after.partial:
        total = {
            rank: np.sum([total[r] for r in group], axis=0)
            for group in numeric.groups(range(8), MESH_8.axis(name))
            for rank in group
        }
    for rank, values in total.items():
        expected = whole
        for d, axes in enumerate(after.dims):
            expected = numeric.dim_shard(expected, d, axes, MESH_8, rank)
        np.testing.assert_allclose(values, expected, atol=1e-12)


def _held(whole: Array, sharding_: Sharding, rng: np.random.Generator) -> dict[int, Array]:
    """What ranks hold: shards, of addends that sum up over the partial axes."""
    ways = [MESH_8.axis(a) for a in sharding_.partial]
    count = int(np.prod([a.size for a in ways])) if ways else 1
    parts = rng.standard_normal((count, *whole.shape))
    parts[-1] = whole - parts[:-1].sum(axis=0)
    held: dict[int, Array] = {}
    for rank in range(8):
        index = 0
        for axis in ways:
            index = index * axis.size + axis.coordinate(rank)
        values = parts[index]
        for d, axes in enumerate(sharding_.dims):
            values = numeric.dim_shard(values, d, axes, MESH_8, rank)
        held[rank] = values
    return held


def test_the_interpreter_runs_the_chain() -> None:
    """The same through `run_dist`: a weight split over two axes is returned whole."""
    module = reshard_module(sharding("ep", "tp"), sharding())
    InsertCollectivesPass().apply(CONTEXT, module)
    whole = np.arange(64.0).reshape(8, 8)
    bindings = {"batch": 1, "q_len": 1, "kv_len": 1}
    result = run_dist(module, Environment(bindings, np.zeros(1, np.int64), {"w": whole}))
    np.testing.assert_array_equal(result.outputs[0], whole)


# -- whole models -----------------------------------------------------------------------------------------------


def test_tensor_parallel_llama_has_one_all_reduce_after_o_proj_and_down() -> None:
    assert collectives(compiled("llama-3.1-8b", tp=4, dp=2)) == [
        "embed: all_reduce tp",
        "blocks.dense.gqa.o_proj: all_reduce tp",
        "blocks.dense.ffn.down_proj: all_reduce tp",
        "lm_head.proj: all_gather tp 1",
    ]


def test_sequence_parallel_llama_scatters_and_gathers_instead() -> None:
    assert collectives(compiled("llama-3.1-8b", tp=4, dp=2, sp=True)) == [
        "embed: reduce_scatter tp 0",
        "blocks.dense.gqa.norm: all_gather tp 0",
        "blocks.dense.gqa.o_proj: reduce_scatter tp 0",
        "blocks.dense.ffn.norm: all_gather tp 0",
        "blocks.dense.ffn.down_proj: reduce_scatter tp 0",
        "lm_head.norm: all_gather tp 0",
        "lm_head.proj: all_gather tp 1",
    ]


MOE_MESHES: list[tuple[dict[str, Any], list[str]]] = [
    (dict(dp=8, ep=8), ["dispatch: dispatch ep", "combine: combine ep"]),
    (
        dict(tp=2, dp=4, ep=4, moe_tp=2),
        ["dispatch: dispatch ep", "combine: combine ep", "add_shared: all_reduce tp"],
    ),
    (
        dict(tp=2, dp=4, ep=8),
        [
            "norm: local_slice tp 0", "topk: local_slice tp 0", "dispatch: dispatch ep", "topk: local_slice tp 0",
            "combine: combine ep", "shared.down_proj: reduce_scatter tp 0", "add_shared: all_gather tp 0",
        ],
    ),
    (
        dict(dp=8, ep=2, moe_tp=4),
        [
            "dispatch: dispatch ep", "dispatch: all_gather moe_tp 1",
            "experts.down_proj: reduce_scatter moe_tp 1", "combine: combine ep",
        ],
    ),
    (dict(dp=4, ep=1, moe_tp=4), ["dispatch: all_gather moe_tp 1", "experts.down_proj: reduce_scatter moe_tp 1"]),
    (dict(tp=4, ep=1, moe_tp=4), ["add_shared: all_reduce tp"]),
]  # fmt: skip


@pytest.mark.parametrize(("mesh", "expected"), MOE_MESHES)
def test_collectives_of_an_moe_block(mesh: dict[str, Any], expected: list[str]) -> None:
    prefix = "blocks.moe.moe."
    found = [line for line in collectives(compiled("deepseek-v3", **mesh)) if line.startswith(prefix)]
    assert [line.removeprefix(prefix) for line in found] == expected


@pytest.mark.parametrize("mesh", [mesh for mesh, _ in MOE_MESHES])
@pytest.mark.parametrize("sp", [False, True])
def test_dispatch_and_combine_stand_once_and_no_sum_is_reduced_twice(mesh: dict[str, Any], sp: bool) -> None:
    module = compiled("deepseek-v3", **mesh, sp=sp)
    for local, remote in ((layer.DispatchOp, dist.DispatchOp), (layer.CombineOp, dist.CombineOp)):
        count = {kind: sum(isinstance(op, kind) for op in module.walk()) for kind in (local, remote)}
        assert count == {local: int(mesh["ep"] == 1), remote: int(mesh["ep"] > 1)}
    for op in module.walk():
        if isinstance(op, dist.AllReduceOp):
            uses = [use.operation for use in op.y.uses]
            assert not any(isinstance(user, dist.LocalSliceOp | dist.ReduceScatterOp) for user in uses), op.path
    reduced = [op.x for op in module.walk() if isinstance(op, dist.AllReduceOp | dist.ReduceScatterOp)]
    assert len(set(reduced)) == len(reduced)
    if sp:
        assert not any(isinstance(op, dist.AllReduceOp) for op in module.walk())


def test_a_dispatch_keeps_its_capacity_policy() -> None:
    module = compiled("deepseek-v3", dp=8, ep=8)
    op = next(op for op in module.walk() if isinstance(op, dist.DispatchOp))
    assert op.capacity.data == "worst"
    assert sharding_of(tensor(op.y)).dims[0] == ("ep",)


def test_the_pass_reads_the_dist_level_only() -> None:
    config, source = load_model_config("llama-3.1-8b")
    with pytest.raises(PassError, match="the module is at the model level, this pass reads the dist level"):
        InsertCollectivesPass().apply(CONTEXT, import_hf(config, source, "llama"))


# -- ring attention ---------------------------------------------------------------------------------------------


def ring(
    name: str,
    phase: str = "prefill",
    exchange: str = "expanded",
    absorb: bool = False,
    local: bool = False,
    **mesh: Any,
) -> ModuleOp:
    config, source = load_model_config(name)
    module = import_hf({**config, **{k: v for k, v in SIZES.items() if k in config}}, source, name)
    ExpandBlocksPass(phase, absorb, "worst").apply(CONTEXT, module)
    AnnotateShardingsPass(**mesh).apply(CONTEXT, module)
    InsertCollectivesPass(exchange).apply(CONTEXT, module)
    if local:
        LocalizePass().apply(CONTEXT, module)
    module.verify()
    return module


def rings(module: ModuleOp) -> list[layer.RepeatOp]:
    return [op for op in module.walk() if isinstance(op, layer.RepeatOp) and not op.is_layers]


def body_of(repeat: layer.RepeatOp) -> list[str]:
    """The ops of a ring, `_` for what stands before it: a0, a1, .. are carried, v0, v1, .. made in the body."""
    names: dict[SSAValue, str] = {a: f"a{i}" for i, a in enumerate(repeat.body.block.args)}
    lines: list[str] = []
    for op in repeat.body.block.ops:
        operands = " ".join(names.get(v, "_") for v in op.operands)
        for result in op.results:
            names[result] = f"v{len(names) - len(repeat.body.block.args)}"
        results = " ".join(names[r] for r in op.results)
        lines.append(f"{results} = {op.name} {operands}" if results else f"{op.name} {operands}")
    return lines


def path(value: SSAValue) -> str:
    assert isinstance(value.owner, PmcOp)
    return value.owner.path.data


def test_the_ring_of_llama() -> None:
    """The own keys, then three times those of the rank before, with the state handed on; a division at the end."""
    module = ring("llama-3.1-8b", tp=2, cp=4, dp=2)
    assert not [op for op in module.walk() if isinstance(op, layer.AttentionOp)]
    (repeat,) = rings(module)
    own, finish = repeat.prev_op, repeat.next_op
    assert isinstance(own, layer.AttentionStepOp) and isinstance(finish, layer.AttentionFinishOp)
    gqa = "blocks.dense.gqa"
    assert [path(v) for v in own.operands] == [f"{gqa}.q_rope", f"{gqa}.k_append", f"{gqa}.v_append"]
    assert (repeat.trip_count, repeat.first.value.data, repeat.total.value.data) == (3, 1, 4)
    assert repeat.symbol is not None and repeat.symbol.data == "cp.step"
    # The caches go around as they are after the own tokens were added.
    assert list(repeat.inits) == [own.k[0], own.v, *own.results]
    assert body_of(repeat) == [
        "v0 = dist.ring_exchange a0",
        "v1 = dist.ring_exchange a1",
        "v2 v3 v4 = layer.attention_step _ v0 v1 a2 a3 a4",
        "layer.yield v0 v1 v2 v3 v4",
    ]
    step = next(op for op in repeat.body.block.ops if isinstance(op, layer.AttentionStepOp))
    assert list(step.q) == list(own.q)
    for op in (own, step):
        assert (str(op.q_len.data), bool(op.causal), op.v_dim.value.data) == ("ceildiv(q_len, 4)", True, 4)
        # Of 8 heads of 4 columns: rows are split by dp and cp, heads by tp; statistics have a column for each head.
        widths = [[str(d) for d in tensor(r).dims] for r in op.results]
        assert widths == [["batch*q_len", "32"], ["batch*q_len", "8"], ["batch*q_len", "8"]]
        assert {tensor(r).element_type for r in op.results} == {f32}
        assert {sharding_of(tensor(r)) for r in op.results} == {Sharding((("dp", "cp"), ("tp",)))}
    acc, row_max, row_sum = repeat.results[2:]
    assert list(finish.operands) == [acc, row_sum] and not list(row_max.uses)
    assert sharding_of(tensor(finish.y)) == Sharding((("dp", "cp"), ("tp",)))
    assert [path(use.operation.results[0]) for use in finish.y.uses] == [f"{gqa}.o_proj"]
    assert {op.path.data for op in (own, repeat, step, finish)} == {f"{gqa}.attention"}


@pytest.mark.parametrize("cp", [2, 3, 4, 8])
def test_a_block_of_a_later_rank_hides_the_key_at_the_place_of_the_query(cp: int) -> None:
    """In step s rank r has the keys of rank r - s: key j of it, at j*n + source, is before query i, at i*n + r, or
    not later, while j <= i, but while j < i where the source is the later one."""
    (repeat,) = rings(ring("llama-3.1-8b", cp=cp))
    step = next(op for op in repeat.body.block.ops if isinstance(op, layer.AttentionStepOp))
    own = repeat.prev_op
    assert isinstance(own, layer.AttentionStepOp) and own.hidden.data == expr(0)
    for rank in range(cp):
        for number in range(1, cp):
            hidden = step.hidden.data.evaluate({"cp.rank": rank, "cp.step": number})
            source = (rank - number) % cp
            for i, j in np.ndindex(5, 5):
                assert (j * cp + source <= i * cp + rank) == (j <= i - hidden), (rank, number, i, j)


def test_latents_that_are_key_and_value_go_around_once() -> None:
    """Absorbed MLA reads the latent as key and as value."""
    module = ring("deepseek-v3", "decode", absorb=True, tp=2, cp=2, dp=2, ep=8)
    found = rings(module)
    assert [r.path.data for r in found] == ["blocks.dense.mla.attention", "blocks.moe.mla.attention"]
    for repeat in found:
        assert [path(v).rpartition(".")[2] for v in repeat.inits[:2]] == ["c_kv_append", "k_rope_append"]
        assert body_of(repeat) == [
            "v0 = dist.ring_exchange a0",
            "v1 = dist.ring_exchange a1",
            "v2 v3 v4 = layer.attention_step _ _ v0 v1 v0 a2 a3 a4",
            "layer.yield v0 v1 v2 v3 v4",
        ]
        step = next(op for op in repeat.body.block.ops if isinstance(op, layer.AttentionStepOp))
        assert step.v is step.k[0] and step.q_len.data.evaluate({"q_len": 6}) == 3


def test_expanded_keys_and_values_of_mla_go_around() -> None:
    (repeat, _) = rings(ring("deepseek-v3", tp=2, cp=4, ep=8))
    assert [path(v).rpartition(".")[2] for v in repeat.inits[:3]] == ["k_nope", "k_rope_append", "v"]
    assert body_of(repeat) == [
        "v0 = dist.ring_exchange a0",
        "v1 = dist.ring_exchange a1",
        "v2 = dist.ring_exchange a2",
        "v3 v4 v5 = layer.attention_step _ _ v0 v1 v2 a3 a4 a5",
        "layer.yield v0 v1 v2 v3 v4 v5",
    ]


def test_the_latent_of_mla_goes_around_and_is_expanded_once_in_every_step() -> None:
    (repeat, _) = rings(ring("deepseek-v3", exchange="smallest", tp=2, cp=4, ep=8))
    assert [path(v).rpartition(".")[2] for v in repeat.inits[:2]] == ["c_kv_append", "k_rope_append"]
    assert body_of(repeat) == [
        "v0 = dist.ring_exchange a0",
        "v1 = dist.ring_exchange a1",
        "v2 = layer.matmul v0 _",
        "v3 = layer.slice v2",
        "v4 = layer.slice v2",
        "v5 v6 v7 = layer.attention_step _ _ v3 v1 v4 a2 a3 a4",
        "layer.yield v0 v1 v5 v6 v7",
    ]
    again = list(repeat.body.block.ops)[2:5]
    mla = "blocks.dense.mla"
    assert [path(op.results[0]) for op in again] == [f"{mla}.{n}.of_step" for n in ("kv_b_proj", "k_nope", "v")]
    # As the own keys and values, with the same weight, which does not move.
    own = repeat.prev_op
    assert isinstance(own, layer.AttentionStepOp)
    for op, before in zip(again[1:], (own.k[0].owner, own.v.owner), strict=True):
        assert isinstance(before, layer.SliceOp) and isinstance(op, layer.SliceOp)
        assert {**op.properties, "path": None} == {**before.properties, "path": None}
        assert op.y.type == before.y.type
        assert isinstance(before.x.owner, layer.MatmulOp) and isinstance(again[0], layer.MatmulOp)
        assert again[0].w is before.x.owner.w


@pytest.mark.parametrize(
    ("tp", "expanded", "smallest"),
    [
        # Per position of a rank: 8 / tp heads of 8 + 8 columns against a latent of 16, with 4 rotary columns each.
        (1, 128 + 4, 16 + 4),
        (2, 64 + 4, 16 + 4),
        # The keys of two heads are as wide as the latent, so are their values: together they are not the least.
        (4, 32 + 4, 16 + 4),
        (8, 16 + 4, 16 + 4),
    ],
)
def test_smallest_is_the_least_that_keys_and_values_can_be_made_of(tp: int, expanded: int, smallest: int) -> None:
    at = {"batch": 3, "q_len": 10, "kv_len": 20}
    for exchange, width in (("expanded", expanded), ("smallest", smallest)):
        module = ring("deepseek-v3", exchange=exchange, local=True, tp=tp, cp=2, ep=2 * tp)
        for repeat in rings(module):
            moved = [op for op in repeat.body.block.ops if isinstance(op, dist.RingExchangeOp)]
            # 3 sequences of 10 positions, bf16.
            assert sum(op.exchange().link_bytes(2).evaluate(at) for op in moved) == 3 * 10 * 2 * width


def test_a_latent_as_wide_as_keys_and_values_together_is_not_expanded_again() -> None:
    """With 8 columns of each there are 16 of either: what needs no work goes around."""
    (repeat, _) = rings(ring("deepseek-v3", exchange="smallest", tp=8, cp=2, ep=16))
    assert [path(v).rpartition(".")[2] for v in repeat.inits[:3]] == ["k_nope", "k_rope_append", "v"]


def test_caches_of_llama_are_the_smallest_already() -> None:
    expanded, smallest = (ring("llama-3.1-8b", exchange=e, tp=2, cp=4) for e in ("expanded", "smallest"))
    assert [str(op) for op in expanded.ops] == [str(op) for op in smallest.ops]


@pytest.mark.parametrize("exchange", ["expanded", "smallest"])
@pytest.mark.parametrize("name", ["llama-3.1-8b", "deepseek-v3"])
def test_the_program_does_not_grow_with_the_ring(name: str, exchange: str) -> None:
    def ops(cp: int) -> list[str]:
        mesh: dict[str, Any] = {"ep": cp} if name == "deepseek-v3" else {}
        return [op.name for op in ring(name, exchange=exchange, cp=cp, **mesh).walk()]

    assert ops(2) == ops(4) == ops(16)


def test_without_cp_attention_stays_whole() -> None:
    module = ring("llama-3.1-8b", exchange="smallest", tp=2, dp=2)
    assert not rings(module)
    assert sum(isinstance(op, layer.AttentionOp) for op in module.walk()) == 1


def test_the_collectives_of_a_layer_with_cp() -> None:
    """A gather of last rows is the only collective over cp besides the ring."""
    assert collectives(ring("llama-3.1-8b", tp=2, cp=4)) == [
        "embed: all_reduce tp",
        "blocks.dense.gqa.attention: ring_exchange cp",
        "blocks.dense.gqa.attention: ring_exchange cp",
        "blocks.dense.gqa.o_proj: all_reduce tp",
        "blocks.dense.ffn.down_proj: all_reduce tp",
        "lm_head.last_token.of_rank: all_gather cp 0",
        "lm_head.proj: all_gather tp 1",
    ]


def test_an_unknown_exchange_is_one_line() -> None:
    with pytest.raises(PassError) as error:
        InsertCollectivesPass("latent")
    assert str(error.value) == "insert-collectives: ring-exchange is 'latent', must be expanded or smallest"


# -- bytes on the links -----------------------------------------------------------------------------------------


def test_link_bytes_and_work_of_llama_by_hand() -> None:
    """The o_proj of the local program: batch 6 over dp 2 are 3 rows of 32 bf16 = 192 bytes, a ring of 4."""
    at = {"batch": 6, "q_len": 1, "kv_len": 9}
    for sp in (False, True):
        module = compiled("llama-3.1-8b", tp=4, dp=2, sp=sp)
        LocalizePass().apply(CONTEXT, module)
        ops = {f"{op.path.data} {op.name[5:]}": op for op in module.walk() if isinstance(op, dist.CollectiveOp)}
        if sp:
            scatter, gather = ops["blocks.dense.gqa.o_proj reduce_scatter"], ops["blocks.dense.ffn.norm all_gather"]
            assert scatter.exchange().link_bytes(4).evaluate(at) == 3 * 192 // 4
            # ceil(3 / 4) = 1 row a rank, 64 bytes to each of three others
            assert gather.exchange().link_bytes(4).evaluate(at) == 3 * 64
            work = gather.work()
            assert (work.bytes_read.evaluate(at), work.bytes_written.evaluate(at)) == (64, 192)
        else:
            reduce = ops["blocks.dense.gqa.o_proj all_reduce"]
            assert reduce.exchange().link_bytes(4).evaluate(at) == 2 * 3 * 192 // 4
            work = reduce.work()
            assert (work.flops, work.bytes_read.evaluate(at), work.bytes_written.evaluate(at)) == (expr(0), 192, 192)
            logits = ops["lm_head.proj all_gather"]
            assert logits.exchange().link_bytes(4).evaluate(at) == 3 * 3 * 16 * 2  # 3 rows of 64/4 logits
