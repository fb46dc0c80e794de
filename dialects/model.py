"""The `model` dialect: one op is one block of the architecture, free of hardware, phase and number format.

    %y = model.ffn(%x) {intermediate_size = 14336, ..} at "blocks.dense.ffn" : !layer.tensor<[..], bf16>

Properties carry the names of the Hugging Face config.  Attention and feed-forward blocks include their
pre-norm and residual: y = x + f(norm(x)); `model.lm_head` includes the final norm.  `BlockOp.weights` lists
the parameters of a block once: the parameter counts and the expand-blocks pass both read that list.
"""

from __future__ import annotations

import math
from abc import abstractmethod
from collections.abc import Iterator
from dataclasses import dataclass
from math import prod
from typing import ClassVar

from xdsl.dialects.builtin import (
    BoolAttr,
    DictionaryAttr,
    Float32Type,
    FloatAttr,
    IntegerAttr,
    ModuleOp,
    StringAttr,
    SymbolNameConstraint,
)
from xdsl.ir import Attribute, Block, Dialect, SSAValue, TypeAttribute
from xdsl.irdl import (
    irdl_op_definition,
    operand_def,
    opt_prop_def,
    prop_def,
    region_def,
    result_def,
    traits_def,
    var_operand_def,
    var_result_def,
)
from xdsl.traits import IsolatedFromAbove, IsTerminator, NoMemoryEffect, RecursiveMemoryEffect
from xdsl.utils.exceptions import VerifyException

from pmc.dialects.assembly import PmcOp
from pmc.dialects.checkpoint import CheckpointAttr
from pmc.dialects.effects import UPDATES, Effects, HasEffects, StatedEffects
from pmc.dialects.tensor import TensorType, tensor, verify_carried

LATENT_NORM_EPS = 1e-6
"""Epsilon of MLA's latent norms: the default of DeepseekV3RMSNorm, which no field of the config sets."""

SCORINGS = ("softmax", "sigmoid")
"""What turns router logits into scores."""


@dataclass(frozen=True)
class WeightSpec:
    """A parameter of a block: its name below the block's path, its dims and the logical axis of each dim."""

    name: str
    dims: tuple[int, ...]
    axes: tuple[str, ...]
    element_type: Attribute | None = None
    """The stored element type, where it is not that of the model."""
    transpose_of: str | None = None
    """The path of the parameter that is the transpose of this one (tied embeddings): stored once."""
    role: str | None = None
    """What the parameter is, as in `layer.weight`."""

    @property
    def elements(self) -> int:
        """The number of elements."""
        return prod(self.dims)


@dataclass(frozen=True)
class CacheSpec:
    """A cache [batch, kv_len, width] of a block: its name below the block's path, the axis of its columns, its role."""

    name: str
    width: int
    axis: str
    role: str
    """What a row holds, as in `layer.state`."""


# -- structure -----------------------------------------------------------------------------------------------


@irdl_op_definition
class LlmOp(PmcOp):
    """A language model: a function from token ids [batch*q_len] to the logits of every token."""

    name = "model.llm"
    sym_name = prop_def(SymbolNameConstraint())
    architecture = prop_def(StringAttr)
    """The Hugging Face architecture class."""
    hidden_size = prop_def(IntegerAttr)
    vocab_size = prop_def(IntegerAttr)
    dtype = prop_def(TypeAttribute)
    """The element type of weights and activations."""
    body = region_def("single_block")
    traits = traits_def(IsolatedFromAbove())

    def verify_(self) -> None:
        """The body takes the token ids and ends in model.yield."""
        block = self.body.block
        if len(block.args) != 1 or not isinstance(block.last_op, YieldOp):
            raise VerifyException(
                f"model.llm at '{self.path.data}': the body must take the tokens and end in model.yield"
            )


@irdl_op_definition
class YieldOp(PmcOp):
    """The logits of a `model.llm`, or the values that a `model.repeat` iteration hands to the next one."""

    name = "model.yield"
    values = var_operand_def(TensorType)
    traits = traits_def(IsTerminator(), NoMemoryEffect())


def block_of(value: SSAValue) -> Block | None:
    """The block in which a value is an argument or a result."""
    return value.owner if isinstance(value.owner, Block) else value.owner.parent_block()


@irdl_op_definition
class RepeatOp(PmcOp):
    """`count` equal layers: block arguments are the values of the iteration, the first ones are `inits`."""

    name = "model.repeat"
    inits = var_operand_def(TensorType)
    count = prop_def(IntegerAttr)
    outs = var_result_def(TensorType)
    body = region_def("single_block")
    traits = traits_def(RecursiveMemoryEffect())

    def verify_(self) -> None:
        """At least one iteration; iteration values keep their types."""
        where = f"model.repeat at '{self.path.data}'"
        if self.trip_count < 1:
            raise VerifyException(f"{where}: count is {self.trip_count}, must be at least 1")
        block = self.body.block
        last = block.last_op
        if not isinstance(last, YieldOp):
            raise VerifyException(f"{where}: the body must end in model.yield")
        verify_carried(
            where,
            [v.type for v in self.inits],
            block_arguments=[a.type for a in block.args],
            yielded_values=[v.type for v in last.values],
            results=list(self.result_types),
        )
        for op in block.ops:
            if any(block_of(value) is not block for value in op.operands):
                raise VerifyException(
                    f"{where}: {op.name} uses a value from outside of the body, which must be one of the inits"
                )

    @property
    def trip_count(self) -> int:
        """How many layers there are."""
        return self.count.value.data


# -- blocks --------------------------------------------------------------------------------------------------


class BlockOp(PmcOp, HasEffects):
    """A block of the model, from rows of tokens to rows of tokens."""

    x = operand_def(TensorType)
    y = result_def(TensorType)
    traits = traits_def(StatedEffects())
    POSITIVE: ClassVar[tuple[str, ...]] = ()
    """Integer properties that must be at least 1."""

    @abstractmethod
    def weights(self) -> list[WeightSpec]:
        """All parameters of the block, in the order in which it uses them."""

    def caches(self) -> list[CacheSpec]:
        """The caches of the block, in the order in which it appends to them."""
        return []

    def active_parameters(self) -> int:
        """The parameters that one token is multiplied with."""
        return sum(w.elements for w in self.weights())

    @property
    def width(self) -> int:
        """The width of a row of the result."""
        return tensor(self.y).dims[-1].constant

    @property
    def dtype(self) -> Attribute:
        """The element type of the block's weights and activations."""
        return tensor(self.y).element_type

    def require(self, condition: bool, message: str) -> None:
        """Raise a verification error that names the op and its path."""
        if not condition:
            raise VerifyException(f"{self.name} at '{self.path.data}': {message}")

    def verify_(self) -> None:
        """Sizes are positive."""
        for name in self.POSITIVE:
            size = self.properties.get(name)
            if isinstance(size, IntegerAttr):
                self.require(size.value.data >= 1, f"{name} is {size.value.data}, must be at least 1")

    def require_residual(self) -> None:
        """The result of a block with a residual has the type of its input."""
        self.require(self.x.type == self.y.type, f"the result is {self.y.type}, must be as the input {self.x.type}")


@irdl_op_definition
class EmbeddingOp(BlockOp):
    """Token ids [T] to rows of the embedding table [T, hidden_size]."""

    name = "model.embedding"
    POSITIVE: ClassVar[tuple[str, ...]] = ("vocab_size",)
    vocab_size = prop_def(IntegerAttr)

    def weights(self) -> list[WeightSpec]:
        """The table."""
        return [WeightSpec("weight", (self.vocab_size.value.data, self.width), ("vocab", ""))]

    def active_parameters(self) -> int:
        """One row of the table: a token looks up, it does not multiply."""
        return self.width


@irdl_op_definition
class LmHeadOp(BlockOp):
    """Final norm and projection to the vocabulary, by the transpose of the parameter at `tied` if given."""

    name = "model.lm_head"
    rms_norm_eps = prop_def(FloatAttr)
    tied = opt_prop_def(StringAttr)

    def weights(self) -> list[WeightSpec]:
        """The norm and the projection."""
        hidden = tensor(self.x).dims[-1].constant
        tied = None if self.tied is None else self.tied.data
        return [
            WeightSpec("norm.weight", (hidden,), ("",)),
            WeightSpec("proj.weight", (hidden, self.width), ("", "vocab"), transpose_of=tied),
        ]


class AttentionBlockOp(BlockOp):
    """What all attention blocks have: query heads, rotary embedding, pre-norm, residual, a cache that they extend."""

    EFFECTS: ClassVar[Effects] = UPDATES
    num_attention_heads = prop_def(IntegerAttr)
    rope_theta = prop_def(FloatAttr)
    rope_scaling = opt_prop_def(DictionaryAttr)
    """The Hugging Face `rope_scaling` with its type under `rope_type`: `yarn` or `llama3`."""
    rms_norm_eps = prop_def(FloatAttr)

    def verify_(self) -> None:
        """Rotations turn the slower the further right a pair stands; what stretches them is positive."""
        super().verify_()
        theta = self.rope_theta.value.data
        self.require(1 < theta < math.inf, f"rope_theta is {theta}, must be a number greater than 1")
        for name, value in () if self.rope_scaling is None else self.rope_scaling.data.items():
            if isinstance(value, IntegerAttr | FloatAttr):
                number = value.value.data
                allowed = 0 < number < math.inf or (number == 0 and name.startswith("mscale"))
                self.require(allowed, f"'{name}' of rope_scaling is {number}, must be a number greater than 0")

    @property
    def heads(self) -> int:
        """The number of query heads."""
        return self.num_attention_heads.value.data


@irdl_op_definition
class GqaOp(AttentionBlockOp):
    """Grouped-query attention (MHA when every query head has its own key head, MQA when there is one)."""

    name = "model.gqa"
    POSITIVE: ClassVar[tuple[str, ...]] = ("num_attention_heads", "num_key_value_heads", "head_dim")
    num_key_value_heads = prop_def(IntegerAttr)
    head_dim = prop_def(IntegerAttr)
    qk_norm = prop_def(BoolAttr)
    """Whether queries and keys are normalised per head before the rotary embedding (Qwen3)."""

    @property
    def kv_heads(self) -> int:
        """The number of key (and value) heads."""
        return self.num_key_value_heads.value.data

    def verify_(self) -> None:
        """Key heads divide the query heads; a head has pairs of columns to rotate."""
        super().verify_()
        self.require_residual()
        self.require(
            self.heads % self.kv_heads == 0,
            f"num_attention_heads {self.heads} is not a multiple of num_key_value_heads {self.kv_heads}",
        )
        self.require(self.head_dim.value.data % 2 == 0, f"head_dim {self.head_dim.value.data} is odd")

    def weights(self) -> list[WeightSpec]:
        """Norm, q, k and v projections, optional head norms, output projection."""
        hidden, d = self.width, self.head_dim.value.data
        head_norms = [WeightSpec(f"{n}.weight", (d,), ("",)) for n in ("q_norm", "k_norm") if self.qk_norm]
        return [
            WeightSpec("norm.weight", (hidden,), ("",)),
            WeightSpec("q_proj.weight", (hidden, self.heads * d), ("", "heads")),
            WeightSpec("k_proj.weight", (hidden, self.kv_heads * d), ("", "kv_heads")),
            WeightSpec("v_proj.weight", (hidden, self.kv_heads * d), ("", "kv_heads")),
            *head_norms,
            WeightSpec("o_proj.weight", (self.heads * d, hidden), ("heads", "")),
        ]

    def caches(self) -> list[CacheSpec]:
        """The rotated keys and the values of every key head."""
        width = self.kv_heads * self.head_dim.value.data
        return [CacheSpec(name, width, "kv_heads", "key_value_heads") for name in ("k_cache", "v_cache")]


class LatentAttentionOp(AttentionBlockOp):
    """Attention over one cached latent per token (DeepSeek-V2 report, section 2.1): what MLA and DSA share."""

    POSITIVE: ClassVar[tuple[str, ...]] = (
        "num_attention_heads",
        "q_lora_rank",
        "kv_lora_rank",
        "qk_nope_head_dim",
        "qk_rope_head_dim",
        "v_head_dim",
    )
    q_lora_rank = opt_prop_def(IntegerAttr)
    """The rank of the query latent; absent when queries are projected directly."""
    kv_lora_rank = prop_def(IntegerAttr)
    qk_nope_head_dim = prop_def(IntegerAttr)
    qk_rope_head_dim = prop_def(IntegerAttr)
    v_head_dim = prop_def(IntegerAttr)
    rope_interleave = prop_def(BoolAttr)
    """Whether the rotary embedding pairs columns (2j, 2j+1), as DeepSeek checkpoints store them."""

    def verify_(self) -> None:
        """The rotary part has pairs of columns to rotate."""
        super().verify_()
        self.require_residual()
        rope = self.qk_rope_head_dim.value.data
        self.require(rope % 2 == 0, f"qk_rope_head_dim {rope} is odd")

    @property
    def head_dims(self) -> tuple[int, int, int]:
        """The widths of a head: (nope, rope, v)."""
        return (
            self.qk_nope_head_dim.value.data,
            self.qk_rope_head_dim.value.data,
            self.v_head_dim.value.data,
        )

    def weights(self) -> list[WeightSpec]:
        """Norm, query projection (direct or by a latent), KV latent and its expansion, output projection."""
        hidden, heads, rank = self.width, self.heads, self.kv_lora_rank.value.data
        nope, rope, v = self.head_dims
        queries = heads * (nope + rope)
        if self.q_lora_rank is None:
            query = [WeightSpec("q_proj.weight", (hidden, queries), ("", "heads"))]
        else:
            q_rank = self.q_lora_rank.value.data
            query = [
                WeightSpec("q_a_proj.weight", (hidden, q_rank), ("", "")),
                WeightSpec("q_a_layernorm.weight", (q_rank,), ("",)),
                WeightSpec("q_b_proj.weight", (q_rank, queries), ("", "heads")),
            ]
        return [
            WeightSpec("norm.weight", (hidden,), ("",)),
            *query,
            WeightSpec("kv_a_proj.weight", (hidden, rank + rope), ("", "")),
            WeightSpec("kv_a_layernorm.weight", (rank,), ("",)),
            WeightSpec("kv_b_proj.weight", (rank, heads * (nope + v)), ("", "heads")),
            WeightSpec("o_proj.weight", (heads * v, hidden), ("heads", "")),
        ]

    def caches(self) -> list[CacheSpec]:
        """The normalised latent and the rotated key that all heads share."""
        widths = {"c_kv_cache": self.kv_lora_rank.value.data, "k_rope_cache": self.qk_rope_head_dim.value.data}
        return [CacheSpec(name, width, "", "latent") for name, width in widths.items()]


@irdl_op_definition
class MlaOp(LatentAttentionOp):
    """Multi-head latent attention: every query sees all keys before it."""

    name = "model.mla"


@irdl_op_definition
class DsaOp(LatentAttentionOp):
    """DeepSeek sparse attention (DeepSeek-V3.2 report, section 2): MLA over the keys that an indexer selects.

    The lightning indexer scores every key for every query with `index_n_heads` small heads; the `index_topk` keys with
    the largest scores are attended to, all of them in a shorter context.  The first `qk_rope_head_dim` columns of an
    index head are rotated, in halves, whatever the layout of MLA is.
    """

    name = "model.dsa"
    POSITIVE: ClassVar[tuple[str, ...]] = (
        *LatentAttentionOp.POSITIVE,
        "index_n_heads",
        "index_head_dim",
        "index_topk",
    )
    index_n_heads = prop_def(IntegerAttr)
    index_head_dim = prop_def(IntegerAttr)
    index_topk = prop_def(IntegerAttr)

    def verify_(self) -> None:
        """The indexer reads the query latent, and rotates a part of its heads."""
        super().verify_()
        self.require(self.q_lora_rank is not None, "the indexer projects the query latent, so q_lora_rank must be set")
        rope, width = self.qk_rope_head_dim.value.data, self.index_head_dim.value.data
        self.require(rope < width, f"index_head_dim {width} must be more than the rotated qk_rope_head_dim {rope}")

    def weights(self) -> list[WeightSpec]:
        """Those of MLA, then index queries from the query latent, index keys with their norm, weights of the heads."""
        assert self.q_lora_rank is not None, "verified"
        rank, heads, d = self.q_lora_rank.value.data, self.index_n_heads.value.data, self.index_head_dim.value.data
        return [
            *super().weights(),
            WeightSpec("indexer.wq_b.weight", (rank, heads * d), ("", "index_heads")),
            WeightSpec("indexer.wk.weight", (self.width, d), ("", "")),
            WeightSpec("indexer.k_norm.weight", (d,), ("",)),
            WeightSpec("indexer.k_norm.bias", (d,), ("",), role="bias"),
            WeightSpec("indexer.weights_proj.weight", (self.width, heads), ("", "index_heads")),
        ]

    def caches(self) -> list[CacheSpec]:
        """Those of MLA and the index key that all index heads share, its rotated part by itself."""
        rope = self.qk_rope_head_dim.value.data
        widths = {"indexer.k_rope_cache": rope, "indexer.k_nope_cache": self.index_head_dim.value.data - rope}
        return [*super().caches(), *(CacheSpec(name, width, "", "index_key") for name, width in widths.items())]


def swiglu_weights(prefix: str, hidden: int, intermediate: int) -> list[WeightSpec]:
    """Gate, up and down projections of a SwiGLU feed-forward network."""
    return [
        WeightSpec(f"{prefix}gate_proj.weight", (hidden, intermediate), ("", "ffn")),
        WeightSpec(f"{prefix}up_proj.weight", (hidden, intermediate), ("", "ffn")),
        WeightSpec(f"{prefix}down_proj.weight", (intermediate, hidden), ("ffn", "")),
    ]


@irdl_op_definition
class FfnOp(BlockOp):
    """Dense SwiGLU feed-forward network."""

    name = "model.ffn"
    POSITIVE: ClassVar[tuple[str, ...]] = ("intermediate_size",)
    intermediate_size = prop_def(IntegerAttr)
    rms_norm_eps = prop_def(FloatAttr)

    def verify_(self) -> None:
        """Sizes are positive."""
        super().verify_()
        self.require_residual()

    def weights(self) -> list[WeightSpec]:
        """Norm, gate, up, down."""
        norm = WeightSpec("norm.weight", (self.width,), ("",))
        return [norm, *swiglu_weights("", self.width, self.intermediate_size.value.data)]


@irdl_op_definition
class MoeOp(BlockOp):
    """Mixture of SwiGLU experts: the routed ones of each token plus shared ones that see every token."""

    name = "model.moe"
    POSITIVE: ClassVar[tuple[str, ...]] = (
        "n_routed_experts",
        "num_experts_per_tok",
        "moe_intermediate_size",
        "n_group",
        "topk_group",
    )
    n_routed_experts = prop_def(IntegerAttr)
    n_shared_experts = prop_def(IntegerAttr)
    num_experts_per_tok = prop_def(IntegerAttr)
    moe_intermediate_size = prop_def(IntegerAttr)
    scoring = prop_def(StringAttr)
    n_group = prop_def(IntegerAttr)
    topk_group = prop_def(IntegerAttr)
    norm_topk_prob = prop_def(BoolAttr)
    routed_scaling_factor = prop_def(FloatAttr)
    correction_bias = prop_def(BoolAttr)
    """Whether experts are chosen on score + bias (`e_score_correction_bias`)."""
    rms_norm_eps = prop_def(FloatAttr)

    @property
    def experts(self) -> int:
        """The number of routed experts."""
        return self.n_routed_experts.value.data

    @property
    def top_k(self) -> int:
        """The routed experts of one token."""
        return self.num_experts_per_tok.value.data

    def verify_(self) -> None:
        """The chosen groups exist and hold enough experts."""
        super().verify_()
        self.require_residual()
        groups, top_groups = self.n_group.value.data, self.topk_group.value.data
        shared = self.n_shared_experts.value.data
        self.require(shared >= 0, f"n_shared_experts is {shared}, must be at least 0")
        self.require(
            self.scoring.data in SCORINGS,
            f"scoring is '{self.scoring.data}', must be {' or '.join(SCORINGS)}",
        )
        self.require(
            self.experts % groups == 0,
            f"n_routed_experts {self.experts} is not a multiple of n_group {groups}",
        )
        self.require(top_groups <= groups, f"topk_group {top_groups} is more than n_group {groups}")
        reachable = self.experts // groups * top_groups
        self.require(
            self.top_k <= reachable,
            f"num_experts_per_tok {self.top_k} is more than the {reachable} experts of the chosen groups",
        )

    def weights(self) -> list[WeightSpec]:
        """Norm, router, routed experts, shared experts (as one network of their joint width)."""
        hidden, experts, inner = self.width, self.experts, self.moe_intermediate_size.value.data
        router_bias = WeightSpec("router.bias", (experts,), ("",), Float32Type(), role="bias")
        bias = [router_bias] if self.correction_bias else []
        shared = self.n_shared_experts.value.data * inner
        return [
            WeightSpec("norm.weight", (hidden,), ("",)),
            WeightSpec("router.weight", (hidden, experts), ("", "")),
            *bias,
            WeightSpec("experts.gate_proj.weight", (experts, hidden, inner), ("expert", "", "expert_ffn")),
            WeightSpec("experts.up_proj.weight", (experts, hidden, inner), ("expert", "", "expert_ffn")),
            WeightSpec("experts.down_proj.weight", (experts, inner, hidden), ("expert", "expert_ffn", "")),
            *(swiglu_weights("shared.", hidden, shared) if shared else ()),
        ]

    def active_parameters(self) -> int:
        """Of the routed experts, only those that a token is sent to."""
        return sum(
            w.elements // self.experts * self.top_k if w.axes[0] == "expert" else w.elements for w in self.weights()
        )


# -- counts --------------------------------------------------------------------------------------------------


def parameter_count(module: ModuleOp) -> int:
    """The parameters of all layers of the model; tied embeddings count once, the MTP layers do not count."""
    return sum(
        count * sum(w.elements for w in block.weights() if w.transpose_of is None)
        for block, count in model_blocks(module)
    )


def active_parameter_count(module: ModuleOp) -> int:
    """The parameters that one token uses: top-k of the routed experts, one row of the embedding table."""
    return sum(count * block.active_parameters() for block, count in model_blocks(module))


def model_blocks(module: ModuleOp) -> Iterator[tuple[BlockOp, int]]:
    """Every block of the module with the number of layers it stands for."""
    for op in module.ops:
        if isinstance(op, LlmOp):
            yield from _blocks_in(op.body.block, 1)


def _blocks_in(block: Block, count: int) -> Iterator[tuple[BlockOp, int]]:
    for op in block.ops:
        if isinstance(op, RepeatOp):
            yield from _blocks_in(op.body.block, count * op.trip_count)
        elif isinstance(op, BlockOp):
            yield op, count


Model = Dialect(
    "model", [LlmOp, YieldOp, RepeatOp, EmbeddingOp, GqaOp, MlaOp, DsaOp, FfnOp, MoeOp, LmHeadOp], [CheckpointAttr]
)
