"""Ways to break the compiler on purpose, each as a change of the module that one pass has left."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import TypeVar

from xdsl.dialects.builtin import ArrayAttr, BoolAttr, FloatAttr, IntegerAttr, ModuleOp, StringAttr
from xdsl.ir import Operation, SSAValue
from xdsl.rewriter import Rewriter

from pmc.dialects import dist, g5, layer, tile
from pmc.dialects.assembly import PmcOp
from pmc.dialects.collective import RingExchangeAttr
from pmc.dialects.expr import ExprAttr, expr
from pmc.dialects.tensor import tensor
from pmc.dialects.vector_kinds import ReluWeightedSumAttr, SoftmaxStepAttr, TopkSelectAttr

OpT = TypeVar("OpT", bound=Operation)


@dataclass(frozen=True)
class Mutant:
    """A fault in the result of `guilty`; `phase`, `model` and `cp` are those of a deployment that has the code."""

    name: str
    guilty: str
    change: Callable[[ModuleOp], None]
    model: str = "deepseek"
    phase: str = "decode"
    path: str = ""
    """Where the check must see the first difference, where it can tell."""
    cp: int = 1


MUTANTS: list[Mutant] = []


def mutant(
    guilty: str, model: str = "deepseek", phase: str = "decode", path: str = "", cp: int = 1
) -> Callable[[Callable[[ModuleOp], None]], Callable[[ModuleOp], None]]:
    """Register the decorated change as a fault of the pass `guilty`."""

    def register(change: Callable[[ModuleOp], None]) -> Callable[[ModuleOp], None]:
        MUTANTS.append(Mutant(change.__name__, guilty, change, model, phase, path, cp))
        return change

    return register


def ops(module: ModuleOp, kind: type[OpT], path: str = "") -> list[OpT]:
    """All ops of a kind whose path ends in `path`; there must be one."""
    found = [
        op for op in module.walk() if isinstance(op, kind) and isinstance(op, PmcOp) and op.path.data.endswith(path)
    ]
    assert found, f"no {kind.name} at '..{path}'"
    return found


def first(module: ModuleOp, kind: type[OpT], path: str = "") -> OpT:
    """The first op of a kind at a path."""
    return ops(module, kind, path)[0]


def bypass(op: Operation, value: SSAValue) -> None:
    """Remove `op`, whose users see `value` instead, with the type they expect."""
    type_ = op.results[0].type
    op.results[0].replace_all_uses_with(value)
    parent = op.parent_block()
    assert parent is not None
    parent.erase_op(op)
    Rewriter.replace_value_with_new_type(value, type_)


# -- expand-blocks ----------------------------------------------------------------------------------------------


@mutant("expand-blocks", model="llama")
def swaps_keys_and_values(module: ModuleOp) -> None:
    op = first(module, layer.AttentionOp)
    keys = op.k[0]
    op.operands[1], op.operands[2] = op.v, keys


@mutant("expand-blocks")
def skips_the_softmax_scale(module: ModuleOp) -> None:
    first(module, layer.AttentionOp).properties["scale"] = FloatAttr(1.0, 64)


@mutant("expand-blocks", phase="prefill")
def forgets_the_causal_mask(module: ModuleOp) -> None:
    first(module, layer.AttentionOp).properties["causal"] = BoolAttr.from_bool(False)


@mutant("expand-blocks")
def pairs_the_wrong_rotary_columns(module: ModuleOp) -> None:
    op = first(module, layer.RopeOp)
    op.properties["interleaved"] = BoolAttr.from_bool(not op.interleaved)


@mutant("expand-blocks")
def attends_to_the_old_cache(module: ModuleOp) -> None:
    op = first(module, layer.KvAppendOp, "c_kv_append")
    op.y.replace_uses_with_if(op.cache, lambda use: not isinstance(use.operation, layer.KvAppendOp))


@mutant("expand-blocks")
def adds_the_routed_experts_twice(module: ModuleOp) -> None:
    op = first(module, layer.AddOp, "add_shared")
    op.operands[1] = op.a


@mutant("expand-blocks")
def does_not_normalize_the_router_weights(module: ModuleOp) -> None:
    first(module, layer.RouterTopkOp).properties["normalize"] = BoolAttr.from_bool(False)


@mutant("expand-blocks")
def drops_the_residual(module: ModuleOp) -> None:
    op = first(module, layer.AddOp, "mla.residual")
    op.operands[0] = op.b


# -- sharding ---------------------------------------------------------------------------------------------------


@mutant("annotate-shardings")
def shards_a_projection_by_rows(module: ModuleOp) -> None:
    """The weight after the heads is cut along its columns instead."""
    op = first(module, layer.MatmulOp, "o_proj")
    weight = op.w
    sharding = dist.sharding_of(tensor(weight))
    wrong = dist.Sharding(sharding.dims[::-1])
    Rewriter.replace_value_with_new_type(weight, tensor(weight).with_encoding(dist.ShardingAttr(wrong)))


@mutant("insert-collectives", path="mla.o_proj")
def drops_the_all_reduce_after_o_proj(module: ModuleOp) -> None:
    op = first(module, dist.AllReduceOp, "o_proj")
    bypass(op, op.x)


@mutant("insert-collectives", path="mla.o_proj")
def reduces_twice(module: ModuleOp) -> None:
    op = first(module, dist.AllReduceOp, "mla.o_proj")
    again = dist.AllReduceOp.make([op.y], [op.y.type], op.path.data, {"axis": op.axis})
    block = op.parent_block()
    assert block is not None
    block.insert_op_after(again, op)
    op.y.replace_uses_with_if(again.y, lambda use: use.operation is not again)


@mutant("insert-collectives", path="moe.add_shared")
def dispatches_twice(module: ModuleOp) -> None:
    """Every expert row comes back, is sent again and is combined again."""
    op = first(module, dist.CombineOp)
    again = dist.DispatchOp.make([op.y, op.indices], [op.x.type], op.path.data, {"axis": op.axis, "capacity": "worst"})
    combined = dist.CombineOp.make([again.y, op.indices, op.weights], [op.y.type], op.path.data, {"axis": op.axis})
    block = op.parent_block()
    assert block is not None
    block.insert_ops_after([again, combined], op)
    op.y.replace_uses_with_if(combined.y, lambda use: use.operation is not again)


# -- ring attention ---------------------------------------------------------------------------------------------


def ring(module: ModuleOp) -> layer.RepeatOp:
    """The steps of the first ring after that of a rank's own keys."""
    return next(op for op in ops(module, layer.RepeatOp, "attention") if not op.is_layers)


@mutant("annotate-shardings", model="llama", phase="prefill", path="q_rope", cp=4)
def turns_the_rows_of_all_ranks_as_those_of_the_first(module: ModuleOp) -> None:
    first(module, layer.RopeOp, "q_rope").properties["first"] = ExprAttr(expr(0))


@mutant("annotate-shardings", model="llama", phase="prefill", cp=4)
def turns_striped_rows_as_adjacent_ones(module: ModuleOp) -> None:
    first(module, layer.RopeOp, "k_rope").properties["stride"] = IntegerAttr(1, 64)


@mutant("annotate-shardings", model="llama", phase="prefill", path="lm_head", cp=4)
def takes_the_last_token_of_the_first_rank(module: ModuleOp) -> None:
    op = ops(module, layer.LastTokenOp)[-1]
    op.properties["q_len"] = ExprAttr(expr(1))
    op.operands[0] = first(module, layer.LastTokenOp, "of_rank").y


@mutant("insert-collectives", model="llama", phase="prefill", path="o_proj", cp=4)
def attends_to_the_own_keys_in_every_step(module: ModuleOp) -> None:
    op = next(op for op in ring(module).walk() if isinstance(op, dist.RingExchangeOp))
    bypass(op, op.x)


@mutant("insert-collectives", phase="prefill", path="mla.o_proj", cp=2)
def exchanges_the_latent_but_not_the_rotary_keys(module: ModuleOp) -> None:
    exchanges = [op for op in ring(module).walk() if isinstance(op, dist.RingExchangeOp)]
    assert len(exchanges) == 2
    bypass(exchanges[1], exchanges[1].x)


@mutant("insert-collectives", phase="prefill", path="mla.o_proj", cp=2)
def expands_the_own_latent_in_every_step(module: ModuleOp) -> None:
    op = next(op for op in ring(module).walk() if isinstance(op, layer.MatmulOp))
    op.operands[0] = first(module, layer.MatmulOp, "kv_b_proj").x


@mutant("insert-collectives", model="llama", phase="prefill", path="o_proj", cp=4)
def shows_the_token_itself_to_earlier_ranks(module: ModuleOp) -> None:
    step = next(op for op in ring(module).walk() if isinstance(op, layer.AttentionStepOp))
    step.properties["hidden"] = ExprAttr(expr(0))


@mutant("insert-collectives", model="llama", phase="prefill", path="o_proj", cp=4)
def leaves_out_a_step_of_the_ring(module: ModuleOp) -> None:
    op = ring(module)
    op.properties["count"] = IntegerAttr(op.trip_count - 1, 64)


@mutant("insert-collectives", model="llama", phase="prefill", path="o_proj", cp=4)
def forgets_what_was_summed_before(module: ModuleOp) -> None:
    """The sum of every step starts from that of the own keys."""
    finish = first(module, layer.AttentionFinishOp)
    finish.operands[1] = first(module, layer.AttentionStepOp).row_sum


@mutant("insert-collectives", phase="decode", path="mla.o_proj", cp=2)
def does_not_divide_by_the_sums(module: ModuleOp) -> None:
    finish = first(module, layer.AttentionFinishOp)
    bypass(finish, finish.acc)


@mutant("lower-to-tiles", model="llama", phase="prefill", path="o_proj", cp=4)
def masks_every_block_as_the_own_one(module: ModuleOp) -> None:
    steps = [(op, op.kind) for op in ops(module, tile.VectorOp) if isinstance(op.kind, SoftmaxStepAttr)]
    op, kind = next((op, kind) for op, kind in steps if "cp.step" in kind.position.data.symbols)
    same = kind.position.data.substitute({"cp.step": 0})
    op.kind = SoftmaxStepAttr(kind.scale, kind.causal, ExprAttr(same), kind.key)


@mutant("lower-to-tiles", model="llama", phase="prefill", path="o_proj", cp=4)
def drops_the_state_of_the_step_before(module: ModuleOp) -> None:
    """The accumulator is loaded from where nothing was stored since the first step: from the keys that go around."""
    kernel = [op for op in ops(module, tile.KernelOp, "attention") if op.op_name.data == "layer.attention_step"][1]
    loads = [op for op in kernel.walk() if isinstance(op, tile.LoadOp)]
    sums = next(op for op in reversed(loads) if tile.buffer_type(op.buffer).dims[1] == 1)
    maxima = next(op for op in loads if tile.buffer_type(op.buffer).dims[1] == 1)
    sums.operands[0] = maxima.memref


@mutant("emit-g5", model="llama", phase="prefill", cp=4)
def sends_to_the_wrong_neighbour(module: ModuleOp) -> None:
    """The ring goes around the tensor-parallel ranks."""
    op = next(op for op in ops(module, g5.CdmaOp) if isinstance(op.collective, RingExchangeAttr))
    op.collective = RingExchangeAttr.new([StringAttr("tp")])


@mutant("localize")
def gives_the_heads_to_other_ranks(module: ModuleOp) -> None:
    """dp has the size of tp, but numbers the ranks otherwise."""
    op = first(module, layer.WeightOp, "q_b_proj.weight")
    op.attributes[dist.SHARDING] = dist.ShardingAttr(dist.Sharding(((), ("dp",))))


@mutant("partition-stages", model="llama")
def repeats_the_first_layers_in_every_stage(module: ModuleOp) -> None:
    repeats = [op for op in ops(module, layer.RepeatOp) if op.first.value.data > 0]
    repeats[0].properties["first"] = IntegerAttr(0, 64)


# -- tiles ------------------------------------------------------------------------------------------------------


@mutant("lower-to-tiles", path="mla.o_proj")
def shifts_a_tile_bound(module: ModuleOp) -> None:
    kernel = first(module, tile.KernelOp, "o_proj")
    load = next(op for op in kernel.walk() if isinstance(op, tile.LoadOp) and len(op.offsets.data) == 3)
    load.properties["offsets"] = ArrayAttr(
        [*load.offsets.data[:-1], ExprAttr(expr(0))]  # every core loads the columns of the first
    )


@mutant("lower-to-tiles")
def drops_the_last_partial_tile(module: ModuleOp) -> None:
    kernel = first(module, tile.KernelOp, "experts.silu_mul")
    loop = next(op for op in kernel.walk() if isinstance(op, tile.ForOp))
    loop.properties["count"] = ExprAttr(loop.count.data - 1)


@mutant("lower-to-tiles", path="mla.attention")
def skips_the_softmax(module: ModuleOp) -> None:
    """Every key gets the same weight."""
    op, kind = next((op, op.kind) for op in ops(module, tile.VectorOp) if isinstance(op.kind, SoftmaxStepAttr))
    op.kind = SoftmaxStepAttr(FloatAttr(0.0, 64), kind.causal, kind.position, kind.key)


@mutant("lower-to-tiles")
def starts_each_contraction_anew(module: ModuleOp) -> None:
    op = next(op for op in ops(module, tile.MmaOp) if op.accumulate.data != 0)
    op.properties["accumulate"] = ExprAttr(expr(0))


@mutant("allocate-lmem")
def frees_a_buffer_too_early(module: ModuleOp) -> None:
    """Two operands of one mma share their bytes."""
    kernel = first(module, tile.KernelOp, "o_proj")
    mma = next(op for op in kernel.walk() if isinstance(op, tile.MmaOp))
    a, b = mma.a.owner, mma.b.owner
    assert isinstance(a, tile.AllocOp) and isinstance(b, tile.AllocOp)
    b.properties["address"] = a.properties["address"]


@mutant("allocate-dram")
def reuses_an_array_that_is_still_read(module: ModuleOp) -> None:
    activations = [op for op in ops(module, tile.GlobalOp) if op.kind.data == "activation"]
    residual = next(op for op in activations if op.path.data == "embed")
    other = next(op for op in activations if op.path.data.endswith("moe.norm") or op.path.data.endswith("ffn.norm"))
    other.properties["address"] = residual.properties["address"]


# -- commands ---------------------------------------------------------------------------------------------------


@mutant("emit-g5")
def forgets_a_dependency(module: ModuleOp) -> None:
    """A matmul does not wait for the loads of its operands."""
    op = first(module, g5.TiuOp, "o_proj")
    del op.properties["after"]


@mutant("emit-g5")
def multiplies_the_wrong_rows(module: ModuleOp) -> None:
    op = first(module, g5.TiuOp, "o_proj")
    op.properties["m"] = ExprAttr(expr(1))


@mutant("emit-g5")
def reads_the_weights_of_the_first_layer(module: ModuleOp) -> None:
    """The address of a weight does not follow the layer."""
    load = next(op for op in ops(module, g5.GdmaOp, "o_proj") if "layer" in op.dram.data.symbols)
    load.properties["dram"] = ExprAttr(load.dram.data.substitute({"layer": 0}))


@mutant("emit-g5")
def forgets_a_store(module: ModuleOp) -> None:
    stores = [op for op in ops(module, g5.GdmaOp, "norm") if op.direction == StringAttr("store")]
    block = stores[0].parent_block()
    assert block is not None
    block.erase_op(stores[0])


# -- sparse attention -------------------------------------------------------------------------------------------


@mutant("expand-blocks", model="dsa")
def leaves_out_the_scores_of_the_indexer(module: ModuleOp) -> None:
    """All keys score the same, so that the first are selected."""
    for op in ops(module, layer.IndexScoresOp):
        op.properties["scale"] = FloatAttr(0.0, 64)


@mutant("expand-blocks", model="dsa")
def selects_the_keys_with_the_smallest_scores(module: ModuleOp) -> None:
    for op in ops(module, layer.IndexScoresOp):
        op.properties["scale"] = FloatAttr(-op.scale.value.data, 64)


@mutant("expand-blocks", model="dsa")
def rotates_index_keys_as_those_of_the_latent(module: ModuleOp) -> None:
    """Pairs of adjacent columns, as the first published code did."""
    op = first(module, layer.RopeOp, "indexer.k_rope")
    op.properties["interleaved"] = BoolAttr.from_bool(True)


@mutant("expand-blocks", model="dsa", phase="prefill")
def selects_among_keys_that_come_later(module: ModuleOp) -> None:
    """Every query of a prefill selects as if it were the last."""
    op = first(module, layer.TopkSelectOp)
    op.properties["q_len"] = ExprAttr(expr(1))


@mutant("expand-blocks", model="dsa", phase="prefill")
def attends_to_keys_that_are_not_to_be_seen(module: ModuleOp) -> None:
    """The last selected keys of a query that sees fewer than are selected."""
    op = first(module, layer.SparseAttentionOp)
    op.properties["sequence_q_len"] = ExprAttr(expr(1))


@mutant("insert-collectives", model="dsa", path="dsa.indexer.scores")
def selects_by_the_heads_of_one_rank(module: ModuleOp) -> None:
    op = first(module, dist.AllReduceOp, "indexer.scores")
    bypass(op, op.x)


@mutant("lower-to-tiles", model="dsa", path="dsa")
def forgets_where_a_tile_of_keys_begins(module: ModuleOp) -> None:
    """All positions are one too large."""
    op, kind = next((op, op.kind) for op in ops(module, tile.VectorOp) if isinstance(op.kind, TopkSelectAttr))
    op.kind = TopkSelectAttr(kind.top_k, kind.position, ExprAttr(kind.key.data + 1), kind.always)


@mutant("lower-to-tiles", model="dsa", path="dsa")
def sums_the_heads_of_the_first_only(module: ModuleOp) -> None:
    op, kind = next((op, op.kind) for op in ops(module, tile.VectorOp) if isinstance(op.kind, ReluWeightedSumAttr))
    op.kind = ReluWeightedSumAttr(IntegerAttr(kind.heads.value.data - 1, 64), kind.scale)


@mutant("lower-to-tiles", model="dsa", path="dsa")
def gathers_from_the_first_sequence(module: ModuleOp) -> None:
    op = first(module, tile.GatherRowsOp)
    op.properties["lead"] = ArrayAttr([*op.lead.data[:-1], ExprAttr(expr(0))])


@mutant("emit-g5", model="dsa")
def stores_rows_before_they_are_gathered(module: ModuleOp) -> None:
    """The edge from SDMA to what follows is lost."""
    program = next(op for op in ops(module, g5.ProgramOp) if op.path.data.endswith("gather_c_kv"))
    store = next(op for op in program.walk() if isinstance(op, g5.GdmaOp) and not op.is_load)
    waits = tuple((engine, lag) for engine, lag in store.dependencies if engine != "sdma")
    assert waits != store.dependencies
    store.properties["after"] = g5.AfterAttr(waits)


@mutant("emit-g5", model="dsa")
def gathers_before_the_positions_are_there(module: ModuleOp) -> None:
    gather = first(module, g5.GatherRowsOp)
    assert gather.dependencies
    del gather.properties["after"]


@mutant("emit-g5", model="dsa")
def sums_heads_before_their_products_are_there(module: ModuleOp) -> None:
    op = next(op for op in ops(module, g5.VecOp) if isinstance(op.kind, ReluWeightedSumAttr))
    op.properties["after"] = g5.AfterAttr(tuple(wait for wait in op.dependencies if wait[0] != "tiu"))
