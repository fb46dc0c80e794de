"""Random modules of every dialect: they verify, and parse(print(m)) == m in the custom and the generic form.

Every op class has a builder here, a test holds that; sizes, types, properties and nesting are random.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from itertools import count
from math import inf
from random import Random
from typing import Any

import numpy as np
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from xdsl.dialects.builtin import (
    ArrayAttr,
    BoolAttr,
    DictionaryAttr,
    Float8E4M3FNType,
    FloatAttr,
    IntegerAttr,
    IntegerType,
    ModuleOp,
    NoneAttr,
    StringAttr,
    UnitAttr,
    bf16,
    f32,
    i32,
    i64,
)
from xdsl.ir import Attribute, Block, Operation, Region, SSAValue

from pmc.compiler.driver import module_text, parse_module
from pmc.dialects import dist, g5, layer, model, tile, trace
from pmc.dialects.accesses import BANDWIDTH_DOMAINS
from pmc.dialects.assembly import attribute
from pmc.dialects.collective import (
    COLLECTIVES,
    AlgorithmAttr,
    AllGatherAttr,
    AllReduceAttr,
    CollectiveAttr,
    DirectAttr,
    FlatRingAttr,
    ReduceScatterAttr,
    TwoLevelAttr,
)
from pmc.dialects.dist import Axis, Mesh, MeshAttr, PartialAttr, Sharding, ShardingAttr
from pmc.dialects.expr import Expr, ExprAttr, ceildiv, expr, floordiv, max_of, min_of, mod
from pmc.dialects.g5_table import CommandTableAttr, command_table
from pmc.dialects.recurrence_kinds import CONV_ACTIVATIONS, GATES
from pmc.dialects.table import Table, TableSchema
from pmc.dialects.table_columns import (
    Column,
    EnumColumn,
    ListColumn,
    Lists,
    NumberColumn,
    TextColumn,
    Texts,
    Values,
)
from pmc.dialects.tensor import ScaledType, TensorType, tensor
from pmc.dialects.tile import BufferType, CoresAttr, MemRefType
from pmc.dialects.tile_plan import PlanAttr
from pmc.dialects.trace_tables import (
    COMPUTE_EVENTS,
    EXPERTS,
    LOGICAL_COMPUTE,
    LOGICAL_MEMORY,
    MEMORY_EVENTS,
    MIGRATE,
    REROUTE,
    TENSORS,
    TraceTableAttr,
)
from pmc.dialects.vector_kinds import (
    ACTIVATIONS,
    GATED_ACTIVATIONS,
    ROW,
    SCORINGS,
    VECTOR_KINDS,
    ActivationAttr,
    AddBiasAttr,
    AddRmsNormAttr,
    BlockMaxAttr,
    BlockRowsAttr,
    CausalConvAttr,
    CollapseStreamsAttr,
    CopyStreamsAttr,
    DecayAttr,
    ExpertScaleAttr,
    FillAttr,
    GatedActivationAttr,
    GatedDeltaStepAttr,
    GatedRmsNormAttr,
    L2NormAttr,
    LayerNormAttr,
    MixStreamsAttr,
    ReluWeightedSumAttr,
    RepeatRowsAttr,
    RmsNormalizeAttr,
    RmsNormAttr,
    Role,
    RopeAttr,
    RouterTopkAttr,
    RouterWeightsAttr,
    ScaleAttr,
    SoftCapAttr,
    SoftmaxMergeAttr,
    SoftmaxStepAttr,
    SoftplusAttr,
    SplitRmsNormAttr,
    SsmStepAttr,
    StreamWeightsAttr,
    SumPartsAttr,
    TemperatureAttr,
    TopkSelectAttr,
    VectorKindAttr,
)

ELEMENTS = (bf16, f32, i32, Float8E4M3FNType())
DIMS = ("batch", "q_len", "kv_len")


def ints(values: Sequence[int]) -> ArrayAttr[Attribute]:
    return ArrayAttr([IntegerAttr(v, i64) for v in values])


class Maker:
    """Builds random ops at the end of a block that is open; `symbols` are those in scope."""

    def __init__(self, rng: Random, symbols: Sequence[str] = ()) -> None:
        self.rng = rng
        self.symbols = list(symbols)
        self.ops: list[Operation] = []
        self.depth = 0
        self.uneven = False
        """Whether a loop around runs differently often on different cores."""

    def unique(self) -> str:
        """A symbol name that the block does not have yet."""
        return f"step{len(self.ops)}"

    # -- attributes ---------------------------------------------------------------------------------------------

    def size(self) -> int:
        return self.rng.randint(1, 64)

    def flag(self) -> bool:
        return self.rng.random() < 0.5

    def path(self) -> str:
        return self.rng.choice(["embed", "blocks.moe.mla.q_a_proj", "", 'a "b" \\c'])

    def expr(self, depth: int = 2) -> Expr:
        if depth == 0 or not self.symbols:
            leaves: list[Expr | int] = [self.size(), *(expr(s) for s in self.symbols)]
            return expr(self.rng.choice(leaves))
        a, b, n = self.expr(depth - 1), self.expr(depth - 1), self.size()
        return self.rng.choice(
            [a + b, a * b, a - b, ceildiv(a, n), floordiv(a, n), mod(a, n), min_of(a, b), max_of(a, n)]
        )

    def expr_attr(self) -> ExprAttr:
        return ExprAttr(self.expr())

    def exprs(self, count: int) -> ArrayAttr[ExprAttr]:
        return ArrayAttr([self.expr_attr() for _ in range(count)])

    def row_expr(self) -> ExprAttr:
        """An expression that may differ from row to row and from rank to rank."""
        return ExprAttr(self.expr() + self.rng.choice([0, 1]) * expr(ROW) + self.rng.choice([0, 2]) * expr("cp.rank"))

    def element(self) -> Attribute:
        return self.rng.choice(ELEMENTS)

    def dims(self, count: int) -> tuple[Expr, ...]:
        scope, self.symbols = self.symbols, list(DIMS)
        found = tuple(self._dim() for _ in range(count))
        self.symbols = scope
        return found

    def _dim(self) -> Expr:
        found = self.expr()
        return self._dim() if found.is_constant and found.constant < 0 else found

    def text(self) -> StringAttr:
        return StringAttr(self.rng.choice(["tp", "decode", "a b", "", '"', "\t"]))

    def vector_kind(self, kinds: Sequence[type[VectorKindAttr]] = VECTOR_KINDS) -> VectorKindAttr:
        kind = self.rng.choice(kinds)
        return PARAMETERS[kind](self) if kind in PARAMETERS else kind()

    def number(self) -> FloatAttr:
        return FloatAttr(self.rng.choice([0.5, 1e-6, 3.25, float("inf"), float("-inf")]), 64)

    def params(self) -> DictionaryAttr:
        entries: dict[str, Attribute] = {
            "eps": FloatAttr(self.rng.uniform(-1, 1), 64),
            "group": IntegerAttr(self.size(), i64),
            "causal": attribute(self.flag()),
            "position": self.expr_attr(),
            "scaling": DictionaryAttr({"factor": FloatAttr(8.0, 64)}),
        }
        return DictionaryAttr({k: v for k, v in entries.items() if self.flag()})

    def type(self, dims: Sequence[Expr | int], element: Attribute | None = None) -> TensorType:
        return TensorType.of(dims, element or self.element())

    # -- ops ----------------------------------------------------------------------------------------------------

    def add(self, op: type[Any], operands: Sequence[Any], types: Sequence[Attribute], /, **properties: Any) -> Any:
        regions = properties.pop("regions", ())
        made = op.make(operands, types, self.path(), properties, regions)
        self.ops.append(made)
        return made

    def source(self, dims: Sequence[Expr | int], element: Attribute | None = None) -> SSAValue:
        """A tensor from memory."""
        axes = ArrayAttr([StringAttr(self.rng.choice(["", "heads", "batch"])) for _ in dims])
        kind = self.rng.choice([layer.WeightOp, layer.StateOp])
        role = self.rng.choice([None, *kind.ROLES])
        value: SSAValue = self.add(kind, [], [self.type(dims, element)], axes=axes, role=role).result
        value.name_hint = self.rng.choice([None, "w", "cache"])
        return value

    def nested(self, build: Callable[[Maker], object], symbols: Sequence[str] = ()) -> list[Operation]:
        """The ops that `build` makes in a block of their own."""
        inner = Maker(self.rng, [*self.symbols, *symbols])
        inner.depth = self.depth + 1
        inner.uneven = self.uneven
        build(inner)
        return inner.ops

    def some(self, table: Sequence[Callable[[Maker], object]], most: int = 5) -> None:
        for _ in range(self.rng.randint(0, most)):
            self.rng.choice(table)(self)


# -- model ------------------------------------------------------------------------------------------------------


class Blocks:
    """A chain of model blocks on rows of one type."""

    def __init__(self, make: Maker, x: SSAValue) -> None:
        self.make = make
        self.x = x

    def block(self, op: type[Any], result: Attribute | None = None, **properties: Any) -> None:
        self.x = self.make.add(op, [self.x], [result or self.x.type], **properties).y


def scaling(make: Maker, columns: int | None = None) -> DictionaryAttr:
    if columns is not None and make.flag():
        lists = {name: ArrayAttr([FloatAttr(1.5, 64)] * (columns // 2)) for name in ("short_factor", "long_factor")}
        own = {"original_max_position_embeddings": IntegerAttr(9, i64), "attention_factor": FloatAttr(1.25, 64)}
        return DictionaryAttr({"rope_type": StringAttr("longrope"), **own, **lists})
    factors = {name: FloatAttr(make.rng.choice([0.5, 1e-6, 40.0]), 64) for name in ("factor", "beta_fast")}
    return DictionaryAttr({"rope_type": StringAttr("yarn"), "mscale": FloatAttr(0.0, 64), **factors})


def gqa(b: Blocks) -> None:
    kv, rng = b.make.size(), b.make.rng
    warm: dict[str, Any] = {"temperature_floor": 8192, "temperature_scale": 0.1} if b.make.flag() else {}
    reach: dict[str, Any] = {rng.choice(["window", "chunk"]): b.make.size()} if b.make.flag() else {}
    qk_norm = {"qk_norm": rng.choice(["head", "row", "rotated"]), "qk_norm_eps": 1e-5} if b.make.flag() else {}
    b.block(
        model.GqaOp, num_attention_heads=kv * rng.randint(1, 4), num_key_value_heads=kv, head_dim=2 * b.make.size(),
        rope_theta=rng.choice([1e4, 5e5]), **qk_norm, **warm, **reach, rope_interleave=b.make.flag() or None,
        v_head_dim=b.make.size() if b.make.flag() else None, value_scale=0.7 if b.make.flag() else None,
        value_norm_eps=1e-6 if b.make.flag() else None, head_gate=b.make.flag() or None,
        rotary_dim=2 if b.make.flag() else None, qkv_bias=b.make.flag() or None, o_bias=b.make.flag() or None,
        softmax_scale=0.25 if b.make.flag() else None,
        sinks=b.make.flag() or None, score_soft_cap=50.0 if b.make.flag() else None,
        qk_norm_zero_centered=b.make.flag() or None, output_gate=b.make.flag() or None,
        rope_scaling=scaling(b.make) if b.make.flag() else None,
    )  # fmt: skip


def mla(b: Blocks) -> None:
    size = b.make.size
    rope: dict[str, Any] = {"rope_interleave": b.make.flag(), "rope_theta": 1e4} if b.make.flag() else {}
    b.block(
        model.MlaOp, num_attention_heads=size(), q_lora_rank=size() if b.make.flag() else None, kv_lora_rank=size(),
        qk_nope_head_dim=size(), qk_rope_head_dim=2 * size(), v_head_dim=size(),
        **rope,
    )  # fmt: skip


def block_sparse(b: Blocks) -> None:
    kv, rotary, local = b.make.size(), 2 * b.make.size(), b.make.size()
    b.block(
        model.BlockSparseAttentionOp, num_attention_heads=kv * b.make.rng.randint(1, 4), num_key_value_heads=kv,
        head_dim=rotary + b.make.size(), rotary_dim=rotary, rope_theta=1e4, qk_norm="head", qk_norm_eps=1e-5,
        qk_norm_zero_centered=b.make.flag() or None, index_head_dim=rotary + b.make.size(),
        index_block_size=1 + b.make.size(), index_topk_blocks=local + b.make.size(), index_local_blocks=local,
        rope_scaling=scaling(b.make, rotary) if b.make.flag() else None,
    )  # fmt: skip


def dsa(b: Blocks) -> None:
    size, rope, top_k = b.make.size, 2 * b.make.size(), b.make.size()
    latent: dict[str, Any] = {
        "num_attention_heads": size(), "q_lora_rank": size(), "kv_lora_rank": size(), "qk_nope_head_dim": size(),
        "qk_rope_head_dim": rope, "v_head_dim": size(), "rope_interleave": b.make.flag(), "rope_theta": 1e4,
        "index_topk": top_k,
    }  # fmt: skip
    selection = model.DsaOp.selection(tensor(b.x).dims[0], top_k)
    first = b.make.add(
        model.DsaOp, [b.x], [b.x.type, selection], index_n_heads=size(), index_head_dim=rope + size(),
        index_rope_interleave=b.make.flag(), **latent,
    )  # fmt: skip
    b.x = b.make.add(model.DsaOp, [first.y, first.selected], [b.x.type], **latent).y


def compressed_attention(b: Blocks) -> None:
    size, rope, groups = b.make.size, 2 * b.make.size(), b.make.size()
    ratio = b.make.size() + 1 if b.make.flag() else None
    indexer: dict[str, Any] = {}
    if ratio is not None and b.make.flag():
        indexer = {"index_n_heads": size(), "index_head_dim": rope + size(), "index_topk": size()}
    b.block(
        model.CompressedAttentionOp, num_attention_heads=groups * size(), q_lora_rank=size(), head_dim=rope + size(),
        qk_rope_head_dim=rope, window=size(), o_groups=groups, o_lora_rank=size(), norm_eps=1e-6, rope_theta=1e4,
        rope_scaling=scaling(b.make) if b.make.flag() else None, compress_ratio=ratio, **indexer,
    )  # fmt: skip


def network(make: Maker) -> dict[str, Any]:
    gated = make.flag()
    clamped = {"activation": "clamped_swiglu", "activation_limit": 7.0, "activation_alpha": 1.702}
    plain = {"activation": make.rng.choice(["silu", "gelu_tanh", "relu2"])}
    return {**(clamped if gated and make.flag() else plain), "gated": gated, "bias": make.flag() or None}


def ffn(b: Blocks) -> None:
    b.block(model.FfnOp, intermediate_size=b.make.size(), **network(b.make))


def moe(b: Blocks) -> None:
    if b.make.flag():
        hashed(b)
    groups, rng = b.make.rng.randint(1, 4), b.make.rng
    top_groups, each, shared = rng.randint(1, groups), rng.randint(1, 8), rng.randint(0, 2)
    b.block(
        model.MoeOp, n_routed_experts=groups * each, shared_intermediate_size=shared,
        shared_gate=(shared > 0 and b.make.flag()) or None, moe_latent_size=b.make.size() if b.make.flag() else None,
        num_experts_per_tok=rng.randint(1, each * top_groups), moe_intermediate_size=b.make.size(),
        scoring=rng.choice(model.SCORINGS), n_group=groups, topk_group=top_groups, norm_topk_prob=b.make.flag(),
        routed_scaling_factor=2.5, correction_bias=b.make.flag(),
        router_bias=b.make.flag() or None, expert_scale=b.make.flag() or None,
        own_norms_eps=1e-6 if not shared and b.make.flag() else None, **network(b.make),
    )  # fmt: skip


def hashed(b: Blocks) -> None:
    """Experts by token id, from a table."""
    experts, tokens = b.make.size(), tensor(b.x).dims[0]
    ids = b.make.source([tokens], i32)
    given: dict[str, Any] = dict(
        n_routed_experts=experts, shared_intermediate_size=0, num_experts_per_tok=b.make.rng.randint(1, experts),
        moe_intermediate_size=b.make.size(), scoring=b.make.rng.choice(model.SCORINGS), n_group=1, topk_group=1,
        norm_topk_prob=b.make.flag(), routed_scaling_factor=1.5, correction_bias=False, vocab_size=b.make.size(),
    )  # fmt: skip
    b.x = b.make.add(model.MoeOp, [b.x, ids], [b.x.type], **given, **network(b.make)).y


def streams(b: Blocks) -> None:
    """Around the block and in front of the head."""
    n = {"hc_mult": b.make.rng.randint(2, 4)}
    more = {**n, "hc_eps": 1e-6, "rms_norm_eps": 1e-5}

    def make(kind: type[model.StreamsOp], operands: Sequence[SSAValue], properties: dict[str, Any]) -> SSAValue:
        op = kind.of(operands, b.make.path(), properties)
        b.make.ops.append(op)
        return op.y

    x = make(model.CopyStreamsOp, [b.x], n)
    weights = make(model.StreamWeightsOp, [x], {**more, "hc_sinkhorn_iters": 3})
    read = make(model.CollapseStreamsOp, [x, weights], n)
    x = make(model.MixStreamsOp, [x, read, weights], n)
    b.x = make(model.CollapseStreamsOp, [x, make(model.StreamWeightsOp, [x], more)], n)


def gated_delta_net(b: Blocks) -> None:
    size, keys = b.make.size, b.make.size()
    b.block(
        model.GatedDeltaNetOp, num_key_heads=keys, num_value_heads=keys * b.make.rng.randint(1, 3),
        key_head_dim=size(), value_head_dim=size(), conv_kernel=b.make.rng.randint(2, 4),
        conv_bias=b.make.flag() or None, norm_eps=1e-6,
    )  # fmt: skip


def kda(b: Blocks) -> None:
    size = b.make.size
    b.block(
        model.KimiDeltaOp, num_heads=size(), head_dim=size(), conv_kernel=b.make.rng.randint(2, 4),
        conv_bias=b.make.flag() or None, norm_eps=1e-5,
    )  # fmt: skip


def mamba2(b: Blocks) -> None:
    size, groups = b.make.size, b.make.size()
    b.block(
        model.Mamba2Op, num_heads=groups * b.make.rng.randint(1, 3), head_dim=size(), n_groups=groups,
        state_size=size(), conv_kernel=b.make.rng.randint(2, 4), conv_bias=b.make.flag() or None,
        time_step_min=0.0, time_step_max=b.make.rng.choice([0.1, inf]), norm_eps=1e-5,
    )  # fmt: skip


def norm(b: Blocks) -> None:
    layer_norm = {"kind": "layer", "bias": b.make.flag() or None}
    kind: dict[str, Any] = layer_norm if b.make.flag() else {"kind": "rms"}
    b.block(model.NormOp, eps=1e-5, zero_centered=b.make.flag() or None, **kind)


def learned_scale(b: Blocks) -> None:
    b.block(model.LearnedScaleOp)


def scale_row(b: Blocks) -> None:
    b.block(model.ScaleOp, factor=b.make.rng.choice([0.22, -3.0]))


def soft_cap_row(b: Blocks) -> None:
    b.block(model.SoftCapOp, cap=30.0)


def positions(b: Blocks) -> None:
    b.block(model.PositionEmbeddingOp, max_positions=b.make.size(), offset=b.make.rng.randint(0, 2))


def add(b: Blocks) -> None:
    residual = b.x
    ffn(b)
    b.x = b.make.add(model.AddOp, [residual, b.x], [b.x.type]).y


def model_repeat(b: Blocks) -> None:
    def body(make: Maker) -> None:
        inner = Blocks(make, block.args[0])
        blocks(inner, 2)
        make.add(model.YieldOp, [[inner.x]], [])

    block = Block(arg_types=[b.x.type])
    block.add_ops(b.make.nested(body))
    count = b.make.rng.randint(1, 61)
    repeat = b.make.add(model.RepeatOp, [[b.x]], [b.x.type], count=count, regions=[Region(block)])
    b.x = repeat.outs[0]


BLOCKS = {
    model.GqaOp: gqa, model.BlockSparseAttentionOp: block_sparse,
    model.MlaOp: mla, model.DsaOp: dsa, model.FfnOp: ffn, model.MoeOp: moe,
    model.GatedDeltaNetOp: gated_delta_net, model.KimiDeltaOp: kda, model.Mamba2Op: mamba2,
    model.CompressedAttentionOp: compressed_attention,
    model.NormOp: norm, model.AddOp: add, model.ScaleOp: scale_row,
    model.LearnedScaleOp: learned_scale, model.SoftCapOp: soft_cap_row,
    model.PositionEmbeddingOp: positions, model.RepeatOp: model_repeat,
    **dict.fromkeys(
        (model.CopyStreamsOp, model.StreamWeightsOp, model.CollapseStreamsOp, model.MixStreamsOp), streams
    ),
}  # fmt: skip


def blocks(b: Blocks, most: int) -> None:
    for _ in range(b.make.rng.randint(0, most)):
        shallow = [build for kind, build in BLOCKS.items() if kind is not model.RepeatOp or b.make.depth < 2]
        b.make.rng.choice(shallow)(b)


def llm(make: Maker) -> None:
    element, vocabulary, hidden = bf16, make.size(), make.size()
    tokens = expr("batch") * expr("q_len")
    block = Block(arg_types=[TensorType.of([tokens], i32)])

    def body(inner: Maker) -> None:
        b = Blocks(inner, block.args[0])
        b.block(model.EmbeddingOp, TensorType.of([tokens, hidden], element), vocab_size=vocabulary)
        blocks(b, 3)
        tied = "embed.weight" if inner.flag() else None
        b.block(model.LmHeadOp, TensorType.of([tokens, vocabulary], element), tied=tied)
        inner.add(model.YieldOp, [[b.x]], [])

    block.add_ops(make.nested(body))
    make.add(
        model.LlmOp, [], [], sym_name=make.unique(), architecture="LlamaForCausalLM", hidden_size=hidden,
        vocab_size=vocabulary, dtype=element, regions=[Region(block)],
    )  # fmt: skip


def draft(make: Maker) -> None:
    (tokens,) = make.dims(1)
    hidden, vocabulary = make.size(), make.size()
    element = make.element()
    rows = TensorType.of([tokens, hidden], element)
    block = Block(arg_types=[TensorType.of([tokens], i32), rows])

    def body(inner: Maker) -> None:
        b = Blocks(inner, block.args[0])
        b.block(model.EmbeddingOp, rows, vocab_size=vocabulary, shared="embed.weight")
        b.x = inner.add(model.EhProjOp, [b.x, block.args[1]], [rows]).y
        given = b.x
        b.block(model.LmHeadOp, TensorType.of([tokens, vocabulary], element), shared="lm_head.proj.weight")
        inner.add(model.YieldOp, [[b.x, given]], [])

    block.add_ops(make.nested(body))
    make.add(model.DraftOp, [], [], regions=[Region(block)])


MODEL: dict[type[Operation], Any] = {
    **BLOCKS, model.LlmOp: llm, model.YieldOp: llm, model.EmbeddingOp: llm, model.LmHeadOp: llm,
    model.DraftOp: draft, model.EhProjOp: draft,
}  # fmt: skip


# -- layer ------------------------------------------------------------------------------------------------------


def source(make: Maker) -> None:
    make.source(make.dims(make.rng.randint(1, 3)))


def matmul(make: Maker) -> None:
    (t, k, n), e = make.dims(3), make.element()
    x, w = make.rng.choice([(e, e), (bf16, ScaledType.of(IntegerType(4), (make.size(), make.size()), bf16))])
    make.add(layer.MatmulOp, [make.source([t, k], x), make.source([k, n], w)], [make.type([t, n])])


def grouped_matmul(make: Maker) -> None:
    e, c, k, n = make.dims(4)
    type_ = make.element()
    operands = [make.source([e, c, k], type_), make.source([e, k, n], type_)]
    make.add(layer.GroupedMatmulOp, operands, [make.type([e, c, n])])


def gated_matmul(make: Maker) -> None:
    (t, k, n), type_ = make.dims(3), make.element()
    experts = make.dims(1) if make.flag() else ()
    operands = [make.source((*experts, *dims), type_) for dims in ([t, k], [k, n], [k, n])]
    make.add(layer.GatedMatmulOp, operands, [make.type((*experts, t, n))])


def head_matmul(make: Maker) -> None:
    heads, rank, group, t = make.size(), make.size(), make.size(), make.dims(1)[0]
    wide, narrow = heads * rank, heads * group
    transpose = make.flag()
    x, y = (narrow, wide) if transpose else (wide, narrow)
    type_ = make.element()
    operands = [make.source([t, x], type_), make.source([rank, heads * group], type_)]
    make.add(layer.HeadMatmulOp, operands, [make.type([t, y])], group=group, transpose=transpose)


ATTENTION_TYPES = ((bf16, bf16), (Float8E4M3FNType(), bf16), (bf16, f32))
"""Of keys and values, and of the queries: the type of the arithmetic."""


def attention(make: Maker) -> None:
    heads, pieces = make.size(), [make.size() for _ in range(make.rng.randint(1, 3))]
    q_len, batch, kv = make.dims(3)
    t = batch * q_len
    stored, arithmetic = make.rng.choice(ATTENTION_TYPES)
    q = [make.source([t, heads * d], arithmetic) for d in pieces]
    k = [make.source([batch, kv, d], stored) for d in pieces]
    v = k[0] if make.flag() else make.source([batch, kv, make.size()], stored)
    width = v.type.dims[2].constant if isinstance(v.type, TensorType) else 0
    reach = make.rng.choice([{}, {"window": make.size()}, {"chunk": make.size() + 1, "kv_len": expr("kv_len")}])
    sinks = [make.source([heads], arithmetic)] if make.flag() else []
    make.add(
        layer.AttentionOp, [q, k, v, sinks], [make.type([t, heads * width])], qk_dims=ints(pieces), v_dim=width,
        q_len=q_len, scale=make.rng.uniform(0, 1), causal=bool(reach) or make.flag(), **reach,
        soft_cap=make.rng.choice([None, 50.0]),
    )  # fmt: skip


def attention_step(make: Maker) -> None:
    """A step, the ring that it may stand in, and what ends it."""
    heads, width = make.size(), make.size()
    q_len, batch, kv = make.dims(3)
    t = batch * q_len
    stored, arithmetic = make.rng.choice(ATTENTION_TYPES)
    q = make.source([t, heads * width], arithmetic)
    k, v = (make.source([batch, kv, width], stored) for _ in range(2))
    types = [make.type([t, n], f32) for n in (heads * width, heads, heads)]
    state = [make.source(type_.dims, f32) for type_ in types] if make.flag() else []
    hidden = make.rng.choice([expr(0), floordiv(expr("cp.step") + 3 - expr("cp.rank"), 4)])
    sinks = [make.source([heads], arithmetic)] if not state and make.flag() else []
    step = make.add(
        layer.AttentionStepOp, [[q], [k], v, state, sinks], types, qk_dims=ints([width]), v_dim=width, q_len=q_len,
        scale=make.rng.uniform(0, 1), causal=True, hidden=hidden, soft_cap=make.rng.choice([None, 50.0]),
    )  # fmt: skip
    make.add(layer.AttentionFinishOp, [step.acc, step.row_sum], [make.type([t, heads * width])])


def indexer(make: Maker) -> None:
    """Scores, the keys that they select, their rows, and attention over these."""
    heads, pieces = make.size(), [make.size() for _ in range(make.rng.randint(1, 3))]
    q_len, batch, kv = make.dims(3)
    t, top_k, width = batch * q_len, make.size(), make.size()
    stored, arithmetic = make.rng.choice(ATTENTION_TYPES)
    q = [make.source([t, heads * d], arithmetic) for d in pieces]
    k = [make.source([batch, kv, d], stored) for d in pieces]
    scores = make.add(
        layer.IndexScoresOp, [q, k, make.source([t, heads], f32)], [make.type([t, kv], f32)], qk_dims=ints(pieces),
        q_len=q_len, scale=make.rng.uniform(0, 1),
    ).y  # fmt: skip
    count = min_of(kv, top_k)
    selected = make.add(layer.TopkSelectOp, [scores], [make.type([t, count], i32)], top_k=top_k, q_len=q_len).y
    domain = make.rng.choice(BANDWIDTH_DOMAINS)
    rows = make.add(
        layer.GatherRowsOp, [make.source([batch, kv, width], stored), selected], [make.type([t, count, width], stored)],
        q_len=q_len, bandwidth_domain=domain,
    ).y  # fmt: skip
    queries = make.source([t, heads * width], arithmetic)
    make.add(
        layer.SparseAttentionOp, [[queries], [rows], rows], [make.type([t, heads * width])], qk_dims=ints([width]),
        v_dim=width, q_len=expr(1), scale=make.rng.uniform(0, 1), causal=False, sequence_q_len=q_len,
        sequence_kv_len=kv,
    )  # fmt: skip


def block_indexer(make: Maker) -> None:
    """Scores of blocks of keys, the blocks that every head selects, their rows, and attention over these."""
    heads, d, block, width, always = make.size(), make.size(), 1 + make.size(), make.size(), make.size()
    q_len, batch, kv = make.dims(3)
    t, top_k, blocks = batch * q_len, always + make.size(), ceildiv(kv, block)
    stored, arithmetic = make.rng.choice(ATTENTION_TYPES)
    scores = make.add(
        layer.BlockScoresOp, [make.source([t, heads * d], arithmetic), make.source([batch, kv, d], stored)],
        [make.type([t, heads, blocks], f32)], block=block, q_len=q_len,
    ).y  # fmt: skip
    count = min_of(blocks, top_k)
    selected = make.add(
        layer.TopkSelectOp, [scores], [make.type([t, heads, count], i32)], top_k=top_k, q_len=q_len, block=block,
        always=always, tokens=kv,
    ).y  # fmt: skip
    cache = make.source([batch, kv, heads * width], stored)
    rows = make.add(
        layer.GatherRowsOp, [cache, selected], [make.type([t, count * block, heads * width], stored)],
        q_len=q_len, bandwidth_domain=make.rng.choice(BANDWIDTH_DOMAINS), block=block,
    ).y  # fmt: skip
    queries = make.source([t, 2 * heads * width], arithmetic)
    make.add(
        layer.SparseAttentionOp, [[queries], [rows], rows], [make.type([t, 2 * heads * width])], qk_dims=ints([width]),
        v_dim=width, q_len=expr(1), scale=make.rng.uniform(0, 1), causal=False, sequence_q_len=q_len,
        sequence_kv_len=kv, block=block, top_k=top_k,
    )  # fmt: skip


def compression(make: Maker) -> None:
    """Entries of a cache of tokens, a selection of them, and attention over entries."""
    heads, width, ratio, series = make.size(), make.size(), make.size() + 1, make.rng.randint(1, 2)
    q_len, batch, kv_len = make.dims(3)
    kv = make.source([batch, q_len + kv_len, series * width])
    gate = make.source(tensor(kv).dims, tensor(kv).element_type)
    closing = floordiv(q_len + kv_len, ratio) - floordiv(kv_len, ratio)
    make.add(
        layer.CompressOp, [kv, gate, make.source([ratio, series * width])], [make.type([batch * closing, width])],
        ratio=ratio, overlapping=series == 2, q_len=q_len, kv_len=q_len + kv_len,
    )  # fmt: skip
    count = floordiv(q_len + kv_len, ratio)
    scores, top_k = make.source([batch * q_len, count], f32), make.size()
    make.add(
        layer.TopkSelectOp, [scores], [make.type([batch * q_len, min_of(count, top_k)], i32)], top_k=top_k, q_len=q_len,
        ratio=ratio, tokens=q_len + kv_len,
    )  # fmt: skip
    gathered, (stored, arithmetic) = make.flag(), make.rng.choice(ATTENTION_TYPES)
    t, own = batch * q_len, expr(1) if gathered else q_len
    entries = make.source([t if gathered else batch, count, width], stored)
    state = [make.source([t, n], f32) for n in (heads * width, heads, heads)]
    make.add(
        layer.CompressedAttentionOp, [[make.source([t, heads * width], arithmetic)], [entries], entries, *state],
        [make.type([t, heads * width])], qk_dims=ints([width]), v_dim=width, q_len=own, scale=make.rng.uniform(0, 1),
        causal=False, ratio=ratio, sequence_q_len=q_len, sequence_kv_len=q_len + kv_len,
    )  # fmt: skip


def layer_norm(make: Maker) -> None:
    t, width = make.dims(1)[0], make.size()
    operands = [make.source([t, width]), *(make.source([width]) for _ in range(make.rng.randint(1, 2)))]
    make.add(layer.LayerNormOp, operands, [make.type([t, width])], eps=make.rng.random(), zero_centered=unit(make))


def unit(make: Maker) -> UnitAttr | None:
    return UnitAttr() if make.flag() else None


def embedding(make: Maker) -> None:
    t, v, n = make.dims(3)
    axis = "tp" if make.flag() and not make.depth else None  # no program, no mesh
    make.add(layer.EmbeddingOp, [make.source([t]), make.source([v, n])], [make.type([t, n])], vocab_axis=axis)


def position_embedding(make: Maker) -> None:
    t, rows = make.dims(2)
    q_len, width = make.dims(1)[0], make.size()
    make.add(
        layer.PositionEmbeddingOp, [make.source([t, width]), make.source([rows, width])], [make.type([t, width])],
        q_len=q_len, kv_len=q_len + expr("kv_len"), offset=make.rng.randint(0, 2),
    )  # fmt: skip


def rms_norm(make: Maker) -> None:
    group = make.size()
    dims = make.dims(1)[0], group * make.size()
    gain = [make.source([group])] if make.flag() else []
    make.add(
        layer.RmsNormOp, [make.source(dims), *gain], [make.type(dims)], eps=make.rng.random(), group=group,
        zero_centered=unit(make) if gain else None,
    )  # fmt: skip


def add_rms_norm(make: Maker) -> None:
    dims = make.dims(1)[0], make.size()
    operands = [make.source(dims), make.source(dims), make.source([dims[1]])]
    types = [make.type(dims), make.type(dims)]
    make.add(layer.AddRmsNormOp, operands, types, eps=make.rng.random(), zero_centered=unit(make))


def rope(make: Maker) -> None:
    head_dim = 2 * make.size()
    dims = make.dims(1)[0], expr(head_dim * make.size())
    partial = head_dim > 2 and make.flag()
    make.add(
        layer.RopeOp, [make.source(dims)], [make.type(dims)], head_dim=head_dim, theta=make.rng.uniform(1, 1e6),
        interleaved=make.flag(), q_len=dims[0], kv_len=make.dims(1)[0], stride=make.rng.randint(1, 2),
        first=make.rng.choice([expr(0), expr("cp.rank")]),
        scaling=make.params() if make.flag() else None,
        **({"rotary_dim": make.rng.randrange(2, head_dim, 2), "trailing": unit(make)} if partial else {}),
        inverse=unit(make),
    )  # fmt: skip


def binary(kind: type[Any]) -> Callable[[Maker], object]:
    def build(make: Maker) -> None:
        dims = make.dims(make.rng.randint(2, 2 if kind is layer.AddOp else 3))
        a = make.source(dims)
        make.add(kind, [a, a if make.flag() else make.source(dims)], [make.type(dims)])

    return build


def activation(make: Maker) -> None:
    dims = make.dims(make.rng.randint(1, 3))
    make.add(
        layer.ActivationOp, [make.source(dims)], [make.type(dims)], function=make.rng.choice(list(ACTIVATIONS))
    )  # fmt: skip


def gated_function(make: Maker) -> tuple[str, float | None, float | None]:
    """A gated activation, its limit and its alpha."""
    function = make.rng.choice(list(GATED_ACTIVATIONS))
    limit = make.rng.choice([0.5, 7.0]) if function.startswith("clamped") else None
    return function, limit, 1.702 if function == "clamped_swiglu" else None


def float_or_none(value: float | None) -> FloatAttr | NoneAttr:
    return NoneAttr() if value is None else FloatAttr(value, 64)


def gated_kind(make: Maker) -> GatedActivationAttr:
    function, limit, alpha = gated_function(make)
    return GatedActivationAttr(StringAttr(function), float_or_none(limit), float_or_none(alpha))


def gated_activation(make: Maker) -> None:
    dims = make.dims(make.rng.randint(1, 3))
    function, limit, alpha = gated_function(make)
    make.add(
        layer.GatedActivationOp, [make.source(dims), make.source(dims)], [make.type(dims)], function=function,
        limit=limit, alpha=alpha,
    )  # fmt: skip


def scale(make: Maker) -> None:
    dims = make.dims(make.rng.randint(1, 3))
    make.add(layer.ScaleOp, [make.source(dims)], [make.type(dims)], factor=make.rng.uniform(-9, 9))
    make.add(layer.SoftCapOp, [make.source(dims)], [make.type(dims)], cap=make.rng.choice([0.5, 30.0]))


def row_gate(make: Maker) -> None:
    t, width = make.dims(1)[0], make.size()
    make.add(layer.RowGateOp, [make.source([t, width]), make.source([t, 1])], [make.type([t, width])])
    make.add(layer.RowGateOp, [make.source([t, 3 * width]), make.source([t, 3])], [make.type([t, 3 * width])])


def split_norm(make: Maker) -> None:
    t, width = make.dims(1)[0], make.size()
    x = make.source([t, width])
    sums = make.add(layer.SquareSumOp, [x], [make.type([t, 1])]).y
    operands = [x, sums, make.source([width])]
    given: dict[str, Any] = {"eps": make.rng.random(), "width": width * make.size(), "zero_centered": unit(make)}
    make.add(layer.SplitRmsNormOp, operands, [make.type([t, width])], **given)


def multiply(make: Maker) -> None:
    dims = make.dims(make.rng.randint(1, 3))
    make.add(layer.MultiplyOp, [make.source(dims), make.source([1])], [make.type(dims)])


def hyper_connection(make: Maker) -> None:
    t, width, n = make.dims(1)[0], make.size(), make.rng.randint(2, 4)
    columns, iterations = (2 + n) * n, make.rng.randint(1, 20)
    x, logits = make.source([t, width]), make.source([t, columns])
    streams = make.add(layer.CopyStreamsOp, [x], [make.type([t, n * width])], streams=n).y
    parameters = [make.source([3]), make.source([columns])]
    weights = make.add(
        layer.StreamWeightsOp, [logits, *parameters], [logits.type], streams=n, iterations=iterations, eps=1e-6
    ).y  # fmt: skip
    read = make.add(layer.CollapseStreamsOp, [streams, weights], [x.type], streams=n).y
    make.add(layer.MixStreamsOp, [streams, read, weights], [streams.type], streams=n)


def temperature(make: Maker) -> None:
    dims = make.dims(2)
    make.add(
        layer.TemperatureOp, [make.source(dims)], [make.type(dims)], floor=make.size(), scale=make.rng.uniform(0, 1),
        q_len=make.expr(), kv_len=make.expr(),
    )  # fmt: skip


def add_bias(make: Maker) -> None:
    leading, width = make.dims(make.rng.randint(1, 2)), make.size()
    bias = make.source((*leading[:-1], width))
    x, y = make.source((*leading, width)), make.type((*leading, width))
    share = None
    if make.flag() and not make.depth:  # no program, no mesh
        share, partial = expr("tp.rank"), PartialAttr(("tp",))
        axes = ArrayAttr([StringAttr("")] * len(y.dims))
        x = make.add(layer.WeightOp, [], [y.with_encoding(partial)], axes=axes).result
        y = y.with_encoding(partial)
    make.add(layer.AddBiasOp, [x, bias], [y], share=share)


def quantize(make: Maker) -> None:
    dims = make.dims(2)
    make.add(layer.QuantizeOp, [make.source(dims)], [make.type(dims)])


def slice_(make: Maker) -> None:
    size, before, after, heads = make.size(), make.rng.randint(0, 9), make.rng.randint(0, 9), make.size()
    group, t = before + size + after, make.dims(1)[0]
    element = make.element()
    x, y = make.source([t, heads * group], element), make.type([t, heads * size], element)
    make.add(layer.SliceOp, [x], [y], group=group, offset=before, size=size)


def last_token(make: Maker) -> None:
    batch, q_len, n = make.dims(3)
    make.add(layer.LastTokenOp, [make.source([batch * q_len, n])], [make.type([batch, n])], q_len=q_len)


def sampled_tokens(make: Maker) -> None:
    (rows,) = make.dims(1)
    tokens = make.source([rows], i32)
    make.add(layer.SampledTokensOp, [tokens, make.source([rows, 5])], [make.type([rows], i32)])


def kv_append(make: Maker) -> None:
    batch, kv, queries, width = make.dims(4)
    cache = make.source([batch, kv, width])
    assert isinstance(cache.type, TensorType)
    make.add(layer.KvAppendOp, [cache, make.source([batch * queries, width], cache.type.element_type)], [cache.type])


def causal_conv(make: Maker) -> None:
    (batch, q_len), channels, taps, element = make.dims(2), make.size(), make.rng.randint(2, 5), make.element()
    x, weight = make.source([batch * q_len, channels], element), make.source([channels, taps])
    state = make.source([batch, taps - 1, channels], element)
    bias = [make.source([channels])] if make.flag() else []
    types = [make.type([batch * q_len, channels]), state.type]
    activation = make.rng.choice(CONV_ACTIVATIONS)
    make.add(layer.CausalConvOp, [x, weight, state, bias], types, activation=activation)


def recurrence(kind: type[Any]) -> Callable[[Maker], object]:
    def build(make: Maker) -> None:
        (batch, q_len), groups, keys, values = make.dims(2), make.size(), make.size(), make.size()
        t, heads = batch * q_len, groups * make.size()
        rows, columns = (values, keys) if kind is layer.SsmScanOp else (keys, values)
        shapes = [[t, heads * values], [t, groups * keys], [t, groups * keys], *([[t, heads]] * kind.NUMBERS)]
        if kind is layer.GatedDeltaOp and make.flag():
            shapes[3] = [t, heads * keys]
        operands = [make.source(shape) for shape in [*shapes, *([[heads]] * kind.CONSTANTS)]]
        state = make.source([batch, heads * rows, columns], f32)
        more = {"scale": make.rng.random()} if kind is layer.GatedDeltaOp else {}
        make.add(kind, [*operands, state], [make.type([t, heads * values]), state.type], **more)

    return build


def per_head(make: Maker) -> None:
    t, heads = make.dims(1)[0], make.size()
    x, constants = make.source([t, heads]), [make.source([heads]) for _ in range(2)]
    high = make.rng.choice([1.0, inf])
    dt = make.add(layer.SoftplusOp, [x, constants[0]], [make.type([t, heads])], low=0.0, high=high).y
    make.add(layer.DecayOp, [dt, *constants], [make.type([t, heads])])
    width = heads * make.size()
    wide, bias = make.source([t, width]), make.source([width])
    make.add(layer.DecayOp, [wide, constants[0], bias], [make.type([t, width])])


def norms(make: Maker) -> None:
    t, group, groups = make.dims(1)[0], make.size(), make.size()
    x, w = make.source([t, groups * group]), make.source([group if make.flag() else group * groups])
    y = make.add(layer.L2NormOp, [x], [make.type([t, groups * group])], eps=make.rng.random(), group=group).y
    eps, gate_first = make.rng.random(), make.flag()
    given = {"eps": eps, "group": group, "gate_first": gate_first, "activation": make.rng.choice(GATES)}
    make.add(layer.GatedRmsNormOp, [y, x, w], [x.type], **given)


def router(make: Maker) -> None:
    t, k = make.dims(1)[0], make.size()
    bias = [make.source([64])] if make.flag() else []
    make.add(
        layer.RouterTopkOp, [make.source([t, 64]), bias], [make.type([t, k]), make.type([t, k], i32)], top_k=k,
        scoring=make.rng.choice(["softmax", "sigmoid"]), groups=1, top_groups=1, normalize=make.flag(),
        best_of_group=make.rng.choice([None, 1]),
        scale=make.rng.random(),
    )  # fmt: skip


def experts(make: Maker) -> None:
    t, e, c, h = make.dims(4)
    indices, logits = make.source([t, 4], i32), make.source([t, 64])
    weights = make.add(
        layer.RouterWeightsOp, [logits, indices], [make.type([t, 4])], scoring=make.rng.choice(list(SCORINGS)),
        normalize=make.flag(), scale=make.rng.random(),
    ).weights  # fmt: skip
    weights = make.add(layer.ExpertScaleOp, [weights, indices, make.source([64])], [make.type([t, 4])]).y
    kind: Any = make.rng.choice(["balanced", "worst"])
    slots = make.add(layer.DispatchOp, [make.source([t, h]), indices], [make.type([e, c, h])], capacity=kind).y
    make.add(layer.CombineOp, [slots, indices, weights], [make.type([t, h])])


def repeat(make: Maker) -> None:
    inits = [make.source(make.dims(2)) for _ in range(make.rng.randint(0, 2))]
    block = Block(arg_types=[v.type for v in inits])

    def body(inner: Maker) -> None:
        inner.some([build for kind, build in LAYER.items() if kind not in STRUCTURE], 2)
        inner.add(layer.YieldOp, [list(block.args)], [])

    block.add_ops(make.nested(body))
    first, count = make.rng.randint(0, 3), make.rng.randint(1, 9)
    total = first + count + make.rng.randint(0, 2)
    symbol = "cp.step" if make.flag() else None
    make.ops.append(layer.RepeatOp.build_with(count, inits, Region(block), make.path(), first, total, symbol))


def program(make: Maker) -> None:
    block = Block(arg_types=[make.type(make.dims(1), i32)])

    def body(inner: Maker) -> None:
        table = [build for kind, build in LAYER.items() if kind not in STRUCTURE or kind is layer.RepeatOp]
        inner.some(table)
        inner.add(layer.ReturnOp, [[block.args[0]]], [])

    block.add_ops(make.nested(body))
    op = make.add(layer.ProgramOp, [], [], sym_name=make.unique(), phase="decode", regions=[Region(block)])
    op.attributes["dist.arguments"] = ArrayAttr([ShardingAttr(Sharding(((),)))])


LAYER: dict[type[Operation], Callable[[Maker], object]] = {
    layer.WeightOp: source, layer.StateOp: source, layer.MatmulOp: matmul, layer.GroupedMatmulOp: grouped_matmul,
    layer.GatedMatmulOp: gated_matmul, layer.HeadMatmulOp: head_matmul, layer.AttentionOp: attention,
    layer.AttentionStepOp: attention_step, layer.AttentionFinishOp: attention_step, layer.EmbeddingOp: embedding,
    layer.PositionEmbeddingOp: position_embedding,
    layer.BlockScoresOp: block_indexer,
    **dict.fromkeys((layer.IndexScoresOp, layer.TopkSelectOp, layer.GatherRowsOp, layer.SparseAttentionOp), indexer),
    **dict.fromkeys((layer.CompressOp, layer.CompressedAttentionOp), compression),
    layer.RmsNormOp: rms_norm, layer.LayerNormOp: layer_norm, layer.RopeOp: rope,
    layer.AddRmsNormOp: add_rms_norm,
    layer.SiluMulOp: binary(layer.SiluMulOp), layer.ActivationOp: activation,
    layer.GatedActivationOp: gated_activation, layer.AddBiasOp: add_bias, layer.ScaleOp: scale,
    layer.SoftCapOp: scale, layer.RowGateOp: row_gate, layer.TemperatureOp: temperature,
    layer.MultiplyOp: multiply, layer.SquareSumOp: split_norm, layer.SplitRmsNormOp: split_norm,
    **dict.fromkeys(
        (layer.CopyStreamsOp, layer.StreamWeightsOp, layer.CollapseStreamsOp, layer.MixStreamsOp), hyper_connection
    ),
    **dict.fromkeys((layer.RouterWeightsOp, layer.ExpertScaleOp), experts),
    layer.AddOp: binary(layer.AddOp), layer.QuantizeOp: quantize, layer.SliceOp: slice_,
    layer.SampledTokensOp: sampled_tokens,
    layer.LastTokenOp: last_token, layer.KvAppendOp: kv_append, layer.RouterTopkOp: router,
    layer.CausalConvOp: causal_conv, layer.SsmScanOp: recurrence(layer.SsmScanOp),
    layer.GatedDeltaOp: recurrence(layer.GatedDeltaOp), layer.SoftplusOp: per_head, layer.DecayOp: per_head,
    layer.L2NormOp: norms, layer.GatedRmsNormOp: norms,
    layer.DispatchOp: experts, layer.CombineOp: experts, layer.RepeatOp: repeat, layer.YieldOp: repeat,
    layer.ProgramOp: program, layer.ReturnOp: program,
}  # fmt: skip
STRUCTURE = (layer.ProgramOp, layer.ReturnOp, layer.RepeatOp, layer.YieldOp)


# -- dist -------------------------------------------------------------------------------------------------------


def encoding(make: Maker, rank: int, partial: bool) -> ShardingAttr:
    def axes() -> tuple[str, ...]:
        return tuple(make.rng.sample(["dp", "tp", "ep"], make.rng.randint(0, 2)))

    return ShardingAttr(Sharding(tuple(axes() for _ in range(rank)), axes() if partial else ()))


def sharded(make: Maker, partial: bool = True) -> tuple[SSAValue, TensorType]:
    type_ = make.type(make.dims(2))
    whole = type_.with_encoding(encoding(make, 2, partial) if make.flag() else PartialAttr(("tp",)))
    axes = ArrayAttr([StringAttr("")] * 2)
    return make.add(layer.WeightOp, [], [whole], axes=axes).result, type_


def reshard(make: Maker) -> None:
    type_ = make.type(make.dims(2))
    before = encoding(make, 2, True)
    after = Sharding(encoding(make, 2, False).data.dims, before.data.partial[: make.rng.randint(0, 1)])
    x = make.add(layer.WeightOp, [], [type_.with_encoding(before)], axes=ArrayAttr([StringAttr("")] * 2)).result
    make.add(dist.ReshardOp, [x], [type_.with_encoding(ShardingAttr(after))])


def collective(kind: type[dist.CollectiveOp], has_dim: bool) -> Callable[[Maker], object]:
    def build(make: Maker) -> None:
        x, type_ = sharded(make)
        dim = {"dim": make.rng.randint(0, 1)} if has_dim else {}
        y = type_.with_encoding(encoding(make, 2, False))
        choice = kind.COLLECTIVE in (AllReduceAttr, AllGatherAttr, ReduceScatterAttr)
        algorithm = make.rng.choice([None, FlatRingAttr(), DirectAttr(), TwoLevelAttr.of(2)]) if choice else None
        make.add(kind, [x], [y], axis="ep", algorithm=algorithm, **dim)

    return build


def collective_group(make: Maker) -> None:
    values = [sharded(make) for _ in range(make.rng.randint(1, 3))]
    types = [type_.with_encoding(encoding(make, 2, False)) for _, type_ in values]
    summed = len({type_.element_type for _, type_ in values}) == 1  # sums of several types do not go together
    kind = make.rng.choice([AllGatherAttr, ReduceScatterAttr] if summed else [AllGatherAttr])
    algorithm = make.rng.choice([None, DirectAttr(), TwoLevelAttr.of(2)])
    of = kind.new([StringAttr("ep"), IntegerAttr(make.rng.randint(0, 1), i64)])
    make.add(dist.CollectiveGroupOp, [[x for x, _ in values]], types, collective=of, algorithm=algorithm)


def all_to_all(make: Maker) -> None:
    indices, weights = make.source(make.dims(2)), make.source(make.dims(2))
    slots = make.add(
        dist.DispatchOp, [make.source(make.dims(2)), indices], [make.type(make.dims(3))], axis="ep", capacity="worst"
    ).y
    make.add(dist.CombineOp, [slots, indices, weights], [make.type(make.dims(2))], axis="ep")


def send(make: Maker) -> None:
    make.add(dist.SendOp, [make.source(make.dims(2))], [], peer=make.size(), channel=make.size())


def recv(make: Maker) -> None:
    make.add(dist.RecvOp, [], [make.type(make.dims(2))], peer=make.size(), channel=make.size())


def dist_stage(make: Maker) -> None:
    table = [build for kind, build in DIST.items() if kind is not dist.StageOp]
    block = Block(make.nested(lambda inner: inner.some(table, 3)))
    make.add(dist.StageOp, [], [], index=make.rng.randint(0, 7), regions=[Region(block)])


DIST: dict[type[Operation], Callable[[Maker], object]] = {
    dist.ReshardOp: reshard, dist.AllReduceOp: collective(dist.AllReduceOp, False),
    dist.AllGatherOp: collective(dist.AllGatherOp, True), dist.StageOp: dist_stage,
    dist.ReduceScatterOp: collective(dist.ReduceScatterOp, True),
    dist.RingExchangeOp: collective(dist.RingExchangeOp, False), dist.CollectiveGroupOp: collective_group,
    dist.LocalSliceOp: collective(dist.LocalSliceOp, True), dist.DispatchOp: all_to_all,
    dist.CombineOp: all_to_all, dist.SendOp: send, dist.RecvOp: recv,
}  # fmt: skip


# -- tile -------------------------------------------------------------------------------------------------------


def memref(make: Maker, rank: int) -> MemRefType:
    dims = [make.size() for _ in range(rank)]
    strides = [make.size() for _ in range(rank)] if make.flag() else None
    return MemRefType.of(dims, make.element(), strides, make.rng.choice([0, 64]) if strides else 0)


def stored(make: Maker, type_: MemRefType) -> dict[str, Any]:
    """Whether an array has a layer dim, which layers it holds, and how ranks share the other dims."""
    layers, first = make.flag(), make.rng.randint(0, 3)
    part = {"first": first, "total": first + type_.dims[0] + make.rng.randint(0, 3)}
    return {
        "layers": layers,
        **(part if layers and make.flag() else {}),
        "sharding": encoding(make, len(type_.dims) - layers, False) if make.flag() else None,
    }


DRAM_ADDRESSES = count(0, 1 << 36)
"""Start addresses so far apart that no two arrays overlap."""


def array(make: Maker, rank: int = 2) -> SSAValue:
    kind, type_ = make.rng.choice(tile.ARRAY_KINDS), memref(make, rank)
    found: SSAValue = make.add(
        tile.GlobalOp, [], [type_], kind=kind, **stored(make, type_),
        address=next(DRAM_ADDRESSES) if make.flag() else None, role=make.rng.choice([None, "bias"]),
    ).result  # fmt: skip
    return found


def view(make: Maker) -> None:
    make.add(tile.ViewOp, [array(make)], [memref(make, 3)])


def random_collective(make: Maker) -> CollectiveAttr:
    kind = make.rng.choice(COLLECTIVES)
    if kind.ON_CHIP and make.flag():
        return kind.on_chip()
    fields = [IntegerAttr(make.rng.randint(0, 3), i64) for _ in kind.fields()]
    return kind.new([StringAttr(make.rng.choice(["tp", "ep"])), *fields])


def random_algorithm(make: Maker, collective: CollectiveAttr) -> AlgorithmAttr | None:
    """One that can do the collective; none is its default."""
    if not isinstance(collective.default_algorithm, FlatRingAttr):
        return collective.default_algorithm if make.flag() else None
    return make.rng.choice([None, FlatRingAttr(), DirectAttr(), TwoLevelAttr.of(2)])


def tile_collective(make: Maker) -> None:
    collective = random_collective(make)
    ins, outs = ([array(make) for _ in range(n)] for n in (collective.OPERANDS, collective.RESULTS))
    make.add(tile.CollectiveOp, [ins, outs], [], collective=collective, algorithm=random_algorithm(make, collective))


def tile_body(kind: type[Any], build: Callable[[Maker], object], **properties: Any) -> Callable[[Maker], object]:
    def body(make: Maker) -> None:
        op = make.add(kind, [], [], **properties, regions=[Region(Block())])
        op.body.block.add_ops(make.nested(build, op.defined_symbols()))

    return body


def loop(make: Maker, kind: type[Any], build: Callable[[Maker], object]) -> None:
    def body(inner: Maker) -> None:
        inner.uneven |= tile.CORE in times.symbols
        build(inner)

    times = make.expr()
    op = make.add(kind, [], [], symbol=make.rng.choice(["k", "n", "o"]), count=times, regions=[Region(Block())])
    op.body.block.add_ops(make.nested(body, op.defined_symbols()))


def tile_for(make: Maker) -> None:
    loop(make, tile.ForOp, kernel_body)


ADDRESSES = count(0, 1 << 24)
"""Start addresses so far apart that no two buffers overlap."""


def buffer(make: Maker, fewest_slots: int = 1, element: Attribute | None = None) -> SSAValue:
    type_ = BufferType.of(make.size(), make.size(), element or make.element())
    address, slots = next(ADDRESSES) if make.flag() else None, make.rng.randint(fewest_slots, 3)
    extra = make.rng.randrange(slots) or None
    found: SSAValue = make.add(tile.AllocOp, [], [type_], slots=slots, extra=extra, address=address).result
    return found


def previous(make: Maker) -> None:
    """The slot of the iteration before, in a loop of its own: a kernel has buffers that do not rotate."""

    def body(inside: Maker) -> None:
        found = buffer(inside, fewest_slots=2)
        inside.add(tile.PreviousOp, [found], [found.type])

    loop(make, tile.ForOp, body)


CORES = 64


def served(make: Maker) -> CoresAttr | None:
    """The cores of a row or of a column of a grid of cores."""
    if make.flag():
        return None
    columns = make.rng.choice([1, 2, 16, 64])
    if make.flag():
        return CoresAttr.of(floordiv(expr("core"), columns) * columns, columns)
    return CoresAttr.of(mod(expr("core"), columns), CORES // columns, columns)


def late(make: Maker) -> dict[str, Any]:
    """A store in a loop may be late."""
    return {"late": UnitAttr()} if any(s.endswith(".seq") for s in make.symbols) and make.flag() else {}


def transfer(make: Maker) -> None:
    rank = make.rng.randint(1, 3)
    kind = make.rng.choice([tile.LoadOp, tile.StoreOp])
    extra = {"serves": served(make)} if kind is tile.LoadOp else late(make)
    make.add(
        kind, [array(make, rank), buffer(make, 2)], [], offsets=make.exprs(rank), sizes=make.exprs(rank),
        row=make.expr(), column=make.expr(), **extra,
    )  # fmt: skip


def fetch(make: Maker) -> None:
    make.add(
        tile.FetchOp, [buffer(make), buffer(make)], [], core=make.expr(), from_row=make.expr(), row=make.expr(),
        rows=make.expr(), columns=make.expr(),
    )  # fmt: skip


def tile_gather(make: Maker) -> None:
    operands = [array(make), buffer(make), buffer(make)]
    axis = "tp" if make.flag() else None
    make.add(
        tile.GatherOp, operands, [], count=make.expr(), column=make.expr(), columns=make.expr(), base_axis=axis
    )  # fmt: skip


def tile_gather_rows(make: Maker) -> None:
    source = array(make)
    assert isinstance(source.type, MemRefType)
    lead = ArrayAttr([make.expr_attr() for _ in source.type.dims[:-2]])
    make.add(
        tile.GatherRowsOp, [source, buffer(make), buffer(make)], [], lead=lead, count=make.expr(),
        bandwidth_domain=make.rng.choice(BANDWIDTH_DOMAINS),
    )  # fmt: skip


def mma(make: Maker) -> None:
    e = make.element()
    operands = [buffer(make), buffer(make, element=e), buffer(make, element=e)]
    make.add(
        tile.MmaOp, operands, [], m=make.expr(), n=make.expr(), k=make.expr(),
        accumulate=make.expr(), transpose_b=make.flag(),
    )  # fmt: skip


ROLES: tuple[Role, ...] = ("in", "out", "update")

COLUMNS = expr(8)
"""Columns that every kind takes: pairs, and groups of experts."""

PARAMETERS: dict[type[VectorKindAttr], Callable[[Maker], VectorKindAttr]] = {
    FillAttr: lambda make: FillAttr(make.number()),
    LayerNormAttr: lambda make: LayerNormAttr(FloatAttr(make.rng.uniform(0, 1), 64), unit(make) or NoneAttr()),
    ReluWeightedSumAttr: lambda make: ReluWeightedSumAttr(
        IntegerAttr(make.size(), i64), FloatAttr(make.rng.uniform(0, 1), 64)
    ),
    TopkSelectAttr: lambda make: TopkSelectAttr(
        IntegerAttr(make.size(), i64), make.row_expr(), make.expr_attr(),
        IntegerAttr(make.size(), i64) if make.flag() else NoneAttr(),
    ),
    BlockMaxAttr: lambda make: BlockMaxAttr(IntegerAttr(make.size(), i64)),
    BlockRowsAttr: lambda make: BlockRowsAttr(
        IntegerAttr(make.size(), i64), IntegerAttr(make.size(), i64), make.expr_attr(), make.expr_attr()
    ),
    RmsNormAttr: lambda make: RmsNormAttr(FloatAttr(make.rng.uniform(0, 1), 64), unit(make) or NoneAttr()),
    AddRmsNormAttr: lambda make: AddRmsNormAttr(FloatAttr(make.rng.uniform(0, 1), 64), unit(make) or NoneAttr()),
    SplitRmsNormAttr: lambda make: SplitRmsNormAttr(
        FloatAttr(make.rng.uniform(0, 1), 64), IntegerAttr(make.rng.randint(1, 99), i64), unit(make) or NoneAttr()
    ),
    RmsNormalizeAttr: lambda make: RmsNormalizeAttr(FloatAttr(make.rng.uniform(0, 1), 64)),
    RopeAttr: lambda make: RopeAttr(
        FloatAttr(1e4, 64), BoolAttr.from_bool(make.flag()), make.row_expr(),
        DictionaryAttr({"factor": FloatAttr(8.0, 64)}) if make.flag() else NoneAttr(),
        IntegerAttr(make.rng.choice([2, 4, 6]), i64) if make.flag() else NoneAttr(),
        unit(make) or NoneAttr(), unit(make) or NoneAttr(),
    ),
    SoftmaxStepAttr: lambda make: make.rng.choice([
        SoftmaxStepAttr(make.number(), BoolAttr.from_bool(make.flag()), make.row_expr(), make.expr_attr()),
        SoftmaxStepAttr(
            make.number(), BoolAttr.from_bool(True), make.row_expr(), make.expr_attr(),
            alibi=IntegerAttr(make.size(), i64), head=make.row_expr(),
        ),
        SoftmaxStepAttr(
            make.number(), BoolAttr.from_bool(True), make.row_expr(), make.expr_attr(), make.row_expr(),
            FloatAttr(make.rng.uniform(1, 50), 64) if make.flag() else None,
        ),
    ]),
    RepeatRowsAttr: lambda make: RepeatRowsAttr(IntegerAttr(make.rng.randint(1, 64), i64)),
    CausalConvAttr: lambda make: CausalConvAttr(
        IntegerAttr(make.rng.randint(2, 8), i64), StringAttr(make.rng.choice(CONV_ACTIVATIONS))
    ),
    SsmStepAttr: lambda make: SsmStepAttr(*(IntegerAttr(make.size(), i64) for _ in range(3))),
    GatedDeltaStepAttr: lambda make: GatedDeltaStepAttr(
        IntegerAttr(make.size(), i64), IntegerAttr(make.size(), i64), IntegerAttr(make.size(), i64),
        IntegerAttr(1, i64), make.number(),
    ),
    DecayAttr: lambda make: DecayAttr(IntegerAttr(make.rng.choice([1, 2, 8]), i64)),
    SoftplusAttr: lambda make: SoftplusAttr(FloatAttr(0.0, 64), FloatAttr(make.rng.choice([0.5, inf]), 64)),
    L2NormAttr: lambda make: L2NormAttr(FloatAttr(make.rng.uniform(0, 1), 64)),
    GatedRmsNormAttr: lambda make: GatedRmsNormAttr(
        FloatAttr(make.rng.uniform(0, 1), 64), IntegerAttr(make.rng.choice([1, 2, 8]), i64),
        BoolAttr.from_bool(make.flag()), StringAttr(make.rng.choice(GATES)),
    ),
    SumPartsAttr: lambda make: SumPartsAttr(IntegerAttr(make.rng.randint(2, 64), i64)),
    SoftmaxMergeAttr: lambda make: SoftmaxMergeAttr(IntegerAttr(make.rng.randint(2, 64), i64)),
    RouterTopkAttr: lambda make: RouterTopkAttr(
        IntegerAttr(make.rng.randint(1, 4), i64), StringAttr(make.rng.choice(["softmax", "sigmoid", "none"])),
        IntegerAttr(2, i64), IntegerAttr(make.rng.randint(1, 2), i64), BoolAttr.from_bool(make.flag()), make.number(),
        IntegerAttr(1, i64) if make.flag() else NoneAttr(),
    ),
    ActivationAttr: lambda make: ActivationAttr(StringAttr(make.rng.choice(list(ACTIVATIONS)))),
    AddBiasAttr: lambda make: AddBiasAttr(make.expr_attr() if make.flag() else NoneAttr()),
    GatedActivationAttr: gated_kind,
    ScaleAttr: lambda make: ScaleAttr(make.number()),
    SoftCapAttr: lambda make: SoftCapAttr(FloatAttr(make.rng.choice([0.5, 30.0]), 64)),
    CopyStreamsAttr: lambda make: CopyStreamsAttr(IntegerAttr(make.size() + 1, i64)),
    StreamWeightsAttr: lambda make: StreamWeightsAttr(
        IntegerAttr(2, i64), IntegerAttr(make.size(), i64), FloatAttr(1e-6, 64)
    ),
    CollapseStreamsAttr: lambda make: CollapseStreamsAttr(*(IntegerAttr(n, i64) for n in (2, 4, 8))),
    MixStreamsAttr: lambda make: MixStreamsAttr(*(IntegerAttr(n, i64) for n in (2, 4, 8))),
    RouterWeightsAttr: lambda make: RouterWeightsAttr(
        IntegerAttr(make.rng.randint(1, 4), i64), StringAttr(make.rng.choice(list(SCORINGS))),
        BoolAttr.from_bool(make.flag()), make.number(),
    ),
    ExpertScaleAttr: lambda make: ExpertScaleAttr(IntegerAttr(8 + make.size(), i64)),
    TemperatureAttr: lambda make: TemperatureAttr(IntegerAttr(make.size(), i64), make.number(), make.row_expr()),
}  # fmt: skip
"""Kinds with parameters."""


def tile_vector(make: Maker) -> None:
    kind = make.vector_kind()
    operands = [[buffer(make) for _ in kind.operands(role)] for role in ROLES]
    make.add(tile.VectorOp, operands, [], kind=kind, rows=make.expr(), columns=COLUMNS)


def barrier(kind: type[Any]) -> Callable[[Maker], object]:
    def build(make: Maker) -> None:
        if not make.uneven:
            make.add(kind, [], [])

    return build


KERNEL: dict[type[Operation], Callable[[Maker], object]] = {
    tile.AllocOp: buffer, tile.PreviousOp: previous, tile.LoadOp: transfer, tile.StoreOp: transfer,
    tile.GatherOp: tile_gather, tile.GatherRowsOp: tile_gather_rows,
    tile.MmaOp: mma, tile.VectorOp: tile_vector, tile.FetchOp: fetch, tile.BarrierOp: barrier(tile.BarrierOp),
    tile.ForOp: tile_for,
}  # fmt: skip


def kernel_body(make: Maker) -> None:
    make.some([b for kind, b in KERNEL.items() if kind is not tile.ForOp or make.depth < 5], 3)


kernel = tile_body(tile.KernelOp, kernel_body, cores=CORES, op_name="layer.matmul")


def hand_over(make: Maker) -> None:
    """A buffer that one kernel loads for the next."""
    type_, elements = BufferType.of(make.size(), make.size(), make.element()), memref(make, 2)
    source = make.add(tile.GlobalOp, [], [elements], kind="weight", layers=False).result
    address = next(ADDRESSES) if make.flag() else None
    held = make.add(tile.AllocOp, [], [type_], slots=1, address=address).result

    def load(inner: Maker) -> None:
        offsets, sizes = (ArrayAttr([ExprAttr.of(n) for _ in range(2)]) for n in (0, 1))
        inner.add(tile.LoadOp, [source, held], [], offsets=offsets, sizes=sizes)

    def take(inner: Maker) -> None:
        own = inner.add(tile.AllocOp, [], [type_], slots=1).result
        inner.add(tile.HandedOverOp, [held, own], [type_], later=inner.expr())

    for body in (load, take):
        tile_body(tile.KernelOp, body, cores=CORES, op_name="layer.matmul")(make)


def tile_parts(make: Maker) -> None:
    make.some([array, view, tile_collective, kernel, hand_over], 3)


tile_repeat = tile_body(tile.RepeatOp, tile_parts, symbol="layer", count=3, first=1)
tile_stage = tile_body(tile.StageOp, tile_parts, index=1)


def tile_program(make: Maker) -> None:
    block = Block(
        make.nested(
            lambda inner: inner.some([array, view, tile_collective, kernel, hand_over, tile_repeat, tile_stage])
        )
    )
    op = make.add(tile.ProgramOp, [], [], sym_name=make.unique(), phase="prefill", regions=[Region(block)])
    names = make.rng.choice([(), ("a", "b"), ("w",)])
    merge = make.rng.choice(["none", "sdma", "dram"])
    slots = make.rng.randint(1, 2)
    op.attributes["tile.plan"] = PlanAttr.of([1, make.size()], [64, make.size()], "gmnk", slots, names, merge)


TILE: dict[type[Operation], Any] = {
    **KERNEL, tile.ProgramOp: tile_program, tile.GlobalOp: array, tile.ViewOp: view, tile.RepeatOp: tile_repeat,
    tile.StageOp: tile_stage, tile.KernelOp: kernel, tile.CollectiveOp: tile_collective, tile.HandedOverOp: hand_over,
}  # fmt: skip


# -- g5 ---------------------------------------------------------------------------------------------------------


def lmem(make: Maker, element: Attribute | None = None) -> g5.LmemAttr:
    return g5.LmemAttr.of(make.expr(), make.size(), element or make.element())


def dram(make: Maker) -> g5.DramAttr:
    shape, strides = (layer.ShapeAttr((expr(make.size()), expr(make.size()))) for _ in range(2))
    return g5.DramAttr(make.expr_attr(), shape, strides, make.element())


def after(make: Maker) -> g5.AfterAttr | None:
    engines = [e for e in g5.ENGINES if make.flag()]
    return g5.AfterAttr(tuple((e, make.rng.randint(0, 9)) for e in engines)) if engines else None


def g5_array(make: Maker) -> None:
    type_ = memref(make, 2)
    make.add(
        g5.ArrayOp, [], [], kind="weight", **stored(make, type_), address=next(DRAM_ADDRESSES), type=type_,
    )  # fmt: skip


def gdma(make: Maker) -> None:
    rank, direction = make.rng.randint(1, g5.GDMA_RANK), make.rng.choice(["load", "store"])
    extra = {"serves": served(make)} if direction == "load" else late(make)
    make.add(
        g5.GdmaOp, [], [], after=after(make), direction=direction, dram=make.expr(),
        lmem=make.expr(), shape=make.exprs(rank), dram_strides=make.exprs(rank), lmem_strides=make.exprs(rank),
        element_type=make.element(), **extra,
    )  # fmt: skip


def g5_fetch(make: Maker) -> None:
    make.add(
        g5.FetchOp, [], [], after=after(make), core=make.expr(), source=lmem(make), target=lmem(make),
        rows=make.expr(), columns=make.expr(),
    )  # fmt: skip


def g5_gather(make: Maker) -> None:
    make.add(
        g5.GatherOp, [], [], after=after(make), dram=make.expr(), rows=make.size(), stride=make.size(),
        index=lmem(make), lmem=lmem(make), count=make.expr(), columns=make.expr(),
        base_axis="tp" if make.flag() else None,
    )  # fmt: skip


def g5_gather_rows(make: Maker) -> None:
    make.add(
        g5.GatherRowsOp, [], [], after=after(make), dram=make.expr(), rows=make.size(), stride=make.size(),
        index=lmem(make), lmem=lmem(make), count=make.expr(), columns=make.size(),
        bandwidth_domain=make.rng.choice(BANDWIDTH_DOMAINS),
    )  # fmt: skip


def tiu(make: Maker) -> None:
    e = make.element()
    make.add(
        g5.TiuOp, [], [], after=after(make), acc=lmem(make), a=lmem(make, e), b=lmem(make, e), m=make.expr(),
        n=make.expr(), k=make.expr(), accumulate=make.expr(), transpose_b=make.flag(),
    )  # fmt: skip


def vector_command(op: type[g5.VectorCommandOp]) -> Callable[[Maker], object]:
    def build(make: Maker) -> None:
        kind = make.vector_kind([k for k in VECTOR_KINDS if k.ENGINE == op.ENGINE])
        ins, outs, updates = (ArrayAttr([lmem(make) for _ in kind.operands(role)]) for role in ROLES)
        make.add(
            op, [], [], after=after(make), kind=kind, ins=ins, outs=outs, updates=updates, rows=make.expr(),
            columns=COLUMNS,
        )  # fmt: skip

    return build


def g5_loop(make: Maker) -> None:
    loop(make, g5.LoopOp, program_body)


def queue(make: Maker) -> None:
    count = make.rng.randint(0, 20)
    kinds = [make.rng.randint(0, 2) for _ in range(count)]
    rows = np.array([[i + 1, kind, make.rng.randint(0, 2**40)] for i, kind in enumerate(kinds)], np.int64)
    table = command_table(("id", "kind:direction", "dram"), rows.reshape(count, 3))
    make.add(
        g5.QueueOp, [], [], engine="gdma", core=make.size(), paths=ArrayAttr([StringAttr("a"), StringAttr("b.c")]),
        kinds=ArrayAttr([make.vector_kind()]), table=CommandTableAttr(table.reduced() if make.flag() else table),
    )  # fmt: skip


PROGRAM: dict[type[Operation], Callable[[Maker], object]] = {
    g5.GdmaOp: gdma, g5.GatherOp: g5_gather, g5.GatherRowsOp: g5_gather_rows, g5.TiuOp: tiu, g5.FetchOp: g5_fetch,
    g5.BarrierOp: barrier(g5.BarrierOp),
    g5.VecOp: vector_command(g5.VecOp), g5.HauOp: vector_command(g5.HauOp), g5.LoopOp: g5_loop,
}  # fmt: skip


def program_body(make: Maker) -> None:
    make.some([b for kind, b in PROGRAM.items() if kind is not g5.LoopOp or make.depth < 5], 3)


def queues(make: Maker) -> None:
    make.some([queue], 2)


def g5_program(make: Maker) -> None:
    build = program_body if make.flag() else queues
    tile_body(g5.ProgramOp, build, cores=CORES, op_name="layer.add")(make)


def chip_command(kind: type[Any]) -> Callable[[Maker], object]:
    def build(make: Maker) -> None:
        collective = random_collective(make)
        while collective.leaves_chip is (kind is g5.SdmaOp):
            collective = random_collective(make)
        ins, outs = (ArrayAttr([dram(make) for _ in range(n)]) for n in (collective.OPERANDS, collective.RESULTS))
        make.add(
            kind, [], [], after=after(make), collective=collective, ins=ins, outs=outs,
            algorithm=random_algorithm(make, collective),
        )  # fmt: skip

    return build


CHIP = {g5.SdmaOp: chip_command(g5.SdmaOp), g5.CdmaOp: chip_command(g5.CdmaOp)}


def stream_parts(make: Maker) -> None:
    make.some([*CHIP.values(), g5_program], 3)


g5_repeat = tile_body(g5.RepeatOp, stream_parts, symbol="layer", count=58, first=0)
g5_stage = tile_body(g5.StageOp, stream_parts, index=0)


def stream(make: Maker) -> None:
    block = Block(make.nested(lambda inner: inner.some([g5_array, g5_repeat, g5_stage, g5_program, *CHIP.values()])))
    make.add(g5.StreamOp, [], [], sym_name=make.unique(), phase="decode", regions=[Region(block)])


G5: dict[type[Operation], Any] = {
    **PROGRAM, **CHIP, g5.StreamOp: stream, g5.ArrayOp: g5_array, g5.StageOp: g5_stage, g5.RepeatOp: g5_repeat,
    g5.ProgramOp: g5_program, g5.QueueOp: queue,
}  # fmt: skip


# -- trace ------------------------------------------------------------------------------------------------------


def trace_table(make: Maker, schema: TableSchema, count: int | None = None) -> TraceTableAttr:
    """Random rows, as far as a verifier leaves a choice."""
    rows = make.rng.randint(0, 20) if count is None else count
    return TraceTableAttr(Table.of(schema, [trace_column(make, column, rows) for column in schema.columns]))


def trace_column(make: Maker, column: Column, rows: int) -> Values:
    match column:
        case ListColumn():
            lengths = [make.rng.randint(0, 3) for _ in range(rows)]
            values = trace_column(make, column.items, sum(lengths))
            assert not isinstance(values, Lists)
            return Lists(np.cumsum([0, *lengths]), values)
        case TextColumn():
            return Texts.of([make.rng.choice(["E17", "B(12,7,3)", "it's", "", "a;b]"]) for _ in range(rows)])
        case NumberColumn():
            return np.array([make.rng.choice([0.1, -2.5e9, 1e-300]) for _ in range(rows)], np.float64)
        case EnumColumn():
            return np.array([make.rng.randrange(len(column.names)) for _ in range(rows)], np.int64)
        case _:
            return np.array([make.rng.randint(-(10**17), 10**17) for _ in range(rows)], np.int64)


def trace_logical(make: Maker) -> None:
    """Reduced tables, which are not held against each other."""
    short = {schema.kind: TraceTableAttr(trace_table(make, schema, 12).data.reduced()) for schema in LOGICAL}
    make.add(trace.LogicalOp, [], [], micro_batch=make.size(), **short)


def trace_placement(make: Maker) -> None:
    experts, tensors = (TraceTableAttr(trace_table(make, s, 12).data.reduced()) for s in (EXPERTS, TENSORS))
    make.add(trace.PlacementOp, [], [], strategy="taps", experts=experts, tensors=tensors)


def trace_overlay(make: Maker) -> None:
    migrate = trace_table(make, MIGRATE, 0)
    make.add(
        trace.OverlayOp, [], [], window=make.size(), committed="f" * 16, reroute=trace_table(make, REROUTE),
        migrate=migrate,
    )  # fmt: skip


def trace_physical(make: Maker) -> None:
    make.add(
        trace.PhysicalOp, [], [], first=0, count=make.size(), window_ns=make.size(), waiting=make.size(),
        committed="0123456789abcdef", compute_events=trace_table(make, COMPUTE_EVENTS, 0),
        memory_events=trace_table(make, MEMORY_EVENTS, 0),
    )  # fmt: skip


LOGICAL = (LOGICAL_COMPUTE, LOGICAL_MEMORY)

TRACE: dict[type[Operation], Any] = {
    trace.LogicalOp: trace_logical, trace.PlacementOp: trace_placement, trace.OverlayOp: trace_overlay,
    trace.PhysicalOp: trace_physical,
}  # fmt: skip


def whole_trace(make: Maker) -> None:
    """Each op at most once, overlays before what is committed."""
    for build in (trace_logical, trace_placement, trace_overlay, trace_physical):
        if make.flag():
            build(make)


# -- the tests --------------------------------------------------------------------------------------------------

LEVELS: dict[str, list[Callable[[Maker], object]]] = {
    "model": [llm],
    "layer": [program],
    "dist": [program, *DIST.values()],
    "tile": [tile_program],
    "g5": [stream],
    "trace": [whole_trace],
}


def random_module(rng: Random, level: str) -> ModuleOp:
    make = Maker(rng)
    for _ in range(1 if level == "trace" else rng.randint(1, 3)):
        rng.choice(LEVELS[level])(make)
    module = ModuleOp(make.ops)
    if level == "dist":
        module.attributes["dist.mesh"] = MeshAttr(
            Mesh(16, (Axis("tp", 2, 1), Axis("dp", 4, 2), Axis("ep", 8, 1), Axis("pp", 2, 8)))
        )
    return module


def check(rng: Random, level: str) -> None:
    module = random_module(rng, level)
    module.verify()
    for generic in (False, True):
        text = module_text(module, generic)
        again = parse_module(text, "printed.mlir")
        assert again.is_structurally_equivalent(module), text
        assert module_text(again, generic) == text


@pytest.mark.parametrize("level", sorted(LEVELS))
@settings(max_examples=12, deadline=None, suppress_health_check=[HealthCheck.too_slow])
@given(rng=st.randoms(use_true_random=False))
def test_a_random_module_reads_back(level: str, rng: Random) -> None:
    check(rng, level)


@pytest.mark.long
@pytest.mark.parametrize("level", sorted(LEVELS))
@settings(max_examples=600, deadline=None, suppress_health_check=[HealthCheck.too_slow])
@given(rng=st.randoms(use_true_random=False))
def test_many_random_modules_read_back(level: str, rng: Random) -> None:
    check(rng, level)


@pytest.mark.parametrize(
    ("dialect", "builders"),
    [
        (model.Model, MODEL),
        (layer.Layer, LAYER),
        (dist.Dist, DIST),
        (tile.Tile, TILE),
        (g5.G5, G5),
        (trace.Trace, TRACE),
    ],
    ids=lambda found: getattr(found, "name", None),
)
def test_every_op_of_a_dialect_has_a_builder(dialect: Any, builders: dict[type[Operation], Any]) -> None:
    assert set(dialect.operations) == set(builders)
